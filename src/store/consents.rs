//! Consents: read, locked, and written together with their audit entry.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};
use ipnetwork::IpNetwork;
use sqlx::types::Json;
use sqlx::{PgConnection, Postgres, QueryBuilder};
use uuid::Uuid;

use super::connection::LOCK_TIMEOUT;
use super::{Store, unreadable};
use crate::domain::{AnonymizationLevel, Change, ConsentRecord, ConsentStatus, ConsentTier, PersonalField};
use crate::error::Error;

/// Who changes something, from where, and why: what the audit entry keeps beside the change.
#[derive(Clone, Debug, Default)]
pub struct Attribution {
    pub changed_by: String,
    pub on_behalf_of: Option<String>,
    pub change_reason: Option<String>,
    pub ip_address: Option<IpNetwork>,
    pub user_agent: Option<String>,
    pub request_id: Option<String>,
}

/// Which consents to list.
#[derive(Clone, Debug, Default)]
pub struct ConsentFilter {
    pub customer_id: Option<Uuid>,
    pub tier: Option<ConsentTier>,
    pub status: Option<ConsentStatus>,
    pub anonymization_level: Option<AnonymizationLevel>,
    pub expiring_before: Option<DateTime<Utc>>,
    pub updated_after: Option<DateTime<Utc>>,
}

impl Store {
    /// The consent as it was at an instant, from the audit trail; `None` when the customer is unknown and has none. Entries
    /// whose version the consent never was at are passed: after the consent's version, after the entry that says that
    /// the customer was deleted, or in quarantine.
    pub async fn consent_as_of(
        &self,
        customer_id: Uuid,
        instant: DateTime<Utc>,
    ) -> Result<Option<ConsentRecord>, Error> {
        if let Some(entry) = self.newest_entry_until(customer_id, instant).await? {
            let record = ConsentRecord::from_state(
                customer_id,
                entry.state(),
                Some(entry.timestamp),
                entry.version,
                Some(entry.audit_id),
            );
            return Ok(Some(record));
        }
        let known = self.has_trail(customer_id).await?;
        Ok(known.then(|| ConsentRecord::never_given(customer_id)))
    }

    /// A page of consents in the order of their customers, after `after`.
    pub async fn list_consents(
        &self,
        filter: &ConsentFilter,
        after: Option<Uuid>,
        limit: i64,
        now: DateTime<Utc>,
    ) -> Result<Vec<ConsentRecord>, Error> {
        let mut query = QueryBuilder::<Postgres>::new(
            "select customer_id, consent_tier, can_store_images, can_store_embeddings, can_use_for_training, \
             anonymization_level, policy_version, vlaapi.calendar_time(consent_granted_at) as consent_granted_at, \
             case when version > 0 then vlaapi.calendar_time(consent_updated_at) end as consent_updated_at, \
             vlaapi.calendar_time(expires_at) as expires_at, version, audit_id \
             from vlaapi.customer_data_consent where true",
        );
        if let Some(after) = after {
            query.push(" and customer_id > ").push_bind(after);
        }
        if let Some(customer_id) = filter.customer_id {
            query.push(" and customer_id = ").push_bind(customer_id);
        }
        if let Some(tier) = filter.tier {
            query.push(" and consent_tier = ").push_bind(tier.as_str());
        }
        if let Some(level) = filter.anonymization_level {
            query.push(" and anonymization_level = ").push_bind(level.as_str());
        }
        if let Some(time) = filter.expiring_before {
            query.push(" and expires_at < ").push_bind(time);
        }
        if let Some(time) = filter.updated_after {
            query.push(" and version > 0 and consent_updated_at > ").push_bind(time);
        }
        match filter.status {
            None => {}
            Some(ConsentStatus::NeverGiven) => {
                query.push(" and version = 0");
            }
            Some(ConsentStatus::Withdrawn) => {
                query.push(" and version > 0 and consent_tier = 'none'");
            }
            Some(ConsentStatus::Expired) => {
                query.push(" and version > 0 and consent_tier <> 'none' and expires_at <= ").push_bind(now);
            }
            Some(ConsentStatus::Active) => {
                query
                    .push(" and version > 0 and consent_tier <> 'none' and (expires_at is null or expires_at > ")
                    .push_bind(now)
                    .push(")");
            }
        }
        query.push(" order by customer_id limit ").push_bind(limit);
        Ok(query.build_query_as().fetch_all(&self.reads).await?)
    }
}

