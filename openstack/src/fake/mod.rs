//! A Keystone and a Nova in this process, on loopback, for tests.
//!
//! ```text
//!   client --HTTP--> Wire (cuts) --> faults --> State --> Keystone | Nova
//!                                                 |
//!                                                World: hosts, servers, evacuations
//! ```
//!
//! It answers as the real ones were seen to, above all where they are careless: a
//! second evacuate is accepted and breaks the server; a host that is dead and not yet
//! down blocks who disables it; `forced_down` is not lifted while evacuations are
//! `done`. The same contract tests run against it and against a real cloud.
//! It also keeps what no cloud tells: how often each server was told to be evacuated,
//! and which ones ever ran twice.

mod clock;
mod faults;
mod identity;
mod listen;
mod render;
mod routes;
mod state;
mod world;

pub use faults::{Fault, What};
pub use world::Timing;

use crate::credentials::{Credentials, Domain, Project, User};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request};
use axum::response::Response;
use clock::Clock;
use listen::{Line, Wire};
use medevac_settings::Secret;
use state::{Asked, State};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use world::{Agg, Group, Host, Srv, World};

/// The user that [`Fake::credentials`] is.
pub const USER: &str = "u-medevac";

const PROJECT: &str = "p-service";
const PASSWORD: &str = "secret";

/// Longer than any request that medevac sends.
const MAX_REQUEST: usize = 1024 * 1024;

/// What kind of cloud it is.
#[derive(Clone, Debug)]
pub struct Options {
    pub timing: Timing,
    /// Oldest and newest microversion, their minor parts.
    pub minors: (u16, u16),
    /// The most that is on one page.
    pub page: usize,
    /// The regions that have a compute service.
    pub regions: Vec<String>,
    /// Whether there is a Glance.
    pub glance: bool,
    /// Time stands still but for [`Fake::advance`].
    pub manual_clock: bool,
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timing: Timing::default(),
            minors: (1, 93),
            page: 1000,
            regions: vec!["RegionOne".into()],
            glance: true,
            manual_clock: false,
            tls: None,
        }
    }
}

/// A server to put into the cloud.
#[derive(Clone, Debug, Default)]
pub struct FakeServer {
    pub name: String,
    pub host: String,
    /// Empty: `active`.
    pub vm_state: String,
    pub task_state: Option<String>,
    pub metadata: BTreeMap<String, String>,
    pub flavor: String,
    pub extra_specs: BTreeMap<String, String>,
    /// The image's id; empty: one that Glance does not have.
    pub image: String,
    pub project: String,
    pub from_volume: bool,
    pub locked: bool,
    pub pinned_zone: Option<String>,
}

impl FakeServer {
    pub fn on(host: &str) -> Self {
        Self { host: host.to_owned(), ..Self::default() }
    }
}

/// A request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub method: String,
    /// With its query.
    pub path: String,
    pub body: String,
    /// Without `compute `.
    pub version: Option<String>,
    /// The id that the client gave it.
    pub sent_as: Option<String>,
    /// By the fake's clock, which began at its start.
    pub at: Duration,
}

/// The running fake. It ends when this is dropped.
#[derive(Debug)]
pub struct Fake {
    shared: Arc<Shared>,
    base: String,
    server: tokio::task::JoinHandle<()>,
}

