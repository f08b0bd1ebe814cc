//! Operators' words about fence devices: a list of addresses, an offer that is
//! accepted, what is forgotten. All of a list is taken, or none of it.

use crate::Triage;
use crate::command::Refusal;
use crate::devices::{CONFIGURED, DeviceRecord, Imported, OFFERED, Offered, Place, Strange};
use crate::id::HostId;
use crate::identity::names;
use crate::segments::DEFAULT_SEGMENT;
use std::collections::{BTreeMap, BTreeSet};

/// Lines of one list: twice the largest site.
pub const ROWS_MAX: usize = 4096;
/// Faults told at once; the others show when these are gone.
const FAULTS_SHOWN: usize = 10;

/// One line of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Where it stands in its file, for messages.
    pub line: usize,
    pub host: HostId,
    pub place: Place,
    /// `None`: the list does not say; what was vouched for stays so while the place is the same.
    pub pinned: Option<bool>,
}

/// A stable name, and the line with what is wrong there.
type Fault = (&'static str, String);

type Answer = Result<String, Refusal>;

fn refuse(name: &'static str, text: String) -> Answer {
    Err(Refusal { name, text })
}

impl Triage {
    pub(crate) fn import_devices(&mut self, rows: &[Listed], dry_run: bool, by: &str) -> Answer {
        let faults = self.faults_of(rows);
        if let Some((name, _)) = faults.first() {
            let mut told: Vec<&str> = faults.iter().take(FAULTS_SHOWN).map(|(_, text)| text.as_str()).collect();
            let more = faults.len().saturating_sub(told.len());
            let rest = format!("and {more} more");
            if more > 0 {
                told.push(&rest);
            }
            return refuse(name, format!("{}; nothing was imported", told.join("; ")));
        }
        let before: Vec<Option<DeviceRecord>> =
            rows.iter().map(|row| self.durable.devices.get(&row.host).cloned()).collect();
        let mut counts = [0; 3];
        let mut lines = Vec::new();
        for (row, before) in rows.iter().zip(before) {
            let (what, text, record) = self.imported(row, before, by);
            counts[what] += 1;
            if what != SAME {
                lines.push(text);
            }
            if let Some(record) = record.filter(|_| !dry_run) {
                self.durable.devices.put(record);
            }
        }
        let [new, changed, same] = counts;
        let would = if dry_run { "dry run, nothing is kept: " } else { "" };
        let head = format!("{would}{} hosts: {new} new, {changed} changed, {same} as they were", rows.len());
        lines.insert(0, head);
        lines.extend(self.remarks(rows));
        if !dry_run {
            self.settle_devices();
        }
        Ok(lines.join("\n"))
    }

    /// What a line comes to: how it is counted, its words, and what is to be kept.
    fn imported(&self, row: &Listed, before: Option<DeviceRecord>, by: &str) -> (usize, String, Option<DeviceRecord>) {
        let old = before.as_ref().and_then(|record| record.imported.clone());
        let unmoved = old.as_ref().filter(|old| old.place == row.place);
        let pinned = row.pinned.unwrap_or_else(|| unmoved.is_some_and(|old| old.pinned));
        let said = if pinned { ", pinned" } else { "" };
        if unmoved.is_some_and(|old| old.pinned == pinned) {
            return (SAME, String::new(), None);
        }
        let imported = Some(Imported { place: row.place.clone(), pinned, by: by.to_owned(), wall: self.now.wall });
        let used = before.as_ref().and_then(DeviceRecord::place);
        let base = before.unwrap_or_else(|| DeviceRecord { host: row.host.clone(), ..DeviceRecord::default() });
        let record = Some(DeviceRecord { imported, ..base });
        match used {
            None => (NEW, format!("{}: {}{said} (new)", row.host, row.place), record),
            Some((place, _, _)) if place == row.place => {
                (CHANGED, format!("{}: {} as before{said}, by this list now", row.host, row.place), record)
            }
            Some((place, _, from)) => {
                (CHANGED, format!("{}: {}{said}, in place of {place} ({from})", row.host, row.place), record)
            }
        }
    }

    /// What whoever imported it should know.
    fn remarks(&self, rows: &[Listed]) -> Vec<String> {
        let of = |wanted: &dyn Fn(&HostId) -> bool| -> Vec<&HostId> {
            rows.iter().map(|row| &row.host).filter(|host| wanted(host)).collect()
        };
        let strangers = of(&|host| self.host(host).is_none());
        let shadowed = of(&|host| self.settings.devices.contains_key(host));
        let told = |hosts: Vec<&HostId>, text: &str| {
            (!hosts.is_empty()).then(|| format!("note: {} {text}", names(hosts.into_iter())))
        };
        let strangers = told(strangers, "not joined yet: kept until they do; is the name right?");
        let shadowed = told(shadowed, "in [[fence]] of the configuration, which wins: kept and not used");
        strangers.into_iter().chain(shadowed).collect()
    }

    fn faults_of(&self, rows: &[Listed]) -> Vec<Fault> {
        if rows.is_empty() {
            return vec![("empty-list", "the list names no host".to_owned())];
        }
        if rows.len() > ROWS_MAX {
            return vec![("too-many", format!("{} lines; at most {ROWS_MAX} at once", rows.len()))];
        }
        let mut faults = Vec::new();
        let mut seen: BTreeMap<&HostId, usize> = BTreeMap::new();
        for row in rows {
            if let Some(first) = seen.insert(&row.host, row.line) {
                faults.push(("host-twice", format!("line {}: {} is in line {first}, too", row.line, row.host)));
            }
        }
        self.find_shared_plugs(rows, &mut faults);
        for row in rows.iter().filter(|row| !self.settings.devices.contains_key(&row.host)) {
            faults.extend(self.lacks_template(row));
        }
        faults
    }

    /// Two hosts on one plug: fencing one would shoot the other.
    fn find_shared_plugs(&self, rows: &[Listed], faults: &mut Vec<Fault>) {
        let listed: BTreeSet<&HostId> = rows.iter().map(|row| &row.host).collect();
        let kept = self.places();
        let mut taken: BTreeMap<&Place, &Listed> = BTreeMap::new();
        for row in rows {
            let shoots = |other: &HostId, whence: String| {
                let text = format!("line {}: {} is the device and plug of {other}, too{whence}", row.line, row.place);
                ("one-plug", format!("{text}: an off order for {} would shoot {other}", row.host))
            };
            if let Some(first) = taken.insert(&row.place, row).filter(|first| first.host != row.host) {
                faults.push(shoots(&first.host, format!(" (line {})", first.line)));
            }
            for other in kept.get(&row.place).into_iter().flatten().filter(|other| **other != row.host) {
                if self.settings.devices.contains_key(other) {
                    faults.push(shoots(other, " ([[fence]] in the configuration)".to_owned()));
                } else if !listed.contains(other) {
                    let from =
                        self.durable.devices.get(other).and_then(DeviceRecord::place).map_or("", |(_, _, from)| from);
                    faults.push(shoots(
                        other,
                        format!(" ({from}; `medevacctl fence-devices forget {other}` drops that)"),
                    ));
                }
            }
        }
    }

    fn lacks_template(&self, row: &Listed) -> Option<Fault> {
        let segment = self.segment_of_any(&row.host);
        // One that has not joined may come to be in another segment.
        let there = match self.host(&row.host) {
            Some(_) => self.template(&segment).is_some(),
            None => !self.settings.templates.is_empty(),
        };
        let todo = format!("write [segments.{segment}.fence], or [segments.{DEFAULT_SEGMENT}.fence] for all segments");
        (!there).then(|| {
            (
                "no-template",
                format!("line {}: {} is in segment {segment}, which has no fence template: {todo}", row.line, row.host),
            )
        })
    }

    /// A person says that what the agent offers now is right: the address changed, or it was not taken.
    pub(crate) fn accept_device(&mut self, host: &HostId, by: &str) -> Answer {
        let record = self.known_host(host)?;
        if self.settings.devices.contains_key(host) {
            let text = format!("{host} has a [[fence]] entry ({CONFIGURED}), which wins: correct that one");
            return refuse("configured", text);
        }
        let Some(offered) = self.first_offer(host) else {
            let why = self.no_offer(host);
            return refuse("no-offer", format!("{why}; `medevacctl fence-devices import FILE.csv` names its address"));
        };
        if !self.template(&record.segment).is_some_and(|(_, template)| template.offers) {
            let text = format!("no fence template of segment {} takes offers: import the address", record.segment);
            return refuse("no-template", text);
        }
        let kept = self.durable.devices.get(host).cloned();
        if kept.as_ref().is_some_and(|record| record.imported.is_some()) {
            let text = format!(
                "the address for {host} is by a list, which wins: correct that, or `medevacctl fence-devices forget {host}`"
            );
            return refuse("imported", text);
        }
        if let Some(strange @ (Strange::Taken { .. } | Strange::Plane { .. })) = self.against(host, &offered) {
            let text = format!("{strange}: find out which is right, and import it, or forget the wrong one");
            return refuse("one-plug", text);
        }
        let (accepted, wall) = (by.to_owned(), self.now.wall);
        let offer = Some(Offered { address: offered.clone(), accepted, wall });
        self.durable.devices.put(DeviceRecord { host: host.clone(), imported: None, offered: offer });
        self.settle_devices();
        Ok(format!(
            "{host} is switched at {offered} from now on; it is not vouched for (`medevacctl pin-device {host}`)"
        ))
    }

    pub(crate) fn forget_device(&mut self, host: &HostId) -> Answer {
        if self.durable.devices.get(host).is_none() {
            let text = format!("nothing was imported or offered for {host}: see `medevacctl fence-devices list`");
            return refuse("no-device", text);
        }
        self.drop_device(host);
        Ok(format!("what was imported and offered for {host} is forgotten; the next {OFFERED} address is a first one"))
    }

    pub(crate) fn drop_device(&mut self, host: &HostId) {
        self.durable.devices.remove(host);
        self.settle_devices();
    }
}

/// How a line is counted.
const NEW: usize = 0;
const CHANGED: usize = 1;
const SAME: usize = 2;
