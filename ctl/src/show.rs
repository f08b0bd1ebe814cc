//! Bodies as tables for people. Pure: values in, text out.

use medevac_proto::rest::{
    Explanation, Fence, Host, Identity, Incident, IncidentHead, Instance, MatrixRow, Said, SentAlert, Status,
    TokensAnswer, Trial,
};
use tabled::builder::Builder;
use tabled::settings::{Padding, Style};

/// Unprotected instances in a status; `instances --unprotected` has them all.
const UNPROTECTED_SHOWN: usize = 10;

fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut builder = Builder::default();
    builder.push_record(head.iter().copied());
    for row in rows {
        builder.push_record(row);
    }
    let mut table = builder.build();
    table.with(Style::empty()).with(Padding::new(0, 2, 0, 0));
    let lines = table.to_string();
    lines.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// Coverage first, then what is going on.
pub fn status(status: Status) -> String {
    let mut lines = vec![
        format!("site {}, epoch {}, {}, up {}", status.site, status.epoch, status.role, duration(status.uptime_ms)),
        format!(
            "covered: {} of {} instances, {} of {} hosts heard, {} without a way to prove their death",
            status.instances_protected,
            status.instances_total,
            status.hosts_heard,
            status.hosts_total,
            status.hosts_without_proof.len()
        ),
    ];
    if let Some(why) = &status.paused {
        lines.push(format!("PAUSED, nothing is ordered: {why}; end it with: medevacctl resume --reason '...'"));
    }
    for alert in &status.alerts {
        lines.push(format!("ALERT {}: {}", alert.code, alert.text));
    }
    let segments =
        status.segments.iter().map(|s| vec![s.name.clone(), s.mode.clone(), format!("{} of {}", s.heard, s.hosts)]);
    lines.push(String::new());
    lines.push(table(&["SEGMENT", "MODE", "HEARD"], segments));
    if !status.hosts_without_proof.is_empty() {
        let rows = status.hosts_without_proof.iter().map(|(host, why)| vec![host.clone(), why.clone()]);
        lines.extend([String::new(), table(&["HOST", "ITS DEATH CANNOT BE PROVEN"], rows)]);
    }
    if !status.unprotected.is_empty() {
        let shown = status.unprotected.iter().take(UNPROTECTED_SHOWN);
        let rows = shown.map(|one| vec![name(&one.name, &one.instance), one.host.clone(), one.reason.clone()]);
        lines.extend([String::new(), table(&["INSTANCE", "HOST", "NOT COVERED"], rows)]);
        let more = status.unprotected.len().saturating_sub(UNPROTECTED_SHOWN);
        if more > 0 {
            lines.push(format!("and {more} more: medevacctl instances --unprotected"));
        }
    }
    lines.push(String::new());
    lines.push(incidents(&status.open_incidents));
    lines.join("\n")
}

fn name(name: &str, id: &str) -> String {
    if name.is_empty() { id.to_owned() } else { name.to_owned() }
}

pub fn hosts(hosts: &[Host]) -> String {
    if hosts.is_empty() {
        return "no host has joined yet: start medevac-agent on a hypervisor".into();
    }
    let row = |host: &Host| {
        let state = if host.why.is_empty() { host.state.clone() } else { format!("{}: {}", host.state, host.why) };
        let incident = host.incident.clone().unwrap_or_else(|| "-".into());
        let instances = host.instances.to_string();
        vec![
            host.name.clone(),
            host.segment.clone(),
            instances,
            duration(host.silent_ms),
            incident,
            host.proof.clone(),
            state,
        ]
    };
    let mut text =
        table(&["HOST", "SEGMENT", "INSTANCES", "SILENT", "INCIDENT", "PROOF", "STATE"], hosts.iter().map(row));
    for host in hosts {
        for warning in &host.warnings {
            text.push_str(&format!("\nwarning, {}: {warning}", host.name));
        }
    }
    text
}

