//! The audit log in the database: its queue, leaves, nodes and checkpoints.
//!
//! | part | what it does |
//! | --- | --- |
//! | [`sealing`] | takes what is queued and appends it |
//! | [`reading`] | leaves, nodes and checkpoints, for proofs, tiles and verification |
//! | [`entries`] | entries and events as the log sees them |

pub mod entries;
pub mod reading;
pub mod sealing;
