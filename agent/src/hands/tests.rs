//! What the hands promise, one sentence each, against a fake hypervisor.
use super::*;
use crate::domain_xml::Description;
use crate::hypervisor::{Domain, Fault, Migration};
use async_trait::async_trait;
use medevac_proto::session::{DestroyIncoming, LeaveInstance, ReleaseHold, RemoveInstance, StartInstance};
use std::collections::BTreeMap;

const U: &str = "3f1a2b3c-0000-4000-8000-00000000000a";
const BOOT: &str = "boot-1";

/// A hypervisor in memory; `say` decides how it misbehaves.
#[derive(Default)]
struct Fake {
    domains: Mutex<BTreeMap<String, Domain>>,
    processes: Mutex<BTreeMap<String, Process>>,
    fault: Mutex<Option<(&'static str, Fault)>>,
    outgoing: Mutex<bool>,
    calls: Mutex<Vec<String>>,
}

impl Fake {
    fn call(&self, name: &'static str) -> Result<(), Fault> {
        self.calls.lock().unwrap().push(name.to_owned());
        match &*self.fault.lock().unwrap() {
            Some((which, fault)) if *which == name => Err(fault.clone()),
            _ => Ok(()),
        }
    }

    fn calls(&self) -> String {
        self.calls.lock().unwrap().join(" ")
    }

    fn set_state(&self, uuid: &str, state: u32, reason: i32) {
        if let Some(d) = self.domains.lock().unwrap().get_mut(uuid) {
            (d.state, d.reason) = (state, reason);
        }
    }
}

#[async_trait]
impl Hypervisor for Fake {
    async fn domains(&self) -> Result<Vec<Domain>, Fault> {
        Ok(self.domains.lock().unwrap().values().cloned().collect())
    }
    async fn domain(&self, uuid: &str) -> Result<Option<Domain>, Fault> {
        match &*self.fault.lock().unwrap() {
            Some(("domain", fault)) => Err(fault.clone()),
            _ => Ok(self.domains.lock().unwrap().get(uuid).cloned()),
        }
    }
    async fn migration(&self, _: &str) -> Result<Migration, Fault> {
        Ok(if *self.outgoing.lock().unwrap() { Migration::Outgoing } else { Migration::Incoming })
    }
    async fn define(&self, xml: &str) -> Result<(), Fault> {
        self.call("define")?;
        let description = Description::parse(xml).unwrap();
        let d = domain(5, 0, Some(description.clone()));
        self.domains.lock().unwrap().insert(description.uuid, d);
        Ok(())
    }
    async fn start(&self, uuid: &str) -> Result<(), Fault> {
        self.call("start")?;
        self.set_state(uuid, 1, 1);
        self.processes.lock().unwrap().insert(uuid.to_owned(), process(false));
        Ok(())
    }
    async fn destroy(&self, uuid: &str) -> Result<(), Fault> {
        self.call("destroy")?;
        self.set_state(uuid, 5, 2);
        self.processes.lock().unwrap().remove(uuid);
        Ok(())
    }
    async fn undefine(&self, uuid: &str) -> Result<(), Fault> {
        self.call("undefine")?;
        self.domains.lock().unwrap().remove(uuid);
        Ok(())
    }
    async fn set_autostart(&self, _: &str, _: bool) -> Result<(), Fault> {
        self.call("set_autostart")
    }
    async fn note_autostart(&self, _: &str, _: bool) -> Result<(), Fault> {
        self.call("note_autostart")
    }
}

fn xml(extra: &str) -> String {
    format!("<domain type='qemu'><name>g</name><uuid>{U}</uuid>{extra}</domain>")
}

fn domain(state: u32, reason: i32, description: Option<Description>) -> Domain {
    Domain {
        uuid: U.into(),
        name: "g".into(),
        state,
        reason,
        persistent: true,
        autostart: false,
        managed_save: false,
        description: description.map(Arc::new),
    }
}

fn process(incoming: bool) -> Process {
    Process { uuid: U.into(), pid: 7, start: 9, incoming }
}

struct Bench {
    fake: Arc<Fake>,
    state: Arc<StateFile>,
    hands: Hands,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let state = Arc::new(StateFile::open(dir.path(), BOOT).unwrap());
        state.change(|s| s.site = "site".into()).unwrap();
        let fake = Arc::new(Fake::default());
        let hands = hands(&fake, &state, dir.path());
        Bench { fake, state, hands, dir }
    }

