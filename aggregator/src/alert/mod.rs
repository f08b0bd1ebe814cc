//! Alerts leave here: one task for each receiver, so that a slow one delays
//! neither a decision nor another receiver.
//!
//! ```text
//!   loop --Tell--> pending of each receiver --> its task: POST, back-off --+
//!    ^             (newest of each alert)          |  Alertmanager: again   |
//!    |                                             |  every minute          |
//!    +------------- LetterAnswered ----------------+------------------------+
//! ```
//!
//! What is pending is no queue of its own: the loop knows from the store what
//! each receiver has taken, and hands the rest over again after a restart.

mod body;
mod guard;
mod post;
mod receiver;
mod sign;

pub use body::{Form, template_faults};
pub use guard::forbidden_host;
pub use receiver::{Place, Receiver};

use crate::engine::Input;
use crate::ports::{Courier, Receivers};
use crate::swap::Swap;
use futures::future::BoxFuture;
use medevac_triage::{AlertId, Delivery, Letter, Observation};
use post::{Answer, Poster};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

/// First pause after a receiver did not take a letter; doubled up to the next one.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// A receiver that was away for a day hears of it within a minute of its return.
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// After this long a letter is dead: told in the log and in `medevacctl alerts`.
const GIVE_UP_AFTER: Duration = Duration::from_secs(3 * 24 * 3600);
/// Alertmanager forgets what is not told again; it is told well before that.
const AGAIN_EVERY: Duration = Duration::from_secs(60);

/// Alertmanager waits this long before it sends anything (30 s where nobody says
/// otherwise), and what has ended by then it never sends.
const FIRES_FOR: Duration = Duration::from_secs(35);

/// What one receiver has not taken yet: at most one letter of each alert.
#[derive(Debug, Default)]
struct Pending {
    letters: Mutex<BTreeMap<AlertId, Waiting>>,
    more: Notify,
}

#[derive(Clone, Debug)]
struct Waiting {
    since: Instant,
    not_before: Instant,
    letter: Letter,
}

impl Pending {
    fn locked(&self) -> MutexGuard<'_, BTreeMap<AlertId, Waiting>> {
        // Nothing panics while it is held.
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest letter of an alert stands for all before it.
    fn put(&self, letter: Letter) {
        let mut letters = self.locked();
        let now = Instant::now();
        let since = letters.get(&letter.alert).map_or(now, |waiting| waiting.since);
        letters.insert(letter.alert, Waiting { since, not_before: now, letter });
        drop(letters);
        self.more.notify_one();
    }

    /// The next one after this alert, round and round: one that fails does not block the others.
    fn after(&self, last: AlertId) -> Option<Waiting> {
        let (letters, now) = (self.locked(), Instant::now());
        let ready = |waiting: &&Waiting| waiting.not_before <= now;
        let later = letters.range(AlertId(last.0 + 1)..).map(|(_, waiting)| waiting).find(ready);
        later.or_else(|| letters.values().find(ready)).cloned()
    }

    /// When one that waits for its time is due.
    fn next_due(&self) -> Option<Instant> {
        self.locked().values().map(|waiting| waiting.not_before).min()
    }

    fn hold(&self, alert: AlertId, not_before: Instant) {
        if let Some(waiting) = self.locked().get_mut(&alert) {
            waiting.not_before = not_before;
        }
    }

    /// It is settled, unless a newer one has come meanwhile.
    fn settle(&self, letter: &Letter) {
        let mut letters = self.locked();
        if letters.get(&letter.alert).is_some_and(|waiting| waiting.letter.revision == letter.revision) {
            letters.remove(&letter.alert);
        }
    }
}

/// The loop's way to all receivers; a copy leads to the same ones.
#[derive(Clone, Debug)]
pub struct Couriers(Arc<Mutex<Round>>);

#[derive(Debug)]
struct Round {
    site: String,
    inbox: mpsc::Sender<Input>,
    runtime: Handle,
    stops: BTreeMap<String, Stop>,
}

/// One receiver, with the task that serves it.
#[derive(Debug)]
struct Stop {
    receiver: Receiver,
    pending: Arc<Pending>,
    task: AbortHandle,
}

impl Couriers {
    /// Starts a task for each receiver.
    pub fn start(receivers: &[Receiver], site: &str, inbox: &mpsc::Sender<Input>, runtime: &Handle) -> Self {
        let (site, inbox, runtime) = (site.to_owned(), inbox.clone(), runtime.clone());
        let couriers = Self(Arc::new(Mutex::new(Round { site, inbox, runtime, stops: BTreeMap::new() })));
        couriers.serve(receivers);
        couriers
    }

    /// These from now on. One that has changed gets what the former one had not taken yet.
    pub fn serve(&self, receivers: &[Receiver]) {
        let mut round = self.round();
        let mut before = std::mem::take(&mut round.stops);
        for receiver in receivers {
            let stop = match before.remove(&receiver.name) {
                Some(stop) if stop.receiver == *receiver => stop,
                Some(stop) => {
                    stop.task.abort();
                    round.stop(receiver, stop.pending)
                }
                None => round.stop(receiver, Arc::default()),
            };
            round.stops.insert(receiver.name.clone(), stop);
        }
        before.values().for_each(|stop| stop.task.abort());
    }

