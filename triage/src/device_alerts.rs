//! What people are told of fence devices before the night in which they are
//! needed: those that do not answer, and those whose address is in doubt.

use crate::Triage;
use crate::alert::{Cause, Finding, Lines, Severity, names};
use crate::id::{HostId, SegmentId};
use crate::record::HostRecord;
use std::collections::BTreeSet;

impl Triage {
    fn hosts_unreadable(&self) -> impl Iterator<Item = &HostRecord> {
        self.durable.hosts.iter().filter(|host| !self.unreadable_of(host).is_empty())
    }

    pub(crate) fn device_troubles(&self) -> BTreeSet<Cause> {
        let unreadable = self.hosts_unreadable().map(|host| host.segment.clone());
        let unreadable = unreadable.map(|segment| Cause::DevicesUnreadable { segment });
        let differ = self.strange_offers().into_iter().map(|(host, _)| host.segment.clone());
        unreadable.chain(differ.map(|segment| Cause::DevicesDiffer { segment })).collect()
    }

    /// `told`: of whom the alert has told; after a restart they stay in it until they were read again.
    pub(crate) fn unreadable_finding(&self, segment: &SegmentId, told: &BTreeSet<HostId>) -> Option<Finding> {
        let still = |host: &&HostRecord| {
            let unread = told.contains(&host.id) && self.device(&host.id).is_some() && self.is_unread(&host.id);
            host.segment == *segment && (unread || !self.unreadable_of(host).is_empty())
        };
        let hosts: Vec<&HostRecord> = self.durable.hosts.iter().filter(still).collect();
        let first = *hosts.first()?;
        let said = hosts.iter().find_map(|host| self.unreadable_of(host).into_iter().next());
        let said = said.map(|(device, said)| format!(": {device}: {said}")).unwrap_or_default();
        let all: BTreeSet<HostId> = hosts.iter().map(|host| host.id.clone()).collect();
        let lines = Lines {
            lost: format!(
                "nothing runs less, but fence devices of {} do not answer: who cannot be switched off is not recovered",
                names(&all)
            ),
            doing: format!("asking them again{said}"),
            todo: format!("medevacctl fence-devices list {}", first.id),
        };
        Some(Finding { severity: Severity::Warning, segment: segment.clone(), hosts: all, lines })
    }

    pub(crate) fn differing_finding(&self, segment: &SegmentId, told: &BTreeSet<HostId>) -> Option<Finding> {
        let strange: Vec<(&HostRecord, String)> =
            self.strange_offers().into_iter().filter(|(host, _)| host.segment == *segment).collect();
        // Whose agent has not come back since our start has not taken it back.
        let silent = told.iter().filter(|host| !self.offers.contains_key(*host) && self.host(host).is_some());
        let hosts: BTreeSet<HostId> = strange.iter().map(|(host, _)| host.id.clone()).chain(silent.cloned()).collect();
        let first = hosts.first()?;
        let why = strange.first().map(|(host, why)| format!("{}: {why}", host.id));
        let lines = Lines {
            lost: format!("nothing runs less, but where the fence devices of {} are is in doubt", names(&hosts)),
            doing: why.unwrap_or_else(|| "waiting for their agents to tell again".to_owned()),
            todo: format!("medevacctl fence-devices list {first}"),
        };
        Some(Finding { severity: Severity::Warning, segment: segment.clone(), hosts, lines })
    }

    /// The same for `status`, host by host.
    pub(crate) fn device_alerts(&self) -> Vec<(&'static str, String)> {
        let unreadable = self.hosts_unreadable().flat_map(|host| {
            let all = self.unreadable_of(host).into_iter();
            all.map(|(device, said)| ("MDV-FENCE-UNREADABLE", format!("{}: {device} does not answer: {said}", host.id)))
        });
        let differ = self.strange_offers().into_iter();
        let differ = differ.map(|(host, why)| ("MDV-FENCE-ADDRESS", format!("{}: {why}", host.id)));
        unreadable.chain(differ).collect()
    }
}
