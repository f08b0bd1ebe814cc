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
use crate::cloud::{CloudAct, ComputeService, Course, Move, Server, ServiceHold, TOO_MANY, WINDOW_FIRST, WINDOW_MAX};
use crate::id::{HostId, IncidentId, InstanceId, StepId};
use crate::observation::{Outcome, RunState, StopReason};
use crate::record::{Home, HomeWhy, IncidentRecord, InstanceRecord, OutcomeState, StepKind, StepRecord, StepState};
use crate::servers::{Fate, fate};
use crate::standing::Standing;
use crate::target::Bound;
use crate::time::millis;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Nova is asked how far evacuations are this often: one question for all of a host.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);
/// An evacuation whose answer was lost and of which Nova has shown no trace for
/// this long never came: Nova notes it before it does anything, and no proxy
/// holds a request for so long.
const UNSEEN_FOR: Duration = Duration::from_secs(60);
/// Names of evacuations kept with a server: the newest are what a lost answer is told from.
const REQUESTS_KEPT: usize = 4;
/// A server that failed this often is given to a person.
const TRIES_MAX: usize = 3;
/// A step of the control plane that was refused, lost or failed is tried again after this.
pub(crate) const TRY_AGAIN: Duration = Duration::from_secs(5);
/// Un-forcing is refused while Nova clears up: asked again sooner, as servers wait for it.
const UNFORCE_AGAIN: Duration = Duration::from_secs(2);

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
    pub(crate) fn review_evacuations(&mut self, id: IncidentId, host: &HostId) {
        let Some(incident) = self.incident(id).cloned() else { return };
        let from = self.work(id).fresh_from;
        // Only the newest boot's death empties a host: a new one has its guests at home.
        if !self.is_gone(host) {
            return self.review_return(&incident, host);
        }
        if let Some(why) = self.site_brake(&incident) {
            return self.all_wait(&incident, host, &why);
        }
        if let Err(why) = self.taken_out(&incident, host) {
            return self.all_wait(&incident, host, &why);
        }
        let (servers, whole) = match self.listed(host, from) {
            Ok(servers) => (servers, true),
            Err(why) => match self.listed_ahead(host) {
                Some(servers) => (servers, false),
                None => return self.all_wait(&incident, host, &why),
            },
        };
        self.meet_servers(host, &servers);
        let mut affected = self.lost_with(&incident, host);
        let known: BTreeSet<InstanceId> = affected.iter().cloned().collect();
        affected.extend(servers.keys().filter(|id| !known.contains(*id)).cloned());
        // Those that ran come first; what stood still can wait. Tiers and priorities come before that.
        affected.sort_by_key(|id| servers.get(id).is_none_or(|server| fate(server) == Fate::EvacuateStopped));
        self.take_turns(id, &mut affected);
        // Whom only a newer list may name is judged by that one.
        affected.retain(|instance| whole || servers.contains_key(instance));
        for instance in affected {
            self.advance_server(&incident, host, &instance, servers.get(&instance));
        }
        self.follow_moves(id, host);
        if whole {
            self.conclude(id, host);
        }
    }

    /// Nova is told as soon as the proof stands, beside whatever else is asked.
    pub(crate) fn hasten(&mut self, incident: &IncidentRecord, host: &HostId) {
        if self.in_openstack() && self.is_gone(host) && self.site_brake(incident).is_none() {
            let _ = self.taken_out(incident, host);
        }
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

    /// Forced down first: a host that Nova believes up takes a minute to be
    /// disabled, and none of its servers would be evacuated.
    fn taken_out(&mut self, incident: &IncidentRecord, host: &HostId) -> Result<(), String> {
        let id = incident.id;
        let down = StepKind::ForceDown { host: host.clone() };
        let what = |step| CloudAct::ForceDown { step, host: host.clone() };
        let state = self.cloud_step(id, down, "the host is proven dead", TRY_AGAIN, what);
        if !matches!(state, StepState::Done { .. }) {
            return Err(format!("Nova has to be told first that {host} is down: {}", step_text(&state)));
        }
        let reason = format!("medevac {id}: {host} is dead");
        let disable = StepKind::Disable { host: host.clone(), reason: reason.clone() };
        let enabled = self.service(host).is_none_or(|service| service.enabled);
        let begun = self.newest_step(id, |what| *what == disable).is_some();
        if enabled || begun {
            let what = |step| CloudAct::Disable { step, host: host.clone(), reason: reason.clone() };
            self.cloud_step(id, disable, "it is forced down", TRY_AGAIN, what);
        }
        Ok(())
    }

    /// A step that may be repeated without harm: committed once, sent until it is answered.
    pub(crate) fn cloud_step(
        &mut self,
        id: IncidentId,
        what: StepKind,
        precondition: &str,
        again: Duration,
        act: impl FnOnce(StepId) -> CloudAct,
    ) -> StepState {
        let now = self.now.at;
        if let Some(step) = self.newest_step(id, |known| *known == what) {
            let due = self.step_until.get(&step.id).is_none_or(|until| now >= *until);
            let open = !matches!(step.state, StepState::Done { .. });
            if open && due && self.durable.site().paused.is_none() {
                let wait = if step.state == StepState::Ordered { self.settings.cloud_deadline } else { again };
                self.step_until.insert(step.id, now.plus(wait));
                self.act(act(step.id));
            }
            return step.state;
        }
        let deadline_ms = millis(self.settings.cloud_deadline);
        let Some(incident) = self.durable.incidents.edit(&id) else { return StepState::Ordered };
        let step = StepId { incident: id, step: incident.next_step };
        incident.next_step += 1;
        let host = what.host().cloned();
        let (forces, disables) = match &what {
            StepKind::ForceDown { .. } => (true, None),
            StepKind::Disable { reason, .. } => (false, Some(reason.clone())),
            _ => (false, None),
        };
        // Durable with the order: whatever becomes of us, it is undone when the host is back.
        if let Some(record) = host.and_then(|host| self.durable.hosts.edit(&host)) {
            record.service.forced_down |= forces;
            if let Some(reason) = disables {
                record.service.disabled = reason;
            }
        }
        self.log(id, "cloud", what.to_string());
        let precondition = precondition.to_owned();
        self.durable.steps.put(StepRecord {
            id: step,
            what,
            state: StepState::Ordered,
            deadline_ms,
            precondition,
            handle: String::new(),
        });
        self.step_until.insert(step, now.plus(self.settings.cloud_deadline));
        self.act(act(step));
        StepState::Ordered
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
            return Next::Stays("it was stopped or paused by its user, and Nova would start it".to_owned());
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
                let gone = "Nova does not know it: its owner has deleted it";
                Next::Outcome(OutcomeState::Skipped, None, gone.to_owned())
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
        let failed = self.failed_tries(incident.id, &record.id);
        let tries_max = TRIES_MAX + self.reserves_tried(incident, &record.id);
        if let Some(why) = failed.last().filter(|_| failed.len() >= tries_max) {
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
        let target = match self.somebody_is_suspect(source).filter(|_| reserved.is_none()) {
            None => reserved.map(|host| (host, "it is reserved".to_owned())),
            // Nova may still believe a suspect to be up: the target is ours to name.
            Some(suspect) => match self.choose_target(incident.id, record, std::slice::from_ref(source)) {
                Ok(score) => Some((score.host.clone(), format!("because {suspect} is suspect"))),
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

    /// Somebody whom Nova's scheduler might choose and who may be about to die.
    fn somebody_is_suspect(&self, source: &HostId) -> Option<HostId> {
        let doubtful = |host: &&crate::HostRecord| {
            host.id != *source
                && !matches!(self.standing(host), Standing::Heard)
                && self.service(&host.id).is_none_or(|service| service.up && service.enabled)
        };
        self.durable.hosts.iter().find(doubtful).map(|host| host.id.clone())
    }

    /// Why earlier evacuations of this server in this incident failed.
    fn failed_tries(&self, id: IncidentId, instance: &InstanceId) -> Vec<String> {
        let from = self.incident(id).map_or(0, |incident| incident.retried_from);
        let steps = self.durable.steps_of(id).into_iter().filter(|step| step.id.step >= from);
        let of = steps.filter(|step| matches!(&step.what, StepKind::Evacuate { instance: i, .. } if i == instance));
        of.filter_map(|step| match step.state {
            StepState::Refused { reason } if !reason.starts_with(NOT_SENT) => Some(reason),
            _ => None,
        })
        .collect()
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
        let Some(incident) = self.durable.incidents.edit(&id) else { return };
        let step = StepId { incident: id, step: incident.next_step };
        incident.next_step += 1;
        let instance = record.id.clone();
        let lost = anew.as_ref().map(|disk| format!("; its disk is made anew: {disk}")).unwrap_or_default();
        let (of, to) = (instance.clone(), target.clone());
        let what = StepKind::Evacuate { instance: of, source: source.clone(), target: to, anew };
        let precondition = "its host is proven dead and forced down; no home is left; fresh inventories".to_owned();
        let deadline_ms = millis(deadline);
        self.durable.steps.put(StepRecord {
            id: step,
            what,
            state: StepState::Ordered,
            deadline_ms,
            precondition,
            handle: String::new(),
        });
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

    /// Nova's answer to a step.
    pub(crate) fn take_cloud_answer(&mut self, step: StepId, outcome: Outcome) {
        let Some(record) = self.durable.steps.get(&step).cloned() else { return };
        match &record.what {
            StepKind::Start { target, .. } => {
                let target = target.clone();
                self.take_order_answer(&target, step, outcome);
            }
            StepKind::Evacuate { instance, .. } => {
                let instance = instance.clone();
                self.evacuation_answered(&record, &instance, outcome);
            }
            StepKind::ForceDown { .. }
            | StepKind::Disable { .. }
            | StepKind::Unforce { .. }
            | StepKind::JoinAggregate { .. }
            | StepKind::LeaveAggregate { .. }
            | StepKind::TakeReserve { .. }
            | StepKind::ReturnReserve { .. }
            | StepKind::Enable { .. } => {
                self.service_step_answered(&record, outcome);
            }
            _ => {}
        }
        // A reserved host goes back when its incident is closed: that keeps nobody busy.
        if self.incident(step.incident).is_some_and(|incident| !incident.phase.closed()) {
            self.work(step.incident).restless = true;
        }
    }

    fn service_step_answered(&mut self, step: &StepRecord, outcome: Outcome) {
        let state = match outcome {
            Outcome::Done { detail } => StepState::Done { detail },
            Outcome::Refused { reason, detail } => StepState::Refused { reason: format!("{reason}: {detail}") },
            Outcome::Unknown { detail } => StepState::Unknown { detail },
            Outcome::NotSent => StepState::Unknown { detail: "it never left".to_owned() },
        };
        let again = if matches!(step.what, StepKind::Unforce { .. }) { UNFORCE_AGAIN } else { TRY_AGAIN };
        let (done, told) = (matches!(state, StepState::Done { .. }), state == step.state);
        if !done && !told {
            self.log(step.id.incident, "cloud", format!("{}: {}", step.what, step_text(&state)));
        }
        self.settle_step(step.id, state);
        if !done {
            self.step_until.insert(step.id, self.now.at.plus(again));
            return;
        }
        self.log(step.id.incident, "cloud-done", step.what.to_string());
        self.reserve_step_done(&step.what);
        let Some(record) = step.what.host().and_then(|host| self.durable.hosts.edit(host)) else { return };
        match &step.what {
            StepKind::Unforce { .. } => record.service.forced_down = false,
            StepKind::Enable { .. } => record.service = ServiceHold::default(),
            _ => {}
        }
    }

    fn evacuation_answered(&mut self, step: &StepRecord, instance: &InstanceId, outcome: Outcome) {
        if step.state != StepState::Ordered {
            return;
        }
        let id = step.id.incident;
        match outcome {
            Outcome::Done { detail } => self.taken_up(step.id, instance, detail),
            Outcome::Refused { reason, detail } if reason == TOO_MANY => {
                self.narrow();
                self.evacuation_failed(step, instance, format!("{NOT_SENT}: {detail}"));
            }
            Outcome::Refused { reason, detail } => {
                self.evacuation_failed(step, instance, format!("{reason}: {detail}"))
            }
            Outcome::NotSent => self.evacuation_failed(step, instance, NOT_SENT.to_owned()),
            Outcome::Unknown { detail } => {
                self.narrow();
                self.log(id, "unknown", format!("{instance}: nobody knows whether Nova took the evacuation: {detail}"));
                self.settle_step(step.id, StepState::Unknown { detail });
            }
        }
    }

    /// Asks about every evacuation that Nova may have.
    fn follow_moves(&mut self, id: IncidentId, source: &HostId) {
        let moves: Vec<Move> = self
            .durable
            .steps_of(id)
            .into_iter()
            .filter_map(|step| {
                let StepKind::Evacuate { instance, .. } = &step.what else { return None };
                // Of an earlier start of ours: its answer will never come.
                let orphaned = step.state == StepState::Ordered && !self.step_until.contains_key(&step.id);
                let open = orphaned || matches!(step.state, StepState::Accepted | StepState::Unknown { .. });
                let others = self.other_requests(&step, instance);
                let (id, instance) = (step.id, instance.clone());
                let doubted = self.takes_too_long(id) || self.its_destination_rebooted(id);
                open.then_some(Move { step: id, instance, request: step.handle, others, doubted })
            })
            .collect();
        self.follow(source, moves, FOLLOW_EVERY);
    }

    /// Nova's names for the other tries with this server: an answer that was
    /// lost belongs to none of them.
    fn other_requests(&self, step: &StepRecord, instance: &InstanceId) -> BTreeSet<String> {
        let known = self.durable.instances.get(instance).map(|record| record.evacuations.as_slice());
        known.unwrap_or_default().iter().filter(|request| **request != step.handle).cloned().collect()
    }

    /// Nova works on it, under this name.
    fn taken_up(&mut self, step: StepId, instance: &InstanceId, request: String) {
        self.settle_step(step, StepState::Accepted);
        if let Some(record) = self.durable.instances.edit(instance)
            && !record.evacuations.contains(&request)
        {
            record.evacuations.push(request.clone());
            let excess = record.evacuations.len().saturating_sub(REQUESTS_KEPT);
            record.evacuations.drain(..excess);
        }
        if let Some(record) = self.durable.steps.edit(&step) {
            record.handle = request;
        }
    }

    pub(crate) fn take_course(&mut self, id: StepId, course: Course) {
        let Some(step) = self.durable.steps.get(&id).cloned() else { return };
        let StepKind::Evacuate { instance, .. } = &step.what else { return };
        let open = matches!(step.state, StepState::Ordered | StepState::Accepted | StepState::Unknown { .. });
        if !open {
            return;
        }
        self.work(id.incident).restless = true;
        match course {
            Course::Unknown { .. } => {
                self.sight.unseen.remove(&id);
            }
            Course::UnderWay { request, to } => {
                self.sight.unseen.remove(&id);
                if step.handle != request {
                    self.taken_up(id, instance, request);
                }
                self.still_under_way(&step, instance, to);
            }
            Course::Idle { request, migration } => {
                self.taken_up(id, instance, request);
                let why = "Nova calls the server broken, and nobody works on it any more";
                self.abandon(&step, instance, migration, why.to_owned());
            }
            Course::Done { request, host } => {
                self.taken_up(id, instance, request);
                self.evacuated(&step, instance, &host);
            }
            Course::Failed { request, why } => {
                self.taken_up(id, instance, request);
                self.narrow();
                self.evacuation_failed(&step, instance, why);
            }
            Course::Deleted => {
                self.settle_step(id, StepState::Done { detail: "its owner deleted it meanwhile".to_owned() });
                self.end_move(instance);
                if let Some(record) = self.durable.instances.get(instance).cloned() {
                    let text = "its owner deleted it during its evacuation";
                    self.tell_outcome(id.incident, &record, OutcomeState::Skipped, None, text);
                }
            }
            Course::Unseen => self.unseen(&step, instance),
        }
    }

    /// Nova may call it under way for ever: whoever worked on it can be dead.
    fn still_under_way(&mut self, step: &StepRecord, instance: &InstanceId, to: Option<(HostId, i64)>) {
        let now = self.now.at;
        let boot = to.as_ref().and_then(|(host, _)| Some((host.clone(), self.host(host)?.boots.last()?.clone())));
        let known = self.sight.under_way.entry(step.id).or_insert((now, None));
        known.1 = known.1.take().or(boot);
        // Its request may still lie in a queue: that it is over is for Nova or a person to say.
        let stuck = to.as_ref().is_some_and(|(host, _)| self.is_gone(host)) || self.takes_too_long(step.id);
        if stuck && let Some(record) = self.durable.instances.get(instance).cloned() {
            let at = to.map_or_else(
                || "nova-conductor".to_owned(),
                |(host, _)| format!("nova-compute on {host}, if that lives"),
            );
            let text = format!(
                "Nova has shown no end of its evacuation; see the log of {at}. Certain that it is over? openstack server set --state error {instance}"
            );
            self.tell_outcome(step.id.incident, &record, OutcomeState::Waiting, None, &text);
        }
    }

    fn takes_too_long(&self, step: StepId) -> bool {
        let since = self.sight.under_way.get(&step).map(|(since, _)| *since);
        since.is_some_and(|since| self.now.at.since(since) >= self.settings.evacuation_deadline)
    }

    /// Nova calls what it had in hand then broken, once its nova-compute is back.
    fn its_destination_rebooted(&self, step: StepId) -> bool {
        let to = self.sight.under_way.get(&step).and_then(|(_, to)| to.as_ref());
        to.is_some_and(|(host, boot)| self.host(host).is_some_and(|record| record.boots.last() != Some(boot)))
    }

    /// Its newest boot is proven dead: nothing that it had begun will end.
    fn is_gone(&self, host: &HostId) -> bool {
        let newest = self.host(host).and_then(|record| record.boots.last());
        newest.is_some_and(|boot| self.is_dead(host, boot)) && !self.streams(host)
    }

    /// A server is on its way once more while the request of an earlier try may lie in some queue.
    pub(crate) fn a_move_was_abandoned(&self) -> bool {
        self.durable.instances.iter().any(|record| record.moving.is_some() && !record.abandoned.is_empty())
    }

    /// It is over, whatever Nova's record says.
    fn abandon(&mut self, step: &StepRecord, instance: &InstanceId, migration: i64, why: String) {
        if let Some(record) = self.durable.instances.edit(instance) {
            record.abandoned.insert(migration);
            while record.abandoned.len() > REQUESTS_KEPT {
                record.abandoned.pop_first();
            }
        }
        self.evacuation_failed(step, instance, why);
    }

    /// No trace of it: over only when it could no longer be on its way.
    fn unseen(&mut self, step: &StepRecord, instance: &InstanceId) {
        if matches!(step.state, StepState::Accepted) {
            return;
        }
        let now = self.now.at;
        let since = *self.sight.unseen.entry(step.id).or_insert(now);
        if now.since(since) >= UNSEEN_FOR {
            self.evacuation_failed(step, instance, format!("{NOT_SENT}: Nova has never seen it"));
        }
    }

    fn evacuated(&mut self, step: &StepRecord, instance: &InstanceId, host: &HostId) {
        let id = step.id.incident;
        self.settle_step(step.id, StepState::Done { detail: format!("on {host}") });
        self.end_move(instance);
        self.sight.window = Some((self.sight.window.unwrap_or(WINDOW_FIRST) + 1).min(WINDOW_MAX));
        let boot = self.host(host).and_then(|record| record.boots.last()).cloned();
        let Some(mut record) = self.durable.instances.get(instance).cloned() else { return };
        let ran = record.wanted;
        record.last_host = host.clone();
        record.last_state = if ran { RunState::Running } else { RunState::Stopped };
        record.last_stop = StopReason::Pending;
        record.recover_word = None;
        record.moved_to = Some(host.clone());
        if let (true, Some(boot)) = (ran, boot) {
            record.homes.insert(host.clone(), Home { boot, why: HomeWhy::Shown, incoming: false });
        }
        self.durable.index(&record);
        self.durable.instances.put(record.clone());
        let text = if ran { format!("active on {host}") } else { format!("on {host}, stopped as it was") };
        let text = format!("{text}{}", self.made_anew(&step.what));
        self.tell_outcome(id, &record, OutcomeState::Recovered, Some(host.clone()), &text);
        self.note("MDV-RECOVERED", false, format!("{id}: {} is {text}", record.name));
    }

    /// Nobody is to find out by themselves that what was on a disk is gone.
    fn made_anew(&self, what: &StepKind) -> String {
        let StepKind::Evacuate { instance, anew: Some(disk), .. } = what else { return String::new() };
        let has_image = self.sight.roster.get(instance).is_none_or(|server| !server.image.id.is_empty());
        let from = if has_image { "from the image" } else { "and is empty" };
        format!("; its local disk was made anew {from} ({disk})")
    }

    fn evacuation_failed(&mut self, step: &StepRecord, instance: &InstanceId, why: String) {
        let id = step.id.incident;
        self.settle_step(step.id, StepState::Refused { reason: why.clone() });
        self.end_move(instance);
        let now = self.now.at;
        self.sight.again.insert(instance.clone(), now.plus(TRY_AGAIN));
        // Whatever made it fail may show in a fresh list and in fresh inventories.
        self.work(id).fresh_from = now;
        if let Some(record) = self.durable.instances.get(instance).cloned() {
            self.tell_outcome(id, &record, OutcomeState::Planned, None, &format!("not evacuated: {why}"));
        }
    }

    fn end_move(&mut self, instance: &InstanceId) {
        if let Some(record) = self.durable.instances.edit(instance) {
            record.moving = None;
        }
    }

    /// Nova is pushed less after whatever looks like too much.
    fn narrow(&mut self) {
        let window = self.sight.window.unwrap_or(WINDOW_FIRST);
        self.sight.window = Some((window / 2).max(1));
    }

    /// The host runs a new boot: what is under way is followed to its end, what
    /// is not starts at home once nova-compute is there.
    fn review_return(&mut self, incident: &IncidentRecord, host: &HostId) {
        let from = self.work(incident.id).fresh_from;
        self.service_is_back(incident.id, host);
        if self.fresh_inventories(from) {
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
        }
        self.follow_moves(incident.id, host);
        self.conclude(incident.id, host);
    }

    /// A service that we took out comes back: forced up once Nova has cleared
    /// up behind it, and enabled last. `true` when nothing is left to undo.
    pub(crate) fn service_is_back(&mut self, id: IncidentId, host: &HostId) -> bool {
        let Some(record) = self.host(host).cloned() else { return true };
        if record.service == ServiceHold::default() {
            return true;
        }
        if !self.streams(host) || !self.hold_is_over(host) {
            return false;
        }
        if record.service.forced_down {
            let unforce = StepKind::Unforce { host: host.clone() };
            let act = |step| CloudAct::Unforce { step, host: host.clone() };
            self.cloud_step(id, unforce, "the host is back and its hold is over", UNFORCE_AGAIN, act);
            return false;
        }
        let reason = record.service.disabled.clone();
        if reason.is_empty() {
            if let Some(record) = self.durable.hosts.edit(host) {
                record.service = ServiceHold::default();
            }
            return true;
        }
        let enable = StepKind::Enable { host: host.clone(), reason: reason.clone() };
        let act = |step| CloudAct::Enable { step, host: host.clone(), reason };
        self.cloud_step(id, enable, "it is no longer forced down", TRY_AGAIN, act);
        false
    }

    /// Why a server cannot be started on its own host yet.
    pub(crate) fn service_bars(&self, host: &HostId) -> Option<String> {
        match self.service(host) {
            None => Some(format!("Nova has not told of a nova-compute on {host}")),
            Some(service) if service.forced_down => Some(format!("nova-compute on {host} is still forced down")),
            Some(service) if !service.up => Some(format!("nova-compute on {host} is not up yet")),
            // Nova believes for a minute what the last boot reported.
            Some(service) if !self.reported_in_this_boot(host, service) => {
                Some(format!("nova-compute on {host} has not reported since it booted"))
            }
            Some(_) => None,
        }
    }

    fn reported_in_this_boot(&self, host: &HostId, service: &ComputeService) -> bool {
        let live = self.watches.get(host).and_then(|watch| watch.session.as_ref());
        let reported = self.sight.services_at.map(|at| at.0.saturating_sub(millis(service.report_age)));
        match (live, reported) {
            (Some(live), Some(reported)) => self.hold_is_over(host) && reported > live.booted.0,
            _ => false,
        }
    }
}

/// The reason of a step that certainly changed nothing.
pub(crate) const NOT_SENT: &str = "it never left";

fn step_text(state: &StepState) -> String {
    match state {
        StepState::Ordered => "asked for".to_owned(),
        StepState::Accepted => "taken up, under way".to_owned(),
        StepState::Done { detail } => detail.clone(),
        StepState::Refused { reason } => format!("refused: {reason}"),
        StepState::Unknown { detail } => format!("not known: {detail}"),
    }
}
