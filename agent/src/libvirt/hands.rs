//! Connections for calls that act: a few, so that one slow start holds up no other.

use super::worker::{Threads, Worker};
use crate::hypervisor::Fault;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use virt::connect::Connect;

/// Acts at once. The aggregator lets at most this many starts of one target run together.
const AT_ONCE: usize = 4;

/// The pool.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    /// Of the libvirt that is listened to: it is the one that acts. Counted, as another may have its URI.
    uri: Arc<Mutex<(u64, String)>>,
    threads: Threads,
    turns: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Worker>>>,
}

impl Pool {
    pub(super) fn new(threads: Threads) -> Pool {
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        Pool { uri: Arc::default(), threads, turns, idle: Arc::default() }
    }

    /// From now on that libvirt acts.
    pub(super) fn point(&self, uri: &str) {
        let mut pointed = self.uri();
        *pointed = (pointed.0 + 1, uri.to_owned());
    }

    /// Acts, for at most `deadline` once its turn has come.
    ///
    /// # Errors
    /// `NotAnswering` only where the call may be carried out yet; what was never handed to
    /// libvirt is `Refused`.
    pub(super) async fn act<T: Send + 'static>(
        &self,
        deadline: Duration,
        call: impl FnOnce(&Connect) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let nothing_begun = |why: String| Fault::Refused(format!("nothing was begun: {why}"));
        let turn = tokio::time::timeout(deadline, self.turns.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err(nothing_begun(format!("{AT_ONCE} other calls have not come back")));
        };
        let idle = self.idle().pop();
        let (pointed, uri) = self.uri().clone();
        if uri.is_empty() {
            return Err(nothing_begun("not connected yet".into()));
        }
        let worker = match idle {
            Some(worker) => worker,
            None => Worker::open("libvirt-hands", &uri, None, &self.threads)
                .await
                .map_err(|e| nothing_begun(e.to_string()))?,
        };
        let result = worker.call(deadline, call).await?;
        // A connection that broke is not kept; the next act opens another.
        let same = self.uri().0 == pointed;
        if same && worker.is_usable() && !matches!(result, Err(Fault::NotAnswering(_))) {
            self.idle().push(worker);
        }
        result
    }

    /// Lets go of idle connections: libvirt went away, and they with it.
    pub(super) fn clear(&self) {
        self.idle().clear();
    }

    fn uri(&self) -> std::sync::MutexGuard<'_, (u64, String)> {
        self.uri.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Worker>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
