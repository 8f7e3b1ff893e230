//! Extractors whose refusals are problem documents.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use axum::http::header::{CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH, USER_AGENT};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::{BodyExt as _, Limited};
use ipnetwork::IpNetwork;
use uuid::Uuid;

use super::AppState;
use super::input::{self, Fields, Params};
use super::json;
use super::observe::RequestId;
use super::problem::{
    BODY_TOO_LARGE, INVALID_PARAMETER, MALFORMED_JSON, Problem, UNAUTHENTICATED, UNSUPPORTED_MEDIA_TYPE,
};
use super::server::Peer;
use crate::domain::{ApiKey, Precondition, Principal};
use crate::error::{Error, Fault};
use crate::store::consents::Attribution;

/// A request body which reads itself from the fields of a JSON object.
pub trait Body: Sized {
    /// Largest body, in bytes.
    const MAX_BYTES: usize = 64 * 1024;

    /// `None` only if a fault was noted.
    fn read(fields: &mut Fields) -> Option<Self>;

    /// The same without a tree of values between, for bodies that are large and asked for often. Whatever is wrong or
    /// unusual in one is left to `read`, which can tell every fault: `None`.
    fn read_at_once(_: &[u8]) -> Option<Self> {
        None
    }
}

/// A body that is read and valid, and its bytes.
#[derive(Debug)]
pub struct JsonBody<T> {
    pub value: T,
    pub bytes: Bytes,
}

impl<S: Send + Sync, T: Body> FromRequest<S> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::new(
                &UNSUPPORTED_MEDIA_TYPE,
                "send the body with Content-Type: application/json",
            ));
        }
        let bytes = collect(request, T::MAX_BYTES).await?;
        let value = T::read_at_once(&bytes).map_or_else(|| read(&bytes), Ok)?;
        Ok(Self { value, bytes })
    }
}

/// Reads a body field by field.
pub fn read<T: Body>(bytes: &[u8]) -> Result<T, Problem> {
    let value = json::parse(bytes)
        .map_err(|error| Problem::new(&MALFORMED_JSON, format!("the body is not valid JSON: {error}")))?;
    let mut fields = Fields::new(value)?;
    let value = T::read(&mut fields);
    let faults = fields.finish();
    match value {
        Some(value) if faults.is_empty() => Ok(value),
        _ => Err(Error::InvalidBody(faults).into()),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(content_type) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let mut parts = content_type.split(';');
    let json = parts.next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
    json && parts.all(|parameter| {
        let parameter = parameter.trim().to_ascii_lowercase();
        !parameter.starts_with("charset=") || matches!(&parameter["charset=".len()..], "utf-8" | "\"utf-8\"")
    })
}

/// The bytes of a body, which is in memory since its request was admitted.
pub(super) async fn collect(request: Request, max_bytes: usize) -> Result<Bytes, Problem> {
    match Limited::new(request.into_body(), max_bytes).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(_) => Err(Problem::new(&BODY_TOO_LARGE, format!("at most {max_bytes} bytes are accepted"))),
    }
}

/// Refuses a body where none belongs: a client that sends one means something which would not be done.
#[derive(Debug)]
pub struct NoBody;

impl<S: Send + Sync> FromRequest<S> for NoBody {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        if collect(request, 1024).await?.is_empty() {
            return Ok(Self);
        }
        let fault = Fault::body("", "unexpected_body", "this request takes no body: leave it out");
        Err(Error::InvalidBody(vec![fault]).into())
    }
}

/// The one UUID of a path.
#[derive(Clone, Copy, Debug)]
pub struct PathId(pub Uuid);

impl<S: Send + Sync> FromRequestParts<S> for PathId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        path_parameter(parts, state, input::uuid).await.map(Self)
    }
}

/// The one audit id of a path.
#[derive(Clone, Copy, Debug)]
pub struct PathAuditId(pub i64);

/// Audit ids fit 53 bits, so that every JSON reader keeps them exact.
pub const MAX_AUDIT_ID: i64 = (1 << 53) - 1;

impl<S: Send + Sync> FromRequestParts<S> for PathAuditId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        path_parameter(parts, state, input::number(1, MAX_AUDIT_ID)).await.map(Self)
    }
}

