//! Sends the requests, and counts what comes of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::histogram::Histogram;
use super::mix::{Kind, Mix};
use super::target::{Connection, Fault, Target};
use super::zipf::Zipf;
use super::{Chance, LoadArgs, Rate};

/// tokio's clock has steps of a millisecond. A request that it wakes late by no more than this was not kept waiting by
/// the service.
const CLOCK_STEP: Duration = Duration::from_millis(2);

/// A service that refuses connections is not asked for them in a loop.
const BREATH: Duration = Duration::from_millis(100);

/// What is to be done, by all connections together.
#[derive(Debug)]
pub struct Round {
    target: Target,
    mix: Mix,
    zipf: Zipf,
    /// By rank.
    customers: Vec<Uuid>,
    rate: Rate,
    connections: u32,
    start: Instant,
    measured_from: Instant,
    end: Instant,
    /// How many requests of the schedule have been taken by a connection.
    taken: AtomicU64,
    tallies: [Tally; Kind::ALL.len()],
}

/// What came of the requests of one kind that were answered after the warm-up.
#[derive(Debug, Default)]
pub struct Tally {
    /// Of the good answers: that a refusal is quick is no merit.
    pub latencies: Histogram,
    /// Good answers that came before the end: those after it are no part of what was carried in that time.
    in_time: AtomicU64,
    errors: Mutex<BTreeMap<String, u64>>,
}

impl Tally {
    fn record(&self, answer: Result<StatusCode, Fault>, latency: Duration, in_time: bool) {
        let error = match answer {
            Ok(status) if status.is_success() => {
                self.in_time.fetch_add(in_time.into(), Ordering::Relaxed);
                return self.latencies.record(latency);
            }
            Ok(status) => status.as_u16().to_string(),
            Err(fault) => fault.to_owned(),
        };
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        *errors.entry(error).or_default() += 1;
    }

    /// Counts what another one has counted too.
    pub fn add(&self, other: &Self) {
        self.latencies.add(&other.latencies);
        self.in_time.fetch_add(other.in_time(), Ordering::Relaxed);
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        for (error, count) in other.errors() {
            *errors.entry(error).or_default() += count;
        }
    }

    pub fn in_time(&self) -> u64 {
        self.in_time.load(Ordering::Relaxed)
    }

    pub fn errors(&self) -> BTreeMap<String, u64> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a round has found out.
#[derive(Debug)]
pub struct Measured {
    pub round: Arc<Round>,
    pub elapsed: Duration,
    /// Requests that were due and that no connection came to send.
    pub unsent: u64,
    pub interrupted: bool,
}

impl Measured {
    pub fn kinds(&self) -> impl Iterator<Item = (Kind, &Tally)> {
        Kind::ALL.into_iter().zip(&self.round.tallies)
    }

    pub fn customers(&self) -> usize {
        self.round.customers.len()
    }
}

impl Round {
    pub fn new(args: &LoadArgs, target: Target, customers: Vec<Uuid>) -> Self {
        let ranks = u32::try_from(customers.len()).expect("no more customers than were asked for");
        let start = Instant::now();
        Self {
            target,
            mix: args.mix,
            zipf: Zipf::new(ranks, args.whom.zipf),
            customers,
            rate: args.rate,
            connections: args.connections,
            start,
            measured_from: start + args.warm_up,
            end: start + args.warm_up + args.duration,
            taken: AtomicU64::new(0),
            tallies: Default::default(),
        }
    }

    pub async fn run(self, chance: &mut Chance) -> Measured {
        let round = Arc::new(self);
        let stop = CancellationToken::new();
        let mut connections = JoinSet::new();
        for _ in 0..round.connections {
            let (round, stop, chance) = (Arc::clone(&round), stop.clone(), chance.split());
            connections.spawn(async move { stop.run_until_cancelled(round.drive(chance)).await });
        }
        let interrupted = tokio::select! {
            () = async { while connections.join_next().await.is_some() {} } => false,
            _ = tokio::signal::ctrl_c() => true,
        };
        let stopped = Instant::now().min(round.end);
        stop.cancel();
        while connections.join_next().await.is_some() {}
        let unsent = round.due_until(stopped).saturating_sub(round.taken.load(Ordering::Relaxed));
        Measured {
            elapsed: stopped.saturating_duration_since(round.measured_from),
            round,
            unsent,
            interrupted,
        }
    }

    /// One connection, from the first request to the last.
    async fn drive(&self, mut chance: Chance) {
        let mut connection = self.target.connection();
        while let Some(due) = self.next().await {
            let kind = self.mix.draw(&mut chance);
            let customer = self.customers[self.zipf.draw(&mut chance) as usize - 1];
            self.ask(&mut connection, kind, customer, due, &mut chance).await;
        }
    }

    async fn ask(
        &self,
        connection: &mut Connection,
        kind: Kind,
        customer: Uuid,
        due: Instant,
        chance: &mut Chance,
    ) {
        let answer = connection.send(self.target.request(kind, customer, chance)).await;
        let failed = answer.is_err();
        let now = Instant::now();
        // By its answer: where more is offered than is carried, what was due in that time is answered long after it.
        if now >= self.measured_from {
            self.tallies[kind as usize].record(answer, now - due, now <= self.end);
        }
        if failed {
            sleep(BREATH).await;
        }
    }

    /// Waits until the next request is to be sent, and gives the moment from which its latency counts; `None` when the
    /// time is over.
    async fn next(&self) -> Option<Instant> {
        let Some(rate) = self.rate else {
            return Some(Instant::now()).filter(|now| *now < self.end);
        };
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        #[expect(
            clippy::cast_precision_loss,
            reason = "an hour has fewer requests than a float has integers"
        )]
        let due = self.start + Duration::from_secs_f64(number as f64 / rate);
        let now = Instant::now();
        if due >= self.end || now >= self.end {
            // It was not sent.
            self.taken.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        if due <= now {
            return Some(due);
        }
        sleep_until(due).await;
        let woken = Instant::now();
        Some(if woken - due <= CLOCK_STEP { woken } else { due })
    }

    /// How many requests are due before this moment.
    fn due_until(&self, moment: Instant) -> u64 {
        let seconds = moment.saturating_duration_since(self.start).as_secs_f64();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        self.rate.map_or(0, |rate| (seconds * rate).ceil() as u64)
    }
}
