//! A database that says nothing any more: what is answered meanwhile, how soon, and how soon all is as before.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::sleep;
use uuid::Uuid;

use crate::proxy::Proxy;
use crate::service::{Service, consent};

/// The promise is a second. A busy machine takes longer for everything.
const A_SECOND: Duration = Duration::from_secs(3);
/// An answer that waits for nothing.
const AT_ONCE: Duration = Duration::from_secs(1);

struct Scene {
    here: Service,
    proxy: Proxy,
    /// The replica behind the proxy.
    there: Service,
    allowed: Uuid,
    denied: Uuid,
}

async fn scene() -> Scene {
    let here = Service::start().await;
    let proxy = Proxy::before(&here.login).await;
    let there = Service::following(here.owner.clone(), &proxy.options(&here.login)).await;
    let (allowed, denied) = (here.customer().await, here.customer().await);
    there
        .put(allowed, &json!({"consent_tier": "research", "can_store_images": true}))
        .send()
        .await
        .expect(201);
    there.put(denied, &json!({"consent_tier": "basic"})).send().await.expect(201);
    // In memory, and followed.
    sleep(Duration::from_millis(300)).await;
    for customer in [allowed, denied] {
        there.get(&check(customer)).send().await.expect(200);
    }
    Scene { here, proxy, there, allowed, denied }
}

fn check(customer: Uuid) -> String {
    format!("{}/permissions?check=images", consent(customer))
}

fn names_the_database(ready: &serde_json::Value) -> bool {
    ready["dependencies"][0]["name"] == "database" && ready["dependencies"][0]["condition"] == "down"
}

