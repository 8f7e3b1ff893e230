//! Slow clients, many clients, last requests.
#![expect(clippy::unwrap_used, reason = "what fails in the frame of a test fails the test")]

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use consentd::http::limits::{ConcurrencyLimits, Group, retry_after};
use consentd::http::server::{Limits, Peer, Shutdown, oversize, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

const PLENTY: Duration = Duration::from_secs(10);

pub struct Server {
    pub address: SocketAddr,
    pub shutdown: CancellationToken,
    pub ended: JoinHandle<()>,
}

impl Server {
    pub async fn start(limits: Limits) -> Self {
        Self::start_with(limits, PLENTY).await
    }

    pub async fn start_with(limits: Limits, drain: Duration) -> Self {
        let any = "127.0.0.1:0".parse().unwrap();
        Self::start_at(any, router(), limits, Duration::ZERO, drain).await
    }

    pub async fn start_at(
        address: SocketAddr,
        router: Router,
        limits: Limits,
        delay: Duration,
        drain: Duration,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let stop = Shutdown { signal: shutdown.clone(), delay, drain };
        let ended = tokio::spawn(serve(listener, router, limits, stop));
        Self { address, shutdown, ended }
    }

    pub async fn connect(&self) -> Client {
        Client(TcpStream::connect(self.address).await.unwrap())
    }
}

pub struct Client(pub TcpStream);

impl Client {
    pub async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    pub async fn ask(&mut self, path: &str, headers: &str) -> String {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: test\r\n{headers}\r\n")).await;
        self.answer().await
    }

    /// One answer with a `Content-Length`, head and body.
    pub async fn answer(&mut self) -> String {
        let mut bytes = Vec::new();
        let complete = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            let (head, body) = text.split_once("\r\n\r\n")?;
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            (body.len() >= length?.parse().unwrap()).then_some(text.clone())
        };
        loop {
            if let Some(answer) = complete(&bytes) {
                return answer;
            }
            let read =
                timeout(PLENTY, self.0.read_buf(&mut bytes)).await.expect("an answer in time").unwrap();
            assert!(read > 0, "closed in the middle of {:?}", String::from_utf8_lossy(&bytes));
        }
    }

    /// How long it takes until the server closes the connection without another word.
    pub async fn closed_after(&mut self) -> Duration {
        let started = Instant::now();
        let read = timeout(PLENTY, self.0.read(&mut [0; 64])).await.expect("the server closes in time");
        assert!(matches!(read, Ok(0) | Err(_)), "nothing more is said");
        started.elapsed()
    }
}

pub fn router() -> Router {
    async fn refuse_oversize(request: Request, next: Next) -> Response {
        match oversize(request.uri(), request.headers()) {
            Some(status) => (status, "a problem").into_response(),
            None => next.run(request).await,
        }
    }
    let slow = || async {
        sleep(Duration::from_millis(400)).await;
        "late but whole"
    };
    Router::new()
        .route("/short", get(|| async { "short" }))
        .route("/peer", get(|Extension(Peer(peer)): Extension<Peer>| async move { peer.to_string() }))
        .route("/slow", get(slow))
        .route("/never", get(std::future::pending::<()>))
        .route("/endless", get(|| async { "x".repeat(64 << 20) }))
        .layer(from_fn(refuse_oversize))
}

pub fn limits() -> Limits {
    Limits {
        max_connections: 100,
        header: Duration::from_millis(300),
        idle: Duration::from_millis(900),
        stalled_write: Duration::from_millis(300),
    }
}

#[track_caller]
fn assert_about(waited: Duration, limit: Duration) {
    assert!(waited >= limit.mul_f32(0.9), "{waited:?} is before {limit:?}");
    assert!(waited < limit + Duration::from_millis(500), "{waited:?} is long after {limit:?}");
}

#[tokio::test]
async fn a_client_that_sends_nothing_is_cut_after_the_header_limit() {
    let server = Server::start(limits()).await;
    assert_about(server.connect().await.closed_after().await, limits().header);
}

#[tokio::test]
async fn a_client_that_drips_its_header_is_cut_after_the_header_limit() {
    let server = Server::start(limits()).await;
    let endless_head = format!("GET / HTTP/1.1\r\nx-endless: {}", "x".repeat(1000));
    // The second one is still guessed to speak HTTP/2 when its time is over.
    for head in [&endless_head, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let started = Instant::now();
        let (mut reader, mut writer) = server.connect().await.0.into_split();
        let head = head.to_owned();
        let dripping = tokio::spawn(async move {
            for byte in head.bytes() {
                if writer.write_all(&[byte]).await.is_err() {
                    return;
                }
                sleep(Duration::from_millis(50)).await;
            }
        });
        let read = timeout(PLENTY, reader.read(&mut [0; 64])).await.expect("the server closes in time");
        assert!(matches!(read, Ok(0) | Err(_)), "nothing is said");
        assert_about(started.elapsed(), limits().header);
        dripping.abort();
    }
}

#[tokio::test]
async fn an_idle_connection_is_kept_for_the_idle_limit_and_not_for_the_header_limit() {
    let server = Server::start(limits()).await;
    let mut client = server.connect().await;
    client.ask("/short", "").await;
    assert_about(client.closed_after().await, limits().idle);
}

#[tokio::test]
async fn a_second_request_on_a_kept_connection_has_the_header_limit_from_its_first_byte() {
    let server = Server::start(Limits { idle: PLENTY, ..limits() }).await;
    let mut client = server.connect().await;
    client.ask("/short", "").await;
    sleep(Duration::from_millis(500)).await;
    client.send("GET /short HT").await;
    assert_about(client.closed_after().await, limits().header);
}

