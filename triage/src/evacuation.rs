//! Bringing Nova's servers back: the same proof and the same homes as
//! everywhere, but it is Nova that places and starts.
//!
//! ```text
//!   proof -> forced down -> disabled
//!               \-> its servers listed to the end, and compared with what its agent showed
//!                      \-> each: Planned --window, nothing bars--> Starting --Nova: done--> Recovered
//!                                   ^  \--state, disks, a home--> Waiting  \--failed--> Planned (three times)
//!                                   +-----------------------------------------/
//! ```
//!
//! Nova has no guard against a second evacuation of a server and breaks it. So
//! an evacuation that may have reached Nova bars every other act on its server
//! until Nova shows what became of it, or shows for long that it never came.

use crate::Triage;
use crate::cloud::{CloudAct, Server, ServiceHold, WINDOW_FIRST};
use crate::id::{HostId, IncidentId, InstanceId};
use crate::record::{Home, HomeWhy, IncidentRecord, InstanceRecord, OutcomeState, StepKind};
use crate::recovery::DELETED;
use crate::servers::{Fate, fate, is_set_aside};
use crate::service::TRY_AGAIN;
use crate::standing::Standing;
use crate::target::{Bound, MANAGED_SAVE};
use crate::time::Moment;
use std::collections::{BTreeMap, BTreeSet};

/// The reason of a step that certainly changed nothing.
pub(crate) const NOT_SENT: &str = "it never left";
/// A server that failed this often is given to a person.
const TRIES_MAX: usize = 3;

/// What is to become of one server now.
enum Next {
    Outcome(OutcomeState, Option<HostId>, String),
    /// It waits for a person, or for its host: nobody waits for it.
    Stays(String),
    Evacuate {
        target: Option<HostId>,
        why: String,
        /// The disk that is lost, and made anew.
        anew: Option<String>,
    },
    /// What plain libvirt would do as well: an incoming copy, a start at home.
    Plain,
}

impl Triage {
    pub(crate) fn review_evacuations(&mut self, incident: &IncidentRecord, host: &HostId) {
        let id = incident.id;
        let from = self.work(id).fresh_from;
        // Only the newest boot's death empties a host: a new one has its guests at home.
        let gone = self.is_gone(host);
        let mut bar = self.site_brake(incident);
        // Nova is told as soon as the proof stands, beside whatever the agents are asked.
        if gone && bar.is_none() {
            bar = self.taken_out(incident, host).err();
            self.read_ahead(incident, host);
        }
        if !self.fresh_inventories(from) {
            return;
        }
        if !gone {
            return self.review_return(incident, host);
        }
        let (servers, whole) = match bar.map_or_else(|| self.servers_of(host, from), Err) {
            Ok(found) => found,
            Err(why) => return self.all_wait(incident, host, &why),
        };
        self.meet_servers(host, &servers);
        for instance in self.in_turn(incident, host, &servers) {
            // Whom only a newer list may name is judged by that one.
            if whole || servers.contains_key(&instance) {
                self.advance_server(incident, host, &instance, servers.get(&instance));
            }
        }
        self.follow_moves(id, host);
        self.disabled(id, host);
        if whole {
            return self.conclude(id, host);
        }
        // After the first evacuations: Nova answers in turn.
        let _ = self.listed(host, from);
    }

    /// The servers of a dead host; `false` with a list that only names whom to begin with.
    fn servers_of(&mut self, host: &HostId, from: Moment) -> Result<(BTreeMap<InstanceId, Server>, bool), String> {
        match self.listed_since(host, from) {
            Some(servers) => Ok((servers, true)),
            None => match self.listed_ahead(host) {
                Some(servers) => Ok((servers, false)),
                None => self.listed(host, from).map(|servers| (servers, true)),
            },
        }
    }

    /// Everybody whom the death of a host concerns, those first that come first.
    fn in_turn(
        &mut self,
        incident: &IncidentRecord,
        host: &HostId,
        servers: &BTreeMap<InstanceId, Server>,
    ) -> Vec<InstanceId> {
        let mut affected = self.lost_with(incident, host);
        let known: BTreeSet<InstanceId> = affected.iter().cloned().collect();
        affected.extend(servers.keys().filter(|id| !known.contains(*id)).cloned());
        // Those that ran come first; what stood still can wait. Tiers and priorities come before that.
        affected.sort_by_key(|id| servers.get(id).is_none_or(|server| fate(server) == Fate::EvacuateStopped));
        self.take_turns(incident.id, &mut affected);
        affected
    }

