//! May this host be shot? Witnesses decide, never a proof; and a single doubt
//! is enough to say no. Every doubt has a name and says what would end it.

use crate::Triage;
use crate::id::{HostId, PlaneId};
use crate::observation::{ProbeAnswer, Vantage};
use crate::record::HostRecord;
use crate::standing::Standing;
use crate::time::shown;
use crate::watch::Round;
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

/// One lost round is bad luck; two in a row are evidence.
const ROUNDS_AGREE: usize = 2;
/// A round is waited for this much longer than its probes' deadline.
const ROUND_SLACK: Duration = Duration::from_millis(700);

/// One reason why a host may not be shot now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doubt {
    NotSilent { standing: &'static str },
    Settling { left: Duration },
    NoInventory,
    OwnHost,
    NotAHome,
    Cloned,
    GraceNotOver { silent: Duration, grace: Duration, why: &'static str },
    TooFewWitnesses { streams: usize },
    NobodyAgrees { rounds: usize },
    Answers { by: String, plane: PlaneId, answer: ProbeAnswer },
    NoPlaneSpeaks,
    ReferenceNotReached,
    Minority { heard: usize, of: usize },
}

impl Doubt {
    /// Stable, for machines.
    pub fn name(&self) -> &'static str {
        match self {
            Doubt::NotSilent { .. } => "not-silent",
            Doubt::Settling { .. } => "settling",
            Doubt::NoInventory => "no-inventory",
            Doubt::OwnHost => "own-host",
            Doubt::NotAHome => "not-a-home",
            Doubt::Cloned => "cloned",
            Doubt::GraceNotOver { .. } => "grace-not-over",
            Doubt::TooFewWitnesses { .. } => "too-few-witnesses",
            Doubt::NobodyAgrees { .. } => "nobody-agrees",
            Doubt::Answers { .. } => "answers",
            Doubt::NoPlaneSpeaks => "no-plane-speaks",
            Doubt::ReferenceNotReached => "reference-not-reached",
            Doubt::Minority { .. } => "minority",
        }
    }

    /// It ends by itself with time, and is no news.
    pub fn passes(&self) -> bool {
        matches!(self, Doubt::Settling { .. } | Doubt::GraceNotOver { .. } | Doubt::NobodyAgrees { .. })
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Doubt::NotSilent { standing } => write!(f, "it is {standing}"),
            Doubt::Settling { left } => write!(f, "this aggregator has not listened for long; {} to go", shown(*left)),
            Doubt::NoInventory => write!(f, "no inventory of it was ever stored"),
            Doubt::OwnHost => write!(f, "this aggregator runs on it"),
            Doubt::NotAHome => write!(f, "it is home to no protected instance"),
            Doubt::Cloned => write!(f, "its identity was seen in two places"),
            Doubt::GraceNotOver { silent, grace, why } => {
                write!(f, "silent for {}, judged after {} ({why})", shown(*silent), shown(*grace))
            }
            Doubt::TooFewWitnesses { streams: 0 } => {
                write!(f, "no other host is heard that could witness, so this is alert only")
            }
            Doubt::TooFewWitnesses { streams } => write!(
                f,
                "only {streams} other host is heard; a second witness or a `reference` address in the configuration is needed"
            ),
            Doubt::NobodyAgrees { rounds } => {
                write!(f, "two witnesses have agreed in {rounds} rounds, {ROUNDS_AGREE} are needed")
            }
            Doubt::Answers { by, plane, answer } => {
                let what = if *answer == ProbeAnswer::UserSpace { "user space" } else { "its kernel" };
                write!(f, "{what} answers {by} on {plane}")
            }
            Doubt::NoPlaneSpeaks => write!(f, "the witnesses do not reach each other on any plane"),
            Doubt::ReferenceNotReached => write!(f, "the reference address is not reached by us and by the witness"),
            Doubt::Minority { heard, of } => {
                write!(f, "only {heard} of {of} hosts that should be up are heard: we may be the ones cut off")
            }
        }
    }
}

/// What one round says about one host.
enum Say {
    /// Two witnesses, or one and the reference, got nothing on these planes.
    Nothing {
        planes: BTreeSet<PlaneId>,
        by: String,
    },
    No(Doubt),
}

