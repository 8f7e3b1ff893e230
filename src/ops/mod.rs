//! One function per thing that someone can do that changes something.

pub mod access;
pub mod consents;
pub mod customers;
pub mod erasure;
pub mod expiry;
pub mod idempotency;
pub mod keys;
pub mod links;
pub mod log;
pub mod sessions;
