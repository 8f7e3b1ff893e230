//! The migrations forward, back, at boot, by command, and on a database that was made by hand.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod baseline;
mod command;
mod database;
mod legacy;
mod trail;

use consentd::store::migrations::{self, State};

use self::database::{Database, LAST, fill};

#[tokio::test]
async fn every_migration_goes_up_down_and_up_to_the_same_schema_with_rows_in_the_tables() {
    let database = Database::empty().await;
    let mut below: Option<String> = None;
    for version in 1..=LAST {
        migrations::up(&database.options, Some(version)).await.unwrap();
        let first = database.schema();
        fill(&database, version).await;

        migrations::down(&database.options, version - 1).await.unwrap();
        if let Some(below) = &below {
            assert_same_schema(&database.schema(), below, version - 1);
        }
        migrations::up(&database.options, Some(version)).await.unwrap();
        assert_same_schema(&database.schema(), &first, version);

        fill(&database, version).await;
        below = Some(first);
    }

    migrations::down(&database.options, 0).await.unwrap();
    migrations::up(&database.options, None).await.unwrap();
    assert_same_schema(&database.schema(), &below.unwrap(), LAST);
}

#[tokio::test]
async fn partitions_by_month_and_their_rows_stay_when_what_made_them_is_rolled_back() {
    let database = Database::migrated().await;
    let customer = database.customer().await;
    database
        .run(&format!(
            "select vlaapi.make_inference_log_partitions('2031-01-01', 2);
             insert into vlaapi.inference_logs (customer_id, model_name, status, timestamp)
             values ('{customer}', 'openvla-7b', 'success', '2031-01-15')"
        ))
        .await;
    let before = database.schema();
    migrations::down(&database.options, LAST - 1).await.unwrap();
    migrations::up(&database.options, None).await.unwrap();
    assert_same_schema(&database.schema(), &before, LAST);
    let kept = database.text("select count(*)::text from vlaapi.inference_logs_2031_01").await;
    assert_eq!(kept, "1");
}

fn assert_same_schema(schema: &str, expected: &str, version: i64) {
    let odd: Vec<_> = schema.lines().filter(|line| !expected.contains(*line)).collect();
    assert!(schema == expected, "the schema at {version} differs: {odd:#?}");
}

#[tokio::test]
async fn replicas_that_boot_together_apply_each_migration_once() {
    let database = Database::empty().await;
    let boots = (0..6).map(|_| {
        let options = database.options.clone();
        tokio::spawn(async move { migrations::up(&options, None).await.unwrap().len() })
    });
    let mut applied = Vec::new();
    for boot in boots.collect::<Vec<_>>() {
        applied.push(boot.await.unwrap());
    }
    assert_eq!(applied.iter().sum::<usize>(), usize::try_from(LAST).unwrap());
    let status = migrations::status(&database.options).await.unwrap();
    assert!(status.iter().all(|status| status.state == State::Applied));
    assert!(status.iter().all(|status| status.applied_by.as_deref() == Some(env!("CARGO_PKG_VERSION"))));
}

