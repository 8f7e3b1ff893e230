//! The audit log, for whoever checks it: checkpoints, tiles and proofs in the formats of <https://c2sp.org>.

use axum::extract::{RawPathParams, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::answer;
use crate::error::Error;
use crate::http::AppState;
use crate::http::extract::Caller;
use crate::http::input::{Params, number};
use crate::http::problem::{NOT_FOUND, Problem, ProblemDocument};
use crate::http::spec::ReadProblems;
use crate::store::log::reading::StoredCheckpoint;
use crate::store::log::sealing::Log;
use crate::tlog::Tile;
use crate::tlog::tile::{TileKind, push_entry};

/// Which log.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "the field documents the parameter which `find` reads")]
pub struct WhichLog {
    /// An older log, by its number; the one that is open if it is left out.
    #[param(minimum = 1, maximum = 2_147_483_647)]
    log: Option<i32>,
}

async fn find(state: &AppState, mut params: Params) -> Result<Log, Problem> {
    let wanted = params.take("log", number(1, i64::from(i32::MAX)));
    params.finish()?;
    let log = match wanted {
        Some(log_id) => state.store.log(i32::try_from(log_id).unwrap_or(i32::MAX)).await?,
        None => state.store.open_log().await?,
    };
    log.ok_or_else(|| {
        Problem::new(&NOT_FOUND, "there is no such log: /v1/audit/log/status names those there are")
    })
}

fn plain(text: String) -> Response {
    ([(CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

/// The log's verifier keys
///
/// The public keys that check the log's checkpoints and receipts, one a line, as C2SP signed-note writes them. Several
/// while keys are changed: each checkpoint is signed by all of them. Keep a copy: who fetches a key together with what it
/// checks has checked nothing.
#[utoipa::path(
    get,
    path = "/.well-known/consentd-audit.vkey",
    tag = "Audit log",
    responses(
        (status = 200, description = "One key a line", body = String, content_type = "text/plain"),
        (status = 503, description = "The log is not open yet", body = ProblemDocument<'static>, content_type = "application/problem+json"),
    ),
    security(()),
)]
pub async fn get_verifier_keys(State(state): State<AppState>, params: Params) -> Result<Response, Problem> {
    params.finish()?;
    let log = state.log.get();
    if log.origin.is_empty() {
        return Err(Error::Unavailable("the audit log is not open".to_owned()).into());
    }
    let keys = state.log_keys.verifier_keys(&log.origin)?;
    Ok(plain(keys.iter().fold(String::new(), |lines, key| lines + &key.to_string() + "\n")))
}

/// The newest checkpoint
///
/// Size and root of the log's tree, signed by the log and by its witnesses: C2SP tlog-checkpoint. Public.
#[utoipa::path(
    get,
    path = "/v1/audit/log/checkpoint",
    tag = "Audit log",
    params(WhichLog),
    responses(
        (status = 200, description = "The checkpoint", body = String, content_type = "text/plain"),
        (status = 404, description = "There is no such log, or nothing is signed yet", body = ProblemDocument<'static>, content_type = "application/problem+json"),
        ReadProblems,
    ),
    security(()),
)]
pub async fn get_checkpoint(State(state): State<AppState>, params: Params) -> Result<Response, Problem> {
    let log = find(&state, params).await?;
    let newest = state.store.latest_checkpoint(log.log_id).await?;
    let newest =
        newest.ok_or_else(|| Problem::new(&NOT_FOUND, "nothing is signed yet: try again in a second"))?;
    let lines = state.store.cosignatures(log.log_id, newest.tree_size).await?;
    Ok(plain(cosigned(newest.note, &lines)))
}

/// The note with the witnesses' lines behind the log's own.
pub fn cosigned(note: String, lines: &[String]) -> String {
    lines.iter().fold(note, |note, line| note + line + "\n")
}

/// Bytes, and no list of numbers as JSON would have it.
#[derive(Debug, ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "it is read by the document alone")]
pub struct Octets(Vec<u8>);

/// A tile of the log
///
/// Hashes of the tree, or log entries, in the files of C2SP tlog-tiles: `tile/<level>/<index>` or `tile/entries/<index>`,
/// the index in groups of three digits, all but the last with an `x` before them, and for the right-most, partial ones
/// `.p/<width>` behind it, e.g. `0/x001/x234/067` or `entries/000.p/5`. The slashes are sent as they are. Tiles never change.
/// For operators' keys alone: entries of all customers stand beside each other.
#[utoipa::path(
    get,
    path = "/v1/audit/log/tile/{*tile}",
    tag = "Audit log",
    params(
        ("tile" = String, Path, description = "Level or `entries`, and index", example = "0/000.p/1"),
        WhichLog,
    ),
    responses(
        (status = 200, description = "Up to 256 hashes of 32 bytes, or entries, each behind its length as a big-endian 16-bit number", body = inline(Octets), content_type = "application/octet-stream"),
        (status = 404, description = "The tree that was last signed has no such tile", body = ProblemDocument<'static>, content_type = "application/problem+json"),
        ReadProblems,
    ),
    security(("api_key" = ["audit:read"])),
)]
pub async fn get_tile(
    State(state): State<AppState>,
    caller: Caller,
    path: RawPathParams,
    params: Params,
) -> Result<Response, Problem> {
    caller.must_be_operator()?;
    let path = path.iter().next().map(|(_, tile)| tile.to_owned()).unwrap_or_default();
    let log = find(&state, params).await?;
    let absent = || Problem::new(&NOT_FOUND, "the tree that was last signed has no such tile");
    let tile = Tile::parse(&path).map_err(|fault| Problem::new(&NOT_FOUND, fault.to_string()))?;
    let signed = state.store.latest_checkpoint(log.log_id).await?.ok_or_else(absent)?;
    if tile.width > Tile::width_in(tile.kind, tile.index, signed.tree_size.cast_unsigned()) {
        return Err(absent());
    }
    let (first, width) = ((tile.index * 256).cast_signed(), i64::from(tile.width));
    let mut bytes = Vec::new();
    let complete = match tile.kind {
        TileKind::Entries => {
            let leaves = state.store.leaves(log.log_id, first, width).await?;
            for leaf in &leaves {
                push_entry(&mut bytes, &leaf.leaf).map_err(|fault| Error::DamagedLog(fault.to_string()))?;
            }
            leaves.len() == usize::from(tile.width)
        }
        TileKind::Hashes(level) => {
            bytes = state.store.tile(log.log_id, level, first, width).await?.concat();
            bytes.len() == usize::from(tile.width) * 32
        }
    };
    if !complete {
        return Err(Error::DamagedLog(format!("tile {path} is not whole")).into());
    }
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (CACHE_CONTROL, HeaderValue::from_static("private, max-age=31536000, immutable")),
    ];
    Ok((headers, bytes).into_response())
}

/// How one checkpoint grew into another.
#[derive(Debug, Serialize, ToSchema)]
pub struct ConsistencyProof {
    #[schema(example = "consent.example.com/audit/1")]
    origin: String,
    #[schema(minimum = 0, example = 41_200)]
    old_size: u64,
    #[schema(minimum = 0, example = 41_873)]
    new_size: u64,
    /// The proof of RFC 6962, section 2.1.2, each hash in base64.
    #[schema(max_items = 128, example = json!(["CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="]))]
    hashes: Vec<String>,
}

/// Prove that the log only grew
///
/// The consistency proof between two sizes of the tree (RFC 6962, section 2.1.2).
#[utoipa::path(
    get,
    path = "/v1/audit/log/consistency",
    tag = "Audit log",
    params(
        ("old" = u64, Query, description = "The smaller size", minimum = 0, maximum = 9_007_199_254_740_991_i64),
        ("new" = u64, Query, description = "The larger size, at most that of the newest checkpoint", minimum = 0, maximum = 9_007_199_254_740_991_i64),
        WhichLog,
    ),
    responses(
        (status = 200, description = "The proof", body = ConsistencyProof),
        (status = 404, description = "There is no such log, or it is smaller", body = ProblemDocument<'static>, content_type = "application/problem+json"),
        ReadProblems,
    ),
    security(("api_key" = ["audit:read"])),
)]
pub async fn get_consistency(
    State(state): State<AppState>,
    _: Caller,
    mut params: Params,
) -> Result<Response, Problem> {
    let size = || number(0, crate::http::extract::MAX_AUDIT_ID);
    let (old, new) = (params.required("old", size()), params.required("new", size()));
    if old.zip(new).is_some_and(|(old, new)| old > new) {
        params.fault("old", "out_of_range", "old must not be larger than new: exchange them");
    }
    let log = find(&state, params).await?;
    let (old_size, new_size) = (old.unwrap_or(0).cast_unsigned(), new.unwrap_or(0).cast_unsigned());
    let signed = state.store.latest_checkpoint(log.log_id).await?.map_or(0, |newest| newest.tree_size);
    if new_size > signed.cast_unsigned() {
        return Err(Problem::new(&NOT_FOUND, format!("the tree that was last signed has {signed} leaves")));
    }
    let proof = state.store.consistency_proof(log.log_id, old_size, new_size).await?.unwrap_or_default();
    let hashes = proof.iter().map(ToString::to_string).collect();
    Ok(answer(StatusCode::OK, &ConsistencyProof { origin: log.origin, old_size, new_size, hashes }))
}

