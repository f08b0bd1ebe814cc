//! What is told to whoever measures, once a heartbeat.

use super::Agent;
use crate::clock;
use crate::metrics::Level;
use medevac_proto::session::CommandResult;
use medevac_proto::session::command_result::Outcome;
use std::collections::BTreeMap;
use std::time::Duration;

impl Agent {
    pub(super) fn measure(&self) {
        let mut guests: BTreeMap<String, usize> = BTreeMap::new();
        for guest in self.guests.published() {
            *guests.entry(word(guest.state().as_str_name())).or_default() += 1;
        }
        let oldest = match self.spool.oldest_ms() {
            0 => Duration::ZERO,
            at => Duration::from_millis(clock::boot_ms().saturating_sub(at)),
        };
        // The state is read for itself: whoever else is asked below reads it, too.
        let held = self.state.read().held;
        self.meter.tell(Level {
            libvirt: self.guests.libvirt_answers(),
            guests,
            held,
            responder: self.responder.is_some(),
            spool: self.spool.level(),
            oldest,
            streams: self.links.iter().map(|link| (link.address.clone(), link.is_welcomed())).collect(),
            sessions: self.sessions,
            epoch: self.highest().map_or(0, |epoch| epoch.number),
            decided: (0..self.links.len()).any(|link| self.decides(link)),
            every: self.heartbeat_every(),
        });
    }

    /// A command has ended.
    pub(super) fn count(&self, result: &CommandResult) {
        let outcome = match Outcome::try_from(result.outcome).unwrap_or_default() {
            Outcome::Unspecified => "unknown",
            Outcome::Done => "done",
            Outcome::Refused => "refused",
            Outcome::Expired => "expired",
            Outcome::Failed => "failed",
        };
        self.meter.command(outcome, &result.reason);
    }
}

/// A name of the protocol as it is written everywhere else.
fn word(name: &str) -> String {
    name.strip_prefix("RUN_STATE_").unwrap_or(name).to_ascii_lowercase().replace('_', "-")
}
