//! The made-up world: what is really so, whatever anybody believes. The checks
//! look here and nowhere else.

mod agents;
mod aggregator;
mod checks;
mod faults;
mod guests;
mod letters;
mod network;
mod nova;
mod power;
mod upkeep;

use super::ports::Shared;
use super::{Fault, NovaFault, Rng, Summary};
use medevac_aggregator::engine::{Engine, Input, Ports, Reload};
use medevac_triage::{
    Aggregate, BootId, Closer, CloudAct, CloudKind, Command, Device, Disk, Fact, FenceAnswer, Goodbye, Guards,
    Heartbeat, Hello, HostId, InstanceId, Inventory, Key, Look, Marks, Mode, Observation, Offer, Order, Outcome,
    Parting, Phase, PlaneId, Power, ProbeAnswer, ProbeReport, ProbeResult, ProbeTarget, Record, RunState, SegmentsBy,
    SessionId, Settings, Shown, StepId, StopReason, Through, Vantage, Word,
};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

pub const PLANES: [&str; 3] = ["mgmt", "storage", "tenant"];
/// A stream that has carried nothing for this long is given up by the agent.
const STREAM_PATIENCE: u64 = 10_000;
/// A host that has been in reach for this long has been in reach of a whole
/// round of probes: it may not be ordered off.
const IN_REACH: u64 = 2_500;

#[derive(Clone, Debug)]
pub struct Options {
    pub mode: Mode,
    pub guards: Guards,
    pub settings: Option<Settings>,
    /// No lost probes, no late turns: for scenarios.
    pub calm: bool,
    /// Configured planes, when not all three.
    pub planes: Option<BTreeSet<PlaneId>>,
    /// An operator vouches for the wiring of every power controller.
    pub pinned: bool,
    /// The guests are servers of Nova.
    pub openstack: bool,
    /// Hosts that are empty, and disabled in Nova.
    pub reserved: BTreeSet<usize>,
    /// Host aggregates of Nova's.
    pub aggregates: Vec<Aggregate>,
    pub written: Written,
    /// Hosts that nothing can switch off.
    pub without_device: BTreeSet<usize>,
}

/// Marks by guest; a seed draws some more on flavors.
#[derive(Clone, Debug, Default)]
pub struct Written {
    pub flavors: BTreeMap<usize, Marks>,
    /// An image that bears some is public, and this guest's alone.
    pub images: BTreeMap<usize, Marks>,
    /// Its own metadata, which its tenant writes.
    pub servers: BTreeMap<usize, Marks>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mode: Mode::Act,
            guards: Guards::default(),
            settings: None,
            calm: false,
            planes: None,
            pinned: false,
            openstack: false,
            reserved: BTreeSet::new(),
            aggregates: Vec::new(),
            written: Written::default(),
            without_device: BTreeSet::new(),
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
enum Bmc {
    #[default]
    Well,
    Unreachable,
    Lies,
    Shoots(usize),
    Slow,
}

#[derive(Debug, Default)]
struct Host {
    up: bool,
    power: bool,
    frozen: bool,
    boots: u32,
    booted_at: u64,
    agent: bool,
    session: Option<SessionId>,
    stalled: Vec<Observation>,
    stalled_since: Option<u64>,
    delivered_at: u64,
    planes: [bool; 3],
    deaf_side: bool,
    far_side: bool,
    bmc: Bmc,
    guests: BTreeMap<usize, i64>,
    defined: BTreeSet<usize>,
    autostart: BTreeSet<usize>,
    taken: BTreeSet<usize>,
    last_stop: BTreeMap<usize, StopReason>,
    outgoing: BTreeSet<usize>,
    incoming: BTreeSet<usize>,
    held: bool,
    mode: String,
    seq: u64,
    unacked: Vec<(u64, Fact)>,
    /// Shutdowns from inside that nobody has acknowledged yet.
    shutdowns: Vec<(u64, usize)>,
    results: BTreeMap<StepId, Outcome>,
    refuse_next: bool,
    lose_answer: bool,
    /// Its controller lied while nobody could reach it: beyond all evidence.
    lied_about: bool,
    /// The start of the aggregator that gave this boot's responder its key.
    keyed: u64,
    /// When it was last out of everybody's reach.
    lost_at: u64,
    /// No memory is left above the reserve.
    full: bool,
    /// It does not read the folder that the others share.
    bare: bool,
    libvirt_hangs: bool,
    /// What its agent says of its controller; `None`: nothing.
    controller: Option<Offer>,
}

/// Where a guest's disk lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Lies {
    #[default]
    Network,
    /// On its host alone.
    Local,
    /// In a file of a folder that hosts share, but for those that are bare.
    Shared,
}

