//! The sessions over real mutual TLS, with the loop's inbox in the test's hands.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Agent, GUEST, certificates, channel, hello, inventory};
use medevac_aggregator::alert::Trials;
use medevac_aggregator::app;
use medevac_aggregator::desk::{Desk, DeskReplies};
use medevac_aggregator::engine::Input;
use medevac_aggregator::grpc::registry::{Registry, SessionAgents, Shared};
use medevac_aggregator::http::Api;
use medevac_aggregator::http::identity::Identities;
use medevac_aggregator::keeper::Keeper;
use medevac_aggregator::ports::{Agents, ProbeKeys, Replies, Sight};
use medevac_aggregator::pulse::Pulse;
use medevac_aggregator::swap::Swap;
use medevac_proto::session::agent_frame::Body;
use medevac_proto::session::aggregator_frame::Body as Told;
use medevac_proto::session::{
    AgentFrame, Epoch as WireEpoch, Errand, Fact, Instance, InstanceGone, InstanceStopped, Inventory, InventoryChange,
    MaintenanceErrand, errand, fact,
};
use medevac_triage::{Closer, Epoch, Observation, Reply, RunState, Wall, Word};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

struct Site {
    dir: tempfile::TempDir,
    address: SocketAddr,
    registry: Arc<Registry>,
    seen: mpsc::Receiver<Input>,
    desk: Arc<Desk>,
}

impl Site {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let files = certificates(dir.path());
        let (inbox, seen) = mpsc::channel(1024);
        let desk = Arc::new(Desk::default());
        let shared = Shared {
            site: "site-a".into(),
            epoch: Epoch { number: 5, start: "start-5".into() },
            plaintext: false,
            sight: Swap::new(Sight { banner_ports: vec![22], port: 0, deadline: Duration::from_millis(800) }),
            desk: Arc::clone(&desk),
        };
        let registry = Registry::new(shared, "secret", inbox.clone(), tokio::runtime::Handle::current());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let epoch = Epoch { number: 5, start: "start".into() };
        let pulse = Arc::new(Pulse::new(epoch, Wall(0), Arc::clone(&desk)));
        let receivers = Arc::new(Trials::new(&[], "site-a"));
        let identity = Arc::new(Identities::new(registry.doors(), Some(files.clone()), Duration::from_secs(60)));
        let api = Api { inbox, desk: Arc::clone(&desk), receivers, site: "site-a".into(), epoch: 5, pulse, identity };
        app::serve(listener, Some(Keeper::new(files).unwrap()), Arc::clone(&registry), api);
        Self { dir, address, registry, seen, desk }
    }

    async fn join(&self, host: &str, boot: &str) -> Agent {
        Agent::join(self.dir.path(), host, self.address, hello(boot)).await
    }

    async fn next(&mut self) -> Observation {
        self.next_within(Duration::from_secs(10)).await
    }

    async fn next_within(&mut self, limit: Duration) -> Observation {
        match tokio::time::timeout(limit, self.seen.recv()).await.expect("nothing was seen in time") {
            Some(Input::Seen(observation)) => observation,
            other => panic!("no observation but {other:?}"),
        }
    }

    async fn opened(&mut self) -> medevac_triage::Hello {
        match self.next().await {
            Observation::SessionOpened(hello) => *hello,
            other => panic!("no session but {other:?}"),
        }
    }

    async fn closed_by(&mut self, limit: Duration) -> Closer {
        match self.next_within(limit).await {
            Observation::SessionClosed { by, .. } => by,
            other => panic!("no close but {other:?}"),
        }
    }
}

const SOON: Duration = Duration::from_secs(5);

#[tokio::test]
async fn the_certificate_names_the_host_and_the_welcome_names_the_epoch() {
    let mut site = Site::start().await;
    let mut said = hello("boot-1");
    said.host = "hv3".into();
    let mut agent = Agent::join(site.dir.path(), "hv1", site.address, said).await;
    let welcome = agent.await_frame(|told| if let Told::Welcome(welcome) = told { Some(welcome) } else { None }).await;
    assert_eq!((welcome.site.as_str(), welcome.epoch.unwrap().number, welcome.decider), ("site-a", 5, true));
    assert_eq!(welcome.probe_key.len(), 32);
    let seen = site.opened().await;
    assert_eq!(seen.host.as_str(), "hv1");
    assert_eq!(seen.inventory.instances.values().next().unwrap().state, RunState::Running);
    agent.beat(3_601_000, 1).await;
    assert!(matches!(site.next().await, Observation::HeartbeatArrived(beat) if beat.digest == 1));
    let deadline = Duration::from_secs(60);
    assert_eq!(site.registry.not_after(&seen.session, deadline), Some(3_661_000), "dated by the agent's own clock");
}

