//! All servers as the cloud told of them last, for what is shown and judged
//! while all is well. When a host dies its own list is newer, and counts.
//!
//! With a cell's database down Nova leaves its servers out of a list, or names
//! them and says nothing of them: what was known of those stays.

use crate::Triage;
use crate::cloud::Server;
use crate::id::{HostId, IncidentId, InstanceId};
use crate::record::{IncidentRecord, InstanceRecord, OutcomeRecord, OutcomeState, Phase};
use std::collections::BTreeMap;

impl Server {
    /// Nova names it, and can say no more: its cell cannot be asked.
    pub(crate) fn is_hollow(&self) -> bool {
        self.vm_state.is_empty()
    }
}

impl Triage {
    pub(crate) fn take_roster(&mut self, servers: Vec<Server>) {
        let before = std::mem::take(&mut self.sight.roster);
        self.meet(servers);
        self.sight.roster_told = true;
        self.look_for_the_missing();
        // Whoever an agent shows is there, whatever the list says.
        let missed = before.into_iter().filter(|(id, _)| !self.sight.roster.contains_key(id) && self.has_home(id));
        let missed: BTreeMap<InstanceId, Server> = missed.collect();
        self.sight.roster.extend(missed);
        self.care_is_stale = true;
    }

    /// A server that waits and is listed no longer may have been deleted meanwhile: its host's
    /// list is read anew, and Nova is asked about the server.
    fn look_for_the_missing(&mut self) {
        let now = self.now.at;
        let waits = |incident: &&IncidentRecord| incident.phase == Phase::Waiting;
        let waiting: Vec<IncidentId> = self.durable.incidents.iter().filter(waits).map(|of| of.id).collect();
        for id in waiting {
            let missing = |outcome: &&OutcomeRecord| {
                outcome.state == OutcomeState::Waiting && !self.sight.roster.contains_key(&outcome.instance)
            };
            if self.durable.outcomes_of(id).iter().any(missing) {
                let work = self.work(id);
                work.fresh_from = now;
                work.restless = true;
            }
        }
    }

    pub(crate) fn is_listed_nowhere(&self, record: &InstanceRecord) -> bool {
        self.in_openstack() && self.sight.roster_told && !self.sight.roster.contains_key(&record.id)
    }

    /// What is newer than the roster.
    pub(crate) fn meet(&mut self, servers: impl IntoIterator<Item = Server>) {
        for server in servers.into_iter().filter(|server| !server.is_hollow()) {
            let renamed = |record: &&InstanceRecord| !server.name.is_empty() && record.name != server.name;
            if self.durable.instances.get(&server.id).filter(renamed).is_some()
                && let Some(record) = self.durable.instances.edit(&server.id)
            {
                record.name.clone_from(&server.name);
            }
            self.sight.roster.insert(server.id.clone(), server);
        }
    }

    /// Its owner's name for it: an agent knows only libvirt's, such as `instance-0000002a`.
    pub(crate) fn name_in_cloud(&self, record: &InstanceRecord) -> Option<String> {
        let told = self.sight.roster.get(&record.id).map(|server| &server.name);
        let name = told.filter(|name| !name.is_empty()).unwrap_or(&record.name);
        (self.in_openstack() && !name.is_empty()).then(|| name.clone())
    }

    fn has_home(&self, instance: &InstanceId) -> bool {
        self.durable.instances.get(instance).is_some_and(|record| !record.homes.is_empty())
    }

    /// Nova's hosts on which nobody speaks to us: nothing is known of them, and nothing done.
    pub(crate) fn hosts_without_agent(&self) -> impl Iterator<Item = &HostId> {
        self.sight.services.keys().filter(|host| self.host(host).is_none())
    }

    /// Servers on such hosts.
    pub(crate) fn strangers(&self) -> impl Iterator<Item = &Server> {
        self.sight.roster.values().filter(|server| self.is_stranger(server))
    }

    pub(crate) fn is_stranger(&self, server: &Server) -> bool {
        let strange = !server.host.as_str().is_empty() && self.host(&server.host).is_none();
        strange && self.durable.instances.get(&server.id).is_none()
    }
}
