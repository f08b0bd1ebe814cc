//! Where to start an instance: scores that sort, and print as the answer to
//! "why host B".

use crate::Triage;
use crate::id::{HostId, IncidentId, SegmentId};
use crate::record::{HostRecord, InstanceRecord, StepKind, StepState};
use crate::standing::Standing;
use std::fmt;

/// Fields in order of importance: the greatest score wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Score {
    /// It is already defined there: nothing new can be rejected.
    pub defined: bool,
    /// Memory left above the reserve once it runs there, in MiB.
    pub spare_mib: u64,
    /// Ties are settled by name, so that a replay chooses the same.
    pub host: HostId,
}

/// As agents call what lies in a drive: a config drive, which Nova makes anew, or somebody's CD.
const LOCAL_MEDIUM: &str = "local medium";
/// As agents call a memory image that libvirt keeps for the next start.
pub(crate) const MANAGED_SAVE: &str = "managed save";

/// What keeps an instance on its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    /// Its state or the host itself: nothing can be done about it elsewhere.
    Host(String),
    /// Its disks alone: a cloud that has an image of it can make them anew.
    Disks(String),
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Bound::Host(why) | Bound::Disks(why)) = self;
        f.write_str(why)
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let defined = if self.defined { ", already defined there" } else { "" };
        write!(f, "{}: {} MiB spare{defined}", self.host, self.spare_mib)
    }
}

impl Triage {
    /// The best target for an instance, or why there is none.
    pub(crate) fn choose_target(
        &self,
        incident: IncidentId,
        record: &InstanceRecord,
        not: &[HostId],
    ) -> Result<Score, String> {
        let rebuilds = self.in_openstack() && self.policy(record).rebuilds();
        match bound_to_host(record) {
            Err(Bound::Disks(_)) if rebuilds => {}
            other => other.map_err(|bound| bound.to_string())?,
        }
        let segment = self.segment_at_home(record);
        let mut scores = Vec::new();
        let mut refused = Vec::new();
        for host in self.durable.hosts.iter().filter(|host| host.segment == segment && !not.contains(&host.id)) {
            match self.score(incident, record, host, rebuilds) {
                Ok(score) => scores.push(score),
                Err(why) => refused.push(format!("{}: {why}", host.id)),
            }
        }
        scores.into_iter().max().ok_or_else(|| {
            if refused.is_empty() {
                "no other host is there".to_owned()
            } else {
                format!("no target: {}", refused.join("; "))
            }
        })
    }

    /// Where its host belongs: one about which an incident is open stays in the segment in which that was
    /// opened, and the others may have left it meanwhile.
    pub(crate) fn segment_at_home(&self, record: &InstanceRecord) -> SegmentId {
        let held = || self.host(&record.last_host).map(|host| host.segment.clone());
        self.segment_by_rule(&record.last_host).or_else(held).unwrap_or_default()
    }

    fn score(
        &self,
        incident: IncidentId,
        record: &InstanceRecord,
        host: &HostRecord,
        rebuilds: bool,
    ) -> Result<Score, String> {
        self.can_take(host)?;
        self.reserve_bars(incident, host)?;
        if self.in_openstack() {
            self.service_takes(&host.id)?;
        }
        if !rebuilds {
            self.reaches_disks(record, &host.id)?;
        }
        if let Some(why) = self.refused_by(incident, record, &host.id) {
            return Err(why);
        }
        let spare = self.spare_kib(&host.id)?;
        let left = spare.checked_sub(record.memory_kib).ok_or_else(|| {
            format!("{} MiB free above the reserve, {} needed", spare / 1024, record.memory_kib / 1024)
        })?;
        Ok(Score { defined: record.defined_on.contains(&host.id), spare_mib: left / 1024, host: host.id.clone() })
    }

    /// Nothing about the host itself speaks against starts there.
    pub(crate) fn can_take(&self, host: &HostRecord) -> Result<(), String> {
        let standing = self.standing(host);
        if standing != Standing::Heard || !self.streams(&host.id) {
            return Err(format!("it is {}", standing.name()));
        }
        if self.maintenance(host).is_some() {
            return Err("it is in maintenance".to_owned());
        }
        if host.cloned.is_some() {
            return Err("its identity was seen in two places".to_owned());
        }
        let live = self.watches.get(&host.id).and_then(|watch| watch.session.as_ref());
        if !live.is_some_and(|live| live.libvirt_answers) {
            return Err("its libvirt does not answer".to_owned());
        }
        Ok(())
    }

    /// Nova would place servers there.
    fn service_takes(&self, host: &HostId) -> Result<(), String> {
        if let Some(why) = self.service_bars(host) {
            return Err(why);
        }
        match self.service(host) {
            Some(service) if !service.enabled => {
                Err(format!("its nova-compute is disabled: {}", service.disabled_reason))
            }
            _ => Ok(()),
        }
    }

