//! A sequence that is behind its table, as restored dumps, logical replication and `setval` leave it.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use consentd::health::Component;
use consentd::ops::log::sealer::Sealer;
use futures_util::future::join_all;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::time::sleep;
use uuid::Uuid;

use crate::service::{Service, consent};

/// The promise is a second; a busy machine may need more.
const SOON: Duration = Duration::from_secs(5);

fn images() -> Value {
    json!({"consent_tier": "research", "can_store_images": true})
}

async fn may_store_images(service: &Service, customer: Uuid) -> bool {
    let check = format!("{}/permissions?check=images", consent(customer));
    service.get(&check).send().await.expect(200).json()["allowed"] == true
}

async fn set_back(sql: &PgPool) {
    sqlx::query("select setval('vlaapi.customer_consent_audit_audit_id_seq', 1)")
        .execute(sql)
        .await
        .expect("the sequence is set back");
}

/// Grants the consents of new customers, and returns the customers with the ids of their entries.
async fn grant(service: &Service, customers: usize) -> Vec<(Uuid, i64)> {
    let customers = join_all((0..customers).map(|_| service.customer())).await;
    let bodies = images();
    let puts = join_all(customers.iter().map(|customer| service.put(*customer, &bodies).send())).await;
    let ids = puts.into_iter().map(|put| put.expect(201).json()["audit_id"].as_i64().expect("an id"));
    customers.iter().copied().zip(ids).collect()
}

/// Seals all that is queued, and returns what was set aside.
async fn seal(service: &Service, sealer: &mut Sealer) -> Vec<(i64, String)> {
    let mut quarantined = Vec::new();
    for _ in 0..3 {
        quarantined.extend(sealer.round(service.now()).await.expect("a round").quarantined);
    }
    quarantined
}

async fn unsealed(sql: &PgPool) -> i64 {
    sqlx::query_scalar(
        "select count(*) from vlaapi.customer_consent_audit e where not exists (
           select from vlaapi.audit_leaves l where l.audit_id = e.audit_id
             and convert_from(l.leaf, 'UTF8')::jsonb ->> 'customer_id' = e.customer_id::text)",
    )
    .fetch_one(sql)
    .await
    .expect("a count")
}

#[tokio::test]
async fn every_write_is_sealed_although_the_sequence_is_set_back_under_the_service() {
    let service = Service::start_following().await;
    let mut sealer = service.sealer().await;
    let sql = service.sql().await;
    let mut granted = grant(&service, 20).await;
    assert_eq!(seal(&service, &mut sealer).await, []);
    for _ in 0..3 {
        set_back(&sql).await;
        granted.extend(grant(&service, 20).await);
    }
    let ids: HashSet<i64> = granted.iter().map(|(_, audit_id)| *audit_id).collect();
    assert_eq!(ids.len(), granted.len(), "an id was given twice");
    for (customer, _) in &granted {
        service.call("DELETE", &consent(*customer)).send().await.expect(200);
    }
    assert_eq!(seal(&service, &mut sealer).await, []);
    assert_eq!(unsealed(&sql).await, 0);
    // The alarm stays in the metrics; the fault is over.
    let faults = service.cache.health.fault_counts();
    let (_, faults) = faults[Component::AuditSequence as usize];
    assert!(faults > 0, "no alarm was raised");
    let since = Instant::now();
    while service.cache.health.fault(Component::AuditSequence).is_some() {
        assert!(since.elapsed() < SOON, "the fault is not over");
        sleep(Duration::from_millis(10)).await;
    }
    service.get("/readyz").no_key().send().await.expect(200);
}

#[tokio::test]
async fn every_write_is_sealed_by_a_service_that_starts_on_a_dump_with_an_old_sequence() {
    let before = Service::start().await;
    let mut sealer = before.sealer().await;
    grant(&before, 20).await;
    assert_eq!(seal(&before, &mut sealer).await, []);
    let sql = before.sql().await;
    // As tables are copied without their sequences.
    sqlx::query("alter sequence vlaapi.customer_consent_audit_audit_id_seq restart")
        .execute(&sql)
        .await
        .expect("the sequence is set back");
    let after = Service::following(before.owner.clone(), &before.login).await;
    let granted = grant(&after, 20).await;
    // Events draw from the same sequence.
    let body = json!({"legal_basis": "request", "reason": "asked for it"});
    let erasure = format!("/v1/customers/{}/erasure", granted[0].0);
    after.call("POST", &erasure).json(&body).send().await.expect_one_of(&[200, 202, 422]);
    assert_eq!(seal(&before, &mut sealer).await, []);
    assert_eq!(unsealed(&sql).await, 0);
}

#[tokio::test]
async fn a_withdrawal_by_sql_reaches_a_second_replica_although_the_sequence_was_set_back() {
    let here = Service::start_following().await;
    let there = Service::following(here.owner.clone(), &here.login).await;
    let mut sealer = here.sealer().await;
    let granted = grant(&here, 10).await;
    let sql = here.sql().await;
    for (customer, _) in granted {
        assert!(may_store_images(&there, customer).await);
        set_back(&sql).await;
        sqlx::query(
            "update vlaapi.customer_data_consent set consent_tier = 'none', can_store_images = false \
             where customer_id = $1",
        )
        .bind(customer)
        .execute(&sql)
        .await
        .expect("a withdrawal past the service");
        let since = Instant::now();
        while may_store_images(&there, customer).await {
            assert!(since.elapsed() < SOON, "a yes after the withdrawal");
            sleep(Duration::from_millis(5)).await;
        }
    }
    assert_eq!(seal(&here, &mut sealer).await, []);
    assert_eq!(unsealed(&sql).await, 0);
}

