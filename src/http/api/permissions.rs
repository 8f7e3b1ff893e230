//! What is permitted now: the question of the inference path.

use std::collections::HashMap;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::answer;
use crate::domain::{ConsentRecord, HeldPermissions, Permission, PermissionCheck};
use crate::error::Fault;
use crate::http::AppState;
use crate::http::extract::{Body, Caller, JsonBody, PathId};
use crate::http::input::{Broken, Fields, Params, choice, string, uuid};
use crate::http::problem::Problem;
use crate::http::spec::{ReadProblems, WriteProblems};

/// The most checks in one call.
const MAX_CHECKS: usize = 1000;

/// What the answer is depends on `check`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum PermissionsOrCheck {
    All(HeldPermissions),
    One(PermissionCheck),
}

/// Check a customer's permissions
///
/// What holds now, with the end of the consent applied. A denial is a 200 with `allowed: false`, also for an unknown
/// customer. Anything but a 200 must be taken for a no.
#[utoipa::path(
    get,
    path = "/v1/customers/{customer_id}/consent/permissions",
    tag = "Permissions",
    params(
        ("customer_id" = Uuid, Path, description = "The customer"),
        ("check" = Option<Permission>, Query, description = "Answer for this permission alone"),
    ),
    responses(
        (status = 200, description = "All permissions, or with `check` the one that was asked for", body = PermissionsOrCheck),
        ReadProblems,
    ),
    security(("api_key" = ["permissions:check"]), ("api_key" = ["consent:read"])),
)]
pub async fn get_permissions(
    State(state): State<AppState>,
    caller: Caller,
    PathId(customer_id): PathId,
    mut params: Params,
) -> Result<Response, Problem> {
    let check = params.take("check", choice(&Permission::ALL, Permission::as_str));
    params.finish()?;
    caller.must_reach(customer_id)?;
    let record = state.store.consent(customer_id).await?;
    // The clock is read after the record: an end that came in between counts.
    let now = (state.clock)();
    let held = HeldPermissions::judge(customer_id, record.as_ref(), now);
    let body = match check {
        Some(permission) => PermissionsOrCheck::One(held.check(permission)),
        None => PermissionsOrCheck::All(held),
    };
    Ok(answer(StatusCode::OK, &body))
}

/// Many checks at once.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckRequest {
    #[schema(min_items = 1, max_items = 1000)]
    pub checks: Vec<Check>,
}

/// One question.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Check {
    #[schema(example = "123e4567-e89b-12d3-a456-426614174000")]
    pub customer_id: Uuid,
    pub permission: Permission,
}

impl Body for CheckRequest {
    /// 1000 checks, however they are laid out.
    const MAX_BYTES: usize = 256 * 1024;

    fn read(fields: &mut Fields) -> Option<Self> {
        let items = fields.required("checks", |value| -> Result<Vec<Value>, Broken> {
            match value {
                Value::Array(items) if (1..=MAX_CHECKS).contains(&items.len()) => Ok(items),
                Value::Array(_) => Err(("out_of_range", format!("1 to {MAX_CHECKS} checks are wanted"))),
                _ => Err(("not_an_array", "an array of checks is wanted".to_owned())),
            }
        })?;
        let mut checks = Vec::with_capacity(items.len());
        let mut faults: Vec<Fault> = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            match Fields::at(item, format!("/checks/{index}")) {
                Ok(mut check) => {
                    let customer_id = check.required("customer_id", string(uuid));
                    let permission =
                        check.required("permission", string(choice(&Permission::ALL, Permission::as_str)));
                    faults.extend(check.finish());
                    if let (Some(customer_id), Some(permission)) = (customer_id, permission) {
                        checks.push(Check { customer_id, permission });
                    }
                }
                Err(fault) => faults.push(fault),
            }
        }
        fields.add(faults);
        Some(Self { checks })
    }
}

/// The answers, in the order of the questions.
#[derive(Debug, Serialize, ToSchema)]
pub struct CheckAnswer {
    pub results: Vec<PermissionCheck>,
}

/// Check many permissions at once
///
/// Up to 1000 checks; the answers come in the same order.
#[utoipa::path(
    post,
    path = "/v1/permissions/check",
    tag = "Permissions",
    request_body = CheckRequest,
    responses((status = 200, description = "The answers, in the same order", body = CheckAnswer), WriteProblems),
    security(("api_key" = ["permissions:check"]), ("api_key" = ["consent:read"])),
)]
pub async fn check_permissions(
    State(state): State<AppState>,
    caller: Caller,
    params: Params,
    body: JsonBody<CheckRequest>,
) -> Result<Response, Problem> {
    params.finish()?;
    let checks = body.value.checks;
    for check in &checks {
        caller.must_reach(check.customer_id)?;
    }
    let mut customer_ids: Vec<Uuid> = checks.iter().map(|check| check.customer_id).collect();
    customer_ids.sort_unstable();
    customer_ids.dedup();
    let records: HashMap<Uuid, ConsentRecord> = state
        .store
        .consents_of(&customer_ids)
        .await?
        .into_iter()
        .map(|record| (record.customer_id, record))
        .collect();
    let now = (state.clock)();
    let results = checks
        .iter()
        .map(|check| {
            HeldPermissions::judge(check.customer_id, records.get(&check.customer_id), now)
                .check(check.permission)
        })
        .collect();
    Ok(answer(StatusCode::OK, &CheckAnswer { results }))
}