#[tokio::test]
async fn foreign_sites_newer_epochs_and_operators_are_refused_by_name() {
    let mut site = Site::start().await;
    let mut foreign = hello("boot-1");
    foreign.site = "site-b".into();
    let mut agent = Agent::join(site.dir.path(), "hv1", site.address, foreign).await;
    assert_eq!(agent.refused().await, "foreign_site");
    let operator = channel(site.dir.path(), "operator", site.address).await.unwrap();
    let mut agent = Agent::open(operator, Body::Hello(hello("boot-1"))).await.unwrap();
    assert_eq!(agent.refused().await, "identity");
    let mut agent = Agent::join(site.dir.path(), "hv1", site.address, hello("boot-1")).await;
    site.opened().await;
    assert!(site.registry.decides());
    let mut twin = hello("boot-2");
    twin.site = "site-a".into();
    twin.highest_epoch = Some(WireEpoch { number: 5, start_id: "another start".into() });
    let mut second = Agent::join(site.dir.path(), "hv2", site.address, twin).await;
    assert_eq!(second.refused().await, "older_epoch");
    assert!(matches!(site.next().await, Observation::RivalMet { epoch, .. } if epoch.number == 5));
    assert!(!site.registry.decides(), "it stops deciding");
    while agent.hear().await.is_some() {}
}

#[tokio::test]
async fn broken_frames_are_refused_and_nobody_else_notices() {
    let mut site = Site::start().await;
    let mut healthy = site.join("hv2", "boot-2").await;
    site.opened().await;
    let first = channel(site.dir.path(), "hosts/hv1", site.address).await.unwrap();
    let mut agent = Agent::open(first, Body::Heartbeat(Default::default())).await.unwrap();
    assert_eq!(agent.refused().await, "protocol");
    let mut old = hello("boot-1");
    old.protocol = 0;
    let mut agent = Agent::join(site.dir.path(), "hv1", site.address, old).await;
    assert_eq!(agent.refused().await, "protocol");
    let mut nameless = hello("");
    nameless.boot_id = String::new();
    let mut agent = Agent::join(site.dir.path(), "hv1", site.address, nameless).await;
    assert_eq!(agent.refused().await, "malformed");
    let mut agent = site.join("hv1", "boot-1").await;
    site.opened().await;
    agent.hear().await.unwrap();
    let rubbish = Instance { uuid: "web".into(), ..Instance::default() };
    agent.say(Body::Inventory(Inventory { instances: vec![rubbish], ..Inventory::default() })).await;
    assert_eq!(agent.refused().await, "malformed");
    assert_eq!(site.closed_by(SOON).await, Closer::Us, "our own refusal says nothing about the host");
    let mut agent = site.join("hv1", "boot-1").await;
    site.opened().await;
    let huge = Instance { uuid: GUEST.into(), name: "x".repeat(5 << 20), ..Instance::default() };
    agent.say(Body::Inventory(Inventory { instances: vec![huge], ..Inventory::default() })).await;
    while agent.hear().await.is_some() {}
    assert!(matches!(site.next().await, Observation::SessionClosed { .. }));
    healthy.beat(1, 1).await;
    assert!(matches!(site.next().await, Observation::HeartbeatArrived(_)));
    assert!(matches!(healthy.hear().await, Some(Told::Welcome(_))));
}

