//! Reserved hosts: where a segment's recovery method looks beside Nova's own choice.
//!
//! ```text
//!   disabled, empty --Taken (durable)--> into the dead host's aggregates --> enabled --> evacuations name it
//!        ^                                                                                  |
//!        +-- disabled for the former reason, out of the aggregates <-- closed, unused ------+--> used: like any other
//! ```
//!
//! Whoever has been taken belongs to one incident until that is closed. Whether
//! a host is a reserve Nova itself says: it is named as one, disabled and empty.

use crate::Triage;
use crate::cloud::{CloudAct, ServiceHold};
use crate::id::{HostId, IncidentId, InstanceId, SegmentId};
use crate::record::{HostRecord, IncidentRecord, InstanceRecord, StepKind, StepState};
use crate::segments::DEFAULT_SEGMENT;
use crate::service::TRY_AGAIN;
use serde::{Deserialize, Serialize};

/// How the servers of a dead host find a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecoveryMethod {
    #[default]
    Auto,
    ReservedHost,
    AutoPriority,
    RhPriority,
}

impl RecoveryMethod {
    /// Every method by the name that a configuration gives it, and what it does.
    pub const NAMED: [(&'static str, RecoveryMethod, &'static str); 4] = [
        ("auto", RecoveryMethod::Auto, "Nova chooses the host"),
        ("reserved_host", RecoveryMethod::ReservedHost, "to a reserved host; without one it waits"),
        (
            "auto_priority",
            RecoveryMethod::AutoPriority,
            "Nova chooses; a server for which it finds no room goes to a reserved host",
        ),
        ("rh_priority", RecoveryMethod::RhPriority, "to a reserved host; once none is left, Nova chooses"),
    ];

    pub fn parse(text: &str) -> Option<Self> {
        Self::NAMED.into_iter().find(|(name, _, _)| *name == text).map(|(_, method, _)| method)
    }
}

/// Durable, with the host: which incident has it, and what is to be undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    pub by: IncidentId,
    /// Why it was disabled before.
    pub reason: String,
    /// Aggregates of the dead host that it was not in.
    pub aggregates: Vec<String>,
}

/// As Nova's scheduler and its computes say that a server does not fit.
const NO_ROOM: [&str; 4] =
    ["No valid host", "NoValidHost", "ComputeResourcesUnavailable", "Insufficient compute resources"];

impl Triage {
    /// The reserved host for a server; `None`: Nova chooses. Takes one where that is needed.
    pub(crate) fn reserved_target(
        &mut self,
        incident: &IncidentRecord,
        source: &HostId,
        record: &InstanceRecord,
        rebuilds: bool,
    ) -> Result<Option<HostId>, String> {
        let method = self.settings.of_segment(&self.settings.recovery_method, &incident.segment).unwrap_or_default();
        let failed = self.failed_at(incident.id, &record.id);
        let found_no_room = failed.iter().any(|(to, why)| to.is_none() && NO_ROOM.iter().any(|no| why.contains(no)));
        match method {
            RecoveryMethod::Auto => return Ok(None),
            RecoveryMethod::AutoPriority if !found_no_room => return Ok(None),
            _ => {}
        }
        let mut hosts = self.reserved_in(&incident.segment);
        hosts.retain(|host| host != source);
        // One that is taken already is used up before the next one.
        hosts.sort_by_key(|host| self.taken_by(host) != Some(incident.id));
        let mut refused = Vec::new();
        for host in hosts {
            if let Some((_, why)) = failed.iter().find(|(to, _)| to.as_ref() == Some(&host)) {
                refused.push(format!("{host}: it went there in vain: {why}"));
                continue;
            }
            match self.ready_for(incident.id, source, record, &host, rebuilds) {
                Ok(true) => return Ok(Some(host)),
                Ok(false) => return Err(format!("the reserved host {host} is being made ready")),
                Err(why) => refused.push(format!("{host}: {why}")),
            }
        }
        match method {
            RecoveryMethod::RhPriority => Ok(None),
            _ if refused.is_empty() => Err("no reserved host is left: none is named for this segment".to_owned()),
            _ => Err(format!("no reserved host is left: {}", refused.join("; "))),
        }
    }

