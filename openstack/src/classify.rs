//! What a whole answer means.
//!
//! A "no" counts only in Nova's or Keystone's own form: a 404 page of a proxy that lost
//! its way must not read as "this server was deleted".

use crate::answer::{Doubt, Failure, Kind, Refusal, Unclear};
use crate::transport::Raw;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;

/// Enough of a foreign page to recognise it.
const SHOWN: usize = 120;

/// A request that asks to wait longer is not believed.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// The body of a success, as the type that is wanted.
pub(crate) fn read<T: DeserializeOwned>(raw: &Raw, sent_as: &str) -> Result<T, Failure> {
    succeeded(raw, sent_as)?;
    serde_json::from_slice(&raw.body).map_err(|error| unclear(raw, sent_as, misread(raw, &error)))
}

/// A success whose body does not matter, but must not be somebody else's page.
pub(crate) fn accepted(raw: &Raw, sent_as: &str) -> Result<(), Failure> {
    succeeded(raw, sent_as)?;
    if raw.body.iter().all(u8::is_ascii_whitespace) {
        return Ok(());
    }
    match serde_json::from_slice::<serde::de::IgnoredAny>(&raw.body) {
        Ok(_) => Ok(()),
        Err(error) => Err(unclear(raw, sent_as, misread(raw, &error))),
    }
}

fn misread(raw: &Raw, error: &serde_json::Error) -> Doubt {
    let json = raw.body.iter().find(|byte| !byte.is_ascii_whitespace()).is_some_and(|byte| b"{[n".contains(byte));
    if json {
        return Doubt::Unreadable { status: raw.status, cause: error.to_string() };
    }
    Doubt::NotJson { status: raw.status, began: began(&raw.body) }
}

fn succeeded(raw: &Raw, sent_as: &str) -> Result<(), Failure> {
    match raw.status {
        200..=299 => Ok(()),
        300..=399 => {
            let to = raw.header("location").unwrap_or("an address it does not name").to_owned();
            Err(unclear(raw, sent_as, Doubt::Redirected { status: raw.status, to }))
        }
        // A proxy gave up on one of the two sides; which one is not said.
        408 | 500.. => Err(unclear(
            raw,
            sent_as,
            Doubt::ServerError {
                status: raw.status,
                message: fault(&raw.body).unwrap_or_else(|| began(&raw.body)),
                retry_after: retry_after(raw),
            },
        )),
        _ => Err(refused(raw, sent_as)),
    }
}

fn refused(raw: &Raw, sent_as: &str) -> Failure {
    let message = fault(&raw.body);
    // A limit is also enforced by proxies, in pages of their own; it never lets a request through.
    let limited = raw.status == 429 || (raw.status == 413 && raw.header("retry-after").is_some());
    let Some(message) = message.or_else(|| limited.then(|| began(&raw.body))) else {
        return unclear(raw, sent_as, Doubt::NotJson { status: raw.status, began: began(&raw.body) });
    };
    let kind = kind(raw, &message);
    Failure::Refused(Refusal { status: raw.status, kind, message, request_id: raw.request_id() })
}

fn kind(raw: &Raw, message: &str) -> Kind {
    let no_host =
        message.contains("Compute host") && (message.contains("not found") || message.contains("not be found"));
    let unknown_target = no_host || message.contains("is not mapped to any cell");
    match raw.status {
        400 if message.contains("is still in use") => Kind::StillInUse,
        400 if message.contains("can't be the same") => Kind::SameHost,
        400 if message.contains("Unable to force up") => Kind::NotYet,
        400 | 404 if unknown_target => Kind::UnknownTarget,
        400 => Kind::BadRequest,
        401 | 403 => Kind::Forbidden,
        404 => Kind::NotFound,
        406 => Kind::Version,
        409 => Kind::Conflict,
        413 | 429 => Kind::TooMany { retry_after: retry_after(raw) },
        _ => Kind::Other,
    }
}

/// `{"badRequest": {"code": 400, "message": "..."}}`, whatever the outer name is.
fn fault(body: &[u8]) -> Option<String> {
    let Ok(Value::Object(outer)) = serde_json::from_slice::<Value>(body) else { return None };
    let inner = outer.values().find_map(Value::as_object)?;
    inner.get("message")?.as_str().map(str::to_owned)
}

fn retry_after(raw: &Raw) -> Option<Duration> {
    let seconds = raw.header("retry-after")?.trim().parse::<u64>().ok()?;
    Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
}

