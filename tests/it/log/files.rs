//! What was erased is nowhere: not in a dump, not in the tables' files.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use consentd::postgres::programs::Programs;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgPool, Postgres, Transaction};

use super::running::{Running, logins};
use super::{eventually, program, prove, said};
use crate::cluster::database;

fn dump(url: &str) -> String {
    let program = Programs::find(None, None).expect("PostgreSQL's programs").program("pg_dump");
    let url = url.split('?').next().expect("a URL");
    let output = Command::new(program).arg(format!("--dbname={url}")).output().expect("pg_dump starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("a dump is text")
}

/// Where the database's files are.
async fn directory(pool: &PgPool) -> PathBuf {
    let (data, oid): (String, String) = sqlx::query_as(
        "select current_setting('data_directory'), oid::text from pg_database where datname = current_database()",
    )
    .fetch_one(pool)
    .await
    .expect("where the files are");
    Path::new(&data).join("base").join(oid)
}

/// The files of a directory that hold these bytes.
fn holding(directory: &Path, bytes: &[u8]) -> Vec<String> {
    let files = std::fs::read_dir(directory)
        .expect("the database's directory")
        .map(|file| file.expect("a file").path());
    files
        .filter(|file| {
            let held = std::fs::read(file).unwrap_or_default();
            held.windows(bytes.len()).any(|window| window == bytes)
        })
        .map(|file| file.display().to_string())
        .collect()
}

/// Transactions that write nothing here, one after the other.
async fn come_and_go(elsewhere: PgConnectOptions, turn: u64) {
    let mut connection = elsewhere.connect().await.expect("the cluster answers");
    tokio::time::sleep(Duration::from_millis(150 * turn)).await;
    loop {
        let transaction = "begin; select pg_current_xact_id(), pg_sleep(0.3); commit";
        sqlx::raw_sql(transaction).execute(&mut connection).await.expect("the transaction ends");
    }
}

#[tokio::test]
async fn what_was_erased_is_gone_from_dumps_and_from_the_files_of_the_database() {
    let database = database().await;
    let data_dir = tempfile::tempdir().unwrap();
    let running = Running::start(&database, data_dir.path(), &[]).await;
    let customer = running.customer("canary-mail@example.com").await;
    let audit_id = running.change(customer).await;
    for _ in 0..20 {
        running.change(customer).await;
    }
    let issued = running.proof(audit_id).await;
    let pool = PgPool::connect_with(database.owner.clone()).await.unwrap();
    // What the planner knows of the columns lies in files too.
    let by_others =
        "update vlaapi.customers set customer_metadata = '{\"note\": \"canary-metadata\"}'; analyze";
    sqlx::raw_sql(by_others).execute(&pool).await.unwrap();
    let files = directory(&pool).await;
    let url = database.owner.to_url_lossy().to_string();
    let canaries = [
        "canary-mail",
        "canary-reason",
        "canary-person",
        "canary-agent",
        "canary-company",
        "canary-metadata",
    ];
    sqlx::raw_sql("checkpoint").execute(&pool).await.unwrap();
    let before = dump(&url);
    for canary in canaries {
        assert!(before.contains(canary), "{canary}");
        assert!(!holding(&files, canary.as_bytes()).is_empty(), "{canary} should be in the files");
    }

    // There is always somebody in the cluster who began before whatever happens now, as there is in a busy one.
    let others =
        [0, 1].map(|turn| tokio::spawn(come_and_go(database.owner.clone().database("postgres"), turn)));
    let (status, answer) = running.erase(customer).await;
    assert_eq!((status, answer["entries"].as_u64()), (200, Some(21)));
    running.says("what was erased is gone from the tables' files").await;
    for other in &others {
        other.abort();
    }
    sqlx::raw_sql("checkpoint").execute(&pool).await.unwrap();
    let after = dump(&url);
    for canary in canaries {
        assert!(!after.contains(canary), "{canary}");
        assert_eq!(holding(&files, canary.as_bytes()), [""; 0], "{canary}");
    }
    let key = running.get("/.well-known/consentd-audit.vkey").await.trim().parse().unwrap();
    assert!(prove(&issued, &[key]).opened.iter().any(|(_, value)| value == "canary-person"));
    running.stop().await;
}

/// Keeps a table from being written anew until it ends.
async fn in_the_way(pool: &PgPool) -> Transaction<'static, Postgres> {
    let mut transaction = pool.begin().await.expect("a transaction");
    let lock = "lock table vlaapi.customers in access share mode";
    sqlx::raw_sql(lock).execute(&mut *transaction).await.expect("a lock");
    transaction
}

async fn nothing_is_left(pool: &PgPool) {
    sqlx::raw_sql("checkpoint").execute(pool).await.expect("a checkpoint");
    let files = directory(pool).await;
    for canary in ["canary-mail", "canary-reason", "canary-company"] {
        assert_eq!(holding(&files, canary.as_bytes()), [""; 0], "{canary}");
    }
}

