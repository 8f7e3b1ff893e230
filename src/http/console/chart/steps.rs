//! One customer's consent over time: the tier as steps, a lane for each permission, a dot for each entry.

use chrono::{DateTime, Utc};

use super::{Drawing, RIGHT, TimeScale, WIDTH, escaped};

/// A time over which nothing changed.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub from: DateTime<Utc>,
    pub until: DateTime<Utc>,
    /// Which of the levels, from below.
    pub level: usize,
    /// Which of the lanes are allowed, from above.
    pub allowed: [bool; 3],
    /// It is on the ground since its end has come.
    pub is_expired: bool,
    /// It has not come yet, and comes if nothing changes.
    pub is_ahead: bool,
}

/// A dot on the steps, which leads somewhere.
#[derive(Clone, Debug)]
pub struct Mark {
    pub time: DateTime<Utc>,
    pub level: usize,
    pub label: String,
    pub href: String,
}

/// A moment that is pointed out.
#[derive(Clone, Debug)]
pub struct Line {
    pub class: &'static str,
    pub time: DateTime<Utc>,
    pub label: String,
}

#[derive(Clone, Copy, Debug)]
pub struct Steps<'a> {
    pub title: &'a str,
    pub description: &'a str,
    pub scale: TimeScale,
    /// What the levels are called, from below: each name is also a class.
    pub levels: [&'static str; 4],
    pub lanes: [&'static str; 3],
    pub stretches: &'a [Step],
    pub marks: &'a [Mark],
    /// Named above the chart, the most important first: where there is no room for a name, there is only its line.
    pub above: &'a [Line],
    /// Named below it.
    pub below: Option<&'a Line>,
}

const TOP: f64 = 30.0;
const STEP: f64 = 44.0;
const GROUND: f64 = TOP + 3.0 * STEP;
const LANES: f64 = GROUND + 30.0;
const LANE: f64 = 23.0;
const BOTTOM: f64 = LANES + 3.0 * LANE;
/// How high stands what has expired: there was a consent, and it allows nothing.
const EXPIRED: f64 = 12.0;

/// About how wide a letter is.
const LETTER: f64 = 8.6;

#[expect(clippy::cast_precision_loss, reason = "there are four levels")]
fn height(level: usize) -> f64 {
    GROUND - STEP * level as f64
}

pub fn steps(chart: &Steps<'_>) -> String {
    let scale = chart.scale.beside_names();
    let (left, right) = (scale.x(scale.from), WIDTH - RIGHT);
    let mut drawing = Drawing::new(if chart.below.is_some() { BOTTOM + 42.0 } else { BOTTOM + 24.0 });
    for (level, name) in chart.levels.iter().enumerate() {
        drawing.line("axis", (left, height(level)), (right, height(level)));
        drawing.text(left - 8.0, height(level) + 4.0, "end", name);
    }
    drawing.time_axis(&scale, TOP - 6.0, BOTTOM);
    let joined = joined(chart.stretches);
    let chart = &Steps { stretches: &joined, ..*chart };
    bands(&mut drawing, chart, &scale);
    lanes(&mut drawing, chart, &scale);
    edge(&mut drawing, chart, &scale);
    let mut taken: Vec<(f64, f64)> = Vec::new();
    for line in chart.above {
        let x = scale.x(line.time);
        drawing.line(line.class, (x, TOP - 8.0), (x, BOTTOM));
        let (from, to) = room(&line.label, x, left);
        if taken.iter().all(|(start, end)| to + LETTER < *start || *end + LETTER < from) {
            drawing.text(f64::midpoint(from, to), TOP - 14.0, "middle", &line.label);
            taken.push((from, to));
        }
    }
    if let Some(line) = chart.below {
        let x = scale.x(line.time);
        drawing.line(line.class, (x, TOP - 8.0), (x, BOTTOM + 22.0));
        let (from, to) = room(&line.label, x, left);
        drawing.text(f64::midpoint(from, to), BOTTOM + 36.0, "middle", &line.label);
    }
    for mark in chart.marks {
        // The timeline has the same links: the keyboard need not go through every dot.
        drawing.put(format_args!(
            "<a href=\"{}\" tabindex=\"-1\"><title>{}</title><circle class=\"dot\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"5.5\"/></a>",
            escaped(&mark.href),
            escaped(&mark.label),
            scale.x(mark.time),
            height(mark.level)
        ));
    }
    drawing.finish(chart.title, chart.description, !chart.marks.is_empty())
}

/// Where a name stands: in the middle of its line, or as near to it as there is room.
#[expect(clippy::cast_precision_loss, reason = "a name is short")]
fn room(name: &str, x: f64, left: f64) -> (f64, f64) {
    let width = LETTER * name.chars().count() as f64;
    let from = (x - width / 2.0).min(WIDTH - RIGHT - width).max(left);
    (from, from + width)
}

/// What looks the same is drawn as one: there is no seam where only an end date moved.
fn joined(steps: &[Step]) -> Vec<Step> {
    let mut joined: Vec<Step> = Vec::with_capacity(steps.len());
    for step in steps {
        let looks = |step: &Step| (step.level, step.allowed, step.is_expired, step.is_ahead);
        match joined.last_mut().filter(|last| last.until == step.from && looks(last) == looks(step)) {
            Some(last) => last.until = step.until,
            None => joined.push(*step),
        }
    }
    joined
}

fn bands(drawing: &mut Drawing, chart: &Steps<'_>, scale: &TimeScale) {
    for step in chart.stretches.iter().filter(|step| step.is_expired) {
        let x = scale.x(step.from);
        drawing.rect("fill-expired", x, GROUND - EXPIRED, scale.x(step.until) - x, EXPIRED);
    }
    for step in chart.stretches.iter().filter(|step| step.level > 0) {
        let (x, top) = (scale.x(step.from), height(step.level));
        let ahead = if step.is_ahead { " ahead" } else { "" };
        let class = format!("fill-{}{ahead}", chart.levels[step.level]);
        drawing.rect(&class, x, top, scale.x(step.until) - x, GROUND - top);
    }
}

/// What is allowed is high, what is not is flat: the lanes are told apart without their colours.
fn lanes(drawing: &mut Drawing, chart: &Steps<'_>, scale: &TimeScale) {
    let mut middle = LANES;
    for (lane, name) in chart.lanes.iter().enumerate() {
        drawing.text(scale.x(scale.from) - 8.0, middle + 4.0, "end", name);
        for step in chart.stretches {
            let x = scale.x(step.from);
            let width = scale.x(step.until) - x;
            let ahead = if step.is_ahead { " ahead" } else { "" };
            if step.allowed[lane] {
                drawing.rect(&format!("lane on{ahead}"), x, middle - 6.5, width.max(1.5), 13.0);
            } else {
                drawing.rect(&format!("lane{ahead}"), x, middle - 1.5, width, 3.0);
            }
        }
        middle += LANE;
    }
}

/// The line along the steps, as far as they have come.
fn edge(drawing: &mut Drawing, chart: &Steps<'_>, scale: &TimeScale) {
    let mut points = vec![(scale.x(scale.from), GROUND)];
    for step in chart.stretches.iter().filter(|step| !step.is_ahead) {
        let (from, until, y) = (scale.x(step.from), scale.x(step.until), height(step.level));
        let before = points.last().map_or(GROUND, |(_, y)| *y);
        points.extend([(from, before), (from, y), (until, y)]);
    }
    let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    drawing.put(format_args!("<polyline class=\"line\" points=\"{}\"/>", points.join(" ")));
}
