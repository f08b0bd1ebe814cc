//! Incidents: opened, told about, closed. The records are the audit trail;
//! [`Work`] is what a restart may forget.

use crate::Triage;
use crate::id::{BootId, HostId, IncidentId, InstanceId, StepId};
use crate::record::{
    Entry, IncidentKind, IncidentRecord, OutcomeRecord, OutcomeState, Phase, SiteRecord, StepKind, StepRecord,
    StepState,
};
use crate::segments::DEFAULT_SEGMENT;
use crate::time::{Moment, millis};
use crate::turns::Tiers;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Lines kept in a timeline: with the next limit, well below a record's size.
const TIMELINE_MAX: usize = 120;
/// A line of a timeline, cut at this many bytes.
const LINE_MAX: usize = 300;
/// Closed incidents kept at most: the newest ones.
const CLOSED_KEPT: usize = 500;
/// Closed incidents kept whatever their age: the history of a quiet site.
const CLOSED_KEPT_ANYWAY: usize = 100;
/// Older ones go. By wall time, which may jump: then a history is lost, but
/// never its newest part, and nothing is decided by it.
const CLOSED_AGE_MS: u64 = 90 * 24 * 3600 * 1000;

/// What a restart may forget about an incident: clocks and questions under way.
#[derive(Debug)]
pub(crate) struct Work {
    pub opened_at: Moment,
    /// Nothing is tried before this moment.
    pub retry_at: Option<Moment>,
    /// The newest off order left at this moment.
    pub ordered_at: Option<Moment>,
    /// The confirming read was begun then.
    pub read_at: Option<Moment>,
    /// The answer "off" to the newest off order came then.
    pub off_at: Option<Moment>,
    /// Boots that died beside it, and of whose hosts the newest off order cannot have
    /// taken the power.
    pub died_alone: BTreeSet<(HostId, BootId)>,
    /// Loaded at start: reality is read again before anything is repeated.
    pub resumed: bool,
    /// A fence pass or a read of a resumed incident is under way.
    pub asked: bool,
    /// It may have something to do at any moment.
    pub restless: bool,
    /// Only inventories taken after this moment count as fresh.
    pub fresh_from: Moment,
    /// Doubts as last told, so that each is told once.
    pub told: String,
    pub tiers: Tiers,
    /// Its host was in maintenance then.
    pub planned_at: Option<Moment>,
    /// Nova was asked for what is read before the first evacuations.
    pub read_ahead: bool,
}

impl Work {
    pub fn new(now: Moment) -> Self {
        Self {
            opened_at: now,
            retry_at: None,
            ordered_at: None,
            read_at: None,
            off_at: None,
            died_alone: BTreeSet::new(),
            resumed: false,
            asked: false,
            restless: true,
            fresh_from: now,
            told: String::new(),
            tiers: Tiers::default(),
            planned_at: None,
            read_ahead: false,
        }
    }

    pub fn resumed(now: Moment) -> Self {
        Self { resumed: true, ..Self::new(now) }
    }
}

/// What an incident is about.
pub(crate) struct Opening {
    pub kind: IncidentKind,
    pub host: Option<HostId>,
    pub boot: Option<BootId>,
    pub instance: Option<InstanceId>,
}

impl Triage {
    /// Opens an incident, or finds the open one of the same kind about the same thing.
    pub(crate) fn open_incident(&mut self, opening: Opening, phase: Phase) -> IncidentId {
        let same = |i: &&IncidentRecord| {
            !i.phase.closed() && i.kind == opening.kind && i.host == opening.host && i.instance == opening.instance
        };
        if let Some(open) = self.durable.incidents.iter().find(same) {
            return open.id;
        }
        let mut site = self.durable.site();
        site.next_incident += 1;
        let id = IncidentId(site.next_incident);
        self.durable.site.put(SiteRecord { ..site });
        let segment = opening.host.as_ref().and_then(|host| self.host(host)).map(|record| record.segment.clone());
        let segment = segment.unwrap_or_else(|| DEFAULT_SEGMENT.into());
        let incident = IncidentRecord::opened(id, opening.kind, segment, phase, self.now.wall);
        let Opening { host, boot, instance, .. } = opening;
        self.durable.incidents.put(IncidentRecord { host, boot, instance, ..incident });
        self.work.insert(id, Work::new(self.now.at));
        id
    }

    pub(crate) fn work(&mut self, id: IncidentId) -> &mut Work {
        let now = self.now.at;
        self.work.entry(id).or_insert_with(|| Work::new(now))
    }

    pub(crate) fn incident(&self, id: IncidentId) -> Option<&IncidentRecord> {
        self.durable.incidents.get(&id)
    }

    /// One more step of an incident, ordered: durable before anything leaves the process.
    pub(crate) fn order_step(
        &mut self,
        id: IncidentId,
        what: StepKind,
        deadline: Duration,
        precondition: &str,
    ) -> Option<StepId> {
        let incident = self.durable.incidents.edit(&id)?;
        let step = StepId { incident: id, step: incident.next_step };
        incident.next_step += 1;
        self.durable.steps.put(StepRecord {
            id: step,
            what,
            state: StepState::Ordered,
            deadline_ms: millis(deadline),
            precondition: precondition.to_owned(),
            handle: String::new(),
        });
        Some(step)
    }

