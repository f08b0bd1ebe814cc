//! What is counted as it passes by.

use super::names;
use crate::engine::Input;
use medevac_metrics::{Live, Tally, Timer, Within};
use medevac_triage::{CloudAct, CloudNews, Course, HostId, InstanceId, Observation, Outcome, Power, StepId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Reasons come from agents and from Nova: more different ones than the program has
/// words for are somebody's free text, and count as "other".
const REASONS_MAX: usize = 64;
/// Questions to Nova whose answer is awaited. They are answered, always; this bounds a fault.
const ASKED_MAX: usize = 20_000;

/// The counters. Whoever touches them waits for nobody.
#[derive(Debug)]
pub struct Meter {
    pub(super) incidents: Tally,
    pub(super) closed: Tally,
    pub(super) steps: Tally,
    pub(super) since_sign: Timer,
    pub(super) words: Tally,
    pub(super) commit: Timer,
    passes: Tally,
    reads: Tally,
    refusals: Tally,
    calls: Tally,
    call: Timer,
    turn: Timer,
    lag: Timer,
    reasons: Mutex<BTreeSet<String>>,
    asked: Mutex<BTreeMap<Question, (&'static str, Instant)>>,
    devices: Mutex<BTreeMap<HostId, Reading>>,
}

/// What was heard of a host's fence device.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reading {
    pub readable: bool,
    /// Seconds of wall time; 0: never.
    pub answered: f64,
}

/// What an answer of Nova's says it is the answer to.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Question {
    Step(StepId),
    Servers(HostId, u64),
    Find(InstanceId, u64),
    Follow(HostId, u64),
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Meter {
    pub fn new(live: &mut Live) -> Self {
        Self {
            incidents: live.tally(names::INCIDENTS),
            closed: live.tally(names::INCIDENTS_CLOSED),
            steps: live.tally(names::STEPS),
            since_sign: live.timer(names::SINCE_LAST_SIGN, Within::Minutes),
            words: live.tally(names::WORDS),
            commit: live.timer(names::COMMIT_TIME, Within::Milliseconds),
            passes: live.tally(names::FENCE_PASSES),
            reads: live.tally(names::POWER_READS),
            refusals: live.tally(names::REFUSALS),
            calls: live.tally(names::CLOUD_CALLS),
            call: live.timer(names::CLOUD_CALL_TIME, Within::Minutes),
            turn: live.timer(names::TURN_TIME, Within::Milliseconds),
            lag: live.timer(names::LOOP_LAG, Within::Milliseconds),
            reasons: Mutex::default(),
            asked: Mutex::default(),
            devices: Mutex::default(),
        }
    }

    /// What the loop is about to take in. Heartbeats, which are most of it, cost a comparison.
    pub fn see(&self, inputs: &[Input]) {
        for input in inputs {
            let Input::Seen(observation) = input else { continue };
            match observation {
                Observation::FenceAnswered { answer, .. } if answer.nothing_sent => self.passes.one(&["not-sent"]),
                Observation::FenceAnswered { answer, .. } => self.passes.one(&[power(answer.power)]),
                Observation::PowerRead { host, power, .. } => self.read(host, *power),
                Observation::OrderAnswered { outcome: Outcome::Refused { reason, .. }, .. } => {
                    self.refused("agent", reason);
                }
                Observation::CloudSpoke(news) => self.answered(news),
                _ => {}
            }
        }
    }

    /// The loop woke up so much later than it had to.
    pub fn late(&self, by: Duration) {
        self.lag.took(&[], by);
    }

    pub fn turned(&self, took: Duration) {
        self.turn.took(&[], took);
    }

    pub(super) fn reading(&self, host: &HostId) -> Option<Reading> {
        locked(&self.devices).get(host).copied()
    }

    fn read(&self, host: &HostId, seen: Power) {
        self.reads.one(&[power(seen)]);
        let mut devices = locked(&self.devices);
        let of = devices.entry(host.clone()).or_default();
        of.readable = seen != Power::Unknown;
        if of.readable {
            of.answered = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        }
    }

    fn refused(&self, by: &str, reason: &str) {
        let word = reason.chars().all(|c| c.is_ascii_alphanumeric() || "_- ".contains(c)) && reason.len() <= 40;
        let mut reasons = locked(&self.reasons);
        let known = reasons.contains(reason);
        if word && !reason.is_empty() && (known || reasons.len() < REASONS_MAX) {
            if !known {
                reasons.insert(reason.to_owned());
            }
            return self.refusals.one(&[by, &reason.replace(' ', "-")]);
        }
        self.refusals.one(&[by, "other"]);
    }

    /// An act is on its way to Nova.
    pub(super) fn asked(&self, act: &CloudAct) {
        let question = match act {
            CloudAct::ListServers { host, ask } => Question::Servers(host.clone(), *ask),
            CloudAct::FindServer { instance, ask } => Question::Find(instance.clone(), *ask),
            CloudAct::Follow { source, ask, .. } => Question::Follow(source.clone(), *ask),
            // Its answers are other acts'.
            CloudAct::ReadAhead { .. } => return,
            CloudAct::ForceDown { step, .. }
            | CloudAct::Unforce { step, .. }
            | CloudAct::Disable { step, .. }
            | CloudAct::Enable { step, .. }
            | CloudAct::TakeReserve { step, .. }
            | CloudAct::JoinAggregate { step, .. }
            | CloudAct::LeaveAggregate { step, .. }
            | CloudAct::Evacuate { step, .. }
            | CloudAct::Restart { step, .. } => Question::Step(*step),
        };
        let mut asked = locked(&self.asked);
        if asked.len() >= ASKED_MAX {
            asked.clear();
        }
        let name = act.name();
        asked.insert(question, (name.strip_prefix("cloud-").unwrap_or(name), Instant::now()));
    }

    fn answered(&self, news: &CloudNews) {
        let (question, answer) = match news {
            CloudNews::Services(_) | CloudNews::Aggregates(_) | CloudNews::Roster(_) | CloudNews::Trouble(_) => return,
            CloudNews::Servers { host, ask, servers } => {
                (Question::Servers(host.clone(), *ask), looked(servers.is_ok()))
            }
            CloudNews::Found { instance, ask, server } => {
                (Question::Find(instance.clone(), *ask), looked(server.is_ok()))
            }
            CloudNews::Followed { source, ask, courses } => {
                let all = courses.iter().all(|(_, course)| !matches!(course, Course::Unknown { .. }));
                (Question::Follow(source.clone(), *ask), looked(all))
            }
            CloudNews::Answered { step, outcome } => {
                if let Outcome::Refused { reason, .. } = outcome {
                    self.refused("nova", reason);
                }
                (Question::Step(*step), outcome_name(outcome))
            }
        };
        if let Some((call, at)) = locked(&self.asked).remove(&question) {
            self.calls.one(&[call, answer]);
            self.call.took(&[call], at.elapsed());
        }
    }
}

fn looked(done: bool) -> &'static str {
    if done { "done" } else { "unknown" }
}

