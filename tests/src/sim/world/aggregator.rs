//! The production engine in this world: its starts, its turns, what leaves it and what comes back.

use super::*;

impl World {
    pub(super) fn start_aggregator(&mut self) {
        if self.engine.is_some() {
            return;
        }
        let skew = self.rng.below(1 << 40);
        {
            let mut state = self.shared.lock();
            state.epoch += 1;
            state.skew = skew;
            state.outbox.clear();
            state.commands_left = None;
            state.lose_commit = None;
            state.died = false;
        }
        let port = || Box::new(self.shared.clone());
        let ports = Ports {
            clock: port(),
            store: port(),
            lease: port(),
            agents: port(),
            cloud: port(),
            fencer: port(),
            looker: port(),
            courier: port(),
            replies: port(),
        };
        self.engine = Some(Engine::start(self.settings.clone(), ports).expect("the simulated store reads back"));
        self.inbox.clear();
        self.paused_until = 0;
        self.summary.aggregator_starts += 1;
        self.say(format!("the aggregator starts, epoch {}", self.shared.lock().epoch));
        self.turn_soon();
    }

    pub(super) fn kill_aggregator(&mut self, why: &str) {
        if self.engine.take().is_none() {
            return;
        }
        self.say(format!("the aggregator dies: {why}"));
        self.inbox.clear();
        self.paused_until = 0;
        for host in 0..self.hosts.len() {
            if self.hosts[host].session.is_some() {
                self.drop_stream(host);
            }
        }
        let down = self.rng.between(1000, 15_000);
        self.at(down, Event::StartAggregator);
    }

    pub(super) fn tell(&mut self, start: u64, observation: Observation) {
        let delay = self.rng.between(1, 5);
        self.at(delay, Event::Deliver(start, observation));
    }

    pub(super) fn deliver(&mut self, start: u64, observation: Observation) {
        if self.engine.is_none() || self.shared.lock().epoch != start {
            return;
        }
        self.inbox.push(Input::Seen(observation));
        self.turn_soon();
    }

    pub(super) fn turn_soon(&mut self) {
        if !self.turn_due {
            self.turn_due = true;
            let wait = self.paused_until.saturating_sub(self.now).max(1);
            self.at(wait, Event::Turn);
        }
    }

    pub(super) fn timer(&mut self) {
        let due = self.engine.as_ref().and_then(Engine::poll_timeout);
        let skew = self.shared.lock().skew;
        if due.is_some_and(|due| due.0 <= self.now + skew) {
            self.turn_soon();
        }
    }

    pub(super) fn turn(&mut self) {
        self.turn_due = false;
        if self.paused_until > self.now {
            return self.turn_soon();
        }
        let inputs = std::mem::take(&mut self.inbox);
        let Some(engine) = self.engine.as_mut() else { return };
        let result = engine.turn(inputs);
        let (outbox, died, start, skew) = {
            let mut state = self.shared.lock();
            (std::mem::take(&mut state.outbox), state.died, state.epoch, state.skew)
        };
        for command in outbox {
            self.carry(start, command);
        }
        if let Err(error) = result {
            return self.kill_aggregator(&error.to_string());
        }
        if died {
            return self.kill_aggregator("between two commands");
        }
        if let Some(due) = self.engine.as_ref().and_then(Engine::poll_timeout) {
            let late = if self.calm { 0 } else { self.rng.below(20) };
            let wait = due.0.saturating_sub(self.now + skew) + late;
            self.at(wait.max(1), Event::Timer);
        }
    }

