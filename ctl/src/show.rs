//! Bodies as pages for people. Pure: values in, pages out.

use crate::page::Page;
use medevac_proto::rest::{
    Explanation, Fence, Host, Identity, Incident, IncidentHead, Instance, InstanceOutcome, MatrixRow, Said, SentAlert,
    Status, TokensAnswer, Trial,
};

/// Unprotected instances in a status; `instances --unprotected` has them all.
const UNPROTECTED_SHOWN: usize = 10;

/// Coverage first, then what is going on.
pub fn status(status: Status) -> Page {
    let mut page = Page::default()
        .line(format!(
            "site {}, epoch {}, {}, up {}",
            status.site,
            status.epoch,
            status.role,
            duration(status.uptime_ms)
        ))
        .line(format!(
            "covered: {} of {} instances, {} of {} hosts heard, {} without a way to prove their death",
            status.instances_protected,
            status.instances_total,
            status.hosts_heard,
            status.hosts_total,
            status.hosts_without_proof.len()
        ));
    if let Some(why) = &status.paused {
        page = page.line(format!("PAUSED, nothing is ordered: {why}; end it with: medevacctl resume --reason '...'"));
    }
    page = page.lines(status.alerts.iter().map(|alert| format!("ALERT {}: {}", alert.code, alert.text)));
    let segments =
        status.segments.iter().map(|s| vec![s.name.clone(), s.mode.clone(), format!("{} of {}", s.heard, s.hosts)]);
    page = page.gap().table(&["SEGMENT", "MODE", "HEARD"], segments);
    if !status.hosts_without_proof.is_empty() {
        let rows = status.hosts_without_proof.iter().map(|(host, why)| vec![host.clone(), why.clone()]);
        page = page.gap().table(&["HOST", "ITS DEATH CANNOT BE PROVEN"], rows);
    }
    if !status.unprotected.is_empty() {
        let shown = status.unprotected.iter().take(UNPROTECTED_SHOWN);
        let rows = shown.map(|one| vec![name(&one.name, &one.instance), one.host.clone(), one.reason.clone()]);
        page = page.gap().table(&["INSTANCE", "HOST", "NOT COVERED"], rows);
        let more = status.unprotected.len().saturating_sub(UNPROTECTED_SHOWN);
        if more > 0 {
            page = page.line(format!("and {more} more: medevacctl instances --unprotected"));
        }
    }
    page.gap().and(incidents(&status.open_incidents))
}

fn name(name: &str, id: &str) -> String {
    if name.is_empty() { id.to_owned() } else { name.to_owned() }
}

