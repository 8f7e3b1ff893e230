//! `consentd demo`: what it loads is believable, lawful, and the same every time.

use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::Parser;
use consentd::cli::demo::{DemoArgs, run};
use consentd::domain::{
    AuditAction, AuditEntry, Change, Consent, ConsentRecord, ConsentState, ConsentTier, Proposal, decide,
    expire,
};
use consentd::error::StartError;
use consentd::store::Store;
use consentd::store::audit::AuditFilter;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};
use uuid::Uuid;

use crate::cluster::{TestDatabase, database, empty_database};

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    demo: DemoArgs,
}

fn noon() -> DateTime<Utc> {
    "2026-06-30T12:00:00Z".parse().expect("a time")
}

async fn demo(database: &TestDatabase, arguments: &str) -> Result<ExitCode, StartError> {
    let arguments = format!("demo --database-url {} {arguments}", database.owner.to_url_lossy());
    run(Command::parse_from(arguments.split_whitespace()).demo, noon()).await
}

/// Everything that was loaded, as text; ids of rows and the like which the database gives are left out.
async fn contents(connection: &mut PgConnection) -> Vec<String> {
    let query = "
        select c::text from (select c as c from vlaapi.customers c order by customer_id) _
        union all
        select (to_jsonb(a) - array['changed_by_salt', 'on_behalf_of_salt', 'change_reason_salt', 'ip_address_salt',
                                    'user_agent_salt'])::text
        from (select a as a from vlaapi.customer_consent_audit a order by audit_id) _
        union all
        select (to_jsonb(s) - 'consent_id')::text
        from (select s as s from vlaapi.customer_data_consent s order by customer_id) _(s)";
    sqlx::query_scalar(query).fetch_all(connection).await.expect("the query runs")
}

async fn entries(database: &TestDatabase) -> Vec<AuditEntry> {
    let store = Store::new(&database.service, 1, 1);
    let entries = store.audit_entries(&AuditFilter::default(), None, i64::MAX).await;
    let mut entries = entries.expect("the trail can be read");
    entries.sort_by_key(|entry| (entry.customer_id, entry.version));
    entries
}

