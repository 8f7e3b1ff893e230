//! The console's pages about customers: who is found, what stood when, what ends, who looked, and a withdrawal.

use chrono::{DateTime, TimeDelta, Utc};
use consentd::domain::{
    AuditAction, AuditEntry, ConsentState, ConsentStatus, ConsentTier, Stretch, ids_beginning, stretches,
};
use consentd::store::listing::{LOOKED_THROUGH, Place};
use proptest::prelude::*;
use serde_json::{Value, json};
use sqlx::types::Json;
use uuid::Uuid;

use crate::service::{Answer, Service, consent};
use crate::visit::Visit;

const CANARY: &str = "\"><script>alert(1)</script><img src=x onerror=alert(1)>'";

fn location(answer: &Answer) -> &str {
    answer.header("location").expect("a way on")
}

/// The customers that a page lists, in its order.
fn listed(page: &str) -> Vec<Uuid> {
    let links = page.split("class=\"mono id\" href=\"/console/customers/").skip(1);
    links.map(|rest| rest[..36].parse().expect("an id")).collect()
}

/// Where a page goes on.
fn next(page: &str) -> Option<String> {
    let (before, _) =
        page.split_once("rel=\"next\" href=\"").map(|(_, rest)| rest.split_once('"').expect("a quote"))?;
    Some(before.replace("&amp;", "&").replace("&#38;", "&"))
}

/// A customer with this id and this address.
async fn create(service: &Service, customer_id: Uuid, email: &str, company: &str) {
    let body = json!({"customer_id": customer_id, "email": email, "company_name": company, "tier": "pro"});
    service.call("POST", "/v1/customers").json(&body).send().await.expect(201);
}

async fn found(visit: &Visit<'_>, query: &str) -> Vec<Uuid> {
    listed(&visit.get(&format!("/console/customers?{query}")).await.expect(200).text())
}

#[tokio::test]
async fn customers_are_found_by_id_its_beginning_address_and_what_they_decided() {
    let service = Service::start().await;
    let visit = Visit::begin(&service).await;
    let ids = [
        "0a000000-0000-4000-8000-000000000001",
        "0a100000-0000-4000-8000-000000000002",
        "0b000000-0000-4000-8000-000000000003",
        "f0000000-0000-4000-8000-000000000004",
        "ffffffff-ffff-4fff-bfff-ffffffffffff",
    ]
    .map(|id| id.parse::<Uuid>().expect("an id"));
    assert!(visit.get("/console/customers").await.expect(200).text().contains("There are no customers yet"));
    for (number, id) in ids.iter().enumerate() {
        create(&service, *id, &format!("robin{number}@example.com"), "Robotics").await;
    }
    let soon = service.now() + TimeDelta::days(10);
    service.put(ids[0], &json!({"consent_tier": "basic", "expires_at": soon})).send().await.expect(201);
    service.put(ids[1], &json!({"consent_tier": "basic"})).send().await.expect(201);
    service.put(ids[2], &json!({"consent_tier": "none"})).send().await.expect(201);
    let later = service.now() + TimeDelta::days(20);
    let research = json!({"consent_tier": "research", "can_store_images": true, "expires_at": later});
    service.put(ids[3], &research).send().await.expect(201);

    assert_eq!(found(&visit, "").await, ids);
    assert_eq!(found(&visit, "search=0a").await, ids[..2]);
    assert_eq!(found(&visit, "search=0A1").await, ids[1..2]);
    assert_eq!(found(&visit, "search=0a0000000000-4").await, ids[..1]);
    assert_eq!(found(&visit, &format!("search=+{}+", ids[4])).await, ids[4..]);
    assert_eq!(found(&visit, "search=robin3%40example.com").await, ids[3..4]);
    assert!(found(&visit, "search=robin%40example.com").await.is_empty());
    assert_eq!(found(&visit, "tier=basic").await, ids[..2]);
    assert_eq!(found(&visit, "tier=basic&search=0a1").await, ids[1..2]);
    assert_eq!(found(&visit, "tier=none").await, ids[2..3]);
    assert_eq!(found(&visit, "status=withdrawn").await, ids[2..3]);
    assert_eq!(found(&visit, "status=never_given").await, ids[4..]);
    assert!(found(&visit, "tier=none&status=never_given").await.is_empty());
    assert_eq!(found(&visit, "status=active").await, [ids[0], ids[1], ids[3]]);
    assert_eq!(found(&visit, "tier=research&status=active&search=robin3%40example.com").await, ids[3..4]);
    let day = soon.format("%Y-%m-%d");
    let after = (soon + TimeDelta::days(1)).format("%Y-%m-%d").to_string();
    assert_eq!(found(&visit, &format!("expiring_from={day}&expiring_before={after}")).await, ids[..1]);
    assert_eq!(found(&visit, "expiring_from=2026-01-01").await, [ids[0], ids[3]]);
    assert_eq!(found(&visit, "expiring_from=2026-01-01&tier=research").await, ids[3..4]);

    service.advance(TimeDelta::days(15));
    let visit = Visit::begin(&service).await;
    assert_eq!(found(&visit, "status=expired").await, ids[..1]);
    assert_eq!(found(&visit, "tier=basic&status=active").await, ids[1..2]);
    assert_eq!(found(&visit, "tier=basic").await, ids[..2]);
    let page = visit.get("/console/customers?tier=analytics").await.expect(200).text();
    assert!(page.contains("No customer fits this filter"));
    assert!(page.contains("aria-label=\"Remove the filter tier\""));
}

