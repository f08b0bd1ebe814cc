//! OpenStack: triage's acts become requests to Nova, one task each, and every
//! act is answered, in time or with the reason.
//!
//! ```text
//!   loop --act--> OpenstackCloud --task--> Nova        at most REQUESTS_MAX at a time
//!   loop <-CloudSpoke---------------------- task
//!                  watcher, every few seconds: the compute services, the aggregates, all servers
//! ```
//!
//! Orders to agents (the end of a hold, an incoming copy) go over the sessions
//! as in plain libvirt. Servers are started by Nova alone.

mod acts;
mod ahead;
mod courses;
mod roster;
mod watcher;

use super::libvirt::LibvirtCloud;
use crate::engine::Input;
use crate::ports::Cloud;
use ahead::Ahead;
use medevac_openstack::{Answer, Glance, Nova, Refusal};
use medevac_triage::{BootId, CloudAct, CloudNews, HostId, Observation, Order, Outcome, SessionId, StepId};
use roster::Moulds;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

/// Requests under way at a time; the decisions keep evacuations fewer, so this
/// bounds what only looks. A waiting one holds a task and nothing else.
const REQUESTS_MAX: usize = 16;
/// A question that only looks is given up after this.
const LOOK_WITHIN: Duration = Duration::from_secs(15);
/// A change of a service: Nova waits up to a minute for a host that it
/// believes up. Longer than that, or we would not hear what became of it.
const SERVICE_WITHIN: Duration = Duration::from_secs(75);

/// Which of our hosts is which of Nova's: the same name, unless configured.
#[derive(Clone, Debug, Default)]
pub struct Names {
    novas: BTreeMap<HostId, String>,
}

impl Names {
    pub fn new(novas: BTreeMap<HostId, String>) -> Self {
        Self { novas }
    }

    fn nova<'a>(&'a self, host: &'a HostId) -> &'a str {
        self.novas.get(host).map_or(host.as_str(), String::as_str)
    }

    fn ours(&self, nova: &str) -> HostId {
        let named = self.novas.iter().find(|(_, name)| name.as_str() == nova);
        named.map_or_else(|| HostId(nova.to_owned()), |(host, _)| host.clone())
    }
}

/// What every task shares.
pub(super) struct Shared {
    nova: Nova,
    glance: Glance,
    names: Names,
    moulds: Mutex<Moulds>,
    ahead: Ahead,
    /// Nova's ids of the services, as last read: force-down needs one.
    services: Mutex<BTreeMap<HostId, String>>,
    inbox: mpsc::Sender<Input>,
    turns: Semaphore,
}

impl Shared {
    async fn tell(&self, news: CloudNews) {
        // The loop has ended: nobody listens any more.
        let _ = self.inbox.send(Input::Seen(Observation::CloudSpoke(news))).await;
    }

    fn service_id(&self, host: &HostId) -> Option<String> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner).get(host).cloned()
    }
}

/// The cloud of OpenStack.
#[allow(missing_debug_implementations)]
pub struct OpenstackCloud {
    agents: LibvirtCloud,
    shared: Arc<Shared>,
    runtime: tokio::runtime::Handle,
}

impl OpenstackCloud {
    /// Begins to watch the compute services, the aggregates and the servers.
    pub fn new(
        agents: LibvirtCloud,
        nova: Nova,
        names: Names,
        inbox: mpsc::Sender<Input>,
        runtime: tokio::runtime::Handle,
    ) -> Self {
        let turns = Semaphore::new(REQUESTS_MAX);
        let shared = Arc::new(Shared {
            glance: nova.glance(),
            nova,
            names,
            moulds: Mutex::default(),
            ahead: Ahead::default(),
            services: Mutex::default(),
            inbox,
            turns,
        });
        runtime.spawn(watcher::watch(Arc::clone(&shared)));
        runtime.spawn(watcher::watch_aggregates(Arc::clone(&shared)));
        runtime.spawn(roster::watch(Arc::clone(&shared)));
        Self { agents, shared, runtime }
    }
}

impl Cloud for OpenstackCloud {
    fn order(
        &mut self,
        step: StepId,
        host: &HostId,
        session: &SessionId,
        boot: &BootId,
        deadline: Duration,
        order: Order,
    ) {
        self.agents.order(step, host, session, boot, deadline, order);
    }

    fn act(&mut self, act: CloudAct) {
        let shared = Arc::clone(&self.shared);
        // From now, not from when its turn comes: a late evacuation is none.
        let begun = Instant::now();
        self.runtime.spawn(async move {
            let Ok(_turn) = shared.turns.acquire().await else { return };
            if let Some(news) = shared.carry_out(act, begun).await {
                shared.tell(news).await;
            }
        });
    }
}

/// What an act that changes something came to.
fn outcome<T>(answer: Answer<T>, detail: impl FnOnce(T) -> String) -> Outcome {
    match answer {
        Answer::Done(value) => Outcome::Done { detail: detail(value) },
        Answer::Refused(refusal) => no(&refusal),
        Answer::Unknown(unclear) => Outcome::Unknown { detail: unclear.to_string() },
        Answer::NotSent(unsent) => {
            tracing::warn!(code = "MDV-CLOUD-NOT-SENT", "{unsent}");
            Outcome::NotSent
        }
    }
}

/// Nova's own no, in its words.
fn no(refusal: &Refusal) -> Outcome {
    refused(&refusal.kind.to_string(), format!("{} (HTTP {})", refusal.message, refusal.status))
}

fn refused(reason: &str, detail: impl Into<String>) -> Outcome {
    Outcome::Refused { reason: reason.to_owned(), detail: detail.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use medevac_openstack::{Kind, Refusal};

    #[test]
    fn a_limit_is_told_in_the_word_that_decisions_know() {
        let (kind, message) = (Kind::TooMany { retry_after: None }, "slow down".to_owned());
        let answer = Answer::<()>::Refused(Refusal { status: 429, kind, message, request_id: None });
        let Outcome::Refused { reason, .. } = outcome(answer, |()| String::new()) else { panic!("no refusal") };
        assert_eq!(reason, medevac_triage::TOO_MANY);
    }
}