/// The consents of those of these customers who are known, in no particular order.
pub async fn of_customers(
    connection: &mut PgConnection,
    customer_ids: &[Uuid],
) -> Result<Vec<ConsentRecord>, Error> {
    let rows = sqlx::query!(
        r#"
        select c.customer_id as "customer_id!",
          coalesce(d.consent_tier, 'none') as "consent_tier!: String",
          coalesce(d.can_store_images, false) as "can_store_images!",
          coalesce(d.can_store_embeddings, false) as "can_store_embeddings!",
          coalesce(d.can_use_for_training, false) as "can_use_for_training!",
          coalesce(d.anonymization_level, 'full') as "anonymization_level!: String",
          d.policy_version as "policy_version?",
          vlaapi.calendar_time(d.consent_granted_at) as consent_granted_at,
          case when d.version > 0 then vlaapi.calendar_time(d.consent_updated_at) end as consent_updated_at,
          vlaapi.calendar_time(d.expires_at) as expires_at,
          coalesce(d.version, 0) as "version!",
          d.audit_id as "audit_id?"
        from vlaapi.customers c
        left join vlaapi.customer_data_consent d on d.customer_id = c.customer_id
        where c.customer_id = any($1)
        "#,
        customer_ids,
    )
    .fetch_all(connection)
    .await?;
    let records = rows.into_iter().map(|row| {
        let chosen =
            ConsentTier::parse(&row.consent_tier).zip(AnonymizationLevel::parse(&row.anonymization_level));
        if chosen.is_none() {
            unreadable::report("customer_data_consent", "consent_tier", row.customer_id);
        }
        // An unreadable choice allows nothing, and is no reason to refuse the others an answer.
        let (consent_tier, anonymization_level) =
            chosen.unwrap_or((ConsentTier::None, AnonymizationLevel::Full));
        let is_readable = chosen.is_some();
        ConsentRecord {
            customer_id: row.customer_id,
            consent_tier,
            can_store_images: row.can_store_images && is_readable,
            can_store_embeddings: row.can_store_embeddings && is_readable,
            can_use_for_training: row.can_use_for_training && is_readable,
            anonymization_level,
            policy_version: row.policy_version,
            consent_granted_at: row.consent_granted_at,
            consent_updated_at: row.consent_updated_at,
            expires_at: row.expires_at,
            version: row.version,
            audit_id: row.audit_id,
        }
    });
    Ok(records.collect())
}

/// A consent which is locked until the transaction ends, and the ids that its next audit entries get.
#[derive(Clone, Debug)]
pub struct Locked {
    pub record: ConsentRecord,
    /// The version of its next change: the one after it, or a later one where the trail has entries that are not the
    /// consent's; `None` when there is none left.
    pub next_version: Option<i32>,
    /// Whether the `expired` entry of its end is written.
    pub expiry_recorded: bool,
    /// Drawn after the lock was had, which also gave the transaction its number: of one customer's entries, the later one
    /// has the greater id, and no id is drawn by a transaction that nobody can see yet.
    pub audit_ids: VecDeque<i64>,
}

impl Locked {
    /// Returns whether the trail has entries right after the consent's version that are not the consent's.
    pub fn skips_versions(&self) -> bool {
        self.next_version != self.record.version.checked_add(1)
    }
}

