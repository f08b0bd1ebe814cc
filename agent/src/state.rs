//! What the agent must not forget: one small JSON file, replaced as a whole.
//!
//! ```text
//!   change -> state.json.new -> fsync -> rename over state.json -> fsync of the directory
//! ```
//!
//! A change counts only once it is on disk: whoever acts on an epoch or a
//! command writes first. A file that cannot be read ends the agent with a
//! message: guessing here could obey an aggregator that was replaced. A disk
//! that takes nothing ends nothing: it is said, and orders are refused by name.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Earlier boots that a hello names: enough for a host that rebooted again and
/// again while no aggregator listened.
const EARLIER_BOOTS_MAX: usize = 16;

/// Results kept for commands that come twice. More than a plan for any one host has steps.
const COMMANDS_MAX: usize = 4096;
/// Guests that came by migration and were seen running; far above what one host holds.
const HAS_RUN_MAX: usize = 4096;

/// Less room than this is as good as none: the file is replaced as a whole, and
/// holds the results of thousands of commands at most.
const ROOM_MIN_BYTES: u64 = 4 << 20;

/// Why the state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("cannot {what} {path}: {source}; check the disk and the rights of the state directory")]
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error(
        "{path} is damaged ({source}); move it away and restart: the agent then joins as new and refuses no older aggregator"
    )]
    Damaged { path: PathBuf, source: serde_json::Error },
}

/// The epoch of a decider: a number, and one random word per start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    pub number: u64,
    pub start_id: String,
}

/// A command that was begun, and how it ended if it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    pub id: String,
    pub boot_id: String,
    /// `None`: begun, and no word of its end. After a restart that means unknown.
    pub result: Option<Ended>,
}

/// The first result of a command, which every repetition gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Number of the outcome on the wire.
    pub outcome: i32,
    pub reason: String,
    pub detail: String,
}

/// The content of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// The site this agent belongs to; empty before the first welcome.
    pub site: String,
    /// Highest epoch met; older ones are refused.
    pub epoch: Option<Epoch>,
    pub boot_id: String,
    pub previous_boot_id: String,
    /// Boots before this one, newest first.
    pub earlier_boot_ids: VecDeque<String>,
    /// Mode of the last care: "observe", "approve" or "act".
    pub mode: String,
    pub protected: BTreeSet<String>,
    pub storage_directories: Vec<String>,
    /// Guests of this boot wait for a word.
    pub held: bool,
    /// Guests whose autostart flag the agent cleared and owes back.
    pub autostart_taken: BTreeSet<String>,
    /// Guests that run, with pid and start time; after a restart, those that ran before it.
    pub ran: BTreeMap<String, (i32, u64)>,
    /// Guests that ended, with pid and start time, and whose reason libvirt has not told.
    pub owed: BTreeMap<String, (i32, u64)>,
    /// Guests that ran when the host went down.
    pub ran_before_boot: BTreeSet<String>,
    /// Guests that the aggregator said to leave alone, with its reason.
    pub left: BTreeMap<String, String>,
    /// QEMU processes started to receive a migration that have run since: "uuid/pid/start".
    pub has_run: BTreeSet<String>,
    pub commands: VecDeque<Begun>,
}

impl State {
    /// Takes note of the boot we are in. In a new boot, guests of a site that acts are held.
    fn enter_boot(&mut self, boot_id: &str) {
        if self.boot_id == boot_id {
            return;
        }
        self.previous_boot_id = std::mem::replace(&mut self.boot_id, boot_id.to_owned());
        if !self.previous_boot_id.is_empty() {
            self.earlier_boot_ids.push_front(self.previous_boot_id.clone());
            self.earlier_boot_ids.truncate(EARLIER_BOOTS_MAX);
        }
        self.held = !self.previous_boot_id.is_empty() && self.acts();
        self.ran_before_boot = std::mem::take(&mut self.ran).into_keys().collect();
        self.left.clear();
        self.owed.clear();
        self.has_run.clear();
    }

    /// Whether the site's mode lets the agent touch anything.
    pub fn acts(&self) -> bool {
        matches!(self.mode.as_str(), "approve" | "act")
    }

    /// Whether an epoch is above the highest one recorded.
    pub fn is_older_than(&self, epoch: &Epoch) -> bool {
        self.epoch.as_ref().is_none_or(|own| own.number < epoch.number)
    }

