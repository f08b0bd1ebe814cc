//! The agent's main loop: everything that happens comes through here, one thing at a time.
//!
//! ```text
//!   qemu watch --.                                  .--> links (hello, heartbeat, facts, inventory)
//!   libvirt -----+--> view of guests, spool, state --+--> hands, probes, care (tasks)
//!   links -------+                                  '--> disk
//!   tasks' ends -'
//! ```
//!
//! It never waits for anything but its inputs: what blocks or takes time is a
//! task that reports back. Heartbeats come from this very loop, so that an
//! agent whose loop is stuck falls silent.

mod asks;
mod duties;
mod errands;
mod measure;
mod observe;
mod offer;
mod reads;
mod reload;
mod session;
mod tick;

use crate::config::Config;
use crate::control;
use crate::guests::Guests;
use crate::hands::Hands;
use crate::host::Identity;
use crate::hypervisor::Hypervisor;
use crate::link::Happening;
use crate::markers::{Found, Wanted};
use crate::metrics::Meter;
use crate::qemu::{Seen, Watch};
use crate::reload::Fresh;
use crate::spool::{Entry, Spool};
use crate::state::{Epoch, StateFile};
use crate::{clock, libvirt};
use medevac_probe::Responder;
use medevac_proto::session::{Fact, fact::What};
use reads::Reads;
use session::Link;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Links are opened once /proc is read and libvirt has answered, or after this long without it:
/// the first hello should be whole, but a host whose libvirt hangs must be heard too.
const HELLO_WITHIN: Duration = Duration::from_millis(2500);
/// Finished tasks that wait for the loop. Tasks wait when it is full, which is what they should do.
const DONE: usize = 256;

/// Everything that the loop listens to.
#[derive(Debug)]
pub struct Inputs {
    pub seen: mpsc::Receiver<Seen>,
    pub reports: mpsc::Receiver<libvirt::Report>,
    pub happenings: mpsc::Receiver<(usize, Happening)>,
    pub found: mpsc::Receiver<Found>,
    pub control: mpsc::Receiver<control::Ask>,
    pub reloads: mpsc::Receiver<Fresh>,
    /// The agent is to end.
    pub stop: CancellationToken,
}

/// What the agent is made of.
pub struct Parts {
    pub config: Config,
    pub host: String,
    pub identity: Identity,
    pub state: Arc<StateFile>,
    pub spool: Spool,
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Version of the hypervisor's library, once known.
    pub version: Box<dyn Fn() -> String + Send + Sync>,
    pub hands: Hands,
    pub watch: Watch,
    pub wanted: watch::Sender<Wanted>,
    /// Cancelled when links may be opened.
    pub ready: CancellationToken,
    pub meter: Arc<Meter>,
}

