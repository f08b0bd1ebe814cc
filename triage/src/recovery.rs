//! Bringing instances back: fresh inventories, then one step per start, each
//! durable before it leaves and never repeated under another name.
//!
//! ```text
//!   Planned --target, nothing bars--> Starting --done--> Recovered
//!      ^  \--no target, a home-----> Waiting      \--refused--> Planned (not there again)
//!      |                               |           \--unknown-> Starting (asked again; bars every other target)
//!      +-------------------------------+
//! ```

use crate::Triage;
use crate::cloud::CloudAct;
use crate::command::{Command, Order};
use crate::id::{HostId, IncidentId, InstanceId, StepId};
use crate::observation::{Outcome, ProbeAnswer};
use crate::record::{
    Home, HomeWhy, IncidentKind, IncidentRecord, InstanceRecord, Mode, OutcomeState, Phase, StepKind, StepRecord,
    StepState,
};
use crate::time::Moment;
use crate::watch::Round;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Inventories gathered longer ago than this are not fresh.
const GATHER_LASTS: Duration = Duration::from_secs(5);
/// Agents see a start through or see it fail within this time.
const START_SETTLES: Duration = Duration::from_secs(10);
/// An unsettled start is asked about again this often.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// As a cloud's adapter calls a server that Nova does not know.
const NOT_FOUND: &str = "not-found";

/// A fresh inventory from every connected agent.
#[derive(Debug)]
pub(crate) struct Gather {
    pub begun: Moment,
    /// Whoever has not answered in this time counts as not heard.
    pub within: Duration,
    pub waiting: BTreeMap<HostId, u64>,
    /// Answers to questions asked after `begun`: these hosts lived after it.
    pub answered: BTreeSet<HostId>,
}

/// Why a server is left that neither a list nor a question about it finds.
pub(crate) const DELETED: &str = "Nova does not know it: its owner has deleted it";

/// What is to become of one instance now.
enum Next {
    Outcome(OutcomeState, Option<HostId>, String),
    Start {
        target: HostId,
        why: String,
    },
    DestroyIncoming {
        host: HostId,
    },
    /// Nobody knows it any more.
    Deleted,
}

impl Triage {
    pub(crate) fn begin_recovery(&mut self, id: IncidentId, text: &str) {
        let now = self.now.at;
        let work = self.work(id);
        work.fresh_from = now;
        work.restless = true;
        self.set_phase(id, Phase::Recovering, "recovering", text.to_owned());
        self.review_recovery(id);
    }

    pub(crate) fn review_recovery(&mut self, id: IncidentId) {
        let Some(incident) = self.incident(id).cloned() else { return };
        let Some(host) = incident.host.clone() else { return };
        if self.in_openstack() {
            return self.review_evacuations(&incident, &host);
        }
        let from = self.work(id).fresh_from;
        if !self.fresh_inventories(from) {
            return;
        }
        let mut affected = self.lost_with(&incident, &host);
        self.take_turns(id, &mut affected);
        for instance in affected {
            self.advance(id, &instance);
        }
        self.conclude(id, &host);
    }

    fn refuted(&self, host: &HostId) -> Option<String> {
        let death = self.host(host)?.dead.as_ref()?;
        death.refuted.as_ref().map(|how| format!("the proof of {host}'s death was refuted: {how}"))
    }

    /// Every connected agent has shown what it has since `from`, or had its time.
    pub(crate) fn fresh_inventories(&mut self, from: Moment) -> bool {
        let now = self.now.at;
        if let Some(gather) = &self.gather
            && gather.begun >= from
            && now.since(gather.begun) < GATHER_LASTS
        {
            return gather.waiting.is_empty() || now.since(gather.begun) >= gather.within;
        }
        let mut waiting = BTreeMap::new();
        for host in self.durable.hosts.ids() {
            if !self.streams(&host) {
                continue;
            }
            let Some(session) = self.watches.get(&host).and_then(|w| w.session.as_ref()).map(|live| live.id.clone())
            else {
                continue;
            };
            let ask = self.new_ask();
            self.command(Command::AskInventory { host: host.clone(), session, ask });
            waiting.insert(host, ask);
        }
        let nobody = waiting.is_empty();
        self.gather =
            Some(Gather { begun: now, within: self.settings.inventory_deadline, waiting, answered: BTreeSet::new() });
        nobody
    }

