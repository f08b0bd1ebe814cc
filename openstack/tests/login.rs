//! Tokens: one login for all, renewed in time, and pauses after failures.

#![allow(clippy::unwrap_used)]

use medevac_openstack::credentials::{Interface, Method, SecretSource, Who};
use medevac_openstack::fake::{Fake, FakeServer, Fault, Options, Timing, What};
use medevac_openstack::{Answer, CatalogProblem, LoginProblem, Nova, Secret, Unsent};
use std::time::Duration;
use tokio::time::Instant;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

async fn fake_with(options: Options) -> Fake {
    let fake = Fake::start(options).await.unwrap();
    fake.add_host("hv1");
    fake
}

#[tokio::test]
async fn callers_at_the_same_time_share_one_login_and_one_negotiation() {
    let fake = fake_with(Options::default()).await;
    fake.add_fault(Fault::new(What::DelayAfter(Duration::from_millis(200))).path("auth/tokens"));
    let nova = Nova::new(fake.credentials()).unwrap();
    let calls = (0..20).map(|_| nova.compute_services(soon()));
    assert!(futures::future::join_all(calls).await.iter().all(Answer::is_done));
    assert_eq!(fake.logins(), 1);
    assert_eq!(fake.seen().iter().filter(|seen| seen.path == "/compute/v2.1/").count(), 1);
}

#[tokio::test]
async fn a_caller_that_gives_up_does_not_take_the_login_with_it() {
    let fake = fake_with(Options::default()).await;
    fake.add_fault(Fault::new(What::DelayAfter(Duration::from_millis(500))).path("auth/tokens").once());
    let nova = Nova::new(fake.credentials()).unwrap();
    let hasty = nova.compute_services(Instant::now() + Duration::from_millis(100)).await;
    assert!(matches!(hasty, Answer::NotSent(Unsent::NoTime)), "{hasty:?}");
    assert!(nova.compute_services(soon()).await.is_done());
    assert_eq!(fake.logins(), 1, "the second caller went on with the first one's login");
}

#[tokio::test]
async fn a_forgotten_token_is_renewed_and_a_read_repeated_once() {
    let fake = fake_with(Options::default()).await;
    let nova = Nova::new(fake.credentials()).unwrap();
    assert!(nova.compute_services(soon()).await.is_done());
    fake.forget_tokens();
    assert!(nova.compute_services(soon()).await.is_done());
    assert_eq!(fake.logins(), 2);
}

#[tokio::test]
async fn a_write_with_a_forgotten_token_is_not_sent_and_then_can_be() {
    let fake = fake_with(Options::default()).await;
    let server = fake.add_server(FakeServer::on("hv1"));
    let nova = Nova::new(fake.credentials()).unwrap();
    nova.reach(soon()).await.result().unwrap();
    fake.forget_tokens();
    let answer = nova.stop(&server, soon()).await;
    assert!(matches!(answer, Answer::NotSent(Unsent::TokenRejected)), "{answer:?}");
    assert_eq!(fake.copies(&server), ["hv1"], "nothing was carried out");
    assert!(nova.stop(&server, soon()).await.is_done());
    let posts = fake.seen().into_iter().filter(|seen| seen.path.ends_with("/action")).count();
    assert_eq!((posts, fake.logins()), (2, 2), "one turned away, one carried out; logged in for it already");
}

#[tokio::test]
async fn a_token_is_renewed_before_nova_turns_it_away() {
    let timing = Timing { token: Duration::from_secs(2), ..Timing::default() };
    let fake = fake_with(Options { timing, ..Options::default() }).await;
    let nova = Nova::new(fake.credentials()).unwrap();
    for logins in 1..=3 {
        assert!(nova.compute_services(soon()).await.is_done());
        assert_eq!(fake.logins(), logins);
        tokio::time::sleep(Duration::from_millis(2100)).await;
    }
    let asked = fake.seen().into_iter().filter(|seen| seen.path.contains("os-services")).count();
    assert_eq!(asked, 3, "none had to be repeated");
}

#[tokio::test]
async fn failed_logins_pause_and_a_refused_one_is_not_tried_again_at_once() {
    let fake = fake_with(Options::default()).await;
    let mut credentials = fake.credentials();
    if let Method::Password { password, .. } = &mut credentials.method {
        *password = SecretSource::Given(Secret::new("wrong"));
    }
    let nova = Nova::new(credentials).unwrap();
    let first = nova.compute_services(soon()).await;
    assert!(matches!(first, Answer::NotSent(Unsent::Login(LoginProblem::Refused { .. }))), "{first:?}");
    for _ in 0..5 {
        let next = nova.compute_services(soon()).await;
        let Answer::NotSent(Unsent::Login(LoginProblem::Pausing { because, wait })) = next else { panic!("{next:?}") };
        assert!(matches!(*because, LoginProblem::Refused { .. }) && wait > Duration::from_secs(3));
    }
    assert_eq!(fake.logins(), 1);
}

