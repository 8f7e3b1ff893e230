//! Entries without their consents, before and after an operator resolved them.

use consentd::ops::log::quarantine::resolve;
use consentd::store::consents::Attribution;
use consentd::verify::Rule::{V9, V10};
use consentd::verify::{Standards, Verdict};

use super::scene::{Scene, assert_found, rules};

/// Inserts a valid entry of the next version, by a role that has its triggers, and answers its id.
async fn insert(scene: &Scene) -> i64 {
    let statement = "insert into vlaapi.customer_consent_audit
        (customer_id, action, version, previous_tier, new_tier, previous, current, changed_by, timestamp)
      select customer_id, 'updated', version + 1, new_tier, 'research', current,
        current || '{\"consent_tier\": \"research\"}', 'key:vla_live_a1b2', timestamp - interval '1 hour'
      from vlaapi.customer_consent_audit where customer_id = $1 order by version desc limit 1
      returning audit_id";
    let inserted =
        sqlx::query_scalar(statement).bind(scene.customers[0]).fetch_one(&scene.service.sql().await).await;
    inserted.expect("it is lawful")
}

async fn resolved(scene: &mut Scene, audit_id: i64) {
    scene.tick().await;
    let by = Attribution {
        changed_by: "system:operator".to_owned(),
        change_reason: Some("a mistake of ours".to_owned()),
        ..Attribution::default()
    };
    let (store, keys) = (&scene.service.store, &scene.service.keys);
    resolve(store, keys, audit_id, &by, scene.service.now()).await.expect("it is resolved");
    scene.seal().await;
}

#[tokio::test]
async fn a_foreign_version_stays_a_finding_until_a_sealed_event_resolves_it() {
    let mut scene = Scene::start().await;
    let customer = scene.customers[0];
    let first = insert(&scene).await;
    scene.seal().await;
    let place = format!("customer {customer}");
    for decide in [false, true] {
        if decide {
            // Skipped by the consent, it is one all the same: neither its number nor its time is the consent's.
            scene.decide(customer, "goes on").await;
            scene.seal().await;
        }
        let inside = scene.inside().await;
        assert!(rules(&inside).contains(&V10), "{:#?}", inside.findings);
        assert_found(&inside, V10, &place);
        assert_eq!(inside.findings.iter().filter(|finding| finding.rule == V10).count(), 1);
    }
    // A word of the database alone resolves nothing, whoever says it.
    scene.sql("update vlaapi.audit_quarantine set resolved_by = 1, resolved_at = now()").await;
    assert_found(&scene.inside().await, V10, &place);
    scene.sql("update vlaapi.audit_quarantine set resolved_by = null, resolved_at = null").await;
    let forged = format!(
        "with event as (
           insert into vlaapi.audit_events (kind, details, timestamp)
           values ('quarantine.resolved', '{{\"entries\": [{{\"audit_id\": {first}}}]}}', now()) returning audit_id
         )
         insert into vlaapi.audit_pending (audit_id) select audit_id from event"
    );
    scene.sql(&forged).await;
    scene.seal().await;
    let inside = scene.inside().await;
    assert_found(&inside, V10, &place);
    assert!(
        inside.findings.iter().any(|finding| finding.rule == V9 && finding.what.contains("does not vouch"))
    );
}

#[tokio::test]
async fn what_is_resolved_is_no_finding_whether_the_consent_went_on_or_not() {
    let mut scene = Scene::start().await;
    let first = insert(&scene).await;
    scene.seal().await;
    assert!(!rules(&scene.inside().await).is_empty());
    resolved(&mut scene, first).await;
    let report = scene.outside().await;
    assert_eq!(report.verdict(), Verdict::Clean, "{:#?}", report.findings);
    let since = scene.checkpoints.last().cloned();

    scene.decide(scene.customers[0], "goes on").await;
    let second = insert(&scene).await;
    scene.seal().await;
    let what = format!("entry {second} is in quarantine");
    assert!(scene.inside().await.findings.iter().any(|finding| finding.what.starts_with(&what)));
    resolved(&mut scene, second).await;
    scene.decide(scene.customers[0], "and on").await;
    scene.seal().await;
    let report = scene.outside().await;
    assert_eq!(report.verdict(), Verdict::Clean, "{:#?}", report.findings);
    // From a checkpoint on, what was resolved before it stays resolved.
    let report = scene.verify_by(&Standards { since, ..scene.standards() }).await;
    assert_eq!(report.findings, [], "{:#?}", report.findings);
    // Taking it out of quarantine hides nothing, and what is not resolved is found without it.
    scene.sql("delete from vlaapi.audit_quarantine").await;
    assert_eq!(scene.outside().await.verdict(), Verdict::Clean);
}

#[tokio::test]
async fn an_entry_that_cannot_be_sealed_stays_a_finding_until_it_is_resolved() {
    let mut scene = Scene::start().await;
    let id = scene.decide(scene.customers[1], "as it was").await["audit_id"].as_i64().expect("an id");
    scene
        .sql(&format!("update vlaapi.customer_consent_audit set request_id = 'other' where audit_id = {id}"))
        .await;
    scene.seal().await;
    assert_eq!(rules(&scene.inside().await), [V9]);
    resolved(&mut scene, id).await;
    assert_eq!(rules(&scene.inside().await), []);
    // The row may be queued again when it is right; until then the event covers it, in quarantine or out of it.
    scene.sql(&format!("delete from vlaapi.audit_quarantine where audit_id = {id}")).await;
    assert_eq!(rules(&scene.inside().await), []);
}