#[tokio::test]
async fn nonsense_is_told_all_at_once_with_its_field() {
    let service = Service::start().await;
    let visit = Visit::begin(&service).await;
    let page = visit
        .get("/console/customers?search=nobody&tier=gold&status=happy&expiring_from=soon&expiring_before=9&colour=red")
        .await
        .expect(400)
        .text();
    for field in ["search", "tier", "status", "expiring_from", "expiring_before", "colour"] {
        assert!(page.contains(&format!("<code>{field}</code>")), "{field} is not told of: {page}");
    }
    visit.get("/console/customers?search=&tier=").await.expect(200);
    let customer = service.customer().await;
    let path = format!("/console/customers/{customer}");
    for (query, field) in [
        ("as_of=yesterday", "as_of"),
        ("as_of=2126-01-01", "as_of"),
        ("at=12:00", "at"),
        ("as_of=2026-02-01&at=noon", "at"),
        ("as_of=2026-02-01T00:00:00Z&at=12:00", "at"),
        ("as_of=2026-03-01&at=23:00", "at"),
        ("recorded=-1", "recorded"),
        ("cursor=tampered", "cursor"),
    ] {
        let page = visit.get(&format!("{path}?{query}")).await.expect(400).text();
        assert!(page.contains(&format!("<code>{field}</code>")), "{query}: {page}");
    }
    visit.get("/console/access?customer_id=7").await.expect(400);
    visit.get("/console/expiring?tier=basic").await.expect(400);
    visit.get("/console/customers/7").await.expect(400);
    let page = visit.get(&format!("/console/customers/{}", Uuid::new_v4())).await.expect(404).text();
    assert!(page.contains("There is no such customer"), "{page}");
}

#[tokio::test]
async fn parts_of_a_list_join_and_a_cursor_is_good_for_its_list_alone() {
    let service = Service::start().await;
    let visit = Visit::begin(&service).await;
    let mut all = Vec::new();
    for number in 0..55 {
        let customer = service.customer().await;
        all.push(customer);
        // Several end at the same instant.
        let end = service.now() + TimeDelta::days(5 + number / 20);
        service.put(customer, &json!({"consent_tier": "basic", "expires_at": end})).send().await.expect(201);
    }
    for query in ["", "tier=basic", "expiring_from=2026-03-01", "status=active"] {
        let mut walked = Vec::new();
        let mut path = format!("/console/customers?{query}");
        loop {
            let page = visit.get(&path).await.expect(200).text();
            walked.extend(listed(&page));
            let Some(next) = next(&page) else { break };
            path = next;
        }
        assert_eq!(walked.len(), 55, "{query}");
        walked.sort_unstable();
        all.sort_unstable();
        assert_eq!(walked, all, "{query}");
    }
    let page = visit.get("/console/customers?tier=basic").await.expect(200).text();
    let way = next(&page).expect("there are more");
    let cursor = way.split_once("cursor=").expect("a cursor").1;
    for path in [
        format!("/console/customers?cursor={cursor}"),
        format!("/console/customers?tier=none&cursor={cursor}"),
        format!("/console/audit?cursor={cursor}"),
        format!("/console/access?cursor={cursor}"),
    ] {
        let page = visit.get(&path).await.expect(400).text();
        assert!(page.contains("<code>cursor</code>"), "{path}: {page}");
    }
}

