//! API keys.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{FutureExt as _, TryFutureExt as _};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{Page, Paging};
use crate::domain::{ApiKey, ApiKeyRecord, KeyKind, Scope};
use crate::error::{Error, Fault};
use crate::http::extract::{Body, Caller, IdempotencyKey, JsonBody, NoBody, PathId};
use crate::http::input::{Broken, Fields, Params, choice, flag, integer, string, text, time, uuid};
use crate::http::problem::Problem;
use crate::http::retry::Once;
use crate::http::spec::{
    Conflict, ReadProblems, UnexpectedBody, UnknownApiKey, UnknownCustomer, WriteProblems,
};
use crate::http::{AppState, detached};
use crate::ops;
use crate::ops::keys::NewKey;
use crate::store::keys::KeyFilter;

/// A key which is to be made.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiKeyInput {
    /// Whose key it is; null or left out: an operator's, which reaches every customer.
    pub customer_id: Option<Uuid>,
    #[schema(max_length = 255, example = "dashboard")]
    pub key_name: Option<String>,
    #[schema(min_items = 1, max_items = 10)]
    pub scopes: Vec<Scope>,
    /// Default: `live`.
    pub kind: Option<KeyKind>,
    /// Requests per minute with this key: fewer than its customer may make, or more. Requires an operator's key.
    #[schema(minimum = 1, maximum = 2_147_483_647)]
    pub rate_limit_override_rpm: Option<i32>,
    /// When the key ends by itself.
    pub expires_at: Option<DateTime<Utc>>,
}

fn scopes(value: Value) -> Result<Vec<Scope>, Broken> {
    let Value::Array(items) = value else {
        return Err(("not_an_array", "an array of scopes is wanted".to_owned()));
    };
    let mut scopes: Vec<Scope> = Vec::new();
    for item in items {
        let scope = string(choice(&Scope::ALL, Scope::as_str))(item)?;
        if !scopes.contains(&scope) {
            scopes.push(scope);
        }
    }
    if scopes.is_empty() { Err(("empty", "at least one scope is wanted".to_owned())) } else { Ok(scopes) }
}

impl Body for ApiKeyInput {
    fn read(fields: &mut Fields) -> Option<Self> {
        let customer_id = fields.optional("customer_id", string(uuid));
        let key_name = fields.optional("key_name", string(text(255)));
        let scopes = fields.required("scopes", scopes);
        let kind = fields.optional("kind", string(choice(&KeyKind::ALL, KeyKind::as_str)));
        let rate_limit_override_rpm = fields.optional("rate_limit_override_rpm", |value| {
            integer(1, i64::from(i32::MAX))(value).map(|rate| i32::try_from(rate).unwrap_or(i32::MAX))
        });
        let expires_at = fields.optional("expires_at", string(time));
        Some(Self { customer_id, key_name, scopes: scopes?, kind, rate_limit_override_rpm, expires_at })
    }
}

/// A new key: `api_key` is in this one answer and never again.
#[derive(Debug, Serialize, ToSchema)]
pub struct NewApiKey {
    #[serde(flatten)]
    pub key: ApiKeyRecord,
    /// The whole key. Keep it: it is not stored, and not shown again.
    #[schema(example = "vla_live_a1b2…")]
    pub api_key: String,
}

impl NewApiKey {
    fn new((key, secret): (ApiKeyRecord, ApiKey)) -> Self {
        Self { key, api_key: secret.reveal().to_owned() }
    }
}

/// A key's successor.
#[derive(Debug, Serialize, ToSchema)]
pub struct RotatedApiKey {
    #[serde(flatten)]
    pub new: NewApiKey,
    /// Until when the old key stays good.
    pub previous_key_valid_until: DateTime<Utc>,
}

/// A customer's administrator gives what it has, and nothing else.
fn must_be_given(caller: &Caller, input: &ApiKeyInput) -> Result<(), Error> {
    if caller.principal.customer_id.is_none() {
        return Ok(());
    }
    if input.rate_limit_override_rpm.is_some() {
        return Err(Error::Forbidden(
            "only an operator's API key may set a limit: leave rate_limit_override_rpm out".to_owned(),
        ));
    }
    match input.customer_id {
        Some(customer_id) => caller.must_reach(customer_id),
        None => Err(Error::Forbidden(
            "this API key belongs to a customer: it makes keys for that customer alone, so give its customer_id".to_owned(),
        )),
    }
}

/// Create an API key
///
/// The whole key is in this one answer, as `api_key`, and never again.
#[utoipa::path(
    post,
    path = "/v1/api-keys",
    tag = "API keys",
    params(("Idempotency-Key" = Option<String>, Header, description = "A retry with the same key and the same JSON, in any spelling, gets the first answer again, for 24 hours", min_length = 1, max_length = 255)),
    request_body = ApiKeyInput,
    responses(
        (status = 201, description = "The key", body = NewApiKey, headers(("Idempotency-Replayed" = bool, description = "`true`: this is the first answer again"))),
        WriteProblems,
        UnknownCustomer,
        Conflict,
    ),
    security(("api_key" = ["admin"])),
)]
pub async fn create_api_key(
    State(state): State<AppState>,
    caller: Caller,
    params: Params,
    idempotency: IdempotencyKey,
    body: JsonBody<ApiKeyInput>,
) -> Result<Response, Problem> {
    params.finish()?;
    let now = (state.clock)();
    let once = Once::new(&caller, &idempotency, "POST /v1/api-keys", &body.bytes);
    let input = body.value;
    must_be_given(&caller, &input)?;
    if input.expires_at.is_some_and(|end| end <= now) {
        let fault =
            Fault::body("/expires_at", "in_the_past", "expires_at must lie in the future, or be left out");
        return Err(Error::InvalidBody(vec![fault]).into());
    }
    let new = NewKey {
        customer_id: input.customer_id,
        key_name: input.key_name,
        scopes: input.scopes,
        kind: input.kind.unwrap_or(KeyKind::Live),
        rate_limit_override_rpm: input.rate_limit_override_rpm,
        expires_at: input.expires_at,
    };
    once.create(state.store.clone(), now, move |connection| {
        ops::keys::create(connection, new, now).map_ok(NewApiKey::new).boxed()
    })
    .await
}

