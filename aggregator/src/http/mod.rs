//! The native API, `/api/v1`: JSON over HTTP, described by `openapi.json`.
//!
//! ```text
//!   GET   -> a question to the loop -> its answer as a body
//!   POST  -> an operator's word to the loop -> committed -> its reply as a body
//! ```
//!
//! Served on a unix socket for root, and on the port of the agents for peers
//! whose certificate names an operator. Whatever medevacctl can do, it does here.

mod bodies;
pub mod desk;
mod verbs;

use crate::engine::Input;
use crate::listen::Peer;
use crate::peer::Role;
use crate::ports::Receivers;
use crate::pulse::Pulse;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, Path, Request, State, connect_info};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use axum::{Extension, Json, Router};
pub(crate) use bodies::tag;
use desk::Desk;
use medevac_metrics::Answer;
use medevac_proto::rest::{ErrorBody, Explanation, Trial, TrialRequest};
use medevac_triage::{IncidentId, Now, Triage};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::net::unix::UCred;
use tokio::sync::{mpsc, oneshot};

/// A loop that does not answer in this time is stuck, and its watchdog will say so.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// The longest request body: a verb with its reason.
const BODY_MAX: usize = 64 * 1024;
/// The description, by hand; a test holds it to the routes.
const OPENAPI: &str = include_str!("openapi.json");

/// All routes, for the description's test.
pub const ROUTES: [(&str, &str); 15] = [
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
    ("post", "/api/v1/verbs"),
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
}

/// Who asks: kept with every verb.
#[derive(Clone, Debug)]
pub(crate) struct Caller(pub(crate) String);

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
    let message = "the aggregator's loop does not answer: is its disk stuck? Look at its log; try again";
    Refused::new(StatusCode::SERVICE_UNAVAILABLE, "not-answering", message)
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
        .route("/api/v1/verbs", post(verbs::post))
        .layer(axum::extract::DefaultBodyLimit::max(BODY_MAX))
        .with_state(api)
}

/// For the port of the agents: operators only, by certificate.
pub fn over_tls(api: Api) -> Router {
    let pulse = pulse(&api);
    routes(api).layer(middleware::from_fn(by_certificate)).merge(pulse)
}

async fn by_certificate(mut request: Request, next: Next) -> Response {
    let caller = match request.extensions().get::<Peer>().map(|peer| &peer.role) {
        Some(Some(Role::Operator(name))) => Caller(name.clone()),
        Some(None) => {
            let message = "without TLS nobody has shown who he is: use the unix socket";
            return Refused::new(StatusCode::FORBIDDEN, "not-an-operator", message).into_response();
        }
        _ => {
            let message =
                "this certificate names no operator: use operator.pem and operator.key of `medevac-aggregator init`";
            return Refused::new(StatusCode::FORBIDDEN, "not-an-operator", message).into_response();
        }
    };
    request.extensions_mut().insert(caller);
    next.run(request).await
}

/// Serves the unix socket until the process ends.
///
/// # Errors
/// Whatever the listener fails with.
pub async fn serve_socket(listener: UnixListener, api: Api) -> std::io::Result<()> {
    let pulse = pulse(&api);
    let app = routes(api).layer(middleware::from_fn(by_credentials)).merge(pulse);
    axum::serve(listener, app.into_make_service_with_connect_info::<SocketPeer>()).await
}

#[derive(Clone, Debug)]
struct SocketPeer(Option<UCred>);

impl connect_info::Connected<IncomingStream<'_, UnixListener>> for SocketPeer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self(stream.io().peer_cred().ok())
    }
}

/// The socket's mode keeps others out; the kernel's word on who connects does it again.
async fn by_credentials(ConnectInfo(peer): ConnectInfo<SocketPeer>, mut request: Request, next: Next) -> Response {
    let own = rustix::process::geteuid().as_raw();
    match peer.0.map(|credentials| credentials.uid()) {
        Some(uid) if uid == 0 || uid == own => {
            request.extensions_mut().insert(Caller(if uid == 0 { "root".into() } else { format!("uid {uid}") }));
            next.run(request).await
        }
        _ => Refused::new(StatusCode::FORBIDDEN, "not-root", "only root may use this socket: run it with sudo")
            .into_response(),
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
