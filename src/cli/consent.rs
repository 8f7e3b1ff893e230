//! `consentd consent …`: see, record and withdraw consents at a running service.

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use reqwest::header::{IF_MATCH, IF_NONE_MATCH};
use reqwest::{Method, RequestBuilder};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::client::{Client, parse};
use super::output::{Output, or_dash, time_or_dash, yes_or_no};
use super::{Failure, instant, one_of};
use crate::config::ClientConfig;
use crate::domain::{
    AnonymizationLevel, ConsentTier, ConsentView, Permission, PermissionCheck, Permissions, Reason,
};

#[derive(Args, Debug)]
#[command(disable_help_subcommand = true)]
pub struct ConsentArgs {
    #[command(subcommand)]
    command: ConsentCommand,

    #[command(flatten)]
    client: ClientConfig,
}

#[derive(Subcommand, Debug)]
enum ConsentCommand {
    /// Show a customer's consent, as it is or as it was
    #[command(after_help = "Examples:\n  \
        consentd consent get CUSTOMER\n  \
        consentd consent get CUSTOMER --as-of 2026-01-15T10:30:00Z --json")]
    Get {
        #[command(flatten)]
        customer: CustomerId,
        /// As it stood at this instant: a date (its first moment in UTC) or an RFC 3339 time [default: now]
        #[arg(long, value_parser = instant, value_name = "TIME")]
        as_of: Option<DateTime<Utc>>,
        #[command(flatten)]
        output: Output,
    },
    /// Record a customer's decision; it replaces the whole consent
    #[command(
        long_about = "Record a customer's decision. It replaces the whole consent: what is left out falls back to \
                      the most private value. The same decision again changes nothing.",
        after_help = "Examples:\n  \
            consentd consent set CUSTOMER --tier analytics --embeddings\n  \
            consentd consent set CUSTOMER --tier research --images --embeddings --training \\\n    \
            --anonymization partial --expires-at 2027-01-01 --policy-version 2026-01 --reason 'signed form'\n  \
            consentd consent set CUSTOMER --tier basic --if-version 3"
    )]
    Set {
        #[command(flatten)]
        customer: CustomerId,
        #[command(flatten)]
        decision: Box<Decision>,
        #[command(flatten)]
        precondition: IfVersion,
        #[command(flatten)]
        output: Output,
    },
    /// Withdraw everything
    #[command(after_help = "Examples:\n  \
        consentd consent withdraw CUSTOMER\n  \
        consentd consent withdraw CUSTOMER --reason 'asked by telephone'")]
    Withdraw {
        #[command(flatten)]
        customer: CustomerId,
        /// Why, for the audit trail (at most 1000 characters)
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        #[command(flatten)]
        precondition: IfVersion,
        #[command(flatten)]
        output: Output,
    },
    /// Ask what a customer's consent permits now
    #[command(after_help = "Examples:\n  \
        consentd consent check CUSTOMER\n  \
        consentd consent check CUSTOMER images\n  \
        consentd consent check CUSTOMER training --exit-status > /dev/null && train")]
    Check {
        #[command(flatten)]
        customer: CustomerId,
        /// The one permission to ask for [default: all]
        #[arg(value_parser = one_of(&Permission::ALL, Permission::as_str))]
        permission: Option<Permission>,
        /// Exit with 1 unless it is allowed (an error is 1 too: in doubt, no)
        #[arg(long, short = 'e', requires = "permission")]
        exit_status: bool,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Args, Debug)]
struct CustomerId {
    /// The customer's id
    #[arg(value_name = "CUSTOMER")]
    customer_id: Uuid,
}

impl CustomerId {
    fn path(&self) -> String {
        format!("/v1/customers/{}/consent", self.customer_id)
    }
}

#[derive(Args, Debug, Serialize)]
#[command(next_help_heading = "Decision")]
struct Decision {
    /// How much is allowed in general
    #[arg(long = "tier", value_name = "TIER", value_parser = one_of(&ConsentTier::ALL, ConsentTier::as_str))]
    consent_tier: ConsentTier,

    /// Camera images may be kept (tier research)
    #[arg(long = "images")]
    can_store_images: bool,

    /// Embeddings may be kept (tiers analytics and research)
    #[arg(long = "embeddings")]
    can_store_embeddings: bool,

    /// What is kept may be used to train models (tier research)
    #[arg(long = "training")]
    can_use_for_training: bool,

    /// How far what is kept must be anonymised
    #[arg(
        long = "anonymization",
        value_name = "LEVEL",
        default_value = "full",
        value_parser = one_of(&AnonymizationLevel::ALL, AnonymizationLevel::as_str)
    )]
    anonymization_level: AnonymizationLevel,

    /// When the consent ends by itself: a date or an RFC 3339 time, at most 10 years ahead [default: never]
    #[arg(long, value_parser = instant, value_name = "TIME")]
    expires_at: Option<DateTime<Utc>>,

    /// The version of the policy text that the customer decided on (at most 64 characters)
    #[arg(long, value_name = "VERSION")]
    #[serde(skip_serializing_if = "Option::is_none")]
    policy_version: Option<String>,

    /// Why, for the audit trail (at most 1000 characters)
    #[arg(long, value_name = "TEXT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,

    /// The person who is served, for the audit trail (at most 255 characters)
    #[arg(long, value_name = "WHO")]
    #[serde(skip_serializing_if = "Option::is_none")]
    on_behalf_of: Option<String>,
}

