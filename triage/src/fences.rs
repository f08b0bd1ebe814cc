//! Fence devices as they are shown: each with where its address is from, when
//! it was read last, and what is known of its wiring. Hosts without one, too.

use crate::Triage;
use crate::alert::NOTHING_TO_DO;
use crate::devices::{CONFIGURED, DeviceRecord, Place, Through};
use crate::id::{HostId, SegmentId};
use crate::observation::Power;
use crate::record::HostRecord;
use crate::segments::DEFAULT_SEGMENT;
use crate::settings::Device;
use crate::time::Now;
use std::collections::BTreeSet;
use std::time::Duration;

/// One device of a host, or a host that has none.
#[derive(Clone, Debug)]
pub struct FenceView {
    pub host: HostId,
    pub segment: SegmentId,
    /// Counted from 1; 0: it has none.
    pub level: usize,
    pub agent: String,
    pub place: Place,
    /// "config", "imported", "offered"; empty when there is none.
    pub from: &'static str,
    pub power: Power,
    /// How long ago it last answered.
    pub answered: Option<Duration>,
    /// What it said instead, the last time.
    pub error: String,
    /// "pinned", "seen-on", "unproven", "conflict", "none".
    pub mapping: &'static str,
    /// The same in words: by whom, or why not.
    pub why: String,
    /// What the host's own agent tells of its controller.
    pub offered: Vec<String>,
    /// "nothing to do", or one command to paste.
    pub todo: String,
}

impl Triage {
    /// All devices, by host and level; hosts without one in their place.
    pub fn fence_views(&self, now: Now) -> Vec<FenceView> {
        let kept = self.durable.devices.iter().map(|record| &record.host);
        let all: BTreeSet<&HostId> = self
            .durable
            .hosts
            .iter()
            .map(|record| &record.id)
            .chain(kept)
            .chain(self.settings.devices.keys())
            .collect();
        all.into_iter().flat_map(|host| self.fences_of(host, now)).collect()
    }

    fn fences_of(&self, host: &HostId, now: Now) -> Vec<FenceView> {
        let Some((record, device)) = self.host(host).zip(self.device(host)) else {
            return vec![self.without_device(host)];
        };
        let levels = device.levels.iter().enumerate();
        levels.map(|(at, level)| self.fence_view(record, device, (at + 1, level), now)).collect()
    }

    fn fence_view(
        &self,
        host: &HostRecord,
        device: &Device,
        (number, level): (usize, &crate::settings::Level),
        now: Now,
    ) -> FenceView {
        let looked = self.power.get(&host.id).and_then(|sighted| sighted.levels.get(&level.name));
        let error = looked.filter(|looked| looked.failing_since.is_some()).map(|looked| looked.said.clone());
        let from = match device.through {
            Through::Levels => CONFIGURED,
            Through::Template { .. } => self.source(&host.id),
        };
        let (mapping, why) = self.mapping(host, device);
        let strange = self.strange_offer(host);
        let todo = match (&error, &strange, mapping) {
            (_, Some(_), _) if from == crate::devices::OFFERED => {
                format!("if that is right: medevacctl fence-devices accept {} --reason '...'", host.id)
            }
            (_, Some(_), _) => "medevacctl fence-devices import FILE.csv --reason '...'".to_owned(),
            (Some(_), _, _) => {
                format!("try it on the aggregator's machine: address, password file, {} status", level.agent)
            }
            (None, None, "unproven") => {
                format!("once you have seen what it switches: medevacctl pin-device {} --reason '...'", host.id)
            }
            _ => NOTHING_TO_DO.to_owned(),
        };
        FenceView {
            host: host.id.clone(),
            segment: host.segment.clone(),
            level: number,
            agent: level.agent.clone(),
            place: level.place.clone(),
            from,
            power: looked.map_or(Power::Unknown, |looked| looked.power),
            answered: looked.and_then(|looked| looked.answered_at).map(|at| now.at.since(at)),
            error: error.unwrap_or_default(),
            mapping: if strange.is_some() { "conflict" } else { mapping },
            why: strange.map_or(why, |strange| strange.to_string()),
            offered: self.offered_addresses(&host.id),
            todo,
        }
    }

