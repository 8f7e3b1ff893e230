//! Versions that are in a customer's trail without the consent ever having been at them: inserted past the service, with no
//! change of the consent. They are skipped, never adopted, and reported.

use std::time::Duration;

use chrono::TimeDelta;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};
use uuid::Uuid;

use crate::log::tamper;
use crate::service::{Service, consent};
use crate::visitor::Visitor;

/// As the service logs in.
async fn login(service: &Service) -> PgPool {
    PgPool::connect_with(service.login.clone()).await.expect("the database is there")
}

/// The statement for a valid entry that grants everything, of a version that the consent does not have.
fn foreign(customer: Uuid, version: i32) -> String {
    format!(
        "insert into vlaapi.customer_consent_audit
           (customer_id, action, version, new_tier, previous_tier, previous, current, changed_by, changed_by_salt)
         values ('{customer}', 'updated', {version}, 'research', 'basic', null,
           '{{\"consent_tier\": \"research\", \"can_store_images\": true, \"can_store_embeddings\": true,
             \"can_use_for_training\": true, \"anonymization_level\": \"none\", \"policy_version\": null,
             \"expires_at\": null, \"consent_granted_at\": \"2026-01-01T00:00:00Z\"}}', 'sql:somebody', vlaapi.random_salt())"
    )
}

async fn run(pool: &PgPool, statement: String) {
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(pool).await.expect("it is lawful");
}

async fn insert(service: &Service, customer: Uuid, version: i32) {
    run(&login(service).await, foreign(customer, version)).await;
}

fn basic() -> Value {
    json!({"consent_tier": "basic"})
}

fn analytics() -> Value {
    json!({"consent_tier": "analytics", "can_store_embeddings": true})
}

/// The versions in quarantine.
async fn aside(service: &Service, customer: Uuid) -> Vec<i32> {
    sqlx::query_scalar(
        "select version from vlaapi.customer_consent_audit join vlaapi.audit_quarantine using (audit_id)
         where customer_id = $1 and foreign_version order by version",
    )
    .bind(customer)
    .fetch_all(&service.sql().await)
    .await
    .expect("an answer")
}

/// The own versions of the trail, oldest first.
async fn own(service: &Service, customer: Uuid) -> Vec<i64> {
    let mut versions: Vec<i64> = service
        .trail(customer)
        .await
        .iter()
        .filter(|entry| entry["foreign"] != true)
        .map(|entry| entry["version"].as_i64().expect("a version"))
        .collect();
    versions.sort_unstable();
    versions
}

#[tokio::test]
async fn a_foreign_version_is_skipped_by_put_and_delete_and_its_state_is_never_adopted() {
    let service = Service::start().await;
    let mut sealer = service.sealer().await;
    let customer = service.customer().await;
    service.put(customer, &basic()).send().await.expect(201);
    insert(&service, customer, 2).await;
    let now = async || {
        let as_of = format!("{}?as_of={}", consent(customer), service.now().format("%Y-%m-%dT%H:%M:%SZ"));
        (service.consent(customer).await, service.get(&as_of).send().await.expect(200).json())
    };
    let (read, as_of) = now().await;
    assert_eq!((&read["version"], &read["consent_tier"]), (&json!(1), &json!("basic")));
    assert_eq!(as_of, read);

    service.advance(TimeDelta::seconds(1));
    let put = service.put(customer, &analytics()).header("if-match", "\"1\"").send().await.expect(200);
    assert_eq!((&put.json()["version"], put.header("etag")), (&json!(3), Some("\"3\"")));
    assert_eq!(aside(&service, customer).await, [2]);
    // Several in a row.
    for version in [4, 5, 6] {
        insert(&service, customer, version).await;
    }
    let same = service.put(customer, &analytics()).send().await.expect(200).json();
    assert_eq!(same["version"], 3, "nothing has changed");
    service.advance(TimeDelta::seconds(1));
    let gone = service.call("DELETE", &consent(customer)).send().await.expect(200).json();
    assert_eq!((&gone["version"], &gone["status"]), (&json!(7), &json!("withdrawn")));
    assert_eq!(own(&service, customer).await, [1, 3, 7]);
    assert_eq!(aside(&service, customer).await, [2, 4, 5, 6]);
    let (read, as_of) = now().await;
    assert_eq!(as_of, read);

    while sealer.round(service.now()).await.expect("a round").sealed > 0 {}
    let status = service.get("/v1/audit/log/status").send().await.expect(200).json();
    assert_eq!(status["quarantined"], 4);
    let trail = service.trail(customer).await;
    assert_eq!(trail.iter().filter(|entry| entry["foreign"] == true).count(), 4);
    let visitor = Visitor::admin(&service).await;
    let page = visitor.get("/console/integrity").await.expect(200).text();
    assert!(page.contains("version 2 is in the trail without its consent, which was at version 1"), "{page}");
    let page = visitor.get(&format!("/console/customers/{customer}")).await.expect(200).text();
    assert!(page.contains("never took effect"), "{page}");
}

#[tokio::test]
async fn a_foreign_version_is_reported_when_it_is_sealed_although_nobody_writes() {
    let service = Service::start().await;
    let mut sealer = service.sealer().await;
    let (customer, nobody) = (service.customer().await, service.customer().await);
    service.put(customer, &basic()).send().await.expect(201);
    run(&service.sql().await, format!("update vlaapi.customer_data_consent set policy_version = 'by hand' where customer_id = '{customer}'")).await;
    insert(&service, customer, 3).await;
    insert(&service, nobody, 1).await;
    let round = sealer.round(service.now()).await.expect("a round");
    assert_eq!((round.sealed, round.foreign.len(), round.quarantined.len()), (4, 2, 0));
    assert_eq!((aside(&service, customer).await, aside(&service, nobody).await), (vec![3], vec![1]));
    let days: i64 = sqlx::query_scalar("select sum(entries)::bigint from vlaapi.consent_days")
        .fetch_one(&service.sql().await)
        .await
        .unwrap();
    assert_eq!(days, 2, "it is not counted as a change");
}

#[tokio::test]
async fn a_customer_without_a_consent_gets_its_first_one_after_a_foreign_version() {
    let service = Service::start().await;
    let customer = service.customer().await;
    insert(&service, customer, 1).await;
    insert(&service, customer, 2).await;
    let read = service.consent(customer).await;
    assert_eq!((&read["version"], &read["status"]), (&json!(0), &json!("never_given")));
    let as_of = format!("{}?as_of=2026-03-01T12:00:00Z", consent(customer));
    assert_eq!(service.get(&as_of).send().await.expect(200).json()["status"], "never_given");
    let withdrawn = service.call("DELETE", &consent(customer)).send().await.expect(200).json();
    assert_eq!((&withdrawn["version"], &withdrawn["status"]), (&json!(0), &json!("never_given")));
    let put = service.put(customer, &basic()).header("if-none-match", "*").send().await.expect(201).json();
    assert_eq!((&put["version"], &put["consent_tier"]), (&json!(3), &json!("basic")));
    let entry = service.get(&format!("/v1/audit/{}", put["audit_id"])).send().await.expect(200).json();
    assert_eq!((&entry["action"], entry.get("previous")), (&json!("granted"), None));
    assert_eq!(aside(&service, customer).await, [1, 2]);
}

#[tokio::test]
async fn the_end_of_a_consent_is_recorded_past_a_foreign_version() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let ends = service.now() + TimeDelta::hours(1);
    service.put(customer, &json!({"consent_tier": "basic", "expires_at": ends})).send().await.expect(201);
    insert(&service, customer, 2).await;
    service.advance(TimeDelta::hours(2));
    assert_eq!(service.sweep().await, Some(1));
    assert_eq!(service.sweep().await, Some(0));
    assert_eq!(own(&service, customer).await, [1, 3]);
    assert_eq!(service.consent(customer).await["status"], "expired");
}

