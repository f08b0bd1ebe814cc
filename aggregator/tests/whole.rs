//! The whole aggregator in one process: real store, real loop, real TLS, real
//! socket, and a fake agent.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Agent, GUEST, certificates, channel, hello};
use medevac_aggregator::app::{self, RunError, Running};
use medevac_aggregator::config::Config;
use medevac_aggregator::store::sqlite::{OpenError, SqliteStore};
use medevac_proto::rest;
use medevac_proto::session::aggregator_frame::Body as Told;
use medevac_proto::session::{Epoch, agent_frame::Body};
use std::path::{Path, PathBuf};
use std::time::Duration;

struct Whole {
    dir: tempfile::TempDir,
    running: Running,
}

fn configured(dir: &Path) -> Config {
    let shown = dir.display();
    std::fs::write(dir.join("machine-id"), "machine-of-the-aggregator\n").unwrap();
    let text = format!(
        "listen = '127.0.0.1:0'\nsocket = '{shown}/sock'\nstate_dir = '{shown}/state'\nmachine_identity = '{shown}/machine-id'\n\
         [tls]\nca = '{shown}/ca.pem'\ncert = '{shown}/aggregator.pem'\nkey = '{shown}/aggregator.key'\n\
         [segments.default]\nmode = 'act'\n[timing]\nsettle = '2s'\n"
    );
    Config::parse(&text).unwrap()
}

