//! What the database keeps to, whoever writes.

use super::database::Database;

const ENTRY: &str = "version, action, previous_tier, new_tier, changed_by";

fn grant(customer: &str, tier: &str, embeddings: bool) -> String {
    format!(
        "INSERT INTO vlaapi.customer_data_consent (customer_id, consent_tier, can_store_embeddings, anonymization_level)
VALUES ('{customer}', '{tier}', {embeddings}, 'full')
ON CONFLICT (customer_id) DO UPDATE SET consent_tier = EXCLUDED.consent_tier,
  can_store_embeddings = EXCLUDED.can_store_embeddings, anonymization_level = EXCLUDED.anonymization_level,
  consent_updated_at = NOW();"
    )
}

async fn customer_with_consent(database: &Database) -> String {
    let customer = database.customer().await;
    database.run(&grant(&customer, "analytics", true)).await;
    customer
}

#[tokio::test]
async fn the_statements_of_the_runbooks_work_and_are_audited() {
    let database = Database::migrated().await;
    let customer = customer_with_consent(&database).await;
    database.run(&grant(&customer, "analytics", false)).await;
    database.run(&grant(&customer, "analytics", false)).await;
    database.run(&grant(&customer, "none", false)).await;
    let user = database.options.get_username();
    assert_eq!(
        database.trail(&customer, ENTRY).await,
        [
            format!("1 granted analytics sql:{user}"),
            format!("2 updated analytics analytics sql:{user}"),
            format!("3 withdrawn analytics none sql:{user}")
        ]
    );
    assert_eq!(
        database
            .trail(&customer, "current ->> 'can_store_embeddings', previous ->> 'can_store_embeddings'")
            .await,
        ["true", "false true", "false false"]
    );
    let rows = "select consent_tier::text from vlaapi.customer_data_consent where customer_id = '{customer}'";
    assert_eq!(database.text(&rows.replace("{customer}", &customer)).await, "none");

    let mut connection = database.connect().await;
    for statement in [
        format!("SELECT * FROM vlaapi.customer_data_consent WHERE customer_id = '{customer}';"),
        format!(
            "SELECT * FROM vlaapi.customer_consent_audit WHERE customer_id = '{customer}' ORDER BY timestamp DESC;"
        ),
    ] {
        let rows = sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).fetch_all(&mut connection).await.unwrap();
        assert!(!rows.is_empty());
    }
}

#[tokio::test]
async fn changes_in_one_transaction_have_their_entries_in_order() {
    let database = Database::migrated().await;
    let customer = database.customer().await;
    let statements = [grant(&customer, "basic", false), grant(&customer, "analytics", true)].concat();
    database.run(&format!("begin; {statements} commit")).await;
    assert_eq!(database.trail(&customer, "version, new_tier").await, ["1 basic", "2 analytics"]);
    let in_order = database
        .text(&format!(
            "select bool_and(later.timestamp > earlier.timestamp and later.audit_id > earlier.audit_id)::text
             from vlaapi.customer_consent_audit earlier
             join vlaapi.customer_consent_audit later using (customer_id)
             where customer_id = '{customer}' and later.version = earlier.version + 1"
        ))
        .await;
    assert_eq!(in_order, "true");
}

#[tokio::test]
async fn first_grants_at_once_give_one_entry_each_in_order() {
    let database = Database::migrated().await;
    let customer = database.customer().await;
    let first = grant(&customer, "basic", false);
    let second = grant(&customer, "analytics", true);
    let (first, second) = tokio::join!(database.attempt(&first), database.attempt(&second));
    first.unwrap();
    second.unwrap();
    assert_eq!(database.trail(&customer, "version").await, ["1", "2"]);
}

#[tokio::test]
async fn a_consent_that_breaks_the_rules_of_its_tier_is_refused() {
    let database = Database::migrated().await;
    let customer = database.customer().await;
    let refusal = database.attempt(&grant(&customer, "basic", true)).await.unwrap_err();
    assert!(refusal.contains("customer_data_consent_tier_rules_check"), "{refusal}");
    assert!(database.trail(&customer, "version").await.is_empty());
}

