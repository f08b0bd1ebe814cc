//! Alerts: what people are told of. One cause is one alert, whatever number of
//! incidents it makes; it is updated while it lasts, and resolved once.
//!
//! ```text
//!   open incidents --grouped--+
//!                             +--> alert: firing -- quiet for a while --> resolved --> pruned
//!   standing troubles --------+      |
//!                                    +--> letters to receivers, see `letters`
//! ```
//!
//! Levels, not edges: each turn the alerts are compared with what is open, so
//! that a lost turn or a restart loses none.

use crate::Triage;
use crate::id::{HostId, IncidentId, SegmentId};
use crate::record::{IncidentKind, IncidentRecord, OutcomeState, Phase};
use crate::standing::Standing;
use crate::time::{Moment, Now, Wall};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// Hosts of a segment that are lost within this time of each other are one alert:
/// a rack loses its hosts over some seconds, and each is condemned by itself.
const TOGETHER: Duration = Duration::from_secs(60);
/// What changes in an alert's text alone is told no sooner than this after the
/// last letter, and each time half as often: whoever reads it is at work by then.
const RETELL_FIRST: Duration = Duration::from_secs(30);
const RETELL_MAX: Duration = Duration::from_secs(3600);
/// What a reboot under maintenance has left open when maintenance ends may take
/// this long before it counts as unplanned.
const PLANNED_FOR: Duration = Duration::from_secs(120);
/// Nova's own restart is no trouble to wake anybody for.
const CLOUD_TROUBLE_FOR: Duration = Duration::from_secs(60);
/// Half of the site silent for this long: no mass restart, no settling.
const MINORITY_FOR: Duration = Duration::from_secs(30);
/// A pause that somebody may have forgotten: nothing is recovered meanwhile.
const PAUSED_FOR: Duration = Duration::from_secs(15 * 60);
/// Troubles are looked for this often: each look goes over all hosts.
const TROUBLES_EVERY: Duration = Duration::from_secs(1);
/// Names shown in one line; the rest is counted.
const NAMES_SHOWN: usize = 5;
/// Alerts kept at most: months of a bad site, in about a megabyte.
const ALERTS_MAX: usize = 1000;
/// Resolved ones that everybody was told of: kept for whoever asks what was told.
const RESOLVED_KEPT: usize = 200;

/// An alert, counted up per site. Shown as `alert-7`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AlertId(pub u64);

impl fmt::Display for AlertId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "alert-{}", self.0)
    }
}

impl AlertId {
    /// Reads `alert-7` or `7`.
    pub fn parse(text: &str) -> Option<Self> {
        text.strip_prefix("alert-").unwrap_or(text).parse().ok().map(Self)
    }
}

/// How much of a person it needs. It only rises while an alert lasts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Good to know.
    #[default]
    Info,
    /// Something is lost, and medevac deals with it.
    Warning,
    /// A person is needed now.
    Critical,
}

impl Severity {
    pub const ALL: [Severity; 3] = [Severity::Info, Severity::Warning, Severity::Critical];

    pub fn name(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|severity| severity.name() == text)
    }
}

/// What an alert is about: of each cause at most one is open at a time, but for
/// those that are about one incident.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "kebab-case")]
pub enum Cause {
    /// Hosts of one segment, lost together.
    HostsLost {
        segment: SegmentId,
    },
    /// Guests of one host that ended by themselves.
    GuestsGone {
        host: HostId,
    },
    /// The computes of a segment that Nova can no longer reach.
    ServicesDown {
        segment: SegmentId,
    },
    /// One incident in which data may be in danger, or facts are lost.
    Incident {
        kind: IncidentKind,
        incident: IncidentId,
    },
    AgentsDown {
        segment: SegmentId,
    },
    /// The cloud's control plane.
    Cloud,
    /// Half of the site or more is not heard.
    Minority,
    /// An operator's brake is on for long.
    Paused,
    /// A host's maintenance has ended by its own limit.
    MaintenanceOver {
        host: HostId,
    },
    /// Devices of a segment's hosts that have not been readable for long.
    DevicesUnreadable {
        segment: SegmentId,
    },
    /// Hosts of a segment whose own controllers say another address than the one that is used.
    DevicesDiffer {
        segment: SegmentId,
    },
    /// The file says something else than what holds.
    ConfigRefused,
    /// Somebody tries the receivers out; never kept.
    Trial,
}

