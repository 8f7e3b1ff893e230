//! Entries become leaves: each once, in order, whoever seals and whatever comes between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::TimeDelta;
use consentd::domain::Source;
use consentd::store::log::entries;
use consentd::store::log::sealing::{self, NewLeaf};
use consentd::tlog::tree::leaf_hash;
use futures_util::future::join_all;
use serde_json::json;
use uuid::Uuid;

use super::{
    ORIGIN, Replica, change, checkpoint, count, leaves, proof, prove, read, seal, tamper, tree, verifier_keys,
};
use crate::service::Service;

/// Every leaf is about an entry of its own, and each customer's versions come in their order.
#[track_caller]
pub fn hold_order(leaves: &[(i64, Vec<u8>)]) {
    let mut versions: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (audit_id, leaf) in leaves {
        let leaf = read(leaf);
        assert_eq!(leaf["audit_id"], *audit_id);
        assert!(seen.insert(*audit_id), "entry {audit_id} is sealed twice");
        if let Some(customer) = leaf["customer_id"].as_str() {
            versions
                .entry(customer.to_owned())
                .or_default()
                .push(leaf["version"].as_i64().expect("a version"));
        }
    }
    for (customer, versions) in versions {
        assert!(versions.iter().copied().eq((1_i64..).take(versions.len())), "{customer}: {versions:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_sealers_and_twelve_writers_make_one_tree() {
    let service = Service::start().await;
    let mut replicas = [
        Replica::start(&service, "a").await,
        Replica::start(&service, "b").await,
        Replica::start(&service, "c").await,
    ];
    let mut customers = Vec::new();
    for _ in 0..5 {
        customers.push(service.customer().await);
    }
    let written = AtomicBool::new(false);
    let write = async {
        let writers = (0..12).map(async |writer: usize| {
            let mut acknowledged = Vec::new();
            for round in 0..25 {
                acknowledged.push(change(&service, customers[(writer + round) % customers.len()]).await);
            }
            acknowledged
        });
        let acknowledged: Vec<i64> = join_all(writers).await.concat();
        written.store(true, Ordering::Relaxed);
        acknowledged
    };
    let sealers = replicas.each_mut().map(async |replica| {
        let mut sealed = 0;
        while !written.load(Ordering::Relaxed) {
            let round = replica.round(service.now()).await;
            assert!(round.quarantined.is_empty());
            sealed += round.sealed;
            tokio::task::yield_now().await;
        }
        sealed + seal(&mut replica.sealer, service.now()).await
    });
    let (acknowledged, sealed) = tokio::join!(write, join_all(sealers));
    assert_eq!((acknowledged.len(), sealed.iter().sum::<usize>()), (300, 300));

    let leaves = leaves(&service.sql().await).await;
    hold_order(&leaves);
    let sealed: BTreeSet<i64> = leaves[1..].iter().map(|(audit_id, _)| *audit_id).collect();
    assert_eq!(sealed, acknowledged.into_iter().collect());
    let root = tree(leaves.iter().map(|(_, leaf)| leaf)).root();
    for replica in &mut replicas {
        replica.round(service.now()).await;
        let (signed, note) = replica.view.get().checkpoint.expect("a checkpoint");
        assert_eq!(checkpoint(&note, &verifier_keys(&service, ORIGIN)), signed);
        assert_eq!((signed.size, signed.root), (301, root));
    }
}

#[tokio::test]
async fn a_round_that_is_cut_before_signing_is_taken_up_by_another_replica() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let mut sealer = service.sealer().await;
    seal(&mut sealer, service.now()).await;
    let audit_id = change(&service, customer).await;

    // What a replica has committed that was killed then.
    let mut transaction = service.store.begin().await.unwrap();
    let log = sealing::lead(&mut transaction).await.unwrap().expect("nobody else leads");
    let (queued, _) = sealing::take_pending(&mut transaction, 10).await.unwrap();
    let entry = entries::load(&mut transaction, &queued).await.unwrap().remove(0).entry;
    let leaf = entry.leaf(Source::Service, &entry.commitments()).unwrap();
    let leaf = NewLeaf { audit_id, hash: leaf_hash(&leaf), leaf };
    assert!(sealing::append(&mut transaction, &log, &[leaf], &[]).await.unwrap());
    // Meanwhile nobody else appends.
    assert_eq!(sealer.round(service.now()).await.unwrap().sealed, 0);
    transaction.commit().await.unwrap();
    service.get(&format!("/v1/audit/{audit_id}/proof")).send().await.expect(404).problem("not-sealed");

    let signed = sealer.round(service.now()).await.unwrap().signed.expect("it is signed");
    assert_eq!(signed.checkpoint.size, 2);
    let proven = prove(&proof(&service, audit_id).await, &verifier_keys(&service, ORIGIN));
    assert_eq!(proven.leaf["audit_id"], audit_id);
}

#[tokio::test]
async fn a_log_at_rest_is_signed_anew_every_twenty_seconds() {
    let service = Service::start().await;
    let mut sealer = service.sealer().await;
    seal(&mut sealer, service.now()).await;
    let status = async || service.get("/v1/audit/log/status").send().await.expect(200).json();
    let first = status().await;
    service.advance(TimeDelta::seconds(19));
    sealer.round(service.now()).await.unwrap();
    assert_eq!(status().await["signed_at"], first["signed_at"]);
    service.advance(TimeDelta::seconds(1));
    let round = sealer.round(service.now()).await.unwrap();
    assert!(round.signed.is_none(), "it is no other checkpoint");
    let second = status().await;
    assert_eq!(second["signed_at"], json!(service.now()));
    assert_eq!((&second["tree_size"], &second["root"]), (&first["tree_size"], &first["root"]));
    assert_eq!(service.view.get().signed_at, Some(service.now()));
}

#[tokio::test]
async fn what_the_service_did_not_write_is_set_aside_and_the_rest_goes_on() {
    let service = Service::start().await;
    let mut sealer = service.sealer().await;
    let pool = service.sql().await;
    let mut written = Vec::new();
    for _ in 0..4 {
        written.push(change(&service, service.customer().await).await);
    }
    let ghost = written[3] + 1000;
    tamper(
        &pool,
        &format!(
            "update vlaapi.customer_consent_audit set new_tier = 'research' where audit_id = {};
             update vlaapi.customer_consent_audit set mac = sha256('guessed') where audit_id = {};
             insert into vlaapi.audit_pending (audit_id) values ({ghost})",
            written[0], written[2]
        ),
    )
    .await;
    let round = sealer.round(service.now()).await.unwrap();
    assert_eq!(round.sealed, 2);
    let mut aside: Vec<_> =
        round.quarantined.iter().map(|(audit_id, why)| (*audit_id, why.as_str())).collect();
    aside.sort_unstable();
    let mac = "its mac is not the service's word for what it tells";
    let gone = "it was queued, and is not in the trail";
    assert_eq!(aside, [(written[0], mac), (written[2], mac), (ghost, gone)]);

    // For good: neither queued again nor sealed, and an alarm.
    assert_eq!(seal(&mut sealer, service.now()).await, 0);
    let status = service.get("/v1/audit/log/status").send().await.expect(200).json();
    assert_eq!(
        (&status["quarantined"], &status["pending"], &status["state"]),
        (&json!(3), &json!(0), &json!("sealing"))
    );
    change(&service, service.customer().await).await;
    assert_eq!(seal(&mut sealer, service.now()).await, 1);
    service.get(&format!("/v1/audit/{}/proof", written[0])).send().await.expect(404).problem("not-sealed");
}

#[tokio::test]
async fn an_entry_that_is_queued_twice_is_sealed_once() {
    let service = Service::start().await;
    let mut sealer = service.sealer().await;
    let pool = service.sql().await;
    let audit_id = change(&service, service.customer().await).await;
    let again = format!("insert into vlaapi.audit_pending (audit_id) values ({audit_id})");
    tamper(&pool, &again).await;
    assert_eq!(seal(&mut sealer, service.now()).await, 1);
    tamper(&pool, &again).await;
    assert_eq!(seal(&mut sealer, service.now()).await, 0);
    assert_eq!(count(&pool, "vlaapi.audit_quarantine").await + count(&pool, "vlaapi.audit_pending").await, 0);
    assert_eq!(leaves(&pool).await.len(), 2);
}

#[tokio::test]
async fn a_large_backlog_is_sealed_in_several_rounds() {
    let service = Service::start().await;
    let mut sealer = service.sealer().await;
    let pool = service.sql().await;
    backlog(&pool, 10_300).await;
    let first = sealer.round(service.now()).await.unwrap();
    assert_eq!((first.sealed, first.more), (10_000, true));
    assert_eq!(first.signed.expect("each round is signed").checkpoint.size, 10_001);
    let second = sealer.round(service.now()).await.unwrap();
    assert_eq!((second.sealed, second.more), (300, false));
    let signed = second.signed.expect("each round is signed").checkpoint;
    let leaves = leaves(&pool).await;
    assert_eq!((signed.size, signed.root), (10_301, tree(leaves.iter().map(|(_, leaf)| leaf)).root()));
    assert_eq!(count(&pool, "vlaapi.audit_nodes").await, 10_301 / 256);
}

/// Entries past the service, of one customer, which are queued.
pub async fn backlog(pool: &sqlx::PgPool, entries: i32) {
    tamper(
        pool,
        &format!(
            "insert into vlaapi.customer_consent_audit (customer_id, action, version, new_tier)
             select '{}', 'updated', version, 'basic' from generate_series(1, {entries}) version;
             insert into vlaapi.audit_pending (audit_id)
             select audit_id from vlaapi.customer_consent_audit order by audit_id",
            Uuid::new_v4()
        ),
    )
    .await;
}