#[tokio::test]
async fn changes_and_deletions_by_sql_go_on_past_a_foreign_version() {
    let service = Service::start().await;
    let (owner, customer) = (service.sql().await, service.customer().await);
    service.put(customer, &basic()).send().await.expect(201);
    insert(&service, customer, 2).await;
    let change = format!(
        "update vlaapi.customer_data_consent set policy_version = 'v' where customer_id = '{customer}'"
    );
    run(&owner, change).await;
    assert_eq!(service.consent(customer).await["version"], 3);
    insert(&service, customer, 4).await;
    run(&owner, format!("delete from vlaapi.customers where customer_id = '{customer}'")).await;
    let trail = service.trail(customer).await;
    let last = trail.iter().max_by_key(|entry| entry["version"].as_i64()).expect("a trail");
    assert_eq!((&last["action"], &last["version"]), (&json!("erased"), &json!(5)));
    assert_eq!(aside(&service, customer).await, [2, 4]);
    // Who comes back goes on after the deletion, and not after what came behind it.
    insert(&service, customer, 6).await;
    let body = json!({"customer_id": customer, "email": "again@example.com", "tier": "pro"});
    service.call("POST", "/v1/customers").json(&body).send().await.expect(201);
    let put = service.put(customer, &analytics()).send().await.expect_one_of(&[200, 201]).json();
    assert_eq!(put["version"], 7);
    assert_eq!(aside(&service, customer).await, [2, 4, 6]);
}

