//! Links to the customer's own page.

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use chrono::TimeDelta;
use futures_util::{FutureExt as _, TryFutureExt as _};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Page, Paging};
use crate::domain::ConsentLink;
use crate::error::Error;
use crate::http::extract::{Body, Caller, IdempotencyKey, JsonBody, NoBody, PathId, PathLink};
use crate::http::input::{Fields, Params, integer, nonempty, string};
use crate::http::problem::Problem;
use crate::http::retry::Once;
use crate::http::spec::{
    Conflict, ReadProblems, UnexpectedBody, UnknownConsentLink, UnknownCustomer, WriteProblems,
};
use crate::http::{AppState, detached};
use crate::ops;
use crate::ops::links::NewLink;

const MINUTES_5: i64 = 5 * 60;
const DAYS_7: i64 = 7 * 24 * 60 * 60;
const DAYS_30: i64 = 30 * 24 * 60 * 60;

/// A link which is to be made.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConsentLinkInput {
    /// How long the link is good, in seconds: 5 minutes to 30 days; default 7 days.
    #[serde(default = "default_validity")]
    #[schema(minimum = 300, maximum = 2_592_000, default = 604_800)]
    pub valid_for_seconds: i64,
    /// The person whom the link is for; kept in the audit entry of each change that is made with it.
    #[schema(min_length = 1, max_length = 255, example = "user-17")]
    pub on_behalf_of: Option<String>,
}

fn default_validity() -> i64 {
    DAYS_7
}

impl Body for ConsentLinkInput {
    fn read(fields: &mut Fields) -> Option<Self> {
        let valid_for_seconds =
            fields.defaulted("valid_for_seconds", default_validity(), integer(MINUTES_5, DAYS_30));
        let on_behalf_of = fields.optional("on_behalf_of", string(nonempty(255)));
        Some(Self { valid_for_seconds, on_behalf_of })
    }
}

/// A new link: what opens the page is in this one answer and never again.
#[derive(Debug, Serialize, ToSchema)]
pub struct NewConsentLink {
    #[serde(flatten)]
    link: ConsentLink,
    /// The path and query at this service that open the page. Whoever has them is taken for the customer.
    #[schema(example = "/my/consent?link=AAAAAQGJCl2slndLvc6zAgmagFcSPkVn6JsS06RWQmYUF0AAAAYbXm4DKAChZSh…")]
    path: String,
    /// The whole address; null where the service does not know under which its customers reach it (`--public-url`).
    #[schema(example = "https://consent.example.com/my/consent?link=AAAAAQGJCl2slndLvc6zAgmagFcSPkVn6JsS…")]
    url: Option<String>,
}

/// Create a link to the customer's page
///
/// Whoever opens it sees the customer's consent, its history, and can change and withdraw it: hand it to that customer alone.
/// Links are signed; the key is changed every 30 days, and the one before stays good for its links.
#[utoipa::path(
    post,
    path = "/v1/customers/{customer_id}/consent-links",
    tag = "Customer page",
    params(
        ("customer_id" = Uuid, Path, description = "The customer"),
        ("Idempotency-Key" = Option<String>, Header, description = "A retry with the same key and the same JSON, in any spelling, gets the first answer again, for 24 hours", min_length = 1, max_length = 255),
    ),
    request_body = ConsentLinkInput,
    responses(
        (status = 201, description = "The link", body = NewConsentLink, headers(("Idempotency-Replayed" = bool, description = "`true`: this is the first answer again"))),
        WriteProblems,
        UnknownCustomer,
        Conflict,
    ),
    security(("api_key" = ["consent:write"])),
)]
pub async fn create_consent_link(
    State(state): State<AppState>,
    caller: Caller,
    PathId(customer_id): PathId,
    params: Params,
    idempotency: IdempotencyKey,
    body: JsonBody<ConsentLinkInput>,
) -> Result<Response, Problem> {
    params.finish()?;
    caller.must_reach(customer_id)?;
    let now = (state.clock)();
    let route = format!("POST /v1/customers/{customer_id}/consent-links");
    let once = Once::new(&caller, &idempotency, &route, &body.bytes);
    let new = NewLink {
        customer_id,
        valid_for: TimeDelta::seconds(body.value.valid_for_seconds),
        created_by: caller.principal.name(),
        on_behalf_of: body.value.on_behalf_of,
    };
    let public_url = state.public_url.clone();
    once.create(state.store.clone(), now, move |connection| {
        ops::links::create(connection, new, now)
            .map_ok(move |(link, token)| {
                let path = format!("/my/consent?link={token}");
                // Never from the request's Host: whoever sends that would say where the customer's link leads.
                let url = public_url.map(|origin| format!("{origin}{path}"));
                NewConsentLink { link, path, url }
            })
            .boxed()
    })
    .await
}

/// List a customer's links
///
/// Newest first, never what opens them. Those that ended more than 30 days ago are cleared away.
#[utoipa::path(
    get,
    path = "/v1/customers/{customer_id}/consent-links",
    tag = "Customer page",
    params(("customer_id" = Uuid, Path, description = "The customer"), Paging),
    responses(
        (status = 200, description = "A page of links", body = Page<ConsentLink>, headers(("Link" = String, description = "`<…>; rel=\"next\"` when there is a next page"))),
        ReadProblems,
        UnknownCustomer,
    ),
    security(("api_key" = ["consent:write"])),
)]
pub async fn list_consent_links(
    State(state): State<AppState>,
    caller: Caller,
    PathId(customer_id): PathId,
    mut params: Params,
    uri: Uri,
) -> Result<Response, Problem> {
    let paging = Paging::read(&mut params, &state.cursors, &uri);
    params.finish()?;
    caller.must_reach(customer_id)?;
    let links = state.store.list_links(customer_id, paging.position, paging.fetch()).await?;
    if links.is_empty() && state.store.customer(customer_id).await?.is_none() {
        return Err(Error::UnknownCustomer.into());
    }
    Ok(paging.page(&state.cursors, links, |link: &ConsentLink| link.link_id))
}

/// Revoke a link
///
/// Effective with the next request, also for whoever has the page open. Revoking a revoked link changes nothing.
#[utoipa::path(
    delete,
    path = "/v1/customers/{customer_id}/consent-links/{link_id}",
    tag = "Customer page",
    params(
        ("customer_id" = Uuid, Path, description = "The customer"),
        ("link_id" = Uuid, Path, description = "The link"),
    ),
    responses((status = 204, description = "The link is revoked"), ReadProblems, UnknownConsentLink, UnexpectedBody),
    security(("api_key" = ["consent:write"])),
)]
pub async fn revoke_consent_link(
    State(state): State<AppState>,
    caller: Caller,
    PathLink { customer_id, link_id }: PathLink,
    params: Params,
    _: NoBody,
) -> Result<Response, Problem> {
    params.finish()?;
    caller.must_reach(customer_id)?;
    let now = (state.clock)();
    detached(state.store.clone(), async move {
        ops::links::revoke(&state.store, customer_id, link_id, now).await
    })
    .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
