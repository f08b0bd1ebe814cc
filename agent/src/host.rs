//! What this host says about itself: boot, identity, memory, load, pressure,
//! whether it is going down, and ways in which a second copy of a guest could start.

use crate::guest_list;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Created by the unit's stop hook (and by labs) when the host itself goes down.
const SHUTTING_DOWN: &str = "/run/medevac/shutting-down";
/// Where systemd notes a shutdown that has been ordered.
const SCHEDULED: &str = "/run/systemd/shutdown/scheduled";
/// A shutdown scheduled later than this is no goodbye yet.
const SOON: Duration = Duration::from_secs(60);

/// Where units and what belongs to them are found, the strongest first.
const UNIT_FOLDERS: [&str; 4] =
    ["etc/systemd/system", "run/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"];
/// What the package puts before libvirt-guests.
const GUESTS_HOLD: &str = "libvirt-guests.service.d/medevac-hold.conf";
/// What libvirt-guests reads, on Debian and on EL.
const GUESTS_SETTINGS: [&str; 2] = ["etc/default/libvirt-guests", "etc/sysconfig/libvirt-guests"];

/// Why the agent cannot say who or when this host is.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("cannot read {path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("{path} is empty: every machine needs an identity of its own (systemd-machine-id-setup makes one)")]
    NoIdentity { path: String },
}

/// Who this machine is and which of its lives this is; constant while the agent runs.
#[derive(Clone, Debug)]
pub struct Identity {
    pub machine_id: String,
    pub boot_id: String,
}

impl Identity {
    /// Reads the machine's identity file and the kernel's boot id.
    pub fn read(machine_identity: &Path) -> Result<Identity, HostError> {
        Ok(Identity { machine_id: word(machine_identity)?, boot_id: boot_id()? })
    }
}

/// Which of this machine's lives this is.
///
/// # Errors
/// Where there is no /proc.
pub fn boot_id() -> Result<String, HostError> {
    word(Path::new("/proc/sys/kernel/random/boot_id"))
}

fn word(path: &Path) -> Result<String, HostError> {
    let shown = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|source| HostError::Read { path: shown.clone(), source })?;
    let text = text.trim();
    if text.is_empty() { Err(HostError::NoIdentity { path: shown }) } else { Ok(text.to_owned()) }
}

/// What changes all the time; goes with every heartbeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    pub uptime_ms: u64,
    pub memory_total_kib: u64,
    pub memory_available_kib: u64,
    /// 1-minute load average in thousandths.
    pub load_milli: u32,
    /// Share of time in which every task waited for I/O, 10 s average, in thousandths of a percent.
    pub psi_io_full_milli: u32,
    /// The same for memory.
    pub psi_memory_full_milli: u32,
}

impl Load {
    /// Reads /proc. What cannot be read is zero: load is never worth a failure.
    pub fn read() -> Load {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        let meminfo = text("/proc/meminfo");
        Load {
            uptime_ms: millis(text("/proc/uptime").split(' ').next()),
            memory_total_kib: kib(&meminfo, "MemTotal:"),
            memory_available_kib: kib(&meminfo, "MemAvailable:"),
            load_milli: milli(text("/proc/loadavg").split(' ').next()),
            psi_io_full_milli: pressure(&text("/proc/pressure/io")),
            psi_memory_full_milli: pressure(&text("/proc/pressure/memory")),
        }
    }
}

/// "1234.56" -> 1234560.
fn millis(number: Option<&str>) -> u64 {
    let number = number.and_then(|n| n.trim().parse::<f64>().ok()).unwrap_or(0.0);
    (number * 1000.0) as u64
}

fn milli(number: Option<&str>) -> u32 {
    u32::try_from(millis(number)).unwrap_or(u32::MAX)
}

