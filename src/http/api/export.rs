//! The audit trail as a download of any size, in constant memory.
//!
//! It is read page by page, each page a short query of its own: a reader who is slow holds no connection, no snapshot and
//! no lock, and one who goes away costs nothing more.

use std::borrow::Cow;
use std::fmt::{Display, Write as _};
use std::ops::Range;

use axum::body::Bytes;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::background::{Pacer, TimeSlice};
use crate::domain::json::Object;
use crate::domain::{EntryField, instant};
use crate::error::Error;
use crate::http::AppState;
use crate::http::problem::Problem;
use crate::http::shares::Owner;
use crate::store::Store;
use crate::store::audit::{AuditFilter, Position};
use crate::store::export::{Moment, RawEntry, RawPage, RawState};

/// Entries of a page, of which three are in memory at once: enough to keep the database busy while they are written.
const PAGE: usize = 4000;
/// Entries of a page beside checks and changes: a few milliseconds of work, after which the export rests.
const SHORT_PAGE: usize = 250;
/// Entries that are sent at a time.
const STRETCH: usize = 500;
/// Entries that are written between two looks at the time for which this task has kept its thread.
const PIECE: usize = 20;

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

    /// Some entries of a page, without a header.
    pub async fn write(self, page: &RawPage, places: Range<usize>) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::with_capacity(places.len() * 1024);
        let mut slice = TimeSlice::begin();
        for first in places.clone().step_by(PIECE) {
            let piece = first..places.end.min(first + PIECE);
            match self {
                Self::Csv => csv(&mut bytes, page, piece)?,
                Self::Ndjson => ndjson(&mut bytes, page, piece)?,
            }
            slice.end_if_over().await;
        }
        Ok(bytes)
    }
}

/// Streams all entries that the filter lets through.
pub async fn export(
    state: &AppState,
    owner: Owner,
    filter: AuditFilter,
    format: Format,
) -> Result<Response, Problem> {
    let Some(slot) = state.downloads.slot(owner).await else {
        return Err(Problem::overloaded());
    };
    let (kind, name, header) = match format {
        Format::Csv => (
            "text/csv; charset=utf-8; header=present",
            "attachment; filename=\"consent-audit.csv\"",
            Some(CSV_HEADER.join(",") + "\r\n"),
        ),
        Format::Ndjson => ("application/x-ndjson", "attachment; filename=\"consent-audit.ndjson\"", None),
    };
    // The first page is read before the answer begins: what is wrong with the database can still be said.
    let pages = Pages::begin(state.store.clone(), filter, state.cache.pacer()).await?;
    let entries = stream::try_unfold(pages, move |mut pages| async move {
        let bytes = pages.next_stretch(format).await?;
        Ok::<_, Error>(bytes.map(|bytes| (Bytes::from(bytes), pages)))
    })
    // The answer has begun: all that is left is to break it off, which every client notices, and to say why.
    .inspect_err(|error| tracing::error!(%error, "an export is broken off"));
    let body = slot.body(stream::iter(header.map(|header| Ok(header.into()))).chain(entries));
    Ok(([(CONTENT_TYPE, kind), (CONTENT_DISPOSITION, name)], body).into_response())
}

/// The pages of an export: one is written and sent, another waits for that, and a third is read.
struct Pages {
    page: RawPage,
    /// How many entries of the page are written.
    written: usize,
    next: mpsc::Receiver<RawPage>,
    /// A task of its own, which ends with the export: a connection is given back as soon as its page is read, however
    /// slowly somebody takes the pages before it.
    reading: AbortOnDropHandle<Result<(), Error>>,
}

impl Pages {
    async fn begin(store: Store, filter: AuditFilter, pacer: Pacer) -> Result<Self, Error> {
        let page = store.raw_audit_entries(&filter, None, SHORT_PAGE).await?;
        let end = end(&page, SHORT_PAGE)?;
        let (read, next) = mpsc::channel(1);
        let reading = AbortOnDropHandle::new(tokio::spawn(read_below(end, store, filter, pacer, read)));
        Ok(Self { page, written: 0, next, reading })
    }

    async fn next_stretch(&mut self, format: Format) -> Result<Option<Vec<u8>>, Error> {
        if self.written == self.page.len() {
            let Some(next) = self.next.recv().await else {
                // Whether there is no more, or it went wrong: half a trail is not to be taken for a whole one.
                (&mut self.reading).await.map_err(|error| Error::Internal(error.to_string()))??;
                return Ok(None);
            };
            self.page = next;
            self.written = 0;
        }
        let places = self.written..self.page.len().min(self.written + STRETCH);
        self.written = places.end;
        Ok(Some(format.write(&self.page, places).await?).filter(|bytes| !bytes.is_empty()))
    }
}

