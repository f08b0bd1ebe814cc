//! A /proc as a test wants it, in a folder of its own: what the kernel shows of a few processes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// The mount namespace of whoever looks.
pub(crate) const SELF_MOUNTS: &str = "mnt:[4026531840]";
/// When every recorded process started.
pub(crate) const START: u64 = 4242;

pub(crate) struct Recorded {
    dir: tempfile::TempDir,
}

impl Recorded {
    pub(crate) fn new() -> Recorded {
        let recorded = Recorded { dir: tempfile::tempdir().unwrap() };
        recorded.places("self", SELF_MOUNTS, Path::new("/"));
        recorded
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    fn places(&self, pid: &str, mounts: &str, root: &Path) {
        let dir = self.path().join(pid);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("ns")).unwrap();
        symlink(mounts, dir.join("ns/mnt")).unwrap();
        symlink(root, dir.join("root")).unwrap();
    }

    /// A process by the name of its program, in a mount namespace, with a root.
    pub(crate) fn process(&self, pid: i32, program: &str, mounts: &str, root: &Path) {
        self.places(&pid.to_string(), mounts, root);
        symlink(format!("/usr/sbin/{program}"), self.path().join(format!("{pid}/exe"))).unwrap();
        self.runs(pid, "S", &[program]);
    }

    /// What it runs, and in which state it is.
    pub(crate) fn runs(&self, pid: i32, state: &str, arguments: &[&str]) {
        let dir = self.path().join(pid.to_string());
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("cmdline"), arguments.join("\0")).unwrap();
        let rest = "1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0";
        fs::write(dir.join("stat"), format!("{pid} (a) b) {state} {rest} {START} 99")).unwrap();
    }

    /// It has ended.
    pub(crate) fn ends(&self, pid: i32) {
        fs::remove_dir_all(self.path().join(pid.to_string())).unwrap();
    }
}
