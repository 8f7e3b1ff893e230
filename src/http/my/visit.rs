//! Opening the page: a link becomes a cookie, so that what opens the page is in no address, no history and no log.

use axum::extract::{FromRequestParts, State};
use axum::http::header::SET_COOKIE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};

use super::texts::{LANGUAGES, Texts, say};
use super::view::{Frame, Message, Trouble};
use super::{HOME, Language};
use crate::domain::{ConsentLink, Customer, LinkToken};
use crate::error::Error;
use crate::http::AppState;
use crate::http::extract::Origin;
use crate::http::pages::{cookie, on_loopback, see};
use crate::http::problem::Problem;
use crate::store::consents::Attribution;

/// Why a page is not opened.
#[derive(Debug)]
pub enum Closed {
    NoLink,
    /// No key of ours has signed it.
    BadLink,
    Expired(DateTime<Utc>),
    Revoked(DateTime<Utc>),
    /// It was good, and what it led to is gone.
    NoAccount,
}

impl Closed {
    pub fn answer(&self, texts: &'static Texts) -> Response {
        let (status, title, text) = match self {
            Self::NoLink => (StatusCode::FORBIDDEN, texts.no_link_title, say(texts.no_link, &[])),
            Self::BadLink => (StatusCode::FORBIDDEN, texts.bad_link_title, say(texts.bad_link, &[])),
            Self::Expired(time) => (
                StatusCode::GONE,
                texts.expired_link_title,
                say(texts.expired_link, &[("time", texts.time(*time))]),
            ),
            Self::Revoked(time) => (
                StatusCode::GONE,
                texts.revoked_link_title,
                say(texts.revoked_link, &[("time", texts.time(*time))]),
            ),
            Self::NoAccount => (StatusCode::GONE, texts.no_account_title, say(texts.no_account, &[])),
        };
        Message { frame: Frame::outside(texts), title, text, home: false }.answer(status).into_response()
    }
}

/// Whom the page is for, by a link that is good now.
#[derive(Clone, Debug)]
pub struct Visit {
    pub link: ConsentLink,
    pub customer: Customer,
    pub texts: &'static Texts,
    pub now: DateTime<Utc>,
    origin: Origin,
}

impl Visit {
    pub fn new(
        link: ConsentLink,
        customer: Customer,
        texts: &'static Texts,
        now: DateTime<Utc>,
        origin: Origin,
    ) -> Self {
        Self { link, customer, texts, now, origin }
    }

    /// What an audit entry keeps of a change.
    pub fn attribution(&self, reason: Option<String>) -> Attribution {
        self.origin.clone().attribution(self.link.on_behalf_of.clone(), reason)
    }

    /// A page of this visit, at this address.
    pub fn frame(&self, path: impl Into<String>) -> Frame {
        Frame::inside(self, path.into())
    }

    pub fn trouble(&self, status: StatusCode, trouble: Trouble) -> Response {
        let (title, text) = trouble.texts(self.texts);
        Message { frame: self.frame(HOME), title, text: say(text, &[]), home: true }
            .answer(status)
            .into_response()
    }
}

/// A refusal of a visit: a page of its own, or a problem, which the layer around tells.
#[derive(Debug)]
pub struct Refused(Response);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        self.0
    }
}

impl FromRequestParts<AppState> for Visit {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Refused> {
        let texts = parts.extensions.get().map_or(LANGUAGES[0], |Language(texts)| *texts);
        let Some(token) = cookie(&parts.headers, cookie_name(&parts.headers)) else {
            return Err(Refused(Closed::NoLink.answer(texts)));
        };
        let now = (state.clock)();
        match open(state, token, now).await {
            Ok(Ok((link, customer))) => {
                let origin = Origin::new(ConsentLink::name(link.link_id), parts, state);
                Ok(Self::new(link, customer, texts, now, origin))
            }
            Ok(Err(closed)) => Err(Refused(closed.answer(texts))),
            Err(error) => Err(Refused(Problem::from(error).into_response())),
        }
    }
}

/// Holds a token against its key and its row; both are asked of the database each time, so that a revocation counts at once.
async fn open(
    state: &AppState,
    token: &str,
    now: DateTime<Utc>,
) -> Result<Result<(ConsentLink, Customer), Closed>, Error> {
    let Some(token) = LinkToken::parse(token) else {
        return Ok(Err(Closed::BadLink));
    };
    let standing = state.store.link_standing(token.unchecked()).await?;
    let Some((claims, link)) =
        standing.and_then(|standing| Some((token.check(&standing.key)?, standing.link)))
    else {
        return Ok(Err(Closed::BadLink));
    };
    if let Some(revoked_at) = link.as_ref().and_then(|link| link.revoked_at) {
        return Ok(Err(Closed::Revoked(revoked_at)));
    }
    if claims.expires_at <= now {
        return Ok(Err(Closed::Expired(claims.expires_at)));
    }
    let customer = state.store.customer(claims.customer_id).await?;
    Ok(link.zip(customer).ok_or(Closed::NoAccount))
}

/// Takes a link from an address into a cookie, and leads to the page.
pub async fn enter(
    state: &AppState,
    texts: &'static Texts,
    headers: &HeaderMap,
    token: &str,
) -> Result<Response, Problem> {
    let now = (state.clock)();
    let link = match open(state, token, now).await? {
        Ok((link, _)) => link,
        Err(closed) => return Ok(closed.answer(texts)),
    };
    let seconds = (link.expires_at - now).num_seconds().max(1);
    let mut response = see(HOME);
    response.headers_mut().extend(set_cookie(headers, token, seconds).map(|cookie| (SET_COOKIE, cookie)));
    Ok(response)
}

/// Forgets the link on this device.
pub async fn leave(
    State(_): State<AppState>,
    axum::Extension(Language(texts)): axum::Extension<Language>,
    headers: HeaderMap,
) -> Response {
    let message = Message {
        frame: Frame::outside(texts),
        title: texts.left_title,
        text: say(texts.left, &[]),
        home: false,
    };
    let mut response = message.answer(StatusCode::OK).into_response();
    response.headers_mut().extend(set_cookie(&headers, "", 0).map(|cookie| (SET_COOKIE, cookie)));
    response
}

/// `__Host-` binds it to this host and to TLS, where there is TLS.
fn cookie_name(headers: &HeaderMap) -> &'static str {
    if on_loopback(headers) { "consentd-link" } else { "__Host-consentd-link" }
}

/// `Lax`: a link in an e-mail leads here from elsewhere, and a stricter cookie would not come along. What changes something
/// is a POST, for which it does not come along either.
fn set_cookie(headers: &HeaderMap, token: &str, seconds: i64) -> Option<HeaderValue> {
    let secure = if on_loopback(headers) { "" } else { "; Secure" };
    let name = cookie_name(headers);
    HeaderValue::from_str(&format!(
        "{name}={token}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}"
    ))
    .ok()
}