    /// Memory above the reserve, less what starts under way there will take.
    fn spare_kib(&self, host: &HostId) -> Result<u64, String> {
        let live = self.watches.get(host).and_then(|watch| watch.session.as_ref());
        let free = live.map_or(0, |live| live.memory_available_kib);
        let taken: u64 = self.starts_under_way(host).iter().map(|record| record.memory_kib).sum();
        free.checked_sub(self.settings.memory_reserve_kib + taken).ok_or_else(|| {
            format!(
                "{} MiB free is not above the reserve of {} MiB",
                free / 1024,
                self.settings.memory_reserve_kib / 1024
            )
        })
    }

    /// Instances whose start at this host is not settled.
    pub(crate) fn starts_under_way(&self, host: &HostId) -> Vec<InstanceRecord> {
        let near = self.durable.instances_near(host);
        let pending = |record: &&InstanceRecord| record.homes.get(host).is_some_and(|home| self.is_pending(&home.why));
        near.iter().filter_map(|id| self.durable.instances.get(id)).filter(pending).cloned().collect()
    }

    /// What this host answered when it refused this start; an operator's `retry` asks it once more.
    pub(crate) fn refused_by(&self, incident: IncidentId, record: &InstanceRecord, host: &HostId) -> Option<String> {
        let from = self.incident(incident).map_or(0, |incident| incident.retried_from);
        let steps = self.durable.steps_of(incident);
        steps.iter().rev().filter(|step| step.id.step >= from).find_map(|step| match (&step.what, &step.state) {
            (StepKind::Start { instance, target, .. }, StepState::Refused { reason })
                if *instance == record.id && target == host =>
            {
                Some(format!("it refused this start: {reason:.120}"))
            }
            _ => None,
        })
    }

    /// Whether it could run on any other host, computed while all is well and shown with its reason.
    pub(crate) fn recoverable_elsewhere(&self, record: &InstanceRecord) -> Result<(), Bound> {
        bound_to_host(record)?;
        let segment = self.segment_at_home(record);
        let mut why = None;
        for host in self.durable.hosts.iter().filter(|h| h.segment == segment && h.id != record.last_host) {
            match self.unreached(record, &host.id) {
                None => return Ok(()),
                Some(unreached) => why = Some((unreached, &host.id)),
            }
        }
        Err(why.map_or_else(
            || Bound::Host("no other host has joined".to_owned()),
            |(unreached, host)| Bound::Disks(unreached.told(host)),
        ))
    }

    /// Every disk lies on a network disk, or beside a marker that the target reads too.
    pub(crate) fn reaches_disks(&self, record: &InstanceRecord, host: &HostId) -> Result<(), String> {
        self.unreached(record, host).map_or(Ok(()), |unreached| Err(unreached.told(host)))
    }

    /// The first disk that a host does not reach. Asked for every host: words are made of it later, if at all.
    fn unreached<'a>(&self, record: &'a InstanceRecord, host: &HostId) -> Option<Unreached<'a>> {
        let stock = self.watches.get(host).and_then(|watch| watch.inventory.as_ref());
        record.disks.iter().filter(|disk| !disk.network).find_map(|disk| match (&disk.marker, stock) {
            (None, _) => Some(Unreached::Local(&disk.path)),
            (_, None) => Some(Unreached::Unknown),
            (Some(marker), Some(stock)) => {
                let read = stock.inventory.storage.values().any(|read| read == marker);
                (!read).then_some(Unreached::Elsewhere(&disk.path))
            }
        })
    }
}

/// Why a host does not reach a disk.
enum Unreached<'a> {
    Local(&'a str),
    Unknown,
    Elsewhere(&'a str),
}

impl Unreached<'_> {
    fn told(&self, host: &HostId) -> String {
        match self {
            Unreached::Local(path) => format!("{path} is not known to be on shared storage"),
            Unreached::Unknown => format!("{host} has not shown which storage it reads"),
            Unreached::Elsewhere(path) => format!("{path} is on storage that {host} does not read"),
        }
    }
}

/// What binds an instance to its host whatever the target.
fn bound_to_host(record: &InstanceRecord) -> Result<(), Bound> {
    let medium = |reason: &&String| reason.starts_with(LOCAL_MEDIUM);
    if let Some(reason) = record.local_only.iter().find(|reason| !medium(reason)) {
        return Err(Bound::Host(format!("bound to its host: {reason}")));
    }
    if record.xml_hash.is_empty() {
        return Err(Bound::Host("its definition is not known".to_owned()));
    }
    match record.local_only.first() {
        Some(reason) => Err(Bound::Disks(format!("bound to its host: {reason}"))),
        None => Ok(()),
    }
}
