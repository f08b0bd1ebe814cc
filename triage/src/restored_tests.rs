//! What is kept of a backup, record by record, and how a site goes on with it.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::id::{BootId, InstanceId, StepId};
use crate::identity::{TokenRecord, Used};
use crate::observation::{Hello, Inventory, Observation, RunState, Shown, Word};
use crate::record::{Home, IncidentKind, Pin, SegmentRecord, StepKind};
use crate::settings::Settings;
use crate::time::{Moment, Now};
use crate::{Command, Decision};

const STEP: StepId = StepId { incident: IncidentId(7), step: 0 };

fn home(boot: &str, why: HomeWhy) -> Home {
    Home { boot: boot.into(), why, incoming: false }
}

/// hv1 died, vm1 is being started at hv2, in mode act.
fn at_work() -> Vec<(Key, Record)> {
    let host = |name: &str, boot: &str| {
        let record = HostRecord {
            id: name.into(),
            segment: "default".into(),
            machine: format!("machine of {name}"),
            boots: vec![boot.into()],
            has_inventory: true,
            pin: Some(Pin { device: "pdu 1".into(), by: "ann".into() }),
            ..HostRecord::default()
        };
        (format!("host/{name}"), Record::Host(record))
    };
    let instance = InstanceRecord {
        id: "vm1".into(),
        name: "vm1".into(),
        last_host: "hv1".into(),
        wanted: true,
        moved_to: Some("hv2".into()),
        defined_on: ["hv1".into()].into(),
        homes: [("hv2".into(), home("b2", HomeWhy::Ordered(STEP)))].into(),
        ..InstanceRecord::default()
    };
    let incident = IncidentRecord {
        host: Some("hv1".into()),
        next_step: 1,
        ..IncidentRecord::opened(IncidentId(7), IncidentKind::HostSilent, "default".into(), Phase::Recovering, Wall(5))
    };
    let what = StepKind::Start { instance: "vm1".into(), target: "hv2".into(), boot: "b2".into(), define: true };
    let step = StepRecord {
        id: STEP,
        what,
        state: StepState::Ordered,
        deadline_ms: 60_000,
        precondition: String::new(),
        handle: String::new(),
    };
    let token = |id: &str, used| TokenRecord { id: id.into(), host: "hv3".into(), used, ..TokenRecord::default() };
    let used = Some(Used { key: "k".into(), wall: Wall(1) });
    let mode = Mode::Act;
    vec![
        ("site".into(), Record::Site(SiteRecord { next_incident: 7, alerts: 3, words: 9, ..SiteRecord::default() })),
        ("segment/default".into(), Record::Segment(SegmentRecord { id: "default".into(), mode, shot: vec![] })),
        host("hv1", "b1"),
        host("hv2", "b2"),
        ("instance/vm1".into(), Record::Instance(instance)),
        ("incident/inc-7".into(), Record::Incident(incident)),
        ("step/inc-7/0".into(), Record::Step(step)),
        ("token/t1".into(), Record::Token(token("t1", None))),
        ("token/t2".into(), Record::Token(token("t2", used))),
    ]
}

fn how() -> Restoring {
    Restoring { epoch: 1009, wall: Wall(77), what: "restored from a backup".into(), reason: "disk lost".into() }
}

/// A site that goes on with what was restored.
struct Site {
    triage: Triage,
    now: Now,
}

impl Site {
    fn restored() -> Self {
        let now = Now { at: Moment(1_000_000), wall: Wall(1_800_000_000_000) };
        let settings = Settings { default_mode: Mode::Act, ..Settings::default() };
        let (records, _) = restored(at_work(), &how());
        Self { triage: Triage::new(settings, records.into_iter().map(|(_, record)| record), now), now }
    }

    fn turn(&mut self, seen: Vec<Observation>) -> Decision {
        self.now.at = self.now.at.plus(std::time::Duration::from_secs(1));
        let decision = self.triage.handle(self.now, seen);
        self.triage.apply(&decision.changes);
        decision
    }

    /// A host shows what runs there.
    fn join(&mut self, name: &str, boot: &str, runs: &[&str]) -> Decision {
        let shown = Shown { known: true, state: RunState::Running, persistent: true, ..Shown::default() };
        let instances = runs.iter().map(|id| (InstanceId::from(*id), Shown { name: (*id).into(), ..shown.clone() }));
        let inventory = Inventory { libvirt_answered: true, instances: instances.collect(), ..Inventory::default() };
        let hello = Hello {
            host: name.into(),
            session: crate::SessionId(format!("session of {name}")),
            machine: format!("machine of {name}"),
            boot: boot.into(),
            inventory,
            ..Hello::default()
        };
        self.turn(vec![Observation::SessionOpened(Box::new(hello))])
    }

    fn say(&mut self, word: Word) -> Result<String, crate::Refusal> {
        let (by, reason) = ("ann".into(), "looked".into());
        self.turn(vec![Observation::OperatorSpoke { token: 1, by, reason, word }]).replies.remove(0).answer
    }