    /// This host has answered a question that was asked after `at`: nothing
    /// that was on its way before can be mistaken for it.
    pub(crate) fn answered_since(&self, host: &HostId, at: Moment, by_agent: bool) -> bool {
        let gathered = self.gather.as_ref().is_some_and(|g| g.begun >= at && g.answered.contains(host));
        let spoke = |round: &Round| match by_agent {
            true => round.authentic.contains(host),
            false => round.best(host) == Some(ProbeAnswer::UserSpace),
        };
        let probed = |round: &Round| round.begun >= at && spoke(round);
        gathered || self.rounds.iter().any(probed)
    }

    pub(crate) fn inventory_answered(&mut self, host: &HostId, answers: Option<u64>) {
        if let (Some(gather), Some(answer)) = (self.gather.as_mut(), answers)
            && gather.waiting.get(host).is_some_and(|ask| *ask <= answer)
        {
            gather.waiting.remove(host);
            gather.answered.insert(host.clone());
        }
    }

    /// Instances that this host's death concerns, the largest first: what is
    /// hardest to place is placed first. Tiers and priorities come before that.
    pub(crate) fn lost_with(&self, incident: &IncidentRecord, host: &HostId) -> Vec<InstanceId> {
        let mut lost: Vec<&InstanceRecord> = Vec::new();
        let near = self.durable.instances_near(host);
        for record in near.iter().filter_map(|id| self.durable.instances.get(id)) {
            let ours = self.durable.outcome(incident.id, &record.id).is_some();
            let home_died = record.homes.get(host).is_some_and(|home| self.is_dead(host, &home.boot));
            let left_behind = self.lives_nowhere(record) && record.last_host == *host && record.wanted;
            let another = self.hand(&record.id).is_some_and(|hand| hand != incident.id);
            if (ours || home_died || left_behind) && !another {
                lost.push(record);
            }
        }
        lost.sort_by(|a, b| {
            b.memory_kib.cmp(&a.memory_kib).then_with(|| a.name.cmp(&b.name)).then_with(|| a.id.cmp(&b.id))
        });
        lost.into_iter().map(|record| record.id.clone()).collect()
    }

    /// Takes one instance one step further.
    pub(crate) fn advance(&mut self, id: IncidentId, instance: &InstanceId) {
        let Some(record) = self.durable.instances.get(instance).cloned() else { return };
        let Some(incident) = self.incident(id).cloned() else { return };
        let outcome = self.durable.outcome(id, instance).map(|outcome| outcome.state);
        match outcome {
            Some(OutcomeState::Recovered | OutcomeState::Skipped) => {}
            Some(OutcomeState::Starting) => self.follow_start(id, &record),
            None | Some(OutcomeState::Planned | OutcomeState::Waiting) => match self.next(&incident, &record) {
                Next::Outcome(state, host, text) => self.tell_outcome(id, &record, state, host, &text),
                Next::Start { target, why } => self.order_start(id, record, &target, &why),
                Next::DestroyIncoming { host } => self.order_destroy_incoming(id, &record, &host),
                Next::Deleted => {
                    self.was_deleted(instance);
                    self.tell_outcome(id, &record, OutcomeState::Skipped, None, DELETED);
                }
            },
        }
    }

    pub(crate) fn tell_outcome(
        &mut self,
        id: IncidentId,
        record: &InstanceRecord,
        state: OutcomeState,
        host: Option<HostId>,
        text: &str,
    ) {
        let before = self.durable.outcome(id, &record.id).map(|o| o.state);
        self.set_outcome(id, &record.id, state, host, text);
        if before != Some(state) {
            let code = match state {
                OutcomeState::Recovered => "recovered",
                OutcomeState::Waiting => "waiting",
                OutcomeState::Skipped => "skipped",
                OutcomeState::Planned => "planned",
                OutcomeState::Starting => "start-ordered",
            };
            self.log(id, code, format!("{}: {text}", record.name));
        }
    }

