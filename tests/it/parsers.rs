//! Every parser of what comes from outside, with the worst input that its size limit lets through: the answer has a bounded
//! size, and comes in a time that grows with the input no faster than the input.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use consentd::domain::Leaf;
use consentd::tlog::{Checkpoint, LogProof, Note, Receipt, Tile, note};
use serde_json::{Value, json};

use crate::service::{Answer, Service, consent};
use crate::visitor::Visitor;

/// Far more than any linear parser takes in a debug build on a machine that is busy; the quadratic ones took many times this.
const LINEAR: Duration = Duration::from_secs(4);
/// No refusal is longer.
const LONGEST_ANSWER: usize = 64 * 1024;
const FORM: &str = "application/x-www-form-urlencoded";

#[track_caller]
fn assert_bounded(answer: &Answer) {
    let headers: usize = answer.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    let size = answer.bytes.len() + headers;
    assert!(size <= LONGEST_ANSWER, "{} answers with {size} bytes", answer.status);
    assert!(!answer.status.is_server_error(), "{}: {}", answer.status, answer.text());
}

/// A refusal that lists as many errors as an answer may, and says that there are more.
#[track_caller]
fn assert_more_are_left_out(answer: &Answer) {
    assert_bounded(answer);
    let problem = answer.json();
    assert_eq!(problem["errors"].as_array().map(Vec::len), Some(50), "{problem}");
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("more than 50")), "{problem}");
}

/// Different names, as short as they can be, up to a size.
fn many_names(size: usize, separator: &str) -> String {
    let mut text = String::new();
    let mut number = 0;
    while text.len() + 8 < size {
        let _ = write!(text, "{number:x}{separator}");
        number += 1;
    }
    text
}

fn joined(names: impl Iterator<Item = String>) -> String {
    names.collect::<Vec<_>>().join("&")
}

