//! Personal fields go for good, and every proof stays.

use chrono::TimeDelta;
use consentd::domain::PersonalField;
use consentd::ops::erasure::{ErasureRequest, Retention, carry_out, request};
use consentd::ops::log::sealer::Sealer;
use consentd::store::consents::Attribution;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use super::running::{Running, logins};
use super::{
    ORIGIN, change, count, eventually, leaves, program, proof, prove, read, said, seal, verifier_keys,
};
use crate::cluster::database;
use crate::service::{Answer, Service, consent};

fn path(customer: Uuid) -> String {
    format!("/v1/customers/{customer}/erasure")
}

/// Asks for an erasure while the sealer and the eraser do their work.
async fn erase(service: &Service, sealer: &mut Sealer, customer: Uuid, more: Value) -> Answer {
    let mut body = json!({"reason": "the customer's letter", "legal_basis": "GDPR Art. 17(1)(b)"});
    body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let work = async {
        loop {
            seal(sealer, service.now()).await;
            carry_out(&service.store, service.now()).await.expect("it is carried out");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        answer = service.call("POST", &path(customer)).json(&body).send() => answer,
        () = work => unreachable!("the work has no end"),
    }
}

/// A change with every personal field.
async fn personal_change(service: &Service, customer: Uuid) -> i64 {
    let body = json!({
        "consent_tier": "basic", "policy_version": Uuid::new_v4().simple().to_string(), "reason": "canary-reason",
        "on_behalf_of": "canary-person",
    });
    let put = service.put(customer, &body).header("user-agent", "canary-agent").peer("203.0.113.7");
    let answer = put.send().await;
    assert!(answer.status.is_success(), "{}", answer.text());
    answer.json()["audit_id"].as_i64().expect("an id")
}

/// Which personal fields an entry still has; each has its salt, and none that is gone has.
async fn held(pool: &PgPool, audit_id: i64) -> Vec<String> {
    let entry: Value =
        sqlx::query_scalar("select to_jsonb(a) from vlaapi.customer_consent_audit a where audit_id = $1")
            .bind(audit_id)
            .fetch_one(pool)
            .await
            .expect("the entry stays");
    let fields = PersonalField::ALL.map(PersonalField::as_str);
    for field in fields {
        assert_eq!(entry[field].is_null(), entry[format!("{field}_salt")].is_null(), "{field}");
    }
    fields.into_iter().filter(|field| !entry[field].is_null()).map(str::to_owned).collect()
}

#[tokio::test]
async fn an_erasure_says_why_and_is_the_operators() {
    let service = Service::start().await;
    let customer = service.customer().await;
    for (body, faults) in [
        (json!({}), &["/reason required", "/legal_basis required"][..]),
        (json!({"reason": " ", "legal_basis": ""}), &["/reason empty", "/legal_basis empty"]),
        (json!({"reason": "a", "legal_basis": "b".repeat(201)}), &["/legal_basis too_long"]),
        (json!({"reason": "a", "legal_basis": "b", "fields": []}), &["/fields out_of_range"]),
        (json!({"reason": "a", "legal_basis": "b", "fields": ["tier"]}), &["/fields not_a_choice"]),
        (json!({"reason": "a", "legal_basis": "b", "field": "email"}), &["/field unknown_field"]),
    ] {
        let refused = service.call("POST", &path(customer)).json(&body).send().await.expect(422);
        assert_eq!(refused.problem("invalid-body"), faults, "{body}");
    }
    let body = json!({"reason": "a", "legal_basis": "b"});
    let own = service.key(Some(customer), &["customers:write"]).await;
    let narrow = service.key(None, &["consent:write"]).await;
    for key in [&own, &narrow] {
        service
            .call("POST", &path(customer))
            .key(key)
            .json(&body)
            .send()
            .await
            .expect(403)
            .problem("forbidden");
    }
    let unknown = service.call("POST", &path(Uuid::new_v4())).json(&body).send().await.expect(404);
    unknown.problem("unknown-customer");
    assert_eq!(count(&service.sql().await, "vlaapi.audit_events").await, 0);
}

#[tokio::test]
async fn what_is_personal_goes_from_the_entries_and_the_customer_and_proofs_stay_good() {
    let service = Service::start().await;
    let mut sealer = service.sealer().await;
    let (customer, other) = (service.customer().await, service.customer().await);
    let (first, second) =
        (personal_change(&service, customer).await, personal_change(&service, customer).await);
    let foreign = personal_change(&service, other).await;
    seal(&mut sealer, service.now()).await;
    let issued = proof(&service, first).await;

    let answer = erase(&service, &mut sealer, customer, json!({})).await.expect(200).json();
    assert_eq!(
        (&answer["entries"], &answer["status"], &answer["customer_id"]),
        (&json!(2), &json!("completed"), &json!(customer))
    );
    assert_eq!(answer["fields"].as_array().unwrap().len(), 8);
    let event = answer["audit_ids"][0].as_i64().unwrap();
    let pool = service.sql().await;
    assert_eq!(held(&pool, first).await, [""; 0]);
    assert_eq!(held(&pool, second).await, [""; 0]);
    assert_eq!(held(&pool, foreign).await.len(), 5);
    let row = service.get(&format!("/v1/customers/{customer}")).send().await.expect(200).json();
    assert_eq!(row["email"], format!("erased-{customer}@erased.invalid"));

    // The log tells what went, and why; by whose wish is personal itself, and can go one day.
    let keys = verifier_keys(&service, ORIGIN);
    let told = prove(&proof(&service, event).await, &keys);
    assert_eq!((&told.leaf["event"], &told.leaf["customer_id"]), (&json!("pii.erased"), &json!(customer)));
    assert_eq!(told.leaf["details"]["legal_basis"], "GDPR Art. 17(1)(b)");
    assert_eq!(told.leaf["details"]["entries"], json!([[first, second]]));
    assert_eq!(told.leaf["details"]["customer_fields"], json!(["email"]));
    assert!(told.opened.contains(&("change_reason".to_owned(), "the customer's letter".to_owned())));

    // The proof from before holds, with what it opens; the one of now has nothing to open.
    let before = prove(&issued, &keys);
    assert!(before.opened.contains(&("on_behalf_of".to_owned(), "canary-person".to_owned())));
    let now = prove(&proof(&service, first).await, &keys);
    assert_eq!((now.opened.len(), &now.leaf), (0, &before.leaf));
    let place = tempfile::tempdir().unwrap();
    for (name, text) in [("before", issued), ("now", proof(&service, first).await)] {
        let file = place.path().join(name);
        std::fs::write(&file, text).unwrap();
        let arguments = ["audit", "verify", "--proof", file.to_str().unwrap(), "--key", &keys[0].to_string()];
        let report = said(&program(place.path(), &arguments).output().unwrap());
        assert!(report.contains("clean: nothing was found"), "{report}");
    }

    // Again: there is nothing left, nothing is logged, and what has come since goes the next time.
    let again = erase(&service, &mut sealer, customer, json!({})).await.expect(200).json();
    assert_eq!(
        (&again["entries"], &again["status"]),
        (&json!(1), &json!("completed")),
        "the erasure's own entry"
    );
    let again = erase(&service, &mut sealer, customer, json!({"fields": ["ip_address", "email"]}))
        .await
        .expect(200)
        .json();
    assert_eq!((&again["entries"], &again["audit_ids"]), (&json!(0), &json!([])));
    let third = personal_change(&service, customer).await;
    let again =
        erase(&service, &mut sealer, customer, json!({"fields": ["ip_address"]})).await.expect(200).json();
    assert_eq!(again["entries"], 1);
    assert_eq!(held(&pool, third).await, ["changed_by", "on_behalf_of", "change_reason", "user_agent"]);
}

#[tokio::test]
async fn only_what_is_named_goes_and_the_trail_of_a_deleted_customer_can_be_erased_too() {
    let service = Service::start().await;
    let mut sealer = service.sealer().await;
    let customer = service.customer().await;
    let pool = service.sql().await;
    sqlx::query(
        "update vlaapi.customers set company_name = 'canary-company', customer_metadata = '{\"a\": \"canary\"}'
         where customer_id = $1",
    )
    .bind(customer)
    .execute(&pool)
    .await
    .unwrap();
    let audit_id = personal_change(&service, customer).await;
    let more = json!({"fields": ["user_agent", "company_name"], "on_behalf_of": "officer-1"});
    let answer = erase(&service, &mut sealer, customer, more).await.expect(200).json();
    assert_eq!((&answer["entries"], &answer["fields"]), (&json!(1), &json!(["user_agent", "company_name"])));
    assert_eq!(held(&pool, audit_id).await, ["changed_by", "on_behalf_of", "change_reason", "ip_address"]);
    let row: Value = sqlx::query_scalar("select to_jsonb(c) from vlaapi.customers c where customer_id = $1")
        .bind(customer)
        .fetch_one(&pool)
        .await
        .unwrap();
    assert_eq!(
        (&row["company_name"], &row["email"]),
        (&Value::Null, &json!(format!("{customer}@example.com")))
    );
    assert_eq!(row["customer_metadata"], json!({"a": "canary"}));

    sqlx::query("delete from vlaapi.customers where customer_id = $1")
        .bind(customer)
        .execute(&pool)
        .await
        .unwrap();
    let answer = erase(&service, &mut sealer, customer, json!({})).await.expect(200).json();
    assert_eq!(answer["status"], "completed");
    assert_eq!(held(&pool, audit_id).await, [""; 0]);
    let trail = service.trail(customer).await;
    assert_eq!((&trail[0]["action"], &trail[1]["audit_id"]), (&json!("erased"), &json!(audit_id)));
    assert!(trail[1].get("change_reason").is_none_or(Value::is_null), "{}", trail[1]);
}

#[tokio::test]
async fn nothing_goes_before_the_log_says_so() {
    let service = Service::start().await;
    let mut sealer = service.sealer().await;
    let customer = service.customer().await;
    let audit_id = personal_change(&service, customer).await;
    let pool = service.sql().await;
    let wanted = ErasureRequest {
        customer_id: customer,
        legal_basis: "a law".to_owned(),
        fields: vec![PersonalField::ChangeReason],
        customer_fields: Vec::new(),
    };
    let by = Attribution { changed_by: "somebody".to_owned(), ..Attribution::default() };
    let logged = request(&service.store, &service.keys, &wanted, &by, service.now()).await.unwrap();
    assert_eq!((logged.entries, logged.audit_ids.len()), (1, 1));
    assert_eq!(carry_out(&service.store, service.now()).await.unwrap(), 0);
    assert!(held(&pool, audit_id).await.contains(&"change_reason".to_owned()));
    seal(&mut sealer, service.now()).await;
    assert_eq!(carry_out(&service.store, service.now()).await.unwrap(), 1);
    assert!(!held(&pool, audit_id).await.contains(&"change_reason".to_owned()));
    assert_eq!(carry_out(&service.store, service.now()).await.unwrap(), 0);
}

#[tokio::test]
async fn more_than_a_leaf_can_name_is_erased_by_several() {
    let service = Service::start().await;
    let mut sealer = service.sealer().await;
    let customer = service.customer().await;
    let pool = service.sql().await;
    super::tamper(
        &pool,
        &format!(
            "insert into vlaapi.customer_consent_audit (customer_id, action, version, new_tier, change_reason, change_reason_salt)
             select '{customer}', 'updated', version, 'basic', 'canary', vlaapi.random_salt() from generate_series(1, 4100) version"
        ),
    )
    .await;
    let answer =
        erase(&service, &mut sealer, customer, json!({"fields": ["change_reason"]})).await.expect(200).json();
    assert_eq!((&answer["entries"], answer["audit_ids"].as_array().unwrap().len()), (&json!(4100), 3));
    assert_eq!(count(&pool, "vlaapi.customer_consent_audit where change_reason is not null").await, 0);
}

#[tokio::test]
async fn a_field_goes_when_it_has_its_age_and_no_other_does() {
    let service = Service::start().await;
    let mut sealer = service.sealer().await;
    let customer = service.customer().await;
    let old = personal_change(&service, customer).await;
    service.advance(TimeDelta::days(60));
    let young = personal_change(&service, customer).await;
    service.advance(TimeDelta::days(31));
    let mut retention = Retention::new(PersonalField::IpAddress, TimeDelta::days(90));
    assert_eq!(retention.log(&service.store, &service.keys, service.now()).await.unwrap(), 1);
    seal(&mut sealer, service.now()).await;
    assert_eq!(carry_out(&service.store, service.now()).await.unwrap(), 1);
    let pool = service.sql().await;
    assert_eq!(held(&pool, old).await, ["changed_by", "on_behalf_of", "change_reason", "user_agent"]);
    assert_eq!(held(&pool, young).await.len(), 5);
    let told = read(&leaves(&pool).await.last().unwrap().1);
    assert_eq!((&told["event"], told.get("customer_id")), (&json!("pii.erased"), None));
    assert_eq!(told["details"]["legal_basis"], "retention: ip_address is kept for 90 days");

    // Once, by whichever replica; and the next one in its time.
    let mut other = Retention::new(PersonalField::IpAddress, TimeDelta::days(90));
    for retention in [&mut retention, &mut other] {
        assert_eq!(retention.log(&service.store, &service.keys, service.now()).await.unwrap(), 0);
    }
    service.advance(TimeDelta::days(60));
    assert_eq!(retention.log(&service.store, &service.keys, service.now()).await.unwrap(), 1);
    seal(&mut sealer, service.now()).await;
    carry_out(&service.store, service.now()).await.unwrap();
    assert_eq!(held(&pool, young).await.len(), 4);
    change(&service, customer).await;
    service.get(&format!("{}/audit", consent(customer))).send().await.expect(200);
}

#[tokio::test]
async fn without_the_erasers_role_nothing_is_erased_and_the_log_says_what_to_grant() {
    let database = database().await;
    let pool = PgPool::connect_with(database.owner.clone()).await.unwrap();
    let role = format!("service_{}", Uuid::new_v4().simple());
    let statement = |text: &str| sqlx::AssertSqlSafe(text.replace("{role}", &role));
    sqlx::raw_sql(statement("create role {role} login; grant vlaapi_app to {role}"))
        .execute(&pool)
        .await
        .unwrap();
    let data_dir = tempfile::tempdir().unwrap();
    let login = database.owner.clone().username(&role);
    let mut settings = logins(&login, &login);
    settings.push(("CONSENTD_MIGRATE", "false".to_owned()));
    let running = Running::start_with(&settings, data_dir.path()).await;
    running.says(&format!("as a superuser, GRANT vlaapi_eraser TO {role}")).await;
    let customer = running.customer("canary@example.com").await;
    let audit_id = running.change(customer).await;
    let (status, answer) = running.erase(customer).await;
    assert_eq!((status, &answer["status"]), (202, &json!("pending")));
    running.says("must be a member of vlaapi_eraser").await;
    assert_eq!(held(&pool, audit_id).await.len(), 5);
    assert_eq!(
        count(&pool, "vlaapi.customers where email = 'canary@example.com'").await,
        1,
        "all of it or nothing"
    );

    // It is carried out as soon as it can be.
    sqlx::raw_sql(statement("grant vlaapi_eraser to {role}")).execute(&pool).await.unwrap();
    eventually("it is carried out", async || held(&pool, audit_id).await.is_empty()).await;
    running.stop().await;
    let drop = statement("drop owned by {role}; drop role {role}");
    sqlx::raw_sql(drop).execute(&pool).await.unwrap();
}
