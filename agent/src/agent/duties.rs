//! What the agent does on request, each as a task that reports its end.

use super::{Agent, reads};
use crate::care::{self, plan};
use crate::control::{Ask, Told, Word};
use crate::give_back;
use crate::hypervisor::{Fault, Migration};
use crate::state::{State, StateError};
use futures::stream::{FuturesUnordered, StreamExt};
use medevac_probe::{Answer, Key, Outcome, Target};
use medevac_proto::session::command_result;
use medevac_proto::session::{
    Command, CommandResult, PowerController, ProbeAnswer, ProbeOrder, ProbeReport, ProbeResult, ProbeTarget,
    agent_frame,
};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Commands at once. Starts are limited far below by the aggregator; this bounds a mad one.
const COMMANDS_MAX: usize = 64;
/// Rounds of probing at once: a new one may begin before a late one ends.
const PROBES_MAX: usize = 4;
/// Hosts asked in one round. A witness is asked about a handful.
const TARGETS_MAX: usize = 64;
/// A round longer than this would say more about the past than the present.
const PROBE_DEADLINE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// After a flag that libvirt refused to set.
const CARE_AGAIN: Duration = Duration::from_secs(30);

/// After a disk that took nothing.
const PERSIST_AGAIN: Duration = Duration::from_secs(5);

/// The end of a task.
#[derive(Debug)]
pub enum Done {
    Read(reads::Answer),
    Direction(String, Result<Migration, Fault>),
    AskDue(u64),
    ErrandDue(u64),
    Command(u64, Option<CommandResult>),
    Probed(u64, ProbeReport),
    Cared(BTreeSet<String>),
    Persisted(Result<(), StateError>),
    Controller(PowerController),
}

/// When autostart flags are looked at next.
#[derive(Debug, Default)]
pub(super) struct Care {
    busy: bool,
    not_before: Option<Instant>,
}

impl Agent {
    pub(super) fn on_done(&mut self, done: Done) {
        match done {
            Done::Read(answer) => self.on_answer(answer),
            Done::Direction(uuid, Ok(Migration::Outgoing)) => self.guests.set_outgoing(&uuid, true),
            Done::Direction(..) => {}
            Done::AskDue(token) => self.ask_due(token),
            Done::ErrandDue(ask) => self.errand_due(ask),
            Done::Command(session, result) => {
                self.commands -= 1;
                if let Some(result) = result {
                    self.answer_command(session, result);
                }
            }
            Done::Probed(session, report) => {
                self.probes -= 1;
                self.send_to(session, agent_frame::Body::ProbeReport(report));
            }
            Done::Cared(touched) => {
                self.care = Care { busy: false, not_before: Some(Instant::now() + CARE_AGAIN) };
                touched.iter().for_each(|uuid| self.reads.one(uuid));
            }
            Done::Controller(told) => self.on_controller(told),
            // A refusal has been told by the state itself.
            Done::Persisted(result) => {
                self.persisting = false;
                self.persist_again = result.is_err().then(|| Instant::now() + PERSIST_AGAIN);
            }
        }
    }

    pub(super) fn on_command(&mut self, session: u64, command: Command) {
        if self.commands >= COMMANDS_MAX {
            let result = CommandResult {
                id: command.id,
                outcome: command_result::Outcome::Refused.into(),
                reason: "busy".into(),
                detail: format!("{COMMANDS_MAX} commands are under way"),
            };
            self.count(&result);
            return self.send_to(session, agent_frame::Body::CommandResult(result));
        }
        self.commands += 1;
        tracing::info!(command = command.id, order = ?command.order.as_ref().map(name_of), "command");
        let hands = self.hands.clone();
        self.spawn(async move { Done::Command(session, hands.run(command).await) });
    }

    fn answer_command(&mut self, session: u64, result: CommandResult) {
        self.count(&result);
        // What was done shows in the inventory as well, and soon.
        self.watch.hint();
        self.reads.list();
        let body = agent_frame::Body::CommandResult(result);
        self.send_to(session, body.clone());
        if !self.stands(session) {
            self.send_decider(&body);
        }
    }

    pub(super) fn on_probe_order(&mut self, session: u64, order: ProbeOrder) {
        if self.probes >= PROBES_MAX {
            tracing::warn!(round = order.round, "{PROBES_MAX} rounds of probing are under way: not begun");
            return;
        }
        self.probes += 1;
        let deadline = Duration::from_millis(order.deadline_ms.into()).clamp(PROBE_DEADLINE.0, PROBE_DEADLINE.1);
        let (port, banners) = (self.config.responder_port, self.config.banner_ports.clone());
        self.spawn(async move {
            let targets: Vec<Target> =
                order.targets.into_iter().take(TARGETS_MAX).map(|t| target(t, port, &banners)).collect();
            let mut asked: FuturesUnordered<_> = targets.iter().map(|t| medevac_probe::probe(t, deadline)).collect();
            let mut results = Vec::new();
            while let Some(outcomes) = asked.next().await {
                results.extend(outcomes.into_iter().map(result_of));
            }
            Done::Probed(session, ProbeReport { round: order.round, results })
        });
    }

