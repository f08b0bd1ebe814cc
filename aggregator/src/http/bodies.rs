//! From triage's views to the bodies of the API.

use medevac_proto::rest;
use medevac_triage::{
    AlertRecord, FenceView, HostView, IdentityView, IncidentView, InstanceView, MATRIX_ROWS, Matrix, Now, Told, Triage,
    Wall, WordRecord, millis,
};
use serde::Serialize;

/// Unprotected instances in a status; the list of instances has them all.
const UNPROTECTED_MAX: usize = 1000;

pub(super) fn status(triage: &Triage, now: Now, site: String, epoch: u64) -> rest::Status {
    let view = triage.site_view(now);
    let segment = |segment: medevac_triage::SegmentView| rest::Segment {
        name: segment.id.0,
        mode: segment.mode.name().into(),
        hosts: segment.hosts,
        heard: segment.heard,
    };
    let unprotected = triage.instance_views(now).into_iter().filter(|instance| !instance.reason.is_empty());
    let open = triage.incident_views();
    rest::Status {
        site,
        epoch,
        role: view.role,
        uptime_ms: millis(view.uptime),
        paused: view.paused,
        segments: view.segments.into_iter().map(segment).collect(),
        hosts_total: view.hosts_total,
        hosts_heard: view.hosts_heard,
        instances_total: view.instances_total,
        instances_protected: view.instances_protected,
        hosts_without_proof: view.hosts_without_proof.into_iter().map(|(host, why)| (host.0, why)).collect(),
        unprotected: unprotected.take(UNPROTECTED_MAX).map(uncovered).collect(),
        open_incidents: open.iter().filter(|incident| !incident.record.phase.closed()).map(head).collect(),
        alerts: view.alerts.into_iter().map(|(code, text)| rest::Alert { code: code.into(), text }).collect(),
    }
}

fn uncovered(instance: InstanceView) -> rest::Unprotected {
    rest::Unprotected {
        instance: instance.id.0,
        name: instance.name,
        host: instance.last_host.0,
        reason: instance.reason,
    }
}

pub(super) fn alerts(triage: &Triage) -> Vec<rest::SentAlert> {
    triage.alerts().into_iter().map(|alert| sent(triage, alert)).collect()
}

fn sent(triage: &Triage, alert: AlertRecord) -> rest::SentAlert {
    let receivers = triage.receivers_of(&alert).into_iter().map(|(name, told)| {
        let told = match told {
            Some(Told { refused: Some(why), .. }) => format!("refused: {why}"),
            Some(told) if told.revision >= alert.revision => "told".to_owned(),
            _ => "waiting".to_owned(),
        };
        (name, told)
    });
    rest::SentAlert {
        id: alert.id.to_string(),
        code: alert.cause.code().to_owned(),
        severity: alert.severity.name().to_owned(),
        state: if alert.resolved.is_some() { "resolved" } else { "firing" }.to_owned(),
        receivers: receivers.collect(),
        segment: alert.segment.0,
        hosts: alert.hosts.into_iter().map(|host| host.0).collect(),
        incidents: alert.incidents.into_iter().map(|id| id.to_string()).collect(),
        lost: alert.lines.lost,
        doing: alert.lines.doing,
        todo: alert.lines.todo,
        revision: alert.revision,
        opened_wall_ms: alert.opened.0,
        changed_wall_ms: alert.changed.0,
        resolved_wall_ms: alert.resolved.map(|at| at.0),
    }
}

pub(super) fn host(host: HostView) -> rest::Host {
    rest::Host {
        name: host.id.0,
        segment: host.segment.0,
        state: host.state.into(),
        why: host.why,
        boot_id: host.boot,
        silent_ms: millis(host.silent),
        instances: host.instances,
        memory_available_kib: host.memory_available_kib,
        planes: host.planes.into_iter().map(|(plane, address)| (plane.0, address)).collect(),
        proof: host.proof,
        incident: host.incident.map(|id| id.to_string()),
        warnings: host.warnings,
    }
}

