//! The evidence pack: the same file for the same question, checked by its own README and nothing of ours.

use std::fs;
use std::io::{Cursor, Read as _};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use chrono::TimeDelta;
use consentd::ops::log::sealer::Sealer;
use serde_json::json;
use tempfile::TempDir;
use uuid::Uuid;

use crate::service::{Answer, Service};
use crate::visitor::Visitor;

async fn seal(service: &Service, sealer: &mut Sealer) {
    while sealer.round(service.now()).await.expect("a round").sealed > 0 {}
}

/// A customer who has decided three times, in words that are hard to write down.
async fn history(service: &Service) -> Uuid {
    let customer = service.customer().await;
    let body = json!({"consent_tier": "research", "can_store_images": true, "can_use_for_training": true,
        "policy_version": "2026-01", "expires_at": "2027-03-01T12:00:00.5Z", "reason": "asked \u{fc}ber \"chat\"\u{2028}by\u{85}mail\r\n-- ",
        "on_behalf_of": "=user-17"});
    let put =
        service.put(customer, &body).header("user-agent", "a <browser>, \"quoted\"").peer("2001:db8::7");
    put.send().await.expect(201);
    service.advance(TimeDelta::milliseconds(1250));
    service
        .put(customer, &json!({"consent_tier": "analytics", "can_store_embeddings": true}))
        .send()
        .await
        .expect(200);
    service.advance(TimeDelta::days(3));
    service.call("DELETE", &format!("/v1/customers/{customer}/consent")).send().await.expect(200);
    customer
}

/// The pack of the log as it is now: its address, and what is sent there.
async fn pack(visitor: &Visitor<'_>, path: &str) -> (String, Answer) {
    let there = visitor.get(path).await.expect(303).header("location").expect("an address").to_owned();
    let answer = visitor.get(&there).await.expect(200);
    assert_eq!(answer.header("content-type"), Some("application/zip"));
    (there, answer)
}

fn names(pack: &[u8]) -> Vec<String> {
    zip::ZipArchive::new(Cursor::new(pack))
        .expect("a ZIP file")
        .file_names()
        .map(|name| name.expect("a name").into_owned())
        .collect()
}

fn text(pack: &[u8], name: &str) -> String {
    let mut archive = zip::ZipArchive::new(Cursor::new(pack)).expect("a ZIP file");
    let mut text = String::new();
    archive.by_name(name).expect("the file").read_to_string(&mut text).expect("a text");
    text
}

fn unpacked(pack: &[u8]) -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    zip::ZipArchive::new(Cursor::new(pack))
        .expect("a ZIP file")
        .extract(directory.path())
        .expect("it is unpacked");
    directory
}

/// What stands between the lines of the README, in their order.
fn commands(directory: &Path) -> Vec<String> {
    let readme = fs::read_to_string(directory.join("README.txt")).expect("the README");
    let line = "-".repeat(118);
    let commands: Vec<String> =
        readme.split(&format!("{line}\n")).skip(1).step_by(2).map(str::to_owned).collect();
    assert_eq!(commands.len(), 3);
    commands
}

fn run(directory: &Path, command: &str) -> Output {
    Command::new("bash").args(["-ec", command]).current_dir(directory).output().expect("bash runs")
}

/// All commands must run; answers what they say.
fn check(directory: &Path) -> String {
    let mut said = String::new();
    for command in commands(directory) {
        let output = run(directory, &command);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        said += &text;
    }
    said
}

