//! The prober: asks one host on every plane at once, within one deadline.

use crate::ping::ping;
use crate::wire::{ANSWER_LEN, Key, Request, nonce};
use futures::future::{self, FutureExt, join_all};
use futures::stream::{FuturesUnordered, StreamExt};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

/// Once a process has answered, the other services get this long to answer too. It is
/// what tells later whether "kernel only" can mean anything on this host; not worth more.
const EXTRA: Duration = Duration::from_millis(250);

/// Ports where nearly every gateway or storage server accepts or refuses: either is an answer.
const REACH_PORTS: [u16; 2] = [22, 443];

/// Banner ports asked per plane; more are ignored, so that one order cannot open sockets at will.
const BANNER_PORTS_MAX: usize = 8;

/// Whom to ask, and how to know that it is the one who answers.
#[derive(Clone, Debug)]
pub struct Target {
    pub host: String,
    /// Plane name -> the host's address on it.
    pub planes: BTreeMap<String, IpAddr>,
    /// Key of that host's responder; without one only banner and kernel can answer.
    pub key: Option<Key>,
    /// Services that speak first when connected to, such as ssh.
    pub banner_ports: Vec<u16>,
    /// Port of the responder.
    pub port: u16,
}

/// What a host had to say on one plane. Ordered: more life is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    Nothing,
    /// Ping, SYN or RST: what a frozen host's kernel still does.
    KernelOnly,
    UserSpace,
}

/// The result for one plane of one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub host: String,
    pub plane: String,
    pub answer: Answer,
    /// Told by an authentic responder; empty otherwise.
    pub boot_id: String,
    pub responder: bool,
    pub banner: bool,
}

/// One sign of life, from one of the ways to ask.
#[derive(Debug)]
enum Sign {
    Kernel,
    Responder(String),
    Banner,
}

/// Asks on every plane in parallel. Takes at most the deadline, less where everything has
/// been answered or refused. Dropping the future closes every socket.
pub async fn probe(target: &Target, deadline: Duration) -> Vec<Outcome> {
    let until = Instant::now() + deadline;
    let asked = target.planes.iter().map(|(plane, address)| ask(target, plane, *address, deadline, until));
    join_all(asked).await
}

/// Whether an address that is no host of ours (gateway, storage server) gives any answer.
pub async fn reach(address: IpAddr, deadline: Duration) -> bool {
    let echo = async { ping(address).await.is_ok() }.boxed();
    let knock = |port| async move {
        match TcpStream::connect((address, port)).await {
            Ok(_) => true,
            Err(e) => e.kind() == ErrorKind::ConnectionRefused,
        }
    };
    let ways = REACH_PORTS.map(|port| knock(port).boxed()).into_iter().chain([echo]);
    let answers = ways.collect::<FuturesUnordered<_>>();
    let any = answers.any(|yes| async move { yes });
    timeout(deadline, any).await.unwrap_or(false)
}

async fn ask(target: &Target, plane: &str, address: IpAddr, deadline: Duration, until: Instant) -> Outcome {
    let mut outcome = Outcome {
        host: target.host.clone(),
        plane: plane.to_owned(),
        answer: Answer::Nothing,
        boot_id: String::new(),
        responder: false,
        banner: false,
    };
    let ports = &target.banner_ports[..target.banner_ports.len().min(BANNER_PORTS_MAX)];
    // Each way to ask gives a handful of signs; the reader below never waits long.
    let (signs, mut seen) = mpsc::channel(16);
    let banners = ports.iter().map(|port| ask_banner(SocketAddr::new(address, *port), signs.clone()));
    let ways = future::join3(
        ask_responder(target, address, deadline, signs.clone()),
        ask_kernel(address, signs.clone()),
        join_all(banners.collect::<Vec<_>>()),
    );
    // Each way drops its sender when it is done; the channel ends with the last one.
    drop(signs);
    tokio::pin!(ways);
    let mut end = until;
    let mut running = true;
    loop {
        tokio::select! {
            biased;
            sign = seen.recv() => match sign {
                Some(sign) => note(&mut outcome, sign),
                None => return outcome,
            },
            _ = &mut ways, if running => running = false,
            () = sleep_until(end) => return outcome,
        }
        if outcome.answer == Answer::UserSpace {
            end = end.min(Instant::now() + EXTRA);
            if outcome.responder && (outcome.banner || ports.is_empty()) {
                return outcome;
            }
        }
    }
}

