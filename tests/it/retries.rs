//! Retries of POSTs: all that an answer promises is settled before it leaves.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::service::{Answer, Service};

async fn post(service: &Service, path: &str, key: &str, body: impl Into<String>) -> Answer {
    service.call("POST", path).header("idempotency-key", key).raw(body.into()).send().await
}

#[tokio::test]
async fn a_retry_of_an_answered_post_is_never_in_progress() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let links = format!("/v1/customers/{customer}/consent-links");
    for round in 0..150 {
        let key = format!("round {round}");
        let first = post(&service, &links, &key, "{}").await.expect(201);
        // A replay is answered like the first time, and leaves nothing behind that meets the next one.
        for _ in 0..3 {
            let again = post(&service, &links, &key, "{}").await.expect(201);
            assert_eq!(again.header("idempotency-replayed"), Some("true"));
            assert_eq!(again.bytes, first.bytes);
        }
    }
}

#[tokio::test]
async fn a_retry_of_a_refused_post_is_never_in_progress() {
    let service = Service::start().await;
    let taken = json!({"email": "taken@example.com", "tier": "free"}).to_string();
    post(&service, "/v1/customers", "first", &*taken).await.expect(201);
    let unknown = format!("/v1/customers/{}/consent-links", Uuid::new_v4());
    for _ in 0..150 {
        post(&service, "/v1/customers", "second", &*taken).await.expect(409).problem("conflict");
        // The same key with another body.
        post(&service, "/v1/customers", "first", r#"{"email":"other@example.com","tier":"free"}"#)
            .await
            .expect(422)
            .problem("idempotency-key-reused");
        post(&service, &unknown, "third", "{}").await.expect(404).problem("unknown-customer");
    }
}

#[tokio::test]
async fn a_refused_change_leaves_no_lock_behind() {
    let service = Service::start().await;
    let [own, other] = [service.customer().await, service.customer().await];
    let limits = json!({"rate_limit_rpm": 1000});
    service.call("PATCH", &format!("/v1/customers/{own}")).json(&limits).send().await.expect(200);
    let admin = service.key(Some(own), &["admin"]).await;
    service.key(Some(other), &["consent:read"]).await;
    let listed = service.get(&format!("/v1/api-keys?customer_id={other}")).send().await.expect(200).json();
    let key_id = listed["items"][0]["key_id"].as_str().expect("an id").to_owned();
    let (pool, path) = (service.sql().await, format!("/v1/api-keys/{key_id}"));
    for _ in 0..100 {
        service.call("DELETE", &path).key(&admin).send().await.expect(404);
        let free: Vec<Uuid> =
            sqlx::query_scalar("select key_id from vlaapi.api_keys where key_id = $1 for update skip locked")
                .bind(key_id.parse::<Uuid>().expect("an id"))
                .fetch_all(&pool)
                .await
                .expect("a look");
        assert_eq!(free.len(), 1, "the key is still locked after the answer");
    }
}

#[tokio::test]
async fn a_body_in_another_spelling_is_the_same_request() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let links = format!("/v1/customers/{customer}/consent-links");
    let spellings = [
        r#"{"valid_for_seconds":3600,"on_behalf_of":"user-é"}"#,
        r#"{"on_behalf_of":"user-é","valid_for_seconds":3600}"#,
        "{ \"valid_for_seconds\" :\n3600, \"on_behalf_of\": \"user-\\u00e9\" }",
        r#"{"valid_for_seconds":3.6e3,"on_behalf\u005fof":"\u0075ser-é"}"#,
    ];
    let mut answers: Vec<Value> = Vec::new();
    for spelling in spellings {
        answers.push(post(&service, &links, "one", spelling).await.expect(201).json());
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
    for other in [
        r#"{"valid_for_seconds":3601,"on_behalf_of":"user-é"}"#,
        r#"{"valid_for_seconds":3600,"on_behalf_of":"user-e"}"#,
        r#"{"valid_for_seconds":3600}"#,
    ] {
        post(&service, &links, "one", other).await.expect(422).problem("idempotency-key-reused");
    }
}
