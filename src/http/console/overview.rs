//! What there is, what happened of late, and what needs attention.

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};

use super::session::Visitor;
use super::shell::{Place, Shell};
use crate::http::AppState;
use crate::http::pages::{Page, filters};
use crate::http::problem::Problem;

#[derive(Template)]
#[template(path = "console/overview.html")]
struct Overview {
    shell: Shell,
}

pub async fn page(State(state): State<AppState>, visitor: Visitor) -> Result<Response, Problem> {
    let shell = Shell::new(&state, &visitor, Place::Overview).await?;
    Ok(Page(StatusCode::OK, Overview { shell }).into_response())
}
