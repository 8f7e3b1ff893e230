//! Every word of the customer's page, in each language. A language that lacks one does not build.
//!
//! What a customer read when it decided is part of the proof: the texts have a version and a hash, and both stand in the
//! audit entry of the decision. `docs/customer-page/` has each version's texts as they are hashed.

use std::fmt::Write as _;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Datelike as _, SecondsFormat, Timelike as _, Utc};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::domain::{AnonymizationLevel, AuditAction, ConsentTier};

mod de;
mod en;
mod es;
mod fr;

/// Raised with every change of a text; the files of the one before stay.
pub const VERSION: &str = "2026-11";

macro_rules! texts {
    ($($name:ident)*) => {
        /// The texts of a language. `{word}` stands for what is put there.
        #[derive(Clone, Debug, Serialize)]
        pub struct Texts {
            /// The first of the fields, so that a file of texts says what it is.
            pub version: &'static str,
            /// As in `lang` attributes.
            pub language: &'static str,
            /// The language's own name for itself.
            pub language_name: &'static str,
            $(pub $name: &'static str,)*
            pub months: [&'static str; 12],
        }

        #[cfg(test)]
        impl Texts {
            /// Every text with its name.
            pub fn all(&self) -> Vec<(&'static str, &'static str)> {
                vec![$((stringify!($name), self.$name)),*]
            }

            /// The same with every text changed.
            pub fn map(&self, change: impl Fn(&'static str) -> &'static str) -> Self {
                Self {
                    version: self.version,
                    language: self.language,
                    language_name: self.language_name,
                    $($name: change(self.$name),)*
                    months: self.months.map(&change),
                }
            }
        }
    };
}

texts! {
    // Around every page.
    page_name skip languages account link_until text_version leave
    // What is in force.
    in_force active no_end ends never withdrawn expired inactive
    holds_now yes no end
    withdraw change choose
    used_before_title used_before
    withdrawn_now undo_until undo unchanged
    // The tiers.
    tier none basic analytics research
    used why refusing
    none_used none_why none_refusing
    basic_used basic_why basic_refusing
    analytics_used analytics_why analytics_refusing
    research_used research_why research_refusing
    // The switches.
    switches switches_hint
    images images_purpose images_tier
    embeddings embeddings_purpose embeddings_tier
    training training_purpose training_tier
    // Anonymisation.
    level level_hint level_full level_partial level_minimal level_none
    full partial minimal untouched
    // The end.
    until until_hint months_3 months_6 months_12 no_end_date keep_end keep_no_end
    // The form.
    choices_title first_title choices_intro reason reason_hint save back
    fault_title fault_tier fault_training fault_level fault_reason fault_form moved
    // An entry.
    entry_title saved when what who why_given before now changed_row nothing_before not_kept
    receipt_title receipt_text receipt_none download_receipt download_proof read_text
    adopted granted updated renewed was_withdrawn was_expired erased
    by_you by_clock by_provider by_unknown
    // The history.
    history history_intro history_empty older newest csv
    // When it cannot be shown.
    to_consent
    no_link_title no_link
    bad_link_title bad_link
    expired_link_title expired_link
    revoked_link_title revoked_link
    no_account_title no_account
    other_link_title other_link
    not_found_title not_found
    too_late_title too_late
    not_sealed_title not_sealed
    too_many_title too_many
    refused_title refused
    unavailable_title unavailable
    broken_title broken
    left_title left
    // How times are written.
    moment first_day
}

/// The languages, in the order of the menu; the first is for those who understand none of them.
pub const LANGUAGES: [&Texts; 4] = [&en::TEXTS, &de::TEXTS, &fr::TEXTS, &es::TEXTS];

/// A part of a sentence, for a template to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    /// What is shown, and the same for machines.
    Time(String, String),
    /// What is not a text of ours: a name, a number, an identifier.
    Datum(String),
}

impl Piece {
    /// Where no element can stand, as in a title.
    pub fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Time(text, _) | Self::Datum(text) => text,
        }
    }
}

