//! A backup is restored: the log stops, the next one is opened, and what was erased is erased again.

use consentd::tlog::VerifierKey;
use serde_json::{Value, json};
use sqlx::PgPool;

use super::backup::Backup;
use super::running::{Running, logins};
use super::{count, dependency, eventually, program, prove, said};
use crate::cluster::database;

const CANARY: &str = "vlaapi.customer_consent_audit where change_reason = 'canary-reason'";

#[tokio::test]
async fn after_a_restore_the_log_stops_a_new_one_is_opened_and_erasures_are_made_again() {
    let database = database().await;
    let data_dir = tempfile::tempdir().unwrap();
    let consentd = |arguments: &[&str]| {
        let mut command = program(data_dir.path(), arguments);
        command.envs(logins(&database.service, &database.owner)).output().unwrap()
    };
    let pool = PgPool::connect_with(database.owner.clone()).await.unwrap();

    let running = Running::start(&database, data_dir.path(), &[]).await;
    let (erased, kept) = (running.customer("a@example.com").await, running.customer("b@example.com").await);
    let first = running.change(erased).await;
    running.change(kept).await;
    let issued = running.proof(first).await;
    running.stop().await;
    let backup = Backup::take(&database.owner).await;

    // Entries, an erasure and a copy of the log from after the backup.
    let running = Running::start(&database, data_dir.path(), &[]).await;
    for _ in 0..3 {
        running.change(erased).await;
    }
    assert_eq!(running.erase(erased).await.0, 200);
    assert_eq!(count(&pool, CANARY).await, 1);
    let vkey: VerifierKey = running.get("/.well-known/consentd-audit.vkey").await.trim().parse().unwrap();
    let trail = data_dir.path().join("trail");
    let trail = trail.to_str().unwrap();
    let mirrored =
        program(data_dir.path(), &["audit", "mirror", trail]).env("CONSENTD_URL", &running.address).output();
    said(&mirrored.unwrap());
    running.stop().await;
    backup.restore().await;
    assert_eq!(count(&pool, CANARY).await, 2, "the backup has brought it back");

    // The replica remembers: it serves, and seals nothing.
    let running = Running::start(&database, data_dir.path(), &[]).await;
    let stopped = running.change(kept).await;
    assert_eq!(running.status().await["state"], "forked");
    let ready: Value = serde_json::from_str(&running.get("/readyz").await).unwrap();
    assert_eq!(
        (&ready["status"], &dependency(&ready, "audit_log")["condition"]),
        (&json!("ready"), &json!("down"))
    );
    eventually("the metric tells it", async || {
        running.get("/metrics").await.contains("consentd_audit_log_forked 1")
    })
    .await;
    running.says("the audit log is forked").await;

    // The next log, beside the running service, which goes on with it by itself.
    let opened = said(&consentd(&["audit", "new-log", "--reason", "restored the backup"]));
    assert!(opened.starts_with("log.example/audit/2 is open"), "{opened}");
    eventually("it seals again", async || {
        let status = running.status().await;
        status["state"] == "sealing" && status["pending"] == 0 && status["log"] == 2
    })
    .await;
    assert!(running.get("/metrics").await.contains("consentd_audit_log_forked 0"));
    running.proof(stopped).await;
    // Ids are given out anew: this one belonged to an entry which was erased.
    let young = running.change(kept).await;
    assert!(young > first + 2);

    let replayed = said(&consentd(&["audit", "replay-erasures", "--from", trail]));
    assert!(replayed.starts_with("1 erasures read, 1 had to be made again"), "{replayed}");
    eventually("it is erased again", async || {
        let gone = format!(
            "vlaapi.customer_consent_audit where customer_id = '{erased}' and change_reason is not null"
        );
        count(&pool, &gone).await == 0
            && count(&pool, "vlaapi.customers where email = 'a@example.com'").await == 0
    })
    .await;
    assert_eq!(count(&pool, CANARY).await, 3, "the other customer's entries are not touched");
    let replayed = said(&consentd(&["audit", "replay-erasures", "--from", trail]));
    assert!(replayed.starts_with("1 erasures read, 0 had to be made again"), "{replayed}");
    let details: Value = sqlx::query_scalar(
        "select details from vlaapi.audit_events where kind = 'pii.erased' order by audit_id desc limit 1",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert!(details["replays"].as_str().unwrap().starts_with("log.example/audit/1#"), "{details}");
    assert_eq!(details["entries"], json!([[first, first]]));

    // What was issued before all this is good, and the whole verifies: the loss is declared.
    assert_eq!(prove(&issued, &[vkey]).leaf["audit_id"], first);
    let lost = format!("{trail}/checkpoint");
    let report = said(&consentd(&["audit", "verify", "--checkpoints", &lost]));
    assert!(report.contains("clean: nothing was found"), "{report}");
    assert!(report.contains("as the log that follows declares"), "{report}");
    running.stop().await;
}
