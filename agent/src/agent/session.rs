//! What is said on the links, and to whom.
//!
//! Every aggregator hears hello, heartbeats and the inventory. Facts go to the
//! decider of the highest epoch alone: only it acknowledges, and only it is obeyed.

use super::{Agent, duties};
use crate::clock;
use crate::guest_list;
use crate::hands::admit;
use crate::host::{self, Load};
use crate::link::Happening;
use crate::others;
use crate::spool::Entry;
use crate::state::Epoch;
use medevac_probe::Key;
use medevac_proto::session::{
    Ack, AgentFrame, AggregatorFrame, Care, DomainXml, Hello, InventoryChange, Refusal, Welcome, XmlAsk, agent_frame,
    aggregator_frame,
};
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Facts that a live decider has not acknowledged after this long: the stream carries nothing.
const ACK_WITHIN: Duration = Duration::from_secs(20);
/// Room left in a link's outbox for heartbeats and answers while a full spool is resent.
const RESERVE: usize = 128;
/// XML texts answered per ask; the aggregator asks again for the rest.
const XML_MAX: usize = 256;
/// The state directory's disk takes nothing.
const STATE_DISK: &str = "MDV-STATE-DISK";
/// A refusal that goes on is told again after this long.
const REFUSED_AGAIN: Duration = Duration::from_secs(600);
/// Guests that are medevac's would stay where a shutdown of this host leaves them.
const SAVES_GUESTS: &str = "libvirt-guests saves guests when this host goes down (ON_SHUTDOWN=suspend), and nobody would start \
                            them after the boot: set ON_SHUTDOWN=shutdown in its settings";
/// A warning that heartbeats tell too.
const NO_LIBVIRT: &str = "libvirt does not answer: guests cannot be started here";

/// One aggregator, connected or not.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) address: String,
    pub(super) session: Option<Session>,
    /// The refusal told last, and when: the same one comes with every attempt.
    refused: Option<(String, Instant)>,
}

impl Link {
    pub(super) fn new(address: &str) -> Link {
        Link { address: address.to_owned(), session: None, refused: None }
    }

    pub(super) fn is_welcomed(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.welcomed.is_some())
    }
}

/// A stream that stands.
#[derive(Debug)]
pub(super) struct Session {
    /// Unique among all sessions of this agent's life.
    number: u64,
    outbox: mpsc::Sender<AgentFrame>,
    ends: CancellationToken,
    welcomed: Option<Welcomed>,
    /// What its hello warned of.
    warnings: Vec<String>,
    /// How far the spool has been sent on this stream.
    sent: u64,
    /// Since when sent facts wait to be acknowledged.
    waiting: Option<Instant>,
}

#[derive(Debug)]
struct Welcomed {
    epoch: Epoch,
    decider: bool,
    heartbeat: Duration,
}

impl Session {
    /// Puts a frame on the stream. A stream that takes none is ended: reconnecting loses nothing.
    fn send(&self, body: agent_frame::Body) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.outbox.try_send(AgentFrame { body: Some(body) }) {
            tracing::warn!("a session takes nothing any more: ended");
            self.ends.cancel();
        }
    }
}

impl Agent {
    pub(super) fn on_happening(&mut self, link: usize, happening: Happening) {
        match happening {
            Happening::Opened { outbox, ends, local } => {
                self.sessions += 1;
                let number = self.sessions;
                let hello = self.hello(local);
                let warnings = hello.warnings.clone();
                let session = Session { number, outbox, ends, welcomed: None, warnings, sent: 0, waiting: None };
                session.send(agent_frame::Body::Hello(hello));
                if let Some(told) = &self.offer.told {
                    session.send(agent_frame::Body::PowerController(told.clone()));
                }
                self.links[link].session = Some(session);
            }
            Happening::Frame(frame) => self.on_frame(link, frame),
            Happening::Closed(why) => {
                // One that was never welcomed has been told by its link.
                if self.links[link].session.take().is_some_and(|session| session.welcomed.is_some()) {
                    tracing::info!(aggregator = self.links[link].address, "session closed: {why}");
                }
            }
        }
    }

