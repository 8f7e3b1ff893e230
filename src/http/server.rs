//! The accept loop: how many may connect, how long a slow client is waited for, and how the last requests end.
//!
//! hyper knows one timeout for a request's head, and starts it when a connection begins to wait for one: it would cut
//! an idle kept-alive connection as early as a slow head, and does not run while the protocol version is being
//! detected. So it is off here, and a `Pace` watches the bytes and the requests of each connection instead.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt as _};

use super::pace::{Pace, PacedStream};

/// The largest URI that is looked at.
pub const MAX_URI_BYTES: usize = 8 * 1024;
/// The largest header section that is looked at.
pub const MAX_HEADER_BYTES: usize = 16 * 1024;
/// What hyper may hold of a request's head. Larger than our own limits, so that we answer with a problem document:
/// beyond this hyper answers 431 itself, with no body, and closes.
const BUFFER_BYTES: u32 = 64 * 1024;

/// Out of file descriptors: trying again at once would only spin. A connection that ends in between ends the wait.
const ACCEPT_BACKOFF: Duration = Duration::from_secs(1);

/// Who is at the other end of the connection: a client, or a proxy. A request extension.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// What a client may ask of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections that may be open at once; the next ones wait in the kernel's queue.
    pub max_connections: usize,
    /// From the connection, or from the first byte of a further request, to the end of its head.
    pub header: Duration,
    /// Between the end of an answer and the first byte of the next request. (Over HTTP/2, where bytes also flow
    /// between requests, up to its next head; what is noticed between two looks may take up to twice as long.)
    pub idle: Duration,
    /// How long a client may refuse to take any byte of an answer.
    pub stalled_write: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            header: Duration::from_secs(5),
            idle: Duration::from_mins(1),
            stalled_write: Duration::from_secs(30),
        }
    }
}

/// The status to refuse a request with whose head is larger than anyone honestly needs.
pub fn oversize(uri: &Uri, headers: &HeaderMap) -> Option<StatusCode> {
    let uri_bytes = uri.path().len() + uri.query().map_or(0, |query| query.len() + 1);
    if uri_bytes > MAX_URI_BYTES {
        return Some(StatusCode::URI_TOO_LONG);
    }
    // As on the wire of HTTP/1: `name: value` and the line's end.
    let header_bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    (header_bytes > MAX_HEADER_BYTES).then_some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
}

/// What answers requests: a router, say.
pub trait Answers:
    Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Answers for S where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// Serves HTTP/1 and HTTP/2 (with prior knowledge) until `shutdown`, then lets what is in flight finish within `drain`.
pub async fn serve<S: Answers>(
    listener: TcpListener,
    service: S,
    limits: Limits,
    shutdown: CancellationToken,
    drain: Duration,
) {
    let builder = Arc::new(builder());
    let places = Arc::new(Semaphore::new(limits.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(_ended) = connections.join_next() => {}
            (place, stream, peer) = next_connection(&listener, &places) => {
                let (builder, service, shutdown) = (Arc::clone(&builder), service.clone(), shutdown.child_token());
                connections.spawn(async move {
                    serve_connection(stream, Peer(peer), &builder, service, limits, shutdown).await;
                    drop(place);
                });
            }
        }
    }
    drop(listener);
    let finished = timeout(drain, async { while connections.join_next().await.is_some() {} }).await;
    if finished.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "requests in flight are cut: they did not end in time"
        );
        connections.shutdown().await;
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(BUFFER_BYTES as usize);
    // Pings find peers which are gone without having said so; an idle connection is closed by its `Pace`.
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .max_header_list_size(BUFFER_BYTES);
    builder
}

async fn next_connection(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> (OwnedSemaphorePermit, TcpStream, SocketAddr) {
    let place = Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return (place, stream, peer),
            // The client gave up while it waited in the queue: its own affair.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::ConnectionReset
                        | io::ErrorKind::ConnectionRefused
                ) => {}
            Err(error) => {
                tracing::error!(%error, "cannot accept connections");
                sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

async fn serve_connection<S: Answers>(
    stream: TcpStream,
    peer: Peer,
    builder: &auto::Builder<TokioExecutor>,
    service: S,
    limits: Limits,
    shutdown: CancellationToken,
) {
    // Answers are written whole: nothing is gained by waiting for more. Where it cannot be set, they are merely slower.
    let _ = stream.set_nodelay(true);
    let pace = Arc::new(Pace::new(limits));
    let io = TokioIo::new(PacedStream::new(stream, Arc::clone(&pace)));
    let answering = service_fn(|request: Request<Incoming>| {
        let in_flight = pace.begin(request.version());
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        let answer = service.clone().oneshot(request);
        async move { Ok::<_, Infallible>(answer.await?.map(|body| in_flight.until_the_end_of(body))) }
    });
    let mut connection = pin!(builder.serve_connection(io, answering));
    let mut stop = pin!(shutdown.cancelled());
    let mut stopping = false;
    let mut alarm = pin!(sleep_until(Instant::now() + limits.header));
    poll_fn(|cx| {
        loop {
            // How it ended matters to nobody: requests are logged by themselves, and clients hang up as they like.
            if connection.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            if !stopping && stop.as_mut().poll(cx).is_ready() {
                stopping = true;
                connection.as_mut().graceful_shutdown();
                continue;
            }
            // The alarm is only ever drawn nearer here: one that turns out too early is put off when it rings, so that
            // an ordinary request never touches the timer.
            let due = pace.due();
            if let Some(due) = due.filter(|due| *due < alarm.deadline()) {
                alarm.as_mut().reset(due);
            }
            if alarm.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            match due {
                None => alarm.as_mut().reset(now + limits.idle),
                Some(due) if due > now => alarm.as_mut().reset(due),
                // Politely: HTTP/2 tells the client, and a request that has just come in is still answered.
                Some(_) if !stopping && pace.take_leave() => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                Some(_) => return Poll::Ready(()),
            }
        }
    })
    .await;
}
