//! A database that contradicts what was published: nothing is sealed any more, and everything else goes on.

use std::sync::Arc;

use consentd::domain::WriterKey;
use consentd::ops::log::memory::Memory;
use consentd::ops::log::sealer::Sealer;
use consentd::ops::log::{LogKeys, LogView, opening};
use consentd::store::consents::Attribution;
use consentd::tlog::{Note, SigningKey};
use serde_json::{Value, json};

use super::backup::Backup;
use super::{
    ORIGIN, Replica, change, checkpoint, consentd, count, dependency, lay_out_keys, leaves, proof, prove,
    read, said, seal, tamper, verifier_keys,
};
use crate::service::Service;

async fn readiness(service: &Service) -> Value {
    let ready = service.get("/readyz").no_key().send().await.expect(200).json();
    dependency(&ready, "audit_log")
}

/// A service with five leaves, and a database that was set back to two.
async fn set_back(service: &Service, sealer: &mut Sealer) -> i64 {
    let first = change(service, service.customer().await).await;
    seal(sealer, service.now()).await;
    let backup = Backup::take(&service.owner).await;
    for _ in 0..3 {
        change(service, service.customer().await).await;
    }
    seal(sealer, service.now()).await;
    backup.restore().await;
    first
}

#[tokio::test]
async fn a_database_that_was_set_back_stops_the_log_and_nothing_else() {
    let service = Service::start().await;
    let mut sealer = service.sealer().await;
    set_back(&service, &mut sealer).await;
    assert_eq!(readiness(&service).await, json!({"name": "audit_log", "condition": "up"}));

    change(&service, service.customer().await).await;
    let round = sealer.round(service.now()).await.unwrap();
    assert!(round.sealed == 0 && round.signed.is_none());
    let fork = service.view.get().fork.expect("it is found out");
    assert!(fork.contains("of size 2") && fork.contains("size 5"), "{fork}");

    // Writes go on; nothing is sealed, now and later.
    change(&service, service.customer().await).await;
    assert_eq!(seal(&mut sealer, service.now()).await, 0);
    let ready = readiness(&service).await;
    assert_eq!(ready["condition"], "down");
    assert!(ready["detail"].as_str().unwrap().starts_with("forked: "), "{ready}");
    let status = service.get("/v1/audit/log/status").send().await.expect(200).json();
    assert_eq!((&status["state"], &status["pending"]), (&json!("forked"), &json!(2)));
    assert_eq!(status["fork"], fork);

    // Another replica, which never saw more, stops with it.
    let mut other = Replica::start(&service, "other").await;
    let round = other.round(service.now()).await;
    assert!(round.sealed == 0 && round.signed.is_none());
    assert_eq!(other.view.get().fork, Some(fork));
    assert_eq!(leaves(&service.sql().await).await.len(), 2);
}

#[tokio::test]
async fn a_replica_that_was_started_anew_remembers_what_it_saw() {
    let service = Service::start().await;
    let mut sealer = service.sealer().await;
    set_back(&service, &mut sealer).await;
    drop(sealer);
    // A replica without a memory goes on as if nothing were.
    let mut other = Replica::start(&service, "other").await;
    for _ in 0..5 {
        change(&service, service.customer().await).await;
    }
    assert_eq!(seal(&mut other.sealer, service.now()).await, 5);

    // Longer, but not grown from what was seen: found out before the first round.
    let mut again = service.sealer().await;
    let fork = service.view.get().fork.expect("it is found out");
    assert!(fork.contains("does not show the tree of size 5"), "{fork}");
    assert_eq!(seal(&mut again, service.now()).await, 0);
    change(&service, service.customer().await).await;
    assert_eq!(seal(&mut other.sealer, service.now()).await, 0);
    assert_eq!(other.view.get().fork, Some(fork));
}