    fn defined(self) -> Bench {
        let description = Description::parse(&xml("")).unwrap();
        self.fake.domains.lock().unwrap().insert(U.into(), domain(5, 0, Some(description)));
        self
    }

    fn fault(&self, call: &'static str, fault: Fault) {
        *self.fake.fault.lock().unwrap() = Some((call, fault));
    }

    async fn run(&self, command: Command) -> String {
        let r = self.hands.run(command).await.unwrap();
        format!("{:?} {}", r.outcome(), r.reason)
    }
}

fn hands(fake: &Arc<Fake>, state: &Arc<StateFile>, dir: &std::path::Path) -> Hands {
    let look = Arc::clone(fake);
    let look = Box::new(move |uuid: &str| look.processes.lock().unwrap().get(uuid).cloned());
    Hands::new(Arc::clone(fake) as _, look, Arc::clone(state), BOOT, || 1000, dir.join("removed"))
}

fn epoch(number: u64) -> Option<medevac_proto::session::Epoch> {
    Some(medevac_proto::session::Epoch { number, start_id: "s".into() })
}

fn command(id: &str, order: Order) -> Command {
    Command {
        id: id.into(),
        site: "site".into(),
        epoch: epoch(5),
        boot_id: BOOT.into(),
        not_after_boot_ms: 2000,
        order: Some(order),
    }
}

fn start(id: &str, xml: &str) -> Command {
    command(id, Order::Start(StartInstance { uuid: U.into(), xml: xml.into(), name: "g".into() }))
}

#[tokio::test]
async fn a_guest_is_defined_started_and_seen_to_run() {
    let b = Bench::new();
    assert_eq!(b.run(start("c1", &xml(""))).await, "Done running");
    assert_eq!(b.fake.calls(), "define start");
    assert_eq!(b.state.read().epoch.as_ref().unwrap().number, 5);
}

#[tokio::test]
async fn a_definition_that_is_here_already_is_not_made_again() {
    let b = Bench::new().defined();
    assert_eq!(b.run(start("c1", &xml(""))).await, "Done running");
    assert_eq!(b.fake.calls(), "start");
}

#[tokio::test]
async fn a_repeated_command_gets_its_first_result_and_acts_once() {
    let b = Bench::new().defined();
    assert_eq!(b.run(start("c1", "")).await, "Done running");
    b.fake.processes.lock().unwrap().clear();
    assert_eq!(b.run(start("c1", "")).await, "Done running");
    let again = hands(&b.fake, &b.state, b.dir.path());
    assert_eq!(again.run(start("c1", "")).await.unwrap().reason, "running", "also after a restart");
    assert_eq!(b.fake.calls(), "start");
}

#[tokio::test]
async fn foreign_sites_older_epochs_twins_and_other_boots_are_refused_untouched() {
    let b = Bench::new().defined();
    b.state.change(|s| s.epoch = Some(Epoch { number: 5, start_id: "s".into() })).unwrap();
    let with = |change: fn(&mut Command)| {
        let mut c = start("c1", "");
        change(&mut c);
        c
    };
    assert_eq!(b.run(with(|c| c.site = "other".into())).await, "Refused foreign_site");
    assert_eq!(b.run(with(|c| c.epoch = epoch(4))).await, "Refused older_epoch");
    let twin = Some(medevac_proto::session::Epoch { number: 5, start_id: "t".into() });
    assert_eq!(b.run(Command { epoch: twin, ..start("c1", "") }).await, "Refused twin_epoch");
    assert_eq!(b.run(with(|c| c.epoch = None)).await, "Refused malformed");
    assert_eq!(b.run(with(|c| c.order = None)).await, "Refused malformed");
    assert_eq!(b.run(with(|c| (c.boot_id, c.id) = ("old".into(), "c2".into()))).await, "Refused other_boot");
    assert_eq!(b.run(with(|c| (c.not_after_boot_ms, c.id) = (999, "c3".into()))).await, "Expired expired");
    assert_eq!(b.fake.calls(), "");
}

