//! What is there of an entry when its change is acknowledged.

use std::collections::HashSet;

use chrono::TimeDelta;
use consentd::store::migrations;
use serde_json::{Value, json};
use sqlx::PgPool;

use super::{count, leaves, proof, prove, read, seal, verifier_keys};
use crate::cluster::empty_database;
use crate::service::{Service, consent};

const PERSONAL: [&str; 5] = ["changed_by", "on_behalf_of", "change_reason", "ip_address", "user_agent"];

/// The entries that are queued, and whether each was queued by the transaction that wrote it.
async fn queued(pool: &PgPool) -> Vec<Value> {
    sqlx::query_scalar(
        "select to_jsonb(entry) || jsonb_build_object('together', entry.xmin = pending.xmin)
         from vlaapi.customer_consent_audit entry join vlaapi.audit_pending pending using (audit_id)
         order by audit_id",
    )
    .fetch_all(pool)
    .await
    .expect("the queue")
}

/// The personal fields that an entry has. Each must have a salt of its own, and the others none.
fn salted(entry: &Value, seen: &mut HashSet<String>) -> Vec<&'static str> {
    let mut held = Vec::new();
    for field in PERSONAL {
        let salt = entry[format!("{field}_salt")].as_str();
        assert_eq!(entry[field].is_null(), salt.is_none(), "{field} of {entry}");
        if let Some(salt) = salt {
            assert_eq!(salt.len(), "\\x".len() + 32, "{field}");
            assert!(seen.insert(salt.to_owned()), "a salt is used twice");
            held.push(field);
        }
    }
    held
}

#[tokio::test]
async fn every_change_is_salted_vouched_for_and_queued_by_its_own_transaction() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let body = json!({
        "consent_tier": "basic", "expires_at": service.now() + TimeDelta::hours(1), "reason": "asked for",
        "on_behalf_of": "user-17",
    });
    let put = service.put(customer, &body).header("user-agent", "a browser").peer("203.0.113.7");
    put.send().await.expect(201);
    service.advance(TimeDelta::hours(2));
    assert_eq!(service.sweep().await, Some(1));
    service.put(customer, &json!({"consent_tier": "basic"})).send().await.expect(200);
    service.call("DELETE", &format!("{}?reason=enough", consent(customer))).send().await.expect(200);

    let pool = service.sql().await;
    let entries = queued(&pool).await;
    let actions: Vec<_> = entries.iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["granted", "expired", "renewed", "withdrawn"]);
    let mut salts = HashSet::new();
    let held: Vec<_> = entries.iter().map(|entry| salted(entry, &mut salts)).collect();
    assert_eq!(held[0], PERSONAL);
    assert_eq!(held[1..], [vec!["changed_by"], vec!["changed_by"], vec!["changed_by", "change_reason"]]);
    for entry in &entries {
        assert_eq!(entry["together"], true);
        assert_eq!(entry["mac"].as_str().map(str::len), Some("\\x".len() + 32));
    }

    let mut sealer = service.sealer().await;
    assert_eq!(seal(&mut sealer, service.now()).await, 4);
    let macs: Vec<Vec<u8>> =
        sqlx::query_scalar("select mac from vlaapi.customer_consent_audit order by audit_id")
            .fetch_all(&pool)
            .await
            .unwrap();
    let leaves = leaves(&pool).await;
    for ((_, leaf), mac) in leaves[1..].iter().zip(&macs) {
        assert!(service.keys.writers[0].made(mac, leaf));
        assert_eq!(read(leaf)["src"], "service");
    }
}

#[tokio::test]
async fn a_change_that_cannot_be_queued_is_no_change() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let pool = service.sql().await;
    let mut holder = pool.begin().await.unwrap();
    sqlx::raw_sql("lock table vlaapi.audit_pending").execute(&mut *holder).await.unwrap();
    let put = service.put(customer, &json!({"consent_tier": "basic"})).send().await.expect(503);
    put.problem("unavailable");
    // Its caller is answered after a second; the statement ends with the limit for a lock.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    holder.rollback().await.unwrap();
    assert_eq!(service.consent(customer).await["version"], 0);
    assert_eq!(count(&pool, "vlaapi.customer_consent_audit").await, 0);
    assert_eq!(count(&pool, "vlaapi.audit_pending").await, 0);
}

#[tokio::test]
async fn a_statement_past_the_service_is_sealed_and_marked_as_such() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let pool = service.sql().await;
    // As the operators' handbook has it.
    let handbook = include_str!("../../../docs/operations.md");
    let begin = handbook.find("INSERT INTO vlaapi.customer_data_consent").expect("the handbook's statement");
    let end = begin + handbook[begin..].find(';').expect("its end");
    let statement = handbook[begin..end].replace("<uuid>", &customer.to_string());
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&pool).await.unwrap();

    let entries = queued(&pool).await;
    assert_eq!(entries.len(), 1);
    assert_eq!(salted(&entries[0], &mut HashSet::new()), ["changed_by"]);
    assert_eq!((&entries[0]["mac"], &entries[0]["together"]), (&Value::Null, &json!(true)));

    let mut sealer = service.sealer().await;
    assert_eq!(seal(&mut sealer, service.now()).await, 1);
    let audit_id = entries[0]["audit_id"].as_i64().unwrap();
    let proven = service.get(&format!("/v1/audit/{audit_id}/proof")).send().await.expect(200).json();
    assert_eq!(proven["vouched_for"], false);
    let proven = prove(&proof(&service, audit_id).await, &verifier_keys(&service, super::ORIGIN));
    assert_eq!((&proven.leaf["src"], &proven.leaf["version"]), (&json!("sql"), &json!(1)));
    let by = &proven.opened[0];
    assert!(by.0 == "changed_by" && by.1.starts_with("sql:"), "{by:?}");
}

