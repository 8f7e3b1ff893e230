//! What `bench/speed` holds reads against: axum that answers a constant, with no middleware at all:
//! `cargo run --release --example constant -- 127.0.0.1:9000 '{"allowed":true}'`. `bench/driver` builds it too.

use std::process::ExitCode;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [address, body] = words.as_slice() else {
        eprintln!("usage: constant ADDRESS BODY");
        return ExitCode::from(2);
    };
    let body: &'static str = body.clone().leak();
    let constant = get(async move || ([(CONTENT_TYPE, "application/json")], body));
    let router = Router::new()
        .route("/v1/customers/{customer_id}/consent", constant.clone())
        .route("/v1/customers/{customer_id}/consent/permissions", constant);
    let served = match TcpListener::bind(address).await {
        Ok(listener) => axum::serve(listener, router).await,
        Err(error) => Err(error),
    };
    if let Err(error) = served {
        eprintln!("{address}: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
