//! A small site of fake agents that answer as real ones do, and a fence agent that obeys.

#![allow(dead_code, clippy::unwrap_used, unreachable_pub)]

use super::{Agent, GUEST, certificates, hello, inventory};
use medevac_aggregator::app::{self, Running};
use medevac_aggregator::config::Config;
use medevac_proto::session::agent_frame::Body;
use medevac_proto::session::aggregator_frame::Body as Told;
use medevac_proto::session::{
    CommandResult, Disk, DomainXml, Hello, Instance, Inventory, ProbeReport, ProbeResult, StorageMark, command,
};
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// What every guest is defined by.
const XML: &str = "<domain/>";

/// Obeys, and writes down who asked for what.
const FENCE: &str = r#"#!/bin/sh
input=$(cat)
plug=$(printf '%s\n' "$input" | sed -n 's/^plug=//p')
action=$(printf '%s\n' "$input" | sed -n 's/^action=//p')
cd DIR
[ $action = status ] || echo "$action $plug" >> orders
case $action in
  off|on) echo $action > power-$plug;;
  status) if [ "$(cat power-$plug 2>/dev/null)" = off ]; then echo "Status: OFF"; exit 2; else echo "Status: ON"; fi;;
esac
"#;

/// A site of three that acts. `top` goes before the first table, `more` behind the last one.
pub fn configured(dir: &Path, top: &str, more: &str) -> Config {
    let shown = dir.display();
    std::fs::write(dir.join("machine-id"), "machine-of-the-aggregator\n").unwrap();
    std::fs::write(dir.join("fence_test"), FENCE.replace("DIR", &shown.to_string())).unwrap();
    std::fs::set_permissions(dir.join("fence_test"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let fence = |host: &str| {
        format!(
            "[[fence]]\nhost = '{host}'\nagent = '{shown}/fence_test'\npinned = true\n[fence.options]\nplug = '{host}'\n"
        )
    };
    let text = format!(
        "listen = '127.0.0.1:0'\nsocket = '{shown}/sock'\nstate_dir = '{shown}/state'\nmachine_identity = '{shown}/machine-id'\n{top}\
         [tls]\nca = '{shown}/ca.pem'\ncert = '{shown}/aggregator.pem'\nkey = '{shown}/aggregator.key'\n\
         [segments.default]\nmode = 'act'\n\
         [timing]\nsettle = '2s'\nfence_grace = '2s'\nfence_grace_long = '2s'\nboot_grace = '1s'\n{}{}{}{more}",
        fence("hv1"),
        fence("hv2"),
        fence("hv3")
    );
    Config::parse(&text).unwrap()
}

/// What the fake world is like.
#[derive(Default)]
pub struct World {
    /// Hosts that answer nobody.
    pub dead: Vec<String>,
    /// Guest by guest: who was ordered to start it.
    pub started: Vec<(String, String)>,
}

/// What a host shows that runs these.
fn guests(generation: u64, ids: &[String]) -> Inventory {
    let mut inventory = inventory(generation);
    let mut guest = inventory.instances.remove(0);
    guest.xml_hash = medevac_proto::text_hash(XML);
    guest.disks = vec![Disk { path: "/nfs/web.img".into(), kind: 1, directory: "/nfs".into(), marker: "nfs-1".into() }];
    inventory.instances = ids.iter().map(|uuid| Instance { uuid: uuid.clone(), ..guest.clone() }).collect();
    inventory.storage = vec![StorageMark { directory: "/nfs".into(), marker: "nfs-1".into() }];
    inventory
}

/// An agent that answers as a real one does, in a world of its own.
pub struct FakeHost {
    host: String,
    agent: Agent,
    world: Arc<Mutex<World>>,
    runs: Vec<String>,
    generation: u64,
    boot_ms: u64,
}

impl FakeHost {
    pub async fn join(dir: &Path, host: &str, running: &Running, world: &Arc<Mutex<World>>, runs: Vec<String>) -> Self {
        // An address that no socket can connect to, so that nothing leaves this machine:
        // our own eyes see nothing, the peers decide.
        let said = Hello {
            planes: [("mgmt".to_owned(), "255.255.255.255".to_owned())].into(),
            inventory: Some(guests(1, &runs)),
            ..hello(&format!("boot-of-{host}"))
        };
        let agent = Agent::join(dir, host, running.address, said).await;
        Self { host: host.into(), agent, world: Arc::clone(world), runs, generation: 1, boot_ms: 3_600_000 }
    }

    pub fn live(mut self) -> JoinHandle<()> {
        tokio::spawn(async move {
            let mut beat = tokio::time::interval(Duration::from_millis(300));
            loop {
                tokio::select! {
                    _ = beat.tick() => {
                        self.boot_ms += 300;
                        self.agent.beat(self.boot_ms, self.generation).await;
                    }
                    told = self.agent.told.message() => {
                        let Ok(Some(frame)) = told else { return };
                        if let Some(told) = frame.body {
                            self.answer(told).await;
                        }
                    }
                }
            }
        })
    }

    async fn answer(&mut self, told: Told) {
        match told {
            Told::InventoryAsk(ask) => {
                let inventory =
                    Inventory { ask: ask.ask, taken_boot_ms: self.boot_ms, ..guests(self.generation, &self.runs) };
                self.agent.say(Body::Inventory(inventory)).await;
            }
            Told::XmlAsk(ask) => {
                for hash in ask.hashes {
                    self.agent.say(Body::DomainXml(DomainXml { hash, xml: XML.into() })).await;
                }
            }
            Told::ProbeOrder(order) => {
                let dead = self.world.lock().unwrap().dead.clone();
                let result = |host: &String, plane: &String| ProbeResult {
                    host: host.clone(),
                    plane: plane.clone(),
                    answer: if dead.contains(host) { 3 } else { 1 },
                    boot_id: if dead.contains(host) { String::new() } else { format!("boot-of-{host}") },
                    responder: !dead.contains(host),
                    banner: !dead.contains(host),
                };
                let targets = order.targets.iter();
                let results = targets.flat_map(|t| t.planes.keys().map(|plane| result(&t.host, plane))).collect();
                self.agent.say(Body::ProbeReport(ProbeReport { round: order.round, results })).await;
            }
            Told::Command(ordered) => {
                if let Some(command::Order::Start(start)) = &ordered.order {
                    assert_eq!(start.xml, "<domain/>", "it is not defined here");
                    self.world.lock().unwrap().started.push((start.uuid.clone(), self.host.clone()));
                    self.runs = vec![start.uuid.clone()];
                    self.generation += 1;
                    self.agent.say(Body::Inventory(guests(self.generation, &self.runs))).await;
                }
                let done = CommandResult { id: ordered.id, outcome: 1, ..CommandResult::default() };
                self.agent.say(Body::CommandResult(done)).await;
            }
            _ => {}
        }
    }
}

/// Three hosts that live, and a guest on the first of them.
pub struct Site {
    dir: tempfile::TempDir,
    pub running: Running,
    pub world: Arc<Mutex<World>>,
    lives: BTreeMap<&'static str, JoinHandle<()>>,
}

impl Site {
    /// `more` goes behind the last table of the configuration.
    pub async fn start(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        certificates(dir.path());
        let running = app::start(&configured(dir.path(), "", more)).await.unwrap();
        let world = Arc::new(Mutex::new(World::default()));
        let mut lives = BTreeMap::new();
        for host in ["hv1", "hv2", "hv3"] {
            let runs = if host == "hv1" { vec![GUEST.to_owned()] } else { Vec::new() };
            lives.insert(host, FakeHost::join(dir.path(), host, &running, &world, runs).await.live());
        }
        // Past the settling time, and the device has been read "on".
        tokio::time::sleep(Duration::from_secs(4)).await;
        Self { dir, running, world, lives }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The first host dies, and its guest is started elsewhere, or not in half a minute.
    pub async fn kill_first(&self) {
        self.world.lock().unwrap().dead.push("hv1".into());
        self.lives[&"hv1"].abort();
        let until = Instant::now() + Duration::from_secs(30);
        while self.world.lock().unwrap().started.is_empty() && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// What the aggregator shows an operator.
pub async fn get<T: serde::de::DeserializeOwned>(dir: &Path, path: &str) -> T {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let client = reqwest::Client::builder().unix_socket(dir.join("sock")).build().unwrap();
    client.get(format!("http://x/api/v1/{path}")).send().await.unwrap().json().await.unwrap()
}
