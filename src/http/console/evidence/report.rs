//! The texts of a pack: the report for people, and how to check all of it without us.

use std::collections::BTreeMap;

use askama::Template;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::asked;
use super::pack::Pack;
use crate::domain::{AuditEntry, Leaf, PersonalField, Source, address_text};
use crate::error::Error;
use crate::http::console::entry_view::EntryView;
use crate::http::console::reveal::Sight;
use crate::http::pages::filters;
use crate::store::evidence::SealedEntry;

/// What the entries come to.
#[derive(Debug, Default)]
pub struct Counts {
    pub entries: i64,
    pub vouched_for: i64,
    /// Personal fields.
    pub erased: i64,
    /// Entries that a former log took in and never signed.
    pub unproven: i64,
    pub actions: BTreeMap<String, i64>,
    /// Of each customer: the first version, the last, and how many there are.
    pub customers: BTreeMap<Uuid, (i32, i32, i64)>,
    pub times: Option<(DateTime<Utc>, DateTime<Utc>)>,
}

impl Counts {
    /// Whether all versions of the only customer are there, from the first on.
    fn is_gapless(&self) -> bool {
        self.customers.values().all(|(first, last, count)| *first == 1 && i64::from(*last) == *count)
    }
}

#[derive(Template)]
#[template(path = "console/evidence/head.html")]
struct Head<'a> {
    pack: &'a Pack,
    counts: &'a Counts,
    asked: Vec<(&'static str, String)>,
    /// Of one customer, and not filtered: then it can be told whether something is missing.
    whole: bool,
}

#[derive(Template)]
#[template(path = "console/evidence/row.html")]
struct Row<'a> {
    view: EntryView,
    place: &'a SealedEntry,
    details: Vec<(&'static str, String)>,
    erased: Vec<&'static str>,
    vouched_for: bool,
    one_customer: bool,
    proven: bool,
}

#[derive(Template)]
#[template(path = "console/evidence/tail.html")]
struct Tail<'a> {
    pack: &'a Pack,
}

#[derive(Template)]
#[template(path = "console/evidence/README.txt")]
struct Readme<'a> {
    pack: &'a Pack,
    asked: Vec<(&'static str, String)>,
}

pub fn head(pack: &Pack, counts: &Counts) -> Result<String, Error> {
    let asked = asked(&pack.question.filter);
    let whole = pack.question.filter.customer_id.is_some() && asked.len() == 1;
    rendered(&Head { pack, counts, asked, whole })
}

/// `personal`: which of the personal fields are there, in the order of [`PersonalField::ALL`].
pub fn row(
    pack: &Pack,
    place: &SealedEntry,
    entry: &AuditEntry,
    leaf: &Leaf,
    personal: [bool; 5],
) -> Result<String, Error> {
    // The pack was asked for, and that is recorded: it shows what it proves.
    let sight = Sight { event: Some(0), page: String::new() };
    let parts = [
        ("address", entry.ip_address.map(address_text)),
        ("client", entry.user_agent.clone()),
        ("request", entry.request_id.clone()),
    ];
    let erased = PersonalField::ALL
        .into_iter()
        .zip(personal)
        .filter(|(field, there)| !there && leaf.commitments.contains_key(field))
        .map(|(field, _)| named(field))
        .collect();
    rendered(&Row {
        view: EntryView::new(entry, &sight),
        place,
        details: parts.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
        erased,
        vouched_for: leaf.src == Source::Service,
        one_customer: pack.question.filter.customer_id.is_some(),
        proven: pack.is_proven(place),
    })
}

fn named(field: PersonalField) -> &'static str {
    match field {
        PersonalField::ChangedBy => "who changed it",
        PersonalField::OnBehalfOf => "on whose behalf",
        PersonalField::ChangeReason => "the reason",
        PersonalField::IpAddress => "the address",
        PersonalField::UserAgent => "the client",
    }
}

pub fn tail(pack: &Pack) -> Result<String, Error> {
    rendered(&Tail { pack })
}

pub fn readme(pack: &Pack) -> Result<String, Error> {
    rendered(&Readme { pack, asked: asked(&pack.question.filter) })
}

fn rendered(template: &impl Template) -> Result<String, Error> {
    template.render().map_err(|error| Error::Internal(error.to_string()))
}
