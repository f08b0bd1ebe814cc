//! What a cloud's control plane can be asked and can tell: nouns, and what is
//! remembered of its answers until a restart.
//!
//! ```text
//!   triage --CloudAct--> adapter --HTTP--> Nova          every act answers, in time or not
//!   triage <-CloudNews-- adapter <-------- Nova          "unknown" is an answer
//! ```

use crate::Triage;
use crate::command::Command;
use crate::id::{BootId, HostId, IncidentId, InstanceId, StepId};
use crate::observation::Outcome;
use crate::record::{StepKind, StepRecord};
use crate::time::Moment;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// What runs the instances.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CloudKind {
    /// Domains that nobody but libvirt manages: started by the agents.
    #[default]
    Libvirt,
    /// Servers of OpenStack Nova: started by Nova alone.
    Openstack,
}

/// One nova-compute, by the name of the host that it runs on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ComputeService {
    pub host: HostId,
    pub zone: String,
    pub up: bool,
    pub enabled: bool,
    pub disabled_reason: String,
    pub forced_down: bool,
    /// How long ago it last reported, by Nova's own clock, when it was asked.
    pub report_age: Duration,
}

/// Hosts that an operator has put together, and what is said of all of them.
/// A host may be in several; of those that name a zone, in one at most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aggregate {
    pub name: String,
    /// Empty: it makes no availability zone.
    pub zone: String,
    pub hosts: BTreeSet<HostId>,
    /// Its metadata, as operators write it.
    pub marks: Marks,
}

/// What is said of something, by the name of the mark.
pub type Marks = BTreeMap<String, String>;

/// What servers are made from: a flavor or an image, shared by all that are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mould {
    /// Of an image; a flavor is known by its name alone.
    pub id: String,
    /// Empty where it is not the operators' to give: anybody names their own images as they like.
    pub name: String,
    /// The operators' marks on it.
    pub marks: Marks,
}

/// One server as Nova shows it. Ten thousand of them are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server {
    pub id: InstanceId,
    pub name: String,
    /// Where Nova believes it to be; empty when nowhere.
    pub host: HostId,
    pub vm_state: String,
    pub task_state: Option<String>,
    pub memory_kib: u64,
    pub project: Arc<str>,
    pub zone: Arc<str>,
    pub flavor: Arc<Mould>,
    /// Empty where it was booted from a volume.
    pub image: Arc<Mould>,
    /// What its tenant says about its recovery, reduced to the marks that are read.
    pub marks: Marks,
}

/// One evacuation that is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    pub step: StepId,
    pub instance: InstanceId,
    /// Nova's name for our request; empty when the answer was lost.
    pub request: String,
    /// Requests of earlier tries: none of them is this one.
    pub others: BTreeSet<String>,
    /// It takes suspiciously long: whether anybody still works on it is asked, too.
    pub doubted: bool,
    /// Nova's numbers of evacuations that are over although it calls them open. It may
    /// use such a record for this one, and leave this one's own open instead.
    pub abandoned: BTreeSet<i64>,
}

/// How far an evacuation has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Course {
    /// Nova shows no trace of it.
    Unseen,
    UnderWay {
        request: String,
        /// Where to, once Nova has chosen, and Nova's number of the migration.
        to: Option<(HostId, i64)>,
    },
    /// Nova's record is open, but the server is in error and nobody works on it.
    Idle { request: String, migration: i64 },
    /// The server is well on this host.
    Done {
        request: String,
        host: HostId,
        /// Nova's number of the record that it leaves open, having used an older one.
        left: Option<i64>,
    },
    Failed {
        request: String,
        why: String,
        /// As for `Done`.
        left: Option<i64>,
    },
    /// Nova no longer knows the server: its owner has deleted it.
    Deleted,
    /// It could not be asked.
    Unknown { detail: String },
}

