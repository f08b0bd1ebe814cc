//! Fence devices: shown with what is known of each, and a list of addresses imported.
//!
//! ```text
//!   GET  /fences           -> question to the loop -> every device, and hosts without one
//!   POST /fences   admin   -> rows checked -> loop: all or none, committed -> what it came to
//! ```

use super::{Api, Caller, Refused, bodies, verbs};
use crate::peer::valid_name;
use crate::rank::Rank;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Extension, Json, Router};
use medevac_proto::rest::{FenceRow, FencesRequest};
use medevac_triage::{HostId, Listed, Place, ROWS_MAX, Word};

/// A list of the largest site, with long names.
const BODY_MAX: usize = 2 * 1024 * 1024;

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/api/v1/fences", get(show).post(import)).layer(DefaultBodyLimit::max(BODY_MAX))
}

async fn show(State(api): State<Api>) -> Result<impl IntoResponse, Refused> {
    Ok(Json(api.ask(|triage, now| triage.fence_views(now).into_iter().map(bodies::fence).collect::<Vec<_>>()).await?))
}

async fn import(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Result<impl IntoResponse, Refused> {
    caller.needs(Rank::for_verb("import-devices"), "import-devices")?;
    let request: FencesRequest = serde_json::from_slice(&body)
        .map_err(|error| verbs::bad("bad-list", format!("{error}; see /api/v1/openapi.json")))?;
    let reason = verbs::checked_reason(&request.reason)?;
    if request.rows.len() > ROWS_MAX {
        return Err(verbs::bad("too-many", format!("{} rows; at most {ROWS_MAX} at once", request.rows.len())));
    }
    let rows: Result<Vec<Listed>, Refused> = request.rows.into_iter().enumerate().map(listed).collect();
    let word = Word::ImportDevices { rows: rows?, dry_run: request.dry_run };
    Ok(verbs::told(verbs::speak(&api, caller.name, word, reason).await?))
}

fn listed((at, row): (usize, FenceRow)) -> Result<Listed, Refused> {
    let line = if row.line > 0 { row.line } else { at + 1 };
    let wrong = |what: String| verbs::bad("bad-line", format!("line {line}: {what}; nothing was imported"));
    if !valid_name(&row.host) {
        return Err(wrong(format!("{:.64?} cannot be the name of a host", row.host)));
    }
    let place = Place::read(&row.address, &row.plug).map_err(wrong)?;
    Ok(Listed { line, host: HostId(row.host), place, pinned: row.pinned })
}
