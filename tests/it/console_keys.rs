//! API keys in the console: made, exchanged and revoked by administrators alone, and shown once.

use chrono::TimeDelta;
use serde_json::Value;

use crate::service::Service;
use crate::visitor::Visitor;

/// The new key that a page shows.
fn shown(page: &str) -> String {
    let at = page.find("value=\"vla_").expect("a key");
    page[at + 7..].split('"').next().expect("its end").to_owned()
}

async fn record(service: &Service, key: &str) -> Value {
    let keys = service.get("/v1/api-keys?limit=1000").send().await.expect(200).json();
    let keys = keys["items"].as_array().expect("items").clone();
    keys.into_iter().find(|found| found["key_prefix"] == key[..13]).expect("the key")
}

#[tokio::test]
async fn a_key_is_made_shown_once_and_works() {
    let service = Service::start().await;
    let visitor = Visitor::admin(&service).await;
    let fields = [
        ("key_name", "<dashboard>"),
        ("audit:read", "true"),
        ("consent:read", "true"),
        ("kind", "test"),
        ("expires", "2026-03-31"),
        ("customer_id", ""),
    ];
    let answer = visitor.post("/console/keys", &fields).await.expect(201);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let page = answer.text();
    assert!(page.contains("&#60;dashboard&#62;") && page.contains("the only time"), "{page}");
    let key = shown(&page);
    assert!(key.starts_with("vla_test_"));
    service.get("/v1/audit").key(&key).send().await.expect(200);
    let made = record(&service, &key).await;
    assert_eq!(made["scopes"], serde_json::json!(["consent:read", "audit:read"]));
    assert_eq!(made["expires_at"], "2026-04-01T00:00:00Z");
    let list = visitor.get("/console/keys").await.expect(200).text();
    assert!(list.contains(&key[..13]) && !list.contains(&key) && list.contains("in use"), "{list}");
    service.advance(TimeDelta::days(40));
    let visitor = Visitor::admin(&service).await;
    assert!(visitor.get("/console/keys").await.expect(200).text().contains("expired"));

    for (fields, words) in [
        (vec![("key_name", "idle")], "choose at least one scope"),
        (vec![("audit:read", "true"), ("expires", "2020-01-01")], "must lie in the future"),
        (vec![("audit:read", "perhaps")], "true or false is wanted"),
        (vec![("audit:read", "true"), ("customer_id", "nobody")], "a UUID such as"),
        (vec![("audit:read", "true"), ("colour", "red")], "there is no parameter"),
    ] {
        let refused = visitor.post("/console/keys", &fields).await.expect(400);
        assert!(refused.text().contains(words), "{words}: {}", refused.text());
    }
    let unknown = [("audit:read", "true"), ("customer_id", "123e4567-e89b-12d3-a456-426614174000")];
    visitor.post("/console/keys", &unknown).await.expect(404);
}

#[tokio::test]
async fn the_pages_need_the_scope_admin() {
    let service = Service::start().await;
    let key = service.key(None, &["audit:read", "consent:write"]).await;
    let id = record(&service, &key).await["key_id"].as_str().expect("an id").to_owned();
    let visitor = Visitor::with(&service, &key).await;
    for page in ["/console/keys".to_owned(), format!("/console/keys/{id}")] {
        let refused = visitor.get(&page).await.expect(403);
        assert!(refused.text().contains("this needs the scope admin"), "{}", refused.text());
    }
    visitor.post("/console/keys", &[("admin", "true")]).await.expect(403);
    visitor.post(&format!("/console/keys/{id}/rotate"), &[("overlap_seconds", "0")]).await.expect(403);
    visitor.post(&format!("/console/keys/{id}/revoke"), &[("sure", "true")]).await.expect(403);
    let keys = service.get("/v1/api-keys").send().await.expect(200).json();
    assert_eq!(keys["items"].as_array().map(Vec::len), Some(2), "{keys}");
    // Another site's form makes no key.
    let visitor = Visitor::admin(&service).await;
    let call = visitor.call("POST", "/console/keys").header("sec-fetch-site", "cross-site");
    call.header("content-type", "application/x-www-form-urlencoded")
        .body("admin=true")
        .send()
        .await
        .expect(403);
}

