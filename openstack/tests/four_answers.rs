//! Every fault on the way gets the answer that it deserves, and a write is sent once at most.

#![allow(clippy::unwrap_used)]

use medevac_openstack::fake::{Fake, FakeServer, Fault, Options, What};
use medevac_openstack::traces::new_evacuations;
use medevac_openstack::{Answer, Doubt, Kind, Microversion, Nova, ServiceStatus, Unclear, Unsent, VersionProblem};
use std::time::Duration;
use tokio::time::Instant;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

struct Cloud {
    fake: Fake,
    nova: Nova,
    server: String,
    service: String,
}

/// A dead, forced-down host with one server.
async fn cloud_with(options: Options) -> Cloud {
    let fake = Fake::start(options).await.unwrap();
    fake.add_host("hv1");
    fake.add_host("hv2");
    let server = fake.add_server(FakeServer::on("hv1"));
    let nova = Nova::new(fake.credentials()).unwrap();
    let services = nova.compute_services(soon()).await.result().unwrap();
    let service = services[0].id.clone().unwrap();
    fake.crash("hv1");
    nova.force_down(&service, true, soon()).await.result().unwrap();
    Cloud { fake, nova, server, service }
}

async fn cloud() -> Cloud {
    cloud_with(Options::default()).await
}

/// Whether a doubt is the expected one.
type Fits = fn(&Doubt) -> bool;

