//! Settings of the audit log.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use reqwest::Url;

use super::{file, http_url};
use crate::domain::PersonalField;
use crate::tlog::VerifierKey;
use crate::tlog::note::Algorithm;

/// Where the log's keys are. The database never sees them.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Audit log")]
pub struct AuditKeyFiles {
    /// The private keys that sign the audit log, in PKCS#8 PEM; all that are in the file sign [default: audit.key in the
    /// data directory, made at the first start]
    #[arg(long, env = "CONSENTD_AUDIT_KEY_FILE", value_parser = file, value_name = "FILE")]
    pub audit_key_file: Option<PathBuf>,

    /// The keys by which the service vouches for entries, one a line; the first one writes [default: audit-writer.key in
    /// the data directory, made at the first start]
    #[arg(long, env = "CONSENTD_AUDIT_WRITER_KEY_FILE", value_parser = file, value_name = "FILE")]
    pub audit_writer_key_file: Option<PathBuf>,
}

/// How the log is kept and published.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Audit log")]
pub struct AuditConfig {
    #[command(flatten)]
    pub keys: AuditKeyFiles,

    /// Under which name the log is known to auditors: its origin is NAME/audit/N. Used when a log is opened, and never
    /// changed after
    #[arg(long, env = "CONSENTD_AUDIT_NAME", default_value = "consentd.internal", value_parser = log_name, value_name = "NAME")]
    pub audit_name: String,

    /// Append every checkpoint to this file, on another disk or machine than the database
    #[arg(long, env = "CONSENTD_AUDIT_CHECKPOINT_FILE", value_name = "FILE")]
    pub audit_checkpoint_file: Option<PathBuf>,

    /// POST checkpoints to this address, at most one a second
    #[arg(long, env = "CONSENTD_AUDIT_CHECKPOINT_WEBHOOK", value_parser = http_url, value_name = "URL")]
    pub audit_checkpoint_webhook: Option<Url>,

    /// Witnesses (C2SP tlog-witness) that cosign checkpoints, as VERIFIER-KEY@URL
    #[arg(
        long = "audit-witness",
        env = "CONSENTD_AUDIT_WITNESSES",
        value_delimiter = ',',
        value_name = "VKEY@URL"
    )]
    pub audit_witnesses: Vec<Witness>,

    /// How often the whole log is verified, in hours; 0: never
    #[arg(long, env = "CONSENTD_AUDIT_VERIFY_INTERVAL", default_value_t = 24, value_name = "HOURS", value_parser = clap::value_parser!(u64).range(0..=8760))]
    pub audit_verify_interval: u64,

    /// Erase personal fields of entries when they reach this age, in days, e.g. `ip_address=90,user_agent=90`
    #[arg(long, env = "CONSENTD_AUDIT_RETENTION", value_delimiter = ',', value_name = "FIELD=DAYS")]
    pub audit_retention: Vec<Retention>,

    /// Write entries without vouching for them and seal nothing: to measure what the log costs, and for nothing else
    #[arg(long, hide = true)]
    pub measure_without_audit_log: bool,
}

impl AuditConfig {
    pub fn verify_interval(&self) -> Option<Duration> {
        (self.audit_verify_interval > 0).then(|| Duration::from_hours(self.audit_verify_interval))
    }
}

/// A name that a key can have, and that does not look like the rest of an origin.
fn log_name(text: &str) -> Result<String, String> {
    let plain = text.chars().all(|char| char.is_ascii_alphanumeric() || ".-:/_".contains(char));
    let whole = !text.is_empty() && text.len() <= 200 && !text.ends_with('/') && !text.contains("/audit/");
    if plain && whole {
        Ok(text.to_owned())
    } else {
        Err("a host name such as consent.example.com is wanted".to_owned())
    }
}

/// Whoever cosigns checkpoints.
#[derive(Clone, Debug)]
pub struct Witness {
    pub key: VerifierKey,
    /// The prefix of its `add-checkpoint`.
    pub url: Url,
}

impl FromStr for Witness {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form =
            "must be VERIFIER-KEY@URL, e.g. witness.example/w1+0f1e2d3c+BAbc…@https://witness.example/w1";
        let (key, url) = text.split_once("@http").ok_or_else(|| form.to_owned())?;
        let key: VerifierKey = key.parse().map_err(|fault| format!("{fault}; {form}"))?;
        if key.algorithm() != Algorithm::Cosignature {
            return Err("a witness has a key for cosignatures (type 4)".to_owned());
        }
        let mut url = http_url(&format!("http{url}")).map_err(|fault| format!("{fault}; {form}"))?;
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        Ok(Self { key, url })
    }
}

/// How long a personal field of an entry is kept.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    pub field: PersonalField,
    pub days: u32,
}

impl FromStr for Retention {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = PersonalField::ALL.map(PersonalField::as_str).join(", ");
        let wanted = || format!("FIELD=DAYS is wanted, with a field of {names} and 1 to 36500 days");
        let (name, days) = text.split_once('=').ok_or_else(wanted)?;
        let field = PersonalField::ALL.into_iter().find(|field| field.as_str() == name.trim());
        let days = days.trim().parse().ok().filter(|days| (1..=36_500).contains(days));
        field.zip(days).map(|(field, days)| Self { field, days }).ok_or_else(wanted)
    }
}