    fn round(&self) -> MutexGuard<'_, Round> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Round {
    fn stop(&self, receiver: &Receiver, pending: Arc<Pending>) -> Stop {
        let poster = Poster::new(receiver.clone(), self.site.clone());
        let (inbox, desk) = (self.inbox.clone(), Arc::clone(&pending));
        let task = Task { poster, pending: desk, inbox, firing: BTreeMap::new() };
        let task = self.runtime.spawn(task.run()).abort_handle();
        Stop { receiver: receiver.clone(), pending, task }
    }
}

impl Courier for Couriers {
    fn tell(&mut self, receiver: &str, letter: Letter) {
        if let Some(stop) = self.round().stops.get(receiver) {
            stop.pending.put(letter);
        }
    }
}

/// All receivers, for whoever wants to know whether alerts arrive.
#[derive(Debug)]
pub struct Trials {
    site: String,
    posters: Arc<Swap<Vec<Arc<Poster>>>>,
}

impl Trials {
    pub fn new(receivers: &[Receiver], site: &str) -> Self {
        let trials = Self { site: site.to_owned(), posters: Swap::new(Vec::new()) };
        trials.know(receivers);
        trials
    }

    /// These from now on.
    pub fn know(&self, receivers: &[Receiver]) {
        let poster = |receiver: &Receiver| Arc::new(Poster::new(receiver.clone(), self.site.clone()));
        self.posters.put(receivers.iter().map(poster).collect());
    }
}

impl Receivers for Trials {
    fn try_out(&self, name: Option<String>) -> BoxFuture<'static, Vec<(String, Result<(), String>)>> {
        let wanted = |poster: &&Arc<Poster>| name.as_deref().is_none_or(|name| name == poster.name());
        let posters = self.posters.get();
        let each = posters.iter().filter(wanted).cloned().map(|poster| async move {
            let taken = poster.try_out().await;
            (poster.name().to_owned(), taken)
        });
        Box::pin(futures::future::join_all(each.collect::<Vec<_>>()))
    }
}

/// One receiver's.
struct Task {
    poster: Poster,
    pending: Arc<Pending>,
    inbox: mpsc::Sender<Input>,
    /// Taken, since when it fires there: told again to a receiver that forgets.
    firing: BTreeMap<AlertId, (Instant, Letter)>,
}

impl Task {
    async fn run(mut self) {
        let mut last = AlertId::default();
        let mut backoff = BACKOFF_FIRST;
        let mut again_at = Instant::now() + AGAIN_EVERY;
        loop {
            if self.poster.forgets() && Instant::now() >= again_at {
                again_at = Instant::now() + AGAIN_EVERY;
                self.tell_again().await;
            }
            let Some(Waiting { since, letter, .. }) = self.pending.after(last) else {
                let until = self.pending.next_due().map_or(again_at, |due| due.min(again_at));
                let _ = timeout(until.saturating_duration_since(Instant::now()), self.pending.more.notified()).await;
                continue;
            };
            last = letter.alert;
            if let Some(due) = self.ends_too_soon(&letter) {
                self.pending.hold(letter.alert, due);
                continue;
            }
            match self.poster.post(std::slice::from_ref(&letter)).await {
                Answer::Taken => {
                    backoff = BACKOFF_FIRST;
                    self.settle(letter, Delivery::Delivered).await;
                }
                Answer::Refused(why) => self.settle(letter, Delivery::Refused { why }).await,
                Answer::Later(why) if since.elapsed() >= GIVE_UP_AFTER => {
                    let why = format!("not taken for three days: {why}");
                    self.settle(letter, Delivery::Refused { why }).await;
                }
                Answer::Later(why) => {
                    let (receiver, alert) = (self.poster.name(), letter.alert);
                    tracing::warn!(code = "MDV-ALERT-LATE", receiver, %alert, "not taken, tried again: {why}");
                    sleep(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
        }
    }

    /// When the end may be told of what Alertmanager may not have sent on yet.
    fn ends_too_soon(&self, letter: &Letter) -> Option<Instant> {
        let (since, _) = self.firing.get(&letter.alert).filter(|_| self.poster.forgets() && !letter.firing)?;
        Some(*since + FIRES_FOR).filter(|due| *due > Instant::now())
    }

    async fn settle(&mut self, letter: Letter, delivery: Delivery) {
        self.pending.settle(&letter);
        let (alert, revision) = (letter.alert, letter.revision);
        if letter.firing && delivery == Delivery::Delivered {
            let since = self.firing.get(&alert).map_or_else(Instant::now, |(since, _)| *since);
            self.firing.insert(alert, (since, letter));
        } else {
            self.firing.remove(&alert);
        }
        let receiver = self.poster.name().to_owned();
        let answered = Observation::LetterAnswered { receiver, alert, revision, delivery };
        // The loop has ended: the next start hands it over again.
        let _ = self.inbox.send(Input::Seen(answered)).await;
    }

    async fn tell_again(&self) {
        let letters: Vec<Letter> = self.firing.values().map(|(_, letter)| letter.clone()).collect();
        if letters.is_empty() {
            return;
        }
        if let Answer::Later(why) | Answer::Refused(why) = self.poster.post(&letters).await {
            let receiver = self.poster.name();
            tracing::warn!(code = "MDV-ALERT-LATE", receiver, "what fires could not be told again: {why}");
        }
    }
}
