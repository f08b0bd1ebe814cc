//! `aggregator.toml`, read whole: every fault at once, each with key, value and
//! allowed range.
//!
//! The file in `packaging/aggregator.toml` lists every key with its default; a
//! test holds the two together.

mod alerts;
mod fence;
mod identity;
mod read;
mod reference;
mod restart;

use crate::alert::Receiver;
use crate::fence::subprocess::{AGENTS, Device, EACH_HOST, password};
use crate::listen::TlsFiles;
use crate::peer::valid_name;
pub use fence::Templates;
pub use identity::Identity;
use medevac_openstack::{Credentials, CredentialsProblem};
use medevac_settings::{Problems, Reader};
use medevac_triage::{
    CloudKind, DEFAULT_SEGMENT, FenceLevel, Ha, HostId, LEVELS, Level, MATRIX_ROWS, Mode, OnHung, OnLocalDisks,
    PRIORITY_MAX, Place, PlaneId, PolicyRule, RecoveryMethod, SegmentId, SegmentsBy, Settings, TIER_MAX, Through,
};
pub use read::Read;
pub use reference::KEYS;
pub use restart::restarts;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where it is looked for.
pub const DEFAULT_PATH: &str = "/etc/medevac/aggregator.toml";
/// A pass may last as long as its devices need, and a moment for what lies between.
const PASS_MARGIN: Duration = Duration::from_secs(5);

/// All that the file says.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub listen: SocketAddr,
    pub socket: PathBuf,
    pub state_dir: PathBuf,
    pub machine_identity: PathBuf,
    /// `None`: plaintext, on loopback only.
    pub tls: Option<TlsFiles>,
    pub banner_ports: Vec<u16>,
    pub responder_port: u16,
    pub metrics: medevac_metrics::Listen,
    pub fences: BTreeMap<HostId, Vec<Device>>,
    /// What the devices of a segment have in common.
    pub templates: Templates,
    pub openstack: Openstack,
    /// Who is told of alerts.
    pub receivers: Vec<Receiver>,
    pub identity: Identity,
    pub settings: Settings,
    /// What is no fault of the file, but will be one of the site.
    pub warnings: Vec<String>,
}

/// Where OpenStack is, and who we are there: read as every OpenStack tool reads it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Openstack {
    /// `None`: where every OpenStack tool looks, or the OS_* variables.
    pub clouds_file: Option<PathBuf>,
    /// `None`: OS_CLOUD, or the only one.
    pub cloud: Option<String>,
    /// Hosts whose nova-compute has another name than their agent.
    pub hosts: BTreeMap<HostId, String>,
}

impl Openstack {
    /// # Errors
    /// Every reason by name, with what to do.
    pub fn credentials(&self) -> Result<Credentials, CredentialsProblem> {
        let named = self.clouds_file.is_some() || self.cloud.is_some();
        match named || std::env::var_os("OS_AUTH_URL").is_none() {
            true => Credentials::from_clouds_yaml(self.clouds_file.as_deref(), self.cloud.as_deref(), false),
            false => Credentials::from_env(false),
        }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path}: {source}; give another file with --config")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} has faults:\n{problems}")]
    Faulty { path: PathBuf, problems: Problems },
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// All faults of the file at once.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Read::load(path).map(|read| read.config)
    }

    /// Reads a text.
    ///
    /// # Errors
    /// All faults of the text at once.
    pub fn parse(text: &str) -> Result<Self, Problems> {
        Read::parse(text).map(|read| read.config)
    }

    fn read(r: &mut Reader) -> Self {
        let mut warnings = Vec::new();
        let listen = listen(r);
        let tls = tls(r, listen);
        let (banner_ports, responder_port) = probing(r);
        let metrics = medevac_metrics::Listen::read(r, crate::metrics::PORT, tls.is_some());
        let mut settings = Settings::default();
        timing(r, &mut settings);
        scope(r, &mut settings);
        segment_rule(r, &mut settings);
        segments(r, &mut settings);
        settings.policies = policies(r);
        matrix(r, &mut settings, &mut warnings);
        let templates = fence::read(r, &mut settings, &mut warnings);
        let fences = fences(r, &mut settings, &templates, &mut warnings);
        let openstack = openstack(r);
        let receivers = alerts::read(r, &mut settings, &mut warnings);
        let identity = identity::read(r);
        Self {
            listen,
            socket: r.path("socket", Some("/run/medevac/aggregator.sock")),
            state_dir: r.path("state_dir", Some("/var/lib/medevac")),
            machine_identity: r.path("machine_identity", Some("/etc/machine-id")),
            tls,
            banner_ports,
            responder_port,
            metrics,
            fences,
            templates,
            openstack,
            receivers,
            identity,
            settings,
            warnings,
        }
    }

    /// How everybody looks.
    pub fn sight(&self) -> crate::ports::Sight {
        let (port, deadline) = (self.responder_port, self.settings.probe_deadline);
        crate::ports::Sight { banner_ports: self.banner_ports.clone(), port, deadline }
    }

    /// By what hosts are switched off, as far as it is configured.
    pub fn devices(&self) -> crate::fence::Devices {
        crate::fence::Devices { levels: self.fences.clone(), templates: self.templates.clone() }
    }

    /// The longest that one run of a fence agent may take.
    pub fn longest_fence(&self) -> Duration {
        pass(self.fences.values()).max(fence::longest(&self.templates))
    }
}