#[tokio::test]
async fn nobody_changes_or_removes_an_entry() {
    let database = Database::migrated().await;
    let customer = customer_with_consent(&database).await;
    let owner = format!("owner_of_{}", database.name());
    database
        .run(&format!(
            "create role {owner} in role vlaapi_app;
             grant usage on schema vlaapi to {owner};
             alter table vlaapi.customer_consent_audit owner to {owner}"
        ))
        .await;
    let superuser = database.options.get_username().to_owned();
    let before = database.trail(&customer, "to_jsonb(customer_consent_audit)").await;
    for role in [superuser.as_str(), owner.as_str(), "vlaapi_app", "vlaapi_eraser"] {
        for statement in [
            "update vlaapi.customer_consent_audit set new_tier = 'research'",
            "update vlaapi.customer_consent_audit set changed_by = 'somebody else'",
            "update vlaapi.customer_consent_audit set timestamp = '2020-01-01'",
            "delete from vlaapi.customer_consent_audit",
            "truncate vlaapi.customer_consent_audit",
            "truncate vlaapi.customer_data_consent",
            "truncate vlaapi.customers cascade",
        ] {
            let refusal = database.try_as(role, statement).await.unwrap_err();
            assert!(
                ["permission denied", "cannot be", "only"].iter().any(|word| refusal.contains(word)),
                "{role}: {statement}: {refusal}"
            );
        }
    }
    let after = database.trail(&customer, "to_jsonb(customer_consent_audit)").await;
    assert_eq!(after, before);
    database
        .run(&format!(
            "alter table vlaapi.customer_consent_audit owner to {superuser};
             drop owned by {owner}; drop role {owner}"
        ))
        .await;
}

#[tokio::test]
async fn the_eraser_takes_personal_fields_away_and_nothing_else() {
    let database = Database::migrated().await;
    let customer = database.customer().await;
    database.run(&grant(&customer, "analytics", true)).await;
    database
        .try_as(
            "vlaapi_eraser",
            "update vlaapi.customer_consent_audit
             set changed_by = null, on_behalf_of = null, change_reason = null, ip_address = null, user_agent = null,
               changed_by_salt = null, on_behalf_of_salt = null, change_reason_salt = null, ip_address_salt = null,
               user_agent_salt = null",
        )
        .await
        .unwrap();
    assert_eq!(
        database
            .trail(
                &customer,
                "version, action, new_tier, changed_by, ip_address, user_agent, current ->> 'consent_tier'"
            )
            .await,
        ["1 granted analytics analytics"]
    );
    let other = database.customer().await;
    database.run(&grant(&other, "analytics", true)).await;
    for change in [
        "changed_by = 'back again'",
        "changed_by = null",
        "changed_by_salt = null",
        "mac = '\\x00'",
        "version = 7",
    ] {
        let refusal = database
            .try_as("vlaapi_eraser", &format!("update vlaapi.customer_consent_audit set {change}"))
            .await
            .unwrap_err();
        assert!(
            refusal.contains("can be erased") || refusal.contains("permission denied"),
            "{change}: {refusal}"
        );
    }
}

#[tokio::test]
async fn deleting_a_customer_keeps_the_trail() {
    let database = Database::migrated().await;
    let customer = customer_with_consent(&database).await;
    database.run(&format!("delete from vlaapi.customers where customer_id = '{customer}'")).await;
    let user = database.options.get_username();
    assert_eq!(
        database.trail(&customer, ENTRY).await,
        [format!("1 granted analytics sql:{user}"), format!("2 erased analytics none sql:{user}")]
    );
}

#[tokio::test]
async fn a_customer_who_comes_back_goes_on_in_the_trail() {
    let database = Database::migrated().await;
    let customer = customer_with_consent(&database).await;
    database
        .run(&format!(
            "delete from vlaapi.customers where customer_id = '{customer}';
             insert into vlaapi.customers (customer_id, email) values ('{customer}', 'back@example.com')"
        ))
        .await;
    database.run(&grant(&customer, "basic", false)).await;
    assert_eq!(database.trail(&customer, "version, action").await, ["1 granted", "2 erased", "3 granted"]);
}

#[tokio::test]
async fn replicas_that_ask_for_the_same_partitions_at_once_get_them() {
    let database = Database::migrated().await;
    let ask = "select vlaapi.make_inference_log_partitions('2031-01-01', 12)";
    let (first, second, third) =
        tokio::join!(database.attempt(ask), database.attempt(ask), database.attempt(ask));
    first.unwrap();
    second.unwrap();
    third.unwrap();
    let partitions =
        "select count(*)::text from pg_inherits where inhparent = 'vlaapi.inference_logs'::regclass";
    assert_eq!(database.text(partitions).await, "13");
}