/// One device a line; a host that has none is a line, too.
pub fn fences(fences: &[Fence]) -> String {
    if fences.is_empty() {
        return "no host has joined yet, and no fence device is configured".into();
    }
    let dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let row = |one: &Fence| {
        let level = if one.level == 0 { "-".into() } else { one.level.to_string() };
        let place = if one.plug.is_empty() { one.address.clone() } else { format!("{}:{}", one.address, one.plug) };
        let answered = one.answered_ms.map_or_else(|| "never".to_owned(), |ms| format!("{} ago", duration(ms)));
        let login = match (one.level, one.error.is_empty()) {
            (0, _) => "-".to_owned(),
            (_, true) => answered,
            (_, false) => format!("{answered}; {}", one.error),
        };
        let power = if one.level == 0 { "-" } else { &one.power };
        let mapping = format!("{}: {}", one.mapping, one.why);
        let words = [&one.host, &level, &one.agent, &place, &one.from].map(|text| dash(text));
        words.into_iter().chain([power.to_owned(), login, mapping]).collect()
    };
    let titles = ["HOST", "LEVEL", "AGENT", "ADDRESS", "FROM", "POWER", "LAST LOGIN", "MAPPING"];
    let mut text = table(&titles, fences.iter().map(row));
    for one in fences.iter().filter(|one| one.todo != "nothing to do") {
        text.push_str(&format!("\n{}: {}", one.host, one.todo));
    }
    text
}

pub fn instances(instances: &[Instance]) -> String {
    if instances.is_empty() {
        return "no instances".into();
    }
    let row = |one: &Instance| {
        let covered = match (one.protected, one.recoverable_elsewhere) {
            (true, true) => "yes",
            (true, false) => "at home",
            (false, _) => "no",
        };
        let homes = if one.homes.is_empty() { "-".into() } else { one.homes.join(",") };
        let memory = format!("{} MiB", one.memory_kib / 1024);
        let (uuid, name, state) = (one.uuid.clone(), one.name.clone(), one.state.clone());
        vec![uuid, name, state, homes, memory, covered.into(), one.reason.clone(), one.policy.clone()]
    };
    let titles = ["UUID", "NAME", "STATE", "MAY RUN ON", "MEMORY", "PROTECTED", "WHY NOT", "POLICY"];
    table(&titles, instances.iter().map(row))
}

pub fn alerts(alerts: &[SentAlert]) -> String {
    if alerts.is_empty() {
        return "nothing fires".into();
    }
    let mut lines = Vec::new();
    for one in alerts {
        let since = time(one.opened_wall_ms);
        lines.push(format!("{}  {} {} {}, since {since}", one.id, one.state, one.severity, one.code));
        lines.extend([&one.lost, &one.doing, &one.todo].map(|line| format!("  {line}")));
        lines.extend(one.receivers.iter().map(|(name, told)| format!("  {name}: {told}")));
    }
    lines.join("\n")
}

pub fn trials(trials: &[Trial]) -> String {
    let row = |one: &Trial| {
        let result = if one.taken { "took it".to_owned() } else { one.text.clone() };
        vec![one.receiver.clone(), result]
    };
    table(&["RECEIVER", "RESULT"], trials.iter().map(row))
}

pub fn incidents(incidents: &[IncidentHead]) -> String {
    if incidents.is_empty() {
        return "no open incidents".into();
    }
    let row = |one: &IncidentHead| {
        let words = [&one.id, &one.kind, &one.subject, &one.state].map(Clone::clone);
        words.into_iter().chain([time(one.opened_wall_ms), one.doing.clone(), one.todo.clone()]).collect()
    };
    table(&["INCIDENT", "KIND", "OF", "STATE", "SINCE", "DOING", "TO DO"], incidents.iter().map(row))
}

/// Three lines first: what is lost, what is done, what to do.
pub fn incident(incident: Incident) -> String {
    let head = &incident.head;
    let mut lines = vec![
        format!("lost:   {}", head.lost),
        format!("doing:  {}", head.doing),
        format!("to do:  {}", head.todo),
        String::new(),
        format!("{}, {} of {}, {}", head.id, head.kind, head.subject, head.state),
    ];
    let closed = head.closed_wall_ms.map(|ms| format!(", closed {}", time(ms))).unwrap_or_default();
    lines.push(format!("opened {}{closed}", time(head.opened_wall_ms)));
    let entries = incident.timeline.iter();
    let entries = entries.map(|e| vec![time(e.wall_ms), seconds(e.since_ms), e.code.clone(), e.text.clone()]);
    lines.extend([String::new(), table(&["TIME", "AFTER", "WHAT", "DETAIL"], entries)]);
    if !incident.instances.is_empty() {
        let rows = incident.instances.iter();
        let rows =
            rows.map(|one| vec![name(&one.name, &one.uuid), one.outcome.clone(), one.host.clone(), one.text.clone()]);
        lines.extend([String::new(), table(&["INSTANCE", "OUTCOME", "HOST", "WHY"], rows)]);
    }
    lines.join("\n")
}

