//! Whether the log holds: its state, what was verified and found, what was signed, and how anybody checks it without us.

use std::fmt;
use std::str::FromStr;

use askama::Template;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

use super::paging::Paging;
use super::session::Visitor;
use super::shell::{Condition, Place, Shell};
use crate::domain::Scope;
use crate::error::Error;
use crate::http::AppState;
use crate::http::input::Params;
use crate::http::pages::{Form, Page, filters, see};
use crate::http::problem::Problem;
use crate::ops::log::verifying::Verifying;
use crate::store::log::quarantine::{Listed, Quarantined};
use crate::store::log::reading::{Backlog, StoredCheckpoint, StoredVerification};
use crate::store::verification::ListedCheckpoint;

/// Checkpoints of a page.
const SHOWN: usize = 20;
/// Entries in quarantine that are shown; there should be none.
const QUARANTINED: i64 = 20;
/// What waits longer than this is late: sealing takes a second.
const SEALED_WITHIN: TimeDelta = TimeDelta::minutes(1);

#[derive(Template)]
#[template(path = "console/integrity.html")]
struct Integrity {
    shell: Shell,
    origin: String,
    /// Why the log cannot go on.
    fork: Option<String>,
    tree_size: i64,
    root: Option<String>,
    signed_at: Option<DateTime<Utc>>,
    last: Option<StoredVerification>,
    findings: Vec<Finding>,
    verifying: Verifying,
    backlog: Backlog,
    quarantined: Vec<Quarantined>,
    keys: Vec<Key>,
    checkpoints: Vec<Row>,
    older: Option<String>,
    /// The list from its newest checkpoint; absent where it is shown from there.
    newest: Option<String>,
}

/// What a verification found.
struct Finding {
    rule: String,
    place: String,
    what: String,
}

struct Key {
    text: String,
    /// It signs nothing new.
    retired: bool,
}

struct Row {
    at: At,
    root: String,
    signed_at: DateTime<Utc>,
    witnesses: i64,
}

/// Where a checkpoint stands in the list.
#[derive(Clone, Copy)]
struct At {
    log_id: i32,
    size: i64,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.log_id, self.size)
    }
}

impl FromStr for At {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (log_id, size) = text.split_once('.').ok_or(())?;
        Ok(Self { log_id: log_id.parse().map_err(drop)?, size: size.parse().map_err(drop)? })
    }
}

impl Integrity {
    /// How far the verification is, in hundredths; `None` before that is known.
    fn percent(&self) -> Option<u64> {
        let running = self.verifying.running.filter(|running| running.in_all > 0)?;
        Some(running.done * 100 / running.in_all)
    }

    /// How much of how much, where that is known.
    fn read(&self) -> Option<String> {
        let running = self.verifying.running.filter(|running| running.in_all > 0)?;
        let grouped = |leaves: u64| filters::grouped(leaves.cast_signed());
        Some(format!("{} of {}", grouped(running.done), grouped(running.in_all)))
    }

    fn is_late(&self) -> bool {
        self.backlog.oldest.is_some_and(|oldest| oldest + SEALED_WITHIN < self.shell.now)
    }

    fn headline(&self) -> &'static str {
        match (&self.fork, &self.last) {
            (Some(_), _) => "The log is forked",
            (None, None) => "The log was never verified",
            (None, Some(last)) if last.result == "tampering" => "The log was tampered with",
            (None, Some(_)) if self.shell.badge.condition == Condition::Good => "The log holds",
            (None, Some(last)) if last.result == "clean" => "The log was not verified for long",
            (None, Some(_)) => "Nothing was found, and nothing outside was compared",
        }
    }
}

