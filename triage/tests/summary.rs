//! The state in numbers says what the views say, slice by slice.

// How long a slice takes is measured here; nothing is decided by it.
#![allow(clippy::disallowed_methods)]

use medevac_triage::{
    BootId, CloudKind, CloudNews, ComputeService, Coverage, Cursor, Device, Disk, HOST_STATES, HostId, HostRecord,
    IncidentId, IncidentKind, IncidentRecord, InstanceRecord, Mode, NOT_COVERED, Now, Observation, Phase, Record,
    SegmentRecord, SegmentsBy, Server, Settings, Triage, Wall,
};
use std::time::{Duration, Instant};

const SLICE: usize = 100;

fn host(number: usize) -> HostId {
    HostId(format!("hv{number}"))
}

fn host_record(number: usize) -> Record {
    let boots = vec![BootId::from("b1")];
    let (id, segment) = (host(number), "default".into());
    Record::Host(HostRecord { id, segment, boots, has_inventory: true, ..HostRecord::default() })
}

/// Every fourth is on shared storage that nobody has shown, on a local disk, bound to its host, or not protected.
fn instance(number: usize, hosts: usize) -> Record {
    let kind = number % 4;
    let disk = Disk { path: "/d".into(), network: false, marker: (kind == 0).then(|| "nfs-1".to_owned()) };
    Record::Instance(InstanceRecord {
        id: format!("i{number:05}").as_str().into(),
        last_host: host(number % hosts),
        xml_hash: "x".into(),
        disks: vec![disk],
        local_only: if kind == 2 { vec!["hostdev 0000:03:00.0".into()] } else { Vec::new() },
        protect: (kind == 3).then_some(false),
        ..InstanceRecord::default()
    })
}

fn counted(triage: &Triage, slices: &mut Vec<Duration>) -> Coverage {
    let (mut coverage, mut cursor) = (Coverage::default(), Some(Cursor::default()));
    while let Some(from) = cursor {
        let begun = Instant::now();
        cursor = triage.count_instances(&from, SLICE, &mut coverage);
        slices.push(begun.elapsed());
    }
    coverage
}

#[test]
fn ten_thousand_instances_are_counted_in_slices_and_as_the_views_show_them() {
    let (hosts, instances) = (200, 10_000);
    let records = (0..hosts).map(host_record).chain((0..instances).map(|number| instance(number, hosts)));
    let triage = Triage::new(Settings::default(), records, Now::default());
    let mut slices = Vec::new();
    let coverage = counted(&triage, &mut slices);
    let of = &coverage[&"default".into()];
    let quarter = instances / 4;
    assert_eq!((of.all, of.protected), (instances, instances - quarter));
    let expected = [("bound-to-host", quarter), ("local-disk", 2 * quarter), ("policy", quarter)];
    assert_eq!(of.not, expected.into());
    let views = triage.instance_views(Now::default());
    assert_eq!(views.iter().filter(|view| !view.reason.is_empty()).count(), of.not.values().sum::<usize>());
    assert_eq!(views.iter().filter(|view| view.protected).count(), of.protected);
    assert!(of.not.keys().all(|reason| NOT_COVERED.contains(reason)));
    // One slice more than there are full ones: only an empty one shows that nothing is left.
    assert_eq!(slices.len(), instances / SLICE + 1);
    let begun = Instant::now();
    let summary = triage.summary(Now::default());
    let longest = slices.iter().max().copied().unwrap_or_default();
    println!(
        "summary {:?}, longest slice {longest:?}, all slices {:?}",
        begun.elapsed(),
        slices.iter().sum::<Duration>()
    );
    assert_eq!(summary.lacking.len(), hosts);
}

#[test]
fn servers_of_hosts_without_an_agent_are_counted_once() {
    let settings =
        Settings { cloud: CloudKind::Openstack, segments_by: SegmentsBy::AvailabilityZone, ..Settings::default() };
    let records = vec![host_record(0), instance(0, 1)];
    let mut triage = Triage::new(settings, records, Now::default());
    let service = |name: &str| ComputeService { host: name.into(), zone: "az1".into(), ..ComputeService::default() };
    let server =
        |id: &str, on: &str| Server { id: id.into(), host: on.into(), vm_state: "active".into(), ..Server::default() };
    // One that its agent has shown, too, and enough strangers for more than a slice.
    let strange = (0..SLICE + 5).map(|number| server(&format!("s{number:04}"), "strange"));
    let servers = strange.chain([server("i00000", "hv0")]).collect();
    let news = [CloudNews::Services(vec![service("hv0"), service("strange")]), CloudNews::Roster(servers)];
    let decision = triage.handle(Now::default(), news.into_iter().map(Observation::CloudSpoke).collect());
    triage.apply(&decision.changes);
    let coverage = counted(&triage, &mut Vec::new());
    let of = &coverage[&"az1".into()];
    assert_eq!((of.all, of.not[&"no-agent"]), (SLICE + 6, SLICE + 5), "{coverage:?}");
    let summary = triage.summary(Now::default());
    assert!(summary.lacking.contains(&("strange".into(), "az1".into(), "no-agent")), "{:?}", summary.lacking);
    assert_eq!(summary.cloud, Some(true));
}

#[test]
fn hosts_and_open_incidents_are_counted_as_they_are_shown() {
    let incident = |id: u64, phase: Phase| {
        let opened = IncidentRecord::opened(IncidentId(id), IncidentKind::HostSilent, "default".into(), phase, Wall(0));
        Record::Incident(IncidentRecord { host: Some(host(0)), ..opened })
    };
    let segment = SegmentRecord { id: "default".into(), mode: Mode::Act, shot: Vec::new() };
    let records = vec![
        Record::Segment(segment),
        host_record(0),
        host_record(1),
        host_record(2),
        incident(1, Phase::Closed { outcome: "recovered".into() }),
        incident(2, Phase::FenceUnknown { why: String::new() }),
    ];
    let device = |name: &str| Device::named(name, true);
    let devices = [(host(0), device("a")), (host(1), device("b"))].into();
    let triage = Triage::new(Settings { devices, ..Settings::default() }, records, Now::default());
    let (summary, views) = (triage.summary(Now::default()), triage.host_views(Now::default()));
    let of = &summary.segments[&"default".into()];
    assert_eq!((of.mode, of.states[&"fence-unknown"], of.states[&"unknown"], of.heard), (Mode::Act, 1, 2, 0));
    for view in &views {
        assert!(HOST_STATES.contains(&view.state) && of.states.contains_key(view.state), "{}", view.state);
    }
    assert_eq!(summary.incidents, [(IncidentKind::HostSilent, Phase::FenceUnknown { why: String::new() })]);
    assert_eq!(summary.lacking, [(host(2), "default".into(), "no-fence-device")]);
    assert!(summary.settling && !summary.paused && summary.cloud.is_none());
}
