//! Which segment a host belongs to, and when it moves.

use medevac_triage::{
    Aggregate, BootId, CloudKind, CloudNews, ComputeService, HostId, HostRecord, IncidentId, IncidentKind,
    IncidentRecord, Marks, Mode, Now, Observation, Phase, Record, SEGMENT_MARK, SegmentId, SegmentRecord, SegmentsBy,
    Settings, Triage, Wall, Word,
};

fn settings(segments_by: SegmentsBy) -> Settings {
    Settings { cloud: CloudKind::Openstack, segments_by, ..Settings::default() }
}

fn in_default(host: &str) -> Record {
    let boots = vec![BootId::from("b1")];
    Record::Host(HostRecord { id: host.into(), segment: "default".into(), boots, ..HostRecord::default() })
}

fn segment(name: &str, mode: Mode, shot: &[&str]) -> Record {
    let shot = shot.iter().map(|host| HostId::from(*host)).collect();
    Record::Segment(SegmentRecord { id: name.into(), mode, shot })
}

fn incident(host: &str, phase: Phase) -> IncidentRecord {
    let opened =
        IncidentRecord::opened(IncidentId(1), IncidentKind::HostSilent, "default".into(), phase, Wall::default());
    IncidentRecord { host: Some(host.into()), ..opened }
}

struct Site(Triage);

impl Site {
    fn new(settings: Settings, records: Vec<Record>) -> Self {
        Self(Triage::new(settings, records, Now::default()))
    }

    fn seen(&mut self, observation: Observation) {
        let decision = self.0.handle(Now::default(), vec![observation]);
        self.0.apply(&decision.changes);
    }

    fn zones(&mut self, of: &[(&str, &str)]) {
        let service = |(host, zone): &(&str, &str)| ComputeService {
            host: (*host).into(),
            zone: (*zone).to_owned(),
            ..ComputeService::default()
        };
        self.seen(Observation::CloudSpoke(CloudNews::Services(of.iter().map(service).collect())));
    }

    fn of(&self, host: &str) -> String {
        let views = self.0.host_views(Now::default());
        views.into_iter().find(|view| view.id == HostId::from(host)).expect("it has joined").segment.0
    }

    /// Name, mode and hosts of each segment that is shown.
    fn shown(&self) -> Vec<(String, Mode, usize)> {
        let view = self.0.site_view(Now::default());
        view.segments.into_iter().map(|of| (of.id.0, of.mode, of.hosts)).collect()
    }
}

#[test]
fn hosts_of_an_older_store_move_into_their_zones_and_keep_the_mode_that_an_operator_chose() {
    let records = vec![in_default("hv1"), in_default("hv2"), segment("default", Mode::Act, &[])];
    let mut site = Site::new(settings(SegmentsBy::AvailabilityZone), records);
    site.seen(Observation::TimePassed);
    assert_eq!(site.shown(), [("default".to_owned(), Mode::Act, 2)], "Nova has not told anything yet");
    site.zones(&[("hv1", "az1"), ("hv2", "")]);
    assert_eq!((site.of("hv1"), site.of("hv2")), ("az1".to_owned(), "default".to_owned()));
    site.zones(&[("hv2", "az1")]);
    assert_eq!(site.shown(), [("az1".to_owned(), Mode::Act, 2)]);
}

#[test]
fn a_zone_that_is_configured_has_its_own_first_mode() {
    let initial_mode = [(SegmentId::from("az1"), Mode::Approve)].into();
    let settings = Settings { initial_mode, ..settings(SegmentsBy::AvailabilityZone) };
    let mut site = Site::new(settings, vec![in_default("hv1"), segment("default", Mode::Act, &[])]);
    site.zones(&[("hv1", "az1")]);
    assert_eq!(site.shown(), [("az1".to_owned(), Mode::Approve, 1)]);
    let word = Word::SetMode { segment: "az1".into(), mode: Mode::Act, others_are_off: false };
    site.seen(Observation::OperatorSpoke { token: 1, by: "me".into(), reason: "seen enough".into(), word });
    site.zones(&[("hv1", "az2")]);
    site.zones(&[("hv1", "az1")]);
    assert_eq!(site.shown(), [("az1".to_owned(), Mode::Act, 1)], "a mode outlasts the absence of hosts");
}

#[test]
fn a_host_with_an_open_incident_stays_where_it_is_judged() {
    let moved = |phase: Phase| {
        let records = vec![in_default("hv1"), Record::Incident(incident("hv1", phase))];
        let mut site = Site::new(settings(SegmentsBy::AvailabilityZone), records);
        site.zones(&[("hv1", "az1")]);
        site.of("hv1")
    };
    assert_eq!(moved(Phase::WaitingForApproval), "default");
    assert_eq!(moved(Phase::Closed { outcome: "recovered".to_owned() }), "az1");
}

#[test]
fn a_host_that_was_shot_of_late_counts_in_the_segment_that_it_moves_to() {
    let records = vec![in_default("hv1"), segment("default", Mode::Act, &["hv1", "hv7"])];
    let mut site = Site::new(settings(SegmentsBy::AvailabilityZone), records);
    let zone = ComputeService { host: "hv1".into(), zone: "az1".to_owned(), ..ComputeService::default() };
    let seen = Observation::CloudSpoke(CloudNews::Services(vec![zone]));
    let changes = site.0.handle(Now::default(), vec![seen]).changes;
    let shot = |name: &str| {
        let key = format!("segment/{name}");
        changes.iter().find_map(|change| match change {
            medevac_triage::Change::Put(of, record) if *of == key => match record.as_ref() {
                Record::Segment(record) => Some(record.shot.clone()),
                _ => None,
            },
            _ => None,
        })
    };
    assert_eq!(shot("az1"), Some(vec!["hv1".into()]));
    assert_eq!(shot("default"), Some(vec!["hv7".into()]));
}

#[test]
fn an_aggregate_that_is_marked_or_named_makes_a_segment_and_the_hand_beats_the_rule() {
    let segment_aggregates = ["named".to_owned()].into();
    let segment_of = [(HostId::from("hv4"), SegmentId::from("edge"))].into();
    let settings = Settings { segment_aggregates, segment_of, ..settings(SegmentsBy::Aggregate) };
    let mut site = Site::new(settings, ["hv1", "hv2", "hv3", "hv4"].map(in_default).into());
    site.seen(Observation::TimePassed);
    assert_eq!((site.of("hv1"), site.of("hv4")), ("default".to_owned(), "edge".to_owned()));
    let aggregate = |name: &str, hosts: &[&str], mark: &str| {
        let hosts = hosts.iter().map(|host| HostId::from(*host)).collect();
        let marks: Marks = [(SEGMENT_MARK.to_owned(), mark.to_owned())].into();
        Aggregate { name: name.to_owned(), zone: String::new(), hosts, marks }
    };
    let all = ["hv1", "hv2", "hv3", "hv4"];
    let aggregates = vec![
        aggregate("named", &["hv1", "hv2"], "no"),
        aggregate("all", &all, "no"),
        aggregate("marked", &["hv1", "hv4"], "yes"),
    ];
    site.seen(Observation::CloudSpoke(CloudNews::Aggregates(aggregates)));
    assert_eq!(["hv1", "hv2", "hv3", "hv4"].map(|host| site.of(host)), ["marked", "named", "default", "edge"]);
    site.seen(Observation::CloudSpoke(CloudNews::Aggregates(Vec::new())));
    assert_eq!(["hv1", "hv2", "hv4"].map(|host| site.of(host)), ["default", "default", "edge"]);
}
