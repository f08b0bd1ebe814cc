//! What the view promises, one sentence each.
use super::*;
use crate::domain_xml::Description;
use medevac_proto::session::RunState;
use std::sync::Arc;

const U: &str = "u";

fn process(pid: i32) -> Process {
    Process { uuid: U.into(), pid, start: 100, incoming: false }
}

fn incoming(pid: i32) -> Process {
    Process { incoming: true, ..process(pid) }
}

fn domain(state: u32, reason: i32) -> Domain {
    Domain {
        uuid: U.into(),
        name: "g".into(),
        state,
        reason,
        persistent: true,
        autostart: false,
        managed_save: false,
        description: None,
    }
}

fn names(facts: &[What]) -> Vec<String> {
    let name = |w: &What| match w {
        What::InstanceGone(g) => format!("gone {}", g.pid),
        What::InstanceStopped(s) => format!("stopped {} {:?}", s.pid, s.reason()),
        What::InstanceStarted(s) => format!("started {}", s.pid),
        other => format!("{other:?}"),
    };
    facts.iter().map(name).collect()
}

fn state(guests: &mut Guests) -> Option<RunState> {
    guests.publish();
    guests.published().next().map(Instance::state)
}

fn running() -> Guests {
    let mut g = Guests::default();
    assert_eq!(names(&g.process_found(process(7))), ["started 7"]);
    assert_eq!(names(&g.domains(vec![domain(1, 1)])), Vec::<String>::new());
    g
}

#[test]
fn a_killed_guest_is_gone_at_once_and_crashed_when_libvirt_says_so() {
    let mut g = running();
    assert_eq!(state(&mut g), Some(RunState::Running));
    assert_eq!(names(&g.process_ended(&process(7))), ["gone 7"]);
    assert_eq!(state(&mut g), Some(RunState::Stopped));
    assert_eq!(g.untold(), [U]);
    assert_eq!(names(&g.lifecycle(U, event::STOPPED, 5)), ["stopped 7 Crashed"]);
    assert_eq!(names(&g.domain(U, Some(domain(5, 3)))), Vec::<String>::new(), "told once");
    assert!(g.untold().is_empty());
}

#[test]
fn a_stop_that_libvirt_tells_first_waits_for_the_process_to_end() {
    let mut g = running();
    g.lifecycle(U, event::SHUTDOWN, 1);
    assert_eq!(names(&g.lifecycle(U, event::STOPPED, 0)), Vec::<String>::new());
    g.domain(U, Some(domain(5, 1)));
    assert_eq!(state(&mut g), Some(RunState::Running), "the process may still write");
    assert_eq!(names(&g.process_ended(&process(7))), ["gone 7", "stopped 7 GuestShutdown"]);
    assert_eq!(state(&mut g), Some(RunState::Stopped));
}

#[test]
fn a_reason_whose_event_was_lost_is_read_from_the_state() {
    let mut g = running();
    g.libvirt_lost();
    g.process_ended(&process(7));
    assert_eq!(state(&mut g), Some(RunState::Stopped), "libvirt being down hides no death");
    assert_eq!(names(&g.domains(vec![domain(5, 3)])), ["stopped 7 Crashed"]);
}

#[test]
fn a_signalled_qemu_is_told_from_a_shutdown_inside_even_by_state() {
    let mut g = running();
    g.lifecycle(U, event::SHUTDOWN, 2);
    g.process_ended(&process(7));
    assert_eq!(names(&g.domain(U, Some(domain(5, 1)))), ["stopped 7 Signalled"]);
}

#[test]
fn a_transient_domain_that_vanishes_keeps_its_cause_pending() {
    let mut g = running();
    assert_eq!(names(&g.process_ended(&process(7))), ["gone 7"]);
    assert_eq!(names(&g.domain(U, None)), Vec::<String>::new());
    assert_eq!(state(&mut g), None, "nothing is left to show");
    assert_eq!(names(&g.lifecycle(U, event::STOPPED, 5)), ["stopped 7 Crashed"], "told late");
}

#[test]
fn a_guest_that_ended_while_the_agent_was_down_is_told() {
    let ran = [(U.to_owned(), (7, 100))].into();
    let mut g = Guests::new(&ran, &BTreeMap::new(), &BTreeSet::new());
    assert_eq!(names(&g.first_scan_done(&BTreeSet::new())), ["gone 7"]);
    assert_eq!(names(&g.domains(vec![domain(5, 3)])), ["stopped 7 Crashed"]);
}

#[test]
fn a_reason_owed_before_a_restart_of_the_agent_is_told_after_it() {
    let mut g = running();
    g.process_ended(&process(7));
    let owed = g.owed();
    let mut g = Guests::new(&g.running(), &owed, &BTreeSet::new());
    assert_eq!(names(&g.first_scan_done(&BTreeSet::new())), Vec::<String>::new(), "gone was told");
    assert_eq!(names(&g.domains(vec![domain(5, 3)])), ["stopped 7 Crashed"]);
    assert!(g.owed().is_empty());
}

#[test]
fn a_guest_that_survived_the_agent_is_not_told_again() {
    let ran = [(U.to_owned(), (7, 100))].into();
    let mut g = Guests::new(&ran, &BTreeMap::new(), &BTreeSet::new());
    assert_eq!(names(&g.process_found(process(7))), Vec::<String>::new());
    assert_eq!(names(&g.first_scan_done(&[process(7).key()].into())), Vec::<String>::new());
}