impl Cause {
    /// Stable, for machines.
    pub fn code(&self) -> &'static str {
        match self {
            Cause::HostsLost { .. } => "MDV-HOST-LOST",
            Cause::GuestsGone { .. } => "MDV-GUEST-GONE",
            Cause::ServicesDown { .. } => "MDV-SERVICE-DOWN",
            Cause::Incident { kind: IncidentKind::TwoCopies, .. } => "MDV-TWO-COPIES",
            Cause::Incident { kind: IncidentKind::ProofRefuted, .. } => "MDV-PROOF-REFUTED",
            Cause::Incident { kind: IncidentKind::HostCloned, .. } => "MDV-CLONE",
            Cause::Incident { kind: IncidentKind::FactsLost, .. } => "MDV-FACTS-LOST",
            Cause::Incident { .. } => "MDV-INCIDENT",
            Cause::AgentsDown { .. } => "MDV-AGENTS-DOWN",
            Cause::Cloud => "MDV-CLOUD",
            Cause::Minority => "MDV-MINORITY",
            Cause::Paused => "MDV-PAUSED",
            Cause::MaintenanceOver { .. } => "MDV-MAINTENANCE-OVER",
            Cause::DevicesUnreadable { .. } => "MDV-FENCE-UNREADABLE",
            Cause::DevicesDiffer { .. } => "MDV-FENCE-ADDRESS",
            Cause::ConfigRefused => "MDV-CONFIG-REFUSED",
            Cause::Trial => "MDV-TEST",
        }
    }

    /// Every code that there is, for filters and documents.
    pub const CODES: [&'static str; 15] = [
        "MDV-HOST-LOST",
        "MDV-GUEST-GONE",
        "MDV-SERVICE-DOWN",
        "MDV-TWO-COPIES",
        "MDV-PROOF-REFUTED",
        "MDV-CLONE",
        "MDV-FACTS-LOST",
        "MDV-AGENTS-DOWN",
        "MDV-CLOUD",
        "MDV-MINORITY",
        "MDV-PAUSED",
        "MDV-MAINTENANCE-OVER",
        "MDV-FENCE-UNREADABLE",
        "MDV-FENCE-ADDRESS",
        "MDV-CONFIG-REFUSED",
    ];
}

/// The three lines with which every alert opens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lines {
    /// What is lost now.
    pub lost: String,
    /// What medevac is doing, or what it waits for.
    pub doing: String,
    /// "nothing to do", or one command to paste.
    pub todo: String,
}

/// One alert, and what each receiver has been told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertRecord {
    pub id: AlertId,
    pub cause: Cause,
    pub severity: Severity,
    pub segment: SegmentId,
    pub hosts: BTreeSet<HostId>,
    pub incidents: BTreeSet<IncidentId>,
    /// As they were when it was last told; while it was firing.
    pub lines: Lines,
    /// How it ended.
    pub ending: String,
    /// Counts what is worth telling: receivers drop what they know.
    pub revision: u32,
    pub opened: Wall,
    pub changed: Wall,
    pub resolved: Option<Wall>,
    /// By receiver.
    pub told: BTreeMap<String, Told>,
}

/// What one receiver has been told of one alert.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Up to this revision.
    pub revision: u32,
    /// It has heard that it fires: nobody is told of an end without a beginning.
    pub firing: bool,
    /// It refused for good: a dead letter, until somebody asks for another try.
    pub refused: Option<String>,
}