/// A customer and one of its links, from a path.
#[derive(Clone, Copy, Debug)]
pub struct PathLink {
    pub customer_id: Uuid,
    pub link_id: Uuid,
}

impl<S: Send + Sync> FromRequestParts<S> for PathLink {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let raw = raw_path(parts, state).await?;
        let mut faults = Vec::new();
        let mut read = |wanted: &str| {
            let value = raw.iter().find(|(name, _)| *name == wanted).map_or("", |(_, value)| value);
            input::uuid(value).unwrap_or_else(|(code, detail)| {
                faults.push(Fault::parameter(wanted, code, detail));
                Uuid::nil()
            })
        };
        let path = Self { customer_id: read("customer_id"), link_id: read("link_id") };
        if faults.is_empty() { Ok(path) } else { Err(Error::InvalidParameters(faults).into()) }
    }
}

async fn raw_path<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<RawPathParams, Problem> {
    RawPathParams::from_request_parts(parts, state)
        .await
        .map_err(|_| Problem::new(&INVALID_PARAMETER, "the path is not UTF-8"))
}

async fn path_parameter<S: Send + Sync, T>(
    parts: &mut Parts,
    state: &S,
    read: impl FnOnce(&str) -> Result<T, input::Broken>,
) -> Result<T, Problem> {
    let raw = raw_path(parts, state).await?;
    let (name, value) = raw.iter().next().unwrap_or(("id", ""));
    read(value)
        .map_err(|(code, detail)| Error::InvalidParameters(vec![Fault::parameter(name, code, detail)]).into())
}

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self::parse(parts.uri.query().unwrap_or_default()))
    }
}

/// Who calls, and with which key.
#[derive(Clone, Debug)]
pub struct Caller {
    pub principal: Arc<Principal>,
    pub key: ApiKey,
}

impl Caller {
    /// Refuses what is another customer's, whether that customer exists or not.
    pub fn must_reach(&self, customer_id: Uuid) -> Result<(), Error> {
        if self.principal.reaches(customer_id) {
            return Ok(());
        }
        Err(Error::Forbidden(
            "this API key belongs to another customer: it reaches that customer alone".to_owned(),
        ))
    }

    /// Narrows a list to what the key reaches.
    pub fn narrow(&self, wanted: Option<Uuid>) -> Result<Option<Uuid>, Error> {
        if let Some(wanted) = wanted {
            self.must_reach(wanted)?;
        }
        Ok(wanted.or(self.principal.customer_id))
    }

    pub fn must_be_operator(&self) -> Result<(), Error> {
        if self.principal.customer_id.is_none() {
            return Ok(());
        }
        Err(Error::Forbidden(
            "only an operator's API key may do this: this one belongs to a customer".to_owned(),
        ))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        // `auth::authorize` has put it there; a route which it does not guard has no caller.
        parts.extensions.get().cloned().ok_or_else(|| Problem::new(&UNAUTHENTICATED, "an API key is needed"))
    }
}

/// Who changes something, from where: what the audit entry keeps.
#[derive(Clone, Debug)]
pub struct Origin {
    pub changed_by: String,
    pub ip_address: Option<IpNetwork>,
    pub user_agent: Option<String>,
    pub request_id: Option<String>,
}

impl Origin {
    pub fn attribution(self, on_behalf_of: Option<String>, change_reason: Option<String>) -> Attribution {
        Attribution {
            changed_by: self.changed_by,
            on_behalf_of,
            change_reason,
            ip_address: self.ip_address,
            user_agent: self.user_agent,
            request_id: self.request_id,
        }
    }

    /// Whatever the request says of where it comes from, for a change by `changed_by`.
    pub fn new(changed_by: String, parts: &Parts, state: &AppState) -> Self {
        let peer = parts.extensions.get::<Peer>().copied();
        let address = peer.and_then(|peer| state.client_addresses.of(peer, &parts.headers));
        let user_agent = parts.headers.get(USER_AGENT).map(|value| {
            String::from_utf8_lossy(value.as_bytes())
                .chars()
                .filter(|char| !char.is_control())
                .take(512)
                .collect()
        });
        Self {
            changed_by,
            ip_address: address.map(IpNetwork::from),
            user_agent,
            request_id: parts.extensions.get::<RequestId>().map(ToString::to_string),
        }
    }
}

