//! One customer: what stands now or stood at some instant, the whole history, and who looked.

use askama::Template;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Days, NaiveTime, SecondsFormat, TimeDelta, Utc};
use uuid::Uuid;

use super::access::Look;
use super::chart::{self, Line, Mark, Step, Steps, TimeScale};
use super::entry_view::EntryView;
use super::paging::Paging;
use super::reveal::Sight;
use super::session::Visitor;
use super::shell::{Place, Shell};
use super::trail;
use crate::domain::{
    AuditAction, AuditEntry, ConsentRecord, ConsentStatus, ConsentTier, EventKind, Scope, Stretch, stretches,
};
use crate::error::Error;
use crate::http::AppState;
use crate::http::extract::{MAX_AUDIT_ID, PathId};
use crate::http::input::{Broken, Params, number};
use crate::http::pages::{Page, filters};
use crate::http::problem::Problem;
use crate::store::audit::{AuditFilter, Position};

const SHOWN: usize = 20;
/// So many of the newest entries are drawn.
const DRAWN: usize = 500;
const LOOKS: usize = 5;

/// The instant that is looked at.
struct AsOf {
    instant: DateTime<Utc>,
    /// As the form shows it again.
    day: String,
    time: String,
    /// In words.
    text: String,
}

impl AsOf {
    /// A day is looked at as it ended, or as it is now if it has not; with a time, that very time.
    fn read(params: &mut Params, now: DateTime<Utc>) -> Option<Self> {
        let time = params.take("at", clock_time);
        let given = params.take("as_of", trail::instant);
        let Some((begin, is_day)) = given else {
            if time.is_some() {
                params.fault("at", "without_a_day", "a time of day needs a day: give as_of too");
            }
            return None;
        };
        if begin > now {
            let detail = "as_of must not lie in the future: what will stand is not known";
            params.fault("as_of", "in_the_future", detail);
            return None;
        }
        if !is_day && time.is_some() {
            params.fault("at", "not_with_a_time", "as_of has a time already: leave this one out");
        }
        let end = begin + Days::new(1) - TimeDelta::microseconds(1);
        let (instant, is_end) = match time {
            Some(time) => (begin.date_naive().and_time(time).and_utc(), false),
            None if is_day => (end.min(now), end <= now),
            None => (begin, false),
        };
        if instant > now {
            params.fault(
                "at",
                "in_the_future",
                "the time must not lie in the future: what will stand is not known",
            );
        }
        let day = instant.format("%Y-%m-%d").to_string();
        Some(Self {
            instant,
            time: if is_day && time.is_none() {
                String::new()
            } else {
                instant.format("%H:%M:%S").to_string()
            },
            text: if is_end {
                format!("at the end of {day} (UTC)")
            } else {
                format!("at {}", instant.to_rfc3339_opts(SecondsFormat::AutoSi, true))
            },
            day,
        })
    }
}

/// As a browser's field of that type sends it.
fn clock_time(text: &str) -> Result<NaiveTime, Broken> {
    let text = text.trim();
    let read = |form| NaiveTime::parse_from_str(text, form).ok();
    read("%H:%M")
        .or_else(|| read("%H:%M:%S"))
        .ok_or_else(|| ("not_a_time", "a time of day (UTC) such as 14:30 is wanted".to_owned()))
}

/// What is known of a customer beside the consent.
struct Known {
    email: String,
    company: Option<String>,
    is_active: bool,
    since: DateTime<Utc>,
}

/// A change before or after what is shown.
struct Neighbour {
    time: DateTime<Utc>,
    action: &'static str,
    href: String,
}

impl Neighbour {
    fn new(entry: &AuditEntry) -> Self {
        let time = entry.timestamp.to_rfc3339_opts(SecondsFormat::AutoSi, true);
        Self {
            time: entry.timestamp,
            action: entry.action.as_str(),
            href: format!("/console/customers/{}?as_of={time}#stands", entry.customer_id),
        }
    }
}

/// A stretch of the chart, as its table tells it.
struct StretchRow {
    stretch: Stretch,
    status: &'static str,
    allowed: [bool; 3],
}

/// What came of a withdrawal that was sent from here.
enum Recorded {
    Entry(i64),
    Nothing,
}

#[derive(Template)]
#[template(path = "console/customer.html")]
struct CustomerPage {
    shell: Shell,
    sight: Sight,
    customer_id: Uuid,
    known: Option<Known>,
    as_of: Option<AsOf>,
    record: ConsentRecord,
    /// As the status, or `erased`.
    status: &'static str,
    previous: Option<Neighbour>,
    next: Option<Neighbour>,
    chart: Option<String>,
    /// The newest first.
    stretches: Vec<StretchRow>,
    versions: i64,
    drawn: i64,
    entries: Vec<EntryView>,
    older: Option<String>,
    newest: Option<String>,
    looks: Vec<Look>,
    more_looks: bool,
    may_withdraw: bool,
    recorded: Option<Recorded>,
}

