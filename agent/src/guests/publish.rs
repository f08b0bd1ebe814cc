//! What the aggregator is shown of the guests: whole, or what changed.

use super::{Guest, Guests, Marked};
use crate::digest::Fnv;
use crate::domain_xml::{Kind, Source, directory_of, place_of};
use crate::markers::Used;
use crate::verdict;
use medevac_proto::session::{Disk, Instance, Inventory, InventoryChange, RunState, StorageMark, disk};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};

/// Longer chains of images than this are followed no further: they may be circles.
const CHAIN_MAX: usize = 16;

impl Guests {
    /// What is known of markers and of the images behind images.
    pub fn set_storage(&mut self, storage: BTreeMap<String, Marked>, backing: BTreeMap<String, String>) {
        (self.storage, self.backing) = (storage, backing);
    }

    /// Guests whose autostart flag the agent holds.
    pub fn set_autostart_taken(&mut self, taken: BTreeSet<String>) {
        self.autostart_taken = taken;
    }

    /// The change since the last call, or `None` when there is none.
    pub fn publish(&mut self) -> Option<InventoryChange> {
        let now: BTreeMap<String, Instance> = self.instances().map(|i| (i.uuid.clone(), i)).collect();
        let storage = self.readable();
        if now == self.published && storage == self.published_storage && self.generation > 0 {
            return None;
        }
        let changed = now.iter().filter(|(uuid, i)| self.published.get(*uuid) != Some(i));
        let upserted = changed.map(|(_, i)| i.clone()).collect();
        let removed = self.published.keys().filter(|uuid| !now.contains_key(*uuid)).cloned().collect();
        let base_generation = self.generation;
        self.generation += 1;
        self.digest = digest(now.values());
        (self.published, self.published_storage) = (now, storage);
        Some(InventoryChange {
            generation: self.generation,
            digest: self.digest,
            upserted,
            removed,
            base_generation,
            storage: self.storage_marks(),
        })
    }

    /// The whole inventory as last published.
    ///
    /// When libvirt did not answer, only what /proc shows to run: the rest would be hearsay.
    pub fn inventory(&self, ask: u64, libvirt_answered: bool, taken_boot_ms: u64) -> Inventory {
        let shown = self.published.values().filter(|i| libvirt_answered || i.process_alive);
        Inventory {
            generation: self.generation,
            digest: self.digest,
            instances: shown.cloned().collect(),
            libvirt_answered,
            ask,
            storage: self.storage_marks(),
            taken_boot_ms,
        }
    }

    /// Generation and digest, for the heartbeat.
    pub fn generation(&self) -> (u64, u64) {
        (self.generation, self.digest)
    }

    /// Guests that run or not, as last published.
    pub fn published(&self) -> impl Iterator<Item = &Instance> {
        self.published.values()
    }

    /// Files whose directories must carry a marker, and who uses them.
    pub fn files(&self) -> BTreeMap<String, Used> {
        let mut files: BTreeMap<String, Used> = BTreeMap::new();
        for guest in self.guests.values() {
            let description = guest.domain.as_ref().and_then(|d| d.description.as_ref());
            for source in description.iter().flat_map(|d| &d.sources).filter(|s| s.kind == Kind::File) {
                for path in self.chain(&source.path) {
                    let used = files.entry(path).or_default();
                    used.make |= !source.medium;
                    used.by.extend(guest.process.as_ref().map(|p| (p.pid, p.start)));
                }
            }
        }
        files
    }

    /// The inactive XML of one version, if some domain still has it.
    pub fn xml(&self, hash: &str) -> Option<String> {
        let descriptions = self.known_domains().filter_map(|d| d.description.as_ref());
        descriptions.filter(|d| d.hash == hash).map(|d| d.text.clone()).next()
    }

    fn instances(&self) -> impl Iterator<Item = Instance> {
        // A guest of which only an event was seen is nothing to show yet.
        let real = self.guests.iter().filter(|(_, g)| g.domain.is_some() || g.process.is_some());
        real.map(|(uuid, guest)| self.instance(uuid, guest))
    }

