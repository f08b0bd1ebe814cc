//! Power, through fence agents: levels per host, one pass at a time.
//!
//! ```text
//!   off(host): level 1: off, then status --off?--> answer "off", by this device
//!              level 2: off, then status  ...       (only when level 1 did not prove it)
//!              none:    answer what the last status said, never what an exit code said
//! ```
//!
//! Orders come first: they never wait behind looks, and end a look at the same
//! host. Looks at healthy hosts are few at a time, and one a host.

pub mod subprocess;

use crate::engine::Input;
use crate::ports::Fencer;
use crate::swap::Swap;
use medevac_triage::{FenceAnswer, HostId, Look, Observation, Power, SegmentId, StepId, Through};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use subprocess::{Action, Device, Run};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;

/// Agents at work at the same time: each is a process of its own, some are
/// interpreters of 30 MB.
const AT_ONCE_MAX: usize = 16;
/// Looks at healthy hosts at the same time: a site's controllers may all be out of reach, each for its whole deadline.
const CALM_MAX: usize = 4;

/// What the configuration says of devices, taken and replaced as one.
#[derive(Clone, Debug, Default)]
pub struct Devices {
    /// Of each host that it names, in order.
    pub levels: BTreeMap<HostId, Vec<Device>>,
    /// What those of a segment's other hosts have in common.
    pub templates: BTreeMap<SegmentId, Device>,
}

/// Fence agents of a site, run as subprocesses.
#[allow(missing_debug_implementations)]
pub struct AgentFencer {
    devices: Arc<Swap<Devices>>,
    runner: Arc<subprocess::Runner>,
    orders: Arc<Semaphore>,
    urgent: Arc<Semaphore>,
    calm: Arc<Semaphore>,
    /// Looks at healthy hosts that wait or run.
    looking: BTreeMap<HostId, AbortHandle>,
    inbox: mpsc::Sender<Input>,
    runtime: tokio::runtime::Handle,
    /// Orders of earlier starts may be under way until then: nothing is switched on before.
    quiet_until: Instant,
}

impl AgentFencer {
    pub fn new(
        devices: Devices,
        earlier_deadline: Duration,
        inbox: mpsc::Sender<Input>,
        runtime: tokio::runtime::Handle,
    ) -> Self {
        Self {
            devices: Swap::new(devices),
            runner: Arc::new(subprocess::Runner::new()),
            orders: Arc::new(Semaphore::new(AT_ONCE_MAX)),
            urgent: Arc::new(Semaphore::new(AT_ONCE_MAX)),
            calm: Arc::new(Semaphore::new(CALM_MAX)),
            looking: BTreeMap::new(),
            inbox,
            runtime,
            quiet_until: Instant::now() + earlier_deadline,
        }
    }

    /// Replaced by a reload: a pass that has begun keeps the devices that it began with.
    pub fn configured(&self) -> Arc<Swap<Devices>> {
        Arc::clone(&self.devices)
    }

    /// The devices that are meant: those of the configuration, or the template's at one place.
    fn devices(&self, host: &HostId, through: &Through) -> Levels {
        let configured = self.devices.get();
        let devices = match through {
            Through::Levels => configured.levels.get(host).cloned().unwrap_or_default(),
            Through::Template { segment, place } => {
                let template = configured.templates.get(segment).into_iter();
                template.map(|template| template.at(host.as_str(), &place.address, &place.plug)).collect()
            }
        };
        Levels { devices, runner: Arc::clone(&self.runner) }
    }

    /// Runs one job beside the loop; its answer goes into the inbox.
    fn spawn(&self, slots: &Arc<Semaphore>, job: impl Future<Output = Observation> + Send + 'static) -> AbortHandle {
        let (slots, inbox) = (Arc::clone(slots), self.inbox.clone());
        let task = self.runtime.spawn(async move {
            let Ok(_slot) = slots.acquire_owned().await else { return };
            let seen = job.await;
            drop(inbox.send(Input::Seen(seen)).await);
        });
        task.abort_handle()
    }

    /// A device has one thing to do at a time, and an order comes first.
    fn end_look(&mut self, host: &HostId) {
        if let Some(look) = self.looking.remove(host) {
            look.abort();
        }
    }
}

/// The devices of one host, in order.
struct Levels {
    devices: Vec<Device>,
    runner: Arc<subprocess::Runner>,
}

impl Levels {
    /// Asks each level until one knows, or each; the first that knows has the word.
    async fn read(&self, urgent: bool) -> (Power, Vec<Look>) {
        let (mut first, mut looks) = (Power::Unknown, Vec::new());
        for device in &self.devices {
            let (power, said) = self.status(device).await;
            looks.push(Look { device: device.label(), power, said });
            if first == Power::Unknown {
                first = power;
            }
            if urgent && first != Power::Unknown {
                break;
            }
        }
        (first, looks)
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
            detail: "no fence device is configured for this host: add a [[fence]] entry, or a template to its segment"
                .into(),
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
    fn read_power(&mut self, host: &HostId, read: u64, through: &Through, urgent: bool) {
        let (name, levels) = (host.clone(), self.devices(host, through));
        let job = async move {
            let (power, looks) = levels.read(urgent).await;
            Observation::PowerRead { host: name, read, power, looks }
        };
        if urgent {
            self.end_look(host);
            self.spawn(&self.urgent, job);
        } else if self.looking.get(host).is_none_or(AbortHandle::is_finished) {
            let look = self.spawn(&self.calm, job);
            self.looking.insert(host.clone(), look);
        }
    }

    fn off(&mut self, step: StepId, host: &HostId, through: &Through) {
        tracing::warn!(code = "MDV-OFF-SENT", %host, %step, "off order on its way to the fence device");
        self.end_look(host);
        let levels = self.devices(host, through);
        self.spawn(&self.orders, async move { Observation::FenceAnswered { step, answer: levels.off().await } });
    }

    fn on(&mut self, host: &HostId, through: &Through) {
        self.end_look(host);
        let (name, levels) = (host.clone(), self.devices(host, through));
        let wait = self.quiet_until.saturating_duration_since(Instant::now());
        self.spawn(&self.orders, async move {
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
