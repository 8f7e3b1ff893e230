//! The console: who gets in, what is shown of whom, and what its pages promise.

use chrono::{Duration, TimeDelta};
use serde_json::json;
use uuid::Uuid;

use crate::service::{Answer, Service};
use crate::visit::{IDLE, LONGEST, Visit, form, sign_in};

/// Every page that needs a session and no customer or entry.
const PAGES: [&str; 5] =
    ["/console", "/console/audit", "/console/customers", "/console/expiring", "/console/access"];

const CANARY: &str = "\"><script>alert(1)</script><img src=x onerror=alert(1)>'";

fn location(answer: &Answer) -> &str {
    answer.header("location").expect("a way on")
}

#[tokio::test]
async fn without_a_session_a_page_asks_to_sign_in_and_then_comes_back() {
    let service = Service::start().await;
    for path in PAGES {
        let answer = service.get(path).no_key().send().await.expect(303);
        assert_eq!(location(&answer), format!("/console/sign-in?next={}", path.replace('/', "%2F")));
        // An API key in a header is for the API.
        service.get(path).send().await.expect(303);
    }
    let wanted = "/console/audit?action=withdrawn&since=2026-01-01";
    let answer = sign_in(&service, &service.operator, wanted).await.expect(303);
    assert_eq!(location(&answer), wanted);
    let page =
        service.get(&format!("/console/sign-in?next={}", "/console/audit%3Faction%3Dgranted")).no_key();
    assert!(page.send().await.expect(200).text().contains("value=\"/console/audit?action=granted\""));
}

#[tokio::test]
async fn nobody_is_led_elsewhere_by_the_sign_in() {
    let service = Service::start().await;
    for next in [
        "https://example.com/console",
        "//example.com/console",
        "/console\\@example.com",
        "/consolation",
        "/console.example.com",
        "javascript:alert(1)",
        "",
    ] {
        let answer = sign_in(&service, &service.operator, next).await.expect(303);
        assert_eq!(location(&answer), "/console", "{next}");
    }
}

#[tokio::test]
async fn the_sign_in_says_why_a_key_is_not_taken() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let customers = service.key(Some(customer), &["admin"]).await;
    let checks = service.key(None, &["permissions:check"]).await;
    let mut mistyped = service.operator.clone();
    let last = if mistyped.ends_with('a') { 'b' } else { 'a' };
    mistyped.pop();
    mistyped.push(last);
    let unknown = service.key(None, &["audit:read"]).await;
    revoke(&service, &unknown).await;
    for (key, status, why) in [
        ("", 401, "begins with vla_live_"),
        ("secret", 401, "begins with vla_live_"),
        (mistyped.as_str(), 401, "mistyped or cut"),
        (unknown.as_str(), 401, "unknown, expired or revoked"),
        (customers.as_str(), 403, "belongs to one customer"),
        (checks.as_str(), 403, "lacks the scope audit:read"),
    ] {
        let answer = sign_in(&service, key, "/console").await.expect(status);
        assert!(answer.text().contains(why), "{}", answer.text());
        assert_eq!(answer.header("set-cookie"), None);
        assert!(key.is_empty() || !answer.text().contains(key), "the key is in the page");
    }
}

async fn revoke(service: &Service, key: &str) {
    let keys = service.get("/v1/api-keys?limit=1000").send().await.json();
    let listed = keys["items"].as_array().expect("keys");
    let id = listed.iter().find(|listed| key.starts_with(listed["key_prefix"].as_str().expect("a prefix")));
    let id = id.expect("the key is listed")["key_id"].as_str().expect("an id");
    service.call("DELETE", &format!("/v1/api-keys/{id}")).send().await.expect(204);
}

