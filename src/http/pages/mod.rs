//! What the pages for people share: how they are rendered, under which policy, and what they load. The console and the
//! customer's page are made of this; everything they load comes from here.

use askama::Template;
use axum::Router;
use axum::extract::{FromRequest, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tower_http::csrf::{CsrfLayer, ProtectionError};

use super::AppState;
use super::admission::Admission;
use super::extract::collect;
use super::input::Params;
use super::limits::Group;
use super::observe::{RequestId, Template as RouteTemplate};
use super::problem::{FORBIDDEN, MALFORMED_JSON, Problem, UNSUPPORTED_MEDIA_TYPE};
use super::shares::Owner;
use crate::error::{Error, Fault};

pub mod assets;
pub mod filters;

/// Nothing is loaded from elsewhere, nothing inline is run, and no script can make markup of a text
/// (<https://www.w3.org/TR/trusted-types/>).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'self'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// Largest form, in bytes.
const MAX_FORM: usize = 64 * 1024;

/// A whole page.
#[derive(Debug)]
pub struct Page<T>(pub StatusCode, pub T);

impl<T: Template> IntoResponse for Page<T> {
    fn into_response(self) -> Response {
        match self.1.render() {
            Ok(text) => {
                let headers = [
                    (CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
                    (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
                ];
                (self.0, headers, text).into_response()
            }
            Err(error) => Problem::from(Error::Internal(error.to_string())).into_response(),
        }
    }
}

/// After a form was sent: look at the page there.
pub fn see(place: &str) -> Response {
    match HeaderValue::from_str(place) {
        Ok(place) => (StatusCode::SEE_OTHER, [(LOCATION, place)]).into_response(),
        Err(error) => Problem::from(Error::Internal(error.to_string())).into_response(),
    }
}

/// The fields of a form that was sent; what was left blank was not given.
#[derive(Debug)]
pub struct Form(pub Params);

impl<S: Send + Sync> FromRequest<S> for Form {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let kind =
            request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if kind.split(';').next().map(str::trim) != Some("application/x-www-form-urlencoded") {
            return Err(Problem::new(&UNSUPPORTED_MEDIA_TYPE, "send the form as the page does"));
        }
        let body = collect(request, MAX_FORM).await?;
        let body =
            std::str::from_utf8(&body).map_err(|_| Problem::new(&MALFORMED_JSON, "the form is not UTF-8"))?;
        Ok(Self(Params::parse(body).without_blanks()))
    }
}

/// The value of a cookie.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(axum::http::header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(found, value)| (found == name).then_some(value))
}

/// Whether a request came to a name of this machine itself, where a browser has no TLS to speak of.
pub fn on_loopback(headers: &HeaderMap) -> bool {
    let host = headers.get(axum::http::header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Pages that refuse the forms of other sites, and show problems as pages.
pub fn dressed(pages: Router<AppState>) -> Router<AppState> {
    guarded(pages).layer(from_fn(tell_problems))
}

/// The same, for pages that show problems in their own way.
pub fn guarded(pages: Router<AppState>) -> Router<AppState> {
    let csrf = CsrfLayer::new().with_rejection_response(|_: ProtectionError| {
        Problem::new(
            &FORBIDDEN,
            "this form was sent from another site: open the page here, and send it again",
        )
        .into_response()
    });
    pages.layer(csrf)
}

/// Applies the limits of pages that anybody can open.
pub async fn public(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let template = RouteTemplate::of(&request);
    let admission = Admission { group: Group::Public, owner: Owner::Public, template: template.as_str() };
    admission.run(&state, request, |request| next.run(request)).await
}

/// What the pages load.
pub fn asset_routes() -> Router<AppState> {
    Router::new().route("/assets/{hash}/{name}", get(assets::serve))
}

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage<'a> {
    status: u16,
    title: &'a str,
    detail: &'a str,
    faults: &'a [Fault],
    request_id: &'a str,
}

async fn tell_problems(request: Request, next: Next) -> Response {
    let request_id = request.extensions().get::<RequestId>().map(ToString::to_string).unwrap_or_default();
    let mut response = next.run(request).await;
    let Some(problem) = response.extensions_mut().remove::<Problem>() else {
        return response;
    };
    let page = ProblemPage {
        status: problem.kind().status.as_u16(),
        title: problem.kind().title,
        detail: problem.detail(),
        faults: problem.all_faults(),
        request_id: &request_id,
    };
    let (parts, body) = Page(problem.kind().status, page).into_response().into_parts();
    *response.body_mut() = body;
    response.headers_mut().remove(CONTENT_LENGTH);
    response.headers_mut().extend(parts.headers);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    problem.note(&mut response);
    response
}
