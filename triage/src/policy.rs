//! What is to be done for an instance, and which rule says so.
//!
//! ```text
//!   protect < site < zone < aggregate < project < image < flavor < server < an operator's word
//!   coarse ------------------------------------------------------> fine: overrides
//!                                  \-> "tenant", or nobody but `protect`: its own metadata counts
//! ```
//!
//! All of these are written by operators. A server's metadata is written by its
//! tenant: it counts only where the finest of them leaves it to the tenant, and
//! says nothing but on or off.

use crate::cloud::{Aggregate, Marks, Mould};
use crate::id::InstanceId;
use std::collections::BTreeMap;
use std::fmt;

/// More groups than anybody can keep in order by hand.
pub const TIER_MAX: u32 = 99;
/// Enough to put something between any two; percent are what people think in.
pub const PRIORITY_MAX: i32 = 100;

/// Whether an instance is recovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ha {
    On,
    Off,
    /// Its tenant may choose; who says nothing gets what `protect` says.
    Tenant,
}

/// What becomes of a server whose disks do not survive its host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnLocalDisks {
    /// For its host.
    #[default]
    Wait,
    /// It is made anew from its image: what was on the disk is lost.
    Rebuild,
}

/// How many are meant by one statement, the most first: who is finer overrides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Site,
    Zone,
    Aggregate,
    Project,
    Image,
    Flavor,
    Server,
}

/// Each level by the name that a configuration gives it, coarse to fine, and what names one of it.
pub const LEVELS: [(Level, &str, &str); 7] = [
    (Level::Site, "site", "a rule without any of the keys below"),
    (Level::Zone, "zone", "availability zone"),
    (Level::Aggregate, "aggregate", "name of a host aggregate"),
    (Level::Project, "project", "id of the project"),
    (Level::Image, "image", "id of the image; its name, if it is public"),
    (Level::Flavor, "flavor", "name of the flavor"),
    (Level::Server, "server", "id of the server; in plain libvirt its name, too"),
];

impl Level {
    pub fn name(self) -> &'static str {
        LEVELS.iter().find(|(level, _, _)| *level == self).map_or("", |(_, name, _)| name)
    }
}

/// The name under which medevac looks for the same words everywhere.
const OWN_HA: &str = "medevac:ha";
const OWN_PRIORITY: &str = "medevac:priority";
const OWN_TIER: &str = "medevac:tier";
const OWN_LOCAL_DISKS: &str = "medevac:on_local_disks";

/// Marks that say on or off, and who brought them into use; where one thing bears several the first counts.
pub const HA_MARKS: [(&str, &str); 5] = [
    (OWN_HA, "medevac"),
    ("HA_Enabled", "Masakari"),
    ("evacuable", "InstanceHA of Red Hat"),
    ("evacuate", "older set-ups of fence_evacuate"),
    ("evacuation:evacuate", "older set-ups of fence_evacuate"),
];
/// Marks that only operators may set.
const OPERATORS_MARKS: [&str; 3] = [OWN_PRIORITY, OWN_TIER, OWN_LOCAL_DISKS];

/// A mark that anybody here reads: all others are left with the cloud.
pub fn is_mark(name: &str) -> bool {
    HA_MARKS.iter().any(|(mark, _)| *mark == name) || OPERATORS_MARKS.contains(&name)
}

/// One `[[policy]]` of the configuration: whom it means, and what it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyRule {
    /// All of these must fit; nothing fits everybody.
    pub matches: BTreeMap<Level, String>,
    pub ha: Option<Ha>,
    pub priority: Option<i32>,
    pub tier: Option<u32>,
    pub on_local_disks: Option<OnLocalDisks>,
}

impl PolicyRule {
    /// The finest thing that it names.
    fn level(&self) -> Level {
        self.matches.last_key_value().map_or(Level::Site, |(level, _)| *level)
    }

    fn fits(&self, of: &Facts<'_>) -> bool {
        self.matches.iter().all(|(level, wanted)| of.is(*level, wanted))
    }
}

impl fmt::Display for PolicyRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.matches.is_empty() {
            return f.write_str("policy for the site");
        }
        let named: Vec<String> =
            self.matches.iter().map(|(level, wanted)| format!("{} {wanted}", level.name())).collect();
        write!(f, "policy for {}", named.join(", "))
    }
}

/// A value, and the rule that said it in words that an operator knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said<T> {
    pub value: T,
    pub rule: String,
}

/// What holds for one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub protected: Said<bool>,
    /// Higher is earlier.
    pub priority: Option<Said<i32>>,
    /// Lower is earlier; without one it waits for nobody, and nobody for it.
    pub tier: Option<Said<u32>>,
    pub on_local_disks: Option<Said<OnLocalDisks>>,
    /// Marks that cannot be understood, and say nothing for that reason.
    pub faults: Vec<String>,
}

impl Policy {
    pub fn rebuilds(&self) -> bool {
        self.on_local_disks.as_ref().is_some_and(|said| said.value == OnLocalDisks::Rebuild)
    }

