//! Guests that end. A death is a durable incident at once, its cause pending;
//! it is judged when libvirt has told the reason.
//!
//! ```text
//!   gone --> CausePending --shut down, destroyed, saved, migrated--> closed, stays down
//!                 |  crashed, signalled
//!                 v
//!            BackingOff --> Recovering (at home first) --> closed, runs again
//! ```

use crate::Triage;
use crate::command::Command;
use crate::homes::ended_on_purpose;
use crate::id::{BootId, HostId, InstanceId, SessionId};
use crate::incident::Opening;
use crate::observation::{Fact, RunState, StopReason};
use crate::record::{IncidentKind, IncidentRecord, InstanceRecord, Mode, OutcomeState, Phase};
use crate::time::shown;
use std::time::Duration;

/// A guest ended by a signal may be the first sign that its host shuts down:
/// the goodbye is awaited this long.
const GOODBYE_FOLLOWS: Duration = Duration::from_secs(5);
/// How agents call the sense that sees guests' definitions.
const LIBVIRT: &str = "libvirt";
/// A guest that ran for this long starts with a clean slate.
const RESTARTS_FORGOTTEN: Duration = Duration::from_secs(600);
/// Seen alive in two places for this long: no handover looks so.
const TWO_COPIES_AFTER: Duration = Duration::from_secs(3);

impl Triage {
    pub(crate) fn take_fact(&mut self, host: &HostId, session: &SessionId, boot: &BootId, seq: u64, fact: Fact) {
        let acknowledge =
            Command::Acknowledge { host: host.clone(), session: session.clone(), boot: boot.clone(), seq };
        self.command(acknowledge);
        let Some(record) = self.durable.hosts.edit(host) else { return };
        if record.boots.last() != Some(boot) {
            return; // Another boot's: history.
        }
        if seq <= record.acked_seq {
            return; // Sent again because the acknowledgement was lost.
        }
        record.acked_seq = seq;
        match fact {
            Fact::InstanceGone { instance, pid, pid_start } => {
                self.instance_gone(host, boot, &instance, (pid, pid_start))
            }
            Fact::InstanceStopped { instance, reason, pid, pid_start, host_shutting_down } => {
                self.instance_stopped(host, &instance, reason, (pid, pid_start), host_shutting_down);
            }
            Fact::InstanceStarted { .. } => {}
            Fact::SightLost { of, why } => {
                self.libvirt_seen(host, &of, false);
                self.note("MDV-SIGHT-LOST", true, format!("{host} no longer sees {of}: {why}"));
            }
            Fact::SightRegained { of } => {
                self.libvirt_seen(host, &of, true);
                self.note("MDV-SIGHT-REGAINED", false, format!("{host} sees {of} again"));
            }
            Fact::Lost { first, last, why } => {
                let text = format!("{host} had to drop its facts {first} to {last}: {why}");
                let opening = Opening {
                    kind: IncidentKind::FactsLost,
                    host: Some(host.clone()),
                    boot: Some(boot.clone()),
                    instance: None,
                };
                let id = self.open_incident(opening, Phase::Watching);
                self.log(id, "lost", text.clone());
                self.note("MDV-FACTS-LOST", true, text);
                self.close(id, "counted", "the newest state was shown since".to_owned());
            }
        }
    }

    /// What follows in the same breath is judged by it: a guest that died with libvirt starts at home.
    fn libvirt_seen(&mut self, host: &HostId, of: &str, answers: bool) {
        let live = self.watches.get_mut(host).and_then(|watch| watch.session.as_mut());
        if let Some(live) = live.filter(|_| of == LIBVIRT) {
            live.libvirt_answers = answers;
        }
    }

    /// Whether a fact is about the QEMU that the host shows, or showed last.
    fn is_incarnation(&self, host: &HostId, instance: &InstanceId, process: (i64, u64)) -> bool {
        let stock = self.watches.get(host).and_then(|watch| watch.inventory.as_ref());
        let shown = stock.and_then(|stock| stock.inventory.instances.get(instance));
        shown.is_none_or(|shown| process.0 == 0 || !shown.state.lives() || (shown.pid, shown.pid_start) == process)
    }

