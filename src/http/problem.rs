//! Every refusal as a problem document (RFC 9457): this file alone turns errors into status codes.

use axum::body::Body;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::extract::etag;
use super::limits::retry_after;
use super::observe::Cause;
use crate::error::{Error, Fault, MAX_LISTED};

/// One kind of problem; `docs/problems.md` has a section for each.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    pub slug: &'static str,
    pub status: StatusCode,
    pub title: &'static str,
}

macro_rules! kinds {
    ($($name:ident = $slug:literal, $status:ident, $title:literal;)*) => {
        $(pub const $name: Kind = Kind { slug: $slug, status: StatusCode::$status, title: $title };)*
        /// All kinds, by status.
        pub const KINDS: &[Kind] = &[$($name),*];
    };
}

kinds! {
    MALFORMED_JSON = "malformed-json", BAD_REQUEST, "The body is not JSON";
    INVALID_PARAMETER = "invalid-parameter", BAD_REQUEST, "A parameter is invalid";
    UNAUTHENTICATED = "unauthenticated", UNAUTHORIZED, "A valid API key is needed";
    FORBIDDEN = "forbidden", FORBIDDEN, "This API key may not do that";
    NOT_FOUND = "not-found", NOT_FOUND, "There is nothing at this path";
    UNKNOWN_CUSTOMER = "unknown-customer", NOT_FOUND, "There is no such customer";
    UNKNOWN_AUDIT_ENTRY = "unknown-audit-entry", NOT_FOUND, "There is no such audit entry";
    NOT_SEALED = "not-sealed", NOT_FOUND, "The entry is not in the log yet";
    UNKNOWN_API_KEY = "unknown-api-key", NOT_FOUND, "There is no such API key";
    UNKNOWN_CONSENT_LINK = "unknown-consent-link", NOT_FOUND, "There is no such link";
    METHOD_NOT_ALLOWED = "method-not-allowed", METHOD_NOT_ALLOWED, "This path does not have that method";
    REQUEST_TIMEOUT = "request-timeout", REQUEST_TIMEOUT, "The body came too slowly";
    CONFLICT = "conflict", CONFLICT, "It exists already, or is not in the state for this";
    IDEMPOTENCY_IN_PROGRESS = "idempotency-in-progress", CONFLICT, "The first request is still in progress";
    VERSION_MOVED = "version-moved", PRECONDITION_FAILED, "The consent is at another version";
    BODY_TOO_LARGE = "body-too-large", PAYLOAD_TOO_LARGE, "The body is too large";
    URI_TOO_LONG = "uri-too-long", URI_TOO_LONG, "The address is too long";
    UNSUPPORTED_MEDIA_TYPE = "unsupported-media-type", UNSUPPORTED_MEDIA_TYPE, "The body must be JSON";
    INVALID_BODY = "invalid-body", UNPROCESSABLE_ENTITY, "The body is invalid";
    IDEMPOTENCY_KEY_REUSED = "idempotency-key-reused", UNPROCESSABLE_ENTITY, "The Idempotency-Key belongs to another request";
    RATE_LIMITED = "rate-limited", TOO_MANY_REQUESTS, "Too many requests with this API key";
    HEADERS_TOO_LARGE = "headers-too-large", REQUEST_HEADER_FIELDS_TOO_LARGE, "The headers are too large";
    INTERNAL = "internal", INTERNAL_SERVER_ERROR, "Something went wrong on our side";
    DAMAGED_LOG = "damaged-log", INTERNAL_SERVER_ERROR, "The audit log in the database is damaged";
    UNAVAILABLE = "unavailable", SERVICE_UNAVAILABLE, "The service cannot answer right now";
    OVERLOADED = "overloaded", SERVICE_UNAVAILABLE, "The service has too much to do right now";
}

/// A refusal, before the request id is known.
#[derive(Clone, Debug)]
pub struct Problem {
    kind: &'static Kind,
    detail: String,
    faults: Vec<Fault>,
    headers: Vec<(HeaderName, HeaderValue)>,
    cause: Option<String>,
}

/// A refusal (RFC 9457): which kind, and what to do.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemDocument<'a> {
    /// The kind of problem: a page which this service serves.
    #[serde(rename = "type")]
    #[schema(format = "uri-reference", example = "/problems/unknown-customer")]
    kind: String,
    /// The kind of problem, in words.
    #[schema(example = "There is no such customer")]
    title: &'a str,
    /// The status of the answer.
    #[schema(minimum = 400, maximum = 599, example = 404)]
    status: u16,
    /// What was wrong with this request, and what to do.
    detail: &'a str,
    /// The request id, as in `X-Request-Id` and in the service's log.
    #[schema(example = "01890a5d-ac96-774b-bcce-b302099a8057")]
    instance: &'a str,
    /// For invalid input: its errors, up to 50 of them.
    #[serde(skip_serializing_if = "<[Fault]>::is_empty")]
    #[schema(required = false)]
    errors: &'a [Fault],
}

impl Problem {
    pub fn new(kind: &'static Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), faults: Vec::new(), headers: Vec::new(), cause: None }
    }