    /// More is said of it than what holds for everybody.
    pub fn is_special(&self) -> bool {
        let plain = [PROTECT_ALL, MARKED, NOT_MARKED].contains(&self.protected.rule.as_str());
        let ordered = self.priority.is_some() || self.tier.is_some() || self.on_local_disks.is_some();
        !plain || ordered || !self.faults.is_empty()
    }

    /// Those that come first are less.
    pub fn rank(&self) -> (u32, i32) {
        let tier = self.tier.as_ref().map_or(u32::MAX, |said| said.value);
        (tier, -self.priority.as_ref().map_or(0, |said| said.value))
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protected = if self.protected.value { "protected" } else { "not protected" };
        write!(f, "{protected} ({})", self.protected.rule)?;
        if let Some(Said { value, rule }) = &self.priority {
            write!(f, "; priority {value} ({rule})")?;
        }
        if let Some(Said { value, rule }) = &self.tier {
            write!(f, "; tier {value} ({rule})")?;
        }
        if let Some(Said { value, rule }) = &self.on_local_disks {
            let text = if *value == OnLocalDisks::Rebuild { "are made anew" } else { "are waited for" };
            write!(f, "; local disks {text} ({rule})")?;
        }
        self.faults.iter().try_for_each(|fault| write!(f, "; ignored: {fault}"))
    }
}

/// What is known of an instance. What is empty matches nothing.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    pub id: &'a InstanceId,
    /// Where it is the operator's, as in plain libvirt. A tenant could take any other one's.
    pub name: Option<&'a str>,
    pub zone: &'a str,
    pub aggregates: Vec<&'a Aggregate>,
    pub project: &'a str,
    pub image: &'a Mould,
    pub flavor: &'a Mould,
    /// Its tenant's words.
    pub metadata: &'a Marks,
    /// In plain libvirt its metadata are the operator's.
    pub marked: bool,
    /// `protect` or `unprotect`.
    pub word: Option<bool>,
}

impl Facts<'_> {
    fn is(&self, level: Level, wanted: &str) -> bool {
        let same = |name: &str| !name.is_empty() && name == wanted;
        match level {
            Level::Site => true,
            Level::Zone => same(self.zone),
            Level::Aggregate => self.aggregates.iter().any(|aggregate| same(&aggregate.name)),
            Level::Project => same(self.project),
            Level::Image => same(&self.image.id) || same(&self.image.name),
            Level::Flavor => same(&self.flavor.name),
            Level::Server => same(self.id.as_str()) || self.name.is_some_and(same),
        }
    }

    /// What operators have marked at a level, each with its name.
    fn marks_at(&self, level: Level) -> Vec<(&str, &Marks)> {
        match level {
            Level::Aggregate => self.aggregates.iter().map(|one| (one.name.as_str(), &one.marks)).collect(),
            Level::Image if self.image.name.is_empty() => vec![(self.image.id.as_str(), &self.image.marks)],
            Level::Image => vec![(self.image.name.as_str(), &self.image.marks)],
            Level::Flavor => vec![(self.flavor.name.as_str(), &self.flavor.marks)],
            Level::Site | Level::Zone | Level::Project | Level::Server => Vec::new(),
        }
    }
}

/// What is said, by whom it may be said: the finest statement about one question.
struct Question<T> {
    of_rule: fn(&PolicyRule) -> Option<T>,
    of_marks: fn(&Marks) -> Option<(T, String)>,
    /// Of several aggregates of one host that differ, the one that promises least has the word.
    caution: fn(T) -> i64,
}

impl<T: Copy> Question<T> {
    fn ask(&self, rules: &[PolicyRule], of: &Facts<'_>) -> Option<Said<T>> {
        LEVELS.iter().rev().find_map(|(level, name, _)| {
            let of_level = |rule: &&PolicyRule| rule.level() == *level && rule.fits(of);
            // Of two rules of one file the later one is the more considered.
            let ruled = rules.iter().rev().filter(of_level).find_map(|rule| Some((rule, (self.of_rule)(rule)?)));
            if let Some((rule, value)) = ruled {
                return Some(Said { value, rule: rule.to_string() });
            }
            let marks = of.marks_at(*level).into_iter().filter_map(|(thing, marks)| {
                let (value, mark) = (self.of_marks)(marks)?;
                Some(Said { value, rule: format!("{name} {thing}: {mark}") })
            });
            marks.max_by_key(|said| (self.caution)(said.value))
        })
    }
}

/// All that is said of one instance.
pub fn judge(protect_all: bool, rules: &[PolicyRule], of: &Facts<'_>) -> Policy {
    let priority = Question { of_rule: |rule| rule.priority, of_marks: priority_mark, caution: |p| -i64::from(p) };
    let tier = Question { of_rule: |rule| rule.tier, of_marks: tier_mark, caution: i64::from };
    let local = Question {
        of_rule: |rule| rule.on_local_disks,
        of_marks: local_mark,
        caution: |on| i64::from(on == OnLocalDisks::Wait),
    };
    Policy {
        protected: is_protected(protect_all, rules, of),
        priority: priority.ask(rules, of),
        tier: tier.ask(rules, of),
        on_local_disks: local.ask(rules, of),
        faults: faults(of),
    }
}

