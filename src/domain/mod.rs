//! What things are and which changes are lawful: pure, no I/O, no async, no clock.

mod api_key;
mod audit;
mod consent;
mod customer;
mod erasure;
mod history;
pub mod instant;
pub mod json;
mod leaf;
mod link;
mod permission;
mod writer_key;

pub use api_key::{ApiKey, ApiKeyRecord, Authenticated, KeyFault, KeyHash, KeyKind, Principal, Scope};
pub use audit::{AuditAction, AuditEntry, AuditEvent, ConsentState, EntryField, EventKind};
pub use consent::{
    AnonymizationLevel, Change, Consent, ConsentRecord, ConsentStatus, ConsentTier, ConsentView,
    MAX_EXPIRY_YEARS, Precondition, Proposal, Refusal, decide, expire, next_time,
};
pub use customer::{Customer, CustomerTier, ids_beginning};
pub use erasure::{
    CustomerField, Erasure, ForeignVersion, LogOpening, PreviousLog, QuarantineResolution, ResolvedEntry,
    ranges,
};
pub use history::{Stretch, stretches};
pub use leaf::{
    CONSENT_CHANGED, Commitment, Commitments, LEAF_VERSION, LEAF_VERSIONS, LOG_OPENED, Leaf, LeafFault,
    LogEntry, LogEvent, MAX_BYTES as MAX_LEAF_BYTES, PII_ERASED, PII_READ, PersonalField,
    QUARANTINE_RESOLVED, Salted, Source, address_text, hex, unhex,
};
pub use link::{ConsentLink, LinkClaims, LinkKey, LinkToken};
pub use permission::{
    AnonymizationCheck, HeldPermissions, LevelPermission, Permission, PermissionCheck, Permissions, Reason,
    StorageCheck, StoragePermission,
};
pub use writer_key::WriterKey;
