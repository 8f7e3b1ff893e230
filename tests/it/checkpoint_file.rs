//! The file of all checkpoints: on a full disk, on a pipe, and read again after a write that broke off.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use chrono::TimeDelta;
use consentd::app::tasks::metrics::measure_signing;
use consentd::files::FileQueue;
use consentd::tlog::tree::Hash;
use consentd::tlog::{Checkpoint, Note, SigningKey};
use consentd::verify::outside::checkpoints;
use consentd::verify::{Keys, Report};
use nix::sys::stat::Mode;
use serde_json::json;

use crate::cluster::database;
use crate::log::running::Running;
use crate::service::Service;

const ORIGIN: &str = "log.example/audit/1";

/// A signed checkpoint, by one key or by two.
fn note(size: u64, keys: &[SigningKey]) -> String {
    let root = Hash([u8::try_from(size).expect("a small tree"); 32]);
    let text = Checkpoint { origin: ORIGIN.to_owned(), size, root, extensions: Vec::new() }.to_string();
    let signatures = keys.iter().map(|key| key.sign_note(ORIGIN, &text)).collect();
    Note { text, signatures }.to_string() + "\n"
}

/// The sizes of the signed checkpoints of a file.
fn signed(file: &Path, keys: &[SigningKey], report: &mut Report) -> Vec<u64> {
    let trusted = Keys::Own { signers: keys.to_vec(), retired: Vec::new() };
    let found = checkpoints(file, report).expect("the file holds notes");
    found
        .iter()
        .filter(|found| found.is_signed(&trusted, report))
        .map(|found| found.checkpoint.size)
        .collect()
}

#[test]
fn a_fragment_between_good_notes_is_a_remark_wherever_the_write_broke_off() {
    let directory = tempfile::tempdir().expect("a folder");
    let file = directory.path().join("checkpoints");
    let keys = [SigningKey::from_seed([1; 32]), SigningKey::from_seed([2; 32])];
    for keys in [&keys[..1], &keys[..]] {
        let [first, cut, last] = [1, 2, 3].map(|size| note(size, keys));
        for length in 1..cut.len() {
            for separator in ["", "\n", "\n\n"] {
                let fragment = &cut.as_bytes()[..length];
                let text = [first.as_bytes(), fragment, separator.as_bytes(), last.as_bytes()].concat();
                fs::write(&file, text).expect("a file");
                let mut report = Report::default();
                let sizes = signed(&file, keys, &mut report);
                assert_eq!(report.findings, [], "{length} {separator:?}");
                // A line is not cut where the next note begins on it: then that one is lost as well.
                assert!(sizes.starts_with(&[1]), "{length} {separator:?}: {sizes:?}");
                if !separator.is_empty() {
                    assert!(sizes.ends_with(&[3]), "{length} {separator:?}: {sizes:?}");
                    assert!(sizes.contains(&2) || !report.remarks.is_empty(), "{length} {separator:?}");
                }
            }
        }
    }
}

#[test]
fn a_changed_checkpoint_beside_good_ones_stays_a_finding() {
    let directory = tempfile::tempdir().expect("a folder");
    let file = directory.path().join("checkpoints");
    let keys = [SigningKey::from_seed([1; 32])];
    let [first, second] = [1, 2].map(|size| note(size, &keys));
    let forged = second.replace("\n2\n", "\n9\n");
    fs::write(&file, format!("{first}{forged}{first}")).expect("a file");
    let mut report = Report::default();
    assert_eq!(signed(&file, &keys, &mut report), [1, 1]);
    assert_eq!(report.findings.len(), 1);
}

async fn failures(running: &Running) -> u64 {
    let metrics = running.get("/metrics").await;
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix("consentd_audit_checkpoint_failures_total{place=\"file\"} "));
    line.expect("the metric is there").parse().expect("a number")
}

#[tokio::test]
async fn a_full_disk_leaves_whole_notes_in_the_file_and_stops_nothing() {
    let database = database().await;
    let data_dir = tempfile::tempdir().expect("a folder");
    let file = data_dir.path().join("checkpoints");
    let settings = [("CONSENTD_AUDIT_CHECKPOINT_FILE", file.to_str().expect("UTF-8"))];
    // No file may be longer than 512 bytes: two notes fit, and a part of the third.
    let limited = |program: &Command| {
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' XFSZ; ulimit -f 1; exec \"$@\"", "sh"]);
        shell.arg(program.get_program()).args(program.get_args());
        shell.env_clear().envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        shell
    };
    let running = Running::start_by(&database, data_dir.path(), &settings, limited).await;
    let customer = running.customer("a@example.com").await;
    let mut last = 0;
    while failures(&running).await == 0 {
        last = running.change(customer).await;
        running.proof(last).await;
    }
    let proof = running.proof(last).await;
    assert!(proof.contains(ORIGIN));
    let written = fs::read_to_string(&file).expect("the file");
    assert!(written.ends_with("\n\n") && written.len() <= 1024, "{written}");
    running.stop().await;

    let key = fs::read_to_string(data_dir.path().join("audit.key")).expect("the key");
    let keys = SigningKey::from_pem(&key).expect("a key");
    let running = Running::start(&database, data_dir.path(), &settings).await;
    running.proof(running.change(customer).await).await;
    running.stop().await;
    let mut report = Report::default();
    let sizes = signed(&file, &keys, &mut report);
    assert!(sizes.len() >= 2 && sizes.is_sorted(), "{sizes:?}");
    assert!(report.findings.is_empty() && report.remarks.is_empty(), "{report:?}");
}

