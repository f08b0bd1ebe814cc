//! What an evacuation leaves behind, for when its answer was lost.
//!
//! ```text
//!   read actions and migrations   -> before
//!   POST evacuate                 -> no answer
//!   read them again               -> after        after - before, ours = what came of it
//! ```
//!
//! Compared are ids, never clocks: those of two machines differ. That nothing is
//! there *yet* proves nothing: the request may still wait in a queue of a proxy
//! or of the web server. It may be taken as not carried out only when no queue on the
//! way keeps a request that long.

use crate::body::{InstanceAction, Migration};
use std::collections::BTreeSet;

/// As Nova names the action.
pub const EVACUATE: &str = "evacuate";

/// As Nova names the kind of migration.
pub const EVACUATION: &str = "evacuation";

/// The evacuations among `after` that `user_id` asked for and that are not among `before`. More
/// than one means that somebody else uses our user, or that the server was evacuated twice.
pub fn new_evacuations<'a>(
    before: &[InstanceAction],
    after: &'a [InstanceAction],
    user_id: &str,
) -> Vec<&'a InstanceAction> {
    let known: BTreeSet<_> = before.iter().filter_map(|action| action.request_id.as_deref()).collect();
    let ours = |action: &&InstanceAction| {
        let new = action.request_id.as_deref().is_some_and(|id| !known.contains(id));
        new && action.action == EVACUATE && action.user_id.as_deref() == Some(user_id)
    };
    after.iter().filter(ours).collect()
}

/// The evacuation records of `server` among `after` that are not among `before`, whoever asked.
pub fn new_migrations<'a>(before: &[Migration], after: &'a [Migration], server: &str) -> Vec<&'a Migration> {
    let known: BTreeSet<i64> = before.iter().map(|migration| migration.id).collect();
    let new = |migration: &&Migration| {
        migration.migration_type == EVACUATION && migration.instance_uuid == server && !known.contains(&migration.id)
    };
    after.iter().filter(new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(kind: &str, request: &str, user: &str) -> InstanceAction {
        serde_json::from_value(serde_json::json!({"action": kind, "request_id": request, "user_id": user})).unwrap()
    }

    #[test]
    fn only_what_is_new_and_ours_is_a_trace() {
        let before = vec![action(EVACUATE, "req-1", "us"), action("stop", "req-2", "us")];
        let mut after = before.clone();
        assert!(new_evacuations(&before, &after, "us").is_empty());
        after.push(action("start", "req-3", "us"));
        after.push(action(EVACUATE, "req-4", "an operator"));
        assert!(new_evacuations(&before, &after, "us").is_empty());
        after.push(action(EVACUATE, "req-5", "us"));
        let found = new_evacuations(&before, &after, "us");
        assert_eq!(found.iter().filter_map(|action| action.request_id.as_deref()).collect::<Vec<_>>(), ["req-5"]);
    }

    #[test]
    fn a_migration_is_known_by_its_number() {
        let record = |id: i64, server: &str, kind: &str| -> Migration {
            let body =
                serde_json::json!({"id": id, "instance_uuid": server, "status": "accepted", "migration_type": kind});
            serde_json::from_value(body).unwrap()
        };
        let before = vec![record(1, "s", EVACUATION)];
        let after = vec![
            record(4, "s", EVACUATION),
            record(3, "other", EVACUATION),
            record(2, "s", "live-migration"),
            record(1, "s", EVACUATION),
        ];
        let found: Vec<i64> = new_migrations(&before, &after, "s").iter().map(|migration| migration.id).collect();
        assert_eq!(found, [4]);
    }
}
