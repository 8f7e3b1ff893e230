//! Who may call what. The OpenAPI document is the table of routes and scopes: what it says is what is enforced, and a
//! route which it does not list is refused.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::Request;
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use utoipa::openapi::OpenApi;

use super::AppState;
use super::admission::is_withdrawal;
use super::extract::Caller;
use super::observe::CallerName;
use super::problem::{FORBIDDEN, Problem};
use crate::domain::{ApiKey, KeyFault, Scope};

/// What a route asks of its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    Public,
    /// Any one of these.
    AnyOf(Vec<Scope>),
}

/// Path by path and method by method, what the caller must hold.
#[derive(Clone, Debug)]
pub struct AccessTable(HashMap<String, Vec<(Method, Access)>>);

impl AccessTable {
    /// Reads the table from the document's `security` requirements.
    pub fn from_spec(spec: &OpenApi) -> Self {
        let document = serde_json::to_value(spec).unwrap_or_default();
        let mut table: HashMap<String, Vec<(Method, Access)>> = HashMap::new();
        for (path, item) in document["paths"].as_object().into_iter().flatten() {
            for (method, operation) in item.as_object().into_iter().flatten() {
                let Ok(method) = Method::from_bytes(method.to_ascii_uppercase().as_bytes()) else {
                    continue;
                };
                let Some(requirements) = operation["security"].as_array() else {
                    continue;
                };
                let scopes: Vec<Scope> = requirements
                    .iter()
                    .filter_map(|requirement| requirement["api_key"].as_array())
                    .flatten()
                    .filter_map(|scope| scope.as_str().and_then(Scope::parse))
                    .collect();
                let public = requirements.iter().any(|requirement| requirement == &serde_json::json!({}));
                let access = if public { Access::Public } else { Access::AnyOf(scopes) };
                table.entry(path.clone()).or_default().push((method, access));
            }
        }
        Self(table)
    }

    pub fn get(&self, method: &Method, path: &str) -> Option<&Access> {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        self.0.get(path)?.iter().find_map(|(listed, access)| (listed == method).then_some(access))
    }
}

/// Lets through callers that may call this route.
pub async fn authorize<F: Future<Output = Response>>(
    state: &AppState,
    access: &AccessTable,
    mut request: Request,
    template: &str,
    next: impl FnOnce(Request) -> F,
) -> Response {
    let wanted = match access.get(request.method(), template) {
        Some(Access::Public) => return next(request).await,
        Some(Access::AnyOf(scopes)) => scopes,
        // A method which the document does not list is refused, whoever asks; the router adds those it has.
        None => return StatusCode::METHOD_NOT_ALLOWED.into_response(),
    };
    let now = (state.clock)();
    let caller = match authenticate(state, request.headers().get(AUTHORIZATION).cloned(), now).await {
        Ok(caller) => caller,
        Err(problem) => return problem.into_response(),
    };
    let name = CallerName(Arc::clone(&caller.principal));
    let mut allowance = state.rates.check(&caller.principal, now);
    if allowance.exhausted_for().is_some() && is_withdrawal(request.method(), template, &[]) {
        allowance = state.rates.check_withdrawal(&caller.principal, now);
    }
    let mut response = if let Some(wait) = allowance.exhausted_for() {
        Problem::rate_limited(wait).into_response()
    } else if wanted.iter().any(|scope| caller.principal.may(*scope)) {
        request.extensions_mut().insert(caller);
        next(request).await
    } else {
        let names: Vec<_> = wanted.iter().map(|scope| scope.as_str()).collect();
        let detail = format!("this needs the scope {}: use a key which has it", names.join(" or "));
        Problem::new(&FORBIDDEN, detail).into_response()
    };
    allowance.describe(response.headers_mut());
    response.extensions_mut().insert(name);
    response
}

async fn authenticate(
    state: &AppState,
    header: Option<HeaderValue>,
    now: DateTime<Utc>,
) -> Result<Caller, Problem> {
    let header = header
        .ok_or_else(|| Problem::unauthenticated("send an API key as Authorization: Bearer vla_live_…"))?;
    let (scheme, key) = header.to_str().ok().and_then(|value| value.split_once(' ')).unwrap_or_default();
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Problem::unauthenticated("send the API key as Authorization: Bearer vla_live_…"));
    }
    let key = ApiKey::parse(key.trim()).map_err(|fault| {
        Problem::unauthenticated(match fault {
            KeyFault::Mistyped => "the API key's checksum is wrong: it was mistyped or cut, copy it again",
            KeyFault::NotAKey => "an API key begins with vla_live_ or vla_test_ and has no spaces",
        })
    })?;
    // The key is looked up by its hash: comparing takes equally long whatever the key, as the hash cannot be aimed at.
    let principal = state
        .cache
        .keys
        .principal(key.hash(), now)
        .await?
        .ok_or_else(|| Problem::unauthenticated("the API key is unknown, expired or revoked"))?;
    Ok(Caller { principal, key })
}