/// What a restart may forget about an alert.
#[derive(Debug, Default)]
pub(crate) struct Tending {
    /// The newest incident has joined it then.
    joined_at: Option<Moment>,
    /// Nothing of it has been open since then.
    quiet_since: Option<Moment>,
    /// When its text was last told, and how long it then keeps.
    retold: Option<(Moment, Duration)>,
}

/// What a turn finds for one cause.
pub(crate) struct Finding {
    pub severity: Severity,
    pub segment: SegmentId,
    pub hosts: BTreeSet<HostId>,
    pub lines: Lines,
}

impl Triage {
    /// Compares the alerts with what is open.
    pub(crate) fn review_alerts(&mut self) {
        self.gather_incidents();
        self.stand_troubles();
        for id in self.open_alerts() {
            self.tend(id);
        }
        self.prune_alerts();
    }

    fn open_alerts(&self) -> Vec<AlertId> {
        self.durable.alerts.iter().filter(|alert| alert.resolved.is_none()).map(|alert| alert.id).collect()
    }

    /// Every open incident that is worth telling belongs to an alert.
    fn gather_incidents(&mut self) {
        for id in self.durable.open_incidents() {
            let Some(incident) = self.incident(id).cloned() else { continue };
            if self.alert_of(id).is_some() || !self.is_worth_telling(&incident) {
                continue;
            }
            let cause = cause_of(&incident);
            let alert = self.alert_to_join(&cause).unwrap_or_else(|| self.open_alert(cause));
            if let Some(record) = self.durable.alerts.edit(&alert) {
                record.incidents.insert(id);
            }
            let now = self.now.at;
            self.tending(alert).joined_at = Some(now);
        }
    }

    fn is_worth_telling(&mut self, incident: &IncidentRecord) -> bool {
        let planned = self.is_planned(incident);
        match incident.kind {
            // A user's own shutdown looks the same until libvirt has told.
            IncidentKind::InstanceGone => !planned && incident.phase != Phase::CausePending,
            IncidentKind::HostSilent
            | IncidentKind::HostHung
            | IncidentKind::HostRebooted
            | IncidentKind::ServiceDown
            | IncidentKind::FactsLost => !planned,
            IncidentKind::HostShot
            | IncidentKind::HostCloned
            | IncidentKind::TwoCopies
            | IncidentKind::ProofRefuted => true,
        }
    }

    /// It is about a host in maintenance, or was a moment ago.
    fn is_planned(&mut self, incident: &IncidentRecord) -> bool {
        let now = self.now.at;
        let host = incident.host.as_ref().and_then(|host| self.host(host));
        let planned = host.is_some_and(|host| self.maintenance(host).is_some());
        let work = self.work(incident.id);
        if planned {
            work.planned_at = Some(now);
        }
        work.planned_at.is_some_and(|at| now.since(at) < PLANNED_FOR)
    }

    /// It begins as planned work, which its own beginning has ended: a host came back that was waited for.
    pub(crate) fn was_planned(&mut self, incident: IncidentId) {
        let now = self.now.at;
        self.work(incident).planned_at = Some(now);
    }

    fn alert_of(&self, incident: IncidentId) -> Option<AlertId> {
        let open = self.durable.alerts.iter().filter(|alert| alert.resolved.is_none());
        open.filter(|alert| alert.incidents.contains(&incident)).map(|alert| alert.id).next()
    }

    fn alert_to_join(&self, cause: &Cause) -> Option<AlertId> {
        let open = self.durable.alerts.iter().filter(|alert| alert.resolved.is_none() && alert.cause == *cause);
        let newest = open.map(|alert| alert.id).max()?;
        let joined = self.tendings.get(&newest).and_then(|tending| tending.joined_at);
        let together = joined.is_some_and(|at| self.now.at.since(at) < TOGETHER);
        (together || !matches!(cause, Cause::HostsLost { .. })).then_some(newest)
    }

