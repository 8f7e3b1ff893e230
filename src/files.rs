//! Files of the service: written whole or not at all, with modes that do not depend on the umask, and without blocking
//! the runtime where a drive does not answer.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::Uid;
use tempfile::NamedTempFile;
use tokio::sync::{Mutex, oneshot};
use tokio::time::timeout;

/// The accounts that may read a new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// Its owner alone: mode 0600.
    Owner,
    /// All whom the umask lets read.
    All,
}

/// A file that is written beside its final place. It is removed if it is dropped before it is kept.
#[derive(Debug)]
pub struct Draft {
    file: NamedTempFile,
    target: PathBuf,
}

impl Draft {
    /// Makes an empty file of its own: never one that somebody else put there.
    pub fn beside(target: &Path, readers: Readers) -> io::Result<Self> {
        let mut prefix = OsString::from(".");
        prefix.push(target.file_name().ok_or(ErrorKind::IsADirectory)?);
        prefix.push(".");
        let mode = match readers {
            Readers::Owner => 0o600,
            Readers::All => 0o666,
        };
        let file = tempfile::Builder::new()
            .prefix(&prefix)
            .suffix(".part")
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(directory_of(target))
            .map_err(cause)?;
        if readers == Readers::Owner {
            file.as_file().set_permissions(Permissions::from_mode(mode))?;
        }
        Ok(Self { file, target: target.to_owned() })
    }

    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Moves the file to its place, where it replaces another one.
    pub fn keep(self) -> io::Result<()> {
        self.file.as_file().sync_all()?;
        self.file.persist(&self.target).map_err(|error| cause(error.error))?;
        sync_directory(directory_of(&self.target))
    }

    /// Moves the file to its place, unless there is one.
    pub fn keep_new(self) -> io::Result<()> {
        self.file.as_file().sync_all()?;
        self.file.persist_noclobber(&self.target).map_err(|error| cause(error.error))?;
        sync_directory(directory_of(&self.target))
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.as_file_mut().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_file_mut().flush()
    }
}

/// Writes a new file for its owner alone; one that is there is never replaced.
pub fn create_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut draft = Draft::beside(path, Readers::Owner)?;
    draft.write_all(bytes)?;
    draft.keep_new()
}

/// Writes a file, and replaces one that is there. A pipe or a device is written to as it is.
pub fn replace(path: &Path, bytes: &[u8], readers: Readers) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return fs::write(path, bytes);
    }
    let mut draft = Draft::beside(path, readers)?;
    draft.write_all(bytes)?;
    draft.keep()
}

/// Makes a private directory and its missing parents. Those that are there stay as they are. Where root makes them,
/// others may pass through and see nothing: the private PostgreSQL, which does not run as root, lives below.
pub fn make_directories(path: &Path) -> io::Result<()> {
    let mode = if Uid::effective().is_root() { 0o711 } else { 0o700 };
    let create = || DirBuilder::new().mode(mode).create(path);
    let created = match create() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).ok_or(error)?;
            make_directories(parent)?;
            create()
        }
        created => created,
    };
    match created {
        // Whatever the umask has left of the mode.
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(mode)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Waits until the data of a file are on the disk. Pipes and devices have no disk, and say so.
pub fn sync_data(file: &File) -> io::Result<()> {
    unless_unsupported(file.sync_data())
}

fn sync_directory(path: &Path) -> io::Result<()> {
    unless_unsupported(File::open(path)?.sync_all())
}

fn unless_unsupported(synced: io::Result<()>) -> io::Result<()> {
    let unsupported = [Errno::EINVAL, Errno::ENOTSUP, Errno::ENOTTY].map(|errno| Some(errno as i32));
    match synced {
        Err(error) if unsupported.contains(&error.raw_os_error()) => Ok(()),
        synced => synced,
    }
}

/// The system's own error: around it `tempfile` names the draft, of which nobody knows.
fn cause(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|outer| outer.source());
    let code = inner.and_then(|inner| inner.downcast_ref::<io::Error>()).and_then(io::Error::raw_os_error);
    code.map_or(error, io::Error::from_raw_os_error)
}

/// Starts an operation on a thread of its own. The runtime waits for its blocking tasks when it ends; this thread, which
/// may be stuck on a dead drive or a pipe without a reader, ends with the process.
pub fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> impl Future<Output = io::Result<T>> + Send {
    let (done, outcome) = oneshot::channel();
    let started = thread::Builder::new().name("files".to_owned()).spawn(move || {
        // Nobody waits for it any more if this fails.
        let _ = done.send(work());
    });
    async move {
        started?;
        outcome.await.unwrap_or_else(|_| Err(io::Error::other("the operation panicked")))
    }
}

/// File operations one after the other, each with a deadline: at most one thread of them is stuck.
#[derive(Clone, Debug, Default)]
pub struct FileQueue {
    turn: Arc<Mutex<()>>,
}

impl FileQueue {
    /// Runs an operation on a thread of its own. After the deadline it may go on, and the next one waits for it.
    pub async fn run<T: Send + 'static>(
        &self,
        deadline: Duration,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let run = async {
            let turn = Arc::clone(&self.turn).lock_owned().await;
            on_thread(move || {
                let done = work();
                drop(turn);
                done
            })
            .await
        };
        timeout(deadline, run).await.unwrap_or_else(|_| Err(no_answer(deadline)))
    }
}

/// The error for a drive that does not answer.
pub fn no_answer(deadline: Duration) -> io::Error {
    let text = format!("the file system does not answer within {} s", deadline.as_secs());
    io::Error::new(ErrorKind::TimedOut, text)
}
