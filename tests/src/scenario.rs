//! Scenarios: what happens, as text an operator can read and write; what
//! medevac makes of it, as text beside it.
//!
//! ```text
//!   # a comment
//!   hosts 3          guests 4        mode act|approve|observe
//!   set on_hung fence                set references 10.0.0.1       set planes mgmt
//!   run 30s                          crash hv1        unplug hv1   boot hv1     reboot hv1
//!   shutdown hv1     freeze hv1      thaw hv1         kill-agent hv1  start-agent hv1
//!   cut hv1 mgmt     heal hv1 mgmt   cut-all hv1      heal-all hv1
//!   split hv1 hv2    heal-split      kill-aggregator  pause-aggregator 60s
//!   bmc hv1 unreachable|lies|slow|well                miswire hv1 hv2
//!   set template     offer hv1 10.9.0.1               say import hv1=10.9.0.1 hv2=10.9.0.2,pinned
//!   kill-guest vm1   shut-down-guest vm1  migrate vm1 hv2  refuse-start hv2   lose-answer hv2
//!   fill hv2         drain hv2       hang-libvirt hv1  heal-libvirt hv1       start-by-hand vm1 hv2
//!   local-disk vm1   bind vm1 host device   cloud openstack   nova ... (see the module `nova`)
//!   reserved hv4     set recovery_method rh_priority
//!   mark vm1 medevac:tier 2          mark image vm1 medevac:ha off            tier vm1 2      ha vm1 off
//!   reload fence_grace 2s            reload-device hv1 another-pdu      back-up          restore
//!   each 1..20 crash hv@             show hosts counted
//!   zone az1 hv1     aggregate fast hv1       segment edge hv1          set segments_by aggregate
//!   receiver ops     receiver pager critical
//!   say approve inc-1 | say pause | say maintenance hv1 | ...
//!   show letters | incidents | hosts | guests | status | fences | nova | inc-1
//! ```
//!
//! The world is the simulator's, without chance: the same text is the same run.

mod fences;
mod nova;
mod shown;

use crate::sim::{Fault, Options, World};
use medevac_triage::{
    Aggregate, DEFAULT_SEGMENT, Device, Guards, Ha, HostId, IncidentId, InstanceId, Level, Marks, Mode, OnHung,
    PlaneId, PolicyRule, Receiver, RecoveryMethod, SEGMENT_MARK, SegmentId, SegmentsBy, Settings, Severity, Word,
};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

/// Plays a scenario and returns what it shows.
///
/// # Errors
/// The line that cannot be understood, with its number.
pub fn play(text: &str) -> Result<String, String> {
    play_with(text, Guards::default())
}

/// As [`play`], with guards taken away.
///
/// # Errors
/// The line that cannot be understood, with its number.
pub fn play_with(text: &str, guards: Guards) -> Result<String, String> {
    let mut stage =
        Stage { hosts: 3, guests: 3, options: Options { calm: true, guards, ..Options::default() }, world: None };
    let mut out = String::new();
    for (number, line) in text.lines().enumerate() {
        let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
        if words.is_empty() {
            continue;
        }
        let _ = writeln!(out, "> {}", words.join(" "));
        stage.act(&words, &mut out).map_err(|why| format!("line {}: {why}: {line}", number + 1))?;
    }
    let Some(world) = stage.world.as_ref() else { return Ok(out) };
    for violation in world.violations() {
        let _ = writeln!(out, "VIOLATION: {violation}");
    }
    Ok(out)
}

struct Stage {
    hosts: usize,
    guests: usize,
    options: Options,
    world: Option<World>,
}

impl Stage {
    fn world(&mut self) -> &mut World {
        let (hosts, guests, options) = (self.hosts, self.guests, self.options.clone());
        self.world.get_or_insert_with(|| World::new(1, hosts, guests, options))
    }

