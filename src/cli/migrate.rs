//! `consentd migrate`: forward, back, what stands, and adopting a database that was made by hand.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use percent_encoding::percent_decode_str;
use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;
use tokio::process::Command;

use super::output::notice;
use crate::app::Database;
use crate::config::DatabaseConfig;
use crate::error::StartError;
use crate::files::{Draft, Readers};
use crate::postgres::programs::Programs;
use crate::store::{migrations, schema};

#[derive(Args, Debug)]
pub struct MigrateArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Apply all pending migrations
    Up {
        /// Stop after this one
        #[arg(long, value_name = "N")]
        to: Option<i64>,

        /// Print the SQL, run it in a transaction and roll that back
        #[arg(long, conflicts_with = "backup")]
        dry_run: bool,

        #[command(flatten)]
        backup: BackupArgs,

        #[command(flatten)]
        database: DatabaseConfig,
    },
    /// Roll back the last migration; what it made is destroyed
    Down {
        /// Roll back everything after this one; 0 rolls back all
        #[arg(long, value_name = "N")]
        to: Option<i64>,

        /// Do not ask
        #[arg(long)]
        yes: bool,

        #[command(flatten)]
        backup: BackupArgs,

        #[command(flatten)]
        database: DatabaseConfig,
    },
    /// List the migrations: applied, pending or modified, when, by which version
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,

        #[command(flatten)]
        database: DatabaseConfig,
    },
    /// Adopt a database to which the migrations were applied by hand: compare it with what they make, then record them
    Baseline {
        /// The last migration that was applied
        #[arg(long, value_name = "N")]
        at: i64,

        #[command(flatten)]
        database: DatabaseConfig,
    },
}

#[derive(Args, Debug)]
struct BackupArgs {
    /// First write a backup to this new file with `pg_dump` (restore it with `pg_restore`); stop if that fails
    #[arg(long, value_name = "FILE")]
    backup: Option<PathBuf>,
}

impl Action {
    fn database(&self) -> &DatabaseConfig {
        match self {
            Self::Up { database, .. }
            | Self::Down { database, .. }
            | Self::Status { database, .. }
            | Self::Baseline { database, .. } => database,
        }
    }
}

pub async fn run(args: MigrateArgs) -> Result<ExitCode, StartError> {
    let database = Database::open(args.action.database(), notice).await?;
    let outcome = act(&args.action, &database.owner).await;
    database.close().await;
    outcome
}

