//! Makes a cluster: beside its final place, so that it is there whole or not at all.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nix::sys::signal::Signal;

use super::DATABASE;
use super::account::Account;
use super::place::{Passwords, Place, no_room, refusal, remove_file, says_no_room};
use super::programs::Programs;
use super::server::die_with_us;
use crate::config::Secret;
use crate::error::StartError;

/// The superuser, who owns the schema. No login role is named like the schema, which would otherwise be the first
/// that unqualified names are looked up in.
pub const OWNER: &str = "consentd_owner";

/// The role that serves.
pub const SERVICE: &str = "consentd_service";

/// Makes the cluster with its roles and its empty database. This blocks for a second or two.
pub fn create(place: &Place, programs: &Programs, account: &Account) -> Result<Passwords, StartError> {
    account.check_name()?;
    tracing::info!(data = %place.data.display(), major = programs.major(), "making a private PostgreSQL");
    // What an interrupted start left behind.
    if let Err(error) = fs::remove_dir_all(&place.unfinished)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(refusal("remove", &place.unfinished, &error));
    }
    let passwords = Passwords { owner: random_password()?, service: random_password()? };
    place.keep(&passwords)?;
    initdb(place, programs, account, &passwords)?;
    create_roles(place, programs, account, &passwords)?;
    fs::rename(&place.unfinished, &place.data)
        .and_then(|()| File::open(&place.directory)?.sync_all())
        .map_err(|error| refusal("make", &place.data, &error))?;
    Ok(passwords)
}

fn random_password() -> Result<Secret, StartError> {
    let mut bytes = [0; 24];
    getrandom::fill(&mut bytes).map_err(|error| {
        StartError::new(format!("the system gives no random bytes ({error}): see getrandom(2)"))
    })?;
    Ok(Secret::from(URL_SAFE_NO_PAD.encode(bytes)))
}

fn initdb(
    place: &Place,
    programs: &Programs,
    account: &Account,
    passwords: &Passwords,
) -> Result<(), StartError> {
    let password_file = place.directory.join("owner.password");
    account
        .private_file(&password_file, passwords.owner.reveal())
        .map_err(|error| refusal("write", &password_file, &error))?;
    let run = |locale: &str| {
        let mut command = account.command(&programs.program("initdb"));
        command
            .args(["--username", OWNER, "--auth=scram-sha-256", "--encoding=UTF8", "--data-checksums"])
            .args(["--lc-messages=C", "--no-instructions", "--locale", locale])
            .arg("--pwfile")
            .arg(&password_file)
            .arg("--pgdata")
            .arg(&place.unfinished);
        run(command, "")
    };
    let outcome = match run("C.UTF-8") {
        Ok(output) if String::from_utf8_lossy(&output.stderr).contains("invalid locale") => run("C"),
        outcome => outcome,
    };
    remove_file(&password_file).map_err(|error| refusal("remove", &password_file, &error))?;
    succeeded("initdb", &place.unfinished, outcome)
}

/// Through a server without network or socket, that ends with its input.
fn create_roles(
    place: &Place,
    programs: &Programs,
    account: &Account,
    passwords: &Passwords,
) -> Result<(), StartError> {
    // The first migration makes `vlaapi_app` where it is missing; here the service's role is a member from the start.
    let statements = format!(
        "create role vlaapi_app nologin;\n\
         create role {SERVICE} login password '{}';\n\
         grant vlaapi_app to {SERVICE};\n\
         create database {DATABASE};\n",
        passwords.service.reveal()
    );
    let mut command = account.command(&programs.program("postgres"));
    command
        .args(["--single", "-c", "exit_on_error=on", "-c", "log_min_error_statement=panic", "-D"])
        .arg(&place.unfinished)
        .arg("postgres");
    succeeded("postgres --single", &place.unfinished, run(command, &statements))
}

fn run(mut command: Command, input: &str) -> io::Result<Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // This thread waits below until the program has ended, as the signal needs it.
    die_with_us(&mut command, Signal::SIGKILL);
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends before it has read everything says why itself.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output()
}

fn succeeded(program: &str, directory: &Path, outcome: io::Result<Output>) -> Result<(), StartError> {
    let output = outcome.map_err(|error| StartError::new(format!("cannot run {program}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    if says_no_room(&String::from_utf8_lossy(&output.stderr)) {
        return Err(StartError::new(no_room(&directory.display().to_string())));
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let words: Vec<&str> = words
        .lines()
        .filter(|line| line.contains("error:") || line.contains("FATAL:") || line.contains("PANIC:"))
        .collect();
    Err(StartError::new(format!(
        "{program} could not make a private PostgreSQL in {} ({}): {}",
        directory.display(),
        output.status,
        words.join("; ")
    )))
}
