//! The audit log: vouching for entries when they are written, and sealing them a moment later.
//!
//! | part | what it does |
//! | --- | --- |
//! | [`vouching`] | leaf, salts and mac of an entry, before it is written |
//! | [`opening`] | the first log of a database, and the next one after a fork |
//! | [`sealer`] | appends what is queued, reads it back, signs |
//! | [`quarantine`] | resolves findings about entries that are set aside |
//! | [`memory`] | the largest checkpoint that this replica saw |
//! | [`receipt`] | a signed promise that an entry will be in the log |
//! | [`verifying`] | who asks for a verification, and how far it is |

use std::sync::RwLock;

use chrono::{DateTime, Utc};

use crate::domain::WriterKey;
use crate::error::Error;
use crate::tlog::note::KeyFault;
use crate::tlog::{Checkpoint, RetiredKey, SigningKey, VerifierKey};

pub mod memory;
pub mod opening;
pub mod quarantine;
pub mod receipt;
pub mod sealer;
pub mod verifying;
pub mod vouching;

/// The keys of the log, of which the database sees none.
#[derive(Clone, Debug)]
pub struct LogKeys {
    /// The first vouches for new entries; while keys are changed, the word of the others is believed too.
    pub writers: Vec<WriterKey>,
    /// All of them sign.
    pub signers: Vec<SigningKey>,
    pub retired: RetiredKeys,
}

/// Keys of former times: what they signed and vouched for is believed, and they make nothing new.
#[derive(Clone, Debug, Default)]
pub struct RetiredKeys {
    pub writers: Vec<WriterKey>,
    pub signers: Vec<RetiredKey>,
}

impl LogKeys {
    /// The public keys of those that sign, under the name of a log.
    pub fn verifier_keys(&self, origin: &str) -> Result<Vec<VerifierKey>, Error> {
        named(origin, self.signers.iter().map(|key| key.verifier_key(origin)))
    }

    /// Likewise, and of those that did.
    pub fn believed_keys(&self, origin: &str) -> Result<Vec<VerifierKey>, Error> {
        let retired = named(origin, self.retired.signers.iter().map(|key| key.verifier_key(origin)))?;
        Ok([self.verifier_keys(origin)?, retired].concat())
    }

    /// The writers' keys, and those that were.
    pub fn believed_writers(&self) -> Vec<WriterKey> {
        [self.writers.clone(), self.retired.writers.clone()].concat()
    }
}

fn named(
    origin: &str,
    keys: impl Iterator<Item = Result<VerifierKey, KeyFault>>,
) -> Result<Vec<VerifierKey>, Error> {
    keys.collect::<Result<_, _>>()
        .map_err(|fault| Error::Internal(format!("{origin} cannot be the name of a key: {fault}")))
}

/// What this replica knows of the log, for whoever asks.
#[derive(Debug, Default)]
pub struct LogView(RwLock<LogState>);

#[derive(Clone, Debug, Default)]
pub struct LogState {
    pub log_id: i32,
    /// Empty before the log is known.
    pub origin: String,
    /// The largest checkpoint, and its note without the witnesses' cosignatures.
    pub checkpoint: Option<(Checkpoint, String)>,
    pub signed_at: Option<DateTime<Utc>>,
    /// Why the log cannot go on, if it cannot.
    pub fork: Option<String>,
    /// Unresolved entries in quarantine, as last counted.
    pub quarantined: i64,
}

impl LogView {
    /// Records how many unresolved entries are in quarantine.
    pub fn set_quarantined(&self, quarantined: i64) {
        self.change(|state| state.quarantined = quarantined);
    }

    pub fn get(&self) -> LogState {
        self.0.read().map(|state| state.clone()).unwrap_or_default()
    }

    fn change(&self, change: impl FnOnce(&mut LogState)) {
        if let Ok(mut state) = self.0.write() {
            change(&mut state);
        }
    }
}
