//! Attacks on what is not sealed yet, and entries that nobody made.

use consentd::verify::Rule::{V4, V7, V9, V10, V11, V12};
use consentd::verify::{Standards, Verdict};

use super::forgery::roll_back;
use super::scene::{ORIGIN, Scene, assert_found, rules};

/// Inserts an entry as the first customer's next version, and answers its id.
async fn forge(scene: &mut Scene, by: &str, mac: &str) -> i64 {
    let customer = scene.customers[0];
    let id = scene.number("select nextval('vlaapi.customer_consent_audit_audit_id_seq')").await;
    scene
        .sql(&format!(
            "insert into vlaapi.customer_consent_audit
               (audit_id, customer_id, action, version, previous_tier, new_tier, previous, current, changed_by,
                changed_by_salt, timestamp, mac)
             select {id}, customer_id, 'updated', version + 1, new_tier, 'research', current,
               current || '{{\"consent_tier\": \"research\"}}', '{by}', vlaapi.random_salt(), clock_timestamp(), {mac}
             from vlaapi.customer_consent_audit
             where customer_id = '{customer}' order by version desc limit 1;
             insert into vlaapi.audit_pending (audit_id) values ({id})"
        ))
        .await;
    id
}

/// Makes the consent the one that the forged entry tells of.
async fn let_stand(scene: &mut Scene, id: i64) {
    scene
        .sql(&format!(
            "update vlaapi.customer_data_consent consent
             set version = entry.version, audit_id = entry.audit_id, consent_updated_at = entry.timestamp,
               consent_tier = entry.new_tier
             from vlaapi.customer_consent_audit entry
             where entry.audit_id = {id} and consent.customer_id = entry.customer_id"
        ))
        .await;
}

#[tokio::test]
async fn attack_11_a_forged_entry_that_pretends_to_be_the_services_is_found() {
    let mut scene = Scene::start().await;
    let id = forge(&mut scene, "key:vla_live_a1b2", "null").await;
    let_stand(&mut scene, id).await;
    scene.seal().await;
    scene.judge(11, V7, &format!("entry {id}")).await;
}

#[tokio::test]
async fn a_forged_entry_with_an_invented_mac_is_not_sealed() {
    let mut scene = Scene::start().await;
    let id = forge(&mut scene, "key:vla_live_a1b2", "'\\x00112233445566778899aabbccddeeff'").await;
    let_stand(&mut scene, id).await;
    let rounds = scene.seal().await;
    assert_eq!(rounds[0].quarantined.len(), 1);
    let inside = scene.inside().await;
    assert_eq!(rules(&inside), [V9]);
    assert_found(&inside, V9, &format!("entry {id}"));
}

#[tokio::test]
async fn a_forged_entry_that_changes_no_consent_is_found_at_its_customer() {
    let mut scene = Scene::start().await;
    let customer = scene.customers[0];
    forge(&mut scene, "sql:dashboard", "null").await;
    scene.seal().await;
    let inside = scene.inside().await;
    assert_eq!(rules(&inside), [V10]);
    assert_found(&inside, V10, &format!("customer {customer}"));
}

/// Whoever may change the database may change a consent, and is named: that is the trail at work, and no attack on it.
#[tokio::test]
async fn a_forged_entry_that_names_its_database_user_and_changes_the_consent_is_told_from_the_services() {
    let mut scene = Scene::start().await;
    let before = scene.outside().await.vouched_for;
    let id = forge(&mut scene, "sql:dashboard", "null").await;
    let_stand(&mut scene, id).await;
    scene.seal().await;
    let report = scene.outside().await;
    assert_eq!((report.verdict(), report.vouched_for), (Verdict::Clean, before));
}

#[tokio::test]
async fn attack_12_an_entry_deleted_before_it_is_sealed_is_found() {
    let mut scene = Scene::start().await;
    let customer = scene.customers[0];
    let id = scene.decide(customer, "to be deleted").await["audit_id"].as_i64().expect("an id");
    scene.sql(&format!("delete from vlaapi.customer_consent_audit where audit_id = {id}")).await;
    scene.judge(12, V9, &format!("entry {id}")).await;
    scene.seal().await;
    scene.judge(12, V10, &format!("customer {customer}")).await;
    // Taken out of the queue as well, it is missing all the same.
    scene.sql("delete from vlaapi.audit_quarantine").await;
    let inside = scene.inside().await;
    assert_eq!(rules(&inside), [V10]);
    assert_found(&inside, V10, &format!("customer {customer}"));
}