    /// Nova is asked about those that will go first while it is told that their host is down.
    fn read_ahead(&mut self, incident: &IncidentRecord, host: &HostId) {
        if std::mem::replace(&mut self.work(incident.id).read_ahead, true) {
            return;
        }
        let Some(servers) = self.listed_ahead(host) else { return };
        let mut instances = self.in_turn(incident, host, &servers);
        let goes = |server: &Server| matches!(fate(server), Fate::Evacuate | Fate::EvacuateStopped);
        instances.retain(|instance| servers.get(instance).is_some_and(goes));
        instances.truncate(self.sight.window.unwrap_or(WINDOW_FIRST));
        self.act(CloudAct::ReadAhead { instances });
    }

    /// What holds for every server of an incident.
    fn site_brake(&self, incident: &IncidentRecord) -> Option<String> {
        if let Some(reason) = self.durable.site().paused {
            return Some(format!("everything is paused: {reason}"));
        }
        if self.mode(&incident.segment) == crate::Mode::Observe {
            return Some("mode observe: nothing is started".to_owned());
        }
        None
    }

    /// Nothing can be done for any of them now. Those under way are followed all the same.
    fn all_wait(&mut self, incident: &IncidentRecord, host: &HostId, why: &str) {
        self.work(incident.id).tiers.stood_still();
        for instance in self.lost_with(incident, host) {
            let Some(record) = self.durable.instances.get(&instance).cloned() else { continue };
            let state = self.durable.outcome(incident.id, &instance).map(|outcome| outcome.state);
            if matches!(state, None | Some(OutcomeState::Planned | OutcomeState::Waiting)) {
                self.tell_outcome(incident.id, &record, OutcomeState::Waiting, None, why);
            }
        }
        self.follow_moves(incident.id, host);
        self.conclude(incident.id, host);
    }

    /// Servers that Nova places there and no agent ever showed get a record, so
    /// that each has an outcome.
    fn meet_servers(&mut self, host: &HostId, servers: &BTreeMap<InstanceId, Server>) {
        for server in servers.values() {
            if self.durable.instances.get(&server.id).is_none() {
                let record = InstanceRecord {
                    id: server.id.clone(),
                    name: server.name.clone(),
                    last_host: host.clone(),
                    memory_kib: server.memory_kib,
                    wanted: server.vm_state == "active",
                    ..InstanceRecord::default()
                };
                self.durable.index(&record);
                self.durable.instances.put(record);
            }
        }
    }

    fn advance_server(
        &mut self,
        incident: &IncidentRecord,
        source: &HostId,
        instance: &InstanceId,
        server: Option<&Server>,
    ) {
        self.heed_reset(instance, server);
        let Some(record) = self.durable.instances.get(instance).cloned() else { return };
        let state = self.durable.outcome(incident.id, instance).map(|outcome| outcome.state);
        if matches!(state, Some(OutcomeState::Recovered | OutcomeState::Skipped)) || record.moving.is_some() {
            return;
        }
        let next = self.next_for(incident, source, &record, server);
        let tiers = &mut self.work(incident.id).tiers;
        match &next {
            Next::Stays(_) => tiers.stays(instance),
            _ => tiers.moves(instance),
        }
        match next {
            Next::Outcome(state, host, text) => self.tell_outcome(incident.id, &record, state, host, &text),
            Next::Stays(text) => self.tell_outcome(incident.id, &record, OutcomeState::Waiting, None, &text),
            Next::Evacuate { target, why, anew } => {
                self.order_evacuation(incident.id, record, (source, target), anew, &why);
            }
            Next::Plain => self.advance(incident.id, instance),
        }
    }

    /// Of a server of a dead host only a person can make active what was paused, or the like: it is to
    /// run, and the memory that it had is given up.
    fn heed_reset(&mut self, instance: &InstanceId, server: Option<&Server>) {
        let known = self.durable.instances.get(instance).is_some_and(|record| record.set_aside);
        let Some(server) = server else { return };
        if !known && is_set_aside(server) {
            if let Some(record) = self.durable.instances.edit(instance) {
                record.set_aside = true;
            }
        } else if known
            && server.vm_state == "active"
            && let Some(record) = self.durable.instances.edit(instance)
        {
            record.set_aside = false;
            record.wanted = true;
            record.local_only.retain(|reason| reason != MANAGED_SAVE);
        }
    }

