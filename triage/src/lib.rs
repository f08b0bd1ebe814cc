//! The decisions of medevac: evidence to verdict to plan, and why.
//!
//! ```text
//!  observations --> ingest ----> watches (volatile)  -+
//!                     |                               |--> evidence --> verdict --> rails --> fencing
//!                     +--------> records (drafted) ---+                                         |
//!                                     ^                                                       proof
//!                                     |                                                         |
//!                                     +---- changes, notes, commands <---- recovery, homes <----+
//! ```
//!
//! Two questions are never mixed. *Witnesses* decide whether a host may be
//! shot ([`evidence`]). *Proof* alone decides whether its instances may be
//! started elsewhere ([`homes`]).
//!
//! The contract with the caller: [`Triage::handle`] changes no durable state;
//! it returns what is to change. The caller commits that, hands it back to
//! [`Triage::apply`], and only then carries out the commands.
//!
//! Nothing here does I/O, reads a clock, draws a random number or is async.

mod alert;
mod care;
mod cloud;
mod command;
mod compute;
mod device_alerts;
mod devices;
mod evacuation;
mod evidence;
mod explain;
mod fences;
mod fencing;
mod gone;
mod homes;
mod id;
mod identity;
mod incident;
mod ingest;
mod inventory;
mod lacks;
mod letters;
mod lists;
mod look;
mod maintenance;
mod matrix;
mod moves;
mod observation;
mod operator;
mod others;
mod policy;
mod power;
mod proof;
mod rails;
mod record;
mod recovery;
mod reload;
mod reserve;
mod restored;
mod returning;
mod roster;
mod segments;
mod servers;
mod service;
mod settings;
mod standing;
mod state;
mod summary;
mod table;
mod target;
mod time;
mod turns;
mod view;
mod watch;

pub use alert::{AlertId, AlertRecord, Cause, Lines, Severity, Told};
pub use cloud::{
    Aggregate, CloudAct, CloudKind, CloudNews, ComputeService, Course, Marks, Mould, Move, Server, ServiceHold,
    TOO_MANY,
};
pub use command::{Care, Command, Decision, Note, Order, Refusal, Reply};
pub use devices::{DeviceRecord, Imported, Network, Offer, Offered, Place, Template, Through};
pub use evidence::Doubt;
pub use fences::FenceView;
pub use id::{BootId, Epoch, HostId, IncidentId, InstanceId, PlaneId, SegmentId, SessionId, StepId};
pub use identity::{
    AskedBy, Bar, BarredRecord, CertificateAsk, IdentityView, NewToken, RevokedRecord, TokenRecord, Used, Whose,
};
pub use lacks::Lack;
pub use letters::{Delivery, Letter, Receiver};
pub use lists::{Listed, ROWS_MAX};
pub use matrix::{Act, Loss, Matrix, ROWS as MATRIX_ROWS, Row, Unfit, names as action_names};
pub use observation::*;
pub use others::OTHERS_TOLD;
pub use policy::{
    Facts, HA_MARKS, Ha, LEVELS, Level, OnLocalDisks, PRIORITY_MAX, Policy, PolicyRule, Said, TIER_MAX, is_mark, judge,
};
pub use record::*;
pub use reserve::{RecoveryMethod, Taken};
pub use restored::{Restoring, Voided, jumped, restored};
pub use segments::{DEFAULT_SEGMENT, SEGMENT_MARK, SegmentsBy};
pub use servers::{Fate, TABLE as SERVER_STATES};
pub use settings::{Device, Guards, Level as FenceLevel, OnHung, Settings};
pub use standing::Standing;
pub use summary::{Coverage, Covered, Cursor, HOST_STATES, NOT_COVERED, SegmentCount, Summary};
pub use time::{Moment, Now, Wall, millis, shown};
pub use view::{HostView, IncidentView, InstanceView, SegmentView, SiteView};

use incident::Work;
use state::Durable;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use watch::{Round, Watch};

#[cfg(all(feature = "removable-guards", not(debug_assertions), not(test)))]
compile_error!("removable-guards is for tests: it cannot be part of a release build");

/// While anything is under way the state is looked at this often. It bounds
/// how late a deadline is seen, at a cost that is nothing beside the work.
const LOOK_EVERY_BUSY: Duration = Duration::from_millis(100);
/// An idle site is looked at this often, for alerts and slow housekeeping.
const LOOK_EVERY_IDLE: Duration = Duration::from_secs(5);
/// Our own loop late by less than this lengthens every grace by as much;
/// later than that restarts it: we cannot know what we did not hear.
const LATE_FORGIVEN: Duration = Duration::from_secs(2);
/// Timers and schedulers are late by less than this when nothing is wrong.
const LATE_NOTICED: Duration = Duration::from_millis(150);

