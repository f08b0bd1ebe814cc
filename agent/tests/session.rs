//! The real agent against a small aggregator: what goes over the wire, and what does not.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Agent, Aggregator, Qemu, welcome};
use medevac_proto::session::{
    Ack, Care, Command, Epoch, ErrandAnswer, Fact, Hello, InventoryAsk, LeaveInstance, ProbeAnswer, ProbeOrder,
    ProbeTarget, ReleaseHold, agent_frame::Body, aggregator_frame, command, command_result::Outcome, errand,
    fact::What, goodbye::Why,
};
use std::time::Duration;

fn is_gone(uuid: &str) -> impl Fn(&Fact) -> bool {
    move |f| matches!(&f.what, Some(What::InstanceGone(g)) if g.uuid == uuid)
}

fn ack(f: &Fact) -> aggregator_frame::Body {
    aggregator_frame::Body::Ack(Ack { boot_id: f.boot_id.clone(), seq: f.seq })
}

#[tokio::test]
async fn a_killed_qemu_is_told_at_once_and_again_until_it_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut aggregator = Aggregator::start().await;
    let mut qemu = Qemu::start();
    let mut agent = Agent::start(dir.path(), &[aggregator.port], 17001);
    let (mut session, hello) = aggregator.welcomed(5).await;
    let inventory = hello.inventory.unwrap();
    let guest = inventory.instances.iter().find(|i| i.uuid == qemu.uuid).expect("in the first hello");
    assert!(guest.process_alive && !guest.libvirt_knows && inventory.libvirt_answered);
    assert_eq!((hello.machine_id.as_str(), hello.planes["mgmt"].as_str()), ("0123456789abcdef", "127.77.1.1"));
    session.next(|b| matches!(b, Body::Heartbeat(_))).await;
    qemu.kill();
    let gone = session.fact(is_gone(&qemu.uuid)).await;
    // Not acknowledged: it comes again on a new stream, and to a new process.
    drop(session);
    let (mut session, _) = aggregator.welcomed(5).await;
    assert_eq!(session.fact(is_gone(&qemu.uuid)).await, gone);
    agent.kill();
    let mut agent = Agent::start(dir.path(), &[aggregator.port], 17001);
    let (mut session, hello) = aggregator.welcomed(5).await;
    assert!(hello.next_seq > gone.seq);
    assert_eq!(session.fact(is_gone(&qemu.uuid)).await, gone);
    session.send(ack(&gone)).await;
    session.settled().await;
    agent.terminate();
    let goodbye = session.next(|b| matches!(b, Body::Goodbye(_))).await;
    assert!(matches!(goodbye, Body::Goodbye(g) if g.why() == Why::AgentStopping));
    let _agent = Agent::start(dir.path(), &[aggregator.port], 17001);
    let (mut session, _) = aggregator.welcomed(5).await;
    let quiet = tokio::time::timeout(Duration::from_millis(700), session.fact(is_gone(&qemu.uuid))).await;
    assert!(quiet.is_err(), "acknowledged facts do not come back");
}

#[tokio::test]
async fn an_older_epoch_a_twin_and_a_foreign_site_are_left() {
    let dir = tempfile::tempdir().unwrap();
    let mut aggregator = Aggregator::start().await;
    let _agent = Agent::start(dir.path(), &[aggregator.port], 17002);
    let (mut session, _) = aggregator.welcomed(5).await;
    session.settled().await;
    drop(session);
    let (mut session, hello) = aggregator.welcomed(4).await;
    assert_eq!((hello.highest_epoch.unwrap().number, hello.site.as_str()), (5, common::SITE));
    session.ended().await;
    let (mut session, _) = aggregator.hello().await;
    let mut twin = welcome(5, true);
    if let aggregator_frame::Body::Welcome(w) = &mut twin {
        w.epoch = Some(Epoch { number: 5, start_id: "another".into() });
    }
    session.send(twin).await;
    session.ended().await;
    let (mut session, _) = aggregator.hello().await;
    let mut foreign = welcome(6, true);
    if let aggregator_frame::Body::Welcome(w) = &mut foreign {
        w.site = "site-2".into();
    }
    session.send(foreign).await;
    session.ended().await;
    let (_session, hello) = aggregator.welcomed(6).await;
    assert_eq!(hello.highest_epoch.unwrap().number, 5, "none of them was believed");
}