    /// What is known of the wiring.
    fn mapping(&self, host: &HostRecord, device: &Device) -> (&'static str, String) {
        if self.is_vouched_for(host, device) {
            let by_list = self.durable.devices.get(&host.id).and_then(|record| record.imported.as_ref());
            let who = match (&device.through, by_list) {
                (Through::Levels, _) if device.pinned => "in the configuration".to_owned(),
                (Through::Template { .. }, Some(list)) if list.pinned => format!("by the list of {}", list.by),
                _ => format!("by {}", host.pin.as_ref().map_or("an operator", |pin| &pin.by)),
            };
            return ("pinned", format!("vouched for {who}"));
        }
        let said_on = self.watches.get(&host.id).and_then(|watch| watch.power_on_at);
        let departed = self.newest_departure(&host.id);
        match (said_on, departed) {
            (Some(_), None) => ("seen-on", "has said on".to_owned()),
            (on @ Some(_), gone) if on > gone => ("seen-on", "has said on since another host left".to_owned()),
            (Some(_), _) => ("unproven", "has not said on since another host left".to_owned()),
            (None, _) => ("unproven", "has not said on yet".to_owned()),
        }
    }

    fn source(&self, host: &HostId) -> &'static str {
        self.durable.devices.get(host).and_then(DeviceRecord::place).map_or("", |(_, _, from)| from)
    }

    fn offered_addresses(&self, host: &HostId) -> Vec<String> {
        self.offers.get(host).map(|offer| offer.addresses.clone()).unwrap_or_default()
    }

    fn without_device(&self, host: &HostId) -> FenceView {
        let segment = self.segment_of_any(host);
        let (mapping, why, todo) = self.why_none(host, &segment);
        FenceView {
            host: host.clone(),
            segment,
            level: 0,
            agent: String::new(),
            place: self
                .durable
                .devices
                .get(host)
                .and_then(DeviceRecord::place)
                .map(|(place, _, _)| place)
                .unwrap_or_default(),
            from: if self.settings.devices.contains_key(host) { CONFIGURED } else { self.source(host) },
            power: Power::Unknown,
            answered: None,
            error: String::new(),
            mapping,
            why,
            offered: self.offered_addresses(host),
            todo,
        }
    }

    fn why_none(&self, host: &HostId, segment: &SegmentId) -> (&'static str, String, String) {
        let import = || "medevacctl fence-devices import FILE.csv --reason '...'".to_owned();
        let Some(joined) = self.host(host) else {
            return ("none", "the host has not joined".to_owned(), format!("medevacctl token create --host {host}"));
        };
        let Some((_, template)) = self.template(segment) else {
            let why = format!("segment {segment} has no fence template, and [[fence]] does not name the host");
            return ("none", why, format!("write [segments.{DEFAULT_SEGMENT}.fence] in aggregator.toml"));
        };
        if let Some((place, _, _)) = self.durable.devices.get(host).and_then(DeviceRecord::place) {
            let others = self.places().remove(&place).unwrap_or_default();
            let others: Vec<&str> = others.iter().filter(|other| *other != host).map(HostId::as_str).collect();
            let why = format!("{place} is the device and plug of {}, too: used for none of them", others.join(", "));
            return ("conflict", why, import());
        }
        if let Some(strange) = self.strange_offer(joined) {
            return ("conflict", strange.to_string(), import());
        }
        match template.offers {
            true => ("none", self.no_offer(host), import()),
            false => ("none", format!("nobody has told where its {} is", template.agent), import()),
        }
    }

    /// Why a host's agent offers no address.
    pub(crate) fn no_offer(&self, host: &HostId) -> String {
        match self.offers.get(host) {
            Some(offer) if offer.why.is_empty() => "its agent sees no controller".to_owned(),
            Some(offer) => format!("its agent sees no controller: {}", offer.why),
            None => "its agent has not told of a controller yet".to_owned(),
        }
    }

    /// Hosts whose offers wait for a person, by segment.
    pub(crate) fn strange_offers(&self) -> Vec<(&HostRecord, String)> {
        let strange = self.durable.hosts.iter().filter_map(|host| Some((host, self.strange_offer(host)?.to_string())));
        strange.collect()
    }
}
