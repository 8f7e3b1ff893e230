//! One entry of the trail: what it changed, who made it, and what proves it.

use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};

use super::standing::{after, before, who};
use super::texts::{Piece, Texts, say};
use super::view::{Entry, Row, Sentence};
use super::visit::Visit;
use crate::domain::{AuditAction, AuditEntry, ConsentState, EntryField};
use crate::error::Error;
use crate::http::AppState;
use crate::http::api::proof::prove;
use crate::http::extract::PathAuditId;
use crate::http::pages::Page;
use crate::http::problem::Problem;
use crate::ops::log::receipt;

pub async fn page(
    State(state): State<AppState>,
    visit: Visit,
    PathAuditId(audit_id): PathAuditId,
    uri: Uri,
) -> Result<Response, Problem> {
    let entry = own_entry(&state, &visit, audit_id).await?;
    let receipt = receipt_of(&state, audit_id).await?;
    let saved =
        form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).any(|(name, _)| name == "saved");
    Ok(Page(StatusCode::OK, view(&visit, &entry, saved, receipt)).into_response())
}

/// To a customer, another's entry is as unknown as one that never was: ids are countable.
async fn own_entry(state: &AppState, visit: &Visit, audit_id: i64) -> Result<AuditEntry, Error> {
    let entry = state.store.audit_entry(audit_id).await?;
    entry
        .filter(|entry| entry.customer_id == visit.customer.customer_id && !entry.foreign)
        .ok_or(Error::UnknownAuditEntry)
}

pub fn view(visit: &Visit, entry: &AuditEntry, saved: bool, receipt: Option<String>) -> Entry {
    let t = visit.texts;
    let number = Piece::Datum(entry.audit_id.to_string());
    let erased = entry.action == AuditAction::Erased;
    let (was, is) = (before(entry), Some(after(entry)).filter(|_| !erased));
    let cell =
        |state, field| if entry.unreadable.contains(&field) { Cell::Unreadable } else { Cell::from(state) };
    Entry {
        frame: visit.frame(format!("/my/consent/entries/{}", entry.audit_id)),
        title: say(t.entry_title, &[("entry", number)]),
        saved,
        when: t.time(entry.timestamp),
        what: t.action_name(entry.action),
        who: who(entry, t),
        reason: entry.change_reason.clone(),
        read_text: is.as_ref().and_then(|state| state.policy_version.clone()),
        rows: rows(t, cell(was.as_ref(), EntryField::Previous), cell(is.as_ref(), EntryField::Current)),
        audit_id: entry.audit_id,
        receipt,
    }
}

/// A consent in the table, before or after the change.
#[derive(Clone, Copy)]
enum Cell<'e> {
    Nothing,
    State(&'e ConsentState),
    Unreadable,
}

impl<'e> From<Option<&'e ConsentState>> for Cell<'e> {
    fn from(state: Option<&'e ConsentState>) -> Self {
        state.map_or(Self::Nothing, Self::State)
    }
}

fn rows(t: &'static Texts, was: Cell<'_>, is: Cell<'_>) -> Vec<Row> {
    type Tell = fn(&'static Texts, &ConsentState) -> Sentence;
    let told: [(&'static str, Tell); 6] = [
        (t.tier, |t, state| say(t.tier_name(state.consent_tier), &[])),
        (t.images, |t, state| say(t.yes_or_no(state.can_store_images), &[])),
        (t.embeddings, |t, state| say(t.yes_or_no(state.can_store_embeddings), &[])),
        (t.training, |t, state| say(t.yes_or_no(state.can_use_for_training), &[])),
        (t.level, |t, state| say(t.level_name(state.anonymization_level), &[])),
        (t.end, |t, state| match state.expires_at {
            Some(end) => vec![t.time(end)],
            None => vec![Piece::Text("–".to_owned())],
        }),
    ];
    let row = |(name, tell): (&'static str, Tell)| {
        let tell = |cell| match cell {
            Cell::Nothing => say(t.nothing_before, &[]),
            Cell::State(state) => tell(t, state),
            // In every language.
            Cell::Unreadable => vec![Piece::Text("?".to_owned())],
        };
        let (before, now) = (tell(was), tell(is));
        Row { name, changed: before != now, before, now }
    };
    told.into_iter().map(row).collect()
}

/// As a file, to be kept.
pub async fn receipt(
    State(state): State<AppState>,
    visit: Visit,
    PathAuditId(audit_id): PathAuditId,
) -> Result<Response, Problem> {
    own_entry(&state, &visit, audit_id).await?;
    let receipt = receipt_of(&state, audit_id).await?.ok_or(Error::UnknownAuditEntry)?;
    let name = format!("attachment; filename=\"{audit_id}.receipt.txt\"");
    let name = HeaderValue::from_str(&name).unwrap_or(HeaderValue::from_static("attachment"));
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    Ok(([(CONTENT_TYPE, kind), (CONTENT_DISPOSITION, name)], receipt).into_response())
}

/// The receipt is signed when it is asked for, over the leaf in the log, or the one that the entry will become.
async fn receipt_of(state: &AppState, audit_id: i64) -> Result<Option<String>, Error> {
    let leaf = if let Some(position) = state.store.position(audit_id).await? {
        Some(position.leaf)
    } else {
        let stored = state.store.log_entry(audit_id).await?;
        stored.and_then(|stored| receipt::vouched_leaf(&state.log_keys, &stored))
    };
    Ok(leaf.and_then(|leaf| receipt::sign(&state.log_keys, &state.log.get(), audit_id, &leaf)))
}

/// The proof that the entry is in the log.
pub async fn proof(
    State(state): State<AppState>,
    visit: Visit,
    PathAuditId(audit_id): PathAuditId,
) -> Result<Response, Problem> {
    let own = visit.customer.customer_id;
    Ok(prove(&state, audit_id, |customer_id| customer_id == Some(own)).await?.file())
}
