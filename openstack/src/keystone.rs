//! Keystone: one token, kept fresh, asked for once however many want it.
//!
//! ```text
//!   age of the token   0 ---------------- soft ------- hard ------>
//!   a caller gets      it at once         it at once,  a new one, or why not
//!                                         while a new
//!                                         one is got
//! ```
//!
//! A login is a future that all waiting callers poll; none of them owns it, so
//! one that gives up at its deadline doesn't take it away from the others, and
//! the next caller goes on with it. After a failure there is a pause that grows:
//! Keystone's password hash is expensive, and a wrong password locks accounts.

use crate::answer::{Failure, Unsent};
use crate::catalog::{self, CatalogProblem, Service};
use crate::credentials::{Credentials, CredentialsProblem, Domain, Method, Project, User, Who};
use crate::transport::{self, Call, Http, Raw, TlsProblem};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use jiff::Timestamp;
use reqwest::Url;
use reqwest::header::HeaderValue;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A loaded Keystone takes seconds for a password; longer, and it is as good as down.
const LOGIN_WITHIN: Duration = Duration::from_secs(20);

/// A token is renewed in the last quarter of its life, at most so long before its end:
/// longer than any outage that recovery should live through without noticing.
const RENEW_BEFORE: Duration = Duration::from_secs(600);

/// Not used in its last seconds: it must not expire on its way.
const UNUSED_BEFORE_END: Duration = Duration::from_secs(10);

/// If Keystone doesn't say; its shortest common setting is longer.
const LIFETIME_IF_UNSAID: Duration = Duration::from_secs(300);

/// A catalog without Nova may be put right any moment, and Keystone itself keeps an old one for minutes:
/// it is asked for again before long.
const KEPT_WITHOUT_NOVA: Duration = Duration::from_secs(20);

/// Pauses after failures: doubling from the first to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// After a refusal, longer: the next attempt will hardly fare better, and counts towards a lock-out.
const PAUSE_REFUSED: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// Why there is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginProblem {
    #[error(
        "Keystone at {url} refused the credentials ({message}): check user, password, project and their domains, \
         and that the user has a role in the project"
    )]
    Refused { url: String, message: String },
    #[error("Keystone at {url} has no tokens to give ({message}): is `auth_url` right?")]
    NotKeystone { url: String, message: String },
    #[error("Keystone at {url} cannot be used: {cause}")]
    Failed { url: String, cause: String },
    #[error("{0}")]
    Secret(CredentialsProblem),
    #[error("{because}; the next attempt is in {:.1} s", .wait.as_secs_f64())]
    Pausing { because: Box<LoginProblem>, wait: Duration },
}

/// Who Keystone says that we are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WhoAmI {
    /// By this the actions and migrations that we caused can be told from others'.
    pub user_id: String,
    pub user_name: String,
    pub project_id: String,
    pub project_name: String,
    pub roles: Vec<String>,
}

/// A token and what came with it.
#[derive(Debug)]
pub(crate) struct Token {
    /// Marked as sensitive: it does not print itself.
    pub header: HeaderValue,
    pub who: WhoAmI,
    pub compute: Result<Url, CatalogProblem>,
    pub image: Result<Url, CatalogProblem>,
    got: Instant,
    lifetime: Duration,
}

impl Token {
    fn is_fresh(&self, now: Instant) -> bool {
        now < self.got + self.lifetime.saturating_sub(RENEW_BEFORE.min(self.lifetime / 4))
    }

    fn is_usable(&self, now: Instant) -> bool {
        now < self.got + self.lifetime.saturating_sub(UNUSED_BEFORE_END.min(self.lifetime / 8))
    }
}

type Outcome = Result<Arc<Token>, LoginProblem>;
type Login = Shared<BoxFuture<'static, Outcome>>;

/// The way to a token; clones share it.
#[derive(Clone, Debug)]
pub struct Keystone {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    credentials: Arc<Credentials>,
    http: Http,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    token: Option<Arc<Token>>,
    login: Option<(u64, Login)>,
    logins: u64,
    failures: u32,
    pause: Option<(Instant, LoginProblem)>,
}

/// What a caller has to do for a token.
enum Step {
    Have(Arc<Token>),
    Wait(u64, Login),
    Pause(LoginProblem),
}

