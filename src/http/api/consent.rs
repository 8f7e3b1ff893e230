//! A customer's consent: given, read, withdrawn, listed.

use axum::extract::State;
use axum::http::header::ETAG;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{Page, Paging, answer, written_answer};
use crate::domain::{
    AnonymizationLevel, Consent, ConsentRecord, ConsentStatus, ConsentTier, ConsentView, Proposal,
};
use crate::error::Error;
use crate::http::extract::{Body, Caller, ChangeHeaders, JsonBody, NoBody, PathId, etag, not_modified};
use crate::http::input::{Fields, Params, boolean, choice, string, text, time, uuid, version};
use crate::http::problem::Problem;
use crate::http::spec::{ReadProblems, WriteProblems};
use crate::http::{AppState, submit};
use crate::ops::consents::{Decision, Outcome, Request};
use crate::ops::log::receipt;
use crate::store::consents::ConsentFilter;

/// How far in the future `as_of` may lie: clocks differ a little.
const CLOCK_SKEW: TimeDelta = TimeDelta::seconds(60);

/// A decision. It replaces the whole consent: what is left out falls back to the most private value.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConsentDecision {
    pub consent_tier: ConsentTier,
    #[serde(default)]
    #[schema(default = false)]
    pub can_store_images: bool,
    #[serde(default)]
    #[schema(default = false, example = true)]
    pub can_store_embeddings: bool,
    #[serde(default)]
    #[schema(default = false)]
    pub can_use_for_training: bool,
    /// Default: `full`.
    #[schema(example = "full")]
    pub anonymization_level: Option<AnonymizationLevel>,
    /// When the consent ends by itself: in the future, at most 10 years ahead.
    #[schema(example = "2027-06-30T00:00:00Z")]
    pub expires_at: Option<DateTime<Utc>>,
    /// The version of the policy text that the decision was made on.
    #[schema(max_length = 64, example = "2026-01")]
    pub policy_version: Option<String>,
    /// Why; kept in the audit entry.
    #[schema(max_length = 1000, example = "asked for in the settings")]
    pub reason: Option<String>,
    /// The person whom the caller serves; kept in the audit entry.
    #[schema(max_length = 255, example = "user-17")]
    pub on_behalf_of: Option<String>,
}

impl Body for ConsentDecision {
    fn read(fields: &mut Fields) -> Option<Self> {
        let consent_tier =
            fields.required("consent_tier", string(choice(&ConsentTier::ALL, ConsentTier::as_str)));
        let decision = Self {
            consent_tier: ConsentTier::None,
            can_store_images: fields.defaulted("can_store_images", false, boolean),
            can_store_embeddings: fields.defaulted("can_store_embeddings", false, boolean),
            can_use_for_training: fields.defaulted("can_use_for_training", false, boolean),
            anonymization_level: fields.optional(
                "anonymization_level",
                string(choice(&AnonymizationLevel::ALL, AnonymizationLevel::as_str)),
            ),
            expires_at: fields.optional("expires_at", string(time)),
            policy_version: fields.optional("policy_version", string(text(64))),
            reason: fields.optional("reason", string(text(1000))),
            on_behalf_of: fields.optional("on_behalf_of", string(text(255))),
        };
        Some(Self { consent_tier: consent_tier?, ..decision })
    }
}

impl ConsentDecision {
    fn consent(&self, now: DateTime<Utc>) -> Result<Consent, Error> {
        let proposal = Proposal {
            consent_tier: self.consent_tier,
            can_store_images: self.can_store_images,
            can_store_embeddings: self.can_store_embeddings,
            can_use_for_training: self.can_use_for_training,
            anonymization_level: self.anonymization_level.unwrap_or(AnonymizationLevel::Full),
            policy_version: self.policy_version.clone(),
            expires_at: self.expires_at,
        };
        Consent::new(proposal, now).map_err(Error::InvalidBody)
    }
}

/// A consent as a write answers it.
#[derive(Debug, Serialize, ToSchema)]
pub struct Receipted {
    #[serde(flatten)]
    consent: ConsentView,
    /// With `Prefer: receipt`, if something was recorded: the audit log's signed promise (C2SP signed-note) that the entry
    /// will be in it. Its text is `consentd receipt v1`, the log's origin, the `audit_id` and the leaf's hash, a line each.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    receipt: Option<String>,
}

/// RFC 7240, section 3.
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

fn record_answer(record: ConsentRecord, status: StatusCode, now: DateTime<Utc>) -> Response {
    let tag = etag(record.version);
    let mut response = written_answer(status, &record.view(now));
    response.headers_mut().insert(ETAG, tag);
    response
}

