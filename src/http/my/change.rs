//! What a customer changes: withdrawing, undoing that, choosing anew.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};

use super::HOME;
use super::choices::{Chosen, form as choices_form, moved};
use super::standing::Standing;
use super::texts::say;
use super::view::Trouble;
use super::visit::Visit;
use crate::domain::{ConsentStatus, ConsentTier, Precondition};
use crate::error::Error;
use crate::http::input::{Params, number, uuid, version};
use crate::http::pages::{Form, Page, see};
use crate::http::problem::Problem;
use crate::http::{AppState, submit};
use crate::ops::consents::{Decision, Outcome, Request};

/// Lets a form through that was made for this very link, and not too many of them. A refusal is answered.
#[expect(clippy::result_large_err, reason = "the refusal is the answer, and made once")]
fn admit(state: &AppState, visit: &Visit, form: &mut Params, is_withdrawal: bool) -> Result<(), Response> {
    match form.required("link", uuid) {
        None => return Err(visit.trouble(StatusCode::UNPROCESSABLE_ENTITY, Trouble::Refused)),
        Some(link_id) if link_id != visit.link.link_id => {
            return Err(visit.trouble(StatusCode::CONFLICT, Trouble::OtherLink));
        }
        Some(_) => {}
    }
    let allowance = state.rates.check_page(visit.customer.customer_id, is_withdrawal, visit.now);
    match allowance.exhausted_for() {
        Some(wait) => Err(Problem::rate_limited(wait).into_response()),
        None => Ok(()),
    }
}

async fn decide(
    state: &AppState,
    visit: &Visit,
    decision: Decision,
    precondition: Precondition,
    reason: Option<String>,
) -> Result<Outcome, Error> {
    let request = Request {
        customer_id: visit.customer.customer_id,
        decision,
        precondition,
        by: visit.attribution(reason),
        now: visit.now,
    };
    submit(state, request).await
}

/// Where to look after a change: at its entry.
fn see_entry(outcome: &Outcome) -> Response {
    match outcome.record.audit_id {
        Some(audit_id) if outcome.changed => see(&format!("/my/consent/entries/{audit_id}?saved")),
        _ => see(&format!("{HOME}?unchanged")),
    }
}

/// One click, no question, whatever stands now.
pub async fn withdraw(
    State(state): State<AppState>,
    visit: Visit,
    Form(mut form): Form,
) -> Result<Response, Problem> {
    if let Err(refused) = admit(&state, &visit, &mut form, true) {
        return Ok(refused);
    }
    let policy_version = Some(visit.texts.policy_version().to_owned());
    decide(&state, &visit, Decision::Withdraw { policy_version }, Precondition::Anything, None).await?;
    Ok(see(HOME))
}

/// Gives again what the withdrawal took, as a consent of its own.
pub async fn undo(
    State(state): State<AppState>,
    visit: Visit,
    Form(mut form): Form,
) -> Result<Response, Problem> {
    if let Err(refused) = admit(&state, &visit, &mut form, false) {
        return Ok(refused);
    }
    let entry = form.take("entry", number(1, i64::MAX));
    let standing = Standing::read(&state, visit.customer.customer_id, visit.now).await?;
    let undone = standing
        .withdrawal(visit.now)
        .filter(|last| Some(last.audit_id) == entry)
        .and_then(|last| Some((last.version, last.undone(visit.texts, visit.now)?)));
    let too_late = || visit.trouble(StatusCode::CONFLICT, Trouble::TooLate);
    let Some((version, consent)) = undone else {
        return Ok(too_late());
    };
    let precondition = Precondition::Versions(vec![version]);
    match decide(&state, &visit, Decision::Put(consent), precondition, None).await {
        Ok(outcome) => Ok(see_entry(&outcome)),
        Err(Error::VersionMoved { .. }) => Ok(too_late()),
        Err(error) => Err(error.into()),
    }
}

/// Saves what was chosen, if the consent is still the one that the form was made from.
pub async fn choose(
    State(state): State<AppState>,
    visit: Visit,
    Form(mut form): Form,
) -> Result<Response, Problem> {
    if let Err(refused) = admit(&state, &visit, &mut form, false) {
        return Ok(refused);
    }
    let t = visit.texts;
    let shown = form.required("version", version);
    let chosen = Chosen::read(&mut form);
    let standing = Standing::read(&state, visit.customer.customer_id, visit.now).await?;
    let again = |standing: &Standing, status, faults| {
        Page(status, choices_form(&visit, standing, chosen.clone(), faults)).into_response()
    };
    let unprocessable = StatusCode::UNPROCESSABLE_ENTITY;
    if let Err(error) = form.finish() {
        return Ok(again(&standing, unprocessable, vec![fault(t, &error)]));
    }
    let Some(shown) = shown.filter(|shown| *shown == standing.record.version) else {
        return Ok(again(&standing, StatusCode::CONFLICT, vec![moved(t, &standing)]));
    };
    let consent = match chosen.consent(t, &standing.record, visit.now) {
        Ok(consent) => consent,
        Err(faults) => return Ok(again(&standing, unprocessable, faults)),
    };
    // A first refusal is recorded; refusing again what is refused already is not.
    let refusing = consent.get().consent_tier == ConsentTier::None;
    let decision = if refusing && standing.status != ConsentStatus::NeverGiven {
        Decision::Withdraw { policy_version: consent.get().policy_version.clone() }
    } else {
        Decision::Put(consent)
    };
    let precondition = Precondition::Versions(vec![shown]);
    match decide(&state, &visit, decision, precondition, chosen.reason.clone()).await {
        Ok(outcome) => Ok(see_entry(&outcome)),
        Err(Error::VersionMoved { .. }) => {
            let standing = Standing::read(&state, visit.customer.customer_id, visit.now).await?;
            Ok(again(&standing, StatusCode::CONFLICT, vec![moved(t, &standing)]))
        }
        Err(error) => Err(error.into()),
    }
}

/// What was wrong with the form itself.
fn fault(t: &'static super::texts::Texts, error: &Error) -> super::view::Sentence {
    let reason = matches!(error, Error::InvalidParameters(faults)
        if faults.iter().all(|fault| fault.parameter.as_deref() == Some("reason") && fault.code == "too_long"));
    say(if reason { t.fault_reason } else { t.fault_form }, &[])
}
