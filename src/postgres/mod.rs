//! The embedded default: a private PostgreSQL which the service finds, initialises, starts and stops itself.
//!
//! | room | holds |
//! | --- | --- |
//! | [`programs`] | where the server programs are |
//! | [`account`] | who runs them |
//! | `place` | the files below the data directory, and the lock on them |
//! | `creation` | how a cluster is made |
//! | `launch` | how it is started on settings that keep data and leak none |
//! | [`server`] | one server process |

use std::path::PathBuf;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::error::StartError;

pub mod account;
mod creation;
mod launch;
mod place;
pub mod programs;
pub mod server;

use account::Account;
use creation::{OWNER, SERVICE};
use launch::Launcher;
use place::{Passwords, Place};
use programs::Programs;
use server::Server;

/// The database that the service keeps everything in.
const DATABASE: &str = "consentd";

/// How long to wait before the server is started again when that has just failed.
const PAUSE: Duration = Duration::from_secs(1);

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
    /// A superuser: it migrates.
    pub owner: PgConnectOptions,
    /// A member of `vlaapi_app`, owner of nothing.
    pub service: PgConnectOptions,
    stop: oneshot::Sender<()>,
    supervisor: JoinHandle<()>,
}

impl Cluster {
    /// Starts the cluster in the data directory, and makes it first if there is none. From then on it is started again
    /// whenever it ends unasked.
    pub async fn start(settings: &Settings) -> Result<Self, StartError> {
        let settings = settings.clone();
        let launcher = spawn_blocking(move || prepare(&settings))
            .await
            .map_err(|error| StartError::new(format!("PostgreSQL cannot be prepared: {error}")))??;
        let server = launcher.launch().await?;
        let (owner, service) = (launcher.owner.clone(), launcher.service.clone());
        let (stop, asked_to_stop) = oneshot::channel();
        let supervisor = tokio::spawn(supervise(launcher, server, asked_to_stop));
        Ok(Self { owner, service, stop, supervisor })
    }

    /// Stops it in good order, within half a minute.
    pub async fn stop(self) {
        drop(self.stop);
        if let Err(error) = self.supervisor.await {
            tracing::error!(%error, "PostgreSQL was not stopped in good order");
        }
    }
}

/// Everything that comes before the server itself.
fn prepare(settings: &Settings) -> Result<Launcher, StartError> {
    let account = Account::find()?;
    let place = Place::below(&settings.data_dir)?;
    let programs = Programs::find(settings.bindir.as_deref(), place.major()?)?;
    let lock = place.claim(&account)?;
    account.check_reach(&programs.program("postgres"), &place.directory)?;
    let passwords =
        if place.exists()? { place.passwords()? } else { creation::create(&place, &programs, &account)? };
    let (owner, service) = logins(&place, &passwords);
    Ok(Launcher { owner, service, place, programs, account, _lock: lock })
}

/// How the owner and the service log in.
fn logins(place: &Place, passwords: &Passwords) -> (PgConnectOptions, PgConnectOptions) {
    let options = |user: &str, password: &str| {
        PgConnectOptions::new_without_pgpass()
            .socket(&place.directory)
            .port(place::PORT)
            .username(user)
            .password(password)
            .database(DATABASE)
            .ssl_mode(PgSslMode::Disable)
            .application_name("consentd")
    };
    (options(OWNER, passwords.owner.reveal()), options(SERVICE, passwords.service.reveal()))
}

/// How to log in to the cluster of a service that is running on the data directory; `None` if none is.
pub fn logins_of_running(
    settings: &Settings,
) -> Result<Option<(PgConnectOptions, PgConnectOptions)>, StartError> {
    let place = Place::below(&settings.data_dir)?;
    if !place.exists()? || !place.is_claimed()? {
        return Ok(None);
    }
    Ok(Some(logins(&place, &place.passwords()?)))
}

/// Keeps the server running until it is asked to stop, or the [`Cluster`] is dropped.
async fn supervise(launcher: Launcher, mut server: Server, mut asked_to_stop: oneshot::Receiver<()>) {
    loop {
        let last_words = tokio::select! {
            _ = &mut asked_to_stop => return server.stop().await,
            last_words = server.ended() => last_words,
        };
        tracing::error!(%last_words, "PostgreSQL has ended unasked and is started again");
        server = tokio::select! {
            _ = &mut asked_to_stop => return,
            server = launch_at_last(&launcher) => server,
        };
    }
}

async fn launch_at_last(launcher: &Launcher) -> Server {
    loop {
        match launcher.launch().await {
            Ok(server) => return server,
            Err(error) => tracing::error!(%error, "PostgreSQL cannot be started again"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}
