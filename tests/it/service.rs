//! The whole service, called by its router, on a database of its own and with a clock that a test sets.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use axum::response::Response;
use chrono::{DateTime, TimeDelta, Utc};
use consentd::app::tasks::heartbeat;
use consentd::cache::follow::Follower;
use consentd::cache::freshness::Moment;
use consentd::cache::{Bounds, Cache};
use consentd::domain::WriterKey;
use consentd::health::Health;
use consentd::http;
use consentd::http::client_address::{AddressHeader, ClientAddresses};
use consentd::http::downloads::{Downloads, MinimumRate};
use consentd::http::limits::ConcurrencyLimits;
use consentd::http::server::Peer;
use consentd::http::shares::Shares;
use consentd::http::{AppState, Cursors, Parts, RateLimiter};
use consentd::ops;
use consentd::ops::consents::{Lanes, Writer};
use consentd::ops::log::memory::Memory;
use consentd::ops::log::sealer::Sealer;
use consentd::ops::log::verifying::Verifications;
use consentd::ops::log::{LogKeys, LogView, RetiredKeys, opening};
use consentd::store::Store;
use consentd::tlog::SigningKey;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use uuid::Uuid;

use crate::cluster::{self, TestDatabase};

pub struct Service {
    pub router: http::Service,
    pub store: Store,
    pub writer: Writer,
    pub cache: Arc<Cache>,
    pub keys: Arc<LogKeys>,
    pub view: Arc<LogView>,
    pub verifications: Arc<Verifications>,
    /// How the service logs in.
    pub login: PgConnectOptions,
    /// What a replica remembers, its keys in files: all that lies outside the database.
    pub outside: tempfile::TempDir,
    pub owner: PgConnectOptions,
    _lanes: Lanes,
    /// Finds out whether the database is there.
    _heartbeat: Heartbeat,
    /// Dropped with the service.
    _database: Option<TestDatabase>,
    pub operator: String,
    clock: Arc<Mutex<DateTime<Utc>>>,
    /// What follows the changes of others, and tells them of its own.
    following: Option<Following>,
}

struct Following {
    sessions_ended: Arc<AtomicU32>,
    tasks: [JoinHandle<()>; 2],
}

struct Heartbeat(JoinHandle<()>);

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("headers are text"))
    }

    /// The answer must have this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        self
    }

    #[track_caller]
    pub fn expect_one_of(self, statuses: &[u16]) -> Self {
        assert!(statuses.contains(&self.status.as_u16()), "{}: {}", self.status, self.text());
        self
    }

    /// The answer must be this kind of problem; gives the codes of its faults, each with its place.
    #[track_caller]
    pub fn problem(&self, slug: &str) -> Vec<String> {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{}", self.text());
        let problem = self.json();
        assert_eq!(problem["type"], format!("/problems/{slug}"), "{problem}");
        assert_eq!(problem["status"], self.status.as_u16());
        assert_eq!(problem["instance"].as_str(), self.header("x-request-id"));
        let errors = problem["errors"].as_array().cloned().unwrap_or_default();
        errors
            .iter()
            .map(|fault| {
                let place =
                    fault["pointer"].as_str().or(fault["parameter"].as_str()).expect("a fault has a place");
                format!("{place} {}", fault["code"].as_str().expect("a fault has a code"))
            })
            .collect()
    }
}

/// A request that is being put together.
pub struct Call<'a> {
    router: http::Service,
    key: Option<&'a str>,
    request: axum::http::request::Builder,
    body: Body,
}

impl<'a> Call<'a> {
    pub fn key(mut self, key: &'a str) -> Self {
        self.key = Some(key);
        self
    }

