//! The power of hosts, as their devices tell it: read of suspects all the time,
//! of healthy hosts now and then. So the mapping is known to be right, and a
//! device that no longer answers is known before the night in which it is needed.
//!
//! ```text
//!   heard, has said on:      every 9 to 11 min, each host at a time of its own
//!   heard, not yet:          every 10 s; where it does not answer, half as often each time, to 2 min
//!   suspect:                 every 1.5 s          being shot: not at all
//! ```

use crate::Triage;
use crate::command::Command;
use crate::devices::Through;
use crate::id::HostId;
use crate::observation::{Look, Power};
use crate::record::{HostRecord, Phase, StepKind};
use crate::settings::Device;
use crate::time::Moment;
use std::collections::BTreeMap;
use std::time::Duration;

/// A power read takes a fence agent about a quarter of a second.
const SUSPECT_EVERY: Duration = Duration::from_millis(1500);
/// A read that was not answered for this long is lost: twice a device's own deadline.
const READ_LOST: Duration = Duration::from_secs(60);
/// A healthy host's power is looked at this often: the mapping may have changed, or the password.
const LOOK_EVERY: Duration = Duration::from_secs(540);
/// Spread over this much more, so that a site's devices are not all asked in the same second.
const SPREAD_MS: u64 = 120_000;
/// Until the device has said "on" as it must: it is what a proof will need.
const UNPROVEN_EVERY: Duration = Duration::from_secs(10);
/// A device that does not answer is asked at least this often.
const FAILING_MAX: Duration = Duration::from_secs(120);
/// Not readable for this long is for a person: a controller that restarts takes some minutes.
const UNREADABLE_AFTER: Duration = Duration::from_secs(15 * 60);

/// What reads of one host's power have come to since this process began, or its device changed.
#[derive(Debug, Default)]
pub(crate) struct Sighted {
    /// Reads that were begun before are of another device.
    since: Moment,
    asked: Option<Moment>,
    reading: bool,
    /// In a row.
    failed: u32,
    pub levels: BTreeMap<String, Looked>,
}

/// How one device was read last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Looked {
    pub power: Power,
    /// In the words of its fence agent.
    pub said: String,
    pub answered_at: Option<Moment>,
    pub failing_since: Option<Moment>,
}

impl Triage {
    /// Looks at the power of suspects, and now and then of healthy hosts: the
    /// device must have said "on" while this boot was heard.
    pub(crate) fn look_at_power(&mut self) {
        for host in self.durable.hosts.ids() {
            let Some(through) = self.device(&host).map(|device| device.through.clone()) else { continue };
            // Its device has one thing to do at a time.
            if self.is_being_shot(&host) {
                continue;
            }
            let suspect = self.watches.get(&host).is_some_and(|watch| watch.suspect.is_some());
            let due = if suspect { self.suspect_is_due(&host) } else { self.streams(&host) && self.calm_is_due(&host) };
            if due {
                let read = self.now.at.0;
                self.command(Command::ReadPower { host, read, through, urgent: suspect });
            }
        }
    }

    fn suspect_is_due(&mut self, host: &HostId) -> bool {
        let now = self.now.at;
        let Some(suspicion) = self.watches.get_mut(host).and_then(|watch| watch.suspect.as_mut()) else { return false };
        let patience = if suspicion.reading { READ_LOST } else { SUSPECT_EVERY };
        let due = suspicion.read_asked.is_none_or(|at| now.since(at) >= patience);
        if due {
            suspicion.read_asked = Some(now);
            suspicion.reading = true;
        }
        due
    }

    fn calm_is_due(&mut self, host: &HostId) -> bool {
        let now = self.now.at;
        let departed = self.newest_departure(host);
        let known = self.host(host).is_some_and(|record| record.power_on_boot.as_ref() == record.boots.last())
            && self.watches.get(host).is_some_and(|watch| watch.power_on_at > departed);
        let sighted = self.power.entry(host.clone()).or_default();
        let every = match sighted.failed {
            _ if sighted.reading => READ_LOST,
            0 if known => LOOK_EVERY + spread(host),
            0 => UNPROVEN_EVERY,
            times => (UNPROVEN_EVERY * 2u32.saturating_pow(times.min(8) - 1)).min(FAILING_MAX),
        };
        let due = sighted.asked.is_none_or(|at| now.since(at) >= every);
        if due {
            (sighted.asked, sighted.reading) = (Some(now), true);
        }
        due
    }

    /// When the last of the other hosts that are away went away.
    pub(crate) fn newest_departure(&self, host: &HostId) -> Option<Moment> {
        let away = self.durable.hosts.iter().filter(|other| other.id != *host && !self.is_heard(other));
        away.filter_map(|other| self.watches.get(&other.id)).map(|watch| watch.died_at.unwrap_or(watch.last_sign)).max()
    }

