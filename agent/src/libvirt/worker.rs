//! A worker: one thread that makes blocking calls, one after the other.

use crate::hypervisor::Fault;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;
use tokio::sync::oneshot;

/// Calls that wait for a worker. Whoever asks for more is told that libvirt does not answer.
const QUEUE: usize = 64;
/// Threads in libvirt at once: two workers, one that opens or closes, and those left behind in
/// calls that never came back. With this many, asking once more would tell nothing new.
const STUCK_MAX: usize = 8;
/// libvirt's client code wants more stack than ours.
const STACK: usize = 1024 * 1024;

type Job = Box<dyn FnOnce() + Send>;

/// Threads in libvirt at this moment; most of the time two, and more only when calls hang.
#[derive(Clone, Debug, Default)]
pub(super) struct Stuck(Arc<AtomicUsize>);

/// Counts one thread for as long as it lives, also when its call panics.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Stuck {
    /// Room for one more thread, if too many don't hang already.
    fn count(&self) -> Result<Counted, Fault> {
        if self.0.fetch_add(1, Ordering::Relaxed) >= STUCK_MAX {
            self.0.fetch_sub(1, Ordering::Relaxed);
            return Err(Fault::NotAnswering(format!("{STUCK_MAX} calls hang")));
        }
        Ok(Counted(Arc::clone(&self.0)))
    }

    /// Runs a blocking call on a thread of its own, for at most `deadline`.
    pub(super) async fn once<T: Send + 'static>(
        &self,
        name: &str,
        deadline: Duration,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Fault> {
        let counted = self.count()?;
        let (tx, rx) = oneshot::channel();
        let work = move || {
            let _counted = counted;
            // A caller that has gone finds its result dropped, and with it what it holds.
            drop(tx.send(call()));
        };
        let builder = std::thread::Builder::new().name(name.into()).stack_size(STACK);
        builder.spawn(work).map_err(|e| Fault::NotAnswering(format!("no thread: {e}")))?;
        match tokio::time::timeout(deadline, rx).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) => Err(Fault::NotAnswering("a call panicked".into())),
            Err(_) => Err(Fault::NotAnswering(format!("no answer within {deadline:?}"))),
        }
    }
}

/// The worker's handle. A stuck thread is replaced when it has missed its deadline.
#[derive(Clone, Debug)]
pub(super) struct Worker {
    name: &'static str,
    stuck: Stuck,
    jobs: Arc<Mutex<Option<mpsc::SyncSender<Job>>>>,
}

impl Worker {
    pub(super) fn new(name: &'static str, stuck: Stuck) -> Worker {
        Worker { name, stuck, jobs: Arc::default() }
    }

    /// Makes a call in turn, for at most `deadline`, the wait for its turn included.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        deadline: Duration,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Fault> {
        let (tx, rx) = oneshot::channel();
        let job: Job = Box::new(move || {
            // Given up before its turn came: it must not be carried out any more.
            if !tx.is_closed() {
                drop(tx.send(call()));
            }
        });
        self.submit(job)?;
        match tokio::time::timeout(deadline, rx).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) => Err(Fault::NotAnswering("the worker ended".into())),
            Err(_) => {
                self.abandon();
                Err(Fault::NotAnswering(format!("no answer within {deadline:?}")))
            }
        }
    }

    fn submit(&self, job: Job) -> Result<(), Fault> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let job = match &*jobs {
            Some(sender) => match sender.try_send(job) {
                Ok(()) => return Ok(()),
                Err(mpsc::TrySendError::Full(_)) => {
                    return Err(Fault::NotAnswering(format!("{QUEUE} calls wait")));
                }
                Err(mpsc::TrySendError::Disconnected(job)) => job,
            },
            None => job,
        };
        let sender = self.start()?;
        let sent = sender.try_send(job).map_err(|_| Fault::NotAnswering("the worker ended".into()));
        *jobs = Some(sender);
        sent
    }

    fn start(&self) -> Result<mpsc::SyncSender<Job>, Fault> {
        let counted = self.stuck.count()?;
        let (sender, receiver) = mpsc::sync_channel::<Job>(QUEUE);
        let work = move || {
            // Counted while it lives; an abandoned one ends when its call comes back.
            let _counted = counted;
            for job in receiver {
                job();
            }
        };
        let builder = std::thread::Builder::new().name(self.name.into()).stack_size(STACK);
        builder.spawn(work).map_err(|e| Fault::NotAnswering(format!("no thread: {e}")))?;
        Ok(sender)
    }

    /// Leaves the present thread behind; the next call starts another.
    fn abandon(&self) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn calls_come_back_in_turn() {
        let w = Worker::new("test", Stuck::default());
        assert_eq!(w.call(Duration::from_secs(5), || 1).await, Ok(1));
        assert_eq!(w.call(Duration::from_secs(5), || 2).await, Ok(2));
    }

    #[tokio::test]
    async fn a_call_that_hangs_is_left_behind_and_the_next_one_answers() {
        let w = Worker::new("test", Stuck::default());
        let (release, hang) = mpsc::channel::<()>();
        let first = w.call(SHORT, move || hang.recv().is_ok()).await;
        assert!(matches!(first, Err(Fault::NotAnswering(_))));
        assert_eq!(w.call(Duration::from_secs(5), || 2).await, Ok(2));
        drop(release);
    }

    #[tokio::test]
    async fn too_many_hanging_calls_are_not_joined_by_more_and_recover() {
        let stuck = Stuck::default();
        let w = Worker::new("test", stuck.clone());
        let mut held = Vec::new();
        for _ in 0..STUCK_MAX {
            let (release, hang) = mpsc::channel::<()>();
            held.push(release);
            assert!(w.call(SHORT, move || hang.recv().is_ok()).await.is_err());
        }
        let refused = w.call(Duration::from_secs(5), || 1).await;
        assert_eq!(refused, Err(Fault::NotAnswering(format!("{STUCK_MAX} calls hang"))));
        drop(held);
        while stuck.0.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(SHORT).await;
        }
        assert_eq!(w.call(Duration::from_secs(5), || 3).await, Ok(3));
    }

    #[tokio::test]
    async fn a_call_given_up_before_its_turn_is_never_made() {
        let w = Worker::new("test", Stuck::default());
        let (release, hang) = mpsc::channel::<()>();
        let (made, seen) = mpsc::channel();
        let first = w.call(Duration::from_secs(5), move || hang.recv().is_ok());
        let second = w.call(SHORT, move || made.send(()).is_ok());
        let release_later = async {
            tokio::time::sleep(SHORT * 3).await;
            drop(release);
        };
        let (_, given_up, ()) = tokio::join!(first, second, release_later);
        assert!(given_up.is_err());
        assert!(seen.recv_timeout(Duration::from_millis(200)).is_err());
    }
}
