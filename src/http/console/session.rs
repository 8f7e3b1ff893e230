//! Signing in: an API key becomes a session on the server, which a cookie names. This is the one place that turns a request
//! into whom the console serves; whatever else may vouch for a person can be put here.

use std::sync::Arc;

use askama::Template;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::SET_COOKIE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::domain::{ApiKey, KeyFault, Principal, Scope};
use crate::error::Error;
use crate::http::AppState;
use crate::http::admission::{Admission, in_time, is_withdrawal};
use crate::http::extract::Origin;
use crate::http::input::{Params, text};
use crate::http::limits::Group;
use crate::http::observe::{CallerName, Template as RouteTemplate};
use crate::http::pages::{Form, Page, cookie, on_loopback, see};
use crate::http::problem::Problem;
use crate::http::shares::Owner;
use crate::ops::sessions;

/// Where the console begins.
pub const HOME: &str = "/console";

/// Whom a page is for.
#[derive(Clone, Debug)]
pub struct Visitor {
    pub principal: Arc<Principal>,
    pub key_name: Option<String>,
    /// For what the visitor changes.
    pub origin: Origin,
}

impl Visitor {
    /// The key by the name that those who made it gave it.
    pub fn name(&self) -> String {
        match &self.key_name {
            Some(name) => format!("{name} ({})", self.principal.key_prefix),
            None => self.principal.key_prefix.clone(),
        }
    }

    pub fn may(&self, scope: Scope) -> bool {
        self.principal.may(scope)
    }

    pub fn must(&self, scope: Scope) -> Result<(), Error> {
        if self.may(scope) {
            return Ok(());
        }
        Err(Error::Forbidden(format!(
            "this needs the scope {}: sign in with a key that has it",
            scope.as_str()
        )))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Visitor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let missing = || Error::Internal("a page of the console is served without a session".to_owned());
        parts.extensions.get().cloned().ok_or_else(|| missing().into())
    }
}

/// `__Host-`: a browser takes such a cookie from this very host over TLS alone, and so believes no neighbour's. On the
/// machine itself there is no TLS, and a name of its own.
fn cookie_name(headers: &HeaderMap) -> &'static str {
    if on_loopback(headers) { "consentd-session" } else { "__Host-consentd-session" }
}

fn set_cookie(headers: &HeaderMap, secret: &str, seconds: i64) -> Option<HeaderValue> {
    let secure = if on_loopback(headers) { "" } else { "; Secure" };
    let name = cookie_name(headers);
    HeaderValue::from_str(&format!(
        "{name}={secret}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"
    ))
    .ok()
}

#[derive(Template)]
#[template(path = "console/opening.html")]
struct Opening<'a> {
    here: &'a str,
}

#[derive(Template)]
#[template(path = "console/sign_in.html")]
struct SignIn<'a> {
    next: &'a str,
    refusal: Option<String>,
}

/// Lets through whoever has a session; others are asked to sign in, and come back to where they wanted to go.
pub async fn required(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let here = request.uri().path_and_query().map_or(HOME, |here| here.as_str()).to_owned();
    let secret = cookie(request.headers(), cookie_name(request.headers())).map(str::to_owned);
    let came_from = |site: &str| request.headers().get("sec-fetch-site").is_some_and(|found| found == site);
    let Some(secret) = secret else {
        // A link from elsewhere: the browser keeps the cookie back, and sends it once the page itself asks.
        if came_from("cross-site") && request.method() == Method::GET {
            return Page(StatusCode::OK, Opening { here: &here }).into_response();
        }
        return to_sign_in(request.method(), &here);
    };
    let template = RouteTemplate::of(&request);
    let now = (state.clock)();
    let found = {
        let method = request.method().clone();
        let is_withdrawal = || is_withdrawal(&method, template.as_str(), &[]);
        let Some(_permit) = state.concurrency.enter(Group::Public, is_withdrawal).await else {
            return Problem::overloaded().into_response();
        };
        in_time(sessions::resume(&state.store, &secret, now)).await.and_then(|found| found)
    };
    let session = match found {
        Ok(Some(session)) => session,
        Ok(None) => return to_sign_in(request.method(), &here),
        Err(error) => return Problem::from(error).into_response(),
    };
    let (mut parts, body) = request.into_parts();
    let principal = Arc::new(session.principal);
    let origin = Origin::new(principal.name(), &parts, &state);
    parts.extensions.insert(Visitor {
        principal: Arc::clone(&principal),
        key_name: session.key_name,
        origin,
    });
    request = Request::from_parts(parts, body);
    // A session is no way around the limit of its key.
    let allowance = state.rates.check(&principal, now);
    let mut response = if let Some(wait) = allowance.exhausted_for() {
        Problem::rate_limited(wait).into_response()
    } else {
        let admission =
            Admission { group: Group::Console, owner: Owner::of(&principal), template: template.as_str() };
        admission.run(&state, request, |request| next.run(request)).await
    };
    response.extensions_mut().insert(CallerName(principal));
    response
}