#[tokio::test]
async fn the_other_replicas_are_told_of_a_fork_as_soon_as_they_can_be() {
    let service = Service::start().await;
    let mut sealer = service.sealer().await;
    set_back(&service, &mut sealer).await;
    let pool = service.sql().await;
    let mut holder = pool.begin().await.unwrap();
    sqlx::raw_sql("select from vlaapi.audit_logs for update").execute(&mut *holder).await.unwrap();
    sealer.round(service.now()).await.expect_err("the log's row is held by somebody");
    assert!(service.view.get().fork.is_some(), "here nothing is sealed any more, at once");
    holder.rollback().await.unwrap();
    assert_eq!(count(&pool, "vlaapi.audit_logs where fork is not null").await, 0);
    sealer.round(service.now()).await.unwrap();
    assert_eq!(count(&pool, "vlaapi.audit_logs where fork is not null").await, 1);
}

#[tokio::test]
async fn what_another_replica_made_of_the_log_is_believed_only_if_it_grew_from_what_was_seen() {
    let service = Service::start().await;
    let mut one = Replica::start(&service, "one").await;
    seal(&mut one.sealer, service.now()).await;
    let backup = Backup::take(&service.owner).await;
    change(&service, service.customer().await).await;
    seal(&mut one.sealer, service.now()).await;
    backup.restore().await;
    let mut other = Replica::start(&service, "other").await;
    for _ in 0..3 {
        change(&service, service.customer().await).await;
    }
    seal(&mut other.sealer, service.now()).await;
    // The database shows size 4, where this replica has seen another size 2.
    assert_eq!(seal(&mut one.sealer, service.now()).await, 0);
    let fork = one.view.get().fork.expect("it is found out");
    assert!(fork.contains("the tree of size 2 has another root than before"), "{fork}");
}

#[tokio::test]
async fn leaves_and_checkpoints_that_are_not_the_logs_own_are_never_signed_or_followed() {
    let foreign = SigningKey::from_seed([77; 32]);
    for (what, expected) in [
        ("bytes", "is not what its hash says"),
        ("gap", "is missing"),
        ("checkpoint", "is not ours: no signature is of a known key"),
        ("root", "has not the root that was signed"),
    ] {
        let service = Service::start().await;
        let mut sealer = service.sealer().await;
        change(&service, service.customer().await).await;
        seal(&mut sealer, service.now()).await;
        let pool = service.sql().await;
        let (signed, note) = service.view.get().checkpoint.unwrap();
        // Another replica appends; this one reads it back.
        let larger = |root| {
            let text = consentd::tlog::Checkpoint { size: 3, root, ..signed.clone() }.to_string();
            let key = if what == "checkpoint" { &foreign } else { &service.keys.signers[0] };
            let note = Note { signatures: vec![key.sign_note(ORIGIN, &text)], text };
            format!("insert into vlaapi.audit_checkpoints values (1, 3, '{note}', now())")
        };
        let leaf = |hash: &str| {
            format!(
                "insert into vlaapi.audit_leaves values (1, 2, 4711, {hash}, 'a');
                 update vlaapi.audit_logs set tree_size = 3"
            )
        };
        let rfc_6962 = r"sha256('\x0061')";
        let statements = match what {
            "bytes" => leaf("sha256('b')"),
            "gap" => "update vlaapi.audit_logs set tree_size = 3".to_owned(),
            _ => format!("{}; {}", leaf(rfc_6962), larger(signed.root)),
        };
        tamper(&pool, &statements).await;
        let round = sealer.round(service.now()).await.unwrap();
        assert!(round.signed.is_none() && round.noticed.is_none(), "{what}");
        let fork = service.view.get().fork.expect(what);
        assert!(fork.contains(expected), "{what}: {fork}");
        // What is shown is what was signed last.
        assert_eq!(service.view.get().checkpoint.unwrap().1, note, "{what}");
    }
}

