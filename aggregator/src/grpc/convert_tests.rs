//! What broken, hostile, older and newer agents send.

#![allow(clippy::unwrap_used)]

use super::*;

const GUEST: &str = "7A3F0CB2-0000-4000-8000-000000000001";

fn instance(state: i32, alive: bool) -> wire::Instance {
    wire::Instance { uuid: GUEST.into(), name: "web".into(), state, process_alive: alive, ..Default::default() }
}

fn taken(instances: Vec<wire::Instance>) -> Checked<Inventory> {
    inventory(&wire::Inventory { instances, libvirt_answered: true, ..Default::default() })
}

#[test]
fn a_uuid_has_one_spelling() {
    assert_eq!(uuid("x", GUEST).unwrap().as_str(), "7a3f0cb2-0000-4000-8000-000000000001");
    assert!(uuid("x", "web").is_err());
}

#[test]
fn a_state_of_a_newer_agent_counts_as_alive() {
    let inventory = taken(vec![instance(99, false)]).unwrap();
    assert_eq!(inventory.instances.values().next().unwrap().state, RunState::Paused);
    let inventory = taken(vec![instance(0, false)]).unwrap();
    assert!(inventory.instances.values().next().unwrap().state.lives());
}

#[test]
fn a_living_process_outweighs_a_stopped_state() {
    let stopped = wire::RunState::Stopped as i32;
    assert!(taken(vec![instance(stopped, true)]).unwrap().instances.values().next().unwrap().state.lives());
    assert!(!taken(vec![instance(stopped, false)]).unwrap().instances.values().next().unwrap().state.lives());
}

#[test]
fn what_is_too_much_or_twice_or_no_uuid_is_refused_by_name() {
    let many = (0..=INSTANCES_MAX)
        .map(|n| wire::Instance { uuid: uuid::Uuid::from_u128(n as u128).to_string(), ..Default::default() });
    assert_eq!(taken(many.collect()).unwrap_err().field, "inventory");
    assert_eq!(taken(vec![instance(1, true), instance(1, true)]).unwrap_err().field, "inventory.uuid");
    let nameless = wire::Instance { uuid: "../../etc".into(), ..Default::default() };
    assert_eq!(taken(vec![nameless]).unwrap_err().field, "inventory.uuid");
    let long = wire::Instance { name: "x".repeat(300), ..instance(1, true) };
    assert_eq!(taken(vec![long]).unwrap_err().field, "instance.name");
}

#[test]
fn an_unknown_fact_is_counted_as_lost_and_thus_acknowledged() {
    let unknown = wire::Fact { seq: 7, ..Default::default() };
    assert!(matches!(fact(&unknown), Fact::Lost { first: 7, last: 7, .. }));
}

#[test]
fn an_inconclusive_answer_says_nothing() {
    let said =
        |answer: i32| wire::ProbeResult { host: "hv2".into(), plane: "mgmt".into(), answer, ..Default::default() };
    assert_eq!(results(&[said(0), said(42), said(3)]).len(), 1);
    let nameless = wire::ProbeResult { host: "a b".into(), ..said(3) };
    assert!(results(&[nameless]).is_empty());
}

#[test]
fn a_reference_is_told_from_a_host_by_its_plane() {
    let said = wire::ProbeResult {
        host: "10.77.1.254".into(),
        plane: REFERENCE_PLANE.into(),
        answer: 2,
        ..Default::default()
    };
    assert_eq!(results(&[said])[0].target, ProbeTarget::Reference("10.77.1.254".into()));
}

#[test]
fn an_outcome_of_a_newer_agent_is_unknown_and_so_possibly_running() {
    let result = wire::CommandResult { outcome: 77, ..Default::default() };
    assert!(matches!(outcome(&result), Outcome::Unknown { .. }));
    let failed = wire::CommandResult { outcome: 4, reason: "start_failed".into(), ..Default::default() };
    assert!(matches!(outcome(&failed), Outcome::Refused { .. }));
}
