//! An agent and an aggregator of different versions: what only the newer one knows is passed
//! over, and nothing else is lost by it.
//!
//! The newer side's frames are written here as messages of their own: the fields of today
//! under their numbers, and fields, kinds and values of tomorrow beside them.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Agent, Aggregator, welcome};
use medevac_proto::session as wire;
use medevac_proto::session::{
    Care, Command, Epoch, agent_frame::Body, aggregator_frame, command_result::Outcome, fact::What,
};
use prost::Message;

/// Something that nobody has thought of yet.
#[derive(Clone, PartialEq, Message)]
struct Tomorrow {
    #[prost(string, tag = "1")]
    text: String,
    #[prost(uint64, repeated, tag = "2")]
    numbers: Vec<u64>,
}

fn tomorrow() -> Option<Tomorrow> {
    Some(Tomorrow { text: "unheard of".into(), numbers: vec![1, u64::MAX] })
}

#[derive(Clone, PartialEq, Message)]
struct NewerAgentFrame {
    #[prost(message, optional, tag = "1")]
    hello: Option<NewerHello>,
    #[prost(message, optional, tag = "5")]
    fact: Option<NewerFact>,
    #[prost(message, optional, tag = "60")]
    body: Option<Tomorrow>,
}

#[derive(Clone, PartialEq, Message)]
struct NewerHello {
    #[prost(uint32, tag = "1")]
    protocol: u32,
    #[prost(string, tag = "5")]
    boot_id: String,
    #[prost(message, optional, tag = "12")]
    inventory: Option<NewerInventory>,
    #[prost(message, optional, tag = "120")]
    more: Option<Tomorrow>,
}

#[derive(Clone, PartialEq, Message)]
struct NewerInventory {
    #[prost(message, repeated, tag = "3")]
    instances: Vec<NewerInstance>,
    #[prost(bool, tag = "4")]
    libvirt_answered: bool,
    #[prost(message, optional, tag = "121")]
    more: Option<Tomorrow>,
}

#[derive(Clone, PartialEq, Message)]
struct NewerInstance {
    #[prost(string, tag = "1")]
    uuid: String,
    /// A state that is not among today's.
    #[prost(int32, tag = "3")]
    state: i32,
    #[prost(bool, tag = "5")]
    process_alive: bool,
    #[prost(message, optional, tag = "122")]
    more: Option<Tomorrow>,
}

#[derive(Clone, PartialEq, Message)]
struct NewerFact {
    #[prost(uint64, tag = "1")]
    seq: u64,
    #[prost(string, tag = "4")]
    boot_id: String,
    #[prost(message, optional, tag = "123")]
    what: Option<Tomorrow>,
}

#[derive(Clone, PartialEq, Message)]
struct NewerAggregatorFrame {
    #[prost(message, optional, tag = "3")]
    command: Option<NewerCommand>,
    #[prost(message, optional, tag = "61")]
    body: Option<Tomorrow>,
}

#[derive(Clone, PartialEq, Message)]
struct NewerCommand {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "4")]
    boot_id: String,
    #[prost(message, optional, tag = "124")]
    order: Option<Tomorrow>,
}

fn read<T: Message + Default>(newer: &impl Message) -> T {
    T::decode(newer.encode_to_vec().as_slice()).expect("today's version reads it")
}

