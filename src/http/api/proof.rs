//! The proof that an entry is in the audit log.

use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::answer;
use super::log::cosigned;
use crate::domain::{Leaf, LogEntry, Source, hex};
use crate::error::Error;
use crate::http::AppState;
use crate::http::extract::{Caller, PathAuditId};
use crate::http::input::Params;
use crate::http::problem::Problem;
use crate::http::spec::{ReadProblems, UnknownAuditEntry};
use crate::tlog::tree::{Hash, leaf_hash};
use crate::tlog::{LogProof, Note};

/// What opens the commitment to a personal field: `SHA-256("consentd/field/v1\0" ‖ u16 len(field) ‖ field ‖ u32 len(value) ‖
/// value ‖ salt)`, lengths big-endian.
#[derive(Debug, Serialize, ToSchema)]
pub struct Opening {
    #[schema(example = "change_reason")]
    field: &'static str,
    value: String,
    /// 16 bytes in hexadecimal.
    #[schema(pattern = "^[0-9a-f]{32}$", example = "00112233445566778899aabbccddeeff")]
    salt: String,
}

/// That an entry is in the log, and what the log says of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct EntryProof {
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64, example = 4711)]
    audit_id: i64,
    /// The log's name.
    #[schema(example = "consent.example.com/audit/1")]
    origin: String,
    /// Which leaf it is, from 0.
    #[schema(minimum = 0, example = 4710)]
    leaf_index: u64,
    /// The leaf, byte for byte: canonical JSON.
    leaf: String,
    /// SHA-256 over a zero byte and the leaf, in base64.
    #[schema(example = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=")]
    leaf_hash: String,
    /// Whether the service wrote the entry; false for what was found in the database.
    #[schema(example = true)]
    vouched_for: bool,
    /// The personal fields which are not erased.
    openings: Vec<Opening>,
    /// The proof as a file of its own: C2SP tlog-proof. Leaf and openings are in its `extra` line.
    tlog_proof: String,
}

impl EntryProof {
    /// The file of its own, as a download.
    pub fn file(self) -> Response {
        let name = format!("attachment; filename=\"{}.tlog-proof\"", self.audit_id);
        let name = HeaderValue::from_str(&name).unwrap_or(HeaderValue::from_static("attachment"));
        let kind = HeaderValue::from_static("text/plain; charset=utf-8");
        ([(CONTENT_TYPE, kind), (CONTENT_DISPOSITION, name)], self.tlog_proof).into_response()
    }
}

#[derive(Serialize)]
struct Extra<'a> {
    leaf: &'a str,
    openings: &'a [Opening],
}

/// Prove that an entry is in the log
///
/// The inclusion proof, in JSON or, with `Accept: text/plain`, as a C2SP tlog-proof file that `consentd audit verify --proof`
/// and other tools check offline. The checkpoint in it is the newest that a witness cosigned, or the newest. Entries are in
/// the log about a second after they are written; an `audit_id` may also be that of an erasure or of another event of the log.
#[utoipa::path(
    get,
    path = "/v1/audit/{audit_id}/proof",
    tag = "Audit log",
    params(("audit_id" = i64, Path, description = "The entry", minimum = 1, maximum = 9_007_199_254_740_991_i64)),
    responses(
        (status = 200, description = "The proof", content(
            (EntryProof = "application/json"),
            (String = "text/plain"),
        )),
        ReadProblems,
        UnknownAuditEntry,
    ),
    security(("api_key" = ["audit:read"])),
)]
pub async fn get_audit_proof(
    State(state): State<AppState>,
    caller: Caller,
    PathAuditId(audit_id): PathAuditId,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    params.finish()?;
    let proof = prove(&state, audit_id, |customer_id| reaches(&caller, customer_id)).await?;
    if wants_text(&headers) {
        return Ok(proof.file());
    }
    Ok(answer(StatusCode::OK, &proof))
}

/// The proof of an entry, for whoever reaches its customer.
pub async fn prove(
    state: &AppState,
    audit_id: i64,
    reaches: impl Fn(Option<Uuid>) -> bool + Send,
) -> Result<EntryProof, Error> {
    let store = &state.store;
    let stored = store.log_entry(audit_id).await?;
    let Some(position) = store.position(audit_id).await? else {
        let within_reach = stored.is_some_and(|stored| reaches(stored.entry.customer_id()));
        return Err(if within_reach { Error::NotSealed } else { Error::UnknownAuditEntry });
    };
    let damaged = |what: String| Error::DamagedLog(format!("leaf {}: {what}", position.leaf_index));
    let leaf = Leaf::parse(&position.leaf).map_err(damaged)?;
    if !reaches(leaf.customer_id) {
        return Err(Error::UnknownAuditEntry);
    }
    let text = String::from_utf8(position.leaf.clone()).map_err(|_| damaged("it is no text".to_owned()))?;
    let openings = stored.map(|stored| openings(&stored.entry)).unwrap_or_default();
    let leaf_index = position.leaf_index.cast_unsigned();
    let signed =
        store.checkpoint_over(position.log_id, position.leaf_index).await?.ok_or(Error::NotSealed)?;
    let lines = store.cosignatures(position.log_id, signed.tree_size).await?;
    let hashes = store
        .inclusion_proof(position.log_id, leaf_index, signed.tree_size.cast_unsigned())
        .await?
        .unwrap_or_default();
    let checkpoint =
        Note::parse(&cosigned(signed.note, &lines)).map_err(|fault| damaged(fault.to_string()))?;
    let origin = checkpoint.text.lines().next().unwrap_or_default().to_owned();
    let tlog_proof = proof_file(&text, &openings, leaf_index, hashes, checkpoint)?;
    Ok(EntryProof {
        audit_id,
        origin,
        leaf_index,
        leaf_hash: leaf_hash(&position.leaf).to_string(),
        vouched_for: leaf.src == Source::Service,
        leaf: text,
        openings,
        tlog_proof,
    })
}

/// The proof as a file: what foreign tools read, with the leaf and what opens its commitments in the line for extras.
pub fn proof_file(
    leaf: &str,
    openings: &[Opening],
    index: u64,
    hashes: Vec<Hash>,
    checkpoint: Note,
) -> Result<String, Error> {
    let extra =
        serde_json::to_vec(&Extra { leaf, openings }).map_err(|error| Error::Internal(error.to_string()))?;
    Ok(LogProof { extra: Some(extra), index, hashes, checkpoint }.to_string())
}

/// What belongs to no customer is the operators'.
fn reaches(caller: &Caller, customer_id: Option<Uuid>) -> bool {
    match customer_id {
        Some(customer_id) => caller.principal.reaches(customer_id),
        None => caller.principal.customer_id.is_none(),
    }
}

/// What opens the commitments to the fields of an entry that are not erased.
pub fn openings(entry: &LogEntry) -> Vec<Opening> {
    entry
        .personal
        .iter()
        .map(|(field, salted)| Opening {
            field: field.as_str(),
            value: salted.value.clone(),
            salt: hex(&salted.salt),
        })
        .collect()
}

fn wants_text(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept
        .split(',')
        .any(|range| range.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/plain"))
}
