//! The one TCP port: who connects, and who ended the connection.
//!
//! ```text
//!   accept -> TLS handshake (5 s, both sides show a certificate) -> role from the
//!   certificate -> Connection { io, peer } -> HTTP/2: gRPC for hosts, API for operators
//! ```
//!
//! Whether a host *closed* its connection (FIN, RST) or merely stopped
//! answering decides what its silence means, so that is seen here, at the
//! socket: HTTP/2 above reports both as "broken".

use crate::lobby::Lobby;
use crate::peer::{self, Role};
use medevac_triage::Closer;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
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

/// A peer that does not finish its handshake in this time is no agent of ours.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// More connections than hosts and operators of one site ever need; beyond it new ones wait.
const CONNECTIONS_MAX: usize = 4096;
/// Handshaken connections not yet taken by the server: it takes them at once.
const READY_MAX: usize = 64;
/// Unacknowledged data for this long ends a connection: below 30 s, as proxies and people expect.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

/// Paths of the files for mutual TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{path}: {what}; `medevac-aggregator init` makes a whole set of files")]
    File { path: PathBuf, what: String },
    #[error("the certificate {cert} and the key {key} do not fit: {what}; copy both from the same `init`")]
    Pair { cert: PathBuf, key: PathBuf, what: String },
}

/// Reads the files and demands a certificate of our CA from every peer.
///
/// # Errors
/// Names the file that is missing, unreadable or does not fit.
pub fn server_tls(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let wrong = |path: &Path, what: String| TlsError::File { path: path.to_owned(), what };
    let mut roots = RootCertStore::empty();
    for cert in certificates(&files.ca)? {
        roots.add(cert).map_err(|error| wrong(&files.ca, error.to_string()))?;
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| wrong(&files.key, error.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|error| wrong(&files.ca, error.to_string()))?;
    let pair = |what: String| TlsError::Pair { cert: files.cert.clone(), key: files.key.clone(), what };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| pair(error.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&files.cert)?, key)
        .map_err(|error| pair(error.to_string()))?;
    // Agents speak HTTP/2; any HTTP client may speak to the API.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
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

/// A connection whose peer is known.
#[allow(missing_debug_implementations)]
pub struct Connection {
    io: Box<dyn Wire>,
    peer: Peer,
}

impl Connected for Connection {
    type ConnectInfo = Peer;
    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Accepts for ever; one slow handshake holds up nobody else.
pub fn accept(listener: TcpListener, tls: Option<Arc<ServerConfig>>) -> mpsc::Receiver<io::Result<Connection>> {
    let (ready, connections) = mpsc::channel(READY_MAX);
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let lobby = Arc::new(Lobby::default());
    tokio::spawn(async move {
        while !ready.is_closed() {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            let (stream, address) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(code = "MDV-ACCEPT", %error, "a connection was not accepted; look at the number of open files");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    continue;
                }
            };
            let Some(place) = lobby.enter(address.ip()) else {
                lobby.refused(address.ip(), "too many connections from there have not finished their handshake");
                continue;
            };
            let (tls, ready, lobby) = (tls.clone(), ready.clone(), Arc::clone(&lobby));
            tokio::spawn(async move {
                let shaken = tokio::time::timeout(HANDSHAKE, shake(stream, address, tls, slot)).await;
                drop(place);
                match shaken {
                    Ok(Ok(connection)) => drop(ready.send(Ok(connection)).await),
                    Ok(Err(why)) => lobby.refused(address.ip(), &why),
                    Err(_) => lobby.refused(address.ip(), "no TLS handshake in 5 s"),
                }
            });
        }
    });
    connections
}

async fn shake(
    stream: TcpStream,
    address: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    slot: OwnedSemaphorePermit,
) -> Result<Connection, String> {
    let _ = stream.set_nodelay(true);
    let unacknowledged = u32::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or(u32::MAX);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, unacknowledged);
    let ending = Arc::new(Ending::default());
    let io = Watched { stream, ending: Arc::clone(&ending), _slot: slot };
    let Some(tls) = tls else {
        return Ok(Connection { io: Box::new(io), peer: Peer { role: None, ending, address } });
    };
    let io = TlsAcceptor::from(tls)
        .accept(io)
        .await
        .map_err(|error| format!("{error}; its certificate must be signed by our CA, and it must trust the same CA"))?;
    let certificates = io.get_ref().1.peer_certificates().unwrap_or_default();
    let role = peer::role(certificates).map_err(|error| error.to_string())?;
    Ok(Connection { io: Box::new(io), peer: Peer { role: Some(role), ending, address } })
}
