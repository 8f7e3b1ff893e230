//! The form on which a customer chooses, and what a form that was sent means.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Months, Utc};

use super::CHOICES;
use super::standing::Standing;
use super::texts::{Piece, Texts, say};
use super::view::{Choices, Sentence};
use super::visit::Visit;
use crate::domain::{AnonymizationLevel, Consent, ConsentRecord, ConsentStatus, ConsentTier, Proposal};
use crate::http::AppState;
use crate::http::input::{Params, choice, text};
use crate::http::pages::Page;
use crate::http::problem::Problem;

/// The end as it is now.
pub const KEEP: &str = "keep";

/// What is ticked in the form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    pub tier: Option<ConsentTier>,
    pub images: bool,
    pub embeddings: bool,
    pub training: bool,
    pub level: Option<AnonymizationLevel>,
    pub until: Option<String>,
    pub reason: Option<String>,
}

impl Chosen {
    /// What stands is ticked, and nothing where nothing does: a consent that has ended, or was never given, is given anew
    /// or not at all.
    pub fn standing(standing: &Standing) -> Self {
        let record = &standing.record;
        match standing.status {
            ConsentStatus::NeverGiven | ConsentStatus::Expired => Self::default(),
            ConsentStatus::Withdrawn => Self { tier: Some(ConsentTier::None), ..Self::default() },
            ConsentStatus::Active => Self {
                tier: Some(record.consent_tier),
                images: record.can_store_images,
                embeddings: record.can_store_embeddings,
                training: record.can_use_for_training,
                level: Some(record.anonymization_level),
                until: Some(KEEP.to_owned()),
                reason: None,
            },
        }
    }

    /// Reads the form; a value that the form does not have is nonsense, and left out.
    pub fn read(form: &mut Params) -> Self {
        let on = |value: &str| {
            if value == "on" { Ok(true) } else { Err(("not_a_switch", "it is on, or not sent".to_owned())) }
        };
        let ends = |value: &str| {
            if ["3", "6", "12", "never", KEEP].contains(&value) {
                Ok(value.to_owned())
            } else {
                Err(("unknown_value", "one of the ends that are offered is wanted".to_owned()))
            }
        };
        Self {
            tier: form.take("tier", choice(&ConsentTier::ALL, ConsentTier::as_str)),
            images: form.take("images", on).unwrap_or(false),
            embeddings: form.take("embeddings", on).unwrap_or(false),
            training: form.take("training", on).unwrap_or(false),
            level: form.take("level", choice(&AnonymizationLevel::ALL, AnonymizationLevel::as_str)),
            until: form.take("until", ends),
            reason: form.take("reason", text(1000)),
        }
    }

    /// The consent that this comes to, or what stands in its way.
    ///
    /// A switch which the tier does not have stays off: without a script the form cannot take its tick away, and whoever goes
    /// down to a lower tier must not be stopped by what was ticked for the higher one. What is left open is the most private.
    pub fn consent(
        &self,
        t: &'static Texts,
        standing: &ConsentRecord,
        now: DateTime<Utc>,
    ) -> Result<Consent, Vec<Sentence>> {
        let policy_version = Some(t.policy_version().to_owned());
        let tier = match self.tier {
            None => return Err(vec![say(t.fault_tier, &[])]),
            Some(ConsentTier::None) => return Ok(Consent::refusal(policy_version)),
            Some(tier) => tier,
        };
        let months = |months| now.checked_add_months(Months::new(months));
        let proposal = Proposal {
            consent_tier: tier,
            can_store_images: self.images && tier == ConsentTier::Research,
            can_store_embeddings: self.embeddings && tier >= ConsentTier::Analytics,
            can_use_for_training: self.training && tier == ConsentTier::Research,
            anonymization_level: self.level.unwrap_or(AnonymizationLevel::Full),
            policy_version,
            expires_at: match self.until.as_deref() {
                Some(KEEP) => standing.expires_at,
                Some("never") => None,
                Some("12") => months(12),
                Some("6") => months(6),
                _ => months(3),
            },
        };
        Consent::new(proposal, now).map_err(|faults| {
            let told = faults.iter().map(|fault| match fault.pointer.as_deref() {
                Some("/can_use_for_training") => say(t.fault_training, &[]),
                Some("/anonymization_level") => say(t.fault_level, &[]),
                _ => say(t.fault_form, &[]),
            });
            told.collect()
        })
    }
}

pub async fn page(State(state): State<AppState>, visit: Visit) -> Result<Response, Problem> {
    let standing = Standing::read(&state, visit.customer.customer_id, visit.now).await?;
    let form = form(&visit, &standing, Chosen::standing(&standing), Vec::new());
    Ok(Page(StatusCode::OK, form).into_response())
}

pub fn form(visit: &Visit, standing: &Standing, chosen: Chosen, faults: Vec<Sentence>) -> Choices {
    let t = visit.texts;
    let active = standing.status == ConsentStatus::Active;
    let keep = active.then(|| match standing.record.expires_at {
        Some(end) => say(t.keep_end, &[("end", t.time(end))]),
        None => say(t.keep_no_end, &[]),
    });
    // It may have ended since the form was made.
    let until = chosen.until.filter(|until| keep.is_some() || until != KEEP);
    let first = standing.status == ConsentStatus::NeverGiven;
    Choices {
        frame: visit.frame(CHOICES),
        title: if first { t.first_title } else { t.choices_title },
        faults,
        version: standing.record.version,
        chosen: Chosen { until, ..chosen },
        keep,
    }
}

/// That somebody else was faster.
pub fn moved(t: &'static Texts, standing: &Standing) -> Sentence {
    let entry = standing.record.audit_id.unwrap_or_default().to_string();
    say(t.moved, &[("entry", Piece::Datum(entry))])
}
