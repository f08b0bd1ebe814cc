//! One connection: opened, registered, listened to, and taken down in order.

use super::calls::fault;
use super::events::{self, Event, Registrations, Sink};
use super::worker::{Stuck, Worker};
use crate::hypervisor::Fault;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use virt::connect::Connect;

/// A new connection to a hung libvirtd would wait without end.
const OPEN_DEADLINE: Duration = Duration::from_secs(5);
/// Seconds between keepalives, and how many may go unanswered: a hung libvirtd is found out
/// within 8 s, and the calls that hang in it come back.
const KEEPALIVE: (i32, u32) = (2, 3);
/// Events that wait for the main loop. A busy minute of a big host; beyond it, a whole list is
/// read instead.
const EVENTS: usize = 1024;

/// A live connection, shared with the workers.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) connect: Arc<Connect>,
    /// Reads: lists, states, XML.
    pub(super) reader: Worker,
    /// Starts and stops, which may take long.
    pub(super) hands: Worker,
}

/// What must be taken down with the connection.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) events: mpsc::Receiver<Event>,
    overflown: Arc<AtomicBool>,
    registrations: Registrations,
}

impl Listening {
    /// Whether events were lost since the last call.
    pub(super) fn was_overflown(&self) -> bool {
        self.overflown.swap(false, Ordering::Relaxed)
    }
}

impl Connection {
    /// Opens and registers; events wait from here on.
    pub(super) async fn open(uri: &str, stuck: &Stuck) -> Result<(Connection, Listening), Fault> {
        let uri = uri.to_owned();
        let (sender, receiver) = mpsc::channel(EVENTS);
        let overflown = Arc::new(AtomicBool::new(false));
        let sink = Sink { events: sender, overflown: Arc::clone(&overflown) };
        let open = move || {
            let connect = Connect::open(Some(&uri)).map_err(|e| fault(&e))?;
            // Not every driver has a wire to keep alive.
            let _ = connect.set_keep_alive(KEEPALIVE.0, KEEPALIVE.1);
            let registrations = events::register(&connect, &sink);
            Ok((connect, registrations))
        };
        let (connect, registrations) = stuck.once("libvirt-open", OPEN_DEADLINE, open).await??;
        let connection = Connection {
            connect: Arc::new(connect),
            reader: Worker::new("libvirt-reader", stuck.clone()),
            hands: Worker::new("libvirt-hands", stuck.clone()),
        };
        Ok((connection, Listening { events: receiver, overflown, registrations }))
    }

    /// Whether the connection still stands, by the client library's own word.
    pub(super) fn is_alive(&self) -> bool {
        self.connect.is_alive().unwrap_or(false)
    }

    /// Takes registrations back and closes. On a thread, because it may block; where it does, the
    /// connection stays until libvirt gives up on it.
    pub(super) async fn close(self, listening: Listening, stuck: &Stuck) {
        let Listening { registrations, .. } = listening;
        let close = move || {
            events::deregister(&self.connect, registrations);
            drop(self);
        };
        if let Err(e) = stuck.once("libvirt-close", OPEN_DEADLINE, close).await {
            tracing::debug!("closing the old connection: {e}");
        }
    }
}
