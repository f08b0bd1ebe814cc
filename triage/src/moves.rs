//! What becomes of evacuations that Nova was asked for.
//!
//! ```text
//!   Ordered --answer--> Accepted --Nova: done--> the server runs elsewhere
//!      |                   ^  \--failed, given up--> refused: tried again, or a person's
//!      +--answer lost--> Unknown --no trace for a minute--> it never left
//! ```

use crate::Triage;
use crate::cloud::{Course, Move, TOO_MANY, WINDOW_FIRST, WINDOW_MAX};
use crate::evacuation::NOT_SENT;
use crate::id::{HostId, IncidentId, InstanceId, StepId};
use crate::observation::{Outcome, RunState, StopReason};
use crate::record::{Home, HomeWhy, OutcomeState, StepKind, StepRecord, StepState};
use crate::service::TRY_AGAIN;
use std::collections::BTreeSet;
use std::time::Duration;

/// Nova is asked how far evacuations are this often: one question for all of a host.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);
/// An evacuation whose answer was lost and of which Nova has shown no trace for
/// this long never came: Nova notes it before it does anything, and no proxy
/// holds a request for so long.
const UNSEEN_FOR: Duration = Duration::from_secs(60);
/// Names of evacuations kept with a server: the newest are what a lost answer is told from.
const REQUESTS_KEPT: usize = 4;

impl Triage {
    pub(crate) fn evacuation_answered(&mut self, step: &StepRecord, instance: &InstanceId, outcome: Outcome) {
        if step.state != StepState::Ordered {
            return;
        }
        let id = step.id.incident;
        match outcome {
            Outcome::Done { detail } => self.taken_up(step.id, instance, detail),
            Outcome::Refused { reason, detail } if reason == TOO_MANY => {
                self.narrow();
                self.evacuation_failed(step, instance, format!("{NOT_SENT}: {detail}"));
            }
            Outcome::Refused { reason, detail } => {
                self.evacuation_failed(step, instance, format!("{reason}: {detail}"))
            }
            Outcome::NotSent => self.evacuation_failed(step, instance, NOT_SENT.to_owned()),
            Outcome::Unknown { detail } => {
                self.narrow();
                self.log(id, "unknown", format!("{instance}: nobody knows whether Nova took the evacuation: {detail}"));
                self.settle_step(step.id, StepState::Unknown { detail });
            }
        }
    }

    /// Asks about every evacuation that Nova may have.
    pub(crate) fn follow_moves(&mut self, id: IncidentId, source: &HostId) {
        let moves: Vec<Move> = self
            .durable
            .steps_of(id)
            .into_iter()
            .filter_map(|step| {
                let StepKind::Evacuate { instance, .. } = &step.what else { return None };
                // Of an earlier start of ours: its answer will never come.
                let orphaned = step.state == StepState::Ordered && !self.step_until.contains_key(&step.id);
                let open = orphaned || matches!(step.state, StepState::Accepted | StepState::Unknown { .. });
                let others = self.other_requests(&step, instance);
                let abandoned = self.durable.instances.get(instance).map(|record| record.abandoned.clone());
                let (id, instance, abandoned) = (step.id, instance.clone(), abandoned.unwrap_or_default());
                let doubted = self.takes_too_long(id) || self.its_destination_rebooted(id);
                open.then_some(Move { step: id, instance, request: step.handle, others, doubted, abandoned })
            })
            .collect();
        self.follow(source, moves, FOLLOW_EVERY);
    }

    /// Nova's names for the other tries with this server: an answer that was
    /// lost belongs to none of them.
    fn other_requests(&self, step: &StepRecord, instance: &InstanceId) -> BTreeSet<String> {
        let known = self.durable.instances.get(instance).map(|record| record.evacuations.as_slice());
        known.unwrap_or_default().iter().filter(|request| **request != step.handle).cloned().collect()
    }

    /// Nova works on it, under this name.
    fn taken_up(&mut self, step: StepId, instance: &InstanceId, request: String) {
        self.settle_step(step, StepState::Accepted);
        if let Some(record) = self.durable.instances.edit(instance)
            && !record.evacuations.contains(&request)
        {
            record.evacuations.push(request.clone());
            let excess = record.evacuations.len().saturating_sub(REQUESTS_KEPT);
            record.evacuations.drain(..excess);
        }
        if let Some(record) = self.durable.steps.edit(&step) {
            record.handle = request;
        }
    }

