//! Clients that hang up, cancelled transactions, a database that goes away.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::cluster::OwnCluster;
use crate::service::{Service, consent};

#[tokio::test]
async fn a_write_is_whole_though_its_client_hangs_up() {
    let service = Service::start().await;
    let customer = service.customer().await;
    // Holding the row keeps the write in the middle of its transaction while its client goes away.
    let pool = service.sql().await;
    service.put(customer, &json!({"consent_tier": "basic"})).send().await.expect(201);
    let mut holder = pool.begin().await.expect("a transaction");
    sqlx::query("select 1 from vlaapi.customer_data_consent where customer_id = $1 for update")
        .bind(customer)
        .execute(&mut *holder)
        .await
        .expect("a lock");
    let body = json!({"consent_tier": "analytics"});
    let write = service.put(customer, &body).send();
    tokio::time::timeout(Duration::from_millis(200), write).await.expect_err("the write waits for the row");
    holder.rollback().await.expect("the lock is given back");
    for _ in 0..100 {
        if service.consent(customer).await["version"] == 2 {
            assert_eq!(service.trail(customer).await.len(), 2);
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the write was lost with its client");
}

#[tokio::test]
async fn cancelled_transactions_take_no_later_write_with_them() {
    let service = Service::start().await;
    for round in 0..200_u64 {
        // Cancelled at any point of `begin`, which is where a session may go back to the pool inside a transaction.
        let begin = service.store.begin();
        let _ = tokio::time::timeout(Duration::from_micros(round * 7 % 500), begin).await;
    }
    let mut written = Vec::new();
    for _ in 0..20 {
        let customer = service.customer().await;
        service.put(customer, &json!({"consent_tier": "basic"})).send().await.expect(201);
        written.push(customer);
    }
    // Through connections of its own: what was acknowledged is there for everybody.
    let pool = service.sql().await;
    let durable: i64 = sqlx::query_scalar(
        "select count(*) from vlaapi.customer_data_consent where customer_id = any($1) and version = 1",
    )
    .bind(&written)
    .fetch_one(&pool)
    .await
    .expect("a count");
    assert_eq!(durable, 20);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let left: i64 = sqlx::query_scalar(
        "select count(*) from pg_stat_activity where datname = current_database() and state like 'idle in transaction%'",
    )
    .fetch_one(&pool)
    .await
    .expect("a count");
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_storm_of_clients_that_hang_up_loses_nothing_and_tears_nothing() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let mut acknowledged = 0;
    for round in 0..200_u64 {
        let body = json!({"consent_tier": "basic", "policy_version": round.to_string()});
        let put = service.put(customer, &body).send();
        if let Ok(answer) = tokio::time::timeout(Duration::from_micros(200 + round * 37 % 4000), put).await {
            assert!(answer.status.is_success(), "{}", answer.text());
            acknowledged += 1;
        }
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let record = service.consent(customer).await;
    let trail = service.trail(customer).await;
    let versions: Vec<_> =
        trail.iter().rev().map(|entry| entry["version"].as_u64().expect("a version")).collect();
    assert!(versions.iter().copied().eq(1..=versions.len() as u64), "{versions:?}");
    assert_eq!(record["version"].as_u64(), versions.last().copied());
    assert!(versions.len() >= acknowledged);
    service.get(&consent(customer)).send().await.expect(200);
}

#[tokio::test]
async fn the_database_may_go_away_and_come_back() {
    let mut cluster = OwnCluster::start().await;
    let service = Service::on(cluster.owner.clone(), &cluster.service).await;
    let customer = service.customer().await;
    let granted = |policy: &str| json!({"consent_tier": "research", "can_store_images": true, "policy_version": policy});
    service.put(customer, &granted("first")).send().await.expect(201);
    for gone in ["killed", "stopped"] {
        if gone == "killed" {
            cluster.kill().await;
        } else {
            cluster.stop().await;
        }
        for _ in 0..3 {
            let asked = Instant::now();
            let check = format!("{}/permissions?check=images", consent(customer));
            // Never a yes, never a guess: 503, which every client takes for a no.
            let answer = service.get(&check).send().await.expect(503);
            answer.problem("unavailable");
            let wait: u64 = answer.header("retry-after").expect("a wait").parse().expect("seconds");
            assert!((1..=3).contains(&wait));
            service.put(customer, &json!({"consent_tier": "analytics"})).send().await.expect(503);
            assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
        }
        let asked = Instant::now();
        loop {
            let ready = service.get("/readyz").no_key().send().await.expect(200).json();
            assert_eq!(ready["dependencies"][0]["name"], "database");
            if ready["dependencies"][0]["condition"] == "down" {
                break;
            }
            assert!(asked.elapsed() < Duration::from_secs(3), "it is not noticed that the database is gone");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        service.get("/livez").no_key().send().await.expect(200);

        cluster.start_again().await;
        let back = Instant::now();
        while service.get(&consent(customer)).send().await.status != 200 {
            assert!(back.elapsed() < Duration::from_secs(5), "not back to work");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        service.put(customer, &granted(gone)).send().await.expect(200);
    }
    let versions: Vec<_> =
        service.trail(customer).await.iter().map(|entry| entry["version"].clone()).collect();
    assert_eq!(versions, [json!(3), json!(2), json!(1)]);
}
