//! The audit trail: filtered by what its address says, counted over time, walked from the newest entry to the oldest.

use askama::Template;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Datelike as _, Days, Months, NaiveDate, TimeDelta, Timelike as _, Utc};

use super::chart::{self, Bar, Bars, TimeScale, midnight};
use super::entry_view::EntryView;
use super::paging::{Chip, Paging, chips, query_without, with_query};
use super::reveal::{self, Sight};
use super::session::Visitor;
use super::shell::{Place, Shell};
use crate::domain::{AuditAction, AuditEntry, ConsentTier};
use crate::error::Error;
use crate::http::AppState;
use crate::http::api::export::{Format, export};
use crate::http::input::{self, Broken, Params, choice, network, nonempty, uuid};
use crate::http::pages::{Page, filters};
use crate::http::problem::Problem;
use crate::http::shares::Owner;
use crate::store::audit::{AuditFilter, Position};
use crate::store::statistics::{Counted, Grain};

const PATH: &str = "/console/audit";
const SHOWN: usize = 50;
/// Where counts by day do not tell how many entries a filter lets through, so many of the newest are counted.
const COUNTED: i64 = 20_000;

/// A filter as the console's addresses hold it, and as its form shows it again.
#[derive(Debug, Default)]
pub struct TrailFilter {
    pub filter: AuditFilter,
    fields: Vec<(&'static str, String)>,
}

/// What a field of the filter is called.
const LABELS: [(&str, &str); 9] = [
    ("customer_id", "customer"),
    ("changed_by", "actor"),
    ("action", "action"),
    ("previous_tier", "tier before"),
    ("new_tier", "tier after"),
    ("ip_address", "address"),
    ("request_id", "request"),
    ("since", "from"),
    ("until", "to"),
];

impl TrailFilter {
    pub fn read(params: &mut Params) -> Self {
        let mut fields = Vec::new();
        let filter = AuditFilter {
            customer_id: kept(params, &mut fields, "customer_id", uuid),
            changed_by: kept(params, &mut fields, "changed_by", nonempty(255)),
            action: kept(params, &mut fields, "action", choice(&AuditAction::ALL, AuditAction::as_str)),
            previous_tier: kept(params, &mut fields, "previous_tier", tier()),
            new_tier: kept(params, &mut fields, "new_tier", tier()),
            ip_address: kept(params, &mut fields, "ip_address", network),
            request_id: kept(params, &mut fields, "request_id", nonempty(128)),
            since: kept(params, &mut fields, "since", from),
            until: kept(params, &mut fields, "until", to),
        };
        Self { filter, fields }
    }

    fn value(&self, name: &str) -> &str {
        self.fields.iter().find(|(field, _)| *field == name).map_or("", |(_, value)| value)
    }

