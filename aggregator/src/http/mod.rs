//! The native API, `/api/v1`: JSON over HTTP, described by `openapi.json`.
//!
//! ```text
//!   GET   -> a question to the loop -> its answer as a body
//!   POST  -> an operator's word to the loop -> committed -> its reply as a body
//! ```
//!
//! Served on a unix socket for root, and on the port of the agents for peers
//! whose certificate names a person, each as far as his rank goes. Whatever
//! medevacctl can do, it does here. Two routes are not for people: a host renews
//! its certificate, and whoever has none yet joins, at a counter of its own.

mod bodies;
mod fences;
pub mod identity;
pub mod socket;
mod verbs;

use crate::desk::{ANSWER_WITHIN, Desk, Unanswered};
use crate::engine::Input;
use crate::listen::Peer;
use crate::peer::Role;
use crate::ports::Receivers;
use crate::pulse::Pulse;
use crate::rank::Rank;
use axum::body::Bytes;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
pub(crate) use bodies::tag;
use identity::Identities;
use medevac_metrics::Answer;
use medevac_proto::rest::{ErrorBody, Explanation, Trial, TrialRequest};
use medevac_triage::{IncidentId, Now, Triage};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// The longest request body: a verb with its reason.
const BODY_MAX: usize = 64 * 1024;
/// The description, by hand; a test holds it to the routes.
const OPENAPI: &str = include_str!("openapi.json");

/// All routes, for the description's test.
pub const ROUTES: [(&str, &str); 21] = [
    ("get", "/healthz"),
    ("get", "/readyz"),
    ("get", "/api/v1/decider"),
    ("get", "/api/v1/openapi.json"),
    ("get", "/api/v1/status"),
    ("get", "/api/v1/hosts"),
    ("get", "/api/v1/instances"),
    ("get", "/api/v1/incidents"),
    ("get", "/api/v1/incidents/{id}"),
    ("get", "/api/v1/incidents/{id}/explain"),
    ("get", "/api/v1/audit"),
    ("get", "/api/v1/matrix"),
    ("get", "/api/v1/alerts"),
    ("post", "/api/v1/alerts/test"),
    ("get", "/api/v1/fences"),
    ("post", "/api/v1/fences"),
    ("get", "/api/v1/identity"),
    ("post", "/api/v1/verbs"),
    ("post", "/api/v1/tokens"),
    ("post", "/api/v1/join"),
    ("post", "/api/v1/renew"),
];

/// What every handler shares.
#[derive(Clone, Debug)]
pub struct Api {
    pub inbox: mpsc::Sender<Input>,
    pub desk: Arc<Desk>,
    pub receivers: Arc<dyn Receivers>,
    pub site: String,
    pub epoch: u64,
    pub pulse: Arc<Pulse>,
    pub identity: Arc<Identities>,
}

/// Who asks: kept with every verb.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    name: String,
    rank: Rank,
}

impl Caller {
    /// Refuses what takes more.
    fn needs(&self, rank: Rank, what: &str) -> Result<(), Refused> {
        if self.rank >= rank {
            return Ok(());
        }
        let (own, needed) = (self.rank.name(), rank.name());
        tracing::warn!(code = "MDV-NOT-ALLOWED", by = %self.name, rank = own, "`{what}` takes a person of rank {needed}");
        let message =
            format!("`{what}` takes the rank {needed}, and {} has the rank {own}: ask somebody who has it", self.name);
        Err(Refused::new(StatusCode::FORBIDDEN, "not-allowed", message))
    }
}

/// A "no" of the API.
#[derive(Debug)]
pub(crate) struct Refused {
    status: StatusCode,
    body: ErrorBody,
}

impl Refused {
    fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self { status, body: ErrorBody { code: code.into(), message: message.into() } }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

impl Api {
    /// Asks the loop; it alone owns the state.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Triage, Now) -> T + Send + 'static,
    ) -> Result<T, Refused> {
        let (answer, answered) = oneshot::channel();
        let ask = Input::Ask(Box::new(move |triage, now| drop(answer.send(question(triage, now)))));
        let asked = async {
            self.inbox.send(ask).await.ok()?;
            answered.await.ok()
        };
        tokio::time::timeout(ANSWER_WITHIN, asked).await.ok().flatten().ok_or_else(stuck)
    }
}

fn stuck() -> Refused {
    unanswered(Unanswered::Stuck)
}

fn unanswered(why: Unanswered) -> Refused {
    let refusal = why.refusal();
    Refused::new(StatusCode::SERVICE_UNAVAILABLE, refusal.name, refusal.text)
}

