//! What was acknowledged is in the log, though PostgreSQL is killed in the middle of it.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use uuid::Uuid;

use super::sealing::hold_order;
use super::{Replica, leaves, seal, tree};
use crate::cluster::OwnCluster;
use crate::service::Service;

/// Writes until it is told to stop, whatever is answered meanwhile.
async fn write(service: &Service, customers: &[Uuid], stop: &AtomicBool, acknowledged: &Mutex<Vec<i64>>) {
    for round in 0_usize.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let body = json!({"consent_tier": "basic", "policy_version": Uuid::new_v4().simple().to_string()});
        let answer = service.put(customers[round % customers.len()], &body).send().await;
        match answer.status.as_u16() {
            200 | 201 => {
                let audit_id = answer.json()["audit_id"].as_i64().expect("an id");
                acknowledged.lock().expect("no writer panicked").push(audit_id);
            }
            503 => tokio::time::sleep(Duration::from_millis(20)).await,
            _ => panic!("{}", answer.text()),
        }
    }
}

async fn kill_while_writing(kills: usize, between: Duration) {
    let mut cluster = OwnCluster::start().await;
    let service = Service::on(cluster.owner.clone(), &cluster.service).await;
    let mut replicas = [
        Replica::start(&service, "a").await,
        Replica::start(&service, "b").await,
        Replica::start(&service, "c").await,
    ];
    let mut customers = Vec::new();
    for _ in 0..20 {
        customers.push(service.customer().await);
    }
    let (stop, acknowledged) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let kill = async {
        for _ in 0..kills {
            tokio::time::sleep(between).await;
            cluster.kill().await;
            cluster.start_again().await;
        }
        tokio::time::sleep(between).await;
        stop.store(true, Ordering::Relaxed);
    };
    let writers = join_all((0..12).map(|writer| write(&service, &customers[writer..], &stop, &acknowledged)));
    let sealers = join_all(replicas.each_mut().map(async |replica| {
        while !stop.load(Ordering::Relaxed) {
            if replica.sealer.round(service.now()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            tokio::task::yield_now().await;
        }
    }));
    tokio::join!(kill, writers, sealers);

    for replica in &mut replicas {
        seal(&mut replica.sealer, service.now()).await;
    }
    for replica in &replicas {
        assert_eq!(replica.view.get().fork, None);
    }
    let pool = service.sql().await;
    let leaves = leaves(&pool).await;
    hold_order(&leaves);
    let sealed: BTreeSet<i64> = leaves[1..].iter().map(|(audit_id, _)| *audit_id).collect();
    // What was committed when its answer was cut off is in the trail too: the leaves are the trail, no more and no less.
    let written: Vec<i64> = sqlx::query_scalar("select audit_id from vlaapi.customer_consent_audit")
        .fetch_all(&pool)
        .await
        .expect("a trail");
    assert_eq!(sealed, written.into_iter().collect());
    let acknowledged: BTreeSet<i64> =
        acknowledged.into_inner().expect("no writer panicked").into_iter().collect();
    assert!(acknowledged.len() > 20 * kills, "{} changes alone were acknowledged", acknowledged.len());
    assert!(acknowledged.is_subset(&sealed));
    let root = tree(leaves.iter().map(|(_, leaf)| leaf)).root();
    for replica in &replicas {
        let (signed, _) = replica.view.get().checkpoint.expect("a checkpoint");
        assert_eq!((signed.size, signed.root), (leaves.len() as u64, root));
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_was_acknowledged_is_lost_or_sealed_twice_though_postgresql_is_killed() {
    kill_while_writing(2, Duration::from_millis(700)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes: make soak"]
async fn soak_nothing_is_lost_or_sealed_twice_though_postgresql_is_killed_again_and_again() {
    kill_while_writing(60, Duration::from_millis(1500)).await;
}
