//! Seals entries: appends what is queued, reads it back once it is committed, and signs the tree.
//!
//! Every replica has a sealer, and whichever gets the log's row appends in that round; the others follow. Each of them
//! holds what the database shows against the largest checkpoint that it has seen itself. A database that shows less, or
//! something else, is not sealed any further.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use super::memory::Memory;
use super::{LogKeys, LogView};
use crate::background::TimeSlice;
use crate::domain::{LOG_OPENED, LogEvent};
use crate::error::Error;
use crate::store::Store;
use crate::store::log::reading::StoredCheckpoint;
use crate::store::log::sealing::Log;
use crate::tlog::tree::{Frontier, Hash, Node, leaf_hash};
use crate::tlog::{Checkpoint, Note};

mod append;

use append::leaf;

/// How many leaves are read back at once.
const CHUNK: i64 = 2_000;
/// A tree that does not grow is signed anew this often: a checkpoint that is older than a minute is a finding.
const SIGN_AGAIN_AFTER: TimeDelta = TimeDelta::seconds(20);

#[derive(Debug)]
pub struct Sealer {
    store: Store,
    keys: Arc<LogKeys>,
    view: Arc<LogView>,
    memory: Memory,
    seen: Seen,
    /// Entries of the next round. Fewer while one of them makes rounds fail.
    limit: i64,
}

/// The largest tree which is known to be the log's.
#[derive(Clone, Debug)]
struct Seen {
    log_id: i32,
    origin: String,
    tree: Frontier,
    signed_at: Option<DateTime<Utc>>,
}

/// What a round did.
#[derive(Debug, Default)]
pub struct Round {
    /// How many entries were sealed, and when the oldest of them was queued.
    pub sealed: usize,
    pub oldest: Option<DateTime<Utc>>,
    /// Entries that were set aside unsealed, each with the reason.
    pub quarantined: Vec<(i64, String)>,
    /// Sealed entries that were set aside: their versions are not those of their customers' consents.
    pub foreign: Vec<i64>,
    /// Sealed entries that could not be counted by day.
    pub uncounted: usize,
    /// A checkpoint that was signed now.
    pub signed: Option<Signed>,
    /// A checkpoint that this replica sees for the first time, whoever signed it.
    pub noticed: Option<Signed>,
    /// There is more to do at once.
    pub more: bool,
}

/// A checkpoint with its note.
#[derive(Clone, Debug)]
pub struct Signed {
    pub log_id: i32,
    pub checkpoint: Checkpoint,
    pub note: String,
}

/// Why a round went no further: the log is forked, or something failed that may not the next time.
#[derive(Debug, thiserror::Error)]
enum Halt {
    #[error("{0}")]
    Forked(String),
    #[error(transparent)]
    Failed(#[from] Error),
}

impl From<sqlx::Error> for Halt {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error.into())
    }
}

fn forked(why: impl Into<String>) -> Halt {
    Halt::Forked(why.into())
}

impl Sealer {
    /// `log` is the one that is open.
    pub fn new(store: Store, keys: Arc<LogKeys>, view: Arc<LogView>, memory: Memory, log: &Log) -> Self {
        view.change(|state| {
            state.log_id = log.log_id;
            state.origin.clone_from(&log.origin);
            state.fork.clone_from(&log.fork);
        });
        let seen =
            Seen { log_id: log.log_id, origin: log.origin.clone(), tree: Frontier::new(), signed_at: None };
        Self { store, keys, view, memory, seen, limit: append::BATCH }
    }

