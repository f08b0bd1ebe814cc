//! Taking in what was seen: sessions, heartbeats, goodbyes, boots. Inventories
//! and facts are taken in beside ([`crate::inventory`], [`crate::gone`]).

use crate::command::Command;
use crate::id::{BootId, HostId, SessionId};
use crate::incident::Opening;
use crate::observation::{Closer, Heartbeat, Hello, Observation, Parting};
use crate::record::{Death, Goodbye, HostRecord, IncidentKind, Mode, Phase, Proof};
use crate::segments::DEFAULT_SEGMENT;
use crate::time::{Moment, millis, shown};
use crate::watch::{Live, Watch};
use crate::{Triage, standing};
use std::time::Duration;

/// Boots remembered per host; homes on older ones count as the oldest.
const BOOTS_KEPT: usize = 8;
/// Different digests for this long: ask for the whole inventory.
const DIGEST_PATIENCE: Duration = Duration::from_secs(1);

/// What a hello's boot id says beside what is kept.
enum BootNews {
    Same,
    New,
    /// It cannot be: the same identity in two places.
    Clone(String),
}

impl Triage {
    pub(crate) fn ingest(&mut self, observation: Observation) {
        match observation {
            Observation::TimePassed => {}
            Observation::SessionOpened(hello) => self.open_session(*hello),
            Observation::SessionClosed { host, session, by } => self.close_session(&host, &session, by),
            Observation::HeartbeatArrived(heartbeat) => self.take_heartbeat(&heartbeat),
            Observation::InventoryArrived { host, session, boot, inventory, answers } => {
                if self.is_current(&host, &session) {
                    self.sign_of_life(&host, true);
                    self.take_inventory(&host, &boot, inventory, answers);
                }
            }
            Observation::FactArrived { host, session, boot, seq, fact } => {
                if self.is_current(&host, &session) {
                    self.sign_of_life(&host, true);
                    self.take_fact(&host, &session, &boot, seq, fact);
                }
            }
            Observation::XmlArrived { host, hash, xml } => self.take_xml(&host, hash, xml),
            Observation::GoodbyeSaid { host, boot, goodbye } => self.take_goodbye(&host, boot, goodbye),
            Observation::ProbeReported(report) => self.take_probe_report(report),
            Observation::PowerRead { host, read, power, looks } => self.take_power(&host, read, power, looks),
            Observation::ControllerTold { host, offer } => self.take_offer(&host, offer),
            Observation::FenceAnswered { step, answer } => self.take_fence_answer(step, answer),
            Observation::PowerOnAnswered { host, done, detail } => {
                let text = if done {
                    format!("{host} was switched on")
                } else {
                    format!("{host} could not be switched on: {detail}")
                };
                self.note("MDV-POWER-ON", !done, text);
            }
            Observation::OrderAnswered { host, step, outcome } => self.take_order_answer(&host, step, outcome),
            Observation::OperatorSpoke { token, by, reason, word } => self.take_word(token, &by, &reason, word),
            Observation::CertificateAsked { token, ask } => self.take_certificate_ask(token, &ask),
            Observation::CloudSpoke(news) => self.take_cloud_news(news),
            Observation::LetterAnswered { receiver, alert, revision, delivery } => {
                self.letter_answered(&receiver, alert, revision, delivery)
            }
            Observation::RivalMet { .. } => {}
        }
    }

    pub(crate) fn is_current(&self, host: &HostId, session: &SessionId) -> bool {
        self.watches.get(host).and_then(|watch| watch.session.as_ref()).is_some_and(|live| live.id == *session)
    }

    /// Something of this host was heard; `of_this_boot` when no other boot can have said it.
    pub(crate) fn sign_of_life(&mut self, host: &HostId, of_this_boot: bool) {
        let (now, stale_until) = (self.now.at, self.stale_until);
        if let Some(watch) = self.watches.get_mut(host) {
            watch.last_sign = now;
            watch.hung_since = None;
            // Said before our loop stood still, perhaps: good enough to be called
            // alive, not to measure by.
            if of_this_boot && now >= stale_until {
                watch.boot_sign = now;
                watch.heard_since_start = true;
            }
        }
    }