    pub fn no_key(mut self) -> Self {
        self.key = None;
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    /// Who is at the other end of the connection.
    pub fn peer(mut self, address: &str) -> Self {
        let peer = Peer((address.parse::<IpAddr>().expect("an address"), 4711).into());
        self.request = self.request.extension(peer);
        self
    }

    pub fn json(self, body: &Value) -> Self {
        self.raw(body.to_string())
    }

    pub fn raw(mut self, body: impl Into<Body>) -> Self {
        self.request = self.request.header("content-type", "application/json");
        self.body = body.into();
        self
    }

    pub fn body(mut self, body: impl Into<Body>) -> Self {
        self.body = body.into();
        self
    }

    /// The answer as far as its head, with the body to come.
    pub async fn begin(self) -> Response {
        self.answered().await
    }

    /// The same for a task of its own.
    pub fn answered(self) -> impl Future<Output = Response> + Send + use<> {
        let mut request = self.request;
        if let Some(key) = self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let request = request.body(self.body).expect("the request is well-formed");
        let router = self.router;
        async move { router.oneshot(request).await.expect("the router answers") }
    }

    pub async fn send(self) -> Answer {
        let (parts, body) = self.begin().await.into_parts();
        let bytes = body.collect().await.expect("the body arrives").to_bytes().to_vec();
        Answer { status: parts.status, headers: parts.headers, bytes }
    }
}

impl Service {
    pub async fn start() -> Self {
        let database = cluster::database().await;
        let (owner, login) = (database.owner.clone(), database.service.clone());
        Self { _database: Some(database), ..Self::on(owner, &login).await }
    }

    /// On a database which somebody else looks after. Memory is never trusted: what a test changes past the service is
    /// seen at once.
    pub async fn on(owner: PgConnectOptions, login: &PgConnectOptions) -> Self {
        Self::build(owner, login, Duration::ZERO, MinimumRate::default()).await
    }

    /// With another rate at which downloads must be taken.
    pub async fn start_with_rate(rate: MinimumRate) -> Self {
        let database = cluster::database().await;
        let service = Self::build(database.owner.clone(), &database.service, Duration::ZERO, rate).await;
        Self { _database: Some(database), ..service }
    }

    /// Permits for reads and for writes each.
    pub const CONCURRENCY: usize = 64;

    /// How long a replica that follows grants permissions without its database.
    pub const MAX_STALE: Duration = Duration::from_secs(3);

    /// A replica that answers from memory.
    pub async fn start_following() -> Self {
        let database = cluster::database().await;
        let (owner, login) = (database.owner.clone(), database.service.clone());
        Self { _database: Some(database), ..Self::following(owner, &login).await }
    }