struct Shared {
    state: Mutex<State>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Fake {
    /// # Errors
    /// No port on loopback.
    pub async fn start(options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let scheme = if options.tls.is_some() { "https" } else { "http" };
        let base = format!("{scheme}://127.0.0.1:{}", listener.local_addr()?.port());
        let wire = Wire { listener, tls: options.tls.clone().map(TlsAcceptor::from) };
        let clock = if options.manual_clock { Clock::manual() } else { Clock::real() };
        let world = World::new(options.timing.clone());
        let state = State {
            options,
            clock,
            world,
            frozen: None,
            faults: Vec::new(),
            seen: std::collections::VecDeque::new(),
            evacuations: BTreeMap::new(),
            tokens: BTreeMap::new(),
            logins: 0,
            stopped: false,
            base: base.clone(),
        };
        let shared = Arc::new(Shared { state: Mutex::new(state) });
        let handler = {
            let shared = Arc::clone(&shared);
            // A task of its own: a client that gives up does not stop what it asked for.
            move |ConnectInfo(line): ConnectInfo<Line>, request: Request| {
                let served = tokio::spawn(serve(Arc::clone(&shared), line, request));
                async move { served.await.unwrap_or_default() }
            }
        };
        let app = Router::new().fallback(handler).into_make_service_with_connect_info::<Line>();
        let server = tokio::spawn(async move {
            let _ = axum::serve(wire, app).await;
        });
        Ok(Self { shared, base, server })
    }

    /// Keystone's address, for `auth_url`.
    pub fn auth_url(&self) -> String {
        format!("{}/identity", self.base)
    }

    /// Nova's address, as an endpoint override would name it.
    pub fn compute_url(&self) -> String {
        format!("{}/compute/v2.1", self.base)
    }

    /// An administrator's.
    ///
    /// # Panics
    /// Never: its own address is one.
    pub fn credentials(&self) -> Credentials {
        let domain = || Domain::Id("default".into());
        let user = User::Name { name: "medevac".into(), domain: domain() };
        let project = Project::Name { name: "service".into(), domain: domain() };
        let made = Credentials::with_password(&self.auth_url(), user, Secret::new(PASSWORD), project);
        made.expect("its own address is one")
    }

    /// The same as a file, for a program that reads one; the cloud is called "fake".
    pub fn clouds_yaml(&self) -> String {
        format!(
            "clouds:\n  fake:\n    region_name: {}\n    auth:\n      auth_url: {}\n      username: medevac\n      \
             password: {PASSWORD}\n      project_name: service\n      user_domain_id: default\n      \
             project_domain_id: default\n",
            self.shared.state().options.regions.first().map_or("RegionOne", String::as_str),
            self.auth_url(),
        )
    }

    /// Nobody answers any more, as if the machine had no such service.
    pub fn stop(&self) {
        self.shared.state().stopped = true;
        self.server.abort();
    }

    fn change<T>(&self, change: impl FnOnce(&mut World, Duration) -> T) -> T {
        let mut state = self.shared.state();
        let now = state.now();
        state.world.settle(now);
        change(&mut state.world, now)
    }

    // What is in the cloud.

    /// A hypervisor with its nova-compute; its `hypervisor_hostname` is the same.
    pub fn add_host(&self, name: &str) {
        self.add_host_as(name, name, "nova");
    }

    pub fn add_host_as(&self, name: &str, hypervisor_hostname: &str, zone: &str) {
        self.change(|world, _| {
            world.hosts.push(Host {
                name: name.to_owned(),
                service: id("8000", world.hosts.len() + 1),
                node: hypervisor_hostname.to_owned(),
                zone: zone.to_owned(),
                dead_since: None,
                forced_down: false,
                disabled: false,
                reason: None,
                cleans_at: None,
            });
        });
    }

    /// Its id.
    pub fn add_server(&self, server: FakeServer) -> String {
        self.change(|world, now| {
            let number = world.servers.len() + 1;
            let id = id("b000", number);
            let or = |text: String, other: &str| if text.is_empty() { other.to_owned() } else { text };
            let vm_state = or(server.vm_state, "active");
            if vm_state == "active" {
                world.run(&server.host, &id);
            }
            world.servers.push(Srv {
                name: or(server.name, &format!("server-{number}")),
                number,
                host: server.host,
                vm_state,
                task: server.task_state,
                metadata: server.metadata,
                project: or(server.project, "p-tenant"),
                flavor: or(server.flavor, "tiny"),
                extra_specs: server.extra_specs,
                image: or(server.image, "11111111-0000-4000-8000-000000000001"),
                from_volume: server.from_volume,
                locked: server.locked.then(String::new),
                pinned: server.pinned_zone,
                created: now,
                updated: now,
                id: id.clone(),
            });
            id
        })
    }

    pub fn delete_server(&self, id: &str) {
        self.change(|world, _| {
            world.servers.retain(|server| server.id != id);
            world.running.retain(|(server, _)| server != id);
            // Its records go with it.
            world.moves.retain(|record| record.server != id);
        });
    }

    pub fn set_server_state(&self, id: &str, vm_state: &str, task_state: Option<&str>) {
        self.change(|world, _| {
            if let Some(server) = world.server_mut(id) {
                server.vm_state = vm_state.to_owned();
                server.task = task_state.map(str::to_owned);
            }
        });
    }

    /// Its id.
    pub fn add_aggregate(&self, name: &str, zone: Option<&str>, hosts: &[&str]) -> i64 {
        self.change(|world, _| {
            let id = i64::try_from(world.aggregates.len()).unwrap_or(i64::MAX - 1) + 1;
            let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
            let (name, zone) = (name.to_owned(), zone.map(str::to_owned));
            world.aggregates.push(Agg { id, name, zone, hosts, metadata: BTreeMap::new() });
            id
        })
    }

    /// A mark on an aggregate, beside the zone that Nova keeps there itself.
    pub fn mark_aggregate(&self, id: i64, key: &str, value: &str) {
        self.change(|world, _| {
            for one in world.aggregates.iter_mut().filter(|one| one.id == id) {
                one.metadata.insert(key.to_owned(), value.to_owned());
            }
        });
    }

    /// Its id. `properties` are what people write on it.
    pub fn add_image(&self, name: &str, visibility: &str, properties: &[(&str, &str)]) -> String {
        self.change(|world, _| {
            let id = id("d000", world.images.len() + 1);
            let mut image = serde_json::json!({"id": id, "name": name, "visibility": visibility, "status": "active",
                                               "protected": false, "tags": [], "min_disk": 0, "owner": PROJECT});
            for (key, value) in properties {
                image[*key] = serde_json::json!(value);
            }
            world.images.insert(id.clone(), image);
            id
        })
    }

    pub fn add_server_group(&self, name: &str, policy: &str, members: &[&str]) {
        self.change(|world, _| {
            world.groups.push(Group {
                id: id("c000", world.groups.len() + 1),
                name: name.to_owned(),
                policy: policy.to_owned(),
                members: members.iter().map(|member| (*member).to_owned()).collect(),
                project: "p-tenant".into(),
            });
        });
    }

    // What happens to it.

    /// The host loses its power: nova-compute and every guest are gone.
    pub fn crash(&self, host: &str) {
        self.change(|world, now| {
            world.running.retain(|(_, at)| at != host);
            if let Some(host) = world.host_mut(host) {
                host.dead_since.get_or_insert(now);
                host.cleans_at = None;
            }
        });
    }

    /// Only nova-compute ends; the guests run on.
    pub fn stop_compute(&self, host: &str) {
        self.change(|world, now| {
            if let Some(host) = world.host_mut(host) {
                host.dead_since.get_or_insert(now);
                host.cleans_at = None;
            }
        });
    }

    /// nova-compute starts, and after a while removes what was evacuated from here.
    pub fn start_compute(&self, host: &str) {
        self.change(|world, now| {
            let cleans_at = now + world.timing.cleanup;
            if let Some(host) = world.host_mut(host) {
                host.dead_since = None;
                host.cleans_at = Some(cleans_at);
            }
        });
    }

    /// The message queue dies with the evacuations that lie in it.
    pub fn lose_requests(&self) {
        self.change(|world, _| world.lose_requests());
    }

    /// A guest runs there, whatever Nova thinks: a host that resumes its guests at boot.
    pub fn resume_guest(&self, host: &str, server: &str) {
        self.change(|world, _| world.run(host, server));
    }

    /// Moves the manual clock.
    pub fn advance(&self, by: Duration) {
        self.shared.state().clock.advance(by);
        self.change(|_, _| ());
    }

    /// Tokens given out so far are no longer known.
    pub fn forget_tokens(&self) {
        self.shared.state().tokens.clear();
    }

    /// Another version of Nova from now on.
    pub fn serve_minors(&self, least: u16, most: u16) {
        self.shared.state().options.minors = (least, most);
    }

    /// Reads show what is now, until thawed; writes take effect unseen.
    pub fn freeze_reads(&self) {
        let mut state = self.shared.state();
        let now = state.now();
        state.world.settle(now);
        state.frozen = Some(state.world.clone());
    }

    pub fn thaw_reads(&self) {
        self.shared.state().frozen = None;
    }

    pub fn add_fault(&self, fault: Fault) {
        self.shared.state().faults.push(fault);
    }

    pub fn clear_faults(&self) {
        self.shared.state().faults.clear();
    }

    // What came of it.

    pub fn logins(&self) -> usize {
        self.shared.state().logins
    }

    /// The latest twenty thousand requests, oldest first.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.state().seen.iter().cloned().collect()
    }

