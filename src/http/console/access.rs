//! Who looked at names and addresses.

use askama::Template;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::entry_view::Actor;
use super::paging::{Chip, Paging, chips, with_query};
use super::reveal::Sight;
use super::session::{Visitor, is_inside};
use super::shell::{Place, Shell};
use crate::domain::{AuditEvent, EventKind};
use crate::http::AppState;
use crate::http::input::{Params, uuid};
use crate::http::pages::{Page, filters};
use crate::http::problem::Problem;

const SHOWN: usize = 50;

/// One time that somebody looked.
pub struct Look {
    pub audit_id: i64,
    pub time: DateTime<Utc>,
    pub actor: Actor,
    /// Masked unless it was asked for.
    pub address: Option<String>,
    pub customer_id: Option<Uuid>,
    /// The page or the file.
    pub what: String,
    /// By which filter it was found: names and values, of which those that name a person are masked.
    pub filter: Vec<(String, String)>,
    /// The page as it was seen then; absent for what is no page of the console.
    pub href: Option<String>,
}

impl Look {
    pub fn new(event: AuditEvent, sight: &Sight) -> Self {
        let what = event.details["what"].as_str().unwrap_or_default().to_owned();
        let query = event.change_reason.unwrap_or_default();
        let filter: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let names_a_person = filter.iter().any(|(_, value)| value.contains('@'));
        let query = if names_a_person && !sight.is_open() { "" } else { &query };
        // A file would be taken away once more.
        let is_page = is_inside(&what) && !what.contains('.');
        let shown = |(name, value): (String, String)| {
            let value = if value.contains('@') { sight.email(&value) } else { value };
            (name, value)
        };
        Self {
            audit_id: event.audit_id,
            time: event.timestamp,
            actor: Actor::new(event.changed_by.as_deref()),
            address: event.ip_address.map(|address| sight.address(address)),
            customer_id: event.customer_id,
            href: is_page.then(|| with_query(&what, query)),
            filter: filter.into_iter().map(shown).collect(),
            what,
        }
    }
}

#[derive(Template)]
#[template(path = "console/access.html")]
struct Access {
    shell: Shell,
    sight: Sight,
    chips: Vec<Chip>,
    looks: Vec<Look>,
    older: Option<String>,
    newest: Option<String>,
}

pub async fn page(
    State(state): State<AppState>,
    visitor: Visitor,
    uri: Uri,
    params: Params,
) -> Result<Response, Problem> {
    let shell = Shell::new(&state, &visitor, Place::Customers).await?;
    let mut params = params.without_blanks();
    let sight = Sight::read(&state, &visitor, &uri, &mut params).await?;
    let customer_id = params.take("customer_id", |text| uuid(text.trim()));
    let paging: Paging<i64> = Paging::read(&state, &uri, &mut params);
    params.finish()?;
    let limit = i64::try_from(SHOWN + 1).unwrap_or(i64::MAX);
    let mut events =
        state.store.audit_events(Some(EventKind::PiiRead), customer_id, paging.after, limit).await?;
    let older = paging.next(&state, &mut events, SHOWN, |event| event.audit_id);
    let chosen: Vec<_> = customer_id.iter().map(|id| ("customer_id", id.to_string())).collect();
    let page = Access {
        chips: chips(&uri, &chosen, &[("customer_id", "customer")]),
        looks: events.into_iter().map(|event| Look::new(event, &sight)).collect(),
        newest: paging.after.is_some().then(|| paging.first()),
        older,
        sight,
        shell,
    };
    Ok(Page(StatusCode::OK, page).into_response())
}