#[tokio::test]
async fn what_matches_rarely_is_looked_for_in_steps() {
    let service = Service::start().await;
    let sql = service.sql().await;
    let many = "insert into vlaapi.customers (customer_id, email) \
                select lpad(to_hex(number), 32, '0')::uuid, number || '@example.com' from generate_series(1, $1) number";
    let passed = i32::try_from(LOOKED_THROUGH).expect("not so many");
    sqlx::query(many).bind(passed + 10).execute(&sql).await.expect("customers");
    let last = Uuid::from_u128(LOOKED_THROUGH.unsigned_abs().into());
    let beyond = Uuid::from_u128(u128::from(LOOKED_THROUGH.unsigned_abs()) + 5);
    service.put(beyond, &json!({"consent_tier": "basic"})).send().await.expect(201);
    let visit = Visit::begin(&service).await;
    let page = visit.get("/console/customers?status=active").await.expect(200).text();
    assert!(listed(&page).is_empty() && page.contains("None of the 20,000 customers"), "{page}");
    let way = page.split_once("filter. <a href=\"").expect("a way on").1.split('"').next().expect("a link");
    let way = way.replace("&amp;", "&").replace("&#38;", "&");
    let page = visit.get(&way).await.expect(200).text();
    assert_eq!(listed(&page), [beyond]);
    assert!(page.contains("These are the last"), "{page}");
    // Somebody at the very end of a step is not passed over, nor shown twice.
    service.put(last, &json!({"consent_tier": "basic"})).send().await.expect(201);
    let page = visit.get("/console/customers?status=active").await.expect(200).text();
    assert_eq!(listed(&page), [last]);
    assert!(page.contains("20,000 customers were looked through"), "{page}");
    assert_eq!(listed(&visit.get(&next(&page).expect("more")).await.expect(200).text()), [beyond]);
}

/// A customer's history: given, changed, ended by itself, given again, withdrawn.
async fn with_history(service: &Service) -> Uuid {
    let customer = service.customer().await;
    let end = service.now() + TimeDelta::days(20);
    for body in [
        json!({"consent_tier": "basic", "expires_at": end}),
        json!({"consent_tier": "research", "can_store_images": true, "can_use_for_training": true, "expires_at": end}),
    ] {
        service.put(customer, &body).send().await.expect_one_of(&[200, 201]);
        service.advance(TimeDelta::days(5));
    }
    service.advance(TimeDelta::days(20));
    assert_eq!(service.sweep().await, Some(1));
    service.advance(TimeDelta::days(1));
    service
        .put(customer, &json!({"consent_tier": "analytics", "can_store_embeddings": true}))
        .send()
        .await
        .expect(200);
    service.advance(TimeDelta::days(1));
    service.call("DELETE", &consent(customer)).send().await.expect(200);
    service.advance(TimeDelta::days(1));
    customer
}

/// What a page says stands: the tier and the status.
fn stands(page: &str) -> (String, String) {
    let panel = page.split_once("id=\"stands\"").expect("a panel").1;
    let tier = panel.split_once("pill tier-").expect("a tier").1.split('"').next().expect("a word");
    let status =
        panel.split_once("<dt>Status</dt>").expect("a status").1.split("</dd>").next().expect("an end");
    let status = status.rsplit("</span> ").next().expect("a word").trim_end_matches("</span>");
    (tier.to_owned(), status.to_owned())
}

