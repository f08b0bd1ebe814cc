//! Everything we can ask of the world, in the imperative, and the decision
//! that carries it: first committed, then dispatched.

use crate::cloud::CloudAct;
use crate::devices::Through;
use crate::id::{BootId, HostId, InstanceId, PlaneId, SessionId, StepId};
use crate::identity::Bar;
use crate::letters::Letter;
use crate::record::Change;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What one turn came to. The order of use is the contract: commit `changes`,
/// apply them, then dispatch `commands`, then answer `replies`.
#[derive(Debug, Default)]
pub struct Decision {
    pub changes: Vec<Change>,
    pub commands: Vec<Command>,
    pub replies: Vec<Reply>,
    pub notes: Vec<Note>,
}

/// The answer to an operator's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub token: u64,
    pub answer: Result<String, Refusal>,
}

/// A named "no", with what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// Stable, for machines: "unknown-host", "host-was-heard".
    pub name: &'static str,
    pub text: String,
}

/// A line for the log: one per decision, with its evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Stable, for machines: "MDV-CONDEMNED".
    pub code: &'static str,
    pub text: String,
    /// An alert: somebody should look.
    pub alert: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Ask one agent to look at others. `targets` include the witnesses themselves.
    Probe {
        round: u64,
        witness: HostId,
        targets: BTreeMap<HostId, BTreeMap<PlaneId, String>>,
    },
    /// Look ourselves: hosts and reference addresses.
    ProbeSelf {
        round: u64,
        targets: BTreeMap<HostId, BTreeMap<PlaneId, String>>,
        references: Vec<String>,
    },
    /// Ask one witness for reference addresses.
    ProbeReference {
        round: u64,
        witness: HostId,
        references: Vec<String>,
    },
    AskInventory {
        host: HostId,
        session: SessionId,
        ask: u64,
    },
    AskXml {
        host: HostId,
        session: SessionId,
        hashes: Vec<String>,
    },
    /// The effect of facts up to here is committed.
    Acknowledge {
        host: HostId,
        session: SessionId,
        boot: BootId,
        seq: u64,
    },
    /// What an agent is to care for.
    Care {
        host: HostId,
        session: SessionId,
        care: Care,
    },
    /// Only looks: destroys nothing.
    ReadPower {
        host: HostId,
        read: u64,
        through: Through,
        /// It may be dead: the first device that knows is enough. Else each is asked, when there is time.
        urgent: bool,
    },
    /// One pass through the host's fence levels, `status` after `off`.
    FenceOff {
        step: StepId,
        host: HostId,
        through: Through,
    },
    PowerOn {
        host: HostId,
        through: Through,
    },
    Order {
        step: StepId,
        host: HostId,
        session: SessionId,
        boot: BootId,
        deadline: Duration,
        order: Order,
    },
    /// Ask the cloud's control plane.
    Cloud(CloudAct),
    /// Tell a receiver how an alert stands; what it has not taken of that alert yet is void.
    Tell {
        receiver: String,
        letter: Box<Letter>,
    },
    /// End a session whose agent has been silent for too long, or has been replaced.
    CloseSession {
        host: HostId,
        session: SessionId,
        why: &'static str,
    },
    /// Keep these out from now on, and end what they have open.
    Bar(Bar),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Care {
    pub mode: String,
    pub protected: BTreeSet<InstanceId>,
    pub directories: BTreeSet<String>,
}

/// What the hands on a host are to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// `xml` is empty when the instance is started as it is defined there.
    Start {
        instance: InstanceId,
        name: String,
        xml: String,
    },
    /// Undefine a stopped domain; its NVRAM and XML are kept.
    Remove {
        instance: InstanceId,
    },
    /// Destroy a migration's target that has never run.
    DestroyIncoming {
        instance: InstanceId,
    },
    Leave {
        instance: InstanceId,
        why: String,
    },
    ReleaseHold {
        why: String,
    },
}

impl Command {
    /// Stable name, for logs and crash points.
    pub fn name(&self) -> &'static str {
        match self {
            Command::Probe { .. } => "probe",
            Command::ProbeSelf { .. } => "probe-self",
            Command::ProbeReference { .. } => "probe-reference",
            Command::AskInventory { .. } => "ask-inventory",
            Command::AskXml { .. } => "ask-xml",
            Command::Acknowledge { .. } => "acknowledge",
            Command::Care { .. } => "care",
            Command::ReadPower { .. } => "read-power",
            Command::FenceOff { .. } => "fence-off",
            Command::PowerOn { .. } => "power-on",
            Command::Order { order: Order::Start { .. }, .. } => "order-start",
            Command::Order { order: Order::Remove { .. }, .. } => "order-remove",
            Command::Order { order: Order::DestroyIncoming { .. }, .. } => "order-destroy-incoming",
            Command::Order { order: Order::Leave { .. }, .. } => "order-leave",
            Command::Order { order: Order::ReleaseHold { .. }, .. } => "order-release-hold",
            Command::Cloud(act) => act.name(),
            Command::Tell { .. } => "tell",
            Command::CloseSession { .. } => "close-session",
            Command::Bar(_) => "bar",
        }
    }
}