    fn hello(&mut self, local: Option<IpAddr>) -> Hello {
        self.publish();
        let mut planes: HashMap<String, String> =
            self.config.planes.iter().map(|(n, a)| (n.clone(), a.to_string())).collect();
        if planes.is_empty()
            && let Some(local) = local
        {
            planes.insert("mgmt".to_owned(), local.to_string());
        }
        // Before the state is held: what is asked here reads it, too.
        let (load, highest, warnings) = (Load::read(), self.highest(), self.warnings());
        let state = self.state.read();
        Hello {
            protocol: medevac_proto::PROTOCOL,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            host: self.host.clone(),
            machine_id: self.identity.machine_id.clone(),
            boot_id: self.identity.boot_id.clone(),
            uptime_ms: load.uptime_ms,
            previous_boot_id: state.previous_boot_id.clone(),
            earlier_boot_ids: state.earlier_boot_ids.iter().cloned().collect(),
            planes,
            highest_epoch: highest.map(|e| medevac_proto::session::Epoch { number: e.number, start_id: e.start_id }),
            site: state.site.clone(),
            held: state.held,
            inventory: Some(self.inventory(0, self.guests.libvirt_answers())),
            memory_total_kib: load.memory_total_kib,
            memory_available_kib: load.memory_available_kib,
            libvirt_version: (self.version)(),
            warnings,
            sent_boot_ms: clock::boot_ms(),
            capabilities: vec!["remove".into(), "destroy-incoming".into(), "hold".into()],
            next_seq: self.spool.next_seq(),
        }
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = host::warnings();
        warnings.extend(others::warning(Path::new("/proc")));
        if !self.guests.libvirt_answers() {
            // Without a reason that changes from try to try; the log has it.
            let place = self.lost.contains("libvirt.socket").then(|| format!("{NO_LIBVIRT}: {}", self.lost));
            warnings.push(place.unwrap_or_else(|| NO_LIBVIRT.to_owned()));
        }
        if !self.spool.is_on_disk() || !self.state.has_room() {
            warnings.push(format!(
                "the disk under {} is full or nearly so: no order can be begun here, and facts are lost if the agent ends; make room",
                self.state.directory().display()
            ));
        }
        if self.state.read().acts() && guest_list::saves_guests(Path::new("/")) {
            warnings.push(SAVES_GUESTS.to_owned());
        }
        if self.responder.is_none() {
            warnings
                .push("the responder does not run: peers' probes cannot tell this host from a frozen one".to_owned());
        }
        if let Some(why) = &self.refused {
            warnings.push(format!("its configuration is refused, and what was read before holds: {why}"));
        }
        warnings
    }

    /// On other addresses than before: the streams are opened anew.
    pub(super) fn end_all(&self) {
        self.links.iter().filter_map(|l| l.session.as_ref()).for_each(|session| session.ends.cancel());
    }

    /// Warnings travel in the hello alone: when they change, the streams are opened anew.
    pub(super) fn renew_hellos(&self) {
        let now = self.warnings();
        for session in self.links.iter().filter_map(|l| l.session.as_ref()).filter(|s| s.welcomed.is_some()) {
            let over = session.warnings.iter().any(|told| !now.contains(told));
            // That libvirt has gone is in every heartbeat, and it may be back in a second.
            let new = now.iter().any(|w| !w.starts_with(NO_LIBVIRT) && !session.warnings.contains(w));
            if over || new {
                tracing::info!("the warnings have changed: a new hello");
                session.ends.cancel();
            }
        }
    }

    fn on_frame(&mut self, link: usize, frame: AggregatorFrame) {
        use aggregator_frame::Body;
        let Some(session) = &self.links[link].session else { return };
        let (number, welcomed) = (session.number, session.welcomed.is_some());
        let decides = self.decides(link);
        match frame.body {
            Some(Body::Welcome(welcome)) => self.on_welcome(link, &welcome),
            Some(Body::Refusal(refusal)) => self.on_refusal(link, &refusal),
            _ if !welcomed => tracing::warn!("a frame before the welcome: ignored"),
            // The hands refuse by name whoever may not command.
            Some(Body::Command(command)) => self.on_command(number, command),
            Some(Body::InventoryAsk(ask)) => self.on_inventory_ask(number, ask.ask),
            Some(Body::Ack(ack)) if decides => self.on_ack(link, &ack),
            Some(Body::ProbeOrder(order)) if decides => self.on_probe_order(number, order),
            Some(Body::XmlAsk(ask)) if decides => self.on_xml_ask(number, &ask),
            Some(Body::Care(care)) if decides => self.on_care(care),
            Some(Body::ErrandAnswer(answer)) if decides => self.on_errand_answer(answer),
            Some(_) => {
                tracing::warn!(aggregator = self.links[link].address, "not the decider of the highest epoch: ignored")
            }
            // A newer aggregator's frame: fields and frames are only ever added.
            None => {}
        }
    }