    fn bars(&self) -> String {
        let record = self.triage.durable.instances.get(&"vm1".into()).unwrap();
        self.triage.bars_start(record, &"hv2".into()).unwrap_or_default()
    }

    fn mode(&self, segment: &str) -> Mode {
        self.triage.mode(&segment.into())
    }
}

#[test]
fn nothing_that_was_under_way_is_carried_out() {
    let (records, voided) = restored(at_work(), &how());
    assert_eq!(voided, Voided { incidents: vec![IncidentId(7)], tokens: 1, hosts: vec!["hv1".into(), "hv2".into()] });
    let of = |key: &str| records.iter().find(|(known, _)| known == key).map(|(_, record)| record);
    let Some(Record::Incident(incident)) = of("incident/inc-7") else { panic!() };
    assert_eq!((&incident.phase, incident.closed), (&Phase::Closed { outcome: "restored".into() }, Some(Wall(77))));
    let Some(Record::Step(step)) = of("step/inc-7/0") else { panic!() };
    assert!(matches!(step.state, StepState::Unknown { .. }));
    let Some(Record::Instance(instance)) = of("instance/vm1") else { panic!() };
    assert_eq!(instance.homes[&HostId::from("hv2")], home("b2", HomeWhy::Presumed));
    assert!(!instance.wanted && instance.moved_to.is_none());
    let Some(Record::Host(host)) = of("host/hv1") else { panic!() };
    assert!(host.unseen && host.pin.is_none());
    assert!(of("token/t1").is_none() && of("token/t2").is_some());
    let Some(Record::Site(site)) = of("site") else { panic!() };
    assert_eq!((site.next_incident, site.alerts, site.words), (1_009_000, 1_009_000, 10));
    assert!(site.paused.as_ref().is_some_and(|why| why.contains("disk lost")), "{:?}", site.paused);
}

#[test]
fn a_restored_site_orders_nothing_and_tells_agents_nothing_new() {
    let mut site = Site::restored();
    let harmless = |command: &Command| {
        matches!(
            command,
            Command::AskInventory { .. }
                | Command::AskXml { .. }
                | Command::Acknowledge { .. }
                | Command::Probe { .. }
                | Command::ProbeSelf { .. }
                | Command::ReadPower { .. }
                | Command::CloseSession { .. }
        )
    };
    let mut ordered = site.join("hv2", "b2", &["vm1"]).commands;
    for _ in 0..200 {
        ordered.extend(site.turn(vec![Observation::TimePassed]).commands);
    }
    assert!(ordered.iter().all(harmless), "{ordered:?}");
    assert_eq!(site.mode("default"), Mode::Observe);
}

#[test]
fn a_segment_that_is_met_for_the_first_time_is_observed_too() {
    let mut site = Site::restored();
    site.triage.settings.segment_of = [(HostId::from("hv9"), "edge".into())].into();
    site.triage.settings.initial_mode = [("edge".into(), Mode::Act)].into();
    site.join("hv9", "b9", &[]);
    assert_eq!(site.mode("edge"), Mode::Observe);
}

#[test]
fn every_host_must_have_shown_what_it_has_before_anything_is_started() {
    let mut site = Site::restored();
    site.join("hv2", "b2", &[]);
    assert!(site.bars().contains("hv1, which has shown nothing"), "{}", site.bars());
    assert_eq!(site.say(Word::Forget { host: "hv1".into() }).unwrap_err().name, "host-was-heard");
    for _ in 0..61 {
        site.turn(vec![Observation::TimePassed]);
    }
    let refused = site.say(Word::ConfirmFenced { host: "hv1".into(), boot: Some(BootId::from("b0")) }).unwrap_err();
    assert_eq!(refused.name, "other-boot");
    site.say(Word::ConfirmFenced { host: "hv1".into(), boot: None }).unwrap();
    assert!(!site.bars().contains("shown nothing"), "{}", site.bars());
}

#[test]
fn resume_is_the_word_that_ends_it() {
    let mut site = Site::restored();
    site.join("hv1", "b1", &[]);
    site.join("hv2", "b2", &["vm1"]);
    assert!(site.triage.standing_alerts(site.now).iter().any(|(code, _)| *code == "MDV-RESTORED"));
    let told = site.say(Word::SetMode { segment: "default".into(), mode: Mode::Act, others_are_off: false });
    assert!(told.is_ok(), "{told:?}");
    site.say(Word::Resume).unwrap();
    let care = site.turn(vec![Observation::TimePassed]);
    assert!(site.triage.durable.site().restored.is_none());
    assert_eq!(site.mode("default"), Mode::Act);
    assert!(!site.triage.standing_alerts(site.now).iter().any(|(code, _)| *code == "MDV-RESTORED"), "{care:?}");
}