    /// What is known of a command id.
    pub fn command(&self, id: &str) -> Option<&Begun> {
        self.commands.iter().find(|c| c.id == id)
    }

    /// Records that a command begins, or its end where it is known already.
    pub fn set_command(&mut self, id: &str, boot_id: &str, result: Option<Ended>) {
        if let Some(known) = self.commands.iter_mut().find(|c| c.id == id) {
            known.result = result;
            return;
        }
        while self.commands.len() >= COMMANDS_MAX {
            self.commands.pop_front();
        }
        self.commands.push_back(Begun { id: id.to_owned(), boot_id: boot_id.to_owned(), result });
    }

    /// Remembers that a process started for a migration has run.
    pub fn set_has_run(&mut self, key: String) {
        if self.has_run.len() >= HAS_RUN_MAX {
            self.has_run.pop_first();
        }
        self.has_run.insert(key);
    }
}

/// The file, and the state as it is on disk.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    state: Mutex<State>,
    /// One writer at a time; readers see the old state until the new one is on disk.
    writer: Mutex<()>,
    /// The disk did not take the latest change.
    refused: AtomicBool,
}

impl StateFile {
    /// Reads `DIR/state.json`, or starts an empty one, and takes note of this boot.
    pub fn open(dir: &Path, boot_id: &str) -> Result<StateFile, StateError> {
        fs::create_dir_all(dir).map_err(|source| StateError::Io { what: "create", path: dir.into(), source })?;
        // Domains' XML and what they hold is nobody else's to read.
        let private = fs::Permissions::from_mode(0o700);
        fs::set_permissions(dir, private).map_err(|source| StateError::Io {
            what: "protect",
            path: dir.into(),
            source,
        })?;
        let path = dir.join("state.json");
        let state = match fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|source| StateError::Damaged { path: path.clone(), source })?
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => State::default(),
            Err(source) => {
                return Err(StateError::Io { what: "read", path, source });
            }
        };
        let file =
            StateFile { path, state: Mutex::new(state), writer: Mutex::new(()), refused: AtomicBool::new(false) };
        file.change(|s| s.enter_boot(boot_id))?;
        Ok(file)
    }

    /// The state as it is on disk.
    pub fn read(&self) -> MutexGuard<'_, State> {
        // A panic while reading leaves the state whole: it is only ever replaced.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies a change and returns once it is on disk. Nothing is written when nothing changes.
    ///
    /// # Errors
    /// The change has not happened then, neither here nor on disk.
    pub fn change(&self, apply: impl FnOnce(&mut State)) -> Result<(), StateError> {
        let _one = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = self.read().clone();
        apply(&mut next);
        if *self.read() == next && self.path.exists() {
            return Ok(());
        }
        self.write(&next)?;
        *self.read() = next;
        Ok(())
    }

    /// The latest change was not taken by the disk.
    pub fn is_refused(&self) -> bool {
        self.refused.load(Ordering::SeqCst)
    }

    /// Whether the disk takes changes, and has room for more.
    pub fn has_room(&self) -> bool {
        let free = rustix::fs::statvfs(self.directory()).map(|disk| disk.f_bfree.saturating_mul(disk.f_frsize));
        !self.is_refused() && free.is_ok_and(|free| free >= ROOM_MIN_BYTES)
    }

    /// Where it lies.
    pub fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    /// Writes the state as it is: whether the disk takes changes again.
    ///
    /// # Errors
    /// When it still takes none.
    pub fn settle(&self) -> Result<(), StateError> {
        let _one = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.read().clone();
        self.write(&state)
    }

    fn write(&self, state: &State) -> Result<(), StateError> {
        let result = self.replace(state);
        let refused = result.is_err();
        // Told when it begins and when it ends, however often it is tried in between.
        match (&result, self.refused.swap(refused, Ordering::SeqCst)) {
            (Err(e), false) => tracing::error!(code = "MDV-STATE-DISK", "no order is begun until this is over: {e}"),
            (Ok(()), true) => tracing::info!(code = "MDV-STATE-DISK", "the state is on disk again"),
            _ => {}
        }
        result
    }

    fn replace(&self, state: &State) -> Result<(), StateError> {
        let new = self.path.with_extension("json.new");
        let fail = |what, path: &Path| {
            let path = path.to_owned();
            move |source| StateError::Io { what, path, source }
        };
        let bytes =
            serde_json::to_vec(state).map_err(|source| StateError::Damaged { path: self.path.clone(), source })?;
        let mut file = private(&new).map_err(fail("create", &new))?;
        // A half-written one would only take the room that is missing.
        let written =
            file.write_all(&bytes).and_then(|()| file.sync_all()).inspect_err(|_| drop(fs::remove_file(&new)));
        written.map_err(fail("write", &new))?;
        fs::rename(&new, &self.path).map_err(fail("replace", &self.path))?;
        let dir = self.directory();
        File::open(dir).and_then(|d| d.sync_all()).map_err(fail("sync", dir))
    }
}

