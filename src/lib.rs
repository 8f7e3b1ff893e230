//! Consent management for the VLA Inference API.
//!
//! Data flows one way; every concept has one room:
//!
//! | room | holds |
//! | --- | --- |
//! | [`domain`] | what things are and which changes are lawful: pure, no I/O, no clock |
//! | [`tlog`] | a transparency log's formats and proofs: pure, and no word of consent |
//! | [`store`] | everything that speaks SQL |
//! | [`cache`] | what the hot path asks for, in memory, and how it stays true |
//! | [`ops`] | one function per thing that someone can do that changes something |
//! | [`verify`] | the audit log, held against every rule; offline too |
//! | [`http`] | the API: router, authentication, extractors, problems |
//! | [`postgres`] | the embedded default: a private PostgreSQL which the service runs itself |
//! | [`app`] | opens the database, makes the clock, serves, stops |
//! | [`cli`] | the commands |
//! | [`config`] | every setting: flag, environment variable, default, help |
//! | [`error`] | what can go wrong, without HTTP |
//! | [`background`] | how long work makes way for short requests |
//! | [`files`] | files that are written whole, with modes of their own |
//! | [`outbound`] | clients for outgoing HTTP calls |
//! | [`health`] | the state of this replica, for `/readyz` and the metrics |
//! | [`telemetry`] | logs, metrics, traces |
//!
//! `main → cli → app → http → ops → store → domain`; reads go from `http` straight to `store`, those of the hot path to `cache`.

pub mod app;
pub mod background;
pub mod cache;
pub mod cli;
pub mod config;
pub mod domain;
pub mod error;
pub mod files;
pub mod health;
pub mod http;
pub mod ops;
pub mod outbound;
pub mod postgres;
pub mod store;
pub mod telemetry;
pub mod tlog;
pub mod verify;
