//! The numbers that decide, each with its default and the reason for it.

use crate::cloud::CloudKind;
use crate::devices::{Place, Template, Through};
use crate::id::{HostId, PlaneId, SegmentId};
use crate::letters::Receiver;
use crate::matrix::{Act, Matrix};
use crate::policy::PolicyRule;
use crate::record::Mode;
use crate::reserve::RecoveryMethod;
use crate::segments::{DEFAULT_SEGMENT, SegmentsBy};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Heartbeats this late make a suspect. One is sent each second: one may be lost.
    pub suspect_after: Duration,
    /// What silence is worth on two independent planes, with the neighbours heard.
    pub fence_grace: Duration,
    /// What it is worth otherwise: a switch may be rebooting.
    pub fence_grace_long: Duration,
    /// After a start of the aggregator nobody is judged for this long.
    pub settle: Duration,
    /// Kernel-only answers for this long make a host hung.
    pub hung_after: Duration,
    /// A site that lost all power is not shot while it posts.
    pub boot_grace: Duration,
    /// An agent that said goodbye may be away this long: an upgrade.
    pub goodbye_agent: Duration,
    /// A host that said goodbye may be away this long: a reboot.
    pub goodbye_shutdown: Duration,
    /// A round of probes begins this often while anybody is watched.
    pub probe_every: Duration,
    /// A probe's answer is awaited this long.
    pub probe_deadline: Duration,
    /// The third host within this window waits for a person.
    pub shot_window: Duration,
    /// First pause between two passes of a fence; doubled up to `fence_retry_max`.
    pub fence_retry_first: Duration,
    pub fence_retry_max: Duration,
    /// One pass through all fence levels of a host takes at most this long.
    pub fence_deadline: Duration,
    /// A start is awaited this long; then it is unknown and bars other targets.
    pub start_deadline: Duration,
    /// A fresh inventory is awaited this long; then that agent counts as not heard.
    pub inventory_deadline: Duration,
    /// Starts under way at one target at a time.
    pub starts_per_target: usize,
    /// Left free on every target, in KiB.
    pub memory_reserve_kib: u64,
    /// Restarts at home before a guest is tried elsewhere or given up.
    pub restarts_max: u32,
    /// Back-off before the second restart at home; doubled each time.
    pub restart_backoff: Duration,
    /// Agents down for this long are one alert a segment.
    pub agents_down_after: Duration,
    /// A segment's mode before anybody has set one.
    pub initial_mode: BTreeMap<SegmentId, Mode>,
    pub default_mode: Mode,
    /// What makes segments.
    pub segments_by: SegmentsBy,
    /// Aggregates that make segments where the rule is `aggregate`, beside marked ones.
    pub segment_aggregates: BTreeSet<String>,
    /// Hosts that are in a segment by hand.
    pub segment_of: BTreeMap<HostId, SegmentId>,
    /// How the servers of a dead host find a new one.
    pub recovery_method: BTreeMap<SegmentId, RecoveryMethod>,
    /// Reserved hosts, in the order in which they are taken.
    pub reserved_hosts: BTreeMap<SegmentId, Vec<HostId>>,
    /// What is done about a hung host; `approve` where nothing is said.
    pub on_hung: BTreeMap<SegmentId, OnHung>,
    /// What is done about a host that has lost networks.
    pub matrix: Matrix,
    /// All instances, or only those marked in their metadata.
    pub protect_all: bool,
    /// The operators' rules, in the order in which they were written.
    pub policies: Vec<PolicyRule>,
    pub planes: BTreeSet<PlaneId>,
    pub references: Vec<String>,
    /// The host on which this aggregator runs: never condemned by it.
    pub own_host: Option<HostId>,
    /// Hosts with a fence device, and whether the mapping is vouched for.
    pub devices: BTreeMap<HostId, Device>,
    /// What the devices of a segment have in common, for hosts of which only the address is known.
    pub templates: BTreeMap<SegmentId, Template>,
    /// What runs the instances.
    pub cloud: CloudKind,
    /// A request that changes something at the cloud's control plane takes at most this long.
    pub cloud_deadline: Duration,
    /// An evacuation of which Nova has shown no end for this long is told to a person.
    pub evacuation_deadline: Duration,
    /// Who is told of alerts.
    pub receivers: Vec<Receiver>,
    /// An alert is over once nothing of it has been open for this long.
    pub resolve_after: Duration,
    pub guards: Guards,
}