fn pipe(data_dir: &Path) -> std::path::PathBuf {
    let path = data_dir.join("pipe");
    nix::unistd::mkfifo(&path, Mode::S_IRWXU).expect("a pipe");
    path
}

#[tokio::test]
async fn a_pipe_without_a_reader_holds_up_neither_requests_nor_the_sealer_nor_the_end() {
    let database = database().await;
    let data_dir = tempfile::tempdir().expect("a folder");
    let pipe = pipe(data_dir.path());
    let settings = [("CONSENTD_AUDIT_CHECKPOINT_FILE", pipe.to_str().expect("UTF-8"))];
    let running = Running::start(&database, data_dir.path(), &settings).await;
    let customer = running.customer("a@example.com").await;
    for _ in 0..3 {
        running.proof(running.change(customer).await).await;
    }
    running.says("checkpoints could not be written to their file").await;
    assert!(failures(&running).await > 0);
    running.proof(running.change(customer).await).await;
    // The first verification, a few seconds after the start, passes the pipe over.
    running.says("verified the audit log").await;
    running.stop().await;
}

#[tokio::test]
async fn a_pipe_with_a_reader_gets_every_note_and_no_failure_is_counted() {
    let database = database().await;
    let data_dir = tempfile::tempdir().expect("a folder");
    let pipe = pipe(data_dir.path());
    let settings = [("CONSENTD_AUDIT_CHECKPOINT_FILE", pipe.to_str().expect("UTF-8"))];
    let (path, notes) = (pipe.clone(), Arc::new(AtomicU32::new(0)));
    let counted = Arc::clone(&notes);
    std::thread::spawn(move || {
        loop {
            let reader = BufReader::new(fs::File::open(&path).expect("the pipe"));
            for line in reader.lines().map_while(Result::ok) {
                counted.fetch_add(u32::from(line == ORIGIN), Ordering::Relaxed);
            }
        }
    });
    let running = Running::start(&database, data_dir.path(), &settings).await;
    let customer = running.customer("a@example.com").await;
    for _ in 0..3 {
        running.proof(running.change(customer).await).await;
    }
    crate::log::eventually("the notes arrive", async || notes.load(Ordering::Relaxed) >= 3).await;
    assert_eq!(failures(&running).await, 0);
    assert!(running.get("/metrics").await.contains("\nconsentd_audit_checkpoint_age_seconds "));
    running.stop().await;
}

#[tokio::test]
async fn a_drive_that_does_not_answer_holds_one_thread_and_every_caller_has_a_deadline() {
    let queue = FileQueue::default();
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let runs = Arc::new(AtomicU32::new(0));
    let deadline = Duration::from_millis(50);
    let stuck = queue.run(deadline, move || Ok(blocked.recv().is_ok())).await;
    assert_eq!(stuck.expect_err("it is stuck").kind(), std::io::ErrorKind::TimedOut);
    for _ in 0..3 {
        let counted = Arc::clone(&runs);
        let next = queue.run(deadline, move || Ok(counted.fetch_add(1, Ordering::Relaxed))).await;
        assert_eq!(next.expect_err("it waits").kind(), std::io::ErrorKind::TimedOut);
    }
    assert_eq!(runs.load(Ordering::Relaxed), 0);
    release.send(()).expect("it waits");
    assert!(queue.run(Duration::from_secs(30), || Ok(true)).await.expect("the drive answers"));
}

#[tokio::test]
async fn a_replica_that_cannot_remember_its_checkpoint_says_within_a_minute_that_nothing_is_signed() {
    let service = Service::start().await;
    let mut sealer = service.sealer().await;
    let customer = service.customer().await;
    let measure = |after: i64| {
        let now = service.now() + TimeDelta::seconds(after);
        measure_signing(&service.view, &service.cache.health, service.now(), now);
    };
    let signing = async || {
        let ready = service.get("/readyz").no_key().send().await.expect(200).json();
        let parts = ready["dependencies"].as_array().expect("a list").clone();
        parts.into_iter().find(|part| part["name"] == "audit_signing").expect("it is listed")["condition"]
            .clone()
    };
    sealer.round(service.now()).await.expect("a round");
    sealer.round(service.now()).await.expect("a round");
    measure(59);
    assert_eq!(signing().await, "up");

    // As full as a disk can be, for every user: its directory is a file.
    let directory = service.outside.path();
    fs::rename(directory, directory.with_extension("away")).expect("it is moved away");
    fs::write(directory, "").expect("a file");
    service.put(customer, &json!({"consent_tier": "basic"})).send().await.expect(201);
    sealer.round(service.now()).await.expect_err("nothing is signed that is not remembered");
    measure(61);
    assert_eq!(signing().await, "down");

    fs::remove_file(directory).expect("the file goes");
    fs::rename(directory.with_extension("away"), directory).expect("the directory is back");
    service.advance(TimeDelta::seconds(61));
    sealer.round(service.now()).await.expect("a round");
    measure(1);
    assert_eq!(signing().await, "up");
}
