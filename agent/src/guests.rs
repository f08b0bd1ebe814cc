//! The view of this host's guests: /proc and libvirt joined, and the facts that follow.
//!
//! ```text
//!   process found / ended  --.
//!   lifecycle event        --+--> Guests --> facts (gone, stopped, started)
//!   domain read / list     --'          `--> inventory, its generation and digest
//! ```
//!
//! Pure: no I/O, no clock. A death is told at once with its cause pending; the
//! cause follows when libvirt tells it, by event or, where that was lost, by state.

mod publish;

use crate::hypervisor::Domain;
use crate::qemu::Process;
use crate::verdict::{self, event};
use medevac_proto::session::{Instance, InstanceGone, InstanceStarted, InstanceStopped, StopReason, fact::What};
use std::collections::{BTreeMap, BTreeSet};

/// Everything known about one guest.
#[derive(Clone, Debug, Default)]
struct Guest {
    domain: Option<Domain>,
    /// Its QEMU process, alive.
    process: Option<Process>,
    /// Its latest QEMU process that ended.
    dead: Option<Dead>,
    /// The guest itself has run in the present process, not only its memory been received.
    has_run: bool,
    /// Detail of the SHUTDOWN event of the present process.
    shutdown: Option<i32>,
    /// libvirt told the reason before the process was seen to end.
    pending: Option<StopReason>,
    last_stop: StopReason,
    outgoing: bool,
}

#[derive(Clone, Debug)]
struct Dead {
    pid: i32,
    start: u64,
    /// Its reason has been told.
    told: bool,
}

/// The guests of one host.
#[derive(Debug, Default)]
pub struct Guests {
    guests: BTreeMap<String, Guest>,
    /// Processes of migrated guests known to have run, from before a restart of the agent.
    has_run: BTreeSet<String>,
    /// Whether libvirt is connected and answers; without it nothing new is known of stopped guests.
    libvirt: bool,
    autostart_taken: BTreeSet<String>,
    storage: BTreeMap<String, Marked>,
    backing: BTreeMap<String, String>,
    published: BTreeMap<String, Instance>,
    published_storage: Vec<(String, String)>,
    generation: u64,
    digest: u64,
}

/// What is known of the marker in one directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marked {
    /// Last one read. Storage that hangs now has not become another storage.
    pub marker: String,
    /// It could be read in the latest round.
    pub readable: bool,
    /// Why nobody could look at the directory as those see it who use it.
    pub why: String,
}

impl Guests {
    /// What the agent knew when it ended in this same boot, with pid and start time: who ran, and
    /// who had ended without a reason being told.
    pub fn new(
        ran: &BTreeMap<String, (i32, u64)>,
        owed: &BTreeMap<String, (i32, u64)>,
        has_run: &BTreeSet<String>,
    ) -> Guests {
        let mut guests = Guests { has_run: has_run.clone(), ..Guests::default() };
        for (uuid, (pid, start)) in owed {
            let dead = Some(Dead { pid: *pid, start: *start, told: false });
            guests.guests.insert(uuid.clone(), Guest { dead, ..Guest::default() });
        }
        for (uuid, (pid, start)) in ran {
            // Taken for alive until the first scan says otherwise.
            let key = format!("{uuid}/{pid}/{start}");
            let incoming = has_run.contains(&key);
            let process = Process { uuid: uuid.clone(), pid: *pid, start: *start, incoming };
            let guest = Guest { process: Some(process), has_run: true, ..Guest::default() };
            guests.guests.insert(uuid.clone(), guest);
        }
        guests
    }

    /// A QEMU process was found.
    pub fn process_found(&mut self, process: Process) -> Vec<What> {
        let mut facts = Vec::new();
        let known = self.guests.get(&process.uuid).and_then(|g| g.process.clone());
        match known {
            Some(p) if (p.pid, p.start) == (process.pid, process.start) => return facts,
            // Its predecessor's end was missed.
            Some(p) => facts.extend(self.process_ended(&p)),
            None => {}
        }
        let has_run = !process.incoming || self.has_run.contains(&process.key());
        let guest = self.guests.entry(process.uuid.clone()).or_default();
        guest.has_run = has_run;
        (guest.shutdown, guest.pending, guest.dead) = (None, None, None);
        (guest.last_stop, guest.outgoing) = (StopReason::Unspecified, false);
        if has_run {
            facts.push(started(&process));
        }
        guest.process = Some(process);
        facts
    }

