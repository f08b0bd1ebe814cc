//! Metrics are named once: the documents, the rules and the board say what the
//! programs serve.
//!
//! `UPDATE=1 cargo test -p medevac-tests --test metrics` writes the tables of
//! docs/metrics.md.

use medevac_agent::metrics::names as agent;
use medevac_aggregator::metrics::names as aggregator;
use medevac_metrics::{Metric, markdown, names as both};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

fn file(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(file(path)).expect("it is in the repository")
}

fn all() -> impl Iterator<Item = &'static Metric> {
    aggregator::ALL.iter().chain(agent::ALL).chain(both::ALL)
}

/// Each section of the page with the table below its head.
fn with_tables(page: &str) -> String {
    let tables = [("## The aggregator\n", aggregator::ALL), ("## The agent\n", agent::ALL), ("## Both\n", both::ALL)];
    tables.into_iter().fold(page.to_owned(), |page, (head, table)| {
        let (before, section) = page.split_once(head).expect("the section is there");
        let section = section.trim_start_matches('\n');
        let rest = section.find("\n\n").map_or("", |at| &section[at + 1..]);
        format!("{before}{head}\n{}{rest}", markdown(table))
    })
}

#[test]
fn the_tables_of_metrics_in_the_documents_are_those_in_the_code() {
    let page = read("docs/metrics.md");
    let right = with_tables(&page);
    if std::env::var("UPDATE").is_ok() {
        std::fs::write(file("docs/metrics.md"), &right).expect("it is ours to write");
    } else {
        assert!(page == right, "docs/metrics.md is not what the code serves: UPDATE=1 writes it");
    }
}

#[test]
fn no_name_is_given_twice() {
    let mut names: Vec<_> = all().map(|metric| metric.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

/// Words that begin as our metrics do.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("medevac_") || word.starts_with("process_")).collect()
}

#[test]
fn rules_and_board_name_only_what_is_served() {
    let known: BTreeMap<&str, &Metric> = all().map(|metric| (metric.name, metric)).collect();
    for path in ["packaging/prometheus/rules.yaml", "packaging/prometheus/tests.yaml", "packaging/grafana/medevac.json"]
    {
        let text = read(path);
        let names = named(&text);
        assert!(names.len() > 10, "{path}: names are looked for in the wrong way");
        for name in names {
            let of = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let histogram = of.and_then(|of| known.get(of)).is_some_and(|m| m.kind == medevac_metrics::Kind::Histogram);
            assert!(known.contains_key(name) || histogram, "{path} names {name}, which nobody serves");
        }
    }
}

/// Labels that a rule groups or selects by are labels of something that is served, or Prometheus's own.
#[test]
fn rules_and_board_use_only_labels_that_are_there() {
    let mut known: BTreeSet<&str> = all().flat_map(|metric| metric.labels).copied().collect();
    known.extend(["job", "instance", "le", "alertname", "alertstate"]);
    for path in ["packaging/prometheus/rules.yaml", "packaging/grafana/medevac.json"] {
        let text = read(path);
        let templates = ["$labels.", "{{"].map(|mark| {
            let words = text.split(mark).skip(1).filter(|rest| !rest.starts_with([' ', '$']));
            words.map(|rest| rest.split(|c: char| !c.is_ascii_lowercase() && c != '_').next().unwrap_or_default())
        });
        let grouped = text.split("by (").skip(1).filter_map(|rest| rest.split(')').next());
        let grouped = grouped.flat_map(|labels| labels.split(',').map(str::trim));
        for label in templates.into_iter().flatten().chain(grouped) {
            assert!(known.contains(label), "{path} uses the label {label:?}, which nothing has");
        }
    }
}

/// Each rule says what it means and what to do, in one command.
#[test]
fn every_rule_says_what_it_means_and_what_to_type() {
    let rules = read("packaging/prometheus/rules.yaml");
    let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    assert!(alerts.len() > 10, "{}", alerts.len());
    for alert in alerts {
        for part in ["summary: ", "meaning: ", "command: ", "severity: "] {
            assert_eq!(alert.matches(part).count(), 1, "{part} of {alert}");
        }
    }
}
