//! `consentd audit list` and `export`: the audit trail of a running service.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum};
use ipnetwork::IpNetwork;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Method, Response};
use serde::Serialize;
use uuid::Uuid;

use crate::cli::client::Client;
use crate::cli::output::{self, Output, or_dash, time};
use crate::cli::{Failure, instant, one_of};
use crate::domain::{AuditAction, AuditEntry, ConsentTier};
use crate::files::{Draft, Readers};
use crate::outbound::cause;

#[derive(Args, Debug)]
pub struct ListArgs {
    #[command(flatten)]
    filters: Box<Filters>,
    /// How many to list at most
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    #[command(flatten)]
    output: Output,
}

#[derive(Args, Debug)]
pub struct ExportArgs {
    #[command(flatten)]
    filters: Box<Filters>,
    /// How the entries are written [default: as the ending of FILE says, else csv]
    #[arg(long, value_name = "FORMAT", help_heading = "Output")]
    format: Option<Format>,
    /// Write to this file [default: the standard output]
    #[arg(long, short, value_name = "FILE", help_heading = "Output")]
    output: Option<PathBuf>,
}

#[derive(Args, Debug, Serialize)]
#[command(next_help_heading = "Filters")]
struct Filters {
    /// Of this customer
    #[arg(long = "customer", value_name = "CUSTOMER")]
    #[serde(skip)]
    customer_id: Option<Uuid>,

    /// Changes of this kind
    #[arg(long, value_parser = one_of(&AuditAction::ALL, AuditAction::as_str))]
    action: Option<AuditAction>,

    /// From this instant on: a date (its first moment in UTC) or an RFC 3339 time
    #[arg(long, value_parser = instant, value_name = "TIME")]
    since: Option<DateTime<Utc>>,

    /// Before this instant
    #[arg(long, value_parser = instant, value_name = "TIME")]
    until: Option<DateTime<Utc>>,

    /// Changes from this tier
    #[arg(long, value_name = "TIER", value_parser = one_of(&ConsentTier::ALL, ConsentTier::as_str))]
    previous_tier: Option<ConsentTier>,

    /// Changes to this tier
    #[arg(long, value_name = "TIER", value_parser = one_of(&ConsentTier::ALL, ConsentTier::as_str))]
    new_tier: Option<ConsentTier>,

    /// Changes by this principal, e.g. `key:vla_live_a1b2`, `sql:postgres` or `system:expiry`
    #[arg(long, value_name = "WHO")]
    changed_by: Option<String>,

    /// Changes that came from this address, or from an address of this CIDR range
    #[arg(long = "ip", value_name = "CIDR")]
    ip_address: Option<IpNetwork>,

    /// The change that this request made
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
}

impl Filters {
    /// A customer's own key reaches its own trail alone, so that a customer is a path here and not a filter.
    fn path(&self) -> String {
        match self.customer_id {
            Some(customer_id) => format!("/v1/customers/{customer_id}/consent/audit"),
            None => "/v1/audit".to_owned(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table for spreadsheets
    Csv,
    /// One JSON object a line
    Ndjson,
}

impl Format {
    fn media_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv",
            Self::Ndjson => "application/x-ndjson",
        }
    }

    fn of(file: Option<&Path>) -> Self {
        match file.and_then(Path::extension).and_then(|ending| ending.to_str()) {
            Some("ndjson" | "jsonl") => Self::Ndjson,
            _ => Self::Csv,
        }
    }
}

pub async fn list(client: &Client, args: ListArgs) -> Result<(), Failure> {
    let page = client.list(&args.filters.path(), &args.filters, args.limit).await?;
    args.output.list(
        &page,
        ["ENTRY", "TIME", "ACTION", "CUSTOMER", "VERSION", "FROM", "TO", "CHANGED BY", "ADDRESS", "REASON"],
        || Ok(page.parse()?.into_iter().map(row).collect()),
    )
}

pub async fn export(client: &Client, args: ExportArgs) -> Result<(), Failure> {
    let file = args.output.as_deref().filter(|file| *file != Path::new("-"));
    let format = args.format.unwrap_or_else(|| Format::of(file));
    let answer = request_export(client, &args.filters, format).await?;
    match file {
        Some(file) => export_to_file(answer, format, file).await,
        None => copy(answer, format, &mut io::stdout()).await.map(|_| ()),
    }
}

fn row(entry: AuditEntry) -> [String; 10] {
    [
        entry.audit_id.to_string(),
        time(entry.timestamp),
        action(&entry),
        entry.customer_id.to_string(),
        entry.version.to_string(),
        or_dash(entry.previous_tier.map(ConsentTier::as_str)),
        entry.new_tier.as_str().to_owned(),
        or_dash(entry.changed_by),
        or_dash(entry.ip_address.map(|network| network.ip())),
        or_dash(entry.change_reason),
    ]
}

/// The action, and what keeps it from being taken as it is.
fn action(entry: &AuditEntry) -> String {
    let remarks = [(entry.foreign, " (never took effect)"), (!entry.unreadable.is_empty(), " (unreadable)")];
    let remarks = remarks.into_iter().filter_map(|(holds, remark)| holds.then_some(remark));
    remarks.fold(entry.action.as_str().to_owned(), |text, remark| text + remark)
}

async fn request_export(client: &Client, filters: &Filters, format: Format) -> Result<Response, Failure> {
    let request =
        client.request(Method::GET, &filters.path()).query(filters).header(ACCEPT, format.media_type());
    let answer = client.send(request).await?;
    let media_type =
        answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if media_type.starts_with(format.media_type()) {
        Ok(answer)
    } else {
        Err(Failure::new(format!(
            "the service answered \"{}\" where {} was asked for",
            output::printable(media_type),
            format.media_type()
        )))
    }
}

/// A file with the name that was asked for is always a whole export.
async fn export_to_file(answer: Response, format: Format, file: &Path) -> Result<(), Failure> {
    let unwritable = |error: io::Error| Failure::new(format!("cannot write {}: {error}", file.display()));
    // It holds names and addresses: for its owner's eyes.
    let mut draft = Draft::beside(file, Readers::Owner).map_err(unwritable)?;
    let copied = tokio::select! {
        copied = copy(answer, format, &mut draft) => copied,
        _ = tokio::signal::ctrl_c() => Err(Failure::new("interrupted: nothing was kept")),
    };
    let bytes = copied.map_err(|failure| match failure {
        Failure::Output(error) => unwritable(error),
        failure => failure,
    })?;
    draft.keep().map_err(unwritable)?;
    eprintln!("{}: {bytes} bytes", file.display());
    Ok(())
}

/// Copies the export as it comes, and makes sure that its end came too.
async fn copy(mut answer: Response, format: Format, target: &mut impl Write) -> Result<u64, Failure> {
    let mut bytes = 0;
    let mut last = None;
    loop {
        match answer.chunk().await {
            Ok(Some(chunk)) => {
                target.write_all(&chunk)?;
                bytes += chunk.len() as u64;
                last = chunk.last().copied().or(last);
            }
            Ok(None) => break,
            Err(error) => return Err(broken_off(bytes, &cause(error))),
        }
    }
    target.flush()?;
    // Both formats end each line, and CSV has a header even where there is no entry.
    match (last, format) {
        (Some(b'\n'), _) | (None, Format::Ndjson) => Ok(bytes),
        _ => Err(broken_off(bytes, "its last line has no end")),
    }
}

fn broken_off(bytes: u64, why: &str) -> Failure {
    Failure::new(format!("the export broke off after {bytes} bytes and is not complete: {why}"))
}
