//! The acts, each as its requests.

use super::ahead::Look;
use super::{LOOK_WITHIN, SERVICE_WITHIN, Shared, no, outcome, refused};
use medevac_openstack::{Answer, ComputeService, Failure, Kind, Migration};
use medevac_triage::{CloudAct, CloudNews, HostId, InstanceId, Outcome};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// A server that stops or starts is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// Tasks of a server during which Nova must not be asked for an evacuation.
const REBUILDING: &str = "rebuild";
/// A migration record in any other state is not over.
pub(super) const OVER: [&str; 7] = ["completed", "done", "failed", "error", "cancelled", "confirmed", "reverted"];

impl Shared {
    /// `None`: there is nothing to tell.
    pub(super) async fn carry_out(self: &Arc<Self>, act: CloudAct, begun: Instant) -> Option<CloudNews> {
        let news = match act {
            CloudAct::ReadAhead { instances } => {
                self.read_ahead(instances, begun + LOOK_WITHIN);
                return None;
            }
            CloudAct::ListServers { host, ask } => {
                let answer = self.nova.servers(Some(self.names.nova(&host)), begun + LOOK_WITHIN).await.result();
                let servers = match answer {
                    Ok(servers) => Ok(self.known(servers).await),
                    Err(failure) => Err(failure.to_string()),
                };
                CloudNews::Servers { host, ask, servers }
            }
            CloudAct::FindServer { instance, ask } => {
                let server = match self.nova.server(instance.as_str(), begun + LOOK_WITHIN).await.result() {
                    Ok(server) => Ok(self.known(vec![server]).await.pop().map(Box::new)),
                    Err(Failure::Refused(refusal)) if refusal.kind == Kind::NotFound => Ok(None),
                    Err(failure) => Err(failure.to_string()),
                };
                CloudNews::Found { instance, ask, server }
            }
            CloudAct::Follow { source, ask, moves } => {
                let courses = self.courses(&source, moves, begun + LOOK_WITHIN).await;
                CloudNews::Followed { source, ask, courses }
            }
            CloudAct::ForceDown { step, host } => {
                let until = begun + SERVICE_WITHIN;
                let done = match self.service(&host, until).await {
                    Ok(service) => outcome(self.nova.force_down(&service, true, until).await, service_text),
                    Err(no) => no,
                };
                CloudNews::Answered { step, outcome: done }
            }
            CloudAct::Unforce { step, host } => {
                let until = begun + SERVICE_WITHIN;
                let done = match self.service(&host, until).await {
                    Ok(service) => outcome(self.nova.force_down(&service, false, until).await, service_text),
                    Err(no) => no,
                };
                CloudNews::Answered { step, outcome: done }
            }
            CloudAct::Disable { step, host, reason } => {
                CloudNews::Answered { step, outcome: self.disable(&host, &reason, begun + SERVICE_WITHIN).await }
            }
            CloudAct::Enable { step, host, reason } => {
                CloudNews::Answered { step, outcome: self.enable(&host, &reason, begun + SERVICE_WITHIN).await }
            }
            CloudAct::TakeReserve { step, host, reason } => {
                CloudNews::Answered { step, outcome: self.take_reserve(&host, &reason, begun + SERVICE_WITHIN).await }
            }
            CloudAct::JoinAggregate { step, host, aggregate } => {
                let done = self.change_aggregate(&host, &aggregate, true, begun + SERVICE_WITHIN).await;
                CloudNews::Answered { step, outcome: done }
            }
            CloudAct::LeaveAggregate { step, host, aggregate } => {
                let done = self.change_aggregate(&host, &aggregate, false, begun + SERVICE_WITHIN).await;
                CloudNews::Answered { step, outcome: done }
            }
            CloudAct::Evacuate { step, instance, source, target, deadline, abandoned } => {
                let until = begun + deadline;
                let look = self.looked(&instance, begun, until).await;
                let done = self.evacuate(look, &instance, &source, target.as_ref(), &abandoned, until).await;
                CloudNews::Answered { step, outcome: done }
            }
            CloudAct::Restart { step, instance, host, deadline } => {
                CloudNews::Answered { step, outcome: self.restart(&instance, &host, begun + deadline).await }
            }
        };
        Some(news)
    }

