//! `consentd audit verify` as it is run: exit codes, `--json`, and what has come since a checkpoint.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use sqlx::ConnectOptions as _;

use super::files::export;
use super::scene::Scene;

/// What came of it.
#[derive(Debug)]
pub struct Verified {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Verified {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    /// The rules that do not hold, each once.
    fn rules(&self) -> Vec<String> {
        let report = self.json();
        let findings = report["findings"].as_array().expect("findings");
        let mut rules: Vec<String> =
            findings.iter().map(|finding| finding["rule"].as_str().expect("a rule").to_owned()).collect();
        rules.sort();
        rules.dedup();
        rules
    }
}

/// Runs the program with no setting but these; whatever comes of it, it does not panic.
pub fn verify(arguments: &[&str]) -> Verified {
    let output = Command::new(env!("CARGO_BIN_EXE_consentd"))
        .env_clear()
        .stdin(Stdio::null())
        .args(["audit", "verify"])
        .args(arguments)
        .output()
        .expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("the program writes UTF-8");
    let verified =
        Verified { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) };
    assert!(!verified.stderr.contains("panicked"), "{arguments:?}: {verified:?}");
    assert!(matches!(verified.code, Some(0..=3)), "{arguments:?}: {verified:?}");
    verified
}

/// A copy of a log, its key, and what was kept beside it.
pub struct Copied {
    pub scene: Scene,
    pub directory: tempfile::TempDir,
}

impl Copied {
    pub async fn new() -> Self {
        let scene = Scene::start().await;
        let directory = tempfile::tempdir().expect("a directory");
        let copied = Self { scene, directory };
        export(&copied.scene, &copied.log()).await;
        let checkpoints: Vec<String> =
            copied.scene.checkpoints.iter().map(|outside| outside.note.to_string()).collect();
        copied.write("checkpoints", checkpoints.concat());
        copied.write("first", &checkpoints[0]);
        let receipts: Vec<String> =
            copied.scene.receipts.iter().map(|outside| outside.note.to_string()).collect();
        copied.write("receipts", receipts.concat());
        copied
    }

    /// Where the log is.
    pub fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    pub fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().expect("UTF-8").to_owned()
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).expect("a file is written");
    }

    /// Verifies the copy by its own key.
    pub fn verify(&self, more: &[&str]) -> Verified {
        let (log, key) = (self.path("log"), self.path("log/vkey"));
        verify(&[&["--json", "--dir", &log, "--key", &key], more].concat())
    }

    /// The service's own database; `data_dir` has its keys, or has not.
    fn verify_database(&self, data_dir: &Path, more: &[&str]) -> Verified {
        let url = self.scene.service.login.to_url_lossy();
        let data_dir = data_dir.to_str().expect("UTF-8");
        verify(&[&["--json", "--database-url", url.as_str(), "--data-dir", data_dir], more].concat())
    }
}

#[tokio::test]
async fn a_copy_is_clean_by_a_checkpoint_from_outside_and_incomplete_without_one() {
    let copied = Copied::new().await;
    let bare = copied.verify(&[]);
    assert_eq!((bare.code, &bare.json()["verdict"]), (Some(2), &Value::from("incomplete")));
    assert_eq!(bare.json()["findings"], Value::Array(Vec::new()));
    let (checkpoints, receipts) = (copied.path("checkpoints"), copied.path("receipts"));
    let clean = copied.verify(&["--checkpoints", &checkpoints, "--receipts", &receipts]);
    assert_eq!((clean.code, &clean.json()["verdict"]), (Some(0), &Value::from("clean")));
    assert_eq!(clean.json()["receipts"], copied.scene.receipts.len());
    // The same in words.
    let (log, key) = (copied.path("log"), copied.path("log/vkey"));
    let told = verify(&["--dir", &log, "--key", &key, "--checkpoints", &checkpoints]);
    assert_eq!(told.code, Some(0));
    assert!(told.stdout.ends_with("clean: nothing was found\n"), "{}", told.stdout);
}