    /// Whether the counts by day tell how many entries this lets through: of whole days, by action and tiers alone.
    fn is_counted_by_day(&self) -> bool {
        let AuditFilter { customer_id, changed_by, ip_address, request_id, since, until, .. } = &self.filter;
        let whole =
            |time: &Option<DateTime<Utc>>| time.is_none_or(|time| time == midnight(time.date_naive()));
        customer_id.is_none()
            && changed_by.is_none()
            && ip_address.is_none()
            && request_id.is_none()
            && whole(since)
            && whole(until)
    }
}

/// Takes a field, and keeps what it held for the form that shows it again.
fn kept<T>(
    params: &mut Params,
    fields: &mut Vec<(&'static str, String)>,
    name: &'static str,
    read: impl FnOnce(&str) -> Result<T, Broken>,
) -> Option<T> {
    params.take(name, |text| {
        let text = text.trim();
        fields.push((name, text.to_owned()));
        read(text)
    })
}

fn tier() -> impl Fn(&str) -> Result<ConsentTier, Broken> {
    choice(&ConsentTier::ALL, ConsentTier::as_str)
}

/// The beginning of a day, or an instant.
pub fn from(text: &str) -> Result<DateTime<Utc>, Broken> {
    instant(text).map(|(time, _)| time)
}

/// The end of a day, or an instant.
pub fn to(text: &str) -> Result<DateTime<Utc>, Broken> {
    instant(text).map(|(time, is_day)| if is_day { time + Days::new(1) } else { time })
}

/// An instant, or the beginning of a day; and whether it is a day.
pub fn instant(text: &str) -> Result<(DateTime<Utc>, bool), Broken> {
    if let Ok(day) = text.parse::<NaiveDate>()
        && (1..=9999).contains(&day.year())
    {
        return Ok((midnight(day), true));
    }
    let wanted = || "a day such as 2026-01-31, or a time such as 2026-01-31T12:00:00Z, is wanted".to_owned();
    input::time(text).map(|time| (time, false)).map_err(|(code, _)| (code, wanted()))
}

#[derive(Template)]
#[template(path = "console/trail.html")]
struct Trail {
    shell: Shell,
    sight: Sight,
    chosen: TrailFilter,
    chips: Vec<Chip>,
    presets: Vec<(&'static str, String)>,
    histogram: Histogram,
    entries: Vec<EntryView>,
    older: Option<String>,
    /// The list from its newest entry; absent where it is shown from there.
    newest: Option<String>,
    /// The filter as a query, for the files.
    query: String,
}

impl Trail {
    fn file(&self, path: &str) -> String {
        with_query(path, &self.query)
    }
}

pub async fn page(
    State(state): State<AppState>,
    visitor: Visitor,
    uri: Uri,
    params: Params,
) -> Result<Response, Problem> {
    let shell = Shell::new(&state, &visitor, Place::Trail).await?;
    let mut params = params.without_blanks();
    let sight = Sight::read(&state, &visitor, &uri, &mut params).await?;
    let chosen = TrailFilter::read(&mut params);
    let paging: Paging<Position> = Paging::read(&state, &uri, &mut params);
    params.finish()?;
    let limit = i64::try_from(SHOWN + 1).unwrap_or(i64::MAX);
    let mut found = state.store.audit_entries(&chosen.filter, paging.after, limit).await?;
    let position = |entry: &AuditEntry| Position { timestamp: entry.timestamp, audit_id: entry.audit_id };
    let older = paging.next(&state, &mut found, SHOWN, position);
    let histogram = Histogram::read(&state, &chosen, &uri, shell.now).await?;
    let trail = Trail {
        entries: found.iter().map(|entry| EntryView::new(entry, &sight)).collect(),
        chips: chips(&uri, &chosen.fields, &LABELS),
        presets: presets(&uri, shell.now),
        newest: paging.after.is_some().then(|| paging.first()),
        query: query_without(&uri, &["cursor", "reveal"]),
        older,
        histogram,
        chosen,
        sight,
        shell,
    };
    Ok(Page(StatusCode::OK, trail).into_response())
}

/// The same list of late alone.
fn presets(uri: &Uri, now: DateTime<Utc>) -> Vec<(&'static str, String)> {
    let today = now.date_naive();
    let others = query_without(uri, &["since", "until", "cursor", "reveal"]);
    let separator = if others.is_empty() { "" } else { "&" };
    [("today", 0), ("7 days", 6), ("30 days", 29), ("90 days", 89), ("a year", 364)]
        .into_iter()
        .map(|(name, days)| (name, format!("{PATH}?{others}{separator}since={}", today - Days::new(days))))
        .collect()
}

/// All that the page's filter lets through, as a file.
pub async fn csv(
    State(state): State<AppState>,
    visitor: Visitor,
    uri: Uri,
    params: Params,
) -> Result<Response, Problem> {
    file(&state, &visitor, &uri, params, Format::Csv).await
}

pub async fn ndjson(
    State(state): State<AppState>,
    visitor: Visitor,
    uri: Uri,
    params: Params,
) -> Result<Response, Problem> {
    file(&state, &visitor, &uri, params, Format::Ndjson).await
}

async fn file(
    state: &AppState,
    visitor: &Visitor,
    uri: &Uri,
    params: Params,
    format: Format,
) -> Result<Response, Problem> {
    visitor.must(crate::domain::Scope::AuditRead)?;
    let mut params = params.without_blanks();
    let filter = TrailFilter::read(&mut params).filter;
    params.finish()?;
    reveal::record(state, visitor, uri, filter.customer_id).await?;
    export(state, Owner::of(&visitor.principal), filter, format).await
}

/// How many entries there were, over time.
struct Histogram {
    chart: String,
    bars: Vec<Bar>,
    count: i64,
    /// Only so many of the newest were counted.
    capped: bool,
    span: &'static str,
}

impl Histogram {
    async fn read(
        state: &AppState,
        chosen: &TrailFilter,
        uri: &Uri,
        now: DateTime<Utc>,
    ) -> Result<Self, Error> {
        let AuditFilter { action, previous_tier, new_tier, since, until, .. } = chosen.filter;
        let end = until.unwrap_or(now).min(now);
        let by_hour = since.is_some_and(|since| end - since <= TimeDelta::days(3));
        let mut capped = false;
        let counted = if by_hour || !chosen.is_counted_by_day() {
            let grain = if by_hour { Grain::Hour } else { Grain::Day };
            let counted = state.store.newest_counted(&chosen.filter, grain, COUNTED).await?;
            capped = counted.iter().map(|counted| counted.entries).sum::<i64>() >= COUNTED;
            counted
        } else {
            let days = state.store.sealed_by_day(action, previous_tier, new_tier).await?;
            let within = |counted: &Counted| {
                since.is_none_or(|since| counted.from >= since)
                    && until.is_none_or(|until| counted.from < until)
            };
            days.into_iter().filter(within).collect()
        };
        let begin = since.or_else(|| counted.first().map(|counted| counted.from)).unwrap_or(end);
        let scale = TimeScale::new(begin, end.max(begin));
        let (span, bars) = spans(&scale, &counted, by_hour, uri);
        let count = counted.iter().map(|counted| counted.entries).sum();
        let title = format!("Entries a {span}");
        let chart = chart::bars(&Bars {
            title: &title,
            description: "A bar leads to the entries of its span; the table below has the numbers",
            unit: &title.to_lowercase(),
            scale,
            spans: &bars,
            up: "",
        });
        Ok(Self { chart, bars, count, capped, span })
    }
}

/// Gathers what was counted into bars of hours, days, weeks or months, each with the way to its entries.
fn spans(scale: &TimeScale, counted: &[Counted], by_hour: bool, uri: &Uri) -> (&'static str, Vec<Bar>) {
    let span = match (scale.to - scale.from).num_days() {
        _ if by_hour => "hour",
        ..=92 => "day",
        93..=800 => "week",
        _ => "month",
    };
    let begin_of = |time: DateTime<Utc>| {
        let day = time.date_naive();
        match span {
            "hour" => midnight(day) + TimeDelta::hours(time.hour().into()),
            "day" => midnight(day),
            "week" => midnight(day - Days::new(day.weekday().num_days_from_monday().into())),
            _ => midnight(day.with_day(1).unwrap_or_default()),
        }
    };
    let end_of = |begin: DateTime<Utc>| match span {
        "hour" => begin + TimeDelta::hours(1),
        "day" => begin + Days::new(1),
        "week" => begin + Days::new(7),
        _ => begin + Months::new(1),
    };
    let others = query_without(uri, &["since", "until", "cursor", "reveal"]);
    let separator = if others.is_empty() { "" } else { "&" };
    let mut bars: Vec<Bar> = Vec::new();
    for counted in counted {
        let begin = begin_of(counted.from);
        if let Some(bar) = bars.last_mut().filter(|bar| bar.from == begin) {
            bar.up += counted.entries;
            continue;
        }
        let end = end_of(begin);
        let (since, until) = if by_hour {
            (begin.format("%Y-%m-%dT%H:%M:%SZ").to_string(), end.format("%Y-%m-%dT%H:%M:%SZ").to_string())
        } else {
            let last = end.date_naive() - Days::new(1);
            (begin.date_naive().to_string(), last.to_string())
        };
        bars.push(Bar {
            from: begin,
            to: end,
            up: counted.entries,
            down: 0,
            label: String::new(),
            href: Some(format!("{PATH}?{others}{separator}since={since}&until={until}")),
        });
    }
    for bar in &mut bars {
        let name = match span {
            "hour" => bar.from.format("%Y-%m-%d %H:00Z").to_string(),
            "month" => bar.from.format("%B %Y").to_string(),
            "week" => format!("Week from {}", bar.from.format("%Y-%m-%d")),
            _ => bar.from.format("%Y-%m-%d").to_string(),
        };
        bar.label = format!("{name}: {}", filters::grouped(bar.up));
    }
    (span, bars)
}
