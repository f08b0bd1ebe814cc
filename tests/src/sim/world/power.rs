//! Power controllers, and the truth about who may be shot.

use super::*;

/// What answers: its name, and whose controller it is; `None`: nobody is there.
#[derive(Clone, Debug)]
pub(super) struct Wired {
    name: String,
    bmc: Option<usize>,
}

impl World {
    /// Configured for its host, or found at an address: the controller of hvN is at 10.9.0.N.
    pub(super) fn wired(&self, host: usize, through: &Through) -> Wired {
        match through {
            Through::Levels => Wired { name: format!("bmc{}", host + 1), bmc: Some(host) },
            Through::Template { place, .. } => {
                let number = place.address.strip_prefix("10.9.0.").and_then(|last| last.parse::<usize>().ok());
                let bmc = number.and_then(|number| number.checked_sub(1)).filter(|bmc| *bmc < self.hosts.len());
                Wired { name: format!("bmc {place}"), bmc }
            }
        }
    }

    pub(super) fn bmc(&self, device: &Wired) -> &Bmc {
        device.bmc.map_or(&Bmc::Unreachable, |bmc| &self.hosts[bmc].bmc)
    }

    fn read_bmc(&mut self, device: &Wired) -> Power {
        let Some(host) = device.bmc else { return Power::Unknown };
        let h = &mut self.hosts[host];
        h.lied_about |= h.bmc == Bmc::Lies && h.up && self.now < h.lost_at + 1000;
        let power = |host: usize| if self.hosts[host].power { Power::On } else { Power::Off };
        match self.hosts[host].bmc {
            Bmc::Well | Bmc::Slow => power(host),
            Bmc::Unreachable => Power::Unknown,
            Bmc::Lies => Power::Off,
            Bmc::Shoots(other) => power(other),
        }
    }

    pub(super) fn read_done(&mut self, start: u64, host: usize, read: u64, device: &Wired) {
        let power = self.read_bmc(device);
        let said = if power == Power::Unknown { "no answer" } else { "it answers" }.to_owned();
        let looks = vec![Look { device: device.name.clone(), power, said }];
        self.tell(start, Observation::PowerRead { host: id(host), read, power, looks });
    }

    pub(super) fn fence_done(&mut self, start: u64, step: StepId, device: &Wired) {
        if let Some(host) = device.bmc {
            match self.hosts[host].bmc {
                Bmc::Well | Bmc::Slow => self.switch_off(host),
                Bmc::Unreachable | Bmc::Lies => {}
                Bmc::Shoots(other) => self.switch_off(other),
            }
        }
        let power = self.read_bmc(device);
        let detail = format!("status says {power:?}").to_lowercase();
        let answer = FenceAnswer { power, device: device.name.clone(), detail, nothing_sent: false };
        self.tell(start, Observation::FenceAnswered { step, answer });
    }

    /// From now on its agent says so, each time that it connects, too.
    pub(super) fn offer(&mut self, host: usize, offer: Offer) {
        self.hosts[host].controller = Some(offer);
        self.tell_controller(host);
    }

    pub(super) fn tell_controller(&mut self, host: usize) {
        let told = self.hosts[host].controller.clone();
        if let Some(offer) = told.filter(|_| self.hosts[host].session.is_some()) {
            // Behind the hello, as on a stream.
            let start = self.shared.lock().epoch;
            self.at(30, Event::Deliver(start, Observation::ControllerTold { host: id(host), offer }));
        }
    }

    pub(super) fn switch_off(&mut self, host: usize) {
        self.say(format!("hv{} is switched off", host + 1));
        self.die(host, false);
    }

    /// Nobody may be ordered off whom somebody could have heard a moment ago.
    pub(super) fn check_shot(&mut self, host: usize) {
        self.summary.shot += 1;
        self.say(format!("hv{} is ordered off", host + 1));
        let within = self.now - self.hosts[host].lost_at;
        if self.hosts[host].up && !self.hosts[host].frozen && within > IN_REACH {
            self.violate(format!("hv{} was ordered off although it had been in reach for {within} ms", host + 1));
        }
    }

    /// Keeps the truth about who is in reach.
    pub(super) fn look(&mut self) {
        self.at(250, Event::Look);
        for host in 0..self.hosts.len() {
            let h = &self.hosts[host];
            if !h.up || h.frozen {
                self.hosts[host].lost_at = self.now;
                continue;
            }
            let by_us = (0..3).any(|plane| self.path(Some(host), None, plane));
            let by_peer = (0..self.hosts.len()).any(|peer| {
                peer != host
                    && self.agent_runs(peer, self.hosts[peer].boots)
                    && self.path(Some(peer), None, 0)
                    && (0..3).any(|plane| self.path(Some(host), Some(peer), plane))
            });
            if !by_us && !by_peer {
                self.hosts[host].lost_at = self.now;
            }
        }
    }
}
