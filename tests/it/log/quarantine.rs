//! Entries that nobody can use: refused when they are inserted, and harmless where they are there all the same.

use std::io::{Cursor, Read as _};

use chrono::TimeDelta;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};
use uuid::Uuid;

use super::running::{Running, logins};
use super::{change, count, eventually, leaves, program, said, seal, tamper};
use crate::cluster::database;
use crate::service::{Service, consent};
use crate::visitor::Visitor;

/// A state as the service writes it.
const STATE: &str = r#"{"consent_tier": "research", "can_store_images": true, "can_store_embeddings": false,
  "can_use_for_training": false, "anonymization_level": "full", "policy_version": null, "expires_at": null,
  "consent_granted_at": "2026-01-01T00:00:00Z"}"#;

/// As the service logs in: whoever has its password.
async fn login(service: &Service) -> PgPool {
    PgPool::connect_with(service.login.clone()).await.expect("the database is there")
}

async fn attempt(pool: &PgPool, statement: &str) -> Result<(), String> {
    let ran = sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(pool).await;
    ran.map(|_| ()).map_err(|error| {
        error
            .as_database_error()
            .and_then(sqlx::error::DatabaseError::code)
            .map_or_else(|| error.to_string(), Into::into)
    })
}

/// The statement for a customer's first entry, with some columns set.
fn entry(customer: Uuid, columns: &[(&str, &str)]) -> String {
    let mut all = vec![
        ("customer_id", format!("'{customer}'")),
        ("action", "'granted'".to_owned()),
        ("version", "1".to_owned()),
        ("new_tier", "'research'".to_owned()),
        ("current", format!("'{STATE}'")),
    ];
    for (name, value) in columns {
        all.retain(|(other, _)| other != name);
        all.push((*name, (*value).to_owned()));
    }
    let (names, values): (Vec<&str>, Vec<String>) = all.into_iter().unzip();
    format!("insert into vlaapi.customer_consent_audit ({}) values ({})", names.join(", "), values.join(", "))
}

fn deep() -> String {
    format!("'{}{}'", "[".repeat(3000), "]".repeat(3000))
}

#[tokio::test]
async fn entries_and_events_of_a_wrong_shape_or_time_are_refused_when_they_are_inserted() {
    let service = Service::start().await;
    let (pool, customer) = (login(&service).await, service.customer().await);
    let state = |from: &str, to: &str| format!("'{}'", STATE.replace(from, to));
    let wrong = [
        ("current", state("true", "\"banana\"")),
        ("current", state("\"research\"", "\"premium\"")),
        ("current", state("\"full\"", "7")),
        (
            "current",
            state("\"policy_version\": null", &format!("\"policy_version\": \"{}\"", "p".repeat(65))),
        ),
        ("current", state("\"expires_at\": null", "\"expires_at\": \"infinity\"")),
        ("current", state("\"expires_at\": null", "\"expires_at\": \"20000-01-01T00:00:00Z\"")),
        ("current", state("\"expires_at\": null", "\"expires_at\": \"2026-02-31T00:00:00Z\"")),
        ("current", state("\"expires_at\": null", "\"expires_at\": null, \"more\": 1")),
        ("current", "'1e400'".to_owned()),
        ("current", "'null'".to_owned()),
        ("previous", deep()),
        ("current", deep()),
        ("timestamp", "'infinity'".to_owned()),
        ("timestamp", "'-infinity'".to_owned()),
        ("timestamp", "'20000-01-01'".to_owned()),
        ("timestamp", "now() + interval '2 days'".to_owned()),
        ("timestamp", "'1969-12-31'".to_owned()),
        ("version", "2".to_owned()),
        ("version", "2147483647".to_owned()),
        ("audit_id", "9223372036854775807".to_owned()),
        ("audit_id", "0".to_owned()),
        ("change_reason", "repeat('x', 16001)".to_owned()),
    ];
    for (column, value) in &wrong {
        let refusal = attempt(&pool, &entry(customer, &[(column, value)])).await;
        assert_eq!(refusal, Err("23514".to_owned()), "{column} = {value}");
    }
    attempt(&pool, &entry(customer, &[])).await.expect("a lawful entry is taken");

    let event = |details: &str, timestamp: &str| {
        format!(
            "insert into vlaapi.audit_events (kind, details, timestamp) values ('pii.read', {details}, {timestamp})"
        )
    };
    for (details, timestamp) in [
        ("'[]'", "now()"),
        ("'7'", "now()"),
        ("'{\"other\": 1}'", "now()"),
        (&*format!("jsonb_build_object('what', {}::jsonb)", deep()), "now()"),
        ("jsonb_build_object('what', repeat('x', 60001))", "now()"),
        ("'{\"what\": \"a\"}'", "'infinity'"),
        ("'{\"what\": \"a\"}'", "'-infinity'"),
        ("'{\"what\": \"a\"}'", "now() + interval '2 days'"),
    ] {
        let refusal = attempt(&pool, &event(details, timestamp)).await;
        assert_eq!(refusal, Err("23514".to_owned()), "{details} at {timestamp}");
    }
    attempt(&pool, &event("'{\"what\": \"a\"}'", "now()")).await.expect("a lawful event is taken");
}

