//! The endpoints, a file for each resource.

use std::fmt::Display;
use std::str::FromStr;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, LINK};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::cursor::Cursors;
use super::input::{MAX_PARAMETERS, Params, number};
use crate::domain::json::WriteJson;

pub mod audit;
pub mod consent;
pub mod customers;
pub mod erasure;
pub mod export;
pub mod keys;
pub mod links;
pub mod log;
pub mod permissions;
pub mod proof;
pub mod service;

/// A JSON answer.
pub fn answer(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => json_answer(status, body),
        Err(error) => {
            super::problem::Problem::from(crate::error::Error::Internal(error.to_string())).into_response()
        }
    }
}

/// The same, for what is asked for with every inference.
pub fn written_answer(status: StatusCode, body: &impl WriteJson) -> Response {
    let mut json = Vec::with_capacity(512);
    body.write_json(&mut json);
    json_answer(status, json)
}

/// An answer whose JSON is written already.
pub fn json_answer(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    // Room for all that an answer gets: a map that grows moves and hashes what it holds once more.
    *response.headers_mut() = HeaderMap::with_capacity(12);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Where the next page begins; null on the last one.
    pub next_cursor: Option<String>,
}

const DEFAULT_LIMIT: i64 = 50;
const MAX_LIMIT: i64 = 1000;

/// Which page of a list.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "the fields document the parameters which `PageRequest` reads")]
pub struct Paging {
    /// How many items at the most.
    #[param(minimum = 1, maximum = 1000, default = 50)]
    limit: Option<i64>,
    /// Where the page begins: `next_cursor` of the page before, with the same filters.
    #[param(min_length = 1, max_length = 200)]
    cursor: Option<String>,
}

/// A page that was asked for.
#[derive(Debug)]
pub struct PageRequest<P> {
    pub limit: i64,
    /// The last item's of the page before.
    pub position: Option<P>,
    /// The list and its filters, without `cursor` and `limit`.
    query: String,
    path: String,
}

impl Paging {
    pub fn read<P: FromStr>(params: &mut Params, cursors: &Cursors, uri: &Uri) -> PageRequest<P> {
        let mut filters: Vec<(String, String)> =
            form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes())
                .into_owned()
                .take(MAX_PARAMETERS)
                .filter(|(name, _)| name != "cursor" && name != "limit")
                .collect();
        filters.sort();
        let filters = form_urlencoded::Serializer::new(String::new()).extend_pairs(filters).finish();
        let query = format!("{}?{filters}", uri.path());
        let limit = params.take("limit", number(1, MAX_LIMIT)).unwrap_or(DEFAULT_LIMIT);
        let position = params.take("cursor", |cursor| cursors.open(&query, cursor));
        PageRequest { limit, position, query, path: uri.path().to_owned() }
    }
}

impl<P: Display> PageRequest<P> {
    /// One more than is shown: whether it comes tells whether there is a next page.
    pub fn fetch(&self) -> i64 {
        self.limit + 1
    }

    pub fn page<T: Serialize>(
        &self,
        cursors: &Cursors,
        mut items: Vec<T>,
        position: impl Fn(&T) -> P,
    ) -> Response {
        let shown = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let more = items.len() > shown;
        items.truncate(shown);
        let next_cursor =
            items.last().filter(|_| more).map(|last| cursors.seal(&self.query, &position(last).to_string()));
        let link = next_cursor.as_ref().map(|cursor| {
            let filters = self.query.strip_prefix(&self.path).unwrap_or_default().trim_start_matches('?');
            let separator = if filters.is_empty() { "" } else { "&" };
            format!("<{}?{filters}{separator}limit={}&cursor={cursor}>; rel=\"next\"", self.path, self.limit)
        });
        let mut response = answer(StatusCode::OK, &Page { items, next_cursor });
        if let Some(link) = link.and_then(|link| HeaderValue::from_str(&link).ok()) {
            response.headers_mut().insert(LINK, link);
        }
        response
    }
}