#[tokio::test]
async fn an_upsert_by_sql_takes_nothing_that_is_the_consents_own_for_foreign() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let upsert = |policy: &str| {
        format!(
            "insert into vlaapi.customer_data_consent (customer_id, consent_tier, policy_version)
             values ('{customer}', 'basic', '{policy}')
             on conflict (customer_id) do update set policy_version = excluded.policy_version"
        )
    };
    for policy in ["a", "b", "c", "c"] {
        run(&service.sql().await, upsert(policy)).await;
    }
    assert_eq!(own(&service, customer).await, [1, 2, 3]);
    assert!(aside(&service, customer).await.is_empty());
    insert(&service, customer, 4).await;
    run(&service.sql().await, upsert("d")).await;
    assert_eq!((own(&service, customer).await, aside(&service, customer).await), (vec![1, 2, 3, 5], vec![4]));
    let other = service.customer().await;
    insert(&service, other, 1).await;
    run(&service.sql().await, upsert("e").replace(&customer.to_string(), &other.to_string())).await;
    assert_eq!((own(&service, other).await, aside(&service, other).await), (vec![2], vec![1]));
}

#[tokio::test]
async fn a_version_far_ahead_is_refused_and_stops_nobody_where_it_is_there_all_the_same() {
    let service = Service::start().await;
    let customer = service.customer().await;
    service.put(customer, &basic()).send().await.expect(201);
    for version in [3, 1_000_000, i32::MAX] {
        let refused =
            sqlx::raw_sql(AssertSqlSafe(foreign(customer, version))).execute(&login(&service).await).await;
        assert!(refused.expect_err("it is refused").to_string().contains("must be at most 2"));
    }
    tamper(&service.sql().await, &foreign(customer, i32::MAX)).await;
    tamper(&service.sql().await, &foreign(customer, 3)).await;
    for (body, version) in [(analytics(), 2), (basic(), 4), (analytics(), 5)] {
        service.advance(TimeDelta::seconds(1));
        assert_eq!(service.put(customer, &body).send().await.expect(200).json()["version"], version);
        assert_eq!(service.consent(customer).await["consent_tier"], body["consent_tier"]);
    }
    let as_of = format!("{}?as_of={}", consent(customer), service.now().format("%Y-%m-%dT%H:%M:%SZ"));
    assert_eq!(service.get(&as_of).send().await.expect(200).json()["version"], 5);
    assert_eq!(aside(&service, customer).await, [3]);
}

#[tokio::test]
async fn several_changes_in_one_batch_go_on_past_foreign_versions() {
    let service = Service::start().await;
    let customer = service.customer().await;
    service.put(customer, &basic()).send().await.expect(201);
    for version in [2, 3] {
        insert(&service, customer, version).await;
    }
    // A gap before the next one: only who bypasses the triggers can make it.
    tamper(&service.sql().await, &foreign(customer, 6)).await;
    let bodies: Vec<Value> =
        (0..8).map(|n| json!({"consent_tier": "basic", "policy_version": format!("v{n}")})).collect();
    let puts =
        bodies.iter().map(|body| async { service.put(customer, body).send().await.expect(200).json() });
    let mut versions: Vec<i64> = futures_util::future::join_all(puts)
        .await
        .iter()
        .map(|answer| answer["version"].as_i64().expect("a version"))
        .collect();
    versions.sort_unstable();
    assert_eq!(versions, [4, 5, 7, 8, 9, 10, 11, 12]);
    assert_eq!(aside(&service, customer).await, [2, 3, 6]);
}

