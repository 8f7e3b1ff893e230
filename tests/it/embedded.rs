//! The private PostgreSQL that the service runs where no database URL is given.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed; clippy's leave for tests is not for their helpers"
)]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use consentd::postgres::account::Account;
use consentd::postgres::programs::Programs;
use consentd::postgres::{Cluster, Settings};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection};
use tempfile::TempDir;

use crate::cluster::memory_or_disk;

/// Names the data directory for the test that is run to be killed.
const TO_BE_KILLED: &str = "CONSENTD_TEST_TO_BE_KILLED";

/// A directory that the server's account can pass through, which is another one when the tests run as root.
fn directory() -> TempDir {
    let directory = TempDir::new_in(memory_or_disk()).unwrap();
    fs::set_permissions(&directory, Permissions::from_mode(0o711)).unwrap();
    directory
}

fn settings(directory: &Path) -> Settings {
    Settings { data_dir: directory.join("data"), bindir: None }
}

async fn refusal(settings: &Settings) -> String {
    match Cluster::start(settings).await {
        Ok(_) => panic!("it starts"),
        Err(error) => error.to_string(),
    }
}

async fn note(options: &PgConnectOptions, text: &str) {
    let mut connection = options.connect().await.unwrap();
    sqlx::raw_sql("create table if not exists notes (note text)").execute(&mut connection).await.unwrap();
    sqlx::query("insert into notes values ($1)").bind(text).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

async fn notes(options: &PgConnectOptions) -> Vec<String> {
    let mut connection = options.connect().await.unwrap();
    sqlx::query_scalar("select note from notes order by note").fetch_all(&mut connection).await.unwrap()
}

fn postmaster(settings: &Settings) -> Pid {
    let file = settings.data_dir.join("postgres/data/postmaster.pid");
    let text = fs::read_to_string(file).unwrap();
    Pid::from_raw(text.lines().next().unwrap().parse().unwrap())
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..200 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("after ten seconds still not: {what}");
}

#[tokio::test]
async fn the_first_start_makes_a_cluster_whose_service_role_owns_nothing() {
    let directory = directory();
    let settings = settings(directory.path());
    let cluster = Cluster::start(&settings).await.unwrap();

    let mut owner = cluster.owner.connect().await.unwrap();
    sqlx::migrate!().run(&mut owner).await.unwrap();
    let mut service = cluster.service.connect().await.unwrap();
    let (name, database, superuser, serves): (String, String, bool, bool) = sqlx::query_as(
        "select current_user::text, current_database()::text, rolsuper or rolcreaterole or rolcreatedb, \
         pg_has_role('vlaapi_app', 'usage') from pg_roles where rolname = current_user",
    )
    .fetch_one(&mut service)
    .await
    .unwrap();
    assert_eq!((name.as_str(), database.as_str()), ("consentd_service", "consentd"));
    assert!(serves && !superuser);
    sqlx::query("select count(*) from vlaapi.customer_data_consent").execute(&mut service).await.unwrap();
    assert!(sqlx::query("drop table vlaapi.customer_data_consent").execute(&mut service).await.is_err());
    assert!(cluster.service.clone().password("guessed").connect().await.is_err());

    let passwords = fs::metadata(settings.data_dir.join("postgres.passwords")).unwrap();
    assert_eq!(passwords.permissions().mode() & 0o777, 0o600);
    let inside = fs::metadata(settings.data_dir.join("postgres")).unwrap();
    assert_eq!(inside.permissions().mode() & 0o777, 0o700);
    cluster.stop().await;
}

#[tokio::test]
async fn a_second_start_keeps_the_data_and_the_data_directory_has_one_service() {
    let directory = directory();
    let settings = settings(directory.path());
    let cluster = Cluster::start(&settings).await.unwrap();
    note(&cluster.owner, "first").await;

    let sentence = refusal(&settings).await;
    assert!(sentence.starts_with("another consentd is running on the data directory"), "{sentence}");
    cluster.stop().await;

    let cluster = Cluster::start(&settings).await.unwrap();
    assert_eq!(notes(&cluster.owner).await, ["first"]);
    cluster.stop().await;
}

#[tokio::test]
async fn it_keeps_what_it_acknowledged_and_nothing_of_it_is_on_the_network_or_in_its_log() {
    let directory = directory();
    let cluster = Cluster::start(&settings(directory.path())).await.unwrap();
    let mut owner = cluster.owner.connect().await.unwrap();
    for (name, value) in [
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("synchronous_commit", "on"),
        ("data_checksums", "on"),
        ("listen_addresses", ""),
        ("server_encoding", "UTF8"),
        ("password_encryption", "scram-sha-256"),
        ("log_parameter_max_length", "0"),
        ("log_parameter_max_length_on_error", "0"),
        ("log_error_verbosity", "terse"),
        ("log_statement", "none"),
        ("log_min_error_statement", "panic"),
    ] {
        let setting: String =
            sqlx::query_scalar("select current_setting($1)").bind(name).fetch_one(&mut owner).await.unwrap();
        assert_eq!(setting, value, "{name}");
    }
    cluster.stop().await;
}

#[tokio::test]
async fn a_server_that_is_killed_is_started_again_with_everything_committed() {
    let directory = directory();
    let settings = settings(directory.path());
    let cluster = Cluster::start(&settings).await.unwrap();
    note(&cluster.owner, "before").await;
    let killed = postmaster(&settings);
    kill(killed, Signal::SIGKILL).unwrap();
    eventually("it answers again", async || {
        postmaster_of_now(&settings).is_some_and(|now| now != killed) && cluster.owner.connect().await.is_ok()
    })
    .await;
    note(&cluster.owner, "then").await;
    assert_eq!(notes(&cluster.owner).await, ["before", "then"]);
    cluster.stop().await;
    assert!(postmaster_of_now(&settings).is_none());
}

fn postmaster_of_now(settings: &Settings) -> Option<Pid> {
    settings.data_dir.join("postgres/data/postmaster.pid").exists().then(|| postmaster(settings))
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn the_server_ends_with_a_killed_service_and_the_next_start_keeps_everything_committed() {
    let directory = directory();
    let settings = settings(directory.path());
    let mut service = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "embedded::a_service_that_is_to_be_killed"])
        .env(TO_BE_KILLED, directory.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    eventually("a note is committed", async || directory.path().join("noted").exists()).await;
    let orphan = postmaster(&settings);
    service.kill().unwrap();
    // At once, while the old server may still be going down.
    let cluster = Cluster::start(&settings).await.unwrap();
    assert_eq!(notes(&cluster.owner).await, ["last words"]);
    assert_ne!(postmaster(&settings), orphan);
    cluster.stop().await;
    service.wait().unwrap();
}

#[tokio::test]
#[ignore = "it is a part of the test before it, which kills it"]
async fn a_service_that_is_to_be_killed() {
    #[expect(clippy::disallowed_methods, reason = "it is how one test speaks to another")]
    let Some(directory) = std::env::var_os(TO_BE_KILLED) else {
        return;
    };
    let directory = Path::new(&directory);
    let cluster = Cluster::start(&settings(directory)).await.unwrap();
    note(&cluster.owner, "last words").await;
    fs::write(directory.join("noted"), "").unwrap();
    tokio::time::sleep(Duration::from_mins(1)).await;
}

#[tokio::test]
async fn a_server_that_survived_its_service_gives_way_to_the_next() {
    let directory = directory();
    let settings = settings(directory.path());
    let cluster = Cluster::start(&settings).await.unwrap();
    note(&cluster.owner, "kept").await;
    cluster.stop().await;

    let place = settings.data_dir.join("postgres");
    let programs = Programs::find(None, None).unwrap();
    let mut survivor = Account::find()
        .unwrap()
        .command(&programs.program("postgres"))
        .args(["-c", "listen_addresses=", "-k"])
        .arg(&place)
        .arg("-D")
        .arg(place.join("data"))
        .process_group(0)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the survivor answers", async || cluster_answers(&place).await).await;

    let cluster = Cluster::start(&settings).await.unwrap();
    assert_ne!(postmaster(&settings).as_raw(), i32::try_from(survivor.id()).unwrap());
    assert_eq!(notes(&cluster.owner).await, ["kept"]);
    assert!(survivor.wait().unwrap().success());
    cluster.stop().await;
}

/// Whether a connection gets so far that a password is asked for.
async fn cluster_answers(place: &Path) -> bool {
    let stranger = PgConnectOptions::new_without_pgpass()
        .socket(place)
        .port(5432)
        .ssl_mode(PgSslMode::Disable)
        .username("stranger")
        .password("none");
    match stranger.connect().await {
        Err(sqlx::Error::Database(error)) => error.code().as_deref() == Some("28P01"),
        _ => false,
    }
}

#[tokio::test]
async fn without_server_programs_it_says_how_to_get_them() {
    let directory = directory();
    let nowhere = directory.path().join("bin");
    fs::create_dir(&nowhere).unwrap();
    let settings = Settings { bindir: Some(nowhere.clone()), ..settings(directory.path()) };
    let sentence = refusal(&settings).await;
    let start =
        format!("there are no PostgreSQL server programs (postgres, initdb) in {}", nowhere.display());
    assert!(sentence.starts_with(&start), "{sentence}");
    assert!(sentence.contains("install"), "{sentence}");
    assert!(!settings.data_dir.exists(), "nothing is left behind");
}

#[tokio::test]
async fn server_programs_that_are_too_old_are_refused() {
    let directory = directory();
    for (program, script) in
        [("initdb", "#!/bin/sh\n"), ("postgres", "#!/bin/sh\necho 'postgres (PostgreSQL) 13.14'\n")]
    {
        let path = directory.path().join(program);
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    }
    let settings = Settings { bindir: Some(directory.path().to_path_buf()), ..settings(directory.path()) };
    let sentence = refusal(&settings).await;
    assert!(sentence.contains("are of version 13, and version 14 or newer is needed"), "{sentence}");
}

#[tokio::test]
async fn data_of_another_version_is_left_alone() {
    let directory = directory();
    let settings = settings(directory.path());
    let data = settings.data_dir.join("postgres/data");
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("PG_VERSION"), "9\n").unwrap();
    let sentence = refusal(&settings).await;
    assert!(sentence.contains("the data needs those of version 9"), "{sentence}");
    assert_eq!(fs::read_to_string(data.join("PG_VERSION")).unwrap(), "9\n");
}

