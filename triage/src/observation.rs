//! Everything the world can tell us, in the past tense. Values only: whoever
//! saw it has already turned clocks and wire formats into these.

use crate::alert::AlertId;
use crate::cloud::CloudNews;
use crate::devices::Offer;
use crate::id::{BootId, Epoch, HostId, IncidentId, InstanceId, PlaneId, SegmentId, SessionId, StepId};
use crate::identity::{CertificateAsk, NewToken, Whose, names};
use crate::letters::Delivery;
use crate::lists::Listed;
use crate::record::Mode;
use crate::time::shown;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// One thing that was seen, answered or said.
#[derive(Clone, Debug, PartialEq)]
pub enum Observation {
    /// A deadline of [`crate::Triage::poll_timeout`] passed.
    TimePassed,
    SessionOpened(Box<Hello>),
    SessionClosed {
        host: HostId,
        session: SessionId,
        by: Closer,
    },
    HeartbeatArrived(Heartbeat),
    InventoryArrived {
        host: HostId,
        session: SessionId,
        boot: BootId,
        inventory: Inventory,
        answers: Option<u64>,
    },
    FactArrived {
        host: HostId,
        session: SessionId,
        boot: BootId,
        seq: u64,
        fact: Fact,
    },
    XmlArrived {
        host: HostId,
        hash: String,
        xml: String,
    },
    GoodbyeSaid {
        host: HostId,
        boot: BootId,
        goodbye: Parting,
    },
    ProbeReported(ProbeReport),
    PowerRead {
        host: HostId,
        read: u64,
        power: Power,
        /// Each device that was asked.
        looks: Vec<Look>,
    },
    /// An agent told what it sees of its host's own power controller.
    ControllerTold {
        host: HostId,
        offer: Offer,
    },
    FenceAnswered {
        step: StepId,
        answer: FenceAnswer,
    },
    PowerOnAnswered {
        host: HostId,
        done: bool,
        detail: String,
    },
    OrderAnswered {
        host: HostId,
        step: StepId,
        outcome: Outcome,
    },
    OperatorSpoke {
        token: u64,
        by: String,
        reason: String,
        word: Word,
    },
    /// A receiver took a letter, or will not.
    LetterAnswered {
        receiver: String,
        alert: AlertId,
        revision: u32,
        delivery: Delivery,
    },
    /// Somebody wants to join, or to go on being the host that he is.
    CertificateAsked {
        token: u64,
        ask: CertificateAsk,
    },
    /// The cloud's control plane told something.
    CloudSpoke(CloudNews),
    /// Somebody met a decider of this epoch: higher than ours, or ours with another start id.
    RivalMet {
        host: HostId,
        epoch: Epoch,
    },
}

/// Who ended a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closer {
    /// FIN or RST from the host: its kernel lives, its agent does not.
    Host,
    /// Our deadline, our shutdown, a router's "unreachable": says nothing about the host.
    Us,
}

/// What an agent says first, complete.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hello {
    pub host: HostId,
    pub session: SessionId,
    pub machine: String,
    pub boot: BootId,
    pub uptime: Duration,
    /// The boots that the agent's own disk names as the ones before, newest first.
    pub previous_boots: Vec<BootId>,
    pub planes: BTreeMap<PlaneId, String>,
    pub held: bool,
    pub inventory: Inventory,
    pub memory_total_kib: u64,
    pub memory_available_kib: u64,
    pub warnings: Vec<String>,
    /// Kept by the agent: the highest epoch that it has obeyed.
    pub highest_epoch: Option<Epoch>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heartbeat {
    pub host: HostId,
    pub session: SessionId,
    pub digest: u64,
    pub memory_available_kib: u64,
    pub held: bool,
    pub libvirt_answers: bool,
}

/// How one QEMU stands on one host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    Running,
    /// By its user.
    Paused,
    /// I/O error, watchdog: QEMU alive, nobody resumes it.
    PausedOnError,
    /// A migration's target that has not run yet.
    Incoming,
    PostcopyFailed,
    /// QEMU alive, guest panicked.
    Crashed,
    Saved,
    #[default]
    Stopped,
}

