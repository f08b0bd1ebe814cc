//! Hosts and the agents on them: boots, streams, inventories, orders.

use super::*;

/// The folder that hosts share.
const SHARED: &str = "/srv/shared";

impl World {
    pub(super) fn boot_id(&self, host: usize) -> BootId {
        BootId(format!("boot-{}-{}", host + 1, self.hosts[host].boots))
    }

    pub(super) fn boot(&mut self, host: usize) {
        if self.hosts[host].up {
            return;
        }
        let start_here: Vec<usize> = self.hosts[host].autostart.iter().copied().collect();
        let jitter = self.rng.between(200, 3000);
        let now = self.now;
        let h = &mut self.hosts[host];
        h.boots += 1;
        h.up = true;
        h.power = true;
        h.frozen = false;
        h.booted_at = now;
        h.agent = true;
        h.seq = 0;
        h.keyed = 0;
        h.lied_about = false;
        h.unacked.clear();
        h.shutdowns.clear();
        h.last_stop.clear();
        h.guests.clear();
        h.outgoing.clear();
        h.incoming.clear();
        h.held = h.boots > 1 && (h.mode == "act" || h.mode == "approve");
        h.session = None;
        h.stalled.clear();
        let boot = h.boots;
        self.say(format!("hv{} boots, boot {boot}", host + 1));
        for guest in start_here {
            self.run_guest(host, guest);
        }
        self.at(jitter, Event::Connect(host, boot));
        self.at(1000 + jitter, Event::Beat(host, boot));
    }

    pub(super) fn die(&mut self, host: usize, power: bool) {
        let h = &mut self.hosts[host];
        h.up = false;
        h.frozen = false;
        h.power = power;
        h.guests.clear();
        h.outgoing.clear();
        h.incoming.clear();
        h.agent = false;
        h.session = None;
        h.stalled.clear();
        h.stalled_since = None;
    }

    pub(super) fn agent_runs(&self, host: usize, boot: u32) -> bool {
        let h = &self.hosts[host];
        h.up && h.agent && !h.frozen && h.boots == boot
    }

    pub(super) fn connect(&mut self, host: usize, boot: u32) {
        let h = &self.hosts[host];
        if !h.up || !h.agent || h.boots != boot || h.session.is_some() {
            return;
        }
        let start = self.shared.lock().epoch;
        let reaches = self.path(Some(host), None, 0) && self.engine.is_some() && self.paused_until <= self.now;
        if h.frozen || !reaches {
            let again = self.rng.between(200, 5000);
            return self.at(again, Event::Connect(host, boot));
        }
        self.next_session += 1;
        let session = SessionId(format!("s{}", self.next_session));
        let hello = self.hello(host, session.clone());
        let h = &mut self.hosts[host];
        h.session = Some(session);
        h.keyed = start;
        h.stalled.clear();
        h.stalled_since = None;
        let delay = self.rng.between(1, 20);
        self.at(delay, Event::Deliver(start, Observation::SessionOpened(Box::new(hello))));
        for (seq, fact) in self.hosts[host].unacked.clone() {
            self.send_fact(host, seq, fact);
        }
        self.tell_controller(host);
    }

    pub(super) fn hello(&self, host: usize, session: SessionId) -> Hello {
        let h = &self.hosts[host];
        Hello {
            host: id(host),
            session,
            machine: format!("machine-{}", host + 1),
            boot: self.boot_id(host),
            uptime: Duration::from_millis(self.now - h.booted_at),
            previous_boots: (1..h.boots).rev().map(|boot| BootId(format!("boot-{}-{boot}", host + 1))).collect(),
            planes: PLANES.iter().map(|plane| (PlaneId::from(*plane), format!("{plane}-{}", host + 1))).collect(),
            held: h.held,
            inventory: self.inventory(host),
            memory_total_kib: 64 << 20,
            memory_available_kib: self.memory_left(host),
            warnings: Vec::new(),
            highest_epoch: None,
        }
    }

    pub(super) fn inventory(&self, host: usize) -> Inventory {
        let h = &self.hosts[host];
        let libvirt_answered = !h.libvirt_hangs;
        let known: BTreeSet<usize> = match libvirt_answered {
            true => h.defined.iter().chain(h.guests.keys()).chain(&h.incoming).copied().collect(),
            false => h.guests.keys().copied().collect(),
        };
        let instances: BTreeMap<InstanceId, Shown> =
            known.into_iter().map(|guest| (guest_id(guest), self.shown(host, guest))).collect();
        let shared = (!h.bare).then(|| (SHARED.to_owned(), "folder-1".to_owned()));
        Inventory { digest: digest(&instances), libvirt_answered, instances, storage: shared.into_iter().collect() }
    }

