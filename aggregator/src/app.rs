//! Puts everything together; nothing decides here.
//!
//! ```text
//!   tokio, 2 threads: listener - sessions - API - probes - fence agents
//!          |  bounded inbox                ^
//!          v                               | frames, replies
//!   own thread: engine.turn -> commit ->---+
//! ```

use crate::alert::{Couriers, Trials};
use crate::cli::TestArgs;
use crate::clock::BootClock;
use crate::cloud::libvirt::{Carrier, LibvirtCloud};
use crate::cloud::openstack::{Names, OpenstackCloud};
use crate::config::{Config, Read};
use crate::desk::{Desk, DeskReplies};
use crate::engine::{Engine, Input, Ports};
use crate::fence::AgentFencer;
use crate::grpc::registry::{Inbox, Registry, SessionAgents, Shared};
use crate::grpc::service::NerveService;
use crate::http::identity::Identities;
use crate::http::{self, Api, socket};
use crate::keeper::Keeper;
use crate::lease::SoloLease;
use crate::listen::{self, TlsError};
use crate::look::OwnEyes;
use crate::metrics::{Meter, MeteredCloud, MeteredReplies, MeteredStore, Scrape};
use crate::ports::{Clock, ProbeKeys, Store, StoreError};
use crate::pulse::Pulse;
use crate::reload::{Reloader, Tools};
use crate::store::sqlite::{OpenError, Opened, Opening, SqliteStore};
use crate::swap::Swap;
use medevac_metrics::Live;
use medevac_openstack::Nova;
use medevac_proto::session::aggregator_frame::Body;
use medevac_triage::{CloudKind, Observation, Record, SessionId};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::transport::Server;

/// What waits for the loop: a few seconds of a large site's heartbeats. When
/// it is full, sessions wait and TCP pushes back to the agents.
const INBOX_MAX: usize = 8192;
/// What one turn takes at once: one commit for all of it.
const TURN_MAX: usize = 4096;
/// The loop turns at least this often: deadlines run on CLOCK_BOOTTIME, which a
/// suspended machine's timers do not.
const TURN_AT_LEAST: Duration = Duration::from_millis(500);
/// A deadline that has passed but stays does not make the loop spin.
const TURN_AT_MOST: Duration = Duration::from_millis(2);
/// HTTP/2 asks a silent peer after 10 s and gives up after 10 s more: below 30 s in sum.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Far below any sensible WatchdogSec; a busy loop turns hundreds of times a second.
const FEED_EVERY: Duration = Duration::from_secs(1);
/// What those without a certificate get: one question, a small one, and its answer.
const STRANGERS_ANSWER: Duration = Duration::from_secs(8);
const STRANGERS_STREAMS: u32 = 2;
const STRANGERS_HEADERS: u32 = 8 * 1024;
/// Time for sessions to end in order when we stop.
const FAREWELL: Duration = Duration::from_millis(500);

