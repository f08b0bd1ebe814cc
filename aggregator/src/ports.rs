//! What the loop may touch, as traits. None of these calls waits for the
//! world: each begins something whose answer arrives in the inbox as an
//! observation. Only [`Store::commit`] blocks, and it must.
//!
//! ```text
//!             +--------------------- engine ----------------------+
//!  inbox ---> |  triage.handle -> Store.commit -> apply -> dispatch | ---> Agents, Cloud, Fencer, Looker
//!             +----------------------------------------------------+
//! ```

use futures::future::BoxFuture;
use medevac_triage::{
    Bar, BootId, Care, Change, CloudAct, Epoch, HostId, Key, Letter, Now, Order, PlaneId, Record, Reply, SessionId,
    StepId, Through,
};
use std::collections::BTreeMap;
use std::time::Duration;

/// The process's own clocks.
pub trait Clock: Send {
    fn now(&self) -> Now;
}

/// Durable state. The holder of the newest epoch writes; all others are refused.
pub trait Store: Send {
    /// Everything that is kept.
    ///
    /// # Errors
    /// When the store cannot be read whole: the caller ends.
    fn load(&mut self) -> Result<Vec<(Key, Record)>, StoreError>;

    /// Makes all changes durable, or none.
    ///
    /// # Errors
    /// Whatever the error, the caller must end: only the next start knows
    /// whether the commit took place.
    fn commit(&mut self, epoch: &Epoch, changes: &[Change]) -> Result<(), StoreError>;

    /// Keeps the highest epoch that an agent named and that is not ours: a
    /// take-over of this store must go above it.
    ///
    /// # Errors
    /// As for [`Store::commit`].
    fn remember_rival(&mut self, number: u64) -> Result<(), StoreError>;

    /// Keeps the longest that a fence order of this process can take, if it is longer than what is kept.
    ///
    /// # Errors
    /// As for [`Store::commit`].
    fn remember_fence_deadline(&mut self, longest: Duration) -> Result<(), StoreError>;
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "the store belongs to epoch {found}, this process has {own}: another aggregator has taken over; stop this one"
    )]
    Superseded { own: u64, found: u64 },
    #[error("record {key} cannot be read; it was written by a newer version, or the file is damaged: restore a backup")]
    Unreadable {
        key: Key,
        #[source]
        source: serde_json::Error,
    },
    #[error("record {key} has {bytes} bytes, more than a record may have")]
    TooLarge { key: Key, bytes: usize },
    #[error("the store at {path} failed: {what}; look at free space and permissions there")]
    Failed { path: String, what: String },
}

/// The right to decide.
pub trait Lease: Send {
    fn epoch(&self) -> Epoch;
    /// How long the right is certain to last; `None` when nothing can end it but the store.
    fn left(&self) -> Option<Duration>;
}

/// The sessions with the agents.
pub trait Agents: Send {
    fn probe(&mut self, round: u64, witness: &HostId, targets: BTreeMap<HostId, BTreeMap<PlaneId, String>>);
    fn probe_reference(&mut self, round: u64, witness: &HostId, references: Vec<String>);
    fn ask_inventory(&mut self, host: &HostId, session: &SessionId, ask: u64);
    fn ask_xml(&mut self, host: &HostId, session: &SessionId, hashes: Vec<String>);
    fn acknowledge(&mut self, host: &HostId, session: &SessionId, boot: &BootId, seq: u64);
    fn care(&mut self, host: &HostId, session: &SessionId, care: Care);
    fn close(&mut self, host: &HostId, session: &SessionId, why: &'static str);
    /// Ends what the barred have open; from now on nothing of theirs is let in.
    fn bar(&mut self, bar: Bar);
}

/// Where instances are started and removed. Plain libvirt goes through the agents.
pub trait Cloud: Send {
    /// Must answer with `OrderAnswered`, `NotSent` when the session is gone.
    fn order(
        &mut self,
        step: StepId,
        host: &HostId,
        session: &SessionId,
        boot: &BootId,
        deadline: Duration,
        order: Order,
    );

    /// Asks the control plane. Answers with `CloudSpoke`, always.
    fn act(&mut self, act: CloudAct);
}

/// Those who are told of alerts.
pub trait Courier: Send {
    /// Answers with `LetterAnswered` once it is taken, or refused for good.
    /// What the receiver has not taken of the same alert is void.
    fn tell(&mut self, receiver: &str, letter: Letter);
}

/// Receivers, tried out at once and without a trace in the state.
pub trait Receivers: Send + Sync + std::fmt::Debug {
    /// One, or all, each with what it did not like; empty when there is none of that name.
    fn try_out(&self, name: Option<String>) -> BoxFuture<'static, Vec<(String, Result<(), String>)>>;
}

/// Power. A return code is never proof: every answer carries what `status` said.
pub trait Fencer: Send {
    /// Looks, destroys nothing. Answers with `PowerRead`; one that is not urgent may never be answered.
    fn read_power(&mut self, host: &HostId, read: u64, through: &Through, urgent: bool);
    /// One pass through the host's levels. Answers with `FenceAnswered`.
    fn off(&mut self, step: StepId, host: &HostId, through: &Through);
    /// Answers with `PowerOnAnswered`.
    fn on(&mut self, host: &HostId, through: &Through);
}

/// The "plane" under which a reference address is probed. It is no plane of any host.
pub const REFERENCE_PLANE: &str = "reference";

/// What every responder answers by: a key for each boot of each host.
pub trait ProbeKeys: Send + Sync {
    /// Key of a host's responder in its newest known boot; empty when it never joined.
    fn key_of(&self, host: &HostId) -> Vec<u8>;
}

/// How everybody looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    pub banner_ports: Vec<u16>,
    /// Of the responder, where we look ourselves.
    pub port: u16,
    /// An answer is awaited this long.
    pub deadline: Duration,
}

/// Our own eyes.
pub trait Looker: Send {
    /// Answers with `ProbeReported` from `Vantage::Own`.
    fn probe(&mut self, round: u64, targets: BTreeMap<HostId, BTreeMap<PlaneId, String>>, references: Vec<String>);
}

/// Where answers to operators go.
pub trait Replies: Send {
    fn answer(&mut self, reply: Reply);
}