    fn act(&mut self, words: &[&str], out: &mut String) -> Result<(), String> {
        match *words {
            ["hosts", count] => self.hosts = number(count)?,
            ["guests", count] => self.guests = number(count)?,
            ["cloud", "openstack"] => self.options.openstack = true,
            ["mark", guest, mark, value] => self.mark("flavor", guest, (mark, value))?,
            ["mark", what, of, mark, value] => self.mark(what, of, (mark, value))?,
            ["zone", name, ref hosts @ ..] => self.aggregate(name, name, hosts)?,
            ["aggregate", name, ref hosts @ ..] => self.aggregate(name, "", hosts)?,
            ["reserved", ref hosts @ ..] => {
                self.options.reserved = hosts.iter().map(|host| index(host)).collect::<Result<_, _>>()?
            }
            ["receiver", name] => self.receiver(name, "info")?,
            ["receiver", name, severity] => self.receiver(name, severity)?,
            ["segment", name, ref hosts @ ..] => self.segment(name, hosts)?,
            [key @ ("tier" | "ha"), guest, value] => self.rule(guest, key, value)?,
            ["mode", mode] => self.options.mode = Mode::parse(mode).ok_or("no such mode")?,
            ["set", key, ref values @ ..] => self.set(key, values)?,
            ["run", time] => {
                let time = duration(time)?;
                self.world().run_for(time);
            }
            ["miswire", host, other] => {
                let (host, other) = (index(host)?, index(other)?);
                self.world().miswire(host, other);
            }
            ["say", ref words @ ..] => {
                let word = word(words, &self.segment_of_all())?;
                self.world().speak(word);
                self.world().run_for(Duration::from_millis(50));
                let reply = self.world().last_reply();
                let _ = writeln!(out, "{reply}");
            }
            ["reload", key, value] => {
                let (key, value) = (key.to_owned(), duration(value)?);
                let told = self.world().reload(|settings| match key.as_str() {
                    "fence_grace" => settings.fence_grace = value,
                    "start_deadline" => settings.start_deadline = value,
                    _ => settings.fence_grace_long = value,
                });
                let _ = writeln!(out, "{told}");
            }
            ["reload-device", host, name] => {
                let (host, name) = (HostId::from(host), name.to_owned());
                let told = self.world().reload(|settings| {
                    settings.devices.insert(host, Device::named(&name, false));
                });
                let _ = writeln!(out, "{told}");
            }
            ["back-up"] => self.world().back_up(),
            ["restore"] => self.world().restore(),
            ["each", range, ref words @ ..] => self.each(range, words, out)?,
            ["show", what] => self.show(what, out)?,
            ["show", what, "counted"] => {
                let mut all = String::new();
                self.show(what, &mut all)?;
                out.push_str(&shown::counted(&all));
            }
            _ => {
                let fault = fault(words)?;
                self.world().inject(&fault);
            }
        }
        Ok(())
    }

    /// The same for several: `@` is the number.
    fn each(&mut self, range: &str, words: &[&str], out: &mut String) -> Result<(), String> {
        let (first, last) = range.split_once("..").ok_or("a range looks like 1..20")?;
        for at in number(first)?..=number(last)? {
            let of_one: Vec<String> = words.iter().map(|word| word.replace('@', &at.to_string())).collect();
            self.act(&of_one.iter().map(String::as_str).collect::<Vec<_>>(), out)?;
        }
        Ok(())
    }

    /// Where nobody says otherwise all hosts are in one segment.
    fn segment_of_all(&self) -> SegmentId {
        SegmentId::from(if self.options.openstack { "nova" } else { DEFAULT_SEGMENT })
    }

    fn aggregate(&mut self, name: &str, zone: &str, hosts: &[&str]) -> Result<(), String> {
        let marks = match zone {
            "" => [(SEGMENT_MARK.to_owned(), "true".to_owned())].into(),
            _ => Marks::new(),
        };
        let named = hosts.iter().map(|host| index(host).map(|_| HostId::from(*host)));
        let mut hosts = named.collect::<Result<BTreeSet<_>, _>>()?;
        if let Some(known) = self.options.aggregates.iter_mut().find(|one| one.name == name) {
            known.hosts.append(&mut hosts);
            return Ok(());
        }
        let (name, zone) = (name.to_owned(), zone.to_owned());
        self.options.aggregates.push(Aggregate { name, zone, hosts, marks });
        Ok(())
    }

