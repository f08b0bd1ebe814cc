//! One HTTP request: what is known of it when it has ended.
//!
//! ```text
//!   connect fails ----------------------> NotSent
//!   cut, or late, after that -----------> Unknown
//!   whole answer -----------------------> Raw, judged in `classify`
//! ```
//!
//! Reads keep their connections. Each write opens its own: a kept connection
//! that the server has just closed swallows a request, and nobody can tell
//! whether it was read. No redirect is followed, nothing is retried, and no
//! proxy of the environment is used: the decider must not hang on one.

use crate::answer::{Doubt, Failure, Unclear, Unsent};
use crate::credentials::Tls;
use crate::version::Microversion;
use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Certificate, Client, Identity, Method, Url};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// A host in the same site answers a SYN and a TLS hello well within that; longer, and a
/// deadline would run out before it is known that nothing was sent.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

/// A thousand servers with all their details take 3 to 10 MB.
pub(crate) const MAX_BODY: usize = 64 * 1024 * 1024;

/// Shorter than what servers and proxies commonly keep a connection for.
const IDLE: Duration = Duration::from_secs(4);

/// Why the files for TLS cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsProblem {
    #[error("{}: {cause}", .path.display())]
    File { path: PathBuf, cause: String },
    #[error("the files for TLS do not fit: {0}")]
    Unusable(String),
}

/// The two clients.
#[derive(Clone, Debug)]
pub(crate) struct Http {
    reads: Client,
    writes: Client,
}

/// One request.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub method: Method,
    pub url: Url,
    pub token: Option<&'a HeaderValue>,
    pub version: Option<Microversion>,
    pub body: Option<&'a serde_json::Value>,
    /// Our own id of the request.
    pub id: &'a str,
}

/// A whole answer, not yet judged.
#[derive(Debug)]
pub(crate) struct Raw {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Raw {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The server's own id of the request.
    pub fn request_id(&self) -> Option<String> {
        self.header("x-openstack-request-id").map(str::to_owned)
    }
}

/// A new id, in the only form that OpenStack's middleware takes from outside.
pub(crate) fn new_id() -> String {
    format!("req-{}", uuid::Uuid::new_v4())
}

impl Http {
    pub fn new(tls: &Tls) -> Result<Self, TlsProblem> {
        // The only provider that is built in; a second call changes nothing.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let build = |idle: usize| -> Result<Client, TlsProblem> {
            let builder = Client::builder()
                .user_agent(concat!("medevac/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT_WITHIN)
                .pool_idle_timeout(IDLE)
                .pool_max_idle_per_host(idle)
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .http1_only()
                .no_proxy();
            secured(builder, tls)?.build().map_err(|error| TlsProblem::Unusable(deepest(&error)))
        };
        // As many as the evacuations that run side by side, each confirmed by reads.
        Ok(Self { reads: build(32)?, writes: build(0)? })
    }

    /// Sends it and waits for the whole answer.
    pub async fn send(&self, call: Call<'_>, deadline: Instant) -> Result<Raw, Failure> {
        let began = Instant::now();
        if began >= deadline {
            return Err(Failure::NotSent(Unsent::NoTime));
        }
        let id = call.id.to_owned();
        let unknown = |doubt| Failure::Unknown(Unclear { doubt, sent_as: id.clone(), request_id: None });
        match tokio::time::timeout_at(deadline, self.exchange(call)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(unknown(Doubt::TimedOut { after: deadline - began })),
        }
    }

    async fn exchange(&self, call: Call<'_>) -> Result<Raw, Failure> {
        let client = if call.method == Method::GET { &self.reads } else { &self.writes };
        let to = place(&call.url);
        let mut request = client.request(call.method, call.url).header("accept", "application/json");
        request = request.header("x-openstack-request-id", call.id);
        if let Some(token) = call.token {
            request = request.header("x-auth-token", token);
        }
        if let Some(version) = call.version {
            request = request.header("openstack-api-version", format!("compute {version}"));
        }
        if let Some(body) = call.body {
            request = request.json(body);
        }
        let unknown = |doubt, request_id| Failure::Unknown(Unclear { doubt, sent_as: call.id.to_owned(), request_id });
        let mut response = request.send().await.map_err(|error| {
            if error.is_connect() || error.is_builder() {
                return Failure::NotSent(Unsent::Connect { to, cause: deepest(&error) });
            }
            unknown(Doubt::Cut { cause: deepest(&error) }, None)
        })?;
        let mut raw = Raw { status: response.status().as_u16(), headers: response.headers().clone(), body: Vec::new() };
        loop {
            match response.chunk().await {
                Ok(Some(piece)) if raw.body.len() + piece.len() > MAX_BODY => {
                    return Err(unknown(Doubt::TooLong { limit: MAX_BODY }, raw.request_id()));
                }
                Ok(Some(piece)) => raw.body.extend_from_slice(&piece),
                Ok(None) => return Ok(raw),
                Err(error) => return Err(unknown(Doubt::Cut { cause: deepest(&error) }, raw.request_id())),
            }
        }
    }
}

fn secured(mut builder: reqwest::ClientBuilder, tls: &Tls) -> Result<reqwest::ClientBuilder, TlsProblem> {
    if let Some(path) = &tls.ca {
        let bundle = Certificate::from_pem_bundle(&read(path)?).map_err(|error| unfit(path, &error))?;
        if bundle.is_empty() {
            return Err(TlsProblem::File { path: path.clone(), cause: "it holds no certificate in PEM".into() });
        }
        builder = builder.tls_certs_only(bundle);
    }
    if let Some((cert, key)) = &tls.own {
        let mut both = read(cert)?;
        if key != cert {
            both.push(b'\n');
            both.extend(read(key)?);
        }
        builder = builder.identity(Identity::from_pem(&both).map_err(|error| unfit(cert, &error))?);
    }
    if !tls.verify {
        tracing::warn!("certificates of Keystone and Nova are not checked: anybody on the way can give us orders");
    }
    Ok(builder.tls_danger_accept_invalid_certs(!tls.verify))
}

fn unfit(path: &Path, error: &reqwest::Error) -> TlsProblem {
    TlsProblem::File { path: path.to_owned(), cause: deepest(error) }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsProblem> {
    std::fs::read(path).map_err(|error| TlsProblem::File { path: path.to_owned(), cause: error.to_string() })
}

/// The outer layers only say that something went wrong.
fn deepest(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// Scheme, host and port: all that a message needs of an address.
pub(crate) fn place(url: &Url) -> String {
    url.origin().ascii_serialization()
}
