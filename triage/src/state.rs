//! Durable state as triage sees it: tables with a draft over each, and the one
//! function through which a committed change takes effect.

use crate::alert::{AlertId, AlertRecord};
use crate::devices::DeviceRecord;
use crate::id::{HostId, IncidentId, InstanceId, SegmentId, StepId};
use crate::identity::{BarredRecord, RevokedRecord, TokenRecord};
use crate::record::{
    Change, HeardRecord, HostRecord, IncidentRecord, InstanceRecord, Key, OutcomeRecord, Record, SegmentRecord,
    SiteRecord, StepRecord, WordRecord, XmlRecord,
};
use crate::table::{Kept, Table};
use std::collections::{BTreeMap, BTreeSet};

macro_rules! kept {
    ($record:ident, $id:ty, $variant:ident, $prefix:literal, $own:expr, $parse:expr) => {
        impl Kept for $record {
            type Id = $id;
            fn id(&self) -> $id {
                let own: fn(&Self) -> $id = $own;
                own(self)
            }
            fn key(id: &$id) -> Key {
                format!(concat!($prefix, "/{}"), written(id))
            }
            fn parse(rest: &str) -> Option<$id> {
                let parse: fn(&str) -> Option<$id> = $parse;
                parse(rest)
            }
            fn wrap(self) -> Record {
                Record::$variant(self)
            }
        }
    };
}

kept!(SegmentRecord, SegmentId, Segment, "segment", |r| r.id.clone(), |rest| Some(rest.into()));
kept!(HostRecord, HostId, Host, "host", |r| r.id.clone(), |rest| Some(rest.into()));
kept!(InstanceRecord, InstanceId, Instance, "instance", |r| r.id.clone(), |rest| Some(rest.into()));
kept!(IncidentRecord, IncidentId, Incident, "incident", |r| r.id, IncidentId::parse);
kept!(StepRecord, StepId, Step, "step", |r| r.id, StepId::parse);
kept!(XmlRecord, String, Xml, "xml", |r| r.hash.clone(), |rest| Some(rest.to_owned()));
kept!(WordRecord, u64, Word, "word", |r| r.number, |rest| rest.parse().ok());
kept!(AlertRecord, AlertId, Alert, "alert", |r| r.id, AlertId::parse);
kept!(OutcomeRecord, (IncidentId, InstanceId), Outcome, "outcome", |r| (r.incident, r.instance.clone()), |rest| {
    let (incident, instance) = rest.split_once('/')?;
    Some((IncidentId::parse(incident)?, instance.into()))
});
kept!(HeardRecord, (IncidentId, HostId), Heard, "heard", |r| (r.incident, r.host.clone()), |rest| {
    let (incident, host) = rest.split_once('/')?;
    Some((IncidentId::parse(incident)?, host.into()))
});
kept!(TokenRecord, String, Token, "token", |r| r.id.clone(), |rest| Some(rest.to_owned()));
kept!(RevokedRecord, HostId, Revoked, "revoked", |r| r.host.clone(), |rest| Some(rest.into()));
kept!(BarredRecord, String, Barred, "barred", |r| r.serial.clone(), |rest| Some(rest.to_owned()));
kept!(DeviceRecord, HostId, Device, "device", |r| r.host.clone(), |rest| Some(rest.into()));

/// An id as the rest of a key.
trait Written {
    fn write(&self) -> String;
}

fn written(id: &impl Written) -> String {
    id.write()
}

macro_rules! shown_as_written {
    ($($id:ty),*) => {
        $(impl Written for $id {
            fn write(&self) -> String {
                self.to_string()
            }
        })*
    };
}
shown_as_written!(SegmentId, HostId, InstanceId, IncidentId, StepId, AlertId, String, u64);

impl<A: Written, B: Written> Written for (A, B) {
    fn write(&self) -> String {
        format!("{}/{}", self.0.write(), self.1.write())
    }
}

impl Kept for SiteRecord {
    type Id = ();
    fn id(&self) {}
    fn key((): &()) -> Key {
        "site".to_owned()
    }
    fn parse(_: &str) -> Option<()> {
        Some(())
    }
    fn wrap(self) -> Record {
        Record::Site(self)
    }
}

#[derive(Debug, Default)]
pub struct Durable {
    pub site: Table<SiteRecord>,
    pub segments: Table<SegmentRecord>,
    pub hosts: Table<HostRecord>,
    pub instances: Table<InstanceRecord>,
    pub incidents: Table<IncidentRecord>,
    pub steps: Table<StepRecord>,
    pub xmls: Table<XmlRecord>,
    pub words: Table<WordRecord>,
    pub outcomes: Table<OutcomeRecord>,
    pub heard: Table<HeardRecord>,
    pub alerts: Table<AlertRecord>,
    pub tokens: Table<TokenRecord>,
    pub revoked: Table<RevokedRecord>,
    pub barred: Table<BarredRecord>,
    pub devices: Table<DeviceRecord>,
    /// Instances that a host may have to do with: a hint that never forgets too much.
    by_host: BTreeMap<HostId, BTreeSet<InstanceId>>,
}

impl Durable {
    pub fn site(&self) -> SiteRecord {
        self.site.get(&()).cloned().unwrap_or_default()
    }