#[derive(Debug, Default)]
struct Guest {
    /// Its user wants it to run; `None`: shut down when nobody could tell the aggregator.
    wanted: Option<bool>,
    disk: Lies,
    /// Its user has paused it, or has had its memory saved.
    still: Option<RunState>,
    /// What else binds it to its host, in an agent's words.
    bound: Option<String>,
}

#[derive(Debug)]
enum Event {
    Beat(usize, u32),
    Connect(usize, u32),
    Deliver(u64, Observation),
    Turn,
    Timer,
    StartAggregator,
    Boot(usize),
    ProbeDone { start: u64, round: u64, from: Vantage, targets: Vec<usize>, references: Vec<String> },
    FenceDone { start: u64, step: StepId, device: power::Wired },
    ReadDone { start: u64, host: usize, read: u64, device: power::Wired },
    PowerOn(usize),
    Arrive { host: usize, boot: u32, start: u64, command: Command },
    Migrated { guest: usize, from: (usize, u32), to: (usize, u32) },
    Started { host: usize, boot: u32, start: u64, step: StepId, guest: usize },
    Look,
    Operate,
    NovaReports,
    NovaClearsUp(usize, u32),
    NovaAnswers { start: u64, act: CloudAct },
    NovaMoves { at: usize, to: Option<usize>, tries: u32 },
}

struct Entry(u64, u64, Event);
impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

#[allow(missing_debug_implementations)]
pub struct World {
    rng: Rng,
    now: u64,
    events: BinaryHeap<Reverse<Entry>>,
    next_event: u64,
    hosts: Vec<Host>,
    guests: Vec<Guest>,
    engine: Option<Engine>,
    shared: Shared,
    inbox: Vec<Input>,
    turn_due: bool,
    paused_until: u64,
    settings: Settings,
    calm: bool,
    next_session: u64,
    next_pid: i64,
    next_token: u64,
    log: Vec<String>,
    violations: Vec<String>,
    operating: bool,
    beyond_evidence: bool,
    summary: Summary,
    nova: Option<nova::Nova>,
    mailbox: letters::Mailbox,
    reserved: BTreeSet<usize>,
    /// The last backup.
    saved: Vec<(Key, Record)>,
}

impl World {
    pub fn new(seed: u64, hosts: usize, guests: usize, options: Options) -> Self {
        let mut settings = options.settings.unwrap_or_default();
        settings.guards = options.guards;
        settings.default_mode = options.mode;
        if options.openstack {
            settings.cloud = CloudKind::Openstack;
            if settings.segments_by == SegmentsBy::All {
                settings.segments_by = SegmentsBy::AvailabilityZone;
            }
        }
        let all = || PLANES.iter().map(|plane| PlaneId::from(*plane)).collect();
        if !options.reserved.is_empty() {
            settings.reserved_hosts.insert("default".into(), options.reserved.iter().map(|host| id(*host)).collect());
        }
        settings.planes = options.planes.unwrap_or_else(all);
        for host in (0..hosts).filter(|host| !options.without_device.contains(host)) {
            let name = format!("bmc{}", host + 1);
            settings.devices.insert(id(host), Device::named(&name, options.pinned));
        }
        let mut world = Self {
            rng: Rng::new(seed),
            now: 0,
            events: BinaryHeap::new(),
            next_event: 0,
            hosts: (0..hosts).map(|_| Host { planes: [true; 3], ..Host::default() }).collect(),
            guests: (0..guests).map(|_| Guest { wanted: Some(true), ..Guest::default() }).collect(),
            engine: None,
            shared: Shared::default(),
            inbox: Vec::new(),
            turn_due: false,
            paused_until: 0,
            settings,
            calm: options.calm,
            next_session: 0,
            next_pid: 100,
            next_token: 0,
            log: Vec::new(),
            violations: Vec::new(),
            operating: false,
            beyond_evidence: false,
            summary: Summary::default(),
            nova: None,
            mailbox: letters::Mailbox::default(),
            reserved: options.reserved.clone(),
            saved: Vec::new(),
        };
        let homes: Vec<usize> = (0..hosts).filter(|host| !options.reserved.contains(host)).collect();
        for guest in 0..guests {
            let home = homes[guest % homes.len()];
            world.hosts[home].defined.insert(guest);
            world.hosts[home].autostart.insert(guest);
        }
        for host in 0..hosts {
            world.boot(host);
        }
        if options.openstack {
            world.found_nova(&options.written, options.aggregates);
        }
        world.at(0, Event::StartAggregator);
        world.at(0, Event::Look);
        world
    }