/// Why the aggregator does not run, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("the store failed, so this process ends; the next start reads the truth")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{what}: {source}")]
    Io {
        what: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{0}")]
    Machine(String),
    #[error("the listener ended: {0}")]
    Listener(String),
    #[error("{0}: no such guard")]
    Guard(String),
    #[error("the credentials for OpenStack: {0}")]
    Credentials(#[from] medevac_openstack::CredentialsProblem),
    #[error("TLS to OpenStack: {0}")]
    OpenstackTls(#[from] medevac_openstack::TlsProblem),
}

fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> RunError {
    move |source| RunError::Io { what: what.into(), source }
}

/// Reads the identity of this machine.
///
/// # Errors
/// When the file is missing or empty.
pub fn machine_identity(path: &Path) -> Result<String, RunError> {
    let text = std::fs::read_to_string(path).map_err(io(format!("machine_identity {}", path.display())))?;
    match text.trim() {
        "" => Err(RunError::Machine(format!(
            "machine_identity {} is empty: run systemd-machine-id-setup",
            path.display()
        ))),
        identity => Ok(identity.to_owned()),
    }
}

/// Runs until it is told to stop.
///
/// # Errors
/// Whatever keeps it from starting, and a store that fails.
pub fn run(path: &Path, read: Read, tests: &TestArgs) -> Result<(), RunError> {
    let Read { mut config, given } = read;
    prepare_tests(&mut config, tests)?;
    for warning in &config.warnings {
        tracing::warn!(code = "MDV-CONFIG", "{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(io("the runtime did not start"))?;
    let result = runtime.block_on(async {
        let running = start(&config).await?;
        running.heed_hangups(path, Read { config, given })?;
        running.until_stopped().await
    });
    // Probes and fence agents under way end with us; nothing waits for them.
    runtime.shutdown_timeout(FAREWELL);
    result
}

#[cfg_attr(not(any(feature = "removable-guards", feature = "crash-points")), allow(unused_variables))]
fn prepare_tests(config: &mut Config, tests: &TestArgs) -> Result<(), RunError> {
    #[cfg(feature = "removable-guards")]
    if let Some(names) = &tests.without_guards {
        config.settings.guards = medevac_triage::Guards::without(names).map_err(RunError::Guard)?;
        tracing::warn!(code = "MDV-GUARDS-REMOVED", "this is a test: guards are off: {names}");
    }
    #[cfg(feature = "crash-points")]
    if let Some(plan) = &tests.crash_at {
        crate::crash::plan(plan);
    }
    Ok(())
}

/// A running aggregator.
#[allow(missing_debug_implementations)]
pub struct Running {
    pub registry: Arc<Registry>,
    /// Where agents and operators connect.
    pub address: std::net::SocketAddr,
    inbox: Inbox,
    tools: Tools,
    ended: tokio::sync::oneshot::Receiver<Result<(), StoreError>>,
    socket: PathBuf,
}

/// Starts everything, listening last.
///
/// # Errors
/// Whatever keeps it from starting.
pub async fn start(config: &Config) -> Result<Running, RunError> {
    let machine = machine_identity(&config.machine_identity)?;
    let fence_deadline = config.longest_fence();
    let opening = Opening { state_dir: config.state_dir.clone(), machine, fence_deadline };
    let (mut store, opened) = SqliteStore::open(&opening)?;
    let tls = config.tls.clone().map(Keeper::new).transpose()?;
    tracing::info!(code = "MDV-START", site = %opened.site, epoch = opened.epoch.number, "the store is ours");
    let (inbox, arrived) = mpsc::channel(INBOX_MAX);
    let runtime = tokio::runtime::Handle::current();
    let desk = Arc::new(Desk::default());
    let shared = Shared {
        site: opened.site.clone(),
        epoch: opened.epoch.clone(),
        plaintext: config.tls.is_none(),
        sight: Swap::new(config.sight()),
        desk: Arc::clone(&desk),
    };
    let registry = Registry::new(shared, &opened.secret, inbox.clone(), runtime.clone());
    remember(&mut store, &registry)?;
    let mut live = Live::default();
    medevac_metrics::lines_of(&mut live);
    let meter = Arc::new(Meter::new(&mut live));
    let fencer = fencer(config, &opened, &inbox);
    let couriers = Couriers::start(&config.receivers, &opened.site, &inbox, &runtime);
    let trials = Arc::new(Trials::new(&config.receivers, &opened.site));
    let tools = Tools {
        devices: fencer.configured(),
        sight: Arc::clone(&registry.shared.sight),
        couriers: couriers.clone(),
        trials: Arc::clone(&trials),
    };
    let ports = metered(ports(config, store, &opened, &registry, (fencer, couriers), (&inbox, &desk))?, &meter);
    let engine = Engine::start(config.settings.clone(), ports)?;
    let listener = TcpListener::bind(config.listen).await.map_err(io(format!("listen {}", config.listen)))?;
    let address = listener.local_addr().map_err(io("listen"))?;
    let group = socket::group_id(&config.identity.socket_group);
    let bound = bind_socket(&config.socket, group)?;
    let identity = Arc::new(Identities::new(registry.doors(), config.tls.clone(), config.identity.lifetime));
    let epoch = opened.epoch.number;
    let pulse = Arc::new(Pulse::new(opened.epoch, BootClock.now().wall, Arc::clone(&desk)));
    let counting = Counting { meter: Arc::clone(&meter), pulse: Arc::clone(&pulse) };
    let tls_files = config.tls.as_ref().map(measured);
    let scrape = Scrape {
        live,
        meter,
        registry: Arc::clone(&registry),
        inbox: inbox.clone(),
        pulse: Arc::clone(&pulse),
        tls: tls_files.clone(),
    };
    let (inbox_of, desk_of, site) = (inbox.clone(), Arc::clone(&desk), opened.site);
    let api = Api { inbox: inbox_of, desk: desk_of, receivers: trials, site, epoch, pulse, identity };
    let ended = spawn_loop(engine, arrived, desk, counting)?;
    tokio::spawn(medevac_metrics::serve(config.metrics.clone(), tls_files, Arc::new(scrape)));
    serve(listener, tls, Arc::clone(&registry), api.clone());
    tokio::spawn(socket::serve(bound, api, group));
    tracing::info!(code = "MDV-LISTENING", %address, socket = %config.socket.display(), "agents and operators are served");
    Ok(Running { registry, address, inbox, tools, ended, socket: config.socket.clone() })
}

/// The same ports, counting what goes through them.
fn metered(ports: Ports, meter: &Arc<Meter>) -> Ports {
    Ports {
        store: Box::new(MeteredStore::new(ports.store, Arc::clone(meter))),
        cloud: Box::new(MeteredCloud(ports.cloud, Arc::clone(meter))),
        replies: Box::new(MeteredReplies(ports.replies, Arc::clone(meter))),
        ..ports
    }
}

/// Files whose ends are measured, and with which the port of the metrics is served.
fn measured(files: &listen::TlsFiles) -> medevac_metrics::TlsFiles {
    let listen::TlsFiles { ca, cert, key, .. } = files.clone();
    medevac_metrics::TlsFiles { ca, cert, key }
}

/// What the loop counts as it turns.
struct Counting {
    meter: Arc<Meter>,
    pulse: Arc<Pulse>,
}

/// What the store knows of hosts, for those who are asked before they come back; and who is kept out.
fn remember(store: &mut SqliteStore, registry: &Registry) -> Result<(), StoreError> {
    for (_, record) in store.load()? {
        match record {
            Record::Host(host) => {
                if let Some(boot) = host.boots.last() {
                    registry.remember(host.id.clone(), boot.clone(), host.acked_seq);
                }
            }
            Record::Revoked(record) => registry.bar(record.bar()),
            Record::Barred(record) => registry.bar(record.bar()),
            _ => {}
        }
    }
    Ok(())
}

fn ports(
    config: &Config,
    store: SqliteStore,
    opened: &Opened,
    registry: &Arc<Registry>,
    (fencer, courier): (AgentFencer, Couriers),
    (inbox, desk): (&Inbox, &Arc<Desk>),
) -> Result<Ports, RunError> {
    let runtime = tokio::runtime::Handle::current();
    let keys: Arc<dyn ProbeKeys> = Arc::<Registry>::clone(registry);
    let looker = OwnEyes::new(keys, Arc::clone(&registry.shared.sight), inbox.clone(), runtime);
    Ok(Ports {
        clock: Box::new(BootClock),
        store: Box::new(store),
        lease: Box::new(SoloLease::new(opened.epoch.clone())),
        agents: Box::new(SessionAgents(Arc::clone(registry))),
        cloud: cloud(config, opened, registry, inbox)?,
        fencer: Box::new(fencer),
        looker: Box::new(looker),
        courier: Box::new(courier),
        replies: Box::new(DeskReplies(Arc::clone(desk))),
    })
}

fn fencer(config: &Config, opened: &Opened, inbox: &Inbox) -> AgentFencer {
    let runtime = tokio::runtime::Handle::current();
    AgentFencer::new(config.devices(), opened.earlier_fence_deadline, inbox.clone(), runtime)
}

/// What runs the instances.
fn cloud(
    config: &Config,
    opened: &Opened,
    registry: &Arc<Registry>,
    inbox: &Inbox,
) -> Result<Box<dyn crate::ports::Cloud>, RunError> {
    let carrier = Box::new(SessionCarrier(Arc::clone(registry)));
    let agents = LibvirtCloud::new(carrier, opened.site.clone(), opened.epoch.clone());
    if config.settings.cloud == CloudKind::Libvirt {
        return Ok(Box::new(agents));
    }
    let nova = Nova::new(config.openstack.credentials()?)?;
    let names = Names::new(config.openstack.hosts.clone());
    let runtime = tokio::runtime::Handle::current();
    Ok(Box::new(OpenstackCloud::new(agents, nova, names, inbox.clone(), runtime)))
}

/// The cloud's orders travel over the agents' sessions.
struct SessionCarrier(Arc<Registry>);

impl Carrier for SessionCarrier {
    fn not_after(&self, session: &SessionId, deadline: Duration) -> Option<u64> {
        self.0.not_after(session, deadline)
    }
    fn send(&self, session: &SessionId, body: Body) -> bool {
        self.0.send(session, body)
    }
    fn report(&self, observation: Observation) {
        self.0.report(observation);
    }
}

/// For root alone, or for a group, too.
fn bind_socket(path: &Path, group: Option<u32>) -> Result<UnixListener, RunError> {
    let what = || format!("socket {}", path.display());
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(io(what()))?;
    }
    // The store is locked: whoever left this socket is gone.
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).map_err(io(what()))?;
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    if group.is_some() {
        std::os::unix::fs::chown(path, None, group).map_err(io(what()))?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(io(what()))?;
    Ok(listener)
}

/// Serves agents and people on one port until the process ends; strangers at a counter of their own.
pub fn serve(listener: TcpListener, tls: Option<Arc<Keeper>>, registry: Arc<Registry>, api: Api) {
    if let Some(keeper) = &tls {
        tokio::spawn(Arc::clone(keeper).keep());
    }
    let (connections, strangers) = listen::accept(listener, tls, registry.doors());
    serve_strangers(strangers, api.clone());
    let connections = ReceiverStream::new(connections);
    let routes = http::over_tls(api);
    let routes = Routes::from(routes).add_service(NerveService::server(registry));
    let server = Server::builder()
        .accept_http1(true)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_routes(routes);
    tokio::spawn(async move {
        if let Err(error) = server.serve_with_incoming(connections).await {
            tracing::error!(code = "MDV-LISTENER", "the listener ended: {error}");
        }
    });
}

/// One small route; whoever is here has shown nothing.
fn serve_strangers(strangers: listen::Arrivals, api: Api) {
    let server = Server::builder()
        .accept_http1(true)
        .timeout(STRANGERS_ANSWER)
        .max_concurrent_streams(STRANGERS_STREAMS)
        .http2_max_header_list_size(STRANGERS_HEADERS)
        .add_routes(Routes::from(http::for_strangers(api)));
    tokio::spawn(async move {
        if let Err(error) = server.serve_with_incoming(ReceiverStream::new(strangers)).await {
            tracing::error!(code = "MDV-LISTENER", "nobody can join any more: {error}");
        }
    });
}

/// The loop on its own thread: a slow disk stalls it, and never the sessions' sockets.
fn spawn_loop(
    engine: Engine,
    arrived: mpsc::Receiver<Input>,
    desk: Arc<Desk>,
    counting: Counting,
) -> Result<tokio::sync::oneshot::Receiver<Result<(), StoreError>>, RunError> {
    let (end, ended) = tokio::sync::oneshot::channel();
    let timers =
        tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(io("the loop's timers"))?;
    let body = move || drop(end.send(timers.block_on(turn_until_stopped(engine, arrived, &desk, &counting))));
    std::thread::Builder::new().name("loop".into()).spawn(body).map_err(io("the loop's thread"))?;
    Ok(ended)
}

async fn turn_until_stopped(
    mut engine: Engine,
    mut arrived: mpsc::Receiver<Input>,
    desk: &Desk,
    counting: &Counting,
) -> Result<(), StoreError> {
    let mut inputs = Vec::with_capacity(TURN_MAX);
    let mut watchdog = Watchdog::default();
    loop {
        let due = engine.poll_timeout();
        let until = due.map(|at| at.since(engine.now().at));
        let wait = until.unwrap_or(TURN_AT_LEAST).clamp(TURN_AT_MOST, TURN_AT_LEAST);
        match tokio::time::timeout(wait, arrived.recv_many(&mut inputs, TURN_MAX)).await {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(_) => inputs.push(Input::Seen(Observation::TimePassed)),
        }
        let stop = inputs.iter().any(|input| matches!(input, Input::Stop));
        let begun = Instant::now();
        // One that only shows has nothing to be late with.
        let late = due.filter(|_| engine.deposed().is_none()).map_or(Duration::ZERO, |at| engine.now().at.since(at));
        counting.meter.see(&inputs);
        engine.turn(std::mem::take(&mut inputs))?;
        counting.meter.late(late);
        counting.meter.turned(begun.elapsed());
        counting.pulse.turned();
        if let Some(why) = engine.deposed()
            && desk.deposed().is_none()
        {
            desk.depose(why);
        }
        watchdog.feed();
        if stop {
            return Ok(());
        }
    }
}

/// Fed by the loop itself: one that is stuck lets systemd end us.
#[derive(Default)]
struct Watchdog {
    fed: Option<Instant>,
}

impl Watchdog {
    fn feed(&mut self) {
        if self.fed.is_none_or(|fed| fed.elapsed() >= FEED_EVERY) {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
            self.fed = Some(Instant::now());
        }
    }
}

impl Running {
    /// Whoever reads the file again, and takes it to the loop.
    pub fn reloader(&self, path: &Path, read: Read) -> Reloader {
        Reloader::new(path.to_owned(), read, self.inbox.clone(), self.tools.clone())
    }

    /// SIGHUP, as from `systemctl reload`: the file is read again.
    fn heed_hangups(&self, path: &Path, read: Read) -> Result<(), RunError> {
        let mut hangups = signal(SignalKind::hangup()).map_err(io("SIGHUP"))?;
        let mut reloader = self.reloader(path, read);
        // One at a time: whatever comes meanwhile is one more, of the file as it is then.
        tokio::spawn(async move {
            while hangups.recv().await.is_some() {
                let _ = reloader.reload().await;
            }
        });
        Ok(())
    }

    /// Serves until SIGTERM, SIGINT or a failed store.
    ///
    /// # Errors
    /// A failed store.
    pub async fn until_stopped(self) -> Result<(), RunError> {
        let mut term = signal(SignalKind::terminate()).map_err(io("SIGTERM"))?;
        let mut int = signal(SignalKind::interrupt()).map_err(io("SIGINT"))?;
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        let Self { registry, inbox, mut ended, socket, .. } = self;
        tokio::select! {
            result = &mut ended => return over(result),
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        tracing::info!(code = "MDV-STOP", "stopping: hosts are not watched until the next start");
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        registry.close_all("the aggregator is stopping");
        tokio::time::sleep(FAREWELL).await;
        drop(inbox.send(Input::Stop).await);
        let result = over(ended.await);
        let _ = std::fs::remove_file(socket);
        result
    }

    /// Ends the loop at once, as tests do.
    pub async fn stop(self) -> Result<(), RunError> {
        drop(self.inbox.send(Input::Stop).await);
        over(self.ended.await)
    }
}

fn over(result: Result<Result<(), StoreError>, tokio::sync::oneshot::error::RecvError>) -> Result<(), RunError> {
    match result {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            tracing::error!(code = "MDV-STORE", "{error}");
            Err(RunError::Store(error))
        }
        Err(_) => Err(RunError::Listener("its loop has panicked; the log says where".into())),
    }
}