    fn open_alert(&mut self, cause: Cause) -> AlertId {
        let mut site = self.durable.site();
        site.alerts += 1;
        let id = AlertId(site.alerts);
        self.durable.site.put(site);
        self.durable.alerts.put(AlertRecord {
            id,
            cause,
            severity: Severity::Info,
            segment: SegmentId::default(),
            hosts: BTreeSet::new(),
            incidents: BTreeSet::new(),
            lines: Lines::default(),
            ending: String::new(),
            revision: 0,
            opened: self.now.wall,
            changed: self.now.wall,
            resolved: None,
            told: BTreeMap::new(),
        });
        id
    }

    fn tending(&mut self, id: AlertId) -> &mut Tending {
        self.tendings.entry(id).or_default()
    }

    /// Troubles without an incident: each opens its alert once it has lasted.
    fn stand_troubles(&mut self) {
        let now = self.now.at;
        if self.troubles_seen_at.is_some_and(|at| now.since(at) < TROUBLES_EVERY) {
            return;
        }
        self.troubles_seen_at = Some(now);
        let standing = self.troubles();
        self.troubled.retain(|cause, _| standing.contains(cause));
        for cause in standing {
            let since = *self.troubled.entry(cause.clone()).or_insert(now);
            if now.since(since) >= lasting(&cause) && self.alert_to_join(&cause).is_none() {
                self.open_alert(cause);
            }
        }
    }

    fn troubles(&self) -> BTreeSet<Cause> {
        let of_the_site = [
            (self.durable.site().paused.is_some(), Cause::Paused),
            (self.sight.trouble.is_some(), Cause::Cloud),
            (self.in_minority(self.now), Cause::Minority),
            (self.unread_why().is_some(), Cause::ConfigRefused),
        ];
        let agents = self.agents_down(self.now).into_keys().map(|segment| Cause::AgentsDown { segment });
        let lapsed = self.durable.hosts.iter().filter(|host| !host.maintenance_lapsed.is_empty());
        let lapsed = lapsed.map(|host| Cause::MaintenanceOver { host: host.id.clone() });
        let holding = of_the_site.into_iter().filter(|(holds, _)| *holds).map(|(_, cause)| cause);
        holding.chain(agents).chain(lapsed).chain(self.device_troubles()).collect()
    }

    /// Half of the site or more is not heard, and it is not because we have just begun to listen.
    pub(crate) fn in_minority(&self, now: Now) -> bool {
        let (heard, of) = self.majority();
        of > 1 && heard * 2 <= of && now.at >= self.settle_until
    }

    /// Hosts that live and whose agents have been away for long.
    pub(crate) fn agents_down(&self, now: Now) -> BTreeMap<SegmentId, BTreeSet<HostId>> {
        let mut down: BTreeMap<SegmentId, BTreeSet<HostId>> = BTreeMap::new();
        for host in self.durable.hosts.iter() {
            if self.standing(host) == Standing::AgentFailed
                && self.agent_gone_for(&host.id, now) >= self.settings.agents_down_after
                && self.maintenance(host).is_none()
            {
                down.entry(host.segment.clone()).or_default().insert(host.id.clone());
            }
        }
        down
    }

    /// Takes an alert to what holds now: updated, or resolved once it has been quiet for long enough.
    fn tend(&mut self, id: AlertId) {
        let now = self.now.at;
        let Some(alert) = self.durable.alerts.get(&id).cloned() else { return };
        match self.finding(&alert) {
            Some(finding) => {
                self.tending(id).quiet_since = None;
                self.update_alert(&alert, finding);
            }
            None => {
                let since = *self.tending(id).quiet_since.get_or_insert(now);
                if now.since(since) >= self.settings.resolve_after {
                    self.resolve_alert(&alert);
                }
            }
        }
    }

