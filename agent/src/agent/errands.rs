//! What root on this host wants of the aggregator, about this host alone: maintenance.
//!
//! ```text
//!   control socket --> errand, numbered --> the decider's stream --> answer, once it is kept
//!                                      '--> nobody decides, or nobody answers in time: said so
//! ```

use super::{Agent, duties::Done};
use crate::control::{Maintenance, Told};
use medevac_proto::session::{Errand, ErrandAnswer, MaintenanceErrand, agent_frame, errand::What};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::oneshot;

/// The aggregator answers once it has committed; it gives its own people as long.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);

/// Who waits for an answer, by the number of what was asked.
pub(super) type Errands = BTreeMap<u64, oneshot::Sender<Told>>;

impl Agent {
    pub(super) fn on_maintenance(&mut self, wanted: Maintenance, answer: oneshot::Sender<Told>) {
        if !self.is_decided() {
            let text = "no aggregator that decides hears this host: `journalctl -u medevac-agent` says why";
            let _ = answer.send(Told::unanswered(text));
            return;
        }
        let ask = self.next_token();
        let Maintenance { on, until_back, for_s, reason } = wanted;
        let errand = MaintenanceErrand { on, until_back, for_s: for_s.unwrap_or(0) };
        self.errands.insert(ask, answer);
        self.send_decider(&agent_frame::Body::Errand(Errand { ask, reason, what: Some(What::Maintenance(errand)) }));
        self.spawn(async move {
            tokio::time::sleep(ANSWER_WITHIN).await;
            Done::ErrandDue(ask)
        });
    }

    pub(super) fn on_errand_answer(&mut self, answer: ErrandAnswer) {
        let Some(waiting) = self.errands.remove(&answer.ask) else { return };
        let told = match answer.done {
            true => Told::done(vec![answer.text]),
            false => Told::refused(format!("refused ({}): {}", answer.refused, answer.text)),
        };
        // A person who hung up does not undo what was kept.
        let _ = waiting.send(told);
    }

    pub(super) fn errand_due(&mut self, ask: u64) {
        if let Some(waiting) = self.errands.remove(&ask) {
            let text = format!(
                "no answer from the aggregator within {ANSWER_WITHIN:?}: is it an older one? It may have been done: \
                 `medevacctl hosts` says"
            );
            let _ = waiting.send(Told::unanswered(text));
        }
    }

    /// Whether somebody who decides hears us.
    fn is_decided(&self) -> bool {
        (0..self.links.len()).any(|link| self.decides(link))
    }
}
