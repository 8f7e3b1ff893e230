//! Clients that use HTTP/2 to hold what they do not take, and clients that stay while the service stops.
#![expect(clippy::unwrap_used, reason = "what fails in the frame of a test fails the test")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, Request, Response, StatusCode};
use axum::routing::get;
use consentd::http::server::Limits;
use h2::RecvStream;
use h2::client::{Builder, ResponseFuture, SendRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::server::{Server, limits, router};

const PLENTY: Duration = Duration::from_secs(10);

fn patient() -> Limits {
    Limits { header: Duration::from_secs(1), stalled_write: Duration::from_secs(1), idle: PLENTY, ..limits() }
}

/// An HTTP/2 client that says how much of each answer it takes.
struct Multiplexed {
    requests: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

impl Multiplexed {
    async fn connect(address: SocketAddr, window: u32) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (requests, connection) =
            Builder::new().initial_window_size(window).handshake::<_, Bytes>(stream).await.unwrap();
        Self { requests: requests.ready().await.unwrap(), connection: tokio::spawn(connection) }
    }

    fn begin(&mut self, path: &str) -> Result<ResponseFuture, h2::Error> {
        let request = Request::get(format!("http://test{path}")).body(()).unwrap();
        Ok(self.requests.send_request(request, true)?.0)
    }

    async fn get(&mut self, path: &str) -> Result<Vec<u8>, h2::Error> {
        let answer = self.begin(path)?.await?;
        assert_eq!(answer.status(), StatusCode::OK);
        taken(answer).await
    }

    /// How the connection ends, which must be soon.
    async fn ended(self) -> Result<(), h2::Error> {
        let Self { connection, requests } = self;
        let ended = timeout(PLENTY, connection).await.expect("the server ends the connection").unwrap();
        drop(requests);
        ended
    }
}

async fn taken(answer: Response<RecvStream>) -> Result<Vec<u8>, h2::Error> {
    let mut body = answer.into_body();
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data = data?;
        bytes.extend(&data);
        body.flow_control().release_capacity(data.len())?;
    }
    Ok(bytes)
}

#[tokio::test]
async fn clients_that_open_no_window_do_not_keep_their_places() {
    let server = Server::start(Limits { max_connections: 20, ..limits() }).await;
    let mut stalled = Vec::new();
    for _ in 0..20 {
        let mut client = Multiplexed::connect(server.address, 0).await;
        let answers: Vec<_> = (0..10).map(|_| client.begin("/short").unwrap()).collect();
        stalled.push((client, answers));
    }
    let started = Instant::now();
    let mut honest = server.connect().await;
    assert!(honest.ask("/short", "").await.starts_with("HTTP/1.1 200"));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    for (client, _answers) in stalled {
        // Their pings were answered all the while.
        let _ = client.ended().await;
    }
}

#[tokio::test]
async fn a_stalled_answer_ends_its_connection_although_other_answers_are_taken() {
    let server = Server::start(limits()).await;
    // Enough for a short answer, and not for a long one.
    let mut client = Multiplexed::connect(server.address, 16).await;
    let stalled = client.begin("/endless").unwrap().await.unwrap();
    let started = Instant::now();
    let mut short = 0;
    while client.get("/short").await.is_ok() {
        short += 1;
        sleep(Duration::from_millis(20)).await;
        assert!(started.elapsed() < Duration::from_secs(5), "{short} short answers, and still open");
    }
    assert!(short > 0, "the connection is good until the deadline");
    drop(stalled);
    let _ = client.ended().await;
}

