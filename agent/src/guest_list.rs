//! The list by which libvirt-guests starts guests at boot, without those that medevac looks after.
//!
//! ```text
//!   shutdown: libvirt-guests writes down who ran --------------------------> LIST
//!   boot:     the gate opens (gate.rs) --> protected guests leave LIST --> libvirt-guests starts the others
//! ```
//!
//! A protected guest of that list runs elsewhere by now, or was started here by the aggregator's
//! word, or is left alone for a reason. Only the first start in a boot is about the boot before it:
//! whoever restarts libvirt-guests later finds the list that was written in this boot, whole.

use crate::state::State;
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

/// Where libvirt-guests keeps it, on every distribution.
const LIST: &str = "/var/lib/libvirt/libvirt-guests";
/// Lies where every boot begins with nothing.
const DONE: &str = "/run/medevac/libvirt-guests-list";

/// It is started at boot, and so stops guests at a shutdown.
const ENABLED: &str = "etc/systemd/system/multi-user.target.wants/libvirt-guests.service";
/// What it does where nobody has said anything, on EL and on Debian.
const SCRIPTS: [&str; 2] = ["usr/libexec/libvirt-guests.sh", "usr/lib/libvirt/libvirt-guests.sh"];
/// What it reads, on Debian and on EL.
const SETTINGS: [&str; 2] = ["etc/default/libvirt-guests", "etc/sysconfig/libvirt-guests"];

/// Whether libvirt-guests saves guests to disk when this host goes down. Nobody would start these
/// after the boot: they are off its list, and medevac restores no memory onto a disk that may have changed.
pub fn saves_guests(root: &Path) -> bool {
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    // In the script only what begins a line is said of every run.
    let default = SCRIPTS.map(read).concat().lines().find_map(|line| line.strip_prefix("ON_SHUTDOWN=").map(unquoted));
    let chosen = setting(&SETTINGS.map(read).join("\n"), "ON_SHUTDOWN");
    root.join(ENABLED).exists() && chosen.or(default).is_some_and(|word| word == "suspend")
}

/// The last word of such a file about a key.
pub fn setting(settings: &str, key: &str) -> Option<String> {
    let of_key = |line: &str| line.trim().strip_prefix(key)?.strip_prefix('=').map(unquoted);
    settings.lines().filter_map(of_key).next_back()
}

fn unquoted(word: &str) -> String {
    word.trim_matches(['"', '\'', ' ']).to_owned()
}

/// Takes protected guests out of the list of the boot before this one; returns who they are.
///
/// # Errors
/// The list is as it was: libvirt-guests must not start by it.
pub fn take_out(state: &State) -> io::Result<Vec<String>> {
    match state.acts() {
        true => take_out_of(Path::new(LIST), Path::new(DONE), &state.protected),
        false => Ok(Vec::new()),
    }
}

fn take_out_of(list: &Path, done: &Path, protected: &BTreeSet<String>) -> io::Result<Vec<String>> {
    if done.exists() {
        return Ok(Vec::new());
    }
    let taken = match fs::read_to_string(list) {
        Ok(text) => {
            let (rest, taken) = without(&text, protected);
            if !taken.is_empty() {
                replace(list, &rest)?;
            }
            taken
        }
        Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
        Err(e) => return Err(e),
    };
    done.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::write(done, "")?;
    Ok(taken)
}

/// Lines of `URI UUID UUID ...`; one of which nobody is left goes.
fn without(text: &str, protected: &BTreeSet<String>) -> (String, Vec<String>) {
    let (mut rest, mut taken) = (String::new(), Vec::new());
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let uri = words.next().unwrap_or_default();
        let (ours, theirs): (Vec<_>, Vec<_>) = words.partition(|uuid| protected.contains(&uuid.to_lowercase()));
        taken.extend(ours.into_iter().map(str::to_owned));
        if !theirs.is_empty() {
            rest.push_str(&format!("{uri} {}\n", theirs.join(" ")));
        }
    }
    (rest, taken)
}

fn replace(list: &Path, text: &str) -> io::Result<()> {
    if text.is_empty() {
        return fs::remove_file(list);
    }
    let new = list.with_extension("medevac");
    fs::write(&new, text)?;
    fs::rename(&new, list)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "aaaaaaaa-0000-4000-8000-000000000001";
    const THEIRS: &str = "bbbbbbbb-0000-4000-8000-000000000002";

    fn protected() -> BTreeSet<String> {
        [OURS.to_owned()].into()
    }

    #[test]
    fn protected_guests_leave_the_list_and_others_stay() {
        let text = format!("default {OURS} {THEIRS}\nxen:///system {OURS}\n");
        let (rest, taken) = without(&text, &protected());
        assert_eq!(rest, format!("default {THEIRS}\n"));
        assert_eq!(taken, [OURS, OURS]);
    }

    #[test]
    fn only_the_first_start_in_a_boot_is_about_the_boot_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let (list, done) = (dir.path().join("libvirt-guests"), dir.path().join("run/medevac/list"));
        fs::write(&list, format!("default {OURS}\n")).unwrap();
        assert_eq!(take_out_of(&list, &done, &protected()).unwrap(), [OURS]);
        assert!(!list.exists(), "an empty list is none");
        fs::write(&list, format!("default {OURS}\n")).unwrap();
        assert!(take_out_of(&list, &done, &protected()).unwrap().is_empty());
        assert!(list.exists(), "a restart of libvirt-guests is its operator's own affair");
    }

    #[test]
    fn a_list_that_cannot_be_changed_is_a_failure_and_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let (list, done) = (dir.path().join("libvirt-guests"), dir.path().join("done"));
        fs::write(&list, format!("default {OURS} {THEIRS}\n")).unwrap();
        // A directory in the way of the draft: as good as a full disk, also for root.
        fs::create_dir(dir.path().join("libvirt-guests.medevac")).unwrap();
        assert!(take_out_of(&list, &done, &protected()).is_err() && !done.exists());
    }

    #[test]
    fn a_libvirt_guests_that_saves_guests_is_known_by_its_settings_or_its_own_default() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let saves = || saves_guests(dir.path());
        write(SCRIPTS[0], "ON_SHUTDOWN=\"suspend\"\ncase\n    shutdown)\n        ON_SHUTDOWN=\"shutdown\"\n");
        assert!(!saves(), "it is not enabled");
        write(ENABLED, "");
        assert!(saves());
        write(SETTINGS[1], "#ON_SHUTDOWN=suspend\nON_SHUTDOWN=shutdown\n");
        assert!(!saves());
        write(SETTINGS[1], "ON_SHUTDOWN='suspend'\n");
        write(SCRIPTS[0], "ON_SHUTDOWN=\"shutdown\"\n");
        assert!(saves());
    }

    #[test]
    fn nothing_is_taken_out_where_the_site_only_observes() {
        let state = State { mode: "observe".into(), protected: protected(), ..State::default() };
        assert!(take_out(&state).unwrap().is_empty());
    }
}
