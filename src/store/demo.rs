//! Loads customers, their trail and their consents by `COPY`, in one transaction.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::encode::IsNull;
use sqlx::postgres::{PgArgumentBuffer, PgConnection, PgCopyIn};
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, Encode, Postgres};

use crate::domain::{AuditEntry, ConsentRecord, ConsentTier, Customer};
use crate::store::consents::Vouching;

/// Other writers wait until the load is done: the entries' ids have no gap, and follow their times.
pub async fn lock(tx: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query!("set local statement_timeout = 0").execute(&mut *tx).await?;
    sqlx::query!(
        "lock table vlaapi.customers, vlaapi.customer_data_consent, vlaapi.customer_consent_audit
         in share row exclusive mode"
    )
    .execute(tx)
    .await?;
    Ok(())
}

pub async fn has_customers(tx: &mut PgConnection) -> sqlx::Result<bool> {
    sqlx::query_scalar!(r#"select exists (select from vlaapi.customers) as "found!""#).fetch_one(tx).await
}

/// Takes `count` audit ids out of the sequence; the first is answered. The tables must be locked.
pub async fn reserve_audit_ids(tx: &mut PgConnection, count: i64) -> sqlx::Result<i64> {
    let first = sqlx::query_scalar!(
        r#"select nextval('vlaapi.customer_consent_audit_audit_id_seq') as "id!" from pg_current_xact_id()"#
    )
    .fetch_one(&mut *tx)
    .await?;
    let last = first + (count - 1).max(0);
    sqlx::query_scalar!("select setval('vlaapi.customer_consent_audit_audit_id_seq', $1)", last)
        .fetch_one(tx)
        .await?;
    Ok(first)
}

/// Takes the indexes off an empty trail: made at the end, they cost less than half. Answers the statements that make them.
pub async fn drop_indexes_of_empty_trail(tx: &mut PgConnection) -> sqlx::Result<Vec<String>> {
    let indexes = sqlx::query!(
        r#"select
             case when c.oid is null then format('drop index %s', i.indexrelid::regclass)
               else format('alter table %s drop constraint %I', i.indrelid::regclass, c.conname)
             end as "taken_off!",
             case when c.oid is null then pg_get_indexdef(i.indexrelid)
               else format('alter table %s add constraint %I %s', i.indrelid::regclass, c.conname,
                 pg_get_constraintdef(c.oid))
             end as "made!"
           from pg_index i
           left join pg_constraint c on c.conindid = i.indexrelid and c.contype in ('p', 'u')
           where i.indrelid = 'vlaapi.customer_consent_audit'::regclass
             and not exists (select from vlaapi.customer_consent_audit)
           order by i.indexrelid"#
    )
    .fetch_all(&mut *tx)
    .await?;
    let mut made = Vec::new();
    if !indexes.is_empty() {
        // Without indexes, looking up the version before each entry would read the whole trail.
        sqlx::raw_sql(
            "alter table vlaapi.customer_consent_audit disable trigger customer_consent_audit_check",
        )
        .execute(&mut *tx)
        .await?;
        made.push(
            "alter table vlaapi.customer_consent_audit enable trigger customer_consent_audit_check"
                .to_owned(),
        );
    }
    for index in indexes {
        sqlx::raw_sql(AssertSqlSafe(index.taken_off)).execute(&mut *tx).await?;
        made.push(index.made);
    }
    Ok(made)
}

pub async fn make_indexes(tx: &mut PgConnection, statements: Vec<String>) -> sqlx::Result<()> {
    if !statements.is_empty() {
        sqlx::query!("set local maintenance_work_mem = '256MB'").execute(&mut *tx).await?;
    }
    for statement in statements {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *tx).await?;
    }
    Ok(())
}

