//! `consentd load`: how much a service carries, and how long its answers take.

mod customers;
mod histogram;
mod mix;
mod report;
mod round;
mod target;
pub mod zipf;

use std::time::Duration;

use clap::Args;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore as _, SeedableRng as _};

use self::customers::Whom;
use self::mix::Mix;
use self::report::Report;
use self::round::Round;
use self::target::Target;
use super::Failure;
use super::client::Client;
use super::output::line;
use crate::config::ClientConfig;

/// Load a running service, and measure what it carries and how long its answers take
///
/// With --rate the load is open: each request has a moment at which it is due, whether or not those before it are
/// answered, and its latency counts from that moment, so that waiting for a free connection counts too. Without, each
/// connection sends its next request when the last one is answered, which tells what the service carries at most; its
/// latencies leave out who would have waited.
///
/// Writes and withdrawals change consents for good, each with its audit entry. A mix with them therefore uses
/// customers alone that --create made, unless --allow-writes lets it change the consents of all.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    consentd load --customers 1000\n  \
    consentd load --rate 2000 --duration 1m --mix check=95,read=5\n  \
    consentd load --create --customers 10000 --mix check=90,read=5,write=4,withdraw=1 --rate 500\n\n\
    Ctrl-C ends it, and what was measured so far is printed. Exits with 1 when no request was answered well.")]
pub struct LoadArgs {
    /// How often each kind is sent: check, read, write, withdraw, audit
    #[arg(long, default_value = "check=90,read=10", value_name = "KIND=WEIGHT,…")]
    mix: Mix,

    /// Requests per second that are offered, or `max`: as many as the connections carry
    #[arg(long, default_value = "max", value_parser = rate, value_name = "N")]
    rate: Rate,

    /// How many connections
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=20_000))]
    connections: u32,

    /// How long to measure: at most 1h
    #[arg(long, default_value = "10s", value_parser = duration, value_name = "TIME")]
    duration: Duration,

    /// How long to send before measuring
    #[arg(long, default_value = "1s", value_parser = duration, value_name = "TIME")]
    warm_up: Duration,

    #[command(flatten)]
    whom: Whom,

    /// Another seed draws other requests
    #[arg(long, default_value_t = 1, value_name = "S")]
    seed: u64,

    /// Load a service on another machine
    #[arg(long)]
    allow_remote: bool,

    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    client: ClientConfig,
}

/// Requests per second; `None` is as many as the connections carry.
type Rate = Option<f64>;

pub async fn run(args: LoadArgs) -> Result<(), Failure> {
    let target = Target::new(&args.client, args.allow_remote).await?;
    let client = Client::new(&args.client)?;
    let mut chance = Chance::new(args.seed);
    let customers = customers::find(&client, &args.whom, args.mix, &mut chance).await?;
    let round = Round::new(&args, target, customers);
    let measured = round.run(&mut chance).await;
    let report = Report::new(&args, &measured);
    line(&if args.json { report.json() } else { report.tables() })?;
    if report.has_good() { Ok(()) } else { Err(Failure::new("no request was answered well")) }
}

/// Chance that falls the same way for the same seed.
#[derive(Clone, Debug)]
pub struct Chance(Xoshiro256PlusPlus);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(seed))
    }

    /// For another task, which draws something else.
    fn split(&mut self) -> Self {
        Self::new(self.next())
    }

    fn next(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// From 0 up to 1, without 1.
    fn fraction(&mut self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "53 bits are what a fraction holds")]
        let [bits, end] = [self.next() >> 11, 1 << 53].map(|bits| bits as f64);
        bits / end
    }

    /// From 0 up to `end`, without `end`.
    fn below(&mut self, end: u64) -> u64 {
        let product = u128::from(self.next()) * u128::from(end);
        u64::try_from(product >> 64).expect("the product is below 2^64 times `end`")
    }

    fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).expect("it is below a length")
    }
}

fn rate(text: &str) -> Result<Rate, String> {
    match text.parse::<f64>() {
        _ if text == "max" => Ok(None),
        Ok(rate) if (0.001..=10_000_000.0).contains(&rate) => Ok(Some(rate)),
        _ => Err("requests per second, or max, are wanted".to_owned()),
    }
}

const LONGEST: Duration = Duration::from_hours(1);

/// `10s`, `500ms`, `2m`, `1h`; a number alone is of seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|char: char| char.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("500ms, 10s, 2m or 1h are understood".to_owned()),
    };
    let seconds = digits.parse::<f64>().map_err(|_| "500ms, 10s, 2m or 1h are understood".to_owned())?;
    let duration = Duration::try_from_secs_f64(seconds * unit).map_err(|error| error.to_string())?;
    if duration <= LONGEST { Ok(duration) } else { Err("at most 1h is allowed".to_owned()) }
}
