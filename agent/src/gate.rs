//! The gate before nova-compute and libvirt-guests: shut while the guests of this boot are held.
//!
//! ```text
//!   boot --> nova-compute.service --ExecStartPre--> medevac-agent wait-release --> nova-compute
//!                                                          | looks at state.json
//!   medevac-agent: hold ends (an order, or a person's word) +
//! ```
//!
//! nova-compute would start a server that is being evacuated, or destroy the
//! copy of one whose evacuation then fails. So it waits until the agent has
//! been told that none is under way. libvirt-guests would start whoever ran before the boot
//! (`guest_list` says what it then does not). The gate reads the agent's file and needs
//! no running agent to open: a hold that has ended stays ended in this boot.
//! The package brings this gate to hosts that nobody has joined yet: of the
//! configuration only the place of that file matters, and nothing else wrong
//! with it shuts the gate.

use crate::state::State;
use crate::{config, host};
use medevac_settings::Reader;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the agent must not forget, in its state directory.
const STATE: &str = "state.json";
/// The file is small and this is a local read.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The console says again why nova-compute waits.
const SAY_EVERY: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate {
    Open,
    /// Why, and what ends it.
    Shut(String),
}

/// Whether the guests of this boot may be started, by the file in the state directory that is configured.
fn look_by(config: &Path) -> Gate {
    match (configured(config), host::boot_id()) {
        (Ok(Some(dir)), Ok(boot_id)) => look(&dir, &boot_id),
        // Nobody has set up an agent here.
        (Ok(None), _) => Gate::Open,
        (Err(why), _) => Gate::Shut(format!("{}: {why}", config.display())),
        (_, Err(e)) => Gate::Shut(e.to_string()),
    }
}

/// The state directory, of whatever configuration there is; `None` where there is none.
fn configured(config: &Path) -> Result<Option<PathBuf>, String> {
    let text = match std::fs::read_to_string(config) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.to_string()),
    };
    let mut reader = Reader::parse(&text).map_err(|_| "not TOML: medevac-agent --check-config".to_owned())?;
    Ok(Some(reader.path("state_dir", Some(config::STATE_DIR))))
}

/// The same, where whoever asks can do nothing about a fault.
pub fn state_dir(config: &Path) -> Option<PathBuf> {
    configured(config).ok().flatten()
}

/// What the agent last knew; `None` where none ever ran. Asked once the gate is open.
pub fn state(config: &Path) -> Option<State> {
    let bytes = std::fs::read(state_dir(config)?.join(STATE)).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// The same, by that directory.
pub fn look(state_dir: &Path, boot_id: &str) -> Gate {
    let path = state_dir.join(STATE);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        // Never run here: there is nothing to hold.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Gate::Open,
        Err(e) => return Gate::Shut(format!("{} cannot be read: {e}", path.display())),
    };
    match serde_json::from_slice::<State>(&bytes) {
        Ok(state) => judge(&state, boot_id),
        Err(e) => Gate::Shut(format!("{} is damaged ({e}): move it away", path.display())),
    }
}

fn judge(state: &State, boot_id: &str) -> Gate {
    let waits = "the aggregator has not said yet that none of its servers is being evacuated";
    match (state.boot_id == boot_id, state.held) {
        (true, false) => Gate::Open,
        (true, true) => {
            Gate::Shut(format!("{waits}; without one: medevac-agent release --reason '...' once none runs elsewhere"))
        }
        (false, _) if state.boot_id.is_empty() || !state.acts() => Gate::Open,
        (false, _) => {
            Gate::Shut("medevac-agent has not run in this boot yet: systemctl status medevac-agent".to_owned())
        }
    }
}

/// Returns once the gate is open; says every half minute why it is shut.
pub fn wait(config: &Path) {
    let mut told = None::<std::time::Instant>;
    while let Gate::Shut(why) = look_by(config) {
        if told.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
            eprintln!("the servers of this host are held: {why}");
            told = Some(std::time::Instant::now());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::StateFile;

    fn joined(mode: &str) -> (tempfile::TempDir, StateFile) {
        let dir = tempfile::tempdir().unwrap();
        let file = StateFile::open(dir.path(), "b1").unwrap();
        file.change(|state| state.mode = mode.to_owned()).unwrap();
        (dir, file)
    }

    #[test]
    fn a_host_on_which_no_agent_ever_ran_holds_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(look(dir.path(), "b1"), Gate::Open);
    }

    #[test]
    fn the_first_boot_with_an_agent_holds_nothing() {
        let (dir, _file) = joined("act");
        assert_eq!(look(dir.path(), "b1"), Gate::Open);
    }

    #[test]
    fn a_new_boot_is_shut_before_its_agent_runs_and_until_the_hold_ends() {
        let (dir, _) = joined("act");
        assert!(matches!(look(dir.path(), "b2"), Gate::Shut(why) if why.contains("has not run in this boot")));
        let file = StateFile::open(dir.path(), "b2").unwrap();
        assert!(matches!(look(dir.path(), "b2"), Gate::Shut(why) if why.contains("being evacuated")));
        file.change(|state| state.held = false).unwrap();
        assert_eq!(look(dir.path(), "b2"), Gate::Open);
    }

    #[test]
    fn a_site_in_observe_is_never_held_up() {
        let (dir, _file) = joined("observe");
        assert_eq!(look(dir.path(), "b2"), Gate::Open);
    }

    #[test]
    fn a_host_that_nobody_has_set_up_holds_nothing_whatever_its_configuration_lacks() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("agent.toml");
        assert_eq!(look_by(&config), Gate::Open);
        std::fs::write(&config, format!("state_dir = {:?}\n", dir.path())).unwrap();
        assert_eq!(look_by(&config), Gate::Open);
    }

    #[test]
    fn a_faulty_configuration_still_says_where_the_hold_is() {
        let (dir, _file) = joined("act");
        let config = dir.path().join("agent.toml");
        std::fs::write(&config, format!("state_dir = {:?}\nno_such_key = 1\n", dir.path())).unwrap();
        assert!(matches!(look_by(&config), Gate::Shut(why) if why.contains("has not run in this boot")));
        std::fs::write(&config, "state_dir = \n").unwrap();
        assert!(matches!(look_by(&config), Gate::Shut(why) if why.contains("not TOML")));
    }

    #[test]
    fn a_damaged_file_is_no_reason_to_start() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("state.json"), "{").unwrap();
        assert!(matches!(look(dir.path(), "b1"), Gate::Shut(why) if why.contains("damaged")));
    }
}
