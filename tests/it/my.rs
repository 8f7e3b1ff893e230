//! The customer's own page, by what a browser without scripts sends and shows.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::TimeDelta;
use consentd::ops;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::service::{Answer, Service, consent};

const HOME: &str = "/my/consent";
const CHOICES: &str = "/my/consent/choices";

/// What a browser does: it keeps cookies, and sends forms as they stand on the page.
struct Browser<'a> {
    service: &'a Service,
    cookies: BTreeMap<String, String>,
    languages: &'static str,
}

/// A form on a page.
#[derive(Clone, Debug)]
struct Form {
    method: String,
    action: String,
    /// What is sent if nobody touches it.
    fields: Vec<(String, String)>,
    /// Names of what can be ticked, and whether it is.
    ticks: Vec<(String, bool)>,
    buttons: Vec<String>,
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
    Some(rest.split('"').next().unwrap_or_default().to_owned())
}

fn forms(page: &str) -> Vec<Form> {
    let forms = page.split("<form").skip(1).map(|rest| rest.split("</form>").next().unwrap_or_default());
    let read = |form: &str| {
        let (head, body) = form.split_once('>').expect("a tag ends");
        let mut fields = Vec::new();
        let mut ticks = Vec::new();
        for input in body.split("<input").skip(1) {
            let tag = format!(" {}", input.split('>').next().unwrap_or_default());
            let name = attribute(&tag, "name").expect("an input has a name");
            let value = attribute(&tag, "value").unwrap_or_else(|| "on".to_owned());
            let checked = tag.ends_with(" checked");
            if matches!(attribute(&tag, "type").as_deref(), Some("radio" | "checkbox")) {
                ticks.push((format!("{name}={value}"), checked));
            }
            if checked || attribute(&tag, "type").as_deref() == Some("hidden") {
                fields.push((name, value));
            }
        }
        if body.contains("<textarea") {
            fields.push(("reason".to_owned(), String::new()));
        }
        let buttons = body.split("<button").skip(1).map(|rest| {
            rest.split_once('>').and_then(|(_, rest)| rest.split('<').next()).unwrap_or_default().to_owned()
        });
        Form {
            method: attribute(head, "method").expect("a form has a method"),
            action: attribute(head, "action").expect("a form has an action"),
            fields,
            ticks,
            buttons: buttons.collect(),
        }
    };
    forms.map(read).collect()
}

fn form(page: &Answer, action: &str) -> Form {
    let found = forms(&page.text()).into_iter().find(|form| form.action == action);
    found.unwrap_or_else(|| panic!("no form leads to {action}: {}", page.text()))
}

impl Form {
    /// With these set anew: as if they were ticked or typed.
    fn with(mut self, fields: &[(&str, &str)]) -> Self {
        self.fields.retain(|(name, _)| fields.iter().all(|(set, _)| set != name));
        self.fields.extend(fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        self
    }

    fn without(mut self, field: &str) -> Self {
        self.fields.retain(|(name, _)| name != field);
        self
    }

    fn body(&self) -> String {
        form_urlencoded::Serializer::new(String::new()).extend_pairs(&self.fields).finish()
    }
}

impl<'a> Browser<'a> {
    fn new(service: &'a Service) -> Self {
        Self { service, cookies: BTreeMap::new(), languages: "en" }
    }

    /// One that has opened a new link of this customer.
    async fn at(service: &'a Service, customer: Uuid) -> Self {
        let mut browser = Self::new(service);
        let link = new_link(service, customer, &json!({})).await;
        let answer = browser.get(link["path"].as_str().expect("a path")).await.expect(303);
        assert_eq!(answer.header("location"), Some(HOME));
        browser
    }

    fn cookie(&self) -> String {
        let pairs: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.join("; ")
    }

