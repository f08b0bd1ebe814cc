//! What goes wrong, and the person who repairs it.

use super::*;

impl World {
    pub fn inject(&mut self, fault: &Fault) {
        self.say(format!("FAULT {fault:?}"));
        match fault.clone() {
            Fault::Crash(host) => {
                let power = self.hosts[host].power;
                self.die(host, power);
            }
            Fault::Unplug(host) => self.die(host, false),
            Fault::Boot(host) => {
                if self.hosts[host].power {
                    self.boot(host);
                }
            }
            Fault::Reboot(host) => {
                if self.hosts[host].up {
                    self.die(host, true);
                    let takes = self.rng.between(300, 60_000);
                    self.at(takes, Event::Boot(host));
                }
            }
            Fault::OrderlyReboot(host) => self.orderly_reboot(host),
            Fault::Freeze(host) => self.hosts[host].frozen = self.hosts[host].up,
            Fault::Thaw(host) => {
                self.hosts[host].frozen = false;
                if self.hosts[host].session.is_none() {
                    self.at(500, Event::Connect(host, self.hosts[host].boots));
                }
            }
            Fault::KillAgent(host) => self.kill_agent(host),
            Fault::StartAgent(host) => {
                if self.hosts[host].up && !self.hosts[host].agent {
                    self.hosts[host].agent = true;
                    self.at(500, Event::Connect(host, self.hosts[host].boots));
                }
            }
            Fault::CutPlane(host, plane) => self.hosts[host].planes[plane] = false,
            Fault::HealPlane(host, plane) => self.hosts[host].planes[plane] = true,
            Fault::CutOneWay(host) => self.hosts[host].deaf_side = true,
            Fault::CutAll(host) => self.hosts[host].planes = [false; 3],
            Fault::HealAll(host) => {
                self.hosts[host].planes = [true; 3];
                self.hosts[host].deaf_side = false;
            }
            Fault::Split(near) => {
                for host in 0..self.hosts.len() {
                    self.hosts[host].far_side = !near.contains(&host);
                }
            }
            Fault::HealSplit => self.hosts.iter_mut().for_each(|host| host.far_side = false),
            Fault::KillAggregator => self.kill_aggregator("kill -9"),
            Fault::PauseAggregator(time) => self.paused_until = self.now + time.as_millis() as u64,
            Fault::LoseCommit { applied } => self.shared.lock().lose_commit = Some(applied),
            Fault::DieAfterCommands(count) => self.shared.lock().commands_left = Some(count),
            Fault::CrashGuest(guest) => self.end_guest(guest, StopReason::Crashed),
            Fault::Migrate(guest, host) => self.migrate(guest, host),
            Fault::ShutDownGuest(guest) => self.end_guest(guest, StopReason::GuestShutdown),
            Fault::BmcUnreachable(host) => self.break_bmc(host, Bmc::Unreachable),
            Fault::BmcLies(host) => self.break_bmc(host, Bmc::Lies),
            Fault::BmcSlow(host) => self.break_bmc(host, Bmc::Slow),
            Fault::BmcWell(host) => self.repair_bmc(host),
            Fault::Offer(host, ref offer) => self.offer(host, offer.clone()),
            Fault::RefuseStart(host) => self.hosts[host].refuse_next = true,
            Fault::BreakNova(time) => self.break_nova(time.as_millis() as u64),
            Fault::DieAtEvacuation { before } => self.shared.lock().die_at = Some(("cloud-evacuate", before)),
            Fault::LoseNovaAnswer => self.lose_nova_answer(),
            Fault::LoseAnswer(host) => self.hosts[host].lose_answer = true,
            Fault::LocalDisk(guest) => self.guests[guest].disk = Lies::Local,
            Fault::SharedFile(guest) => self.guests[guest].disk = Lies::Shared,
            Fault::Unmount(host) => self.hosts[host].bare = true,
            Fault::Bind(guest, reason) => self.guests[guest].bound = Some(reason),
            Fault::Fill(host) => self.hosts[host].full = true,
            Fault::Drain(host) => self.hosts[host].full = false,
            Fault::HangLibvirt(host) => self.hosts[host].libvirt_hangs = true,
            Fault::HealLibvirt(host) => self.hosts[host].libvirt_hangs = false,
            Fault::StartByHand(guest, host) => self.start_by_hand(guest, host),
            Fault::Nova(fault) => self.trouble_nova(fault),
        }
    }