    fn next_for(
        &mut self,
        incident: &IncidentRecord,
        source: &HostId,
        record: &InstanceRecord,
        server: Option<&Server>,
    ) -> Next {
        let wait = |text: String| Next::Outcome(OutcomeState::Waiting, None, text);
        let skip = |text: &str| Next::Outcome(OutcomeState::Skipped, None, text.to_owned());
        if let Some(host) = self.runs_on(record) {
            return Next::Outcome(OutcomeState::Recovered, Some(host.clone()), format!("runs on {host}"));
        }
        let Some(server) = server else { return self.account_for(incident.id, source, record) };
        if server.is_hollow() {
            return wait("Nova names it and does not show its state: can its cell's database be reached?".to_owned());
        }
        let policy = self.policy_with(record, Some(server));
        if !policy.protected.value {
            return skip(&format!("it is not protected: {}", policy.protected.rule));
        }
        let stopped = match fate(server) {
            Fate::Evacuate => false,
            Fate::EvacuateStopped => true,
            Fate::Wait(why) => return Next::Stays(format!("it is {}: {why}", server.vm_state)),
            Fate::Skip(why) => return skip(why),
        };
        if !stopped && !record.wanted {
            // A server that stood still and could not be moved Nova calls broken, and starts it the next time.
            let failed = self.failed_at(incident.id, &record.id).pop();
            let vain = failed.map(|(_, why)| format!("evacuated in vain: {why}; ")).unwrap_or_default();
            let text = "it was stopped or paused by its user, and Nova would start it; is it to run?";
            return Next::Stays(format!("{vain}{text} medevacctl recover {} --reason '...'", record.id));
        }
        if record.homes.iter().any(|(host, home)| home.incoming && !self.is_dead(host, &home.boot)) {
            return Next::Plain;
        }
        let anew = match self.recoverable_elsewhere(record) {
            Err(Bound::Disks(why)) if policy.rebuilds() => Some(why),
            Err(why) => return Next::Stays(format!("it waits for {source}: {why}")),
            Ok(()) => None,
        };
        if let Some(why) = self.brake(incident, record) {
            return wait(why);
        }
        if let Some(why) = self.held_back(incident.id, &policy) {
            return Next::Outcome(OutcomeState::Planned, None, why);
        }
        self.place_server(incident, source, record, anew)
    }

    /// Named by its agent, but not by Nova's list: nothing is lost silently.
    fn account_for(&mut self, id: IncidentId, source: &HostId, record: &InstanceRecord) -> Next {
        let from = self.work(id).fresh_from;
        let text = |why: String| Next::Outcome(OutcomeState::Waiting, None, format!("not accounted for: {why}"));
        match self.found(&record.id, from) {
            None => text("Nova's list does not name it, and Nova is asked about it".to_owned()),
            Some(Ok(None)) => {
                self.was_deleted(&record.id);
                Next::Outcome(OutcomeState::Skipped, None, DELETED.to_owned())
            }
            Some(Ok(Some(server))) if server.host == *source => {
                self.list_again(id);
                text(format!("Nova places it on {source}, and yet its list does not name it"))
            }
            Some(Ok(Some(server))) => {
                self.list_again(id);
                text(format!("Nova places it on {}, where no agent shows it", server.host))
            }
            Some(Err(why)) => {
                self.list_again(id);
                text(why)
            }
        }
    }

    /// What is left of it on its host is nobody's to start, once that is back.
    pub(crate) fn was_deleted(&mut self, instance: &InstanceId) {
        if let Some(record) = self.durable.instances.edit(instance) {
            record.wanted = false;
        }
    }

    /// What was told is doubted: asked again after a while.
    fn list_again(&mut self, id: IncidentId) {
        let now = self.now.at;
        let work = self.work(id);
        if work.retry_at.is_none_or(|at| now >= at) {
            work.retry_at = Some(now.plus(TRY_AGAIN));
            work.fresh_from = now;
        }
    }

    fn place_server(
        &mut self,
        incident: &IncidentRecord,
        source: &HostId,
        record: &InstanceRecord,
        anew: Option<String>,
    ) -> Next {
        let wait = |text: String| Next::Outcome(OutcomeState::Waiting, None, text);
        let failed = self.failed_at(incident.id, &record.id);
        let tries_max = TRIES_MAX + self.reserves_tried(incident, &record.id);
        if let Some((_, why)) = failed.last().filter(|_| failed.len() >= tries_max) {
            return Next::Stays(format!("evacuated {} times in vain, the last time: {why}", failed.len()));
        }
        let due = self.sight.again.get(&record.id).is_none_or(|at| self.now.at >= *at);
        let full = self.moves_under_way() >= self.sight.window.unwrap_or(WINDOW_FIRST);
        if full || !due {
            return Next::Outcome(OutcomeState::Planned, None, "next in turn".to_owned());
        }
        let reserved = match self.reserved_target(incident, source, record, anew.is_some()) {
            Ok(reserved) => reserved,
            Err(why) => return wait(why),
        };
        let target = match (reserved, self.goes_astray(source, record, anew.is_some())) {
            (Some(host), _) => Some((host, "it is reserved".to_owned())),
            (None, None) => None,
            (None, Some(because)) => match self.choose_target(incident.id, record, std::slice::from_ref(source)) {
                Ok(score) => Some((score.host, because)),
                Err(why) => return wait(why),
            },
        };
        let host = target.as_ref().map(|(host, _)| host.clone());
        if let Some(bar) = self.bars_move(record, host.as_ref()) {
            return wait(bar);
        }
        let why = match target {
            None => "Nova chooses the host".to_owned(),
            Some((host, because)) => format!("to {host}, {because}"),
        };
        Next::Evacuate { target: host, why, anew }
    }

