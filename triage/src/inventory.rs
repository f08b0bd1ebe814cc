//! Taking in what a host shows: homes, what is defined where, what is stored
//! on what. A heartbeat that changes nothing never comes here.

use crate::Triage;
use crate::command::Command;
use crate::homes;
use crate::id::{BootId, HostId, InstanceId};
use crate::observation::{Inventory, RunState, Shown, StopReason};
use crate::record::{Home, HomeWhy, InstanceRecord, StepState, XmlRecord};
use crate::watch::Stock;
use std::time::Duration;

/// An XML that was asked for and did not come is asked for again after this long.
const XML_PATIENCE: Duration = Duration::from_secs(5);

impl Triage {
    pub(crate) fn take_inventory(&mut self, host: &HostId, boot: &BootId, inventory: Inventory, answers: Option<u64>) {
        if self.host(host).and_then(|record| record.boots.last()) != Some(boot) {
            return;
        }
        let mut near = self.durable.instances_near(host);
        near.extend(inventory.instances.keys().cloned());
        near.sort();
        near.dedup();
        for id in near {
            match inventory.instances.get(&id) {
                Some(shown) => self.show_instance(host, boot, &id, shown, inventory.libvirt_answered),
                None if inventory.libvirt_answered => self.miss_instance(host, &id),
                None => {}
            }
        }
        if let Some(record) = self.durable.hosts.edit(host) {
            record.has_inventory = true;
            record.unseen = false;
        }
        self.keep_stock(host, inventory);
        self.inventory_answered(host, answers);
        self.care_is_stale = true;
    }

    fn keep_stock(&mut self, host: &HostId, inventory: Inventory) {
        let now = self.now.at;
        let wanted: Vec<String> = inventory
            .instances
            .values()
            .map(|shown| shown.xml_hash.clone())
            // Nova keeps the definitions of its servers; nobody else starts them.
            .filter(|hash| !self.in_openstack() && !hash.is_empty() && self.durable.xmls.get(hash).is_none())
            .collect();
        let Some(watch) = self.watches.get_mut(host) else { return };
        watch.inventory = Some(Stock { inventory, taken_at: now, confirmed_at: now });
        let Some(live) = watch.session.as_mut() else { return };
        live.asked_inventory = None;
        let hashes: Vec<String> = wanted
            .into_iter()
            .filter(|hash| live.asked_xml.get(hash).is_none_or(|asked| now.since(*asked) > XML_PATIENCE))
            .collect();
        for hash in &hashes {
            live.asked_xml.insert(hash.clone(), now);
        }
        let session = live.id.clone();
        if !hashes.is_empty() {
            self.command(Command::AskXml { host: host.clone(), session, hashes });
        }
    }

    fn show_instance(&mut self, host: &HostId, boot: &BootId, id: &InstanceId, shown: &Shown, whole: bool) {
        let mut record = self.durable.instances.get(id).cloned().unwrap_or_else(|| InstanceRecord {
            id: id.clone(),
            last_host: host.clone(),
            ..InstanceRecord::default()
        });
        let lives = shown.state.lives();
        // What a start under way shows is not the guest yet: it may be about to fail.
        let pending = record.homes.get(host).is_some_and(|home| self.is_pending(&home.why));
        if lives {
            let why = match record.homes.get(host) {
                Some(home) if home.boot == *boot && self.is_pending(&home.why) => home.why.clone(),
                _ => HomeWhy::Shown,
            };
            let incoming = shown.state == RunState::Incoming;
            if !incoming && !pending {
                record.lived_in = Some((host.clone(), boot.clone()));
                // It lives here: where it died before no longer matters.
                record.homes.retain(|other, home| other == host || !self.is_dead(other, &home.boot));
            }
            record.homes.insert(host.clone(), Home { boot: boot.clone(), why, incoming });
        } else if whole {
            self.leave_home(&mut record, host);
        }
        // A copy that is merely defined says nothing about an instance that runs elsewhere.
        // A copy that waits for a migration has not lived there yet.
        let incoming = shown.state == RunState::Incoming;
        // A definition left behind by a failed start is no home, as long as the former one has its own.
        let orphaned = record.homes.is_empty() && !record.defined_on.contains(&record.last_host);
        let speaks = !pending && (lives || record.last_host == *host || orphaned);
        if speaks && !incoming && (lives || whole) {
            let name = self.name_in_cloud(&record);
            describe(&mut record, host, shown);
            record.name = name.unwrap_or(record.name);
        }
        if shown.persistent {
            record.defined_on.insert(host.clone());
        } else if whole && !lives {
            record.defined_on.remove(host);
        }
        if record.homes.len() > 1 || (record.wanted && !lives) {
            self.look_at.insert(id.clone());
        }
        self.durable.index(&record);
        self.durable.instances.put(record);
    }