    fn keep_cookies(&mut self, answer: &Answer) {
        for cookie in answer.headers.get_all("set-cookie") {
            let cookie = cookie.to_str().expect("a cookie is text");
            let (name, value) =
                cookie.split(';').next().and_then(|pair| pair.split_once('=')).expect("a pair");
            if cookie.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
    }

    async fn get(&mut self, path: &str) -> Answer {
        let call = self.service.get(path).no_key().header("accept-language", self.languages);
        let answer = call.header("cookie", &self.cookie()).send().await;
        self.keep_cookies(&answer);
        answer
    }

    async fn submit(&mut self, form: &Form) -> Answer {
        self.submit_from(form, "same-origin").await
    }

    async fn submit_from(&mut self, form: &Form, site: &str) -> Answer {
        assert_eq!(form.method, "post");
        let call = self.service.call("POST", &form.action).no_key().header("accept-language", self.languages);
        let call = call.header("cookie", &self.cookie()).header("sec-fetch-site", site);
        let call = call.header("content-type", "application/x-www-form-urlencoded");
        let answer = call.body(form.body()).send().await;
        self.keep_cookies(&answer);
        answer
    }

    /// Sends a form, and goes where its answer leads.
    async fn follow(&mut self, form: &Form) -> Answer {
        let answer = self.submit(form).await.expect(303);
        let place = answer.header("location").expect("a place").to_owned();
        self.get(&place).await.expect(200)
    }
}

async fn new_link(service: &Service, customer: Uuid, body: &Value) -> Value {
    let path = format!("/v1/customers/{customer}/consent-links");
    service.call("POST", &path).json(body).send().await.expect(201).json()
}

/// A customer that has given everything.
async fn giver(service: &Service) -> Uuid {
    let customer = service.customer().await;
    let body = json!({
        "consent_tier": "research", "can_store_images": true, "can_use_for_training": true,
        "anonymization_level": "none",
    });
    service.put(customer, &body).send().await.expect(201);
    customer
}

#[track_caller]
fn shows(page: &Answer, text: &str) {
    assert!(page.text().contains(text), "{text:?} is missing: {}", page.text());
}

#[tokio::test]
async fn a_customer_opens_the_page_chooses_withdraws_and_undoes() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let link = new_link(&service, customer, &json!({"on_behalf_of": "user-17"})).await;
    let path = link["path"].as_str().expect("a path");
    assert_eq!(link["url"], format!("https://consent.example.com{path}"));
    let mut browser = Browser::new(&service);
    let opened = browser.get(path).await.expect(303);
    let cookie = opened.header("set-cookie").expect("a cookie");
    for wanted in ["__Host-consentd-link=", "Path=/;", "HttpOnly", "SameSite=Lax", "Secure"] {
        assert!(cookie.contains(wanted), "{cookie}");
    }

    let page = browser.get(HOME).await.expect(200);
    shows(&page, "You have not made a choice yet.");
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(page.header("cache-control"), Some("no-store"));
    assert_eq!(page.header("referrer-policy"), Some("no-referrer"));

    let page = browser.get(CHOICES).await.expect(200);
    let chosen = form(&page, CHOICES).with(&[
        ("tier", "analytics"),
        ("embeddings", "on"),
        ("until", "6"),
        ("reason", "why not"),
    ]);
    let saved = browser.follow(&chosen).await;
    let trail = service.trail(customer).await;
    let entry = &trail[0];
    shows(&saved, "Saved. This holds from now on.");
    shows(&saved, &format!("Entry <bdi>{}</bdi>", entry["audit_id"]));
    assert_eq!(entry["changed_by"], format!("link:{}", link["link_id"].as_str().expect("an id")));
    assert_eq!((&entry["on_behalf_of"], &entry["change_reason"]), (&json!("user-17"), &json!("why not")));
    let record = service.consent(customer).await;
    assert_eq!(
        (&record["consent_tier"], &record["can_store_embeddings"]),
        (&json!("analytics"), &json!(true))
    );
    assert_eq!(record["expires_at"], "2026-09-01T12:00:00Z");

    let page = browser.get(HOME).await.expect(200);
    shows(&page, "“Analytics” has been in force since <time");
    let page = browser.follow(&form(&page, "/my/consent/withdraw")).await;
    shows(&page, "Everything is withdrawn, since <time");
    let check = format!("{}/permissions?check=embeddings", consent(customer));
    assert_eq!(service.get(&check).send().await.expect(200).json()["allowed"], false);

    let page = browser.follow(&form(&page, "/my/consent/undo")).await;
    shows(&page, "Consent given");
    let trail = service.trail(customer).await;
    let actions: Vec<_> = trail.iter().map(|entry| entry["action"].as_str().expect("an action")).collect();
    assert_eq!(actions, ["granted", "withdrawn", "granted"]);
    assert_eq!(trail[0]["current"]["expires_at"], trail[2]["current"]["expires_at"]);
    assert_eq!(service.get(&check).send().await.expect(200).json()["allowed"], true);

