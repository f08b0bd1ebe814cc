//! Power controllers, and the truth about who may be shot.

use super::*;

impl World {
    pub(super) fn read_bmc(&mut self, host: usize) -> Power {
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

    pub(super) fn fence_done(&mut self, start: u64, step: StepId, host: usize) {
        match self.hosts[host].bmc {
            Bmc::Well | Bmc::Slow => self.switch_off(host),
            Bmc::Unreachable | Bmc::Lies => {}
            Bmc::Shoots(other) => self.switch_off(other),
        }
        let power = self.read_bmc(host);
        let device = format!("bmc{}", host + 1);
        let detail = format!("status says {power:?}").to_lowercase();
        let answer = FenceAnswer { power, device, detail, nothing_sent: false };
        self.tell(start, Observation::FenceAnswered { step, answer });
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
