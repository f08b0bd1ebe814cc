//! What agents can tell again: volatile, one [`Watch`] a host, and the rounds
//! in which peers look at each other.

use crate::command::Care;
use crate::id::{BootId, HostId, PlaneId, SessionId};
use crate::observation::{Inventory, Power, ProbeAnswer, ProbeTarget, Vantage};
use crate::record::Heard;
use crate::time::Moment;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What is known of one host since this process began to listen.
#[derive(Debug, Default)]
pub struct Watch {
    pub session: Option<Live>,
    /// Last sign of life on any plane from any vantage point; the start of this
    /// process when there was none.
    pub last_sign: Moment,
    /// Last sign that only this boot can have given: its stream, its responder.
    /// A banner may be shown by the next boot already.
    pub boot_sign: Moment,
    pub heard_since_start: bool,
    /// Added to the grace for the time in which our own loop was late.
    pub grace_extra: Duration,
    /// The last stream was ended by the host itself, not by us.
    pub closed_by_host: bool,
    /// When the last stream ended.
    pub stream_lost_at: Option<Moment>,
    /// User space answered a probe of a peer or of ours.
    pub user_space_at: Option<Moment>,
    /// The kernel answered a probe.
    pub kernel_at: Option<Moment>,
    /// Two witnesses have heard the kernel only, since then.
    pub hung_since: Option<Moment>,
    pub suspect: Option<Suspicion>,
    pub inventory: Option<Stock>,
    pub goodbye_until: Option<Moment>,
    /// The last look at its power while it was well.
    pub power_asked: Option<Moment>,
    /// When the read was begun that last said "on".
    pub power_on_at: Option<Moment>,
    /// Since when it has the fence device that it has, as far as it has changed while we ran.
    pub device_from: Moment,
    /// When its death was proven, or read from the store.
    pub died_at: Option<Moment>,
    pub banner_asked: Option<Moment>,
    /// Heard again with the same boot although an off order is out.
    pub back_since: Option<Moment>,
    /// Somebody else spoke under this host's name then.
    pub stranger_at: Option<Moment>,
    /// Shown last, so that a change is one line in the log.
    pub shown: &'static str,
}

/// A live stream.
#[derive(Debug)]
pub struct Live {
    pub id: SessionId,
    pub boot: BootId,
    pub heard_at: Moment,
    /// When this boot began, by the host's own uptime.
    pub booted: Moment,
    pub memory_available_kib: u64,
    pub held: bool,
    pub libvirt_answers: bool,
    pub care: Option<Care>,
    pub asked_xml: BTreeMap<String, Moment>,
    /// When an inventory was asked for because digests differed.
    pub asked_inventory: Option<Moment>,
}

/// From the first late heartbeat on: proofs that only look run side by side.
#[derive(Debug)]
pub struct Suspicion {
    pub since: Moment,
    /// Everyone heard at that moment.
    pub heard: BTreeMap<HostId, Heard>,
    /// Power reads since then: begun, and what the device said.
    pub reads: Vec<(Moment, Power)>,
    pub read_asked: Option<Moment>,
    /// A read is under way: a slow device is not asked again meanwhile.
    pub reading: bool,
}

/// The last inventory, and until when it is known to hold.
#[derive(Debug)]
pub struct Stock {
    pub inventory: Inventory,
    pub taken_at: Moment,
    /// A heartbeat carried this inventory's digest then.
    pub confirmed_at: Moment,
}

/// One round of probes: everybody looks in the same second.
#[derive(Debug)]
pub struct Round {
    pub id: u64,
    pub begun: Moment,
    pub witnesses: BTreeSet<HostId>,
    pub targets: BTreeSet<HostId>,
    pub reports: BTreeMap<Vantage, Seen>,
    /// Targets whose own responder answered, with the boot that we know.
    pub authentic: BTreeSet<HostId>,
}

/// What one vantage point saw in one round.
pub type Seen = BTreeMap<(ProbeTarget, PlaneId), ProbeAnswer>;

/// Rounds kept for judgement: enough for two that agree, and one under way.
pub const ROUNDS_KEPT: usize = 6;

impl Round {
    /// Everybody asked has answered.
    pub fn complete(&self) -> bool {
        self.reports.contains_key(&Vantage::Own)
            && self.witnesses.iter().all(|witness| self.reports.contains_key(&Vantage::Peer(witness.clone())))
    }

    /// The best answer that anybody got from this host in this round.
    pub fn best(&self, host: &HostId) -> Option<ProbeAnswer> {
        self.reports
            .values()
            .flatten()
            .filter(|((target, _), _)| matches!(target, ProbeTarget::Host(name) if name == host))
            .map(|(_, answer)| *answer)
            .max()
    }

    /// What one witness got from a host, plane by plane.
    pub fn answers<'a>(
        &'a self,
        from: &Vantage,
        host: &'a HostId,
    ) -> impl Iterator<Item = (&'a PlaneId, ProbeAnswer)> + 'a {
        self.reports
            .get(from)
            .into_iter()
            .flatten()
            .filter(move |((target, _), _)| matches!(target, ProbeTarget::Host(name) if name == host))
            .map(|((_, plane), answer)| (plane, *answer))
    }

    /// Planes on which `from` reaches `to` at all.
    pub fn reaches(&self, from: &HostId, to: &HostId) -> BTreeSet<PlaneId> {
        self.answers(&Vantage::Peer(from.clone()), to)
            .filter(|(_, answer)| *answer > ProbeAnswer::Nothing)
            .map(|(plane, _)| plane.clone())
            .collect()
    }

    /// A vantage point reached a reference address.
    pub fn reaches_reference(&self, from: &Vantage) -> bool {
        self.reports
            .get(from)
            .into_iter()
            .flatten()
            .any(|((target, _), answer)| matches!(target, ProbeTarget::Reference(_)) && *answer > ProbeAnswer::Nothing)
    }
}
