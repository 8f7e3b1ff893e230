//! Whatever is given to `consentd audit verify`, it answers: tampering, or that it could not run.

use std::fs;

use consentd::tlog::{Hash, SigningKey};

use super::forgery::checkpoint;
use super::offline::{Copied, verify};
use super::scene::ORIGIN;

/// What is done to one file, and the exit codes that may come of it.
enum Damage {
    Gone,
    Cut(usize),
    Replaced(Vec<u8>),
}

#[tokio::test]
async fn a_damaged_copy_is_tampering_or_cannot_be_verified() {
    let copied = Copied::new().await;
    let size = copied.scene.checkpoints.last().expect("it is signed").checkpoint.size;
    let key = &copied.scene.service.keys.signers[0];
    let signed = |origin: &str, size: u64, key: &SigningKey| {
        let text = checkpoint(size, Hash([7; 32]), |_| Vec::new());
        let text = text.trim_end_matches('\n').replace(ORIGIN, origin) + "\n";
        let signatures = vec![key.sign_note(origin, &text)];
        consentd::tlog::Note { text, signatures }.to_string().into_bytes()
    };
    let partial = format!("tile/entries/001.p/{}", size - 256);
    let deep = "[".repeat(20_000);
    let entry =
        |text: &str| [&u16::try_from(text.len()).expect("short").to_be_bytes(), text.as_bytes()].concat();
    for (file, damage, code) in [
        ("tile/entries/000", Damage::Gone, 1),
        ("tile/entries/000", Damage::Cut(0), 1),
        ("tile/entries/000", Damage::Cut(1), 1),
        ("tile/entries/000", Damage::Cut(5_000), 1),
        ("tile/entries/000", Damage::Replaced(vec![0; 512]), 1),
        ("tile/entries/000", Damage::Replaced(vec![0xff; 70_000]), 1),
        ("tile/entries/000", Damage::Replaced(entry(&deep).repeat(256)), 1),
        ("tile/entries/000", Damage::Replaced(entry("{\"leaf_version\":2}").repeat(256)), 1),
        (&partial, Damage::Gone, 1),
        (&partial, Damage::Cut(100), 1),
        ("tile/0/000", Damage::Gone, 1),
        ("tile/0/000", Damage::Cut(31), 1),
        ("tile/0/000", Damage::Cut(32), 1),
        ("tile/0/000", Damage::Replaced(vec![1; 256 * 32]), 1),
        ("tile/1/000.p/1", Damage::Gone, 1),
        ("tile/1/000.p/1", Damage::Replaced(Vec::new()), 1),
        ("checkpoint", Damage::Gone, 3),
        ("checkpoint", Damage::Cut(0), 1),
        ("checkpoint", Damage::Cut(40), 1),
        ("checkpoint", Damage::Replaced(vec![0xe2, 0x80, 0x94, 0xff, 0, 10, 10]), 1),
        ("checkpoint", Damage::Replaced(signed("another.example/audit/1", size, key)), 1),
        ("checkpoint", Damage::Replaced(signed(ORIGIN, size, &SigningKey::from_seed([3; 32]))), 1),
        // Sizes which no directory has; the key of the log has signed them.
        ("checkpoint", Damage::Replaced(signed(ORIGIN, 0, key)), 1),
        ("checkpoint", Damage::Replaced(signed(ORIGIN, size + 1, key)), 1),
        ("checkpoint", Damage::Replaced(signed(ORIGIN, 1 << 62, key)), 1),
        ("checkpoint", Damage::Replaced(signed(ORIGIN, u64::MAX, key)), 1),
    ] {
        let path = copied.log().join(file);
        let bytes = fs::read(&path).expect(file);
        let told = match damage {
            Damage::Gone => {
                fs::remove_file(&path).expect("a file goes");
                "gone".to_owned()
            }
            Damage::Cut(at) => {
                fs::write(&path, &bytes[..at]).expect("a file is cut");
                format!("cut at {at}")
            }
            Damage::Replaced(other) => {
                fs::write(&path, &other).expect("a file is replaced");
                format!("replaced by {:?}", String::from_utf8_lossy(&other[..other.len().min(60)]))
            }
        };
        for more in [&[][..], &["--since-checkpoint", &copied.path("first")]] {
            let verified = copied.verify(more);
            // What was verified before is not read again.
            let unread = !more.is_empty() && verified.code == Some(0) && file.ends_with("000");
            assert!(verified.code == Some(code) || unread, "{file} {told}: {verified:?}");
        }
        fs::write(&path, bytes).expect("a file is as it was");
    }
    assert_eq!(copied.verify(&[]).code, Some(2));
}

