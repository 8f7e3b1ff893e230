//! Every page in a language that nobody speaks: each text in brackets, accented, and 40 % longer. What is shown outside of
//! brackets is a word that no translator would have found.

use askama::Template;
use chrono::{DateTime, TimeDelta, Utc};
use sqlx::types::Json;
use uuid::Uuid;

use super::choices::{self, Chosen};
use super::standing::Standing;
use super::texts::{LANGUAGES, Texts, say};
use super::view::{Frame, Message, Trouble};
use super::visit::Visit;
use super::{entry, history, overview};
use crate::domain::{
    AnonymizationLevel, AuditAction, AuditEntry, Consent, ConsentLink, ConsentRecord, ConsentState,
    ConsentTier, Customer, CustomerTier, Proposal,
};
use crate::http::extract::Origin;

fn pseudo(text: &'static str) -> &'static str {
    let mut changed = String::from("[");
    let mut in_gap = false;
    for char in text.chars() {
        in_gap = char == '{' || (in_gap && char != '}');
        match char {
            // A gap breaks the brackets: what is put there is told apart from what stands around it.
            '{' => changed.push_str("]{"),
            '}' => changed.push_str("}["),
            'a' if !in_gap => changed.push('à'),
            'e' if !in_gap => changed.push('ë'),
            'i' if !in_gap => changed.push('ï'),
            'o' if !in_gap => changed.push('ø'),
            'u' if !in_gap => changed.push('ü'),
            other => changed.push(other),
        }
    }
    changed.extend(std::iter::repeat_n('·', text.chars().count() * 2 / 5));
    changed.push(']');
    changed.leak()
}

fn texts() -> &'static Texts {
    Box::leak(Box::new(LANGUAGES[0].map(pseudo)))
}

fn now() -> DateTime<Utc> {
    "2026-03-01T12:00:00Z".parse().expect("a time")
}

fn visit() -> Visit {
    let customer_id = Uuid::from_u128(7);
    let link = ConsentLink {
        link_id: Uuid::from_u128(8),
        customer_id,
        created_at: now(),
        created_by: "key:vla_live_a1b2".to_owned(),
        on_behalf_of: None,
        expires_at: now() + TimeDelta::days(7),
        revoked_at: None,
    };
    let customer = Customer {
        customer_id,
        email: "somebody@example.com".to_owned(),
        company_name: Some("Example Robotics".to_owned()),
        tier: CustomerTier::Pro,
        rate_limit_rpm: 1,
        rate_limit_rpd: 1,
        is_active: false,
        created_at: now(),
        updated_at: now(),
    };
    let origin = Origin {
        changed_by: ConsentLink::name(link.link_id),
        ip_address: None,
        user_agent: None,
        request_id: None,
    };
    Visit::new(link, customer, texts(), now(), origin)
}

fn given() -> ConsentState {
    let proposal = Proposal {
        consent_tier: ConsentTier::Research,
        can_store_images: true,
        can_store_embeddings: false,
        can_use_for_training: true,
        anonymization_level: AnonymizationLevel::Partial,
        policy_version: Some("2026-01".to_owned()),
        expires_at: Some(now() + TimeDelta::days(90)),
    };
    ConsentState::new(&Consent::new(proposal, now()).expect("it keeps the rules"), Some(now()))
}

fn an_entry(action: AuditAction, by: Option<&str>) -> AuditEntry {
    let none = ConsentState::new(&Consent::none(), None);
    let (previous, current) = match action {
        AuditAction::Withdrawn => (Some(given()), Some(none)),
        AuditAction::Erased => (Some(given()), None),
        AuditAction::Granted => (None, Some(given())),
        _ => (Some(given()), Some(given())),
    };
    AuditEntry {
        audit_id: 4711,
        customer_id: Uuid::from_u128(7),
        action,
        version: 3,
        previous_tier: previous.as_ref().map(|state| state.consent_tier),
        new_tier: current.as_ref().map_or(ConsentTier::None, |state| state.consent_tier),
        previous: previous.map(Json),
        current: current.map(Json),
        changed_by: by.map(str::to_owned),
        on_behalf_of: None,
        change_reason: Some("a reason that somebody typed".to_owned()),
        ip_address: None,
        user_agent: None,
        request_id: None,
        timestamp: now(),
        unreadable: Vec::new(),
        foreign: false,
    }
}

fn standing(entry: Option<AuditEntry>, at: DateTime<Utc>) -> Standing {
    let record = entry.as_ref().map_or_else(
        || ConsentRecord::never_given(Uuid::from_u128(7)),
        |entry| {
            let state = super::standing::after(entry);
            ConsentRecord::from_state(
                entry.customer_id,
                state,
                Some(entry.timestamp),
                entry.version,
                Some(entry.audit_id),
            )
        },
    );
    Standing { status: record.status(at), record, newest: entry }
}

