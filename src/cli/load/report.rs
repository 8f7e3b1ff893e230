//! What a load has measured, as tables for people or as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use super::LoadArgs;
use super::histogram::Histogram;
use super::round::{Measured, Tally};
use crate::cli::output::plain;

#[derive(Debug, Serialize)]
pub struct Report {
    service: String,
    mix: String,
    /// Requests per second that were offered; null: as many as the connections carry.
    rate: Option<f64>,
    connections: u32,
    customers: usize,
    zipf: f64,
    seed: u64,
    seconds: f64,
    interrupted: bool,
    unsent: u64,
    rows: Vec<Row>,
    histogram: Vec<Bin>,
}

/// One kind of requests, or all of them.
#[derive(Debug, Serialize)]
struct Row {
    kind: &'static str,
    requests: u64,
    good: u64,
    good_per_second: f64,
    errors: BTreeMap<String, u64>,
    latency_us: Latency,
}

#[derive(Debug, Serialize)]
struct Latency {
    p50: f64,
    p90: f64,
    p99: f64,
    p99_9: f64,
    max: f64,
}

/// How many good answers took at least half as long as `below_us`, and not as long.
#[derive(Debug, Serialize)]
struct Bin {
    below_us: u64,
    count: u64,
}

impl Report {
    pub fn new(args: &LoadArgs, measured: &Measured) -> Self {
        let seconds = measured.elapsed.as_secs_f64();
        let (all, mut rows) = (Tally::default(), Vec::new());
        for (kind, tally) in measured.kinds() {
            all.add(tally);
            rows.push(Row::new(kind.as_str(), tally, seconds));
        }
        rows.retain(|row| row.requests > 0);
        rows.push(Row::new("all", &all, seconds));
        Self {
            service: args.client.service.url.to_string(),
            mix: args.mix.to_string(),
            rate: args.rate,
            connections: args.connections,
            customers: measured.customers(),
            zipf: args.whom.zipf,
            seed: args.seed,
            seconds,
            interrupted: measured.interrupted,
            unsent: measured.unsent,
            rows,
            histogram: bins(&all.latencies),
        }
    }

    pub fn has_good(&self) -> bool {
        self.rows.iter().any(|row| row.good > 0)
    }

    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("a report can be written as JSON")
    }

    pub fn tables(&self) -> String {
        format!("{}\n\n{}\n\n{}{}", self.head(), self.table(), self.bars(), self.warnings())
    }

    fn head(&self) -> String {
        let offered = match self.rate {
            Some(rate) => {
                format!("{rate} requests/s offered (open loop: latency counts from when each was due)")
            }
            None => {
                "as fast as answers come (closed loop: latency leaves out who would have waited)".to_owned()
            }
        };
        format!(
            "{} for {:.1} s: {offered}\n{} on {} connections, {} customers, zipf {}, seed {}",
            self.service, self.seconds, self.mix, self.connections, self.customers, self.zipf, self.seed
        )
    }

    fn table(&self) -> String {
        let mut table = Table::new();
        table.set_header(["KIND", "REQUESTS", "GOOD/S", "P50", "P90", "P99", "P99.9", "MAX", "ERRORS"]);
        for row in &self.rows {
            let of = &row.latency_us;
            let [p50, p90, p99, p99_9, max] = [of.p50, of.p90, of.p99, of.p99_9, of.max].map(shown);
            let errors: Vec<_> =
                row.errors.iter().map(|(error, count)| format!("{error}: {count}")).collect();
            let errors = if errors.is_empty() { "-".to_owned() } else { errors.join(", ") };
            let (requests, rate) = (row.requests.to_string(), format!("{:.0}", row.good_per_second));
            table.add_row([row.kind.to_owned(), requests, rate, p50, p90, p99, p99_9, max, errors]);
        }
        for column in 1..=7 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        plain(table)
    }

    fn bars(&self) -> String {
        const WIDTH: u64 = 50;
        let most = self.histogram.iter().map(|bin| bin.count).max().unwrap_or(1);
        self.histogram.iter().fold(String::new(), |mut text, bin| {
            #[expect(clippy::cast_precision_loss, reason = "a label")]
            let below = shown(bin.below_us as f64);
            // What is there at all is seen.
            let bar = "#".repeat(usize::try_from((bin.count * WIDTH).div_ceil(most)).unwrap_or_default());
            let _ = writeln!(text, "< {below:>8}  {:>10}  {bar}", bin.count);
            text
        })
    }

    fn warnings(&self) -> String {
        let mut text = String::new();
        if self.interrupted {
            text.push_str("\ninterrupted: this is what was measured until then\n");
        }
        if self.unsent > 0 {
            let _ = write!(
                text,
                "\n{} requests that were due were never sent: the service did not keep up, or --connections are too few; \
                 whoever sent them would have waited longer than the latencies above\n",
                self.unsent
            );
        }
        text
    }
}

impl Row {
    fn new(kind: &'static str, tally: &Tally, seconds: f64) -> Self {
        let (latencies, errors) = (&tally.latencies, tally.errors());
        let good = latencies.count();
        let at = |share: f64| micros(latencies.quantile(share));
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let good_per_second = if seconds > 0.0 { tally.in_time() as f64 / seconds } else { 0.0 };
        Self {
            kind,
            requests: good + errors.values().sum::<u64>(),
            good,
            good_per_second,
            errors,
            latency_us: Latency {
                p50: at(0.5),
                p90: at(0.9),
                p99: at(0.99),
                p99_9: at(0.999),
                max: micros(latencies.longest()),
            },
        }
    }
}

/// By powers of two, from the first that holds something to the last.
fn bins(latencies: &Histogram) -> Vec<Bin> {
    let mut counts = BTreeMap::new();
    for (end, count) in latencies.buckets().filter(|(_, count)| *count > 0) {
        let below_us = (u64::try_from(end.as_micros()).unwrap_or(u64::MAX >> 1) + 1).next_power_of_two();
        *counts.entry(below_us).or_default() += count;
    }
    let (Some((&first, _)), Some((&last, _))) = (counts.first_key_value(), counts.last_key_value()) else {
        return Vec::new();
    };
    let powers = std::iter::successors(Some(first), |below_us| Some(below_us * 2));
    powers
        .take_while(|below_us| *below_us <= last)
        .map(|below_us| Bin { below_us, count: counts.get(&below_us).copied().unwrap_or_default() })
        .collect()
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn shown(micros: f64) -> String {
    match micros {
        micros if micros < 1000.0 => format!("{micros:.0} us"),
        micros if micros < 1e6 => format!("{:.1} ms", micros / 1e3),
        micros => format!("{:.2} s", micros / 1e6),
    }
}