async fn back_to_work(scene: &Scene) {
    let since = Instant::now();
    let written = json!({"consent_tier": "analytics", "policy_version": Uuid::new_v4()});
    while !scene.there.put(scene.denied, &written).send().await.status.is_success() {
        assert!(since.elapsed() < A_SECOND, "not back to work");
        sleep(Duration::from_millis(20)).await;
    }
    let trail = format!("{}/audit", consent(scene.denied));
    while scene.there.get(&trail).send().await.status != 200 {
        assert!(since.elapsed() < A_SECOND, "reads are not back");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn while_the_database_is_silent_everything_is_answered_within_a_second() {
    let scene = scene().await;
    let there = &scene.there;
    scene.proxy.hang();
    let hung = Instant::now();
    let write = json!({"consent_tier": "analytics"});
    let new_key = json!({"scopes": ["permissions:check"]});
    let trail = format!("{}/audit", consent(scene.denied));
    // All at once, in the very moment: they are under way when it falls silent.
    let (put, delete, post, list, unknown) = tokio::join!(
        there.put(scene.denied, &write).send(),
        there.call("DELETE", &consent(scene.allowed)).send(),
        there.call("POST", "/v1/api-keys").json(&new_key).send(),
        there.get(&trail).send(),
        there.get(&check(Uuid::new_v4())).send(),
    );
    assert!(hung.elapsed() < A_SECOND, "{:?}", hung.elapsed());
    for answer in [put, delete, post, list, unknown] {
        let answer = answer.expect(503);
        assert!(answer.headers.contains_key("retry-after"));
    }
    // From now on it is known.
    for _ in 0..5 {
        let asked = Instant::now();
        let ready = there.get("/readyz").no_key().send().await.expect(200).json();
        assert!(names_the_database(&ready), "{ready}");
        there.put(scene.denied, &write).send().await.expect(503);
        there.call("POST", "/v1/api-keys").json(&new_key).send().await.expect(503);
        there.get(&trail).send().await.expect(503);
        assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    }
    scene.proxy.mend();
    back_to_work(&scene).await;
    let since = Instant::now();
    while names_the_database(&there.get("/readyz").no_key().send().await.json()) {
        assert!(since.elapsed() < A_SECOND);
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn while_the_database_is_silent_a_denial_is_at_once_and_a_yes_lasts_as_long_as_allowed() {
    let scene = scene().await;
    let there = &scene.there;
    scene.proxy.hang();
    let hung = Instant::now();
    let mut last_yes = Duration::ZERO;
    while hung.elapsed() < Service::MAX_STALE + Duration::from_secs(2) {
        let asked = hung.elapsed();
        let denial = there.get(&check(scene.denied)).send().await.expect(200).json();
        assert_eq!(denial["allowed"], false);
        // Until it is known, one look-up waits.
        let took = hung.elapsed().saturating_sub(asked);
        assert!(took < A_SECOND, "a denial took {took:?}");
        let answer = there.get(&check(scene.allowed)).send().await;
        if answer.status == 200 {
            assert_eq!(answer.json()["allowed"], true);
            assert!(asked < Service::MAX_STALE, "a yes after {asked:?}");
            last_yes = asked;
        }
        sleep(Duration::from_millis(20)).await;
    }
    // Followed last a moment before.
    assert!(last_yes + Duration::from_secs(1) > Service::MAX_STALE, "the last yes was after {last_yes:?}");
    let asked = Instant::now();
    for _ in 0..20 {
        there.get(&check(scene.denied)).send().await.expect(200);
        there.get(&check(scene.allowed)).send().await.expect(503);
    }
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
    scene.proxy.mend();
    back_to_work(&scene).await;
}

#[tokio::test]
async fn what_was_refused_while_the_database_was_silent_is_not_carried_out_later() {
    let scene = scene().await;
    let versions = async || scene.here.trail(scene.denied).await.len();
    let before = versions().await;
    scene.proxy.hang();
    let puts = (0..20).map(|number| {
        let body = json!({"consent_tier": "basic", "policy_version": format!("{number}")});
        let put = scene.there.put(scene.denied, &body);
        async move {
            // The first ones are under way when it falls silent, the last ones find it so.
            sleep(Duration::from_millis(100 * number)).await;
            put.send().await.expect(503);
        }
    });
    futures_util::future::join_all(puts).await;
    // Meanwhile the customer has decided elsewhere.
    scene.here.call("DELETE", &consent(scene.denied)).send().await.expect(200);
    scene.proxy.mend();
    let since = Instant::now();
    while scene.there.put(scene.allowed, &json!({"consent_tier": "basic"})).send().await.status != 200 {
        assert!(since.elapsed() < A_SECOND, "not back to work");
        sleep(Duration::from_millis(20)).await;
    }
    sleep(Duration::from_millis(500)).await;
    assert_eq!(scene.here.consent(scene.denied).await["consent_tier"], "none");
    // One batch may have been under way, in which each change is a version.
    assert!(versions().await <= before + 2 + 1, "{} versions", versions().await);
}

#[tokio::test]
async fn a_session_that_alone_falls_silent_is_given_up_and_its_callers_do_not_wait_for_it() {
    let scene = scene().await;
    // A session that has just written is in its next transaction already. One that lay idle is given up before anything is
    // done on it.
    let body = json!({"consent_tier": "basic", "policy_version": "a"});
    scene.there.put(scene.denied, &body).send().await.expect(200);
    scene.proxy.half_open();
    let hung = Instant::now();
    let body = json!({"consent_tier": "analytics"});
    let mut answer = scene.there.put(scene.denied, &body).send().await;
    assert!(hung.elapsed() < A_SECOND, "{:?}", hung.elapsed());
    while answer.status != 200 {
        assert!(hung.elapsed() < Duration::from_secs(15), "the session is not given up");
        let asked = Instant::now();
        answer = scene.there.put(scene.denied, &body).send().await;
        assert!(asked.elapsed() < A_SECOND, "{:?}", asked.elapsed());
        sleep(Duration::from_millis(50)).await;
    }
    let ready = scene.there.get("/readyz").no_key().send().await.expect(200).json();
    assert!(!names_the_database(&ready), "the database answers, and is said to be gone: {ready}");
}
