//! What the command line promises by itself: help, manual pages, completions, clear refusals, and no half exports.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The commands as a user types them.
const COMMANDS: [&str; 40] = [
    "serve",
    "healthcheck",
    "load",
    "migrate",
    "migrate up",
    "migrate down",
    "migrate status",
    "migrate baseline",
    "demo",
    "consent",
    "consent get",
    "consent set",
    "consent withdraw",
    "consent check",
    "customer",
    "customer create",
    "customer get",
    "customer list",
    "audit",
    "audit list",
    "audit export",
    "audit verify",
    "audit proof",
    "audit mirror",
    "audit keygen",
    "audit new-log",
    "audit quarantine",
    "audit quarantine list",
    "audit quarantine resolve",
    "audit replay-erasures",
    "key",
    "key create",
    "key list",
    "key revoke",
    "key rotate",
    "openapi",
    "completions",
    "man",
    "help",
    "help consent",
];
const CUSTOMER: &str = "123e4567-e89b-12d3-a456-426614174000";

/// The program with no setting but those which a test gives it.
fn consentd(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_consentd"));
    command.env_clear().stdin(Stdio::null()).args(arguments);
    command
}

fn run(arguments: &[&str]) -> Output {
    consentd(arguments).output().expect("the program starts")
}

fn call(service: SocketAddr, arguments: &[&str]) -> Command {
    let mut command = consentd(arguments);
    command.env("CONSENTD_URL", format!("http://{service}")).env("CONSENTD_API_KEY", "vla_test_abcdnotakey");
    command
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("the program writes UTF-8")
}

/// What the program says, as if its lines had no end.
fn unwrapped(arguments: &[&str]) -> String {
    stdout(&run(arguments)).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("the program writes UTF-8")
}

/// The names of the commands, read from the manual pages, which know them from the command tree itself.
fn commands_with_pages(pages: &Path) -> Vec<String> {
    std::fs::read_dir(pages)
        .expect("the pages were written")
        .filter_map(|page| {
            let page =
                page.expect("the directory can be read").file_name().into_string().expect("names are ASCII");
            let name = page.strip_prefix("consentd-")?.strip_suffix(".1")?.to_owned();
            (!name.contains('-')).then_some(name)
        })
        .collect()
}

/// An address where nothing listens: it was free a moment ago.
fn deserted() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").expect("a port is free").local_addr().expect("it is bound")
}

/// A server that answers the first request with these bytes, waits, and hangs up.
fn broken_server(answer: &'static str, wait: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    std::thread::spawn(move || {
        let (mut connection, _) = listener.accept().expect("the program calls");
        let _ = connection.read(&mut [0; 4096]);
        let _ = connection.write_all(answer.as_bytes());
        std::thread::sleep(wait);
    });
    address
}

#[test]
fn the_help_lists_every_command_in_groups() {
    let pages = tempfile::tempdir().unwrap();
    run(&["man", "--dir", pages.path().to_str().unwrap()]);
    let output = run(&["--help"]);
    let help = stdout(&output);
    assert!(output.status.success());
    for heading in ["Service:", "Data:", "Access:", "Documents:", "Options:", "Examples:"] {
        assert!(help.contains(heading), "no {heading} in {help}");
    }
    for command in commands_with_pages(pages.path()) {
        let listed = help
            .lines()
            .any(|line| line.starts_with(&format!("  {command} ")) && line.split_whitespace().count() > 2);
        assert!(listed, "{command} is not explained in {help}");
    }
}

#[test]
fn every_command_has_help() {
    for command in COMMANDS {
        let mut arguments: Vec<_> = command.split(' ').collect();
        if arguments[0] != "help" {
            arguments.push("--help");
        }
        let output = run(&arguments);
        assert!(output.status.success(), "{command}: {}", stderr(&output));
        assert!(stdout(&output).contains("Usage: consentd"), "{command}");
    }
}

#[test]
fn the_help_names_the_environment_variable_and_the_default_of_a_flag() {
    let help = unwrapped(&["serve", "--help"]);
    assert!(help.contains("[env: CONSENTD_LISTEN]"), "{help}");
    assert!(help.contains("[default: 127.0.0.1:8080]"), "{help}");
    let help = unwrapped(&["key", "list", "--help"]);
    assert!(help.contains("[env: CONSENTD_API_KEY]"), "{help}");
    assert!(help.contains("[default: the operator key in the data directory]"), "{help}");
}

#[test]
fn the_help_never_shows_a_secret_from_the_environment() {
    let output =
        consentd(&["key", "list", "--help"]).env("CONSENTD_API_KEY", "vla_live_abcdcanary").output().unwrap();
    assert!(!stdout(&output).contains("canary"));
}

#[test]
fn without_a_command_the_help_is_shown_as_a_usage_error() {
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("Usage: consentd"));
}

#[test]
fn wrong_usage_exits_with_2_and_says_what_is_wrong() {
    for (arguments, wanted) in [
        (&["serf"][..], "serve"),
        (&["consent", "get", "17"], "invalid value '17' for '<CUSTOMER>'"),
        (&["consent", "set", CUSTOMER], "--tier <TIER>"),
        (
            &["consent", "set", CUSTOMER, "--tier", "all"],
            "[possible values: none, basic, analytics, research]",
        ),
        (&["consent", "get", CUSTOMER, "--as-of", "yesterday"], "a date (2026-01-31) or a time"),
        (&["consent", "check", CUSTOMER, "--exit-status"], "<PERMISSION>"),
        (&["audit", "list", "--ip", "here"], "--ip <CIDR>"),
        (&["audit", "list", "--limit", "0"], "--limit <N>"),
        (&["key", "create", "--name", "n", "--scope", "root"], "consent:read"),
        (&["key", "list", "--url", "127.0.0.1:8080"], "http://127.0.0.1:8080"),
        (&["key", "list", "--url", "ftp://example.com"], "begins with http:// or https://"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(wanted), "{arguments:?}: {}", stderr(&output));
    }
}

