//! The service that is loaded: where it is, whether it may be, and a connection to it.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use axum::http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use reqwest::Url;
use tokio::net::TcpStream;
use tokio::time::timeout;
use uuid::Uuid;

use super::Chance;
use super::mix::Kind;
use crate::cli::Failure;
use crate::cli::client::http_at;
use crate::config::ClientConfig;

/// Longer than the service lets a handler work.
const PATIENCE: Duration = Duration::from_secs(15);

/// Why there was no answer, in a word.
pub type Fault = &'static str;

#[derive(Debug)]
pub struct Target {
    service: Url,
    addresses: Vec<SocketAddr>,
    authorization: HeaderValue,
    host: HeaderValue,
    /// `None` where the service speaks plain HTTP.
    tls: Option<reqwest::Client>,
}

impl Target {
    /// Looks the name up once: what was found is what is connected to, and must be this machine unless the user says
    /// otherwise.
    pub async fn new(config: &ClientConfig, allow_remote: bool) -> Result<Self, Failure> {
        let service = &config.service.url;
        let host = service.host_str().unwrap_or_default();
        let port = service.port_or_known_default().unwrap_or_default();
        // The URL has brackets around an address of version 6.
        let name = host.trim_matches(['[', ']']);
        let addresses: Vec<_> = tokio::net::lookup_host((name, port))
            .await
            .map_err(|error| Failure::new(format!("cannot find {host}: {error}")))?
            .collect();
        if let Some(remote) = addresses.iter().find(|address| !address.ip().to_canonical().is_loopback())
            && !allow_remote
        {
            return Err(Failure::new(format!(
                "{service} is not on this machine (it is {}): a load slows down whoever uses that service; if it is yours \
                 to load, say so with --allow-remote",
                remote.ip()
            )));
        }
        let key = format!("Bearer {}", config.key()?.reveal());
        let mut authorization = HeaderValue::try_from(key)
            .map_err(|_| Failure::new("the API key has characters that no key has"))?;
        authorization.set_sensitive(true);
        let authority = service.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let host = HeaderValue::try_from(authority).expect("a URL's host can be a header");
        let tls = match service.scheme() {
            "http" => None,
            _ => Some(http_at(service, PATIENCE, &addresses)?),
        };
        Ok(Self { service: service.clone(), addresses, authorization, host, tls })
    }

    pub fn request(&self, kind: Kind, customer_id: Uuid, chance: &mut Chance) -> Request<Bytes> {
        let base = self.service.path().trim_end_matches('/');
        let uri = format!("{base}/v1/customers/{customer_id}/consent{}", kind.tail());
        let mut request = Request::new(Bytes::from(kind.body(chance)));
        *request.method_mut() = kind.method();
        *request.uri_mut() = uri.parse().expect("a path of ids and constants is well-formed");
        request.headers_mut().insert(AUTHORIZATION, self.authorization.clone());
        if !request.body().is_empty() {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        request
    }

    pub fn connection(&self) -> Connection {
        match &self.tls {
            None => {
                Connection::Plain { addresses: self.addresses.clone(), host: self.host.clone(), sender: None }
            }
            Some(client) => Connection::Tls { client: client.clone(), service: self.service.clone() },
        }
    }
}

/// One connection, kept as long as the service keeps it.
///
/// Without TLS by hyper itself, which takes the least time from the service on the same machine; with TLS by reqwest.
#[derive(Debug)]
pub enum Connection {
    Plain { addresses: Vec<SocketAddr>, host: HeaderValue, sender: Option<SendRequest<Full<Bytes>>> },
    Tls { client: reqwest::Client, service: Url },
}

impl Connection {
    /// The status of the answer, once the answer is here to its end.
    pub async fn send(&mut self, request: Request<Bytes>) -> Result<StatusCode, Fault> {
        let sent = timeout(PATIENCE, async {
            match self {
                Self::Plain { addresses, host, sender } => plainly(addresses, host, sender, request).await,
                Self::Tls { client, service } => by_tls(client, service, request).await,
            }
        });
        let answer = sent.await.unwrap_or(Err("timeout"));
        if let (Err(_), Self::Plain { sender, .. }) = (&answer, self) {
            // Whatever still comes would be the answer to another request.
            *sender = None;
        }
        answer
    }
}

async fn plainly(
    addresses: &[SocketAddr],
    host: &HeaderValue,
    kept: &mut Option<SendRequest<Full<Bytes>>>,
    mut request: Request<Bytes>,
) -> Result<StatusCode, Fault> {
    // The service may have closed a connection on which nothing was asked for a while.
    if let Some(sender) = kept
        && sender.ready().await.is_err()
    {
        *kept = None;
    }
    let sender = match kept {
        Some(sender) => sender,
        None => kept.insert(connect(addresses).await?),
    };
    request.headers_mut().insert(HOST, host.clone());
    let response = sender.send_request(request.map(Full::new)).await.map_err(|_| "broken off")?;
    let status = response.status();
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        frame.map_err(|_| "broken off")?;
    }
    Ok(status)
}

async fn by_tls(
    client: &reqwest::Client,
    service: &Url,
    request: Request<Bytes>,
) -> Result<StatusCode, Fault> {
    let url = service.join(&request.uri().to_string()).expect("a path joins any service");
    let (parts, body) = request.into_parts();
    let request = client.request(parts.method, url).headers(parts.headers).body(body);
    let response = request.send().await.map_err(|error| fault(&error))?;
    let status = response.status();
    response.bytes().await.map_err(|error| fault(&error))?;
    Ok(status)
}

fn fault(error: &reqwest::Error) -> Fault {
    if error.is_timeout() {
        "timeout"
    } else if error.is_connect() {
        "not connected"
    } else {
        "broken off"
    }
}

async fn connect(addresses: &[SocketAddr]) -> Result<SendRequest<Full<Bytes>>, Fault> {
    let stream = TcpStream::connect(addresses).await.map_err(|_| "not connected")?;
    // Where it cannot be set, requests are merely slower.
    let _ = stream.set_nodelay(true);
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|_| "not connected")?;
    // How it ends is seen by the request that it carries.
    tokio::spawn(connection);
    Ok(sender)
}
