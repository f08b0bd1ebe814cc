//! The watcher: a thread of its own that finds QEMU processes and sees them end.

use super::{Process, Scanner, start_of};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// A new process that libvirt does not tell of is found within this time.
const SCAN_EVERY: Duration = Duration::from_secs(1);
/// Everything is read again this often, in case a pid was used twice between two scans.
const WHOLE_EVERY: Duration = Duration::from_secs(30);
/// Poll and scan use little of it.
const STACK: usize = 256 * 1024;

/// What the watcher reports, in the order in which it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Found(Process),
    Ended(Process),
    /// A whole scan that was asked for is done: everything it found came before this.
    Scanned {
        ask: u64,
    },
}

/// The watcher's handle.
#[derive(Clone, Debug)]
pub struct Watch {
    wake: Arc<OwnedFd>,
    asks: Arc<Mutex<Asks>>,
}

#[derive(Debug, Default)]
struct Asks {
    scans: Vec<u64>,
    hint: bool,
}

impl Watch {
    /// Starts the thread. It ends when the receiver of `seen` has gone.
    pub fn start(proc: &Path, seen: mpsc::Sender<Seen>) -> io::Result<Watch> {
        let watch =
            Watch { wake: Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?), asks: Arc::default() };
        let mut thread = Thread {
            handle: watch.clone(),
            scanner: Scanner::new(proc),
            proc: proc.to_owned(),
            known: BTreeMap::new(),
            seen,
        };
        let builder = std::thread::Builder::new().name("qemu-watch".into()).stack_size(STACK);
        // It ends by itself when nobody listens any more.
        builder.spawn(move || drop(thread.run()))?;
        Ok(watch)
    }

    /// Something may have started: look now.
    pub fn hint(&self) {
        self.ask(|a| a.hint = true);
    }

    /// Read everything again, then report [`Seen::Scanned`] with this number.
    pub fn scan(&self, ask: u64) {
        self.ask(|a| a.scans.push(ask));
    }

    fn ask(&self, set: impl FnOnce(&mut Asks)) {
        set(&mut self.asks.lock().unwrap_or_else(PoisonError::into_inner));
        // The counter is full only when it has not been read: then the thread wakes anyway.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

/// Nobody listens any more.
#[derive(Debug)]
struct Unheard;

struct Thread {
    handle: Watch,
    scanner: Scanner,
    proc: PathBuf,
    known: BTreeMap<i32, (Process, OwnedFd)>,
    seen: mpsc::Sender<Seen>,
}

impl Thread {
    fn run(&mut self) -> Result<(), Unheard> {
        let (mut next_scan, mut next_whole) = (Instant::now(), Instant::now());
        while !self.seen.is_closed() {
            let ended = self.wait(next_scan.saturating_duration_since(Instant::now()));
            for pid in ended {
                if let Some((process, _)) = self.known.remove(&pid) {
                    self.tell(Seen::Ended(process))?;
                }
            }
            let asks = std::mem::take(&mut *self.handle.asks.lock().unwrap_or_else(PoisonError::into_inner));
            let now = Instant::now();
            let whole = !asks.scans.is_empty() || now >= next_whole;
            if whole || asks.hint || now >= next_scan {
                self.find(whole)?;
                next_scan = now + SCAN_EVERY;
                next_whole = if whole { now + WHOLE_EVERY } else { next_whole };
            }
            for ask in asks.scans {
                self.tell(Seen::Scanned { ask })?;
            }
        }
        Ok(())
    }

    /// Sleeps until a process ends, somebody asks, or the time is over. Returns who ended.
    fn wait(&self, longest: Duration) -> Vec<i32> {
        let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(self.known.len() + 1);
        fds.push(PollFd::new(&*self.handle.wake, PollFlags::IN));
        fds.extend(self.known.values().map(|(_, fd)| PollFd::new(fd, PollFlags::IN)));
        let timeout = Timespec::try_from(longest).ok();
        if poll(&mut fds, timeout.as_ref()).is_err() {
            // Interrupted: the next turn comes at once.
            return Vec::new();
        }
        if !fds[0].revents().is_empty() {
            let mut count = [0; 8];
            let _ = rustix::io::read(&*self.handle.wake, &mut count);
        }
        let watched = self.known.keys().zip(&fds[1..]);
        watched.filter(|(_, fd)| !fd.revents().is_empty()).map(|(pid, _)| *pid).collect()
    }

    fn find(&mut self, whole: bool) -> Result<(), Unheard> {
        let known = &self.known;
        for process in self.scanner.new_ones(|pid| known.contains_key(&pid), whole) {
            let pid = Pid::from_raw(process.pid);
            let Some(fd) = pid.and_then(|p| pidfd_open(p, PidfdFlags::empty()).ok()) else {
                continue;
            };
            // The number may have changed hands between reading and opening.
            if start_of(&self.proc, process.pid) == Some(process.start) {
                self.known.insert(process.pid, (process.clone(), fd));
                self.tell(Seen::Found(process))?;
            }
        }
        Ok(())
    }

    /// Waits where the main loop is behind: a pidfd loses nothing meanwhile.
    fn tell(&self, seen: Seen) -> Result<(), Unheard> {
        self.seen.blocking_send(seen).map_err(|_| Unheard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command};

    /// A process that looks like QEMU from outside.
    fn pretend(uuid: &str) -> Child {
        let mut command = Command::new("sh");
        command.arg0("qemu-system-x86_64").args(["-c", "read line", "-uuid", uuid]);
        let child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
        // Arguments show a moment after the spawn returns.
        let shows = || std::fs::read_to_string(format!("/proc/{}/cmdline", child.id())).unwrap().contains(uuid);
        while !shows() {}
        child
    }

    async fn next(seen: &mut mpsc::Receiver<Seen>) -> Seen {
        tokio::time::timeout(Duration::from_secs(5), seen.recv()).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn a_process_is_found_and_its_end_is_known_at_once() {
        let uuid = uuid::Uuid::new_v4().to_string();
        let mut child = pretend(&uuid);
        // Bound: a handful of processes of this test.
        let (tx, mut rx) = mpsc::channel(64);
        let watch = Watch::start(Path::new("/proc"), tx).unwrap();
        watch.scan(5);
        let mut found = None;
        loop {
            match next(&mut rx).await {
                Seen::Found(p) if p.uuid == uuid => found = Some(p),
                Seen::Scanned { ask: 5 } => break,
                _ => {}
            }
        }
        let found = found.expect("found before the scan is reported done");
        child.kill().unwrap();
        while next(&mut rx).await != Seen::Ended(found.clone()) {}
        child.wait().unwrap();
    }
}
