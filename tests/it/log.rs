//! The audit log as a whole: written, sealed, read, forked, published, erased in.

mod backup;
mod crash;
mod erasure;
mod files;
mod forks;
mod keys;
mod managed;
mod proofs;
mod publication;
mod quarantine;
mod reading;
mod restore;
pub mod running;
mod sealing;
mod verification;
mod witness;
mod writing;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use chrono::{DateTime, Utc};
use consentd::domain::hex;
use consentd::ops::log::memory::Memory;
use consentd::ops::log::sealer::{Round, Sealer};
use consentd::ops::log::{LogView, opening};
use consentd::store::Store;
use consentd::tlog::tree::{Frontier, leaf_hash, verify_inclusion};
use consentd::tlog::{Checkpoint, LogProof, Note, VerifierKey};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sqlx::ConnectOptions as _;
use sqlx::PgPool;
use uuid::Uuid;

use crate::service::Service;

/// The name of the log which `Service::sealer` opens.
const ORIGIN: &str = "log.example/audit/1";

/// Another replica's sealer on a service's database: connections, memory and view are its own.
struct Replica {
    sealer: Sealer,
    view: Arc<LogView>,
}

impl Replica {
    /// `name` is that of the file in which it remembers.
    async fn start(service: &Service, name: &str) -> Self {
        let now = service.now();
        let store = Store::new(&service.login, 2, 2);
        let log = opening::open_first(&store, &service.keys, "log.example", now).await.expect("a log opens");
        let view = Arc::new(LogView::default());
        let memory = Memory::at(service.outside.path().join(name));
        let mut sealer = Sealer::new(store, Arc::clone(&service.keys), Arc::clone(&view), memory, &log);
        sealer.recall(now).await.expect("what was remembered is read");
        Self { sealer, view }
    }

    async fn round(&mut self, now: DateTime<Utc>) -> Round {
        self.sealer.round(now).await.expect("a round")
    }
}

/// Rounds until there is nothing left to do; answers how many entries were sealed.
async fn seal(sealer: &mut Sealer, now: DateTime<Utc>) -> usize {
    let mut entries = 0;
    loop {
        let round = sealer.round(now).await.expect("a round");
        entries += round.sealed;
        if round.sealed == 0 && round.signed.is_none() && !round.more {
            return entries;
        }
    }
}

/// All leaves in their order, each with the id of its entry.
async fn leaves(pool: &PgPool) -> Vec<(i64, Vec<u8>)> {
    sqlx::query_as("select audit_id, leaf from vlaapi.audit_leaves order by log_id, leaf_index")
        .fetch_all(pool)
        .await
        .expect("the leaves")
}

fn read(leaf: &[u8]) -> Value {
    serde_json::from_slice(leaf).expect("a leaf is JSON")
}

/// The tree over leaves, by the test's own reckoning.
fn tree<'a>(leaves: impl IntoIterator<Item = &'a Vec<u8>>) -> Frontier {
    let mut tree = Frontier::new();
    for leaf in leaves {
        tree.append(leaf_hash(leaf), |_, _| {});
    }
    tree
}

/// What a checkpoint says, whose signatures of these keys are right.
#[track_caller]
fn checkpoint(note: &str, keys: &[VerifierKey]) -> Checkpoint {
    let note = Note::parse(note).expect("a note");
    note.verify(keys).expect("it is signed");
    Checkpoint::parse(&note.text).expect("a checkpoint")
}

fn verifier_keys(service: &Service, origin: &str) -> Vec<VerifierKey> {
    service.keys.verifier_keys(origin).expect("keys")
}

/// What a proof proves: the leaf, and the fields which are opened, each with its value.
struct Proven {
    leaf: Value,
    opened: Vec<(String, String)>,
    checkpoint: Note,
}

/// Checks a proof by the specification alone, without the code that the service checks it by.
#[track_caller]
fn prove(proof: &str, keys: &[VerifierKey]) -> Proven {
    let proof = LogProof::parse(proof).expect("a proof");
    let signed = checkpoint(&proof.checkpoint.to_string(), keys);
    let extra: Value = serde_json::from_slice(&proof.extra.expect("something extra")).expect("JSON");
    let bytes = extra["leaf"].as_str().expect("the leaf");
    verify_inclusion(leaf_hash(bytes.as_bytes()), proof.index, signed.size, &proof.hashes, signed.root)
        .expect("the leaf is in the tree");
    let leaf = read(bytes.as_bytes());
    let mut opened = Vec::new();
    for opening in extra["openings"].as_array().expect("openings") {
        let text = |name: &str| opening[name].as_str().expect("a text").to_owned();
        let (field, value, salt) = (text("field"), text("value"), text("salt"));
        assert_eq!(leaf["commitments"][&field], commitment(&field, &value, &salt), "{field}");
        opened.push((field, value));
    }
    Proven { leaf, opened, checkpoint: proof.checkpoint }
}