/// Lets the planner know what was loaded.
pub async fn analyze(tx: &mut PgConnection) -> sqlx::Result<()> {
    let statement = "analyze vlaapi.customers, vlaapi.customer_consent_audit, vlaapi.customer_data_consent";
    sqlx::raw_sql(statement).execute(tx).await?;
    Ok(())
}

pub async fn copy_customers(
    tx: &mut PgConnection,
    customers: impl Iterator<Item = Customer>,
) -> sqlx::Result<u64> {
    let statement = "copy vlaapi.customers
        (customer_id, email, company_name, tier, rate_limit_rpm, rate_limit_rpd, is_active, created_at, updated_at)
        from stdin (format binary)";
    let mut rows = Rows::begin(tx, statement).await?;
    for customer in customers {
        rows.row(9)
            .field(customer.customer_id)?
            .field(customer.email.as_str())?
            .field(customer.company_name.as_deref())?
            .field(customer.tier.as_str())?
            .field(customer.rate_limit_rpm)?
            .field(customer.rate_limit_rpd)?
            .field(customer.is_active)?
            .field(customer.created_at)?
            .field(customer.updated_at)?
            .send_when_full()
            .await?;
    }
    rows.finish().await
}

/// Entries, each with what the service has to say of it, if it has a log. Calls `loaded` after each.
pub async fn copy_entries(
    tx: &mut PgConnection,
    entries: impl Iterator<Item = (AuditEntry, Option<Vouching>)>,
    loaded: impl Fn(),
) -> sqlx::Result<u64> {
    let statement = "copy vlaapi.customer_consent_audit
        (audit_id, customer_id, action, version, previous_tier, new_tier, previous, current, changed_by, on_behalf_of,
         change_reason, ip_address, user_agent, request_id, timestamp, changed_by_salt, on_behalf_of_salt,
         change_reason_salt, ip_address_salt, user_agent_salt, mac)
        from stdin (format binary)";
    let mut rows = Rows::begin(tx, statement).await?;
    for (entry, vouching) in entries {
        let (salts, mac) = match &vouching {
            Some(vouching) => (vouching.salts.clone(), Some(vouching.mac.as_slice())),
            None => Default::default(),
        };
        rows.row(21)
            .field(entry.audit_id)?
            .field(entry.customer_id)?
            .field(entry.action.as_str())?
            .field(entry.version)?
            .field(entry.previous_tier.map(ConsentTier::as_str))?
            .field(entry.new_tier.as_str())?
            .json(entry.previous.as_ref())?
            .json(entry.current.as_ref())?
            .field(entry.changed_by.as_deref())?
            .field(entry.on_behalf_of.as_deref())?
            .field(entry.change_reason.as_deref())?
            .field(entry.ip_address)?
            .field(entry.user_agent.as_deref())?
            .field(entry.request_id.as_deref())?
            .field(entry.timestamp)?
            .field(salts[0].as_deref())?
            .field(salts[1].as_deref())?
            .field(salts[2].as_deref())?
            .field(salts[3].as_deref())?
            .field(salts[4].as_deref())?
            .field(mac)?
            .send_when_full()
            .await?;
        loaded();
    }
    rows.finish().await
}

