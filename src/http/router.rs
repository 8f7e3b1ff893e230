//! The table of contents of the API, and what every request goes through.

use std::any::Any;
use std::convert::Infallible;
use std::ops::Deref;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::{FromRequestParts as _, Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{Route, get};
use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Either};
use tower::layer::layer_fn;
use tower::util::Oneshot;
use tower::{ServiceExt as _, service_fn};
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::{Config, SwaggerUi};
use uuid::Uuid;

use super::admission::{Admission, is_read};
use super::api::{audit, consent, customers, erasure, keys, links, log, permissions, proof, service};
use super::auth::{AccessTable, authorize};
use super::client_address::ClientAddresses;
use super::cursor::Cursors;
use super::downloads::Downloads;
use super::extract::{Caller, PathId};
use super::input::{self, Params};
use super::limits::{ConcurrencyLimits, Group};
use super::observe::{RequestId, Template, observe};
use super::problem::{NOT_FOUND, Problem};
use super::rates::RateLimiter;
use super::shares::{Owner, Shares};
use super::{console, my, pages, server, spec};
use crate::cache::Cache;
use crate::error::Error;
use crate::health::Health;
use crate::ops::consents::Writer;
use crate::ops::log::verifying::Verifications;
use crate::ops::log::{LogKeys, LogView};
use crate::store::Store;

/// Renders the metrics.
pub type Metrics = Arc<dyn Fn() -> String + Send + Sync>;

/// What the handlers work with: one handle, since every layer of the router has its own.
#[derive(Clone)]
pub struct AppState(Arc<Parts>);

impl From<Parts> for AppState {
    /// The handlers judge by the later of this replica's clock and the database's.
    fn from(mut parts: Parts) -> Self {
        let (local, cache) = (parts.clock, Arc::clone(&parts.cache));
        parts.clock = Arc::new(move || cache.clock.later_time(local()));
        Self(Arc::new(parts))
    }
}

impl Parts {
    /// Returns the time of an audit event that is written now: the database's.
    pub fn entry_time(&self) -> DateTime<Utc> {
        self.cache.clock.database_time_of((self.clock)())
    }
}

impl Deref for AppState {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// What they are.
pub struct Parts {
    pub store: Store,
    pub writer: Writer,
    /// What is asked on the hot path.
    pub cache: Arc<Cache>,
    /// The only clock: as it is given, this replica's.
    pub clock: Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>,
    pub cursors: Cursors,
    pub client_addresses: ClientAddresses,
    pub health: Arc<Health>,
    /// Renders the metrics; `None` where another listener does.
    pub metrics: Option<Metrics>,
    pub concurrency: ConcurrencyLimits,
    /// The memory for bodies that are arriving.
    pub bodies: Shares,
    pub downloads: Downloads,
    pub rates: RateLimiter,
    pub log_keys: Arc<LogKeys>,
    /// What this replica knows of the audit log.
    pub log: Arc<LogView>,
    /// Scheme and host under which customers reach this service, if it knows: links begin with it.
    pub public_url: Option<Arc<str>>,
    pub verifications: Arc<Verifications>,
}

impl std::fmt::Debug for AppState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AppState")
    }
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Parts")
    }
}

/// Every operation that the OpenAPI document lists.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(spec::Spec::openapi())
        .routes(routes!(consent::get_consent, consent::put_consent, consent::withdraw_consent))
        .routes(routes!(consent::list_consents))
        .routes(routes!(permissions::get_permissions))
        .routes(routes!(permissions::check_permissions))
        .routes(routes!(audit::list_customer_audit))
        .routes(routes!(audit::list_audit))
        .routes(routes!(audit::get_audit_entry))
        .routes(routes!(audit::list_audit_events))
        .routes(routes!(proof::get_audit_proof))
        .routes(routes!(log::get_checkpoint))
        .routes(routes!(log::get_tile))
        .routes(routes!(log::get_consistency))
        .routes(routes!(log::get_log_status))
        .routes(routes!(log::get_verifier_keys))
        .routes(routes!(customers::list_customers, customers::create_customer))
        .routes(routes!(customers::get_customer, customers::change_customer))
        .routes(routes!(erasure::erase_customer_data))
        .routes(routes!(links::list_consent_links, links::create_consent_link))
        .routes(routes!(links::revoke_consent_link))
        .routes(routes!(keys::list_api_keys, keys::create_api_key))
        .routes(routes!(keys::revoke_api_key))
        .routes(routes!(keys::rotate_api_key))
        .routes(routes!(service::livez))
        .routes(routes!(service::readyz))
        .routes(routes!(service::metrics))
        .routes(routes!(service::get_openapi))
        .routes(routes!(service::get_problem))
}

