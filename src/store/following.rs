//! What replicas tell each other, and what has been added to the trail since.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::{PgListener, PgPoolOptions};
use sqlx::{Executor as _, PgConnection};
use tokio::time::timeout;
use uuid::Uuid;

use super::connection::Purpose;
use super::plans::{self, PlanAge};
use super::{Store, within};
use crate::error::Error;

/// How long a statement of the follower may take: a server that went away without a word is noticed by this.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// A session that hears what replicas tell, and reads the trail. Once anything fails, it is over.
pub struct Listener(PgListener, PlanAge);

/// An entry of the trail, as far as a follower needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowedEntry {
    pub audit_id: i64,
    pub customer_id: Uuid,
    pub version: i32,
    pub timestamp: DateTime<Utc>,
}

/// The result of one look at the trail.
#[derive(Clone, Debug)]
pub struct Look {
    pub entries: Vec<FollowedEntry>,
    /// The last id that was drawn for an entry; `None` if none was drawn since the sequence was set.
    pub last_id: Option<i64>,
    /// The database's time, at some moment of the statement.
    pub now: DateTime<Utc>,
}

/// What a replica tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub channel: String,
    /// Less than 8,000 bytes.
    pub payload: String,
}

pub async fn tell(connection: &mut PgConnection, told: &[Told]) -> Result<(), Error> {
    let (channels, payloads): (Vec<_>, Vec<_>) =
        told.iter().map(|told| (told.channel.as_str(), told.payload.as_str())).unzip();
    sqlx::query!(
        r#"
        select set_config('synchronous_commit', 'off', true), pg_notify(channel, payload)
        from unnest($1::text[], $2::text[]) as told (channel, payload)
        "#,
        channels as _,
        payloads as _,
    )
    .fetch_all(connection)
    .await?;
    Ok(())
}

impl Store {
    pub async fn listen(&self, channels: &[&str]) -> Result<Listener, Error> {
        // A pool for this session alone: one that hangs must not be in the way of the next.
        let options = PgPoolOptions::new().max_connections(1).idle_timeout(None).max_lifetime(None);
        let pool = self.connector.pool(Purpose::Follower, options);
        let listener = Box::pin(async {
            let mut listener = PgListener::connect_with(&pool).await?;
            // A session that was lost is not taken up silently: what was told meanwhile would be missed.
            listener.eager_reconnect(false);
            listener.ignore_pool_close_event(true);
            listener.listen_all(channels.iter().copied()).await?;
            Ok(Listener(listener, PlanAge::new()))
        });
        Ok(self.unless_lost(within(ANSWER_TIMEOUT, listener)).await?)
    }
}

impl Listener {
    /// What is told until the time is over, at least one thing if there is any.
    pub async fn hear(&mut self, patience: Duration) -> Result<Vec<Told>, Error> {
        let first = match timeout(patience, self.0.try_recv()).await {
            Err(_) => return Ok(Vec::new()),
            Ok(told) => told?.ok_or_else(|| Error::Unavailable("the database has hung up".to_owned()))?,
        };
        let mut heard = vec![first];
        heard.extend(std::iter::from_fn(|| self.0.next_buffered()));
        let told = |told: &sqlx::postgres::PgNotification| Told {
            channel: told.channel().to_owned(),
            payload: told.payload().to_owned(),
        };
        Ok(heard.iter().map(told).collect())
    }

    /// The largest audit id that is committed; 0 where there is none.
    pub async fn newest(&mut self) -> Result<i64, Error> {
        let newest = sqlx::query_scalar!(
            r#"select coalesce(max(audit_id), 0) as "newest!" from vlaapi.customer_consent_audit"#
        );
        Ok(within(ANSWER_TIMEOUT, newest.fetch_one(&mut self.0)).await?)
    }

    /// The transactions that have drawn an audit id and are not at their end: PostgreSQL keeps the sequence locked for
    /// each of them until its entries can be seen, or never will be.
    pub async fn drawing(&mut self) -> Result<HashSet<String>, Error> {
        let drawing = sqlx::query_scalar!(
            r#"
            select distinct virtualtransaction as "virtualtransaction!"
            from pg_locks
            where locktype = 'relation' and relation = 'vlaapi.customer_consent_audit_audit_id_seq'::regclass
              and database = (select oid from pg_database where datname = current_database())
            "#
        );
        Ok(within(ANSWER_TIMEOUT, drawing.fetch_all(&mut self.0)).await?.into_iter().collect())
    }

    /// Reads the first entries after `newest`, those of `missing` that are there by now, and the state that is compared
    /// with them: it is read after the entries, so a sequence in order has reached the ids of all of them.
    pub async fn look(&mut self, newest: i64, missing: &[i64], limit: i64) -> Result<Look, Error> {
        let rows = sqlx::query!(
            r#"
            select state.last_id as "last_id?", state.now as "now!", entry.audit_id as "audit_id?",
              entry.customer_id as "customer_id?", entry.version as "version?", entry.timestamp as "timestamp?"
            from (
              select pg_sequence_last_value('vlaapi.customer_consent_audit_audit_id_seq') as last_id,
                clock_timestamp() as now
            ) state
            left join (
              (select audit_id, customer_id, version, vlaapi.calendar_time(timestamp) as timestamp
               from vlaapi.customer_consent_audit where audit_id > $1 order by audit_id limit $3)
              union all
              select audit_id, customer_id, version, vlaapi.calendar_time(timestamp)
              from vlaapi.customer_consent_audit where audit_id = any($2)
            ) entry on true
            "#,
            newest,
            missing,
            limit,
        );
        if self.1.is_over() {
            within(ANSWER_TIMEOUT, self.0.execute(plans::DISCARD)).await?;
        }
        let rows = within(ANSWER_TIMEOUT, rows.fetch_all(&mut self.0)).await?;
        let first = rows.first().ok_or_else(|| Error::Internal("a sequence has one row".to_owned()))?;
        let (last_id, now) = (first.last_id, first.now);
        let entries = rows.into_iter().filter_map(|row| {
            Some(FollowedEntry {
                audit_id: row.audit_id?,
                customer_id: row.customer_id?,
                version: row.version?,
                timestamp: row.timestamp?,
            })
        });
        Ok(Look { entries: entries.collect(), last_id, now })
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listener")
    }
}