    /// A QEMU process ended.
    pub fn process_ended(&mut self, process: &Process) -> Vec<What> {
        let Some(guest) = self.guests.get_mut(&process.uuid) else { return Vec::new() };
        let same = |p: &Process| (p.pid, p.start) == (process.pid, process.start);
        if !guest.process.as_ref().is_some_and(same) {
            return Vec::new();
        }
        (guest.process, guest.outgoing) = (None, false);
        guest.dead = Some(Dead { pid: process.pid, start: process.start, told: false });
        guest.last_stop = StopReason::Unspecified;
        let (uuid, pid) = (process.uuid.clone(), process.pid.into());
        let mut facts = vec![What::InstanceGone(InstanceGone { uuid, pid, pid_start: process.start })];
        if let Some(reason) = guest.pending.take() {
            facts.extend(tell(&process.uuid, guest, reason));
        }
        facts
    }

    /// After the first scan: whoever was remembered and not found has ended meanwhile.
    pub fn first_scan_done(&mut self, found: &BTreeSet<String>) -> Vec<What> {
        let alive = self.guests.values().filter_map(|g| g.process.clone());
        let missing: Vec<Process> = alive.filter(|p| !found.contains(&p.key())).collect();
        missing.iter().flat_map(|p| self.process_ended(p)).collect()
    }

    /// libvirt told a lifecycle event.
    pub fn lifecycle(&mut self, uuid: &str, event: i32, detail: i32) -> Vec<What> {
        let guest = self.guests.entry(uuid.to_owned()).or_default();
        match event {
            event::SHUTDOWN => guest.shutdown = Some(detail),
            event::STOPPED => {
                guest.outgoing = false;
                let reason = verdict::stopped(detail, guest.shutdown);
                if guest.process.is_some() {
                    // The process is still there, and may be writing: wait for its end.
                    guest.pending = Some(reason);
                } else {
                    return tell(uuid, guest, reason).into_iter().collect();
                }
            }
            event::RESUMED => return self.arrived(uuid).into_iter().collect(),
            _ => {}
        }
        Vec::new()
    }

    /// libvirt's present word about one domain; `None`: it does not know it.
    pub fn domain(&mut self, uuid: &str, domain: Option<Domain>) -> Vec<What> {
        let guest = self.guests.entry(uuid.to_owned()).or_default();
        let was_active = guest.domain.as_ref().is_some_and(verdict::is_active);
        guest.domain = domain;
        let mut facts = Vec::new();
        if let Some(d) = guest.domain.clone() {
            if verdict::has_arrived(&d) {
                facts.extend(self.arrived(uuid));
            }
            facts.extend(self.stopped_by_state(uuid, &d, was_active));
        }
        // One whose reason is owed stays for the event that may still come.
        let guest = &self.guests[uuid];
        let owed = guest.dead.as_ref().is_some_and(|d| !d.told);
        if guest.domain.is_none() && guest.process.is_none() && !owed {
            self.guests.remove(uuid);
        }
        facts
    }

    /// libvirt's whole list: what is not in it is not known to libvirt.
    pub fn domains(&mut self, domains: Vec<Domain>) -> Vec<What> {
        let listed: BTreeSet<String> = domains.iter().map(|d| d.uuid.clone()).collect();
        let gone = self.guests.iter().filter(|(uuid, g)| g.domain.is_some() && !listed.contains(*uuid));
        let gone: Vec<String> = gone.map(|(uuid, _)| uuid.clone()).collect();
        let mut facts: Vec<What> = gone.iter().flat_map(|uuid| self.domain(uuid, None)).collect();
        for d in domains {
            let uuid = d.uuid.clone();
            facts.extend(self.domain(&uuid, Some(d)));
        }
        // Ended while nobody looked, and libvirt does not know them (any more).
        self.guests.retain(|_, g| g.domain.is_some() || g.process.is_some());
        self.libvirt = true;
        facts
    }

    /// libvirt is not to be asked at present.
    pub fn libvirt_lost(&mut self) {
        self.libvirt = false;
    }

