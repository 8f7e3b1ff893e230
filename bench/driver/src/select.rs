//! The select of a permission check, by sqlx with its defaults: a pool of 32, and so many callers. Every customer of the
//! list is asked for once.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::types::Uuid;
use sqlx::types::chrono::{DateTime, Utc};

use crate::Failure;
use crate::arguments::Arguments;
use crate::figures::Seen;

/// As `store::consents` asks for one customer.
const SELECT: &str = "
    select c.customer_id, coalesce(d.consent_tier, 'none'), coalesce(d.can_store_images, false),
      coalesce(d.can_store_embeddings, false), coalesce(d.can_use_for_training, false),
      coalesce(d.anonymization_level, 'full'), d.expires_at, coalesce(d.version, 0), d.audit_id
    from vlaapi.customers c
    left join vlaapi.customer_data_consent d on d.customer_id = c.customer_id
    where c.customer_id = $1";

type Row = (Uuid, String, bool, bool, bool, String, Option<DateTime<Utc>>, i32, Option<i64>);

#[derive(Debug)]
struct Plan {
    pool: PgPool,
    customers: Vec<Uuid>,
    next: Cell<usize>,
    end: Instant,
}

async fn call(plan: Rc<Plan>) -> Result<Seen, Failure> {
    let mut seen = Seen::default();
    while Instant::now() < plan.end {
        let number = plan.next.get();
        let Some(customer) = plan.customers.get(number) else { break };
        plan.next.set(number + 1);
        let sent = Instant::now();
        let row: Option<Row> = sqlx::query_as(SELECT).bind(customer).fetch_optional(&plan.pool).await?;
        if row.is_some() {
            seen.answered(sent);
        } else {
            seen.refused += 1;
        }
    }
    Ok(seen)
}

pub async fn run(mut arguments: Arguments) -> Result<String, Failure> {
    let url: String = arguments.required("database-url")?;
    let customers = arguments.lines("customers")?.iter().map(|id| id.parse()).collect::<Result<_, _>>()?;
    let callers: usize = arguments.required("callers")?;
    let time = arguments.seconds("seconds")?.ok_or("--seconds is missing")?;
    arguments.finish()?;
    let pool = PgPoolOptions::new().max_connections(32).connect(&url).await?;
    warm(&pool).await?;
    let begin = Instant::now();
    let plan = Rc::new(Plan { pool, customers, next: Cell::new(0), end: begin + time });
    let tasks: Vec<_> = (0..callers).map(|_| tokio::task::spawn_local(call(Rc::clone(&plan)))).collect();
    let mut whole = Seen::default();
    for task in tasks {
        whole.add(task.await??);
    }
    plan.pool.close().await;
    Ok(whole.told(begin, 1))
}

/// Opens all connections: what is measured is the select.
async fn warm(pool: &PgPool) -> Result<(), Failure> {
    let mut held = Vec::new();
    for _ in 0..pool.options().get_max_connections() {
        held.push(pool.acquire().await?);
    }
    Ok(())
}
