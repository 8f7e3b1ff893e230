//! Opens the database, makes the clock, serves and stops.

use sqlx::postgres::PgConnectOptions;

use crate::config::DatabaseConfig;
use crate::error::StartError;
use crate::postgres::{Cluster, Settings};

/// The database to work on: the operator's own, or the embedded default.
#[derive(Debug)]
pub struct Database {
    /// The role that owns the schema and migrates.
    pub owner: PgConnectOptions,
    /// The role that serves: a member of `vlaapi_app`, owner of nothing.
    pub service: PgConnectOptions,
    embedded: Option<Cluster>,
}

impl Database {
    pub async fn open(config: &DatabaseConfig) -> Result<Self, StartError> {
        if let Some(service) = config.service_url()? {
            let owner = config.owner_url()?.unwrap_or_else(|| service.clone());
            return Ok(Self {
                owner,
                service,
                embedded: None,
            });
        }
        let settings = Settings {
            data_dir: config.data_dir()?,
            bindir: config.pg_bindir.clone(),
        };
        let cluster = Cluster::start(&settings).await?;
        Ok(Self {
            owner: cluster.owner.clone(),
            service: cluster.service.clone(),
            embedded: Some(cluster),
        })
    }

    pub fn is_embedded(&self) -> bool {
        self.embedded.is_some()
    }

    /// Stops the private PostgreSQL, if it is ours.
    pub async fn close(self) {
        if let Some(cluster) = self.embedded {
            cluster.stop().await;
        }
    }
}
