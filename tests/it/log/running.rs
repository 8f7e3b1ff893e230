//! The program as it is run, on a test's database.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Client;
use serde_json::{Value, json};
use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use uuid::Uuid;

use super::{eventually, within_a_minute};
use crate::cluster::TestDatabase;

pub struct Running {
    child: Child,
    client: Client,
    pub address: String,
    pub key: String,
    log: Arc<Mutex<String>>,
}

/// How the program is told where the database is: for who serves and for who migrates.
pub fn logins(service: &PgConnectOptions, owner: &PgConnectOptions) -> Vec<(&'static str, String)> {
    vec![
        ("CONSENTD_DATABASE_URL", service.to_url_lossy().to_string()),
        ("CONSENTD_MIGRATE_DATABASE_URL", owner.to_url_lossy().to_string()),
    ]
}

fn serve(settings: &[(&str, String)], data_dir: &Path) -> Command {
    let mut command: Command = super::program(data_dir, &["serve", "--log-format", "json"]).into();
    command.env("CONSENTD_LISTEN", "127.0.0.1:0").env("CONSENTD_AUDIT_NAME", "log.example");
    // The clients of tests keep their idle connections.
    command.env("CONSENTD_SHUTDOWN_TIMEOUT", "1");
    command.envs(settings.iter().map(|(name, value)| (name, value)));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// The sentence with which the program does not start.
pub async fn refusal(settings: &[(&str, String)], data_dir: &Path) -> String {
    let ended = tokio::time::timeout(Duration::from_secs(20), serve(settings, data_dir).output()).await;
    let ended = ended.expect("it ends").expect("the program starts");
    assert_eq!(ended.status.code(), Some(1));
    String::from_utf8_lossy(&ended.stderr).lines().last().expect("a sentence").to_owned()
}

impl Running {
    pub async fn start(database: &TestDatabase, data_dir: &Path, settings: &[(&str, &str)]) -> Self {
        let mut all = logins(&database.service, &database.owner);
        all.extend(settings.iter().map(|(name, value)| (*name, (*value).to_owned())));
        Self::start_with(&all, data_dir).await
    }

    /// `by` makes the command that starts the program, with its arguments and its environment.
    pub async fn start_by(
        database: &TestDatabase,
        data_dir: &Path,
        settings: &[(&str, &str)],
        by: impl FnOnce(&std::process::Command) -> std::process::Command,
    ) -> Self {
        let mut all = logins(&database.service, &database.owner);
        all.extend(settings.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let mut command = Command::from(by(serve(&all, data_dir).as_std()));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        Self::start_command(command, data_dir).await
    }

    pub async fn start_with(settings: &[(&str, String)], data_dir: &Path) -> Self {
        Self::start_command(serve(settings, data_dir), data_dir).await
    }

    async fn start_command(mut command: Command, data_dir: &Path) -> Self {
        let mut child = command.spawn().expect("the program starts");
        let log = Arc::new(Mutex::new(String::new()));
        let mut errors = BufReader::new(child.stderr.take().expect("its log")).lines();
        let kept = Arc::clone(&log);
        tokio::spawn(async move {
            while let Ok(Some(line)) = errors.next_line().await {
                let mut log = kept.lock().expect("nobody panicked");
                log.push_str(&line);
                log.push('\n');
            }
        });
        let mut said = BufReader::new(child.stdout.take().expect("its output")).lines();
        let address = loop {
            let Some(line) = said.next_line().await.expect("a line") else {
                panic!("it does not start: {}", log.lock().expect("nobody panicked"));
            };
            if let Some(rest) = line.strip_prefix("consentd serves on ") {
                break rest.split(',').next().expect("an address").to_owned();
            }
        };
        let key =
            std::fs::read_to_string(data_dir.join("operator.key")).unwrap_or_default().trim().to_owned();
        // The program installs the provider for itself; here nobody has.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self { child, client: Client::new(), address, key, log }
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> (u16, String) {
        let method = method.parse().expect("a method");
        let mut request =
            self.client.request(method, format!("{}{path}", self.address)).bearer_auth(&self.key);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if !body.is_null() {
            request = request.json(body);
        }
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("a body"))
    }

    pub async fn get(&self, path: &str) -> String {
        let (status, text) = self.send("GET", path, &[], &Value::Null).await;
        assert_eq!(status, 200, "{text}");
        text
    }

    pub async fn status(&self) -> Value {
        serde_json::from_str(&self.get("/v1/audit/log/status").await).expect("JSON")
    }

    pub async fn customer(&self, email: &str) -> Uuid {
        let customer = Uuid::new_v4();
        let body =
            json!({"customer_id": customer, "email": email, "tier": "pro", "company_name": "canary-company"});
        let (status, text) = self.send("POST", "/v1/customers", &[], &body).await;
        assert_eq!(status, 201, "{text}");
        customer
    }

    /// A change of a consent, full of personal data; answers the id of its entry.
    pub async fn change(&self, customer: Uuid) -> i64 {
        let body = json!({
            "consent_tier": "basic", "policy_version": Uuid::new_v4().simple().to_string(),
            "reason": "canary-reason", "on_behalf_of": "canary-person",
        });
        let path = format!("/v1/customers/{customer}/consent");
        let (status, text) = self.send("PUT", &path, &[("user-agent", "canary-agent")], &body).await;
        assert!(status == 200 || status == 201, "{text}");
        let answer: Value = serde_json::from_str(&text).expect("JSON");
        answer["audit_id"].as_i64().expect("an id")
    }

    /// The proof of an entry, as soon as there is one.
    pub async fn proof(&self, audit_id: i64) -> String {
        let path = format!("/v1/audit/{audit_id}/proof");
        let mut proof = String::new();
        eventually("the entry is sealed", async || {
            let (status, text) = self.send("GET", &path, &[("accept", "text/plain")], &Value::Null).await;
            proof = text;
            status == 200
        })
        .await;
        proof
    }

    pub async fn erase(&self, customer: Uuid) -> (u16, Value) {
        let body = json!({"reason": "a letter", "legal_basis": "GDPR Art. 17(1)(b)"});
        let path = format!("/v1/customers/{customer}/erasure");
        let (status, text) = self.send("POST", &path, &[], &body).await;
        (status, serde_json::from_str(&text).expect("JSON"))
    }

    /// The first line of the log so far that holds these words.
    pub fn said(&self, words: &str) -> Option<String> {
        let log = self.log.lock().expect("nobody panicked");
        log.lines().find(|line| line.contains(words)).map(str::to_owned)
    }

    /// Waits for a line of the log that holds these words.
    pub async fn says(&self, words: &str) -> String {
        let mut found = None;
        let said = within_a_minute(async || {
            found = self.said(words);
            found.is_some()
        })
        .await;
        assert!(
            said,
            "after a minute the log does not say {words:?}:\n{}",
            self.log.lock().expect("nobody panicked")
        );
        found.expect("it was waited for")
    }

    /// Stops it in good order.
    pub async fn stop(mut self) {
        let id = self.child.id().expect("it runs").try_into().expect("a process id");
        kill(Pid::from_raw(id), Signal::SIGTERM).expect("it is told to stop");
        let ended = tokio::time::timeout(Duration::from_secs(10), self.child.wait()).await;
        assert!(ended.expect("it stops").expect("a status").success());
    }

    /// Ends it as `kill -9` does.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("it is killed");
    }
}

/// A data directory with copies of some files of another one.
pub fn copy_of(data_dir: &Path, files: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let copy = tempfile::tempdir().expect("a folder");
    for file in files {
        std::fs::copy(data_dir.join(file), copy.path().join(file)).expect("a copy");
    }
    let path = copy.path().to_owned();
    (copy, path)
}