#[tokio::test]
async fn changes_become_whole_inventories_and_one_that_does_not_fit_asks_for_the_whole() {
    let mut site = Site::start().await;
    let mut agent = site.join("hv1", "boot-1").await;
    site.opened().await;
    agent.hear().await.unwrap();
    let stopped = Instance { uuid: GUEST.into(), name: "web".into(), state: 4, ..Instance::default() };
    let change = InventoryChange {
        generation: 2,
        digest: 22,
        upserted: vec![stopped],
        base_generation: 1,
        ..InventoryChange::default()
    };
    agent.say(Body::InventoryChange(change.clone())).await;
    let Observation::InventoryArrived { inventory: seen, answers, .. } = site.next().await else {
        panic!("no inventory")
    };
    assert_eq!((seen.digest, answers), (22, None));
    assert_eq!(seen.instances.values().next().unwrap().state, RunState::Stopped);
    agent.say(Body::InventoryChange(InventoryChange { base_generation: 9, ..change })).await;
    assert!(matches!(agent.hear().await, Some(Told::InventoryAsk(ask)) if ask.ask == 0));
    agent.say(Body::Inventory(Inventory { ask: 7, ..inventory(10) })).await;
    let Observation::InventoryArrived { answers, .. } = site.next().await else { panic!("no inventory") };
    assert_eq!(answers, Some(7));
}

#[tokio::test]
async fn facts_keep_their_number_and_boot_and_acknowledgements_survive_the_session() {
    let mut site = Site::start().await;
    let mut agent = site.join("hv1", "boot-1").await;
    let session = site.opened().await.session;
    let gone = InstanceGone { uuid: GUEST.to_uppercase(), pid: 7, pid_start: 8 };
    let what = Some(fact::What::InstanceGone(gone));
    agent.say(Body::Fact(Fact { seq: 3, boot_id: "boot-0".into(), what, ..Fact::default() })).await;
    let Observation::FactArrived { seq, boot, fact, .. } = site.next().await else { panic!("no fact") };
    assert_eq!((seq, boot.as_str()), (3, "boot-0"), "history of the boot before");
    assert!(matches!(fact, medevac_triage::Fact::InstanceGone { instance, .. } if instance.as_str() == GUEST));
    SessionAgents(Arc::clone(&site.registry)).acknowledge(&"hv1".into(), &session, &"boot-1".into(), 41);
    let ack = agent.await_frame(|told| if let Told::Ack(ack) = told { Some(ack) } else { None }).await;
    assert_eq!(ack.seq, 41);
    let mut again = site.join("hv1", "boot-1").await;
    assert!(matches!(again.hear().await, Some(Told::Welcome(welcome)) if welcome.acked_seq == 41));
}

#[tokio::test]
async fn a_newer_session_of_the_same_agent_replaces_the_older_and_a_clone_does_not() {
    let mut site = Site::start().await;
    let mut first = site.join("hv1", "boot-1").await;
    site.opened().await;
    let _second = site.join("hv1", "boot-1").await;
    while first.hear().await.is_some() {}
    let (mut opened, mut closed) = (0, Vec::new());
    for _ in 0..2 {
        match site.next().await {
            Observation::SessionOpened(_) => opened += 1,
            Observation::SessionClosed { by, .. } => closed.push(by),
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!((opened, closed), (1, vec![Closer::Us]));
    let _clone = site.join("hv1", "boot-of-a-clone").await;
    site.opened().await;
    assert_eq!(site.registry.len(), 2, "both are seen");
    let mut more = Vec::new();
    for n in 0..2 {
        more.push(site.join("hv1", &format!("boot-of-clone-{n}")).await);
        site.opened().await;
    }
    let mut fifth = site.join("hv1", "boot-of-one-too-many").await;
    assert_eq!(fifth.refused().await, "twin");
}

#[tokio::test]
async fn an_agent_that_dies_closed_its_connection_itself() {
    let mut site = Site::start().await;
    let agent = site.join("hv1", "boot-1").await;
    site.opened().await;
    drop(agent);
    assert_eq!(site.closed_by(SOON).await, Closer::Host, "the process is gone: FIN");
    let mut agent = site.join("hv1", "boot-1").await;
    site.opened().await;
    agent.frames = None;
    assert_eq!(site.closed_by(SOON).await, Closer::Host, "its user space ended the stream");
}

/// Between agent and aggregator: forwards until told to stop, then holds both
/// sockets open and silent, or resets them.
async fn between(to: SocketAddr) -> (SocketAddr, mpsc::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (halt, mut halted) = mpsc::channel::<bool>(1);
    tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = TcpStream::connect(to).await.unwrap();
        let (mut a, mut b) = ([0u8; 8192], [0u8; 8192]);
        let reset = loop {
            tokio::select! {
                reset = halted.recv() => break reset.unwrap_or(false),
                n = near.read(&mut a) => { let n = n.unwrap(); far.write_all(&a[..n]).await.unwrap(); }
                n = far.read(&mut b) => { let n = n.unwrap(); near.write_all(&b[..n]).await.unwrap(); }
            }
        };
        if reset {
            far.set_zero_linger().unwrap();
            drop(far);
        }
        std::future::pending::<()>().await;
    });
    (address, halt)
}

