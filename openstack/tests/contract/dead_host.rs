//! A host that dies, from forced down to enabled again.

use crate::target::{Lab, Target, done};
use medevac_openstack::traces::{new_evacuations, new_migrations};
use medevac_openstack::{
    Answer, ComputeService, Kind, Migration, MigrationFilter, Server, ServiceState, ServiceStatus,
};
use std::time::{Duration, Instant};

pub async fn a_dead_host_is_forced_down_emptied_and_taken_back(target: &Target) {
    let Some(lab) = &target.lab else { return };
    let [alive, stopped, twice, ..] = &lab.servers[..] else { panic!("three servers are needed") };
    done(target.nova.stop(stopped, target.soon()).await);
    moved(target, stopped, &lab.host, "stopped").await;
    if !target.crash(lab).await {
        println!("  without MEDEVAC_CONTRACT_CRASH no host is broken");
        return;
    }
    let service = close(target, lab).await;
    evacuated_by_its_request_id(target, lab, alive).await;
    keeps_its_power_state(target, lab, stopped).await;
    breaks_when_evacuated_twice(target, twice).await;

    let early = target.nova.force_down(&service, false, target.soon()).await;
    assert_eq!(early.refused_as(), Some(Kind::NotYet), "{early:?}");
    if !target.bring_back(lab).await {
        println!("  without MEDEVAC_CONTRACT_RETURN the host stays as it is");
        return;
    }
    let back = taken_back(target, lab, &service, alive).await;
    assert_eq!(back.status, ServiceStatus::Disabled);
    let back = done(target.nova.enable(&service, target.soon()).await);
    assert_eq!((back.status, back.disabled_reason), (ServiceStatus::Enabled, None));
}

/// A returned nova-compute clears up behind one record of each server: of one that was
/// evacuated twice the other record stays `done`, and keeps its host forced down, until
/// nova-compute starts once more.
async fn taken_back(target: &Target, lab: &Lab, service: &str, alive: &str) -> ComputeService {
    let filter = MigrationFilter::evacuations_of(alive);
    let ask = async || target.nova.migrations(&filter, target.soon()).await;
    let cleared = |records: &Vec<Migration>| records[0].status == "completed";
    target.until("cleared up", ask, cleared).await;
    let up = async || target.nova.force_down(service, false, target.soon()).await;
    if up().await.refused_as() == Some(Kind::NotYet) {
        target.bring_back(lab).await;
    }
    target.until("forced up", up, |service: &ComputeService| !service.forced_down).await
}

/// Forced down first, then disabled: in that order neither takes long.
async fn close(target: &Target, lab: &Lab) -> String {
    let services = done(target.nova.compute_services(target.soon()).await);
    let service = services.into_iter().find(|service| service.host == lab.host).and_then(|service| service.id);
    let service = service.expect("the host has a service");
    let began = Instant::now();
    let down = done(target.nova.force_down(&service, true, target.soon()).await);
    assert_eq!((down.state, down.forced_down), (ServiceState::Down, true));
    let shut = done(target.nova.disable(&service, "medevac: contract", target.soon()).await);
    assert_eq!((shut.status, shut.disabled_reason.as_deref()), (ServiceStatus::Disabled, Some("medevac: contract")));
    assert!(began.elapsed() < Duration::from_secs(10), "it waited for a dead host");
    service
}

async fn moved(target: &Target, id: &str, to: &str, state: &str) -> Server {
    let ask = async || target.nova.server(id, target.soon()).await;
    let there = |server: &Server| {
        let settled = server.vm_state.as_deref() == Some(state) && server.task_state.is_none();
        settled && server.host.as_deref() == Some(to)
    };
    target.until("moved", ask, there).await
}

async fn evacuated_by_its_request_id(target: &Target, lab: &Lab, id: &str) {
    let who = done(target.nova.reach(target.soon()).await).who.user_id;
    let filter = MigrationFilter::evacuations_of(id);
    let before = done(target.nova.instance_actions(id, target.soon()).await);
    let records = done(target.nova.migrations(&filter, target.soon()).await);
    let accepted = done(target.nova.evacuate(id, Some(&lab.target), target.soon()).await);
    let request = accepted.request_id.expect("Nova names its request");

    // What would be found if the answer had been lost.
    let after = done(target.nova.instance_actions(id, target.soon()).await);
    let traces = new_evacuations(&before, &after, &who);
    assert_eq!(traces.iter().filter_map(|action| action.request_id.as_deref()).collect::<Vec<_>>(), [request.as_str()]);
    let after = done(target.nova.migrations(&filter, target.soon()).await);
    assert_eq!(new_migrations(&records, &after, id).len(), 1);

    let server = moved(target, id, &lab.target, "active").await;
    assert_eq!(server.status, "ACTIVE");
    let ask = async || target.nova.instance_action(id, &request, target.soon()).await;
    let detail = target.until("finished", ask, |detail| detail.succeeded("compute_rebuild_instance")).await;
    assert!(!detail.action.has_failed() && detail.action.action == "evacuate");
    let ask = async || target.nova.migrations(&filter, target.soon()).await;
    let finished = |records: &Vec<Migration>| records[0].status == "done";
    let records = target.until("migration done", ask, finished).await;
    assert_eq!(records[0].dest_compute.as_deref(), Some(lab.target.as_str()));
    // It has gone: Nova speaks of the host that it is on now.
    let again = target.nova.evacuate(id, None, target.soon()).await;
    let Answer::Refused(refusal) = again else { panic!("{again:?}") };
    assert!(refusal.kind == Kind::StillInUse && refusal.message.contains(&lab.target), "{refusal:?}");
}

async fn keeps_its_power_state(target: &Target, lab: &Lab, id: &str) {
    done(target.nova.evacuate(id, Some(&lab.target), target.soon()).await);
    assert_eq!(moved(target, id, &lab.target, "stopped").await.status, "SHUTOFF");
}

/// Nova has no guard: this is why nothing here is ever sent twice.
async fn breaks_when_evacuated_twice(target: &Target, id: &str) {
    done(target.nova.evacuate(id, None, target.soon()).await);
    let again = target.nova.evacuate(id, None, target.soon()).await;
    assert!(again.is_done(), "Nova has learned to refuse it: {again:?}");
    let ask = async || target.nova.server(id, target.soon()).await;
    target.until("broken", ask, |server: &Server| server.vm_state.as_deref() == Some("error")).await;
}