    /// One more line of an incident's timeline.
    pub(crate) fn log(&mut self, id: IncidentId, code: &str, text: String) {
        let wall = self.now.wall;
        let since_ms = self.since(id);
        let Some(incident) = self.durable.incidents.edit(&id) else { return };
        let text = cut(text);
        incident.timeline.push(Entry { wall, since_ms, code: code.to_owned(), text });
        if incident.timeline.len() > TIMELINE_MAX {
            // The beginning tells why; what repeats is in the middle.
            incident.timeline.remove(TIMELINE_MAX / 2);
            incident.dropped += 1;
        }
    }

    /// Milliseconds since the host's last sign of life, or since the incident began.
    fn since(&self, id: IncidentId) -> u64 {
        let now = self.now.at;
        let Some(incident) = self.incident(id) else { return 0 };
        let first = incident.timeline.first().map(|entry| (entry.wall.0, entry.since_ms));
        let from_first = first.map(|(wall, since)| since + self.now.wall.0.saturating_sub(wall));
        let opened = self.work.get(&id).map_or(0, |work| millis(now.since(work.opened_at)));
        let silence = incident.host.as_ref().map(|host| millis(self.silence(host)));
        from_first.or(silence).unwrap_or(opened)
    }

    /// Moves an incident on, with the line that says so.
    pub(crate) fn set_phase(&mut self, id: IncidentId, phase: Phase, code: &str, text: String) {
        if self.incident(id).is_none_or(|incident| incident.phase == phase) {
            return;
        }
        if let Some(incident) = self.durable.incidents.edit(&id) {
            incident.phase = phase;
        }
        self.log(id, code, text);
    }

    pub(crate) fn close(&mut self, id: IncidentId, outcome: &str, text: String) {
        if self.incident(id).is_none_or(|incident| incident.phase.closed()) {
            return;
        }
        self.log(id, "closed", text.clone());
        let wall = self.now.wall;
        if let Some(incident) = self.durable.incidents.edit(&id) {
            incident.phase = Phase::Closed { outcome: outcome.to_owned() };
            incident.closed = Some(wall);
        }
        self.work.remove(&id);
        self.note("MDV-CLOSED", false, format!("{id} closed, {outcome}: {text}"));
    }

    /// The open incident in which this host's death is dealt with.
    pub(crate) fn host_incident(&self, host: &HostId) -> Option<IncidentId> {
        let about =
            |i: &&IncidentRecord| i.kind.is_a_hosts_death() && !i.phase.closed() && i.host.as_ref() == Some(host);
        self.durable.incidents.iter().filter(about).map(|i| i.id).max()
    }

    /// Some open incident has this instance in hand.
    pub(crate) fn in_hand(&self, instance: &InstanceId) -> bool {
        self.hand(instance).is_some()
    }

    /// The open incident that has this instance in hand.
    pub(crate) fn hand(&self, instance: &InstanceId) -> Option<IncidentId> {
        let busy = |i: &&IncidentRecord| {
            !i.phase.closed()
                && (self.durable.outcome(i.id, instance).is_some_and(|o| {
                    matches!(o.state, OutcomeState::Planned | OutcomeState::Starting | OutcomeState::Waiting)
                }) || (i.kind == IncidentKind::InstanceGone && i.instance.as_ref() == Some(instance)))
        };
        self.durable.incidents.iter().find(busy).map(|i| i.id)
    }

    pub(crate) fn set_outcome(
        &mut self,
        id: IncidentId,
        instance: &InstanceId,
        state: OutcomeState,
        host: Option<HostId>,
        text: &str,
    ) {
        let text = cut(text.to_owned());
        let new = OutcomeRecord { incident: id, instance: instance.clone(), state, host, text };
        if self.durable.outcome(id, instance) != Some(&new) {
            self.durable.outcomes.put(new);
        }
    }

    pub(crate) fn forget_heard(&mut self, id: IncidentId) {
        let heard: Vec<_> = self.durable.heard_at_order(id).into_iter().map(|was| (id, was.host.clone())).collect();
        heard.iter().for_each(|was| self.durable.heard.remove(was));
    }

    /// Old closed incidents go, and what belongs to them first.
    pub(crate) fn prune(&mut self) {
        let closed: BTreeMap<IncidentId, u64> = self
            .durable
            .incidents
            .iter()
            .filter(|i| i.phase.closed())
            .map(|i| (i.id, self.now.wall.0.saturating_sub(i.closed.unwrap_or(i.opened).0)))
            .collect();
        let (excess, spare) =
            (closed.len().saturating_sub(CLOSED_KEPT), closed.len().saturating_sub(CLOSED_KEPT_ANYWAY));
        let goes = |(at, age): (usize, u64)| at < excess || (at < spare && age > CLOSED_AGE_MS);
        for (id, _) in closed.into_iter().enumerate().filter(|(at, (_, age))| goes((*at, *age))).map(|(_, of)| of) {
            for step in self.durable.steps_of(id) {
                self.durable.steps.remove(&step.id);
            }
            let outcomes: Vec<_> = self.durable.outcomes_of(id).into_iter().map(|o| (id, o.instance.clone())).collect();
            outcomes.iter().for_each(|outcome| self.durable.outcomes.remove(outcome));
            self.forget_heard(id);
            self.durable.incidents.remove(&id);
        }
        let hashes: BTreeSet<String> = self.durable.instances.iter().map(|i| i.xml_hash.clone()).collect();
        for hash in self.durable.xmls.ids() {
            if !hashes.contains(&hash) {
                self.durable.xmls.remove(&hash);
            }
        }
    }
}

fn cut(mut text: String) -> String {
    let end = text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= LINE_MAX).last();
    text.truncate(end.unwrap_or(0));
    text
}
