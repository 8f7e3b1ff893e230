//! Limits: whatever one party does, the others are answered, and a withdrawal is always possible.

use std::convert::Infallible;
use std::io::BufRead as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Response;
use chrono::TimeDelta;
use consentd::http::downloads::MinimumRate;
use consentd::http::spec;
use futures_util::stream::{self, StreamExt as _};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::service::{Answer, Service, consent};
use crate::visit::{Visit, form, sign_in};

/// A link to a customer's page, opened.
struct Link {
    link_id: String,
    cookie: String,
}

impl Link {
    async fn open(service: &Service, customer: Uuid) -> Self {
        let path = format!("/v1/customers/{customer}/consent-links");
        let link = service.call("POST", &path).json(&json!({})).send().await.expect(201).json();
        let token = link["path"].as_str().and_then(|path| path.split_once("link=")).expect("a token").1;
        let link_id = link["link_id"].as_str().expect("an id").to_owned();
        Self { link_id, cookie: format!("__Host-consentd-link={token}") }
    }

    async fn withdraw(&self, service: &Service) -> Answer {
        let call = service.call("POST", "/my/consent/withdraw").no_key().header("cookie", &self.cookie);
        form(call, &[("link", &self.link_id)]).await
    }

    async fn csv(&self, service: &Service) -> Response {
        service.get("/my/consent/history.csv").no_key().header("cookie", &self.cookie).begin().await
    }
}

fn basic() -> Value {
    json!({"consent_tier": "basic"})
}

/// A body that begins and never ends.
fn unfinished(first: Bytes) -> Body {
    let first = stream::iter((!first.is_empty()).then_some(Ok::<_, Infallible>(first)));
    Body::from_stream(first.chain(stream::pending()))
}

/// The operations of the API that may have a body, with ids in their paths.
fn writing_operations(customer: Uuid) -> Vec<(String, String)> {
    let document = spec::json();
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for method in item.as_object().expect("an item").keys().filter(|method| *method != "get") {
            let path = path.replace("{customer_id}", &customer.to_string());
            let path = ["{key_id}", "{link_id}"]
                .iter()
                .fold(path, |path, name| path.replace(name, &Uuid::new_v4().to_string()));
            found.push((method.to_uppercase(), path));
        }
    }
    found
}

#[tokio::test]
async fn clients_that_send_a_head_and_no_body_stop_no_write_and_no_withdrawal() {
    let service = Service::start().await;
    let [customer, stalled] = [service.customer().await, service.customer().await];
    let (link, visit) = (Link::open(&service, customer).await, Visit::begin(&service).await);
    let mut waiting = JoinSet::new();
    let stall = |call: crate::service::Call<'_>, kind: &str| {
        let call = call.header("content-type", kind).header("sec-fetch-site", "same-origin");
        call.body(unfinished(Bytes::new())).answered()
    };
    let operations = writing_operations(stalled);
    assert!(operations.len() > 8, "{operations:?}");
    for (method, path) in &operations {
        for _ in 0..Service::CONCURRENCY + Service::CONCURRENCY / 2 {
            waiting.spawn(stall(service.call(method, path), "application/json"));
        }
    }
    let console = [
        format!("/console/customers/{stalled}/withdrawal"),
        "/console/integrity/verify".to_owned(),
        "/console/keys".to_owned(),
        format!("/console/keys/{stalled}/rotate"),
        format!("/console/keys/{stalled}/revoke"),
        "/console/reveal".to_owned(),
    ];
    let public = [
        "/console/sign-in",
        "/console/sign-out",
        "/my/consent/withdraw",
        "/my/consent/undo",
        "/my/consent/choices",
        "/my/consent/leave",
    ];
    for _ in 0..Service::CONCURRENCY {
        for path in &console {
            waiting.spawn(stall(visit.call("POST", path), "application/x-www-form-urlencoded"));
        }
        for path in public {
            let call = service.call("POST", path).no_key();
            waiting.spawn(stall(call, "application/x-www-form-urlencoded"));
        }
        // Sessions are looked up a few at a time.
        sleep(Duration::from_millis(5)).await;
    }
    sleep(Duration::from_millis(300)).await;
    assert!(waiting.len() > 20 * Service::CONCURRENCY);
    let mut ended = 0;
    while let Some(answer) = waiting.try_join_next() {
        // A burst of sessions may have been too much to look up; all others wait for their bodies.
        assert_eq!(answer.expect("no panic").status(), 503);
        ended += 1;
    }
    assert!(ended < waiting.len() / 2, "{ended} do not wait");

    for round in 0..3 {
        service.put(customer, &basic()).send().await.expect_one_of(&[200, 201]);
        service.call("DELETE", &consent(customer)).send().await.expect(200);
        service.put(customer, &basic()).send().await.expect(200);
        link.withdraw(&service).await.expect(303);
        service.put(customer, &basic()).send().await.expect(200);
        let path = format!("/console/customers/{customer}/withdrawal");
        visit.post(&path, &[("reason", &format!("round {round}"))]).await.expect(303);
        assert_eq!(service.consent(customer).await["consent_tier"], "none");
        sign_in(&service, &service.operator, "/console").await.expect(303);
        visit.get("/console/keys").await.expect(200);
    }
}

