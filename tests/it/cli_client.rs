//! The commands that call a running service, each against the real program and the real service.

use std::process::Stdio;
use std::time::Duration;

use consentd::http::server::{Limits, Shutdown, serve};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::service::Service;

/// A service that listens, and what the program needs to call it.
pub struct Running {
    pub service: Service,
    pub url: String,
    _stop: DropGuard,
}

/// What the program did.
pub struct Done {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    /// Runs the program against whatever answers there.
    pub async fn of(url: &str, key: &str, arguments: &[&str]) -> Self {
        let output = Command::new(env!("CARGO_BIN_EXE_consentd"))
            .env_clear()
            .env("CONSENTD_URL", url)
            .env("CONSENTD_API_KEY", key)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .await
            .expect("the program starts");
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("the program writes UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("the program writes UTF-8"),
        }
    }
}

impl Running {
    pub async fn start() -> Self {
        let service = Service::start().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let stop = CancellationToken::new();
        let router = service.router.clone();
        let shutdown = Shutdown { signal: stop.clone(), delay: Duration::ZERO, drain: Duration::ZERO };
        tokio::spawn(serve(listener, router, Limits::default(), shutdown));
        Self { service, url: format!("http://{address}"), _stop: stop.drop_guard() }
    }

    async fn run_with_key(&self, key: &str, arguments: &[&str]) -> Done {
        Done::of(&self.url, key, arguments).await
    }

    pub async fn run(&self, arguments: &[&str]) -> Done {
        self.run_with_key(&self.service.operator, arguments).await
    }

    #[track_caller]
    pub fn json(done: &Done) -> Value {
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        serde_json::from_str(&done.stdout).expect("the API's JSON")
    }

    /// A customer made with the program.
    pub async fn customer(&self, email: &str) -> String {
        let done = self.run(&["customer", "create", "--email", email, "--tier", "pro", "--json"]).await;
        let customer = Self::json(&done);
        customer["customer_id"].as_str().expect("an id").to_owned()
    }

    /// What the API itself answers.
    async fn api(&self, path: &str, accept: &str) -> String {
        let request = self.service.get(path).header("accept", accept);
        request.send().await.expect(200).text()
    }
}

/// The value beside a field's name in a table of fields.
fn field<'t>(table: &'t str, name: &str) -> &'t str {
    let line = table
        .lines()
        .find(|line| line.starts_with(&format!("{name} ")))
        .unwrap_or_else(|| panic!("no {name} in {table}"));
    line[name.len()..].trim()
}

#[tokio::test]
async fn a_running_service_is_healthy() {
    let running = Running::start().await;
    for arguments in [&["healthcheck"][..], &["healthcheck", "--live"]] {
        let done = running.run(arguments).await;
        assert_eq!(done.code, Some(0), "{}{}", done.stdout, done.stderr);
        assert_eq!(done.stdout.lines().count(), 1);
    }
}

#[tokio::test]
async fn a_customer_is_created_shown_and_listed() {
    let running = Running::start().await;
    let id = running.customer("robotics@example.com").await;
    let shown = running.run(&["customer", "get", &id]).await;
    assert_eq!(field(&shown.stdout, "email"), "robotics@example.com");
    assert_eq!(field(&shown.stdout, "tier"), "pro");
    let listed = running.run(&["customer", "list", "--tier", "pro", "--is-active", "true"]).await;
    assert!(listed.stdout.contains(&id), "{}", listed.stdout);
    let listed = running.run(&["customer", "list", "--email", "nobody@example.com"]).await;
    assert_eq!(listed.stdout.lines().count(), 1, "{}", listed.stdout);
}

#[tokio::test]
async fn a_consent_is_recorded_shown_checked_and_withdrawn() {
    let running = Running::start().await;
    let id = running.customer("robotics@example.com").await;
    let set = [
        "consent",
        "set",
        &id,
        "--tier",
        "research",
        "--images",
        "--training",
        "--anonymization",
        "partial",
        "--expires-at",
        "2027-01-01",
        "--policy-version",
        "2026-01",
        "--reason",
        "signed form",
        "--json",
    ];
    let consent = Running::json(&running.run(&set).await);
    assert_eq!(consent["expires_at"], "2027-01-01T00:00:00Z");
    assert_eq!(consent["anonymization_level"], "partial");

    let shown = running.run(&["consent", "get", &id]).await;
    for (name, value) in [
        ("status", "active"),
        ("tier", "research"),
        ("images", "yes"),
        ("embeddings", "no"),
        ("training", "yes"),
        ("policy version", "2026-01"),
        ("version", "1"),
    ] {
        assert_eq!(field(&shown.stdout, name), value);
    }
    let shown = running.run(&["consent", "get", &id, "--json"]).await;
    let path = format!("/v1/customers/{id}/consent");
    assert_eq!(shown.stdout.trim_end(), running.api(&path, "application/json").await);
    let before = running.run(&["consent", "get", &id, "--as-of", "2026-01-01"]).await;
    assert_eq!(field(&before.stdout, "status"), "never_given");

    let check = ["consent", "check", &id, "images", "--exit-status"];
    let allowed = running.run(&check).await;
    assert_eq!((allowed.code, field(&allowed.stdout, "allowed")), (Some(0), "yes"));
    let withdrawn = running.run(&["consent", "withdraw", &id, "--reason", "asked by telephone"]).await;
    assert_eq!(field(&withdrawn.stdout, "status"), "withdrawn");
    let denied = running.run(&check).await;
    assert_eq!((denied.code, field(&denied.stdout, "reason")), (Some(1), "withdrawn"));
    let all = running.run(&["consent", "check", &id]).await;
    assert_eq!((all.code, field(&all.stdout, "training")), (Some(0), "no"));
    let level = running.run(&["consent", "check", &id, "anonymization"]).await;
    assert_eq!(field(&level.stdout, "level"), "full");
}

