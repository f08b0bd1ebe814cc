//! Settings that change under what is going on.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::devices::{DeviceRecord, Imported, Place, Template};
use crate::id::IncidentId;
use crate::record::{HostRecord, IncidentKind, IncidentRecord, Mode, Phase, Pin, Record, SegmentRecord};
use crate::settings::Device;
use crate::time::Wall;
use crate::{AlertRecord, Decision, Observation, StepId};

const SECOND: Duration = Duration::from_secs(1);

fn device(name: &str) -> Device {
    Device::named(name, false)
}

fn settings(name: &str) -> Settings {
    Settings { devices: [("hv1".into(), device(name))].into(), ..Settings::default() }
}

struct Site {
    triage: Triage,
    now: Now,
}

impl Site {
    fn new(records: Vec<Record>) -> Self {
        let now = Now { at: Moment(1_000_000), wall: Wall(1_800_000_000_000) };
        Self { triage: Triage::new(settings("pdu 1"), records, now), now }
    }

    fn shooting(phase: Phase) -> Self {
        let host = HostRecord { id: "hv1".into(), boots: vec!["b1".into()], ..HostRecord::default() };
        let opened = IncidentRecord::opened(IncidentId(1), IncidentKind::HostShot, "default".into(), phase, Wall(1));
        let incident = IncidentRecord { host: Some("hv1".into()), next_step: 1, ..opened };
        Self::new(vec![Record::Host(host), Record::Incident(incident)])
    }

    fn reload(&mut self, settings: Settings) -> Result<Vec<String>, String> {
        self.triage.reload(self.now, settings)
    }

    fn turn(&mut self, passed: Duration) -> Decision {
        self.now.at = self.now.at.plus(passed);
        let decision = self.triage.handle(self.now, vec![Observation::TimePassed]);
        self.triage.apply(&decision.changes);
        decision
    }

    fn alerts(&self) -> Vec<AlertRecord> {
        self.triage.alerts().into_iter().filter(|alert| alert.cause.code() == "MDV-CONFIG-REFUSED").collect()
    }
}

fn step() -> StepId {
    StepId { incident: IncidentId(1), step: 0 }
}

#[test]
fn a_fence_under_way_keeps_its_device_and_an_unknown_one_may_get_another() {
    for phase in [Phase::Fencing { step: step() }, Phase::Confirming { step: step(), device: "pdu 1".into() }] {
        let mut site = Site::shooting(phase);
        let refused = site.reload(Settings { suspect_after: SECOND * 2, ..settings("pdu 2") }).unwrap_err();
        assert!(refused.contains("hv1 is being switched off"), "{refused}");
        assert_eq!(site.triage.settings, settings("pdu 1"), "nothing of it is taken");
        site.reload(Settings { suspect_after: SECOND * 2, ..settings("pdu 1") }).unwrap();
    }
    Site::shooting(Phase::FenceUnknown { why: "no answer".into() }).reload(settings("pdu 2")).unwrap();
}

#[test]
fn silence_that_has_begun_keeps_the_longer_grace() {
    let mut site = Site::shooting(Phase::Watching);
    let grace = |site: &Site| {
        let extra = site.triage.watches.get(&HostId::from("hv1")).unwrap().grace_extra;
        (site.triage.settings.fence_grace + extra, site.triage.settings.fence_grace_long + extra)
    };
    let before = grace(&site);
    site.reload(Settings { fence_grace: SECOND * 2, fence_grace_long: SECOND * 4, ..settings("pdu 1") }).unwrap();
    let (short, long) = grace(&site);
    assert!(short >= before.0 && long >= before.1, "{short:?} {long:?}");
    let mut site = Site::shooting(Phase::Watching);
    let planes = [crate::PlaneId::from("a"), crate::PlaneId::from("b")].into();
    site.reload(Settings { planes, ..settings("pdu 1") }).unwrap();
    assert!(grace(&site).0 >= before.1, "with a second plane the short grace is in force, and it waited for the long");
    let before = grace(&site);
    site.reload(Settings {
        fence_grace_long: SECOND * 60,
        planes: site.triage.settings.planes.clone(),
        ..settings("pdu 1")
    })
    .unwrap();
    assert!(grace(&site).1 > before.1, "a longer one holds at once");
}

/// Vouched for, and seen on while this boot was heard, by this device.
fn vouched(device: &str) -> Record {
    Record::Host(HostRecord {
        id: "hv1".into(),
        boots: vec!["b1".into()],
        power_on_boot: Some("b1".into()),
        pin: Some(Pin { device: device.into(), by: "ann".into() }),
        device: device.into(),
        ..HostRecord::default()
    })
}

fn trust(site: &Site) -> (bool, bool) {
    let record = site.triage.host(&"hv1".into()).unwrap();
    let device = site.triage.device(&record.id).unwrap();
    (site.triage.is_vouched_for(record, device), record.power_on_boot.is_some())
}