impl CustomerPage {
    fn is(&self, status: &str) -> bool {
        self.status == status
    }

    /// Whether an entry made what stood at the instant that is looked at.
    fn stood(&self, entry: &EntryView) -> bool {
        self.as_of.is_some() && self.record.audit_id == Some(entry.audit_id)
    }
}

pub async fn page(
    State(state): State<AppState>,
    visitor: Visitor,
    PathId(customer_id): PathId,
    uri: Uri,
    params: Params,
) -> Result<Response, Problem> {
    let shell = Shell::new(&state, &visitor, Place::Customers).await?;
    let now = shell.now;
    let mut params = params.without_blanks();
    let sight = Sight::read(&state, &visitor, &uri, &mut params).await?;
    let as_of = AsOf::read(&mut params, now);
    let recorded = params.take("recorded", number(0, MAX_AUDIT_ID));
    let paging: Paging<Position> = Paging::read(&state, &uri, &mut params);
    params.finish()?;

    let listed = state.store.listed(customer_id, now).await?;
    let instant = as_of.as_ref().map_or(now, |as_of| as_of.instant);
    let record = match (&listed, &as_of) {
        (Some(listed), None) => listed.consent.clone(),
        _ => state.store.consent_as_of(customer_id, instant).await?.ok_or(Error::UnknownCustomer)?,
    };
    let filter = AuditFilter { customer_id: Some(customer_id), ..AuditFilter::default() };
    let one_more = |shown: usize| i64::try_from(shown + 1).unwrap_or(i64::MAX);
    let drawn = state.store.audit_entries(&filter, None, one_more(DRAWN)).await?;
    let mut entries = if paging.after.is_some() {
        state.store.audit_entries(&filter, paging.after, one_more(SHOWN)).await?
    } else {
        drawn.iter().take(SHOWN + 1).cloned().collect()
    };
    let position = |entry: &AuditEntry| Position { timestamp: entry.timestamp, audit_id: entry.audit_id };
    let older = paging.next(&state, &mut entries, SHOWN, position);
    let [previous, standing, next] = state.store.versions_around(customer_id, record.version).await?;
    let is_erased = standing.as_ref().is_some_and(|entry| entry.action == AuditAction::Erased);
    let status = if is_erased { "erased" } else { record.status(instant).as_str() };
    let recorded = match recorded {
        Some(0) if record.consent_tier == ConsentTier::None => Some(Recorded::Nothing),
        Some(audit_id) => state
            .store
            .audit_entry(audit_id)
            .await?
            .filter(|entry| entry.customer_id == customer_id && entry.action == AuditAction::Withdrawn)
            .map(|entry| Recorded::Entry(entry.audit_id)),
        None => None,
    };
    let mut looks =
        state.store.audit_events(Some(EventKind::PiiRead), Some(customer_id), None, one_more(LOOKS)).await?;
    let more_looks = looks.len() > LOOKS;
    looks.truncate(LOOKS);

    let versions = drawn.first().map_or(0, |entry| i64::from(entry.version));
    let mut drawn = drawn;
    drawn.truncate(DRAWN);
    drawn.reverse();
    let history = History::new(&drawn, as_of.as_ref(), now);
    let page = CustomerPage {
        known: listed.map(|listed| Known {
            email: sight.email(&listed.email),
            company: listed.company_name.as_deref().map(|name| sight.person(name)),
            is_active: listed.is_active,
            since: listed.created_at,
        }),
        previous: previous.as_ref().map(Neighbour::new),
        next: next.as_ref().map(Neighbour::new),
        drawn: i64::try_from(drawn.len()).unwrap_or(i64::MAX),
        chart: history.draw(customer_id, &drawn),
        stretches: history.rows(),
        entries: entries.iter().map(|entry| EntryView::new(entry, &sight)).collect(),
        newest: paging.after.is_some().then(|| paging.first()),
        looks: looks.into_iter().map(|event| Look::new(event, &sight)).collect(),
        may_withdraw: visitor.may(Scope::ConsentWrite) && status != "erased",
        customer_id,
        as_of,
        record,
        status,
        versions,
        older,
        more_looks,
        recorded,
        sight,
        shell,
    };
    Ok(Page(StatusCode::OK, page).into_response())
}

