//! More than can be carried: what is refused is refused cleanly, and what is carried stays as much.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use consentd::domain::{ApiKey, KeyKind};
use futures_util::future::join_all;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::cli_client::Running;
use crate::service::{Answer, Service, consent};

fn random() -> [u8; 64] {
    let ids: [Uuid; 4] = std::array::from_fn(|_| Uuid::new_v4());
    std::array::from_fn(|place| ids[place / 16].as_bytes()[place % 16])
}

/// For want of a place, or of a connection to the database.
#[track_caller]
fn assert_refused_for_now(answer: &Answer) {
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.header("retry-after").is_some());
}

#[tokio::test]
async fn a_flood_of_unknown_keys_is_refused_and_costs_those_who_have_one_no_more_than_a_wait() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let flood = (0..1000).map(|_| async {
        let key = ApiKey::new(KeyKind::Live, &random());
        service.get(&consent(customer)).key(key.reveal()).send().await
    });
    let answers = join_all(flood).await;
    for answer in &answers {
        if answer.status == 401 {
            answer.problem("unauthenticated");
        } else {
            assert_refused_for_now(answer);
        }
    }
    let statuses: BTreeSet<u16> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    assert!(statuses.contains(&401), "{statuses:?}");
    service.get(&consent(customer)).send().await.expect(200);
}

#[tokio::test]
async fn a_flood_of_questions_about_unknown_customers_is_denied_or_refused() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let flood = (0..1000).map(|_| async {
        let check = format!("{}/permissions?check=images", consent(Uuid::new_v4()));
        service.get(&check).send().await
    });
    for answer in join_all(flood).await {
        if answer.status == 200 {
            assert_eq!(answer.json()["allowed"], false);
        } else {
            assert_refused_for_now(&answer);
        }
    }
    service.get(&consent(customer)).send().await.expect(200);
}

/// What `consentd load` says of all kinds together.
async fn load(running: &Running, arguments: &[&str]) -> Value {
    let common = ["load", "--mix", "check=1", "--customers", "100", "--warm-up", "500ms", "--json"];
    let report = Running::json(&running.run(&[&common[..], arguments].concat()).await);
    report["rows"].as_array().expect("rows").last().expect("a row").clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes: make soak"]
async fn soak_three_times_what_can_be_carried_is_refused_cleanly_and_leaves_no_trace_after_five_seconds() {
    let running = Running::start().await;
    running.run(&["load", "--create", "--customers", "100", "--duration", "100ms"]).await;
    let peak = load(&running, &["--connections", "48", "--duration", "5s"]).await;
    assert_eq!(peak["errors"], serde_json::json!({}), "{peak}");
    let peak_rate = peak["good_per_second"].as_f64().expect("a rate");
    let offered = |share: f64| format!("{:.0}", peak_rate * share);
    let storm = load(&running, &["--connections", "500", "--duration", "10s", "--rate", &offered(3.0)]).await;
    let after = Instant::now();
    let refusals: BTreeSet<&str> =
        storm["errors"].as_object().expect("errors").keys().map(String::as_str).collect();
    assert!(refusals.iter().all(|error| *error == "503"), "{storm}");
    let storm_rate = storm["good_per_second"].as_f64().expect("a rate");
    // How much it is depends on what the load itself takes of this machine: bench/ measures it, a test only that there is
    // some.
    eprintln!("peak {peak_rate:.0}/s, at three times as much {storm_rate:.0}/s");
    assert!(storm_rate > 0.0, "{peak}\n{storm}");
    loop {
        let calm =
            load(&running, &["--connections", "48", "--duration", "1s", "--rate", &offered(0.4)]).await;
        let p99 = calm["latency_us"]["p99"].as_f64().expect("a latency");
        if calm["errors"] == serde_json::json!({}) && p99 < 50_000.0 {
            break;
        }
        assert!(after.elapsed() < Duration::from_secs(5), "{calm}");
    }
}

/// Of this process, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this is Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line for it");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
}

#[tokio::test]
#[ignore = "18,000 sockets: make soak, after ulimit -n 20000"]
async fn soak_nine_thousand_idle_connections_take_little_memory_and_leave_the_service_quick() {
    const CONNECTIONS: u64 = 9000;
    let running = Running::start().await;
    let address = running.url.strip_prefix("http://").expect("an address").to_owned();
    let before = resident();
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(&address).await.expect("a connection");
        // Each has asked once, so that what a connection holds is all there.
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: test\r\n\r\n").await.expect("a request");
        assert!(stream.read(&mut [0; 1024]).await.expect("an answer") > 0);
        idle.push(stream);
    }
    let each = (resident() - before) / CONNECTIONS;
    eprintln!("{each} bytes for each idle connection");
    assert!(each < 64 * 1024, "{each} bytes");
    let asked = Instant::now();
    let customer = running.service.customer().await;
    running.service.get(&consent(customer)).send().await.expect(200);
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
}
