//! What is permitted now: one customer, one permission, many at once.

use chrono::{DateTime, Utc};
use consentd::domain::json::WriteJson;
use consentd::domain::{AnonymizationLevel, ConsentRecord, ConsentTier, HeldPermissions, Permission};
use consentd::http::api::permissions::{Check, CheckAnswer, CheckRequest};
use consentd::http::extract::{self, Body as _};
use proptest::prelude::*;
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::service::{Service, consent};

#[tokio::test]
async fn all_permissions_are_answered_or_the_one_that_is_asked_for() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let body =
        json!({"consent_tier": "research", "can_store_images": true, "anonymization_level": "minimal"});
    service.put(customer, &body).send().await.expect(201);
    let path = format!("{}/permissions", consent(customer));
    assert_eq!(
        service.get(&path).send().await.expect(200).json(),
        json!({
            "customer_id": customer,
            "permissions": {
                "can_store_images": true, "can_store_embeddings": false, "can_use_for_training": false,
                "anonymization_level": "minimal",
            },
            "reason": "granted", "version": 1, "valid_until": null,
        })
    );
    let check =
        async |name: &str| service.get(&format!("{path}?check={name}")).send().await.expect(200).json();
    let images = check("images").await;
    assert_eq!((&images["permission"], &images["allowed"]), (&json!("store_images"), &json!(true)));
    let training = check("training").await;
    assert_eq!((&training["allowed"], &training["reason"]), (&json!(false), &json!("not_granted")));
    let level = check("anonymization").await;
    assert_eq!((&level["permission"], &level["level"]), (&json!("anonymization_level"), &json!("minimal")));
    service.get(&format!("{path}?check=everything")).send().await.expect(400);
}

#[tokio::test]
async fn a_denial_has_the_same_shape_for_an_unknown_customer() {
    let service = Service::start().await;
    let nobody = Uuid::new_v4();
    let path = format!("{}/permissions", consent(nobody));
    let all = service.get(&path).send().await.expect(200).json();
    assert_eq!((&all["reason"], &all["version"]), (&json!("unknown_customer"), &json!(0)));
    assert_eq!(all["permissions"]["can_store_images"], false);
    let one = service.get(&format!("{path}?check=images")).send().await.expect(200).json();
    assert_eq!((&one["allowed"], &one["reason"]), (&json!(false), &json!("unknown_customer")));
    let customer = service.customer().await;
    let never = service
        .get(&format!("{}/permissions?check=images", consent(customer)))
        .send()
        .await
        .expect(200)
        .json();
    assert_eq!(never["reason"], "never_given");
}

#[tokio::test]
async fn many_checks_are_answered_in_their_order() {
    let service = Service::start().await;
    let (allowing, refusing) = (service.customer().await, service.customer().await);
    let body = json!({"consent_tier": "analytics", "can_store_embeddings": true});
    service.put(allowing, &body).send().await.expect(201);
    let nobody = Uuid::new_v4();
    let mut checks = Vec::new();
    let mut expected = Vec::new();
    // As many as are allowed.
    for round in 0..1000 {
        let (customer, permission) = [
            (allowing, "embeddings"),
            (refusing, "embeddings"),
            (nobody, "anonymization"),
            (allowing, "images"),
        ][round % 4];
        checks.push(json!({"customer_id": customer, "permission": permission}));
        expected.push(json!(["granted", "never_given", "unknown_customer", "not_granted"][round % 4]));
    }
    let answer = service
        .call("POST", "/v1/permissions/check")
        .json(&json!({"checks": checks}))
        .send()
        .await
        .expect(200)
        .json();
    let reasons: Vec<Value> = answer["results"]
        .as_array()
        .expect("results")
        .iter()
        .map(|result| result["reason"].clone())
        .collect();
    assert_eq!(reasons, expected);
}

#[tokio::test]
async fn a_batch_tells_every_fault_with_its_place() {
    let service = Service::start().await;
    let checks = json!({"checks": [
        {"customer_id": Uuid::new_v4(), "permission": "images"},
        {"customer_id": "me", "permission": "all", "extra": 1},
        7,
        {"permission": "images"},
    ]});
    let answer = service.call("POST", "/v1/permissions/check").json(&checks).send().await.expect(422);
    assert_eq!(
        answer.problem("invalid-body"),
        [
            "/checks/1/customer_id not_a_uuid",
            "/checks/1/permission unknown_value",
            "/checks/1/extra unknown_field",
            "/checks/2 not_an_object",
            "/checks/3/customer_id required",
        ]
    );
    for body in
        [json!({}), json!({"checks": []}), json!({"checks": vec![json!({}); 1001]}), json!({"checks": 1})]
    {
        service.call("POST", "/v1/permissions/check").json(&body).send().await.expect(422);
    }
}