#[test]
fn what_was_seen_of_a_device_says_nothing_of_another() {
    let mut site = Site::new(vec![vouched("pdu 1")]);
    site.reload(settings("pdu 1")).unwrap();
    site.turn(SECOND);
    assert_eq!(trust(&site), (true, true));
    let asked = site.now.at;
    site.now.at = asked.plus(SECOND);
    let told = site.reload(settings("pdu 2")).unwrap();
    assert!(told[0].contains("pin-device hv1"), "{told:?}");
    let changes = site.turn(SECOND).changes;
    assert!(changes.iter().any(|change| change.key() == "host/hv1"), "it is committed: {changes:?}");
    assert_eq!(trust(&site), (false, false));
    // What the former device was asked before is answered after it.
    site.triage.take_power(&"hv1".into(), asked.0, crate::Power::On, vec![]);
    assert_eq!(site.triage.watches.get(&HostId::from("hv1")).unwrap().power_on_at, None);
}

#[test]
fn a_restart_with_another_device_in_the_file_asks_for_trust_anew() {
    assert_eq!(trust(&Site::new(vec![vouched("pdu 1")])), (true, true));
    let mut site = Site::new(vec![vouched("pdu 9")]);
    assert_eq!(trust(&site), (false, false));
    let decision = site.turn(SECOND);
    assert!(decision.notes.iter().any(|note| note.alert && note.text.contains("another fence device than pdu 9")));
}

#[test]
fn a_mode_in_the_file_is_a_first_value_and_that_is_said() {
    let segment = SegmentRecord { id: "default".into(), mode: Mode::Observe, shot: vec![] };
    let mut site = Site::new(vec![Record::Segment(segment)]);
    let act = Settings { initial_mode: [("default".into(), Mode::Act)].into(), ..settings("pdu 1") };
    let told = site.reload(act.clone()).unwrap();
    assert!(told[0].contains("stays in mode observe") && told[0].contains("medevacctl mode default act"), "{told:?}");
    assert_eq!(site.triage.mode(&"default".into()), Mode::Observe);
    assert!(site.reload(act).unwrap().is_empty(), "said once");
}

#[test]
fn a_refused_file_is_one_alert_until_one_is_taken() {
    let mut site = Site::new(vec![]);
    site.triage.refuse_settings(site.now, "line 3: no".into());
    site.turn(SECOND);
    site.triage.refuse_settings(site.now, "line 4: no".into());
    site.turn(SECOND * 60);
    let status = site.triage.standing_alerts(site.now);
    assert!(status.iter().any(|(code, text)| *code == "MDV-CONFIG-REFUSED" && text.contains("61 s ago: line 4")));
    assert_eq!(site.alerts().len(), 1);
    site.reload(settings("pdu 1")).unwrap();
    site.turn(SECOND);
    site.turn(site.triage.settings.resolve_after);
    assert!(site.alerts()[0].resolved.is_some());
}

/// hv1 is switched by its segment's template, at an address from a list; its pin names what it was then.
fn by_template(agent: &str, phase: Phase) -> Site {
    let imported =
        Imported { place: Place::read("10.0.9.11", "").unwrap(), pinned: false, by: "ann".into(), wall: Wall(1) };
    let device = DeviceRecord { host: "hv1".into(), imported: Some(imported), offered: None };
    let Record::Host(host) = vouched(&format!("{agent} 10.0.9.11")) else { unreachable!() };
    let host = HostRecord { segment: "default".into(), ..host };
    let opened = IncidentRecord::opened(IncidentId(1), IncidentKind::HostShot, "default".into(), phase, Wall(1));
    let incident = IncidentRecord { host: Some("hv1".into()), next_step: 1, ..opened };
    let now = Now { at: Moment(1_000_000), wall: Wall(1_800_000_000_000) };
    let records = vec![Record::Host(host), Record::Device(device), Record::Incident(incident)];
    Site { triage: Triage::new(templated(agent), records, now), now }
}

fn templated(agent: &str) -> Settings {
    let template = Template { agent: agent.into(), ..Template::default() };
    Settings { templates: [("default".into(), template)].into(), ..Settings::default() }
}

#[test]
fn a_template_that_changes_makes_another_device_of_each_of_its_hosts() {
    let mut site = by_template("fence_ipmilan", Phase::Watching);
    assert_eq!(trust(&site), (true, true));
    assert!(site.reload(templated("fence_ipmilan")).unwrap().is_empty());
    assert_eq!(trust(&site), (true, true));
    let told = site.reload(templated("fence_redfish")).unwrap();
    assert!(told[0].contains("pin-device hv1"), "{told:?}");
    assert_eq!(trust(&site), (false, false));
}

#[test]
fn a_template_stays_while_one_of_its_hosts_is_being_switched_off() {
    let mut site = by_template("fence_ipmilan", Phase::Fencing { step: step() });
    let refused = site.reload(templated("fence_redfish")).unwrap_err();
    assert!(refused.contains("hv1 is being switched off"), "{refused}");
    assert_eq!(site.triage.settings, templated("fence_ipmilan"), "nothing of it is taken");
}
