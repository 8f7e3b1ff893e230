//! Starts the tests' PostgreSQL once, runs a command that shares it, and passes the command's exit code on:
//! `cargo run --example with_test_cluster -- cargo nextest run`.

#[expect(dead_code, reason = "this needs the cluster alone, the tests need the databases too")]
#[path = "../tests/it/cluster.rs"]
mod cluster;

use std::env;
use std::process::ExitCode;

use tokio::process::Command;

#[tokio::main]
async fn main() -> ExitCode {
    let mut words = env::args_os().skip(1);
    let Some(program) = words.next() else {
        eprintln!("usage: with_test_cluster COMMAND [ARGUMENT]...");
        return ExitCode::from(2);
    };
    let mut cluster = cluster::OwnCluster::start_with_template().await;
    let mut command = Command::new(&program);
    command.args(words).env(cluster::SHARED, cluster.socket_directory());
    // What cargo told this program of its package: ring's build reads some of it, and would begin anew each time.
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CARGO_PKG_")) {
        command.env_remove(name);
    }
    let status = command.status().await;
    cluster.stop().await;
    match status {
        // A command that a signal ended has no code.
        Ok(status) => ExitCode::from(status.code().and_then(|code| code.try_into().ok()).unwrap_or(1)),
        Err(error) => {
            eprintln!("cannot run {}: {error}", program.display());
            ExitCode::from(127)
        }
    }
}