#[tokio::test]
async fn a_pack_is_whole_the_same_each_time_and_checked_by_its_own_readme() {
    let service = Service::start().await;
    let mut sealer = service.sealer().await;
    let (customer, other) = (history(&service).await, history(&service).await);
    seal(&service, &mut sealer).await;
    let visitor = Visitor::admin(&service).await;
    let path = format!("/console/customers/{customer}/evidence.zip");
    let (there, first) = pack(&visitor, &path).await;
    assert_eq!(there, format!("{path}?log=1&size=7"));
    assert_eq!(
        first.header("content-disposition"),
        Some(format!("attachment; filename=\"consent-evidence-{customer}-1-7.zip\"").as_str())
    );
    let trail = service.trail(customer).await;
    let ids: Vec<i64> = trail.iter().map(|entry| entry["audit_id"].as_i64().expect("an id")).collect();
    let mut expected = vec!["entries.ndjson".to_owned(), "entries.csv".to_owned()];
    expected.extend(ids.iter().map(|id| format!("proofs/{id}.tlog-proof")));
    expected.extend(["report.html", "checkpoint", "vkey", "README.txt", "SHA256SUMS"].map(str::to_owned));
    assert_eq!(names(&first.bytes), expected);

    // What is in it is what the API gives.
    let export = |kind: &'static str| {
        service.get(&format!("/v1/audit?customer_id={customer}")).header("accept", kind).send()
    };
    assert_eq!(text(&first.bytes, "entries.ndjson"), export("application/x-ndjson").await.text());
    assert_eq!(text(&first.bytes, "entries.csv"), export("text/csv").await.text());
    assert_eq!(
        text(&first.bytes, "vkey"),
        service.get("/.well-known/consentd-audit.vkey").send().await.text()
    );
    let report = text(&first.bytes, "report.html");
    for told in [
        "versions 1 to 3 of this consent, none is missing",
        "operator (vla_live_",
        "=user-17",
        "&#60;browser&#62;",
    ] {
        assert!(report.contains(told), "{told}: {report}");
    }
    assert!(!report.contains("src=") && !report.contains("<script") && !report.contains(&other.to_string()));

    let directory = unpacked(&first.bytes);
    let said = check(directory.path());
    for line in [
        "the files are as they were packed",
        "checkpoint is signed by log.example/audit/1",
        "3 of 3 entries are in the signed log",
    ] {
        assert!(said.contains(line), "{said}");
    }

    // The log goes on, and says who read what; the pack of that size stays as it was.
    seal(&service, &mut sealer).await;
    service.advance(TimeDelta::days(40));
    service.put(customer, &json!({"consent_tier": "basic"})).send().await.expect_one_of(&[200, 201]);
    seal(&service, &mut sealer).await;
    let visitor = Visitor::admin(&service).await;
    let again = visitor.get(&there).await.expect(200);
    assert!(again.bytes == first.bytes, "the same question has another answer");
    let events = service.get("/v1/audit/events?kind=pii.read").send().await.expect(200).json();
    assert_eq!(events["items"].as_array().map(Vec::len), Some(2), "{events}");
    assert_eq!(events["items"][0]["details"]["what"], path);
    assert_eq!(events["items"][0]["change_reason"], "log=1&size=7");
    assert_eq!(events["items"][0]["customer_id"], json!(customer));
    // Without a size it is the log as it is now.
    let (there, now) = pack(&visitor, &path).await;
    assert_eq!(there, format!("{path}?log=1&size=9"));
    assert!(check(unpacked(&now.bytes).path()).contains("4 of 4 entries"));
    // Another asks: only who asked is another one.
    let key = service.key(None, &["audit:read"]).await;
    let visitor = Visitor::with(&service, &key).await;
    let others = visitor.get(&there).await.expect(200);
    assert_ne!(others.bytes, now.bytes);
    assert_eq!(text(&others.bytes, "entries.csv"), text(&now.bytes, "entries.csv"));
}

#[tokio::test]
async fn a_filter_lets_through_what_the_trail_shows() {
    let service = Service::start().await;
    let mut sealer = service.sealer().await;
    let customers = [history(&service).await, history(&service).await];
    seal(&service, &mut sealer).await;
    let visitor = Visitor::admin(&service).await;
    let (_, answer) = pack(&visitor, "/console/audit/evidence.zip?action=withdrawn").await;
    let entries = text(&answer.bytes, "entries.ndjson");
    assert_eq!(entries.lines().count(), 2);
    assert!(customers.iter().all(|customer| entries.contains(&customer.to_string())));
    assert!(check(unpacked(&answer.bytes).path()).contains("2 of 2 entries"));
    assert!(text(&answer.bytes, "README.txt").contains("\nAction: withdrawn\n"));
    // Nothing is an answer too.
    let (_, answer) = pack(&visitor, "/console/audit/evidence.zip?until=2020-01-01T00:00:00Z").await;
    assert!(check(unpacked(&answer.bytes).path()).contains("0 of 0 entries"));
    assert!(text(&answer.bytes, "report.html").contains("No entry matches."));
}

