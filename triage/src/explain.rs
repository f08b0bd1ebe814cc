//! Decisions in plain words, and the views that readers get. Nothing here
//! changes anything.

use crate::Triage;
use crate::alert::NOTHING_TO_DO;
use crate::cloud::Server;
use crate::gone::state_text;
use crate::id::{HostId, IncidentId};
use crate::lacks::Lack;
use crate::record::{
    HostRecord, IncidentKind, IncidentRecord, InstanceRecord, OutcomeRecord, OutcomeState, Phase, SegmentRecord,
    StepState,
};
use crate::standing::Standing;
use crate::target::Bound;
use crate::time::{Now, shown};
use crate::view::{HostView, IncidentView, InstanceView, SegmentView, SiteView};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

impl Triage {
    /// What operators said, oldest first, obeyed or refused.
    pub fn words(&self) -> impl Iterator<Item = &crate::WordRecord> {
        self.durable.words.iter()
    }

    pub fn site_view(&self, now: Now) -> SiteView {
        let role = match &self.deposed {
            Some(why) => why.clone(),
            None if now.at < self.settle_until => {
                format!("settling: {} to go before anybody is judged", shown(self.settle_until.since(now.at)))
            }
            None => "deciding".to_owned(),
        };
        let heard = self.heard_hosts();
        let inhabited = self.inhabited();
        let has_hosts = |of: &&SegmentRecord| inhabited.is_empty() || inhabited.contains(&of.id);
        let segments = self.durable.segments.iter().filter(has_hosts).map(|segment| {
            let of: Vec<_> = self.durable.hosts.iter().filter(|host| host.segment == segment.id).collect();
            let heard = of.iter().filter(|host| heard.contains(&host.id)).count();
            SegmentView { id: segment.id.clone(), mode: segment.mode, hosts: of.len(), heard }
        });
        let up = self.hosts_that_should_be_up();
        let without_proof =
            self.durable.hosts.iter().filter_map(|host| Some((host.id.clone(), self.lack(host, up)?.to_string())));
        let strange = self.hosts_without_agent().map(|host| (host.clone(), Lack::Agent.to_string()));
        SiteView {
            role,
            uptime: now.at.since(self.started),
            paused: self.durable.site().paused,
            segments: segments.collect(),
            hosts_total: self.durable.hosts.len(),
            hosts_heard: heard.len(),
            instances_total: self.durable.instances.len() + self.strangers().count(),
            instances_protected: self.durable.instances.iter().filter(|record| self.is_protected(record)).count(),
            hosts_without_proof: without_proof.chain(strange).collect(),
            alerts: self.standing_alerts(now),
        }
    }

    pub(crate) fn standing_alerts(&self, now: Now) -> Vec<(&'static str, String)> {
        let mut alerts = Vec::new();
        if let Some(reason) = self.durable.site().paused {
            alerts.push(("MDV-PAUSED", format!("nothing is ordered: {reason}")));
        }
        if let Some(text) = self.restored_text() {
            alerts.push(("MDV-RESTORED", text));
        }
        if let Some(text) = self.unread_text(now) {
            alerts.push(("MDV-CONFIG-REFUSED", text));
        }
        if let Some(why) = &self.sight.trouble {
            alerts.push(("MDV-CLOUD", format!("the cloud's control plane cannot be used: {why}")));
        }
        for host in &self.sight.told_names {
            alerts.push(("MDV-CLOUD-NAME", format!("{host}: Nova has no compute host of that name")));
        }
        for down in self.agents_down(now).into_values() {
            let down: Vec<&str> = down.iter().map(HostId::as_str).collect();
            alerts.push((
                "MDV-AGENTS-DOWN",
                format!("agents do not run on {}; their guests are not harmed", down.join(", ")),
            ));
        }
        let (heard, of) = self.majority();
        if self.in_minority(now) {
            alerts.push((
                "MDV-MINORITY",
                format!("only {heard} of {of} hosts are heard: nobody is shot; is this aggregator cut off?"),
            ));
        }
        alerts.extend(self.device_alerts());
        for host in self.durable.hosts.iter().filter(|host| host.banner_boot.is_none() && self.streams(&host.id)) {
            alerts.push((
                "MDV-NO-BANNER",
                format!(
                    "{}: no second service answers probes, so a hung host cannot be told from a failed agent",
                    host.id
                ),
            ));
        }
        for host in self.durable.hosts.iter() {
            alerts.extend(host.warnings.iter().map(|warning| ("MDV-HOST-WARNING", format!("{}: {warning}", host.id))));
        }
        alerts
    }