    let page = browser.submit(&form(&page, "/my/consent/leave")).await.expect(200);
    shows(&page, "You have left the page");
    browser.get(HOME).await.expect(403);
}

#[tokio::test]
async fn withdrawing_takes_no_more_clicks_than_giving_and_both_buttons_look_the_same() {
    let service = Service::start().await;
    let customer = giver(&service).await;
    let mut browser = Browser::at(&service, customer).await;
    let page = browser.get(HOME).await.expect(200);

    // To withdraw: one form, of which nothing has to be filled in, and its one button.
    let withdraw = form(&page, "/my/consent/withdraw");
    assert_eq!((withdraw.ticks.len(), withdraw.buttons.len()), (0, 1));
    let clicks_to_withdraw = 1;
    let answer = browser.submit(&withdraw).await.expect(303);
    assert_eq!(answer.header("location"), Some(HOME));
    assert_eq!(service.consent(customer).await["status"], "withdrawn");

    // To give: the way to the form, a level, and its button. Without a level it is refused.
    let way = form(&page, CHOICES);
    assert_eq!((way.method.as_str(), way.buttons.len()), ("get", 1));
    let choices = form(&browser.get(CHOICES).await.expect(200), CHOICES);
    browser.submit(&choices.clone().without("tier")).await.expect(422);
    browser.submit(&choices.with(&[("tier", "basic")])).await.expect(303);
    let clicks_to_give = 3;
    assert!(clicks_to_withdraw <= clicks_to_give);

    let text = page.text();
    for label in ["Withdraw everything", "Change my choices"] {
        assert!(text.contains(&format!("<button class=\"my-button\">{label}</button>")), "{text}");
    }
}

#[tokio::test]
async fn nothing_is_ticked_before_the_customer_ticks_it() {
    let service = Service::start().await;
    let (new, ended) = (service.customer().await, service.customer().await);
    let body =
        json!({"consent_tier": "research", "can_store_images": true, "expires_at": "2026-03-02T00:00:00Z"});
    service.put(ended, &body).send().await.expect(201);
    service.advance(TimeDelta::days(2));
    for customer in [new, ended] {
        let mut browser = Browser::at(&service, customer).await;
        let form = form(&browser.get(CHOICES).await.expect(200), CHOICES);
        assert!(form.ticks.len() > 10, "{form:?}");
        assert!(form.ticks.iter().all(|(_, ticked)| !ticked), "{form:?}");
        assert_eq!(form.ticks[0].0, "tier=none");
    }
    // What stands is shown as it stands.
    let given = giver(&service).await;
    let mut browser = Browser::at(&service, given).await;
    let form = form(&browser.get(CHOICES).await.expect(200), CHOICES);
    let ticked: Vec<_> =
        form.ticks.iter().filter(|(_, ticked)| *ticked).map(|(tick, _)| tick.as_str()).collect();
    assert_eq!(ticked, ["tier=research", "images=on", "training=on", "level=none", "until=keep"]);
}

#[tokio::test]
async fn what_is_left_open_is_the_most_private_and_what_a_level_lacks_stays_off() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let mut browser = Browser::at(&service, customer).await;
    let choices = form(&browser.get(CHOICES).await.expect(200), CHOICES);
    browser
        .submit(&choices.with(&[("tier", "basic"), ("images", "on"), ("training", "on")]))
        .await
        .expect(303);
    let record = service.consent(customer).await;
    assert_eq!(
        (&record["can_store_images"], &record["can_use_for_training"]),
        (&json!(false), &json!(false))
    );
    assert_eq!(
        (&record["anonymization_level"], &record["expires_at"]),
        (&json!("full"), &json!("2026-06-01T12:00:00Z"))
    );

    // A first refusal is recorded with its text; the same refusal again is nothing new.
    let other = service.customer().await;
    let mut browser = Browser::at(&service, other).await;
    for version in [1, 1] {
        let choices = form(&browser.get(CHOICES).await.expect(200), CHOICES);
        browser.submit(&choices.with(&[("tier", "none")])).await.expect(303);
        assert_eq!(service.consent(other).await["version"], version);
    }
    let page = browser.get("/my/consent?unchanged").await.expect(200);
    shows(&page, "Nothing has changed");
    shows(&page, "You allow nothing, since");
}

#[tokio::test]
async fn a_form_of_nonsense_is_shown_again_and_says_what_to_do() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let mut browser = Browser::at(&service, customer).await;
    let choices = form(&browser.get(CHOICES).await.expect(200), CHOICES);
    let long = "x".repeat(1001);
    for (fields, told) in [
        (vec![], "Choose one of the four levels."),
        (vec![("tier", "everything")], "did not arrive as it was sent"),
        (vec![("tier", "research"), ("training", "on")], "Training needs something that is kept"),
        (vec![("tier", "basic"), ("level", "none")], "only goes with Research"),
        (vec![("tier", "basic"), ("reason", long.as_str())], "1000 characters at most"),
        (vec![("tier", "basic"), ("reason", "a\0b")], "did not arrive as it was sent"),
        (vec![("tier", "basic"), ("until", "1000")], "did not arrive as it was sent"),
        (vec![("tier", "basic"), ("images", "perhaps")], "did not arrive as it was sent"),
        (vec![("tier", "basic"), ("surprise", "<script>alert(1)</script>")], "did not arrive as it was sent"),
    ] {
        let page = browser.submit(&choices.clone().with(&fields)).await.expect(422);
        shows(&page, "Nothing is saved yet");
        shows(&page, told);
        assert!(!page.text().contains("<script"));
    }
    let page = browser.submit(&choices.clone().without("link")).await.expect(422);
    shows(&page, "This request was refused");
    let post = |kind: &str, body: &'static str| {
        let call = service.call("POST", CHOICES).no_key().header("cookie", &browser.cookie());
        call.header("content-type", kind).body(body).send()
    };
    let page = post("application/json", "{}").await.expect(415);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    shows(&page, "This request was refused");
    service.call("PUT", HOME).no_key().send().await.expect(405);
    browser.get("/my/nowhere").await.expect(404);
    browser.get("/my/consent/entries/nonsense").await.expect(400);
    browser.get("/my/consent/history?before=nonsense").await.expect(404);
    assert_eq!(service.consent(customer).await["version"], 0);
}

