//! Our own eyes: they can save a host, never condemn it.

use crate::engine::Input;
use crate::ports::{Looker, ProbeKeys, REFERENCE_PLANE, Sight};
use crate::swap::Swap;
use medevac_probe::{Answer, Key, Outcome, Target};
use medevac_triage::{
    BootId, HostId, Observation, PlaneId, ProbeAnswer, ProbeReport, ProbeResult, ProbeTarget, Vantage,
};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};

/// Rounds at the same time. One lasts less than the time to the next; a
/// stalled machine must not pile them up.
const ROUNDS_MAX: usize = 4;

/// Probes hosts and reference addresses from where the aggregator runs.
#[allow(missing_debug_implementations)]
pub struct OwnEyes {
    keys: Arc<dyn ProbeKeys>,
    sight: Arc<Swap<Sight>>,
    inbox: mpsc::Sender<Input>,
    runtime: tokio::runtime::Handle,
    rounds: Arc<Semaphore>,
}

impl OwnEyes {
    pub fn new(
        keys: Arc<dyn ProbeKeys>,
        sight: Arc<Swap<Sight>>,
        inbox: mpsc::Sender<Input>,
        runtime: tokio::runtime::Handle,
    ) -> Self {
        Self { keys, sight, inbox, runtime, rounds: Arc::new(Semaphore::new(ROUNDS_MAX)) }
    }

    fn target(&self, host: HostId, planes: BTreeMap<PlaneId, String>) -> Target {
        let parsed = planes.into_iter().filter_map(|(plane, address)| Some((plane.0, address.parse::<IpAddr>().ok()?)));
        let (key, sight) = (self.keys.key_of(&host), self.sight.get());
        Target {
            key: Some(key).filter(|key| !key.is_empty()).and_then(|key| Key::new(&key)),
            host: host.0,
            planes: parsed.collect(),
            banner_ports: sight.banner_ports.clone(),
            port: sight.port,
        }
    }
}

impl Looker for OwnEyes {
    fn probe(&mut self, round: u64, targets: BTreeMap<HostId, BTreeMap<PlaneId, String>>, references: Vec<String>) {
        let Ok(slot) = Arc::clone(&self.rounds).try_acquire_owned() else {
            tracing::warn!(
                code = "MDV-LOOK-BUSY",
                round,
                "a round of probes was left out: the ones before it have not ended"
            );
            return;
        };
        let targets: Vec<_> = targets.into_iter().map(|(host, planes)| self.target(host, planes)).collect();
        let (inbox, deadline) = (self.inbox.clone(), self.sight.get().deadline);
        self.runtime.spawn(async move {
            let hosts = targets.iter().map(|target| medevac_probe::probe(target, deadline));
            let gates = references.iter().map(|address| reference(address, deadline));
            let (hosts, gates) = futures::join!(futures::future::join_all(hosts), futures::future::join_all(gates));
            let mut results: Vec<_> = hosts.into_iter().flatten().map(result).collect();
            results.extend(gates);
            let report = ProbeReport { round, from: Vantage::Own, results };
            drop(inbox.send(Input::Seen(Observation::ProbeReported(report))).await);
            drop(slot);
        });
    }
}

fn result(outcome: Outcome) -> ProbeResult {
    ProbeResult {
        target: ProbeTarget::Host(HostId(outcome.host)),
        plane: PlaneId(outcome.plane),
        answer: match outcome.answer {
            Answer::Nothing => ProbeAnswer::Nothing,
            Answer::KernelOnly => ProbeAnswer::KernelOnly,
            Answer::UserSpace => ProbeAnswer::UserSpace,
        },
        boot: Some(outcome.boot_id).filter(|boot| !boot.is_empty()).map(BootId),
        banner: outcome.banner,
    }
}

/// Any answer of a reference address is one: it is asked whether the network is there.
async fn reference(address: &str, deadline: Duration) -> ProbeResult {
    let reached = match address.parse::<IpAddr>() {
        Ok(ip) => medevac_probe::reach(ip, deadline).await,
        Err(_) => false,
    };
    ProbeResult {
        target: ProbeTarget::Reference(address.to_owned()),
        plane: PlaneId::from(REFERENCE_PLANE),
        answer: if reached { ProbeAnswer::KernelOnly } else { ProbeAnswer::Nothing },
        boot: None,
        banner: false,
    }
}