    pub(crate) fn take_course(&mut self, id: StepId, course: Course) {
        let Some(step) = self.durable.steps.get(&id).cloned() else { return };
        let StepKind::Evacuate { instance, .. } = &step.what else { return };
        let open = matches!(step.state, StepState::Ordered | StepState::Accepted | StepState::Unknown { .. });
        if !open {
            return;
        }
        self.work(id.incident).restless = true;
        match course {
            Course::Unknown { .. } => {
                self.sight.unseen.remove(&id);
            }
            Course::UnderWay { request, to } => {
                self.sight.unseen.remove(&id);
                if step.handle != request {
                    self.taken_up(id, instance, request);
                }
                self.still_under_way(&step, instance, to);
            }
            Course::Idle { request, migration } => {
                self.taken_up(id, instance, request);
                let why = "Nova calls the server broken, and nobody works on it any more";
                self.abandon(&step, instance, migration, why.to_owned());
            }
            Course::Done { request, host, left } => {
                self.taken_up(id, instance, request);
                self.leave_open(instance, left);
                self.evacuated(&step, instance, &host);
            }
            Course::Failed { request, why, left } => {
                self.taken_up(id, instance, request);
                self.leave_open(instance, left);
                self.narrow();
                self.evacuation_failed(&step, instance, why);
            }
            Course::Deleted => {
                self.settle_step(id, StepState::Done { detail: "its owner deleted it meanwhile".to_owned() });
                self.end_move(instance);
                self.was_deleted(instance);
                if let Some(record) = self.durable.instances.get(instance).cloned() {
                    let text = "its owner deleted it during its evacuation";
                    self.tell_outcome(id.incident, &record, OutcomeState::Skipped, None, text);
                }
            }
            Course::Unseen => self.unseen(&step, instance),
        }
    }

    /// Nova may call it under way for ever: whoever worked on it can be dead.
    fn still_under_way(&mut self, step: &StepRecord, instance: &InstanceId, to: Option<(HostId, i64)>) {
        let now = self.now.at;
        let boot = to.as_ref().and_then(|(host, _)| Some((host.clone(), self.host(host)?.boots.last()?.clone())));
        let known = self.sight.under_way.entry(step.id).or_insert((now, None));
        known.1 = known.1.take().or(boot);
        // Its request may still lie in a queue: that it is over is for Nova or a person to say.
        let stuck = to.as_ref().is_some_and(|(host, _)| self.is_gone(host)) || self.takes_too_long(step.id);
        if stuck && let Some(record) = self.durable.instances.get(instance).cloned() {
            let at = to.map_or_else(
                || "nova-conductor".to_owned(),
                |(host, _)| format!("nova-compute on {host}, if that lives"),
            );
            let text = format!(
                "Nova has shown no end of its evacuation; see the log of {at}. Certain that it is over? openstack server set --state error {instance}"
            );
            self.tell_outcome(step.id.incident, &record, OutcomeState::Waiting, None, &text);
        }
    }

    fn takes_too_long(&self, step: StepId) -> bool {
        let since = self.sight.under_way.get(&step).map(|(since, _)| *since);
        since.is_some_and(|since| self.now.at.since(since) >= self.settings.evacuation_deadline)
    }

    /// Nova calls what it had in hand then broken, once its nova-compute is back.
    fn its_destination_rebooted(&self, step: StepId) -> bool {
        let to = self.sight.under_way.get(&step).and_then(|(_, to)| to.as_ref());
        to.is_some_and(|(host, boot)| self.host(host).is_some_and(|record| record.boots.last() != Some(boot)))
    }

    /// Its newest boot is proven dead: nothing that it had begun will end.
    pub(crate) fn is_gone(&self, host: &HostId) -> bool {
        let newest = self.host(host).and_then(|record| record.boots.last());
        newest.is_some_and(|boot| self.is_dead(host, boot)) && !self.streams(host)
    }

    /// A server is on its way once more while the request of an earlier try may lie in some queue.
    pub(crate) fn a_move_was_abandoned(&self) -> bool {
        self.durable.instances.iter().any(|record| record.moving.is_some() && !record.abandoned.is_empty())
    }

