//! Rate limits: requests per minute and per day of each customer's key, counted in this process.
//! Headers as in draft-ietf-httpapi-ratelimit-headers-10.

use std::collections::HashMap;
use std::sync::Mutex;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use chrono::{DateTime, Utc};
use uuid::Uuid;

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

/// What a key may still do; without windows, whatever it likes.
#[derive(Clone, Debug, Default)]
pub struct Allowance {
    windows: Vec<Remainder>,
    exhausted: bool,
}

#[derive(Clone, Copy, Debug)]
struct Remainder {
    name: &'static str,
    quota: i64,
    length: i64,
    remaining: i64,
    reset: i64,
}

impl Rates {
    /// Counts one request, unless the key has none left.
    pub fn take(&self, principal: &Principal, now: DateTime<Utc>) -> Allowance {
        self.count(principal.key_id, [principal.rate_limit_rpm, principal.rate_limit_rpd], now)
    }

    /// Counts one request of whoever has this id, with so many a minute and a day.
    pub fn count(&self, id: Uuid, [rpm, rpd]: [Option<i32>; 2], now: DateTime<Utc>) -> Allowance {
        let limits = [("minute", rpm, MINUTE), ("day", rpd, DAY)];
        if limits.iter().all(|(_, quota, _)| quota.is_none()) {
            return Allowance::default();
        }
        let now = now.timestamp();
        let mut keys = self.keys.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if keys.len() > REMEMBERED {
            keys.retain(|_, [_, day]| now < day.start + DAY);
        }
        let windows = keys.entry(id).or_default();
        let mut allowance = Allowance::default();
        for (window, (name, quota, length)) in windows.iter_mut().zip(limits) {
            let Some(quota) = quota.map(i64::from) else {
                continue;
            };
            if now >= window.start + length || now < window.start {
                *window = Window { start: now - now.rem_euclid(length), used: 0 };
            }
            allowance.exhausted |= window.used >= quota;
            let reset = window.start + length - now;
            allowance.windows.push(Remainder {
                name,
                quota,
                length,
                remaining: (quota - window.used - 1).max(0),
                reset,
            });
        }
        if !allowance.exhausted {
            for window in windows.iter_mut() {
                window.used += 1;
            }
        }
        allowance
    }
}

impl Allowance {
    pub fn describe(&self, headers: &mut HeaderMap) {
        if self.windows.is_empty() {
            return;
        }
        let list = |item: fn(&Remainder) -> String| {
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

    /// How many seconds to wait, if the key has no request left.
    pub fn exhausted_for(&self) -> Option<i64> {
        // The longest window which is used up says when to come back.
        let used_up = self.windows.iter().filter(|one| one.remaining == 0);
        self.exhausted.then(|| used_up.map(|one| one.reset).max().unwrap_or(1))
    }
}
