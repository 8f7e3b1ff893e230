//! API keys: who has which rights, since when, until when; made, exchanged and revoked by whoever has the scope `admin`.
//!
//! A new key is in the answer to the form that asked for it and nowhere else: in no address, and not stored.

use askama::Template;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::paging::Paging;
use super::session::Visitor;
use super::shell::{Place, Shell};
use super::trail;
use crate::domain::{ApiKey, ApiKeyRecord, KeyKind, Scope};
use crate::error::{Error, Fault};
use crate::http::extract::PathId;
use crate::http::input::{Params, choice, flag, number, text, uuid};
use crate::http::pages::{Form, Page, filters, see};
use crate::http::problem::Problem;
use crate::http::{AppState, detached};
use crate::ops;
use crate::ops::keys::NewKey;
use crate::store::keys::KeyFilter;
use crate::store::settle;

const SHOWN: usize = 50;
/// How long an exchanged key may stay good, in seconds.
const LONGEST_OVERLAP: i64 = 604_800;

#[derive(Template)]
#[template(path = "console/keys.html")]
struct Keys {
    shell: Shell,
    listed: Vec<KeyView>,
    next: Option<String>,
    /// The list from its beginning; absent where it is shown from there.
    first: Option<String>,
    customer_id: Option<Uuid>,
}

#[derive(Template)]
#[template(path = "console/key.html")]
struct One {
    shell: Shell,
    key: KeyView,
}

#[derive(Template)]
#[template(path = "console/new_key.html")]
struct New {
    shell: Shell,
    key: KeyView,
    secret: String,
    /// The key that this one takes the place of, and until when that stays good.
    replaces: Option<(String, DateTime<Utc>)>,
}

/// A key as it is shown.
struct KeyView {
    record: ApiKeyRecord,
    state: KeyState,
    /// The visitor is signed in with it.
    is_own: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum KeyState {
    Good,
    /// Another has taken its place; it is good for a while.
    Leaving,
    Expired,
    Revoked,
}

impl KeyState {
    fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Leaving => "unsure",
            Self::Expired | Self::Revoked => "muted",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Good => "in use",
            Self::Leaving => "exchanged, good until its end",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }

    fn is_good(self) -> bool {
        matches!(self, Self::Good | Self::Leaving)
    }
}

impl KeyView {
    fn new(record: ApiKeyRecord, visitor: &Visitor, now: DateTime<Utc>) -> Self {
        let state = if !record.is_active {
            KeyState::Revoked
        } else if record.expires_at.is_some_and(|end| end <= now) {
            KeyState::Expired
        } else if record.replaced_by.is_some() {
            KeyState::Leaving
        } else {
            KeyState::Good
        };
        Self { state, is_own: record.key_id == visitor.principal.key_id, record }
    }

    fn name(&self) -> &str {
        self.record.key_name.as_deref().unwrap_or("without a name")
    }
}

pub async fn page(
    State(state): State<AppState>,
    visitor: Visitor,
    uri: Uri,
    params: Params,
) -> Result<Response, Problem> {
    let shell = Shell::new(&state, &visitor, Place::Keys).await?;
    let mut params = params.without_blanks();
    let paging: Paging<Uuid> = Paging::read(&state, &uri, &mut params);
    let customer_id = params.take("customer_id", |text| uuid(text.trim()));
    params.finish()?;
    let filter = KeyFilter { customer_id, is_active: None };
    let limit = i64::try_from(SHOWN + 1).unwrap_or(i64::MAX);
    let mut keys = state.store.list_keys(&filter, paging.after, limit).await?;
    let next = paging.next(&state, &mut keys, SHOWN, |key| key.key_id);
    let page = Keys {
        listed: keys.into_iter().map(|key| KeyView::new(key, &visitor, shell.now)).collect(),
        first: paging.after.is_some().then(|| paging.first()),
        next,
        customer_id,
        shell,
    };
    Ok(Page(StatusCode::OK, page).into_response())
}

