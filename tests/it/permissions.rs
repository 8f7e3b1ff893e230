//! What is permitted now: one customer, one permission, many at once.

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
