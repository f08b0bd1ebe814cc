//! What can go wrong, and a schedule of it drawn from the seed.

use super::Rng;
use medevac_triage::Offer;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// Power stays on, everything on it is dead.
    Crash(usize),
    /// As a crash, and its controller says off.
    Unplug(usize),
    /// Comes up again; a fresh boot.
    Boot(usize),
    /// Crash and boot by itself.
    Reboot(usize),
    /// Goodbye, guests shut down, then a boot.
    OrderlyReboot(usize),
    /// User space stands still, the kernel answers.
    Freeze(usize),
    Thaw(usize),
    KillAgent(usize),
    StartAgent(usize),
    CutPlane(usize, usize),
    HealPlane(usize, usize),
    /// What this host says no longer reaches anybody; it still hears.
    CutOneWay(usize),
    CutAll(usize),
    HealAll(usize),
    /// These hosts and the aggregator are on one side, the rest on the other.
    Split(Vec<usize>),
    HealSplit,
    KillAggregator,
    /// Every message until the next start of the aggregator is delivered late.
    PauseAggregator(Duration),
    /// The next commit is applied, or not, and its reply is lost.
    LoseCommit {
        applied: bool,
    },
    /// The aggregator dies after this many more commands have left.
    DieAfterCommands(u32),
    CrashGuest(usize),
    ShutDownGuest(usize),
    /// A live migration to this host begins.
    Migrate(usize, usize),
    BmcUnreachable(usize),
    BmcLies(usize),
    BmcSlow(usize),
    BmcWell(usize),
    /// Its agent says where its controller is.
    Offer(usize, Offer),
    /// The next start at this host is refused.
    RefuseStart(usize),
    /// The next answer of this host to an order is lost.
    LoseAnswer(usize),
    /// The control plane answers nothing but errors for so long.
    BreakNova(Duration),
    /// The next change at the control plane takes effect, and nobody is told.
    LoseNovaAnswer,
    /// The aggregator dies at its next evacuation: before the request leaves, or right after.
    DieAtEvacuation {
        before: bool,
    },
    /// This guest's disk lies on its host alone, from now on.
    LocalDisk(usize),
    /// This guest's disk is a file in a folder that hosts share.
    SharedFile(usize),
    /// This host no longer reads that folder.
    Unmount(usize),
    /// Something else binds this guest to its host, in the words of agents.
    Bind(usize, String),
    /// No memory is left above the reserve; there is again.
    Fill(usize),
    Drain(usize),
    /// libvirt takes calls and answers none; it answers again. Guests run on.
    HangLibvirt(usize),
    HealLibvirt(usize),
    /// A person starts a guest on a host, whatever runs elsewhere.
    StartByHand(usize, usize),
    Nova(NovaFault),
}

/// What a control plane and those who use it can do.
#[derive(Clone, Debug, PartialEq)]
pub enum NovaFault {
    /// The next request that changes something never arrives, and nobody is told.
    LoseRequest,
    /// The next evacuation is carried out, and nobody is told.
    LoseEvacuationAnswer,
    /// The next evacuations of this server end without a valid host.
    Fail {
        guest: usize,
        times: u32,
    },
    /// The next requests to evacuate this server meet a limit.
    Limit {
        guest: usize,
        times: u32,
    },
    /// The server is in this state until further notice.
    State {
        guest: usize,
        state: String,
    },
    /// Its owner deletes it.
    Delete(usize),
    /// Lists no longer name it, as when its cell is down; they do again.
    Hide(usize),
    Unhide(usize),
    /// Only nova-compute, on a host that is well.
    StopCompute(usize),
    StartCompute(usize),
    /// Its nova-compute on this host goes by another name.
    Rename(usize),
    /// An administrator, for a reason of his own.
    Disable(usize),
}

/// Faults and when they strike.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// A power controller wired to another host from the first day on.
    pub miswired: Option<(usize, usize)>,
    pub faults: Vec<(Duration, Fault)>,
}

