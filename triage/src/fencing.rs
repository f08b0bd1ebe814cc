//! From suspicion to proof.
//!
//! ```text
//!  Suspect --doubts--> Watching
//!     |  no doubt left
//!     v
//!  observe: Observed      approve: WaitingForApproval --approve--+
//!     act ------------------------------------------------------>|
//!                                                                v
//!       WaitingForRail <--rail-- [free?] ---> Fencing --off--> Confirming --round, all heard again--> Recovering
//!                                    ^           | not off         | somebody answers, or is missing
//!                                    +-- retry --+-- FenceUnknown <+
//! ```
//!
//! Until the first off order is committed, a sign of life cancels. After that
//! commit only proof, or 30 s of life of the same boot, ends it.

use crate::Triage;
use crate::command::Command;
use crate::devices::Through;
use crate::evidence::Doubt;
use crate::id::{HostId, IncidentId, StepId};
use crate::incident::Opening;
use crate::matrix::{Act, Loss};
use crate::observation::{FenceAnswer, Power};
use crate::record::{Heard, HeardRecord, HostRecord, IncidentKind, IncidentRecord, Mode, Phase, StepKind, StepState};
use crate::standing::Standing;
use crate::time::{Moment, millis, shown};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Heard again for this long, on and with the same boot: the shot has failed for good.
const BACK_FOR: Duration = Duration::from_secs(30);
/// After a start, agents come back within 5 s; nothing is repeated before.
const RESUME_AFTER: Duration = Duration::from_secs(6);
/// Silence that cannot be judged becomes an incident after the long grace and this.
const TELL_AFTER: Duration = Duration::from_secs(10);

impl Triage {
    /// Hosts with an off order out or awaiting confirmation: looked at each round.
    pub(crate) fn hosts_under_fence(&self) -> BTreeSet<HostId> {
        let under = |i: &&IncidentRecord| {
            matches!(i.phase, Phase::Fencing { .. } | Phase::Confirming { .. } | Phase::FenceUnknown { .. })
        };
        self.durable.incidents.iter().filter(under).filter_map(|i| i.host.clone()).collect()
    }

    /// An off order to it is out: its device has one thing to do at a time.
    pub(crate) fn is_being_shot(&self, host: &HostId) -> bool {
        let out = |i: &&IncidentRecord| i.host.as_ref() == Some(host) && matches!(i.phase, Phase::Fencing { .. });
        self.durable.incidents.iter().any(|i| out(&i))
    }

    pub(crate) fn review_incidents(&mut self) {
        self.review_suspects();
        self.review_services();
        for id in self.durable.open_incidents() {
            let Some(incident) = self.incident(id).cloned() else { continue };
            match incident.kind {
                IncidentKind::HostSilent
                | IncidentKind::HostHung
                | IncidentKind::HostShot
                | IncidentKind::HostRebooted => {
                    self.review_host_incident(incident);
                }
                IncidentKind::InstanceGone => self.review_gone(incident),
                IncidentKind::TwoCopies => self.review_two_copies(incident),
                IncidentKind::HostCloned | IncidentKind::ProofRefuted => self.review_alarm(incident),
                IncidentKind::FactsLost => self.rest(id),
                IncidentKind::ServiceDown => self.review_service_down(&incident),
            }
        }
    }

    /// Nothing will change here but by what is observed.
    pub(crate) fn rest(&mut self, id: IncidentId) {
        self.work(id).restless = false;
    }

    /// An identity seen twice, or a refuted proof: over once the host speaks alone again.
    fn review_alarm(&mut self, incident: IncidentRecord) {
        self.rest(incident.id);
        let Some(record) = incident.host.as_ref().and_then(|host| self.host(host)) else { return };
        let now = self.now.at;
        let stranger = self.watches.get(&record.id).and_then(|watch| watch.stranger_at).unwrap_or(self.started);
        let (host, alone) = (record.id.clone(), now.since(stranger) > BACK_FOR);
        if record.cloned.is_some() && alone && self.streams(&host) {
            if let Some(record) = self.durable.hosts.edit(&host) {
                record.cloned = None;
            }
            self.log(incident.id, "alone", format!("only one has spoken as {host} for {}", shown(now.since(stranger))));
            return;
        }
        let calm = record.cloned.is_none() && self.streams(&record.id);
        let old_news = self.work.get(&incident.id).is_some_and(|w| self.now.at.since(w.opened_at) > BACK_FOR);
        if calm && old_news {
            self.close(incident.id, "over", "one host speaks under this name".to_owned());
        }
    }

