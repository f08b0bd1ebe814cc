//! Rounds of probes. While anybody is watched, up to [`WITNESSES`] hosts with
//! fresh streams look at the watched hosts *and at each other* in the same
//! second; the aggregator looks too.

use crate::Triage;
use crate::command::Command;
use crate::id::{BootId, HostId, PlaneId};
use crate::observation::{Power, ProbeAnswer, ProbeReport, ProbeResult, ProbeTarget, Vantage};
use crate::standing::Standing;
use crate::time::Moment;
use crate::watch::{ROUNDS_KEPT, Round};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Two must agree; a third may be the one that the fault has also hit.
const WITNESSES: usize = 3;
/// Looked at in one round: a rack. More are looked at in the next one.
const TARGETS_MAX: usize = 48;
/// A power read takes a fence agent about a quarter of a second.
const POWER_READ_EVERY: Duration = Duration::from_millis(1500);
/// A read that was not answered for this long is lost: twice a device's own deadline.
const POWER_READ_LOST: Duration = Duration::from_secs(60);
/// A healthy host's power is looked at this often: the mapping may have changed.
const POWER_LOOK_EVERY: Duration = Duration::from_secs(600);
/// Until a second user-space service has answered in this boot, it is asked for this often.
const BANNER_LOOK_EVERY: Duration = Duration::from_secs(60);

impl Triage {
    /// Hosts that are looked at now: silent ones that should speak, and those
    /// whose off order waits for its look round.
    pub(crate) fn watched(&self) -> BTreeSet<HostId> {
        let mut watched: BTreeSet<HostId> = self.hosts_under_fence();
        for record in self.durable.hosts.iter() {
            let silent = matches!(
                self.standing(record),
                Standing::Suspect | Standing::Hung | Standing::AgentFailed | Standing::Unknown | Standing::Booting
            );
            let gone = self.standing(record) == Standing::Heard && !self.streams(&record.id);
            if record.has_inventory && (silent || gone) {
                watched.insert(record.id.clone());
            }
        }
        watched
    }

    pub(crate) fn look_round(&mut self) {
        self.look_at_power();
        let watched = self.watched();
        let now = self.now.at;
        let newest = self.rounds.back().map(|round| round.begun);
        let due =
            newest.is_none_or(|begun| now.since(begun) >= self.settings.probe_every) || self.round_is_owed(newest);
        if watched.is_empty() {
            return self.look_for_banners();
        }
        if due {
            self.begin_round(watched);
        }
    }

    /// An off that was read waits for a round begun after it: at once, not in its turn.
    fn round_is_owed(&self, newest: Option<Moment>) -> bool {
        self.work
            .values()
            .any(|work| work.read_at.is_some_and(|at| self.now.at > at && newest.is_some_and(|begun| begun <= at)))
    }

    fn begin_round(&mut self, watched: BTreeSet<HostId>) {
        let id = self.new_round_id();
        let targets: BTreeSet<HostId> = rotate(&watched, id, TARGETS_MAX).into_iter().collect();
        let able: BTreeSet<HostId> = self.durable.hosts.ids().into_iter().filter(|host| self.streams(host)).collect();
        let able: BTreeSet<HostId> = able.difference(&targets).cloned().collect();
        let witnesses: BTreeSet<HostId> = rotate(&able, id, WITNESSES).into_iter().collect();
        let mut map = self.addresses(targets.iter().chain(&witnesses));
        let references = self.settings.references.clone();
        for witness in &witnesses {
            let mut others = map.clone();
            others.remove(witness);
            self.command(Command::Probe { round: id, witness: witness.clone(), targets: others });
            if !references.is_empty() && able.len() < 2 {
                self.command(Command::ProbeReference {
                    round: id,
                    witness: witness.clone(),
                    references: references.clone(),
                });
            }
        }
        map.retain(|host, _| targets.contains(host));
        self.command(Command::ProbeSelf { round: id, targets: map, references });
        self.rounds.push_back(Round {
            id,
            begun: self.now.at,
            witnesses,
            targets,
            reports: BTreeMap::new(),
            authentic: BTreeSet::new(),
        });
        while self.rounds.len() > ROUNDS_KEPT {
            self.rounds.pop_front();
        }
    }

