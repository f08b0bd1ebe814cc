//! What proves that a boot is dead, and what only looks like it.
//!
//! ```text
//!   off after our order:   off was read -> a round begun after it hears nothing
//!                                       -> everybody heard at the order answers again, same boot
//!   off by itself:         on while it was heard -> off, twice -> the same two
//!   a new boot:            see `ingest`       an operator's word: see `operator`
//! ```

use crate::Triage;
use crate::id::{BootId, HostId, IncidentId, StepId};
use crate::observation::Power;
use crate::record::{Death, Heard, HostRecord, IncidentRecord, Mode, Phase, Proof, StepKind};
use crate::standing::Standing;
use crate::time::Moment;
use std::time::Duration;

/// Off was read: the look round and everybody's sign of life are awaited this long.
const CONFIRM_WITHIN: Duration = Duration::from_secs(15);
/// Two reads of a device that says off by itself lie at least this far apart.
const READS_APART: Duration = Duration::from_secs(1);

impl Triage {
    /// Off was read: it counts once a round begun after it hears nothing and
    /// everyone heard at the first order has been heard again.
    pub(crate) fn review_confirming(&mut self, incident: &IncidentRecord, step: StepId, device: String) {
        let (id, Some(host)) = (incident.id, incident.host.clone()) else { return };
        if self.given_up_on(incident, &host) {
            return;
        }
        let now = self.now.at;
        let stale_until = self.stale_until;
        let read_at = self.work(id).read_at.map(|at| at.max(if stale_until > now { stale_until } else { at }));
        self.work(id).read_at = read_at;
        let Some(read_at) = read_at else {
            // Resumed: the read is not kept, so it is done again.
            return self.set_phase(
                id,
                Phase::Fencing { step },
                "resumed",
                "resumed after a restart: the power is read again".to_owned(),
            );
        };
        if let Some(why) = self.changed_since(&host, step, &device) {
            return self.fence_unknown(id, step, why);
        }
        if let Some(why) = self.may_be_wired_elsewhere(&host, &device) {
            return self.fence_unknown(id, step, why);
        }
        let round = if self.settings.guards.look_round && self.settings.guards.proof {
            self.round_after(&host, read_at)
        } else {
            Some(true)
        };
        self.fresh_inventories(read_at);
        let missing = self.not_heard_since(incident, &host, read_at);
        match (round, missing) {
            (Some(true), None) => self.proven_off(incident, &host, step, device),
            (Some(false), _) => {
                let why = format!(
                    "{device} says off, yet {host} answers a probe: the device may be wired to another host, or lie"
                );
                self.fence_unknown(id, step, why);
            }
            (_, missing) if self.now.at.since(read_at) >= CONFIRM_WITHIN => {
                let why = missing.map_or("no look round came about".to_owned(), |other| {
                    format!("{device} says off, but {other}, heard when the order was given, has not been heard since: was it shot instead?")
                });
                self.fence_unknown(id, step, why);
            }
            _ => {}
        }
    }

    /// What is known of a device's wiring is known of the host's present one. Where the order
    /// went to another, its answer is worth nothing, and the next try is given to the present one.
    fn changed_since(&self, host: &HostId, step: StepId, device: &str) -> Option<String> {
        let StepKind::FenceOff { through, .. } = &self.durable.steps.get(&step)?.what else { return None };
        let now = self.device(host).map(|device| &device.through);
        (now != Some(through) && self.settings.guards.proof)
            .then(|| format!("{device} says off, but {host} has had another fence device since the order"))
    }

    /// "Off" is news about this host only if the device cannot be wired to
    /// another host that is away: it has said "on" since that one was proven
    /// dead. An operator who vouches for the wiring lifts this.
    pub(crate) fn may_be_wired_elsewhere(&self, host: &HostId, device: &str) -> Option<String> {
        let record = self.host(host)?;
        if self.vouched(record) || !self.settings.guards.proof {
            return None;
        }
        let todo = format!("`medevacctl pin-device {host}` vouches for its wiring");
        let silent = |other: &&HostRecord| {
            let standing = self.standing(other);
            other.id != *host
                && matches!(standing, Standing::Suspect | Standing::Hung | Standing::Unknown | Standing::Booting)
        };
        if let Some(other) = self.durable.hosts.iter().find(silent) {
            return Some(format!(
                "{device} says off, but {} is silent too, and it may be wired to that one; {todo}",
                other.id
            ));
        }
        let said_on = self.watches.get(host).and_then(|watch| watch.power_on_at);
        if said_on.is_none() || said_on <= self.newest_departure(host) {
            let why = "says off, but has not said on since another host went off, and may be wired to that one";
            return Some(format!("{device} {why}; {todo}"));
        }
        None
    }

    /// A person has seen what its device switches, and put it on record.
    fn vouched(&self, host: &HostRecord) -> bool {
        self.device(&host.id).is_some_and(|device| self.is_vouched_for(host, device))
    }

    /// Somebody recorded at the first order who has given no sign since `at`,
    /// and whose silence is not explained.
    pub(crate) fn not_heard_since(&self, incident: &IncidentRecord, host: &HostId, at: Moment) -> Option<HostId> {
        if !self.settings.guards.proof || !self.settings.guards.look_round {
            return None;
        }
        let recorded = self.durable.heard_at_order(incident.id);
        let others = recorded.into_iter().filter(|was| was.host != *host);
        let mut missing = others.filter(|was| !self.accounted_for(&was.host, &was.heard, at));
        missing.find(|was| !self.died_beside(incident.id, host, &was.host, &was.heard)).map(|was| was.host.clone())
    }

