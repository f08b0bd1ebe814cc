//! Where operators wait for the loop's reply.

use crate::ports::Replies;
use medevac_triage::{Refusal, Reply};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// What a verb came to.
pub(crate) type Answer = Result<String, Refusal>;

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
    /// A place to wait; `None` when too many wait already.
    pub(crate) fn wait(&self) -> Option<(u64, oneshot::Receiver<Answer>)> {
        let mut waiting = locked(&self.waiting);
        if waiting.len() >= WAITING_MAX {
            return None;
        }
        let token = self.count.fetch_add(1, Ordering::SeqCst) + 1;
        let (sender, receiver) = oneshot::channel();
        waiting.insert(token, sender);
        Some((token, receiver))
    }

    pub(crate) fn forget(&self, token: u64) {
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