fn doubt<T: std::fmt::Debug>(answer: Answer<T>) -> Doubt {
    match answer {
        Answer::Unknown(Unclear { doubt, .. }) => doubt,
        other => panic!("not unknown: {other:?}"),
    }
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_unknown_and_was_sent_once() {
    let expected: [(What, Fits); 8] = [
        (What::ErrorBefore(503), |doubt| matches!(doubt, Doubt::ServerError { status: 503, .. })),
        (What::ErrorAfter(500), |doubt| matches!(doubt, Doubt::ServerError { status: 500, .. })),
        (What::CutBefore, |doubt| matches!(doubt, Doubt::Cut { .. })),
        (What::CutAfter, |doubt| matches!(doubt, Doubt::Cut { .. })),
        (What::HtmlAfter(200), |doubt| matches!(doubt, Doubt::NotJson { status: 200, .. })),
        (What::HtmlBefore(404), |doubt| matches!(doubt, Doubt::NotJson { status: 404, .. })),
        (What::Garbled, |doubt| matches!(doubt, Doubt::Unreadable { status: 200, .. })),
        (What::Redirect, |doubt| matches!(doubt, Doubt::Redirected { status: 302, .. })),
    ];
    for (what, fits) in expected {
        let Cloud { fake, nova, server, .. } = cloud().await;
        fake.add_fault(Fault::new(what.clone()).method("POST").path("/action"));
        let doubt = doubt(nova.evacuate(&server, None, soon()).await);
        assert!(fits(&doubt), "{what:?}: {doubt}");
        assert_eq!(fake.evacuate_posts(&server), 1, "{what:?}");
    }
}

#[tokio::test]
async fn an_answer_cut_in_its_middle_is_unknown() {
    let Cloud { fake, nova, service, .. } = cloud().await;
    fake.add_fault(Fault::new(What::CutWithin).method("PUT"));
    assert!(matches!(doubt(nova.disable(&service, "x", soon()).await), Doubt::Cut { .. }));
    fake.clear_faults();
    let services = nova.compute_services(soon()).await.result().unwrap();
    assert_eq!(services[0].status, ServiceStatus::Disabled, "it was carried out all the same");
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    let Cloud { fake, nova, .. } = cloud().await;
    fake.add_fault(Fault::new(What::Huge).path("/servers/detail"));
    assert!(matches!(doubt(nova.servers(None, soon()).await), Doubt::TooLong { .. }));
}

#[tokio::test]
async fn a_write_that_is_late_is_unknown_and_may_be_carried_out_later() {
    let Cloud { fake, nova, server, .. } = cloud().await;
    fake.add_fault(Fault::new(What::DelayBefore(Duration::from_millis(600))).path("/action").once());
    let answer = nova.evacuate(&server, None, Instant::now() + Duration::from_millis(200)).await;
    assert!(matches!(doubt(answer), Doubt::TimedOut { .. }));
    assert!(nova.instance_actions(&server, soon()).await.result().unwrap().is_empty(), "nothing yet");
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(nova.instance_actions(&server, soon()).await.result().unwrap().len(), 1);
}

#[tokio::test]
async fn a_lost_answer_is_found_by_its_traces() {
    let Cloud { fake, nova, server, .. } = cloud().await;
    let who = nova.reach(soon()).await.result().unwrap().who.user_id;
    for (what, carried_out) in [(What::CutBefore, 0), (What::CutAfter, 1)] {
        let before = nova.instance_actions(&server, soon()).await.result().unwrap();
        fake.add_fault(Fault::new(what).path("/action").once());
        let Answer::Unknown(unclear) = nova.evacuate(&server, None, soon()).await else { panic!("not unknown") };
        let sent_as: Vec<_> = fake.seen().into_iter().filter_map(|seen| seen.sent_as).collect();
        assert!(sent_as.contains(&unclear.sent_as));
        let after = nova.instance_actions(&server, soon()).await.result().unwrap();
        assert_eq!(new_evacuations(&before, &after, &who).len(), carried_out);
    }
}

#[tokio::test]
async fn a_refusal_has_its_kind_even_as_a_page_of_a_limiting_proxy() {
    let Cloud { fake, nova, server, .. } = cloud().await;
    for status in [429, 413] {
        fake.add_fault(Fault::new(What::TooMany { status, retry_after: Some(3) }).path("/action").once());
        let answer = nova.evacuate(&server, None, soon()).await;
        let retry_after = Some(Duration::from_secs(3));
        assert_eq!(answer.refused_as(), Some(Kind::TooMany { retry_after }), "{status}");
    }
    fake.set_server_state(&server, "paused", None);
    assert_eq!(nova.evacuate(&server, None, soon()).await.refused_as(), Some(Kind::Conflict));
}

#[tokio::test]
async fn what_never_left_is_not_sent() {
    let Cloud { fake, nova, server, .. } = cloud().await;
    let late = nova.evacuate(&server, None, Instant::now()).await;
    assert!(matches!(late, Answer::NotSent(Unsent::NoTime)), "{late:?}");
    fake.stop();
    let gone = nova.evacuate(&server, None, soon()).await;
    assert!(matches!(gone, Answer::NotSent(Unsent::Connect { .. })), "{gone:?}");
    let gone = nova.server(&server, soon()).await;
    assert!(matches!(gone, Answer::NotSent(Unsent::Connect { .. })), "a read on a kept connection: {gone:?}");
}

#[tokio::test]
async fn a_read_is_repeated_once_where_its_connection_was_cut() {
    let Cloud { fake, nova, server, .. } = cloud().await;
    fake.add_fault(Fault::new(What::CutBefore).method("GET").path("/servers/").once());
    assert!(nova.server(&server, soon()).await.is_done());
    fake.add_fault(Fault::new(What::CutBefore).method("GET").path("/servers/").times(2));
    assert!(matches!(doubt(nova.server(&server, soon()).await), Doubt::Cut { .. }));
    assert!(nova.server(&server, soon()).await.is_done());
}

#[tokio::test]
async fn disabling_a_dead_host_before_it_is_down_takes_a_minute() {
    let Cloud { fake, nova, service, .. } = cloud().await;
    nova.force_down(&service, false, soon()).await.result().unwrap();
    let answer = nova.disable(&service, "x", Instant::now() + Duration::from_millis(300)).await;
    assert!(matches!(doubt(answer), Doubt::TimedOut { .. }));
    nova.force_down(&service, true, soon()).await.result().unwrap();
    assert!(nova.enable(&service, soon()).await.is_done());
    assert!(nova.disable(&service, "x", Instant::now() + Duration::from_secs(2)).await.is_done());
    drop(fake);
}

#[tokio::test]
async fn an_evacuation_is_never_sent_at_a_version_that_leaves_the_server_stopped() {
    for (newest, sent) in [(53, "2.53"), (93, "2.93"), (94, "2.94"), (95, "2.94"), (104, "2.94")] {
        let Cloud { fake, nova, server, .. } = cloud_with(Options { minors: (1, newest), ..Options::default() }).await;
        let accepted = nova.evacuate(&server, Some("hv2"), soon()).await.result().unwrap();
        assert_eq!(accepted.version.to_string(), sent);
        let seen = fake.seen().into_iter().rev().find(|seen| seen.body.contains("evacuate")).unwrap();
        assert_eq!((seen.version.as_deref(), seen.body.as_str()), (Some(sent), r#"{"evacuate":{"host":"hv2"}}"#));
        let ends = Instant::now() + Duration::from_secs(5);
        while nova.server(&server, soon()).await.result().unwrap().host.as_deref() != Some("hv2") {
            assert!(Instant::now() < ends);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(nova.server(&server, soon()).await.result().unwrap().status, "ACTIVE");
        assert!(fake.ever_doubled().is_empty() && fake.copies(&server) == ["hv2"]);
    }
}

#[tokio::test]
async fn a_nova_that_is_too_old_is_told_and_nothing_is_sent() {
    let fake = Fake::start(Options { minors: (1, 52), ..Options::default() }).await.unwrap();
    let answer = Nova::new(fake.credentials()).unwrap().compute_services(soon()).await;
    let Answer::NotSent(Unsent::Version(VersionProblem::TooOld { max, .. })) = answer else { panic!("{answer:?}") };
    assert_eq!(max, Microversion::two(52));
    assert!(!fake.seen().iter().any(|seen| seen.path.contains("os-services")));
}

#[tokio::test]
async fn a_downgraded_nova_is_negotiated_with_again() {
    let Cloud { fake, nova, server, .. } = cloud().await;
    fake.serve_minors(1, 79);
    let answer = nova.evacuate(&server, None, soon()).await;
    assert_eq!(answer.refused_as(), Some(Kind::Version), "{answer:?}");
    let accepted = nova.evacuate(&server, None, soon()).await.result().unwrap();
    assert_eq!(accepted.version, Microversion::two(79));
}

#[tokio::test]
async fn an_endpoint_that_is_not_nova_is_told() {
    let fake = Fake::start(Options::default()).await.unwrap();
    let mut credentials = fake.credentials();
    credentials.compute_endpoint = Some(format!("{}/v2.1", fake.auth_url()).parse().unwrap());
    let answer = Nova::new(credentials).unwrap().compute_services(soon()).await;
    assert!(matches!(answer, Answer::NotSent(Unsent::Version(VersionProblem::Unread { .. }))), "{answer:?}");
}

#[tokio::test]
async fn a_destination_that_dies_leaves_the_evacuation_unfinished() {
    let Cloud { fake, nova, server, .. } = cloud().await;
    nova.evacuate(&server, None, soon()).await.result().unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    fake.crash("hv2");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let left = nova.server(&server, soon()).await.result().unwrap();
    assert_eq!((left.host.as_deref(), left.task_state.as_deref()), (Some("hv1"), Some("rebuild_spawning")));
}

#[tokio::test]
async fn without_a_valid_host_the_server_is_in_error_and_its_action_has_failed() {
    let Cloud { fake, nova, server, .. } = cloud().await;
    fake.crash("hv2");
    let accepted = nova.evacuate(&server, None, soon()).await.result().unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let detail = nova.instance_action(&server, &accepted.request_id.unwrap(), soon()).await.result().unwrap();
    assert!(detail.action.has_failed());
    assert_eq!(nova.server(&server, soon()).await.result().unwrap().vm_state.as_deref(), Some("error"));
}

#[tokio::test]
async fn groups_and_aggregates_change_as_told() {
    let Cloud { fake, nova, .. } = cloud().await;
    let id = fake.add_aggregate("reserve", None, &["hv2"]);
    assert_eq!(nova.add_host_to_aggregate(id, "hv2", soon()).await.refused_as(), Some(Kind::Conflict));
    assert_eq!(nova.add_host_to_aggregate(id, "hv9", soon()).await.refused_as(), Some(Kind::UnknownTarget));
    assert_eq!(nova.add_host_to_aggregate(id, "hv1", soon()).await.result().unwrap().hosts, ["hv2", "hv1"]);
    assert_eq!(nova.remove_host_from_aggregate(id, "hv2", soon()).await.result().unwrap().hosts, ["hv1"]);
    assert_eq!(nova.remove_host_from_aggregate(id, "hv2", soon()).await.refused_as(), Some(Kind::NotFound));
}
