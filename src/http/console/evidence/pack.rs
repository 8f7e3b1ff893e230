//! What a pack holds, and in which order it is written. It runs where it may wait: on the database, and on the client.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;

use chrono::{DateTime, Utc};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::archive::{Archive, File, Part, broken};
use super::report::{self, Counts};
use super::{Question, SignedLog};
use crate::background::Pacer;
use crate::domain::{Leaf, PersonalField, Source};
use crate::error::Error;
use crate::http::api::export::{CSV_HEADER, Format};
use crate::http::api::proof::{openings, proof_file};
use crate::store::Store;
use crate::store::evidence::SealedEntry;
use crate::store::log::entries::StoredEntry;

/// Entries that are in memory at once.
const CHUNK: usize = 250;

/// All that is known before the first byte is sent.
#[derive(Debug)]
pub struct Pack {
    pub question: Question,
    pub asked_by: String,
    /// The log that was open when this was asked; former ones have smaller numbers.
    pub log_id: i32,
    /// When the newest entry of the log was made, at this size.
    pub as_of: DateTime<Utc>,
    pub logs: BTreeMap<i32, SignedLog>,
    pub entries: Vec<SealedEntry>,
}

impl Pack {
    pub fn log(&self) -> &SignedLog {
        &self.logs[&self.log_id]
    }

    /// Without its ending.
    pub fn file_name(&self) -> String {
        let whose = self.question.filter.customer_id.map(|id| format!("-{id}")).unwrap_or_default();
        format!("consent-evidence{whose}-{}-{}", self.log_id, self.log().checkpoint.size)
    }

    /// A former log may have taken in an entry that it never came to sign.
    pub fn is_proven(&self, entry: &SealedEntry) -> bool {
        entry.leaf_index.cast_unsigned() < self.logs[&entry.log_id].checkpoint.size
    }

    /// The keys of all logs, one a line.
    pub fn verifier_keys(&self) -> String {
        let keys = self.logs.values().rev().flat_map(|log| &log.keys);
        keys.fold(String::new(), |lines, key| lines + key + "\n")
    }
}

/// Writes the pack into `parts`, to its end or until nobody takes them any more.
pub fn write(pack: &Pack, store: &Store, runtime: &Handle, pacer: Pacer, parts: &mpsc::Sender<Part>) {
    let mut archive = Archive::new(parts.clone(), pack.as_of);
    let mut writing = Writing { pack, store, runtime, pacer, held: BTreeMap::new() };
    match writing.files(&mut archive) {
        Ok(()) => {
            // Whoever is gone does not miss the end.
            let _ = archive.finish();
        }
        Err(error) => {
            archive.abandon();
            if parts.blocking_send(Err(error.clone())).is_ok() {
                // The answer has begun: all that is left is to break it off, which every client notices, and to say why.
                tracing::error!(%error, "an evidence pack is broken off");
            }
        }
    }
}

struct Writing<'a> {
    pack: &'a Pack,
    store: &'a Store,
    runtime: &'a Handle,
    pacer: Pacer,
    /// Which personal fields each entry had when it was first read: files of one pack never contradict each other.
    held: BTreeMap<i64, u8>,
}