async fn decide(state: AppState, request: Request, receipt_wanted: bool) -> Result<Response, Problem> {
    let now = request.now;
    let Outcome { record, created, leaf, .. } = submit(&state, request).await?;
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    let promised = leaf.filter(|_| receipt_wanted).zip(record.audit_id);
    let receipt = promised
        .and_then(|(leaf, audit_id)| receipt::sign(&state.log_keys, &state.log.get(), audit_id, &leaf));
    let Some(receipt) = receipt else {
        return Ok(record_answer(record, status, now));
    };
    let tag = etag(record.version);
    let mut response = answer(status, &Receipted { consent: record.view(now), receipt: Some(receipt) });
    response.headers_mut().insert(ETAG, tag);
    response.headers_mut().insert(PREFERENCE_APPLIED, HeaderValue::from_static("receipt"));
    Ok(response)
}

/// Give or change a consent
///
/// Replaces the customer's whole consent. The consent and its audit entry are durable before the answer. The same state
/// again changes nothing and answers 200 with the same version.
#[utoipa::path(
    put,
    path = "/v1/customers/{customer_id}/consent",
    tag = "Consent",
    params(
        ("customer_id" = Uuid, Path, description = "The customer"),
        ("If-Match" = Option<String>, Header, description = "Only if the consent is at this version, e.g. `\"3\"`; `*`: only if something was recorded", min_length = 1, pattern = r#"^(\*|(W/)?"[0-9]+"(, ?(W/)?"[0-9]+")*)$"#, example = "\"3\""),
        ("If-None-Match" = Option<String>, Header, description = "`*`: only if nothing was ever recorded", pattern = r"^\*$", min_length = 1),
        ("Prefer" = Option<String>, Header, description = "`receipt`: answer with a signed receipt for the audit entry", example = "receipt"),
    ),
    request_body = ConsentDecision,
    responses(
        (status = 200, description = "The consent as it now stands", body = Receipted, headers(("ETag" = String, description = "The version, in quotes"), ("Preference-Applied" = String, description = "`receipt`, if there is one"))),
        (status = 201, description = "The customer's first consent", body = Receipted, headers(("ETag" = String, description = "The version, in quotes"), ("Preference-Applied" = String, description = "`receipt`, if there is one"))),
        WriteProblems,
        crate::http::spec::UnknownCustomer,
        crate::http::spec::VersionMoved,
    ),
    security(("api_key" = ["consent:write"])),
)]
pub async fn put_consent(
    State(state): State<AppState>,
    caller: Caller,
    PathId(customer_id): PathId,
    params: Params,
    headers: ChangeHeaders,
    body: JsonBody<ConsentDecision>,
) -> Result<Response, Problem> {
    params.finish()?;
    caller.must_reach(customer_id)?;
    let now = (state.clock)();
    let consent = body.value.consent(now)?;
    let by = headers.origin.attribution(body.value.on_behalf_of, body.value.reason);
    let (decision, precondition) = (Decision::Put(consent), headers.precondition);
    decide(state, Request { customer_id, decision, precondition, by, now }, headers.receipt).await
}

/// Read a consent
///
/// The consent as it stands, or as it stood at an instant (`as_of`), with its end judged at that instant.
#[utoipa::path(
    get,
    path = "/v1/customers/{customer_id}/consent",
    tag = "Consent",
    params(
        ("customer_id" = Uuid, Path, description = "The customer"),
        ("as_of" = Option<DateTime<Utc>>, Query, description = "The instant to look at, not in the future", example = "2026-06-30T12:00:00Z"),
        ("min_version" = Option<i32>, Query, description = "Answer from a state that is at least as new: the `version` that your write has answered", minimum = 0, example = 3),
        ("If-None-Match" = Option<String>, Header, description = "Answer 304 if the consent is still at this version", example = "\"3\""),
    ),
    responses(
        (status = 200, description = "The consent", body = ConsentView, headers(("ETag" = String, description = "The version, in quotes"))),
        (status = 304, description = "The consent is still at the version which `If-None-Match` names"),
        ReadProblems,
        crate::http::spec::UnknownCustomer,
        crate::http::spec::VersionAhead,
    ),
    security(("api_key" = ["consent:read"])),
)]
pub async fn get_consent(
    State(state): State<AppState>,
    caller: Caller,
    PathId(customer_id): PathId,
    mut params: Params,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let now = (state.clock)();
    let as_of = params.take("as_of", time);
    if as_of.is_some_and(|instant| instant > now + CLOCK_SKEW) {
        params.fault(
            "as_of",
            "in_the_future",
            "as_of must not lie in the future: what will stand is not known",
        );
    }
    let min_version = params.take("min_version", version);
    if as_of.is_some() && min_version.is_some() {
        params.fault(
            "min_version",
            "not_with_as_of",
            "as_of and min_version exclude each other: leave one out",
        );
    }
    params.finish()?;
    caller.must_reach(customer_id)?;
    let record = match as_of {
        None => state.cache.consents.current(customer_id, min_version.unwrap_or(0)).await?,
        // Boxed, so that the reads of what stands do not carry its size along.
        Some(instant) => Box::pin(state.store.consent_as_of(customer_id, instant)).await?,
    }
    .ok_or(Error::UnknownCustomer)?;
    if as_of.is_none() && not_modified(&headers, record.version) {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, etag(record.version))]).into_response());
    }
    Ok(record_answer(record, StatusCode::OK, as_of.unwrap_or(now)))
}

