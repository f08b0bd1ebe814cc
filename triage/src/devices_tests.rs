//! Places in one spelling, networks, and what is believed of an offer.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::observation::{Observation, Word};
use crate::record::Record;
use crate::{Decision, Listed, Moment, Now, Settings};

#[test]
fn a_place_is_read_in_one_spelling() {
    let fine = [
        ("10.0.9.11", "10.0.9.11"),
        (" 10.0.9.11 ", "10.0.9.11"),
        ("FD00:0009:0::11", "fd00:9::11"),
        ("[fd00:9::11]", "fd00:9::11"),
        ("::ffff:10.0.9.11", "10.0.9.11"),
        ("BMC1.Example.", "bmc1.example"),
    ];
    for (given, spelt) in fine {
        assert_eq!(Place::read(given, "").unwrap().address, spelt, "{given}");
    }
    let long = "a".repeat(254);
    let wrong = [
        "",
        "0.0.0.0",
        "::",
        "127.0.0.1",
        "::1",
        "224.0.0.1",
        "255.255.255.255",
        "10.0.9",
        "10.0.9.256",
        "10.0.9.11:623",
        "a b",
        "a=b",
        "a\nb",
        "-x",
        "x;y",
        &long,
    ];
    for given in wrong {
        assert!(Place::read(given, "").is_err(), "{given:?}");
    }
    assert_eq!(Place::read("pdu1", " 3 ").unwrap().to_string(), "pdu1:3");
    assert!(Place::read("pdu1", "a\nb").is_err() && Place::read("pdu1", &"3".repeat(65)).is_err());
}

#[test]
fn a_network_holds_its_own_addresses() {
    let ip = |text: &str| text.parse().unwrap();
    let net = Network::parse("10.0.9.0/24").unwrap();
    assert!(net.holds(ip("10.0.9.255")) && !net.holds(ip("10.0.10.1")) && !net.holds(ip("fd00::1")));
    let all = Network::parse("0.0.0.0/0").unwrap();
    assert!(all.holds(ip("192.0.2.1")) && !all.holds(ip("fd00::1")));
    let net = Network::parse("fd00:9::/64").unwrap();
    assert!(net.holds(ip("fd00:9::11")) && !net.holds(ip("fd00:8::11")));
    assert!(Network::parse("::/0").unwrap().holds(ip("fd00::1")));
    for wrong in ["10.0.9.0", "10.0.9.0/33", "fd00::/129", "x/8", "10.0.9.0/-1"] {
        assert!(Network::parse(wrong).is_none(), "{wrong}");
    }
}

fn template() -> Template {
    Template { agent: "fence_ipmilan".to_owned(), offers: true, networks: vec![Network::parse("10.0.9.0/24").unwrap()] }
}

/// Three hosts; one of them speaks at an address where no controller can be.
fn site(settings: Settings) -> Triage {
    let host = |name: &str, plane: &str| {
        let planes = [("mgmt".into(), plane.to_owned())].into();
        Record::Host(HostRecord { id: name.into(), segment: "default".into(), planes, ..HostRecord::default() })
    };
    let hosts = [host("hv1", "10.0.0.1"), host("hv2", "10.0.0.2"), host("hv3", "10.0.9.3")];
    Triage::new(settings, hosts, Now::default())
}

fn templated() -> Settings {
    Settings { templates: [("default".into(), template())].into(), ..Settings::default() }
}

fn see(triage: &mut Triage, seen: Observation) -> Decision {
    let now = Now { at: Moment(1), ..Now::default() };
    let decision = triage.handle(now, vec![seen]);
    triage.apply(&decision.changes);
    decision
}

fn offer(triage: &mut Triage, host: &str, addresses: &[&str]) {
    let addresses = addresses.iter().map(ToString::to_string).collect();
    let offer = Offer { addresses, why: String::new() };
    see(triage, Observation::ControllerTold { host: host.into(), offer });
}

fn say(triage: &mut Triage, word: Word) -> Result<String, String> {
    let seen = Observation::OperatorSpoke { token: 1, by: "ada".into(), reason: "test".into(), word };
    let reply = see(triage, seen).replies.pop().unwrap();
    reply.answer.map_err(|refusal| refusal.name.to_owned())
}

