//! Replicas whose clock differs from the database's.

use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use consentd::app::Clock;
use consentd::app::tasks::expiry;
use consentd::cache::clock::ClockDifference;
use consentd::cache::follow::{Follower, Observation};
use consentd::ops::consents::Writer;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::service::{Service, consent};

/// The database's clock shows this much more than the replica's.
fn measured(service: &Service, difference: TimeDelta) {
    let now = service.now();
    service.cache.clock_measured(now + difference, now, now);
}

fn until(end: DateTime<Utc>) -> Value {
    json!({"consent_tier": "analytics", "can_store_embeddings": true, "expires_at": end})
}

async fn may_store_embeddings(service: &Service, customer: Uuid) -> bool {
    let check = format!("{}/permissions?check=embeddings", consent(customer));
    service.get(&check).send().await.expect(200).json()["allowed"] == true
}

fn time(value: &Value) -> DateTime<Utc> {
    value.as_str().expect("a time").parse().expect("a time")
}

#[tokio::test]
async fn the_end_of_a_consent_is_judged_by_the_later_of_both_clocks() {
    let service = Service::start().await;
    let customer = service.customer().await;
    service.put(customer, &until(service.now() + TimeDelta::hours(1))).send().await.expect(201);
    assert!(may_store_embeddings(&service, customer).await);
    // This replica is behind.
    measured(&service, TimeDelta::hours(2));
    assert!(!may_store_embeddings(&service, customer).await);
    assert_eq!(service.consent(customer).await["status"], "expired");
    measured(&service, TimeDelta::zero());
    assert!(may_store_embeddings(&service, customer).await);
    // This replica is ahead.
    service.advance(TimeDelta::hours(2));
    measured(&service, TimeDelta::hours(-2));
    assert!(!may_store_embeddings(&service, customer).await);
    assert_eq!(service.consent(customer).await["status"], "expired");
}

#[tokio::test]
async fn an_entry_has_the_time_of_the_database() {
    let service = Service::start().await;
    for seconds in [30, -30] {
        let difference = TimeDelta::seconds(seconds);
        measured(&service, difference);
        let customer = service.customer().await;
        let granted =
            service.put(customer, &json!({"consent_tier": "basic"})).send().await.expect(201).json();
        assert_eq!(time(&granted["consent_updated_at"]), service.now() + difference);
    }
    // Never before the entry before it.
    measured(&service, TimeDelta::seconds(30));
    let customer = service.customer().await;
    let granted = service.put(customer, &json!({"consent_tier": "basic"})).send().await.expect(201).json();
    measured(&service, TimeDelta::seconds(-30));
    let withdrawn = service.call("DELETE", &consent(customer)).send().await.expect(200).json();
    let next = time(&granted["consent_updated_at"]) + TimeDelta::microseconds(1);
    assert_eq!(time(&withdrawn["consent_updated_at"]), next);
}

#[tokio::test]
async fn a_replica_whose_clock_is_off_is_not_ready_and_accepts_withdrawals_but_no_grants() {
    let service = Service::start().await;
    let [narrowed, withdrawn, unknown] =
        [service.customer().await, service.customer().await, service.customer().await];
    let wide = json!({"consent_tier": "research", "can_store_images": true, "can_store_embeddings": true, "anonymization_level": "minimal"});
    for customer in [narrowed, withdrawn] {
        service.put(customer, &wide).send().await.expect(201);
    }
    for difference in [TimeDelta::hours(2), TimeDelta::seconds(-61)] {
        measured(&service, difference);
        let ready = service.get("/readyz").no_key().send().await.expect(503).json();
        let clock =
            ready["dependencies"].as_array().expect("a list").iter().find(|one| one["name"] == "clock");
        assert_eq!(clock.expect("the clock")["condition"], "down");
        let refused = [
            (unknown, json!({"consent_tier": "basic"})),
            (
                narrowed,
                json!({"consent_tier": "research", "can_store_images": true, "can_store_embeddings": true, "can_use_for_training": true, "anonymization_level": "minimal"}),
            ),
            (
                narrowed,
                json!({"consent_tier": "research", "can_store_images": true, "can_store_embeddings": true, "anonymization_level": "none"}),
            ),
        ];
        for (customer, body) in refused {
            let answer = service.put(customer, &body).send().await.expect(503);
            answer.problem("unavailable");
            assert!(answer.text().contains("clock"), "{}", answer.text());
            assert!(answer.header("retry-after").is_some());
        }
    }
    let narrow =
        json!({"consent_tier": "research", "can_store_images": true, "expires_at": "2027-01-01T00:00:00Z"});
    service.put(narrowed, &narrow).send().await.expect(200);
    service.call("DELETE", &consent(withdrawn)).send().await.expect(200);
    service.put(unknown, &json!({"consent_tier": "none"})).send().await.expect(201);
    // For longer is more.
    let longer =
        json!({"consent_tier": "research", "can_store_images": true, "expires_at": "2028-01-01T00:00:00Z"});
    service.put(narrowed, &longer).send().await.expect(503);

    measured(&service, TimeDelta::seconds(59));
    service.get("/readyz").no_key().send().await.expect(200);
    service.put(narrowed, &wide).send().await.expect(200);
    service.put(withdrawn, &wide).send().await.expect(200);
}