#[tokio::test]
async fn a_form_made_from_an_older_version_changes_nothing_and_is_shown_again() {
    let service = Service::start().await;
    let customer = giver(&service).await;
    let mut browser = Browser::at(&service, customer).await;
    let choices =
        form(&browser.get(CHOICES).await.expect(200), CHOICES).with(&[("tier", "basic"), ("level", "full")]);
    service.put(customer, &json!({"consent_tier": "analytics"})).send().await.expect(200);
    let page = browser.submit(&choices).await.expect(409);
    shows(&page, "Your consent was changed in the meantime, by entry <bdi>2</bdi>");
    assert_eq!(service.consent(customer).await["version"], 2);
    let again = form(&page, CHOICES);
    assert!(again.ticks.contains(&("tier=basic".to_owned(), true)));
    browser.submit(&again).await.expect(303);
    assert_eq!(service.consent(customer).await["consent_tier"], "basic");
}

#[tokio::test]
async fn a_link_that_is_not_good_says_why_and_leaks_nothing() {
    let service = Service::start().await;
    let customer = giver(&service).await;
    let open = async |path: &str, status: u16, told: &str| {
        let answer = Browser::new(&service).get(path).await.expect(status);
        shows(&answer, told);
        assert_eq!(answer.header("set-cookie"), None);
        assert!(!answer.text().contains(&customer.to_string()), "{}", answer.text());
    };
    open(HOME, 403, "Open this page with your link").await;
    let link = new_link(&service, customer, &json!({"valid_for_seconds": 300})).await;
    let path = link["path"].as_str().expect("a path");
    let token = path.split_once('=').expect("a token").1;
    for cut in [0, 1, 20, token.len() - 1] {
        open(&format!("/my/consent?link={}", &token[..cut]), 403, "This link is not valid").await;
    }
    for place in [0, 8, 30, 60, 90] {
        let mut tampered = token.to_owned().into_bytes();
        tampered[place] = if tampered[place] == b'B' { b'C' } else { b'B' };
        let tampered = String::from_utf8(tampered).expect("ASCII");
        open(&format!("/my/consent?link={tampered}"), 403, "This link is not valid").await;
    }
    // Signed by somebody else's key, for a key that is here.
    let forged = {
        let mut bytes = URL_SAFE_NO_PAD.decode(token).expect("base64");
        let tag = Sha256::digest(&bytes[..44]);
        bytes[44..].copy_from_slice(&tag);
        URL_SAFE_NO_PAD.encode(bytes)
    };
    open(&format!("/my/consent?link={forged}"), 403, "This link is not valid").await;
    open("/my/consent?link=%3Cscript%3Ealert(1)%3C/script%3E", 403, "This link is not valid").await;

    let mut browser = Browser::new(&service);
    browser.get(path).await.expect(303);
    service.advance(TimeDelta::seconds(301));
    open(path, 410, "This link has expired").await;
    shows(&browser.get(HOME).await.expect(410), "This link has expired");

    // Of a customer who is gone.
    let link = new_link(&service, customer, &json!({})).await;
    let sql = service.sql().await;
    sqlx::query("delete from vlaapi.customers where customer_id = $1")
        .bind(customer)
        .execute(&sql)
        .await
        .expect("gone");
    open(link["path"].as_str().expect("a path"), 410, "There is no such account any more").await;
}

#[tokio::test]
async fn a_revoked_link_is_closed_at_once() {
    let service = Service::start().await;
    let customer = giver(&service).await;
    let link = new_link(&service, customer, &json!({})).await;
    let mut browser = Browser::new(&service);
    browser.get(link["path"].as_str().expect("a path")).await.expect(303);
    let page = browser.get(HOME).await.expect(200);
    let links = format!("/v1/customers/{customer}/consent-links");
    let own = format!("{links}/{}", link["link_id"].as_str().expect("an id"));
    let foreign = format!(
        "/v1/customers/{}/consent-links/{}",
        Uuid::new_v4(),
        link["link_id"].as_str().expect("an id")
    );
    service.call("DELETE", &foreign).send().await.expect(404).problem("unknown-consent-link");
    service.call("DELETE", &own).send().await.expect(204);
    service.advance(TimeDelta::seconds(9));
    service.call("DELETE", &own).send().await.expect(204);
    for answer in [
        browser.get(HOME).await,
        browser.get(CHOICES).await,
        browser.get("/my/consent/history.csv").await,
        browser.get(link["path"].as_str().expect("a path")).await,
        browser.submit(&form(&page, "/my/consent/withdraw")).await,
    ] {
        shows(&answer.expect(410), "This link was revoked");
    }
    assert_eq!(service.consent(customer).await["version"], 1);
    let listed = service.get(&links).send().await.expect(200).json();
    assert_eq!(listed["items"][0]["revoked_at"], "2026-03-01T12:00:00Z");
    assert_eq!(listed["items"][0].get("path"), None);
}