/// The whole service.
pub fn router(state: AppState) -> Service {
    let (api, document) = routes().split_for_parts();
    let access = AccessTable::from_spec(&document);
    let docs: Router<AppState> = SwaggerUi::new("/docs")
        .config(Config::from("/openapi.json").try_it_out_enabled(true).persist_authorization(false))
        .into();
    let guard = Arc::new(Guard { state: state.clone(), access });
    let others =
        docs.layer(from_fn(docs_policy))
            .merge(pages::asset_routes())
            .merge(pages::dressed(console::routes(&state)))
            .merge(my::routes(&state))
            .fallback(|| async { Problem::new(&NOT_FOUND, "check the address: /docs lists what there is") })
            .layer(layer_fn(|route: Route| {
                service_fn(move |request| {
                    let (route, template) = (route.clone(), Template::of(&request));
                    async move {
                        Ok::<_, Infallible>(attend(request, template, |request| run(route, request)).await)
                    }
                })
            }));
    let guarding = Arc::clone(&guard);
    let api = api.route_layer(layer_fn(move |route: Route| {
        let guarded = Arc::new((Arc::clone(&guarding), route));
        service_fn(move |request| {
            let (guarded, template) = (Arc::clone(&guarded), Template::of(&request));
            async move {
                let (guard, route) = &*guarded;
                let admitted =
                    |request| guard.admit(request, template.as_str(), |request| run(route.clone(), request));
                Ok::<_, Infallible>(attend(request, template.clone(), admitted).await)
            }
        })
    }));
    // Turns every route into a service once, instead of for each request.
    let router = others.merge(api).with_state(state).with_state(());
    Service { guard, router }
}

/// The router, and before it the two reads that are asked for with every inference. They are found by their path, which
/// saves a seventh of what the service does for a request, and go through the same gates to the same handlers.
#[derive(Clone)]
pub struct Service {
    guard: Arc<Guard>,
    router: Router,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Service")
    }
}

impl tower::Service<Request> for Service {
    type Response = Response;
    type Error = Infallible;
    type Future = Either<BoxFuture<'static, Result<Response, Infallible>>, Oneshot<Router, Request>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let Some((read, customer_id)) = HotRead::of(&request) else {
            return Either::Right(self.router.clone().oneshot(request));
        };
        let guard = Arc::clone(&self.guard);
        Either::Left(Box::pin(async move {
            let template = read.template();
            let answer = |request| read.answer(&guard.state, customer_id, request);
            let admitted = |request| guard.admit(request, template, answer);
            Ok(attend(request, Template::Known(template), admitted).await)
        }))
    }
}

/// A read of one customer's consent.
#[derive(Clone, Copy)]
enum HotRead {
    Permissions,
    Consent,
}

impl HotRead {
    /// Which one a request is, and whose. What is not quite one of them is the router's to refuse.
    fn of(request: &Request) -> Option<(Self, Uuid)> {
        if request.method() != Method::GET {
            return None;
        }
        let (customer_id, rest) = request.uri().path().strip_prefix("/v1/customers/")?.split_once('/')?;
        let read = match rest {
            "consent/permissions" => Self::Permissions,
            "consent" => Self::Consent,
            _ => return None,
        };
        Some((read, input::uuid(customer_id).ok()?))
    }

