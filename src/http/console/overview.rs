//! What there is, what happened of late, and what needs attention.

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Datelike as _, Days, NaiveDate, TimeDelta, Utc};

use super::chart::{self, Bar, Bars, Layer, TimeScale, midnight};
use super::entry_view::EntryView;
use super::reveal::Sight;
use super::session::Visitor;
use super::shell::{Condition, Place, Shell};
use crate::error::Error;
use crate::http::AppState;
use crate::http::input::Params;
use crate::http::pages::filters::grouped;
use crate::http::pages::{Page, filters};
use crate::http::problem::Problem;
use crate::store::audit::AuditFilter;
use crate::store::statistics::{Day, Grain};

/// More changes in a day than this are not counted.
const COUNTED: i64 = 100_000;
/// How far back the charts reach.
const CHARTED: Days = Days::new(365);
const NEWEST: i64 = 10;
/// Sealing takes a second: what waits longer than this is late.
const SEALED_WITHIN: TimeDelta = TimeDelta::minutes(1);

#[derive(Template)]
#[template(path = "console/overview.html")]
struct Overview {
    shell: Shell,
    /// Customers at each of them.
    conditions: [(&'static str, i64, &'static str); 5],
    changes: i64,
    changes_capped: bool,
    changes_since: String,
    withdrawals: i64,
    withdrawals_since: NaiveDate,
    expiring: i64,
    held: [(&'static str, i64); 3],
    attention: Vec<Attention>,
    area: String,
    area_rows: Vec<AreaRow>,
    bars: String,
    weeks: Vec<Bar>,
    newest: Vec<EntryView>,
}

/// Something that somebody should look at.
struct Attention {
    condition: Condition,
    text: String,
    href: &'static str,
    link: &'static str,
}

/// At a tier, or with a consent that has ended: in the order in which they are stacked.
const CONDITIONS: [&str; 5] = ["expired", "none", "basic", "analytics", "research"];

/// Customers in each condition at the end of a month.
struct AreaRow {
    day: NaiveDate,
    customers: [i64; 5],
}

pub async fn page(
    State(state): State<AppState>,
    visitor: Visitor,
    params: Params,
) -> Result<Response, Problem> {
    params.finish()?;
    let shell = Shell::new(&state, &visitor, Place::Overview).await?;
    let now = shell.now;
    let today = now.date_naive();
    let store = &state.store;
    let days = store.days().await?;
    let sum = |value: fn(&Day) -> i64| days.iter().map(value).sum::<i64>();
    let withdrawals_since = today - Days::new(6);
    let yesterday = now - TimeDelta::hours(24);
    let late = AuditFilter { since: Some(yesterday), ..AuditFilter::default() };
    let changes = store.newest_counted(&late, Grain::Day, COUNTED).await?;
    let changes: i64 = changes.iter().map(|counted| counted.entries).sum();
    let newest = store.audit_entries(&AuditFilter::default(), None, NEWEST).await?;
    let (area, area_rows) = tiers_by_day(&days, now);
    let (bars, weeks) = grants_and_withdrawals(&days, now);
    let page = Overview {
        conditions: [
            ("none", sum(|day| day.tier_none), "tier=none&status=withdrawn"),
            ("basic", sum(|day| day.tier_basic), "tier=basic&status=active"),
            ("analytics", sum(|day| day.tier_analytics), "tier=analytics&status=active"),
            ("research", sum(|day| day.tier_research), "tier=research&status=active"),
            ("expired", sum(|day| day.expired), "status=expired"),
        ],
        changes,
        changes_capped: changes >= COUNTED,
        changes_since: yesterday.format("%Y-%m-%dT%H:%M:%SZ").to_string(),
        withdrawals: days.iter().filter(|day| day.day >= withdrawals_since).map(|day| day.withdrawn).sum(),
        withdrawals_since,
        expiring: store.count_expiring(now, now + TimeDelta::days(30)).await?,
        held: [
            ("store images", sum(|day| day.images)),
            ("store embeddings", sum(|day| day.embeddings)),
            ("use for training", sum(|day| day.training)),
        ],
        attention: attention(&state, &shell, &days).await?,
        area,
        area_rows,
        bars,
        weeks,
        newest: newest.iter().map(|entry| EntryView::new(entry, &Sight::masked())).collect(),
        shell,
    };
    Ok(Page(StatusCode::OK, page).into_response())
}

async fn attention(state: &AppState, shell: &Shell, days: &[Day]) -> Result<Vec<Attention>, Error> {
    let mut found = Vec::new();
    let mut note =
        |condition, text: String, href, link| found.push(Attention { condition, text, href, link });
    if shell.badge.condition != Condition::Good {
        let text = format!("The audit log: {}.", shell.badge.text);
        note(shell.badge.condition, text, "/console/integrity", "Look at its integrity");
    }
    let backlog = state.store.backlog().await?;
    if backlog.quarantined > 0 {
        let text = format!(
            "{} entries cannot be sealed: they are not what the service wrote.",
            grouped(backlog.quarantined)
        );
        note(Condition::Bad, text, "/console/integrity", "See which");
    }
    if backlog.oldest.is_some_and(|oldest| oldest + SEALED_WITHIN < shell.now) {
        let text = format!("{} entries wait to be sealed, and are counted late.", grouped(backlog.pending));
        note(Condition::Unsure, text, "/console/integrity", "Look at the log");
    }
    let soon = state.store.count_expiring(shell.now, shell.now + TimeDelta::days(7)).await?;
    if soon > 0 {
        let text = if soon == 1 {
            "1 consent ends within 7 days.".to_owned()
        } else {
            format!("{} consents end within 7 days.", grouped(soon))
        };
        note(Condition::Unsure, text, "/console/expiring", "See whose");
    }
    let withdrawn_within = |from: u64, to: u64| {
        let today = shell.now.date_naive();
        let (first, last) = (today - Days::new(from), today - Days::new(to));
        let within = days.iter().filter(|day| day.day >= first && day.day <= last);
        within.map(|day| day.withdrawn).sum::<i64>()
    };
    let (late, usual) = (withdrawn_within(6, 0), withdrawn_within(34, 7) / 4);
    if late > 10 && late > 2 * usual {
        let text = format!(
            "{} withdrawals in 7 days, where {} are usual: something may have put customers off.",
            grouped(late),
            grouped(usual)
        );
        note(Condition::Unsure, text, "/console/audit?action=withdrawn", "Read them");
    }
    Ok(found)
}

/// Customers at each tier, day by day, of the days that are charted.
fn tiers_by_day(days: &[Day], now: DateTime<Utc>) -> (String, Vec<AreaRow>) {
    let first = now.date_naive() - CHARTED;
    let mut customers = [0_i64; 5];
    let add = |customers: &mut [i64; 5], day: &Day| {
        let moves = [day.expired, day.tier_none, day.tier_basic, day.tier_analytics, day.tier_research];
        for (count, moved) in customers.iter_mut().zip(moves) {
            *count += moved;
        }
    };
    let (before, charted): (Vec<&Day>, Vec<&Day>) = days.iter().partition(|day| day.day < first);
    for day in before {
        add(&mut customers, day);
    }
    let begin = match (customers.iter().any(|count| *count > 0), charted.first()) {
        (false, Some(day)) => day.day,
        _ => first,
    };
    let (mut times, mut values) = (vec![midnight(begin)], vec![customers]);
    let mut rows: Vec<AreaRow> = Vec::new();
    for day in charted {
        add(&mut customers, day);
        if times.last() == Some(&midnight(day.day)) {
            values.pop();
            times.pop();
        }
        times.push(midnight(day.day));
        values.push(customers);
        if rows
            .last()
            .is_some_and(|row| (row.day.year(), row.day.month()) == (day.day.year(), day.day.month()))
        {
            rows.pop();
        }
        rows.push(AreaRow { day: day.day, customers });
    }
    let layers: Vec<Layer> = CONDITIONS
        .iter()
        .enumerate()
        .map(|(index, name)| Layer {
            name,
            values: values.iter().map(|customers| customers[index]).collect(),
        })
        .collect();
    let scale = TimeScale::new(midnight(begin), now);
    let now = CONDITIONS.iter().zip(customers).map(|(name, count)| format!("{name} {}", grouped(count)));
    let description = format!(
        "Stacked from expired at the bottom to research at the top; today {}",
        now.collect::<Vec<_>>().join(", ")
    );
    let title = "Customers by tier, by day";
    rows.reverse();
    (chart::area(title, &description, "customers", &scale, &times, &layers), rows)
}

/// Grants up, withdrawals down, by week.
fn grants_and_withdrawals(days: &[Day], now: DateTime<Utc>) -> (String, Vec<Bar>) {
    let monday = |day: NaiveDate| day - Days::new(day.weekday().num_days_from_monday().into());
    let first = monday(now.date_naive() - CHARTED);
    let mut weeks: Vec<Bar> = Vec::new();
    for day in days.iter().filter(|day| day.day >= first) {
        let begin = midnight(monday(day.day));
        if weeks.last().is_none_or(|week| week.from != begin) {
            let last = monday(day.day) + Days::new(6);
            weeks.push(Bar {
                from: begin,
                to: begin + Days::new(7),
                up: 0,
                down: 0,
                label: String::new(),
                href: Some(format!("/console/audit?since={}&until={last}", monday(day.day))),
            });
        }
        if let Some(week) = weeks.last_mut() {
            week.up += day.granted;
            week.down += day.withdrawn;
        }
    }
    for week in &mut weeks {
        week.label = format!(
            "Week from {}: {} granted, {} withdrawn",
            week.from.format("%Y-%m-%d"),
            grouped(week.up),
            grouped(week.down)
        );
    }
    let begin = weeks.first().map_or(midnight(first), |week| week.from);
    let chart = chart::bars(&Bars {
        title: "Grants and withdrawals by week",
        description: "Grants go up, withdrawals go down; a bar leads to the entries of its week",
        unit: "a week: grants up, withdrawals down",
        scale: TimeScale::new(begin, now),
        spans: &weeks,
        up: "up",
    });
    weeks.reverse();
    (chart, weeks)
}