#[tokio::test]
async fn a_database_is_clean_by_what_the_service_remembers_and_incomplete_without_it() {
    let mut copied = Copied::new().await;
    let own = copied.scene.service.outside.path().to_owned();
    let clean = copied.verify_database(&own, &[]);
    assert_eq!((clean.code, &clean.json()["verdict"]), (Some(0), &Value::from("clean")), "{clean:?}");
    let (elsewhere, key) = (tempfile::tempdir().expect("a directory"), copied.path("log/vkey"));
    let bare = copied.verify_database(elsewhere.path(), &["--key", &key]);
    assert_eq!((bare.code, &bare.json()["verdict"]), (Some(2), &Value::from("incomplete")), "{bare:?}");

    let victim = copied.scene.victim().await;
    copied.scene.sql(&format!("delete from vlaapi.customer_consent_audit where audit_id = {victim}")).await;
    let found = copied.verify_database(&own, &[]);
    assert_eq!((found.code, &found.json()["verdict"]), (Some(1), &Value::from("tampering")));
    assert_eq!(found.json()["findings"][0]["rule"], "V7");
    assert_eq!(found.json()["findings"][0]["place"], format!("entry {victim}"));
}

#[tokio::test]
async fn what_has_come_since_a_checkpoint_is_all_that_is_read_of_a_copy() {
    let copied = Copied::new().await;
    let [old, .., new] = copied.scene.checkpoints.as_slice() else { panic!("it was signed twice") };
    let (old, new) = (old.checkpoint.size, new.checkpoint.size);
    let first = copied.path("first");
    let since = copied.verify(&["--since-checkpoint", &first]);
    assert_eq!((since.code, &since.json()["leaves"]), (Some(0), &Value::from(new - old)), "{since:?}");

    let bundle = copied.path(&format!("log/tile/entries/{:03}.p/{}", (new - 1) / 256, new % 256));
    let bytes = fs::read(&bundle).expect("the last bundle");
    let mut damaged = bytes.clone();
    let last = damaged.len() - 2;
    damaged[last] ^= 1;
    fs::write(&bundle, damaged).expect("a file is written");
    assert_eq!(copied.verify(&["--since-checkpoint", &first]).code, Some(1));
    fs::write(&bundle, bytes).expect("a file is written");

    // A tree that the checkpoint is not of is verified from its beginning.
    let hashes = copied.path("log/tile/0/000");
    let mut damaged = fs::read(&hashes).expect("a tile");
    damaged[0] ^= 1;
    fs::write(&hashes, damaged).expect("a file is written");
    let node = copied.path("log/tile/1/000.p/1");
    let mut damaged = fs::read(&node).expect("a tile");
    damaged[0] ^= 1;
    fs::write(&node, damaged).expect("a file is written");
    let since = copied.verify(&["--since-checkpoint", &first]);
    assert_eq!((since.code, since.rules()), (Some(1), vec!["V3".to_owned(), "V5".to_owned()]));
    assert_eq!(since.json()["leaves"], new);
}

#[tokio::test]
async fn what_has_come_since_a_checkpoint_is_all_that_is_read_of_a_database() {
    let mut copied = Copied::new().await;
    let [old, .., new] = copied.scene.checkpoints.as_slice() else { panic!("it was signed twice") };
    let (old, new) = (old.checkpoint.size, new.checkpoint.size);
    let (own, first) = (copied.scene.service.outside.path().to_owned(), copied.path("first"));
    let since = copied.verify_database(&own, &["--since-checkpoint", &first]);
    assert_eq!((since.code, &since.json()["leaves"]), (Some(0), &Value::from(new - old)), "{since:?}");

    let newest = copied.scene.entry(copied.scene.customers[2], 4).await;
    copied
        .scene
        .sql(&format!("update vlaapi.customer_consent_audit set request_id = 'x' where audit_id = {newest}"))
        .await;
    let since = copied.verify_database(&own, &["--since-checkpoint", &first]);
    assert_eq!((since.code, since.rules()), (Some(1), vec!["V7".to_owned()]));
    assert_eq!(since.json()["leaves"], new - old);
    assert_eq!(since.json()["findings"][0]["place"], format!("entry {newest}"));
}
