//! The embedded migrations: what is applied, what is pending, forward and back.

mod record;
mod refusal;

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::Connection;
use sqlx::migrate::{Migrate, MigrateError, Migration, Migrator};
use sqlx::postgres::{PgConnectOptions, PgConnection};

use self::record::Record;
pub(super) use self::record::has_records;
use self::refusal::{cause, preparing};
pub(super) use self::refusal::{database, failed};
use super::connection::{self, Purpose};
use crate::error::StartError;

pub(super) static MIGRATOR: Migrator = sqlx::migrate!();

const OLDEST_SERVER: u32 = 14;
const THIS_VERSION: &str = env!("CARGO_PKG_VERSION");

/// A migration which was run, forward or back.
#[derive(Clone, Debug)]
pub struct Applied {
    pub version: i64,
    pub file: String,
    pub sql: &'static str,
    pub took: Duration,
}

/// Which migrations a rollback would take back, the last one first.
#[derive(Clone, Debug)]
pub struct Rollback {
    pub to: i64,
    pub files: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Applied,
    Pending,
    /// Applied, and its file was changed since.
    Modified,
    /// Applied by a program that knows more than this one.
    Unknown,
}

#[derive(Clone, Debug, Serialize)]
pub struct Status {
    pub version: i64,
    pub file: String,
    pub state: State,
    pub applied_at: Option<DateTime<Utc>>,
    /// Which version of this program applied it; unknown where another tool did.
    pub applied_by: Option<String>,
}

/// Applies what is pending, up to `to`. Replicas that boot together wait here for one another.
pub async fn up(owner: &PgConnectOptions, to: Option<i64>) -> Result<Vec<Applied>, StartError> {
    let mut connection = connect_locked(owner).await?;
    let applied = apply_pending(&mut connection, to).await?;
    close(connection).await?;
    Ok(applied)
}

/// Applies what is pending in a transaction which is rolled back.
pub async fn dry_run(owner: &PgConnectOptions, to: Option<i64>) -> Result<Vec<Applied>, StartError> {
    let mut connection = connect_locked(owner).await?;
    let mut transaction = connection.begin().await.map_err(|error| database(&error))?;
    let applied = apply_pending(&mut transaction, to).await?;
    transaction.rollback().await.map_err(|error| database(&error))?;
    close(connection).await?;
    Ok(applied)
}

/// Whether this program can serve the schema as it is: every migration it knows is applied, and no other.
pub async fn check(service: &PgConnectOptions) -> Result<(), StartError> {
    let mut connection = connect(service).await?;
    let records = verified_records(&mut connection).await?;
    close(connection).await?;
    match pending(&records, None)?.first() {
        None => Ok(()),
        Some(missing) => Err(StartError::new(format!(
            "the database lacks migration {}: run `consentd migrate up`, or start without --no-migrate",
            file_name(missing)
        ))),
    }
}

/// What `down` to `to` (without it: the last migration) would take back.
pub async fn plan_down(owner: &PgConnectOptions, to: Option<i64>) -> Result<Rollback, StartError> {
    let mut connection = connect(owner).await?;
    let records = verified_records(&mut connection).await?;
    close(connection).await?;
    let mut applied = records.iter().rev().map(|record| record.version);
    let last = applied
        .next()
        .ok_or_else(|| StartError::new("no migration is applied: there is nothing to roll back"))?;
    let to = to.unwrap_or_else(|| applied.next().unwrap_or(0));
    if to != 0 {
        known(to)?;
    }
    if to >= last {
        return Err(StartError::new(format!(
            "the database is at migration {last}: --to {to} leaves nothing to roll back"
        )));
    }
    let files = reverting(&records, to).map(file_name).collect();
    Ok(Rollback { to, files })
}

