//! A worker: one thread that owns one connection, from its opening to its end.
//!
//! ```text
//!   open -> register -> job, job, job ... -> deregister -> close -> the thread ends
//! ```
//!
//! No connection is ever used by two threads at once. libvirt's client library allows
//! it and, in the versions that distributions ship (up to 10.3, CVE-2024-4418), then
//! reads freed stack memory when one of them is woken: seen here as a crash of the
//! agent when a hung libvirtd came back. So a call that misses its deadline costs its
//! connection: the thread is left behind, and tidies up by itself when libvirt lets go.

use super::events::{self, Sink};
use crate::hypervisor::Fault;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;
use tokio::sync::oneshot;
use virt::connect::Connect;

/// Calls that wait for one worker. Whoever asks for more is told that libvirt does not answer.
const QUEUE: usize = 64;
/// Threads in libvirt at once: a reader, a few hands, and those left behind in calls that have
/// not come back. With this many, asking once more would tell nothing new.
const THREADS_MAX: usize = 12;
/// libvirt's client code wants more stack than ours.
const STACK: usize = 1024 * 1024;
/// A new connection to a hung libvirtd would wait without end.
const OPEN_DEADLINE: Duration = Duration::from_secs(5);
/// Seconds between keepalives, and how many may go unanswered: calls that hang in a hung
/// libvirtd come back within 8 s, and their threads with them.
const KEEPALIVE: (i32, u32) = (2, 3);

type Job = Box<dyn FnOnce(&Connect) + Send>;

/// Threads in libvirt at this moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Threads(Arc<AtomicUsize>);

/// Counts one thread for as long as it lives, also when its call panics.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Threads {
    /// Room for one more, if too many don't hang already.
    fn count(&self) -> Result<Counted, Fault> {
        if self.0.fetch_add(1, Ordering::Relaxed) >= THREADS_MAX {
            self.0.fetch_sub(1, Ordering::Relaxed);
            return Err(Fault::NotAnswering(format!("{THREADS_MAX} threads hang in it")));
        }
        Ok(Counted(Arc::clone(&self.0)))
    }
}

/// The handle to a worker. When the last one is dropped, the thread closes its connection.
#[derive(Clone, Debug)]
pub(super) struct Worker {
    /// `None` once a call has missed its deadline: nothing is asked here any more.
    jobs: Arc<Mutex<Option<mpsc::SyncSender<Job>>>>,
}

impl Worker {
    /// Opens a connection on a thread of its own; with a sink, libvirt's events go there.
    pub(super) async fn open(
        name: &'static str,
        uri: &str,
        sink: Option<Sink>,
        threads: &Threads,
    ) -> Result<Worker, Fault> {
        let counted = threads.count()?;
        let (sender, jobs) = mpsc::sync_channel::<Job>(QUEUE);
        let (opened, open) = oneshot::channel();
        let uri = uri.to_owned();
        let work = move || {
            let _counted = counted;
            own(&uri, sink.as_ref(), opened, &jobs);
        };
        let builder = std::thread::Builder::new().name(name.into()).stack_size(STACK);
        builder.spawn(work).map_err(|e| Fault::NotAnswering(format!("no thread: {e}")))?;
        match tokio::time::timeout(OPEN_DEADLINE, open).await {
            Ok(Ok(Ok(()))) => Ok(Worker { jobs: Arc::new(Mutex::new(Some(sender))) }),
            Ok(Ok(Err(e))) => Err(e),
            Ok(Err(_)) => Err(Fault::NotAnswering("its thread ended".into())),
            Err(_) => Err(Fault::NotAnswering(format!("not connected within {OPEN_DEADLINE:?}"))),
        }
    }

