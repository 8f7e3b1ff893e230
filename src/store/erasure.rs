//! Erasing personal fields: what is to go, taking it away, and making room in the files.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::Store;
use super::connection::{self, Purpose};
use crate::domain::{CustomerField, PersonalField};
use crate::error::Error;

/// Entries and events of a customer, up to `limit` above `after` and below `before`, which still hold one of these fields.
pub async fn holding(
    connection: &mut PgConnection,
    customer_id: Uuid,
    fields: &[PersonalField],
    (after, before): (i64, i64),
    limit: i64,
) -> Result<Vec<i64>, Error> {
    let held: Vec<bool> = PersonalField::ALL.iter().map(|field| fields.contains(field)).collect();
    let audit_ids = sqlx::query_scalar!(
        r#"
        select audit_id as "audit_id!"
        from (
          select audit_id, changed_by, on_behalf_of, change_reason, ip_address, user_agent
          from vlaapi.customer_consent_audit
          where customer_id = $1 and audit_id > $2 and audit_id < $9
          union all
          select audit_id, changed_by, on_behalf_of, change_reason, ip_address, user_agent
          from vlaapi.audit_events
          where customer_id = $1 and audit_id > $2 and audit_id < $9
        ) as entry
        where ($3 and changed_by is not null) or ($4 and on_behalf_of is not null)
          or ($5 and change_reason is not null) or ($6 and ip_address is not null) or ($7 and user_agent is not null)
        order by audit_id
        limit $8
        "#,
        customer_id,
        after,
        held[0],
        held[1],
        held[2],
        held[3],
        held[4],
        limit,
        before,
    )
    .fetch_all(connection)
    .await?;
    Ok(audit_ids)
}

/// Where a walk through the trail by time has come to.
#[derive(Clone, Copy, Debug)]
pub struct Reached {
    pub timestamp: DateTime<Utc>,
    pub audit_id: i64,
}

/// An entry that is old enough, and whether it still holds the field.
#[derive(Clone, Debug)]
pub struct Aged {
    pub audit_id: i64,
    pub timestamp: DateTime<Utc>,
    pub holds: bool,
}

impl Store {
    /// The next entries and events from before an instant, oldest first.
    pub async fn aged(
        &self,
        field: PersonalField,
        after: Reached,
        before: DateTime<Utc>,
        limit: i64,
    ) -> Result<Vec<Aged>, Error> {
        let aged = sqlx::query_as!(
            Aged,
            r#"
            select audit_id as "audit_id!", vlaapi.calendar_time(timestamp) as "timestamp!",
              case $5::text
                when 'changed_by' then changed_by is not null
                when 'on_behalf_of' then on_behalf_of is not null
                when 'change_reason' then change_reason is not null
                when 'ip_address' then ip_address is not null
                else user_agent is not null
              end as "holds!"
            from (
              select audit_id, timestamp, changed_by, on_behalf_of, change_reason, ip_address, user_agent
              from vlaapi.customer_consent_audit
              where (timestamp, audit_id) > ($1, $2) and timestamp < $3
              union all
              select audit_id, timestamp, changed_by, on_behalf_of, change_reason, ip_address, user_agent
              from vlaapi.audit_events
              where (timestamp, audit_id) > ($1, $2) and timestamp < $3
            ) as entry
            order by entry.timestamp, entry.audit_id
            limit $4
            "#,
            after.timestamp,
            after.audit_id,
            before,
            limit,
            field.as_str(),
        )
        .fetch_all(&self.reads)
        .await?;
        Ok(aged)
    }

