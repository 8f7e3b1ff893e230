//! Starts the server on its data, also while another is still going down.

use std::ffi::OsString;
use std::fs::File;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;

use super::account::Account;
use super::place::{PORT, Place, no_room, says_no_room};
use super::programs::Programs;
use super::server::Server;
use crate::error::StartError;

/// How long a server that still holds the data may take to go: it may be writing a checkpoint.
const PATIENCE: Duration = Duration::from_mins(1);

/// How long recovery after a crash may take.
const LONGEST_RECOVERY: Duration = Duration::from_mins(10);

/// What must not depend on a configuration file.
const SETTINGS: [&str; 19] = [
    "listen_addresses=",
    "unix_socket_permissions=0700",
    // What is acknowledged is on the disk.
    "fsync=on",
    "full_page_writes=on",
    "synchronous_commit=on",
    // The server logs through us, in words that we can tell apart.
    "log_destination=stderr",
    "logging_collector=off",
    "log_line_prefix=",
    "lc_messages=C",
    "log_min_messages=warning",
    // Bound values are personal data: no statement, parameter or failing row is logged.
    "log_statement=none",
    "log_duration=off",
    "log_min_duration_statement=-1",
    "log_min_duration_sample=-1",
    "log_transaction_sample_rate=0",
    "log_min_error_statement=panic",
    "log_error_verbosity=terse",
    "log_parameter_max_length=0",
    "log_parameter_max_length_on_error=0",
];

#[derive(Debug)]
pub struct Launcher {
    pub owner: PgConnectOptions,
    pub service: PgConnectOptions,
    pub place: Place,
    pub programs: Programs,
    pub account: Account,
    /// Held for as long as a server may run.
    pub _lock: File,
}

impl Launcher {
    pub async fn launch(&self) -> Result<Server, StartError> {
        let started = Instant::now();
        loop {
            let words = match self.launch_once().await? {
                Ok(server) => return Ok(server),
                Err(words) => words,
            };
            if !is_taken(&words) || started.elapsed() > PATIENCE {
                return Err(self.explain(&words));
            }
            self.stop_orphan().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn launch_once(&self) -> Result<Result<Server, String>, StartError> {
        let mut server = Server::spawn(self.command(), Signal::SIGINT).await.map_err(|error| {
            StartError::new(format!("cannot run {}: {error}", self.programs.program("postgres").display()))
        })?;
        match tokio::time::timeout(LONGEST_RECOVERY, server.ready()).await {
            Ok(Ok(())) => Ok(Ok(server)),
            Ok(Err(words)) => Ok(Err(words)),
            Err(_) => Err(StartError::new(format!(
                "PostgreSQL has not become ready within {} minutes: see its log with --log info,postgres=debug",
                LONGEST_RECOVERY.as_secs() / 60
            ))),
        }
    }

    fn command(&self) -> Command {
        let mut command = self.account.command(&self.programs.program("postgres"));
        command.arg("-D").arg(&self.place.data).arg("-p").arg(PORT.to_string());
        command.arg("-c").arg(self.socket_setting());
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        command
    }

    /// The setting is a list, in which a comma would separate and a quotation mark would quote.
    fn socket_setting(&self) -> OsString {
        let mut setting = OsString::from("unix_socket_directories=\"");
        let directory = self.place.directory.as_os_str();
        setting.push(directory.to_string_lossy().replace('"', "\"\""));
        setting.push("\"");
        setting
    }

    /// Where the kernel tells no child of our death, the server of a service that was killed runs on. We hold the
    /// lock, so whoever answers on our socket to our password serves nobody.
    async fn stop_orphan(&self) {
        if let Ok(connection) = self.owner.connect().await
            && let Some(postmaster) = self.place.postmaster()
        {
            drop(connection);
            tracing::warn!(postmaster, "stopping the PostgreSQL of a service that is gone");
            // If it has ended meanwhile, all the better.
            let _ = kill(Pid::from_raw(postmaster), Signal::SIGINT);
        }
    }

    fn explain(&self, words: &str) -> StartError {
        let data = self.place.data.display();
        if says_no_room(words) {
            return StartError::new(no_room(&data.to_string()));
        }
        if is_taken(words) {
            return StartError::new(format!(
                "another PostgreSQL is running on {data}: stop it with `{} -D {data} stop`",
                self.programs.program("pg_ctl").display()
            ));
        }
        let fatal = words.lines().rfind(|line| line.starts_with("FATAL:") || line.starts_with("PANIC:"));
        let cause = fatal.map_or_else(|| words.replace('\n', "; "), str::to_owned);
        StartError::new(format!(
            "PostgreSQL does not start on {data} ({cause}): see its whole log with --log info,postgres=debug, or restore \
             the data from a backup"
        ))
    }
}

/// Whether a server that runs, or whose last processes are still ending, has the data.
fn is_taken(words: &str) -> bool {
    words.contains("already exists") || words.contains("is still in use")
}