/// Locks those of these consents that are there and that nobody else holds, and draws as many audit ids for each as
/// `changes` says in the same place. Nothing is waited for. Entries past a consent's version were inserted past the
/// service: they are set aside, and skipped.
pub async fn lock(
    connection: &mut PgConnection,
    customer_ids: &[Uuid],
    changes: &[i32],
) -> sqlx::Result<Vec<Locked>> {
    let rows = sqlx::query_as!(
        LockedRow,
        r#"
        with locked as materialized (
          select customer_id, consent_tier, can_store_images, can_store_embeddings, can_use_for_training,
            anonymization_level, policy_version, vlaapi.calendar_time(consent_granted_at) as consent_granted_at,
            case when version > 0 then vlaapi.calendar_time(consent_updated_at) end as consent_updated_at,
            vlaapi.calendar_time(expires_at) as expires_at, version, audit_id, expiry_recorded
          from vlaapi.customer_data_consent
          where customer_id = any($1)
          order by customer_id
          for update skip locked
        )
        select customer_id as "customer_id!", consent_tier as "consent_tier!: ConsentTier",
          can_store_images as "can_store_images!", can_store_embeddings as "can_store_embeddings!",
          can_use_for_training as "can_use_for_training!",
          anonymization_level as "anonymization_level!: AnonymizationLevel", policy_version, consent_granted_at,
          consent_updated_at, expires_at, version as "version!", audit_id, expiry_recorded as "expiry_recorded!",
          array(
            select nextval('vlaapi.customer_consent_audit_audit_id_seq') from generate_series(1, changes)
          ) as "audit_ids!",
          exists (
            select from vlaapi.customer_consent_audit later
            where later.customer_id = locked.customer_id and later.version > locked.version
          ) as "has_foreign!"
        from locked join unnest($1::uuid[], $2::integer[]) as wanted (customer_id, changes) using (customer_id)
        "#,
        customer_ids,
        changes,
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut locked = Vec::with_capacity(rows.len());
    for row in rows {
        let next_version = if row.has_foreign {
            skip_foreign(connection, row.customer_id, row.version).await?
        } else {
            row.version.checked_add(1)
        };
        locked.push(Locked { next_version, ..row.into() });
    }
    Ok(locked)
}

/// Sets the entries aside that use up the next versions of a consent, and returns the version after them. In this
/// transaction: entries are reported if they are skipped, and not otherwise.
async fn skip_foreign(
    connection: &mut PgConnection,
    customer_id: Uuid,
    version: i32,
) -> sqlx::Result<Option<i32>> {
    sqlx::query_scalar!("select vlaapi.next_consent_version($1, $2)", customer_id, version)
        .fetch_one(connection)
        .await
}

#[expect(clippy::struct_excessive_bools, reason = "columns are what they are")]
struct LockedRow {
    customer_id: Uuid,
    consent_tier: ConsentTier,
    can_store_images: bool,
    can_store_embeddings: bool,
    can_use_for_training: bool,
    anonymization_level: AnonymizationLevel,
    policy_version: Option<String>,
    consent_granted_at: Option<DateTime<Utc>>,
    consent_updated_at: Option<DateTime<Utc>>,
    expires_at: Option<DateTime<Utc>>,
    version: i32,
    audit_id: Option<i64>,
    expiry_recorded: bool,
    audit_ids: Vec<i64>,
    has_foreign: bool,
}

impl From<LockedRow> for Locked {
    fn from(row: LockedRow) -> Self {
        Self {
            next_version: None,
            record: ConsentRecord {
                customer_id: row.customer_id,
                consent_tier: row.consent_tier,
                can_store_images: row.can_store_images,
                can_store_embeddings: row.can_store_embeddings,
                can_use_for_training: row.can_use_for_training,
                anonymization_level: row.anonymization_level,
                policy_version: row.policy_version,
                consent_granted_at: row.consent_granted_at,
                consent_updated_at: row.consent_updated_at,
                expires_at: row.expires_at,
                version: row.version,
                audit_id: row.audit_id,
            },
            expiry_recorded: row.expiry_recorded,
            audit_ids: row.audit_ids.into(),
        }
    }
}

/// A customer who exists, and whether there is a row for the consent.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    pub customer_id: Uuid,
    pub has_row: bool,
}

/// Those of these customers who exist. A join and not `exists`, which may read all consents to answer for a few.
pub async fn known(connection: &mut PgConnection, customer_ids: &[Uuid]) -> sqlx::Result<Vec<Known>> {
    sqlx::query_as!(
        Known,
        r#"
        select c.customer_id as "customer_id!", d.version is not null as "has_row!"
        from vlaapi.customers c
        left join vlaapi.customer_data_consent d on d.customer_id = c.customer_id
        where c.customer_id = any($1)
        "#,
        customer_ids,
    )
    .fetch_all(connection)
    .await
}