    /// What this turn changed, plans' headers (incidents) last.
    pub fn take_changes(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        changes.extend(self.xmls.changes());
        changes.extend(self.words.changes());
        changes.extend(self.alerts.changes());
        changes.extend(self.tokens.changes());
        changes.extend(self.revoked.changes());
        changes.extend(self.barred.changes());
        changes.extend(self.devices.changes());
        changes.extend(self.segments.changes());
        changes.extend(self.hosts.changes());
        changes.extend(self.instances.changes());
        changes.extend(self.heard.changes());
        changes.extend(self.outcomes.changes());
        changes.extend(self.steps.changes());
        changes.extend(self.site.changes());
        changes.extend(self.incidents.changes());
        self.xmls.settle();
        self.words.settle();
        self.alerts.settle();
        self.tokens.settle();
        self.revoked.settle();
        self.barred.settle();
        self.devices.settle();
        self.segments.settle();
        self.hosts.settle();
        self.instances.settle();
        self.heard.settle();
        self.outcomes.settle();
        self.steps.settle();
        self.site.settle();
        self.incidents.settle();
        changes
    }

    /// The one way in which durable state changes.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Put(_, record) => match record.as_ref().clone() {
                Record::Site(record) => self.site.apply_put(record),
                Record::Segment(record) => self.segments.apply_put(record),
                Record::Host(record) => self.hosts.apply_put(record),
                Record::Instance(record) => {
                    self.index(&record);
                    self.instances.apply_put(record);
                }
                Record::Incident(record) => self.incidents.apply_put(record),
                Record::Step(record) => self.steps.apply_put(record),
                Record::Xml(record) => self.xmls.apply_put(record),
                Record::Word(record) => self.words.apply_put(record),
                Record::Outcome(record) => self.outcomes.apply_put(record),
                Record::Heard(record) => self.heard.apply_put(record),
                Record::Alert(record) => self.alerts.apply_put(record),
                Record::Token(record) => self.tokens.apply_put(record),
                Record::Revoked(record) => self.revoked.apply_put(record),
                Record::Barred(record) => self.barred.apply_put(record),
                Record::Device(record) => self.devices.apply_put(record),
            },
            Change::Delete(key) => self.delete(key),
        }
    }

    fn delete(&mut self, key: &str) {
        let (kind, rest) = key.split_once('/').unwrap_or((key, ""));
        match kind {
            "segment" => self.segments.apply_delete(rest),
            "host" => self.hosts.apply_delete(rest),
            "instance" => self.instances.apply_delete(rest),
            "incident" => self.incidents.apply_delete(rest),
            "step" => self.steps.apply_delete(rest),
            "xml" => self.xmls.apply_delete(rest),
            "word" => self.words.apply_delete(rest),
            "outcome" => self.outcomes.apply_delete(rest),
            "heard" => self.heard.apply_delete(rest),
            "alert" => self.alerts.apply_delete(rest),
            "token" => self.tokens.apply_delete(rest),
            "revoked" => self.revoked.apply_delete(rest),
            "barred" => self.barred.apply_delete(rest),
            "device" => self.devices.apply_delete(rest),
            _ => false,
        };
    }

    /// Remembers which hosts an instance has to do with.
    pub fn index(&mut self, record: &InstanceRecord) {
        for host in record.homes.keys().chain(record.defined_on.iter()).chain([&record.last_host]) {
            self.by_host.entry(host.clone()).or_default().insert(record.id.clone());
        }
    }

    /// Instances that this host may have to do with; callers look again at each.
    pub fn instances_near(&self, host: &HostId) -> Vec<InstanceId> {
        self.by_host.get(host).map(|set| set.iter().cloned().collect()).unwrap_or_default()
    }

    pub fn open_incidents(&self) -> Vec<IncidentId> {
        let mut ids: Vec<_> = self.incidents.iter().filter(|i| !i.phase.closed()).map(|i| i.id).collect();
        ids.sort();
        ids
    }

    /// What became of one instance in one incident.
    pub fn outcome(&self, incident: IncidentId, instance: &InstanceId) -> Option<&OutcomeRecord> {
        self.outcomes.get(&(incident, instance.clone()))
    }

    /// What became of each instance in one incident.
    pub fn outcomes_of(&self, incident: IncidentId) -> Vec<&OutcomeRecord> {
        let next = (IncidentId(incident.0 + 1), InstanceId::default());
        let found = self.outcomes.range((incident, InstanceId::default())..=next);
        found.into_values().filter(|outcome| outcome.incident == incident).collect()
    }

    /// Everybody heard when an incident's first off order was committed.
    pub fn heard_at_order(&self, incident: IncidentId) -> Vec<&HeardRecord> {
        let next = (IncidentId(incident.0 + 1), HostId::default());
        let found = self.heard.range((incident, HostId::default())..=next);
        found.into_values().filter(|heard| heard.incident == incident).collect()
    }

    /// Steps of one incident, in order.
    pub fn steps_of(&self, incident: IncidentId) -> Vec<StepRecord> {
        let count = self.incidents.get(&incident).map_or(0, |i| i.next_step);
        (0..count).filter_map(|step| self.steps.get(&StepId { incident, step }).cloned()).collect()
    }
}
