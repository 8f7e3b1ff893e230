//! Rate limits, counted in this process. Headers as in draft-ietf-httpapi-ratelimit-headers-10.
//!
//! A limit is counted for the party that it is meant for, so that more keys or more links are no way around it: the
//! customer's limits for all of its keys together, a key's own limit for that key, the limit of the customer's page for all
//! of its links. Withdrawals have a small limit of their own for when the others are used up.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::domain::Principal;

const MINUTE: i64 = 60;
const DAY: i64 = 24 * 60 * 60;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Above this many parties, those whose day is over are forgotten.
const REMEMBERED: usize = 10_000;

/// Changes by all links of a customer in a minute and a day: each of them is kept permanently.
const PAGE_CHANGES: [i64; 2] = [30, 300];
/// Withdrawals in a minute beyond the other limits. One is enough to withdraw a consent; the rest is for retries.
const WITHDRAWALS: i64 = 10;

/// The party that requests are counted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Party {
    Key(Uuid),
    Customer(Uuid),
    /// The links to a customer's page.
    Page(Uuid),
    /// Withdrawals by a customer, or by the key of an operator.
    Withdrawals(Uuid),
}

/// Limits per minute and per day, with the names that the headers give them.
#[derive(Clone, Copy, Debug)]
struct Limit {
    party: Party,
    names: [&'static str; 2],
    quotas: [Option<i64>; 2],
}

/// The requests that each party has made in its current windows.
#[derive(Debug, Default)]
pub struct RateLimiter {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    parties: HashMap<Party, [Window; 2]>,
    /// When parties were last forgotten, in Unix seconds.
    cleared: i64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Window {
    /// Unix seconds.
    start: i64,
    used: i64,
}

/// The requests that a caller may still make; without windows there is no limit.
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
    is_used_up: bool,
}

impl RateLimiter {
    /// Counts one request with an API key, unless none is left.
    ///
    /// A key's own limit may be lower than its customer's, and then both count. One that is higher raises the customer's
    /// limit for this key: the key may use what its customer's other keys have left of it.
    pub fn check(&self, principal: &Principal, now: DateTime<Utc>) -> Allowance {
        let own = principal.rate_limit_override_rpm.map(i64::from);
        let [rpm, rpd] =
            [principal.rate_limit_rpm, principal.rate_limit_rpd].map(|quota| quota.map(i64::from));
        let customer = principal.customer_id.map(|customer_id| Limit {
            party: Party::Customer(customer_id),
            names: ["minute", "day"],
            quotas: [rpm.max(own.filter(|_| rpm.is_some())), rpd],
        });
        let lower = own.filter(|own| rpm.is_none_or(|rpm| *own < rpm));
        let key = lower.map(|own| Limit {
            party: Party::Key(principal.key_id),
            names: ["key-minute", "key-day"],
            quotas: [Some(own), None],
        });
        self.count([customer, key], now)
    }

    /// Counts one withdrawal with an API key whose other limits are used up, unless none is left.
    pub fn check_withdrawal(&self, principal: &Principal, now: DateTime<Utc>) -> Allowance {
        self.count_withdrawal(principal.customer_id.unwrap_or(principal.key_id), now)
    }

    /// Counts one change that a customer makes on its page, by whichever link, unless none is left.
    pub fn check_page(&self, customer_id: Uuid, is_withdrawal: bool, now: DateTime<Utc>) -> Allowance {
        let limit = Limit {
            party: Party::Page(customer_id),
            names: ["minute", "day"],
            quotas: PAGE_CHANGES.map(Some),
        };
        let allowance = self.count([Some(limit), None], now);
        if allowance.exhausted && is_withdrawal { self.count_withdrawal(customer_id, now) } else { allowance }
    }

    fn count_withdrawal(&self, id: Uuid, now: DateTime<Utc>) -> Allowance {
        let limit = Limit {
            party: Party::Withdrawals(id),
            names: ["withdrawals", "withdrawals-day"],
            quotas: [Some(WITHDRAWALS), None],
        };
        self.count([Some(limit), None], now)
    }

    /// Counts one request in all of these limits, or in none of them if one is used up.
    fn count(&self, limits: [Option<Limit>; 2], now: DateTime<Utc>) -> Allowance {
        let limits = limits.iter().flatten().filter(|limit| limit.quotas.iter().any(Option::is_some));
        let mut allowance = Allowance::default();
        if limits.clone().next().is_none() {
            return allowance;
        }
        let now = now.timestamp();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.clear_up(now);
        for limit in limits.clone() {
            let windows = counts.parties.entry(limit.party).or_default();
            for place in [0, 1] {
                let (window, length) = (&mut windows[place], [MINUTE, DAY][place]);
                let Some(quota) = limit.quotas[place] else { continue };
                if now >= window.start + length || now < window.start {
                    *window = Window { start: now - now.rem_euclid(length), used: 0 };
                }
                let is_used_up = window.used >= quota;
                allowance.exhausted |= is_used_up;
                window.used += 1;
                allowance.windows.push(Remainder {
                    name: limit.names[place],
                    quota,
                    length,
                    remaining: (quota - window.used).max(0),
                    reset: window.start + length - now,
                    is_used_up,
                });
            }
        }
        if allowance.exhausted {
            // A request that is refused counts nowhere.
            for limit in limits {
                let windows = counts.parties.entry(limit.party).or_default();
                for (window, _) in windows.iter_mut().zip(limit.quotas).filter(|(_, quota)| quota.is_some()) {
                    window.used -= 1;
                }
            }
            for open in allowance.windows.iter_mut().filter(|window| !window.is_used_up) {
                open.remaining += 1;
            }
        }
        allowance
    }
}

impl Counts {
    /// Forgets parties whose day is over. Once a minute at most: it looks at all of them.
    fn clear_up(&mut self, now: i64) {
        if self.parties.len() > REMEMBERED && (now - self.cleared).abs() >= MINUTE {
            self.cleared = now;
            self.parties.retain(|_, [minute, day]| now < (day.start + DAY).max(minute.start + MINUTE));
        }
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

    /// The seconds to wait, if no request is left.
    pub fn exhausted_for(&self) -> Option<i64> {
        // The longest window which is used up says when to come back.
        let used_up = self.windows.iter().filter(|one| one.is_used_up);
        self.exhausted.then(|| used_up.map(|one| one.reset).max().unwrap_or(1))
    }
}