fn in_words(status: &Value) -> &'static str {
    match status.as_str().expect("a status") {
        "active" => "in force",
        "withdrawn" => "withdrawn",
        "expired" => "expired",
        _ => "nothing recorded",
    }
}

#[tokio::test]
async fn as_of_an_instant_the_page_says_what_the_api_answers() {
    let service = Service::start().await;
    let begin = service.now();
    let customer = with_history(&service).await;
    let visit = Visit::begin(&service).await;
    let mut instants: Vec<DateTime<Utc>> =
        (0..40).map(|day| begin + TimeDelta::hours(20 * day) - TimeDelta::hours(1)).collect();
    for entry in service.trail(customer).await {
        let time: DateTime<Utc> = entry["timestamp"].as_str().expect("a time").parse().expect("a time");
        instants.extend([time, time - TimeDelta::microseconds(1)]);
    }
    for instant in instants {
        let text = instant.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
        let answer =
            service.get(&format!("{}?as_of={text}", consent(customer))).send().await.expect(200).json();
        let page = visit.get(&format!("/console/customers/{customer}?as_of={text}")).await.expect(200).text();
        let said = stands(&page);
        assert_eq!(said.0, answer["consent_tier"].as_str().expect("a tier"), "{text}");
        assert_eq!(said.1, in_words(&answer["status"]), "{text}");
    }
    // A day is looked at as it ended.
    let day = begin.date_naive();
    let answer = format!("{}?as_of={day}T23:59:59.999999Z", consent(customer));
    let answer = service.get(&answer).send().await.expect(200).json();
    let page = visit.get(&format!("/console/customers/{customer}?as_of={day}")).await.expect(200).text();
    assert_eq!(stands(&page).0, answer["consent_tier"].as_str().expect("a tier"));
    assert!(
        page.contains(&format!("at the end of {day} (UTC)")) && page.contains("<strong>stood then</strong>")
    );
    let page =
        visit.get(&format!("/console/customers/{customer}?as_of={day}&at=11:59")).await.expect(200).text();
    assert_eq!(stands(&page), ("none".to_owned(), "nothing recorded".to_owned()));
    // The changes before and after lead from one to the next.
    let mut path = format!("/console/customers/{customer}?as_of={day}");
    let mut tiers = Vec::new();
    loop {
        let page = visit.get(&path).await.expect(200).text();
        tiers.push(stands(&page).0);
        let after = page
            .split_once("<a rel=\"next\" href=\"")
            .map(|(_, rest)| rest.split('"').next().expect("a link"));
        let Some(after) = after else { break };
        path = after.replace("#stands", "");
    }
    assert_eq!(tiers, ["basic", "research", "research", "analytics", "none"]);
}

#[tokio::test]
async fn a_customer_s_page_draws_the_history_and_pages_it() {
    let service = Service::start().await;
    let customer = with_history(&service).await;
    for number in 0..25 {
        let body = json!({"consent_tier": "basic", "policy_version": number.to_string()});
        service.put(customer, &body).send().await.expect(200);
        service.advance(TimeDelta::hours(1));
    }
    let visit = Visit::begin(&service).await;
    let page = visit.get(&format!("/console/customers/{customer}?as_of=2026-03-20")).await.expect(200).text();
    assert_eq!(page.matches("<circle").count(), 30, "a dot for each entry");
    assert_eq!(page.matches("class=\"as-of\"").count(), 1);
    for entry in service.trail(customer).await {
        assert!(page.contains(&format!("<a href=\"/console/audit/{}\" tabindex=\"-1\">", entry["audit_id"])));
    }
    let ids = |page: &str| -> Vec<i64> {
        let timeline = page
            .split_once("class=\"timeline\"")
            .expect("a timeline")
            .1
            .split("</ol>")
            .next()
            .expect("an end");
        let links = timeline.split("<div class=\"row\"><a href=\"/console/audit/").skip(1);
        links.map(|rest| rest.split('"').next().expect("a quote").parse().expect("an id")).collect()
    };
    let page = visit.get(&format!("/console/customers/{customer}")).await.expect(200).text();
    let mut walked = ids(&page);
    assert_eq!(walked.len(), 20);
    let way = next(&page[page.find("Pages of the timeline").expect("pages")..]).expect("older ones");
    walked.extend(ids(&visit.get(way.trim_end_matches("#timeline")).await.expect(200).text()));
    let all: Vec<i64> =
        service.trail(customer).await.iter().filter_map(|entry| entry["audit_id"].as_i64()).collect();
    assert_eq!(walked, all);
}

