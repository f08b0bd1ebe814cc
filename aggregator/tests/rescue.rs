//! A rescue through every adapter: three fake agents over real TLS, one dies,
//! a real fence-agent process switches it off, its guest is started elsewhere.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Agent, GUEST, certificates, hello, inventory};
use medevac_aggregator::app::{self, Running};
use medevac_aggregator::config::Config;
use medevac_proto::rest;
use medevac_proto::session::agent_frame::Body;
use medevac_proto::session::aggregator_frame::Body as Told;
use medevac_proto::session::{
    CommandResult, Disk, DomainXml, Hello, Inventory, ProbeReport, ProbeResult, StorageMark, command,
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

fn configured(dir: &Path) -> Config {
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
        "listen = '127.0.0.1:0'\nsocket = '{shown}/sock'\nstate_dir = '{shown}/state'\nmachine_identity = '{shown}/machine-id'\n\
         [tls]\nca = '{shown}/ca.pem'\ncert = '{shown}/aggregator.pem'\nkey = '{shown}/aggregator.key'\n\
         [segments.default]\nmode = 'act'\n\
         [timing]\nsettle = '2s'\nfence_grace = '2s'\nfence_grace_long = '2s'\nboot_grace = '1s'\n{}{}{}",
        fence("hv1"),
        fence("hv2"),
        fence("hv3")
    );
    Config::parse(&text).unwrap()
}

/// What the fake world is like.
#[derive(Default)]
struct World {
    /// Hosts that answer nobody.
    dead: Vec<String>,
    /// Guest by guest: who was ordered to start it.
    started: Vec<(String, String)>,
}

fn guests(generation: u64, running: bool) -> Inventory {
    let mut inventory = inventory(generation);
    let guest = &mut inventory.instances[0];
    guest.xml_hash = medevac_proto::text_hash(XML);
    guest.disks = vec![Disk { path: "/nfs/web.img".into(), kind: 1, directory: "/nfs".into(), marker: "nfs-1".into() }];
    if !running {
        inventory.instances.clear();
    }
    inventory.storage = vec![StorageMark { directory: "/nfs".into(), marker: "nfs-1".into() }];
    inventory
}

/// An agent that answers as a real one does, in a world of its own.
struct Fake {
    host: String,
    agent: Agent,
    world: Arc<Mutex<World>>,
    runs: bool,
    generation: u64,
    boot_ms: u64,
}

impl Fake {
    async fn join(dir: &Path, host: &str, running: &Running, world: &Arc<Mutex<World>>, runs: bool) -> Self {
        // An address that no socket can connect to, so that nothing leaves this machine:
        // our own eyes see nothing, the peers decide.
        let said = Hello {
            planes: [("mgmt".to_owned(), "255.255.255.255".to_owned())].into(),
            inventory: Some(guests(1, runs)),
            ..hello(&format!("boot-of-{host}"))
        };
        let agent = Agent::join(dir, host, running.address, said).await;
        Self { host: host.into(), agent, world: Arc::clone(world), runs, generation: 1, boot_ms: 3_600_000 }
    }

    fn live(mut self) -> JoinHandle<()> {
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
                    Inventory { ask: ask.ask, taken_boot_ms: self.boot_ms, ..guests(self.generation, self.runs) };
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
                    self.runs = true;
                    self.generation += 1;
                    self.agent.say(Body::Inventory(guests(self.generation, true))).await;
                }
                let done = CommandResult { id: ordered.id, outcome: 1, ..CommandResult::default() };
                self.agent.say(Body::CommandResult(done)).await;
            }
            _ => {}
        }
    }
}

async fn get<T: serde::de::DeserializeOwned>(dir: &Path, path: &str) -> T {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let client = reqwest::Client::builder().unix_socket(dir.join("sock")).build().unwrap();
    client.get(format!("http://x/api/v1/{path}")).send().await.unwrap().json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_falls_silent_is_switched_off_and_its_guest_runs_elsewhere_once() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let running = app::start(&configured(dir.path())).await.unwrap();
    let world = Arc::new(Mutex::new(World::default()));
    let mut lives = BTreeMap::new();
    for host in ["hv1", "hv2", "hv3"] {
        lives.insert(host, Fake::join(dir.path(), host, &running, &world, host == "hv1").await.live());
    }
    // Past the settling time, and the device has been read "on".
    tokio::time::sleep(Duration::from_secs(4)).await;
    let status: rest::Status = get(dir.path(), "status").await;
    assert_eq!(
        (status.hosts_heard, status.instances_protected, status.role.as_str()),
        (3, 1, "deciding"),
        "{status:?}"
    );
    world.lock().unwrap().dead.push("hv1".into());
    lives[&"hv1"].abort();
    let until = Instant::now() + Duration::from_secs(30);
    while world.lock().unwrap().started.is_empty() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let incidents: Vec<rest::IncidentHead> = get(dir.path(), "incidents").await;
    let first = incidents.first().map(|one| one.id.clone()).unwrap_or_default();
    let shown: serde_json::Value = get(dir.path(), &format!("incidents/{first}")).await;
    let told = format!("{incidents:#?}\n{shown:#}");
    let orders = std::fs::read_to_string(dir.path().join("orders")).unwrap_or_default();
    assert_eq!(orders, "off hv1\n", "{told}");
    let started = world.lock().unwrap().started.clone();
    assert_eq!(started.len(), 1, "{told}");
    assert_eq!(started[0].0, GUEST);
    assert_ne!(started[0].1, "hv1");
    assert_eq!(incidents.len(), 1, "{told}");
    assert_eq!(shown["instances"][0]["outcome"], "recovered", "{told}");
    let explained: rest::Explanation = get(dir.path(), &format!("incidents/{first}/explain")).await;
    assert!(!explained.lines.is_empty());
}