#[tokio::test]
async fn a_keystone_in_trouble_is_tried_again_after_its_pause() {
    let fake = fake_with(Options::default()).await;
    for what in [What::ErrorBefore(500), What::HtmlBefore(200), What::CutBefore, What::Garbled] {
        let nova = Nova::new(fake.credentials()).unwrap();
        fake.add_fault(Fault::new(what.clone()).path("auth/tokens").once());
        let answer = nova.compute_services(soon()).await;
        assert!(matches!(answer, Answer::NotSent(Unsent::Login(LoginProblem::Failed { .. }))), "{what:?}: {answer:?}");
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert!(nova.compute_services(soon()).await.is_done(), "{what:?}");
    }
}

#[tokio::test]
async fn a_password_file_is_read_anew_for_each_login() {
    let fake = fake_with(Options::default()).await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, "secret\n").unwrap();
    let mut credentials = fake.credentials();
    if let Method::Password { password, .. } = &mut credentials.method {
        *password = SecretSource::File(file.clone());
    }
    let nova = Nova::new(credentials).unwrap();
    assert!(nova.compute_services(soon()).await.is_done());
    std::fs::write(&file, "changed\n").unwrap();
    fake.forget_tokens();
    let answer = nova.compute_services(soon()).await;
    assert!(matches!(answer, Answer::NotSent(Unsent::Login(LoginProblem::Refused { .. }))), "{answer:?}");
}

#[tokio::test]
async fn an_application_credential_logs_in() {
    let fake = fake_with(Options::default()).await;
    let mut credentials = fake.credentials();
    let secret = SecretSource::Given(Secret::new("secret"));
    credentials.method = Method::ApplicationCredential { who: Who::Id("app-1".into()), secret };
    assert!(Nova::new(credentials).unwrap().compute_services(soon()).await.is_done());
}

#[tokio::test]
async fn a_catalog_that_does_not_lead_to_nova_is_told() {
    let none = fake_with(Options { regions: Vec::new(), ..Options::default() }).await;
    let answer = Nova::new(none.credentials()).unwrap().compute_services(soon()).await;
    let Answer::NotSent(Unsent::Catalog(CatalogProblem::NoCompute { has })) = answer else { panic!("{answer:?}") };
    assert_eq!(has, ["identity"]);

    let two = fake_with(Options { regions: vec!["one".into(), "two".into()], ..Options::default() }).await;
    let answer = Nova::new(two.credentials()).unwrap().compute_services(soon()).await;
    assert!(matches!(answer, Answer::NotSent(Unsent::Catalog(CatalogProblem::WhichRegion { .. }))), "{answer:?}");
    let mut credentials = two.credentials();
    credentials.region = Some("two".into());
    assert!(Nova::new(credentials.clone()).unwrap().compute_services(soon()).await.is_done());
    credentials.interface = Interface::Admin;
    let answer = Nova::new(credentials).unwrap().compute_services(soon()).await;
    assert!(matches!(answer, Answer::NotSent(Unsent::Catalog(CatalogProblem::UnknownInterface { .. }))), "{answer:?}");
}

#[tokio::test]
async fn no_keystone_at_that_address() {
    let fake = fake_with(Options::default()).await;
    let mut credentials = fake.credentials();
    credentials.auth_url = fake.compute_url().parse().unwrap();
    let answer = Nova::new(credentials).unwrap().compute_services(soon()).await;
    assert!(matches!(answer, Answer::NotSent(Unsent::Login(_))), "{answer:?}");
    fake.stop();
    let answer = Nova::new(fake.credentials()).unwrap().compute_services(soon()).await;
    assert!(matches!(answer, Answer::NotSent(Unsent::Login(LoginProblem::Failed { .. }))), "{answer:?}");
}

#[tokio::test]
async fn neither_password_nor_token_is_ever_printed() {
    let fake = fake_with(Options::default()).await;
    let nova = Nova::new(fake.credentials()).unwrap();
    nova.reach(soon()).await.result().unwrap();
    let printed = format!("{nova:?} {:?}", fake.credentials());
    assert!(printed.contains("Token") && !printed.contains("gAAAA") && !printed.contains("\"secret\""), "{printed}");
}
