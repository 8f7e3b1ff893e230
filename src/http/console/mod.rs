//! The console: pages for those who have to show what was allowed, who changed it, and that nobody edited the record.
//!
//! The server renders whole pages. Every view is a link, since all that it shows is in its address; a form that changes
//! something answers with the way to a page. The script only saves the browser from loading what is there already.

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};

use super::AppState;
use super::pages::public;

mod access;
mod chart;
mod customer;
mod customers;
mod entry;
mod entry_view;
mod evidence;
mod expiring;
mod integrity;
mod keys;
mod overview;
mod paging;
mod reveal;
mod session;
mod shell;
mod trail;
mod withdrawal;

pub fn routes(state: &AppState) -> Router<AppState> {
    Router::new()
        .route("/console", get(overview::page))
        .route("/console/audit", get(trail::page))
        .route("/console/audit.csv", get(trail::csv))
        .route("/console/audit.ndjson", get(trail::ndjson))
        .route("/console/audit/{audit_id}", get(entry::page))
        .route("/console/customers", get(customers::page))
        .route("/console/customers/{customer_id}", get(customer::page))
        .route(
            "/console/customers/{customer_id}/withdrawal",
            get(withdrawal::page).post(withdrawal::withdraw),
        )
        .route("/console/expiring", get(expiring::page))
        .route("/console/access", get(access::page))
        .route("/console/audit/evidence.zip", get(evidence::of_trail))
        .route("/console/customers/{customer_id}/evidence.zip", get(evidence::of_customer))
        .route("/console/integrity", get(integrity::page))
        .route("/console/integrity/verify", post(integrity::verify))
        .route("/console/keys", get(keys::page).post(keys::create))
        .route("/console/keys/{key_id}", get(keys::one))
        .route("/console/keys/{key_id}/rotate", post(keys::rotate))
        .route("/console/keys/{key_id}/revoke", post(keys::revoke))
        .route("/console/reveal", post(reveal::reveal))
        .route_layer(from_fn_with_state(state.clone(), session::required))
        .merge(
            Router::new()
                .route("/console/sign-in", get(session::sign_in_page).post(session::sign_in))
                .route("/console/sign-out", post(session::sign_out))
                .route_layer(from_fn_with_state(state.clone(), public)),
        )
}