    pub(crate) fn take_power(&mut self, host: &HostId, read: u64, power: Power, looks: Vec<Look>) {
        let begun = Moment(read);
        if self.is_of_the_device(host, begun) {
            self.note_power(host, begun, power);
            self.note_looks(host, begun, looks);
        }
        self.fence_resumed_read(host, begun, power);
    }

    /// Neither of a device that the host had before, nor of the one that an order to it was given to.
    fn is_of_the_device(&self, host: &HostId, begun: Moment) -> bool {
        let before = self.power.get(host).is_some_and(|sighted| begun < sighted.since);
        let now = self.device(host).map(|device| &device.through);
        !before && self.shot_through(host).is_none_or(|shot| Some(&shot) == now)
    }

    /// Through what an order that is out went.
    fn shot_through(&self, host: &HostId) -> Option<Through> {
        let id = self.host_incident(host)?;
        let Phase::Fencing { step } = self.incident(id)?.phase else { return None };
        match &self.durable.steps.get(&step)?.what {
            StepKind::FenceOff { through, .. } => Some(through.clone()),
            _ => None,
        }
    }

    fn note_power(&mut self, host: &HostId, begun: Moment, power: Power) {
        let streams = self.streams(host);
        let device = self.device(host).map(|device| device.name.clone()).unwrap_or_default();
        if power == Power::On {
            if let Some(watch) = self.watches.get_mut(host) {
                watch.power_on_at = watch.power_on_at.max(Some(begun));
            }
            if streams && let Some(record) = self.durable.hosts.edit(host) {
                record.power_on_boot = record.boots.last().cloned();
                record.device = device;
            }
        }
        if let Some(suspicion) = self.watches.get_mut(host).and_then(|watch| watch.suspect.as_mut())
            && begun >= suspicion.since
        {
            suspicion.reading = false;
            suspicion.reads.push((begun, power));
        }
    }

    fn note_looks(&mut self, host: &HostId, begun: Moment, looks: Vec<Look>) {
        let now = self.now.at;
        if self.host(host).is_none() {
            return;
        }
        let sighted = self.power.entry(host.clone()).or_default();
        sighted.reading = false;
        let failed = looks.iter().any(|look| look.power == Power::Unknown);
        sighted.failed = if failed { sighted.failed.saturating_add(1) } else { 0 };
        for Look { device, power, said } in looks {
            let before = sighted.levels.get(&device);
            let known = power != Power::Unknown;
            let answered_at = if known { Some(now) } else { before.and_then(|looked| looked.answered_at) };
            let failing_since = (!known).then(|| before.and_then(|looked| looked.failing_since).unwrap_or(begun));
            sighted.levels.insert(device, Looked { power, said, answered_at, failing_since });
        }
    }

    /// The device is another one from now on, or there is none.
    pub(crate) fn forget_power(&mut self, host: &HostId) {
        let now = self.now.at;
        self.power.insert(host.clone(), Sighted { since: now, ..Sighted::default() });
        if let Some(watch) = self.watches.get_mut(host) {
            watch.power_on_at = None;
            if let Some(suspicion) = watch.suspect.as_mut() {
                suspicion.reads.clear();
                (suspicion.read_asked, suspicion.reading) = (None, false);
            }
        }
    }

    /// Since when a device has not been readable, if that is long enough for a person to know.
    pub(crate) fn unreadable(&self, host: &HostId, device: &str) -> Option<&Looked> {
        let looked = self.power.get(host)?.levels.get(device)?;
        let since = looked.failing_since?;
        (self.now.at.since(since) >= UNREADABLE_AFTER).then_some(looked)
    }

    /// Devices of a host that have not been readable for long, each with its own words.
    pub(crate) fn unreadable_of(&self, host: &HostRecord) -> Vec<(String, String)> {
        let levels = self.device(&host.id).map(Device::names).unwrap_or_default();
        let long = levels.into_iter().filter_map(|name| Some((name.clone(), self.unreadable(&host.id, &name)?)));
        long.map(|(name, looked)| (name, looked.said.clone())).collect()
    }

    /// Nothing has been read of it since this process began.
    pub(crate) fn is_unread(&self, host: &HostId) -> bool {
        self.power.get(host).is_none_or(|sighted| sighted.levels.values().all(|looked| looked.answered_at.is_none()))
    }
}

/// A host's own part of the spread: the same after each start, and another one for each host.
fn spread(host: &HostId) -> Duration {
    let hash = host
        .as_str()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    Duration::from_millis(hash % SPREAD_MS)
}