#[tokio::test]
async fn an_entry_that_is_not_committed_yet_keeps_its_own_customer_waiting_and_nobody_else() {
    let service = Service::start().await;
    let (customer, others) = (service.customer().await, [service.customer().await, service.customer().await]);
    service.put(customer, &basic()).send().await.expect(201);
    let pool = login(&service).await;
    let mut inserting = pool.begin().await.expect("a transaction");
    sqlx::raw_sql(AssertSqlSafe(foreign(customer, 2))).execute(&mut *inserting).await.expect("it is lawful");
    let body = analytics();
    let waiting = service.put(customer, &body).send();
    let meanwhile = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        for other in others {
            let since = std::time::Instant::now();
            service.put(other, &basic()).send().await.expect(201);
            assert!(since.elapsed() < Duration::from_millis(900), "others wait for it");
        }
        inserting.commit().await.expect("it commits");
    };
    let (answer, ()) = tokio::join!(waiting, meanwhile);
    assert_eq!(answer.expect(200).json()["version"], 3);
}

#[tokio::test]
async fn puts_and_foreign_entries_at_the_same_time_lose_nothing() {
    let service = Service::start().await;
    let customer = service.customer().await;
    service.put(customer, &basic()).send().await.expect(201);
    let pool = login(&service).await;
    let inserts = async {
        let mut taken = 0;
        for _ in 0..60 {
            let next = format!(
                "{} on conflict do nothing",
                foreign(customer, 0).replace(", 0, 'research'", &format!(
                    ", (select coalesce(max(version), 0) + 1 from vlaapi.customer_consent_audit where customer_id = '{customer}'), 'research'"
                ))
            );
            let done = sqlx::raw_sql(AssertSqlSafe(next)).execute(&pool).await;
            taken += done.map_or(0, |done| done.rows_affected());
        }
        taken
    };
    let puts = async {
        for n in 0..60 {
            let body = json!({"consent_tier": "basic", "policy_version": format!("v{n}")});
            service.put(customer, &body).send().await.expect(200);
        }
    };
    let (taken, ()) = tokio::join!(inserts, puts);
    assert!(taken > 0);
    // One more, so that whatever came last is skipped too.
    service.put(customer, &analytics()).send().await.expect(200);
    assert_eq!(
        own(&service, customer).await.len() + aside(&service, customer).await.len(),
        62 + usize::try_from(taken).unwrap()
    );
    assert_eq!(aside(&service, customer).await.len(), usize::try_from(taken).unwrap());
}

#[tokio::test]
async fn memory_stays_right_after_a_foreign_entry() {
    let service = Service::start_following().await;
    let customer = service.customer().await;
    service.put(customer, &basic()).send().await.expect(201);
    let allowed = async || {
        let path = format!("{}/permissions?check=images", consent(customer));
        service.get(&path).send().await.expect(200).json()["allowed"].clone()
    };
    assert_eq!(allowed().await, false);
    insert(&service, customer, 2).await;
    tamper(&service.sql().await, &foreign(customer, i32::MAX)).await;
    for _ in 0..20 {
        assert_eq!(allowed().await, false, "it grants what nobody gave");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let images = json!({"consent_tier": "research", "can_store_images": true});
    let put = service.put(customer, &images).send().await.expect(200).json();
    assert_eq!(put["version"], 3);
    let at_least = format!("{}/permissions?check=images&min_version=3", consent(customer));
    assert_eq!(service.get(&at_least).send().await.expect(200).json()["allowed"], true);
    insert(&service, customer, 4).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    service.call("DELETE", &consent(customer)).send().await.expect(200);
    for _ in 0..20 {
        assert_eq!(allowed().await, false);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
