//! The made-up world: what is really so, whatever anybody believes. The checks
//! look here and nowhere else.

use super::ports::Shared;
use super::{Fault, Rng, Summary};
use medevac_aggregator::engine::{Engine, Input, Ports};
use medevac_triage::{
    BootId, Closer, Command, Device, Disk, Fact, FenceAnswer, Goodbye, Guards, Heartbeat, Hello, HostId, InstanceId,
    Inventory, Mode, Observation, Order, Outcome, Parting, Phase, PlaneId, Power, ProbeAnswer, ProbeReport,
    ProbeResult, ProbeTarget, Record, RunState, SessionId, Settings, Shown, StepId, StopReason, Vantage, Word,
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
}

impl Default for Options {
    fn default() -> Self {
        Self { mode: Mode::Act, guards: Guards::default(), settings: None, calm: false, planes: None, pinned: false }
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
}

#[derive(Debug)]
struct Guest {
    /// Its user wants it to run; `None`: shut down when nobody could tell the aggregator.
    wanted: Option<bool>,
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
    FenceDone { start: u64, step: StepId, host: usize },
    ReadDone { start: u64, host: usize, read: u64 },
    PowerOn(usize),
    Arrive { host: usize, boot: u32, start: u64, command: Command },
    Migrated { guest: usize, from: (usize, u32), to: (usize, u32) },
    Started { host: usize, boot: u32, start: u64, step: StepId, guest: usize },
    Look,
    Operate,
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
}

impl World {
    pub fn new(seed: u64, hosts: usize, guests: usize, options: Options) -> Self {
        let mut settings = options.settings.unwrap_or_default();
        settings.guards = options.guards;
        settings.default_mode = options.mode;
        let all = || PLANES.iter().map(|plane| PlaneId::from(*plane)).collect();
        settings.planes = options.planes.unwrap_or_else(all);
        for host in 0..hosts {
            let name = format!("bmc{}", host + 1);
            settings.devices.insert(id(host), Device { name, pinned: options.pinned });
        }
        let mut world = Self {
            rng: Rng::new(seed),
            now: 0,
            events: BinaryHeap::new(),
            next_event: 0,
            hosts: (0..hosts).map(|_| Host { planes: [true; 3], ..Host::default() }).collect(),
            guests: (0..guests).map(|_| Guest { wanted: Some(true) }).collect(),
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
        };
        for guest in 0..guests {
            let home = guest % hosts;
            world.hosts[home].defined.insert(guest);
            world.hosts[home].autostart.insert(guest);
        }
        for host in 0..hosts {
            world.boot(host);
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
            Event::FenceDone { start, step, host } => self.fence_done(start, step, host),
            Event::ReadDone { start, host, read } => {
                let power = self.read_bmc(host);
                self.tell(start, Observation::PowerRead { host: id(host), read, power });
            }
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

    // ---- network ----

    /// Packets from one host reach another (`None` is the aggregator) on a plane.
    fn carries(&self, from: Option<usize>, to: Option<usize>, plane: usize) -> bool {
        let up = |node: Option<usize>| node.is_none_or(|host| self.hosts[host].planes[plane]);
        let side = |node: Option<usize>| node.is_some_and(|host| self.hosts[host].far_side);
        let mute = from.is_some_and(|host| self.hosts[host].deaf_side);
        up(from) && up(to) && side(from) == side(to) && !mute
    }

    fn path(&self, a: Option<usize>, b: Option<usize>, plane: usize) -> bool {
        self.carries(a, b, plane) && self.carries(b, a, plane)
    }

    /// What a probe of `target` gets, were no packet lost by chance.
    fn answer(&self, from: Option<usize>, target: usize, plane: usize) -> ProbeAnswer {
        let host = &self.hosts[target];
        if !host.up || !self.path(from, Some(target), plane) {
            return ProbeAnswer::Nothing;
        }
        if host.frozen { ProbeAnswer::KernelOnly } else { ProbeAnswer::UserSpace }
    }

    // ---- agents ----

    fn boot_id(&self, host: usize) -> BootId {
        BootId(format!("boot-{}-{}", host + 1, self.hosts[host].boots))
    }

    fn boot(&mut self, host: usize) {
        if self.hosts[host].up {
            return;
        }
        let start_here: Vec<usize> = self.hosts[host].autostart.iter().copied().collect();
        let jitter = self.rng.between(200, 3000);
        let now = self.now;
        let h = &mut self.hosts[host];
        h.boots += 1;
        h.up = true;
        h.power = true;
        h.frozen = false;
        h.booted_at = now;
        h.agent = true;
        h.seq = 0;
        h.keyed = 0;
        h.lied_about = false;
        h.unacked.clear();
        h.shutdowns.clear();
        h.last_stop.clear();
        h.guests.clear();
        h.outgoing.clear();
        h.incoming.clear();
        h.held = h.boots > 1 && (h.mode == "act" || h.mode == "approve");
        h.session = None;
        h.stalled.clear();
        let boot = h.boots;
        self.say(format!("hv{} boots, boot {boot}", host + 1));
        for guest in start_here {
            self.run_guest(host, guest);
        }
        self.at(jitter, Event::Connect(host, boot));
        self.at(1000 + jitter, Event::Beat(host, boot));
    }

    fn die(&mut self, host: usize, power: bool) {
        let h = &mut self.hosts[host];
        h.up = false;
        h.frozen = false;
        h.power = power;
        h.guests.clear();
        h.outgoing.clear();
        h.incoming.clear();
        h.agent = false;
        h.session = None;
        h.stalled.clear();
        h.stalled_since = None;
    }

    fn agent_runs(&self, host: usize, boot: u32) -> bool {
        let h = &self.hosts[host];
        h.up && h.agent && !h.frozen && h.boots == boot
    }

    fn connect(&mut self, host: usize, boot: u32) {
        let h = &self.hosts[host];
        if !h.up || !h.agent || h.boots != boot || h.session.is_some() {
            return;
        }
        let start = self.shared.lock().epoch;
        let reaches = self.path(Some(host), None, 0) && self.engine.is_some() && self.paused_until <= self.now;
        if h.frozen || !reaches {
            let again = self.rng.between(200, 5000);
            return self.at(again, Event::Connect(host, boot));
        }
        self.next_session += 1;
        let session = SessionId(format!("s{}", self.next_session));
        let hello = self.hello(host, session.clone());
        let h = &mut self.hosts[host];
        h.session = Some(session);
        h.keyed = start;
        h.stalled.clear();
        h.stalled_since = None;
        let delay = self.rng.between(1, 20);
        self.at(delay, Event::Deliver(start, Observation::SessionOpened(Box::new(hello))));
        for (seq, fact) in self.hosts[host].unacked.clone() {
            self.send_fact(host, seq, fact);
        }
    }

    fn hello(&self, host: usize, session: SessionId) -> Hello {
        let h = &self.hosts[host];
        Hello {
            host: id(host),
            session,
            machine: format!("machine-{}", host + 1),
            boot: self.boot_id(host),
            uptime: Duration::from_millis(self.now - h.booted_at),
            previous_boots: (1..h.boots).rev().map(|boot| BootId(format!("boot-{}-{boot}", host + 1))).collect(),
            planes: PLANES.iter().map(|plane| (PlaneId::from(*plane), format!("{plane}-{}", host + 1))).collect(),
            held: h.held,
            inventory: self.inventory(host),
            memory_total_kib: 64 << 20,
            memory_available_kib: 32 << 20,
            warnings: Vec::new(),
            highest_epoch: None,
        }
    }

    fn inventory(&self, host: usize) -> Inventory {
        let h = &self.hosts[host];
        let known: BTreeSet<usize> = h.defined.iter().chain(h.guests.keys()).chain(&h.incoming).copied().collect();
        let instances: BTreeMap<InstanceId, Shown> =
            known.into_iter().map(|guest| (guest_id(guest), self.shown(host, guest))).collect();
        Inventory { digest: digest(&instances), libvirt_answered: true, instances, storage: BTreeMap::new() }
    }

    fn shown(&self, host: usize, guest: usize) -> Shown {
        let h = &self.hosts[host];
        let pid = h.guests.get(&guest).copied();
        Shown {
            known: true,
            name: format!("vm{}", guest + 1),
            state: match pid {
                Some(_) => RunState::Running,
                None if h.incoming.contains(&guest) => RunState::Incoming,
                None => RunState::Stopped,
            },
            outgoing: h.outgoing.contains(&guest),
            pid: pid.unwrap_or(0),
            pid_start: pid.unwrap_or(0) as u64,
            persistent: h.defined.contains(&guest),
            autostart: h.autostart.contains(&guest),
            autostart_taken: h.taken.contains(&guest),
            memory_kib: 1 << 20,
            xml_hash: format!("xml-{guest}"),
            disks: vec![Disk { path: format!("nbd://store/vm{}", guest + 1), network: true, marker: None }],
            last_stop: h.last_stop.get(&guest).copied().unwrap_or_default(),
            ..Shown::default()
        }
    }

    fn beat(&mut self, host: usize, boot: u32) {
        if !self.hosts[host].up || self.hosts[host].boots != boot {
            return;
        }
        let jitter = self.rng.between(0, 40);
        self.at(980 + jitter, Event::Beat(host, boot));
        if !self.agent_runs(host, boot) {
            return;
        }
        let Some(session) = self.hosts[host].session.clone() else { return };
        let heartbeat = Heartbeat {
            host: id(host),
            session,
            digest: self.inventory(host).digest,
            memory_available_kib: 32 << 20,
            held: self.hosts[host].held,
            libvirt_answers: true,
        };
        self.send(host, Observation::HeartbeatArrived(heartbeat));
    }

    /// Over the host's stream: in order, delayed while the path is cut, lost with the stream.
    fn send(&mut self, host: usize, observation: Observation) {
        if self.hosts[host].session.is_none() || !self.hosts[host].agent {
            return;
        }
        let start = self.shared.lock().epoch;
        if !self.path(Some(host), None, 0) {
            let now = self.now;
            let h = &mut self.hosts[host];
            h.stalled.push(observation);
            let since = *h.stalled_since.get_or_insert(now);
            if now - since > STREAM_PATIENCE {
                self.drop_stream(host);
            }
            return;
        }
        self.hosts[host].stalled_since = None;
        let mut waiting = std::mem::take(&mut self.hosts[host].stalled);
        waiting.push(observation);
        for observation in waiting {
            let delay = self.rng.between(1, 30);
            let at = (self.now + delay).max(self.hosts[host].delivered_at + 1);
            self.hosts[host].delivered_at = at;
            self.at(at - self.now, Event::Deliver(start, observation));
        }
    }

    fn drop_stream(&mut self, host: usize) {
        let boot = self.hosts[host].boots;
        let h = &mut self.hosts[host];
        h.session = None;
        h.stalled.clear();
        h.stalled_since = None;
        let again = self.rng.between(200, 5000);
        self.at(again, Event::Connect(host, boot));
    }

    fn send_inventory(&mut self, host: usize, answers: Option<u64>) {
        let Some(session) = self.hosts[host].session.clone() else { return };
        let (boot, inventory) = (self.boot_id(host), self.inventory(host));
        self.send(host, Observation::InventoryArrived { host: id(host), session, boot, inventory, answers });
    }

    fn fact(&mut self, host: usize, fact: Fact) {
        let h = &mut self.hosts[host];
        h.seq += 1;
        let seq = h.seq;
        h.unacked.push((seq, fact.clone()));
        self.send_fact(host, seq, fact);
    }

    fn send_fact(&mut self, host: usize, seq: u64, fact: Fact) {
        let Some(session) = self.hosts[host].session.clone() else { return };
        let boot = self.boot_id(host);
        self.send(host, Observation::FactArrived { host: id(host), session, boot, seq, fact });
    }

    /// What becomes of an order that has reached its host.
    fn arrive(&mut self, host: usize, boot: u32, start: u64, command: Command) {
        if !self.agent_runs(host, boot) || !self.path(Some(host), None, 0) {
            return;
        }
        let number = |guest: &InstanceId| guest.as_str().trim_start_matches("guest-").parse::<usize>().unwrap_or(0);
        match command {
            Command::AskInventory { ask, .. } => self.send_inventory(host, Some(ask)),
            Command::AskXml { hashes, .. } => {
                for hash in hashes {
                    self.send(
                        host,
                        Observation::XmlArrived { host: id(host), xml: format!("<domain>{hash}</domain>"), hash },
                    );
                }
            }
            Command::Acknowledge { seq, .. } => {
                self.hosts[host].unacked.retain(|(unacked, _)| *unacked > seq);
                let told = std::mem::take(&mut self.hosts[host].shutdowns);
                for (at, guest) in told {
                    if at <= seq {
                        self.guests[guest].wanted = Some(false);
                    } else {
                        self.hosts[host].shutdowns.push((at, guest));
                    }
                }
            }
            Command::Care { care, .. } => {
                let h = &mut self.hosts[host];
                h.mode.clone_from(&care.mode);
                if care.mode != "observe" {
                    let taken: Vec<usize> =
                        h.autostart.iter().copied().filter(|g| care.protected.contains(&guest_id(*g))).collect();
                    for guest in taken {
                        h.autostart.remove(&guest);
                        h.taken.insert(guest);
                    }
                }
            }
            Command::Order { step, boot: for_boot, order, .. } => {
                if let Some(first) = self.hosts[host].results.get(&step).cloned() {
                    return self.answer_order(host, start, step, first);
                }
                if for_boot != self.boot_id(host) {
                    let refused = Outcome::Refused { reason: "other_boot".to_owned(), detail: String::new() };
                    return self.answer_order(host, start, step, refused);
                }
                match order {
                    Order::Start { instance, .. } => {
                        let delay = self.rng.between(50, 900);
                        self.at(delay, Event::Started { host, boot, start, step, guest: number(&instance) });
                    }
                    Order::Remove { instance } => {
                        let guest = number(&instance);
                        let runs = self.hosts[host].guests.contains_key(&guest);
                        let outcome = if runs {
                            Outcome::Refused { reason: "running".to_owned(), detail: String::new() }
                        } else {
                            self.hosts[host].defined.remove(&guest);
                            self.hosts[host].taken.remove(&guest);
                            Outcome::Done { detail: String::new() }
                        };
                        self.finish_order(host, start, step, outcome);
                    }
                    Order::ReleaseHold { .. } => {
                        self.hosts[host].held = false;
                        self.finish_order(host, start, step, Outcome::Done { detail: String::new() });
                    }
                    Order::DestroyIncoming { instance } => {
                        self.hosts[host].incoming.remove(&number(&instance));
                        self.finish_order(host, start, step, Outcome::Done { detail: String::new() });
                    }
                    Order::Leave { .. } => {
                        self.finish_order(host, start, step, Outcome::Done { detail: String::new() });
                    }
                }
            }
            _ => {}
        }
    }

    fn started(&mut self, host: usize, boot: u32, start: u64, step: StepId, guest: usize) {
        if !self.agent_runs(host, boot) || self.hosts[host].results.contains_key(&step) {
            return;
        }
        let outcome = if std::mem::take(&mut self.hosts[host].refuse_next) {
            Outcome::Refused { reason: "xml_rejected".to_owned(), detail: "simulated".to_owned() }
        } else {
            if !self.hosts[host].guests.contains_key(&guest) {
                self.hosts[host].defined.insert(guest);
                self.run_guest(host, guest);
                self.summary.started += 1;
            }
            Outcome::Done { detail: String::new() }
        };
        self.finish_order(host, start, step, outcome);
    }

    fn finish_order(&mut self, host: usize, start: u64, step: StepId, outcome: Outcome) {
        self.hosts[host].results.insert(step, outcome.clone());
        self.answer_order(host, start, step, outcome);
        self.send_inventory(host, None);
    }

    fn answer_order(&mut self, host: usize, start: u64, step: StepId, outcome: Outcome) {
        if std::mem::take(&mut self.hosts[host].lose_answer) {
            return self.say(format!("hv{}: answer to {step} lost", host + 1));
        }
        if self.shared.lock().epoch == start {
            self.send(host, Observation::OrderAnswered { host: id(host), step, outcome });
        }
    }

    // ---- guests ----

    fn run_guest(&mut self, host: usize, guest: usize) {
        self.next_pid += 1;
        let pid = self.next_pid;
        let elsewhere =
            (0..self.hosts.len()).find(|other| *other != host && self.hosts[*other].guests.contains_key(&guest));
        self.hosts[host].guests.insert(guest, pid);
        self.hosts[host].last_stop.remove(&guest);
        self.say(format!("vm{} runs on hv{}", guest + 1, host + 1));
        if let Some(other) = elsewhere {
            if self.hosts[other].lied_about {
                self.beyond_evidence = true;
                return;
            }
            self.violate(format!("vm{} was started on hv{} while it ran on hv{}", guest + 1, host + 1, other + 1));
        }
    }

    /// A live migration: the target's copy waits until the source hands over.
    fn migrate(&mut self, guest: usize, to: usize) {
        let Some(from) = (0..self.hosts.len()).find(|host| self.hosts[*host].guests.contains_key(&guest)) else {
            return;
        };
        let able = |host: usize| self.hosts[host].up && !self.hosts[host].frozen;
        if from == to || !able(from) || !able(to) || !self.path(Some(from), Some(to), 2) {
            return;
        }
        self.hosts[from].outgoing.insert(guest);
        self.hosts[to].incoming.insert(guest);
        self.send_inventory(from, None);
        self.send_inventory(to, None);
        let takes = self.rng.between(500, 8000);
        let boots = (self.hosts[from].boots, self.hosts[to].boots);
        self.at(takes, Event::Migrated { guest, from: (from, boots.0), to: (to, boots.1) });
    }

    fn migrated(&mut self, guest: usize, from: (usize, u32), to: (usize, u32)) {
        let lives = |(host, boot): (usize, u32)| self.hosts[host].up && self.hosts[host].boots == boot;
        let (source_lives, target_lives) = (lives(from), lives(to));
        let source_runs = source_lives && self.hosts[from.0].guests.contains_key(&guest);
        let stuck = self.hosts[from.0].frozen || self.hosts[to.0].frozen || !self.path(Some(from.0), Some(to.0), 2);
        let whole = target_lives && self.hosts[to.0].incoming.contains(&guest);
        if source_runs && whole && stuck {
            return self.at(1000, Event::Migrated { guest, from, to });
        }
        if source_lives {
            self.hosts[from.0].outgoing.remove(&guest);
        }
        if source_runs && whole {
            self.hosts[from.0].guests.remove(&guest);
            self.hosts[from.0].defined.remove(&guest);
            self.hosts[to.0].incoming.remove(&guest);
            self.hosts[to.0].defined.insert(guest);
            self.run_guest(to.0, guest);
            self.send_inventory(to.0, None);
        } else if target_lives && self.rng.once_in(2) {
            // Its source is gone: the waiting copy mostly ends by itself.
            self.hosts[to.0].incoming.remove(&guest);
            self.send_inventory(to.0, None);
        }
        if source_lives {
            self.send_inventory(from.0, None);
        }
    }

    fn end_guest(&mut self, guest: usize, reason: StopReason) {
        let Some(host) =
            (0..self.hosts.len()).find(|host| self.hosts[*host].up && self.hosts[*host].guests.contains_key(&guest))
        else {
            return;
        };
        if self.hosts[host].frozen {
            return;
        }
        let pid = self.hosts[host].guests.remove(&guest).unwrap_or(0);
        self.hosts[host].last_stop.insert(guest, reason);
        if reason == StopReason::GuestShutdown {
            // Whether it stays down depends on whether anybody could be told in time.
            self.guests[guest].wanted = None;
        }
        self.say(format!("vm{} ends on hv{}: {reason:?}", guest + 1, host + 1));
        let instance = guest_id(guest);
        if self.hosts[host].agent {
            self.fact(host, Fact::InstanceGone { instance: instance.clone(), pid, pid_start: pid as u64 });
            self.fact(
                host,
                Fact::InstanceStopped { instance, reason, pid, pid_start: pid as u64, host_shutting_down: false },
            );
            if reason == StopReason::GuestShutdown {
                let seq = self.hosts[host].seq;
                self.hosts[host].shutdowns.push((seq, guest));
            }
            self.send_inventory(host, None);
        }
    }

    // ---- the aggregator ----

    fn start_aggregator(&mut self) {
        if self.engine.is_some() {
            return;
        }
        let skew = self.rng.below(1 << 40);
        {
            let mut state = self.shared.lock();
            state.epoch += 1;
            state.skew = skew;
            state.outbox.clear();
            state.commands_left = None;
            state.lose_commit = None;
            state.died = false;
        }
        let port = || Box::new(self.shared.clone());
        let ports = Ports {
            clock: port(),
            store: port(),
            lease: port(),
            agents: port(),
            cloud: port(),
            fencer: port(),
            looker: port(),
            replies: port(),
        };
        self.engine = Some(Engine::start(self.settings.clone(), ports).expect("the simulated store reads back"));
        self.inbox.clear();
        self.paused_until = 0;
        self.summary.aggregator_starts += 1;
        self.say(format!("the aggregator starts, epoch {}", self.shared.lock().epoch));
        self.turn_soon();
    }

    fn kill_aggregator(&mut self, why: &str) {
        if self.engine.take().is_none() {
            return;
        }
        self.say(format!("the aggregator dies: {why}"));
        self.inbox.clear();
        self.paused_until = 0;
        for host in 0..self.hosts.len() {
            if self.hosts[host].session.is_some() {
                self.drop_stream(host);
            }
        }
        let down = self.rng.between(1000, 15_000);
        self.at(down, Event::StartAggregator);
    }

    fn tell(&mut self, start: u64, observation: Observation) {
        let delay = self.rng.between(1, 5);
        self.at(delay, Event::Deliver(start, observation));
    }

    fn deliver(&mut self, start: u64, observation: Observation) {
        if self.engine.is_none() || self.shared.lock().epoch != start {
            return;
        }
        self.inbox.push(Input::Seen(observation));
        self.turn_soon();
    }

    fn turn_soon(&mut self) {
        if !self.turn_due {
            self.turn_due = true;
            let wait = self.paused_until.saturating_sub(self.now).max(1);
            self.at(wait, Event::Turn);
        }
    }

    fn timer(&mut self) {
        let due = self.engine.as_ref().and_then(Engine::poll_timeout);
        let skew = self.shared.lock().skew;
        if due.is_some_and(|due| due.0 <= self.now + skew) {
            self.turn_soon();
        }
    }

    fn turn(&mut self) {
        self.turn_due = false;
        if self.paused_until > self.now {
            return self.turn_soon();
        }
        let inputs = std::mem::take(&mut self.inbox);
        let Some(engine) = self.engine.as_mut() else { return };
        let result = engine.turn(inputs);
        let (outbox, died, start, skew) = {
            let mut state = self.shared.lock();
            (std::mem::take(&mut state.outbox), state.died, state.epoch, state.skew)
        };
        for command in outbox {
            self.carry(start, command);
        }
        if let Err(error) = result {
            return self.kill_aggregator(&error.to_string());
        }
        if died {
            return self.kill_aggregator("between two commands");
        }
        if let Some(due) = self.engine.as_ref().and_then(Engine::poll_timeout) {
            let late = if self.calm { 0 } else { self.rng.below(20) };
            let wait = due.0.saturating_sub(self.now + skew) + late;
            self.at(wait.max(1), Event::Timer);
        }
    }

    /// A command has left the aggregator.
    fn carry(&mut self, start: u64, command: Command) {
        let lookup = |name: &HostId| name.as_str().trim_start_matches("hv").parse::<usize>().map_or(0, |n| n - 1);
        let soon = self.rng.between(1, 15);
        match command {
            Command::Probe { round, witness, targets } => {
                let witness = lookup(&witness);
                let targets = targets.keys().map(lookup).collect();
                if self.agent_runs(witness, self.hosts[witness].boots) && self.path(Some(witness), None, 0) {
                    self.ask_probe(start, round, Vantage::Peer(id(witness)), targets, Vec::new());
                }
            }
            Command::ProbeReference { round, witness, references } => {
                let witness = lookup(&witness);
                if self.agent_runs(witness, self.hosts[witness].boots) && self.path(Some(witness), None, 0) {
                    self.ask_probe(start, round, Vantage::Peer(id(witness)), Vec::new(), references);
                }
            }
            Command::ProbeSelf { round, targets, references } => {
                let targets = targets.keys().map(lookup).collect();
                self.ask_probe(start, round, Vantage::Own, targets, references);
            }
            Command::ReadPower { host, read } => {
                let host = lookup(&host);
                let takes = if self.hosts[host].bmc == Bmc::Unreachable { 5000 } else { 220 };
                self.at(takes, Event::ReadDone { start, host, read });
            }
            Command::FenceOff { step, host } => {
                let host = lookup(&host);
                self.check_shot(host);
                let takes = match self.hosts[host].bmc {
                    Bmc::Slow => 15_000,
                    Bmc::Unreachable => 10_000,
                    _ => 2_500,
                };
                self.at(takes, Event::FenceDone { start, step, host });
            }
            Command::PowerOn { host } => self.at(2000, Event::PowerOn(lookup(&host))),
            Command::Order { ref host, ref session, step, ref order, .. } => {
                let at = lookup(host);
                self.say(format!("order {step} to {host}: {order:?}"));
                let connected = self.hosts[at].session.as_ref() == Some(session) && self.path(Some(at), None, 0);
                if connected {
                    let boot = self.hosts[at].boots;
                    self.at(soon, Event::Arrive { host: at, boot, start, command });
                } else if self.hosts[at].session.as_ref() != Some(session) {
                    self.tell(
                        start,
                        Observation::OrderAnswered { host: host.clone(), step, outcome: Outcome::NotSent },
                    );
                }
            }
            Command::AskInventory { ref host, ref session, .. }
            | Command::AskXml { ref host, ref session, .. }
            | Command::Acknowledge { ref host, ref session, .. }
            | Command::Care { ref host, ref session, .. } => {
                let at = lookup(host);
                if self.hosts[at].session.as_ref() == Some(session) && self.path(Some(at), None, 0) {
                    let boot = self.hosts[at].boots;
                    self.at(soon, Event::Arrive { host: at, boot, start, command });
                }
            }
            Command::CloseSession { host, session, .. } => {
                let at = lookup(&host);
                if self.hosts[at].session.as_ref() == Some(&session) {
                    self.drop_stream(at);
                }
            }
        }
    }

    fn ask_probe(&mut self, start: u64, round: u64, from: Vantage, targets: Vec<usize>, references: Vec<String>) {
        let node = self.node(&from);
        let all = targets
            .iter()
            .all(|target| (0..3).all(|plane| self.answer(node, *target, plane) == ProbeAnswer::UserSpace));
        let takes = if all { 40 } else { 810 };
        self.at(takes, Event::ProbeDone { start, round, from, targets, references });
    }

    fn node(&self, from: &Vantage) -> Option<usize> {
        match from {
            Vantage::Own => None,
            Vantage::Peer(host) => host.as_str().trim_start_matches("hv").parse::<usize>().ok().map(|n| n - 1),
        }
    }

    fn probe_done(&mut self, start: u64, round: u64, from: Vantage, targets: Vec<usize>, references: Vec<String>) {
        let node = self.node(&from);
        if node.is_some_and(|host| !self.agent_runs(host, self.hosts[host].boots)) {
            return;
        }
        let mut results = Vec::new();
        for target in targets {
            for (plane, name) in PLANES.iter().enumerate() {
                let lost = !self.calm && self.rng.once_in(150);
                let answer = if lost { ProbeAnswer::Nothing } else { self.answer(node, target, plane) };
                let user = answer == ProbeAnswer::UserSpace;
                let keyed = self.hosts[target].agent && self.hosts[target].keyed == start;
                let boot = (user && keyed).then(|| self.boot_id(target));
                results.push(ProbeResult {
                    target: ProbeTarget::Host(id(target)),
                    plane: PlaneId::from(*name),
                    answer,
                    boot,
                    banner: user,
                });
            }
        }
        for reference in references {
            let answer =
                if node.is_none() || self.path(node, None, 1) { ProbeAnswer::KernelOnly } else { ProbeAnswer::Nothing };
            let target = ProbeTarget::Reference(reference);
            results.push(ProbeResult { target, plane: PlaneId::from("storage"), answer, boot: None, banner: false });
        }
        let report = Observation::ProbeReported(ProbeReport { round, from, results });
        match node {
            None => self.tell(start, report),
            Some(host) => self.send(host, report),
        }
    }

    // ---- power ----

    fn read_bmc(&mut self, host: usize) -> Power {
        let h = &mut self.hosts[host];
        h.lied_about |= h.bmc == Bmc::Lies && h.up && self.now < h.lost_at + 1000;
        let power = |host: usize| if self.hosts[host].power { Power::On } else { Power::Off };
        match self.hosts[host].bmc {
            Bmc::Well | Bmc::Slow => power(host),
            Bmc::Unreachable => Power::Unknown,
            Bmc::Lies => Power::Off,
            Bmc::Shoots(other) => power(other),
        }
    }

    fn fence_done(&mut self, start: u64, step: StepId, host: usize) {
        match self.hosts[host].bmc {
            Bmc::Well | Bmc::Slow => self.switch_off(host),
            Bmc::Unreachable | Bmc::Lies => {}
            Bmc::Shoots(other) => self.switch_off(other),
        }
        let power = self.read_bmc(host);
        let device = format!("bmc{}", host + 1);
        let detail = format!("status says {power:?}").to_lowercase();
        let answer = FenceAnswer { power, device, detail, nothing_sent: false };
        self.tell(start, Observation::FenceAnswered { step, answer });
    }

    fn switch_off(&mut self, host: usize) {
        self.say(format!("hv{} is switched off", host + 1));
        self.die(host, false);
    }

    /// Nobody may be ordered off whom somebody could have heard a moment ago.
    fn check_shot(&mut self, host: usize) {
        self.summary.shot += 1;
        self.say(format!("hv{} is ordered off", host + 1));
        let within = self.now - self.hosts[host].lost_at;
        if self.hosts[host].up && !self.hosts[host].frozen && within > IN_REACH {
            self.violate(format!("hv{} was ordered off although it had been in reach for {within} ms", host + 1));
        }
    }

    /// Keeps the truth about who is in reach.
    fn look(&mut self) {
        self.at(250, Event::Look);
        for host in 0..self.hosts.len() {
            let h = &self.hosts[host];
            if !h.up || h.frozen {
                self.hosts[host].lost_at = self.now;
                continue;
            }
            let by_us = (0..3).any(|plane| self.path(Some(host), None, plane));
            let by_peer = (0..self.hosts.len()).any(|peer| {
                peer != host
                    && self.agent_runs(peer, self.hosts[peer].boots)
                    && self.path(Some(peer), None, 0)
                    && (0..3).any(|plane| self.path(Some(host), Some(peer), plane))
            });
            if !by_us && !by_peer {
                self.hosts[host].lost_at = self.now;
            }
        }
    }

    // ---- faults and repair ----

    pub fn inject(&mut self, fault: &Fault) {
        self.say(format!("FAULT {fault:?}"));
        match fault.clone() {
            Fault::Crash(host) => {
                let power = self.hosts[host].power;
                self.die(host, power);
            }
            Fault::Unplug(host) => self.die(host, false),
            Fault::Boot(host) => {
                if self.hosts[host].power {
                    self.boot(host);
                }
            }
            Fault::Reboot(host) => {
                if self.hosts[host].up {
                    self.die(host, true);
                    let takes = self.rng.between(300, 60_000);
                    self.at(takes, Event::Boot(host));
                }
            }
            Fault::OrderlyReboot(host) => self.orderly_reboot(host),
            Fault::Freeze(host) => self.hosts[host].frozen = self.hosts[host].up,
            Fault::Thaw(host) => {
                self.hosts[host].frozen = false;
                if self.hosts[host].session.is_none() {
                    self.at(500, Event::Connect(host, self.hosts[host].boots));
                }
            }
            Fault::KillAgent(host) => self.kill_agent(host),
            Fault::StartAgent(host) => {
                if self.hosts[host].up && !self.hosts[host].agent {
                    self.hosts[host].agent = true;
                    self.at(500, Event::Connect(host, self.hosts[host].boots));
                }
            }
            Fault::CutPlane(host, plane) => self.hosts[host].planes[plane] = false,
            Fault::HealPlane(host, plane) => self.hosts[host].planes[plane] = true,
            Fault::CutOneWay(host) => self.hosts[host].deaf_side = true,
            Fault::CutAll(host) => self.hosts[host].planes = [false; 3],
            Fault::HealAll(host) => {
                self.hosts[host].planes = [true; 3];
                self.hosts[host].deaf_side = false;
            }
            Fault::Split(near) => {
                for host in 0..self.hosts.len() {
                    self.hosts[host].far_side = !near.contains(&host);
                }
            }
            Fault::HealSplit => self.hosts.iter_mut().for_each(|host| host.far_side = false),
            Fault::KillAggregator => self.kill_aggregator("kill -9"),
            Fault::PauseAggregator(time) => self.paused_until = self.now + time.as_millis() as u64,
            Fault::LoseCommit { applied } => self.shared.lock().lose_commit = Some(applied),
            Fault::DieAfterCommands(count) => self.shared.lock().commands_left = Some(count),
            Fault::CrashGuest(guest) => self.end_guest(guest, StopReason::Crashed),
            Fault::Migrate(guest, host) => self.migrate(guest, host),
            Fault::ShutDownGuest(guest) => self.end_guest(guest, StopReason::GuestShutdown),
            Fault::BmcUnreachable(host) => self.break_bmc(host, Bmc::Unreachable),
            Fault::BmcLies(host) => self.break_bmc(host, Bmc::Lies),
            Fault::BmcSlow(host) => self.break_bmc(host, Bmc::Slow),
            Fault::BmcWell(host) => self.repair_bmc(host),
            Fault::RefuseStart(host) => self.hosts[host].refuse_next = true,
            Fault::LoseAnswer(host) => self.hosts[host].lose_answer = true,
        }
    }

    /// Wired wrongly from the first day on.
    pub fn miswire(&mut self, host: usize, other: usize) {
        self.say(format!("hv{}'s power controller is wired to hv{}", host + 1, other + 1));
        self.hosts[host].bmc = Bmc::Shoots(other);
    }

    fn break_bmc(&mut self, host: usize, bmc: Bmc) {
        if !matches!(self.hosts[host].bmc, Bmc::Shoots(_)) {
            self.hosts[host].bmc = bmc;
        }
    }

    fn repair_bmc(&mut self, host: usize) {
        self.break_bmc(host, Bmc::Well);
    }

    fn kill_agent(&mut self, host: usize) {
        if !self.hosts[host].up || !self.hosts[host].agent {
            return;
        }
        let start = self.shared.lock().epoch;
        if let Some(session) = self.hosts[host].session.take()
            && self.path(Some(host), None, 0)
        {
            self.tell(start, Observation::SessionClosed { host: id(host), session, by: Closer::Host });
        }
        let h = &mut self.hosts[host];
        h.agent = false;
        h.stalled.clear();
    }

    fn orderly_reboot(&mut self, host: usize) {
        if !self.hosts[host].up || self.hosts[host].frozen {
            return;
        }
        if self.hosts[host].agent {
            let running = self.hosts[host].guests.keys().map(|guest| guest_id(*guest)).collect();
            let goodbye = Parting { host_shuts_down: true, running, stopped_by_user: BTreeSet::new() };
            let boot = self.boot_id(host);
            self.send(host, Observation::GoodbyeSaid { host: id(host), boot, goodbye });
        }
        self.die(host, true);
        let takes = self.rng.between(5_000, 90_000);
        self.at(takes, Event::Boot(host));
    }

    /// Faults stop. A person then does what the runbook says, every ten seconds.
    pub fn repair_everything(&mut self) {
        self.say("REPAIR".to_owned());
        for host in 0..self.hosts.len() {
            let h = &mut self.hosts[host];
            h.planes = [true; 3];
            h.deaf_side = false;
            h.far_side = false;
            h.bmc = Bmc::Well;
            h.frozen = false;
            h.refuse_next = false;
            h.lose_answer = false;
            if h.up && !h.agent {
                h.agent = true;
            }
            if h.up && h.session.is_none() {
                let boot = h.boots;
                self.at(500, Event::Connect(host, boot));
            }
        }
        {
            let mut state = self.shared.lock();
            state.commands_left = None;
            state.lose_commit = None;
        }
        self.operating = true;
        self.at(10_000, Event::Operate);
    }

    pub fn speak(&mut self, word: Word) {
        let start = self.shared.lock().epoch;
        self.next_token += 1;
        let token = self.next_token;
        let (by, reason) = ("operator".to_owned(), "repair".to_owned());
        self.deliver(start, Observation::OperatorSpoke { token, by, reason, word });
    }

    fn operate(&mut self) {
        if !self.operating {
            return;
        }
        self.at(10_000, Event::Operate);
        let records: Vec<Record> = self.shared.lock().records.values().cloned().collect();
        for record in &records {
            match record {
                Record::Incident(incident)
                    if matches!(incident.phase, Phase::WaitingForApproval | Phase::WaitingForRail { .. }) =>
                {
                    self.speak(Word::Approve { incident: incident.id });
                }
                Record::Host(record) => {
                    let host = record.id.as_str().trim_start_matches("hv").parse::<usize>().map_or(0, |n| n - 1);
                    self.look_after(host, record.fenced, record.goodbye.as_ref());
                }
                _ => {}
            }
        }
    }

    /// The person in front of the rack.
    fn look_after(&mut self, host: usize, fenced: bool, goodbye: Option<&Goodbye>) {
        if self.hosts[host].up {
            return;
        }
        if fenced {
            self.speak(Word::Release { host: id(host) });
        } else if !self.hosts[host].power {
            self.speak(Word::PowerOn { host: id(host) });
        } else if self.rng.once_in(if goodbye.is_none() { 12 } else { 40 }) {
            // Dead with the power on and nobody has shot it: pressed by hand.
            self.boot(host);
        }
    }

    // ---- what must hold ----

    pub fn run_until_whole(&mut self, within: Duration) {
        let until = self.now() + within;
        while self.now() < until && !(self.violations.is_empty() && self.missing().is_none()) {
            self.run_for(Duration::from_secs(5));
            if !self.violations.is_empty() {
                return;
            }
        }
    }

    /// What keeps the site from being whole.
    fn missing(&self) -> Option<String> {
        for (host, h) in self.hosts.iter().enumerate() {
            if !h.up || !h.agent || h.session.is_none() {
                return Some(format!("hv{} is not up and connected", host + 1));
            }
            if h.held {
                return Some(format!("hv{} still holds its guests", host + 1));
            }
        }
        for (guest, g) in self.guests.iter().enumerate() {
            let alive = self.hosts.iter().filter(|host| host.guests.contains_key(&guest)).count();
            match g.wanted {
                Some(true) if alive != 1 => return Some(format!("vm{} runs {alive} times", guest + 1)),
                Some(false) if alive != 0 => {
                    return Some(format!("vm{} was shut down by its user and runs", guest + 1));
                }
                _ => {}
            }
        }
        self.shared.lock().records.values().find_map(|record| match record {
            Record::Incident(incident) if !incident.phase.closed() => {
                Some(format!("{} is open: {:?}", incident.id, incident.phase))
            }
            _ => None,
        })
    }

    /// # Errors
    /// The first thing that does not hold.
    pub fn verdict(&self) -> Result<Summary, String> {
        if self.beyond_evidence {
            return Ok(self.summary);
        }
        if let Some(first) = self.violations.first() {
            return Err(first.clone());
        }
        match self.missing() {
            Some(missing) => Err(format!("not whole after the repair: {missing}")),
            None => Ok(self.summary),
        }
    }

    /// What the last operator's word was answered with.
    pub fn last_reply(&self) -> String {
        match self.shared.lock().replies.last().map(|reply| reply.answer.clone()) {
            Some(Ok(text)) => text,
            Some(Err(refusal)) => format!("refused, {}: {refusal}", refusal.name),
            None => "no answer".to_owned(),
        }
    }

    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    pub fn summary(&self) -> Summary {
        self.summary
    }

    pub fn engine(&self) -> Option<&Engine> {
        self.engine.as_ref()
    }

    /// Where each guest really runs.
    pub fn truth(&self) -> Vec<Vec<usize>> {
        let on = |guest| (0..self.hosts.len()).filter(|h| self.hosts[*h].guests.contains_key(&guest)).collect();
        (0..self.guests.len()).map(on).collect()
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
