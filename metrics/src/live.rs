//! Numbers counted where things happen: atomics, no lock that anybody waits for
//! longer than it takes to find a counter.

use crate::table::{Labels, Metric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::time::Duration;

/// Buckets for what should take milliseconds, up to what should never be.
const QUICK: [f64; 13] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
/// Buckets for a recovery: from a late heartbeat to what waits for a person.
const SLOW: [f64; 14] = [1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0];

/// How long something takes when all is well.
#[derive(Clone, Copy, Debug)]
pub enum Within {
    Milliseconds,
    Minutes,
}

/// Everything that is counted as it happens.
#[derive(Debug, Default)]
pub struct Live {
    pub(crate) registry: Registry,
}

impl Live {
    pub fn tally(&mut self, metric: Metric) -> Tally {
        let family = Family::default();
        self.registry.register(metric.base(), metric.help, family.clone());
        Tally { metric, family }
    }

    pub fn timer(&mut self, metric: Metric, within: Within) -> Timer {
        let make: fn() -> Histogram = match within {
            Within::Milliseconds => || Histogram::new(QUICK),
            Within::Minutes => || Histogram::new(SLOW),
        };
        let family = Family::new_with_constructor(make);
        self.registry.register(metric.base(), metric.help, family.clone());
        Timer { metric, family }
    }
}

/// A counter, by its labels.
#[derive(Clone, Debug)]
pub struct Tally {
    metric: Metric,
    family: Family<Labels, Counter>,
}

impl Tally {
    pub fn one(&self, labels: &[&str]) {
        self.add(labels, 1);
    }

    pub fn add(&self, labels: &[&str], count: u64) {
        self.family.get_or_create(&self.metric.labelled(labels)).inc_by(count);
    }
}

/// A histogram, by its labels.
#[derive(Clone, Debug)]
pub struct Timer {
    metric: Metric,
    family: Family<Labels, Histogram, fn() -> Histogram>,
}

impl Timer {
    pub fn took(&self, labels: &[&str], time: Duration) {
        self.family.get_or_create(&self.metric.labelled(labels)).observe(time.as_secs_f64());
    }
}
