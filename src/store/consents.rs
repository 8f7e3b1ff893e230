//! Consents: read, locked, and written together with their audit entry.

use chrono::{DateTime, Utc};
use ipnetwork::IpNetwork;
use sqlx::types::Json;
use sqlx::{PgConnection, Postgres, QueryBuilder};
use uuid::Uuid;

use super::Store;
use crate::domain::{
    AnonymizationLevel, Change, ConsentRecord, ConsentState, ConsentStatus, ConsentTier, PersonalField,
};
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
    /// The consent of a known customer; `None` for an unknown one.
    pub async fn consent(&self, customer_id: Uuid) -> Result<Option<ConsentRecord>, Error> {
        Ok(self.consents_of(&[customer_id]).await?.pop())
    }

    /// The consents of those of these customers who are known, in no particular order.
    pub async fn consents_of(&self, customer_ids: &[Uuid]) -> Result<Vec<ConsentRecord>, Error> {
        let records = sqlx::query_as!(
            ConsentRecord,
            r#"
            select c.customer_id as "customer_id!",
              coalesce(d.consent_tier, 'none') as "consent_tier!: ConsentTier",
              coalesce(d.can_store_images, false) as "can_store_images!",
              coalesce(d.can_store_embeddings, false) as "can_store_embeddings!",
              coalesce(d.can_use_for_training, false) as "can_use_for_training!",
              coalesce(d.anonymization_level, 'full') as "anonymization_level!: AnonymizationLevel",
              d.policy_version as "policy_version?",
              d.consent_granted_at as "consent_granted_at?",
              case when d.version > 0 then d.consent_updated_at end as "consent_updated_at?",
              d.expires_at as "expires_at?",
              coalesce(d.version, 0) as "version!",
              d.audit_id as "audit_id?"
            from vlaapi.customers c
            left join vlaapi.customer_data_consent d on d.customer_id = c.customer_id
            where c.customer_id = any($1)
            "#,
            customer_ids,
        )
        .fetch_all(&self.reads)
        .await?;
        Ok(records)
    }

    /// The consent as it stood at an instant, from the audit trail; `None` when the customer is unknown and has none.
    pub async fn consent_as_of(
        &self,
        customer_id: Uuid,
        instant: DateTime<Utc>,
    ) -> Result<Option<ConsentRecord>, Error> {
        let entry = sqlx::query!(
            r#"
            select version, audit_id, timestamp, new_tier, current as "current?: Json<ConsentState>"
            from vlaapi.customer_consent_audit
            where customer_id = $1 and timestamp <= $2
            order by version desc
            limit 1
            "#,
            customer_id,
            instant,
        )
        .fetch_optional(&self.reads)
        .await?;
        if let Some(entry) = entry {
            // An entry from before the trail tells the tier alone: the rest is read in the most private way.
            let state =
                entry.current.map_or_else(|| ConsentState::of_tier(entry.new_tier), |Json(state)| state);
            let record = ConsentRecord::from_state(
                customer_id,
                state,
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
             anonymization_level, policy_version, consent_granted_at, \
             case when version > 0 then consent_updated_at end as consent_updated_at, expires_at, version, audit_id \
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

/// A consent which is locked until the transaction ends, and the id that its next audit entry gets.
#[derive(Clone, Debug)]
pub struct Locked {
    pub record: ConsentRecord,
    /// Drawn after the lock was had: of one customer's entries, the later one has the greater id.
    pub next_audit_id: i64,
}

/// The consent as it stands, locked; `None` for an unknown customer.
///
/// `for update` cannot lock a row that is not there yet, so the default row is made first: of two first grants at once,
/// the second waits for the first.
pub async fn lock(connection: &mut PgConnection, customer_id: Uuid) -> Result<Option<Locked>, Error> {
    if let Some(locked) = lock_existing(connection, customer_id).await? {
        return Ok(Some(locked));
    }
    let made = sqlx::query!(
        r#"
        insert into vlaapi.customer_data_consent (customer_id)
        select customer_id from vlaapi.customers where customer_id = $1
        on conflict (customer_id) do nothing
        "#,
        customer_id,
    )
    .execute(&mut *connection)
    .await;
    match made {
        Ok(_) => lock_existing(connection, customer_id).await,
        // The customer was deleted between the look and the insert.
        Err(sqlx::Error::Database(error)) if error.is_foreign_key_violation() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn lock_existing(connection: &mut PgConnection, customer_id: Uuid) -> Result<Option<Locked>, Error> {
    let locked = sqlx::query_as!(
        LockedRow,
        r#"
        with locked as materialized (
          select customer_id, consent_tier, can_store_images, can_store_embeddings, can_use_for_training,
            anonymization_level, policy_version, consent_granted_at,
            case when version > 0 then consent_updated_at end as consent_updated_at, expires_at, version, audit_id
          from vlaapi.customer_data_consent
          where customer_id = $1
          for update
        )
        select customer_id as "customer_id!", consent_tier as "consent_tier!: ConsentTier",
          can_store_images as "can_store_images!", can_store_embeddings as "can_store_embeddings!",
          can_use_for_training as "can_use_for_training!",
          anonymization_level as "anonymization_level!: AnonymizationLevel", policy_version, consent_granted_at,
          consent_updated_at, expires_at, version as "version!", audit_id,
          nextval('vlaapi.customer_consent_audit_audit_id_seq') as "next_audit_id!"
        from locked
        "#,
        customer_id,
    )
    .fetch_optional(connection)
    .await?;
    Ok(locked.map(Into::into))
}

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
    next_audit_id: i64,
}

impl From<LockedRow> for Locked {
    fn from(row: LockedRow) -> Self {
        Self {
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
            next_audit_id: row.next_audit_id,
        }
    }
}

/// What the service says of an entry that it writes, so that the log can tell it from anybody else's.
#[derive(Clone, Debug)]
pub struct Vouching {
    pub salts: [Option<Vec<u8>>; 5],
    pub mac: Vec<u8>,
}

/// Writes a change, its audit entry and the sealer's queue in one statement. The row must be locked. Only a service that
/// is measured without its log has nothing to say of the entry.
pub async fn write(
    connection: &mut PgConnection,
    locked: &Locked,
    change: &Change,
    by: &Attribution,
    vouching: Option<&Vouching>,
) -> Result<(), Error> {
    let state = &change.current;
    let salts = vouching.map(|vouching| &vouching.salts);
    let salt = |field: PersonalField| salts.and_then(|salts| salts[field as usize].as_deref());
    sqlx::query!(
        r#"
        with entry as (
          insert into vlaapi.customer_consent_audit
            (customer_id, action, version, previous_tier, new_tier, previous, current, changed_by, on_behalf_of,
             change_reason, timestamp, ip_address, user_agent, request_id, audit_id, changed_by_salt, on_behalf_of_salt,
             change_reason_salt, ip_address_salt, user_agent_salt, mac)
          values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $23, $24, $25, $26, $27, $28, $29)
        ), queued as (
          insert into vlaapi.audit_pending (audit_id) select $23 where $29::bytea is not null
        )
        update vlaapi.customer_data_consent
        set consent_tier = $5, can_store_images = $15, can_store_embeddings = $16, can_use_for_training = $17,
          anonymization_level = $18, policy_version = $19, expires_at = $20, consent_granted_at = $21,
          consent_updated_at = $11, version = $3, expiry_recorded = $22, audit_id = $23
        where customer_id = $1
        "#,
        locked.record.customer_id,
        change.action.as_str(),
        change.version,
        change.previous.as_ref().map(|previous| previous.consent_tier.as_str()),
        state.consent_tier.as_str(),
        change.previous.as_ref().map(Json) as _,
        Json(state) as _,
        by.changed_by,
        by.on_behalf_of,
        by.change_reason,
        change.timestamp,
        by.ip_address,
        by.user_agent,
        by.request_id,
        state.can_store_images,
        state.can_store_embeddings,
        state.can_use_for_training,
        state.anonymization_level.as_str(),
        state.policy_version,
        state.expires_at,
        state.consent_granted_at,
        change.expiry_recorded,
        locked.next_audit_id,
        salt(PersonalField::ChangedBy),
        salt(PersonalField::OnBehalfOf),
        salt(PersonalField::ChangeReason),
        salt(PersonalField::IpAddress),
        salt(PersonalField::UserAgent),
        vouching.map(|vouching| vouching.mac.as_slice()),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Locks up to `limit` consents whose end has come and is not yet in the trail, skipping those which others hold.
pub async fn lock_due(
    connection: &mut PgConnection,
    now: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<Locked>, Error> {
    let due = sqlx::query_as!(
        LockedRow,
        r#"
        with locked as materialized (
          select customer_id, consent_tier, can_store_images, can_store_embeddings, can_use_for_training,
            anonymization_level, policy_version, consent_granted_at, consent_updated_at, expires_at, version, audit_id
          from vlaapi.customer_data_consent
          where expires_at <= $1 and not expiry_recorded and consent_tier <> 'none'
          order by expires_at
          limit $2
          for update skip locked
        )
        select customer_id as "customer_id!", consent_tier as "consent_tier!: ConsentTier",
          can_store_images as "can_store_images!", can_store_embeddings as "can_store_embeddings!",
          can_use_for_training as "can_use_for_training!",
          anonymization_level as "anonymization_level!: AnonymizationLevel", policy_version, consent_granted_at,
          consent_updated_at, expires_at, version as "version!", audit_id,
          nextval('vlaapi.customer_consent_audit_audit_id_seq') as "next_audit_id!"
        from locked
        "#,
        now,
        limit,
    )
    .fetch_all(connection)
    .await?;
    Ok(due.into_iter().map(Into::into).collect())
}