#[tokio::test]
async fn a_newer_epoch_is_on_disk_before_it_is_obeyed() {
    let b = Bench::new().defined();
    let c = Command { epoch: epoch(9), ..start("c1", "") };
    assert_eq!(b.run(c).await, "Done running");
    let again = StateFile::open(b.dir.path(), BOOT).unwrap();
    assert_eq!(again.read().epoch.as_ref().unwrap().number, 9);
    assert_eq!(b.run(start("c2", "")).await, "Refused older_epoch");
}

#[tokio::test]
async fn a_command_that_was_begun_before_a_crash_is_unknown() {
    let b = Bench::new().defined();
    b.state.change(|s| s.set_command("c1", BOOT, None)).unwrap();
    assert_eq!(b.run(start("c1", "")).await, "Unspecified unknown");
    assert_eq!(b.fake.calls(), "");
}

#[tokio::test]
async fn without_a_disk_nothing_is_begun() {
    let b = Bench::new().defined();
    std::fs::remove_dir_all(b.dir.path()).unwrap();
    assert_eq!(b.run(start("c1", "")).await, "Refused disk");
    assert_eq!(b.fake.calls(), "");
}

#[tokio::test]
async fn a_running_guest_is_not_started_twice() {
    let b = Bench::new().defined();
    b.fake.processes.lock().unwrap().insert(U.into(), process(false));
    assert_eq!(b.run(start("c1", "")).await, "Done already_running");
    b.fake.processes.lock().unwrap().insert(U.into(), process(true));
    b.fake.set_state(U, 3, 2);
    assert_eq!(b.run(start("c2", "")).await, "Refused incoming");
    assert_eq!(b.fake.calls(), "");
}

#[tokio::test]
async fn what_cannot_be_started_is_refused_by_name() {
    let b = Bench::new();
    assert_eq!(b.run(start("c1", "")).await, "Refused not_defined");
    assert_eq!(b.run(start("c2", "rubbish")).await, "Refused xml_rejected");
    let other = xml("").replace(U, "3f1a2b3c-0000-4000-8000-00000000000b");
    assert_eq!(b.run(start("c3", &other)).await, "Refused xml_rejected");
    let b = b.defined();
    b.fake.domains.lock().unwrap().get_mut(U).unwrap().managed_save = true;
    assert_eq!(b.run(start("c4", "")).await, "Refused managed_save");
    b.fault("domain", Fault::NotAnswering("hung".into()));
    assert_eq!(b.run(start("c5", "")).await, "Refused libvirt_not_answering");
    assert_eq!(b.fake.calls(), "");
}

#[tokio::test]
async fn a_failure_counts_only_when_it_is_seen() {
    let b = Bench::new();
    b.fault("define", Fault::Refused("no machine type".into()));
    assert_eq!(b.run(start("c1", &xml(""))).await, "Failed xml_rejected");
    let b = b.defined();
    b.fault("start", Fault::Refused("no disk".into()));
    assert_eq!(b.run(start("c2", "")).await, "Failed start_failed");
    b.fault("start", Fault::NotAnswering("hung".into()));
    assert_eq!(b.run(start("c3", "")).await, "Unspecified unknown");
    b.fault("start", Fault::Refused("no disk".into()));
    b.fake.set_state(U, 1, 1);
    b.fake.processes.lock().unwrap().clear();
    assert_eq!(b.run(start("c4", "")).await, "Refused state_unclear");
}

#[tokio::test]
async fn an_autostart_flag_owed_elsewhere_is_owed_here_after_the_move() {
    let b = Bench::new();
    let noted = xml("<metadata><a:autostart xmlns:a='urn:medevac:agent:1'/></metadata>");
    b.run(start("c1", &noted)).await;
    assert!(b.state.read().autostart_taken.contains(U));
}

fn remove(id: &str) -> Command {
    command(id, Order::Remove(RemoveInstance { uuid: U.into() }))
}

#[tokio::test]
async fn a_stopped_guest_is_removed_and_its_xml_kept() {
    let b = Bench::new().defined();
    assert_eq!(b.run(remove("c1")).await, "Done removed");
    let kept: Vec<_> = std::fs::read_dir(b.dir.path().join("removed")).unwrap().flatten().collect();
    assert_eq!(std::fs::read_to_string(kept[0].path()).unwrap(), xml(""));
    assert_eq!(b.run(remove("c2")).await, "Done not_defined");
}