/// A longer address is not returned to: escaped once more, it would no longer be taken.
const LONGEST_RETURN: usize = 2000;

fn to_sign_in(method: &Method, here: &str) -> Response {
    let wanted = if method == Method::GET && here.len() <= LONGEST_RETURN { here } else { HOME };
    let query = form_urlencoded::Serializer::new(String::new()).append_pair("next", wanted).finish();
    see(&format!("/console/sign-in?{query}"))
}

/// Whether a path is one of the console's.
pub fn is_inside(path: &str) -> bool {
    path.strip_prefix(HOME).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A place in the console, and nowhere else.
fn inside(next: Option<String>) -> String {
    let is_place = |next: &String| {
        is_inside(next.split('?').next().unwrap_or_default()) && !next.contains(['\\', '\r', '\n'])
    };
    next.filter(is_place).unwrap_or_else(|| HOME.to_owned())
}

pub async fn sign_in_page(params: Params) -> Result<Response, Problem> {
    let mut params = params.without_blanks();
    let next = inside(params.take("next", text(4000)));
    params.finish()?;
    Ok(Page(StatusCode::OK, SignIn { next: &next, refusal: None }).into_response())
}

pub async fn sign_in(
    State(state): State<AppState>,
    headers: HeaderMap,
    Form(mut form): Form,
) -> Result<Response, Problem> {
    let next = inside(form.take("next", text(4000)));
    let key = form.take("key", text(1000)).unwrap_or_default();
    form.finish()?;
    let now = (state.clock)();
    let principal = match principal_of(&state, key.trim()).await? {
        Ok(principal) => principal,
        Err((status, refusal)) => {
            let page = SignIn { next: &next, refusal: Some(refusal) };
            return Ok(Page(status, page).into_response());
        }
    };
    // Always a new one: whoever planted a session before the sign-in has nothing of it.
    if let Some(before) = cookie(&headers, cookie_name(&headers)) {
        sessions::end(&state.store, before).await?;
    }
    let secret = sessions::begin(&state.store, principal.key_id, now).await?;
    let mut response = see(&next);
    if let Some(cookie) = set_cookie(&headers, &secret, sessions::LONGEST.num_seconds()) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response.extensions_mut().insert(CallerName(principal));
    Ok(response)
}

type Refusal = (StatusCode, String);

async fn principal_of(state: &AppState, key: &str) -> Result<Result<Arc<Principal>, Refusal>, Problem> {
    let refuse = |status, detail: &str| Ok(Err((status, detail.to_owned())));
    let key = match ApiKey::parse(key) {
        Ok(key) => key,
        Err(KeyFault::Mistyped) => {
            return refuse(
                StatusCode::UNAUTHORIZED,
                "The key was mistyped or cut: copy it again, as a whole.",
            );
        }
        Err(KeyFault::NotAKey) => {
            return refuse(
                StatusCode::UNAUTHORIZED,
                "An API key begins with vla_live_ or vla_test_ and has no spaces.",
            );
        }
    };
    let Some(principal) = state.cache.keys.principal(key.hash(), (state.clock)()).await? else {
        return refuse(StatusCode::UNAUTHORIZED, "The key is unknown, expired or revoked.");
    };
    if principal.customer_id.is_some() {
        return refuse(
            StatusCode::FORBIDDEN,
            "This key belongs to one customer. The console shows all of them, and takes an operator's key alone.",
        );
    }
    if !principal.may(Scope::AuditRead) {
        return refuse(
            StatusCode::FORBIDDEN,
            "This key lacks the scope audit:read: sign in with a key that has it.",
        );
    }
    Ok(Ok(principal))
}

pub async fn sign_out(State(state): State<AppState>, headers: HeaderMap) -> Result<Response, Problem> {
    if let Some(secret) = cookie(&headers, cookie_name(&headers)) {
        sessions::end(&state.store, secret).await?;
    }
    let mut response = see("/console/sign-in");
    if let Some(cookie) = set_cookie(&headers, "", 0) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    Ok(response)
}