    fn memory_left(&self, host: usize) -> u64 {
        if self.hosts[host].full { 256 << 10 } else { 32 << 20 }
    }

    pub(super) fn shown(&self, host: usize, guest: usize) -> Shown {
        let h = &self.hosts[host];
        let pid = h.guests.get(&guest).copied();
        let (place, network) = match self.guests[guest].disk {
            Lies::Network => ("nbd://store", true),
            Lies::Local => ("/var/local", false),
            Lies::Shared => (SHARED, false),
        };
        let marker = (place == SHARED).then(|| "folder-1".to_owned());
        let disk = Disk { path: format!("{place}/vm{}", guest + 1), network, marker };
        let still = self.guests[guest].still;
        let saved = (still == Some(RunState::Saved)).then(|| "managed save".to_owned());
        Shown {
            known: !h.libvirt_hangs,
            name: format!("vm{}", guest + 1),
            state: match pid {
                Some(_) => still.unwrap_or(RunState::Running),
                None if h.incoming.contains(&guest) => RunState::Incoming,
                None => still.unwrap_or(RunState::Stopped),
            },
            outgoing: h.outgoing.contains(&guest),
            pid: pid.unwrap_or(0),
            pid_start: pid.unwrap_or(0) as u64,
            persistent: h.defined.contains(&guest),
            autostart: h.autostart.contains(&guest),
            autostart_taken: h.taken.contains(&guest),
            memory_kib: 1 << 20,
            xml_hash: format!("xml-{guest}"),
            disks: vec![disk],
            local_only: self.guests[guest].bound.clone().into_iter().chain(saved).collect(),
            last_stop: h.last_stop.get(&guest).copied().unwrap_or_default(),
            ..Shown::default()
        }
    }

    pub(super) fn beat(&mut self, host: usize, boot: u32) {
        if !self.hosts[host].up || self.hosts[host].boots != boot {
            return;
        }
        let jitter = self.rng.between(0, 40);
        self.at(980 + jitter, Event::Beat(host, boot));
        if !self.agent_runs(host, boot) {
            return;
        }
        let Some(session) = self.hosts[host].session.clone() else { return };
        let heartbeat = Heartbeat {
            host: id(host),
            session,
            digest: self.inventory(host).digest,
            memory_available_kib: self.memory_left(host),
            held: self.hosts[host].held,
            libvirt_answers: !self.hosts[host].libvirt_hangs,
        };
        self.send(host, Observation::HeartbeatArrived(heartbeat));
    }

    /// Over the host's stream: in order, delayed while the path is cut, lost with the stream.
    pub(super) fn send(&mut self, host: usize, observation: Observation) {
        if self.hosts[host].session.is_none() || !self.hosts[host].agent {
            return;
        }
        let start = self.shared.lock().epoch;
        if !self.path(Some(host), None, 0) {
            let now = self.now;
            let h = &mut self.hosts[host];
            h.stalled.push(observation);
            let since = *h.stalled_since.get_or_insert(now);
            if now - since > STREAM_PATIENCE {
                self.drop_stream(host);
            }
            return;
        }
        self.hosts[host].stalled_since = None;
        let mut waiting = std::mem::take(&mut self.hosts[host].stalled);
        waiting.push(observation);
        for observation in waiting {
            let delay = self.rng.between(1, 30);
            let at = (self.now + delay).max(self.hosts[host].delivered_at + 1);
            self.hosts[host].delivered_at = at;
            self.at(at - self.now, Event::Deliver(start, observation));
        }
    }

    pub(super) fn drop_stream(&mut self, host: usize) {
        let boot = self.hosts[host].boots;
        let h = &mut self.hosts[host];
        h.session = None;
        h.stalled.clear();
        h.stalled_since = None;
        let again = self.rng.between(200, 5000);
        self.at(again, Event::Connect(host, boot));
    }

    pub(super) fn send_inventory(&mut self, host: usize, answers: Option<u64>) {
        let Some(session) = self.hosts[host].session.clone() else { return };
        let (boot, inventory) = (self.boot_id(host), self.inventory(host));
        self.send(host, Observation::InventoryArrived { host: id(host), session, boot, inventory, answers });
    }

    pub(super) fn fact(&mut self, host: usize, fact: Fact) {
        let h = &mut self.hosts[host];
        h.seq += 1;
        let seq = h.seq;
        h.unacked.push((seq, fact.clone()));
        self.send_fact(host, seq, fact);
    }

    pub(super) fn send_fact(&mut self, host: usize, seq: u64, fact: Fact) {
        let Some(session) = self.hosts[host].session.clone() else { return };
        let boot = self.boot_id(host);
        self.send(host, Observation::FactArrived { host: id(host), session, boot, seq, fact });
    }