impl Schedule {
    pub fn draw(rng: &mut Rng, hosts: usize, guests: usize, within: Duration) -> Self {
        let count = rng.between(1, 14);
        let mut faults = Vec::new();
        for _ in 0..count {
            let at = Duration::from_millis(20_000 + rng.below(within.as_millis() as u64));
            let fault = draw_one(rng, hosts, guests);
            if let Some((after, undo)) = undo(rng, &fault) {
                faults.push((at + after, undo));
            }
            faults.push((at, fault));
        }
        faults.sort_by_key(|(at, _)| *at);
        let host = rng.below(hosts as u64) as usize;
        let other = (host + 1 + rng.below(hosts as u64 - 1) as usize) % hosts;
        let miswired = rng.once_in(5).then_some((host, other));
        Self { miswired, faults }
    }
}

impl Schedule {
    /// The same, and what a control plane does of its own.
    pub fn with_nova(mut self, rng: &mut Rng, within: Duration) -> Self {
        for _ in 0..rng.below(10) {
            let at = Duration::from_millis(20_000 + rng.below(within.as_millis() as u64));
            let fault = match rng.below(4) {
                0 => Fault::DieAtEvacuation { before: rng.once_in(2) },
                1 => Fault::BreakNova(Duration::from_millis(rng.between(500, 60_000))),
                _ => Fault::LoseNovaAnswer,
            };
            self.faults.push((at, fault));
        }
        self.faults.sort_by_key(|(at, _)| *at);
        self
    }
}

fn draw_one(rng: &mut Rng, hosts: usize, guests: usize) -> Fault {
    let host = rng.below(hosts as u64) as usize;
    let guest = rng.below(guests as u64) as usize;
    let plane = rng.below(3) as usize;
    match rng.below(37) {
        0..=5 => Fault::Crash(host),
        6 => Fault::Unplug(host),
        7 | 8 => Fault::Reboot(host),
        9 => Fault::OrderlyReboot(host),
        10 | 11 => Fault::Freeze(host),
        12 | 13 => Fault::KillAgent(host),
        14 => Fault::CutPlane(host, plane),
        15 => Fault::CutOneWay(host),
        16 | 17 => Fault::CutAll(host),
        18 => Fault::Split((0..hosts).filter(|_| rng.once_in(2)).collect()),
        19 | 20 => Fault::KillAggregator,
        21 => Fault::PauseAggregator(Duration::from_millis(rng.between(300, 60_000))),
        22 => Fault::LoseCommit { applied: rng.once_in(2) },
        23 | 24 => Fault::DieAfterCommands(rng.below(30) as u32),
        25 => Fault::CrashGuest(guest),
        26 => Fault::ShutDownGuest(guest),
        27 => Fault::BmcUnreachable(host),
        28 => Fault::BmcLies(host),
        29..=31 => Fault::BmcSlow(host),
        32 => Fault::RefuseStart(host),
        33..=35 => Fault::Migrate(guest, host),
        _ => Fault::LoseAnswer(host),
    }
}

/// Most faults end by themselves after a while.
fn undo(rng: &mut Rng, fault: &Fault) -> Option<(Duration, Fault)> {
    let soon = Duration::from_millis(rng.between(500, 90_000));
    let undo = match fault {
        Fault::Freeze(host) => Fault::Thaw(*host),
        Fault::KillAgent(host) => Fault::StartAgent(*host),
        Fault::CutPlane(host, plane) => Fault::HealPlane(*host, *plane),
        Fault::CutOneWay(host) | Fault::CutAll(host) => Fault::HealAll(*host),
        Fault::Split(_) => Fault::HealSplit,
        Fault::BmcUnreachable(host) | Fault::BmcLies(host) | Fault::BmcSlow(host) => Fault::BmcWell(*host),
        Fault::Crash(host) if rng.once_in(3) => Fault::Boot(*host),
        _ => return None,
    };
    Some((soon, undo))
}