#[tokio::test]
async fn a_session_has_a_cookie_that_no_script_and_no_neighbour_gets_at() {
    let service = Service::start().await;
    let key = service.operator.clone();
    let on = async |host: &str| {
        let call = service.call("POST", "/console/sign-in").no_key().header("host", host);
        let answer = form(call, &[("key", &key)]).await.expect(303);
        answer.header("set-cookie").expect("a cookie").to_owned()
    };
    for host in ["consent.example.com", "10.0.0.7:8080"] {
        let cookie = on(host).await;
        assert!(cookie.starts_with("__Host-consentd-session="), "{cookie}");
        assert!(cookie.ends_with("; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict; Secure"), "{cookie}");
    }
    for host in ["127.0.0.1:8080", "[::1]:8080", "localhost:8080"] {
        let cookie = on(host).await;
        assert!(cookie.starts_with("consentd-session="), "{cookie}");
        assert!(cookie.ends_with("; HttpOnly; SameSite=Strict"), "{cookie}");
        // The name which loopback uses is nothing elsewhere.
        let value = cookie.split(';').next().expect("a value");
        let call = service.get("/console").no_key().header("host", "consent.example.com");
        call.header("cookie", value).send().await.expect(303);
    }
}

#[tokio::test]
async fn a_sign_in_makes_a_new_session_and_ends_the_one_before() {
    let service = Service::start().await;
    let before = Visit::begin(&service).await;
    let planted = before.cookie.clone();
    let call = before.call("POST", "/console/sign-in");
    let answer = form(call, &[("key", &service.operator)]).await.expect(303);
    let cookie =
        answer.header("set-cookie").expect("a cookie").split(';').next().expect("a value").to_owned();
    assert_ne!(cookie, planted);
    before.get("/console").await.expect(303);
    let after = Visit { service: &service, cookie };
    after.get("/console").await.expect(200);
}

#[tokio::test]
async fn a_session_ends_when_somebody_signs_out() {
    let service = Service::start().await;
    let visit = Visit::begin(&service).await;
    let other = Visit::begin(&service).await;
    let answer = visit.post("/console/sign-out", &[]).await.expect(303);
    assert!(answer.header("set-cookie").expect("the cookie goes").contains("Max-Age=0"));
    visit.get("/console").await.expect(303);
    other.get("/console").await.expect(200);
}

#[tokio::test]
async fn a_session_ends_by_itself() {
    let service = Service::start().await;
    let idle = Visit::begin(&service).await;
    let used = Visit::begin(&service).await;
    let step = Duration::minutes(25);
    let mut time = TimeDelta::zero();
    while time + step < LONGEST {
        service.advance(step);
        time += step;
        used.get("/console").await.expect(200);
        if time >= IDLE {
            idle.get("/console").await.expect(303);
        }
    }
    service.advance(LONGEST - time);
    used.get("/console").await.expect(303);
}

#[tokio::test]
async fn a_session_ends_with_its_key() {
    let service = Service::start().await;
    let key = service.key(None, &["audit:read"]).await;
    let visit = Visit::with_key(&service, &key).await;
    visit.get("/console").await.expect(200);
    revoke(&service, &key).await;
    visit.get("/console").await.expect(303);

    let end = service.now() + TimeDelta::minutes(10);
    let body = json!({"customer_id": null, "key_name": "short", "scopes": ["audit:read"], "expires_at": end});
    let made = service.call("POST", "/v1/api-keys").json(&body).send().await.expect(201).json();
    let visit = Visit::with_key(&service, made["api_key"].as_str().expect("a key")).await;
    visit.get("/console").await.expect(200);
    service.advance(TimeDelta::minutes(10));
    visit.get("/console").await.expect(303);
}

#[tokio::test]
async fn forms_of_other_sites_are_refused() {
    let service = Service::start().await;
    let visit = Visit::begin(&service).await;
    for path in ["/console/sign-in", "/console/sign-out", "/console/reveal"] {
        for (name, value) in [
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
            ("origin", "https://example.org"),
        ] {
            let call = visit.call("POST", path).header(name, value).header("host", "consent.example.com");
            let call =
                call.header("content-type", "application/x-www-form-urlencoded").body("page=%2Fconsole");
            let answer = call.send().await.expect(403);
            assert!(answer.text().contains("sent from another site"), "{}", answer.text());
        }
    }
    visit.get("/console").await.expect(200);
    // A link from elsewhere arrives without the cookie: the page asks once more by itself.
    let link = service.get("/console/audit?action=granted").no_key().header("sec-fetch-site", "cross-site");
    let answer = link.send().await.expect(200);
    assert!(answer.text().contains("http-equiv=\"refresh\""));
    assert!(answer.text().contains("href=\"/console/audit?action=granted\""));
}

