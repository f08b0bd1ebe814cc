//! Who may become a host: tokens, joining, renewing, and what is kept of them.
//!
//! ```text
//!   POST /tokens   admin     -> loop: hash, name, end, committed -> the token, told once
//!   POST /join     stranger  -> loop: the token is this key's now, committed -> signed
//!   POST /renew    host      -> loop: not revoked -> signed, for the same name
//! ```
//!
//! `/join` is the one route for those without a certificate: small bodies, few
//! at a time, few wrong tries. Nothing is signed before the loop has committed.

use super::{Api, Caller, Refused, bodies, verbs};
use crate::authority::{self, Authority, AuthorityError, Wanted};
use crate::doors::Doors;
use crate::listen::{Peer, TlsFiles};
use crate::peer::{Role, shown_serial, valid_name};
use crate::rank::Rank;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use medevac_proto::rest;
use medevac_proto::token::Token;
use medevac_triage::{AskedBy, CertificateAsk, HostId, NewToken, Observation, Word};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Semaphore;

/// Questions of strangers and hosts in work at the same time; each costs a signature or two.
const AT_ONCE: usize = 8;
/// Wrong tries from one address in a minute: a person mistypes, a script hammers.
const TRIES: u32 = 10;
const MINUTE: Duration = Duration::from_secs(60);
/// Addresses remembered for their tries.
const ADDRESSES_MAX: usize = 1024;
/// Names in one request.
const HOSTS_MAX: usize = 1000;
/// A token is for now, not for a drawer.
const TTL_S: std::ops::RangeInclusive<u64> = 60..=7 * 24 * 3600;
/// A token of thousands of hex digits is none; a signing request is short.
pub(super) const BODY_MAX: usize = 16 * 1024;

/// What joining and renewing need.
#[derive(Debug)]
pub struct Identities {
    pub doors: Arc<Doors>,
    /// `None`: no TLS, so nobody has a certificate.
    pub tls: Option<TlsFiles>,
    /// Of a host's certificate.
    pub lifetime: Duration,
    at_once: Semaphore,
    pace: Pace,
}

impl Identities {
    pub fn new(doors: Arc<Doors>, tls: Option<TlsFiles>, lifetime: Duration) -> Self {
        Self { doors, tls, lifetime, at_once: Semaphore::new(AT_ONCE), pace: Pace::default() }
    }

    fn authority(&self) -> Result<Authority, Refused> {
        let no = |message: String| Refused::new(StatusCode::CONFLICT, "no-authority", message);
        let files = self.tls.as_ref();
        let files = files.ok_or_else(|| no("without TLS nobody has a certificate, and nobody needs to join".into()))?;
        Authority::load(&files.ca, &files.ca_key).map_err(|error| no(error.to_string()))
    }
}

/// Wrong tries, by address.
#[derive(Debug, Default)]
struct Pace(Mutex<BTreeMap<IpAddr, (Instant, u32)>>);

impl Pace {
    fn wrong_tries(&self, address: IpAddr, more: u32) -> u32 {
        let mut from = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if from.len() >= ADDRESSES_MAX {
            from.retain(|_, (since, _)| since.elapsed() < MINUTE);
        }
        if from.len() >= ADDRESSES_MAX {
            // Somebody has more addresses than we have memory for; the others' tries are forgiven.
            from.clear();
        }
        let (since, tries) = from.entry(network(address)).or_insert((Instant::now(), 0));
        if since.elapsed() >= MINUTE {
            (*since, *tries) = (Instant::now(), 0);
        }
        *tries += more;
        *tries
    }
}

/// Whoever has one address of IPv6 has 2^64 of them.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(six) => IpAddr::V6(Ipv6Addr::from_bits(six.to_bits() >> 64 << 64)),
    }
}

