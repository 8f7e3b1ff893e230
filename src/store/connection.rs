//! Opens every database connection, and gives it the settings on which durability and the meaning of statements depend.
//!
//! A session inherits settings from the server, the database, the role and the URL. None of them counts here: each
//! connection is set up by one round trip and checked before its first use. Nothing is sent as a startup parameter that
//! `PgBouncer` refuses.

use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _};

use super::availability::Availability;
use super::{ACQUIRE_TIMEOUT, within};

/// The settings of every connection. `synchronous_commit` and `transaction_timeout` are set besides.
const SETTINGS: [(&str, &str); 19] = [
    ("search_path", "pg_catalog, pg_temp"),
    ("client_encoding", "UTF8"),
    ("standard_conforming_strings", "on"),
    ("array_nulls", "on"),
    ("transform_null_equals", "off"),
    ("quote_all_identifiers", "off"),
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
    ("row_security", "on"),
    ("check_function_bodies", "on"),
    ("client_min_messages", "notice"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("default_transaction_deferrable", "off"),
    ("idle_session_timeout", "0"),
    // Short statements gain nothing from being compiled, which takes longer than they do.
    ("jit", "off"),
];

/// Time for which a statement of a request waits for a lock.
pub(super) const LOCK_TIMEOUT: &str = "1s";
const REQUEST: [(&str, &str); 3] = [
    ("statement_timeout", "5s"),
    ("lock_timeout", LOCK_TIMEOUT),
    ("idle_in_transaction_session_timeout", "10s"),
];
const UNLIMITED: [(&str, &str); 3] =
    [("statement_timeout", "0"), ("lock_timeout", "0"), ("idle_in_transaction_session_timeout", "0")];
const REWRITE: [(&str, &str); 3] =
    [("statement_timeout", "0"), ("lock_timeout", "2s"), ("idle_in_transaction_session_timeout", "0")];

/// The use of a connection, from which its other settings follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Statements that read, in a pool.
    Reads,
    /// Statements that write, in a pool.
    Writes,
    /// The transactions of a lane.
    Lane,
    /// The statements of one task that find few rows by their keys.
    Lookups,
    /// The statements of the follower.
    Follower,
    /// Verification: one long transaction that reads, also on a standby.
    Verification,
    /// Migrations and other statements of the schema's owner.
    Owner,
    /// Statements of the owner that rewrite tables, and give way to others.
    Rewrite,
}

impl Purpose {
    fn settings(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        // The statements of a task are few and find rows by their keys, however many: planning them for each number of keys
        // takes longer than they do. So their plans are kept, and must be good whatever PostgreSQL knows of the tables: a
        // scan of a whole table is none for it, nor is a join that begins with one. The plans of triggers and foreign keys
        // are the session's too.
        const KEPT_PLANS: &[(&str, &str)] = &[
            ("plan_cache_mode", "force_generic_plan"),
            ("enable_seqscan", "off"),
            ("enable_bitmapscan", "off"),
            ("enable_mergejoin", "off"),
        ];
        // A plan that is kept is one for the size that the tables had when it was made: these statements are few, and each
        // is planned for what is there now.
        const FRESH_PLANS: &[(&str, &str)] = &[("plan_cache_mode", "force_custom_plan")];
        const PLANS: &[(&str, &str)] = &[("plan_cache_mode", "auto")];
        let (timeouts, plans) = match self {
            Self::Reads | Self::Writes => (REQUEST, FRESH_PLANS),
            Self::Lane | Self::Lookups | Self::Follower => (REQUEST, KEPT_PLANS),
            Self::Verification | Self::Owner => (UNLIMITED, PLANS),
            Self::Rewrite => (REWRITE, PLANS),
        };
        SETTINGS.into_iter().chain(timeouts).chain(plans.iter().copied())
    }

    /// A standby lags behind its primary by an unknown time. The service trusts no answer of one.
    fn needs_primary(self) -> bool {
        matches!(self, Self::Reads | Self::Writes | Self::Lane | Self::Lookups | Self::Follower)
    }