/// Queues entries that are vouched for: the others are queued by the database.
pub async fn queue(tx: &mut PgConnection, first_audit_id: i64, count: i64) -> sqlx::Result<()> {
    sqlx::query!(
        "insert into vlaapi.audit_pending (audit_id) select generate_series($1::bigint, $1 + $2 - 1)",
        first_audit_id,
        count,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Whether entries are sealed already: then those that come must be vouched for, as the service's are.
pub async fn has_log(tx: &mut PgConnection) -> sqlx::Result<bool> {
    sqlx::query_scalar!(r#"select exists (select from vlaapi.audit_logs) as "found!""#).fetch_one(tx).await
}

/// The consents in which the entries end; the database compares each with its customer's last entry. Of whom nothing
/// was recorded, `known_since` says when the default row was made.
pub async fn copy_consents<'a>(
    tx: &mut PgConnection,
    consents: impl Iterator<Item = (&'a ConsentRecord, DateTime<Utc>)>,
) -> sqlx::Result<u64> {
    let statement = "copy vlaapi.customer_data_consent
        (customer_id, consent_tier, can_store_images, can_store_embeddings, can_use_for_training, anonymization_level,
         policy_version, consent_granted_at, consent_updated_at, expires_at, version, audit_id)
        from stdin (format binary)";
    let mut rows = Rows::begin(tx, statement).await?;
    for (record, known_since) in consents {
        rows.row(12)
            .field(record.customer_id)?
            .field(record.consent_tier.as_str())?
            .field(record.can_store_images)?
            .field(record.can_store_embeddings)?
            .field(record.can_use_for_training)?
            .field(record.anonymization_level.as_str())?
            .field(record.policy_version.as_deref())?
            .field(record.consent_granted_at)?
            .field(record.consent_updated_at.unwrap_or(known_since))?
            .field(record.expires_at)?
            .field(record.version)?
            .field(record.audit_id)?
            .send_when_full()
            .await?;
    }
    rows.finish().await
}

/// Rows in PostgreSQL's binary `COPY` format, sent in pieces.
struct Rows<'c> {
    copy: PgCopyIn<&'c mut PgConnection>,
    buffer: PgArgumentBuffer,
}

const FULL: usize = 256 * 1024;

impl<'c> Rows<'c> {
    async fn begin(tx: &'c mut PgConnection, statement: &str) -> sqlx::Result<Self> {
        let copy = tx.copy_in_raw(statement).await?;
        let mut buffer = PgArgumentBuffer::default();
        // The signature, no flags, no header extension.
        buffer.extend(b"PGCOPY\n\xff\r\n\0");
        buffer.extend([0; 8]);
        Ok(Self { copy, buffer })
    }

    fn row(&mut self, columns: i16) -> &mut Self {
        self.buffer.extend(columns.to_be_bytes());
        self
    }

    fn field<'q>(&mut self, value: impl Encode<'q, Postgres>) -> sqlx::Result<&mut Self> {
        self.sized(|buffer| value.encode(buffer).map_err(sqlx::Error::Encode))
    }

    /// `Json`'s own encoding leaves a note in the buffer for each value, in case the column is `json`; ours are `jsonb`.
    fn json<T: Serialize>(&mut self, value: Option<&Json<T>>) -> sqlx::Result<&mut Self> {
        self.sized(|buffer| {
            let Some(Json(value)) = value else {
                return Ok(IsNull::Yes);
            };
            buffer.push(1);
            serde_json::to_writer(&mut **buffer, value).map_err(|error| sqlx::Error::Encode(error.into()))?;
            Ok(IsNull::No)
        })
    }

    /// The length comes before the value, -1 for null.
    fn sized(
        &mut self,
        write: impl FnOnce(&mut PgArgumentBuffer) -> sqlx::Result<IsNull>,
    ) -> sqlx::Result<&mut Self> {
        let start = self.buffer.len();
        self.buffer.extend((-1_i32).to_be_bytes());
        if matches!(write(&mut self.buffer)?, IsNull::No) {
            let length = i32::try_from(self.buffer.len() - start - 4)
                .map_err(|error| sqlx::Error::Encode(error.into()))?;
            self.buffer[start..start + 4].copy_from_slice(&length.to_be_bytes());
        }
        Ok(self)
    }

    async fn send_when_full(&mut self) -> sqlx::Result<()> {
        if self.buffer.len() >= FULL {
            self.copy.send(self.buffer.as_slice()).await?;
            self.buffer.clear();
        }
        Ok(())
    }

    async fn finish(mut self) -> sqlx::Result<u64> {
        self.buffer.extend((-1_i16).to_be_bytes());
        self.copy.send(self.buffer.as_slice()).await?;
        self.copy.finish().await
    }
}
