//! Fence devices as data, against the whole aggregator: real store, loop, TLS
//! and API, a fence agent that is a process, and fake hosts that tell where
//! their controllers are.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Agent, certificates, hello};
use medevac_aggregator::app::{self, RunError, Running};
use medevac_aggregator::config::Config;
use medevac_proto::rest;
use medevac_proto::session::PowerController;
use medevac_proto::session::agent_frame::Body;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Says on, and writes down where it was asked.
const FENCE: &str = "#!/bin/sh\ncat > DIR/asked.$$; mv DIR/asked.$$ DIR/asked; echo 'Status: ON'\n";

fn configured(dir: &Path) -> Config {
    let shown = dir.display();
    std::fs::write(dir.join("machine-id"), "machine-of-the-aggregator\n").unwrap();
    std::fs::write(dir.join("fence_test"), FENCE.replace("DIR", &shown.to_string())).unwrap();
    std::fs::set_permissions(dir.join("fence_test"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let text = format!(
        "listen = '127.0.0.1:0'\nsocket = '{shown}/sock'\nstate_dir = '{shown}/state'\nmachine_identity = '{shown}/machine-id'\n\
         [tls]\nca = '{shown}/ca.pem'\ncert = '{shown}/aggregator.pem'\nkey = '{shown}/aggregator.key'\n\
         [segments.default.fence]\nagent = '{shown}/fence_test'\nusername = 'admin'\noffers = true\n\
         [timing]\nsettle = '2s'\n"
    );
    Config::parse(&text).unwrap()
}

struct Site {
    dir: tempfile::TempDir,
    running: Running,
}

impl Site {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        certificates(dir.path());
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

    fn client(&self) -> reqwest::Client {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        reqwest::Client::builder().unix_socket(self.dir.path().join("sock")).build().unwrap()
    }

    async fn fences(&self) -> Vec<rest::Fence> {
        self.client().get("http://x/api/v1/fences").send().await.unwrap().json().await.unwrap()
    }

    async fn fence(&self, host: &str) -> rest::Fence {
        self.fences().await.into_iter().find(|row| row.host == host).unwrap()
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let answer = self.client().post(format!("http://x/api/v1/{path}")).json(&body).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn import(&self, rows: Value) -> (u16, Value) {
        self.post("fences", json!({"rows": rows, "reason": "rack 1"})).await
    }

    async fn join(&self, host: &str) -> Agent {
        Agent::join(self.dir.path(), host, self.running.address, hello(&format!("boot-of-{host}"))).await
    }

    /// Beats until something is so.
    async fn until(&self, agent: &Agent, what: &str, fits: impl Fn(&[rest::Fence]) -> bool) {
        let begun = Instant::now();
        for beat in 1.. {
            agent.beat(3_600_000 + beat * 200, 1).await;
            let rows = self.fences().await;
            if fits(&rows) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(15), "{what}: {rows:#?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

fn told(addresses: &[&str]) -> Body {
    let addresses = addresses.iter().map(ToString::to_string).collect();
    Body::PowerController(PowerController { addresses, why_none: String::new() })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_becomes_the_device_that_is_read_and_outlasts_a_restart() {
    let site = Site::start().await;
    let agent = site.join("hv1").await;
    site.until(&agent, "hv1 is listed", |rows| rows.iter().any(|row| row.host == "hv1" && row.level == 0)).await;
    let none = site.fence("hv1").await;
    assert!(none.why.contains("not told") && none.todo.contains("import"), "{none:?}");
    let why_none = "there is no /dev/ipmi0".to_owned();
    agent.say(Body::PowerController(PowerController { addresses: Vec::new(), why_none })).await;
    site.until(&agent, "the reason", |rows| rows[0].why.contains("/dev/ipmi0")).await;
    agent.say(told(&["0.0.0.0", "not an address", "10.0.9.11"])).await;
    site.until(&agent, "it is read", |rows| rows[0].power == "on" && rows[0].mapping == "seen-on").await;
    let row = site.fence("hv1").await;
    assert_eq!((row.address.as_str(), row.from.as_str(), row.level), ("10.0.9.11", "offered", 1));
    assert_eq!((row.agent.as_str(), row.error.as_str()), ("fence_test", ""));
    assert!(row.answered_ms.is_some());
    let asked = std::fs::read_to_string(site.dir.path().join("asked")).unwrap();
    assert!(asked.contains("ip=10.0.9.11\n") && asked.contains("username=admin\n"), "{asked}");
    agent.say(told(&["10.0.9.12"])).await;
    site.until(&agent, "a conflict", |rows| rows[0].mapping == "conflict").await;
    assert_eq!(site.fence("hv1").await.address, "10.0.9.11", "what is in use stays in use");
    drop(agent);
    let site = site.restart().await;
    assert_eq!(site.fence("hv1").await.address, "10.0.9.11");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_committed_whole_or_refused_by_name() {
    let site = Site::start().await;
    let agent = site.join("hv1").await;
    site.until(&agent, "hv1 is listed", |rows| rows.len() == 1).await;
    let same = json!([{"host": "hv1", "address": "10.0.9.11"}, {"host": "hv2", "address": "10.0.9.11", "line": 7}]);
    let (code, answer) = site.import(same).await;
    assert_eq!((code, answer["refused"].as_str()), (409, Some("one-plug")), "{answer}");
    assert!(answer["text"].as_str().unwrap().contains("line 7"), "{answer}");
    assert_eq!(site.fence("hv1").await.level, 0, "nothing of it was taken");
    for (row, what) in [
        (json!({"host": "h v", "address": "10.0.9.11"}), "name of a host"),
        (json!({"host": "hv1", "address": "10.0.9.11:623"}), "no address"),
        (json!({"host": "hv1", "address": "a\nip=10.0.9.12"}), "no address"),
        (json!({"host": "hv1", "address": "10.0.9.11", "adress": "x"}), "adress"),
    ] {
        let (code, answer) = site.import(json!([row])).await;
        assert!(code == 400 && answer["message"].as_str().unwrap().contains(what), "{answer}");
    }
    let rows = json!([{"host": "hv1", "address": "10.0.9.11", "pinned": true}, {"host": "hv9", "address": "bmc9"}]);
    let dry = json!({"rows": rows, "dry_run": true, "reason": "a look"});
    let (code, answer) = site.post("fences", dry).await;
    assert!(code == 200 && answer["text"].as_str().unwrap().contains("dry run"), "{answer}");
    let (code, answer) = site.import(rows).await;
    assert!(code == 200 && answer["text"].as_str().unwrap().contains("not joined"), "{answer}");
    site.until(&agent, "it is read", |rows| rows[0].power == "on").await;
    assert_eq!(site.fence("hv1").await.mapping, "pinned");
    let said: Vec<rest::Said> = site.client().get("http://x/api/v1/audit").send().await.unwrap().json().await.unwrap();
    let told: Vec<_> = said.iter().map(|one| (one.said.as_str(), one.done)).collect();
    assert_eq!(told, [("fence-devices import of 2 hosts", false), ("fence-devices import of 2 hosts", true)]);
    let site = site.restart().await;
    assert_eq!(site.fence("hv1").await.from, "imported");
    let (code, answer) = site.post("verbs", json!({"verb": "forget-device", "host": "hv1", "reason": "gone"})).await;
    assert_eq!((code, site.fence("hv1").await.level), (200, 0), "{answer}");
}