    /// Looks whether flags are to be taken or given back, at most once at a time.
    pub(super) fn care(&mut self) {
        let too_early = self.care.not_before.is_some_and(|t| Instant::now() < t);
        if self.care.busy || too_early || !self.guests.libvirt_answers() {
            return;
        }
        let steps = plan(&self.state.read(), self.guests.known_domains());
        if steps.is_empty() {
            return;
        }
        self.care.busy = true;
        let (hypervisor, state) = (Arc::clone(&self.hypervisor), Arc::clone(&self.state));
        self.spawn(async move { Done::Cared(care::carry_out(steps, hypervisor, state).await) });
    }

    pub(super) fn on_control(&mut self, ask: Ask) {
        match ask.word {
            Word::Maintenance(wanted) => self.on_maintenance(wanted, ask.answer),
            Word::Release(reason) => {
                let hands = self.hands.clone();
                tokio::spawn(async move {
                    // A person who hung up still gets what was ordered; it is in the log.
                    let _ = ask.answer.send(Told::done(hands.release(&reason).await));
                });
            }
            Word::GiveBack(reason) => {
                tracing::warn!(reason, "autostart flags are given back by hand");
                let domains = self.guests.known_domains().cloned().collect::<Vec<_>>();
                let (hypervisor, state) = (Arc::clone(&self.hypervisor), Arc::clone(&self.state));
                tokio::spawn(async move {
                    let lines = give_back::all(&domains, hypervisor, state).await;
                    let _ = ask.answer.send(Told::done(lines));
                });
            }
        }
    }

    /// Brings onto the disk who runs, for the next start of the agent.
    pub(super) fn persist(&mut self) {
        let too_early = self.persist_again.is_some_and(|at| Instant::now() < at);
        // What the host's shutdown ends still ran, as far as the next boot is concerned.
        if self.persisting || too_early || self.first_scan.is_some() || crate::host::is_shutting_down() {
            return;
        }
        let (ran, owed, migrated) = (self.guests.running(), self.guests.owed(), self.guests.migrated());
        let met = self.met.clone();
        let same = {
            let state = self.state.read();
            let newer = met.as_ref().is_some_and(|met| state.is_older_than(met));
            state.ran == ran && state.owed == owed && !newer && migrated.iter().all(|key| state.has_run.contains(key))
        };
        if same && !self.state.is_refused() {
            return;
        }
        self.persisting = true;
        let state = Arc::clone(&self.state);
        self.spawn(async move {
            let change = move |s: &mut State| {
                (s.ran, s.owed) = (ran, owed);
                migrated.into_iter().for_each(|key| s.set_has_run(key));
                s.epoch = met.filter(|met| s.is_older_than(met)).or(s.epoch.take());
            };
            // Unchanged, it is written all the same: only so is it known that the disk takes it again.
            let write = move || if same { state.settle() } else { state.change(change) };
            match tokio::task::spawn_blocking(write).await {
                Ok(result) => Done::Persisted(result),
                Err(_) => Done::Persisted(Ok(())),
            }
        });
    }
}

fn name_of(order: &medevac_proto::session::command::Order) -> &'static str {
    use medevac_proto::session::command::Order;
    match order {
        Order::Start(_) => "start",
        Order::Remove(_) => "remove",
        Order::DestroyIncoming(_) => "destroy-incoming",
        Order::Leave(_) => "leave",
        Order::ReleaseHold(_) => "release-hold",
    }
}

fn target(t: ProbeTarget, port: u16, banners: &[u16]) -> Target {
    let planes = t.planes.into_iter().filter_map(|(plane, address)| Some((plane, address.parse().ok()?)));
    let asked: Vec<u16> = t.banner_ports.iter().filter_map(|p| u16::try_from(*p).ok()).collect();
    Target {
        host: t.host,
        planes: planes.collect(),
        key: Key::new(&t.key),
        banner_ports: if asked.is_empty() { banners.to_vec() } else { asked },
        port,
    }
}

fn result_of(o: Outcome) -> ProbeResult {
    let answer = match o.answer {
        Answer::UserSpace => ProbeAnswer::UserSpace,
        Answer::KernelOnly => ProbeAnswer::KernelOnly,
        Answer::Nothing => ProbeAnswer::Nothing,
    };
    ProbeResult {
        host: o.host,
        plane: o.plane,
        answer: answer.into(),
        boot_id: o.boot_id,
        responder: o.responder,
        banner: o.banner,
    }
}
