//! Charts, drawn as SVG on the server. Colours and fonts are classes of the stylesheet, since the policy lets no style into
//! the markup. Each is told in words too, and has its numbers in a table beside it.

use std::fmt::Write as _;

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, NaiveTime, TimeDelta, Utc};

mod area;
mod bars;
mod steps;

pub use area::{Layer, area};
pub use bars::{Bar, Bars, bars};
pub use steps::{Line, Mark, Step, Steps, steps};

/// Units of the drawing; it is scaled to the room it gets.
const WIDTH: f64 = 1132.0;
const LEFT: f64 = 60.0;
const NAMES: f64 = 106.0;
const RIGHT: f64 = 12.0;

/// The beginning of a day (UTC).
pub fn midnight(day: NaiveDate) -> DateTime<Utc> {
    day.and_time(NaiveTime::MIN).and_utc()
}

/// Where a time is on the drawing, from left to right.
#[derive(Clone, Copy, Debug)]
pub struct TimeScale {
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    /// Where it begins.
    left: f64,
}

impl TimeScale {
    /// A span of at least a minute, so that there is something to divide.
    pub fn new(from: DateTime<Utc>, to: DateTime<Utc>) -> Self {
        Self { from, to: to.max(from + TimeDelta::minutes(1)), left: LEFT }
    }

    /// With more room beside it: for names, where others have numbers.
    #[must_use]
    pub fn beside_names(self) -> Self {
        Self { left: NAMES, ..self }
    }

    #[expect(clippy::cast_precision_loss, reason = "milliseconds of centuries fit the mantissa")]
    pub fn x(&self, time: DateTime<Utc>) -> f64 {
        let whole = (self.to - self.from).num_milliseconds() as f64;
        let part = (time.clamp(self.from, self.to) - self.from).num_milliseconds() as f64;
        self.left + (WIDTH - self.left - RIGHT) * part / whole
    }

    /// About a dozen moments which people count by, and what they are called.
    pub fn ticks(&self) -> Vec<(DateTime<Utc>, String)> {
        let span = self.to - self.from;
        if span <= TimeDelta::days(3) {
            let step = TimeDelta::hours(if span <= TimeDelta::hours(30) { 3 } else { 6 });
            return self.stepped(
                midnight(self.from.date_naive()),
                |time| time + step,
                |time| {
                    let form = if time.time() == NaiveTime::MIN { "%b %-d" } else { "%H:%MZ" };
                    time.format(form).to_string()
                },
            );
        }
        if span <= TimeDelta::days(75) {
            let step = Days::new(if span <= TimeDelta::days(14) { 1 } else { 7 });
            return self.stepped(
                midnight(self.from.date_naive()),
                |time| time + step,
                |time| time.format("%b %-d").to_string(),
            );
        }
        let months = u32::try_from(span.num_days() / 30).unwrap_or(u32::MAX);
        let step =
            [1, 3, 6, 12, 24, 60, 120, 240].into_iter().find(|step| months / step <= 14).unwrap_or(600);
        let january = NaiveDate::from_ymd_opt(self.from.year(), 1, 1).unwrap_or_default();
        self.stepped(
            midnight(january),
            |time| time + Months::new(step),
            |time| {
                let form = if time.month() == 1 { "%Y" } else { "%b" };
                time.format(form).to_string()
            },
        )
    }

    fn stepped(
        &self,
        first: DateTime<Utc>,
        next: impl Fn(DateTime<Utc>) -> DateTime<Utc>,
        name: impl Fn(DateTime<Utc>) -> String,
    ) -> Vec<(DateTime<Utc>, String)> {
        std::iter::successors(Some(first), |time| Some(next(*time)))
            .take(400)
            .skip_while(|time| *time < self.from)
            .take_while(|time| *time <= self.to)
            .map(|time| (time, name(time)))
            .collect()
    }
}

/// The least of 1, 2, 5 times a power of ten that is not below a number: what an axis ends in.
pub fn rounded_up(number: i64) -> i64 {
    let mut power = 1_i64;
    loop {
        for digit in [1, 2, 5] {
            let candidate = power.saturating_mul(digit);
            if candidate >= number {
                return candidate;
            }
        }
        power = power.saturating_mul(10);
    }
}

/// Text in an element or an attribute.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A drawing in the making.
#[derive(Debug)]
pub struct Drawing {
    body: String,
    height: f64,
}

impl Drawing {
    pub fn new(height: f64) -> Self {
        Self { body: String::new(), height }
    }

    /// Ready-made markup: what stands in it must be escaped.
    pub fn put(&mut self, markup: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = self.body.write_fmt(markup);
    }

    pub fn text(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        self.put(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>",
            escaped(text)
        ));
    }

    pub fn rect(&mut self, class: &str, x: f64, y: f64, width: f64, height: f64) {
        self.put(format_args!(
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>"
        ));
    }

    pub fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        self.put(format_args!(
            "<line class=\"{class}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
            from.0, from.1, to.0, to.1
        ));
    }

    /// Lines for the times that people count by, and their names below.
    pub fn time_axis(&mut self, scale: &TimeScale, top: f64, bottom: f64) {
        for (time, name) in scale.ticks() {
            let x = scale.x(time);
            self.line("axis", (x, top), (x, bottom));
            if x < WIDTH - RIGHT - 30.0 {
                self.text(x + 3.0, bottom + 16.0, "start", &name);
            }
        }
    }

    /// The finished drawing, told by its title and a description. A drawing with links in it is a group of them; any other
    /// is a picture.
    pub fn finish(self, title: &str, description: &str, has_links: bool) -> String {
        let role = if has_links { "group" } else { "img" };
        format!(
            "<svg viewBox=\"0 0 {WIDTH} {}\" role=\"{role}\" aria-label=\"{}. {}\">{}</svg>",
            self.height,
            escaped(title),
            escaped(description),
            self.body
        )
    }
}