    /// What operators, and the tenant, have written on what a server is made from.
    fn mark(&mut self, what: &str, of: &str, (mark, value): (&str, &str)) -> Result<(), String> {
        let written = &mut self.options.written;
        let marks = match what {
            "flavor" => written.flavors.entry(index(of)?).or_default(),
            "image" => written.images.entry(index(of)?).or_default(),
            "server" => written.servers.entry(index(of)?).or_default(),
            "aggregate" => {
                let named = self.options.aggregates.iter_mut().find(|one| one.name == of);
                &mut named.ok_or("no such aggregate")?.marks
            }
            _ => return Err("marks are on a flavor, an image, a server or an aggregate".to_owned()),
        };
        marks.insert(mark.to_owned(), value.to_owned());
        Ok(())
    }

    fn receiver(&mut self, name: &str, severity: &str) -> Result<(), String> {
        let min_severity = Severity::parse(severity).ok_or("a severity is info, warning or critical")?;
        let settings = self.options.settings.get_or_insert_with(Settings::default);
        settings.receivers.push(Receiver { name: name.to_owned(), min_severity, ..Receiver::default() });
        Ok(())
    }

    /// By hand, as in the configuration.
    fn segment(&mut self, name: &str, hosts: &[&str]) -> Result<(), String> {
        let settings = self.options.settings.get_or_insert_with(Settings::default);
        for host in hosts {
            index(host)?;
            settings.segment_of.insert(HostId::from(*host), SegmentId::from(name));
        }
        Ok(())
    }

    /// As a rule of the configuration: by name, or with Nova by id.
    fn rule(&mut self, guest: &str, key: &str, value: &str) -> Result<(), String> {
        let mut rule = PolicyRule::default();
        match (key, value) {
            ("ha", "on") => rule.ha = Some(Ha::On),
            ("ha", "off") => rule.ha = Some(Ha::Off),
            ("ha", "tenant") => rule.ha = Some(Ha::Tenant),
            ("tier", tier) => rule.tier = Some(number(tier)? as u32),
            _ => return Err("no such value".to_owned()),
        }
        index(guest)?;
        let server = if self.options.openstack { guest_id(guest)?.0 } else { guest.to_owned() };
        rule.matches = [(Level::Server, server)].into();
        self.options.settings.get_or_insert_with(Settings::default).policies.push(rule);
        Ok(())
    }

    fn set(&mut self, key: &str, values: &[&str]) -> Result<(), String> {
        let settings = self.options.settings.get_or_insert_with(Settings::default);
        match (key, values) {
            ("on_hung", [word]) => {
                let policy = OnHung::parse(word).ok_or("on_hung is approve, fence or alert")?;
                settings.on_hung.insert(SegmentId::from("default"), policy);
            }
            ("references", addresses) => settings.references = addresses.iter().map(ToString::to_string).collect(),
            ("planes", planes) => {
                self.options.planes = Some(planes.iter().map(|plane| PlaneId::from(*plane)).collect())
            }
            ("matrix", [row, act]) => settings.matrix.set(row, act).map_err(|unfit| unfit.to_string())?,
            ("pinned", ["all"]) => self.options.pinned = true,
            ("template", networks) => fences::template(settings, networks)?,
            ("no-device", hosts) => {
                self.options.without_device = hosts.iter().map(|host| index(host)).collect::<Result<_, _>>()?
            }
            ("segments_by", [rule]) => settings.segments_by = SegmentsBy::parse(rule).ok_or("no such rule")?,
            ("recovery_method", [method]) => {
                let method = RecoveryMethod::parse(method).ok_or("no such method")?;
                settings.recovery_method.insert(DEFAULT_SEGMENT.into(), method);
            }
            ("own-host", [host]) => settings.own_host = Some(HostId::from(*host)),
            ("protect", ["marked"]) => settings.protect_all = false,
            _ => return Err("no such setting".to_owned()),
        }
        Ok(())
    }

