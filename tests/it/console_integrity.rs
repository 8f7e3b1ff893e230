//! The page that says whether the log holds: as the console shows it, and as the running program verifies when asked.

use std::path::Path;

use chrono::TimeDelta;
use reqwest::Client;
use reqwest::redirect::Policy;
use serde_json::json;
use sqlx::PgPool;

use crate::cluster::database;
use crate::log::running::Running;
use crate::log::{eventually, tamper};
use crate::service::Service;
use crate::visitor::Visitor;

#[tokio::test]
async fn the_page_shows_what_is_signed_and_what_cannot_be_sealed() {
    let service = Service::start().await;
    let visitor = Visitor::admin(&service).await;
    let page = visitor.get("/console/integrity").await.expect(200).text();
    assert!(page.contains("The log was never verified") && page.contains("Nothing is signed yet"), "{page}");

    let mut sealer = service.sealer().await;
    for _ in 0..25 {
        service.put(service.customer().await, &json!({"consent_tier": "basic"})).send().await.expect(201);
        sealer.round(service.now()).await.expect("a round");
    }
    let page = visitor.get("/console/integrity").await.expect(200).text();
    let checkpoints = |page: &str| page.matches("<td class=\"time\"><time").count();
    assert_eq!(checkpoints(&page), 20);
    let key = service.keys.verifier_keys("log.example/audit/1").expect("keys")[0].to_string();
    // askama writes a plus sign as it is.
    assert!(page.contains(&key), "{key} is not in {page}");
    let older = page.split("<a href=\"").find(|part| part.contains(">Older<")).expect("a link");
    let older = older.split('"').next().expect("an address").replace("&amp;", "&").replace("&#38;", "&");
    let page = visitor.get(&older).await.expect(200).text();
    assert!((5..=6).contains(&checkpoints(&page)) && !page.contains(">Older<"), "{page}");
    visitor.get(&older.replace("cursor=", "cursor=A")).await.expect(400);

    // Changed before it was sealed: quarantined, and said so with the reason.
    service.put(service.customer().await, &json!({"consent_tier": "basic"})).send().await.expect(201);
    let pool = service.sql().await;
    tamper(
        &pool,
        "update vlaapi.customer_consent_audit set new_tier = 'research'
         where audit_id = (select max(audit_id) from vlaapi.customer_consent_audit)",
    )
    .await;
    sealer.round(service.now()).await.expect("a round");
    let page = visitor.get("/console/integrity").await.expect(200).text();
    assert!(page.contains("Entries that are set aside, the newest 1"), "{page}");
    // Nobody seals: what waits is late.
    service.put(service.customer().await, &json!({"consent_tier": "basic"})).send().await.expect(201);
    service.advance(TimeDelta::days(10_000));
    let visitor = Visitor::admin(&service).await;
    let page = visitor.get("/console/integrity").await.expect(200).text();
    assert!(page.contains("sealing is late"), "{page}");
}

#[tokio::test]
async fn a_fork_is_told_with_what_to_do() {
    let service = Service::start().await;
    let mut sealer = service.sealer().await;
    service.put(service.customer().await, &json!({"consent_tier": "basic"})).send().await.expect(201);
    sealer.round(service.now()).await.expect("a round");
    service
        .store
        .mark_forked(1, "the database shows a tree of size 1", service.now())
        .await
        .expect("it is marked");
    let visitor = Visitor::admin(&service).await;
    sealer.round(service.now()).await.expect("a round");
    let page = visitor.get("/console/integrity").await.expect(200).text();
    for told in [
        "The log is forked",
        "the database shows a tree of size 1",
        "consentd audit new-log",
        "badge bad",
        "verdict bad",
    ] {
        assert!(page.contains(told), "{told}: {page}");
    }
}

#[tokio::test]
async fn nothing_is_verified_where_nobody_does_and_nothing_without_the_scope() {
    let service = Service::start().await;
    let visitor = Visitor::admin(&service).await;
    assert!(!visitor.get("/console/integrity").await.expect(200).text().contains("Verify now"));
    visitor.post("/console/integrity/verify", &[]).await.expect(409);
    let other_site = visitor.call("POST", "/console/integrity/verify").header("sec-fetch-site", "cross-site");
    other_site.header("content-type", "application/x-www-form-urlencoded").send().await.expect(403);
    service.verifications.offer();
    assert!(visitor.get("/console/integrity").await.expect(200).text().contains("Verify now"));
    visitor.post("/console/integrity/verify", &[]).await.expect(303);
    service.verifications.progress(7, 40);
    // Asking twice is asking once.
    visitor.post("/console/integrity/verify", &[]).await.expect(303);
    let page = visitor.get("/console/integrity").await.expect(200).text();
    assert!(page.contains("17 %, 7 of 40 leaves") && page.contains(r#"value="17""#), "{page}");
    assert!(
        page.contains(r#"<noscript><meta http-equiv="refresh""#) && !page.contains("Verify now"),
        "{page}"
    );
    visitor.post("/console/integrity/verify", &[("colour", "red")]).await.expect(400);
}

struct Browser {
    client: Client,
    address: String,
    cookie: String,
}

impl Browser {
    async fn sign_in(running: &Running) -> Self {
        let client = Client::builder().redirect(Policy::none()).build().expect("a client");
        let address = running.address.clone();
        let sent = client
            .post(format!("{address}/console/sign-in"))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(format!("key={}", running.key));
        let answer = sent.send().await.expect("an answer");
        assert_eq!(answer.status(), 303);
        let cookie =
            answer.headers()["set-cookie"].to_str().expect("a text").split(';').next().expect("a cookie");
        Self { cookie: cookie.to_owned(), client, address }
    }

    async fn page(&self) -> String {
        let asked =
            self.client.get(format!("{}/console/integrity", self.address)).header("cookie", &self.cookie);
        asked.send().await.expect("an answer").text().await.expect("a page")
    }

    async fn verify(&self) {
        let asked = self.client.post(format!("{}/console/integrity/verify", self.address));
        let asked =
            asked.header("cookie", &self.cookie).header("content-type", "application/x-www-form-urlencoded");
        assert_eq!(asked.send().await.expect("an answer").status(), 303);
    }
}

#[tokio::test]
async fn verify_now_finds_what_was_changed_in_the_database_and_the_badge_turns_red() {
    let database = database().await;
    let data_dir = tempfile::tempdir().expect("a directory");
    // By itself it would verify in a day, after the first time.
    let running = Running::start(&database, data_dir.path(), &[]).await;
    let customer = running.customer("a@example.com").await;
    let last = running.change(customer).await;
    running.proof(last).await;
    let browser = Browser::sign_in(&running).await;
    browser.verify().await;
    let mut page = String::new();
    eventually("it is verified, and holds", async || {
        page = browser.page().await;
        page.contains("The log holds")
    })
    .await;
    assert!(page.contains("badge good") && page.contains("verdict good"), "{page}");

    let pool = PgPool::connect_with(database.owner.clone()).await.expect("the database is there");
    let change =
        format!("update vlaapi.customer_consent_audit set new_tier = 'research' where audit_id = {last}");
    tamper(&pool, &change).await;
    browser.verify().await;
    eventually("the change is found", async || {
        page = browser.page().await;
        page.contains("The log was tampered with")
    })
    .await;
    assert!(page.contains("badge bad") && page.contains("verdict bad"), "{page}");
    assert!(
        page.contains(&format!("Broken at entry {last}")) && page.contains("<strong>V7</strong>"),
        "{page}"
    );
    running.stop().await;
    assert!(Path::exists(&data_dir.path().join("audit-checkpoint")));
}
