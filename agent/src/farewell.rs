//! Waiting for the agent's goodbye while this host goes down: what stands between the agent and libvirt-guests.
//!
//! ```text
//!   boot:      medevac-agent --> [hold] libvirt-guests --> medevac-goodbye
//!   shutdown:  medevac-agent says goodbye, ends --> medevac-goodbye ends --> libvirt-guests stops guests
//! ```
//!
//! libvirt-guests has to start after the agent (it waits for the hold) and to stop after it, too
//! (the goodbye names who ran). No order of two units says that; a third one between them does.

use crate::{app, gate, host};
use std::path::Path;
use std::time::Duration;

/// An agent that stops is gone within a second; nova-compute before it may take longer.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Returns at once unless this host is going down; else when the agent has ended.
pub async fn wait(config: &Path) {
    if !host::is_shutting_down_for_sure().await {
        return;
    }
    let Some(dir) = gate::state_dir(config) else { return };
    // An agent that runs holds the lock; where there is no lock, none ever ran.
    while dir.join(app::LOCK).exists() && app::lock(&dir).is_err() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