    /// A migration away from here began or ended.
    pub fn set_outgoing(&mut self, uuid: &str, outgoing: bool) {
        if let Some(guest) = self.guests.get_mut(uuid) {
            guest.outgoing = outgoing;
        }
    }

    /// Guests for which libvirt owes the reason of an end.
    pub fn untold(&self) -> Vec<String> {
        let owed = |g: &Guest| g.dead.as_ref().is_some_and(|d| !d.told) && g.process.is_none();
        self.guests.iter().filter(|(_, g)| owed(g)).map(|(uuid, _)| uuid.clone()).collect()
    }

    /// Guests that ended, and whose reason is not told: what a restart of the agent must remember.
    pub fn owed(&self) -> BTreeMap<String, (i32, u64)> {
        let dead = |g: &Guest| g.dead.as_ref().filter(|d| !d.told && d.pid > 0).map(|d| (d.pid, d.start));
        self.guests.iter().filter_map(|(uuid, g)| Some((uuid.clone(), dead(g)?))).collect()
    }

    /// Guests that run, with pid and start time: what a restart of the agent must remember.
    pub fn running(&self) -> BTreeMap<String, (i32, u64)> {
        let alive = self.guests.values().filter(|g| g.has_run).filter_map(|g| g.process.as_ref());
        alive.map(|p| (p.uuid.clone(), (p.pid, p.start))).collect()
    }

    /// Processes of migrated guests that have run: what a restart must remember too.
    pub fn migrated(&self) -> BTreeSet<String> {
        let came = self.guests.values().filter(|g| g.has_run).filter_map(|g| g.process.as_ref());
        came.filter(|p| p.incoming).map(Process::key).collect()
    }

    /// Whether this guest has run in its present process.
    pub fn has_run(&self, uuid: &str) -> bool {
        self.guests.get(uuid).is_some_and(|g| g.has_run)
    }

    /// Domains as libvirt last told them.
    pub fn known_domains(&self) -> impl Iterator<Item = &Domain> {
        self.guests.values().filter_map(|g| g.domain.as_ref())
    }

    /// Whether libvirt's word is current.
    pub fn libvirt_answers(&self) -> bool {
        self.libvirt
    }

    fn arrived(&mut self, uuid: &str) -> Option<What> {
        let guest = self.guests.get_mut(uuid)?;
        let process = guest.process.clone().filter(|_| !guest.has_run)?;
        guest.has_run = true;
        Some(started(&process))
    }

    fn stopped_by_state(&mut self, uuid: &str, domain: &Domain, was_active: bool) -> Option<What> {
        let guest = self.guests.get_mut(uuid)?;
        if verdict::is_active(domain) || guest.process.is_some() {
            return None;
        }
        let reason = verdict::shut_off(domain.reason, guest.shutdown);
        match &guest.dead {
            Some(dead) if !dead.told => tell(uuid, guest, reason),
            // Never seen in /proc, yet libvirt had it running: another kind of hypervisor,
            // or too short a life for a scan.
            None if was_active => tell(uuid, guest, reason),
            _ => {
                if guest.last_stop == StopReason::Unspecified {
                    guest.last_stop = reason;
                }
                None
            }
        }
    }
}

fn started(process: &Process) -> What {
    let (uuid, pid) = (process.uuid.clone(), process.pid.into());
    What::InstanceStarted(InstanceStarted { uuid, pid, pid_start: process.start })
}

/// The reason of an end, told once per process.
fn tell(uuid: &str, guest: &mut Guest, reason: StopReason) -> Option<What> {
    if guest.dead.as_ref().is_some_and(|d| d.told) {
        return None;
    }
    let dead = guest.dead.get_or_insert(Dead { pid: 0, start: 0, told: false });
    dead.told = reason != StopReason::Unspecified;
    guest.last_stop = reason;
    if reason == StopReason::Unspecified {
        return None;
    }
    Some(What::InstanceStopped(InstanceStopped {
        uuid: uuid.to_owned(),
        reason: reason.into(),
        pid: dead.pid.into(),
        pid_start: dead.start,
        // Set by the caller, who knows the host.
        host_shutting_down: false,
    }))
}

#[cfg(test)]
mod tests;
