//! Customers.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Postgres, QueryBuilder};
use uuid::Uuid;

use super::Store;
use crate::domain::{Customer, CustomerTier};
use crate::error::Error;

/// Which customers to list.
#[derive(Clone, Debug, Default)]
pub struct CustomerFilter {
    pub customer_id: Option<Uuid>,
    pub email: Option<String>,
    pub tier: Option<CustomerTier>,
    pub is_active: Option<bool>,
}

/// What is to change of a customer; what is `None` stays.
#[derive(Clone, Debug, Default)]
pub struct CustomerChange {
    pub email: Option<String>,
    /// `Some(None)` takes the name away.
    pub company_name: Option<Option<String>>,
    pub tier: Option<CustomerTier>,
    pub rate_limit_rpm: Option<i32>,
    pub rate_limit_rpd: Option<i32>,
    pub is_active: Option<bool>,
}

impl Store {
    pub async fn customer(&self, customer_id: Uuid) -> Result<Option<Customer>, Error> {
        let customer = sqlx::query_as!(
            Customer,
            r#"
            select customer_id, email, company_name, tier, rate_limit_rpm, rate_limit_rpd, is_active,
              vlaapi.calendar_time(created_at) as "created_at!", vlaapi.calendar_time(updated_at) as "updated_at!"
            from vlaapi.customers
            where customer_id = $1
            "#,
            customer_id,
        )
        .fetch_optional(&self.reads)
        .await?;
        Ok(customer)
    }

    /// The ids of customers in their order, after `after`.
    pub async fn customer_ids(&self, after: Uuid, limit: i64) -> Result<Vec<Uuid>, Error> {
        let ids = sqlx::query_scalar!(
            r#"
            select customer_id from vlaapi.customers where customer_id > $1 order by customer_id limit $2
            "#,
            after,
            limit,
        );
        Ok(ids.fetch_all(&self.reads).await?)
    }

    /// A page of customers in the order of their ids, after `after`.
    pub async fn list_customers(
        &self,
        filter: &CustomerFilter,
        after: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<Customer>, Error> {
        let mut query = QueryBuilder::<Postgres>::new(
            "select customer_id, email, company_name, tier, rate_limit_rpm, rate_limit_rpd, is_active, \
             vlaapi.calendar_time(created_at) as created_at, vlaapi.calendar_time(updated_at) as updated_at \
             from vlaapi.customers where true",
        );
        if let Some(after) = after {
            query.push(" and customer_id > ").push_bind(after);
        }
        if let Some(customer_id) = filter.customer_id {
            query.push(" and customer_id = ").push_bind(customer_id);
        }
        if let Some(email) = &filter.email {
            query.push(" and email = ").push_bind(email);
        }
        if let Some(tier) = filter.tier {
            query.push(" and tier = ").push_bind(tier.as_str());
        }
        if let Some(is_active) = filter.is_active {
            query.push(" and is_active = ").push_bind(is_active);
        }
        query.push(" order by customer_id limit ").push_bind(limit);
        Ok(query.build_query_as().fetch_all(&self.reads).await?)
    }
}

pub async fn insert(connection: &mut PgConnection, customer: &Customer) -> Result<(), Error> {
    sqlx::query!(
        r#"
        insert into vlaapi.customers
          (customer_id, email, company_name, tier, rate_limit_rpm, rate_limit_rpd, is_active, created_at, updated_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        "#,
        customer.customer_id,
        customer.email,
        customer.company_name,
        customer.tier.as_str(),
        customer.rate_limit_rpm,
        customer.rate_limit_rpd,
        customer.is_active,
        customer.created_at,
        customer.updated_at,
    )
    .execute(connection)
    .await
    .map_err(conflict)?;
    Ok(())
}

pub async fn update(
    connection: &mut PgConnection,
    customer_id: Uuid,
    change: &CustomerChange,
    now: DateTime<Utc>,
) -> Result<Option<Customer>, Error> {
    sqlx::query_as!(
        Customer,
        r#"
        update vlaapi.customers
        set email = coalesce($2, email),
          company_name = case when $3 then $4 else company_name end,
          tier = coalesce($5, tier),
          rate_limit_rpm = coalesce($6, rate_limit_rpm),
          rate_limit_rpd = coalesce($7, rate_limit_rpd),
          is_active = coalesce($8, is_active),
          updated_at = $9
        where customer_id = $1
        returning customer_id, email, company_name, tier, rate_limit_rpm, rate_limit_rpd, is_active,
          vlaapi.calendar_time(created_at) as "created_at!", vlaapi.calendar_time(updated_at) as "updated_at!"
        "#,
        customer_id,
        change.email,
        change.company_name.is_some(),
        change.company_name.clone().flatten(),
        change.tier.map(CustomerTier::as_str),
        change.rate_limit_rpm,
        change.rate_limit_rpd,
        change.is_active,
        now,
    )
    .fetch_optional(connection)
    .await
    .map_err(conflict)
}

fn conflict(error: sqlx::Error) -> Error {
    let constraint = error.as_database_error().and_then(|error| error.constraint());
    match constraint {
        Some("customers_email_key") => {
            Error::Conflict("a customer with this email exists: use another, or PATCH it")
        }
        Some("customers_pkey") => {
            Error::Conflict("a customer with this customer_id exists: leave it out, or PATCH it")
        }
        _ => error.into(),
    }
}
