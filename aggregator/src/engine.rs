//! The one loop. It drains its inbox, lets triage decide, commits, applies,
//! and only then lets anything leave the process.
//!
//! ```text
//!   inputs --> triage.handle --> store.commit --> triage.apply --> dispatch --> replies
//!                                   |
//!                                   +-- failed or unanswered: the process ends;
//!                                       the next start reads the truth
//! ```
//!
//! The engine spawns nothing and reads no clock but the one it is given, so
//! that the same code runs under the seeded simulator.

use crate::crash;
use crate::ports::{Agents, Clock, Cloud, Courier, Fencer, Lease, Looker, Replies, Store, StoreError};
use medevac_triage::{
    COMMIT_BYTES_MAX, COMMIT_CHANGES_MAX, Change, Command, Decision, Epoch, HostId, Moment, Now, Observation,
    RECORD_BYTES_MAX, Record, Settings, Triage,
};
use std::time::Duration;

/// What a reader wants to know of the state.
pub type Question = Box<dyn FnOnce(&Triage, Now) + Send>;

/// What became of a configuration that was read anew: what is worth telling, or why it was refused.
pub type Verdict = Result<Vec<String>, String>;

/// A configuration that was read anew.
#[allow(missing_debug_implementations)]
pub struct Reload {
    /// Or what is wrong with the file.
    pub settings: Result<Settings, String>,
    /// The longest that one run of a fence agent may take from now on.
    pub longest_fence: Duration,
    /// Called on the loop, between two turns: changes all else together with the settings, or nothing.
    pub take: Box<dyn FnOnce(Verdict) + Send>,
}

/// What arrives in the inbox.
pub enum Input {
    Seen(Observation),
    /// A reader's question, answered on the loop: the only owner of the state.
    Ask(Question),
    Reload(Box<Reload>),
    Stop,
}

impl std::fmt::Debug for Input {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Input::Seen(observation) => f.debug_tuple("Seen").field(observation).finish(),
            Input::Ask(_) => f.write_str("Ask"),
            Input::Reload(_) => f.write_str("Reload"),
            Input::Stop => f.write_str("Stop"),
        }
    }
}

/// Everything that the loop touches.
#[allow(missing_debug_implementations)]
pub struct Ports {
    pub clock: Box<dyn Clock>,
    pub store: Box<dyn Store>,
    pub lease: Box<dyn Lease>,
    pub agents: Box<dyn Agents>,
    pub cloud: Box<dyn Cloud>,
    pub fencer: Box<dyn Fencer>,
    pub looker: Box<dyn Looker>,
    pub courier: Box<dyn Courier>,
    pub replies: Box<dyn Replies>,
}

#[allow(missing_debug_implementations)]
pub struct Engine {
    ports: Ports,
    triage: Triage,
    /// We met a higher or twin epoch: from then on we only show.
    deposed: Option<String>,
    highest_rival: Option<u64>,
}

impl Engine {
    /// Loads what is kept. Triage re-reads reality before it acts on it.
    ///
    /// # Errors
    /// When the store cannot be read whole.
    pub fn start(settings: Settings, mut ports: Ports) -> Result<Self, StoreError> {
        let records = ports.store.load()?;
        let now = ports.clock.now();
        let triage = Triage::new(settings, records.into_iter().map(|(_, record)| record), now);
        Ok(Self { ports, triage, deposed: None, highest_rival: None })
    }

    /// When the loop must turn even if nothing arrives.
    pub fn poll_timeout(&self) -> Option<Moment> {
        self.triage.poll_timeout()
    }

    pub fn now(&self) -> Now {
        self.ports.clock.now()
    }

    pub fn triage(&self) -> &Triage {
        &self.triage
    }

    /// One turn: everything drained from the inbox at once, one commit.
    ///
    /// # Errors
    /// A failed commit. The caller must end the process.
    pub fn turn(&mut self, inputs: Vec<Input>) -> Result<(), StoreError> {
        let now = self.ports.clock.now();
        let mut observations = Vec::with_capacity(inputs.len());
        let mut questions = Vec::new();
        for input in inputs {
            match input {
                Input::Seen(Observation::RivalMet { host, epoch }) => self.meet(&host, &epoch)?,
                Input::Seen(observation) => observations.push(observation),
                Input::Ask(question) => questions.push(question),
                Input::Reload(reload) => self.reload(now, *reload)?,
                Input::Stop => {}
            }
        }
        if self.deposed.is_none() {
            let decision = self.triage.handle(now, observations);
            self.carry_out(decision)?;
        }
        for question in questions {
            question(&self.triage, now);
        }
        Ok(())
    }

    /// What it drafts is committed with this turn.
    fn reload(&mut self, now: Now, reload: Reload) -> Result<(), StoreError> {
        let verdict = match reload.settings {
            Ok(settings) => self.triage.reload(now, settings),
            Err(why) => {
                self.triage.refuse_settings(now, why.clone());
                Err(why)
            }
        };
        if verdict.is_ok() {
            // Before a slower device can be asked: the next start waits for it.
            self.ports.store.remember_fence_deadline(reload.longest_fence)?;
        }
        (reload.take)(verdict);
        Ok(())
    }

    /// Why this process only shows and no longer decides.
    pub fn deposed(&self) -> Option<&str> {
        self.deposed.as_deref()
    }

