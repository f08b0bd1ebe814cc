//! Ports that count what goes through them, and change nothing of it.

use super::Meter;
use crate::http::tag;
use crate::ports::{Cloud, Replies, Store, StoreError};
use medevac_triage::{
    BootId, Change, CloudAct, Epoch, HostId, IncidentId, IncidentKind, IncidentRecord, Key, Order, Phase, Record,
    Reply, SessionId, StepId, StepRecord, StepState,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Lines of a timeline that are milestones of a recovery, by their code.
const MILESTONES: [(&str, &str); 5] = [
    ("suspect", "suspect"),
    ("condemned", "condemned"),
    ("off-ordered", "off-ordered"),
    ("proof", "proof"),
    ("start-ordered", "first-start"),
];
/// The last one: its incident is closed with this outcome.
const RECOVERED: &str = "recovered";

/// A store whose commits are timed, and whose committed records are counted.
#[allow(missing_debug_implementations)]
pub struct MeteredStore {
    inner: Box<dyn Store>,
    meter: Arc<Meter>,
    /// Lines of each incident's timeline that were counted, and whether it is closed.
    incidents: BTreeMap<IncidentId, (usize, bool)>,
    steps: BTreeMap<StepId, &'static str>,
}

impl MeteredStore {
    pub fn new(inner: Box<dyn Store>, meter: Arc<Meter>) -> Self {
        Self { inner, meter, incidents: BTreeMap::new(), steps: BTreeMap::new() }
    }

    fn committed(&mut self, change: &Change) {
        match change {
            Change::Put(_, record) => match record.as_ref() {
                Record::Incident(record) => self.incident(record),
                Record::Step(record) => self.step(record),
                _ => {}
            },
            Change::Delete(key) => self.deleted(key),
        }
    }

    fn deleted(&mut self, key: &str) {
        match key.split_once('/') {
            Some(("incident", id)) => drop(IncidentId::parse(id).and_then(|id| self.incidents.remove(&id))),
            Some(("step", id)) => drop(StepId::parse(id).and_then(|id| self.steps.remove(&id))),
            _ => {}
        }
    }

    fn incident(&mut self, record: &IncidentRecord) {
        let kind = tag(&record.kind, None);
        let before = self.incidents.insert(record.id, (lines(record), record.phase.closed()));
        if before.is_none() {
            self.meter.incidents.one(&[&kind]);
        }
        let (counted, was_closed) = before.unwrap_or_default();
        // Of a host that a person ordered off nobody waited for a sign of life.
        if matches!(record.kind, IncidentKind::HostSilent | IncidentKind::HostHung) {
            self.milestones(record, counted);
        }
        if let (Phase::Closed { outcome }, false) = (&record.phase, was_closed) {
            self.meter.closed.one(&[&kind, outcome]);
        }
    }

    /// The first line of each kind, when it is new.
    fn milestones(&self, record: &IncidentRecord, counted: usize) {
        let new = lines(record).saturating_sub(counted).min(record.timeline.len());
        let from = record.timeline.len() - new;
        let recovered = matches!(&record.phase, Phase::Closed { outcome } if outcome == RECOVERED);
        let last = recovered.then_some(("closed", RECOVERED));
        for (code, milestone) in MILESTONES.into_iter().chain(last) {
            let first = record.timeline.iter().enumerate().find(|(_, entry)| entry.code == code);
            if let Some((_, entry)) = first.filter(|(at, _)| *at >= from) {
                self.meter.since_sign.took(&[milestone], Duration::from_millis(entry.since_ms));
            }
        }
    }

    fn step(&mut self, record: &StepRecord) {
        let ended = match record.state {
            StepState::Ordered | StepState::Accepted => return,
            StepState::Done { .. } => "done",
            StepState::Refused { .. } => "refused",
            StepState::Unknown { .. } => "unknown",
        };
        if self.steps.insert(record.id, ended) != Some(ended) {
            self.meter.steps.one(&[&tag(&record.what, Some("do")), ended]);
        }
    }
}

/// Lines that a timeline has had, with those that were dropped from its middle.
fn lines(record: &IncidentRecord) -> usize {
    record.timeline.len() + usize::try_from(record.dropped).unwrap_or_default()
}

impl Store for MeteredStore {
    /// What was kept before is not counted: counters begin with the process.
    fn load(&mut self) -> Result<Vec<(Key, Record)>, StoreError> {
        let records = self.inner.load()?;
        for (_, record) in &records {
            match record {
                Record::Incident(record) => {
                    self.incidents.insert(record.id, (lines(record), record.phase.closed()));
                }
                Record::Step(StepRecord { id, state: StepState::Done { .. }, .. }) => {
                    self.steps.insert(*id, "done");
                }
                Record::Step(StepRecord { id, state: StepState::Refused { .. }, .. }) => {
                    self.steps.insert(*id, "refused");
                }
                _ => {}
            }
        }
        Ok(records)
    }

    fn commit(&mut self, epoch: &Epoch, changes: &[Change]) -> Result<(), StoreError> {
        let begun = Instant::now();
        self.inner.commit(epoch, changes)?;
        self.meter.commit.took(&[], begun.elapsed());
        changes.iter().for_each(|change| self.committed(change));
        Ok(())
    }

    fn remember_rival(&mut self, number: u64) -> Result<(), StoreError> {
        self.inner.remember_rival(number)
    }

    fn remember_fence_deadline(&mut self, longest: Duration) -> Result<(), StoreError> {
        self.inner.remember_fence_deadline(longest)
    }
}

/// A cloud whose calls are counted.
#[allow(missing_debug_implementations)]
pub struct MeteredCloud(pub Box<dyn Cloud>, pub Arc<Meter>);

impl Cloud for MeteredCloud {
    fn order(
        &mut self,
        step: StepId,
        host: &HostId,
        session: &SessionId,
        boot: &BootId,
        deadline: Duration,
        order: Order,
    ) {
        self.0.order(step, host, session, boot, deadline, order);
    }

    fn act(&mut self, act: CloudAct) {
        self.1.asked(&act);
        self.0.act(act);
    }
}

/// Operators' words, counted as they are answered.
#[allow(missing_debug_implementations)]
pub struct MeteredReplies(pub Box<dyn Replies>, pub Arc<Meter>);

impl Replies for MeteredReplies {
    fn answer(&mut self, reply: Reply) {
        self.1.words.one(&[reply.answer.as_ref().map_or_else(|refusal| refusal.name, |_| "done")]);
        self.0.answer(reply);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use medevac_metrics::{Live, Page};
    use medevac_triage::{Entry, SegmentId, StepKind, Through, Wall};

    struct Kept(Vec<(Key, Record)>);

    impl Store for Kept {
        fn load(&mut self) -> Result<Vec<(Key, Record)>, StoreError> {
            Ok(self.0.clone())
        }
        fn commit(&mut self, _: &Epoch, _: &[Change]) -> Result<(), StoreError> {
            Ok(())
        }
        fn remember_rival(&mut self, _: u64) -> Result<(), StoreError> {
            Ok(())
        }
        fn remember_fence_deadline(&mut self, _: Duration) -> Result<(), StoreError> {
            Ok(())
        }
    }

    fn metered(kept: Vec<Record>) -> (Live, MeteredStore) {
        let mut live = Live::default();
        let meter = Arc::new(Meter::new(&mut live));
        let kept = kept.into_iter().map(|record| (Key::new(), record)).collect();
        let mut store = MeteredStore::new(Box::new(Kept(kept)), meter);
        store.load().unwrap();
        (live, store)
    }

    fn put(store: &mut MeteredStore, record: Record) {
        store.commit(&Epoch::default(), &[Change::Put(Key::new(), Box::new(record))]).unwrap();
    }

    fn incident(codes: &[(&str, u64)], phase: Phase) -> IncidentRecord {
        let segment = SegmentId::from("default");
        let mut record = IncidentRecord::opened(IncidentId(1), IncidentKind::HostSilent, segment, phase, Wall(0));
        let entry = |(code, since_ms): &(&str, u64)| Entry {
            wall: Wall(0),
            since_ms: *since_ms,
            code: (*code).to_owned(),
            text: String::new(),
        };
        record.timeline = codes.iter().map(entry).collect();
        record
    }

    #[test]
    fn a_recovery_is_counted_once_with_its_milestones_however_often_it_is_written() {
        let (live, mut store) = metered(Vec::new());
        let mut codes = vec![("suspect", 1_600)];
        put(&mut store, Record::Incident(incident(&codes, Phase::Watching)));
        codes.extend([("condemned", 5_100), ("off-ordered", 5_200), ("off-ordered", 9_000)]);
        for _ in 0..3 {
            put(&mut store, Record::Incident(incident(&codes, Phase::Recovering)));
        }
        codes.extend([("proof", 9_500), ("start-ordered", 9_600), ("start-ordered", 9_700), ("closed", 14_000)]);
        let closed = Phase::Closed { outcome: "recovered".into() };
        put(&mut store, Record::Incident(incident(&codes, closed.clone())));
        put(&mut store, Record::Incident(incident(&codes, closed)));
        let text = Page::default().text(&live).unwrap();
        for line in [
            "medevac_incidents_total{kind=\"host-silent\"} 1",
            "medevac_incidents_closed_total{kind=\"host-silent\",outcome=\"recovered\"} 1",
            "medevac_since_last_sign_seconds_count{milestone=\"off-ordered\"} 1",
            "medevac_since_last_sign_seconds_sum{milestone=\"off-ordered\"} 5.2",
            "medevac_since_last_sign_seconds_sum{milestone=\"first-start\"} 9.6",
            "medevac_since_last_sign_seconds_sum{milestone=\"recovered\"} 14.0",
            "medevac_store_commit_seconds_count 6",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn what_was_kept_before_is_not_counted_again() {
        let before = incident(&[("suspect", 1_600), ("proof", 9_500)], Phase::Recovering);
        let (live, mut store) = metered(vec![Record::Incident(before.clone())]);
        put(&mut store, Record::Incident(before));
        let text = Page::default().text(&live).unwrap();
        assert!(!text.contains("medevac_incidents_total{") && !text.contains("milestone="), "{text}");
    }

    #[test]
    fn a_step_counts_when_it_ends() {
        let (live, mut store) = metered(Vec::new());
        let id = StepId { incident: IncidentId(1), step: 0 };
        let step = |state| StepRecord {
            id,
            what: StepKind::FenceOff { host: "hv1".into(), through: Through::Levels },
            state,
            deadline_ms: 1,
            precondition: String::new(),
            handle: String::new(),
        };
        put(&mut store, Record::Step(step(StepState::Ordered)));
        for _ in 0..2 {
            put(&mut store, Record::Step(step(StepState::Unknown { detail: String::new() })));
        }
        put(&mut store, Record::Step(step(StepState::Done { detail: String::new() })));
        let text = Page::default().text(&live).unwrap();
        assert!(text.contains("medevac_steps_total{step=\"fence-off\",outcome=\"unknown\"} 1\n"), "{text}");
        assert!(text.contains("medevac_steps_total{step=\"fence-off\",outcome=\"done\"} 1\n"), "{text}");
    }
}
