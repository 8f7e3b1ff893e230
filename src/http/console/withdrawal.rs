//! Recording that a customer withdrew: for staff whom the customer told. It goes the way of any other withdrawal.

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use uuid::Uuid;

use super::session::Visitor;
use super::shell::{Place, Shell};
use crate::domain::{ConsentRecord, ConsentStatus, ConsentTier, Precondition, Scope};
use crate::error::{Error, Fault};
use crate::http::extract::PathId;
use crate::http::input::{Params, nonempty, text};
use crate::http::pages::{Form, Page, filters, see};
use crate::http::problem::Problem;
use crate::http::{AppState, submit};
use crate::ops::consents::{Decision, Outcome, Request};

#[derive(Template)]
#[template(path = "console/withdrawal.html")]
struct WithdrawalPage {
    shell: Shell,
    customer_id: Uuid,
    record: ConsentRecord,
    status: ConsentStatus,
    /// What was sent, and what is wrong with it.
    reason: String,
    on_behalf_of: String,
    faults: Vec<Fault>,
}

impl WithdrawalPage {
    async fn new(state: &AppState, visitor: &Visitor, customer_id: Uuid) -> Result<Self, Problem> {
        visitor.must(Scope::ConsentWrite)?;
        let shell = Shell::new(state, visitor, Place::Customers).await?;
        let listed = state.store.listed(customer_id, shell.now).await?.ok_or(Error::UnknownCustomer)?;
        Ok(Self {
            status: listed.consent.status(shell.now),
            record: listed.consent,
            customer_id,
            shell,
            reason: String::new(),
            on_behalf_of: String::new(),
            faults: Vec::new(),
        })
    }

    fn fault(&self, name: &str) -> Option<&Fault> {
        self.faults.iter().find(|fault| fault.parameter.as_deref() == Some(name))
    }
}

pub async fn page(
    State(state): State<AppState>,
    visitor: Visitor,
    PathId(customer_id): PathId,
    params: Params,
) -> Result<Response, Problem> {
    params.finish()?;
    let page = WithdrawalPage::new(&state, &visitor, customer_id).await?;
    Ok(Page(StatusCode::OK, page).into_response())
}

pub async fn withdraw(
    State(state): State<AppState>,
    visitor: Visitor,
    PathId(customer_id): PathId,
    Form(mut form): Form,
) -> Result<Response, Problem> {
    visitor.must(Scope::ConsentWrite)?;
    let (mut given_reason, mut given_name) = (String::new(), String::new());
    let reason = form.required("reason", |given| {
        given.clone_into(&mut given_reason);
        nonempty(1000)(given.trim())
    });
    let on_behalf_of = form.take("on_behalf_of", |given| {
        given.clone_into(&mut given_name);
        text(255)(given.trim())
    });
    match form.finish() {
        Err(Error::InvalidParameters(faults)) => {
            let page = WithdrawalPage::new(&state, &visitor, customer_id).await?;
            let page = WithdrawalPage { reason: given_reason, on_behalf_of: given_name, faults, ..page };
            return Ok(Page(StatusCode::BAD_REQUEST, page).into_response());
        }
        checked => checked?,
    }
    let by = visitor.origin.attribution(on_behalf_of, reason);
    let request = Request {
        customer_id,
        decision: Decision::Withdraw { policy_version: None },
        precondition: Precondition::Anything,
        by,
        now: (state.clock)(),
    };
    let Outcome { record, changed, .. } = submit(&state, request).await?;
    let recorded = record.audit_id.filter(|_| changed).unwrap_or(0);
    Ok(see(&format!("/console/customers/{customer_id}?recorded={recorded}")))
}
