//! The customers.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use futures_util::FutureExt as _;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{Page, Paging, answer};
use crate::domain::{Customer, CustomerTier};
use crate::error::Error;
use crate::http::extract::{Body, Caller, IdempotencyKey, JsonBody, PathId};
use crate::http::input::{
    Broken, Fields, Params, boolean, choice, flag, integer, nonempty, string, text, uuid,
};
use crate::http::problem::Problem;
use crate::http::retry::Once;
use crate::http::spec::{Conflict, ReadProblems, UnknownCustomer, WriteProblems};
use crate::http::{AppState, detached};
use crate::ops;
use crate::ops::customers::NewCustomer;
use crate::store::customers::{CustomerChange, CustomerFilter};

/// The largest limit which the database keeps.
const MAX_RATE: i64 = i32::MAX as i64;

/// A customer who is to be created.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CustomerInput {
    #[schema(max_length = 255, pattern = r"^[^@\s\x00]+@[^@\s\x00]+$", example = "robotics@example.com")]
    pub email: String,
    #[schema(max_length = 255, example = "Example Robotics")]
    pub company_name: Option<String>,
    pub tier: CustomerTier,
    /// Made by the service if left out.
    pub customer_id: Option<Uuid>,
    /// Requests per minute with all of the customer's keys together; default 60.
    #[schema(minimum = 1, maximum = 2_147_483_647)]
    pub rate_limit_rpm: Option<i32>,
    /// Requests per day with all of the customer's keys together; default 1000.
    #[schema(minimum = 1, maximum = 2_147_483_647)]
    pub rate_limit_rpd: Option<i32>,
}

impl Body for CustomerInput {
    fn read(fields: &mut Fields) -> Option<Self> {
        let email = fields.required("email", string(email));
        let tier = fields.required("tier", string(choice(&CustomerTier::ALL, CustomerTier::as_str)));
        let company_name = fields.optional("company_name", string(text(255)));
        let customer_id = fields.optional("customer_id", string(uuid));
        let per_minute = fields.optional("rate_limit_rpm", rate);
        let per_day = fields.optional("rate_limit_rpd", rate);
        Some(Self {
            email: email?,
            company_name,
            tier: tier?,
            customer_id,
            rate_limit_rpm: per_minute,
            rate_limit_rpd: per_day,
        })
    }
}

/// What is to change of a customer; what is left out stays.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(min_properties = 1)]
pub struct CustomerPatch {
    #[schema(
        nullable = false,
        max_length = 255,
        pattern = r"^[^@\s\x00]+@[^@\s\x00]+$",
        example = "robotics@example.org"
    )]
    pub email: Option<String>,
    /// Null takes the name away.
    #[schema(max_length = 255)]
    pub company_name: Option<String>,
    #[schema(nullable = false)]
    pub tier: Option<CustomerTier>,
    #[schema(nullable = false, minimum = 1, maximum = 2_147_483_647)]
    pub rate_limit_rpm: Option<i32>,
    #[schema(nullable = false, minimum = 1, maximum = 2_147_483_647)]
    pub rate_limit_rpd: Option<i32>,
    /// False refuses all of the customer's keys at once.
    #[schema(nullable = false)]
    pub is_active: Option<bool>,
}

impl Body for CustomerChange {
    fn read(fields: &mut Fields) -> Option<Self> {
        if fields.is_empty() {
            fields.fault_at_root("empty", "name at least one field that is to change");
        }
        Some(Self {
            email: fields.present("email", string(email)),
            company_name: fields.nullable("company_name", string(text(255))),
            tier: fields.present("tier", string(choice(&CustomerTier::ALL, CustomerTier::as_str))),
            rate_limit_rpm: fields.present("rate_limit_rpm", rate),
            rate_limit_rpd: fields.present("rate_limit_rpd", rate),
            is_active: fields.present("is_active", boolean),
        })
    }
}

/// Something before and after one @; whether it is reachable only a message can tell.
fn email(given: &str) -> Result<String, Broken> {
    let given = text(255)(given)?;
    match given.split_once('@') {
        Some((local, domain))
            if !local.is_empty()
                && !domain.is_empty()
                && !domain.contains('@')
                && !given.contains(char::is_whitespace) =>
        {
            Ok(given)
        }
        _ => Err(("not_an_email", "an e-mail address such as robotics@example.com is wanted".to_owned())),
    }
}

fn rate(value: serde_json::Value) -> Result<i32, Broken> {
    let rate = integer(1, MAX_RATE)(value)?;
    Ok(i32::try_from(rate).unwrap_or(i32::MAX))
}

