//! The settings of every connection, and the states of the database in which it is not written to.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use consentd::store::Store;
use consentd::store::connection::{Purpose, open};
use consentd::store::verification::snapshot;
use serde_json::json;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};
use tokio::time::sleep;
use uuid::Uuid;

use crate::cluster::OwnCluster;
use crate::service::{Service, consent};

/// Settings that a database or a role may have, and that change what statements do, how durable they are, or whether they
/// end.
const HOSTILE: [(&str, &str); 27] = [
    ("synchronous_commit", "off"),
    ("search_path", "public, information_schema"),
    ("standard_conforming_strings", "off"),
    ("array_nulls", "off"),
    ("transform_null_equals", "on"),
    ("quote_all_identifiers", "on"),
    ("\"DateStyle\"", "SQL, DMY"),
    ("\"IntervalStyle\"", "iso_8601"),
    ("\"TimeZone\"", "Asia/Kathmandu"),
    ("bytea_output", "escape"),
    ("extra_float_digits", "-15"),
    ("row_security", "off"),
    ("check_function_bodies", "off"),
    ("client_min_messages", "debug5"),
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_read_only", "on"),
    ("default_transaction_deferrable", "on"),
    ("idle_session_timeout", "500ms"),
    ("idle_in_transaction_session_timeout", "100ms"),
    ("statement_timeout", "50ms"),
    ("lock_timeout", "1ms"),
    ("enable_seqscan", "off"),
    ("enable_indexscan", "off"),
    ("enable_bitmapscan", "off"),
    ("jit_above_cost", "0"),
    ("work_mem", "64kB"),
    ("default_statistics_target", "1"),
];

/// Settings of the list above that change the speed of a statement alone. They are the operator's.
const LEFT_ALONE: [&str; 6] = [
    "enable_seqscan",
    "enable_indexscan",
    "enable_bitmapscan",
    "jit_above_cost",
    "work_mem",
    "default_statistics_target",
];

async fn sql(service: &Service, statement: String) {
    // By a connection without any of the settings: the hostile ones would end it.
    let mut owner = open(&service.owner, Purpose::Owner).await.expect("the owner connects");
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut owner).await.expect("the statement works");
}

fn database_of(service: &Service) -> String {
    service.owner.get_database().expect("a database").to_owned()
}

/// Ends all sessions of the service: the next ones take the database's settings.
async fn end_sessions(service: &Service) {
    let end = "select pg_terminate_backend(pid) from pg_stat_activity
               where datname = current_database() and pid <> pg_backend_pid()";
    sql(service, end.to_owned()).await;
}