#[tokio::test]
async fn the_next_log_names_the_last_checkpoint_that_was_seen_and_the_sealers_go_on_with_it() {
    let service = Service::start().await;
    lay_out_keys(&service);
    let mut sealer = service.sealer().await;
    let mut other = Replica::start(&service, "other").await;
    let old_entry = set_back(&service, &mut sealer).await;
    let issued = proof(&service, old_entry).await;
    let (lost, _) = service.view.get().checkpoint.unwrap();
    assert_eq!(lost.size, 5);
    let waiting = change(&service, service.customer().await).await;
    assert_eq!(seal(&mut sealer, service.now()).await, 0);
    assert!(service.view.get().fork.is_some());

    let refused = consentd(&service, &["audit", "new-log", "--reason", " "]);
    assert!(!refused.status.success());
    let opened = said(&consentd(&service, &["audit", "new-log", "--reason", "restored after a fire"]));
    let origin = "log.example/audit/2";
    let keys = verifier_keys(&service, origin);
    assert!(
        opened.starts_with(&format!("{origin} is open")) && opened.contains(&keys[0].to_string()),
        "{opened}"
    );

    // Both go on by themselves, and what waited is sealed.
    for view in [&service.view, &other.view] {
        let sealer = if Arc::ptr_eq(view, &other.view) { &mut other.sealer } else { &mut sealer };
        sealer.round(service.now()).await.unwrap();
        seal(sealer, service.now()).await;
        assert_eq!((view.get().fork, view.get().origin.as_str()), (None, origin));
        assert_eq!(view.get().checkpoint.expect("it is signed").0.size, 2);
    }
    assert_eq!(readiness(&service).await["condition"], "up");
    let pool = service.sql().await;
    let opening = read(&leaves(&pool).await[2].1);
    let previous = json!({"origin": ORIGIN, "tree_size": lost.size, "root": lost.root.to_string()});
    assert_eq!((&opening["event"], &opening["details"]["previous"]), (&json!("log.opened"), &previous));
    let reason: String =
        sqlx::query_scalar("select change_reason from vlaapi.audit_events order by audit_id desc limit 1")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!(reason, "restored after a fire");

    let now = prove(&proof(&service, waiting).await, &keys);
    assert_eq!(checkpoint(&now.checkpoint.to_string(), &keys).origin, origin);
    // Old proofs and old entries, under the old name; old files are served by their number.
    for proof in [issued, proof(&service, old_entry).await] {
        assert_eq!(prove(&proof, &verifier_keys(&service, ORIGIN)).leaf["audit_id"], old_entry);
    }
    let old = service.get("/v1/audit/log/checkpoint?log=1").send().await.expect(200).text();
    assert_eq!(checkpoint(&old, &verifier_keys(&service, ORIGIN)).size, 2);
    let tile = service.get("/v1/audit/log/tile/entries/000.p/2?log=1").send().await.expect(200);
    assert!(!tile.bytes.is_empty());
    service.get("/v1/audit/log/checkpoint?log=3").send().await.expect(404);

    // A replica that is started now takes up the new log.
    let mut third = Replica::start(&service, "other").await;
    third.round(service.now()).await;
    assert_eq!((third.view.get().fork, third.view.get().origin.as_str()), (None, origin));
}

#[tokio::test]
async fn a_log_that_was_opened_without_the_writers_key_is_refused() {
    let service = Service::start().await;
    let mut sealer = service.sealer().await;
    change(&service, service.customer().await).await;
    seal(&mut sealer, service.now()).await;
    // Somebody who has stolen the log's key, and not the writer's.
    let stolen = LogKeys { writers: vec![WriterKey::new([66; 32])], ..(*service.keys).clone() };
    let nowhere = Memory::at(service.outside.path().join("nothing"));
    let by = Attribution { changed_by: "system:operator".to_owned(), ..Attribution::default() };
    opening::open_next(&service.store, &stolen, None, &nowhere, &by, service.now()).await.unwrap();
    change(&service, service.customer().await).await;
    let round = sealer.round(service.now()).await.unwrap();
    assert!(round.sealed == 0 && round.signed.is_none());
    let fork = service.view.get().fork.expect("it is found out");
    assert!(fork.contains("does not follow log.example/audit/1 by this service's word"), "{fork}");
    let pool = service.sql().await;
    assert_eq!(count(&pool, "vlaapi.audit_checkpoints where log_id = 2").await, 0);

    // Nor a replica that is started then.
    let view = Arc::new(LogView::default());
    let log = service.store.open_log().await.unwrap().unwrap();
    let memory = Memory::at(service.outside.path().join("audit-checkpoint"));
    let mut again =
        Sealer::new(service.store.clone(), Arc::clone(&service.keys), Arc::clone(&view), memory, &log);
    again.recall(service.now()).await.unwrap();
    assert!(view.get().fork.is_some());
    assert!(again.round(service.now()).await.unwrap().signed.is_none());
}