    fn update_alert(&mut self, alert: &AlertRecord, finding: Finding) {
        let now = self.now;
        let severity = alert.severity.max(finding.severity);
        let first = alert.revision == 0;
        let grown = severity != alert.severity || !finding.hosts.is_subset(&alert.hosts);
        let retold = self.tendings.get(&alert.id).and_then(|tending| tending.retold);
        let text = finding.lines != alert.lines && retold.is_none_or(|(at, keeps)| now.at.since(at) >= keeps);
        if !first && !grown && !text {
            return;
        }
        let keeps = match retold {
            Some((_, keeps)) if !grown => (keeps * 2).min(RETELL_MAX),
            _ => RETELL_FIRST,
        };
        let Some(record) = self.durable.alerts.edit(&alert.id) else { return };
        record.severity = severity;
        record.segment = finding.segment;
        record.hosts = finding.hosts;
        record.lines = finding.lines;
        record.revision += 1;
        record.changed = now.wall;
        let (code, lost) = (record.cause.code(), record.lines.lost.clone());
        self.tending(alert.id).retold = Some((now.at, keeps));
        if first {
            self.note(code, true, format!("{}, {}: {lost}", alert.id, severity.name()));
        }
    }

    fn resolve_alert(&mut self, alert: &AlertRecord) {
        self.tendings.remove(&alert.id);
        // Over before there was anything to tell.
        if alert.revision == 0 {
            return self.durable.alerts.remove(&alert.id);
        }
        let (wall, ending) = (self.now.wall, self.ending(alert));
        if let Some(record) = self.durable.alerts.edit(&alert.id) {
            record.ending = ending;
            record.resolved = Some(wall);
            record.changed = wall;
            record.revision += 1;
        }
        self.note(alert.cause.code(), false, format!("{} is resolved", alert.id));
    }

    /// How its incidents ended, in their own words.
    fn ending(&self, alert: &AlertRecord) -> String {
        let closed = alert.incidents.iter().filter_map(|id| self.incident(*id));
        let told: Vec<String> = closed
            .filter_map(|incident| Some(format!("{}: {}", incident.id, incident.timeline.last()?.text)))
            .collect();
        let more = match told.len().saturating_sub(NAMES_SHOWN) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        match told.is_empty() {
            true => format!("it is over; it was: {}", alert.lines.lost),
            false => format!("{}{more}", told[..told.len().min(NAMES_SHOWN)].join("; ")),
        }
    }

    /// What holds of an alert's cause now; `None`: nothing any more.
    fn finding(&self, alert: &AlertRecord) -> Option<Finding> {
        match &alert.cause {
            Cause::AgentsDown { segment } => self.agents_down_finding(segment),
            Cause::Cloud => self.sight.trouble.as_ref().map(|why| {
                let lost = "nothing runs less, but no server can be evacuated or restarted".to_owned();
                let doing = format!("asking again: the cloud's control plane cannot be used: {why}");
                self.of_the_site(lost, doing, "openstack compute service list")
            }),
            Cause::Minority => self.in_minority(self.now).then(|| {
                let (heard, of) = self.majority();
                let lost = format!("only {heard} of {of} hosts are heard: is this aggregator cut off?");
                self.of_the_site(lost, "nobody is shot while half of the site is silent".to_owned(), "medevacctl hosts")
            }),
            Cause::Paused => self.durable.site().paused.map(|reason| {
                let lost = "nothing now, but whatever dies stays dead".to_owned();
                let doing = format!("nothing is ordered: paused, {reason}");
                self.of_the_site(lost, doing, "medevacctl resume --reason '...'")
            }),
            Cause::MaintenanceOver { host } => self.lapsed_finding(host),
            Cause::DevicesUnreadable { segment } => self.unreadable_finding(segment, &alert.hosts),
            Cause::DevicesDiffer { segment } => self.differing_finding(segment, &alert.hosts),
            Cause::ConfigRefused => self.unread_why().map(|why| {
                let lost = "nothing: the configuration that was read last holds".to_owned();
                let doing = format!("nothing: the file was refused: {why}");
                let todo = "medevac-aggregator --check-config && systemctl reload medevac-aggregator";
                Finding { severity: Severity::Warning, ..self.of_the_site(lost, doing, todo) }
            }),
            Cause::Trial => None,
            Cause::HostsLost { .. }
            | Cause::GuestsGone { .. }
            | Cause::ServicesDown { .. }
            | Cause::Incident { .. } => self.incidents_finding(alert),
        }
    }