#[tokio::test]
async fn a_link_is_asked_for_within_bounds_and_a_retry_gets_it_again() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let path = format!("/v1/customers/{customer}/consent-links");
    let post = |body: Value| service.call("POST", &path).json(&body);
    for seconds in [299, 2_592_001] {
        let answer = post(json!({"valid_for_seconds": seconds})).send().await.expect(422);
        assert_eq!(answer.problem("invalid-body"), ["/valid_for_seconds out_of_range"]);
    }
    let answer = post(json!({"for": "ever", "on_behalf_of": " "})).send().await.expect(422);
    assert_eq!(answer.problem("invalid-body"), ["/on_behalf_of empty", "/for unknown_field"]);
    let unknown = format!("/v1/customers/{}/consent-links", Uuid::new_v4());
    service.call("POST", &unknown).json(&json!({})).send().await.expect(404).problem("unknown-customer");
    service.get(&unknown).send().await.expect(404).problem("unknown-customer");

    let first = post(json!({})).header("idempotency-key", "one").send().await.expect(201);
    assert_eq!(first.json()["expires_at"], "2026-03-08T12:00:00Z");
    let again = post(json!({})).header("idempotency-key", "one").send().await.expect(201);
    assert_eq!(again.json(), first.json());
    for _ in 0..2 {
        post(json!({})).header("host", "evil.example").send().await.expect(201);
    }
    let page = service.get(&format!("{path}?limit=2")).send().await.expect(200).json();
    assert_eq!(page["items"].as_array().map(Vec::len), Some(2));
    let cursor = page["next_cursor"].as_str().expect("a cursor");
    let rest = service.get(&format!("{path}?limit=2&cursor={cursor}")).send().await.expect(200).json();
    assert_eq!(rest["items"][0]["link_id"], first.json()["link_id"]);
}

#[tokio::test]
async fn keys_are_rotated_and_the_old_ones_stay_good_for_their_links() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let sql = service.sql().await;
    let keys = async || {
        let keys: Vec<i32> =
            sqlx::query_scalar("select key_id from vlaapi.consent_link_keys order by key_id")
                .fetch_all(&sql)
                .await
                .expect("keys");
        keys
    };
    ops::links::maintain(&service.store, service.now()).await.expect("done");
    service.advance(TimeDelta::days(29));
    let days_30 = json!({"valid_for_seconds": 2_592_000});
    let old = new_link(&service, customer, &days_30).await;
    assert_eq!(keys().await.len(), 1);
    service.advance(TimeDelta::days(2));
    ops::links::maintain(&service.store, service.now()).await.expect("done");
    let rotated = keys().await;
    assert_eq!(rotated.len(), 2);
    new_link(&service, customer, &json!({})).await;
    assert_eq!(keys().await, rotated);
    service.advance(TimeDelta::days(27));
    Browser::new(&service).get(old["path"].as_str().expect("a path")).await.expect(303);

    // Both links have ended; they are listed for another 30 days, and then they and their keys go.
    service.advance(TimeDelta::days(20));
    ops::links::maintain(&service.store, service.now()).await.expect("done");
    assert!(keys().await.contains(&rotated[0]));
    service.advance(TimeDelta::days(14));
    ops::links::maintain(&service.store, service.now()).await.expect("done");
    let kept = keys().await;
    assert!(!kept.contains(&rotated[0]) && !kept.contains(&rotated[1]), "{kept:?}");
    let links: i64 = sqlx::query_scalar("select count(*) from vlaapi.consent_links")
        .fetch_one(&sql)
        .await
        .expect("a count");
    assert_eq!(links, 0);
    let gone = Browser::new(&service).get(old["path"].as_str().expect("a path")).await.expect(403);
    shows(&gone, "very old");
}