/// Page after page, while there are more and somebody wants them.
async fn read_below(
    mut end: Option<Position>,
    store: Store,
    filter: AuditFilter,
    mut pacer: Pacer,
    read: mpsc::Sender<RawPage>,
) -> Result<(), Error> {
    while let Some(before) = end {
        pacer.rest().await;
        let limit = if pacer.is_alone() { PAGE } else { SHORT_PAGE };
        let page = store.raw_audit_entries(&filter, Some(before), limit).await?;
        end = self::end(&page, limit)?;
        if read.send(page).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// End of a page. There may be another page below it if this one is full.
fn end(page: &RawPage, limit: usize) -> Result<Option<Position>, Error> {
    if page.len() == limit { page.end() } else { Ok(None) }
}

/// To the byte as serde writes an [`AuditEntry`](crate::domain::AuditEntry).
fn ndjson(bytes: &mut Vec<u8>, page: &RawPage, places: Range<usize>) -> Result<(), Error> {
    let mut text = String::new();
    for entry in page.entries(places) {
        object(bytes, &entry?, &mut text);
        bytes.push(b'\n');
    }
    Ok(())
}

fn object(bytes: &mut Vec<u8>, entry: &RawEntry<'_>, text: &mut String) {
    let mut object = Object::begin(bytes);
    object
        .integer("audit_id", Some(entry.audit_id))
        .uuid("customer_id", entry.customer_id)
        .word("action", entry.action)
        .integer("version", Some(entry.version.into()));
    if let Some(tier) = entry.previous_tier {
        object.word("previous_tier", tier);
    }
    object.word("new_tier", entry.new_tier);
    for (name, state) in [("previous", &entry.previous), ("current", &entry.current)] {
        if let Some(state) = state {
            object.object(name, |object| state_fields(object, state));
        }
    }
    object
        .text("changed_by", entry.changed_by)
        .text("on_behalf_of", entry.on_behalf_of)
        .text("change_reason", entry.change_reason)
        .text("ip_address", entry.ip_address.map(|network| show(text, network.ip())))
        .text("user_agent", entry.user_agent)
        .text("request_id", entry.request_id);
    moment(&mut object, "timestamp", Some(&entry.timestamp));
    if !entry.unreadable.is_empty() {
        object.words("unreadable", entry.unreadable.iter().map(|field| field.as_str()));
    }
    if entry.foreign {
        object.boolean("foreign", true);
    }
    object.end();
}

fn state_fields(object: &mut Object<'_>, state: &RawState<'_>) {
    object
        .word("consent_tier", state.consent_tier.as_str())
        .boolean("can_store_images", state.can_store_images)
        .boolean("can_store_embeddings", state.can_store_embeddings)
        .boolean("can_use_for_training", state.can_use_for_training)
        .word("anonymization_level", state.anonymization_level.as_str())
        .text("policy_version", state.policy_version.as_deref());
    moment(object, "expires_at", state.expires_at.as_ref());
    moment(object, "consent_granted_at", state.consent_granted_at.as_ref());
}

fn moment(object: &mut Object<'_>, name: &'static str, moment: Option<&Moment<'_>>) {
    let mut buffer = instant::Buffer::default();
    object.text(name, moment.map(|moment| moment.write(&mut buffer)).as_deref());
}

fn yes_or_no(permission: bool) -> &'static str {
    if permission { "true" } else { "false" }
}

/// Lines as in RFC 4180.
fn csv(bytes: &mut Vec<u8>, page: &RawPage, places: Range<usize>) -> Result<(), Error> {
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(bytes);
    let mut text = String::new();
    for entry in page.entries(places) {
        row(&mut writer, &entry?, &mut text).map_err(|error| Error::Internal(error.to_string()))?;
    }
    writer.flush().map_err(|error| Error::Internal(error.to_string()))
}

pub static CSV_HEADER: [&str; 26] = [
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
    "foreign",
];

/// The cell of a field that holds no readable value.
const UNREADABLE: &str = "unreadable";

/// Writes a row; whatever is not a text already is made one in `text`.
fn row(writer: &mut csv::Writer<&mut Vec<u8>>, entry: &RawEntry<'_>, text: &mut String) -> csv::Result<()> {
    let states = [(&entry.previous, EntryField::Previous), (&entry.current, EntryField::Current)].map(
        |(state, field)| (state.as_ref(), if entry.unreadable.contains(&field) { UNREADABLE } else { "" }),
    );
    writer.write_field(show(text, entry.audit_id))?;
    writer.write_field(&*entry.timestamp.write(&mut instant::Buffer::default()))?;
    writer.write_field(entry.customer_id.hyphenated().encode_lower(&mut Uuid::encode_buffer()))?;
    writer.write_field(show(text, entry.version))?;
    for (field, word) in [
        (EntryField::Action, entry.action),
        (EntryField::PreviousTier, entry.previous_tier.unwrap_or_default()),
        (EntryField::NewTier, entry.new_tier),
    ] {
        writer.write_field(if entry.unreadable.contains(&field) { UNREADABLE } else { word })?;
    }
    let permissions: [fn(&RawState<'_>) -> bool; 3] = [
        |state| state.can_store_images,
        |state| state.can_store_embeddings,
        |state| state.can_use_for_training,
    ];
    for permission in permissions {
        for (state, absent) in states {
            writer.write_field(state.map_or(absent, |state| yes_or_no(permission(state))))?;
        }
    }
    for (state, absent) in states {
        writer.write_field(state.map_or(absent, |state| state.anonymization_level.as_str()))?;
    }
    for (state, absent) in states {
        let policy = state.map_or(Some(absent), |state| state.policy_version.as_deref());
        writer.write_field(&*defused(policy))?;
    }
    for (state, absent) in states {
        let mut buffer = instant::Buffer::default();
        let end = state.map_or(Cow::Borrowed(absent), |state| {
            state.expires_at.as_ref().map_or_else(Cow::default, |end| end.write(&mut buffer))
        });
        writer.write_field(end.as_bytes())?;
    }
    for told in [entry.changed_by, entry.on_behalf_of, entry.change_reason] {
        writer.write_field(&*defused(told))?;
    }
    writer.write_field(entry.ip_address.map_or("", |network| show(text, network.ip())))?;
    writer.write_field(&*defused(entry.user_agent))?;
    writer.write_field(&*defused(entry.request_id))?;
    writer.write_field(if entry.foreign { "true" } else { "" })?;
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