pub async fn page(
    State(state): State<AppState>,
    visitor: Visitor,
    uri: Uri,
    params: Params,
) -> Result<Response, Problem> {
    let shell = Shell::new(&state, &visitor, Place::Integrity).await?;
    let mut params = params.without_blanks();
    let paging: Paging<At> = Paging::read(&state, &uri, &mut params);
    params.finish()?;
    let store = &state.store;
    let view = state.log.get();
    let log = store.open_log().await?;
    let (log_id, origin) =
        log.as_ref().map_or((view.log_id, view.origin), |log| (log.log_id, log.origin.clone()));
    let newest = store.latest_checkpoint(log_id).await?;
    let before = paging.after.map(|at| (at.log_id, at.size));
    let limit = i64::try_from(SHOWN + 1).unwrap_or(i64::MAX);
    let mut listed = store.list_checkpoints(before, limit).await?;
    let position = |listed: &ListedCheckpoint| At { log_id: listed.log_id, size: listed.signed.tree_size };
    let older = paging.next(&state, &mut listed, SHOWN, position);
    let backlog = store.backlog().await?;
    let quarantined = if backlog.quarantined > 0 {
        store.quarantined(Listed::Unresolved, Some(QUARANTINED)).await?
    } else {
        Vec::new()
    };
    let last = store.last_verification().await?;
    let page = Integrity {
        fork: view.fork.or(log.and_then(|log| log.fork)),
        tree_size: newest.as_ref().map_or(0, |newest| newest.tree_size),
        root: newest.as_ref().and_then(StoredCheckpoint::checkpoint).map(|signed| signed.root.to_string()),
        signed_at: newest.map(|newest| newest.signed_at),
        findings: last.as_ref().map(|last| findings(&last.findings)).unwrap_or_default(),
        last,
        verifying: state.verifications.get(),
        keys: keys(&state, &origin)?,
        checkpoints: listed.iter().map(|listed| row(listed, position(listed))).collect(),
        newest: paging.after.is_some().then(|| paging.first()),
        origin,
        backlog,
        quarantined,
        older,
        shell,
    };
    Ok(Page(StatusCode::OK, page).into_response())
}

fn row(listed: &ListedCheckpoint, at: At) -> Row {
    let root = listed.signed.checkpoint().map(|checkpoint| checkpoint.root.to_string());
    Row {
        at,
        root: root.unwrap_or_else(|| "unreadable".to_owned()),
        signed_at: listed.signed.signed_at,
        witnesses: listed.witnesses,
    }
}

/// `840 ms`, `3.2 s`, `12 min 5 s`.
fn took(millis: i64) -> String {
    if millis < 1000 {
        format!("{millis} ms")
    } else if millis < 60_000 {
        format!("{}.{} s", millis / 1000, millis % 1000 / 100)
    } else {
        format!("{} min {} s", millis / 60_000, millis % 60_000 / 1000)
    }
}

fn findings(kept: &Value) -> Vec<Finding> {
    let text = |finding: &Value, name: &str| finding[name].as_str().unwrap_or_default().to_owned();
    kept.as_array()
        .into_iter()
        .flatten()
        .map(|finding| Finding {
            rule: text(finding, "rule"),
            place: text(finding, "place"),
            what: text(finding, "what"),
        })
        .collect()
}

fn keys(state: &AppState, origin: &str) -> Result<Vec<Key>, Error> {
    if origin.is_empty() {
        return Ok(Vec::new());
    }
    let signing = state.log_keys.verifier_keys(origin)?.len();
    let believed = state.log_keys.believed_keys(origin)?;
    // Those that sign come first.
    let keys = believed.iter().enumerate();
    Ok(keys.map(|(index, key)| Key { text: key.to_string(), retired: index >= signing }).collect())
}

/// Starts a verification of the whole log; it goes on while nobody looks.
pub async fn verify(
    State(state): State<AppState>,
    visitor: Visitor,
    Form(form): Form,
) -> Result<Response, Problem> {
    visitor.must(Scope::AuditRead)?;
    form.finish()?;
    if !state.verifications.ask((state.clock)()) {
        let why = "this replica keeps no audit log, and so has nothing to verify";
        return Err(Error::Conflict(why).into());
    }
    Ok(see(Place::Integrity.path()))
}
