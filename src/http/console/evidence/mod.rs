//! The evidence pack: what somebody asked of the trail, and the proof of the answer, in one file that needs nobody's trust.
//!
//! The same question of the same log gives the same file, byte for byte: in it is nothing but what the log held at the size
//! that its address names, who asked, and what was asked. When it was taken stands in the log itself, as every reading of
//! personal data does.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::{HeaderValue, Uri};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, SecondsFormat, Utc};
use futures_util::stream;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::paging::{query_without, with_query};
use super::reveal;
use super::session::Visitor;
use super::trail::TrailFilter;
use crate::domain::{Leaf, Scope, address_text};
use crate::error::Error;
use crate::http::AppState;
use crate::http::extract::{MAX_AUDIT_ID, PathId};
use crate::http::input::{Params, number};
use crate::http::pages::filters::grouped;
use crate::http::pages::see;
use crate::http::problem::{INVALID_PARAMETER, NOT_FOUND, Problem};
use crate::http::shares::Owner;
use crate::store::audit::AuditFilter;
use crate::store::evidence::SealedEntry;
use crate::tlog::{Checkpoint, Note};

mod archive;
mod pack;
mod report;

use pack::Pack;

/// Entries of a pack. Each has a proof in a file of its own, and a report is meant to be read: for more there is the copy of
/// the whole log.
const MAX_ENTRIES: i64 = 10_000;

/// Parts of a pack that wait for the client.
const PARTS: usize = 4;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    pub title: String,
    pub filter: AuditFilter,
}

/// Of which log, at which size.
struct Pin {
    log_id: Option<i64>,
    size: Option<i64>,
}

const LOG: &str = "log";
const SIZE: &str = "size";

impl Pin {
    fn take(params: &mut Params) -> Self {
        Self {
            log_id: params.take(LOG, number(1, i64::from(i32::MAX))),
            size: params.take(SIZE, number(1, MAX_AUDIT_ID)),
        }
    }
}

/// A log, and the signed checkpoint that its entries are proven by.
#[derive(Clone, Debug)]
pub struct SignedLog {
    pub checkpoint: Checkpoint,
    /// Signed by the log alone: witnesses sign when they can, and the pack would not stay the same.
    pub note: Note,
    /// The keys that signed it, as C2SP signed-note writes them.
    pub keys: Vec<String>,
}

/// All that has happened to one customer's consent.
pub async fn of_customer(
    State(state): State<AppState>,
    visitor: Visitor,
    PathId(customer_id): PathId,
    uri: Uri,
    params: Params,
) -> Result<Response, Problem> {
    visitor.must(Scope::AuditRead)?;
    let mut params = params.without_blanks();
    let pin = Pin::take(&mut params);
    params.finish()?;
    if !state.store.has_trail(customer_id).await? {
        return Err(Error::UnknownCustomer.into());
    }
    let question = Question {
        title: "The consent of one customer, from the beginning".to_owned(),
        filter: AuditFilter { customer_id: Some(customer_id), ..AuditFilter::default() },
    };
    answer(&state, &visitor, &uri, question, &pin).await
}

/// The entries that the trail's page shows with the same filter.
pub async fn of_trail(
    State(state): State<AppState>,
    visitor: Visitor,
    uri: Uri,
    params: Params,
) -> Result<Response, Problem> {
    visitor.must(Scope::AuditRead)?;
    let mut params = params.without_blanks();
    let pin = Pin::take(&mut params);
    let filter = TrailFilter::read(&mut params).filter;
    params.finish()?;
    let question = Question { title: "The audit trail, as filtered".to_owned(), filter };
    answer(&state, &visitor, &uri, question, &pin).await
}

async fn answer(
    state: &AppState,
    visitor: &Visitor,
    uri: &Uri,
    question: Question,
    pin: &Pin,
) -> Result<Response, Problem> {
    let Some(size) = pin.size else {
        return newest(state, uri, pin).await;
    };
    let log_id = match pin.log_id {
        Some(log_id) => i32::try_from(log_id).unwrap_or(i32::MAX),
        None => open_log(state).await?,
    };
    let Some(slot) = state.downloads.slot(Owner::of(&visitor.principal)).await else {
        return Err(Problem::overloaded());
    };
    let entries = state.store.sealed_entries(&question.filter, log_id, size, MAX_ENTRIES + 1).await?;
    if i64::try_from(entries.len()).unwrap_or(i64::MAX) > MAX_ENTRIES {
        let most = grouped(MAX_ENTRIES);
        return Err(Problem::new(
            &INVALID_PARAMETER,
            format!(
                "more than {most} entries match, and a pack has a proof for each of {most} at most: narrow the time or the \
                 customer; `consentd audit mirror` copies the whole log with all that proves it"
            ),
        ));
    }
    let pack = prepare(state, visitor, question, log_id, size, entries).await?;
    // Nothing is sent that the log does not say was asked for.
    reveal::record(state, visitor, uri, pack.question.filter.customer_id).await?;
    let name = format!("attachment; filename=\"{}.zip\"", pack.file_name());
    let (parts, unsent) = mpsc::channel(PARTS);
    let (store, pacer, kept) = (state.store.clone(), state.cache.pacer(), slot.clone());
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || {
        pack::write(&pack, &store, &runtime, pacer, &parts);
        drop(kept);
    });
    let body =
        slot.body(stream::unfold(unsent, async |mut unsent| unsent.recv().await.map(|part| (part, unsent))));
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/zip")),
        (CONTENT_DISPOSITION, HeaderValue::from_str(&name).unwrap_or(HeaderValue::from_static("attachment"))),
    ];
    Ok((headers, body).into_response())
}

