//! Bars over time, up, and down where something is the opposite of something else.

use chrono::{DateTime, Utc};

use super::{Drawing, LEFT, RIGHT, TimeScale, WIDTH, escaped, rounded_up};
use crate::http::pages::filters::grouped;

/// What happened in a span of time.
#[derive(Clone, Debug)]
pub struct Bar {
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    pub up: i64,
    pub down: i64,
    /// The span and the numbers in words: what is read out, and shown on hover.
    pub label: String,
    /// Where the bar leads.
    pub href: Option<String>,
}

/// A chart of bars.
#[derive(Debug)]
pub struct Bars<'a> {
    pub title: &'a str,
    pub description: &'a str,
    /// What is counted, and over which time: `entries a week`.
    pub unit: &'a str,
    pub scale: TimeScale,
    pub spans: &'a [Bar],
    /// The class of the bars that go up.
    pub up: &'a str,
}

const TOP: f64 = 22.0;
const ROOM: f64 = 110.0;
/// A bar that is alone would else be a wall.
const WIDEST: f64 = 60.0;

pub fn bars(chart: &Bars<'_>) -> String {
    let highest = |value: fn(&Bar) -> i64| chart.spans.iter().map(value).max().unwrap_or_default();
    let both_ways = chart.spans.iter().any(|bar| bar.down > 0);
    let most = rounded_up(highest(|bar| bar.up).max(highest(|bar| bar.down)).max(1));
    let zero = TOP + ROOM;
    let bottom = if both_ways { zero + ROOM } else { zero };
    let mut drawing = Drawing::new(bottom + 24.0);
    drawing.text(LEFT - 8.0, TOP + 4.0, "end", &grouped(most));
    drawing.text(LEFT - 8.0, zero + 4.0, "end", "0");
    if both_ways {
        drawing.text(LEFT - 8.0, bottom + 4.0, "end", &grouped(most));
    }
    drawing.text(LEFT, TOP - 9.0, "start", chart.unit);
    drawing.time_axis(&chart.scale, TOP, bottom);
    #[expect(clippy::cast_precision_loss, reason = "a bar's height needs no more than a mantissa has")]
    let height = |value: i64| if value == 0 { 0.0 } else { (ROOM * value as f64 / most as f64).max(1.5) };
    for bar in chart.spans.iter().filter(|bar| bar.up > 0 || bar.down > 0) {
        let x = chart.scale.x(bar.from);
        let width = (chart.scale.x(bar.to) - x - 2.0).clamp(1.5, WIDEST);
        if let Some(href) = &bar.href {
            // The table behind the chart has the same links: the keyboard need not go through every bar.
            drawing.put(format_args!("<a href=\"{}\" tabindex=\"-1\">", escaped(href)));
        }
        drawing.put(format_args!("<g><title>{}</title>", escaped(&bar.label)));
        if bar.up > 0 {
            drawing.rect(&format!("bar {}", chart.up), x, zero - height(bar.up), width, height(bar.up));
        }
        if bar.down > 0 {
            drawing.rect("bar down", x, zero, width, height(bar.down));
        }
        drawing.put(format_args!("</g>"));
        if bar.href.is_some() {
            drawing.put(format_args!("</a>"));
        }
    }
    drawing.line("axis", (LEFT, zero), (WIDTH - RIGHT, zero));
    let has_links = chart.spans.iter().any(|bar| bar.href.is_some());
    drawing.finish(chart.title, chart.description, has_links)
}
