//! One stream to one aggregator: connected, kept, lost, connected again.
//!
//! ```text
//!   connect (3 s) -> session -> frames both ways -> closed -> back-off 0.2..5 s, jittered -> connect
//! ```
//!
//! The link carries; the agent's main loop speaks and decides. What the main
//! loop does not send is not sent: a stuck agent must look stuck.

use crate::backoff::Backoff;
use crate::config::Address;
use crate::tls::{Credentials, Wallet};
use medevac_proto::session::nerve_client::NerveClient;
use medevac_proto::session::{AgentFrame, AggregatorFrame};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

/// An aggregator that has not accepted by then is tried again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A server that accepts and says nothing is given up.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// HTTP/2 keepalive and the wait for its answer: a half-open connection ends within 20 s, and no
/// proxy's idle timeout of 30 s is reached.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Reconnecting; agents are back within 5 s of an aggregator's restart.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// A session that lasted this long was a good one: the next back-off starts small.
const GOOD_AFTER: Duration = Duration::from_secs(10);
/// Frames that wait for the wire: a full spool resent in parts, with room for heartbeats.
pub const OUTBOX: usize = 1024;
/// The largest frame taken: a start with the biggest XML that libvirt defines fits many times.
const FRAME_MAX: usize = 8 * 1024 * 1024;
/// Flow-control windows: small, so that a session costs kilobytes.
const WINDOW: u32 = 256 * 1024;

/// What happens on a link.
#[derive(Debug)]
pub enum Happening {
    /// The wire is there; say hello through `outbox`. Cancelling `ends` ends the session.
    Opened {
        outbox: mpsc::Sender<AgentFrame>,
        ends: CancellationToken,
        local: Option<IpAddr>,
    },
    Frame(AggregatorFrame),
    Closed(String),
}

/// Keeps a stream to one aggregator until `stop`. `index` names the link in what it reports.
pub async fn run(
    index: usize,
    address: Address,
    wallet: Arc<Wallet>,
    happenings: mpsc::Sender<(usize, Happening)>,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
    let mut said = String::new();
    while !stop.is_cancelled() && !happenings.is_closed() {
        let began = Instant::now();
        // What is on the disk now: it may have been renewed or replaced since the last connection.
        let why = match session(index, &address, &wallet.now(), &happenings, &stop).await {
            Ok(()) => "the stream ended".to_owned(),
            Err(why) => why,
        };
        if began.elapsed() >= GOOD_AFTER {
            backoff.reset();
        }
        if why != said {
            tracing::warn!(aggregator = address.text, "no session: {why}");
            said.clone_from(&why);
        }
        if happenings.send((index, Happening::Closed(why))).await.is_err() {
            return;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = sleep(backoff.wait()) => {}
        }
    }
}

async fn session(
    index: usize,
    address: &Address,
    credentials: &Credentials,
    happenings: &mpsc::Sender<(usize, Happening)>,
    stop: &CancellationToken,
) -> Result<(), String> {
    let channel = connect(address, credentials).await?;
    let local = local_address(address).await;
    let (outbox, frames) = mpsc::channel(OUTBOX);
    let ends = CancellationToken::new();
    let opened = Happening::Opened { outbox, ends: ends.clone(), local };
    happenings.send((index, opened)).await.map_err(|_| "the agent is stopping")?;
    let mut client = NerveClient::new(channel).max_decoding_message_size(FRAME_MAX);
    let opening = timeout(OPEN_TIMEOUT, client.session(ReceiverStream::new(frames))).await;
    let response = opening.map_err(|_| format!("no answer within {OPEN_TIMEOUT:?}"))?;
    let mut inbound = response.map_err(|e| unanswered(&e, credentials))?.into_inner();
    loop {
        tokio::select! {
            frame = inbound.message() => match frame.map_err(|e| shown(&e))? {
                Some(frame) => happenings.send((index, Happening::Frame(frame))).await.map_err(|_| "the agent is stopping")?,
                None => return Ok(()),
            },
            () = ends.cancelled() => return Err("ended by this agent".to_owned()),
            // The last words are on their way: the far end closes when it has them.
            () = stop.cancelled() => return drain(&mut inbound).await,
        }
    }
}

