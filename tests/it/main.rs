//! Whether the service keeps its promises: through HTTP, the command line and SQL, on a real PostgreSQL.

mod access;
mod attacks;
mod audit;
mod cli;
mod cli_client;
mod cluster;
mod consent;
mod demo;
mod embedded;
mod expiry;
mod keys;
mod layers;
mod leaf;
mod log;
mod migrations;
mod observe;
mod permissions;
mod program;
mod refusals;
mod robustness;
mod rules;
mod server;
mod service;
mod spec;
mod tlog;
