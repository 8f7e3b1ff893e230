//! Settings: empty ones, booleans, addresses to listen on, and a database that is down at start.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use consentd::config::environment::must_have_value;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::ConnectOptions as _;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::cluster::{OwnCluster, TestDatabase, database, empty_database};

/// Each setting that has a variable: the setting's name, the variable.
fn variables() -> BTreeSet<(String, String)> {
    fn collect(command: &clap::Command, found: &mut BTreeSet<(String, String)>) {
        found.extend(command.get_arguments().filter_map(|arg| {
            Some((arg.get_id().to_string(), arg.get_env()?.to_str().expect("UTF-8").to_owned()))
        }));
        command.get_subcommands().for_each(|below| collect(below, found));
    }
    let mut found = BTreeSet::new();
    collect(&consentd::cli::command(), &mut found);
    found
}

fn program(data_dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_consentd"));
    command.env_clear().env("CONSENTD_DATA_DIR", data_dir).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

fn serve(database: &TestDatabase, data_dir: &Path, listen: &str) -> Command {
    let mut command = program(data_dir, &["serve"]);
    command.env("CONSENTD_DATABASE_URL", database.service.to_url_lossy().as_str());
    command.env("CONSENTD_MIGRATE_DATABASE_URL", database.owner.to_url_lossy().as_str());
    command.env("CONSENTD_LISTEN", listen);
    command
}

async fn output(mut command: Command) -> Output {
    tokio::time::timeout(Duration::from_mins(1), command.output()).await.expect("it ends").expect("it starts")
}

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The address that the program greets with.
async fn greeting(child: &mut Child) -> String {
    let mut lines = BufReader::new(child.stdout.as_mut().expect("its output")).lines();
    while let Some(line) = lines.next_line().await.expect("a line") {
        if let Some(rest) = line.strip_prefix("consentd serves on http://") {
            return rest.split(',').next().expect("an address").to_owned();
        }
    }
    panic!("it does not serve");
}

async fn stop(mut child: Child) {
    let id = child.id().expect("it runs").try_into().expect("a process id");
    kill(Pid::from_raw(id), Signal::SIGTERM).expect("it is told to stop");
    let ended = tokio::time::timeout(Duration::from_secs(30), child.wait()).await;
    assert!(ended.expect("it stops").expect("a status").success());
}

#[test]
fn every_variable_is_either_optional_or_refused_when_it_is_empty() {
    let refused: BTreeSet<String> =
        variables().into_iter().filter(|(id, _)| must_have_value(id)).map(|(_, variable)| variable).collect();
    let expected = [
        "CONSENTD_API_KEY",
        "CONSENTD_API_KEY_FILE",
        "CONSENTD_AUDIT_KEY_FILE",
        "CONSENTD_AUDIT_WRITER_KEY_FILE",
        "CONSENTD_DATABASE_URL",
        "CONSENTD_DATABASE_URL_FILE",
        "CONSENTD_MIGRATE_DATABASE_URL",
        "CONSENTD_MIGRATE_DATABASE_URL_FILE",
    ];
    assert_eq!(refused, expected.map(str::to_owned).into());
    // A variable of another name than its setting's would escape the rule.
    for (_, variable) in variables() {
        let is_secret = ["URL_FILE", "_KEY", "_KEY_FILE", "PASSWORD", "SECRET", "TOKEN", "DATABASE_URL"];
        if is_secret.iter().any(|end| variable.ends_with(end)) {
            assert!(refused.contains(&variable), "{variable} may be empty");
        }
    }
}

#[tokio::test]
async fn an_empty_variable_counts_as_unset() {
    let database = database().await;
    let data_dir = tempfile::tempdir().expect("a folder");
    let mut command = program(data_dir.path(), &["serve", "--listen", "127.0.0.1:0", "--data-dir"]);
    command.arg(data_dir.path());
    for (id, variable) in variables() {
        if !must_have_value(&id) {
            command.env(variable, "");
        }
    }
    command.env("CONSENTD_DATABASE_URL", database.service.to_url_lossy().as_str());
    command.env("CONSENTD_MIGRATE_DATABASE_URL", database.owner.to_url_lossy().as_str());
    let mut child = command.spawn().expect("it starts");
    let address = greeting(&mut child).await;

    let mut command = program(data_dir.path(), &["key", "list", "--url"]);
    command.arg(format!("http://{address}")).arg("--data-dir").arg(data_dir.path());
    for (id, variable) in variables() {
        if !must_have_value(&id) {
            command.env(variable, "");
        }
    }
    let listed = output(command).await;
    assert!(listed.status.success(), "{}", error(&listed));
    stop(child).await;
}

#[tokio::test]
async fn an_empty_database_url_key_or_secret_starts_nothing() {
    let data_dir = tempfile::tempdir().expect("a folder");
    let data = data_dir.path().join("data");
    let empty = data_dir.path().join("empty");
    fs::write(&empty, " \n").expect("a file");
    let real = "postgres://127.0.0.1:1/db";
    for (variable, flag) in [
        ("CONSENTD_DATABASE_URL", "--database-url"),
        ("CONSENTD_DATABASE_URL_FILE", "--database-url"),
        ("CONSENTD_MIGRATE_DATABASE_URL", "--migrate-database-url"),
        ("CONSENTD_MIGRATE_DATABASE_URL_FILE", "--migrate-database-url"),
        ("CONSENTD_AUDIT_KEY_FILE", "--audit-key-file"),
        ("CONSENTD_AUDIT_WRITER_KEY_FILE", "--audit-writer-key-file"),
        ("CONSENTD_API_KEY", "--api-key"),
        ("CONSENTD_API_KEY_FILE", "--api-key"),
    ] {
        let commands: &[&[&str]] = match variable {
            "CONSENTD_API_KEY" | "CONSENTD_API_KEY_FILE" => &[&["key", "list"], &["load"]],
            "CONSENTD_AUDIT_KEY_FILE" | "CONSENTD_AUDIT_WRITER_KEY_FILE" => {
                &[&["serve"], &["audit", "keygen"]]
            }
            _ => &[&["serve"], &["migrate", "up"], &["demo"]],
        };
        let values = if variable.ends_with("_FILE") && !variable.contains("AUDIT") {
            vec![String::new(), empty.to_str().expect("UTF-8").to_owned()]
        } else {
            vec![String::new()]
        };
        for (arguments, value) in
            commands.iter().flat_map(|command| values.iter().map(move |value| (command, value)))
        {
            let mut command = program(&data, arguments);
            command.env("CONSENTD_LISTEN", "127.0.0.1:0").env("CONSENTD_WAIT_FOR_DATABASE", "0");
            if variable.contains("MIGRATE") {
                command.env("CONSENTD_DATABASE_URL", real);
            }
            command.env(variable, value);
            let refused = output(command).await;
            let said = error(&refused);
            assert!([1, 2].map(Some).contains(&refused.status.code()), "{variable}: {}", refused.status);
            assert!(said.contains(flag) && said.contains("setting"), "{variable} {value:?}: {said}");
            assert!(!data.exists(), "{variable}: something was made");
        }
    }
    // The owner's URL alone does not start a private database either.
    let mut command = program(&data, &["serve", "--listen", "127.0.0.1:0"]);
    command.env("CONSENTD_MIGRATE_DATABASE_URL", real);
    let refused = output(command).await;
    assert!(
        error(&refused).contains("--migrate-database-url is given without --database-url"),
        "{}",
        error(&refused)
    );
    assert!(!data.exists());
}

#[tokio::test]
async fn booleans_are_understood_as_people_write_them() {
    let database = empty_database().await;
    let data_dir = tempfile::tempdir().expect("a folder");
    for no in ["0", "no", "false", "off", "No", "FALSE"] {
        let mut command = serve(&database, data_dir.path(), "127.0.0.1:0");
        command.env("CONSENTD_MIGRATE", no).env("CONSENTD_WARM", no);
        let said = error(&output(command).await);
        assert!(said.contains("the database lacks migration"), "{no}: {said}");
    }
    let mut command = serve(&database, data_dir.path(), "127.0.0.1:0");
    command.env("CONSENTD_WARM", "perhaps");
    assert_eq!(output(command).await.status.code(), Some(2));
    for yes in ["1", "yes", "true", "on", "Yes"] {
        let mut command = serve(&database, data_dir.path(), "127.0.0.1:0");
        let mut child =
            command.env("CONSENTD_MIGRATE", yes).env("CONSENTD_WARM", yes).spawn().expect("it starts");
        greeting(&mut child).await;
        stop(child).await;
    }
}

#[tokio::test]
async fn the_service_listens_on_names_and_on_all_addresses() {
    let database = database().await;
    let data_dir = tempfile::tempdir().expect("a folder");
    let has_ipv6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    for listen in ["localhost:0", "127.0.0.1:0", ":0"] {
        let mut command = serve(&database, data_dir.path(), listen);
        let mut child = command.env("CONSENTD_METRICS_LISTEN", listen).spawn().expect("it starts");
        let address = greeting(&mut child).await;
        let port: u16 = address.rsplit_once(':').expect("a port").1.parse().expect("a port");
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap_or_else(|error| panic!("{listen}: {error}"));
        if listen == ":0" && has_ipv6 {
            TcpStream::connect((Ipv6Addr::LOCALHOST, port)).expect("it listens on IPv6, too");
        }
        stop(child).await;
    }
    for wrong in
        ["8080", "localhost", "localhost:", "localhost:port", "localhost:65536", "a/b:80", "::1:80", " :80"]
    {
        let refused = output(serve(&database, data_dir.path(), wrong)).await;
        assert_eq!(refused.status.code(), Some(2), "{wrong}");
        assert!(error(&refused).contains("must be HOST:PORT or :PORT"), "{wrong}: {}", error(&refused));
    }
    let refused = output(serve(&database, data_dir.path(), "no-such-host.invalid:80")).await;
    assert!(error(&refused).contains("cannot listen on no-such-host.invalid:80"), "{}", error(&refused));
}

#[tokio::test]
async fn a_database_that_is_down_at_start_is_waited_for() {
    let mut cluster = OwnCluster::start().await;
    let data_dir = tempfile::tempdir().expect("a folder");
    let command = |arguments: &[&str]| {
        let mut command = program(data_dir.path(), arguments);
        command.env("CONSENTD_DATABASE_URL", cluster.service.to_url_lossy().as_str());
        command.env("CONSENTD_MIGRATE_DATABASE_URL", cluster.owner.to_url_lossy().as_str());
        command.env("CONSENTD_LISTEN", "127.0.0.1:0");
        command
    };
    let [mut migrate, mut serve, mut hasty] =
        [&["migrate", "status"][..], &["serve"], &["migrate", "status"]].map(command);
    cluster.stop().await;
    hasty.env("CONSENTD_WAIT_FOR_DATABASE", "0");
    let hasty = output(hasty).await;
    assert_eq!(hasty.status.code(), Some(1));
    assert!(error(&hasty).contains("cannot connect to PostgreSQL"), "{}", error(&hasty));
    assert!(!error(&hasty).contains("waiting"), "{}", error(&hasty));

    let [mut migrate, mut serve] =
        [&mut migrate, &mut serve].map(|command| command.spawn().expect("it starts"));
    for child in [&mut migrate, &mut serve] {
        let mut lines = BufReader::new(child.stderr.as_mut().expect("its log")).lines();
        let line = lines.next_line().await.expect("a line").expect("it says that it waits");
        assert!(line.contains("the database is down") && line.contains("up to 30 s"), "{line}");
    }
    cluster.start_again().await;
    let listed = migrate.wait_with_output().await.expect("it ends");
    assert!(listed.status.success(), "{}", error(&listed));
    greeting(&mut serve).await;
    stop(serve).await;
}
