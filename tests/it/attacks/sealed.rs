//! Attacks on what is sealed.

use consentd::tlog::SigningKey;
use consentd::verify::Rule::{V2, V3, V4, V5, V7, V8, V10};

use super::forgery::{checkpoint, forget_the_word, rewrite_leaf, rewrite_tree, roll_back};
use super::scene::{ORIGIN, Scene, assert_found, rules};

#[tokio::test]
async fn attack_01_a_changed_column_of_a_sealed_entry_is_found() {
    let mut scene = Scene::start().await;
    let victim = scene.victim().await;
    scene
        .sql(&format!(
            "update vlaapi.customer_consent_audit
             set new_tier = case new_tier when 'none' then 'basic' else 'none' end where audit_id = {victim}"
        ))
        .await;
    scene.judge(1, V7, &format!("entry {victim}")).await;
}

#[tokio::test]
async fn attack_02_an_entry_backdated_by_a_microsecond_is_found() {
    let mut scene = Scene::start().await;
    let victim = scene.victim().await;
    scene
        .sql(&format!(
            "update vlaapi.customer_consent_audit set timestamp = timestamp - interval '1 microsecond'
             where audit_id = {victim}"
        ))
        .await;
    scene.judge(2, V7, &format!("entry {victim}")).await;
}

/// Changes a row, makes its leaf fit, and answers the entry. `cunning`: as if it had been written past the service, so that
/// the service's word for it is not missed.
async fn row_and_leaf(scene: &mut Scene, cunning: bool) -> i64 {
    let victim = scene.victim().await;
    scene
        .sql(&format!(
            "update vlaapi.customer_consent_audit set current = current || '{{\"policy_version\": \"forged\"}}'
             where audit_id = {victim}"
        ))
        .await;
    if cunning {
        forget_the_word(scene, victim).await;
    }
    rewrite_leaf(&mut scene.superuser, victim).await;
    victim
}

#[tokio::test]
async fn attack_03_a_changed_row_with_its_leaf_and_leaf_hash_is_found() {
    let mut scene = Scene::start().await;
    let victim = row_and_leaf(&mut scene, false).await;
    scene.judge(3, V7, &format!("entry {victim}")).await;
}

#[tokio::test]
async fn attack_04_a_rewritten_tree_that_nobody_signed_is_found() {
    let mut scene = Scene::start().await;
    row_and_leaf(&mut scene, true).await;
    rewrite_tree(&mut scene.superuser, None).await;
    scene.judge(4, V4, &format!("of {ORIGIN}")).await;
}

#[tokio::test]
async fn attack_05_a_tree_rewritten_and_signed_with_the_stolen_key_is_found_by_outside_checkpoints_alone() {
    let mut scene = Scene::start().await;
    row_and_leaf(&mut scene, true).await;
    let stolen = scene.service.keys.signers[0].clone();
    rewrite_tree(&mut scene.superuser, Some(&stolen)).await;
    scene.judge(5, V5, "from another machine").await;
}

#[tokio::test]
async fn the_stolen_key_of_the_log_does_not_make_the_services_word() {
    let mut scene = Scene::start().await;
    let victim = row_and_leaf(&mut scene, false).await;
    let stolen = scene.service.keys.signers[0].clone();
    rewrite_tree(&mut scene.superuser, Some(&stolen)).await;
    let inside = scene.inside().await;
    assert_eq!(rules(&inside), [V7]);
    assert_found(&inside, V7, &format!("entry {victim}"));
}

#[tokio::test]
async fn attack_06_a_deleted_sealed_entry_is_found() {
    let mut scene = Scene::start().await;
    let victim = scene.victim().await;
    scene.sql(&format!("delete from vlaapi.customer_consent_audit where audit_id = {victim}")).await;
    scene.judge(6, V7, &format!("entry {victim}")).await;
}

/// Deletes an entry with its leaf, and answers the position that the leaf had.
async fn delete(scene: &mut Scene, audit_id: i64) -> i64 {
    let leaf = scene
        .number(&format!("select leaf_index from vlaapi.audit_leaves where audit_id = {audit_id}"))
        .await;
    scene
        .sql(&format!(
            "delete from vlaapi.customer_consent_audit where audit_id = {audit_id};
             delete from vlaapi.audit_leaves where audit_id = {audit_id}"
        ))
        .await;
    leaf
}

