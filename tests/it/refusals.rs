//! Bad input gets a clear error that names the field and the rule, and never a 5xx.

use serde_json::json;
use uuid::Uuid;

use crate::service::{Service, consent};

#[tokio::test]
async fn all_faults_of_a_body_are_told_at_once() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let body = json!({
        "consent_tier": "basic", "can_store_images": true, "can_use_for_training": true,
        "anonymization_level": "none", "expires_at": "2026-02-01T00:00:00Z",
    });
    let answer = service.put(customer, &body).send().await.expect(422);
    assert_eq!(
        answer.problem("invalid-body"),
        [
            "/can_store_images not_allowed_by_tier",
            "/can_use_for_training not_allowed_by_tier",
            "/anonymization_level not_allowed_by_tier",
            "/expires_at in_the_past",
        ]
    );
    let body = json!({
        "can_store_image": true, "can_store_embeddings": "yes", "expires_at": "tomorrow",
        "policy_version": "x".repeat(65), "reason": "a\u{0}b", "on_behalf_of": 7,
    });
    let answer = service.put(customer, &body).send().await.expect(422);
    let mut faults = answer.problem("invalid-body");
    faults.sort();
    assert_eq!(
        faults,
        [
            "/can_store_embeddings not_a_boolean",
            "/can_store_image unknown_field",
            "/consent_tier required",
            "/expires_at not_a_time",
            "/on_behalf_of not_a_string",
            "/policy_version too_long",
            "/reason nul_character",
        ]
    );
    assert_eq!(service.consent(customer).await["version"], 0);
}

#[tokio::test]
async fn what_is_not_json_is_refused_by_name() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    for body in [
        "",
        "{",
        "{\"consent_tier\": \"basic\"",
        "{\"consent_tier\": \"basic\"} x",
        "{\"consent_tier\": \"basic\", \"consent_tier\": \"research\"}",
        "{\"consent_tier\": \"\\ud800\"}",
        "{\"consent_tier\": 1e400}",
        "{\"consent_tier\": \"b\u{0}\"}",
        &deep,
        &format!("{{\"reason\": {}1{}}}", "[".repeat(40), "]".repeat(40)),
    ] {
        let answer = service.call("PUT", &consent(customer)).raw(body.to_owned()).send().await.expect(400);
        assert!(answer.problem("malformed-json").is_empty());
    }
    let not_utf8 =
        service.call("PUT", &consent(customer)).raw(vec![b'{', 0xff, b'}']).send().await.expect(400);
    not_utf8.problem("malformed-json");
    for body in ["null", "[]", "\"basic\"", "7"] {
        let answer = service.call("PUT", &consent(customer)).raw(body).send().await.expect(422);
        assert_eq!(answer.problem("invalid-body"), [" not_an_object"]);
    }
}

#[tokio::test]
async fn the_form_of_a_request_is_checked() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let path = consent(customer);
    let put = || service.call("PUT", &path);
    put().body("{}").send().await.expect(415).problem("unsupported-media-type");
    put().header("content-type", "text/plain").body("{}").send().await.expect(415);
    put().header("content-type", "application/json; charset=latin1").body("{}").send().await.expect(415);
    let large = format!("{{\"consent_tier\": \"basic\", \"reason\": \"{}\"}}", "x".repeat(70_000));
    put().raw(large).send().await.expect(413).problem("body-too-large");

    let without_key = service.call("TRACE", "/livez").no_key().send().await.expect(405);
    assert!(without_key.header("allow").expect("Allow").contains("GET"));
    let wrong_method = service.call("PATCH", &path).send().await.expect(405);
    wrong_method.problem("method-not-allowed");
    assert!(wrong_method.header("allow").expect("Allow").contains("PUT"), "{wrong_method:?}");
    service.get("/v1/nothing").send().await.expect(404).problem("not-found");
    service.get("/v1/customers/17/consent").send().await.expect(400).problem("invalid-parameter");
    let unknown = service.get(&format!("{path}?asof=now&as_of=now")).send().await.expect(400);
    assert_eq!(unknown.problem("invalid-parameter"), ["as_of not_a_time", "asof unknown_parameter"]);
    let repeated = service.get("/v1/audit?limit=1&limit=2").send().await.expect(400);
    assert_eq!(repeated.problem("invalid-parameter"), ["limit repeated"]);
    for limit in ["0", "1001", "-1", "ten", ""] {
        service.get(&format!("/v1/audit?limit={limit}")).send().await.expect(400);
    }
    service.get("/v1/audit?changed_by=%00").send().await.expect(400);
    service.get("/v1/audit?ip_address=1.2.3.4/99").send().await.expect(400);
    service.get("/v1/audit/0").send().await.expect(400);
    service.get("/v1/audit/99999999999999999999").send().await.expect(400);
    service.get("/v1/audit/9007199254740991").send().await.expect(404).problem("unknown-audit-entry");
    let with_body = service.call("DELETE", &path).raw("{\"reason\": \"x\"}").send().await.expect(422);
    assert_eq!(with_body.problem("invalid-body"), [" unexpected_body"]);
}

#[tokio::test]
async fn an_unknown_customer_is_named_as_such() {
    let service = Service::start().await;
    let nobody = Uuid::new_v4();
    let path = consent(nobody);
    service.get(&path).send().await.expect(404).problem("unknown-customer");
    service.get(&format!("{path}?as_of=2026-01-01T00:00:00Z")).send().await.expect(404);
    service
        .put(nobody, &json!({"consent_tier": "basic"}))
        .send()
        .await
        .expect(404)
        .problem("unknown-customer");
    service.call("DELETE", &path).send().await.expect(404);
    service.get(&format!("{path}/audit")).send().await.expect(404);
    service.get(&format!("/v1/customers/{nobody}")).send().await.expect(404);
}

#[tokio::test]
async fn every_kind_of_problem_has_its_page() {
    let service = Service::start().await;
    for kind in consentd::http::problem::KINDS {
        let page = service.get(&format!("/problems/{}", kind.slug)).no_key().send().await.expect(200);
        assert!(page.text().contains(kind.title) && page.text().contains("<p>"), "{}", kind.slug);
    }
    service.get("/problems/nothing").no_key().send().await.expect(404).problem("not-found");
}

#[tokio::test]
async fn every_answer_has_a_request_id_and_is_not_stored() {
    let service = Service::start().await;
    for path in ["/livez", "/v1/nothing", "/v1/audit"] {
        let answer = service.get(path).send().await;
        assert!(Uuid::try_parse(answer.header("x-request-id").expect("an id")).is_ok());
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    }
    let kept = service.get("/livez").header("x-request-id", "a-sane.id:1").send().await;
    assert_eq!(kept.header("x-request-id"), Some("a-sane.id:1"));
    let replaced = service.get("/livez").header("x-request-id", "not sane!").send().await;
    assert_ne!(replaced.header("x-request-id"), Some("not sane!"));
}