#[tokio::test]
async fn a_decision_on_a_version_that_has_moved_is_refused() {
    let running = Running::start().await;
    let id = running.customer("robotics@example.com").await;
    let first = ["consent", "set", &id, "--tier", "basic", "--if-version", "0"];
    assert_eq!(running.run(&first).await.code, Some(0));
    assert_eq!(running.run(&first).await.code, Some(1));
    let stale = running.run(&["consent", "set", &id, "--tier", "none", "--if-version", "7"]).await;
    assert_eq!(stale.code, Some(1));
    assert!(stale.stderr.contains("(412)"), "{}", stale.stderr);
    let fresh = running.run(&["consent", "withdraw", &id, "--if-version", "1"]).await;
    assert_eq!(fresh.code, Some(0), "{}", fresh.stderr);
}

#[tokio::test]
async fn a_refusal_names_every_fault_with_its_place() {
    let running = Running::start().await;
    let id = running.customer("robotics@example.com").await;
    let done = running
        .run(&["consent", "set", &id, "--tier", "basic", "--images", "--expires-at", "2020-01-01"])
        .await;
    assert_eq!((done.code, done.stdout.as_str()), (Some(1), ""));
    assert!(done.stderr.starts_with("error: The body is invalid (422)"), "{}", done.stderr);
    assert!(done.stderr.contains("\n  /can_store_images: tier \"basic\" does not allow"), "{}", done.stderr);
    assert!(done.stderr.contains("\n  /expires_at: "), "{}", done.stderr);
    assert!(done.stderr.contains("\n  request id: "), "{}", done.stderr);
    let single = running.run(&["consent", "set", &id, "--tier", "basic", "--images"]).await;
    assert_eq!(single.stderr.matches("does not allow").count(), 1, "{}", single.stderr);
    let unknown = running.run(&["consent", "get", "123e4567-e89b-12d3-a456-426614174000"]).await;
    assert!(unknown.stderr.contains("There is no such customer (404)"), "{}", unknown.stderr);
}

#[tokio::test]
async fn a_key_is_issued_listed_rotated_and_revoked() {
    let running = Running::start().await;
    let customer = running.customer("robotics@example.com").await;
    let create = [
        "key",
        "create",
        "--name",
        "dashboard",
        "--scope",
        "consent:read,audit:read",
        "--customer",
        &customer,
        "--expires-at",
        "2027-01-01",
    ];
    let made = running.run(&create).await;
    assert!(made.stderr.contains("never shown again"), "{}", made.stderr);
    let (key, key_id) = (field(&made.stdout, "api key"), field(&made.stdout, "key id"));
    let get = ["consent", "get", &customer];
    assert_eq!(running.run_with_key(key, &get).await.code, Some(0));

    let listed = running.run(&["key", "list", "--customer", &customer]).await;
    assert!(listed.stdout.contains(key_id) && !listed.stdout.contains(key), "{}", listed.stdout);
    let rotated = Running::json(&running.run(&["key", "rotate", key_id, "--overlap", "60", "--json"]).await);
    let successor = rotated["api_key"].as_str().expect("a key");
    assert_eq!(running.run_with_key(successor, &get).await.code, Some(0));

    let successor_id = rotated["key_id"].as_str().expect("an id");
    let revoked = running.run(&["key", "revoke", successor_id]).await;
    assert_eq!(revoked.code, Some(0), "{}", revoked.stderr);
    let refused = running.run_with_key(successor, &get).await;
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("(401)"), "{}", refused.stderr);
}

