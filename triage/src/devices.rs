//! Which device switches which host: what is configured, what an operator's
//! list says, what a host's own agent offers, and who wins.
//!
//! ```text
//!   [[fence]] of the host --wins over--> its line of a list --wins over--> the first offer of its agent
//!                 \____________________________ | _____________________________/
//!                                            devices       the one answer to "by what is it switched off?"
//! ```
//!
//! An offer is trusted once: the first address is kept. One that changes, or
//! that another host has, is shown and alerted, and used only after a person's
//! word. No address vouches for itself: that a device is wired to its host is
//! shown by what it says, or by somebody who has seen it (see `proof`).

use crate::Triage;
use crate::id::{HostId, SegmentId};
use crate::record::HostRecord;
use crate::segments::DEFAULT_SEGMENT;
use crate::settings::{Device, Level};
use crate::time::Wall;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

/// The longest name of a device: a full domain name.
const ADDRESS_MAX: usize = 253;
/// A plug's name, as people print it on a label.
const PLUG_MAX: usize = 64;

/// Where a device is, and which of its plugs is meant. In one spelling, so that two are compared as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    pub address: String,
    /// Empty where the device switches one machine alone.
    #[serde(default)]
    pub plug: String,
}

impl Place {
    /// An address of a device that can be spoken to, or its name.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(address: &str, plug: &str) -> Result<Self, String> {
        let fine = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
        let address = address.trim();
        let spelt = match address.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(ip) if nobody(&ip) => return Err(format!("{ip} is the address of no device")),
            Ok(ip) => ip.to_canonical().to_string(),
            Err(_) if address.is_empty() => return Err("there is no address".to_owned()),
            Err(_) if address.len() > ADDRESS_MAX || !address.chars().all(fine) || address.starts_with('-') => {
                return Err(format!("{address:.64?} is no address, and no name of a device"));
            }
            // Digits and dots alone were meant as an address.
            Err(_) if address.chars().all(|c| c.is_ascii_digit() || c == '.') => {
                return Err(format!("{address:.64?} is no address"));
            }
            Err(_) => address.trim_end_matches('.').to_ascii_lowercase(),
        };
        let plug = plug.trim();
        if plug.len() > PLUG_MAX || plug.chars().any(|c| c.is_control() || c == '=') {
            return Err(format!("{plug:.64?} cannot be the name of a plug"));
        }
        Ok(Self { address: spelt, plug: plug.to_owned() })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.plug.as_str() {
            "" => f.write_str(&self.address),
            plug => write!(f, "{}:{plug}", self.address),
        }
    }
}

/// An address under which nobody can be a device: of this machine, of everybody, of nobody.
fn nobody(ip: &IpAddr) -> bool {
    let everybody = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || everybody
}

/// Through what a host's power is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case")]
pub enum Through {
    /// The levels that the configuration names for this host.
    #[default]
    Levels,
    /// What all hosts of a segment have in common, at this place.
    Template { segment: SegmentId, place: Place },
}

/// What the devices of a segment have in common, as far as it is decided by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    /// What an operator recognises: "fence_ipmilan".
    pub agent: String,
    /// It speaks to the controller that a host can ask for its own address.
    pub offers: bool,
    /// Offers are taken within these alone; everywhere, where there are none.
    pub networks: Vec<Network>,
}

/// `10.0.9.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u32,
}

impl Network {
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        let prefix = prefix.parse().ok().filter(|bits| *bits <= if address.is_ipv4() { 32 } else { 128 })?;
        Some(Self { address, prefix })
    }

    pub fn holds(&self, ip: IpAddr) -> bool {
        let (own, other, bits) = match (self.address, ip) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => (u128::from(own.to_bits()), u128::from(ip.to_bits()), 32),
            (IpAddr::V6(own), IpAddr::V6(ip)) => (own.to_bits(), ip.to_bits(), 128),
            _ => return false,
        };
        let rest = bits - self.prefix.min(bits);
        own.checked_shr(rest).unwrap_or(0) == other.checked_shr(rest).unwrap_or(0)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// What is kept of one host's device beside the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceRecord {
    pub host: HostId,
    pub imported: Option<Imported>,
    pub offered: Option<Offered>,
}

/// By an operator's list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    pub place: Place,
    /// Whoever wrote the list has seen that it switches this host and no other.
    pub pinned: bool,
    pub by: String,
    pub wall: Wall,
}

/// By the host's own agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offered {
    pub address: String,
    /// Who took it in place of an earlier one; empty: it was the first.
    #[serde(default)]
    pub accepted: String,
    pub wall: Wall,
}

impl DeviceRecord {
    /// The place that counts, whether it is vouched for, and where it is from.
    pub(crate) fn place(&self) -> Option<(Place, bool, &'static str)> {
        if let Some(imported) = &self.imported {
            return Some((imported.place.clone(), imported.pinned, IMPORTED));
        }
        let offered = self.offered.as_ref()?;
        Some((Place { address: offered.address.clone(), plug: String::new() }, false, OFFERED))
    }
}

