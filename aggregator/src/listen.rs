//! The one TCP port: who connects, and who ended the connection.
//!
//! ```text
//!   accept -> TLS handshake (5 s) -> role from the certificate -> revoked? -> Connection { io, peer }
//!                  |                                                 -> HTTP/2: gRPC for hosts, API for people
//!                  '-- no certificate, where we can sign one: a stranger, for 10 s, among few
//!                      -> a server of its own that knows one route: to join
//! ```
//!
//! Whether a host *closed* its connection (FIN, RST) or merely stopped
//! answering decides what its silence means, so that is seen here, at the
//! socket: HTTP/2 above reports both as "broken".

use crate::doors::Doors;
use crate::keeper::Keeper;
use crate::lobby::{Lobby, Place};
use crate::peer::{self, Role};
use medevac_triage::Closer;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tonic::transport::server::Connected;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A peer that does not finish its handshake in this time is no agent of ours.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// More connections than hosts and operators of one site ever need; beyond it new ones wait.
const CONNECTIONS_MAX: usize = 4096;
/// Handshaken connections not yet taken by the server: it takes them at once.
const READY_MAX: usize = 64;
/// Strangers at the same time: a rack that joins at once, and no more of our memory than that.
const STRANGERS_MAX: usize = 64;
/// A stranger asks one question and is gone.
const STRANGER_LASTS: Duration = Duration::from_secs(10);
/// Unacknowledged data for this long ends a connection: below 30 s, as proxies and people expect.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

/// Paths of the files for mutual TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
    /// The authority's own key. Where it is missing, nothing is signed here and no stranger is let in.
    pub ca_key: PathBuf,
}

impl TlsFiles {
    /// As `medevac-aggregator init` calls them.
    pub fn in_dir(dir: &Path) -> Self {
        let file = |name: &str| dir.join(name);
        Self { ca: file("ca.pem"), cert: file("aggregator.pem"), key: file("aggregator.key"), ca_key: file("ca.key") }
    }
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{path}: {what}; `medevac-aggregator init` makes a whole set of files")]
    File { path: PathBuf, what: String },
    #[error("the certificate {cert} and the key {key} do not fit: {what}; copy both from the same `init`")]
    Pair { cert: PathBuf, key: PathBuf, what: String },
}