    /// Why Nova is not to choose the host: it might choose one that is about to die, or
    /// one that does not read the disks, where it would make them anew without a word.
    fn goes_astray(&self, source: &HostId, record: &InstanceRecord, rebuilds: bool) -> Option<String> {
        if let Some(suspect) = self.somebody_is_suspect(source) {
            return Some(format!("because {suspect} is suspect"));
        }
        if self.sight.services_at.is_none() {
            return Some("because Nova has not told of its computes since our start".to_owned());
        }
        // One that is down, or that we have taken out, may be open to it by the time at which Nova chooses.
        let ours = |host: &HostId| self.host(host).is_some_and(|record| record.service != ServiceHold::default());
        let open = self.sight.services.values().filter(|service| service.enabled || ours(&service.host));
        let mut others = open.map(|service| &service.host).filter(|host| *host != source);
        let lacking = others.find(|host| !rebuilds && self.reaches_disks(record, host).is_err());
        lacking.map(|host| format!("because {host} does not read its disks"))
    }

    /// Somebody whom Nova's scheduler might choose and who may be about to die.
    fn somebody_is_suspect(&self, source: &HostId) -> Option<HostId> {
        let doubtful = |host: &&crate::HostRecord| {
            host.id != *source
                && !matches!(self.standing(host), Standing::Heard)
                && self.service(&host.id).is_none_or(|service| service.up && service.enabled)
        };
        self.durable.hosts.iter().find(doubtful).map(|host| host.id.clone())
    }

    fn moves_under_way(&self) -> usize {
        self.durable.instances.iter().filter(|record| record.moving.is_some()).count()
    }

    fn order_evacuation(
        &mut self,
        id: IncidentId,
        mut record: InstanceRecord,
        (source, target): (&HostId, Option<HostId>),
        anew: Option<String>,
        why: &str,
    ) {
        let deadline = self.settings.cloud_deadline;
        let instance = record.id.clone();
        let lost = anew.as_ref().map(|disk| format!("; its disk is made anew: {disk}")).unwrap_or_default();
        let (of, to) = (instance.clone(), target.clone());
        let what = StepKind::Evacuate { instance: of, source: source.clone(), target: to, anew };
        let precondition = "its host is proven dead and forced down; no home is left; fresh inventories";
        let Some(step) = self.order_step(id, what, deadline, precondition) else { return };
        record.homes.retain(|host, home| !self.is_dead(host, &home.boot));
        record.moving = Some(step);
        if let Some((host, boot)) =
            target.as_ref().and_then(|host| Some((host, self.host(host)?.boots.last()?.clone())))
        {
            record.homes.insert(host.clone(), Home { boot, why: HomeWhy::Ordered(step), incoming: false });
        }
        self.durable.index(&record);
        self.durable.instances.put(record.clone());
        let text = format!("evacuation ordered ({why}{lost})");
        self.tell_outcome(id, &record, OutcomeState::Starting, target.clone(), &text);
        self.step_until.insert(step, self.now.at.plus(deadline));
        let source = source.clone();
        self.act(CloudAct::Evacuate { step, instance, source, target, deadline, abandoned: record.abandoned });
    }

    /// The host runs a new boot: what is under way is followed to its end, what
    /// is not starts at home once nova-compute is there.
    fn review_return(&mut self, incident: &IncidentRecord, host: &HostId) {
        self.service_is_back(incident.id, host);
        let mut affected = self.lost_with(incident, host);
        // Their host is back: those that waited for it go before others again.
        self.work(incident.id).tiers.nobody_stays();
        self.take_turns(incident.id, &mut affected);
        for instance in affected {
            let moving = self.durable.instances.get(&instance).is_some_and(|record| record.moving.is_some());
            if !moving {
                self.advance(incident.id, &instance);
            }
        }
        self.follow_moves(incident.id, host);
        self.conclude(incident.id, host);
    }
}
