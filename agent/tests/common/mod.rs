//! An aggregator of a few lines, and the real agent as a child process.
#![allow(dead_code)] // Each test file uses its part.

use medevac_proto::session::nerve_server::{Nerve, NerveServer};
use medevac_proto::session::{
    AgentFrame, AggregatorFrame, Epoch, Fact, Hello, InventoryAsk, Welcome, agent_frame::Body, aggregator_frame,
};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

pub const SITE: &str = "site-1";
/// Everything in these tests happens well within this, also on a busy machine.
pub const SOON: Duration = Duration::from_secs(15);

/// One stream of an agent, seen from the aggregator.
pub struct Session {
    pub frames: mpsc::Receiver<Body>,
    pub to: mpsc::Sender<Result<AggregatorFrame, Status>>,
}

struct Server {
    sessions: mpsc::Sender<Session>,
}

#[tonic::async_trait]
impl Nerve for Server {
    type SessionStream = ReceiverStream<Result<AggregatorFrame, Status>>;

    async fn session(&self, request: Request<Streaming<AgentFrame>>) -> Result<Response<Self::SessionStream>, Status> {
        let mut inbound = request.into_inner();
        // Bounds: more than any of these tests lets wait.
        let (frames_tx, frames) = mpsc::channel(1024);
        let (to, outbound) = mpsc::channel(64);
        tokio::spawn(async move {
            while let Ok(Some(frame)) = inbound.message().await {
                if let Some(body) = frame.body
                    && frames_tx.send(body).await.is_err()
                {
                    return;
                }
            }
        });
        let _ = self.sessions.send(Session { frames, to }).await;
        Ok(Response::new(ReceiverStream::new(outbound)))
    }
}

/// An aggregator that listens on loopback.
pub struct Aggregator {
    pub port: u16,
    pub sessions: mpsc::Receiver<Session>,
}

impl Aggregator {
    pub async fn start() -> Aggregator {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sessions_tx, sessions) = mpsc::channel(16);
        let service = NerveServer::new(Server { sessions: sessions_tx });
        let serve = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serve);
        Aggregator { port, sessions }
    }

    /// The next stream, its hello read.
    pub async fn hello(&mut self) -> (Session, Hello) {
        let mut session = tokio::time::timeout(SOON, self.sessions.recv()).await.expect("a session").unwrap();
        match session.next(|_| true).await {
            Body::Hello(hello) => (session, hello),
            other => panic!("not a hello: {other:?}"),
        }
    }

    /// The next stream, welcomed by a decider.
    pub async fn welcomed(&mut self, epoch: u64) -> (Session, Hello) {
        let (session, hello) = self.hello().await;
        session.send(welcome(epoch, true)).await;
        (session, hello)
    }
}

pub fn welcome(number: u64, decider: bool) -> aggregator_frame::Body {
    aggregator_frame::Body::Welcome(Welcome {
        site: SITE.into(),
        epoch: Some(Epoch { number, start_id: format!("start-{number}") }),
        protocol: 1,
        decider,
        probe_key: vec![7; 32],
        heartbeat_ms: 200,
        acked_seq: 0,
    })
}

impl Session {
    pub async fn send(&self, body: aggregator_frame::Body) {
        self.to.send(Ok(AggregatorFrame { body: Some(body) })).await.unwrap();
    }

    /// The next frame that is wanted; others are skipped.
    pub async fn next(&mut self, wanted: impl Fn(&Body) -> bool) -> Body {
        let search = async {
            loop {
                let body = self.frames.recv().await.expect("the stream ended");
                if wanted(&body) {
                    return body;
                }
            }
        };
        tokio::time::timeout(SOON, search).await.expect("the frame did not come")
    }

    pub async fn fact(&mut self, wanted: impl Fn(&Fact) -> bool) -> Fact {
        match self.next(|b| matches!(b, Body::Fact(f) if wanted(f))).await {
            Body::Fact(fact) => fact,
            _ => unreachable!("a fact was asked for"),
        }
    }

    /// Waits until the agent has taken in everything sent before.
    pub async fn settled(&mut self) {
        let ask = InventoryAsk { ask: 4711 };
        self.send(aggregator_frame::Body::InventoryAsk(ask)).await;
        self.next(|b| matches!(b, Body::Inventory(i) if i.ask == 4711)).await;
    }

    /// Waits for the agent to end the stream.
    pub async fn ended(&mut self) {
        let end = async { while self.frames.recv().await.is_some() {} };
        tokio::time::timeout(SOON, end).await.expect("the stream goes on");
    }
}

/// The agent's binary, running.
pub struct Agent {
    child: Child,
}

impl Agent {
    pub fn start(dir: &Path, ports: &[u16], responder_port: u16) -> Agent {
        let list: Vec<String> = ports.iter().map(|p| format!("\"http://127.0.0.1:{p}\"")).collect();
        let text = format!(
            "aggregators = [{}]\nhost = \"hv1\"\ninsecure_plaintext = true\nstate_dir = {:?}\n\
             machine_identity = {:?}\n[libvirt]\nuri = \"test:///default\"\n[responder]\nport = {responder_port}\n\
             [planes]\nmgmt = \"127.77.1.1\"\n",
            list.join(", "),
            dir.join("state").display().to_string(),
            dir.join("machine-id").display().to_string(),
        );
        std::fs::write(dir.join("machine-id"), "0123456789abcdef\n").unwrap();
        std::fs::write(dir.join("agent.toml"), text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_medevac-agent"));
        command
            .arg("--config")
            .arg(dir.join("agent.toml"))
            .env("MEDEVAC_LOG", "debug,h2=info,hyper_util=info,tower=info");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("log")).unwrap();
        Agent { child: command.stdout(Stdio::null()).stderr(log).spawn().unwrap() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGTERM, and its end.
    pub fn terminate(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap();
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process that looks like QEMU from outside.
pub struct Qemu {
    pub uuid: String,
    child: Child,
}

impl Qemu {
    pub fn start() -> Qemu {
        let uuid = uuid::Uuid::new_v4().to_string();
        let mut command = Command::new("sh");
        // The shell sleeps by itself: nothing is left behind when it is killed.
        command.arg0("qemu-system-x86_64").args(["-c", "read line", "-uuid", &uuid]).stdin(Stdio::piped());
        let child = command.spawn().unwrap();
        // Arguments show a moment after the spawn returns.
        let shows = || std::fs::read_to_string(format!("/proc/{}/cmdline", child.id())).unwrap().contains(&uuid);
        while !shows() {}
        Qemu { child, uuid }
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `medevac-agent release`: what it prints.
pub fn release(dir: &Path, reason: &str) -> String {
    typed(dir, &["release", "--reason", reason]).1
}

/// What somebody types beside the running agent: its exit code, and all that it prints.
pub fn typed(dir: &Path, words: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_medevac-agent"));
    let output = command.arg("--config").arg(dir.join("agent.toml")).args(words).output().unwrap();
    let printed = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (output.status.code().unwrap(), printed.concat())
}
