//! The budget of alerts, line by line, played: what may wake nobody, and what is
//! one alert however many hosts and guests it takes along. A failed datastore
//! and a labelled rack join it with their sensors and labels.

use medevac_tests::scenario::play;
use std::collections::BTreeMap;

/// Joins, and the settling of a start.
const BEGIN: &str = "receiver ops\nrun 60s\n";

/// One alert, as a receiver has come to know it.
#[derive(Debug)]
struct Told {
    code: String,
    letters: usize,
    resolved: bool,
}

/// Every alert that the receiver heard of.
fn told(site: &str, what_happens: &str) -> Vec<Told> {
    let shown = play(&format!("mode act\n{site}{BEGIN}{what_happens}show letters\n")).expect("it is understood");
    assert!(!shown.contains("VIOLATION"), "{shown}");
    let mut alerts: BTreeMap<String, Told> = BTreeMap::new();
    // "64.9 s: alert-1 ops, warning MDV-HOST-LOST", then the three lines, indented.
    for line in shown.lines().filter(|line| !line.starts_with(['>', ' '])) {
        let Some((_, letter)) = line.split_once(": alert-") else { continue };
        let words: Vec<&str> = letter.split_whitespace().collect();
        let [id, _, state, code] = words[..] else { panic!("no letter looks like {line:?}") };
        let alert = alerts.entry(id.to_owned()).or_insert(Told { code: code.to_owned(), letters: 0, resolved: false });
        alert.letters += 1;
        alert.resolved = state == "resolved";
    }
    alerts.into_values().collect()
}

/// Exactly these, each of them over in the end.
fn expect(alerts: &[Told], codes: &[&str]) {
    let told: Vec<&str> = alerts.iter().map(|alert| alert.code.as_str()).collect();
    assert_eq!(told, codes, "{alerts:?}");
    assert!(alerts.iter().all(|alert| alert.resolved), "one of them never ends: {alerts:?}");
}

fn for_each_host(hosts: usize, steps: &str) -> String {
    (1..=hosts).map(|host| steps.replace('@', &host.to_string())).collect()
}

#[test]
fn an_idle_day_is_no_alert() {
    expect(&told("hosts 3\nguests 6\n", "run 1440m\n"), &[]);
}

#[test]
fn an_upgrade_of_the_agents_is_no_alert() {
    let one_by_one = for_each_host(4, "kill-agent hv@\nrun 10s\nstart-agent hv@\nrun 20s\n");
    expect(&told("hosts 4\nguests 8\n", &format!("{one_by_one}run 10m\n")), &[]);
    let at_once = "each 1..4 kill-agent hv@\nrun 20s\neach 1..4 start-agent hv@\nrun 10m\n";
    expect(&told("hosts 4\nguests 8\n", at_once), &[]);
}

#[test]
fn an_upgrade_of_the_aggregator_is_no_alert() {
    expect(&told("hosts 4\nguests 8\n", "kill-aggregator\nrun 10m\nkill-aggregator\nrun 10m\n"), &[]);
}

#[test]
fn an_upgrade_of_libvirt_is_no_alert() {
    let upgrade = for_each_host(4, "hang-libvirt hv@\nrun 30s\nheal-libvirt hv@\nrun 30s\n");
    expect(&told("hosts 4\nguests 8\n", &format!("{upgrade}run 10m\n")), &[]);
}

#[test]
fn a_rolling_reboot_under_maintenance_is_no_alert() {
    let one = "say maintenance hv@\nshutdown hv@\nrun 5m\nsay end-maintenance hv@\nrun 60s\n";
    expect(&told("hosts 3\nguests 6\n", &format!("{}run 10m\n", for_each_host(3, one))), &[]);
}

#[test]
fn a_dead_host_with_fifty_guests_is_one_alert_that_is_updated_and_resolved() {
    let alerts = told("hosts 4\nguests 200\n", "crash hv1\nrun 10m\n");
    expect(&alerts, &["MDV-HOST-LOST"]);
    // Its beginning, what became of it meanwhile, its end; but no letter for each guest.
    assert!((2..=5).contains(&alerts[0].letters), "{alerts:?}");
}

#[test]
fn a_host_that_waits_for_a_person_is_one_alert_that_is_updated_and_resolved() {
    let alerts =
        told("hosts 4\nguests 200\nset no-device hv1\n", "crash hv1\nrun 5m\nsay confirm-fenced hv1\nrun 10m\n");
    expect(&alerts, &["MDV-HOST-LOST"]);
    assert!((3..=6).contains(&alerts[0].letters), "{alerts:?}");
}

#[test]
fn hosts_that_die_together_are_one_alert() {
    let together = "crash hv1\ncrash hv2\nrun 10m\n";
    expect(&told("hosts 6\nguests 60\nset pinned all\n", together), &["MDV-HOST-LOST"]);
}

#[test]
fn nova_down_is_one_alert() {
    let site = "cloud openstack\nhosts 3\nguests 6\n";
    expect(&told(site, "nova down 10m\nrun 20m\n"), &["MDV-CLOUD"]);
    // Its own restart is none.
    expect(&told(site, "nova down 30s\nrun 20m\n"), &[]);
}

#[test]
fn agents_that_are_down_are_one_alert_for_each_segment_after_two_minutes() {
    let site = "hosts 6\nguests 6\nsegment edge hv4 hv5 hv6\n";
    expect(&told(site, "each 1..6 kill-agent hv@\nrun 100s\neach 1..6 start-agent hv@\nrun 10m\n"), &[]);
    let all = "each 1..6 kill-agent hv@\nrun 3m\neach 1..6 start-agent hv@\nrun 10m\n";
    expect(&told(site, all), &["MDV-AGENTS-DOWN", "MDV-AGENTS-DOWN"]);
}
