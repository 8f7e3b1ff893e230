//! Reading the audit trail: filters, pages, exports.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::service::{Answer, Service, consent};

/// A service with a few changes of a few customers, an hour between any two.
async fn with_history() -> (Service, Vec<Uuid>) {
    let service = Service::start().await;
    let mut customers = Vec::new();
    for round in 0..3 {
        let customer = service.customer().await;
        customers.push(customer);
        for body in [
            json!({"consent_tier": "basic"}),
            json!({"consent_tier": "research", "can_store_images": true, "reason": "=1+1"}),
            json!({"consent_tier": "none"}),
        ] {
            service.advance(TimeDelta::hours(1));
            service.put(customer, &body).header("x-request-id", &format!("round-{round}")).send().await;
        }
    }
    (service, customers)
}

fn ids(answer: &Answer) -> Vec<i64> {
    let page = answer.json();
    let items = page["items"].as_array().expect("items");
    items.iter().map(|item| item["audit_id"].as_i64().expect("an id")).collect()
}

#[tokio::test]
async fn pages_join_without_an_entry_twice_or_skipped_while_others_write() {
    let (service, customers) = with_history().await;
    let all = ids(&service.get("/v1/audit?limit=1000").send().await.expect(200));
    assert_eq!(all.len(), 9);
    assert!(all.is_sorted_by(|a, b| a > b));
    let mut walked = Vec::new();
    let mut path = "/v1/audit?limit=2".to_owned();
    loop {
        let answer = service.get(&path).send().await.expect(200);
        walked.extend(ids(&answer));
        service
            .put(customers[0], &json!({"consent_tier": "basic", "policy_version": walked.len().to_string()}))
            .send()
            .await;
        let Some(link) = answer.header("link") else {
            assert_eq!(answer.json()["next_cursor"], Value::Null);
            break;
        };
        path = link
            .strip_prefix('<')
            .and_then(|link| link.strip_suffix(">; rel=\"next\""))
            .expect("a link")
            .to_owned();
        assert!(path.contains(answer.json()["next_cursor"].as_str().expect("a cursor")));
    }
    assert_eq!(walked, all);
}

#[tokio::test]
async fn a_cursor_is_good_for_its_list_and_filters_alone() {
    let (service, customers) = with_history().await;
    let page = service.get("/v1/audit?limit=2&new_tier=basic").send().await.expect(200).json();
    let cursor = page["next_cursor"].as_str().expect("a cursor").to_owned();
    service.get(&format!("/v1/audit?new_tier=basic&limit=1&cursor={cursor}")).send().await.expect(200);
    let mut tampered = cursor.clone().into_bytes();
    tampered[3] = if tampered[3] == b'A' { b'B' } else { b'A' };
    let tampered = String::from_utf8(tampered).expect("ASCII");
    for path in [
        format!("/v1/audit?new_tier=basic&cursor={tampered}"),
        format!("/v1/audit?new_tier=none&cursor={cursor}"),
        format!("/v1/audit?cursor={cursor}"),
        format!("{}/audit?new_tier=basic&cursor={cursor}", consent(customers[0])),
        "/v1/audit?cursor=".to_owned(),
        "/v1/consents?cursor=AAAA".to_owned(),
    ] {
        let refused = service.get(&path).send().await.expect(400);
        assert_eq!(refused.problem("invalid-parameter"), ["cursor invalid_cursor"], "{path}");
    }
}

#[tokio::test]
async fn entries_are_found_by_every_filter() {
    let (service, customers) = with_history().await;
    let all = ids(&service.get("/v1/audit").send().await.expect(200));
    let find =
        async |query: String| ids(&service.get(&format!("/v1/audit?{query}")).send().await.expect(200));
    assert_eq!(find("action=withdrawn".into()).await.len(), 3);
    assert_eq!(find("action=granted&new_tier=basic".into()).await.len(), 3);
    assert_eq!(find("previous_tier=research".into()).await.len(), 3);
    assert_eq!(find("request_id=round-1".into()).await.len(), 3);
    assert_eq!(find(format!("customer_id={}", customers[2])).await, all[..3]);
    // `since` is inclusive, `until` exclusive.
    assert_eq!(find("since=2026-03-01T13:00:00Z&until=2026-03-01T14:00:00Z".into()).await, all[8..]);
    let prefix = &service.operator[..13];
    assert_eq!(find(format!("changed_by=key:{prefix}")).await, all);
    assert_eq!(find("changed_by=nobody".into()).await.len(), 0);
}

