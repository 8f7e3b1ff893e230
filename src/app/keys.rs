//! The files with the log's keys: read, or made at the first start.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::config::audit::AuditKeyFiles;
use crate::domain::WriterKey;
use crate::error::StartError;
use crate::ops::log::LogKeys;
use crate::tlog::SigningKey;

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
            let text = if path == self.signing { new_signing_key()? } else { new_writer_key()? };
            write_new(path, &text)?;
            tracing::info!(file = %path.display(), "made a key of the audit log: keep a copy of it");
        }
        Ok(LogKeys { signers: signing_keys(&self.signing)?, writers: writer_keys(&self.writer)? })
    }
}

pub fn signing_keys(path: &Path) -> Result<Vec<SigningKey>, StartError> {
    SigningKey::from_pem(&read(path)?)
        .map_err(|fault| StartError::new(format!("{} is not usable: {fault}", path.display())))
}

pub fn writer_keys(path: &Path) -> Result<Vec<WriterKey>, StartError> {
    let text = read(path)?;
    let keys: Option<Vec<WriterKey>> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| BASE64_STANDARD.decode(line.trim()).ok()?.try_into().ok().map(WriterKey::new))
        .collect();
    keys.filter(|keys| !keys.is_empty()).ok_or_else(|| {
        StartError::new(format!(
            "{} does not hold writer's keys, one a line, each 32 bytes in base64: make one with `consentd audit keygen`",
            path.display()
        ))
    })
}

pub fn new_signing_key() -> Result<String, StartError> {
    Ok(SigningKey::from_seed(random()?).to_pem())
}

pub fn new_writer_key() -> Result<String, StartError> {
    Ok(writer_key_text(&WriterKey::new(random()?)))
}

/// A key's line in the file.
pub fn writer_key_text(key: &WriterKey) -> String {
    format!("{}\n", BASE64_STANDARD.encode(key.reveal()))
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

/// Writes a key's file for its owner's eyes alone. One that is there is never replaced.
pub fn write_new(path: &Path, text: &str) -> Result<(), StartError> {
    let write = || -> io::Result<()> {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(directory) = directory {
            fs::create_dir_all(directory)?;
        }
        // A file that is cut off by a crash would be taken for a key.
        let mut draft = path.to_owned();
        draft.add_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        let linked = fs::hard_link(&draft, path);
        fs::remove_file(&draft)?;
        linked?;
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|error| {
        let advice = match error.kind() {
            ErrorKind::AlreadyExists => "it is there already, and a key is never replaced",
            _ => "choose another place",
        };
        StartError::new(format!("cannot write {} ({error}): {advice}", path.display()))
    })
}

/// Replaces a key's file by one with other keys; whole or not at all.
pub fn replace(path: &Path, text: &str) -> Result<(), StartError> {
    let write = || -> io::Result<()> {
        let mut draft = path.to_owned();
        draft.add_extension("new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)
    };
    write().map_err(|error| StartError::new(format!("cannot write {}: {error}", path.display())))
}