    pub fn faults(kind: &'static Kind, mut faults: Vec<Fault>) -> Self {
        let detail = match faults.as_slice() {
            [only] => only.detail.clone(),
            several if several.len() <= MAX_LISTED => {
                format!("{} things are wrong: see errors", several.len())
            }
            _ => format!("more than {MAX_LISTED} things are wrong: errors lists the first {MAX_LISTED}"),
        };
        faults.truncate(MAX_LISTED);
        Self { faults, ..Self::new(kind, detail) }
    }

    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: impl TryInto<HeaderValue>) -> Self {
        if let Ok(value) = value.try_into() {
            self.headers.push((name, value));
        }
        self
    }

    pub fn unauthenticated(detail: &'static str) -> Self {
        Self::new(&UNAUTHENTICATED, detail).with_header(WWW_AUTHENTICATE, "Bearer")
    }

    pub fn overloaded() -> Self {
        Self::new(&OVERLOADED, "try again after the time that Retry-After gives").with_retry_after()
    }

    /// The request line or the headers are larger than is read.
    pub fn oversize(status: StatusCode) -> Self {
        if status == StatusCode::URI_TOO_LONG {
            Self::new(&URI_TOO_LONG, "an address may have 8 KiB")
        } else {
            Self::new(&HEADERS_TOO_LARGE, "the headers may have 16 KiB in all")
        }
    }

    /// `Allow` is the router's to say.
    pub fn method_not_allowed() -> Self {
        Self::new(&METHOD_NOT_ALLOWED, "use one of the methods that Allow gives")
    }

    pub fn rate_limited(wait: i64) -> Self {
        Self::new(&RATE_LIMITED, format!("this API key may call again in {wait} seconds"))
            .with_header(RETRY_AFTER, wait)
    }

    fn with_retry_after(self) -> Self {
        self.with_header(RETRY_AFTER, retry_after())
    }

    pub fn kind(&self) -> &'static Kind {
        self.kind
    }

    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// All that is wrong with the input.
    pub fn all_faults(&self) -> &[Fault] {
        &self.faults
    }

    /// Puts everything but the document into the answer that tells of this problem in another form.
    pub fn note(self, response: &mut Response) {
        response.headers_mut().extend(self.headers);
        if let Some(cause) = self.cause {
            response.extensions_mut().insert(Cause(cause));
        }
    }

    /// Writes the document into the answer that carries this problem, once the request id is known.
    pub fn write(self, response: &mut Response, request_id: &str) {
        let document = ProblemDocument {
            kind: format!("/problems/{}", self.kind.slug),
            title: self.kind.title,
            status: self.kind.status.as_u16(),
            detail: &self.detail,
            instance: request_id,
            errors: &self.faults,
        };
        *response.body_mut() = Body::from(serde_json::to_vec(&document).unwrap_or_default());
        let headers = response.headers_mut();
        // That of the empty answer.
        headers.remove(CONTENT_LENGTH);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        self.note(response);
    }
}

/// The problem rides as an extension to `http::finish`, which knows the request id and writes the body.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.kind.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let detail = error.to_string();
        match error {
            Error::InvalidBody(faults) => Self::faults(&INVALID_BODY, faults),
            Error::InvalidParameters(faults) => Self::faults(&INVALID_PARAMETER, faults),
            Error::Unauthenticated(detail) => Self::unauthenticated(detail),
            Error::Forbidden(_) => Self::new(&FORBIDDEN, detail),
            Error::UnknownCustomer => {
                Self::new(&UNKNOWN_CUSTOMER, "check the customer_id, or create the customer first")
            }
            Error::UnknownAuditEntry => Self::new(&UNKNOWN_AUDIT_ENTRY, "check the audit_id"),
            Error::UnknownApiKey => Self::new(&UNKNOWN_API_KEY, "check the key_id"),
            Error::UnknownConsentLink => Self::new(&UNKNOWN_CONSENT_LINK, "check the link_id"),
            Error::VersionMoved { current } => Self::new(
                &VERSION_MOVED,
                format!("the consent is at version {current}: read it again, and decide on what stands now"),
            )
            .with_header(ETAG, etag(current)),
            Error::VersionAhead { current } => Self::new(
                &VERSION_MOVED,
                format!("the consent is at version {current}: ask with the min_version that a write has answered"),
            )
            .with_header(ETAG, etag(current)),
            Error::Conflict(_) => Self::new(&CONFLICT, detail),
            Error::IdempotencyKeyReused => Self::new(
                &IDEMPOTENCY_KEY_REUSED,
                "this Idempotency-Key was used with another request: use a new one for a new request",
            ),
            Error::IdempotencyInProgress => Self::new(
                &IDEMPOTENCY_IN_PROGRESS,
                "the first request with this Idempotency-Key is still in progress: try again in a moment",
            )
            .with_header(RETRY_AFTER, 1_u16),
            Error::Overloaded => Self::overloaded(),
            Error::Unavailable(cause) => Self {
                cause: Some(cause),
                ..Self::new(
                    &UNAVAILABLE,
                    "the database does not answer: nothing was changed unless a retry says so; try again after the \
                     time that Retry-After gives",
                )
                .with_retry_after()
            },
            Error::ClockDiffers => Self::new(
                &UNAVAILABLE,
                "the clock of this replica differs from the database's by more than 60 seconds: it accepts withdrawals, and \
                 nothing that allows more than before; try again after the time that Retry-After gives",
            )
            .with_retry_after(),
            Error::NotSealed => Self::new(
                &NOT_SEALED,
                "the entry is not sealed yet, which takes about a second: try again after the time that Retry-After gives",
            )
            .with_header(RETRY_AFTER, 1_u16),
            Error::DamagedLog(cause) => Self {
                cause: Some(cause),
                ..Self::new(&DAMAGED_LOG, "run `consentd audit verify`: it says what was changed, and where")
            },
            Error::UnusableRow(cause) | Error::Internal(cause) => Self {
                cause: Some(cause),
                ..Self::new(&INTERNAL, "it is in the service's log under this request id")
            },
        }
    }
}

/// The section of `docs/problems.md` which tells of a kind.
pub fn documentation(slug: &str) -> Option<&'static str> {
    include_str!("../../docs/problems.md").split("\n## ").skip(1).find_map(|section| {
        section.split_once('\n').filter(|(name, _)| name.trim() == slug).map(|(_, text)| text.trim())
    })
}
