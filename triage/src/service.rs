//! A host's nova-compute taken out of service, and put back: forced down and
//! disabled once its host is dead, forced up and enabled once that is back.
//!
//! ```text
//!   proof -> forced down -> disabled, with our reason
//!   new boot, hold over -> forced up (again while Nova clears up) -> enabled, if the reason is still ours
//! ```

use crate::Triage;
use crate::cloud::{CloudAct, ComputeService, ServiceHold};
use crate::evacuation::NOT_SENT;
use crate::id::{HostId, IncidentId, StepId};
use crate::observation::Outcome;
use crate::record::{IncidentRecord, StepKind, StepRecord, StepState};
use crate::time::millis;
use std::time::Duration;

/// A step of the control plane that was refused, lost or failed is tried again after this.
pub(crate) const TRY_AGAIN: Duration = Duration::from_secs(5);
/// Un-forcing is refused while Nova clears up: asked again sooner, as servers wait for it.
const UNFORCE_AGAIN: Duration = Duration::from_secs(2);

impl Triage {
    /// Forced down first: a host that Nova believes up takes a minute to be
    /// disabled, and none of its servers would be evacuated.
    pub(crate) fn taken_out(&mut self, incident: &IncidentRecord, host: &HostId) -> Result<(), String> {
        let id = incident.id;
        let down = StepKind::ForceDown { host: host.clone() };
        let what = |step| CloudAct::ForceDown { step, host: host.clone() };
        let state = self.cloud_step(id, down, "the host is proven dead", TRY_AGAIN, what);
        if !matches!(state, StepState::Done { .. }) {
            return Err(format!("Nova has to be told first that {host} is down: {}", step_text(&state)));
        }
        Ok(())
    }

    /// Nobody evacuates faster for it: Nova schedules nothing to a host that is down.
    pub(crate) fn disabled(&mut self, id: IncidentId, host: &HostId) {
        let reason = self.reason_to_disable(host, format!("medevac {id}: {host} is dead"));
        let disable = StepKind::Disable { host: host.clone(), reason: reason.clone() };
        let enabled = self.service(host).is_none_or(|service| service.enabled);
        let begun = self.newest_step(id, |what| *what == disable).is_some();
        if enabled || begun {
            let what = |step| CloudAct::Disable { step, host: host.clone(), reason: reason.clone() };
            self.cloud_step(id, disable, "it is forced down", TRY_AGAIN, what);
        }
    }

    /// Nova keeps the first reason of a service that is disabled already, and by that we know our own again.
    pub(crate) fn reason_to_disable(&self, host: &HostId, reason: String) -> String {
        let earlier = self.host(host).map(|record| record.service.disabled.clone());
        earlier.filter(|earlier| !earlier.is_empty()).unwrap_or(reason)
    }

    /// A step that may be repeated without harm: committed once, sent until it is answered.
    pub(crate) fn cloud_step(
        &mut self,
        id: IncidentId,
        what: StepKind,
        precondition: &str,
        again: Duration,
        act: impl FnOnce(StepId) -> CloudAct,
    ) -> StepState {
        let now = self.now.at;
        if let Some(step) = self.newest_step(id, |known| *known == what) {
            let due = self.step_until.get(&step.id).is_none_or(|until| now >= *until);
            let open = !matches!(step.state, StepState::Done { .. });
            if open && due && self.durable.site().paused.is_none() {
                let wait = if step.state == StepState::Ordered { self.settings.cloud_deadline } else { again };
                self.step_until.insert(step.id, now.plus(wait));
                self.act(act(step.id));
            }
            return step.state;
        }
        let host = what.host().cloned();
        let (forces, disables) = match &what {
            StepKind::ForceDown { .. } => (true, None),
            StepKind::Disable { reason, .. } => (false, Some(reason.clone())),
            _ => (false, None),
        };
        // Durable with the order: whatever becomes of us, it is undone when the host is back.
        if let Some(record) = host.and_then(|host| self.durable.hosts.edit(&host)) {
            record.service.forced_down |= forces;
            if let Some(reason) = disables {
                record.service.disabled = reason;
            }
        }
        self.log(id, "cloud", what.to_string());
        let deadline = self.settings.cloud_deadline;
        let Some(step) = self.order_step(id, what, deadline, precondition) else { return StepState::Ordered };
        self.step_until.insert(step, now.plus(deadline));
        self.act(act(step));
        StepState::Ordered
    }