    /// It is over, whatever Nova's record says.
    fn abandon(&mut self, step: &StepRecord, instance: &InstanceId, migration: i64, why: String) {
        self.leave_open(instance, Some(migration));
        self.evacuation_failed(step, instance, why);
    }

    /// A record of Nova's that stays open although what it was made for is over.
    fn leave_open(&mut self, instance: &InstanceId, migration: Option<i64>) {
        if let (Some(record), Some(migration)) = (self.durable.instances.edit(instance), migration) {
            record.abandoned.insert(migration);
            while record.abandoned.len() > REQUESTS_KEPT {
                record.abandoned.pop_first();
            }
        }
    }

    /// No trace of it: over only when it could no longer be on its way.
    fn unseen(&mut self, step: &StepRecord, instance: &InstanceId) {
        if matches!(step.state, StepState::Accepted) {
            return;
        }
        let now = self.now.at;
        let since = *self.sight.unseen.entry(step.id).or_insert(now);
        if now.since(since) >= UNSEEN_FOR {
            self.evacuation_failed(step, instance, format!("{NOT_SENT}: Nova has never seen it"));
        }
    }

    fn evacuated(&mut self, step: &StepRecord, instance: &InstanceId, host: &HostId) {
        let id = step.id.incident;
        self.settle_step(step.id, StepState::Done { detail: format!("on {host}") });
        self.end_move(instance);
        self.sight.window = Some((self.sight.window.unwrap_or(WINDOW_FIRST) + 1).min(WINDOW_MAX));
        let boot = self.host(host).and_then(|record| record.boots.last()).cloned();
        let Some(mut record) = self.durable.instances.get(instance).cloned() else { return };
        let ran = record.wanted;
        record.last_host = host.clone();
        record.last_state = if ran { RunState::Running } else { RunState::Stopped };
        record.last_stop = StopReason::Pending;
        record.recover_word = None;
        record.moved_to = Some(host.clone());
        if let (true, Some(boot)) = (ran, boot) {
            record.homes.insert(host.clone(), Home { boot, why: HomeWhy::Shown, incoming: false });
        }
        self.durable.index(&record);
        self.durable.instances.put(record.clone());
        let text = if ran { format!("active on {host}") } else { format!("on {host}, stopped as it was") };
        let text = format!("{text}{}", self.made_anew(&step.what));
        self.tell_outcome(id, &record, OutcomeState::Recovered, Some(host.clone()), &text);
        self.note("MDV-RECOVERED", false, format!("{id}: {} is {text}", record.name));
    }

    /// Nobody is to find out by themselves that what was on a disk is gone.
    fn made_anew(&self, what: &StepKind) -> String {
        let StepKind::Evacuate { instance, anew: Some(disk), .. } = what else { return String::new() };
        let has_image = self.sight.roster.get(instance).is_none_or(|server| !server.image.id.is_empty());
        let from = if has_image { "from the image" } else { "and is empty" };
        format!("; its local disk was made anew {from} ({disk})")
    }

    fn evacuation_failed(&mut self, step: &StepRecord, instance: &InstanceId, why: String) {
        let id = step.id.incident;
        self.settle_step(step.id, StepState::Refused { reason: why.clone() });
        self.end_move(instance);
        let now = self.now.at;
        self.sight.again.insert(instance.clone(), now.plus(TRY_AGAIN));
        // Whatever made it fail may show in a fresh list and in fresh inventories.
        self.work(id).fresh_from = now;
        if let Some(record) = self.durable.instances.get(instance).cloned() {
            self.tell_outcome(id, &record, OutcomeState::Planned, None, &format!("not evacuated: {why}"));
        }
    }

    fn end_move(&mut self, instance: &InstanceId) {
        let ended = self.durable.instances.edit(instance).and_then(|record| record.moving.take());
        if let Some(step) = ended {
            self.sight.unseen.remove(&step);
            self.sight.under_way.remove(&step);
        }
    }

    /// Nova is pushed less after whatever looks like too much.
    fn narrow(&mut self) {
        let window = self.sight.window.unwrap_or(WINDOW_FIRST);
        self.sight.window = Some((window / 2).max(1));
    }
}