/// What is drawn of a history.
struct History<'a> {
    /// The oldest first; the last may lie ahead.
    stretches: Vec<Stretch>,
    as_of: Option<&'a AsOf>,
    now: DateTime<Utc>,
    /// When what stands now ends by itself.
    end: Option<DateTime<Utc>>,
}

/// Nothing is allowed by what was withdrawn, or has come to its end.
fn level(stretch: &Stretch) -> usize {
    let in_force = stretch.status == ConsentStatus::Active;
    ConsentTier::ALL.iter().position(|tier| in_force && *tier == stretch.state.consent_tier).unwrap_or(0)
}

fn allowed(stretch: &Stretch) -> [bool; 3] {
    let state = &stretch.state;
    [state.can_store_images, state.can_store_embeddings, state.can_use_for_training]
        .map(|allowed| allowed && stretch.status == ConsentStatus::Active)
}

impl<'a> History<'a> {
    /// Of one customer's entries, the oldest first.
    fn new(entries: &[AuditEntry], as_of: Option<&'a AsOf>, now: DateTime<Utc>) -> Self {
        let mut found = stretches(entries, now);
        let last = found.last().filter(|last| last.status == ConsentStatus::Active).cloned();
        let end = last.as_ref().and_then(|last| last.state.expires_at);
        if let (Some(last), Some(end)) = (last, end) {
            found.push(Stretch { from: now, until: end, ..last });
        }
        Self { stretches: found, as_of, now, end }
    }

    /// From a little before the first entry to now; with an end ahead as far as it leaves half of the room to what was.
    fn scale(&self) -> Option<TimeScale> {
        let first = self.stretches.first()?.from;
        let past = (self.now - first).max(TimeDelta::hours(1));
        let ahead = match self.end {
            Some(end) => (end - self.now + past / 20).min(past),
            None => past / 40,
        };
        Some(TimeScale::new(first - past / 40, self.now + ahead))
    }

    fn draw(&self, customer_id: Uuid, entries: &[AuditEntry]) -> Option<String> {
        let scale = self.scale()?;
        let steps: Vec<Step> = self
            .stretches
            .iter()
            .map(|stretch| Step {
                from: stretch.from,
                until: stretch.until,
                level: level(stretch),
                allowed: allowed(stretch),
                is_expired: stretch.status == ConsentStatus::Expired,
                is_ahead: stretch.from >= self.now,
            })
            .collect();
        let level_at = |time: DateTime<Utc>| {
            let stretch = self.stretches.iter().rev().find(|stretch| stretch.from <= time);
            stretch.map_or(0, level)
        };
        let marks: Vec<Mark> = entries
            .iter()
            .map(|entry| Mark {
                time: entry.timestamp,
                level: level_at(entry.timestamp),
                label: format!(
                    "{}: {}, tier {}",
                    entry.timestamp.format("%Y-%m-%d %H:%MZ"),
                    entry.action.as_str(),
                    entry.new_tier.as_str()
                ),
                href: format!("/console/audit/{}", entry.audit_id),
            })
            .collect();
        let mut above = Vec::new();
        if let Some(end) = self.end {
            let beyond = if end > scale.to { " →" } else { "" };
            let label = format!("ends {}{beyond}", end.format("%Y-%m-%d"));
            above.push(Line { class: "ends", time: end, label });
        }
        above.push(Line { class: "now", time: self.now, label: "now".to_owned() });
        let below = self.as_of.map(|as_of| {
            let before = if as_of.instant < scale.from { "← " } else { "" };
            let label = format!("{before}as of {} {}", as_of.day, as_of.time);
            Line { class: "as-of", time: as_of.instant, label: label.trim_end().to_owned() }
        });
        let description = format!(
            "Customer {customer_id}: {} changes as dots that lead to their entries; the tier as steps from none at the \
             bottom to research at the top; below, a lane for each permission, high where it is allowed. The table below \
             tells the same",
            filters::grouped(i64::try_from(entries.len()).unwrap_or(i64::MAX))
        );
        Some(chart::steps(&Steps {
            title: "The consent over time",
            description: &description,
            scale,
            levels: ConsentTier::ALL.map(ConsentTier::as_str),
            lanes: ["images", "embeddings", "training"],
            stretches: &steps,
            marks: &marks,
            above: &above,
            below: below.as_ref(),
        }))
    }

    fn rows(&self) -> Vec<StretchRow> {
        let past = self.stretches.iter().filter(|stretch| stretch.from < self.now);
        let row = |stretch: &Stretch| StretchRow {
            status: stretch.status.as_str(),
            allowed: allowed(stretch),
            stretch: stretch.clone(),
        };
        past.rev().map(row).collect()
    }
}
