//! Who may call what: every route, every scope, every foreign customer.

use std::collections::BTreeMap;

use consentd::domain::Scope;
use consentd::http::spec;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::service::Service;

/// The operations of the document: method, path, scopes; an empty list means public.
fn operations() -> Vec<(String, String, Vec<String>)> {
    let document = spec::json();
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("an item") {
            let security = operation["security"].as_array().expect("every operation says who may call it");
            let scopes = security
                .iter()
                .flat_map(|one| one["api_key"].as_array().into_iter().flatten())
                .map(|scope| scope.as_str().expect("a scope").to_owned())
                .collect();
            found.push((method.to_uppercase(), path.clone(), scopes));
        }
    }
    found
}

/// A body which each operation takes.
fn body(method: &str, path: &str) -> Option<Value> {
    match (method, path) {
        ("PUT", _) => Some(json!({"consent_tier": "basic"})),
        ("PATCH", _) => Some(json!({"company_name": "Example"})),
        ("POST", "/v1/customers") => {
            Some(json!({"email": format!("{}@example.com", Uuid::new_v4()), "tier": "free"}))
        }
        ("POST", "/v1/api-keys") => Some(json!({"scopes": ["consent:read"]})),
        ("POST", "/v1/permissions/check") => {
            Some(json!({"checks": [{"customer_id": Uuid::new_v4(), "permission": "images"}]}))
        }
        ("POST", "/v1/customers/{customer_id}/erasure") => {
            Some(json!({"reason": "a request", "legal_basis": "GDPR Art. 17(1)(b)"}))
        }
        ("POST", _) => Some(json!({})),
        _ => None,
    }
}

