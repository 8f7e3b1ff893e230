//! A ZIP file that goes out while it is made: a few buffers of it are in memory at once, however large it becomes.

use std::io::{self, Write};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Bytes;
use chrono::{DateTime, Datelike as _, Timelike as _, Utc};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use zip::write::{SimpleFileOptions, StreamWriter};
use zip::{CompressionMethod, ZipWriter};

use crate::domain::hex;
use crate::error::Error;

/// What goes to the client at a time.
const BUFFER: usize = 64 * 1024;
/// Of the same input, deflate makes the same bytes only at the same level.
const LEVEL: i64 = 6;

/// Parts of the file, or why there will be no more.
pub type Part = Result<Bytes, Error>;

/// A ZIP file, and the sums of what is in it.
pub struct Archive {
    zip: ZipWriter<StreamWriter<Out>>,
    options: SimpleFileOptions,
    sums: String,
    closed: Arc<AtomicBool>,
}

impl Archive {
    /// All files bear this time: when the pack is made must not be seen in it.
    pub fn new(parts: mpsc::Sender<Part>, time: DateTime<Utc>) -> Self {
        let closed = Arc::new(AtomicBool::new(false));
        let out = Out { buffer: Vec::with_capacity(BUFFER), parts, closed: Arc::clone(&closed) };
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .compression_level(Some(LEVEL))
            .last_modified_time(zip_time(time))
            .unix_permissions(0o644);
        Self { zip: ZipWriter::new_stream(out), options, sums: String::new(), closed }
    }

    /// Writes a file of which a sum is kept.
    pub fn file(
        &mut self,
        name: &str,
        write: impl FnOnce(&mut File<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.zip.start_file(name, self.options).map_err(broken)?;
        let mut file = File { zip: &mut self.zip, hash: Sha256::new() };
        write(&mut file)?;
        let sum = hex(&file.hash.finalize());
        self.sums.extend([sum.as_str(), "  ", name, "\n"]);
        Ok(())
    }

    pub fn text(&mut self, name: &str, text: &str) -> Result<(), Error> {
        self.file(name, |file| file.write_all(text.as_bytes()).map_err(broken))
    }

    /// Ends with the sums of all other files, as `sha256sum` reads them.
    pub fn finish(mut self) -> Result<(), Error> {
        let sums = mem::take(&mut self.sums);
        self.text("SHA256SUMS", &sums)?;
        // What is left in the last buffer goes out with it.
        self.zip.finish().map_err(broken).map(drop)
    }

    /// What is not whole must not end as if it were: the writer would write an end when it is dropped.
    pub fn abandon(self) {
        self.closed.store(true, Ordering::Relaxed);
    }
}

/// A file in the archive, as it is written.
pub struct File<'a> {
    zip: &'a mut ZipWriter<StreamWriter<Out>>,
    hash: Sha256,
}

impl Write for File<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.zip.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Hands on what is written, and waits while the client has not taken what came before.
struct Out {
    buffer: Vec<u8>,
    parts: mpsc::Sender<Part>,
    closed: Arc<AtomicBool>,
}

impl Out {
    fn send(&mut self) -> io::Result<()> {
        let part = mem::replace(&mut self.buffer, Vec::with_capacity(BUFFER));
        self.parts.blocking_send(Ok(part.into())).map_err(|_| {
            self.closed.store(true, Ordering::Relaxed);
            io::Error::from(io::ErrorKind::BrokenPipe)
        })
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.closed.load(Ordering::Relaxed) {
            return Ok(bytes.len());
        }
        let taken = bytes.len().min(BUFFER - self.buffer.len());
        self.buffer.extend(&bytes[..taken]);
        if self.buffer.len() == BUFFER {
            self.send()?;
        }
        Ok(taken)
    }

    /// Compressors flush at the end of each file, which is no reason to send little.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        if !self.closed.load(Ordering::Relaxed) && !self.buffer.is_empty() {
            // The client that is gone needs no last part.
            let _ = self.send();
        }
    }
}

pub fn broken(error: impl std::fmt::Display) -> Error {
    Error::Internal(format!("the pack cannot be written: {error}"))
}

/// As ZIP files keep times: from 1980 to 2107, every other second.
fn zip_time(time: DateTime<Utc>) -> zip::DateTime {
    let small = |number: u32| u8::try_from(number).unwrap_or_default();
    u16::try_from(time.year())
        .ok()
        .and_then(|year| {
            zip::DateTime::from_date_and_time(
                year,
                small(time.month()),
                small(time.day()),
                small(time.hour()),
                small(time.minute()),
                small(time.second()),
            )
            .ok()
        })
        .unwrap_or_default()
}
