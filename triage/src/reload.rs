//! Settings that are read anew while the site runs.
//!
//! ```text
//!   file --whole, without faults--> refused: all stays as it was, and it is told for as long as it holds
//!                              '--> taken: what runs keeps the longer of its two deadlines
//! ```
//!
//! A moment that was armed stays where it is. What is measured from its beginning
//! each time is moved, so that nothing that runs ends earlier than it would have.

use crate::Triage;
use crate::id::HostId;
use crate::record::StepKind;
use crate::settings::Settings;
use crate::time::{Moment, Now, shown};
use std::time::Duration;

/// A file that was read and not taken.
#[derive(Clone, Debug)]
pub(crate) struct Unread {
    since: Moment,
    why: String,
}

impl Triage {
    /// Goes on with these settings. Tells what they leave as it is.
    ///
    /// # Errors
    /// Why not: everything stays as it was.
    pub fn reload(&mut self, now: Now, settings: Settings) -> Result<Vec<String>, String> {
        self.now = now;
        let guards = self.settings.guards;
        let old = std::mem::replace(&mut self.settings, Settings { guards, ..settings });
        if let Some(why) = self.bars_reload() {
            self.settings = old;
            self.refuse_settings(now, why.clone());
            return Err(why);
        }
        self.unread = None;
        self.keep_deadlines(&old);
        let mut told = self.settle_devices();
        told.extend(self.first_values(&old));
        // Answers under the old planes, ports or deadlines say nothing under the new ones.
        self.rounds.clear();
        // Receivers may be others: whatever one has not taken is handed over again.
        self.handed.clear();
        self.segments_are_stale = true;
        self.care_is_stale = true;
        self.promised = Some(self.promised.map_or(now.at, |due| due.min(now.at)));
        Ok(told)
    }

    /// A file was not taken: told until one is.
    pub fn refuse_settings(&mut self, now: Now, why: String) {
        let since = self.unread.as_ref().map_or(now.at, |unread| unread.since);
        self.unread = Some(Unread { since, why });
    }

    /// That the file is not what holds, and since when.
    pub(crate) fn unread_text(&self, now: Now) -> Option<String> {
        let unread = self.unread.as_ref()?;
        Some(format!("the configuration is refused since {} ago: {}", shown(now.at.since(unread.since)), unread.why))
    }

    /// Why it is refused, for an alert that is not to change by the minute.
    pub(crate) fn unread_why(&self) -> Option<&str> {
        self.unread.as_ref().map(|unread| unread.why.as_str())
    }

    /// A pass through a host's devices is judged by the devices that it went through.
    fn bars_reload(&self) -> Option<String> {
        if self.deposed.is_some() {
            return Some("this aggregator does not decide here: see `medevacctl status`".to_owned());
        }
        let fresh = self.made_devices();
        let same = |host: &HostId| self.device(host) == fresh.get(host);
        let out = self.durable.incidents.iter().filter(|i| i.phase.off_order_is_out()).filter_map(|i| i.host.as_ref());
        let shot = out.into_iter().find(|host| !same(host))?;
        Some(format!("{shot} is being switched off: its fence device stays until that is over; then reload again"))
    }

    /// What runs and is measured from its beginning.
    fn keep_deadlines(&mut self, old: &Settings) {
        let new = &self.settings;
        let grace = match old.planes == new.planes {
            true => less(old.fence_grace, new.fence_grace).max(less(old.fence_grace_long, new.fence_grace_long)),
            // Which of the two it was may have changed.
            false => less(old.fence_grace_long, new.fence_grace),
        };
        let (hung, window) = (less(old.hung_after, new.hung_after), less(old.shot_window, new.shot_window));
        // A start that looks old is believed to have come up.
        let start = less(new.start_deadline, old.start_deadline);
        for watch in self.watches.values_mut() {
            watch.grace_extra += grace;
            watch.hung_since = watch.hung_since.map(|since| since.plus(hung));
        }
        for (_, _, at) in &mut self.shots {
            *at = at.plus(window);
        }
        for (step, until) in &mut self.step_until {
            let step = self.durable.steps.get(step);
            if step.is_some_and(|step| matches!(step.what, StepKind::Start { .. })) {
                *until = until.plus(start);
            }
        }
    }

    /// Modes in the file are those in which segments begin.
    fn first_values(&self, old: &Settings) -> Vec<String> {
        let changed = self.settings.initial_mode.iter().filter(|(id, mode)| old.initial_mode.get(*id) != Some(mode));
        let record = |id| self.durable.segments.get(id);
        let others = changed.filter_map(|(id, mode)| Some((id, mode, record(id).filter(|of| of.mode != *mode)?.mode)));
        others
            .map(|(id, mode, is)| {
                let (mode, is) = (mode.name(), is.name());
                format!("segment {id} stays in mode {is}: `medevacctl mode {id} {mode}` changes it, the file does not")
            })
            .collect()
    }
}

/// By how much it has become shorter.
fn less(old: Duration, new: Duration) -> Duration {
    old.saturating_sub(new)
}

#[cfg(test)]
#[path = "reload_tests.rs"]
mod tests;