/// `SHA-256("consentd/field/v1\0" ‖ u16 len(name) ‖ name ‖ u32 len(value) ‖ value ‖ salt)`, in hexadecimal.
fn commitment(field: &str, value: &str, salt: &str) -> String {
    let salt: Vec<u8> = (0..salt.len() / 2)
        .map(|byte| u8::from_str_radix(&salt[2 * byte..2 * byte + 2], 16).expect("hexadecimal digits"))
        .collect();
    assert_eq!(salt.len(), 16);
    let mut text = b"consentd/field/v1\0".to_vec();
    text.extend(u16::try_from(field.len()).expect("a short name").to_be_bytes());
    text.extend(field.as_bytes());
    text.extend(u32::try_from(value.len()).expect("a short value").to_be_bytes());
    text.extend(value.as_bytes());
    text.extend(salt);
    hex(&Sha256::digest(text))
}

/// A change of the customer's consent that differs from all before it; answers the id of its entry.
async fn change(service: &Service, customer: Uuid) -> i64 {
    let body = json!({"consent_tier": "basic", "policy_version": Uuid::new_v4().simple().to_string()});
    let answer = service.put(customer, &body).send().await;
    assert!(answer.status.is_success(), "{}", answer.text());
    answer.json()["audit_id"].as_i64().expect("an id")
}

/// The proof of an entry, as a file.
async fn proof(service: &Service, audit_id: i64) -> String {
    let path = format!("/v1/audit/{audit_id}/proof");
    service.get(&path).header("accept", "text/plain").send().await.expect(200).text()
}

/// Some statements, as the owner and without triggers: what a database administrator can do.
pub async fn tamper(pool: &PgPool, statements: &str) {
    let statements = format!("begin; set local session_replication_role = replica; {statements}; commit");
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements)).execute(pool).await.expect("an administrator may do it");
}

async fn count(pool: &PgPool, what: &str) -> i64 {
    let statement = format!("select count(*) from {what}");
    sqlx::query_scalar(sqlx::AssertSqlSafe(statement)).fetch_one(pool).await.expect("a count")
}

/// Lays the keys of a service beside its memory, for the program.
fn lay_out_keys(service: &Service) {
    let lay = |name: &str, text: String| {
        std::fs::write(service.outside.path().join(name), text).expect("a file is written");
    };
    lay("audit.key", service.keys.signers[0].to_pem());
    lay("audit-writer.key", BASE64_STANDARD.encode(service.keys.writers[0].reveal()) + "\n");
}

/// The program, on a service's database, with what lies outside of it as its data directory.
fn consentd(service: &Service, arguments: &[&str]) -> Output {
    program(service.outside.path(), arguments)
        .env("CONSENTD_DATABASE_URL", service.login.to_url_lossy().as_str())
        .env("CONSENTD_MIGRATE_DATABASE_URL", service.owner.to_url_lossy().as_str())
        .output()
        .expect("the program starts")
}

/// The program with no setting but its data directory and those which a test gives it.
fn program(data_dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_consentd"));
    command.env_clear().env("CONSENTD_DATA_DIR", data_dir).args(arguments).stdin(Stdio::null());
    command
}

/// A dependency of an answer of `/readyz`.
pub fn dependency(ready: &serde_json::Value, name: &str) -> serde_json::Value {
    let dependencies = ready["dependencies"].as_array().expect("a list");
    dependencies.iter().find(|dependency| dependency["name"] == name).expect("it is listed").clone()
}

/// Returns the output of a command that succeeded.
#[track_caller]
fn said(output: &Output) -> String {
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}: {out}{error}", output.status);
    out.into_owned()
}

pub async fn eventually(what: &str, holds: impl AsyncFnMut() -> bool) {
    assert!(within_a_minute(holds).await, "after a minute still not: {what}");
}

async fn within_a_minute(mut holds: impl AsyncFnMut() -> bool) -> bool {
    for _ in 0..1200 {
        if holds().await {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}
