//! The state in numbers, for whoever counts: cheap to make while thousands of
//! hosts and instances are looked after, and bounded in what it names.
//!
//! Instances are counted in slices, so that nobody waits for all of them.

use crate::Triage;
use crate::cloud::CloudKind;
use crate::id::{HostId, IncidentId, InstanceId, SegmentId};
use crate::lacks::Lack;
use crate::record::{IncidentKind, InstanceRecord, Mode, Phase};
use crate::target::Bound;
use crate::time::Now;
use std::collections::{BTreeMap, BTreeSet};

/// Every state that a host is shown in.
pub const HOST_STATES: [&str; 14] = [
    "heard",
    "held",
    "agent-failed",
    "suspect",
    "hung",
    "condemned",
    "fencing",
    "fence-unknown",
    "fenced",
    "dead",
    "booting",
    "unknown",
    "goodbye",
    "maintenance",
];

/// Why an instance would not run elsewhere after its host's death, or not as it was.
pub const NOT_COVERED: [&str; 5] = ["policy", "local-disk", "made-anew", "bound-to-host", "no-agent"];

/// Everything but the instances.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    pub settling: bool,
    pub paused: bool,
    pub segments: BTreeMap<SegmentId, SegmentCount>,
    /// Hosts that could not be condemned or fenced, and what is missing.
    pub lacking: Vec<(HostId, SegmentId, &'static str)>,
    /// Open incidents.
    pub incidents: Vec<(IncidentKind, Phase)>,
    /// Codes of the standing alerts, each as often as it stands.
    pub alerts: Vec<&'static str>,
    /// Hosts with a fence device.
    pub fenceable: BTreeSet<HostId>,
    /// Whether the cloud's control plane can be used; nobody's question in plain libvirt.
    pub cloud: Option<bool>,
}

#[derive(Clone, Debug, Default)]
pub struct SegmentCount {
    pub mode: Mode,
    pub states: BTreeMap<&'static str, usize>,
    pub heard: usize,
}

/// The instances of one segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Covered {
    pub all: usize,
    pub protected: usize,
    /// Those that would not run elsewhere as they were, by reason.
    pub not: BTreeMap<&'static str, usize>,
}

/// Instances by segment, as far as they have been counted.
pub type Coverage = BTreeMap<SegmentId, Covered>;

/// How far a count of the instances has come.
#[derive(Clone, Debug, Default)]
pub struct Cursor {
    /// Those of hosts without an agent follow those that agents have shown.
    strangers: bool,
    after: Option<InstanceId>,
}

impl Triage {
    pub fn summary(&self, now: Now) -> Summary {
        let mut summary = Summary {
            settling: now.at < self.settle_until,
            paused: self.durable.site().paused.is_some(),
            alerts: self.standing_alerts(now).into_iter().map(|(code, _)| code).collect(),
            fenceable: self.devices.keys().cloned().collect(),
            cloud: (self.settings.cloud == CloudKind::Openstack).then(|| self.sight.trouble.is_none()),
            ..Summary::default()
        };
        for segment in self.durable.segments.iter() {
            summary.segments.entry(segment.id.clone()).or_default().mode = segment.mode;
        }
        let mut dealt_with: BTreeMap<&HostId, IncidentId> = BTreeMap::new();
        for incident in self.durable.incidents.iter().filter(|incident| !incident.phase.closed()) {
            summary.incidents.push((incident.kind, incident.phase.clone()));
            if let Some(host) = incident.host.as_ref().filter(|_| incident.kind.is_a_hosts_death()) {
                let newest = dealt_with.entry(host).or_insert(incident.id);
                *newest = incident.id.max(*newest);
            }
        }
        let up = self.hosts_that_should_be_up();
        for host in self.durable.hosts.iter() {
            let of = summary.segments.entry(host.segment.clone()).or_default();
            *of.states.entry(self.state_name(host, dealt_with.get(&host.id).copied())).or_default() += 1;
            of.heard += usize::from(self.is_heard(host));
            if let Some(lack) = self.lack(host, up) {
                summary.lacking.push((host.id.clone(), host.segment.clone(), lack.name()));
            }
        }
        let strange = self.hosts_without_agent().map(|host| (host.clone(), self.segment_of_stranger(host)));
        summary.lacking.extend(strange.map(|(host, segment)| (host, segment, Lack::Agent.name())));
        summary
    }

    /// Counts the next `most` instances. Returns where to go on, or nothing when all are counted.
    pub fn count_instances(&self, from: &Cursor, most: usize, into: &mut Coverage) -> Option<Cursor> {
        let (seen, last) = match from.strangers {
            false => self.count_known(from, most, into),
            true => self.count_strangers(from, most, into),
        };
        match seen == most {
            true => Some(Cursor { strangers: from.strangers, after: last }),
            false => {
                (!from.strangers && !self.sight.roster.is_empty()).then_some(Cursor { strangers: true, after: None })
            }
        }
    }

    fn count_known(&self, from: &Cursor, most: usize, into: &mut Coverage) -> (usize, Option<InstanceId>) {
        let page = self.durable.instances.after(from.after.as_ref(), most);
        for record in &page {
            let of = into.entry(self.segment_at_home(record)).or_default();
            let (protected, not) = self.covered(record);
            of.all += 1;
            of.protected += usize::from(protected);
            if let Some(reason) = not {
                *of.not.entry(reason).or_default() += 1;
            }
        }
        (page.len(), page.last().map(|record| record.id.clone()))
    }

    fn count_strangers(&self, from: &Cursor, most: usize, into: &mut Coverage) -> (usize, Option<InstanceId>) {
        let (mut seen, mut last) = (0, None);
        for (id, server) in crate::table::after(&self.sight.roster, from.after.as_ref()).take(most) {
            (seen, last) = (seen + 1, Some(id.clone()));
            if self.is_stranger(server) {
                let of = into.entry(self.segment_of_stranger(&server.host)).or_default();
                of.all += 1;
                *of.not.entry(Lack::Agent.name()).or_default() += 1;
            }
        }
        (seen, last)
    }

    fn segment_of_stranger(&self, host: &HostId) -> SegmentId {
        self.segment_by_rule(host).unwrap_or_else(|| crate::segments::DEFAULT_SEGMENT.into())
    }

    /// Whether it is protected, and why it would not run elsewhere as it was: the reasons of [`crate::InstanceView`].
    fn covered(&self, record: &InstanceRecord) -> (bool, Option<&'static str>) {
        if !self.is_protected(record) {
            return (false, Some("policy"));
        }
        let not = match self.recoverable_elsewhere(record) {
            Ok(()) => None,
            Err(Bound::Host(_)) => Some("bound-to-host"),
            Err(Bound::Disks(_)) if self.in_openstack() && self.policy(record).rebuilds() => Some("made-anew"),
            Err(Bound::Disks(_)) => Some("local-disk"),
        };
        (true, not)
    }
}
