//! What is sent: one alert in the form that its receiver reads.
//!
//! ```text
//!   json           medevac's own, described in docs/alerts.md
//!   alertmanager   POST /api/v2/alerts of Prometheus' Alertmanager
//!   host-failure   the notification of the OpenStack HA specs, for lost hosts only
//!   template       whatever a minijinja template makes of the first one
//! ```

use jiff::{SignedDuration, Timestamp};
use medevac_triage::{AlertId, Cause, Letter, Lines, SegmentId, Severity, Wall};
use minijinja::{Environment, UndefinedBehavior};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// An alert that is not told again for this long is over for Alertmanager:
/// longer than a restart of ours takes, and several times what is told again.
const VALID_FOR: SignedDuration = SignedDuration::from_mins(5);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    Json,
    Alertmanager,
    HostFailure,
    Template { file: PathBuf, content_type: String },
}

impl Form {
    pub const NAMES: [&'static str; 4] = ["json", "alertmanager", "host-failure", "template"];

    pub fn name(&self) -> &'static str {
        match self {
            Form::Json => Self::NAMES[0],
            Form::Alertmanager => Self::NAMES[1],
            Form::HostFailure => Self::NAMES[2],
            Form::Template { .. } => Self::NAMES[3],
        }
    }
}

/// Medevac's own form.
pub fn own(letter: &Letter, site: &str) -> Value {
    json!({
        "version": 1,
        "site": site,
        "alert": letter.alert.to_string(),
        "revision": letter.revision,
        "state": if letter.firing { "firing" } else { "resolved" },
        "code": letter.code,
        "severity": letter.severity.name(),
        "segment": letter.segment.as_str(),
        "hosts": letter.hosts.iter().map(|host| host.as_str()).collect::<Vec<_>>(),
        "incidents": letter.incidents.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "lost": letter.lines.lost,
        "doing": letter.lines.doing,
        "todo": letter.lines.todo,
        "opened": time(letter.opened).to_string(),
        "changed": time(letter.changed).to_string(),
        "resolved": letter.resolved.map(|at| time(at).to_string()),
    })
}

/// Labels say which alert it is, so nothing that changes may be one of them:
/// but for the severity, which is what people route by, and only rises.
pub fn alertmanager(letters: &[Letter], site: &str, now: Timestamp) -> Value {
    let one = |letter: &Letter| {
        let mut labels = json!({
            "alertname": letter.code,
            "severity": letter.severity.name(),
            "site": site,
            "alert": letter.alert.to_string(),
        });
        // An empty label is none.
        if !letter.segment.as_str().is_empty() {
            labels["segment"] = letter.segment.as_str().into();
        }
        let hosts: Vec<&str> = letter.hosts.iter().map(|host| host.as_str()).collect();
        let incidents: Vec<String> = letter.incidents.iter().map(ToString::to_string).collect();
        let ends = letter.resolved.map_or_else(|| now.saturating_add(VALID_FOR).unwrap_or(now), time);
        json!({
            "labels": labels,
            "annotations": {
                "summary": letter.lines.lost,
                "description": format!("{}\n{}\n{}", letter.lines.lost, letter.lines.doing, letter.lines.todo),
                "doing": letter.lines.doing,
                "todo": letter.lines.todo,
                "hosts": hosts.join(", "),
                "incidents": incidents.join(", "),
            },
            "startsAt": time(letter.opened).to_string(),
            "endsAt": ends.to_string(),
        })
    };
    Value::Array(letters.iter().map(one).collect())
}

/// One notification for each lost host; none for anything else.
pub fn host_failures(letter: &Letter, site: &str, now: Timestamp) -> Vec<Value> {
    if !letter.firing || !matches!(letter.cause, Cause::HostsLost { .. }) {
        return Vec::new();
    }
    let of = |host: &medevac_triage::HostId| {
        json!({
            "id": stable_id(&format!("{site}/{}/{host}", letter.alert)),
            "event_type": "host failure",
            "version": "1.0",
            "generated_time": now.to_string(),
            "payload": { "hostname": host.as_str(), "failure_time": time(letter.opened).to_string() },
        })
    };
    letter.hosts.iter().map(of).collect()
}

/// The same for every try, so that a receiver knows what it has had.
fn stable_id(of: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, of.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.as_ref()[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
}

/// # Errors
/// What the template's author has to mend.
pub fn rendered(template: &str, letter: &Letter, site: &str, secret: Option<&str>) -> Result<String, String> {
    let environment = environment();
    let mut values = own(letter, site);
    values["secret"] = secret.map_or(Value::Null, Value::from);
    // The error's own text may quote values: only its kind and place are told.
    let told = |error: minijinja::Error| format!("line {}: {}", error.line().unwrap_or(0), error.kind());
    let template = environment.template_from_str(template).map_err(told)?;
    template.render(minijinja::value::Serde(values)).map_err(told)
}

/// What is wrong with a template; nothing that it says depends on an alert.
pub fn template_faults(text: &str) -> Option<String> {
    environment().template_from_str(text).err().map(|error| error.to_string())
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    // A misspelt name must not become an empty page at 3 a.m.
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment
}

/// What a trial of the receivers sends.
pub fn trial(firing: bool) -> Letter {
    let now = Wall(u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default());
    Letter {
        // Another one each time: a receiver may drop what it has had.
        alert: AlertId(now.0),
        revision: if firing { 1 } else { 2 },
        firing,
        code: Cause::Trial.code(),
        cause: Cause::Trial,
        severity: Severity::Info,
        segment: SegmentId::default(),
        hosts: BTreeSet::new(),
        incidents: BTreeSet::new(),
        lines: Lines {
            lost: "nothing: somebody tries out whether alerts arrive".to_owned(),
            doing: "nothing".to_owned(),
            todo: "nothing to do".to_owned(),
        },
        opened: now,
        changed: now,
        resolved: (!firing).then_some(now),
    }
}

fn time(at: Wall) -> Timestamp {
    i64::try_from(at.0).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