async fn drain(inbound: &mut tonic::Streaming<AggregatorFrame>) -> Result<(), String> {
    while let Ok(Some(_)) = inbound.message().await {}
    Ok(())
}

async fn connect(address: &Address, credentials: &Credentials) -> Result<Channel, String> {
    let host = if address.host.contains(':') { format!("[{}]", address.host) } else { address.host.clone() };
    let scheme = if credentials.tls.is_some() { "https" } else { "http" };
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{host}:{}", address.port))
        .map_err(|e| e.to_string())?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
        .initial_connection_window_size(WINDOW)
        .initial_stream_window_size(WINDOW);
    if let Some(tls) = &credentials.tls {
        let tls = tls.clone().domain_name(address.host.clone());
        endpoint = endpoint.tls_config(tls).map_err(|e| causes(&e))?;
    }
    // The handshake has no deadline of its own.
    match timeout(CONNECT_TIMEOUT * 2, endpoint.connect()).await {
        Ok(connected) => connected.map_err(|e| advised(causes(&e))),
        Err(_) => Err(format!("not connected within {:?}", CONNECT_TIMEOUT * 2)),
    }
}

/// The address that this host uses towards the aggregator. No packet is sent for it.
async fn local_address(address: &Address) -> Option<IpAddr> {
    let far = tokio::net::lookup_host((address.host.as_str(), address.port)).await.ok()?.next()?;
    let own: SocketAddr = if far.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = tokio::net::UdpSocket::bind(own).await.ok()?;
    socket.connect(far).await.ok()?;
    socket.local_addr().ok().map(|a| a.ip())
}

fn shown(status: &tonic::Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

/// Why no stream was opened. In TLS 1.3 a refused certificate shows only now, and whether as an
/// alert, a broken pipe or an end is chance: one text for all of them, so that it is told once.
fn unanswered(status: &tonic::Status, credentials: &Credentials) -> String {
    let by_connection = std::error::Error::source(status).is_some();
    if credentials.tls.is_none() || !by_connection {
        return shown(status);
    }
    tracing::debug!("closed unanswered: {}", causes(status));
    "the aggregator closed the connection before it answered; if this goes on, it does not accept this host's \
     certificate: it has ended, or tls.cert and tls.key are not from the same `medevac-aggregator init` as its own \
     ca.pem; `medevac-agent join --force` with a new token gets others. Its log names the reason beside MDV-PEER-REFUSED"
        .to_owned()
}

/// The text of a failed handshake, with what to do about it.
pub(crate) fn advised(text: String) -> String {
    let advice = if text.contains("not valid for name") {
        "the aggregator's certificate lacks the address that `aggregators` names: use one that it has, or make it anew \
         with `medevac-aggregator init --address`"
    } else if text.contains("Expired") || text.contains("NotValidYet") || text.contains("expired") {
        "look at the clocks of both machines, then at the dates of the certificates"
    } else if text.contains("invalid peer certificate") {
        "tls.ca is not the authority that signed the aggregator's certificate: copy ca.pem from the `medevac-aggregator \
         init` that made it"
    } else if text.contains("KeyMismatch") {
        "tls.key is not the key of tls.cert: copy both again, hosts/NAME.pem and hosts/NAME.key"
    } else {
        return text;
    };
    format!("{text}; {advice}")
}

/// An error with everything that caused it: the transport's own text says next to nothing.
pub(crate) fn causes(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(e) = cause {
        let more = e.to_string();
        // Some errors repeat the one that caused them.
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = e.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_handshake_says_what_to_do() {
        for (text, advice) in [
            ("invalid peer certificate: UnknownIssuer", "copy ca.pem"),
            ("invalid peer certificate: BadSignature", "copy ca.pem"),
            ("invalid peer certificate: certificate not valid for name \"10.0.0.2\"", "--address"),
            ("invalid peer certificate: Expired", "clocks"),
            ("keys may not be consistent: KeyMismatch", "copy both again"),
        ] {
            let said = advised(format!("transport error: {text}"));
            assert!(said.contains(text) && said.contains(advice), "{said}");
        }
        assert_eq!(advised("connection refused".into()), "connection refused");
    }
}