impl Texts {
    /// What a decision made on these texts is recorded with: version, language, and the hash of every text.
    pub fn policy_version(&self) -> &'static str {
        static HASHED: LazyLock<[String; LANGUAGES.len()]> =
            LazyLock::new(|| LANGUAGES.map(Texts::hashed_version));
        let place = LANGUAGES.iter().position(|texts| texts.language == self.language).unwrap_or(0);
        &HASHED[place]
    }

    fn hashed_version(&self) -> String {
        let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(self.file()));
        format!("{}.{}.sha256-{hash}", self.version, self.language)
    }

    /// The texts as they are hashed: the bytes of their file in `docs/customer-page/`.
    pub fn file(&self) -> String {
        serde_json::to_string_pretty(self).expect("texts are text") + "\n"
    }

    pub fn tier_name(&self, tier: ConsentTier) -> &'static str {
        match tier {
            ConsentTier::None => self.none,
            ConsentTier::Basic => self.basic,
            ConsentTier::Analytics => self.analytics,
            ConsentTier::Research => self.research,
        }
    }

    pub fn level_name(&self, level: AnonymizationLevel) -> &'static str {
        match level {
            AnonymizationLevel::Full => self.full,
            AnonymizationLevel::Partial => self.partial,
            AnonymizationLevel::Minimal => self.minimal,
            AnonymizationLevel::None => self.untouched,
        }
    }

    pub fn action_name(&self, action: AuditAction) -> &'static str {
        match action {
            AuditAction::Adopted => self.adopted,
            AuditAction::Granted => self.granted,
            AuditAction::Updated => self.updated,
            AuditAction::Renewed => self.renewed,
            AuditAction::Withdrawn => self.was_withdrawn,
            AuditAction::Expired => self.was_expired,
            AuditAction::Erased => self.erased,
        }
    }

    pub fn yes_or_no(&self, permission: bool) -> &'static str {
        if permission { self.yes } else { self.no }
    }

    pub fn time(&self, time: DateTime<Utc>) -> Piece {
        let day = if time.day() == 1 { self.first_day.to_owned() } else { time.day().to_string() };
        let shown = parts(self.moment).into_iter().fold(String::new(), |mut shown, part| {
            let written = match part {
                Part::Text(text) => write!(shown, "{text}"),
                Part::Gap("day") => write!(shown, "{day}"),
                Part::Gap("month") => write!(shown, "{}", self.months[time.month0() as usize]),
                Part::Gap("year") => write!(shown, "{}", time.year()),
                Part::Gap("clock") => write!(shown, "{:02}:{:02}", time.hour(), time.minute()),
                Part::Gap(_) => Ok(()),
            };
            written.expect("a String takes all that is written");
            shown
        });
        Piece::Time(shown, time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
    }
}