    /// How often it was told to evacuate that server, whatever came of it.
    pub fn evacuate_posts(&self, server: &str) -> usize {
        self.shared.state().evacuations.get(server).copied().unwrap_or(0)
    }

    /// The hosts on which a server really runs.
    pub fn copies(&self, server: &str) -> Vec<String> {
        self.change(|world, _| {
            world.running.iter().filter(|(id, _)| id == server).map(|(_, host)| host.clone()).collect()
        })
    }

    /// Servers that at some time ran on two hosts.
    pub fn ever_doubled(&self) -> Vec<String> {
        self.change(|world, _| world.doubled.iter().cloned().collect())
    }
}

fn id(kind: &str, number: usize) -> String {
    format!("00000000-0000-4000-{kind}-{number:012}")
}

async fn serve(shared: Arc<Shared>, line: Line, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, MAX_REQUEST).await.unwrap_or_default();
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let query = parts.uri.query().unwrap_or_default();
    let pairs = reqwest::Url::parse(&format!("http://fake/?{query}"));
    let pairs = pairs.map(|url| url.query_pairs().into_owned().collect()).unwrap_or_default();
    let mut asked = Asked {
        method: parts.method.to_string(),
        path: parts.uri.path().split('/').skip(1).map(str::to_owned).collect(),
        query: pairs,
        text: String::from_utf8_lossy(&body).into_owned(),
        token: header("x-auth-token"),
        version: header("openstack-api-version"),
        request_id: crate::transport::new_id(),
    };
    let whole = parts.uri.path_and_query().map(|path| path.as_str().to_owned()).unwrap_or_default();
    let fault = {
        let mut state = shared.state();
        // Bodies of logins hold the password; nobody needs them.
        let text = if whole.contains("auth/tokens") { String::new() } else { asked.text.clone() };
        let version = asked.version.as_deref().map(|text| text.trim_start_matches("compute ").to_owned());
        let (method, sent_as) = (asked.method.clone(), header("x-openstack-request-id"));
        let at = state.now();
        state.remember(Seen { method, path: whole.clone(), body: text, version, sent_as, at });
        faults::take(&mut state.faults, &asked.method, &whole, &asked.text)
    };
    if let Some(What::DelayBefore(delay)) = &fault {
        tokio::time::sleep(*delay).await;
    }
    let reply = shared.state().answer(&mut asked, fault.as_ref());
    let after = if let Some(What::DelayAfter(delay)) = &fault { *delay } else { Duration::ZERO };
    tokio::time::sleep(after + reply.wait.unwrap_or_default()).await;
    match fault {
        _ if shared.state().stopped => line.cut_after(0),
        Some(What::CutBefore | What::CutAfter) => line.cut_after(0),
        // Behind the headers, before the end.
        Some(What::CutWithin) => line.cut_after(220 + reply.body.len() / 2),
        _ => {}
    }
    let mut response = Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        response = response.header(*name, value);
    }
    let response = response.header("x-openstack-request-id", &asked.request_id).body(Body::from(reply.body));
    response.expect("every header here is plain text")
}
