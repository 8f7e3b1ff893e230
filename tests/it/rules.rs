//! The rules, as properties: of the domain, of the database, and of the trail.

use chrono::{DateTime, Duration, Utc};
use consentd::domain::{
    AnonymizationLevel, AuditAction, Consent, ConsentRecord, ConsentStatus, ConsentTier, Permissions,
    Proposal, decide, expire,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use serde_json::json;
use uuid::Uuid;

use crate::service::{Service, consent};

pub fn start() -> DateTime<Utc> {
    "2026-03-01T12:00:00Z".parse().expect("a time")
}

prop_compose! {
    pub fn proposals()(
        tier in 0..4_usize, images: bool, embeddings: bool, training: bool, level in 0..4_usize,
        policy in proptest::option::of("[a-z]{1,8}"), end in proptest::option::of(-10..20_i64),
    ) -> Proposal {
        Proposal {
            consent_tier: ConsentTier::ALL[tier],
            can_store_images: images,
            can_store_embeddings: embeddings,
            can_use_for_training: training,
            anonymization_level: AnonymizationLevel::ALL[level],
            policy_version: policy,
            expires_at: end.map(|days| start() + Duration::days(days)),
        }
    }
}

/// The table of the contract, written a second time.
fn lawful(p: &Proposal) -> bool {
    let (images, embeddings, training) = (p.can_store_images, p.can_store_embeddings, p.can_use_for_training);
    let level = p.anonymization_level;
    match p.consent_tier {
        ConsentTier::None => !images && !embeddings && !training && level == AnonymizationLevel::Full,
        ConsentTier::Basic => !images && !embeddings && !training && level != AnonymizationLevel::None,
        ConsentTier::Analytics => !images && !training && level != AnonymizationLevel::None,
        ConsentTier::Research => !training || images || embeddings,
    }
}

proptest! {
    #[test]
    fn a_consent_is_made_if_and_only_if_the_table_allows_it(proposal in proposals()) {
        let in_time = proposal.expires_at.is_none_or(|end| end > start());
        let made = Consent::new(proposal.clone(), start());
        prop_assert_eq!(made.is_ok(), lawful(&proposal) && in_time);
    }

    #[test]
    fn versions_go_up_by_one_and_times_never_back(
        decisions in proptest::collection::vec((proposals(), any::<bool>(), -5..5_i64), 1..30),
    ) {
        let mut record = ConsentRecord::never_given(Uuid::nil());
        let mut now = start();
        for (proposal, withdraw, hours) in decisions {
            now += Duration::hours(hours);
            let Ok(wanted) = Consent::new(proposal, now) else { continue };
            let wanted = if withdraw { Consent::none() } else { wanted };
            let Some(change) = decide(&record, &wanted, withdraw, now) else {
                prop_assert!(record.consent_tier == wanted.get().consent_tier);
                continue;
            };
            prop_assert_eq!(change.version, record.version + 1);
            prop_assert!(record.consent_updated_at.is_none_or(|last| change.timestamp > last));
            prop_assert_eq!(change.previous.clone(), (record.version > 0).then(|| record.state()));
            prop_assert_eq!(change.action == AuditAction::Withdrawn, wanted.get().consent_tier == ConsentTier::None);
            record = ConsentRecord::from_state(
                Uuid::nil(), change.current, Some(change.timestamp), change.version, Some(1),
            );
            // The same again is nothing new.
            prop_assert_eq!(decide(&record, &wanted, withdraw, now), None);
            // Nothing is ever permitted beyond the end, nor after a withdrawal.
            if let Some(end) = record.expires_at {
                prop_assert_eq!(Permissions::at(Some(&record), end).0, Permissions::NONE);
                prop_assert_eq!(expire(&record, end).is_some(), record.status(end) == ConsentStatus::Expired);
            }
            if withdraw {
                prop_assert_eq!(Permissions::at(Some(&record), now).0, Permissions::NONE);
            }
        }
    }
}

#[tokio::test]
async fn the_database_allows_what_the_domain_allows() {
    let service = Service::start().await;
    let pool = service.sql().await;
    let customer = service.customer().await;
    for tier in ConsentTier::ALL {
        for level in AnonymizationLevel::ALL {
            for bits in 0..8 {
                let proposal = Proposal {
                    consent_tier: tier,
                    can_store_images: bits & 1 > 0,
                    can_store_embeddings: bits & 2 > 0,
                    can_use_for_training: bits & 4 > 0,
                    anonymization_level: level,
                    policy_version: None,
                    expires_at: None,
                };
                let written = sqlx::query(
                    "insert into vlaapi.customer_data_consent (customer_id, consent_tier, can_store_images,
                       can_store_embeddings, can_use_for_training, anonymization_level)
                     values ($1, $2, $3, $4, $5, $6)
                     on conflict (customer_id) do update set consent_tier = excluded.consent_tier,
                       can_store_images = excluded.can_store_images, can_store_embeddings = excluded.can_store_embeddings,
                       can_use_for_training = excluded.can_use_for_training,
                       anonymization_level = excluded.anonymization_level",
                )
                .bind(customer)
                .bind(tier.as_str())
                .bind(proposal.can_store_images)
                .bind(proposal.can_store_embeddings)
                .bind(proposal.can_use_for_training)
                .bind(level.as_str())
                .execute(&pool)
                .await;
                assert_eq!(written.is_ok(), Consent::new(proposal.clone(), start()).is_ok(), "{proposal:?}");
            }
        }
    }
}

/// As of each entry's time stands what that entry made; between two, what the former made.
#[tokio::test]
async fn as_of_any_instant_stands_what_the_last_entry_before_it_made() {
    let service = Service::start().await;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let steps = proptest::collection::vec((proposals(), 0..72_i64), 12);
    for _ in 0..4 {
        let customer = service.customer().await;
        let steps = steps.new_tree(&mut runner).expect("steps").current();
        for (proposal, hours) in steps {
            service.advance(Duration::hours(hours));
            let body = json!({
                "consent_tier": proposal.consent_tier, "can_store_images": proposal.can_store_images,
                "can_store_embeddings": proposal.can_store_embeddings,
                "can_use_for_training": proposal.can_use_for_training,
                "anonymization_level": proposal.anonymization_level, "policy_version": proposal.policy_version,
                "expires_at": proposal.expires_at,
            });
            service.put(customer, &body).send().await;
            service.sweep().await;
        }
        service.advance(Duration::hours(1));
        let trail: Vec<_> = service.trail(customer).await.into_iter().rev().collect();
        for (index, entry) in trail.iter().enumerate() {
            let time: DateTime<Utc> = entry["timestamp"].as_str().expect("a time").parse().expect("a time");
            let next = trail.get(index + 1).map_or(service.now(), |next| {
                next["timestamp"].as_str().expect("a time").parse().expect("a time")
            });
            for instant in [time, time + (next - time) / 2, next - Duration::microseconds(1)] {
                if instant < time {
                    continue;
                }
                let instant = instant.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
                let path = format!("{}?as_of={instant}", consent(customer));
                let record = service.get(&path).send().await.expect(200).json();
                assert_eq!(record["version"], entry["version"]);
                assert_eq!(record["audit_id"], entry["audit_id"]);
                for (field, value) in entry["current"].as_object().expect("a state") {
                    assert_eq!(&record[field], value, "{field}");
                }
            }
        }
    }
}