#[tokio::test]
async fn the_files_are_seen_to_again_when_somebody_stood_in_the_way() {
    let database = database().await;
    let data_dir = tempfile::tempdir().unwrap();
    let running = Running::start(&database, data_dir.path(), &[]).await;
    let customer = running.customer("canary-mail@example.com").await;
    running.change(customer).await;
    let pool = PgPool::connect_with(database.owner.clone()).await.unwrap();

    let in_the_way = in_the_way(&pool).await;
    let (status, _) = running.erase(customer).await;
    assert_eq!(status, 200);
    running.says("what was erased may still be in the tables' files; it is tried again").await;
    sqlx::raw_sql("checkpoint").execute(&pool).await.unwrap();
    let files = directory(&pool).await;
    assert!(!holding(&files, b"canary-mail").is_empty(), "the table could not be written anew");

    in_the_way.rollback().await.unwrap();
    running.says("what was erased is gone from the tables' files").await;
    nothing_is_left(&pool).await;
    running.stop().await;
}

#[tokio::test]
async fn a_service_that_was_killed_before_it_saw_to_the_files_does_so_when_it_starts() {
    let database = database().await;
    let data_dir = tempfile::tempdir().unwrap();
    let killed = Running::start(&database, data_dir.path(), &[]).await;
    let customer = killed.customer("canary-mail@example.com").await;
    killed.change(customer).await;
    let pool = PgPool::connect_with(database.owner.clone()).await.unwrap();

    let in_the_way = in_the_way(&pool).await;
    let (status, _) = killed.erase(customer).await;
    assert_eq!(status, 200);
    killed.says("it is tried again").await;
    killed.kill().await;
    in_the_way.rollback().await.unwrap();

    let running = Running::start(&database, data_dir.path(), &[]).await;
    running.says("what was erased is gone from the tables' files").await;
    nothing_is_left(&pool).await;
    eventually("it is noted that nothing is left to do", async || {
        is_true(&pool, "select count(vacuumed_at) = 1 from vlaapi.audit_erasures").await
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn where_a_table_is_too_large_its_indexes_are_made_anew_and_a_half_made_one_goes() {
    let database = database().await;
    let data_dir = tempfile::tempdir().unwrap();
    let running = Running::start(&database, data_dir.path(), &[]).await;
    let customer = running.customer("canary-mail@example.com").await;
    running.change(customer).await;
    running.change(customer).await;
    let pool = PgPool::connect_with(database.owner.clone()).await.unwrap();
    let large = "with hash (text) as materialized (
           select string_agg(sha512(number::text::bytea)::text, '') from generate_series(1, 8000) number
         )
         insert into vlaapi.customers (customer_id, email, customer_metadata)
         select gen_random_uuid(), 'large-' || number || '@example.com', jsonb_build_object('note', number || text)
         from generate_series(1, 80) number, hash";
    sqlx::raw_sql(large).execute(&pool).await.unwrap();
    assert!(is_true(&pool, "select pg_table_size('vlaapi.customers') > 64 << 20").await);
    // As a reindexing leaves it that was killed.
    let half_made = "create unique index concurrently customer_consent_audit_changed_by_idx_ccnew
         on vlaapi.customer_consent_audit ((1))";
    sqlx::raw_sql(half_made).execute(&pool).await.unwrap_err();
    let is_there = "select to_regclass('vlaapi.customer_consent_audit_changed_by_idx_ccnew') is not null";
    assert!(is_true(&pool, is_there).await);

    let (status, _) = running.erase(customer).await;
    assert_eq!(status, 200);
    running.says("a table is too large to be written anew now").await;
    assert!(!is_true(&pool, is_there).await);
    running.stop().await;
}

async fn is_true(pool: &PgPool, query: &'static str) -> bool {
    sqlx::query_scalar(query).fetch_one(pool).await.expect("an answer")
}

#[tokio::test]
async fn a_verification_that_waits_for_the_files_does_not_hold_them_up() {
    let database = database().await;
    let data_dir = tempfile::tempdir().unwrap();
    let running = Running::start(&database, data_dir.path(), &[]).await;
    let customer = running.customer("canary-mail@example.com").await;
    running.change(customer).await;
    let (status, _) = running.erase(customer).await;
    assert_eq!(status, 200);

    let pool = PgPool::connect_with(database.owner.clone()).await.unwrap();
    // While it goes on, every snapshot is of a time before the files are seen to.
    let mut from_before = pool.begin().await.unwrap();
    sqlx::raw_sql("select pg_current_xact_id()").execute(&mut *from_before).await.unwrap();
    eventually("the files are seen to", async || {
        is_true(
            &pool,
            "select exists (select from pg_locks join pg_database on pg_database.oid = database
             where datname = current_database() and locktype = 'advisory' and mode = 'ExclusiveLock' and granted)",
        )
        .await
    })
    .await;
    let mut verify = program(data_dir.path(), &["audit", "verify"]);
    verify.envs(logins(&database.service, &database.owner)).stdout(Stdio::piped()).stderr(Stdio::piped());
    let verify = verify.spawn().expect("the program starts");
    eventually("a verification waits for the files", async || {
        is_true(
            &pool,
            "select exists (select from pg_stat_activity
             where datname = current_database() and query like 'select pg_%advisory_lock_shared(%')",
        )
        .await
    })
    .await;
    from_before.rollback().await.unwrap();
    running.says("what was erased is gone from the tables' files").await;
    assert_eq!(running.said("it is tried again"), None);
    said(&verify.wait_with_output().unwrap());
    running.stop().await;
}