/// Every page, in every state that says something else.
fn pages() -> Vec<String> {
    let (visit, t) = (visit(), texts());
    let mut pages = Vec::new();
    let link = ConsentLink::name(visit.link.link_id);
    let standings = [
        standing(None, now()),
        standing(Some(an_entry(AuditAction::Granted, Some(&link))), now()),
        standing(Some(an_entry(AuditAction::Granted, Some(&link))), now() + TimeDelta::days(100)),
        standing(Some(an_entry(AuditAction::Withdrawn, Some(&link))), now()),
        standing(Some(an_entry(AuditAction::Withdrawn, Some("key:vla_live_a1b2"))), now()),
    ];
    for standing in &standings {
        pages.push(overview::overview(&visit, standing, true).render());
        let faults = vec![
            say(t.fault_tier, &[]),
            say(t.fault_training, &[]),
            say(t.fault_level, &[]),
            say(t.fault_reason, &[]),
            say(t.fault_form, &[]),
            choices::moved(t, standing),
        ];
        let chosen = Chosen::standing(standing);
        pages.push(choices::form(&visit, standing, chosen, faults).render());
    }
    let entries: Vec<AuditEntry> = AuditAction::ALL
        .into_iter()
        .zip([Some("link:x"), Some("system:expiry"), None, Some("sql:x")].into_iter().cycle())
        .map(|(action, by)| an_entry(action, by))
        .collect();
    for entry in &entries {
        pages.push(entry::view(&visit, entry, true, Some("a receipt".to_owned())).render());
        pages.push(entry::view(&visit, entry, false, None).render());
    }
    pages.push(
        history::view(&visit, &entries, Some("/my/consent/history?before=x".to_owned()), true).render(),
    );
    pages.push(history::view(&visit, &[], None, false).render());
    for trouble in [
        Trouble::NotFound,
        Trouble::NotSealed,
        Trouble::OtherLink,
        Trouble::TooLate,
        Trouble::TooMany,
        Trouble::Refused,
        Trouble::Unavailable,
        Trouble::Broken,
    ] {
        pages.push(Message::of(t, trouble).render());
    }
    pages.push(
        Message { frame: Frame::outside(t), title: t.left_title, text: say(t.left, &[]), home: false }
            .render(),
    );
    pages.into_iter().map(|page| page.expect("it renders")).collect()
}

/// What a reader sees or hears: the texts between tags, and the attributes that are read out.
fn shown(page: &str) -> Vec<String> {
    let mut shown = Vec::new();
    // What is not ours to translate: data, quotations, and the languages' own names.
    let mut inside: Vec<String> = Vec::new();
    let mut rest = page;
    while let Some((text, after)) = rest.split_once('<') {
        if inside.is_empty() {
            shown.push(text.to_owned());
        }
        let (tag, after) = after.split_once('>').expect("a tag ends");
        rest = after;
        let name = tag.trim_start_matches('/').split_whitespace().next().unwrap_or_default().to_owned();
        let foreign = ["bdi", "code", "pre", "q", "textarea"].contains(&name.as_str())
            || (name == "a" && tag.contains(" lang="));
        if let Some(closed) = tag.strip_prefix('/') {
            if inside.last().is_some_and(|open| open == closed.trim()) {
                inside.pop();
            }
        } else if foreign {
            inside.push(name);
        }
        for attribute in ["aria-label=\"", "title=\"", "placeholder=\"", "alt=\""] {
            if let Some((_, value)) = tag.split_once(attribute) {
                shown.push(value.split('"').next().unwrap_or_default().to_owned());
            }
        }
    }
    shown
}

fn outside_brackets(text: &str) -> String {
    let mut depth = 0_usize;
    let letters = text.chars().filter(|char| {
        match char {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && char.is_alphabetic()
    });
    letters.collect()
}

#[test]
fn no_page_has_a_word_that_is_not_among_the_texts() {
    let pages = pages();
    assert!(pages.len() > 30);
    for page in pages {
        assert!(page.contains('ë'), "nothing of it is translated: {page}");
        for text in shown(&page) {
            assert_eq!(outside_brackets(&text), "", "{text} in {page}");
        }
    }
}

#[test]
fn no_page_carries_a_style_or_a_script_of_its_own() {
    for page in pages() {
        for forbidden in
            ["<script", "<style", " style=", " onclick", "javascript:", "http://", "https://", "<svg"]
        {
            assert!(!page.contains(forbidden), "{forbidden} in {page}");
        }
    }
}