/// By what one host is switched off.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Device {
    /// What an operator recognises: "fence_ipmilan 10.0.9.11:623".
    pub name: String,
    pub pinned: bool,
    /// In the order in which they are tried.
    pub levels: Vec<Level>,
    pub through: Through,
}

impl Device {
    /// Of one level of which no more is known than its name.
    pub fn named(name: &str, pinned: bool) -> Self {
        let level = Level { name: name.to_owned(), agent: name.to_owned(), ..Level::default() };
        Self { name: name.to_owned(), pinned, levels: vec![level], through: Through::Levels }
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.levels.iter().map(|level| level.name.clone()).collect()
    }
}

/// One of the devices of a host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Level {
    pub name: String,
    pub agent: String,
    /// Empty where its configuration names none that could be compared.
    pub place: Place,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnHung {
    #[default]
    Approve,
    Fence,
    Alert,
}

impl OnHung {
    /// Every policy by the name that a configuration gives it.
    pub const NAMED: [(&'static str, OnHung); 3] =
        [("approve", OnHung::Approve), ("fence", OnHung::Fence), ("alert", OnHung::Alert)];

    pub fn parse(text: &str) -> Option<Self> {
        Self::NAMED.into_iter().find(|(name, _)| *name == text).map(|(_, policy)| policy)
    }

    pub(crate) fn act(self) -> Act {
        match self {
            OnHung::Approve => Act::Approve,
            OnHung::Fence => Act::Fence,
            OnHung::Alert => Act::Alert,
        }
    }
}

/// The guards that a test-only build can take away one by one, to show that
/// the tests notice. In every other build they are all on and cannot be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guards {
    pub(crate) proof: bool,
    pub(crate) witnesses: bool,
    pub(crate) homes: bool,
    pub(crate) rails: bool,
    pub(crate) look_round: bool,
    pub(crate) majority: bool,
}

impl Default for Guards {
    fn default() -> Self {
        Self { proof: true, witnesses: true, homes: true, rails: true, look_round: true, majority: true }
    }
}

impl Guards {
    /// All guards but the named ones.
    ///
    /// # Errors
    /// The name that is no guard.
    #[cfg(feature = "removable-guards")]
    pub fn without(names: &str) -> Result<Self, String> {
        let mut guards = Self::default();
        for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match name {
                "proof" => guards.proof = false,
                "witnesses" => guards.witnesses = false,
                "homes" => guards.homes = false,
                "rails" => guards.rails = false,
                "look-round" => guards.look_round = false,
                "majority" => guards.majority = false,
                other => return Err(other.to_owned()),
            }
        }
        Ok(guards)
    }
}

impl Default for Settings {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            suspect_after: Duration::from_millis(1500),
            fence_grace: seconds(5),
            fence_grace_long: seconds(20),
            settle: seconds(30),
            hung_after: seconds(15),
            boot_grace: seconds(600),
            goodbye_agent: seconds(120),
            goodbye_shutdown: seconds(600),
            probe_every: seconds(1),
            probe_deadline: Duration::from_millis(800),
            shot_window: seconds(900),
            fence_retry_first: seconds(10),
            fence_retry_max: seconds(300),
            fence_deadline: seconds(60),
            start_deadline: seconds(60),
            inventory_deadline: seconds(3),
            starts_per_target: 4,
            memory_reserve_kib: 512 * 1024,
            restarts_max: 3,
            restart_backoff: seconds(10),
            agents_down_after: seconds(120),
            initial_mode: BTreeMap::new(),
            default_mode: Mode::Observe,
            segments_by: SegmentsBy::All,
            segment_aggregates: BTreeSet::new(),
            segment_of: BTreeMap::new(),
            recovery_method: BTreeMap::new(),
            reserved_hosts: BTreeMap::new(),
            on_hung: BTreeMap::new(),
            matrix: Matrix::default(),
            protect_all: true,
            policies: Vec::new(),
            cloud: CloudKind::Libvirt,
            cloud_deadline: seconds(30),
            evacuation_deadline: seconds(600),
            planes: BTreeSet::new(),
            references: Vec::new(),
            own_host: None,
            devices: BTreeMap::new(),
            templates: BTreeMap::new(),
            receivers: Vec::new(),
            resolve_after: seconds(60),
            guards: Guards::default(),
        }
    }
}

impl Settings {
    /// What is said of a segment, or else of the default one.
    pub(crate) fn of_segment<T: Clone>(&self, said: &BTreeMap<SegmentId, T>, segment: &SegmentId) -> Option<T> {
        said.get(segment).or_else(|| said.get(&DEFAULT_SEGMENT.into())).cloned()
    }
}