    /// Whether the role that is logged in may act as the eraser.
    pub async fn may_erase(&self) -> Result<bool, Error> {
        let may =
            sqlx::query_scalar!(r#"select pg_has_role(current_user, 'vlaapi_eraser', 'member') as "may!""#)
                .fetch_one(&self.reads)
                .await?;
        Ok(may)
    }

    /// How many of these erasures are not carried out yet.
    pub async fn undone_erasures(&self, audit_ids: &[i64]) -> Result<i64, Error> {
        let undone = sqlx::query_scalar!(
            r#"
            select count(*) as "undone!" from vlaapi.audit_erasures where audit_id = any($1) and done_at is null
            "#,
            audit_ids,
        )
        .fetch_one(&self.reads)
        .await?;
        Ok(undone)
    }

    /// Erasures that are carried out, of which the tables' files may still hold something.
    pub async fn erasures_in_files(&self) -> Result<Vec<i64>, Error> {
        let audit_ids = sqlx::query_scalar!(
            "select audit_id from vlaapi.audit_erasures where done_at is not null and vacuumed_at is null"
        )
        .fetch_all(&self.reads)
        .await?;
        Ok(audit_ids)
    }

    /// Notes that the files were seen to since these erasures were carried out.
    pub async fn mark_vacuumed(&self, audit_ids: &[i64], now: DateTime<Utc>) -> Result<(), Error> {
        sqlx::query!(
            "update vlaapi.audit_erasures set vacuumed_at = $2 where audit_id = any($1)",
            audit_ids,
            now,
        )
        .execute(&self.writes)
        .await?;
        Ok(())
    }
}

/// Which of a customer's own columns hold something. `None`: there is no such customer.
pub async fn customer_holds(
    connection: &mut PgConnection,
    customer_id: Uuid,
) -> Result<Option<Vec<CustomerField>>, Error> {
    let row = sqlx::query!(
        r#"
        select email <> 'erased-' || customer_id || '@erased.invalid' as "email!", company_name is not null as "name!",
          customer_metadata <> '{}' as "metadata!"
        from vlaapi.customers
        where customer_id = $1
        "#,
        customer_id,
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| {
        let held = [
            (CustomerField::Email, row.email),
            (CustomerField::CompanyName, row.name),
            (CustomerField::CustomerMetadata, row.metadata),
        ];
        held.into_iter().filter(|(_, held)| *held).map(|(field, _)| field).collect()
    }))
}

/// Notes an erasure which is logged, to be carried out once it is sealed.
pub async fn note(connection: &mut PgConnection, audit_id: i64) -> Result<(), Error> {
    sqlx::query!("insert into vlaapi.audit_erasures (audit_id) values ($1)", audit_id)
        .execute(connection)
        .await?;
    Ok(())
}

/// An erasure that is sealed and not carried out.
#[derive(Clone, Debug)]
pub struct Due {
    pub audit_id: i64,
    pub customer_id: Option<Uuid>,
    /// JSON.
    pub details: String,
}

/// The next erasure after an id that is sealed and not carried out, locked; `None` when there is none that nobody else is at.
pub async fn lock_due(connection: &mut PgConnection, after: i64) -> Result<Option<Due>, Error> {
    let due = sqlx::query_as!(
        Due,
        r#"
        select erasure.audit_id, event.customer_id, event.details::text as "details!"
        from vlaapi.audit_erasures erasure
        join vlaapi.audit_events event on event.audit_id = erasure.audit_id
        where erasure.done_at is null and erasure.audit_id > $1
          and exists (
            select from vlaapi.audit_leaves leaf
            join vlaapi.audit_checkpoints signed on signed.log_id = leaf.log_id and signed.tree_size > leaf.leaf_index
            where leaf.audit_id = erasure.audit_id
          )
        order by erasure.audit_id
        limit 1
        for update of erasure skip locked
        "#,
        after,
    )
    .fetch_optional(connection)
    .await?;
    Ok(due)
}

pub async fn mark_done(
    connection: &mut PgConnection,
    audit_id: i64,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    sqlx::query!("update vlaapi.audit_erasures set done_at = $2 where audit_id = $1", audit_id, now)
        .execute(connection)
        .await?;
    Ok(())
}