    fn miss_instance(&mut self, host: &HostId, id: &InstanceId) {
        let Some(mut record) = self.durable.instances.get(id).cloned() else { return };
        self.leave_home(&mut record, host);
        record.defined_on.remove(host);
        let forgotten = record.homes.is_empty() && record.defined_on.is_empty() && !self.in_hand(id);
        if record.last_host == *host && record.last_state.lives() && record.homes.is_empty() {
            record.last_state = RunState::Stopped;
            if homes::ended_on_purpose(record.last_stop) && record.last_stop != StopReason::Migrated {
                record.wanted = false;
            } else {
                record.vanished = record.last_stop != StopReason::Crashed;
            }
        }
        if forgotten && record.protect.is_none() && !record.wanted {
            self.durable.instances.remove(id);
        } else {
            self.durable.instances.put(record);
        }
    }

    /// A home leaves by its own later inventory: not running, not incoming, no start pending.
    fn leave_home(&self, record: &mut InstanceRecord, host: &HostId) {
        let pending = record.homes.get(host).is_some_and(|home| self.is_pending(&home.why));
        if !pending {
            record.homes.remove(host);
        }
    }

    /// A start was ordered there and nobody knows yet what became of it.
    pub(crate) fn is_pending(&self, why: &HomeWhy) -> bool {
        let HomeWhy::Ordered(step) = why else { return false };
        let state = self.durable.steps.get(step).map(|step| &step.state);
        matches!(state, Some(StepState::Ordered | StepState::Accepted | StepState::Unknown { .. }))
    }

    pub(crate) fn take_xml(&mut self, host: &HostId, hash: String, xml: String) {
        let known = self.durable.instances_near(host);
        let wanted = known.iter().filter_map(|id| self.durable.instances.get(id)).any(|record| record.xml_hash == hash);
        if wanted {
            self.durable.xmls.put(XmlRecord { hash, xml });
        }
    }

    /// The same instance shown alive on two hosts by inventories that stand:
    /// an alarm, and no automatic act. A handover may look so for a moment.
    pub(crate) fn shown_alive_on(&self, id: &InstanceId) -> Vec<HostId> {
        let hosts = self.durable.instances.get(id).map(|record| record.homes.keys().cloned().collect::<Vec<_>>());
        let mut alive = Vec::new();
        for host in hosts.unwrap_or_default() {
            let Some(watch) = self.watches.get(&host) else { continue };
            let fresh = watch.session.as_ref().is_some_and(|live| self.is_fresh(live));
            let shown = watch.inventory.as_ref().and_then(|stock| stock.inventory.instances.get(id));
            let runs =
                shown.is_some_and(|shown| shown.state.lives() && shown.state != RunState::Incoming && !shown.outgoing);
            if fresh && runs {
                alive.push(host);
            }
        }
        alive
    }
}

/// What the host that matters shows of an instance.
fn describe(record: &mut InstanceRecord, host: &HostId, shown: &Shown) {
    if !shown.known {
        // Only its process was seen: it lives there, and nothing else is news.
        record.last_host = host.clone();
        record.last_state = if record.last_state.lives() { record.last_state } else { RunState::Running };
        return;
    }
    record.name.clone_from(&shown.name);
    record.vanished &= !shown.state.lives();
    record.last_host = host.clone();
    record.last_state = shown.state;
    record.memory_kib = shown.memory_kib;
    if !shown.xml_hash.is_empty() {
        record.xml_hash.clone_from(&shown.xml_hash);
    }
    record.persistent = shown.persistent;
    record.disks.clone_from(&shown.disks);
    record.local_only.clone_from(&shown.local_only);
    record.marked = shown.marked;
    if shown.state.lives() {
        record.last_stop = StopReason::Pending;
        record.set_aside = false;
        if shown.state != RunState::Incoming {
            // A source that hands over pauses its guest for a moment: that is no user's word.
            record.wanted = shown.state != RunState::Paused || (shown.outgoing && record.wanted);
            if record.moved_to.as_ref().is_some_and(|moved| moved != host) {
                record.moved_to = None;
            }
        }
    } else {
        if shown.last_stop != StopReason::Pending {
            record.last_stop = shown.last_stop;
        }
        if homes::ended_on_purpose(record.last_stop) || shown.state == RunState::Saved {
            record.wanted = false;
        }
    }
}
