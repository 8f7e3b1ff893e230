//! Calls a service on so many keep-alive connections, one request at a time on each, and prints what came of it as one
//! line of JSON. The first argument is the mode: what is called.

mod arguments;
mod client;
mod dice;
mod download;
mod figures;
mod put;
mod read;
mod replica;
mod select;
mod walk;

use std::process::ExitCode;

use arguments::Arguments;
use tokio::task::LocalSet;

type Failure = Box<dyn std::error::Error>;

const USAGE: &str = "bench-driver put|read|select|walk|download|replica --NAME VALUE …";

async fn run(mut words: impl Iterator<Item = String>) -> Result<String, Failure> {
    let mode = words.next().ok_or(USAGE)?;
    let arguments = Arguments::read(words)?;
    match mode.as_str() {
        "put" => put::run(arguments).await,
        "read" => read::run(arguments).await,
        "select" => select::run(arguments).await,
        "walk" => walk::run(arguments).await,
        "download" => download::run(arguments).await,
        "replica" => replica::run(arguments).await,
        _ => Err(USAGE.into()),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match LocalSet::new().run_until(run(std::env::args().skip(1))).await {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}