    /// Opens incidents for suspects that may be shot, and for those that stay
    /// silent without anybody being able to judge them.
    fn review_suspects(&mut self) {
        for host in self.durable.hosts.ids() {
            let Some(record) = self.host(&host).cloned() else { continue };
            let standing = self.standing(&record);
            if !matches!(standing, Standing::Suspect | Standing::Hung) || self.is_dealt_with(&record) {
                continue;
            }
            let hung = standing == Standing::Hung;
            if self.off_by_itself(&record).is_some() {
                self.open_silent(&record, false, Some("its device says off by itself"));
                continue;
            }
            let doubts = self.doubts(&record, hung);
            if doubts.is_empty() {
                self.open_silent(&record, hung, None);
            } else if self.worth_telling(&record, &doubts) {
                self.open_silent(&record, hung, Some("it cannot be judged"));
            }
        }
    }

    /// An open incident is about this boot, or still about its death.
    fn is_dealt_with(&self, record: &HostRecord) -> bool {
        let Some(incident) = self.host_incident(&record.id).and_then(|id| self.incident(id)) else { return false };
        let past_proof = matches!(incident.phase, Phase::Recovering | Phase::Waiting);
        !past_proof || incident.boot.as_ref() == record.boots.last()
    }

    fn worth_telling(&self, record: &HostRecord, doubts: &[Doubt]) -> bool {
        let lasting =
            doubts.iter().any(|doubt| !doubt.passes() && !matches!(doubt, Doubt::NotAHome | Doubt::NoInventory));
        lasting
            && self.silence(&record.id) >= self.settings.fence_grace_long + TELL_AFTER
            && self.now.at >= self.settle_until
    }

    fn open_silent(&mut self, record: &HostRecord, hung: bool, why: Option<&str>) {
        let kind = if hung { IncidentKind::HostHung } else { IncidentKind::HostSilent };
        let boot = record.boots.last().cloned();
        let silence = self.silence(&record.id);
        let suspect = self.watches.get(&record.id).and_then(|w| w.suspect.as_ref()).map(|s| s.since);
        let opening = Opening { kind, host: Some(record.id.clone()), boot, instance: None };
        let id = self.open_incident(opening, Phase::Watching);
        self.tell_suspicion(id, &record.id, silence, suspect);
        if let Some(why) = why {
            self.log(id, "evidence", format!("silent for {}; {why}", shown(silence)));
        }
        self.review_silent(id);
    }

    /// The first two lines of a timeline lie in the past: when it was last heard, and when that was noticed.
    fn tell_suspicion(&mut self, id: IncidentId, host: &HostId, silence: Duration, suspect: Option<Moment>) {
        let wall = self.now.wall.0;
        let noticed = suspect.map_or(silence, |since| silence.saturating_sub(self.now.at.since(since)));
        let Some(incident) = self.durable.incidents.edit(&id) else { return };
        let entry = |back: Duration, since: Duration, code: &str, text: String| crate::Entry {
            wall: crate::Wall(wall.saturating_sub(millis(back))),
            since_ms: millis(since),
            code: code.to_owned(),
            text,
        };
        incident.timeline.push(entry(silence, Duration::ZERO, "last-sign", format!("last sign of life of {host}")));
        let back = silence.saturating_sub(noticed);
        incident.timeline.push(entry(back, noticed, "suspect", format!("{host} is suspect: its heartbeats are late")));
    }

    fn review_host_incident(&mut self, incident: IncidentRecord) {
        let id = incident.id;
        match &incident.phase {
            Phase::Watching
            | Phase::Observed
            | Phase::WaitingForApproval
            | Phase::WaitingForRail { .. }
            | Phase::Paused => self.review_silent(id),
            Phase::Fencing { step } => {
                incident.host.iter().for_each(|host| self.list_ahead(host));
                self.review_fencing(&incident, *step);
            }
            Phase::Confirming { step, device } => self.review_confirming(&incident, *step, device.clone()),
            Phase::FenceUnknown { .. } => self.review_unknown(&incident),
            Phase::Recovering | Phase::Waiting => self.review_recovery(id),
            Phase::CausePending | Phase::BackingOff | Phase::Closed { .. } => {}
        }
    }

