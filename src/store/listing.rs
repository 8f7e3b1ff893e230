//! Customers with their consents, as they are looked through; and how many consents end on which day.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::{Postgres, QueryBuilder};
use uuid::Uuid;

use super::Store;
use crate::domain::{ConsentRecord, ConsentStatus, ConsentTier};
use crate::error::Error;

/// Which customers to list.
#[derive(Clone, Debug, Default)]
pub struct ListingFilter {
    /// The least and the greatest id.
    pub ids: Option<(Uuid, Uuid)>,
    pub email: Option<String>,
    /// What was decided, whether it has come to its end or not.
    pub tier: Option<ConsentTier>,
    pub status: Option<ConsentStatus>,
    /// Inclusive.
    pub expiring_from: Option<DateTime<Utc>>,
    /// Exclusive.
    pub expiring_before: Option<DateTime<Utc>>,
}

impl ListingFilter {
    /// What comes to its end is listed in the order of the ends, everything else in that of the ids.
    fn is_by_end(&self) -> bool {
        self.expiring_from.is_some()
            || self.expiring_before.is_some()
            || self.status == Some(ConsentStatus::Expired)
    }

    /// What was decided is looked for among the consents, anything else among the customers: not everybody has decided.
    fn is_of_consents(&self) -> bool {
        self.is_by_end() || (self.email.is_none() && self.decided_tier().is_some())
    }

    fn decided_tier(&self) -> Option<ConsentTier> {
        self.tier.or((self.status == Some(ConsentStatus::Withdrawn)).then_some(ConsentTier::None))
    }
}

/// A customer, and the consent.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Listed {
    pub email: String,
    pub company_name: Option<String>,
    pub is_active: bool,
    pub created_at: DateTime<Utc>,
    #[sqlx(flatten)]
    pub consent: ConsentRecord,
}

/// Where a customer stands in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct Place {
    /// In a list by the ends of consents.
    pub expires_at: Option<DateTime<Utc>>,
    pub customer_id: Uuid,
}

/// As cursors hold it.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(expires_at) = self.expires_at {
            write!(f, "{}.", expires_at.timestamp_micros())?;
        }
        write!(f, "{}", self.customer_id)
    }
}

impl FromStr for Place {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (expires_at, id) = match text.split_once('.') {
            Some((micros, id)) => {
                let expires_at = micros.parse().ok().and_then(DateTime::from_timestamp_micros).ok_or(())?;
                (Some(expires_at), id)
            }
            None => (None, text),
        };
        Ok(Self { expires_at, customer_id: id.parse().map_err(drop)? })
    }
}

/// A part of a list.
#[derive(Clone, Debug)]
pub struct Listing {
    pub customers: Vec<Listed>,
    /// Where it goes on: after this one.
    pub next: Option<Place>,
    /// The part is short, since so many were passed that do not match: more may follow all the same.
    pub is_cut: bool,
}

/// How many customers one part may pass: what matches rarely is looked for in several steps, each of them quick.
pub const LOOKED_THROUGH: i64 = 20_000;

/// How many consents of a tier end on a day.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    pub day: NaiveDate,
    pub tier: ConsentTier,
    pub consents: i64,
}

impl Store {
    /// A part of the customers, after a place.
    pub async fn listing(
        &self,
        filter: &ListingFilter,
        after: Option<Place>,
        shown: i64,
        now: DateTime<Utc>,
    ) -> Result<Listing, Error> {
        let by_end = filter.is_by_end();
        let place = |listed: &Listed| Place {
            expires_at: listed.consent.expires_at.filter(|_| by_end),
            customer_id: listed.consent.customer_id,
        };
        let mut query = listing(filter, after, shown + 1, now);
        let mut customers: Vec<Listed> = query.build_query_as().fetch_all(&self.reads).await?;
        let is_full = customers.len() > usize::try_from(shown).unwrap_or(usize::MAX);
        if is_full {
            customers.pop();
            let next = customers.last().map(place);
            return Ok(Listing { customers, next, is_cut: false });
        }
        let mut query =
            QueryBuilder::new("select vlaapi.calendar_time(expires_at) as expires_at, customer_id from (");
        keys(&mut query, filter, after, now);
        query.push(" offset ").push_bind(LOOKED_THROUGH - 1).push(" limit 1) k");
        let next: Option<Place> = query.build_query_as().fetch_optional(&self.reads).await?;
        Ok(Listing { customers, next, is_cut: next.is_some() })
    }

    /// A customer who is known, and the consent as it is recorded.
    pub async fn listed(&self, customer_id: Uuid, now: DateTime<Utc>) -> Result<Option<Listed>, Error> {
        let filter = ListingFilter { ids: Some((customer_id, customer_id)), ..ListingFilter::default() };
        Ok(listing(&filter, None, 1, now).build_query_as().fetch_optional(&self.reads).await?)
    }

    /// How many consents end in a span of time, by day (UTC) and tier.
    pub async fn endings(&self, from: DateTime<Utc>, until: DateTime<Utc>) -> Result<Vec<Ending>, Error> {
        let endings = sqlx::query_as!(
            Ending,
            r#"
            select (expires_at at time zone 'UTC')::date as "day!", consent_tier as "tier: ConsentTier",
              count(*) as "consents!"
            from vlaapi.customer_data_consent
            where expires_at >= $1 and expires_at < $2 and consent_tier <> 'none'
            group by 1, 2
            order by 1, 2
            "#,
            from,
            until,
        )
        .fetch_all(&self.reads)
        .await?;
        Ok(endings)
    }
}

