//! `consentd audit keygen`: makes and changes the log's keys.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::app::keys::{self, KeyPaths};
use crate::cli::Failure;
use crate::cli::output::line;
use crate::config::DataDir;
use crate::config::audit::AuditKeyFiles;

pub const HELP: &str = "The service makes both keys itself at its first start; replicas beyond the first need copies of them.\n\n\
    To change the signing key: --add makes a second one, and from the next start on both sign. Give auditors the new \
    verifier key (it is printed, and served at /.well-known/consentd-audit.vkey). Then --retire takes the old private \
    key away, and leaves its public half, so that what it has signed stays good. With --writer the same holds for the writer's \
    key, once every entry that the old one vouched for is sealed; it stays in the file, marked as retired.\n\n\
    Examples:\n  \
    consentd audit keygen --output audit.key --name consent.example.com\n  \
    consentd audit keygen --add\n  \
    consentd audit keygen --retire";

#[derive(Args, Debug)]
pub struct KeygenArgs {
    /// Write a new key to this new file [default: the one which the service uses]
    #[arg(long, short, value_name = "FILE", conflicts_with_all = ["add", "retire"])]
    output: Option<PathBuf>,

    /// Add a new key to the file which the service uses, beside the one that is there
    #[arg(long, conflicts_with = "retire")]
    add: bool,

    /// Let the oldest key in that file make nothing new
    #[arg(long)]
    retire: bool,

    /// The writer's key, by which the service vouches for entries, instead of the one that signs the log
    #[arg(long)]
    writer: bool,

    /// The log's name, under which the verifier key is printed
    #[arg(long, env = "CONSENTD_AUDIT_NAME", default_value = "consentd.internal", value_name = "NAME")]
    name: String,

    /// The log's number, likewise
    #[arg(long, default_value_t = 1, value_name = "N")]
    number: u32,

    #[command(flatten)]
    files: AuditKeyFiles,

    #[command(flatten)]
    data_dir: DataDir,
}

pub fn run(args: &KeygenArgs) -> Result<(), Failure> {
    let paths = KeyPaths::new(&args.files, &args.data_dir.path()?);
    let used = if args.writer { &paths.writer } else { &paths.signing };
    let path = args.output.as_ref().unwrap_or(used);
    if args.add || args.retire {
        keys::replace(path, &changed(args, path)?)?;
    } else {
        let text = if args.writer {
            keys::writers_text(&[keys::new_writer_key()?], &[])
        } else {
            keys::signers_text(&[keys::new_signing_key()?], &[])
        };
        keys::write_new(path, &text)?;
    }
    eprintln!(
        "{}: {}",
        path.display(),
        if args.retire { "the oldest key is retired: what it has made stays good" } else { "a new key" }
    );
    if args.writer {
        return Ok(());
    }
    let origin = format!("{}/audit/{}", args.name, args.number);
    for key in keys::signing_keys(path)?.0 {
        let key = key.verifier_key(&origin).map_err(|fault| Failure::new(format!("--name: {fault}")))?;
        line(&key.to_string())?;
    }
    Ok(())
}

/// The file with one key more, or with its oldest one retired.
fn changed(args: &KeygenArgs, path: &Path) -> Result<String, Failure> {
    let alone = || {
        Failure::new(format!(
            "{} holds one key alone: --add another one first, and start the service with both",
            path.display()
        ))
    };
    if args.writer {
        // The newest comes first: the first one writes.
        let (mut writers, mut retired) = keys::writer_keys(path)?;
        if args.add {
            writers.insert(0, keys::new_writer_key()?);
        } else if writers.len() < 2 {
            return Err(alone());
        } else {
            retired.extend(writers.pop());
        }
        return Ok(keys::writers_text(&writers, &retired));
    }
    let (mut signers, mut retired) = keys::signing_keys(path)?;
    if args.add {
        signers.push(keys::new_signing_key()?);
    } else if signers.len() < 2 {
        return Err(alone());
    } else {
        retired.push((&signers.remove(0)).into());
    }
    Ok(keys::signers_text(&signers, &retired))
}