#[tokio::test]
async fn a_reset_is_the_hosts_word() {
    let mut site = Site::start().await;
    let (address, halt) = between(site.address).await;
    let agent = Agent::join(site.dir.path(), "hv1", address, hello("boot-1")).await;
    site.opened().await;
    halt.send(true).await.unwrap();
    assert_eq!(site.closed_by(SOON).await, Closer::Host);
    drop(agent);
}

#[tokio::test]
async fn a_line_that_went_dead_is_not_the_hosts_word_and_is_noticed_below_30_s() {
    let mut site = Site::start().await;
    let (address, halt) = between(site.address).await;
    let agent = Agent::join(site.dir.path(), "hv1", address, hello("boot-1")).await;
    site.opened().await;
    halt.send(false).await.unwrap();
    assert_eq!(site.closed_by(Duration::from_secs(30)).await, Closer::Us);
    drop(agent);
}

#[tokio::test]
async fn strangers_do_not_get_in() {
    let site = Site::start().await;
    let other = tempfile::tempdir().unwrap();
    certificates(other.path());
    std::fs::copy(site.dir.path().join("ca.pem"), other.path().join("ca.pem")).unwrap();
    let tried = channel(other.path(), "hosts/hv1", site.address).await;
    let refused = match tried {
        // TLS 1.3 tells the client only when it reads.
        Ok(channel) => Agent::open(channel, Body::Hello(hello("boot-1"))).await.is_err(),
        Err(_) => true,
    };
    assert!(refused, "a certificate of another authority");
    assert_eq!(site.registry.len(), 0);
}

#[tokio::test]
async fn a_stranger_under_a_hosts_name_is_told_why_and_does_not_keep_its_place() {
    let mut site = Site::start().await;
    let mut agents = SessionAgents(Arc::clone(&site.registry));
    let mut host = site.join("hv1", "boot-1").await;
    site.opened().await;
    let key =
        host.await_frame(|told| if let Told::Welcome(welcome) = told { Some(welcome.probe_key) } else { None }).await;
    let mut stranger = site.join("hv1", "boot-of-another-machine").await;
    let session = site.opened().await.session;
    assert_ne!(site.registry.key_of(&"hv1".into()), key, "until the loop has its word");
    agents.close(&"hv1".into(), &session, "identity");
    stranger.hear().await.expect("its welcome");
    assert_eq!(stranger.refused().await, "identity");
    assert_eq!(site.registry.key_of(&"hv1".into()), key, "the host's own responder is asked again");
    agents.probe(1, &"hv1".into(), [("hv2".into(), [("mgmt".into(), "10.0.0.2".to_owned())].into())].into());
    let round =
        host.await_frame(|told| if let Told::ProbeOrder(order) = told { Some(order.round) } else { None }).await;
    assert_eq!(round, 1, "and it is asked to look");
    drop(stranger);
    assert!(matches!(site.next().await, Observation::SessionClosed { session: closed, .. } if closed == session));
    agents.probe(2, &"hv1".into(), [("hv2".into(), [("mgmt".into(), "10.0.0.2".to_owned())].into())].into());
    let round =
        host.await_frame(|told| if let Told::ProbeOrder(order) = told { Some(order.round) } else { None }).await;
    assert_eq!(round, 2);
}