pub(crate) fn unclear(raw: &Raw, sent_as: &str, doubt: Doubt) -> Failure {
    Failure::Unknown(Unclear { doubt, sent_as: sent_as.to_owned(), request_id: raw.request_id() })
}

fn began(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * SHOWN)]);
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

    fn raw(status: u16, body: &str, headers: &[(&'static str, &'static str)]) -> Raw {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        Raw { status, headers: map, body: body.as_bytes().to_vec() }
    }

    fn answered(status: u16, message: &str) -> Failure {
        let body = serde_json::json!({"whatever": {"code": status, "message": message}}).to_string();
        accepted(&raw(status, &body, &[]), "req-ours").unwrap_err()
    }

    #[test]
    fn every_refusal_of_nova_has_its_kind() {
        let cases = [
            (400, "Compute service of hv2 is still in use.", Kind::StillInUse),
            (400, "The target host can't be the same one.", Kind::SameHost),
            (400, "Unable to force up host hv1 as `done` evacuation migration records remain", Kind::NotYet),
            (404, "Compute host hv9 not found.", Kind::UnknownTarget),
            (404, "Compute host hv9 could not be found.", Kind::UnknownTarget),
            (404, "Host 'hv9' is not mapped to any cell", Kind::UnknownTarget),
            (404, "Instance 0 could not be found.", Kind::NotFound),
            (409, "Cannot 'start' instance 0 while it is in vm_state active", Kind::Conflict),
            (403, "Policy doesn't allow os_compute_api:os-evacuate to be performed.", Kind::Forbidden),
            (406, "Version 2.99 is not supported by the API.", Kind::Version),
            (429, "This request was rate-limited.", Kind::TooMany { retry_after: None }),
            (413, "over the limit", Kind::TooMany { retry_after: None }),
            (400, "Bad networks format", Kind::BadRequest),
            (418, "teapot", Kind::Other),
        ];
        for (status, message, kind) in cases {
            let Failure::Refused(refusal) = answered(status, message) else { panic!("{status} {message}") };
            assert_eq!((refusal.kind, refusal.message.as_str()), (kind, message));
        }
    }

    #[test]
    fn a_no_in_a_foreign_form_says_nothing() {
        for status in [400, 401, 403, 404, 409, 413] {
            for body in ["<html><h1>404 Not Found</h1>", "", "{}", "[]", "null", "{\"error\": 7}"] {
                let failure = accepted(&raw(status, body, &[]), "req-ours").unwrap_err();
                assert!(matches!(failure, Failure::Unknown(_)), "{status} {body:?}: {failure:?}");
            }
        }
    }

    #[test]
    fn a_limit_counts_even_as_a_page() {
        for status in [429, 413] {
            let failure = accepted(&raw(status, "<html>slow down", &[("retry-after", "7")]), "r").unwrap_err();
            let Failure::Refused(refusal) = failure else { panic!("{failure:?}") };
            assert_eq!(refusal.kind, Kind::TooMany { retry_after: Some(Duration::from_secs(7)) });
        }
    }

    #[test]
    fn what_may_have_happened_is_unknown() {
        for (status, body) in [(500, "{}"), (502, "<html>"), (503, ""), (504, ""), (408, ""), (302, ""), (303, "{}")] {
            let failure = accepted(&raw(status, body, &[("x-openstack-request-id", "req-n")]), "req-o").unwrap_err();
            let Failure::Unknown(unclear) = failure else { panic!("{status}: {failure:?}") };
            assert_eq!((unclear.sent_as.as_str(), unclear.request_id.as_deref()), ("req-o", Some("req-n")));
        }
    }

    #[test]
    fn a_success_must_be_readable() {
        assert!(accepted(&raw(202, "", &[]), "r").is_ok());
        assert!(accepted(&raw(200, "null", &[]), "r").is_ok());
        assert!(accepted(&raw(200, "{\"adminPass\": \"x\"}", &[]), "r").is_ok());
        let html = accepted(&raw(200, "<!DOCTYPE html><p>Please  log in", &[]), "r").unwrap_err();
        assert!(html.to_string().contains("Please log in"), "{html}");
        let failure = read::<Vec<u8>>(&raw(200, "{\"servers\": [", &[]), "r").unwrap_err();
        let Failure::Unknown(Unclear { doubt: Doubt::Unreadable { .. }, .. }) = failure else { panic!("{failure:?}") };
    }
}
