//! Downloads of the audit trail: the same bytes as ever, for few at once, and at nobody's cost.

use std::io::BufRead as _;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use chrono::{DateTime, SecondsFormat, Utc};
use consentd::domain::{AuditEntry, ConsentState};
use consentd::store::audit::AuditFilter;
use http_body_util::BodyExt as _;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::service::{Service, consent};

/// A service whose trail has this many entries.
async fn with_entries(count: u32) -> Service {
    let service = Service::start().await;
    let customer = service.customer().await;
    sqlx::query(
        "insert into vlaapi.customer_consent_audit (customer_id, action, version, new_tier, changed_by)
         select $1, 'updated', version, 'basic', 'test' from generate_series(1, $2) version",
    )
    .bind(customer)
    .bind(i64::from(count))
    .execute(&service.sql().await)
    .await
    .expect("many entries");
    service
}

/// The head of an export, whose body nobody has read.
async fn begin(service: &Service) -> Response {
    service.get("/v1/audit").header("accept", "application/x-ndjson").begin().await
}

async fn lines(body: Body) -> usize {
    let bytes = body.collect().await.expect("the body arrives").to_bytes();
    bytes.lines().count()
}

/// Entries with whatever the columns can hold, in all the shapes in which it may have been written.
async fn odd_entries(service: &Service) {
    let customer = service.customer().await;
    let moments = [
        "2026-01-01T00:00:00Z",
        "2026-01-01T00:00:00.5Z",
        "2026-01-01T00:00:00.120Z",
        "2026-01-01T00:00:00.120000Z",
        "2026-01-01T00:00:00.000Z",
        "2026-01-01T00:00:00.000001Z",
        "2026-01-01T00:00:00.123456789Z",
        "2026-06-30T23:59:60Z",
        "2026-01-01T02:00:00.120+02:00",
        "2026-01-01T00:00:00+00:00",
        "2026-01-01 00:00:00Z",
        "9999-12-31T23:59:59.999999Z",
        "0001-01-01T00:00:00Z",
    ];
    let times = [
        "2026-01-01 00:00:00.12Z",
        "0001-02-03 04:05:06Z",
        "12026-01-01 00:00:00Z",
        "2026-12-31 23:59:59.000001Z",
    ];
    let texts = ["plain", "=1+1", "a,b \"c\"", "line\r\nbreak", "\u{1b}[2J\u{7f}\t", "ß→😀", "@", "-", ""];
    let addresses = ["203.0.113.7", "10.0.0.0/8", "2001:db8::1", "::ffff:192.0.2.1"];
    let pool = service.sql().await;
    // As entries are that came before their shape was checked.
    sqlx::raw_sql("alter table vlaapi.customer_consent_audit disable trigger customer_consent_audit_check")
        .execute(&pool)
        .await
        .expect("the owner may do it");
    for round in 0..texts.len() * moments.len() {
        let text =
            |step: usize| (!(round + step).is_multiple_of(5)).then(|| texts[(round + step) % texts.len()]);
        let state = |step: usize| {
            let tier = ["none", "basic", "analytics", "research"][(round + step) % 4];
            let level = ["full", "partial", "none"][round % 3];
            (!(round + step).is_multiple_of(7)).then(|| {
                serde_json::json!({
                    "consent_tier": tier,
                    "can_store_images": round % 2 == 0, "can_store_embeddings": step == 0,
                    "can_use_for_training": round % 3 == 0, "anonymization_level": level,
                    "policy_version": text(step), "expires_at": moments[(round + step) % moments.len()],
                    "consent_granted_at": (round % 4 > 0).then(|| moments[(round + 3) % moments.len()]),
                })
            })
        };
        sqlx::query(AssertSqlSafe(format!(
            "insert into vlaapi.customer_consent_audit (customer_id, action, version, previous_tier, new_tier, previous,
               current, changed_by, on_behalf_of, change_reason, ip_address, user_agent, request_id, timestamp)
             values ($1, 'updated', $2, $3, 'basic', $4, $5, $6, $7, $8, $9::inet, $10, $11, '{}')",
            times[round % times.len()],
        )))
        .bind(customer)
        .bind(i32::try_from(round + 1).expect("few"))
        .bind((round % 2 == 0).then_some("research"))
        .bind(state(0))
        .bind(state(1))
        .bind(text(0))
        .bind(text(1))
        .bind(text(2))
        .bind((round % 3 > 0).then(|| addresses[round % addresses.len()]))
        .bind(text(3))
        .bind(text(4))
        .execute(&pool)
        .await
        .expect("an odd entry");
    }
}

