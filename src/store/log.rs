//! The audit log in the database: its queue, leaves, nodes and checkpoints.
//!
//! | part | what it does |
//! | --- | --- |
//! | [`sealing`] | takes what is queued and appends it |
//! | [`reading`] | leaves, nodes and checkpoints, for proofs, tiles and verification |
//! | [`entries`] | entries and events as the log sees them |
//! | [`quarantine`] | entries that are set aside |

pub mod entries;
pub mod quarantine;
pub mod reading;
pub mod sealing;