pub fn hosts(hosts: &[Host]) -> Page {
    if hosts.is_empty() {
        return Page::of("no host has joined yet: `medevacctl token create --host NAME` lets one in");
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
    let titles = ["HOST", "SEGMENT", "INSTANCES", "SILENT", "INCIDENT", "PROOF", "STATE"];
    let warned = |host: &Host| host.warnings.iter().map(|text| format!("warning, {}: {text}", host.name)).collect();
    Page::default().table(&titles, hosts.iter().map(row)).lines(hosts.iter().flat_map::<Vec<_>, _>(warned))
}

/// One device a line; a host that has none is a line, too.
pub fn fences(fences: &[Fence]) -> Page {
    if fences.is_empty() {
        return Page::of("no host has joined yet, and no fence device is configured");
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
    let to_do = fences.iter().filter(|one| one.todo != "nothing to do");
    let lines = to_do.map(|one| format!("{}: {}", one.host, one.todo));
    Page::default().table(&titles, fences.iter().map(row)).lines(lines)
}

pub fn instances(instances: &[Instance]) -> Page {
    if instances.is_empty() {
        return Page::of("no instances");
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
    Page::default().table(&titles, instances.iter().map(row))
}

pub fn alerts(alerts: &[SentAlert]) -> Page {
    if alerts.is_empty() {
        return Page::of("nothing fires");
    }
    let mut lines = Vec::new();
    for one in alerts {
        let since = time(one.opened_wall_ms);
        lines.push(format!("{}  {} {} {}, since {since}", one.id, one.state, one.severity, one.code));
        lines.extend([&one.lost, &one.doing, &one.todo].map(|line| format!("  {line}")));
        lines.extend(one.receivers.iter().map(|(name, told)| format!("  {name}: {told}")));
    }
    Page::default().lines(lines)
}

pub fn trials(trials: &[Trial]) -> Page {
    let row = |one: &Trial| {
        let result = if one.taken { "took it".to_owned() } else { one.text.clone() };
        vec![one.receiver.clone(), result]
    };
    Page::default().table(&["RECEIVER", "RESULT"], trials.iter().map(row))
}

pub fn incidents(incidents: &[IncidentHead]) -> Page {
    if incidents.is_empty() {
        return Page::of("no open incidents");
    }
    let row = |one: &IncidentHead| {
        let words = [&one.id, &one.kind, &one.subject, &one.state].map(Clone::clone);
        words.into_iter().chain([time(one.opened_wall_ms), one.doing.clone(), one.todo.clone()]).collect()
    };
    let titles = ["INCIDENT", "KIND", "OF", "STATE", "SINCE", "DOING", "TO DO"];
    Page::default().table(&titles, incidents.iter().map(row))
}

/// Three lines first: what is lost, what is done, what to do.
pub fn incident(incident: Incident) -> Page {
    let head = &incident.head;
    let closed = head.closed_wall_ms.map(|ms| format!(", closed {}", time(ms))).unwrap_or_default();
    let entries = incident.timeline.iter();
    let entries = entries.map(|e| vec![time(e.wall_ms), seconds(e.since_ms), e.code.clone(), e.text.clone()]);
    let page = Page::default()
        .line(format!("lost:   {}", head.lost))
        .line(format!("doing:  {}", head.doing))
        .line(format!("to do:  {}", head.todo))
        .gap()
        .line(format!("{}, {} of {}, {}", head.id, head.kind, head.subject, head.state))
        .line(format!("opened {}{closed}", time(head.opened_wall_ms)))
        .gap()
        .table(&["TIME", "AFTER", "WHAT", "DETAIL"], entries);
    if incident.instances.is_empty() {
        return page;
    }
    let row = |one: &InstanceOutcome| {
        vec![name(&one.name, &one.uuid), one.outcome.clone(), one.host.clone(), one.text.clone()]
    };
    page.gap().table(&["INSTANCE", "OUTCOME", "HOST", "WHY"], incident.instances.iter().map(row))
}

pub fn explanation(explanation: Explanation) -> Page {
    Page::default().lines(explanation.lines)
}

/// What is done about each loss of networks, and what else may be.
pub fn matrix(rows: &[MatrixRow]) -> Page {
    let shown = rows.iter().map(|row| {
        let action = match row.action == row.default {
            true => row.action.clone(),
            false => format!("{} (default: {})", row.action, row.default),
        };
        vec![row.row.clone(), row.signal.clone(), action, row.source.clone()]
    });
    let may = |row: &MatrixRow| format!("{} may be {}; nothing else: {}", row.row, row.allowed.join(", "), row.never);
    Page::default()
        .table(&["ROW", "WHAT IS SEEN", "WHAT IS DONE", "TOLD BY"], shown)
        .gap()
        .lines(rows.iter().map(may))
        .line("Change a row in [matrix] of aggregator.toml. No row lifts mode, witnesses, rails, proof or homes.")
}

pub fn audit(said: &[Said]) -> Page {
    if said.is_empty() {
        return Page::of("nobody has ordered anything yet");
    }
    let row =
        |one: &Said| vec![time(one.wall_ms), one.by.clone(), one.said.clone(), one.reason.clone(), one.result.clone()];
    Page::default().table(&["TIME", "WHO", "SAID", "BECAUSE", "RESULT"], said.iter().map(row))
}

/// One host a line, for whoever hands them out.
pub fn tokens(made: &TokensAnswer) -> String {
    made.tokens.iter().map(|one| format!("{} {}", one.host, one.token)).collect::<Vec<_>>().join("\n")
}

/// Who may join, and who was revoked.
pub fn identity(kept: &Identity) -> Page {
    let token = |one: &medevac_proto::rest::OpenToken| {
        let ends = if one.state == "open" { duration(one.ends_in_ms) } else { "-".into() };
        vec![one.id.clone(), one.host.clone(), one.state.clone(), ends]
    };
    let revoked = |one: &medevac_proto::rest::Revocation| {
        let since = if one.since.is_empty() { "-".into() } else { one.since.join(" ") };
        vec![one.whose.clone(), time(one.wall_ms), one.why.clone(), since]
    };
    let (tokens, put_out) = (kept.tokens.iter().map(token), kept.revoked.iter().map(revoked));
    let tokens = Page::default().table(&["TOKEN", "HOST", "STATE", "ENDS IN"], tokens);
    let put_out = Page::default().table(&["REVOKED", "SINCE", "WHY", "WELCOME AGAIN"], put_out);
    match (kept.tokens.is_empty(), kept.revoked.is_empty()) {
        (true, true) => Page::of("no tokens, and nobody was revoked"),
        (false, true) => tokens,
        (true, false) => put_out,
        (false, false) => tokens.gap().and(put_out),
    }
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
pub fn time(ms: u64) -> String {
    let shown = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    shown.map_or_else(|| "-".into(), |at| at.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}

#[cfg(test)]
#[path = "show_tests.rs"]
mod tests;