    fn next(&self, incident: &IncidentRecord, record: &InstanceRecord) -> Next {
        let wait = |text: String| Next::Outcome(OutcomeState::Waiting, None, text);
        let skip = |text: &str| Next::Outcome(OutcomeState::Skipped, None, text.to_owned());
        if let Some(host) = self.runs_on(record) {
            return Next::Outcome(OutcomeState::Recovered, Some(host.clone()), format!("runs on {host}"));
        }
        if !record.wanted {
            return skip("it was not to run: stopped, saved or paused by its user");
        }
        let protection = self.protection(record);
        if !protection.value {
            return skip(&format!("it is not protected: {}", protection.rule));
        }
        if record.vanished && record.defined_on.is_empty() {
            return skip("it vanished from its host, and nobody has it defined: it was removed, or is out of sight");
        }
        if self.left_out_by_goodbye(record) {
            return skip("its host's goodbye does not list it as running");
        }
        if self.doubles.contains_key(&record.id) {
            return wait("it was seen alive in two places".to_owned());
        }
        if let Some((host, _)) =
            record.homes.iter().find(|(host, home)| home.incoming && !self.is_dead(host, &home.boot))
        {
            return Next::DestroyIncoming { host: host.clone() };
        }
        if let Some(why) = self.brake(incident, record) {
            return wait(why);
        }
        if let Some(why) = self.held_back(incident.id, &self.policy(record)) {
            return Next::Outcome(OutcomeState::Planned, None, why);
        }
        self.place(incident, record).unwrap_or_else(wait)
    }

    /// Modes, the pause and approvals.
    pub(crate) fn brake(&self, incident: &IncidentRecord, record: &InstanceRecord) -> Option<String> {
        if let Some(reason) = self.durable.site().paused {
            return Some(format!("everything is paused: {reason}"));
        }
        if let Some(refuted) = incident.host.as_ref().and_then(|host| self.refuted(host)) {
            return Some(format!("no further starts: {refuted}"));
        }
        let at_home = self.home_target(record).is_some() && incident.kind != IncidentKind::InstanceGone;
        match self.mode(&incident.segment) {
            Mode::Observe => Some("mode observe: nothing is started".to_owned()),
            Mode::Approve if incident.approved.is_none() && !at_home => {
                Some(format!("mode approve: medevacctl approve {}", incident.id))
            }
            Mode::Approve | Mode::Act => None,
        }
    }

    /// Home first when it is up again, else the best other host.
    fn place(&self, incident: &IncidentRecord, record: &InstanceRecord) -> Result<Next, String> {
        let restarts_over =
            incident.kind == IncidentKind::InstanceGone && record.restarts >= self.settings.restarts_max;
        let home = self.home_target(record).filter(|_| !restarts_over);
        let refused = home.as_ref().and_then(|home| self.refused_by(incident.id, record, home));
        let at_home = refused.as_ref().map(|why| format!("; {}: {why}", record.last_host)).unwrap_or_default();
        let (target, why) = match home {
            Some(home) if refused.is_none() => {
                if let Some(why) = self.service_bars(&home).filter(|_| self.in_openstack()) {
                    return Err(why);
                }
                (home.clone(), format!("at home on {home}"))
            }
            // A server that a login may not see is not found either: no list of all may name it.
            _ if refused.is_some_and(|why| why.contains(NOT_FOUND)) && self.is_listed_nowhere(record) => {
                return Ok(Next::Deleted);
            }
            _ if self.in_openstack() => {
                return Err(format!(
                    "it is not started at home again, and Nova moves nothing away from {} while that is up{at_home}",
                    record.last_host
                ));
            }
            _ => {
                let not = [record.last_host.clone()];
                let score = self.choose_target(incident.id, record, &not).map_err(|why| format!("{why}{at_home}"))?;
                (score.host.clone(), score.to_string())
            }
        };
        if let Some(bar) = self.bars_start(record, &target) {
            return Err(bar);
        }
        if self.starts_under_way(&target).len() >= self.settings.starts_per_target {
            return Ok(Next::Outcome(OutcomeState::Planned, Some(target.clone()), format!("next on {target}")));
        }
        let defined = record.defined_on.contains(&target) || self.in_openstack();
        if !defined && self.durable.xmls.get(&record.xml_hash).is_none() {
            return Err("its definition was never received".to_owned());
        }
        Ok(Next::Start { target, why })
    }

    /// Its own host, when that is up, can start and has it defined.
    fn home_target(&self, record: &InstanceRecord) -> Option<HostId> {
        let home = self.host(&record.last_host)?;
        let able = self.can_take(home).is_ok() && record.defined_on.contains(&home.id);
        able.then(|| home.id.clone())
    }

    fn left_out_by_goodbye(&self, record: &InstanceRecord) -> bool {
        let goodbye = self.host(&record.last_host).and_then(|host| host.goodbye.as_ref());
        goodbye.is_some_and(|goodbye| goodbye.parting.host_shuts_down && !goodbye.parting.running.contains(&record.id))
    }