#[tokio::test]
async fn an_idle_http_2_connection_is_closed_after_the_idle_limit() {
    let server = Server::start(limits()).await;
    let mut client = Multiplexed::connect(server.address, 65_535).await;
    for _ in 0..3 {
        assert_eq!(client.get("/short").await.unwrap(), b"short");
    }
    let started = Instant::now();
    client.ended().await.expect("the connection ends in peace");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[tokio::test]
async fn other_answers_of_a_connection_that_is_given_up_are_finished() {
    let server = Server::start(patient()).await;
    let mut client = Multiplexed::connect(server.address, 16).await;
    let _stalled = client.begin("/endless").unwrap().await.unwrap();
    sleep(patient().stalled_write.mul_f32(0.7)).await;
    // It takes longer than the stalled answer is waited for.
    assert_eq!(client.get("/slow").await.unwrap(), b"late but whole");
    let _ = client.ended().await;
}

#[tokio::test]
async fn an_answer_that_is_taken_slowly_is_not_stalled() {
    let server = Server::start(patient()).await;
    let mut client = Multiplexed::connect(server.address, 8 * 1024).await;
    let mut body = client.begin("/endless").unwrap().await.unwrap().into_body();
    let started = Instant::now();
    while started.elapsed() < 3 * patient().stalled_write {
        let data = body.data().await.unwrap().unwrap();
        sleep(patient().stalled_write / 20).await;
        body.flow_control().release_capacity(data.len()).unwrap();
    }
}

#[tokio::test]
async fn one_connection_holds_a_bounded_number_of_untaken_bytes() {
    let started = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&started);
    let large = move || {
        count.fetch_add(1, Ordering::Relaxed);
        async { "x".repeat(1 << 20) }
    };
    let router = Router::new().route("/large", get(large));
    let unhurried = Limits { stalled_write: PLENTY, ..limits() };
    let any = "127.0.0.1:0".parse().unwrap();
    let server = Server::start_at(any, router, unhurried, Duration::ZERO, PLENTY).await;
    let mut client = Multiplexed::connect(server.address, 0).await;
    let first = client.begin("/large").unwrap().await.unwrap();
    let streams = client.requests.current_max_send_streams();
    assert!(streams <= 100, "{streams} requests at once");
    let waiting: Vec<_> = (0..30).map(|_| client.begin("/large").unwrap()).collect();
    sleep(Duration::from_millis(200)).await;
    assert_eq!(started.load(Ordering::Relaxed), 4, "the others wait until the first answers are taken");
    drop(first);
    for (index, answer) in waiting.into_iter().enumerate() {
        let answer = timeout(PLENTY, answer).await.expect("its turn comes").unwrap();
        assert!(started.load(Ordering::Relaxed) <= index + 5, "one has its turn");
        drop(answer);
    }
    assert_eq!(started.load(Ordering::Relaxed), 31);
    // Who asks for more than there is space for is asked to open another connection.
    let mut greedy = Multiplexed::connect(server.address, 0).await;
    let mut answers = Vec::new();
    while let Ok(answer) = greedy.begin("/large") {
        answers.push(answer);
        assert!(answers.len() < 64, "the connection takes everything");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_client_that_is_asked_to_leave_cannot_stay_by_asking_for_more() {
    let server = Server::start(limits()).await;
    // A client of its own, which knows nothing of GOAWAY: each frame is written by hand.
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let frame = |kind: u8, flags: u8, id: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &id.to_be_bytes(), payload].concat()
    };
    // `GET http /short` of `test`, as HPACK writes it without a table.
    let head = [&[0x82, 0x86, 0x04, 6][..], b"/short", &[0x01, 4], b"test"].concat();
    let window_0 = [0, 4, 0, 0, 0, 0];
    let hello = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(4, 0, 0, &window_0)].concat();
    stream.write_all(&hello).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let deaf =
        tokio::spawn(async move { while !matches!(reader.read(&mut [0; 4096]).await, Ok(0) | Err(_)) {} });
    let started = Instant::now();
    for id in (1..).step_by(2) {
        if writer.write_all(&frame(1, 0x5, id, &head)).await.is_err() {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(5), "the client stays");
        sleep(Duration::from_millis(50)).await;
    }
    timeout(PLENTY, deaf).await.expect("the connection ends").unwrap();
}

#[tokio::test]
async fn an_http_2_client_is_asked_to_leave_while_its_requests_are_finished() {
    let server = Server::start(Limits { idle: PLENTY, ..limits() }).await;
    let mut client = Multiplexed::connect(server.address, 65_535).await;
    let mut idle = Multiplexed::connect(server.address, 65_535).await;
    idle.get("/short").await.unwrap();
    let slow = client.begin("/slow").unwrap();
    sleep(Duration::from_millis(100)).await;
    server.shutdown.cancel();
    assert_eq!(taken(slow.await.unwrap()).await.unwrap(), b"late but whole");
    client.ended().await.expect("the connection ends in peace");
    idle.ended().await.expect("the connection ends in peace");
    timeout(PLENTY, server.ended).await.expect("the server ends").unwrap();
}

#[tokio::test]
async fn connections_are_accepted_until_the_delay_is_over_and_answered_once() {
    let delay = Duration::from_millis(500);
    let any = "127.0.0.1:0".parse().unwrap();
    let patient = Limits { idle: PLENTY, ..limits() };
    let server = Server::start_at(any, router(), patient, delay, PLENTY).await;
    let mut kept = server.connect().await;
    assert!(!kept.ask("/short", "").await.contains("connection: close"));
    server.shutdown.cancel();
    sleep(Duration::from_millis(50)).await;
    for client in [&mut kept, &mut server.connect().await] {
        let answer = client.ask("/short", "").await;
        assert!(answer.contains("connection: close") && answer.ends_with("short"), "{answer}");
        client.closed_after().await;
    }
    timeout(PLENTY, server.ended).await.expect("the server ends").unwrap();
    TcpStream::connect(server.address).await.expect_err("nobody listens");
}

