//! `consentd load`: what it counts, whom it spares, and how it draws.

use std::time::Duration;

use axum::Router;
use axum::response::IntoResponse as _;
use axum::routing::get;
use consentd::cli::load::Chance;
use consentd::cli::load::zipf::Zipf;
use consentd::http::server::{Limits, Shutdown, serve};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::cli_client::{Done, Running};

/// Something that answers as if it were the service, and takes its time for checks.
async fn slow_service(pause: Duration) -> (String, DropGuard) {
    let customer = json!({
        "customer_id": "123e4567-e89b-12d3-a456-426614174000", "email": "robotics@example.com", "company_name": null,
        "tier": "pro", "rate_limit_rpm": 1, "rate_limit_rpd": 1, "is_active": true,
        "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
    });
    let page = json!({"items": [customer], "next_cursor": null}).to_string();
    let router = Router::new().route("/v1/customers", get(async || page.into_response())).route(
        "/v1/customers/{customer_id}/consent/permissions",
        get(async move || tokio::time::sleep(pause).await),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    let stop = CancellationToken::new();
    let shutdown = Shutdown { signal: stop.clone(), delay: Duration::ZERO, drain: Duration::ZERO };
    tokio::spawn(serve(listener, router, Limits::default(), shutdown));
    (url, stop.drop_guard())
}

fn row<'r>(report: &'r Value, kind: &str) -> &'r Value {
    let rows = report["rows"].as_array().expect("rows");
    rows.iter().find(|row| row["kind"] == kind).unwrap_or_else(|| panic!("no {kind} in {report}"))
}

#[tokio::test]
async fn a_load_counts_what_it_asked_and_changes_its_own_customers_alone() {
    let running = Running::start().await;
    let bystander = running.customer("robotics@example.com").await.parse().expect("an id");
    let mix = ["load", "--mix", "check=4,read=3,write=2,withdraw=1,audit=1", "--connections", "4"];
    let short = ["--duration", "1s", "--warm-up", "100ms", "--customers", "5", "--json"];
    let refused = running.run(&[&mix[..], &short].concat()).await;
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.stderr.contains("--create") && refused.stderr.contains("--allow-writes"),
        "{}",
        refused.stderr
    );

    let report = Running::json(&running.run(&[&mix[..], &short, &["--create"]].concat()).await);
    assert_eq!(report["customers"], 5);
    let kinds = ["check", "read", "write", "withdraw", "audit"];
    let counted: u64 = kinds.iter().filter_map(|kind| row(&report, kind)["good"].as_u64()).sum();
    let all = row(&report, "all");
    assert_eq!((all["good"].as_u64(), &all["errors"]), (Some(counted), &json!({})), "{report}");
    let rate = all["good_per_second"].as_f64().expect("a rate");
    let count = f64::from(u32::try_from(counted).expect("a second is short"));
    // Those under way at the end are answered after it.
    assert!(count > 20.0 && (count - 4.01..=count + 0.01).contains(&rate), "{report}");
    let latency = |name: &str| all["latency_us"][name].as_f64().expect("a latency");
    let ascending = ["p50", "p90", "p99", "p99_9", "max"].map(latency);
    assert!(ascending[0] > 0.0 && ascending.is_sorted(), "{report}");
    let bins: u64 =
        report["histogram"].as_array().expect("bins").iter().filter_map(|bin| bin["count"].as_u64()).sum();
    assert_eq!(bins, counted);
    assert!(row(&report, "check")["good"].as_u64() > row(&report, "withdraw")["good"].as_u64());
    assert!(running.service.trail(bystander).await.is_empty());

    let few = running.run(&["load", "--customers", "9", "--rate", "100", "--duration", "1s"]).await;
    assert_eq!(few.code, Some(0), "{}", few.stderr);
    assert!(few.stderr.contains("only 6 customers"), "{}", few.stderr);
    assert!(few.stdout.contains("open loop") && few.stdout.contains("P99.9"), "{}", few.stdout);
}

#[tokio::test]
async fn a_service_elsewhere_is_not_loaded_unless_the_user_says_so() {
    // RFC 5737: nobody has this address.
    for url in ["http://192.0.2.1:8080", "http://0.0.0.0:8080", "http://[2001:db8::1]:8080"] {
        let done = Done::of(url, "vla_test_abcdnotakey", &["load"]).await;
        assert_eq!(done.code, Some(1));
        assert!(done.stderr.contains("--allow-remote"), "{}", done.stderr);
    }
}

#[tokio::test]
async fn where_every_request_fails_the_exit_code_says_so() {
    let running = Running::start().await;
    running.customer("robotics@example.com").await;
    let key = running.service.key(None, &["customers:write"]).await;
    let arguments = ["load", "--duration", "200ms", "--warm-up", "0", "--connections", "1"];
    let done = Done::of(&running.url, &key, &arguments).await;
    assert_eq!(done.code, Some(1), "{}{}", done.stdout, done.stderr);
    assert!(done.stdout.contains("403: "), "{}{}", done.stdout, done.stderr);
}

