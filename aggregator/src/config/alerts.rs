//! `[alerts]`: who is told, of what, and how.

use crate::alert::{Form, Place, Receiver, forbidden_host, template_faults};
use crate::peer::valid_name;
use medevac_settings::{Reader, Secret};
use medevac_triage::{Cause, SegmentId, Settings, Severity};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Receivers of one site: each is a task and a line in every alert's record.
const RECEIVERS_MAX: usize = 16;
/// A new key and the one that it replaces.
const SECRETS_MAX: usize = 2;

pub fn read(r: &mut Reader, s: &mut Settings, warnings: &mut Vec<String>) -> Vec<Receiver> {
    let longest = Duration::from_secs(3600);
    s.resolve_after = r.duration("alerts.resolve_after", s.resolve_after, Duration::ZERO..=longest);
    let count = r.array_len("alerts.receiver");
    if count > RECEIVERS_MAX {
        r.problem("alerts.receiver", &count.to_string(), &format!("at most {RECEIVERS_MAX} receivers"));
    }
    let mut receivers: Vec<Receiver> = Vec::new();
    for i in 0..count.min(RECEIVERS_MAX) {
        let one = receiver(r, i, warnings);
        if receivers.iter().any(|other| other.name == one.name) {
            r.problem(&format!("alerts.receiver[{i}].name"), &one.name, "is there twice");
        }
        s.receivers.push(filter(r, i, &one));
        receivers.push(one);
    }
    receivers
}

fn receiver(r: &mut Reader, i: usize, warnings: &mut Vec<String>) -> Receiver {
    let key = |name: &str| format!("alerts.receiver[{i}].{name}");
    let name = r.string(&key("name"), None);
    if !name.is_empty() && !valid_name(&name) {
        r.problem(&key("name"), &name, "must be letters, digits, dots, dashes and underscores");
    }
    let one = Receiver {
        url: place(r, i),
        form: form(r, i),
        secret_files: r.strings(&key("secret_files")).into_iter().map(PathBuf::from).collect(),
        bearer_file: r.path_opt(&key("bearer_file")),
        template_secret_file: r.path_opt(&key("template_secret_file")),
        ca_file: r.path_opt(&key("ca_file")),
        deadline: r.duration(
            &key("deadline"),
            Duration::from_secs(10),
            Duration::from_secs(1)..=Duration::from_secs(60),
        ),
        name,
    };
    if one.secret_files.len() > SECRETS_MAX {
        let message = "at most two: the new key, and the old one while receivers change";
        r.problem(&key("secret_files"), &one.secret_files.len().to_string(), message);
    }
    let url_file = if let Place::File(path) = &one.url { Some(path) } else { None };
    let files = one.secret_files.iter().chain(&one.bearer_file).chain(&one.template_secret_file).chain(url_file);
    warnings.extend(
        files.filter_map(|file| Secret::read(file).err()).map(|why| format!("alerts.receiver {}: {why}", one.name)),
    );
    one
}

fn place(r: &mut Reader, i: usize) -> Place {
    let (url_key, file_key) = (format!("alerts.receiver[{i}].url"), format!("alerts.receiver[{i}].url_file"));
    match (r.string_opt(&url_key), r.path_opt(&file_key)) {
        (Some(url), None) => {
            if let Some(why) = wrong_url(&url) {
                r.problem(&url_key, "", &why);
            }
            Place::Url(url)
        }
        (None, Some(file)) => Place::File(file),
        (given, _) => {
            let message = "must be given, or url_file where the URL itself is a secret; not both";
            r.problem(&url_key, "", message);
            Place::Url(given.unwrap_or_default())
        }
    }
}

fn wrong_url(text: &str) -> Option<String> {
    let url = match reqwest::Url::parse(text) {
        Ok(url) => url,
        Err(error) => return Some(format!("is no URL: {error}")),
    };
    if !matches!(url.scheme(), "http" | "https") {
        return Some("must begin with http:// or https://".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Some("must not hold a password: use bearer_file".to_owned());
    }
    url.host_str().and_then(forbidden_host).map(str::to_owned)
}

fn form(r: &mut Reader, i: usize) -> Form {
    let key = |name: &str| format!("alerts.receiver[{i}].{name}");
    let form = r.choice(&key("format"), Form::NAMES[0], &Form::NAMES);
    let file = r.path_opt(&key("template"));
    let content_type = r.string(&key("content_type"), Some("application/json"));
    match (form.as_str(), file) {
        ("template", Some(file)) => {
            if let Some(why) = faults(&file) {
                r.problem(&key("template"), &file.display().to_string(), &why);
            }
            Form::Template { file, content_type }
        }
        ("template", None) => {
            r.problem(&key("template"), "", "must be given with format = \"template\": a minijinja file");
            Form::Json
        }
        (_, Some(file)) => {
            r.problem(&key("template"), &file.display().to_string(), "needs format = \"template\"");
            Form::Json
        }
        ("alertmanager", None) => Form::Alertmanager,
        ("host-failure", None) => Form::HostFailure,
        _ => Form::Json,
    }
}

fn faults(file: &Path) -> Option<String> {
    match std::fs::read_to_string(file) {
        Ok(text) => template_faults(&text),
        Err(error) => Some(error.to_string()),
    }
}

fn filter(r: &mut Reader, i: usize, receiver: &Receiver) -> medevac_triage::Receiver {
    let key = |name: &str| format!("alerts.receiver[{i}].{name}");
    let severity = r.choice(&key("min_severity"), Severity::Info.name(), &Severity::ALL.map(Severity::name));
    let codes = r.strings(&key("codes"));
    for code in codes.iter().filter(|code| !Cause::CODES.contains(&code.as_str())) {
        r.problem(&key("codes"), code, &format!("is no alert's code; there are {}", Cause::CODES.join(", ")));
    }
    medevac_triage::Receiver {
        name: receiver.name.clone(),
        min_severity: Severity::parse(&severity).unwrap_or_default(),
        segments: r.strings(&key("segments")).into_iter().map(SegmentId).collect(),
        codes: codes.into_iter().collect(),
        level: receiver.form == Form::Alertmanager,
    }
}