#[tokio::test]
async fn a_withdrawal_is_accepted_although_every_permit_for_writes_is_taken() {
    let service = Service::start().await;
    let [locked, customer] = [service.customer().await, service.customer().await];
    for customer in [locked, customer] {
        service.put(customer, &basic()).send().await.expect(201);
    }
    // While its row is locked, a PUT keeps its permit for a second.
    let mut holder = service.sql().await.begin().await.expect("a transaction");
    sqlx::query("select from vlaapi.customer_data_consent where customer_id = $1 for update")
        .bind(locked)
        .execute(&mut *holder)
        .await
        .expect("a lock");
    let service = Arc::new(service);
    let mut flood = JoinSet::new();
    for _ in 0..2 * Service::CONCURRENCY {
        let service = Arc::clone(&service);
        flood.spawn(async move {
            loop {
                service.put(locked, &basic()).send().await.expect(503);
            }
        });
    }
    sleep(Duration::from_millis(200)).await;
    let mut refused = 0;
    for _ in 0..10 {
        let put = service.put(customer, &basic()).send().await;
        refused += u32::from(put.status == 503);
        service.call("DELETE", &consent(customer)).send().await.expect(200);
        service.put(customer, &json!({"consent_tier": "none"})).send().await.expect(200);
    }
    assert!(refused > 0, "there were permits left: nothing is shown");
    flood.shutdown().await;
}

#[tokio::test]
async fn large_bodies_of_one_customer_leave_memory_for_all_others() {
    let service = Service::start().await;
    let [greedy, other] = [service.customer().await, service.customer().await];
    let limits = json!({"rate_limit_rpm": 10_000, "rate_limit_rpd": 10_000});
    service.call("PATCH", &format!("/v1/customers/{greedy}")).json(&limits).send().await.expect(200);
    let [greedy_key, other_key] = [
        service.key(Some(greedy), &["permissions:check"]).await,
        service.key(Some(other), &["permissions:check"]).await,
    ];
    let check = || service.call("POST", "/v1/permissions/check");
    let mut waiting = JoinSet::new();
    for _ in 0..50 {
        let part = Bytes::from(vec![b' '; 255 * 1024]);
        let call = check().key(&greedy_key).header("content-type", "application/json");
        waiting.spawn(call.body(unfinished(part)).answered());
    }
    // A share of the memory is 8 MiB.
    for _ in 0..17 {
        let refused = waiting.join_next().await.expect("some are refused");
        assert_eq!(refused.expect("no panic").status(), 503);
    }
    let large = |customer: Uuid| {
        let body = json!({"checks": [{"customer_id": customer, "permission": "images"}]});
        format!("{body}{}", " ".repeat(200 * 1024))
    };
    let refused = check().key(&greedy_key).raw(large(greedy)).send().await.expect(503);
    refused.problem("overloaded");
    check().key(&other_key).raw(large(other)).send().await.expect(200);
    check().raw(large(greedy)).send().await.expect(200);
    // A body as those of consents are is not counted.
    let small = json!({"checks": [{"customer_id": greedy, "permission": "images"}]});
    check().key(&greedy_key).json(&small).send().await.expect(200);
    // What was held is given back.
    waiting.shutdown().await;
    check().key(&greedy_key).raw(large(greedy)).send().await.expect(200);
}

#[tokio::test]
async fn a_body_that_is_larger_than_any_is_refused_before_it_is_sent() {
    let service = Service::start().await;
    let body = Body::from(vec![b' '; 256 * 1024 + 1]);
    let call = service.call("POST", "/v1/permissions/check").raw(body);
    call.send().await.expect(413).problem("body-too-large");
    let parts = stream::iter((0..300).map(|_| Ok::<_, Infallible>(Bytes::from(vec![b' '; 1024]))));
    let call = service.call("POST", "/v1/permissions/check").raw(Body::from_stream(parts));
    call.send().await.expect(413).problem("body-too-large");
}

/// A customer whose trail is large.
async fn with_trail(service: &Service, count: i64) -> Uuid {
    let customer = service.customer().await;
    sqlx::query(
        "insert into vlaapi.customer_consent_audit (customer_id, action, version, new_tier, changed_by)
         select $1, 'updated', version, 'basic', 'test' from generate_series(1, $2) version",
    )
    .bind(customer)
    .bind(count)
    .execute(&service.sql().await)
    .await
    .expect("many entries");
    customer
}

