//! Guests: they run, end and migrate.

use super::*;

impl World {
    pub(super) fn run_guest(&mut self, host: usize, guest: usize) {
        self.next_pid += 1;
        let pid = self.next_pid;
        let elsewhere =
            (0..self.hosts.len()).find(|other| *other != host && self.hosts[*other].guests.contains_key(&guest));
        self.hosts[host].guests.insert(guest, pid);
        self.hosts[host].last_stop.remove(&guest);
        self.guests[guest].still = None;
        self.say(format!("vm{} runs on hv{}", guest + 1, host + 1));
        if let Some(other) = elsewhere {
            if self.hosts[other].lied_about {
                self.beyond_evidence = true;
                return;
            }
            self.violate(format!("vm{} was started on hv{} while it ran on hv{}", guest + 1, host + 1, other + 1));
        }
    }

    /// Its user has it stand still: paused where it runs, or with its memory saved.
    pub(super) fn stand_still(&mut self, guest: usize, saved: bool) {
        let runs = |host: &usize| self.hosts[*host].up && self.hosts[*host].guests.contains_key(&guest);
        let Some(host) = (0..self.hosts.len()).find(runs) else { return };
        self.guests[guest].wanted = None;
        self.guests[guest].still = Some(if saved { RunState::Saved } else { RunState::Paused });
        if saved {
            self.hosts[host].guests.remove(&guest);
            self.hosts[host].last_stop.insert(guest, StopReason::Saved);
        }
        self.send_inventory(host, None);
    }

    /// Somebody else's act: what it breaks is no fault of medevac.
    pub(super) fn start_by_hand(&mut self, guest: usize, host: usize) {
        self.next_pid += 1;
        self.hosts[host].defined.insert(guest);
        self.hosts[host].guests.insert(guest, self.next_pid);
        self.say(format!("a person starts vm{} on hv{}", guest + 1, host + 1));
        self.send_inventory(host, None);
    }

    /// A live migration: the target's copy waits until the source hands over.
    pub(super) fn migrate(&mut self, guest: usize, to: usize) {
        let Some(from) = (0..self.hosts.len()).find(|host| self.hosts[*host].guests.contains_key(&guest)) else {
            return;
        };
        let able = |host: usize| self.hosts[host].up && !self.hosts[host].frozen;
        if from == to || !able(from) || !able(to) || !self.path(Some(from), Some(to), 2) {
            return;
        }
        self.hosts[from].outgoing.insert(guest);
        self.hosts[to].incoming.insert(guest);
        self.send_inventory(from, None);
        self.send_inventory(to, None);
        let takes = self.rng.between(500, 8000);
        let boots = (self.hosts[from].boots, self.hosts[to].boots);
        self.at(takes, Event::Migrated { guest, from: (from, boots.0), to: (to, boots.1) });
    }

    pub(super) fn migrated(&mut self, guest: usize, from: (usize, u32), to: (usize, u32)) {
        let lives = |(host, boot): (usize, u32)| self.hosts[host].up && self.hosts[host].boots == boot;
        let (source_lives, target_lives) = (lives(from), lives(to));
        let source_runs = source_lives && self.hosts[from.0].guests.contains_key(&guest);
        let stuck = self.hosts[from.0].frozen || self.hosts[to.0].frozen || !self.path(Some(from.0), Some(to.0), 2);
        let whole = target_lives && self.hosts[to.0].incoming.contains(&guest);
        if source_runs && whole && stuck {
            return self.at(1000, Event::Migrated { guest, from, to });
        }
        if source_lives {
            self.hosts[from.0].outgoing.remove(&guest);
        }
        if source_runs && whole {
            self.hosts[from.0].guests.remove(&guest);
            self.hosts[from.0].defined.remove(&guest);
            self.hosts[to.0].incoming.remove(&guest);
            self.hosts[to.0].defined.insert(guest);
            self.run_guest(to.0, guest);
            self.nova_migrated(guest, to.0);
            self.send_inventory(to.0, None);
        } else if target_lives && self.rng.once_in(2) {
            // Its source is gone: the waiting copy mostly ends by itself.
            self.hosts[to.0].incoming.remove(&guest);
            self.send_inventory(to.0, None);
        }
        if source_lives {
            self.send_inventory(from.0, None);
        }
    }

    pub(super) fn end_guest(&mut self, guest: usize, reason: StopReason) {
        let Some(host) =
            (0..self.hosts.len()).find(|host| self.hosts[*host].up && self.hosts[*host].guests.contains_key(&guest))
        else {
            return;
        };
        if self.hosts[host].frozen {
            return;
        }
        let pid = self.hosts[host].guests.remove(&guest).unwrap_or(0);
        self.hosts[host].last_stop.insert(guest, reason);
        if reason == StopReason::GuestShutdown {
            // Whether it stays down depends on whether anybody could be told in time.
            self.guests[guest].wanted = None;
        }
        self.say(format!("vm{} ends on hv{}: {reason:?}", guest + 1, host + 1));
        self.nova_hears_of_end(guest, reason);
        let instance = guest_id(guest);
        if self.hosts[host].agent {
            self.fact(host, Fact::InstanceGone { instance: instance.clone(), pid, pid_start: pid as u64 });
            self.fact(
                host,
                Fact::InstanceStopped { instance, reason, pid, pid_start: pid as u64, host_shutting_down: false },
            );
            if reason == StopReason::GuestShutdown {
                let seq = self.hosts[host].seq;
                self.hosts[host].shutdowns.push((seq, guest));
            }
            self.send_inventory(host, None);
        }
    }
}
