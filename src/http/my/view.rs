//! What the templates are given. Templates hold no word of their own: every one is in `texts`.

use askama::Template;
use axum::http::StatusCode;
use uuid::Uuid;

use super::HOME;
use super::choices::Chosen;
use super::texts::{Piece, Texts, say};
use super::visit::Visit;
use crate::domain::{AnonymizationLevel, ConsentTier};
use crate::http::pages::Page;

/// A sentence, for `parts::say` to write.
pub type Sentence = Vec<Piece>;

/// What a page stands in.
#[derive(Debug)]
pub struct Frame {
    pub t: &'static Texts,
    /// Its own address, for the menu of languages.
    pub path: String,
    pub visitor: Option<Visitor>,
}

/// For whom the page is, where that is known.
#[derive(Debug)]
pub struct Visitor {
    pub link_id: Uuid,
    pub account: Sentence,
    pub until: Sentence,
}

impl Frame {
    /// A page that belongs to nobody.
    pub fn outside(t: &'static Texts) -> Self {
        Self { t, path: HOME.to_owned(), visitor: None }
    }

    pub fn inside(visit: &Visit, path: String) -> Self {
        let t = visit.texts;
        let customer = &visit.customer;
        let name = customer.company_name.clone().unwrap_or_else(|| customer.customer_id.to_string());
        let visitor = Visitor {
            link_id: visit.link.link_id,
            account: say(t.account, &[("account", Piece::Datum(name))]),
            until: say(t.link_until, &[("time", t.time(visit.link.expires_at))]),
        };
        Self { t, path, visitor: Some(visitor) }
    }

    fn texts(&self) -> Sentence {
        say(self.t.text_version, &[("version", Piece::Datum(self.t.policy_version().to_owned()))])
    }
}

/// What went wrong, where no more is to be said of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    NotFound,
    NotSealed,
    OtherLink,
    TooLate,
    TooMany,
    Refused,
    Unavailable,
    Broken,
}

impl Trouble {
    /// Title and text.
    pub fn texts(self, t: &'static Texts) -> (&'static str, &'static str) {
        match self {
            Self::NotFound => (t.not_found_title, t.not_found),
            Self::NotSealed => (t.not_sealed_title, t.not_sealed),
            Self::OtherLink => (t.other_link_title, t.other_link),
            Self::TooLate => (t.too_late_title, t.too_late),
            Self::TooMany => (t.too_many_title, t.too_many),
            Self::Refused => (t.refused_title, t.refused),
            Self::Unavailable => (t.unavailable_title, t.unavailable),
            Self::Broken => (t.broken_title, t.broken),
        }
    }
}

/// One thing to say, and the way back.
#[derive(Debug, Template)]
#[template(path = "my/message.html")]
pub struct Message {
    pub frame: Frame,
    pub title: &'static str,
    pub text: Sentence,
    /// Whether there is a consent to go to.
    pub home: bool,
}

impl Message {
    pub fn of(t: &'static Texts, trouble: Trouble) -> Self {
        let (title, text) = trouble.texts(t);
        Self { frame: Frame::outside(t), title, text: say(text, &[]), home: true }
    }

    pub fn answer(self, status: StatusCode) -> Page<Self> {
        Page(status, self)
    }
}