/// Where an address is from.
pub(crate) const CONFIGURED: &str = "config";
pub(crate) const IMPORTED: &str = "imported";
pub(crate) const OFFERED: &str = "offered";

/// What a host's agent told of the controller that it sees in-band.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// Of its LAN channels, in order; empty: it saw none.
    pub addresses: Vec<String>,
    /// Why there are none.
    pub why: String,
}

/// What is wrong with an offer, so that it is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Strange {
    /// Another one than the one that is in use.
    Differs {
        used: String,
        from: &'static str,
        offered: String,
    },
    Taken {
        offered: String,
        by: HostId,
    },
    /// A host speaks there: that is no controller of its own.
    Plane {
        offered: String,
        of: HostId,
    },
    Outside {
        offered: String,
    },
}

impl fmt::Display for Strange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Strange::Differs { used, from, offered } => {
                write!(f, "its own controller says {offered}, and {used} is in use ({from})")
            }
            Strange::Taken { offered, by } => {
                write!(
                    f,
                    "its own controller says {offered}, which is the address for {by}: fencing one may shoot the other"
                )
            }
            Strange::Plane { offered, of } => write!(f, "its own controller says {offered}, where {of} itself speaks"),
            Strange::Outside { offered } => {
                write!(f, "its own controller says {offered}, which is in none of the template's `networks`")
            }
        }
    }
}

impl Triage {
    /// By what a host is switched off.
    pub(crate) fn device(&self, host: &HostId) -> Option<&Device> {
        self.devices.get(host)
    }

    /// Somebody who has seen it says that this device switches this host and no other.
    pub(crate) fn is_vouched_for(&self, record: &HostRecord, device: &Device) -> bool {
        device.pinned || record.pin.as_ref().is_some_and(|pin| pin.device == device.name)
    }

    /// The template for a host of this segment, and whose it is.
    pub(crate) fn template(&self, segment: &SegmentId) -> Option<(SegmentId, &Template)> {
        let default = SegmentId::from(DEFAULT_SEGMENT);
        let whose = [segment.clone(), default].into_iter().find(|of| self.settings.templates.contains_key(of))?;
        let template = self.settings.templates.get(&whose)?;
        Some((whose, template))
    }

    /// A host's segment; of one that has not joined, the one in which it would be.
    pub(crate) fn segment_of_any(&self, host: &HostId) -> SegmentId {
        let joined = self.host(host).map(|record| record.segment.clone());
        joined.or_else(|| self.segment_by_rule(host)).unwrap_or_else(|| DEFAULT_SEGMENT.into())
    }

    /// Every place that is some host's, in the configuration or in what is kept.
    pub(crate) fn places(&self) -> BTreeMap<Place, BTreeSet<HostId>> {
        let mut places: BTreeMap<Place, BTreeSet<HostId>> = BTreeMap::new();
        for (host, device) in &self.settings.devices {
            for level in device.levels.iter().filter(|level| !level.place.address.is_empty()) {
                places.entry(level.place.clone()).or_default().insert(host.clone());
            }
        }
        for record in self.durable.devices.iter().filter(|record| !self.settings.devices.contains_key(&record.host)) {
            if let Some((place, _, _)) = record.place() {
                places.entry(place).or_default().insert(record.host.clone());
            }
        }
        places
    }

    /// Every joined host's device, made of what is configured and what is kept.
    pub(crate) fn made_devices(&self) -> BTreeMap<HostId, Device> {
        let mut devices = self.settings.devices.clone();
        let places = self.places();
        for record in self.durable.devices.iter() {
            let Some(joined) = self.host(&record.host).filter(|_| !devices.contains_key(&record.host)) else {
                continue;
            };
            let Some((place, pinned, _)) = record.place() else { continue };
            // Two on one plug: fencing either would shoot the other, so neither is.
            let alone = places.get(&place).is_none_or(|hosts| hosts.len() == 1);
            let Some((segment, template)) = self.template(&joined.segment).filter(|_| alone) else { continue };
            let name = format!("{} {place}", template.agent);
            let level = Level { name: name.clone(), agent: template.agent.clone(), place: place.clone() };
            let through = Through::Template { segment, place };
            devices.insert(record.host.clone(), Device { name, pinned, levels: vec![level], through });
        }
        devices
    }

    /// Takes up what has changed. What was read of another device says nothing about the new one.
    /// Returns where somebody's word was about the one before.
    pub(crate) fn settle_devices(&mut self) -> Vec<String> {
        self.devices_are_stale = false;
        let devices = self.made_devices();
        let before = std::mem::replace(&mut self.devices, devices);
        let through = |device: Option<&Device>| device.map(|device| (device.name.clone(), device.through.clone()));
        let all: BTreeSet<&HostId> = before.keys().chain(self.devices.keys()).collect();
        let changed: Vec<HostId> = all
            .into_iter()
            .filter(|host| through(before.get(*host)) != through(self.devices.get(*host)))
            .cloned()
            .collect();
        changed.iter().filter_map(|host| self.doubt_device(host)).collect()
    }