#[tokio::test]
async fn of_two_aggregators_only_the_decider_of_the_highest_epoch_hears_facts_and_is_obeyed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut one, mut two) = (Aggregator::start().await, Aggregator::start().await);
    let mut qemu = Qemu::start();
    let _agent = Agent::start(dir.path(), &[one.port, two.port], 17003);
    let (mut old, _) = one.welcomed(5).await;
    old.settled().await;
    let (mut new, hello) = two.welcomed(6).await;
    new.settled().await;
    // Whoever decided before is told at once, by a new hello; it is kept informed once it no longer decides.
    old.ended().await;
    let (mut old, again) = one.hello().await;
    assert_eq!(again.highest_epoch.unwrap().number, 6);
    old.send(welcome(5, false)).await;
    old.settled().await;
    qemu.kill();
    new.fact(is_gone(&qemu.uuid)).await;
    let heard = tokio::time::timeout(Duration::from_millis(700), old.fact(is_gone(&qemu.uuid))).await;
    assert!(heard.is_err(), "the replaced decider hears no facts");
    let leave = |epoch: u64| {
        let leave = LeaveInstance { uuid: "u".into(), why: "test".into() };
        aggregator_frame::Body::Command(Command {
            id: format!("c{epoch}"),
            site: common::SITE.into(),
            epoch: Some(Epoch { number: epoch, start_id: format!("start-{epoch}") }),
            boot_id: hello.boot_id.clone(),
            not_after_boot_ms: u64::MAX,
            order: Some(command::Order::Leave(leave)),
        })
    };
    let result = |b: Body| match b {
        Body::CommandResult(r) => (r.outcome(), r.reason),
        other => panic!("{other:?}"),
    };
    let is_result = |b: &Body| matches!(b, Body::CommandResult(_));
    old.send(leave(5)).await;
    assert_eq!(result(old.next(is_result).await), (Outcome::Refused, "older_epoch".into()));
    new.send(leave(6)).await;
    assert_eq!(result(new.next(is_result).await), (Outcome::Done, "noted".into()));
}

