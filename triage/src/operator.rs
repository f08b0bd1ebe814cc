//! An operator's word: done, or refused with a name and what to do about it.
//! Every word carries its reason, which is kept.

use crate::Triage;
use crate::command::{Command, Refusal, Reply};
use crate::homes::WORD_NEEDS_SILENCE;
use crate::id::{BootId, HostId, IncidentId, InstanceId, SegmentId};
use crate::incident::Opening;
use crate::maintenance::limit_ms;
use crate::observation::Word;
use crate::record::{
    HomeWhy, HostRecord, IncidentKind, IncidentRecord, InstanceRecord, Maintenance, Mode, OutcomeState, Phase, Pin,
    Proof, SiteRecord, WordRecord,
};
use crate::time::shown;
use crate::turns::Tiers;

/// Words kept: a person's work of years, in some hundred kilobytes.
const WORDS_KEPT: u64 = 1000;

type Answer = Result<String, Refusal>;

fn refuse(name: &'static str, text: String) -> Answer {
    Err(Refusal { name, text })
}

fn no_device(host: &HostId) -> String {
    format!("{host} has no fence device: `medevacctl fence-devices list {host}` says why")
}

impl Triage {
    pub(crate) fn take_word(&mut self, token: u64, by: &str, reason: &str, word: Word) {
        let answer = if self.deposed.is_some() {
            refuse("not-deciding", "this aggregator does not decide here: see `medevacctl status`".to_owned())
        } else if reason.trim().is_empty() {
            refuse("no-reason", "every order is kept with its reason: add --reason '...'".to_owned())
        } else {
            let said = word.to_string();
            // Who only asks what it would come to has said nothing yet.
            let kept = !matches!(word, Word::ImportDevices { dry_run: true, .. });
            let answer = self.obey(by, reason, word);
            if kept {
                self.keep_word(by, said, reason, &answer);
            }
            answer
        };
        self.out.replies.push(Reply { token, answer });
    }

    /// Who said what, why, and what came of it: kept whether it was obeyed or not.
    fn keep_word(&mut self, by: &str, said: String, reason: &str, answer: &Answer) {
        let result = match answer {
            // The first line says it all; the others are for whoever waits for the answer.
            Ok(text) => text.lines().next().unwrap_or_default().to_owned(),
            Err(refusal) => format!("refused, {}: {}", refusal.name, refusal.text),
        };
        self.note("MDV-OPERATOR", false, format!("{by} said `{said}` because '{reason}': {result}"));
        let (by, reason, done) = (by.to_owned(), reason.to_owned(), answer.is_ok());
        self.keep(WordRecord { by, said, reason, result, done, ..WordRecord::default() });
    }

    /// Numbers and dates a word, and lets the oldest go.
    pub(crate) fn keep(&mut self, word: WordRecord) {
        let site = self.durable.site();
        let number = site.words + 1;
        self.durable.site.put(SiteRecord { words: number, ..site });
        self.durable.words.put(WordRecord { number, wall: self.now.wall, ..word });
        self.durable.words.remove(&number.saturating_sub(WORDS_KEPT));
    }

    fn obey(&mut self, by: &str, reason: &str, word: Word) -> Answer {
        match word {
            Word::SetMode { segment, mode, others_are_off } => self.set_mode(&segment, mode, others_are_off),
            Word::Pause => self.set_paused(Some(format!("{reason} ({by})"))),
            Word::Resume => self.set_paused(None),
            Word::Maintenance { host, on, until_back, limit } => {
                let (reason, by, limit_ms) = (reason.to_owned(), by.to_owned(), limit_ms(limit));
                self.set_maintenance(&host, on.then_some(Maintenance { reason, by, until_back, limit_ms }))
            }
            Word::Approve { incident } => self.approve(incident, by, reason),
            Word::Cancel { incident } => self.cancel(incident, by, reason),
            Word::Retry { incident } => self.retry(incident, by),
            Word::ConfirmFenced { host, boot } => self.confirm_fenced(&host, boot, by, reason),
            Word::Fence { host } => self.fence_by_word(&host, by, reason),
            Word::Release { host } => self.release(&host),
            Word::PowerOn { host } => self.power_on(&host),
            Word::PinDevice { host } => self.pin_device(&host, by),
            Word::Protect { instance } => self.protect(&instance, true),
            Word::Unprotect { instance } => self.protect(&instance, false),
            Word::Recover { instance } => self.recover(&instance, by, reason),
            Word::Forget { host } => self.forget(&host),
            Word::RetryAlerts { receiver } => self.retry_letters(&receiver),
            Word::MakeTokens { tokens, ttl } => self.make_tokens(tokens, ttl),
            Word::Revoke { whose } => self.revoke(&whose, by, reason),
            Word::ImportDevices { rows, dry_run } => self.import_devices(&rows, dry_run, by),
            Word::AcceptDevice { host } => self.accept_device(&host, by),
            Word::ForgetDevice { host } => self.forget_device(&host),
        }
    }

