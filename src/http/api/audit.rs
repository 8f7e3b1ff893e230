//! The audit trail: paged as JSON, or whole as CSV or NDJSON.

use axum::extract::State;
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use chrono::{DateTime, Utc};
use utoipa::IntoParams;
use uuid::Uuid;

use super::export::{Format, export};
use super::{Page, Paging, answer};
use crate::domain::{AuditAction, AuditEntry, AuditEvent, ConsentTier, EventKind};
use crate::error::Error;
use crate::http::AppState;
use crate::http::extract::{Caller, PathAuditId, PathId};
use crate::http::input::{Params, choice, network, nonempty, time, uuid};
use crate::http::problem::Problem;
use crate::http::shares::Owner;
use crate::http::spec::{ReadProblems, UnknownCustomer};
use crate::store::audit::{AuditFilter, Position};

/// Which entries.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "the fields document the parameters which `read_filter` reads")]
pub struct AuditQuery {
    /// From this instant on.
    since: Option<DateTime<Utc>>,
    /// Before this instant.
    until: Option<DateTime<Utc>>,
    action: Option<AuditAction>,
    previous_tier: Option<ConsentTier>,
    new_tier: Option<ConsentTier>,
    /// By this principal, e.g. `key:vla_live_a1b2`.
    #[param(min_length = 1, max_length = 255)]
    changed_by: Option<String>,
    /// From this address, or this network (CIDR).
    #[param(example = "203.0.113.0/24")]
    ip_address: Option<String>,
    /// Made by this request.
    #[param(min_length = 1, max_length = 128)]
    request_id: Option<String>,
}

fn read_filter(params: &mut Params) -> AuditFilter {
    AuditFilter {
        customer_id: None,
        since: params.take("since", time),
        until: params.take("until", time),
        action: params.take("action", choice(&AuditAction::ALL, AuditAction::as_str)),
        previous_tier: params.take("previous_tier", choice(&ConsentTier::ALL, ConsentTier::as_str)),
        new_tier: params.take("new_tier", choice(&ConsentTier::ALL, ConsentTier::as_str)),
        changed_by: params.take("changed_by", nonempty(255)),
        ip_address: params.take("ip_address", network),
        request_id: params.take("request_id", nonempty(128)),
    }
}

/// A customer's audit trail
///
/// All changes of one customer's consent, newest first; also of a customer who was deleted. With `Accept: text/csv` or
/// `application/x-ndjson` the whole result is streamed as a download, and `limit` and `cursor` are not taken.
#[utoipa::path(
    get,
    path = "/v1/customers/{customer_id}/consent/audit",
    tag = "Audit",
    params(("customer_id" = Uuid, Path, description = "The customer"), AuditQuery, Paging),
    responses(
        (status = 200, description = "A page of entries, or all as a download", content(
            (Page<AuditEntry> = "application/json"),
            (String = "text/csv"),
            (String = "application/x-ndjson"),
        ), headers(("Link" = String, description = "`<…>; rel=\"next\"` when there is a next page"))),
        ReadProblems,
        UnknownCustomer,
    ),
    security(("api_key" = ["audit:read"])),
)]
pub async fn list_customer_audit(
    State(state): State<AppState>,
    caller: Caller,
    PathId(customer_id): PathId,
    mut params: Params,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    let filter = read_filter(&mut params);
    caller.must_reach(customer_id)?;
    if !state.store.has_trail(customer_id).await? {
        return Err(Error::UnknownCustomer.into());
    }
    let filter = AuditFilter { customer_id: Some(customer_id), ..filter };
    entries(&state, &caller, params, &headers, &uri, filter).await
}

