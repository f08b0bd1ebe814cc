//! Live sessions, and the loop's hands on them.
//!
//! The loop never waits here: a frame goes into a session's bounded queue, or
//! the session is ended. Frames leave in the order in which they were decided.

use crate::desk::Desk;
use crate::doors::Doors;
use crate::engine::Input;
use crate::peer::Role;
use crate::ports::Agents;
use crate::ports::{ProbeKeys, REFERENCE_PLANE, Sight};
use crate::swap::Swap;
use aws_lc_rs::hmac;
use medevac_proto::session as wire;
use medevac_proto::session::aggregator_frame::Body;
use medevac_triage::{Bar, BootId, Care, Epoch, HostId, Observation, PlaneId, SessionId, millis};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::Status;

/// Frames that wait for one agent: a burst of starts, probes and
/// acknowledgements. An agent that leaves more unread does not listen.
pub const OUTBOUND_MAX: usize = 512;

/// The way into the loop.
pub type Inbox = mpsc::Sender<Input>;
pub(crate) type Outbound = mpsc::Sender<Result<wire::AggregatorFrame, Status>>;
/// Why the loop ends the session of somebody who is not who his certificate says.
pub(crate) const IDENTITY: &str = "identity";
/// Why the loop ends the session of somebody whose certificate was revoked.
pub(crate) const REVOKED: &str = "revoked";

/// What all sessions share.
#[derive(Clone, Debug)]
pub struct Shared {
    pub site: String,
    pub epoch: Epoch,
    /// Without TLS a hello's own word names the host.
    pub plaintext: bool,
    pub sight: Arc<Swap<Sight>>,
    /// Where hosts wait for what they asked about themselves.
    pub desk: Arc<Desk>,
}

/// The live sessions.
#[allow(missing_debug_implementations)]
pub struct Registry {
    pub shared: Shared,
    inbox: Inbox,
    runtime: tokio::runtime::Handle,
    /// Derives the responders' keys, so that a restart gives the same ones.
    secret: hmac::Key,
    doors: Arc<Doors>,
    decides: AtomicBool,
    count: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    live: HashMap<SessionId, Live>,
    /// Sessions entered so far: their order.
    entered: u64,
    /// The session through which a host is asked to look.
    newest: BTreeMap<HostId, SessionId>,
    /// The newest boot of each host: whose responder is asked.
    boots: BTreeMap<HostId, BootId>,
    /// Facts that are durable, per host and boot.
    acked: BTreeMap<HostId, (BootId, u64)>,
}

struct Live {
    host: HostId,
    machine: String,
    boot: BootId,
    /// Of the certificate that opened it.
    serial: String,
    out: Outbound,
    close: mpsc::Sender<&'static str>,
    /// The agent's own clock as of its latest frame that told it.
    agent_boot_ms: u64,
    entered: u64,
    /// The boot whose responder was asked before this session came.
    boot_before: Option<BootId>,
    /// Not who its certificate says, by the loop's word.
    stranger: bool,
}

/// A session as it enters the registry.
pub(crate) struct Entry {
    pub host: HostId,
    pub machine: String,
    pub boot: BootId,
    pub serial: String,
    pub out: Outbound,
    pub close: mpsc::Sender<&'static str>,
    pub agent_boot_ms: u64,
}

