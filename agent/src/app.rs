//! Wiring: from a configuration file to a running agent.

use crate::agent::{Agent, Inputs, Parts};
use crate::config::Config;
use crate::hands::Hands;
use crate::host::Identity;
use crate::libvirt::Libvirt;
use crate::markers::Wanted;
use crate::metrics::{self, Meter};
use crate::qemu::{self, Watch};
use crate::spool::Spool;
use crate::state::StateFile;
use crate::tls::Wallet;
use crate::{clock, control, kolla, link, markers, reload, renew};
use anyhow::{Context, Result, anyhow};
use std::path::Path;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Where processes are seen.
const PROC: &str = "/proc";
/// Sensors and links that wait for the loop. They wait when it is full; nothing is lost by that.
const INPUTS: usize = 256;

/// Reads and checks a configuration file.
pub fn read_config(path: &Path) -> Result<Config> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Config::parse(&text).map_err(|problems| anyhow!("{}:\n{problems}", path.display()))
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(path: &Path, config: Config) -> Result<()> {
    let identity = Identity::read(&config.machine_identity)?;
    let wallet = Arc::new(Wallet::open(&config)?);
    let host = wallet.host().to_owned();
    let dir = config.state_dir.clone();
    let state = Arc::new(StateFile::open(&dir, &identity.boot_id)?);
    // Held until the process ends: two agents on one host would each see half of the truth.
    let _lock = lock(&dir)?;
    let stop = CancellationToken::new();
    stop_on_signals(&stop)?;
    tracing::info!(host, boot = identity.boot_id, "medevac-agent {}", env!("CARGO_PKG_VERSION"));
    let libvirt = Libvirt::new(&config.libvirt_uri, config.libvirt_socket.as_deref(), config.call_deadline)
        .map_err(|e| anyhow!("libvirt: {e}"))?;
    kolla::tell();
    let (seen_tx, seen) = mpsc::channel(INPUTS);
    let (reports_tx, reports) = mpsc::channel(INPUTS);
    let (happenings_tx, happenings) = mpsc::channel(INPUTS);
    let (found_tx, found) = mpsc::channel(INPUTS);
    let (control_tx, control) = mpsc::channel(1);
    let (reloads_tx, reloads) = mpsc::channel(1);
    reload::heed_hangups(path.to_owned(), config.clone(), reloads_tx)?;
    let (wanted, wants) = watch::channel(Wanted::default());
    let ready = CancellationToken::new();
    control::listen(&dir, control_tx).context("the control socket cannot be made in the state directory")?;
    tokio::spawn(libvirt.clone().supervise(reports_tx));
    tokio::spawn(markers::run(PROC.into(), wants, libvirt.view(), found_tx));
    for (index, address) in config.aggregators.iter().cloned().enumerate() {
        let (wallet, happenings, stop) = (Arc::clone(&wallet), happenings_tx.clone(), stop.clone());
        let ready = ready.clone();
        tokio::spawn(async move {
            ready.cancelled().await;
            link::run(index, address, wallet, happenings, stop).await;
        });
    }
    let mut live = medevac_metrics::Live::default();
    medevac_metrics::lines_of(&mut live);
    let meter = Arc::new(Meter::new(&mut live));
    let (tls, listen) = (metrics::files(&config), config.metrics.clone());
    let scrape = metrics::Scrape { live, meter: Arc::clone(&meter), tls: tls.clone() };
    tokio::spawn(medevac_metrics::serve(listen, tls, Arc::new(scrape)));
    tokio::spawn(renew::run(config.clone(), host.clone(), stop.clone()));
    let look = Box::new(|uuid: &str| qemu::find(Path::new(PROC), uuid));
    let removed = dir.join("removed");
    let hands =
        Hands::new(Arc::new(libvirt.clone()), look, Arc::clone(&state), &identity.boot_id, clock::boot_ms, removed);
    let spool = Spool::open(&dir, &identity.boot_id, config.spool_max_mib);
    let watch = Watch::start(Path::new(PROC), seen_tx).context("QEMU processes cannot be watched")?;
    let version = libvirt.clone();
    let (agent, ends) = Agent::new(Parts {
        config,
        host,
        identity,
        state,
        spool,
        hypervisor: Arc::new(libvirt),
        version: Box::new(move || version.version()),
        hands,
        watch,
        wanted,
        ready,
        meter,
    });
    agent.run(Inputs { seen, reports, happenings, found, control, reloads, stop }, ends).await;
    Ok(())
}

/// Name of the lock in the state directory.
pub const LOCK: &str = "lock";

/// The lock on the state directory; an agent that runs holds it.
///
/// # Errors
/// Says that another one does.
pub fn lock(dir: &Path) -> Result<std::fs::File> {
    let path = dir.join(LOCK);
    let file = crate::state::private(&path).with_context(|| format!("cannot open {}", path.display()))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| anyhow!("another agent holds {}: stop it first, or name another state_dir", path.display()))?;
    Ok(file)
}

fn stop_on_signals(stop: &CancellationToken) -> Result<()> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind)?;
        let stop = stop.clone();
        tokio::spawn(async move {
            signals.recv().await;
            stop.cancel();
        });
    }
    Ok(())
}