/// The routes without any check of who asks.
fn routes(api: Api) -> Router {
    Router::new()
        .route("/api/v1/openapi.json", get(openapi))
        .route("/api/v1/decider", get(decider))
        .route("/api/v1/status", get(status))
        .route("/api/v1/hosts", get(hosts))
        .route("/api/v1/instances", get(instances))
        .route("/api/v1/incidents", get(incidents))
        .route("/api/v1/incidents/{id}", get(incident))
        .route("/api/v1/incidents/{id}/explain", get(explain))
        .route("/api/v1/audit", get(audit))
        .route("/api/v1/matrix", get(matrix))
        .route("/api/v1/alerts", get(alerts))
        .route("/api/v1/alerts/test", post(try_receivers))
        .route("/api/v1/identity", get(identity::view))
        .route("/api/v1/verbs", post(verbs::post))
        .route("/api/v1/tokens", post(identity::make_tokens))
        .layer(axum::extract::DefaultBodyLimit::max(BODY_MAX))
        .merge(fences::routes())
        .with_state(api)
}

/// Of those who want a certificate; each handler looks at who asks.
fn certificates(api: Api) -> Router {
    joining().route("/api/v1/renew", post(identity::renew)).layer(small()).with_state(api)
}

fn joining() -> Router<Api> {
    Router::new().route("/api/v1/join", post(identity::join))
}

fn small() -> axum::extract::DefaultBodyLimit {
    axum::extract::DefaultBodyLimit::max(identity::BODY_MAX)
}

/// For the port of the agents: people by their certificates, and hosts that renew theirs.
pub fn over_tls(api: Api) -> Router {
    let pulse = pulse(&api);
    let known = middleware::from_fn_with_state(api.clone(), by_certificate);
    routes(api.clone()).layer(known).merge(certificates(api)).merge(pulse)
}

/// All that there is for those without a certificate.
pub fn for_strangers(api: Api) -> Router {
    joining().layer(small()).with_state(api).fallback(stranger)
}

async fn stranger() -> Refused {
    let message = "without a certificate of this site there is nothing here but to join: `medevac-agent join` on a \
                   hypervisor, --cert and --key for medevacctl";
    Refused::new(StatusCode::FORBIDDEN, "no-certificate", message)
}

async fn by_certificate(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    match person(request.extensions().get::<Peer>(), &api) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err((code, message)) => Refused::new(StatusCode::FORBIDDEN, code, message).into_response(),
    }
}

/// A person whose certificate is still welcome; it may have been revoked since he connected.
fn person(peer: Option<&Peer>, api: &Api) -> Result<Caller, (&'static str, String)> {
    let role = peer.and_then(|peer| peer.role.as_ref());
    let out = |peer: &Peer| peer.role.as_ref().and_then(|role| api.identity.doors.keeps_out(role, &peer.serial));
    if let Some(why) = peer.and_then(out) {
        return Err(("revoked", why));
    }
    let no = |message: &str| Err(("not-an-operator", message.to_owned()));
    match role {
        Some(Role::Person(rank, name)) => Ok(Caller { name: name.clone(), rank: *rank }),
        None => no("without TLS nobody has shown who he is: use the unix socket"),
        _ => no("this certificate names no person: use operator.pem and operator.key of `medevac-aggregator init`"),
    }
}

/// For checks of load balancers, on the port of the metrics too: whoever may connect may ask.
fn pulse(api: &Api) -> Router {
    let told = |answer: Answer| {
        let status = if answer.well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (status, answer.text + "\n")
    };
    let (health, ready) = (Arc::clone(&api.pulse), Arc::clone(&api.pulse));
    Router::new()
        .route("/healthz", get(move || async move { told(health.healthy()) }))
        .route("/readyz", get(move || async move { told(ready.ready()) }))
}

async fn decider(State(api): State<Api>) -> impl IntoResponse {
    Json(api.pulse.decider())
}

async fn openapi() -> impl IntoResponse {
    ([("content-type", "application/json")], OPENAPI)
}

async fn status(State(api): State<Api>) -> Result<impl IntoResponse, Refused> {
    let (site, epoch) = (api.site.clone(), api.epoch);
    Ok(Json(api.ask(move |triage, now| bodies::status(triage, now, site, epoch)).await?))
}

async fn hosts(State(api): State<Api>) -> Result<impl IntoResponse, Refused> {
    let ask = |triage: &Triage, now: Now| triage.host_views(now).into_iter().map(bodies::host).collect::<Vec<_>>();
    Ok(Json(api.ask(ask).await?))
}