/// What Nova is asked. Those with a step change something, all others only look.
#[derive(Clone, Debug, PartialEq)]
pub enum CloudAct {
    /// All servers that Nova places on a host, to the last page.
    ListServers {
        host: HostId,
        ask: u64,
    },
    /// One server that a list did not name.
    FindServer {
        instance: InstanceId,
        ask: u64,
    },
    /// These servers are about to be evacuated: what is read before each may be read now.
    ReadAhead {
        instances: Vec<InstanceId>,
    },
    /// Evacuations from one host: those of ours and what became of them.
    Follow {
        source: HostId,
        ask: u64,
        moves: Vec<Move>,
    },
    ForceDown {
        step: StepId,
        host: HostId,
    },
    Unforce {
        step: StepId,
        host: HostId,
    },
    Disable {
        step: StepId,
        host: HostId,
        reason: String,
    },
    /// Only if it is still disabled for this reason.
    Enable {
        step: StepId,
        host: HostId,
        reason: String,
    },
    /// Enables a reserved host, if it is disabled for this reason.
    TakeReserve {
        step: StepId,
        host: HostId,
        reason: String,
    },
    JoinAggregate {
        step: StepId,
        host: HostId,
        aggregate: String,
    },
    LeaveAggregate {
        step: StepId,
        host: HostId,
        aggregate: String,
    },
    /// Reads the server and its migrations again, and only then asks for it.
    Evacuate {
        step: StepId,
        instance: InstanceId,
        source: HostId,
        target: Option<HostId>,
        deadline: Duration,
        /// Earlier evacuations that Nova calls open and that are over.
        abandoned: BTreeSet<i64>,
    },
    /// Stops the server where Nova still calls it active, and starts it on its own host.
    Restart {
        step: StepId,
        instance: InstanceId,
        host: HostId,
        deadline: Duration,
    },
}

impl CloudAct {
    /// Stable name, for logs and crash points.
    pub fn name(&self) -> &'static str {
        match self {
            CloudAct::ListServers { .. } => "cloud-list",
            CloudAct::FindServer { .. } => "cloud-find",
            CloudAct::ReadAhead { .. } => "cloud-read-ahead",
            CloudAct::Follow { .. } => "cloud-follow",
            CloudAct::ForceDown { .. } => "cloud-force-down",
            CloudAct::Unforce { .. } => "cloud-unforce",
            CloudAct::Disable { .. } => "cloud-disable",
            CloudAct::Enable { .. } => "cloud-enable",
            CloudAct::TakeReserve { .. } => "cloud-take-reserve",
            CloudAct::JoinAggregate { .. } => "cloud-join-aggregate",
            CloudAct::LeaveAggregate { .. } => "cloud-leave-aggregate",
            CloudAct::Evacuate { .. } => "cloud-evacuate",
            CloudAct::Restart { .. } => "cloud-restart",
        }
    }

    /// It may destroy, start or move something.
    pub fn changes(&self) -> bool {
        use CloudAct::{FindServer, Follow, ListServers, ReadAhead};
        !matches!(self, ListServers { .. } | FindServer { .. } | ReadAhead { .. } | Follow { .. })
    }
}

/// What Nova told.
#[derive(Clone, Debug, PartialEq)]
pub enum CloudNews {
    /// All compute services, read to the end.
    Services(Vec<ComputeService>),
    /// All host aggregates; where they could not be read, the last ones stay.
    Aggregates(Vec<Aggregate>),
    /// All servers of all projects, read to the end.
    Roster(Vec<Server>),
    Servers {
        host: HostId,
        ask: u64,
        servers: Result<Vec<Server>, String>,
    },
    /// `Ok(None)`: Nova has never heard of it, or it was deleted.
    Found {
        instance: InstanceId,
        ask: u64,
        server: Result<Option<Box<Server>>, String>,
    },
    Followed {
        source: HostId,
        ask: u64,
        courses: Vec<(StepId, Course)>,
    },
    /// What became of an act with a step. Of an accepted evacuation `detail` is Nova's request id.
    Answered {
        step: StepId,
        outcome: Outcome,
    },
    /// The control plane cannot be used, and why; empty: it can again.
    Trouble(String),
}

/// Durable, with the host: what we did to its compute service and have to undo.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceHold {
    pub forced_down: bool,
    /// The reason that we gave when we disabled it; empty: we did not.
    pub disabled: String,
}

