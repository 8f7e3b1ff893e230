//! Logs, metrics, traces.
//!
//! Logs go to standard error. Metrics have OpenTelemetry's names as Prometheus writes them. Traces go out only where
//! the operator names a collector.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::IsTerminal;
use std::panic::AssertUnwindSafe;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::http::{Method, Request, Response, StatusCode};
use chrono::{DateTime, TimeDelta, Utc};
use metrics::{Gauge, Histogram, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{Bytes, HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use reqwest::Url;
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::config::{LogFormat, TelemetryConfig};
use crate::error::StartError;
use crate::outbound;

/// The longest time for which one batch of traces is sent.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

const REQUEST_DURATION: &str = "http_server_request_duration_seconds";
const ACTIVE_REQUESTS: &str = "http_server_active_requests";
const OVERLOAD_REFUSALS: &str = "consentd_overload_refusals_total";
const DOWNLOADS_CUT: &str = "consentd_downloads_cut_total";
const POOL_CONNECTIONS: &str = "db_client_connection_count";
const DATABASE_UP: &str = "consentd_database_up";
const TASK_PANICS: &str = "consentd_task_panics_total";
const COMPONENT_FAULTS: &str = "consentd_component_faults_total";
const CLOCK_DIFFERENCE: &str = "consentd_clock_difference_seconds";
const UNREADABLE_VALUES: &str = "consentd_unreadable_values_total";
const SWEEP_LAST_RUN: &str = "consentd_expiry_sweep_last_run_timestamp_seconds";
const SWEEP_ENTRIES: &str = "consentd_expiry_sweep_entries_total";
const SWEEP_FAILURES: &str = "consentd_expiry_sweep_failures_total";

mod audit;
mod cache;

pub use audit::{
    backlog, checkpoint_age, checkpoint_not_published, log_forked, log_size, sealed, sealing_failed,
    uncounted, verified,
};
pub use cache::{cache, followed, following_ended};

/// The bounds which OpenTelemetry advises for `http.server.request.duration`.
const DURATION_BUCKETS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
static TRACED: AtomicBool = AtomicBool::new(false);

/// What was set up, to be ended at the end of the program.
#[derive(Debug)]
#[must_use = "traces are only flushed by `shutdown`"]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    metrics: Metrics,
}

impl Telemetry {
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Sends the traces that are still here. Blocks for up to five seconds: call it after the runtime has ended.
    pub fn shutdown(self) {
        if let Some(Err(error)) = self.traces.map(|traces| traces.shutdown()) {
            tracing::warn!(%error, "the last traces may be lost");
        }
    }
}

/// The metrics of this process.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// Installs the recorder; a process has one, so a second call gives the same again.
    pub fn install() -> Self {
        Self(RECORDER.get_or_init(install_recorder).clone())
    }

    /// In Prometheus' text format.
    pub fn render(&self) -> String {
        self.0.render()
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

/// Sets up logs, metrics and traces. A second call in one process keeps the first one's subscriber.
pub fn init(config: &TelemetryConfig) -> Result<Telemetry, StartError> {
    let wanted = EnvFilter::builder().parse(&config.log).map_err(|error| {
        StartError::new(format!("--log is not a filter such as `info` or `info,sqlx=debug`: {error}"))
    })?;
    let traces = config.otlp_endpoint.as_ref().map(trace_exporter).transpose()?;
    let spans = traces.as_ref().map(|provider| {
        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("consentd"))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(
                filter_fn(|meta| meta.is_span() && is_our_own(meta)).with_max_level_hint(LevelFilter::INFO),
            )
    });
    let log_lines = log_layer(config.log_format)
        .with_filter(wanted.and(filter_fn(may_be_logged).with_max_level_hint(LevelFilter::TRACE)));
    TRACED.store(spans.is_some(), Ordering::Relaxed);
    // Fails only where a subscriber is set already, and then that one stays.
    let _ = tracing_subscriber::registry().with(log_lines).with(spans).try_init();
    Ok(Telemetry { traces, metrics: Metrics::install() })
}

/// Whether traces are sent anywhere: if not, a span would be made for nobody.
pub(crate) fn traced() -> bool {
    TRACED.load(Ordering::Relaxed)
}

fn log_layer(format: LogFormat) -> Box<dyn Layer<Registry> + Send + Sync> {
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Json => {
            layer.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
        LogFormat::Pretty if std::io::stderr().is_terminal() => layer.compact().boxed(),
        LogFormat::Pretty => layer.compact().with_ansi(false).boxed(),
    }
}

/// Whatever the operator asks for: statements may hold what customers told us, and what the wire says below a
/// warning holds keys and addresses. Spans are for traces; the log has one line for each request.
fn may_be_logged(meta: &Metadata<'_>) -> bool {
    let within = |room: &str| {
        meta.target().strip_prefix(room).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    let statements = ["sqlx::query", "sqlx::postgres::notice"].into_iter().any(within);
    // sqlx repeats a line of a password file that it does not understand; that a file cannot be used is worth knowing.
    let passwords = within("sqlx_postgres::options") && meta.fields().field("path").is_none();
    let wire = ["h2", "hyper", "hyper_util", "reqwest", "rustls"].into_iter().any(within)
        || meta.target().starts_with("opentelemetry");
    meta.is_event() && !statements && !passwords && (!wire || *meta.level() <= Level::WARN)
}

fn is_our_own(meta: &Metadata<'_>) -> bool {
    meta.target().starts_with("consentd") && *meta.level() <= Level::INFO
}

/// Sends traces without the address in its errors, which the exporter would log.
#[derive(Debug)]
struct Collector(reqwest::blocking::Client);

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.0.send_bytes(request).await;
        answer.map_err(|error| match error.downcast::<reqwest::Error>() {
            Ok(error) => outbound::cause(*error).into(),
            Err(error) => error,
        })
    }
}