    fn open_session(&mut self, hello: Hello) {
        let host = hello.host.clone();
        self.join(&hello);
        match self.boot_news(&hello) {
            BootNews::Clone(why) => return self.refuse_clone(&host, &hello.session, why),
            BootNews::Same => self.meet_same_boot(&host, &hello.boot),
            BootNews::New => self.meet_new_boot(&hello),
        }
        let now = self.now.at;
        let watch = self.watches.entry(host.clone()).or_default();
        *watch = Watch {
            session: Some(Live {
                id: hello.session.clone(),
                boot: hello.boot.clone(),
                heard_at: now,
                booted: Moment(now.0.saturating_sub(millis(hello.uptime))),
                memory_available_kib: hello.memory_available_kib,
                held: hello.held,
                libvirt_answers: hello.inventory.libvirt_answered,
                care: None,
                asked_xml: Default::default(),
                asked_inventory: None,
            }),
            last_sign: now,
            boot_sign: now,
            heard_since_start: true,
            power_on_at: watch.power_on_at,
            back_since: watch.back_since,
            stranger_at: watch.stranger_at,
            shown: watch.shown,
            ..Watch::default()
        };
        if let Some(record) = self.durable.hosts.edit(&host) {
            record.planes = hello.planes;
            record.memory_total_kib = hello.memory_total_kib;
            record.warnings = hello.warnings;
            record.goodbye = None;
            record.cloned = None;
        }
        self.take_inventory(&host, &hello.boot, hello.inventory, None);
        self.care_is_stale = true;
    }

    /// A host unknown so far gets its records; its machine is pinned.
    fn join(&mut self, hello: &Hello) {
        if self.host(&hello.host).is_some() {
            return;
        }
        let segment = self.segment_by_rule(&hello.host).unwrap_or_else(|| DEFAULT_SEGMENT.into());
        // Always there: its mode is the one in which all others begin.
        self.need_segment(&DEFAULT_SEGMENT.into());
        self.need_segment(&segment);
        self.durable.hosts.put(HostRecord {
            id: hello.host.clone(),
            segment,
            machine: hello.machine.clone(),
            boots: vec![hello.boot.clone()],
            ..HostRecord::default()
        });
        self.devices_are_stale = true;
        self.watches.insert(hello.host.clone(), Watch { last_sign: self.now.at, ..Watch::default() });
        self.note("MDV-JOINED", false, format!("{} joined with machine {}", hello.host, hello.machine));
    }

    fn boot_news(&self, hello: &Hello) -> BootNews {
        let Some(record) = self.host(&hello.host) else { return BootNews::New };
        if record.machine != hello.machine {
            return BootNews::Clone(format!(
                "machine {} says it is {}, which is pinned to machine {}",
                hello.machine, hello.host, record.machine
            ));
        }
        if record.boots.last() == Some(&hello.boot) {
            return BootNews::Same;
        }
        if record.boots.contains(&hello.boot) {
            return BootNews::Clone(format!(
                "boot {} of {} was followed by another one, and yet it speaks",
                hello.boot, hello.host
            ));
        }
        let over = record
            .dead
            .as_ref()
            .is_some_and(|death| death.refuted.is_none() && Some(&death.boot) == record.boots.last());
        if over {
            return BootNews::New; // The boot that we knew is proven dead already.
        }
        let Some(watch) = self.watches.get(&hello.host) else { return BootNews::New };
        let silence = self.now.at.since(watch.boot_sign);
        if watch.heard_since_start {
            if hello.uptime < silence {
                return BootNews::New;
            }
            return BootNews::Clone(format!(
                "{} says it has been up for {}, but its last boot was heard {} ago",
                hello.host,
                shown(hello.uptime),
                shown(silence)
            ));
        }
        // We cannot measure its silence; its own disk must name the boot that we knew.
        let known = record.boots.last();
        if known.is_some_and(|known| hello.previous_boots.contains(known)) {
            return BootNews::New;
        }
        BootNews::Clone(format!(
            "{} has a new boot, but its disk does not name the boot that is known here, {}, among those before",
            hello.host,
            known.map_or("none", BootId::as_str)
        ))
    }

