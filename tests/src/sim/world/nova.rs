//! A control plane as real Nova is: it takes a second evacuation of a server
//! and breaks it, it believes a dead host up for a minute, and what it answers
//! may be late, lost, or an error.

use super::*;
use medevac_triage::{
    Aggregate, CloudAct, CloudNews, ComputeService, Course, Marks, Mould, Move, RecoveryMethod, Server,
};
use std::sync::Arc;

/// nova-compute reports so often, and is believed up for so long.
const REPORT_EVERY: u64 = 10_000;
const BELIEVED_UP: u64 = 60_000;
/// A restarted nova-compute has removed what was evacuated from it after this.
const CLEARS_UP_AFTER: u64 = 3_700;
/// No proxy keeps a request for longer.
const QUEUED_FOR: u64 = 45_000;
/// Nobody listens to the answer.
const NOBODY: u64 = u64::MAX;
/// A host that has been up for this long, and in reach, has told of its new boot.
const SPEAKS_WITHIN: u64 = 20_000;
/// Why its administrators have disabled a reserved host.
const RESERVED: &str = "reserve";

#[derive(Debug, Default)]
pub(super) struct Nova {
    services: Vec<Service>,
    servers: Vec<Placed>,
    moves: Vec<Migration>,
    /// Answers nothing but errors until then.
    down_until: u64,
    /// The answer to the next request that changes something is lost.
    lose_next: bool,
    /// The next request that changes something never arrives.
    drop_next: bool,
    /// The answer to the next evacuation is lost.
    lose_evacuation: bool,
    requests: u32,
    /// Evacuations of these servers find no valid host, so often.
    fails: BTreeMap<usize, u32>,
    /// Requests to evacuate these are too many, so often.
    limits: BTreeMap<usize, u32>,
    aggregates: Vec<Aggregate>,
}

impl Nova {
    fn name_of(&self, host: usize) -> HostId {
        let named = if self.services[host].renamed { ".example.org" } else { "" };
        HostId(format!("{}{named}", id(host)))
    }

    /// As Nova has it: of the one aggregate of a host that makes a zone, or else its own word for the rest.
    fn zone_of(&self, host: usize) -> String {
        let of = self.aggregates.iter().find(|one| !one.zone.is_empty() && one.hosts.contains(&id(host)));
        of.map_or_else(|| "nova".to_owned(), |one| one.zone.clone())
    }
}

#[derive(Debug, Default)]
struct Service {
    forced_down: bool,
    disabled: String,
    reported: u64,
    /// nova-compute runs, in this boot of the host, since then.
    running: Option<(u32, u64)>,
    /// It was stopped on a host that is well.
    stopped: bool,
    /// By hv1.example.org, and not by hv1.
    renamed: bool,
}

#[derive(Debug, Default)]
struct Placed {
    host: usize,
    active: bool,
    /// What operators say of it.
    flavor: Arc<Mould>,
    image: Arc<Mould>,
    /// What its tenant says of it.
    metadata: Marks,
    /// Said by a scenario, whatever it really does.
    state: Option<String>,
    deleted: bool,
    /// No list names it.
    hidden: bool,
}