fn listen(r: &mut Reader) -> SocketAddr {
    let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), medevac_proto::PORT);
    let text = r.string("listen", Some(&any.to_string()));
    text.parse().unwrap_or_else(|_| {
        r.problem("listen", &text, "must be ADDRESS:PORT, such as 0.0.0.0:15869");
        any
    })
}

fn tls(r: &mut Reader, listen: SocketAddr) -> Option<TlsFiles> {
    let files = TlsFiles {
        ca: r.path("tls.ca", Some("/etc/medevac/tls/ca.pem")),
        cert: r.path("tls.cert", Some("/etc/medevac/tls/aggregator.pem")),
        key: r.path("tls.key", Some("/etc/medevac/tls/aggregator.key")),
        ca_key: PathBuf::new(),
    };
    let beside = files.ca.with_file_name("ca.key");
    let files = TlsFiles { ca_key: r.path("tls.ca_key", beside.to_str()), ..files };
    if !r.bool("insecure_plaintext", false) {
        return Some(files);
    }
    if !listen.ip().is_loopback() {
        let message = "is allowed only where `listen` is a loopback address: anybody could claim to be any host";
        r.problem("insecure_plaintext", "true", message);
    }
    None
}

fn probing(r: &mut Reader) -> (Vec<u16>, u16) {
    let ports = r.u64s("probe.banner_ports", &[22], 1..=65_535);
    let port = r.u64("probe.responder_port", u64::from(medevac_proto::PORT), 1..=65_535);
    let narrow = |port: u64| u16::try_from(port).unwrap_or(medevac_proto::PORT);
    (ports.into_iter().map(narrow).collect(), narrow(port))
}

/// Each with its floor: below it a healthy site would be hurt by noise.
fn timing(r: &mut Reader, s: &mut Settings) {
    let ms = Duration::from_millis;
    let seconds = Duration::from_secs;
    let hour = seconds(3600);
    let day = hour * 24;
    let keys: [(&str, &mut Duration, Duration, Duration); 20] = [
        ("suspect_after", &mut s.suspect_after, ms(1100), seconds(60)),
        ("fence_grace", &mut s.fence_grace, seconds(2), hour),
        ("fence_grace_long", &mut s.fence_grace_long, seconds(2), hour),
        ("settle", &mut s.settle, seconds(2), hour),
        ("hung_after", &mut s.hung_after, seconds(3), hour),
        ("boot_grace", &mut s.boot_grace, seconds(1), hour * 2),
        ("goodbye_agent", &mut s.goodbye_agent, seconds(1), hour),
        ("goodbye_shutdown", &mut s.goodbye_shutdown, seconds(1), hour * 2),
        ("probe_every", &mut s.probe_every, ms(200), seconds(10)),
        ("probe_deadline", &mut s.probe_deadline, ms(100), seconds(10)),
        ("shot_window", &mut s.shot_window, seconds(1), day),
        ("fence_retry_first", &mut s.fence_retry_first, seconds(1), hour),
        ("fence_retry_max", &mut s.fence_retry_max, seconds(1), hour),
        ("start_deadline", &mut s.start_deadline, seconds(5), hour),
        ("cloud_deadline", &mut s.cloud_deadline, seconds(5), hour),
        ("evacuation_deadline", &mut s.evacuation_deadline, seconds(30), day),
        ("inventory_deadline", &mut s.inventory_deadline, ms(2500), seconds(60)),
        ("restart_backoff", &mut s.restart_backoff, seconds(1), hour),
        ("agents_down_after", &mut s.agents_down_after, seconds(1), day),
        ("fence_deadline", &mut s.fence_deadline, seconds(1), hour),
    ];
    for (name, value, floor, ceiling) in keys {
        *value = r.duration(&format!("timing.{name}"), *value, floor..=ceiling);
    }
    ordered(r, ("suspect_after", s.suspect_after), ("fence_grace", s.fence_grace));
    ordered(r, ("fence_grace", s.fence_grace), ("fence_grace_long", s.fence_grace_long));
    ordered(r, ("probe_deadline", s.probe_deadline), ("probe_every", s.probe_every));
    ordered(r, ("fence_retry_first", s.fence_retry_first), ("fence_retry_max", s.fence_retry_max));
}

