//! Clients for outgoing HTTP calls. All of them are made here, so that one rule holds for all: an answer counts only for the
//! request that was sent. No redirect is followed: it would turn a POST into a GET, or send a key to another host.

use std::error::Error;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Response, blocking};

const USER_AGENT: &str = concat!("consentd/", env!("CARGO_PKG_VERSION"));

/// Returns a builder of clients with the rules that hold for all outgoing calls.
pub fn client() -> ClientBuilder {
    install_tls();
    Client::builder().user_agent(USER_AGENT).redirect(Policy::none())
}

/// Builds the same client for threads outside the runtime.
pub fn blocking_client(limit: Duration) -> reqwest::Result<blocking::Client> {
    install_tls();
    blocking::Client::builder().user_agent(USER_AGENT).redirect(Policy::none()).timeout(limit).build()
}

fn install_tls() {
    // An error means that one is installed already, by another part of the process.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Reads the body of an answer, which must not be longer than `limit` bytes.
pub async fn text(mut answer: Response, limit: usize) -> Result<String, String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(cause)? {
        if bytes.len() + chunk.len() > limit {
            return Err(format!("its answer is longer than {limit} bytes"));
        }
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8(bytes).map_err(|_| "its answer is not UTF-8".to_owned())
}

/// Returns the innermost cause: the outer ones hold the address, which may hold a password or a token.
pub fn cause(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut cause: &dyn Error = &error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