fn kib(meminfo: &str, name: &str) -> u64 {
    let line = meminfo.lines().find_map(|l| l.strip_prefix(name));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

fn pressure(text: &str) -> u32 {
    let full = text.lines().find_map(|l| l.strip_prefix("full avg10="));
    milli(full.and_then(|l| l.split(' ').next()))
}

/// Whether the host itself is going down, as far as a glance tells: no process is asked.
pub fn is_shutting_down() -> bool {
    Path::new(SHUTTING_DOWN).exists() || fs::read_to_string(SCHEDULED).is_ok_and(|s| is_soon(&s))
}

fn is_soon(scheduled: &str) -> bool {
    let at = scheduled.lines().find_map(|l| l.strip_prefix("USEC=")?.trim().parse().ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    at.is_some_and(|at: u64| Duration::from_micros(at) <= now + SOON)
}

/// As [`is_shutting_down`], and asks systemd, which alone knows of an unscheduled poweroff.
pub async fn is_shutting_down_for_sure() -> bool {
    if is_shutting_down() {
        return true;
    }
    if !Path::new("/run/systemd/system").exists() {
        return false;
    }
    let mut ask = tokio::process::Command::new("systemctl");
    ask.arg("is-system-running").kill_on_drop(true);
    // One second: a goodbye that comes too late is none.
    let told = tokio::time::timeout(Duration::from_secs(1), ask.output()).await;
    matches!(told, Ok(Ok(out)) if out.stdout.starts_with(b"stopping"))
}

/// Ways to a second copy that lie beside medevac: somebody else starts guests at boot.
pub fn warnings() -> Vec<String> {
    let mut out = Vec::new();
    if starts_guests_at_boot(Path::new("/")) {
        out.push("libvirt-guests is enabled, and medevac's hold is not before it: it starts guests at boot that may run elsewhere; disable it or set ON_BOOT=ignore".into());
    }
    out.extend(crate::kolla::warnings(Path::new("/")));
    out
}

/// Whether libvirt-guests does, with nothing of ours before it.
fn starts_guests_at_boot(root: &Path) -> bool {
    let enabled = root.join("etc/systemd/system/multi-user.target.wants/libvirt-guests.service").exists();
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    // The first one that there is counts: a link to /dev/null in /etc puts the package's out of use.
    let hold = UNIT_FOLDERS.map(|folder| format!("{folder}/{GUESTS_HOLD}")).into_iter();
    let held = hold.filter(|path| root.join(path).exists()).map(|path| read(&path)).next();
    let held = held.is_some_and(|hold| hold.contains("wait-release"));
    let ignores = GUESTS_SETTINGS.iter().any(|path| ignores_boot(&read(path)));
    enabled && !held && !ignores
}

/// The last word counts; without one it is the distribution's, which may be `start`.
fn ignores_boot(settings: &str) -> bool {
    guest_list::setting(settings, "ON_BOOT").is_some_and(|word| word == "ignore")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_can_be_read() {
        let load = Load::read();
        assert!(load.uptime_ms > 0 && load.memory_total_kib > load.memory_available_kib);
        let identity = Identity::read(Path::new("/proc/sys/kernel/random/boot_id")).unwrap();
        assert_eq!(identity.boot_id.len(), 36);
    }

    #[test]
    fn proc_texts_are_read_in_their_units() {
        assert_eq!(kib("MemTotal:       123 kB\nMemAvailable:   45 kB\n", "MemAvailable:"), 45);
        let psi = "some avg10=9.00 avg60=0.00 avg300=0.00 total=1\nfull avg10=1.25 avg60=0.00 avg300=0.00 total=2\n";
        assert_eq!(pressure(psi), 1250);
        assert_eq!(milli(Some("0.52")), 520);
    }

    #[test]
    fn a_shutdown_in_an_hour_is_no_goodbye() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let at = |d: u64| format!("USEC={}\nWARN_WALL=1\nMODE=poweroff\n", (now + Duration::from_secs(d)).as_micros());
        assert!(is_soon(&at(5)));
        assert!(!is_soon(&at(3600)));
    }

    #[test]
    fn libvirt_guests_is_warned_of_where_neither_a_hold_nor_its_settings_keep_it_from_starting_guests() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let warned = || starts_guests_at_boot(dir.path());
        assert!(!warned(), "it is not there");
        write("etc/systemd/system/multi-user.target.wants/libvirt-guests.service", "");
        assert!(warned());
        write("etc/default/libvirt-guests", "ON_BOOT=start\nON_BOOT='ignore'\n");
        assert!(!warned());
        write("etc/default/libvirt-guests", "#ON_BOOT=ignore\n");
        assert!(warned());
        write(&format!("usr/lib/systemd/system/{GUESTS_HOLD}"), "ExecStartPre=medevac-agent wait-release\n");
        assert!(!warned());
        write(&format!("etc/systemd/system/{GUESTS_HOLD}"), "");
        assert!(warned(), "somebody has taken the hold away");
    }
}
