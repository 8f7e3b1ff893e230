//! Opens the database, makes the clock, serves and stops.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, SubsecRound as _, Utc};
use sqlx::postgres::PgConnectOptions;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cache::freshness::Moment;
use crate::cache::{Bounds, Cache};
use crate::config::{DatabaseConfig, ServeArgs, ServeConfig};
use crate::domain::ApiKey;
use crate::error::{Error, StartError};
use crate::http::limits::Gate;
use crate::http::{self, AppState, Cursors, Parts, Rates};
use crate::ops;
use crate::ops::consents::Writer;
use crate::postgres::{self, Cluster, Settings};
use crate::store::{Store, migrations};
use crate::telemetry::{self, Telemetry};

mod erasing;
mod following;
pub mod keys;
pub mod log;
mod publication;
pub mod verification;

use publication::Publication;

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
            return Ok(Self { owner, service, embedded: None });
        }
        let settings = Settings { data_dir: config.data_dir()?, bindir: config.pg_bindir.clone() };
        let cluster = Cluster::start(&settings).await?;
        Ok(Self { owner: cluster.owner.clone(), service: cluster.service.clone(), embedded: Some(cluster) })
    }

    /// Like [`Database::open`]; and where a service runs on the embedded default, on the very same database beside it.
    /// The second value tells whether a service may be running.
    pub async fn open_beside(config: &DatabaseConfig) -> Result<(Self, bool), StartError> {
        if config.service_url()?.is_some() {
            return Ok((Self::open(config).await?, true));
        }
        let settings = Settings { data_dir: config.data_dir()?, bindir: config.pg_bindir.clone() };
        match postgres::logins_of_running(&settings)? {
            Some((owner, service)) => Ok((Self { owner, service, embedded: None }, true)),
            None => Ok((Self::open(config).await?, false)),
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

/// The one clock of the program, in microseconds: what PostgreSQL keeps is what was answered.
#[expect(clippy::disallowed_methods, reason = "this is the clock; everything else takes time as an argument")]
pub fn clock() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(6)
}

/// Serves until a signal ends it. A second signal ends it at once.
pub async fn serve(args: &ServeArgs, telemetry: &Telemetry) -> Result<(), StartError> {
    // Before the database: a port that is taken is told at once.
    let listener = bind(args.serve.listen).await?;
    let database = Database::open(&args.database).await?;
    let served = serve_on(args, &database, listener, telemetry).await;
    database.close().await;
    served
}

async fn bind(address: std::net::SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|error| {
        let advice = match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "another program has it: stop that one, or choose another with --listen"
            }
            std::io::ErrorKind::PermissionDenied => {
                "ports below 1024 need a right of their own: choose another with --listen"
            }
            _ => "choose another with --listen",
        };
        StartError::new(format!("cannot listen on {address} ({error}): {advice}"))
    })
}