    /// Before the point of no return.
    fn review_silent(&mut self, id: IncidentId) {
        let Some(incident) = self.incident(id).cloned() else { return };
        let Some(record) = incident.host.as_ref().and_then(|host| self.host(host)).cloned() else { return };
        if incident.kind == IncidentKind::HostShot {
            return self.shoot_when_free(&incident, &record);
        }
        let standing = self.standing(&record);
        match standing {
            Standing::Heard | Standing::AgentFailed | Standing::Maintenance | Standing::Goodbye => {
                let text = format!("{} is {} again before anything was ordered", record.id, standing.name());
                return self.close(id, "returned", text);
            }
            Standing::Dead => return self.begin_recovery(id, "its boot is proven dead"),
            Standing::Unknown | Standing::Booting | Standing::Suspect | Standing::Hung => {}
        }
        if let Some(device) = self.off_by_itself(&record) {
            return self.proven_by_itself(id, &record, device);
        }
        let doubts = self.doubts(&record, incident.kind == IncidentKind::HostHung);
        if doubts.is_empty() {
            self.condemned(&incident, &record);
        } else {
            self.tell_doubts(&incident, &doubts);
        }
    }

    fn tell_doubts(&mut self, incident: &IncidentRecord, doubts: &[Doubt]) {
        let lasting: Vec<String> = doubts.iter().filter(|d| !d.passes()).map(ToString::to_string).collect();
        let told = lasting.join("; ");
        let work = self.work(incident.id);
        if work.told != told && !told.is_empty() {
            work.told.clone_from(&told);
            self.log(incident.id, "refused", format!("not condemned: {told}"));
            let host = incident.host.as_ref().map_or("", HostId::as_str);
            self.note("MDV-NOT-CONDEMNED", true, format!("{host} is silent and is not condemned: {told}"));
        }
        if !matches!(incident.phase, Phase::Watching) {
            self.set_phase(incident.id, Phase::Watching, "watching", "the evidence no longer suffices".to_owned());
        }
    }

    /// May be shot. Mode, policy, brakes and rails say whether it is.
    fn condemned(&mut self, incident: &IncidentRecord, record: &HostRecord) {
        let id = incident.id;
        let first = !incident.timeline.iter().any(|entry| entry.code == "condemned");
        if first {
            let evidence = self.agreed_by(record);
            let text =
                format!("{} is condemned after {} of silence: {evidence}", record.id, shown(self.silence(&record.id)));
            self.log(id, "condemned", text.clone());
            self.note("MDV-CONDEMNED", true, format!("{id}: {text}"));
        }
        let approved = incident.approved.is_some();
        let held = self.held_by_policy(incident, record);
        match self.mode(&record.segment) {
            Mode::Observe => return self.observed(id, record, held.map(|(_, _, why)| why)),
            Mode::Approve if !approved => {
                return self.set_phase(
                    id,
                    Phase::WaitingForApproval,
                    "waiting",
                    "mode approve: a person decides".to_owned(),
                );
            }
            Mode::Approve | Mode::Act => {}
        }
        if let Some((phase, code, why)) = held.filter(|_| !approved) {
            return self.set_phase(id, phase, code, why.to_owned());
        }
        self.shoot_when_free(incident, record);
    }

    /// What the policy for this kind of silence says against shooting without a person's word.
    fn held_by_policy(
        &self,
        incident: &IncidentRecord,
        record: &HostRecord,
    ) -> Option<(Phase, &'static str, &'static str)> {
        let hung = incident.kind == IncidentKind::HostHung;
        let act = match hung {
            true => self.settings.of_segment(&self.settings.on_hung, &record.segment).unwrap_or_default().act(),
            false => self.settings.matrix.act(Loss::AllPlanes),
        };
        match act {
            Act::Fence => None,
            Act::Approve if hung => {
                Some((Phase::WaitingForApproval, "waiting", "hung: its guests may still run, so a person decides"))
            }
            Act::Approve => {
                Some((Phase::WaitingForApproval, "waiting", "matrix.all_planes says approve: a person decides"))
            }
            Act::Alert | Act::Migrate if hung => Some((Phase::Observed, "alert", "hung: policy says alert only")),
            Act::Alert | Act::Migrate => Some((Phase::Observed, "alert", "matrix.all_planes says alert only")),
        }
    }

