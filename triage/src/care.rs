//! What each agent is to care for: the mode, the guests whose autostart it
//! takes over, and the directories whose storage markers it reads.

use crate::Triage;
use crate::command::{Care, Command};
use crate::id::{InstanceId, SegmentId};
use std::collections::{BTreeMap, BTreeSet};

impl Triage {
    /// Tells every connected agent what it cares for, when that has changed.
    pub(crate) fn send_care(&mut self) {
        // From a backup we do not know what they care for by now: they keep to what they were told last.
        if self.is_restored() || !std::mem::take(&mut self.care_is_stale) {
            return;
        }
        let mut directories: BTreeMap<SegmentId, BTreeSet<String>> = BTreeMap::new();
        for record in self.durable.instances.iter() {
            let Some(host) = self.host(&record.last_host) else { continue };
            let of = directories.entry(host.segment.clone()).or_default();
            of.extend(record.disks.iter().filter(|disk| !disk.network).filter_map(|disk| parent(&disk.path)));
        }
        for host in self.durable.hosts.ids() {
            let Some(record) = self.host(&host) else { continue };
            let protected: BTreeSet<InstanceId> = self
                .durable
                .instances_near(&host)
                .into_iter()
                .filter(|id| self.durable.instances.get(id).is_some_and(|i| self.is_protected(i)))
                .collect();
            let mode = self.mode(&record.segment).name().to_owned();
            let directories = directories.get(&record.segment).cloned().unwrap_or_default();
            let care = Care { mode, protected, directories };
            let Some(live) = self.watches.get_mut(&host).and_then(|watch| watch.session.as_mut()) else { continue };
            if live.care.as_ref() != Some(&care) {
                live.care = Some(care.clone());
                let session = live.id.clone();
                self.command(Command::Care { host, session, care });
            }
        }
    }
}

fn parent(path: &str) -> Option<String> {
    let (directory, _) = path.rsplit_once('/')?;
    (!directory.is_empty()).then(|| directory.to_owned())
}