async fn consents(connection: &mut PgConnection) -> Vec<ConsentRecord> {
    sqlx::query_as::<_, ConsentRecord>("select customer_id, consent_tier, can_store_images, can_store_embeddings, can_use_for_training,
           anonymization_level, policy_version, consent_granted_at,
           case when version > 0 then consent_updated_at end as consent_updated_at, expires_at, version, audit_id
         from vlaapi.customer_data_consent order by customer_id")
    .fetch_all(connection)
    .await
    .expect("the query runs")
}

async fn indexes(connection: &mut PgConnection) -> Vec<String> {
    sqlx::query_scalar!(
        r#"select concat_ws(' ', indexdef, c.contype, c.conname) as "definition!"
           from pg_indexes
           left join pg_constraint c on c.conindid = format('%I.%I', schemaname, indexname)::regclass
             and c.contype in ('p', 'u')
           where schemaname = 'vlaapi' order by indexname"#
    )
    .fetch_all(connection)
    .await
    .expect("the query runs")
}

/// What the rules make of the decision which an entry tells of.
fn lawful_change(before: &ConsentRecord, entry: &AuditEntry) -> Option<Change> {
    if entry.action == AuditAction::Expired {
        return expire(before, entry.timestamp);
    }
    let state = entry.current.clone().expect("the entry tells what came of it").0;
    let proposal = Proposal {
        consent_tier: state.consent_tier,
        can_store_images: state.can_store_images,
        can_store_embeddings: state.can_store_embeddings,
        can_use_for_training: state.can_use_for_training,
        anonymization_level: state.anonymization_level,
        policy_version: state.policy_version,
        expires_at: state.expires_at,
    };
    let consent = Consent::new(proposal, entry.timestamp).expect("the consent keeps the rules");
    decide(before, &consent, false, entry.timestamp)
}

#[tokio::test]
async fn the_rules_make_every_entry_from_the_one_before_and_the_last_one_stands() {
    let database = database().await;
    demo(&database, "--customers 400").await.unwrap();
    let mut connection = database.owner.connect().await.unwrap();
    let entries = entries(&database).await;
    let consents = consents(&mut connection).await;

    let mut told = 0;
    for stands in &consents {
        let mut record = ConsentRecord::never_given(stands.customer_id);
        for entry in entries.iter().filter(|entry| entry.customer_id == stands.customer_id) {
            let change = lawful_change(&record, entry).expect("every entry changes something");
            let ConsentState { consent_tier, .. } = change.current;
            assert_eq!(
                (change.action, change.version, change.timestamp, consent_tier),
                (entry.action, entry.version, entry.timestamp, entry.new_tier)
            );
            assert_eq!(change.previous.as_ref().map(|state| state.consent_tier), entry.previous_tier);
            assert_eq!(change.previous, entry.previous.as_ref().map(|state| state.0.clone()));
            assert_eq!(Some(&change.current), entry.current.as_ref().map(|state| &state.0));
            let state = change.current;
            let updated_at = Some(entry.timestamp);
            record = ConsentRecord::from_state(
                stands.customer_id,
                state,
                updated_at,
                entry.version,
                Some(entry.audit_id),
            );
            told += 1;
        }
        assert_eq!(&record, stands);
    }
    assert_eq!(consents.len(), 400);
    assert_eq!(told, entries.len());
}

#[tokio::test]
async fn audit_ids_follow_time_without_a_gap_and_new_ones_come_after() {
    let database = database().await;
    demo(&database, "--customers 200").await.unwrap();
    let mut connection = database.owner.connect().await.unwrap();
    let mut entries = entries(&database).await;
    entries.sort_by_key(|entry| entry.audit_id);
    for pair in entries.windows(2) {
        assert_eq!(pair[0].audit_id + 1, pair[1].audit_id);
        assert!(pair[0].timestamp <= pair[1].timestamp);
    }
    let until: DateTime<Utc> = "2026-06-30T00:00:00Z".parse().unwrap();
    assert!(entries.last().unwrap().timestamp < until);
    let next = sqlx::query_scalar!("select nextval('vlaapi.customer_consent_audit_audit_id_seq')");
    let next = next.fetch_one(&mut connection).await.unwrap();
    assert_eq!(next, Some(entries.last().unwrap().audit_id + 1));
}

#[tokio::test]
async fn the_history_is_believable() {
    let database = database().await;
    demo(&database, "--customers 1000").await.unwrap();
    let mut connection = database.owner.connect().await.unwrap();
    let entries = entries(&database).await;
    let count = |wanted: &dyn Fn(&AuditEntry) -> bool| entries.iter().filter(|entry| wanted(entry)).count();

    assert!((8_000..12_500).contains(&entries.len()), "{} entries", entries.len());
    let longest = entries.iter().map(|entry| entry.version).max().unwrap();
    assert!(longest > 80, "the longest history has {longest} entries");
    for action in [
        AuditAction::Granted,
        AuditAction::Updated,
        AuditAction::Renewed,
        AuditAction::Withdrawn,
        AuditAction::Expired,
    ] {
        let share = count(&|entry| entry.action == action) * 100 / entries.len();
        assert!((2..75).contains(&share), "{share} % {}", action.as_str());
    }
    for tier in ConsentTier::ALL {
        assert!(count(&|entry| entry.new_tier == tier) > 100, "{}", tier.as_str());
    }
    let staff = count(&|entry| entry.on_behalf_of.as_deref() == Some("compliance@example.com"));
    assert!(staff > 50, "{staff} on behalf of compliance@example.com");
    let never = consents(&mut connection).await.iter().filter(|consent| consent.version == 0).count();
    assert!((10..100).contains(&never), "{never} never gave a consent");

    let strangers = sqlx::query_scalar!(
        "select count(*) from vlaapi.customer_consent_audit
         where not (ip_address <<= any (array['192.0.2.0/24', '198.51.100.0/24', '203.0.113.0/24', '2001:db8::/32']::inet[]))
           or (action = 'expired') is distinct from (changed_by = 'system:expiry')"
    );
    assert_eq!(strangers.fetch_one(&mut connection).await.unwrap(), Some(0));
    let real = sqlx::query_scalar!(
        r"select count(*) from vlaapi.customers where email !~ '^[a-z0-9-]+@[a-z]+\.example\.(com|org)$'"
    );
    assert_eq!(real.fetch_one(&mut connection).await.unwrap(), Some(0));
    let busy = sqlx::query_scalar!(
        "select count(*) filter (where extract(isodow from timestamp) in (6, 7)) < count(*) / 14
           and count(*) filter (where extract(hour from timestamp at time zone 'UTC') between 7 and 18) > count(*) * 3 / 4
           and count(*) filter (where timestamp > '2025-06-30') > count(*) / 2
         from vlaapi.customer_consent_audit where action <> 'expired'"
    );
    assert_eq!(busy.fetch_one(&mut connection).await.unwrap(), Some(true));
}

#[tokio::test]
async fn the_same_seed_gives_the_same_data_and_another_seed_does_not() {
    let mut loads = Vec::new();
    let seed_5 = "--customers 120 --seed 5 --until 2026-03-01";
    let seed_6 = "--customers 120 --seed 6 --until 2026-03-01";
    for arguments in [seed_5, seed_5, seed_6] {
        let database = database().await;
        demo(&database, arguments).await.unwrap();
        loads.push(contents(&mut database.owner.connect().await.unwrap()).await);
    }
    assert_eq!(loads[0], loads[1]);
    assert_ne!(loads[0], loads[2]);
}

#[tokio::test]
async fn a_database_with_customers_is_refused_unless_more_are_asked_for() {
    let database = database().await;
    demo(&database, "--customers 50").await.unwrap();
    let mut connection = database.owner.connect().await.unwrap();
    let first = contents(&mut connection).await;

    let refusal = demo(&database, "--customers 50 --seed 2").await.unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "the database has customers already: load into an empty one, or add to it with --append"
    );
    // A load which fails in the middle leaves nothing.
    let refusal = demo(&database, "--customers 60 --append").await.unwrap_err();
    assert_eq!(refusal.to_string(), "customers of this seed are in the database: choose another --seed");
    assert_eq!(contents(&mut connection).await, first);

    demo(&database, "--customers 50 --seed 2 --append").await.unwrap();
    assert_eq!(consents(&mut connection).await.len(), 100);
}