impl Whole {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        certificates(dir.path());
        let running = app::start(&configured(dir.path())).await.unwrap();
        Self { dir, running }
    }

    async fn restart(self) -> Self {
        self.running.stop().await.unwrap();
        // The listener of the stopped one keeps its own port: each start takes a free one.
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

    fn socket(&self) -> reqwest::Client {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let path: PathBuf = self.dir.path().join("sock");
        reqwest::Client::builder().unix_socket(path).build().unwrap()
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> T {
        let answer = self.socket().get(format!("http://x/api/v1/{path}")).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        answer.json().await.unwrap()
    }

    async fn say(&self, verb: serde_json::Value) -> (u16, serde_json::Value) {
        let answer = self.socket().post("http://x/api/v1/verbs").json(&verb).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// Over TLS, with somebody's certificate.
    async fn tls_status(&self, who: &str) -> u16 {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let read = |file: String| std::fs::read(self.dir.path().join(file)).unwrap();
        let mut own = read(format!("{who}.pem"));
        own.extend(read(format!("{who}.key")));
        let client = reqwest::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(&read("ca.pem".into())).unwrap()])
            .identity(reqwest::Identity::from_pem(&own).unwrap())
            .build()
            .unwrap();
        let url = format!("https://localhost:{}/api/v1/status", self.running.address.port());
        client.get(url).send().await.unwrap().status().as_u16()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_joins_is_shown_with_its_guest_and_its_care() {
    let whole = Whole::start().await;
    let mut agent = Agent::join(whole.dir.path(), "hv1", whole.running.address, hello("boot-1")).await;
    let welcome = agent.await_frame(|told| if let Told::Welcome(welcome) = told { Some(welcome) } else { None }).await;
    let care = agent.await_frame(|told| if let Told::Care(care) = told { Some(care) } else { None }).await;
    assert_eq!((care.mode.as_str(), care.protected_uuids), ("act", vec![GUEST.to_owned()]));
    let hosts: Vec<rest::Host> = whole.get("hosts").await;
    assert_eq!((hosts[0].name.as_str(), hosts[0].instances), ("hv1", 1));
    let instances: Vec<rest::Instance> = whole.get("instances").await;
    assert_eq!((instances[0].uuid.as_str(), instances[0].homes.clone()), (GUEST, vec!["hv1".to_owned()]));
    let status: rest::Status = whole.get("status").await;
    assert_eq!((status.site, status.epoch, status.hosts_total), (welcome.site, 1, 1));
    assert!(status.hosts_without_proof.contains_key("hv1"), "no fence device is configured");
    let whole = whole.restart().await;
    let status: rest::Status = whole.get("status").await;
    assert_eq!((status.epoch, status.hosts_total, status.hosts_heard), (2, 1, 0), "the store remembers");
}

#[tokio::test(flavor = "multi_thread")]
async fn verbs_are_committed_before_they_are_answered() {
    let whole = Whole::start().await;
    let (code, answer) = whole.say(serde_json::json!({"verb": "pause", "reason": "moving racks"})).await;
    assert_eq!((code, answer["done"].as_bool()), (200, Some(true)), "{answer}");
    let (code, answer) = whole.say(serde_json::json!({"verb": "fence", "host": "hv9", "reason": "x"})).await;
    assert_eq!((code, answer["done"].as_bool()), (409, Some(false)), "{answer}");
    assert!(!answer["refused"].as_str().unwrap().is_empty());
    let (code, answer) = whole.say(serde_json::json!({"verb": "fence", "hots": "hv9", "reason": "x"})).await;
    assert_eq!((code, answer["code"].as_str()), (400, Some("bad-verb")), "{answer}");
    let whole = whole.restart().await;
    let status: rest::Status = whole.get("status").await;
    assert!(status.paused.is_some_and(|why| why.contains("moving racks")), "a pause survives a restart");
    let audit: Vec<rest::Said> = whole.get("audit").await;
    let told: Vec<_> = audit.iter().map(|one| (one.said.as_str(), one.reason.as_str(), one.done)).collect();
    assert_eq!(told, [("pause", "moving racks", true), ("fence hv9", "x", false)], "{audit:?}");
    assert!(audit[1].result.contains("unknown-host"), "{audit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_is_for_operators_and_root_alone() {
    let whole = Whole::start().await;
    assert_eq!(whole.tls_status("operator").await, 200);
    assert_eq!(whole.tls_status("hosts/hv1").await, 403);
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(whole.dir.path().join("sock")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    let missing = whole.socket().get("http://x/api/v1/incidents/inc-99").send().await.unwrap();
    assert_eq!(missing.status(), 404);
    for (method, path) in medevac_aggregator::http::ROUTES {
        let url = format!("http://x{}", path.replace("{id}", "inc-99"));
        let asked = if method == "get" { whole.socket().get(url) } else { whole.socket().post(url) };
        let answer = asked.send().await.unwrap();
        let (code, body) = (answer.status().as_u16(), answer.text().await.unwrap());
        assert!(code != 405 && (code != 404 || body.contains("\"unknown-")), "{path}: {code}");
    }
    let rows: Vec<rest::MatrixRow> = whole.get("matrix").await;
    assert_eq!((rows.len(), rows[0].action.as_str(), rows[2].source.as_str()), (6, "fence", "no source yet"));
    let described: serde_json::Value = whole.get("openapi.json").await;
    assert_eq!(described["openapi"], "3.1.0");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aggregator_that_meets_a_higher_epoch_only_shows() {
    let whole = Whole::start().await;
    let status: rest::Status = whole.get("status").await;
    let mut rival = hello("boot-1");
    rival.site = status.site;
    rival.highest_epoch = Some(Epoch { number: 9, start_id: "elsewhere".into() });
    let channel = channel(whole.dir.path(), "hosts/hv1", whole.running.address).await.unwrap();
    let mut agent = Agent::open(channel, Body::Hello(rival)).await.unwrap();
    assert_eq!(agent.refused().await, "older_epoch");
    let role = loop {
        let status: rest::Status = whole.get("status").await;
        if status.role.contains("take-over") {
            break status.role;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(role.contains("hv1"), "{role}");
    let (code, answer) = whole.say(serde_json::json!({"verb": "pause", "reason": "x"})).await;
    assert_eq!((code, answer["refused"].as_str()), (409, Some("not-deciding")), "{answer}");
    whole.running.stop().await.unwrap();
    let state = whole.dir.path().join("state");
    let next = loop {
        match SqliteStore::take_over(&state, "machine-of-the-aggregator", 0, "the other one burnt") {
            Ok(next) => break next,
            Err(OpenError::Locked { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => panic!("{error}"),
        }
    };
    assert!(next > 9, "a take-over goes above what the agent named: {next}");
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_that_change_nothing_write_nothing() {
    let whole = Whole::start().await;
    let agent = Agent::join(whole.dir.path(), "hv1", whole.running.address, hello("boot-1")).await;
    agent.beat(1000, 1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let wal = whole.dir.path().join("state/medevac.db-wal");
    let before = std::fs::metadata(&wal).unwrap();
    for beat in 2..40 {
        agent.beat(1000 * beat, 1).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let after = std::fs::metadata(&wal).unwrap();
    assert_eq!((after.len(), after.modified().unwrap()), (before.len(), before.modified().unwrap()));
}
