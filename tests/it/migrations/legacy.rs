//! 004 on what 003 let stand.

use consentd::store::migrations;

use super::database::Database;

const STATE: &str = "consent_tier || ' ' || can_store_images || ' ' || can_store_embeddings || ' ' || \
                     can_use_for_training || ' ' || anonymization_level || ' v' || version";

struct Legacy {
    database: Database,
}

impl Legacy {
    async fn begin() -> Self {
        let database = Database::empty().await;
        migrations::up(&database.options, Some(3)).await.unwrap();
        Self { database }
    }

    async fn consent(&self, values: &str) -> String {
        let customer = self.database.customer().await;
        self.database
            .run(&format!(
                "insert into vlaapi.customer_data_consent
                   (customer_id, consent_tier, can_store_images, can_store_embeddings, can_use_for_training,
                    anonymization_level)
                 values ('{customer}', {values})"
            ))
            .await;
        customer
    }

    async fn state(&self, customer: &str) -> String {
        self.database
            .text(&format!(
                "select {STATE} from vlaapi.customer_data_consent where customer_id = '{customer}'"
            ))
            .await
    }

    async fn upgrade(&self) {
        migrations::up(&self.database.options, Some(4)).await.unwrap();
    }
}

#[tokio::test]
async fn consents_that_break_the_rules_of_their_tier_are_narrowed_and_audited() {
    let legacy = Legacy::begin().await;
    let cases = [
        ("'none', true, true, true, 'none'", "none false false false full v2"),
        ("'none', false, false, false, 'partial'", "none false false false full v2"),
        ("'basic', true, true, true, 'none'", "basic false false false full v2"),
        ("'basic', true, false, false, 'minimal'", "basic false false false minimal v2"),
        ("'analytics', true, true, true, 'none'", "analytics false true false full v2"),
        ("'research', false, false, true, 'none'", "research false false false none v2"),
    ];
    let mut customers = Vec::new();
    for (values, _) in cases {
        customers.push(legacy.consent(values).await);
    }
    legacy.upgrade().await;
    for ((values, narrowed), customer) in cases.iter().zip(&customers) {
        assert_eq!(legacy.state(customer).await, *narrowed, "{values}");
        let trail = legacy.database.trail(customer, "version, action, changed_by").await;
        assert_eq!(trail, ["1 adopted migration:004", "2 updated migration:004"], "{values}");
    }
    // The entry tells what stood and what stands, and the row points to it.
    let agreeing = legacy
        .database
        .text(
            "select count(*)::text
             from vlaapi.customer_data_consent c
             join vlaapi.customer_consent_audit last on last.customer_id = c.customer_id and last.audit_id = c.audit_id
             join vlaapi.customer_consent_audit first on first.customer_id = c.customer_id and first.version = 1
             where last.current = vlaapi.consent_state(c) and last.previous = first.current
               and last.version = c.version and last.timestamp = c.consent_updated_at
               and last.timestamp > first.timestamp and last.previous <> last.current",
        )
        .await;
    assert_eq!(agreeing, cases.len().to_string());
}

#[tokio::test]
async fn consents_that_keep_the_rules_are_adopted_as_they_were() {
    let legacy = Legacy::begin().await;
    let research = legacy.consent("'research', true, true, true, 'none'").await;
    let basic = legacy.consent("'basic', false, false, false, 'partial'").await;
    legacy.upgrade().await;
    assert_eq!(legacy.state(&research).await, "research true true true none v1");
    assert_eq!(legacy.state(&basic).await, "basic false false false partial v1");
    assert_eq!(
        legacy.database.trail(&research, "version, action, new_tier, changed_by").await,
        ["1 adopted research migration:004"]
    );
}

#[tokio::test]
async fn the_default_rows_are_never_given() {
    let legacy = Legacy::begin().await;
    let customer = legacy.consent("default, default, default, default, default").await;
    legacy.upgrade().await;
    assert_eq!(legacy.state(&customer).await, "none false false false full v0");
    assert!(legacy.database.trail(&customer, "version").await.is_empty());
}

#[tokio::test]
async fn every_customer_from_before_the_consents_gets_the_default() {
    let database = Database::empty().await;
    migrations::up(&database.options, Some(2)).await.unwrap();
    let customer = database.customer().await;
    migrations::up(&database.options, None).await.unwrap();
    let state = database
        .text(&format!("select {STATE} from vlaapi.customer_data_consent where customer_id = '{customer}'"))
        .await;
    assert_eq!(state, "none false false false full v0");
}

#[tokio::test]
async fn entries_from_before_the_versions_are_numbered_and_named() {
    let legacy = Legacy::begin().await;
    let customer = legacy.consent("'basic', false, false, false, 'full'").await;
    let other = legacy.consent("'none', false, false, false, 'full'").await;
    legacy
        .database
        .run(&format!(
            "insert into vlaapi.customer_consent_audit
               (customer_id, previous_tier, new_tier, changed_by, timestamp)
             values ('{customer}', null, 'analytics', 'admin', '2024-01-01'),
                    ('{other}', 'none', 'basic', 'admin', '2024-01-15'),
                    ('{customer}', 'analytics', 'none', 'admin', '2024-02-01'),
                    ('{customer}', 'none', 'research', 'admin', '2024-03-01'),
                    ('{other}', 'basic', 'none', 'admin', '2024-03-15'),
                    ('{customer}', 'research', 'basic', 'admin', '2024-04-01')"
        ))
        .await;
    legacy.upgrade().await;
    assert_eq!(
        legacy.database.trail(&customer, "version, action, new_tier").await,
        [
            "1 granted analytics",
            "2 withdrawn none",
            "3 granted research",
            "4 updated basic",
            "5 adopted basic"
        ]
    );
    assert_eq!(
        legacy.database.trail(&other, "version, action, new_tier").await,
        ["1 granted basic", "2 withdrawn none", "3 adopted none"]
    );
    assert_eq!(legacy.state(&customer).await, "basic false false false full v5");
    assert_eq!(legacy.state(&other).await, "none false false false full v3");
}
