//! Adopting a database to which the migrations were applied by hand.

use consentd::store::migrations::{self, State};
use consentd::store::schema;

use super::database::{Database, LAST, fill};

async fn differences(database: &Database, at: i64) -> Vec<String> {
    let found = schema::baseline(&database.options, at).await.unwrap();
    found.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn a_database_made_by_psql_is_adopted_and_goes_on_from_there() {
    for at in 1..=LAST {
        let database = Database::made_by_psql(at).await;
        fill(&database, at).await;
        assert_eq!(differences(&database, at).await, Vec::<String>::new(), "at {at}");
        let status = migrations::status(&database.options).await.unwrap();
        let applied = status.iter().filter(|status| status.state == State::Applied);
        assert_eq!(applied.count(), usize::try_from(at).unwrap());
        migrations::up(&database.options, None).await.unwrap();
        migrations::check(&database.options).await.unwrap();
    }
}

#[tokio::test]
async fn up_on_a_database_made_by_hand_points_to_baseline() {
    let database = Database::made_by_psql(3).await;
    let refusal = migrations::up(&database.options, None).await.unwrap_err();
    assert!(refusal.to_string().contains("consentd migrate baseline --at N"), "{refusal}");
}

#[tokio::test]
async fn every_difference_is_listed_and_nothing_is_recorded() {
    let database = Database::made_by_psql(4).await;
    database
        .run(
            "alter table vlaapi.feedback drop constraint feedback_rating_check;
             alter table vlaapi.customers
               alter column company_name type text, alter column email drop not null, alter column tier set default 'pro';
             alter table vlaapi.api_keys drop column key_name, add column owner text;
             drop index vlaapi.customers_tier_idx;
             drop trigger customer_consent_audit_guard on vlaapi.customer_consent_audit;
             alter table vlaapi.customer_data_consent disable trigger customer_data_consent_audit;
             create or replace function vlaapi.refuse_truncate() returns trigger language plpgsql
               as $$ begin return null; end $$;
             drop materialized view vlaapi.feedback_analytics;
             create table vlaapi.leftover (id integer)",
        )
        .await;
    let before = database.schema();
    let listed = differences(&database, 4).await;
    for expected in [
        "column api_keys.key_name is missing: character varying(255)",
        "column api_keys.owner is not made by these migrations",
        "column customers.company_name is text, where the migrations make character varying(255)",
        "column customers.email is character varying(255), where the migrations make character varying(255) not null",
        "column customers.tier is character varying(20) not null default 'pro'::character varying, where the \
         migrations make character varying(20) not null default 'free'::character varying",
        "constraint feedback_rating_check on feedback is missing: CHECK (((rating IS NULL) OR ((rating >= 1) AND \
         (rating <= 5))))",
        "index customers_tier_idx is missing: CREATE INDEX customers_tier_idx ON vlaapi.customers USING btree (tier)",
        "table leftover is not made by these migrations",
    ] {
        assert!(listed.iter().any(|line| line == expected), "{expected} is not in {listed:#?}");
    }
    for expected in [
        "trigger customer_consent_audit_guard on customer_consent_audit is missing",
        "trigger customer_data_consent_audit on customer_data_consent is CREATE TRIGGER",
        "function refuse_truncate() is CREATE OR REPLACE FUNCTION",
        "materialized view feedback_analytics is missing",
    ] {
        assert!(listed.iter().any(|line| line.starts_with(expected)), "{expected} is not in {listed:#?}");
    }
    assert_eq!(database.schema(), before);
}

#[tokio::test]
async fn another_version_than_the_one_that_stands_is_no_baseline() {
    let database = Database::made_by_psql(3).await;
    let listed = differences(&database, 2).await;
    assert!(
        listed.contains(&"table customer_data_consent is not made by these migrations".to_owned()),
        "{listed:#?}"
    );
    let listed = differences(&database, 4).await;
    assert!(
        listed
            .iter()
            .any(|line| line.starts_with("column customer_data_consent.version is missing: integer not null")),
        "{listed:#?}"
    );
    assert_eq!(differences(&database, 3).await, Vec::<String>::new());
}

#[tokio::test]
async fn partitions_by_month_and_validated_constraints_are_no_difference() {
    let database = Database::made_by_psql(LAST).await;
    database
        .run(
            "select vlaapi.make_inference_log_partitions('2031-01-01', 3);
             alter table vlaapi.feedback validate constraint feedback_required_fields_check",
        )
        .await;
    assert_eq!(differences(&database, LAST).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_database_with_a_record_needs_no_baseline() {
    let database = Database::migrated().await;
    let refusal = schema::baseline(&database.options, 3).await.unwrap_err();
    assert!(refusal.to_string().contains("already recorded"), "{refusal}");
}

#[tokio::test]
async fn an_empty_database_lacks_everything() {
    let database = Database::empty().await;
    let listed = differences(&database, 1).await;
    assert!(listed.contains(&"table customers is missing: a table".to_owned()), "{listed:#?}");
    assert_eq!(database.schema(), "");
}
