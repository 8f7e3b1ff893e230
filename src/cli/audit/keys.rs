//! `consentd audit keygen`: makes and changes the log's keys.

use std::path::PathBuf;

use clap::Args;

use crate::app::keys::{self, KeyPaths};
use crate::cli::Failure;
use crate::cli::output::line;
use crate::config::DataDir;
use crate::config::audit::AuditKeyFiles;

pub const HELP: &str = "The service makes both keys itself at its first start; replicas beyond the first need copies of them.\n\n\
    To change the signing key: --add makes a second one, and from the next start on both sign. Give auditors the new \
    verifier key (it is printed, and served at /.well-known/consentd-audit.vkey). Then --retire takes the old one away. \
    With --writer the same holds for the writer's key, once every entry that the old one vouched for is sealed.\n\n\
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

    /// Take the oldest key out of that file
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
    // The newest writer's key comes first: the first one writes. Of the signing keys all sign, oldest first.
    if args.add || args.retire {
        let mut texts: Vec<String> = if args.writer {
            keys::writer_keys(path)?.iter().rev().map(keys::writer_key_text).collect()
        } else {
            keys::signing_keys(path)?.iter().map(crate::tlog::SigningKey::to_pem).collect()
        };
        if args.add {
            texts.push(new_key(args.writer)?);
        } else if texts.len() < 2 {
            return Err(Failure::new(format!(
                "{} holds one key alone: --add another one first, and start the service with both",
                path.display()
            )));
        } else {
            texts.remove(0);
        }
        if args.writer {
            texts.reverse();
        }
        keys::replace(path, &texts.concat())?;
    } else {
        keys::write_new(path, &new_key(args.writer)?)?;
    }
    eprintln!("{}: {}", path.display(), if args.retire { "the oldest key is gone" } else { "a new key" });
    if args.writer {
        return Ok(());
    }
    let origin = format!("{}/audit/{}", args.name, args.number);
    for key in keys::signing_keys(path)? {
        let key = key.verifier_key(&origin).map_err(|fault| Failure::new(format!("--name: {fault}")))?;
        line(&key.to_string())?;
    }
    Ok(())
}

fn new_key(writer: bool) -> Result<String, Failure> {
    Ok(if writer { keys::new_writer_key()? } else { keys::new_signing_key()? })
}