/// Whoever is looked through, in order: all of it is in an index which has this order.
fn keys(
    query: &mut QueryBuilder<Postgres>,
    filter: &ListingFilter,
    after: Option<Place>,
    now: DateTime<Utc>,
) {
    let by_end = filter.is_by_end();
    query.push(if by_end {
        "select expires_at, customer_id"
    } else {
        "select null::timestamptz as expires_at, customer_id"
    });
    let table = if filter.is_of_consents() { "customer_data_consent" } else { "customers" };
    query.push(" from vlaapi.").push(table).push(" where true");
    if let Some((least, greatest)) = filter.ids {
        query.push(" and customer_id >= ").push_bind(least).push(" and customer_id <= ").push_bind(greatest);
    }
    if let Some(tier) = filter.decided_tier().filter(|_| filter.is_of_consents()) {
        query.push(" and consent_tier = ").push_bind(tier.as_str());
    }
    if let Some(email) = filter.email.as_ref().filter(|_| !filter.is_of_consents()) {
        query.push(" and email = ").push_bind(email);
    }
    if by_end {
        // Within the calendar: what a cursor says of a later end would be the calendar's, and the list would never end.
        query.push(" and expires_at <= '9999-12-31 23:59:59.999999Z' and consent_tier <> 'none'");
        if let Some(from) = filter.expiring_from {
            query.push(" and expires_at >= ").push_bind(from);
        }
        if let Some(before) = filter.expiring_before {
            query.push(" and expires_at < ").push_bind(before);
        }
        match filter.status {
            Some(ConsentStatus::Expired) => {
                query.push(" and expires_at <= ").push_bind(now);
            }
            Some(ConsentStatus::Active) => {
                query.push(" and expires_at > ").push_bind(now);
            }
            _ => {}
        }
        if let Some(after) = after {
            query.push(" and (expires_at, customer_id) > (").push_bind(after.expires_at);
            query.push(", ").push_bind(after.customer_id).push(")");
        }
        query.push(" order by expires_at, customer_id");
        return;
    }
    if let Some(after) = after {
        query.push(" and customer_id > ").push_bind(after.customer_id);
    }
    query.push(" order by customer_id");
}

/// The rows are looked up one by one, in the order of the keys: whatever the planner thinks of how many match, it can
/// neither read a whole table nor sort one.
fn listing(
    filter: &ListingFilter,
    after: Option<Place>,
    limit: i64,
    now: DateTime<Utc>,
) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::<Postgres>::new(
        "select c.email, c.company_name, c.is_active, vlaapi.calendar_time(c.created_at) as created_at, \
         k.customer_id, \
         coalesce(d.consent_tier, 'none') as consent_tier, coalesce(d.can_store_images, false) as can_store_images, \
         coalesce(d.can_store_embeddings, false) as can_store_embeddings, \
         coalesce(d.can_use_for_training, false) as can_use_for_training, \
         coalesce(d.anonymization_level, 'full') as anonymization_level, d.policy_version, \
         vlaapi.calendar_time(d.consent_granted_at) as consent_granted_at, \
         case when d.version > 0 then vlaapi.calendar_time(d.consent_updated_at) end as consent_updated_at, \
         vlaapi.calendar_time(d.expires_at) as expires_at, \
         coalesce(d.version, 0) as version, d.audit_id from (",
    );
    keys(&mut query, filter, after, now);
    query.push(" limit ").push_bind(LOOKED_THROUGH);
    query.push(
        ") k left join lateral (select * from vlaapi.customer_data_consent d where d.customer_id = k.customer_id \
         limit 1) d on true \
         join lateral (select * from vlaapi.customers c where c.customer_id = k.customer_id limit 1) c on true where true",
    );
    if let Some(tier) = filter.tier {
        query.push(" and d.version > 0 and d.consent_tier = ").push_bind(tier.as_str());
    }
    if let Some(email) = filter.email.as_ref().filter(|_| filter.is_of_consents()) {
        query.push(" and c.email = ").push_bind(email);
    }
    match filter.status {
        None => {}
        Some(ConsentStatus::NeverGiven) => {
            query.push(" and coalesce(d.version, 0) = 0");
        }
        Some(ConsentStatus::Withdrawn) => {
            query.push(" and d.version > 0 and d.consent_tier = 'none'");
        }
        Some(ConsentStatus::Expired) => {
            query.push(" and d.version > 0 and d.consent_tier <> 'none' and d.expires_at <= ").push_bind(now);
        }
        Some(ConsentStatus::Active) => {
            query
                .push(" and d.version > 0 and d.consent_tier <> 'none' and (d.expires_at is null or d.expires_at > ")
                .push_bind(now)
                .push(")");
        }
    }
    query.push(if filter.is_by_end() {
        " order by k.expires_at, k.customer_id"
    } else {
        " order by k.customer_id"
    });
    query.push(" limit ").push_bind(limit);
    query
}
