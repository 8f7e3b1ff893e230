//! Reading what clients send: every fault is collected, unknown fields and parameters are faults too.

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use ipnetwork::IpNetwork;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::domain::instant;
use crate::error::{Error, Fault, MAX_LISTED, quoted};

/// A rule that a value breaks: its code, and what to do.
pub type Broken = (&'static str, String);

/// The fields of a JSON object. What is taken is read; what is left at the end is unknown, and so a fault.
#[derive(Debug)]
pub struct Fields {
    object: Map<String, Value>,
    path: String,
    faults: Vec<Fault>,
}

impl Fields {
    pub fn new(value: Value) -> Result<Self, Error> {
        Self::at(value, String::new()).map_err(|fault| Error::InvalidBody(vec![fault]))
    }

    /// An object within the body, at a JSON pointer.
    pub fn at(value: Value, path: String) -> Result<Self, Fault> {
        match value {
            Value::Object(object) => Ok(Self { object, path, faults: Vec::new() }),
            _ => Err(Fault::body(path, "not_an_object", "a JSON object is wanted")),
        }
    }

    /// A field that may be absent or null.
    pub fn optional<T>(&mut self, name: &str, read: impl FnOnce(Value) -> Result<T, Broken>) -> Option<T> {
        match self.object.remove(name) {
            None | Some(Value::Null) => None,
            Some(value) => self.keep(name, read(value)),
        }
    }

    /// A field where null says something else than absence: `Some(None)` for null.
    pub fn nullable<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(Value) -> Result<T, Broken>,
    ) -> Option<Option<T>> {
        match self.object.remove(name) {
            None => None,
            Some(Value::Null) => Some(None),
            Some(value) => self.keep(name, read(value)).map(Some),
        }
    }

    /// A field that may be absent, but not null.
    pub fn present<T>(&mut self, name: &str, read: impl FnOnce(Value) -> Result<T, Broken>) -> Option<T> {
        let value = self.object.remove(name)?;
        self.keep(name, read(value))
    }

    pub fn is_empty(&self) -> bool {
        self.object.is_empty()
    }

    /// A fault of the object as a whole.
    pub fn fault_at_root(&mut self, code: &'static str, detail: impl Into<String>) {
        self.faults.push(Fault::body(self.path.clone(), code, detail));
    }

    /// A field that may be absent, but not null, and has a default.
    pub fn defaulted<T>(
        &mut self,
        name: &str,
        default: T,
        read: impl FnOnce(Value) -> Result<T, Broken>,
    ) -> T {
        match self.object.remove(name) {
            None => default,
            Some(value) => self.keep(name, read(value)).unwrap_or(default),
        }
    }

    pub fn required<T>(&mut self, name: &str, read: impl FnOnce(Value) -> Result<T, Broken>) -> Option<T> {
        if let Some(value) = self.object.remove(name) {
            return self.keep(name, read(value));
        }
        self.faults.push(Fault::body(self.pointer(name), "required", format!("{name} is required")));
        None
    }

    pub fn fault(&mut self, name: &str, code: &'static str, detail: impl Into<String>) {
        self.faults.push(Fault::body(self.pointer(name), code, detail));
    }

    pub fn add(&mut self, faults: Vec<Fault>) {
        self.faults.extend(faults);
    }

    /// Returns all errors, including those of unknown fields, up to one more than an answer lists.
    pub fn finish(mut self) -> Vec<Fault> {
        let left = (MAX_LISTED + 1).saturating_sub(self.faults.len());
        for name in self.object.keys().take(left) {
            let detail = format!("there is no field {}: check its spelling", quoted(name));
            self.faults.push(Fault::body(self.pointer(name), "unknown_field", detail));
        }
        self.faults
    }

    fn pointer(&self, name: &str) -> String {
        format!("{}/{}", self.path, name.replace('~', "~0").replace('/', "~1"))
    }

    fn keep<T>(&mut self, name: &str, read: Result<T, Broken>) -> Option<T> {
        read.map_err(|(code, detail)| self.fault(name, code, detail)).ok()
    }
}

/// The most parameters that a query or a form may have. No route takes half as many.
pub const MAX_PARAMETERS: usize = 64;