async fn export(service: &Service, key: &str) -> Response {
    service.get("/v1/audit").key(key).header("accept", "application/x-ndjson").begin().await
}

#[tokio::test]
async fn a_customer_has_one_download_and_the_operator_always_keeps_some() {
    let service = Service::start().await;
    let customer = with_trail(&service, 9000).await;
    let keys = [
        service.key(Some(customer), &["audit:read"]).await,
        service.key(Some(customer), &["audit:read"]).await,
    ];
    let link = Link::open(&service, customer).await;
    let unread = export(&service, &keys[0]).await;
    assert_eq!(unread.status(), 200);
    for key in &keys {
        assert_eq!(export(&service, key).await.status(), 503);
    }
    assert_eq!(link.csv(&service).await.status(), 503);
    let whole = async |download: Response| {
        assert_eq!(download.status(), 200);
        download.into_body().collect().await.expect("it is complete");
    };
    whole(export(&service, &service.operator).await).await;
    whole(unread).await;
    // The slot of a download that is done is free for the next one at once.
    for key in &keys {
        whole(export(&service, key).await).await;
        whole(link.csv(&service).await).await;
    }
}

#[tokio::test]
async fn a_reader_that_is_too_slow_loses_its_slot_and_never_takes_a_part_for_the_whole() {
    let rate = MinimumRate { bytes_per_second: 64 * 1024 * 1024, window: Duration::from_millis(300) };
    let service = Service::start_with_rate(rate).await;
    let customer = with_trail(&service, 9000).await;
    let key = service.key(Some(customer), &["audit:read"]).await;
    let mut slow = export(&service, &key).await.into_body();
    slow.frame().await.expect("something").expect("it arrives");
    // The slot is free although nobody reads on, and nobody closes the connection.
    let next = timeout(Duration::from_secs(5), async {
        loop {
            let next = export(&service, &key).await;
            if next.status() == 200 {
                break next;
            }
        }
    });
    next.await.expect("the slot comes free").into_body().collect().await.expect("a quick reader gets all");
    assert!(slow.collect().await.is_err(), "it is broken off");
}