    fn on_welcome(&mut self, link: usize, welcome: &Welcome) {
        let epoch = welcome.epoch.clone().unwrap_or_default();
        let epoch = Epoch { number: epoch.number, start_id: epoch.start_id };
        if let Err((code, detail)) = self.accept(welcome, &epoch) {
            let aggregator = &self.links[link].address;
            tracing::error!(code, aggregator, "this aggregator is not obeyed: {detail}");
            // Whoever cannot be recorded is told everything all the same; orders are refused by name.
            if code != STATE_DISK {
                return self.end(link);
            }
        }
        self.leave_replaced(link, &epoch, welcome.decider);
        let boot_id = self.identity.boot_id.clone();
        if welcome.decider {
            self.spool.ack(&boot_id, welcome.acked_seq);
        }
        if let (Some(key), Some(responder)) = (Key::new(&welcome.probe_key), &self.responder) {
            responder.set_key(&self.links[link].address, key);
        }
        self.keys.insert(link, welcome.probe_key.clone());
        tracing::info!(
            aggregator = self.links[link].address,
            epoch = epoch.number,
            decider = welcome.decider,
            "welcomed"
        );
        let heartbeat = Duration::from_millis(welcome.heartbeat_ms.clamp(100, 10_000).into());
        if let Some(session) = &mut self.links[link].session {
            session.welcomed = Some(Welcomed { epoch, decider: welcome.decider, heartbeat });
            (session.sent, session.waiting) = (0, None);
        }
    }

    /// Takes note of site and epoch, on disk; or says why this aggregator is not ours to obey.
    fn accept(&mut self, welcome: &Welcome, epoch: &Epoch) -> Result<(), (&'static str, String)> {
        let joined = self.state.read().site.clone();
        if welcome.site.is_empty() || epoch.number == 0 {
            return Err(("MDV-MALFORMED", "its welcome names no site or no epoch".to_owned()));
        }
        if !joined.is_empty() && joined != welcome.site {
            let way = "to join the other site for good, stop the agent and remove its state directory";
            return Err(("MDV-FOREIGN-SITE", format!("it is of site {}, this host of {joined}; {way}", welcome.site)));
        }
        let newer = {
            let highest = self.highest();
            let mut state = self.state.read().clone();
            (state.site, state.epoch) = (welcome.site.clone(), highest);
            match admit(&state, &welcome.site, Some(epoch)) {
                Ok(newer) => newer.is_some(),
                // One that does not decide may lag behind: it is kept informed, and not obeyed.
                Err(_) if !welcome.decider => false,
                Err(e) if e.reason == "older_epoch" => return Err(("MDV-OLDER-EPOCH", e.detail)),
                Err(e) => return Err(("MDV-TWIN-EPOCH", e.detail)),
            }
        };
        if newer && welcome.decider {
            self.met = Some(epoch.clone());
        }
        let met = self.met.clone();
        let change = self.state.change(|s| {
            s.site.clone_from(&welcome.site);
            s.epoch = met.filter(|met| s.is_older_than(met)).or(s.epoch.take());
        });
        change.map_err(|e| (STATE_DISK, e.to_string()))
    }

    /// Whoever decided before is left: the next hello tells it of the higher epoch.
    fn leave_replaced(&mut self, link: usize, epoch: &Epoch, decider: bool) {
        for other in 0..self.links.len() {
            let welcomed = self.links[other].session.as_ref().and_then(|s| s.welcomed.as_ref());
            let replaced = welcomed.is_some_and(|w| w.decider && w.epoch.number < epoch.number);
            if decider && other != link && replaced {
                let aggregator = &self.links[other].address;
                tracing::warn!(aggregator, "replaced as decider by one of epoch {}: it is told", epoch.number);
                self.end(other);
            }
        }
    }

    fn on_refusal(&mut self, link: usize, refusal: &Refusal) {
        let aggregator = &self.links[link].address;
        let told = self.links[link].refused.as_ref();
        if told.is_none_or(|(said, at)| *said != refusal.message || at.elapsed() >= REFUSED_AGAIN) {
            tracing::error!(
                code = "MDV-REFUSED",
                aggregator,
                refusal = refusal.code,
                "the aggregator refuses this agent: {}",
                refusal.message
            );
            self.links[link].refused = Some((refusal.message.clone(), Instant::now()));
        }
        self.end(link);
    }

    fn on_ack(&mut self, link: usize, ack: &Ack) {
        self.spool.ack(&ack.boot_id, ack.seq);
        let left = self.spool.entries().next().map(|(id, _)| id);
        if let Some(session) = &mut self.links[link].session {
            session.waiting = left.filter(|id| *id <= session.sent).map(|_| Instant::now());
        }
    }

