//! What a schema is made of, to compare a database that was made by hand with what the migrations make.

use std::collections::BTreeMap;
use std::fmt;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{Connection, Executor};

use super::migrations;
use crate::error::StartError;

/// A place where a database is not what its migrations make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    Missing {
        what: String,
        expected: String,
    },
    Unexpected {
        what: String,
    },
    Other {
        what: String,
        expected: String,
        found: String,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { what, expected } => write!(f, "{what} is missing: {expected}"),
            Self::Unexpected { what } => write!(f, "{what} is not made by these migrations"),
            Self::Other {
                what,
                expected,
                found,
            } => {
                write!(f, "{what} is {found}, where the migrations make {expected}")
            }
        }
    }
}

/// Adopts a database to which 001 to `at` were applied by hand: records them, if there is no difference.
pub async fn baseline(owner: &PgConnectOptions, at: i64) -> Result<Vec<Difference>, StartError> {
    migrations::known(at)?;
    let mut connection = migrations::connect_locked(owner).await?;
    if migrations::has_records(&mut connection).await? {
        return Err(StartError::new(
            "migrations are already recorded in this database: `consentd migrate status` lists them",
        ));
    }
    // One transaction, so that what was compared is what is recorded.
    let mut transaction = connection
        .begin()
        .await
        .map_err(|error| migrations::database(&error))?;
    let found = read_catalog(&mut transaction).await?;
    let expected = catalog_of_migrations(&mut transaction, at, !found.is_empty()).await?;
    let differences = compare(&expected, &found);
    if differences.is_empty() {
        migrations::record_as_applied(&mut transaction, at).await?;
    }
    transaction
        .commit()
        .await
        .map_err(|error| migrations::database(&error))?;
    migrations::close(connection).await?;
    Ok(differences)
}

/// Applies 001 to `at` beside the schema that stands, reads what they make, and takes it back.
async fn catalog_of_migrations(
    connection: &mut PgConnection,
    at: i64,
    schema_stands: bool,
) -> Result<Catalog, StartError> {
    let mut scratch = connection
        .begin()
        .await
        .map_err(|error| migrations::database(&error))?;
    if schema_stands {
        scratch
            .execute("alter schema vlaapi rename to vlaapi_as_found")
            .await
            .map_err(|error| migrations::database(&error))?;
    }
    for migration in migrations::forwards().filter(|migration| migration.version <= at) {
        scratch
            .execute(migration.sql.clone())
            .await
            .map_err(|error| migrations::failed(migration, &error.into()))?;
    }
    let catalog = read_catalog(&mut scratch).await?;
    scratch
        .rollback()
        .await
        .map_err(|error| migrations::database(&error))?;
    Ok(catalog)
}

/// What each thing in the schema is, by its kind and name.
type Catalog = BTreeMap<String, String>;

/// Partitions by month are made as time goes on, so only the default one counts. What is given by something else that is
/// listed (the index of a constraint, a partition's share of a foreign key or index) is left out.
async fn read_catalog(connection: &mut PgConnection) -> Result<Catalog, StartError> {
    let things = sqlx::query!(
        r#"
        with relation as (
          select c.oid, c.relname, c.relkind, c.relpartbound
          from pg_class c
          where c.relnamespace = (select oid from pg_namespace where nspname = 'vlaapi')
            and c.relname <> 'schema_migrations'
            and (not c.relispartition or pg_get_expr(c.relpartbound, c.oid) = 'DEFAULT')
        )
        select case relkind
            when 'v' then 'view ' when 'm' then 'materialized view ' when 'S' then 'sequence ' else 'table '
          end || relname as "what!",
          case relkind
            when 'v' then pg_get_viewdef(oid)
            when 'm' then pg_get_viewdef(oid)
            when 'S' then 'a sequence'
            when 'p' then 'partitioned by ' || pg_get_partkeydef(oid)
            when 'r' then 'a table' || coalesce(', partition ' || pg_get_expr(relpartbound, oid), '')
            else 'of kind ' || relkind::text
          end as "definition!"
        from relation
        where relkind not in ('i', 'I', 'c')
        union all
        select 'column ' || relname || '.' || attname,
          format_type(atttypid, atttypmod)
            || case when attnotnull then ' not null' else '' end
            || case attidentity when 'a' then ' generated always as identity'
                                when 'd' then ' generated by default as identity' else '' end
            || case when attgenerated <> '' then ' generated' else '' end
            || coalesce(' default ' || pg_get_expr(adbin, adrelid), '')
        from relation
        join pg_attribute on attrelid = relation.oid and attnum > 0 and not attisdropped
        left join pg_attrdef on adrelid = attrelid and adnum = attnum
        where relkind in ('r', 'p', 'v', 'm')
        union all
        select 'constraint ' || conname || ' on ' || relname, pg_get_constraintdef(pg_constraint.oid)
        from relation
        join pg_constraint on conrelid = relation.oid
        where contype <> 'n' and conparentid = 0
        union all
        select 'index ' || indexed.relname, pg_get_indexdef(indexrelid) || case when indisvalid then '' else ' INVALID' end
        from relation
        join pg_index on indrelid = relation.oid
        join pg_class indexed on indexed.oid = indexrelid
        where not indexed.relispartition
          and not exists (select from pg_constraint where conindid = indexrelid and contype in ('p', 'u', 'x'))
        union all
        select 'trigger ' || tgname || ' on ' || relname,
          pg_get_triggerdef(pg_trigger.oid) || case when tgenabled = 'O' then '' else ' (not enabled)' end
        from relation
        join pg_trigger on tgrelid = relation.oid
        where not tgisinternal and tgparentid = 0
        union all
        select case prokind when 'p' then 'procedure ' when 'a' then 'aggregate ' else 'function ' end
            || proname || '(' || pg_get_function_identity_arguments(oid) || ')',
          case when prokind = 'a' then 'an aggregate' else pg_get_functiondef(oid) end
        from pg_proc
        where pronamespace = (select oid from pg_namespace where nspname = 'vlaapi')
        "#
    )
    .fetch_all(connection)
    .await
    .map_err(|error| migrations::database(&error))?;
    Ok(things
        .into_iter()
        .map(|thing| (thing.what, thing.definition))
        .collect())
}

fn compare(expected: &Catalog, found: &Catalog) -> Vec<Difference> {
    let mut differences = Vec::new();
    for (what, definition) in expected {
        match found.get(what) {
            None => differences.push(Difference::Missing {
                what: what.clone(),
                expected: definition.clone(),
            }),
            // A constraint which was validated since holds more than the migration asks.
            Some(other) if other != definition && format!("{other} NOT VALID") != *definition => {
                differences.push(Difference::Other {
                    what: what.clone(),
                    expected: definition.clone(),
                    found: other.clone(),
                });
            }
            Some(_) => {}
        }
    }
    let unexpected = found.keys().filter(|what| !expected.contains_key(*what));
    differences.extend(unexpected.map(|what| Difference::Unexpected { what: what.clone() }));
    differences
}