    pub(crate) fn agent_gone_for(&self, host: &HostId, now: Now) -> Duration {
        let Some(watch) = self.watches.get(host) else { return Duration::ZERO };
        let heard = watch.session.as_ref().map(|live| live.heard_at);
        now.at.since(heard.or(watch.stream_lost_at).unwrap_or(self.started))
    }

    pub fn host_views(&self, now: Now) -> Vec<HostView> {
        let up = self.hosts_that_should_be_up();
        let view = |host| self.host_view(host, up, now);
        self.durable.hosts.ids().iter().filter_map(|id| self.host(id)).map(view).collect()
    }

    fn host_view(&self, host: &HostRecord, up: usize, now: Now) -> HostView {
        let watch = self.watches.get(&host.id);
        let live = watch.and_then(|watch| watch.session.as_ref());
        let incident = self.host_incident(&host.id);
        let near = self.durable.instances_near(&host.id);
        let homes =
            near.iter().filter(|id| self.durable.instances.get(id).is_some_and(|i| i.homes.contains_key(&host.id)));
        HostView {
            id: host.id.clone(),
            segment: host.segment.clone(),
            state: self.state_name(host, incident),
            why: self.host_why(host, incident),
            boot: host.boots.last().map(ToString::to_string).unwrap_or_default(),
            silent: watch.map_or(Duration::ZERO, |watch| now.at.since(watch.last_sign)),
            instances: homes.count(),
            memory_available_kib: live.map_or(0, |live| live.memory_available_kib),
            planes: host.planes.clone(),
            proof: self.lack(host, up).map_or_else(
                || self.device(&host.id).map_or_else(String::new, |device| device.name.clone()),
                |lack| lack.to_string(),
            ),
            incident,
            warnings: host.warnings.clone(),
        }
    }