    /// Makes a call in turn, for at most `deadline`, the wait for its turn included.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        deadline: Duration,
        call: impl FnOnce(&Connect) -> T + Send + 'static,
    ) -> Result<T, Fault> {
        let (tx, rx) = oneshot::channel();
        let job: Job = Box::new(move |connect| {
            // Given up before its turn came: it must not be carried out any more.
            if !tx.is_closed() {
                drop(tx.send(call(connect)));
            }
        });
        match self.jobs().as_ref().map(|jobs| jobs.try_send(job)) {
            Some(Ok(())) => {}
            Some(Err(mpsc::TrySendError::Full(_))) => {
                return Err(Fault::NotAnswering(format!("{QUEUE} calls wait")));
            }
            Some(Err(mpsc::TrySendError::Disconnected(_))) | None => {
                return Err(Fault::NotAnswering("an earlier call hangs".into()));
            }
        }
        match tokio::time::timeout(deadline, rx).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) => Err(Fault::NotAnswering("its thread ended".into())),
            Err(_) => {
                self.jobs().take();
                Err(Fault::NotAnswering(format!("no answer within {deadline:?}")))
            }
        }
    }

    /// Whether it can still be asked.
    pub(super) fn is_usable(&self) -> bool {
        self.jobs().is_some()
    }

    fn jobs(&self) -> std::sync::MutexGuard<'_, Option<mpsc::SyncSender<Job>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread: nobody else ever touches this connection.
fn own(uri: &str, sink: Option<&Sink>, opened: oneshot::Sender<Result<(), Fault>>, jobs: &mpsc::Receiver<Job>) {
    let mut connect = match Connect::open(Some(uri)) {
        Ok(connect) => connect,
        Err(e) => return drop(opened.send(Err(super::calls::fault(&e)))),
    };
    // Not every driver has a wire to keep alive.
    let _ = connect.set_keep_alive(KEEPALIVE.0, KEEPALIVE.1);
    let registrations = sink.map(|sink| events::register(&connect, sink));
    // Where nobody waits any more, the handle is gone and with it the sender of jobs.
    drop(opened.send(Ok(())));
    while let Ok(job) = jobs.recv() {
        job(&connect);
    }
    if let Some(registrations) = registrations {
        events::deregister(&connect, registrations);
    }
    // Dropping the handle would leave the connection open.
    if let Err(e) = connect.close() {
        tracing::debug!("closing a connection: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(5);

    async fn worker(threads: &Threads) -> Result<Worker, Fault> {
        super::events::start_loop().unwrap();
        Worker::open("test", "test:///default", None, threads).await
    }

    #[tokio::test]
    async fn calls_come_back_in_turn() {
        let w = worker(&Threads::default()).await.unwrap();
        assert_eq!(w.call(LONG, |_| 1).await, Ok(1));
        assert_eq!(w.call(LONG, |c| c.get_type().is_ok()).await, Ok(true));
    }

    #[tokio::test]
    async fn a_call_that_hangs_costs_its_connection_and_another_one_answers() {
        let threads = Threads::default();
        let w = worker(&threads).await.unwrap();
        let (release, hang) = mpsc::sync_channel::<()>(1);
        let first = w.call(SHORT, move |_| hang.recv().is_ok()).await;
        assert!(matches!(first, Err(Fault::NotAnswering(_))));
        assert!(!w.is_usable() && w.call(LONG, |_| 2).await.is_err());
        assert_eq!(worker(&threads).await.unwrap().call(LONG, |_| 3).await, Ok(3));
        drop(release);
    }

    #[tokio::test]
    async fn too_many_hanging_threads_are_not_joined_by_more_and_recover() {
        let threads = Threads::default();
        let mut held = Vec::new();
        for _ in 0..THREADS_MAX {
            let (release, hang) = mpsc::sync_channel::<()>(1);
            held.push(release);
            let w = worker(&threads).await.unwrap();
            assert!(w.call(SHORT, move |_| hang.recv().is_ok()).await.is_err());
        }
        assert!(matches!(worker(&threads).await, Err(Fault::NotAnswering(_))));
        drop(held);
        while threads.0.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(SHORT).await;
        }
        assert!(worker(&threads).await.is_ok());
    }

    #[tokio::test]
    async fn a_call_given_up_before_its_turn_is_never_made() {
        let w = worker(&Threads::default()).await.unwrap();
        let (release, hang) = mpsc::sync_channel::<()>(1);
        let (made, seen) = mpsc::sync_channel(1);
        let first = w.call(LONG, move |_| hang.recv().is_ok());
        let second = w.call(SHORT, move |_| made.send(()).is_ok());
        let release_later = async {
            tokio::time::sleep(SHORT * 3).await;
            drop(release);
        };
        let (_, given_up, ()) = tokio::join!(first, second, release_later);
        assert!(given_up.is_err());
        assert!(seen.recv_timeout(Duration::from_millis(200)).is_err());
    }
}
