//! The configuration is read again at SIGHUP, as from `systemctl reload medevac-agent`.
//!
//! ```text
//!   SIGHUP --> file whole? faults? what only a restart takes? --> the loop goes on with it
//!                                                             '-> refused: all stays, and status shows it
//! ```

use crate::config::Config;
use std::path::{Path, PathBuf};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// What the file came to: all that may change, or why nothing does.
pub type Fresh = Result<Config, String>;

/// Reads the file at each SIGHUP, one after the other; the loop hears of each.
///
/// # Errors
/// When the signal cannot be taken.
pub fn heed_hangups(path: PathBuf, mut running: Config, to: mpsc::Sender<Fresh>) -> std::io::Result<()> {
    let mut hangups = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            let (file, before) = (path.clone(), running.clone());
            let read = tokio::task::spawn_blocking(move || fresh(&file, &before)).await;
            let read = read.unwrap_or_else(|_| Err("it was not read".to_owned()));
            if let Ok(config) = &read {
                running = config.clone();
            }
            if to.send(read).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}

fn fresh(path: &Path, running: &Config) -> Fresh {
    let text = medevac_settings::read_whole(path)?;
    let fresh = Config::parse(&text).map_err(|problems| problems.to_string().replace('\n', "; "))?;
    let keys = restarts(running, &fresh);
    match keys.is_empty() {
        true => Ok(fresh),
        false => Err(format!("only a restart takes another {}; it harms no guest", keys.join(", "))),
    }
}

/// Keys that differ and that are opened once. A test holds this list to the reference.
pub fn restarts(old: &Config, new: &Config) -> Vec<&'static str> {
    let differ = [
        ("aggregators", old.aggregators != new.aggregators),
        ("insecure_plaintext, host or [tls]", old.transport != new.transport),
        ("state_dir", old.state_dir != new.state_dir),
        ("machine_identity", old.machine_identity != new.machine_identity),
        (
            "[libvirt]",
            (&old.libvirt_uri, &old.libvirt_socket, old.call_deadline)
                != (&new.libvirt_uri, &new.libvirt_socket, new.call_deadline),
        ),
        ("[metrics]", old.metrics != new.metrics),
    ];
    differ.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "aggregators = [\"https://10.0.0.1\"]\n";

    #[test]
    fn what_is_opened_once_is_refused_by_name_and_the_rest_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        let running = Config::parse(TEXT).unwrap();
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            fresh(&path, &running)
        };
        let taken = read(&format!("{TEXT}[planes]\nmgmt = \"10.0.0.11\"\n[spool]\nmax_mib = 8\n")).unwrap();
        assert_eq!((taken.planes.len(), taken.spool_max_mib), (1, 8));
        for (text, part) in [
            ("aggregators = [\"https://10.0.0.2\"]\n".to_owned(), "another aggregators"),
            (format!("{TEXT}[libvirt]\nuri = \"test:///default\"\n"), "[libvirt]"),
            (format!("{TEXT}[spool]\nmax_mib = 0\n"), "from 1 to 1024"),
            (format!("{TEXT}[spol]\n"), "did you mean \"spool\""),
            (format!("{TEXT}[spool]\nmax_mib = 8"), "has no end"),
        ] {
            let why = read(&text).unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
        }
    }
}