    fn of_the_site(&self, lost: String, doing: String, todo: &str) -> Finding {
        let lines = Lines { lost, doing, todo: todo.to_owned() };
        Finding { severity: Severity::Critical, segment: SegmentId::default(), hosts: BTreeSet::new(), lines }
    }

    fn lapsed_finding(&self, host: &HostId) -> Option<Finding> {
        let record = self.host(host).filter(|record| !record.maintenance_lapsed.is_empty())?;
        let lines = Lines {
            lost: format!("nothing: the maintenance of {host} has ended by its own limit"),
            doing: format!("it is judged like any other host again; it was: {}", record.maintenance_lapsed),
            todo: format!("medevacctl maintenance {host} on --reason '...'"),
        };
        let (segment, hosts) = (record.segment.clone(), [host.clone()].into());
        Some(Finding { severity: Severity::Warning, segment, hosts, lines })
    }

    fn agents_down_finding(&self, segment: &SegmentId) -> Option<Finding> {
        let hosts = self.agents_down(self.now).remove(segment)?;
        let first = hosts.first()?;
        let lines = Lines {
            lost: format!("agents do not run on {}; their guests are not harmed", names(&hosts)),
            doing: "the hosts are watched by their neighbours; their guests are not".to_owned(),
            todo: format!("ssh {first} systemctl status medevac-agent"),
        };
        Some(Finding { severity: Severity::Warning, segment: segment.clone(), hosts, lines })
    }

    fn incidents_finding(&self, alert: &AlertRecord) -> Option<Finding> {
        let of = alert.incidents.iter().filter_map(|id| self.incident(*id));
        let open: Vec<&IncidentRecord> = of.filter(|incident| !incident.phase.closed()).collect();
        let first = *open.first()?;
        let hosts: BTreeSet<HostId> = open.iter().filter_map(|incident| incident.host.clone()).collect();
        let severity = open.iter().map(|incident| self.severity(incident)).max().unwrap_or_default();
        Some(Finding { severity, segment: first.segment.clone(), lines: self.lines(&open, &hosts), hosts })
    }

    /// The lines of one incident, or of all together.
    fn lines(&self, open: &[&IncidentRecord], hosts: &BTreeSet<HostId>) -> Lines {
        let views: Vec<_> = open.iter().filter_map(|incident| self.incident_view(incident.id)).collect();
        let [one] = views.as_slice() else {
            let whose: BTreeSet<&String> = views.iter().map(|view| &view.subject).collect();
            let doing: BTreeSet<&String> = views.iter().map(|view| &view.doing).collect();
            let needs = views.iter().find(|view| view.todo != NOTHING_TO_DO);
            return Lines {
                lost: match open.first().map(|incident| incident.kind) {
                    Some(IncidentKind::InstanceGone) => {
                        format!("{} guests of {} do not run: {}", views.len(), names(hosts), names(&whose))
                    }
                    Some(IncidentKind::ServiceDown) => {
                        format!(
                            "nothing runs less, but Nova can neither start, stop nor move servers of {}",
                            names(hosts)
                        )
                    }
                    _ => {
                        let lost: usize = open.iter().map(|incident| self.lost_guests(incident)).sum();
                        format!(
                            "{} hosts are lost: {}; {lost} of their guests are not known to run",
                            hosts.len(),
                            names(hosts)
                        )
                    }
                },
                doing: doing.into_iter().take(3).cloned().collect::<Vec<_>>().join("; "),
                todo: needs.map_or_else(|| NOTHING_TO_DO.to_owned(), |view| view.todo.clone()),
            };
        };
        Lines { lost: one.lost.clone(), doing: one.doing.clone(), todo: one.todo.clone() }
    }

