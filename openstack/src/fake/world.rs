//! The fake's hosts, servers and evacuations, and the rules of real Nova.
//!
//! ```text
//!   POST evacuate -> rebuilding --schedule--> rebuild_spawning --take--> on the new host, `done`
//!                        |                          |
//!                        | a second POST            | destination dies
//!                        v                          v
//!                     broken: error           stays as it is for ever
//! ```
//!
//! Nothing runs by itself: whoever looks first lets everything happen that is due.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long things take, and what is served.
#[derive(Clone, Debug)]
pub struct Timing {
    /// From the POST until a destination is known.
    pub schedule: Duration,
    /// From then until the server is there.
    pub evacuation: Duration,
    /// From the start of a nova-compute until it has removed what was evacuated.
    pub cleanup: Duration,
    /// Without a heartbeat for so long, a service is down.
    pub service_down: Duration,
    /// How long nova-api waits for a nova-compute that does not answer.
    pub rpc: Duration,
    pub token: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            schedule: Duration::from_millis(20),
            evacuation: Duration::from_millis(100),
            cleanup: Duration::from_millis(100),
            service_down: Duration::from_secs(60),
            rpc: Duration::from_secs(60),
            token: Duration::from_secs(3600),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Host {
    pub name: String,
    pub service: String,
    pub node: String,
    pub zone: String,
    /// When its nova-compute died; `None` while it lives.
    pub dead_since: Option<Duration>,
    pub forced_down: bool,
    pub disabled: bool,
    pub reason: Option<String>,
    /// When a returned nova-compute will have cleaned up.
    pub cleans_at: Option<Duration>,
}

#[derive(Clone, Debug)]
pub(super) struct Srv {
    pub id: String,
    pub name: String,
    pub number: usize,
    pub host: String,
    pub vm_state: String,
    pub task: Option<String>,
    pub metadata: BTreeMap<String, String>,
    pub project: String,
    pub flavor: String,
    pub extra_specs: BTreeMap<String, String>,
    pub image: String,
    pub from_volume: bool,
    pub locked: Option<String>,
    pub pinned: Option<String>,
    pub created: Duration,
    pub updated: Duration,
}

#[derive(Clone, Debug)]
pub(super) struct Move {
    pub id: i64,
    pub server: String,
    pub kind: &'static str,
    pub source: String,
    pub dest: Option<String>,
    pub status: &'static str,
    pub created: Duration,
    pub updated: Option<Duration>,
}

#[derive(Clone, Debug)]
pub(super) struct Act {
    pub kind: &'static str,
    pub request: String,
    /// `None`: Nova itself.
    pub user: Option<String>,
    pub began: Duration,
    pub updated: Duration,
    pub failed: bool,
    /// Step, host, result (`None` while it runs).
    pub events: Vec<(&'static str, String, Option<&'static str>)>,
}

#[derive(Clone, Debug)]
pub(super) struct Group {
    pub id: String,
    pub name: String,
    pub policy: String,
    pub members: Vec<String>,
    pub project: String,
}

#[derive(Clone, Debug)]
pub(super) struct Agg {
    pub id: i64,
    pub name: String,
    pub zone: Option<String>,
    pub hosts: Vec<String>,
    pub metadata: BTreeMap<String, String>,
}

/// An evacuation under way.
#[derive(Clone, Debug)]
struct Job {
    server: String,
    migration: i64,
    request: String,
    target: Option<String>,
    due: Duration,
    placed: bool,
    /// From 2.95 on: whatever it was, it is stopped afterwards.
    leave_stopped: bool,
}

/// Why Nova says no: status and message.
pub(super) type No = (u16, String);

#[derive(Clone, Debug, Default)]
pub(super) struct World {
    pub timing: Timing,
    pub hosts: Vec<Host>,
    pub servers: Vec<Srv>,
    pub moves: Vec<Move>,
    pub actions: BTreeMap<String, Vec<Act>>,
    pub groups: Vec<Group>,
    pub aggregates: Vec<Agg>,
    /// As Glance shows them.
    pub images: BTreeMap<String, serde_json::Value>,
    /// What really runs: (server, host).
    pub running: BTreeSet<(String, String)>,
    /// Servers that at some time ran twice.
    pub doubled: BTreeSet<String>,
    jobs: Vec<Job>,
}

impl World {
    pub fn new(timing: Timing) -> Self {
        Self { timing, ..Self::default() }
    }