    fn instance(&self, uuid: &str, guest: &Guest) -> Instance {
        let domain = guest.domain.as_ref();
        let process = guest.process.as_ref();
        let dead = guest.dead.is_some() && process.is_none();
        let state = verdict::run_state(domain, process, guest.has_run, dead);
        let description = domain.and_then(|d| d.description.clone()).unwrap_or_default();
        let (disks, reasons) = self.disks(&description.sources);
        let mut local_only = description.local_only.clone();
        local_only.extend(reasons);
        if domain.is_some_and(|d| d.managed_save) {
            local_only.push("managed save".to_owned());
        }
        let moving = process.is_some() && state != RunState::Incoming;
        Instance {
            uuid: uuid.to_owned(),
            name: domain.map(|d| d.name.clone()).unwrap_or_default(),
            state: state.into(),
            libvirt_knows: domain.is_some(),
            process_alive: process.is_some(),
            pid: process.map_or(0, |p| p.pid.into()),
            pid_start: process.map_or(0, |p| p.start),
            outgoing_migration: moving && (guest.outgoing || domain.is_some_and(verdict::is_leaving)),
            persistent: domain.is_some_and(|d| d.persistent),
            autostart: domain.is_some_and(|d| d.autostart),
            autostart_taken: description.autostart_noted || self.autostart_taken.contains(uuid),
            memory_kib: description.memory_kib,
            xml_hash: description.hash.clone(),
            disks,
            local_only,
            marked: description.marked,
            last_stop: guest.last_stop.into(),
            outgoing_to: String::new(),
        }
    }

    /// Disks with their markers, and reasons for those of which nobody knows whether they exist elsewhere.
    fn disks(&self, sources: &[Source]) -> (Vec<Disk>, Vec<String>) {
        let (mut disks, mut reasons) = (Vec::new(), Vec::new());
        for source in sources {
            let paths = if source.kind == Kind::File { self.chain(&source.path) } else { vec![source.path.clone()] };
            for path in paths {
                let disk = self.disk(path, source.kind);
                if source.medium && disk.marker.is_empty() && source.kind != Kind::Network {
                    reasons.push(format!("local medium {}", disk.path));
                } else if !disks.contains(&disk) {
                    reasons.extend(self.unseen(&disk));
                    disks.push(disk);
                }
            }
        }
        (disks, reasons)
    }

    /// Why nothing is known of where a disk lies, although it could be asked.
    fn unseen(&self, disk: &Disk) -> Option<String> {
        let why = &self.storage.get(&disk.directory)?.why;
        let unknown = disk.marker.is_empty() && !why.is_empty();
        unknown.then(|| format!("{} cannot be judged: {why}", disk.path))
    }

    fn disk(&self, path: String, kind: Kind) -> Disk {
        let (kind, directory) = match kind {
            Kind::File if path.contains("://") => (disk::Kind::Network, String::new()),
            Kind::File => (disk::Kind::File, directory_of(&path)),
            Kind::Network => (disk::Kind::Network, String::new()),
            Kind::Block => (disk::Kind::Block, String::new()),
            Kind::Other => (disk::Kind::Unspecified, String::new()),
        };
        let marker = self.storage.get(&directory).map(|m| m.marker.clone()).unwrap_or_default();
        Disk { path, kind: kind.into(), directory, marker }
    }

    /// A file and the images behind it.
    fn chain(&self, path: &str) -> Vec<String> {
        let mut chain = vec![path.to_owned()];
        while let Some(behind) = chain.last().and_then(|p| self.backing.get(p)) {
            if chain.len() >= CHAIN_MAX || chain.contains(behind) {
                break;
            }
            chain.push(behind.clone());
        }
        chain
    }

    /// The markers of places; of what lies in one of them only what differs.
    fn readable(&self) -> Vec<(String, String)> {
        let place = |d: &str| self.storage.get(place_of(d)).map(|m| &m.marker);
        let told = |d: &str, m: &Marked| place_of(d) == d || place(d) != Some(&m.marker);
        let readable = self.storage.iter().filter(|(d, m)| m.readable && !m.marker.is_empty() && told(d, m));
        readable.map(|(directory, m)| (directory.clone(), m.marker.clone())).collect()
    }

    fn storage_marks(&self) -> Vec<StorageMark> {
        let mark = |(directory, marker): &(String, String)| StorageMark {
            directory: directory.clone(),
            marker: marker.clone(),
        };
        self.published_storage.iter().map(mark).collect()
    }
}

/// FNV-1a over the encoded instances in order of their UUIDs, each behind its length.
fn digest<'a>(instances: impl Iterator<Item = &'a Instance>) -> u64 {
    let mut digest = Fnv::default();
    for bytes in instances.map(Message::encode_to_vec) {
        digest.add(&(bytes.len() as u64).to_le_bytes());
        digest.add(&bytes);
    }
    digest.value()
}