#[tokio::test]
async fn a_change_under_an_id_of_another_entry_is_obeyed_everywhere_and_set_aside() {
    let here = Service::start_following().await;
    let there = Service::following(here.owner.clone(), &here.login).await;
    let mut sealer = here.sealer().await;
    let granted = grant(&here, 3).await;
    assert_eq!(seal(&here, &mut sealer).await, []);
    let (customer, others) = (granted[0].0, [granted[1].1, granted[2].1]);
    let taken = others[0].min(others[1]);
    assert!(may_store_images(&there, customer).await);
    let sql = here.sql().await;
    let mut change = sql.begin().await.expect("a transaction");
    // As a program draws that does not compare its ids with those in use.
    sqlx::query("select setval('vlaapi.customer_consent_audit_audit_id_seq', $1)")
        .bind(taken - 1)
        .execute(&mut *change)
        .await
        .expect("the sequence is set back");
    sqlx::query(
        "update vlaapi.customer_data_consent set consent_tier = 'none', can_store_images = false, \
         audit_id = nextval('vlaapi.customer_consent_audit_audit_id_seq') where customer_id = $1",
    )
    .bind(customer)
    .execute(&mut *change)
    .await
    .expect("a withdrawal past the service");
    for _ in 0..30 {
        assert!(may_store_images(&there, customer).await, "nothing is committed yet");
        sleep(Duration::from_millis(20)).await;
    }
    change.commit().await.expect("it is committed");
    let since = Instant::now();
    while may_store_images(&there, customer).await {
        assert!(since.elapsed() < SOON, "a yes after the withdrawal");
        sleep(Duration::from_millis(5)).await;
    }
    let quarantined = seal(&here, &mut sealer).await;
    assert_eq!(quarantined.len(), 1, "{quarantined:?}");
    assert_eq!(quarantined[0].0, taken);
    assert!(quarantined[0].1.contains("another entry"), "{quarantined:?}");
    // An entry that is queued again is no other entry.
    sqlx::query("insert into vlaapi.audit_pending (audit_id) values ($1)")
        .bind(others[0].max(others[1]))
        .execute(&sql)
        .await
        .expect("it is queued");
    assert_eq!(seal(&here, &mut sealer).await, []);
}

#[tokio::test]
async fn sequences_are_moved_forward_and_never_back_whoever_draws_meanwhile() {
    let service = Service::start().await;
    grant(&service, 10).await;
    let sql = service.sql().await;
    set_back(&sql).await;
    let draw = async || {
        let mut drawn = Vec::new();
        for _ in 0..100 {
            let id: i64 = sqlx::query_scalar("select vlaapi.next_audit_id()")
                .fetch_one(&sql)
                .await
                .expect("an id is drawn");
            drawn.push(id);
        }
        drawn
    };
    let advance = async || {
        for _ in 0..50 {
            service.store.advance_sequences().await.expect("sequences are moved");
        }
    };
    let (one, two, three, (), ()) = tokio::join!(draw(), draw(), draw(), advance(), advance());
    let drawn: Vec<i64> = [one, two, three].into_iter().flatten().collect();
    assert_eq!(drawn.iter().collect::<HashSet<_>>().len(), drawn.len(), "an id was drawn twice");
    assert!(drawn.iter().all(|id| *id > 10), "{drawn:?}");
}

#[tokio::test]
async fn every_sequence_that_the_service_draws_from_is_moved() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let links = format!("/v1/customers/{customer}/consent-links");
    service.call("POST", &links).json(&json!({})).send().await.expect(201);
    let sql = service.sql().await;
    sqlx::query("insert into vlaapi.audit_verifications (log_id, tree_size, started_at, took_ms, result, findings) values (1, 0, now(), 1, 'clean', '[]')")
        .execute(&sql)
        .await
        .expect("a verification");
    grant(&service, 1).await;
    let names = [
        "vlaapi.audit_verifications_verification_id_seq",
        "vlaapi.consent_link_keys_key_id_seq",
        "vlaapi.customer_consent_audit_audit_id_seq",
    ];
    for name in names {
        sqlx::query("select setval($1::text::regclass, 1, false)")
            .bind(name)
            .execute(&sql)
            .await
            .expect("it is set back");
    }
    let moved = service.store.advance_sequences().await.expect("sequences are moved");
    assert_eq!(moved.iter().map(|sequence| sequence.name.as_str()).collect::<Vec<_>>(), names);
    assert!(moved.iter().all(|sequence| sequence.last_id == 0 && sequence.largest_id >= 1), "{moved:?}");
    assert!(service.store.advance_sequences().await.expect("sequences are compared").is_empty());
    // An id that nobody can have drawn is refused, or at least not followed: no ids would be left.
    let undrawn = sqlx::query(
        "insert into vlaapi.audit_events (audit_id, kind, details, timestamp) values ($1, 'pii.erased', '{}', now())",
    );
    let _ = undrawn.bind(i64::MAX).execute(&sql).await;
    assert!(service.store.advance_sequences().await.expect("sequences are compared").is_empty());
    service.call("DELETE", &consent(customer)).send().await.expect(200);
    grant(&service, 1).await;
}
