//! The log's keys: made once, the same for all replicas, changed without a gap.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use consentd::tlog::note::Algorithm;
use consentd::tlog::{Note, VerifierKey};

use super::running::{Running, copy_of, logins, refusal};
use super::{ORIGIN, eventually, program, prove, said};
use crate::cluster::database;

/// What `openssl genpkey -algorithm ed25519` made, and the public half of it, for machines without the program.
const MADE_BY_OPENSSL: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
-----END PRIVATE KEY-----
";

/// A key made by openssl, in this file; answers its public half.
fn key_of_openssl(file: &Path) -> [u8; 32] {
    let openssl = |arguments: &[&str]| {
        let mut command = Command::new("openssl");
        command.args(arguments).arg(file).output().ok().filter(|output| output.status.success())
    };
    if openssl(&["genpkey", "-algorithm", "ed25519", "-out"]).is_none() {
        std::fs::write(file, MADE_BY_OPENSSL).expect("a file");
    }
    match openssl(&["pkey", "-pubout", "-outform", "DER", "-in"]) {
        Some(output) => *output.stdout.last_chunk().expect("a public key ends with its 32 bytes"),
        None => *consentd::tlog::SigningKey::from_pem(MADE_BY_OPENSSL).expect("a key")[0]
            .verifier_key("a")
            .expect("a key")
            .public_key(),
    }
}

fn vkeys(text: &str) -> Vec<VerifierKey> {
    text.lines().map(|line| line.parse().expect("a verifier key")).collect()
}