    fn show(&mut self, what: &str, out: &mut String) -> Result<(), String> {
        let all = self.segment_of_all();
        let world = self.world();
        if what == "guests" {
            for (guest, hosts) in world.truth().iter().enumerate() {
                let on: Vec<String> = hosts.iter().map(|host| format!("hv{}", host + 1)).collect();
                let _ = writeln!(
                    out,
                    "vm{} runs on {}",
                    guest + 1,
                    if on.is_empty() { "no host".to_owned() } else { on.join(" and ") }
                );
            }
            return Ok(());
        }
        if what == "letters" {
            let _ = writeln!(out, "{}", world.letters().join("\n"));
            return Ok(());
        }
        if what == "nova" {
            let _ = writeln!(out, "{}", world.nova_shows().join("\n"));
            return Ok(());
        }
        let Some(engine) = world.engine() else {
            let _ = writeln!(out, "the aggregator is down");
            return Ok(());
        };
        let (triage, now) = (engine.triage(), engine.now());
        match what {
            "fences" => fences::shown(triage, now, out),
            "hosts" => {
                for host in triage.host_views(now) {
                    let why = if host.why.is_empty() { String::new() } else { format!(": {}", host.why) };
                    let segment = if host.segment == all { String::new() } else { format!(" in {}", host.segment) };
                    let _ = writeln!(out, "{}{segment} is {}{why}", host.id, host.state);
                }
            }
            "incidents" => {
                for view in triage.incident_views().into_iter().rev() {
                    let lines = triage.explain(view.record.id, now).unwrap_or_default();
                    let _ = writeln!(out, "{}", lines.join("\n"));
                }
            }
            "status" => {
                let view = triage.site_view(now);
                let _ = writeln!(out, "{}; {} of {} hosts heard", view.role, view.hosts_heard, view.hosts_total);
                for (host, why) in view.hosts_without_proof {
                    let _ = writeln!(out, "{host} lacks a proof: {why}");
                }
                for of in view.segments.iter().filter(|of| of.id != all) {
                    let _ = writeln!(out, "segment {}: {}, {} of {} heard", of.id, of.mode.name(), of.heard, of.hosts);
                }
                for (code, text) in view.alerts {
                    let _ = writeln!(out, "{code} {text}");
                }
            }
            id => {
                let id = IncidentId::parse(id).ok_or("cannot show that")?;
                let _ = writeln!(out, "{}", triage.explain(id, now).ok_or("no such incident")?.join("\n"));
            }
        }
        Ok(())
    }
}

fn fault(words: &[&str]) -> Result<Fault, String> {
    Ok(match *words {
        ["crash", host] => Fault::Crash(index(host)?),
        ["unplug", host] => Fault::Unplug(index(host)?),
        ["boot", host] => Fault::Boot(index(host)?),
        ["reboot", host] => Fault::Reboot(index(host)?),
        ["shutdown", host] => Fault::OrderlyReboot(index(host)?),
        ["freeze", host] => Fault::Freeze(index(host)?),
        ["thaw", host] => Fault::Thaw(index(host)?),
        ["kill-agent", host] => Fault::KillAgent(index(host)?),
        ["start-agent", host] => Fault::StartAgent(index(host)?),
        ["cut", host, name] => Fault::CutPlane(index(host)?, plane(name)?),
        ["heal", host, name] => Fault::HealPlane(index(host)?, plane(name)?),
        ["cut-all", host] => Fault::CutAll(index(host)?),
        ["cut-one-way", host] => Fault::CutOneWay(index(host)?),
        ["heal-all", host] => Fault::HealAll(index(host)?),
        ["split", ref near @ ..] => Fault::Split(near.iter().map(|host| index(host)).collect::<Result<_, _>>()?),
        ["heal-split"] => Fault::HealSplit,
        ["kill-aggregator"] => Fault::KillAggregator,
        ["pause-aggregator", time] => Fault::PauseAggregator(duration(time)?),
        ["bmc", host, "unreachable"] => Fault::BmcUnreachable(index(host)?),
        ["bmc", host, "lies"] => Fault::BmcLies(index(host)?),
        ["bmc", host, "slow"] => Fault::BmcSlow(index(host)?),
        ["bmc", host, "well"] => Fault::BmcWell(index(host)?),
        ["offer", host, ref rest @ ..] => Fault::Offer(index(host)?, fences::offer(rest)?),
        ["kill-guest", guest] => Fault::CrashGuest(index(guest)?),
        ["migrate", guest, host] => Fault::Migrate(index(guest)?, index(host)?),
        ["shut-down-guest", guest] => Fault::ShutDownGuest(index(guest)?),
        ["refuse-start", host] => Fault::RefuseStart(index(host)?),
        ["lose-answer", host] => Fault::LoseAnswer(index(host)?),
        ["local-disk", guest] => Fault::LocalDisk(index(guest)?),
        ["shared-file", guest] => Fault::SharedFile(index(guest)?),
        ["unmount", host] => Fault::Unmount(index(host)?),
        ["bind", guest, ref reason @ ..] => Fault::Bind(index(guest)?, reason.join(" ")),
        ["fill", host] => Fault::Fill(index(host)?),
        ["drain", host] => Fault::Drain(index(host)?),
        ["hang-libvirt", host] => Fault::HangLibvirt(index(host)?),
        ["heal-libvirt", host] => Fault::HealLibvirt(index(host)?),
        ["start-by-hand", guest, host] => Fault::StartByHand(index(guest)?, index(host)?),
        ["nova", ref rest @ ..] => nova::fault(rest)?,
        _ => return Err("not understood".to_owned()),
    })
}

