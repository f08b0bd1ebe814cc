//! Power, through fence agents: levels per host, one pass at a time.
//!
//! ```text
//!   off(host): level 1: off, then status --off?--> answer "off", by this device
//!              level 2: off, then status  ...       (only when level 1 did not prove it)
//!              none:    answer what the last status said, never what an exit code said
//! ```

pub mod subprocess;

use crate::engine::Input;
use crate::ports::Fencer;
use crate::swap::Swap;
use medevac_triage::{FenceAnswer, HostId, Observation, Power, StepId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use subprocess::{Action, Device, Run};
use tokio::sync::{Semaphore, mpsc};

/// Agents at work at the same time: each is a process of its own, some are
/// interpreters of 30 MB.
const AT_ONCE_MAX: usize = 16;

/// The devices of each host, in order.
pub type Devices = BTreeMap<HostId, Vec<Device>>;

/// Fence agents of a site, run as subprocesses.
#[allow(missing_debug_implementations)]
pub struct AgentFencer {
    levels: Arc<Swap<Devices>>,
    runner: Arc<subprocess::Runner>,
    slots: Arc<Semaphore>,
    inbox: mpsc::Sender<Input>,
    runtime: tokio::runtime::Handle,
    /// Orders of earlier starts may be under way until then: nothing is switched on before.
    quiet_until: Instant,
}

impl AgentFencer {
    pub fn new(
        levels: Devices,
        earlier_deadline: Duration,
        inbox: mpsc::Sender<Input>,
        runtime: tokio::runtime::Handle,
    ) -> Self {
        Self {
            levels: Swap::new(levels),
            runner: Arc::new(subprocess::Runner::new()),
            slots: Arc::new(Semaphore::new(AT_ONCE_MAX)),
            inbox,
            runtime,
            quiet_until: Instant::now() + earlier_deadline,
        }
    }

    /// Replaced by a reload: a pass that has begun keeps the devices that it began with.
    pub fn levels(&self) -> Arc<Swap<Devices>> {
        Arc::clone(&self.levels)
    }

    /// Runs one job beside the loop; its answer goes into the inbox.
    fn spawn<F>(&self, host: &HostId, job: impl FnOnce(Levels) -> F + Send + 'static)
    where
        F: Future<Output = Observation> + Send,
    {
        let devices = self.levels.get().get(host).cloned().unwrap_or_default();
        let levels = Levels { devices, runner: Arc::clone(&self.runner) };
        let (slots, inbox) = (Arc::clone(&self.slots), self.inbox.clone());
        self.runtime.spawn(async move {
            let Ok(_slot) = slots.acquire_owned().await else { return };
            let seen = job(levels).await;
            drop(inbox.send(Input::Seen(seen)).await);
        });
    }
}

/// The devices of one host, in order.
struct Levels {
    devices: Vec<Device>,
    runner: Arc<subprocess::Runner>,
}

impl Levels {
    /// Asks each level until one knows.
    async fn read(&self) -> Power {
        for device in &self.devices {
            let (power, _) = self.status(device).await;
            if power != Power::Unknown {
                return power;
            }
        }
        Power::Unknown
    }

    async fn status(&self, device: &Device) -> (Power, String) {
        let run = self.runner.run(device, Action::Status).await;
        (run.power(), run.told())
    }

    /// One pass: off, then status, level by level, until one says off.
    async fn off(&self) -> FenceAnswer {
        let mut answer = FenceAnswer {
            power: Power::Unknown,
            device: String::new(),
            detail: "no fence device is configured for this host: add a [[fence]] entry".into(),
            nothing_sent: true,
        };
        let mut details = Vec::new();
        for device in &self.devices {
            let ordered = self.runner.run(device, Action::Off).await;
            let (power, said) = self.status(device).await;
            details.push(format!("{}: off: {}; status: {said}", device.label(), ordered.told()));
            let sent = !matches!(ordered, Run::NotRun { .. });
            answer = FenceAnswer {
                power,
                device: device.label(),
                detail: String::new(),
                nothing_sent: answer.nothing_sent && !sent,
            };
            if power == Power::Off {
                break;
            }
        }
        if !details.is_empty() {
            answer.detail = details.join(" | ");
        }
        answer
    }

    async fn on(&self) -> (bool, String) {
        let mut details = Vec::new();
        for device in &self.devices {
            let ordered = self.runner.run(device, Action::On).await;
            let (power, said) = self.status(device).await;
            details.push(format!("{}: on: {}; status: {said}", device.label(), ordered.told()));
            if power == Power::On {
                return (true, details.join(" | "));
            }
        }
        let none = "no fence device is configured for this host: switch it on by hand";
        (false, if details.is_empty() { none.into() } else { details.join(" | ") })
    }
}

impl Fencer for AgentFencer {
    fn read_power(&mut self, host: &HostId, read: u64) {
        let name = host.clone();
        self.spawn(host, move |levels| async move {
            Observation::PowerRead { host: name, read, power: levels.read().await }
        });
    }

    fn off(&mut self, step: StepId, host: &HostId) {
        tracing::warn!(code = "MDV-OFF-SENT", %host, %step, "off order on its way to the fence device");
        self.spawn(host, move |levels| async move { Observation::FenceAnswered { step, answer: levels.off().await } });
    }

    fn on(&mut self, host: &HostId) {
        let name = host.clone();
        let wait = self.quiet_until.saturating_duration_since(Instant::now());
        self.spawn(host, move |levels| async move {
            let (done, detail) = if wait.is_zero() {
                levels.on().await
            } else {
                let left = wait.as_secs() + 1;
                (false, format!("an off order of the previous start may still be under way: again in {left} s"))
            };
            Observation::PowerOnAnswered { host: name, done, detail }
        });
    }
}

#[cfg(test)]
#[path = "fence_tests.rs"]
mod tests;
