//! nova-compute that is down on a host that lives: its servers run, but Nova
//! can neither start, stop nor move them. Nothing is moved: the host is taken
//! out of scheduling, and put back when the service has been well for a while.
//!
//! ```text
//!   down for DOWN_FOR, host heard -> ServiceDown --act--> disabled, with our reason
//!                                        |  \--its host dies--> closed, its incident goes on
//!                                        \--up for WELL_FOR--> enabled, if the reason is still ours -> closed
//! ```

use crate::Triage;
use crate::cloud::{CloudAct, ServiceHold};
use crate::id::{HostId, IncidentId};
use crate::incident::Opening;
use crate::record::{HostRecord, IncidentKind, IncidentRecord, Mode, Phase, StepKind};
use crate::service::TRY_AGAIN;
use crate::standing::Standing;
use std::time::Duration;

/// Nova has waited a minute before it calls a service down; a restart of it, or
/// a boot of its host, takes not much longer.
const DOWN_FOR: Duration = Duration::from_secs(30);
/// Several reports in a row: a service that crashes in a loop is not well.
const WELL_FOR: Duration = Duration::from_secs(60);
/// In an administrator's reason for disabling a service: its host is in maintenance.
const MAINTENANCE: &str = "maintenance";

impl Triage {
    /// What the services that were just read mean for their hosts.
    pub(crate) fn note_services(&mut self) {
        let now = self.now.at;
        for host in self.durable.hosts.ids() {
            let Some(service) = self.service(&host).cloned() else { continue };
            let since = self.sight.service_since.entry(host.clone()).or_insert((service.up, now));
            if since.0 != service.up {
                *since = (service.up, now);
            }
            self.excuse(&host, service.enabled, &service.disabled_reason);
        }
    }

    /// Whoever disabled it says that its host is being worked on.
    fn excuse(&mut self, host: &HostId, enabled: bool, reason: &str) {
        let Some(record) = self.host(host) else { return };
        let theirs = !enabled && reason != record.service.disabled;
        let excused = theirs && reason.to_lowercase().contains(MAINTENANCE);
        let text = if excused { reason } else { "" };
        if record.cloud_maintenance == text {
            return;
        }
        let text = text.to_owned();
        if let Some(record) = self.durable.hosts.edit(host) {
            record.cloud_maintenance = text.clone();
        }
        let told = match excused {
            true => format!("{host} is in maintenance: its nova-compute was disabled, {text:?}"),
            false => format!("{host} is no longer in maintenance by the word of its nova-compute"),
        };
        self.note("MDV-CLOUD-MAINTENANCE", false, told);
    }

    /// Opens an incident for each service that stays down on a host that lives, and for each that
    /// is still disabled by us: the incident that did it was overtaken by another one.
    pub(crate) fn review_services(&mut self) {
        let now = self.now.at;
        for host in self.durable.hosts.ids() {
            let Some(record) = self.host(&host).filter(|record| self.service_is_ours_to_judge(record)) else {
                continue;
            };
            let down = match self.sight.service_since.get(&host) {
                Some((false, since)) if now.since(*since) >= DOWN_FOR => true,
                Some((true, _)) if !record.service.disabled.is_empty() => false,
                _ => continue,
            };
            let opening =
                Opening { kind: IncidentKind::ServiceDown, host: Some(host.clone()), boot: None, instance: None };
            let id = self.open_incident(opening, Phase::Watching);
            if self.incident(id).is_some_and(|incident| incident.timeline.is_empty()) {
                let text = match down {
                    true => format!("nova-compute on {host} is down, and the host is heard"),
                    false => format!("nova-compute on {host} is up, and an earlier incident has disabled it"),
                };
                self.log(id, "service-down", text.clone());
                self.note("MDV-CLOUD-SERVICE", down, format!("{id}: {text}"));
            }
        }
    }

    fn service_is_ours_to_judge(&self, record: &HostRecord) -> bool {
        let host = &record.id;
        let lives = self.standing(record) == Standing::Heard && self.streams(host) && self.hold_is_over(host);
        let ours = self.service(host).is_some_and(|service| service.forced_down) || record.service.forced_down;
        lives && !ours && self.maintenance(record).is_none() && self.host_incident(host).is_none()
    }

    pub(crate) fn review_service_down(&mut self, incident: &IncidentRecord) {
        let id = incident.id;
        let Some(host) = incident.host.clone() else { return };
        self.rest(id);
        if let Some(other) = self.host_incident(&host) {
            return self.close(id, "overtaken", format!("{host} itself is dealt with in {other}"));
        }
        let Some(record) = self.host(&host).cloned() else { return };
        if self.service(&host).is_none() || self.sight.trouble.is_some() {
            return;
        }
        match self.sight.service_since.get(&host) {
            Some((true, since)) if self.now.at.since(*since) >= WELL_FOR => {
                self.service_is_well(id, &host, &record.service)
            }
            Some((true, _)) => {}
            _ => self.take_out_of_scheduling(incident, &host),
        }
    }

    fn service_is_well(&mut self, id: IncidentId, host: &HostId, hold: &ServiceHold) {
        let undone = *hold == ServiceHold::default() || self.service_is_back(id, host);
        if undone {
            self.close(id, "recovered", format!("nova-compute on {host} has been up for {WELL_FOR:?}"));
        }
    }

    /// Only in act: in the other modes a person reads the alert.
    fn take_out_of_scheduling(&mut self, incident: &IncidentRecord, host: &HostId) {
        let id = incident.id;
        let bound = self.mode(&incident.segment) != Mode::Act || self.durable.site().paused.is_some();
        let reason = self.reason_to_disable(host, format!("medevac {id}: nova-compute is down"));
        let disable = StepKind::Disable { host: host.clone(), reason: reason.clone() };
        let begun = self.newest_step(id, |what| *what == disable).is_some();
        let enabled = self.service(host).is_some_and(|service| service.enabled);
        if !bound && (enabled || begun) {
            let what = |step| CloudAct::Disable { step, host: host.clone(), reason: reason.clone() };
            self.cloud_step(id, disable, "its host is heard, and Nova calls the service down", TRY_AGAIN, what);
        }
    }
}
