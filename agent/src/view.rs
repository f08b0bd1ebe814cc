//! The file system as another process sees it: libvirt and its QEMUs may live in containers.
//!
//! ```text
//!   a path of a guest --> root of the process that uses it (/proc/PID/root) --> openat2, never out of it
//! ```
//!
//! In a container the same path may be another mount than on the host, or be missing
//! there. What is asked of a path is therefore asked where it is used, or not at all.
//! An absolute symbolic link counts from that root, as it does for the process.

use crate::qemu::start_of;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Whose file system is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum View {
    /// Our own: what uses it lives in our mount namespace.
    #[default]
    Own,
    /// That of a process elsewhere; its start time tells it from a later one with its number.
    Of { pid: i32, start: u64 },
}

/// A mount namespace and the root in it: equal ones show the same files.
pub type Place = (PathBuf, u64, u64);

/// Names the place in which a process (or `self`) looks at files.
///
/// # Errors
/// Also where the process has ended.
pub fn place(proc: &Path, pid: &str) -> io::Result<Place> {
    let dir = proc.join(pid);
    let namespace = fs::read_link(dir.join("ns/mnt"))?;
    let root = fs::metadata(dir.join("root"))?;
    Ok((namespace, root.dev(), root.ino()))
}

impl View {
    /// How one process sees files: as we do, or in its own way.
    ///
    /// # Errors
    /// Where it has ended, or /proc does not show it to us: then nothing is known.
    pub fn of(proc: &Path, pid: i32, start: u64) -> io::Result<View> {
        let theirs = place(proc, &pid.to_string())?;
        let view = if place(proc, "self")? == theirs { View::Own } else { View::Of { pid, start } };
        is_still(proc, pid, start)?;
        Ok(view)
    }

    /// Opens the root from which paths count.
    ///
    /// # Errors
    /// Where its process has ended.
    pub fn enter(&self, proc: &Path) -> io::Result<Root> {
        let View::Of { pid, start } = *self else { return Ok(Root { fd: None }) };
        let path = proc.join(pid.to_string()).join("root");
        let fd = openat(CWD, &path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        is_still(proc, pid, start)?;
        Ok(Root { fd: Some(fd) })
    }

    /// Whether what was read through its root counts: when a process ends, its mounts go first.
    ///
    /// # Errors
    /// Where it has ended meanwhile.
    pub fn stands(&self, proc: &Path) -> io::Result<()> {
        match *self {
            View::Own => Ok(()),
            View::Of { pid, start } => is_still(proc, pid, start),
        }
    }
}

fn is_still(proc: &Path, pid: i32, start: u64) -> io::Result<()> {
    if start_of(proc, pid) == Some(start) {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("process {pid} has ended")))
}

/// A root from which paths count.
#[derive(Debug)]
pub struct Root {
    /// `None`: ours.
    fd: Option<OwnedFd>,
}

impl Root {
    /// Opens a file for reading.
    ///
    /// # Errors
    /// As `open`; `Unsupported` where the kernel has no openat2.
    pub fn open(&self, path: &Path) -> io::Result<File> {
        match &self.fd {
            None => File::open(path),
            Some(fd) => within(fd, path, OFlags::RDONLY, Mode::empty()),
        }
    }

    /// Makes a file that must not be there yet.
    ///
    /// # Errors
    /// As `open`.
    pub fn create_new(&self, path: &Path) -> io::Result<File> {
        match &self.fd {
            None => OpenOptions::new().write(true).create_new(true).mode(0o666).open(path),
            Some(fd) => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
                within(fd, path, flags, Mode::from_raw_mode(0o666))
            }
        }
    }

    /// What `stat` says of a path.
    ///
    /// # Errors
    /// As `stat`.
    pub fn metadata(&self, path: &Path) -> io::Result<fs::Metadata> {
        match &self.fd {
            None => fs::metadata(path),
            Some(fd) => within(fd, path, OFlags::PATH, Mode::empty())?.metadata(),
        }
    }
}

fn within(root: &OwnedFd, path: &Path, flags: OFlags, mode: Mode) -> io::Result<File> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(root, path, flags | OFlags::CLOEXEC, mode, resolve)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::recorded::{Recorded, SELF_MOUNTS, START};
    use std::io::{Read, Write};
    use std::os::unix::fs::symlink;

    const OTHER_MOUNTS: &str = "mnt:[4026532999]";

    #[test]
    fn a_process_beside_us_sees_what_we_see() {
        let proc = Recorded::new();
        proc.process(7, "qemu-system-x86_64", SELF_MOUNTS, Path::new("/"));
        assert_eq!(View::of(proc.path(), 7, START).unwrap(), View::Own);
    }

    #[test]
    fn a_process_with_its_own_mounts_or_its_own_root_has_its_own_view() {
        let (proc, root) = (Recorded::new(), tempfile::tempdir().unwrap());
        proc.process(7, "libvirtd", OTHER_MOUNTS, Path::new("/"));
        proc.process(8, "libvirtd", SELF_MOUNTS, root.path());
        let of = |pid| View::of(proc.path(), pid, START).unwrap();
        assert_eq!((of(7), of(8)), (View::Of { pid: 7, start: START }, View::Of { pid: 8, start: START }));
    }

    #[test]
    fn a_number_that_was_used_again_shows_nothing() {
        let (proc, root) = (Recorded::new(), tempfile::tempdir().unwrap());
        proc.process(7, "libvirtd", OTHER_MOUNTS, root.path());
        let view = View::Of { pid: 7, start: 1 };
        assert!(View::of(proc.path(), 7, 1).is_err() && view.enter(proc.path()).is_err());
        assert!(view.stands(proc.path()).is_err() && View::Own.stands(proc.path()).is_ok());
        assert!(View::of(proc.path(), 9, START).is_err(), "never seen");
    }

    #[test]
    fn paths_count_from_the_root_of_the_process_also_through_links() {
        let (proc, root) = (Recorded::new(), tempfile::tempdir().unwrap());
        let inside = |path: &str| root.path().join(path);
        fs::create_dir_all(inside("data/real")).unwrap();
        fs::write(inside("data/real/file"), "theirs").unwrap();
        symlink("/data/real", inside("data/link")).unwrap();
        symlink("/../../../etc/hostname", inside("data/up")).unwrap();
        proc.process(7, "libvirtd", OTHER_MOUNTS, root.path());
        let seen = View::of(proc.path(), 7, START).unwrap().enter(proc.path()).unwrap();
        let mut text = String::new();
        seen.open(Path::new("/data/link/file")).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "theirs");
        assert!(seen.open(Path::new("/data/up")).is_err(), "never out of that root");
        seen.create_new(Path::new("/data/new")).unwrap().write_all(b"x").unwrap();
        assert!(inside("data/new").exists() && seen.create_new(Path::new("/data/new")).is_err());
        assert_eq!(seen.metadata(Path::new("/data/new")).unwrap().len(), 1);
    }
}