#[tokio::test]
async fn what_is_from_outside_may_be_anything() {
    let copied = Copied::new().await;
    let key = &copied.scene.service.keys.signers[0];
    let foreign = SigningKey::from_seed([3; 32]);
    let note =
        |size, key: &SigningKey| checkpoint(size, Hash([7; 32]), |text| vec![key.sign_note(ORIGIN, text)]);
    let receipt = copied.scene.receipts[0].note.to_string();
    copied.write("empty", "");
    copied.write("garbage", [0xff, 0, 10, 10, 0xe2, 0x80, 0x94, 32, 10]);
    copied.write("no-signature", format!("{ORIGIN}\n5\n"));
    copied.write("foreign", note(100, &foreign));
    copied.write("another-tree", note(100, key));
    copied.write("larger", note(u64::MAX, key));
    copied.write("another-receipt", receipt.replace("consentd receipt v1", "consentd receipt v2"));
    copied.write("cut-receipt", &receipt[..receipt.len() - 9]);
    for (option, file, code) in [
        ("--checkpoints", "absent", 3),
        ("--checkpoints", "empty", 3),
        ("--checkpoints", "garbage", 1),
        ("--checkpoints", "no-signature", 1),
        ("--checkpoints", "foreign", 1),
        ("--checkpoints", "another-tree", 1),
        ("--checkpoints", "larger", 1),
        ("--checkpoints", "receipts", 1),
        ("--checkpoints", "log", 3),
        ("--receipts", "absent", 3),
        ("--receipts", "empty", 3),
        ("--receipts", "garbage", 1),
        ("--receipts", "another-receipt", 1),
        ("--receipts", "cut-receipt", 1),
        ("--receipts", "checkpoints", 1),
        ("--since-checkpoint", "absent", 3),
        ("--since-checkpoint", "empty", 3),
        ("--since-checkpoint", "garbage", 1),
        ("--since-checkpoint", "foreign", 1),
        ("--since-checkpoint", "another-tree", 1),
        ("--since-checkpoint", "larger", 1),
    ] {
        let verified = copied.verify(&[option, &copied.path(file)]);
        assert_eq!(verified.code, Some(code), "{option} {file}: {verified:?}");
    }

    let log = copied.path("log");
    let other = foreign.verifier_key(ORIGIN).expect("a key").to_string();
    let elsewhere = key.verifier_key("another.example/audit/1").expect("a key").to_string();
    let nothing = copied.path("nothing");
    for (arguments, code) in [
        (vec!["--key", other.as_str()], 1),
        (vec!["--key", elsewhere.as_str()], 1),
        (vec!["--key", "garbage+00+x"], 3),
        (vec!["--key", nothing.as_str()], 3),
        (vec!["--data-dir", nothing.as_str()], 3),
    ] {
        let verified = verify(&[&["--dir", &log][..], &arguments].concat());
        assert_eq!(verified.code, Some(code), "{arguments:?}: {verified:?}");
    }
    assert_eq!(verify(&["--dir", &nothing, "--key", &other]).code, Some(3));
}

#[tokio::test]
async fn a_proof_proves_one_entry_and_garbage_proves_nothing() {
    let mut copied = Copied::new().await;
    let id = copied.scene.entry(copied.scene.customers[0], 2).await;
    let path = format!("/v1/audit/{id}/proof");
    let call = copied.scene.service.get(&path).header("accept", "text/plain");
    let proof = call.send().await.expect(200).text();
    let key = copied.path("log/vkey");
    let verify_proof = |bytes: &[u8], key: &str| {
        copied.write("proof", bytes);
        verify(&["--json", "--proof", &copied.path("proof"), "--key", key])
    };
    let proven = verify_proof(proof.as_bytes(), &key);
    assert_eq!(proven.code, Some(0), "{proven:?}");
    let report = proven.json();
    assert_eq!(report["proven"][0]["leaf"]["audit_id"], id);
    assert_eq!(report["proven"][0]["opened"]["change_reason"], "call 2");

    let other = SigningKey::from_seed([3; 32]).verifier_key(ORIGIN).expect("a key").to_string();
    assert_eq!(verify_proof(proof.as_bytes(), &other).code, Some(1));
    let lines: Vec<&str> = proof.lines().collect();
    for at in 0..lines.len() {
        let mut fewer = lines.clone();
        fewer.remove(at);
        assert_eq!(verify_proof(fewer.join("\n").as_bytes(), &key).code, Some(1), "without line {at}");
        let mut longer = lines.clone();
        longer.insert(at, "AAAA");
        assert_eq!(verify_proof(longer.join("\n").as_bytes(), &key).code, Some(1), "a line before line {at}");
    }
    for garbage in [
        &b""[..],
        b"\n\n\n",
        &[0xff; 1000],
        "c2sp.org/tlog-proof@v1\nindex 18446744073709551615\n".as_bytes(),
    ] {
        assert_eq!(verify_proof(garbage, &key).code, Some(1), "{garbage:?}");
    }
    assert_eq!(verify(&["--proof", &copied.path("absent"), "--key", &key]).code, Some(3));
}
