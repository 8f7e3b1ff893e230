//! `PUT /v1/customers/{id}/consent`: each caller has customers of its own and takes one of them at random; where there are
//! fewer customers than callers, all take from all. What is put differs from what stands, so that every answer is a change
//! with an audit entry. All personal fields are set.
//!
//! With `--rate`, requests are due at fixed times whether or not earlier ones are answered (an open loop, as far as the
//! callers go): `late_p99_ms` tells how far behind they were sent.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use tokio::time::sleep_until;

use crate::Failure;
use crate::arguments::Arguments;
use crate::client::{Client, Target};
use crate::dice::Dice;
use crate::figures::Latencies;

#[derive(Debug)]
struct Settings {
    target: Target,
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

    fn customers_of(&self, caller: usize) -> Vec<&String> {
        let Settings { customers, callers, .. } = &self.settings;
        if customers.len() < *callers {
            customers.iter().collect()
        } else {
            customers.iter().skip(caller).step_by(*callers).collect()
        }
    }
}

/// What a caller saw after the warm-up.
#[derive(Debug, Default)]
struct Seen {
    /// All changes, those of the warm-up too.
    all: u64,
    latencies: Latencies,
    lateness: Latencies,
    refused: u64,
    last: Option<Instant>,
}

async fn call(plan: Rc<Plan>, caller: usize) -> Result<Seen, Failure> {
    let settings = &plan.settings;
    let customers = plan.customers_of(caller);
    let mut dice = Dice::new();
    let mut seen = Seen::default();
    let mut client = Client::connect(&settings.target).await?;
    let measured_from = plan.begin + settings.warm_up;
    while let Some((number, due)) = plan.next() {
        if settings.rate.is_some() {
            sleep_until(due.into()).await;
        }
        let path = format!("/v1/customers/{}/consent", dice.choose(&customers));
        let body = consent(number, dice.roll());
        let sent = Instant::now();
        let answer = client.call(Method::PUT, &path, body).await?;
        let answered = Instant::now();
        if !matches!(answer.status, StatusCode::OK | StatusCode::CREATED) {
            seen.refused += 1;
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

pub async fn run(mut arguments: Arguments) -> Result<String, Failure> {
    let settings = Settings {
        target: Target::read(&mut arguments)?,
        customers: arguments.lines("customers")?,
        callers: arguments.required("callers")?,
        time: arguments.seconds("seconds")?.ok_or("--seconds is missing")?,
        warm_up: arguments.seconds("warm-up")?.unwrap_or_default(),
        rate: arguments.optional("rate")?,
        changes: arguments.optional("changes")?,
    };
    arguments.finish()?;
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
    let seconds = whole.last.map_or(0.0, |last| (last - measured_from).as_secs_f64());
    Ok(format!(
        r#"{{"all":{},"changes":{},"seconds":{seconds:.6},"refused":{},"p50_ms":{:.3},"p99_ms":{:.3},"late_p99_ms":{:.3}}}"#,
        whole.all,
        whole.latencies.len(),
        whole.refused,
        whole.latencies.percentile(50),
        whole.latencies.percentile(99),
        whole.lateness.percentile(99),
    ))
}
