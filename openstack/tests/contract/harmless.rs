//! What can be checked on anybody's cloud.

use crate::target::{Target, done};
use medevac_openstack::credentials::{Method, SecretSource};
use medevac_openstack::{
    Answer, CatalogProblem, Kind, LoginProblem, Microversion, MigrationFilter, Nova, ResetTo, Secret, Unsent,
};
use std::collections::BTreeSet;

const NOBODY: &str = "00000000-dead-4000-8000-000000000000";

pub async fn nova_is_reached_and_a_microversion_agreed_on(target: &Target) {
    let reached = done(target.nova.reach(target.soon()).await);
    assert!(reached.newest >= Microversion::OLDEST && reached.writes <= Microversion::WRITES, "{reached:?}");
    assert!(!reached.who.user_id.is_empty() && reached.who.roles.iter().any(|role| role == "admin"), "{reached:?}");
}

pub async fn every_service_has_an_id_and_a_hypervisor(target: &Target) {
    let services = done(target.nova.compute_services(target.soon()).await);
    let hypervisors = done(target.nova.hypervisors(target.soon()).await);
    assert!(!services.is_empty());
    for service in services {
        assert!(service.id.is_some(), "{service:?}");
        assert!(hypervisors.iter().any(|one| one.host == service.host), "{} has none", service.host);
    }
}

pub async fn servers_of_a_host_are_those_that_name_it(target: &Target) {
    let all = done(target.nova.servers(None, target.soon()).await);
    let ids: BTreeSet<_> = all.iter().map(|server| server.id.as_str()).collect();
    assert_eq!(ids.len(), all.len(), "one is listed twice");
    let hosts: BTreeSet<_> = all.iter().filter_map(|server| server.host.clone()).collect();
    for host in hosts {
        let here = done(target.nova.servers(Some(&host), target.soon()).await);
        assert!(here.iter().all(|server| server.host.as_deref() == Some(&host)), "{host}");
        let expected = all.iter().filter(|server| server.host.as_deref() == Some(&host)).count();
        assert_eq!(here.len(), expected, "{host}");
    }
    assert!(done(target.nova.servers(Some("no-such-host"), target.soon()).await).is_empty());
}

pub async fn one_server_is_told_as_in_the_list(target: &Target) {
    let Some(listed) = done(target.nova.servers(None, target.soon()).await).into_iter().next() else { return };
    let shown = done(target.nova.server(&listed.id, target.soon()).await);
    assert_eq!((&shown.name, &shown.host, &shown.vm_state), (&listed.name, &listed.host, &listed.vm_state));
    assert_eq!((&shown.flavor, &shown.metadata, &shown.image_id), (&listed.flavor, &listed.metadata, &listed.image_id));
    assert!(!shown.flavor.original_name.is_empty() && shown.flavor.ram > 0 && shown.instance_name.is_some());
    let actions = done(target.nova.instance_actions(&listed.id, target.soon()).await);
    assert!(actions.iter().all(|action| action.request_id.is_some() && action.start_time.is_some()));
}

pub async fn aggregates_groups_and_migrations_can_be_read(target: &Target) {
    done(target.nova.aggregates(target.soon()).await);
    done(target.nova.server_groups(target.soon()).await);
    for record in done(target.nova.migrations(&MigrationFilter::default(), target.soon()).await) {
        assert!(record.created_at.is_some(), "{record:?}");
    }
    let none = done(target.nova.migrations(&MigrationFilter::evacuations_from("no-such-host"), target.soon()).await);
    assert!(none.is_empty());
}

pub async fn what_does_not_exist_is_not_found(target: &Target) {
    let (nova, soon) = (&target.nova, target.soon());
    let not_found = Some(Kind::NotFound);
    assert_eq!(nova.server(NOBODY, soon).await.refused_as(), not_found);
    assert_eq!(nova.instance_actions(NOBODY, soon).await.refused_as(), not_found);
    assert_eq!(nova.evacuate(NOBODY, None, soon).await.refused_as(), not_found);
    assert_eq!(nova.stop(NOBODY, soon).await.refused_as(), not_found);
    assert_eq!(nova.reset_state(NOBODY, ResetTo::Error, soon).await.refused_as(), not_found);
    assert_eq!(nova.force_down(NOBODY, true, soon).await.refused_as(), not_found);
    assert!(nova.add_host_to_aggregate(99_999_999, "no-such-host", soon).await.refused_as().is_some());
    if let Some(server) = done(nova.servers(None, soon).await).first() {
        let answer = nova.instance_action(&server.id, "req-00000000-dead-4000-8000-000000000000", soon).await;
        assert_eq!(answer.refused_as(), not_found);
    }
}

pub async fn a_wrong_password_is_refused_by_name(target: &Target) {
    let mut credentials = target.credentials.clone();
    match &mut credentials.method {
        Method::Password { password, .. } => *password = SecretSource::Given(Secret::new("wrong")),
        Method::ApplicationCredential { secret, .. } => *secret = SecretSource::Given(Secret::new("wrong")),
    }
    let answer = Nova::new(credentials).unwrap().compute_services(target.soon()).await;
    assert!(matches!(answer, Answer::NotSent(Unsent::Login(LoginProblem::Refused { .. }))), "{answer:?}");
}

pub async fn an_unknown_region_is_named_with_those_that_exist(target: &Target) {
    let mut credentials = target.credentials.clone();
    credentials.region = Some("no-such-region".into());
    credentials.compute_endpoint = None;
    let answer = Nova::new(credentials).unwrap().compute_services(target.soon()).await;
    let Answer::NotSent(Unsent::Catalog(CatalogProblem::UnknownRegion { has, .. })) = answer else {
        panic!("{answer:?}")
    };
    assert!(!has.is_empty());
}

pub async fn an_endpoint_override_is_used_in_place_of_the_catalog(target: &Target) {
    let reached = done(target.nova.reach(target.soon()).await);
    let mut credentials = target.credentials.clone();
    credentials.region = Some("no-such-region".into());
    credentials.compute_endpoint = Some(reached.endpoint.parse().unwrap());
    let again = done(Nova::new(credentials).unwrap().reach(target.soon()).await);
    assert_eq!(again.endpoint, reached.endpoint);
}