#[tokio::test]
async fn a_slow_answer_is_not_cut_by_the_header_limit() {
    let server = Server::start(limits()).await;
    assert!(server.connect().await.ask("/slow", "").await.ends_with("late but whole"));
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_cut() {
    let server = Server::start(Limits { max_connections: 1, ..limits() }).await;
    let mut deaf = server.connect().await;
    deaf.send("GET /endless HTTP/1.1\r\nhost: test\r\n\r\n").await;
    sleep(Duration::from_millis(50)).await;
    // The only place comes free although the other client never hangs up.
    let started = Instant::now();
    assert!(server.connect().await.ask("/short", "").await.starts_with("HTTP/1.1 200"));
    assert_about(started.elapsed(), limits().stalled_write);
}

#[tokio::test]
async fn a_connection_too_many_waits_until_one_ends() {
    let server = Server::start(Limits { max_connections: 2, idle: PLENTY, ..limits() }).await;
    let (mut first, mut second) = (server.connect().await, server.connect().await);
    first.ask("/short", "").await;
    second.ask("/short", "").await;
    let mut third = server.connect().await;
    third.send("GET /short HTTP/1.1\r\nhost: test\r\n\r\n").await;
    timeout(Duration::from_millis(200), third.answer()).await.expect_err("no place is free");
    drop(first);
    assert!(third.answer().await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_shutdown_finishes_what_is_in_flight_and_accepts_nobody_else() {
    let server = Server::start(Limits { idle: PLENTY, ..limits() }).await;
    let (mut busy, mut idle) = (server.connect().await, server.connect().await);
    idle.ask("/short", "").await;
    busy.send("GET /slow HTTP/1.1\r\nhost: test\r\n\r\n").await;
    sleep(Duration::from_millis(100)).await;
    server.shutdown.cancel();
    let answer = busy.answer().await;
    assert!(answer.contains("connection: close") && answer.ends_with("late but whole"), "{answer}");
    let refused = TcpStream::connect(server.address).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    let answer = idle.ask("/short", "").await;
    assert!(answer.contains("connection: close") && answer.ends_with("short"), "{answer}");
    timeout(PLENTY, server.ended).await.expect("the server ends").unwrap();
}

#[tokio::test]
async fn a_shutdown_waits_no_longer_than_it_was_told() {
    let server = Server::start_with(limits(), Duration::from_millis(100)).await;
    let mut busy = server.connect().await;
    busy.send("GET /never HTTP/1.1\r\nhost: test\r\n\r\n").await;
    sleep(Duration::from_millis(50)).await;
    server.shutdown.cancel();
    timeout(PLENTY, server.ended).await.expect("the server ends").unwrap();
    busy.closed_after().await;
}

#[tokio::test]
async fn a_long_uri_and_a_large_header_are_refused_with_our_own_answer() {
    let server = Server::start(limits()).await;
    let ask = async |path: &str, headers: &str| server.connect().await.ask(path, headers).await;
    let long = |bytes: usize| format!("/short?{}", "x".repeat(bytes));
    let large = |bytes: usize| format!("x-large: {}\r\n", "x".repeat(bytes));
    assert!(ask(&long(8 * 1024 - "/short?".len()), "").await.starts_with("HTTP/1.1 200"));
    for bytes in [8 * 1024, 40 * 1024] {
        let answer = ask(&long(bytes), "").await;
        assert!(answer.starts_with("HTTP/1.1 414") && answer.ends_with("a problem"), "{answer}");
    }
    assert!(ask("/short", &large(16 * 1024 - 64)).await.starts_with("HTTP/1.1 200"));
    for bytes in [16 * 1024, 40 * 1024] {
        let answer = ask("/short", &large(bytes)).await;
        assert!(answer.starts_with("HTTP/1.1 431") && answer.ends_with("a problem"), "{answer}");
    }
    assert!(
        ask("/short", &large(70 * 1024)).await.starts_with("HTTP/1.1 431"),
        "hyper refuses what it will not hold"
    );
}

#[tokio::test]
async fn the_handler_knows_who_is_at_the_other_end() {
    let server = Server::start(limits()).await;
    let mut client = server.connect().await;
    let us = client.0.local_addr().unwrap().to_string();
    assert!(client.ask("/peer", "").await.ends_with(&us));
}

#[tokio::test]
async fn reads_and_writes_have_permits_of_their_own_and_wait_a_tenth_of_a_second() {
    let limits = ConcurrencyLimits::new(1);
    let enter = |group, is_withdrawal: bool| limits.enter(group, move || is_withdrawal);
    let reading = enter(Group::Read, false).await.expect("a free permit");
    let started = Instant::now();
    assert!(enter(Group::Read, false).await.is_none());
    assert_about(started.elapsed(), Duration::from_millis(100));
    let writing = enter(Group::Write, false).await.expect("reads do not starve writes");
    assert!(enter(Group::Write, false).await.is_none(), "the reserve is for withdrawals alone");
    assert!(enter(Group::Write, true).await.is_some(), "a withdrawal has the reserve");
    drop(writing);
    let next = tokio::spawn({
        let limits = limits.clone();
        async move { limits.enter(Group::Read, || false).await.is_some() }
    });
    sleep(Duration::from_millis(20)).await;
    let started = Instant::now();
    assert!(enter(Group::Read, false).await.is_none());
    assert!(started.elapsed() < Duration::from_millis(50), "no more wait than have a permit");
    drop(reading);
    assert!(next.await.unwrap(), "a waiting request gets the permit that comes free");
    let waits: Vec<u64> = (0..100).map(|_| retry_after()).collect();
    assert!(
        waits.iter().all(|seconds| (1..=3).contains(seconds))
            && waits.iter().any(|seconds| *seconds != waits[0])
    );
}
