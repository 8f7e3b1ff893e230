//! `consentd key …`: the API keys of a running service.

use chrono::{DateTime, Utc};
use clap::builder::BoolishValueParser;
use clap::{Args, Subcommand};
use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::client::{Client, parse};
use super::output::{Output, line, or_dash, time_or_dash, yes_or_no};
use super::{Failure, instant, one_of};
use crate::config::ClientConfig;
use crate::domain::{ApiKeyRecord, Scope};

#[derive(Args, Debug)]
#[command(disable_help_subcommand = true)]
pub struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,

    #[command(flatten)]
    client: ClientConfig,
}

#[derive(Subcommand, Debug)]
enum KeyCommand {
    /// Issue a key; the whole key is shown this once and never again
    #[command(after_help = "Examples:\n  \
        consentd key create --name dashboard --scope consent:read --scope consent:write\n  \
        consentd key create --name robot-7 --customer CUSTOMER --scope inference --expires-at 2027-01-01\n  \
        consentd key create --name auditor --scope audit:read --json | jq -r .api_key > auditor.key")]
    Create {
        #[command(flatten)]
        key: NewKey,
        #[command(flatten)]
        output: Output,
    },
    /// List the keys, without their secrets
    List {
        #[command(flatten)]
        filters: KeyFilters,
        /// How many to list at most
        #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
        #[command(flatten)]
        output: Output,
    },
    /// Revoke a key, at once and for ever
    Revoke {
        /// The key's id, as `key list` shows it
        #[arg(value_name = "KEY_ID")]
        key_id: Uuid,
    },
    /// Give a key a new secret; the whole key is shown this once and never again
    #[command(after_help = "Examples:\n  \
        consentd key rotate KEY_ID\n  \
        consentd key rotate KEY_ID --overlap 86400    # the old secret is good for one more day")]
    Rotate {
        /// The key's id, as `key list` shows it
        #[arg(value_name = "KEY_ID")]
        key_id: Uuid,
        /// How long the old secret is good beside the new one, at most 7 days [default: 1 hour]
        #[arg(long, value_name = "SECONDS")]
        overlap: Option<u32>,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Args, Debug, Serialize)]
struct NewKey {
    /// What the key is for, to tell it from others
    #[arg(long = "name", value_name = "NAME")]
    key_name: String,

    /// What the key may do; may be given several times
    #[arg(
        long = "scope",
        value_name = "SCOPE",
        required = true,
        value_delimiter = ',',
        value_parser = one_of(&Scope::ALL, Scope::as_str)
    )]
    scopes: Vec<Scope>,

    /// The customer whom the key reaches, and no other [default: an operator's key, which reaches all]
    #[arg(long = "customer", value_name = "CUSTOMER")]
    customer_id: Option<Uuid>,

    /// When the key ends by itself: a date or an RFC 3339 time [default: never]
    #[arg(long, value_parser = instant, value_name = "TIME")]
    expires_at: Option<DateTime<Utc>>,
}

#[derive(Args, Debug, Serialize)]
#[command(next_help_heading = "Filters")]
struct KeyFilters {
    /// The keys of this customer alone
    #[arg(long = "customer", value_name = "CUSTOMER")]
    customer_id: Option<Uuid>,

    /// Those which are active, or those which were revoked
    #[arg(long, value_parser = BoolishValueParser::new(), value_name = "BOOL")]
    is_active: Option<bool>,
}

#[derive(Serialize)]
struct Rotation {
    #[serde(skip_serializing_if = "Option::is_none")]
    overlap_seconds: Option<u32>,
}

/// A key in the one answer that tells all of it.
#[derive(Deserialize)]
struct IssuedKey {
    api_key: String,
    #[serde(flatten)]
    record: ApiKeyRecord,
    /// Only where it takes the place of another.
    previous_key_valid_until: Option<DateTime<Utc>>,
}

pub async fn run(args: KeyArgs) -> Result<(), Failure> {
    let client = Client::new(&args.client)?;
    match args.command {
        KeyCommand::Create { key, output } => {
            let request = client.request(Method::POST, "/v1/api-keys").json(&key);
            issued(&client.text(request).await?, output)
        }
        KeyCommand::List { filters, limit, output } => {
            let page = client.list("/v1/api-keys", &filters, limit).await?;
            output.list(
                &page,
                ["KEY_ID", "PREFIX", "NAME", "CUSTOMER", "SCOPES", "ACTIVE", "EXPIRES", "LAST USED"],
                || Ok(page.parse()?.into_iter().map(row).collect()),
            )
        }
        KeyCommand::Revoke { key_id } => {
            let request = client.request(Method::DELETE, &format!("/v1/api-keys/{key_id}"));
            let status = client.send(request).await?.status();
            if status != StatusCode::NO_CONTENT {
                return Err(Failure::new(format!(
                    "the service answered {status}, and does not say that the key is revoked"
                )));
            }
            line(&format!("{key_id} is revoked"))
        }
        KeyCommand::Rotate { key_id, overlap, output } => {
            let request = client
                .request(Method::POST, &format!("/v1/api-keys/{key_id}/rotate"))
                .json(&Rotation { overlap_seconds: overlap });
            issued(&client.text(request).await?, output)
        }
    }
}

fn row(key: ApiKeyRecord) -> [String; 8] {
    [
        key.key_id.to_string(),
        key.key_prefix,
        or_dash(key.key_name),
        or_dash(key.customer_id),
        key.scopes.join(","),
        yes_or_no(key.is_active),
        time_or_dash(key.expires_at),
        time_or_dash(key.last_used_at),
    ]
}

fn issued(json: &str, output: Output) -> Result<(), Failure> {
    output.record(json, || {
        let key: IssuedKey = parse(json)?;
        Ok([
            ("api key", key.api_key),
            ("key id", key.record.key_id.to_string()),
            ("name", or_dash(key.record.key_name)),
            ("customer", or_dash(key.record.customer_id)),
            ("scopes", key.record.scopes.join(",")),
            ("expires", time_or_dash(key.record.expires_at)),
            ("old key good until", time_or_dash(key.previous_key_valid_until)),
        ])
    })?;
    if !output.is_json() {
        eprintln!("keep the API key now: it is never shown again");
    }
    Ok(())
}