    /// Takes up what this replica remembers from before it was started.
    pub async fn recall(&mut self, now: DateTime<Utc>) -> Result<(), Error> {
        let Some((checkpoint, note)) = self.memory.recall(|origin| self.keys.believed_keys(origin))? else {
            return Ok(());
        };
        if checkpoint.origin != self.seen.origin {
            // Of an older log, or of one that this database does not have.
            return match self.store.open_log().await? {
                Some(log) if self.succeeds(&log, &checkpoint.origin).await? => Ok(()),
                _ => {
                    let why = format!(
                        "this replica has seen {} at size {}, which the database does not know",
                        checkpoint.origin, checkpoint.size
                    );
                    self.set_forked(&why, now).await
                }
            };
        }
        match self.store.frontier(self.seen.log_id, checkpoint.size).await {
            Ok(tree) if tree.root() == checkpoint.root => {
                self.seen.tree = tree;
                self.show(checkpoint, note, None);
                Ok(())
            }
            Ok(_) | Err(Error::DamagedLog(_)) => {
                let why = format!(
                    "the database does not show the tree of size {} with the root {} which this replica has seen",
                    checkpoint.size, checkpoint.root
                );
                self.show(checkpoint, note, None);
                self.set_forked(&why, now).await
            }
            Err(error) => Err(error),
        }
    }

    /// Follows, appends and signs, as far as there is something to do.
    pub async fn round(&mut self, now: DateTime<Utc>) -> Result<Round, Error> {
        let mut round = Round::default();
        let store = self.store.clone();
        match store.unless_lost(self.act(&mut round, now)).await {
            Ok(()) => {}
            Err(Halt::Failed(Error::DamagedLog(why)) | Halt::Forked(why)) => {
                self.set_forked(&why, now).await?;
            }
            Err(Halt::Failed(error)) => return Err(error),
        }
        Ok(round)
    }

    async fn act(&mut self, round: &mut Round, now: DateTime<Utc>) -> Result<(), Halt> {
        // The checkpoint before the log: what is signed is never larger than what is shown after it.
        let latest = self.store.latest_checkpoint(self.seen.log_id).await?;
        let log = self.store.open_log().await?.ok_or_else(|| forked("the database shows no open log"))?;
        if log.log_id != self.seen.log_id {
            return self.change_over(&log).await;
        }
        if let Some(why) = &log.fork {
            return Err(forked(why.clone()));
        }
        if let Some(why) = self.view.get().fork {
            // Known here, and not in the database: telling the others failed, or was undone.
            return Err(forked(why));
        }
        if log.tree_size.cast_unsigned() < self.seen.tree.size() {
            return Err(forked(format!(
                "the database shows a tree of size {}, where this replica has seen size {}",
                log.tree_size,
                self.seen.tree.size()
            )));
        }
        let kept = latest.as_ref().map_or(0, |latest| latest.tree_size.cast_unsigned());
        let again = if kept < self.seen.tree.size() { self.keep_again(&log, now).await? } else { None };
        if let Some(latest) = latest.filter(|_| kept >= self.seen.tree.size()) {
            round.noticed = self.follow(&log, &latest).await?;
        }
        self.append(round, now).await?;
        round.signed = self.sign(now).await?.or(again);
        Ok(())
    }

    /// A checkpoint that is remembered and that the database does not show: it was gone in the moment between the two, or
    /// somebody took the checkpoint away. If it has the tree, it is told again.
    async fn keep_again(&mut self, log: &Log, now: DateTime<Utc>) -> Result<Option<Signed>, Halt> {
        let size = self.seen.tree.size();
        if self.store.frontier(log.log_id, size).await?.root() != self.seen.tree.root() {
            return Err(forked(format!("the tree of size {size} has another root than before")));
        }
        let Some((checkpoint, note)) = self.view.get().checkpoint else { return Ok(None) };
        let is_new = self.store.keep_checkpoint(log.log_id, size.cast_signed(), &note, now).await?;
        self.seen.signed_at = Some(now);
        Ok(is_new.then_some(Signed { log_id: log.log_id, checkpoint, note }))
    }