    fn writes(self) -> bool {
        matches!(self, Self::Writes | Self::Lane)
    }

    /// Sets everything, and reads back what came of it. An inherited timeout counts for the first statement alone. The
    /// search path is next: from then on a name means what PostgreSQL means by it.
    fn statements(self) -> String {
        let (mut sets, mut expected) = (String::new(), String::new());
        for (name, value) in self.settings() {
            // Writing to a string cannot fail.
            let _ = write!(sets, ", pg_catalog.set_config('{name}', '{value}', false)");
            let _ = write!(expected, ", ('{name}', '{value}')");
        }
        let (sets, expected) = (&sets[2..], &expected[2..]);
        format!(
            "set statement_timeout = 0;
             select pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
             select {sets},
               set_config('synchronous_commit',
                 case current_setting('synchronous_commit') when 'remote_apply' then 'remote_apply' else 'on' end, false),
               case when current_setting('server_version_num')::integer >= 170000
                 then set_config('transaction_timeout', '0', false) end;
             select pg_is_in_recovery() as is_standby,
               current_setting('session_replication_role') as replication_role,
               current_setting('synchronous_commit') in ('on', 'remote_apply') as is_durable,
               (select string_agg(name, ', ') from (values {expected}) as expected (name, value)
                where current_setting(name) <> value) as others"
        )
    }
}

/// The reason for which a connection that was opened is not used.
#[derive(Clone, Debug)]
pub struct UnusableConnection(String);

impl fmt::Display for UnusableConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UnusableConnection {}

pub(super) fn unusable(reason: impl Into<String>) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::other(UnusableConnection(reason.into())))
}

/// Why a connection was opened and is not used, if that is the error.
pub(super) fn unusable_reason(error: &sqlx::Error) -> Option<&UnusableConnection> {
    match error {
        sqlx::Error::Io(error) => error.get_ref()?.downcast_ref(),
        _ => None,
    }
}

/// The triggers that write the audit trail fire under `origin` alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReplicationRole(String);

impl ReplicationRole {
    pub(super) fn fires_triggers(&self) -> bool {
        self.0 == "origin"
    }

    /// Refuses a session in which a write would leave no audit entry.
    pub(super) fn must_fire_triggers(&self) -> sqlx::Result<()> {
        if self.fires_triggers() {
            return Ok(());
        }
        Err(unusable(format!(
            "session_replication_role is {}, under which no audit entry is written: reset it for the role and the database",
            self.0
        )))
    }
}

/// Sets up a connection that was just opened, and checks the result.
pub(super) async fn prepare(
    connection: &mut PgConnection,
    purpose: Purpose,
) -> sqlx::Result<ReplicationRole> {
    let rows = sqlx::raw_sql(AssertSqlSafe(purpose.statements())).fetch_all(connection).await?;
    let row = rows.last().ok_or_else(|| unusable("the database did not show its settings"))?;
    if !row.try_get::<bool, _>("is_durable")? {
        return Err(unusable("synchronous_commit is weaker than on, and cannot be set"));
    }
    if let Some(others) = row.try_get::<Option<String>, _>("others")? {
        return Err(unusable(format!("settings that the service depends on cannot be set: {others}")));
    }
    if purpose.needs_primary() && row.try_get("is_standby")? {
        return Err(unusable(
            "the database is a standby (in recovery): it cannot be written to, and may lag behind",
        ));
    }
    Ok(ReplicationRole(row.try_get("replication_role")?))
}

/// Opens a connection outside the service's pools, for commands, migrations and verification.
pub async fn open(options: &PgConnectOptions, purpose: Purpose) -> sqlx::Result<PgConnection> {
    let options = bare(options);
    let mut connection = Box::pin(options.connect()).await?;
    prepare(&mut connection, purpose).await?;
    Ok(connection)
}

/// Refuses a connection on which changes would leave no audit entries. Call it before the first change by the owner.
pub async fn must_fire_triggers(connection: &mut PgConnection) -> sqlx::Result<()> {
    let role = sqlx::raw_sql("select current_setting('session_replication_role')");
    ReplicationRole(role.fetch_one(connection).await?.try_get(0)?).must_fire_triggers()
}