impl RunState {
    /// A QEMU process exists, or may: this host is a home of the instance.
    pub fn lives(self) -> bool {
        !matches!(self, RunState::Stopped | RunState::Saved)
    }
}

/// Why a guest is not running. `Pending` until libvirt has told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopReason {
    #[default]
    Pending,
    GuestShutdown,
    Destroyed,
    Crashed,
    Signalled,
    Migrated,
    Saved,
    FailedStart,
    Panicked,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inventory {
    pub digest: u64,
    pub libvirt_answered: bool,
    pub instances: BTreeMap<InstanceId, Shown>,
    /// Storage markers that this host reads: directory -> random id.
    pub storage: BTreeMap<String, String>,
}

/// One instance as one host shows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shown {
    /// libvirt describes it; else only its process was seen.
    pub known: bool,
    pub name: String,
    pub state: RunState,
    pub pid: i64,
    pub pid_start: u64,
    pub outgoing: bool,
    pub outgoing_to: Option<HostId>,
    pub persistent: bool,
    pub autostart: bool,
    pub autostart_taken: bool,
    pub memory_kib: u64,
    pub xml_hash: String,
    pub disks: Vec<Disk>,
    pub local_only: Vec<String>,
    pub marked: bool,
    pub last_stop: StopReason,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    pub path: String,
    /// A network disk reaches every host that has the network.
    pub network: bool,
    /// The marker beside it; `None` when unreadable or absent.
    pub marker: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    InstanceGone {
        instance: InstanceId,
        pid: i64,
        pid_start: u64,
    },
    InstanceStopped {
        instance: InstanceId,
        reason: StopReason,
        pid: i64,
        pid_start: u64,
        host_shutting_down: bool,
    },
    InstanceStarted {
        instance: InstanceId,
        pid: i64,
        pid_start: u64,
    },
    SightLost {
        of: String,
        why: String,
    },
    SightRegained {
        of: String,
    },
    /// Facts that the agent had to drop.
    Lost {
        first: u64,
        last: u64,
        why: String,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parting {
    pub host_shuts_down: bool,
    /// What ran, and whether its user stopped it.
    pub running: BTreeSet<InstanceId>,
    pub stopped_by_user: BTreeSet<InstanceId>,
}

/// Who looked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Vantage {
    /// The aggregator itself: can save a host, never condemn it.
    Own,
    Peer(HostId),
}

