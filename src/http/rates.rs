//! Rate limits: requests per minute and per day of each customer's key, counted in this process.
//! Headers as in draft-ietf-httpapi-ratelimit-headers-10.

use std::collections::HashMap;
use std::sync::Mutex;

use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::problem::{Problem, RATE_LIMITED};
use crate::domain::Principal;

const MINUTE: i64 = 60;
const DAY: i64 = 24 * 60 * 60;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Above this many keys, those whose day is over are forgotten.
const REMEMBERED: usize = 10_000;

/// How often each key has called in its current windows.
#[derive(Debug, Default)]
pub struct Rates {
    keys: Mutex<HashMap<Uuid, [Window; 2]>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Window {
    /// Unix seconds.
    start: i64,
    used: i64,
}

/// What a key may still do.
#[derive(Clone, Debug)]
pub struct Limit {
    windows: Vec<Allowance>,
}

#[derive(Clone, Copy, Debug)]
struct Allowance {
    name: &'static str,
    quota: i64,
    length: i64,
    remaining: i64,
    reset: i64,
}

impl Rates {
    /// Counts one request. `Ok(None)`: the key has no limit. `Err`: it is over.
    pub fn take(&self, principal: &Principal, now: DateTime<Utc>) -> Result<Option<Limit>, Limit> {
        let limits = [("minute", principal.rate_limit_rpm, MINUTE), ("day", principal.rate_limit_rpd, DAY)];
        if limits.iter().all(|(_, quota, _)| quota.is_none()) {
            return Ok(None);
        }
        let now = now.timestamp();
        let mut keys = self.keys.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if keys.len() > REMEMBERED {
            keys.retain(|_, [_, day]| now < day.start + DAY);
        }
        let windows = keys.entry(principal.key_id).or_default();
        let mut over = false;
        let mut allowances = Vec::with_capacity(2);
        for (window, (name, quota, length)) in windows.iter_mut().zip(limits) {
            let Some(quota) = quota.map(i64::from) else {
                continue;
            };
            if now >= window.start + length || now < window.start {
                *window = Window { start: now - now.rem_euclid(length), used: 0 };
            }
            over |= window.used >= quota;
            let reset = window.start + length - now;
            allowances.push(Allowance {
                name,
                quota,
                length,
                remaining: (quota - window.used - 1).max(0),
                reset,
            });
        }
        if over {
            return Err(Limit { windows: allowances });
        }
        for window in windows.iter_mut() {
            window.used += 1;
        }
        Ok(Some(Limit { windows: allowances }))
    }
}

impl Limit {
    pub fn describe(&self, headers: &mut HeaderMap) {
        let list = |item: fn(&Allowance) -> String| {
            let items: Vec<_> = self.windows.iter().map(item).collect();
            HeaderValue::from_str(&items.join(", ")).ok()
        };
        if let Some(value) = list(|one| format!("\"{}\";r={};t={}", one.name, one.remaining, one.reset)) {
            headers.insert(RATE_LIMIT, value);
        }
        if let Some(value) = list(|one| format!("\"{}\";q={};w={}", one.name, one.quota, one.length)) {
            headers.insert(RATE_LIMIT_POLICY, value);
        }
    }

    pub fn problem(&self) -> Problem {
        // The longest window which is used up says when to come back.
        let wait =
            self.windows.iter().filter(|one| one.remaining == 0).map(|one| one.reset).max().unwrap_or(1);
        let mut headers = HeaderMap::new();
        self.describe(&mut headers);
        let mut problem =
            Problem::new(&RATE_LIMITED, format!("this API key may call again in {wait} seconds"))
                .with_header(RETRY_AFTER, wait.to_string());
        for (name, value) in headers {
            if let Some(name) = name {
                problem = problem.with_header(name, value);
            }
        }
        problem
    }
}