impl Writing<'_> {
    fn files(&mut self, archive: &mut Archive) -> Result<(), Error> {
        let mut counts = Counts::default();
        archive.file("entries.ndjson", |file| self.raw(file, Format::Ndjson))?;
        archive.file("entries.csv", |file| {
            file.write_all((CSV_HEADER.join(",") + "\r\n").as_bytes()).map_err(broken)?;
            self.raw(file, Format::Csv)
        })?;
        for chunk in self.pack.entries.chunks(CHUNK) {
            for (name, proof) in self.proofs(chunk, &mut counts)? {
                archive.text(&name, &proof)?;
            }
            self.rest();
        }
        archive.file("report.html", |file| {
            file.write_all(report::head(self.pack, &counts)?.as_bytes()).map_err(broken)?;
            for chunk in self.pack.entries.chunks(CHUNK) {
                let rows = self.rows(chunk)?;
                file.write_all(rows.as_bytes()).map_err(broken)?;
                self.rest();
            }
            file.write_all(report::tail(self.pack)?.as_bytes()).map_err(broken)
        })?;
        archive.text("checkpoint", &self.pack.log().note.to_string())?;
        for (log_id, log) in self.pack.logs.iter().filter(|(log_id, _)| **log_id != self.pack.log_id) {
            archive.text(&format!("checkpoints/{log_id}"), &log.note.to_string())?;
        }
        archive.text("vkey", &self.pack.verifier_keys())?;
        archive.text("README.txt", &report::readme(self.pack)?)
    }

    fn raw(&mut self, file: &mut File<'_>, format: Format) -> Result<(), Error> {
        for chunk in self.pack.entries.chunks(CHUNK) {
            let page = self.runtime.block_on(self.store.raw_entries_of(&ids(chunk)))?;
            for entry in page.entries(0..page.len()) {
                let entry = entry?;
                let personal = [
                    entry.changed_by.is_some(),
                    entry.on_behalf_of.is_some(),
                    entry.change_reason.is_some(),
                    entry.ip_address.is_some(),
                    entry.user_agent.is_some(),
                ];
                self.hold(entry.audit_id, personal)?;
            }
            complete(chunk, page.len())?;
            let bytes = self.runtime.block_on(format.write(&page, 0..page.len()))?;
            file.write_all(&bytes).map_err(broken)?;
            self.rest();
        }
        Ok(())
    }

    /// Leaves the processors to checks and changes, if there are any.
    fn rest(&mut self) {
        self.runtime.block_on(self.pacer.rest());
    }

    /// Fields that are erased while the pack is written would be in one of its files and not in another.
    fn hold(&mut self, audit_id: i64, personal: [bool; 5]) -> Result<(), Error> {
        let mask = personal.iter().fold(0, |mask, there| mask << 1 | u8::from(*there));
        if *self.held.entry(audit_id).or_insert(mask) == mask {
            return Ok(());
        }
        Err(Error::Internal(format!(
            "personal data of entry {audit_id} was erased while the pack was written: ask for it again"
        )))
    }

    fn hold_stored(&mut self, stored: &StoredEntry) -> Result<(), Error> {
        let personal = PersonalField::ALL
            .map(|field| stored.entry.personal.get(&field).is_some_and(|salted| !salted.salt.is_empty()));
        self.hold(stored.entry.audit_id, personal)
    }

    /// The proofs of some entries, each with its name.
    fn proofs(&mut self, chunk: &[SealedEntry], counts: &mut Counts) -> Result<Vec<(String, String)>, Error> {
        let audit_ids = ids(chunk);
        let stored = self.runtime.block_on(self.store.log_entries_of(&audit_ids))?;
        let leaves = self.runtime.block_on(self.store.leaves_of(&audit_ids))?;
        complete(chunk, stored.len().min(leaves.len()))?;
        let mut paths = BTreeMap::new();
        for log_id in chunk.iter().map(|entry| entry.log_id).collect::<BTreeSet<_>>() {
            let provable: Vec<u64> = chunk
                .iter()
                .filter(|entry| entry.log_id == log_id && self.pack.is_proven(entry))
                .map(|entry| entry.leaf_index.cast_unsigned())
                .collect();
            let size = self.pack.logs[&log_id].checkpoint.size;
            let found = self.runtime.block_on(self.store.inclusion_proofs(log_id, &provable, size))?;
            paths.extend(provable.into_iter().map(|leaf_index| (log_id, leaf_index)).zip(found));
        }
        let mut files = Vec::with_capacity(chunk.len());
        for ((entry, kept), stored) in chunk.iter().zip(&leaves).zip(stored.iter().rev()) {
            self.hold_stored(stored)?;
            let damaged = |what: String| Error::DamagedLog(format!("leaf {}: {what}", entry.leaf_index));
            let leaf = Leaf::parse(&kept.leaf).map_err(damaged)?;
            let text = std::str::from_utf8(&kept.leaf).map_err(|_| damaged("it is no text".to_owned()))?;
            let openings = openings(&stored.entry);
            counts.add(&leaf, openings.len());
            let index = entry.leaf_index.cast_unsigned();
            let Some(path) = paths.remove(&(entry.log_id, index)) else {
                counts.unproven += 1;
                continue;
            };
            let note = self.pack.logs[&entry.log_id].note.clone();
            let proof = proof_file(text, &openings, index, path, note)?;
            files.push((format!("proofs/{}.tlog-proof", entry.audit_id), proof));
        }
        Ok(files)
    }

    /// Some rows of the report.
    fn rows(&mut self, chunk: &[SealedEntry]) -> Result<String, Error> {
        let audit_ids = ids(chunk);
        let entries = self.runtime.block_on(self.store.entries_of(&audit_ids))?;
        let leaves = self.runtime.block_on(self.store.leaves_of(&audit_ids))?;
        complete(chunk, entries.len().min(leaves.len()))?;
        let mut rows = String::new();
        for ((place, entry), kept) in chunk.iter().zip(&entries).zip(&leaves) {
            let personal = [
                entry.changed_by.is_some(),
                entry.on_behalf_of.is_some(),
                entry.change_reason.is_some(),
                entry.ip_address.is_some(),
                entry.user_agent.is_some(),
            ];
            self.hold(entry.audit_id, personal)?;
            let leaf = Leaf::parse(&kept.leaf).map_err(Error::DamagedLog)?;
            rows += &report::row(self.pack, place, entry, &leaf, personal)?;
        }
        Ok(rows)
    }
}

impl Counts {
    fn add(&mut self, leaf: &Leaf, opened: usize) {
        self.entries += 1;
        self.vouched_for += i64::from(leaf.src == Source::Service);
        let erased = leaf.commitments.len().saturating_sub(opened);
        self.erased += i64::try_from(erased).unwrap_or(i64::MAX);
        *self.actions.entry(leaf.action.clone().unwrap_or_default()).or_default() += 1;
        self.times = Some(match self.times {
            Some((first, last)) => (first.min(leaf.timestamp), last.max(leaf.timestamp)),
            None => (leaf.timestamp, leaf.timestamp),
        });
        let customer: Uuid = leaf.customer_id.unwrap_or_default();
        let version = leaf.version.unwrap_or_default();
        let versions = self.customers.entry(customer).or_insert((version, version, 0));
        *versions = (versions.0.min(version), versions.1.max(version), versions.2 + 1);
    }
}

fn ids(chunk: &[SealedEntry]) -> Vec<i64> {
    chunk.iter().map(|entry| entry.audit_id).collect()
}

/// An entry never goes: one that is not there any more was removed past the service.
fn complete(chunk: &[SealedEntry], found: usize) -> Result<(), Error> {
    if found == chunk.len() {
        return Ok(());
    }
    Err(Error::DamagedLog(format!("of {} sealed entries {found} are there", chunk.len())))
}
