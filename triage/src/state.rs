//! Durable state as triage sees it: tables with a draft over each, and the one
//! function through which a committed change takes effect.

use crate::id::{HostId, IncidentId, InstanceId, SegmentId, StepId};
use crate::record::{
    Change, HostRecord, IncidentRecord, InstanceRecord, Key, Record, SegmentRecord, SiteRecord, StepRecord, WordRecord,
    XmlRecord,
};
use crate::table::{Kept, Table};
use std::collections::{BTreeMap, BTreeSet};

macro_rules! kept {
    ($record:ident, $id:ty, $variant:ident, $field:ident, $prefix:literal) => {
        impl Kept for $record {
            type Id = $id;
            fn id(&self) -> $id {
                self.$field.clone()
            }
            fn key(id: &$id) -> Key {
                format!(concat!($prefix, "/{}"), id)
            }
            fn wrap(self) -> Record {
                Record::$variant(self)
            }
        }
    };
}

kept!(SegmentRecord, SegmentId, Segment, id, "segment");
kept!(HostRecord, HostId, Host, id, "host");
kept!(InstanceRecord, InstanceId, Instance, id, "instance");
kept!(IncidentRecord, IncidentId, Incident, id, "incident");
kept!(StepRecord, StepId, Step, id, "step");
kept!(XmlRecord, String, Xml, hash, "xml");
kept!(WordRecord, u64, Word, number, "word");

impl Kept for SiteRecord {
    type Id = ();
    fn id(&self) {}
    fn key((): &()) -> Key {
        "site".to_owned()
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
        changes.extend(self.segments.changes());
        changes.extend(self.hosts.changes());
        changes.extend(self.instances.changes());
        changes.extend(self.steps.changes());
        changes.extend(self.site.changes());
        changes.extend(self.incidents.changes());
        self.xmls.settle();
        self.words.settle();
        self.segments.settle();
        self.hosts.settle();
        self.instances.settle();
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
            },
            Change::Delete(key) => self.delete(key),
        }
    }

    fn delete(&mut self, key: &str) {
        let kind = key.split('/').next().unwrap_or_default();
        match kind {
            "segment" => self.segments.apply_delete(key),
            "host" => self.hosts.apply_delete(key),
            "instance" => self.instances.apply_delete(key),
            "incident" => self.incidents.apply_delete(key),
            "step" => self.steps.apply_delete(key),
            "xml" => self.xmls.apply_delete(key),
            "word" => self.words.apply_delete(key),
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

    /// Steps of one incident, in order.
    pub fn steps_of(&self, incident: IncidentId) -> Vec<StepRecord> {
        let count = self.incidents.get(&incident).map_or(0, |i| i.next_step);
        (0..count).filter_map(|step| self.steps.get(&StepId { incident, step }).cloned()).collect()
    }
}