    /// A command has left the aggregator.
    pub(super) fn carry(&mut self, start: u64, command: Command) {
        let lookup = |name: &HostId| name.as_str().trim_start_matches("hv").parse::<usize>().map_or(0, |n| n - 1);
        let soon = self.rng.between(1, 15);
        match command {
            Command::Probe { round, witness, targets } => {
                let witness = lookup(&witness);
                let targets = targets.keys().map(lookup).collect();
                if self.agent_runs(witness, self.hosts[witness].boots) && self.path(Some(witness), None, 0) {
                    self.ask_probe(start, round, Vantage::Peer(id(witness)), targets, Vec::new());
                }
            }
            Command::ProbeReference { round, witness, references } => {
                let witness = lookup(&witness);
                if self.agent_runs(witness, self.hosts[witness].boots) && self.path(Some(witness), None, 0) {
                    self.ask_probe(start, round, Vantage::Peer(id(witness)), Vec::new(), references);
                }
            }
            Command::ProbeSelf { round, targets, references } => {
                let targets = targets.keys().map(lookup).collect();
                self.ask_probe(start, round, Vantage::Own, targets, references);
            }
            Command::ReadPower { host, read } => {
                let host = lookup(&host);
                let takes = if self.hosts[host].bmc == Bmc::Unreachable { 5000 } else { 220 };
                self.at(takes, Event::ReadDone { start, host, read });
            }
            Command::FenceOff { step, host } => {
                let host = lookup(&host);
                self.check_shot(host);
                let takes = match self.hosts[host].bmc {
                    Bmc::Slow => 15_000,
                    Bmc::Unreachable => 10_000,
                    _ => 2_500,
                };
                self.at(takes, Event::FenceDone { start, step, host });
            }
            // Nobody has a certificate here.
            Command::Bar(_) => {}
            Command::PowerOn { host } => self.at(2000, Event::PowerOn(lookup(&host))),
            Command::Order { ref host, ref session, step, ref order, .. } => {
                let at = lookup(host);
                self.say(format!("order {step} to {host}: {order:?}"));
                let connected = self.hosts[at].session.as_ref() == Some(session) && self.path(Some(at), None, 0);
                if connected {
                    let boot = self.hosts[at].boots;
                    self.at(soon, Event::Arrive { host: at, boot, start, command });
                } else if self.hosts[at].session.as_ref() != Some(session) {
                    self.tell(
                        start,
                        Observation::OrderAnswered { host: host.clone(), step, outcome: Outcome::NotSent },
                    );
                }
            }
            Command::AskInventory { ref host, ref session, .. }
            | Command::AskXml { ref host, ref session, .. }
            | Command::Acknowledge { ref host, ref session, .. }
            | Command::Care { ref host, ref session, .. } => {
                let at = lookup(host);
                if self.hosts[at].session.as_ref() == Some(session) && self.path(Some(at), None, 0) {
                    let boot = self.hosts[at].boots;
                    self.at(soon, Event::Arrive { host: at, boot, start, command });
                }
            }
            Command::Cloud(act) => self.nova_asked(start, act),
            Command::Tell { receiver, letter } => self.receive(start, receiver, &letter),
            Command::CloseSession { host, session, .. } => {
                let at = lookup(&host);
                if self.hosts[at].session.as_ref() == Some(&session) {
                    self.drop_stream(at);
                }
            }
        }
    }

    pub(super) fn ask_probe(
        &mut self,
        start: u64,
        round: u64,
        from: Vantage,
        targets: Vec<usize>,
        references: Vec<String>,
    ) {
        let node = self.node(&from);
        let all = targets
            .iter()
            .all(|target| (0..3).all(|plane| self.answer(node, *target, plane) == ProbeAnswer::UserSpace));
        let takes = if all { 40 } else { 810 };
        self.at(takes, Event::ProbeDone { start, round, from, targets, references });
    }

    pub(super) fn node(&self, from: &Vantage) -> Option<usize> {
        match from {
            Vantage::Own => None,
            Vantage::Peer(host) => host.as_str().trim_start_matches("hv").parse::<usize>().ok().map(|n| n - 1),
        }
    }

    pub(super) fn probe_done(
        &mut self,
        start: u64,
        round: u64,
        from: Vantage,
        targets: Vec<usize>,
        references: Vec<String>,
    ) {
        let node = self.node(&from);
        if node.is_some_and(|host| !self.agent_runs(host, self.hosts[host].boots)) {
            return;
        }
        let mut results = Vec::new();
        for target in targets {
            for (plane, name) in PLANES.iter().enumerate() {
                let lost = !self.calm && self.rng.once_in(150);
                let answer = if lost { ProbeAnswer::Nothing } else { self.answer(node, target, plane) };
                let user = answer == ProbeAnswer::UserSpace;
                let keyed = self.hosts[target].agent && self.hosts[target].keyed == start;
                let boot = (user && keyed).then(|| self.boot_id(target));
                results.push(ProbeResult {
                    target: ProbeTarget::Host(id(target)),
                    plane: PlaneId::from(*name),
                    answer,
                    boot,
                    banner: user,
                });
            }
        }
        for reference in references {
            let answer =
                if node.is_none() || self.path(node, None, 1) { ProbeAnswer::KernelOnly } else { ProbeAnswer::Nothing };
            let target = ProbeTarget::Reference(reference);
            results.push(ProbeResult { target, plane: PlaneId::from("storage"), answer, boot: None, banner: false });
        }
        let report = Observation::ProbeReported(ProbeReport { round, from, results });
        match node {
            None => self.tell(start, report),
            Some(host) => self.send(host, report),
        }
    }
}