/// The parameters of a query. What is taken is read; what is left at the end is unknown, and so a fault.
#[derive(Debug)]
pub struct Params {
    /// At most [`MAX_PARAMETERS`]: comparing each with each costs a bounded time, whatever a client sends.
    pairs: Vec<(String, String)>,
    faults: Vec<Fault>,
    too_many: bool,
}

impl Params {
    pub fn parse(query: &str) -> Self {
        // Whatever comes after the first one too many is not even decoded.
        let mut pairs: Vec<(String, String)> =
            form_urlencoded::parse(query.as_bytes()).into_owned().take(MAX_PARAMETERS + 1).collect();
        let too_many = pairs.len() > MAX_PARAMETERS;
        if too_many {
            pairs.clear();
        }
        let mut faults = Vec::new();
        for (index, (name, _)) in pairs.iter().enumerate() {
            if pairs[..index].iter().any(|(earlier, _)| earlier == name) {
                faults.push(Fault::parameter(
                    name,
                    "repeated",
                    format!("{} must be given once", quoted(name)),
                ));
            }
        }
        Self { pairs, faults, too_many }
    }

    /// What is left blank in a form was not given.
    #[must_use]
    pub fn without_blanks(mut self) -> Self {
        self.pairs.retain(|(_, value)| !value.trim().is_empty());
        self
    }

    pub fn take<T>(&mut self, name: &str, read: impl FnOnce(&str) -> Result<T, Broken>) -> Option<T> {
        let position = self.pairs.iter().position(|(other, _)| other == name)?;
        let (_, value) = self.pairs.remove(position);
        match read(&value) {
            Ok(value) => Some(value),
            Err((code, detail)) => {
                self.fault(name, code, detail);
                None
            }
        }
    }

    pub fn fault(&mut self, name: &str, code: &'static str, detail: impl Into<String>) {
        self.faults.push(Fault::parameter(name, code, detail));
    }

    /// A parameter that must be given.
    pub fn required<T>(&mut self, name: &str, read: impl FnOnce(&str) -> Result<T, Broken>) -> Option<T> {
        if !self.pairs.iter().any(|(other, _)| other == name) {
            self.fault(name, "required", format!("{name} is required"));
        }
        self.take(name, read)
    }

    pub fn finish(mut self) -> Result<(), Error> {
        if self.too_many {
            let detail = format!("there must be at most {MAX_PARAMETERS} parameters");
            return Err(Error::InvalidParameters(vec![Fault::parameter("", "too_many_parameters", detail)]));
        }
        for (name, _) in &self.pairs {
            if !self.faults.iter().any(|fault| fault.is_of(name)) {
                let detail = format!("there is no parameter {}: check its spelling", quoted(name));
                self.faults.push(Fault::parameter(name, "unknown_parameter", detail));
            }
        }
        if self.faults.is_empty() { Ok(()) } else { Err(Error::InvalidParameters(self.faults)) }
    }
}

/// A reader of JSON strings from a reader of text.
pub fn string<T>(read: impl FnOnce(&str) -> Result<T, Broken>) -> impl FnOnce(Value) -> Result<T, Broken> {
    |value| match value {
        Value::String(text) => read(&text),
        _ => Err(("not_a_string", "a string is wanted".to_owned())),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "readers take the value which a field gives up")]
pub fn boolean(value: Value) -> Result<bool, Broken> {
    match value {
        Value::Bool(value) => Ok(value),
        _ => Err(("not_a_boolean", "true or false is wanted".to_owned())),
    }
}

/// A number without a fraction: to JSON Schema, and so to clients made from the document, `3.0` is one too.
pub fn integer(min: i64, max: i64) -> impl Fn(Value) -> Result<i64, Broken> {
    #[expect(clippy::cast_possible_truncation, reason = "53 bits hold every limit that is asked for exactly")]
    let whole =
        |number: f64| (number.fract() == 0.0 && number.abs() < 2_f64.powi(53)).then_some(number as i64);
    move |value| {
        let broken = |code| (code, format!("a whole number from {min} to {max} is wanted"));
        match value.as_i64().or_else(|| value.as_f64().and_then(whole)) {
            Some(number) if (min..=max).contains(&number) => Ok(number),
            Some(_) => Err(broken("out_of_range")),
            None => Err(broken("not_an_integer")),
        }
    }
}