/// Takes a customer's own columns away. An e-mail address that nobody has takes the place of the customer's.
pub async fn erase_customer(
    connection: &mut PgConnection,
    customer_id: Uuid,
    fields: &[CustomerField],
    now: DateTime<Utc>,
) -> Result<(), Error> {
    sqlx::query!(
        r#"
        update vlaapi.customers
        set email = case when $2 then 'erased-' || customer_id || '@erased.invalid' else email end,
          company_name = case when $3 then null else company_name end,
          customer_metadata = case when $4 then '{}' else customer_metadata end,
          updated_at = $5
        where customer_id = $1
        "#,
        customer_id,
        fields.contains(&CustomerField::Email),
        fields.contains(&CustomerField::CompanyName),
        fields.contains(&CustomerField::CustomerMetadata),
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes fields of entries and events away, with their salts, as the eraser: the transaction has that role until it ends.
pub async fn erase_entries(
    connection: &mut PgConnection,
    entries: &[[i64; 2]],
    fields: &[PersonalField],
) -> Result<u64, Error> {
    let (firsts, lasts): (Vec<i64>, Vec<i64>) = entries.iter().map(|[first, last]| (*first, *last)).unzip();
    let gone: Vec<bool> = PersonalField::ALL.iter().map(|field| fields.contains(field)).collect();
    sqlx::query!("set local role vlaapi_eraser").execute(&mut *connection).await?;
    let erased = sqlx::query!(
        r#"
        update vlaapi.customer_consent_audit entry
        set changed_by = case when not $3 then changed_by end, changed_by_salt = case when not $3 then changed_by_salt end,
          on_behalf_of = case when not $4 then on_behalf_of end,
          on_behalf_of_salt = case when not $4 then on_behalf_of_salt end,
          change_reason = case when not $5 then change_reason end,
          change_reason_salt = case when not $5 then change_reason_salt end,
          ip_address = case when not $6 then ip_address end, ip_address_salt = case when not $6 then ip_address_salt end,
          user_agent = case when not $7 then user_agent end, user_agent_salt = case when not $7 then user_agent_salt end
        from unnest($1::bigint[], $2::bigint[]) as named (first, last)
        where entry.audit_id between named.first and named.last
        "#,
        &firsts,
        &lasts,
        gone[0],
        gone[1],
        gone[2],
        gone[3],
        gone[4],
    )
    .execute(&mut *connection)
    .await?;
    let events = sqlx::query!(
        r#"
        update vlaapi.audit_events entry
        set changed_by = case when not $3 then changed_by end, changed_by_salt = case when not $3 then changed_by_salt end,
          on_behalf_of = case when not $4 then on_behalf_of end,
          on_behalf_of_salt = case when not $4 then on_behalf_of_salt end,
          change_reason = case when not $5 then change_reason end,
          change_reason_salt = case when not $5 then change_reason_salt end,
          ip_address = case when not $6 then ip_address end, ip_address_salt = case when not $6 then ip_address_salt end,
          user_agent = case when not $7 then user_agent end, user_agent_salt = case when not $7 then user_agent_salt end
        from unnest($1::bigint[], $2::bigint[]) as named (first, last)
        where entry.audit_id between named.first and named.last
        "#,
        &firsts,
        &lasts,
        gone[0],
        gone[1],
        gone[2],
        gone[3],
        gone[4],
    )
    .execute(connection)
    .await?;
    Ok(erased.rows_affected() + events.rows_affected())
}

/// Lets the role of the service erase. Only an owner who may grant roles can; others grant it by hand.
pub async fn let_erase(owner: &PgConnectOptions, service: &str) -> Result<(), Error> {
    let mut connection = connection::open(owner, Purpose::Owner).await?;
    let statement = format!("grant vlaapi_eraser to \"{}\"", service.replace('"', "\"\""));
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await?;
    connection.close().await?;
    Ok(())
}

/// A table that is smaller than this is written anew in well under a second.
const SMALL: i64 = 64 << 20;

/// How the files were rid of what was erased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vacuumed {
    /// Every table was written anew: nothing is left in its files.
    Rewritten,
    /// A table is too large to be locked for that, or belongs to somebody else: the files may hold remnants until their
    /// free space is used again.
    Freed,
}

/// How long those are waited for who see old versions of rows.
const OUTLASTED: Duration = Duration::from_secs(30);
const ASKED_EVERY: Duration = Duration::from_millis(50);

/// Verifications keep the files as they are for as long as they read, and none begins from now on; one replica sees to the
/// files at a time.
async fn outlast_verifications(connection: &mut PgConnection) -> Result<(), Error> {
    let since = Instant::now();
    while since.elapsed() < OUTLASTED {
        // Not waited for within a statement: see `verification::snapshot`.
        let over = sqlx::query_scalar!(
            r#"select pg_try_advisory_lock(hashtextextended('consentd files', 0)) as "over!""#
        )
        .fetch_one(&mut *connection)
        .await?;
        if over {
            return Ok(());
        }
        sleep(ASKED_EVERY).await;
    }
    Err(Error::Conflict("a verification goes on, or another replica sees to the files"))
}

/// Every snapshot, however short and new, keeps for a moment what the oldest transaction of the cluster may still see, and
/// one that was taken before the erasure, by whoever reads or analyzes in this database, for as long as it is held; a table
/// that is written anew just then takes old versions of rows along. An error: they are not all over by then.
async fn outlast_transactions(connection: &mut PgConnection) -> Result<(), Error> {
    let newest = sqlx::query_scalar!(r#"select pg_snapshot_xmax(pg_current_snapshot())::text as "newest!""#)
        .fetch_one(&mut *connection)
        .await?;
    let since = Instant::now();
    while since.elapsed() < OUTLASTED {
        let over = sqlx::query_scalar!(
            r#"
            select pg_snapshot_xmin(pg_current_snapshot()) >= $1::text::xid8 and not exists (
                select from pg_stat_activity
                where datname = current_database() and pid <> pg_backend_pid()
                  and age(backend_xmin) > age($1::text::xid8::xid)
              ) as "over!"
            "#,
            newest,
        )
        .fetch_one(&mut *connection)
        .await?;
        if over {
            return Ok(());
        }
        sleep(ASKED_EVERY).await;
    }
    Err(Error::Conflict("a transaction that began before goes on (pg_stat_activity has it)"))
}

/// Indexes hold values too, and can be written anew without a lock that anybody would notice. One that is given up, or killed,
/// leaves a half-made index behind, which every write would see to and nobody read: the next one takes it away.
async fn reindex(connection: &mut PgConnection) -> Result<(), Error> {
    let half_made = sqlx::query_scalar!(
        r#"
        select indexrelid::regclass::text as "index!"
        from pg_index join pg_class on pg_class.oid = indexrelid
        where indrelid = 'vlaapi.customer_consent_audit'::regclass and not indisvalid
          and relname ~ '^customer_consent_audit_(changed_by|ip_address)_idx_cc(new|old)[0-9]*$'
        "#
    )
    .fetch_all(&mut *connection)
    .await?;
    for index in half_made {
        let statement = format!("drop index concurrently if exists {index}");
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *connection).await?;
    }
    for index in ["changed_by", "ip_address"] {
        let statement = format!("reindex index concurrently vlaapi.customer_consent_audit_{index}_idx");
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Makes what was erased go from the tables' files too, as their owner. `VACUUM` alone frees the space and leaves the bytes
/// where they are until something is written over them; `VACUUM FULL` writes the table anew, and locks it meanwhile.
/// The planner keeps values too, the frequent ones of each column: they are taken anew, and their table written anew.
/// An error: something stood in the way, a transaction or a lock, and what was erased may all be there still.
pub async fn vacuum(owner: &PgConnectOptions) -> Result<Vacuumed, Error> {
    let mut connection = connection::open(owner, Purpose::Rewrite).await?;
    // Whoever owns neither would be refused, mostly by a warning alone.
    let owns = sqlx::query!(
        r#"
        select pg_has_role(current_user, relowner, 'usage') as "tables!",
          pg_has_role(current_user, datdba, 'usage') as "database!"
        from pg_class, pg_database
        where pg_class.oid = 'vlaapi.customer_consent_audit'::regclass and datname = current_database()
        "#
    )
    .fetch_one(&mut connection)
    .await?;
    if !owns.tables {
        return Ok(Vacuumed::Freed);
    }
    outlast_verifications(&mut connection).await?;
    outlast_transactions(&mut connection).await?;
    let mut all_small = true;
    for table in ["vlaapi.customer_consent_audit", "vlaapi.audit_events", "vlaapi.customers"] {
        let size = sqlx::query_scalar!(r#"select pg_table_size($1::text::regclass) as "size!""#, table)
            .fetch_one(&mut connection)
            .await?;
        let small = size < SMALL;
        all_small &= small;
        let how = if small { "full, analyze" } else { "analyze" };
        sqlx::raw_sql(AssertSqlSafe(format!("vacuum ({how}) {table}"))).execute(&mut connection).await?;
    }
    if owns.database {
        // What the planner kept is replaced by the analyses just now, and by whoever began before them it can still be read.
        outlast_transactions(&mut connection).await?;
        sqlx::raw_sql("vacuum full pg_catalog.pg_statistic").execute(&mut connection).await?;
    }
    if !all_small {
        sqlx::raw_sql("set lock_timeout = 0").execute(&mut connection).await?;
        reindex(&mut connection).await?;
    }
    connection.close().await?;
    Ok(if owns.database && all_small { Vacuumed::Rewritten } else { Vacuumed::Freed })
}
