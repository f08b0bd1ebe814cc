//! How far evacuations have come: one list of migrations for all of a host,
//! and more questions only about those that it says are over.
//!
//! ```text
//!   migration (newest of the server): done    -> the server's own state -> Done
//!                                     failed  -> the action's own words -> Failed
//!                                     else    -> UnderWay, or Idle when that lasts too long
//!                                     none    -> UnderWay, or Deleted with its records
//!   open, but one that was abandoned is over  -> the action's own words -> Done, Failed
//!   no request known: the action that is none of the others'           -> as above, or Unseen
//! ```

use super::Shared;
use super::acts::OVER;
use medevac_openstack::{ActionDetail, Answer, Failure, InstanceAction, Kind, Migration, MigrationFilter, traces};
use medevac_triage::{Course, HostId, InstanceId, Move, StepId};
use tokio::time::Instant;

/// A migration that Nova has given up.
const FAILED: [&str; 3] = ["failed", "error", "cancelled"];
/// A migration at whose end the server is elsewhere.
const DONE: [&str; 2] = ["done", "completed"];
/// What an action says of itself when it failed.
const ERROR: &str = "Error";
/// The destination's part of an evacuation, the last one.
const REBUILT: &str = "compute_rebuild_instance";

fn unknown(failure: &impl std::fmt::Display) -> Course {
    Course::Unknown { detail: failure.to_string() }
}

/// What Nova told, or what an evacuation came to of which it tells nothing.
fn told<T>(answer: Answer<T>) -> Result<T, Course> {
    match answer.result() {
        Ok(value) => Ok(value),
        Err(Failure::Refused(refusal)) if refusal.kind == Kind::NotFound => Err(Course::Deleted),
        Err(failure) => Err(unknown(&failure)),
    }
}

impl Shared {
    pub(super) async fn courses(&self, source: &HostId, moves: Vec<Move>, until: Instant) -> Vec<(StepId, Course)> {
        let filter = MigrationFilter::evacuations_from(self.names.nova(source));
        let migrations = match self.nova.migrations(&filter, until).await.result() {
            Ok(migrations) => migrations,
            Err(failure) => return moves.into_iter().map(|of| (of.step, unknown(&failure))).collect(),
        };
        let asked = moves.into_iter().map(|of| self.course(of, source, &migrations, until));
        futures::future::join_all(asked).await
    }

    async fn course(&self, of: Move, source: &HostId, migrations: &[Migration], until: Instant) -> (StepId, Course) {
        let step = of.step;
        let request = match of.request.is_empty() {
            false => of.request,
            true => match told(self.nova.instance_actions(of.instance.as_str(), until).await) {
                Ok(actions) => match lost_request(&of, actions) {
                    Some(request) => request,
                    None => return (step, Course::Unseen),
                },
                Err(course) => return (step, course),
            },
        };
        let doubted = of.doubted;
        let of_server = || migrations.iter().filter(|migration| migration.instance_uuid == of.instance.as_str());
        // Nova makes the record before it answers: the newest is ours.
        let newest = of_server().max_by_key(|migration| migration.id);
        let is_over = |migration: &Migration| OVER.contains(&migration.status.as_str());
        let older_is_over = of_server().any(|older| of.abandoned.contains(&older.id) && is_over(older));
        let status = newest.map_or("", |migration| migration.status.as_str());
        let course = match (status, newest) {
            (status, _) if DONE.contains(&status) => self.arrived(&of.instance, source, request, until).await,
            (status, _) if FAILED.contains(&status) => self.failed(&of.instance, request, until).await,
            (_, Some(open)) if older_is_over => {
                self.in_an_older_record(&of.instance, source, open, request, until).await
            }
            // Its records go with a server that is deleted.
            _ if doubted || newest.is_none() => self.worked_on(&of.instance, newest, request, until).await,
            _ => Course::UnderWay { request, to: newest.and_then(|migration| self.to(migration)) },
        };
        (step, course)
    }

    fn to(&self, migration: &Migration) -> Option<(HostId, i64)> {
        migration.dest_compute.as_deref().map(|host| (self.names.ours(host), migration.id))
    }

