//! `POST /api/v1/verbs`: an operator's word, with its reason.

use super::{Api, Caller, Extension, IntoResponse, Json, Refused, State, StatusCode, unanswered};
use crate::desk::{self, Answer};
use crate::peer::valid_name;
use crate::rank::Rank;
use axum::body::Bytes;
use medevac_proto::rest::{Verb, VerbAnswer, VerbRequest};
use medevac_triage::{BootId, HostId, IncidentId, InstanceId, Mode, Observation, Refusal, SegmentId, Whose, Word};
use std::time::Duration;

/// The longest name in a verb.
const NAME_MAX: usize = 255;

/// Takes the word into the loop; answers once it is committed.
pub(super) async fn post(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Result<impl IntoResponse, Refused> {
    let (name, word, reason) = read(&body)?;
    caller.needs(Rank::for_verb(&name), &name)?;
    Ok(told(speak(&api, caller.name, word, reason).await?))
}

/// Hands a word to the loop; its answer, once it is committed.
pub(super) async fn speak(api: &Api, by: String, word: Word, reason: String) -> Result<Answer, Refused> {
    if let Some(text) = api.desk.deposed() {
        return Ok(Err(Refusal { name: "not-deciding", text }));
    }
    answered(api, |token| Observation::OperatorSpoke { token, by, reason, word }).await
}

/// Waits at the desk for the answer to something that is told to the loop.
pub(super) async fn answered(api: &Api, told: impl FnOnce(u64) -> Observation) -> Result<Answer, Refused> {
    api.desk.ask(&api.inbox, told).await.map_err(unanswered)
}

/// What became of a word, as it is told.
pub(super) fn told(answer: Answer) -> (StatusCode, Json<VerbAnswer>) {
    match answer {
        Ok(text) => (StatusCode::OK, Json(VerbAnswer { done: true, refused: String::new(), text })),
        Err(refusal) => (StatusCode::CONFLICT, Json(refused(refusal.name, refusal.text))),
    }
}

fn refused(name: &str, text: String) -> VerbAnswer {
    VerbAnswer { done: false, refused: name.into(), text }
}

pub(super) fn bad(code: &str, message: impl Into<String>) -> Refused {
    Refused::new(StatusCode::BAD_REQUEST, code, message)
}

/// Reads a request strictly: a misspelt field must not change what is done.
fn read(body: &[u8]) -> Result<(String, Word, String), Refused> {
    let given: serde_json::Value =
        serde_json::from_slice(body).map_err(|error| bad("bad-json", format!("the body is no JSON: {error}")))?;
    let request: VerbRequest = serde_json::from_value(given.clone())
        .map_err(|error| bad("bad-verb", format!("{error}; see /api/v1/openapi.json")))?;
    let known = serde_json::to_value(&request).map_err(|error| bad("bad-verb", error.to_string()))?;
    let unknown: Vec<_> = fields(&given).filter(|field| known.get(field).is_none()).collect();
    if !unknown.is_empty() {
        return Err(bad(
            "unknown-field",
            format!("this verb has no field {}: correct or remove it", unknown.join(", ")),
        ));
    }
    let reason = checked_reason(&request.reason)?;
    let too_long = fields(&given)
        .find(|field| given[field].as_str().is_some_and(|text| text.len() > NAME_MAX) && field != "reason");
    if let Some(field) = too_long {
        return Err(bad("too-long", format!("`{field}` is longer than {NAME_MAX} bytes")));
    }
    let name = known["verb"].as_str().unwrap_or_default().to_owned();
    Ok((name, word(request.verb)?, reason))
}

/// A sentence, without what would break a log's lines.
pub(super) fn checked_reason(given: &str) -> Result<String, Refused> {
    desk::checked_reason(given).map_err(|message| bad("bad-reason", message))
}

fn fields(value: &serde_json::Value) -> impl Iterator<Item = String> + '_ {
    value.as_object().into_iter().flat_map(|object| object.keys().cloned())
}

