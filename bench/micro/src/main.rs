//! What single functions of the service cost: `bench-micro --bench`. A function is added with `#[divan::bench]`.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use consentd::cache::table::{Table, Update};
use consentd::domain::{
    AnonymizationLevel, Consent, ConsentRecord, ConsentTier, HeldPermissions, LogEntry, LogEvent,
    PersonalField, Proposal, Salted, Source, decide,
};
use divan::{Bencher, black_box};
use uuid::Uuid;

fn main() {
    divan::main();
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_780_000_000, 0).unwrap_or_default()
}

fn consent(policy: &str) -> Consent {
    let proposal = Proposal {
        consent_tier: ConsentTier::Analytics,
        can_store_images: false,
        can_store_embeddings: true,
        can_use_for_training: false,
        anonymization_level: AnonymizationLevel::Full,
        policy_version: Some(policy.to_owned()),
        expires_at: None,
    };
    Consent::new(proposal, now()).unwrap_or_else(|_| Consent::none())
}

fn record() -> ConsentRecord {
    let customer_id = Uuid::from_u128(0x123e_4567_e89b_42d3_a456_4266_1417_4000);
    let first = ConsentRecord::never_given(customer_id);
    let change =
        decide(&first, &consent("2026-01"), false, now()).expect("a first decision changes something");
    ConsentRecord::from_state(customer_id, change.current, Some(change.timestamp), change.version, Some(4711))
}

/// An entry with all personal fields, and the consent before and after.
fn entry() -> LogEntry {
    let record = record();
    let state = serde_json::to_value(record.state()).expect("a state is JSON");
    let salted = |value: &str| Salted { value: value.to_owned(), salt: vec![7; 16] };
    LogEntry {
        audit_id: 4712,
        event: LogEvent::ConsentChanged {
            customer_id: record.customer_id,
            action: "updated".to_owned(),
            version: 2,
            previous_tier: Some("analytics".to_owned()),
            new_tier: "analytics".to_owned(),
            previous: Some(state.clone()),
            current: Some(state),
        },
        personal: BTreeMap::from([
            (PersonalField::ChangedBy, salted("key:vla_live_abcd")),
            (PersonalField::OnBehalfOf, salted("user-12345")),
            (PersonalField::ChangeReason, salted("asked for in the settings")),
            (PersonalField::IpAddress, salted("127.0.0.1")),
            (PersonalField::UserAgent, salted("bench-driver/0")),
        ]),
        request_id: Some("019ab1de-0000-7000-8000-000000000000".to_owned()),
        timestamp: now(),
    }
}

/// A decision that changes something.
#[divan::bench]
fn decide_change(bencher: Bencher) {
    let (record, wanted) = (record(), consent("2026-02"));
    bencher.bench(|| decide(black_box(&record), black_box(&wanted), false, now()));
}

/// A decision that stands already.
#[divan::bench]
fn decide_nothing(bencher: Bencher) {
    let (record, wanted) = (record(), consent("2026-01"));
    bencher.bench(|| decide(black_box(&record), black_box(&wanted), false, now()));
}

#[divan::bench]
fn judge(bencher: Bencher) {
    let record = record();
    bencher.bench(|| HeldPermissions::judge(record.customer_id, Some(black_box(&record)), now()));
}

#[divan::bench]
fn leaf(bencher: Bencher) {
    let entry = entry();
    let commitments = entry.commitments();
    bencher.bench(|| black_box(&entry).leaf(Source::Service, &commitments));
}

#[divan::bench]
fn commitments(bencher: Bencher) {
    let entry = entry();
    bencher.bench(|| black_box(&entry).commitments());
}

/// A customer among a million, as it is read from memory: most reads miss the processor's caches.
#[divan::bench]
fn read_from_memory(bencher: Bencher) {
    let table = Table::new(1_000_000);
    for customer in 0..1_000_000_u128 {
        table.update(customer, |_| false, |_| Update::Put([1; 6]));
    }
    let mut customer = 0_u128;
    bencher.bench_local(|| {
        customer = (customer + 611_953) % 1_000_000;
        black_box(table.read(customer))
    });
}
