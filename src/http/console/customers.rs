//! The customers: found by their id, the beginning of one, or their e-mail address, and by what they decided.

use askama::Template;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::paging::{Chip, Paging, chips};
use super::reveal::Sight;
use super::session::Visitor;
use super::shell::{Place as At, Shell};
use super::trail;
use crate::domain::{ConsentRecord, ConsentStatus, ConsentTier, ids_beginning};
use crate::http::AppState;
use crate::http::input::{Broken, Params, choice, text};
use crate::http::pages::{Page, filters};
use crate::http::problem::Problem;
use crate::store::listing::{LOOKED_THROUGH, Listed, Listing, ListingFilter, Place};

const SHOWN: i64 = 50;

/// What a field of the filter is called.
const LABELS: [(&str, &str); 5] = [
    ("search", "id or e-mail"),
    ("tier", "tier"),
    ("status", "status"),
    ("expiring_from", "ends from"),
    ("expiring_before", "ends before"),
];

/// What somebody looks for: the beginning of an id, or an e-mail address.
enum Search {
    Ids(Uuid, Uuid),
    Email(String),
}

fn search(given: &str) -> Result<Search, Broken> {
    let given = given.trim();
    if given.contains('@') {
        return text(255)(given).map(Search::Email);
    }
    let wanted = "an id, its beginning, such as 123e4567, or a whole e-mail address is wanted";
    let (least, greatest) = ids_beginning(given).ok_or_else(|| ("not_an_id_or_email", wanted.to_owned()))?;
    Ok(Search::Ids(least, greatest))
}

/// A filter as the page's address holds it, and as its form shows it again.
#[derive(Debug, Default)]
struct Chosen {
    filter: ListingFilter,
    fields: Vec<(&'static str, String)>,
}

impl Chosen {
    fn read(params: &mut Params) -> Self {
        let mut fields = Vec::new();
        let mut take = |name: &'static str| {
            params.take(name, |text| {
                fields.push((name, text.trim().to_owned()));
                Ok(text.trim().to_owned())
            })
        };
        let [sought, tier, status, from, before] = LABELS.map(|(name, _)| take(name));
        let mut filter = ListingFilter::default();
        let mut read = |name, broken: Broken| params.fault(name, broken.0, broken.1);
        match sought.as_deref().map(search) {
            None => {}
            Some(Ok(Search::Ids(least, greatest))) => filter.ids = Some((least, greatest)),
            Some(Ok(Search::Email(email))) => filter.email = Some(email),
            Some(Err(broken)) => read("search", broken),
        }
        match tier.as_deref().map(choice(&ConsentTier::ALL, ConsentTier::as_str)) {
            Some(Err(broken)) => read("tier", broken),
            tier => filter.tier = tier.and_then(Result::ok),
        }
        match status.as_deref().map(choice(&ConsentStatus::ALL, ConsentStatus::as_str)) {
            Some(Err(broken)) => read("status", broken),
            status => filter.status = status.and_then(Result::ok),
        }
        match from.as_deref().map(trail::from) {
            Some(Err(broken)) => read("expiring_from", broken),
            from => filter.expiring_from = from.and_then(Result::ok),
        }
        match before.as_deref().map(trail::from) {
            Some(Err(broken)) => read("expiring_before", broken),
            before => filter.expiring_before = before.and_then(Result::ok),
        }
        Self { filter, fields }
    }

    fn value(&self, name: &str) -> &str {
        self.fields.iter().find(|(field, _)| *field == name).map_or("", |(_, value)| value)
    }
}

/// A status as the console calls it.
fn in_words(status: ConsentStatus) -> &'static str {
    match status {
        ConsentStatus::NeverGiven => "nothing recorded",
        ConsentStatus::Active => "in force",
        ConsentStatus::Withdrawn => "withdrawn",
        ConsentStatus::Expired => "expired",
    }
}

/// A customer as the list shows it.
struct Row {
    customer_id: Uuid,
    email: String,
    company: Option<String>,
    is_active: bool,
    consent: ConsentRecord,
    status: ConsentStatus,
}

impl Row {
    fn new(listed: Listed, sight: &Sight, now: DateTime<Utc>) -> Self {
        Self {
            customer_id: listed.consent.customer_id,
            email: sight.email(&listed.email),
            company: listed.company_name.as_deref().map(|name| sight.person(name)),
            is_active: listed.is_active,
            status: listed.consent.status(now),
            consent: listed.consent,
        }
    }
}

#[derive(Template)]
#[template(path = "console/customers.html")]
struct Customers {
    shell: Shell,
    sight: Sight,
    chosen: Chosen,
    chips: Vec<Chip>,
    rows: Vec<Row>,
    next: Option<String>,
    /// So many customers were passed that the list goes on before it is known whether there are others.
    is_cut: bool,
    looked_through: i64,
    first: Option<String>,
    /// Who was looked for by id, was deleted, and has a trail.
    deleted: Option<Uuid>,
}

pub async fn page(
    State(state): State<AppState>,
    visitor: Visitor,
    uri: Uri,
    params: Params,
) -> Result<Response, Problem> {
    let shell = Shell::new(&state, &visitor, At::Customers).await?;
    let mut params = params.without_blanks();
    let sight = Sight::read(&state, &visitor, &uri, &mut params).await?;
    let chosen = Chosen::read(&mut params);
    let paging: Paging<Place> = Paging::read(&state, &uri, &mut params);
    params.finish()?;
    let Listing { customers, next, is_cut } =
        state.store.listing(&chosen.filter, paging.after, SHOWN, shell.now).await?;
    let deleted = match chosen.filter.ids {
        Some((id, same)) if id == same && customers.is_empty() && state.store.has_trail(id).await? => {
            state.store.listed(id, shell.now).await?.is_none().then_some(id)
        }
        _ => None,
    };
    let mut chips = chips(&uri, &chosen.fields, &LABELS);
    for chip in chips.iter_mut().filter(|chip| chip.label == "status") {
        chosen.filter.status.map_or("", in_words).clone_into(&mut chip.value);
    }
    let page = Customers {
        chips,
        rows: customers.into_iter().map(|listed| Row::new(listed, &sight, shell.now)).collect(),
        next: next.map(|place| paging.going_on(&state, &place)),
        first: paging.after.is_some().then(|| paging.first()),
        is_cut,
        looked_through: LOOKED_THROUGH,
        deleted,
        chosen,
        sight,
        shell,
    };
    Ok(Page(StatusCode::OK, page).into_response())
}