/// Reads the files and demands a certificate of our CA from every peer; where
/// we can sign certificates, whoever has none yet may come in as a stranger.
///
/// # Errors
/// Names the file that is missing, unreadable or does not fit.
pub fn server_tls(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let wrong = |path: &Path, what: String| TlsError::File { path: path.to_owned(), what };
    let mut roots = RootCertStore::empty();
    let authorities = certificates(&files.ca)?;
    for cert in authorities.clone() {
        roots.add(cert).map_err(|error| wrong(&files.ca, error.to_string()))?;
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| wrong(&files.key, error.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let verifier = if files.ca_key.exists() { verifier.allow_unauthenticated() } else { verifier };
    let verifier = verifier.build().map_err(|error| wrong(&files.ca, error.to_string()))?;
    let pair = |what: String| TlsError::Pair { cert: files.cert.clone(), key: files.key.clone(), what };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| pair(error.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(with_issuer(certificates(&files.cert)?, authorities), key)
        .map_err(|error| pair(error.to_string()))?;
    // Agents speak HTTP/2; any HTTP client may speak to the API.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A session taken up again would not look at its certificate's dates, nor at the authorities of now.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Shows its authority beside the certificate: whoever joins knows that one by its fingerprint alone.
fn with_issuer(
    mut chain: Vec<CertificateDer<'static>>,
    authorities: Vec<CertificateDer<'static>>,
) -> Vec<CertificateDer<'static>> {
    let issuer = |der: &CertificateDer<'_>| Some(X509Certificate::from_der(der).ok()?.1.issuer().as_raw().to_vec());
    let subject = |der: &CertificateDer<'_>| Some(X509Certificate::from_der(der).ok()?.1.subject().as_raw().to_vec());
    let wanted = chain.last().and_then(issuer);
    let missing = authorities.into_iter().filter(|one| subject(one) == wanted && !chain.contains(one));
    let missing: Vec<_> = missing.collect();
    chain.extend(missing);
    chain
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |what: String| TlsError::File { path: path.to_owned(), what };
    let read = CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?;
    let all = read.collect::<Result<Vec<_>, _>>().map_err(|error| wrong(error.to_string()))?;
    if all.is_empty() { Err(wrong("holds no certificate".into())) } else { Ok(all) }
}

/// Who ended a connection, as the socket saw it. The first word counts.
#[derive(Debug)]
pub struct Ending {
    by: AtomicU8,
    opened: Instant,
    /// Milliseconds from `opened` to the last byte from the peer.
    last_byte: AtomicU64,
}

const OPEN: u8 = 0;
const BY_HOST: u8 = 1;
const BY_US: u8 = 2;

impl Default for Ending {
    fn default() -> Self {
        Self { by: AtomicU8::new(OPEN), opened: Instant::now(), last_byte: AtomicU64::new(0) }
    }
}

impl Ending {
    fn note(&self, by: u8) {
        let _ = self.by.compare_exchange(OPEN, by, Ordering::SeqCst, Ordering::SeqCst);
    }

    fn note_error(&self, error: &io::Error) {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
        match error.kind() {
            ConnectionReset | ConnectionAborted | BrokenPipe | UnexpectedEof => self.note(BY_HOST),
            // Timed out, unreachable: a router's or our own word, not the host's.
            _ => self.note(BY_US),
        }
    }

    /// Who did it. A connection that is still open, or that we dropped, is ended by us.
    pub fn closer(&self) -> Closer {
        if self.by.load(Ordering::SeqCst) == BY_HOST { Closer::Host } else { Closer::Us }
    }

    fn note_bytes(&self) {
        self.last_byte.store(medevac_triage::millis(self.opened.elapsed()), Ordering::SeqCst);
    }

    /// Whether the peer sent anything within this time.
    pub fn spoke_within(&self, time: Duration) -> bool {
        let now = medevac_triage::millis(self.opened.elapsed());
        now.saturating_sub(self.last_byte.load(Ordering::SeqCst)) <= medevac_triage::millis(time)
    }
}

/// What the layers above know of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// `None` without TLS, where nobody has shown who he is.
    pub role: Option<Role>,
    /// Of the certificate that said so; empty without one.
    pub serial: String,
    pub ending: Arc<Ending>,
    pub address: SocketAddr,
}

/// A socket that remembers who ended it.
#[derive(Debug)]
struct Watched {
    stream: TcpStream,
    ending: Arc<Ending>,
    /// Counts this connection for as long as it lives.
    _slot: OwnedSemaphorePermit,
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (before, room) = (buf.filled().len(), buf.remaining() > 0);
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        match &polled {
            Poll::Ready(Ok(())) if room && buf.filled().len() == before => self.ending.note(BY_HOST),
            Poll::Ready(Ok(())) if buf.filled().len() > before => self.ending.note_bytes(),
            Poll::Ready(Err(error)) => self.ending.note_error(error),
            _ => {}
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Err(error)) = &polled {
            self.ending.note_error(error);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}

/// A connection whose peer is known, or known to be a stranger.
#[allow(missing_debug_implementations)]
pub struct Connection {
    io: Box<dyn Wire>,
    peer: Peer,
    stay: Option<Stay>,
}

/// A stranger's: when he has to be gone, and the places that he takes.
struct Stay {
    until: Pin<Box<tokio::time::Sleep>>,
    _places: (Place, OwnedSemaphorePermit),
}

impl Connection {
    fn is_stranger(&self) -> bool {
        self.peer.role == Some(Role::Stranger)
    }

    /// Nobody to be relied on: he gets little time, and few of his kind are let in.
    fn is_short(&self, doors: &Doors) -> bool {
        let out = |role| doors.keeps_out(role, &self.peer.serial).is_some();
        self.is_stranger() || self.peer.role.as_ref().is_some_and(out)
    }

    /// His time is over.
    fn over(&mut self, cx: &mut Context<'_>) -> bool {
        self.stay.as_mut().is_some_and(|stay| stay.until.as_mut().poll(cx).is_ready())
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;
    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.over(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.over(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.io).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Connections with a finished handshake.
pub type Arrivals = mpsc::Receiver<io::Result<Connection>>;

/// What the handshakes share.
struct Porch {
    tls: Option<Arc<Keeper>>,
    doors: Arc<Doors>,
    lobby: Arc<Lobby>,
    strangers: Arc<Semaphore>,
    ready: mpsc::Sender<io::Result<Connection>>,
    ready_strangers: mpsc::Sender<io::Result<Connection>>,
}

/// Accepts for ever; one slow handshake holds up nobody else. The second
/// channel is for strangers: they are never served with the others.
pub fn accept(listener: TcpListener, tls: Option<Arc<Keeper>>, doors: Arc<Doors>) -> (Arrivals, Arrivals) {
    let (ready, connections) = mpsc::channel(READY_MAX);
    let (ready_strangers, strangers) = mpsc::channel(READY_MAX);
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (lobby, few) = (Arc::new(Lobby::default()), Arc::new(Semaphore::new(STRANGERS_MAX)));
    let porch = Arc::new(Porch { tls, doors, lobby, strangers: few, ready, ready_strangers });
    tokio::spawn(async move {
        while !porch.ready.is_closed() {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            let (stream, address) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(code = "MDV-ACCEPT", %error, "a connection was not accepted; look at the number of open files");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    continue;
                }
            };
            let Some(place) = porch.lobby.enter(address.ip()) else {
                porch.lobby.refused(address.ip(), "too many connections from there have not finished their handshake");
                continue;
            };
            let porch = Arc::clone(&porch);
            tokio::spawn(async move {
                if let Err(why) = porch.admit(stream, address, slot, place).await {
                    porch.lobby.refused(address.ip(), &why);
                }
            });
        }
    });
    (connections, strangers)
}

impl Porch {
    /// Handshakes, and shows the way: to the site, or to the strangers' counter.
    async fn admit(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        slot: OwnedSemaphorePermit,
        place: Place,
    ) -> Result<(), String> {
        let shaken = tokio::time::timeout(HANDSHAKE, self.shake(stream, address, slot)).await;
        let mut connection = shaken.map_err(|_| "no TLS handshake in 5 s".to_owned())??;
        if !connection.is_short(&self.doors) {
            drop(place);
            drop(self.ready.send(Ok(connection)).await);
            return Ok(());
        }
        let busy = |_| format!("{STRANGERS_MAX} others without a good certificate are here already");
        let one = Arc::clone(&self.strangers).try_acquire_owned().map_err(busy)?;
        // He keeps his address's place, too, until he is gone.
        let until = Box::pin(tokio::time::sleep(STRANGER_LASTS));
        connection.stay = Some(Stay { until, _places: (place, one) });
        // Whoever was revoked is told so by the session or the API that he asks for.
        let way = if connection.is_stranger() { &self.ready_strangers } else { &self.ready };
        drop(way.send(Ok(connection)).await);
        Ok(())
    }

    async fn shake(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        slot: OwnedSemaphorePermit,
    ) -> Result<Connection, String> {
        let _ = stream.set_nodelay(true);
        let unacknowledged = u32::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or(u32::MAX);
        let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, unacknowledged);
        let ending = Arc::new(Ending::default());
        let io = Watched { stream, ending: Arc::clone(&ending), _slot: slot };
        let Some(tls) = &self.tls else {
            let peer = Peer { role: None, serial: String::new(), ending, address };
            return Ok(Connection { io: Box::new(io), peer, stay: None });
        };
        let io = TlsAcceptor::from(tls.current()).accept(io).await.map_err(|error| {
            format!("{error}; its certificate must be signed by our CA, and it must trust the same CA")
        })?;
        let certificates = io.get_ref().1.peer_certificates().unwrap_or_default();
        let role = match certificates {
            [] => Role::Stranger,
            shown => peer::role(shown).map_err(|error| error.to_string())?,
        };
        let serial = peer::serial(certificates);
        let peer = Peer { role: Some(role), serial, ending, address };
        Ok(Connection { io: Box::new(io), peer, stay: None })
    }
}