fn name(triage: &Triage, host: &str) -> Option<String> {
    triage.device(&host.into()).map(|device| device.name.clone())
}

fn listed(line: usize, host: &str, address: &str, pinned: Option<bool>) -> Listed {
    Listed { line, host: host.into(), place: Place::read(address, "").unwrap(), pinned }
}

/// A host, its address, and whether it is vouched for.
type Row = (&'static str, &'static str, Option<bool>);

fn import(triage: &mut Triage, rows: &[Row]) -> Result<String, String> {
    let rows = rows.iter().enumerate().map(|(at, (host, address, pinned))| listed(at + 2, host, address, *pinned));
    let word = Word::ImportDevices { rows: rows.collect(), dry_run: false };
    say(triage, word)
}

#[test]
fn the_first_offer_is_kept_and_a_later_one_is_not_used() {
    let mut triage = site(templated());
    offer(&mut triage, "hv1", &["fd00:9::11", "10.0.9.11"]);
    assert_eq!(name(&triage, "hv1").unwrap(), "fence_ipmilan 10.0.9.11", "IPv4 before IPv6");
    offer(&mut triage, "hv1", &["10.0.9.99"]);
    assert_eq!(name(&triage, "hv1").unwrap(), "fence_ipmilan 10.0.9.11");
    let hv1 = triage.host(&"hv1".into()).unwrap();
    assert!(matches!(triage.strange_offer(hv1), Some(Strange::Differs { .. })));
    assert!(!triage.device(&"hv1".into()).unwrap().pinned, "an offer is no pin");
    assert!(say(&mut triage, Word::AcceptDevice { host: "hv1".into() }).is_ok());
    assert_eq!(name(&triage, "hv1").unwrap(), "fence_ipmilan 10.0.9.99");
}

#[test]
fn an_offer_that_cannot_be_its_own_is_not_taken() {
    let mut triage = site(templated());
    offer(&mut triage, "hv1", &["10.0.9.11"]);
    for (host, address) in [("hv2", "10.0.9.11"), ("hv2", "10.0.9.3"), ("hv2", "10.1.0.1"), ("hv9", "10.0.9.19")] {
        offer(&mut triage, host, &[address]);
        assert_eq!(name(&triage, host), None, "{host} {address}");
    }
    assert_eq!(say(&mut triage, Word::AcceptDevice { host: "hv3".into() }), Err("no-offer".to_owned()));
    offer(&mut triage, "hv2", &["10.0.9.11"]);
    assert_eq!(say(&mut triage, Word::AcceptDevice { host: "hv2".into() }), Err("one-plug".to_owned()));
    offer(&mut triage, "hv2", &["10.1.0.1"]);
    assert!(say(&mut triage, Word::AcceptDevice { host: "hv2".into() }).is_ok(), "a person knows the network");
}

#[test]
fn a_template_for_something_else_than_controllers_takes_no_offer() {
    let socket = Template { offers: false, ..template() };
    let mut triage = site(Settings { templates: [("default".into(), socket)].into(), ..Settings::default() });
    offer(&mut triage, "hv1", &["10.0.9.11"]);
    assert_eq!(name(&triage, "hv1"), None);
    assert!(import(&mut triage, &[("hv1", "10.0.9.50", None)]).is_ok());
    let hv1 = triage.host(&"hv1".into()).unwrap();
    assert_eq!(triage.strange_offer(hv1), None, "its controller is somewhere else than its socket");
}

#[test]
fn what_is_configured_wins_over_a_list_and_a_list_over_an_offer() {
    let place = Place::read("10.0.9.12", "").unwrap();
    let level = Level { name: "pdu".to_owned(), place, ..Level::default() };
    let device = Device { levels: vec![level], ..Device::named("pdu", true) };
    let mut triage = site(Settings { devices: [("hv2".into(), device)].into(), ..templated() });
    offer(&mut triage, "hv1", &["10.0.9.11"]);
    let told = import(&mut triage, &[("hv1", "10.0.9.21", None), ("hv2", "10.0.9.22", None)]).unwrap();
    assert!(told.contains("in place of 10.0.9.11 (offered)") && told.contains("[[fence]]"), "{told}");
    assert_eq!(name(&triage, "hv1").unwrap(), "fence_ipmilan 10.0.9.21");
    assert_eq!(name(&triage, "hv2").unwrap(), "pdu");
    assert_eq!(import(&mut triage, &[("hv1", "10.0.9.12", None)]), Err("one-plug".to_owned()), "it is hv2's");
}

