//! What comes to its end by itself, and what has of late.

use std::collections::BTreeMap;

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Days, NaiveDate, Utc};

use super::chart::{self, Bar, Bars, TimeScale, midnight};
use super::session::Visitor;
use super::shell::{Place, Shell};
use crate::domain::{AuditAction, ConsentTier};
use crate::http::AppState;
use crate::http::input::Params;
use crate::http::pages::{Page, filters};
use crate::http::problem::Problem;
use crate::store::listing::Ending;

/// How many days ahead, today included, and how many back.
const AHEAD: u64 = 90;
const BACK: u64 = 30;

/// The consents of a tier other than none which end on a day.
struct Day {
    date: NaiveDate,
    /// Of `TIERS`.
    tiers: [i64; 3],
    total: i64,
    href: String,
}

const TIERS: [ConsentTier; 3] = [ConsentTier::Basic, ConsentTier::Analytics, ConsentTier::Research];

#[derive(Template)]
#[template(path = "console/expiring.html")]
struct Expiring {
    shell: Shell,
    coming: String,
    days: Vec<Day>,
    total: i64,
    last_day: NaiveDate,
    gone: String,
    expired: Vec<Bar>,
    expired_total: i64,
}

pub async fn page(
    State(state): State<AppState>,
    visitor: Visitor,
    params: Params,
) -> Result<Response, Problem> {
    params.finish()?;
    let shell = Shell::new(&state, &visitor, Place::Expiring).await?;
    let now = shell.now;
    let today = now.date_naive();
    let end = midnight(today + Days::new(AHEAD));
    let days = by_day(state.store.endings(now, end).await?);
    let total: i64 = days.iter().map(|day| day.total).sum();
    let expired = expired(&state, now).await?;
    let expired_total: i64 = expired.iter().map(|bar| bar.up).sum();
    let page = Expiring {
        coming: coming(&days, total, today),
        days,
        total,
        last_day: today + Days::new(AHEAD - 1),
        gone: gone(&expired, expired_total, now),
        expired,
        expired_total,
        shell,
    };
    Ok(Page(StatusCode::OK, page).into_response())
}

fn by_day(endings: Vec<Ending>) -> Vec<Day> {
    let mut days: BTreeMap<NaiveDate, [i64; 3]> = BTreeMap::new();
    for ending in endings {
        let tiers = days.entry(ending.day).or_default();
        if let Some(index) = TIERS.iter().position(|tier| *tier == ending.tier) {
            tiers[index] += ending.consents;
        }
    }
    let day = |(date, tiers): (NaiveDate, [i64; 3])| Day {
        date,
        tiers,
        total: tiers.iter().sum(),
        href: format!("/console/customers?expiring_from={date}&expiring_before={}", date + Days::new(1)),
    };
    days.into_iter().map(day).collect()
}

fn coming(days: &[Day], total: i64, today: NaiveDate) -> String {
    let bars: Vec<Bar> = days
        .iter()
        .map(|day| Bar {
            from: midnight(day.date),
            to: midnight(day.date + Days::new(1)),
            up: day.total,
            down: 0,
            label: format!("{}: {} end", day.date, filters::grouped(day.total)),
            href: Some(day.href.clone()),
        })
        .collect();
    chart::bars(&Bars {
        title: "Consents that end within 90 days, by day",
        description: &format!(
            "{} in all; a bar leads to the customers of its day, the table below has the numbers",
            filters::grouped(total)
        ),
        unit: "consents that end, a day",
        scale: TimeScale::new(midnight(today), midnight(today + Days::new(AHEAD))),
        spans: &bars,
        up: "unsure",
    })
}

/// The `expired` entries of each day of late, the newest first.
async fn expired(state: &AppState, now: DateTime<Utc>) -> Result<Vec<Bar>, Problem> {
    let first = midnight(now.date_naive() - Days::new(BACK - 1));
    let counted = state.store.sealed_by_day(Some(AuditAction::Expired), None, None).await?;
    let bars = counted.into_iter().rev().take_while(|counted| counted.from >= first).map(|counted| {
        let day = counted.from.date_naive();
        Bar {
            from: counted.from,
            to: counted.from + Days::new(1),
            up: counted.entries,
            down: 0,
            label: format!("{day}: {} expired", filters::grouped(counted.entries)),
            href: Some(format!("/console/audit?action=expired&since={day}&until={day}")),
        }
    });
    Ok(bars.collect())
}

fn gone(expired: &[Bar], total: i64, now: DateTime<Utc>) -> String {
    let today = now.date_naive();
    chart::bars(&Bars {
        title: "Consents that expired within 30 days, by day",
        description: &format!(
            "{} in all; a bar leads to the entries of its day, the table below has the numbers",
            filters::grouped(total)
        ),
        unit: "expired, a day",
        scale: TimeScale::new(midnight(today - Days::new(BACK - 1)), midnight(today + Days::new(1))),
        spans: expired,
        up: "",
    })
}