/// Volatile: Nova tells it again.
#[derive(Debug, Default)]
pub(crate) struct Sight {
    pub services: BTreeMap<HostId, ComputeService>,
    pub services_at: Option<Moment>,
    pub aggregates: Vec<Aggregate>,
    /// Nova has told of its aggregates since our start.
    pub aggregates_told: bool,
    /// All servers as last told: by the roster, or by a list or an answer about one that came later.
    pub roster: BTreeMap<InstanceId, Server>,
    /// Nova has told of all servers since our start.
    pub roster_told: bool,
    pub trouble: Option<String>,
    pub listings: BTreeMap<HostId, Listing>,
    pub found: BTreeMap<InstanceId, Finding>,
    pub following: BTreeMap<HostId, Following>,
    /// Evacuations that Nova gets at a time; see [`WINDOW_FIRST`].
    pub window: Option<usize>,
    /// When each server's unseen evacuation was first found to be without a trace.
    pub unseen: BTreeMap<StepId, Moment>,
    /// Since when each evacuation is known to be under way, and to which boot of which host.
    pub under_way: BTreeMap<StepId, (Moment, Option<(HostId, BootId)>)>,
    /// Since when each service was seen down, or up.
    pub service_since: BTreeMap<HostId, (bool, Moment)>,
    pub told_names: BTreeSet<HostId>,
    /// A server whose evacuation failed is not tried again before.
    pub again: BTreeMap<InstanceId, Moment>,
}

#[derive(Debug)]
pub(crate) struct Listing {
    pub ask: u64,
    pub asked_at: Moment,
    pub servers: Option<BTreeMap<InstanceId, Server>>,
    /// When the question behind `servers` was asked.
    pub taken_at: Moment,
    pub failed: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Finding {
    pub ask: u64,
    pub asked_at: Moment,
    pub server: Option<Result<Option<Server>, String>>,
    pub taken_at: Moment,
}

#[derive(Debug)]
pub(crate) struct Following {
    pub ask: u64,
    pub asked_at: Moment,
    pub waiting: bool,
}

/// Ten at a time move fifty servers twice as fast as all at once: measured on
/// two cores, and near the best everywhere else for Nova's own queues.
pub(crate) const WINDOW_FIRST: usize = 10;
/// The reason of a refusal that is for a limit: nothing has happened, and it says nothing of the server.
pub const TOO_MANY: &str = "too-many";
/// More at a time only moves the queue from us to Nova.
pub(crate) const WINDOW_MAX: usize = 32;
/// A question that only looks and was not answered is asked again after this.
const LOOK_AGAIN: Duration = Duration::from_secs(20);

impl Triage {
    pub(crate) fn act(&mut self, act: CloudAct) {
        self.command(Command::Cloud(act));
    }

    pub(crate) fn in_openstack(&self) -> bool {
        self.settings.cloud == CloudKind::Openstack
    }

    /// The aggregates that a host is in, in the order of their names.
    pub fn aggregates_of<'a>(&'a self, host: &'a HostId) -> impl Iterator<Item = &'a Aggregate> {
        self.sight.aggregates.iter().filter(move |aggregate| aggregate.hosts.contains(host))
    }

    pub(crate) fn service(&self, host: &HostId) -> Option<&ComputeService> {
        self.sight.services.get(host)
    }

    pub(crate) fn take_cloud_news(&mut self, news: CloudNews) {
        match news {
            CloudNews::Services(services) => self.take_services(services),
            CloudNews::Aggregates(mut aggregates) => {
                // Of several that a host is in the first by name counts, in whatever order they are told.
                aggregates.sort_by(|a, b| a.name.cmp(&b.name));
                self.care_is_stale |= self.sight.aggregates != aggregates;
                self.segments_are_stale = true;
                self.sight.aggregates_told = true;
                self.sight.aggregates = aggregates;
            }
            CloudNews::Roster(servers) => self.take_roster(servers),
            CloudNews::Servers { host, ask, servers } => self.take_listing(&host, ask, servers),
            CloudNews::Found { instance, ask, server } => self.take_finding(&instance, ask, server),
            CloudNews::Followed { source, ask, courses } => {
                if let Some(following) = self.sight.following.get_mut(&source)
                    && following.ask == ask
                {
                    following.waiting = false;
                }
                for (step, course) in courses {
                    self.take_course(step, course);
                }
            }
            CloudNews::Answered { step, outcome } => self.take_cloud_answer(step, outcome),
            CloudNews::Trouble(why) => self.take_trouble(why),
        }
    }