    /// A host whose fresh inventory shows it alive, not incoming.
    pub(crate) fn runs_on(&self, record: &InstanceRecord) -> Option<HostId> {
        let shown = |host: &&HostId| self.shows_alive(host, &record.id);
        record.homes.keys().filter(|host| self.streams(host)).find(shown).cloned()
    }

    /// libvirt itself says that it runs there.
    fn shown_running(&self, host: &HostId, instance: &InstanceId) -> bool {
        let stock = self.watches.get(host).and_then(|watch| watch.inventory.as_ref());
        let shown = stock.and_then(|stock| stock.inventory.instances.get(instance));
        shown.is_some_and(|shown| shown.known && shown.state == crate::RunState::Running)
    }

    fn shows_alive(&self, host: &HostId, instance: &InstanceId) -> bool {
        let stock = self.watches.get(host).and_then(|watch| watch.inventory.as_ref());
        let shown = stock.and_then(|stock| stock.inventory.instances.get(instance));
        shown.is_some_and(|shown| shown.state.lives() && shown.state != crate::RunState::Incoming)
    }

    fn order_start(&mut self, id: IncidentId, mut record: InstanceRecord, target: &HostId, why: &str) {
        let Some((boot, define)) = self.target_boot(&record, target) else { return };
        let what = StepKind::Start { instance: record.id.clone(), target: target.clone(), boot: boot.clone(), define };
        let precondition = "no home but the target is left; fresh inventories of every connected agent";
        let Some(step) = self.order_step(id, what, self.settings.start_deadline, precondition) else { return };
        record.homes.retain(|host, home| host == target || !self.is_dead(host, &home.boot));
        record.homes.insert(target.clone(), Home { boot, why: HomeWhy::Ordered(step), incoming: false });
        record.moved_to = (record.last_host != *target).then(|| target.clone());
        if self.incident(id).is_some_and(|incident| incident.kind == IncidentKind::InstanceGone) {
            record.restarts += 1;
            self.restarted.insert(record.id.clone(), self.now.at);
        }
        self.durable.index(&record);
        self.durable.instances.put(record.clone());
        self.tell_outcome(
            id,
            &record,
            OutcomeState::Starting,
            Some(target.clone()),
            &format!("start ordered on {target} ({why})"),
        );
        self.send_start(step);
    }

    fn target_boot(&self, record: &InstanceRecord, target: &HostId) -> Option<(crate::BootId, bool)> {
        let boot = self.host(target)?.boots.last()?.clone();
        Some((boot, !record.defined_on.contains(target)))
    }

    /// Sends a committed start; the same step always means the same order.
    fn send_start(&mut self, step: StepId) {
        let Some(StepKind::Start { instance, target, boot, define }) =
            self.durable.steps.get(&step).map(|s| s.what.clone())
        else {
            return;
        };
        if self.in_openstack() {
            let deadline = self.settings.start_deadline;
            self.step_until.insert(step, self.now.at.plus(deadline));
            return self.act(CloudAct::Restart { step, instance, host: target, deadline });
        }
        let Some(record) = self.durable.instances.get(&instance) else { return };
        let xml = self.durable.xmls.get(&record.xml_hash).map(|xml| xml.xml.clone()).unwrap_or_default();
        let xml = if define { xml } else { String::new() };
        let order = Order::Start { instance, name: record.name.clone(), xml };
        self.send_order(step, &target, boot, order);
    }

    pub(crate) fn send_order(&mut self, step: StepId, host: &HostId, boot: crate::BootId, order: Order) {
        let deadline = self.settings.start_deadline;
        self.step_until.insert(step, self.now.at.plus(deadline));
        let session = self.watches.get(host).and_then(|w| w.session.as_ref()).map(|live| live.id.clone());
        let session = session.unwrap_or_default();
        self.command(Command::Order { step, host: host.clone(), session, boot, deadline, order });
    }