async fn instances(State(api): State<Api>) -> Result<impl IntoResponse, Refused> {
    let ask =
        |triage: &Triage, now: Now| triage.instance_views(now).into_iter().map(bodies::instance).collect::<Vec<_>>();
    Ok(Json(api.ask(ask).await?))
}

async fn incidents(State(api): State<Api>) -> Result<impl IntoResponse, Refused> {
    let ask = |triage: &Triage, _: Now| triage.incident_views().iter().map(bodies::head).collect::<Vec<_>>();
    Ok(Json(api.ask(ask).await?))
}

async fn incident(State(api): State<Api>, Path(id): Path<String>) -> Result<impl IntoResponse, Refused> {
    let id = parse(&id)?;
    let found = api.ask(move |triage, _| triage.incident_view(id).map(bodies::incident)).await?;
    found.map(Json).ok_or_else(|| unknown(id))
}

async fn explain(State(api): State<Api>, Path(id): Path<String>) -> Result<impl IntoResponse, Refused> {
    let id = parse(&id)?;
    let lines = api.ask(move |triage, now| triage.explain(id, now)).await?;
    let lines = lines.ok_or_else(|| unknown(id))?;
    Ok(Json(Explanation { id: id.to_string(), lines }))
}

async fn audit(State(api): State<Api>) -> Result<impl IntoResponse, Refused> {
    let ask = |triage: &Triage, _: Now| triage.words().map(bodies::said).collect::<Vec<_>>();
    Ok(Json(api.ask(ask).await?))
}

async fn alerts(State(api): State<Api>) -> Result<impl IntoResponse, Refused> {
    Ok(Json(api.ask(|triage, _| bodies::alerts(triage)).await?))
}

/// Changes nothing here: whoever may read may also make sure that alerts arrive.
async fn try_receivers(State(api): State<Api>, body: Bytes) -> Result<impl IntoResponse, Refused> {
    let bad = |message: String| Refused::new(StatusCode::BAD_REQUEST, "bad-trial", message);
    let asked: TrialRequest = match body.is_empty() {
        true => TrialRequest::default(),
        false => serde_json::from_slice(&body).map_err(|error| bad(error.to_string()))?,
    };
    let trials = api.receivers.try_out(asked.receiver.clone()).await;
    if trials.is_empty() {
        let message = match asked.receiver {
            Some(name) => format!("no receiver {name:?} in the aggregator's configuration: see [[alerts.receiver]]"),
            None => "nobody is told of alerts: add an [[alerts.receiver]] to the aggregator's configuration".to_owned(),
        };
        return Err(Refused::new(StatusCode::NOT_FOUND, "unknown-receiver", message));
    }
    let row = |(receiver, taken): (String, Result<(), String>)| Trial {
        receiver,
        taken: taken.is_ok(),
        text: taken.err().unwrap_or_default(),
    };
    Ok(Json(trials.into_iter().map(row).collect::<Vec<_>>()))
}

async fn matrix(State(api): State<Api>) -> Result<impl IntoResponse, Refused> {
    Ok(Json(api.ask(|triage, _| bodies::matrix(triage.matrix())).await?))
}

fn parse(text: &str) -> Result<IncidentId, Refused> {
    let message =
        || format!("{:.64?} is no incident; they are called inc-1, inc-2, ...: see `medevacctl incidents --all`", text);
    IncidentId::parse(text).ok_or_else(|| Refused::new(StatusCode::BAD_REQUEST, "bad-incident", message()))
}

fn unknown(id: IncidentId) -> Refused {
    let message = format!("there is no incident {id}, or it was pruned: see `medevacctl incidents --all`");
    Refused::new(StatusCode::NOT_FOUND, "unknown-incident", message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_description_names_every_route_and_no_other() {
        let description: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        let paths = description["paths"].as_object().unwrap();
        let mut described: Vec<_> = paths
            .iter()
            .flat_map(|(path, methods)| {
                methods.as_object().unwrap().keys().map(move |method| (method.as_str(), path.as_str()))
            })
            .collect();
        described.sort_unstable();
        let mut routes = ROUTES.to_vec();
        routes.sort_unstable();
        assert_eq!(described, routes);
    }

    #[test]
    fn every_reference_of_the_description_resolves() {
        let description: serde_json::Value = serde_json::from_str(OPENAPI).unwrap();
        let mut from = OPENAPI;
        while let Some(at) = from.find("\"#/") {
            let rest = &from[at + 2..];
            let pointer = &rest[..rest.find('"').unwrap()];
            assert!(description.pointer(pointer).is_some(), "{pointer}");
            from = rest;
        }
    }
}
