//! What is read at the moment of a scrape, and the text that is sent.

use crate::live::Live;
use crate::names;
use crate::table::{Kind, Labels, Metric};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// A local disk that takes longer hangs.
const READ_WITHIN: Duration = Duration::from_secs(1);

/// The values of one metric.
type Values = Vec<(Labels, f64)>;

/// The values of one scrape.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// By name: all of one metric stands together, as the format demands.
    values: BTreeMap<&'static str, (Metric, Values)>,
}

impl Page {
    /// One value; of several with the same labels all would be sent, so each is put once.
    pub fn put(&mut self, metric: Metric, labels: &[&str], value: f64) {
        let of = self.values.entry(metric.name).or_insert_with(|| (metric, Vec::new()));
        of.1.push((metric.labelled(labels), value));
    }

    pub fn count(&mut self, metric: Metric, labels: &[&str], count: usize) {
        self.put(metric, labels, count as f64);
    }

    pub fn flag(&mut self, metric: Metric, labels: &[&str], is: bool) {
        self.put(metric, labels, f64::from(u8::from(is)));
    }

    /// Which program this is, and what the kernel says of it.
    pub fn program(&mut self, program: &str, version: &str) {
        self.put(names::BUILD_INFO, &[program, version], 1.0);
        crate::process::put(self);
    }

    /// When the certificates expire, by the names of their keys. They are on a local disk: one
    /// that hangs holds up no scrape, and one that cannot be read has no date.
    pub async fn of_certificates(files: crate::TlsFiles) -> Page {
        let read = tokio::task::spawn_blocking(move || {
            let mut page = Page::default();
            for (key, path) in [("ca", &files.ca), ("cert", &files.cert)] {
                if let Some(expiry) = crate::certificates::expiry(path) {
                    page.put(names::CERTIFICATE_EXPIRY, &[key], expiry);
                }
            }
            page
        });
        tokio::time::timeout(READ_WITHIN, read).await.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// Takes the values of another one; no metric is on both.
    pub fn join(&mut self, other: Page) {
        self.values.extend(other.values);
    }

    /// Names of all that is on it.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.values.keys().copied()
    }

    /// In OpenMetrics.
    ///
    /// # Errors
    /// None in practice: a text takes whatever is written.
    pub fn text(self, live: &Live) -> Result<String, fmt::Error> {
        let mut out = String::new();
        let mut read = Registry::default();
        read.register_collector(Box::new(self));
        text::encode_registry(&mut out, &live.registry)?;
        text::encode_registry(&mut out, &read)?;
        text::encode_eof(&mut out)?;
        Ok(tidied(&out))
    }
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        for (metric, values) in self.values.values() {
            let gauge = ConstGauge::new(0.0);
            let counter = ConstCounter::new(0.0);
            let kind = if metric.kind == Kind::Counter { counter.metric_type() } else { gauge.metric_type() };
            let mut family = encoder.encode_descriptor(metric.base(), &format!("{}.", metric.help), None, kind)?;
            for (labels, value) in values {
                let one = family.encode_family(labels)?;
                match metric.kind {
                    Kind::Counter => ConstCounter::new(*value).encode(one)?,
                    Kind::Gauge | Kind::Histogram => ConstGauge::new(*value).encode(one)?,
                }
            }
        }
        Ok(())
    }
}

/// Without the empty braces of series that have no labels.
fn tidied(text: &str) -> String {
    let plain = |name: &str| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    let line = |line: &str| match line.split_once("{} ") {
        Some((name, value)) if plain(name) => format!("{name} {value}\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

/// The same in the older text format, in which a counter is described by its full name.
pub(crate) fn older(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 256);
    let mut help = None;
    for line in text.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            help = described.split_once(' ');
            continue;
        }
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|typed| typed.split_once(' ')) {
            let end = if kind == "counter" { "_total" } else { "" };
            let words = help.take().filter(|(of, _)| *of == name).map_or("", |(_, words)| words);
            out += &format!("# HELP {name}{end} {words}\n# TYPE {name}{end} {kind}\n");
        } else if !line.starts_with('#') {
            out += line;
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::table! {
        HOSTS = Gauge "medevac_hosts" ["state"] "Hosts by state";
        SPENT = Counter "process_cpu_seconds_total" [] "CPU time";
        WORDS = Counter "medevac_words_total" ["result"] "Words of operators";
        TURN = Histogram "medevac_loop_turn_seconds" [] "Turns";
    }

    fn written() -> String {
        let mut live = Live::default();
        live.tally(WORDS).one(&["done"]);
        live.timer(TURN, crate::Within::Milliseconds).took(&[], std::time::Duration::from_millis(3));
        let mut page = Page::default();
        page.count(HOSTS, &["heard"], 2);
        page.put(SPENT, &[], 1.5);
        page.count(HOSTS, &["a \"quoted\"\nname"], 1);
        page.text(&live).unwrap()
    }

    #[test]
    fn a_page_is_open_metrics() {
        let text = written();
        for line in [
            "# TYPE medevac_words counter",
            "medevac_words_total{result=\"done\"} 1",
            "medevac_loop_turn_seconds_bucket{le=\"0.005\"} 1",
            "# HELP medevac_hosts Hosts by state.",
            "medevac_hosts{state=\"heard\"} 2",
            "medevac_hosts{state=\"a \\\"quoted\\\"\\nname\"} 1",
            "medevac_loop_turn_seconds_count 1",
            "process_cpu_seconds_total 1.5",
        ] {
            assert!(text.lines().any(|l| l.starts_with(line)), "{line} is missing in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn the_older_format_describes_a_counter_by_its_full_name() {
        let text = older(&written());
        assert!(text.contains("# HELP medevac_words_total Words of operators.\n# TYPE medevac_words_total counter\n"));
        assert!(text.contains("# TYPE process_cpu_seconds_total counter\n"), "{text}");
        assert!(text.contains("# TYPE medevac_hosts gauge\n") && !text.contains("EOF"), "{text}");
        assert_eq!(ALL.len(), 4);
    }
}
