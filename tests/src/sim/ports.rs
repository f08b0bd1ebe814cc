//! The engine's ports, simulated: commands go into an outbox that the world
//! empties; the store may lose a reply; the clock may stand still or be skewed.

use medevac_aggregator::ports::{Agents, Clock, Cloud, Courier, Fencer, Lease, Looker, Replies, Store, StoreError};
use medevac_triage::{
    BootId, Care, Change, CloudAct, Command, Epoch, HostId, Key, Letter, Moment, Now, Order, PlaneId, Record, Reply,
    SessionId, StepId, Through, Wall,
};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// What the world and the ports of one aggregator share.
#[derive(Clone, Debug, Default)]
pub struct Shared(Arc<Mutex<State>>);

#[derive(Debug, Default)]
pub struct State {
    /// Simulated milliseconds.
    pub now: u64,
    /// Added to the aggregator's own clock: every start has another base.
    pub skew: u64,
    pub records: BTreeMap<Key, Record>,
    pub epoch: u64,
    pub outbox: Vec<Command>,
    pub replies: Vec<Reply>,
    pub commits: u64,
    /// The next commit fails; `true` when it takes effect all the same.
    pub lose_commit: Option<bool>,
    /// Commands that still leave before the process dies.
    pub commands_left: Option<u32>,
    /// The process dies at the next command of this name: before it leaves, or right after.
    pub die_at: Option<(&'static str, bool)>,
    pub died: bool,
}

impl Shared {
    /// # Panics
    /// When a panic has already broken the run.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("the simulator has one thread")
    }

    fn leave(&self, command: Command) {
        let mut state = self.lock();
        if let Some(left) = state.commands_left.as_mut() {
            if *left == 0 {
                state.died = true;
            } else {
                *left -= 1;
            }
        }
        let dies = state.die_at.filter(|(name, _)| *name == command.name() && !state.died);
        if let Some((_, before)) = dies {
            state.die_at = None;
            if !before {
                state.outbox.push(command);
            }
            state.died = true;
        } else if !state.died {
            state.outbox.push(command);
        }
    }
}

impl Clock for Shared {
    fn now(&self) -> Now {
        let state = self.lock();
        Now { at: Moment(state.now + state.skew), wall: Wall(1_700_000_000_000 + state.now) }
    }
}

impl Store for Shared {
    fn load(&mut self) -> Result<Vec<(Key, Record)>, StoreError> {
        Ok(self.lock().records.iter().map(|(key, record)| (key.clone(), record.clone())).collect())
    }

    fn commit(&mut self, epoch: &Epoch, changes: &[Change]) -> Result<(), StoreError> {
        let mut state = self.lock();
        if epoch.number != state.epoch {
            return Err(StoreError::Superseded { own: epoch.number, found: state.epoch });
        }
        let lost = state.lose_commit.take();
        if lost != Some(false) {
            for change in changes {
                match change {
                    Change::Put(key, record) => {
                        // As it would be kept: through its written form.
                        let text = medevac_aggregator::engine::written(record).expect("records are plain data");
                        let record = serde_json::from_str(&text).expect("a record reads back");
                        state.records.insert(key.clone(), record);
                    }
                    Change::Delete(key) => {
                        state.records.remove(key);
                    }
                }
            }
            state.commits += 1;
        }
        match lost {
            Some(_) => Err(StoreError::Failed { path: "simulated".to_owned(), what: "the reply was lost".to_owned() }),
            None => Ok(()),
        }
    }

    fn remember_rival(&mut self, _: u64) -> Result<(), StoreError> {
        Ok(()) // One aggregator, its own agents: nobody to be met.
    }

    fn remember_fence_deadline(&mut self, _: Duration) -> Result<(), StoreError> {
        Ok(()) // Its devices do not outlive it.
    }
}

impl Courier for Shared {
    fn tell(&mut self, receiver: &str, letter: Letter) {
        self.leave(Command::Tell { receiver: receiver.to_owned(), letter: Box::new(letter) });
    }
}

impl Lease for Shared {
    fn epoch(&self) -> Epoch {
        let number = self.lock().epoch;
        Epoch { number, start: format!("start-{number}") }
    }
    fn left(&self) -> Option<Duration> {
        None
    }
}

impl Agents for Shared {
    fn probe(&mut self, round: u64, witness: &HostId, targets: BTreeMap<HostId, BTreeMap<PlaneId, String>>) {
        self.leave(Command::Probe { round, witness: witness.clone(), targets });
    }
    fn probe_reference(&mut self, round: u64, witness: &HostId, references: Vec<String>) {
        self.leave(Command::ProbeReference { round, witness: witness.clone(), references });
    }
    fn ask_inventory(&mut self, host: &HostId, session: &SessionId, ask: u64) {
        self.leave(Command::AskInventory { host: host.clone(), session: session.clone(), ask });
    }
    fn ask_xml(&mut self, host: &HostId, session: &SessionId, hashes: Vec<String>) {
        self.leave(Command::AskXml { host: host.clone(), session: session.clone(), hashes });
    }
    fn acknowledge(&mut self, host: &HostId, session: &SessionId, boot: &BootId, seq: u64) {
        self.leave(Command::Acknowledge { host: host.clone(), session: session.clone(), boot: boot.clone(), seq });
    }
    fn care(&mut self, host: &HostId, session: &SessionId, care: Care) {
        self.leave(Command::Care { host: host.clone(), session: session.clone(), care });
    }
    fn close(&mut self, host: &HostId, session: &SessionId, why: &'static str) {
        self.leave(Command::CloseSession { host: host.clone(), session: session.clone(), why });
    }

    fn bar(&mut self, bar: medevac_triage::Bar) {
        self.leave(Command::Bar(bar));
    }
}

impl Cloud for Shared {
    fn order(
        &mut self,
        step: StepId,
        host: &HostId,
        session: &SessionId,
        boot: &BootId,
        deadline: Duration,
        order: Order,
    ) {
        let (host, session, boot) = (host.clone(), session.clone(), boot.clone());
        self.leave(Command::Order { step, host, session, boot, deadline, order });
    }

    fn act(&mut self, act: CloudAct) {
        self.leave(Command::Cloud(act));
    }
}

impl Fencer for Shared {
    fn read_power(&mut self, host: &HostId, read: u64, through: &Through, urgent: bool) {
        self.leave(Command::ReadPower { host: host.clone(), read, through: through.clone(), urgent });
    }
    fn off(&mut self, step: StepId, host: &HostId, through: &Through) {
        self.leave(Command::FenceOff { step, host: host.clone(), through: through.clone() });
    }
    fn on(&mut self, host: &HostId, through: &Through) {
        self.leave(Command::PowerOn { host: host.clone(), through: through.clone() });
    }
}

impl Looker for Shared {
    fn probe(&mut self, round: u64, targets: BTreeMap<HostId, BTreeMap<PlaneId, String>>, references: Vec<String>) {
        self.leave(Command::ProbeSelf { round, targets, references });
    }
}

impl Replies for Shared {
    fn answer(&mut self, reply: Reply) {
        self.lock().replies.push(reply);
    }
}