#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Precondition")]
struct IfVersion {
    /// Only if the consent is still at this version; 0: only if none was ever given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=2_147_483_647))]
    if_version: Option<u32>,
}

impl IfVersion {
    fn apply(self, request: RequestBuilder) -> RequestBuilder {
        match self.if_version {
            None => request,
            Some(0) => request.header(IF_NONE_MATCH, "*"),
            Some(version) => request.header(IF_MATCH, format!("\"{version}\"")),
        }
    }
}

#[derive(Serialize)]
struct Look {
    as_of: Option<DateTime<Utc>>,
}

#[derive(Serialize)]
struct Withdrawal {
    reason: Option<String>,
}

/// What the API answers when it is asked for all permissions.
#[derive(Deserialize)]
struct AllPermissions {
    customer_id: Uuid,
    permissions: Permissions,
    reason: Reason,
    version: i32,
    valid_until: Option<DateTime<Utc>>,
}

pub async fn run(args: ConsentArgs) -> Result<(), Failure> {
    let client = Client::new(&args.client)?;
    match args.command {
        ConsentCommand::Get { customer, as_of, output } => {
            let request = client.request(Method::GET, &customer.path()).query(&Look { as_of });
            show(&client.text(request).await?, output)
        }
        ConsentCommand::Set { customer, decision, precondition, output } => {
            let request = client.request(Method::PUT, &customer.path()).json(&decision);
            show(&client.text(precondition.apply(request)).await?, output)
        }
        ConsentCommand::Withdraw { customer, reason, precondition, output } => {
            let request = client.request(Method::DELETE, &customer.path()).query(&Withdrawal { reason });
            show(&client.text(precondition.apply(request)).await?, output)
        }
        ConsentCommand::Check { customer, permission, exit_status, output } => {
            let request = client.request(Method::GET, &format!("{}/permissions", customer.path()));
            let Some(permission) = permission else {
                return show_all(&client.text(request).await?, output);
            };
            let json = client.text(request.query(&[("check", permission.as_str())])).await?;
            show_check(&json, output)?;
            if exit_status && !allows(&parse(&json)?) {
                return Err(Failure::Answered);
            }
            Ok(())
        }
    }
}

fn show(json: &str, output: Output) -> Result<(), Failure> {
    output.record(json, || {
        let ConsentView { record, status } = parse(json)?;
        Ok([
            ("customer", record.customer_id.to_string()),
            ("status", status.as_str().to_owned()),
            ("tier", record.consent_tier.as_str().to_owned()),
            ("images", yes_or_no(record.can_store_images)),
            ("embeddings", yes_or_no(record.can_store_embeddings)),
            ("training", yes_or_no(record.can_use_for_training)),
            ("anonymization", record.anonymization_level.as_str().to_owned()),
            ("policy version", or_dash(record.policy_version)),
            ("granted", time_or_dash(record.consent_granted_at)),
            ("updated", time_or_dash(record.consent_updated_at)),
            ("expires", time_or_dash(record.expires_at)),
            ("version", record.version.to_string()),
            ("audit entry", or_dash(record.audit_id)),
        ])
    })
}

fn show_all(json: &str, output: Output) -> Result<(), Failure> {
    output.record(json, || {
        let all: AllPermissions = parse(json)?;
        let level = all.permissions.anonymization_level;
        Ok([
            ("customer", all.customer_id.to_string()),
            ("images", yes_or_no(all.permissions.can_store_images)),
            ("embeddings", yes_or_no(all.permissions.can_store_embeddings)),
            ("training", yes_or_no(all.permissions.can_use_for_training)),
            ("anonymization", level.as_str().to_owned()),
            ("reason", all.reason.as_str().to_owned()),
            ("version", all.version.to_string()),
            ("valid until", time_or_dash(all.valid_until)),
        ])
    })
}

fn show_check(json: &str, output: Output) -> Result<(), Failure> {
    output.record(json, || {
        let (answer, reason, version, valid_until) = match parse(json)? {
            PermissionCheck::Storage(check) => {
                (("allowed", yes_or_no(check.allowed)), check.reason, check.version, check.valid_until)
            }
            PermissionCheck::Anonymization(check) => {
                (("level", check.level.as_str().to_owned()), check.reason, check.version, check.valid_until)
            }
        };
        Ok([
            answer,
            ("reason", reason.as_str().to_owned()),
            ("version", version.to_string()),
            ("valid until", time_or_dash(valid_until)),
        ])
    })
}

fn allows(check: &PermissionCheck) -> bool {
    match check {
        PermissionCheck::Storage(check) => check.allowed,
        PermissionCheck::Anonymization(check) => check.reason == Reason::Granted,
    }
}