/// Whether the log goes on.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SealingState {
    Sealing,
    /// The database contradicts a checkpoint that was published: nothing is sealed until an operator opens a new log.
    Forked,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct LogStatus {
    /// The number of the log that is open.
    #[schema(minimum = 1, example = 1)]
    log: i32,
    #[schema(example = "consent.example.com/audit/1")]
    origin: String,
    state: SealingState,
    /// Why it is forked; absent while it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    fork: Option<String>,
    /// Leaves in the tree that was last signed; 0 before the first time.
    #[schema(minimum = 0, example = 41_200)]
    tree_size: u64,
    /// Its root hash in base64. Absent before the first time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=")]
    root: Option<String>,
    /// When it was last signed; every half minute at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    signed_at: Option<DateTime<Utc>>,
    /// The verifier keys which the log is signed by.
    verifier_keys: Vec<String>,
    /// Entries that wait to be sealed.
    #[schema(minimum = 0, example = 3)]
    pending: i64,
    /// Since when the oldest of them waits. Absent when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pending_since: Option<DateTime<Utc>>,
    /// Entries that cannot be sealed, since they are not what the service wrote. Anything but 0 is an alarm.
    #[schema(minimum = 0, example = 0)]
    quarantined: i64,
    /// Absent when the log was never verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    last_verification: Option<Verification>,
}