fn note(outcome: &mut Outcome, sign: Sign) {
    let answer = match sign {
        Sign::Kernel => Answer::KernelOnly,
        Sign::Responder(boot_id) => {
            outcome.responder = true;
            outcome.boot_id = boot_id;
            Answer::UserSpace
        }
        Sign::Banner => {
            outcome.banner = true;
            Answer::UserSpace
        }
    };
    outcome.answer = outcome.answer.max(answer);
}

/// UDP to the responder, twice: one lost datagram must not make a host look dead.
async fn ask_responder(target: &Target, address: IpAddr, deadline: Duration, signs: mpsc::Sender<Sign>) {
    let started = Instant::now();
    let Some(nonce) = nonce() else { return };
    // Without a key the request is asked under one that nobody has: no answer can be
    // authentic, but a closed port still shows a kernel.
    let Some(key) = target.key.clone().or_else(Key::random) else {
        return;
    };
    let request = Request { key_id: key.id(), nonce, host: target.host.clone() };
    let Some(datagram) = request.encode() else {
        return;
    };
    let own: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let Ok(socket) = UdpSocket::bind((own, 0)).await else {
        return;
    };
    for half in 1..=2u32 {
        let round = started + deadline / 2 * half;
        if socket.connect((address, target.port)).await.is_err() {
            // No route says nothing; half a deadline later there may be one.
            sleep_until(round).await;
            continue;
        }
        // An error here is told again by the receiver.
        let _ = socket.send(&datagram).await;
        while let Ok(received) = tokio::time::timeout_at(round, receive(&socket)).await {
            match received {
                Ok(bytes) => match request.verify(&key, &bytes) {
                    Some(boot_id) => return drop(signs.send(Sign::Responder(boot_id)).await),
                    // Somebody answers, but not provably this host.
                    None => drop(signs.send(Sign::Kernel).await),
                },
                Err(e) if e.kind() == ErrorKind::ConnectionRefused => {
                    drop(signs.send(Sign::Kernel).await);
                    sleep_until(round).await;
                }
                // No route and the like say nothing; the second datagram may do better.
                Err(_) => sleep_until(round).await,
            }
        }
    }
}

async fn receive(socket: &UdpSocket) -> std::io::Result<Vec<u8>> {
    // One byte more than an answer: a longer datagram shows itself as longer.
    let mut buffer = [0; ANSWER_LEN + 1];
    let n = socket.recv(&mut buffer).await?;
    Ok(buffer[..n].to_vec())
}

/// A service that speaks first. Accepting a connection is the kernel's doing; bytes are a process's.
async fn ask_banner(address: SocketAddr, signs: mpsc::Sender<Sign>) {
    let mut stream = match TcpStream::connect(address).await {
        Ok(stream) => stream,
        Err(e) => {
            if e.kind() == ErrorKind::ConnectionRefused {
                drop(signs.send(Sign::Kernel).await);
            }
            return;
        }
    };
    drop(signs.send(Sign::Kernel).await);
    let mut first = [0; 16];
    if matches!(stream.read(&mut first).await, Ok(n) if n > 0) {
        drop(signs.send(Sign::Banner).await);
    }
}

async fn ask_kernel(address: IpAddr, signs: mpsc::Sender<Sign>) {
    match ping(address).await {
        Ok(()) => drop(signs.send(Sign::Kernel).await),
        Err(e) => tracing::trace!(%address, "no ping: {e}"),
    }
}