/// The cells of an entry, as plainly as they can be said.
fn cells(entry: &AuditEntry) -> Vec<String> {
    let moment = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::AutoSi, true);
    let text = |text: &Option<String>| {
        let text = text.clone().unwrap_or_default();
        if text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) { format!("'{text}") } else { text }
    };
    let states: Vec<Option<&ConsentState>> =
        [&entry.previous, &entry.current].map(|state| state.as_ref().map(|json| &json.0)).into();
    let of = |read: fn(&ConsentState) -> String| {
        states.iter().map(move |state| state.map(read).unwrap_or_default())
    };
    let mut cells = vec![
        entry.audit_id.to_string(),
        moment(entry.timestamp),
        entry.customer_id.to_string(),
        entry.version.to_string(),
        entry.action.as_str().to_owned(),
        entry.previous_tier.map(|tier| tier.as_str().to_owned()).unwrap_or_default(),
        entry.new_tier.as_str().to_owned(),
    ];
    cells.extend(of(|state| state.can_store_images.to_string()));
    cells.extend(of(|state| state.can_store_embeddings.to_string()));
    cells.extend(of(|state| state.can_use_for_training.to_string()));
    cells.extend(of(|state| state.anonymization_level.as_str().to_owned()));
    cells.extend(states.iter().map(|state| text(&state.and_then(|state| state.policy_version.clone()))));
    cells.extend(
        states.iter().map(|state| state.and_then(|state| state.expires_at).map(moment).unwrap_or_default()),
    );
    cells.extend([&entry.changed_by, &entry.on_behalf_of, &entry.change_reason].map(text));
    cells.push(entry.ip_address.map(|network| network.ip().to_string()).unwrap_or_default());
    cells.extend([&entry.user_agent, &entry.request_id].map(text));
    cells.push(if entry.foreign { "true".to_owned() } else { String::new() });
    cells
}

#[tokio::test]
async fn a_download_is_to_the_byte_what_its_entries_say() {
    let service = Service::start().await;
    odd_entries(&service).await;
    let entries = service.store.audit_entries(&AuditFilter::default(), None, 1000).await.expect("entries");
    assert_eq!(entries.len(), 117);
    let download = async |accept: &str| {
        service.get("/v1/audit").header("accept", accept).send().await.expect(200).text()
    };
    let ndjson = download("application/x-ndjson").await;
    let json = entries.iter().map(|entry| serde_json::to_string(entry).expect("JSON"));
    assert!(ndjson.lines().map(str::to_owned).eq(json), "{ndjson}");

    let csv = download("text/csv").await;
    let (header, rows) = csv.split_once("\r\n").expect("a header");
    let mut plainly = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    for entry in &entries {
        plainly.write_record(cells(entry)).expect("a row");
    }
    assert_eq!(rows.as_bytes(), plainly.into_inner().expect("rows"));
    assert_eq!(header.split(',').count(), 26);
}

#[tokio::test]
async fn a_reader_who_does_not_read_holds_no_connection_and_is_waited_for() {
    let service = with_entries(17_000).await;
    let mut export = begin(&service).await.into_body();
    let first = export.frame().await.expect("something").expect("it arrives").into_data().expect("lines");
    let read = first.lines().count();
    // The next pages are read ahead, and then the connections are idle.
    let [(_, reads), _] = service.store.pools();
    let mut waited = 0;
    while reads.num_idle() < usize::try_from(reads.size()).expect("few") {
        waited += 1;
        assert!(waited < 100, "a connection is held for a reader who does not read");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let open: i64 = sqlx::query_scalar(
        "select count(*) from pg_stat_activity where datname = current_database() and state <> 'idle'
         and pid <> pg_backend_pid()",
    )
    .fetch_one(&service.sql().await)
    .await
    .expect("a count");
    assert_eq!(open, 0);
    assert_eq!(read + lines(export).await, 17_000);
}

#[tokio::test]
async fn an_export_that_cannot_go_on_is_never_taken_for_a_whole_one() {
    let service = with_entries(17_000).await;
    let mut export = begin(&service).await.into_body();
    export.frame().await.expect("something").expect("it arrives");
    // What is read ahead is less than the rest.
    sqlx::raw_sql("alter table vlaapi.customer_consent_audit rename to out_of_reach")
        .execute(&service.sql().await)
        .await
        .expect("the owner may");
    assert!(export.collect().await.is_err(), "it is broken off");
}

#[tokio::test]
async fn few_exports_run_at_once_each_until_its_end_and_others_are_answered_meanwhile() {
    let service = with_entries(4500).await;
    // Half of the four read connections.
    let (first, second) = (begin(&service).await, begin(&service).await);
    let refused = service.get("/v1/audit").header("accept", "text/csv").send().await.expect(503);
    refused.problem("overloaded");
    assert!(refused.header("retry-after").is_some());
    service.get("/v1/audit?limit=1000").send().await.expect(200);
    service.get(&consent(Uuid::new_v4())).send().await.expect(404);
    // The place of one that is done is free, and so is that of one whose client has gone.
    assert_eq!(lines(first.into_body()).await, 4500);
    drop(second);
    for _ in 0..3 {
        assert_eq!(lines(begin(&service).await.into_body()).await, 4500);
    }
}
