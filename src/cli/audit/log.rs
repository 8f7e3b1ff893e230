//! The log itself: copies and proofs of it, a new one, erasures again.

use std::fs;
use std::io::{self, IsTerminal, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::ProgressBar;
use reqwest::Method;
use reqwest::header::ACCEPT;

use crate::app::keys::{self, KeyPaths};
use crate::app::{Database, clock, log};
use crate::cli::Failure;
use crate::cli::client::Client;
use crate::cli::output::{line, notice};
use crate::config::DatabaseConfig;
use crate::config::audit::AuditKeyFiles;
use crate::domain::{Erasure, Leaf, PII_ERASED};
use crate::error::{Error, StartError};
use crate::files::{self, Readers};
use crate::ops::erasure::{DeletionList, Replayed, replay};
use crate::ops::log::{LogKeys, opening};
use crate::outbound::cause;
use crate::store::Store;
use crate::store::consents::Attribution;
use crate::tlog::tile::TileKind;
use crate::tlog::tree::leaf_hash;
use crate::tlog::{Checkpoint, Note, Tile, tile};
use crate::verify::{Keys, Report, Standards, directory};

#[derive(Args, Debug)]
pub struct ProofArgs {
    /// The entry
    #[arg(value_name = "ENTRY", value_parser = clap::value_parser!(i64).range(1..))]
    audit_id: i64,

    /// Write to this file [default: the standard output]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub async fn proof(client: &Client, args: ProofArgs) -> Result<(), Failure> {
    let path = format!("/v1/audit/{}/proof", args.audit_id);
    let text = client.text(client.request(Method::GET, &path).header(ACCEPT, "text/plain")).await?;
    match args.output {
        Some(file) => files::replace(&file, text.as_bytes(), Readers::All)
            .map_err(|error| Failure::new(format!("cannot write {}: {error}", file.display()))),
        None => Ok(io::stdout().lock().write_all(text.as_bytes())?),
    }
}

#[derive(Args, Debug)]
pub struct MirrorArgs {
    /// Where the copy goes
    #[arg(value_name = "DIR")]
    directory: PathBuf,

    /// An older log, by its number [default: the one that is open]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=2_147_483_647))]
    log: Option<u32>,
}

pub async fn mirror(client: &Client, args: MirrorArgs) -> Result<(), Failure> {
    let query: Vec<(&str, u32)> = args.log.iter().map(|log| ("log", *log)).collect();
    let get = async |path: &str| -> Result<Vec<u8>, Failure> {
        let answer = client.send(client.request(Method::GET, path).query(&query)).await?;
        let bytes = answer.bytes().await;
        Ok(bytes.map_err(|error| Failure::new(format!("the answer broke off: {}", cause(error))))?.to_vec())
    };
    let text = get("/v1/audit/log/checkpoint").await?;
    let not_understood = |why: String| Failure::new(format!("the service's checkpoint is not one: {why}"));
    let note = String::from_utf8_lossy(&text).into_owned();
    let note = Note::parse(&note).map_err(|fault| not_understood(fault.to_string()))?;
    let checkpoint = Checkpoint::parse(&note.text).map_err(|fault| not_understood(fault.to_string()))?;
    let tiles: Vec<_> = tile::tiles(checkpoint.size).collect();
    let bar =
        if io::stderr().is_terminal() { ProgressBar::new(tiles.len() as u64) } else { ProgressBar::hidden() };
    for tile in &tiles {
        let path = args.directory.join("tile").join(tile.path());
        // Tiles never change: one that is here is whole, since it was renamed into its place.
        if !path.exists() {
            let bytes = get(&format!("/v1/audit/log/tile/{}", tile.path())).await?;
            // It would never be fetched again.
            if !is_tile(tile, &bytes) {
                return Err(Failure::new(format!("the service's answer is not the tile {}", tile.path())));
            }
            write(&path, &bytes)?;
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    if args.log.is_none() {
        write(&args.directory.join("vkey"), &get("/.well-known/consentd-audit.vkey").await?)?;
    }
    // Last: whoever reads the directory meanwhile has the old checkpoint, and all tiles for it.
    write(&args.directory.join("checkpoint"), &text)?;
    line(&format!("{}: {} leaves of {}", args.directory.display(), checkpoint.size, checkpoint.origin))
}

fn is_tile(tile: &Tile, bytes: &[u8]) -> bool {
    let width = usize::from(tile.width);
    match tile.kind {
        TileKind::Hashes(_) => tile::hashes(bytes).is_ok_and(|hashes| hashes.len() == width),
        TileKind::Entries => {
            let mut entries = tile::entries(bytes);
            entries.by_ref().take(width).flatten().count() == width && entries.next().is_none()
        }
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let whole = || -> io::Result<()> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        files::replace(path, bytes, Readers::All)
    };
    whole().map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))
}

#[derive(Args, Debug)]
pub struct NewLogArgs {
    /// Why the old one cannot go on; it stays in the new log's first leaf, as a personal field
    #[arg(long, value_name = "TEXT")]
    reason: String,

    /// The new log's name [default: the old one's]
    #[arg(long, env = "CONSENTD_AUDIT_NAME", value_name = "NAME")]
    audit_name: Option<String>,

    #[command(flatten)]
    files: AuditKeyFiles,

    #[command(flatten)]
    database: DatabaseConfig,
}

/// Reads the text of `--reason`.
pub(super) fn reason(text: &str) -> Result<String, Failure> {
    let reason = text.trim();
    if reason.is_empty() || reason.contains('\0') || reason.chars().count() > 1000 {
        return Err(Failure::new("--reason is what auditors will read: up to 1000 characters"));
    }
    Ok(reason.to_owned())
}

pub async fn new_log(args: NewLogArgs) -> Result<(), Failure> {
    let by = Attribution {
        changed_by: "system:operator".to_owned(),
        change_reason: Some(reason(&args.reason)?),
        ..Attribution::default()
    };
    let log =
        with_database(&args.database, &args.files, async |store: &Store, keys: &LogKeys, data_dir: &Path| {
            opening::open_next(store, keys, args.audit_name.as_deref(), &log::memory(data_dir), &by, clock())
                .await
        })
        .await?;
    line(&format!("{} is open: running replicas go on with it by themselves", log.origin))?;
    for key in log.verifier_keys {
        line(&key)?;
    }
    Ok(())
}

#[derive(Args, Debug)]
pub struct ReplayArgs {
    /// A copy of the log from before the restore
    #[arg(long, value_name = "DIR")]
    from: PathBuf,

    #[command(flatten)]
    files: AuditKeyFiles,

    #[command(flatten)]
    database: DatabaseConfig,
}

pub async fn replay_erasures(args: ReplayArgs) -> Result<(), Failure> {
    let path = KeyPaths::new(&args.files, &args.database.data_dir()?).signing;
    let (signers, retired) = keys::signing_keys(&path)?;
    let standards = Standards {
        keys: Keys::Own { signers, retired },
        checkpoints: Vec::new(),
        receipts: Vec::new(),
        since: None,
        now: clock(),
    };
    let report = directory::verify(&args.from, &standards, Report::default(), &|_, _| {})?;
    if let Some(finding) = report.findings.first() {
        return Err(Failure::new(format!(
            "the copy in {} does not hold ({} {}: {}), and is no list to erase by: `consentd audit verify --dir` tells more",
            args.from.display(),
            finding.rule,
            finding.place,
            finding.what
        )));
    }
    let list = deletion_list(&args.from)?;
    let by = Attribution {
        changed_by: "system:operator".to_owned(),
        change_reason: Some("erased again after a restore".to_owned()),
        ..Attribution::default()
    };
    let replayed =
        with_database(&args.database, &args.files, async |store: &Store, keys: &LogKeys, _: &Path| {
            replay(store, keys, &list, &by, clock()).await
        })
        .await?;
    line(&format!(
        "{} erasures read, {} had to be made again: they are logged, and carried out by the service within seconds",
        list.erasures.len(),
        replayed
    ))
}

/// The erasures of a copy, and the leaves of what they name.
fn deletion_list(from: &Path) -> Result<DeletionList, Failure> {
    let unreadable =
        |error: &dyn std::fmt::Display| Failure::new(format!("cannot read {}: {error}", from.display()));
    let text = fs::read_to_string(from.join("checkpoint")).map_err(|error| unreadable(&error))?;
    let note = Note::parse(&text).map_err(|fault| unreadable(&fault))?;
    let checkpoint = Checkpoint::parse(&note.text).map_err(|fault| unreadable(&fault))?;
    let mut list = DeletionList::default();
    let bundles = tile::tiles(checkpoint.size).filter(|tile| tile.kind == tile::TileKind::Entries);
    let mut index = 0_u64;
    for bundle in bundles {
        let path = from.join("tile").join(bundle.path());
        let full = from.join("tile").join(tile::Tile { width: 256, ..bundle }.path());
        let bytes = fs::read(&path).or_else(|_| fs::read(full)).map_err(|error| unreadable(&error))?;
        for entry in tile::entries(&bytes).take(usize::from(bundle.width)) {
            let entry = entry.map_err(|fault| unreadable(&fault))?;
            let leaf = Leaf::parse(entry).map_err(|why| unreadable(&why))?;
            if leaf.event == PII_ERASED {
                let details = leaf.details.clone().unwrap_or_default();
                let erasure: Erasure = serde_json::from_value(details).map_err(|error| unreadable(&error))?;
                list.erasures.push(Replayed {
                    origin: format!("{}#{index}", checkpoint.origin),
                    customer_id: leaf.customer_id,
                    erasure,
                });
            }
            list.leaves.insert(leaf.audit_id, (leaf_hash(entry), leaf));
            index += 1;
        }
    }
    Ok(list)
}

/// Does something in the database, with the log's keys, beside a service that may be running.
pub(super) async fn with_database<T>(
    config: &DatabaseConfig,
    files: &AuditKeyFiles,
    work: impl AsyncFnOnce(&Store, &LogKeys, &Path) -> Result<T, Error>,
) -> Result<T, StartError> {
    let data_dir = config.data_dir()?;
    let keys = KeyPaths::new(files, &data_dir).load(false)?;
    let (database, _) = Database::open_beside(config, notice).await?;
    let store = Store::new(&database.service, 2, 2);
    let done = work(&store, &keys, &data_dir).await;
    store.close().await;
    database.close().await;
    done.map_err(|error| StartError::new(error.to_string()))
}