#[tokio::test]
async fn entries_from_before_the_log_are_adopted_and_not_vouched_for() {
    let database = empty_database().await;
    migrations::up(&database.owner, Some(5)).await.unwrap();
    let pool = PgPool::connect_with(database.owner.clone()).await.unwrap();
    sqlx::raw_sql(
        "insert into vlaapi.customers (email) values ('before@example.com');
         insert into vlaapi.customer_data_consent (customer_id, consent_tier)
         select customer_id, 'basic' from vlaapi.customers;
         update vlaapi.customer_data_consent set consent_tier = 'analytics', can_store_embeddings = true;
         update vlaapi.customer_data_consent set consent_tier = 'none', can_store_embeddings = false",
    )
    .execute(&pool)
    .await
    .unwrap();
    migrations::up(&database.owner, None).await.unwrap();

    let service = Service::on(database.owner.clone(), &database.service).await;
    let mut sealer = service.sealer().await;
    assert_eq!(seal(&mut sealer, service.now()).await, 3);
    let customer = sqlx::query_scalar("select customer_id from vlaapi.customers").fetch_one(&pool).await;
    service.put(customer.unwrap(), &json!({"consent_tier": "research"})).send().await.expect(200);
    assert_eq!(seal(&mut sealer, service.now()).await, 1);

    let leaves = leaves(&pool).await;
    let told: Vec<Value> = leaves.iter().map(|(_, leaf)| read(leaf)).collect();
    let last: i64 =
        sqlx::query_scalar("select max(audit_id) from vlaapi.customer_consent_audit where mac is null")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!(told[0]["event"], "log.opened");
    assert_eq!(told[0]["details"]["adopted_through"], last);
    assert_eq!(told[0]["src"], "service");
    let rest: Vec<_> =
        told[1..].iter().map(|leaf| (&leaf["version"], leaf["src"].as_str().unwrap())).collect();
    assert_eq!(rest, [(&json!(1), "sql"), (&json!(2), "sql"), (&json!(3), "sql"), (&json!(4), "service")]);
    for (audit_id, _) in &leaves[1..4] {
        let proven = service.get(&format!("/v1/audit/{audit_id}/proof")).send().await.expect(200).json();
        assert_eq!(
            (&proven["vouched_for"], &proven["openings"][0]["field"]),
            (&json!(false), &json!("changed_by"))
        );
    }
}

#[tokio::test]
async fn nobody_changes_what_is_logged_and_the_eraser_only_takes_fields_away() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let body = json!({"consent_tier": "basic", "reason": "asked for", "on_behalf_of": "user-17"});
    service.put(customer, &body).send().await.expect(201);
    let mut sealer = service.sealer().await;
    seal(&mut sealer, service.now()).await;
    let pool = service.sql().await;
    sqlx::raw_sql("insert into vlaapi.audit_nodes values (1, 1, 0, sha256('a'))")
        .execute(&pool)
        .await
        .unwrap();
    let attempt = async |role: &str, statement: &str| {
        let mut transaction = pool.begin().await.unwrap();
        let statements = format!("set local role {role}; {statement}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(statements)).execute(&mut *transaction).await.map(|_| ())
    };
    for role in ["vlaapi_app", "vlaapi_eraser", "consentd_owner"] {
        for (table, column) in [
            ("customer_consent_audit", "version = 7"),
            ("customer_consent_audit", "mac = null"),
            ("customer_consent_audit", "change_reason = 'another'"),
            ("customer_consent_audit", "change_reason = null"),
            ("customer_consent_audit", "change_reason_salt = null"),
            ("audit_events", "details = '{}'"),
            ("audit_events", "mac = null"),
            ("audit_leaves", "leaf = 'a'"),
            ("audit_nodes", "hash = sha256('b')"),
        ] {
            let statement = format!("update vlaapi.{table} set {column}");
            attempt(role, &statement).await.expect_err(&format!("{role}: {statement}"));
        }
        for table in ["customer_consent_audit", "audit_events", "audit_leaves", "audit_nodes"] {
            for statement in [format!("delete from vlaapi.{table}"), format!("truncate vlaapi.{table}")] {
                attempt(role, &statement).await.expect_err(&format!("{role}: {statement}"));
            }
        }
    }
    for statement in [
        "update vlaapi.audit_checkpoints set note = 'another'",
        "delete from vlaapi.audit_checkpoints",
        "delete from vlaapi.audit_quarantine",
        "delete from vlaapi.audit_erasures",
        "delete from vlaapi.audit_logs",
    ] {
        attempt("vlaapi_app", statement).await.expect_err(statement);
    }
    let lawful = "update vlaapi.customer_consent_audit set change_reason = null, change_reason_salt = null";
    attempt("vlaapi_eraser", lawful).await.expect("a field goes together with its salt");
    attempt("vlaapi_app", lawful).await.expect_err("only by the eraser's role");
    let back = format!(
        "{lawful}; update vlaapi.customer_consent_audit set change_reason = 'a', change_reason_salt = 'b'"
    );
    attempt("vlaapi_eraser", &back).await.expect_err("what is gone cannot be put back");
}
