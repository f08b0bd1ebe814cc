//! Which segment a host belongs to: by hand, or by rule.
//!
//! ```text
//!   [segments.NAME] hosts ----> NAME
//!   rule: all ---------------> default
//!         availability_zone -> as Nova's service of the host says
//!         aggregate ---------> the first, by name, of those that make segments
//! ```
//!
//! Where Nova has not told of a host it stays where it is. A host moves only
//! while nothing is open about it: an incident is judged in one segment.

use crate::Triage;
use crate::cloud::Aggregate;
use crate::id::{HostId, SegmentId};
use crate::policy::is_true;
use crate::record::{Mode, SegmentRecord};
use std::collections::BTreeSet;

/// The segment of hosts that no rule puts elsewhere; what is not said of
/// another segment holds as for this one.
pub const DEFAULT_SEGMENT: &str = "default";
/// The mark of a host aggregate that makes a segment, with a value that OpenStack reads as true.
pub const SEGMENT_MARK: &str = "medevac:segment";

/// What makes a segment of hosts that are in none by hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SegmentsBy {
    /// All hosts are one.
    #[default]
    All,
    AvailabilityZone,
    Aggregate,
}

impl SegmentsBy {
    /// Every rule by the name that a configuration gives it, and what it does.
    pub const NAMED: [(&'static str, SegmentsBy, &'static str); 3] = [
        ("all", SegmentsBy::All, "all hosts are in the segment `default`"),
        ("availability_zone", SegmentsBy::AvailabilityZone, "a segment for each availability zone, with its name"),
        (
            "aggregate",
            SegmentsBy::Aggregate,
            "a segment for each aggregate named in `segment_aggregates` or marked `medevac:segment`, with its name",
        ),
    ];

    pub fn parse(text: &str) -> Option<Self> {
        Self::NAMED.into_iter().find(|(name, _, _)| *name == text).map(|(_, rule, _)| rule)
    }
}

impl Triage {
    /// Every host into its segment; again later for those that must stay for now.
    pub(crate) fn place_hosts(&mut self) {
        if !std::mem::take(&mut self.segments_are_stale) {
            return;
        }
        for host in self.durable.hosts.ids() {
            let Some(record) = self.host(&host) else { continue };
            let Some(to) = self.segment_by_rule(&host).filter(|to| *to != record.segment) else { continue };
            let busy = self.durable.incidents.iter().any(|i| !i.phase.closed() && i.host.as_ref() == Some(&host));
            if busy {
                self.segments_are_stale = true;
            } else {
                self.move_host(&host, to);
            }
        }
    }

    /// `None`: nobody has said yet.
    pub(crate) fn segment_by_rule(&self, host: &HostId) -> Option<SegmentId> {
        if let Some(by_hand) = self.settings.segment_of.get(host) {
            return Some(by_hand.clone());
        }
        match self.settings.segments_by {
            SegmentsBy::All => Some(DEFAULT_SEGMENT.into()),
            SegmentsBy::AvailabilityZone => {
                let zone = self.service(host).map(|service| service.zone.as_str());
                zone.filter(|zone| !zone.is_empty()).map(SegmentId::from)
            }
            SegmentsBy::Aggregate => {
                let told = self.sight.aggregates_told;
                let first = self.aggregates_of(host).find(|aggregate| self.makes_segment(aggregate));
                first.map(|of| of.name.as_str().into()).or_else(|| told.then(|| DEFAULT_SEGMENT.into()))
            }
        }
    }

    fn makes_segment(&self, aggregate: &Aggregate) -> bool {
        aggregate.marks.get(SEGMENT_MARK).is_some_and(|value| is_true(value))
            || self.settings.segment_aggregates.contains(&aggregate.name)
    }

    fn move_host(&mut self, host: &HostId, to: SegmentId) {
        self.need_segment(&to);
        let Some(record) = self.durable.hosts.edit(host) else { return };
        let from = std::mem::replace(&mut record.segment, to.clone());
        // What it did to the rails, and whether it may be booting, go with it.
        for (of, _, _) in self.shots.iter_mut().filter(|(_, shot, _)| shot == host) {
            of.clone_from(&to);
        }
        for segment in [&from, &to] {
            self.remember_shots(segment);
        }
        if let Some(window) = self.booting.get(&from).copied() {
            let there = self.booting.entry(to.clone()).or_insert(window);
            there.until = there.until.max(window.until);
        }
        self.care_is_stale = true;
        self.devices_are_stale = true;
        self.note("MDV-SEGMENT", false, format!("{host} is in segment {to} now, before in {from}"));
    }

    /// A segment that is met for the first time gets the mode that is configured
    /// for it, or else the one in which the default segment is.
    pub(crate) fn need_segment(&mut self, segment: &SegmentId) {
        if self.durable.segments.get(segment).is_some() {
            return;
        }
        let configured = self.settings.initial_mode.get(segment).copied();
        let mode = match self.is_restored() {
            true => Mode::Observe,
            false => configured.unwrap_or_else(|| self.mode(&DEFAULT_SEGMENT.into())),
        };
        self.durable.segments.put(SegmentRecord { id: segment.clone(), mode, shot: Vec::new() });
    }

    pub(crate) fn mode(&self, segment: &SegmentId) -> Mode {
        let default = || self.durable.segments.get(&DEFAULT_SEGMENT.into());
        let record = self.durable.segments.get(segment).or_else(default);
        record.map_or(self.settings.default_mode, |record| record.mode)
    }

    /// Segments that have hosts.
    pub(crate) fn inhabited(&self) -> BTreeSet<&SegmentId> {
        self.durable.hosts.iter().map(|host| &host.segment).collect()
    }
}