#[tokio::test]
async fn a_deleted_customer_still_has_a_page() {
    let service = Service::start().await;
    let customer = with_history(&service).await;
    sqlx::query("delete from vlaapi.customers where customer_id = $1")
        .bind(customer)
        .execute(&service.sql().await)
        .await
        .expect("a deletion");
    service.advance(TimeDelta::hours(1));
    let visit = Visit::begin(&service).await;
    let page = visit.get(&format!("/console/customers/{customer}")).await.expect(200).text();
    assert!(page.contains("This customer was deleted"), "{page}");
    assert!(!page.contains("Record a withdrawal"));
    let page = visit.get(&format!("/console/customers?search={customer}")).await.expect(200).text();
    assert!(page.contains("This customer was deleted"), "{page}");
    visit.get(&format!("/console/customers/{customer}/withdrawal")).await.expect(404);
    visit.post(&format!("/console/customers/{customer}/withdrawal"), &[("reason", "late")]).await.expect(404);
}

#[tokio::test]
async fn a_withdrawal_needs_the_scope_and_a_reason_and_lands_in_the_trail() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let given = json!({"consent_tier": "research", "can_store_images": true});
    service.put(customer, &given).send().await.expect(201);
    let (page, form) =
        (format!("/console/customers/{customer}"), format!("/console/customers/{customer}/withdrawal"));
    let reader = service.key(None, &["audit:read"]).await;
    let reader = Visit::with_key(&service, &reader).await;
    assert!(!reader.get(&page).await.expect(200).text().contains("Record a withdrawal"));
    for answer in [reader.get(&form).await, reader.post(&form, &[("reason", "told us")]).await] {
        let text = answer.expect(403).text();
        assert!(text.contains("consent:write"), "{text}");
    }
    let key = service.key(None, &["audit:read", "consent:write"]).await;
    let writer = Visit::with_key(&service, &key).await;
    assert!(writer.get(&page).await.expect(200).text().contains(&format!("href=\"{form}\"")));
    assert!(writer.get(&form).await.expect(200).text().contains("Withdraw everything"));
    let long = "x".repeat(1001);
    for fields in [
        &[][..],
        &[("reason", "  ")],
        &[("reason", &long)],
        &[("on_behalf_of", "Robin")],
        &[("reason", "a"), ("colour", "red")],
    ] {
        let text = writer.post(&form, fields).await.expect(400).text();
        assert!(text.contains("role=\"alert\"") && text.contains("<form class=\"stacked panel\""), "{text}");
    }
    for name in ["cross-site", "same-site"] {
        let call = writer.call("POST", &form).header("sec-fetch-site", name);
        call.header("content-type", "application/x-www-form-urlencoded")
            .body("reason=told")
            .send()
            .await
            .expect(403);
    }
    assert_eq!(service.trail(customer).await.len(), 1, "nothing was recorded yet");

    service.advance(TimeDelta::hours(1));
    let writer = Visit::with_key(&service, &key).await;
    let done = writer
        .post(&form, &[("reason", " told us by telephone "), ("on_behalf_of", "Robin")])
        .await
        .expect(303);
    let entry = service.trail(customer).await[0].clone();
    assert_eq!(entry["action"], "withdrawn");
    assert_eq!(entry["change_reason"], "told us by telephone");
    assert_eq!(entry["on_behalf_of"], "Robin");
    assert_eq!(entry["changed_by"], format!("key:{}", &key[..13]));
    assert_eq!(service.consent(customer).await["consent_tier"], "none");
    assert_eq!(location(&done), format!("{page}?recorded={}", entry["audit_id"]));
    let text = writer.get(location(&done)).await.expect(200).text();
    assert!(
        text.contains(&format!(
            "recorded as <a href=\"/console/audit/{0}\">entry {0}</a>",
            entry["audit_id"]
        )),
        "{text}"
    );
    assert!(!text.contains(&format!("href=\"{form}\"")), "there is nothing to withdraw any more");

    let again = writer.post(&form, &[("reason", "once more")]).await.expect(303);
    assert!(writer.get(location(&again)).await.expect(200).text().contains("nothing was recorded"));
    assert_eq!(service.trail(customer).await.len(), 2);
    assert!(writer.get(&form).await.expect(200).text().contains("there is nothing to withdraw"));
    // Whatever an address claims, another entry is no withdrawal of this customer.
    let first = service.trail(customer).await[1]["audit_id"].clone();
    assert!(
        !writer.get(&format!("{page}?recorded={first}")).await.expect(200).text().contains("is recorded as")
    );
    let unknown = format!("/console/customers/{}/withdrawal", Uuid::new_v4());
    writer.post(&unknown, &[("reason", "nobody")]).await.expect(404);
}