#[test]
fn todays_aggregator_reads_all_that_it_knows_of_a_newer_agents_frames() {
    let instance = NewerInstance { uuid: "u".into(), state: 99, process_alive: true, more: tomorrow() };
    let inventory = NewerInventory { instances: vec![instance], libvirt_answered: true, more: tomorrow() };
    let hello = NewerHello { protocol: 2, boot_id: "boot-1".into(), inventory: Some(inventory), more: tomorrow() };
    let frame: wire::AgentFrame = read(&NewerAgentFrame { hello: Some(hello), ..Default::default() });
    let Some(Body::Hello(hello)) = frame.body else { panic!("no hello but {:?}", frame.body) };
    assert_eq!((hello.protocol, hello.boot_id.as_str()), (2, "boot-1"));
    let inventory = hello.inventory.unwrap();
    let shown = &inventory.instances[0];
    assert!(inventory.libvirt_answered && shown.process_alive);
    assert_eq!(shown.state(), wire::RunState::Unspecified, "inconclusive, never gone");
    let fact = NewerFact { seq: 7, boot_id: "boot-1".into(), what: tomorrow() };
    let frame: wire::AgentFrame = read(&NewerAgentFrame { fact: Some(fact), ..Default::default() });
    assert!(matches!(frame.body, Some(Body::Fact(f)) if f.seq == 7 && f.what.is_none()), "its number is acknowledged");
    let frame: wire::AgentFrame = read(&NewerAgentFrame { body: tomorrow(), ..Default::default() });
    assert!(frame.body.is_none());
}

#[test]
fn todays_agent_reads_all_that_it_knows_of_a_newer_aggregators_frames() {
    let command = NewerCommand { id: "inc-1/4".into(), boot_id: "boot-1".into(), order: tomorrow() };
    let frame: wire::AggregatorFrame = read(&NewerAggregatorFrame { command: Some(command), ..Default::default() });
    let Some(aggregator_frame::Body::Command(command)) = frame.body else { panic!("no command") };
    assert!(command.id == "inc-1/4" && command.order.is_none(), "refused by its name");
    let frame: wire::AggregatorFrame = read(&NewerAggregatorFrame { body: tomorrow(), ..Default::default() });
    assert!(frame.body.is_none());
}

#[test]
fn what_an_older_peer_does_not_say_reads_as_nothing_special() {
    let silent: wire::Hello = wire::Hello::decode(&[][..]).unwrap();
    assert!(silent.earlier_boot_ids.is_empty() && silent.highest_epoch.is_none() && silent.inventory.is_none());
    let beat: wire::Heartbeat = wire::Heartbeat::decode(&[][..]).unwrap();
    assert!(!beat.libvirt_answers && !beat.held);
    let ended = wire::CommandResult::decode(&[][..]).unwrap();
    assert_eq!(ended.outcome(), Outcome::Unspecified, "unknown, and so possibly running");
}

#[tokio::test]
async fn an_agent_goes_on_with_a_newer_aggregator_and_refuses_by_name_what_it_does_not_know() {
    let dir = tempfile::tempdir().unwrap();
    let mut aggregator = Aggregator::start().await;
    let mut qemu = common::Qemu::start();
    let _agent = Agent::start(dir.path(), &[aggregator.port], 17011);
    let (mut session, hello) = aggregator.hello().await;
    let mut newer = welcome(5, true);
    if let aggregator_frame::Body::Welcome(welcome) = &mut newer {
        welcome.protocol = 2;
    }
    session.send(newer).await;
    let care = |mode: &str| aggregator_frame::Body::Care(Care { mode: mode.into(), ..Care::default() });
    session.send(care("act")).await;
    session.send(care("act-with-foresight")).await;
    // A frame of a kind of tomorrow is an empty one today, as the tests above show.
    session.to.send(Ok(wire::AggregatorFrame { body: None })).await.unwrap();
    let order = Command {
        id: "inc-1/4".into(),
        site: common::SITE.into(),
        epoch: Some(Epoch { number: 5, start_id: "start-5".into() }),
        boot_id: hello.boot_id,
        not_after_boot_ms: u64::MAX,
        order: None,
    };
    session.send(aggregator_frame::Body::Command(order)).await;
    match session.next(|b| matches!(b, Body::CommandResult(_))).await {
        Body::CommandResult(r) => assert_eq!((r.outcome(), r.reason.as_str()), (Outcome::Refused, "malformed")),
        other => panic!("{other:?}"),
    }
    session.settled().await;
    let state = std::fs::read_to_string(dir.path().join("state/state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    assert_eq!(state["mode"], "act", "an unknown mode leaves the one in force");
    qemu.kill();
    session.fact(|f| matches!(&f.what, Some(What::InstanceGone(g)) if g.uuid == qemu.uuid)).await;
}
