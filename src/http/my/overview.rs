//! The first page: what is in force since when, and two buttons.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};

use super::standing::Standing;
use super::texts::{Piece, say};
use super::view::{Overview, Sentence, Undo};
use super::visit::{Refused, Visit, enter};
use super::{HOME, Language};
use crate::domain::ConsentStatus;
use crate::http::AppState;
use crate::http::pages::Page;
use crate::http::problem::Problem;

/// With `link`, opens the page; without, shows it.
pub async fn page(
    State(state): State<AppState>,
    axum::Extension(Language(texts)): axum::Extension<Language>,
    headers: HeaderMap,
    uri: axum::http::Uri,
    visit: Result<Visit, Refused>,
) -> Result<Response, Problem> {
    let query = uri.query().unwrap_or_default();
    let parameter = |wanted: &str| {
        form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == wanted).map(|(_, value)| value)
    };
    if let Some(token) = parameter("link") {
        return enter(&state, texts, &headers, &token).await;
    }
    let visit = match visit {
        Ok(visit) => visit,
        Err(refused) => return Ok(refused.into_response()),
    };
    let standing = Standing::read(&state, visit.customer.customer_id, visit.now).await?;
    let page = overview(&visit, &standing, parameter("unchanged").is_some());
    Ok(Page(StatusCode::OK, page).into_response())
}

pub fn overview(visit: &Visit, standing: &Standing, unchanged: bool) -> Overview {
    let t = visit.texts;
    let undo = standing.withdrawal(visit.now).filter(|last| last.undone(t, visit.now).is_some());
    let given = matches!(standing.status, ConsentStatus::Active | ConsentStatus::Expired);
    Overview {
        frame: visit.frame(HOME),
        inactive: !visit.customer.is_active,
        unchanged,
        undo: undo.map(|last| {
            let entry = Piece::Datum(last.audit_id.to_string());
            let tier = Piece::Text(t.tier_name(last.before.consent_tier).to_owned());
            Undo {
                audit_id: last.audit_id,
                done: say(t.withdrawn_now, &[("since", t.time(last.at)), ("entry", entry)]),
                offer: say(t.undo_until, &[("time", t.time(last.until)), ("tier", tier)]),
            }
        }),
        in_force: in_force(visit, standing),
        details: details(visit, standing),
        given,
    }
}

/// What is in force, in a sentence or two.
fn in_force(visit: &Visit, standing: &Standing) -> Vec<Sentence> {
    let (t, record) = (visit.texts, &standing.record);
    let since = record.consent_updated_at.map(|time| t.time(time));
    let since = since.map(|since| ("since", since));
    let end = record.expires_at.map(|time| ("end", t.time(time)));
    let gaps: Vec<_> = since.into_iter().chain(end).collect();
    match standing.status {
        ConsentStatus::NeverGiven => vec![say(t.never, &[])],
        ConsentStatus::Withdrawn => vec![say(t.withdrawn, &gaps)],
        ConsentStatus::Expired => vec![say(t.expired, &gaps)],
        ConsentStatus::Active => {
            let tier = ("tier", Piece::Text(t.tier_name(record.consent_tier).to_owned()));
            let gaps: Vec<_> = gaps.into_iter().chain([tier]).collect();
            let end = if record.expires_at.is_some() { t.ends } else { t.no_end };
            vec![say(t.active, &gaps), say(end, &gaps)]
        }
    }
}

fn details(visit: &Visit, standing: &Standing) -> Vec<(&'static str, Sentence)> {
    let (t, record) = (visit.texts, &standing.record);
    if standing.status != ConsentStatus::Active {
        return Vec::new();
    }
    [
        (t.images, t.yes_or_no(record.can_store_images)),
        (t.embeddings, t.yes_or_no(record.can_store_embeddings)),
        (t.training, t.yes_or_no(record.can_use_for_training)),
        (t.level, t.level_name(record.anonymization_level)),
    ]
    .map(|(name, value)| (name, say(value, &[])))
    .into()
}