#[tokio::test]
async fn a_form_of_another_site_or_of_another_account_changes_nothing() {
    let service = Service::start().await;
    let (own, other) = (giver(&service).await, giver(&service).await);
    let mut browser = Browser::at(&service, own).await;
    let page = browser.get(HOME).await.expect(200);
    for action in ["/my/consent/withdraw", CHOICES, "/my/consent/undo", "/my/consent/leave"] {
        let form = Form {
            method: "post".to_owned(),
            action: action.to_owned(),
            ..form(&page, "/my/consent/withdraw")
        };
        let refused = browser.submit_from(&form, "cross-site").await.expect(403);
        shows(&refused, "This request was refused");
        assert_eq!(refused.header("content-type"), Some("text/html; charset=utf-8"));
    }
    // In the same browser another account's link is opened: the first one's form must not act on it.
    let link = new_link(&service, other, &json!({})).await;
    browser.get(link["path"].as_str().expect("a path")).await.expect(303);
    let refused = browser.submit(&form(&page, "/my/consent/withdraw")).await.expect(409);
    shows(&refused, "Another link was opened");
    for customer in [own, other] {
        assert_eq!(service.consent(customer).await["version"], 1);
    }
}

#[tokio::test]
async fn what_belongs_to_another_customer_is_not_there() {
    let service = Service::start().await;
    let (own, other) = (giver(&service).await, giver(&service).await);
    let foreign = service.trail(other).await[0]["audit_id"].clone();
    let mut browser = Browser::at(&service, own).await;
    for path in ["", "/receipt", "/proof"] {
        let answer = browser.get(&format!("/my/consent/entries/{foreign}{path}")).await.expect(404);
        assert!(!answer.text().contains(&other.to_string()), "{}", answer.text());
    }
    let csv = browser.get("/my/consent/history.csv").await.expect(200);
    assert!(!csv.text().contains(&other.to_string()));
}

#[tokio::test]
async fn the_language_is_the_readers_and_the_menu_wins() {
    let service = Service::start().await;
    let customer = giver(&service).await;
    let mut browser = Browser::at(&service, customer).await;
    for (languages, code, button) in [
        ("de-CH, en;q=0.5", "de", "Alles widerrufen"),
        ("fr", "fr", "Tout retirer"),
        ("es-MX", "es", "Retirarlo todo"),
        ("ja", "en", "Withdraw everything"),
    ] {
        browser.languages = languages;
        let page = browser.get(HOME).await.expect(200);
        shows(&page, &format!("<html lang=\"{code}\">"));
        shows(&page, button);
        assert_eq!(page.header("content-language"), Some(code));
    }
    browser.languages = "de";
    let page = browser.get("/my/consent?lang=es").await.expect(200);
    shows(&page, "Retirarlo todo");
    shows(&browser.get(CHOICES).await.expect(200), "<html lang=\"es\">");
    browser.get("/my/consent?lang=%3Cscript%3E").await.expect(200);
    browser.cookies.clear();
    shows(&browser.get(HOME).await.expect(403), "<html lang=\"de\">");
}

#[tokio::test]
async fn the_text_that_was_read_stands_in_the_entry_by_its_hash() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let mut browser = Browser::at(&service, customer).await;
    for (languages, code) in [("de", "de"), ("fr", "fr")] {
        browser.languages = languages;
        let choices = form(&browser.get(CHOICES).await.expect(200), CHOICES);
        browser.submit(&choices.with(&[("tier", "basic")])).await.expect(303);
        let page = browser.get(HOME).await.expect(200);
        browser.submit(&form(&page, "/my/consent/withdraw")).await.expect(303);
        for entry in &service.trail(customer).await[..2] {
            let version = entry["current"]["policy_version"].as_str().expect("a version").to_owned();
            let (name, hash) = version.split_once(".sha256-").expect("a hash");
            let file = format!("{}/docs/customer-page/{name}.json", env!("CARGO_MANIFEST_DIR"));
            let texts = std::fs::read(file).expect("the texts are kept");
            assert_eq!(URL_SAFE_NO_PAD.encode(Sha256::digest(&texts)), hash);
            let texts: Value = serde_json::from_slice(&texts).expect("JSON");
            assert_eq!(texts["language"], code);
        }
    }
    // It is in the leaf, and so in what is signed.
    let mut sealer = service.sealer().await;
    sealer.round(service.now()).await.expect("a round");
    let entry = service.trail(customer).await[0].clone();
    let proof =
        service.get(&format!("/v1/audit/{}/proof", entry["audit_id"])).send().await.expect(200).json();
    let leaf = proof["leaf"].as_str().expect("a leaf");
    assert!(leaf.contains(entry["current"]["policy_version"].as_str().expect("a version")), "{leaf}");
    let page = browser.get(&format!("/my/consent/entries/{}", entry["audit_id"])).await.expect(200);
    shows(&page, "consentd receipt v1");
    let receipt =
        browser.get(&format!("/my/consent/entries/{}/receipt", entry["audit_id"])).await.expect(200);
    assert!(receipt.header("content-disposition").expect("a name").contains(".receipt.txt"));
    let file = browser.get(&format!("/my/consent/entries/{}/proof", entry["audit_id"])).await.expect(200);
    assert_eq!(file.text(), proof["tlog_proof"].as_str().expect("a proof"));
}