#[test]
fn where_nothing_listens_one_sentence_says_how_to_start_the_service() {
    let service = deserted();
    let output = call(service, &["consent", "get", CUSTOMER]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stderr(&output),
        format!(
            "error: nothing listens at http://{service}/: start the service with `consentd serve`, or say where it runs \
             with --url URL\n"
        )
    );
    assert!(output.stdout.is_empty());
}

#[test]
fn a_service_that_is_down_is_not_healthy() {
    let url = format!("http://{}", deserted());
    for arguments in [&["healthcheck", "--url", &url][..], &["healthcheck", "--live", "--url", &url]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(stderr(&output).lines().count(), 1);
    }
}

#[test]
fn without_a_key_one_sentence_says_where_it_was_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let output = consentd(&["key", "list", "--data-dir"]).arg(dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.starts_with("error: no API key: "), "{said}");
    assert!(said.contains(dir.path().join("operator.key").to_str().unwrap()), "{said}");
    assert_eq!(said.lines().count(), 1);
}

#[test]
fn somebody_elses_answer_is_told_from_a_refusal() {
    let server = broken_server(
        "HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>",
        Duration::ZERO,
    );
    let output = call(server, &["key", "list"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("502 Bad Gateway, and not as consentd does"), "{said}");
}

#[test]
fn an_export_that_breaks_off_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    for answer in [
        // The last chunk never comes.
        "HTTP/1.1 200 OK\r\ncontent-type: text/csv\r\ntransfer-encoding: chunked\r\n\r\n8\r\na,b\r\n1,2\r\n",
        // The body is shorter than was announced.
        "HTTP/1.1 200 OK\r\ncontent-type: text/csv\r\ncontent-length: 100\r\n\r\na,b\r\n1,2\r\n",
        // It ends in the middle of a line.
        "HTTP/1.1 200 OK\r\ncontent-type: text/csv\r\nconnection: close\r\n\r\na,b\r\n1,",
        // There is not even a header.
        "HTTP/1.1 200 OK\r\ncontent-type: text/csv\r\ncontent-length: 0\r\n\r\n",
    ] {
        let output = call(broken_server(answer, Duration::ZERO), &["audit", "export", "--output"])
            .arg(dir.path().join("trail.csv"))
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{answer}");
        let said = stderr(&output);
        assert!(said.contains("broke off after") && said.contains("not complete"), "{said}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{answer}");
    }
}

#[test]
fn an_interrupted_export_leaves_the_former_file_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("trail.ndjson");
    std::fs::write(&file, "the former export\n").unwrap();
    let server = broken_server(
        "HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n3\r\n{}\n\r\n",
        Duration::from_secs(20),
    );
    let export =
        call(server, &["audit", "export", "--output"]).arg(&file).stderr(Stdio::piped()).spawn().unwrap();
    let drafts = || {
        let files = std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap());
        files.filter(|file| file.path().extension().is_some_and(|end| end == "part")).collect::<Vec<_>>()
    };
    let start = Instant::now();
    while drafts().iter().all(|draft| draft.metadata().map_or(0, |file| file.len()) == 0) {
        assert!(start.elapsed() < Duration::from_secs(10), "the export did not begin");
        std::thread::sleep(Duration::from_millis(10));
    }
    let process = nix::unistd::Pid::from_raw(i32::try_from(export.id()).unwrap());
    nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGINT).unwrap();
    let output = export.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "error: interrupted: nothing was kept\n");
    assert_eq!(drafts().len(), 0);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "the former export\n");
}

#[test]
fn an_answer_in_another_format_is_not_taken_for_an_export() {
    let server = broken_server(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
        Duration::ZERO,
    );
    let output = call(server, &["audit", "export"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
}

#[test]
fn every_command_has_a_manual_page() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(&["man", "--dir", dir.path().join("man1").to_str().unwrap()]);
    assert!(output.status.success(), "{}", stderr(&output));
    for command in COMMANDS.iter().filter(|command| !command.starts_with("help")) {
        let page = format!("man1/consentd-{}.1", command.replace(' ', "-"));
        let text = std::fs::read_to_string(dir.path().join(&page)).expect(&page);
        assert!(text.contains(".TH"), "{page}");
    }
    assert!(dir.path().join("man1/consentd.1").exists());
    assert_eq!(stdout(&run(&["man"])).matches(".TH").count(), COMMANDS.len() - 2 + 1);
}

#[test]
fn every_shell_gets_a_completion_script_that_knows_the_commands() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let output = run(&["completions", shell]);
        assert!(output.status.success());
        for name in ["consentd", "withdraw", "healthcheck", "api-key-file"] {
            assert!(stdout(&output).contains(name), "{shell}: {name}");
        }
    }
}

#[test]
fn the_openapi_document_is_json() {
    let output = run(&["openapi"]);
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(document["openapi"].is_string());
}

#[test]
fn a_reader_that_has_read_enough_is_no_error() {
    let mut child = consentd(&["man"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert!(output.stderr.is_empty(), "{}", stderr(&output));
}
