//! A guard taken away: the simulator must find a violation, or its silence
//! about the real code is worth nothing. Witnesses, rails and the majority have
//! others behind them, so that taking one of them alone away shows nothing here.

use medevac_tests::scenario::play_with;
use medevac_tests::sim::{Options, run_seed_with};
use medevac_triage::Guards;

/// A guard whose absence is not found within this many seeds is not tested.
const SEEDS: u64 = 1000;

fn is_noticed(guard: &str) {
    let options = Options { guards: Guards::without(guard).expect("the guard exists"), ..Options::default() };
    let found = (0..SEEDS).find_map(|seed| run_seed_with(seed, options.clone()).err().map(|story| (seed, story)));
    let (seed, story) = found.unwrap_or_else(|| panic!("without {guard} nothing went wrong in {SEEDS} seeds"));
    let first = story.lines().next().unwrap_or_default();
    println!("without {guard}: seed {seed}: {first}");
    assert!(first.contains("while it ran on"), "{story}");
}

#[test]
fn without_the_proof_check_an_instance_runs_twice() {
    is_noticed("proof");
}

#[test]
fn without_homes_a_guest_on_its_way_out_runs_twice() {
    let text = include_str!("../scenarios/a_guest_on_its_way_out.txt");
    let shown =
        play_with(text, Guards::without("homes").expect("the guard exists")).expect("the scenario is understood");
    assert!(shown.contains("VIOLATION: vm1 was started on"), "{shown}");
}

#[test]
fn without_the_look_round_a_wrong_wiring_kills() {
    is_noticed("look-round");
}