pub fn explanation(explanation: Explanation) -> String {
    explanation.lines.join("\n")
}

/// What is done about each loss of networks, and what else may be.
pub fn matrix(rows: &[MatrixRow]) -> String {
    let shown = rows.iter().map(|row| {
        let action = match row.action == row.default {
            true => row.action.clone(),
            false => format!("{} (default: {})", row.action, row.default),
        };
        vec![row.row.clone(), row.signal.clone(), action, row.source.clone()]
    });
    let mut lines = vec![table(&["ROW", "WHAT IS SEEN", "WHAT IS DONE", "TOLD BY"], shown), String::new()];
    for row in rows {
        lines.push(format!("{} may be {}; nothing else: {}", row.row, row.allowed.join(", "), row.never));
    }
    lines.push(
        "Change a row in [matrix] of aggregator.toml. No row lifts mode, witnesses, rails, proof or homes.".into(),
    );
    lines.join("\n")
}

pub fn audit(said: &[Said]) -> String {
    if said.is_empty() {
        return "nobody has ordered anything yet".into();
    }
    let row =
        |one: &Said| vec![time(one.wall_ms), one.by.clone(), one.said.clone(), one.reason.clone(), one.result.clone()];
    table(&["TIME", "WHO", "SAID", "BECAUSE", "RESULT"], said.iter().map(row))
}

/// One host a line, for whoever hands them out.
pub fn tokens(made: &TokensAnswer) -> String {
    made.tokens.iter().map(|one| format!("{} {}", one.host, one.token)).collect::<Vec<_>>().join("\n")
}

/// Who may join, and who was revoked.
pub fn identity(kept: &Identity) -> String {
    let token = |one: &medevac_proto::rest::OpenToken| {
        let ends = if one.state == "open" { duration(one.ends_in_ms) } else { "-".into() };
        vec![one.id.clone(), one.host.clone(), one.state.clone(), ends]
    };
    let revoked = |one: &medevac_proto::rest::Revocation| {
        let since = if one.since.is_empty() { "-".into() } else { one.since.join(" ") };
        vec![one.whose.clone(), time(one.wall_ms), one.why.clone(), since]
    };
    let mut parts = Vec::new();
    if kept.tokens.is_empty() && kept.revoked.is_empty() {
        return "no tokens, and nobody was revoked".into();
    }
    if !kept.tokens.is_empty() {
        parts.push(table(&["TOKEN", "HOST", "STATE", "ENDS IN"], kept.tokens.iter().map(token)));
    }
    if !kept.revoked.is_empty() {
        parts.push(table(&["REVOKED", "SINCE", "WHY", "WELCOME AGAIN"], kept.revoked.iter().map(revoked)));
    }
    parts.join("\n\n")
}

/// What a person agrees to with `mode SEGMENT act`.
pub fn before_act(segment: &str, status: &Status) -> String {
    let mut lines = vec![format!(
        "In `act`, medevac may do in segment {segment}, by itself:
  - switch off a host that nobody hears, when all rules for it hold
  - start its protected instances elsewhere, once its death is proven
  - restart a protected instance that died, on its own host
  - clear the autostart flag of protected instances, and start them itself after a boot
  - remove the stopped rest of an instance that was started elsewhere
`medevacctl pause --reason '...'` stops all of it at once."
    )];
    if !status.segments.iter().any(|known| known.name == segment) {
        lines.push(format!("No host is in segment {segment} yet."));
    }
    if status.hosts_without_proof.is_empty() {
        lines.push("Every known host has a way to prove its death.".into());
    } else {
        lines.push("It can do nothing for the instances of these hosts, because their death cannot be proven:".into());
        lines.extend(status.hosts_without_proof.iter().map(|(host, why)| format!("  {host}: {why}")));
    }
    lines.join("\n")
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03} s", ms / 1000, ms % 1000)
}

fn duration(ms: u64) -> String {
    match ms / 1000 {
        0 => "0 s".into(),
        s @ 1..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s @ 7200..172_800 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}

/// Wall time, in UTC: incidents are read by people in several places.
fn time(ms: u64) -> String {
    let shown = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    shown.map_or_else(|| "-".into(), |at| at.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

#[cfg(test)]
#[path = "show_tests.rs"]
mod tests;