/// A consent at version 1, and entries of versions 2 to 4 of which the last tells tier `basic`, granted at noon.
async fn customer_with_entries_ahead(database: &Database) -> String {
    let customer = customer_with_consent(database).await;
    database
        .run(&format!(
            "insert into vlaapi.customer_consent_audit
               (customer_id, audit_id, action, version, previous_tier, new_tier, current, timestamp)
             select '{customer}', nextval('vlaapi.customer_consent_audit_audit_id_seq'), action, version, 'none', tier,
               jsonb_build_object('consent_tier', tier, 'can_store_images', false, 'can_store_embeddings', false,
                 'can_use_for_training', false, 'anonymization_level', 'full', 'policy_version', null,
                 'expires_at', null, 'consent_granted_at', '2100-01-01T12:00:00Z'),
               clock_timestamp() + make_interval(secs => version)
             from (values (2, 'updated', 'basic'), (3, 'withdrawn', 'none'), (4, 'granted', 'basic')) as entry (version, action, tier)"
        ))
        .await;
    customer
}

fn jump(customer: &str, version: i32, other: &str) -> String {
    format!(
        "update vlaapi.customer_data_consent c
         set version = {version}, audit_id = entry.audit_id, consent_updated_at = entry.timestamp, consent_tier = 'basic',
           can_store_embeddings = false, consent_granted_at = '2100-01-01T12:00:00Z' {other}
         from vlaapi.customer_consent_audit entry
         where c.customer_id = '{customer}' and entry.customer_id = c.customer_id and entry.version = 4"
    )
}

#[tokio::test]
async fn several_versions_at_once_are_taken_with_an_entry_for_each() {
    let database = Database::migrated().await;
    let customer = customer_with_entries_ahead(&database).await;
    for (other, refused) in [
        (", expiry_recorded = true", "the audit entry of version 4 does not tell this change"),
        (", policy_version = 'another'", "the audit entry of version 4 does not tell this change"),
    ] {
        let refusal = database.attempt(&jump(&customer, 4, other)).await.unwrap_err();
        assert!(refusal.contains(refused), "{refusal}");
    }
    let granted = jump(&customer, 4, "").replace("'2100-01-01T12:00:00Z'", "'2100-01-01T13:00:00Z'");
    let refusal = database.attempt(&granted).await.unwrap_err();
    assert!(refusal.contains("the audit entry of version 4 does not tell this change"), "{refusal}");

    database.run(&jump(&customer, 4, "")).await;
    let row = "select concat_ws(' ', version, consent_tier, consent_granted_at = '2100-01-01T12:00:00Z')
               from vlaapi.customer_data_consent where customer_id = '{customer}'";
    assert_eq!(database.text(&row.replace("{customer}", &customer)).await, "4 basic t");
    assert_eq!(database.trail(&customer, "version").await, ["1", "2", "3", "4"]);
    // And from there one by one, as before.
    database.run(&grant(&customer, "research", false)).await;
    assert_eq!(database.trail(&customer, "version").await, ["1", "2", "3", "4", "5"]);
}

#[tokio::test]
async fn several_versions_at_once_without_their_entries_are_refused() {
    let database = Database::migrated().await;
    let customer = customer_with_consent(&database).await;
    let before = database.contents().await;
    for version in [3, 4, 100] {
        let statement = format!(
            "update vlaapi.customer_data_consent set version = {version} where customer_id = '{customer}'"
        );
        let refusal = database.attempt(&statement).await.unwrap_err();
        let expected = format!(
            "the version cannot go from 1 to {version} at once: the trail lacks entries of the versions after 1"
        );
        assert!(refusal.contains(&expected), "{refusal}");
    }
    assert_eq!(database.contents().await, before);
    // The last of them alone is not enough.
    let customer = customer_with_entries_ahead(&database).await;
    let refusal = database.attempt(&jump(&customer, 5, "")).await.unwrap_err();
    assert!(refusal.contains("from 1 to 5"), "{refusal}");
}

#[tokio::test]
async fn a_transaction_has_its_number_before_it_draws_an_id() {
    let database = Database::migrated().await;
    let customer = database.customer().await;
    // What fails where an id would be drawn shows what had been done by then.
    database.run("select setval('vlaapi.customer_consent_audit_audit_id_seq', 9223372036854775807)").await;
    let attempt = format!(
        "do $$
         begin
           begin
             {}
             raise exception 'an id was drawn';
           exception when sequence_generator_limit_exceeded then null;
           end;
           if pg_current_xact_id_if_assigned() is null then raise exception 'it has no number'; end if;
         end $$",
        grant(&customer, "basic", false)
    );
    database.run(&attempt).await;
}