    pub(crate) fn state_name(&self, host: &HostRecord, incident: Option<IncidentId>) -> &'static str {
        let phase = incident.and_then(|id| self.incident(id)).map(|incident| &incident.phase);
        let standing = self.standing(host);
        match (standing, phase) {
            (Standing::Heard, _) if !self.hold_is_over(&host.id) => "held",
            (Standing::Heard | Standing::AgentFailed, _) => standing.name(),
            (_, Some(Phase::Fencing { .. } | Phase::Confirming { .. })) => "fencing",
            (_, Some(Phase::FenceUnknown { .. })) => "fence-unknown",
            (
                Standing::Suspect | Standing::Hung,
                Some(Phase::WaitingForApproval | Phase::WaitingForRail { .. } | Phase::Paused | Phase::Observed),
            ) => "condemned",
            (Standing::Dead, _) if host.fenced => "fenced",
            _ => standing.name(),
        }
    }

    fn host_why(&self, host: &HostRecord, incident: Option<IncidentId>) -> String {
        if let Some(why) = &host.cloned {
            return why.clone();
        }
        if let Some(reason) = self.maintenance(host) {
            return reason;
        }
        match self.standing(host) {
            Standing::Suspect | Standing::Hung if incident.is_none() => {
                let doubts = self.doubts(host, self.standing(host) == Standing::Hung);
                doubts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
            }
            Standing::AgentFailed => "the host answers, its agent does not".to_owned(),
            Standing::Dead => host.dead.as_ref().map_or_else(String::new, |death| death.proof.to_string()),
            _ => self.reserve_text(host),
        }
    }

    pub fn instance_views(&self, _now: Now) -> Vec<InstanceView> {
        self.durable
            .instances
            .ids()
            .iter()
            .filter_map(|id| self.durable.instances.get(id))
            .map(|i| self.instance_view(i))
            .chain(self.strangers().map(|server| self.stranger_view(server)))
            .collect()
    }

    fn stranger_view(&self, server: &Server) -> InstanceView {
        let record = InstanceRecord {
            id: server.id.clone(),
            name: server.name.clone(),
            last_host: server.host.clone(),
            memory_kib: server.memory_kib,
            ..InstanceRecord::default()
        };
        let reason = format!("{}: {}", server.host, Lack::Agent);
        let state = server.vm_state.clone();
        InstanceView { state, protected: false, reason, recoverable_elsewhere: false, ..self.instance_view(&record) }
    }

    fn instance_view(&self, record: &InstanceRecord) -> InstanceView {
        let policy = self.policy(record);
        let protected = policy.protected.value;
        let elsewhere = self.recoverable_elsewhere(record);
        let rebuilds = self.in_openstack() && policy.rebuilds();
        let reason = match (&elsewhere, protected) {
            (_, false) => policy.protected.rule.clone(),
            (Err(Bound::Disks(why)), true) if rebuilds => format!("its local disk would be made anew: {why}"),
            (Err(why), true) => format!("restarts only at home: {why}"),
            (Ok(()), true) => String::new(),
        };
        InstanceView {
            id: record.id.clone(),
            name: record.name.clone(),
            state: state_text(record),
            protected,
            reason,
            homes: self.live_homes(record),
            last_host: record.last_host.clone(),
            memory_kib: record.memory_kib,
            recoverable_elsewhere: elsewhere.is_ok() || (rebuilds && matches!(elsewhere, Err(Bound::Disks(_)))),
            policy: policy.to_string(),
        }
    }

    /// All incidents, newest first.
    pub fn incident_views(&self) -> Vec<IncidentView> {
        let mut ids = self.durable.incidents.ids();
        ids.reverse();
        ids.into_iter().filter_map(|id| self.incident_view(id)).collect()
    }

    pub fn incident_view(&self, id: IncidentId) -> Option<IncidentView> {
        let record = self.incident(id)?.clone();
        let outcomes: Vec<_> = self.durable.outcomes_of(id).into_iter().cloned().collect();
        let named =
            |o: &OutcomeRecord| Some((o.instance.clone(), self.durable.instances.get(&o.instance)?.name.clone()));
        let names = outcomes.iter().filter_map(named);
        let instance = record.instance.as_ref().map(|id| {
            let name = self.durable.instances.get(id).map(|i| i.name.clone()).filter(|name| !name.is_empty());
            name.unwrap_or_else(|| id.to_string())
        });
        let subject = instance.or_else(|| record.host.as_ref().map(ToString::to_string));
        Some(IncidentView {
            subject: subject.unwrap_or_else(|| record.segment.to_string()),
            lost: self.lost(&record),
            doing: doing(&record),
            todo: todo(&record),
            steps: self.durable.steps_of(id),
            names: names.collect(),
            outcomes,
            record,
        })
    }

    fn lost(&self, incident: &IncidentRecord) -> String {
        let subject = incident.host.as_ref().map_or("", HostId::as_str);
        if incident.phase.closed() {
            return "nothing now".to_owned();
        }
        match incident.kind {
            IncidentKind::HostSilent | IncidentKind::HostHung | IncidentKind::HostShot | IncidentKind::HostRebooted => {
                match self.lost_guests(incident) {
                    1 => format!("1 guest of {subject} is not known to run"),
                    total => format!("{total} guests of {subject} are not known to run"),
                }
            }
            IncidentKind::InstanceGone => {
                let name =
                    incident.instance.as_ref().and_then(|id| self.durable.instances.get(id)).map(|i| i.name.clone());
                format!("guest {} does not run", name.unwrap_or_default())
            }
            IncidentKind::TwoCopies => "one guest runs twice: its data is in danger".to_owned(),
            IncidentKind::HostCloned => format!("two machines speak as {subject}: it is left alone"),
            IncidentKind::ProofRefuted => {
                format!("{subject} lives although it was proven dead: its guests may run twice")
            }
            IncidentKind::FactsLost => "nothing yet".to_owned(),
            IncidentKind::ServiceDown => {
                format!("nothing runs less, but Nova can neither start, stop nor move the servers of {subject}")
            }
        }
    }

    /// How many guests of a host's incident are not known to run.
    pub(crate) fn lost_guests(&self, incident: &IncidentRecord) -> usize {
        let back = |state: OutcomeState| matches!(state, OutcomeState::Recovered | OutcomeState::Skipped);
        let outcomes = self.durable.outcomes_of(incident.id);
        match &incident.host {
            Some(host) if outcomes.is_empty() => self.guests_at(host),
            _ => outcomes.iter().filter(|outcome| !back(outcome.state)).count(),
        }
    }

    fn guests_at(&self, host: &HostId) -> usize {
        let near = self.durable.instances_near(host);
        near.iter()
            .filter(|id| self.durable.instances.get(id).is_some_and(|i| i.homes.contains_key(host) && i.wanted))
            .count()
    }

    /// What was seen, by whom, what was decided, what was refused and why.
    pub fn explain(&self, id: IncidentId, now: Now) -> Option<Vec<String>> {
        let view = self.incident_view(id)?;
        let mut lines = vec![format!("{id}: {}", view.lost), format!("  {}", view.doing), format!("  {}", view.todo)];
        lines.push("What was seen and decided:".to_owned());
        for entry in &view.record.timeline {
            lines.push(format!("  {:>9.3} s  {:<14} {}", entry.since_ms as f64 / 1000.0, entry.code, entry.text));
        }
        if view.record.dropped > 0 {
            lines.push(format!("  ({} lines in the middle were dropped)", view.record.dropped));
        }
        if view.record.shot {
            let heard: Vec<&str> = self.durable.heard_at_order(id).iter().map(|was| was.host.as_str()).collect();
            lines.push(format!(
                "Heard when the first off order was committed, and to be heard after the read: {}",
                heard.join(", ")
            ));
        }
        if !view.steps.is_empty() {
            lines.push("Steps, each durable before it left:".to_owned());
        }
        for step in &view.steps {
            lines.push(format!(
                "  {}  {}; needed: {}; {}",
                step.id,
                step.what,
                step.precondition,
                step_text(&step.state)
            ));
        }
        self.explain_policies(&view.outcomes, &mut lines);
        explain_outcomes(&view, &mut lines);
        self.explain_doubts(&view.record, now, &mut lines);
        Some(lines)
    }

    /// Those of which more is said than `protect` says of everybody.
    fn explain_policies(&self, outcomes: &[OutcomeRecord], lines: &mut Vec<String>) {
        let records = outcomes.iter().filter_map(|outcome| self.durable.instances.get(&outcome.instance));
        let told = records.map(|record| (record, self.policy(record))).filter(|(_, policy)| policy.is_special());
        let told: Vec<String> = told.map(|(record, policy)| format!("  {}: {policy}", record.name)).collect();
        if !told.is_empty() {
            lines.push("What the policies say of its instances now:".to_owned());
            lines.extend(told);
        }
    }

    /// What is done about a host that has lost networks.
    pub fn matrix(&self) -> &crate::Matrix {
        &self.settings.matrix
    }

    fn explain_doubts(&self, incident: &IncidentRecord, _now: Now, lines: &mut Vec<String>) {
        let Some(host) = incident.host.as_ref().and_then(|host| self.host(host)) else { return };
        if incident.phase.closed() || incident.shot {
            return;
        }
        let doubts = self.doubts(host, incident.kind == IncidentKind::HostHung);
        if !doubts.is_empty() {
            lines.push("What speaks against shooting it now:".to_owned());
            lines.extend(doubts.iter().map(|doubt| format!("  {}: {doubt}", doubt.name())));
        }
    }

    /// Instances that are not protected, or not recoverable elsewhere.
    pub fn unprotected(&self, now: Now) -> Vec<InstanceView> {
        self.instance_views(now).into_iter().filter(|view| !view.reason.is_empty()).collect()
    }

    /// Host names by state, for tests and logs.
    pub fn standings(&self) -> BTreeMap<HostId, Standing> {
        self.durable.hosts.iter().map(|host| (host.id.clone(), self.standing(host))).collect()
    }

    /// Homes of every instance that are not proven dead.
    pub fn homes(&self) -> BTreeMap<crate::InstanceId, BTreeSet<HostId>> {
        self.durable.instances.iter().map(|i| (i.id.clone(), self.live_homes(i).into_iter().collect())).collect()
    }
}

