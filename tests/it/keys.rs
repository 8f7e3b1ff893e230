//! API keys and customers: made, rotated, revoked, limited; retries get the first answer again.

use chrono::TimeDelta;
use serde_json::json;
use uuid::Uuid;

use crate::service::{Service, consent};

#[tokio::test]
async fn a_key_is_shown_once_and_stored_as_a_hash_alone() {
    let service = Service::start().await;
    let body = json!({"scopes": ["consent:read"], "key_name": "dashboard", "kind": "test"});
    let new = service.call("POST", "/v1/api-keys").json(&body).send().await.expect(201).json();
    let key = new["api_key"].as_str().expect("the key");
    assert!(key.starts_with("vla_test_") && key.starts_with(new["key_prefix"].as_str().expect("a prefix")));
    let listed = service.get("/v1/api-keys").send().await.expect(200);
    assert!(!listed.text().contains(&key[13..]));
    let stored: Vec<(String, String)> = sqlx::query_as("select key_prefix, key_hash from vlaapi.api_keys")
        .fetch_all(&service.sql().await)
        .await
        .expect("the keys");
    assert!(stored.iter().any(|(prefix, _)| key.starts_with(prefix.as_str())));
    assert!(stored.iter().all(|(_, hash)| !hash.contains(&key[13..]) && hash.len() == 64));
}

#[tokio::test]
async fn a_revoked_key_is_refused_at_once() {
    let service = Service::start().await;
    let new = service
        .call("POST", "/v1/api-keys")
        .json(&json!({"scopes": ["admin"]}))
        .send()
        .await
        .expect(201)
        .json();
    let key = new["api_key"].as_str().expect("the key");
    service.get("/v1/consents").key(key).send().await.expect(200);
    let path = format!("/v1/api-keys/{}", new["key_id"].as_str().expect("an id"));
    service.call("DELETE", &path).send().await.expect(204);
    service.get("/v1/consents").key(key).send().await.expect(401);
    service.call("DELETE", &path).send().await.expect(204);
    service
        .call("DELETE", &format!("/v1/api-keys/{}", Uuid::new_v4()))
        .send()
        .await
        .expect(404)
        .problem("unknown-api-key");
    let revoked = service.get("/v1/api-keys?is_active=false").send().await.expect(200).json();
    assert_eq!(revoked["items"][0]["key_id"], new["key_id"]);
}

#[tokio::test]
async fn a_rotated_key_overlaps_with_its_successor() {
    let service = Service::start().await;
    let body = json!({"scopes": ["consent:read"]});
    let old = service.call("POST", "/v1/api-keys").json(&body).send().await.expect(201).json();
    let path = format!("/v1/api-keys/{}/rotate", old["key_id"].as_str().expect("an id"));
    let new =
        service.call("POST", &path).json(&json!({"overlap_seconds": 60})).send().await.expect(201).json();
    assert_eq!(new["scopes"], old["scopes"]);
    let (old, new) = (old["api_key"].as_str().expect("a key"), new["api_key"].as_str().expect("a key"));
    service.get("/v1/consents").key(old).send().await.expect(200);
    service.get("/v1/consents").key(new).send().await.expect(200);
    service.call("POST", &path).json(&json!({})).send().await.expect(409).problem("conflict");
    service.advance(TimeDelta::seconds(60));
    service.get("/v1/consents").key(old).send().await.expect(401);
    service.get("/v1/consents").key(new).send().await.expect(200);
    service.call("POST", &path).json(&json!({})).send().await.expect(409);
    service.call("POST", &path).json(&json!({"overlap_seconds": -1})).send().await.expect(422);
}

#[tokio::test]
async fn an_inactive_customers_keys_are_refused() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let key = service.key(Some(customer), &["consent:read"]).await;
    let path = format!("/v1/customers/{customer}");
    service.call("PATCH", &path).json(&json!({"is_active": false})).send().await.expect(200);
    service.get(&consent(customer)).key(&key).send().await.expect(401);
    service.call("PATCH", &path).json(&json!({"is_active": true})).send().await.expect(200);
    service.get(&consent(customer)).key(&key).send().await.expect(200);
}

#[tokio::test]
async fn the_keys_that_the_inference_api_issued_keep_working() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let key = "vla_live_a1b2_a-key-which-was-issued-before-0123456789";
    sqlx::query(
        "insert into vlaapi.api_keys (customer_id, key_prefix, key_hash) values ($1, 'vla_live_a1b2', $2)",
    )
    .bind(customer)
    .bind(consentd::domain::KeyHash::of(key).hex())
    .execute(&service.sql().await)
    .await
    .expect("the key is stored");
    let check = format!("{}/permissions?check=images", consent(customer));
    assert_eq!(service.get(&check).key(key).send().await.expect(200).json()["allowed"], false);
    service.get(&consent(customer)).key(key).send().await.expect(403);
}