#[tokio::test]
async fn attack_07_an_entry_deleted_with_its_leaf_is_found() {
    let mut scene = Scene::start().await;
    let victim = scene.victim().await;
    let leaf = delete(&mut scene, victim).await;
    scene.judge(7, V2, &format!("leaf {} of {ORIGIN}", leaf + 1)).await;
}

#[tokio::test]
async fn attack_08_a_decision_taken_out_of_a_renumbered_and_signed_tree_is_found_by_what_is_outside_alone() {
    let mut scene = Scene::start().await;
    let customer = scene.customers[0];
    let victim = roll_back(&mut scene, customer).await;
    delete(&mut scene, victim).await;
    let stolen = scene.service.keys.signers[0].clone();
    rewrite_tree(&mut scene.superuser, Some(&stolen)).await;
    scene.judge(8, V5, "from another machine").await;
}

#[tokio::test]
async fn a_version_taken_out_of_the_middle_of_a_renumbered_and_signed_tree_leaves_a_gap() {
    let mut scene = Scene::start().await;
    let customer = scene.customers[0];
    let victim = scene.entry(customer, 2).await;
    delete(&mut scene, victim).await;
    let stolen = scene.service.keys.signers[0].clone();
    rewrite_tree(&mut scene.superuser, Some(&stolen)).await;
    let inside = scene.inside().await;
    assert_eq!(rules(&inside), [V10]);
    assert_found(&inside, V10, &format!("customer {customer}"));
}

const TABLES: [&str; 11] = [
    "customers",
    "customer_data_consent",
    "customer_consent_audit",
    "audit_events",
    "audit_pending",
    "audit_logs",
    "audit_leaves",
    "audit_nodes",
    "audit_checkpoints",
    "audit_erasures",
    "audit_quarantine",
];

#[tokio::test]
async fn attack_09_an_old_backup_is_found_by_what_is_outside_alone() {
    let mut scene = Scene::start().await;
    scene.sql("create schema backup").await;
    for table in TABLES {
        scene.sql(&format!("create table backup.{table} as table vlaapi.{table}")).await;
    }
    scene.decide(scene.customers[1], "what is to be forgotten").await;
    scene.seal().await;
    for table in TABLES {
        scene
            .sql(&format!(
                "delete from vlaapi.{table}; insert into vlaapi.{table} select * from backup.{table}"
            ))
            .await;
    }
    scene.judge(9, V5, "from another machine").await;
    // And the replica which has seen more seals nothing any further.
    scene.seal().await;
    assert!(scene.service.view.get().fork.is_some());
}

#[tokio::test]
async fn attack_10_two_swapped_leaves_are_found() {
    let mut scene = Scene::start().await;
    // Of two customers, so that each one's versions stay in their order.
    scene
        .sql(
            "create table pair as
             select min(a.leaf_index) as one, min(a.leaf_index) + 1 as other
             from vlaapi.audit_leaves a
             join vlaapi.audit_leaves b on b.leaf_index = a.leaf_index + 1
             join vlaapi.customer_consent_audit x on x.audit_id = a.audit_id
             join vlaapi.customer_consent_audit y on y.audit_id = b.audit_id
             where x.customer_id <> y.customer_id and a.leaf_index between 50 and 150;
             update vlaapi.audit_leaves set leaf_index = -1 where leaf_index = (select one from pair);
             update vlaapi.audit_leaves set leaf_index = (select one from pair)
             where leaf_index = (select other from pair);
             update vlaapi.audit_leaves set leaf_index = (select other from pair) where leaf_index = -1",
        )
        .await;
    scene.judge(10, V5, "in the database").await;
}

#[tokio::test]
async fn attack_14_a_changed_personal_value_is_found() {
    let mut scene = Scene::start().await;
    let victim = scene.victim().await;
    scene
        .sql(&format!(
            "update vlaapi.customer_consent_audit set changed_by = 'key:vla_live_else' where audit_id = {victim}"
        ))
        .await;
    scene.judge(14, V8, &format!("entry {victim}")).await;
}

#[tokio::test]
async fn attack_15_a_personal_value_erased_past_the_log_is_found() {
    let mut scene = Scene::start().await;
    let victim = scene.victim().await;
    scene
        .sql(&format!(
            "update vlaapi.customer_consent_audit set changed_by = null, changed_by_salt = null
             where audit_id = {victim}"
        ))
        .await;
    scene.judge(15, V8, &format!("entry {victim}")).await;
}