    fn instance_gone(&mut self, host: &HostId, boot: &BootId, instance: &InstanceId, process: (i64, u64)) {
        let Some(record) = self.durable.instances.get(instance).cloned() else { return };
        let ours = record.last_host == *host && self.is_protected(&record) && record.wanted;
        if !ours || !self.is_incarnation(host, instance, process) || self.in_hand(instance) {
            return;
        }
        self.open_gone(&record, host, boot, "its QEMU is gone; the cause is pending");
        self.look_at.insert(instance.clone());
    }

    fn open_gone(&mut self, record: &InstanceRecord, host: &HostId, boot: &BootId, text: &str) -> crate::IncidentId {
        let opening = Opening {
            kind: IncidentKind::InstanceGone,
            host: Some(host.clone()),
            boot: Some(boot.clone()),
            instance: Some(record.id.clone()),
        };
        let id = self.open_incident(opening, Phase::CausePending);
        self.log(id, "gone", format!("{} on {host}: {text}", record.name));
        let forgotten = self.restarted.get(&record.id).is_none_or(|at| self.now.at.since(*at) > RESTARTS_FORGOTTEN);
        if forgotten
            && self.now.at.since(self.started) > RESTARTS_FORGOTTEN
            && let Some(record) = self.durable.instances.edit(&record.id)
        {
            record.restarts = 0;
        }
        id
    }

    fn instance_stopped(
        &mut self,
        host: &HostId,
        id: &InstanceId,
        reason: StopReason,
        process: (i64, u64),
        going: bool,
    ) {
        if !self.is_incarnation(host, id, process) {
            return;
        }
        let Some(record) = self.durable.instances.edit(id) else { return };
        if record.last_host != *host || going {
            return; // The host's own goodbye will say what ran.
        }
        record.last_stop = reason;
        if ended_on_purpose(reason) {
            record.wanted = false;
        }
        self.look_at.insert(id.clone());
    }

    /// Looks again at fallen guests and at those shown in two places. Level, not
    /// edge: an event that was lost is made good by the inventory.
    pub(crate) fn review_instances(&mut self) {
        for id in std::mem::take(&mut self.look_at) {
            let Some(record) = self.durable.instances.get(&id).cloned() else { continue };
            let twice = self.look_for_two_copies(&record);
            let fallen = self.look_at_fallen(&record);
            if twice || fallen {
                self.look_at.insert(id);
            }
        }
    }

    /// `true` while it must be looked at again.
    fn look_at_fallen(&mut self, record: &InstanceRecord) -> bool {
        if !record.wanted || record.last_state.lives() {
            return false;
        }
        let host = record.last_host.clone();
        let crashed = matches!(record.last_stop, StopReason::Crashed | StopReason::Signalled | StopReason::Panicked);
        let lost = self.lost_with_boot(record);
        let idle = self.lives_nowhere(record) && self.streams(&host) && !self.in_hand(&record.id);
        if (crashed || lost) && idle && self.is_protected(record) && self.host_incident(&host).is_none() {
            let boot = self.host(&host).and_then(|host| host.boots.last()).cloned().unwrap_or_default();
            self.open_gone(record, &host, &boot, "it was found stopped");
        }
        true
    }

    /// The boot that ran it is over, so nothing else will tell why it ended.
    fn lost_with_boot(&self, record: &InstanceRecord) -> bool {
        let Some((host, boot)) = &record.lived_in else { return false };
        let busy = |host: &HostId| self.host_incident(host).is_some() || !self.hold_is_over(host);
        record.last_stop == StopReason::Pending && self.is_dead(host, boot) && !busy(host) && !busy(&record.last_host)
    }

