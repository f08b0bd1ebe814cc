//! Joining, renewing, revoking and ranks against the whole aggregator: real
//! store, real loop, real TLS; what a client may send is sent by hand.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Agent, certificates, channel, hello};
use medevac_aggregator::app::{self, RunError, Running};
use medevac_aggregator::config::Config;
use medevac_aggregator::init::{Wanted, init};
use medevac_aggregator::peer;
use medevac_aggregator::rank::Rank;
use medevac_proto::rest;
use medevac_proto::session::agent_frame::Body;
use medevac_proto::session::aggregator_frame::Body as Told;
use medevac_proto::token::Token;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream};

struct Site {
    dir: tempfile::TempDir,
    running: Running,
}

fn configured(dir: &Path) -> Config {
    let shown = dir.display();
    std::fs::write(dir.join("machine-id"), "machine-of-the-aggregator\n").unwrap();
    let text = format!(
        "listen = '127.0.0.1:0'\nsocket = '{shown}/sock'\nstate_dir = '{shown}/state'\nmachine_identity = '{shown}/machine-id'\n\
         [tls]\nca = '{shown}/ca.pem'\ncert = '{shown}/aggregator.pem'\nkey = '{shown}/aggregator.key'\n\
         [identity]\nlifetime = '1h'\n[timing]\nsettle = '2s'\n"
    );
    Config::parse(&text).unwrap()
}