/// How each guest of an open incident stands now: the timeline tells a reason
/// once, and it may have changed since.
fn explain_outcomes(view: &IncidentView, lines: &mut Vec<String>) {
    if view.record.phase.closed() || view.outcomes.is_empty() {
        return;
    }
    lines.push("Its guests now:".to_owned());
    for outcome in &view.outcomes {
        let name = view.names.get(&outcome.instance).filter(|name| !name.is_empty());
        let name = name.map_or_else(|| outcome.instance.to_string(), Clone::clone);
        let state = match outcome.state {
            OutcomeState::Planned => "planned",
            OutcomeState::Starting => "starting",
            OutcomeState::Recovered => "recovered",
            OutcomeState::Waiting => "waiting",
            OutcomeState::Skipped => "skipped",
        };
        lines.push(format!("  {name} is {state}: {}", outcome.text));
    }
}

fn step_text(state: &StepState) -> String {
    match state {
        StepState::Ordered => "ordered, not answered yet".to_owned(),
        StepState::Accepted => "taken up, under way".to_owned(),
        StepState::Done { detail } if detail.is_empty() => "done".to_owned(),
        StepState::Done { detail } => format!("done: {detail}"),
        StepState::Refused { reason } => format!("refused: {reason}"),
        StepState::Unknown { detail } => format!("unknown: {detail}"),
    }
}