fn ordered(r: &mut Reader, less: (&str, Duration), more: (&str, Duration)) {
    if less.1 > more.1 {
        let message =
            format!("must not be longer than timing.{} ({})", more.0, medevac_settings::show_duration(more.1));
        r.problem(&format!("timing.{}", less.0), &medevac_settings::show_duration(less.1), &message);
    }
}

/// What is looked after, and by what it is told.
fn scope(r: &mut Reader, s: &mut Settings) {
    if r.choice("cloud", "libvirt", &["libvirt", "openstack"]) == "openstack" {
        s.cloud = CloudKind::Openstack;
    }
    s.protect_all = r.choice("protect", "all", &["all", "marked"]) == "all";
    let own = r.string("host_running_me", Some(""));
    if !own.is_empty() && !valid_name(&own) {
        r.problem("host_running_me", &own, "must be the name of a host, as in its certificate");
    }
    s.own_host = Some(own).filter(|name| !name.is_empty()).map(HostId);
    for plane in r.strings("planes") {
        if !valid_name(&plane) || plane == crate::ports::REFERENCE_PLANE {
            r.problem("planes", &plane, "must be names of letters, digits, dots and dashes, and not \"reference\"");
        }
        s.planes.insert(PlaneId(plane));
    }
    for address in r.strings("reference") {
        if address.parse::<IpAddr>().is_err() {
            r.problem("reference", &address, "must be addresses, such as 10.0.0.1");
        }
        s.references.push(address);
    }
    s.starts_per_target = usize::try_from(r.u64("recovery.starts_per_target", 4, 1..=64)).unwrap_or(4);
    s.memory_reserve_kib = r.u64("recovery.memory_reserve_mib", 512, 0..=1_048_576) * 1024;
    s.restarts_max = u32::try_from(r.u64("recovery.restarts_max", u64::from(s.restarts_max), 0..=100)).unwrap_or(3);
}

fn openstack(r: &mut Reader) -> Openstack {
    let mut hosts: BTreeMap<HostId, String> = BTreeMap::new();
    for (host, nova) in r.string_map("openstack.hosts") {
        if !valid_name(&host) {
            r.problem(&format!("openstack.hosts.{host}"), &nova, "must be the name of a host, as in its certificate");
        }
        if let Some((other, _)) = hosts.iter().find(|(_, known)| **known == nova) {
            let message = format!("is the nova-compute of {other}, too: evacuating one would move the other's servers");
            r.problem(&format!("openstack.hosts.{host}"), &nova, &message);
        }
        hosts.insert(HostId(host), nova);
    }
    let file = r.string("openstack.clouds_file", Some(""));
    let cloud = r.string("openstack.cloud", Some(""));
    Openstack {
        clouds_file: Some(file).filter(|file| !file.is_empty()).map(PathBuf::from),
        cloud: Some(cloud).filter(|cloud| !cloud.is_empty()),
        hosts,
    }
}