    pub(crate) fn take_order_answer(&mut self, host: &HostId, step: StepId, outcome: Outcome) {
        let Some(record) = self.durable.steps.get(&step).cloned() else { return };
        let open = matches!(record.state, StepState::Ordered | StepState::Unknown { .. });
        if record.what.host() != Some(host) || !open {
            return;
        }
        let state = match outcome {
            Outcome::Done { detail } => StepState::Done { detail },
            Outcome::Refused { reason, detail } => StepState::Refused { reason: format!("{reason}: {detail}") },
            Outcome::Unknown { detail } => StepState::Unknown { detail },
            Outcome::NotSent => StepState::Unknown { detail: "its session was gone".to_owned() },
        };
        if let StepKind::Start { instance, target, .. } = &record.what {
            self.start_answered(step.incident, instance, target, &state);
        }
        self.hold_step_answered(&record, &state);
        self.settle_step(step, state);
    }

    fn start_answered(&mut self, id: IncidentId, instance: &InstanceId, target: &HostId, state: &StepState) {
        let Some(mut record) = self.durable.instances.get(instance).cloned() else { return };
        match state {
            StepState::Done { .. } => self.started(id, record, target),
            StepState::Refused { reason } => {
                // Its home there leaves with the next inventory, which is asked for.
                if record.moved_to.as_ref() == Some(target) {
                    record.moved_to = None;
                }
                self.durable.instances.put(record.clone());
                self.tell_outcome(id, &record, OutcomeState::Planned, None, &format!("{target} refused: {reason}"));
                let now = self.now.at;
                self.work(id).fresh_from = now;
            }
            StepState::Unknown { detail } => {
                self.log(id, "unknown", format!("{}: nobody knows whether {target} started it: {detail}", record.name));
            }
            StepState::Ordered | StepState::Accepted => {}
        }
    }

    fn started(&mut self, id: IncidentId, mut record: InstanceRecord, target: &HostId) {
        if let Some(home) = record.homes.get_mut(target) {
            home.why = HomeWhy::Shown;
            record.lived_in = Some((target.clone(), home.boot.clone()));
        }
        record.last_host = target.clone();
        record.last_state = crate::RunState::Running;
        record.last_stop = crate::StopReason::Pending;
        record.recover_word = None;
        record.defined_on.insert(target.clone());
        self.durable.index(&record);
        self.durable.instances.put(record.clone());
        self.tell_outcome(id, &record, OutcomeState::Recovered, Some(target.clone()), &format!("started on {target}"));
        self.note("MDV-RECOVERED", false, format!("{id}: {} runs on {target}", record.name));
    }

    /// A start is out: its answer may be lost, its target may die.
    fn follow_start(&mut self, id: IncidentId, record: &InstanceRecord) {
        let steps = self.durable.steps_of(id);
        let newest = steps.iter().rev().find_map(|step| match &step.what {
            StepKind::Start { instance, target, boot, .. } if *instance == record.id => {
                Some((step.clone(), target.clone(), boot.clone()))
            }
            _ => None,
        });
        let Some((step, target, boot)) = newest else { return };
        match &step.state {
            StepState::Done { .. } => self.started(id, record.clone(), &target),
            StepState::Refused { reason } => self.set_outcome(id, &record.id, OutcomeState::Planned, None, reason),
            StepState::Ordered | StepState::Accepted | StepState::Unknown { .. } => {
                // What is shown while it starts may be a start that is about to fail: its agent knows better.
                let unanswered = matches!(step.state, StepState::Unknown { .. });
                let seen = (self.is_old(step.id) && self.shown_running(&target, &record.id))
                    || (unanswered && self.shows_alive(&target, &record.id));
                if seen && self.streams(&target) {
                    self.settle_step(step.id, StepState::Done { detail: "its inventory shows it".to_owned() });
                    return self.started(id, record.clone(), &target);
                }
                if self.is_dead(&target, &boot) {
                    self.settle_step(step.id, StepState::Unknown { detail: format!("{target} died during the start") });
                    self.drop_dead_home(record, &target);
                    let text = format!("{target} died during the start");
                    return self.tell_outcome(id, record, OutcomeState::Planned, None, &text);
                }
                self.ask_again(step.id, &step.state, &target, record);
            }
        }
    }

    /// Ordered so long ago that a start that fails has failed by now.
    fn is_old(&self, step: StepId) -> bool {
        let left = self.step_until.get(&step).map(|until| until.since(self.now.at));
        left.is_some_and(|left| left + START_SETTLES <= self.settings.start_deadline)
    }

    /// The target died with the start: its home there is proven dead, so the
    /// start is over and may be given to another host.
    fn drop_dead_home(&mut self, record: &InstanceRecord, target: &HostId) {
        if let Some(record) = self.durable.instances.edit(&record.id) {
            record.homes.remove(target);
            if record.moved_to.as_ref() == Some(target) {
                record.moved_to = None;
            }
        }
    }

