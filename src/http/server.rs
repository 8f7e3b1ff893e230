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
use axum::http::header::CONNECTION;
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
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

use super::pace::{Pace, PacedStream, Verdict};

/// The largest URI that is looked at.
pub const MAX_URI_BYTES: usize = 8 * 1024;
/// The largest header section that is looked at.
pub const MAX_HEADER_BYTES: usize = 16 * 1024;
/// What hyper may hold of a request's head. Larger than our own limits, so that we answer with a problem document:
/// beyond this hyper answers 431 itself, with no body, and closes.
const BUFFER_BYTES: u32 = 64 * 1024;

/// Requests that an HTTP/2 connection may have open at once.
const MAX_STREAMS: u32 = 64;
/// Bytes of each answer that may be queued for an HTTP/2 connection.
const SEND_BUFFER_BYTES: usize = 32 * 1024;
/// Bytes of a request's body that an HTTP/2 client may send before they are read: as many as the largest body has.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// The same for all bodies on its connection.
const CONNECTION_WINDOW_BYTES: u32 = 512 * 1024;

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
    /// Time that a client may take for 16 KiB of an answer, or refuse to take any byte. Over HTTP/2 this holds for each
    /// answer, whatever else moves on the connection.
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

/// The end of a server.
#[derive(Clone, Debug)]
pub struct Shutdown {
    /// Canceled when the service stops: from then on each answer over HTTP/1 closes its connection, and HTTP/2 clients are
    /// asked to leave.
    pub signal: CancellationToken,
    /// Time for which connections are still accepted after that.
    pub delay: Duration,
    /// Time after that for requests to finish, and idle connections are kept: a client that gives them up sooner
    /// has no request cut.
    pub drain: Duration,
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

/// Serves HTTP/1 and HTTP/2 (with prior knowledge) until it is shut down.
pub async fn serve<S: Answers>(listener: TcpListener, service: S, limits: Limits, shutdown: Shutdown) {
    let server = Server { builder: Arc::new(builder()), service, limits, shutdown };
    let places = Arc::new(Semaphore::new(limits.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
    let mut connections = JoinSet::new();
    let mut closing = pin!(async {
        server.shutdown.signal.cancelled().await;
        sleep(server.shutdown.delay).await;
    });
    loop {
        tokio::select! {
            biased;
            () = &mut closing => break,
            Some(_ended) = connections.join_next() => {}
            (place, stream, peer) = next_connection(&listener, &places) => {
                let server = server.clone();
                connections.spawn(async move {
                    serve_connection(stream, Peer(peer), server).await;
                    drop(place);
                });
            }
        }
    }
    // Clients whose connections the kernel has accepted take them for ours.
    for (stream, peer) in queued(listener) {
        let (server, places) = (server.clone(), Arc::clone(&places));
        connections.spawn(async move {
            let place = places.acquire_owned().await;
            serve_connection(stream, Peer(peer), server).await;
            drop(place);
        });
    }
    let finished =
        timeout(server.shutdown.drain, async { while connections.join_next().await.is_some() {} }).await;
    if finished.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "requests in flight are cut: they did not end in time"
        );
        connections.shutdown().await;
    }
}

/// Takes the connections that wait to be accepted, and closes the listener. The system is asked rather than tokio, which
/// knows a new connection only after its next look.
fn queued(listener: TcpListener) -> Vec<(TcpStream, SocketAddr)> {
    let Ok(listener) = listener.into_std() else { return Vec::new() };
    let mut queued = Vec::new();
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
                queued.extend(stream.ok().map(|stream| (stream, peer)));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted || has_given_up(&error) => {}
            // There is none, or no more can be opened.
            Err(_) => return queued,
        }
    }
}

/// Settings and service for each connection.
#[derive(Clone)]
struct Server<S> {
    builder: Arc<auto::Builder<TokioExecutor>>,
    service: S,
    limits: Limits,
    shutdown: Shutdown,
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
        .max_header_list_size(BUFFER_BYTES)
        .max_concurrent_streams(MAX_STREAMS)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
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
            Err(error) if has_given_up(&error) => {}
            Err(error) => {
                tracing::error!(%error, "cannot accept connections");
                sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

fn has_given_up(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | ConnectionRefused)
}

async fn serve_connection<S: Answers>(stream: TcpStream, peer: Peer, server: Server<S>) {
    let Server { builder, service, limits, shutdown } = server;
    // Answers are written whole: nothing is gained by waiting for more. Where it cannot be set, they are merely slower.
    let _ = stream.set_nodelay(true);
    let pace = Arc::new(Pace::new(limits));
    let io = TokioIo::new(PacedStream::new(stream, Arc::clone(&pace)));
    let answering = service_fn(|request: Request<Incoming>| {
        let in_flight = pace.begin(request.version());
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        let answer = service.clone().oneshot(request);
        async move {
            in_flight.turn().await;
            let mut answer = answer.await?;
            if in_flight.is_last() {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(answer.map(|body| in_flight.until_the_end_of(body)))
        }
    });
    let mut connection = pin!(builder.serve_connection(io, answering));
    let mut stop = pin!(shutdown.signal.cancelled());
    let mut draining = shutdown.signal.is_cancelled();
    if draining {
        pace.drain(shutdown.drain);
    }
    let mut alarm = pin!(sleep_until(Instant::now() + limits.header));
    poll_fn(|cx| {
        loop {
            // How it ended matters to nobody: requests are logged by themselves, and clients hang up as they like.
            if connection.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            if !draining && stop.as_mut().poll(cx).is_ready() {
                draining = true;
                pace.drain(shutdown.drain);
            }
            if draining && pace.must_leave() {
                connection.as_mut().graceful_shutdown();
                continue;
            }
            // The alarm is only ever drawn nearer here: one that turns out too early is put off when it rings, so that
            // an ordinary request never touches the timer.
            if let Some(due) = pace.due().filter(|due| *due < alarm.deadline()) {
                alarm.as_mut().reset(due);
            }
            if alarm.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            match pace.verdict(Instant::now()) {
                Verdict::Wait(until) => alarm.as_mut().reset(until),
                // Politely: HTTP/2 tells the client, and a request that has just come in is still answered.
                Verdict::Leave => {
                    connection.as_mut().graceful_shutdown();
                    alarm.as_mut().reset(Instant::now() + limits.header);
                }
                Verdict::Cut => return Poll::Ready(()),
            }
        }
    })
    .await;
}
