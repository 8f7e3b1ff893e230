//! One look at each request: its id, its log line, its metrics, its trace.
//!
//! Nothing here reads a path, a query, a header's value (but the request id and the trace) or a body: they hold
//! personal data. A request is known by its route's template.

use std::cell::RefCell;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::response::Response;
use opentelemetry::propagation::Extractor;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore as _, SeedableRng as _};
use tracing::field::Empty;
use tracing::{Instrument, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use uuid::{NoContext, Timestamp, Uuid};

use crate::domain::Principal;
use crate::telemetry::{self, ActiveRequest};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const LONGEST_ID: usize = 128;

/// Asked for every inference: a line for each would cost more than the answer. They are in the metrics.
const ON_HOT_PATH: [&str; 2] = ["/v1/customers/{customer_id}/consent/permissions", "/v1/permissions/check"];

/// What this request is called, in the answer, the log and the audit entry. A request extension.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestId {
    Ours(Uuid),
    /// The client's own, if it is sane.
    Theirs(HeaderValue),
}

/// Who called: the shown part of the key (`vla_live_a1b2`) is logged. An extension of the answer.
#[derive(Clone, Debug)]
pub struct CallerName(pub Arc<Principal>);

/// Why an answer is a 5xx: for the log alone, never for the client. An extension of the answer.
#[derive(Clone, Debug)]
pub struct Cause(pub String);

/// The template of the path that a request was found by.
#[derive(Clone, Debug)]
pub enum Template {
    Known(&'static str),
    Matched(MatchedPath),
}

impl Template {
    /// As the router found it.
    pub fn of(request: &Request) -> Self {
        request.extensions().get::<MatchedPath>().cloned().map_or(Self::Known("unmatched"), Self::Matched)
    }

    pub fn as_str(&self) -> &str {
        match self {
            Self::Known(template) => template,
            Self::Matched(path) => path.as_str(),
        }
    }
}

/// The outermost of all, around what catches panics too, once it is known by which route the request was found.
pub async fn observe<F: Future<Output = Response>>(
    mut request: Request,
    route: Template,
    next: impl FnOnce(Request) -> F,
) -> Response {
    let id = RequestId::of(request.headers());
    let mut line = Line {
        started: Instant::now(),
        method: request.method().clone(),
        route,
        id: id.clone(),
        answered: false,
        _active: ActiveRequest::new(request.method()),
    };
    let span = line.span(request.headers());
    request.extensions_mut().insert(id);
    let next = pin!(next(request));
    let mut response = next.instrument(span.clone()).await;
    line.answered(&response, &span);
    response.headers_mut().insert(REQUEST_ID, line.id.header());
    response
}

impl RequestId {
    fn of(headers: &HeaderMap) -> Self {
        let sane = |id: &&HeaderValue| {
            (1..=LONGEST_ID).contains(&id.len())
                && id.as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(byte))
        };
        headers
            .get(REQUEST_ID)
            .filter(sane)
            .map_or_else(|| Self::Ours(new_id()), |id| Self::Theirs(id.clone()))
    }

    fn header(&self) -> HeaderValue {
        match self {
            Self::Ours(id) => HeaderValue::from_str(id.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
                .expect("hexadecimal digits and hyphens are visible ASCII"),
            Self::Theirs(id) => id.clone(),
        }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ours(id) => id.fmt(f),
            Self::Theirs(id) => f.write_str(id.to_str().unwrap_or_default()),
        }
    }
}

thread_local! {
    static RANDOM: RefCell<Xoshiro256PlusPlus> = RefCell::new(seeded());
}

/// A UUID of version 7. It names a request and is no secret: asking the system for randomness each time costs more than
/// looking up a consent.
fn new_id() -> Uuid {
    let mut random = [0; 10];
    RANDOM.with_borrow_mut(|source| source.fill_bytes(&mut random));
    let (seconds, nanoseconds) = Timestamp::now(NoContext).to_unix();
    let milliseconds = seconds * 1000 + u64::from(nanoseconds / 1_000_000);
    uuid::Builder::from_unix_timestamp_millis(milliseconds, &random).into_uuid()
}

fn seeded() -> Xoshiro256PlusPlus {
    // Without randomness ids may repeat those of another thread, which merely makes a log harder to read.
    Xoshiro256PlusPlus::seed_from_u64(getrandom::u64().unwrap_or_default())
}

/// The log line of one request. A request whose client hangs up is dropped where it stands, and says so by itself.
struct Line {
    started: Instant,
    method: Method,
    route: Template,
    id: RequestId,
    answered: bool,
    _active: ActiveRequest,
}

impl Line {
    fn route(&self) -> &str {
        self.route.as_str()
    }

    fn span(&self, headers: &HeaderMap) -> Span {
        if !telemetry::traced() {
            return Span::none();
        }
        let span = tracing::info_span!(
            "request",
            otel.name = %format_args!("{} {}", self.method, self.route()),
            otel.kind = "server",
            otel.status_code = Empty,
            http.request.method = self.method.as_str(),
            http.route = self.route(),
            http.response.status_code = Empty,
            request_id = self.id.to_string(),
        );
        let caller = opentelemetry::global::get_text_map_propagator(|w3c| w3c.extract(&Carrier(headers)));
        // Fails only where the span is not among those that are sent.
        let _ = span.set_parent(caller);
        span
    }

    fn answered(&mut self, response: &Response, span: &Span) {
        self.answered = true;
        let took = self.started.elapsed();
        let (status, extensions) = (response.status(), response.extensions());
        let (method, route) = (self.method.as_str(), self.route());
        let duration_ms = milliseconds(took);
        let key = extensions.get::<CallerName>().map(|name| name.0.key_prefix.as_str());
        let cause = extensions.get::<Cause>().map(|cause| cause.0.as_str());
        telemetry::request_answered(&self.method, route, status, took);
        let status_code = status.as_u16();
        span.record("http.response.status_code", status_code);
        macro_rules! line {
            ($level:ident $(, $more:ident)?) => {
                tracing::$level!(
                    method, route, status = status_code, duration_ms, request_id = self.id.to_string(), key,
                    $($more,)?
                    "request"
                )
            };
        }
        if status.is_server_error() {
            span.record("otel.status_code", "ERROR");
            line!(error, cause);
        } else if status.is_success() && ON_HOT_PATH.contains(&route) {
            line!(debug);
        } else {
            line!(info);
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.answered || std::thread::panicking() {
            return;
        }
        let (method, route) = (self.method.as_str(), self.route());
        let duration_ms = milliseconds(self.started.elapsed());
        tracing::info!(
            method,
            route,
            duration_ms,
            request_id = self.id.to_string(),
            "request given up by its client"
        );
    }
}

/// To the microsecond.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// Where the caller's `traceparent` is read from.
struct Carrier<'a>(&'a HeaderMap);

impl Extractor for Carrier<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}
