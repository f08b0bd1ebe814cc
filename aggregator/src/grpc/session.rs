//! One session, from its hello to its end.
//!
//! ```text
//!   first frame within 5 s must be a hello
//!     refused: revoked, foreign site, older epoch, malformed, no identity -> Refusal, end
//!     taken:   Welcome -> SessionOpened -> frames ... -> SessionClosed { by }
//! ```

use crate::grpc::convert::{self, Malformed};
use crate::grpc::errand::{self, Runner};
use crate::grpc::registry::{Entry, IDENTITY, OUTBOUND_MAX, Outbound, REVOKED, Registry};
use crate::listen::Peer;
use crate::peer::{Role, valid_name};
use medevac_proto::session as wire;
use medevac_proto::session::agent_frame::Body;
use medevac_proto::text_hash;
use medevac_triage::{
    BootId, Closer, Epoch, Fact, Heartbeat, Hello, HostId, Observation, ProbeReport, SessionId, StepId, Vantage,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tonic::{Status, Streaming};

/// A peer that says nothing is not an agent.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// Time for the last frame to leave before the stream ends.
const LAST_WORD: Duration = Duration::from_millis(200);
/// An agent that leaves drops its stream first and its connection a moment
/// later; far below the time that makes a suspect.
const ENDING_SETTLES: Duration = Duration::from_millis(250);
/// Whoever ends a stream in order has sent something in this time; the
/// keepalive ends it after ten times as long without a byte.
const SPOKE: Duration = Duration::from_secs(1);
const ENDING_LOOKED_AT: Duration = Duration::from_millis(10);
/// One of the agent, one half-open rest of it, and as many of a clone.
const SESSIONS_PER_HOST_MAX: usize = 4;
/// One a second: one may be lost before a host is suspect.
const HEARTBEAT_MS: u32 = 1000;
/// Boots that a hello may name as earlier ones: a host that rebooted more often
/// while nobody listened is for a person to look at.
const EARLIER_BOOTS_MAX: usize = 16;

/// A named refusal that the agent logs for its operator.
struct Refused {
    code: &'static str,
    message: String,
}

impl From<Malformed> for Refused {
    fn from(error: Malformed) -> Self {
        let message =
            format!("{error}; this looks like an incompatible or damaged agent: install the aggregator's version");
        Self { code: "malformed", message }
    }
}

/// Starts the session's task; the receiver is the stream to the agent.
pub(crate) fn start(
    registry: Arc<Registry>,
    peer: Peer,
    frames: Streaming<wire::AgentFrame>,
) -> mpsc::Receiver<Result<wire::AggregatorFrame, Status>> {
    let (out, outbound) = mpsc::channel(OUTBOUND_MAX);
    tokio::spawn(run(registry, peer, frames, out));
    outbound
}

async fn run(registry: Arc<Registry>, peer: Peer, mut frames: Streaming<wire::AgentFrame>, out: Outbound) {
    let hello = match tokio::time::timeout(HELLO_WITHIN, frames.message()).await {
        Ok(Ok(Some(wire::AgentFrame { body: Some(Body::Hello(hello)) }))) => hello,
        Ok(Ok(Some(_))) => {
            let message = "the first frame must be a hello: install the aggregator's version of the agent".to_owned();
            return refuse(&out, &peer, Refused { code: "protocol", message }).await;
        }
        Ok(Ok(None)) => return,
        Ok(Err(status)) => {
            tracing::warn!(code = "MDV-SESSION-REFUSED", address = %peer.address, "no hello could be read: {status}");
            return;
        }
        Err(_) => {
            let message = "no hello within 5 s: is the agent stuck?".to_owned();
            return refuse(&out, &peer, Refused { code: "protocol", message }).await;
        }
    };
    match Session::open(registry, &peer, hello, &out).await {
        Ok((session, close)) => session.serve(peer, frames, close, out).await,
        Err(refused) => refuse(&out, &peer, refused).await,
    }
}

async fn refuse(out: &Outbound, peer: &Peer, refused: Refused) {
    tracing::warn!(
        code = "MDV-SESSION-REFUSED", why = refused.code, address = %peer.address, role = ?peer.role, "{}", refused.message
    );
    let refusal = wire::Refusal { code: refused.code.into(), message: refused.message };
    let body = wire::aggregator_frame::Body::Refusal(refusal);
    let _ = out.send(Ok(wire::AggregatorFrame { body: Some(body) })).await;
    tokio::time::sleep(LAST_WORD).await;
}

struct Session {
    registry: Arc<Registry>,
    id: SessionId,
    host: HostId,
    boot: BootId,
    /// The last whole inventory, to which changes are applied: the loop sees whole ones only.
    whole: wire::Inventory,
    /// A whole inventory was asked for by us, because a change did not fit.
    asked: bool,
    /// Places for those who wait for what they asked about their host.
    errands: Arc<Semaphore>,
}

impl Session {
    /// Checks the hello, enters the registry, says welcome, tells the loop.
    async fn open(
        registry: Arc<Registry>,
        peer: &Peer,
        hello: wire::Hello,
        out: &Outbound,
    ) -> Result<(Self, mpsc::Receiver<&'static str>), Refused> {
        let host = who(&registry, peer, &hello)?;
        check_welcome(&registry, peer)?;
        check_protocol(&hello)?;
        check_site(&registry, &hello)?;
        check_epoch(&registry, &host, &hello).await?;
        check_twins(&registry, &host)?;
        let id = registry.next_id();
        let whole = hello.inventory.clone().unwrap_or_default();
        let sent_boot_ms = hello.sent_boot_ms;
        let seen = read_hello(&host, &id, hello)?;
        let (close, closed) = mpsc::channel(1);
        let (machine, boot) = (seen.machine.clone(), seen.boot.clone());
        let entry = Entry {
            host: host.clone(),
            machine,
            boot: boot.clone(),
            serial: peer.serial.clone(),
            out: out.clone(),
            close,
            agent_boot_ms: sent_boot_ms,
        };
        registry.enter(&id, entry);
        // Revoked in the meantime: whoever revoked it may have looked before it was entered.
        check_welcome(&registry, peer).inspect_err(|_| registry.leave(&id))?;
        let errands = Arc::new(Semaphore::new(errand::AT_ONCE));
        let session = Self { registry, id, host, boot, whole, asked: false, errands };
        session.welcome();
        if session.registry.decides() {
            tracing::info!(code = "MDV-SESSION-OPEN", host = %session.host, boot = %session.boot, address = %peer.address, "agent connected");
        }
        session.registry.tell(Observation::SessionOpened(Box::new(seen))).await;
        Ok((session, closed))
    }

    fn welcome(&self) {
        let shared = &self.registry.shared;
        let welcome = wire::Welcome {
            site: shared.site.clone(),
            epoch: Some(wire::Epoch { number: shared.epoch.number, start_id: shared.epoch.start.clone() }),
            protocol: medevac_proto::PROTOCOL,
            decider: self.registry.decides(),
            probe_key: self.registry.probe_key(&self.host, &self.boot),
            heartbeat_ms: HEARTBEAT_MS,
            acked_seq: self.registry.acked(&self.host, &self.boot),
        };
        self.registry.send(&self.id, wire::aggregator_frame::Body::Welcome(welcome));
    }

    /// Takes frames until one side ends it, then says who did.
    async fn serve(
        mut self,
        peer: Peer,
        mut frames: Streaming<wire::AgentFrame>,
        mut close: mpsc::Receiver<&'static str>,
        out: Outbound,
    ) {
        let by = loop {
            tokio::select! {
                biased;
                why = close.recv() => {
                    let why = why.unwrap_or("closed");
                    tracing::info!(code = "MDV-SESSION-CLOSED", host = %self.host, "session ended by us: {why}");
                    match self.parting(&peer, why) {
                        Some(refused) => refuse(&out, &peer, refused).await,
                        None => drop(out.try_send(Err(Status::unavailable(why)))),
                    }
                    break Closer::Us;
                }
                frame = frames.message() => match frame {
                    Ok(Some(frame)) => {
                        if let Err(malformed) = self.take(frame).await {
                            refuse(&out, &peer, malformed.into()).await;
                            break Closer::Us;
                        }
                    }
                    // By the agent's own word, or by our keepalive: then it has been silent for long.
                    Ok(None) if peer.ending.spoke_within(SPOKE) => break Closer::Host,
                    Ok(None) => break ended(&peer).await,
                    Err(status) => {
                        tracing::debug!(host = %self.host, "stream ended: {}: {}", status.code(), status.message());
                        break ended(&peer).await;
                    }
                }
            }
        };
        self.registry.leave(&self.id);
        tracing::info!(code = "MDV-SESSION-CLOSED", host = %self.host, ?by, "session ended");
        self.registry.tell(Observation::SessionClosed { host: self.host, session: self.id, by }).await;
    }

    /// What an agent is told that is not to come back as it is.
    fn parting(&self, peer: &Peer, why: &str) -> Option<Refused> {
        match why {
            IDENTITY => Some(stranger(&self.host)),
            REVOKED => check_welcome(&self.registry, peer).err(),
            _ => None,
        }
    }

    async fn take(&mut self, frame: wire::AgentFrame) -> Result<(), Malformed> {
        let (host, session) = (self.host.clone(), self.id.clone());
        match frame.body {
            Some(Body::Heartbeat(beat)) => self.beat(&beat).await,
            Some(Body::Inventory(inventory)) => self.replace(inventory).await?,
            Some(Body::InventoryChange(change)) => self.change(change).await?,
            Some(Body::Fact(fact)) => {
                let boot = self.boot_named(&fact.boot_id);
                let seen = convert::fact(&fact);
                self.tell(Observation::FactArrived { host, session, boot, seq: fact.seq, fact: seen }).await;
            }
            Some(Body::Gap(gap)) => {
                let boot = self.boot_named(&gap.boot_id);
                let lost = Fact::Lost { first: gap.first_seq, last: gap.last_seq, why: convert::cut(&gap.why) };
                self.tell(Observation::FactArrived { host, session, boot, seq: gap.last_seq, fact: lost }).await;
            }
            Some(Body::DomainXml(domain)) => self.xml(domain).await,
            Some(Body::ProbeReport(report)) => {
                let results = convert::results(&report.results);
                let report = ProbeReport { round: report.round, from: Vantage::Peer(host), results };
                self.tell(Observation::ProbeReported(report)).await;
            }
            Some(Body::CommandResult(result)) => self.result(&result).await,
            Some(Body::Goodbye(goodbye)) => {
                let boot = self.boot_named(&goodbye.boot_id);
                let parting = convert::parting(&goodbye)?;
                self.tell(Observation::GoodbyeSaid { host, boot, goodbye: parting }).await;
            }
            Some(Body::PowerController(told)) => {
                let offer = convert::controller(told);
                self.tell(Observation::ControllerTold { host, offer }).await;
            }
            Some(Body::Errand(errand)) => self.runner().run(errand),
            Some(Body::Hello(_)) => {
                return Err(Malformed { field: "hello", why: "a session has one hello".into() });
            }
            // A newer agent's frame: nothing that we know is lost.
            None => tracing::debug!(%host, "a frame of a kind that this version does not know"),
        }
        Ok(())
    }

    async fn tell(&self, observation: Observation) {
        self.registry.tell(observation).await;
    }

    fn runner(&self) -> Runner {
        let (registry, at_once) = (Arc::clone(&self.registry), Arc::clone(&self.errands));
        Runner { registry, host: self.host.clone(), session: self.id.clone(), at_once }
    }

    fn boot_named(&self, name: &str) -> BootId {
        if valid_name(name) { BootId::from(name) } else { self.boot.clone() }
    }

    async fn beat(&self, beat: &wire::Heartbeat) {
        self.registry.heard(&self.id, beat.boot_ms);
        let seen = Heartbeat {
            host: self.host.clone(),
            session: self.id.clone(),
            digest: beat.digest,
            memory_available_kib: beat.memory_available_kib,
            held: beat.held,
            libvirt_answers: beat.libvirt_answers,
        };
        self.tell(Observation::HeartbeatArrived(seen)).await;
    }

    async fn replace(&mut self, inventory: wire::Inventory) -> Result<(), Malformed> {
        let answers = Some(inventory.ask).filter(|ask| *ask != 0);
        self.registry.heard(&self.id, inventory.taken_boot_ms);
        self.asked = false;
        self.whole = inventory;
        self.show(answers).await
    }

    /// Applies a change to the whole; one that does not fit asks for the whole.
    async fn change(&mut self, change: wire::InventoryChange) -> Result<(), Malformed> {
        if change.base_generation != self.whole.generation {
            if !self.asked {
                self.asked = true;
                let ask = wire::aggregator_frame::Body::InventoryAsk(wire::InventoryAsk { ask: 0 });
                self.registry.send(&self.id, ask);
            }
            return Ok(());
        }
        let mut instances: BTreeMap<String, wire::Instance> =
            std::mem::take(&mut self.whole.instances).into_iter().map(|one| (one.uuid.clone(), one)).collect();
        for uuid in &change.removed {
            instances.remove(uuid);
        }
        instances.extend(change.upserted.into_iter().map(|one| (one.uuid.clone(), one)));
        self.whole.instances = instances.into_values().collect();
        (self.whole.generation, self.whole.digest) = (change.generation, change.digest);
        if !change.storage.is_empty() {
            self.whole.storage = change.storage;
        }
        self.show(None).await
    }

    async fn show(&self, answers: Option<u64>) -> Result<(), Malformed> {
        let inventory = convert::inventory(&self.whole)?;
        let (host, session, boot) = (self.host.clone(), self.id.clone(), self.boot.clone());
        self.tell(Observation::InventoryArrived { host, session, boot, inventory, answers }).await;
        Ok(())
    }

    async fn xml(&self, domain: wire::DomainXml) {
        // A guest would be started by it: only what is named by its own hash is taken.
        if domain.xml.len() > convert::XML_MAX || domain.hash != text_hash(&domain.xml) {
            tracing::warn!(code = "MDV-XML-REFUSED", host = %self.host, bytes = domain.xml.len(), "a domain XML was not taken: too long, or its hash names another text");
            return;
        }
        let seen = Observation::XmlArrived { host: self.host.clone(), hash: domain.hash, xml: domain.xml };
        self.tell(seen).await;
    }

    async fn result(&self, result: &wire::CommandResult) {
        let Some(step) = StepId::parse(&result.id) else {
            tracing::warn!(code = "MDV-RESULT-UNKNOWN", host = %self.host, id = %convert::cut(&result.id), "a result of no order of ours");
            return;
        };
        let outcome = convert::outcome(result);
        self.tell(Observation::OrderAnswered { host: self.host.clone(), step, outcome }).await;
    }
}

/// The socket knows who ended it: the stream above is merely "broken".
async fn ended(peer: &Peer) -> Closer {
    let mut waited = Duration::ZERO;
    while peer.ending.closer() == Closer::Us && waited < ENDING_SETTLES {
        tokio::time::sleep(ENDING_LOOKED_AT).await;
        waited += ENDING_LOOKED_AT;
    }
    peer.ending.closer()
}

/// The certificate names the host; without TLS, and only then, the hello does.
fn who(registry: &Registry, peer: &Peer, hello: &wire::Hello) -> Result<HostId, Refused> {
    match &peer.role {
        Some(Role::Host(name)) => {
            if !hello.host.is_empty() && hello.host != *name {
                tracing::info!(code = "MDV-NAME-DIFFERS", certificate = %name, said = %convert::cut(&hello.host), "the certificate's name counts");
            }
            Ok(HostId(name.clone()))
        }
        Some(Role::Person(rank, name)) => {
            let message = format!(
                "the certificate names {name}, {}, not a host: this one's own is made by `medevac-agent join`",
                rank.name()
            );
            Err(Refused { code: "identity", message })
        }
        Some(Role::Stranger) => {
            let message = "no certificate: `medevac-agent join` gets one".to_owned();
            Err(Refused { code: "identity", message })
        }
        None if registry.shared.plaintext && valid_name(&hello.host) => Ok(HostId(hello.host.clone())),
        None => Err(Refused {
            code: "identity",
            message: "no certificate, and no host name in the hello: set `host`".into(),
        }),
    }
}

/// Its certificate may have been revoked since the connection was opened.
fn check_welcome(registry: &Registry, peer: &Peer) -> Result<(), Refused> {
    let kept_out = peer.role.as_ref().and_then(|role| registry.doors().keeps_out(role, &peer.serial));
    kept_out.map_or(Ok(()), |message| Err(Refused { code: REVOKED, message }))
}

fn check_protocol(hello: &wire::Hello) -> Result<(), Refused> {
    if hello.protocol >= medevac_proto::PROTOCOL {
        return Ok(());
    }
    let message = format!(
        "protocol {} is too old, {} is the oldest that is spoken here: update the agent",
        hello.protocol,
        medevac_proto::PROTOCOL
    );
    Err(Refused { code: "protocol", message })
}

/// The loop knows another machine, or a later boot, under this name.
fn stranger(host: &HostId) -> Refused {
    let message = format!(
        "another machine is known here as {host}, or a later boot of it: `medevacctl hosts` on the aggregator says which. \
         A machine of its own needs a certificate of its own (`medevac-agent join --force` by a token for its own name), a clone also a \
         machine id of its own (systemd-machine-id-setup). If it replaces the other one, which is off for good: \
         `medevacctl forget {host}`"
    );
    Refused { code: IDENTITY, message }
}

/// Two tell a clone; more are a fault that must not fill the memory.
fn check_twins(registry: &Registry, host: &HostId) -> Result<(), Refused> {
    if registry.sessions_of(host) < SESSIONS_PER_HOST_MAX {
        return Ok(());
    }
    let message = format!(
        "{SESSIONS_PER_HOST_MAX} sessions under the name {host} are live already: its certificate is in use on several \
         machines; give each its own"
    );
    Err(Refused { code: "twin", message })
}

fn check_site(registry: &Registry, hello: &wire::Hello) -> Result<(), Refused> {
    let own = &registry.shared.site;
    if hello.site.is_empty() || hello.site == *own {
        return Ok(());
    }
    let message = format!(
        "this agent belongs to site {:.36}, this is {own}; if it is to move here, stop it, remove its state directory and start it",
        convert::cut(&hello.site)
    );
    Err(Refused { code: "foreign_site", message })
}

/// An agent that has obeyed a higher epoch, or a twin of ours, knows another
/// decider: we stop deciding.
async fn check_epoch(registry: &Registry, host: &HostId, hello: &wire::Hello) -> Result<(), Refused> {
    let Some(highest) = &hello.highest_epoch else { return Ok(()) };
    // Of a site that is not ours yet, or none: its numbers mean nothing here.
    if hello.site.is_empty() {
        return Ok(());
    }
    let own = &registry.shared.epoch;
    let twin = highest.number == own.number && highest.start_id != own.start;
    if highest.number <= own.number && !twin {
        return Ok(());
    }
    let epoch = Epoch { number: highest.number, start: convert::cut(&highest.start_id) };
    registry.tell(Observation::RivalMet { host: host.clone(), epoch }).await;
    registry.depose();
    let message = format!(
        "this agent has obeyed epoch {}, this aggregator has {}: another one decides, or this is an old copy; \
         if this one is to decide, stop both and run there: medevac-aggregator take-over --reason '...'",
        highest.number, own.number
    );
    Err(Refused { code: "older_epoch", message })
}

fn read_hello(host: &HostId, session: &SessionId, hello: wire::Hello) -> Result<Hello, Malformed> {
    let earlier = hello.earlier_boot_ids.into_iter().take(EARLIER_BOOTS_MAX);
    let named = std::iter::once(hello.previous_boot_id).chain(earlier);
    let previous_boots = named.filter(|boot| valid_name(boot)).map(BootId).collect();
    let highest_epoch = hello.highest_epoch.map(|epoch| Epoch { number: epoch.number, start: epoch.start_id });
    Ok(Hello {
        host: host.clone(),
        session: session.clone(),
        machine: convert::identity("hello.machine_id", hello.machine_id)?,
        boot: BootId(convert::identity("hello.boot_id", hello.boot_id)?),
        uptime: Duration::from_millis(hello.uptime_ms),
        previous_boots,
        planes: convert::planes(hello.planes)?,
        held: hello.held,
        inventory: convert::inventory(&hello.inventory.unwrap_or_default())?,
        memory_total_kib: hello.memory_total_kib,
        memory_available_kib: hello.memory_available_kib,
        warnings: convert::warnings(hello.warnings),
        highest_epoch,
    })
}
