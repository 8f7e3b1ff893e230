//! The program as it is run: what it logs, and what it says when it cannot start.

use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use sqlx::ConnectOptions as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::cluster::{TestDatabase, database};

fn serve(database: &TestDatabase, data_dir: &Path, listen: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_consentd"))
        .args(["serve", "--listen", listen, "--log", "trace", "--log-format", "json", "--data-dir"])
        .arg(data_dir)
        .env("CONSENTD_DATABASE_URL", database.service.to_url_lossy().as_str())
        .env("CONSENTD_MIGRATE_DATABASE_URL", database.owner.to_url_lossy().as_str())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the program starts")
}

#[tokio::test]
async fn the_log_holds_no_personal_data_and_no_secret_however_talkative() {
    let database = database().await;
    let data_dir = tempfile::tempdir().expect("a folder");
    let mut program = serve(&database, data_dir.path(), "127.0.0.1:0");
    let mut said = BufReader::new(program.stdout.take().expect("its output")).lines();
    let mut errors = program.stderr.take().expect("its log");
    let log = tokio::spawn(async move {
        let mut text = String::new();
        errors.read_to_string(&mut text).await.expect("the log is text");
        text
    });
    let address = loop {
        let line = said.next_line().await.expect("a line").expect("the program greets");
        if let Some(rest) = line.strip_prefix("consentd serves on ") {
            break rest.split(',').next().expect("an address").to_owned();
        }
    };
    let key = std::fs::read_to_string(data_dir.path().join("operator.key")).expect("the key");
    let key = key.trim();
    let client = reqwest_client();
    let customer = uuid::Uuid::new_v4();
    let send = async |method: &str, path: &str, body: serde_json::Value| {
        let answer = client
            .request(method.parse().expect("a method"), format!("{address}{path}"))
            .bearer_auth(key)
            .header("user-agent", "canary-agent")
            .json(&body)
            .send()
            .await
            .expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("a body"))
    };
    let body = json!({"customer_id": customer, "email": "canary-mail@example.com", "company_name": "canary-company", "tier": "pro"});
    assert_eq!(send("POST", "/v1/customers", body.clone()).await.0, 201);
    assert_eq!(send("POST", "/v1/customers", body).await.0, 409);
    let consent = format!("/v1/customers/{customer}/consent");
    let body = json!({"consent_tier": "basic", "reason": "canary-reason", "on_behalf_of": "canary-person"});
    assert_eq!(send("PUT", &consent, body).await.0, 201);
    assert_eq!(send("PUT", &consent, json!({"consent_tier": "canary-tier"})).await.0, 422);
    let (status, new_key) =
        send("POST", "/v1/api-keys", json!({"scopes": ["consent:read"], "key_name": "canary-key"})).await;
    assert_eq!(status, 201);
    let new_key: serde_json::Value = serde_json::from_str(&new_key).expect("JSON");
    let new_key = new_key["api_key"].as_str().expect("a key").to_owned();
    let links = format!("/v1/customers/{customer}/consent-links");
    let (status, link) = send("POST", &links, json!({"on_behalf_of": "canary-person"})).await;
    assert_eq!(status, 201);
    let link: serde_json::Value = serde_json::from_str(&link).expect("JSON");
    let link = link["url"].as_str().expect("a loopback address is known").to_owned();
    let token = link.split_once('=').expect("a token").1.to_owned();
    let opened = client.get(&link).send().await.expect("an answer");
    assert_eq!(opened.url().path(), "/my/consent");
    let asked = client
        .get(format!("{address}/v1/customers?email=canary-mail@example.com"))
        .bearer_auth(key)
        .send()
        .await;
    assert_eq!(asked.expect("an answer").status(), 200);

    // Idle connections are kept while the service stops.
    drop(client);
    let id = program.id().expect("it runs").try_into().expect("a process id");
    kill(Pid::from_raw(id), Signal::SIGTERM).expect("it is told to stop");
    let ended = tokio::time::timeout(Duration::from_secs(10), program.wait())
        .await
        .expect("it stops")
        .expect("a status");
    assert!(ended.success(), "{ended}");
    let log = log.await.expect("the log");
    assert!(log.contains("/v1/customers/{customer_id}/consent"), "{log}");
    let customer = customer.to_string();
    for secret in ["canary", key, &new_key, &customer, &token] {
        let leak = log.lines().find(|line| line.contains(secret));
        assert_eq!(leak, None, "the log tells {secret}");
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_told_in_one_sentence() {
    let database = database().await;
    let data_dir = tempfile::tempdir().expect("a folder");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let ended = serve(&database, data_dir.path(), &address).wait_with_output().await.expect("it ends");
    assert_eq!(ended.status.code(), Some(1));
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    let sentence = said.lines().last().expect("a sentence");
    assert!(sentence.contains(&address) && sentence.contains("choose another with --listen"), "{said}");
}

fn reqwest_client() -> reqwest::Client {
    // The program installs the provider for itself; here nobody has.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}
