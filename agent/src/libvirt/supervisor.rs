//! The supervisor: keeps one connection, and tells the main loop what libvirt says.
//!
//! ```text
//!   find --> open --> connected --> events, a look every 2 s --> lost --> back-off, jittered --> find
//! ```

use super::calls::{self, Known};
use super::events::{self, Event, Sink};
use super::hands::Pool;
use super::place::{Found, Place};
use super::worker::{Threads, Worker};
use crate::backoff::Backoff;
use crate::hypervisor::{Domain, Fault, Hypervisor, Migration};
use crate::view::View;
use async_trait::async_trait;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use virt::connect::Connect;

/// How often the connection is asked whether libvirt still answers.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// In looks: a list is read whole this often even when nothing happened, as an event may be lost.
const LIST_EVERY: u32 = 30;
/// A start or stop that takes longer is not waited for: its outcome is then looked at.
const HANDS_DEADLINE: Duration = Duration::from_secs(25);
/// Reconnecting: libvirtd is back some 100 ms after a restart.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// Events that wait for the main loop. A busy minute of a big host; beyond it, a whole list is
/// read instead.
const EVENTS: usize = 1024;

/// What the main loop hears.
#[derive(Clone, Debug)]
pub enum Report {
    /// Connected: calls are possible from now on.
    Connected,
    /// Events were lost, or it was time: everything should be read again.
    ListDue,
    Event(Event),
    /// libvirt is not to be asked for now, and why.
    Lost(String),
}

/// The handle to libvirt, whether it is connected or not.
#[derive(Clone, Debug)]
pub struct Libvirt {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    place: Place,
    /// How it sees files; `None` while it is out of sight.
    view: watch::Sender<Option<View>>,
    deadline: Duration,
    threads: Threads,
    reader: Mutex<Option<Worker>>,
    hands: Pool,
    known: Mutex<Known>,
    version: Mutex<String>,
}

impl Libvirt {
    /// A handle that is not connected yet: to a URI, or to a socket that is named instead.
    /// Starts libvirt's event loop.
    ///
    /// # Errors
    /// libvirt's message, where its event loop cannot be started.
    pub fn new(uri: &str, socket: Option<&Path>, deadline: Duration) -> Result<Libvirt, String> {
        events::start_loop()?;
        let threads = Threads::default();
        let shared = Shared {
            place: Place::new(uri, socket),
            view: watch::Sender::default(),
            deadline,
            hands: Pool::new(threads.clone()),
            threads,
            reader: Mutex::default(),
            known: Mutex::default(),
            version: Mutex::default(),
        };
        Ok(Libvirt { shared: Arc::new(shared) })
    }

