//! The adapter for OpenStack against a Nova that is as careless as the real
//! one: what triage asks for is carried out once, and every act is answered.

#![allow(clippy::unwrap_used)]

use medevac_aggregator::cloud::libvirt::{Carrier, LibvirtCloud};
use medevac_aggregator::cloud::openstack::{Names, OpenstackCloud};
use medevac_aggregator::engine::Input;
use medevac_aggregator::ports::Cloud;
use medevac_openstack::Nova;
use medevac_openstack::fake::{Fake, FakeServer, Fault, Options, Seen, What};
use medevac_proto::session::aggregator_frame::Body;
use medevac_triage::{
    CloudAct, CloudNews, ComputeService, Course, Epoch, HostId, IncidentId, InstanceId, Move, Observation, Outcome,
    Server, SessionId, StepId,
};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::mpsc;

/// No agent is asked for anything here.
struct NoAgents;

impl Carrier for NoAgents {
    fn not_after(&self, _: &SessionId, _: Duration) -> Option<u64> {
        None
    }
    fn send(&self, _: &SessionId, _: Body) -> bool {
        false
    }
    fn report(&self, _: Observation) {}
}

struct Site {
    fake: Fake,
    cloud: OpenstackCloud,
    inbox: mpsc::Receiver<Input>,
    steps: u32,
}

impl Site {
    async fn start(names: Names) -> Self {
        Self::of(Fake::start(Options::default()).await.unwrap(), names)
    }

    /// For what is read at the start alone, or rarely.
    fn of(fake: Fake, names: Names) -> Self {
        let (told, inbox) = mpsc::channel(256);
        let agents = LibvirtCloud::new(Box::new(NoAgents), "site".into(), Epoch::default());
        let nova = Nova::new(fake.credentials()).unwrap();
        let cloud = OpenstackCloud::new(agents, nova, names, told, tokio::runtime::Handle::current());
        Self { fake, cloud, inbox, steps: 0 }
    }

    /// Three hosts, of which the first dies with one server, forced down.
    async fn after_a_death() -> (Self, InstanceId) {
        let mut site = Self::start(Names::default()).await;
        for host in ["hv1", "hv2", "hv3"] {
            site.fake.add_host(host);
        }
        let server = InstanceId(site.fake.add_server(FakeServer::on("hv1")));
        site.fake.crash("hv1");
        let step = site.step();
        assert!(matches!(
            site.change(step, CloudAct::ForceDown { step, host: "hv1".into() }).await,
            Outcome::Done { .. }
        ));
        (site, server)
    }

    fn step(&mut self) -> StepId {
        self.steps += 1;
        StepId { incident: IncidentId(1), step: self.steps }
    }