/// Lets machines join. The tokens are in the answer, and nowhere else.
pub(super) async fn make_tokens(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Result<Json<rest::TokensAnswer>, Refused> {
    caller.needs(Rank::for_verb("token"), "token")?;
    let request: rest::TokensRequest = parse(&body)?;
    let reason = verbs::checked_reason(&request.reason)?;
    let hosts: BTreeSet<&String> = request.hosts.iter().collect();
    if let Some(wrong) = hosts.iter().find(|host| !valid_name(host)) {
        let message = format!("{wrong:.64?} cannot be the name of a host: letters, digits, dots, dashes, underscores");
        return Err(verbs::bad("bad-host", message));
    }
    if hosts.is_empty() || hosts.len() > HOSTS_MAX {
        return Err(verbs::bad("bad-host", format!("1 to {HOSTS_MAX} hosts at once, each once")));
    }
    if !TTL_S.contains(&request.ttl_s) {
        return Err(verbs::bad("bad-ttl", format!("a token lives for {} s to {} s", TTL_S.start(), TTL_S.end())));
    }
    let authority = api.identity.authority()?;
    let ttl = Duration::from_secs(request.ttl_s);
    let made: Vec<(String, Token)> =
        hosts.into_iter().map(|host| Ok((host.clone(), new_token(&authority)?))).collect::<Result<_, Refused>>()?;
    let kept = |(host, token): &(String, Token)| NewToken {
        id: token.id.clone(),
        hash: token.hash(),
        host: HostId(host.clone()),
    };
    let word = Word::MakeTokens { tokens: made.iter().map(kept).collect(), ttl };
    let answer = verbs::speak(&api, caller.name, word, reason).await?;
    answer.map_err(|refusal| Refused::new(StatusCode::CONFLICT, refusal.name, refusal.text))?;
    let ends_wall_ms = wall_ms() + medevac_triage::millis(ttl);
    let told = |(host, token): (String, Token)| rest::MadeToken { host, token: token.text(), ends_wall_ms };
    Ok(Json(rest::TokensAnswer { tokens: made.into_iter().map(told).collect() }))
}

fn new_token(authority: &Authority) -> Result<Token, Refused> {
    let (id, secret) = (authority::random::<8>(), authority::random::<32>());
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    match (id, secret) {
        (Some(id), Some(secret)) => Ok(Token::new(hex(&id), hex(&secret), authority.fingerprint.clone())),
        _ => Err(no_random()),
    }
}

fn no_random() -> Refused {
    Refused::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "this machine has no random numbers yet: try again")
}

/// What is kept of tokens and revocations.
pub(super) async fn view(State(api): State<Api>) -> Result<Json<rest::Identity>, Refused> {
    Ok(Json(api.ask(|triage, now| bodies::identity(triage.identity_view(now.at))).await?))
}

/// A machine that has a token, and nothing else.
pub(super) async fn join(
    State(api): State<Api>,
    peer: Option<Extension<Peer>>,
    body: Bytes,
) -> Result<Json<rest::Joined>, Refused> {
    let address = peer.map(|Extension(peer)| peer.address.ip());
    let tries = |more| address.map_or(0, |address| api.identity.pace.wrong_tries(address, more));
    if tries(0) >= TRIES {
        let message = format!("{TRIES} wrong tries from this address within a minute: wait for one");
        return Err(Refused::new(StatusCode::TOO_MANY_REQUESTS, "slow-down", message));
    }
    let joined = admit(&api, address, &body).await;
    if joined.as_ref().is_err_and(|refused| refused.status.is_client_error()) {
        tries(1);
    }
    joined.map(Json)
}

async fn admit(api: &Api, address: Option<IpAddr>, body: &[u8]) -> Result<rest::Joined, Refused> {
    let request: rest::JoinRequest = parse(body)?;
    let message = "this is no token, or not all of one: it begins with mdv1. and has four parts";
    let token = Token::parse(&request.token).ok_or_else(|| verbs::bad("bad-token", message))?;
    let _one = one_of_few(api)?;
    let authority = api.identity.authority()?;
    if !authority.trusts(&token.authority) {
        let message =
            "this token is of another site, or of an authority that this one no longer trusts: make a new one here";
        return Err(Refused::new(StatusCode::FORBIDDEN, "foreign-token", message));
    }
    let host = Some(request.host).filter(|host| !host.is_empty()).map(HostId);
    let by = AskedBy::Token { id: token.id.clone(), hash: token.hash(), host };
    let from = address.map_or_else(|| "this machine".to_owned(), |address| address.to_string());
    grant(api, &authority, &request.request, by, from).await
}

