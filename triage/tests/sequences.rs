//! Whatever is observed, in whatever order: decisions hold to their bounds,
//! and what was committed is what a restart finds.

use medevac_triage::{
    BootId, Change, Closer, Command, Device, Fact, FenceAnswer, Heartbeat, Hello, HostId, IncidentId, InstanceId,
    Inventory, Mode, Moment, Now, Observation, Order, Outcome, Parting, PlaneId, Power, ProbeAnswer, ProbeReport,
    ProbeResult, ProbeTarget, Record, RunState, SegmentId, SessionId, Settings, Shown, StepId, StopReason, Triage,
    Vantage, Wall, Word,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

fn host() -> impl Strategy<Value = HostId> {
    (1..4u8).prop_map(|number| HostId(format!("hv{number}")))
}

fn guest() -> impl Strategy<Value = InstanceId> {
    (1..4u8).prop_map(|number| InstanceId(format!("vm{number}")))
}

fn boot() -> impl Strategy<Value = BootId> {
    (1..4u8).prop_map(|number| BootId(format!("boot{number}")))
}

fn session() -> impl Strategy<Value = SessionId> {
    (1..6u8).prop_map(|number| SessionId(format!("s{number}")))
}

fn step() -> impl Strategy<Value = StepId> {
    (1..4u64, 0..4u32).prop_map(|(incident, step)| StepId { incident: IncidentId(incident), step })
}

fn state() -> impl Strategy<Value = RunState> {
    prop_oneof![Just(RunState::Running), Just(RunState::Stopped), Just(RunState::Incoming), Just(RunState::Paused)]
}

fn inventory() -> impl Strategy<Value = Inventory> {
    let shown = (state(), any::<bool>()).prop_map(|(state, outgoing)| Shown {
        known: true,
        state,
        outgoing,
        persistent: true,
        memory_kib: 1024,
        xml_hash: "x".to_owned(),
        ..Shown::default()
    });
    (proptest::collection::btree_map(guest(), shown, 0..4), any::<bool>()).prop_map(|(instances, libvirt_answered)| {
        Inventory { digest: instances.len() as u64, libvirt_answered, instances, storage: BTreeMap::new() }
    })
}

fn hello() -> impl Strategy<Value = Hello> {
    (host(), session(), boot(), 0..100u64, inventory(), any::<bool>()).prop_map(
        |(host, session, boot, uptime, inventory, held)| Hello {
            machine: format!("machine of {host}"),
            host,
            session,
            boot,
            uptime: Duration::from_secs(uptime),
            held,
            inventory,
            memory_available_kib: 8 << 20,
            ..Hello::default()
        },
    )
}

fn probe_report() -> impl Strategy<Value = ProbeReport> {
    let answer = prop_oneof![Just(ProbeAnswer::Nothing), Just(ProbeAnswer::KernelOnly), Just(ProbeAnswer::UserSpace)];
    let result = (host(), answer, proptest::option::of(boot())).prop_map(|(host, answer, boot)| ProbeResult {
        target: ProbeTarget::Host(host),
        plane: PlaneId::from("mgmt"),
        answer,
        boot,
        banner: false,
    });
    let from = prop_oneof![Just(Vantage::Own), host().prop_map(Vantage::Peer)];
    (1..40u64, from, proptest::collection::vec(result, 0..6)).prop_map(|(round, from, results)| ProbeReport {
        round,
        from,
        results,
    })
}

fn word() -> impl Strategy<Value = Word> {
    prop_oneof![
        Just(Word::Pause),
        Just(Word::Resume),
        (1..4u64).prop_map(|id| Word::Approve { incident: IncidentId(id) }),
        (1..4u64).prop_map(|id| Word::Cancel { incident: IncidentId(id) }),
        host().prop_map(|host| Word::ConfirmFenced { host, boot: None }),
        host().prop_map(|host| Word::Release { host }),
        guest().prop_map(|instance| Word::Recover { instance }),
        host().prop_map(|host| Word::Maintenance {
            host,
            on: true,
            until_back: true,
            limit: Some(std::time::Duration::from_secs(30))
        }),
    ]
}

fn observation() -> impl Strategy<Value = Observation> {
    let power = || prop_oneof![Just(Power::On), Just(Power::Off), Just(Power::Unknown)];
    let outcome = prop_oneof![
        Just(Outcome::Done { detail: String::new() }),
        Just(Outcome::Refused { reason: "no".to_owned(), detail: String::new() }),
        Just(Outcome::Unknown { detail: String::new() }),
        Just(Outcome::NotSent),
    ];
    prop_oneof![
        2 => Just(Observation::TimePassed),
        3 => hello().prop_map(|hello| Observation::SessionOpened(Box::new(hello))),
        1 => (host(), session(), any::<bool>()).prop_map(|(host, session, by_host)| Observation::SessionClosed {
            host, session, by: if by_host { Closer::Host } else { Closer::Us } }),
        3 => (host(), session(), 0..4u64).prop_map(|(host, session, digest)| Observation::HeartbeatArrived(Heartbeat {
            host, session, digest, memory_available_kib: 8 << 20, held: false, libvirt_answers: true })),
        2 => (host(), session(), boot(), inventory(), proptest::option::of(0..9u64)).prop_map(|(host, session, boot, inventory, answers)| {
            Observation::InventoryArrived { host, session, boot, inventory, answers } }),
        1 => (host(), session(), boot(), 1..9u64, guest()).prop_map(|(host, session, boot, seq, instance)| Observation::FactArrived {
            host, session, boot, seq,
            fact: Fact::InstanceStopped { instance, reason: StopReason::Crashed, pid: 0, pid_start: 0, host_shutting_down: false } }),
        3 => probe_report().prop_map(Observation::ProbeReported),
        1 => (host(), 0..90_000u64, power()).prop_map(|(host, read, power)| Observation::PowerRead { host, read, power, looks: Vec::new() }),
        1 => (step(), power()).prop_map(|(step, power)| Observation::FenceAnswered {
            step, answer: FenceAnswer { power, device: "bmc".to_owned(), detail: String::new(), nothing_sent: false } }),
        1 => (host(), step(), outcome).prop_map(|(host, step, outcome)| Observation::OrderAnswered { host, step, outcome }),
        1 => (host(), boot(), any::<bool>()).prop_map(|(host, boot, down)| Observation::GoodbyeSaid {
            host, boot, goodbye: Parting { host_shuts_down: down, running: BTreeSet::new(), stopped_by_user: BTreeSet::new() } }),
        1 => word().prop_map(|word| Observation::OperatorSpoke { token: 1, by: "me".to_owned(), reason: "test".to_owned(), word }),
    ]
}

fn settings(mode: Mode) -> Settings {
    let device = |host: &str| (HostId::from(host), Device::named("bmc", true));
    Settings {
        default_mode: mode,
        settle: Duration::from_secs(1),
        devices: [device("hv1"), device("hv2"), device("hv3")].into(),
        planes: [PlaneId::from("mgmt")].into(),
        ..Settings::default()
    }
}

/// What a store holds after a run.
type Kept = BTreeMap<String, Record>;

fn keep(kept: &mut Kept, changes: &[Change]) {
    for change in changes {
        match change {
            Change::Put(key, record) => {
                let text = serde_json::to_string(record).expect("a record is plain data");
                kept.insert(key.clone(), serde_json::from_str(&text).expect("it reads back"));
            }
            Change::Delete(key) => {
                kept.remove(key);
            }
        }
    }
}

fn run(mode: Mode, steps: &[(u64, Observation)], mut look: impl FnMut(&[Command])) -> (Triage, Kept) {
    let mut at = 0;
    let mut triage = Triage::new(settings(mode), [], Now { at: Moment(0), wall: Wall(0) });
    let mut kept = Kept::new();
    for (after, observation) in steps {
        at += after;
        let decision = triage.handle(Now { at: Moment(at), wall: Wall(at) }, vec![observation.clone()]);
        keep(&mut kept, &decision.changes);
        triage.apply(&decision.changes);
        look(&decision.commands);
    }
    (triage, kept)
}

fn sequence() -> impl Strategy<Value = Vec<(u64, Observation)>> {
    proptest::collection::vec((prop_oneof![0..200u64, 900..1100u64, 0..30_000u64], observation()), 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn a_restart_finds_what_was_committed(steps in sequence()) {
        let (before, kept) = run(Mode::Act, &steps, |_| {});
        let after = Triage::new(settings(Mode::Act), kept.values().cloned(), Now { at: Moment(5), wall: Wall(5) });
        let known = |triage: &Triage| triage.homes().into_keys().collect::<Vec<_>>();
        prop_assert_eq!(known(&before), known(&after));
        let ids = |triage: &Triage| triage.incident_views().iter().map(|view| (view.record.id, view.record.phase.clone())).collect::<Vec<_>>();
        prop_assert_eq!(ids(&before), ids(&after));
    }

    #[test]
    fn observe_orders_nothing(steps in sequence()) {
        run(Mode::Observe, &steps, |commands| {
            for command in commands {
                let acts = matches!(command, Command::FenceOff { .. } | Command::Order { order: Order::Start { .. } | Order::Remove { .. }, .. });
                assert!(!acts, "{command:?}");
            }
        });
    }

    #[test]
    fn one_off_order_is_outstanding_in_a_segment(steps in sequence()) {
        let (triage, _) = run(Mode::Act, &steps, |_| {});
        let out = triage.incident_views().into_iter().filter(|view| {
            view.record.segment == SegmentId::from("default")
                && matches!(view.record.phase, medevac_triage::Phase::Fencing { .. } | medevac_triage::Phase::Confirming { .. })
        });
        prop_assert!(out.count() <= 1);
    }

    #[test]
    fn every_record_fits_into_a_store(steps in sequence()) {
        let (_, kept) = run(Mode::Act, &steps, |_| {});
        for (key, record) in kept {
            let bytes = serde_json::to_string(&record).expect("a record is plain data").len();
            prop_assert!(bytes <= medevac_triage::RECORD_BYTES_MAX, "{} has {} bytes", key, bytes);
        }
    }
}
