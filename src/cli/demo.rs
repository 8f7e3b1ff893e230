//! `consentd demo`: believable customers and the history of their consents.

mod company;
mod dice;
mod history;
mod trail;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use chrono::{DateTime, Months, NaiveDate, NaiveTime, Utc};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use sqlx::{Connection, PgConnection};

use self::company::Plan;
use self::history::History;
use self::trail::Trail;
use super::output::notice;
use crate::app::Database;
use crate::app::keys::KeyPaths;
use crate::config::DatabaseConfig;
use crate::config::audit::AuditKeyFiles;
use crate::domain::WriterKey;
use crate::error::StartError;
use crate::ops::log::vouching;
use crate::store;
use crate::store::connection::{Purpose, must_fire_triggers, open};

/// Fill a database with believable customers and their consent history
///
/// The same seed, number, years and end give the same data. All of it is written in one transaction: a load which fails
/// or is interrupted leaves nothing. Meanwhile
/// other writers wait; on an empty database, readers of the audit trail too.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  consentd demo
  consentd demo --customers 100000 --seed 7 --until 2026-06-30
  consentd demo --append --seed 2 --database-url postgres://consentd@db/vla")]
pub struct DemoArgs {
    /// How many customers; each has about ten audit entries
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub customers: u32,

    /// Another seed gives other customers
    #[arg(long, default_value_t = 1, value_name = "S")]
    pub seed: u64,

    /// How many years of history
    #[arg(long, default_value_t = 2, value_name = "YEARS", value_parser = clap::value_parser!(u32).range(1..=20))]
    pub years: u32,

    /// The day at whose beginning (UTC) the history ends [default: today]
    #[arg(long, value_name = "DATE")]
    pub until: Option<NaiveDate>,

    /// Load although the database has customers already
    #[arg(long)]
    pub append: bool,

    #[command(flatten)]
    pub files: AuditKeyFiles,

    #[command(flatten)]
    pub database: DatabaseConfig,
}

/// What was loaded.
struct Loaded {
    customers: u64,
    entries: u64,
}

pub async fn run(args: DemoArgs, now: DateTime<Utc>) -> Result<ExitCode, StartError> {
    let plan = plan(&args, now)?;
    let database = Database::open(&args.database, notice).await?;
    let started = Instant::now();
    let keys = args.database.data_dir().map(|data_dir| KeyPaths::new(&args.files, &data_dir));
    let result = load(&database, plan, args.append, &keys?).await;
    database.close().await;
    let loaded = result?;
    let summary = summary(&loaded, started.elapsed());
    // Who closed the pipe did not want to know.
    let _ = writeln!(io::stdout().lock(), "{summary}");
    Ok(ExitCode::SUCCESS)
}

fn plan(args: &DemoArgs, now: DateTime<Utc>) -> Result<Plan, StartError> {
    let today = now.date_naive();
    let day = args.until.unwrap_or(today);
    if day > today {
        return Err(StartError::new(format!(
            "--until {day} lies in the future: a history ends today ({today}) or before"
        )));
    }
    let first = day.checked_sub_months(Months::new(12 * args.years));
    let since = first.map(|first| first.and_time(NaiveTime::MIN).and_utc());
    match since {
        Some(since) if since >= DateTime::UNIX_EPOCH => Ok(Plan {
            seed: args.seed,
            customers: args.customers,
            since,
            until: day.and_time(NaiveTime::MIN).and_utc(),
        }),
        _ => Err(StartError::new(format!(
            "--until {day} is too early: a history of {} years would begin before 1970",
            args.years
        ))),
    }
}

async fn load(database: &Database, plan: Plan, append: bool, keys: &KeyPaths) -> Result<Loaded, StartError> {
    let unreachable = |error| StartError::new(format!("cannot reach the database: {error}"));
    let mut connection = open(&database.owner, Purpose::Owner).await.map_err(unreachable)?;
    must_fire_triggers(&mut connection).await.map_err(unreachable)?;
    let mut tx = connection.begin().await.map_err(|error| sentence(&error))?;
    let loaded = tokio::select! {
        loaded = write(&mut tx, plan, append, keys) => loaded?,
        _ = tokio::signal::ctrl_c() => return Err(StartError::new("interrupted: nothing was written")),
    };
    tx.commit().await.map_err(|error| sentence(&error))?;
    Ok(loaded)
}