#[tokio::test]
async fn names_are_masked_until_asked_for_and_whoever_asked_is_listed() {
    let service = Service::start().await;
    let customer = Uuid::new_v4();
    create(&service, customer, "robin@robotics.example.com", "Example Robotics").await;
    service
        .put(customer, &json!({"consent_tier": "basic", "on_behalf_of": "Robin Example"}))
        .send()
        .await
        .expect(201);
    let visit = Visit::begin(&service).await;
    let page = format!("/console/customers/{customer}");
    let search = "/console/customers?search=robin%40robotics.example.com";
    for path in [&page, "/console/customers"] {
        let text = visit.get(path).await.expect(200).text();
        assert!(text.contains("r•••@robotics.example.com") && text.contains("E•••"), "{text}");
        assert!(
            !text.contains("robin@") && !text.contains("Example Robotics") && !text.contains("Robin"),
            "{text}"
        );
    }
    let text = visit.get(&page).await.expect(200).text();
    assert!(text.contains("Nobody has asked"), "{text}");
    for path in [page.as_str(), search] {
        let asked = visit.post("/console/reveal", &[("page", path)]).await.expect(303);
        let text = visit.get(location(&asked)).await.expect(200).text();
        assert!(text.contains("robin@robotics.example.com") && text.contains("Example Robotics"), "{text}");
    }
    let text = visit.get(&page).await.expect(200).text();
    assert!(!text.contains("Nobody has asked") && !text.contains("robin@"), "{text}");
    let looked = text.split_once("id=\"looked\"").expect("a section").1;
    assert!(looked.contains(&format!("API key {}", &service.operator[..13])), "{looked}");
    assert_eq!(looked.matches("<td class=\"time\">").count(), 1);

    let text = visit.get("/console/access").await.expect(200).text();
    assert_eq!(text.matches("<td class=\"time\">").count(), 2, "{text}");
    // By what was looked for is personal too.
    assert!(
        text.contains("search <code>r•••@robotics.example.com</code>") && !text.contains("robin"),
        "{text}"
    );
    let asked = visit.post("/console/reveal", &[("page", "/console/access")]).await.expect(303);
    let text = visit.get(location(&asked)).await.expect(200).text();
    assert!(text.contains("search <code>robin@robotics.example.com</code>"), "{text}");
    let of_one = visit.get(&format!("/console/access?customer_id={customer}")).await.expect(200).text();
    assert_eq!(of_one.matches("<td class=\"time\">").count(), 1);
    let of_nobody =
        visit.get(&format!("/console/access?customer_id={}", Uuid::new_v4())).await.expect(200).text();
    assert!(of_nobody.contains("Nobody has looked"), "{of_nobody}");
}