    fn look_for_two_copies(&mut self, record: &InstanceRecord) -> bool {
        let alive = self.shown_alive_on(&record.id);
        if alive.len() < 2 {
            self.doubles.remove(&record.id);
            return record.homes.len() > 1;
        }
        let now = self.now.at;
        let since = *self.doubles.entry(record.id.clone()).or_insert(now);
        if now.since(since) >= TWO_COPIES_AFTER {
            let opening =
                Opening { kind: IncidentKind::TwoCopies, host: None, boot: None, instance: Some(record.id.clone()) };
            let id = self.open_incident(opening, Phase::Watching);
            if self.incident(id).is_some_and(|incident| incident.timeline.is_empty()) {
                let on: Vec<&str> = alive.iter().map(HostId::as_str).collect();
                let text =
                    format!("{} is alive on {}: nothing is done about it automatically", record.name, on.join(" and "));
                self.log(id, "two-copies", text.clone());
                self.note("MDV-TWO-COPIES", true, text);
            }
        }
        true
    }

    pub(crate) fn review_two_copies(&mut self, incident: IncidentRecord) {
        self.rest(incident.id);
        let Some(instance) = &incident.instance else { return };
        if self.shown_alive_on(instance).len() < 2 {
            self.close(incident.id, "over", "it is alive in one place at most".to_owned());
        }
    }

    pub(crate) fn review_gone(&mut self, incident: IncidentRecord) {
        let id = incident.id;
        let record = incident.instance.as_ref().and_then(|instance| self.durable.instances.get(instance)).cloned();
        let Some(record) = record else { return self.close(id, "forgotten", "the instance is no more".to_owned()) };
        let dealt_with = self.durable.outcome(id, &record.id).is_some();
        if !dealt_with && let Some(host) = self.runs_on(&record).filter(|host| self.shown_since_opened(id, host)) {
            return self.close(id, "running", format!("it runs on {host}"));
        }
        if !dealt_with && self.host_is_over(&incident) {
            return self.close(id, "overtaken", "its host is gone, and its guests are dealt with there".to_owned());
        }
        match &incident.phase {
            Phase::CausePending | Phase::WaitingForApproval | Phase::Observed | Phase::Watching => {
                self.judge_gone(&incident, &record)
            }
            Phase::BackingOff => self.back_off(&incident),
            Phase::Recovering | Phase::Waiting => self.restart(&incident, &record),
            _ => {}
        }
    }

    /// The host's inventory is younger than the incident.
    fn shown_since_opened(&self, id: crate::IncidentId, host: &HostId) -> bool {
        let opened = self.work.get(&id).map_or(self.started, |work| work.opened_at);
        let stock = self.watches.get(host).and_then(|watch| watch.inventory.as_ref());
        stock.is_some_and(|stock| stock.taken_at > opened)
    }

    fn host_is_over(&self, incident: &IncidentRecord) -> bool {
        let host = incident.host.as_ref().and_then(|host| self.host(host));
        host.is_none_or(|host| host.boots.last() != incident.boot.as_ref())
            || host.is_some_and(|host| host.boots.last().is_some_and(|boot| self.is_dead(&host.id, boot)))
    }

    fn judge_gone(&mut self, incident: &IncidentRecord, record: &InstanceRecord) {
        let id = incident.id;
        let lives_still = record.homes.contains_key(&record.last_host);
        match record.last_stop {
            StopReason::Pending if self.lost_with_boot(record) => {
                self.decide_restart(incident, record, StopReason::Pending)
            }
            StopReason::Pending | StopReason::FailedStart => self.rest(id),
            reason if ended_on_purpose(reason) => {
                self.close(id, "stays-down", format!("{}: {}", record.name, reason_text(reason)));
            }
            StopReason::Signalled if self.goodbye_may_follow(incident) => {}
            _ if lives_still => {} // Its inventory is on the way.
            reason => self.decide_restart(incident, record, reason),
        }
    }

    fn goodbye_may_follow(&self, incident: &IncidentRecord) -> bool {
        let parted = incident.host.as_ref().and_then(|host| self.host(host)).is_some_and(|host| host.goodbye.is_some());
        let opened = self.work.get(&incident.id).map_or(self.started, |work| work.opened_at);
        parted || self.now.at.since(opened) < GOODBYE_FOLLOWS
    }

