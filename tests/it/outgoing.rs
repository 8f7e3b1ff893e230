//! Outgoing calls: an answer counts only for the request that was sent.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::body::Body;
use axum::http::header::LOCATION;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use consentd::tlog::VerifierKey;
use consentd::tlog::note::Algorithm;
use tokio::net::TcpListener;

use crate::cli_client::Done;
use crate::cluster::database;
use crate::log::eventually;
use crate::log::running::Running;

/// A server whose answers a test gives. Requests for `/elsewhere` are counted and answered well.
struct Place {
    url: String,
    called: Arc<AtomicU32>,
    elsewhere: Arc<AtomicU32>,
}

impl Place {
    async fn start(answer: impl Fn(&Method, &Uri) -> Response + Clone + Send + Sync + 'static) -> Self {
        let (called, elsewhere) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let (calls, strays) = (Arc::clone(&called), Arc::clone(&elsewhere));
        let router = Router::new().fallback(async move |method: Method, uri: Uri| {
            if uri.path().starts_with("/elsewhere") {
                strays.fetch_add(1, Ordering::Relaxed);
                return StatusCode::OK.into_response();
            }
            calls.fetch_add(1, Ordering::Relaxed);
            answer(&method, &uri)
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, called, elsewhere }
    }

    /// A server that sends everybody elsewhere.
    async fn redirecting(status: StatusCode) -> Self {
        Self::start(move |_, _| (status, [(LOCATION, "/elsewhere")]).into_response()).await
    }

    fn calls(&self) -> u32 {
        self.called.load(Ordering::Relaxed)
    }

    fn strays(&self) -> u32 {
        self.elsewhere.load(Ordering::Relaxed)
    }
}

async fn failures(running: &Running, place: &str) -> bool {
    let none = format!("consentd_audit_checkpoint_failures_total{{place=\"{place}\"}} 0");
    !running.get("/metrics").await.contains(&none)
}

#[tokio::test]
async fn a_redirect_delivers_no_checkpoint_and_no_trace() {
    let database = database().await;
    let data_dir = tempfile::tempdir().expect("a folder");
    let hook = Place::redirecting(StatusCode::MOVED_PERMANENTLY).await;
    let witness = Place::redirecting(StatusCode::TEMPORARY_REDIRECT).await;
    let collector = Place::redirecting(StatusCode::PERMANENT_REDIRECT).await;
    let key = VerifierKey::new("witness.example/w", Algorithm::Cosignature, [8; 32]);
    let witness_setting = format!("{}@{}", witness_key(key.ok()), witness.url);
    let settings = [
        ("CONSENTD_AUDIT_CHECKPOINT_WEBHOOK", hook.url.as_str()),
        ("CONSENTD_AUDIT_WITNESSES", &witness_setting),
        ("CONSENTD_OTLP_ENDPOINT", &collector.url),
    ];
    let running = Running::start(&database, data_dir.path(), &settings).await;
    let customer = running.customer("a@example.com").await;
    running.change(customer).await;
    eventually("the redirects are counted as failures", async || {
        failures(&running, "webhook").await && failures(&running, "witness").await
    })
    .await;
    running.stop().await;
    for place in [&hook, &witness, &collector] {
        assert!(place.calls() > 0);
        assert_eq!(place.strays(), 0, "a redirect was followed");
    }
}

/// A witness' key; some bytes are no public key, and then another one serves.
fn witness_key(key: Option<VerifierKey>) -> VerifierKey {
    let signing = ed25519_dalek::SigningKey::from_bytes(&[41; 32]);
    key.unwrap_or_else(|| {
        VerifierKey::new("witness.example/w", Algorithm::Cosignature, signing.verifying_key().to_bytes())
            .expect("a key")
    })
}

#[tokio::test]
async fn a_witness_counts_only_for_its_signature_on_a_tree_that_the_log_has() {
    let database = database().await;
    let data_dir = tempfile::tempdir().expect("a folder");
    let endless = Place::start(|_, _| {
        Body::from_stream(futures_util::stream::repeat(Ok::<_, String>("— x AAAA\n"))).into_response()
    })
    .await;
    let ahead = Place::start(|_, _| (StatusCode::CONFLICT, "4711\n").into_response()).await;
    let witnesses = [&endless, &ahead].map(|place| format!("{}@{}", witness_key(None), place.url)).join(",");
    let settings = [("CONSENTD_AUDIT_WITNESSES", witnesses.as_str())];
    let running = Running::start(&database, data_dir.path(), &settings).await;
    running.says("its answer is longer than 65536 bytes").await;
    running.says("it has cosigned a tree of size 4711, which this log does not have").await;
    running.stop().await;
}

#[tokio::test]
async fn a_client_command_takes_no_answer_of_another_program_or_address_for_the_service() {
    let well = Place::start(|_, _| (StatusCode::OK, "It works!").into_response()).await;
    let id = uuid::Uuid::new_v4().to_string();
    let redirecting = Place::redirecting(StatusCode::MOVED_PERMANENTLY).await;
    for place in [&well, &redirecting] {
        for command in [
            vec!["healthcheck"],
            vec!["healthcheck", "--live"],
            vec!["key", "list"],
            vec!["key", "revoke", &id],
            vec!["consent", "withdraw", &id],
            vec!["audit", "list"],
            vec!["audit", "export"],
            vec!["load", "--duration", "1s", "--customer", &id],
        ] {
            let done = Done::of(&place.url, "vla_test_abcdnotakey", &command).await;
            assert_ne!(done.code, Some(0), "{command:?}: {}", done.stdout);
        }
        assert!(place.calls() > 0);
        assert_eq!(place.strays(), 0, "a redirect was followed");
    }
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

#[test]
fn every_http_client_is_made_in_one_place() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for path in sources(&source) {
        if path.ends_with("outbound.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a source");
        for made in ["reqwest::Client::", "ClientBuilder::", "blocking::Client::", "reqwest::get("] {
            assert!(!text.contains(made), "{}: make the client with crate::outbound", path.display());
        }
        let imports_client =
            text.lines().any(|line| line.starts_with("use reqwest::") && line.contains("Client"));
        for made in ["Client::builder(", "Client::default("] {
            assert!(
                !imports_client || !text.contains(made),
                "{}: make the client with crate::outbound",
                path.display()
            );
        }
    }
}