    fn meet(&mut self, host: &HostId, epoch: &Epoch) -> Result<(), StoreError> {
        let own = self.ports.lease.epoch();
        let rival = epoch.number > own.number || (epoch.number == own.number && epoch.start != own.start);
        if !rival || self.highest_rival.is_some_and(|met| met >= epoch.number) {
            return Ok(());
        }
        // Every agent may name another one: the highest is what a take-over must pass.
        self.highest_rival = Some(epoch.number);
        let why = format!(
            "{host} obeys epoch {}, ours is {}: another aggregator decides here, or this is a restored copy; \
             if this one is to decide, stop the other one for good, stop this one, and run here: \
             medevac-aggregator take-over --reason '...'",
            epoch.number, own.number
        );
        tracing::error!(code = "MDV-DEPOSED", %host, rival = epoch.number, own = own.number, "{why}");
        self.triage.depose(why.clone());
        self.deposed = Some(why);
        self.ports.store.remember_rival(epoch.number)
    }

    fn carry_out(&mut self, decision: Decision) -> Result<(), StoreError> {
        for note in &decision.notes {
            if note.alert {
                tracing::warn!(code = note.code, "{}", note.text);
            } else {
                tracing::info!(code = note.code, "{}", note.text);
            }
        }
        self.commit(&decision.changes)?;
        let orders_run_out = Duration::from_secs(1);
        let right_is_short = self.ports.lease.left().is_some_and(|left| left < orders_run_out);
        for command in decision.commands {
            if right_is_short && destroys_or_starts(&command) {
                tracing::warn!(code = "MDV-LEASE-SHORT", ?command, "not ordered: the right to decide is about to end");
                continue;
            }
            self.dispatch(command);
        }
        for reply in decision.replies {
            self.ports.replies.answer(reply);
        }
        Ok(())
    }

    /// Commits in parts that every store can take, and applies each part once it is durable.
    fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        for part in parts(changes)? {
            part.iter().for_each(|change| crash::point("before-commit", change.key()));
            self.ports.store.commit(&self.ports.lease.epoch(), part)?;
            part.iter().for_each(|change| crash::point("after-commit", change.key()));
            self.triage.apply(part);
        }
        Ok(())
    }

    fn dispatch(&mut self, command: Command) {
        let name = command.name();
        crash::point("before-dispatch", name);
        match command {
            Command::Probe { round, witness, targets } => self.ports.agents.probe(round, &witness, targets),
            Command::ProbeReference { round, witness, references } => {
                self.ports.agents.probe_reference(round, &witness, references);
            }
            Command::ProbeSelf { round, targets, references } => self.ports.looker.probe(round, targets, references),
            Command::AskInventory { host, session, ask } => self.ports.agents.ask_inventory(&host, &session, ask),
            Command::AskXml { host, session, hashes } => self.ports.agents.ask_xml(&host, &session, hashes),
            Command::Acknowledge { host, session, boot, seq } => {
                self.ports.agents.acknowledge(&host, &session, &boot, seq);
            }
            Command::Care { host, session, care } => self.ports.agents.care(&host, &session, care),
            Command::CloseSession { host, session, why } => self.ports.agents.close(&host, &session, why),
            Command::Bar(bar) => self.ports.agents.bar(bar),
            Command::ReadPower { host, read, through, urgent } => {
                self.ports.fencer.read_power(&host, read, &through, urgent);
            }
            Command::FenceOff { step, host, through } => self.ports.fencer.off(step, &host, &through),
            Command::PowerOn { host, through } => self.ports.fencer.on(&host, &through),
            Command::Cloud(act) => self.ports.cloud.act(act),
            Command::Tell { receiver, letter } => self.ports.courier.tell(&receiver, *letter),
            Command::Order { step, host, session, boot, deadline, order } => {
                self.ports.cloud.order(step, &host, &session, &boot, deadline, order);
            }
        }
        crash::point("after-dispatch", name);
    }
}

/// What may not be begun when the right to decide is nearly over.
fn destroys_or_starts(command: &Command) -> bool {
    match command {
        Command::FenceOff { .. } | Command::PowerOn { .. } | Command::Order { .. } => true,
        Command::Cloud(act) => act.changes(),
        _ => false,
    }
}

/// Splits changes so that no commit is larger than any store takes. Order is
/// kept, and triage puts the record that gives a plan its effect last.
fn parts(changes: &[Change]) -> Result<Vec<&[Change]>, StoreError> {
    let mut parts = Vec::new();
    let (mut from, mut bytes) = (0, 0);
    for (at, change) in changes.iter().enumerate() {
        let size = size(change)?;
        if at > from && (at - from >= COMMIT_CHANGES_MAX || bytes + size > COMMIT_BYTES_MAX) {
            parts.push(&changes[from..at]);
            (from, bytes) = (at, 0);
        }
        bytes += size;
    }
    if from < changes.len() {
        parts.push(&changes[from..]);
    }
    Ok(parts)
}

fn size(change: &Change) -> Result<usize, StoreError> {
    let Change::Put(key, record) = change else { return Ok(change.key().len()) };
    let bytes = written(record).map_err(|source| StoreError::Unreadable { key: key.clone(), source })?.len();
    // An XML may be longer than a record should be: it is a guest's, not ours to shorten.
    if bytes > RECORD_BYTES_MAX && !matches!(**record, Record::Xml(_)) {
        return Err(StoreError::TooLarge { key: key.clone(), bytes });
    }
    Ok(bytes + key.len())
}

/// A record as every store keeps it.
///
/// # Errors
/// When it cannot be written as JSON.
pub fn written(record: &Record) -> Result<String, serde_json::Error> {
    serde_json::to_string(record)
}
