//! `consentd migrate`.

use std::process::{Command, Output, Stdio};

use sqlx::ConnectOptions;

use super::database::{Database, LAST, program};
use consentd::store::migrations;

fn migrate(database: &Database, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_consentd"))
        .arg("migrate")
        .args(arguments)
        .args(["--database-url", &database.url])
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn out(output: &Output) -> String {
    assert!(output.status.success(), "{}", err(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[tokio::test]
async fn up_says_what_it_applied_and_then_that_nothing_is_left() {
    let database = Database::empty().await;
    let first = out(&migrate(&database, &["up", "--to", "2"]));
    assert!(first.contains("applied 001_initial_schema.up.sql in "), "{first}");
    assert_eq!(first.lines().count(), 2);
    let rest = usize::try_from(LAST).unwrap() - 2;
    assert_eq!(out(&migrate(&database, &["up"])).lines().count(), rest);
    assert_eq!(out(&migrate(&database, &["up"])), "nothing to apply: the schema is up to date\n");
}

#[tokio::test]
async fn a_migration_that_does_not_exist_is_refused() {
    let database = Database::empty().await;
    let refused = migrate(&database, &["up", "--to", "77"]);
    assert!(!refused.status.success());
    assert!(err(&refused).contains("there is no migration 77: this program knows 1 to 15"));
}

#[tokio::test]
async fn a_dry_run_prints_the_sql() {
    let database = Database::empty().await;
    let printed = out(&migrate(&database, &["up", "--dry-run"]));
    assert!(printed.contains("-- 004_provable_consent.up.sql\n"), "{printed}");
    assert!(printed.contains("create table vlaapi.customers ("));
    assert_eq!(database.schema(), "");
}

#[tokio::test]
async fn down_asks_and_without_a_terminal_wants_yes() {
    let database = Database::migrated().await;
    let before = database.schema();
    let refused = migrate(&database, &["down"]);
    assert!(!refused.status.success());
    assert!(
        err(&refused).contains("rolling back 015_sequences.down.sql destroys data: say --yes"),
        "{}",
        err(&refused)
    );
    assert_eq!(database.schema(), before);

    let done = out(&migrate(&database, &["down", "--yes"]));
    assert!(done.starts_with("ran 015_sequences.down.sql in "), "{done}");
    let done = out(&migrate(&database, &["down", "--to", "0", "--yes"]));
    assert_eq!(done.lines().count(), usize::try_from(LAST).unwrap() - 1);
    let empty = migrate(&database, &["down", "--yes"]);
    assert!(err(&empty).contains("there is nothing to roll back"));
}

#[tokio::test]
async fn status_lists_every_migration() {
    let database = Database::empty().await;
    migrations::up(&database.options, Some(3)).await.unwrap();
    let listed = out(&migrate(&database, &["status"]));
    assert!(listed.contains("003_add_customer_data_consent.up.sql"), "{listed}");
    assert_eq!(listed.matches(" applied ").count(), 3, "{listed}");
    assert_eq!(listed.matches(" pending").count(), usize::try_from(LAST).unwrap() - 3, "{listed}");

    let json = out(&migrate(&database, &["status", "--json"]));
    let list: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(list.as_array().unwrap().len(), usize::try_from(LAST).unwrap());
    assert_eq!(list[0]["state"], "applied");
    assert_eq!(list[0]["applied_by"], env!("CARGO_PKG_VERSION"));
    assert!(list[0]["applied_at"].is_string());
    assert_eq!(list[5]["state"], "pending");
    assert!(list[5]["applied_at"].is_null());
}

#[tokio::test]
async fn a_backup_is_written_first_and_holds_the_data() {
    use std::os::unix::fs::PermissionsExt;

    let database = Database::migrated().await;
    let customer = database.customer().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("before.dump");
    out(&migrate(&database, &["down", "--to", "0", "--yes", "--backup", file.to_str().unwrap()]));
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let rows = program("pg_restore")
        .args(["--data-only", "--schema=vlaapi", "--table=customers", "--file=-"])
        .arg(&file)
        .output()
        .unwrap();
    assert!(String::from_utf8(rows.stdout).unwrap().contains(&customer));
}

#[tokio::test]
async fn a_backup_that_fails_stops_what_would_follow() {
    let database = Database::migrated().await;
    let before = database.schema();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("before.dump");
    let file = file.to_str().unwrap();

    let without_programs = folder.path().to_str().unwrap();
    let refused = migrate(&database, &["down", "--yes", "--backup", file, "--pg-bindir", without_programs]);
    assert!(!refused.status.success());
    assert!(err(&refused).contains("no backup, so no migration"), "{}", err(&refused));
    assert!(!std::path::Path::new(file).exists());

    std::fs::write(file, "an older backup").unwrap();
    let refused = migrate(&database, &["down", "--yes", "--backup", file]);
    assert!(err(&refused).contains("cannot make the backup file"), "{}", err(&refused));
    assert_eq!(std::fs::read_to_string(file).unwrap(), "an older backup");
    assert_eq!(database.schema(), before);
}

#[tokio::test]
async fn the_password_for_a_backup_is_no_argument() {
    use std::os::unix::fs::PermissionsExt;

    let database = Database::migrated().await;
    let folder = tempfile::tempdir().unwrap();
    let seen = folder.path().join("seen");
    let pg_dump = folder.path().join("pg_dump");
    let script = "#!/bin/sh\necho \"arguments: $*\" > \"${0%/*}/seen\"; echo \"password: $PGPASSWORD\" >> \"${0%/*}/seen\"\n";
    std::fs::write(&pg_dump, script).unwrap();
    std::fs::set_permissions(&pg_dump, std::fs::Permissions::from_mode(0o700)).unwrap();

    let with_password = database.options.clone().password("a/b c%41").to_url_lossy().to_string();
    let folder = folder.path().to_str().unwrap();
    let done = Command::new(env!("CARGO_BIN_EXE_consentd"))
        .args(["migrate", "up", "--database-url", &with_password, "--pg-bindir", folder])
        .args(["--backup", &format!("{folder}/before.dump")])
        .output()
        .unwrap();
    out(&done);

    let seen = std::fs::read_to_string(seen).unwrap();
    assert!(seen.contains("password: a/b c%41\n"), "{seen}");
    assert_eq!(seen.matches("a/b c").count(), 1, "{seen}");
}

#[tokio::test]
async fn baseline_lists_what_differs_and_fails() {
    let database = Database::made_by_psql(3).await;
    database.run("alter table vlaapi.feedback drop constraint feedback_rating_check").await;
    let refused = migrate(&database, &["baseline", "--at", "3"]);
    assert!(!refused.status.success());
    let listed = String::from_utf8(refused.stdout.clone()).unwrap();
    assert!(listed.starts_with("constraint feedback_rating_check on feedback is missing: CHECK"), "{listed}");
    assert!(err(&refused).contains("1 differences"), "{}", err(&refused));
}