async fn serve_on(
    args: &ServeArgs,
    database: &Database,
    listener: TcpListener,
    telemetry: &Telemetry,
) -> Result<(), StartError> {
    let config = &args.serve;
    if config.migrate && !config.no_migrate {
        for applied in migrations::up(&database.owner, None).await? {
            tracing::info!(migration = applied.file, "applied");
        }
    } else {
        migrations::check(&database.service).await?;
    }
    let store = Store::new(&database.service, config.read_connections, config.write_connections);
    erasing::may_erase(&store, database).await?;
    let recorder = telemetry.metrics();
    let render: http::Metrics = Arc::new(move || recorder.render());
    let data_dir = args.database.data_dir()?;
    let mut log = log::open(&store, &args.audit, &data_dir).await?;
    let bounds = Bounds {
        customers: usize::try_from(config.cache_customers).unwrap_or(usize::MAX),
        max_stale: config.max_stale,
    };
    let cache = Arc::new(Cache::new(&store, bounds));
    let (writer, lanes) = Writer::start(&store, &cache, log.keys.writers.first(), config.write_lanes);
    let address = listener.local_addr().map_err(|error| StartError::new(error.to_string()))?;
    let public_url = public_url(config, address);
    let state = build(&store, &cache, writer.clone(), config, public_url, &log, &render).await?;
    let key_file = publish_operator_key(&store, args).await?;

    let stop = CancellationToken::new();
    let ready = Arc::clone(&state.ready);
    // The sealer stops last: what the lanes and the other tasks write is sealed too.
    let sealing = CancellationToken::new();
    let (publication, publishing) = Publication::start(&args.audit, &store, &sealing)?;
    let sealer = log.seal(publication, sealing.clone());
    let verifier = verification::Verifier {
        store: store.clone(),
        service: database.service.clone(),
        keys: Arc::clone(&log.keys),
        outside: verification::Outside::new(&args.audit, &data_dir),
        clock,
    };
    let background = [
        tokio::spawn(sweep(store.clone(), writer, Duration::from_secs(config.sweep_interval), stop.clone())),
        tokio::spawn(maintain(store.clone(), stop.clone())),
        tokio::spawn(watch(store.clone(), Arc::clone(&cache), stop.clone())),
        tokio::spawn(following::follow(store.clone(), Arc::clone(&cache), stop.clone())),
        tokio::spawn(following::tell(store.clone(), Arc::clone(&cache), stop.clone())),
        tokio::spawn(erasing::erase(store.clone(), database.owner.clone(), stop.clone())),
        tokio::spawn(verifier.verify(
            Arc::clone(&log.verifications),
            args.audit.verify_interval(),
            stop.clone(),
        )),
        tokio::spawn(erasing::retain(
            store.clone(),
            Arc::clone(&log.keys),
            args.audit.audit_retention.clone(),
            stop.clone(),
        )),
    ];
    if config.warm {
        tokio::spawn(following::warm(store.clone(), Arc::clone(&cache), bounds.customers, stop.clone()));
    }
    let metrics_listener = match config.metrics_listen {
        Some(address) => Some(bind(address).await?),
        None => None,
    };
    let router = http::router(state.clone());
    let limits = http::server::Limits { max_connections: config.max_connections, ..Default::default() };
    let metrics = metrics_listener.map(|listener| {
        let router = http::metrics_router(render);
        tokio::spawn(http::server::serve(listener, router, limits, stop.clone(), Duration::ZERO))
    });
    tokio::spawn(stop_on_signal(Arc::clone(&ready), config.shutdown_delay, stop.clone())?);

    ready.store(true, Ordering::Relaxed);
    tracing::info!(%address, embedded = database.is_embedded(), version = env!("CARGO_PKG_VERSION"), "ready");
    greet(address, &key_file, database.is_embedded());
    http::server::serve(listener, router, limits, stop.clone(), config.shutdown_timeout).await;

    stop.cancel();
    for task in background.into_iter().chain(metrics) {
        // A task that panicked has said so in the log.
        let _ = task.await;
    }
    lanes.finish().await;
    sealing.cancel();
    for task in sealer.into_iter().chain(publishing) {
        let _ = task.await;
    }
    store.close().await;
    tracing::info!("stopped");
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
        clock: Arc::new(clock),
        cursors: Cursors::new(secret),
        trusted_proxies: config.trusted_proxies.clone().into(),
        ready: Arc::new(AtomicBool::new(false)),
        metrics: config.metrics_listen.is_none().then(|| Arc::clone(render)),
        gate: Arc::new(Gate::new(config.max_concurrency, config.max_concurrency, config.read_connections)),
        rates: Arc::new(Rates::default()),
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
    let data_dir = args.database.data_dir()?;
    let path = data_dir.join("operator.key");
    let publish = |key: &ApiKey| {
        write_key(&data_dir, &path, key).map_err(|error| {
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

fn write_key(data_dir: &Path, path: &Path, key: &ApiKey) -> std::io::Result<()> {
    std::fs::create_dir_all(data_dir)?;
    let draft = keys::draft(path, &format!("{}\n", key.reveal()))?;
    std::fs::rename(&draft, path)
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

/// Not ready at the first signal, then no new connections; the second signal ends the process.
fn stop_on_signal(
    ready: Arc<AtomicBool>,
    delay: Duration,
    stop: CancellationToken,
) -> Result<impl Future<Output = ()>, StartError> {
    let listen =
        |kind| signal(kind).map_err(|error| StartError::new(format!("cannot listen for signals: {error}")));
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {}, () = stop.cancelled() => return }
        tracing::info!("stopping");
        ready.store(false, Ordering::Relaxed);
        tokio::time::sleep(delay).await;
        stop.cancel();
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        tracing::warn!("second signal: ending at once");
        std::process::exit(130);
    })
}

/// Every replica sweeps; the database lets one at a time through.
async fn sweep(store: Store, writer: Writer, interval: Duration, stop: CancellationToken) {
    while every(interval, &stop).await {
        let failure = match ops::expiry::sweep(&store, &writer, clock()).await {
            Ok(None) => None,
            Ok(Some(swept)) => {
                telemetry::expiries_recorded(swept.recorded);
                if swept.failure.is_none() {
                    telemetry::swept(clock());
                }
                swept.failure
            }
            Err(error) => Some(error),
        };
        if let Some(error) = failure {
            telemetry::sweep_failed();
            tracing::warn!(%error, "the expiry sweep failed; the next one tries again");
        }
    }
}

/// Once an hour: partitions for the months to come, answers kept for retries which have had their day, and the links to the
/// customers' page with the keys that sign them.
async fn maintain(store: Store, stop: CancellationToken) {
    loop {
        let now = clock();
        match store.make_partitions(now.date_naive()).await {
            Ok(made) if made > 0 => tracing::info!(made, "made partitions of inference_logs"),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "could not make partitions of inference_logs"),
        }
        if let Err(error) = ops::idempotency::forget(&store, now).await {
            tracing::warn!(%error, "could not forget old answers");
        }
        if let Err(error) = ops::sessions::forget(&store, now).await {
            tracing::warn!(%error, "could not forget the console's old sessions");
        }
        if let Err(error) = ops::links::maintain(&store, now).await {
            tracing::warn!(%error, "could not look after the links to the customers' page");
        }
        if !every(Duration::from_hours(1), &stop).await {
            return;
        }
    }
}

fn report(cache: &Cache) {
    let consents = &cache.consents;
    let uses = consents.uses();
    let age = cache.freshness.age(Moment::now());
    let reads = [uses.hits, uses.misses, uses.stale];
    telemetry::cache(consents.len(), consents.bytes(), reads, uses.evictions, age);
}

/// Keeps the metrics of the database and of the memory current.
async fn watch(store: Store, cache: Arc<Cache>, stop: CancellationToken) {
    loop {
        report(&cache);
        telemetry::database_up(store.ping().await.is_ok());
        for (name, pool) in store.pools() {
            let idle = u32::try_from(pool.num_idle()).unwrap_or(u32::MAX);
            telemetry::pool_connections(name, idle, pool.size().saturating_sub(idle));
        }
        if let Ok(backlog) = store.backlog().await {
            let now = clock();
            telemetry::backlog(backlog.pending, now - backlog.oldest.unwrap_or(now), backlog.quarantined);
        }
        if !every(Duration::from_secs(5), &stop).await {
            return;
        }
    }
}

/// Waits; false when it is time to stop.
async fn every(interval: Duration, stop: &CancellationToken) -> bool {
    tokio::select! { () = tokio::time::sleep(interval) => true, () = stop.cancelled() => false }
}