#[tokio::test]
async fn databases_of_one_server_can_be_migrated_at_once() {
    let databases = [Database::empty().await, Database::empty().await, Database::empty().await];
    let boots = databases.each_ref().map(|database| {
        let options = database.options.clone();
        tokio::spawn(async move { migrations::up(&options, None).await })
    });
    for boot in boots {
        boot.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn the_names_of_the_migrations_are_those_of_their_files() {
    let database = Database::empty().await;
    for status in migrations::status(&database.options).await.unwrap() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(&status.file);
        assert!(file.exists(), "{}", status.file);
        assert_eq!(status.state, State::Pending);
    }
}

#[tokio::test]
async fn a_file_that_was_changed_since_it_was_applied_is_refused_by_name() {
    let database = Database::migrated().await;
    database.run("update vlaapi.schema_migrations set checksum = '\\x00' where version = 3").await;
    for refusal in [
        migrations::up(&database.options, None).await.unwrap_err(),
        migrations::down(&database.options, 4).await.unwrap_err(),
        migrations::check(&database.options).await.unwrap_err(),
    ] {
        assert!(
            refusal
                .to_string()
                .starts_with("003_add_customer_data_consent.up.sql was changed since it was applied"),
            "{refusal}"
        );
    }
    let status = migrations::status(&database.options).await.unwrap();
    assert_eq!(status[2].state, State::Modified);
}

#[tokio::test]
async fn a_schema_that_is_newer_than_the_program_is_refused() {
    let database = Database::migrated().await;
    database
        .run(
            "insert into vlaapi.schema_migrations
               (version, description, success, checksum, execution_time, applied_by)
             values (900, 'far ahead', true, '\\x00', 0, '9.0.0')",
        )
        .await;
    for refusal in [
        migrations::up(&database.options, None).await.unwrap_err(),
        migrations::plan_down(&database.options, None).await.unwrap_err(),
        migrations::check(&database.options).await.unwrap_err(),
    ] {
        assert!(
            refusal.to_string().starts_with(
                "the schema is newer than this program: 900_far_ahead.up.sql was applied by 9.0.0"
            ),
            "{refusal}"
        );
    }
    let status = migrations::status(&database.options).await.unwrap();
    assert_eq!(status.last().unwrap().state, State::Unknown);
}

#[tokio::test]
async fn a_migration_that_fails_leaves_the_database_as_it_was_and_names_file_and_cause() {
    let database = Database::empty().await;
    migrations::up(&database.options, Some(5)).await.unwrap();
    database.run("create table vlaapi.audit_leaves (mine text)").await;
    let before = database.schema();

    let failure = migrations::up(&database.options, None).await.unwrap_err().to_string();

    assert!(failure.starts_with("006_audit_log.up.sql"), "{failure}");
    assert!(failure.contains("relation \"audit_leaves\" already exists"), "{failure}");
    assert_same_schema(&database.schema(), &before, 5);
    assert_eq!(database.text("select count(*)::text from vlaapi.schema_migrations").await, "5");

    database.run("drop table vlaapi.audit_leaves").await;
    assert_eq!(
        migrations::up(&database.options, None).await.unwrap().len(),
        usize::try_from(LAST - 5).unwrap()
    );
}

#[tokio::test]
async fn a_dry_run_changes_nothing_and_tells_the_sql() {
    let database = Database::empty().await;
    let before = database.schema();
    let planned = migrations::dry_run(&database.options, None).await.unwrap();
    assert_eq!(planned.len(), usize::try_from(LAST).unwrap());
    assert!(planned[0].sql.contains("create table vlaapi.customers"));
    assert_same_schema(&database.schema(), &before, 0);

    migrations::up(&database.options, Some(3)).await.unwrap();
    fill(&database, 3).await;
    let before = (database.schema(), database.contents().await);
    migrations::dry_run(&database.options, Some(4)).await.unwrap();
    assert_eq!((database.schema(), database.contents().await), before);
}

#[tokio::test]
async fn a_dry_run_tells_what_would_fail() {
    let database = Database::empty().await;
    migrations::up(&database.options, Some(5)).await.unwrap();
    database.run("create table vlaapi.audit_leaves (mine text)").await;
    let failure = migrations::dry_run(&database.options, None).await.unwrap_err();
    assert!(failure.to_string().starts_with("006_audit_log.up.sql"), "{failure}");
}

#[tokio::test]
async fn a_service_that_must_not_migrate_names_the_migration_it_misses() {
    let database = Database::empty().await;
    let refusal = migrations::check(&database.options).await.unwrap_err();
    assert!(
        refusal.to_string().starts_with("the database lacks migration 001_initial_schema.up.sql"),
        "{refusal}"
    );
    migrations::up(&database.options, Some(LAST - 1)).await.unwrap();
    let refusal = migrations::check(&database.options).await.unwrap_err();
    assert!(
        refusal.to_string().starts_with("the database lacks migration 015_sequences.up.sql"),
        "{refusal}"
    );
    migrations::up(&database.options, None).await.unwrap();
    migrations::check(&database.options).await.unwrap();
}

#[tokio::test]
async fn the_role_that_serves_reads_the_record_and_cannot_write_it() {
    let database = Database::migrated().await;
    migrations::check(database.service()).await.unwrap();
    let refusal = database.try_as("vlaapi_app", "delete from vlaapi.schema_migrations").await.unwrap_err();
    assert!(refusal.contains("permission denied"), "{refusal}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_one_sentence() {
    let nowhere = sqlx::postgres::PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(1)
        .username("somebody")
        .database("nowhere");
    let refusal = migrations::up(&nowhere, None).await.unwrap_err().to_string();
    assert!(
        refusal.starts_with(
            "cannot connect to PostgreSQL at 127.0.0.1, port 1, database nowhere, as somebody: "
        ),
        "{refusal}"
    );
    assert!(!refusal.contains('\n'));
}