#[expect(clippy::disallowed_methods, reason = "the database's clock is the real one")]
fn real() -> DateTime<Utc> {
    Utc::now()
}

fn two_hours_ahead() -> DateTime<Utc> {
    real() + TimeDelta::hours(2)
}

#[tokio::test]
async fn the_sweep_of_a_replica_whose_clock_is_ahead_ends_no_consent_early() {
    let service = Service::start().await;
    let [later, ended] = [service.customer().await, service.customer().await];
    service.put(later, &until(real() + TimeDelta::hours(1))).send().await.expect(201);
    service.put(ended, &until(real() - TimeDelta::minutes(1))).send().await.expect(201);
    let one = NonZeroU16::new(1).expect("one lane");
    let (writer, lanes) = Writer::start(&service.store, &service.cache, service.keys.writers.first(), one);
    let clock = Clock::new(two_hours_ahead, &service.cache);
    let sweep = async || {
        let stop = CancellationToken::new();
        let (store, writer, clock) = (service.store.clone(), writer.clone(), clock.clone());
        let sweeping =
            tokio::spawn(expiry::sweep(store, writer, clock, Duration::from_millis(10), stop.clone()));
        tokio::time::sleep(Duration::from_millis(300)).await;
        stop.cancel();
        sweeping.await.expect("the sweep stops");
    };
    let versions = async || {
        [service.consent(later).await["version"].clone(), service.consent(ended).await["version"].clone()]
    };
    clock.measure(&service.store).await.expect("the database has a time");
    assert!(!clock.is_tolerable());
    sweep().await;
    assert_eq!(versions().await, [1, 1], "it swept");
    // The clock was set after it was compared: the sweep does not go by it either.
    let now = service.now();
    service.cache.clock_measured(now, now, now);
    assert!(clock.is_tolerable());
    sweep().await;
    assert_eq!(versions().await, [1, 2]);
    let entry = &service.trail(ended).await[0];
    assert_eq!(entry["action"], "expired");
    assert!(time(&entry["timestamp"]) <= real() + TimeDelta::seconds(1), "{entry}");
    lanes.finish().await;
}

#[tokio::test]
async fn the_follower_measures_the_database_clock_with_every_look() {
    let service = Service::start().await;
    let follower = Follower::new(service.store.clone(), service.cache.clone());
    let clock = Clock::new(two_hours_ahead, &service.cache);
    let since = Instant::now();
    let following = follower.follow(|observation| {
        if let Observation::DatabaseTime { now, requested_at } = observation {
            clock.measured(now, requested_at);
        }
    });
    let measured = async {
        while clock.is_tolerable() {
            assert!(since.elapsed() < Duration::from_secs(5), "nothing was measured");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! { ended = following => panic!("{ended:?}"), () = measured => {} }
    let difference = service.cache.clock.get() + TimeDelta::hours(2);
    assert!(difference.abs() < TimeDelta::seconds(2), "{difference}");
    assert!((clock.now() - real()).abs() < TimeDelta::seconds(2));
}

#[test]
fn a_measured_difference_changes_only_where_a_measurement_contradicts_it() {
    let difference = ClockDifference::default();
    let now: DateTime<Utc> = "2026-03-01T12:00:00Z".parse().expect("a time");
    let ms = TimeDelta::milliseconds;
    // Clocks agree, and the answer is under way for a while.
    for way in [1, 5, 900] {
        difference.measured(now, now - ms(way), now + ms(2 * way));
        assert_eq!(difference.get(), ms(0));
    }
    // At least 10 ms ahead, at most 12.
    difference.measured(now, now - ms(12), now - ms(10));
    assert_eq!(difference.get(), ms(10));
    difference.measured(now, now - ms(20), now);
    assert_eq!(difference.get(), ms(10));
    // The replica's clock was set back between sending and receiving: that measures nothing.
    difference.measured(now, now, now - ms(5000));
    assert_eq!(difference.get(), ms(10));
    difference.measured(now, now + ms(3_600_000), now + ms(3_600_001));
    assert_eq!(difference.get(), ms(-3_600_000));
    assert_eq!(difference.later_time(now), now);
    assert_eq!(difference.database_time(now), now - TimeDelta::hours(1));
    assert_eq!(difference.database_time_of(difference.later_time(now)), now - TimeDelta::hours(1));
}
