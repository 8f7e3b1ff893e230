//! What is answered from memory: never older than promised, whatever changes it and whatever breaks.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicI32};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use consentd::cache::consents::Trust;
use consentd::cache::freshness::Moment;
use consentd::cache::hints::Change;
use consentd::cache::{Bounds, Cache};
use consentd::store::Store;
use futures_util::FutureExt as _;
use serde_json::{Value, json};
use sqlx::postgres::PgListener;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::proxy::Proxy;
use crate::service::{Service, consent};

/// By when every replica has seen a change: a second, and what a busy machine adds to that.
const SOON: Duration = Duration::from_millis(1500);

fn images() -> Value {
    json!({"consent_tier": "research", "can_store_images": true})
}

fn check(customer: Uuid) -> String {
    format!("{}/permissions?check=images", consent(customer))
}

async fn may_store_images(service: &Service, customer: Uuid) -> bool {
    service.get(&check(customer)).send().await.expect(200).json()["allowed"] == true
}

/// Waits until the answer is this one, and no longer than promised.
async fn answers_soon(service: &Service, customer: Uuid, allowed: bool) {
    let since = Instant::now();
    while may_store_images(service, customer).await != allowed {
        assert!(since.elapsed() < SOON, "the answer is still not {allowed}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// Lets the follower pass what was written: a look-up that is under way while its change is followed is not kept.
async fn followed() {
    sleep(Duration::from_millis(300)).await;
}

/// A second replica on the database of the first.
async fn beside(first: &Service) -> Service {
    Service::following(first.owner.clone(), &first.login).await
}

#[tokio::test]
async fn what_was_asked_once_is_answered_from_memory() {
    let service = Service::start_following().await;
    let customer = service.customer().await;
    service.put(customer, &images()).send().await.expect(201);
    followed().await;
    assert!(may_store_images(&service, customer).await);
    let before = service.cache.consents.uses();
    for _ in 0..50 {
        assert!(may_store_images(&service, customer).await);
        assert_eq!(service.consent(customer).await["can_store_images"], true);
    }
    let after = service.cache.consents.uses();
    assert_eq!(after.misses, before.misses, "the database was asked");
    assert!(after.hits >= before.hits + 50);
}

#[tokio::test]
async fn a_withdrawal_is_obeyed_at_once_here_and_soon_by_every_replica() {
    let here = Service::start_following().await;
    let there = beside(&here).await;
    for _ in 0..10 {
        let customer = here.customer().await;
        here.put(customer, &images()).send().await.expect(201);
        assert!(may_store_images(&here, customer).await);
        answers_soon(&there, customer, true).await;
        here.call("DELETE", &consent(customer)).send().await.expect(200);
        assert!(!may_store_images(&here, customer).await, "a yes after a withdrawal");
        answers_soon(&there, customer, false).await;
        sleep(Duration::from_millis(20)).await;
        assert!(!may_store_images(&there, customer).await, "the yes came back");
    }
}

#[tokio::test]
async fn changes_are_told_while_another_replica_is_there_and_not_to_nobody() {
    /// Longer than a replica that has hung up counts as being there.
    const PATIENCE: Duration = Duration::from_secs(8);
    let here = Service::start_following().await;
    let customer = here.customer().await;
    let mut hearing = PgListener::connect_with(&here.sql().await).await.expect("a session that listens");
    hearing.listen("consentd_consents").await.expect("it listens");
    let mut turn = 0;
    let mut is_told = async || {
        turn += 1;
        let tier = if turn % 2 == 0 { "basic" } else { "analytics" };
        here.put(customer, &json!({"consent_tier": tier})).send().await;
        timeout(Duration::from_millis(300), hearing.recv()).await.is_ok()
    };
    let since = Instant::now();
    while is_told().await {
        assert!(since.elapsed() < PATIENCE, "it still tells of changes, and nobody is there");
    }
    let there = beside(&here).await;
    let since = Instant::now();
    while !is_told().await {
        assert!(since.elapsed() < SOON, "another replica is there, and is not told");
    }
    // One that says nothing else is still heard of: it is there for as long as it is there.
    sleep(Duration::from_secs(4)).await;
    assert!(is_told().await, "the other replica was forgotten");
    drop(there);
    let since = Instant::now();
    while is_told().await {
        assert!(since.elapsed() < PATIENCE, "it still tells of changes, and the other replica is gone");
    }
}

/// What is told next of consents.
async fn told(hearing: &mut PgListener) -> Value {
    let told = timeout(SOON, hearing.recv()).await.expect("something is told").expect("the session stands");
    serde_json::from_str(told.payload()).expect("it is JSON")
}

#[tokio::test]
async fn who_is_told_of_a_change_is_told_whose_it_is() {
    let here = Service::start_following().await;
    let customer = here.customer().await;
    let mut hearing = PgListener::connect_with(&here.sql().await).await.expect("a session that listens");
    hearing.listen("consentd_consents").await.expect("it listens");
    here.put(customer, &images()).send().await.expect(201);
    let record = here.consent(customer).await;
    let made_at: DateTime<Utc> =
        record["consent_updated_at"].as_str().expect("a time").parse().expect("a time");
    assert_eq!(
        told(&mut hearing).await["changes"],
        json!([{"customer_id": customer, "version": 1, "changed_at": made_at.timestamp_micros()}])
    );
    // As many as a notification of PostgreSQL can hold; of more, the trail tells.
    let change = Change { customer_id: customer, version: i32::MAX, changed_at: DateTime::<Utc>::MAX_UTC };
    here.cache.hints.tell_of(vec![change; 70].into_iter());
    assert_eq!(told(&mut hearing).await["changes"].as_array().map(Vec::len), Some(70));
    here.cache.hints.tell_of(vec![change; 71].into_iter());
    assert_eq!(told(&mut hearing).await.get("changes"), None);
}

#[tokio::test]
async fn what_others_say_takes_away_and_never_grants() {
    let service = Service::start_following().await;
    let (held, withdrawn) = (service.customer().await, service.customer().await);
    for customer in [held, withdrawn] {
        service.put(customer, &images()).send().await.expect(201);
    }
    service.call("DELETE", &consent(withdrawn)).send().await.expect(200);
    followed().await;
    assert!(may_store_images(&service, held).await);
    assert!(!may_store_images(&service, withdrawn).await);
    let sql = service.sql().await;
    let say = async |payload: String| {
        sqlx::query("select pg_notify('consentd_consents', $1)")
            .bind(payload)
            .execute(&sql)
            .await
            .expect("it is said");
    };
    let change =
        |customer: Uuid, version: i32| json!({"customer_id": customer, "version": version, "changed_at": 0});
    let by = Uuid::new_v4();
    let misses = || service.cache.consents.uses().misses;

    // A newer version: the database is asked, and has the last word.
    let before = misses();
    say(json!({"by": by, "changes": [change(held, 2), change(withdrawn, 9), change(Uuid::new_v4(), 1)]})
        .to_string())
    .await;
    let since = Instant::now();
    while misses() == before {
        assert!(since.elapsed() < SOON, "nothing was forgotten");
        assert!(may_store_images(&service, held).await);
    }
    assert!(!may_store_images(&service, withdrawn).await);

    // What is known already, and what nobody understands, costs nothing and breaks nothing.
    followed().await;
    assert!(may_store_images(&service, held).await);
    let before = misses();
    for payload in [
        json!({"by": by, "changes": [change(held, 1), change(withdrawn, 1)]}).to_string(),
        by.to_string(),
        "{".repeat(7_000),
        String::new(),
    ] {
        say(payload).await;
    }
    followed().await;
    assert!(may_store_images(&service, held).await);
    assert!(!may_store_images(&service, withdrawn).await);
    assert_eq!(misses(), before, "the database was asked");
    assert_eq!(service.sessions_ended(), 0);
}

#[tokio::test]
async fn a_change_by_plain_sql_is_followed() {
    let service = Service::start_following().await;
    let customer = service.customer().await;
    service.put(customer, &images()).send().await.expect(201);
    assert!(may_store_images(&service, customer).await);
    let sql = service.sql().await;
    sqlx::query("update vlaapi.customer_data_consent set can_store_images = false where customer_id = $1")
        .bind(customer)
        .execute(&sql)
        .await
        .expect("a change past the service");
    answers_soon(&service, customer, false).await;
    sqlx::query("delete from vlaapi.customer_data_consent where customer_id = $1")
        .bind(customer)
        .execute(&sql)
        .await
        .expect("a consent can be deleted");
    let since = Instant::now();
    while service.get(&check(customer)).send().await.expect(200).json()["reason"] != "never_given" {
        assert!(since.elapsed() < SOON);
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_change_that_is_committed_late_is_not_skipped() {
    let service = Service::start_following().await;
    let (late, other) = (service.customer().await, service.customer().await);
    for customer in [late, other] {
        service.put(customer, &images()).send().await.expect(201);
        assert!(may_store_images(&service, customer).await);
    }
    let sql = service.sql().await;
    let mut transaction = sql.begin().await.expect("a transaction begins");
    sqlx::query("update vlaapi.customer_data_consent set can_store_images = false where customer_id = $1")
        .bind(late)
        .execute(&mut *transaction)
        .await
        .expect("an id is drawn");
    // Others draw greater ids, and are committed and followed long before.
    for number in 0..20 {
        let body = json!({"consent_tier": "basic", "policy_version": number.to_string()});
        service.put(other, &body).send().await.expect(200);
    }
    answers_soon(&service, other, false).await;
    sleep(Duration::from_millis(500)).await;
    assert!(may_store_images(&service, late).await, "nothing is committed yet");
    transaction.commit().await.expect("it is committed");
    answers_soon(&service, late, false).await;
}

#[tokio::test]
async fn ids_that_were_drawn_in_vain_are_not_looked_for_for_ever() {
    let service = Service::start_following().await;
    let customer = service.customer().await;
    let sql = service.sql().await;
    for _ in 0..5 {
        sqlx::query(
            "select nextval('vlaapi.customer_consent_audit_audit_id_seq') from generate_series(1, 1000)",
        )
        .execute(&sql)
        .await
        .expect("ids are drawn");
        service.put(customer, &images()).send().await.expect_one_of(&[200, 201]);
        assert!(may_store_images(&service, customer).await);
        service.call("DELETE", &consent(customer)).send().await.expect(200);
        sleep(Duration::from_millis(250)).await;
    }
    assert_eq!(service.sessions_ended(), 0);
    let before = service.cache.consents.uses();
    assert!(!may_store_images(&service, customer).await);
    assert!(!may_store_images(&service, customer).await);
    assert!(service.cache.consents.uses().hits > before.hits);
}

#[tokio::test]
async fn a_customer_who_was_unknown_a_moment_ago_is_seen() {
    let here = Service::start_following().await;
    let there = beside(&here).await;
    let customer = Uuid::new_v4();
    for service in [&here, &there] {
        for _ in 0..2 {
            let answer = service.get(&check(customer)).send().await.expect(200).json();
            assert_eq!(answer["reason"], "unknown_customer");
        }
        service.get(&consent(customer)).send().await.expect(404);
    }
    let body = json!({"customer_id": customer, "email": "new@example.com", "tier": "pro"});
    here.call("POST", "/v1/customers").json(&body).send().await.expect(201);
    let reason = async |service: &Service| {
        service.get(&check(customer)).send().await.expect(200).json()["reason"].as_str().map(str::to_owned)
    };
    assert_eq!(reason(&here).await.as_deref(), Some("never_given"));
    there.get(&consent(customer)).send().await.expect(200);
    let since = Instant::now();
    while reason(&there).await.as_deref() != Some("never_given") {
        assert!(since.elapsed() < SOON + Duration::from_millis(100));
        sleep(Duration::from_millis(5)).await;
    }
    here.put(customer, &images()).send().await.expect(201);
    assert!(may_store_images(&here, customer).await);
    answers_soon(&there, customer, true).await;
}

#[tokio::test]
async fn a_revoked_key_is_refused_at_once_here_and_soon_by_every_replica() {
    let here = Service::start_following().await;
    let there = beside(&here).await;
    let customer = here.customer().await;
    let made = here
        .call("POST", "/v1/api-keys")
        .json(&json!({"scopes": ["permissions:check"]}))
        .send()
        .await
        .expect(201)
        .json();
    let (key, key_id) = (made["api_key"].as_str().expect("a key"), made["key_id"].as_str().expect("an id"));
    let status =
        async |service: &Service| service.get(&check(customer)).key(key).send().await.status.as_u16();
    for service in [&here, &there] {
        assert_eq!(status(service).await, 200);
    }
    here.call("DELETE", &format!("/v1/api-keys/{key_id}")).send().await.expect(204);
    assert_eq!(status(&here).await, 401);
    let since = Instant::now();
    while status(&there).await != 401 {
        assert!(since.elapsed() < SOON);
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_key_that_is_revoked_by_plain_sql_is_refused_within_a_second() {
    let service = Service::start_following().await;
    let customer = service.customer().await;
    let key = service.key(None, &["permissions:check"]).await;
    let status = async || service.get(&check(customer)).key(&key).send().await.status.as_u16();
    assert_eq!(status().await, 200);
    sqlx::query("update vlaapi.api_keys set is_active = false where scopes = '{permissions:check}'")
        .execute(&service.sql().await)
        .await
        .expect("a key is revoked");
    let since = Instant::now();
    while status().await != 401 {
        assert!(since.elapsed() < SOON + Duration::from_millis(200), "it still counts");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_key_counts_until_its_end_and_not_a_moment_longer() {
    let service = Service::start_following().await;
    let customer = service.customer().await;
    let end = service.now() + chrono::TimeDelta::minutes(1);
    let body = json!({"scopes": ["permissions:check"], "expires_at": end});
    let made = service.call("POST", "/v1/api-keys").json(&body).send().await.expect(201).json();
    let key = made["api_key"].as_str().expect("a key");
    service.get(&check(customer)).key(key).send().await.expect(200);
    service.advance(chrono::TimeDelta::minutes(1));
    service.get(&check(customer)).key(key).send().await.expect(401);
}

#[tokio::test]
async fn a_version_that_was_written_can_be_asked_for_on_any_replica() {
    let here = Service::start_following().await;
    let there = beside(&here).await;
    let customer = here.customer().await;
    assert!(!may_store_images(&there, customer).await);
    for number in 1..=20 {
        let body = json!({"consent_tier": "research", "can_store_images": number % 2 == 1});
        let version = here.put(customer, &body).send().await.json()["version"].as_i64().expect("a version");
        let path = format!("{}&min_version={version}", check(customer));
        let answer = there.get(&path).send().await.expect(200).json();
        assert_eq!((&answer["version"], &answer["allowed"]), (&json!(number), &json!(number % 2 == 1)));
        let record = there.get(&format!("{}?min_version={version}", consent(customer))).send().await;
        assert_eq!(record.expect(200).json()["version"], number);
        let checks = json!({"checks": [
            {"customer_id": customer, "permission": "images", "min_version": version},
            {"customer_id": Uuid::new_v4(), "permission": "images"},
        ]});
        let answers = there.call("POST", "/v1/permissions/check").json(&checks).send().await.expect(200);
        assert_eq!(answers.json()["results"][0]["version"], number);
    }
    for path in [check(customer) + "&min_version=21", consent(customer) + "?min_version=21"] {
        let ahead = there.get(&path).send().await.expect(412);
        assert_eq!(ahead.headers["etag"], "\"20\"");
    }
    let checks = json!({"checks": [{"customer_id": customer, "permission": "images", "min_version": 21}]});
    there.call("POST", "/v1/permissions/check").json(&checks).send().await.expect(412);
    for bad in ["-1", "x", "99999999999"] {
        there.get(&format!("{}&min_version={bad}", check(customer))).send().await.expect(400);
    }
}

/// A replica whose way to the database can be cut, beside one whose way cannot.
async fn behind_a_proxy() -> (Service, Proxy, Service) {
    let here = Service::start().await;
    let proxy = Proxy::before(&here.login).await;
    let there = Service::following(here.owner.clone(), &proxy.options(&here.login)).await;
    (here, proxy, there)
}

#[tokio::test]
async fn without_the_database_a_yes_lasts_for_the_staleness_that_is_allowed_and_a_no_for_ever() {
    let (here, proxy, there) = behind_a_proxy().await;
    let (allowed, refused) = (here.customer().await, here.customer().await);
    here.put(allowed, &images()).send().await.expect(201);
    here.put(refused, &json!({"consent_tier": "basic"})).send().await.expect(201);
    followed().await;
    assert!(may_store_images(&there, allowed).await);
    assert!(!may_store_images(&there, refused).await);
    proxy.cut();
    let since = Instant::now();
    let (mut seen_stale, mut seen_refused) = (false, false);
    while !seen_refused {
        let asked = since.elapsed();
        let answer = there.get(&check(allowed)).send().await;
        match answer.status.as_u16() {
            200 => {
                // Followed last a moment before the cut.
                assert!(asked < Service::MAX_STALE, "a yes {asked:?} after the database was gone");
                let answer = answer.json();
                assert_eq!(answer["allowed"], true);
                seen_stale |= answer["stale"] == true;
            }
            503 => {
                assert!(seen_stale, "the yes was never marked as stale: {asked:?} {}", answer.text());
                assert!(answer.headers.contains_key("retry-after"));
                seen_refused = true;
            }
            status => panic!("{status}"),
        }
        let answer = there.get(&check(refused)).send().await.expect(200).json();
        assert_eq!(answer["allowed"], false);
        sleep(Duration::from_millis(50)).await;
        assert!(since.elapsed() < Service::MAX_STALE + Duration::from_secs(3));
    }
    // Denials go on, and what nobody knows is no yes.
    let answer = there.get(&check(refused)).send().await.expect(200).json();
    assert_eq!((&answer["allowed"], &answer["stale"]), (&json!(false), &json!(true)));
    there.get(&consent(allowed)).send().await.expect(503);
    // Withdrawn meanwhile: once the database is back, nothing of before is believed.
    here.call("DELETE", &consent(allowed)).send().await.expect(200);
    proxy.mend();
    let since = Instant::now();
    loop {
        let answer = there.get(&check(allowed)).send().await;
        if answer.status == 200 {
            assert_eq!(answer.json()["allowed"], false, "a yes from before");
            break;
        }
        assert!(since.elapsed() < Duration::from_secs(5), "it does not come back");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_database_that_hangs_is_noticed_and_a_withdrawal_is_not_missed() {
    let (here, proxy, there) = behind_a_proxy().await;
    let customer = here.customer().await;
    here.put(customer, &images()).send().await.expect(201);
    followed().await;
    assert!(may_store_images(&there, customer).await);
    proxy.hang();
    here.call("DELETE", &consent(customer)).send().await.expect(200);
    let withdrawn = Instant::now();
    loop {
        let asked = withdrawn.elapsed();
        let answer = there.get(&check(customer)).send().await;
        if answer.status != 200 {
            break;
        }
        let answer = answer.json();
        assert!(answer["allowed"] == true && asked < Service::MAX_STALE, "{answer} after {asked:?}");
        assert!(
            asked < SOON + Duration::from_millis(100) || answer["stale"] == true,
            "{answer} after {asked:?}"
        );
        sleep(Duration::from_millis(50)).await;
    }
    proxy.mend();
    let since = Instant::now();
    loop {
        let answer = there.get(&check(customer)).send().await;
        if answer.status == 200 && answer.json()["stale"] != true {
            assert_eq!(answer.json()["allowed"], false);
            break;
        }
        assert!(since.elapsed() < Duration::from_secs(5), "it does not come back");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn the_followers_session_can_be_ended_at_any_time() {
    let here = Service::start_following().await;
    let there = beside(&here).await;
    let sql = here.sql().await;
    for _ in 0..5 {
        let customer = here.customer().await;
        here.put(customer, &images()).send().await.expect(201);
        answers_soon(&there, customer, true).await;
        sqlx::query(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()",
        )
        .execute(&sql)
        .await
        .expect("sessions are ended");
        let since = Instant::now();
        while here.call("DELETE", &consent(customer)).send().await.status != 200 {
            assert!(since.elapsed() < Duration::from_secs(5));
            sleep(Duration::from_millis(10)).await;
        }
        let withdrawn = Instant::now();
        loop {
            let answer = there.get(&check(customer)).send().await;
            if answer.status == 200 && answer.json()["allowed"] == false {
                break;
            }
            assert!(withdrawn.elapsed() < SOON, "a yes a second after the withdrawal");
            sleep(Duration::from_millis(2)).await;
        }
    }
}

#[tokio::test]
async fn a_stampede_costs_few_statements_and_everybody_is_answered() {
    let service = Arc::new(Service::start_following().await);
    let customer = service.customer().await;
    service.put(customer, &images()).send().await.expect(201);
    service.cache.consents.forget(customer);
    let before = service.cache.consents.uses().statements;
    let asked: Vec<_> = (0..100)
        .map(|_| {
            let service = Arc::clone(&service);
            tokio::spawn(async move { may_store_images(&service, customer).await })
        })
        .collect();
    for answer in asked {
        assert!(answer.await.expect("an answer"));
    }
    let statements = service.cache.consents.uses().statements - before;
    assert!((1..=20).contains(&statements), "{statements} statements for one customer");
}

/// A reader may be interrupted at any place: what he has read before memory caught up is not as new as what it caught
/// up with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_before_memory_caught_up_is_not_taken_for_fresh() {
    const READERS: usize = 8;
    let service = Service::start().await;
    let customer = service.customer().await;
    service.put(customer, &images()).send().await.expect(201);
    let proxy = Proxy::before(&service.login).await;
    let store = Store::new(&proxy.options(&service.login), 1, 1);
    let cache =
        Cache::new(&store, Bounds { customers: 10, max_stale: Duration::from_secs(5) }, &Arc::default());
    let known = cache.consents.known(customer, 0).await.expect("it is looked up");
    let mut record = known.record.expect("a consent");
    // From now on memory alone can answer.
    proxy.cut();
    let (due, stop) = (AtomicI32::new(record.version), AtomicBool::new(false));
    let read = || {
        let (mut answers, mut late) = (0_u64, 0_u64);
        while !stop.load(Relaxed) {
            let due = due.load(Acquire);
            if let Some(Ok(known)) = cache.consents.known(customer, 0).now_or_never()
                && known.trust != Trust::Outdated
            {
                answers += 1;
                late += u64::from(known.record.is_none_or(|record| record.version < due));
            }
        }
        (answers, late)
    };
    let (answers, late) = tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            let readers = [(); READERS].map(|()| scope.spawn(read));
            let until = Instant::now() + Duration::from_secs(2);
            while Instant::now() < until {
                // It caught up long ago: nobody may answer with what it holds.
                cache.freshness.caught_up(Moment::from_bits(1));
                record.version += 1;
                due.store(record.version, Release);
                std::thread::sleep(Duration::from_micros(20));
                cache.consents.written(&record);
                cache.freshness.caught_up(Moment::now());
                std::thread::sleep(Duration::from_micros(100));
            }
            stop.store(true, Relaxed);
            let counts = readers.map(|reader| reader.join().expect("a reader ends"));
            counts.into_iter().fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1))
        })
    });
    assert!(answers > 1000, "{answers} answers from memory");
    assert_eq!(late, 0, "of {answers} answers from memory");
}