impl Registry {
    pub fn new(shared: Shared, secret: &str, inbox: Inbox, runtime: tokio::runtime::Handle) -> Arc<Self> {
        Arc::new(Self {
            shared,
            inbox,
            runtime,
            secret: hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()),
            doors: Arc::default(),
            decides: AtomicBool::new(true),
            count: AtomicU64::new(0),
            inner: Mutex::default(),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it is held; if something did, the maps are still whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the store remembers of a host, so that its responder can be asked
    /// before its agent has come back.
    pub fn remember(&self, host: HostId, boot: BootId, acked: u64) {
        let mut inner = self.inner();
        inner.acked.insert(host.clone(), (boot.clone(), acked));
        inner.boots.insert(host, boot);
    }

    /// Key of a host's responder in one boot.
    pub fn probe_key(&self, host: &HostId, boot: &BootId) -> Vec<u8> {
        let name = format!("responder\0{host}\0{boot}");
        hmac::sign(&self.secret, name.as_bytes()).as_ref().to_vec()
    }

    /// Number of live sessions of one host.
    pub(crate) fn sessions_of(&self, host: &HostId) -> usize {
        self.inner().live.values().filter(|live| live.host == *host).count()
    }

    pub(crate) fn next_id(&self) -> SessionId {
        SessionId(format!("s{}", self.count.fetch_add(1, Ordering::SeqCst) + 1))
    }

    /// The way into the loop, for those who wait for an answer.
    pub(crate) fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    pub fn decides(&self) -> bool {
        self.decides.load(Ordering::SeqCst)
    }

    /// A higher or twin epoch was met: from now on nobody takes orders from us.
    pub fn depose(&self) {
        self.decides.store(false, Ordering::SeqCst);
        self.close_all("another aggregator decides here");
    }

    pub fn close_all(&self, why: &'static str) {
        for live in self.inner().live.values() {
            let _ = live.close.try_send(why);
        }
    }

    /// Who is kept out.
    pub fn doors(&self) -> Arc<Doors> {
        Arc::clone(&self.doors)
    }

    /// Keeps somebody out, and ends what he has open.
    pub fn bar(&self, bar: Bar) {
        self.doors.bar(bar);
        for live in self.inner().live.values() {
            if self.doors.keeps_out(&Role::Host(live.host.0.clone()), &live.serial).is_some() {
                let _ = live.close.try_send(REVOKED);
            }
        }
    }

    /// Number of live sessions.
    pub fn len(&self) -> usize {
        self.inner().live.len()
    }

    /// Sessions opened since the start.
    pub fn opened(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Facts up to here need not be sent again.
    pub(crate) fn acked(&self, host: &HostId, boot: &BootId) -> u64 {
        self.inner().acked.get(host).filter(|(of, _)| of == boot).map_or(0, |(_, seq)| *seq)
    }

    /// Enters a session. An older one of the same agent is ended: it is the
    /// half-open rest of a lost connection. One of another machine or boot
    /// stays, so that the loop sees both.
    pub(crate) fn enter(&self, id: &SessionId, entry: Entry) {
        let mut inner = self.inner();
        for live in inner.live.values() {
            if live.host == entry.host && live.machine == entry.machine && live.boot == entry.boot {
                let _ = live.close.try_send("replaced by a newer session of the same agent");
            }
        }
        let Entry { host, machine, boot, serial, out, close, agent_boot_ms } = entry;
        inner.entered += 1;
        let entered = inner.entered;
        inner.newest.insert(host.clone(), id.clone());
        let boot_before = inner.boots.insert(host.clone(), boot.clone());
        let stranger = false;
        let live = Live { host, machine, boot, serial, out, close, agent_boot_ms, entered, boot_before, stranger };
        inner.live.insert(id.clone(), live);
    }

    pub(crate) fn leave(&self, id: &SessionId) {
        let mut inner = self.inner();
        let Some(gone) = inner.live.remove(id) else { return };
        if inner.newest.get(&gone.host) == Some(id) {
            inner.choose(&gone.host);
        }
    }

    /// Remembers the agent's own clock: orders are dated by it.
    pub(crate) fn heard(&self, id: &SessionId, agent_boot_ms: u64) {
        if let Some(live) = self.inner().live.get_mut(id) {
            live.agent_boot_ms = live.agent_boot_ms.max(agent_boot_ms);
        }
    }

    /// The agent's own time by which an order given now must have begun. It
    /// counts from the agent's latest clock that we know: a late heartbeat
    /// makes the time shorter, never longer.
    pub fn not_after(&self, id: &SessionId, deadline: Duration) -> Option<u64> {
        self.inner().live.get(id).map(|live| live.agent_boot_ms.saturating_add(millis(deadline)))
    }

    /// Puts a frame into a session's queue. `false`: it will never leave.
    pub fn send(&self, id: &SessionId, body: Body) -> bool {
        let inner = self.inner();
        let Some(live) = inner.live.get(id) else { return false };
        match live.out.try_send(Ok(wire::AggregatorFrame { body: Some(body) })) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(code = "MDV-AGENT-DEAF", host = %live.host, "session ended, its queue is full: {error}");
                let _ = live.close.try_send("it does not read what it is sent");
                false
            }
        }
    }

    fn send_host(&self, host: &HostId, body: Body) {
        let session = self.inner().newest.get(host).cloned();
        if let Some(session) = session {
            self.send(&session, body);
        }
    }

    /// Puts something that was seen into the loop's inbox, without waiting for room.
    pub fn report(&self, observation: Observation) {
        let inbox = self.inbox.clone();
        self.runtime.spawn(async move { drop(inbox.send(Input::Seen(observation)).await) });
    }

    /// Puts something that was seen into the inbox; waits for room, and so
    /// pushes back into the connection that it came from.
    pub(crate) async fn tell(&self, observation: Observation) {
        drop(self.inbox.send(Input::Seen(observation)).await);
    }

    fn probe_order(&self, round: u64, targets: Vec<wire::ProbeTarget>) -> Body {
        let deadline_ms = u32::try_from(self.shared.sight.get().deadline.as_millis()).unwrap_or(u32::MAX);
        Body::ProbeOrder(wire::ProbeOrder { round, targets, deadline_ms })
    }

    fn banner_ports(&self) -> Vec<u32> {
        self.shared.sight.get().banner_ports.iter().map(|port| u32::from(*port)).collect()
    }
}

impl Inner {
    /// Whoever is the newest now, strangers apart, is asked to look and is looked for.
    fn choose(&mut self, host: &HostId) {
        let theirs = self.live.iter().filter(|(_, live)| live.host == *host && !live.stranger);
        match theirs.max_by_key(|(_, live)| live.entered) {
            Some((id, live)) => {
                self.newest.insert(host.clone(), id.clone());
                self.boots.insert(host.clone(), live.boot.clone());
            }
            None => drop(self.newest.remove(host)),
        }
    }