fn outcome_name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Done { .. } => "done",
        Outcome::Refused { .. } => "refused",
        Outcome::Unknown { .. } => "unknown",
        Outcome::NotSent => "not-sent",
    }
}

fn power(power: Power) -> &'static str {
    match power {
        Power::On => "on",
        Power::Off => "off",
        Power::Unknown => "unknown",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use medevac_metrics::Page;
    use medevac_triage::IncidentId;

    fn counted(count: impl FnOnce(&Meter)) -> String {
        let mut live = Live::default();
        count(&Meter::new(&mut live));
        Page::default().text(&live).unwrap()
    }

    #[test]
    fn free_text_of_others_does_not_become_labels() {
        let text = counted(|meter| {
            meter.refused("agent", "older_epoch");
            meter.refused("nova", "too many requests");
            meter.refused("agent", "a sentence, with \"everything\" that somebody thought of");
            (0..1000).for_each(|n| meter.refused("agent", &format!("reason-{n}")));
        });
        assert!(text.contains("{by=\"agent\",reason=\"older_epoch\"} 1\n"), "{text}");
        assert!(text.contains("{by=\"nova\",reason=\"too-many-requests\"} 1\n"), "{text}");
        assert!(text.contains("{by=\"agent\",reason=\"other\"} 939\n"), "{text}");
        assert_eq!(text.matches("medevac_refusals_total{").count(), REASONS_MAX + 1);
    }

    #[test]
    fn a_call_to_nova_is_timed_from_its_act_to_its_answer() {
        let step = StepId { incident: IncidentId(1), step: 0 };
        let text = counted(|meter| {
            meter.asked(&CloudAct::ForceDown { step, host: "hv1".into() });
            let answer = CloudNews::Answered { step, outcome: Outcome::Unknown { detail: "late".into() } };
            meter.see(&[Input::Seen(Observation::CloudSpoke(answer.clone()))]);
            // Nobody asked: it is not counted twice.
            meter.see(&[Input::Seen(Observation::CloudSpoke(answer))]);
        });
        assert!(text.contains("medevac_cloud_calls_total{call=\"force-down\",answer=\"unknown\"} 1\n"), "{text}");
        assert!(text.contains("medevac_cloud_call_seconds_count{call=\"force-down\"} 1\n"), "{text}");
    }

    #[test]
    fn a_device_that_does_not_answer_keeps_the_time_of_its_last_answer() {
        let mut live = Live::default();
        let meter = Meter::new(&mut live);
        let read =
            |power| Input::Seen(Observation::PowerRead { host: "hv1".into(), read: 1, power, looks: Vec::new() });
        meter.see(&[read(Power::On)]);
        let first = meter.reading(&"hv1".into()).unwrap();
        meter.see(&[read(Power::Unknown)]);
        let second = meter.reading(&"hv1".into()).unwrap();
        assert!(first.readable && !second.readable && first.answered > 1.0);
        assert_eq!(first.answered, second.answered);
    }
}