#[tokio::test]
async fn a_revoked_key_ends_its_sessions_at_once() {
    let service = Service::start().await;
    let key = service.key(None, &["admin"]).await;
    let id = record(&service, &key).await["key_id"].as_str().expect("an id").to_owned();
    let (admin, other) = (Visitor::admin(&service).await, Visitor::with(&service, &key).await);
    let page = format!("/console/keys/{id}");
    assert!(!admin.get(&page).await.expect(200).text().contains("you are signed out"));
    let own = other.get(&page).await.expect(200).text();
    assert!(own.contains("You are signed in with this key") && own.contains("you are signed out"), "{own}");
    let revoke = format!("{page}/revoke");
    admin.post(&revoke, &[]).await.expect(400);
    other.get("/console/keys").await.expect(200);
    admin.post(&revoke, &[("sure", "true")]).await.expect(303);
    let gone = other.get("/console/keys").await.expect(303);
    assert_eq!(gone.header("location"), Some("/console/sign-in?next=%2Fconsole%2Fkeys"));
    service.get("/v1/audit").key(&key).send().await.expect(401);
    assert!(admin.get("/console/keys").await.expect(200).text().contains("revoked"));
    // The own one too.
    let own = record(&service, &service.operator).await["key_id"].as_str().expect("an id").to_owned();
    admin.post(&format!("/console/keys/{own}/revoke"), &[("sure", "true")]).await.expect(303);
    admin.get("/console/keys").await.expect(303);
}

#[tokio::test]
async fn a_key_is_exchanged_and_stays_good_for_the_overlap() {
    let service = Service::start().await;
    let old = service.key(None, &["admin"]).await;
    let id = record(&service, &old).await["key_id"].as_str().expect("an id").to_owned();
    let (admin, holder) = (Visitor::admin(&service).await, Visitor::with(&service, &old).await);
    let rotate = format!("/console/keys/{id}/rotate");
    admin.post(&rotate, &[]).await.expect(400);
    admin.post(&rotate, &[("overlap_seconds", "604801")]).await.expect(400);
    let page = admin.post(&rotate, &[("overlap_seconds", "3600")]).await.expect(201).text();
    assert!(page.contains(&old[..13]) && page.contains("2026-03-01 13:00Z"), "{page}");
    let new = shown(&page);
    for key in [&old, &new] {
        service.get("/v1/audit").key(key).send().await.expect(200);
    }
    admin.post(&rotate, &[("overlap_seconds", "0")]).await.expect(409);
    assert!(
        admin
            .get(&format!("/console/keys/{id}"))
            .await
            .expect(200)
            .text()
            .contains("exchanged, good until its end")
    );
    holder.get("/console/keys").await.expect(200);
    service.advance(TimeDelta::minutes(61));
    service.get("/v1/audit").key(&old).send().await.expect(401);
    service.get("/v1/audit").key(&new).send().await.expect(200);
    holder.get("/console/keys").await.expect(303);
    let admin = Visitor::admin(&service).await;
    admin
        .post("/console/keys/123e4567-e89b-12d3-a456-426614174000/rotate", &[("overlap_seconds", "0")])
        .await
        .expect(404);
    admin.get("/console/keys/123e4567-e89b-12d3-a456-426614174000").await.expect(404);
}

#[tokio::test]
async fn many_keys_are_paged_and_narrowed_to_a_customer() {
    let service = Service::start().await;
    let customer = service.customer().await;
    for _ in 0..52 {
        service.key(None, &["consent:read"]).await;
    }
    service.key(Some(customer), &["consent:read"]).await;
    let visitor = Visitor::admin(&service).await;
    let rows = |page: &str| page.matches("<a href=\"/console/keys/").count();
    let page = visitor.get("/console/keys").await.expect(200).text();
    assert_eq!(rows(&page), 50);
    let more = page.split("<a href=\"").find(|part| part.contains(">More<")).expect("a link");
    let page = visitor.get(more.split('"').next().expect("an address")).await.expect(200).text();
    assert_eq!(rows(&page), 4);
    let page = visitor.get(&format!("/console/keys?customer_id={customer}")).await.expect(200).text();
    assert_eq!(rows(&page), 1);
}
