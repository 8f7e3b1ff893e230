//! `consentd audit verify`: by every rule, in the database or offline.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::app::keys::{self, KeyPaths};
use crate::app::verification::Outside;
use crate::app::{Database, clock};
use crate::background::Pacer;
use crate::cli::Failure;
use crate::cli::output::{line, notice, printable};
use crate::config::DatabaseConfig;
use crate::config::audit::AuditKeyFiles;
use crate::domain::WriterKey;
use crate::error::StartError;
use crate::store::verification::snapshot;
use crate::tlog::VerifierKey;
use crate::verify::database::Scope;
use crate::verify::outside::{self, OutsideCheckpoint};
use crate::verify::proof_file::{self, Proven};
use crate::verify::{Keys, Report, Rule, Standards, Verdict, database, directory};

pub const HELP: &str = "Without --dir or --proof, the log in the database is verified, and every row that it is about. --dir and --proof \
    need neither database nor service.\n\n\
    Exit codes: 0 clean · 1 tampering: every finding is listed · 2 nothing was found, but no checkpoint from outside was \
    given, and a history that was rewritten as a whole would look the same · 3 it could not run\n\n\
    Examples:\n  \
    consentd audit verify\n  \
    consentd audit verify --checkpoints /mnt/worm/checkpoints --receipts receipts/*\n  \
    consentd audit verify --dir trail/ --key audit.vkey --checkpoints last-year.checkpoint\n  \
    consentd audit verify --proof 4711.tlog-proof --key audit.vkey";

#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// Verify the database (the default)
    #[arg(long, conflicts_with_all = ["dir", "proof"])]
    db: bool,

    /// Verify a copy of the log in this directory (C2SP tlog-tiles)
    #[arg(long, value_name = "DIR", conflicts_with = "proof")]
    dir: Option<PathBuf>,

    /// Verify entries' proofs (C2SP tlog-proof)
    #[arg(long, value_name = "FILE", num_args = 1..)]
    proof: Vec<PathBuf>,

    /// Checkpoints that were kept outside the database: each must be a prefix of the log
    #[arg(long, value_name = "FILE", num_args = 1..)]
    checkpoints: Vec<PathBuf>,

    /// Receipts that were given for entries: each must be in the log
    #[arg(long, value_name = "FILE", num_args = 1..)]
    receipts: Vec<PathBuf>,

    /// Verify what has come since this checkpoint, which was verified then
    #[arg(long, value_name = "FILE")]
    since_checkpoint: Option<PathBuf>,

    /// A verifier key of the log, or a file that holds some [default: those of --audit-key-file]
    #[arg(long, value_name = "VKEY|FILE", num_args = 1..)]
    key: Vec<String>,

    /// Print the report as JSON
    #[arg(long)]
    json: bool,

    /// The file to which the service appends every checkpoint
    #[arg(long, env = "CONSENTD_AUDIT_CHECKPOINT_FILE", value_name = "FILE")]
    audit_checkpoint_file: Option<PathBuf>,

    #[command(flatten)]
    files: AuditKeyFiles,

    #[command(flatten)]
    database: DatabaseConfig,
}

/// It could not run.
const COULD_NOT: u8 = 3;

pub async fn run(args: VerifyArgs) -> Result<(), Failure> {
    let started = Instant::now();
    let verified = verify(&args).await.map_err(|error| Failure::Code(COULD_NOT, error.to_string()))?;
    let verdict = verified.report.verdict();
    let took = started.elapsed();
    if args.json { print_json(&verified, took) } else { print(&verified, took) }?;
    match verdict {
        Verdict::Clean => Ok(()),
        Verdict::Tampering => Err(Failure::Answered),
        Verdict::Incomplete => Err(Failure::Code(2, String::new())),
    }
}

struct Verified {
    report: Report,
    proven: Vec<(String, Proven)>,
}

async fn verify(args: &VerifyArgs) -> Result<Verified, StartError> {
    let mut report = Report::default();
    let mut standards = Standards {
        keys: believed(args)?,
        checkpoints: Vec::new(),
        receipts: Vec::new(),
        since: None,
        now: clock(),
    };
    for file in &args.checkpoints {
        standards.checkpoints.extend(outside::checkpoints(file, &mut report)?);
    }
    for file in &args.receipts {
        standards.receipts.extend(outside::receipts(file, &mut report)?);
    }
    if let Some(file) = &args.since_checkpoint {
        let all = outside::checkpoints(file, &mut report)?;
        standards.since = all.into_iter().max_by_key(|since: &OutsideCheckpoint| since.checkpoint.size);
    }
    let bar = progress();
    let tell = |done: u64, in_all: u64| {
        bar.set_length(in_all);
        bar.set_position(done);
    };
    let mut proven = Vec::new();
    if let Some(dir) = &args.dir {
        report = directory::verify(dir, &standards, report, &tell)?;
    } else if args.proof.is_empty() {
        report = verify_database(args, standards, report, &tell).await?;
    } else {
        for file in &args.proof {
            let name = file.display().to_string();
            let text = read(file)?;
            if let Some(proof) = proof_file::verify(&name, &text, &standards, &mut report) {
                proven.push((name, proof));
            }
        }
    }
    bar.finish_and_clear();
    Ok(Verified { report, proven })
}