    /// The first news that is wanted.
    async fn news<T>(&mut self, wanted: impl Fn(&CloudNews) -> Option<T>) -> T {
        let heard = async {
            loop {
                if let Some(Input::Seen(Observation::CloudSpoke(news))) = self.inbox.recv().await
                    && let Some(found) = wanted(&news)
                {
                    return found;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), heard).await.expect("every act is answered")
    }

    async fn change(&mut self, step: StepId, act: CloudAct) -> Outcome {
        self.cloud.act(act);
        self.news(|news| match news {
            CloudNews::Answered { step: of, outcome } if *of == step => Some(outcome.clone()),
            _ => None,
        })
        .await
    }

    async fn evacuate(&mut self, server: &InstanceId) -> (StepId, Outcome) {
        self.evacuate_after(server, &BTreeSet::new()).await
    }

    /// With what earlier tries have left.
    async fn evacuate_after(&mut self, server: &InstanceId, abandoned: &BTreeSet<i64>) -> (StepId, Outcome) {
        let step = self.step();
        let (instance, source, abandoned) = (server.clone(), HostId::from("hv1"), abandoned.clone());
        let deadline = Duration::from_secs(10);
        let act = CloudAct::Evacuate { step, instance, source, target: None, deadline, abandoned };
        (step, self.change(step, act).await)
    }

    /// Where it has come to in the end.
    async fn end_of(&mut self, of: &Move) -> Course {
        let mut latest = Course::Unseen;
        for _ in 0..200 {
            latest = self.course(of.clone()).await;
            match latest {
                Course::UnderWay { .. } => tokio::time::sleep(Duration::from_millis(50)).await,
                _ => break,
            }
        }
        latest
    }

    async fn course(&mut self, of: Move) -> Course {
        self.cloud.act(CloudAct::Follow { source: "hv1".into(), ask: 9, moves: vec![of] });
        self.news(|news| match news {
            CloudNews::Followed { courses, .. } => Some(courses[0].1.clone()),
            _ => None,
        })
        .await
    }

    async fn servers_on(&mut self, host: &str) -> Vec<Server> {
        self.cloud.act(CloudAct::ListServers { host: host.into(), ask: 1 });
        self.news(|news| match news {
            CloudNews::Servers { servers, .. } => Some(servers.clone().unwrap()),
            _ => None,
        })
        .await
    }
}

fn request(outcome: Outcome) -> String {
    let Outcome::Done { detail } = outcome else { panic!("not taken: {outcome:?}") };
    detail
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_hosts_server_is_evacuated_once_and_confirmed_by_its_own_request() {
    let (mut site, server) = Site::after_a_death().await;
    assert_eq!(site.servers_on("hv1").await.len(), 1);
    let (step, outcome) = site.evacuate(&server).await;
    let of = Move {
        step,
        instance: server.clone(),
        request: request(outcome),
        others: Default::default(),
        doubted: false,
        abandoned: Default::default(),
    };
    let Course::Done { host, request, left } = site.end_of(&of).await else { panic!("it is evacuated") };
    assert_eq!((request, left), (of.request, None));
    assert_ne!(host.as_str(), "hv1");
    assert_eq!(site.fake.evacuate_posts(server.as_str()), 1);
    assert!(site.fake.ever_doubled().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evacuation_that_nova_notes_in_the_record_of_a_lost_one_is_confirmed_by_its_own_action() {
    let (mut site, server) = Site::after_a_death().await;
    request(site.evacuate(&server).await.1);
    site.fake.lose_requests();
    site.fake.set_server_state(server.as_str(), "error", None);
    let (others, abandoned) = (BTreeSet::new(), BTreeSet::from([1]));
    let (step, outcome) = site.evacuate_after(&server, &abandoned).await;
    let of = Move { step, instance: server, request: request(outcome), others, doubted: false, abandoned };
    let Course::Done { request, left, .. } = site.end_of(&of).await else { panic!("it is evacuated") };
    assert_eq!((request, left), (of.request, Some(2)), "its own record stays open for ever");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_evacuation_never_reaches_nova() {
    let (mut site, server) = Site::after_a_death().await;
    request(site.evacuate(&server).await.1);
    let (_, second) = site.evacuate(&server).await;
    assert!(matches!(second, Outcome::Refused { .. }), "{second:?}");
    assert_eq!(site.fake.evacuate_posts(server.as_str()), 1);
}

/// How often Nova was asked for one server by itself.
fn reads(site: &Site, server: &InstanceId) -> usize {
    let of = |seen: &&Seen| seen.method == "GET" && seen.path.ends_with(&format!("/servers/{server}"));
    site.fake.seen().iter().filter(of).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_while_nova_is_told_serves_one_evacuation_and_no_second() {
    let (mut site, server) = Site::after_a_death().await;
    site.cloud.act(CloudAct::ReadAhead { instances: vec![server.clone()] });
    // Begun, as it is by the time at which Nova has been told.
    tokio::time::sleep(Duration::from_millis(50)).await;
    request(site.evacuate(&server).await.1);
    assert_eq!(reads(&site, &server), 1);
    let (_, second) = site.evacuate(&server).await;
    assert!(matches!(second, Outcome::Refused { .. }), "{second:?}");
    assert_eq!((reads(&site, &server), site.fake.evacuate_posts(server.as_str())), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_long_before_an_evacuation_is_read_again() {
    let (mut site, server) = Site::after_a_death().await;
    site.cloud.act(CloudAct::ReadAhead { instances: vec![server.clone()] });
    tokio::time::sleep(Duration::from_millis(400)).await;
    request(site.evacuate(&server).await.1);
    assert_eq!(reads(&site, &server), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evacuation_whose_time_is_over_is_never_sent() {
    let (mut site, instance) = Site::after_a_death().await;
    let step = site.step();
    let deadline = Duration::ZERO;
    let act = CloudAct::Evacuate {
        step,
        instance: instance.clone(),
        source: "hv1".into(),
        target: None,
        deadline,
        abandoned: Default::default(),
    };
    assert_eq!(site.change(step, act).await, Outcome::NotSent);
    assert_eq!(site.fake.evacuate_posts(instance.as_str()), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_found_again_and_an_earlier_try_is_not_mistaken_for_it() {
    let (mut site, server) = Site::after_a_death().await;
    site.fake.add_fault(Fault::new(What::CutAfter).method("POST").path("/action").once());
    let (step, outcome) = site.evacuate(&server).await;
    assert!(matches!(outcome, Outcome::Unknown { .. }), "{outcome:?}");
    let lost = Move {
        step,
        instance: server.clone(),
        request: String::new(),
        others: Default::default(),
        doubted: false,
        abandoned: Default::default(),
    };
    let (Course::UnderWay { request, .. } | Course::Done { request, .. }) = site.course(lost.clone()).await else {
        panic!("it was taken")
    };
    assert!(request.starts_with("req-"));
    let later = Move { others: [request].into(), ..lost };
    assert_eq!(site.course(later).await, Course::Unseen, "an earlier try is none of ours");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_deleted_on_its_way_is_told_at_once_though_nova_forgets_its_records_with_it() {
    let (mut site, server) = Site::after_a_death().await;
    let (step, outcome) = site.evacuate(&server).await;
    let of = Move {
        step,
        instance: server.clone(),
        request: request(outcome),
        others: Default::default(),
        doubted: false,
        abandoned: Default::default(),
    };
    site.fake.delete_server(server.as_str());
    assert_eq!(site.course(of).await, Course::Deleted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_never_came_leaves_no_trace() {
    let (mut site, server) = Site::after_a_death().await;
    site.fake.add_fault(Fault::new(What::CutBefore).method("POST").path("/action").once());
    let (step, outcome) = site.evacuate(&server).await;
    assert!(matches!(outcome, Outcome::Unknown { .. }), "{outcome:?}");
    let lost = Move {
        step,
        instance: server.clone(),
        request: String::new(),
        others: Default::default(),
        doubted: false,
        abandoned: Default::default(),
    };
    assert_eq!(site.course(lost).await, Course::Unseen);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_nova_believes_up_keeps_its_servers() {
    let mut site = Site::start(Names::default()).await;
    site.fake.add_host("hv1");
    site.fake.add_host("hv2");
    let server = InstanceId(site.fake.add_server(FakeServer::on("hv1")));
    let (_, outcome) = site.evacuate(&server).await;
    assert!(matches!(&outcome, Outcome::Refused { reason, .. } if reason == "still-in-use"), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_somebody_else_disabled_stays_disabled() {
    let mut site = Site::start(Names::default()).await;
    site.fake.add_host("hv1");
    site.fake.crash("hv1");
    let (host, ours) = (HostId::from("hv1"), "medevac inc-1: hv1 is dead".to_owned());
    let step = site.step();
    request(site.change(step, CloudAct::ForceDown { step, host: host.clone() }).await);
    let step = site.step();
    let theirs = "rack 7 is being rewired".to_owned();
    request(site.change(step, CloudAct::Disable { step, host: host.clone(), reason: theirs.clone() }).await);
    let step = site.step();
    request(site.change(step, CloudAct::Disable { step, host: host.clone(), reason: ours.clone() }).await);
    let step = site.step();
    request(site.change(step, CloudAct::Enable { step, host: host.clone(), reason: ours }).await);
    let service: ComputeService = site
        .news(|news| match news {
            CloudNews::Services(services) => services.iter().find(|one| one.disabled_reason == theirs).cloned(),
            _ => None,
        })
        .await;
    assert!(!service.enabled, "{service:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_of_another_name_is_found_by_the_configured_one() {
    let names = Names::new([(HostId::from("hv1"), "compute1.example.org".to_owned())].into());
    let mut site = Site::start(names).await;
    site.fake.add_host("compute1.example.org");
    site.fake.add_server(FakeServer::on("compute1.example.org"));
    let servers = site.servers_on("hv1").await;
    assert_eq!(servers.iter().map(|server| server.host.as_str()).collect::<Vec<_>>(), ["hv1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn aggregates_are_told_with_our_names_of_their_hosts_their_zone_and_their_marks() {
    let names = Names::new([(HostId::from("hv1"), "compute1.example.org".to_owned())].into());
    let fake = Fake::start(Options::default()).await.unwrap();
    fake.add_host("compute1.example.org");
    fake.add_host("hv2");
    let id = fake.add_aggregate("fast", Some("east"), &["compute1.example.org", "hv2"]);
    fake.mark_aggregate(id, "medevac:ha", "on");
    fake.add_aggregate("big", None, &[]);
    // Once in vain: it is asked again soon, not after half a minute.
    fake.add_fault(Fault::new(What::ErrorBefore(503)).path("/os-aggregates").once());
    let mut site = Site::of(fake, names);
    let told = site
        .news(|news| match news {
            CloudNews::Aggregates(all) => Some(all.clone()),
            _ => None,
        })
        .await;
    assert_eq!(told.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["big", "fast"]);
    assert_eq!(told[1].zone, "east");
    assert_eq!(told[1].hosts, [HostId::from("hv1"), HostId::from("hv2")].into());
    assert_eq!(told[1].marks.get("medevac:ha").map(String::as_str), Some("on"));
    assert_eq!((told[0].zone.as_str(), told[0].hosts.len()), ("", 0));
}

async fn roster(site: &mut Site) -> Vec<Server> {
    site.news(|news| match news {
        CloudNews::Roster(servers) => Some(servers.clone()),
        _ => None,
    })
    .await
}

fn text(of: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    of.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// A server with a mark on its flavor, on its image and in its metadata, beside what nobody asked for.
fn marked(fake: &Fake, image: String) {
    fake.add_host("hv1");
    let metadata = text(&[("HA_Enabled", "False"), ("colour", "red")]);
    let extra_specs = text(&[("medevac:tier", "1"), ("hw:cpu_policy", "dedicated")]);
    let (flavor, project) = ("m1.db".to_owned(), "p7".to_owned());
    fake.add_server(FakeServer { metadata, extra_specs, flavor, project, image, ..FakeServer::on("hv1") });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_roster_tells_of_every_server_what_policies_ask_for() {
    let fake = Fake::start(Options { page: 2, ..Options::default() }).await.unwrap();
    let image = fake.add_image("debian", "public", &[("medevac:ha", "on"), ("os_distro", "debian")]);
    marked(&fake, image.clone());
    for _ in 0..4 {
        fake.add_server(FakeServer { from_volume: true, ..FakeServer::on("hv1") });
    }
    let mut site = Site::of(fake, Names::default());
    let servers = roster(&mut site).await;
    assert_eq!(servers.len(), 5, "to the last page");
    let server = servers.iter().find(|server| server.flavor.name == "m1.db").unwrap();
    assert_eq!((&*server.project, &*server.zone), ("p7", "nova"));
    assert_eq!(server.flavor.marks, text(&[("medevac:tier", "1")]));
    assert_eq!((server.image.id.as_str(), server.image.name.as_str()), (image.as_str(), "debian"));
    assert_eq!(server.image.marks, text(&[("medevac:ha", "on")]));
    assert_eq!(server.marks, text(&[("HA_Enabled", "False")]));
    // What is listed when a host dies says the same, and asks Glance for nothing again.
    let asked = |site: &Site| site.fake.seen().iter().filter(|seen| seen.path.starts_with("/image")).count();
    let before = asked(&site);
    let listed = site.servers_on("hv1").await;
    assert!(listed.contains(server));
    assert_eq!((before, asked(&site)), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_of_a_tenants_own_has_neither_name_nor_marks() {
    for visibility in ["private", "shared", "community"] {
        let fake = Fake::start(Options::default()).await.unwrap();
        let image = fake.add_image("debian", visibility, &[("medevac:ha", "on")]);
        marked(&fake, image.clone());
        let mut site = Site::of(fake, Names::default());
        let of = roster(&mut site).await.remove(0).image;
        assert_eq!((of.id.as_str(), of.name.as_str(), of.marks.len()), (image.as_str(), "", 0), "{visibility}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_glance_that_is_missing_broken_or_has_no_such_image_keeps_no_server_from_being_told() {
    for (glance, broken) in [(false, false), (true, true), (true, false)] {
        let fake = Fake::start(Options { glance, ..Options::default() }).await.unwrap();
        if broken {
            fake.add_fault(Fault::new(What::ErrorBefore(500)).path("/image/"));
        }
        marked(&fake, String::new());
        let mut site = Site::of(fake, Names::default());
        let server = roster(&mut site).await.remove(0);
        assert!(!server.image.id.is_empty() && server.image.marks.is_empty());
        assert_eq!(server.flavor.name, "m1.db");
        assert_eq!(site.servers_on("hv1").await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nova_that_cannot_be_asked_is_told_and_told_again_when_it_can() {
    let mut site = Site::start(Names::default()).await;
    site.fake.add_host("hv1");
    site.fake.add_fault(Fault::new(What::ErrorBefore(503)).path("/os-services").times(1));
    let trouble = |news: &CloudNews| match news {
        CloudNews::Trouble(why) if !why.is_empty() => Some(why.clone()),
        _ => None,
    };
    let why = site.news(trouble).await;
    assert!(why.contains("503"), "{why}");
    site.news(|news| (*news == CloudNews::Trouble(String::new())).then_some(())).await;
}

#[tokio::test]
async fn a_reserved_host_is_taken_for_its_own_reason_alone_and_goes_back_as_it_was() {
    let mut site = Site::start(Names::default()).await;
    site.fake.add_host("hv9");
    site.fake.add_aggregate("fast", None, &[]);
    let (host, reason) = (HostId::from("hv9"), "reserve".to_owned());
    let disable = |step| CloudAct::Disable { step, host: "hv9".into(), reason: "reserve".to_owned() };
    let step = site.step();
    assert!(matches!(site.change(step, disable(step)).await, Outcome::Done { .. }));
    let step = site.step();
    let other = CloudAct::TakeReserve { step, host: host.clone(), reason: "another".to_owned() };
    assert!(matches!(site.change(step, other).await, Outcome::Refused { reason, .. } if reason == "other-reason"));
    // Each may be asked for twice: an answer can be lost.
    for _ in 0..2 {
        let (step, aggregate) = (site.step(), "fast".to_owned());
        let join = CloudAct::JoinAggregate { step, host: host.clone(), aggregate };
        assert!(matches!(site.change(step, join).await, Outcome::Done { .. }));
        let step = site.step();
        let take = CloudAct::TakeReserve { step, host: host.clone(), reason: reason.clone() };
        assert!(matches!(site.change(step, take).await, Outcome::Done { .. }));
    }
    assert_eq!(service_of(&mut site, "hv9").await, (true, String::new()));
    for _ in 0..2 {
        let step = site.step();
        assert!(matches!(site.change(step, disable(step)).await, Outcome::Done { .. }));
        let (step, aggregate) = (site.step(), "fast".to_owned());
        let leave = CloudAct::LeaveAggregate { step, host: host.clone(), aggregate };
        assert!(matches!(site.change(step, leave).await, Outcome::Done { .. }));
    }
    assert_eq!(service_of(&mut site, "hv9").await, (false, reason));
    let posts = site.fake.seen().into_iter().filter(|seen| seen.path.contains("os-aggregates/")).count();
    assert_eq!(posts, 2, "what is so already is not asked for");
    let (step, aggregate) = (site.step(), "gone".to_owned());
    let unknown = CloudAct::JoinAggregate { step, host, aggregate };
    assert!(matches!(site.change(step, unknown).await, Outcome::Refused { .. }));
}

/// Whether it is enabled, and why it is not, as the next read tells it.
async fn service_of(site: &mut Site, host: &str) -> (bool, String) {
    let host = HostId::from(host);
    while site.inbox.try_recv().is_ok() {}
    site.news(|news| match news {
        CloudNews::Services(all) => {
            all.iter().find(|of| of.host == host).map(|of| (of.enabled, of.disabled_reason.clone()))
        }
        _ => None,
    })
    .await
}