/// A sentence with its gaps filled.
pub fn say(text: &'static str, gaps: &[(&str, Piece)]) -> Vec<Piece> {
    parts(text)
        .into_iter()
        .filter_map(|part| match part {
            Part::Text(text) => Some(Piece::Text(text.to_owned())),
            Part::Gap(name) => gaps.iter().find(|(gap, _)| *gap == name).map(|(_, piece)| piece.clone()),
        })
        .collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Text(&'static str),
    Gap(&'static str),
}

fn parts(text: &'static str) -> Vec<Part> {
    let mut parts = Vec::new();
    for piece in text.split_inclusive('}') {
        match piece.strip_suffix('}').and_then(|piece| piece.split_once('{')) {
            Some((before, gap)) => {
                if !before.is_empty() {
                    parts.push(Part::Text(before));
                }
                parts.push(Part::Gap(gap));
            }
            None => parts.push(Part::Text(piece)),
        }
    }
    parts
}

/// The language a reader wants: the one chosen from the menu, else the best of `Accept-Language` (RFC 9110, 12.5.4).
pub fn wanted(chosen: Option<&str>, accepted: &str) -> &'static Texts {
    if let Some(texts) = chosen.and_then(by_code) {
        return texts;
    }
    let mut best: Option<(f32, &'static Texts)> = None;
    for range in accepted.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let tag = parts.next().unwrap_or_default().split('-').next().unwrap_or_default();
        let texts = if tag == "*" { Some(LANGUAGES[0]) } else { by_code(&tag.to_ascii_lowercase()) };
        let quality =
            parts.find_map(|part| part.strip_prefix("q=")).map_or(1.0, |q| q.parse().unwrap_or(0.0));
        if let Some(texts) = texts.filter(|_| quality > 0.0)
            && best.is_none_or(|(other, _)| quality > other)
        {
            best = Some((quality, texts));
        }
    }
    best.map_or(LANGUAGES[0], |(_, texts)| texts)
}

pub fn by_code(code: &str) -> Option<&'static Texts> {
    LANGUAGES.into_iter().find(|texts| texts.language == code)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    fn gaps(text: &'static str) -> BTreeSet<&'static str> {
        let gaps = parts(text).into_iter();
        gaps.filter_map(|part| if let Part::Gap(name) = part { Some(name) } else { None }).collect()
    }

    #[test]
    fn every_language_has_the_gaps_of_english_and_no_empty_text() {
        for texts in LANGUAGES {
            for ((name, text), (_, english)) in texts.all().into_iter().zip(LANGUAGES[0].all()) {
                assert!(!text.trim().is_empty(), "{} {name}", texts.language);
                assert_eq!(gaps(text), gaps(english), "{} {name}", texts.language);
                assert_eq!(
                    text.matches(['{', '}']).count(),
                    2 * gaps(text).len(),
                    "{} {name}",
                    texts.language
                );
            }
        }
    }

    #[test]
    fn a_changed_text_has_a_new_version_and_every_version_is_kept() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/customer-page");
        let mut written = false;
        for texts in LANGUAGES {
            let path = folder.join(format!("{}.{}.json", texts.version, texts.language));
            if let Ok(kept) = std::fs::read_to_string(&path) {
                assert!(
                    kept == texts.file(),
                    "{} holds other texts: customers may have decided on them, so raise VERSION",
                    path.display()
                );
            } else {
                std::fs::create_dir_all(&folder).expect("a folder");
                std::fs::write(&path, texts.file()).expect("a file");
                written = true;
            }
        }
        assert!(!written, "the texts of a new version were written to {}: commit them", folder.display());
    }

    #[test]
    fn what_a_decision_is_recorded_with_fits_and_names_the_bytes_of_the_file() {
        for texts in LANGUAGES {
            let version = texts.policy_version();
            assert!(version.len() <= 64, "{version}");
            let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(texts.file()));
            assert_eq!(version, format!("{VERSION}.{}.sha256-{hash}", texts.language));
        }
    }

    #[test]
    fn the_language_is_the_chosen_one_else_the_best_that_is_accepted() {
        let code = |chosen, accepted| wanted(chosen, accepted).language;
        assert_eq!(code(None, ""), "en");
        assert_eq!(code(None, "de"), "de");
        assert_eq!(code(None, "de-AT,de;q=0.9,en;q=0.5"), "de");
        assert_eq!(code(None, "it, fr;q=0.4, ES;q=0.7"), "es");
        assert_eq!(code(None, "de;q=0, fr;q=0.1"), "fr");
        assert_eq!(code(None, "*"), "en");
        assert_eq!(code(None, "xx;q=nonsense,,;;"), "en");
        assert_eq!(code(Some("fr"), "de"), "fr");
        assert_eq!(code(Some("xx"), "de"), "de");
    }

    #[test]
    fn times_are_written_as_each_language_writes_them() {
        let time = "2026-03-01T09:05:00Z".parse().expect("a time");
        let shown = LANGUAGES.map(|texts| match texts.time(time) {
            Piece::Time(shown, machine) => {
                assert_eq!(machine, "2026-03-01T09:05:00Z");
                shown
            }
            other => panic!("{other:?}"),
        });
        let expected = [
            "1 March 2026, 09:05 UTC",
            "1. März 2026, 09:05 Uhr UTC",
            "1er mars 2026 à 09:05 UTC",
            "1 de marzo de 2026, 09:05 UTC",
        ];
        assert_eq!(shown, expected);
    }
}