    fn template(self) -> &'static str {
        match self {
            Self::Permissions => "/v1/customers/{customer_id}/consent/permissions",
            Self::Consent => "/v1/customers/{customer_id}/consent",
        }
    }

    async fn answer(self, state: &AppState, customer_id: Uuid, request: Request) -> Response {
        let (mut parts, _) = request.into_parts();
        let caller = match Caller::from_request_parts(&mut parts, state).await {
            Ok(caller) => caller,
            Err(problem) => return problem.into_response(),
        };
        let params = Params::parse(parts.uri.query().unwrap_or_default());
        let (state, customer_id) = (State(state.clone()), PathId(customer_id));
        match self {
            Self::Permissions => permissions::get_permissions(state, caller, customer_id, params).await,
            Self::Consent => consent::get_consent(state, caller, customer_id, params, parts.headers).await,
        }
        .into_response()
    }
}

/// The metrics alone.
pub fn metrics_router(metrics: Metrics) -> Router {
    Router::new().route("/metrics", get(async move || service::exposition(&metrics)))
}

/// What every request goes through, the known routes and all others. A layer of its own for each of these costs more
/// than a check does.
async fn attend<F: Future<Output = Response>>(
    request: Request,
    template: Template,
    next: impl FnOnce(Request) -> F,
) -> Response {
    observe(request, template, |request| {
        finish(request, async |request| {
            // Pinned where it is: a future that is handed on is copied whole.
            let next = pin!(next(request));
            let answer = AssertUnwindSafe(next).catch_unwind().await;
            answer.unwrap_or_else(|panic| panicked(&*panic))
        })
    })
    .await
}

/// What every operation of the API goes through besides.
struct Guard {
    state: AppState,
    access: AccessTable,
}

impl Guard {
    /// The caller comes first: a permit is taken once the whole request is there, and the body of an unknown client is not
    /// waited for. A key that is not in memory is looked up in the database, together with all others that are looked up
    /// at that time, so that unknown keys cost one statement at a time.
    async fn admit<F: Future<Output = Response>>(
        &self,
        request: Request,
        template: &str,
        next: impl FnOnce(Request) -> F,
    ) -> Response {
        let admitted = async |request: Request| {
            // Health and metrics have no limits: they show the overload.
            if !request.uri().path().starts_with("/v1/") {
                return next(request).await;
            }
            let (group, owner) = match request.extensions().get::<Caller>() {
                None => (Group::Public, Owner::Public),
                Some(caller) => {
                    let group = if is_read(request.method()) { Group::Read } else { Group::Write };
                    (group, Owner::of(&caller.principal))
                }
            };
            Admission { group, owner, template }.run(&self.state, request, next).await
        };
        authorize(&self.state, &self.access, request, template, admitted).await
    }
}

async fn run(route: Route, request: Request) -> Response {
    route.oneshot(request).await.unwrap_or_else(|never| match never {})
}

/// A bug in a handler costs one answer, not the connection.
fn panicked(panic: &(dyn Any + Send)) -> Response {
    let cause = panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_default();
    Problem::from(Error::Internal(format!("panic: {cause}"))).into_response()
}

/// Refuses oversized requests, writes problems' bodies, adds the headers that every answer has.
async fn finish(request: Request, next: impl AsyncFnOnce(Request) -> Response) -> Response {
    let request_id = request.extensions().get::<RequestId>().cloned();
    let mut response = match server::oversize(request.uri(), request.headers()) {
        Some(status) => Problem::oversize(status).into_response(),
        None => next(request).await,
    };
    // The router refuses a method by its status alone.
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        response.extensions_mut().insert(Problem::method_not_allowed());
    }
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        problem.write(&mut response, &request_id.map(|id| id.to_string()).unwrap_or_default());
    }
    let headers = response.headers_mut();
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers
        .entry(CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    response
}

/// The reference's pages load only what the service itself serves; Swagger UI carries its icons as data.
async fn docs_policy(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.headers_mut().insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
             connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
        ),
    );
    response
}