impl FromRequestParts<AppState> for Origin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, state).await?;
        Ok(Self::new(caller.principal.name(), parts, state))
    }
}

/// `If-Match` and `If-None-Match` of a write.
impl<S: Send + Sync> FromRequestParts<S> for Precondition {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let refuse = |name: &HeaderName, detail: &str| {
            Problem::from(Error::InvalidParameters(vec![Fault::parameter(
                name.as_str(),
                "invalid_header",
                detail,
            )]))
        };
        let if_match = header(&parts.headers, &IF_MATCH);
        let if_none_match = header(&parts.headers, &IF_NONE_MATCH);
        match (if_match.as_deref(), if_none_match.as_deref()) {
            (None, None) => Ok(Self::Anything),
            (Some("*"), None) => Ok(Self::Given),
            (None, Some("*")) => Ok(Self::NeverGiven),
            (Some(tags), None) => versions(tags).map(Self::Versions).ok_or_else(|| {
                refuse(&IF_MATCH, "If-Match takes the ETag of the consent, such as \"3\", or *")
            }),
            (None, Some(_)) => Err(refuse(&IF_NONE_MATCH, "on a write, If-None-Match takes * alone")),
            (Some(_), Some(_)) => Err(refuse(&IF_MATCH, "give either If-Match or If-None-Match, not both")),
        }
    }
}

/// The versions which an `If-Match` names. A weak tag never matches (RFC 9110, 13.1.1).
fn versions(tags: &str) -> Option<Vec<i32>> {
    let mut versions = Vec::new();
    for tag in tags.split(',') {
        let tag = tag.trim();
        let strong = tag.strip_prefix("W/").unwrap_or(tag);
        let inner = strong.strip_prefix('"')?.strip_suffix('"').filter(|_| strong.len() >= 2)?;
        if strong.len() == tag.len() {
            // A tag which is no number is some other resource's: it matches nothing.
            versions.extend(inner.parse::<i32>().ok());
        }
    }
    Some(versions)
}

/// The `ETag` of a consent.
pub fn etag(version: i32) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{version}\"")).expect("digits in quotes are visible ASCII")
}

/// Whether an `If-None-Match` on a read names this version, weakly or not.
pub fn not_modified(headers: &HeaderMap, version: i32) -> bool {
    header(headers, &IF_NONE_MATCH).is_some_and(|tags| {
        let tag = etag(version);
        tags.split(',').any(|given| {
            let given = given.trim();
            given == "*" || tag == given.strip_prefix("W/").unwrap_or(given)
        })
    })
}

/// All values of a header that is a list.
fn header(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let values: Vec<_> =
        headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
    (!values.is_empty()).then(|| values.join(", ").trim().to_owned())
}

/// A client's `Idempotency-Key`.
#[derive(Clone, Debug)]
pub struct IdempotencyKey(pub Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Some(value) = parts.headers.get("idempotency-key") else {
            return Ok(Self(None));
        };
        match value.to_str() {
            Ok(key) if (1..=255).contains(&key.len()) => Ok(Self(Some(key.to_owned()))),
            _ => {
                let detail = "an Idempotency-Key has 1 to 255 visible ASCII characters";
                let fault = Fault::parameter("Idempotency-Key", "invalid_header", detail);
                Err(Error::InvalidParameters(vec![fault]).into())
            }
        }
    }
}

/// What the headers of a change say: who makes it, on what condition, and what the answer should hold.
#[derive(Debug)]
pub struct ChangeHeaders {
    pub origin: Origin,
    pub precondition: Precondition,
    /// `Prefer: receipt` (RFC 7240): a signed receipt for the audit entry is wanted.
    pub receipt: bool,
}

impl FromRequestParts<AppState> for ChangeHeaders {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        // What is not understood is ignored, as that RFC wants it.
        let wanted = header(&parts.headers, &HeaderName::from_static("prefer")).unwrap_or_default();
        let receipt = wanted.split(',').any(|one| {
            one.split(['=', ';']).next().unwrap_or_default().trim().eq_ignore_ascii_case("receipt")
        });
        Ok(Self {
            origin: Origin::from_request_parts(parts, state).await?,
            precondition: Precondition::from_request_parts(parts, state).await?,
            receipt,
        })
    }
}