fn segments(r: &mut Reader, s: &mut Settings) {
    let modes = ["observe", "approve", "act"];
    for name in r.tables("segments") {
        if !valid_name(&name) {
            r.problem(&format!("segments.{name}"), "", "the name must be of letters, digits, dots and dashes");
        }
        // What is left out is as in the default segment: only what is said is kept.
        let key = |of: &str| format!("segments.{name}.{of}");
        let segment = SegmentId(name.clone());
        if let Some(mode) = r.choice_opt(&key("mode"), &modes).and_then(|word| Mode::parse(&word)) {
            s.initial_mode.insert(segment.clone(), mode);
        }
        let hung = r.choice_opt(&key("on_hung"), &OnHung::NAMED.map(|(word, _)| word));
        if let Some(hung) = hung.and_then(|word| OnHung::parse(&word)) {
            s.on_hung.insert(segment.clone(), hung);
        }
        recovery(r, s, &segment);
        for host in host_names(r, &key("hosts")) {
            in_one_segment(r, s, &key("hosts"), host, &segment);
        }
    }
    s.default_mode = s.initial_mode.get(&DEFAULT_SEGMENT.into()).copied().unwrap_or_default();
}

fn recovery(r: &mut Reader, s: &mut Settings, segment: &SegmentId) {
    let key = |of: &str| format!("segments.{segment}.{of}");
    let method = r.choice_opt(&key("recovery_method"), &RecoveryMethod::NAMED.map(|(name, _, _)| name));
    if let Some(method) = method.as_deref().and_then(RecoveryMethod::parse) {
        if s.cloud == CloudKind::Libvirt && method != RecoveryMethod::Auto {
            let word = method_name(method);
            r.problem(&key("recovery_method"), word, "is known with cloud = \"openstack\" only");
        }
        s.recovery_method.insert(segment.clone(), method);
    }
    let reserved = host_names(r, &key("reserved_hosts"));
    for host in &reserved {
        if s.reserved_hosts.values().flatten().any(|known| known == host) {
            r.problem(&key("reserved_hosts"), host.as_str(), "is reserved twice");
        }
        // The default segment reserves for all: where it is depends on the rule.
        if segment.as_str() != DEFAULT_SEGMENT {
            in_one_segment(r, s, &key("reserved_hosts"), host.clone(), segment);
        }
    }
    if !reserved.is_empty() {
        s.reserved_hosts.insert(segment.clone(), reserved);
    }
}

fn method_name(method: RecoveryMethod) -> &'static str {
    RecoveryMethod::NAMED.iter().find(|(_, known, _)| *known == method).map_or("", |(name, _, _)| name)
}

fn segment_rule(r: &mut Reader, s: &mut Settings) {
    let openstack = s.cloud == CloudKind::Openstack;
    let usual = if openstack { "availability_zone" } else { "all" };
    let rules = SegmentsBy::NAMED.map(|(name, _, _)| name);
    let rule = r.choice("segments_by", usual, &rules);
    s.segments_by = SegmentsBy::parse(&rule).unwrap_or_default();
    if !openstack && s.segments_by != SegmentsBy::All {
        r.problem("segments_by", &rule, "is known with cloud = \"openstack\" only: name the hosts in [segments.NAME]");
    }
    s.segment_aggregates = r.strings("segment_aggregates").into_iter().collect();
    if let Some(first) = s.segment_aggregates.first().filter(|_| s.segments_by != SegmentsBy::Aggregate) {
        r.problem("segment_aggregates", first, "is read with segments_by = \"aggregate\" only");
    }
}

fn host_names(r: &mut Reader, key: &str) -> Vec<HostId> {
    let names = r.strings(key);
    for name in names.iter().filter(|name| !valid_name(name)) {
        r.problem(key, name, "must be names of hosts, as in their certificates");
    }
    names.into_iter().map(HostId).collect()
}

fn in_one_segment(r: &mut Reader, s: &mut Settings, key: &str, host: HostId, segment: &SegmentId) {
    if let Some(other) = s.segment_of.get(&host).filter(|other| *other != segment) {
        r.problem(key, host.as_str(), &format!("is in segment {other}, too: a host is in one"));
    }
    s.segment_of.insert(host, segment.clone());
}

