//! Input is brought into its stored form before it is compared, hashed and answered: what was accepted is read back as it
//! was answered, and is not changed by the same request.

use chrono::{DateTime, Utc};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::service::{Answer, Service, consent};

/// Times as RFC 3339 allows them, many of which PostgreSQL would keep in another form.
fn times() -> impl Strategy<Value = String> {
    let date = (2026..2036_i32, 1..=12_u32, 1..=28_u32).prop_map(|(y, m, d)| format!("{y:04}-{m:02}-{d:02}"));
    let clock = (0..24_u32, 0..60_u32, prop_oneof![0..60_u32, Just(60)])
        .prop_map(|(h, m, s)| format!("{h:02}:{m:02}:{s:02}"));
    let fraction = prop_oneof![Just(String::new()), "\\.[0-9]{1,12}", Just(".9999999".to_owned())];
    let offset = prop_oneof![
        Just("Z".to_owned()),
        Just("z".to_owned()),
        Just("-00:00".to_owned()),
        (-23..=23_i32, 0..60_u32).prop_map(|(h, m)| format!(
            "{}{:02}:{m:02}",
            if h < 0 { '-' } else { '+' },
            h.abs()
        )),
    ];
    (date, "[Tt]", clock, fraction, offset)
        .prop_map(|(date, t, clock, fraction, offset)| format!("{date}{t}{clock}{fraction}{offset}"))
}

/// Texts with spaces at their ends, of any script, with characters that are written in two ways.
fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        " {0,2}\\PC{0,20} {0,2}",
        Just(String::new()),
        Just("e\u{301}\u{feff}\u{200b}\r\n\t".to_owned())
    ]
}

fn decisions() -> impl Strategy<Value = Value> {
    use proptest::option::of;
    let choices = (0..4_usize, any::<bool>(), any::<bool>(), any::<bool>(), of(0..4_usize));
    (choices, of(times()), of(texts()), of(texts()), of(texts())).prop_map(
        |((tier, images, embeddings, training, level), end, policy, reason, person)| {
            json!({
                "consent_tier": (["none", "basic", "analytics", "research"][tier]),
                "can_store_images": images && tier == 3,
                "can_store_embeddings": embeddings && tier >= 2,
                "can_use_for_training": training && images && tier == 3,
                "anonymization_level": (level.filter(|_| tier == 3).map(|level| ["full", "partial", "minimal", "none"][level])),
                "expires_at": end, "policy_version": policy, "reason": reason, "on_behalf_of": person,
            })
        },
    )
}

fn examples<T: std::fmt::Debug>(strategy: &impl Strategy<Value = T>, count: usize) -> Vec<T> {
    let mut runner = TestRunner::deterministic();
    (0..count).map(|_| strategy.new_tree(&mut runner).expect("a value").current()).collect()
}

fn version(answer: &Answer) -> (Option<&str>, Value) {
    (answer.header("etag"), answer.json())
}

#[tokio::test]
async fn the_same_put_again_gives_the_same_value_and_version() {
    for service in [Service::start().await, Service::start_following().await] {
        let customer = service.customer().await;
        let path = consent(customer);
        let mut accepted = 0;
        for body in examples(&decisions(), 120) {
            let put = service.put(customer, &body).send().await.expect_one_of(&[200, 201, 422]);
            if put.status == 422 {
                // Only an end outside of the ten years that are allowed, or one that is no time.
                let faults = put.problem("invalid-body");
                assert!(faults.iter().all(|fault| fault.starts_with("/expires_at ")), "{faults:?} of {body}");
                continue;
            }
            accepted += 1;
            let current = put.json()["version"].clone();
            let read = service.get(&format!("{path}?min_version={current}")).send().await.expect(200);
            assert_eq!(version(&put), version(&read), "{body}");
            let again = service.put(customer, &body).send().await.expect(200);
            assert_eq!(version(&put), version(&again), "{body}");
            let as_of = format!("{path}?as_of={}", service.now().format("%Y-%m-%dT%H:%M:%S%.6fZ"));
            service.advance(chrono::TimeDelta::seconds(1));
            let stood = service.get(&as_of).send().await.expect(200).json();
            assert_eq!(stood["expires_at"], read.json()["expires_at"], "{body}");
        }
        assert!(accepted > 60, "{accepted}");
    }
}

