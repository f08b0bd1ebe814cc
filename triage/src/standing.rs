//! How a host stands: derived, never stored. What is stored are facts.

use crate::Triage;
use crate::id::{HostId, SegmentId};
use crate::record::HostRecord;
use crate::time::Moment;
use crate::watch::{Live, Suspicion, Watch};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// While a site comes up, hosts not heard since are booting, not suspect.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub since: Moment,
    pub until: Moment,
}

/// How one host stands now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Heard,
    /// Not heard since our own start, and we have not listened for long.
    Unknown,
    Booting,
    Suspect,
    /// User space answers somewhere, or the host itself closed the stream and its kernel answers.
    AgentFailed,
    /// The kernel answers, nothing else does, for long.
    Hung,
    Maintenance,
    /// It said goodbye, and the goodbye is valid.
    Goodbye,
    /// Its current boot is proven dead.
    Dead,
}

impl Standing {
    pub fn name(self) -> &'static str {
        match self {
            Standing::Heard => "heard",
            Standing::Unknown => "unknown",
            Standing::Booting => "booting",
            Standing::Suspect => "suspect",
            Standing::AgentFailed => "agent-failed",
            Standing::Hung => "hung",
            Standing::Maintenance => "maintenance",
            Standing::Goodbye => "goodbye",
            Standing::Dead => "dead",
        }
    }
}

impl Triage {
    pub(crate) fn is_fresh(&self, live: &Live) -> bool {
        self.now.at.since(live.heard_at) < self.settings.suspect_after
    }

    /// Its stream is fresh: it can witness and it can be a target.
    pub(crate) fn streams(&self, host: &HostId) -> bool {
        self.watches.get(host).and_then(|watch| watch.session.as_ref()).is_some_and(|live| self.is_fresh(live))
    }

    /// An answer to a probe counts this long: two rounds and their deadline.
    pub(crate) fn answer_lasts(&self) -> Duration {
        self.settings.probe_every * 2 + self.settings.probe_deadline
    }

    fn answered(&self, at: Option<Moment>) -> bool {
        at.is_some_and(|at| self.now.at.since(at) <= self.answer_lasts())
    }

    pub(crate) fn standing(&self, record: &HostRecord) -> Standing {
        let now = self.now.at;
        let Some(watch) = self.watches.get(&record.id) else { return Standing::Unknown };
        if watch.session.as_ref().is_some_and(|live| self.is_fresh(live)) {
            return Standing::Heard;
        }
        let current = record.boots.last();
        let dead = record.dead.as_ref().is_some_and(|death| death.refuted.is_none() && Some(&death.boot) == current);
        if dead {
            return Standing::Dead;
        }
        if self.maintenance(record).is_some() {
            return Standing::Maintenance;
        }
        if record.goodbye.is_some() && watch.goodbye_until.is_some_and(|until| now < until) {
            return Standing::Goodbye;
        }
        if !watch.heard_since_start && now < self.settle_until {
            return Standing::Unknown;
        }
        let posting = self.booting.get(&record.segment).is_some_and(|w| watch.last_sign <= w.since && now < w.until);
        if posting {
            return Standing::Booting;
        }
        if self.answered(watch.user_space_at) || (watch.closed_by_host && self.answered(watch.kernel_at)) {
            return Standing::AgentFailed;
        }
        let hung = watch.hung_since.is_some_and(|since| now.since(since) >= self.settings.hung_after);
        if hung && record.banner_boot.as_ref() == current {
            return Standing::Hung;
        }
        if now.since(watch.last_sign) >= self.settings.suspect_after {
            return Standing::Suspect;
        }
        Standing::Heard
    }

    /// Joined, with an inventory, neither excused nor dead.
    pub(crate) fn should_be_up(&self, record: &HostRecord) -> bool {
        let excused = matches!(self.standing(record), Standing::Maintenance | Standing::Goodbye | Standing::Dead);
        record.has_inventory && !excused && !record.fenced
    }

    /// Fresh stream, or user space answers a probe.
    pub(crate) fn is_heard(&self, record: &HostRecord) -> bool {
        matches!(self.standing(record), Standing::Heard | Standing::AgentFailed)
    }