#[tokio::test]
async fn an_open_load_counts_the_time_that_a_request_waits_for_its_turn() {
    // Four connections carry 40 requests a second; 80 are offered, so the last of a second are half a second late.
    let (url, _stop) = slow_service(Duration::from_millis(100)).await;
    let common =
        ["load", "--connections", "4", "--duration", "1s", "--warm-up", "0", "--mix", "check=1", "--json"];
    let load = async |rate: &str| {
        let report = Running::json(&Done::of(&url, "key", &[&common[..], &["--rate", rate]].concat()).await);
        (row(&report, "check")["latency_us"]["p99"].as_f64().expect("a latency"), report)
    };
    let (open, report) = load("80").await;
    assert!(open > 350_000.0, "{report}");
    let unsent = report["unsent"].as_u64().expect("a count");
    let sent = row(&report, "all")["requests"].as_u64().expect("a count");
    assert!(unsent > 20 && unsent + sent == 80, "{report}");
    let (closed, report) = load("max").await;
    assert!((99_000.0..300_000.0).contains(&closed), "{report}");
    let (calm, report) = load("20").await;
    assert!((99_000.0..300_000.0).contains(&calm), "{report}");
    assert_eq!(report["unsent"], 0);
}

#[tokio::test]
async fn what_is_carried_is_told_when_more_is_offered_for_long() {
    // Four connections carry 40 requests a second. Of 400, those that are due after the warm-up are never sent.
    let (url, _stop) = slow_service(Duration::from_millis(100)).await;
    let load = ["load", "--connections", "4", "--rate", "400", "--mix", "check=1", "--json"];
    let times = ["--duration", "1s", "--warm-up", "1s"];
    let report = Running::json(&Done::of(&url, "key", &[&load[..], &times].concat()).await);
    let checks = row(&report, "check");
    let rate = checks["good_per_second"].as_f64().expect("a rate");
    assert!((20.0..=44.0).contains(&rate), "{report}");
    assert!(checks["latency_us"]["p50"].as_f64().expect("a latency") > 900_000.0, "{report}");
}

#[tokio::test]
async fn an_interrupted_load_prints_what_it_measured() {
    let (url, _stop) = slow_service(Duration::from_millis(1)).await;
    let load = tokio::process::Command::new(env!("CARGO_BIN_EXE_consentd"))
        .env_clear()
        .args([
            "load",
            "--url",
            &url,
            "--api-key",
            "key",
            "--mix",
            "check=1",
            "--warm-up",
            "0",
            "--duration",
            "1h",
        ])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the program starts");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let process = i32::try_from(load.id().expect("it runs")).expect("a process id");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(process), nix::sys::signal::Signal::SIGINT)
        .expect("it runs");
    let output = load.wait_with_output().await.expect("it ends");
    let said = String::from_utf8(output.stdout).expect("the program writes UTF-8");
    assert!(output.status.success() && said.contains("interrupted") && said.contains("check"), "{said}");
}

#[test]
fn a_wrong_mix_and_a_load_without_end_are_refused() {
    for (arguments, wanted) in [
        (["load", "--mix", "check"], "KIND=WEIGHT"),
        (["load", "--mix", "checks=1"], "check, read, write, withdraw, audit"),
        (["load", "--mix", "check=0"], "asks for nothing"),
        (["load", "--duration", "61m"], "at most 1h"),
        (["load", "--duration", "1d"], "are understood"),
        (["load", "--rate", "0"], "or max"),
        (["load", "--zipf", "NaN"], "from 0 to 10"),
    ] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_consentd"))
            .env_clear()
            .args(arguments)
            .output()
            .expect("the program starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(wanted), "{arguments:?}: {said}");
    }
}

/// How often each rank is drawn.
fn drawn(ranks: u32, skew: f64, seed: u64, times: u32) -> Vec<f64> {
    let (zipf, mut chance) = (Zipf::new(ranks, skew), Chance::new(seed));
    let mut counts = vec![0.0; ranks as usize];
    for _ in 0..times {
        counts[zipf.draw(&mut chance) as usize - 1] += 1.0;
    }
    counts
}

proptest! {
    #[test]
    fn ranks_are_drawn_as_often_as_the_law_says(ranks in 1_u32..200, skew in 0.0_f64..3.0, seed: u64) {
        let times = 20_000;
        let counts = drawn(ranks, skew, seed, times);
        let weights: Vec<f64> = (1..=ranks).map(|rank| f64::from(rank).powf(-skew)).collect();
        let total: f64 = weights.iter().sum();
        for (count, weight) in counts.iter().zip(weights) {
            // Six standard deviations of a count, which nobody will see exceeded.
            let expected = f64::from(times) * weight / total;
            prop_assert!((count - expected).abs() <= 6.0 * expected.sqrt() + 6.0, "{count} for {expected}");
        }
    }

    #[test]
    fn ranks_stay_in_their_range_however_many_there_are(ranks: u32, skew in 0.0_f64..=10.0, seed: u64) {
        let (zipf, mut chance) = (Zipf::new(ranks, skew), Chance::new(seed));
        for _ in 0..100 {
            prop_assert!((1..=ranks.max(1)).contains(&zipf.draw(&mut chance)));
        }
    }
}

#[test]
fn the_first_rank_leads_and_without_skew_none_does() {
    for skew in [0.5, 0.99, 1.0, 2.0] {
        let counts = drawn(100, skew, 7, 100_000);
        assert!(counts[1..].iter().all(|count| *count < counts[0]), "{skew}: {counts:?}");
    }
    let counts = drawn(100, 0.0, 7, 100_000);
    assert!(counts.iter().all(|count| (800.0..1200.0).contains(count)), "{counts:?}");
}
