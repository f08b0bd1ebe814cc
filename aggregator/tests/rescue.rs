//! A rescue through every adapter: three fake agents over real TLS, one dies,
//! a real fence-agent process switches it off, its guest is started elsewhere.

#![allow(clippy::unwrap_used)]

mod common;

use common::world::{FakeHost, World, configured, get};
use common::{GUEST, certificates};
use medevac_aggregator::app;
use medevac_proto::rest;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_falls_silent_is_switched_off_and_its_guest_runs_elsewhere_once() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let running = app::start(&configured(dir.path(), "", "")).await.unwrap();
    let world = Arc::new(Mutex::new(World::default()));
    let mut lives = BTreeMap::new();
    for host in ["hv1", "hv2", "hv3"] {
        let runs = if host == "hv1" { vec![GUEST.to_owned()] } else { Vec::new() };
        lives.insert(host, FakeHost::join(dir.path(), host, &running, &world, runs).await.live());
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