/// Entries that came before they were checked, or past every trigger: one each of a customer of its own.
async fn poison(service: &Service) -> Vec<(i64, Uuid)> {
    let owner = service.sql().await;
    let mut poison = Vec::new();
    let banana = format!("'{}'", STATE.replace("true", "\"banana\""));
    for columns in [
        &[("current", &*banana)] as &[(&str, &str)],
        &[("current", &*deep())],
        &[("previous", "'{\"a\": 1e400}'")],
        &[("timestamp", "'infinity'")],
        &[("timestamp", "'-infinity'")],
        &[("timestamp", "'20000-01-01'"), ("current", "'{\"can_store_images\": [1], \"expires_at\": {}}'")],
        &[
            ("change_reason", "repeat('\\u0000', 300000)"),
            ("change_reason_salt", "vlaapi.random_salt()"),
            ("previous", "'[]'"),
        ],
    ] {
        let customer = service.customer().await;
        tamper(&owner, &entry(customer, columns)).await;
        let audit_id: i64 =
            sqlx::query_scalar("select audit_id from vlaapi.customer_consent_audit where customer_id = $1")
                .bind(customer)
                .fetch_one(&owner)
                .await
                .expect("it is there");
        tamper(&owner, &format!("insert into vlaapi.audit_pending (audit_id) values ({audit_id})")).await;
        poison.push((audit_id, customer));
    }
    poison
}

#[tokio::test]
async fn an_entry_that_nobody_can_read_stops_no_seal_and_is_set_aside_visibly() {
    let service = Service::start().await;
    let mut sealer = service.sealer().await;
    let before = change(&service, service.customer().await).await;
    let poison = poison(&service).await;
    let after = change(&service, service.customer().await).await;
    seal(&mut sealer, service.now()).await;
    let ids: Vec<i64> = leaves(&service.sql().await).await.into_iter().map(|(id, _)| id).collect();
    assert!(ids.contains(&before) && ids.contains(&after), "{ids:?}");
    assert_eq!(count(&service.sql().await, "vlaapi.audit_pending").await, 0);
    // JSON that no leaf can hold is not sealed; what merely is no consent is. All of it is set aside.
    for (index, (audit_id, _)) in poison.iter().enumerate() {
        assert_eq!(ids.contains(audit_id), ![1, 2].contains(&index), "{index}");
    }
    let status = service.get("/v1/audit/log/status").send().await.expect(200).json();
    assert_eq!((&status["quarantined"], &status["state"]), (&json!(7), &json!("sealing")));
    let page = Visitor::admin(&service).await.get("/console/integrity").await.expect(200).text();
    assert!(page.contains("its JSON cannot be read"), "{page}");
    service.view.set_quarantined(7);
    let ready = service.get("/readyz").no_key().send().await.expect(200).json();
    let log =
        ready["dependencies"].as_array().unwrap().iter().find(|part| part["name"] == "audit_log").unwrap();
    assert_eq!(log["condition"], "down");
    assert!(log["detail"].as_str().unwrap().starts_with("7 audit entries are in quarantine"), "{log}");
    // And once more: nothing of it comes back.
    change(&service, service.customer().await).await;
    assert_eq!(seal(&mut sealer, service.now()).await, 1);
}