    /// A stranger took a host's place: the host gets it back.
    fn disown(&mut self, id: &SessionId) {
        let Some(live) = self.live.get_mut(id) else { return };
        live.stranger = true;
        let (host, boot, before) = (live.host.clone(), live.boot.clone(), live.boot_before.clone());
        if self.boots.get(&host) == Some(&boot) {
            match before {
                Some(before) => drop(self.boots.insert(host.clone(), before)),
                None => drop(self.boots.remove(&host)),
            }
        }
        self.choose(&host);
    }
}

/// The loop's view of the sessions.
#[allow(missing_debug_implementations)]
pub struct SessionAgents(pub Arc<Registry>);

impl Agents for SessionAgents {
    fn probe(&mut self, round: u64, witness: &HostId, targets: BTreeMap<HostId, BTreeMap<PlaneId, String>>) {
        let target = |(host, planes): (HostId, BTreeMap<PlaneId, String>)| wire::ProbeTarget {
            key: self.0.key_of(&host),
            host: host.0,
            planes: planes.into_iter().map(|(plane, address)| (plane.0, address)).collect(),
            banner_ports: self.0.banner_ports(),
        };
        let targets = targets.into_iter().map(target).collect();
        let order = self.0.probe_order(round, targets);
        self.0.send_host(witness, order);
    }

    fn probe_reference(&mut self, round: u64, witness: &HostId, references: Vec<String>) {
        let target = |address: String| wire::ProbeTarget {
            host: address.clone(),
            planes: [(REFERENCE_PLANE.to_owned(), address)].into(),
            key: Vec::new(),
            banner_ports: self.0.banner_ports(),
        };
        let order = self.0.probe_order(round, references.into_iter().map(target).collect());
        self.0.send_host(witness, order);
    }

    fn ask_inventory(&mut self, _host: &HostId, session: &SessionId, ask: u64) {
        self.0.send(session, Body::InventoryAsk(wire::InventoryAsk { ask }));
    }

    fn ask_xml(&mut self, _host: &HostId, session: &SessionId, hashes: Vec<String>) {
        self.0.send(session, Body::XmlAsk(wire::XmlAsk { hashes }));
    }

    fn acknowledge(&mut self, host: &HostId, session: &SessionId, boot: &BootId, seq: u64) {
        self.0.inner().acked.insert(host.clone(), (boot.clone(), seq));
        self.0.send(session, Body::Ack(wire::Ack { boot_id: boot.0.clone(), seq }));
    }

    fn care(&mut self, _host: &HostId, session: &SessionId, care: Care) {
        let care = wire::Care {
            mode: care.mode,
            protected_uuids: care.protected.into_iter().map(|id| id.0).collect(),
            storage_directories: care.directories.into_iter().collect(),
        };
        self.0.send(session, Body::Care(care));
    }

    fn bar(&mut self, bar: Bar) {
        self.0.bar(bar);
    }

    fn close(&mut self, _host: &HostId, session: &SessionId, why: &'static str) {
        let mut inner = self.0.inner();
        if why == IDENTITY {
            inner.disown(session);
        }
        if let Some(live) = inner.live.get(session) {
            let _ = live.close.try_send(why);
        }
    }
}

impl ProbeKeys for Registry {
    fn key_of(&self, host: &HostId) -> Vec<u8> {
        let boot = self.inner().boots.get(host).cloned();
        boot.map(|boot| self.probe_key(host, &boot)).unwrap_or_default()
    }
}
