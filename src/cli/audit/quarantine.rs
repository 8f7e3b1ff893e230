//! `consentd audit quarantine`: entries that are set aside, and the operator's word about them.

use clap::{Args, Subcommand};
use comfy_table::Table;
use serde_json::json;

use super::log::{reason, with_database};
use crate::app::clock;
use crate::cli::Failure;
use crate::cli::output::{line, or_dash, plain, printable, time};
use crate::config::DatabaseConfig;
use crate::config::audit::AuditKeyFiles;
use crate::ops::log::quarantine::resolve;
use crate::store::consents::Attribution;
use crate::store::log::quarantine::{Listed, Quarantined};

#[derive(Args, Debug)]
#[command(disable_help_subcommand = true)]
pub struct QuarantineArgs {
    #[command(subcommand)]
    command: QuarantineCommand,
}

#[derive(Subcommand, Debug)]
enum QuarantineCommand {
    /// List the entries that are set aside
    #[command(after_help = "Examples:\n  \
        consentd audit quarantine list\n  \
        consentd audit quarantine list --all --json")]
    List(Box<ListArgs>),
    /// Record why an entry in quarantine is no finding any more
    #[command(
        after_help = "The entry stays where it is. The reason becomes an event of the log, signed for by the service's \
        key; verification accepts the entry once the event is sealed.\n\n\
        Example:\n  \
        consentd audit quarantine resolve 4711 --reason \"inserted by the import of 3 June, see ticket 812\""
    )]
    Resolve(Box<ResolveArgs>),
}

#[derive(Args, Debug)]
struct ListArgs {
    /// Also list the entries that are resolved
    #[arg(long)]
    all: bool,

    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    files: AuditKeyFiles,

    #[command(flatten)]
    database: DatabaseConfig,
}

#[derive(Args, Debug)]
struct ResolveArgs {
    /// The entry
    #[arg(value_name = "ENTRY", value_parser = clap::value_parser!(i64).range(1..))]
    audit_id: i64,

    /// Why it is no finding any more; it stays in the log, as a personal field
    #[arg(long, value_name = "TEXT")]
    reason: String,

    #[command(flatten)]
    files: AuditKeyFiles,

    #[command(flatten)]
    database: DatabaseConfig,
}

pub async fn run(args: QuarantineArgs) -> Result<(), Failure> {
    match args.command {
        QuarantineCommand::List(args) => list(*args).await,
        QuarantineCommand::Resolve(args) => resolve_one(*args).await,
    }
}

async fn list(args: ListArgs) -> Result<(), Failure> {
    let listed = if args.all { Listed::All } else { Listed::Unresolved };
    let entries =
        with_database(&args.database, &args.files, async |store, _, _| store.quarantined(listed, None).await)
            .await?;
    if args.json {
        let entries: Vec<_> = entries.iter().map(json).collect();
        return line(&json!({ "items": entries }).to_string());
    }
    let mut table = Table::new();
    table.set_header(["ENTRY", "FOUND", "CUSTOMER", "VERSION", "RESOLVED BY", "REASON"]);
    for entry in entries {
        table.add_row([
            entry.audit_id.to_string(),
            time(entry.found_at),
            or_dash(entry.foreign.map(|foreign| foreign.customer_id)),
            or_dash(entry.foreign.map(|foreign| foreign.version)),
            or_dash(entry.resolved_by),
            printable(&entry.reason),
        ]);
    }
    line(&plain(table))
}

fn json(entry: &Quarantined) -> serde_json::Value {
    json!({
        "audit_id": entry.audit_id,
        "found_at": time(entry.found_at),
        "reason": entry.reason,
        "customer_id": entry.foreign.map(|foreign| foreign.customer_id),
        "version": entry.foreign.map(|foreign| foreign.version),
        "resolved_by": entry.resolved_by,
        "resolved_at": entry.resolved_at.map(time),
    })
}

async fn resolve_one(args: ResolveArgs) -> Result<(), Failure> {
    let by = Attribution {
        changed_by: "system:operator".to_owned(),
        change_reason: Some(reason(&args.reason)?),
        ..Attribution::default()
    };
    let event = with_database(&args.database, &args.files, async |store, keys, _| {
        resolve(store, keys, args.audit_id, &by, clock()).await
    })
    .await?;
    line(&format!(
        "entry {} is resolved by event {event}: verification accepts it once the service has sealed the event",
        args.audit_id
    ))
}
