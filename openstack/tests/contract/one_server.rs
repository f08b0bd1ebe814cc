//! What one server goes through on a host that is well.

use crate::target::{Target, done};
use medevac_openstack::{Kind, ResetTo, Server};

async fn in_state(target: &Target, id: &str, state: &str) -> Server {
    let ask = async || target.nova.server(id, target.soon()).await;
    let there = |server: &Server| server.vm_state.as_deref() == Some(state) && server.task_state.is_none();
    target.until(state, ask, there).await
}

pub async fn a_server_stops_and_starts_and_says_when_it_is_so_already(target: &Target) {
    let Some(lab) = &target.lab else { return };
    let id = &lab.servers[0];
    assert_eq!(target.nova.start(id, target.soon()).await.refused_as(), Some(Kind::Conflict));
    let accepted = done(target.nova.stop(id, target.soon()).await);
    in_state(target, id, "stopped").await;
    assert_eq!(target.nova.stop(id, target.soon()).await.refused_as(), Some(Kind::Conflict));
    done(target.nova.start(id, target.soon()).await);
    in_state(target, id, "active").await;
    let request = accepted.request_id.expect("Nova names its request");
    let action = done(target.nova.instance_action(id, &request, target.soon()).await).action;
    assert_eq!((action.action.as_str(), action.has_failed()), ("stop", false));
    assert_ne!(accepted.sent_as, request, "our id is not the one that Nova lists the action under");
}

pub async fn a_lock_is_seen_and_leaves_its_action(target: &Target) {
    let Some(lab) = &target.lab else { return };
    let id = &lab.servers[0];
    done(target.nova.lock(id, "medevac", target.soon()).await);
    assert!(done(target.nova.server(id, target.soon()).await).locked);
    done(target.nova.unlock(id, target.soon()).await);
    assert!(!done(target.nova.server(id, target.soon()).await).locked);
    let who = done(target.nova.reach(target.soon()).await).who.user_id;
    let actions = done(target.nova.instance_actions(id, target.soon()).await);
    let newest: Vec<_> = actions.iter().take(2).map(|action| action.action.as_str()).collect();
    assert_eq!(newest, ["unlock", "lock"], "newest first");
    assert_eq!(actions[0].user_id.as_deref(), Some(who.as_str()));
}

pub async fn a_state_can_be_declared(target: &Target) {
    let Some(lab) = &target.lab else { return };
    let id = &lab.servers[0];
    done(target.nova.reset_state(id, ResetTo::Error, target.soon()).await);
    assert_eq!(in_state(target, id, "error").await.status, "ERROR");
    done(target.nova.reset_state(id, ResetTo::Active, target.soon()).await);
    assert_eq!(in_state(target, id, "active").await.status, "ACTIVE");
}

pub async fn a_server_of_a_host_that_is_up_is_not_evacuated(target: &Target) {
    let Some(lab) = &target.lab else { return };
    let answer = target.nova.evacuate(&lab.servers[0], Some(&lab.target), target.soon()).await;
    assert_eq!(answer.refused_as(), Some(Kind::StillInUse), "{answer:?}");
}

pub async fn an_evacuation_to_its_own_or_to_no_host_is_refused_by_kind(target: &Target) {
    let Some(lab) = &target.lab else { return };
    let answer = target.nova.evacuate(&lab.servers[0], Some(&lab.host), target.soon()).await;
    assert_eq!(answer.refused_as(), Some(Kind::SameHost), "{answer:?}");
    let answer = target.nova.evacuate(&lab.servers[0], Some("no-such-host"), target.soon()).await;
    assert_eq!(answer.refused_as(), Some(Kind::UnknownTarget), "{answer:?}");
}
