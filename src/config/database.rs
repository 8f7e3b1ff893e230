//! The database's settings.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use reqwest::Url;
use sqlx::postgres::PgConnectOptions;

use super::{DataDir, Secret, file, seconds, secret};
use crate::error::StartError;

/// The place of the data.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Database")]
pub struct DatabaseConfig {
    /// PostgreSQL 14 or newer, e.g. `postgres://consentd@db/vla?sslmode=verify-full`; without it the service runs its
    /// own private PostgreSQL in the data directory
    #[arg(long, env = "CONSENTD_DATABASE_URL", value_name = "URL")]
    pub database_url: Option<Secret>,

    /// A file that holds the database URL
    #[arg(long, env = "CONSENTD_DATABASE_URL_FILE", value_parser = file, value_name = "FILE", conflicts_with = "database_url")]
    pub database_url_file: Option<PathBuf>,

    /// The URL for migrations, where the role that owns the schema is not the role that serves
    #[arg(long, env = "CONSENTD_MIGRATE_DATABASE_URL", value_name = "URL")]
    pub migrate_database_url: Option<Secret>,

    /// A file that holds the URL for migrations
    #[arg(
        long,
        env = "CONSENTD_MIGRATE_DATABASE_URL_FILE",
        value_parser = file,
        value_name = "FILE",
        conflicts_with = "migrate_database_url"
    )]
    pub migrate_database_url_file: Option<PathBuf>,

    /// Seconds to wait at start for a database that is down; 0: do not wait
    #[arg(long, env = "CONSENTD_WAIT_FOR_DATABASE", default_value = "30", value_parser = seconds, value_name = "SECONDS")]
    pub wait_for_database: Duration,

    /// Directory of PostgreSQL's server programs [default: found by `pg_config`, PATH and the usual places]
    #[arg(long, env = "CONSENTD_PG_BINDIR", value_name = "DIR")]
    pub pg_bindir: Option<PathBuf>,

    #[command(flatten)]
    pub data_dir: DataDir,
}

impl DatabaseConfig {
    /// The URL of the role that serves; `None` means the embedded default.
    pub fn service_url(&self) -> Result<Option<PgConnectOptions>, StartError> {
        let url = secret(self.database_url.as_ref(), self.database_url_file.as_deref(), "--database-url")?;
        url.map(|url| connect_options(&url, "--database-url")).transpose()
    }

    /// The URL of the role that migrates; `None` means that of the role that serves.
    pub fn owner_url(&self) -> Result<Option<PgConnectOptions>, StartError> {
        let flag = "--migrate-database-url";
        let url =
            secret(self.migrate_database_url.as_ref(), self.migrate_database_url_file.as_deref(), flag)?;
        url.map(|url| connect_options(&url, flag)).transpose()
    }

    pub fn data_dir(&self) -> Result<PathBuf, StartError> {
        self.data_dir.path()
    }
}

/// The parameters that sqlx knows, beside `options[…]`. It would log any other one with its value.
const PARAMETERS: [&str; 18] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// Parameters of libpq and of other drivers. Only these are named in a refusal: another name may be a part of a password
/// that holds a question mark.
const FOREIGN: [&str; 33] = [
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "connection_limit",
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "passfile",
    "pgbouncer",
    "pool_timeout",
    "replication",
    "require_auth",
    "requirepeer",
    "requiressl",
    "schema",
    "service",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcompression",
    "sslcrl",
    "sslcrldir",
    "sslnegotiation",
    "sslpassword",
    "sslsni",
    "target_session_attrs",
    "tcp_user_timeout",
];

/// Parses a URL by rules of our own first: the errors and log lines of libraries hold values, and a value may be a secret.
fn connect_options(url: &Secret, flag: &str) -> Result<PgConnectOptions, StartError> {
    let refuse = |why: &str| StartError::new(format!("{flag} is not usable: {why}"));
    let form = "it must be a URL such as postgres://user@host/database";
    let text = url.reveal();
    let (_, rest) = text
        .split_once("://")
        .filter(|(scheme, _)| ["postgres", "postgresql"].contains(scheme))
        .ok_or_else(|| refuse(form))?;
    // Raw in a password, each of these ends the host; what is left of the password would be taken for something that is shown.
    if rest.find(['/', '?', '#']).is_some_and(|end| rest[end..].contains('@')) {
        return Err(refuse(
            "it has an @ behind the host: in a password, write / ? # @ % as %2F %3F %23 %40 %25, and elsewhere @ as %40",
        ));
    }
    let parsed: Url = text.parse().map_err(|error| refuse(&format!("{error}; {form}")))?;
    if parsed.fragment().is_some() {
        return Err(refuse("it has a #, which begins nothing in a database URL: write it as %23"));
    }
    for (number, (name, value)) in (1..).zip(parsed.query_pairs()) {
        check_parameter(number, &name, &value).map_err(|why| refuse(&why))?;
    }
    let options: PgConnectOptions = text.parse().map_err(|_| refuse(form))?;
    Ok(options.application_name("consentd"))
}

fn check_parameter(number: u32, name: &str, value: &str) -> Result<(), String> {
    let is_option = name.starts_with("options[") && name.ends_with(']');
    if !is_option && !PARAMETERS.contains(&name) {
        return Err(match FOREIGN.iter().find(|foreign| **foreign == name) {
            Some(foreign) => {
                format!("it has the parameter {foreign}, which consentd does not support: remove it")
            }
            None => {
                format!("its parameter {number} is unknown: remove it, or write a ? in a password as %3F")
            }
        });
    }
    let fits = match name {
        "sslmode" | "ssl-mode" => {
            ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"].contains(&value)
        }
        "port" => value.parse::<u16>().is_ok(),
        "hostaddr" => value.parse::<std::net::IpAddr>().is_ok(),
        "statement-cache-capacity" => value.parse::<u32>().is_ok(),
        _ => true,
    };
    if !fits {
        return Err(format!("its parameter {name} has a value that is not allowed"));
    }
    let names_file = ["sslrootcert", "ssl-root-cert", "ssl-ca", "sslcert", "ssl-cert", "sslkey", "ssl-key"]
        .contains(&name);
    if names_file && !value.trim_start().starts_with("-----BEGIN") {
        std::fs::metadata(value)
            .map_err(|error| format!("the file of its parameter {name} cannot be read: {error}"))?;
    }
    Ok(())
}
