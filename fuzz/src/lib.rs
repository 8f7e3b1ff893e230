//! The module that is fuzzed, without the service around it: it uses nothing of it, and builds in seconds.

#[path = "../../src/tlog/mod.rs"]
pub mod tlog;

#[path = "../../src/domain/leaf.rs"]
pub mod leaf;