    /// `true` when servers may go there, `false` while it is being made so.
    fn ready_for(
        &mut self,
        id: IncidentId,
        source: &HostId,
        record: &InstanceRecord,
        host: &HostId,
        rebuilds: bool,
    ) -> Result<bool, String> {
        let Some(reserve) = self.host(host).cloned() else { return Err("it has not joined".to_owned()) };
        self.can_take(&reserve)?;
        if !rebuilds {
            self.reaches_disks(record, host)?;
        }
        if let Some(taken) = &reserve.taken {
            return if taken.by == id {
                self.make_ready(host, taken)
            } else {
                Err(format!("{} has taken it", taken.by))
            };
        }
        self.is_free(&reserve)?;
        if let Some(bar) = self.bars_move(record, Some(host)) {
            return Err(bar);
        }
        let aggregates = self.aggregates_to_join(source, host)?;
        let reason = self.service(host).map(|service| service.disabled_reason.clone()).unwrap_or_default();
        let taken = Taken { by: id, reason, aggregates };
        self.log(id, "reserve", format!("the reserved host {host} is taken"));
        if let Some(reserve) = self.durable.hosts.edit(host) {
            reserve.taken = Some(taken.clone());
        }
        self.make_ready(host, &taken)
    }

    /// Into the aggregates first: once it is enabled Nova may choose it.
    fn make_ready(&mut self, host: &HostId, taken: &Taken) -> Result<bool, String> {
        for aggregate in &taken.aggregates {
            let what = StepKind::JoinAggregate { host: host.clone(), aggregate: aggregate.clone() };
            let (to, of) = (host.clone(), aggregate.clone());
            let act = |step| CloudAct::JoinAggregate { step, host: to, aggregate: of };
            if !self.reserve_step(taken.by, what, act)? {
                return Ok(false);
            }
        }
        let what = StepKind::TakeReserve { host: host.clone(), reason: taken.reason.clone() };
        let (of, reason) = (host.clone(), taken.reason.clone());
        self.reserve_step(taken.by, what, |step| CloudAct::TakeReserve { step, host: of, reason })
    }

    /// `true` once it is done; what Nova refuses is not asked for again: there are other hosts.
    fn reserve_step(
        &mut self,
        id: IncidentId,
        what: StepKind,
        act: impl FnOnce(crate::StepId) -> CloudAct,
    ) -> Result<bool, String> {
        if let Some(StepState::Refused { reason }) = self.newest_step(id, |known| *known == what).map(|of| of.state) {
            return Err(format!("Nova refuses to {what}: {reason}"));
        }
        let state = self.cloud_step(id, what, "a reserved host is needed, and this incident has it", TRY_AGAIN, act);
        Ok(matches!(state, StepState::Done { .. }))
    }

    /// Disabled by others than us, well, and empty.
    fn is_free(&self, reserve: &HostRecord) -> Result<(), String> {
        if let Some(why) = self.service_bars(&reserve.id) {
            return Err(why);
        }
        if self.service(&reserve.id).is_some_and(|service| service.enabled) {
            return Err("it is enabled in Nova, and so it is used like any other".to_owned());
        }
        if reserve.service != ServiceHold::default() {
            return Err("its service is still held by an earlier incident".to_owned());
        }
        if self.is_used(&reserve.id) {
            return Err("it is not empty".to_owned());
        }
        Ok(())
    }

    /// Somebody is there, as an agent shows it or as Nova places it.
    fn is_used(&self, host: &HostId) -> bool {
        let near = self.durable.instances_near(host);
        let there = |record: &InstanceRecord| record.last_host == *host || record.homes.contains_key(host);
        near.iter().filter_map(|id| self.durable.instances.get(id)).any(there)
            || self.sight.roster.values().any(|server| server.host == *host)
    }

    /// What a server may need of its host is said of the aggregates of the dead one.
    fn aggregates_to_join(&self, source: &HostId, host: &HostId) -> Result<Vec<String>, String> {
        if !self.sight.aggregates_told {
            return Err("Nova has not told of its aggregates yet".to_owned());
        }
        let zone = self.aggregates_of(host).find(|of| !of.zone.is_empty()).map(|of| of.zone.clone());
        let mut join = Vec::new();
        for aggregate in self.aggregates_of(source).filter(|of| !of.hosts.contains(host)) {
            if let Some(zone) = zone.as_ref().filter(|zone| !aggregate.zone.is_empty() && **zone != aggregate.zone) {
                return Err(format!("it is in zone {zone}, not in {}", aggregate.zone));
            }
            join.push(aggregate.name.clone());
        }
        Ok(join)
    }

    /// Those named for a segment, or for the default one and in this one, in the order in which they are named.
    fn reserved_in(&self, segment: &SegmentId) -> Vec<HostId> {
        let of = |segment: &SegmentId| self.settings.reserved_hosts.get(segment).cloned().unwrap_or_default();
        let mut hosts = of(segment);
        for host in of(&DEFAULT_SEGMENT.into()) {
            if !hosts.contains(&host) && self.host(&host).is_some_and(|record| record.segment == *segment) {
                hosts.push(host);
            }
        }
        hosts
    }

    fn taken_by(&self, host: &HostId) -> Option<IncidentId> {
        self.host(host).and_then(|record| record.taken.as_ref()).map(|taken| taken.by)
    }

