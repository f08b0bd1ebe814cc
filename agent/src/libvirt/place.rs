//! Where libvirt listens, and how it sees files: on this host, or in a container on it.
//!
//! ```text
//!   libvirt.socket -----------------------------------------.
//!   /run/libvirt/{libvirt,virtqemud}-sock ------------------+--> socket --> who listens? --> its view
//!   libvirtd or virtqemud in /proc --> the same in its root '
//! ```
//!
//! A container that shares /run with its host (kolla-ansible) has its socket where
//! everybody looks. One that does not is found by its process, if there is only one.

use crate::hypervisor::Fault;
use crate::qemu::{pids, start_of};
use crate::view::{self, View};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;

/// The URI for which a socket is looked for; whoever writes another one knows where it leads.
const LOCAL: &str = "qemu:///system";
/// Below the root of whoever runs it; the first that is there counts.
const SOCKETS: [&str; 2] = ["/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock"];
/// Programs that start QEMUs.
const DAEMONS: [&str; 2] = ["libvirtd", "virtqemud"];
/// The kernel completes a connection; a full queue is no reason to wait.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// Where to look for libvirt.
#[derive(Clone, Debug)]
pub(super) struct Place {
    uri: String,
    socket: Option<PathBuf>,
    /// Below which the host's own sockets and processes are; another one in tests.
    root: PathBuf,
    proc: PathBuf,
}

/// What was found there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) uri: String,
    /// How it sees files; `None` where nobody can tell.
    pub(super) view: Option<View>,
    /// Each socket that leads there, with device and inode.
    sockets: BTreeMap<PathBuf, (u64, u64)>,
}

impl Found {
    /// Whether another libvirt listens there by now: its socket was made anew, or is gone.
    pub(super) fn is_replaced(&self) -> bool {
        self.sockets.iter().any(|(path, made)| identity(path) != Some(*made))
    }
}

impl Place {
    pub(super) fn new(uri: &str, socket: Option<&Path>) -> Place {
        let socket = socket.map(Path::to_owned);
        Place { uri: uri.to_owned(), socket, root: "/".into(), proc: "/proc".into() }
    }

    /// Looks for it now: a container that was made anew has another socket, and other mounts.
    pub(super) async fn find(&self) -> Result<Found, Fault> {
        if let Some(socket) = &self.socket {
            let Some(made) = identity(socket) else {
                return Err(nowhere(format!("libvirt.socket names {}, and no socket is there", socket.display())));
            };
            let view = self.view_from(&listeners([socket]).await);
            return Ok(Found { uri: by_socket(socket), view, sockets: [(socket.clone(), made)].into() });
        }
        if self.uri != LOCAL {
            let view = if self.uri.starts_with("qemu") { self.view_of_daemons(None) } else { Some(View::Own) };
            return Ok(Found { uri: self.uri.clone(), view, ..Found::default() });
        }
        let known = SOCKETS.map(|socket| self.root.join(socket.trim_start_matches('/')));
        let sockets: BTreeMap<_, _> = known.into_iter().filter_map(|s| Some((s.clone(), identity(&s)?))).collect();
        let listeners = listeners(sockets.keys()).await;
        match self.in_a_container() {
            Err(fault) if sockets.is_empty() => Err(fault),
            Ok(found) if listeners.is_empty() => Ok(found),
            // libvirt's own client chooses among its own sockets.
            _ => Ok(Found { uri: LOCAL.to_owned(), view: self.view_from(&listeners), sockets }),
        }
    }