/// Makes the default rows of customers who have none yet: `for update` cannot lock a row that is not there.
///
/// An insert waits for whoever inserts the same row, or deletes the customer, and `skip locked` does not help there. So
/// it waits for a moment only, and then fails with a lock timeout.
pub async fn make_rows(connection: &mut PgConnection, customer_ids: &[Uuid]) -> sqlx::Result<()> {
    sqlx::query!("set local lock_timeout = '20ms'").execute(&mut *connection).await?;
    sqlx::query!(
        r#"
        insert into vlaapi.customer_data_consent (customer_id)
        select customer_id from vlaapi.customers where customer_id = any($1) order by customer_id
        on conflict (customer_id) do nothing
        "#,
        customer_ids,
    )
    .execute(&mut *connection)
    .await?;
    // Not "to default": that is the setting of the role or the database.
    sqlx::query!("select set_config('lock_timeout', $1, true)", LOCK_TIMEOUT).fetch_one(connection).await?;
    Ok(())
}

/// What the service says of an entry that it writes, so that the log can tell it from anybody else's.
#[derive(Clone, Debug)]
pub struct Vouching {
    pub salts: [Option<Vec<u8>>; 5],
    pub mac: Vec<u8>,
}

/// An audit entry that is to be written.
#[derive(Clone, Debug)]
pub struct NewEntry<'a> {
    pub customer_id: Uuid,
    pub audit_id: i64,
    pub change: Change,
    pub by: &'a Attribution,
    /// Only a service that is measured without its log has nothing to say of the entry.
    pub vouching: Option<Vouching>,
}