/// All state and all decisions. See the crate's documentation.
#[derive(Debug)]
pub struct Triage {
    settings: Settings,
    durable: Durable,
    watches: BTreeMap<HostId, Watch>,
    rounds: VecDeque<Round>,
    next_round: u64,
    started: Moment,
    settle_until: Moment,
    promised: Option<Moment>,
    /// What arrives before this moment may have been said before our own loop stood still.
    stale_until: Moment,
    booting: BTreeMap<SegmentId, standing::Window>,
    work: BTreeMap<IncidentId, Work>,
    step_until: BTreeMap<StepId, Moment>,
    shots: Vec<(SegmentId, HostId, Moment)>,
    gather: Option<recovery::Gather>,
    sight: cloud::Sight,
    /// When a host's maintenance ends by itself, and then when that is no news any more.
    maintenance_until: BTreeMap<HostId, Moment>,
    /// What a restart may forget of open alerts.
    tendings: BTreeMap<AlertId, alert::Tending>,
    /// Troubles without an incident, and since when each holds.
    troubled: BTreeMap<Cause, Moment>,
    troubles_seen_at: Option<Moment>,
    /// Revisions handed over to receivers by this process.
    handed: BTreeMap<(String, AlertId), u32>,
    doubles: BTreeMap<InstanceId, Moment>,
    restarted: BTreeMap<InstanceId, Moment>,
    /// Instances to be looked at again: fallen, or shown in two places.
    look_at: BTreeSet<InstanceId>,
    next_ask: u64,
    token_ends: identity::TokenEnds,
    /// By what each host is switched off: the one owner of that, made anew when anything of it changes.
    devices: BTreeMap<HostId, Device>,
    devices_are_stale: bool,
    /// What agents told of their hosts' controllers since this process began.
    offers: BTreeMap<HostId, Offer>,
    /// How hosts' devices were read since then.
    power: BTreeMap<HostId, power::Sighted>,
    care_is_stale: bool,
    /// Some host may belong to another segment.
    segments_are_stale: bool,
    deposed: Option<String>,
    /// The configuration as it is in the file was refused.
    unread: Option<reload::Unread>,
    out: Decision,
    now: Now,
}

impl Triage {
    /// Takes up what is kept. Every stored duration is armed in full from `now`.
    pub fn new(settings: Settings, records: impl IntoIterator<Item = Record>, now: Now) -> Self {
        let mut durable = Durable::default();
        for record in records {
            durable.apply(&Change::Put(String::new(), Box::new(record)));
        }
        let settle_until = now.at.plus(settings.settle);
        let mut triage = Self {
            settings,
            durable,
            watches: BTreeMap::new(),
            rounds: VecDeque::new(),
            next_round: 1,
            started: now.at,
            settle_until,
            promised: Some(now.at),
            stale_until: now.at,
            booting: BTreeMap::new(),
            work: BTreeMap::new(),
            step_until: BTreeMap::new(),
            shots: Vec::new(),
            gather: None,
            sight: cloud::Sight::default(),
            maintenance_until: BTreeMap::new(),
            tendings: BTreeMap::new(),
            troubled: BTreeMap::new(),
            troubles_seen_at: None,
            handed: BTreeMap::new(),
            doubles: BTreeMap::new(),
            restarted: BTreeMap::new(),
            look_at: BTreeSet::new(),
            next_ask: 1,
            token_ends: identity::TokenEnds::new(),
            devices: BTreeMap::new(),
            devices_are_stale: false,
            offers: BTreeMap::new(),
            power: BTreeMap::new(),
            care_is_stale: true,
            segments_are_stale: true,
            deposed: None,
            unread: None,
            out: Decision::default(),
            now,
        };
        triage.take_up();
        for text in triage.doubt_other_devices() {
            triage.note("MDV-CONFIG", true, text);
        }
        triage
    }

