//! Attacks beside the list, each of which an earlier verification would have missed or died of.

use consentd::verify::Rule::{V2, V3, V4, V7};
use consentd::verify::Verdict;

use super::scene::{ORIGIN, Scene, assert_found, rules};

/// Copies a customer's last entry as the next version of another one, under `id`.
fn copy_as(scene: &Scene, id: i64) -> String {
    let (from, to) = (scene.customers[0], scene.customers[1]);
    format!(
            "insert into vlaapi.customer_consent_audit
               (audit_id, customer_id, action, version, previous_tier, new_tier, previous, current, changed_by,
                changed_by_salt, timestamp)
             select {id}, '{to}', action, version + 1, previous_tier, new_tier, previous, current, changed_by,
               changed_by_salt, timestamp
             from vlaapi.customer_consent_audit where customer_id = '{from}' order by version desc limit 1"
        )
}

#[tokio::test]
async fn an_entry_that_hides_behind_the_id_of_a_sealed_one_is_found() {
    let mut scene = Scene::start().await;
    for version in 1..=3 {
        let id = scene.entry(scene.customers[2], version).await;
        let copy = copy_as(&scene, id);
        let inside = scene.attempt(&copy).await;
        assert_found(&inside, V7, &format!("entry {id}"));
    }
}

#[tokio::test]
async fn an_event_that_hides_behind_the_id_of_a_sealed_entry_is_found() {
    let mut scene = Scene::start().await;
    let id = scene.entry(scene.customers[0], 2).await;
    scene
        .sql(&format!(
            "insert into vlaapi.audit_events (audit_id, kind, details, timestamp)
             values ({id}, 'pii.erased', '{{}}', clock_timestamp())"
        ))
        .await;
    let inside = scene.inside().await;
    assert_found(&inside, V7, &format!("entry {id}"));
}

#[tokio::test]
async fn an_entry_that_is_sealed_in_no_tree_is_found() {
    let mut scene = Scene::start().await;
    let id = scene.number("select nextval('vlaapi.customer_consent_audit_audit_id_seq')").await;
    let copy = copy_as(&scene, id);
    for place in ["99, 0", "0, 7", "1, -1", "-2147483648, 0", "2147483647, 9223372036854775807"] {
        let inside = scene
            .attempt(&format!(
                "{copy}; insert into vlaapi.audit_leaves (log_id, leaf_index, audit_id, leaf_hash, leaf)
                         values ({place}, {id}, '', '')"
            ))
            .await;
        assert_eq!(rules(&inside), [V2], "{place}");
        assert_found(&inside, V2, &format!("entry {id}"));
    }
}

#[tokio::test]
async fn a_checkpoint_that_is_put_aside_is_found() {
    let mut scene = Scene::start().await;
    for place in ["log_id = 3", "log_id = 0", "tree_size = -tree_size"] {
        let inside = scene
            .attempt(&format!(
                "update vlaapi.audit_checkpoints set {place}
                 where tree_size = (select min(tree_size) from vlaapi.audit_checkpoints)"
            ))
            .await;
        assert_eq!(rules(&inside), [V4], "{place}");
        assert_found(&inside, V4, "checkpoint of size");
    }
}

#[tokio::test]
async fn a_hash_that_is_cut_short_is_a_finding_and_does_not_stop_the_verification() {
    let mut scene = Scene::start().await;
    let inside = scene.attempt("update vlaapi.audit_nodes set hash = substring(hash from 2)").await;
    assert_eq!(rules(&inside), [V3]);
    assert_found(&inside, V3, ORIGIN);
}

#[tokio::test]
async fn a_time_that_no_calendar_has_is_a_finding_and_does_not_stop_the_verification() {
    let mut scene = Scene::start().await;
    let id = scene.entry(scene.customers[0], 2).await;
    for time in ["infinity", "-infinity", "294276-12-31", "4713-01-01 BC"] {
        let change =
            format!("update vlaapi.customer_consent_audit set timestamp = '{time}' where audit_id = {id}");
        let inside = scene.attempt(&change).await;
        assert_eq!(rules(&inside), [V7], "{time}");
        assert_found(&inside, V7, &format!("entry {id}"));
        scene
            .attempt(&format!(
                "alter table vlaapi.audit_checkpoints drop constraint audit_checkpoints_signed_at_calendar_check;
                 alter table vlaapi.audit_pending drop constraint audit_pending_queued_at_calendar_check;
                 update vlaapi.audit_checkpoints set signed_at = '{time}';
                 insert into vlaapi.audit_pending (audit_id, queued_at) values ({id}, '{time}')"
            ))
            .await;
    }
}

#[tokio::test]
async fn the_sealer_goes_on_after_an_entry_from_the_end_of_the_calendar() {
    let mut scene = Scene::start().await;
    let customer = scene.customers[0];
    sqlx::query(
        "update vlaapi.customer_data_consent set consent_tier = 'basic', consent_updated_at = '9999-12-31'
         where customer_id = $1",
    )
    .bind(customer)
    .execute(&scene.service.sql().await)
    .await
    .expect("a change past the service");
    let other = scene.customers[1];
    scene.decide(other, "behind it").await;
    let rounds = scene.seal().await;
    assert_eq!(rounds.iter().map(|round| round.sealed).sum::<usize>(), 2);
    assert_eq!(scene.outside().await.verdict(), Verdict::Tampering, "the time is not sane");
}
