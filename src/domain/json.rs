//! JSON of what is asked for with every inference or by the million, written field by field: serde goes through each text
//! character by character, which takes longer than deciding does. What is written is what serde derives.

use std::io::Write as _;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::instant;

/// What can be written so.
pub trait WriteJson {
    fn write_json(&self, out: &mut Vec<u8>);
}

/// An object that is being written.
#[derive(Debug)]
pub struct Object<'o> {
    out: &'o mut Vec<u8>,
    before: u8,
}

impl<'o> Object<'o> {
    pub fn begin(out: &'o mut Vec<u8>) -> Self {
        Self { out, before: b'{' }
    }

    /// Where a value of this name goes that has a form of its own.
    pub fn name(&mut self, name: &'static str) -> &mut Vec<u8> {
        self.out.push(self.before);
        self.before = b',';
        plain(name, self.out);
        self.out.push(b':');
        self.out
    }

    /// A text of this program's own, in which nothing is to be escaped.
    pub fn word(&mut self, name: &'static str, word: &'static str) -> &mut Self {
        plain(word, self.name(name));
        self
    }

    /// Texts of this program's own, in which nothing is to be escaped.
    pub fn words(&mut self, name: &'static str, words: impl Iterator<Item = &'static str>) -> &mut Self {
        let out = self.name(name);
        out.push(b'[');
        for (index, word) in words.enumerate() {
            if index > 0 {
                out.push(b',');
            }
            plain(word, out);
        }
        out.push(b']');
        self
    }

    pub fn text(&mut self, name: &'static str, text: Option<&str>) -> &mut Self {
        let out = self.name(name);
        match text {
            Some(text) => string(text, out),
            None => out.extend(b"null"),
        }
        self
    }

    pub fn boolean(&mut self, name: &'static str, value: bool) -> &mut Self {
        self.name(name).extend(if value { b"true".as_slice() } else { b"false" });
        self
    }

    pub fn integer(&mut self, name: &'static str, value: Option<i64>) -> &mut Self {
        let out = self.name(name);
        match value {
            Some(value) => write!(out, "{value}").expect("memory can be written to"),
            None => out.extend(b"null"),
        }
        self
    }

    pub fn uuid(&mut self, name: &'static str, id: Uuid) -> &mut Self {
        plain(id.hyphenated().encode_lower(&mut Uuid::encode_buffer()), self.name(name));
        self
    }

    pub fn instant(&mut self, name: &'static str, time: Option<DateTime<Utc>>) -> &mut Self {
        let out = self.name(name);
        match time {
            Some(time) => plain(&instant::written(time, &mut instant::Buffer::default()), out),
            None => out.extend(b"null"),
        }
        self
    }

    pub fn object(&mut self, name: &'static str, fields: impl FnOnce(&mut Object<'_>)) -> &mut Self {
        let mut object = Object::begin(self.name(name));
        fields(&mut object);
        object.end();
        self
    }

    pub fn end(&mut self) {
        if self.before == b'{' {
            self.out.push(b'{');
        }
        self.out.push(b'}');
    }
}

fn plain(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend(text.as_bytes());
    out.push(b'"');
}

/// A text in quotes, escaped as RFC 8785 wants it: what must be, in the shortest form, in lowercase.
pub fn string(text: &str, out: &mut Vec<u8>) {
    // Without an early end, so that many bytes are looked at at once: almost no text has one of these.
    let escaped = |byte: u8| matches!(byte, 0..0x20 | b'"' | b'\\');
    if text.bytes().fold(false, |found, byte| found | escaped(byte)) {
        serde_json::to_writer(out, text).expect("a text can be written to memory");
    } else {
        plain(text, out);
    }
}
