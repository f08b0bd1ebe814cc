//! A store that was restored from a backup is old truth: steps committed in it
//! may have been followed by others that it does not know. What it says of the
//! world counts only once the world has said it again. See decision 0018.
//!
//! ```text
//!   what it says                        what is kept of it
//!   modes                               observe, and everything is paused
//!   open incidents, their steps         closed; nothing of them is carried out
//!   which guests are to run             none, before a host shows it running
//!   where they may be                   there, and on every host that has shown nothing since
//!   which device is wired to which host nothing but what the configuration vouches for
//!   tokens that nobody has used         none
//!   deaths, maintenance, revocations    as it says
//! ```

use crate::Triage;
use crate::devices::{DeviceRecord, Imported};
use crate::id::{HostId, IncidentId};
use crate::record::{
    Entry, HomeWhy, HostRecord, IncidentRecord, InstanceRecord, Key, Mode, Phase, Record, SiteRecord, StepRecord,
    StepState, WordRecord,
};
use crate::time::Wall;

/// Numbers of incidents name orders, and agents answer a number that they know with what they
/// did then; receivers drop alerts that they know. A store of a new epoch begins far above
/// whatever an older one, or another copy of this one, can have come to.
const NUMBERS_AN_EPOCH: u64 = 1000;

/// What a restore changed, for the person who ordered it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Voided {
    pub incidents: Vec<IncidentId>,
    pub tokens: usize,
    pub hosts: Vec<HostId>,
}

/// Where a store comes from, and why.
#[derive(Clone, Debug)]
pub struct Restoring {
    /// The epoch under which it goes on.
    pub epoch: u64,
    pub wall: Wall,
    /// "restored from a backup of 2026-11-20 03:00 UTC".
    pub what: String,
    pub reason: String,
}

/// The records of a backup as they are to be kept.
pub fn restored(records: Vec<(Key, Record)>, how: &Restoring) -> (Vec<(Key, Record)>, Voided) {
    let mut voided = Voided::default();
    let mut site = SiteRecord::default();
    let mut kept = Vec::with_capacity(records.len() + 2);
    for (key, record) in records {
        let record = match record {
            Record::Site(record) => {
                site = record;
                continue;
            }
            Record::Token(token) if token.used.is_none() => {
                voided.tokens += 1;
                continue;
            }
            Record::Segment(record) => Record::Segment(crate::SegmentRecord { mode: Mode::Observe, ..record }),
            Record::Host(record) => {
                voided.hosts.push(record.id.clone());
                Record::Host(unseen(record))
            }
            Record::Instance(record) => Record::Instance(doubted(record)),
            Record::Device(record) => Record::Device(unpinned(record)),
            Record::Incident(record) if !record.phase.closed() => {
                voided.incidents.push(record.id);
                Record::Incident(closed(record, how))
            }
            Record::Step(record) => Record::Step(unsettled(record)),
            other => other,
        };
        kept.push((key, record));
    }
    let word = said(&site, how);
    kept.push((format!("word/{}", word.number), Record::Word(word.clone())));
    let site = SiteRecord { words: word.number, ..braked(jumped(site, how.epoch), how) };
    kept.push(("site".to_owned(), Record::Site(site)));
    (kept, voided)
}

/// Numbers that no other copy of this store can have given away.
pub fn jumped(site: SiteRecord, epoch: u64) -> SiteRecord {
    let from = epoch.saturating_mul(NUMBERS_AN_EPOCH);
    SiteRecord { next_incident: site.next_incident.max(from), alerts: site.alerts.max(from), ..site }
}

fn braked(site: SiteRecord, how: &Restoring) -> SiteRecord {
    let brake = format!("{}: {}", how.what, how.reason);
    let paused = match &site.paused {
        Some(reason) => format!("{brake}; and before that: {reason}"),
        None => brake.clone(),
    };
    SiteRecord { paused: Some(paused), restored: Some(brake), ..site }
}

/// An address that a host offered is offered again; one from a list stays, and has to be vouched for anew.
fn unpinned(device: DeviceRecord) -> DeviceRecord {
    let imported = device.imported.map(|imported| Imported { pinned: false, ..imported });
    DeviceRecord { imported, offered: None, ..device }
}

fn unseen(host: HostRecord) -> HostRecord {
    HostRecord {
        unseen: true,
        goodbye: None,
        power_on_boot: None,
        pin: None,
        taken: None,
        device: String::new(),
        ..host
    }
}

fn doubted(mut instance: InstanceRecord) -> InstanceRecord {
    for home in instance.homes.values_mut() {
        // Whoever waited for the answer is closed: its host's next inventory settles it.
        if matches!(home.why, HomeWhy::Ordered(_)) {
            home.why = HomeWhy::Presumed;
        }
    }
    InstanceRecord { wanted: false, moved_to: None, moving: None, recover_word: None, ..instance }
}

fn closed(mut incident: IncidentRecord, how: &Restoring) -> IncidentRecord {
    let text = format!("{}: what was done about it since is not known, and nothing more of it is done", how.what);
    incident.timeline.push(Entry { wall: how.wall, since_ms: 0, code: "closed".to_owned(), text });
    incident.phase = Phase::Closed { outcome: "restored".to_owned() };
    incident.closed = Some(how.wall);
    incident
}

fn unsettled(step: StepRecord) -> StepRecord {
    match step.state {
        StepState::Ordered | StepState::Accepted => {
            let detail = "the store was restored from before it was answered".to_owned();
            StepRecord { state: StepState::Unknown { detail }, ..step }
        }
        StepState::Done { .. } | StepState::Refused { .. } | StepState::Unknown { .. } => step,
    }
}

fn said(site: &SiteRecord, how: &Restoring) -> WordRecord {
    WordRecord {
        number: site.words + 1,
        wall: how.wall,
        by: "restore".to_owned(),
        said: how.what.clone(),
        reason: how.reason.clone(),
        result: format!("epoch {}; everything is paused, every segment in mode observe", how.epoch),
        done: true,
    }
}

impl Triage {
    /// What this store knows is old, until a person says `resume`: nobody is told what to care for.
    pub(crate) fn is_restored(&self) -> bool {
        self.durable.site().restored.is_some()
    }

    /// A host that has shown nothing since the restore may have been given any guest in the meantime.
    pub(crate) fn unseen_since_restore(&self) -> Option<String> {
        let host = self.durable.hosts.iter().find(|host| host.unseen)?;
        Some(format!(
            "the store was restored, and it may be on {}, which has shown nothing since; if you know that this host is \
             off: medevacctl confirm-fenced {}",
            host.id, host.id
        ))
    }

    pub(crate) fn restored_text(&self) -> Option<String> {
        let unseen: Vec<&str> =
            self.durable.hosts.iter().filter(|host| host.unseen).map(|host| host.id.as_str()).collect();
        let brake = self.durable.site().restored;
        let todo = brake.as_ref().map(|_| "look at hosts and incidents, choose modes, then `medevacctl resume`");
        let waits = (!unseen.is_empty()).then(|| {
            format!(
                "nothing is started elsewhere before {} showed what runs there, or is proven dead",
                unseen.join(", ")
            )
        });
        let told: Vec<String> = todo.map(str::to_owned).into_iter().chain(waits).collect();
        let what = brake.unwrap_or_else(|| "restored from a backup".to_owned());
        (!told.is_empty()).then(|| format!("{what}: {}", told.join("; ")))
    }
}

#[cfg(test)]
#[path = "restored_tests.rs"]
mod tests;