    /// Mode observe: writes down what act would have done.
    pub(crate) fn observed(&mut self, id: IncidentId, record: &HostRecord, held: Option<&str>) {
        if self.incident(id).is_some_and(|incident| incident.phase == Phase::Observed) {
            return;
        }
        if let Some(held) = held {
            let text = format!("mode observe: act would not shoot it by itself: {held}");
            self.set_phase(id, Phase::Observed, "observed", text.clone());
            return self.note("MDV-OBSERVED", true, format!("{id}: {text}"));
        }
        let device = self.device(&record.id).map(|d| d.name.clone());
        let off = device
            .map_or("nothing could switch it off".to_owned(), |name| format!("order {} off by {name}", record.id));
        let guests = self.would_recover(&record.id);
        let text = format!("mode observe: act would now {off}, and on proof {guests}");
        self.set_phase(id, Phase::Observed, "observed", text.clone());
        self.note("MDV-OBSERVED", true, format!("{id}: {text}"));
    }

    fn shoot_when_free(&mut self, incident: &IncidentRecord, record: &HostRecord) {
        let id = incident.id;
        if let Some(reason) = self.durable.site().paused {
            return self.set_phase(id, Phase::Paused, "paused", format!("everything is paused: {reason}"));
        }
        if self.device(&record.id).is_none() {
            let why = format!("{} has no fence device; it waits for a proof or for `confirm-fenced`", record.id);
            self.work(id).retry_at = None;
            return self.set_phase(id, Phase::FenceUnknown { why: why.clone() }, "fence-unknown", why);
        }
        if let Some(rail) = self.rail(incident, &record.id) {
            let same = matches!(&incident.phase, Phase::WaitingForRail { rail: told } if *told == rail);
            if !same {
                self.set_phase(id, Phase::WaitingForRail { rail: rail.clone() }, "rail", format!("not shot: {rail}"));
                self.note("MDV-RAIL", true, format!("{id}: {} is not shot: {rail}", record.id));
            }
            return;
        }
        self.shoot(id, &record.id);
    }

    /// The point of no return: the commit of this order.
    pub(crate) fn shoot(&mut self, id: IncidentId, host: &HostId) {
        let heard = self.heard_others(host);
        let segment = self.incident(id).map(|incident| incident.segment.clone()).unwrap_or_default();
        let (device, through) = self.device(host).map(|d| (d.name.clone(), d.through.clone())).unwrap_or_default();
        let what = StepKind::FenceOff { host: host.clone(), through };
        let precondition = "condemned, or shot by a person; every rail agreed";
        let Some(step) = self.order_step(id, what, self.settings.fence_deadline, precondition) else { return };
        let Some(incident) = self.durable.incidents.edit(&id) else { return };
        let first = !std::mem::replace(&mut incident.shot, true);
        self.take_down_heard(id, first, heard);
        self.remember_shot(&segment, host);
        self.order_off(id, step, host);
        self.set_phase(id, Phase::Fencing { step }, "off-ordered", format!("{host} is ordered off by {device}"));
        self.note("MDV-FENCE", true, format!("{id}: {host} is ordered off by {device}"));
    }

    /// The hosts of the first order stay; the boot of each is the one it runs now.
    fn take_down_heard(&mut self, id: IncidentId, first: bool, heard: BTreeMap<HostId, Heard>) {
        if first {
            // What a commit that broke off half way may have left.
            self.forget_heard(id);
        }
        for (host, heard) in heard {
            if first || self.durable.heard.get(&(id, host.clone())).is_some() {
                self.durable.heard.put(HeardRecord { incident: id, host, heard });
            }
        }
    }

    /// Everybody heard now, with the boot that is heard.
    pub(crate) fn heard_others(&self, host: &HostId) -> BTreeMap<HostId, Heard> {
        let others = self.heard_hosts().into_iter().filter(|other| other != host);
        let boot =
            |other: &HostId| self.host(other).and_then(|record| record.boots.last()).cloned().unwrap_or_default();
        others.map(|other| (other.clone(), Heard { boot: boot(&other), by_agent: self.streams(&other) })).collect()
    }

    /// What an order was given to when it was committed: it keeps that, whatever the host's device is by now.
    fn committed_device(&self, step: StepId) -> Through {
        match self.durable.steps.get(&step).map(|record| &record.what) {
            Some(StepKind::FenceOff { through, .. }) => through.clone(),
            _ => Through::default(),
        }
    }