    /// Wired wrongly from the first day on.
    pub fn miswire(&mut self, host: usize, other: usize) {
        self.say(format!("hv{}'s power controller is wired to hv{}", host + 1, other + 1));
        self.hosts[host].bmc = Bmc::Shoots(other);
    }

    pub(super) fn break_bmc(&mut self, host: usize, bmc: Bmc) {
        if !matches!(self.hosts[host].bmc, Bmc::Shoots(_)) {
            self.hosts[host].bmc = bmc;
        }
    }

    pub(super) fn repair_bmc(&mut self, host: usize) {
        self.break_bmc(host, Bmc::Well);
    }

    pub(super) fn kill_agent(&mut self, host: usize) {
        if !self.hosts[host].up || !self.hosts[host].agent {
            return;
        }
        let start = self.shared.lock().epoch;
        if let Some(session) = self.hosts[host].session.take()
            && self.path(Some(host), None, 0)
        {
            self.tell(start, Observation::SessionClosed { host: id(host), session, by: Closer::Host });
        }
        let h = &mut self.hosts[host];
        h.agent = false;
        h.stalled.clear();
    }

    pub(super) fn orderly_reboot(&mut self, host: usize) {
        if !self.hosts[host].up || self.hosts[host].frozen {
            return;
        }
        if self.hosts[host].agent {
            let running = self.hosts[host].guests.keys().map(|guest| guest_id(*guest)).collect();
            let goodbye = Parting { host_shuts_down: true, running, stopped_by_user: BTreeSet::new() };
            let boot = self.boot_id(host);
            self.send(host, Observation::GoodbyeSaid { host: id(host), boot, goodbye });
        }
        self.die(host, true);
        let takes = self.rng.between(5_000, 90_000);
        self.at(takes, Event::Boot(host));
    }

    /// Faults stop. A person then does what the runbook says, every ten seconds.
    pub fn repair_everything(&mut self) {
        self.say("REPAIR".to_owned());
        for host in 0..self.hosts.len() {
            let h = &mut self.hosts[host];
            h.planes = [true; 3];
            h.deaf_side = false;
            h.far_side = false;
            h.bmc = Bmc::Well;
            h.frozen = false;
            h.refuse_next = false;
            h.lose_answer = false;
            if h.up && !h.agent {
                h.agent = true;
            }
            if h.up && h.session.is_none() {
                let boot = h.boots;
                self.at(500, Event::Connect(host, boot));
            }
        }
        {
            let mut state = self.shared.lock();
            state.commands_left = None;
            state.lose_commit = None;
            state.die_at = None;
        }
        self.break_nova(0);
        self.operating = true;
        self.at(10_000, Event::Operate);
    }

    pub fn speak(&mut self, word: Word) {
        let start = self.shared.lock().epoch;
        self.next_token += 1;
        let token = self.next_token;
        let (by, reason) = ("operator".to_owned(), "repair".to_owned());
        self.deliver(start, Observation::OperatorSpoke { token, by, reason, word });
    }

    pub(super) fn operate(&mut self) {
        if !self.operating {
            return;
        }
        self.at(10_000, Event::Operate);
        let records: Vec<Record> = self.shared.lock().records.values().cloned().collect();
        for record in &records {
            match record {
                Record::Incident(incident)
                    if matches!(incident.phase, Phase::WaitingForApproval | Phase::WaitingForRail { .. }) =>
                {
                    self.speak(Word::Approve { incident: incident.id });
                }
                Record::Host(record) => {
                    let host = record.id.as_str().trim_start_matches("hv").parse::<usize>().map_or(0, |n| n - 1);
                    self.look_after(host, record.fenced, record.goodbye.as_ref());
                }
                _ => {}
            }
        }
    }

    /// The person in front of the rack.
    pub(super) fn look_after(&mut self, host: usize, fenced: bool, goodbye: Option<&Goodbye>) {
        if self.hosts[host].up {
            return;
        }
        if fenced {
            self.speak(Word::Release { host: id(host) });
        } else if !self.hosts[host].power {
            self.speak(Word::PowerOn { host: id(host) });
        } else if self.rng.once_in(if goodbye.is_none() { 12 } else { 40 }) {
            // Dead with the power on and nobody has shot it: pressed by hand.
            self.boot(host);
        }
    }
}
