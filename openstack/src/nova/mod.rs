//! Nova: one way for reads, one for writes, and the calls on top of them.
//!
//! ```text
//!            token, endpoint, microversion          401
//!   read  -> ------------------------------> GET  ------> new token, once more
//!   write -> ------------------------------> POST ------> new token, NotSent
//!                                            PUT
//! ```
//!
//! A write that a stale token stopped at the door is given back as not sent: only the
//! caller knows whether what it had read before is still true after a login.

mod pages;
mod reads;
mod writes;

pub use reads::MigrationFilter;
pub use writes::ResetTo;

use crate::answer::{Accepted, Answer, Failure, Refusal, Unsent};
use crate::classify;
use crate::credentials::Credentials;
use crate::glance::Glance;
use crate::keystone::{Keystone, Token, WhoAmI};
use crate::transport::{self, Call, Raw, TlsProblem};
use crate::version::{Document, Microversion, Range, VersionProblem};
use reqwest::{Method, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::time::Instant;

/// Nova's API; clones share connections, token and what was agreed upon.
#[derive(Clone, Debug)]
pub struct Nova {
    keystone: Keystone,
    agreed: Arc<Agreement>,
}

#[derive(Debug, Default)]
struct Agreement {
    now: Mutex<Option<Served>>,
    /// One negotiation at a time; the others wait for its result.
    negotiating: tokio::sync::Mutex<()>,
}

/// What an endpoint serves, and where.
#[derive(Clone, Debug)]
struct Served {
    endpoint: Url,
    base: Url,
    range: Range,
}

/// Everything that a request needs.
struct Session {
    token: Arc<Token>,
    base: Url,
    range: Range,
}

/// That Nova can be reached, as whom, and what it speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    pub endpoint: String,
    /// The newest that the server serves.
    pub newest: Microversion,
    /// What evacuations are sent at.
    pub writes: Microversion,
    pub who: WhoAmI,
}

/// Which microversion a call asks for, at most.
#[derive(Clone, Copy)]
enum Cap {
    Reads,
    Writes,
}

impl Cap {
    fn of(self, range: Range) -> Microversion {
        range.at_most(match self {
            Cap::Reads => Microversion::READS,
            Cap::Writes => Microversion::WRITES,
        })
    }
}

impl Nova {
    /// Sends nothing yet.
    ///
    /// # Errors
    /// The files for TLS cannot be used.
    pub fn new(credentials: Credentials) -> Result<Self, TlsProblem> {
        Ok(Self::with(Keystone::new(credentials)?))
    }

    pub fn with(keystone: Keystone) -> Self {
        Self { keystone, agreed: Arc::default() }
    }

    /// With the same token and connections.
    pub fn glance(&self) -> Glance {
        Glance::with(self.keystone.clone())
    }

    /// Logs in and agrees on a microversion, unless that has been done: to find faults
    /// at start, and to have a fresh token before a recovery begins.
    pub async fn reach(&self, deadline: Instant) -> Answer<Reached> {
        let session = self.session(deadline).await;
        let reached = session.map(|session| Reached {
            endpoint: session.base.to_string(),
            newest: session.range.max,
            writes: Cap::Writes.of(session.range),
            who: session.token.who.clone(),
        });
        reached.map_err(Failure::NotSent).into()
    }

