//! The service verifies its own log, and says how that ended.

use std::path::Path;

use serde_json::{Value, json};
use sqlx::PgPool;

use super::running::Running;
use super::{eventually, tamper};
use crate::cluster::{TestDatabase, database};

/// What the first verification of a service with two entries says, of which one was changed in the database if `changed`.
async fn first_verification(database: &TestDatabase, data_dir: &Path, changed: bool) -> (Value, String) {
    let running = Running::start(database, data_dir, &[("CONSENTD_AUDIT_VERIFY_INTERVAL", "1")]).await;
    let customer = running.customer("a@example.com").await;
    running.change(customer).await;
    let last = running.change(customer).await;
    running.proof(last).await;
    assert!(running.status().await.get("last_verification").is_none(), "it is not verified yet");
    if changed {
        let pool = PgPool::connect_with(database.owner.clone()).await.expect("the database is there");
        let statement =
            format!("update vlaapi.customer_consent_audit set new_tier = 'research' where audit_id = {last}");
        tamper(&pool, &statement).await;
    }
    let mut status = Value::Null;
    eventually("it is verified", async || {
        status = running.status().await;
        status.get("last_verification").is_some()
    })
    .await;
    assert_eq!(status["state"], "sealing");
    let metrics = running.get("/metrics").await;
    running.says("verified the audit log").await;
    if changed {
        running.says("the audit log does not hold").await;
    }
    running.stop().await;
    (status["last_verification"].clone(), metrics)
}

#[tokio::test]
async fn the_log_is_verified_by_the_service_itself_and_the_result_is_told() {
    let (whole, tampered) = (database().await, database().await);
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (clean, found) = tokio::join!(
        first_verification(&whole, one.path(), false),
        first_verification(&tampered, other.path(), true)
    );
    let (result, metrics) = clean;
    assert_eq!(
        (&result["result"], &result["tree_size"], &result["findings"]),
        (&json!("clean"), &json!(3), &json!([]))
    );
    assert!(result["started_at"].is_string() && result["took_ms"].is_u64(), "{result}");
    assert!(metrics.contains("consentd_audit_verification_clean 1"), "{metrics}");
    let (result, metrics) = found;
    assert_eq!(result["result"], "tampering");
    assert_eq!(result["findings"][0]["rule"], "V7", "{result}");
    assert!(metrics.contains("consentd_audit_verification_clean 0"), "{metrics}");
}
