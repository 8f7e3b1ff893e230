//! The file to which every checkpoint is appended. It may lie on a drive that is full or does not answer, or be a pipe
//! without a reader: neither the sealer nor a request nor the end of the service waits for it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use super::LONGEST_PAUSE;
use crate::app::tasks::{Tasks, sleep_or_stop};
use crate::files::{self, no_answer};
use crate::telemetry;

/// A write that takes longer is reported; at the end of the service it is given up.
const DEADLINE: Duration = Duration::from_secs(5);
/// The pause after a write that failed; it doubles with each one up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Notes that wait for a file that cannot be written, at most: a later checkpoint stands for those before it.
const WAITING: usize = 1000;

/// The notes on their way to the file.
#[derive(Debug)]
pub struct CheckpointFile {
    notes: mpsc::UnboundedSender<String>,
}

impl CheckpointFile {
    /// Starts the task that writes the file.
    pub fn start(path: PathBuf, tasks: &Tasks) -> Self {
        let (notes, arriving) = mpsc::unbounded_channel();
        let context = (path, Arc::new(Mutex::new(arriving)));
        tasks.spawn("checkpoint_file", context, |(path, arriving), stop| async move {
            let mut arriving = arriving.lock().await;
            Writer { path, arriving: &mut arriving, waiting: Vec::new() }.run(&stop).await;
        });
        Self { notes }
    }

    pub fn append(&self, note: &str) {
        // The task ends after this sender only, or when the service does.
        let _ = self.notes.send(note.to_owned());
    }
}

struct Writer<'a> {
    path: PathBuf,
    arriving: &'a mut mpsc::UnboundedReceiver<String>,
    waiting: Vec<String>,
}

impl Writer<'_> {
    /// Writes until the sealer, which sends the notes, has ended.
    async fn run(mut self, stop: &CancellationToken) {
        let mut pause = FIRST_PAUSE;
        while !self.waiting.is_empty() || self.arriving.recv_many(&mut self.waiting, WAITING).await > 0 {
            let notes = std::mem::take(&mut self.waiting);
            let Some(written) = self.write(&notes, stop).await else { return };
            match written {
                Ok(()) => pause = FIRST_PAUSE,
                Err(error) => {
                    self.report(&error);
                    self.waiting.splice(..0, notes);
                    // At the end of the service, once more when the sealer has signed for the last time.
                    if !sleep_or_stop(pause, stop).await
                        && self.arriving.recv_many(&mut self.waiting, WAITING).await == 0
                    {
                        return;
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let excess = self.waiting.len().saturating_sub(WAITING);
        self.waiting.drain(..excess);
    }

    /// Appends notes on a thread of its own. Returns `None` if it does not end and the service does.
    async fn write(&mut self, notes: &[String], stop: &CancellationToken) -> Option<io::Result<()>> {
        // An empty line behind each.
        let (path, text) = (self.path.clone(), notes.join("\n") + "\n");
        let mut write = pin!(files::on_thread(move || append(&path, &text)));
        if let Ok(written) = tokio::time::timeout(DEADLINE, &mut write).await {
            return Some(written);
        }
        self.report(&no_answer(DEADLINE));
        loop {
            tokio::select! {
                written = &mut write => return Some(written),
                () = stop.cancelled() => return None,
                Some(note) = self.arriving.recv() => {
                    self.waiting.push(note);
                    self.forget_oldest();
                }
            }
        }
    }

    fn report(&self, error: &io::Error) {
        telemetry::checkpoint_not_published("file");
        tracing::error!(%error, file = %self.path.display(), "checkpoints could not be written to their file");
    }
}

/// Appends notes; all of them, or none where the file can be shortened again.
fn append(path: &Path, notes: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).open(path)?;
    if !file.metadata()?.is_file() {
        file.write_all(notes.as_bytes())?;
        return files::sync_data(&file);
    }
    // Other replicas may append to the same file. A file system without locks is no reason not to write.
    let _ = file.lock();
    let length = file.metadata()?.len();
    // After a fragment, such as a crash leaves behind, a note begins on a line of its own.
    let separator = if ends_well(path, length).unwrap_or(false) { "" } else { "\n\n" };
    let text = format!("{separator}{notes}");
    let written = file.write_all(text.as_bytes()).and_then(|()| files::sync_data(&file));
    if written.is_err() {
        // A fragment that stays is passed over by verification. The first error says more.
        let _ = file.set_len(length);
    }
    written
}

fn ends_well(path: &Path, length: u64) -> io::Result<bool> {
    if length == 0 {
        return Ok(true);
    }
    let mut end = String::new();
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(length.saturating_sub(2)))?;
    file.take(2).read_to_string(&mut end)?;
    Ok(end == "\n\n")
}
