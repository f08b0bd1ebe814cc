//! A host comes back with a new boot: what was started elsewhere is removed
//! there, what was not is started at home, and then its hold ends.

use crate::Triage;
use crate::command::Order;
use crate::id::{BootId, HostId, IncidentId, InstanceId};
use crate::incident::Opening;
use crate::record::{
    IncidentKind, InstanceRecord, Mode, OutcomeRecord, OutcomeState, Phase, Proof, StepKind, StepRecord, StepState,
};
use std::time::Duration;

/// An unanswered order of the hold is sent again after this long.
const HOLD_AGAIN: Duration = Duration::from_secs(10);

impl Triage {
    /// Proof 3 has been recorded: whoever deals with this host goes on with it.
    pub(crate) fn host_rebooted(&mut self, host: &HostId, old: &BootId, proof: Proof) {
        let Proof::NewBoot { boot, .. } = &proof else { return };
        let text = format!("{host} runs the new boot {boot}: boot {old} is over");
        if let Some(id) = self.host_incident(host) {
            self.log(id, "proof", text);
            self.forget_recovered_here(id, host);
            if self.incident(id).is_some_and(|incident| self.off_order_is_out(incident)) {
                return self.log(
                    id,
                    "waiting",
                    "an off order is out and may hit the new boot: it is waited out".to_owned(),
                );
            }
            return self.begin_recovery(id, "guests not started elsewhere start at home");
        }
        let segment = self.host(host).map(|record| record.segment.clone()).unwrap_or_default();
        if self.mode(&segment) == Mode::Observe {
            return;
        }
        let opening = Opening {
            kind: IncidentKind::HostRebooted,
            host: Some(host.clone()),
            boot: Some(old.clone()),
            instance: None,
        };
        let id = self.open_incident(opening, Phase::Recovering);
        self.log(id, "proof", text);
    }

    /// Guests brought back to this host have died with it once more.
    fn forget_recovered_here(&mut self, id: IncidentId, host: &HostId) {
        let outcomes = self.durable.outcomes_of(id).into_iter();
        let here = |o: &&OutcomeRecord| o.state == OutcomeState::Recovered && o.host.as_ref() == Some(host);
        let died: Vec<_> = outcomes.filter(here).map(|o| (id, o.instance.clone())).collect();
        died.iter().for_each(|outcome| self.durable.outcomes.remove(outcome));
    }

    /// Hosts whose agents hold their guests: each guest gets its word, then the hold ends.
    pub(crate) fn review_holds(&mut self) {
        for host in self.durable.hosts.ids() {
            if !self.hold_is_over(&host) {
                self.review_hold(&host);
            }
        }
    }

    pub(crate) fn hold_is_over(&self, host: &HostId) -> bool {
        let held = self.watches.get(host).and_then(|w| w.session.as_ref()).is_some_and(|live| live.held);
        !(held && self.streams(host))
    }

    fn review_hold(&mut self, host: &HostId) {
        if self.durable.site().paused.is_some() || self.host(host).is_some_and(|record| record.cloned.is_some()) {
            return;
        }
        let Some(boot) = self.host(host).and_then(|record| record.boots.last()).cloned() else { return };
        let id = match self.host_incident(host) {
            Some(id) => id,
            None => {
                let opening = Opening {
                    kind: IncidentKind::HostRebooted,
                    host: Some(host.clone()),
                    boot: Some(boot.clone()),
                    instance: None,
                };
                self.open_incident(opening, Phase::Recovering)
            }
        };
        if self.a_move_was_abandoned() {
            return; // nova-compute may find the request of it in its queue.
        }
        let Some(incident) = self.incident(id) else { return };
        // Starts first: a removal or the hold's end can wait for them.
        let gathered = incident.phase == Phase::Waiting
            || (incident.phase == Phase::Recovering && self.gather.as_ref().is_some_and(|g| g.waiting.is_empty()));
        let under_way = self
            .durable
            .outcomes_of(id)
            .iter()
            .any(|o| matches!(o.state, OutcomeState::Planned | OutcomeState::Starting));
        if !gathered || under_way || self.starts_owed(id, host) {
            return;
        }
        let stale = self.stale_copies(host);
        let mut waiting = false;
        for instance in stale {
            let what = StepKind::Remove { instance: instance.clone(), host: host.clone(), boot: boot.clone() };
            waiting |= self.hold_step(id, host, &boot, what, Order::Remove { instance });
        }
        if !waiting {
            let what = StepKind::ReleaseHold { host: host.clone(), boot: boot.clone() };
            let why = "every guest of this host has had its word".to_owned();
            self.hold_step(id, host, &boot, what, Order::ReleaseHold { why });
        }
    }