#[tokio::test]
async fn a_customers_own_key_lists_its_own_trail() {
    let running = Running::start().await;
    let customer = running.customer("robotics@example.com").await;
    running.run(&["consent", "set", &customer, "--tier", "basic"]).await;
    let own: uuid::Uuid = customer.parse().expect("an id");
    let key = running.service.key(Some(own), &["audit:read"]).await;
    let trail = running.run_with_key(&key, &["audit", "list", "--customer", &customer]).await;
    assert_eq!(trail.stdout.lines().count(), 2, "{}{}", trail.stdout, trail.stderr);
}

#[tokio::test]
async fn the_trail_is_listed_over_as_many_pages_as_it_takes_and_no_further_than_the_limit() {
    let running = Running::start().await;
    let id = running.customer("robotics@example.com").await;
    let customer: uuid::Uuid = id.parse().expect("an id");
    for round in 0..1005 {
        let tier = ["basic", "analytics"][round % 2];
        running
            .service
            .put(customer, &serde_json::json!({"consent_tier": tier}))
            .send()
            .await
            .expect(if round == 0 { 201 } else { 200 });
    }
    let all = Running::json(&running.run(&["audit", "list", "--limit", "2000", "--json"]).await);
    let versions: Vec<_> = all["items"]
        .as_array()
        .expect("items")
        .iter()
        .filter_map(|entry| entry["version"].as_i64())
        .collect();
    assert_eq!(versions, (1..=1005).rev().collect::<Vec<_>>());
    assert_eq!(all["next_cursor"], Value::Null);

    let some = running.run(&["audit", "list", "--limit", "1003"]).await;
    assert_eq!(some.stdout.lines().count(), 1 + 1003);
    assert!(some.stderr.contains("raise --limit"), "{}", some.stderr);
}

#[tokio::test]
async fn the_filters_of_the_trail_are_those_of_the_api() {
    let running = Running::start().await;
    let id = running.customer("robotics@example.com").await;
    for tier in ["basic", "analytics", "none"] {
        running.run(&["consent", "set", &id, "--tier", tier]).await;
    }
    let entries = async |arguments: &[&str]| {
        let done = running.run(&[&["audit", "list"], arguments].concat()).await;
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        done.stdout.lines().count() - 1
    };
    let operator = format!("key:{}", &running.service.operator[..13]);
    assert_eq!(entries(&["--action", "withdrawn"]).await, 1);
    assert_eq!(entries(&["--previous-tier", "basic", "--new-tier", "analytics"]).await, 1);
    assert_eq!(entries(&["--changed-by", &operator]).await, 3);
    assert_eq!(entries(&["--ip", "127.0.0.0/8", "--customer", &id]).await, 3);
    assert_eq!(entries(&["--ip", "203.0.113.7"]).await, 0);
    assert_eq!(entries(&["--request-id", "none"]).await, 0);
    assert_eq!(entries(&["--since", "2026-03-01", "--until", "2026-03-02"]).await, 3);
    assert_eq!(entries(&["--until", "2026-03-01"]).await, 0);
}

#[tokio::test]
async fn an_export_is_what_the_api_answers() {
    let running = Running::start().await;
    let id = running.customer("robotics@example.com").await;
    for tier in ["basic", "analytics", "none"] {
        running.run(&["consent", "set", &id, "--tier", tier, "--reason", "line\nbreak, \"quoted\""]).await;
    }
    let csv = running.api("/v1/audit", "text/csv").await;
    let ndjson = running.api("/v1/audit", "application/x-ndjson").await;
    assert_eq!(ndjson.lines().count(), 3);
    assert_eq!(running.run(&["audit", "export"]).await.stdout, csv);
    assert_eq!(running.run(&["audit", "export", "--format", "ndjson", "--output", "-"]).await.stdout, ndjson);

    let dir = tempfile::tempdir().expect("a directory");
    for (name, wanted) in [("trail.csv", &csv), ("trail.ndjson", &ndjson)] {
        let file = dir.path().join(name);
        let done = running.run(&["audit", "export", "--output", file.to_str().expect("a path")]).await;
        assert_eq!((done.code, done.stdout.as_str()), (Some(0), ""), "{}", done.stderr);
        assert_eq!(&std::fs::read_to_string(&file).expect("the export"), wanted);
    }
    assert_eq!(std::fs::read_dir(dir.path()).expect("the directory").count(), 2);
}

#[tokio::test]
async fn what_steers_a_terminal_is_escaped_in_tables() {
    let running = Running::start().await;
    let id = running.customer("robotics@example.com").await;
    running.run(&["consent", "set", &id, "--tier", "basic", "--reason", "a\u{1b}[2Jb\nc"]).await;
    let listed = running.run(&["audit", "list"]).await;
    assert!(listed.stdout.contains("a\\u{1b}[2Jb\\nc"), "{}", listed.stdout);
    assert_eq!(listed.stdout.lines().count(), 2);
}