/// Whom each rule means, and what it says: a rule that says nothing is a mistake.
fn policies(r: &mut Reader) -> Vec<PolicyRule> {
    let openstack = r.given("cloud") && r.choice("cloud", "libvirt", &["libvirt", "openstack"]) == "openstack";
    let mut rules: Vec<PolicyRule> = Vec::new();
    for i in 0..r.array_len("policy") {
        let key = |name: &str| format!("policy[{i}].{name}");
        let mut rule = PolicyRule::default();
        for (level, name, _) in LEVELS.iter().filter(|(level, _, _)| *level != Level::Site) {
            let Some(wanted) = r.string_opt(&key(name)) else { continue };
            if wanted.is_empty() {
                r.problem(&key(name), "", "is empty and would fit nothing: leave it out to fit all");
            }
            if !openstack && *level != Level::Server {
                r.problem(&key(name), &wanted, "is known with cloud = \"openstack\" only; here `server` names a guest");
            }
            rule.matches.insert(*level, wanted);
        }
        rule.ha = r.choice_opt(&key("ha"), &HA.map(|(word, _)| word)).and_then(|word| named(&HA, &word));
        let priority = r.integer_opt(&key("priority"), i64::from(-PRIORITY_MAX)..=i64::from(PRIORITY_MAX));
        rule.priority = priority.and_then(|value| i32::try_from(value).ok());
        let tier = r.integer_opt(&key("tier"), 1..=i64::from(TIER_MAX));
        rule.tier = tier.and_then(|value| u32::try_from(value).ok());
        let disks = r.choice_opt(&key("on_local_disks"), &LOCAL_DISKS.map(|(word, _)| word));
        rule.on_local_disks = disks.and_then(|word| named(&LOCAL_DISKS, &word));
        if !VALUES.iter().any(|value| r.given(&key(value))) {
            let message = format!("says nothing: give one of {}", VALUES.join(", "));
            r.problem(&format!("policy[{i}]"), "", &message);
        }
        if rules.iter().any(|other| other.matches == rule.matches) {
            r.problem(&format!("policy[{i}]"), &rule.to_string(), "is there twice: say all of it in one");
        }
        rules.push(rule);
    }
    rules
}

const HA: [(&str, Ha); 3] = [("on", Ha::On), ("off", Ha::Off), ("tenant", Ha::Tenant)];
const LOCAL_DISKS: [(&str, OnLocalDisks); 2] = [("wait", OnLocalDisks::Wait), ("rebuild", OnLocalDisks::Rebuild)];
/// What a rule can say.
const VALUES: [&str; 4] = ["ha", "priority", "tier", "on_local_disks"];

fn named<T: Copy>(all: &[(&str, T)], word: &str) -> Option<T> {
    all.iter().find(|(name, _)| *name == word).map(|(_, value)| *value)
}

/// What is done about a host that has lost networks; a row that nobody can tell of yet is a warning.
fn matrix(r: &mut Reader, s: &mut Settings, warnings: &mut Vec<String>) {
    for row in &MATRIX_ROWS {
        let key = format!("matrix.{}", row.name);
        let Some(word) = r.string_opt(&key) else { continue };
        if let Err(unfit) = s.matrix.set(row.name, &word) {
            r.problem(&key, &word, &format!("{} ({})", unfit, unfit.name()));
        } else if row.source.is_none() && word != row.default.name() {
            warnings.push(format!("{key}: {}: the row decides nothing until there is one", row.source()));
        }
    }
}

/// Options that this file must not set: what they say is said elsewhere.
const RESERVED: [(&str, &str); 5] = [
    ("action", "the action is always named by medevac"),
    ("option", "the action is always named by medevac"),
    ("password", "use password_file: a password does not belong into this file"),
    ("passwd", "use password_file: a password does not belong into this file"),
    ("delay", "a delay would come on top of every order; leave it out"),
];