impl Placed {
    fn is(&self, mark: &str, value: &str) -> bool {
        self.flavor.marks.get(mark).is_some_and(|said| said == value)
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Stage {
    Moving,
    Done(usize),
    /// As done, and the source's nova-compute has cleared up.
    Completed(usize),
    Failed(String),
}

#[derive(Debug)]
struct Migration {
    guest: usize,
    source: usize,
    request: String,
    stage: Stage,
}

/// Public if operators have marked it.
fn image(guest: usize, marks: &BTreeMap<usize, Marks>) -> Arc<Mould> {
    let mould = match marks.get(&guest) {
        None => Mould { id: "image-1".to_owned(), ..Mould::default() },
        Some(marks) => {
            let name = format!("debian-vm{}", guest + 1);
            Mould { id: format!("image-of-{guest}"), name, marks: marks.clone() }
        }
    };
    Arc::new(mould)
}

fn number(name: &str, prefix: &str) -> usize {
    name.trim_start_matches(prefix).parse().unwrap_or(0)
}

impl World {
    /// The site is Nova's from now on: servers where they run, nothing starts by itself.
    pub(super) fn found_nova(&mut self, written: &Written, aggregates: Vec<Aggregate>) {
        let guests = self.guests.len();
        let flavors: Vec<Arc<Mould>> = (0..guests).map(|guest| self.flavor(guest, &written.flavors)).collect();
        let on = |guest| (0..self.hosts.len()).find(|host| self.hosts[*host].guests.contains_key(&guest)).unwrap_or(0);
        let servers = (0..guests)
            .map(|guest| Placed {
                host: on(guest),
                active: true,
                flavor: Arc::clone(&flavors[guest]),
                image: image(guest, &written.images),
                metadata: written.servers.get(&guest).cloned().unwrap_or_default(),
                ..Placed::default()
            })
            .collect();
        let mut services: Vec<Service> = self.hosts.iter().map(|_| Service::default()).collect();
        self.reserved.iter().for_each(|host| services[*host].disabled = RESERVED.to_owned());
        self.nova = Some(Nova { services, servers, aggregates, ..Nova::default() });
        self.hosts.iter_mut().for_each(|host| host.autostart.clear());
        if !self.calm && self.rng.once_in(3) {
            let bare = self.rng.below(self.hosts.len() as u64) as usize;
            self.hosts[bare].bare = true;
        }
        self.at(1, Event::NovaReports);
    }

    /// As it is marked, or in a seed as chance will have it.
    fn flavor(&mut self, guest: usize, marks: &BTreeMap<usize, Marks>) -> Arc<Mould> {
        let mut of = marks.get(&guest).cloned().unwrap_or_default();
        if !self.calm {
            let dice = self.rng.below(10);
            self.guests[guest].disk =
                if dice < 2 { Lies::Local } else { [Lies::Network, Lies::Shared][dice as usize % 2] };
            let mut draw = |once_in, mark: &str, value: String| {
                if self.rng.once_in(once_in) {
                    of.insert(mark.to_owned(), value);
                }
            };
            draw(6, "medevac:ha", "off".to_owned());
            draw(2, "medevac:tier", (1 + guest % 3).to_string());
            draw(3, "medevac:priority", format!("{}", 10 - guest as i64));
            draw(2, "medevac:on_local_disks", "rebuild".to_owned());
        }
        Arc::new(Mould { name: format!("m1.vm{}", guest + 1), marks: of, ..Mould::default() })
    }

    /// Operators said that nobody is to bring it back.
    pub(super) fn is_left_alone(&self, guest: usize) -> bool {
        self.nova.as_ref().is_some_and(|nova| nova.servers[guest].is("medevac:ha", "off"))
    }

    /// What operators said is done.
    fn check_policy(&mut self, guest: usize, source: usize) {
        let Some(placed) = self.nova.as_ref().map(|nova| &nova.servers[guest]) else { return };
        let rebuilds = placed.is("medevac:on_local_disks", "rebuild");
        if self.is_left_alone(guest) {
            self.violate(format!("vm{} was evacuated, and its flavor says that it is not protected", guest + 1));
        }
        let tier = |placed: &Placed| placed.flavor.marks.get("medevac:tier").and_then(|tier| tier.parse::<u32>().ok());
        let earlier = self.nova.as_ref().and_then(|nova| {
            let of = |migration: &&Migration| {
                let before = tier(&nova.servers[migration.guest]).zip(tier(&nova.servers[guest]));
                migration.stage == Stage::Moving && migration.source == source && before.is_some_and(|(a, b)| a < b)
            };
            nova.moves.iter().find(of).map(|migration| migration.guest)
        });
        if let Some(earlier) = earlier {
            self.violate(format!(
                "vm{} was evacuated while vm{} of a tier before was under way",
                guest + 1,
                earlier + 1
            ));
        }
        if self.guests[guest].disk == Lies::Local && !rebuilds {
            self.violate(format!("vm{} was evacuated and lost its disk, and nobody said that it may", guest + 1));
        }
    }

    fn compute_runs(&self, host: usize) -> bool {
        let h = &self.hosts[host];
        let stopped = self.nova.as_ref().is_some_and(|nova| nova.services[host].stopped);
        h.up && !h.frozen && !h.held && !stopped
    }

    /// Every nova-compute reports; the adapter reads the services.
    pub(super) fn nova_reports(&mut self) {
        self.at(REPORT_EVERY, Event::NovaReports);
        for host in 0..self.hosts.len() {
            let runs = self.compute_runs(host) && self.path(Some(host), None, 0);
            let (boot, now) = (self.hosts[host].boots, self.now);
            let Some(nova) = self.nova.as_mut() else { return };
            let service = &mut nova.services[host];
            if !runs {
                service.running = service.running.filter(|_| self.hosts[host].up && !self.hosts[host].held);
                continue;
            }
            service.reported = now;
            if service.running.map(|(known, _)| known) != Some(boot) {
                service.running = Some((boot, now));
                self.at(CLEARS_UP_AFTER, Event::NovaClearsUp(host, boot));
            }
        }
        let start = self.shared.lock().epoch;
        let news = match self.nova_services() {
            Some(services) => CloudNews::Services(services),
            None => CloudNews::Trouble("simulated: 503".to_owned()),
        };
        if matches!(news, CloudNews::Services(_)) {
            self.tell(start, Observation::CloudSpoke(CloudNews::Trouble(String::new())));
            let roster = self.servers_where(|placed| !placed.deleted && !placed.hidden);
            self.tell(start, Observation::CloudSpoke(CloudNews::Roster(roster)));
            let aggregates = self.nova.as_ref().map(|nova| nova.aggregates.clone()).unwrap_or_default();
            if !aggregates.is_empty() || !self.reserved.is_empty() {
                self.tell(start, Observation::CloudSpoke(CloudNews::Aggregates(aggregates)));
            }
        }
        self.tell(start, Observation::CloudSpoke(news));
    }

    fn nova_services(&self) -> Option<Vec<ComputeService>> {
        let nova = self.nova.as_ref().filter(|nova| nova.down_until <= self.now)?;
        let shown = |(host, service): (usize, &Service)| ComputeService {
            host: nova.name_of(host),
            zone: nova.zone_of(host),
            up: self.believed_up(host),
            enabled: service.disabled.is_empty(),
            disabled_reason: service.disabled.clone(),
            forced_down: service.forced_down,
            report_age: Duration::from_millis(self.now - service.reported),
        };
        Some(nova.services.iter().enumerate().map(shown).collect())
    }

    fn believed_up(&self, host: usize) -> bool {
        let service = self.nova.as_ref().map(|nova| &nova.services[host]);
        service.is_some_and(|service| !service.forced_down && self.now - service.reported < BELIEVED_UP)
    }

    /// A nova-compute that has started removes what was evacuated from its host,
    /// and tells of servers that no longer run there.
    pub(super) fn nova_clears_up(&mut self, host: usize, boot: u32) {
        if !self.compute_runs(host) || self.hosts[host].boots != boot {
            return;
        }
        let running: BTreeSet<usize> = self.hosts[host].guests.keys().copied().collect();
        let Some(nova) = self.nova.as_mut() else { return };
        let mut gone = Vec::new();
        for migration in nova.moves.iter_mut().filter(|migration| migration.source == host) {
            if let Stage::Done(to) = migration.stage {
                migration.stage = Stage::Completed(to);
                gone.push(migration.guest);
            }
        }
        for (guest, placed) in nova.servers.iter_mut().enumerate().filter(|(_, placed)| placed.host == host) {
            placed.active &= running.contains(&guest);
        }
        // A real one is slower with those whose owners deleted them, and does it, too.
        gone.extend(
            (0..nova.servers.len()).filter(|guest| nova.servers[*guest].host == host && nova.servers[*guest].deleted),
        );
        for guest in gone {
            self.hosts[host].defined.remove(&guest);
            if self.hosts[host].guests.remove(&guest).is_some() {
                self.say(format!("nova-compute on hv{} destroys its stale copy of vm{}", host + 1, guest + 1));
            }
        }
        self.send_inventory(host, None);
    }

    pub(super) fn nova_asked(&mut self, start: u64, act: CloudAct) {
        let takes = self.rng.between(5, 80);
        if act.changes() {
            self.say(format!("Nova is asked: {act:?}"));
        }
        self.at(takes, Event::NovaAnswers { start, act });
    }

    pub(super) fn nova_answers(&mut self, start: u64, act: CloudAct) {
        let down = self.nova.as_ref().is_none_or(|nova| nova.down_until > self.now);
        let error = "simulated: 503".to_owned();
        let news = match act {
            CloudAct::ListServers { host, ask } => {
                let servers = if down { Err(error) } else { Ok(self.servers_on(number(host.as_str(), "hv") - 1)) };
                CloudNews::Servers { host, ask, servers }
            }
            CloudAct::FindServer { instance, ask } => {
                let guest = number(instance.as_str(), "guest-");
                let server = if down { Err(error) } else { Ok(self.server_unless_deleted(guest)) };
                CloudNews::Found { instance, ask, server }
            }
            // What is read directly before an evacuation is read as of then.
            CloudAct::ReadAhead { .. } => return,
            CloudAct::Follow { source, ask, moves } => {
                let course = |of: &Move| match down {
                    true => (of.step, Course::Unknown { detail: error.clone() }),
                    false => (of.step, self.course(of)),
                };
                CloudNews::Followed { source, ask, courses: moves.iter().map(course).collect() }
            }
            CloudAct::ForceDown { step, host } => {
                self.check_forced_down(number(host.as_str(), "hv") - 1);
                self.service_act(step, &host, down, |_, service| {
                    service.forced_down = true;
                    Ok(())
                })
            }
            CloudAct::Disable { step, host, reason } => self.service_act(step, &host, down, |_, service| {
                // Another's reason stays, as with the real adapter.
                if service.disabled.is_empty() {
                    service.disabled = reason;
                }
                Ok(())
            }),
            CloudAct::Enable { step, host, reason } => self.service_act(step, &host, down, |_, service| {
                if service.disabled == reason {
                    service.disabled.clear();
                }
                Ok(())
            }),
            CloudAct::TakeReserve { step, host, reason } => self.service_act(step, &host, down, |_, service| {
                if !service.disabled.is_empty() && service.disabled != reason {
                    return Err("other-reason");
                }
                service.disabled.clear();
                Ok(())
            }),
            CloudAct::JoinAggregate { step, host, aggregate } => {
                self.change_aggregate(step, &host, &aggregate, true, down)
            }
            CloudAct::LeaveAggregate { step, host, aggregate } => {
                self.change_aggregate(step, &host, &aggregate, false, down)
            }
            CloudAct::Unforce { step, host } => self.service_act(step, &host, down, |clear, service| {
                if clear {
                    service.forced_down = false;
                    Ok(())
                } else {
                    Err("not-yet")
                }
            }),
            CloudAct::Evacuate { step, .. } if self.never_arrives() => {
                let detail = "simulated: the connection was cut".to_owned();
                CloudNews::Answered { step, outcome: Outcome::Unknown { detail } }
            }
            CloudAct::Evacuate { step, .. } if self.stays_in_a_queue() => {
                let late = self.rng.between(1_000, QUEUED_FOR);
                self.at(late, Event::NovaAnswers { start: NOBODY, act });
                let detail = "simulated: no answer, the request waits in a proxy".to_owned();
                CloudNews::Answered { step, outcome: Outcome::Unknown { detail } }
            }
            CloudAct::Evacuate { step, instance, source, target, .. } => {
                let guest = number(instance.as_str(), "guest-");
                self.check_policy(guest, number(source.as_str(), "hv") - 1);
                self.check_method(step, guest, target.as_ref());
                let outcome = match down {
                    true => Outcome::Unknown { detail: error },
                    false => self.evacuate(guest, number(source.as_str(), "hv") - 1, target),
                };
                if let Some(nova) = self.nova.as_mut() {
                    nova.lose_next |= std::mem::take(&mut nova.lose_evacuation);
                }
                CloudNews::Answered { step, outcome: self.perhaps_lost(outcome) }
            }
            CloudAct::Restart { step, instance, host, .. } => {
                let (guest, host) = (number(instance.as_str(), "guest-"), number(host.as_str(), "hv") - 1);
                let outcome = if down { Outcome::NotSent } else { self.restart_server(guest, host) };
                CloudNews::Answered { step, outcome }
            }
        };
        self.tell(start, Observation::CloudSpoke(news));
    }

    /// Only a dead host may be called down: one that lives and speaks would lose its servers.
    fn check_forced_down(&mut self, host: usize) {
        let h = &self.hosts[host];
        if h.up && self.now - h.booted_at > SPEAKS_WITHIN && self.path(Some(host), None, 0) {
            self.violate(format!("hv{} lives, and Nova was told that it is down", host + 1));
        }
    }

    /// Whoever sent it hears nothing, and Nova gets it later.
    fn stays_in_a_queue(&mut self) -> bool {
        let lost = self.nova.as_ref().is_some_and(|nova| nova.lose_next);
        let queued = lost && !self.calm && self.rng.once_in(2);
        if queued && let Some(nova) = self.nova.as_mut() {
            nova.lose_next = false;
        }
        queued
    }

    /// It is lost on its way, and whoever sent it cannot know.
    fn never_arrives(&mut self) -> bool {
        self.nova.as_mut().is_some_and(|nova| std::mem::take(&mut nova.drop_next))
    }

    /// The request had its effect, and nobody is told.
    fn perhaps_lost(&mut self, outcome: Outcome) -> Outcome {
        match self.nova.as_mut().map(|nova| std::mem::take(&mut nova.lose_next)) {
            Some(true) => Outcome::Unknown { detail: "simulated: the connection was cut".to_owned() },
            _ => outcome,
        }
    }

    fn service_act(
        &mut self,
        step: StepId,
        host: &HostId,
        down: bool,
        act: impl FnOnce(bool, &mut Service) -> Result<(), &'static str>,
    ) -> CloudNews {
        let host = number(host.as_str(), "hv") - 1;
        let outcome = match self.nova.as_mut().filter(|_| !down) {
            None => Outcome::Unknown { detail: "simulated: 503".to_owned() },
            Some(nova) => {
                let left =
                    nova.moves.iter().any(|m| m.source == host && matches!(m.stage, Stage::Moving | Stage::Done(_)));
                let service = &mut nova.services[host];
                match if service.renamed { Err("unknown-host") } else { act(!left, service) } {
                    Ok(()) => Outcome::Done { detail: String::new() },
                    Err(reason) => Outcome::Refused { reason: reason.to_owned(), detail: "simulated".to_owned() },
                }
            }
        };
        CloudNews::Answered { step, outcome: self.perhaps_lost(outcome) }
    }

    fn change_aggregate(&mut self, step: StepId, host: &HostId, aggregate: &str, join: bool, down: bool) -> CloudNews {
        let outcome = match self.nova.as_mut().filter(|_| !down) {
            None => Outcome::Unknown { detail: "simulated: 503".to_owned() },
            Some(nova) => {
                for one in nova.aggregates.iter_mut().filter(|one| one.name == aggregate) {
                    let _ = if join { one.hosts.insert(host.clone()) } else { one.hosts.remove(host) };
                }
                Outcome::Done { detail: String::new() }
            }
        };
        CloudNews::Answered { step, outcome: self.perhaps_lost(outcome) }
    }

    /// A segment's method is kept, and nobody's reserved host is used by another.
    fn check_method(&mut self, step: StepId, guest: usize, target: Option<&HostId>) {
        let only_reserved = self.settings.recovery_method.values().any(|of| *of == RecoveryMethod::ReservedHost);
        let named = target.is_some_and(|host| self.reserved.contains(&(number(host.as_str(), "hv") - 1)));
        if only_reserved && !named {
            self.violate(format!("vm{} was not sent to a reserved host", guest + 1));
        }
        let key = target.map(|host| format!("host/{host}")).unwrap_or_default();
        let taken = match self.shared.lock().records.get(&key) {
            Some(Record::Host(record)) => record.taken.as_ref().map(|taken| taken.by),
            _ => None,
        };
        if let Some(by) = taken.filter(|by| *by != step.incident) {
            self.violate(format!("vm{} was sent to a reserved host that {by} has taken", guest + 1));
        }
    }

    fn is_taken(&self, host: usize) -> bool {
        let records = &self.shared.lock().records;
        matches!(records.get(&format!("host/{}", id(host))), Some(Record::Host(of)) if of.taken.is_some())
    }

    fn servers_on(&self, host: usize) -> Vec<Server> {
        let known = self.nova.as_ref().is_some_and(|nova| !nova.services[host].renamed);
        self.servers_where(|placed| known && placed.host == host && !placed.deleted && !placed.hidden)
    }

    fn servers_where(&self, named: impl Fn(&Placed) -> bool) -> Vec<Server> {
        let placed = |guest: &usize| self.nova.as_ref().is_some_and(|nova| named(&nova.servers[*guest]));
        (0..self.guests.len()).filter(placed).map(|guest| self.server(guest)).collect()
    }

    fn server_unless_deleted(&self, guest: usize) -> Option<Box<Server>> {
        let deleted = self.nova.as_ref().is_some_and(|nova| nova.servers[guest].deleted);
        (!deleted).then(|| Box::new(self.server(guest)))
    }

    fn server(&self, guest: usize) -> Server {
        let placed = self.nova.as_ref().map(|nova| &nova.servers[guest]);
        let (host, active) = placed.map(|placed| (placed.host, placed.active)).unwrap_or_default();
        let state = placed.and_then(|placed| placed.state.clone());
        Server {
            id: guest_id(guest),
            name: format!("vm{}", guest + 1),
            host: self.nova.as_ref().map_or_else(|| id(host), |nova| nova.name_of(host)),
            vm_state: state.unwrap_or_else(|| if active { "active" } else { "stopped" }.to_owned()),
            memory_kib: 1 << 20,
            image: placed.map(|placed| Arc::clone(&placed.image)).unwrap_or_default(),
            flavor: placed.map(|placed| Arc::clone(&placed.flavor)).unwrap_or_default(),
            marks: placed.map(|placed| placed.metadata.clone()).unwrap_or_default(),
            ..Server::default()
        }
    }

    fn course(&self, of: &Move) -> Course {
        let guest = number(of.instance.as_str(), "guest-");
        let Some(nova) = &self.nova else { return Course::Unseen };
        if nova.servers[guest].deleted {
            return Course::Deleted;
        }
        let ours = |migration: &&Migration| match of.request.is_empty() {
            true => migration.guest == guest,
            false => migration.request == of.request,
        };
        let newest = nova.moves.iter().rev().find(ours).filter(|migration| !of.others.contains(&migration.request));
        match newest.map(|migration| (&migration.stage, migration.request.clone())) {
            None => Course::Unseen,
            Some((Stage::Moving, request)) => Course::UnderWay { request, to: None },
            Some((Stage::Done(host) | Stage::Completed(host), request)) => {
                Course::Done { request, host: id(*host), left: None }
            }
            Some((Stage::Failed(why), request)) => Course::Failed { request, why: why.clone(), left: None },
        }
    }

    /// As Nova does it: no guard against a second one.
    fn evacuate(&mut self, guest: usize, source: usize, target: Option<HostId>) -> Outcome {
        let refused = |reason: &str| Outcome::Refused { reason: reason.to_owned(), detail: "simulated".to_owned() };
        if self.believed_up(source) {
            return refused("still-in-use");
        }
        let Some(nova) = self.nova.as_mut() else { return Outcome::NotSent };
        if let Some(left) = nova.limits.get_mut(&guest).filter(|left| **left > 0) {
            *left -= 1;
            return refused("too-many");
        }
        if nova.servers[guest].deleted {
            return refused("not-found");
        }
        if nova.servers[guest].host != source {
            return refused("moved");
        }
        if nova.moves.iter().any(|migration| migration.guest == guest && migration.stage == Stage::Moving) {
            self.violate(format!("a second evacuation of vm{} was asked for while one was under way", guest + 1));
            return refused("broken");
        }
        let fails = nova.fails.get_mut(&guest).filter(|left| **left > 0);
        let fails = fails.map(|left| *left -= 1).is_some();
        nova.requests += 1;
        let request = format!("req-{}", nova.requests);
        nova.moves.push(Migration { guest, source, request: request.clone(), stage: Stage::Moving });
        let at = nova.moves.len() - 1;
        let fits = |host: &usize| *host != source && !fails && self.nova_takes(*host);
        let chosen: Vec<usize> = match target {
            Some(target) => vec![number(target.as_str(), "hv") - 1].into_iter().filter(fits).collect(),
            None => (0..self.hosts.len()).filter(fits).collect(),
        };
        let to = (!chosen.is_empty()).then(|| chosen[self.rng.below(chosen.len() as u64) as usize]);
        // A large disk, a full queue: longer than anybody's patience with an answer.
        let takes = self.rng.between(300, 40_000);
        self.at(takes, Event::NovaMoves { at, to, tries: 0 });
        Outcome::Done { detail: request }
    }

    fn nova_takes(&self, host: usize) -> bool {
        self.believed_up(host) && self.nova.as_ref().is_some_and(|nova| nova.services[host].disabled.is_empty())
    }

    pub(super) fn nova_moves(&mut self, at: usize, to: Option<usize>, tries: u32) {
        let Some(nova) = self.nova.as_mut() else { return };
        let guest = nova.moves[at].guest;
        let Some(to) = to else {
            nova.moves[at].stage = Stage::Failed("No valid host was found".to_owned());
            return;
        };
        if !self.compute_runs(to) {
            if tries < 60 {
                return self.at(1_000, Event::NovaMoves { at, to: Some(to), tries: tries + 1 });
            }
            if let Some(nova) = self.nova.as_mut() {
                nova.moves[at].stage = Stage::Failed("its new host does not answer".to_owned());
            }
            return;
        }
        let Some(nova) = self.nova.as_mut() else { return };
        if nova.servers[guest].deleted {
            nova.moves[at].stage = Stage::Failed("the server is gone".to_owned());
            return;
        }
        let rebuilds = nova.servers[guest].is("medevac:on_local_disks", "rebuild");
        nova.moves[at].stage = Stage::Done(to);
        nova.servers[guest].host = to;
        let active = nova.servers[guest].active;
        if self.guests[guest].disk == Lies::Shared && self.hosts[to].bare && !rebuilds {
            self.violate(format!("vm{} was evacuated to hv{}, which does not read its disk", guest + 1, to + 1));
        }
        self.hosts[to].defined.insert(guest);
        if active {
            self.run_guest(to, guest);
            self.summary.started += 1;
        }
        self.send_inventory(to, None);
    }

    fn restart_server(&mut self, guest: usize, host: usize) -> Outcome {
        let refused = |reason: &str| Outcome::Refused { reason: reason.to_owned(), detail: "simulated".to_owned() };
        match self.nova.as_ref().map(|nova| &nova.servers[guest]) {
            Some(placed) if placed.deleted => return refused("not-found"),
            Some(placed) if placed.host == host => {}
            _ => return refused("moved"),
        }
        if !self.compute_runs(host) {
            return Outcome::Unknown { detail: "simulated: nova-compute does not answer".to_owned() };
        }
        if !self.hosts[host].guests.contains_key(&guest) {
            self.run_guest(host, guest);
            self.summary.started += 1;
        }
        if let Some(nova) = self.nova.as_mut() {
            nova.servers[guest].active = true;
        }
        self.send_inventory(host, None);
        Outcome::Done { detail: "active".to_owned() }
    }

    pub(super) fn break_nova(&mut self, millis: u64) {
        let until = self.now + millis;
        if let Some(nova) = self.nova.as_mut() {
            nova.down_until = until;
        }
    }

    pub(super) fn lose_nova_answer(&mut self) {
        if let Some(nova) = self.nova.as_mut() {
            nova.lose_next = true;
        }
    }

    pub(super) fn trouble_nova(&mut self, fault: NovaFault) {
        let boots: Vec<u32> = self.hosts.iter().map(|host| host.boots).collect();
        let Some(nova) = self.nova.as_mut() else { return };
        match fault {
            NovaFault::LoseEvacuationAnswer => nova.lose_evacuation = true,
            NovaFault::LoseRequest => nova.drop_next = true,
            NovaFault::Fail { guest, times } => drop(nova.fails.insert(guest, times)),
            NovaFault::Limit { guest, times } => drop(nova.limits.insert(guest, times)),
            NovaFault::State { guest, state } => {
                nova.servers[guest].state = Some(state.clone());
                nova.servers[guest].active |= state == "active";
                if ["paused", "suspended"].contains(&state.as_str()) {
                    self.stand_still(guest, state == "suspended");
                }
            }
            NovaFault::Delete(guest) => nova.servers[guest].deleted = true,
            NovaFault::Hide(guest) => nova.servers[guest].hidden = true,
            NovaFault::Unhide(guest) => nova.servers[guest].hidden = false,
            NovaFault::StopCompute(host) => nova.services[host].stopped = true,
            NovaFault::Rename(host) => nova.services[host].renamed = true,
            NovaFault::StartCompute(host) => {
                nova.services[host].stopped = false;
                self.at(CLEARS_UP_AFTER, Event::NovaClearsUp(host, boots[host]));
            }
            NovaFault::Disable(host) => nova.services[host].disabled = "by its administrator: new disk".to_owned(),
        }
    }

    /// What Nova would show its administrator.
    pub fn nova_shows(&self) -> Vec<String> {
        let Some(nova) = &self.nova else { return vec!["there is no Nova".to_owned()] };
        let service = |(host, service): (usize, &Service)| {
            let up = if self.believed_up(host) { "up" } else { "down" };
            let forced = if service.forced_down { ", forced down" } else { "" };
            let enabled = match service.disabled.as_str() {
                "" => String::new(),
                reason => format!(", disabled: {reason}"),
            };
            format!("nova-compute on hv{} is {up}{forced}{enabled}", host + 1)
        };
        let server = |(guest, placed): (usize, &Placed)| match placed.deleted {
            true => format!("vm{} is deleted", guest + 1),
            false => format!("vm{} is {} on hv{}", guest + 1, self.server(guest).vm_state, placed.host + 1),
        };
        let services = nova.services.iter().enumerate().map(service);
        let servers = nova.servers.iter().enumerate().map(server);
        let count = format!("{} evacuations were asked for", nova.requests);
        services.chain(servers).chain([count]).collect()
    }

    /// A server that its user has stopped is stopped for Nova, too.
    pub(super) fn nova_hears_of_end(&mut self, guest: usize, reason: StopReason) {
        if let Some(nova) = self.nova.as_mut() {
            nova.servers[guest].active &= reason != StopReason::GuestShutdown;
        }
    }

    pub(super) fn nova_migrated(&mut self, guest: usize, to: usize) {
        if let Some(nova) = self.nova.as_mut() {
            nova.servers[guest].host = to;
        }
    }

    /// What keeps Nova from being whole again.
    pub(super) fn nova_misses(&self) -> Option<String> {
        let nova = self.nova.as_ref()?;
        for (host, service) in nova.services.iter().enumerate() {
            let used = nova.servers.iter().any(|placed| placed.host == host);
            let joined = nova.aggregates.iter().any(|one| one.hosts.contains(&id(host)));
            let came = |of: &Migration| matches!(of.stage, Stage::Done(to) | Stage::Completed(to) if to == host);
            if self.reserved.contains(&host) && !service.forced_down {
                if self.is_taken(host) {
                    return Some(format!("hv{} is still taken from the reserve", host + 1));
                }
                if !used && !nova.moves.iter().any(came) && (service.disabled != RESERVED || joined) {
                    return Some(format!("hv{} was not used and is not back in the reserve", host + 1));
                }
                if service.disabled == RESERVED {
                    continue;
                }
            }
            if service.forced_down || !service.disabled.is_empty() {
                return Some(format!("hv{} is still forced down or disabled", host + 1));
            }
        }
        for (guest, placed) in nova.servers.iter().enumerate() {
            let runs = (0..self.hosts.len()).find(|host| self.hosts[*host].guests.contains_key(&guest));
            if runs.is_some_and(|host| host != placed.host) {
                return Some(format!("vm{} does not run where Nova places it", guest + 1));
            }
        }
        None
    }
}
