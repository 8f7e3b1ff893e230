//! `consentd audit …`: the audit trail, and the log that proves it.

mod keys;
mod log;
mod quarantine;
mod trail;
mod verify;

use clap::{Args, Subcommand};

use super::Failure;
use super::client::Client;
use crate::config::ClientConfig;

#[derive(Args, Debug)]
#[command(disable_help_subcommand = true)]
pub struct AuditArgs {
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Subcommand, Debug)]
enum AuditCommand {
    /// List entries, newest first
    #[command(after_help = "Examples:\n  \
        consentd audit list --customer CUSTOMER\n  \
        consentd audit list --since 2026-01-01 --until 2026-02-01 --action withdrawn --limit 1000\n  \
        consentd audit list --changed-by key:vla_live_a1b2 --ip 203.0.113.0/24 --json")]
    List {
        #[command(flatten)]
        list: trail::ListArgs,
        #[command(flatten)]
        client: ClientConfig,
    },
    /// Export all entries, however many, newest first
    #[command(after_help = "Examples:\n  \
        consentd audit export --output trail.csv\n  \
        consentd audit export --customer CUSTOMER --format ndjson | jq -r .action | sort | uniq -c\n\n\
        FILE is made only when the export is whole: until then a hidden file beside it, .FILE.*.part, holds it, and a \
        failed export leaves neither.")]
    Export {
        #[command(flatten)]
        export: trail::ExportArgs,
        #[command(flatten)]
        client: ClientConfig,
    },
    /// Check that nobody changed, removed, added or reordered anything
    #[command(after_help = verify::HELP)]
    Verify(Box<verify::VerifyArgs>),
    /// Fetch an entry's proof, which anybody can check offline
    #[command(after_help = "Example:\n  \
        consentd audit proof 4711 --output 4711.tlog-proof\n  \
        consentd audit verify --proof 4711.tlog-proof --key audit.vkey")]
    Proof {
        #[command(flatten)]
        proof: log::ProofArgs,
        #[command(flatten)]
        client: ClientConfig,
    },
    /// Copy the log into a directory, for an auditor; what is there already is not fetched again
    #[command(after_help = "Example:\n  \
        consentd audit mirror trail/\n  \
        consentd audit verify --dir trail/ --key audit.vkey --checkpoints last-year.checkpoint")]
    Mirror {
        #[command(flatten)]
        mirror: log::MirrorArgs,
        #[command(flatten)]
        client: ClientConfig,
    },
    /// Make a key for the log, or change keys
    #[command(after_help = keys::HELP)]
    Keygen(keys::KeygenArgs),
    /// Close a log that cannot go on, and open the next one
    #[command(
        after_help = "After a backup was restored, the database shows less than was published: the log is forked, and \
        nothing is sealed. The new log's first leaf names the last checkpoint of the old one, and says why.\n\n\
        Example:\n  \
        consentd audit new-log --reason \"restored the backup of 3 June after a disk failure\""
    )]
    NewLog(Box<log::NewLogArgs>),
    /// List entries that are set aside, and resolve them
    Quarantine(quarantine::QuarantineArgs),
    /// Erase again what a restored backup has brought back
    #[command(
        after_help = "DIR is a copy of the log from before the restore, which `consentd audit mirror` makes. Only entries \
        that are the very same as then are touched.\n\n\
        Example:\n  \
        consentd audit replay-erasures --from trail/"
    )]
    ReplayErasures(Box<log::ReplayArgs>),
}

pub async fn run(args: AuditArgs) -> Result<(), Failure> {
    match args.command {
        AuditCommand::List { list, client } => trail::list(&Client::new(&client)?, list).await,
        AuditCommand::Export { export, client } => trail::export(&Client::new(&client)?, export).await,
        AuditCommand::Verify(args) => verify::run(*args).await,
        AuditCommand::Proof { proof, client } => log::proof(&Client::new(&client)?, proof).await,
        AuditCommand::Mirror { mirror, client } => log::mirror(&Client::new(&client)?, mirror).await,
        AuditCommand::Keygen(args) => keys::run(&args),
        AuditCommand::NewLog(args) => log::new_log(*args).await,
        AuditCommand::Quarantine(args) => quarantine::run(args).await,
        AuditCommand::ReplayErasures(args) => log::replay_erasures(*args).await,
    }
}
