//! The responder: says that this host's user space lives, and in which boot.
//!
//! It has threads of its own: a stuck main loop of the process around it is an
//! agent's failure, not a host's, and must not look like one.

use crate::wire::{Key, KeyId, REQUEST_LEN, Request};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;

/// One thread handles one datagram at a time with buffers on its stack.
const STACK: usize = 128 * 1024;

/// More givers of keys than any site has aggregators; the first ones stay.
const KEYS_MAX: usize = 16;

/// Why there is no responder.
#[derive(Debug, thiserror::Error)]
pub enum ResponderError {
    #[error("the responder cannot listen on {address}/udp: {source}; is another agent running?")]
    Bind { address: SocketAddr, source: io::Error },
    #[error("the responder cannot have a thread: {0}")]
    Thread(io::Error),
}

#[derive(Debug)]
struct Shared {
    host: String,
    boot_id: String,
    /// By who handed it out; several aggregators may each have one.
    keys: RwLock<BTreeMap<String, (KeyId, Key)>>,
    stopping: AtomicBool,
}

/// Listens until dropped.
#[derive(Debug)]
pub struct Responder {
    shared: Arc<Shared>,
    listeners: Vec<(SocketAddr, JoinHandle<()>)>,
}

impl Responder {
    /// Listens on every address (all of them when none is given). An address that this
    /// machine does not have yet is no error: planes may come up later.
    pub fn start(addresses: &[IpAddr], port: u16, host: &str, boot_id: &str) -> Result<Responder, ResponderError> {
        let shared = Arc::new(Shared {
            host: host.to_owned(),
            boot_id: boot_id.to_owned(),
            keys: RwLock::default(),
            stopping: AtomicBool::new(false),
        });
        let any = [IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
        let mut responder = Responder { shared, listeners: Vec::new() };
        for address in if addresses.is_empty() { &any } else { addresses } {
            responder.listen(SocketAddr::new(*address, port))?;
        }
        Ok(responder)
    }

    /// Sets the key that one aggregator handed out; replaces its former one.
    pub fn set_key(&self, giver: &str, key: Key) {
        let mut keys = self.shared.keys.write().unwrap_or_else(PoisonError::into_inner);
        if keys.len() < KEYS_MAX || keys.contains_key(giver) {
            keys.insert(giver.to_owned(), (key.id(), key));
        }
    }

    /// Where it listens.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.listeners.iter().map(|(a, _)| *a)
    }

    fn listen(&mut self, address: SocketAddr) -> Result<(), ResponderError> {
        let socket = bind(address).map_err(|source| ResponderError::Bind { address, source })?;
        let local = socket.local_addr().unwrap_or(address);
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name("responder".into()).stack_size(STACK);
        let thread = thread.spawn(move || serve(&socket, &shared)).map_err(ResponderError::Thread)?;
        self.listeners.push((local, thread));
        Ok(())
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        for (address, thread) in self.listeners.drain(..) {
            // An empty datagram to itself wakes the thread, which then sees the word to stop.
            let own = match address.ip() {
                ip if !ip.is_unspecified() => ip,
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            };
            let wake = UdpSocket::bind((own, 0));
            let woken = wake.and_then(|s| s.send_to(&[], (own, address.port())));
            if woken.is_ok() && thread.join().is_err() {
                tracing::error!("a responder thread panicked");
            }
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => socket.set_freebind_v6(true)?,
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn serve(socket: &UdpSocket, shared: &Shared) {
    // One byte more than a request: a longer datagram shows itself as longer.
    let mut buffer = [0; REQUEST_LEN + 1];
    while !shared.stopping.load(Ordering::Relaxed) {
        match socket.recv_from(&mut buffer) {
            Ok((n, from)) => {
                if let Some(answer) = answer(shared, &buffer[..n]) {
                    // A lost answer is asked for again; there is nobody to tell.
                    let _ = socket.send_to(&answer, from);
                }
            }
            // Errors on a listening UDP socket are reports about earlier answers.
            // The pause keeps a broken socket from burning a core.
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(5)),
        }
    }
}

/// Silence for everything but a request for this host under a known key.
fn answer(shared: &Shared, data: &[u8]) -> Option<[u8; crate::wire::ANSWER_LEN]> {
    let request = Request::decode(data).filter(|r| r.host == shared.host)?;
    let keys = shared.keys.read().unwrap_or_else(PoisonError::into_inner);
    let (_, key) = keys.values().find(|(id, _)| *id == request.key_id)?;
    request.answer(key, &shared.boot_id)
}