    /// An operator has opened the next log, if its first leaf says so with the service's own word.
    async fn change_over(&mut self, log: &Log) -> Result<(), Halt> {
        if !self.succeeds(log, &self.seen.origin).await? {
            return Err(forked(format!(
                "the database shows the log {}, which does not follow {} by this service's word",
                log.origin, self.seen.origin
            )));
        }
        tracing::info!(origin = log.origin, "the audit log goes on in a new tree");
        self.seen =
            Seen { log_id: log.log_id, origin: log.origin.clone(), tree: Frontier::new(), signed_at: None };
        self.view.change(|state| {
            state.log_id = log.log_id;
            state.origin.clone_from(&log.origin);
            state.checkpoint = None;
            state.signed_at = None;
            state.fork = None;
        });
        Ok(())
    }

    /// Whether a log was opened by this service, and follows the one of this name, by however many steps.
    async fn succeeds(&self, log: &Log, origin: &str) -> Result<bool, Error> {
        let mut log_id = log.log_id;
        let writers = self.keys.believed_writers();
        while let Some(first) = self.store.leaves(log_id, 0, 1).await?.pop() {
            let Some(stored) = self.store.log_entry(first.audit_id).await? else { return Ok(false) };
            let LogEvent::Other { kind, details, .. } = &stored.entry.event else { return Ok(false) };
            if kind != LOG_OPENED
                || leaf(&stored, &writers).ok().as_deref() != Some(&first.leaf)
                || stored.mac.is_none()
            {
                return Ok(false);
            }
            match details["previous"]["origin"].as_str() {
                Some(previous) if previous == origin => return Ok(true),
                Some(_) => log_id -= 1,
                None => return Ok(false),
            }
        }
        Ok(false)
    }

    /// Takes up a checkpoint which some replica has signed, if it is larger than what was seen and follows from it.
    async fn follow(&mut self, log: &Log, latest: &StoredCheckpoint) -> Result<Option<Signed>, Halt> {
        let size = latest.tree_size.cast_unsigned();
        self.seen.signed_at = self.seen.signed_at.max(Some(latest.signed_at));
        if size == self.seen.tree.size() && self.view.get().checkpoint.is_some() {
            self.view.change(|state| state.signed_at = Some(latest.signed_at));
            return Ok(None);
        }
        let checkpoint = self.checked(log, size, &latest.note)?;
        let before = self.store.frontier(log.log_id, self.seen.tree.size()).await?;
        if before.root() != self.seen.tree.root() {
            return Err(forked(format!("the tree of size {} has another root than before", before.size())));
        }
        let tree = self.store.frontier(log.log_id, size).await?;
        if tree.root() != checkpoint.root {
            return Err(forked(format!("the tree of size {size} has not the root that was signed")));
        }
        self.seen.tree = tree;
        self.remember(&latest.note).await?;
        self.show(checkpoint.clone(), latest.note.clone(), Some(latest.signed_at));
        Ok(Some(Signed { log_id: log.log_id, checkpoint, note: latest.note.clone() }))
    }

    /// A checkpoint of this log and size, signed by a key that is or was ours.
    fn checked(&self, log: &Log, size: u64, note: &str) -> Result<Checkpoint, Halt> {
        let wrong =
            |why: String| forked(format!("the checkpoint of size {size} in the database is not ours: {why}"));
        let parsed = Note::parse(note).map_err(|fault| wrong(fault.to_string()))?;
        parsed.verify(&self.keys.believed_keys(&log.origin)?).map_err(|fault| wrong(fault.to_string()))?;
        let checkpoint = Checkpoint::parse(&parsed.text).map_err(|fault| wrong(fault.to_string()))?;
        if checkpoint.origin == log.origin && checkpoint.size == size {
            Ok(checkpoint)
        } else {
            Err(wrong("it is of another log or size".to_owned()))
        }
    }