#[tokio::test]
async fn a_row_that_makes_rounds_fail_is_found_among_many_and_the_rest_is_sealed() {
    let service = Service::start().await;
    let mut sealer = service.sealer().await;
    let mut written = Vec::new();
    let customer = service.customer().await;
    for _ in 0..40 {
        written.push(change(&service, customer).await);
    }
    let owner = service.sql().await;
    let (poison, other) = (written[17], written[18]);
    sqlx::raw_sql(AssertSqlSafe(format!(
        "create function vlaapi.spoil() returns trigger language plpgsql as $$
         begin raise exception 'a secret' using errcode = 'data_exception'; end $$;
         create trigger spoil before insert on vlaapi.audit_leaves for each row
         when (new.audit_id in ({poison}, {other})) execute function vlaapi.spoil()"
    )))
    .execute(&owner)
    .await
    .unwrap();
    let mut quarantined = Vec::new();
    let mut rounds = 0;
    loop {
        let round = sealer.round(service.now()).await.expect("a round does not fail");
        quarantined.extend(round.quarantined);
        rounds += 1;
        if !round.more && round.sealed == 0 {
            break;
        }
        assert!(rounds < 200, "it comes to no end");
    }
    quarantined.sort_unstable();
    assert_eq!(quarantined.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [poison, other]);
    assert!(
        quarantined.iter().all(|(_, why)| why.contains("22000") && !why.contains("secret")),
        "{quarantined:?}"
    );
    assert_eq!(leaves(&owner).await.len(), 1 + 38);
    // What fails for everybody is nobody's fault: it is tried again, and nothing is set aside.
    change(&service, customer).await;
    sqlx::raw_sql("revoke insert on vlaapi.audit_leaves from vlaapi_app").execute(&owner).await.unwrap();
    for _ in 0..3 {
        assert!(sealer.round(service.now()).await.is_err());
    }
    assert_eq!(count(&owner, "vlaapi.audit_quarantine").await, 2);
    sqlx::raw_sql("grant insert on vlaapi.audit_leaves to vlaapi_app").execute(&owner).await.unwrap();
    assert_eq!(seal(&mut sealer, service.now()).await, 1);
}

#[tokio::test]
async fn counts_by_day_never_stop_a_seal() {
    let service = Service::start().await;
    let mut sealer = service.sealer().await;
    let owner = service.sql().await;
    sqlx::raw_sql("alter table vlaapi.consent_days add constraint never check (day < '2000-01-01')")
        .execute(&owner)
        .await
        .unwrap();
    change(&service, service.customer().await).await;
    let round = sealer.round(service.now()).await.expect("a round");
    assert_eq!((round.sealed, round.uncounted), (1, 1));
    sqlx::raw_sql("alter table vlaapi.consent_days drop constraint never").execute(&owner).await.unwrap();
    change(&service, service.customer().await).await;
    assert_eq!(sealer.round(service.now()).await.unwrap().uncounted, 0);
    assert_eq!(count(&owner, "vlaapi.consent_days").await, 1);
    // Days that no service has are not counted, whatever the entries say.
    poison(&service).await;
    seal(&mut sealer, service.now()).await;
    assert_eq!(
        count(&owner, "vlaapi.consent_days where day not between '2020-01-01' and '2999-01-01'").await,
        0
    );
}

#[tokio::test]
async fn entries_of_a_leaf_version_that_is_not_known_stay_in_the_queue() {
    let service = Service::start().await;
    let mut sealer = service.sealer().await;
    let owner = service.sql().await;
    let (queued, mislabelled) =
        (change(&service, service.customer().await).await, change(&service, service.customer().await).await);
    tamper(
        &owner,
        &format!(
            "update vlaapi.customer_consent_audit set leaf_version = 2 where audit_id in ({queued}, {mislabelled});
             update vlaapi.audit_pending set leaf_version = 2 where audit_id = {queued}"
        ),
    )
    .await;
    let known = change(&service, service.customer().await).await;
    assert_eq!(seal(&mut sealer, service.now()).await, 1);
    assert_eq!(seal(&mut sealer, service.now()).await, 0);
    assert!(leaves(&owner).await.iter().any(|(id, _)| *id == known));
    let left: Vec<i64> =
        sqlx::query_scalar("select audit_id from vlaapi.audit_pending where leaf_version = 2 order by 1")
            .fetch_all(&owner)
            .await
            .unwrap();
    assert_eq!(left, [queued, mislabelled]);
    assert_eq!(count(&owner, "vlaapi.audit_quarantine").await, 0);
}

