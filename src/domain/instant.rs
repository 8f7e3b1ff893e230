//! Instants as they are stored and written: as chrono writes them, without its formatter, which takes four times as many instructions.

use std::borrow::Cow;

use chrono::{
    DateTime, Datelike as _, ParseError, SecondsFormat, SubsecRound as _, TimeDelta, Timelike as _, Utc,
};
use serde::{Deserialize as _, Deserializer, Serializer};

/// The first instant that can be written: the database brings earlier ones up to it.
pub const CALENDAR_START: DateTime<Utc> =
    DateTime::from_timestamp(-62_135_596_800, 0).expect("the year 1 is within chrono's range");

/// The last instant that can be written: the database brings later ones down to it, `infinity` among them.
pub const CALENDAR_END: DateTime<Utc> =
    DateTime::from_timestamp(253_402_300_799, 999_999_000).expect("the year 9999 is within chrono's range");

/// Returns an instant as PostgreSQL keeps it: without a fraction of a microsecond, and without a leap second, which is
/// counted as POSIX counts it, as the first second of the next minute.
pub fn stored(time: DateTime<Utc>) -> DateTime<Utc> {
    // chrono counts a leap second's nanoseconds on from those of the second before.
    let Some(nanos) = time.nanosecond().checked_sub(1_000_000_000) else {
        return time.trunc_subsecs(6);
    };
    let second = DateTime::from_timestamp(time.timestamp(), nanos);
    let next = second.and_then(|second| second.checked_add_signed(TimeDelta::seconds(1)));
    next.unwrap_or(time).trunc_subsecs(6)
}

/// What most instants take: `2026-03-01T12:00:00.123456Z`.
pub type Buffer = [u8; 27];

/// RFC 3339 in UTC, with a fraction of 0, 3, 6 or 9 digits.
pub fn written(time: DateTime<Utc>, buffer: &mut Buffer) -> Cow<'_, str> {
    if !time.nanosecond().is_multiple_of(1000) || !digits(time, buffer) {
        return Cow::Owned(time.to_rfc3339_opts(SecondsFormat::AutoSi, true));
    }
    let length = match time.nanosecond() {
        0 => 20,
        nanos if nanos % 1_000_000 == 0 => 24,
        _ => 27,
    };
    buffer[length - 1] = b'Z';
    Cow::Borrowed(ascii(&buffer[..length]))
}

/// The same with a fraction of 6 digits, whatever there is beyond them.
pub fn in_microseconds(time: DateTime<Utc>, buffer: &mut Buffer) -> Cow<'_, str> {
    if digits(time, buffer) {
        Cow::Borrowed(ascii(buffer))
    } else {
        Cow::Owned(time.to_rfc3339_opts(SecondsFormat::Micros, true))
    }
}

pub fn serialize<S: Serializer>(time: &Option<DateTime<Utc>>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.serialize_str(&written(*time, &mut Buffer::default())),
        None => serializer.serialize_none(),
    }
}

/// Reads an instant that the database wrote into JSON. One outside the calendar counts as the nearest one in it.
pub fn read(text: &str) -> Result<DateTime<Utc>, ParseError> {
    // RFC 3339 has no such year, and chrono expects a sign before it.
    let has_long_year = text
        .split_once('-')
        .is_some_and(|(year, _)| year.len() > 4 && year.bytes().all(|b| b.is_ascii_digit()));
    if has_long_year {
        return Ok(CALENDAR_END);
    }
    text.parse().map(|time: DateTime<Utc>| time.clamp(CALENDAR_START, CALENDAR_END))
}

pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    let text = Option::<std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
    text.map(|text| read(&text)).transpose().map_err(serde::de::Error::custom)
}

/// Writes an instant of the years 0 to 9999 which is in no leap second, to the microsecond: all that PostgreSQL holds and
/// people mean. Gives whether it is one.
fn digits(time: DateTime<Utc>, buffer: &mut Buffer) -> bool {
    let (time, nanos) = (time.naive_utc(), time.nanosecond());
    let Some(year) = u32::try_from(time.year()).ok().filter(|year| *year <= 9999) else { return false };
    if nanos >= 1_000_000_000 {
        return false;
    }
    *buffer = *b"0000-00-00T00:00:00.000000Z";
    let mut put = |last: usize, digits: usize, mut value: u32| {
        for digit in buffer[last + 1 - digits..=last].iter_mut().rev() {
            *digit = b'0' + u8::try_from(value % 10).expect("a digit");
            value /= 10;
        }
    };
    put(3, 4, year);
    put(6, 2, time.month());
    put(9, 2, time.day());
    put(12, 2, time.hour());
    put(15, 2, time.minute());
    put(18, 2, time.second());
    put(25, 6, nanos / 1000);
    true
}

fn ascii(digits: &[u8]) -> &str {
    std::str::from_utf8(digits).expect("digits are ASCII")
}