    /// Signs what is committed beyond the last checkpoint, from the very bytes that the database gives back.
    async fn sign(&mut self, now: DateTime<Utc>) -> Result<Option<Signed>, Halt> {
        let log = self.store.open_log().await?.ok_or_else(|| forked("the database shows no open log"))?;
        let size = log.tree_size.cast_unsigned();
        if log.log_id != self.seen.log_id {
            return Ok(None);
        }
        if size == self.seen.tree.size() {
            if let Some((checkpoint, note)) = self.view.get().checkpoint
                && self.seen.signed_at.is_none_or(|signed| signed + SIGN_AGAIN_AFTER <= now)
            {
                self.store.keep_checkpoint(log.log_id, log.tree_size, &note, now).await?;
                self.seen.signed_at = Some(now);
                self.show(checkpoint, note, Some(now));
            }
            return Ok(None);
        }
        let tree = self.read_back(&log).await?;
        let checkpoint =
            Checkpoint { origin: log.origin.clone(), size, root: tree.root(), extensions: Vec::new() };
        let text = checkpoint.to_string();
        let signatures = self.keys.signers.iter().map(|key| key.sign_note(&log.origin, &text)).collect();
        let note = Note { text, signatures }.to_string();
        // Remembered before anybody else can see it: what is remembered and not kept is kept by the next round.
        self.remember(&note).await?;
        self.seen.tree = tree;
        self.show(checkpoint.clone(), note.clone(), None);
        let is_new = self.store.keep_checkpoint(log.log_id, log.tree_size, &note, now).await?;
        self.seen.signed_at = Some(now);
        self.show(checkpoint.clone(), note.clone(), Some(now));
        Ok(is_new.then_some(Signed { log_id: log.log_id, checkpoint, note }))
    }

    /// The tree with all leaves that are stored, each hashed anew and held against the hashes beside it.
    async fn read_back(&self, log: &Log) -> Result<Frontier, Halt> {
        let mut tree = self.seen.tree.clone();
        let mut nodes: Vec<(Node, Hash)> = Vec::new();
        while tree.size() < log.tree_size.cast_unsigned() {
            let first = tree.size().cast_signed();
            let leaves = self.store.leaves(log.log_id, first, CHUNK.min(log.tree_size - first)).await?;
            if leaves.is_empty() {
                return Err(forked(format!("leaf {first} is missing")));
            }
            let mut slice = TimeSlice::begin();
            for (leaf, index) in leaves.iter().zip(first..) {
                slice.end_if_over().await;
                let hash = leaf_hash(&leaf.leaf);
                if leaf.leaf_index != index || leaf.leaf_hash != hash.as_bytes() {
                    return Err(forked(format!("leaf {index} is not what its hash says")));
                }
                tree.append(hash, |node, hash| nodes.extend(node.tops_a_tile().then_some((node, hash))));
            }
        }
        let asked: Vec<Node> = nodes.iter().map(|(node, _)| *node).collect();
        let kept = self.store.hashes(log.log_id, &asked).await?;
        match nodes.iter().find(|(node, hash)| kept.get(node) != Some(hash)) {
            Some((node, _)) => {
                Err(forked(format!("node {} of level {} is not the leaves'", node.index, node.level)))
            }
            None => Ok(tree),
        }
    }

    async fn remember(&self, note: &str) -> Result<(), Error> {
        self.memory.remember(note).await.map_err(|error| {
            Error::Internal(format!(
                "the checkpoint cannot be remembered in {} ({error}): nothing is sealed before it can",
                self.memory.path().display()
            ))
        })
    }

    fn show(&self, checkpoint: Checkpoint, note: String, signed_at: Option<DateTime<Utc>>) {
        self.view.change(|state| {
            state.checkpoint = Some((checkpoint, note));
            state.signed_at = signed_at.or(state.signed_at);
        });
    }

    /// Stops the log: here at once, and for the other replicas in the database.
    async fn set_forked(&self, why: &str, now: DateTime<Utc>) -> Result<(), Error> {
        if self.view.get().fork.is_none() {
            tracing::error!(
                why,
                origin = self.seen.origin,
                "the audit log is forked: nothing is sealed any more"
            );
            self.view.change(|state| state.fork = Some(why.to_owned()));
        }
        self.store.mark_forked(self.seen.log_id, why, now).await
    }
}