#[tokio::test]
async fn a_value_or_a_salt_that_came_back_alone_is_found_although_an_erasure_names_the_field() {
    let mut scene = Scene::start().await;
    let erased = scene.entry(scene.customers[3], 2).await;
    for back in ["change_reason = 'call 2'", "change_reason_salt = vlaapi.random_salt()"] {
        let inside = scene
            .attempt(&format!(
                "alter table vlaapi.customer_consent_audit drop constraint customer_consent_audit_salts_check;
                 update vlaapi.customer_consent_audit set {back} where audit_id = {erased} and change_reason is null"
            ))
            .await;
        assert_eq!(rules(&inside), [V8], "{back}");
        assert_found(&inside, V8, &format!("entry {erased}"));
    }
}

#[tokio::test]
async fn attack_16_a_value_moved_with_its_salt_to_another_entry_is_found_at_both() {
    let mut scene = Scene::start().await;
    let (from, to) = (scene.entry(scene.customers[0], 1).await, scene.entry(scene.customers[1], 1).await);
    scene
        .sql(&format!(
            "update vlaapi.customer_consent_audit target
             set change_reason = source.change_reason, change_reason_salt = source.change_reason_salt
             from vlaapi.customer_consent_audit source
             where source.audit_id = {from} and target.audit_id = {to};
             update vlaapi.customer_consent_audit set change_reason = null, change_reason_salt = null
             where audit_id = {from}"
        ))
        .await;
    scene.judge(16, V8, &format!("entry {from}")).await;
    scene.judge(16, V8, &format!("entry {to}")).await;
}

#[tokio::test]
async fn attack_17_a_checkpoint_signed_by_a_foreign_key_is_found() {
    let mut scene = Scene::start().await;
    let newest = scene.checkpoints.last().expect("the log was signed").checkpoint.clone();
    let foreign = SigningKey::from_seed([1; 32]);
    let note = checkpoint(newest.size, newest.root, |text| vec![foreign.sign_note(ORIGIN, text)]);
    scene
        .sql(&format!(
            "update vlaapi.audit_checkpoints set note = '{note}' where tree_size = {}",
            newest.size
        ))
        .await;
    scene.judge(17, V4, &format!("checkpoint of size {} of {ORIGIN}", newest.size)).await;
}

#[tokio::test]
async fn attack_18_a_truncated_trail_is_found() {
    let mut scene = Scene::start().await;
    let victim = scene.victim().await;
    scene.sql("truncate vlaapi.customer_consent_audit").await;
    scene.judge(18, V7, &format!("entry {victim}")).await;
}

#[tokio::test]
async fn any_truncated_table_of_the_log_is_found() {
    let mut scene = Scene::start().await;
    for (table, rule, place) in [
        ("audit_events", V7, "entry "),
        ("audit_leaves", V2, ORIGIN),
        ("audit_nodes", V3, ORIGIN),
        ("audit_checkpoints", V4, ORIGIN),
        ("audit_logs", V2, "the database"),
        ("customer_data_consent", V10, "customer "),
    ] {
        assert_found(&scene.attempt(&format!("truncate vlaapi.{table}")).await, rule, place);
    }
}

#[tokio::test]
async fn an_erasure_that_the_service_does_not_vouch_for_excuses_nothing() {
    let mut scene = Scene::start().await;
    let victim = scene.victim().await;
    let id = scene.number("select nextval('vlaapi.customer_consent_audit_audit_id_seq')").await;
    scene
        .sql(&format!(
            "insert into vlaapi.audit_events (audit_id, kind, details, timestamp)
             values ({id}, 'pii.erased', jsonb_build_object('legal_basis', 'none', 'fields', '[\"changed_by\"]'::jsonb,
               'entries', jsonb_build_array(jsonb_build_array({victim}, {victim}))), clock_timestamp());
             insert into vlaapi.audit_pending (audit_id) values ({id});
             update vlaapi.customer_consent_audit set changed_by = null, changed_by_salt = null
             where audit_id = {victim}"
        ))
        .await;
    scene.seal().await;
    let leaf =
        scene.number(&format!("select leaf_index from vlaapi.audit_leaves where audit_id = {id}")).await;
    let inside = scene.inside().await;
    assert_eq!(rules(&inside), [V8]);
    assert_found(&inside, V8, &format!("leaf {leaf} of {ORIGIN}"));
    assert_found(&inside, V8, &format!("entry {victim}"));
}
