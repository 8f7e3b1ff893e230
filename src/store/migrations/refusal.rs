//! What the database refuses, as one sentence.

use sqlx::migrate::{MigrateError, Migration};
use sqlx::postgres::{PgDatabaseError, PgErrorPosition};

use super::file_name;
use crate::error::StartError;

/// Names file, line and cause; the transaction of the migration is rolled back.
pub fn failed(migration: &Migration, error: &MigrateError) -> StartError {
    let (MigrateError::ExecuteMigration(error, _) | MigrateError::Execute(error)) = error else {
        return StartError::new(format!("{}: {error}", file_name(migration)));
    };
    let position = error
        .as_database_error()
        .and_then(|cause| cause.try_downcast_ref::<PgDatabaseError>())
        .and_then(PgDatabaseError::position);
    let line = match position {
        Some(PgErrorPosition::Original(position)) => {
            let before = migration.sql.as_str().chars().take(position);
            format!(", line {}", 1 + before.filter(|character| *character == '\n').count())
        }
        _ => String::new(),
    };
    StartError::new(format!(
        "{}{line} failed and left the database as it was before it: {}",
        file_name(migration),
        cause(error)
    ))
}

pub fn preparing(error: &MigrateError) -> StartError {
    match error {
        MigrateError::Execute(error) => database(error),
        other => StartError::new(other.to_string()),
    }
}

pub fn database(error: &sqlx::Error) -> StartError {
    StartError::new(format!("the database refuses to be migrated: {}", cause(error)))
}

pub fn cause(error: &sqlx::Error) -> String {
    let Some(refusal) =
        error.as_database_error().and_then(|cause| cause.try_downcast_ref::<PgDatabaseError>())
    else {
        return error.to_string();
    };
    let mut text = refusal.message().to_owned();
    for more in [refusal.detail(), refusal.hint()].into_iter().flatten() {
        text.push_str("; ");
        text.push_str(more);
    }
    text
}
