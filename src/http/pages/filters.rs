//! How pages write times and numbers.

#![expect(clippy::inline_always, reason = "askama's attribute writes it")]

use askama::Values;
use chrono::{DateTime, SecondsFormat, Utc};

/// To the minute: `2026-11-09 09:07Z`.
#[askama::filter_fn]
pub fn minute(time: &DateTime<Utc>, _: &dyn Values) -> askama::Result<String> {
    Ok(time.format("%Y-%m-%d %H:%MZ").to_string())
}

/// `2026-11-09`.
#[askama::filter_fn]
pub fn day(time: &DateTime<Utc>, _: &dyn Values) -> askama::Result<String> {
    Ok(time.format("%Y-%m-%d").to_string())
}

/// RFC 3339, with all that is known.
#[askama::filter_fn]
pub fn rfc3339(time: &DateTime<Utc>, _: &dyn Values) -> askama::Result<String> {
    Ok(time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

/// `41,200`.
#[askama::filter_fn]
pub fn thousands(number: &i64, _: &dyn Values) -> askama::Result<String> {
    Ok(grouped(*number))
}

/// A number with a comma between every three digits.
pub fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::from(if number < 0 { "−" } else { "" });
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