#[tokio::test]
async fn what_was_changed_in_a_pack_or_in_the_database_is_found_by_the_readme() {
    let service = Service::start().await;
    let mut sealer = service.sealer().await;
    let customer = history(&service).await;
    seal(&service, &mut sealer).await;
    let visitor = Visitor::admin(&service).await;
    let path = format!("/console/customers/{customer}/evidence.zip");
    let (there, answer) = pack(&visitor, &path).await;
    let last = service.trail(customer).await[0]["audit_id"].as_i64().expect("an id");
    let edits: [(&str, &str, &str); 5] = [
        ("entries.ndjson", r#""new_tier":"analytics""#, r#""new_tier":"research""#),
        ("entries.ndjson", "asked", "begged"),
        ("entries.csv", ",analytics,", ",research,"),
        ("checkpoint", "audit/1\n4\n", "audit/1\n5\n"),
        ("entries.ndjson", "2001:db8::7", "2001:db8::8"),
    ];
    for (file, was, is) in edits {
        let directory = unpacked(&answer.bytes);
        let changed = directory.path().join(file);
        let text = fs::read_to_string(&changed).expect("the file");
        assert!(text.contains(was), "{text}");
        fs::write(&changed, text.replace(was, is)).expect("it is written");
        let commands = commands(directory.path());
        let sums = run(directory.path(), &commands[0]);
        assert!(!sums.status.success() && String::from_utf8_lossy(&sums.stdout).contains(file));
        let rest =
            commands[1..].iter().filter(|command| run(directory.path(), command).status.success()).count();
        assert!(rest < 2, "{was} became {is}, and nobody noticed");
    }
    // A proof that is not there, or of something else.
    let directory = unpacked(&answer.bytes);
    let proof = directory.path().join(format!("proofs/{last}.tlog-proof"));
    fs::copy(&proof, directory.path().join("proofs/4711.tlog-proof")).expect("it is copied");
    assert!(!run(directory.path(), &commands(directory.path())[2]).status.success());

    // Changed in the database: the pack tells what is there now, and its proofs do not fit it.
    let pool = service.sql().await;
    let mut transaction = pool.begin().await.expect("a transaction");
    for statement in [
        "set local session_replication_role = replica".to_owned(),
        format!("update vlaapi.customer_consent_audit set new_tier = 'basic' where audit_id = {last}"),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut *transaction).await.expect("a statement");
    }
    transaction.commit().await.expect("it is done");
    let tampered = visitor.get(&there).await.expect(200);
    let directory = unpacked(&tampered.bytes);
    let found = run(directory.path(), &commands(directory.path())[2]);
    let said = String::from_utf8_lossy(&found.stderr).into_owned();
    assert!(said.contains(&format!("entry {last}: not the new_tier that was sealed")), "{said}");
}

#[tokio::test]
async fn what_was_erased_is_gone_from_a_pack_and_the_rest_still_proven() {
    let service = Service::start().await;
    let mut sealer = service.sealer().await;
    let customer = history(&service).await;
    seal(&service, &mut sealer).await;
    let visitor = Visitor::admin(&service).await;
    let path = format!("/console/customers/{customer}/evidence.zip");
    let (there, before) = pack(&visitor, &path).await;
    let mut transaction = service.sql().await.begin().await.expect("a transaction");
    for statement in [
        "set local role vlaapi_eraser",
        "update vlaapi.customer_consent_audit set ip_address = null, ip_address_salt = null, on_behalf_of = null,
           on_behalf_of_salt = null",
    ] {
        sqlx::query(statement).execute(&mut *transaction).await.expect("fields are erased");
    }
    transaction.commit().await.expect("it is done");
    let after = visitor.get(&there).await.expect(200);
    assert_ne!(after.bytes, before.bytes);
    assert!(!text(&after.bytes, "entries.ndjson").contains("2001:db8::7"));
    let report = text(&after.bytes, "report.html");
    assert!(
        report.contains("erased: on whose behalf, the address") && !report.contains("=user-17"),
        "{report}"
    );
    assert!(check(unpacked(&after.bytes).path()).contains("3 of 3 entries"));
    assert!(check(unpacked(&before.bytes).path()).contains("3 of 3 entries"));
}

#[tokio::test]
async fn what_cannot_be_answered_is_said_on_a_page() {
    let service = Service::start().await;
    let visitor = Visitor::admin(&service).await;
    let customer = service.customer().await;
    let path = format!("/console/customers/{customer}/evidence.zip");
    let says = async |path: &str, status: u16, words: &str| {
        let answer = visitor.get(path).await.expect(status);
        assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"), "{path}");
        assert!(answer.text().contains(words), "{path}: {}", answer.text());
    };
    says(&path, 503, "cannot answer right now").await;
    let mut sealer = service.sealer().await;
    seal(&service, &mut sealer).await;
    says(&format!("/console/customers/{}/evidence.zip", Uuid::new_v4()), 404, "There is no such customer")
        .await;
    says("/console/customers/nobody/evidence.zip", 400, "a UUID such as").await;
    says("/console/audit/evidence.zip?new_tier=all", 400, "one of &#34;none&#34;").await;
    says("/console/audit/evidence.zip?since=yesterday", 400, "a time such as").await;
    says("/console/audit/evidence.zip?colour=red", 400, "there is no parameter").await;
    says(&format!("{path}?size=0"), 400, "a whole number from 1").await;
    says(&format!("{path}?size=4711"), 404, "never signed at this size").await;
    says(&format!("{path}?log=7&size=1"), 404, "never signed at this size").await;
    // Nobody is told twice: what was refused was not read.
    let events = service.get("/v1/audit/events?kind=pii.read").send().await.expect(200).json();
    assert_eq!(events["items"], json!([]));
}