#[tokio::test]
async fn nothing_that_somebody_said_becomes_markup() {
    let service = Service::start().await;
    let customer = Uuid::new_v4();
    create(&service, customer, "<script>alert(1)</script>@<img>", CANARY).await;
    let body = json!({
        "consent_tier": "research", "can_store_images": true, "reason": CANARY, "on_behalf_of": CANARY,
        "policy_version": "<script>alert(1)</script>",
    });
    service.put(customer, &body).header("user-agent", CANARY).send().await.expect(201);
    let visit = Visit::begin(&service).await;
    let page = format!("/console/customers/{customer}");
    let form = format!("{page}/withdrawal");
    let mut texts =
        vec![visit.post(&form, &[("on_behalf_of", CANARY), (CANARY, CANARY)]).await.expect(400).text()];
    visit.post(&form, &[("reason", CANARY), ("on_behalf_of", CANARY)]).await.expect(303);
    for path in [
        page.as_str(),
        "/console/customers",
        "/console/access",
        &format!("/console/customers?search={customer}"),
    ] {
        texts.push(visit.get(path).await.expect(200).text());
        let asked = visit.post("/console/reveal", &[("page", path)]).await.expect(303);
        texts.push(visit.get(location(&asked)).await.expect(200).text());
    }
    let named = "/console/customers?search=%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E%40x";
    texts.push(visit.get(named).await.expect(200).text());
    let asked = visit.post("/console/reveal", &[("page", named)]).await.expect(303);
    texts.push(visit.get(location(&asked)).await.expect(200).text());
    texts.push(visit.get("/console/access").await.expect(200).text());
    for text in texts {
        assert!(!text.contains("<script>alert") && !text.contains("<img"), "{text}");
        for inline in [" style=", " onclick=", "<style", "<script>"] {
            assert!(!text.contains(inline), "{inline} in {text}");
        }
    }
}

#[tokio::test]
async fn what_ends_is_counted_by_day_and_leads_to_the_customers() {
    let service = Service::start().await;
    let visit = Visit::begin(&service).await;
    let page = visit.get("/console/expiring").await.expect(200).text();
    assert!(page.contains("No consent ends until") && page.contains("No consent expired"), "{page}");
    let mut ending = Vec::new();
    for (days, tier) in [(3, "basic"), (3, "analytics"), (40, "basic"), (89, "research"), (90, "basic")] {
        let customer = service.customer().await;
        let end = service.now() + TimeDelta::days(days);
        service.put(customer, &json!({"consent_tier": tier, "expires_at": end})).send().await.expect(201);
        ending.push((customer, end.date_naive()));
    }
    let mut sealer = service.sealer().await;
    let page = visit.get("/console/expiring").await.expect(200).text();
    assert!(page.contains("4 consents end by themselves"), "{page}");
    for (customer, day) in &ending[..4] {
        let way = format!(
            "/console/customers?expiring_from={day}&expiring_before={}",
            day.succ_opt().expect("a day")
        );
        assert!(
            page.replace("&amp;", "&").replace("&#38;", "&").contains(&format!("href=\"{way}\"")),
            "{day}: {page}"
        );
        assert!(listed(&visit.get(&way).await.expect(200).text()).contains(customer));
    }
    service.advance(TimeDelta::days(5));
    assert_eq!(service.sweep().await, Some(2));
    sealer.round(service.now()).await.expect("a round");
    let visit = Visit::begin(&service).await;
    let page = visit.get("/console/expiring").await.expect(200).text();
    assert!(page.contains("2 consents expired"), "{page}");
    let day = service.now().date_naive();
    let way = format!("/console/audit?action=expired&since={day}&until={day}");
    assert!(page.replace("&#38;", "&").replace("&amp;", "&").contains(&way), "{page}");
    assert!(visit.get(&way).await.expect(200).text().contains("2 entries"));
}

fn states() -> impl Strategy<Value = (i64, ConsentTier, bool, Option<i64>)> {
    let tier = prop::sample::select(ConsentTier::ALL.to_vec());
    (1..1000_i64, tier, any::<bool>(), prop::option::of(1..3000_i64))
}

