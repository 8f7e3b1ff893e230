//! A database as providers of managed PostgreSQL give it: nothing rests on a database's defaults.

use chrono::{DateTime, Utc};
use consentd::ops::erasure::carry_out;
use consentd::store::erasure::vacuum;
use serde_json::json;
use sqlx::PgPool;

use super::{change, consentd, count, lay_out_keys, said, seal};
use crate::cluster::managed_database;
use crate::service::{Service, consent};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decision_a_withdrawal_a_seal_a_verification_and_an_erasure_work_on_a_managed_database() {
    let database = managed_database().await;
    let service = Service::on(database.owner.clone(), &database.service).await;
    let pool = service.sql().await;
    let now: DateTime<Utc> =
        sqlx::query_scalar("select clock_timestamp()").fetch_one(&pool).await.expect("a clock");
    service.advance(now - service.now());
    let mut sealer = service.sealer().await;
    let customer = service.customer().await;
    change(&service, customer).await;
    let check = format!("{}/permissions", consent(customer));
    service.get(&check).send().await.expect(200);
    service.call("DELETE", &consent(customer)).send().await.expect(200);
    service.sweep().await;
    // A change past the service, by the role that the Inference API has.
    let login = PgPool::connect_with(database.service.clone()).await.expect("the role logs in");
    sqlx::query("update vlaapi.customer_data_consent set consent_tier = 'basic' where customer_id = $1")
        .bind(customer)
        .execute(&login)
        .await
        .expect("a change past the service");
    sqlx::query("select vlaapi.make_inference_log_partitions(current_date, 3)")
        .execute(&login)
        .await
        .expect("partitions are made");
    sqlx::raw_sql(
        "begin;
         insert into vlaapi.customer_consent_audit (customer_id, action, version, new_tier, changed_by, timestamp)
         values (gen_random_uuid(), 'granted', 1, 'basic', 'a test', now());
         rollback",
    )
    .execute(&login)
    .await
    .expect("the role may add an entry, which the database salts");
    assert!(seal(&mut sealer, service.now()).await >= 3);
    assert_eq!(count(&pool, "vlaapi.audit_pending").await, 0);
    assert_eq!(count(&pool, "vlaapi.audit_quarantine").await, 0);

    let erasure = format!("/v1/customers/{customer}/erasure");
    let body = json!({"reason": "a letter", "legal_basis": "GDPR Art. 17(1)(b)"});
    let work = async {
        loop {
            seal(&mut sealer, service.now()).await;
            carry_out(&service.store, service.now()).await.expect("it is carried out");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        answer = service.call("POST", &erasure).json(&body).send() => { answer.expect(200); }
        () = work => unreachable!("the work has no end"),
    }
    let held =
        format!("vlaapi.customer_consent_audit where customer_id = '{customer}' and changed_by is not null");
    assert_eq!(count(&pool, &held).await, 0);
    vacuum(&database.owner).await.expect("the owner may write the tables anew");

    lay_out_keys(&service);
    let verified = said(&consentd(&service, &["audit", "verify"]));
    assert!(verified.contains("leaves"), "{verified}");
}

#[tokio::test]
async fn every_table_and_each_partition_to_come_can_be_replicated() {
    let database = managed_database().await;
    let pool = PgPool::connect_with(database.owner.clone()).await.expect("the owner logs in");
    sqlx::query("select vlaapi.make_inference_log_partitions(current_date, 3)")
        .execute(&pool)
        .await
        .expect("partitions are made");
    let tables = "from pg_class c where relnamespace = 'vlaapi'::regnamespace and relkind in ('r', 'p')";
    assert!(count(&pool, &tables["from ".len()..]).await > 20);
    let without: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
        "select relname::text {tables} and relreplident <> 'f' and not (relreplident = 'd' and exists (
           select from pg_index where indrelid = c.oid and indisprimary and indisvalid))"
    )))
    .fetch_all(&pool)
    .await
    .expect("the catalog");
    assert_eq!(without, Vec::<String>::new());
}

#[tokio::test]
async fn every_function_that_a_role_calls_is_granted_by_name() {
    let database = managed_database().await;
    let pool = PgPool::connect_with(database.owner.clone()).await.expect("the owner logs in");
    let not_granted: Vec<String> = sqlx::query_scalar(
        "select proname::text from pg_proc
         where pronamespace = 'vlaapi'::regnamespace and prorettype <> 'trigger'::regtype
           and not has_function_privilege('vlaapi_app', oid, 'execute')",
    )
    .fetch_all(&pool)
    .await
    .expect("the catalog");
    assert_eq!(not_granted, Vec::<String>::new());
}