    /// It was not this order that hit it: see [`Triage::note_who_died_alone`].
    fn died_beside(&self, id: IncidentId, host: &HostId, other: &HostId, was: &Heard) -> bool {
        let (Some(host), Some(record)) = (self.host(host), self.host(other)) else { return false };
        let noted = self.work.get(&id).is_some_and(|work| work.died_alone.contains(&(other.clone(), was.boot.clone())));
        noted && self.standing(record) == Standing::Dead && self.vouched(host) && self.vouched(record)
    }

    /// A host has been proven dead by its own device. Where an off order for
    /// another one is unproven for want of it: its power was on after "off" had
    /// been read there, and no order has left since, so that this is not its death.
    fn note_who_died_alone(&mut self, dead: &HostId, boot: &BootId) {
        let Some(said_on) = self.watches.get(dead).and_then(|watch| watch.power_on_at) else { return };
        for work in self.work.values_mut().filter(|work| work.off_at.is_some_and(|off| said_on > off)) {
            work.died_alone.insert((dead.clone(), boot.clone()));
        }
    }

    pub(crate) fn accounted_for(&self, other: &HostId, was: &Heard, at: Moment) -> bool {
        let Some(record) = self.host(other) else { return true };
        // A proof that it is off is no excuse: our own order may be what hit it,
        // and then "off" says nothing about the host that we meant.
        let vouched = matches!(record.dead.as_ref().map(|death| &death.proof), Some(Proof::OperatorsWord { .. }));
        let gone = match self.standing(record) {
            Standing::Goodbye => true,
            Standing::Dead => vouched,
            _ => false,
        };
        let same_boot = record.boots.last() == Some(&was.boot);
        gone || (same_boot && self.answered_since(other, at, was.by_agent))
    }

    pub(crate) fn proven_off(&mut self, incident: &IncidentRecord, host: &HostId, step: StepId, device: String) {
        let beside: Vec<String> =
            self.work(incident.id).died_alone.iter().map(|(other, _)| other.to_string()).collect();
        let beside =
            if beside.is_empty() { String::new() } else { format!(", {} died beside it", beside.join(" and ")) };
        let text = format!(
            "{device} says off after our order, nobody hears {host}{beside}, and everybody else was heard again"
        );
        let boot = incident.boot.clone();
        self.proven(incident.id, host, boot, Proof::OffAfterOrder { device, step }, true, text);
    }

    /// Records a proof; from here on only recovery follows.
    pub(crate) fn proven(
        &mut self,
        id: IncidentId,
        host: &HostId,
        boot: Option<BootId>,
        proof: Proof,
        by_us: bool,
        text: String,
    ) {
        let wall = self.now.wall;
        let Some(record) = self.durable.hosts.edit(host) else { return };
        let Some(boot) = boot.or_else(|| record.boots.last().cloned()) else { return };
        let by_device = matches!(proof, Proof::OffAfterOrder { .. } | Proof::OffByItself { .. });
        record.dead = Some(Death { boot: boot.clone(), proof, wall, needs_hold: false, refuted: None });
        record.fenced |= by_us;
        record.unseen = false;
        if by_device {
            self.note_who_died_alone(host, &boot);
        }
        let now = self.now.at;
        if let Some(watch) = self.watches.get_mut(host) {
            watch.died_at = Some(now);
        }
        self.note("MDV-PROOF", true, format!("{id}: {host} is proven dead: {text}"));
        self.log(id, "proof", text);
        self.begin_recovery(id, "its guests are looked after");
    }

    /// Proof 2: the device says off by itself, twice, and nobody is missing.
    pub(crate) fn off_by_itself(&mut self, record: &HostRecord) -> Option<String> {
        let device = self.device(&record.id)?.name.clone();
        if record.power_on_boot.as_ref() != record.boots.last() || self.now.at < self.settle_until {
            return None;
        }
        if self.may_be_wired_elsewhere(&record.id, &device).is_some() {
            return None;
        }
        let suspicion = self.watches.get(&record.id)?.suspect.as_ref()?;
        let heard = suspicion.heard.clone();
        let mut reads = suspicion.reads.iter().rev().take_while(|(_, power)| *power == Power::Off);
        let second = reads.next()?.0;
        let first = reads.find(|(at, _)| second.since(*at) >= READS_APART)?.0;
        if self.round_after(&record.id, first) != Some(true) {
            return None;
        }
        self.fresh_inventories(second);
        heard.iter().all(|(other, was)| self.accounted_for(other, was, second)).then_some(device)
    }

    pub(crate) fn proven_by_itself(&mut self, id: IncidentId, record: &HostRecord, device: String) {
        match self.mode(&record.segment) {
            Mode::Observe => return self.observed(id, record, None),
            Mode::Approve | Mode::Act => {}
        }
        let text =
            format!("{device} said on while {} was heard and says off now, twice; nobody else is missing", record.id);
        let boot = record.boots.last().cloned();
        self.proven(id, &record.id, boot, Proof::OffByItself { device }, false, text);
    }
}
