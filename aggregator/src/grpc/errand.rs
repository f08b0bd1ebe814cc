//! What root on a host wants, about that host alone: an operator's word through the host's own session.
//!
//! The session says which host it is, so nobody speaks for another one; what may be wanted is little
//! (maintenance), and none of it shoots or starts anything.

use super::registry::Registry;
use crate::desk::{Answer, checked_reason};
use medevac_proto::session as wire;
use medevac_proto::session::aggregator_frame::Body;
use medevac_proto::session::errand::What;
use medevac_triage::{HostId, Observation, Refusal, SessionId, Word};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// People at one host: they type slower than that.
pub(crate) const AT_ONCE: usize = 4;

/// Whose errands these are, and where the answers go.
pub(crate) struct Runner {
    pub registry: Arc<Registry>,
    pub host: HostId,
    pub session: SessionId,
    pub at_once: Arc<Semaphore>,
}

impl Runner {
    /// Answers once it is committed; the session's frames go on meanwhile.
    pub(crate) fn run(self, errand: wire::Errand) {
        let ask = errand.ask;
        let Ok(place) = Arc::clone(&self.at_once).try_acquire_owned() else {
            let text = "too much is asked from this host at once: try again".to_owned();
            return self.tell(ask, Err(Refusal { name: "busy", text }));
        };
        tokio::spawn(async move {
            let answer = self.speak(errand).await;
            self.tell(ask, answer);
            drop(place);
        });
    }

    async fn speak(&self, errand: wire::Errand) -> Answer {
        let desk = &self.registry.shared.desk;
        if let Some(text) = desk.deposed() {
            return Err(Refusal { name: "not-deciding", text });
        }
        let reason = checked_reason(&errand.reason).map_err(|text| Refusal { name: "bad-reason", text })?;
        let word = word(self.host.clone(), errand.what)?;
        let by = format!("root on {}", self.host);
        let told = |token| Observation::OperatorSpoke { token, by, reason, word };
        let asked = desk.ask(self.registry.inbox(), told).await;
        asked.unwrap_or_else(|unanswered| Err(unanswered.refusal()))
    }

    fn tell(&self, ask: u64, answer: Answer) {
        let answer = match answer {
            Ok(text) => wire::ErrandAnswer { ask, done: true, refused: String::new(), text },
            Err(no) => wire::ErrandAnswer { ask, done: false, refused: no.name.to_owned(), text: no.text },
        };
        self.registry.send(&self.session, Body::ErrandAnswer(answer));
    }
}

fn word(host: HostId, what: Option<What>) -> Result<Word, Refusal> {
    match what {
        Some(What::Maintenance(wanted)) => {
            let limit = (wanted.for_s > 0).then(|| Duration::from_secs(wanted.for_s));
            Ok(Word::Maintenance { host, on: wanted.on, until_back: wanted.until_back, limit })
        }
        // A newer agent's.
        None => {
            let text = "this aggregator does not know what is asked: is it older than the agent?".to_owned();
            Err(Refusal { name: "bad-verb", text })
        }
    }
}
