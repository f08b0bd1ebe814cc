//! What is kept. Small keyed records; a change is a record's new value or its
//! end. Durable state changes only by [`crate::Triage::apply`] of a committed
//! change: live, at start and in replay alike.

use crate::alert::AlertRecord;
use crate::cloud::ServiceHold;
use crate::devices::{DeviceRecord, Through};
use crate::id::{BootId, HostId, IncidentId, InstanceId, PlaneId, SegmentId, StepId};
use crate::identity::{BarredRecord, RevokedRecord, TokenRecord};
use crate::observation::{Disk, Parting, RunState, StopReason};
use crate::reserve::Taken;
use crate::time::Wall;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A record must stay below this when written as JSON (64 KiB).
pub const RECORD_BYTES_MAX: usize = 64 * 1024;
/// etcd's limit on one transaction is 128 operations; we stay below it.
pub const COMMIT_CHANGES_MAX: usize = 100;
/// etcd refuses requests of more than 1.5 MiB; we stay well below it.
pub const COMMIT_BYTES_MAX: usize = 512 * 1024;

/// The name of a record: `host/hv1`, `incident/7`, `step/7/2`.
pub type Key = String;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
#[allow(clippy::large_enum_variant)] // Boxed where it is kept in numbers: in a change.
pub enum Record {
    Site(SiteRecord),
    Segment(SegmentRecord),
    Host(HostRecord),
    Instance(InstanceRecord),
    Incident(IncidentRecord),
    Step(StepRecord),
    Xml(XmlRecord),
    Word(WordRecord),
    Outcome(OutcomeRecord),
    Heard(HeardRecord),
    Alert(AlertRecord),
    Token(TokenRecord),
    Revoked(RevokedRecord),
    Barred(BarredRecord),
    Device(DeviceRecord),
}

/// One change of durable state.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Put(Key, Box<Record>),
    Delete(Key),
}

impl Change {
    pub fn key(&self) -> &str {
        match self {
            Change::Put(key, _) | Change::Delete(key) => key,
        }
    }
}

/// What holds for the whole site.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SiteRecord {
    pub next_incident: u64,
    /// Alerts so far.
    pub alerts: u64,
    /// Words of operators that were kept so far.
    pub words: u64,
    /// An operator's brake, with the reason: nothing is ordered while it is set.
    pub paused: Option<String>,
    /// It comes from a backup, and nobody has said `resume` since: how, and why.
    pub restored: Option<String>,
}