#[test]
fn a_list_is_taken_as_a_whole_and_twice_is_as_once() {
    let mut triage = site(templated());
    let rows = [("hv1", "10.0.9.11", Some(true)), ("hv2", "10.0.9.12", None)];
    assert!(import(&mut triage, &rows).unwrap().starts_with("2 hosts: 2 new"));
    assert!(import(&mut triage, &rows).unwrap().starts_with("2 hosts: 0 new, 0 changed, 2 as they were"));
    let wrong = [("hv3", "10.0.9.13", None), ("hv1", "10.0.9.12", None)];
    assert_eq!(import(&mut triage, &wrong), Err("one-plug".to_owned()));
    assert_eq!(name(&triage, "hv3"), None, "nothing of it was taken");
    // Without a word about it, what was vouched for stays so at the same place alone.
    import(&mut triage, &[("hv1", "10.0.9.11", None)]).unwrap();
    assert!(triage.device(&"hv1".into()).unwrap().pinned);
    import(&mut triage, &[("hv1", "10.0.9.31", None)]).unwrap();
    assert!(!triage.device(&"hv1".into()).unwrap().pinned);
    // Two that change places.
    assert!(import(&mut triage, &[("hv1", "10.0.9.12", None), ("hv2", "10.0.9.31", None)]).is_ok());
}

#[test]
fn a_list_that_may_shoot_a_neighbour_or_nobody_is_refused_by_name() {
    let cases: [(&[Row], &str); 4] = [
        (&[], "empty-list"),
        (&[("hv1", "10.0.9.11", None), ("hv1", "10.0.9.12", None)], "host-twice"),
        (&[("hv1", "10.0.9.11", None), ("hv2", "10.0.9.11", None)], "one-plug"),
        (&[("hv1", "bmc1", None), ("hv2", "BMC1.", None)], "one-plug"),
    ];
    for (rows, wanted) in cases {
        assert_eq!(import(&mut site(templated()), rows), Err(wanted.to_owned()));
    }
    let mut bare = site(Settings::default());
    assert_eq!(import(&mut bare, &[("hv1", "10.0.9.11", None)]), Err("no-template".to_owned()));
}

#[test]
fn a_pin_is_for_the_device_that_was_seen_and_for_no_other() {
    let mut triage = site(templated());
    import(&mut triage, &[("hv1", "10.0.9.11", None)]).unwrap();
    say(&mut triage, Word::PinDevice { host: "hv1".into() }).unwrap();
    let vouched = |triage: &Triage| {
        let record = triage.host(&"hv1".into()).unwrap();
        triage.is_vouched_for(record, triage.device(&record.id).unwrap())
    };
    assert!(vouched(&triage));
    import(&mut triage, &[("hv1", "10.0.9.12", None)]).unwrap();
    assert!(!vouched(&triage), "nobody has seen what this one switches");
    import(&mut triage, &[("hv1", "10.0.9.11", None)]).unwrap();
    assert!(vouched(&triage));
    say(&mut triage, Word::ForgetDevice { host: "hv1".into() }).unwrap();
    assert_eq!(name(&triage, "hv1"), None);
}

#[test]
fn two_kept_on_one_plug_are_used_for_neither() {
    let kept = |host: &str| {
        let place = Place::read("10.0.9.11", "").unwrap();
        let imported = Some(Imported { place, pinned: true, by: "ada".into(), wall: Wall(0) });
        Record::Device(DeviceRecord { host: host.into(), imported, offered: None })
    };
    let host =
        |name: &str| Record::Host(HostRecord { id: name.into(), segment: "default".into(), ..HostRecord::default() });
    let records = [host("hv1"), host("hv2"), kept("hv1"), kept("hv2")];
    let triage = Triage::new(templated(), records, Now::default());
    assert_eq!((name(&triage, "hv1"), name(&triage, "hv2")), (None, None));
    let view = triage.fence_views(Now::default()).remove(0);
    assert_eq!((view.level, view.mapping), (0, "conflict"), "{}", view.why);
}