    async fn get<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        deadline: Instant,
    ) -> Result<T, Failure> {
        let mut repeated = false;
        loop {
            let outcome = self.get_once(path, query, deadline).await;
            // A kept connection that the server has just closed, or a token that it no longer knows: a
            // read may be sent again. Once, or a server that always does so would keep us for ever.
            let again = matches!(
                &outcome,
                Err(Failure::NotSent(Unsent::TokenRejected))
                    | Err(Failure::Unknown(crate::Unclear { doubt: crate::Doubt::Cut { .. }, .. }))
            );
            if repeated || !again {
                return outcome;
            }
            repeated = true;
        }
    }

    async fn get_once<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        deadline: Instant,
    ) -> Result<T, Failure> {
        let session = self.session(deadline).await.map_err(Failure::NotSent)?;
        let mut url = at(&session.base, path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let id = transport::new_id();
        let (token, version) = (Some(&session.token.header), Some(Cap::Reads.of(session.range)));
        let call = Call { method: Method::GET, url, token, version, body: None, id: &id };
        let raw = self.keystone.http().send(call, deadline).await?;
        if raw.status == 401 {
            self.keystone.reject(&session.token);
            return Err(Failure::NotSent(Unsent::TokenRejected));
        }
        self.judged(classify::read(&raw, &id))
    }

    /// Sends a write once, whatever happens.
    async fn write(
        &self,
        method: Method,
        path: &[&str],
        body: impl FnOnce(Microversion) -> Value,
        deadline: Instant,
    ) -> Result<(Raw, Accepted), Failure> {
        let session = self.session(deadline).await.map_err(Failure::NotSent)?;
        let version = Cap::Writes.of(session.range);
        let (url, body, id) = (at(&session.base, path), body(version), transport::new_id());
        let token = Some(&session.token.header);
        let call = Call { method, url, token, version: Some(version), body: Some(&body), id: &id };
        let raw = self.keystone.http().send(call, deadline).await?;
        if raw.status == 401 && at_the_door(&raw) {
            self.keystone.reject(&session.token);
            // For the caller's next attempt; how it ends will be told by that one.
            let _ = self.keystone.token(deadline).await;
            return Err(Failure::NotSent(Unsent::TokenRejected));
        }
        self.judged(classify::accepted(&raw, &id))?;
        let accepted = Accepted { request_id: raw.request_id(), sent_as: id, version };
        Ok((raw, accepted))
    }

    /// A microversion that is served no more is negotiated again for the next call.
    fn judged<T>(&self, outcome: Result<T, Failure>) -> Result<T, Failure> {
        if let Err(Failure::Refused(Refusal { kind: crate::Kind::Version, .. })) = &outcome {
            *self.agreed.now.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        outcome
    }

    async fn session(&self, deadline: Instant) -> Result<Session, Unsent> {
        let mut repeated = false;
        loop {
            let token = self.keystone.token(deadline).await?;
            let endpoint = token.compute.clone().map_err(Unsent::Catalog)?;
            match self.served(&token, endpoint, deadline).await {
                Ok(Served { base, range, .. }) => return Ok(Session { token, base, range }),
                Err(Unsent::TokenRejected) if !repeated => repeated = true,
                Err(unsent) => return Err(unsent),
            }
        }
    }

    async fn served(&self, token: &Arc<Token>, endpoint: Url, deadline: Instant) -> Result<Served, Unsent> {
        if let Some(served) = self.agreed(&endpoint) {
            return Ok(served);
        }
        let waiting = tokio::time::timeout_at(deadline, self.agreed.negotiating.lock()).await;
        let _guard = waiting.map_err(|_| Unsent::NoTime)?;
        if let Some(served) = self.agreed(&endpoint) {
            return Ok(served);
        }
        let served = self.negotiate(token, endpoint, deadline).await?;
        *self.agreed.now.lock().unwrap_or_else(PoisonError::into_inner) = Some(served.clone());
        Ok(served)
    }

    fn agreed(&self, endpoint: &Url) -> Option<Served> {
        let now = self.agreed.now.lock().unwrap_or_else(PoisonError::into_inner);
        now.clone().filter(|served| served.endpoint == *endpoint)
    }

    async fn negotiate(&self, token: &Arc<Token>, endpoint: Url, deadline: Instant) -> Result<Served, Unsent> {
        let (document, base) = places(&endpoint);
        let (url, id) = (document.to_string(), transport::new_id());
        let unread = |cause: String| Unsent::Version(VersionProblem::Unread { url: url.clone(), cause });
        let header = Some(&token.header);
        let call = Call { method: Method::GET, url: document, token: header, version: None, body: None, id: &id };
        let mut raw = match self.keystone.http().send(call, deadline).await {
            Ok(raw) => raw,
            Err(Failure::NotSent(unsent)) => return Err(unsent),
            Err(failure) => return Err(unread(failure.to_string())),
        };
        if raw.status == 401 {
            self.keystone.reject(token);
            return Err(Unsent::TokenRejected);
        }
        if raw.status == 300 {
            // "Multiple choices": how some servers head the list of all their versions.
            raw.status = 200;
        }
        let document: Document = classify::read(&raw, &id).map_err(|failure| unread(failure.to_string()))?;
        let range = document.range(&url).map_err(Unsent::Version)?;
        tracing::info!(nova = %base, newest = %range.max, writes = %Cap::Writes.of(range), "agreed with Nova");
        Ok(Served { endpoint, base, range })
    }
}

/// Turned away by the middleware in front of Nova: the form of its body is Keystone's.
fn at_the_door(raw: &Raw) -> bool {
    let challenged = raw.header("www-authenticate").is_some_and(|text| text.starts_with("Keystone"));
    let body = serde_json::from_slice::<Value>(&raw.body).unwrap_or_default();
    challenged || body["error"]["code"] == 401
}

/// Where an endpoint's version document is, and what the paths of calls begin with. A project's id
/// behind the version is dropped: Nova has long done without it.
fn places(endpoint: &Url) -> (Url, Url) {
    let parts: Vec<&str> = endpoint.path().split('/').filter(|part| !part.is_empty()).collect();
    let version =
        |part: &&str| part.strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let (mut document, mut base) = (endpoint.clone(), endpoint.clone());
    match parts.iter().rposition(version) {
        Some(last) => {
            let path = format!("/{}", parts[..=last].join("/"));
            document.set_path(&format!("{path}/"));
            base.set_path(&path);
        }
        None => {
            let path = parts.iter().map(|part| format!("/{part}")).collect::<String>();
            document.set_path(&format!("{path}/"));
            base.set_path(&format!("{path}/v2.1"));
        }
    }
    document.set_query(None);
    base.set_query(None);
    (document, base)
}

fn at(base: &Url, path: &[&str]) -> Url {
    let mut url = base.clone();
    url.path_segments_mut().expect("an http address has a path").pop_if_empty().extend(path);
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_an_endpoint_leads_to_the_same_place() {
        let cases = [
            ("http://h:8774/v2.1", "http://h:8774/v2.1/", "http://h:8774/v2.1"),
            ("http://h:8774/v2.1/", "http://h:8774/v2.1/", "http://h:8774/v2.1"),
            ("https://h/compute/v2.1/383a89c7", "https://h/compute/v2.1/", "https://h/compute/v2.1"),
            ("https://h/compute", "https://h/compute/", "https://h/compute/v2.1"),
            ("http://h:8774", "http://h:8774/", "http://h:8774/v2.1"),
        ];
        for (endpoint, document, base) in cases {
            let (got_document, got_base) = places(&Url::parse(endpoint).unwrap());
            assert_eq!((got_document.as_str(), got_base.as_str()), (document, base), "{endpoint}");
        }
    }

    #[test]
    fn an_id_cannot_leave_its_place_in_the_path() {
        let base = Url::parse("http://h/v2.1").unwrap();
        assert_eq!(
            at(&base, &["servers", "../os-services?x#y"]).as_str(),
            "http://h/v2.1/servers/..%2Fos-services%3Fx%23y"
        );
    }
}
