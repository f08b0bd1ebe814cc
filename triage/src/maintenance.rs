//! A host out of care: nobody shoots it, and nothing of it is started
//! elsewhere, until a person, its return, or its own limit ends that.

use crate::Triage;
use crate::command::Refusal;
use crate::id::HostId;
use crate::record::{HostRecord, Maintenance};
use crate::time::{millis, shown};
use std::time::Duration;

/// That a limit is over stays an alert for this long, if nobody says anything.
const LAPSE_SHOWN_FOR: Duration = Duration::from_secs(15 * 60);
/// Longer than any work on one host; whoever needs more leaves the limit out.
const LIMIT_MAX: Duration = Duration::from_secs(31 * 24 * 3600);

impl Triage {
    pub(crate) fn set_maintenance(&mut self, host: &HostId, wanted: Option<Maintenance>) -> Result<String, Refusal> {
        self.known_host(host)?;
        let limit = wanted.as_ref().and_then(|maintenance| maintenance.limit_ms).map(Duration::from_millis);
        if limit.is_some_and(|limit| limit.is_zero() || limit > LIMIT_MAX) {
            let text = "a limit is between a moment and 31 days; without one it lasts until you end it".to_owned();
            return Err(Refusal { name: "bad-limit", text });
        }
        let until_back = wanted.as_ref().map(|maintenance| maintenance.until_back);
        if let Some(record) = self.durable.hosts.edit(host) {
            record.maintenance = wanted;
            record.maintenance_lapsed.clear();
        }
        match limit {
            Some(limit) => self.maintenance_until.insert(host.clone(), self.now.at.plus(limit)),
            None => self.maintenance_until.remove(host),
        };
        let at_most = limit.map(|limit| format!(", for {} at most", shown(limit))).unwrap_or_default();
        Ok(match until_back {
            Some(true) => format!("{host} is in maintenance until it is back with a new boot{at_most}"),
            Some(false) if limit.is_some() => format!("{host} is in maintenance until you end it{at_most}"),
            Some(false) => format!("{host} is in maintenance until you end it"),
            None => format!("{host} is no longer in maintenance"),
        })
    }

    /// Why a host is not to be judged: an operator's word to us, or to Nova.
    pub(crate) fn maintenance(&self, record: &HostRecord) -> Option<String> {
        let ours = record.maintenance.as_ref().map(|maintenance| maintenance.reason.clone());
        let theirs = Some(&record.cloud_maintenance).filter(|reason| self.in_openstack() && !reason.is_empty());
        ours.or_else(|| theirs.map(|reason| format!("its nova-compute was disabled: {reason}")))
    }

    /// Arms a limit in full: a restart makes no deadline shorter.
    pub(crate) fn arm_maintenance(&mut self) {
        let now = self.now.at;
        for host in self.durable.hosts.iter() {
            let limit = host.maintenance.as_ref().and_then(|maintenance| maintenance.limit_ms);
            let ends = limit.map(|limit| now.plus(Duration::from_millis(limit)));
            let lapsed = (!host.maintenance_lapsed.is_empty()).then(|| now.plus(LAPSE_SHOWN_FOR));
            if let Some(until) = ends.or(lapsed) {
                self.maintenance_until.insert(host.id.clone(), until);
            }
        }
    }

    /// Ends what has lasted as long as it may, and says so.
    pub(crate) fn review_maintenance(&mut self) {
        let now = self.now.at;
        let due = self.maintenance_until.iter().filter(|(_, until)| now >= **until);
        for host in due.map(|(host, _)| host.clone()).collect::<Vec<_>>() {
            self.maintenance_until.remove(&host);
            let Some(record) = self.durable.hosts.edit(&host) else { continue };
            if let Some(ended) = record.maintenance.take() {
                record.maintenance_lapsed = ended.reason;
                self.maintenance_until.insert(host, now.plus(LAPSE_SHOWN_FOR));
            } else {
                record.maintenance_lapsed.clear();
            }
        }
    }
}

/// As a word carries it.
pub(crate) fn limit_ms(limit: Option<Duration>) -> Option<u64> {
    limit.map(millis)
}
