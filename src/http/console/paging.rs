//! Which part of a list a page shows. The way on is a sealed cursor, good for this very list and its filter alone.

use std::fmt::Display;
use std::str::FromStr;

use axum::http::Uri;

use crate::http::AppState;
use crate::http::input::{MAX_PARAMETERS, Params};

/// A part of a list that was asked for.
#[derive(Debug)]
pub struct Paging<P> {
    /// The last item of the part before; `None` at the beginning.
    pub after: Option<P>,
    path: String,
    /// The filter, without where the part begins.
    filter: String,
}

const CURSOR: &str = "cursor";

impl<P: FromStr + Display> Paging<P> {
    pub fn read(state: &AppState, uri: &Uri, params: &mut Params) -> Self {
        let path = uri.path().to_owned();
        let filter = query_without(uri, &[CURSOR]);
        let after = params.take(CURSOR, |cursor| state.cursors.open(&format!("{path}?{filter}"), cursor));
        Self { after, path, filter }
    }

    /// The list from its beginning.
    pub fn first(&self) -> String {
        with_query(&self.path, &self.filter)
    }

    /// Cuts one item too many off, and answers the way to the part that follows, if there is one.
    pub fn next<T>(
        &self,
        state: &AppState,
        items: &mut Vec<T>,
        shown: usize,
        position: impl Fn(&T) -> P,
    ) -> Option<String> {
        let more = items.len() > shown;
        items.truncate(shown);
        let last = items.last().filter(|_| more)?;
        Some(self.going_on(state, &position(last)))
    }

    /// The way to the part after an item.
    pub fn going_on(&self, state: &AppState, after: &P) -> String {
        let sealed = state.cursors.seal(&format!("{}?{}", self.path, self.filter), &after.to_string());
        let separator = if self.filter.is_empty() { "" } else { "&" };
        format!("{}?{}{separator}{CURSOR}={sealed}", self.path, self.filter)
    }
}

/// A filter that can be taken off.
#[derive(Debug)]
pub struct Chip {
    pub label: &'static str,
    pub value: String,
    /// The page without it.
    pub without: String,
}

/// The filters that a page's address holds: `fields` are their names and values, `labels` what the names are called.
pub fn chips(uri: &Uri, fields: &[(&'static str, String)], labels: &[(&str, &'static str)]) -> Vec<Chip> {
    let chip = |(name, value): &(&'static str, String)| Chip {
        label: labels.iter().find(|(field, _)| field == name).map_or(*name, |(_, label)| *label),
        value: value.clone(),
        without: with_query(uri.path(), &query_without(uri, &[name, CURSOR, "reveal"])),
    };
    fields.iter().map(chip).collect()
}

/// A page's query without some of its fields, and without those that are blank.
pub fn query_without(uri: &Uri, names: &[&str]) -> String {
    let kept = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes())
        .take(MAX_PARAMETERS)
        .filter(|(name, value)| !names.contains(&&**name) && !value.trim().is_empty())
        .collect::<Vec<_>>();
    form_urlencoded::Serializer::new(String::new()).extend_pairs(kept).finish()
}

pub fn with_query(path: &str, query: &str) -> String {
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}