async fn write(
    tx: &mut PgConnection,
    plan: Plan,
    append: bool,
    keys: &KeyPaths,
) -> Result<Loaded, StartError> {
    store::demo::lock(tx).await.map_err(|error| sentence(&error))?;
    if !append && store::demo::has_customers(tx).await.map_err(|error| sentence(&error))? {
        return Err(StartError::new(
            "the database has customers already: load into an empty one, or add to it with --append",
        ));
    }
    // Where entries are sealed already, these come with the service's word as well.
    let has_log = store::demo::has_log(tx).await.map_err(|error| sentence(&error))?;
    let writer = if has_log { keys.load(false)?.writers.into_iter().next() } else { None };
    copy(tx, plan, writer.as_ref()).await.map_err(|error| sentence(&error))
}

async fn copy(tx: &mut PgConnection, plan: Plan, writer: Option<&WriterKey>) -> sqlx::Result<Loaded> {
    // The histories are counted, on another core, before any is written: how many ids they take must be known.
    let counting = tokio::task::spawn_blocking(move || count(&plan));
    let customers = store::demo::copy_customers(tx, plan.customers()).await?;
    let (mut histories, total) = counting.await.expect("counting does not panic");
    let first_audit_id = store::demo::reserve_audit_ids(tx, total).await?;
    let progress = progress(total.unsigned_abs());
    let indexes = store::demo::drop_indexes_of_empty_trail(tx).await?;
    let trail = Trail::new(&mut histories, first_audit_id).map(|entry| {
        let vouched =
            writer.map(|key| vouching::entry(key, &entry).expect("believable entries fit into the log"));
        (entry, vouched.map(|vouched| vouched.vouching))
    });
    let entries = store::demo::copy_entries(tx, trail, || progress.inc(1)).await?;
    if writer.is_some() {
        store::demo::queue(tx, first_audit_id, total).await?;
    }
    progress.set_message("making indexes …");
    store::demo::make_indexes(tx, indexes).await?;
    progress.set_message("writing consents …");
    store::demo::copy_consents(tx, histories.iter().map(History::end)).await?;
    store::demo::analyze(tx).await?;
    progress.finish_and_clear();
    Ok(Loaded { customers, entries })
}

fn count(plan: &Plan) -> (Vec<History>, i64) {
    let histories: Vec<_> = (0..plan.customers).map(|number| History::new(plan, number)).collect();
    let entries: usize = histories.iter().map(|history| Trail::new(&mut [history.clone()], 0).count()).sum();
    (histories, i64::try_from(entries).expect("entries fit 63 bits"))
}

fn progress(entries: u64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {human_pos} of {human_len} entries {msg}")
        .expect("the template is a constant");
    ProgressBar::new(entries).with_style(style)
}

fn summary(loaded: &Loaded, elapsed: Duration) -> String {
    let millis = elapsed.as_millis().max(1);
    format!(
        "{} customers, {} entries in {}.{} s ({} entries/s)",
        loaded.customers,
        loaded.entries,
        millis / 1000,
        millis % 1000 / 100,
        u128::from(loaded.entries) * 1000 / millis,
    )
}

fn sentence(error: &sqlx::Error) -> StartError {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    StartError::new(match code.as_deref() {
        // undefined_table, invalid_schema_name
        Some("42P01" | "3F000") => {
            "the database has no tables of consentd: run `consentd migrate up` first".to_owned()
        }
        // undefined_column
        Some("42703") => "the schema is older than this program: run `consentd migrate up` first".to_owned(),
        // unique_violation
        Some("23505") => "customers of this seed are in the database: choose another --seed".to_owned(),
        // insufficient_privilege
        Some("42501") => format!(
            "the database user may not load customers ({error}): name the owner's URL with --migrate-database-url"
        ),
        _ => format!("the load failed, nothing was written: {error}"),
    })
}