/// The agent.
pub struct Agent {
    config: Config,
    host: String,
    identity: Identity,
    state: Arc<StateFile>,
    spool: Spool,
    guests: Guests,
    hypervisor: Arc<dyn Hypervisor>,
    version: Box<dyn Fn() -> String + Send + Sync>,
    hands: Hands,
    watch: Watch,
    wanted: watch::Sender<Wanted>,
    ready: CancellationToken,
    meter: Arc<Meter>,
    started: Instant,
    responder: Option<Responder>,
    /// Keys of the responder as handed out, by link; in memory only.
    keys: BTreeMap<usize, Vec<u8>>,
    tokens: u64,
    links: Vec<Link>,
    sessions: u64,
    reads: Reads,
    asks: Vec<asks::Ask>,
    done: mpsc::Sender<duties::Done>,
    commands: usize,
    probes: usize,
    /// Processes found before the first scan was complete; `None` after it.
    first_scan: Option<BTreeSet<String>>,
    /// libvirt has answered once, or has been missed once: what follows is a change.
    libvirt_judged: bool,
    /// Why libvirt is out of sight.
    lost: String,
    /// Guests that ended while the host was going down: not by their users' wish.
    ended_in_shutdown: BTreeSet<String>,
    /// Reads tried for guests whose reason is owed.
    owed: BTreeMap<String, u8>,
    care: duties::Care,
    offer: offer::Offer,
    errands: errands::Errands,
    persisting: bool,
    /// The disk refused the state: not tried again before this moment.
    persist_again: Option<Instant>,
    /// Highest epoch met, also where the disk does not let it be recorded: who is told, not who is obeyed.
    met: Option<Epoch>,
    /// Why the configuration as it is in the file is not what holds.
    refused: Option<String>,
    ticks: u64,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("host", &self.host).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Agent {
    /// Puts the parts together. The second value receives the ends of its tasks: pass it to `run`.
    pub fn new(parts: Parts) -> (Agent, mpsc::Receiver<duties::Done>) {
        let (done, ends) = mpsc::channel(DONE);
        let guests = remembered(&parts.state, &parts.spool);
        let links = parts.config.aggregators.iter().map(|a| Link::new(&a.text)).collect();
        let agent = Agent {
            config: parts.config,
            host: parts.host,
            identity: parts.identity,
            state: parts.state,
            spool: parts.spool,
            guests,
            hypervisor: parts.hypervisor,
            version: parts.version,
            hands: parts.hands,
            watch: parts.watch,
            wanted: parts.wanted,
            ready: parts.ready,
            meter: parts.meter,
            started: Instant::now(),
            responder: None,
            keys: BTreeMap::new(),
            tokens: 0,
            links,
            sessions: 0,
            reads: Reads::default(),
            asks: Vec::new(),
            done,
            commands: 0,
            probes: 0,
            first_scan: Some(BTreeSet::new()),
            libvirt_judged: false,
            lost: String::new(),
            ended_in_shutdown: BTreeSet::new(),
            owed: BTreeMap::new(),
            care: duties::Care::default(),
            offer: offer::Offer::default(),
            errands: errands::Errands::new(),
            persisting: false,
            persist_again: None,
            met: None,
            refused: None,
            ticks: 0,
        };
        (agent, ends)
    }

    /// Runs until told to stop; then says goodbye.
    pub async fn run(mut self, mut inputs: Inputs, mut ends: mpsc::Receiver<duties::Done>) {
        self.watch.scan(0);
        self.start_responder();
        let mut beat = tick::Beat::default();
        loop {
            tokio::select! {
                Some(seen) = inputs.seen.recv() => self.on_seen(seen),
                Some(report) = inputs.reports.recv() => self.on_report(report),
                Some((link, happening)) = inputs.happenings.recv() => self.on_happening(link, happening),
                Some(found) = inputs.found.recv() => self.guests.set_storage(found.storage, found.backing),
                Some(done) = ends.recv() => self.on_done(done),
                Some(ask) = inputs.control.recv() => self.on_control(ask),
                Some(read) = inputs.reloads.recv() => self.on_reload(read),
                () = beat.next(self.heartbeat_every()) => self.tick(),
                () = inputs.stop.cancelled() => break,
            }
            self.settle();
        }
        self.goodbye().await;
    }

    /// After everything that happened: show it, ask for what follows from it.
    fn settle(&mut self) {
        self.publish();
        self.answer_asks();
        self.read_next();
        self.pump();
        self.persist();
        if !self.ready.is_cancelled() && self.may_say_hello() {
            self.ready.cancel();
            notify(&[sd_notify::NotifyState::Ready]);
        }
    }

    fn may_say_hello(&self) -> bool {
        let listed = self.guests.libvirt_answers() || self.started.elapsed() >= HELLO_WITHIN;
        self.first_scan.is_none() && listed
    }

    /// Tells whoever may hear it what changed in the inventory.
    fn publish(&mut self) {
        self.guests.set_autostart_taken(self.state.read().autostart_taken.clone());
        if self.first_scan.is_some() {
            return;
        }
        if let Some(change) = self.guests.publish() {
            self.broadcast(change);
            self.want_markers();
        }
    }

    /// Facts get their number, go into the spool, and out.
    fn note(&mut self, facts: Vec<What>) {
        for mut what in facts {
            if let What::InstanceStopped(stopped) = &mut what {
                stopped.host_shutting_down = crate::host::is_shutting_down();
                if stopped.host_shutting_down {
                    self.ended_in_shutdown.insert(stopped.uuid.clone());
                }
            }
            let fact = self.spool.push(what, clock::boot_ms(), clock::wall_ms());
            tracing::info!(seq = fact.seq, "{}", fact.what.as_ref().map(told).unwrap_or_default());
        }
    }

    /// A number for a scan that tells its end apart from the first one (0) and from all others.
    fn next_token(&mut self) -> u64 {
        self.tokens += 1;
        self.tokens
    }

    /// Runs a task whose end the loop hears of.
    fn spawn(&self, task: impl Future<Output = duties::Done> + Send + 'static) {
        let done = self.done.clone();
        tokio::spawn(async move {
            // Where the loop has ended, nobody needs to know.
            let _ = done.send(task.await).await;
        });
    }
}

/// The view as it was when the agent ended. A death that is in the spool was seen, also where the
/// agent was killed before it could write that down elsewhere.
fn remembered(state: &StateFile, spool: &Spool) -> Guests {
    let state = state.read();
    let (mut ran, mut owed) = (state.ran.clone(), state.owed.clone());
    for (_, entry) in spool.entries() {
        if let Entry::Fact(Fact { what: Some(What::InstanceGone(gone)), .. }) = entry
            && ran.get(&gone.uuid).is_some_and(|(pid, start)| i64::from(*pid) == gone.pid && *start == gone.pid_start)
        {
            owed.extend(ran.remove_entry(&gone.uuid));
        }
    }
    Guests::new(&ran, &owed, &state.has_run)
}

/// A fact in words, for the log.
fn told(what: &What) -> String {
    match what {
        What::InstanceGone(g) => format!("guest {} is gone (pid {}), cause pending", g.uuid, g.pid),
        What::InstanceStopped(s) => format!("guest {} stopped: {}", s.uuid, s.reason().as_str_name()),
        What::InstanceStarted(s) => format!("guest {} runs (pid {})", s.uuid, s.pid),
        What::SightLost(l) => format!("{} is out of sight: {}", l.of, l.why),
        What::SightRegained(r) => format!("{} is in sight again", r.of),
    }
}

/// Tells systemd, where it listens.
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        tracing::debug!("systemd was not told: {e}");
    }
}