/// Withdraw a consent
///
/// Withdraws everything: one call, without a body. Where nothing is given, nothing changes.
#[utoipa::path(
    delete,
    path = "/v1/customers/{customer_id}/consent",
    tag = "Consent",
    params(
        ("customer_id" = Uuid, Path, description = "The customer"),
        ("reason" = Option<String>, Query, description = "Why; kept in the audit entry", max_length = 1000),
        ("on_behalf_of" = Option<String>, Query, description = "The person whom the caller serves; kept in the audit entry", max_length = 255),
        ("If-Match" = Option<String>, Header, description = "Only if the consent is at this version, e.g. `\"3\"`", min_length = 1, pattern = r#"^(\*|(W/)?"[0-9]+"(, ?(W/)?"[0-9]+")*)$"#, example = "\"3\""),
        ("Prefer" = Option<String>, Header, description = "`receipt`: answer with a signed receipt for the audit entry", example = "receipt"),
    ),
    responses(
        (status = 200, description = "The consent as it now stands", body = Receipted, headers(("ETag" = String, description = "The version, in quotes"), ("Preference-Applied" = String, description = "`receipt`, if there is one"))),
        ReadProblems,
        crate::http::spec::UnknownCustomer,
        crate::http::spec::VersionMoved,
        crate::http::spec::UnexpectedBody,
    ),
    security(("api_key" = ["consent:write"])),
)]
pub async fn withdraw_consent(
    State(state): State<AppState>,
    caller: Caller,
    PathId(customer_id): PathId,
    mut params: Params,
    headers: ChangeHeaders,
    _: NoBody,
) -> Result<Response, Problem> {
    let reason = params.take("reason", text(1000));
    let on_behalf_of = params.take("on_behalf_of", text(255));
    params.finish()?;
    caller.must_reach(customer_id)?;
    let (now, by) = ((state.clock)(), headers.origin.attribution(on_behalf_of, reason));
    let (decision, precondition) = (Decision::Withdraw { policy_version: None }, headers.precondition);
    decide(state, Request { customer_id, decision, precondition, by, now }, headers.receipt).await
}

/// Which consents to list.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ConsentListQuery {
    /// Of this customer alone.
    pub customer_id: Option<Uuid>,
    /// At this tier.
    pub tier: Option<ConsentTier>,
    /// With this status now.
    pub status: Option<ConsentStatus>,
    /// With this anonymisation level.
    pub anonymization_level: Option<AnonymizationLevel>,
    /// Whose end comes before this instant.
    pub expiring_before: Option<DateTime<Utc>>,
    /// Which changed after this instant.
    pub updated_after: Option<DateTime<Utc>>,
}

/// List consents
///
/// The consents that are recorded, in the order of their customers. A customer's key sees that customer's alone.
#[utoipa::path(
    get,
    path = "/v1/consents",
    tag = "Consent",
    params(ConsentListQuery, Paging),
    responses(
        (status = 200, description = "A page of consents", body = Page<ConsentView>, headers(("Link" = String, description = "`<…>; rel=\"next\"` when there is a next page"))),
        ReadProblems,
    ),
    security(("api_key" = ["consent:read"])),
)]
pub async fn list_consents(
    State(state): State<AppState>,
    caller: Caller,
    mut params: Params,
    uri: Uri,
) -> Result<Response, Problem> {
    let now = (state.clock)();
    let paging = Paging::read(&mut params, &state.cursors, &uri);
    let filter = ConsentFilter {
        customer_id: params.take("customer_id", uuid),
        tier: params.take("tier", choice(&ConsentTier::ALL, ConsentTier::as_str)),
        status: params.take("status", choice(&ConsentStatus::ALL, ConsentStatus::as_str)),
        anonymization_level: params
            .take("anonymization_level", choice(&AnonymizationLevel::ALL, AnonymizationLevel::as_str)),
        expiring_before: params.take("expiring_before", time),
        updated_after: params.take("updated_after", time),
    };
    params.finish()?;
    let filter = ConsentFilter { customer_id: caller.narrow(filter.customer_id)?, ..filter };
    let records = state.store.list_consents(&filter, paging.position, paging.fetch(), now).await?;
    let views = records.into_iter().map(|record| record.view(now)).collect();
    Ok(paging.page(&state.cursors, views, |view: &ConsentView| view.record.customer_id))
}
