//! Where operators, and hosts about themselves, wait for the loop's reply.

use crate::engine::Input;
use crate::ports::Replies;
use medevac_triage::{Observation, Refusal, Reply};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// What a verb came to.
pub(crate) type Answer = Result<String, Refusal>;

/// A loop that does not answer in this time is stuck, and its watchdog will say so.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// A reason is a sentence, not a document.
const REASON_MAX: usize = 1000;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unanswered {
    Busy,
    Stuck,
}

impl Unanswered {
    /// By name, with what to do.
    pub(crate) fn refusal(self) -> Refusal {
        let (name, text) = match self {
            Unanswered::Busy => ("busy", "too many verbs are under way: try again"),
            Unanswered::Stuck => (
                "not-answering",
                "the aggregator's loop does not answer: is its disk stuck? Look at its log; try again",
            ),
        };
        Refusal { name, text: text.to_owned() }
    }
}

/// A sentence, without what would break a log's lines.
///
/// # Errors
/// Says what a reason is.
pub(crate) fn checked_reason(given: &str) -> Result<String, String> {
    let reason = given.trim().to_owned();
    if reason.is_empty() || reason.len() > REASON_MAX || reason.chars().any(char::is_control) {
        return Err(format!("`reason` must be a sentence of 1 to {REASON_MAX} bytes: it is kept with what you do"));
    }
    Ok(reason)
}

/// One waiting place per verb under way.
#[derive(Debug, Default)]
pub struct Desk {
    count: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    deposed: Mutex<Option<String>>,
}

/// Verbs under way at the same time: people type slower than that.
const WAITING_MAX: usize = 256;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Desk {
    /// Tells the loop something that has an answer, and waits for it.
    pub(crate) async fn ask(
        &self,
        inbox: &mpsc::Sender<Input>,
        told: impl FnOnce(u64) -> Observation,
    ) -> Result<Answer, Unanswered> {
        let (token, reply) = self.wait().ok_or(Unanswered::Busy)?;
        let told = told(token);
        let answered = tokio::time::timeout(ANSWER_WITHIN, async {
            inbox.send(Input::Seen(told)).await.ok()?;
            reply.await.ok()
        });
        let answer = answered.await.ok().flatten();
        self.forget(token);
        answer.ok_or(Unanswered::Stuck)
    }

    /// A place to wait; `None` when too many wait already.
    fn wait(&self) -> Option<(u64, oneshot::Receiver<Answer>)> {
        let mut waiting = locked(&self.waiting);
        if waiting.len() >= WAITING_MAX {
            return None;
        }
        let token = self.count.fetch_add(1, Ordering::SeqCst) + 1;
        let (sender, receiver) = oneshot::channel();
        waiting.insert(token, sender);
        Some((token, receiver))
    }

    fn forget(&self, token: u64) {
        locked(&self.waiting).remove(&token);
    }

    /// From now on every verb is refused, with this reason.
    pub fn depose(&self, why: &str) {
        *locked(&self.deposed) = Some(why.to_owned());
    }

    pub(crate) fn deposed(&self) -> Option<String> {
        locked(&self.deposed).clone()
    }
}

/// The loop's way to the desk.
#[derive(Debug)]
pub struct DeskReplies(pub Arc<Desk>);

impl Replies for DeskReplies {
    fn answer(&mut self, reply: Reply) {
        if let Some(waiting) = locked(&self.0.waiting).remove(&reply.token) {
            // Whoever asked may have gone; the word holds all the same.
            let _ = waiting.send(reply.answer);
        }
    }
}