async fn act(action: &Action, owner: &PgConnectOptions) -> Result<ExitCode, StartError> {
    match action {
        Action::Up { to, dry_run: true, .. } => {
            let applied = migrations::dry_run(owner, *to).await?;
            for migration in &applied {
                say(&format!("-- {}\n{}", migration.file, migration.sql))?;
            }
            say(&format!("-- dry run: {} migrations were applied and rolled back", applied.len()))?;
        }
        Action::Up { to, backup, database, .. } => {
            back_up(backup, owner, database).await?;
            let applied = migrations::up(owner, *to).await?;
            if applied.is_empty() {
                say("nothing to apply: the schema is up to date")?;
            }
            for migration in applied {
                say(&format!("applied {} in {:.0?}", migration.file, migration.took))?;
            }
        }
        Action::Down { to, yes, backup, database } => {
            let rollback = migrations::plan_down(owner, *to).await?;
            if !yes && !confirmed(&rollback)? {
                say("nothing was rolled back")?;
                return Ok(ExitCode::FAILURE);
            }
            back_up(backup, owner, database).await?;
            for migration in migrations::down(owner, rollback.to).await? {
                say(&format!("ran {} in {:.0?}", migration.file, migration.took))?;
            }
        }
        Action::Status { json, .. } => {
            let list = migrations::status(owner).await?;
            say(&if *json {
                serde_json::to_string_pretty(&list).expect("a status is plain data")
            } else {
                table(&list)
            })?;
        }
        Action::Baseline { at, .. } => {
            let differences = schema::baseline(owner, *at).await?;
            for difference in &differences {
                say(&difference.to_string())?;
            }
            if !differences.is_empty() {
                return Err(StartError::new(format!(
                    "the database is not what migrations 1 to {at} make ({} differences): nothing was recorded",
                    differences.len()
                )));
            }
            say(&format!("migrations 1 to {at} are recorded as applied"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn table(list: &[migrations::Status]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["MIGRATION", "STATE", "APPLIED", "BY"]);
    for status in list {
        let state = match status.state {
            migrations::State::Applied => "applied",
            migrations::State::Pending => "pending",
            migrations::State::Modified => "modified",
            migrations::State::Unknown => "unknown to this version",
        };
        table.add_row([
            status.file.clone(),
            state.to_owned(),
            status
                .applied_at
                .map(|time| time.format("%Y-%m-%d %H:%M:%S UTC").to_string())
                .unwrap_or_default(),
            status.applied_by.clone().unwrap_or_default(),
        ]);
    }
    table.trim_fmt()
}

fn confirmed(rollback: &migrations::Rollback) -> Result<bool, StartError> {
    if !io::stdin().is_terminal() {
        return Err(StartError::new(format!(
            "rolling back {} destroys data: say --yes",
            rollback.files.join(", ")
        )));
    }
    let answer = (|| {
        let mut terminal = io::stderr().lock();
        writeln!(terminal, "This runs, and destroys what they made with all rows in it:")?;
        for file in &rollback.files {
            writeln!(terminal, "  {file}")?;
        }
        write!(terminal, "Type \"yes\" to go on: ")?;
        terminal.flush()?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        io::Result::Ok(answer)
    })();
    let answer = answer.map_err(|error| StartError::new(format!("cannot ask: {error}")))?;
    Ok(answer.trim() == "yes")
}

async fn back_up(
    args: &BackupArgs,
    owner: &PgConnectOptions,
    config: &DatabaseConfig,
) -> Result<(), StartError> {
    let Some(file) = args.backup.as_deref() else {
        return Ok(());
    };
    let unusable = |error: io::Error| {
        StartError::new(format!("cannot make the backup file {}: {error}", file.display()))
    };
    // A backup holds personal data, is whole, and never replaces another one.
    if file.symlink_metadata().is_ok() {
        return Err(unusable(io::ErrorKind::AlreadyExists.into()));
    }
    let draft = Draft::beside(file, Readers::Owner).map_err(unusable)?;
    dump(draft.path(), owner, config.pg_bindir.as_deref()).await?;
    draft.keep_new().map_err(unusable)?;
    say(&format!("backed up to {}", file.display()))
}

async fn dump(file: &Path, owner: &PgConnectOptions, bindir: Option<&Path>) -> Result<(), StartError> {
    let program = pg_dump(bindir);
    let output = Command::new(&program)
        .args(["--format=custom", "--no-password"])
        .arg("--file")
        .arg(file)
        // What these say would go before what we say.
        .env_remove("PGSERVICE")
        .env_remove("PGHOSTADDR")
        .envs(connection_variables(owner))
        .output()
        .await
        .map_err(|error| {
            StartError::new(format!(
                "no backup, so no migration: cannot run {}: {error}; install PostgreSQL's client programs, or say where \
                 they are with --pg-bindir",
                program.display()
            ))
        })?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(StartError::new(format!("no backup, so no migration: {}", reason.trim().replace('\n', "; "))))
}

/// The server programs' own fits the private PostgreSQL; a machine with client programs alone has one on the PATH.
fn pg_dump(bindir: Option<&Path>) -> PathBuf {
    if let Some(bindir) = bindir {
        return bindir.join("pg_dump");
    }
    Programs::find(None, None)
        .map(|programs| programs.program("pg_dump"))
        .ok()
        .filter(|program| program.is_file())
        .unwrap_or_else(|| PathBuf::from("pg_dump"))
}

/// The connection as libpq's environment variables: arguments can be seen by everyone on the machine.
fn connection_variables(owner: &PgConnectOptions) -> Vec<(&'static str, String)> {
    let host = owner.get_socket().map_or_else(
        || owner.get_host().trim_matches(['[', ']']).to_owned(),
        |socket| socket.display().to_string(),
    );
    let mut variables = vec![
        ("PGHOST", host),
        ("PGPORT", owner.get_port().to_string()),
        ("PGUSER", owner.get_username().to_owned()),
        ("PGDATABASE", owner.get_database().unwrap_or(owner.get_username()).to_owned()),
    ];
    // Password and certificates are only given back in a URL, which not every host and user can be written in.
    let url = owner.clone().host("localhost").username("owner").to_url_lossy();
    if let Some(password) = url.password() {
        let password = percent_decode_str(password).decode_utf8_lossy().into_owned();
        variables.push(("PGPASSWORD", password));
    }
    for (key, value) in url.query_pairs() {
        let variable = match &*key {
            "sslmode" => "PGSSLMODE",
            "sslrootcert" => "PGSSLROOTCERT",
            "sslcert" => "PGSSLCERT",
            "sslkey" => "PGSSLKEY",
            _ => continue,
        };
        let value = value.strip_prefix("file: ").unwrap_or(&value);
        variables.push((variable, value.to_owned()));
    }
    variables
}

fn say(text: &str) -> Result<(), StartError> {
    writeln!(io::stdout().lock(), "{text}")
        .map_err(|error| StartError::new(format!("cannot write to standard output: {error}")))
}