async fn verify_database(
    args: &VerifyArgs,
    mut standards: Standards,
    mut report: Report,
    tell: &(dyn Fn(u64, u64) + Sync),
) -> Result<Report, StartError> {
    let data_dir = args.database.data_dir()?;
    let writers: Vec<WriterKey> = {
        let path = KeyPaths::new(&args.files, &data_dir).writer;
        if path.exists() {
            let (writers, retired) = keys::writer_keys(&path)?;
            [writers, retired].concat()
        } else {
            Vec::new()
        }
    };
    if writers.is_empty() {
        report.remark("the writer's key is not here: macs of entries are not checked");
    }
    let (database, live) = Database::open_beside(&args.database, notice).await?;
    // Read before the snapshot is taken: what is remembered by then is in it.
    let own = Outside::of(&data_dir, args.audit_checkpoint_file.as_deref()).read(&mut report).await;
    standards.checkpoints.extend(own);
    standards.now = clock();
    if !live {
        report.remark("the service is not running: how long entries have waited is not looked at");
    }
    let scope = Scope { standards: &standards, writers: &writers, live };
    let failed =
        |error: crate::error::Error| StartError::new(format!("the database cannot be read: {error}"));
    let verified = match snapshot(&database.service).await {
        Ok(mut connection) => {
            database::verify(&mut connection, &scope, report, tell, Pacer::alone()).await.map_err(failed)
        }
        Err(error) => Err(failed(error)),
    };
    database.close().await;
    verified
}

/// The keys that are believed: those which were given, else the service's own.
fn believed(args: &VerifyArgs) -> Result<Keys, StartError> {
    if args.key.is_empty() {
        let path = KeyPaths::new(&args.files, &args.database.data_dir()?).signing;
        if !path.exists() {
            return Err(StartError::new(format!(
                "no key to check signatures by: give the log's verifier key with --key ({} is not there either)",
                path.display()
            )));
        }
        let (signers, retired) = keys::signing_keys(&path)?;
        return Ok(Keys::Own { signers, retired });
    }
    let mut given = Vec::new();
    for key in &args.key {
        let text = if key.contains('+') { key.clone() } else { read(Path::new(key))? };
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let key: VerifierKey = line
                .trim()
                .parse()
                .map_err(|fault| StartError::new(format!("--key {}: {fault}", printable(key))))?;
            given.push(key);
        }
    }
    Ok(Keys::Given(given))
}

fn read(file: &Path) -> Result<String, StartError> {
    let bytes = std::fs::read(file)
        .map_err(|error| StartError::new(format!("cannot read {}: {error}", file.display())))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn progress() -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style =
        ProgressStyle::with_template("{bar:40} {human_pos} of {human_len} leaves, {per_sec}, {eta} left")
            .expect("the template is a constant");
    ProgressBar::new(0).with_style(style)
}

fn print_json(verified: &Verified, took: Duration) -> Result<(), Failure> {
    let proven: Vec<_> = verified
        .proven
        .iter()
        .map(|(file, proven)| {
            let opened: BTreeMap<&str, &str> =
                proven.opened.iter().map(|(field, value)| (field.as_str(), value.as_str())).collect();
            json!({"file": file, "leaf": proven.leaf, "opened": opened})
        })
        .collect();
    let mut report =
        serde_json::to_value(&verified.report).map_err(|error| Failure::new(error.to_string()))?;
    report["verdict"] = verified.report.verdict().as_str().into();
    report["seconds"] = took.as_secs_f64().into();
    if !proven.is_empty() {
        report["proven"] = proven.into();
    }
    line(&report.to_string())
}

fn print(verified: &Verified, took: Duration) -> Result<(), Failure> {
    let report = &verified.report;
    for log in &report.logs {
        line(&format!("{}: {} leaves, root {}", printable(&log.origin), log.tree_size, log.root))?;
    }
    for (file, proven) in &verified.proven {
        line(&format!("{file}: {}", printable(&proven.leaf.to_string())))?;
        for (field, value) in &proven.opened {
            line(&format!("  {}: {}", field.as_str(), printable(value)))?;
        }
    }
    line(&format!(
        "{} leaves read in {:.1} s, {} of them vouched for by the service; {} customers; {} personal fields erased",
        report.leaves,
        took.as_secs_f64(),
        report.vouched_for,
        report.customers,
        report.erased_fields,
    ))?;
    line(&format!(
        "held against {} checkpoints and {} receipts from outside the database",
        report.outside_checkpoints, report.receipts
    ))?;
    for remark in &report.remarks {
        line(&format!("note: {}", printable(remark)))?;
    }
    let mut by_rule: BTreeMap<Rule, Vec<String>> = BTreeMap::new();
    for finding in &report.findings {
        let text = format!("  {}: {}", printable(&finding.place), printable(&finding.what));
        by_rule.entry(finding.rule).or_default().push(text);
    }
    for (rule, findings) in by_rule {
        line(&format!("\n{rule} does not hold: {}", rule.title()))?;
        for finding in findings {
            line(&finding)?;
        }
    }
    match report.verdict() {
        Verdict::Clean => line("clean: nothing was found"),
        Verdict::Tampering => line(&format!("\nTAMPERING: {} findings", report.findings_in_all)),
        Verdict::Incomplete => line(
            "incomplete: nothing was found, but no checkpoint from outside was given (--checkpoints): a history that was \
             rewritten as a whole would look the same",
        ),
    }
}
