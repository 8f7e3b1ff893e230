//! The story that every client is checked by, told with openapi-generator's Rust client.

use std::env;
use std::error::Error as Failure;

use consentd_client::apis::configuration::Configuration;
use consentd_client::apis::{Error, audit_api, consent_api, customers_api, permissions_api};
use consentd_client::models::{
    ConsentDecision, ConsentStatus, ConsentTier, CustomerInput, CustomerTier, Permission, PermissionCheck,
    PermissionsOrCheck, Problem, Reason,
};
use uuid::Uuid;

/// A refusal, as a type. `entity` of a refusal has it too, under the name of any status that it fits.
fn problem<T>(refusal: Error<T>) -> Problem {
    match refusal {
        Error::ResponseError(answer) => serde_json::from_str(&answer.content).expect("a problem document"),
        Error::Reqwest(error) => panic!("{error}"),
        Error::Serde(error) => panic!("{error}"),
        Error::Io(error) => panic!("{error}"),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Failure>> {
    let api = Configuration {
        base_path: env::var("CONSENTD_URL")?,
        bearer_access_token: Some(env::var("CONSENTD_API_KEY")?),
        ..Configuration::default()
    };

    // A request that is sent again makes one customer.
    let newcomer = CustomerInput::new(format!("{}@example.com", Uuid::new_v4()), CustomerTier::Pro);
    let once = Uuid::new_v4().to_string();
    let created = customers_api::create_customer(&api, newcomer.clone(), Some(&once)).await?;
    let again = customers_api::create_customer(&api, newcomer, Some(&once)).await?;
    assert_eq!(again.customer_id, created.customer_id);
    let customer = created.customer_id.to_string();

    // Put.
    let analytics = ConsentDecision {
        can_store_embeddings: Some(true),
        reason: Some(Some("asked for in the settings".to_owned())),
        ..ConsentDecision::new(ConsentTier::Analytics)
    };
    let given = consent_api::put_consent(&api, &customer, analytics, None, Some("*"), None).await?;
    assert_eq!(given.version, 1);

    // Get.
    let read = consent_api::get_consent(&api, &customer, None, None, None).await?;
    assert_eq!(read.status, ConsentStatus::Active);
    assert!(read.can_store_embeddings && !read.can_store_images);
    assert_eq!(read.expires_at, None);
    // The client does not show the ETag: it is the version, in quotes.
    let version = format!("\"{}\"", read.version);

    // Change that version, and then fail to change it once more: 412.
    let put = async |tier| {
        let decision = ConsentDecision::new(tier);
        consent_api::put_consent(&api, &customer, decision, Some(&version), None, None).await
    };
    assert_eq!(put(ConsentTier::Basic).await?.version, 2);
    let stale = problem(put(ConsentTier::Analytics).await.expect_err("the version has moved"));
    assert_eq!((stale.status, stale.r#type.as_str()), (412, "/problems/version-moved"));

    // Two pages of the trail, newest first.
    let mut actions = Vec::new();
    let mut pages = 0;
    let mut cursor: Option<String> = None;
    while pages == 0 || cursor.is_some() {
        let page = audit_api::list_customer_audit(
            &api,
            &customer,
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            None,
            Some(1),
            cursor.as_deref(),
        )
        .await?;
        pages += 1;
        for entry in page.items {
            let tier = entry.current.expect("what the change made").consent_tier;
            actions.push(format!("{}: {tier}", entry.action));
        }
        cursor = page.next_cursor;
    }
    assert_eq!(pages, 2);
    assert_eq!(actions, ["updated: basic", "granted: analytics"]);

    // What a check answers, its variant tells.
    let answer =
        permissions_api::get_permissions(&api, &customer, Some(Permission::Embeddings), Some(2)).await?;
    let PermissionsOrCheck::PermissionCheck(check) = answer else {
        panic!("one permission was asked for: {answer:?}");
    };
    let PermissionCheck::StorageCheck(check) = *check else {
        panic!("embeddings are stored: {check:?}");
    };
    assert!(!check.allowed);
    assert_eq!(check.reason, Reason::NotGranted);

    // Withdraw.
    let withdrawn = consent_api::withdraw_consent(&api, &customer, None, None, Some("\"2\""), None).await?;
    assert_eq!((withdrawn.status, withdrawn.version), (ConsentStatus::Withdrawn, 3));

    // A problem as a type: every fault with its place and its rule.
    let images = ConsentDecision { can_store_images: Some(true), ..ConsentDecision::new(ConsentTier::Basic) };
    let refused = consent_api::put_consent(&api, &customer, images, None, None, None).await;
    let invalid = problem(refused.expect_err("its tier does not allow that"));
    assert_eq!((invalid.status, invalid.r#type.as_str()), (422, "/problems/invalid-body"));
    let faults = invalid.errors.unwrap_or_default();
    let [fault] = faults.as_slice() else { panic!("one thing is wrong: {faults:?}") };
    assert_eq!(fault.pointer.as_deref(), Some("/can_store_images"));
    assert_eq!(fault.code, "not_allowed_by_tier");

    println!("openapi-generator (Rust): the story holds");
    Ok(())
}
