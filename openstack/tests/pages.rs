//! Lists: to their end, and never beyond.

#![allow(clippy::unwrap_used)]

use medevac_openstack::fake::{Fake, FakeServer, Fault, Options, What};
use medevac_openstack::{Answer, Doubt, MigrationFilter, Nova, Unclear};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

async fn cloud(servers: usize, page: usize) -> (Fake, Nova) {
    let fake = Fake::start(Options { page, ..Options::default() }).await.unwrap();
    fake.add_host("hv1");
    fake.add_host("hv2");
    for number in 0..servers {
        fake.add_server(FakeServer::on(if number % 2 == 0 { "hv1" } else { "hv2" }));
    }
    let nova = Nova::new(fake.credentials()).unwrap();
    (fake, nova)
}

#[tokio::test]
async fn all_pages_are_read_however_small_the_server_makes_them() {
    for (servers, page) in [(0, 3), (2, 3), (3, 3), (10, 3), (7, 1)] {
        let (_fake, nova) = cloud(servers, page).await;
        let all = nova.servers(None, soon()).await.result().unwrap();
        assert_eq!(all.iter().map(|server| &server.id).collect::<BTreeSet<_>>().len(), servers, "{servers} by {page}");
        let here = nova.servers(Some("hv1"), soon()).await.result().unwrap();
        assert_eq!(here.len(), servers.div_ceil(2));
        assert_eq!(nova.hypervisors(soon()).await.result().unwrap().len(), 2);
    }
}

#[tokio::test]
async fn ten_thousand_servers_arrive() {
    let (fake, nova) = cloud(10_000, 1000).await;
    let all = nova.servers(None, soon()).await.result().unwrap();
    assert_eq!(all.len(), 10_000);
    let pages = fake.seen().into_iter().filter(|seen| seen.path.contains("/servers/detail")).count();
    assert_eq!(pages, 11, "ten full ones, and the empty one that says so");
}

#[tokio::test]
async fn a_list_that_never_ends_is_an_error() {
    let (fake, nova) = cloud(6, 3).await;
    fake.add_fault(Fault::new(What::SamePageForEver).path("/servers/detail"));
    let answer = nova.servers(None, soon()).await;
    assert!(matches!(answer, Answer::Unknown(Unclear { doubt: Doubt::Endless { .. }, .. })), "{answer:?}");
    assert!(fake.seen().len() < 10, "and found out soon");
}

#[tokio::test]
async fn a_page_that_fails_fails_the_list() {
    let (fake, nova) = cloud(9, 3).await;
    for what in [What::ErrorBefore(500), What::HtmlBefore(200), What::Garbled] {
        fake.add_fault(Fault::new(what.clone()).path("marker=").once());
        assert!(matches!(nova.servers(None, soon()).await, Answer::Unknown(_)), "{what:?}");
    }
    assert_eq!(nova.servers(None, soon()).await.result().unwrap().len(), 9);
}

/// Nothing in the answer tells it: whoever asks has to know what should be there.
#[tokio::test]
async fn a_short_list_behind_a_200_looks_like_any_other() {
    let (fake, nova) = cloud(9, 1000).await;
    fake.add_fault(Fault::new(What::Short(2)).path("/servers/detail").once());
    assert_eq!(nova.servers(None, soon()).await.result().unwrap().len(), 2);
}

#[tokio::test]
async fn the_deadline_is_that_of_the_whole_list() {
    let (fake, nova) = cloud(9, 1).await;
    nova.reach(soon()).await.result().unwrap();
    fake.add_fault(Fault::new(What::DelayAfter(Duration::from_millis(100))).path("/servers/detail"));
    let answer = nova.servers(None, Instant::now() + Duration::from_millis(350)).await;
    assert!(matches!(answer, Answer::Unknown(Unclear { doubt: Doubt::TimedOut { .. }, .. })), "{answer:?}");
}

#[tokio::test]
async fn groups_are_read_by_offset_and_migrations_by_marker() {
    for minors in [(1, 93), (1, 60), (1, 55)] {
        let fake = Fake::start(Options { page: 2, minors, ..Options::default() }).await.unwrap();
        fake.add_host("hv1");
        fake.add_host("hv2");
        let servers: Vec<String> = (0..5).map(|_| fake.add_server(FakeServer::on("hv1"))).collect();
        for server in &servers {
            fake.add_server_group("g", "affinity", &[server]);
        }
        let nova = Nova::new(fake.credentials()).unwrap();
        let groups = nova.server_groups(soon()).await.result().unwrap();
        assert_eq!((groups.len(), groups[0].policy.as_str()), (5, "affinity"), "{minors:?}");
        let service = nova.compute_services(soon()).await.result().unwrap()[0].id.clone().unwrap();
        fake.crash("hv1");
        nova.force_down(&service, true, soon()).await.result().unwrap();
        for server in &servers {
            nova.evacuate(server, None, soon()).await.result().unwrap();
        }
        let of_host = nova.migrations(&MigrationFilter::evacuations_from("hv1"), soon()).await.result().unwrap();
        assert_eq!(of_host.len(), 5, "{minors:?}");
        let of_one = nova.migrations(&MigrationFilter::evacuations_of(&servers[3]), soon()).await.result().unwrap();
        assert_eq!(of_one.len(), 1, "{minors:?}");
        let since = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
        let later = MigrationFilter { changed_since: Some(since), ..MigrationFilter::evacuations_from("hv1") };
        assert!(nova.migrations(&later, soon()).await.result().unwrap().is_empty(), "{minors:?}");
    }
}
