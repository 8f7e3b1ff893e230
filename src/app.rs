//! Opens the database, makes the clock, serves and stops.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cache::{Bounds, Cache};
use crate::config::{ClientAddressHeader, DatabaseConfig, ServeArgs, ServeConfig, TrustedProxy};
use crate::domain::ApiKey;
use crate::error::{Error, StartError};
use crate::files::{self, Readers};
use crate::health::Health;
use crate::http::client_address::{AddressHeader, ClientAddresses};
use crate::http::downloads::{Downloads, MinimumRate};
use crate::http::limits::ConcurrencyLimits;
use crate::http::server::Shutdown;
use crate::http::shares::Shares;
use crate::http::{self, AppState, Cursors, Parts, RateLimiter};
use crate::ops;
use crate::ops::consents::Writer;
use crate::postgres::{self, Cluster, Settings};
use crate::store::{Store, connection, migrations, waiting};
use crate::telemetry::Telemetry;

mod clock;
mod erasing;
mod following;
pub mod keys;
mod listening;
pub mod log;
mod publication;
pub mod tasks;
pub mod verification;

pub use clock::{Clock, clock};
use listening::bind;
use publication::Publication;
use tasks::{ServiceTasks, Tasks, heartbeat};

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
    /// Waits for an operator's database that is down, and calls `notice` with a line for people when it has to.
    pub async fn open(config: &DatabaseConfig, notice: fn(&str)) -> Result<Self, StartError> {
        if let Some(service) = config.service_url()? {
            let owner = config.owner_url()?.unwrap_or_else(|| service.clone());
            let limit = config.wait_for_database;
            let waits = |why: &str| {
                notice(&format!(
                    "the database is down ({why}): waiting for it for up to {} s",
                    limit.as_secs()
                ));
            };
            waiting::wait(&owner, limit, waits).await;
            return Ok(Self { owner, service, embedded: None });
        }
        if config.owner_url()?.is_some() {
            return Err(StartError::new(
                "--migrate-database-url is given without --database-url: name the database with both, or neither for a \
                 private PostgreSQL",
            ));
        }
        let settings = Settings { data_dir: config.data_dir()?, bindir: config.pg_bindir.clone() };
        let cluster = Cluster::start(&settings).await?;
        Ok(Self { owner: cluster.owner.clone(), service: cluster.service.clone(), embedded: Some(cluster) })
    }

    /// Like [`Database::open`]; and where a service runs on the embedded default, on the very same database beside it.
    /// The second value tells whether a service may be running.
    pub async fn open_beside(config: &DatabaseConfig, notice: fn(&str)) -> Result<(Self, bool), StartError> {
        if config.service_url()?.is_some() {
            return Ok((Self::open(config, notice).await?, true));
        }
        let settings = Settings { data_dir: config.data_dir()?, bindir: config.pg_bindir.clone() };
        match postgres::logins_of_running(&settings)? {
            Some((owner, service)) => Ok((Self { owner, service, embedded: None }, true)),
            None => Ok((Self::open(config, notice).await?, false)),
        }
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

/// Serves until a signal ends it. A second signal ends it at once.
pub async fn serve(args: &ServeArgs, telemetry: &Telemetry) -> Result<(), StartError> {
    // Before the database: a port that is taken is told at once.
    let listener = bind(&args.serve.listen, "--listen").await?;
    let database = Database::open(&args.database, |line| tracing::warn!("{line}")).await?;
    let served = serve_on(args, &database, listener, telemetry).await;
    database.close().await;
    served
}

async fn serve_on(
    args: &ServeArgs,
    database: &Database,
    listener: TcpListener,
    telemetry: &Telemetry,
) -> Result<(), StartError> {
    let config = &args.serve;
    prepare_database(config, database).await?;
    let store = Store::new(&database.service, config.read_connections, config.write_connections);
    erasing::may_erase(&store, database).await?;
    let recorder = telemetry.metrics();
    let render: http::Metrics = Arc::new(move || recorder.render());
    let data_dir = args.database.data_dir()?;
    let bounds = Bounds {
        customers: usize::try_from(config.cache_customers).unwrap_or(usize::MAX),
        max_stale: config.max_stale,
    };
    let (cache, clock) = make_cache(&store, bounds).await?;
    let tasks = Tasks::new(&cache.health);
    tasks.spawn("heartbeat", (store.clone(), Arc::clone(&cache.health)), |(store, health), stop| {
        heartbeat::watch(store, health, stop)
    });
    let mut log = log::open(&store, &args.audit, &data_dir, &clock).await?;
    let (writer, lanes) = Writer::start(&store, &cache, log.keys.writers.first(), config.write_lanes);
    let address = listener.local_addr().map_err(|error| StartError::new(error.to_string()))?;
    let public_url = public_url(config, address);
    let state = build(&store, &cache, writer.clone(), config, public_url, &log, &render).await?;
    let key_file = publish_operator_key(&store, args).await?;

    // The sealer stops last: what the lanes and the other tasks write is sealed too.
    let sealing = Tasks::new(&cache.health);
    let publication = Publication::start(&args.audit, &store, &sealing)?;
    let sealed = log.seal(publication, &clock, &sealing);
    let service_tasks = ServiceTasks {
        args,
        database,
        store: store.clone(),
        cache: Arc::clone(&cache),
        clock,
        log: &log,
        sealed,
        writer,
        customers: bounds.customers,
    };
    service_tasks.start(&tasks)?;
    let metrics_listener = match &config.metrics_listen {
        Some(address) => Some(bind(address, "--metrics-listen").await?),
        None => None,
    };
    let router = http::router(state.clone());
    let limits = http::server::Limits { max_connections: config.max_connections, ..Default::default() };
    let metrics = metrics_listener.map(|listener| {
        let router = http::metrics_router(render);
        // Watched until all else has ended.
        let shutdown = Shutdown { signal: tasks.stop_token(), delay: Duration::ZERO, drain: Duration::ZERO };
        let serve = http::server::serve(listener, router, limits, shutdown);
        let health = Arc::clone(&cache.health);
        tokio::spawn(async move { health.catch_panic("metrics_listener", serve).await })
    });
    let signal = CancellationToken::new();
    tokio::spawn(stop_on_signal(Arc::clone(&cache.health), signal.clone())?);

    cache.health.set_serving(true);
    tracing::info!(%address, embedded = database.is_embedded(), version = env!("CARGO_PKG_VERSION"), "ready");
    greet(address, &key_file, database.is_embedded());
    let shutdown = Shutdown { signal, delay: config.shutdown_delay, drain: config.shutdown_timeout };
    http::server::serve(listener, router, limits, shutdown).await;

    // The follower and the others serve the last requests, too.
    tasks.finish().await;
    if let Some(metrics) = metrics {
        // Its connections are ended; a panic of its own is in the log.
        let _ = metrics.await;
    }
    lanes.finish().await;
    sealing.finish().await;
    store.close().await;
    tracing::info!("stopped");
    Ok(())
}

/// Makes the cache and the clock. Before anything is written, the clock is compared with the database's, and the database's
/// sequences with the ids in use.
async fn make_cache(store: &Store, bounds: Bounds) -> Result<(Arc<Cache>, Clock), StartError> {
    let failed = |error: Error| StartError::new(format!("cannot read the database: {error}"));
    let cache = Arc::new(Cache::new(store, bounds, &Arc::default()));
    let clock = Clock::new(clock, &cache);
    clock.measure(store).await.map_err(failed)?;
    cache.advance_sequences(store).await.map_err(failed)?;
    Ok((cache, clock))
}

/// Checks the database, and migrates it if that is asked for.
async fn prepare_database(config: &ServeConfig, database: &Database) -> Result<(), StartError> {
    if !database.is_embedded() {
        check_sessions(&database.service).await?;
    }
    if !config.migrate || config.no_migrate {
        return migrations::check(&database.service).await;
    }
    for applied in migrations::up(&database.owner, None).await? {
        tracing::info!(migration = applied.file, "applied");
    }
    Ok(())
}

/// Looks at a given database's way in and settings, which the service cannot change.
async fn check_sessions(service: &PgConnectOptions) -> Result<(), StartError> {
    let failed = |error| StartError::new(format!("cannot read the database: {error}"));
    if connection::pools_transactions(service).await.map_err(failed)? {
        return Err(StartError::new(
            "the database is behind a pooler that pools transactions or statements: set it to pool sessions \
             (PgBouncer: pool_mode = session), or give the address of PostgreSQL",
        ));
    }
    for setting in connection::hazards(service).await.map_err(failed)? {
        tracing::warn!(
            setting,
            "the database runs with this setting off: a crash of its machine may lose or damage what was acknowledged, \
             withdrawals too; set it to on"
        );
    }
    Ok(())
}

async fn build(
    store: &Store,
    cache: &Arc<Cache>,
    writer: Writer,
    config: &ServeConfig,
    public_url: Option<Arc<str>>,
    log: &log::Log,
    render: &http::Metrics,
) -> Result<AppState, StartError> {
    let secret = store
        .service_secret("cursor")
        .await
        .map_err(|error| StartError::new(format!("cannot read the database: {error}")))?;
    Ok(AppState::from(Parts {
        store: store.clone(),
        cache: Arc::clone(cache),
        writer,
        clock: Arc::new(clock::clock),
        cursors: Cursors::new(secret),
        client_addresses: ClientAddresses {
            trusted: config.trusted_proxies.iter().map(|TrustedProxy(network)| *network).collect(),
            header: match config.client_address_header {
                ClientAddressHeader::XForwardedFor => AddressHeader::XForwardedFor,
                ClientAddressHeader::Forwarded => AddressHeader::Forwarded,
            },
        },
        health: Arc::clone(&cache.health),
        metrics: config.metrics_listen.is_none().then(|| Arc::clone(render)),
        concurrency: ConcurrencyLimits::new(config.max_concurrency),
        bodies: Shares::new(http::BODIES),
        downloads: Downloads::new(config.read_connections, MinimumRate::default()),
        rates: RateLimiter::default(),
        log_keys: Arc::clone(&log.keys),
        log: Arc::clone(&log.view),
        public_url,
        verifications: Arc::clone(&log.verifications),
    }))
}

/// On an address of this machine alone, customers can only be on it too.
fn public_url(config: &ServeConfig, address: std::net::SocketAddr) -> Option<Arc<str>> {
    let own = || address.ip().is_loopback().then(|| format!("http://{address}"));
    config.public_url.clone().or_else(own).map(Arc::from)
}

/// Where the operator's key is kept, and whether it was made just now.
struct KeyFile {
    path: PathBuf,
    made: bool,
}

/// On an empty database, makes the operator's key: without one nobody could call.
async fn publish_operator_key(store: &Store, args: &ServeArgs) -> Result<KeyFile, StartError> {
    let path = args.database.data_dir()?.join("operator.key");
    let publish = |key: &ApiKey| {
        write_key(&path, key).map_err(|error| {
            Error::Internal(format!(
                "cannot write {}: {error}; say where with --data-dir DIR",
                path.display()
            ))
        })
    };
    let made = ops::keys::create_operator_key(store, args.serve.new_operator_key, clock(), publish)
        .await
        .map_err(|error| StartError::new(format!("cannot make the operator's key: {error}")))?;
    Ok(KeyFile { path, made })
}

fn write_key(path: &Path, key: &ApiKey) -> std::io::Result<()> {
    keys::make_directory_of(path)?;
    files::replace(path, format!("{}\n", key.reveal()).as_bytes(), Readers::Owner)
}

/// What a newcomer needs to see: where the service is, where the key is, and a first call.
fn greet(address: std::net::SocketAddr, key: &KeyFile, embedded: bool) {
    let mut out = std::io::stdout().lock();
    let key_file = key.path.display();
    let kept = if key.made { "was made and is kept in" } else { "is kept in" };
    let database = if embedded { "its own private PostgreSQL" } else { "the database you gave" };
    // Nobody may be reading: that is no reason not to serve.
    let _ = writeln!(
        out,
        "\nconsentd serves on http://{address}, on {database}. The reference is at http://{address}/docs\n\
         The operator's API key {kept} {key_file}\n"
    );
    if key.made {
        let _ = writeln!(
            out,
            "Try it:\n\n\
             KEY=$(cat {key_file}); ID=123e4567-e89b-12d3-a456-426614174000; URL=http://{address}/v1\n\
             curl -sw '\\n' $URL/customers -H \"Authorization: Bearer $KEY\" -H 'Content-Type: application/json' \
             -d '{{\"customer_id\":\"'$ID'\",\"email\":\"robotics@example.com\",\"tier\":\"pro\"}}'\n\
             curl -sw '\\n' -X PUT $URL/customers/$ID/consent -H \"Authorization: Bearer $KEY\" -H 'Content-Type: application/json' \
             -d '{{\"consent_tier\":\"analytics\",\"can_store_embeddings\":true}}'\n\
             curl -sw '\\n' \"$URL/customers/$ID/consent/permissions?check=embeddings\" -H \"Authorization: Bearer $KEY\"\n\
             curl -sw '\\n' -X DELETE $URL/customers/$ID/consent -H \"Authorization: Bearer $KEY\"\n\
             curl -sw '\\n' $URL/customers/$ID/consent/audit -H \"Authorization: Bearer $KEY\"\n"
        );
    }
    let _ = out.flush();
}

/// Stops the service at the first signal; the second one ends the process.
fn stop_on_signal(
    health: Arc<Health>,
    stop: CancellationToken,
) -> Result<impl Future<Output = ()>, StartError> {
    let listen =
        |kind| signal(kind).map_err(|error| StartError::new(format!("cannot listen for signals: {error}")));
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {}, () = stop.cancelled() => return }
        tracing::info!("stopping: a second signal ends the service at once");
        health.set_serving(false);
        stop.cancel();
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::warn!("second signal: ending at once");
        std::process::exit(130);
    })
}