#[tokio::test]
async fn a_retry_gets_the_first_answer_again() {
    let service = Service::start().await;
    let post = |path: &'static str, key: &str, body: serde_json::Value| {
        service.call("POST", path).header("idempotency-key", key).json(&body).send()
    };
    let body = json!({"email": "retry@example.com", "tier": "free"});
    let first = post("/v1/customers", "one", body.clone()).await.expect(201);
    assert_eq!(first.header("idempotency-replayed"), None);
    let again = post("/v1/customers", "one", body.clone()).await.expect(201);
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(first.bytes, again.bytes);
    let other =
        post("/v1/customers", "one", json!({"email": "other@example.com", "tier": "free"})).await.expect(422);
    other.problem("idempotency-key-reused");
    post("/v1/customers", "two", body.clone()).await.expect(409).problem("conflict");

    // A key is the same key again, though only its hash is stored, and the kept answer cannot be read from the database.
    let body = json!({"scopes": ["consent:read"]});
    let first = post("/v1/api-keys", "three", body.clone()).await.expect(201).json();
    let again = post("/v1/api-keys", "three", body.clone()).await.expect(201).json();
    assert_eq!(first, again);
    let kept: Vec<Vec<u8>> = sqlx::query_scalar("select sealed_answer from vlaapi.idempotent_answers")
        .fetch_all(&service.sql().await)
        .await
        .expect("the answers");
    let secret = first["api_key"].as_str().expect("a key");
    assert!(kept.iter().all(|sealed| !String::from_utf8_lossy(sealed).contains(secret)));

    service.advance(TimeDelta::hours(25));
    let later = post("/v1/api-keys", "three", body).await.expect(201);
    assert_eq!(later.header("idempotency-replayed"), None);
    assert_ne!(later.json()["key_id"], first["key_id"]);
}

#[tokio::test]
async fn the_same_key_at_once_creates_one() {
    let service = Service::start().await;
    let body = json!({"email": "once@example.com", "tier": "free"});
    let post = || service.call("POST", "/v1/customers").header("idempotency-key", "same").json(&body).send();
    let answers = futures_util::future::join_all((0..8).map(|_| post())).await;
    for answer in &answers {
        match answer.status.as_u16() {
            201 => {}
            409 => drop(answer.problem("idempotency-in-progress")),
            other => panic!("{other}: {}", answer.text()),
        }
    }
    let page = service.get("/v1/customers?email=once@example.com").send().await.expect(200).json();
    assert_eq!(page["items"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_customers_key_is_limited_and_told_so() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let limits = json!({"rate_limit_rpm": 3, "rate_limit_rpd": 5});
    service.call("PATCH", &format!("/v1/customers/{customer}")).json(&limits).send().await.expect(200);
    let key = service.key(Some(customer), &["consent:read"]).await;
    let get = || service.get("/v1/consents").key(&key).send();
    let first = get().await.expect(200);
    assert_eq!(first.header("ratelimit-policy"), Some("\"minute\";q=3;w=60, \"day\";q=5;w=86400"));
    assert!(first.header("ratelimit").expect("the rest").starts_with("\"minute\";r=2;t="));
    get().await.expect(200);
    get().await.expect(200);
    let limited = get().await.expect(429);
    limited.problem("rate-limited");
    let wait: i64 = limited.header("retry-after").expect("a wait").parse().expect("seconds");
    assert!((1..=60).contains(&wait));
    service.advance(TimeDelta::minutes(1));
    get().await.expect(200);
    get().await.expect(200);
    service.advance(TimeDelta::minutes(1));
    let wait: i64 = get().await.expect(429).header("retry-after").expect("a wait").parse().expect("seconds");
    assert!(wait > 3600);
    service.advance(TimeDelta::days(1));
    get().await.expect(200);
    // The operator has no limit.
    for _ in 0..20 {
        service.get("/v1/consents").send().await.expect(200);
    }
}

#[tokio::test]
async fn customers_are_created_changed_and_found() {
    let service = Service::start().await;
    let body =
        json!({"email": "robotics@example.com", "company_name": "Example Robotics", "tier": "enterprise"});
    let created = service.call("POST", "/v1/customers").json(&body).send().await.expect(201).json();
    let path = format!("/v1/customers/{}", created["customer_id"].as_str().expect("an id"));
    assert_eq!(service.get(&path).send().await.expect(200).json(), created);
    service.call("POST", "/v1/customers").json(&body).send().await.expect(409).problem("conflict");

    service.advance(TimeDelta::hours(1));
    let wanted = json!({"company_name": null, "tier": "pro"});
    let changed = service.call("PATCH", &path).json(&wanted).send().await.expect(200).json();
    assert_eq!(changed["company_name"], serde_json::Value::Null);
    assert_eq!(changed["tier"], "pro");
    assert_eq!(changed["email"], "robotics@example.com");
    assert_ne!(changed["updated_at"], created["updated_at"]);
    for (body, fault) in [
        (json!({}), " empty"),
        (json!({"email": "no-address"}), "/email not_an_email"),
        (json!({"tier": null}), "/tier not_a_string"),
        (json!({"rate_limit_rpm": 0}), "/rate_limit_rpm out_of_range"),
        (json!({"rate_limit_rpm": 1.5}), "/rate_limit_rpm not_an_integer"),
        (json!({"customer_id": Uuid::new_v4()}), "/customer_id unknown_field"),
    ] {
        assert_eq!(
            service.call("PATCH", &path).json(&body).send().await.expect(422).problem("invalid-body"),
            [fault]
        );
    }
    let found = service
        .get("/v1/customers?email=robotics@example.com&tier=pro&is_active=true")
        .send()
        .await
        .expect(200);
    assert_eq!(found.json()["items"][0]["customer_id"], created["customer_id"]);
}