pub async fn one(
    State(state): State<AppState>,
    visitor: Visitor,
    PathId(key_id): PathId,
    params: Params,
) -> Result<Response, Problem> {
    params.finish()?;
    let shell = Shell::new(&state, &visitor, Place::Keys).await?;
    let record = state.store.key(key_id).await?.ok_or(Error::UnknownApiKey)?;
    let page = One { key: KeyView::new(record, &visitor, shell.now), shell };
    Ok(Page(StatusCode::OK, page).into_response())
}

pub async fn create(
    State(state): State<AppState>,
    visitor: Visitor,
    Form(mut form): Form,
) -> Result<Response, Problem> {
    visitor.must(Scope::Admin)?;
    let now = (state.clock)();
    let key_name = form.take("key_name", text(255));
    // A box for each: a field that is there twice is a fault.
    let scopes: Vec<Scope> =
        Scope::ALL.into_iter().filter(|scope| form.take(scope.as_str(), flag).unwrap_or_default()).collect();
    let kind = form.take("kind", choice(&KeyKind::ALL, KeyKind::as_str)).unwrap_or(KeyKind::Live);
    let customer_id = form.take("customer_id", |text| uuid(text.trim()));
    let expires_at = form.take("expires", trail::to);
    if scopes.is_empty() {
        form.fault("scopes", "empty", "choose at least one scope: a key without any may do nothing");
    }
    if expires_at.is_some_and(|end| end <= now) {
        form.fault("expires", "in_the_past", "the end must lie in the future, or be left out");
    }
    form.finish()?;
    let new = NewKey { customer_id, key_name, scopes, kind, rate_limit_override_rpm: None, expires_at };
    let store = state.store.clone();
    let (record, secret) = detached(state.store.clone(), async move {
        let mut transaction = store.begin().await?;
        let made = ops::keys::create(&mut transaction, new, now).await;
        settle(transaction, made).await
    })
    .await?;
    shown_once(&state, &visitor, record, &secret, None).await
}

pub async fn rotate(
    State(state): State<AppState>,
    visitor: Visitor,
    PathId(key_id): PathId,
    Form(mut form): Form,
) -> Result<Response, Problem> {
    visitor.must(Scope::Admin)?;
    let overlap = form.required("overlap_seconds", number(0, LONGEST_OVERLAP)).unwrap_or_default();
    form.finish()?;
    let now = (state.clock)();
    let (store, principal) = (state.store.clone(), visitor.principal.clone());
    let rotated = detached(state.store.clone(), async move {
        let mut transaction = store.begin().await?;
        let overlap = TimeDelta::seconds(overlap);
        let made = ops::keys::rotate(&mut transaction, &principal, key_id, overlap, now).await;
        settle(transaction, made).await
    })
    .await;
    state.cache.keys_changed();
    let (record, secret, good_until) = rotated?;
    let old = state.store.key(key_id).await?.map(|old| old.key_prefix).unwrap_or_default();
    shown_once(&state, &visitor, record, &secret, Some((old, good_until))).await
}

async fn shown_once(
    state: &AppState,
    visitor: &Visitor,
    record: ApiKeyRecord,
    secret: &ApiKey,
    replaces: Option<(String, DateTime<Utc>)>,
) -> Result<Response, Problem> {
    let shell = Shell::new(state, visitor, Place::Keys).await?;
    let key = KeyView::new(record, visitor, shell.now);
    let page = New { shell, key, secret: secret.reveal().to_owned(), replaces };
    Ok(Page(StatusCode::CREATED, page).into_response())
}

/// Ends a key at once, and with it every session that was begun with it.
pub async fn revoke(
    State(state): State<AppState>,
    visitor: Visitor,
    PathId(key_id): PathId,
    Form(mut form): Form,
) -> Result<Response, Problem> {
    visitor.must(Scope::Admin)?;
    let sure = form.take("sure", flag).unwrap_or_default();
    form.finish()?;
    if !sure {
        let detail = "say that you are sure: a key that is revoked never works again";
        return Err(Error::InvalidParameters(vec![Fault::parameter("sure", "required", detail)]).into());
    }
    detached(state.store.clone(), async move {
        ops::keys::revoke(&state.store, &visitor.principal, key_id).await?;
        state.cache.keys_changed();
        Ok(())
    })
    .await?;
    Ok(see(Place::Keys.path()))
}