#[tokio::test]
async fn the_trail_has_the_same_indexes_after_a_load_as_before() {
    let database = database().await;
    let mut connection = database.owner.connect().await.unwrap();
    let before = indexes(&mut connection).await;
    demo(&database, "--customers 20").await.unwrap();
    assert_eq!(indexes(&mut connection).await, before);
}

#[tokio::test]
async fn a_history_cannot_end_in_the_future() {
    let database = empty_database().await;
    let refusal = demo(&database, "--until 2026-07-01").await.unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "--until 2026-07-01 lies in the future: a history ends today (2026-06-30) or before"
    );
}

#[tokio::test]
async fn a_database_without_tables_is_told_to_migrate() {
    let database = empty_database().await;
    let refusal = demo(&database, "").await.unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "the database has no tables of consentd: run `consentd migrate up` first"
    );
}

async fn a_trail_of_one(connection: &mut PgConnection) -> Uuid {
    let query = "
        with customer as (
          insert into vlaapi.customers (email) values ('team@example.com') returning customer_id
        )
        insert into vlaapi.customer_consent_audit
          (customer_id, audit_id, action, version, new_tier, current, changed_by, timestamp)
        select customer_id, 7, 'granted', 1, 'basic', jsonb_build_object(
          'consent_tier', 'basic', 'can_store_images', false, 'can_store_embeddings', false,
          'can_use_for_training', false, 'anonymization_level', 'full', 'policy_version', null, 'expires_at', null,
          'consent_granted_at', '2026-01-01T00:00:00Z'), 'key:vla_live_a1b2', '2026-01-01T00:00:00Z'
        from customer
        returning customer_id";
    sqlx::query_scalar(query).fetch_one(connection).await.expect("the query runs")
}

/// Inserts the row after its trail, with what is told of it changed.
async fn insert_after(connection: &mut PgConnection, changed: &str) -> Result<(), String> {
    let customer_id = a_trail_of_one(connection).await;
    let query = AssertSqlSafe(format!(
        "insert into vlaapi.customer_data_consent
           (customer_id, consent_tier, can_store_embeddings, version, audit_id, consent_granted_at, consent_updated_at)
         select $1, tier, embeddings, version, audit_id, granted_at, updated_at
         from (values ({changed})) as _(tier, embeddings, version, audit_id, granted_at, updated_at)"
    ));
    let inserted = sqlx::query(query).bind(customer_id).execute(connection).await;
    inserted.map(|_| ()).map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_row_that_comes_after_its_trail_must_be_what_the_last_entry_tells() {
    let told = "'basic', false, 1, 7, '2026-01-01Z'::timestamptz, '2026-01-01Z'::timestamptz";
    let another_tier = told.replace("'basic'", "'analytics'");
    let another_permission = another_tier.replace("false", "true");
    let another_time = told.replace("'2026-01-01Z'::timestamptz", "'2026-01-02Z'::timestamptz");
    let nothing_given = told.replace("'basic'", "'none'");

    let database = database().await;
    let mut connection = database.owner.connect().await.unwrap();
    for lie in [another_tier, another_permission, another_time, nothing_given] {
        let mut tx = connection.begin().await.unwrap();
        let refusal = insert_after(&mut tx, &lie).await.expect_err(&lie);
        assert!(refusal.contains("the audit entry of version 1 does not tell this change"), "{refusal}");
    }
    // When it was granted, the entry says, whatever the row does.
    let granted_later = told.replacen("'2026-01-01Z'", "'2026-01-09Z'", 1);
    insert_after(&mut connection, &granted_later).await.unwrap();
    let record = &consents(&mut connection).await[0];
    assert_eq!((record.version, record.audit_id), (1, Some(7)));
    assert_eq!(record.consent_granted_at, record.consent_updated_at);
    assert_eq!(entries(&database).await.len(), 1, "no entry is added");
}
