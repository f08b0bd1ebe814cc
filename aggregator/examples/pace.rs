//! How fast the whole aggregator evacuates when Nova is no limit: real TLS, a real store on
//! disk, a real fence agent, and a Nova that answers at once. The bench runs it, in release.
//!
//! ```text
//!   host dies -> ... -> proof --A--> first evacuation --B--> last server seen elsewhere
//! ```

#![allow(clippy::unwrap_used)]

#[path = "../tests/common/mod.rs"]
mod common;

use common::certificates;
use common::world::{FakeHost, World, configured, get};
use medevac_aggregator::app;
use medevac_openstack::fake::{Fake, FakeServer, Options, Timing};
use medevac_proto::rest;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const SERVERS: usize = 500;
const HOSTS: [&str; 3] = ["hv1", "hv2", "hv3"];
/// Generous: a slow machine is no failure.
const WITHIN: Duration = Duration::from_secs(300);

/// A Nova that takes no time of its own, with all its servers on the host that dies.
async fn cloud(dir: &Path) -> (Fake, Vec<String>) {
    let timing = Timing { schedule: Duration::ZERO, evacuation: Duration::ZERO, ..Timing::default() };
    let fake = Fake::start(Options { timing, ..Options::default() }).await.unwrap();
    HOSTS.iter().for_each(|host| fake.add_host(host));
    let servers = (0..SERVERS).map(|_| fake.add_server(FakeServer::on("hv1"))).collect();
    std::fs::write(dir.join("clouds.yaml"), fake.clouds_yaml()).unwrap();
    (fake, servers)
}

/// When each evacuation came, by the wall clock, in milliseconds.
fn posts(fake: &Fake, began: f64) -> Vec<f64> {
    let seen = fake.seen();
    let posts = seen.iter().filter(|seen| seen.body.contains("\"evacuate\""));
    posts.map(|seen| began + seen.at.as_secs_f64() * 1e3).collect()
}

fn wall_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64() * 1e3
}

#[tokio::main]
async fn main() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let began = wall_ms();
    let (fake, servers) = cloud(dir.path()).await;
    let file = dir.path().join("clouds.yaml");
    let top = "cloud = 'openstack'\n";
    let more = format!("[openstack]\nclouds_file = '{}'\ncloud = 'fake'\n", file.display());
    let running = app::start(&configured(dir.path(), top, &more)).await.unwrap();
    let world = Arc::new(Mutex::new(World::default()));
    let mut lives = Vec::new();
    for host in HOSTS {
        let runs = if host == HOSTS[0] { servers.clone() } else { Vec::new() };
        lives.push(FakeHost::join(dir.path(), host, &running, &world, runs).await.live());
    }
    tokio::time::sleep(Duration::from_secs(8)).await;
    world.lock().unwrap().dead.push("hv1".into());
    fake.crash("hv1");
    lives[0].abort();

    let until = Instant::now() + WITHIN;
    let shown = loop {
        let incidents: Vec<rest::IncidentHead> = get(dir.path(), "incidents").await;
        if let Some(first) = incidents.first() {
            let shown: serde_json::Value = get(dir.path(), &format!("incidents/{}", first.id)).await;
            let rows = shown["instances"].as_array().map(Vec::as_slice).unwrap_or_default();
            if rows.iter().filter(|row| row["outcome"] == "recovered").count() == SERVERS {
                break shown;
            }
        }
        assert!(Instant::now() < until, "no incident, or not all of them came back");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let all_back = wall_ms();
    let posts = posts(&fake, began);
    assert_eq!(posts.len(), SERVERS, "each was asked for once");
    assert!(fake.ever_doubled().is_empty());
    let timeline = shown["timeline"].as_array().unwrap();
    let proof = timeline.iter().find(|entry| entry["code"] == "proof").unwrap()["wall_ms"].as_f64().unwrap();
    let (first, last) = (posts[0], posts[SERVERS - 1]);
    let per_second = |from: f64, to: f64| SERVERS as f64 * 1e3 / (to - from);
    let figures = serde_json::json!({
        "servers": SERVERS,
        "proof_to_first_post_ms": first - proof,
        "posts_per_second": per_second(first, last),
        "recovered_per_second": per_second(first, all_back),
    });
    println!("{figures}");
}