/// What is in force, and the way to change it.
#[derive(Debug, Template)]
#[template(path = "my/overview.html")]
pub struct Overview {
    pub frame: Frame,
    pub inactive: bool,
    pub unchanged: bool,
    pub undo: Option<Undo>,
    pub in_force: Vec<Sentence>,
    /// What is allowed in detail; nothing where nothing is.
    pub details: Vec<(&'static str, Sentence)>,
    /// Whether there is anything to withdraw.
    pub given: bool,
}

#[derive(Debug)]
pub struct Undo {
    pub audit_id: i64,
    pub done: Sentence,
    pub offer: Sentence,
}

/// The form.
#[derive(Debug, Template)]
#[template(path = "my/choices.html")]
pub struct Choices {
    pub frame: Frame,
    pub title: &'static str,
    /// What stands in the way of saving it.
    pub faults: Vec<Sentence>,
    pub version: i32,
    pub chosen: Chosen,
    /// What the end is now, where that can be kept.
    pub keep: Option<Sentence>,
}

/// A tier as a card.
struct Card {
    tier: ConsentTier,
    chosen: bool,
    name: &'static str,
    used: &'static str,
    why: &'static str,
    refusing: &'static str,
}

/// One of several, of which one can be chosen.
struct Choice {
    value: &'static str,
    chosen: bool,
    label: &'static str,
}

/// A permission as a switch.
struct Switch {
    name: &'static str,
    on: bool,
    label: &'static str,
    purpose: &'static str,
    tier: &'static str,
}

impl Choices {
    fn cards(&self) -> [Card; 4] {
        let t = self.frame.t;
        let card = |tier, used, why, refusing| {
            let chosen = self.chosen.tier == Some(tier);
            Card { tier, chosen, name: t.tier_name(tier), used, why, refusing }
        };
        [
            card(ConsentTier::None, t.none_used, t.none_why, t.none_refusing),
            card(ConsentTier::Basic, t.basic_used, t.basic_why, t.basic_refusing),
            card(ConsentTier::Analytics, t.analytics_used, t.analytics_why, t.analytics_refusing),
            card(ConsentTier::Research, t.research_used, t.research_why, t.research_refusing),
        ]
    }

    fn switches(&self) -> [Switch; 3] {
        let (t, chosen) = (self.frame.t, &self.chosen);
        [
            Switch {
                name: "images",
                on: chosen.images,
                label: t.images,
                purpose: t.images_purpose,
                tier: t.images_tier,
            },
            Switch {
                name: "embeddings",
                on: chosen.embeddings,
                label: t.embeddings,
                purpose: t.embeddings_purpose,
                tier: t.embeddings_tier,
            },
            Switch {
                name: "training",
                on: chosen.training,
                label: t.training,
                purpose: t.training_purpose,
                tier: t.training_tier,
            },
        ]
    }

    fn levels(&self) -> [Choice; 4] {
        let t = self.frame.t;
        [
            (AnonymizationLevel::Full, t.level_full),
            (AnonymizationLevel::Partial, t.level_partial),
            (AnonymizationLevel::Minimal, t.level_minimal),
            (AnonymizationLevel::None, t.level_none),
        ]
        .map(|(level, label)| Choice {
            value: level.as_str(),
            chosen: self.chosen.level == Some(level),
            label,
        })
    }

    fn ends(&self) -> [Choice; 4] {
        let t = self.frame.t;
        [("3", t.months_3), ("6", t.months_6), ("12", t.months_12), ("never", t.no_end_date)]
            .map(|(value, label)| Choice { value, chosen: self.has_end(value), label })
    }

    fn has_end(&self, end: &str) -> bool {
        self.chosen.until.as_deref() == Some(end)
    }

    fn keeps(&self) -> bool {
        self.has_end(super::choices::KEEP)
    }
}

/// An entry: what it changed, and what proves it.
#[derive(Debug, Template)]
#[template(path = "my/entry.html")]
pub struct Entry {
    pub frame: Frame,
    pub title: Sentence,
    pub saved: bool,
    pub when: Piece,
    pub what: &'static str,
    pub who: &'static str,
    pub reason: Option<String>,
    pub read_text: Option<String>,
    pub rows: Vec<Row>,
    pub audit_id: i64,
    pub receipt: Option<String>,
}

/// One thing that an entry tells of, before and after.
#[derive(Debug)]
pub struct Row {
    pub name: &'static str,
    pub before: Sentence,
    pub now: Sentence,
    pub changed: bool,
}

/// The trail.
#[derive(Debug, Template)]
#[template(path = "my/history.html")]
pub struct History {
    pub frame: Frame,
    pub lines: Vec<Line>,
    /// Where the older ones are.
    pub older: Option<String>,
    /// Whether newer ones were passed.
    pub is_later: bool,
}

#[derive(Debug)]
pub struct Line {
    pub audit_id: i64,
    pub when: Piece,
    pub what: &'static str,
    pub tier: &'static str,
    pub who: &'static str,
    pub reason: Option<String>,
}

impl History {
    fn number(&self, line: &Line) -> Sentence {
        say(self.frame.t.entry_title, &[("entry", Piece::Datum(line.audit_id.to_string()))])
    }
}
