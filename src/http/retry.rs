//! `Idempotency-Key`: a retry of a POST gets the first answer again.

use axum::body::Bytes;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use serde::Serialize;
use sqlx::PgConnection;

use super::api::json_answer;
use super::detached;
use super::extract::{Caller, IdempotencyKey};
use super::problem::Problem;
use crate::error::Error;
use crate::ops::idempotency::Attempt;
use crate::store::Store;

/// A request which is carried out once, if its caller gave an `Idempotency-Key`.
#[derive(Debug)]
pub struct Once(Option<Attempt>);

impl Once {
    pub fn new(caller: &Caller, key: &IdempotencyKey, route: &str, body: &Bytes) -> Self {
        Self(
            key.0.as_ref().map(|key| {
                Attempt::new(caller.principal.key_id, &caller.key, key, &[route.as_bytes(), body])
            }),
        )
    }

    /// Creates something and answers 201, or answers a retry as the first time. What is created, the answer that is kept
    /// and the end of the transaction are one.
    pub async fn create<T, F>(self, store: Store, now: DateTime<Utc>, make: F) -> Result<Response, Problem>
    where
        T: Serialize + Send + Sync,
        F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T, Error>> + Send + 'static,
    {
        detached(async move {
            let mut transaction = store.begin().await?;
            if let Some(attempt) = &self.0
                && let Some(answer) = attempt.replay(&mut transaction, now).await?
            {
                let mut response = json_answer(StatusCode::CREATED, answer);
                let name = HeaderName::from_static("idempotency-replayed");
                response.headers_mut().insert(name, HeaderValue::from_static("true"));
                return Ok(response);
            }
            let created = make(&mut transaction).await?;
            let answer = serde_json::to_vec(&created).map_err(|error| Error::Internal(error.to_string()))?;
            if let Some(attempt) = &self.0 {
                attempt.keep(&mut transaction, &answer, now).await?;
            }
            transaction.commit().await?;
            Ok(json_answer(StatusCode::CREATED, answer))
        })
        .await
    }
}
