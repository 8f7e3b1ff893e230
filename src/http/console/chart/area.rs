//! Numbers that add up, over time.

use chrono::{DateTime, Utc};

use super::{Drawing, LEFT, RIGHT, TimeScale, WIDTH, rounded_up};
use crate::http::pages::filters::grouped;

/// One of the numbers: its class in the stylesheet, and its value at each of the times.
#[derive(Debug)]
pub struct Layer {
    pub name: &'static str,
    pub values: Vec<i64>,
}

const TOP: f64 = 22.0;
const BOTTOM: f64 = 232.0;

/// Layers on top of each other, the first of them at the bottom. Each value holds until the next time.
#[expect(clippy::cast_precision_loss, reason = "a height needs no more than a mantissa has")]
pub fn area(
    title: &str,
    description: &str,
    unit: &str,
    scale: &TimeScale,
    times: &[DateTime<Utc>],
    layers: &[Layer],
) -> String {
    let total = |index: usize| layers.iter().map(|layer| layer.values[index].max(0)).sum::<i64>();
    let most = rounded_up((0..times.len()).map(total).max().unwrap_or_default().max(1));
    let y = |value: i64| BOTTOM - (BOTTOM - TOP) * value as f64 / most as f64;
    let mut drawing = Drawing::new(BOTTOM + 24.0);
    for value in [0, most / 2, most] {
        if value > 0 || most == 1 {
            drawing.line("axis", (LEFT, y(value)), (WIDTH - RIGHT, y(value)));
        }
        drawing.text(LEFT - 8.0, y(value) + 4.0, "end", &grouped(value));
    }
    drawing.text(LEFT, TOP - 9.0, "start", unit);
    drawing.time_axis(scale, TOP, BOTTOM);
    let mut below = vec![0_i64; times.len()];
    for layer in layers {
        let above: Vec<i64> =
            below.iter().zip(&layer.values).map(|(below, value)| below + value.max(&0)).collect();
        let edge = stepped(scale, times, &above, y);
        let back: Vec<_> = stepped(scale, times, &below, y).into_iter().rev().collect();
        let path = |points: &[(f64, f64)]| {
            points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect::<Vec<_>>().join(" ")
        };
        drawing.put(format_args!(
            "<polygon class=\"fill-{}\" points=\"{} {}\"/>",
            layer.name,
            path(&edge),
            path(&back)
        ));
        drawing.put(format_args!(
            "<polyline class=\"edge edge-{}\" points=\"{}\"/>",
            layer.name,
            path(&edge)
        ));
        below = above;
    }
    drawing.line("axis", (LEFT, BOTTOM), (WIDTH - RIGHT, BOTTOM));
    drawing.finish(title, description, false)
}

fn stepped(
    scale: &TimeScale,
    times: &[DateTime<Utc>],
    values: &[i64],
    y: impl Fn(i64) -> f64,
) -> Vec<(f64, f64)> {
    let mut points = Vec::with_capacity(2 * times.len());
    for (index, (time, value)) in times.iter().zip(values).enumerate() {
        let until = times.get(index + 1).copied().unwrap_or(scale.to);
        points.push((scale.x(*time), y(*value)));
        points.push((scale.x(until), y(*value)));
    }
    points
}
