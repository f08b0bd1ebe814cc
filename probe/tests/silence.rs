//! A host that gives nothing at all, in a network namespace of its own: this test runs
//! itself again there, so that no packet leaves and no route of the machine is touched.
#![allow(clippy::unwrap_used)]

use medevac_probe::{Answer, Key, Target, probe, reach};
use std::process::Command;
use std::time::{Duration, Instant};

const INSIDE: &str = "MEDEVAC_PROBE_TEST_INSIDE";
const DEADLINE: Duration = Duration::from_millis(500);

/// Nobody holds .9 on this link: neither ARP nor anything above it is answered.
const LINK: &str = "ip link add mdv0 type veth peer name mdv1 && ip link set mdv1 up \
     && ip address add 10.77.250.1/24 dev mdv0 && ip link set mdv0 up";

#[test]
fn a_host_that_gives_nothing_is_silent_on_every_plane() {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(silent());
    }
    let own = std::env::current_exe().unwrap();
    let again =
        format!("{LINK} && exec '{}' --exact a_host_that_gives_nothing_is_silent_on_every_plane", own.display());
    let allowed = Command::new("unshare").args(["--net", "sh", "-c", LINK]).output();
    if !allowed.is_ok_and(|o| o.status.success()) {
        eprintln!("skipped: network namespaces are not permitted here");
        return;
    }
    let inside = Command::new("unshare").args(["--net", "sh", "-c", &again]).env(INSIDE, "1").output().unwrap();
    assert!(inside.status.success(), "{}", String::from_utf8_lossy(&inside.stdout));
}

async fn silent() {
    let planes = [("no-answer".to_owned(), [10, 77, 250, 9].into()), ("no-route".to_owned(), [10, 77, 251, 9].into())];
    let key = Key::random();
    let target = Target { host: "hv1".into(), planes: planes.into(), key, banner_ports: vec![22], port: 15869 };
    let started = Instant::now();
    let seen = probe(&target, DEADLINE).await;
    assert_eq!(seen.len(), 2);
    assert!(seen.iter().all(|o| o.answer == Answer::Nothing), "{seen:?}");
    assert!(started.elapsed() < DEADLINE * 2, "the deadline holds");
    assert!(!reach([10, 77, 250, 9].into(), DEADLINE).await);
    assert!(!reach([10, 77, 251, 9].into(), DEADLINE).await);
}