impl Triage {
    /// Everything that speaks against shooting this host now; empty: it is
    /// condemned. `hung` asks with the kernel's answers allowed.
    pub(crate) fn doubts(&self, record: &HostRecord, hung: bool) -> Vec<Doubt> {
        let mut doubts = Vec::new();
        let standing = self.standing(record);
        let silent_enough = standing == Standing::Suspect || (hung && standing == Standing::Hung);
        if !silent_enough {
            doubts.push(Doubt::NotSilent { standing: standing.name() });
            return doubts;
        }
        if self.now.at < self.settle_until {
            doubts.push(Doubt::Settling { left: self.settle_until.since(self.now.at) });
        }
        if !record.has_inventory {
            doubts.push(Doubt::NoInventory);
        }
        if self.settings.own_host.as_ref() == Some(&record.id) {
            doubts.push(Doubt::OwnHost);
        }
        if record.cloned.is_some() {
            doubts.push(Doubt::Cloned);
        }
        if !self.is_home_of_protected(&record.id) {
            doubts.push(Doubt::NotAHome);
        }
        self.doubt_witnesses(record, hung, &mut doubts);
        doubts
    }

    fn doubt_witnesses(&self, record: &HostRecord, hung: bool, doubts: &mut Vec<Doubt>) {
        let streams = self.durable.hosts.ids().into_iter().filter(|h| *h != record.id && self.streams(h)).count();
        let by_reference = streams == 1 && !self.settings.references.is_empty();
        if self.settings.guards.witnesses && streams < 2 && !by_reference {
            doubts.push(Doubt::TooFewWitnesses { streams });
        }
        let (heard, of) = self.majority();
        if self.settings.guards.majority && heard * 2 <= of && !by_reference {
            doubts.push(Doubt::Minority { heard, of });
        }
        let said = self.say_rounds(record, hung, by_reference);
        let planes = match said {
            Ok(planes) => planes,
            Err(doubt) => {
                if self.settings.guards.witnesses {
                    doubts.push(doubt);
                }
                BTreeSet::new()
            }
        };
        let (grace, why) = self.grace(record, &planes, by_reference);
        let grace = grace + self.watches.get(&record.id).map_or(Duration::ZERO, |watch| watch.grace_extra);
        let silent = self.silence(&record.id);
        if silent < grace {
            doubts.push(Doubt::GraceNotOver { silent, grace, why });
        }
    }

    /// How long nobody has heard it.
    pub(crate) fn silence(&self, host: &HostId) -> Duration {
        self.watches.get(host).map_or(Duration::ZERO, |watch| self.now.at.since(watch.last_sign))
    }

    /// What silence is worth here, and why.
    fn grace(&self, record: &HostRecord, spoke: &BTreeSet<PlaneId>, by_reference: bool) -> (Duration, &'static str) {
        let long = self.settings.fence_grace_long;
        if by_reference {
            return (long, "a reference address stands for a witness");
        }
        if self.settings.planes.len() < 2 {
            return (long, "fewer than two planes are configured");
        }
        if !self.settings.planes.is_subset(spoke) {
            return (long, "a configured plane says nothing");
        }
        let neighbours = |other: &&HostRecord| other.id != record.id && other.segment == record.segment;
        let (mut any, mut all) = (false, true);
        for other in self.durable.hosts.iter().filter(neighbours).filter(|other| self.should_be_up(other)) {
            any |= self.is_heard(other);
            all &= self.is_heard(other);
        }
        if any && all {
            (self.settings.fence_grace, "planes and neighbours speak")
        } else {
            (long, "a neighbour is silent too")
        }
    }

    /// The last rounds that are over must agree that nobody gets an answer.
    fn say_rounds(&self, record: &HostRecord, hung: bool, by_reference: bool) -> Result<BTreeSet<PlaneId>, Doubt> {
        let deadline = self.settings.probe_deadline + ROUND_SLACK;
        let since = self.watches.get(&record.id).map(|watch| watch.last_sign).unwrap_or_default();
        let over = |round: &&Round| round.complete() || self.now.at.since(round.begun) >= deadline;
        let recent = |round: &&Round| self.now.at.since(round.begun) <= self.settings.probe_every * 4 + deadline;
        let about = |round: &&Round| round.targets.contains(&record.id) && round.begun > since;
        let mut agreed: Option<BTreeSet<PlaneId>> = None;
        let mut rounds = 0;
        for round in self.rounds.iter().rev().filter(over).filter(recent).filter(about).take(ROUNDS_AGREE) {
            match self.say_round(round, record, hung, by_reference) {
                Say::Nothing { planes, .. } => {
                    rounds += 1;
                    agreed = Some(match agreed {
                        Some(before) => before.intersection(&planes).cloned().collect(),
                        None => planes,
                    });
                }
                Say::No(doubt) => return Err(doubt),
            }
        }
        match agreed {
            Some(planes) if rounds >= ROUNDS_AGREE => Ok(planes),
            _ => Err(Doubt::NobodyAgrees { rounds }),
        }
    }