impl Keystone {
    /// Sends nothing yet.
    ///
    /// # Errors
    /// The files for TLS cannot be used.
    pub fn new(credentials: Credentials) -> Result<Self, TlsProblem> {
        let http = Http::new(&credentials.tls)?;
        let inner = Inner { credentials: Arc::new(credentials), http, state: Mutex::default() };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub(crate) fn http(&self) -> &Http {
        &self.inner.http
    }

    /// A token that can be used now.
    pub(crate) async fn token(&self, deadline: Instant) -> Result<Arc<Token>, Unsent> {
        match self.step(Instant::now()) {
            Step::Have(token) => Ok(token),
            Step::Pause(problem) => Err(Unsent::Login(problem)),
            Step::Wait(number, login) => match tokio::time::timeout_at(deadline, login).await {
                Ok(outcome) => self.settle(number, &outcome).map_err(Unsent::Login),
                Err(_) => Err(Unsent::NoTime),
            },
        }
    }

    /// This token was turned away; the next caller logs in.
    pub(crate) fn reject(&self, token: &Arc<Token>) {
        let mut state = self.state();
        if state.token.as_ref().is_some_and(|current| Arc::ptr_eq(current, token)) {
            state.token = None;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change below is whole before the lock is left.
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn step(&self, now: Instant) -> Step {
        let mut state = self.state();
        let old = state.token.clone().filter(|token| token.is_usable(now));
        if let Some(token) = old.as_ref().filter(|token| token.is_fresh(now)) {
            return Step::Have(Arc::clone(token));
        }
        if state.login.is_none() {
            if let Some((until, because)) = state.pause.as_ref().filter(|(until, _)| now < *until) {
                let problem = LoginProblem::Pausing { because: Box::new(because.clone()), wait: *until - now };
                return old.map_or(Step::Pause(problem), Step::Have);
            }
            state.logins += 1;
            let login = log_in(self.inner.http.clone(), Arc::clone(&self.inner.credentials)).boxed().shared();
            state.login = Some((state.logins, login.clone()));
            if old.is_some() {
                self.renew_aside(state.logins, login);
            }
        }
        let (number, login) = state.login.clone().expect("it was put there just above, under the same lock");
        old.map_or(Step::Wait(number, login), Step::Have)
    }

    /// Nobody waits for it while the old token does, so that a Keystone in trouble slows no recovery.
    fn renew_aside(&self, number: u64, login: Login) {
        let inner = Arc::downgrade(&self.inner);
        tokio::spawn(async move {
            let outcome = login.await;
            if let Some(inner) = inner.upgrade() {
                let _ = Self { inner }.settle(number, &outcome);
            }
        });
    }

    /// The first of those who waited writes the outcome down.
    fn settle(&self, number: u64, outcome: &Outcome) -> Outcome {
        let mut state = self.state();
        if state.login.as_ref().is_some_and(|(current, _)| *current == number) {
            state.login = None;
            match outcome {
                Ok(token) => {
                    state.token = Some(Arc::clone(token));
                    state.failures = 0;
                    state.pause = None;
                }
                Err(problem) => {
                    let pause = pause(problem, state.failures);
                    tracing::warn!(%problem, pause_ms = pause.as_millis(), "no token from Keystone");
                    state.failures = state.failures.saturating_add(1);
                    state.pause = Some((Instant::now() + pause, problem.clone()));
                }
            }
        }
        outcome.clone()
    }
}

fn pause(problem: &LoginProblem, failures: u32) -> Duration {
    let (first, most) = match problem {
        LoginProblem::Refused { .. } => PAUSE_REFUSED,
        LoginProblem::NotKeystone { .. }
        | LoginProblem::Failed { .. }
        | LoginProblem::Secret(_)
        | LoginProblem::Pausing { .. } => PAUSE,
    };
    first.saturating_mul(2_u32.saturating_pow(failures)).min(most)
}

async fn log_in(http: Http, credentials: Arc<Credentials>) -> Outcome {
    let began = Instant::now();
    let body = request(&credentials).map_err(LoginProblem::Secret)?;
    let mut url = credentials.auth_url.clone();
    let path = format!("{}/auth/tokens", url.path().trim_end_matches('/'));
    url.set_path(&path);
    let id = transport::new_id();
    let place = credentials.auth_url.to_string();
    let call = Call { method: reqwest::Method::POST, url, token: None, version: None, body: Some(&body), id: &id };
    let failed = |cause: String| LoginProblem::Failed { url: place.clone(), cause };
    let raw = http.send(call, began + LOGIN_WITHIN).await.map_err(|failure| failed(failure.to_string()))?;
    let told: Told = crate::classify::read(&raw, &id).map_err(|failure| judged(&place, &raw, failure))?;
    let header = raw.headers.get("x-subject-token").cloned();
    let mut header = header.ok_or_else(|| failed("its answer carries no token (X-Subject-Token)".into()))?;
    header.set_sensitive(true);
    let compute = match &credentials.compute_endpoint {
        Some(url) => Ok(url.clone()),
        None => catalog::compute(&told.token.catalog, credentials.region.as_deref(), credentials.interface),
    };
    let image = catalog::image(&told.token.catalog, credentials.region.as_deref(), credentials.interface);
    let lifetime = kept(lifetime(&told.token), compute.is_ok());
    Ok(Arc::new(Token { header, who: told.token.who(), compute, image, got: began, lifetime }))
}

fn judged(url: &str, raw: &Raw, failure: Failure) -> LoginProblem {
    let url = url.to_owned();
    match failure {
        Failure::Refused(refusal) => match raw.status {
            400 | 401 | 403 => LoginProblem::Refused { url, message: refusal.message },
            404 => LoginProblem::NotKeystone { url, message: refusal.message },
            _ => LoginProblem::Failed { url, cause: refusal.to_string() },
        },
        other => LoginProblem::Failed { url, cause: other.to_string() },
    }
}

/// Both times are Keystone's, so that our clock doesn't matter.
fn lifetime(token: &ToldToken) -> Duration {
    let span = || {
        let (from, to) = (token.issued_at.parse::<Timestamp>().ok()?, token.expires_at.parse::<Timestamp>().ok()?);
        Duration::try_from(to.duration_since(from)).ok()
    };
    span().unwrap_or(LIFETIME_IF_UNSAID)
}

fn kept(lifetime: Duration, leads_to_nova: bool) -> Duration {
    if leads_to_nova { lifetime } else { lifetime.min(KEPT_WITHOUT_NOVA) }
}

fn request(credentials: &Credentials) -> Result<Value, CredentialsProblem> {
    Ok(match &credentials.method {
        Method::Password { user, password, project } => {
            let mut who = user_body(user);
            who["password"] = json!(password.read()?.expose());
            json!({"auth": {
                "identity": {"methods": ["password"], "password": {"user": who}},
                "scope": {"project": project_body(project)},
            }})
        }
        Method::ApplicationCredential { who, secret } => {
            let mut credential = match who {
                Who::Id(id) => json!({"id": id}),
                Who::Name { name, user } => json!({"name": name, "user": user_body(user)}),
            };
            credential["secret"] = json!(secret.read()?.expose());
            json!({"auth": {
                "identity": {"methods": ["application_credential"], "application_credential": credential},
            }})
        }
    })
}

fn user_body(user: &User) -> Value {
    match user {
        User::Id(id) => json!({"id": id}),
        User::Name { name, domain } => json!({"name": name, "domain": domain_body(domain)}),
    }
}

fn project_body(project: &Project) -> Value {
    match project {
        Project::Id(id) => json!({"id": id}),
        Project::Name { name, domain } => json!({"name": name, "domain": domain_body(domain)}),
    }
}

fn domain_body(domain: &Domain) -> Value {
    match domain {
        Domain::Id(id) => json!({"id": id}),
        Domain::Name(name) => json!({"name": name}),
    }
}

#[derive(Deserialize)]
struct Told {
    token: ToldToken,
}

#[derive(Deserialize)]
struct ToldToken {
    #[serde(default)]
    issued_at: String,
    #[serde(default)]
    expires_at: String,
    #[serde(default)]
    user: Named,
    #[serde(default)]
    project: Named,
    #[serde(default)]
    roles: Vec<Named>,
    #[serde(default)]
    catalog: Vec<Service>,
}

#[derive(Default, Deserialize)]
struct Named {
    #[serde(default)]
    id: String,
    #[serde(default)]
    name: String,
}

impl ToldToken {
    fn who(&self) -> WhoAmI {
        WhoAmI {
            user_id: self.user.id.clone(),
            user_name: self.user.name.clone(),
            project_id: self.project.id.clone(),
            project_name: self.project.name.clone(),
            roles: self.roles.iter().map(|role| role.name.clone()).collect(),
        }
    }
}

#[cfg(test)]
#[path = "keystone_tests.rs"]
mod tests;