    fn refuse_clone(&mut self, host: &HostId, session: &SessionId, why: String) {
        self.command(Command::CloseSession { host: host.clone(), session: session.clone(), why: "identity" });
        let now = self.now.at;
        if let Some(watch) = self.watches.get_mut(host) {
            watch.stranger_at = Some(now);
        }
        if self.host(host).is_some_and(|record| record.cloned.is_some()) {
            return; // Told once; it goes on until one of them is gone.
        }
        if let Some(record) = self.durable.hosts.edit(host) {
            record.cloned = Some(why.clone());
        }
        let opening = Opening { kind: IncidentKind::HostCloned, host: Some(host.clone()), boot: None, instance: None };
        let incident = self.open_incident(opening, Phase::Watching);
        self.log(incident, "clone", why.clone());
        self.note("MDV-CLONE", true, format!("{why}: nothing is done about {host} until only one of them speaks"));
    }

    fn meet_same_boot(&mut self, host: &HostId, boot: &BootId) {
        let dead = self.host(host).and_then(|record| record.dead.clone());
        if dead.is_some_and(|death| death.boot == *boot && death.refuted.is_none()) {
            self.refute(host, "its agent speaks again with the same boot id");
        }
    }

    /// Proof 3: the machine that we knew is running another boot, so the old one is over.
    fn meet_new_boot(&mut self, hello: &Hello) {
        let host = &hello.host;
        let Some(record) = self.host(host).cloned() else { return };
        let Some(old) = record.boots.last().cloned() else { return };
        if old == hello.boot {
            self.note_young_boot(hello, false);
            return;
        }
        let segment = record.segment.clone();
        self.note_young_boot(hello, true);
        let needs_hold = self.mode(&segment) != Mode::Observe;
        let wall = self.now.wall;
        let proof = Proof::NewBoot { boot: hello.boot.clone(), uptime_ms: millis(hello.uptime) };
        let was_fenced = record.fenced;
        let awaited = record.maintenance.as_ref().is_some_and(|maintenance| maintenance.until_back);
        if let Some(record) = self.durable.hosts.edit(host) {
            record.boots.push(hello.boot.clone());
            let excess = record.boots.len().saturating_sub(BOOTS_KEPT);
            record.boots.drain(..excess);
            let known = record.dead.as_ref().is_some_and(|death| death.boot == old && death.refuted.is_none());
            if !known {
                record.dead = Some(Death { boot: old.clone(), proof: proof.clone(), wall, needs_hold, refuted: None });
            }
            record.fenced = false;
            record.acked_seq = 0;
            record.hold_released = false;
            if awaited {
                record.maintenance = None;
            }
        }
        self.note("MDV-NEW-BOOT", false, format!("{host} runs boot {}, up for {}", hello.boot, shown(hello.uptime)));
        if was_fenced {
            self.note("MDV-FENCED-HOST-UP", true, format!("{host} was switched off and not released, and yet it runs"));
        }
        self.host_rebooted(host, &old, proof);
        if let Some(id) = self.host_incident(host).filter(|_| awaited) {
            self.was_planned(id);
        }
    }

    /// A young boot after a mass silence, or one that began before we listened,
    /// means that a site is coming up: whoever has not spoken yet is posting.
    fn note_young_boot(&mut self, hello: &Hello, known_before: bool) {
        if hello.uptime >= self.settings.boot_grace {
            return;
        }
        let Some(record) = self.host(&hello.host) else { return };
        let segment = record.segment.clone();
        let (silent, of) = self.silent_in(&segment);
        let mass = silent >= 2 && silent * 3 > of;
        let before_us = known_before && !self.watches.get(&hello.host).is_some_and(|watch| watch.heard_since_start);
        if mass || before_us {
            let until = self.now.at.plus(self.settings.boot_grace - hello.uptime);
            let since = self.now.at;
            let window = self.booting.entry(segment).or_insert(standing::Window { since, until });
            window.until = window.until.max(until);
        }
    }

