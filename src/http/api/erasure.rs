//! Erasing a customer's personal fields.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::answer;
use crate::domain::{CustomerField, PersonalField};
use crate::http::extract::{Body, Caller, JsonBody, Origin, PathId};
use crate::http::input::{Broken, Fields, Params, nonempty, string, text};
use crate::http::problem::Problem;
use crate::http::spec::{UnknownCustomer, WriteProblems};
use crate::http::{AppState, detached};
use crate::ops;
use crate::ops::erasure::ErasureRequest;

/// How long an answer waits for the erasure to be sealed and carried out.
const PATIENCE: Duration = Duration::from_secs(5);

/// A field that can be erased: of the customer's audit entries, or of the customer itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErasableField {
    ChangedBy,
    OnBehalfOf,
    ChangeReason,
    IpAddress,
    UserAgent,
    Email,
    CompanyName,
    CustomerMetadata,
}

impl ErasableField {
    const ALL: [Self; 8] = [
        Self::ChangedBy,
        Self::OnBehalfOf,
        Self::ChangeReason,
        Self::IpAddress,
        Self::UserAgent,
        Self::Email,
        Self::CompanyName,
        Self::CustomerMetadata,
    ];

    fn of_entry(self) -> Option<PersonalField> {
        match self {
            Self::ChangedBy => Some(PersonalField::ChangedBy),
            Self::OnBehalfOf => Some(PersonalField::OnBehalfOf),
            Self::ChangeReason => Some(PersonalField::ChangeReason),
            Self::IpAddress => Some(PersonalField::IpAddress),
            Self::UserAgent => Some(PersonalField::UserAgent),
            Self::Email | Self::CompanyName | Self::CustomerMetadata => None,
        }
    }

    fn of_customer(self) -> Option<CustomerField> {
        match self {
            Self::Email => Some(CustomerField::Email),
            Self::CompanyName => Some(CustomerField::CompanyName),
            Self::CustomerMetadata => Some(CustomerField::CustomerMetadata),
            _ => None,
        }
    }

    fn as_str(self) -> &'static str {
        self.of_entry()
            .map(PersonalField::as_str)
            .or(self.of_customer().map(CustomerField::as_str))
            .unwrap_or_default()
    }
}

/// What is to be erased, and why.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ErasureInput {
    /// Why, in words; kept as a personal field of the erasure's own entry.
    #[schema(
        min_length = 1,
        max_length = 1000,
        pattern = r"^[^\x00]*\S[^\x00]*$",
        example = "the customer's letter of 3 June"
    )]
    pub reason: String,
    /// On which ground. It stays in the log for ever: name no person in it.
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = r"^[^\x00]*\S[^\x00]*$",
        example = "GDPR Art. 17(1)(b)"
    )]
    pub legal_basis: String,
    /// Which fields; all of them if it is left out.
    #[schema(nullable = false, min_items = 1, max_items = 8)]
    pub fields: Option<Vec<ErasableField>>,
    /// The person whom the caller serves.
    #[schema(max_length = 255, pattern = r"^[^\x00]*$")]
    pub on_behalf_of: Option<String>,
}

impl Body for ErasureInput {
    fn read(fields: &mut Fields) -> Option<Self> {
        let reason = fields.required("reason", string(nonempty(1000)));
        let legal_basis = fields.required("legal_basis", string(nonempty(200)));
        let wanted = fields.present("fields", erasable);
        let on_behalf_of = fields.optional("on_behalf_of", string(text(255)));
        Some(Self { reason: reason?, legal_basis: legal_basis?, fields: wanted, on_behalf_of })
    }
}

fn erasable(value: Value) -> Result<Vec<ErasableField>, Broken> {
    let names = || ErasableField::ALL.map(ErasableField::as_str).join(", ");
    let fields: Vec<ErasableField> = serde_json::from_value(value)
        .map_err(|_| ("not_a_choice", format!("a list of these is wanted: {}", names())))?;
    if fields.is_empty() || fields.len() > ErasableField::ALL.len() {
        return Err(("out_of_range", "1 to 8 fields are wanted: leave it out for all of them".to_owned()));
    }
    Ok(fields)
}

/// An erasure that is in the audit log.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErasureView {
    #[schema(example = "123e4567-e89b-12d3-a456-426614174000")]
    customer_id: Uuid,
    /// The log's own entries for it, each with a proof of its own; none if there was nothing to erase.
    audit_ids: Vec<i64>,
    /// How many audit entries held one of the fields.
    #[schema(minimum = 0, example = 12)]
    entries: usize,
    /// The fields that were asked for.
    fields: Vec<ErasableField>,
    status: ErasureStatus,
    requested_at: DateTime<Utc>,
}

#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErasureStatus {
    /// What was named is gone.
    Completed,
    /// It is logged, and carried out as soon as the log is sealed again.
    Pending,
}

/// Erase a customer's personal data
///
/// Logs the erasure, seals it, and then takes the fields of the customer's audit entries, and of the customer, away for good.
/// The entries stay, with every proof ever issued for them. Doing it again erases what has come since. For operators' keys
/// alone.
#[utoipa::path(
    post,
    path = "/v1/customers/{customer_id}/erasure",
    tag = "Customers",
    params(("customer_id" = Uuid, Path, description = "The customer; also one who was deleted, and has a trail")),
    request_body = ErasureInput,
    responses(
        (status = 200, description = "It is gone", body = ErasureView),
        (status = 202, description = "It is logged, and goes once the log is sealed again", body = ErasureView),
        WriteProblems,
        UnknownCustomer,
    ),
    security(("api_key" = ["customers:write"])),
)]
pub async fn erase_customer_data(
    State(state): State<AppState>,
    caller: Caller,
    PathId(customer_id): PathId,
    params: Params,
    origin: Origin,
    body: JsonBody<ErasureInput>,
) -> Result<Response, Problem> {
    params.finish()?;
    caller.must_be_operator()?;
    caller.must_reach(customer_id)?;
    let input = body.value;
    let now = state.entry_time();
    let fields = input.fields.unwrap_or_else(|| ErasableField::ALL.to_vec());
    let request = ErasureRequest {
        customer_id,
        legal_basis: input.legal_basis,
        fields: PersonalField::ALL
            .into_iter()
            .filter(|one| fields.iter().any(|field| field.of_entry() == Some(*one)))
            .collect(),
        customer_fields: fields.iter().filter_map(|field| field.of_customer()).collect(),
    };
    let by = origin.attribution(input.on_behalf_of, Some(input.reason));
    let (store, keys) = (state.store.clone(), Arc::clone(&state.log_keys));
    let logged =
        detached(
            store.clone(),
            async move { ops::erasure::request(&store, &keys, &request, &by, now).await },
        )
        .await?;
    let done = carried_out(&state, &logged.audit_ids).await?;
    let view = ErasureView {
        customer_id,
        audit_ids: logged.audit_ids,
        entries: logged.entries,
        fields,
        status: if done { ErasureStatus::Completed } else { ErasureStatus::Pending },
        requested_at: now,
    };
    Ok(answer(if done { StatusCode::OK } else { StatusCode::ACCEPTED }, &view))
}

async fn carried_out(state: &AppState, audit_ids: &[i64]) -> Result<bool, Problem> {
    let waited = tokio::time::timeout(PATIENCE, async {
        while state.store.undone_erasures(audit_ids).await? > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok::<_, crate::error::Error>(())
    });
    match waited.await {
        Ok(done) => Ok(done.map(|()| true)?),
        Err(_) => Ok(false),
    }
}
