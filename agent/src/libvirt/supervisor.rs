//! The supervisor: keeps one connection, and tells the main loop what libvirt says.
//!
//! ```text
//!   open --> connected --> events, a look every 2 s --> lost --> back-off, jittered --> open
//! ```

use super::calls::{self, Known};
use super::connection::{Connection, Listening};
use super::events::{self, Event};
use super::worker::Stuck;
use crate::backoff::Backoff;
use crate::hypervisor::{Domain, Fault, Hypervisor, Migration};
use async_trait::async_trait;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use virt::connect::Connect;

/// How often the connection is asked whether libvirt still answers.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A list is read whole this often even when nothing happened: an event may have been lost.
const LIST_EVERY: u32 = 30;
/// A start or stop that takes longer is not waited for: its outcome is then looked at.
const HANDS_DEADLINE: Duration = Duration::from_secs(25);
/// Reconnecting: libvirtd is back some 100 ms after a restart.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

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
    uri: String,
    deadline: Duration,
    stuck: Stuck,
    connection: Mutex<Option<Connection>>,
    known: Mutex<Known>,
    version: Mutex<String>,
}

impl Libvirt {
    /// A handle that is not connected yet. Starts libvirt's event loop.
    ///
    /// # Errors
    /// libvirt's message, where its event loop cannot be started.
    pub fn new(uri: &str, deadline: Duration) -> Result<Libvirt, String> {
        events::start_loop()?;
        let shared = Shared {
            uri: uri.to_owned(),
            deadline,
            stuck: Stuck::default(),
            connection: Mutex::default(),
            known: Mutex::default(),
            version: Mutex::default(),
        };
        Ok(Libvirt { shared: Arc::new(shared) })
    }

    /// Version of the libvirt last connected to; empty before.
    pub fn version(&self) -> String {
        self.shared.version.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps a connection until the receiver of `reports` has gone.
    pub async fn supervise(self, reports: mpsc::Sender<Report>) {
        let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        let mut said = String::new();
        while !reports.is_closed() {
            let why = match Connection::open(&self.shared.uri, &self.shared.stuck).await {
                Ok((connection, mut listening)) => {
                    *self.connection() = Some(connection.clone());
                    self.known().clear();
                    let why = self.attend(&connection, &mut listening, &reports, &mut backoff).await;
                    *self.connection() = None;
                    connection.close(listening, &self.shared.stuck).await;
                    why
                }
                Err(e) => e.to_string(),
            };
            if why != said {
                tracing::warn!(code = "MDV-LIBVIRT-LOST", "libvirt is out of sight: {why}");
                said.clone_from(&why);
            }
            if reports.send(Report::Lost(why)).await.is_err() {
                return;
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }

    /// Listens until the connection is lost; returns why.
    async fn attend(
        &self,
        connection: &Connection,
        listening: &mut Listening,
        reports: &mpsc::Sender<Report>,
        backoff: &mut Backoff,
    ) -> String {
        if let Err(e) = self.ask(connection).await {
            return e.to_string();
        }
        backoff.reset();
        self.learn_version(connection).await;
        if reports.send(Report::Connected).await.is_err() {
            return "the agent is stopping".to_owned();
        }
        let mut look = tokio::time::interval(LOOK_EVERY);
        let mut looks = 0;
        loop {
            tokio::select! {
                event = listening.events.recv() => {
                    let event = match event {
                        Some(Event::Closed { reason }) => return format!("the connection was closed (reason {reason})"),
                        Some(event) => event,
                        None => return "the event channel ended".to_owned(),
                    };
                    self.forget(&event);
                    if reports.send(Report::Event(event)).await.is_err() {
                        return "the agent is stopping".to_owned();
                    }
                }
                _ = look.tick() => {
                    looks += 1;
                    if !connection.is_alive() {
                        return "the connection is dead".to_owned();
                    }
                    if let Err(e) = self.ask(connection).await {
                        return e.to_string();
                    }
                    let due = looks % LIST_EVERY == 0 || listening.was_overflown();
                    if due && reports.send(Report::ListDue).await.is_err() {
                        return "the agent is stopping".to_owned();
                    }
                }
            }
        }
    }

    /// One cheap question: does it answer?
    async fn ask(&self, connection: &Connection) -> Result<(), Fault> {
        let connect = Arc::clone(&connection.connect);
        let ask = move || connect.get_lib_version().map(drop).map_err(|e| calls::fault(&e));
        connection.reader.call(self.shared.deadline, ask).await?
    }

    async fn learn_version(&self, connection: &Connection) {
        let connect = Arc::clone(&connection.connect);
        let read = move || connect.get_lib_version().ok();
        if let Ok(Some(v)) = connection.reader.call(self.shared.deadline, read).await {
            let version = format!("{}.{}.{}", v / 1_000_000, v / 1000 % 1000, v % 1000);
            tracing::info!("libvirt {version} at {}", self.shared.uri);
            *self.shared.version.lock().unwrap_or_else(PoisonError::into_inner) = version;
        }
    }

    /// An event may mean another definition: it is read anew next time.
    fn forget(&self, event: &Event) {
        if let Event::Lifecycle { uuid, .. } | Event::MetadataChanged { uuid } = event {
            self.known().remove(uuid);
        }
    }

    fn connection(&self) -> std::sync::MutexGuard<'_, Option<Connection>> {
        self.shared.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.shared.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connected(&self) -> Result<Connection, Fault> {
        self.connection().clone().ok_or_else(|| Fault::NotAnswering("not connected".into()))
    }

    async fn read<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Connect) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let c = self.connected()?;
        c.reader.call(self.shared.deadline, move || call(&c.connect)).await?
    }

    async fn act<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Connect) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let c = self.connected()?;
        c.hands.call(HANDS_DEADLINE, move || call(&c.connect)).await?
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
        // On the hands' thread: with a migration under way QEMU itself is asked, which may hang.
        let uuid = uuid.to_owned();
        self.act(move |c| calls::migration(c, &uuid)).await
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
