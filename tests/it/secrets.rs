//! Secrets in settings: whatever form they have, nothing repeats them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use sqlx::ConnectOptions as _;

use crate::cluster::database;
use crate::log::running::Running;

const CANARY: &str = "cAnArY";

/// Database URLs that hold the canary where a secret may be, or where a part of one is taken to be when it is not escaped.
const URLS: [&str; 30] = [
    "postgres://user:cAnArY@127.0.0.1:1/db",
    "postgresql://user:cAnArY@127.0.0.1:1/db?sslmode=require",
    "postgres://user:12?cAnArY@127.0.0.1:1/db",
    "postgres://user:12?cAnArY=1@127.0.0.1:1/db",
    "postgres://user:12?host=cAnArY@127.0.0.1:1/db",
    "postgres://user:?cAnArY@127.0.0.1:1/db",
    "postgres://user:cAnArY?@127.0.0.1:1/db",
    "postgres://user:12#cAnArY@127.0.0.1:1/db",
    "postgres://user:cAnArY#@127.0.0.1:1/db",
    "postgres://user:12/cAnArY@127.0.0.1:1/db",
    "postgres://user:cAnArY/@127.0.0.1:1/db",
    "postgres://user:a@cAnArY@127.0.0.1:1/db",
    "postgres://user:%zzcAnArY@127.0.0.1:1/db",
    "postgres://user:%ffcAnArY@127.0.0.1:1/db",
    "postgres://user:cAnArY%@127.0.0.1:1/db",
    "postgres://user:cAnArY@127.0.0.1:nothing/db",
    "postgres://user:cAnArY@[::1/db",
    "postgres://127.0.0.1:1/db?user=u&password=cAnArY",
    "postgres://127.0.0.1:1/db?sslpassword=cAnArY",
    "postgres://127.0.0.1:1/db?sslkey=cAnArY",
    "postgres://127.0.0.1:1/db?sslkey=/cAnArY&sslmode=require",
    "postgres://127.0.0.1:1/db?passfile=/cAnArY",
    "postgres://127.0.0.1:1/db?sslmode=cAnArY",
    "postgres://127.0.0.1:1/db?port=cAnArY",
    "postgres://127.0.0.1:1/db?cAnArY",
    "postgres://127.0.0.1:1/db?options=-c%20x.y%3DcAnArY",
    "postgres://127.0.0.1:1/db#cAnArY",
    "host=127.0.0.1 port=1 user=user password=cAnArY",
    "cAnArY",
    "mysql://user:cAnArY@127.0.0.1:1/db",
];

fn program(data_dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_consentd"));
    command.env_clear().env("CONSENTD_DATA_DIR", data_dir).env("CONSENTD_WAIT_FOR_DATABASE", "0.01");
    command
        .env("CONSENTD_LISTEN", "127.0.0.1:0")
        .env("CONSENTD_LOG", "trace")
        .args(arguments)
        .stdin(Stdio::null());
    command
}

#[track_caller]
fn keeps_secret(output: &Output, given: &str) {
    for text in [&output.stdout, &output.stderr] {
        let text = String::from_utf8_lossy(text);
        assert!(!text.contains(CANARY), "{given}: {text}");
    }
}

/// Runs a command, which must not succeed, with a secret.
#[track_caller]
fn refused(mut command: Command, given: &str) {
    let output = command.output().expect("the program starts");
    assert!(!output.status.success(), "{given} is accepted");
    assert!(!output.stderr.is_empty(), "{given}: nothing is said");
    keeps_secret(&output, given);
}