#[tokio::test]
async fn a_batch_is_read_as_json_however_it_is_spelled() {
    let service = Service::start().await;
    let customer = service.customer().await.to_string();
    let ask = |checks: String| {
        let call = service.call("POST", "/v1/permissions/check").header("content-type", "application/json");
        call.body(format!("{{\"checks\": {checks}}}"))
    };
    let escaped = customer.bytes().map(|byte| format!("\\u{byte:04x}")).collect::<Vec<_>>().concat();
    for check in [
        format!(r#"{{"customer_id": "{customer}", "permission": "images"}}"#),
        format!(r#"{{"customer_id": "{escaped}", "permission": "im\u0061ges", "min_version": 0.0}}"#),
        format!(r#"{{"p\u0065rmission": "images", "min_version": -0, "customer_id": "{customer}"}}"#),
    ] {
        let answer = ask(format!("[{check}]")).send().await.expect(200).json();
        assert_eq!(answer["results"][0]["customer_id"], customer, "{check}");
    }
    for check in [
        format!(r#"["{customer}", "images", 0]"#),
        format!(r#"{{"customer_id": "{customer}", "permission": {{"images": null}}}}"#),
        format!(r#"{{"customer_id": "{customer}", "permission": "images", "min_version": null}}"#),
        format!(r#"{{"customer_id": "{customer}", "permission": "images", "min_version": -1}}"#),
        format!(r#"{{"customer_id": "{}", "permission": "images"}}"#, customer.replace('-', "")),
    ] {
        ask(format!("[{check}]")).send().await.expect(422);
    }
    let twice = format!(r#"{{"customer_id": "{customer}", "permission": "images", "permission": "images"}}"#);
    ask(format!("[{twice}]")).send().await.expect(400);
}

/// A JSON text in which most is right.
fn batches() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        30 => prop::sample::select(vec!["customer_id", "permission", "min_version"]),
        1 => prop::sample::select(vec!["checks", "p\\u0065rmission", "", "customer_id "]),
    ];
    let permission = prop::sample::select(vec!["images", "embeddings", "training", "anonymization"]);
    let text = prop_oneof![
        permission.prop_map(str::to_owned),
        any::<u128>().prop_map(|id| Uuid::from_u128(id).to_string()),
        any::<u128>().prop_map(|id| Uuid::from_u128(id).hyphenated().to_string().to_uppercase()),
        any::<u128>().prop_map(|id| Uuid::from_u128(id).simple().to_string()),
        prop::sample::select(vec!["im\\u0061ges", "Images", "\\ud800", ""]).prop_map(str::to_owned),
    ];
    let other = prop_oneof![
        any::<i32>().prop_map(|number| number.to_string()),
        prop::sample::select(vec![
            "0",
            "7",
            "2147483647",
            "2147483648",
            "-0",
            "3.0",
            "1e2",
            "1e999",
            "01",
            "null",
            "true",
            "[]",
            "{}",
            r#"{"images":null}"#,
            r#"["images"]"#,
            "\"7\"",
        ])
        .prop_map(str::to_owned),
    ];
    let value = prop_oneof![3 => text.prop_map(|text| format!("\"{text}\"")), 1 => other];
    let field = (name, value.clone()).prop_map(|(name, value)| format!("\"{name}\":{value}"));
    let right =
        (any::<u128>(), 0..4_usize, proptest::option::of(0..=i32::MAX)).prop_map(|(id, at, version)| {
            let (id, permission) = (Uuid::from_u128(id), Permission::ALL[at].as_str());
            let version = version.map_or_else(String::new, |version| format!(r#","min_version":{version}"#));
            format!(r#"{{"customer_id":"{id}","permission":"{permission}"{version}}}"#)
        });
    let check = prop_oneof![
        12 => right,
        4 => prop::collection::vec(field, 1..5).prop_map(|fields| format!("{{{}}}", fields.join(","))),
        1 => prop::collection::vec(value, 0..4).prop_map(|values| format!("[{}]", values.join(","))),
    ];
    let checks = prop::collection::vec(check, 0..4).prop_map(|checks| format!("[{}]", checks.join(",")));
    let around =
        prop::sample::select(vec![("{\"checks\":", "}"), ("{\"checks\" : ", " }\n"), ("[", "]"), ("", "")]);
    let after = prop_oneof![8 => Just(""), 1 => prop::sample::select(vec![" ", "}", ",", "\0", "{}"])];
    (checks, around, after).prop_map(|(checks, (open, close), after)| format!("{open}{checks}{close}{after}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]
    #[test]
    fn what_is_read_at_once_is_what_is_read_field_by_field(
        text in batches(),
        damage in proptest::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let mut bytes = text.into_bytes();
        if let Some((place, byte)) = damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if let Some(request) = CheckRequest::read_at_once(&bytes) {
            prop_assert_eq!(extract::read::<CheckRequest>(&bytes).ok(), Some(request));
        }
    }
}

/// Whole microseconds, and now and then less than can be shown, or a year that is no ordinary one.
fn times() -> impl Strategy<Value = Option<DateTime<Utc>>> {
    let nanos = prop_oneof![
        Just(0),
        (0..1000_u32).prop_map(|n| n * 1_000_000),
        (0..1_000_000_u32).prop_map(|n| n * 1000),
        0..1_000_000_000_u32
    ];
    let time = (-70_000_000_000..300_000_000_000_i64, nanos)
        .prop_map(|(seconds, nanos)| DateTime::from_timestamp(seconds, nanos).expect("a time"));
    proptest::option::of(time)
}

fn records() -> impl Strategy<Value = ConsentRecord> {
    let tiers = prop::sample::select(ConsentTier::ALL.to_vec());
    let levels = prop::sample::select(AnonymizationLevel::ALL.to_vec());
    let texts = proptest::option::of(any::<String>());
    (
        (any::<u128>(), tiers, levels, any::<[bool; 3]>(), texts),
        (times(), times(), times(), 0..=i32::MAX, proptest::option::of(1..=i64::MAX)),
    )
        .prop_map(
            |(
                (id, tier, level, [images, embeddings, training], policy),
                (granted, updated, end, version, entry),
            )| {
                ConsentRecord {
                    customer_id: Uuid::from_u128(id),
                    consent_tier: tier,
                    can_store_images: images,
                    can_store_embeddings: embeddings,
                    can_use_for_training: training,
                    anonymization_level: level,
                    policy_version: policy,
                    consent_granted_at: granted,
                    consent_updated_at: updated,
                    expires_at: end,
                    version,
                    audit_id: entry,
                }
            },
        )
}

fn is_written_as_derived<T: WriteJson + Serialize>(value: &T) -> Result<(), TestCaseError> {
    let mut written = Vec::new();
    value.write_json(&mut written);
    prop_assert_eq!(String::from_utf8(written).expect("UTF-8"), serde_json::to_string(value).expect("JSON"));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]
    #[test]
    fn what_is_written_field_by_field_is_what_is_described(
        record in proptest::option::weighted(0.9, records()), now in times(), stale: bool,
    ) {
        let now = now.unwrap_or_default();
        let customer_id = record.as_ref().map_or_else(Uuid::new_v4, |record| record.customer_id);
        let held = HeldPermissions { stale, ..HeldPermissions::judge(customer_id, record.as_ref(), now) };
        let results: Vec<_> = Permission::ALL.into_iter().map(|permission| held.clone().check(permission)).collect();
        for check in &results {
            is_written_as_derived(check)?;
        }
        is_written_as_derived(&CheckAnswer { results })?;
        is_written_as_derived(&held)?;
        if let Some(record) = record {
            is_written_as_derived(&record.view(now))?;
        }
    }
}

#[test]
fn a_batch_as_most_are_is_read_at_once() {
    let check = Check { customer_id: Uuid::new_v4(), permission: Permission::Training, min_version: 3 };
    let request = CheckRequest { checks: vec![check; 1000] };
    let bytes = serde_json::to_vec(&request).expect("JSON");
    assert_eq!(CheckRequest::read_at_once(&bytes), Some(request));
}