async fn answers_within(limit: Duration, what: &str, mut ask: impl AsyncFnMut() -> bool) {
    let since = Instant::now();
    while !ask().await {
        assert!(since.elapsed() < limit, "{what}: not within {limit:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn setting(connection: &mut PgConnection, name: &str) -> String {
    let shown = format!("show {name}");
    sqlx::raw_sql(AssertSqlSafe(shown)).fetch_one(connection).await.expect("a setting").get(0)
}

#[tokio::test]
async fn no_setting_of_the_database_reaches_a_connection_of_the_service() {
    let service = Service::start_following().await;
    let database = database_of(&service);
    for (name, value) in HOSTILE {
        sql(&service, format!("alter database {database} set {name} = {}", quoted(value))).await;
    }
    end_sessions(&service).await;
    let customer = Uuid::new_v4();
    let body = json!({"customer_id": customer, "email": "a@example.com", "tier": "pro"});
    answers_within(Duration::from_secs(10), "a customer is created", async || {
        service.call("POST", "/v1/customers").json(&body).send().await.status == 201
    })
    .await;
    let end = "2026-09-01T00:00:00.123456Z";
    let wish = json!({"consent_tier": "research", "can_store_images": true, "expires_at": end});
    answers_within(Duration::from_secs(10), "a consent is given", async || {
        service.put(customer, &wish).send().await.status.is_success()
    })
    .await;
    assert_eq!(service.consent(customer).await["expires_at"], end);
    service.call("DELETE", &consent(customer)).send().await.expect(200);
    assert_eq!(service.trail(customer).await.len(), 2);
    service.get("/v1/audit").header("accept", "text/csv").send().await.expect(200);

    let purposes = [Purpose::Reads, Purpose::Writes, Purpose::Lane, Purpose::Lookups, Purpose::Follower];
    let mut connections = Vec::new();
    for purpose in purposes {
        connections
            .push((format!("{purpose:?}"), service.store.connect(purpose).await.expect("it connects")));
    }
    for purpose in [Purpose::Verification, Purpose::Owner, Purpose::Rewrite] {
        connections.push((format!("{purpose:?}"), open(&service.owner, purpose).await.expect("it connects")));
    }
    connections.push(("a snapshot".to_owned(), snapshot(&service.login).await.expect("a snapshot")));
    for (name, pool) in service.store.pools() {
        connections.push((format!("pool {name}"), pool.acquire().await.expect("a connection").detach()));
    }
    for (kind, connection) in &mut connections {
        for (name, hostile) in HOSTILE {
            if !LEFT_ALONE.contains(&name) {
                assert_ne!(setting(connection, name).await, hostile, "{name} of {kind}");
            }
        }
        assert_eq!(setting(connection, "synchronous_commit").await, "on", "{kind}");
    }
    assert_eq!(setting(&mut connections[2].1, "lock_timeout").await, "1s");
    assert_eq!(setting(&mut connections[2].1, "statement_timeout").await, "5s");
}

fn quoted(value: &str) -> String {
    // A list is a list of names.
    if value.contains(", ") { value.to_owned() } else { format!("'{value}'") }
}

#[tokio::test]
async fn a_stronger_synchronous_commit_is_kept_and_weaker_ones_are_raised() {
    let service = Service::start().await;
    let database = database_of(&service);
    for (given, kept) in [
        ("remote_apply", "remote_apply"),
        ("on", "on"),
        ("remote_write", "on"),
        ("local", "on"),
        ("off", "on"),
    ] {
        sql(&service, format!("alter database {database} set synchronous_commit = {given}")).await;
        let mut connection = service.store.connect(Purpose::Lane).await.expect("it connects");
        assert_eq!(setting(&mut connection, "synchronous_commit").await, kept, "{given}");
    }
}

/// Everything that opens a connection, and the files that may.
#[test]
fn every_connection_is_opened_in_one_place() {
    fn sources(dir: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path());
        entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    // The launch of the private server asks whether anybody is there.
    let may = ["store/connection.rs", "postgres/launch.rs"];
    for path in sources(&source) {
        let inside = path.strip_prefix(&source).expect("below src").to_string_lossy().into_owned();
        if may.contains(&inside.as_str()) {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        for opens in
            ["ConnectOptions as _", ".connect().await", "PgConnection::connect", "connect_lazy", "PgPool::"]
        {
            assert!(!text.contains(opens), "{inside} opens a connection past store/connection.rs: {opens}");
        }
    }
}

#[tokio::test]
async fn an_acknowledged_withdrawal_survives_a_crash_although_the_role_commits_without_waiting() {
    let mut cluster = OwnCluster::start().await;
    cluster.sql("alter role consentd_service set synchronous_commit = off").await;
    // What is not waited for is written by nobody else.
    cluster.sql("alter system set wal_writer_delay = '10s'").await;
    cluster.sql("select pg_reload_conf()").await;
    let service = Service::on(cluster.owner.clone(), &cluster.service).await;
    let customer = service.customer().await;
    service
        .put(customer, &json!({"consent_tier": "research", "can_store_images": true}))
        .send()
        .await
        .expect(201);
    sleep(Duration::from_millis(200)).await;
    service.call("DELETE", &consent(customer)).send().await.expect(200);
    cluster.kill().await;
    cluster.start_again().await;
    let mut owner = open(&cluster.owner, Purpose::Owner).await.expect("the owner connects");
    let tier: String = sqlx::query_scalar(
        "select consent_tier::text from vlaapi.customer_data_consent where customer_id = $1",
    )
    .bind(customer)
    .fetch_one(&mut owner)
    .await
    .expect("the consent is there");
    assert_eq!(tier, "none");
}

#[tokio::test]
async fn writes_are_refused_and_reads_answered_where_no_trigger_fires() {
    let service = Service::start().await;
    let customer = service.customer().await;
    service.put(customer, &json!({"consent_tier": "basic"})).send().await.expect(201);
    let database = database_of(&service);
    sql(&service, format!("alter database {database} set session_replication_role = replica")).await;
    end_sessions(&service).await;
    answers_within(Duration::from_secs(5), "the state is named", async || {
        let ready = service.get("/readyz").no_key().send().await.expect(200).json();
        ready["dependencies"][1]["name"] == "database_writes"
            && ready["dependencies"][1]["condition"] == "down"
    })
    .await;
    for _ in 0..3 {
        let answer = service.put(customer, &json!({"consent_tier": "analytics"})).send().await.expect(503);
        answer.problem("unavailable");
        let body = json!({"email": "b@example.com", "tier": "pro"});
        service.call("POST", "/v1/customers").json(&body).send().await.expect(503);
        assert_eq!(service.consent(customer).await["consent_tier"], "basic");
        service.get(&format!("{}/permissions", consent(customer))).send().await.expect(200);
        assert_eq!(service.trail(customer).await.len(), 1);
    }
    sql(&service, format!("alter database {database} reset session_replication_role")).await;
    answers_within(Duration::from_secs(5), "writes work again", async || {
        service.put(customer, &json!({"consent_tier": "analytics"})).send().await.status == 200
    })
    .await;
    answers_within(Duration::from_secs(5), "the state is named no more", async || {
        let ready = service.get("/readyz").no_key().send().await.expect(200).json();
        ready["dependencies"][1]["condition"] == "up"
    })
    .await;
    assert_eq!(service.trail(customer).await.len(), 2);
}

#[tokio::test]
async fn a_connection_that_turned_read_only_is_not_used_again() {
    let service = Service::start().await;
    let store = Store::new(&service.login, 1, 1);
    for _ in 0..3 {
        let mut transaction = store.begin().await.expect("a transaction");
        let read_only = setting(&mut transaction, "transaction_read_only").await;
        assert_eq!(read_only, "off");
        sqlx::raw_sql("set default_transaction_read_only = on")
            .execute(&mut *transaction)
            .await
            .expect("a setting");
        transaction.commit().await.expect("a commit");
    }
}

#[tokio::test]
async fn a_standby_is_named_and_writes_work_soon_after_its_promotion() {
    let mut cluster = OwnCluster::start().await;
    let service = Service::following(cluster.owner.clone(), &cluster.service).await;
    let customer = service.customer().await;
    service.put(customer, &json!({"consent_tier": "basic"})).send().await.expect(201);
    cluster.stop().await;
    cluster.start_as_standby().await;
    answers_within(Duration::from_secs(5), "the standby is named", async || {
        let ready = service.get("/readyz").no_key().send().await.expect(200).json();
        ready["dependencies"][0]["detail"].as_str().is_some_and(|detail| detail.contains("standby"))
    })
    .await;
    service.put(customer, &json!({"consent_tier": "analytics"})).send().await.expect(503);
    cluster.sql("select pg_promote()").await;
    answers_within(Duration::from_secs(5), "writes work again", async || {
        service.put(customer, &json!({"consent_tier": "analytics"})).send().await.status == 200
    })
    .await;
    answers_within(Duration::from_secs(5), "other writes work again", async || {
        let body = json!({"email": "b@example.com", "tier": "pro"});
        service.call("POST", "/v1/customers").json(&body).send().await.status == 201
    })
    .await;
}