/// Create a customer
///
/// For operators' keys alone.
#[utoipa::path(
    post,
    path = "/v1/customers",
    tag = "Customers",
    params(("Idempotency-Key" = Option<String>, Header, description = "A retry with the same key and the same JSON, in any spelling, gets the first answer again, for 24 hours", min_length = 1, max_length = 255)),
    request_body = CustomerInput,
    responses(
        (status = 201, description = "The customer", body = Customer, headers(("Idempotency-Replayed" = bool, description = "`true`: this is the first answer again"))),
        WriteProblems,
        Conflict,
    ),
    security(("api_key" = ["customers:write"])),
)]
pub async fn create_customer(
    State(state): State<AppState>,
    caller: Caller,
    params: Params,
    idempotency: IdempotencyKey,
    body: JsonBody<CustomerInput>,
) -> Result<Response, Problem> {
    params.finish()?;
    caller.must_be_operator()?;
    let now = (state.clock)();
    let once = Once::new(&caller, &idempotency, "POST /v1/customers", &body.bytes);
    let input = body.value;
    let new = NewCustomer {
        customer_id: input.customer_id,
        email: input.email,
        company_name: input.company_name,
        tier: input.tier,
        rate_limit_rpm: input.rate_limit_rpm,
        rate_limit_rpd: input.rate_limit_rpd,
    };
    let (cache, customer_id) = (Arc::clone(&state.cache), new.customer_id);
    let created = once
        .create(state.store.clone(), now, move |connection| {
            ops::customers::create(connection, new, now).boxed()
        })
        .await;
    if let Some(customer_id) = customer_id {
        cache.customer_created(customer_id);
    }
    created
}

/// Read a customer
///
/// What the service knows of a customer, beside the consent.
#[utoipa::path(
    get,
    path = "/v1/customers/{customer_id}",
    tag = "Customers",
    params(("customer_id" = Uuid, Path, description = "The customer")),
    responses((status = 200, description = "The customer", body = Customer), ReadProblems, UnknownCustomer),
    security(("api_key" = ["consent:read"]), ("api_key" = ["customers:write"])),
)]
pub async fn get_customer(
    State(state): State<AppState>,
    caller: Caller,
    PathId(customer_id): PathId,
    params: Params,
) -> Result<Response, Problem> {
    params.finish()?;
    caller.must_reach(customer_id)?;
    let customer = state.store.customer(customer_id).await?.ok_or(Error::UnknownCustomer)?;
    Ok(answer(StatusCode::OK, &customer))
}

/// Which customers to list.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "the fields document the parameters which `list_customers` reads")]
pub struct CustomerListQuery {
    /// With exactly this e-mail address.
    #[param(min_length = 1, max_length = 255)]
    email: Option<String>,
    tier: Option<CustomerTier>,
    is_active: Option<bool>,
}

/// List customers
///
/// In the order of their ids. A customer's key sees that customer alone.
#[utoipa::path(
    get,
    path = "/v1/customers",
    tag = "Customers",
    params(CustomerListQuery, Paging),
    responses(
        (status = 200, description = "A page of customers", body = Page<Customer>, headers(("Link" = String, description = "`<…>; rel=\"next\"` when there is a next page"))),
        ReadProblems,
    ),
    security(("api_key" = ["consent:read"]), ("api_key" = ["customers:write"])),
)]
pub async fn list_customers(
    State(state): State<AppState>,
    caller: Caller,
    mut params: Params,
    uri: Uri,
) -> Result<Response, Problem> {
    let paging = Paging::read(&mut params, &state.cursors, &uri);
    let filter = CustomerFilter {
        customer_id: caller.narrow(None)?,
        email: params.take("email", nonempty(255)),
        tier: params.take("tier", choice(&CustomerTier::ALL, CustomerTier::as_str)),
        is_active: params.take("is_active", flag),
    };
    params.finish()?;
    let customers = state.store.list_customers(&filter, paging.position, paging.fetch()).await?;
    Ok(paging.page(&state.cursors, customers, |customer: &Customer| customer.customer_id))
}

/// Change a customer
///
/// What is left out stays (RFC 7396, JSON merge patch). For operators' keys alone.
#[utoipa::path(
    patch,
    path = "/v1/customers/{customer_id}",
    tag = "Customers",
    params(("customer_id" = Uuid, Path, description = "The customer")),
    request_body = CustomerPatch,
    responses(
        (status = 200, description = "The customer as it now is", body = Customer),
        WriteProblems,
        UnknownCustomer,
        Conflict,
    ),
    security(("api_key" = ["customers:write"])),
)]
pub async fn change_customer(
    State(state): State<AppState>,
    caller: Caller,
    PathId(customer_id): PathId,
    params: Params,
    body: JsonBody<CustomerChange>,
) -> Result<Response, Problem> {
    params.finish()?;
    caller.must_be_operator()?;
    let now = (state.clock)();
    let customer = detached(state.store.clone(), async move {
        let customer = ops::customers::change(&state.store, customer_id, &body.value, now).await?;
        state.cache.keys_changed();
        Ok(customer)
    })
    .await?;
    Ok(answer(StatusCode::OK, &customer))
}