    /// Nova's answer to a step.
    fn take_cloud_answer(&mut self, step: StepId, outcome: Outcome) {
        let Some(record) = self.durable.steps.get(&step).cloned() else { return };
        match &record.what {
            StepKind::Start { target, .. } => {
                let target = target.clone();
                self.take_order_answer(&target, step, outcome);
            }
            StepKind::Evacuate { instance, .. } => {
                let instance = instance.clone();
                self.evacuation_answered(&record, &instance, outcome);
            }
            StepKind::ForceDown { .. }
            | StepKind::Disable { .. }
            | StepKind::Unforce { .. }
            | StepKind::JoinAggregate { .. }
            | StepKind::LeaveAggregate { .. }
            | StepKind::TakeReserve { .. }
            | StepKind::ReturnReserve { .. }
            | StepKind::Enable { .. } => {
                self.service_step_answered(&record, outcome);
            }
            _ => {}
        }
        // A reserved host goes back when its incident is closed: that keeps nobody busy.
        if self.incident(step.incident).is_some_and(|incident| !incident.phase.closed()) {
            self.work(step.incident).restless = true;
        }
    }

    fn take_trouble(&mut self, why: String) {
        let now = Some(why).filter(|why| !why.is_empty());
        if now.is_some() != self.sight.trouble.is_some() {
            let text = match &now {
                Some(why) => format!("the cloud's control plane cannot be used; whatever needs it waits: {why}"),
                None => "the cloud's control plane answers again".to_owned(),
            };
            self.note("MDV-CLOUD", now.is_some(), text);
        }
        self.sight.trouble = now;
    }

    fn take_services(&mut self, services: Vec<ComputeService>) {
        self.sight.services = services.into_iter().map(|service| (service.host.clone(), service)).collect();
        self.sight.services_at = Some(self.now.at);
        self.segments_are_stale = true;
        self.match_names();
        self.note_services();
    }

    /// A host without a service of its exact name: told while all is well, never guessed.
    fn match_names(&mut self) {
        let unmatched: Vec<(HostId, Option<HostId>)> = self
            .durable
            .hosts
            .ids()
            .into_iter()
            .filter(|host| !self.sight.services.contains_key(host))
            .map(|host| (host.clone(), self.sight.services.keys().find(|other| same_stem(other, &host)).cloned()))
            .collect();
        for (host, near) in unmatched {
            if !self.sight.told_names.insert(host.clone()) {
                continue;
            }
            let text = match near {
                Some(near) => format!(
                    "Nova has no compute host {host}; it has {near}: if that is the same machine, set openstack.hosts.{host} = \"{near}\""
                ),
                None => format!("Nova has no compute host {host}: its instances cannot be evacuated"),
            };
            self.note("MDV-CLOUD-NAME", true, text);
        }
        self.sight.told_names.retain(|host| !self.sight.services.contains_key(host));
    }

    fn take_finding(&mut self, instance: &InstanceId, ask: u64, server: Result<Option<Box<Server>>, String>) {
        let Some(finding) = self.sight.found.get_mut(instance).filter(|finding| finding.ask == ask) else { return };
        let server = server.map(|server| server.map(|server| *server));
        let told = server.clone().ok().flatten();
        finding.taken_at = finding.asked_at;
        finding.server = Some(server);
        self.meet(told);
    }

    fn take_listing(&mut self, host: &HostId, ask: u64, servers: Result<Vec<Server>, String>) {
        let Some(listing) = self.sight.listings.get_mut(host).filter(|listing| listing.ask == ask) else { return };
        match servers {
            Ok(servers) => {
                listing.taken_at = listing.asked_at;
                listing.failed = None;
                listing.servers = Some(servers.iter().map(|server| (server.id.clone(), server.clone())).collect());
                self.meet(servers);
            }
            Err(why) => listing.failed = Some(why),
        }
    }