    /// The same order under the same name: the agent answers with its first result.
    fn ask_again(&mut self, step: StepId, state: &StepState, target: &HostId, record: &InstanceRecord) {
        let now = self.now.at;
        let until = self.step_until.get(&step).copied();
        let over = until.is_some_and(|until| now >= until);
        if over {
            self.step_until.remove(&step);
            if *state == StepState::Ordered {
                self.log(step.incident, "unknown", format!("{}: no answer from {target} in time", record.name));
                self.settle_step(step, StepState::Unknown { detail: "no answer in time".to_owned() });
            }
            return;
        }
        let elsewhere = self.live_homes(record).iter().any(|home| home != target);
        let settled_for = self.work(step.incident).retry_at;
        let due = until.is_none() && settled_for.is_none_or(|at| now >= at);
        if due && !elsewhere && self.streams(target) && self.durable.site().paused.is_none() {
            self.work(step.incident).retry_at = Some(now.plus(ASK_AGAIN));
            self.send_start(step);
        }
    }

    fn order_destroy_incoming(&mut self, id: IncidentId, record: &InstanceRecord, host: &HostId) {
        let (instance, now) = (record.id.clone(), self.now.at);
        let ours =
            |step: &&StepRecord| matches!(&step.what, StepKind::DestroyIncoming { instance: i, .. } if *i == instance);
        let steps = self.durable.steps_of(id);
        let newest = steps.iter().rev().find(ours).map(|step| (step.id, step.state.clone()));
        let wait = self.work(id).retry_at.is_some_and(|at| now < at);
        match newest {
            Some((step, StepState::Ordered)) if self.step_until.get(&step).is_some_and(|until| now < *until) => return,
            Some(_) if wait => return,
            _ => {}
        }
        let work = self.work(id);
        work.retry_at = Some(now.plus(ASK_AGAIN));
        work.fresh_from = now;
        let Some(boot) = self.host(host).and_then(|h| h.boots.last()).cloned() else { return };
        let what = StepKind::DestroyIncoming { instance: instance.clone(), host: host.clone(), boot: boot.clone() };
        let precondition = "its source is proven dead, and the copy has never run";
        let Some(step) = self.order_step(id, what, self.settings.start_deadline, precondition) else { return };
        let text = format!("an incoming copy on {host} that never ran is destroyed first");
        self.tell_outcome(id, record, OutcomeState::Planned, None, &text);
        self.send_order(step, host, boot, Order::DestroyIncoming { instance });
    }

    /// Closes when everything has a final outcome; else says what it waits for.
    pub(crate) fn conclude(&mut self, id: IncidentId, host: &HostId) {
        let outcomes = self.durable.outcomes_of(id);
        let count = |state: OutcomeState| outcomes.iter().filter(|o| o.state == state).count();
        let (recovered, waiting, skipped) =
            (count(OutcomeState::Recovered), count(OutcomeState::Waiting), count(OutcomeState::Skipped));
        let under_way = count(OutcomeState::Planned) + count(OutcomeState::Starting);
        if under_way > 0 {
            return;
        }
        let text = format!("{recovered} recovered, {waiting} waiting, {skipped} left as they are");
        if waiting > 0 {
            return self.set_phase(id, Phase::Waiting, "waiting", text);
        }
        // A host that is off gets its service back when it returns: that is another incident.
        if !self.hold_is_over(host) || (!self.is_gone(host) && !self.service_is_back(id, host)) {
            return;
        }
        self.close(id, "recovered", text);
    }

    /// What act would do with the guests of a host: for observe.
    pub(crate) fn would_recover(&self, host: &HostId) -> String {
        let near = self.durable.instances_near(host);
        let records: Vec<&InstanceRecord> = near.iter().filter_map(|id| self.durable.instances.get(id)).collect();
        let ours: Vec<_> =
            records.into_iter().filter(|r| r.homes.contains_key(host) && r.wanted && self.is_protected(r)).collect();
        let placed: Vec<String> = ours
            .iter()
            .filter_map(|r| {
                self.choose_target(IncidentId(0), r, std::slice::from_ref(host))
                    .ok()
                    .map(|s| format!("{} on {}", r.name, s.host))
            })
            .take(8)
            .collect();
        format!("start {} of {} guests elsewhere: {}", placed.len(), ours.len(), placed.join(", "))
    }
}
