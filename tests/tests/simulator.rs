//! The seeded simulator as a test. A failing seed prints itself and the story
//! of its run; `SEED=n cargo test -p medevac-tests --test simulator one_seed`
//! replays it (`OPENSTACK=1` for one of Nova's), `SEEDS=n` runs more.

use medevac_tests::sim::{Fault, Options, Summary, World, run_seed_with};
use std::time::Duration;

/// Enough to have found every fault of the first weeks at least once.
const SEEDS: u64 = 500;

fn run(seeds: std::ops::Range<u64>, openstack: bool) -> Result<Summary, String> {
    let mut all = Summary::default();
    for seed in seeds {
        let one = run_seed_with(seed, Options { openstack, ..Options::default() })?;
        all.shot += one.shot;
        all.started += one.started;
        all.aggregator_starts += one.aggregator_starts;
    }
    Ok(all)
}

fn run_all(openstack: bool) {
    let seeds = std::env::var("SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS);
    let half = std::thread::spawn(move || run(0..seeds / 2, openstack));
    let other = run(seeds / 2..seeds, openstack);
    let half = half.join().expect("a seed panicked; its message is above");
    let (half, other) = match (half, other) {
        (Ok(half), Ok(other)) => (half, other),
        (Err(story), _) | (_, Err(story)) => panic!("{story}"),
    };
    let shot = half.shot + other.shot;
    let started = half.started + other.started;
    println!(
        "{seeds} seeds: {shot} shot, {started} started, {} aggregator starts",
        half.aggregator_starts + other.aggregator_starts
    );
    assert!(u64::from(shot) > seeds / 4 && u64::from(started) > seeds, "the seeds must exercise fencing and recovery");
}

#[test]
fn no_seed_runs_an_instance_twice_shoots_a_host_in_reach_or_leaves_anything_broken() {
    run_all(false);
}

#[test]
fn no_seed_evacuates_a_server_twice_or_from_a_host_that_lives() {
    run_all(true);
}

#[test]
fn one_seed() {
    let Some(seed) = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()) else { return };
    let openstack = std::env::var("OPENSTACK").is_ok();
    if let Err(story) = run_seed_with(seed, Options { openstack, ..Options::default() }) {
        panic!("{story}");
    }
}

/// A record that is too large ends the process, and at the next start again:
/// no number of guests or hosts may lead there.
#[test]
fn a_host_with_hundreds_of_guests_and_as_many_neighbours_fits_every_record() {
    for (hosts, guests) in [(3, 600), (80, 80)] {
        let options = Options { calm: true, pinned: true, ..Options::default() };
        let mut world = World::new(1, hosts, guests, options);
        world.run_for(Duration::from_secs(40));
        world.inject(&Fault::Crash(0));
        world.run_for(Duration::from_secs(120));
        assert_eq!(world.violations(), &[] as &[String]);
        let elsewhere = world.truth().iter().filter(|on| on.len() == 1 && on[0] != 0).count();
        assert_eq!(elsewhere, guests, "of {guests} guests on {hosts} hosts\n{}", world.story());
        assert_eq!(world.summary().aggregator_starts, 1, "the aggregator ended:\n{}", world.story());
    }
}
