//! One scrape: what was counted, and the state as it is now.

use super::{Meter, names};
use crate::engine::Input;
use crate::grpc::registry::{Inbox, Registry};
use crate::http::tag;
use crate::pulse::Pulse;
use medevac_metrics::{Answer, Live, Page, Source, TlsFiles};
use medevac_triage::{Coverage, Cursor, HOST_STATES, Now, Summary, Triage};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Instances that the loop counts between two turns: a tenth of a millisecond's work
/// when all is well, one or two when none of them could run elsewhere on 200 hosts.
pub const SLICE: usize = 100;
/// A loop that has not answered by then is shown as one that does not answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Who answers the port.
#[allow(missing_debug_implementations)]
pub struct Scrape {
    pub live: Live,
    pub meter: Arc<Meter>,
    pub registry: Arc<Registry>,
    pub inbox: Inbox,
    pub pulse: Arc<Pulse>,
    pub tls: Option<TlsFiles>,
}

impl Source for Scrape {
    async fn metrics(&self) -> String {
        let mut page = self.outside().await;
        let state = timeout(ANSWER_WITHIN, self.state()).await.ok().flatten();
        page.flag(names::LOOP_ANSWERS, &[], state.is_some());
        if let Some((summary, coverage)) = state {
            self.put_state(&mut page, &summary);
            put_coverage(&mut page, &coverage);
        }
        // A text takes whatever is written.
        page.text(&self.live).unwrap_or_default()
    }

    fn healthy(&self) -> Answer {
        self.pulse.healthy()
    }

    fn ready(&self) -> Answer {
        self.pulse.ready()
    }
}

impl Scrape {
    /// What is known without the loop.
    async fn outside(&self) -> Page {
        let mut page = Page::default();
        page.program("medevac-aggregator", env!("CARGO_PKG_VERSION"));
        if let Some(files) = self.tls.clone() {
            page.join(Page::of_certificates(files).await);
        }
        let epoch = self.pulse.epoch();
        page.put(names::EPOCH, &[], epoch.number as f64);
        page.put(names::SITE_INFO, &[&self.registry.shared.site, &epoch.start], 1.0);
        page.flag(names::DECIDING, &[], self.pulse.ready().well);
        page.count(names::INBOX_BOUND, &[], self.inbox.max_capacity());
        page.count(names::INBOX_DEPTH, &[], self.inbox.max_capacity() - self.inbox.capacity());
        page.count(names::SESSIONS, &[], self.registry.len());
        page.put(names::SESSIONS_OPENED, &[], self.registry.opened() as f64);
        page
    }

    /// Asks the loop; slice by slice, so that it turns in between.
    async fn state(&self) -> Option<(Summary, Coverage)> {
        let summary = self.ask(|triage, now| triage.summary(now)).await?;
        let (mut coverage, mut cursor) = (Coverage::default(), Some(Cursor::default()));
        while let Some(from) = cursor {
            (coverage, cursor) = self
                .ask(move |triage, _| {
                    let next = triage.count_instances(&from, SLICE, &mut coverage);
                    (coverage, next)
                })
                .await?;
        }
        Some((summary, coverage))
    }

    async fn ask<T: Send + 'static>(&self, question: impl FnOnce(&Triage, Now) -> T + Send + 'static) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let ask = Input::Ask(Box::new(move |triage, now| drop(answer.send(question(triage, now)))));
        self.inbox.send(ask).await.ok()?;
        answered.await.ok()
    }

    fn put_state(&self, page: &mut Page, summary: &Summary) {
        page.flag(names::SETTLING, &[], summary.settling);
        page.flag(names::PAUSED, &[], summary.paused);
        for (segment, of) in &summary.segments {
            let segment = segment.as_str();
            page.put(names::SEGMENT_MODE_INFO, &[segment, of.mode.name()], 1.0);
            page.count(names::HOSTS_HEARD, &[segment], of.heard);
            // Zeros too: an alert must not end because a series did.
            for state in HOST_STATES {
                page.count(names::HOSTS, &[segment, state], of.states.get(state).copied().unwrap_or_default());
            }
        }
        for (host, segment, reason) in &summary.lacking {
            page.put(names::HOST_UNPROTECTED, &[host.as_str(), segment.as_str(), reason], 1.0);
        }
        let mut open: BTreeMap<(String, String), usize> = BTreeMap::new();
        for (kind, phase) in &summary.incidents {
            *open.entry((tag(kind, None), tag(phase, Some("is")))).or_default() += 1;
        }
        for ((kind, phase), count) in open {
            page.count(names::INCIDENTS_OPEN, &[&kind, &phase], count);
        }
        let mut alerts: BTreeMap<&str, usize> = BTreeMap::new();
        summary.alerts.iter().for_each(|code| *alerts.entry(code).or_default() += 1);
        for (code, count) in alerts {
            page.count(names::ALERTS, &[code], count);
        }
        if let Some(usable) = summary.cloud {
            page.flag(names::CLOUD_USABLE, &[], usable);
        }
        for host in &summary.fenceable {
            let reading = self.meter.reading(host);
            page.put(names::FENCE_DEVICE_ANSWER, &[host.as_str()], reading.unwrap_or_default().answered);
            // One that was not asked yet is neither.
            if let Some(reading) = reading {
                page.flag(names::FENCE_DEVICE_READABLE, &[host.as_str()], reading.readable);
            }
        }
    }
}

fn put_coverage(page: &mut Page, coverage: &Coverage) {
    for (segment, of) in coverage {
        let segment = segment.as_str();
        page.count(names::INSTANCES, &[segment], of.all);
        page.count(names::INSTANCES_PROTECTED, &[segment], of.protected);
        for reason in medevac_triage::NOT_COVERED {
            let count = of.not.get(reason).copied().unwrap_or_default();
            page.count(names::INSTANCES_UNCOVERED, &[segment, reason], count);
        }
    }
}
