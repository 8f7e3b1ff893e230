//! Long work gives its thread to others: none of it keeps a thread for more than a moment.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use consentd::background::Pacer;
use consentd::ops::log::sealer::Sealer;
use consentd::store::verification::snapshot;
use consentd::verify::database::{Scope, verify};
use consentd::verify::{Keys, Report, Standards};
use nix::time::{ClockId, clock_gettime};
use tokio::task::yield_now;

use crate::service::Service;

/// Longest time for which a task may keep its thread. The promise is a fraction of a millisecond; between two pieces of
/// work, and in a build without optimization, it is more.
const MOMENT: Duration = Duration::from_millis(25);
const ENTRIES: i64 = 2_500;

/// Of this thread alone: other processes on a busy machine do not count.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("the thread has a clock").into()
}

/// Does the work, and returns the longest time for which no other task of this thread had a turn. The test must have one
/// thread.
async fn longest_hold<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let longest = Arc::new(AtomicU64::new(0));
    let other = tokio::spawn({
        let longest = Arc::clone(&longest);
        async move {
            let mut last = processor_time();
            loop {
                yield_now().await;
                let now = processor_time();
                longest.fetch_max(
                    u64::try_from(now.saturating_sub(last).as_micros()).unwrap_or(u64::MAX),
                    Relaxed,
                );
                last = now;
            }
        }
    });
    yield_now().await;
    let done = work.await;
    yield_now().await;
    other.abort();
    (done, Duration::from_micros(longest.load(Relaxed)))
}

/// A service with a long trail that waits to be sealed.
async fn with_entries() -> (Service, Sealer) {
    let service = Service::start().await;
    let sealer = service.sealer().await;
    sqlx::query(
        "insert into vlaapi.customer_consent_audit
           (customer_id, action, version, new_tier, current, changed_by, change_reason, user_agent, ip_address)
         select gen_random_uuid(), 'granted', 1, 'basic',
           '{\"consent_tier\": \"basic\", \"can_store_images\": false, \"can_store_embeddings\": false,
             \"can_use_for_training\": false, \"anonymization_level\": \"full\", \"policy_version\": null,
             \"expires_at\": null, \"consent_granted_at\": \"2026-01-01T00:00:00Z\"}',
           'test', 'a long trail', 'test', '203.0.113.7'
         from generate_series(1, $1)",
    )
    .bind(ENTRIES)
    .execute(&service.sql().await)
    .await
    .expect("many entries");
    (service, sealer)
}

#[tokio::test]
async fn an_export_keeps_no_thread_from_other_requests() {
    let (service, _sealer) = with_entries().await;
    for accept in ["text/csv", "application/x-ndjson"] {
        let export = service.get("/v1/audit").header("accept", accept).send();
        let (answer, held) = longest_hold(export).await;
        assert!(answer.expect(200).text().lines().count() >= usize::try_from(ENTRIES).expect("few"));
        assert!(held < MOMENT, "{accept}: a thread was kept for {held:?}");
    }
}

#[tokio::test]
async fn sealing_and_verification_keep_no_thread_from_requests() {
    let (service, mut sealer) = with_entries().await;
    let (round, held) = longest_hold(sealer.round(service.now())).await;
    assert_eq!(round.expect("a round").sealed, usize::try_from(ENTRIES).expect("few"));
    assert!(held < MOMENT, "sealing: a thread was kept for {held:?}");

    let standards = Standards {
        keys: Keys::Own { signers: service.keys.signers.clone(), retired: Vec::new() },
        checkpoints: Vec::new(),
        receipts: Vec::new(),
        since: None,
        now: service.now(),
    };
    let scope = Scope { standards: &standards, writers: &service.keys.writers, live: false };
    let mut connection = snapshot(&service.login).await.expect("a snapshot");
    let verification = verify(&mut connection, &scope, Report::default(), &|_, _| {}, Pacer::alone());
    let (report, held) = longest_hold(verification).await;
    assert!(report.expect("it runs").leaves >= u64::try_from(ENTRIES).expect("few"));
    assert!(held < MOMENT, "verification: a thread was kept for {held:?}");
}