    pub(crate) fn known_host(&self, host: &HostId) -> Result<HostRecord, Refusal> {
        let unknown =
            || Refusal { name: "unknown-host", text: format!("no host {host} has joined: see `medevacctl hosts`") };
        self.host(host).cloned().ok_or_else(unknown)
    }

    fn open_one(&self, id: IncidentId) -> Result<IncidentRecord, Refusal> {
        match self.incident(id) {
            None => {
                Err(Refusal { name: "unknown-incident", text: format!("there is no {id}: see `medevacctl incidents`") })
            }
            Some(incident) if incident.phase.closed() => {
                Err(Refusal { name: "closed", text: format!("{id} is closed: see `medevacctl incident {id}`") })
            }
            Some(incident) => Ok(incident.clone()),
        }
    }

    fn set_mode(&mut self, segment: &SegmentId, mode: Mode, others_are_off: bool) -> Answer {
        if mode != Mode::Observe
            && !others_are_off
            && let Some(found) = self.others_in(segment)
        {
            let text = format!(
                "others restart guests there, too, and two that do end in two copies: {found}; disable them, or add \
                 --others-are-off once you know that they do not act"
            );
            return refuse("other-ha", text);
        }
        let Some(record) = self.durable.segments.edit(segment) else {
            return refuse("unknown-segment", format!("no segment {segment}: see `medevacctl status`"));
        };
        record.mode = mode;
        self.care_is_stale = true;
        let empty = !self.inhabited().contains(segment);
        let note = if empty { "; no host is in it now" } else { "" };
        Ok(format!("segment {segment} is in mode {}{note}", mode.name()))
    }

    fn set_paused(&mut self, paused: Option<String>) -> Answer {
        let text = if paused.is_some() { "paused: nothing is ordered until `medevacctl resume`" } else { "resumed" };
        let site = self.durable.site();
        let restored = site.restored.filter(|_| paused.is_some());
        self.durable.site.put(SiteRecord { paused, restored, ..site });
        Ok(text.to_owned())
    }

    fn approve(&mut self, id: IncidentId, by: &str, reason: &str) -> Answer {
        self.open_one(id)?;
        if let Some(incident) = self.durable.incidents.edit(&id) {
            incident.approved = Some(format!("{by}: {reason}"));
        }
        self.log(id, "approved", format!("approved by {by}: {reason}"));
        self.work(id).restless = true;
        Ok(format!("{id} is approved as a whole; proof and homes hold as ever"))
    }

    fn cancel(&mut self, id: IncidentId, by: &str, reason: &str) -> Answer {
        let incident = self.open_one(id)?;
        if matches!(incident.phase, Phase::Fencing { .. } | Phase::Confirming { .. }) {
            return refuse("off-order-out", format!("{id} has an off order out: wait until it is answered"));
        }
        let outcomes = self.durable.outcomes_of(id);
        let starting = outcomes.iter().any(|outcome| outcome.state == OutcomeState::Starting);
        if starting {
            return refuse("start-out", format!("{id} has starts that are not settled: wait until they are"));
        }
        self.close(id, "cancelled", format!("cancelled by {by}: {reason}"));
        Ok(format!("{id} is cancelled; a host that stays silent is judged anew"))
    }

    fn retry(&mut self, id: IncidentId, by: &str) -> Answer {
        self.open_one(id)?;
        if let Some(incident) = self.durable.incidents.edit(&id) {
            incident.retried_from = incident.next_step;
        }
        let now = self.now.at;
        let work = self.work(id);
        work.retry_at = Some(now);
        work.fresh_from = now;
        work.restless = true;
        work.tiers = Tiers::default();
        self.log(id, "retry", format!("{by} asked for another try"));
        Ok(format!("{id} is tried again"))
    }