/// Takes back every migration after `to`, the last one first.
pub async fn down(owner: &PgConnectOptions, to: i64) -> Result<Vec<Applied>, StartError> {
    let mut connection = connect_locked(owner).await?;
    must_fire_triggers(&mut connection).await?;
    let records = verified_records(&mut connection).await?;
    let mut reverted = Vec::new();
    for migration in reverting(&records, to) {
        let took = connection
            .revert(&MIGRATOR.table_name, migration)
            .await
            .map_err(|error| failed(migration, &error))?;
        reverted.push(applied(migration, took));
    }
    close(connection).await?;
    Ok(reverted)
}

/// Every migration that is known here or recorded there, in order. Changes nothing.
pub async fn status(owner: &PgConnectOptions) -> Result<Vec<Status>, StartError> {
    let mut connection = connect(owner).await?;
    let records = record::records(&mut connection).await?;
    close(connection).await?;
    let mut list: Vec<Status> = records
        .iter()
        .map(|record| Status {
            version: record.version,
            file: record.file(),
            state: match forward(record.version) {
                None => State::Unknown,
                Some(migration) if migration.checksum[..] == record.checksum[..] => State::Applied,
                Some(_) => State::Modified,
            },
            applied_at: Some(record.installed_on),
            applied_by: record.applied_by.clone(),
        })
        .collect();
    list.extend(pending(&records, None)?.into_iter().map(|migration| Status {
        version: migration.version,
        file: file_name(migration),
        state: State::Pending,
        applied_at: None,
        applied_by: None,
    }));
    list.sort_by_key(|status| status.version);
    Ok(list)
}

async fn apply_pending(connection: &mut PgConnection, to: Option<i64>) -> Result<Vec<Applied>, StartError> {
    let records = verified_records(connection).await?;
    let pending = pending(&records, to)?;
    if records.is_empty() && record::has_customers(connection).await? {
        return Err(StartError::new(
            "the schema vlaapi has tables but no record of migrations: if they were applied by hand, adopt them with \
             `consentd migrate baseline --at N`, where N is the last one",
        ));
    }
    if !pending.is_empty() {
        must_fire_triggers(connection).await?;
        record::make_table(connection).await?;
    }
    let mut done = Vec::with_capacity(pending.len());
    for migration in pending {
        let took = apply(connection, migration).await.map_err(|error| failed(migration, &error))?;
        done.push(applied(migration, took));
    }
    if !(records.is_empty() && done.is_empty()) {
        record::let_service_read(connection).await?;
    }
    Ok(done)
}

async fn apply(connection: &mut PgConnection, migration: &Migration) -> Result<Duration, MigrateError> {
    let mut transaction = connection.begin().await?;
    let took = transaction.apply(&MIGRATOR.table_name, migration).await?;
    record::sign(&mut transaction, migration).await?;
    transaction.commit().await?;
    Ok(took)
}

/// Records 001 to `at` as applied without running them.
pub(super) async fn record_as_applied(connection: &mut PgConnection, at: i64) -> Result<(), StartError> {
    must_fire_triggers(connection).await?;
    record::make_table(connection).await?;
    for migration in forwards().filter(|migration| migration.version <= at) {
        connection.skip(&MIGRATOR.table_name, migration).await.map_err(|error| failed(migration, &error))?;
        record::sign(connection, migration).await.map_err(|error| database(&error))?;
    }
    record::let_service_read(connection).await
}

/// What is recorded, unless this program cannot go on from there.
async fn verified_records(connection: &mut PgConnection) -> Result<Vec<Record>, StartError> {
    let records = record::records(connection).await?;
    for record in &records {
        let Some(migration) = forward(record.version) else {
            let by = record.applied_by.as_deref().unwrap_or("another program");
            return Err(StartError::new(format!(
                "the schema is newer than this program: {} was applied by {by}, and consentd {THIS_VERSION} does not \
                 know it; run a version that does",
                record.file()
            )));
        };
        if migration.checksum[..] != record.checksum[..] {
            return Err(StartError::new(format!(
                "{} was changed since it was applied to this database: restore the file, and put the change into a new \
                 migration",
                record.file()
            )));
        }
    }
    Ok(records)
}