#[tokio::test]
async fn every_page_is_under_the_strict_policy() {
    let service = Service::start().await;
    let visit = Visit::begin(&service).await;
    let mut answers = vec![
        service.get("/console/sign-in").no_key().send().await.expect(200),
        visit.get("/console/audit?action=nonsense").await.expect(400),
        visit.get("/console/audit/1").await.expect(404),
    ];
    for path in PAGES {
        answers.push(visit.get(path).await.expect(200));
    }
    for answer in answers {
        let policy = answer.header("content-security-policy").expect("a policy");
        for rule in ["default-src 'none'", "script-src 'self'", "require-trusted-types-for 'script'"] {
            assert!(policy.contains(rule), "{policy}");
        }
        assert!(!policy.contains("unsafe"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
        let text = answer.text();
        for inline in [" style=", " onclick=", "<style", "<script>"] {
            assert!(!text.contains(inline), "{inline} in {text}");
        }
    }
}

#[tokio::test]
async fn what_pages_load_is_kept_for_ever_under_a_name_that_changes_with_it() {
    let service = Service::start().await;
    let page = service.get("/console/sign-in").no_key().send().await.text();
    let style = page.split("href=\"").find(|rest| rest.starts_with("/assets/") && rest.contains(".css"));
    let path = style.expect("a stylesheet").split('"').next().expect("a path");
    let answer = service.get(path).no_key().send().await.expect(200);
    assert_eq!(answer.header("cache-control"), Some("public, max-age=31536000, immutable"));
    assert_eq!(answer.header("content-type"), Some("text/css; charset=utf-8"));
    service.get("/assets/0000000000000000/style.css").no_key().send().await.expect(404);
    service.get("/assets/0000000000000000/..%2f..%2fCargo.toml").no_key().send().await.expect(404);
}

#[tokio::test]
async fn nonsense_in_a_filter_is_told_all_at_once() {
    let service = Service::start().await;
    let visit = Visit::begin(&service).await;
    let page = visit
        .get("/console/audit?action=shredded&since=yesterday&ip_address=here&customer_id=7&colour=red&until=")
        .await
        .expect(400)
        .text();
    for field in ["action", "since", "ip_address", "customer_id", "colour"] {
        assert!(page.contains(&format!("<code>{field}</code>")), "{field} is not told of: {page}");
    }
    assert!(!page.contains("<code>until</code>"), "a blank field was not given");
    let page = visit.get("/console/audit?cursor=tampered").await.expect(400).text();
    assert!(page.contains("<code>cursor</code>"), "{page}");
}

/// A trail in which whatever a caller may say holds markup.
async fn with_canaries(service: &Service) -> Uuid {
    let customer = service.customer().await;
    let body = json!({
        "consent_tier": "research", "can_store_images": true, "reason": CANARY, "on_behalf_of": CANARY,
        "policy_version": "<script>alert(1)</script>",
    });
    service.put(customer, &body).header("user-agent", CANARY).peer("203.0.113.7").send().await.expect(201);
    customer
}

#[tokio::test]
async fn nothing_that_is_stored_becomes_markup() {
    let service = Service::start().await;
    let customer = with_canaries(&service).await;
    let visit = Visit::begin(&service).await;
    let id = service.trail(customer).await[0]["audit_id"].as_i64().expect("an id");
    let entry = format!("/console/audit/{id}");
    let revealed = visit.post("/console/reveal", &[("page", &entry)]).await.expect(303);
    for path in ["/console", "/console/audit", &entry, location(&revealed)] {
        let text = visit.get(path).await.expect(200).text();
        assert!(!text.contains("<script>alert"), "{path}: {text}");
        assert!(!text.contains("<img"), "{path}: {text}");
    }
    let text = visit.get(location(&revealed)).await.text();
    assert!(text.contains("&#60;script&#62;alert(1)") || text.contains("&lt;script&gt;alert(1)"), "{text}");
    let filter = format!("/console/audit?changed_by={}", "%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E");
    assert!(!visit.get(&filter).await.expect(200).text().contains("<script>alert"));
}

#[tokio::test]
async fn the_trail_is_walked_without_an_entry_twice_or_skipped() {
    let service = Service::start().await;
    let customer = service.customer().await;
    for round in 0..120 {
        let body = json!({"consent_tier": "basic", "policy_version": round.to_string()});
        service.put(customer, &body).send().await.expect_one_of(&[200, 201]);
    }
    let visit = Visit::begin(&service).await;
    let mut seen = Vec::new();
    let mut path = format!("/console/audit?customer_id={customer}");
    loop {
        let page = visit.get(&path).await.expect(200).text();
        let links = page.split("<td class=\"number\"><a href=\"/console/audit/").skip(1);
        seen.extend(
            links.map(|link| link.split('"').next().expect("an id").parse::<i64>().expect("a number")),
        );
        service.put(customer, &json!({"consent_tier": "basic", "policy_version": path})).send().await;
        let Some((_, older)) = page.split_once("rel=\"next\" href=\"") else { break };
        path = older.split('"').next().expect("a path").replace("&#38;", "&").replace("&amp;", "&");
        assert!(path.contains("customer_id="), "the filter is lost: {path}");
    }
    assert_eq!(seen.len(), 120);
    assert!(seen.is_sorted_by(|a, b| a > b));
}

#[tokio::test]
async fn files_hold_what_the_api_exports_and_taking_them_is_recorded() {
    let service = Service::start().await;
    let customer = with_canaries(&service).await;
    service.put(customer, &json!({"consent_tier": "none"})).send().await;
    let visit = Visit::begin(&service).await;
    for (file, kind) in [("audit.csv", "text/csv"), ("audit.ndjson", "application/x-ndjson")] {
        let query = format!("action=withdrawn&customer_id={customer}&previous_tier=");
        let ours = visit.get(&format!("/console/{file}?{query}")).await.expect(200);
        let wanted = format!("/v1/audit?action=withdrawn&customer_id={customer}");
        let theirs = service.get(&wanted).header("accept", kind).send().await;
        assert_eq!(ours.text(), theirs.text());
        assert_eq!(ours.header("content-disposition"), theirs.header("content-disposition"));
    }
    let events = service.get("/v1/audit/events?kind=pii.read").send().await.expect(200).json();
    let files: Vec<_> =
        events["items"].as_array().expect("events").iter().map(|event| &event["details"]["what"]).collect();
    assert_eq!(files, ["/console/audit.ndjson", "/console/audit.csv"]);
    assert_eq!(events["items"][0]["change_reason"], format!("action=withdrawn&customer_id={customer}"));
    assert_eq!(events["items"][0]["customer_id"], customer.to_string());
}

#[tokio::test]
async fn names_and_addresses_are_masked_until_somebody_asks_and_that_is_recorded() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let body = json!({"consent_tier": "basic", "on_behalf_of": "Robin Example"});
    service.put(customer, &body).peer("203.0.113.7").send().await.expect(201);
    let id = service.trail(customer).await[0]["audit_id"].as_i64().expect("an id");
    let key = service.key(None, &["audit:read"]).await;
    let (visit, other) = (Visit::begin(&service).await, Visit::with_key(&service, &key).await);
    let entry = format!("/console/audit/{id}");
    let is_shown = |page: &Answer| page.text().contains("203.0.113.7") || page.text().contains("Robin");
    let page = visit.get(&entry).await.expect(200);
    assert!(!is_shown(&page), "{}", page.text());
    assert!(page.text().contains("R•••") && page.text().contains("203.0.•••"));

    let asked = visit.post("/console/reveal", &[("page", &entry)]).await.expect(303);
    let revealed = location(&asked).to_owned();
    assert!(is_shown(&visit.get(&revealed).await.expect(200)));
    // The address alone is no right to see.
    assert!(!is_shown(&other.get(&revealed).await.expect(200)));
    let number = revealed.split_once("reveal=").expect("an event").1;
    assert!(
        !visit.get(&format!("/console/audit?reveal={number}")).await.expect(200).text().contains("Robin")
    );
    let event = service.get("/v1/audit/events?kind=pii.read").send().await.json()["items"][0].clone();
    assert_eq!(event["audit_id"].to_string(), number);
    assert_eq!(event["details"], json!({"what": entry}));
    assert_eq!(event["changed_by"], format!("key:{}", &service.operator[..13]));
    service.advance(TimeDelta::minutes(15));
    assert!(!is_shown(&visit.get(&revealed).await.expect(200)));

    for page in ["https://example.com/console", "//example.com/console", "/v1/audit", "", "/consolation"] {
        visit.post("/console/reveal", &[("page", page)]).await.expect(400);
    }
}

#[tokio::test]
async fn counts_by_day_are_what_the_trail_and_the_consents_say() {
    let service = Service::start().await;
    let mut sealer = service.sealer().await;
    let mut customers = Vec::new();
    for round in 0..6_i64 {
        customers.push(service.customer().await);
        for (index, customer) in customers.iter().enumerate() {
            let tier = ["none", "basic", "analytics", "research"]
                [(index * 7 + usize::try_from(round).expect("few")) % 4];
            let body = json!({
                "consent_tier": tier, "can_store_embeddings": tier == "research" || tier == "analytics",
                "can_store_images": tier == "research", "can_use_for_training": tier == "research",
                "expires_at": (tier == "basic").then(|| service.now() + TimeDelta::hours(10)),
            });
            service.put(*customer, &body).send().await.expect_one_of(&[200, 201]);
        }
        service.advance(TimeDelta::hours(15));
        // An end may be recorded or not when the next decision comes.
        if round % 2 == 0 {
            service.sweep().await;
        }
        while sealer.round(service.now()).await.expect("a round").sealed > 0 {}
    }
    let sql = service.sql().await;
    // Past the service: the customer goes, and with it the consent.
    sqlx::query("delete from vlaapi.customers where customer_id = $1")
        .bind(customers[0])
        .execute(&sql)
        .await
        .expect("deleted");
    while sealer.round(service.now()).await.expect("a round").sealed > 0 {}
    let differing: i64 = sqlx::query_scalar(
        "with counted as (
           select day, action, previous_tier, new_tier, sum(entries) as entries from vlaapi.consent_days group by 1, 2, 3, 4
         ), real as (
           select (timestamp at time zone 'UTC')::date as day, action, coalesce(previous_tier, ''), new_tier, count(*)::numeric as entries
           from vlaapi.customer_consent_audit group by 1, 2, 3, 4
         )
         select count(*) from (
           (select * from counted except all select * from real) union all (select * from real except all select * from counted)
         ) differing",
    )
    .fetch_one(&sql)
    .await
    .expect("a number");
    assert_eq!(differing, 0);
    let agreeing: bool = sqlx::query_scalar(
        "with held as (
           select *, case when expiry_recorded then 'expired' else consent_tier end as at
           from vlaapi.customer_data_consent where version > 0
         )
         select (select (sum(tier_none)::bigint, sum(tier_basic)::bigint, sum(tier_analytics)::bigint, sum(tier_research)::bigint, sum(expired)::bigint,
                         sum(images)::bigint, sum(embeddings)::bigint, sum(training)::bigint) from vlaapi.consent_days)
           = (select (count(*) filter (where at = 'none'), count(*) filter (where at = 'basic'),
                      count(*) filter (where at = 'analytics'), count(*) filter (where at = 'research'),
                      count(*) filter (where at = 'expired'), count(*) filter (where can_store_images and at <> 'expired'),
                      count(*) filter (where can_store_embeddings and at <> 'expired'),
                      count(*) filter (where can_use_for_training and at <> 'expired'))
              from held)",
    )
    .fetch_one(&sql)
    .await
    .expect("a comparison");
    assert!(agreeing, "the tiers' counts are not those of the consents");
}