/// Which keys to list.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "the fields document the parameters which `list_api_keys` reads")]
pub struct ApiKeyListQuery {
    /// Of this customer alone.
    customer_id: Option<Uuid>,
    /// False: those which were revoked.
    is_active: Option<bool>,
}

/// List API keys
///
/// Never the keys themselves. A customer's administrator sees that customer's keys alone.
#[utoipa::path(
    get,
    path = "/v1/api-keys",
    tag = "API keys",
    params(ApiKeyListQuery, Paging),
    responses(
        (status = 200, description = "A page of keys", body = Page<ApiKeyRecord>, headers(("Link" = String, description = "`<…>; rel=\"next\"` when there is a next page"))),
        ReadProblems,
    ),
    security(("api_key" = ["admin"])),
)]
pub async fn list_api_keys(
    State(state): State<AppState>,
    caller: Caller,
    mut params: Params,
    uri: Uri,
) -> Result<Response, Problem> {
    let paging = Paging::read(&mut params, &state.cursors, &uri);
    let customer_id = params.take("customer_id", uuid);
    let is_active = params.take("is_active", flag);
    params.finish()?;
    let filter = KeyFilter { customer_id: caller.narrow(customer_id)?, is_active };
    let keys = state.store.list_keys(&filter, paging.position, paging.fetch()).await?;
    Ok(paging.page(&state.cursors, keys, |key: &ApiKeyRecord| key.key_id))
}

/// Revoke an API key
///
/// Effective at once. Revoking a revoked key changes nothing.
#[utoipa::path(
    delete,
    path = "/v1/api-keys/{key_id}",
    tag = "API keys",
    params(("key_id" = Uuid, Path, description = "The key")),
    responses((status = 204, description = "The key is revoked"), ReadProblems, UnknownApiKey, UnexpectedBody),
    security(("api_key" = ["admin"])),
)]
pub async fn revoke_api_key(
    State(state): State<AppState>,
    caller: Caller,
    PathId(key_id): PathId,
    params: Params,
    _: NoBody,
) -> Result<Response, Problem> {
    params.finish()?;
    detached(state.store.clone(), async move {
        ops::keys::revoke(&state.store, &caller.principal, key_id).await?;
        state.cache.keys_changed();
        Ok(())
    })
    .await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// How the keys overlap.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateInput {
    /// How long the old key stays good, in seconds: 0 to 7 days; default 1 hour.
    #[serde(default = "default_overlap")]
    #[schema(minimum = 0, maximum = 604_800, default = 3600)]
    pub overlap_seconds: i64,
}

fn default_overlap() -> i64 {
    3600
}

impl Body for RotateInput {
    fn read(fields: &mut Fields) -> Option<Self> {
        let overlap_seconds = fields.defaulted("overlap_seconds", default_overlap(), integer(0, 604_800));
        Some(Self { overlap_seconds })
    }
}

/// Rotate an API key
///
/// Makes a key with the same rights; the old one stays good for the overlap.
#[utoipa::path(
    post,
    path = "/v1/api-keys/{key_id}/rotate",
    tag = "API keys",
    params(
        ("key_id" = Uuid, Path, description = "The key"),
        ("Idempotency-Key" = Option<String>, Header, description = "A retry with the same key and the same JSON, in any spelling, gets the first answer again, for 24 hours", min_length = 1, max_length = 255),
    ),
    request_body = RotateInput,
    responses(
        (status = 201, description = "The new key", body = RotatedApiKey, headers(("Idempotency-Replayed" = bool, description = "`true`: this is the first answer again"))),
        WriteProblems,
        UnknownApiKey,
        Conflict,
    ),
    security(("api_key" = ["admin"])),
)]
pub async fn rotate_api_key(
    State(state): State<AppState>,
    caller: Caller,
    PathId(key_id): PathId,
    params: Params,
    idempotency: IdempotencyKey,
    body: JsonBody<RotateInput>,
) -> Result<Response, Problem> {
    params.finish()?;
    let now = (state.clock)();
    let route = format!("POST /v1/api-keys/{key_id}/rotate");
    let once = Once::new(&caller, &idempotency, &route, &body.bytes);
    let overlap = TimeDelta::seconds(body.value.overlap_seconds);
    let cache = Arc::clone(&state.cache);
    let rotated = once.create(state.store.clone(), now, move |connection| {
        async move {
            let (record, key, good_until) =
                ops::keys::rotate(connection, &caller.principal, key_id, overlap, now).await?;
            Ok(RotatedApiKey { new: NewApiKey::new((record, key)), previous_key_valid_until: good_until })
        }
        .boxed()
    });
    let rotated = rotated.await;
    cache.keys_changed();
    rotated
}
