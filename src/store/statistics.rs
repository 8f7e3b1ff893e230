//! Numbers for the console: from the counts by day that the sealer keeps, or from the newest entries alone. Nothing here
//! reads the whole trail.

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::{Postgres, QueryBuilder};

use super::Store;
use super::audit::{AuditFilter, ORDER, conditions};
use crate::domain::{AuditAction, ConsentTier};
use crate::error::Error;

/// What the sealed entries of one day amount to.
#[derive(Clone, Copy, Debug, sqlx::FromRow)]
pub struct Day {
    pub day: NaiveDate,
    pub entries: i64,
    pub granted: i64,
    pub withdrawn: i64,
    /// How many more customers are at each tier than the day before, and allow something.
    pub tier_none: i64,
    pub tier_basic: i64,
    pub tier_analytics: i64,
    pub tier_research: i64,
    /// Of whom the consent has ended by itself.
    pub expired: i64,
    pub images: i64,
    pub embeddings: i64,
    pub training: i64,
}

/// A moment at which a span of counted entries begins, and how many there are.
#[derive(Clone, Copy, Debug, sqlx::FromRow)]
pub struct Counted {
    pub from: DateTime<Utc>,
    pub entries: i64,
}

/// How finely entries are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    Hour,
    Day,
}

impl Store {
    /// Every day of which entries are sealed, in order.
    pub async fn days(&self) -> Result<Vec<Day>, Error> {
        let days = sqlx::query_as!(
            Day,
            r#"
            select greatest(least(day, date '9999-12-31'), date '0001-01-01') as "day!",
              sum(entries)::bigint as "entries!",
              coalesce(sum(entries) filter (where action = 'granted'), 0)::bigint as "granted!",
              coalesce(sum(entries) filter (where action = 'withdrawn'), 0)::bigint as "withdrawn!",
              sum(tier_none)::bigint as "tier_none!", sum(tier_basic)::bigint as "tier_basic!",
              sum(tier_analytics)::bigint as "tier_analytics!", sum(tier_research)::bigint as "tier_research!",
              sum(expired)::bigint as "expired!",
              sum(images)::bigint as "images!", sum(embeddings)::bigint as "embeddings!",
              sum(training)::bigint as "training!"
            from vlaapi.consent_days
            group by day
            order by day
            "#
        )
        .fetch_all(&self.reads)
        .await?;
        Ok(days)
    }

    /// Sealed entries by day, of those that a filter lets through which knows what is kept by day.
    pub async fn sealed_by_day(
        &self,
        action: Option<AuditAction>,
        previous_tier: Option<ConsentTier>,
        new_tier: Option<ConsentTier>,
    ) -> Result<Vec<Counted>, Error> {
        let days = sqlx::query_as!(
            Counted,
            r#"
            select vlaapi.calendar_time(day::timestamp at time zone 'UTC') as "from!", sum(entries)::bigint as "entries!"
            from vlaapi.consent_days
            where ($1::text is null or action = $1) and ($2::text is null or previous_tier = $2)
              and ($3::text is null or new_tier = $3)
            group by day
            order by day
            "#,
            action.map(AuditAction::as_str),
            previous_tier.map(ConsentTier::as_str),
            new_tier.map(ConsentTier::as_str),
        )
        .fetch_all(&self.reads)
        .await?;
        Ok(days)
    }

    /// The newest entries that a filter lets through, at most `limit` of them, counted by hour or day.
    pub async fn newest_counted(
        &self,
        filter: &AuditFilter,
        grain: Grain,
        limit: i64,
    ) -> Result<Vec<Counted>, Error> {
        let grain = match grain {
            Grain::Hour => "hour",
            Grain::Day => "day",
        };
        let mut query = QueryBuilder::<Postgres>::new("select date_trunc(");
        query.push_bind(grain).push(
            ", vlaapi.calendar_time(timestamp) at time zone 'UTC') at time zone 'UTC' as \"from\", count(*) as entries \
             from (select timestamp from vlaapi.customer_consent_audit where true",
        );
        conditions(&mut query, filter);
        query.push(" order by ").push(ORDER).push(" limit ").push_bind(limit);
        query.push(") newest group by 1 order by 1");
        Ok(query.build_query_as().fetch_all(&self.reads).await?)
    }

    /// Consents which end by themselves in a span of time.
    pub async fn count_expiring(&self, from: DateTime<Utc>, until: DateTime<Utc>) -> Result<i64, Error> {
        let count = sqlx::query_scalar!(
            r#"
            select count(*) as "count!" from vlaapi.customer_data_consent where expires_at >= $1 and expires_at < $2
            "#,
            from,
            until,
        )
        .fetch_one(&self.reads)
        .await?;
        Ok(count)
    }
}