#[tokio::test]
async fn a_newer_agent_is_taken_and_what_it_adds_is_inconclusive() {
    let mut site = Site::start().await;
    let mut said = hello("boot-1");
    said.protocol = 2;
    said.capabilities = vec!["foresight".into()];
    let state_of_tomorrow = Instance { state: 99, ..said.inventory.clone().unwrap().instances[0].clone() };
    said.inventory = Some(Inventory { instances: vec![state_of_tomorrow], ..inventory(1) });
    let agent = Agent::join(site.dir.path(), "hv1", site.address, said).await;
    let seen = site.opened().await;
    let shown = seen.inventory.instances.values().next().unwrap();
    assert_eq!(shown.state, RunState::Paused, "alive, and nobody's to start");
    // A frame, a fact and a reason of kinds that are not known here.
    agent.frames.as_ref().unwrap().send(AgentFrame { body: None }).await.unwrap();
    agent.say(Body::Fact(Fact { seq: 1, boot_id: "boot-1".into(), what: None, ..Fact::default() })).await;
    let Observation::FactArrived { seq, fact, .. } = site.next().await else { panic!("no fact") };
    assert!(seq == 1 && matches!(fact, medevac_triage::Fact::Lost { .. }), "counted, so that it is acknowledged");
    let stopped = InstanceStopped { uuid: GUEST.into(), reason: 77, ..InstanceStopped::default() };
    let what = Some(fact::What::InstanceStopped(stopped));
    agent.say(Body::Fact(Fact { seq: 2, boot_id: "boot-1".into(), what, ..Fact::default() })).await;
    let Observation::FactArrived { fact, .. } = site.next().await else { panic!("no fact") };
    let pending = medevac_triage::StopReason::Pending;
    assert!(matches!(fact, medevac_triage::Fact::InstanceStopped { reason, .. } if reason == pending));
    agent.beat(1, 1).await;
    assert!(matches!(site.next().await, Observation::HeartbeatArrived(_)), "and the session goes on");
}

#[tokio::test]
async fn connections_that_never_shake_hands_hold_few_places_and_not_for_long() {
    let mut site = Site::start().await;
    let mut held = Vec::new();
    for _ in 0..200 {
        held.push(TcpStream::connect(site.address).await.unwrap());
    }
    // All of them come from this one address, which gets so many places and no more.
    let mut hung_up_on = 0;
    for stream in &mut held {
        let read = tokio::time::timeout(Duration::from_millis(20), stream.read(&mut [0u8; 1])).await;
        hung_up_on += usize::from(matches!(read, Ok(Ok(0) | Err(_))));
    }
    assert!(hung_up_on >= 100, "only {hung_up_on} of 200");
    tokio::time::sleep(Duration::from_secs(5)).await;
    let _agent = site.join("hv1", "boot-1").await;
    assert_eq!(site.opened().await.host.as_str(), "hv1");
}

#[tokio::test]
async fn a_host_speaks_for_itself_alone_and_is_answered_once_the_loop_has() {
    let mut site = Site::start().await;
    let mut agent = site.join("hv1", "boot-1").await;
    site.opened().await;
    let mut answers = DeskReplies(Arc::clone(&site.desk));
    let maintenance = MaintenanceErrand { on: true, until_back: true, for_s: 60 };
    let errand = |ask, reason: &str| {
        Body::Errand(Errand { ask, reason: reason.into(), what: Some(errand::What::Maintenance(maintenance)) })
    };
    agent.say(errand(7, "new disk")).await;
    let Observation::OperatorSpoke { token, by, reason, word } = site.next().await else { panic!("no word") };
    assert_eq!((by.as_str(), reason.as_str()), ("root on hv1", "new disk"));
    let limit = Some(Duration::from_secs(60));
    assert_eq!(word, Word::Maintenance { host: "hv1".into(), on: true, until_back: true, limit });
    answers.answer(Reply { token, answer: Ok("kept".into()) });
    let heard = |told| if let Told::ErrandAnswer(answer) = told { Some(answer) } else { None };
    let answer = agent.await_frame(heard).await;
    assert!(answer.ask == 7 && answer.done && answer.text == "kept", "{answer:?}");
    agent.say(errand(8, " ")).await;
    assert_eq!(agent.await_frame(heard).await.refused, "bad-reason");
    agent.say(Body::Errand(Errand { ask: 9, reason: "of next year".into(), what: None })).await;
    assert_eq!(agent.await_frame(heard).await.refused, "bad-verb");
    site.desk.depose("hv2 obeys epoch 9");
    agent.say(errand(10, "new disk")).await;
    assert_eq!(agent.await_frame(heard).await.refused, "not-deciding");
}
