//! What a settings page does: shows a customer's consent, allows embeddings, and shows what was changed when and by whom.
//!
//!     CONSENTD_URL=http://127.0.0.1:8080 CONSENTD_API_KEY=vla_live_… cargo run --bin dashboard -- CUSTOMER_ID

use std::env;

use consentd_client::apis::configuration::Configuration;
use consentd_client::apis::{Error, audit_api, consent_api};
use consentd_client::models::{ConsentDecision, ConsentStatus, ConsentTier, Problem, Receipted};

/// What a refusal says; anything else is an error of the connection.
fn problem<T>(error: Error<T>) -> Result<Problem, String> {
    match error {
        Error::ResponseError(answer) => serde_json::from_str(&answer.content).map_err(|e| e.to_string()),
        other => Err(other.to_string()),
    }
}

fn tell<T>(error: Error<T>) -> String {
    problem(error).map_or_else(|error| error, |problem| problem.detail)
}

async fn allow_embeddings(api: &Configuration, customer: &str) -> Result<Receipted, String> {
    // Somebody else may decide at the same time: then their decision is read, and this one made anew.
    loop {
        let consent = consent_api::get_consent(api, customer, None, None, None).await.map_err(tell)?;
        println!("version {}: {}, {}", consent.version, consent.consent_tier, consent.status);
        let tier = match consent.consent_tier {
            ConsentTier::Research => ConsentTier::Research,
            _ => ConsentTier::Analytics,
        };
        let active = consent.status == ConsentStatus::Active;
        // A decision replaces the whole consent: what stays is said too.
        let decision = ConsentDecision {
            can_store_images: Some(consent.can_store_images),
            can_store_embeddings: Some(true),
            can_use_for_training: Some(consent.can_use_for_training),
            anonymization_level: Some(Some(consent.anonymization_level)),
            expires_at: Some(consent.expires_at.filter(|_| active)),
            policy_version: Some(consent.policy_version),
            reason: Some(Some("asked for in the settings".to_owned())),
            on_behalf_of: Some(Some("user-17".to_owned())),
            ..ConsentDecision::new(tier)
        };
        let version = format!("\"{}\"", consent.version);
        match consent_api::put_consent(api, customer, decision, Some(&version), None, None).await {
            Ok(changed) => return Ok(changed),
            Err(error) => {
                let problem = problem(error)?;
                if problem.r#type != "/problems/version-moved" {
                    return Err(problem.detail);
                }
            }
        }
    }
}

async fn show_trail(api: &Configuration, customer: &str) -> Result<(), String> {
    let mut cursor: Option<String> = None;
    loop {
        #[rustfmt::skip]
        let page = audit_api::list_customer_audit(
            api, customer, None, None, None, None, None, None, None, None, Some(50), cursor.as_deref(),
        ).await.map_err(tell)?;
        for entry in page.items {
            let by = entry.changed_by.as_deref().unwrap_or("someone");
            println!("{}  {} ({}) by {by}", entry.timestamp, entry.action, entry.new_tier);
        }
        cursor = page.next_cursor;
        if cursor.is_none() {
            return Ok(());
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), String> {
    let api = Configuration {
        base_path: env::var("CONSENTD_URL").unwrap_or_else(|_| "http://127.0.0.1:8080".to_owned()),
        bearer_access_token: env::var("CONSENTD_API_KEY").ok(),
        ..Configuration::default()
    };
    let customer = env::args().nth(1).ok_or("usage: dashboard CUSTOMER_ID")?;
    let consent = allow_embeddings(&api, &customer).await?;
    println!("version {}: {}, embeddings may be kept", consent.version, consent.consent_tier);
    show_trail(&api, &customer).await
}