    fn on_xml_ask(&mut self, number: u64, ask: &XmlAsk) {
        for hash in ask.hashes.iter().take(XML_MAX) {
            // A version that is no more has no text; the inventory names the present one.
            if let Some(xml) = self.guests.xml(hash) {
                self.send_to(number, agent_frame::Body::DomainXml(DomainXml { hash: hash.clone(), xml }));
            }
        }
    }

    fn on_care(&mut self, care: Care) {
        let known = matches!(care.mode.as_str(), "observe" | "approve" | "act");
        // An unknown mode is inconclusive: what was in force stays.
        let changed = self.state.change(|s| {
            if known {
                s.mode = care.mode;
            }
            s.protected = care.protected_uuids.into_iter().collect();
            s.storage_directories = care.storage_directories;
        });
        if let Err(e) = changed {
            tracing::error!(code = STATE_DISK, "what to care for could not be recorded: {e}");
        }
        self.care = duties::Care::default();
        self.want_markers();
    }

    /// Sends what waits in the spool to whoever acknowledges, as far as its outbox has room.
    pub(super) fn pump(&mut self) {
        for link in 0..self.links.len() {
            if !self.decides(link) {
                continue;
            }
            let Some(session) = &mut self.links[link].session else { continue };
            for (id, entry) in self.spool.after(session.sent) {
                if session.outbox.capacity() <= RESERVE {
                    break;
                }
                session.send(match entry {
                    Entry::Fact(fact) => agent_frame::Body::Fact(fact.clone()),
                    Entry::Gap(gap) => agent_frame::Body::Gap(gap.clone()),
                });
                session.sent = id;
                session.waiting.get_or_insert_with(Instant::now);
            }
            if session.waiting.is_some_and(|w| w.elapsed() >= ACK_WITHIN) {
                tracing::warn!("no acknowledgement within {ACK_WITHIN:?}: reconnecting");
                session.ends.cancel();
                session.waiting = None;
            }
        }
    }

    /// Whether this link's aggregator decides, in the highest epoch met.
    pub(super) fn decides(&self, link: usize) -> bool {
        let welcomed = self.links[link].session.as_ref().and_then(|s| s.welcomed.as_ref());
        welcomed.is_some_and(|w| w.decider && self.highest().as_ref() == Some(&w.epoch))
    }

    /// The highest epoch met, recorded or not.
    pub(super) fn highest(&self) -> Option<Epoch> {
        let state = self.state.read();
        self.met.clone().filter(|met| state.is_older_than(met)).or_else(|| state.epoch.clone())
    }

    pub(super) fn broadcast(&self, change: InventoryChange) {
        for session in self.links.iter().filter_map(|l| l.session.as_ref()) {
            session.send(agent_frame::Body::InventoryChange(change.clone()));
        }
    }

    /// Sends to all sessions.
    pub(super) fn send_all(&self, body: &agent_frame::Body) {
        for session in self.links.iter().filter_map(|l| l.session.as_ref()) {
            session.send(body.clone());
        }
    }

    /// Sends on one session, if it still stands.
    pub(super) fn send_to(&self, number: u64, body: agent_frame::Body) {
        let session = self.links.iter().filter_map(|l| l.session.as_ref()).find(|s| s.number == number);
        if let Some(session) = session {
            session.send(body);
        }
    }

    pub(super) fn stands(&self, number: u64) -> bool {
        self.links.iter().filter_map(|l| l.session.as_ref()).any(|s| s.number == number)
    }

    /// Sends to whoever decides now: the one who asked may have been replaced.
    pub(super) fn send_decider(&self, body: &agent_frame::Body) {
        for link in 0..self.links.len() {
            if self.decides(link)
                && let Some(session) = &self.links[link].session
            {
                session.send(body.clone());
            }
        }
    }

    /// How often whoever listens wants to hear us.
    pub(super) fn heartbeat_every(&self) -> Duration {
        let asked = self.links.iter().filter_map(|l| Some(l.session.as_ref()?.welcomed.as_ref()?.heartbeat));
        asked.min().unwrap_or(super::tick::HEARTBEAT)
    }

    /// Drops all outboxes: the streams end when what is in them has been sent.
    pub(super) fn close_all(&mut self) {
        self.links.iter_mut().for_each(|l| l.session = None);
    }

    fn end(&mut self, link: usize) {
        if let Some(session) = self.links[link].session.take() {
            session.ends.cancel();
        }
    }
}
