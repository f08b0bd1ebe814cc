//! Certificates: the authority that is named is the only one that counts.

#![allow(clippy::unwrap_used)]

use medevac_openstack::credentials::Tls;
use medevac_openstack::fake::{Fake, Options};
use medevac_openstack::{Answer, Nova, TlsProblem};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

struct Secured {
    fake: Fake,
    ca: PathBuf,
    _dir: tempfile::TempDir,
}

async fn secured() -> Secured {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let own = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(vec![own.cert.der().clone()], key).unwrap();
    let fake = Fake::start(Options { tls: Some(Arc::new(config)), ..Options::default() }).await.unwrap();
    fake.add_host("hv1");
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, own.cert.pem()).unwrap();
    Secured { fake, ca, _dir: dir }
}

async fn services(fake: &Fake, tls: Tls) -> Answer<usize> {
    let mut credentials = fake.credentials();
    credentials.tls = tls;
    let nova = Nova::new(credentials).unwrap();
    nova.compute_services(Instant::now() + Duration::from_secs(10)).await.map(|all| all.len())
}

#[tokio::test]
async fn a_site_with_an_authority_of_its_own_is_reached_with_it_and_not_without() {
    let secured = secured().await;
    let with = Tls { ca: Some(secured.ca.clone()), ..Tls::default() };
    assert!(services(&secured.fake, with).await.is_done());
    let answer = services(&secured.fake, Tls::default()).await;
    assert!(matches!(answer, Answer::NotSent(_)), "{answer:?}");
    let message = answer.result().unwrap_err().to_string().to_lowercase();
    assert!(message.contains("certificate") || message.contains("issuer"), "{message}");
    assert_eq!(secured.fake.logins(), 1, "the password went to nobody else");
}

#[tokio::test]
async fn without_the_check_anybody_is_believed() {
    let secured = secured().await;
    assert!(services(&secured.fake, Tls { verify: false, ..Tls::default() }).await.is_done());
}

#[tokio::test]
async fn files_that_hold_no_certificate_are_named() {
    let secured = secured().await;
    let mut credentials = secured.fake.credentials();
    std::fs::write(&secured.ca, "nothing\n").unwrap();
    for path in [secured.ca.clone(), PathBuf::from("/nonexistent/ca.pem")] {
        credentials.tls.ca = Some(path.clone());
        let problem = Nova::new(credentials.clone()).unwrap_err();
        assert!(matches!(&problem, TlsProblem::File { path: named, .. } if *named == path), "{problem}");
    }
}
