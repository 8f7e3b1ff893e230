//! The way of a request to its handler: its body is read, then a permit is taken, then the handler runs.
//!
//! The order matters. A client may take ten seconds to send its body. If it held a permit meanwhile, a few hundred clients
//! that send a head and no body would stop the service for everybody else.

use std::pin::pin;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::Method;
use axum::response::{IntoResponse as _, Response};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;

use super::limits::Group;
use super::problem::{BODY_TOO_LARGE, MALFORMED_JSON, Problem, REQUEST_TIMEOUT};
use super::shares::{Bounds, Owner, Share, Shares};
use super::{AppState, json};
use crate::error::Error;
use crate::telemetry;

/// The time limit of a handler.
const HANDLER_TIMEOUT: Duration = Duration::from_secs(10);
/// The time limit for a body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest body of any request, in bytes. Most requests accept less: their extractors say how much.
pub const MAX_BODY: usize = 256 * 1024;
/// The part of a body that is not counted. It is smaller than the largest head, and enough for every request that changes a
/// consent: a withdrawal never depends on the number of large bodies that are arriving.
const UNCOUNTED: usize = 4 * 1024;

/// The bounds of the memory for bodies, in bytes.
pub const BODIES: Bounds =
    Bounds { total: 64 * 1024 * 1024, others: 48 * 1024 * 1024, each: 8 * 1024 * 1024 };

/// The place of a request among the limits.
#[derive(Clone, Copy, Debug)]
pub struct Admission<'a> {
    pub group: Group,
    pub owner: Owner,
    /// The template of the path.
    pub template: &'a str,
}

impl Admission<'_> {
    /// Reads the request, and runs its handler with a permit and within its time.
    pub async fn run<F: Future<Output = Response>>(
        self,
        state: &AppState,
        mut request: Request,
        next: impl FnOnce(Request) -> F,
    ) -> Response {
        let mut whole = None;
        if !is_read(request.method()) && !request.body().is_end_stream() {
            // Boxed, so that the reads, which have no body, do not carry its size along.
            let body = std::mem::take(request.body_mut());
            match Box::pin(receive(&state.bodies, self.owner, body)).await {
                Ok((bytes, share)) => {
                    *request.body_mut() = Body::from(bytes.clone());
                    whole = Some((bytes, share));
                }
                Err(problem) => return problem.into_response(),
            }
        }
        let body = whole.as_ref().map(|(bytes, _)| bytes.as_ref()).unwrap_or_default();
        let method = request.method().clone();
        let is_withdrawal = || is_withdrawal(&method, self.template, body);
        let Some(_permit) = state.concurrency.enter(self.group, is_withdrawal).await else {
            return Problem::overloaded().into_response();
        };
        // Pinned where it is: a future that is passed on is copied whole.
        let next = pin!(next(request));
        in_time(next).await.unwrap_or_else(|late| Problem::from(late).into_response())
    }
}

/// The outcome of work that may take no longer than a handler.
pub async fn in_time<T>(work: impl Future<Output = T>) -> Result<T, Error> {
    let late = |_| Error::Unavailable("the handler took too long".to_owned());
    tokio::time::timeout(HANDLER_TIMEOUT, work).await.map_err(late)
}

/// Whether a request reads alone: its body, if it has one, is never looked at.
pub fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// The whole body, and the share of memory that it takes.
async fn receive(bodies: &Shares, owner: Owner, body: Body) -> Result<(Bytes, Share), Problem> {
    let too_large = || {
        let detail = format!("at most {} bytes are accepted, of permission checks {MAX_BODY}", MAX_BODY / 4);
        Problem::new(&BODY_TOO_LARGE, detail)
    };
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(too_large());
    }
    let mut share = bodies.empty(owner);
    let (mut first, mut rest, mut size) = (Bytes::new(), Vec::new(), 0);
    let arriving = async {
        let mut body = pin!(body);
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|_| Problem::new(&MALFORMED_JSON, "the body ended before it was complete"))?;
            let Ok(part) = frame.into_data() else { continue };
            let counted = |size: usize| size.saturating_sub(UNCOUNTED);
            let grown = counted(size + part.len()) - counted(size);
            size += part.len();
            if size > MAX_BODY {
                return Err(too_large());
            }
            if !share.grow(grown) {
                telemetry::refused_for_overload("body");
                return Err(Problem::overloaded());
            }
            // Nearly all bodies come in one part, which then stays where it was received.
            if first.is_empty() && rest.is_empty() {
                first = part;
            } else {
                if rest.is_empty() {
                    rest.extend_from_slice(&first);
                }
                rest.extend_from_slice(&part);
            }
        }
        Ok(())
    };
    tokio::time::timeout(BODY_TIMEOUT, arriving).await.unwrap_or_else(|_| {
        let detail = format!("the body did not arrive within {} seconds", BODY_TIMEOUT.as_secs());
        Err(Problem::new(&REQUEST_TIMEOUT, detail))
    })?;
    Ok((if rest.is_empty() { first } else { rest.into() }, share))
}

/// Whether a request withdraws a consent. Checked only where a limit is reached: it parses the body a second time.
pub fn is_withdrawal(method: &Method, template: &str, body: &[u8]) -> bool {
    match (method, template) {
        (&Method::DELETE, "/v1/customers/{customer_id}/consent")
        | (&Method::POST, "/my/consent/withdraw" | "/console/customers/{customer_id}/withdrawal") => true,
        (&Method::PUT, "/v1/customers/{customer_id}/consent") => {
            json::parse(body).is_ok_and(|decision| decision["consent_tier"] == "none")
        }
        (&Method::POST, "/my/consent/choices") => {
            form_urlencoded::parse(body).any(|(name, value)| name == "tier" && value == "none")
        }
        _ => false,
    }
}