    /// Nova's id of a host's nova-compute.
    async fn service(&self, host: &HostId, until: Instant) -> Result<String, Outcome> {
        if let Some(id) = self.service_id(host) {
            return Ok(id);
        }
        self.read_service(host, until).await.map(|service| service.id.unwrap_or_default())
    }

    async fn read_service(&self, host: &HostId, until: Instant) -> Result<ComputeService, Outcome> {
        let name = self.names.nova(host);
        match self.nova.compute_services(until).await {
            Answer::Done(services) => services
                .into_iter()
                .find(|service| service.host == name && service.id.is_some())
                .ok_or_else(|| refused("unknown-host", format!("Nova has no nova-compute on {name}"))),
            other => Err(outcome(other, |_| String::new())),
        }
    }

    /// Somebody else may have disabled it for a reason of theirs: that stays.
    async fn disable(&self, host: &HostId, reason: &str, until: Instant) -> Outcome {
        let service = match self.read_service(host, until).await {
            Ok(service) => service,
            Err(no) => return no,
        };
        if service.status == medevac_openstack::ServiceStatus::Disabled {
            let theirs = service.disabled_reason.unwrap_or_default();
            return Outcome::Done { detail: format!("it was disabled already: {theirs}") };
        }
        outcome(self.nova.disable(&service.id.unwrap_or_default(), reason, until).await, service_text)
    }

    async fn enable(&self, host: &HostId, reason: &str, until: Instant) -> Outcome {
        let service = match self.read_service(host, until).await {
            Ok(service) => service,
            Err(no) => return no,
        };
        if service.disabled_reason.as_deref() != Some(reason) {
            return Outcome::Done { detail: "not disabled by us, or not any more: left as it is".to_owned() };
        }
        outcome(self.nova.enable(&service.id.unwrap_or_default(), until).await, service_text)
    }

    /// Whoever disabled it for another reason meanwhile did not mean a reserve.
    async fn take_reserve(&self, host: &HostId, reason: &str, until: Instant) -> Outcome {
        let service = match self.read_service(host, until).await {
            Ok(service) => service,
            Err(no) => return no,
        };
        if service.status == medevac_openstack::ServiceStatus::Enabled {
            return Outcome::Done { detail: "it was enabled already".to_owned() };
        }
        let now = service.disabled_reason.unwrap_or_default();
        if now != reason {
            return refused("other-reason", format!("it is disabled for another reason now: {now}"));
        }
        outcome(self.nova.enable(&service.id.unwrap_or_default(), until).await, service_text)
    }

    /// As wanted already is done, too: the answer to an earlier request may have been lost.
    async fn change_aggregate(&self, host: &HostId, aggregate: &str, join: bool, until: Instant) -> Outcome {
        let name = self.names.nova(host);
        let all = match self.nova.aggregates(until).await {
            Answer::Done(all) => all,
            other => return outcome(other, |_| String::new()),
        };
        let Some(found) = all.into_iter().find(|one| one.name == aggregate) else {
            return match join {
                true => refused("unknown-aggregate", format!("Nova has no aggregate {aggregate}")),
                false => Outcome::Done { detail: "there is no such aggregate any more".to_owned() },
            };
        };
        if found.hosts.iter().any(|known| known == name) == join {
            return Outcome::Done { detail: "as it was already".to_owned() };
        }
        let changed = match join {
            true => self.nova.add_host_to_aggregate(found.id, name, until).await,
            false => self.nova.remove_host_from_aggregate(found.id, name, until).await,
        };
        outcome(changed, |_| String::new())
    }