    /// Watches for every known host, clocks for every open piece of work.
    fn take_up(&mut self) {
        let now = self.now.at;
        for id in self.durable.hosts.ids() {
            let Some(record) = self.durable.hosts.get(&id) else { continue };
            let goodbye_until = record.goodbye.as_ref().map(|goodbye| now.plus(self.goodbye_lasts(&goodbye.parting)));
            let died_at = record.dead.is_some().then_some(now);
            self.watches.insert(id, Watch { last_sign: now, goodbye_until, died_at, ..Watch::default() });
        }
        self.arm_maintenance();
        for id in self.durable.open_incidents() {
            self.work.insert(id, Work::resumed(now));
        }
        self.look_at = self.durable.instances.iter().filter(|i| i.wanted).map(|i| i.id.clone()).collect();
        self.take_up_tokens();
        self.devices = self.made_devices();
        for segment in self.durable.segments.iter() {
            self.shots.extend(segment.shot.iter().map(|host| (segment.id.clone(), host.clone(), now)));
        }
    }

    /// Takes in what was seen since the last turn and decides. Observations
    /// are all taken in before anything is judged.
    pub fn handle(&mut self, now: Now, observations: Vec<Observation>) -> Decision {
        self.now = now;
        self.excuse_own_lateness();
        let only_heartbeats = observations.iter().all(|o| matches!(o, Observation::HeartbeatArrived(_)));
        for observation in observations {
            self.ingest(observation);
        }
        if !only_heartbeats || self.promised.is_none_or(|due| now.at >= due) {
            self.review();
        }
        let mut decision = std::mem::take(&mut self.out);
        decision.changes = self.durable.take_changes();
        decision
    }

    /// The one way in which durable state changes: a change that is committed.
    pub fn apply(&mut self, committed: &[Change]) {
        for change in committed {
            self.durable.apply(change);
        }
    }

    /// When [`Triage::handle`] is due even if nothing is observed.
    pub fn poll_timeout(&self) -> Option<Moment> {
        self.promised
    }

    /// Another decider was met: from now on this one only shows.
    pub fn depose(&mut self, why: String) {
        self.deposed = Some(why);
    }

    /// Looks at everything that time alone may have changed.
    fn review(&mut self) {
        self.place_hosts();
        if self.devices_are_stale {
            for text in self.settle_devices() {
                self.note("MDV-FENCE-CHANGED", true, text);
            }
        }
        self.review_maintenance();
        self.watch_hosts();
        self.look_round();
        self.review_incidents();
        self.review_reserve();
        self.review_instances();
        self.review_holds();
        self.send_care();
        self.prune();
        self.review_alerts();
        self.tell_receivers();
        self.promised = Some(self.next_look());
    }

    fn next_look(&self) -> Moment {
        let now = self.now.at;
        let busy = !self.watched().is_empty() || self.work.values().any(|work| work.restless);
        if busy {
            return now.plus(LOOK_EVERY_BUSY);
        }
        let late = self.watches.values().filter_map(|watch| watch.session.as_ref()).map(|live| live.heard_at);
        let first_late = late.min().map_or(now.plus(LOOK_EVERY_IDLE), |heard| heard.plus(self.settings.suspect_after));
        first_late.min(now.plus(LOOK_EVERY_IDLE)).max(now.plus(Duration::from_millis(1)))
    }

    /// Suspect yourself first: what we did not hear while we slept was not silence.
    fn excuse_own_lateness(&mut self) {
        let Some(promised) = self.promised else { return };
        let late = self.now.at.since(promised);
        if late < LATE_NOTICED {
            return;
        }
        self.stale_until = self.now.at.plus(late);
        if late < LATE_FORGIVEN {
            for watch in self.watches.values_mut() {
                watch.grace_extra += late;
            }
            return;
        }
        let now = self.now.at;
        for watch in self.watches.values_mut() {
            watch.last_sign = now;
            // Its silence can no longer be measured, as after a start.
            watch.heard_since_start = false;
            watch.suspect = None;
            watch.hung_since = None;
        }
        self.rounds.clear();
        self.settle_until = self.settle_until.max(now.plus(self.settings.settle));
        self.note(
            "MDV-LOOP-LATE",
            true,
            format!("own loop stood still for {}: every silence starts anew", shown(late)),
        );
    }

    pub(crate) fn note(&mut self, code: &'static str, alert: bool, text: String) {
        self.out.notes.push(Note { code, text, alert });
    }

    pub(crate) fn command(&mut self, command: Command) {
        self.out.commands.push(command);
    }

    pub(crate) fn host(&self, id: &HostId) -> Option<&HostRecord> {
        self.durable.hosts.get(id)
    }

    fn goodbye_lasts(&self, parting: &Parting) -> Duration {
        if parting.host_shuts_down { self.settings.goodbye_shutdown } else { self.settings.goodbye_agent }
    }
}
