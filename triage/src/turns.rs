//! What the operators' rules make of each instance, and whose turn it is.
//!
//! ```text
//!   tier 1: under way ------> all back, or left, or waiting for a person or their host
//!   tier 2:   waits -------------------------------------------------------------------> goes on
//!   no tier: waits for nobody, after those that may go now
//! ```
//!
//! Nobody is held back for ever: a tier that comes no further loses its precedence.

use crate::Triage;
use crate::cloud::{Mould, Server};
use crate::id::{IncidentId, InstanceId};
use crate::policy::{self, Facts, Policy, Said};
use crate::record::{InstanceRecord, OutcomeState};
use crate::time::{Moment, shown};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::Duration;

/// A tier of which nothing more comes back for this long holds nobody back any
/// more. Longer than Nova takes for a server with all its volumes.
const TIER_UNDER_WAY: Duration = Duration::from_secs(600);
/// The same where all that is left of it waits: for memory, or for an answer.
const TIER_WAITING: Duration = Duration::from_secs(60);

/// What is not known of an instance.
static NO_MOULD: LazyLock<Mould> = LazyLock::new(Mould::default);
static NO_MARKS: BTreeMap<String, String> = BTreeMap::new();

/// How far an incident's tiers have come; a restart counts anew.
#[derive(Debug, Default)]
pub(crate) struct Tiers {
    /// The first tier that is not over, and the name of one in it.
    front: Option<(u32, String)>,
    /// How many of it are not over, and whether any is under way; since then.
    progress: Option<((u32, usize, bool), Moment)>,
    /// Tiers that nobody waits for any longer.
    given_up: BTreeSet<u32>,
    /// These wait for a person or for their host: nobody waits for them.
    stay: BTreeSet<InstanceId>,
}

impl Tiers {
    pub fn stays(&mut self, instance: &InstanceId) {
        self.stay.insert(instance.clone());
    }

    /// Nothing could be done for anybody: nobody's patience ran.
    pub fn stood_still(&mut self) {
        self.progress = None;
    }

    pub fn nobody_stays(&mut self) {
        self.stay.clear();
    }

    pub fn moves(&mut self, instance: &InstanceId) {
        self.stay.remove(instance);
    }
}

impl Triage {
    /// All that is known of an instance; `server` is what was asked for last.
    fn facts<'a>(&'a self, record: &'a InstanceRecord, server: Option<&'a Server>) -> Facts<'a> {
        let openstack = self.in_openstack();
        let host = server.map(|server| &server.host).filter(|host| !host.as_str().is_empty());
        let host = host.unwrap_or(&record.last_host);
        let zone = server.map(|server| &*server.zone).filter(|zone| !zone.is_empty());
        Facts {
            id: &record.id,
            name: (!openstack).then_some(record.name.as_str()),
            zone: zone.or_else(|| self.service(host).map(|service| service.zone.as_str())).unwrap_or_default(),
            aggregates: self.aggregates_of(host).collect(),
            project: server.map_or("", |server| &server.project),
            image: server.map_or(&NO_MOULD, |server| &server.image),
            flavor: server.map_or(&NO_MOULD, |server| &server.flavor),
            metadata: server.map_or(&NO_MARKS, |server| &server.marks),
            marked: record.marked,
            word: record.protect,
        }
    }

    fn known_server(&self, record: &InstanceRecord) -> Option<&Server> {
        self.sight.roster.get(&record.id)
    }

    /// What holds for an instance, as far as its cloud has told.
    pub(crate) fn policy(&self, record: &InstanceRecord) -> Policy {
        self.policy_with(record, self.known_server(record))
    }

    pub(crate) fn policy_with(&self, record: &InstanceRecord, server: Option<&Server>) -> Policy {
        policy::judge(self.settings.protect_all, &self.settings.policies, &self.facts(record, server))
    }

    pub(crate) fn is_protected(&self, record: &InstanceRecord) -> bool {
        self.protection(record).value
    }

    pub(crate) fn protection(&self, record: &InstanceRecord) -> Said<bool> {
        let facts = self.facts(record, self.known_server(record));
        policy::is_protected(self.settings.protect_all, &self.settings.policies, &facts)
    }

    /// Puts those first that come first, and finds out who holds whom back.
    pub(crate) fn take_turns(&mut self, id: IncidentId, affected: &mut [InstanceId]) {
        let policies: BTreeMap<InstanceId, Policy> = affected
            .iter()
            .filter_map(|instance| Some((instance.clone(), self.policy(self.durable.instances.get(instance)?))))
            .collect();
        affected.sort_by_key(|instance| policies.get(instance).map_or((u32::MAX, 0), Policy::rank));
        self.find_front(id, &policies);
    }

    fn find_front(&mut self, id: IncidentId, policies: &BTreeMap<InstanceId, Policy>) {
        let now = self.now.at;
        let mut open: BTreeMap<u32, Vec<(String, bool)>> = BTreeMap::new();
        let incident = self.incident(id).cloned();
        let mut braked = false;
        for (instance, policy) in policies {
            let Some(tier) = policy.tier.as_ref().filter(|_| policy.protected.value) else { continue };
            let state = self.durable.outcome(id, instance).map(|outcome| outcome.state);
            let stays = self.work.get(&id).is_some_and(|work| work.tiers.stay.contains(instance));
            let under_way = match state {
                Some(OutcomeState::Recovered | OutcomeState::Skipped) => continue,
                Some(OutcomeState::Waiting) if stays => continue,
                Some(OutcomeState::Waiting) => false,
                None | Some(OutcomeState::Planned | OutcomeState::Starting) => true,
            };
            let Some(record) = self.durable.instances.get(instance) else { continue };
            braked |= incident.as_ref().is_some_and(|incident| self.brake(incident, record).is_some());
            open.entry(tier.value).or_default().push((record.name.clone(), under_way));
        }
        let tiers = &mut self.work(id).tiers;
        let front = open.into_iter().find(|(tier, _)| !tiers.given_up.contains(tier));
        tiers.front = front.as_ref().and_then(|(tier, of)| Some((*tier, of.first()?.0.clone())));
        let Some((tier, of)) = front else { return };
        let under_way = of.iter().any(|(_, under_way)| *under_way);
        let progress = (tier, of.len(), under_way);
        let since = match tiers.progress {
            // While a pause or an approval stops everybody, nobody can come back.
            Some((known, since)) if known == progress && !braked => since,
            _ => now,
        };
        tiers.progress = Some((progress, since));
        let patience = if under_way { TIER_UNDER_WAY } else { TIER_WAITING };
        if now.since(since) < patience {
            return;
        }
        tiers.given_up.insert(tier);
        tiers.front = None;
        let names = of.into_iter().map(|(name, _)| name).take(5).collect::<Vec<_>>().join(", ");
        let text =
            format!("nobody waits for tier {tier} any longer, as nothing of it came back for {}", shown(patience));
        self.log(id, "tier", format!("{text}: {names}"));
    }

    /// Somebody of an earlier tier is still to come.
    pub(crate) fn held_back(&self, id: IncidentId, policy: &Policy) -> Option<String> {
        let (front, name) = self.work.get(&id)?.tiers.front.as_ref()?;
        let tier = policy.tier.as_ref()?.value;
        (*front < tier).then(|| format!("waits for tier {front}: {name}"))
    }
}