#[tokio::test]
async fn unreadable_entries_are_shown_as_unreadable_and_hide_no_others() {
    let service = Service::start().await;
    let mut sealer = service.sealer().await;
    let owner = service.sql().await;
    let good = change(&service, service.customer().await).await;
    let poison = poison(&service).await;
    tamper(
        &owner,
        &format!(
            "insert into vlaapi.audit_events (kind, details, timestamp) values ('pii.read', {}, 'infinity')",
            deep()
        ),
    )
    .await;
    seal(&mut sealer, service.now()).await;
    let unreadable = [true, true, true, false, false, true, true];

    // The API, one by one and in pages of two, in an order that skips nothing.
    for ((audit_id, customer), unreadable) in poison.iter().zip(unreadable) {
        let entry = service.get(&format!("/v1/audit/{audit_id}")).send().await.expect(200).json();
        assert_eq!(entry.get("unreadable").is_some(), unreadable, "{entry}");
        for field in entry["unreadable"].as_array().into_iter().flatten() {
            assert_eq!(entry.get(field.as_str().unwrap()), None, "{entry}");
        }
        let as_of = format!("{}?as_of=2026-03-01T11:00:00Z", consent(*customer));
        assert_eq!(service.get(&as_of).send().await.expect(200).json()["can_store_images"], false);
        service.get(&consent(*customer)).send().await.expect(200);
        let history = service.get(&format!("{}/audit", consent(*customer))).send().await.expect(200).json();
        assert_eq!(history["items"].as_array().unwrap().len(), 1);
    }
    let mut listed = Vec::new();
    let mut path = "/v1/audit?limit=2".to_owned();
    loop {
        let page = service.get(&path).send().await.expect(200).json();
        listed.extend(
            page["items"].as_array().unwrap().iter().map(|entry| entry["audit_id"].as_i64().unwrap()),
        );
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/audit?limit=2&cursor={cursor}");
        assert!(listed.len() < 30, "{listed:?}");
    }
    listed.sort_unstable();
    let mut expected: Vec<i64> = poison.iter().map(|(audit_id, _)| *audit_id).collect();
    expected.push(good);
    expected.sort_unstable();
    assert_eq!(listed, expected);

    // The files.
    let file = async |accept: &str| {
        service.get("/v1/audit").header("accept", accept).send().await.expect(200).text()
    };
    let lines: Vec<Value> =
        file("application/x-ndjson").await.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 8);
    assert_eq!(lines.iter().filter(|line| line["unreadable"].is_array()).count(), 5);
    let csv = file("text/csv").await;
    assert!(csv.lines().next().unwrap().ends_with("request_id,foreign"), "{csv}");
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let marks = reader
        .records()
        .filter(|record| record.as_ref().unwrap().iter().any(|cell| cell == "unreadable"))
        .count();
    assert_eq!(marks, 5);

    // Events, the console, and an evidence pack that is whole.
    let events = service.get("/v1/audit/events?kind=pii.read").send().await.expect(200).json();
    assert_eq!(events["items"][0]["details"], json!({"unreadable": true}));
    let visitor = Visitor::admin(&service).await;
    for page in [
        "/console",
        "/console/audit",
        "/console/integrity",
        "/console/access",
        "/console/audit?since=2020-01-01",
    ] {
        visitor.get(page).await.expect(200);
    }
    for (audit_id, customer) in &poison {
        visitor.get(&format!("/console/audit/{audit_id}")).await.expect(200);
        visitor.get(&format!("/console/customers/{customer}")).await.expect(200);
    }
    let page = visitor.get(&format!("/console/audit/{}", poison[0].0)).await.text();
    assert!(page.contains("Unreadable in the database"), "{page}");
    for path in
        ["/console/audit/evidence.zip".to_owned(), format!("/console/customers/{}/evidence.zip", poison[0].1)]
    {
        let there = visitor.get(&path).await.expect(303).header("location").unwrap().to_owned();
        let pack = visitor.get(&there).await.expect(200).bytes;
        let mut archive = zip::ZipArchive::new(Cursor::new(pack)).expect("a whole pack");
        let mut text = String::new();
        archive.by_name("entries.ndjson").unwrap().read_to_string(&mut text).unwrap();
        assert!(text.contains("\"unreadable\":["), "{text}");
    }
}