/// A host, for as long again.
pub(super) async fn renew(
    State(api): State<Api>,
    peer: Option<Extension<Peer>>,
    body: Bytes,
) -> Result<Json<rest::Joined>, Refused> {
    let Some((Extension(peer), host)) = peer.and_then(|peer| match peer.role.clone() {
        Some(Role::Host(host)) => Some((peer, host)),
        _ => None,
    }) else {
        let message = "only a host renews, by the certificate that it has";
        return Err(Refused::new(StatusCode::FORBIDDEN, "not-a-host", message));
    };
    let request: rest::RenewRequest = parse(&body)?;
    let _one = one_of_few(&api)?;
    let authority = api.identity.authority()?;
    let by = AskedBy::Certificate { host: HostId(host), serial: peer.serial };
    let from = peer.address.ip().to_string();
    grant(&api, &authority, &request.request, by, from).await.map(Json)
}

fn one_of_few(api: &Api) -> Result<tokio::sync::SemaphorePermit<'_>, Refused> {
    let message = "too many ask for certificates at once: try again in a moment";
    let busy = |_| Refused::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message);
    api.identity.at_once.try_acquire().map_err(busy)
}

/// Asks the loop, and signs what it has granted and committed.
async fn grant(
    api: &Api,
    authority: &Authority,
    request: &str,
    by: AskedBy,
    from: String,
) -> Result<rest::Joined, Refused> {
    if let Some(why) = api.desk.deposed() {
        return Err(Refused::new(StatusCode::CONFLICT, "not-deciding", why));
    }
    let wanted = Wanted::read(request).map_err(|error| verbs::bad("bad-request", error.to_string()))?;
    let serial = authority::new_serial().ok_or_else(no_random)?;
    let ask = CertificateAsk { by, key: wanted.fingerprint.clone(), serial: shown_serial(&serial), from };
    let answer = verbs::answered(api, |token| Observation::CertificateAsked { token, ask }).await?;
    let host = answer.map_err(|refusal| Refused::new(StatusCode::FORBIDDEN, refusal.name, refusal.text))?;
    let unsigned = |error: AuthorityError| Refused::new(StatusCode::CONFLICT, "no-authority", error.to_string());
    let certificate = authority.sign_host(&wanted, &host, &serial, api.identity.lifetime).map_err(unsigned)?;
    Ok(rest::Joined { host, certificate, ca: authority.bundle.clone(), wall_ms: wall_ms() })
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Refused> {
    // The error of a parser can quote what it read, and that may be a token.
    let message = |error: serde_json::Error| match error.classify() {
        serde_json::error::Category::Data => format!(
            "a field is missing, unknown or of the wrong kind, at column {}; see /api/v1/openapi.json",
            error.column()
        ),
        _ => "the body is no JSON".to_owned(),
    };
    serde_json::from_slice(body).map_err(|error| verbs::bad("bad-json", message(error)))
}

fn wall_ms() -> u64 {
    medevac_triage::millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn wrong_tries_are_counted_by_address_and_by_network_of_ipv6() {
        let pace = Pace::default();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for tries in 1..=TRIES {
            assert_eq!(pace.wrong_tries(ip("10.0.0.1"), 1), tries);
        }
        assert_eq!(pace.wrong_tries(ip("10.0.0.2"), 1), 1);
        assert_eq!(pace.wrong_tries(ip("fd00::1"), 1), 1);
        assert_eq!(pace.wrong_tries(ip("fd00::ffff:1"), 1), 2);
        assert_eq!(pace.wrong_tries(ip("fd00:0:0:1::1"), 1), 1);
        for n in 0..2000 {
            pace.wrong_tries(IpAddr::V4(n.into()), 1);
        }
        assert!(pace.0.lock().unwrap().len() <= ADDRESSES_MAX);
    }

    #[test]
    fn a_body_that_is_not_understood_is_not_quoted() {
        let refused = parse::<rest::JoinRequest>(br#"{"tocken":"mdv1.secret"}"#).err().unwrap();
        assert!(!refused.body.message.contains("secret"), "{}", refused.body.message);
    }
}