    /// Nova takes a second evacuation of a server and breaks it, so everything
    /// is read again directly before, and nothing is sent late.
    async fn evacuate(
        &self,
        look: Look,
        id: &InstanceId,
        source: &HostId,
        target: Option<&HostId>,
        abandoned: &BTreeSet<i64>,
        until: Instant,
    ) -> Outcome {
        let server = match look.server {
            Answer::Done(server) => server,
            Answer::Refused(refusal) => return no(&refusal),
            Answer::Unknown(_) | Answer::NotSent(_) => return Outcome::NotSent,
        };
        let Answer::Done(migrations) = look.migrations else { return Outcome::NotSent };
        let name = self.names.nova(source);
        if server.host.as_deref() != Some(name) {
            let now = server.host.unwrap_or_default();
            return refused("moved", format!("Nova places it on {now:?}, no longer on {name}"));
        }
        // What an abandoned evacuation has left behind.
        let left = migrations.iter().any(|migration| abandoned.contains(&migration.id));
        if let Some(task) = server.task_state.filter(|task| task.starts_with(REBUILDING) && !left) {
            return refused("conflict", format!("it is being rebuilt already: {task}"));
        }
        let under_way =
            |migration: &&Migration| !OVER.contains(&migration.status.as_str()) && !abandoned.contains(&migration.id);
        if let Some(migration) = migrations.iter().find(under_way) {
            return refused("conflict", format!("migration {} of it is {}", migration.id, migration.status));
        }
        if Instant::now() >= until {
            return Outcome::NotSent;
        }
        let target = target.map(|host| self.names.nova(host));
        outcome(self.nova.evacuate(id.as_str(), target, until).await, |accepted| {
            accepted.request_id.unwrap_or_default()
        })
    }

    /// Through Nova, so that its state stays true: for some seconds after a
    /// crash it still calls the server active.
    async fn restart(&self, id: &InstanceId, host: &HostId, until: Instant) -> Outcome {
        let name = self.names.nova(host);
        let mut asked_to_start = false;
        let mut asked_to_stop = false;
        while Instant::now() + LOOK_EVERY < until {
            let server = match self.nova.server(id.as_str(), until).await {
                Answer::Done(server) => server,
                Answer::Refused(refusal) => return no(&refusal),
                Answer::Unknown(_) | Answer::NotSent(_) => {
                    sleep(LOOK_EVERY).await;
                    continue;
                }
            };
            if server.host.as_deref() != Some(name) {
                return refused("moved", format!("Nova places it on {:?}", server.host.unwrap_or_default()));
            }
            let state = server.vm_state.unwrap_or_default();
            match (state.as_str(), server.task_state.is_some()) {
                (_, true) => {}
                ("active", false) if asked_to_start => return Outcome::Done { detail: "active".to_owned() },
                ("active", false) if !asked_to_stop => {
                    asked_to_stop = true;
                    let answer = self.nova.stop(id.as_str(), until).await;
                    if answer.refused_as().is_some_and(|kind| kind != Kind::Conflict) {
                        return outcome(answer, |_| String::new());
                    }
                }
                ("stopped", false) if !asked_to_start => {
                    asked_to_start = true;
                    match self.nova.start(id.as_str(), until).await {
                        Answer::Done(_) => {}
                        Answer::Refused(refusal) if refusal.kind == Kind::Conflict => asked_to_start = false,
                        Answer::NotSent(_) => asked_to_start = false,
                        other => return outcome(other, |_| String::new()),
                    }
                }
                ("active" | "stopped", false) => {}
                (other, false) => return refused("state", format!("it is {other}: Nova starts it from stopped alone")),
            }
            sleep(LOOK_EVERY).await;
        }
        Outcome::Unknown { detail: "Nova has not said that it is active in time".to_owned() }
    }
}

fn service_text(service: ComputeService) -> String {
    let down = if service.forced_down { "forced down" } else { "not forced down" };
    format!("{down}, {:?}", service.status).to_lowercase()
}
