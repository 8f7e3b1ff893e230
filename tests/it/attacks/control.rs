//! No attack, no finding: whatever the service, its operators and the law do to the trail.

use std::time::Instant;

use chrono::TimeDelta;
use consentd::domain::PersonalField;
use consentd::ops::expiry;
use consentd::verify::{Report, Standards, Verdict, directory};
use serde_json::json;
use uuid::Uuid;

use super::files::export;
use super::scene::Scene;

/// A log that has seen everything which is lawful.
async fn eventful(demo_customers: u32, erasures: i64) -> Scene {
    let mut scene = Scene::empty().await;
    scene.load(demo_customers, 1).await;
    for _ in 0..25 {
        let customer = scene.service.customer().await;
        for call in ["first", "second", "third"] {
            scene.decide(customer, call).await;
        }
        scene.customers.push(customer);
    }
    scene.seal().await;
    let customers = scene.customers.clone();
    let [withdrawn, expiring, past_the_service, rest] =
        [0..5, 5..10, 10..15, 15..25].map(|of| &customers[of]);
    for customer in withdrawn {
        scene.service.put(*customer, &json!({"consent_tier": "none"})).send().await.expect(200);
    }
    for customer in expiring {
        let end = scene.service.now() + TimeDelta::seconds(1);
        let body = json!({"consent_tier": "basic", "expires_at": end});
        scene.service.put(*customer, &body).send().await.expect(200);
    }
    let (store, writer) = (&scene.service.store, &scene.service.writer);
    let swept = expiry::sweep(store, writer, scene.service.now() + TimeDelta::seconds(2)).await;
    assert!(swept.expect("a sweep").expect("nobody else sweeps").recorded >= 5);
    for customer in past_the_service {
        scene.by_sql(*customer).await;
        scene.decide(*customer, "and again by the service").await;
    }
    scene.seal().await;

    // One goes, another goes and comes back: the trail of both goes on.
    for (customer, comes_back) in [(rest[0], false), (rest[1], true)] {
        sqlx::query("delete from vlaapi.customers where customer_id = $1")
            .bind(customer)
            .execute(&scene.service.sql().await)
            .await
            .expect("a customer is deleted");
        if comes_back {
            let body =
                json!({"customer_id": customer, "email": format!("{customer}@example.com"), "tier": "pro"});
            scene.service.call("POST", "/v1/customers").json(&body).send().await.expect(201);
            scene.decide(customer, "here again").await;
        }
    }
    scene.seal().await;

    let to_erase: Vec<Uuid> = sqlx::query_scalar(
        "select customer_id from vlaapi.customer_consent_audit where changed_by is not null
         group by customer_id order by customer_id limit $1",
    )
    .bind(erasures - 3)
    .fetch_all(&mut scene.superuser)
    .await
    .expect("customers are found");
    for (number, customer) in to_erase.iter().enumerate() {
        let fields = if number % 3 == 0 { &PersonalField::ALL[..2] } else { &PersonalField::ALL };
        scene.erase(*customer, fields).await;
        if number % 25 == 0 {
            scene.seal().await;
        }
    }
    // And one who was erased goes on, and is erased again.
    scene.decide(rest[2], "before").await;
    scene.seal().await;
    scene.erase(rest[2], &PersonalField::ALL).await;
    scene.seal().await;
    scene.retain(PersonalField::IpAddress, TimeDelta::days(90)).await;
    scene.retain(PersonalField::UserAgent, TimeDelta::days(365)).await;
    scene.seal().await;
    scene
}

/// Verifies in all ways, and answers how many leaves there were.
async fn assert_clean(scene: &Scene) -> u64 {
    let outside = scene.outside().await;
    assert_eq!(outside.findings, []);
    assert_eq!(outside.verdict(), Verdict::Clean);
    assert_eq!(outside.receipts, scene.receipts.len() as u64);
    assert!(outside.erased_fields > 0 && outside.vouched_for < outside.leaves);

    let since = scene.checkpoints[0].clone();
    let left = outside.leaves - since.checkpoint.size;
    let standards = Standards { since: Some(since), ..scene.standards() };
    let incremental = scene.verify_by(&standards).await;
    assert_eq!((incremental.findings, incremental.leaves), (Vec::new(), left));

    let copy = tempfile::tempdir().expect("a directory");
    export(scene, copy.path()).await;
    for (since, leaves) in [(None, outside.leaves), (standards.since.clone(), left)] {
        let (checkpoints, receipts) = (scene.checkpoints.clone(), scene.receipts.clone());
        let standards = Standards { since, checkpoints, receipts, ..scene.standards() };
        let report =
            directory::verify(copy.path(), &standards, Report::default(), &|_, _| {}).expect("it runs");
        assert_eq!((report.verdict(), report.findings, report.leaves), (Verdict::Clean, Vec::new(), leaves));
    }
    outside.leaves
}

#[tokio::test]
async fn three_thousand_entries_and_sixty_erasures_give_no_finding() {
    let scene = eventful(350, 60).await;
    let leaves = assert_clean(&scene).await;
    assert!(leaves > 3_000, "{leaves} leaves");
}

#[tokio::test]
#[ignore = "minutes: make soak"]
async fn soak_a_hundred_thousand_entries_and_a_thousand_erasures_give_no_finding() {
    let started = Instant::now();
    let scene = eventful(11_500, 1_000).await;
    let made = started.elapsed();
    let verifying = Instant::now();
    let leaves = assert_clean(&scene).await;
    println!("{leaves} leaves made in {made:.1?}, verified in four ways in {:.1?}", verifying.elapsed());
    assert!(leaves > 101_000, "{leaves} leaves");
}