#[derive(Clone, Debug, PartialEq)]
pub struct ProbeReport {
    pub round: u64,
    pub from: Vantage,
    pub results: Vec<ProbeResult>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ProbeResult {
    pub target: ProbeTarget,
    pub plane: PlaneId,
    pub answer: ProbeAnswer,
    /// Told by an authentic responder.
    pub boot: Option<BootId>,
    pub banner: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ProbeTarget {
    Host(HostId),
    /// A reference address: a gateway, a storage server.
    Reference(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProbeAnswer {
    Nothing,
    KernelOnly,
    UserSpace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Power {
    On,
    Off,
    Unknown,
}

/// What one device said when it was asked for the power.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Its name, as people know it.
    pub device: String,
    pub power: Power,
    /// In the words of its fence agent.
    pub said: String,
}

/// What one pass through a host's fence levels came to. The power is what a
/// separate `status` said afterwards: a return code is never proof.
#[derive(Clone, Debug, PartialEq)]
pub struct FenceAnswer {
    pub power: Power,
    pub device: String,
    pub detail: String,
    /// No device was asked: there is none.
    pub nothing_sent: bool,
}

/// What became of an order to an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Seen to hold.
    Done { detail: String },
    /// Nothing was begun, or it was seen not to run.
    Refused { reason: String, detail: String },
    /// Nobody knows: it may be running.
    Unknown { detail: String },
    /// The host was not connected: the order never left.
    NotSent,
}

/// An operator's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    SetMode {
        segment: SegmentId,
        mode: Mode,
        /// A person answers for it that nobody else restarts guests there.
        others_are_off: bool,
    },
    Pause,
    Resume,
    Maintenance {
        host: HostId,
        on: bool,
        until_back: bool,
        limit: Option<Duration>,
    },
    Approve {
        incident: IncidentId,
    },
    Cancel {
        incident: IncidentId,
    },
    Retry {
        incident: IncidentId,
    },
    ConfirmFenced {
        host: HostId,
        boot: Option<BootId>,
    },
    Fence {
        host: HostId,
    },
    Release {
        host: HostId,
    },
    PowerOn {
        host: HostId,
    },
    PinDevice {
        host: HostId,
    },
    Protect {
        instance: InstanceId,
    },
    Unprotect {
        instance: InstanceId,
    },
    Recover {
        instance: InstanceId,
    },
    Forget {
        host: HostId,
    },
    /// Dead letters of a receiver are sent again.
    RetryAlerts {
        receiver: String,
    },
    MakeTokens {
        tokens: Vec<NewToken>,
        ttl: Duration,
    },
    Revoke {
        whose: Whose,
    },
    /// Addresses of hosts' devices; all of them, or none. A dry run only tells what it would come to.
    ImportDevices {
        rows: Vec<Listed>,
        dry_run: bool,
    },
    /// The address that the host's agent offers now is the right one.
    AcceptDevice {
        host: HostId,
    },
    /// What was imported and offered of a host's device.
    ForgetDevice {
        host: HostId,
    },
}

/// As it would be typed, without the reason.
impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Word::SetMode { segment, mode, others_are_off } => {
                let others = if *others_are_off { " --others-are-off" } else { "" };
                write!(f, "mode {segment} {}{others}", mode.name())
            }
            Word::Pause => write!(f, "pause"),
            Word::Resume => write!(f, "resume"),
            Word::Maintenance { host, on, until_back, limit } => {
                let (switch, back) = (if *on { "on" } else { "off" }, if *until_back { " --until-back" } else { "" });
                let limit = limit.map(|limit| format!(" --for {}s", limit.as_secs())).unwrap_or_default();
                write!(f, "maintenance {host} {switch}{back}{limit}")
            }
            Word::Approve { incident } => write!(f, "approve {incident}"),
            Word::Cancel { incident } => write!(f, "cancel {incident}"),
            Word::Retry { incident } => write!(f, "retry {incident}"),
            Word::ConfirmFenced { host, boot: None } => write!(f, "confirm-fenced {host}"),
            Word::ConfirmFenced { host, boot: Some(boot) } => write!(f, "confirm-fenced {host} --boot {boot}"),
            Word::Fence { host } => write!(f, "fence {host}"),
            Word::Release { host } => write!(f, "release {host}"),
            Word::PowerOn { host } => write!(f, "power-on {host}"),
            Word::PinDevice { host } => write!(f, "pin-device {host}"),
            Word::Protect { instance } => write!(f, "protect {instance}"),
            Word::Unprotect { instance } => write!(f, "unprotect {instance}"),
            Word::Recover { instance } => write!(f, "recover {instance}"),
            Word::Forget { host } => write!(f, "forget {host}"),
            Word::RetryAlerts { receiver } => write!(f, "alert retry {receiver}"),
            Word::MakeTokens { tokens, ttl } => {
                let hosts = names(tokens.iter().map(|token| &token.host));
                write!(f, "token create for {hosts}, for {}", shown(*ttl))
            }
            Word::Revoke { whose } => write!(f, "revoke {whose}"),
            Word::ImportDevices { rows, .. } => write!(f, "fence-devices import of {} hosts", rows.len()),
            Word::AcceptDevice { host } => write!(f, "fence-devices accept {host}"),
            Word::ForgetDevice { host } => write!(f, "fence-devices forget {host}"),
        }
    }
}