#[tokio::test]
async fn the_table_of_routes_and_scopes_is_this() {
    let table: BTreeMap<String, String> = operations()
        .into_iter()
        .map(|(method, path, scopes)| {
            (
                format!("{path} {method}"),
                if scopes.is_empty() { "public".to_owned() } else { scopes.join(" or ") },
            )
        })
        .collect();
    let table: Vec<String> = table.iter().map(|(route, scopes)| format!("{route}: {scopes}")).collect();
    insta::assert_snapshot!(table.join("\n"), @r"
    /.well-known/consentd-audit.vkey GET: public
    /livez GET: public
    /metrics GET: public
    /openapi.json GET: public
    /problems/{slug} GET: public
    /readyz GET: public
    /v1/api-keys GET: admin
    /v1/api-keys POST: admin
    /v1/api-keys/{key_id} DELETE: admin
    /v1/api-keys/{key_id}/rotate POST: admin
    /v1/audit GET: audit:read
    /v1/audit/events GET: audit:read
    /v1/audit/log/checkpoint GET: public
    /v1/audit/log/consistency GET: audit:read
    /v1/audit/log/status GET: audit:read
    /v1/audit/log/tile/{tile} GET: audit:read
    /v1/audit/{audit_id} GET: audit:read
    /v1/audit/{audit_id}/proof GET: audit:read
    /v1/consents GET: consent:read
    /v1/customers GET: consent:read or customers:write
    /v1/customers POST: customers:write
    /v1/customers/{customer_id} GET: consent:read or customers:write
    /v1/customers/{customer_id} PATCH: customers:write
    /v1/customers/{customer_id}/consent DELETE: consent:write
    /v1/customers/{customer_id}/consent GET: consent:read
    /v1/customers/{customer_id}/consent PUT: consent:write
    /v1/customers/{customer_id}/consent-links GET: consent:write
    /v1/customers/{customer_id}/consent-links POST: consent:write
    /v1/customers/{customer_id}/consent-links/{link_id} DELETE: consent:write
    /v1/customers/{customer_id}/consent/audit GET: audit:read
    /v1/customers/{customer_id}/consent/permissions GET: permissions:check or consent:read
    /v1/customers/{customer_id}/erasure POST: customers:write
    /v1/permissions/check POST: permissions:check or consent:read
    ");
}

#[tokio::test]
async fn every_route_wants_its_scope_and_no_other_will_do() {
    let service = Service::start().await;
    service.sealer().await;
    let mut keys = Vec::new();
    for scope in Scope::ALL {
        keys.push((scope, service.key(None, &[scope.as_str()]).await));
    }
    for (method, path, scopes) in operations() {
        let concrete = path
            .replace("{customer_id}", &Uuid::new_v4().to_string())
            .replace("{link_id}", &Uuid::new_v4().to_string())
            .replace("{key_id}", &Uuid::new_v4().to_string())
            .replace("{audit_id}", "1")
            .replace("{tile}", "entries/000.p/1")
            .replace("{slug}", "internal");
        let call = || {
            let call = service.call(&method, &concrete);
            match body(&method, &path) {
                Some(body) => call.json(&body),
                None => call,
            }
        };
        let anonymous = call().no_key().send().await.status.as_u16();
        assert_eq!(anonymous == 401, !scopes.is_empty(), "{method} {path} without a key: {anonymous}");
        for (scope, key) in &keys {
            let allowed = scopes.is_empty()
                || scopes.iter().any(|wanted| scope.allows(Scope::parse(wanted).expect("a scope")));
            let answer = call().key(key).send().await;
            assert_eq!(answer.status != 403, allowed, "{method} {path} with {}: {answer:?}", scope.as_str());
            assert!(answer.status.as_u16() < 500, "{method} {path}: {answer:?}");
            if !allowed {
                assert!(answer.json()["detail"].as_str().expect("a detail").contains(&scopes[0]));
            }
        }
    }
}

#[tokio::test]
async fn a_customers_key_reaches_that_customer_alone_whether_another_exists_or_not() {
    let service = Service::start().await;
    let (own, other) = (service.customer().await, service.customer().await);
    let key = service.key(Some(own), &["admin"]).await;
    service.put(other, &json!({"consent_tier": "basic"})).send().await.expect(201);
    let entry = service.trail(other).await[0]["audit_id"].clone();
    for stranger in [other, Uuid::new_v4()] {
        for (method, path, _) in operations() {
            if !path.contains("{customer_id}") {
                continue;
            }
            let concrete = path
                .replace("{customer_id}", &stranger.to_string())
                .replace("{link_id}", &Uuid::new_v4().to_string());
            let call = service.call(&method, &concrete).key(&key);
            let call = match body(&method, &path) {
                Some(body) => call.json(&body),
                None => call,
            };
            call.send().await.expect(403).problem("forbidden");
        }
        let check = json!({"checks": [{"customer_id": stranger, "permission": "images"}]});
        service.call("POST", "/v1/permissions/check").key(&key).json(&check).send().await.expect(403);
        for list in ["/v1/consents", "/v1/audit", "/v1/audit/events", "/v1/api-keys"] {
            service.get(&format!("{list}?customer_id={stranger}")).key(&key).send().await.expect(403);
        }
        let new_key = json!({"customer_id": stranger, "scopes": ["consent:read"]});
        service.call("POST", "/v1/api-keys").key(&key).json(&new_key).send().await.expect(403);
    }
    service.get(&format!("/v1/audit/{entry}")).key(&key).send().await.expect(404);
    let operators = json!({"scopes": ["admin"]});
    service.call("POST", "/v1/api-keys").key(&key).json(&operators).send().await.expect(403);
    service
        .call("POST", "/v1/customers")
        .key(&key)
        .json(&body("POST", "/v1/customers").expect("a body"))
        .send()
        .await
        .expect(403);

    // Lists show what is its own.
    for list in ["/v1/consents", "/v1/audit", "/v1/audit/events", "/v1/customers", "/v1/api-keys"] {
        let page = service.get(list).key(&key).send().await.expect(200).json();
        for item in page["items"].as_array().expect("items") {
            assert_eq!(item["customer_id"], json!(own), "{list}");
        }
    }
    assert_eq!(
        service.get("/v1/customers").key(&key).send().await.json()["items"].as_array().map(Vec::len),
        Some(1)
    );
}

#[tokio::test]
async fn a_key_that_is_no_key_is_told_why() {
    let service = Service::start().await;
    let call = |header: &str| service.get("/v1/audit").no_key().header("authorization", header).send();
    let key = service.operator.clone();
    let mistyped = format!("{}{}", &key[..20], key[20..].chars().rev().collect::<String>());
    for (header, told) in [
        ("Basic YWJj", "send the API key as"),
        ("Bearer", "send the API key as"),
        ("Bearer hello", "begins with vla_live_"),
        (format!("Bearer {mistyped}").as_str(), "checksum"),
        ("Bearer vla_live_abcdnotourslength", "unknown, expired or revoked"),
    ] {
        let answer = call(header).await.expect(401);
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        let detail = answer.json()["detail"].as_str().expect("a detail").to_owned();
        assert!(detail.contains(told), "{header}: {detail}");
    }
}

#[tokio::test]
async fn a_customer_cannot_raise_its_own_limits() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let key = service.key(Some(customer), &["admin", "customers:write"]).await;
    let body =
        json!({"customer_id": customer, "scopes": ["consent:read"], "rate_limit_override_rpm": 1_000_000});
    service.call("POST", "/v1/api-keys").key(&key).json(&body).send().await.expect(403).problem("forbidden");
    let path = format!("/v1/customers/{customer}");
    let body = json!({"rate_limit_rpm": 1_000_000});
    service.call("PATCH", &path).key(&key).json(&body).send().await.expect(403);
    let body = json!({"customer_id": customer, "scopes": ["consent:read"]});
    service.call("POST", "/v1/api-keys").key(&key).json(&body).send().await.expect(201);
}