fn word(verb: Verb) -> Result<Word, Refused> {
    Ok(match verb {
        Verb::Mode { segment, mode, others_are_off } => {
            let message = format!("{mode:?} is no mode: observe, approve or act");
            let mode = Mode::parse(&mode).ok_or_else(|| bad("bad-mode", message))?;
            Word::SetMode { segment: SegmentId(segment), mode, others_are_off }
        }
        Verb::Pause => Word::Pause,
        Verb::Resume => Word::Resume,
        Verb::Maintenance { host, on, until_back, for_s } => {
            Word::Maintenance { host: HostId(host), on, until_back, limit: for_s.map(Duration::from_secs) }
        }
        Verb::Approve { incident } => Word::Approve { incident: incident_id(&incident)? },
        Verb::Cancel { incident } => Word::Cancel { incident: incident_id(&incident)? },
        Verb::Retry { incident } => Word::Retry { incident: incident_id(&incident)? },
        Verb::ConfirmFenced { host, boot } => Word::ConfirmFenced { host: HostId(host), boot: boot.map(BootId) },
        Verb::Fence { host } => Word::Fence { host: HostId(host) },
        Verb::Release { host } => Word::Release { host: HostId(host) },
        Verb::PowerOn { host } => Word::PowerOn { host: HostId(host) },
        Verb::PinDevice { host } => Word::PinDevice { host: HostId(host) },
        Verb::Protect { instance } => Word::Protect { instance: instance_id(&instance)? },
        Verb::Unprotect { instance } => Word::Unprotect { instance: instance_id(&instance)? },
        Verb::Recover { instance } => Word::Recover { instance: instance_id(&instance)? },
        Verb::Forget { host } => Word::Forget { host: HostId(host) },
        Verb::RetryAlerts { receiver } => Word::RetryAlerts { receiver },
        Verb::Revoke { whose } => Word::Revoke { whose: named(&whose)? },
        Verb::AcceptDevice { host } => Word::AcceptDevice { host: HostId(host) },
        Verb::ForgetDevice { host } => Word::ForgetDevice { host: HostId(host) },
    })
}

fn named(whose: &str) -> Result<Whose, Refused> {
    let message = format!("{whose:?} is neither the name of a host nor the serial number of a certificate");
    let whose = Whose::parse(whose);
    let known = !matches!(&whose, Whose::Host(host) if !valid_name(&host.0));
    known.then_some(whose).ok_or_else(|| bad("bad-host", message))
}

fn incident_id(text: &str) -> Result<IncidentId, Refused> {
    super::parse(text)
}

fn instance_id(text: &str) -> Result<InstanceId, Refused> {
    let message = || format!("{text:?} is no instance: give its UUID, see `medevacctl instances`");
    let uuid = uuid::Uuid::try_parse(text).map_err(|_| bad("bad-instance", message()))?;
    Ok(InstanceId(uuid.hyphenated().to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn no(body: &str) -> String {
        let refused = read(body.as_bytes()).unwrap_err();
        assert_eq!(refused.status, StatusCode::BAD_REQUEST);
        format!("{}: {}", refused.body.code, refused.body.message)
    }

    #[test]
    fn a_verb_is_read_with_its_reason() {
        let (name, word, reason) =
            read(br#"{"verb":"maintenance","host":"hv1","on":true,"reason":" new disk "}"#).unwrap();
        assert_eq!(word, Word::Maintenance { host: "hv1".into(), on: true, until_back: false, limit: None });
        assert_eq!((name.as_str(), reason.as_str()), ("maintenance", "new disk"));
        assert_eq!(read(br#"{"verb":"pause","reason":"x"}"#).unwrap().1, Word::Pause);
        let (_, word, _) = read(br#"{"verb":"approve","incident":"inc-7","reason":"x"}"#).unwrap();
        assert_eq!(word, Word::Approve { incident: IncidentId(7) });
    }

    #[test]
    fn an_unknown_field_is_refused_by_name() {
        assert!(
            no(r#"{"verb":"maintenance","host":"hv1","on":true,"untilback":true,"reason":"x"}"#).contains("untilback")
        );
        assert!(no(r#"{"verb":"pause","host":"hv1","reason":"x"}"#).contains("host"));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        assert!(no("{").starts_with("bad-json"));
        assert!(no(r#"{"verb":"destroy","reason":"x"}"#).contains("destroy"));
        assert!(no(r#"{"verb":"fence","host":"hv1"}"#).contains("reason"));
        assert!(no(r#"{"verb":"fence","host":"hv1","reason":"  "}"#).starts_with("bad-reason"));
        assert!(
            no(r#"{"verb":"mode","segment":"default","mode":"on","reason":"x"}"#).contains("observe, approve or act")
        );
        assert!(no(r#"{"verb":"recover","instance":"web","reason":"x"}"#).contains("UUID"));
        assert!(no(r#"{"verb":"revoke","whose":"../hv1","reason":"x"}"#).starts_with("bad-host"));
        assert!(no(r#"{"verb":"cancel","incident":"seven","reason":"x"}"#).starts_with("bad-incident"));
    }
}
