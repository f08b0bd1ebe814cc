//! Letters: who is to be told what of an alert.
//!
//! ```text
//!   alert at revision 5, receiver told up to 3 --> Command::Tell --> receiver
//!        ^                                                              |
//!        +------ told = 5, committed <-------- LetterAnswered <---------+
//! ```
//!
//! At least once: a letter counts as told when its answer is committed, and
//! what is not told is handed over again after a restart. A receiver that was
//! away gets the newest state of each alert, and never an end without its
//! beginning.

use crate::Triage;
use crate::alert::{AlertId, AlertRecord, Cause, Lines, NOTHING_TO_DO, Severity, Told};
use crate::command::Command;
use crate::id::{HostId, IncidentId, SegmentId};
use crate::time::Wall;
use std::collections::BTreeSet;

/// Somebody who is told, and of what.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Receiver {
    pub name: String,
    pub min_severity: Severity,
    /// Empty: all. What is of the whole site is told to everybody.
    pub segments: BTreeSet<SegmentId>,
    /// Empty: all.
    pub codes: BTreeSet<String>,
    /// It forgets: what still fires is handed over at every start.
    pub level: bool,
}

impl Receiver {
    fn wants(&self, alert: &AlertRecord) -> bool {
        let of_segment =
            self.segments.is_empty() || alert.segment.0.is_empty() || self.segments.contains(&alert.segment);
        let of_code = self.codes.is_empty() || self.codes.contains(alert.cause.code());
        of_segment && of_code && alert.severity >= self.min_severity
    }
}

/// An alert as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    pub alert: AlertId,
    pub revision: u32,
    pub firing: bool,
    pub code: &'static str,
    pub cause: Cause,
    pub severity: Severity,
    pub segment: SegmentId,
    pub hosts: BTreeSet<HostId>,
    pub incidents: BTreeSet<IncidentId>,
    pub lines: Lines,
    pub opened: Wall,
    pub changed: Wall,
    pub resolved: Option<Wall>,
}

/// What became of a letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    Delivered,
    /// For good: it will not be sent again by itself.
    Refused {
        why: String,
    },
}

impl Triage {
    /// Hands over what receivers do not know yet.
    pub(crate) fn tell_receivers(&mut self) {
        if self.deposed.is_some() {
            return;
        }
        let mut due = Vec::new();
        for receiver in &self.settings.receivers {
            for alert in self.durable.alerts.iter() {
                due.extend(self.due(receiver, alert).map(|letter| (receiver.name.clone(), letter)));
            }
        }
        for (receiver, letter) in due {
            self.handed.insert((receiver.clone(), letter.alert), letter.revision);
            self.command(Command::Tell { receiver, letter: Box::new(letter) });
        }
    }

    fn due(&self, receiver: &Receiver, alert: &AlertRecord) -> Option<Letter> {
        let told = alert.told.get(&receiver.name).cloned().unwrap_or_default();
        let handed = self.handed.get(&(receiver.name.clone(), alert.id));
        let anew = receiver.level && alert.resolved.is_none() && handed.is_none();
        let news = alert.revision > told.revision;
        // Whoever was told of the beginning is told of the end.
        let wanted = told.firing || receiver.wants(alert);
        if alert.revision == 0 || told.refused.is_some() || !wanted || !(news || anew) {
            return None;
        }
        let letter = letter(alert, told.firing);
        (handed != Some(&letter.revision)).then_some(letter)
    }

    pub(crate) fn letter_answered(&mut self, receiver: &str, id: AlertId, revision: u32, delivery: Delivery) {
        let Some(alert) = self.durable.alerts.edit(&id) else { return };
        let told = alert.told.entry(receiver.to_owned()).or_default();
        match delivery {
            Delivery::Delivered => {
                told.firing = true;
                told.revision = told.revision.max(revision);
            }
            Delivery::Refused { why } => {
                told.refused = Some(why.clone());
                told.revision = told.revision.max(revision);
                let text =
                    format!("{receiver} does not take {id}: {why}; once it does: medevacctl alert retry {receiver}");
                self.note("MDV-ALERT-REFUSED", true, text);
            }
        }
    }

    /// Everybody who wants to know of it does, or will not.
    pub(crate) fn everybody_knows(&self, alert: &AlertRecord) -> bool {
        self.settings.receivers.iter().all(|receiver| {
            let told = alert.told.get(&receiver.name);
            let done = told.is_some_and(|told| told.refused.is_some() || told.revision >= alert.revision);
            let wanted = told.is_some_and(|told| told.firing) || receiver.wants(alert);
            done || !wanted
        })
    }

    /// Those who want to know of it, with what each has been told.
    pub fn receivers_of(&self, alert: &AlertRecord) -> Vec<(String, Option<Told>)> {
        let of = |receiver: &Receiver| (receiver.name.clone(), alert.told.get(&receiver.name).cloned());
        let all = self.settings.receivers.iter();
        all.filter(|receiver| receiver.wants(alert) || alert.told.contains_key(&receiver.name)).map(of).collect()
    }

    /// All alerts, newest first.
    pub fn alerts(&self) -> Vec<AlertRecord> {
        let mut alerts: Vec<AlertRecord> = self.durable.alerts.iter().cloned().collect();
        alerts.sort_by_key(|alert| std::cmp::Reverse(alert.id));
        alerts
    }

    /// Dead letters of a receiver are sent again.
    pub(crate) fn retry_letters(&mut self, receiver: &str) -> Result<String, crate::Refusal> {
        if !self.settings.receivers.iter().any(|known| known.name == receiver) {
            let text = format!("no receiver {receiver} in the aggregator's configuration: see [[alerts.receiver]]");
            return Err(crate::Refusal { name: "unknown-receiver", text });
        }
        let refused = |alert: &&AlertRecord| alert.told.get(receiver).is_some_and(|told| told.refused.is_some());
        let dead: Vec<AlertId> = self.durable.alerts.iter().filter(refused).map(|alert| alert.id).collect();
        for id in &dead {
            if let Some(told) = self.durable.alerts.edit(id).and_then(|alert| alert.told.get_mut(receiver)) {
                told.refused = None;
                told.revision = 0;
            }
            self.handed.remove(&(receiver.to_owned(), *id));
        }
        Ok(match dead.len() {
            0 => format!("{receiver} has refused nothing"),
            1 => format!("1 alert is sent to {receiver} again"),
            some => format!("{some} alerts are sent to {receiver} again"),
        })
    }
}

/// What is told next of an alert: its beginning before its end.
fn letter(alert: &AlertRecord, knows_it_fires: bool) -> Letter {
    let ends = alert.resolved.filter(|_| knows_it_fires);
    let over = || Lines { lost: "nothing now".to_owned(), doing: alert.ending.clone(), todo: NOTHING_TO_DO.to_owned() };
    Letter {
        alert: alert.id,
        // The end is a revision of its own: the one before it is the beginning's.
        revision: if alert.resolved.is_some() && ends.is_none() { alert.revision - 1 } else { alert.revision },
        firing: ends.is_none(),
        code: alert.cause.code(),
        cause: alert.cause.clone(),
        severity: alert.severity,
        segment: alert.segment.clone(),
        hosts: alert.hosts.clone(),
        incidents: alert.incidents.clone(),
        lines: if ends.is_some() { over() } else { alert.lines.clone() },
        opened: alert.opened,
        changed: alert.changed,
        resolved: ends,
    }
}