    fn close_session(&mut self, host: &HostId, session: &SessionId, by: Closer) {
        if !self.is_current(host, session) {
            return;
        }
        let now = self.now.at;
        if let Some(watch) = self.watches.get_mut(host) {
            watch.session = None;
            watch.stream_lost_at = Some(now);
            watch.closed_by_host = by == Closer::Host;
        }
    }

    fn take_heartbeat(&mut self, heartbeat: &Heartbeat) {
        if !self.is_current(&heartbeat.host, &heartbeat.session) {
            return;
        }
        self.sign_of_life(&heartbeat.host, true);
        let now = self.now.at;
        let Some(watch) = self.watches.get_mut(&heartbeat.host) else { return };
        watch.suspect = None;
        watch.grace_extra = Duration::ZERO;
        let Some(live) = watch.session.as_mut() else { return };
        live.heard_at = now;
        live.memory_available_kib = heartbeat.memory_available_kib;
        live.held = heartbeat.held;
        live.libvirt_answers = heartbeat.libvirt_answers;
        let boot = live.boot.clone();
        let confirmed = watch.inventory.as_mut().is_some_and(|stock| {
            let same = stock.inventory.digest == heartbeat.digest;
            if same {
                stock.confirmed_at = now;
            }
            same
        });
        let overdue = live.asked_inventory.is_none_or(|asked| now.since(asked) > DIGEST_PATIENCE);
        if !confirmed && overdue {
            live.asked_inventory = Some(now);
            let (host, session) = (heartbeat.host.clone(), live.id.clone());
            let ask = self.new_ask();
            self.command(Command::AskInventory { host, session, ask });
        }
        let dead = self.host(&heartbeat.host).and_then(|record| record.dead.as_ref());
        if dead.is_some_and(|death| death.boot == boot && death.refuted.is_none()) {
            self.refute(&heartbeat.host, "its heartbeats go on");
        }
    }

    pub(crate) fn new_ask(&mut self) -> u64 {
        self.next_ask += 1;
        self.next_ask
    }

    fn take_goodbye(&mut self, host: &HostId, boot: BootId, parting: Parting) {
        let lasts = self.goodbye_lasts(&parting);
        let until = self.now.at.plus(lasts);
        if self.host(host).and_then(|record| record.boots.last()) != Some(&boot) {
            return;
        }
        if let Some(watch) = self.watches.get_mut(host) {
            watch.goodbye_until = Some(until);
            watch.last_sign = self.now.at;
        }
        let what = if parting.host_shuts_down { "shuts down" } else { "stops its agent" };
        self.note(
            "MDV-GOODBYE",
            false,
            format!("{host} {what} and says goodbye; it is expected back within {}", shown(lasts)),
        );
        for instance in &parting.stopped_by_user {
            if let Some(record) = self.durable.instances.edit(instance) {
                record.wanted = false;
            }
        }
        if let Some(record) = self.durable.hosts.edit(host) {
            record.goodbye = Some(Goodbye { boot, parting });
        }
    }

    /// A boot proven dead shows life: whatever proved it was wrong.
    pub(crate) fn refute(&mut self, host: &HostId, how: &str) {
        let Some(record) = self.durable.hosts.edit(host) else { return };
        let Some(death) = record.dead.as_mut() else { return };
        death.refuted = Some(how.to_owned());
        let boot = death.boot.clone();
        let opening =
            Opening { kind: IncidentKind::ProofRefuted, host: Some(host.clone()), boot: Some(boot), instance: None };
        let incident = self.open_incident(opening, Phase::Watching);
        let text = format!("{host} was proven dead, and yet {how}: no further start relies on that proof");
        self.log(incident, "refuted", text.clone());
        self.note("MDV-PROOF-REFUTED", true, text);
    }
}
