//! Those who are told of alerts: slow, at times unwilling, and told the truth.

use super::*;
use medevac_triage::{AlertId, Delivery, Letter};

/// What receivers have heard.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    /// Alerts that each knows to have begun.
    begun: BTreeSet<(String, AlertId)>,
    /// As they came.
    letters: Vec<String>,
}

impl World {
    /// A letter has left. Chance comes from the letter itself: whether there are
    /// receivers must not change what else happens in a seed.
    pub(super) fn receive(&mut self, start: u64, receiver: String, letter: &Letter) {
        let dice = (letter.alert.0 * 31 + u64::from(letter.revision) * 7 + start) % 17;
        let takes = if self.calm { 20 } else { 20 + dice * 400 };
        let begun = (receiver.clone(), letter.alert);
        if letter.firing {
            self.mailbox.begun.insert(begun);
        // Twice is no fault: the answer may have been lost.
        } else if !self.mailbox.begun.contains(&begun) {
            self.violate(format!("{receiver} is told of the end of {} without its beginning", letter.alert));
        }
        let state = if letter.firing { letter.severity.name() } else { "resolved" };
        let at = medevac_triage::shown(Duration::from_millis(self.now));
        let lines = [&letter.lines.lost, &letter.lines.doing, &letter.lines.todo].map(|line| format!("\n  {line}"));
        let text = format!("{at}: {} {receiver}, {state} {}{}", letter.alert, letter.code, lines.concat());
        self.mailbox.letters.push(text);
        let refuses = !self.calm && dice == 3;
        let delivery =
            if refuses { Delivery::Refused { why: "it does not like it".to_owned() } } else { Delivery::Delivered };
        let (alert, revision) = (letter.alert, letter.revision);
        let answered = Observation::LetterAnswered { receiver, alert, revision, delivery };
        self.at(takes, Event::Deliver(start, answered));
    }

    /// What receivers have heard, as it came.
    pub fn letters(&self) -> &[String] {
        &self.mailbox.letters
    }

    /// An alert that should be over, or of which somebody does not know.
    pub(super) fn untold(&self) -> Option<String> {
        let state = self.shared.lock();
        let alerts = state.records.values().filter_map(|record| match record {
            Record::Alert(alert) => Some(alert),
            _ => None,
        });
        for alert in alerts {
            if alert.resolved.is_none() {
                return Some(format!("{} still fires: {}", alert.id, alert.lines.lost));
            }
            for receiver in &self.settings.receivers {
                let told = alert.told.get(&receiver.name);
                if !told.is_some_and(|told| told.refused.is_some() || told.revision == alert.revision) {
                    return Some(format!("{} does not know of {}", receiver.name, alert.id));
                }
            }
        }
        None
    }
}
