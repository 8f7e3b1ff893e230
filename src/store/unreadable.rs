//! Values that another program stored, and that this one cannot read: they are reported, and read in the most private way.

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

static UNREADABLE: AtomicU64 = AtomicU64::new(0);

/// Counts and logs an unreadable value. The value is not logged: it may be personal data.
pub fn report(table: &'static str, column: &'static str, row: impl Display) {
    UNREADABLE.fetch_add(1, Ordering::Relaxed);
    tracing::warn!(table, column, %row, "the database holds a value that cannot be read");
}

/// Returns how many unreadable values were read since the start.
pub fn count() -> u64 {
    UNREADABLE.load(Ordering::Relaxed)
}

/// The stand-in for JSON that cannot be read: PostgreSQL holds deeper nesting and larger numbers than this program reads.
pub(super) fn placeholder() -> Value {
    json!({ "unreadable": true })
}