    pub(crate) fn service_step_answered(&mut self, step: &StepRecord, outcome: Outcome) {
        let state = match outcome {
            Outcome::Done { detail } => StepState::Done { detail },
            Outcome::Refused { reason, detail } => StepState::Refused { reason: format!("{reason}: {detail}") },
            Outcome::Unknown { detail } => StepState::Unknown { detail },
            Outcome::NotSent => StepState::Unknown { detail: NOT_SENT.to_owned() },
        };
        let again = if matches!(step.what, StepKind::Unforce { .. }) { UNFORCE_AGAIN } else { TRY_AGAIN };
        let (done, told) = (matches!(state, StepState::Done { .. }), state == step.state);
        if !done && !told {
            self.log(step.id.incident, "cloud", format!("{}: {}", step.what, step_text(&state)));
        }
        self.settle_step(step.id, state);
        if !done {
            self.step_until.insert(step.id, self.now.at.plus(again));
            return;
        }
        self.log(step.id.incident, "cloud-done", step.what.to_string());
        self.reserve_step_done(&step.what);
        let Some(record) = step.what.host().and_then(|host| self.durable.hosts.edit(host)) else { return };
        match &step.what {
            StepKind::Unforce { .. } => record.service.forced_down = false,
            StepKind::Enable { .. } => record.service = ServiceHold::default(),
            _ => {}
        }
    }

    /// A service that we took out comes back: forced up once Nova has cleared
    /// up behind it, and enabled last. `true` when nothing is left to undo.
    pub(crate) fn service_is_back(&mut self, id: IncidentId, host: &HostId) -> bool {
        let Some(record) = self.host(host).cloned() else { return true };
        if record.service == ServiceHold::default() {
            return true;
        }
        if !self.streams(host) || !self.hold_is_over(host) {
            return false;
        }
        if record.service.forced_down {
            let unforce = StepKind::Unforce { host: host.clone() };
            let act = |step| CloudAct::Unforce { step, host: host.clone() };
            self.cloud_step(id, unforce, "the host is back and its hold is over", UNFORCE_AGAIN, act);
            return false;
        }
        let reason = record.service.disabled.clone();
        if reason.is_empty() {
            if let Some(record) = self.durable.hosts.edit(host) {
                record.service = ServiceHold::default();
            }
            return true;
        }
        let enable = StepKind::Enable { host: host.clone(), reason: reason.clone() };
        let act = |step| CloudAct::Enable { step, host: host.clone(), reason };
        self.cloud_step(id, enable, "it is no longer forced down", TRY_AGAIN, act);
        false
    }

    /// Why a server cannot be started on its own host yet.
    pub(crate) fn service_bars(&self, host: &HostId) -> Option<String> {
        match self.service(host) {
            None => Some(format!("Nova has not told of a nova-compute on {host}")),
            Some(service) if service.forced_down => Some(format!("nova-compute on {host} is still forced down")),
            Some(service) if !service.up => Some(format!("nova-compute on {host} is not up yet")),
            // Nova believes for a minute what the last boot reported.
            Some(service) if !self.reported_in_this_boot(host, service) => {
                Some(format!("nova-compute on {host} has not reported since it booted"))
            }
            Some(_) => None,
        }
    }

    fn reported_in_this_boot(&self, host: &HostId, service: &ComputeService) -> bool {
        let live = self.watches.get(host).and_then(|watch| watch.session.as_ref());
        let reported = self.sight.services_at.map(|at| at.0.saturating_sub(millis(service.report_age)));
        match (live, reported) {
            (Some(live), Some(reported)) => self.hold_is_over(host) && reported > live.booted.0,
            _ => false,
        }
    }
}

fn step_text(state: &StepState) -> String {
    match state {
        StepState::Ordered => "asked for".to_owned(),
        StepState::Accepted => "taken up, under way".to_owned(),
        StepState::Done { detail } => detail.clone(),
        StepState::Refused { reason } => format!("refused: {reason}"),
        StepState::Unknown { detail } => format!("not known: {detail}"),
    }
}