#[tokio::test]
async fn a_place_that_cannot_hold_data_is_refused_with_a_way_out() {
    let directory = directory();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let below_a_file = refusal(&settings(&file)).await;
    assert!(below_a_file.contains("choose another place with --data-dir DIR"), "{below_a_file}");

    let deep = refusal(&settings(&directory.path().join("d".repeat(100)))).await;
    assert!(deep.contains("too long for a socket"), "{deep}");

    let closed = directory.path().join("closed");
    fs::create_dir(&closed).unwrap();
    if Uid::effective().is_root() {
        // Root gets in everywhere, the server's account does not.
        fs::set_permissions(&closed, Permissions::from_mode(0o700)).unwrap();
        let sentence = refusal(&settings(&closed)).await;
        let advice = format!("who cannot enter {closed}: choose", closed = closed.display());
        assert!(sentence.contains(&advice), "{sentence}");
    } else {
        fs::set_permissions(&closed, Permissions::from_mode(0o500)).unwrap();
        let sentence = refusal(&settings(&closed)).await;
        assert!(sentence.contains("give this user the right to"), "{sentence}");
    }
}

#[tokio::test]
async fn data_that_is_damaged_is_named_with_the_cause() {
    let directory = directory();
    let settings = settings(directory.path());
    Cluster::start(&settings).await.unwrap().stop().await;
    fs::remove_file(settings.data_dir.join("postgres/data/global/pg_control")).unwrap();
    let sentence = refusal(&settings).await;
    assert!(sentence.contains("pg_control") && sentence.contains("backup"), "{sentence}");
    fs::remove_file(settings.data_dir.join("postgres.passwords")).unwrap();
    let sentence = refusal(&settings).await;
    assert!(sentence.contains("postgres.passwords does not hold the two passwords"), "{sentence}");
}