    fn order_off(&mut self, id: IncidentId, step: StepId, host: &HostId) {
        let now = self.now.at;
        let deadline = self.settings.fence_deadline;
        self.step_until.insert(step, now.plus(deadline));
        let work = self.work(id);
        work.ordered_at = Some(now);
        work.read_at = None;
        work.off_at = None;
        work.asked = true;
        // This one is of our own start: reads that are on their way belong to no resumed order.
        work.resumed = false;
        let through = self.committed_device(step);
        self.command(Command::FenceOff { step, host: host.clone(), through });
    }

    /// An off order is out.
    fn review_fencing(&mut self, incident: &IncidentRecord, step: StepId) {
        let Some(host) = incident.host.clone() else { return };
        if self.given_up_on(incident, &host) {
            return;
        }
        let now = self.now.at;
        if self.work(incident.id).asked {
            let over = self.step_until.get(&step).is_some_and(|until| now >= *until);
            if over {
                self.fence_unknown(incident.id, step, "the fence device gave no answer in time".to_owned());
            }
            return;
        }
        // Resumed: agents come back first; then we look, and the device is asked before it is told.
        let looked = self.round_after(&host, self.started) == Some(true);
        let due = self.work(incident.id).retry_at.is_none_or(|at| now >= at);
        if now.since(self.started) >= RESUME_AFTER && looked && due {
            let work = self.work(incident.id);
            work.asked = true;
            work.ordered_at = Some(now);
            work.retry_at = Some(now.plus(RESUME_AFTER));
            self.log(incident.id, "resumed", format!("resumed after a restart: {host}'s power is read first"));
            let deadline = self.settings.fence_deadline;
            self.step_until.insert(step, now.plus(deadline));
            let through = self.committed_device(step);
            self.command(Command::ReadPower { host, read: now.0, through, urgent: true });
        }
    }

    /// The read that a resumed off order begins with.
    pub(crate) fn fence_resumed_read(&mut self, host: &HostId, begun: Moment, power: Power) {
        let Some(id) = self.host_incident(host) else { return };
        let Some(incident) = self.incident(id).cloned() else { return };
        let Phase::Fencing { step } = incident.phase else { return };
        let resumed = self.work.get(&id).is_some_and(|w| w.resumed && w.ordered_at.is_some_and(|at| begun >= at));
        if !resumed {
            return;
        }
        // It may have come back while its device was slow to answer.
        if power != Power::Off && self.watches.get(host).is_some_and(|watch| watch.last_sign > begun) {
            let again = self.now.at.plus(RESUME_AFTER);
            let work = self.work(id);
            work.asked = false;
            work.retry_at = Some(again);
            return;
        }
        // What answers now is no longer the boot that it was meant for.
        if self.host(host).is_some_and(|record| record.boots.last() != incident.boot.as_ref()) {
            return;
        }
        self.work(id).resumed = false;
        if power == Power::Off {
            let device = self.device(host).map(|d| d.name.clone()).unwrap_or_default();
            self.off_was_read(id, step, begun, device);
        } else {
            self.log(id, "off-ordered", format!("{host} is not off: the order is sent again"));
            self.order_off(id, step, host);
        }
    }

    pub(crate) fn take_fence_answer(&mut self, step: StepId, answer: FenceAnswer) {
        let id = step.incident;
        let Some(incident) = self.incident(id).cloned() else { return };
        if incident.phase != (Phase::Fencing { step }) {
            return;
        }
        if self
            .host_of(step)
            .and_then(|host| self.host(&host))
            .is_some_and(|record| record.boots.last() != incident.boot.as_ref())
        {
            // It came back while the order was out: the new boot is the proof.
            self.settle_step(step, StepState::Done { detail: format!("{}: {}", answer.device, answer.detail) });
            return self.begin_recovery(id, "its boot is proven dead");
        }
        let trusted = !self.settings.guards.proof;
        if answer.power == Power::Off || trusted {
            let detail = StepState::Done { detail: format!("{}: {}", answer.device, answer.detail) };
            self.settle_step(step, detail);
            return self.off_was_read(id, step, self.now.at, answer.device);
        }
        let what = match answer.power {
            Power::On => "says on after the order",
            Power::Off | Power::Unknown => "does not say what the power is",
        };
        let why = if answer.nothing_sent {
            answer.detail.clone()
        } else {
            format!("{} {what}: {}", answer.device, answer.detail)
        };
        self.fence_unknown(id, step, why);
    }

    fn host_of(&self, step: StepId) -> Option<HostId> {
        self.incident(step.incident)?.host.clone()
    }