fn doing(incident: &IncidentRecord) -> String {
    match &incident.phase {
        Phase::Watching if incident.kind == IncidentKind::ServiceDown => match incident.next_step {
            0 => "nothing: its nova-compute is down; nothing is evacuated from a host that lives".to_owned(),
            _ => "nothing is scheduled there until its nova-compute has been well for a minute".to_owned(),
        },
        Phase::Watching => "watching; nothing is decided".to_owned(),
        Phase::Observed => "nothing: mode observe, or policy says alert only".to_owned(),
        Phase::WaitingForApproval => "waiting for approval".to_owned(),
        Phase::WaitingForRail { rail } => format!("waiting: {rail}"),
        Phase::Paused => "waiting: everything is paused".to_owned(),
        Phase::Fencing { .. } => "switching the host off".to_owned(),
        Phase::Confirming { .. } => "off was read; making sure that the right host is off".to_owned(),
        Phase::FenceUnknown { why } => format!("trying again to switch it off: {why}"),
        Phase::Recovering => "starting its guests".to_owned(),
        Phase::Waiting => "some guests wait for capacity, for a person or for their host".to_owned(),
        Phase::CausePending => "waiting for the reason".to_owned(),
        Phase::BackingOff => "waiting before the next restart".to_owned(),
        Phase::Closed { outcome } => format!("closed: {outcome}"),
    }
}

fn todo(incident: &IncidentRecord) -> String {
    let id = incident.id;
    let host = incident.host.as_ref().map_or("", HostId::as_str);
    match &incident.phase {
        Phase::WaitingForApproval | Phase::WaitingForRail { .. } => format!("medevacctl approve {id} --reason '...'"),
        Phase::Paused => "medevacctl resume --reason '...'".to_owned(),
        Phase::FenceUnknown { .. } => {
            format!("when you know that it is off: medevacctl confirm-fenced {host} --reason '...'")
        }
        Phase::Waiting => format!("medevacctl incident {id}"),
        Phase::Watching if incident.kind == IncidentKind::ServiceDown => {
            format!("ssh {host} systemctl restart nova-compute")
        }
        // What act would have done, and why, is there.
        Phase::Watching | Phase::Observed => format!("medevacctl explain {id}"),
        _ => NOTHING_TO_DO.to_owned(),
    }
}