#[tokio::test]
async fn an_export_is_the_whole_result() {
    let (service, customers) = with_history().await;
    let json_entries = service.get("/v1/audit?limit=1000").send().await.expect(200).json()["items"].clone();
    let export = service.get("/v1/audit").header("accept", "application/x-ndjson").send().await.expect(200);
    assert_eq!(export.header("content-type"), Some("application/x-ndjson"));
    assert!(export.header("content-disposition").expect("a download").contains("consent-audit.ndjson"));
    let lines: Vec<Value> =
        export.text().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(json!(lines), json_entries);

    let path = format!("{}/audit?new_tier=research", consent(customers[0]));
    let export = service.get(&path).header("accept", "text/csv").send().await.expect(200);
    let mut reader = csv::Reader::from_reader(export.bytes.as_slice());
    let headers = reader.headers().expect("headers").clone();
    let rows: Vec<csv::StringRecord> = reader.records().map(|row| row.expect("a row")).collect();
    assert_eq!(rows.len(), 1);
    let cell = |name: &str| rows[0].get(headers.iter().position(|header| header == name).expect("a column"));
    assert_eq!(cell("customer_id"), Some(customers[0].to_string().as_str()));
    assert_eq!(cell("previous_tier"), Some("basic"));
    assert_eq!(cell("can_store_images"), Some("true"));
    // A spreadsheet must not take it for a formula.
    assert_eq!(cell("change_reason"), Some("'=1+1"));

    let paged = service.get("/v1/audit?limit=1").header("accept", "text/csv").send().await.expect(400);
    assert_eq!(paged.problem("invalid-parameter"), ["limit unknown_parameter"]);
}

#[tokio::test]
async fn an_export_of_many_pages_holds_each_entry_once() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let pool = service.sql().await;
    sqlx::query(
        "insert into vlaapi.customer_consent_audit (customer_id, action, version, new_tier, changed_by)
         select $1, 'updated', version, 'basic', 'test' from generate_series(1, 4500) version",
    )
    .bind(customer)
    .execute(&pool)
    .await
    .expect("many entries");
    for (accept, extra) in [("application/x-ndjson", 0), ("text/csv", 1)] {
        let export = service.get("/v1/audit").header("accept", accept).send().await.expect(200);
        let text = export.text();
        let lines: BTreeSet<&str> = text.lines().collect();
        assert_eq!((text.lines().count(), lines.len()), (4500 + extra, 4500 + extra));
    }
}

#[tokio::test]
async fn changes_past_the_service_are_audited_and_seen_by_it() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let pool = service.sql().await;
    let statement = format!(
        "INSERT INTO vlaapi.customer_data_consent (customer_id, consent_tier, can_store_embeddings, anonymization_level)
         VALUES ('{customer}', 'analytics', TRUE, 'full')
         ON CONFLICT (customer_id) DO UPDATE SET consent_tier = EXCLUDED.consent_tier,
           can_store_embeddings = EXCLUDED.can_store_embeddings, anonymization_level = EXCLUDED.anonymization_level,
           consent_updated_at = NOW();"
    );
    for _ in 0..2 {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement.clone()))
            .execute(&pool)
            .await
            .expect("the runbook's statement");
    }
    let record = service.consent(customer).await;
    assert_eq!((&record["version"], &record["status"]), (&json!(1), &json!("active")));
    let trail = service.trail(customer).await;
    assert_eq!(trail.len(), 1);
    assert_eq!(trail[0]["action"], "granted");
    assert!(trail[0]["changed_by"].as_str().expect("an actor").starts_with("sql:"));
    assert_eq!(trail[0]["audit_id"], record["audit_id"]);
    let as_of = record["consent_updated_at"].as_str().expect("a time");
    service.advance(TimeDelta::days(3650));
    assert_eq!(
        service.get(&format!("{}?as_of={as_of}", consent(customer))).send().await.expect(200).json(),
        record
    );

    // A row which tells no lawful consent, a change without an entry, a moved entry: the database refuses them all.
    for statement in [
        "update vlaapi.customer_data_consent set can_store_images = true",
        "update vlaapi.customer_consent_audit set new_tier = 'none'",
        "delete from vlaapi.customer_consent_audit",
        "truncate vlaapi.customer_consent_audit",
        "truncate vlaapi.customer_data_consent",
    ] {
        sqlx::raw_sql(statement).execute(&pool).await.expect_err(statement);
    }
    sqlx::query("delete from vlaapi.customers where customer_id = $1")
        .bind(customer)
        .execute(&pool)
        .await
        .expect("gone");
    service.get(&consent(customer)).send().await.expect(404);
    let actions: Vec<_> = service.trail(customer).await.iter().map(|entry| entry["action"].clone()).collect();
    assert_eq!(actions, ["erased", "granted"]);
}