#[tokio::test]
async fn an_ask_gets_a_fresh_inventory_and_an_order_to_probe_its_report() {
    let dir = tempfile::tempdir().unwrap();
    let mut aggregator = Aggregator::start().await;
    let _agent = Agent::start(dir.path(), &[aggregator.port], 17004);
    let (mut session, _) = aggregator.welcomed(5).await;
    session.next(|b| matches!(b, Body::Heartbeat(_))).await;
    let qemu = Qemu::start();
    session.send(aggregator_frame::Body::InventoryAsk(InventoryAsk { ask: 9 })).await;
    match session.next(|b| matches!(b, Body::Inventory(_))).await {
        Body::Inventory(i) => {
            assert_eq!((i.ask, i.libvirt_answered), (9, true));
            assert!(i.instances.iter().any(|i| i.uuid == qemu.uuid), "a process younger than the ask's scan");
            assert!(i.instances.iter().any(|i| i.name == "test"), "libvirt's own");
        }
        other => panic!("{other:?}"),
    }
    let target = ProbeTarget {
        host: "hv1".into(),
        planes: [("mgmt".to_owned(), "127.77.1.1".to_owned())].into(),
        key: vec![7; 32],
        banner_ports: vec![9],
    };
    let order = ProbeOrder { round: 3, targets: vec![target], deadline_ms: 500 };
    session.send(aggregator_frame::Body::ProbeOrder(order)).await;
    match session.next(|b| matches!(b, Body::ProbeReport(_))).await {
        Body::ProbeReport(r) => {
            let result = &r.results[0];
            assert_eq!((r.round, result.answer()), (3, ProbeAnswer::UserSpace));
            assert!(result.responder && !result.banner);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_agent_is_small() {
    let dir = tempfile::tempdir().unwrap();
    let mut aggregator = Aggregator::start().await;
    let guests: Vec<Qemu> = (0..20).map(|_| Qemu::start()).collect();
    let agent = Agent::start(dir.path(), &[aggregator.port], 17005);
    let (mut session, hello) = aggregator.welcomed(5).await;
    assert!(hello.inventory.unwrap().instances.len() >= guests.len());
    for _ in 0..10 {
        session.next(|b| matches!(b, Body::Heartbeat(_))).await;
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
    let rss = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap().trim().trim_end_matches(" kB");
    let rss: u64 = rss.parse().unwrap();
    println!("RSS with {} guests: {rss} KiB", guests.len());
    // The promise is 28 MiB for a release build; an unoptimised one is somewhat larger.
    assert!(rss < 40 * 1024, "{rss} KiB");
}

/// Makes the state look as if it was written in an earlier boot.
fn pretend_reboot(dir: &std::path::Path) {
    let path = dir.join("state/state.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut state: serde_json::Value = serde_json::from_str(&text).unwrap();
    state["boot_id"] = "an-earlier-boot".into();
    std::fs::write(&path, state.to_string()).unwrap();
}

async fn held(session: &mut common::Session, wanted: bool) {
    session.next(|b| matches!(b, Body::Heartbeat(h) if h.held == wanted)).await;
}

#[tokio::test]
async fn after_a_boot_guests_are_held_until_somebody_has_the_word() {
    let dir = tempfile::tempdir().unwrap();
    let mut aggregator = Aggregator::start().await;
    let mut agent = Agent::start(dir.path(), &[aggregator.port], 17006);
    let (mut session, hello) = aggregator.welcomed(5).await;
    assert!(!hello.held, "the first boot ever holds nothing");
    let care = Care { mode: "act".into(), ..Care::default() };
    session.send(aggregator_frame::Body::Care(care)).await;
    session.settled().await;
    agent.terminate();
    let mut agent = Agent::start(dir.path(), &[aggregator.port], 17006);
    let (_, hello) = aggregator.welcomed(5).await;
    assert!(!hello.held, "a restart of the agent is no boot");
    agent.terminate();
    pretend_reboot(dir.path());
    let mut agent = Agent::start(dir.path(), &[aggregator.port], 17006);
    let (mut session, hello) = aggregator.welcomed(5).await;
    assert_eq!((hello.held, hello.previous_boot_id.as_str()), (true, "an-earlier-boot"));
    let release = aggregator_frame::Body::Command(Command {
        id: "release".into(),
        site: common::SITE.into(),
        epoch: Some(Epoch { number: 5, start_id: "start-5".into() }),
        boot_id: hello.boot_id,
        not_after_boot_ms: u64::MAX,
        order: Some(command::Order::ReleaseHold(ReleaseHold { why: "each has its word".into() })),
    });
    held(&mut session, true).await;
    session.send(release).await;
    held(&mut session, false).await;
    agent.terminate();
    pretend_reboot(dir.path());
    let _agent = Agent::start(dir.path(), &[aggregator.port], 17006);
    let (mut session, hello) = aggregator.welcomed(5).await;
    assert!(hello.held);
    let word = common::release(dir.path(), "the aggregator is lost");
    assert!(word.contains("the hold is ended"), "{word}");
    held(&mut session, false).await;
}

#[tokio::test]
async fn a_disk_that_takes_nothing_is_warned_of_and_deaths_are_told_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let mut aggregator = Aggregator::start().await;
    let mut qemu = Qemu::start();
    let _agent = Agent::start(dir.path(), &[aggregator.port], 17007);
    let (mut session, hello) = aggregator.welcomed(5).await;
    let warned = |hello: &Hello| hello.warnings.iter().any(|w| w.contains("no order can be begun here"));
    assert!(!warned(&hello));
    session.settled().await;
    // A directory in the way of the draft: as good as a full disk, also for root.
    let draft = dir.path().join("state/state.json.new");
    // The agent may be writing it at this very moment.
    while std::fs::create_dir(&draft).is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    qemu.kill();
    session.fact(is_gone(&qemu.uuid)).await;
    // Told by a new hello; an aggregator that has started anew meanwhile hears everything too.
    session.ended().await;
    let (mut session, hello) = aggregator.welcomed(6).await;
    assert!(warned(&hello));
    session.fact(is_gone(&qemu.uuid)).await;
    let leave = command::Order::Leave(LeaveInstance { uuid: "u".into(), why: "test".into() });
    let order = Command {
        id: "c6".into(),
        site: common::SITE.into(),
        epoch: Some(Epoch { number: 6, start_id: "start-6".into() }),
        boot_id: hello.boot_id,
        not_after_boot_ms: u64::MAX,
        order: Some(leave),
    };
    session.send(aggregator_frame::Body::Command(order)).await;
    match session.next(|b| matches!(b, Body::CommandResult(_))).await {
        Body::CommandResult(r) => assert_eq!((r.outcome(), r.reason.as_str()), (Outcome::Refused, "disk")),
        other => panic!("{other:?}"),
    }
    std::fs::remove_dir(&draft).unwrap();
    session.ended().await;
    let (_session, hello) = aggregator.welcomed(6).await;
    assert!(!warned(&hello), "over with its cause");
    assert_eq!(hello.highest_epoch.unwrap().number, 6, "and recorded");
    let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
    let told = log.lines().filter(|line| line.contains("ERROR")).count();
    assert!((1..=3).contains(&told), "told when it begins, not with every try:\n{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn maintenance_is_asked_of_the_decider_and_its_answer_is_the_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let mut aggregator = Aggregator::start().await;
    let _agent = Agent::start(dir.path(), &[aggregator.port], 17031);
    let ask = || {
        let dir = dir.path().to_owned();
        let words = ["maintenance", "on", "--until-back", "--for", "2h", "--reason", "new disk"];
        tokio::task::spawn_blocking(move || common::typed(&dir, &words))
    };
    let (session, _) = aggregator.hello().await;
    session.send(welcome(5, false)).await;
    let (code, text) = ask().await.unwrap();
    assert!(code == 3 && text.contains("no aggregator that decides"), "{code} {text}");
    drop(session);
    let (mut session, _) = aggregator.welcomed(5).await;
    session.settled().await;
    for (done, refused, expected) in [(true, "", 0), (false, "bad-limit", 1)] {
        let asked = ask();
        let Body::Errand(errand) = session.next(|b| matches!(b, Body::Errand(_))).await else { panic!() };
        let Some(errand::What::Maintenance(wanted)) = errand.what else { panic!("{errand:?}") };
        assert!(wanted.on && wanted.until_back && wanted.for_s == 7200 && errand.reason == "new disk");
        let answer = ErrandAnswer { ask: errand.ask, done, refused: refused.into(), text: "as you say".into() };
        session.send(aggregator_frame::Body::ErrandAnswer(answer)).await;
        let (code, text) = asked.await.unwrap();
        assert!(code == expected && text.contains("as you say") && text.contains(refused), "{code} {text}");
    }
    // An aggregator that does not know the question: said in time, and not for good.
    let (code, text) = ask().await.unwrap();
    assert!(code == 3 && text.contains("no answer from the aggregator"), "{code} {text}");
}