fn pending(records: &[Record], to: Option<i64>) -> Result<Vec<&'static Migration>, StartError> {
    if let Some(to) = to {
        known(to)?;
    }
    let is_recorded = |version| records.iter().any(|record| record.version == version);
    Ok(forwards()
        .filter(|migration| to.is_none_or(|to| migration.version <= to) && !is_recorded(migration.version))
        .collect())
}

fn reverting(records: &[Record], to: i64) -> impl Iterator<Item = &'static Migration> {
    MIGRATOR.iter().rev().filter(move |migration| {
        migration.migration_type.is_down_migration()
            && migration.version > to
            && records.iter().any(|record| record.version == migration.version)
    })
}

pub(super) fn known(version: i64) -> Result<(), StartError> {
    if forward(version).is_some() {
        return Ok(());
    }
    let last = forwards().last().map_or(0, |migration| migration.version);
    Err(StartError::new(format!("there is no migration {version}: this program knows 1 to {last}")))
}

pub(super) fn forwards() -> impl Iterator<Item = &'static Migration> {
    MIGRATOR.iter().filter(|migration| migration.migration_type.is_up_migration())
}

fn forward(version: i64) -> Option<&'static Migration> {
    forwards().find(|migration| migration.version == version)
}

fn applied(migration: &'static Migration, took: Duration) -> Applied {
    Applied { version: migration.version, file: file_name(migration), sql: migration.sql.as_str(), took }
}

pub(super) fn file_name(migration: &Migration) -> String {
    name(migration.version, &migration.description, migration.migration_type.suffix())
}

fn name(version: i64, description: &str, suffix: &str) -> String {
    format!("{version:03}_{}{suffix}", description.replace(' ', "_"))
}

pub(super) async fn connect_locked(options: &PgConnectOptions) -> Result<PgConnection, StartError> {
    let mut connection = connect(options).await?;
    connection.lock().await.map_err(|error| preparing(&error))?;
    Ok(connection)
}

async fn connect(options: &PgConnectOptions) -> Result<PgConnection, StartError> {
    let opened = connection::open(options, Purpose::Owner).await;
    let connection = opened.map_err(|error| {
        let at = options
            .get_socket()
            .map_or_else(|| options.get_host().to_owned(), |socket| socket.display().to_string());
        StartError::new(format!(
            "cannot connect to PostgreSQL at {at}, port {}, database {}, as {}: {}",
            options.get_port(),
            options.get_database().unwrap_or(options.get_username()),
            options.get_username(),
            cause(&error)
        ))
    })?;
    match connection.server_version_num() {
        Some(number) if number < OLDEST_SERVER * 10_000 => Err(StartError::new(format!(
            "PostgreSQL {} is too old: consentd needs {OLDEST_SERVER} or newer",
            number / 10_000
        ))),
        _ => check_encoding(connection).await,
    }
}

async fn must_fire_triggers(connection: &mut PgConnection) -> Result<(), StartError> {
    connection::must_fire_triggers(connection).await.map_err(|error| database(&error))
}

/// Refuses a database that cannot hold every text, and a connection on which texts arrive as something else.
async fn check_encoding(mut connection: PgConnection) -> Result<PgConnection, StartError> {
    let encodings = sqlx::query!(
        r#"
        select current_database()::text as "database!", current_setting('server_encoding') as "server!",
          current_setting('client_encoding') as "client!"
        "#
    )
    .fetch_one(&mut connection)
    .await
    .map_err(|error| database(&error))?;
    if encodings.server != "UTF8" {
        return Err(StartError::new(format!(
            "the encoding of database {} is {}: it must be UTF8; create a database with `CREATE DATABASE … ENCODING 'UTF8' \
             TEMPLATE template0` and move the data into it with a dump",
            encodings.database, encodings.server
        )));
    }
    if encodings.client != "UTF8" {
        return Err(StartError::new(format!(
            "the client encoding of connections to database {} is {}: it must be UTF8; a proxy before PostgreSQL must pass \
             client_encoding on",
            encodings.database, encodings.client
        )));
    }
    Ok(connection)
}

pub(super) async fn close(connection: PgConnection) -> Result<(), StartError> {
    connection.close().await.map_err(|error| database(&error))
}