#[test]
fn no_command_repeats_a_secret_of_a_database_url_whatever_its_form() {
    let data_dir = tempfile::tempdir().expect("a folder");
    let file = data_dir.path().join("url");
    let make = |arguments: &[&str]| {
        let output = program(data_dir.path(), arguments).output().expect("the program starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    make(&["audit", "keygen"]);
    make(&["audit", "keygen", "--writer"]);
    for url in URLS {
        for arguments in [
            ["serve"].as_slice(),
            &["serve", "--no-migrate"],
            &["migrate", "up"],
            &["migrate", "status"],
            &["demo"],
            &["audit", "verify"],
            &["audit", "new-log", "--reason", "a test"],
        ] {
            let mut command = program(data_dir.path(), arguments);
            command.env("CONSENTD_DATABASE_URL", url);
            refused(command, url);
        }
        refused(program(data_dir.path(), &["migrate", "status", "--database-url", url]), url);
        refused(program(data_dir.path(), &["migrate", "status", "--database-url-file", url]), url);
        fs::write(&file, url).expect("a file");
        let mut command = program(data_dir.path(), &["serve", "--database-url-file"]);
        command.arg(&file);
        refused(command, url);
        let mut command = program(data_dir.path(), &["migrate", "status"]);
        command
            .env("CONSENTD_DATABASE_URL", "postgres://127.0.0.1:1/db")
            .env("CONSENTD_MIGRATE_DATABASE_URL", url);
        refused(command, url);
        // Mistaken for something else.
        if url.contains("://") {
            refused(program(data_dir.path(), &["serve", "--listen", url]), url);
            refused(program(data_dir.path(), &["serve", url]), url);
            refused(program(data_dir.path(), &[url]), url);
        }
    }
}

#[test]
fn no_command_repeats_a_secret_of_another_address() {
    let data_dir = tempfile::tempdir().expect("a folder");
    let witness = "witness.example/w1+0f1e2d3c+BAbc";
    for address in [
        "http://user:cAnArY@127.0.0.1:1/",
        "http://127.0.0.1:1/?token=cAnArY",
        "http://127.0.0.1:1/#cAnArY",
        "http://user:cAnArY@",
        "http://user:12?cAnArY@127.0.0.1:1",
        "ftp://user:cAnArY@127.0.0.1/",
        "user:cAnArY",
        "cAnArY",
    ] {
        refused(program(data_dir.path(), &["key", "list", "--api-key", "k", "--url", address]), address);
        refused(program(data_dir.path(), &["healthcheck", "--url", address]), address);
        refused(program(data_dir.path(), &["load", "--api-key", "k", "--url", address]), address);
        let witness = format!("{witness}@{address}");
        for (setting, value) in [
            ("CONSENTD_AUDIT_CHECKPOINT_WEBHOOK", address),
            ("CONSENTD_AUDIT_WITNESSES", &witness),
            ("CONSENTD_AUDIT_WITNESSES", address),
            ("CONSENTD_OTLP_ENDPOINT", address),
            ("CONSENTD_PUBLIC_URL", address),
        ] {
            let mut command = program(data_dir.path(), &["serve"]);
            command.env("CONSENTD_DATABASE_URL", "postgres://127.0.0.1:1/db").env(setting, value);
            refused(command, value);
        }
    }
    for key in ["cAnArY", "vla_live_cAnArY", "cAnArY\u{7f}"] {
        refused(
            program(data_dir.path(), &["key", "list", "--url", "http://127.0.0.1:1", "--api-key", key]),
            key,
        );
        refused(
            program(data_dir.path(), &["key", "list", "--url", "http://127.0.0.1:1", "--api-key-file", key]),
            key,
        );
    }
}

/// The commands and all their variables.
fn commands(command: &clap::Command, path: &[String], found: &mut Vec<(Vec<String>, Vec<String>)>) {
    let names =
        command.get_arguments().filter_map(|arg| arg.get_env()?.to_str().map(str::to_owned)).collect();
    found.push((path.to_vec(), names));
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        commands(below, &[path, &[below.get_name().to_owned()]].concat(), found);
    }
}

#[test]
fn no_help_shows_the_value_of_a_variable() {
    let mut found = Vec::new();
    let mut root = consentd::cli::command();
    root.build();
    commands(&root, &[], &mut found);
    let variables: Vec<String> = found.iter().flat_map(|(_, names)| names.clone()).collect();
    assert!(variables.len() > 40, "{variables:?}");
    for (path, _) in found {
        let mut command = Command::new(env!("CARGO_BIN_EXE_consentd"));
        command.env_clear().envs(variables.iter().map(|name| (name, CANARY))).args(&path).arg("--help");
        let output = command.output().expect("the program starts");
        assert!(output.status.success(), "{path:?}");
        keeps_secret(&output, "--help");
    }
    let mut manual = Command::new(env!("CARGO_BIN_EXE_consentd"));
    manual.env_clear().envs(variables.iter().map(|name| (name, CANARY))).arg("man");
    keeps_secret(&manual.output().expect("the program starts"), "man");
}

#[tokio::test]
async fn a_running_service_repeats_no_secret_of_its_settings_however_talkative() {
    let database = database().await;
    let data_dir = tempfile::tempdir().expect("a folder");
    let passwords = data_dir.path().join(".pgpass");
    fs::write(&passwords, "cAnArY\n").expect("a file");
    fs::set_permissions(&passwords, fs::Permissions::from_mode(0o600)).expect("its mode");
    let with_password = |url: reqwest::Url| url.as_str().replace('@', ":cAnArY@");
    let key = ed25519_dalek::SigningKey::from_bytes(&[41; 32]).verifying_key().to_bytes();
    let key =
        consentd::tlog::VerifierKey::new("w.example", consentd::tlog::note::Algorithm::Cosignature, key);
    let witness = format!("{}@http://user:cAnArY@127.0.0.1:1/?token=cAnArY", key.expect("a key"));
    let settings: Vec<(&str, String)> = vec![
        ("CONSENTD_DATABASE_URL", with_password(database.service.to_url_lossy())),
        ("CONSENTD_MIGRATE_DATABASE_URL", database.owner.to_url_lossy().to_string()),
        ("HOME", data_dir.path().to_str().expect("UTF-8").to_owned()),
        ("CONSENTD_LOG", "trace".to_owned()),
        ("CONSENTD_AUDIT_CHECKPOINT_WEBHOOK", "http://user:cAnArY@127.0.0.1:1/?token=cAnArY".to_owned()),
        ("CONSENTD_AUDIT_WITNESSES", witness),
        ("CONSENTD_OTLP_ENDPOINT", "http://user:cAnArY@127.0.0.1:1/v1/traces?token=cAnArY".to_owned()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=cAnArY".to_owned()),
    ];
    let running = Running::start_with(&settings, data_dir.path()).await;
    let customer = running.customer("a@example.com").await;
    running.proof(running.change(customer).await).await;
    for place in ["webhook", "witness"] {
        running.says(&format!("\"place\":\"{place}\"")).await;
    }
    running.says("BatchSpanProcessor.ExportError").await;
    assert!(!running.get("/metrics").await.contains(CANARY));
    assert_eq!(running.said(CANARY), None);
    running.stop().await;
}
