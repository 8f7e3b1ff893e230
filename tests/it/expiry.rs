//! The end of a consent: obeyed by the clock, recorded by the sweep.

use chrono::TimeDelta;
use serde_json::json;

use crate::service::{Service, consent};

#[tokio::test]
async fn an_expired_consent_permits_nothing_whatever_the_sweep_does() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let end = service.now() + TimeDelta::hours(1);
    let body = json!({"consent_tier": "analytics", "can_store_embeddings": true, "expires_at": end});
    service.put(customer, &body).send().await.expect(201);
    let path = format!("{}/permissions", consent(customer));
    let held = service.get(&path).send().await.expect(200).json();
    assert_eq!(held["permissions"]["can_store_embeddings"], true);
    assert_eq!(held["valid_until"], json!(end));

    service.advance(TimeDelta::hours(1));
    let held = service.get(&path).send().await.expect(200).json();
    assert_eq!(held["permissions"]["can_store_embeddings"], false);
    assert_eq!(held["permissions"]["anonymization_level"], "full");
    assert_eq!(held["reason"], "expired");
    let record = service.consent(customer).await;
    assert_eq!(record["status"], "expired");
    // The choice is shown as it was given.
    assert_eq!(record["can_store_embeddings"], true);
}

#[tokio::test]
async fn an_expiry_is_recorded_exactly_once_though_replicas_sweep_at_once() {
    let service = Service::start().await;
    let mut customers = Vec::new();
    for _ in 0..5 {
        let customer = service.customer().await;
        let body = json!({"consent_tier": "basic", "expires_at": service.now() + TimeDelta::hours(1)});
        service.put(customer, &body).send().await.expect(201);
        customers.push(customer);
    }
    assert_eq!(service.sweep().await, Some(0));
    service.advance(TimeDelta::hours(2));
    let sweeps = (0..4).map(|_| service.sweep());
    let recorded: u64 = futures_util::future::join_all(sweeps).await.into_iter().flatten().sum();
    assert_eq!(recorded, 5);
    assert_eq!(service.sweep().await, Some(0));
    for customer in customers {
        let trail = service.trail(customer).await;
        assert_eq!(trail.len(), 2);
        assert_eq!(trail[0]["action"], "expired");
        assert_eq!(trail[0]["changed_by"], "system:expiry");
        assert_eq!(trail[0]["previous"], trail[0]["current"]);
        assert_eq!(service.consent(customer).await["version"], 2);
    }
}

#[tokio::test]
async fn an_expired_consent_can_be_renewed_and_expires_again() {
    let service = Service::start().await;
    let customer = service.customer().await;
    for round in 1..=2 {
        let body = json!({"consent_tier": "basic", "expires_at": service.now() + TimeDelta::hours(1)});
        service.put(customer, &body).send().await;
        service.advance(TimeDelta::hours(2));
        assert_eq!(service.sweep().await, Some(1));
        assert_eq!(service.consent(customer).await["version"], 2 * round);
    }
    let actions: Vec<_> =
        service.trail(customer).await.iter().rev().map(|entry| entry["action"].clone()).collect();
    assert_eq!(actions, ["granted", "expired", "renewed", "expired"]);
}