/// A key of a machine that joins.
fn key() -> (KeyPair, String) {
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    (key, request)
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

impl Site {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        certificates(dir.path());
        let people = vec![
            (Rank::Reader, "rita".to_owned()),
            (Rank::Operator, "otto".to_owned()),
            (Rank::Admin, "ada".to_owned()),
        ];
        init(&Wanted { dir: dir.path().to_owned(), people, ..Wanted::default() }).unwrap();
        let running = app::start(&configured(dir.path())).await.unwrap();
        Self { dir, running }
    }

    async fn restart(self) -> Self {
        self.running.stop().await.unwrap();
        let config = configured(self.dir.path());
        let running = loop {
            match app::start(&config).await {
                Ok(running) => break running,
                Err(RunError::Open(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("{error}"),
            }
        };
        Self { dir: self.dir, running }
    }

    /// Somebody with these files, or a stranger.
    fn client(&self, who: Option<(&[u8], &[u8])>) -> reqwest::Client {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let ca = std::fs::read(self.dir.path().join("ca.pem")).unwrap();
        let authorities = reqwest::Certificate::from_pem_bundle(&ca).unwrap();
        let builder = reqwest::Client::builder().tls_certs_only(authorities);
        let builder = match who {
            None => builder,
            Some((cert, key)) => {
                let pem = [cert, b"\n", key].concat();
                builder.identity(reqwest::Identity::from_pem(&pem).unwrap())
            }
        };
        builder.build().unwrap()
    }

    fn person(&self, who: &str) -> reqwest::Client {
        let read = |end: &str| std::fs::read(self.dir.path().join(format!("{who}.{end}"))).unwrap();
        self.client(Some((&read("pem"), &read("key"))))
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.running.address.port())
    }

    async fn post(&self, client: &reqwest::Client, path: &str, body: &Value) -> (u16, Value) {
        let answer = client.post(self.url(path)).json(body).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn token(&self, host: &str) -> String {
        let body = json!({"hosts": [host], "ttl_s": 3600, "reason": "new rack"});
        let (status, answer) = self.post(&self.person("operator"), "/api/v1/tokens", &body).await;
        assert_eq!(status, 200, "{answer}");
        answer["tokens"][0]["token"].as_str().unwrap().to_owned()
    }

    async fn join(&self, token: &str, host: &str, request: &str) -> Result<rest::Joined, String> {
        let body = json!({"token": token, "host": host, "request": request});
        let (status, answer) = self.post(&self.client(None), "/api/v1/join", &body).await;
        match status {
            200 => Ok(serde_json::from_value(answer).unwrap()),
            _ => Err(format!("{status} {}", answer["code"].as_str().unwrap())),
        }
    }

    /// Joins and puts its files where `common` looks for them.
    async fn joined(&self, host: &str) -> rest::Joined {
        let (key, request) = key();
        let joined = self.join(&self.token(host).await, "", &request).await.unwrap();
        let file = |end: &str| self.dir.path().join(format!("hosts/{host}.{end}"));
        std::fs::write(file("pem"), &joined.certificate).unwrap();
        std::fs::write(file("key"), key.serialize_pem()).unwrap();
        joined
    }

    async fn revoke(&self, whose: &str) {
        let body = json!({"verb": "revoke", "whose": whose, "reason": "stolen"});
        let (status, answer) = self.post(&self.person("operator"), "/api/v1/verbs", &body).await;
        assert_eq!(status, 200, "{answer}");
    }

    async fn open(&self, host: &str) -> Agent {
        Agent::join(self.dir.path(), host, self.running.address, hello("boot-1")).await
    }
}

async fn is_welcome(agent: &mut Agent) {
    agent.await_frame(|told| if let Told::Welcome(welcome) = told { Some(welcome) } else { None }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_with_a_token_and_nothing_else_becomes_the_host_that_it_names() {
    let site = Site::start().await;
    let joined = site.joined("hv9").await;
    assert_eq!(joined.host, "hv9");
    assert_eq!(peer::role(&[der(&joined.certificate)]).unwrap(), peer::Role::Host("hv9".into()));
    is_welcome(&mut site.open("hv9").await).await;
    let hosts: Vec<rest::Host> =
        site.person("people/rita").get(site.url("/api/v1/hosts")).send().await.unwrap().json().await.unwrap();
    assert_eq!(hosts[0].name, "hv9");
    let audit: Vec<rest::Said> =
        site.person("people/rita").get(site.url("/api/v1/audit")).send().await.unwrap().json().await.unwrap();
    assert_eq!(audit[1].said, "join hv9");
    assert!(audit[1].result.contains(&peer::serial(&[der(&joined.certificate)])), "{audit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_token_is_refused_by_its_name() {
    let site = Site::start().await;
    let (_, request) = key();
    let refused = async |token: &str, host: &str, request: &str| site.join(token, host, request).await.unwrap_err();
    assert_eq!(refused("mdv1.short", "", &request).await, "400 bad-token");
    let good = Token::parse(&site.token("hv9").await).unwrap();
    let foreign = Token::new(good.id.clone(), "5".repeat(64), "a".repeat(64));
    assert_eq!(refused(&foreign.text(), "", &request).await, "403 foreign-token");
    let guessed = Token::new(good.id.clone(), "5".repeat(64), good.authority.clone());
    assert_eq!(refused(&guessed.text(), "", &request).await, "403 unknown-token");
    assert_eq!(refused(&good.text(), "hv8", &request).await, "403 other-host");
    assert_eq!(refused(&good.text(), "", "no request").await, "400 bad-request");
    site.join(&good.text(), "hv9", &request).await.unwrap();
    site.join(&good.text(), "hv9", &request).await.expect("the same key may ask again: its answer may have been lost");
    assert_eq!(refused(&good.text(), "", &key().1).await, "403 used-token");
    let site = site.restart().await;
    assert_eq!(site.join(&good.text(), "", &key().1).await.unwrap_err(), "403 used-token");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_guesses_is_slowed_down_and_cannot_send_much() {
    let site = Site::start().await;
    let mut told = Vec::new();
    for _ in 0..11 {
        told.push(site.join("mdv1.guess", "", "x").await.unwrap_err());
    }
    assert_eq!((told[9].as_str(), told[10].as_str()), ("400 bad-token", "429 slow-down"));
    let large = "x".repeat(20_000);
    let answer = site.client(None).post(site.url("/api/v1/join")).body(large).send().await.unwrap();
    assert_eq!(answer.status(), 413);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_certificate_there_is_nothing_but_to_join() {
    let site = Site::start().await;
    let stranger = site.client(None);
    for (method, path) in medevac_aggregator::http::ROUTES {
        let url = site.url(&path.replace("{id}", "inc-1"));
        let asked = if method == "get" { stranger.get(url) } else { stranger.post(url) };
        let status = asked.send().await.unwrap().status().as_u16();
        let join = path == "/api/v1/join";
        assert_eq!(status, if join { 400 } else { 403 }, "{path}");
    }
    for path in ["/", "/medevac.v1.Nerve/Session", "/api/v1/join/../verbs", "/api/v1/verbs?x=/api/v1/join"] {
        assert_eq!(stranger.post(site.url(path)).send().await.unwrap().status(), 403, "{path}");
    }
    let ca = std::fs::read(site.dir.path().join("ca.pem")).unwrap();
    let tls = tonic::transport::ClientTlsConfig::new()
        .ca_certificate(tonic::transport::Certificate::from_pem(ca))
        .domain_name("localhost");
    let endpoint = format!("https://{}", site.running.address);
    let endpoint = tonic::transport::Endpoint::from_shared(endpoint).unwrap().tls_config(tls).unwrap();
    let channel = endpoint.connect().await.unwrap();
    if let Ok(mut agent) = Agent::open(channel, Body::Hello(hello("boot-1"))).await {
        assert!(agent.hear().await.is_none(), "no session");
    }
    assert!(site.running.registry.is_empty());
}

/// A connection without a certificate, from an address of its own.
async fn stranger(site: &Site, from: &str) -> Option<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(site.dir.path().join("ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    let stream = socket.connect(site.running.address).await.ok()?;
    let name = "localhost".try_into().unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()
}

/// Whether it is still open after a while in which nobody speaks.
async fn is_open(link: &mut tokio_rustls::client::TlsStream<TcpStream>, wait: Duration) -> bool {
    let mut byte = [0];
    tokio::time::timeout(wait, link.read(&mut byte)).await.is_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_who_stay_take_few_places_and_are_put_out() {
    let site = Site::start().await;
    let begun = tokio::time::Instant::now();
    let mut held = Vec::new();
    for _ in 0..64 {
        held.push(stranger(&site, "127.0.0.2").await.unwrap());
    }
    let moment = Duration::from_millis(300);
    for from in ["127.0.0.2", "127.0.0.3"] {
        let more = stranger(&site, from).await;
        let open = match more {
            Some(mut link) => is_open(&mut link, moment).await,
            None => false,
        };
        assert!(!open, "{from} finds a place");
    }
    is_welcome(&mut site.open("hv1").await).await;
    assert!(begun.elapsed() < Duration::from_secs(8), "too slow to tell anything");
    for mut link in held {
        assert!(!is_open(&mut link, Duration::from_secs(15)).await, "a stranger stays for ever");
    }
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert!(is_open(&mut stranger(&site, "127.0.0.3").await.unwrap(), moment).await, "there is room again");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_signs_no_stranger_gets_through_the_handshake() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    std::fs::remove_file(dir.path().join("ca.key")).unwrap();
    let running = app::start(&configured(dir.path())).await.unwrap();
    let site = Site { dir, running };
    assert!(site.client(None).post(site.url("/api/v1/join")).body("{}").send().await.is_err());
    let body = json!({"hosts": ["hv9"], "ttl_s": 3600, "reason": "x"});
    let (status, answer) = site.post(&site.person("operator"), "/api/v1/tokens", &body).await;
    assert_eq!((status, answer["code"].as_str()), (409, Some("no-authority")), "{answer}");
    is_welcome(&mut site.open("hv1").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_hosts_stream_ends_at_once_and_only_a_new_token_brings_it_back() {
    let site = Site::start().await;
    let mut agent = site.open("hv1").await;
    is_welcome(&mut agent).await;
    let mut other = site.open("hv2").await;
    is_welcome(&mut other).await;
    site.revoke("hv1").await;
    let code = agent.await_frame(|told| if let Told::Refusal(no) = told { Some(no.code) } else { None }).await;
    assert_eq!(code, "revoked");
    assert_eq!(
        Agent::open(agent.channel.clone(), Body::Hello(hello("boot-1"))).await.unwrap().refused().await,
        "revoked"
    );
    let site = site.restart().await;
    assert_eq!(site.open("hv1").await.refused().await, "revoked", "a restart forgives nothing");
    let renewal = json!({"request": key().1});
    let (status, answer) = site.post(&site.person("hosts/hv1"), "/api/v1/renew", &renewal).await;
    assert_eq!((status, answer["code"].as_str()), (403, Some("revoked")));
    let old = std::fs::read(site.dir.path().join("hosts/hv1.pem")).unwrap();
    let old_key = std::fs::read(site.dir.path().join("hosts/hv1.key")).unwrap();
    site.joined("hv1").await;
    is_welcome(&mut site.open("hv1").await).await;
    std::fs::write(site.dir.path().join("hosts/hv1.pem"), old).unwrap();
    std::fs::write(site.dir.path().join("hosts/hv1.key"), old_key).unwrap();
    assert_eq!(site.open("hv1").await.refused().await, "revoked", "the stolen certificate stays out");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_certificate_of_a_person_is_revoked_and_the_open_connection_is_worth_nothing() {
    let site = Site::start().await;
    let rita = site.person("people/rita");
    let status = async || rita.get(site.url("/api/v1/status")).send().await.unwrap().status().as_u16();
    assert_eq!(status().await, 200);
    let pem = std::fs::read_to_string(site.dir.path().join("people/rita.pem")).unwrap();
    site.revoke(&peer::serial(&[der(&pem)])).await;
    assert_eq!(status().await, 403);
    let kept: rest::Identity =
        site.person("operator").get(site.url("/api/v1/identity")).send().await.unwrap().json().await.unwrap();
    assert_eq!((kept.revoked.len(), kept.revoked[0].why.as_str()), (1, "stolen (admin)"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_renews_for_itself_and_its_open_stream_lives_on() {
    let site = Site::start().await;
    let first = site.joined("hv9").await;
    let mut agent = site.open("hv9").await;
    is_welcome(&mut agent).await;
    let host = site.person("hosts/hv9");
    let (_, request) = key();
    let (status, answer) = site.post(&host, "/api/v1/renew", &json!({"request": request})).await;
    assert_eq!((status, answer["host"].as_str()), (200, Some("hv9")), "{answer}");
    let second = answer["certificate"].as_str().unwrap();
    assert_ne!(peer::serial(&[der(second)]), peer::serial(&[der(&first.certificate)]));
    agent.beat(3_601_000, 1).await;
    assert_eq!(site.running.registry.len(), 1);
    let (status, answer) = site.post(&site.person("operator"), "/api/v1/renew", &json!({"request": request})).await;
    assert_eq!((status, answer["code"].as_str()), (403, Some("not-a-host")), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_authority_is_taken_up_while_streams_live() {
    let site = Site::start().await;
    let mut old = site.open("hv1").await;
    is_welcome(&mut old).await;
    let fresh = tempfile::tempdir().unwrap();
    certificates(fresh.path());
    let read = |dir: &Path, file: &str| std::fs::read_to_string(dir.join(file)).unwrap();
    let both = read(fresh.path(), "ca.pem") + &read(site.dir.path(), "ca.pem");
    std::fs::write(site.dir.path().join("ca.pem"), both).unwrap();
    std::fs::write(site.dir.path().join("ca.key"), read(fresh.path(), "ca.key")).unwrap();
    for end in ["pem", "key"] {
        std::fs::copy(fresh.path().join(format!("hosts/hv2.{end}")), site.dir.path().join(format!("hosts/hv2.{end}")))
            .unwrap();
    }
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    let mut new = loop {
        let channel = channel(site.dir.path(), "hosts/hv2", site.running.address).await;
        let opened = match channel {
            Ok(channel) => Agent::open(channel, Body::Hello(hello("boot-2"))).await.ok(),
            Err(_) => None,
        };
        match opened {
            Some(agent) => break agent,
            None => assert!(tokio::time::Instant::now() < deadline, "the new authority is never trusted"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    is_welcome(&mut new).await;
    is_welcome(&mut site.open("hv3").await).await;
    old.beat(3_601_000, 1).await;
    assert_eq!(site.running.registry.len(), 3, "nobody was dropped");
    let joined = site.joined("hv9").await;
    assert_eq!(joined.ca.matches("BEGIN").count(), 2, "whoever joins now trusts both");
    is_welcome(&mut site.open("hv9").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_rank_may_what_its_table_says_and_no_more() {
    let site = Site::start().await;
    let words = |verb: &str| match verb {
        "pause" | "resume" => json!({}),
        "maintenance" => json!({"host": "hv1", "on": true}),
        "approve" | "cancel" | "retry" => json!({"incident": "inc-1"}),
        "retry-alerts" => json!({"receiver": "ops"}),
        "protect" | "unprotect" | "recover" => json!({"instance": common::GUEST}),
        "mode" => json!({"segment": "default", "mode": "observe"}),
        "revoke" => json!({"whose": "hv3"}),
        _ => json!({"host": "hv1"}),
    };
    for (who, rank) in [("rita", Rank::Reader), ("otto", Rank::Operator), ("ada", Rank::Admin)] {
        let person = site.person(&format!("people/{who}"));
        assert_eq!(person.get(site.url("/api/v1/status")).send().await.unwrap().status(), 200, "{who} looks");
        for (verb, needed) in medevac_aggregator::rank::VERBS {
            let (path, mut body) = match verb {
                "token" => ("/api/v1/tokens", json!({"hosts": ["hv9"], "ttl_s": 60})),
                "import-devices" => ("/api/v1/fences", json!({"rows": [{"host": "hv1", "address": "10.0.9.11"}]})),
                _ => ("/api/v1/verbs", words(verb)),
            };
            body["reason"] = json!("to see");
            if path.ends_with("verbs") {
                body["verb"] = json!(verb);
            }
            let (status, answer) = site.post(&person, path, &body).await;
            let allowed = answer["code"] != "not-allowed";
            assert_eq!(allowed, rank >= needed, "{who}: {verb}: {status} {answer}");
            assert!(allowed || status == 403, "{status}");
        }
    }
    let audit: Vec<rest::Said> =
        site.person("people/ada").get(site.url("/api/v1/audit")).send().await.unwrap().json().await.unwrap();
    assert!(audit.iter().all(|said| said.by != "rita"), "a reader has said nothing");
}

#[test]
fn every_verb_of_the_api_has_its_rank_in_the_table() {
    let description: Value = serde_json::from_str(include_str!("../src/http/openapi.json")).unwrap();
    let verbs = description["components"]["schemas"]["VerbRequest"]["oneOf"].as_array().unwrap();
    let mut described: Vec<&str> =
        verbs.iter().map(|verb| verb["properties"]["verb"]["const"].as_str().unwrap()).collect();
    // Requests of their own.
    described.extend(["import-devices", "token"]);
    described.sort_unstable();
    let mut ranked = medevac_aggregator::rank::VERBS.map(|(verb, _)| verb);
    ranked.sort_unstable();
    assert_eq!(described, ranked);
}
