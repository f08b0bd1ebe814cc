//! What Nova is told to do. Each is sent once.

use super::Nova;
use crate::answer::{Accepted, Answer, Failure};
use crate::body::{Aggregate, ComputeService};
use crate::classify;
use crate::version::Microversion;
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

/// Longer ones Nova refuses.
const MAX_REASON: usize = 255;

/// The states that an administrator can declare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetTo {
    Active,
    Error,
}

impl Nova {
    /// Declares a host's nova-compute down, or no longer so. The latter is refused as
    /// [`NotYet`](crate::Kind::NotYet) while the restarted nova-compute has not closed its evacuations.
    pub async fn force_down(&self, service: &str, down: bool, deadline: Instant) -> Answer<ComputeService> {
        self.put_service(service, json!({"forced_down": down}), deadline).await
    }

    /// Keeps the scheduler from using a host. **After** [`Nova::force_down`]: for a host that is dead
    /// and believed to be up Nova waits a minute for its answer. A reason is cut to 255 characters.
    pub async fn disable(&self, service: &str, reason: &str, deadline: Instant) -> Answer<ComputeService> {
        self.put_service(service, json!({"status": "disabled", "disabled_reason": cut(reason)}), deadline).await
    }

    /// Lets the scheduler use a host again.
    pub async fn enable(&self, service: &str, deadline: Instant) -> Answer<ComputeService> {
        self.put_service(service, json!({"status": "enabled"}), deadline).await
    }

    /// Rebuilds a server of a dead host elsewhere: on `target`, or where the scheduler likes.
    ///
    /// Done means accepted. **Nova does not guard against a second one**: sent while one is in flight, or
    /// while the server has any task, it breaks the server. Read server, actions and migrations
    /// directly before; if the answer is unknown, find out with [`crate::traces`], and don't send it again.
    pub async fn evacuate(&self, server: &str, target: Option<&str>, deadline: Instant) -> Answer<Accepted> {
        let order = target.map_or_else(|| json!({}), |host| json!({"host": host}));
        self.action(server, |_| json!({"evacuate": order}), deadline).await
    }

    pub async fn stop(&self, server: &str, deadline: Instant) -> Answer<Accepted> {
        self.action(server, |_| json!({"os-stop": null}), deadline).await
    }

    /// On a dead host Nova accepts it, too, and leaves the server `powering-on`.
    pub async fn start(&self, server: &str, deadline: Instant) -> Answer<Accepted> {
        self.action(server, |_| json!({"os-start": null}), deadline).await
    }

    /// Declares a server's state and clears its task; its guest is not touched.
    pub async fn reset_state(&self, server: &str, to: ResetTo, deadline: Instant) -> Answer<Accepted> {
        let state = match to {
            ResetTo::Active => "active",
            ResetTo::Error => "error",
        };
        self.action(server, |_| json!({"os-resetState": {"state": state}}), deadline).await
    }

    /// The reason is kept by Nova from 2.73 on, cut to 255 characters.
    pub async fn lock(&self, server: &str, reason: &str, deadline: Instant) -> Answer<Accepted> {
        let body = |version| match version >= Microversion::LOCK_REASON && !reason.is_empty() {
            true => json!({"lock": {"locked_reason": cut(reason)}}),
            false => json!({"lock": null}),
        };
        self.action(server, body, deadline).await
    }

    pub async fn unlock(&self, server: &str, deadline: Instant) -> Answer<Accepted> {
        self.action(server, |_| json!({"unlock": null}), deadline).await
    }

    /// Moves a running server, to `target` or where the scheduler likes; with its disks only if it must.
    pub async fn live_migrate(&self, server: &str, target: Option<&str>, deadline: Instant) -> Answer<Accepted> {
        let order = json!({"host": target, "block_migration": "auto"});
        self.action(server, |_| json!({"os-migrateLive": order}), deadline).await
    }

    /// Refused as a conflict if it is in there already.
    pub async fn add_host_to_aggregate(&self, aggregate: i64, host: &str, deadline: Instant) -> Answer<Aggregate> {
        self.change_aggregate(aggregate, json!({"add_host": {"host": host}}), deadline).await
    }

    /// Refused as not found if it is not in there.
    pub async fn remove_host_from_aggregate(&self, aggregate: i64, host: &str, deadline: Instant) -> Answer<Aggregate> {
        self.change_aggregate(aggregate, json!({"remove_host": {"host": host}}), deadline).await
    }

    async fn action(
        &self,
        server: &str,
        body: impl FnOnce(Microversion) -> Value,
        deadline: Instant,
    ) -> Answer<Accepted> {
        let sent = self.write(Method::POST, &["servers", server, "action"], body, deadline).await;
        sent.map(|(_, accepted)| accepted).into()
    }

    async fn put_service(&self, service: &str, body: Value, deadline: Instant) -> Answer<ComputeService> {
        let sent = self.write(Method::PUT, &["os-services", service], |_| body, deadline).await;
        let read = |(raw, accepted): (_, Accepted)| classify::read::<OneService>(&raw, &accepted.sent_as);
        sent.and_then(read).map(|body| body.service).into()
    }

    async fn change_aggregate(&self, aggregate: i64, body: Value, deadline: Instant) -> Answer<Aggregate> {
        let id = aggregate.to_string();
        let sent = self.write(Method::POST, &["os-aggregates", &id, "action"], |_| body, deadline).await;
        let read = |(raw, accepted): (_, Accepted)| classify::read::<OneAggregate>(&raw, &accepted.sent_as);
        let outcome: Result<OneAggregate, Failure> = sent.and_then(read);
        outcome.map(|body| body.aggregate).into()
    }
}

fn cut(reason: &str) -> String {
    reason.chars().take(MAX_REASON).collect()
}

#[derive(Deserialize)]
struct OneService {
    service: ComputeService,
}

#[derive(Deserialize)]
struct OneAggregate {
    aggregate: Aggregate,
}
