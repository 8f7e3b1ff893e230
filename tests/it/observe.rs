//! What is noted of each request: its id, its log line, its metrics.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use consentd::config::{LogFormat, TelemetryConfig};
use consentd::domain::Principal;
use consentd::http::observe::{CallerName, Cause, RequestId, Template, observe};
use consentd::telemetry::{self, Metrics};
use tokio::time::timeout;
use tower::ServiceExt;
use uuid::Uuid;

fn router() -> Router {
    let broken = || async {
        let mut answer = StatusCode::INTERNAL_SERVER_ERROR.into_response();
        answer.extensions_mut().insert(Cause("the disk is full".to_owned()));
        let principal = Principal {
            key_id: Uuid::nil(),
            customer_id: None,
            key_prefix: "vla_live_a1b2".to_owned(),
            scopes: Vec::new(),
            rate_limit_override_rpm: None,
            rate_limit_rpm: None,
            rate_limit_rpd: None,
        };
        answer.extensions_mut().insert(CallerName(Arc::new(principal)));
        answer
    };
    Router::new()
        .route("/id", get(|Extension(id): Extension<RequestId>| async move { id.to_string() }))
        .route("/customers/{id}", get(|| async { "found" }))
        .route("/counted/{id}", get(|| async { "counted" }))
        .route("/broken", get(broken))
        .route("/never", get(std::future::pending::<()>))
        .layer(from_fn(async |request: axum::extract::Request, next: Next| {
            let template = Template::of(&request);
            observe(request, template, |request| next.run(request)).await
        }))
}

async fn ask(method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    let request =
        headers.iter().fold(Request::builder().method(method).uri(path), |request, (name, value)| {
            request.header(*name, *value)
        });
    let request = request.body(Body::empty()).expect("a well-formed request");
    router().oneshot(request).await.expect("a router never fails")
}

async fn id_of(headers: &[(&str, &str)]) -> String {
    let answer = ask("GET", "/id", headers).await;
    let told = answer.headers()["x-request-id"].to_str().expect("visible ASCII").to_owned();
    let seen = to_bytes(answer.into_body(), 1000).await.expect("a short body");
    assert_eq!(told.as_bytes(), seen, "the handler sees what the client is told");
    told
}

#[tokio::test]
async fn a_sane_request_id_is_kept_and_any_other_replaced() {
    let longest = "x".repeat(128);
    for sane in ["a", "01-Test_id.7:x", &longest] {
        assert_eq!(id_of(&[("x-request-id", sane)]).await, sane);
    }
    let too_long = "x".repeat(129);
    for other in ["", "two words", "<script>", "é", &too_long] {
        let id = id_of(&[("x-request-id", other)]).await;
        assert_eq!(id.parse::<uuid::Uuid>().unwrap().get_version_num(), 7, "{other} became {id}");
    }
    assert_ne!(id_of(&[]).await, id_of(&[]).await);
    assert!(ask("GET", "/nowhere", &[]).await.headers().contains_key("x-request-id"));
}

/// What is logged on this thread, as JSON lines.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("nobody panics while writing").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_log_line_names_the_route_and_the_cause_but_never_the_path() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber =
        tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || writer.clone()).finish();
    let guard = tracing::subscriber::set_default(subscriber);
    let personal = [("x-request-id", "one"), ("authorization", "Bearer canary"), ("user-agent", "canary")];
    ask("GET", "/customers/canary-in-path?q=canary-in-query", &personal).await;
    ask("GET", "/broken", &[("x-request-id", "two")]).await;
    ask("GET", "/canary/nowhere", &[("x-request-id", "three")]).await;
    let given_up = ask("GET", "/never", &[("x-request-id", "four")]);
    timeout(Duration::from_millis(10), given_up).await.expect_err("it never answers");
    drop(guard);

    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert!(!text.contains("canary"), "{text}");
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 4, "one line for each request: {text}");
    let told = |line: usize, name: &str, value: serde_json::Value| {
        assert_eq!(lines[line][name], value, "{name} in {}", lines[line]);
    };
    told(0, "request_id", "one".into());
    told(0, "level", "INFO".into());
    told(0, "method", "GET".into());
    told(0, "route", "/customers/{id}".into());
    told(0, "status", 200.into());
    assert!(lines[0]["duration_ms"].is_f64());
    told(1, "request_id", "two".into());
    told(1, "level", "ERROR".into());
    told(1, "status", 500.into());
    told(1, "cause", "the disk is full".into());
    told(1, "key", "vla_live_a1b2".into());
    told(2, "route", "unmatched".into());
    told(2, "status", 404.into());
    told(3, "message", "request given up by its client".into());
    told(3, "request_id", "four".into());
}

#[tokio::test]
async fn requests_are_counted_by_route_with_the_names_of_opentelemetry() {
    let metrics = Metrics::install();
    ask("GET", "/counted/7", &[]).await;
    ask("GET", "/counted/8", &[]).await;
    ask("BREW", "/counted/7", &[]).await;
    telemetry::database_up(true);
    telemetry::pool_connections("of_this_test", 3, 5);
    telemetry::swept("2026-01-15T10:30:00.5Z".parse().unwrap());
    telemetry::expiries_recorded(2);
    let text = metrics.render();
    let has = |line: &str| assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
    has("# TYPE http_server_request_duration_seconds histogram");
    let labels = r#"http_request_method="GET",http_route="/counted/{id}",http_response_status_code="200""#;
    has(&format!("http_server_request_duration_seconds_count{{{labels}}} 2"));
    has(&format!(r#"http_server_request_duration_seconds_bucket{{{labels},le="10"}} 2"#));
    assert!(text.contains(r#"http_request_method="_OTHER""#) && !text.contains("BREW"), "{text}");
    has("# TYPE http_server_active_requests gauge");
    let pool = r#"db_client_connection_pool_name="of_this_test",db_client_connection_state"#;
    has(&format!(r#"db_client_connection_count{{{pool}="idle"}} 3"#));
    has(&format!(r#"db_client_connection_count{{{pool}="used"}} 5"#));
    // Other tests of this process may set these too.
    has("# TYPE consentd_database_up gauge");
    has("# TYPE consentd_expiry_sweep_last_run_timestamp_seconds gauge");
    has("# TYPE consentd_expiry_sweep_entries_total counter");
    has("# TYPE consentd_expiry_sweep_failures_total counter");
    for name in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()) {
        assert!(text.contains(&format!("# HELP {name} ")), "{name} is not described in\n{text}");
    }
}

#[test]
fn telemetry_can_be_set_up_twice_and_refuses_a_filter_that_is_none() {
    let config =
        |log: &str| TelemetryConfig { log_format: LogFormat::Json, log: log.to_owned(), otlp_endpoint: None };
    telemetry::init(&config("off")).unwrap().shutdown();
    telemetry::init(&config("off")).unwrap().shutdown();
    let refusal = telemetry::init(&config("consentd=loud")).unwrap_err().to_string();
    assert!(refusal.starts_with("--log is not a filter"), "{refusal}");
}