#[tokio::test]
async fn a_leap_second_is_the_first_second_of_the_next_minute() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let ends = [
        ("2027-06-30T23:59:60Z", "2027-07-01T00:00:00Z"),
        ("2027-06-30T23:59:60.5Z", "2027-07-01T00:00:00.500Z"),
        ("2027-06-30T23:59:60.9999999Z", "2027-07-01T00:00:00.999999Z"),
        ("2027-07-01T01:59:60.25+02:00", "2027-07-01T00:00:00.250Z"),
        ("2027-06-30T12:00:00.1234567Z", "2027-06-30T12:00:00.123456Z"),
    ];
    for (given, stored) in ends {
        let body = json!({"consent_tier": "basic", "expires_at": given});
        let put = service.put(customer, &body).send().await.expect_one_of(&[200, 201]);
        assert_eq!(put.json()["expires_at"], stored, "{given}");
        let again = service.put(customer, &body).send().await.expect(200);
        assert_eq!(again.json()["version"], put.json()["version"], "{given}");
    }
    for name in ["as_of", "updated_after", "expiring_before", "since"] {
        let path = match name {
            "as_of" => consent(customer),
            "since" => "/v1/audit".to_owned(),
            _ => "/v1/consents".to_owned(),
        };
        service.get(&format!("{path}?{name}=2016-12-31T23:59:60.5Z")).send().await.expect(200);
    }
}

#[tokio::test]
async fn a_time_beyond_the_calendar_is_refused() {
    let service = Service::start().await;
    for time in [
        "9999-12-31T23:59:59-23:59",
        "9999-12-31T23:59:60Z",
        "0001-01-01T00:00:00%2B00:01",
        "0000-01-01T00:00:00Z",
        "-0001-01-01T00:00:00Z",
        "+10000-01-01T00:00:00Z",
        "99999-01-01T00:00:00Z",
        "infinity",
        "2026-02-30T00:00:00Z",
        "2026-01-01T24:00:00Z",
        "2026-01-01T00:00:61Z",
        "2026-01-01T00:00:00%2B24:00",
    ] {
        for path in [
            "/v1/audit?since",
            "/v1/audit?until",
            "/v1/consents?expiring_before",
            "/v1/consents?updated_after",
        ] {
            let answer = service.get(&format!("{path}={time}")).send().await.expect(400);
            assert!(answer.problem("invalid-parameter")[0].ends_with(" not_a_time"), "{time}");
        }
    }
    for time in ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.9999999Z", "9999-12-31T23:59:59%2B23:59"] {
        service
            .get(&format!("/v1/consents?expiring_before={time}&updated_after={time}"))
            .send()
            .await
            .expect(200);
        service.get(&format!("/v1/audit?since={time}&until={time}")).send().await.expect(200);
    }
}