#[tokio::test]
async fn a_query_of_many_or_long_names_gets_a_short_answer() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let admin = Visitor::admin(&service).await;
    let started = Instant::now();
    let queries = [
        many_names(8000, "&"),
        "a&".repeat(3900),
        "=&".repeat(3900),
        "x".repeat(8000),
        "%01".repeat(2600),
        "%F4%8F%BF%BF".repeat(650),
        joined((0..60).map(|number| format!("%22%5C{number}{}", "%22".repeat(38)))),
        format!("cursor={}", "A".repeat(7900)),
        format!("ip_address={}", "1.".repeat(3900)),
        format!("ip_address={}/32", ":".repeat(7900)),
        format!("since={}", "2026-01-01T00:00:00.".repeat(390)),
        format!("since=2026-01-01T00:00:00.{}Z", "0".repeat(7900)),
        format!("changed_by={}", "%00".repeat(2600)),
        format!("limit={}", "9".repeat(7900)),
        format!("lang={}", "en-".repeat(2600)),
        format!("link={}", "A".repeat(7900)),
    ];
    for query in &queries {
        for path in ["/v1/audit", "/v1/consents", "/v1/customers", "/v1/api-keys", "/v1/audit/log/status"] {
            assert_bounded(&service.get(&format!("{path}?{query}")).send().await);
        }
        let check = format!("{}/permissions?{query}", consent(customer));
        assert_bounded(&service.get(&check).send().await.expect(400));
        for path in ["/console/sign-in", "/console", "/my/consent", "/my/consent/history"] {
            assert_bounded(&service.get(&format!("{path}?{query}")).no_key().send().await);
        }
        for path in ["/console/trail", "/console/customers"] {
            assert_bounded(&admin.get(&format!("{path}?{query}")).await);
        }
    }
    let many = service.get(&format!("/v1/audit?{}", many_names(8000, "&"))).send().await.expect(400);
    assert_eq!(many.problem("invalid-parameter"), [" too_many_parameters"]);
    let unknown = joined((0..64).map(|number| number.to_string()));
    assert_more_are_left_out(&service.get(&format!("/v1/audit?{unknown}")).send().await.expect(400));
    assert!(started.elapsed() < 4 * LINEAR, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_form_of_many_or_long_fields_gets_a_short_answer_soon() {
    let service = Service::start().await;
    let admin = Visitor::admin(&service).await;
    let forms = [
        many_names(64 * 1024, "&"),
        many_names(64 * 1024, "=1&"),
        "a=1&".repeat(16 * 1024 - 1),
        format!("key={}", "x".repeat(65_000)),
        format!("next=/console/{}", "%22".repeat(21_000)),
        format!("{}=1", "%01".repeat(21_000)),
    ];
    for form in &forms {
        let started = Instant::now();
        for path in ["/console/sign-in", "/console/reveal", "/console/keys"] {
            let call = admin.call("POST", path).header("content-type", FORM);
            assert_bounded(&call.header("sec-fetch-site", "same-origin").body(form.clone()).send().await);
        }
        assert!(started.elapsed() < LINEAR, "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn a_body_of_many_errors_gets_an_answer_that_lists_fifty() {
    let service = Service::start().await;
    let path = consent(service.customer().await);
    let started = Instant::now();
    let fields = |size: usize| {
        let mut body = many_names(size - 100, "\":0,\"");
        body.insert_str(0, "{\"");
        body + "z\":0}"
    };
    let check = async |body: String| service.call("POST", "/v1/permissions/check").raw(body).send().await;
    assert_more_are_left_out(&service.call("PUT", &path).raw(fields(64 * 1024)).send().await.expect(422));
    assert_more_are_left_out(&check(fields(256 * 1024)).await.expect(422));
    let broken =
        json!({"checks": vec![json!({"customer_id": 7, "permission": 8, "min_version": "9"}); 1000]});
    assert_more_are_left_out(&check(broken.to_string()).await.expect(422));
    let foreign: Vec<Value> = (0..1000).map(|number| json!({"\u{1}".repeat(40): number})).collect();
    assert_more_are_left_out(&check(json!({"checks": foreign}).to_string()).await.expect(422));
    let one =
        format!("{{\"checks\":[{{{}\"z\":0}}]}}", many_names(250_000, "\":0,\"").replace(",\"", ",\"\\\""));
    assert_bounded(&check(one).await);
    assert!(started.elapsed() < LINEAR, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_body_in_its_worst_form_gets_a_short_answer_soon() {
    let service = Service::start().await;
    let path = consent(service.customer().await);
    let long = |unit: &str, size: usize| unit.repeat(size / unit.len());
    let bodies = [
        // A name that appears twice is repeated in the answer.
        format!("{{\"{0}\":1,\"{0}\":1}}", long("\\u0001", 32_000)),
        format!("{{\"{}\":1}}", long("\\u0001", 65_000)),
        format!("{{\"{}\":1}}", long("\\\"", 65_000)),
        format!("{{\"{}\":1}}", long("~/", 65_000)),
        format!("{{\"consent_tier\":\"{}\"}}", long("\\u0001", 65_000)),
        format!("{{\"consent_tier\":{}}}", long("9", 65_000)),
        format!("{{\"consent_tier\":0.{}}}", long("9", 65_000)),
        format!("{{\"expires_at\":\"{}\"}}", long("2", 65_000)),
        format!("[{}1]", long("1,", 65_000)),
        long("[", 65_000),
        long("{\"a\":", 65_000),
        long(" ", 65_000),
        long("{\"a\":[[", 65_000),
    ];
    let started = Instant::now();
    for body in bodies {
        let answer = service.call("PUT", &path).raw(body).send().await;
        assert_bounded(&answer);
        assert!(answer.status.is_client_error(), "{}", answer.status);
    }
    for (path, field) in [("/v1/api-keys", "scopes"), ("/v1/customers", "email")] {
        for value in [long("\"admin\",", 60_000), long("7,", 60_000), long("[],", 60_000)] {
            let body = format!("{{\"{field}\":[{value}0]}}");
            assert_bounded(&service.call("POST", path).raw(body).send().await.expect(422));
        }
    }
    assert!(started.elapsed() < LINEAR, "{:?}", started.elapsed());
}

#[tokio::test]
async fn headers_in_their_worst_form_get_a_short_answer_soon() {
    let service = Service::start().await;
    let customer = service.customer().await;
    service.put(customer, &json!({"consent_tier": "basic"})).send().await.expect(201);
    let admin = Visitor::admin(&service).await;
    let long = |unit: &str| unit.repeat(15_000 / unit.len());
    let started = Instant::now();
    let values = [
        ("if-match", vec![long("\"1\","), long("W/"), long("\""), long(","), long("\"2147483648\", ")]),
        ("if-none-match", vec![long("\"9\","), long("*,"), long("W/\"1\",")]),
        ("prefer", vec![long("receipt,"), long("a=b;"), long(";,=")]),
        ("accept", vec![long("text/csv;q=0,"), long("*/*;"), long(";q="), long("a/b;q=0.1,")]),
        ("accept-language", vec![long("de;q=0.1,"), long("-"), long(";q=1,")]),
        ("cookie", vec![long("a=b; "), long("="), long(";"), format!("consentd-session={}", long("A"))]),
        ("x-forwarded-for", vec![long("10.0.0.1,"), long(","), long("[::1]:1,"), long("\"")]),
        ("forwarded", vec![long("for=10.0.0.1,"), long("for=\","), long(";"), long("\\\"")]),
        ("authorization", vec![format!("Bearer {}", long("a")), long("Bearer "), long(" ")]),
        ("idempotency-key", vec![long("k")]),
        ("x-request-id", vec![long("r")]),
        ("user-agent", vec![long("\u{e9}"), long("u")]),
        ("traceparent", vec![long("00-"), long("-")]),
        ("tracestate", vec![long("a=b,"), long(",")]),
        ("content-type", vec![long("application/json;"), long(";charset=utf-8")]),
        ("host", vec![long("["), long(":"), long("a.")]),
        ("origin", vec![long("http://a"), long(":")]),
    ];
    let path = consent(customer);
    let trail = format!("{path}/audit");
    for (name, values) in &values {
        for value in values {
            let calls = [
                service.get(&path).key(&service.operator),
                service.get(&trail),
                service.call("DELETE", &path),
                service.call("PUT", &path).body("{\"consent_tier\":\"basic\"}"),
                admin.call("GET", "/console"),
                admin.call("POST", "/console/sign-out"),
                service.get("/my/consent").no_key(),
            ];
            for call in calls {
                assert_bounded(&call.peer("10.0.0.1").header(name, value).send().await);
            }
        }
    }
    assert!(started.elapsed() < 4 * LINEAR, "{:?}", started.elapsed());
}

#[tokio::test]
async fn paths_in_their_worst_form_get_a_short_answer() {
    let service = Service::start().await;
    let long = |unit: &str| unit.repeat(8000 / unit.len());
    for rest in [long("x001/"), long("/"), long("%2F"), long("0"), long("%FF"), long("entries/")] {
        for base in
            ["/v1/audit/log/tile/0/", "/v1/customers/", "/v1/audit/", "/my/", "/assets/", "/problems/", "/"]
        {
            assert_bounded(&service.get(&format!("{base}{rest}")).send().await);
        }
        assert_bounded(&service.get(&format!("/console/{rest}")).no_key().send().await);
    }
}

/// The formats of the log, which the command line reads from files and from other servers.
#[test]
fn the_formats_of_the_log_are_read_in_linear_time() {
    const SIZE: usize = 1 << 20;
    let long = |unit: &str| unit.repeat(SIZE / unit.len());
    let texts = [
        long("\n"),
        long("\n\n"),
        long("a\n"),
        long("— a AAAAAAAA\n"),
        long("— a AAAAAAAA\n\n"),
        format!("a\n\n{}", "— a AAAAAAAAAAAA\n".repeat(100)),
        format!("a\n\n— a {}\n", long("A")),
        format!("c2sp.org/tlog-proof@v1\nextra {}\nindex 0\n\n", long("A")),
        format!("c2sp.org/tlog-proof@v1\nindex 0\n{}\n\n", long("AAAA\n")),
        format!("a\n{}\n", long("9")),
        format!("consentd receipt v1\n{}\n", long("a\n")),
    ];
    for text in &texts {
        let started = Instant::now();
        let _ = Note::parse(text);
        let _ = Checkpoint::parse(text);
        let _ = Receipt::parse(text);
        let _ = LogProof::parse(text);
        let _ = note::parse_signature_lines(text);
        for part in note::split(text) {
            let _ = Note::parse(part);
        }
        assert!(started.elapsed() < LINEAR, "{:?} for {:?}…", started.elapsed(), &text[..20]);
    }
    for path in [long("x001/"), long("0/"), format!("0/{}", long("9")), format!("0/{}001", long("x000/"))] {
        assert!(Tile::parse(&path).is_err());
    }
    for leaf in [long("["), long("{\"a\":"), long("{\"a\":1,"), long("\""), long("9")] {
        let started = Instant::now();
        assert!(Leaf::parse(leaf.as_bytes()).is_err());
        assert!(started.elapsed() < LINEAR, "{:?}", started.elapsed());
    }
}