#[tokio::test]
async fn attack_13_an_entry_deleted_before_it_is_sealed_with_the_consent_set_back_is_found_by_its_receipt_alone()
 {
    let mut scene = Scene::start().await;
    let customer = scene.customers[0];
    scene.decide(customer, "never happened").await;
    let id = roll_back(&mut scene, customer).await;
    scene
        .sql(&format!(
            "delete from vlaapi.customer_consent_audit where audit_id = {id};
             delete from vlaapi.audit_pending where audit_id = {id}"
        ))
        .await;
    scene.seal().await;
    scene.judge(13, V11, &format!("receipt for entry {id}")).await;
    // Checkpoints do not know of it either.
    assert_eq!(scene.verify(scene.checkpoints.clone(), Vec::new()).await.verdict(), Verdict::Clean);
}

#[tokio::test]
async fn attack_19_an_entry_changed_before_it_is_sealed_is_found() {
    let mut scene = Scene::start().await;
    let id = scene.decide(scene.customers[0], "as it was").await["audit_id"].as_i64().expect("an id");
    scene
        .sql(&format!("update vlaapi.customer_consent_audit set new_tier = 'research' where audit_id = {id}"))
        .await;
    let rounds = scene.seal().await;
    assert_eq!(rounds[0].quarantined.len(), 1);
    scene.judge(19, V9, &format!("entry {id}")).await;
}

#[tokio::test]
async fn attack_20_an_id_removed_from_the_queue_only_is_found() {
    let mut scene = Scene::start().await;
    let id = scene.decide(scene.customers[0], "overlooked").await["audit_id"].as_i64().expect("an id");
    scene.sql(&format!("delete from vlaapi.audit_pending where audit_id = {id}")).await;
    scene.seal().await;
    scene.judge(20, V9, &format!("entry {id}")).await;
}

#[tokio::test]
async fn what_waits_to_be_sealed_is_no_finding_for_a_minute() {
    let mut scene = Scene::start().await;
    let id = scene.decide(scene.customers[0], "a moment ago").await["audit_id"].as_i64().expect("an id");
    let report = scene.outside().await;
    assert_eq!(report.verdict(), Verdict::Clean, "{:#?}", report.findings);
    scene.sql("update vlaapi.audit_pending set queued_at = queued_at - interval '5 minutes'").await;
    let report = scene.outside().await;
    assert_eq!(rules(&report), [V9]);
    assert_found(&report, V9, &format!("entry {id}"));
}

#[tokio::test]
async fn a_tree_that_was_not_signed_for_a_minute_is_a_finding() {
    let mut scene = Scene::start().await;
    scene.sql("update vlaapi.audit_checkpoints set signed_at = signed_at - interval '5 minutes'").await;
    let report = scene.outside().await;
    assert_eq!(rules(&report), [V4]);
    assert_found(&report, V4, ORIGIN);
}

#[tokio::test]
async fn a_time_in_the_future_is_a_finding() {
    let mut scene = Scene::start().await;
    let customer = scene.customers[0];
    let pool = scene.service.sql().await;
    sqlx::query(
        "update vlaapi.customer_data_consent
         set consent_tier = 'basic', consent_updated_at = clock_timestamp() + interval '1 hour' where customer_id = $1",
    )
    .bind(customer)
    .execute(&pool)
    .await
    .expect("a change past the service");
    scene.seal().await;
    let report = scene.outside().await;
    assert_eq!(rules(&report), [V12]);
    assert_found(&report, V12, ORIGIN);
    let standards = Standards { now: scene.service.now() + chrono::TimeDelta::hours(1), ..scene.standards() };
    assert!(!rules(&scene.verify_by(&standards).await).contains(&V12));
}