fn trace_exporter(endpoint: &Url) -> Result<SdkTracerProvider, StartError> {
    let unusable =
        |error: String| StartError::new(format!("traces cannot be sent to --otlp-endpoint: {error}"));
    // A blocking client must not be made on a thread of the runtime.
    let made = std::thread::spawn(|| outbound::blocking_client(EXPORT_TIMEOUT)).join();
    let client = made.map_err(|_| unusable("no HTTP client can be made".to_owned()))?;
    let client = client.map_err(|error| unusable(outbound::cause(error)))?;
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_http_client(Collector(client))
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(endpoint.as_str())
        .build()
        // Its own error may repeat the address.
        .map_err(|_| unusable("it must be an address such as http://localhost:4318/v1/traces".to_owned()))?;
    let service = Resource::builder().with_service_name("consentd").build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(service).build())
}

fn install_recorder() -> PrometheusHandle {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(REQUEST_DURATION.to_owned()), &DURATION_BUCKETS)
        .expect("the list of buckets is not empty")
        .set_buckets_for_metric(Matcher::Full(audit::SEALING_LAG.to_owned()), &audit::LAG_BUCKETS)
        .expect("the list of buckets is not empty")
        .set_buckets_for_metric(Matcher::Full(cache::LAG.to_owned()), &cache::LAG_BUCKETS)
        .expect("the list of buckets is not empty")
        .build_recorder();
    let handle = recorder.handle();
    // Fails only where somebody else's recorder is set, which nothing in this crate does.
    let _ = metrics::set_global_recorder(recorder);
    describe();
    let upkeep = handle.clone();
    // Samples pile up until they are sorted into buckets: nobody may ever come to scrape them.
    let _ = std::thread::Builder::new().name("metrics".to_owned()).spawn(move || {
        loop {
            std::thread::sleep(Duration::from_secs(5));
            // A panic is in the log; the next round tries again.
            let _ = std::panic::catch_unwind(AssertUnwindSafe(|| upkeep.run_upkeep()));
        }
    });
    handle
}

fn describe() {
    use metrics::{counter, describe_counter, describe_gauge, describe_histogram};
    describe_histogram!(REQUEST_DURATION, Unit::Seconds, "Time from a request's head to its answer's");
    describe_gauge!(ACTIVE_REQUESTS, Unit::Count, "Requests that are being worked on");
    describe_counter!(
        OVERLOAD_REFUSALS,
        Unit::Count,
        "Requests refused because too many were being worked on"
    );
    describe_counter!(
        DOWNLOADS_CUT,
        Unit::Count,
        "Downloads that were ended because their clients took them too slowly"
    );
    describe_gauge!(POOL_CONNECTIONS, Unit::Count, "Database connections by pool and state");
    describe_gauge!(DATABASE_UP, "1 while the database answers, else 0");
    describe_counter!(COMPONENT_FAULTS, Unit::Count, "Faults of each component that /readyz names");
    describe_gauge!(
        CLOCK_DIFFERENCE,
        Unit::Seconds,
        "The database's clock minus this replica's: beyond 60 it allows nothing more and records no expiry"
    );
    describe_counter!(TASK_PANICS, Unit::Count, "Panics of background tasks, each of which was restarted");
    describe_counter!(
        UNREADABLE_VALUES,
        Unit::Count,
        "Values read from the database that another program stored and this one cannot read"
    );
    describe_gauge!(
        SWEEP_LAST_RUN,
        Unit::Seconds,
        "When the last expiry sweep of this replica ended well (Unix time)"
    );
    describe_counter!(
        SWEEP_ENTRIES,
        Unit::Count,
        "Audit entries written by this replica for consents that expired"
    );
    describe_counter!(SWEEP_FAILURES, Unit::Count, "Expiry sweeps of this replica that failed");
    // A counter that appears only with its first event hides that event from `increase()`.
    for kind in ["read", "write", "console", "public", "export", "body"] {
        counter!(OVERLOAD_REFUSALS, "kind" => kind).absolute(0);
    }
    counter!(DOWNLOADS_CUT).absolute(0);
    audit::describe();
    cache::describe();
    counter!(UNREADABLE_VALUES).absolute(0);
    counter!(SWEEP_ENTRIES).absolute(0);
    counter!(SWEEP_FAILURES).absolute(0);
}