    fn decide_restart(&mut self, incident: &IncidentRecord, record: &InstanceRecord, reason: StopReason) {
        let id = incident.id;
        let what = reason_text(reason);
        match self.mode(&incident.segment) {
            Mode::Observe => {
                if incident.phase != Phase::Observed {
                    let text = format!("{}: {what}; mode observe: act would start it again", record.name);
                    self.note("MDV-OBSERVED", true, format!("{id}: {text}"));
                    self.set_phase(id, Phase::Observed, "observed", text);
                }
                return self.rest(id);
            }
            Mode::Approve if incident.approved.is_none() => {
                return self.set_phase(
                    id,
                    Phase::WaitingForApproval,
                    "waiting",
                    format!("{what}; mode approve: a person decides"),
                );
            }
            Mode::Approve | Mode::Act => {}
        }
        let again = record.restarts;
        let pause = if again == 0 {
            Duration::ZERO
        } else {
            self.settings.restart_backoff * 2u32.saturating_pow(again.min(8) - 1)
        };
        let at = self.now.at.plus(pause);
        self.work(id).retry_at = Some(at);
        let text = if pause.is_zero() {
            format!("{what}; started again")
        } else {
            format!("{what}, for the {}. time of late; started again in {}", again + 1, shown(pause))
        };
        self.set_phase(id, Phase::BackingOff, "judged", text);
        if let Some(incident) = self.incident(id).cloned() {
            self.back_off(&incident);
        }
    }

    fn back_off(&mut self, incident: &IncidentRecord) {
        let (id, now) = (incident.id, self.now.at);
        // Resumed after a restart: the back-off is served again from its first step.
        let first = self.settings.restart_backoff;
        let due = *self.work(id).retry_at.get_or_insert(now.plus(first));
        if now >= due {
            let work = self.work(id);
            work.fresh_from = now;
            work.retry_at = None;
            self.set_phase(id, Phase::Recovering, "restarting", "fresh inventories first".to_owned());
            if let (Some(incident), Some(record)) = (
                self.incident(id).cloned(),
                incident.instance.as_ref().and_then(|instance| self.durable.instances.get(instance)).cloned(),
            ) {
                self.restart(&incident, &record);
            }
        }
    }

    fn restart(&mut self, incident: &IncidentRecord, record: &InstanceRecord) {
        let id = incident.id;
        let from = self.work(id).fresh_from;
        if !self.fresh_inventories(from) {
            return;
        }
        self.advance(id, &record.id);
        let outcome = self.durable.outcome(id, &record.id).cloned();
        match outcome.map(|outcome| (outcome.state, outcome.text)) {
            Some((OutcomeState::Recovered, text)) => self.close(id, "recovered", format!("{}: {text}", record.name)),
            Some((OutcomeState::Skipped, text)) => self.close(id, "stays-down", format!("{}: {text}", record.name)),
            Some((OutcomeState::Waiting, text)) => {
                self.set_phase(id, Phase::Waiting, "waiting", format!("{}: {text}", record.name))
            }
            _ => {}
        }
    }
}

fn reason_text(reason: StopReason) -> &'static str {
    match reason {
        StopReason::Pending => "it was lost with a boot of its host",
        StopReason::GuestShutdown => "it was shut down from inside",
        StopReason::Destroyed => "its user destroyed it",
        StopReason::Crashed => "its QEMU died",
        StopReason::Signalled => "its QEMU was ended by a signal from outside",
        StopReason::Migrated => "it was migrated away",
        StopReason::Saved => "it was saved",
        StopReason::FailedStart => "its start failed",
        StopReason::Panicked => "its guest panicked",
    }
}

/// What an instance is doing, for people.
pub(crate) fn state_text(record: &InstanceRecord) -> String {
    match record.last_state {
        RunState::Running => "running".to_owned(),
        RunState::Paused => "paused by its user".to_owned(),
        RunState::PausedOnError => "paused on an I/O error".to_owned(),
        RunState::Incoming => "incoming".to_owned(),
        RunState::PostcopyFailed => "paused: its post-copy migration failed".to_owned(),
        RunState::Crashed => "its guest panicked".to_owned(),
        RunState::Saved => "saved".to_owned(),
        RunState::Stopped if record.last_stop == StopReason::Pending => "stopped".to_owned(),
        RunState::Stopped => format!("stopped: {}", reason_text(record.last_stop)),
    }
}
