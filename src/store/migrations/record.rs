//! `vlaapi.schema_migrations`: which migrations are applied, since when, by which version of the program.
//!
//! It is made here and not by a migration, so the few queries of it are not checked at compile time: they would need a
//! database which this module has prepared.

use chrono::{DateTime, Utc};
use sqlx::error::DatabaseError;
use sqlx::migrate::{Migrate, Migration};
use sqlx::postgres::PgConnection;

use super::refusal::{database, preparing};
use super::{MIGRATOR, THIS_VERSION, file_name, forward, name};
use crate::error::StartError;

#[derive(Debug, sqlx::FromRow)]
pub struct Record {
    pub version: i64,
    description: String,
    pub checksum: Vec<u8>,
    pub installed_on: DateTime<Utc>,
    pub applied_by: Option<String>,
}

impl Record {
    /// The file it was applied from.
    pub fn file(&self) -> String {
        forward(self.version).map_or_else(|| name(self.version, &self.description, ".up.sql"), file_name)
    }
}

pub async fn has_records(connection: &mut PgConnection) -> Result<bool, StartError> {
    Ok(!records(connection).await?.is_empty())
}

pub async fn records(connection: &mut PgConnection) -> Result<Vec<Record>, StartError> {
    if !has_table(connection, "schema_migrations").await? {
        return Ok(Vec::new());
    }
    // `to_jsonb`: a record that another tool made has no column `applied_by`.
    sqlx::query_as(
        "select version, description, checksum,
           greatest(least(installed_on, timestamptz '9999-12-31 00:00:00Z'), timestamptz '0001-01-01 00:00:00Z') as installed_on,
           to_jsonb(m) ->> 'applied_by' as applied_by
         from vlaapi.schema_migrations m
         order by version",
    )
    .fetch_all(connection)
    .await
    .map_err(|error| match error.as_database_error().and_then(DatabaseError::code).as_deref() {
        Some("42501") => StartError::new(format!(
            "this login role may not read vlaapi.schema_migrations: make it a member of vlaapi_app ({error})"
        )),
        _ => database(&error),
    })
}

pub async fn has_customers(connection: &mut PgConnection) -> Result<bool, StartError> {
    has_table(connection, "customers").await
}

/// Looks into the catalog, which every role may read, whatever it may do in the schema.
async fn has_table(connection: &mut PgConnection, table: &str) -> Result<bool, StartError> {
    sqlx::query_scalar!(
        r#"select exists (
             select from pg_class c join pg_namespace n on n.oid = c.relnamespace
             where n.nspname = 'vlaapi' and c.relname = $1 and c.relkind = 'r'
           ) as "exists!""#,
        table as _
    )
    .fetch_one(connection)
    .await
    .map_err(|error| database(&error))
}

pub async fn sign(connection: &mut PgConnection, migration: &Migration) -> Result<(), sqlx::Error> {
    sqlx::query("update vlaapi.schema_migrations set applied_by = $1 where version = $2")
        .bind(THIS_VERSION)
        .bind(migration.version)
        .execute(connection)
        .await?;
    Ok(())
}

pub async fn make_table(connection: &mut PgConnection) -> Result<(), StartError> {
    // `if not exists` alone would do, but says so in a notice each time.
    let made = sqlx::query_scalar!(
        r#"select exists (
             select from information_schema.columns
             where table_schema = 'vlaapi' and table_name = 'schema_migrations' and column_name = 'applied_by'
           ) as "made!""#
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(|error| database(&error))?;
    if made {
        return Ok(());
    }
    for schema in MIGRATOR.create_schemas.iter() {
        connection.create_schema_if_not_exists(schema).await.map_err(|error| preparing(&error))?;
    }
    connection.ensure_migrations_table(&MIGRATOR.table_name).await.map_err(|error| preparing(&error))?;
    sqlx::query("alter table vlaapi.schema_migrations add column if not exists applied_by text")
        .execute(connection)
        .await
        .map_err(|error| database(&error))?;
    Ok(())
}

/// The role that serves must be able to see what is applied, even where another tool made the record.
pub async fn let_service_read(connection: &mut PgConnection) -> Result<(), StartError> {
    sqlx::raw_sql(
        "do $$
         begin
           if exists (
             select from pg_roles
             where rolname = 'vlaapi_app' and not has_table_privilege(oid, 'vlaapi.schema_migrations', 'select')
           ) then
             grant select on vlaapi.schema_migrations to vlaapi_app;
           end if;
         end
         $$",
    )
    .execute(connection)
    .await
    .map_err(|error| database(&error))?;
    Ok(())
}