    pub async fn following(owner: PgConnectOptions, login: &PgConnectOptions) -> Self {
        let mut service = Self::build(owner, login, Self::MAX_STALE, MinimumRate::default()).await;
        let sessions_ended = Arc::new(AtomicU32::new(0));
        let follower = Follower::new(service.store.clone(), Arc::clone(&service.cache));
        let (ended, store, cache) =
            (Arc::clone(&sessions_ended), service.store.clone(), Arc::clone(&service.cache));
        let tasks = [
            tokio::spawn(async move {
                loop {
                    let Err(_) = follower.follow(|_| {}).await;
                    ended.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }),
            tokio::spawn(async move { cache.hints.run(&store).await }),
        ];
        service.following = Some(Following { sessions_ended, tasks });
        let since = Instant::now();
        while !service.cache.freshness.is_fresh(Moment::now()) {
            assert!(since.elapsed() < Duration::from_secs(5), "changes are not followed");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        service
    }

    /// How often following broke off.
    pub fn sessions_ended(&self) -> u32 {
        self.following.as_ref().map_or(0, |following| following.sessions_ended.load(Ordering::Relaxed))
    }

    async fn build(
        owner: PgConnectOptions,
        login: &PgConnectOptions,
        max_stale: Duration,
        download_rate: MinimumRate,
    ) -> Self {
        let start: DateTime<Utc> = "2026-03-01T12:00:00Z".parse().expect("a time");
        let clock = Arc::new(Mutex::new(start));
        let store = Store::new(login, 4, 4);
        let mut operator = None;
        ops::keys::create_operator_key(&store, true, start, |key| {
            operator = Some(key.reveal().to_owned());
            Ok(())
        })
        .await
        .expect("the operator's key is made");
        let secret = store.service_secret("cursor").await.expect("there is a secret");
        let now = Arc::clone(&clock);
        let keys = Arc::new(LogKeys {
            writers: vec![WriterKey::new([7; 32])],
            signers: vec![SigningKey::from_seed([9; 32])],
            retired: RetiredKeys::default(),
        });
        let view = Arc::new(LogView::default());
        let verifications = Arc::new(Verifications::default());
        let health = Arc::new(Health::default());
        health.set_serving(true);
        let cache = Arc::new(Cache::new(&store, Bounds { customers: 1000, max_stale }, &health));
        let beats = heartbeat::watch(store.clone(), Arc::clone(&health), CancellationToken::new());
        let heartbeat = Heartbeat(tokio::spawn(beats));
        let (writer, lanes) =
            Writer::start(&store, &cache, keys.writers.first(), NonZeroU16::new(2).expect("two lanes"));
        let state = AppState::from(Parts {
            log_keys: Arc::clone(&keys),
            log: Arc::clone(&view),
            verifications: Arc::clone(&verifications),
            cache: Arc::clone(&cache),
            store: store.clone(),
            writer: writer.clone(),
            clock: Arc::new(move || *now.lock().expect("the clock")),
            cursors: Cursors::new(secret),
            client_addresses: ClientAddresses {
                trusted: ["10.0.0.0/8".parse().expect("a network")].into(),
                header: AddressHeader::XForwardedFor,
            },
            health,
            metrics: None,
            concurrency: ConcurrencyLimits::new(Self::CONCURRENCY),
            bodies: Shares::new(http::BODIES),
            downloads: Downloads::new(4, download_rate),
            rates: RateLimiter::default(),
            public_url: Some("https://consent.example.com".into()),
        });
        let router = consentd::http::router(state);
        Self {
            router,
            store,
            writer,
            cache,
            keys,
            view,
            verifications,
            login: login.clone(),
            outside: tempfile::tempdir().expect("a directory can be made"),
            owner,
            _lanes: lanes,
            _heartbeat: heartbeat,
            _database: None,
            operator: operator.expect("a key is made"),
            clock,
            following: None,
        }
    }

    /// The database, past the service, as its owner.
    pub async fn sql(&self) -> PgPool {
        PgPool::connect_with(self.owner.clone()).await.expect("the database is there")
    }

    /// A replica's sealer, on a database whose first log it opens.
    pub async fn sealer(&self) -> Sealer {
        let now = self.now();
        let log =
            opening::open_first(&self.store, &self.keys, "log.example", now).await.expect("a log opens");
        let memory = Memory::at(self.outside.path().join("audit-checkpoint"));
        let mut sealer =
            Sealer::new(self.store.clone(), Arc::clone(&self.keys), Arc::clone(&self.view), memory, &log);
        sealer.recall(now).await.expect("what was remembered is read");
        sealer
    }

    /// A sweep, which must not fail, and how many expiries it recorded; `None` when another one is at it.
    pub async fn sweep(&self) -> Option<u64> {
        let swept = ops::expiry::sweep(&self.store, &self.writer, self.now()).await.expect("a sweep")?;
        assert!(swept.failure.is_none(), "{:?}", swept.failure);
        Some(swept.recorded)
    }

    pub fn now(&self) -> DateTime<Utc> {
        *self.clock.lock().expect("the clock")
    }

    pub fn advance(&self, time: TimeDelta) {
        *self.clock.lock().expect("the clock") += time;
    }

    pub fn call(&self, method: &str, path: &str) -> Call<'_> {
        let method: Method = method.parse().expect("a method");
        let request = Request::builder().method(method).uri(path);
        Call { router: self.router.clone(), key: Some(&self.operator), request, body: Body::empty() }
    }

    pub fn get(&self, path: &str) -> Call<'_> {
        self.call("GET", path)
    }

    /// A new customer.
    pub async fn customer(&self) -> Uuid {
        let customer_id = Uuid::new_v4();
        let body =
            json!({"customer_id": customer_id, "email": format!("{customer_id}@example.com"), "tier": "pro"});
        self.call("POST", "/v1/customers").json(&body).send().await.expect(201);
        customer_id
    }

    /// An API key with these scopes.
    pub async fn key(&self, customer_id: Option<Uuid>, scopes: &[&str]) -> String {
        let body = json!({"customer_id": customer_id, "scopes": scopes});
        let answer = self.call("POST", "/v1/api-keys").json(&body).send().await.expect(201);
        answer.json()["api_key"].as_str().expect("the key").to_owned()
    }

    pub fn put(&self, customer_id: Uuid, body: &Value) -> Call<'_> {
        self.call("PUT", &consent(customer_id)).json(body)
    }

    pub async fn consent(&self, customer_id: Uuid) -> Value {
        self.get(&consent(customer_id)).send().await.expect(200).json()
    }

    /// The customer's whole trail, newest first.
    pub async fn trail(&self, customer_id: Uuid) -> Vec<Value> {
        let answer = self.get(&format!("{}/audit?limit=1000", consent(customer_id))).send().await.expect(200);
        answer.json()["items"].as_array().expect("items").clone()
    }
}

pub fn consent(customer_id: Uuid) -> String {
    format!("/v1/customers/{customer_id}/consent")
}