#[tokio::test]
async fn the_first_start_makes_both_keys_and_no_replica_serves_without_them() {
    let database = database().await;
    let first = tempfile::tempdir().unwrap();
    let running = Running::start(&database, first.path(), &[]).await;
    for file in ["audit.key", "audit-writer.key"] {
        let mode = std::fs::metadata(first.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let vkey = running.get("/.well-known/consentd-audit.vkey").await;
    running.stop().await;

    let settings = logins(&database.service, &database.owner);
    let without = async |files: &[&str], new: &[&[&str]]| {
        let (_folder, path) = copy_of(first.path(), files);
        for arguments in new {
            said(&program(&path, &[&["audit", "keygen"], *arguments].concat()).output().unwrap());
        }
        refusal(&settings, &path).await
    };
    let refused = without(&[], &[]).await;
    assert!(refused.contains("/audit.key is not there: copy it from the replica"), "{refused}");
    let refused = without(&["audit.key"], &[]).await;
    assert!(refused.contains("/audit-writer.key is not there: copy it from the replica"), "{refused}");
    let refused = without(&["audit-writer.key"], &[&[]]).await;
    assert!(
        refused.contains(vkey.trim()) && refused.contains("copy audit.key from the replica"),
        "{refused}"
    );
    let refused = without(&["audit.key"], &[&["--writer"]]).await;
    assert!(refused.contains("copy audit-writer.key from the replica that has it"), "{refused}");

    // With copies, wherever they are.
    let elsewhere = tempfile::tempdir().unwrap();
    let mut settings = settings.clone();
    for (name, file) in
        [("CONSENTD_AUDIT_KEY_FILE", "audit.key"), ("CONSENTD_AUDIT_WRITER_KEY_FILE", "audit-writer.key")]
    {
        settings.push((name, first.path().join(file).to_str().unwrap().to_owned()));
    }
    let running = Running::start_with(&settings, elsewhere.path()).await;
    assert_eq!(running.get("/.well-known/consentd-audit.vkey").await, vkey);
    assert!(!elsewhere.path().join("audit.key").exists());
    running.stop().await;
}

#[tokio::test]
async fn a_key_made_by_openssl_signs_the_log() {
    let database = database().await;
    let data_dir = tempfile::tempdir().unwrap();
    let file = data_dir.path().join("made-by-openssl.pem");
    let key = VerifierKey::new(ORIGIN, Algorithm::Ed25519, key_of_openssl(&file)).unwrap();
    let settings = [("CONSENTD_AUDIT_KEY_FILE", file.to_str().unwrap())];
    let running = Running::start(&database, data_dir.path(), &settings).await;
    assert_eq!(running.get("/.well-known/consentd-audit.vkey").await, format!("{key}\n"));
    let audit_id = running.change(running.customer("a@example.com").await).await;
    prove(&running.proof(audit_id).await, &[key]);
    running.stop().await;
}

#[test]
fn keygen_replaces_no_key_and_prints_what_auditors_need() {
    let data_dir = tempfile::tempdir().unwrap();
    let keygen = |arguments: &[&str]| {
        program(data_dir.path(), &[&["audit", "keygen", "--name", "log.example"], arguments].concat())
            .output()
            .unwrap()
    };
    let refused = keygen(&["--retire"]);
    assert!(!refused.status.success());
    let first = vkeys(&said(&keygen(&[])));
    assert_eq!((first.len(), first[0].name()), (1, ORIGIN));
    let text = std::fs::read_to_string(data_dir.path().join("audit.key")).unwrap();
    let refused = keygen(&[]);
    let sentence = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && sentence.contains("a key is never replaced"), "{sentence}");
    assert_eq!(std::fs::read_to_string(data_dir.path().join("audit.key")).unwrap(), text);
    let refused = keygen(&["--retire"]);
    let sentence = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && sentence.contains("holds one key alone"), "{sentence}");

    let both = vkeys(&said(&keygen(&["--add", "--number", "2"])));
    assert_eq!((both.len(), both[0].name()), (2, "log.example/audit/2"));
    assert_eq!(both[0].public_key(), first[0].public_key());
    let left = vkeys(&said(&keygen(&["--retire"])));
    assert_eq!((left.len(), left[0].public_key()), (1, both[1].public_key()));
    let text = std::fs::read_to_string(data_dir.path().join("audit.key")).unwrap();
    let blocks = |kind: &str| text.matches(&format!("BEGIN {kind} KEY")).count();
    assert_eq!((blocks("PRIVATE"), blocks("PUBLIC")), (1, 1), "the private half of the old key is gone");
    let refused = keygen(&["--retire"]);
    assert!(!refused.status.success());

    // The writer's newest key comes first, since the first one writes.
    assert_eq!(said(&keygen(&["--writer"])), "", "a secret is not printed");
    let file = data_dir.path().join("audit-writer.key");
    let one = std::fs::read_to_string(&file).unwrap();
    said(&keygen(&["--writer", "--add"]));
    let two = std::fs::read_to_string(&file).unwrap();
    assert!(two.ends_with(&one) && two.lines().count() == 2);
    said(&keygen(&["--writer", "--retire"]));
    let left = std::fs::read_to_string(&file).unwrap();
    assert_eq!(left, two.replace(&one, &format!("retired {one}")));
    for file in ["audit.key", "audit-writer.key"] {
        let mode = std::fs::metadata(data_dir.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

#[tokio::test]
async fn keys_are_changed_while_the_log_goes_on_and_what_the_old_ones_signed_stays_good() {
    let database = database().await;
    let data_dir = tempfile::tempdir().unwrap();
    let keygen = |arguments: &[&str]| {
        let command = ["audit", "keygen", "--name", "log.example"];
        said(&program(data_dir.path(), &[&command, arguments].concat()).output().unwrap())
    };
    let running = Running::start(&database, data_dir.path(), &[]).await;
    let customer = running.customer("a@example.com").await;
    let first = running.change(customer).await;
    let old = vkeys(&running.get("/.well-known/consentd-audit.vkey").await);
    let issued = running.proof(first).await;
    running.stop().await;

    let both = vkeys(&keygen(&["--add"]));
    keygen(&["--add", "--writer"]);
    let running = Running::start(&database, data_dir.path(), &[]).await;
    assert_eq!(vkeys(&running.get("/.well-known/consentd-audit.vkey").await), both);
    let second = running.change(customer).await;
    let proven = prove(&running.proof(second).await, &old);
    assert_eq!(proven.checkpoint.verify(&both).unwrap().len(), 2, "both sign");
    running.stop().await;

    let new = vkeys(&keygen(&["--retire"]));
    assert_eq!(new, both[1..]);
    keygen(&["--retire", "--writer"]);
    let running = Running::start(&database, data_dir.path(), &[]).await;
    assert_eq!(vkeys(&running.get("/.well-known/consentd-audit.vkey").await), new);
    let third = running.change(customer).await;
    let proven = prove(&running.proof(third).await, &new);
    assert_eq!(proven.checkpoint.verify(&both).unwrap().len(), 1, "the new one alone signs");
    eventually("nothing waits", async || running.status().await["pending"] == 0).await;
    assert_eq!(running.status().await["state"], "sealing");
    prove(&issued, &old);
    Note::parse(&running.get("/v1/audit/log/checkpoint").await).unwrap().verify(&new).unwrap();

    // The whole log, that part of it included which the retired keys signed and vouched for.
    let mut verify = program(data_dir.path(), &["audit", "verify"]);
    verify.envs(logins(&database.service, &database.owner));
    let report = said(&verify.output().unwrap());
    assert!(report.contains("clean: nothing was found"), "{report}");
    running.stop().await;
}
