//! The action matrix, row by row, played: a row with a source decides as it
//! says, and a row without one decides nothing.

use medevac_tests::scenario::play;
use medevac_triage::{Loss, MATRIX_ROWS};

/// Long enough for every grace; then what was made of it.
const SEEN: &str = "run 3m\nshow hosts\nshow incidents\nshow status\nshow guests\n";

fn played(site: &str, loss: &str) -> String {
    let text = format!("hosts 4\nguests 4\n{site}set pinned all\nrun 40s\n{loss}{SEEN}");
    let shown = play(&text).expect("the scenario is understood");
    assert!(!shown.contains("VIOLATION"), "{shown}");
    shown
}

const ALL_LOST: &str = "cut-all hv1\n";
const SHOT: &str = "hv1 is ordered off";

#[test]
fn a_host_that_nobody_hears_is_shot_and_its_guests_are_recovered() {
    let shown = played("", ALL_LOST);
    assert!(shown.contains(SHOT) && !shown.contains("vm1 runs on hv1"), "{shown}");
}

#[test]
fn where_the_row_says_approve_a_person_decides() {
    let shown = played("set matrix all_planes approve\n", ALL_LOST);
    assert!(!shown.contains(SHOT) && shown.contains("waiting for approval"), "{shown}");
}

#[test]
fn where_the_row_says_alert_nothing_is_shot() {
    let shown = played("set matrix all_planes alert\n", ALL_LOST);
    assert!(!shown.contains(SHOT) && shown.contains("matrix.all_planes says alert only"), "{shown}");
}

#[test]
fn observe_does_not_claim_that_act_would_shoot_what_the_row_spares() {
    let shown = played("mode observe\nset matrix all_planes alert\n", ALL_LOST);
    assert!(!shown.contains("act would now") && shown.contains("act would not shoot it by itself"), "{shown}");
}

#[test]
fn a_row_lifts_no_witness_and_no_rail() {
    let shown = played("set matrix all_planes fence\n", "split hv1\n");
    assert!(!shown.contains("is ordered off"), "{shown}");
    let shown = played("set matrix all_planes fence\n", "cut-all hv1\ncut-all hv2\n");
    assert!(!shown.contains("is ordered off"), "{shown}");
}

#[test]
fn the_management_network_alone_is_one_alert_and_no_incident() {
    let shown = played("", "cut hv1 mgmt\n");
    assert!(shown.contains("hv1 is agent-failed") && shown.contains("MDV-AGENTS-DOWN"), "{shown}");
    assert!(!shown.contains("inc-") && shown.contains("vm1 runs on hv1"), "{shown}");
}

/// Fails when a source comes: then the row has to be decided, and told so.
#[test]
fn a_row_without_a_source_decides_nothing() {
    let cut_of_many = "cut hv1 storage\ncut hv2 storage\ncut hv3 storage\n";
    for row in MATRIX_ROWS.iter().filter(|row| row.source.is_none()) {
        let (set, loss) = match row.loss {
            Loss::StorageOneHost => ("set matrix storage_one_host fence\n", "cut hv1 storage\n"),
            Loss::StorageSeveralHosts => ("", cut_of_many),
            Loss::Tenant => ("set matrix tenant migrate\n", "cut hv1 tenant\n"),
            // Without a source it is a host that nobody hears, and nothing more.
            Loss::StorageStillWritten => {
                let shown = played("set matrix storage_still_written alert\n", ALL_LOST);
                assert!(shown.contains(SHOT), "{shown}");
                continue;
            }
            Loss::AllPlanes | Loss::Management => panic!("{} has had a source from the first day on", row.name),
        };
        let shown = played(set, loss);
        assert!(!shown.contains("inc-") && !shown.contains("MDV-") && shown.contains("hv1 is heard"), "{shown}");
    }
}
