//! How an answer is shown: as a table for people and pipes, or as the API's JSON.

use std::fmt::Write as _;
use std::io::Write as _;

use chrono::{DateTime, SecondsFormat, Utc};
use clap::Args;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::Serialize;

use super::Failure;
use super::client::Page;

#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Output")]
pub struct Output {
    /// Print the API's JSON instead of a table
    #[arg(long)]
    json: bool,
}

impl Output {
    /// One thing: a line for each field, or the API's answer as it is.
    pub fn record<const N: usize>(
        self,
        json: &str,
        fields: impl FnOnce() -> Result<[(&'static str, String); N], Failure>,
    ) -> Result<(), Failure> {
        if self.json {
            return line(json);
        }
        let mut table = Table::new();
        for (name, value) in fields()? {
            table.add_row([name.to_owned(), printable(&value)]);
        }
        line(&plain(table))
    }

    /// Many things: a row for each, or the API's pages as one.
    pub fn list<const N: usize>(
        self,
        page: &Page,
        header: [&'static str; N],
        rows: impl FnOnce() -> Result<Vec<[String; N]>, Failure>,
    ) -> Result<(), Failure> {
        if self.json {
            return line(&to_json(page));
        }
        let mut table = Table::new();
        table.set_header(header);
        for row in rows()? {
            table.add_row(row.map(|cell| printable(&cell)));
        }
        line(&plain(table))?;
        if page.next_cursor.is_some() {
            eprintln!("there is more: raise --limit");
        }
        Ok(())
    }

    pub fn is_json(self) -> bool {
        self.json
    }
}

fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("what was read as JSON can be written as JSON")
}

/// Columns with two spaces between them and nothing else, so that `awk` and `cut` get what they expect.
pub fn plain(mut table: Table) -> String {
    table.load_style(NOTHING);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// Writes a text and ends its line.
pub fn line(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{}", text.trim_end_matches('\n'))?;
    Ok(stdout.flush()?)
}

/// Shows a line beside the output, for people.
pub fn notice(text: &str) {
    eprintln!("{text}");
}

/// A text from elsewhere, with what would steer a terminal, break a row or reverse the reading direction escaped.
pub fn printable(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut safe, c| {
        let steers = c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        let _ = match c {
            c if steers => write!(safe, "{}", c.escape_default()),
            c => write!(safe, "{c}"),
        };
        safe
    })
}

/// What is absent is a dash, so that a row always has all its columns.
pub fn or_dash(value: Option<impl ToString>) -> String {
    value.map(|value| value.to_string()).filter(|text| !text.is_empty()).unwrap_or_else(|| "-".to_owned())
}

pub fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

pub fn time_or_dash(moment: Option<DateTime<Utc>>) -> String {
    or_dash(moment.map(time))
}

pub fn yes_or_no(value: bool) -> String {
    String::from(if value { "yes" } else { "no" })
}
