//! A young database, and one that PostgreSQL never analyzes: the work of kept connections is seen by autovacuum, and their
//! statements are good whatever is known of the tables.

use std::time::{Duration, Instant};

use futures_util::future::{Either, join_all, select};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool};
use tokio::time::sleep;
use uuid::Uuid;

use crate::service::{Service, consent};

/// Customers that a load by SQL adds.
const LOADED: usize = 20_000;
/// Rows that one change and one check may read, with all that belongs to them: far below what is in any table.
const FEW: i64 = 400;

fn tier(turn: usize) -> Value {
    json!({ "consent_tier": if turn.is_multiple_of(2) { "basic" } else { "analytics" } })
}

/// Rows that PostgreSQL has counted: read, by whole tables or by indexes; and changed, of the consents.
async fn counted(pool: &PgPool) -> (i64, i64) {
    // The queue has no index, and is read as a whole.
    sqlx::query_as(
        "select
           ((select sum(seq_tup_read) from pg_stat_user_tables where relname <> 'audit_pending')
             + (select sum(idx_tup_read) from pg_stat_user_indexes))::bigint,
           (select n_tup_upd from pg_stat_user_tables where relname = 'customer_data_consent')",
    )
    .fetch_one(pool)
    .await
    .expect("PostgreSQL counts")
}

/// Adds customers with consents, and as many entries of others, past the service.
async fn load(service: &Service) -> Vec<Uuid> {
    let mut owner = PgConnection::connect_with(&service.owner).await.expect("the database is there");
    let statements = format!(
        "set session_replication_role = replica;
         insert into vlaapi.customers (customer_id, email, company_name)
           select gen_random_uuid(), n || '@load.example', 'load' from generate_series(1, {LOADED}) n;
         insert into vlaapi.customer_data_consent (customer_id)
           select customer_id from vlaapi.customers on conflict do nothing;
         insert into vlaapi.customer_consent_audit (customer_id, action, version, new_tier)
           select gen_random_uuid(), 'granted', 1, 'basic' from generate_series(1, {LOADED})"
    );
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut owner).await.expect("a load");
    sqlx::query_scalar("select customer_id from vlaapi.customers where company_name = 'load' limit 5000")
        .fetch_all(&mut owner)
        .await
        .expect("customers")
}

/// Changes and checks of customers whom memory does not hold, and the sealing of what they add.
struct Traffic<'a> {
    service: &'a Service,
    pool: PgPool,
    sealer: consentd::ops::log::sealer::Sealer,
    customers: std::vec::IntoIter<Uuid>,
}

impl Traffic<'_> {
    async fn go_on(&mut self, turns: usize) {
        for turn in 0..turns {
            let (changed, checked) = (self.customers.next(), self.customers.next());
            self.service.put(changed.expect("enough"), &tier(turn)).send().await.expect_one_of(&[200, 201]);
            let path = format!("{}/permissions?check=images", consent(checked.expect("enough")));
            self.service.get(&path).send().await.expect(200);
            if turn.is_multiple_of(10) {
                self.sealer.round(self.service.now()).await.expect("a round");
            }
        }
    }

    /// Waits until all is counted: a session that has reported a moment ago reports the rest with a statement that comes a
    /// second later.
    async fn settle(&mut self) {
        sleep(Duration::from_millis(1200)).await;
        // Enough for both lanes to have some.
        self.go_on(12).await;
        sleep(Duration::from_millis(400)).await;
    }

    /// The rows that were read for each change, by PostgreSQL's own count.
    async fn reads_for_each(&mut self) -> i64 {
        let before = counted(&self.pool).await;
        self.go_on(40).await;
        self.settle().await;
        let after = counted(&self.pool).await;
        let changes = after.1 - before.1;
        assert!(changes >= 20, "PostgreSQL has counted {changes} of 52 changes");
        (after.0 - before.0) / changes
    }
}

/// Traffic on a service whose sessions have planned their statements for the empty tables, before a load past it.
async fn traffic(service: &Service) -> Traffic<'_> {
    let sealer = service.sealer().await;
    let mut few = Vec::new();
    for _ in 0..24 {
        few.push(service.customer().await);
    }
    let mut traffic = Traffic { service, pool: service.sql().await, sealer, customers: few.into_iter() };
    traffic.go_on(12).await;
    traffic.customers = load(service).await.into_iter();
    // The load itself is counted, and read by the follower, before anything is compared.
    traffic.settle().await;
    traffic
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgresql_counts_changes_while_puts_keep_coming() {
    let service = Service::start().await;
    let pool = service.sql().await;
    let mut customers = Vec::new();
    for _ in 0..8 {
        customers.push(service.customer().await);
    }
    let callers = customers.iter().map(async |customer| {
        for turn in 0.. {
            service.put(*customer, &tier(turn)).send().await.expect_one_of(&[200, 201]);
        }
    });
    let watch = async {
        let before = counts_of_changes(&pool).await;
        let since = Instant::now();
        loop {
            sleep(Duration::from_millis(200)).await;
            let now = counts_of_changes(&pool).await;
            if before.iter().zip(&now).all(|(before, now)| *now >= before + 20) {
                break;
            }
            assert!(since.elapsed() < Duration::from_secs(10), "before {before:?}, now {now:?}");
        }
    };
    match select(Box::pin(join_all(callers)), Box::pin(watch)).await {
        Either::Left(_) => panic!("the callers have stopped"),
        Either::Right(_) => {}
    }
}

/// What the tables that every change writes to have gained and changed, as autovacuum sees it.
async fn counts_of_changes(pool: &PgPool) -> Vec<i64> {
    sqlx::query_scalar(
        "select case relname when 'customer_data_consent' then n_tup_upd else n_tup_ins end
         from pg_stat_user_tables
         where relname in ('customer_data_consent', 'customer_consent_audit', 'audit_pending')
         order by relname",
    )
    .fetch_all(pool)
    .await
    .expect("PostgreSQL counts")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_reads_few_rows_of_tables_that_were_never_analyzed() {
    let service = Service::start_following().await;
    let mut traffic = traffic(&service).await;
    let reads = traffic.reads_for_each().await;
    assert!(reads < FEW, "{reads} rows are read for each change");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plans_for_tables_that_were_analyzed_when_empty_are_not_kept() {
    let service = Service::start_following().await;
    sqlx::query("analyze").execute(&service.sql().await).await.expect("an analysis");
    let mut traffic = traffic(&service).await;
    let since = Instant::now();
    loop {
        let reads = traffic.reads_for_each().await;
        if reads < FEW {
            break;
        }
        assert!(since.elapsed() < Duration::from_secs(30), "{reads} rows are still read for each change");
    }
}