fn word(words: &[&str], all: &SegmentId) -> Result<Word, String> {
    let incident = |id: &str| IncidentId::parse(id).ok_or("an incident looks like inc-1");
    Ok(match *words {
        ["mode", mode] => word(&["mode", all.as_str(), mode], all)?,
        ["mode", segment, mode] => {
            let mode = Mode::parse(mode).ok_or("no such mode")?;
            Word::SetMode { segment: SegmentId::from(segment), mode, others_are_off: false }
        }
        ["pause"] => Word::Pause,
        ["resume"] => Word::Resume,
        ["maintenance", host] => {
            Word::Maintenance { host: HostId::from(host), on: true, until_back: false, limit: None }
        }
        ["maintenance", host, "until-back"] => {
            Word::Maintenance { host: HostId::from(host), on: true, until_back: true, limit: None }
        }
        ["maintenance", host, limit] => {
            let limit = Some(duration(limit)?);
            Word::Maintenance { host: HostId::from(host), on: true, until_back: false, limit }
        }
        ["end-maintenance", host] => {
            Word::Maintenance { host: HostId::from(host), on: false, until_back: false, limit: None }
        }
        ["approve", id] => Word::Approve { incident: incident(id)? },
        ["cancel", id] => Word::Cancel { incident: incident(id)? },
        ["retry", id] => Word::Retry { incident: incident(id)? },
        ["confirm-fenced", host] => Word::ConfirmFenced { host: HostId::from(host), boot: None },
        ["fence", host] => Word::Fence { host: HostId::from(host) },
        ["release", host] => Word::Release { host: HostId::from(host) },
        ["power-on", host] => Word::PowerOn { host: HostId::from(host) },
        ["forget", host] => Word::Forget { host: HostId::from(host) },
        ["pin-device", host] => Word::PinDevice { host: HostId::from(host) },
        ["import", ref rows @ ..] => fences::import(rows, false)?,
        ["try-import", ref rows @ ..] => fences::import(rows, true)?,
        ["accept-device", host] => Word::AcceptDevice { host: HostId::from(host) },
        ["forget-device", host] => Word::ForgetDevice { host: HostId::from(host) },
        ["protect", name] => Word::Protect { instance: guest_id(name)? },
        ["unprotect", name] => Word::Unprotect { instance: guest_id(name)? },
        ["recover", name] => Word::Recover { instance: guest_id(name)? },
        _ => return Err("no such word".to_owned()),
    })
}

fn number(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("{text} is no number"))
}

/// `hv3` or `vm3` is the third.
fn index(name: &str) -> Result<usize, String> {
    let digits = name.trim_start_matches(|c: char| c.is_ascii_alphabetic());
    number(digits)?.checked_sub(1).ok_or_else(|| format!("{name}: they are counted from 1"))
}

/// The world counts its guests from nought.
fn guest_id(name: &str) -> Result<InstanceId, String> {
    index(name).map(|guest| InstanceId(format!("guest-{guest}")))
}

fn plane(name: &str) -> Result<usize, String> {
    crate::sim::world::PLANES.iter().position(|plane| *plane == name).ok_or_else(|| format!("no plane {name}"))
}

fn duration(text: &str) -> Result<Duration, String> {
    let (digits, unit) = text.split_at(text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).len());
    let count = number(digits)? as u64;
    match unit {
        "ms" => Ok(Duration::from_millis(count)),
        "s" => Ok(Duration::from_secs(count)),
        "m" => Ok(Duration::from_secs(60 * count)),
        _ => Err(format!("{text}: a time looks like 30s")),
    }
}
