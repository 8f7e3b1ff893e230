//! Calls a running service over HTTP.

use std::error::Error as _;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Failure;
use super::output::printable;
use crate::config::{ClientConfig, Secret};
use crate::outbound::{self, cause};

/// The most that the API puts on one page of a list.
pub const LARGEST_PAGE: u32 = 1000;

#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    service: Url,
    key: Secret,
}

/// A list as the API answers it, several pages put together. The items stay as the service wrote them.
#[derive(Debug, Deserialize, Serialize)]
pub struct Page {
    pub items: Vec<Box<RawValue>>,
    pub next_cursor: Option<String>,
}

impl Page {
    pub fn parse<T: DeserializeOwned>(&self) -> Result<Vec<T>, Failure> {
        self.items.iter().map(|item| parse(item.get())).collect()
    }
}

impl Client {
    pub fn new(config: &ClientConfig) -> Result<Self, Failure> {
        Ok(Self {
            http: http(&config.service.url, Duration::from_mins(1))?,
            service: config.service.url.clone(),
            key: config.key()?,
        })
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, address(&self.service, path)).bearer_auth(self.key.reveal())
    }

    /// The answer, if it is what was asked for; else what the service says against it.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let response = request.send().await.map_err(|error| unreachable(&self.service, error))?;
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(refusal(&self.service, response).await)
        }
    }

    /// The body of the answer.
    pub async fn text(&self, request: RequestBuilder) -> Result<String, Failure> {
        let response = self.send(request).await?;
        response.text().await.map_err(|error| Failure::new(format!("the answer broke off: {}", cause(error))))
    }

    /// The first `limit` items of a list, by as many requests as it takes.
    pub async fn list(&self, path: &str, filters: &impl Serialize, limit: u32) -> Result<Page, Failure> {
        let mut all = Page { items: Vec::new(), next_cursor: None };
        let mut missing = limit;
        loop {
            let mut request =
                self.request(Method::GET, path).query(filters).query(&[("limit", missing.min(LARGEST_PAGE))]);
            if let Some(cursor) = &all.next_cursor {
                request = request.query(&[("cursor", cursor)]);
            }
            let page: Page = parse(&self.text(request).await?)?;
            missing = missing.saturating_sub(u32::try_from(page.items.len()).unwrap_or(u32::MAX));
            all.items.extend(page.items);
            all.next_cursor = page.next_cursor;
            if missing == 0 || all.next_cursor.is_none() {
                return Ok(all);
            }
        }
    }
}

/// An HTTP client for this service.
pub fn http(service: &Url, patience: Duration) -> Result<reqwest::Client, Failure> {
    http_at(service, patience, &[])
}

/// The same, for a service whose name was looked up already.
pub fn http_at(
    service: &Url,
    patience: Duration,
    addresses: &[SocketAddr],
) -> Result<reqwest::Client, Failure> {
    let mut builder = outbound::client()
        // The key goes to the service and to nobody else: no proxy from the environment.
        .no_proxy()
        .connect_timeout(Duration::from_secs(5).min(patience))
        .read_timeout(patience);
    if service.scheme() == "http" {
        // Without this the client reads the system's certificates even where none is needed, and fails where a small
        // image has none.
        builder = builder.tls_certs_only([]);
    }
    if let Some(name) = service.domain().filter(|_| !addresses.is_empty()) {
        builder = builder.resolve_to_addrs(name, addresses);
    }
    builder.build().map_err(|error| Failure::new(format!("cannot set up TLS: {}", cause(error))))
}

/// The address of a path of the service, which may itself live below a path.
pub fn address(service: &Url, path: &str) -> Url {
    let mut url = service.clone();
    url.set_path(&format!("{}{path}", service.path().trim_end_matches('/')));
    url
}

pub fn parse<T: DeserializeOwned>(json: &str) -> Result<T, Failure> {
    serde_json::from_str(json).map_err(|error| {
        Failure::new(format!(
            "the service's answer is not understood ({error}): is it another version than this program, {}?",
            env!("CARGO_PKG_VERSION")
        ))
    })
}

/// Why there was no answer, and what to do.
pub fn unreachable(service: &Url, error: reqwest::Error) -> Failure {
    let refused = causes(&error)
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::ConnectionRefused);
    Failure::new(if refused {
        format!(
            "nothing listens at {service}: start the service with `consentd serve`, or say where it runs with --url URL"
        )
    } else if error.is_timeout() {
        format!("no answer from {service} in time")
    } else {
        format!("cannot reach {service}: {}", cause(error))
    })
}

fn causes<'e>(error: &'e reqwest::Error) -> impl Iterator<Item = &'e (dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |&error| error.source())
}

/// An RFC 9457 problem document.
#[derive(Deserialize)]
struct Problem {
    title: String,
    detail: Option<String>,
    instance: Option<String>,
    #[serde(default)]
    errors: Vec<ProblemFault>,
}

#[derive(Deserialize)]
struct ProblemFault {
    pointer: Option<String>,
    parameter: Option<String>,
    detail: String,
}

async fn refusal(service: &Url, response: Response) -> Failure {
    let status = response.status();
    let retry_after = header(&response, RETRY_AFTER.as_str());
    let is_problem = header(&response, CONTENT_TYPE.as_str())
        .is_some_and(|media_type| media_type.starts_with("application/problem+json"));
    let body = response.text().await.unwrap_or_default();
    Failure::new(match serde_json::from_str::<Problem>(&body) {
        Ok(problem) if is_problem => message(status, &problem, retry_after.as_deref()),
        _ => format!("{service} answered {status}, and not as consentd does: is this its address?"),
    })
}

fn header(response: &Response, name: &str) -> Option<String> {
    let value = response.headers().get(name)?.to_str().ok()?;
    Some(value.to_owned())
}

fn message(status: StatusCode, problem: &Problem, retry_after: Option<&str>) -> String {
    let mut text = format!("{} ({})", printable(&problem.title), status.as_u16());
    // Where one thing is wrong, the service says it in both places.
    let told =
        |detail: &str| detail == problem.title || problem.errors.iter().any(|fault| fault.detail == detail);
    if let Some(detail) = problem.detail.as_deref().filter(|detail| !told(detail)) {
        let _ = write!(text, ": {}", printable(detail));
    }
    for fault in &problem.errors {
        let place = fault.pointer.as_deref().or(fault.parameter.as_deref());
        let place = printable(place.unwrap_or_default());
        let _ = match place.as_str() {
            "" => write!(text, "\n  {}", printable(&fault.detail)),
            place => write!(text, "\n  {place}: {}", printable(&fault.detail)),
        };
    }
    if let Some(seconds) = retry_after {
        let _ = write!(text, "\n  try again in {} s", printable(seconds));
    }
    if let Some(request_id) = &problem.instance {
        let _ = write!(text, "\n  request id: {}", printable(request_id));
    }
    text
}
