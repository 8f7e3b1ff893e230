//! The account that the server runs as. PostgreSQL refuses to run as root.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, lchown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::{Uid, User};

use super::place::remove_file;
use crate::error::StartError;
use crate::files;

/// Who runs the server: ourselves or, if we are root, `postgres` or else `nobody`.
#[derive(Clone, Debug)]
pub struct Account(Option<User>);

impl Account {
    pub fn find() -> Result<Self, StartError> {
        if !Uid::effective().is_root() {
            return Ok(Self(None));
        }
        ["postgres", "nobody"]
            .iter()
            .find_map(|name| User::from_name(name).ok().flatten())
            .map(|user| Self(Some(user)))
            .ok_or_else(|| {
                StartError::new(
                    "PostgreSQL does not run as root, and there is no user postgres: make one with \
                     `useradd --system postgres`, or start consentd as an ordinary user",
                )
            })
    }

    /// PostgreSQL's programs for a new cluster look up the name of the account that they run as.
    pub fn check_name(&self) -> Result<(), StartError> {
        match User::from_uid(self.uid()) {
            Ok(Some(_)) => Ok(()),
            _ => Err(StartError::new(format!(
                "user {uid} has no name in /etc/passwd, without which PostgreSQL cannot make its data: start consentd as a user \
                 who has one, add one with `useradd --uid {uid} consentd`, or use a PostgreSQL of your own with --database-url URL",
                uid = self.uid()
            ))),
        }
    }

    pub fn uid(&self) -> Uid {
        self.0.as_ref().map_or_else(Uid::effective, |user| user.uid)
    }

    /// A command that runs as this account, with nothing of our environment: PGDATA, PGOPTIONS and their like must not
    /// reach the server, and its messages must be in English.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("LC_ALL", "C").env("PATH", "/usr/bin:/bin").current_dir("/");
        if let Self(Some(user)) = self {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command
    }

    /// Makes a directory that only this account can enter; an existing one is kept.
    pub fn private_directory(&self, path: &Path) -> io::Result<()> {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => self.own(path)?,
        }
        // Whatever the umask has left of the mode.
        fs::set_permissions(path, Permissions::from_mode(0o700))
    }

    /// Writes a file that only this account can read.
    pub fn private_file(&self, path: &Path, text: &str) -> io::Result<()> {
        remove_file(path)?;
        files::create_private(path, text.as_bytes())?;
        self.own(path)
    }

    fn own(&self, path: &Path) -> io::Result<()> {
        match self {
            Self(Some(user)) => lchown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())),
            Self(None) => Ok(()),
        }
    }

    /// Whether the account can run the program and get into the directory: as an ordinary user we are that account,
    /// and whatever fails says so itself.
    pub fn check_reach(&self, program: &Path, directory: &Path) -> Result<(), StartError> {
        let Self(Some(user)) = self else { return Ok(()) };
        let runs_in = |directory: &Path| {
            self.command(program)
                .arg("--version")
                .current_dir(directory)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
        };
        if runs_in(directory).is_ok() {
            return Ok(());
        }
        if let Err(error) = runs_in(Path::new("/")) {
            return Err(StartError::new(format!(
                "PostgreSQL does not run as root but as user {}, who cannot run {}: {error}",
                user.name,
                program.display()
            )));
        }
        let mut parents: Vec<&Path> = directory.ancestors().collect();
        parents.reverse();
        let closed = parents.into_iter().find(|parent| runs_in(parent).is_err()).unwrap_or(directory);
        Err(StartError::new(format!(
            "PostgreSQL does not run as root but as user {name}, who cannot enter {closed}: choose another place with \
             --data-dir DIR, or open it with `chmod o+x {closed}`",
            name = user.name,
            closed = closed.display()
        )))
    }
}