/// How a verification of the whole log ended.
#[derive(Debug, Serialize, ToSchema)]
pub struct Verification {
    started_at: DateTime<Utc>,
    /// How long it took, in milliseconds.
    #[schema(minimum = 0, example = 840)]
    took_ms: i64,
    #[schema(minimum = 0, example = 41_200)]
    tree_size: i64,
    /// `clean`, `tampering` or `incomplete`.
    #[schema(pattern = "^(clean|tampering|incomplete)$", example = "clean")]
    result: String,
    /// What was found: rule, place and what is wrong there. At most 100.
    #[schema(value_type = Vec<Object>)]
    findings: serde_json::Value,
}

/// The state of the log
///
/// What is sealed, what waits, whether the log is forked, and how the last verification ended. For operators' keys alone.
#[utoipa::path(
    get,
    path = "/v1/audit/log/status",
    tag = "Audit log",
    responses((status = 200, description = "The state", body = LogStatus), ReadProblems),
    security(("api_key" = ["audit:read"])),
)]
pub async fn get_log_status(
    State(state): State<AppState>,
    caller: Caller,
    params: Params,
) -> Result<Response, Problem> {
    params.finish()?;
    caller.must_be_operator()?;
    let view = state.log.get();
    let log = state.store.open_log().await?.ok_or_else(|| Error::Unavailable("no log is open".to_owned()))?;
    let newest = state.store.latest_checkpoint(log.log_id).await?;
    let checkpoint = newest.as_ref().and_then(StoredCheckpoint::checkpoint);
    let backlog = state.store.backlog().await?;
    let fork = view.fork.or(log.fork);
    let last = state.store.last_verification().await?;
    let status = LogStatus {
        log: log.log_id,
        origin: log.origin,
        state: if fork.is_some() { SealingState::Forked } else { SealingState::Sealing },
        fork,
        tree_size: newest.as_ref().map_or(0, |newest| newest.tree_size.cast_unsigned()),
        root: checkpoint.map(|checkpoint| checkpoint.root.to_string()),
        signed_at: newest.map(|newest| newest.signed_at),
        verifier_keys: log.verifier_keys,
        pending: backlog.pending,
        pending_since: backlog.oldest,
        quarantined: backlog.quarantined,
        last_verification: last.map(|last| Verification {
            started_at: last.started_at,
            took_ms: last.took_ms,
            tree_size: last.tree_size,
            result: last.result,
            findings: last.findings,
        }),
    };
    Ok(answer(StatusCode::OK, &status))
}
