//! Calls `PUT /v1/customers/{id}/consent` on so many keep-alive connections, one request at a time on each, and prints
//! what came of it as one line of JSON.
//!
//! Each caller has customers of its own and takes one of them at random; what it puts differs from what stands, so that
//! every answer is a change with an audit entry. All personal fields are set.
//!
//! With `--rate`, requests are due at fixed times whether or not earlier ones are answered (an open loop, as far as the
//! callers go): `late_p99_ms` tells how far behind they were sent.

use std::cell::Cell;
use std::fs;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio::time::sleep_until;

type Failure = Box<dyn std::error::Error>;

const USAGE: &str = "bench-driver --address HOST:PORT --key-file FILE --customers FILE --callers N --seconds S \
    [--warm-up S] [--rate N] [--changes N]";

#[derive(Debug, Default)]
struct Settings {
    address: String,
    key: String,
    customers: Vec<String>,
    callers: usize,
    /// Of the measurement, after the warm-up.
    time: Duration,
    warm_up: Duration,
    /// Requests a second, offered by all callers together; none: as fast as answers come.
    rate: Option<f64>,
    /// Stop after so many, if the time is not up before.
    changes: Option<u64>,
}

impl Settings {
    fn read(mut arguments: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let mut settings = Self::default();
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or(USAGE)?;
            match name.as_str() {
                "--address" => settings.address = value,
                "--key-file" => fs::read_to_string(value)?.trim().clone_into(&mut settings.key),
                "--customers" => {
                    settings.customers = fs::read_to_string(value)?.lines().map(str::to_owned).collect();
                }
                "--callers" => settings.callers = value.parse()?,
                "--seconds" => settings.time = Duration::try_from_secs_f64(value.parse()?)?,
                "--warm-up" => settings.warm_up = Duration::try_from_secs_f64(value.parse()?)?,
                "--rate" => settings.rate = Some(value.parse()?),
                "--changes" => settings.changes = Some(value.parse()?),
                _ => return Err(USAGE.into()),
            }
        }
        if settings.callers == 0 || settings.customers.len() < settings.callers || settings.time.is_zero() {
            return Err(USAGE.into());
        }
        Ok(settings)
    }
}

/// What all callers share: when it began, and how many requests were taken.
#[derive(Debug)]
struct Plan {
    settings: Settings,
    begin: Instant,
    taken: Cell<u64>,
}

impl Plan {
    /// When the next request is due; none when it is time to stop.
    fn next(&self) -> Option<(u64, Instant)> {
        let number = self.taken.get();
        let now = Instant::now();
        let due = match self.settings.rate {
            #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 requests are made")]
            Some(rate) => self.begin + Duration::from_secs_f64(number as f64 / rate),
            None => now,
        };
        let in_time = due < self.begin + self.settings.warm_up + self.settings.time;
        (in_time && self.settings.changes.is_none_or(|most| number < most)).then(|| {
            self.taken.set(number + 1);
            (number, due)
        })
    }
}

/// What a caller saw after the warm-up.
#[derive(Debug, Default)]
struct Seen {
    /// All changes, those of the warm-up too.
    all: u64,
    latencies: Vec<Duration>,
    lateness: Vec<Duration>,
    refused: u64,
    last: Option<Instant>,
}

async fn connect(address: &str) -> Result<SendRequest<Full<Bytes>>, Failure> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::task::spawn_local(connection);
    Ok(sender)
}

async fn call(plan: Rc<Plan>, caller: usize) -> Result<Seen, Failure> {
    let settings = &plan.settings;
    let customers: Vec<&String> = settings.customers.iter().skip(caller).step_by(settings.callers).collect();
    // Another seed each time: the same stream again would put what stands already.
    let mut dice = RandomState::new().build_hasher().finish() | 1;
    let mut seen = Seen::default();
    let mut sender = connect(&settings.address).await?;
    let measured_from = plan.begin + settings.warm_up;
    while let Some((number, due)) = plan.next() {
        if settings.rate.is_some() {
            sleep_until(due.into()).await;
        }
        // Marsaglia's xorshift: which customer is next need only be spread.
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        let length = customers.len() as u64;
        let customer = customers[usize::try_from(dice % length)?];
        let request = Request::put(format!("/v1/customers/{customer}/consent"))
            .header("host", settings.address.as_str())
            .header("authorization", format!("Bearer {}", settings.key))
            .header("content-type", "application/json")
            .header("user-agent", "bench-driver/0")
            .body(Full::new(Bytes::from(consent(number, dice))))?;
        let sent = Instant::now();
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        answer.into_body().collect().await?;
        let answered = Instant::now();
        if !matches!(status, StatusCode::OK | StatusCode::CREATED) {
            seen.refused += 1;
            if sender.is_closed() {
                sender = connect(&settings.address).await?;
            }
            continue;
        }
        seen.all += 1;
        if sent >= measured_from {
            seen.latencies.push(answered - sent);
            seen.lateness.push(sent.saturating_duration_since(due));
            seen.last = Some(answered);
        }
    }
    Ok(seen)
}

/// Never the one that stands: the policy's version is new each time.
fn consent(number: u64, dice: u64) -> String {
    let (tier, embeddings) = if number.is_multiple_of(2) { ("analytics", true) } else { ("basic", false) };
    format!(
        r#"{{"consent_tier":"{tier}","can_store_embeddings":{embeddings},"policy_version":"{dice:016x}","reason":"asked for in the settings","on_behalf_of":"user-{number}"}}"#
    )
}

fn percentile(sorted: &[Duration], hundredths: usize) -> f64 {
    let at = (sorted.len() * hundredths / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(0.0, |latency| latency.as_secs_f64() * 1000.0)
}

async fn run(settings: Settings) -> Result<String, Failure> {
    let callers = settings.callers;
    let begin = Instant::now();
    let measured_from = begin + settings.warm_up;
    let plan = Rc::new(Plan { settings, begin, taken: Cell::new(0) });
    let tasks: Vec<_> =
        (0..callers).map(|caller| tokio::task::spawn_local(call(Rc::clone(&plan), caller))).collect();
    let mut whole = Seen::default();
    for task in tasks {
        let seen = task.await??;
        whole.all += seen.all;
        whole.latencies.extend(seen.latencies);
        whole.lateness.extend(seen.lateness);
        whole.refused += seen.refused;
        whole.last = whole.last.max(seen.last);
    }
    whole.latencies.sort_unstable();
    whole.lateness.sort_unstable();
    let seconds = whole.last.map_or(0.0, |last| (last - measured_from).as_secs_f64());
    Ok(format!(
        r#"{{"all":{},"changes":{},"seconds":{seconds:.6},"refused":{},"p50_ms":{:.3},"p99_ms":{:.3},"late_p99_ms":{:.3}}}"#,
        whole.all,
        whole.latencies.len(),
        whole.refused,
        percentile(&whole.latencies, 50),
        percentile(&whole.latencies, 99),
        percentile(&whole.lateness, 99),
    ))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let outcome = match Settings::read(std::env::args().skip(1)) {
        Ok(settings) => LocalSet::new().run_until(run(settings)).await,
        Err(failure) => Err(failure),
    };
    match outcome {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}
