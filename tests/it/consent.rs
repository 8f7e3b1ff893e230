//! Giving, changing, withdrawing and reading consent.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::service::{Service, consent};

#[tokio::test]
async fn nothing_is_given_before_the_first_decision() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let answer = service.get(&consent(customer)).send().await.expect(200);
    assert_eq!(answer.header("etag"), Some("\"0\""));
    assert_eq!(
        answer.json(),
        json!({
            "customer_id": customer, "consent_tier": "none", "can_store_images": false,
            "can_store_embeddings": false, "can_use_for_training": false, "anonymization_level": "full",
            "policy_version": null, "consent_granted_at": null, "consent_updated_at": null, "expires_at": null,
            "version": 0, "audit_id": null, "status": "never_given",
        })
    );
    assert!(service.trail(customer).await.is_empty());
}

#[tokio::test]
async fn a_decision_is_stored_answered_and_audited() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let body = json!({
        "consent_tier": "analytics", "can_store_embeddings": true, "policy_version": "2026-01",
        "expires_at": "2027-01-01T00:00:00.123456Z", "reason": "asked in the settings", "on_behalf_of": "user-17",
    });
    let answer = service
        .put(customer, &body)
        .header("user-agent", "dashboard/1.0")
        .header("x-request-id", "request-1")
        .send()
        .await
        .expect(201);
    assert_eq!(answer.header("etag"), Some("\"1\""));
    let record = answer.json();
    assert_eq!(record["status"], "active");
    assert_eq!(record["consent_granted_at"], "2026-03-01T12:00:00Z");
    assert_eq!(record["expires_at"], "2027-01-01T00:00:00.123456Z");
    assert_eq!(service.consent(customer).await, record);

    let trail = service.trail(customer).await;
    assert_eq!(trail.len(), 1);
    let entry = &trail[0];
    assert_eq!(entry["audit_id"], record["audit_id"]);
    assert_eq!(entry["action"], "granted");
    assert_eq!(entry["version"], 1);
    assert_eq!(entry["new_tier"], "analytics");
    assert!(entry.get("previous").is_none() && entry.get("previous_tier").is_none());
    assert_eq!(entry["current"]["can_store_embeddings"], true);
    assert!(entry["changed_by"].as_str().expect("an actor").starts_with("key:vla_live_"));
    assert_eq!(entry["on_behalf_of"], "user-17");
    assert_eq!(entry["change_reason"], "asked in the settings");
    assert_eq!(entry["user_agent"], "dashboard/1.0");
    assert_eq!(entry["request_id"], "request-1");
    let path = format!("/v1/audit/{}", record["audit_id"]);
    assert_eq!(&service.get(&path).send().await.expect(200).json(), entry);
}

#[tokio::test]
async fn the_same_decision_again_changes_nothing() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let body = json!({"consent_tier": "research", "can_store_images": true, "can_use_for_training": true});
    let first = service.put(customer, &body).send().await.expect(201).json();
    service.advance(TimeDelta::hours(1));
    let again = service.put(customer, &body).send().await.expect(200).json();
    assert_eq!(first, again);
    assert_eq!(service.trail(customer).await.len(), 1);
}

#[tokio::test]
async fn a_put_replaces_the_whole_consent() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let body = json!({
        "consent_tier": "research", "can_store_images": true, "can_store_embeddings": true,
        "anonymization_level": "none", "policy_version": "1",
    });
    service.put(customer, &body).send().await.expect(201);
    let record = service.put(customer, &json!({"consent_tier": "basic"})).send().await.expect(200).json();
    assert_eq!(record["can_store_images"], false);
    assert_eq!(record["anonymization_level"], "full");
    assert_eq!(record["policy_version"], Value::Null);
    let trail = service.trail(customer).await;
    assert_eq!(trail[0]["action"], "updated");
    assert_eq!(trail[0]["previous"], trail[1]["current"]);
    assert_eq!(trail[0]["previous_tier"], "research");
}

#[tokio::test]
async fn only_an_end_date_or_policy_that_moves_is_a_renewal() {
    let service = Service::start().await;
    let customer = service.customer().await;
    service.put(customer, &json!({"consent_tier": "basic"})).send().await.expect(201);
    let renewed =
        json!({"consent_tier": "basic", "policy_version": "2", "expires_at": "2028-01-01T00:00:00Z"});
    service.put(customer, &renewed).send().await.expect(200);
    assert_eq!(service.trail(customer).await[0]["action"], "renewed");
}

#[tokio::test]
async fn a_withdrawal_is_seen_by_the_next_check_and_needs_no_body() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let body = json!({"consent_tier": "analytics", "can_store_embeddings": true});
    service.put(customer, &body).send().await.expect(201);
    let check = format!("{}/permissions?check=embeddings", consent(customer));
    assert_eq!(service.get(&check).send().await.expect(200).json()["allowed"], true);

    let path = format!("{}?reason=moved%20away", consent(customer));
    let record = service.call("DELETE", &path).send().await.expect(200).json();
    assert_eq!(record["status"], "withdrawn");
    assert_eq!(record["consent_tier"], "none");
    let denied = service.get(&check).send().await.expect(200).json();
    assert_eq!(
        denied,
        json!({
            "customer_id": customer, "permission": "store_embeddings", "allowed": false, "reason": "withdrawn",
            "version": 2, "valid_until": null,
        })
    );
    let trail = service.trail(customer).await;
    assert_eq!(trail[0]["action"], "withdrawn");
    assert_eq!(trail[0]["change_reason"], "moved away");

    let again = service.call("DELETE", &path).send().await.expect(200).json();
    assert_eq!(again["version"], 2);
    assert_eq!(service.trail(customer).await.len(), 2);
}

