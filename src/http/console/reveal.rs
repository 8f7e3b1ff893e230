//! Names of people and addresses are masked until somebody asks for them. Asking is an event of the log; its number, in the
//! page's address, shows them to whoever asked, on that page and for a while.

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use chrono::TimeDelta;
use ipnetwork::IpNetwork;
use uuid::Uuid;

use super::paging::{query_without, with_query};
use super::session::{Visitor, is_inside};
use crate::domain::{EventKind, address_text};
use crate::error::{Error, Fault};
use crate::http::AppState;
use crate::http::detached;
use crate::http::extract::MAX_AUDIT_ID;
use crate::http::input::{Params, number, text};
use crate::http::pages::{Form, see};
use crate::http::problem::Problem;
use crate::ops::access;

/// How long what was asked for is shown.
const SHOWN_FOR: TimeDelta = TimeDelta::minutes(15);

/// What is taken out of a page's address when it is compared with the one that was asked for.
const REVEAL: &str = "reveal";

/// A page as the log names it: its path, and its filter.
fn named(uri: &Uri) -> (String, Option<String>) {
    let filter = query_without(uri, &[REVEAL]);
    (uri.path().to_owned(), (!filter.is_empty()).then_some(filter))
}

/// The customer of a page about one.
fn customer_of(path: &str) -> Option<Uuid> {
    path.strip_prefix("/console/customers/")?.split('/').next()?.parse().ok()
}

/// Records that this visitor reads personal data on a page, or in a file that is taken from there.
pub async fn record(
    state: &AppState,
    visitor: &Visitor,
    uri: &Uri,
    customer_id: Option<Uuid>,
) -> Result<i64, Problem> {
    let (what, filter) = named(uri);
    let customer_id = customer_id.or_else(|| customer_of(&what));
    // A reason has a bound, and so has an address.
    let filter = filter.map(|filter| filter.chars().take(1000).collect());
    let by = visitor.origin.clone().attribution(None, filter);
    let (store, keys, now) =
        (state.store.clone(), std::sync::Arc::clone(&state.log_keys), state.entry_time());
    detached(store.clone(), async move { access::record(&store, &keys, &what, customer_id, &by, now).await })
        .await
}

/// Records the wish, and shows the page again with what was masked.
pub async fn reveal(
    State(state): State<AppState>,
    visitor: Visitor,
    Form(mut form): Form,
) -> Result<Response, Problem> {
    let page = form.required("page", text(4000));
    form.finish()?;
    let refused = || {
        let fault = Fault::parameter("page", "not_a_page", "the address of a page of the console is wanted");
        Error::InvalidParameters(vec![fault])
    };
    let page = page.ok_or_else(refused)?;
    let uri: Uri = page.parse().map_err(|_| refused())?;
    if !is_inside(uri.path()) || uri.authority().is_some() {
        return Err(refused().into());
    }
    let audit_id = record(&state, &visitor, &uri, None).await?;
    let (path, filter) = named(&uri);
    let filter = filter.map_or_else(String::new, |filter| format!("{filter}&"));
    Ok(see(&format!("{path}?{filter}{REVEAL}={audit_id}")))
}

/// Whether a page shows personal fields, and where to ask for them.
#[derive(Clone, Debug)]
pub struct Sight {
    /// The event which says that they were asked for.
    pub event: Option<i64>,
    /// This page, for the form that asks.
    pub page: String,
}

impl Sight {
    /// For a page on which nothing can be asked for.
    pub fn masked() -> Self {
        Self { event: None, page: String::new() }
    }

    /// Takes the parameter off a page's query, and looks whether it says that this visitor asked for this page.
    pub async fn read(
        state: &AppState,
        visitor: &Visitor,
        uri: &Uri,
        params: &mut Params,
    ) -> Result<Self, Error> {
        let (path, filter) = named(uri);
        let page = with_query(&path, filter.as_deref().unwrap_or_default());
        let mut sight = Self { event: None, page };
        let Some(audit_id) = params.take(REVEAL, number(1, MAX_AUDIT_ID)) else { return Ok(sight) };
        let Some(event) = state.store.audit_event(audit_id).await? else { return Ok(sight) };
        let filter = filter.map(|filter| filter.chars().take(1000).collect::<String>());
        let asked = event.kind == EventKind::PiiRead
            && event.changed_by == Some(visitor.principal.name())
            && event.details["what"] == path.as_str()
            && event.change_reason == filter
            && event.timestamp + SHOWN_FOR > (state.clock)();
        sight.event = asked.then_some(audit_id);
        Ok(sight)
    }

    pub fn is_open(&self) -> bool {
        self.event.is_some()
    }

    /// A person's name or mark: its first letter alone, unless it was asked for.
    pub fn person(&self, name: &str) -> String {
        if self.is_open() {
            return name.to_owned();
        }
        name.chars().next().map_or_else(String::new, |first| format!("{first}•••"))
    }

    pub fn email(&self, address: &str) -> String {
        match address.rsplit_once('@') {
            Some((local, host)) if !self.is_open() => format!("{}@{host}", self.person(local)),
            _ => self.person(address),
        }
    }

    /// An address of the network: where it roughly is, unless it was asked for.
    pub fn address(&self, address: IpNetwork) -> String {
        let text = address_text(address);
        if self.is_open() {
            return text;
        }
        let (separator, kept) = if address.is_ipv4() { (".", 2) } else { (":", 2) };
        let parts: Vec<&str> = text.split(separator).take(kept).collect();
        format!("{}{separator}•••", parts.join(separator))
    }
}