#[tokio::test]
async fn a_receipt_is_given_before_the_entry_is_sealed_and_not_for_what_nobody_vouches_for() {
    let service = Service::start().await;
    service.sealer().await;
    let customer = giver(&service).await;
    let given =
        service.put(customer, &json!({"consent_tier": "basic"})).header("prefer", "receipt").send().await;
    let (receipt, audit_id) = (given.json()["receipt"].clone(), given.json()["audit_id"].clone());
    let mut browser = Browser::at(&service, customer).await;
    let shown = browser.get(&format!("/my/consent/entries/{audit_id}/receipt")).await.expect(200);
    assert_eq!(json!(shown.text()), receipt);
    shows(
        &browser.get(&format!("/my/consent/entries/{audit_id}/proof")).await.expect(404),
        "The proof is being made",
    );
    let sql = service.sql().await;
    sqlx::query(
        "update vlaapi.customer_data_consent set anonymization_level = 'minimal' where customer_id = $1",
    )
    .bind(customer)
    .execute(&sql)
    .await
    .expect("changed");
    let entry = service.trail(customer).await[0]["audit_id"].clone();
    let page = browser.get(&format!("/my/consent/entries/{entry}")).await.expect(200);
    shows(&page, "There is no receipt for this entry.");
    shows(&page, "Your provider’s staff or systems");
}

#[tokio::test]
async fn the_history_has_every_change_and_its_file_is_the_trails() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let mut browser = Browser::at(&service, customer).await;
    shows(&browser.get("/my/consent/history").await.expect(200), "There is no entry yet.");
    for _ in 0..11 {
        for tier in ["basic", "analytics"] {
            service.put(customer, &json!({"consent_tier": tier})).send().await;
            service.advance(TimeDelta::seconds(1));
        }
    }
    let choices = form(&browser.get(CHOICES).await.expect(200), CHOICES);
    browser.submit(&choices.with(&[("tier", "basic"), ("until", "3")])).await.expect(303);
    service.advance(TimeDelta::days(92));
    service.sweep().await;

    // The link has ended meanwhile.
    let mut browser = Browser::at(&service, customer).await;
    let page = browser.get("/my/consent/history").await.expect(200);
    for who in ["Automatically: the end date came", "You, on this page", "Your provider’s staff or systems"]
    {
        shows(&page, who);
    }
    let text = page.text();
    let links = |text: &str| text.matches("/my/consent/entries/").count();
    assert_eq!(links(&text), 20);
    let older = text
        .split("href=\"")
        .find(|rest| rest.starts_with("/my/consent/history?before="))
        .expect("older ones");
    let older = older.split('"').next().expect("an address");
    let rest = browser.get(older).await.expect(200);
    assert_eq!(links(&rest.text()), 4);
    let stranger = service.customer().await;
    Browser::at(&service, stranger).await.get(older).await.expect(404);

    let own = browser.get("/my/consent/history.csv").await.expect(200);
    let path = format!("{}/audit", consent(customer));
    let exported = service.get(&path).header("accept", "text/csv").send().await.expect(200);
    assert_eq!(own.text(), exported.text());
    assert_eq!(own.text().lines().count(), 25);
    assert!(own.header("content-disposition").expect("a name").starts_with("attachment"));
}

#[tokio::test]
async fn what_others_wrote_is_shown_as_text() {
    let service = Service::start().await;
    let canary = "<script>alert('canary')</script>\"><img src=x onerror=alert(1)>{{7*7}}";
    let customer = Uuid::new_v4();
    let body = json!({
        "customer_id": customer, "email": "canary@example.com", "tier": "pro", "company_name": canary,
    });
    service.call("POST", "/v1/customers").json(&body).send().await.expect(201);
    let body = json!({
        "consent_tier": "basic", "reason": canary, "on_behalf_of": canary, "policy_version": "<b>2</b>",
    });
    service.put(customer, &body).header("user-agent", canary).send().await.expect(201);
    let mut browser = Browser::new(&service);
    let link = new_link(&service, customer, &json!({"on_behalf_of": canary})).await;
    browser.get(link["path"].as_str().expect("a path")).await.expect(303);
    let entry = service.trail(customer).await[0]["audit_id"].clone();
    let choices = form(&browser.get(CHOICES).await.expect(200), CHOICES);
    let refused = choices.with(&[("tier", "research"), ("training", "on"), ("reason", canary)]);
    let pages = [
        browser.get(HOME).await.expect(200),
        browser.get("/my/consent/history").await.expect(200),
        browser.get(&format!("/my/consent/entries/{entry}")).await.expect(200),
        browser.submit(&refused).await.expect(422),
    ];
    for page in pages {
        let text = page.text();
        for harm in ["<script", "<img", "<b>2"] {
            assert!(!text.contains(harm), "{harm}: {text}");
        }
        assert!(text.contains("&#60;script") && text.contains("{{7*7}}"), "{text}");
    }
}