    pub(crate) fn heard_hosts(&self) -> BTreeSet<HostId> {
        self.durable.hosts.iter().filter(|record| self.is_heard(record)).map(|record| record.id.clone()).collect()
    }

    /// Silent hosts of a segment, of those that should be up.
    pub(crate) fn silent_in(&self, segment: &SegmentId) -> (usize, usize) {
        let should = |record: &&HostRecord| record.segment == *segment && self.should_be_up(record);
        let of = self.durable.hosts.iter().filter(should).count();
        let silent = self.durable.hosts.iter().filter(should).filter(|record| !self.is_heard(record)).count();
        (silent, of)
    }

    /// Hosts heard and hosts that should be up, over the whole site.
    pub(crate) fn majority(&self) -> (usize, usize) {
        let should: Vec<_> = self.durable.hosts.iter().filter(|record| self.should_be_up(record)).collect();
        (should.iter().filter(|record| self.is_heard(record)).count(), should.len())
    }

    /// Notices who has become a suspect and who no longer is one.
    pub(crate) fn watch_hosts(&mut self) {
        for host in self.durable.hosts.ids() {
            let Some(record) = self.host(&host) else { continue };
            let standing = self.standing(record);
            let suspected = matches!(standing, Standing::Suspect | Standing::Hung);
            self.expire_goodbye(&host, standing);
            let now = self.now.at;
            let fresh = suspected && self.watches.get(&host).is_some_and(|watch| watch.suspect.is_none());
            let heard = if fresh { self.heard_others(&host) } else { BTreeMap::new() };
            let Some(watch) = self.watches.get_mut(&host) else { continue };
            match (&watch.suspect, suspected) {
                (None, true) => {
                    watch.suspect =
                        Some(Suspicion { since: now, heard, reads: Vec::new(), read_asked: None, reading: false });
                }
                (Some(_), false) if standing != Standing::Dead => watch.suspect = None,
                _ => {}
            }
            if watch.shown != standing.name() {
                let before = std::mem::replace(&mut watch.shown, standing.name());
                self.tell_standing(&host, before, standing);
            }
            self.drop_stale_session(&host);
        }
    }

    fn tell_standing(&mut self, host: &HostId, before: &'static str, standing: Standing) {
        if before.is_empty() && standing == Standing::Heard {
            return;
        }
        let watch = self.watches.get(host);
        let silent = watch.map_or(Duration::ZERO, |watch: &Watch| self.now.at.since(watch.last_sign));
        let code = match standing {
            Standing::Heard => "MDV-HEARD",
            Standing::Suspect => "MDV-SUSPECT",
            Standing::AgentFailed => "MDV-AGENT-FAILED",
            Standing::Hung => "MDV-HUNG",
            Standing::Dead => "MDV-DEAD",
            Standing::Unknown | Standing::Booting | Standing::Maintenance | Standing::Goodbye => "MDV-STANDING",
        };
        let alert = matches!(standing, Standing::Hung);
        self.note(code, alert, format!("{host} is {} after {} of silence", standing.name(), crate::shown(silent)));
    }

    /// A stream that has said nothing for far longer than a heartbeat is closed
    /// by us, which says nothing about the host.
    fn drop_stale_session(&mut self, host: &HostId) {
        let now = self.now.at;
        let limit = self.settings.suspect_after * 8;
        let Some(watch) = self.watches.get_mut(host) else { return };
        let stale = watch.session.as_ref().filter(|live| now.since(live.heard_at) > limit).map(|live| live.id.clone());
        if let Some(session) = stale {
            watch.session = None;
            watch.closed_by_host = false;
            self.command(crate::Command::CloseSession { host: host.clone(), session, why: "silent" });
        }
    }

    /// A goodbye is worth a while; then its host is judged like any silent one.
    fn expire_goodbye(&mut self, host: &HostId, standing: Standing) {
        let now = self.now.at;
        let over = self.watches.get(host).and_then(|watch| watch.goodbye_until).is_some_and(|until| now >= until);
        if over && standing != Standing::Heard {
            if let Some(watch) = self.watches.get_mut(host) {
                watch.goodbye_until = None;
            }
            self.note("MDV-GOODBYE-EXPIRED", true, format!("{host} said goodbye and has not come back in time"));
        }
    }
}
