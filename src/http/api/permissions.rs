//! What is permitted now: the question of the inference path.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::written_answer;
use crate::cache::consents::{Known, Trust};
use crate::domain::json::WriteJson;
use crate::domain::{HeldPermissions, Permission, PermissionCheck};
use crate::error::{Error, Fault, MAX_LISTED};
use crate::http::AppState;
use crate::http::extract::{Body, Caller, JsonBody, PathId};
use crate::http::input::{Broken, Fields, Params, choice, integer, string, uuid, version};
use crate::http::json::Object;
use crate::http::problem::Problem;
use crate::http::spec::{ReadProblems, VersionAhead, WriteProblems};

/// The most checks in one call.
const MAX_CHECKS: usize = 1000;

/// What the answer is depends on `check`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum PermissionsOrCheck {
    All(HeldPermissions),
    One(PermissionCheck),
}

impl WriteJson for PermissionsOrCheck {
    fn write_json(&self, out: &mut Vec<u8>) {
        match self {
            Self::All(held) => held.write_json(out),
            Self::One(check) => check.write_json(out),
        }
    }
}

/// Check a customer's permissions
///
/// What holds now, with the end of the consent applied. A denial is a 200 with `allowed: false`, also for an unknown
/// customer. Anything but a 200 must be taken for a no. While the database cannot be asked, a permission is granted from
/// memory for a few seconds (`stale`), and refused after that with a 503; a denial is always answered.
#[utoipa::path(
    get,
    path = "/v1/customers/{customer_id}/consent/permissions",
    tag = "Permissions",
    params(
        ("customer_id" = Uuid, Path, description = "The customer"),
        ("check" = Option<Permission>, Query, description = "Answer for this permission alone"),
        ("min_version" = Option<i32>, Query, description = "Answer from a state that is at least as new: the `version` that your write has answered", minimum = 0, example = 3),
    ),
    responses(
        (status = 200, description = "All permissions, or with `check` the one that was asked for", body = PermissionsOrCheck),
        ReadProblems,
        VersionAhead,
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
    let min_version = params.take("min_version", version).unwrap_or(0);
    params.finish()?;
    caller.must_reach(customer_id)?;
    let known = state.cache.consents.known(customer_id, min_version).await?;
    // The clock is read after the record: an end that came in between counts.
    let held = judge(customer_id, &known, (state.clock)());
    let body = match check {
        Some(permission) => PermissionsOrCheck::One(held.check(permission)),
        None => PermissionsOrCheck::All(held),
    };
    let denial = match &body {
        PermissionsOrCheck::One(check) => check.is_denial(),
        PermissionsOrCheck::All(held) => held.is_denial(),
    };
    must_be_supported(&known, denial)?;
    Ok(written_answer(StatusCode::OK, &body))
}

fn judge(customer_id: Uuid, known: &Known, now: DateTime<Utc>) -> HeldPermissions {
    let held = HeldPermissions::judge(customer_id, known.record.as_ref(), now);
    HeldPermissions { stale: known.trust != Trust::Current, ..held }
}

/// What is long out of date supports a denial alone: nothing is permitted on what was true once.
fn must_be_supported(known: &Known, denial: bool) -> Result<(), Error> {
    if denial || known.trust != Trust::Outdated {
        return Ok(());
    }
    Err(Error::Unavailable("what is in memory is too old to permit anything".to_owned()))
}

/// Many checks at once.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckRequest {
    #[schema(min_items = 1, max_items = 1000)]
    pub checks: Vec<Check>,
}

/// One question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Check {
    #[schema(example = "123e4567-e89b-12d3-a456-426614174000")]
    pub customer_id: Uuid,
    pub permission: Permission,
    /// Answer from a state that is at least as new: the `version` that your write has answered.
    #[serde(default)]
    #[schema(default = 0, minimum = 0, example = 3)]
    pub min_version: i32,
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
            if faults.len() > MAX_LISTED {
                break;
            }
            match Fields::at(item, format!("/checks/{index}")) {
                Ok(mut check) => {
                    let customer_id = check.required("customer_id", string(uuid));
                    let permission =
                        check.required("permission", string(choice(&Permission::ALL, Permission::as_str)));
                    let min_version = check.defaulted("min_version", 0, integer(0, i32::MAX.into()));
                    let min_version = i32::try_from(min_version).unwrap_or(i32::MAX);
                    faults.extend(check.finish());
                    if let (Some(customer_id), Some(permission)) = (customer_id, permission) {
                        checks.push(Check { customer_id, permission, min_version });
                    }
                }
                Err(fault) => faults.push(fault),
            }
        }
        fields.add(faults);
        Some(Self { checks })
    }

    fn read_at_once(bytes: &[u8]) -> Option<Self> {
        // UTF-8 as a whole is a matter of a moment; string by string it takes a quarter of all.
        let text = str::from_utf8(bytes).ok()?;
        let Object(PlainRequest { checks }) = serde_json::from_str(text).ok()?;
        if !(1..=MAX_CHECKS).contains(&checks.len()) {
            return None;
        }
        let checks = checks.into_iter().map(|Object(check)| check.read()).collect::<Option<_>>()?;
        Some(Self { checks })
    }
}

/// Checks as most are written: no string in them is escaped, so that all stay where they were received.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlainRequest<'b> {
    #[serde(borrow)]
    checks: Vec<Object<PlainCheck<'b>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlainCheck<'b> {
    customer_id: &'b str,
    permission: &'b str,
    #[serde(default)]
    min_version: i32,
}

impl PlainCheck<'_> {
    fn read(self) -> Option<Check> {
        Some(Check {
            customer_id: uuid(self.customer_id).ok()?,
            permission: choice(&Permission::ALL, Permission::as_str)(self.permission).ok()?,
            min_version: Some(self.min_version).filter(|version| *version >= 0)?,
        })
    }
}

/// The answers, in the order of the questions.
#[derive(Debug, Serialize, ToSchema)]
pub struct CheckAnswer {
    pub results: Vec<PermissionCheck>,
}

impl WriteJson for CheckAnswer {
    fn write_json(&self, out: &mut Vec<u8>) {
        out.reserve(256 * self.results.len());
        out.extend(br#"{"results":["#);
        for (index, result) in self.results.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            result.write_json(out);
        }
        out.extend(b"]}");
    }
}

/// Check many permissions at once
///
/// Up to 1000 checks; the answers come in the same order.
#[utoipa::path(
    post,
    path = "/v1/permissions/check",
    tag = "Permissions",
    request_body = CheckRequest,
    responses((status = 200, description = "The answers, in the same order", body = CheckAnswer), WriteProblems, VersionAhead),
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
    let asked: Vec<(Uuid, i32)> = checks.iter().map(|check| (check.customer_id, check.min_version)).collect();
    let known = state.cache.consents.known_of_all(&asked).await?;
    let now = (state.clock)();
    let mut results = Vec::with_capacity(checks.len());
    for (check, known) in checks.iter().zip(&known) {
        let result = judge(check.customer_id, known, now).check(check.permission);
        must_be_supported(known, result.is_denial())?;
        results.push(result);
    }
    Ok(written_answer(StatusCode::OK, &CheckAnswer { results }))
}