/// What is said of who is spoken of by nobody.
const PROTECT_ALL: &str = "protect = \"all\"";
const MARKED: &str = "it is marked for protection";
const NOT_MARKED: &str = "it is not marked for protection";

/// The one part that is asked for often.
pub fn is_protected(protect_all: bool, rules: &[PolicyRule], of: &Facts<'_>) -> Said<bool> {
    let said = |value: bool, rule: &str| Said { value, rule: rule.to_owned() };
    match of.word {
        Some(true) => return said(true, "an operator included it"),
        Some(false) => return said(false, "an operator excluded it"),
        None => {}
    }
    let ha = Question {
        of_rule: |rule| rule.ha,
        of_marks: ha_mark,
        caution: |ha| match ha {
            Ha::On => 0,
            Ha::Tenant => 1,
            Ha::Off => 2,
        },
    };
    match ha.ask(rules, of) {
        Some(Said { value: Ha::On, rule }) => return Said { value: true, rule },
        Some(Said { value: Ha::Off, rule }) => return Said { value: false, rule },
        Some(Said { value: Ha::Tenant, .. }) | None => {}
    }
    match ha_mark(of.metadata) {
        Some((Ha::On, mark)) => said(true, &format!("its own metadata: {mark}")),
        Some((Ha::Off, mark)) => said(false, &format!("its own metadata: {mark}")),
        Some((Ha::Tenant, _)) | None if protect_all => said(true, PROTECT_ALL),
        Some((Ha::Tenant, _)) | None if of.marked => said(true, MARKED),
        Some((Ha::Tenant, _)) | None => said(false, NOT_MARKED),
    }
}

fn ha_mark(marks: &Marks) -> Option<(Ha, String)> {
    HA_MARKS.iter().find_map(|(name, _)| {
        let text = marks.get(*name)?;
        Some((ha_value(name, text)?, format!("{name} = {}", text.trim())))
    })
}

/// A mark that is set to true, as OpenStack reads it.
pub(crate) fn is_true(text: &str) -> bool {
    ha_value("", text) == Some(Ha::On)
}

/// As OpenStack reads a boolean; `tenant` is a word of our own mark alone.
fn ha_value(name: &str, text: &str) -> Option<Ha> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "t" | "y" | "yes" | "on" => Some(Ha::On),
        "false" | "0" | "f" | "n" | "no" | "off" => Some(Ha::Off),
        "tenant" if name == OWN_HA => Some(Ha::Tenant),
        _ => None,
    }
}

fn priority_mark(marks: &Marks) -> Option<(i32, String)> {
    own_mark(marks, OWN_PRIORITY, priority_value)
}

fn tier_mark(marks: &Marks) -> Option<(u32, String)> {
    own_mark(marks, OWN_TIER, tier_value)
}

fn local_mark(marks: &Marks) -> Option<(OnLocalDisks, String)> {
    own_mark(marks, OWN_LOCAL_DISKS, local_value)
}

fn own_mark<T>(marks: &Marks, name: &str, read: fn(&str) -> Option<T>) -> Option<(T, String)> {
    let text = marks.get(name)?;
    Some((read(text)?, format!("{name} = {}", text.trim())))
}

fn priority_value(text: &str) -> Option<i32> {
    text.trim().parse().ok().filter(|value| (-PRIORITY_MAX..=PRIORITY_MAX).contains(value))
}

fn tier_value(text: &str) -> Option<u32> {
    text.trim().parse().ok().filter(|value| (1..=TIER_MAX).contains(value))
}

fn local_value(text: &str) -> Option<OnLocalDisks> {
    match text.trim() {
        "wait" => Some(OnLocalDisks::Wait),
        "rebuild" => Some(OnLocalDisks::Rebuild),
        _ => None,
    }
}

/// Marks that somebody meant, and nobody can read.
fn faults(of: &Facts<'_>) -> Vec<String> {
    let mut faults = Vec::new();
    for (level, name, _) in LEVELS {
        for (thing, marks) in of.marks_at(level) {
            let wrong = marks.iter().filter(|(mark, text)| !is_readable(mark, text));
            faults.extend(wrong.map(|(mark, text)| format!("{name} {thing}: {mark} = {}", shown(text))));
        }
    }
    for (mark, text) in of.metadata.iter().filter(|(mark, _)| is_mark(mark)) {
        if OPERATORS_MARKS.contains(&mark.as_str()) {
            faults.push(format!("its own metadata: {mark}: only operators set it, on flavors, images or aggregates"));
        } else if !is_readable(mark, text) {
            faults.push(format!("its own metadata: {mark} = {}", shown(text)));
        }
    }
    faults
}

/// It may be anything: it must not write into anybody's terminal.
fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(40).collect::<String>())
}

fn is_readable(mark: &str, text: &str) -> bool {
    match mark {
        OWN_PRIORITY => priority_value(text).is_some(),
        OWN_TIER => tier_value(text).is_some(),
        OWN_LOCAL_DISKS => local_value(text).is_some(),
        mark if is_mark(mark) => ha_value(mark, text).is_some(),
        _ => true,
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