/// What medevac may do in a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Decide, show, alert; touch nothing.
    #[default]
    Observe,
    /// Every plan waits for a person.
    Approve,
    Act,
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Mode::Observe => "observe",
            Mode::Approve => "approve",
            Mode::Act => "act",
        }
    }
    pub fn parse(text: &str) -> Option<Self> {
        [Mode::Observe, Mode::Approve, Mode::Act].into_iter().find(|mode| mode.name() == text)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SegmentRecord {
    pub id: SegmentId,
    pub mode: Mode,
    /// Hosts ordered off of late, newest last: the window rail's memory. After
    /// a restart each counts as of now.
    pub shot: Vec<HostId>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostRecord {
    pub id: HostId,
    pub segment: SegmentId,
    /// Pinned at the first join.
    pub machine: String,
    /// Known boots, oldest first; the last one is the current one.
    pub boots: Vec<BootId>,
    /// The newest boot that is proven dead, and by what: it and all before it.
    pub dead: Option<Death>,
    pub planes: BTreeMap<PlaneId, String>,
    pub has_inventory: bool,
    pub maintenance: Option<Maintenance>,
    /// Its maintenance has ended by its own limit, and why it was.
    pub maintenance_lapsed: String,
    pub goodbye: Option<Goodbye>,
    /// Switched off by us, and not released: it stays off.
    pub fenced: bool,
    /// The boot in which a second user-space service answered a probe.
    pub banner_boot: Option<BootId>,
    /// The boot in which the fence device said "on".
    pub power_on_boot: Option<BootId>,
    /// The device that `power_on_boot` is said of.
    pub device: String,
    pub pin: Option<Pin>,
    pub memory_total_kib: u64,
    /// Facts of the current boot up to here have had their effect.
    pub acked_seq: u64,
    /// An alarm that bars automatic acts: the same identity in two places.
    pub cloned: Option<String>,
    pub warnings: Vec<String>,
    /// Hold of the current boot has ended.
    pub hold_released: bool,
    /// What we did to its compute service.
    pub service: ServiceHold,
    /// Somebody else disabled its compute service for maintenance: their reason.
    pub cloud_maintenance: String,
    /// The incident that has taken it from the reserve.
    pub taken: Option<Taken>,
    /// It has shown nothing since this store was restored: any guest may be there.
    pub unseen: bool,
}

/// Somebody has seen that this device switches this host and no other: worth nothing for another device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    pub device: String,
    pub by: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Death {
    pub boot: BootId,
    pub proof: Proof,
    pub wall: Wall,
    /// Nothing is started elsewhere on this proof before the new boot's agent
    /// has said that it holds its guests.
    pub needs_hold: bool,
    /// A boot proven dead showed life: no further starts on this proof.
    pub refuted: Option<String>,
}

/// What proves that a boot is dead. Nothing else does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "proof", rename_all = "kebab-case")]
pub enum Proof {
    /// A device said off after our order, and a look round agreed.
    OffAfterOrder {
        device: String,
        step: StepId,
    },
    /// A device said off by itself, twice, and a look round agreed.
    OffByItself {
        device: String,
    },
    NewBoot {
        boot: BootId,
        uptime_ms: u64,
    },
    OperatorsWord {
        by: String,
        reason: String,
    },
    // Watchdog lease, storage fence, crash notice and a Pacemaker's fence event
    // have their place here.
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Maintenance {
    pub reason: String,
    pub by: String,
    pub until_back: bool,
    /// It ends by itself after this long, counted anew after a restart.
    #[serde(default)]
    pub limit_ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Goodbye {
    pub boot: BootId,
    pub parting: Parting,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceRecord {
    pub id: InstanceId,
    pub name: String,
    /// Where it may be running.
    pub homes: BTreeMap<HostId, Home>,
    /// Where it was last shown, running or not.
    pub last_host: HostId,
    pub last_state: RunState,
    pub last_stop: StopReason,
    pub memory_kib: u64,
    pub xml_hash: String,
    pub persistent: bool,
    pub disks: Vec<Disk>,
    pub local_only: Vec<String>,
    pub marked: bool,
    /// An operator's word; `None`: the site's setting decides.
    pub protect: Option<bool>,
    /// Hosts on which its domain is defined.
    pub defined_on: BTreeSet<HostId>,
    /// Started elsewhere for good: what another host still has defined is to be removed.
    pub moved_to: Option<HostId>,
    /// Restarts at home of late: the back-off's memory.
    pub restarts: u32,
    /// It is to run: it ran, and nobody who may stop it did.
    pub wanted: bool,
    /// Nova called it paused, or the like, when its host was dead already.
    pub set_aside: bool,
    /// The boot that was last shown to run it.
    pub lived_in: Option<(HostId, BootId)>,
    /// It was shown alive, and then its host no longer had it, for no reason
    /// that was told: removed, or moved to where nobody looks.
    pub vanished: bool,
    /// An operator answers for it that no host without an inventory has it.
    pub recover_word: Option<String>,
    /// Its evacuation that Nova may have: until it is settled nothing else is done about it.
    pub moving: Option<StepId>,
    /// Nova's names of its latest evacuations, oldest first.
    pub evacuations: Vec<String>,
    /// Nova's numbers of evacuations that are over although Nova still calls them
    /// open: the server is in error, and nobody works on it.
    pub abandoned: BTreeSet<i64>,
}

/// One place where an instance may be running.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Home {
    pub boot: BootId,
    pub why: HomeWhy,
    pub incoming: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HomeWhy {
    /// Its inventory shows it.
    Shown,
    /// A start was ordered there and is not settled.
    Ordered(StepId),
    /// The dead host's last inventory was stale or a migration was leaving it.
    Presumed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IncidentKind {
    /// A host fell silent.
    HostSilent,
    /// User space stands still, the kernel answers.
    HostHung,
    /// A person ordered a host off.
    HostShot,
    /// A host came back from a boot that we did not prove dead before.
    HostRebooted,
    /// One guest ended by itself.
    InstanceGone,
    /// The same host in two places, or an identity that does not match.
    HostCloned,
    /// The same instance in two places.
    TwoCopies,
    /// A boot proven dead shows life.
    ProofRefuted,
    /// Facts were lost by an agent.
    FactsLost,
    /// nova-compute is down on a host that lives.
    ServiceDown,
}

impl IncidentKind {
    /// In it a host's death is dealt with.
    pub fn is_a_hosts_death(self) -> bool {
        use IncidentKind::{HostHung, HostRebooted, HostShot, HostSilent};
        matches!(self, HostSilent | HostHung | HostShot | HostRebooted)
    }
}

/// Where an incident stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Phase {
    /// Opened; nothing decided yet, or nothing to be done but look.
    Watching,
    /// An observe-mode segment: what act would have done is written down.
    Observed,
    WaitingForApproval,
    /// Condemned, but a rail says wait.
    WaitingForRail {
        rail: String,
    },
    /// Condemned, but an operator's brake is on.
    Paused,
    /// An off order is out.
    Fencing {
        step: StepId,
    },
    /// Off was read; looking round before it counts as proof.
    Confirming {
        step: StepId,
        device: String,
    },
    /// A pass through the levels proved nothing; tried again.
    FenceUnknown {
        why: String,
    },
    /// Proven dead; fresh inventories are being gathered, starts are ordered.
    Recovering,
    /// Every instance has an outcome; some wait for capacity or for their host.
    Waiting,
    /// A guest ended: libvirt has not told why yet.
    CausePending,
    /// A restart at home waits for its back-off.
    BackingOff,
    Closed {
        outcome: String,
    },
}

impl Phase {
    pub fn closed(&self) -> bool {
        matches!(self, Phase::Closed { .. })
    }

    /// A pass through the host's devices is under way, or what it came to is being looked at.
    pub fn off_order_is_out(&self) -> bool {
        matches!(self, Phase::Fencing { .. } | Phase::Confirming { .. })
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IncidentRecord {
    pub id: IncidentId,
    pub kind: IncidentKind,
    pub host: Option<HostId>,
    pub boot: Option<BootId>,
    pub instance: Option<InstanceId>,
    pub segment: SegmentId,
    pub phase: Phase,
    pub opened: Wall,
    pub closed: Option<Wall>,
    /// Number of the next step: counts up, never reused.
    pub next_step: u32,
    /// Refusals before this step are forgotten: an operator asked for another try.
    #[serde(default)]
    pub retried_from: u32,
    /// Fence passes that proved nothing.
    pub fence_passes: u32,
    pub approved: Option<String>,
    /// An off order was committed: past the point of no return.
    pub shot: bool,
    /// Entries dropped from the front of the timeline to keep it small.
    pub dropped: u32,
    pub timeline: Vec<Entry>,
}

impl IncidentRecord {
    /// About nobody yet, with nothing done.
    pub fn opened(id: IncidentId, kind: IncidentKind, segment: SegmentId, phase: Phase, opened: Wall) -> Self {
        Self {
            id,
            kind,
            host: None,
            boot: None,
            instance: None,
            segment,
            phase,
            opened,
            closed: None,
            next_step: 0,
            retried_from: 0,
            fence_passes: 0,
            approved: None,
            shot: false,
            dropped: 0,
            timeline: Vec::new(),
        }
    }
}

/// One of everybody heard when an incident's first off order was committed;
/// retries keep the hosts, and take down the boot that each runs by then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeardRecord {
    pub incident: IncidentId,
    pub host: HostId,
    pub heard: Heard,
}

/// How somebody was heard when an off order was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// To be heard again with this boot: a new one may mean that our order hit it.
    pub boot: BootId,
    /// By its agent, so that only its agent can say that the boot is the same.
    pub by_agent: bool,
}

/// One line of an incident's timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub wall: Wall,
    /// Milliseconds since the last sign of life, or since the incident began.
    pub since_ms: u64,
    pub code: String,
    pub text: String,
}

/// What became of one instance in one incident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeRecord {
    pub incident: IncidentId,
    pub instance: InstanceId,
    pub state: OutcomeState,
    pub host: Option<HostId>,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutcomeState {
    Planned,
    Starting,
    Recovered,
    Waiting,
    Skipped,
}

/// One step of a plan: what is to be done, durable before it leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    pub id: StepId,
    pub what: StepKind,
    pub state: StepState,
    /// How long it may take, counted anew after a restart.
    pub deadline_ms: u64,
    /// What had to hold when it was ordered.
    pub precondition: String,
    /// The name under which somebody else works on it: Nova's request id.
    #[serde(default)]
    pub handle: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum StepKind {
    /// `through`: what the order was given to, whatever the host's device is by now.
    FenceOff {
        host: HostId,
        #[serde(default)]
        through: Through,
    },
    Start {
        instance: InstanceId,
        target: HostId,
        boot: BootId,
        define: bool,
    },
    Remove {
        instance: InstanceId,
        host: HostId,
        boot: BootId,
    },
    DestroyIncoming {
        instance: InstanceId,
        host: HostId,
        boot: BootId,
    },
    ReleaseHold {
        host: HostId,
        boot: BootId,
    },
    ForceDown {
        host: HostId,
    },
    Disable {
        host: HostId,
        reason: String,
    },
    /// `anew`: the disk that does not survive, and that policy lets be made anew.
    Evacuate {
        instance: InstanceId,
        source: HostId,
        target: Option<HostId>,
        #[serde(default)]
        anew: Option<String>,
    },
    Unforce {
        host: HostId,
    },
    Enable {
        host: HostId,
        reason: String,
    },
    JoinAggregate {
        host: HostId,
        aggregate: String,
    },
    LeaveAggregate {
        host: HostId,
        aggregate: String,
    },
    /// `reason`: why it was disabled before.
    TakeReserve {
        host: HostId,
        reason: String,
    },
    ReturnReserve {
        host: HostId,
        reason: String,
    },
}

impl StepKind {
    /// The one host that it is about.
    pub fn host(&self) -> Option<&HostId> {
        match self {
            StepKind::FenceOff { host, .. }
            | StepKind::Remove { host, .. }
            | StepKind::DestroyIncoming { host, .. }
            | StepKind::ReleaseHold { host, .. }
            | StepKind::ForceDown { host }
            | StepKind::Disable { host, .. }
            | StepKind::Unforce { host }
            | StepKind::JoinAggregate { host, .. }
            | StepKind::LeaveAggregate { host, .. }
            | StepKind::TakeReserve { host, .. }
            | StepKind::ReturnReserve { host, .. }
            | StepKind::Enable { host, .. } => Some(host),
            StepKind::Start { target, .. } => Some(target),
            StepKind::Evacuate { .. } => None,
        }
    }
}

impl fmt::Display for StepKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StepKind::FenceOff { host, .. } => write!(f, "switch {host} off"),
            StepKind::Start { instance, target, define: true, .. } => {
                write!(f, "define and start {instance} on {target}")
            }
            StepKind::Start { instance, target, .. } => write!(f, "start {instance} on {target}"),
            StepKind::Remove { instance, host, .. } => write!(f, "remove the stale copy of {instance} from {host}"),
            StepKind::DestroyIncoming { instance, host, .. } => {
                write!(f, "destroy the incoming copy of {instance} on {host}")
            }
            StepKind::ReleaseHold { host, .. } => write!(f, "end the hold of {host}"),
            StepKind::ForceDown { host } => write!(f, "tell Nova that {host} is down"),
            StepKind::Disable { host, .. } => write!(f, "disable scheduling to {host}"),
            StepKind::Evacuate { instance, source, target: None, .. } => write!(f, "evacuate {instance} from {source}"),
            StepKind::Evacuate { instance, source, target: Some(target), .. } => {
                write!(f, "evacuate {instance} from {source} to {target}")
            }
            StepKind::Unforce { host } => write!(f, "tell Nova that {host} is no longer down"),
            StepKind::Enable { host, .. } => write!(f, "enable scheduling to {host}"),
            StepKind::JoinAggregate { host, aggregate } => write!(f, "put {host} into aggregate {aggregate}"),
            StepKind::LeaveAggregate { host, aggregate } => write!(f, "take {host} out of aggregate {aggregate}"),
            StepKind::TakeReserve { host, .. } => write!(f, "enable the reserved host {host}"),
            StepKind::ReturnReserve { host, .. } => write!(f, "put {host} back into the reserve"),
        }
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Proof::OffAfterOrder { device, step } => write!(f, "{device} said off after order {step}"),
            Proof::OffByItself { device } => write!(f, "{device} said off by itself, twice"),
            Proof::NewBoot { boot, .. } => write!(f, "its machine runs boot {boot} now"),
            Proof::OperatorsWord { by, reason } => write!(f, "{by} vouched for it: {reason}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum StepState {
    /// Committed; it may have left the process.
    Ordered,
    /// Taken up by somebody who works on it: see the step's handle.
    Accepted,
    Done {
        detail: String,
    },
    Refused {
        reason: String,
    },
    /// It may have had its effect; settled only by what is seen later.
    Unknown {
        detail: String,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct XmlRecord {
    pub hash: String,
    pub xml: String,
}

/// An operator's word, whether it was obeyed or refused: the audit trail.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WordRecord {
    /// Counts up, never reused.
    pub number: u64,
    pub wall: Wall,
    pub by: String,
    /// What was said: `mode default act`.
    pub said: String,
    pub reason: String,
    /// What it came to, or by which rule it was refused.
    pub result: String,
    pub done: bool,
}
