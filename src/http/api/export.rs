//! The audit trail as a download of any size, in constant memory.
//!
//! It is read page by page, each page a short query of its own: a reader who is slow holds no connection, no snapshot and
//! no lock, and one who goes away costs nothing more.

use std::borrow::Cow;
use std::fmt::{Display, Write as _};

use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::error::Error;
use crate::http::AppState;
use crate::http::problem::Problem;
use crate::store::Store;
use crate::store::audit::AuditFilter;
use crate::store::export::{MomentBuffer, RawEntry, RawPage, RawState};

/// Entries of a page. Two pages are in memory at once, and what is sent of a third.
const CHUNK: i64 = 1000;

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

    fn write(self, header: Option<&[&str; 25]>, page: &RawPage) -> Result<Bytes, Error> {
        Ok(Bytes::from(match self {
            Self::Csv => csv(header, page)?,
            Self::Ndjson => ndjson(page)?,
        }))
    }
}

/// Streams all entries that the filter lets through.
pub async fn export(state: &AppState, filter: AuditFilter, format: Format) -> Result<Response, Problem> {
    let Some(place) = state.gate.export().await else {
        return Err(Problem::overloaded());
    };
    let mut pages = Pages { store: state.store.clone(), filter, next: None };
    // The first page is read before the answer begins: what is wrong with the database can still be said.
    let first = state.store.raw_audit_entries(&pages.filter, None, CHUNK).await?;
    pages.read_ahead(&first)?;
    let first = format.write(Some(&CSV_HEADER), &first)?;
    // The place is kept until the last byte is sent or nobody wants it any more.
    let rest = stream::try_unfold((pages, place), move |(mut pages, place)| async move {
        let Some(page) = pages.next().await? else {
            return Ok::<_, Error>(None);
        };
        Ok(Some((format.write(None, &page)?, (pages, place))))
    })
    // The answer has begun: all that is left is to break it off, which every client notices, and to say why.
    .inspect_err(|error| tracing::error!(%error, "an export is broken off"));
    let body = Body::from_stream(stream::once(async { Ok(first) }).chain(rest));
    let (kind, name) = match format {
        Format::Csv => {
            ("text/csv; charset=utf-8; header=present", "attachment; filename=\"consent-audit.csv\"")
        }
        Format::Ndjson => ("application/x-ndjson", "attachment; filename=\"consent-audit.ndjson\""),
    };
    Ok(([(CONTENT_TYPE, kind), (CONTENT_DISPOSITION, name)], body).into_response())
}

/// The pages of an export, of which one is always read while the one before it is written and sent.
struct Pages {
    store: Store,
    filter: AuditFilter,
    /// In a task of its own: it gives its connection back when the page is read, however slowly the reader takes the
    /// one before, and ends with the export.
    next: Option<AbortOnDropHandle<Result<RawPage, Error>>>,
}

impl Pages {
    async fn next(&mut self) -> Result<Option<RawPage>, Error> {
        let Some(next) = self.next.take() else {
            return Ok(None);
        };
        let page = next.await.map_err(|error| Error::Internal(error.to_string()))??;
        self.read_ahead(&page)?;
        Ok(Some(page))
    }

    fn read_ahead(&mut self, page: &RawPage) -> Result<(), Error> {
        let full = i64::try_from(page.len()).is_ok_and(|count| count == CHUNK);
        if let Some(before) = page.last_id()?.filter(|_| full) {
            let (store, filter) = (self.store.clone(), self.filter.clone());
            self.next = Some(AbortOnDropHandle::new(tokio::spawn(async move {
                store.raw_audit_entries(&filter, Some(before), CHUNK).await
            })));
        }
        Ok(())
    }
}

fn ndjson(page: &RawPage) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::with_capacity(page.len() * 1024);
    for entry in page.entries() {
        serde_json::to_writer(&mut bytes, &entry?).map_err(|error| Error::Internal(error.to_string()))?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}

/// Lines as in RFC 4180.
fn csv(header: Option<&[&str; 25]>, page: &RawPage) -> Result<Vec<u8>, Error> {
    let mut writer = csv::WriterBuilder::new()
        .terminator(csv::Terminator::CRLF)
        .from_writer(Vec::with_capacity(page.len() * 512));
    if let Some(header) = header {
        writer.write_record(header).map_err(internal)?;
    }
    let mut text = String::new();
    for entry in page.entries() {
        row(&mut writer, &entry?, &mut text).map_err(internal)?;
    }
    writer.into_inner().map_err(|error| Error::Internal(error.to_string()))
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` hands over")]
fn internal(error: csv::Error) -> Error {
    Error::Internal(error.to_string())
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

/// Writes a row; whatever is not a text already is made one in `text`.
fn row(writer: &mut csv::Writer<Vec<u8>>, entry: &RawEntry<'_>, text: &mut String) -> csv::Result<()> {
    let states = [&entry.previous, &entry.current].map(|state| state.as_ref().map(|json| &json.0));
    writer.write_field(show(text, entry.audit_id))?;
    writer.write_field(&*entry.timestamp.write(&mut MomentBuffer::default()))?;
    writer.write_field(entry.customer_id.hyphenated().encode_lower(&mut Uuid::encode_buffer()))?;
    writer.write_field(show(text, entry.version))?;
    writer.write_field(entry.action)?;
    writer.write_field(entry.previous_tier.unwrap_or_default())?;
    writer.write_field(entry.new_tier)?;
    let permissions: [fn(&RawState<'_>) -> bool; 3] = [
        |state| state.can_store_images,
        |state| state.can_store_embeddings,
        |state| state.can_use_for_training,
    ];
    for permission in permissions {
        for state in states {
            writer.write_field(state.map_or("", |state| if permission(state) { "true" } else { "false" }))?;
        }
    }
    for state in states {
        writer.write_field(state.map_or("", |state| state.anonymization_level.as_str()))?;
    }
    for state in states {
        writer.write_field(&*defused(state.and_then(|state| state.policy_version.as_deref())))?;
    }
    for state in states {
        let mut buffer = MomentBuffer::default();
        let end = state.and_then(|state| state.expires_at.as_ref());
        writer.write_field(end.map_or_else(Cow::default, |end| end.write(&mut buffer)).as_bytes())?;
    }
    for told in [entry.changed_by, entry.on_behalf_of, entry.change_reason] {
        writer.write_field(&*defused(told))?;
    }
    writer.write_field(entry.ip_address.map_or("", |network| show(text, network.ip())))?;
    writer.write_field(&*defused(entry.user_agent))?;
    writer.write_field(&*defused(entry.request_id))?;
    writer.write_record(None::<&[u8]>)
}

fn show(text: &mut String, value: impl Display) -> &str {
    text.clear();
    write!(text, "{value}").expect("a String takes all that is written");
    text
}

/// A cell that begins like a formula is run by spreadsheets: an apostrophe makes it text (OWASP, CSV injection).
fn defused(text: Option<&str>) -> Cow<'_, str> {
    let text = text.unwrap_or_default();
    if text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) {
        Cow::Owned(format!("'{text}"))
    } else {
        Cow::Borrowed(text)
    }
}
