//! The customer's own page: what is in force, one click to withdraw it, and a form to choose anew.
//!
//! It needs no script, and has none. Withdrawing takes one click and no question; nothing is chosen before the customer has
//! chosen it. Every form names the link it was made for, so that a form of one account cannot act on another that was opened
//! in the same browser meanwhile.

use axum::Router;
use axum::extract::Request;
use axum::http::header::{CACHE_CONTROL, CONTENT_LANGUAGE, CONTENT_LENGTH, SET_COOKIE, VARY};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};

use self::texts::Texts;
use self::view::{Message, Trouble};
use super::AppState;
use super::pages::{guarded, on_loopback, public, see};
use super::problem::{self, Problem};

mod change;
mod choices;
mod entry;
mod history;
mod overview;
#[cfg(test)]
mod pseudo;
mod standing;
pub mod texts;
mod view;
mod visit;

/// Where the page begins.
const HOME: &str = "/my/consent";
const CHOICES: &str = "/my/consent/choices";
const HISTORY: &str = "/my/consent/history";
const LEAVE: &str = "/my/consent/leave";

pub fn routes(state: &AppState) -> Router<AppState> {
    let pages = Router::new()
        .route("/my", get(async || see(HOME)))
        .route(HOME, get(overview::page))
        .route("/my/consent/withdraw", post(change::withdraw))
        .route("/my/consent/undo", post(change::undo))
        .route(CHOICES, get(choices::page).post(change::choose))
        .route("/my/consent/entries/{audit_id}", get(entry::page))
        .route("/my/consent/entries/{audit_id}/receipt", get(entry::receipt))
        .route("/my/consent/entries/{audit_id}/proof", get(entry::proof))
        .route(HISTORY, get(history::page))
        .route("/my/consent/history.csv", get(history::csv))
        .route(LEAVE, post(visit::leave))
        .route("/my/{*rest}", get(nothing_here));
    guarded(pages.layer(from_fn_with_state(state.clone(), public))).layer(from_fn(speak))
}

async fn nothing_here() -> Problem {
    Problem::new(&problem::NOT_FOUND, "check the address")
}

/// The language of the answer, chosen before anything else is done, so that every refusal is told in it. A request extension.
#[derive(Clone, Copy, Debug)]
struct Language(&'static Texts);

const LANGUAGE_COOKIE: &str = "consentd-language";

async fn speak(mut request: Request, next: Next) -> Response {
    let headers = request.headers();
    let query = request.uri().query().unwrap_or_default();
    let chosen = form_urlencoded::parse(query.as_bytes())
        .find(|(name, _)| name == "lang")
        .and_then(|(_, code)| texts::by_code(&code));
    let accepted: Vec<_> =
        headers.get_all("accept-language").iter().filter_map(|value| value.to_str().ok()).collect();
    let kept = super::pages::cookie(headers, LANGUAGE_COOKIE);
    let texts = chosen.unwrap_or_else(|| texts::wanted(kept, &accepted.join(",")));
    let secure = if on_loopback(headers) { "" } else { "; Secure" };
    request.extensions_mut().insert(Language(texts));

    let mut response = next.run(request).await;
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        response.extensions_mut().insert(Problem::method_not_allowed());
    }
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        tell(texts, problem, &mut response);
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_LANGUAGE, HeaderValue::from_static(texts.language));
    headers.insert(VARY, HeaderValue::from_static("accept-language, cookie"));
    if let Some(texts) = chosen {
        let cookie = format!(
            "{LANGUAGE_COOKIE}={}; Path=/my; Max-Age=31536000; HttpOnly; SameSite=Lax{secure}",
            texts.language
        );
        headers.extend(HeaderValue::from_str(&cookie).ok().map(|cookie| (SET_COOKIE, cookie)));
    }
    response
}

/// A problem as a page: what is wrong, and what to do, and nothing of how the service is made.
fn tell(texts: &'static Texts, problem: Problem, response: &mut Response) {
    let trouble = match problem.kind().status {
        StatusCode::NOT_FOUND if *problem.kind() == problem::NOT_SEALED => Trouble::NotSealed,
        StatusCode::NOT_FOUND => Trouble::NotFound,
        StatusCode::TOO_MANY_REQUESTS => Trouble::TooMany,
        StatusCode::SERVICE_UNAVAILABLE => Trouble::Unavailable,
        status if status.is_server_error() => Trouble::Broken,
        _ => Trouble::Refused,
    };
    let (parts, body) =
        Message::of(texts, trouble).answer(problem.kind().status).into_response().into_parts();
    *response.body_mut() = body;
    response.headers_mut().remove(CONTENT_LENGTH);
    response.headers_mut().extend(parts.headers);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    problem.note(response);
}