#[tokio::test]
async fn withdrawing_what_was_never_given_changes_nothing() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let record = service.call("DELETE", &consent(customer)).send().await.expect(200).json();
    assert_eq!(record["status"], "never_given");
    assert_eq!(record["version"], 0);
}

#[tokio::test]
async fn a_first_refusal_is_recorded() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let record = service.put(customer, &json!({"consent_tier": "none"})).send().await.expect(201).json();
    assert_eq!((&record["status"], &record["version"]), (&json!("withdrawn"), &json!(1)));
    assert_eq!(record["consent_granted_at"], Value::Null);
    service.put(customer, &json!({"consent_tier": "none"})).send().await.expect(200);
    assert_eq!(service.trail(customer).await.len(), 1);
}

#[tokio::test]
async fn a_version_guards_a_write() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let basic = json!({"consent_tier": "basic"});
    let analytics = json!({"consent_tier": "analytics"});
    service.put(customer, &basic).header("if-match", "*").send().await.expect(412);
    service.put(customer, &basic).header("if-none-match", "*").send().await.expect(201);
    let moved = service.put(customer, &analytics).header("if-none-match", "*").send().await.expect(412);
    assert!(moved.problem("version-moved").is_empty());
    assert_eq!(moved.header("etag"), Some("\"1\""));
    service.put(customer, &analytics).header("if-match", "\"2\"").send().await.expect(412);
    service.put(customer, &analytics).header("if-match", "W/\"1\"").send().await.expect(412);
    service.put(customer, &analytics).header("if-match", "\"7\", \"1\"").send().await.expect(200);
    service.call("DELETE", &consent(customer)).header("if-match", "\"1\"").send().await.expect(412);
    service.put(customer, &analytics).header("if-match", "1").send().await.expect(400);
    assert_eq!(service.consent(customer).await["version"], 2);

    let unchanged =
        service.get(&consent(customer)).header("if-none-match", "W/\"2\"").send().await.expect(304);
    assert!(unchanged.bytes.is_empty());
    service.get(&consent(customer)).header("if-none-match", "\"1\"").send().await.expect(200);
}

#[tokio::test]
async fn two_first_grants_at_once_give_two_versions_and_two_entries_in_order() {
    let service = Service::start().await;
    for _ in 0..10 {
        let customer = service.customer().await;
        let basic = json!({"consent_tier": "basic"});
        let analytics = json!({"consent_tier": "analytics"});
        let (one, other) =
            tokio::join!(service.put(customer, &basic).send(), service.put(customer, &analytics).send());
        let mut statuses = [one.status.as_u16(), other.status.as_u16()];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 201]);
        let trail = service.trail(customer).await;
        let versions: Vec<_> = trail.iter().map(|entry| entry["version"].clone()).collect();
        assert_eq!(versions, [json!(2), json!(1)]);
        assert_eq!(trail[0]["previous"], trail[1]["current"]);
        let time = |entry: &Value| -> DateTime<Utc> {
            entry["timestamp"].as_str().expect("a time").parse().expect("a time")
        };
        assert!(time(&trail[0]) > time(&trail[1]));
    }
}

#[tokio::test]
async fn a_consent_is_shown_as_it_stood() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let path = |instant: DateTime<Utc>| {
        format!(
            "{}?as_of={}",
            consent(customer),
            instant.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
        )
    };
    let start = service.now();
    let body = json!({"consent_tier": "basic", "expires_at": start + TimeDelta::days(2)});
    let first = service.put(customer, &body).send().await.expect(201).json();
    service.advance(TimeDelta::days(1));
    let body = json!({"consent_tier": "research", "can_store_images": true});
    let second = service.put(customer, &body).send().await.expect(200).json();
    service.advance(TimeDelta::days(5));

    let before = service.get(&path(start - TimeDelta::microseconds(1))).send().await.expect(200).json();
    assert_eq!(before["status"], "never_given");
    assert_eq!(service.get(&path(start)).send().await.expect(200).json(), first);
    let between = service.get(&path(start + TimeDelta::hours(23))).send().await.expect(200).json();
    assert_eq!(between, first);
    assert_eq!(service.get(&path(start + TimeDelta::days(1))).send().await.expect(200).json(), second);
    assert_eq!(service.get(&path(service.now())).send().await.expect(200).json(), second);
    let future = service.get(&path(service.now() + TimeDelta::days(1))).send().await.expect(400);
    assert_eq!(future.problem("invalid-parameter"), ["as_of in_the_future"]);
}

#[tokio::test]
async fn consents_are_listed_by_what_they_are() {
    let service = Service::start().await;
    let mut customers: Vec<Uuid> = Vec::new();
    for tier in ["basic", "analytics", "basic"] {
        let customer = service.customer().await;
        service.put(customer, &json!({"consent_tier": tier})).send().await.expect(201);
        customers.push(customer);
    }
    let withdrawn = service.customer().await;
    service.put(withdrawn, &json!({"consent_tier": "none"})).send().await.expect(201);
    let list = async |query: &str| -> Vec<String> {
        let page = service.get(&format!("/v1/consents?{query}")).send().await.expect(200).json();
        let mut ids: Vec<_> = page["items"]
            .as_array()
            .expect("items")
            .iter()
            .map(|item| item["customer_id"].as_str().expect("an id").to_owned())
            .collect();
        ids.sort();
        ids
    };
    let mut basic = vec![customers[0].to_string(), customers[2].to_string()];
    basic.sort();
    assert_eq!(list("tier=basic").await, basic);
    assert_eq!(list("status=withdrawn").await, [withdrawn.to_string()]);
    assert_eq!(list("status=active").await.len(), 3);
    assert_eq!(list(&format!("customer_id={withdrawn}&status=active")).await.len(), 0);
    assert_eq!(list("updated_after=2026-03-01T12:00:01Z").await.len(), 0);
}
