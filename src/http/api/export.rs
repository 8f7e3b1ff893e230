//! The audit trail as a download of any size, in constant memory.
//!
//! It is read page by page, each page a short query of its own: a reader who is slow holds no connection, no snapshot and
//! no lock, and one who goes away costs nothing more.

use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;

use crate::domain::{AuditEntry, ConsentState};
use crate::error::Error;
use crate::http::AppState;
use crate::http::problem::Problem;
use crate::store::audit::AuditFilter;

/// Entries that are in memory at once.
const CHUNK: i64 = 2000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Csv,
    Ndjson,
}

impl Format {
    /// The download which an `Accept` header prefers over JSON, if it does (RFC 9110, 12.5.1).
    pub fn accepted(accept: &str) -> Option<Self> {
        let mut best: Option<(f32, Option<Self>)> = None;
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let format = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
                "text/csv" => Some(Self::Csv),
                "application/x-ndjson" => Some(Self::Ndjson),
                "application/json" | "application/*" | "*/*" => None,
                _ => continue,
            };
            let quality =
                parts.find_map(|part| part.strip_prefix("q=")).map_or(1.0, |q| q.parse().unwrap_or(0.0));
            if quality > 0.0 && best.is_none_or(|(other, _)| quality > other) {
                best = Some((quality, format));
            }
        }
        best.and_then(|(_, format)| format)
    }
}

/// Streams all entries that the filter lets through.
pub async fn export(state: &AppState, filter: AuditFilter, format: Format) -> Result<Response, Problem> {
    // The first page is read before the answer begins: what is wrong with the database can still be said.
    let first = state.store.audit_entries(&filter, None, CHUNK).await?;
    let store = state.store.clone();
    let mut header = Some(&CSV_HEADER);
    let pages = stream::try_unfold(Some(first), move |page| {
        let (store, filter, header) = (store.clone(), filter.clone(), header.take());
        async move {
            let Some(entries) = page else {
                return Ok::<_, Error>(None);
            };
            let bytes = match format {
                Format::Csv => csv(header, &entries)?,
                Format::Ndjson => ndjson(&entries)?,
            };
            let full = i64::try_from(entries.len()).is_ok_and(|count| count == CHUNK);
            let next = match entries.last().filter(|_| full) {
                None => None,
                // The answer has begun: all that is left is to break it off, which every client notices, and to say why.
                Some(last) => Some(
                    store
                        .audit_entries(&filter, Some(last.audit_id), CHUNK)
                        .await
                        .inspect_err(|error| tracing::error!(%error, "an export is broken off"))?,
                ),
            };
            Ok(Some((Bytes::from(bytes), next)))
        }
    });
    let (kind, name) = match format {
        Format::Csv => {
            ("text/csv; charset=utf-8; header=present", "attachment; filename=\"consent-audit.csv\"")
        }
        Format::Ndjson => ("application/x-ndjson", "attachment; filename=\"consent-audit.ndjson\""),
    };
    Ok(([(CONTENT_TYPE, kind), (CONTENT_DISPOSITION, name)], Body::from_stream(pages)).into_response())
}

fn ndjson(entries: &[AuditEntry]) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::with_capacity(entries.len() * 1024);
    for entry in entries {
        serde_json::to_writer(&mut bytes, entry).map_err(|error| Error::Internal(error.to_string()))?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}

/// Lines as in RFC 4180.
fn csv(header: Option<&[&str; 25]>, entries: &[AuditEntry]) -> Result<Vec<u8>, Error> {
    let internal = |error: csv::Error| Error::Internal(error.to_string());
    let mut writer = csv::WriterBuilder::new()
        .terminator(csv::Terminator::CRLF)
        .from_writer(Vec::with_capacity(entries.len() * 512));
    if let Some(header) = header {
        writer.write_record(header).map_err(internal)?;
    }
    for entry in entries {
        writer.write_record(csv_row(entry)).map_err(internal)?;
    }
    writer.into_inner().map_err(|error| Error::Internal(error.to_string()))
}

static CSV_HEADER: [&str; 25] = [
    "audit_id",
    "timestamp",
    "customer_id",
    "version",
    "action",
    "previous_tier",
    "new_tier",
    "previous_can_store_images",
    "can_store_images",
    "previous_can_store_embeddings",
    "can_store_embeddings",
    "previous_can_use_for_training",
    "can_use_for_training",
    "previous_anonymization_level",
    "anonymization_level",
    "previous_policy_version",
    "policy_version",
    "previous_expires_at",
    "expires_at",
    "changed_by",
    "on_behalf_of",
    "change_reason",
    "ip_address",
    "user_agent",
    "request_id",
];

fn csv_row(entry: &AuditEntry) -> [String; 25] {
    let of = |state: Option<&ConsentState>, read: fn(&ConsentState) -> Option<String>| {
        state.and_then(read).unwrap_or_default()
    };
    let previous = entry.previous.as_ref().map(|json| &json.0);
    let current = entry.current.as_ref().map(|json| &json.0);
    let images: fn(&ConsentState) -> Option<String> = |state| Some(state.can_store_images.to_string());
    let embeddings: fn(&ConsentState) -> Option<String> =
        |state| Some(state.can_store_embeddings.to_string());
    let training: fn(&ConsentState) -> Option<String> = |state| Some(state.can_use_for_training.to_string());
    let level: fn(&ConsentState) -> Option<String> =
        |state| Some(state.anonymization_level.as_str().to_owned());
    let policy: fn(&ConsentState) -> Option<String> = |state| state.policy_version.as_deref().map(defused);
    let end: fn(&ConsentState) -> Option<String> = |state| state.expires_at.map(rfc3339);
    let text = |text: &Option<String>| text.as_deref().map(defused).unwrap_or_default();
    [
        entry.audit_id.to_string(),
        rfc3339(entry.timestamp),
        entry.customer_id.to_string(),
        entry.version.to_string(),
        entry.action.as_str().to_owned(),
        entry.previous_tier.map(|tier| tier.as_str().to_owned()).unwrap_or_default(),
        entry.new_tier.as_str().to_owned(),
        of(previous, images),
        of(current, images),
        of(previous, embeddings),
        of(current, embeddings),
        of(previous, training),
        of(current, training),
        of(previous, level),
        of(current, level),
        of(previous, policy),
        of(current, policy),
        of(previous, end),
        of(current, end),
        text(&entry.changed_by),
        text(&entry.on_behalf_of),
        text(&entry.change_reason),
        entry.ip_address.map(|network| network.ip().to_string()).unwrap_or_default(),
        text(&entry.user_agent),
        text(&entry.request_id),
    ]
}

fn rfc3339(time: chrono::DateTime<chrono::Utc>) -> String {
    time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)
}

/// A cell that begins like a formula is run by spreadsheets: an apostrophe makes it text (OWASP, CSV injection).
fn defused(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) {
        format!("'{text}")
    } else {
        text.to_owned()
    }
}