    /// Proof 7: refused while anybody has heard the host of late; it names a boot.
    fn confirm_fenced(&mut self, host: &HostId, boot: Option<BootId>, by: &str, reason: &str) -> Answer {
        let record = self.known_host(host)?;
        let silence = self.silence(host);
        if silence < WORD_NEEDS_SILENCE || self.streams(host) {
            let text = format!(
                "{host} was heard {} ago: a host must be silent for {}",
                shown(silence),
                shown(WORD_NEEDS_SILENCE)
            );
            return refuse("host-was-heard", text);
        }
        let current = record.boots.last().cloned().unwrap_or_default();
        let boot = boot.unwrap_or_else(|| current.clone());
        if boot != current {
            return refuse("other-boot", format!("{host}'s current boot is {current}, not {boot}"));
        }
        let id = self.host_incident(host).unwrap_or_else(|| {
            let opening = Opening {
                kind: IncidentKind::HostSilent,
                host: Some(host.clone()),
                boot: Some(boot.clone()),
                instance: None,
            };
            self.open_incident(opening, Phase::Watching)
        });
        if let Some(incident) = self.durable.incidents.edit(&id) {
            incident.approved.get_or_insert_with(|| format!("{by}: {reason}"));
        }
        let proof = Proof::OperatorsWord { by: by.to_owned(), reason: reason.to_owned() };
        let text = format!("{by} vouches that boot {boot} of {host} is dead: {reason}");
        self.proven(id, host, Some(boot), proof, true, text);
        Ok(format!("{host} counts as dead by your word; {id} recovers its guests"))
    }

    fn fence_by_word(&mut self, host: &HostId, by: &str, reason: &str) -> Answer {
        let record = self.known_host(host)?;
        if self.device(host).is_none() {
            return refuse("no-device", no_device(host));
        }
        if self.settings.own_host.as_ref() == Some(host) {
            return refuse("own-host", format!("this aggregator runs on {host}"));
        }
        if let Some(id) = self.host_incident(host) {
            return self.fence_in(id, host, by, reason);
        }
        let boot = record.boots.last().cloned();
        let opening = Opening { kind: IncidentKind::HostShot, host: Some(host.clone()), boot, instance: None };
        let id = self.open_incident(opening, Phase::Watching);
        if let Some(incident) = self.durable.incidents.edit(&id) {
            incident.approved = Some(format!("{by}: {reason}"));
        }
        self.log(id, "ordered", format!("{by} orders {host} off: {reason}"));
        Ok(format!("{id}: {host} will be switched off"))
    }

    /// An incident about this host that has not ordered anything yet becomes a
    /// person's own shot: it needs no condemnation.
    fn fence_in(&mut self, id: IncidentId, host: &HostId, by: &str, reason: &str) -> Answer {
        let untouched = |phase: &Phase| {
            matches!(
                phase,
                Phase::Watching
                    | Phase::Observed
                    | Phase::WaitingForApproval
                    | Phase::WaitingForRail { .. }
                    | Phase::Paused
            )
        };
        match self.durable.incidents.edit(&id) {
            Some(incident) if untouched(&incident.phase) && !incident.shot => {
                incident.kind = IncidentKind::HostShot;
                incident.approved = Some(format!("{by}: {reason}"));
            }
            _ => return refuse("has-incident", format!("{host} is dealt with in {id}: retry that one")),
        }
        self.log(id, "ordered", format!("{by} orders {host} off: {reason}"));
        self.work(id).restless = true;
        Ok(format!("{id}: {host} will be switched off"))
    }

    fn release(&mut self, host: &HostId) -> Answer {
        self.known_host(host)?;
        let open =
            self.host_incident(host).and_then(|id| self.incident(id)).filter(|i| !matches!(i.phase, Phase::Waiting));
        if let Some(incident) = open {
            return refuse(
                "recovery-under-way",
                format!("{} is under way: release {host} when it is done", incident.id),
            );
        }
        if let Some(record) = self.durable.hosts.edit(host) {
            record.fenced = false;
        }
        Ok(format!("{host} may be switched on"))
    }

    fn power_on(&mut self, host: &HostId) -> Answer {
        let record = self.known_host(host)?;
        if record.fenced {
            return refuse("fenced", format!("{host} was fenced: run `medevacctl release {host}` first"));
        }
        if self.durable.site().paused.is_some() {
            return refuse("paused", "everything is paused: run `medevacctl resume` first".to_owned());
        }
        let Some(through) = self.device(host).map(|device| device.through.clone()) else {
            return refuse("no-device", no_device(host));
        };
        self.command(Command::PowerOn { host: host.clone(), through });
        Ok(format!("{host} is being switched on"))
    }

    fn pin_device(&mut self, host: &HostId, by: &str) -> Answer {
        self.known_host(host)?;
        let Some(device) = self.device(host).map(|device| device.name.clone()) else {
            return refuse("no-device", no_device(host));
        };
        if let Some(record) = self.durable.hosts.edit(host) {
            record.pin = Some(Pin { device: device.clone(), by: by.to_owned() });
        }
        Ok(format!("your word is kept that {device} is wired to {host}"))
    }

    fn protect(&mut self, instance: &InstanceId, protect: bool) -> Answer {
        let Some(record) = self.find_instance(instance) else {
            return refuse("unknown-instance", format!("no instance {instance}: see `medevacctl instances`"));
        };
        let name = record.name.clone();
        if let Some(record) = self.durable.instances.edit(&record.id) {
            record.protect = Some(protect);
        }
        self.care_is_stale = true;
        Ok(format!("{name} is {}protected", if protect { "" } else { "not " }))
    }

