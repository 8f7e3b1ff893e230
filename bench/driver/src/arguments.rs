//! The command line: a mode, then `--name value` pairs.

use std::collections::HashMap;
use std::fs;
use std::str::FromStr;
use std::time::Duration;

use crate::Failure;

#[derive(Debug)]
pub struct Arguments(HashMap<String, String>);

impl Arguments {
    pub fn read(mut words: impl Iterator<Item = String>) -> Result<Self, Failure> {
        let mut values = HashMap::new();
        while let Some(word) = words.next() {
            let name = word.strip_prefix("--").ok_or_else(|| format!("{word} is not --NAME"))?;
            let value = words.next().ok_or_else(|| format!("--{name} has no value"))?;
            values.insert(name.to_owned(), value);
        }
        Ok(Self(values))
    }

    pub fn optional<T>(&mut self, name: &str) -> Result<Option<T>, Failure>
    where
        T: FromStr,
        T::Err: std::fmt::Display,
    {
        let Some(value) = self.0.remove(name) else { return Ok(None) };
        value.parse().map(Some).map_err(|error| format!("--{name} {value}: {error}").into())
    }

    pub fn required<T>(&mut self, name: &str) -> Result<T, Failure>
    where
        T: FromStr,
        T::Err: std::fmt::Display,
    {
        self.optional(name)?.ok_or_else(|| format!("--{name} is missing").into())
    }

    pub fn seconds(&mut self, name: &str) -> Result<Option<Duration>, Failure> {
        let seconds: Option<f64> = self.optional(name)?;
        Ok(seconds.map(Duration::try_from_secs_f64).transpose()?)
    }

    /// What stands in the file, without the line's end.
    pub fn file(&mut self, name: &str) -> Result<String, Failure> {
        let path: String = self.required(name)?;
        let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        Ok(text.trim().to_owned())
    }

    /// The lines of the file.
    pub fn lines(&mut self, name: &str) -> Result<Vec<String>, Failure> {
        let lines: Vec<String> = self.file(name)?.lines().map(str::to_owned).collect();
        if lines.is_empty() { Err(format!("--{name} names an empty file").into()) } else { Ok(lines) }
    }

    /// Nothing is left which no mode knows.
    pub fn finish(self) -> Result<(), Failure> {
        match self.0.into_keys().next() {
            Some(name) => Err(format!("--{name} is not known here").into()),
            None => Ok(()),
        }
    }
}