/// `PgBouncer` refuses `extra_float_digits` as a startup parameter.
fn bare(options: &PgConnectOptions) -> PgConnectOptions {
    options.clone().extra_float_digits(None)
}

/// Opens the connections of the service.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    options: Arc<PgConnectOptions>,
    availability: Arc<Availability>,
}

impl Connector {
    pub(super) fn new(options: &PgConnectOptions, availability: &Arc<Availability>) -> Self {
        Self { options: Arc::new(bare(options)), availability: Arc::clone(availability) }
    }

    /// Opens a connection outside the pools.
    pub(super) async fn open(&self, purpose: Purpose) -> sqlx::Result<PgConnection> {
        // Boxed: what opens a connection is large, and seldom runs.
        within(ACQUIRE_TIMEOUT, Box::pin(self.open_unlimited(purpose))).await
    }

    async fn open_unlimited(&self, purpose: Purpose) -> sqlx::Result<PgConnection> {
        let mut connection = self.options.connect().await?;
        self.availability.admit(&mut connection, purpose).await?;
        Ok(connection)
    }

    /// Prepares a pool; its connections are opened when they are needed.
    pub(super) fn pool(&self, purpose: Purpose, options: PgPoolOptions) -> PgPool {
        let availability = Arc::clone(&self.availability);
        options
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .after_connect(move |connection, _| {
                let availability = Arc::clone(&availability);
                Box::pin(async move { availability.admit(connection, purpose).await })
            })
            .connect_lazy_with((*self.options).clone())
    }
}

impl Availability {
    /// Sets up a connection of the service, and learns from it whether the database may be written to.
    async fn admit(&self, connection: &mut PgConnection, purpose: Purpose) -> sqlx::Result<()> {
        let role = prepare(connection, purpose).await?;
        self.set_writes_refused(!role.fires_triggers());
        if purpose.writes() { role.must_fire_triggers() } else { Ok(()) }
    }
}

/// Finds a pooler that gives a session's transactions to several connections of the server: locks, `LISTEN`, prepared
/// statements and settings are lost between them. Two sessions that are open at a time have the same process of the server
/// then, or one of them changes its process.
pub async fn pools_transactions(options: &PgConnectOptions) -> sqlx::Result<bool> {
    let options = bare(options);
    let mut first = Box::pin(options.connect()).await?;
    let mut second = Box::pin(options.connect()).await?;
    let before = process(&mut first).await?;
    // A pooler of statements refuses this.
    if let Err(error) = sqlx::raw_sql("begin").execute(&mut second).await {
        return if error.as_database_error().is_some() { Ok(true) } else { Err(error) };
    }
    let other = process(&mut second).await?;
    let after = process(&mut first).await?;
    sqlx::raw_sql("rollback").execute(&mut second).await?;
    first.close().await?;
    second.close().await?;
    Ok(other == before || after != before)
}

async fn process(connection: &mut PgConnection) -> sqlx::Result<i32> {
    sqlx::raw_sql("select pg_catalog.pg_backend_pid()").fetch_one(connection).await?.try_get(0)
}

/// Settings of the server that no connection can change, and under which a crash of the machine loses acknowledged writes
/// or damages files.
pub async fn hazards(options: &PgConnectOptions) -> sqlx::Result<Vec<&'static str>> {
    let mut connection = open(options, Purpose::Owner).await?;
    let row = sqlx::raw_sql(
        "select current_setting('fsync')::boolean, current_setting('full_page_writes')::boolean",
    )
    .fetch_one(&mut connection)
    .await?;
    let (fsync, full_page_writes): (bool, bool) = (row.try_get(0)?, row.try_get(1)?);
    connection.close().await?;
    let settings = [("fsync", fsync), ("full_page_writes", full_page_writes)];
    Ok(settings.into_iter().filter(|(_, is_on)| !is_on).map(|(name, _)| name).collect())
}