    /// By UUID or by a name that only one instance has.
    fn find_instance(&self, name: &InstanceId) -> Option<InstanceRecord> {
        if let Some(record) = self.durable.instances.get(name) {
            return Some(record.clone());
        }
        let mut named = self.durable.instances.iter().filter(|record| record.name == name.as_str());
        let first = named.next()?.clone();
        named.next().is_none().then_some(first)
    }

    /// Ends a wait: homes that are merely presumed or unsettled on hosts that
    /// nobody has heard for long are given up. A home that was shown is not:
    /// that takes `confirm-fenced`.
    fn recover(&mut self, instance: &InstanceId, by: &str, reason: &str) -> Answer {
        let Some(record) = self.find_instance(instance) else {
            return refuse("unknown-instance", format!("no instance {instance}: see `medevacctl instances`"));
        };
        let mut kept = record.homes.clone();
        for (host, home) in &record.homes {
            if self.is_dead(host, &home.boot) {
                continue;
            }
            if home.why == HomeWhy::Shown || self.silence(host) < WORD_NEEDS_SILENCE || self.streams(host) {
                let text = format!(
                    "{host} showed it and is not proven dead: `medevacctl confirm-fenced {host}` takes your word for that"
                );
                return refuse("home-not-dead", text);
            }
            kept.remove(host);
        }
        let Some(id) = self.hand(&record.id) else {
            return refuse("not-waiting", format!("{} waits for nothing", record.name));
        };
        if let Some(record) = self.durable.instances.edit(&record.id) {
            record.homes = kept;
            record.wanted = true;
            record.protect = Some(true);
            record.recover_word = Some(format!("{by}: {reason}"));
        }
        self.log(id, "recover", format!("{}: {by} takes it upon himself: {reason}", record.name));
        let now = self.now.at;
        let work = self.work(id);
        work.fresh_from = now;
        work.restless = true;
        Ok(format!("{} is recovered in {id}", record.name))
    }

    /// A host that is gone for good, or whose machine was replaced: its pins go
    /// with it, and whoever joins by that name next is a new host. Nothing that
    /// may be running there is ever forgotten.
    fn forget(&mut self, host: &HostId) -> Answer {
        self.known_host(host)?;
        if self.streams(host) || self.silence(host) < WORD_NEEDS_SILENCE {
            let text = format!(
                "{host} was heard {} ago: stop its agent for good first; a host is forgotten after {} of silence",
                shown(self.silence(host)),
                shown(WORD_NEEDS_SILENCE)
            );
            return refuse("host-was-heard", text);
        }
        if let Some(id) = self.host_incident(host) {
            return refuse("has-incident", format!("{host} is dealt with in {id}: end that one first"));
        }
        if self.host(host).is_some_and(|record| record.unseen) {
            let text = format!(
                "the store was restored, and any guest may be on {host}, which has shown nothing since: once you know \
                 that it is off, say `medevacctl confirm-fenced {host}`"
            );
            return refuse("unseen", text);
        }
        let near = self.durable.instances_near(host);
        let near: Vec<_> = near.iter().filter_map(|id| self.durable.instances.get(id)).cloned().collect();
        let lives =
            |instance: &&InstanceRecord| instance.homes.get(host).is_some_and(|home| !self.is_dead(host, &home.boot));
        if let Some(instance) = near.iter().find(lives) {
            let text = format!(
                "{} may be running on {host}: once you know that it is off, say `medevacctl confirm-fenced {host}`",
                instance.name
            );
            return refuse("home-of-instances", text);
        }
        let mut gone = 0;
        for mut instance in near {
            instance.homes.remove(host);
            instance.defined_on.remove(host);
            if instance.homes.is_empty() && instance.defined_on.is_empty() && !self.in_hand(&instance.id) {
                self.durable.instances.remove(&instance.id);
                gone += 1;
            } else {
                self.durable.instances.put(instance);
            }
        }
        let about: Vec<IncidentId> = self
            .durable
            .incidents
            .iter()
            .filter(|i| !i.phase.closed() && i.host.as_ref() == Some(host))
            .map(|i| i.id)
            .collect();
        for id in about {
            self.close(id, "forgotten", format!("{host} was forgotten by an operator"));
        }
        self.durable.hosts.remove(host);
        self.drop_device(host);
        self.offers.remove(host);
        self.power.remove(host);
        self.watches.remove(host);
        self.care_is_stale = true;
        Ok(format!("{host} is forgotten, with {gone} instances that were defined nowhere else"))
    }
}