    /// A guest is lost with this host and has no outcome yet.
    fn starts_owed(&self, id: IncidentId, host: &HostId) -> bool {
        let near = self.durable.instances_near(host);
        near.iter().filter_map(|i| self.durable.instances.get(i)).any(|record| {
            let owed =
                self.lives_nowhere(record) && record.last_host == *host && record.wanted && self.is_protected(record);
            owed && self.durable.outcome(id, &record.id).is_none() && !self.in_hand(&record.id)
        })
    }

    /// Stopped copies of instances that were started elsewhere for good.
    fn stale_copies(&self, host: &HostId) -> Vec<InstanceId> {
        if self.in_openstack() {
            return Vec::new(); // nova-compute removes them when it starts.
        }
        let stock = self.watches.get(host).and_then(|watch| watch.inventory.as_ref());
        let Some(stock) = stock else { return Vec::new() };
        let moved = |record: &InstanceRecord| {
            let there = record.moved_to.as_ref().is_some_and(|moved| moved != host);
            there && record.homes.keys().any(|home| home != host)
        };
        let stopped = stock.inventory.instances.iter().filter(|(_, shown)| !shown.state.lives());
        stopped.filter(|(id, _)| self.durable.instances.get(id).is_some_and(moved)).map(|(id, _)| id.clone()).collect()
    }

    /// Orders a step of the hold once, again when nobody answered; `true` while it is not over.
    fn hold_step(&mut self, id: IncidentId, host: &HostId, boot: &BootId, what: StepKind, order: Order) -> bool {
        let now = self.now.at;
        let known = self.durable.steps_of(id).into_iter().rev().find(|step| step.what == what);
        match known {
            Some(StepRecord { state: StepState::Done { .. } | StepState::Refused { .. }, .. }) => false,
            Some(step) => {
                let sent_long_ago = self.step_until.get(&step.id).is_none_or(|until| now.plus(HOLD_AGAIN) >= *until);
                if sent_long_ago {
                    self.send_order(step.id, host, boot.clone(), order);
                }
                true
            }
            None => {
                let precondition = "the host holds its guests; those to be started are";
                let step = self.order_step(id, what, self.settings.start_deadline, precondition);
                if let Some(step) = step {
                    self.send_order(step, host, boot.clone(), order);
                }
                true
            }
        }
    }

    pub(crate) fn hold_step_answered(&mut self, step: &StepRecord, state: &StepState) {
        let id = step.id.incident;
        match (&step.what, state) {
            (StepKind::Remove { instance, host, .. }, StepState::Done { .. }) => {
                let name = self.durable.instances.get(instance).map(|record| record.name.clone()).unwrap_or_default();
                self.log(id, "removed", format!("{name}: its stale copy on {host} was removed"));
                if let Some(record) = self.durable.instances.edit(instance) {
                    record.defined_on.remove(host);
                }
            }
            (StepKind::Remove { instance, host, .. }, StepState::Refused { reason }) => {
                self.log(id, "refused", format!("{instance} on {host} was not removed: {reason}"));
            }
            (StepKind::ReleaseHold { host, .. }, StepState::Done { .. }) => {
                self.log(id, "hold-released", format!("{host} holds its guests no longer"));
                if let Some(record) = self.durable.hosts.edit(host) {
                    record.hold_released = true;
                }
            }
            _ => {}
        }
    }
}