pub(super) fn instance(instance: InstanceView) -> rest::Instance {
    rest::Instance {
        uuid: instance.id.0,
        name: instance.name,
        state: instance.state,
        protected: instance.protected,
        reason: instance.reason,
        homes: instance.homes.into_iter().map(|host| host.0).collect(),
        memory_kib: instance.memory_kib,
        recoverable_elsewhere: instance.recoverable_elsewhere,
        policy: instance.policy,
    }
}

pub(super) fn head(view: &IncidentView) -> rest::IncidentHead {
    let record = &view.record;
    rest::IncidentHead {
        id: record.id.to_string(),
        kind: tag(&record.kind, None),
        subject: view.subject.clone(),
        state: tag(&record.phase, Some("is")),
        opened_wall_ms: record.opened.0,
        closed_wall_ms: record.closed.map(|Wall(ms)| ms),
        lost: view.lost.clone(),
        doing: view.doing.clone(),
        todo: view.todo.clone(),
    }
}

pub(super) fn incident(view: IncidentView) -> rest::Incident {
    let head = head(&view);
    let names = view.names;
    let entry = |entry: medevac_triage::Entry| rest::Entry {
        wall_ms: entry.wall.0,
        since_ms: entry.since_ms,
        code: entry.code,
        text: entry.text,
    };
    let outcome = |outcome: medevac_triage::OutcomeRecord| rest::InstanceOutcome {
        name: names.get(&outcome.instance).cloned().unwrap_or_default(),
        uuid: outcome.instance.0,
        outcome: tag(&outcome.state, None),
        host: outcome.host.map(|host| host.0).unwrap_or_default(),
        text: outcome.text,
    };
    rest::Incident {
        head,
        timeline: view.record.timeline.into_iter().map(entry).collect(),
        instances: view.outcomes.into_iter().map(outcome).collect(),
    }
}

pub(super) fn said(word: &WordRecord) -> rest::Said {
    let WordRecord { number, wall, by, said, reason, result, done } = word.clone();
    rest::Said { number, wall_ms: wall.0, by, said, reason, done, result }
}

pub(super) fn identity(view: IdentityView) -> rest::Identity {
    let token = |(token, state, left): (medevac_triage::TokenRecord, &str, std::time::Duration)| rest::OpenToken {
        id: token.id,
        host: token.host.0,
        state: state.into(),
        ends_in_ms: millis(left),
    };
    let host = |record: medevac_triage::RevokedRecord| rest::Revocation {
        whose: record.host.0,
        why: record.why,
        wall_ms: record.wall.0,
        since: record.since,
    };
    let one = |record: medevac_triage::BarredRecord| rest::Revocation {
        whose: record.serial,
        why: record.why,
        wall_ms: record.wall.0,
        since: Vec::new(),
    };
    rest::Identity {
        tokens: view.tokens.into_iter().map(token).collect(),
        revoked: view.revoked.into_iter().map(host).chain(view.barred.into_iter().map(one)).collect(),
    }
}

pub(super) fn fence(fence: FenceView) -> rest::Fence {
    rest::Fence {
        host: fence.host.0,
        segment: fence.segment.0,
        level: fence.level,
        agent: fence.agent,
        address: fence.place.address,
        plug: fence.place.plug,
        from: fence.from.into(),
        power: tag(&fence.power, None),
        answered_ms: fence.answered.map(millis),
        error: fence.error,
        mapping: fence.mapping.into(),
        why: fence.why,
        offered: fence.offered,
        todo: fence.todo,
    }
}

pub(super) fn matrix(matrix: &Matrix) -> Vec<rest::MatrixRow> {
    let row = |row: &medevac_triage::Row| rest::MatrixRow {
        row: row.name.into(),
        signal: row.signal.into(),
        action: matrix.act(row.loss).name().into(),
        default: row.default.name().into(),
        allowed: row.allowed.iter().map(|act| act.name().to_owned()).collect(),
        never: row.never.into(),
        source: row.source().into(),
    };
    MATRIX_ROWS.iter().map(row).collect()
}

/// The name under which a value is kept is the one under which it is shown.
pub(crate) fn tag(value: &impl Serialize, field: Option<&str>) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    let named = match field {
        Some(field) => value.get(field),
        None => Some(&value),
    };
    named.and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
}