    fn new_round_id(&mut self) -> u64 {
        let id = self.next_round;
        self.next_round += 1;
        id
    }

    fn addresses<'a>(&self, hosts: impl Iterator<Item = &'a HostId>) -> BTreeMap<HostId, BTreeMap<PlaneId, String>> {
        hosts.filter_map(|host| Some((host.clone(), self.host(host)?.planes.clone()))).collect()
    }

    /// Learns, once a boot, whether a second user-space service answers: only
    /// then can "hung" be told from "agent failed".
    fn look_for_banners(&mut self) {
        let now = self.now.at;
        let asked_lately = |host: &HostId| {
            let watch = self.watches.get(host);
            watch.and_then(|watch| watch.banner_asked).is_some_and(|at| now.since(at) < BANNER_LOOK_EVERY)
        };
        let unknown: BTreeSet<HostId> = self
            .durable
            .hosts
            .iter()
            .filter(|record| record.banner_boot.as_ref() != record.boots.last() && self.streams(&record.id))
            .map(|record| record.id.clone())
            .filter(|host| !asked_lately(host))
            .take(TARGETS_MAX)
            .collect();
        if unknown.is_empty() {
            return;
        }
        for host in &unknown {
            if let Some(watch) = self.watches.get_mut(host) {
                watch.banner_asked = Some(now);
            }
        }
        self.begin_round(unknown);
    }

    pub(crate) fn take_probe_report(&mut self, report: ProbeReport) {
        for result in &report.results {
            if let ProbeTarget::Host(host) = &result.target {
                self.take_probe_result(host, result);
            }
        }
        let of_current = |host: &HostId, boot: &Option<BootId>| {
            boot.is_some() && self.durable.hosts.get(host).and_then(|record| record.boots.last()) == boot.as_ref()
        };
        let authentic: Vec<HostId> = report
            .results
            .iter()
            .filter_map(|result| match &result.target {
                ProbeTarget::Host(host) if of_current(host, &result.boot) => Some(host.clone()),
                _ => None,
            })
            .collect();
        let Some(round) = self.rounds.iter_mut().find(|round| round.id == report.round) else { return };
        let asked = match &report.from {
            Vantage::Own => true,
            Vantage::Peer(host) => round.witnesses.contains(host),
        };
        if asked {
            round.authentic.extend(authentic);
            let seen = round.reports.entry(report.from).or_default();
            for result in report.results {
                let answer = seen.entry((result.target, result.plane)).or_insert(ProbeAnswer::Nothing);
                *answer = (*answer).max(result.answer);
            }
            let round = report.round;
            self.judge_hung(round);
        }
    }

    fn take_probe_result(&mut self, host: &HostId, result: &ProbeResult) {
        let now = self.now.at;
        let Some(record) = self.host(host) else { return };
        let current = record.boots.last().cloned();
        let dead = record.dead.as_ref().filter(|death| death.refuted.is_none()).map(|death| death.boot.clone());
        match result.answer {
            ProbeAnswer::Nothing => return,
            ProbeAnswer::KernelOnly => {
                if let Some(watch) = self.watches.get_mut(host) {
                    watch.kernel_at = Some(now);
                }
                return;
            }
            ProbeAnswer::UserSpace => {}
        }
        if result.boot.is_some() && result.boot == dead {
            return self.refute(host, "its responder answers a probe with the old boot id");
        }
        // A banner alone does not say which boot shows it: a host that was
        // proven dead may be on its way up. It is no sign of life of the old boot.
        let of_current = result.boot.is_none() || result.boot == current;
        if of_current && dead != current {
            self.sign_of_life(host, result.boot.is_some());
            if let Some(watch) = self.watches.get_mut(host) {
                watch.user_space_at = Some(now);
            }
        }
        if result.banner
            && dead != current
            && let Some(record) = self.durable.hosts.edit(host)
        {
            record.banner_boot = current;
        }
    }

    /// Kernel only, from two witnesses, round after round.
    fn judge_hung(&mut self, round: u64) {
        let Some(round) = self.rounds.iter().find(|r| r.id == round && r.complete()) else { return };
        let now = self.now.at;
        let mut hung = Vec::new();
        for host in &round.targets {
            let best = |witness: &&HostId| {
                round.answers(&Vantage::Peer((*witness).clone()), host).map(|(_, answer)| answer).max()
            };
            let kernel = round.witnesses.iter().filter(|w| best(w) == Some(ProbeAnswer::KernelOnly)).count();
            let user = round.best(host) == Some(ProbeAnswer::UserSpace);
            hung.push((host.clone(), kernel >= 2 && !user));
        }
        for (host, kernel_only) in hung {
            let Some(watch) = self.watches.get_mut(&host) else { continue };
            let silent = watch.session.is_none() || watch.suspect.is_some();
            if kernel_only && silent && !watch.closed_by_host {
                watch.hung_since.get_or_insert(now);
            } else {
                watch.hung_since = None;
            }
        }
    }

    /// Looks at the power of suspects, and now and then of healthy hosts: the
    /// device must have said "on" while this boot was heard.
    fn look_at_power(&mut self) {
        let now = self.now.at;
        for host in self.durable.hosts.ids() {
            if !self.settings.devices.contains_key(&host) {
                continue;
            }
            let streams = self.streams(&host);
            let shooting = self.is_being_shot(&host);
            let departed = self.newest_departure(&host);
            let known = self.host(&host).is_some_and(|record| record.power_on_boot.as_ref() == record.boots.last())
                && self.watches.get(&host).is_some_and(|watch| watch.power_on_at > departed);
            let Some(watch) = self.watches.get_mut(&host) else { continue };
            let due = match watch.suspect.as_mut() {
                Some(suspicion) => {
                    let patience = if suspicion.reading { POWER_READ_LOST } else { POWER_READ_EVERY };
                    let due = !shooting && suspicion.read_asked.is_none_or(|at| now.since(at) >= patience);
                    if due {
                        suspicion.read_asked = Some(now);
                        suspicion.reading = true;
                    }
                    due
                }
                None if streams => {
                    let every = if known { POWER_LOOK_EVERY } else { BANNER_LOOK_EVERY / 6 };
                    let due = watch.power_asked.is_none_or(|at| now.since(at) >= every);
                    if due {
                        watch.power_asked = Some(now);
                    }
                    due
                }
                None => false,
            };
            if due {
                self.command(Command::ReadPower { host, read: now.0 });
            }
        }
    }

    /// When the last of the other hosts that are away went away.
    pub(crate) fn newest_departure(&self, host: &HostId) -> Option<Moment> {
        let away = self.durable.hosts.iter().filter(|other| other.id != *host && !self.is_heard(other));
        away.filter_map(|other| self.watches.get(&other.id)).map(|watch| watch.died_at.unwrap_or(watch.last_sign)).max()
    }

    pub(crate) fn take_power(&mut self, host: &HostId, read: u64, power: Power) {
        let begun = Moment(read);
        if self.watches.get(host).is_some_and(|watch| begun < watch.device_from) {
            return; // Asked of a device that it no longer has.
        }
        let streams = self.streams(host);
        let device = self.settings.devices.get(host).map(|device| device.name.clone()).unwrap_or_default();
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
        self.fence_resumed_read(host, begun, power);
    }
}

/// At most `count` of a set, another stretch of it with each turn.
fn rotate(set: &BTreeSet<HostId>, turn: u64, count: usize) -> Vec<HostId> {
    if set.is_empty() {
        return Vec::new();
    }
    let len = set.len();
    let from = if len <= count { 0 } else { usize::try_from(turn).unwrap_or(0) * count % len };
    set.iter().cycle().skip(from).take(count.min(len)).cloned().collect()
}