    /// What becomes of an order that has reached its host.
    pub(super) fn arrive(&mut self, host: usize, boot: u32, start: u64, command: Command) {
        if !self.agent_runs(host, boot) || !self.path(Some(host), None, 0) {
            return;
        }
        let number = |guest: &InstanceId| guest.as_str().trim_start_matches("guest-").parse::<usize>().unwrap_or(0);
        match command {
            Command::AskInventory { ask, .. } => self.send_inventory(host, Some(ask)),
            Command::AskXml { hashes, .. } => {
                for hash in hashes {
                    self.send(
                        host,
                        Observation::XmlArrived { host: id(host), xml: format!("<domain>{hash}</domain>"), hash },
                    );
                }
            }
            Command::Acknowledge { seq, .. } => {
                self.hosts[host].unacked.retain(|(unacked, _)| *unacked > seq);
                let told = std::mem::take(&mut self.hosts[host].shutdowns);
                for (at, guest) in told {
                    if at <= seq {
                        self.guests[guest].wanted = Some(false);
                    } else {
                        self.hosts[host].shutdowns.push((at, guest));
                    }
                }
            }
            Command::Care { care, .. } => {
                let h = &mut self.hosts[host];
                h.mode.clone_from(&care.mode);
                if care.mode != "observe" {
                    let taken: Vec<usize> =
                        h.autostart.iter().copied().filter(|g| care.protected.contains(&guest_id(*g))).collect();
                    for guest in taken {
                        h.autostart.remove(&guest);
                        h.taken.insert(guest);
                    }
                }
            }
            Command::Order { step, boot: for_boot, order, .. } => {
                if let Some(first) = self.hosts[host].results.get(&step).cloned() {
                    return self.answer_order(host, start, step, first);
                }
                if for_boot != self.boot_id(host) {
                    let refused = Outcome::Refused { reason: "other_boot".to_owned(), detail: String::new() };
                    return self.answer_order(host, start, step, refused);
                }
                match order {
                    Order::Start { instance, .. } => {
                        let delay = self.rng.between(50, 900);
                        self.at(delay, Event::Started { host, boot, start, step, guest: number(&instance) });
                    }
                    Order::Remove { instance } => {
                        let guest = number(&instance);
                        let runs = self.hosts[host].guests.contains_key(&guest);
                        let outcome = if runs {
                            Outcome::Refused { reason: "running".to_owned(), detail: String::new() }
                        } else {
                            self.hosts[host].defined.remove(&guest);
                            self.hosts[host].taken.remove(&guest);
                            Outcome::Done { detail: String::new() }
                        };
                        self.finish_order(host, start, step, outcome);
                    }
                    Order::ReleaseHold { .. } => {
                        self.hosts[host].held = false;
                        self.finish_order(host, start, step, Outcome::Done { detail: String::new() });
                    }
                    Order::DestroyIncoming { instance } => {
                        self.hosts[host].incoming.remove(&number(&instance));
                        self.finish_order(host, start, step, Outcome::Done { detail: String::new() });
                    }
                    Order::Leave { .. } => {
                        self.finish_order(host, start, step, Outcome::Done { detail: String::new() });
                    }
                }
            }
            _ => {}
        }
    }

    pub(super) fn started(&mut self, host: usize, boot: u32, start: u64, step: StepId, guest: usize) {
        if !self.agent_runs(host, boot) || self.hosts[host].results.contains_key(&step) {
            return;
        }
        let outcome = if std::mem::take(&mut self.hosts[host].refuse_next) {
            Outcome::Refused { reason: "xml_rejected".to_owned(), detail: "simulated".to_owned() }
        } else {
            if !self.hosts[host].guests.contains_key(&guest) {
                self.hosts[host].defined.insert(guest);
                self.run_guest(host, guest);
                self.summary.started += 1;
            }
            Outcome::Done { detail: String::new() }
        };
        self.finish_order(host, start, step, outcome);
    }

    pub(super) fn finish_order(&mut self, host: usize, start: u64, step: StepId, outcome: Outcome) {
        self.hosts[host].results.insert(step, outcome.clone());
        self.answer_order(host, start, step, outcome);
        self.send_inventory(host, None);
    }

    pub(super) fn answer_order(&mut self, host: usize, start: u64, step: StepId, outcome: Outcome) {
        if std::mem::take(&mut self.hosts[host].lose_answer) {
            return self.say(format!("hv{}: answer to {step} lost", host + 1));
        }
        if self.shared.lock().epoch == start {
            self.send(host, Observation::OrderAnswered { host: id(host), step, outcome });
        }
    }
}