    fn say_round(&self, round: &Round, record: &HostRecord, hung: bool, by_reference: bool) -> Say {
        let allowed = if hung { ProbeAnswer::KernelOnly } else { ProbeAnswer::Nothing };
        for vantage in round.reports.keys() {
            let heard = round.answers(vantage, &record.id).find(|(_, answer)| *answer > allowed);
            if let Some((plane, answer)) = heard {
                let by = match vantage {
                    Vantage::Own => "us".to_owned(),
                    Vantage::Peer(host) => host.to_string(),
                };
                return Say::No(Doubt::Answers { by, plane: plane.clone(), answer });
            }
        }
        if by_reference {
            return self.say_by_reference(round);
        }
        let witnesses: Vec<&HostId> =
            round.witnesses.iter().filter(|w| round.reports.contains_key(&Vantage::Peer((*w).clone()))).collect();
        let mut planes = BTreeSet::new();
        let mut pairs = Vec::new();
        for (at, first) in witnesses.iter().enumerate() {
            for second in &witnesses[at + 1..] {
                let there = round.reaches(first, second);
                let back = round.reaches(second, first);
                let speaks: BTreeSet<PlaneId> = there.intersection(&back).cloned().collect();
                if !speaks.is_empty() {
                    pairs.push(format!("{first} and {second}"));
                    planes.extend(speaks);
                }
            }
        }
        match pairs.first() {
            Some(pair) => Say::Nothing { planes, by: pair.clone() },
            None if witnesses.len() < 2 => Say::No(Doubt::NobodyAgrees { rounds: 0 }),
            None => Say::No(Doubt::NoPlaneSpeaks),
        }
    }

    fn say_by_reference(&self, round: &Round) -> Say {
        let witness =
            round.witnesses.iter().map(|host| Vantage::Peer(host.clone())).find(|w| round.reaches_reference(w));
        match witness {
            Some(Vantage::Peer(host)) if round.reaches_reference(&Vantage::Own) => Say::Nothing {
                planes: BTreeSet::new(),
                by: format!("{host}, which reaches the reference address as we do, and we"),
            },
            _ => Say::No(Doubt::ReferenceNotReached),
        }
    }

    /// Who agreed in the newest round that speaks: for the incident's evidence.
    pub(crate) fn agreed_by(&self, record: &HostRecord) -> String {
        let streams = self.durable.hosts.ids().into_iter().filter(|h| *h != record.id && self.streams(h)).count();
        let by_reference = streams == 1 && !self.settings.references.is_empty();
        for round in self.rounds.iter().rev().filter(|round| round.targets.contains(&record.id)) {
            if let Say::Nothing { planes, by } = self.say_round(round, record, true, by_reference) {
                let planes: Vec<&str> = planes.iter().map(PlaneId::as_str).collect();
                let got = match round.best(&record.id) {
                    Some(ProbeAnswer::KernelOnly) => "hear its kernel and nothing else",
                    _ => "get no answer",
                };
                if planes.is_empty() {
                    return format!("{by} {got}");
                }
                return format!("{by} {got}; they reach each other on {}", planes.join(", "));
            }
        }
        "nobody".to_owned()
    }

    /// A look round begun after this moment that is over and got nothing of the
    /// host, from anybody; `Some(false)` when one did get something.
    pub(crate) fn round_after(&self, host: &HostId, after: crate::Moment) -> Option<bool> {
        let deadline = self.settings.probe_deadline + ROUND_SLACK;
        let over = |round: &&Round| round.complete() || self.now.at.since(round.begun) >= deadline;
        let about = |round: &&Round| round.begun > after && round.targets.contains(host) && !round.reports.is_empty();
        let mut silent = None;
        for round in self.rounds.iter().filter(over).filter(about) {
            match round.best(host) {
                Some(answer) if answer > ProbeAnswer::Nothing => return Some(false),
                _ => silent = Some(true),
            }
        }
        silent
    }

    /// Any instance that medevac protects may be running there.
    pub(crate) fn is_home_of_protected(&self, host: &HostId) -> bool {
        self.durable
            .instances_near(host)
            .iter()
            .filter_map(|id| self.durable.instances.get(id))
            .any(|record| record.homes.contains_key(host) && self.is_protected(record))
    }
}
