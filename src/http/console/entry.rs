//! One audit entry: what it says, what it rests on, and how to check it.

use askama::Template;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};

use super::entry_view::{EntryView, shown};
use super::reveal::Sight;
use super::session::Visitor;
use super::shell::{Place, Shell};
use crate::domain::{AuditEntry, ConsentState};
use crate::error::Error;
use crate::http::AppState;
use crate::http::extract::PathAuditId;
use crate::http::input::Params;
use crate::http::pages::{Page, filters};
use crate::http::problem::Problem;
use crate::store::log::reading::StoredCheckpoint;
use crate::tlog::tree::leaf_hash;

#[derive(Template)]
#[template(path = "console/entry.html")]
struct EntryPage {
    shell: Shell,
    sight: Sight,
    entry: EntryView,
    states: Vec<StateRow>,
    address: Option<String>,
    user_agent: Option<String>,
    request_id: Option<String>,
    policy_version: Option<String>,
    proof: Option<Proof>,
    /// The entry as the API gives it, where personal fields are shown.
    json: Option<String>,
    previous: Option<i64>,
    next: Option<i64>,
}

/// A field before and after.
struct StateRow {
    field: &'static str,
    was: Option<String>,
    is: String,
    changed: bool,
}

/// Where the entry is in the log.
struct Proof {
    leaf_hash: String,
    leaf_index: i64,
    /// The newest signed tree over it.
    tree: Option<Tree>,
}

struct Tree {
    origin: String,
    size: i64,
    root: String,
}

pub async fn page(
    State(state): State<AppState>,
    visitor: Visitor,
    PathAuditId(audit_id): PathAuditId,
    uri: Uri,
    params: Params,
) -> Result<Response, Problem> {
    let shell = Shell::new(&state, &visitor, Place::Trail).await?;
    let mut params = params.without_blanks();
    let sight = Sight::read(&state, &visitor, &uri, &mut params).await?;
    params.finish()?;
    let entry = state.store.audit_entry(audit_id).await?.ok_or(Error::UnknownAuditEntry)?;
    let [previous, _, next] = state.store.versions_around(entry.customer_id, entry.version).await?;
    let json = sight.is_open().then(|| serde_json::to_string_pretty(&entry));
    let json = json.transpose().map_err(|error| Error::Internal(error.to_string()))?;
    let page = EntryPage {
        entry: EntryView::new(&entry, &sight),
        states: states(&entry),
        address: entry.ip_address.map(|address| sight.address(address)),
        user_agent: entry.user_agent.clone(),
        request_id: entry.request_id.clone(),
        policy_version: entry.current.as_ref().and_then(|current| current.policy_version.clone()),
        proof: proof(&state, audit_id).await?,
        json,
        previous: previous.map(|entry| entry.audit_id),
        next: next.map(|entry| entry.audit_id),
        sight,
        shell,
    };
    Ok(Page(StatusCode::OK, page).into_response())
}

fn states(entry: &AuditEntry) -> Vec<StateRow> {
    let current = match &entry.current {
        Some(current) => current.0.clone(),
        None => ConsentState::of_tier(entry.new_tier),
    };
    let mut before =
        entry.previous.as_ref().map(|previous| shown(&previous.0).map(|(_, was)| was).into_iter());
    shown(&current)
        .into_iter()
        .map(|(field, is)| {
            let was = before.as_mut().and_then(Iterator::next);
            StateRow { field, changed: was.as_ref().is_none_or(|was| *was != is), was, is }
        })
        .collect()
}

async fn proof(state: &AppState, audit_id: i64) -> Result<Option<Proof>, Error> {
    let store = &state.store;
    let Some(position) = store.position(audit_id).await? else { return Ok(None) };
    let signed = store.checkpoint_over(position.log_id, position.leaf_index).await?;
    let checkpoint = signed.as_ref().and_then(StoredCheckpoint::checkpoint);
    Ok(Some(Proof {
        leaf_hash: leaf_hash(&position.leaf).to_string(),
        leaf_index: position.leaf_index,
        tree: checkpoint.map(|checkpoint| Tree {
            origin: checkpoint.origin,
            size: checkpoint.size.cast_signed(),
            root: checkpoint.root.to_string(),
        }),
    }))
}