#[test]
fn a_restarted_guest_is_another_incarnation() {
    let mut g = running();
    assert_eq!(names(&g.process_found(process(8))), ["gone 7", "started 8"]);
    assert_eq!(names(&g.process_ended(&process(7))), Vec::<String>::new(), "told already");
    assert_eq!(state(&mut g), Some(RunState::Running));
}

#[test]
fn an_incoming_copy_starts_when_it_first_runs_and_not_before() {
    let mut g = Guests::default();
    assert_eq!(names(&g.process_found(incoming(9))), Vec::<String>::new());
    g.lifecycle(U, 2, 1);
    g.domains(vec![domain(3, 2)]);
    assert_eq!(state(&mut g), Some(RunState::Incoming));
    assert!(!g.has_run(U) && g.running().is_empty());
    assert_eq!(names(&g.domain(U, Some(domain(1, 2)))), ["started 9"]);
    assert_eq!(state(&mut g), Some(RunState::Running));
    assert_eq!(g.migrated(), [incoming(9).key()].into());
}

#[test]
fn a_migrated_guest_stays_arrived_when_the_agent_restarts() {
    let mut g = Guests::new(&BTreeMap::new(), &BTreeMap::new(), &[incoming(9).key()].into());
    g.process_found(incoming(9));
    assert_eq!(state(&mut g), Some(RunState::Running), "even while libvirt is down");
}

#[test]
fn a_guest_paused_by_its_user_and_moved_has_arrived() {
    let mut g = Guests::default();
    g.process_found(incoming(9));
    g.domains(vec![domain(3, 1)]);
    assert_eq!(state(&mut g), Some(RunState::Paused));
}

#[test]
fn an_inventory_changes_its_digest_only_with_its_content() {
    let mut g = running();
    let first = g.publish().unwrap();
    assert_eq!((first.base_generation, first.generation), (0, 1));
    assert!(g.publish().is_none());
    g.domain(U, Some(domain(3, 1)));
    let second = g.publish().unwrap();
    assert_eq!((second.base_generation, second.generation), (1, 2));
    assert_ne!(first.digest, second.digest);
    g.domain(U, Some(domain(1, 1)));
    assert_eq!(g.publish().unwrap().digest, first.digest);
    g.process_ended(&process(7));
    g.domain(U, None);
    assert_eq!(g.publish().unwrap().removed, [U]);
}

#[test]
fn without_libvirt_only_what_runs_is_shown() {
    let mut g = running();
    let off = Domain { uuid: "v".into(), ..domain(5, 0) };
    g.domains(vec![domain(1, 1), off]);
    g.publish();
    let whole = |answered| g.inventory(3, answered, 9).instances.len();
    assert_eq!((whole(true), whole(false)), (2, 1));
}

#[test]
fn disks_carry_markers_and_media_without_one_bind_to_the_host() {
    let mut g = running();
    let source = |path: &str, medium| crate::domain_xml::Source {
        path: path.into(),
        kind: crate::domain_xml::Kind::File,
        medium,
    };
    let description =
        Description { sources: vec![source("/shared/a", false), source("/iso/x", true)], ..Description::default() };
    g.domain(U, Some(Domain { description: Some(Arc::new(description)), ..domain(1, 1) }));
    let marked = Marked { marker: "m1".into(), readable: true, ..Marked::default() };
    g.set_storage([("/shared".into(), marked)].into(), [("/shared/a".into(), "/base/b".into())].into());
    g.publish();
    let i = g.published().next().unwrap().clone();
    let disks: Vec<_> = i.disks.iter().map(|d| (d.path.as_str(), d.marker.as_str())).collect();
    assert_eq!(disks, [("/shared/a", "m1"), ("/base/b", "")]);
    assert_eq!(i.local_only, ["local medium /iso/x"]);
    let files = g.files();
    assert!(files["/base/b"].make && !files["/iso/x"].make, "no marker is made beside a medium");
    assert_eq!(files["/shared/a"].by, [(7, 100)].into(), "it is read as that QEMU sees it");
    let why = "libvirt and a QEMU see different storages there";
    let unseen = Marked { why: why.into(), ..Marked::default() };
    g.set_storage([("/shared".into(), unseen)].into(), [].into());
    g.publish();
    let i = g.published().next().unwrap().clone();
    assert_eq!(i.local_only, [format!("/shared/a cannot be judged: {why}"), "local medium /iso/x".to_owned()]);
}

#[test]
fn folders_that_share_the_marker_of_their_place_are_told_by_the_place_alone() {
    let folder = |last| format!("/inst/00000000-0000-0000-0000-00000000000{last}");
    let marked = |marker: &str| Marked { marker: marker.into(), readable: true, ..Marked::default() };
    let storage =
        [("/inst".into(), marked("m1")), (folder(1), marked("m1")), (folder(2), marked("m2")), (folder(3), marked(""))];
    let mut g = running();
    g.set_storage(storage.into(), [].into());
    let told: Vec<_> = g.publish().unwrap().storage.into_iter().map(|s| (s.directory, s.marker)).collect();
    assert_eq!(told, [("/inst".to_owned(), "m1".to_owned()), (folder(2), "m2".to_owned())]);
}