#[tokio::test]
async fn a_reader_that_keeps_the_minimum_rate_is_never_cut() {
    let rate = MinimumRate { bytes_per_second: 1024 * 1024, window: Duration::from_secs(1) };
    let service = Service::start_with_rate(rate).await;
    let customer = with_trail(&service, 9000).await;
    let key = service.key(Some(customer), &["audit:read"]).await;
    let mut body = export(&service, &key).await.into_body();
    let mut lines = 0;
    while let Some(frame) = body.frame().await {
        let part = frame.expect("it is not cut").into_data().expect("lines");
        lines += part.lines().count();
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(lines, 9000);
}

async fn limited(service: &Service, rpm: i32, rpd: i32) -> Uuid {
    let customer = service.customer().await;
    let limits = json!({"rate_limit_rpm": rpm, "rate_limit_rpd": rpd});
    service.call("PATCH", &format!("/v1/customers/{customer}")).json(&limits).send().await.expect(200);
    customer
}

async fn key_with_override(service: &Service, customer: Option<Uuid>, rpm: i32, scope: &str) -> String {
    let body = json!({"customer_id": customer, "scopes": [scope], "rate_limit_override_rpm": rpm});
    let answer = service.call("POST", "/v1/api-keys").json(&body).send().await.expect(201);
    answer.json()["api_key"].as_str().expect("the key").to_owned()
}

#[tokio::test]
async fn more_keys_do_not_multiply_a_customers_limit() {
    let service = Service::start().await;
    let customer = limited(&service, 6, 8).await;
    let admin = service.key(Some(customer), &["admin"]).await;
    let body = json!({"customer_id": customer, "scopes": ["consent:read"]});
    let mut keys = vec![admin.clone()];
    for _ in 0..3 {
        let answer = service.call("POST", "/v1/api-keys").key(&admin).json(&body).send().await.expect(201);
        keys.push(answer.json()["api_key"].as_str().expect("the key").to_owned());
    }
    let get = async |key: &str| service.get("/v1/consents").key(key).send().await;
    for key in &keys[1..] {
        get(key).await.expect(200);
    }
    for key in &keys {
        let refused = get(key).await.expect(429);
        refused.problem("rate-limited");
        assert!(refused.header("ratelimit").expect("the rest").starts_with("\"minute\";r=0;t="));
    }
    // And the day's, of which two are left.
    service.advance(TimeDelta::minutes(1));
    get(&keys[1]).await.expect(200);
    get(&keys[2]).await.expect(200);
    let refused = get(&keys[3]).await.expect(429);
    let wait: i64 = refused.header("retry-after").expect("a wait").parse().expect("seconds");
    assert!(wait > 3600, "{wait}");
    // Another customer has limits of its own.
    let other = limited(&service, 1, 1).await;
    get(&service.key(Some(other), &["consent:read"]).await).await.expect(200);
}

#[tokio::test]
async fn a_keys_own_limit_lowers_it_or_raises_what_its_customer_may_do_with_it() {
    let service = Service::start().await;
    let customer = limited(&service, 4, 1000).await;
    let low = key_with_override(&service, Some(customer), 2, "consent:read").await;
    let high = key_with_override(&service, Some(customer), 7, "consent:read").await;
    let plain = service.key(Some(customer), &["consent:read"]).await;
    let get = async |key: &str| service.get("/v1/consents").key(key).send().await;
    let first = get(&low).await.expect(200);
    assert_eq!(
        first.header("ratelimit-policy"),
        Some("\"minute\";q=4;w=60, \"day\";q=1000;w=86400, \"key-minute\";q=2;w=60")
    );
    get(&low).await.expect(200);
    get(&low).await.expect(429);
    get(&plain).await.expect(200);
    get(&plain).await.expect(200);
    get(&plain).await.expect(429);
    // Four are used: the key with the higher limit may have three more, and not seven.
    for _ in 0..3 {
        let answer = get(&high).await.expect(200);
        assert!(answer.header("ratelimit-policy").expect("a policy").starts_with("\"minute\";q=7;w=60"));
    }
    get(&high).await.expect(429);
}

#[tokio::test]
async fn a_window_that_has_one_request_left_is_not_the_one_to_wait_for() {
    let service = Service::start().await;
    let customer = limited(&service, 2, 3).await;
    let key = service.key(Some(customer), &["consent:read"]).await;
    let get = async || service.get("/v1/consents").key(&key).send().await;
    get().await.expect(200);
    get().await.expect(200);
    let refused = get().await.expect(429);
    let wait: i64 = refused.header("retry-after").expect("a wait").parse().expect("seconds");
    assert!((1..=60).contains(&wait), "{wait}");
    assert!(refused.header("ratelimit").expect("the rest").contains("\"day\";r=1;"));
}

#[tokio::test]
async fn a_console_session_is_no_way_around_the_limit_of_its_key() {
    let service = Service::start().await;
    let key = key_with_override(&service, None, 3, "audit:read").await;
    let first = Visit::with_key(&service, &key).await;
    let second = Visit::with_key(&service, &key).await;
    first.get("/console/audit").await.expect(200);
    second.get("/console/audit").await.expect(200);
    service.get("/v1/audit").key(&key).send().await.expect(200);
    assert!(first.get("/console/audit").await.expect(429).header("retry-after").is_some());
    second.get("/console/audit").await.expect(429);
    service.advance(TimeDelta::minutes(1));
    second.get("/console/audit").await.expect(200);
}

#[tokio::test]
async fn more_links_make_no_more_changes() {
    let service = Service::start().await;
    let customer = service.customer().await;
    service.put(customer, &basic()).send().await.expect(201);
    let links = [Link::open(&service, customer).await, Link::open(&service, customer).await];
    let choose = async |link: &Link, version: i32| {
        let call = service.call("POST", "/my/consent/choices").no_key().header("cookie", &link.cookie);
        form(call, &[("link", &link.link_id), ("version", &version.to_string()), ("tier", "basic")]).await
    };
    for round in 0..30 {
        let answer = choose(&links[round % 2], 0).await;
        assert_ne!(answer.status, 429, "{round}");
    }
    for link in &links {
        assert!(choose(link, 0).await.expect(429).header("retry-after").is_some());
    }
}

#[tokio::test]
async fn a_withdrawal_is_accepted_although_the_limit_of_requests_is_used_up() {
    let service = Service::start().await;
    let customer = limited(&service, 2, 2).await;
    service.put(customer, &basic()).send().await.expect(201);
    let key = service.key(Some(customer), &["consent:write", "consent:read"]).await;
    let read = async || service.get(&consent(customer)).key(&key).send().await;
    read().await.expect(200);
    read().await.expect(200);
    read().await.expect(429);
    let withdraw = async || service.call("DELETE", &consent(customer)).key(&key).send().await;
    withdraw().await.expect(200);
    assert_eq!(service.consent(customer).await["consent_tier"], "none");
    // This reserve is for withdrawals alone, and is limited too.
    read().await.expect(429);
    service.put(customer, &basic()).key(&key).send().await.expect(429);
    for _ in 0..9 {
        withdraw().await.expect(200);
    }
    withdraw().await.expect(429);
    service.advance(TimeDelta::minutes(1));
    withdraw().await.expect(200);
}
