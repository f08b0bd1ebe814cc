//! A rescue through every adapter: three fake agents over real TLS, one dies,
//! a real fence-agent process switches it off, its guest is started elsewhere.

#![allow(clippy::unwrap_used)]

mod common;

use common::GUEST;
use common::world::{Site, get};
use medevac_proto::rest;

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_falls_silent_is_switched_off_and_its_guest_runs_elsewhere_once() {
    let site = Site::start("").await;
    let dir = site.path();
    let status: rest::Status = get(dir, "status").await;
    assert_eq!(
        (status.hosts_heard, status.instances_protected, status.role.as_str()),
        (3, 1, "deciding"),
        "{status:?}"
    );
    site.kill_first().await;
    let incidents: Vec<rest::IncidentHead> = get(dir, "incidents").await;
    let first = incidents.first().map(|one| one.id.clone()).unwrap_or_default();
    let shown: serde_json::Value = get(dir, &format!("incidents/{first}")).await;
    let told = format!("{incidents:#?}\n{shown:#}");
    let orders = std::fs::read_to_string(dir.join("orders")).unwrap_or_default();
    assert_eq!(orders, "off hv1\n", "{told}");
    let started = site.world.lock().unwrap().started.clone();
    assert_eq!(started.len(), 1, "{told}");
    assert_eq!(started[0].0, GUEST);
    assert_ne!(started[0].1, "hv1");
    assert_eq!(incidents.len(), 1, "{told}");
    assert_eq!(shown["instances"][0]["outcome"], "recovered", "{told}");
    let explained: rest::Explanation = get(dir, &format!("incidents/{first}/explain")).await;
    assert!(!explained.lines.is_empty());
}