/// The audit trail of all customers
///
/// All changes of all customers' consents, newest first by their times. A customer's key sees that customer's alone. With
/// `Accept: text/csv` or `application/x-ndjson` the whole result is streamed as a download, and `limit` and `cursor` are not
/// taken.
#[utoipa::path(
    get,
    path = "/v1/audit",
    tag = "Audit",
    params(
        ("customer_id" = Option<Uuid>, Query, description = "Of this customer alone"),
        AuditQuery,
        Paging,
    ),
    responses(
        (status = 200, description = "A page of entries, or all as a download", content(
            (Page<AuditEntry> = "application/json"),
            (String = "text/csv"),
            (String = "application/x-ndjson"),
        ), headers(("Link" = String, description = "`<…>; rel=\"next\"` when there is a next page"))),
        ReadProblems,
    ),
    security(("api_key" = ["audit:read"])),
)]
pub async fn list_audit(
    State(state): State<AppState>,
    caller: Caller,
    mut params: Params,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Problem> {
    let filter = read_filter(&mut params);
    let customer_id = params.take("customer_id", uuid);
    let filter = AuditFilter { customer_id: caller.narrow(customer_id)?, ..filter };
    entries(&state, &caller, params, &headers, &uri, filter).await
}

async fn entries(
    state: &AppState,
    caller: &Caller,
    mut params: Params,
    headers: &HeaderMap,
    uri: &Uri,
    filter: AuditFilter,
) -> Result<Response, Problem> {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if let Some(format) = Format::accepted(accept) {
        params.finish()?;
        return export(state, Owner::of(&caller.principal), filter, format).await;
    }
    let paging = Paging::read(&mut params, &state.cursors, uri);
    params.finish()?;
    let entries = state.store.audit_entries(&filter, paging.position, paging.fetch()).await?;
    let position = |entry: &AuditEntry| Position { timestamp: entry.timestamp, audit_id: entry.audit_id };
    Ok(paging.page(&state.cursors, entries, position))
}

/// One audit entry
///
/// An entry never changes; personal fields in it can be erased, to null.
#[utoipa::path(
    get,
    path = "/v1/audit/{audit_id}",
    tag = "Audit",
    params(("audit_id" = i64, Path, description = "The entry", minimum = 1, maximum = 9_007_199_254_740_991_i64)),
    responses(
        (status = 200, description = "The entry", body = AuditEntry),
        ReadProblems,
        crate::http::spec::UnknownAuditEntry,
    ),
    security(("api_key" = ["audit:read"])),
)]
pub async fn get_audit_entry(
    State(state): State<AppState>,
    caller: Caller,
    PathAuditId(audit_id): PathAuditId,
    params: Params,
) -> Result<Response, Problem> {
    params.finish()?;
    // To a customer's key, another customer's entry is as unknown as one that never was: ids are countable.
    let entry =
        state.store.audit_entry(audit_id).await?.filter(|entry| caller.principal.reaches(entry.customer_id));
    Ok(answer(StatusCode::OK, &entry.ok_or(Error::UnknownAuditEntry)?))
}

/// Which events.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "the fields document the parameters which `list_audit_events` reads")]
pub struct EventQuery {
    kind: Option<EventKind>,
    /// About this customer alone.
    customer_id: Option<Uuid>,
}

/// The events of the audit log
///
/// Erasures and logs that were opened, newest first: what is in the log beside the changes of consents. A customer's key
/// sees what is about that customer.
#[utoipa::path(
    get,
    path = "/v1/audit/events",
    tag = "Audit log",
    params(EventQuery, Paging),
    responses(
        (status = 200, description = "A page of events", body = Page<AuditEvent>, headers(("Link" = String, description = "`<…>; rel=\"next\"` when there is a next page"))),
        ReadProblems,
    ),
    security(("api_key" = ["audit:read"])),
)]
pub async fn list_audit_events(
    State(state): State<AppState>,
    caller: Caller,
    mut params: Params,
    uri: Uri,
) -> Result<Response, Problem> {
    let kind = params.take("kind", choice(&EventKind::ALL, EventKind::as_str));
    let customer_id = params.take("customer_id", uuid);
    let paging = Paging::read(&mut params, &state.cursors, &uri);
    params.finish()?;
    let customer_id = caller.narrow(customer_id)?;
    let events = state.store.audit_events(kind, customer_id, paging.position, paging.fetch()).await?;
    Ok(paging.page(&state.cursors, events, |event: &AuditEvent| event.audit_id))
}
