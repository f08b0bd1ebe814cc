//! Rails: what holds back a shot that the evidence would allow. Per segment.
//! `approve` lifts those that ask for a person; nothing lifts proof or homes.

use crate::Triage;
use crate::id::{HostId, SegmentId};
use crate::record::{IncidentRecord, Phase};
use std::collections::BTreeSet;

/// The third host within the window waits for a person: two dead hosts are
/// hardware, three are a cause that shooting does not cure.
const SHOT_IN_WINDOW_MAX: usize = 2;
/// Hosts remembered by the window rail.
const SHOT_KEPT: usize = 16;

impl Triage {
    /// The rail that says wait; `None` when the way is free.
    pub(crate) fn rail(&self, incident: &IncidentRecord, host: &HostId) -> Option<String> {
        if !self.settings.guards.rails {
            return None;
        }
        if let Some(other) = self.outstanding(&incident.segment, incident) {
            return Some(format!("an off order of {other} is outstanding in segment {}", incident.segment));
        }
        if incident.approved.is_some() {
            return None;
        }
        let (silent, of) = self.silent_in(&incident.segment);
        if silent >= 2 && silent * 3 > of {
            return Some(format!(
                "{silent} of {of} hosts of segment {} are silent: more than a third",
                incident.segment
            ));
        }
        let others = self.shot_lately(&incident.segment, host);
        if others >= SHOT_IN_WINDOW_MAX {
            let window = crate::shown(self.settings.shot_window);
            return Some(format!("{others} other hosts of segment {} were shot within {window}", incident.segment));
        }
        None
    }

    /// Another incident of the segment whose off order is out.
    pub(crate) fn outstanding(&self, segment: &SegmentId, own: &IncidentRecord) -> Option<String> {
        let holds = |i: &&IncidentRecord| {
            i.id != own.id
                && i.segment == *segment
                && matches!(i.phase, Phase::Fencing { .. } | Phase::Confirming { .. })
        };
        self.durable.incidents.iter().find(holds).map(|i| i.id.to_string())
    }

    fn shot_lately(&self, segment: &SegmentId, host: &HostId) -> usize {
        let lately = self.shots.iter().filter(|(of, shot, at)| {
            of == segment && shot != host && self.now.at.since(*at) < self.settings.shot_window
        });
        lately.map(|(_, shot, _)| shot).collect::<BTreeSet<_>>().len()
    }

    /// Remembers a shot; durable, and counted as of now after a restart.
    pub(crate) fn remember_shot(&mut self, segment: &SegmentId, host: &HostId) {
        let (now, window) = (self.now.at, self.settings.shot_window);
        self.shots.retain(|(_, _, at)| now.since(*at) < window);
        self.shots.push((segment.clone(), host.clone(), now));
        self.remember_shots(segment);
    }

    /// A segment's record names each host shot of late once, the newest last.
    pub(crate) fn remember_shots(&mut self, segment: &SegmentId) {
        let mut shot: Vec<HostId> = Vec::new();
        for (_, host, _) in self.shots.iter().filter(|(of, _, _)| of == segment) {
            shot.retain(|known| known != host);
            shot.push(host.clone());
        }
        let excess = shot.len().saturating_sub(SHOT_KEPT);
        shot.drain(..excess);
        if let Some(record) = self.durable.segments.edit(segment) {
            record.shot = shot;
        }
    }
}
