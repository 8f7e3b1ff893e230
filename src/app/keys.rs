//! The files with the log's keys: read, or made at the first start.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::config::audit::AuditKeyFiles;
use crate::domain::WriterKey;
use crate::error::StartError;
use crate::files::{self, Readers};
use crate::ops::log::{LogKeys, RetiredKeys};
use crate::tlog::{RetiredKey, SigningKey};

/// Where both files are.
#[derive(Clone, Debug)]
pub struct KeyPaths {
    pub signing: PathBuf,
    pub writer: PathBuf,
}

impl KeyPaths {
    pub fn new(given: &AuditKeyFiles, data_dir: &Path) -> Self {
        Self {
            signing: given.audit_key_file.clone().unwrap_or_else(|| data_dir.join("audit.key")),
            writer: given.audit_writer_key_file.clone().unwrap_or_else(|| data_dir.join("audit-writer.key")),
        }
    }

    /// The keys. Those that are not there are made only where no log needs the ones that are lost.
    pub fn load(&self, make: bool) -> Result<LogKeys, StartError> {
        let missing: Vec<&Path> =
            [self.signing.as_path(), &self.writer].into_iter().filter(|path| !path.exists()).collect();
        if !make && let Some(path) = missing.first() {
            return Err(StartError::new(format!(
                "the audit log of this database has keys, and {} is not there: copy it from the replica or the backup that \
                 has it, or name it with --audit-key-file and --audit-writer-key-file",
                path.display()
            )));
        }
        for path in missing {
            let text = if path == self.signing {
                new_signing_key()?.to_pem()
            } else {
                writers_text(&[new_writer_key()?], &[])
            };
            write_new(path, &text)?;
            tracing::info!(file = %path.display(), "made a key of the audit log: keep a copy of it");
        }
        let (signers, retired_signers) = signing_keys(&self.signing)?;
        let (writers, retired_writers) = writer_keys(&self.writer)?;
        let retired = RetiredKeys { writers: retired_writers, signers: retired_signers };
        Ok(LogKeys { writers, signers, retired })
    }
}

/// What begins the line of a writer's key that makes nothing new.
const RETIRED: &str = "retired ";

/// The keys that sign, oldest first, and those that did.
pub fn signing_keys(path: &Path) -> Result<(Vec<SigningKey>, Vec<RetiredKey>), StartError> {
    let unusable = |fault| StartError::new(format!("{} is not usable: {fault}", path.display()));
    let (retired, private) = RetiredKey::take_from_pem(&read(path)?).map_err(unusable)?;
    Ok((SigningKey::from_pem(&private).map_err(unusable)?, retired))
}

/// The keys that vouch for entries, newest first, and those that did.
pub fn writer_keys(path: &Path) -> Result<(Vec<WriterKey>, Vec<WriterKey>), StartError> {
    let text = read(path)?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let (retired, current): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.starts_with(RETIRED));
    let key = |line: &str| {
        let digits = line.strip_prefix(RETIRED).unwrap_or(line);
        BASE64_STANDARD.decode(digits).ok()?.try_into().ok().map(WriterKey::new)
    };
    let keys = |lines: Vec<&str>| lines.into_iter().map(key).collect::<Option<Vec<_>>>();
    keys(current).filter(|keys| !keys.is_empty()).zip(keys(retired)).ok_or_else(|| {
        StartError::new(format!(
            "{} does not hold writer's keys, one a line, each 32 bytes in base64: make one with `consentd audit keygen`",
            path.display()
        ))
    })
}

pub fn new_signing_key() -> Result<SigningKey, StartError> {
    Ok(SigningKey::from_seed(random()?))
}

pub fn new_writer_key() -> Result<WriterKey, StartError> {
    Ok(WriterKey::new(random()?))
}

/// The file that [`signing_keys`] reads.
pub fn signers_text(signers: &[SigningKey], retired: &[RetiredKey]) -> String {
    let retired = retired.iter().map(RetiredKey::to_pem);
    retired.chain(signers.iter().map(SigningKey::to_pem)).collect()
}

/// The file that [`writer_keys`] reads.
pub fn writers_text(writers: &[WriterKey], retired: &[WriterKey]) -> String {
    let line = |prefix: &str, key: &WriterKey| format!("{prefix}{}\n", BASE64_STANDARD.encode(key.reveal()));
    let writers = writers.iter().map(|key| line("", key));
    writers.chain(retired.iter().map(|key| line(RETIRED, key))).collect()
}

fn random() -> Result<[u8; 32], StartError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| {
        StartError::new(format!("the system gives no random bytes ({error}): see getrandom(2)"))
    })?;
    Ok(bytes)
}

fn read(path: &Path) -> Result<String, StartError> {
    fs::read_to_string(path)
        .map_err(|error| StartError::new(format!("cannot read {}: {error}", path.display())))
}

/// Makes the directory of a private file.
pub fn make_directory_of(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    directory.map_or(Ok(()), files::make_directories)
}

/// Writes a key's file for its owner's eyes alone. One that is there is never replaced.
pub fn write_new(path: &Path, text: &str) -> Result<(), StartError> {
    make_directory_of(path).and_then(|()| files::create_private(path, text.as_bytes())).map_err(|error| {
        let advice = match error.kind() {
            ErrorKind::AlreadyExists => "it is there already, and a key is never replaced",
            _ => "choose another place",
        };
        StartError::new(format!("cannot write {} ({error}): {advice}", path.display()))
    })
}

/// Replaces a key's file by one with other keys; whole or not at all.
pub fn replace(path: &Path, text: &str) -> Result<(), StartError> {
    files::replace(path, text.as_bytes(), Readers::Owner)
        .map_err(|error| StartError::new(format!("cannot write {}: {error}", path.display())))
}