    pub fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|host| host.name == name)
    }

    pub fn host_mut(&mut self, name: &str) -> Option<&mut Host> {
        self.hosts.iter_mut().find(|host| host.name == name)
    }

    pub fn server(&self, id: &str) -> Option<&Srv> {
        self.servers.iter().find(|server| server.id == id)
    }

    pub fn server_mut(&mut self, id: &str) -> Option<&mut Srv> {
        self.servers.iter_mut().find(|server| server.id == id)
    }

    /// What Nova believes: dead ones are up until their heartbeats are missed for long enough.
    pub fn is_up(&self, host: &Host, now: Duration) -> bool {
        let missed = host.dead_since.is_some_and(|since| now >= since + self.timing.service_down);
        !host.forced_down && !missed
    }

    /// Lets happen what is due.
    pub fn settle(&mut self, now: Duration) {
        let due = |host: &&Host| host.cleans_at.is_some_and(|at| at <= now);
        let returned: Vec<String> = self.hosts.iter().filter(due).map(|host| host.name.clone()).collect();
        for name in returned {
            self.clean(&name, now);
        }
        while let Some(index) = self.jobs.iter().position(|job| job.due <= now && !self.is_stuck(job)) {
            if self.jobs[index].placed {
                let job = self.jobs.remove(index);
                self.arrive(&job);
            } else {
                self.place(index);
            }
        }
    }

    /// Its destination died under it: nobody will finish it.
    fn is_stuck(&self, job: &Job) -> bool {
        let dest = self.moves.iter().find(|one| one.id == job.migration).and_then(|one| one.dest.as_deref());
        job.placed && dest.and_then(|name| self.host(name)).is_none_or(|host| host.dead_since.is_some())
    }

    fn place(&mut self, index: usize) {
        // Nova takes the record of the server that is open longest, even one that a lost request has left.
        let open =
            |one: &&Move| one.server == self.jobs[index].server && one.status == "accepted" && one.dest.is_none();
        if let Some(oldest) = self.moves.iter().find(open).map(|one| one.id) {
            self.jobs[index].migration = oldest;
        }
        let job = self.jobs[index].clone();
        let source = self.server(&job.server).map(|server| server.host.clone()).unwrap_or_default();
        let fits = |host: &&Host| {
            let wanted = job.target.as_deref().is_none_or(|target| target == host.name);
            wanted && host.name != source && !host.disabled && host.dead_since.is_none() && !host.forced_down
        };
        let load = |name: &str| self.servers.iter().filter(|server| server.host == name).count();
        let dest = self.hosts.iter().filter(fits).min_by_key(|host| (load(&host.name), host.name.clone()));
        let Some(dest) = dest.map(|host| host.name.clone()) else {
            self.jobs.remove(index);
            self.no_valid_host(&job);
            return;
        };
        self.jobs[index].placed = true;
        self.jobs[index].due = job.due + self.timing.evacuation;
        self.note(&job, "rebuild_server", "conductor", Some("Success"), false);
        self.note(&job, "compute_rebuild_instance", &dest, None, false);
        self.move_mut(job.migration, |record| record.dest = Some(dest));
        if let Some(server) = self.server_mut(&job.server) {
            server.task = Some("rebuild_spawning".into());
        }
    }

    fn no_valid_host(&mut self, job: &Job) {
        self.note(job, "rebuild_server", "conductor", Some("Error"), true);
        self.move_mut(job.migration, |record| {
            record.status = "error";
            record.updated = Some(job.due);
        });
        if let Some(server) = self.server_mut(&job.server) {
            server.vm_state = "error".into();
            server.task = None;
        }
    }

    fn arrive(&mut self, job: &Job) {
        let Some(dest) = self.moves.iter().find(|one| one.id == job.migration).and_then(|one| one.dest.clone()) else {
            return;
        };
        self.move_mut(job.migration, |record| {
            record.status = "done";
            record.updated = Some(job.due);
        });
        if let Some(act) = self.act_mut(&job.server, &job.request) {
            act.updated = job.due;
            if let Some(step) = act.events.last_mut() {
                step.2 = Some("Success");
            }
        }
        let Some(server) = self.server_mut(&job.server) else { return };
        server.host = dest.clone();
        server.task = None;
        server.updated = job.due;
        if job.leave_stopped || server.vm_state == "error" {
            server.vm_state = if job.leave_stopped { "stopped".into() } else { "active".into() };
        }
        if server.vm_state == "active" {
            self.run(&dest, &job.server);
        }
    }

    /// The way a guest comes to run; a second copy is remembered for ever.
    pub fn run(&mut self, host: &str, server: &str) {
        self.running.insert((server.to_owned(), host.to_owned()));
        let copies = self.running.range((server.to_owned(), String::new())..).take_while(|(id, _)| id == server);
        if copies.count() > 1 {
            self.doubled.insert(server.to_owned());
        }
    }

    /// Accepted as Nova accepts it: with hardly a question asked.
    pub fn evacuate(&mut self, id: &str, target: Option<&str>, by: By<'_>, stopped: bool) -> Result<(), No> {
        let now = by.now;
        let server = self.server(id).cloned().ok_or_else(|| missing(id))?;
        if let Some(target) = target {
            self.host(target).ok_or_else(|| (404, format!("Compute host {target} not found.")))?;
            if target == server.host {
                return Err((400, "The target host can't be the same one.".into()));
            }
        }
        if !["active", "stopped", "error"].contains(&server.vm_state.as_str()) {
            return Err(wrong_state("evacuate", &server));
        }
        if self.host(&server.host).is_some_and(|host| self.is_up(host, now)) {
            return Err((400, format!("Compute service of {} is still in use.", server.host)));
        }
        let migration = self.moves.iter().map(|one| one.id).max().unwrap_or(0) + 1;
        let record = Move {
            id: migration,
            server: id.to_owned(),
            kind: "evacuation",
            source: server.host,
            dest: target.map(str::to_owned),
            status: "accepted",
            created: now,
            updated: None,
        };
        self.moves.push(record);
        self.act(id, "evacuate", by);
        if let Some(first) = self.jobs.iter().position(|job| job.server == id) {
            let first = self.jobs.remove(first);
            self.collide(&first, by);
            return Ok(());
        }
        if let Some(server) = self.server_mut(id) {
            server.task = Some("rebuilding".into());
            server.updated = now;
        }
        self.jobs.push(Job {
            server: id.to_owned(),
            migration,
            request: by.request.to_owned(),
            target: target.map(str::to_owned),
            due: now + self.timing.schedule,
            placed: false,
            leave_stopped: stopped,
        });
        Ok(())
    }

    /// Those not yet placed: their records stay open.
    pub fn lose_requests(&mut self) {
        self.jobs.retain(|job| job.placed);
    }

    /// Two evacuations of one server: the first gets it going, the second is never
    /// placed, and Nova calls the server broken.
    fn collide(&mut self, first: &Job, by: By<'_>) {
        if !first.placed {
            self.jobs.push(Job { due: by.now, ..first.clone() });
            self.place(self.jobs.len() - 1);
            self.jobs.retain(|job| job.migration != first.migration);
        }
        self.arrive(&Job { due: by.now, ..first.clone() });
        if let Some(act) = self.act_mut(&first.server, by.request) {
            act.failed = true;
            act.events.push(("compute_rebuild_instance", "conductor".into(), Some("Error")));
        }
        if let Some(server) = self.server_mut(&first.server) {
            server.vm_state = "error".into();
            server.task = Some("rebuild_block_device_mapping".into());
        }
    }

    pub fn power(&mut self, id: &str, start: bool, by: By<'_>) -> Result<(), No> {
        let server = self.server(id).cloned().ok_or_else(|| missing(id))?;
        let (kind, from, to) = if start { ("start", "stopped", "active") } else { ("stop", "active", "stopped") };
        let also = !start && server.vm_state == "error";
        if server.vm_state != from && !also {
            return Err(wrong_state(kind, &server));
        }
        self.act(id, kind, by);
        let alive = self.host(&server.host).is_some_and(|host| host.dead_since.is_none());
        if let Some(server) = self.server_mut(id) {
            if !alive {
                server.task = Some(if start { "powering-on" } else { "powering-off" }.into());
                return Ok(());
            }
            server.vm_state = to.into();
            server.updated = by.now;
        }
        if start {
            self.run(&server.host, id);
        } else {
            self.running.remove(&(id.to_owned(), server.host));
        }
        Ok(())
    }

    pub fn force_up(&mut self, name: &str) -> Result<(), No> {
        if self.moves.iter().any(|one| one.source == name && one.status == "done") {
            return Err((
                400,
                format!(
                    "Unable to force up host {name} as `done` evacuation migration records remain associated with \
                     the host. Ensure the compute service has been restarted, allowing these records to move to \
                     `completed` before retrying this request."
                ),
            ));
        }
        if let Some(host) = self.host_mut(name) {
            host.forced_down = false;
        }
        Ok(())
    }

    /// A returned nova-compute removes what was evacuated from its host.
    fn clean(&mut self, name: &str, now: Duration) {
        // By server: of two records of one Nova sees the newest alone, and the other stays as it is.
        let mut newest: BTreeMap<String, i64> = BTreeMap::new();
        let open = |one: &&mut Move| {
            one.source == name && one.kind == "evacuation" && ["done", "accepted"].contains(&one.status)
        };
        for record in self.moves.iter_mut().filter(open) {
            newest.insert(record.server.clone(), record.id);
        }
        let mut gone = Vec::new();
        for record in self.moves.iter_mut().filter(|one| newest.get(&one.server) == Some(&one.id)) {
            record.status = "completed";
            record.updated = Some(now);
            gone.push(record.server.clone());
        }
        for server in gone {
            self.running.remove(&(server, name.to_owned()));
        }
        if let Some(host) = self.host_mut(name) {
            host.cleans_at = None;
        }
    }

    pub fn act(&mut self, server: &str, kind: &'static str, by: By<'_>) {
        let act = Act {
            kind,
            request: by.request.to_owned(),
            user: by.user.map(str::to_owned),
            began: by.now,
            updated: by.now,
            failed: false,
            events: Vec::new(),
        };
        self.actions.entry(server.to_owned()).or_default().push(act);
    }

    fn act_mut(&mut self, server: &str, request: &str) -> Option<&mut Act> {
        self.actions.get_mut(server)?.iter_mut().rev().find(|act| act.request == request)
    }

    fn note(&mut self, job: &Job, step: &'static str, host: &str, result: Option<&'static str>, failed: bool) {
        if let Some(act) = self.act_mut(&job.server, &job.request) {
            act.events.push((step, host.to_owned(), result));
            act.failed |= failed;
            act.updated = job.due;
        }
    }

    fn move_mut(&mut self, id: i64, change: impl FnOnce(&mut Move)) {
        if let Some(record) = self.moves.iter_mut().find(|one| one.id == id) {
            change(record);
        }
    }
}

/// Who asks, by which request, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct By<'a> {
    pub user: Option<&'a str>,
    pub request: &'a str,
    pub now: Duration,
}

pub(super) fn missing(id: &str) -> No {
    (404, format!("Instance {id} could not be found."))
}

pub(super) fn wrong_state(what: &str, server: &Srv) -> No {
    (409, format!("Cannot '{what}' instance {} while it is in vm_state {}", server.id, server.vm_state))
}