proptest! {
    /// The stretches lie one after the other, and at any instant say what the newest entry before it says.
    #[test]
    fn a_history_tells_of_every_instant_what_its_entries_say(
        changes in prop::collection::vec(states(), 0..20), end in 0..4000_i64, looked_at in 0..4000_i64,
    ) {
        let begin: DateTime<Utc> = "2026-03-01T12:00:00Z".parse().expect("a time");
        let at = |seconds: i64| begin + TimeDelta::seconds(seconds);
        let customer_id = Uuid::new_v4();
        let mut time = 0;
        let entries: Vec<AuditEntry> = changes.iter().zip(1..).map(|((pause, tier, images, expires), version)| {
            time += pause;
            let state = ConsentState {
                can_store_images: *images, expires_at: expires.map(|after| at(time + after)),
                ..ConsentState::of_tier(*tier)
            };
            AuditEntry {
                audit_id: i64::from(version), customer_id, action: AuditAction::Updated, version, previous_tier: None,
                new_tier: *tier, previous: None, current: Some(Json(state)), changed_by: None, on_behalf_of: None,
                change_reason: None, ip_address: None, user_agent: None, request_id: None, timestamp: at(time),
                unreadable: Vec::new(), foreign: false,
            }
        }).collect();
        let found = stretches(&entries, at(end));
        prop_assert!(found.iter().all(|stretch| stretch.from < stretch.until));
        prop_assert!(found.windows(2).all(|pair| pair[0].until == pair[1].from));
        if let Some(last) = found.last() {
            prop_assert_eq!(last.until, at(end));
            prop_assert_eq!(found[0].from, entries[0].timestamp);
        }
        let instant = at(looked_at);
        let standing = entries.iter().rev().find(|entry| entry.timestamp <= instant).filter(|_| instant < at(end));
        let stretch: Option<&Stretch> = found.iter().find(|stretch| stretch.from <= instant && instant < stretch.until);
        prop_assert_eq!(stretch.map(|stretch| stretch.audit_id), standing.map(|entry| entry.audit_id));
        if let (Some(stretch), Some(entry)) = (stretch, standing) {
            let state = entry.state();
            let status = if state.consent_tier == ConsentTier::None {
                ConsentStatus::Withdrawn
            } else if state.expires_at.is_some_and(|expires_at| expires_at <= instant) {
                ConsentStatus::Expired
            } else {
                ConsentStatus::Active
            };
            prop_assert_eq!(stretch.status, status);
            prop_assert_eq!(&stretch.state, &state);
        }
    }

    /// Exactly the ids whose digits begin so.
    #[test]
    fn the_beginning_of_an_id_means_those_that_begin_with_it(
        id in any::<u128>(), other in any::<u128>(), digits in 1..=32_usize, hyphens: bool,
    ) {
        let (id, other) = (Uuid::from_u128(id), Uuid::from_u128(other));
        let simple = id.simple().to_string();
        let beginning = if hyphens { id.to_string()[..(digits + 4).min(36)].to_owned() } else { simple[..digits].to_owned() };
        let (least, greatest) = ids_beginning(&beginning).expect("a beginning");
        let plain: String = beginning.chars().filter(|char| *char != '-').collect();
        prop_assert!(least <= id && id <= greatest);
        let begins = other.simple().to_string().starts_with(&plain);
        prop_assert_eq!((least..=greatest).contains(&other), begins);
        prop_assert_eq!(ids_beginning(&beginning.to_uppercase()), Some((least, greatest)));
    }

    #[test]
    fn what_is_no_beginning_of_an_id_is_refused(text in "[-0-9a-f]{0,3}[g-z é@]{1,3}[0-9a-f]{0,4}|-*|[0-9a-f]{33}") {
        prop_assert_eq!(ids_beginning(&text), None);
    }

    #[test]
    fn a_place_comes_back_from_its_text(micros in prop::option::of(-1_000_000_000_000_000..4_000_000_000_000_000_i64), id: u128) {
        let expires_at = micros.and_then(DateTime::from_timestamp_micros);
        let place = Place { expires_at, customer_id: Uuid::from_u128(id) };
        prop_assert_eq!(place.to_string().parse::<Place>(), Ok(place));
    }
}