fn fences(
    r: &mut Reader,
    s: &mut Settings,
    templates: &Templates,
    warnings: &mut Vec<String>,
) -> BTreeMap<HostId, Vec<Device>> {
    let mut fences: BTreeMap<HostId, Vec<Device>> = BTreeMap::new();
    let mut pinned: BTreeMap<HostId, bool> = BTreeMap::new();
    for i in 0..r.array_len("fence") {
        let host = r.string(&format!("fence[{i}].host"), None);
        if !host.is_empty() && !valid_name(&host) {
            r.problem(&format!("fence[{i}].host"), &host, "must be the name of a host, as in its certificate");
        }
        let host = HostId(host);
        let pin = r.bool(&format!("fence[{i}].pinned"), false);
        let device = device(r, &format!("fence[{i}]"), warnings);
        only_one_host(r, i, &host, &device, &fences);
        // Each level must be vouched for: one wrong wire shoots a neighbour.
        pinned.entry(host.clone()).and_modify(|all| *all &= pin).or_insert(pin);
        fences.entry(host).or_default().push(device);
    }
    for (host, levels) in &fences {
        let name = levels.iter().map(Device::label).collect::<Vec<_>>().join(", then ");
        let pinned = pinned.get(host).copied().unwrap_or_default();
        let levels = levels.iter().map(level).collect();
        s.devices.insert(host.clone(), medevac_triage::Device { name, pinned, levels, through: Through::Levels });
    }
    let needed = pass(fences.values()).max(fence::longest(templates));
    if r.given("timing.fence_deadline") && s.fence_deadline < needed {
        let message = format!(
            "must be at least {}: an off order and a status for each fence level of a host",
            medevac_settings::show_duration(needed)
        );
        r.problem("timing.fence_deadline", &medevac_settings::show_duration(s.fence_deadline), &message);
    }
    s.fence_deadline = s.fence_deadline.max(needed);
    fences
}

/// How long a pass through all levels of a host can take: off and status each.
fn pass<'a>(fences: impl Iterator<Item = &'a Vec<Device>>) -> Duration {
    let host = |levels: &Vec<Device>| levels.iter().map(|device| device.deadline * 2).sum::<Duration>() + PASS_MARGIN;
    fences.map(host).max().unwrap_or_default()
}

/// As decisions know it.
fn level(device: &Device) -> FenceLevel {
    let said = device.place();
    let of = |key: &str| said.get(key).map_or("", String::as_str);
    // Only what is reached by an address is compared with other hosts' devices.
    let place = Place::read(of("ip"), of("plug")).unwrap_or_default();
    FenceLevel { name: device.label(), agent: device.agent_name(), place }
}

/// An agent and its parameters; `prefix` is the table that holds them.
fn device(r: &mut Reader, prefix: &str, warnings: &mut Vec<String>) -> Device {
    let key = |name: &str| format!("{prefix}.{name}");
    let agent = r.string(&key("agent"), None);
    if agent.contains('/') && !agent.starts_with('/') {
        r.problem(&key("agent"), &agent, "must be a name below /usr/sbin, or an absolute path");
    }
    let bounds = Duration::from_secs(1)..=Duration::from_secs(300);
    let deadline = r.duration(&key("deadline"), Duration::from_secs(30), bounds);
    let password_file = r.path_opt(&key("password_file"));
    let options = r.string_map(&key("options"));
    for (name, value) in &options {
        if let Some((_, why)) = RESERVED.iter().find(|(reserved, _)| reserved == name) {
            r.problem(&key(&format!("options.{name}")), "", why);
        }
        if name.contains(['=', '\n']) || value.contains('\n') {
            r.problem(&key(&format!("options.{name}")), "", "must be one line, its name without `=`");
        }
    }
    let path = Path::new(AGENTS).join(&agent);
    if !agent.is_empty() && !path.is_file() {
        warnings.push(format!(
            "{}: {} is not there: install fence-agents, or correct the name",
            key("agent"),
            path.display()
        ));
    }
    // One file for each host is looked at when its host is asked.
    let single = password_file.as_deref().filter(|path| !path.to_string_lossy().contains(EACH_HOST));
    if let Some(Err(why)) = single.map(password) {
        warnings.push(format!("{}: {why}", key("password_file")));
    }
    Device { agent, options, password_file, deadline }
}

/// Two hosts on one plug: fencing one would shoot the other.
fn only_one_host(r: &mut Reader, i: usize, host: &HostId, device: &Device, fences: &BTreeMap<HostId, Vec<Device>>) {
    let place = device.place();
    for (other, levels) in fences {
        let same = levels.iter().any(|level| level.agent == device.agent && level.place() == place);
        if same && other == host {
            r.problem(&format!("fence[{i}]"), &device.label(), "is there twice for this host");
        } else if same {
            let message =
                format!("is the device and plug of {other}, too: an off order for {host} would shoot {other}");
            r.problem(&format!("fence[{i}]"), &device.label(), &message);
        }
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
