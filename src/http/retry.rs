//! `Idempotency-Key`: a retry of a POST gets the first answer again.

use axum::body::Bytes;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde_json::Value;
use sqlx::PgConnection;

use super::api::json_answer;
use super::extract::{Caller, IdempotencyKey};
use super::problem::Problem;
use super::{detached, json};
use crate::error::Error;
use crate::ops::idempotency::Attempt;
use crate::store::{Store, settle};

/// A request which is carried out once, if its caller gave an `Idempotency-Key`.
#[derive(Debug)]
pub struct Once(Option<Attempt>);

impl Once {
    pub fn new(caller: &Caller, key: &IdempotencyKey, route: &str, body: &Bytes) -> Self {
        Self(key.0.as_ref().map(|key| {
            let body = canonical(body);
            Attempt::new(caller.principal.key_id, &caller.key, key, &[route.as_bytes(), &body])
        }))
    }

    /// Creates something and answers 201, or answers a retry as the first time. What is created, the answer that is kept
    /// and the end of the transaction are one. The transaction has ended, and with it the claim on the key, before there
    /// is an answer: a client that has one can send a retry at once.
    pub async fn create<T, F>(self, store: Store, now: DateTime<Utc>, make: F) -> Result<Response, Problem>
    where
        T: Serialize + Send + Sync,
        F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T, Error>> + Send + 'static,
    {
        detached(store.clone(), async move {
            let mut transaction = store.begin().await?;
            let answered = self.answer(&mut transaction, now, make).await;
            let (answer, replayed) = settle(transaction, answered).await?;
            let mut response = json_answer(StatusCode::CREATED, answer);
            if replayed {
                let name = HeaderName::from_static("idempotency-replayed");
                response.headers_mut().insert(name, HeaderValue::from_static("true"));
            }
            Ok(response)
        })
        .await
    }

    /// The answer, and whether it was given before.
    async fn answer<T, F>(
        &self,
        connection: &mut PgConnection,
        now: DateTime<Utc>,
        make: F,
    ) -> Result<(Vec<u8>, bool), Error>
    where
        T: Serialize + Send + Sync,
        F: for<'c> FnOnce(&'c mut PgConnection) -> BoxFuture<'c, Result<T, Error>> + Send,
    {
        if let Some(attempt) = &self.0
            && let Some(answer) = attempt.replay(connection, now).await?
        {
            return Ok((answer, true));
        }
        let created = make(connection).await?;
        let answer = serde_json::to_vec(&created).map_err(|error| Error::Internal(error.to_string()))?;
        if let Some(attempt) = &self.0 {
            attempt.keep(connection, &answer, now).await?;
        }
        Ok((answer, false))
    }
}

/// The body in the one form that all its spellings share: no white space, keys in order, no needless escapes, whole
/// numbers without a fraction. Clients that serialize a retry again may choose another spelling.
fn canonical(body: &Bytes) -> Vec<u8> {
    let spelled_once = json::parse(body).and_then(|value| serde_json::to_vec(&whole_numbers(value)));
    // The body was parsed before; should it fail here, only its very bytes are the same request.
    spelled_once.unwrap_or_else(|_| body.to_vec())
}

fn whole_numbers(value: Value) -> Value {
    match value {
        Value::Number(number) => whole(&number).map_or(Value::Number(number), Value::from),
        Value::Array(items) => items.into_iter().map(whole_numbers).collect(),
        Value::Object(fields) => {
            // Sorted here: the order of serde_json's own map depends on the features of other crates.
            let mut fields: Vec<_> =
                fields.into_iter().map(|(name, value)| (name, whole_numbers(value))).collect();
            fields.sort_by(|(one, _), (other, _)| one.cmp(other));
            fields.into_iter().collect()
        }
        other => other,
    }
}

/// A number that is written as a fraction and is whole, such as `300.0` or `3e2`.
fn whole(number: &serde_json::Number) -> Option<i64> {
    let fraction = number.as_f64().filter(|_| number.is_f64())?;
    #[expect(clippy::cast_possible_truncation, reason = "below 2^53 every whole number is exact")]
    (fraction.fract() == 0.0 && fraction.abs() < 2_f64.powi(53)).then_some(fraction as i64)
}
