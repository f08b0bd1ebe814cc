//! What is shown of servers while all is well, and what is judged by it.

use medevac_triage::{
    Aggregate, BootId, CloudKind, CloudNews, ComputeService, Hello, Home, HomeWhy, HostId, HostRecord, InstanceId,
    InstanceRecord, InstanceView, Inventory, Marks, Mould, Now, Observation, Record, RunState, Server, Settings, Shown,
    Triage,
};
use std::sync::Arc;

fn marks(of: &[(&str, &str)]) -> Marks {
    of.iter().map(|(mark, value)| ((*mark).to_owned(), (*value).to_owned())).collect()
}

fn server(id: &str, host: &str, flavor: Marks) -> Server {
    let flavor = Arc::new(Mould { name: "m1".to_owned(), marks: flavor, ..Mould::default() });
    let (vm_state, memory_kib) = ("active".to_owned(), 1024);
    let (id, name, host) = (InstanceId::from(id), format!("name of {id}"), HostId::from(host));
    Server { id, name, host, vm_state, memory_kib, flavor, ..Server::default() }
}

/// A cloud with one host that has joined and runs one server.
struct Site(Triage);

impl Site {
    fn new(protect_all: bool) -> Self {
        let settings = Settings { cloud: CloudKind::Openstack, protect_all, ..Settings::default() };
        let host = HostRecord { id: "hv1".into(), boots: vec![BootId::from("b1")], ..HostRecord::default() };
        let home = Home { boot: BootId::from("b1"), why: HomeWhy::Shown, incoming: false };
        let instance = InstanceRecord {
            id: "vm1".into(),
            name: "web".to_owned(),
            last_host: "hv1".into(),
            homes: [(HostId::from("hv1"), home)].into(),
            ..InstanceRecord::default()
        };
        Self(Triage::new(settings, [Record::Host(host), Record::Instance(instance)], Now::default()))
    }

    fn told(&mut self, news: CloudNews) {
        self.seen(Observation::CloudSpoke(news));
    }

    fn seen(&mut self, observation: Observation) {
        let decision = self.0.handle(Now::default(), vec![observation]);
        self.0.apply(&decision.changes);
    }

    fn shown(&self, id: &str) -> InstanceView {
        let all = self.0.instance_views(Now::default());
        all.into_iter().find(|view| view.id == InstanceId::from(id)).expect("it is shown")
    }
}

#[test]
fn a_server_is_shown_by_the_name_that_its_owner_gave_it() {
    let mut site = Site::new(true);
    assert_eq!(site.shown("vm1").name, "web", "as libvirt calls it, until Nova has answered");
    site.told(CloudNews::Roster(vec![server("vm1", "hv1", Marks::new())]));
    assert_eq!(site.shown("vm1").name, "name of vm1");
    let domain = Shown { known: true, name: "instance-1".to_owned(), state: RunState::Running, ..Shown::default() };
    let instances = [(InstanceId::from("vm1"), domain)].into();
    let inventory = Inventory { libvirt_answered: true, instances, ..Inventory::default() };
    let hello = Hello { host: "hv1".into(), boot: BootId::from("b1"), inventory, ..Hello::default() };
    site.seen(Observation::SessionOpened(Box::new(hello)));
    assert_eq!(site.shown("vm1").name, "name of vm1", "an agent does not change it back");
}

#[test]
fn a_host_of_novas_without_an_agent_and_its_servers_are_shown_as_not_protected_and_alert_nobody() {
    let mut site = Site::new(true);
    let before = site.0.site_view(Now::default()).alerts;
    let of = |host: &str| ComputeService { host: host.into(), ..ComputeService::default() };
    site.told(CloudNews::Services(vec![of("hv1"), of("hv9")]));
    site.told(CloudNews::Roster(vec![server("vm1", "hv1", Marks::new()), server("vm9", "hv9", Marks::new())]));
    let view = site.0.site_view(Now::default());
    assert_eq!(view.hosts_without_proof.get(&HostId::from("hv9")).map(String::as_str), Some("no agent: not protected"));
    assert_eq!((view.instances_total, view.instances_protected), (2, 1));
    assert_eq!(view.alerts.len(), before.len(), "{:?}", view.alerts);
    let stranger = site.shown("vm9");
    assert_eq!((stranger.protected, stranger.reason.as_str()), (false, "hv9: no agent: not protected"));
    assert!(site.0.unprotected(Now::default()).iter().any(|view| view.id == stranger.id));
}

#[test]
fn each_server_is_shown_with_the_rule_that_decides() {
    let mut site = Site::new(true);
    assert_eq!(site.shown("vm1").policy, "protected (protect = \"all\")");
    site.told(CloudNews::Roster(vec![server("vm1", "hv1", marks(&[("medevac:ha", "off"), ("medevac:tier", "2")]))]));
    let shown = site.shown("vm1");
    assert_eq!(shown.reason, "flavor m1: medevac:ha = off");
    assert_eq!(shown.policy, "not protected (flavor m1: medevac:ha = off); tier 2 (flavor m1: medevac:tier = 2)");
    let fast = Aggregate { name: "fast".to_owned(), hosts: [HostId::from("hv1")].into(), ..Aggregate::default() };
    site.told(CloudNews::Roster(vec![server("vm1", "hv1", Marks::new())]));
    site.told(CloudNews::Aggregates(vec![Aggregate { marks: marks(&[("evacuable", "no")]), ..fast }]));
    assert_eq!(site.shown("vm1").reason, "aggregate fast: evacuable = no");
}

#[test]
fn a_server_of_a_cell_that_cannot_be_asked_keeps_what_was_said_of_it() {
    let mut site = Site::new(false);
    let on = marks(&[("medevac:ha", "on")]);
    site.told(CloudNews::Roster(vec![server("vm1", "hv1", on.clone()), server("vm2", "hv1", on)]));
    let hollow = Server { id: "vm1".into(), ..Server::default() };
    for roster in [vec![hollow], Vec::new()] {
        site.told(CloudNews::Roster(roster));
        assert!(site.shown("vm1").protected, "{}", site.shown("vm1").policy);
    }
}