/// The way to the pack of the log as it is now.
async fn newest(state: &AppState, uri: &Uri, pin: &Pin) -> Result<Response, Problem> {
    let log_id = match pin.log_id {
        Some(log_id) => i32::try_from(log_id).unwrap_or(i32::MAX),
        None => open_log(state).await?,
    };
    let signed = state.store.latest_checkpoint(log_id).await?;
    let signed = signed.ok_or_else(|| {
        Problem::new(&NOT_FOUND, "nothing of this log is signed yet: try again in a second")
    })?;
    let filter = query_without(uri, &[LOG, SIZE]);
    let separator = if filter.is_empty() { "" } else { "&" };
    let query = format!("{filter}{separator}{LOG}={log_id}&{SIZE}={}", signed.tree_size);
    Ok(see(&with_query(uri.path(), &query)))
}

async fn open_log(state: &AppState) -> Result<i32, Error> {
    let log = state.store.open_log().await?;
    log.map(|log| log.log_id).ok_or_else(|| Error::Unavailable("no log is open".to_owned()))
}

async fn prepare(
    state: &AppState,
    visitor: &Visitor,
    question: Question,
    log_id: i32,
    size: i64,
    entries: Vec<SealedEntry>,
) -> Result<Pack, Problem> {
    let mut logs = BTreeMap::new();
    logs.insert(log_id, signed_log(state, log_id, Some(size)).await?);
    for entry in &entries {
        if let Entry::Vacant(former) = logs.entry(entry.log_id) {
            // It grows no more.
            former.insert(signed_log(state, entry.log_id, None).await?);
        }
    }
    let last = state.store.leaves(log_id, size - 1, 1).await?.pop().ok_or_else(|| {
        Error::DamagedLog(format!("leaf {} is missing, and the log was signed with it", size - 1))
    })?;
    let last = Leaf::parse(&last.leaf).map_err(Error::DamagedLog)?;
    Ok(Pack { question, asked_by: one_line(&visitor.name()), log_id, as_of: last.timestamp, logs, entries })
}

/// A log's checkpoint of a size, or its last one.
async fn signed_log(state: &AppState, log_id: i32, size: Option<i64>) -> Result<SignedLog, Problem> {
    let signed = match size {
        Some(size) => state.store.checkpoint_of_size(log_id, size).await?,
        None => state.store.latest_checkpoint(log_id).await?,
    };
    let signed = signed.ok_or_else(|| {
        let detail = "the log was never signed at this size: leave size out, and the newest one is taken";
        Problem::new(&NOT_FOUND, detail)
    })?;
    let damaged =
        |why: String| Error::DamagedLog(format!("the checkpoint of size {}: {why}", signed.tree_size));
    let note = Note::parse(&signed.note).map_err(|fault| damaged(fault.to_string()))?;
    let checkpoint = Checkpoint::parse(&note.text).map_err(|fault| damaged(fault.to_string()))?;
    let believed = state.log_keys.believed_keys(&checkpoint.origin)?;
    // Those alone that signed: keys that come later must not change the pack.
    let right = note.verify(&believed).map_err(|fault| damaged(fault.to_string()))?;
    let keys = believed
        .iter()
        .filter(|key| right.iter().any(|right| right.key_id == key.id()))
        .map(ToString::to_string)
        .collect();
    Ok(SignedLog { checkpoint, note, keys })
}

/// What was asked, in words: one line for each part of the filter.
fn asked(filter: &AuditFilter) -> Vec<(&'static str, String)> {
    let time = |time: &DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    let AuditFilter {
        customer_id,
        since,
        until,
        action,
        previous_tier,
        new_tier,
        changed_by,
        ip_address,
        request_id,
    } = filter;
    let parts = [
        ("Customer", customer_id.as_ref().map(Uuid::to_string)),
        ("From", since.as_ref().map(time)),
        ("Before", until.as_ref().map(time)),
        ("Action", action.map(|action| action.as_str().to_owned())),
        ("Tier before", previous_tier.map(|tier| tier.as_str().to_owned())),
        ("Tier after", new_tier.map(|tier| tier.as_str().to_owned())),
        ("Changed by", changed_by.clone()),
        ("Address", ip_address.map(address_text)),
        ("Request", request_id.clone()),
    ];
    parts.into_iter().filter_map(|(name, value)| Some((name, one_line(&value?)))).collect()
}

/// What was given by a client must not pass for a line of the pack's own.
fn one_line(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect()
}
