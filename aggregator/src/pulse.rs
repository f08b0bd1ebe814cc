//! Whether this process decides, for whoever must not wait for its loop to be
//! told: load balancers, health checks, the page of metrics.

use crate::desk::Desk;
use medevac_metrics::Answer;
use medevac_proto::rest::Decider;
use medevac_triage::{Epoch, Wall, millis};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The loop turns twice a second at least: one that has not for so long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(5);

/// The loop's last turn, and whose word counts.
#[derive(Debug)]
pub struct Pulse {
    epoch: Epoch,
    /// When the epoch was taken.
    since: Wall,
    desk: Arc<Desk>,
    started: Instant,
    /// Milliseconds from the start to the last turn.
    turned: AtomicU64,
}

impl Pulse {
    pub fn new(epoch: Epoch, since: Wall, desk: Arc<Desk>) -> Self {
        Self { epoch, since, desk, started: Instant::now(), turned: AtomicU64::new(0) }
    }

    /// The loop has turned.
    pub fn turned(&self) {
        self.turned.store(millis(self.started.elapsed()), Ordering::Relaxed);
    }

    pub fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// How long the loop has stood still, if it is stuck.
    fn stuck(&self) -> Option<Duration> {
        let since = millis(self.started.elapsed()).saturating_sub(self.turned.load(Ordering::Relaxed));
        Some(Duration::from_millis(since)).filter(|since| *since >= STUCK_AFTER)
    }

    /// Why it does not decide; nothing when it does.
    fn why_not(&self) -> Option<String> {
        let stuck = |for_: Duration| {
            format!("the loop has not turned for {} s: is the disk of state_dir stuck? Look at the log", for_.as_secs())
        };
        self.desk.deposed().or_else(|| self.stuck().map(stuck))
    }

    /// The process lives, and its loop turns.
    pub fn healthy(&self) -> Answer {
        match self.stuck() {
            None => Answer::well("ok"),
            Some(_) => Answer::not(self.why_not().unwrap_or_default()),
        }
    }

    /// It decides.
    pub fn ready(&self) -> Answer {
        match self.why_not() {
            None => Answer::well(format!("deciding, epoch {}", self.epoch.number)),
            Some(why) => Answer::not(format!("not deciding: {why}")),
        }
    }

    /// Who decides, as far as this process knows.
    pub fn decider(&self) -> Decider {
        let why = self.why_not();
        Decider {
            decides: why.is_none(),
            why: why.unwrap_or_default(),
            epoch: self.epoch.number,
            start: self.epoch.start.clone(),
            since_wall_ms: self.since.0,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn pulse(desk: &Arc<Desk>) -> Pulse {
        Pulse::new(Epoch { number: 7, start: "s".into() }, Wall(1), Arc::clone(desk))
    }

    #[test]
    fn a_deposed_one_is_healthy_and_not_ready() {
        let desk = Arc::new(Desk::default());
        let pulse = pulse(&desk);
        assert!(pulse.ready().well && pulse.decider().decides);
        desk.depose("hv1 obeys epoch 9");
        assert!(pulse.healthy().well);
        assert_eq!(pulse.ready(), Answer::not("not deciding: hv1 obeys epoch 9"));
        assert_eq!((pulse.decider().decides, pulse.decider().epoch), (false, 7));
    }

    #[test]
    fn a_loop_that_stands_still_is_neither_healthy_nor_ready() {
        let mut pulse = pulse(&Arc::new(Desk::default()));
        pulse.started = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
        assert!(!pulse.healthy().well && !pulse.ready().well);
        assert!(pulse.ready().text.contains("has not turned for 60 s"), "{:?}", pulse.ready());
        pulse.turned();
        assert!(pulse.healthy().well && pulse.ready().well);
    }
}