    pub(crate) fn settle_step(&mut self, step: StepId, state: StepState) {
        self.step_until.remove(&step);
        if let Some(record) = self.durable.steps.edit(&step) {
            record.state = state;
        }
    }

    fn off_was_read(&mut self, id: IncidentId, step: StepId, at: Moment, device: String) {
        self.settle_step(step, StepState::Done { detail: format!("{device} says off") });
        let now = self.now.at;
        self.work(id).off_at = Some(now);
        // Signs of life count from when nothing that arrives can be older than the read.
        let at = at.max(self.stale_until);
        self.work(id).read_at = Some(at);
        let text = format!("{device} says off; a look round and everybody's sign of life must agree");
        self.set_phase(id, Phase::Confirming { step, device }, "off-read", text);
        let Some(incident) = self.incident(id).cloned() else { return };
        if let Phase::Confirming { step, device } = incident.phase.clone() {
            self.review_confirming(&incident, step, device);
        }
    }

    pub(crate) fn fence_unknown(&mut self, id: IncidentId, step: StepId, why: String) {
        self.settle_step(step, StepState::Unknown { detail: why.clone() });
        let Some(incident) = self.durable.incidents.edit(&id) else { return };
        incident.fence_passes += 1;
        let doubled = self.settings.fence_retry_first * 2u32.saturating_pow(incident.fence_passes.min(8) - 1);
        let pause = doubled.min(self.settings.fence_retry_max);
        let retry_at = self.now.at.plus(pause);
        self.work(id).retry_at = Some(retry_at);
        let text = format!("fence unknown: {why}; tried again in {}", shown(pause));
        self.set_phase(id, Phase::FenceUnknown { why }, "fence-unknown", text.clone());
        self.note("MDV-FENCE-UNKNOWN", true, format!("{id}: {text}"));
    }

    /// Nothing was proved. Tried again when its time has come and the evidence still holds.
    fn review_unknown(&mut self, incident: &IncidentRecord) {
        let Some(host) = incident.host.clone() else { return };
        let Some(record) = self.host(&host).cloned() else { return };
        if self.given_up_on(incident, &host) {
            return;
        }
        if let Some(device) = self.off_by_itself(&record) {
            return self.proven_by_itself(incident.id, &record, device);
        }
        if !incident.shot && self.is_heard(&record) {
            return self.close(incident.id, "returned", format!("{host} is heard again"));
        }
        if self.device(&host).is_none() {
            return self.rest(incident.id);
        }
        let (now, first) = (self.now.at, self.settings.fence_retry_first);
        let due = *self.work(incident.id).retry_at.get_or_insert(now.plus(first));
        let person = incident.kind == IncidentKind::HostShot;
        let still = person || self.doubts(&record, incident.kind == IncidentKind::HostHung).is_empty();
        if now >= due && still && self.durable.site().paused.is_none() && self.rail(incident, &host).is_none() {
            self.shoot(incident.id, &host);
        }
    }

    /// An off order has left and is not answered, and its time is not over.
    pub(crate) fn off_order_is_out(&self, incident: &IncidentRecord) -> bool {
        let Phase::Fencing { step } = incident.phase else { return false };
        let asked = self.work.get(&incident.id).is_some_and(|work| work.asked);
        asked && self.step_until.get(&step).is_some_and(|until| self.now.at < *until)
    }

    /// Past the point of no return: a new boot is proof, 30 s of the same boot cancel.
    pub(crate) fn given_up_on(&mut self, incident: &IncidentRecord, host: &HostId) -> bool {
        let Some(record) = self.host(host).cloned() else { return true };
        if self.standing(&record) == Standing::Dead || record.boots.last() != incident.boot.as_ref() {
            if self.off_order_is_out(incident) {
                return true; // It may yet hit the new boot: it is waited out.
            }
            self.begin_recovery(incident.id, "its boot is proven dead");
            return true;
        }
        let heard = self.is_heard(&record);
        let now = self.now.at;
        let Some(watch) = self.watches.get_mut(host) else { return false };
        if !heard {
            watch.back_since = None;
            return false;
        }
        let since = *watch.back_since.get_or_insert(now);
        if now.since(since) < BACK_FOR {
            return false;
        }
        watch.back_since = None;
        let text =
            format!("{host} was ordered off, and yet it has been heard for {} with the same boot", shown(BACK_FOR));
        self.note("MDV-FENCE-FAILED", true, format!("{}: {text}: look at its fence device", incident.id));
        self.close(incident.id, "cancelled", text);
        true
    }
}