/// A new empty file that only root reads.
pub(crate) fn private(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path, boot: &str) -> StateFile {
        StateFile::open(dir, boot).unwrap()
    }

    #[test]
    fn the_state_survives_a_restart_within_one_boot() {
        let dir = tempfile::tempdir().unwrap();
        let epoch = Epoch { number: 7, start_id: "x".into() };
        let first = open(dir.path(), "b1");
        first.change(|s| (s.epoch, s.mode) = (Some(epoch.clone()), "act".into())).unwrap();
        drop(first);
        let again = open(dir.path(), "b1");
        assert_eq!(again.read().epoch, Some(epoch));
        assert!(!again.read().held, "a restart of the agent is no boot");
    }

    #[test]
    fn a_new_boot_of_a_site_that_acts_is_held() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path(), "b1").change(|s| s.mode = "approve".into()).unwrap();
        let s = open(dir.path(), "b2");
        assert!(s.read().held);
        assert_eq!(s.read().previous_boot_id, "b1");
        drop(s);
        assert!(open(dir.path(), "b2").read().held, "until released");
    }

    #[test]
    fn nothing_is_held_in_observe_nor_at_the_first_boot_ever() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!open(dir.path(), "b1").read().held);
        open(dir.path(), "b1").change(|s| s.mode = "observe".into()).unwrap();
        assert!(!open(dir.path(), "b2").read().held);
    }

    #[test]
    fn guests_that_ran_before_the_boot_are_remembered() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path(), "b1").change(|s| s.ran = [("g1".to_owned(), (1, 2))].into()).unwrap();
        let s = open(dir.path(), "b2");
        assert!(s.read().ran_before_boot.contains("g1") && s.read().ran.is_empty());
    }

    #[test]
    fn the_log_of_commands_is_bounded_and_keeps_the_latest() {
        let mut s = State::default();
        (0..COMMANDS_MAX + 3).for_each(|i| s.set_command(&i.to_string(), "b", None));
        assert_eq!(s.commands.len(), COMMANDS_MAX);
        assert!(s.command("2").is_none() && s.command("3").is_some());
    }

    #[test]
    fn a_damaged_file_is_refused_with_a_way_out() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("state.json"), b"{\"site\":").unwrap();
        let e = StateFile::open(dir.path(), "b1").unwrap_err().to_string();
        assert!(e.contains("move it away"), "{e}");
    }

    #[test]
    fn a_change_that_cannot_be_written_has_not_happened() {
        let dir = tempfile::tempdir().unwrap();
        let s = open(dir.path(), "b1");
        fs::remove_dir_all(dir.path()).unwrap();
        assert!(s.change(|s| s.site = "other".into()).is_err());
        assert_eq!(s.read().site, "");
    }

    #[test]
    fn a_disk_that_refuses_is_remembered_until_it_takes_the_state_again() {
        let dir = tempfile::tempdir().unwrap();
        let s = open(dir.path(), "b1");
        assert!(s.has_room() && !s.is_refused());
        // A directory in the way of the draft: as good as a full disk, also for root.
        fs::create_dir(dir.path().join("state.json.new")).unwrap();
        assert!(s.change(|s| s.held = true).is_err());
        assert!(s.is_refused() && !s.has_room() && s.settle().is_err());
        fs::remove_dir(dir.path().join("state.json.new")).unwrap();
        s.settle().unwrap();
        assert!(!s.is_refused() && s.has_room() && !s.read().held, "what was refused has not happened");
    }
}