    /// Where each earlier evacuation of a server in this incident was to go, and why it failed.
    pub(crate) fn failed_at(&self, id: IncidentId, instance: &InstanceId) -> Vec<(Option<HostId>, String)> {
        let from = self.incident(id).map_or(0, |incident| incident.retried_from);
        let steps = self.durable.steps_of(id).into_iter().filter(|step| step.id.step >= from);
        let failed = steps.filter_map(|step| match (step.what, step.state) {
            (StepKind::Evacuate { instance: of, target, .. }, StepState::Refused { reason }) if of == *instance => {
                (!reason.starts_with(crate::evacuation::NOT_SENT)).then_some((target, reason))
            }
            _ => None,
        });
        failed.collect()
    }

    /// Reserved hosts to which a server went in vain: no tries of its own.
    pub(crate) fn reserves_tried(&self, incident: &IncidentRecord, instance: &InstanceId) -> usize {
        let reserved = self.reserved_in(&incident.segment);
        let failed = self.failed_at(incident.id, instance);
        reserved.iter().filter(|host| failed.iter().any(|(to, _)| to.as_ref() == Some(*host))).count()
    }

    /// Nobody else is put on a host that is reserved, or that an incident has taken.
    pub(crate) fn reserve_bars(&self, incident: IncidentId, host: &HostRecord) -> Result<(), String> {
        match self.taken_by(&host.id) {
            Some(by) if by != incident => Err(format!("{by} has taken it from the reserve")),
            None if !self.in_openstack() && self.is_named_reserve(&host.id) => Err("it is reserved".to_owned()),
            _ => Ok(()),
        }
    }

    fn is_named_reserve(&self, host: &HostId) -> bool {
        self.settings.reserved_hosts.values().any(|hosts| hosts.contains(host))
    }

    /// What is shown of a host that is, or was to be, a reserve.
    pub(crate) fn reserve_text(&self, host: &HostRecord) -> String {
        let enabled = self.service(&host.id).is_none_or(|service| service.enabled);
        match self.taken_by(&host.id) {
            Some(by) => format!("reserved, taken by {by}"),
            None if !self.is_named_reserve(&host.id) => String::new(),
            None if self.in_openstack() && enabled => "named as reserved, and used like any other".to_owned(),
            None => "reserved".to_owned(),
        }
    }

    /// Reserved hosts of incidents that are over: used ones stay, others go back.
    pub(crate) fn review_reserve(&mut self) {
        if self.durable.site().paused.is_some() {
            return;
        }
        for host in self.durable.hosts.ids() {
            let Some(reserve) = self.host(&host).filter(|of| of.taken.is_some()).cloned() else { continue };
            let Some(taken) = reserve.taken.clone() else { continue };
            if self.incident(taken.by).is_some_and(|incident| !incident.phase.closed()) {
                continue;
            }
            if self.is_used(&host) {
                self.let_go(&host, format!("{host} was used by {}: it is no longer reserved", taken.by));
            } else if reserve.service == ServiceHold::default()
                && self.can_take(&reserve).is_ok()
                && self.given_back(&host, &taken)
            {
                self.let_go(&host, format!("{host} was not used by {} and is reserved again", taken.by));
            }
        }
    }

    fn let_go(&mut self, host: &HostId, text: String) {
        self.note("MDV-RESERVE", false, text);
        if let Some(record) = self.durable.hosts.edit(host) {
            record.taken = None;
        }
    }

    /// Disabled first, for the reason that it had; `true` when nothing is left to undo.
    fn given_back(&mut self, host: &HostId, taken: &Taken) -> bool {
        let why = "the incident is closed, and nobody is on the reserved host";
        let what = StepKind::ReturnReserve { host: host.clone(), reason: taken.reason.clone() };
        let act = |step| CloudAct::Disable { step, host: host.clone(), reason: taken.reason.clone() };
        let mut done = matches!(self.cloud_step(taken.by, what, why, TRY_AGAIN, act), StepState::Done { .. });
        if !done {
            return false;
        }
        for aggregate in &taken.aggregates {
            let what = StepKind::LeaveAggregate { host: host.clone(), aggregate: aggregate.clone() };
            let of = aggregate.clone();
            let act = |step| CloudAct::LeaveAggregate { step, host: host.clone(), aggregate: of };
            done &= matches!(self.cloud_step(taken.by, what, why, TRY_AGAIN, act), StepState::Done { .. });
        }
        done
    }

    /// Nova has done one of the steps above: what it last told is older than that.
    pub(crate) fn reserve_step_done(&mut self, what: &StepKind) {
        let (host, enabled) = match what {
            StepKind::TakeReserve { host, .. } => (host, true),
            StepKind::ReturnReserve { host, .. } => (host, false),
            _ => return,
        };
        if let Some(service) = self.sight.services.get_mut(host) {
            service.enabled = enabled;
        }
    }
}