    /// Its record is open for long: a server in error without a task is nobody's work.
    async fn worked_on(
        &self,
        instance: &InstanceId,
        migration: Option<&Migration>,
        request: String,
        until: Instant,
    ) -> Course {
        match (told(self.nova.server(instance.as_str(), until).await), migration) {
            (Ok(server), Some(migration))
                if server.task_state.is_none() && server.vm_state.as_deref() == Some("error") =>
            {
                Course::Idle { request, migration: migration.id }
            }
            (Ok(_), migration) => Course::UnderWay { request, to: migration.and_then(|of| self.to(of)) },
            (Err(course), _) => course,
        }
    }

    /// Nova says done; the server itself must say so too.
    async fn arrived(&self, instance: &InstanceId, source: &HostId, request: String, until: Instant) -> Course {
        let server = match told(self.nova.server(instance.as_str(), until).await) {
            Ok(server) => server,
            Err(course) => return course,
        };
        let state = server.vm_state.unwrap_or_default();
        match server.host.map(|host| self.names.ours(&host)) {
            _ if server.task_state.is_some() => Course::UnderWay { request, to: None },
            Some(host) if host != *source && matches!(state.as_str(), "active" | "stopped") => {
                Course::Done { request, host, left: None }
            }
            Some(host) if host != *source => {
                Course::Failed { request, why: format!("on {host}, but Nova calls it {state}"), left: None }
            }
            // Its source has come back and cleared up behind what never arrived.
            Some(_) if state == "error" => {
                Course::Failed { request, why: "Nova ended it, and calls the server broken".to_owned(), left: None }
            }
            _ => Course::UnderWay { request, to: None },
        }
    }

    async fn failed(&self, instance: &InstanceId, request: String, until: Instant) -> Course {
        let action = match told(self.nova.instance_action(instance.as_str(), &request, until).await) {
            Ok(action) => action,
            Err(course) => return course,
        };
        match failure(&action) {
            Some(why) => Course::Failed { request, why, left: None },
            // The record is of an earlier try, or of somebody else's.
            None => Course::UnderWay { request, to: None },
        }
    }

    /// Nova works an evacuation off in the oldest open record of the server, which an
    /// abandoned one may have left: our own then stays open for ever, and only our
    /// request's own action tells how it went.
    async fn in_an_older_record(
        &self,
        instance: &InstanceId,
        source: &HostId,
        open: &Migration,
        request: String,
        until: Instant,
    ) -> Course {
        let action = match told(self.nova.instance_action(instance.as_str(), &request, until).await) {
            Ok(action) => action,
            Err(course) => return course,
        };
        let left = Some(open.id);
        match failure(&action) {
            Some(why) => Course::Failed { request, why, left },
            None if action.succeeded(REBUILT) => match self.arrived(instance, source, request, until).await {
                Course::Done { request, host, .. } => Course::Done { request, host, left },
                Course::Failed { request, why, .. } => Course::Failed { request, why, left },
                other => other,
            },
            None => Course::UnderWay { request, to: self.to(open) },
        }
    }
}

/// Why an evacuation failed, in its action's own words; `None` when it says nothing of a failure.
fn failure(action: &ActionDetail) -> Option<String> {
    let words = action.events.iter().rev().find(|event| event.result.as_deref() == Some(ERROR));
    let said = words.map(|event| format!("{}: {}", event.event, event.details.as_deref().unwrap_or("no details")));
    let failed = action.action.has_failed() || said.is_some();
    failed.then(|| said.unwrap_or_else(|| "Nova gave it up".to_owned()))
}

/// The answer was lost: which of the server's actions is the one that nobody else asked for?
fn lost_request(of: &Move, actions: Vec<InstanceAction>) -> Option<String> {
    // Newest first: if that one is an earlier try, ours has not come. Whoever asked
    // for it: while it runs, ours may not be sent.
    let newest = actions.into_iter().find(|action| action.action == traces::EVACUATE);
    newest.and_then(|action| action.request_id).filter(|request| !of.others.contains(request))
}