    /// The socket of a daemon whose /run is not ours, by way of its root.
    fn in_a_container(&self) -> Result<Found, Fault> {
        let mut found: BTreeMap<(u64, u64), Found> = BTreeMap::new();
        for (pid, start) in self.daemons() {
            let Ok(view) = View::of(&self.proc, pid, start) else { continue };
            let Ok(root) = view.enter(&self.proc) else { continue };
            for socket in SOCKETS {
                let path = self.proc.join(format!("{pid}/root{socket}"));
                let Ok(seen) = root.metadata(Path::new(socket)) else { continue };
                // The client goes by this path: links in the container must not lead it elsewhere.
                if identity(&path) == Some((seen.dev(), seen.ino())) {
                    let sockets = [(path.clone(), (seen.dev(), seen.ino()))].into();
                    let of = Found { uri: by_socket(&path), view: Some(view.clone()), sockets };
                    found.entry((seen.dev(), seen.ino())).or_insert(of);
                    break;
                }
            }
        }
        match found.len() {
            1 => found.into_values().next().ok_or_else(|| nowhere(String::new())),
            0 => Err(nowhere(format!(
                "libvirt's socket is not at any known path ({}), nor in a container of libvirtd or virtqemud: \
                 if libvirt runs, set libvirt.socket in agent.toml",
                SOCKETS.join(", ")
            ))),
            several => Err(nowhere(format!(
                "{several} libvirts run in containers of this host: set libvirt.socket in agent.toml to the one that counts"
            ))),
        }
    }

    /// How the libvirt behind sockets sees files, by who listens; all of them must say the same.
    fn view_from(&self, listeners: &[Option<i32>]) -> Option<View> {
        let views = listeners.iter().map(|listener| match listener.filter(|pid| self.is_daemon(*pid)) {
            Some(pid) => self.view_by_pid(pid),
            None => self.view_of_daemons(*listener),
        });
        let views: Vec<_> = views.collect();
        let first = views.first().cloned().flatten();
        first.filter(|first| views.iter().all(|view| view.as_ref() == Some(first)))
    }

    /// Where systemd listens for a daemon: whatever daemon there is, or else systemd's own view.
    fn view_of_daemons(&self, listener: Option<i32>) -> Option<View> {
        let mut views: BTreeMap<_, _> = BTreeMap::new();
        for (pid, start) in self.daemons() {
            let place = view::place(&self.proc, &pid.to_string()).ok()?;
            views.insert(place, View::of(&self.proc, pid, start).ok()?);
        }
        match (views.len(), listener) {
            (0, Some(pid)) => self.view_by_pid(pid),
            (0, None) => Some(View::Own),
            (1, _) => views.into_values().next(),
            _ => None,
        }
    }

    fn view_by_pid(&self, pid: i32) -> Option<View> {
        View::of(&self.proc, pid, start_of(&self.proc, pid)?).ok()
    }

    fn daemons(&self) -> Vec<(i32, u64)> {
        let daemons = pids(&self.proc).filter(|pid| self.is_daemon(*pid));
        daemons.filter_map(|pid| Some((pid, start_of(&self.proc, pid)?))).collect()
    }

    fn is_daemon(&self, pid: i32) -> bool {
        let exe = fs::read_link(self.proc.join(format!("{pid}/exe"))).unwrap_or_default();
        let name = exe.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // An upgraded program's file is gone while it runs.
        DAEMONS.contains(&name.trim_end_matches(" (deleted)"))
    }
}

fn nowhere(why: String) -> Fault {
    Fault::NotAnswering(why)
}

fn by_socket(socket: &Path) -> String {
    format!("qemu+unix:///system?socket={}", socket.display())
}

/// Device and inode of a socket; `None` where there is none.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let found = fs::metadata(path).ok()?;
    found.file_type().is_socket().then(|| (found.dev(), found.ino()))
}

/// Who listens at sockets, by pid here, whatever namespace it lives in; `None` where that cannot be told.
/// A socket at which nobody listens any more was left over.
async fn listeners(sockets: impl IntoIterator<Item = &PathBuf>) -> Vec<Option<i32>> {
    let mut found = Vec::new();
    for socket in sockets {
        match tokio::time::timeout(CONNECT_WITHIN, UnixStream::connect(socket)).await {
            Ok(Ok(stream)) => found.push(stream.peer_cred().ok().and_then(|peer| peer.pid()).filter(|pid| *pid > 0)),
            Ok(Err(e)) if e.kind() != std::io::ErrorKind::WouldBlock => {}
            Ok(Err(_)) | Err(_) => found.push(None),
        }
    }
    found
}

#[cfg(test)]
mod tests;
