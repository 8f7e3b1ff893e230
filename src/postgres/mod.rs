//! The embedded default: a private PostgreSQL which the service finds, initialises, starts and stops itself.

use std::path::PathBuf;

use sqlx::postgres::PgConnectOptions;

use crate::error::StartError;

/// What the private cluster needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The service's data directory; the cluster lives in a folder below it.
    pub data_dir: PathBuf,
    /// Where the server programs are, if the operator says so.
    pub bindir: Option<PathBuf>,
}

/// A running private PostgreSQL.
#[derive(Debug)]
pub struct Cluster {
    pub owner: PgConnectOptions,
    pub service: PgConnectOptions,
}

impl Cluster {
    pub async fn start(_settings: &Settings) -> Result<Self, StartError> {
        Err(StartError::new("the embedded PostgreSQL is not built"))
    }

    pub async fn stop(self) {}
}