#[tokio::test]
async fn a_pack_needs_a_session_with_the_scope() {
    let service = Service::start().await;
    let mut sealer = service.sealer().await;
    seal(&service, &mut sealer).await;
    let path = "/console/audit/evidence.zip?size=1";
    let answer = service.get(path).no_key().header("host", "localhost").send().await.expect(303);
    assert_eq!(
        answer.header("location"),
        Some("/console/sign-in?next=%2Fconsole%2Faudit%2Fevidence.zip%3Fsize%3D1")
    );
    // An API key by itself is no session.
    service.get(path).header("host", "localhost").send().await.expect(303);
    let key = service.key(None, &["audit:read"]).await;
    let visitor = Visitor::with(&service, &key).await;
    // The key loses the scope while its session goes on.
    sqlx::query("update vlaapi.api_keys set scopes = '{consent:read}' where key_prefix = $1")
        .bind(&key[..13])
        .execute(&service.sql().await)
        .await
        .expect("scopes are changed");
    let answer = visitor.get(path).await.expect(403);
    assert!(answer.text().contains("this needs the scope audit:read"), "{}", answer.text());
}

/// So many entries, written past the service.
async fn many(service: &Service, count: i64) -> Uuid {
    let customer = service.customer().await;
    sqlx::query(
        "insert into vlaapi.customer_consent_audit (customer_id, action, version, new_tier, changed_by)
         select $1, 'updated', version, 'basic', 'test' from generate_series(1, $2) version",
    )
    .bind(customer)
    .bind(count)
    .execute(&service.sql().await)
    .await
    .expect("many entries");
    customer
}

#[tokio::test]
async fn a_large_pack_waits_for_its_reader_and_keeps_no_place_when_nobody_reads() {
    let service = Service::start().await;
    let mut sealer = service.sealer().await;
    let customer = many(&service, 1500).await;
    seal(&service, &mut sealer).await;
    let visitor = Visitor::admin(&service).await;
    let path = format!("/console/customers/{customer}/evidence.zip?size=1501");
    let unread = [visitor.call("GET", &path).begin().await, visitor.call("GET", &path).begin().await];
    assert!(unread.iter().all(|answer| answer.status() == 200));
    tokio::time::sleep(Duration::from_millis(500)).await;
    // Both wait for their readers, in their places; there is no third.
    let refused = visitor.get(&path).await.expect(503);
    assert!(refused.text().contains("too much to do"), "{}", refused.text());
    service.get("/v1/audit").header("accept", "text/csv").send().await.expect(503);
    drop(unread);
    let begun = std::time::Instant::now();
    let answer = loop {
        let answer = visitor.get(&path).await;
        if answer.status == 200 || begun.elapsed() > Duration::from_secs(30) {
            break answer.expect(200);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(names(&answer.bytes).len(), 1500 + 7);
    // What waits for a reader is a part of it.
    assert!(answer.bytes.len() > 12 * 64 * 1024, "{}", answer.bytes.len());
}

#[tokio::test]
async fn more_entries_than_a_pack_holds_are_refused() {
    let service = Service::start().await;
    let mut sealer = service.sealer().await;
    seal(&service, &mut sealer).await;
    let customer = many(&service, 10_001).await;
    sqlx::query(
        "insert into vlaapi.audit_leaves (log_id, leaf_index, audit_id, leaf_hash, leaf)
         select 1, version, audit_id, '', '' from vlaapi.customer_consent_audit",
    )
    .execute(&service.sql().await)
    .await
    .expect("leaves");
    let visitor = Visitor::admin(&service).await;
    let refused =
        visitor.get(&format!("/console/customers/{customer}/evidence.zip?size=20000")).await.expect(400);
    assert!(refused.text().contains("more than 10,000 entries match"), "{}", refused.text());
}