/// Text of up to `max` characters, without NUL, which PostgreSQL cannot keep.
pub fn text(max: usize) -> impl Fn(&str) -> Result<String, Broken> {
    move |text| {
        if text.contains('\0') {
            Err(("nul_character", "the text must not hold a NUL character".to_owned()))
        } else if text.chars().count() > max {
            Err(("too_long", format!("at most {max} characters are wanted")))
        } else {
            Ok(text.to_owned())
        }
    }
}

/// Text with something in it.
pub fn nonempty(max: usize) -> impl Fn(&str) -> Result<String, Broken> {
    move |given| {
        if given.trim().is_empty() {
            Err(("empty", "it must not be empty".to_owned()))
        } else {
            text(max)(given)
        }
    }
}

/// One of a few words.
pub fn choice<T: Copy>(all: &'static [T], name: fn(T) -> &'static str) -> impl Fn(&str) -> Result<T, Broken> {
    move |text| {
        all.iter().copied().find(|value| name(*value) == text).ok_or_else(|| {
            let names: Vec<_> = all.iter().map(|value| format!("\"{}\"", name(*value))).collect();
            ("unknown_value", format!("one of {} is wanted", names.join(", ")))
        })
    }
}

pub fn uuid(text: &str) -> Result<Uuid, Broken> {
    // Only the form with hyphens: each customer has one spelling.
    match Uuid::try_parse(text) {
        Ok(id) if text.len() == 36 => Ok(id),
        _ => Err(("not_a_uuid", "a UUID such as 123e4567-e89b-12d3-a456-426614174000 is wanted".to_owned())),
    }
}

/// The first instant of the year 1 and of the year 10000, in seconds: RFC 3339 has a form for those between alone.
const YEARS: std::ops::Range<i64> = -62_135_596_800..253_402_300_800;

/// Reads an RFC 3339 time, in its stored form.
pub fn time(text: &str) -> Result<DateTime<Utc>, Broken> {
    let broken = |detail: &str| ("not_a_time", detail.to_owned());
    let time = DateTime::parse_from_rfc3339(text)
        .map_err(|_| broken("must be a time, for example 2026-01-31T12:00:00Z (RFC 3339)"))?;
    let time = instant::stored(time.to_utc());
    if YEARS.contains(&time.timestamp()) {
        Ok(time)
    } else {
        Err(broken("must be a time of the years 0001 to 9999 in UTC"))
    }
}

pub fn flag(text: &str) -> Result<bool, Broken> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(("not_a_boolean", "true or false is wanted".to_owned())),
    }
}

pub fn number(min: i64, max: i64) -> impl Fn(&str) -> Result<i64, Broken> {
    move |text| match text.parse() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => Err(("out_of_range", format!("a whole number from {min} to {max} is wanted"))),
    }
}

/// A consent's version.
pub fn version(text: &str) -> Result<i32, Broken> {
    let version = number(0, i32::MAX.into())(text)?;
    Ok(i32::try_from(version).unwrap_or(i32::MAX))
}

/// Reads an address or a network in CIDR notation, in its stored form: an IPv4 address is no IPv6 address, and the bits
/// below the prefix are zero.
pub fn network(text: &str) -> Result<IpNetwork, Broken> {
    let broken =
        || ("not_an_address", "must be an address or a network, for example 203.0.113.0/24".to_owned());
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNetwork::from(address.to_canonical()));
    }
    let network: IpNetwork = text.parse().map_err(|_| broken())?;
    let (address, prefix) = match network {
        IpNetwork::V6(v6) if v6.prefix() >= 96 => match v6.ip().to_ipv4_mapped() {
            Some(v4) => (IpAddr::V4(v4), v6.prefix() - 96),
            None => (network.ip(), v6.prefix()),
        },
        _ => (network.ip(), network.prefix()),
    };
    let network = IpNetwork::new(address, prefix).map_err(|_| broken())?;
    IpNetwork::new(network.network(), prefix).map_err(|_| broken())
}