    // ---- time ----

    fn at(&mut self, after: u64, event: Event) {
        self.next_event += 1;
        self.events.push(Reverse(Entry(self.now + after, self.next_event, event)));
    }

    pub fn now(&self) -> Duration {
        Duration::from_millis(self.now)
    }

    pub fn run_for(&mut self, time: Duration) {
        self.run_until(self.now() + time);
    }

    pub fn run_until(&mut self, until: Duration) {
        let until = until.as_millis() as u64;
        while self.events.peek().is_some_and(|Reverse(entry)| entry.0 <= until) {
            let Some(Reverse(Entry(at, _, event))) = self.events.pop() else { break };
            self.now = at;
            self.shared.lock().now = at;
            self.happen(event);
        }
        self.now = self.now.max(until);
        self.shared.lock().now = self.now;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Beat(host, boot) => self.beat(host, boot),
            Event::Connect(host, boot) => self.connect(host, boot),
            Event::Deliver(start, observation) => self.deliver(start, observation),
            Event::Turn => self.turn(),
            Event::Timer => self.timer(),
            Event::StartAggregator => self.start_aggregator(),
            Event::Boot(host) => {
                // Switched off meanwhile, it stays off.
                if self.hosts[host].power {
                    self.boot(host);
                }
            }
            Event::ProbeDone { start, round, from, targets, references } => {
                self.probe_done(start, round, from, targets, references)
            }
            Event::FenceDone { start, step, device } => self.fence_done(start, step, &device),
            Event::ReadDone { start, host, read, device } => self.read_done(start, host, read, &device),
            Event::PowerOn(host) => {
                if !self.hosts[host].power {
                    self.hosts[host].power = true;
                    self.boot(host);
                }
            }
            Event::Arrive { host, boot, start, command } => self.arrive(host, boot, start, command),
            Event::Migrated { guest, from, to } => self.migrated(guest, from, to),
            Event::Started { host, boot, start, step, guest } => self.started(host, boot, start, step, guest),
            Event::Look => self.look(),
            Event::Operate => self.operate(),
            Event::NovaReports => self.nova_reports(),
            Event::NovaClearsUp(host, boot) => self.nova_clears_up(host, boot),
            Event::NovaAnswers { start, act } => self.nova_answers(start, act),
            Event::NovaMoves { at, to, tries } => self.nova_moves(at, to, tries),
        }
    }

    pub fn say(&mut self, text: String) {
        self.log.push(format!("{:>9.3}  {text}", self.now as f64 / 1000.0));
    }

    /// The last lines of what happened.
    pub fn story(&self) -> String {
        let from = self.log.len().saturating_sub(160);
        let mut story = self.log[from..].join("\n");
        if let Some(engine) = &self.engine {
            for host in engine.triage().host_views(engine.now()) {
                story.push_str(&format!("\n{}: {} {} {:?}", host.id, host.state, host.why, host.incident));
            }
            story.push_str(&format!("\n{:?}", self.shared.lock().replies.iter().rev().take(3).collect::<Vec<_>>()));
            for view in engine.triage().instance_views(engine.now()) {
                story.push_str(&format!(
                    "\n{}: {} last on {}, homes {:?}",
                    view.name, view.state, view.last_host, view.homes
                ));
            }
            for view in engine.triage().incident_views().into_iter().take(6) {
                let lines = engine.triage().explain(view.record.id, engine.now()).unwrap_or_default();
                story.push_str(&format!("\n--- {}\n{}", view.record.id, lines.join("\n")));
            }
        }
        story
    }

    fn violate(&mut self, what: String) {
        self.say(format!("VIOLATION {what}"));
        self.violations.push(what);
    }
}

fn id(host: usize) -> HostId {
    HostId(format!("hv{}", host + 1))
}

fn guest_id(guest: usize) -> InstanceId {
    InstanceId(format!("guest-{guest}"))
}

fn digest(instances: &BTreeMap<InstanceId, Shown>) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in format!("{instances:?}").bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}