    /// Nova's list of a host's servers, asked for after `from`; asks when there is none.
    pub(crate) fn listed(&mut self, host: &HostId, from: Moment) -> Result<BTreeMap<InstanceId, Server>, String> {
        if let Some(servers) = self.listed_since(host, from) {
            return Ok(servers);
        }
        let now = self.now.at;
        let listing = self.sight.listings.get(host);
        let failed = listing.and_then(|listing| listing.failed.clone());
        let patience = if failed.is_some() { Duration::from_secs(2) } else { LOOK_AGAIN };
        let due = listing.is_none_or(|l| l.asked_at < from || now.since(l.asked_at) >= patience);
        if due {
            let ask = self.new_ask();
            let old = self.sight.listings.remove(host);
            let (servers, taken_at) = old.map_or((None, Moment::default()), |old| (old.servers, old.taken_at));
            let listing = Listing { ask, asked_at: now, servers, taken_at, failed: failed.clone() };
            self.sight.listings.insert(host.clone(), listing);
            self.act(CloudAct::ListServers { host: host.clone(), ask });
        }
        Err(failed.unwrap_or_else(|| "its servers are being listed".to_owned()))
    }

    /// The list of a host's servers, if one was asked for after `from` and has come.
    pub(crate) fn listed_since(&self, host: &HostId, from: Moment) -> Option<BTreeMap<InstanceId, Server>> {
        let listing = self.sight.listings.get(host).filter(|listing| listing.taken_at >= from)?;
        listing.servers.clone()
    }

    /// The newest list of a host that has died since it was last heard: who is read
    /// again one by one needs no newer one to begin with.
    pub(crate) fn listed_ahead(&self, host: &HostId) -> Option<BTreeMap<InstanceId, Server>> {
        self.listed_since(host, self.watches.get(host)?.last_sign)
    }

    /// Asks for a host's servers while it is being fenced: its proof finds them listed.
    pub(crate) fn list_ahead(&mut self, host: &HostId) {
        let last_sign = self.watches.get(host).map(|watch| watch.last_sign);
        if let Some(last_sign) = last_sign.filter(|_| self.in_openstack()) {
            let _ = self.listed(host, last_sign);
        }
    }

    /// What Nova says of one server, asked after `from`; asks when nothing is known.
    pub(crate) fn found(&mut self, instance: &InstanceId, from: Moment) -> Option<Result<Option<Server>, String>> {
        let now = self.now.at;
        let finding = self.sight.found.get(instance);
        if let Some(finding) = finding
            && finding.taken_at >= from
            && finding.server.is_some()
        {
            let again =
                finding.server.as_ref().is_some_and(Result::is_err) && now.since(finding.asked_at) >= LOOK_AGAIN;
            if !again {
                return finding.server.clone();
            }
        } else if finding.is_some_and(|f| f.asked_at >= from && now.since(f.asked_at) < LOOK_AGAIN) {
            return None;
        }
        let ask = self.new_ask();
        let finding = Finding { ask, asked_at: now, server: None, taken_at: Moment::default() };
        self.sight.found.insert(instance.clone(), finding);
        self.act(CloudAct::FindServer { instance: instance.clone(), ask });
        None
    }

    /// Asks what became of all evacuations from a host, one question at a time.
    pub(crate) fn follow(&mut self, source: &HostId, moves: Vec<Move>, every: Duration) {
        let now = self.now.at;
        let busy = self.sight.following.get(source).is_some_and(|following| {
            let patience = if following.waiting { LOOK_AGAIN } else { every };
            now.since(following.asked_at) < patience
        });
        if busy || moves.is_empty() {
            return;
        }
        let ask = self.new_ask();
        self.sight.following.insert(source.clone(), Following { ask, asked_at: now, waiting: true });
        self.act(CloudAct::Follow { source: source.clone(), ask, moves });
    }

    /// A step of this kind in this incident, the newest.
    pub(crate) fn newest_step(&self, incident: IncidentId, is: impl Fn(&StepKind) -> bool) -> Option<StepRecord> {
        self.durable.steps_of(incident).into_iter().rev().find(|step| is(&step.what))
    }
}

/// `hv1` and `hv1.example.org`.
fn same_stem(one: &HostId, other: &HostId) -> bool {
    let stem = |host: &HostId| host.as_str().split('.').next().unwrap_or_default().to_ascii_lowercase();
    stem(one) == stem(other)
}
