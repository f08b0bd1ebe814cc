//! Every autostart flag back to libvirt: before the agent is removed from a host.
//!
//! A running agent does it at a person's word, and would take the flags again
//! at once where its site acts. So a package that is removed stops the agent
//! first and comes here without one.

use crate::care;
use crate::config::Config;
use crate::control::{self, Word};
use crate::host::Identity;
use crate::hypervisor::{Domain, Hypervisor};
use crate::libvirt::{Libvirt, Report};
use crate::state::{State, StateFile};
use anyhow::{Result, anyhow, bail};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// libvirtd may be starting on demand; a package's removal must not hang on a dead one.
const LIBVIRT_WITHIN: Duration = Duration::from_secs(15);
/// The supervisor's news while one question is asked.
const REPORTS: usize = 16;

/// Gives back all that is owed, by the running agent or without one; returns a line for each guest.
///
/// # Errors
/// Names what is still owed, and how to give it back by hand.
pub async fn give_back(config: &Config, reason: String) -> Result<Vec<String>> {
    // Never run here: nothing was taken, and nothing shall be made.
    if !config.state_dir.exists() {
        return Ok(Vec::new());
    }
    let Ok(_lock) = crate::app::lock(&config.state_dir) else {
        return Ok(control::say(&config.state_dir, &Word::GiveBack(reason)).await?.lines);
    };
    let identity = Identity::read(&config.machine_identity)?;
    let state = Arc::new(StateFile::open(&config.state_dir, &identity.boot_id)?);
    let libvirt = Libvirt::new(&config.libvirt_uri, config.libvirt_socket.as_deref(), config.call_deadline)
        .map_err(|e| anyhow!("libvirt: {e}"))?;
    // Heard to the end: the connection lasts as long as somebody wants its news.
    let (tell, mut told) = mpsc::channel(REPORTS);
    tokio::spawn(libvirt.clone().supervise(tell));
    let given = match tokio::time::timeout(LIBVIRT_WITHIN, domains(&libvirt, &mut told)).await {
        Ok(domains) => all(&domains?, Arc::new(libvirt), Arc::clone(&state)).await,
        Err(_) => Vec::new(),
    };
    let owed: Vec<_> = state.read().autostart_taken.iter().map(|uuid| format!("\n  virsh autostart {uuid}")).collect();
    if !owed.is_empty() {
        bail!("libvirt did not take these flags; once it answers:{}", owed.concat());
    }
    Ok(given)
}

/// Gives back the flags of these domains, as if the site only observed.
pub async fn all(domains: &[Domain], hypervisor: Arc<dyn Hypervisor>, state: Arc<StateFile>) -> Vec<String> {
    let observing = State { mode: "observe".into(), ..state.read().clone() };
    let steps = care::plan(&observing, domains.iter());
    let guests = care::carry_out(steps, hypervisor, Arc::clone(&state)).await;
    let owed = state.read().autostart_taken.clone();
    let line = |guest: String| match owed.contains(&guest) {
        true => format!("{guest}: still owed, libvirt did not take it"),
        false => format!("{guest}: autostart"),
    };
    guests.into_iter().map(line).collect()
}

/// What libvirt knows, as soon as it answers.
async fn domains(libvirt: &Libvirt, told: &mut mpsc::Receiver<Report>) -> Result<Vec<Domain>> {
    while let Some(report) = told.recv().await {
        if !matches!(report, Report::Lost(_)) {
            return Ok(libvirt.domains().await?);
        }
    }
    bail!("libvirt's supervisor has ended")
}
