//! Creating and changing customers.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::{Customer, CustomerTier};
use crate::error::Error;
use crate::store::customers::{self, CustomerChange};
use crate::store::{Store, settle};

/// A customer who is to be created.
#[derive(Clone, Debug)]
pub struct NewCustomer {
    pub customer_id: Option<Uuid>,
    pub email: String,
    pub company_name: Option<String>,
    pub tier: CustomerTier,
    pub rate_limit_rpm: Option<i32>,
    pub rate_limit_rpd: Option<i32>,
}

/// The limits which a customer gets who is given none; those of the database's own default.
const DEFAULT_RPM: i32 = 60;
const DEFAULT_RPD: i32 = 1000;

pub async fn create(
    connection: &mut PgConnection,
    new: NewCustomer,
    now: DateTime<Utc>,
) -> Result<Customer, Error> {
    let customer = Customer {
        customer_id: new.customer_id.unwrap_or_else(Uuid::now_v7),
        email: new.email,
        company_name: new.company_name,
        tier: new.tier,
        rate_limit_rpm: new.rate_limit_rpm.unwrap_or(DEFAULT_RPM),
        rate_limit_rpd: new.rate_limit_rpd.unwrap_or(DEFAULT_RPD),
        is_active: true,
        created_at: now,
        updated_at: now,
    };
    customers::insert(connection, &customer).await?;
    Ok(customer)
}

pub async fn change(
    store: &Store,
    customer_id: Uuid,
    change: &CustomerChange,
    now: DateTime<Utc>,
) -> Result<Customer, Error> {
    let mut transaction = store.begin().await?;
    let changed = customers::update(&mut transaction, customer_id, change, now).await;
    let changed = changed.and_then(|customer| customer.ok_or(Error::UnknownCustomer));
    settle(transaction, changed).await
}