#[tokio::test]
async fn an_undo_is_offered_for_a_while_and_for_ones_own_withdrawal_alone() {
    let service = Service::start().await;
    let customer = giver(&service).await;
    let mut browser = Browser::at(&service, customer).await;
    let page = browser.get(HOME).await.expect(200);
    let page = browser.follow(&form(&page, "/my/consent/withdraw")).await;
    let undo = form(&page, "/my/consent/undo");
    // An entry at the same instant as the one before it is a microsecond later.
    service.advance(TimeDelta::minutes(15) + TimeDelta::microseconds(1));
    shows(&browser.submit(&undo).await.expect(409), "This can no longer be undone");
    assert!(!browser.get(HOME).await.expect(200).text().contains("/my/consent/undo"));

    service.put(customer, &json!({"consent_tier": "basic"})).send().await.expect(200);
    let page = browser.get(HOME).await.expect(200);
    let page = browser.follow(&form(&page, "/my/consent/withdraw")).await;
    let undo = form(&page, "/my/consent/undo");
    service.put(customer, &json!({"consent_tier": "analytics"})).send().await.expect(200);
    browser.submit(&undo).await.expect(409);
    service.call("DELETE", &consent(customer)).send().await.expect(200);
    assert!(!browser.get(HOME).await.expect(200).text().contains("/my/consent/undo"));
    browser.submit(&undo).await.expect(409);
    assert_eq!(service.consent(customer).await["status"], "withdrawn");
}

#[tokio::test]
async fn every_state_has_its_sentence() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let mut browser = Browser::at(&service, customer).await;
    shows(&browser.get(HOME).await.expect(200), "You have not made a choice yet.");
    let body = json!({"consent_tier": "basic", "expires_at": "2026-03-02T00:00:00Z"});
    service.put(customer, &body).send().await.expect(201);
    shows(&browser.get(HOME).await.expect(200), "It ends by itself on <time");
    service.advance(TimeDelta::days(1));
    let page = browser.get(HOME).await.expect(200);
    shows(&page, "Your consent ended by itself on <time datetime=\"2026-03-02T00:00:00Z\">");
    // What has ended can be withdrawn too.
    let page = browser.follow(&form(&page, "/my/consent/withdraw")).await;
    shows(&page, "You allow nothing, since");
    assert!(!page.text().contains("/my/consent/undo"));
    let path = format!("/v1/customers/{customer}");
    service.call("PATCH", &path).json(&json!({"is_active": false})).send().await.expect(200);
    let page = browser.get(HOME).await.expect(200);
    shows(&page, "Your account is switched off at the moment.");
}

#[tokio::test]
async fn a_link_makes_only_so_many_changes() {
    let service = Service::start().await;
    let customer = giver(&service).await;
    let mut browser = Browser::at(&service, customer).await;
    let withdraw = form(&browser.get(HOME).await.expect(200), "/my/consent/withdraw");
    // Thirty changes, and ten withdrawals more: they are possible when the changes are used up.
    for _ in 0..40 {
        browser.submit(&withdraw).await.expect(303);
    }
    let refused = browser.submit(&withdraw).await.expect(429);
    shows(&refused, "Too many requests");
    assert!(refused.header("retry-after").is_some());
    service.advance(TimeDelta::minutes(1));
    browser.submit(&withdraw).await.expect(303);
}

#[tokio::test]
async fn the_page_goes_on_past_an_entry_that_was_inserted_without_its_consent() {
    let service = Service::start().await;
    let customer = giver(&service).await;
    let foreign = format!(
        "insert into vlaapi.customer_consent_audit (customer_id, action, version, new_tier, previous, current, changed_by)
         select customer_id, 'withdrawn', version + 1, 'none', current, current || '{{\"consent_tier\": \"none\"}}', 'link:x'
         from vlaapi.customer_consent_audit where customer_id = '{customer}' order by version desc limit 1"
    );
    let insert = async || {
        let pool = sqlx::PgPool::connect_with(service.login.clone()).await.expect("the database is there");
        sqlx::raw_sql(sqlx::AssertSqlSafe(foreign.clone())).execute(&pool).await.expect("it is lawful");
    };
    insert().await;
    let mut browser = Browser::at(&service, customer).await;
    let page = browser.get(HOME).await.expect(200);
    let withdraw = form(&page, "/my/consent/withdraw");
    let page = browser.follow(&withdraw).await;
    assert_eq!(service.consent(customer).await["version"], 3);
    insert().await;
    let undo = form(&page, "/my/consent/undo");
    browser.follow(&undo).await;
    let record = service.consent(customer).await;
    assert_eq!((&record["version"], &record["consent_tier"]), (&json!(5), &json!("research")));
    let history = browser.get("/my/consent/history").await.expect(200);
    assert_eq!(history.text().matches("<p class=\"my-when\">").count(), 3, "{}", history.text());
}