/// Writes entries, each customer's in the order of their versions, their places in the sealer's queue, and the consents in
/// which they end, in one statement. The rows must be locked.
pub async fn write(
    connection: &mut PgConnection,
    entries: &[NewEntry<'_>],
    consents: &[Locked],
) -> sqlx::Result<()> {
    fn column<'a, T, V>(rows: &'a [T], value: impl Fn(&'a T) -> V) -> Vec<V> {
        rows.iter().map(value).collect()
    }
    let salts = |field: PersonalField| {
        column(entries, |entry| {
            entry.vouching.as_ref().and_then(|vouching| vouching.salts[field as usize].as_deref())
        })
    };
    sqlx::query!(
        r#"
        with entry as materialized (
          select *
          from unnest(
            $1::uuid[], $2::text[], $3::integer[], $4::text[], $5::text[], $6::jsonb[], $7::jsonb[], $8::text[],
            $9::text[], $10::text[], $11::timestamptz[], $12::inet[], $13::text[], $14::text[], $15::bigint[],
            $16::bytea[], $17::bytea[], $18::bytea[], $19::bytea[], $20::bytea[], $21::bytea[]
          ) as entry
            (customer_id, action, version, previous_tier, new_tier, previous, current, changed_by, on_behalf_of,
             change_reason, timestamp, ip_address, user_agent, request_id, audit_id, changed_by_salt,
             on_behalf_of_salt, change_reason_salt, ip_address_salt, user_agent_salt, mac)
        ), written as (
          insert into vlaapi.customer_consent_audit
            (customer_id, action, version, previous_tier, new_tier, previous, current, changed_by, on_behalf_of,
             change_reason, timestamp, ip_address, user_agent, request_id, audit_id, changed_by_salt,
             on_behalf_of_salt, change_reason_salt, ip_address_salt, user_agent_salt, mac)
          select * from entry
        ), queued as (
          insert into vlaapi.audit_pending (audit_id) select audit_id from entry where mac is not null
        )
        update vlaapi.customer_data_consent d
        set consent_tier = n.consent_tier, can_store_images = n.can_store_images,
          can_store_embeddings = n.can_store_embeddings, can_use_for_training = n.can_use_for_training,
          anonymization_level = n.anonymization_level, policy_version = n.policy_version, expires_at = n.expires_at,
          consent_granted_at = n.consent_granted_at, consent_updated_at = n.consent_updated_at, version = n.version,
          expiry_recorded = n.expiry_recorded, audit_id = n.audit_id
        from unnest(
          $22::uuid[], $23::text[], $24::boolean[], $25::boolean[], $26::boolean[], $27::text[], $28::text[],
          $29::timestamptz[], $30::timestamptz[], $31::timestamptz[], $32::integer[], $33::boolean[], $34::bigint[]
        ) as n
          (customer_id, consent_tier, can_store_images, can_store_embeddings, can_use_for_training,
           anonymization_level, policy_version, expires_at, consent_granted_at, consent_updated_at, version,
           expiry_recorded, audit_id)
        where d.customer_id = n.customer_id
        "#,
        &column(entries, |entry| entry.customer_id),
        &column(entries, |entry| entry.change.action.as_str()) as _,
        &column(entries, |entry| entry.change.version),
        &column(entries, |entry| entry.change.previous.as_ref().map(|state| state.consent_tier.as_str())) as _,
        &column(entries, |entry| entry.change.current.consent_tier.as_str()) as _,
        &column(entries, |entry| entry.change.previous.as_ref().map(Json)) as _,
        &column(entries, |entry| Json(&entry.change.current)) as _,
        &column(entries, |entry| entry.by.changed_by.as_str()) as _,
        &column(entries, |entry| entry.by.on_behalf_of.as_deref()) as _,
        &column(entries, |entry| entry.by.change_reason.as_deref()) as _,
        &column(entries, |entry| entry.change.timestamp),
        &column(entries, |entry| entry.by.ip_address) as _,
        &column(entries, |entry| entry.by.user_agent.as_deref()) as _,
        &column(entries, |entry| entry.by.request_id.as_deref()) as _,
        &column(entries, |entry| entry.audit_id),
        &salts(PersonalField::ChangedBy) as _,
        &salts(PersonalField::OnBehalfOf) as _,
        &salts(PersonalField::ChangeReason) as _,
        &salts(PersonalField::IpAddress) as _,
        &salts(PersonalField::UserAgent) as _,
        &column(entries, |entry| entry.vouching.as_ref().map(|vouching| vouching.mac.as_slice())) as _,
        &column(consents, |consent| consent.record.customer_id),
        &column(consents, |consent| consent.record.consent_tier.as_str()) as _,
        &column(consents, |consent| consent.record.can_store_images),
        &column(consents, |consent| consent.record.can_store_embeddings),
        &column(consents, |consent| consent.record.can_use_for_training),
        &column(consents, |consent| consent.record.anonymization_level.as_str()) as _,
        &column(consents, |consent| consent.record.policy_version.as_deref()) as _,
        &column(consents, |consent| consent.record.expires_at) as _,
        &column(consents, |consent| consent.record.consent_granted_at) as _,
        &column(consents, |consent| consent.record.consent_updated_at) as _,
        &column(consents, |consent| consent.record.version),
        &column(consents, |consent| consent.expiry_recorded),
        &column(consents, |consent| consent.record.audit_id) as _,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// A consent whose end has come, and when.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    pub expires_at: DateTime<Utc>,
    pub customer_id: Uuid,
}

/// Up to `limit` consents after `after` whose end has come and is not yet in the trail, in the order of their ends.
pub async fn due(
    connection: &mut PgConnection,
    now: DateTime<Utc>,
    after: Option<Due>,
    limit: i64,
) -> Result<Vec<Due>, Error> {
    let due = sqlx::query_as!(
        Due,
        r#"
        select vlaapi.calendar_time(expires_at) as "expires_at!", customer_id
        from vlaapi.customer_data_consent
        where expires_at <= $1 and not expiry_recorded and consent_tier <> 'none'
          and ($2::timestamptz is null or (expires_at, customer_id) > ($2, $3))
        order by customer_data_consent.expires_at, customer_id
        limit $4
        "#,
        now,
        after.map(|after| after.expires_at),
        after.map(|after| after.customer_id),
        limit,
    )
    .fetch_all(connection)
    .await?;
    Ok(due)
}