#[tokio::test]
async fn connections_that_the_kernel_has_accepted_are_answered_once_the_service_stops() {
    let server = Server::start(Limits { max_connections: 1, idle: PLENTY, ..limits() }).await;
    let mut first = server.connect().await;
    first.send("GET /slow HTTP/1.1\r\nhost: test\r\n\r\n").await;
    sleep(Duration::from_millis(50)).await;
    // No place is free: they wait in the kernel's queue.
    let mut queued = Vec::new();
    for _ in 0..20 {
        let mut client = server.connect().await;
        client.send("GET /short HTTP/1.1\r\nhost: test\r\n\r\n").await;
        queued.push(client);
    }
    server.shutdown.cancel();
    assert!(first.answer().await.ends_with("late but whole"));
    for client in &mut queued {
        let answer = client.answer().await;
        assert!(answer.contains("connection: close") && answer.ends_with("short"), "{answer}");
    }
    timeout(PLENTY, server.ended).await.expect("the server ends").unwrap();
}

#[tokio::test]
async fn a_connection_that_was_idle_for_long_does_not_hold_a_shutdown_up() {
    let drain = Duration::from_millis(400);
    let server = Server::start_with(Limits { idle: PLENTY, ..limits() }, drain).await;
    let mut idle = server.connect().await;
    idle.ask("/short", "").await;
    sleep(2 * drain).await;
    server.shutdown.cancel();
    let waited = idle.closed_after().await;
    assert!(waited < drain, "{waited:?}");
    timeout(PLENTY, server.ended).await.expect("the server ends").unwrap();
}

/// Asks for one thing after the other on a kept connection, as ordinary clients do: only what is certain not to have been
/// sent is sent again, so a connect alone. Each next connection goes to the other replica.
async fn keep_asking(addresses: [SocketAddr; 2], pause: Duration, until: Instant) -> usize {
    let mut kept: Option<TcpStream> = None;
    let (mut turn, mut answered) = (0, 0);
    while Instant::now() < until {
        let mut stream = match kept.take() {
            Some(stream) => stream,
            None => loop {
                turn += 1;
                if let Ok(stream) = TcpStream::connect(addresses[turn % 2]).await {
                    break stream;
                }
                sleep(Duration::from_millis(5)).await;
            },
        };
        stream.write_all(b"GET /short HTTP/1.1\r\nhost: test\r\n\r\n").await.expect("a request is sent");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\nshort") {
            assert!(stream.read_buf(&mut answer).await.expect("an answer") > 0, "the request was cut");
        }
        answered += 1;
        if !String::from_utf8_lossy(&answer).contains("connection: close") {
            kept = Some(stream);
        }
        sleep(pause).await;
    }
    answered
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_cuts_no_request_of_a_client_that_retries_connects_alone() {
    let patient = Limits { idle: PLENTY, ..limits() };
    let drain = Duration::from_millis(800);
    let start = async |address| Server::start_at(address, router(), patient, Duration::ZERO, drain).await;
    let any = "127.0.0.1:0".parse().unwrap();
    let mut replicas = [start(any).await, start(any).await];
    let addresses = [replicas[0].address, replicas[1].address];
    let until = Instant::now() + Duration::from_secs(3);
    let mut clients = JoinSet::new();
    for client in 0..16 {
        // Some ask so seldom that they are idle when the service stops.
        let pause = Duration::from_millis(1 + 20 * client);
        clients.spawn(keep_asking(addresses, pause, until));
    }
    let last_restart = until.checked_sub(Duration::from_millis(500)).unwrap();
    while Instant::now() < last_restart {
        for replica in &mut replicas {
            sleep(Duration::from_millis(100)).await;
            replica.shutdown.cancel();
            (&mut replica.ended).await.unwrap();
            *replica = start(replica.address).await;
        }
    }
    let answered = clients.join_all().await;
    assert!(answered.iter().all(|answers| *answers > 3), "{answered:?}");
}

/// The head of an answer over HTTP/2 has no `Connection`.
#[tokio::test]
async fn an_answer_over_http_2_never_speaks_of_its_connection() {
    let server = Server::start(limits()).await;
    let mut client = Multiplexed::connect(server.address, 65_535).await;
    let slow = client.begin("/slow").unwrap();
    sleep(Duration::from_millis(50)).await;
    server.shutdown.cancel();
    let headers: HeaderMap = slow.await.unwrap().headers().clone();
    assert!(!headers.contains_key("connection"), "{headers:?}");
}