    /// Version of the libvirt last connected to; empty before.
    pub fn version(&self) -> String {
        self.shared.version.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How libvirt sees files, from now on; `None` while that is not known.
    pub fn view(&self) -> watch::Receiver<Option<View>> {
        self.shared.view.subscribe()
    }

    /// Keeps a connection until the receiver of `reports` has gone.
    pub async fn supervise(self, reports: mpsc::Sender<Report>) {
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        let mut said = String::new();
        while !reports.is_closed() {
            let why = match self.shared.place.find().await {
                Ok(found) => self.hold(&found, &reports, &mut backoff).await,
                Err(e) => e.to_string(),
            };
            self.close_eyes();
            if why != said {
                tracing::warn!(code = "MDV-LIBVIRT-LOST", "libvirt is out of sight: {why}");
                said.clone_from(&why);
            }
            if reports.send(Report::Lost(why)).await.is_err() {
                return;
            }
            tokio::time::sleep(backoff.wait()).await;
        }
    }

    /// Connects to what was found, and listens until the connection is lost; returns why.
    async fn hold(&self, found: &Found, reports: &mpsc::Sender<Report>, backoff: &mut Backoff) -> String {
        let (events, mut told) = mpsc::channel(EVENTS);
        let overflown = Arc::new(AtomicBool::new(false));
        let sink = Sink { events, overflown: Arc::clone(&overflown) };
        let worker = match Worker::open("libvirt-reader", &found.uri, Some(sink), &self.shared.threads).await {
            Ok(worker) => worker,
            Err(e) => return e.to_string(),
        };
        self.known().clear();
        self.shared.hands.point(&found.uri);
        *self.reader() = Some(worker);
        let why = self.attend(found, &mut told, &overflown, reports, backoff).await;
        // Its thread takes registrations back and closes, as soon as libvirt lets it.
        *self.reader() = None;
        self.shared.hands.clear();
        why
    }

    /// What a container saw is gone with it. A libvirt beside us sees what we see, whether it runs or not.
    fn close_eyes(&self) {
        self.shared.view.send_if_modified(|view| *view != Some(View::Own) && view.take().is_some());
    }

    /// Listens until the connection is lost; returns why.
    async fn attend(
        &self,
        found: &Found,
        told: &mut mpsc::Receiver<Event>,
        overflown: &AtomicBool,
        reports: &mpsc::Sender<Report>,
        backoff: &mut Backoff,
    ) -> String {
        if let Err(e) = self.look().await {
            return e.to_string();
        }
        backoff.reset();
        self.learn_version(found).await;
        let stopping = || "the agent is stopping".to_owned();
        if reports.send(Report::Connected).await.is_err() {
            return stopping();
        }
        let mut look = tokio::time::interval(LOOK_EVERY);
        let mut looks = 0;
        loop {
            tokio::select! {
                event = told.recv() => {
                    let event = match event {
                        Some(Event::Closed { reason }) => return format!("the connection was closed (reason {reason})"),
                        Some(event) => event,
                        None => return "its thread ended".to_owned(),
                    };
                    self.forget(&event);
                    if reports.send(Report::Event(event)).await.is_err() {
                        return stopping();
                    }
                }
                _ = look.tick() => {
                    looks += 1;
                    if let Err(e) = self.look().await {
                        return e.to_string();
                    }
                    if found.is_replaced() {
                        return "its socket was made anew: another libvirt listens there".to_owned();
                    }
                    let due = looks % LIST_EVERY == 0 || overflown.swap(false, Ordering::Relaxed);
                    if due && reports.send(Report::ListDue).await.is_err() {
                        return stopping();
                    }
                }
            }
        }
    }

    /// One cheap question: does it answer?
    async fn look(&self) -> Result<(), Fault> {
        self.read(|c| c.get_lib_version().map(drop).map_err(|e| calls::fault(&e))).await
    }

    /// Before anybody hears of the connection: what libvirt is, and how it sees files.
    async fn learn_version(&self, found: &Found) {
        self.shared.view.send_if_modified(|view| {
            let changed = *view != found.view;
            view.clone_from(&found.view);
            changed
        });
        if let Ok(v) = self.read(|c| c.get_lib_version().map_err(|e| calls::fault(&e))).await {
            let version = format!("{}.{}.{}", v / 1_000_000, v / 1000 % 1000, v % 1000);
            let place = match &found.view {
                Some(View::Own) => String::new(),
                Some(View::Of { pid, .. }) => format!(", in a container: process {pid}"),
                None => ", of which nobody can tell how it sees files: set libvirt.socket in agent.toml".to_owned(),
            };
            tracing::info!("libvirt {version} at {}{place}", found.uri);
            *self.shared.version.lock().unwrap_or_else(PoisonError::into_inner) = version;
        }
    }

    /// An event may mean another definition: it is read anew next time.
    fn forget(&self, event: &Event) {
        if let Event::Lifecycle { uuid, .. } | Event::MetadataChanged { uuid } = event {
            self.known().remove(uuid);
        }
    }

    fn reader(&self) -> std::sync::MutexGuard<'_, Option<Worker>> {
        self.shared.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.shared.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Connect) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let reader = self.reader().clone();
        let reader = reader.ok_or_else(|| Fault::NotAnswering("not connected".into()))?;
        reader.call(self.shared.deadline, call).await?
    }

    async fn act<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Connect) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        self.shared.hands.act(HANDS_DEADLINE, call).await
    }
}

#[async_trait]
impl Hypervisor for Libvirt {
    async fn domains(&self) -> Result<Vec<Domain>, Fault> {
        let known = self.known().clone();
        let domains = self.read(move |c| calls::domains(c, &known)).await?;
        let described = domains.iter().filter_map(|d| Some((d.uuid.clone(), d.description.clone()?)));
        *self.known() = described.collect();
        Ok(domains)
    }

    async fn domain(&self, uuid: &str) -> Result<Option<Domain>, Fault> {
        let uuid = uuid.to_owned();
        self.read(move |c| calls::domain(c, &uuid)).await
    }

    async fn migration(&self, uuid: &str) -> Result<Migration, Fault> {
        // Not by the reader: with a migration under way QEMU itself is asked, which may hang.
        let uuid = uuid.to_owned();
        self.shared.hands.act(self.shared.deadline, move |c| calls::migration(c, &uuid)).await
    }

    async fn define(&self, xml: &str) -> Result<(), Fault> {
        let xml = xml.to_owned();
        self.act(move |c| calls::define(c, &xml)).await
    }

    async fn start(&self, uuid: &str) -> Result<(), Fault> {
        let uuid = uuid.to_owned();
        self.act(move |c| calls::start(c, &uuid)).await
    }

    async fn destroy(&self, uuid: &str) -> Result<(), Fault> {
        let uuid = uuid.to_owned();
        self.act(move |c| calls::destroy(c, &uuid)).await
    }

    async fn undefine(&self, uuid: &str) -> Result<(), Fault> {
        let uuid = uuid.to_owned();
        self.act(move |c| calls::undefine(c, &uuid)).await
    }

    async fn set_autostart(&self, uuid: &str, on: bool) -> Result<(), Fault> {
        let uuid = uuid.to_owned();
        self.act(move |c| calls::set_autostart(c, &uuid, on)).await
    }

    async fn note_autostart(&self, uuid: &str, taken: bool) -> Result<(), Fault> {
        let uuid = uuid.to_owned();
        self.act(move |c| calls::note_autostart(c, &uuid, taken)).await
    }
}

#[cfg(test)]
mod tests;