    fn severity(&self, incident: &IncidentRecord) -> Severity {
        let waits_for_a_person = match &incident.phase {
            Phase::WaitingForApproval | Phase::FenceUnknown { .. } | Phase::Paused => true,
            // Or for its turn alone.
            Phase::WaitingForRail { .. } => self.outstanding(&incident.segment, incident).is_none(),
            // In observe mode nobody else brings them back.
            Phase::Observed => self.lost_guests(incident) > 0,
            Phase::Waiting => {
                self.durable.outcomes_of(incident.id).iter().any(|outcome| outcome.state == OutcomeState::Waiting)
            }
            _ => false,
        };
        match incident.kind {
            IncidentKind::TwoCopies | IncidentKind::ProofRefuted | IncidentKind::HostCloned => Severity::Critical,
            IncidentKind::FactsLost => Severity::Info,
            _ if waits_for_a_person => Severity::Critical,
            _ => Severity::Warning,
        }
    }

    /// Resolved ones go when everybody has been told; the oldest first.
    fn prune_alerts(&mut self) {
        if self.durable.alerts.len() <= RESOLVED_KEPT {
            return;
        }
        let resolved: Vec<AlertId> =
            self.durable.alerts.iter().filter(|alert| alert.resolved.is_some()).map(|alert| alert.id).collect();
        let all = self.durable.alerts.len();
        let (mut spare, mut excess) = (resolved.len().saturating_sub(RESOLVED_KEPT), all.saturating_sub(ALERTS_MAX));
        let oldest: BTreeSet<AlertId> = resolved.into_iter().collect();
        for id in oldest {
            let told = self.durable.alerts.get(&id).is_none_or(|alert| self.everybody_knows(alert));
            if excess > 0 && !told {
                self.note(
                    "MDV-ALERT-DROPPED",
                    true,
                    format!("{id} was never told to all of its receivers: too many wait"),
                );
            }
            if excess > 0 || (spare > 0 && told) {
                self.durable.alerts.remove(&id);
                self.tendings.remove(&id);
            }
            excess = excess.saturating_sub(1);
            spare = spare.saturating_sub(1);
        }
    }
}

/// The third line when there is nothing to do.
pub(crate) const NOTHING_TO_DO: &str = "nothing to do";

fn cause_of(incident: &IncidentRecord) -> Cause {
    let host = incident.host.clone().unwrap_or_default();
    let segment = incident.segment.clone();
    match incident.kind {
        IncidentKind::HostSilent | IncidentKind::HostHung | IncidentKind::HostShot | IncidentKind::HostRebooted => {
            Cause::HostsLost { segment }
        }
        IncidentKind::InstanceGone => Cause::GuestsGone { host },
        IncidentKind::ServiceDown => Cause::ServicesDown { segment },
        kind => Cause::Incident { kind, incident: incident.id },
    }
}

/// How long a trouble must have lasted before anybody is told.
fn lasting(cause: &Cause) -> Duration {
    match cause {
        Cause::Cloud => CLOUD_TROUBLE_FOR,
        Cause::Minority => MINORITY_FOR,
        Cause::Paused => PAUSED_FOR,
        // It has its own setting.
        _ => Duration::ZERO,
    }
}

/// A few names, and how many more there are.
pub(crate) fn names<T: fmt::Display>(all: &BTreeSet<T>) -> String {
    let shown: Vec<String> = all.iter().take(NAMES_SHOWN).map(ToString::to_string).collect();
    match all.len().saturating_sub(NAMES_SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