#[tokio::test]
async fn what_is_created_or_changed_is_read_back_as_it_was_answered() {
    let service = Service::start().await;
    let (texts, times) = (examples(&texts(), 40), examples(&times(), 40));
    let rates = ["1", "60", "1.0", "6e1", "0.6e2", "2147483647", "2147483647.0", "21474836.47e2"];
    for (round, (text, time)) in texts.iter().zip(&times).enumerate() {
        let (customer, rate) = (Uuid::new_v4(), rates[round % rates.len()]);
        let email = ["A.b+c@Example.COM", "ä@bücher.example", "\u{1f916}@x", "'\"<>@[::1]"][round % 4];
        let email = format!("{round}{email}");
        let (email, name) = (json!(email), json!(text));
        let body = format!(
            "{{\"customer_id\":\"{customer}\",\"email\":{email},\"company_name\":{name},\"tier\":\"pro\",\"rate_limit_rpm\":{rate}}}"
        );
        let created = service.call("POST", "/v1/customers").raw(body).send().await.expect(201).json();
        let path = format!("/v1/customers/{customer}");
        let read = async || service.get(&path).send().await.expect(200).json();
        assert_eq!(created, read().await);
        let change =
            format!("{{\"company_name\":{},\"rate_limit_rpd\":{rate}}}", json!(texts[(round + 1) % 40]));
        for _ in 0..2 {
            let changed = service.call("PATCH", &path).raw(change.clone()).send().await.expect(200).json();
            assert_eq!(changed, read().await);
        }

        let key = json!({"customer_id": customer, "key_name": text, "scopes": ["consent:read", "consent:read"], "expires_at": time});
        let made = service.call("POST", "/v1/api-keys").json(&key).send().await.expect_one_of(&[201, 422]);
        if made.status == 201 {
            let mut made = made.json();
            made.as_object_mut().expect("an object").remove("api_key");
            let listed =
                service.get(&format!("/v1/api-keys?customer_id={customer}")).send().await.expect(200);
            assert_eq!(listed.json()["items"], json!([made]));
        }
        let link = json!({"valid_for_seconds": 3e2, "on_behalf_of": format!("{text}x")});
        let links = format!("{path}/consent-links");
        let mut made = service.call("POST", &links).json(&link).send().await.expect(201).json();
        for secret in ["path", "url"] {
            made.as_object_mut().expect("an object").remove(secret);
        }
        let listed = service.get(&links).send().await.expect(200).json();
        assert_eq!(listed["items"], json!([made]));
    }
}

#[tokio::test]
async fn what_the_headers_of_a_change_say_is_read_back() {
    let service = Service::start().await;
    let customer = service.customer().await;
    for (round, agent) in
        ["plain/1.0 (x)", "\u{e9}\u{1f916}", &"\u{1f916}".repeat(600), "tab\tand more"].iter().enumerate()
    {
        let body = json!({"consent_tier": "basic", "policy_version": round.to_string()});
        let call = service.put(customer, &body).header("user-agent", agent);
        call.header("x-request-id", "a.b:c-D_1")
            .peer("::ffff:203.0.113.7")
            .send()
            .await
            .expect_one_of(&[200, 201]);
        let entry = service.trail(customer).await[0].clone();
        let kept: String = agent.chars().filter(|char| !char.is_control()).take(512).collect();
        assert_eq!(entry["user_agent"], kept);
        assert_eq!(entry["ip_address"], "203.0.113.7");
        let by_id = service.get("/v1/audit?request_id=a.b:c-D_1").send().await.expect(200).json();
        assert_eq!(by_id["items"].as_array().map(Vec::len), Some(round + 1));
    }
}

proptest! {
    #[test]
    fn a_stored_instant_is_its_own_stored_form(seconds in -62_135_596_800_i64..253_402_300_800, nanos in 0..2_000_000_000_u32) {
        // chrono holds a leap second in the last second of a minute alone.
        let seconds = if nanos < 1_000_000_000 { seconds } else { seconds - seconds.rem_euclid(60) + 59 };
        let given: DateTime<Utc> = DateTime::from_timestamp(seconds, nanos).expect("a time");
        let stored = consentd::domain::instant::stored(given);
        prop_assert_eq!(stored, consentd::domain::instant::stored(stored));
        prop_assert_eq!(stored.timestamp_subsec_nanos() % 1000, 0);
        prop_assert!(stored.timestamp_subsec_nanos() < 1_000_000_000);
        let exact = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        let kept = i128::from(stored.timestamp_micros()) * 1000;
        prop_assert!((0..1000).contains(&(exact - kept)), "{} is kept as {}", given, stored);
    }
}