#[tokio::test]
async fn a_running_guest_is_never_removed() {
    let b = Bench::new().defined();
    b.fake.processes.lock().unwrap().insert(U.into(), process(false));
    assert_eq!(b.run(remove("c1")).await, "Refused running");
    b.fake.processes.lock().unwrap().clear();
    b.fake.set_state(U, 1, 1);
    assert_eq!(b.run(remove("c2")).await, "Refused running");
    assert_eq!(b.fake.calls(), "");
}

fn destroy(id: &str) -> Command {
    command(id, Order::DestroyIncoming(DestroyIncoming { uuid: U.into() }))
}

#[tokio::test]
async fn only_an_incoming_copy_that_never_ran_is_destroyed() {
    let b = Bench::new().defined();
    assert_eq!(b.run(destroy("c1")).await, "Done not_running");
    let put = |incoming, state, reason| {
        b.fake.processes.lock().unwrap().insert(U.into(), process(incoming));
        b.fake.set_state(U, state, reason);
    };
    put(false, 3, 2);
    assert_eq!(b.run(destroy("c2")).await, "Refused has_run");
    put(true, 1, 2);
    assert_eq!(b.run(destroy("c3")).await, "Refused has_run");
    put(true, 3, 2);
    b.state.change(|s| s.set_has_run(process(true).key())).unwrap();
    assert_eq!(b.run(destroy("c4")).await, "Refused has_run");
    b.state.change(|s| s.has_run.clear()).unwrap();
    *b.fake.outgoing.lock().unwrap() = true;
    assert_eq!(b.run(destroy("c5")).await, "Refused has_run");
    *b.fake.outgoing.lock().unwrap() = false;
    assert_eq!(b.fake.calls(), "");
    assert_eq!(b.run(destroy("c6")).await, "Done destroyed");
    put(true, 3, 13);
    assert_eq!(b.run(destroy("c7")).await, "Done destroyed", "its memory never came");
}

#[tokio::test]
async fn words_about_the_hold_are_kept() {
    let b = Bench::new();
    b.state.change(|s| s.held = true).unwrap();
    let leave = LeaveInstance { uuid: U.into(), why: "stopped by its user".into() };
    assert_eq!(b.run(command("c1", Order::Leave(leave))).await, "Done noted");
    assert_eq!(b.state.read().left[U], "stopped by its user");
    let release = ReleaseHold { why: "every guest has its word".into() };
    assert_eq!(b.run(command("c2", Order::ReleaseHold(release))).await, "Done noted");
    assert!(!b.state.read().held);
}

#[tokio::test]
async fn the_emergency_word_starts_what_ran_before_and_was_to_autostart() {
    let b = Bench::new().defined();
    b.state
        .change(|s| {
            s.held = true;
            s.ran_before_boot = [U.to_owned(), "other".to_owned()].into();
            s.autostart_taken = [U.to_owned()].into();
        })
        .unwrap();
    let lines = b.hands.release("aggregator lost").await;
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].contains("DONE running"));
    assert!(!b.state.read().held);
}

/// A call that was never begun is refused, and so is one about a domain that is gone: only the latter ends the debt.
#[tokio::test]
async fn a_flag_that_libvirt_did_not_take_stays_owed() {
    let dir = tempfile::tempdir().unwrap();
    let state = Arc::new(StateFile::open(dir.path(), BOOT).unwrap());
    state.change(|s| s.autostart_taken.extend([U.to_owned()])).unwrap();
    let fake = Arc::new(Fake::default());
    let known = [domain(5, 0, None)];
    fake.domains.lock().unwrap().insert(U.into(), known[0].clone());
    *fake.fault.lock().unwrap() = Some(("set_autostart", Fault::Refused("nothing was begun".into())));
    let lines = crate::give_back::all(&known, fake.clone(), Arc::clone(&state)).await;
    assert!(lines[0].contains("still owed"), "{lines:?}");
    assert!(state.read().autostart_taken.contains(U));
    fake.domains.lock().unwrap().clear();
    let lines = crate::give_back::all(&known, fake, Arc::clone(&state)).await;
    assert_eq!((lines, state.read().autostart_taken.len()), (vec![format!("{U}: autostart")], 0));
}