/// The faults of a component since the start.
pub fn component_faults(component: &'static str, faults: u64) {
    metrics::counter!(COMPONENT_FAULTS, "component" => component).absolute(faults);
}

/// The database's clock minus this replica's.
pub fn clock_difference(difference: TimeDelta) {
    metrics::gauge!(CLOCK_DIFFERENCE).set(difference.as_seconds_f64());
}

/// The panics of a background task since the start.
pub fn task_panics(task: &'static str, panics: u64) {
    metrics::counter!(TASK_PANICS, "task" => task).absolute(panics);
}

/// The unreadable values since the start.
pub fn unreadable_values(values: u64) {
    metrics::counter!(UNREADABLE_VALUES).absolute(values);
}

/// Whether the database answered when it was last asked.
pub fn database_up(up: bool) {
    metrics::gauge!(DATABASE_UP).set(if up { 1.0 } else { 0.0 });
}

/// How many connections of a pool (`read`, `write`) lie idle and how many are in use.
pub fn pool_connections(pool: &'static str, idle: u32, used: u32) {
    for (state, count) in [("idle", idle), ("used", used)] {
        metrics::gauge!(
            POOL_CONNECTIONS,
            "db_client_connection_pool_name" => pool,
            "db_client_connection_state" => state
        )
        .set(count);
    }
}

/// A sweep that ended well.
pub fn swept(at: DateTime<Utc>) {
    metrics::gauge!(SWEEP_LAST_RUN).set(unix_seconds(at));
}

/// How many `expired` entries a sweep wrote, however it ended.
pub fn expiries_recorded(entries: u64) {
    metrics::counter!(SWEEP_ENTRIES).increment(entries);
}

#[expect(clippy::cast_precision_loss, reason = "microseconds since 1970 are exact up to the year 2255")]
fn unix_seconds(at: DateTime<Utc>) -> f64 {
    at.timestamp_micros() as f64 / 1e6
}

pub fn sweep_failed() {
    metrics::counter!(SWEEP_FAILURES).increment(1);
}

pub(crate) fn refused_for_overload(kind: &'static str) {
    metrics::counter!(OVERLOAD_REFUSALS, "kind" => kind).increment(1);
}

pub(crate) fn download_cut() {
    metrics::counter!(DOWNLOADS_CUT).increment(1);
}

/// A request that is being worked on: counted until it is dropped.
#[derive(Debug)]
pub(crate) struct ActiveRequest(Option<Gauge>);

impl ActiveRequest {
    pub(crate) fn new(method: &Method) -> Self {
        let gauge = with_series(|series| {
            let method = known_method(method);
            let gauge = series
                .active
                .entry(method)
                .or_insert_with(|| metrics::gauge!(ACTIVE_REQUESTS, "http_request_method" => method));
            gauge.increment(1);
            gauge.clone()
        });
        Self(gauge)
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        if let Some(gauge) = &self.0 {
            gauge.decrement(1);
        }
    }
}

pub(crate) fn request_answered(method: &Method, route: &str, status: StatusCode, took: Duration) {
    with_series(|series| {
        let outcome = (known_method(method), status.as_u16());
        if let Some(histogram) = series.durations.get(route).and_then(|of_route| of_route.get(&outcome)) {
            return histogram.record(took);
        }
        let histogram = metrics::histogram!(
            REQUEST_DURATION,
            "http_request_method" => outcome.0,
            "http_route" => route.to_owned(),
            "http_response_status_code" => status.as_str().to_owned()
        );
        histogram.record(took);
        series.durations.entry(route.to_owned()).or_default().insert(outcome, histogram);
    });
}

/// What the recorder knows by these labels, found without building and hashing a key for each request.
#[derive(Default)]
struct Series {
    active: HashMap<&'static str, Gauge>,
    durations: HashMap<String, HashMap<(&'static str, u16), Histogram>>,
}

thread_local! {
    static SERIES: RefCell<Series> = RefCell::default();
}

/// `None` before the recorder is installed: what is kept then would be a series that goes nowhere for ever.
fn with_series<T>(use_series: impl FnOnce(&mut Series) -> T) -> Option<T> {
    RECORDER.get()?;
    SERIES.with_borrow_mut(|series| Some(use_series(series)))
}

/// OpenTelemetry's name for a method; clients can invent methods, and must not invent series with them.
fn known_method(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        "CONNECT" => "CONNECT",
        "TRACE" => "TRACE",
        "QUERY" => "QUERY",
        _ => "_OTHER",
    }
}
