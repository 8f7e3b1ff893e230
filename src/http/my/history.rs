//! The customer's own trail, whoever made the changes; on pages, or whole as a file.

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};

use super::HISTORY;
use super::standing::who;
use super::view::{History, Line};
use super::visit::Visit;
use crate::domain::AuditEntry;
use crate::error::Error;
use crate::http::AppState;
use crate::http::api::export::{Format, export};
use crate::http::pages::Page;
use crate::http::problem::Problem;
use crate::http::shares::Owner;
use crate::store::audit::{AuditFilter, Position};

/// Entries on a page.
const SHOWN: usize = 20;

fn own(visit: &Visit) -> AuditFilter {
    AuditFilter { customer_id: Some(visit.customer.customer_id), ..AuditFilter::default() }
}

pub async fn page(State(state): State<AppState>, visit: Visit, uri: Uri) -> Result<Response, Problem> {
    // A cursor of one customer is nonsense to another.
    let list = format!("{HISTORY}?{}", visit.customer.customer_id);
    let before = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes())
        .find(|(name, _)| name == "before")
        .map(|(_, cursor)| state.cursors.open::<Position>(&list, &cursor))
        .transpose()
        .map_err(|_| Error::UnknownAuditEntry)?;
    let fetch = i64::try_from(SHOWN + 1).unwrap_or(i64::MAX);
    let mut entries = state.store.audit_entries(&own(&visit), before, fetch).await?;
    let more = entries.len() > SHOWN;
    entries.truncate(SHOWN);
    let older = entries.last().filter(|_| more).map(|last| {
        let position = Position { timestamp: last.timestamp, audit_id: last.audit_id };
        format!("{HISTORY}?before={}", state.cursors.seal(&list, &position.to_string()))
    });
    Ok(Page(StatusCode::OK, view(&visit, &entries, older, before.is_some())).into_response())
}

pub fn view(visit: &Visit, entries: &[AuditEntry], older: Option<String>, is_later: bool) -> History {
    let t = visit.texts;
    let line = |entry: &AuditEntry| Line {
        audit_id: entry.audit_id,
        when: t.time(entry.timestamp),
        what: t.action_name(entry.action),
        tier: t.tier_name(entry.new_tier),
        who: who(entry, t),
        reason: entry.change_reason.clone(),
    };
    // An entry that never took effect is no part of this history; the file has it, with a mark.
    let lines = entries.iter().filter(|entry| !entry.foreign).map(line).collect();
    History { frame: visit.frame(HISTORY), lines, older, is_later }
}

/// All of it, as whoever keeps the trail exports it.
pub async fn csv(State(state): State<AppState>, visit: Visit) -> Result<Response, Problem> {
    let owner = Owner::Customer(visit.customer.customer_id);
    export(&state, owner, own(&visit), Format::Csv).await
}