#[tokio::test]
async fn quarantine_is_listed_and_resolved_on_the_command_line_and_verification_accepts_it() {
    let database = database().await;
    let data_dir = tempfile::tempdir().unwrap();
    let consentd = |arguments: &[&str]| {
        let mut command = program(data_dir.path(), arguments);
        command.envs(logins(&database.service, &database.owner)).output().unwrap()
    };
    let owner = PgPool::connect_with(database.owner.clone()).await.unwrap();
    let login = PgPool::connect_with(database.service.clone()).await.unwrap();
    let running = Running::start(&database, data_dir.path(), &[]).await;
    let customer = running.customer("a@example.com").await;
    running.change(customer).await;
    assert_eq!(said(&consentd(&["audit", "quarantine", "list"])).lines().count(), 1);

    // One that is skipped, and one that cannot be sealed.
    attempt(&login, &entry(customer, &[("version", "2"), ("changed_by", "'key:vla_live_none'")]))
        .await
        .unwrap();
    let spoiled = running.change(customer).await;
    tamper(
        &owner,
        "insert into vlaapi.audit_pending (audit_id) values (nextval('vlaapi.customer_consent_audit_audit_id_seq'))",
    )
    .await;
    eventually("both are set aside", async || running.status().await["quarantined"] == 2).await;
    eventually("/readyz names it", async || {
        running.get("/readyz").await.contains("2 audit entries are in quarantine")
    })
    .await;
    eventually("the metric has it", async || {
        running.get("/metrics").await.contains("consentd_audit_quarantined 2")
    })
    .await;
    let listed: Value =
        serde_json::from_str(&said(&consentd(&["audit", "quarantine", "list", "--json"]))).unwrap();
    let items = listed["items"].as_array().unwrap();
    assert_eq!((&items[1]["version"], &items[1]["customer_id"]), (&json!(2), &json!(customer)));
    assert!(items[1]["reason"].as_str().unwrap().contains("without its consent"), "{listed}");
    let verify = || consentd(&["audit", "verify", "--json"]);
    let rules = |report: &std::process::Output| -> Vec<String> {
        let report: Value = serde_json::from_slice(&report.stdout).expect("a report");
        let rules =
            report["findings"].as_array().unwrap().iter().map(|f| f["rule"].as_str().unwrap().to_owned());
        let mut rules: Vec<String> = rules.collect();
        rules.sort();
        rules
    };
    let found = verify();
    assert_eq!((found.status.code(), rules(&found)), (Some(1), vec!["V10".into(), "V7".into(), "V9".into()]));

    for item in items {
        let id = item["audit_id"].to_string();
        let resolved =
            said(&consentd(&["audit", "quarantine", "resolve", &id, "--reason", "a drill, see ticket 7"]));
        assert!(resolved.starts_with(&format!("entry {id} is resolved by event ")), "{resolved}");
        let again = consentd(&["audit", "quarantine", "resolve", &id, "--reason", "once more"]);
        assert!(!again.status.success());
        assert!(String::from_utf8_lossy(&again.stderr).contains("resolved already"), "{again:?}");
    }
    let unknown = consentd(&["audit", "quarantine", "resolve", &spoiled.to_string(), "--reason", "none"]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("not in quarantine"), "{unknown:?}");
    assert!(!consentd(&["audit", "quarantine", "resolve", "1", "--reason", " "]).status.success());
    eventually("the events are sealed", async || running.status().await["pending"] == 0).await;
    eventually("it is signed", async || verify().status.code() != Some(1)).await;
    assert_eq!(said(&consentd(&["audit", "quarantine", "list"])).lines().count(), 1);
    let all = said(&consentd(&["audit", "quarantine", "list", "--all"]));
    assert_eq!(all.lines().count(), 3, "{all}");
    let events = running.get("/v1/audit/events?kind=quarantine.resolved").await;
    assert!(events.contains("a drill, see ticket 7"), "{events}");
    eventually("/readyz is content", async || !running.get("/readyz").await.contains("in quarantine")).await;
    running.stop().await;
}

#[tokio::test]
async fn a_customer_whose_trail_is_poisoned_can_still_withdraw() {
    let service = Service::start().await;
    let mut sealer = service.sealer().await;
    for (_, customer) in poison(&service).await {
        service.put(customer, &json!({"consent_tier": "basic"})).send().await.expect_one_of(&[200, 201]);
        service.advance(TimeDelta::seconds(1));
        service.call("DELETE", &consent(customer)).send().await.expect(200);
        assert_eq!(service.consent(customer).await["status"], "withdrawn");
        seal(&mut sealer, service.now()).await;
    }
}
