//! A fake agent: speaks the session over real mutual TLS on loopback.

#![allow(dead_code, clippy::unwrap_used, unreachable_pub)]

pub mod world;

use medevac_aggregator::init::{Wanted, init};
use medevac_aggregator::listen::TlsFiles;
use medevac_proto::session::agent_frame::Body;
use medevac_proto::session::aggregator_frame::Body as Told;
use medevac_proto::session::nerve_client::NerveClient;
use medevac_proto::session::{AgentFrame, AggregatorFrame, Heartbeat, Hello, Instance, Inventory};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

pub const GUEST: &str = "7a3f0cb2-0000-4000-8000-000000000001";

/// Certificates for a site of three hosts.
pub fn certificates(dir: &Path) -> TlsFiles {
    let hosts = ["hv1", "hv2", "hv3"].map(str::to_owned).to_vec();
    init(&Wanted { dir: dir.to_owned(), hosts, ..Wanted::default() }).unwrap();
    TlsFiles::in_dir(dir)
}

/// A channel with a certificate: `hosts/hv1`, `operator`.
pub async fn channel(dir: &Path, who: &str, address: SocketAddr) -> Result<Channel, tonic::transport::Error> {
    let read = |file: String| std::fs::read(dir.join(file)).unwrap();
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read("ca.pem".into())))
        .identity(Identity::from_pem(read(format!("{who}.pem")), read(format!("{who}.key"))))
        .domain_name("localhost");
    Endpoint::from_shared(format!("https://{address}")).unwrap().tls_config(tls)?.connect().await
}

/// What hv1 says first.
pub fn hello(boot: &str) -> Hello {
    Hello {
        protocol: 1,
        machine_id: format!("machine-of-{boot}"),
        boot_id: boot.into(),
        uptime_ms: 3_600_000,
        planes: [("mgmt".to_owned(), "127.0.0.1".to_owned())].into(),
        inventory: Some(inventory(1)),
        memory_total_kib: 1 << 24,
        memory_available_kib: 1 << 23,
        sent_boot_ms: 3_600_000,
        next_seq: 1,
        ..Hello::default()
    }
}

/// One running guest.
pub fn inventory(generation: u64) -> Inventory {
    let guest = Instance {
        uuid: GUEST.into(),
        name: "web".into(),
        state: 1,
        libvirt_knows: true,
        process_alive: true,
        persistent: true,
        memory_kib: 262_144,
        ..Instance::default()
    };
    Inventory { generation, digest: generation, instances: vec![guest], libvirt_answered: true, ..Inventory::default() }
}

/// One session of a fake agent.
pub struct Agent {
    pub channel: Channel,
    pub frames: Option<mpsc::Sender<AgentFrame>>,
    pub told: Streaming<AggregatorFrame>,
}

impl Agent {
    /// Opens a stream whose first frame is `first`.
    pub async fn open(channel: Channel, first: Body) -> Result<Self, tonic::Status> {
        let (frames, outgoing) = mpsc::channel(16);
        frames.send(AgentFrame { body: Some(first) }).await.unwrap();
        let mut client = NerveClient::new(channel.clone());
        let told = client.session(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Self { channel, frames: Some(frames), told })
    }

    pub async fn join(dir: &Path, host: &str, address: SocketAddr, hello: Hello) -> Self {
        let channel = channel(dir, &format!("hosts/{host}"), address).await.unwrap();
        Self::open(channel, Body::Hello(hello)).await.unwrap()
    }

    pub async fn say(&self, body: Body) {
        self.frames.as_ref().unwrap().send(AgentFrame { body: Some(body) }).await.unwrap();
    }

    pub async fn beat(&self, boot_ms: u64, digest: u64) {
        let beat = Heartbeat {
            boot_ms,
            digest,
            generation: digest,
            memory_available_kib: 1 << 23,
            libvirt_answers: true,
            ..Heartbeat::default()
        };
        self.say(Body::Heartbeat(beat)).await;
    }

    /// The next frame; `None` when the stream ended.
    pub async fn hear(&mut self) -> Option<Told> {
        let next = tokio::time::timeout(Duration::from_secs(30), self.told.message());
        next.await.expect("nothing was told within 30 s").ok().flatten().and_then(|frame| frame.body)
    }

    /// The next frame that `wanted` takes.
    pub async fn await_frame<T>(&mut self, wanted: impl Fn(Told) -> Option<T>) -> T {
        loop {
            let told = self.hear().await.expect("the stream ended");
            if let Some(found) = wanted(told) {
                return found;
            }
        }
    }

    /// The code of the refusal that must come next.
    pub async fn refused(&mut self) -> String {
        match self.hear().await {
            Some(Told::Refusal(refusal)) => {
                assert!(refusal.message.len() > 20, "says what to do: {}", refusal.message);
                refusal.code
            }
            other => panic!("no refusal but {other:?}"),
        }
    }
}