    /// The same of what has changed in the file while nobody ran.
    pub(crate) fn doubt_other_devices(&mut self) -> Vec<String> {
        let name = |host: &HostId| self.device(host).map_or("", |device| device.name.as_str());
        // Nothing was said of any yet, where the name is empty.
        let other = |record: &&HostRecord| !record.device.is_empty() && record.device != name(&record.id);
        let others: Vec<HostId> = self.durable.hosts.iter().filter(other).map(|record| record.id.clone()).collect();
        others.iter().filter_map(|host| self.doubt_device(host)).collect()
    }

    /// What its device has shown was about another one. Tells it, where somebody had vouched for that.
    fn doubt_device(&mut self, host: &HostId) -> Option<String> {
        let name = self.device(host).map(|device| device.name.clone()).unwrap_or_default();
        self.forget_power(host);
        let record = self.durable.hosts.edit(host)?;
        let before = std::mem::replace(&mut record.device, name);
        record.power_on_boot = None;
        let record = self.host(host)?;
        let pin = record.pin.as_ref().filter(|pin| pin.device == before && before != record.device)?;
        let vouched = self.device(host).is_some_and(|device| self.is_vouched_for(record, device));
        (!vouched).then(|| {
            format!(
                "{host} has another fence device than {}: once you have seen that it is wired to it, \
                 `medevacctl pin-device {host}`",
                pin.device
            )
        })
    }

    /// What an agent tells of its host's controller: the first address is kept, if nothing speaks against it.
    pub(crate) fn take_offer(&mut self, host: &HostId, offer: Offer) {
        if self.host(host).is_none() {
            return;
        }
        self.offers.insert(host.clone(), offer);
        let record = self.durable.devices.get(host).cloned();
        let known = record.as_ref().is_some_and(|record| record.imported.is_some() || record.offered.is_some());
        let Some(first) = self.first_offer(host).filter(|_| !known && !self.settings.devices.contains_key(host)) else {
            return;
        };
        let segment = self.segment_of_any(host);
        let Some((_, template)) = self.template(&segment).filter(|(_, template)| template.offers) else { return };
        let agent = template.agent.clone();
        if self.against(host, &first).is_some() {
            return;
        }
        let offered = Some(Offered { address: first.clone(), accepted: String::new(), wall: self.now.wall });
        self.durable.devices.put(DeviceRecord { host: host.clone(), imported: None, offered });
        let text =
            format!("{host} says that its controller is at {first}: it is switched by {agent} there from now on");
        self.note("MDV-FENCE-OFFERED", false, text);
        self.settle_devices();
    }

    /// The address that an agent names first: IPv4 before IPv6, as devices are reached.
    pub(crate) fn first_offer(&self, host: &HostId) -> Option<String> {
        let offer = self.offers.get(host)?;
        let four = offer.addresses.iter().find(|address| address.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4()));
        four.or(offer.addresses.first()).cloned()
    }

    /// Why an address that a host offers may not be used without a person's word.
    pub(crate) fn against(&self, host: &HostId, offered: &str) -> Option<Strange> {
        let offered = offered.to_owned();
        let places = self.places();
        let others = places.iter().filter(|(place, _)| place.address == offered).flat_map(|(_, hosts)| hosts);
        if let Some(by) = others.into_iter().find(|other| *other != host) {
            return Some(Strange::Taken { offered, by: by.clone() });
        }
        let speaks = |record: &&HostRecord| record.planes.values().any(|plane| *plane == offered);
        if let Some(of) = self.durable.hosts.iter().find(speaks) {
            return Some(Strange::Plane { offered, of: of.id.clone() });
        }
        let (_, template) = self.template(&self.segment_of_any(host))?;
        let inside = |ip: IpAddr| template.networks.is_empty() || template.networks.iter().any(|net| net.holds(ip));
        match offered.parse().is_ok_and(inside) {
            true => None,
            false => Some(Strange::Outside { offered }),
        }
    }

    /// What is wrong with what a host's agent says of its controller now.
    pub(crate) fn strange_offer(&self, host: &HostRecord) -> Option<Strange> {
        let first = self.first_offer(&host.id)?;
        if self.settings.devices.contains_key(&host.id) {
            return None;
        }
        self.template(&host.segment).filter(|(_, template)| template.offers)?;
        let Some((place, _, from)) = self.durable.devices.get(&host.id).and_then(DeviceRecord::place) else {
            return self.against(&host.id, &first);
        };
        // A name says nothing about the address behind it; a person who has seen the wiring knows better.
        let vouched = self.device(&host.id).is_some_and(|device| self.is_vouched_for(host, device));
        let silent = place.address.parse::<IpAddr>().is_err() || (from == IMPORTED && vouched);
        let same = self.offers.get(&host.id).is_some_and(|offer| offer.addresses.contains(&place.address));
        (!same && !silent).then_some(Strange::Differs { used: place.address, from, offered: first })
    }
}

#[cfg(test)]
#[path = "devices_tests.rs"]
mod tests;
