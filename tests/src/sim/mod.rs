//! A seeded simulator. One thread, one clock, no I/O: the production engine
//! and the production decisions, in a world that fails on purpose.
//!
//! ```text
//!   faults (from the seed) --> World: hosts, guests, planes, power controllers, agents
//!                                 |  observations                 ^ commands
//!                                 v                               |
//!                              Engine (production loop) + store that may lose a reply
//!                                 |
//!   checks look at the World alone: what really ran where, and when it was shot
//! ```
//!
//! A failing seed prints itself; `SEED=n cargo test -p medevac-tests one_seed` replays it.

pub mod faults;
pub mod ports;
pub mod rng;
pub mod world;

pub use faults::{Fault, NovaFault, Schedule};
pub use rng::Rng;
pub use world::{Options, World};

use medevac_triage::{Aggregate, HostId, Receiver, RecoveryMethod, Settings};
use std::time::Duration;

/// Faults happen within this much simulated time.
const FAULTY_FOR: Duration = Duration::from_secs(180);
/// Then everything is repaired, and the site must be whole again within this.
const WHOLE_WITHIN: Duration = Duration::from_secs(1800);

/// Runs one seed: faults, repair, and the checks. The error is the story of what went wrong.
///
/// # Errors
/// The first violated property, with the log of the run.
pub fn run_seed(seed: u64) -> Result<Summary, String> {
    run_seed_with(seed, Options::default())
}

/// As [`run_seed`], with guards removed or other settings.
///
/// # Errors
/// The first violated property, with the log of the run.
pub fn run_seed_with(seed: u64, options: Options) -> Result<Summary, String> {
    let mut rng = Rng::new(seed);
    let hosts = 3 + rng.below(3) as usize;
    let guests = 2 + rng.below(7) as usize;
    let openstack = options.openstack;
    let options = with_receivers(with_reserve(options, &mut rng, hosts), seed);
    let mut world = World::new(rng.next(), hosts, guests, options);
    let mut schedule = Schedule::draw(&mut rng, hosts, guests, FAULTY_FOR);
    if openstack {
        schedule = schedule.with_nova(&mut rng, FAULTY_FOR);
    }
    if let Some((host, other)) = schedule.miswired {
        world.miswire(host, other);
    }
    world.run_for(Duration::from_secs(20));
    for (at, fault) in schedule.faults {
        world.run_until(at);
        world.inject(&fault);
    }
    world.run_for(Duration::from_secs(30));
    world.repair_everything();
    world.run_until_whole(WHOLE_WITHIN);
    world.verdict().map_err(|wrong| format!("seed {seed}: {wrong}\n{}", world.story()))
}

/// Some sites tell people of alerts, some tell nobody.
fn with_receivers(mut options: Options, seed: u64) -> Options {
    let receivers = match seed % 3 {
        0 => Vec::new(),
        1 => vec![Receiver { name: "ops".to_owned(), ..Receiver::default() }],
        _ => vec![
            Receiver { name: "ops".to_owned(), level: true, ..Receiver::default() },
            Receiver { name: "slow".to_owned(), ..Receiver::default() },
        ],
    };
    options.settings.get_or_insert_with(Settings::default).receivers = receivers;
    options
}

/// Some sites of Nova's keep hosts in reserve.
fn with_reserve(mut options: Options, rng: &mut Rng, hosts: usize) -> Options {
    if options.openstack && hosts > 3 && rng.once_in(2) {
        let (_, method, _) = RecoveryMethod::NAMED[rng.below(4) as usize];
        let settings = options.settings.get_or_insert_with(Settings::default);
        settings.recovery_method.insert("default".into(), method);
        options.reserved = (3 - usize::from(rng.once_in(3))..hosts).collect();
        let fast = (0..hosts).filter(|host| !options.reserved.contains(host));
        let hosts = fast.map(|host| HostId(format!("hv{}", host + 1))).collect();
        options.aggregates.push(Aggregate { name: "fast".to_owned(), hosts, ..Aggregate::default() });
    }
    options
}

/// What a run came to, so that a run in which nothing happens is noticed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    pub shot: u32,
    pub started: u32,
    pub aggregator_starts: u32,
}
