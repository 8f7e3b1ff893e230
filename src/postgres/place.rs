//! What lies where below the data directory, and who may touch it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::account::Account;
use crate::config::Secret;
use crate::error::StartError;
use crate::files;

/// Part of the socket's name; nothing listens on the network.
pub const PORT: u16 = 5432;

/// What the kernel takes for a socket's path.
const LONGEST_SOCKET_PATH: usize = if cfg!(target_os = "macos") { 103 } else { 107 };

#[derive(Debug)]
pub struct Place {
    data_dir: PathBuf,
    /// Belongs to the server's account, and holds the socket and the data.
    pub directory: PathBuf,
    /// The cluster's data, whole or absent.
    pub data: PathBuf,
    /// The cluster's data while it is made.
    pub unfinished: PathBuf,
}

/// The passwords of the two login roles.
#[derive(Debug)]
pub struct Passwords {
    pub owner: Secret,
    pub service: Secret,
}

impl Place {
    pub fn below(data_dir: &Path) -> Result<Self, StartError> {
        // The server has a working directory of its own.
        let data_dir = std::path::absolute(data_dir).map_err(|error| refusal("find", data_dir, &error))?;
        let directory = data_dir.join("postgres");
        let socket = directory.join(format!(".s.PGSQL.{PORT}.lock"));
        let length = socket.as_os_str().as_bytes().len();
        if length > LONGEST_SOCKET_PATH {
            return Err(StartError::new(format!(
                "the data directory's path is {} bytes too long for a socket in it: choose a shorter one than {} with \
                 --data-dir DIR",
                length - LONGEST_SOCKET_PATH,
                data_dir.display()
            )));
        }
        Ok(Self { data: directory.join("data"), unfinished: directory.join("data.new"), directory, data_dir })
    }

    pub fn exists(&self) -> Result<bool, StartError> {
        self.data.try_exists().map_err(|error| refusal("read", &self.data, &error))
    }

    /// The version which the cluster was made with, if there is one.
    pub fn major(&self) -> Result<Option<u32>, StartError> {
        let file = self.data.join("PG_VERSION");
        let version = match fs::read_to_string(&file) {
            Ok(version) => version,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(refusal("read", &file, &error)),
        };
        version.trim().parse().map(Some).map_err(|_| {
            StartError::new(format!(
                "{} does not name a version of PostgreSQL: restore the directory from a backup",
                file.display()
            ))
        })
    }

    /// Makes the directories, and keeps every other service away for as long as the file lives.
    pub fn claim(&self, account: &Account) -> Result<File, StartError> {
        files::make_directories(&self.data_dir).map_err(|error| refusal("make", &self.data_dir, &error))?;
        let path = self.data_dir.join("lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| refusal("write", &path, &error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StartError::new(format!(
                    "another consentd is running on the data directory {}: stop it first, or choose another place with \
                     --data-dir DIR",
                    self.data_dir.display()
                )));
            }
            Err(TryLockError::Error(error)) => return Err(refusal("lock", &path, &error)),
        }
        if let Ok(data) = fs::metadata(&self.data)
            && data.uid() != account.uid().as_raw()
        {
            return Err(StartError::new(format!(
                "the data in {data_dir} belongs to user {owner} and PostgreSQL would run as user {runner}: start consentd as \
                 before, choose another place with --data-dir DIR, or hand it over with `chown -R {runner} {directory}`",
                data_dir = self.data_dir.display(),
                owner = data.uid(),
                runner = account.uid(),
                directory = self.directory.display(),
            )));
        }
        account
            .private_directory(&self.directory)
            .map_err(|error| refusal("make", &self.directory, &error))?;
        Ok(lock)
    }

    /// Whether a service runs here.
    pub fn is_claimed(&self) -> Result<bool, StartError> {
        let path = self.data_dir.join("lock");
        match File::open(&path) {
            Ok(lock) => Ok(matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(refusal("read", &path, &error)),
        }
    }

    pub fn passwords(&self) -> Result<Passwords, StartError> {
        let file = self.password_file();
        let text = match fs::read_to_string(&file) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(refusal("read", &file, &error)),
            text => text.unwrap_or_default(),
        };
        let mut lines = text.lines().map(|line| Secret::from(line.to_owned()));
        match (lines.next(), lines.next()) {
            (Some(owner), Some(service)) => Ok(Passwords { owner, service }),
            _ => Err(StartError::new(format!(
                "{} does not hold the two passwords of the private PostgreSQL: restore it from a backup",
                file.display()
            ))),
        }
    }

    pub fn keep(&self, passwords: &Passwords) -> Result<(), StartError> {
        let file = self.password_file();
        let text = format!("{}\n{}\n", passwords.owner.reveal(), passwords.service.reveal());
        let write = || -> io::Result<()> {
            remove_file(&file)?;
            files::create_private(&file, text.as_bytes())
        };
        write().map_err(|error| refusal("write", &file, &error))
    }

    /// The server that runs on the data, or did when it was last written down.
    pub fn postmaster(&self) -> Option<i32> {
        let text = fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        // A server for a single user writes its id as a negative number.
        text.lines().next()?.trim().parse().ok().filter(|process| *process > 1)
    }

    /// Ours and not the server's, so it lies beside the server's directory.
    fn password_file(&self) -> PathBuf {
        self.data_dir.join("postgres.passwords")
    }
}

pub fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What to do about a file or directory that we cannot have.
pub fn refusal(verb: &str, path: &Path, error: &io::Error) -> StartError {
    let path = path.display();
    StartError::new(match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => no_room(&path.to_string()),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => format!(
            "cannot {verb} {path} ({error}): give this user the right to, or choose another place with --data-dir DIR"
        ),
        _ => format!("cannot {verb} {path} ({error}): choose another place with --data-dir DIR"),
    })
}

/// Whether a program complains that the disk is full: where that cuts a write short, it tells the length alone.
pub fn says_no_room(words: &str) -> bool {
    ["No space left on device", "Disk quota exceeded", "wrote only"]
        .iter()
        .any(|complaint| words.contains(complaint))
}

pub fn no_room(path: &str) -> String {
    format!(
        "there is no room left on the disk of {path}: make room, or choose another place with --data-dir DIR"
    )
}
