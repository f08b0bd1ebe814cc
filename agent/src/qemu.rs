//! QEMU processes, seen without libvirt.
//!
//! ```text
//!   /proc -- scan, 1/s and on a hint --> new process -- pidfd --> poll --> its death, within ms
//! ```
//!
//! libvirtd may hang or be down: what runs is what /proc shows, and a pidfd
//! tells the end of exactly that process, however soon its number is used again.
//! Our /proc has every process of this host by its number here, whatever container
//! it lives in. No pid file is read: one that was written in a container holds the
//! numbers of that container.

#[cfg(test)]
pub(crate) mod recorded;
mod watch;

pub use watch::{Seen, Watch};

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A process is looked at again in so many scans: libvirt forks first and becomes QEMU later.
const LOOKS: u8 = 10;

/// One QEMU process.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    pub uuid: String,
    pub pid: i32,
    /// Clock ticks since boot at which it started: with the pid, names it for good.
    pub start: u64,
    /// Started to receive a migration. Stays so after the guest has run.
    pub incoming: bool,
}

impl Process {
    /// Names this incarnation of a guest.
    pub fn key(&self) -> String {
        format!("{}/{}/{}", self.uuid, self.pid, self.start)
    }

    /// Reads one process; `None` when it is gone, or no QEMU with a UUID.
    pub fn read(proc: &Path, pid: i32) -> Option<Process> {
        let dir = proc.join(pid.to_string());
        let arguments = fs::read(dir.join("cmdline")).ok()?;
        let (uuid, incoming) = parse_arguments(&arguments)?;
        Some(Process { uuid, pid, start: start_of(proc, pid)?, incoming })
    }
}

/// Start time of a process, field 22 of its stat; `None` when it is gone or already dead.
pub(crate) fn start_of(proc: &Path, pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(proc.join(pid.to_string()).join("stat")).ok()?;
    // The name, in parentheses, may hold anything; what follows the last one is fields 3 and on.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let ended = matches!(fields.first(), Some(&("Z" | "X")));
    if ended { None } else { fields.get(19)?.parse().ok() }
}

fn parse_arguments(arguments: &[u8]) -> Option<(String, bool)> {
    let mut arguments = arguments.split(|b| *b == 0);
    let name = arguments.next()?.rsplit(|b| *b == b'/').next()?;
    if !name.starts_with(b"qemu") && name != b"kvm" {
        return None;
    }
    let (mut uuid, mut incoming) = (None, false);
    while let Some(argument) = arguments.next() {
        match argument {
            b"-uuid" | b"--uuid" => {
                let text = std::str::from_utf8(arguments.next()?).ok()?;
                uuid = uuid::Uuid::parse_str(text).ok();
            }
            b"-incoming" | b"--incoming" => incoming = true,
            _ => {}
        }
    }
    Some((uuid?.hyphenated().to_string(), incoming))
}

/// Every QEMU process with a UUID, at this moment.
pub fn scan(proc: &Path) -> Vec<Process> {
    pids(proc).filter_map(|pid| Process::read(proc, pid)).collect()
}

/// The QEMU process of one guest, if there is one at this moment.
pub fn find(proc: &Path, uuid: &str) -> Option<Process> {
    pids(proc).filter_map(|pid| Process::read(proc, pid)).find(|p| p.uuid == uuid)
}

pub(crate) fn pids(proc: &Path) -> impl Iterator<Item = i32> {
    let entries = fs::read_dir(proc).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.parse().ok())
}

/// A scan that reads only what it has not seen often enough before.
#[derive(Debug)]
pub struct Scanner {
    proc: PathBuf,
    /// Looks taken at processes that are no QEMU so far.
    others: HashMap<i32, u8>,
}

impl Scanner {
    pub fn new(proc: &Path) -> Scanner {
        Scanner { proc: proc.to_owned(), others: HashMap::new() }
    }

    /// QEMU processes that are not among the known ones. With `whole`, everything is read again.
    pub fn new_ones(&mut self, known: impl Fn(i32) -> bool, whole: bool) -> Vec<Process> {
        let mut found = Vec::new();
        let mut others = HashMap::new();
        for pid in pids(&self.proc) {
            if known(pid) {
                continue;
            }
            let looks = if whole { 0 } else { self.others.get(&pid).copied().unwrap_or(0) };
            if looks >= LOOKS {
                others.insert(pid, looks);
                continue;
            }
            match Process::read(&self.proc, pid) {
                Some(process) => found.push(process),
                None => drop(others.insert(pid, looks + 1)),
            }
        }
        self.others = others;
        found
    }
}

#[cfg(test)]
mod tests {
    use super::recorded::{Recorded, START};
    use super::*;

    const UUID: &str = "3f1a2b3c-0000-4000-8000-000000000001";

    fn arguments(list: &[&str]) -> Vec<u8> {
        list.join("\0").into_bytes()
    }

    #[test]
    fn a_qemu_is_known_by_its_uuid_and_by_what_it_waits_for() {
        let a = arguments(&["/usr/bin/qemu-system-x86_64", "-name", "guest=-uuid", "-uuid", UUID, "-S"]);
        assert_eq!(parse_arguments(&a), Some((UUID.into(), false)));
        let a = arguments(&["qemu-system-x86_64", "-uuid", &UUID.to_uppercase(), "-incoming", "defer"]);
        assert_eq!(parse_arguments(&a), Some((UUID.into(), true)));
        assert_eq!(parse_arguments(&arguments(&["grep", "-uuid", UUID])), None);
        assert_eq!(parse_arguments(&arguments(&["qemu-system-x86_64", "-machine", "none"])), None);
        assert_eq!(parse_arguments(b""), None);
    }

    #[test]
    fn a_process_that_becomes_qemu_after_its_fork_is_found() {
        let proc = Recorded::new();
        proc.runs(7, "S", &["libvirtd"]);
        let mut scanner = Scanner::new(proc.path());
        assert_eq!(scanner.new_ones(|_| false, false), []);
        proc.runs(7, "S", &["qemu-system-x86_64", "-uuid", UUID]);
        let found = scanner.new_ones(|_| false, false);
        assert_eq!(found, [Process { uuid: UUID.into(), pid: 7, start: START, incoming: false }]);
        assert_eq!(scanner.new_ones(|pid| pid == 7, false), [], "known ones are not read again");
    }

    #[test]
    fn a_dead_process_that_nobody_reaped_is_gone() {
        let proc = Recorded::new();
        proc.runs(7, "Z", &["qemu-system-x86_64", "-uuid", UUID]);
        assert_eq!(scan(proc.path()), []);
    }

    #[test]
    fn a_qemu_in_a_container_is_seen_by_its_number_on_the_host() {
        let proc = Recorded::new();
        proc.process(31337, "qemu-kvm", "mnt:[4026532999]", Path::new("/"));
        proc.runs(31337, "S", &["/usr/libexec/qemu-kvm", "-pidfile", "/run/libvirt/qemu/g.pid", "-uuid", UUID]);
        // What it is called inside, and what stands in its pid file.
        fs::write(proc.path().join("31337/status"), "Pid:\t31337\nNSpid:\t31337\t7\n").unwrap();
        proc.runs(7, "S", &["sshd"]);
        assert_eq!(find(proc.path(), UUID).map(|found| found.pid), Some(31337));
    }
}
