//! Health, metrics, the documentation: what needs no key.

use std::fmt::Write as _;
use std::sync::LazyLock;

use axum::extract::{RawPathParams, State};
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::answer;
use crate::health::{Component, Detail};
use crate::http::problem::{KINDS, NOT_FOUND, Problem, ProblemDocument, documentation};
use crate::http::{AppState, Metrics, spec};

/// Whether something that the service depends on works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    Up,
    Down,
}

impl Condition {
    fn of(is_up: bool) -> Self {
        if is_up { Self::Up } else { Self::Down }
    }
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Health)]
pub struct ReadinessReport {
    /// Whether requests should be sent here.
    #[schema(example = "ready")]
    status: &'static str,
    /// Each dependency by name.
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Dependency {
    #[schema(example = "database")]
    name: &'static str,
    condition: Condition,
    /// What is wrong with it; absent while it is up.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, nullable = false)]
    detail: Option<Detail>,
}

/// The answer of `/livez`.
pub const LIVE: &str = "alive\n";
/// The status of a replica to which requests should be sent.
pub const READY: &str = "ready";

const FORKED: &str =
    "forked: the database contradicts a checkpoint that was published, and nothing is sealed any more";

fn in_quarantine(entries: i64) -> Detail {
    format!(
        "{entries} audit entries are in quarantine: the rest is sealed; see `consentd audit quarantine list`"
    )
    .into()
}

/// Is the process alive?
///
/// It says nothing of the database: restarting the service would not mend that.
#[utoipa::path(get, path = "/livez", tag = "Service", responses((status = 200, description = "Alive", body = String, content_type = "text/plain")), security(()))]
pub async fn livez() -> &'static str {
    LIVE
}

/// Should requests be sent here?
///
/// 503 before the start is complete, while stopping, and for faults of this replica alone, such as its clock. Faults that
/// all replicas share are named with 200: the database is gone, the audit log is forked. Another replica would be no
/// better off.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "Service",
    responses(
        (status = 200, description = "Ready; a dependency may be down", body = ReadinessReport),
        (status = 503, description = "Starting, stopping, or a fault of this replica alone", body = ReadinessReport),
    ),
    security(()),
)]
pub async fn readyz(State(state): State<AppState>) -> Response {
    let log = state.log.get();
    let mut dependencies: Vec<_> = Component::ALL
        .into_iter()
        .map(|component| {
            let detail = match component {
                Component::AuditLog if log.fork.is_some() => Some(FORKED.into()),
                Component::AuditLog if log.quarantined > 0 => {
                    state.health.fault(component).or_else(|| Some(in_quarantine(log.quarantined)))
                }
                component => state.health.fault(component),
            };
            Dependency { name: component.name(), condition: Condition::of(detail.is_none()), detail }
        })
        .collect();
    let panicked = state.health.panicked_tasks();
    dependencies.push(Dependency {
        name: "background_tasks",
        condition: Condition::of(panicked.is_empty()),
        detail: (!panicked.is_empty())
            .then(|| format!("restarted after a panic: {}", panicked.join(", ")).into()),
    });
    let ready = state.health.is_ready();
    let health = ReadinessReport { status: if ready { READY } else { "not ready" }, dependencies };
    answer(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &health)
}

/// Metrics for Prometheus
///
/// Not here when the service is started with a listener for metrics alone.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "Service",
    responses(
        (status = 200, description = "Prometheus text format", body = String, content_type = "text/plain"),
        (status = 404, description = "They are served elsewhere", body = ProblemDocument<'static>, content_type = "application/problem+json"),
    ),
    security(()),
)]
pub async fn metrics(State(state): State<AppState>) -> Result<Response, Problem> {
    match &state.metrics {
        Some(metrics) => Ok(exposition(metrics)),
        None => Err(Problem::new(&NOT_FOUND, "metrics are served on a listener of their own")),
    }
}

pub fn exposition(metrics: &Metrics) -> Response {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(CONTENT_TYPE, kind)], metrics()).into_response()
}

/// This document
///
/// Generated from the handlers: what it says is what is served.
#[utoipa::path(get, path = "/openapi.json", tag = "Service", responses((status = 200, description = "OpenAPI 3.1", body = Object, content_type = "application/json")), security(()))]
pub async fn get_openapi() -> Response {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(spec::json);
    answer(StatusCode::OK, &*DOCUMENT)
}

/// What a kind of problem means
///
/// The page behind a problem's `type`.
#[utoipa::path(
    get,
    path = "/problems/{slug}",
    tag = "Service",
    params(("slug" = String, Path, description = "The kind of problem", example = "unknown-customer")),
    responses(
        (status = 200, description = "The page", body = String, content_type = "text/html"),
        (status = 404, description = "There is no such kind of problem", body = ProblemDocument<'static>, content_type = "application/problem+json"),
    ),
    security(()),
)]
pub async fn get_problem(path: RawPathParams) -> Result<Response, Problem> {
    let slug = path.iter().next().map(|(_, slug)| slug.to_owned()).unwrap_or_default();
    let kind = KINDS.iter().find(|kind| kind.slug == slug);
    let Some((kind, text)) = kind.and_then(|kind| documentation(kind.slug).map(|text| (kind, text))) else {
        return Err(Problem::new(&NOT_FOUND, "there is no such kind of problem"));
    };
    let mut paragraphs = String::new();
    for paragraph in text.split(
        "

",
    ) {
        let _ = writeln!(paragraphs, "<p>{}</p>", escape(paragraph));
    }
    let page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width\">\n<title>{slug}</title>\n<h1>{title}</h1>\n<p><code>/problems/{slug}</code>, \
         status {status}</p>\n{paragraphs}</html>\n",
        title = escape(kind.title),
        slug = kind.slug,
        status = kind.status.as_u16(),
    );
    let policy = HeaderValue::from_static("default-src 'none'; base-uri 'none'; frame-ancestors 'none'");
    let kind = HeaderValue::from_static("text/html; charset=utf-8");
    Ok(([(CONTENT_TYPE, kind), (CONTENT_SECURITY_POLICY, policy)], page).into_response())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
