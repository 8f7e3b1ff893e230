//! Values that others write into the tables: whatever PostgreSQL can hold, nobody else is refused an answer.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use consentd::cache::follow::Follower;
use consentd::store::log::reading::StoredVerification;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgPool};
use uuid::Uuid;

use crate::cluster::{database, empty_database, encoded_database};
use crate::log::{eventually, tamper};
use crate::service::{Service, consent};
use crate::visit::Visit;

/// Times that PostgreSQL can hold and RFC 3339 cannot.
const TIMES: [&str; 5] = ["infinity", "-infinity", "20000-01-01Z", "294276-12-31Z", "4713-01-01Z BC"];

/// Tables that the service does not read: the Inference API's own tables, and the record of the migrations.
const NOT_READ: [&str; 5] =
    ["inference_logs", "inference_logs_default", "safety_incidents", "feedback", "schema_migrations"];

/// Every column of this type in the tables that the service reads.
async fn columns(pool: &PgPool, data_type: &str) -> Vec<(String, String)> {
    let columns: Vec<(String, String)> = sqlx::query_as(
        "select c.table_name::text, c.column_name::text
         from information_schema.columns c
         join information_schema.tables t using (table_schema, table_name)
         where c.table_schema = 'vlaapi' and t.table_type = 'BASE TABLE' and c.data_type = $1 order by 1, 2",
    )
    .bind(data_type)
    .fetch_all(pool)
    .await
    .expect("the columns");
    columns.into_iter().filter(|(table, _)| !NOT_READ.contains(&table.as_str())).collect()
}

async fn run(pool: &PgPool, statement: &str) -> Result<u64, sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(pool).await.map(|done| done.rows_affected())
}

async fn number(pool: &PgPool, query: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(pool).await.expect("a number")
}

/// A service with a row in every table that it reads.
struct Filled {
    service: Service,
    pool: PgPool,
    customer: Uuid,
    other: Uuid,
    audit_id: i64,
    /// The path that opens a link to the customer's page.
    link: String,
}

impl Filled {
    async fn start() -> Self {
        let service = Service::start().await;
        let pool = service.sql().await;
        let (customer, other) = (service.customer().await, service.customer().await);
        let end = service.now() + TimeDelta::days(300);
        let body = json!({"consent_tier": "analytics", "can_store_embeddings": true, "expires_at": end});
        for customer in [customer, other] {
            service.put(customer, &body).send().await.expect(201);
        }
        let audit_id = service.consent(customer).await["audit_id"].as_i64().expect("an id");
        let mut sealer = service.sealer().await;
        for _ in 0..3 {
            sealer.round(service.now()).await.expect("a round");
        }
        service.key(Some(customer), &["consent:read"]).await;
        let links = format!("/v1/customers/{customer}/consent-links");
        let call = service.call("POST", &links).header("idempotency-key", "once").json(&json!({}));
        let link = call.send().await.expect_one_of(&[200, 201]).json();
        let verification = StoredVerification {
            log_id: 1,
            tree_size: 1,
            started_at: service.now(),
            took_ms: 1,
            result: "clean".to_owned(),
            findings: json!([]),
        };
        service.store.keep_verification(&verification).await.expect("it is kept");
        run(
            &pool,
            "insert into vlaapi.audit_quarantine (audit_id, reason, found_at) values (900001, 'a test', now());
             insert into vlaapi.audit_erasures (audit_id, done_at, vacuumed_at) values (900002, now(), now());
             insert into vlaapi.audit_cosignatures (log_id, tree_size, witness, signature, added_at)
             values (1, 1, 'w', 's', now());
             insert into vlaapi.audit_writer_keys (fingerprint) values ('\\x00') on conflict do nothing;
             insert into vlaapi.audit_pending (audit_id) values (900003);
             insert into vlaapi.audit_events (audit_id, kind, details, timestamp) values (900004, 'pii.read', '{}', now());",
        )
        .await
        .expect("rows");
        Self {
            link: link["path"].as_str().expect("a path").to_owned(),
            service,
            pool,
            customer,
            other,
            audit_id,
        }
    }

    /// Everything that can be read, called once: the API, exports, the console, the customer's page.
    async fn read_all(&self, visit: &Visit<'_>, what: &str) {
        self.read_all_but(&[], visit, what).await;
    }

    async fn read_all_but(&self, left_out: &[&str], visit: &Visit<'_>, what: &str) {
        let document = consentd::http::spec::json();
        let paths = document["paths"].as_object().expect("paths");
        let mut paths: BTreeSet<String> = paths
            .iter()
            .filter(|(_, item)| item.get("get").is_some())
            .map(|(path, _)| path.clone())
            .collect();
        paths.extend(
            [
                "/v1/audit?limit=1",
                "/v1/consents?status=expired",
                "/v1/consents?status=active",
                "/v1/customers?limit=1",
            ]
            .map(str::to_owned),
        );
        let is_left_out = |path: &str| left_out.iter().any(|end| path.ends_with(end));
        for path in paths.iter().filter(|path| !is_left_out(path)) {
            let path = path
                .replace("{customer_id}", &self.customer.to_string())
                .replace("{audit_id}", &self.audit_id.to_string())
                .replace("{slug}", "not-found")
                .replace("{tile}", "0/000")
                .replace("/consistency", "/consistency?old=1&new=2");
            for accept in ["application/json", "text/csv", "application/x-ndjson"] {
                let answer = self.service.get(&path).header("accept", accept).send().await;
                assert!(answer.status.as_u16() < 500, "{what}: GET {path}: {}", answer.text());
            }
        }
        for page in [
            "/console".to_owned(),
            "/console/audit".to_owned(),
            "/console/audit.csv".to_owned(),
            format!("/console/audit/{}", self.audit_id),
            "/console/customers".to_owned(),
            "/console/customers?status=expired".to_owned(),
            format!("/console/customers/{}", self.customer),
            format!("/console/customers/{}/evidence.zip", self.customer),
            "/console/expiring".to_owned(),
            "/console/access".to_owned(),
            "/console/integrity".to_owned(),
            "/console/keys".to_owned(),
        ] {
            if is_left_out(&page) {
                continue;
            }
            let answer = visit.get(&page).await;
            assert!(answer.status.as_u16() < 400, "{what}: {page}: {}", answer.text());
        }
        let answer = self.service.get(&self.link).no_key().send().await;
        assert!(answer.status.as_u16() < 500, "{what}: the link: {}", answer.text());
    }

    /// The customer's page, in a browser that has opened the link.
    async fn read_my_pages(&self, cookie: &str, what: &str) {
        for page in ["/my/consent", "/my/consent/choices", "/my/consent/history", "/my/consent/history.csv"] {
            let answer = self.service.get(page).no_key().header("cookie", cookie).send().await;
            assert!(answer.status.as_u16() < 500, "{what}: {page}: {}", answer.text());
        }
        let entry = format!("/my/consent/entries/{}", self.audit_id);
        let answer = self.service.get(&entry).no_key().header("cookie", cookie).send().await;
        assert!(answer.status.as_u16() < 500, "{what}: {entry}: {}", answer.text());
    }

    async fn cookie(&self) -> String {
        let answer = self.service.get(&self.link).no_key().send().await.expect(303);
        let cookies = answer.headers.get_all("set-cookie").iter();
        let pairs =
            cookies.map(|cookie| cookie.to_str().expect("text").split(';').next().unwrap_or("").to_owned());
        pairs.collect::<Vec<_>>().join("; ")
    }
}

#[tokio::test]
async fn no_time_outside_the_calendar_can_be_stored() {
    let filled = Filled::start().await;
    Visit::begin(&filled.service).await;
    let columns = columns(&filled.pool, "timestamp with time zone").await;
    assert!(columns.len() > 25, "{columns:?}");
    for (table, column) in columns {
        // An entry cannot be changed; what an insert may hold is a rule of its own.
        if ["customer_consent_audit", "audit_events"].contains(&table.as_str()) {
            continue;
        }
        assert!(
            number(&filled.pool, &format!("select count(*) from vlaapi.{table}")).await > 0,
            "{table} is empty"
        );
        for time in TIMES {
            for session in ["origin", "replica"] {
                let statement = format!(
                    "begin; set local session_replication_role = {session};
                     update vlaapi.{table} set {column} = '{time}'; commit"
                );
                let mut connection = filled.pool.acquire().await.expect("a connection");
                if sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *connection).await.is_err() {
                    sqlx::raw_sql("rollback").execute(&mut *connection).await.expect("it is rolled back");
                }
                drop(connection);
                let outside = format!(
                    "select count(*) from vlaapi.{table}
                     where {column} not between '0001-01-01T00:00:00Z' and '9999-12-31T23:59:59.999999Z'"
                );
                assert_eq!(number(&filled.pool, &outside).await, 0, "{table}.{column} = {time}, {session}");
            }
        }
    }
}

#[tokio::test]
async fn an_end_that_never_comes_is_brought_into_the_calendar_with_its_entry() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let pool = service.sql().await;
    for (time, shown) in
        [("infinity", "9999-12-31T23:59:59.999999Z"), ("20000-01-01", "9999-12-31T23:59:59.999999Z")]
    {
        let statement = format!(
            "insert into vlaapi.customer_data_consent (customer_id, consent_tier, expires_at, consent_updated_at)
             values ('{customer}', 'basic', '{time}', 'infinity')
             on conflict (customer_id) do update set consent_tier = excluded.consent_tier, expires_at = excluded.expires_at,
               policy_version = '{time}', consent_updated_at = excluded.consent_updated_at"
        );
        run(&pool, &statement).await.expect("the upsert of the documentation works");
        assert_eq!(service.consent(customer).await["expires_at"], shown);
        let trail = service.trail(customer).await;
        assert_eq!(trail[0]["current"]["expires_at"], shown);
        assert_eq!(trail[0].get("unreadable"), None);
    }
    service.call("DELETE", &consent(customer)).send().await.expect(200);
    run(&pool, "update vlaapi.api_keys set expires_at = 'infinity'").await.expect("a key without an end");
    service.get("/v1/consents").send().await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_times_outside_the_calendar_in_every_column_everything_is_answered_and_a_withdrawal_is_accepted()
{
    for time in TIMES {
        let filled = Filled::start().await;
        let (service, pool) = (&filled.service, &filled.pool);
        let visit = Visit::begin(service).await;
        let cookie = filled.cookie().await;
        // Another session, so that the pages are still reached.
        Visit::begin(service).await;
        let checks: Vec<String> = sqlx::query_scalar(
            "select format('alter table %s drop constraint %I', conrelid::regclass, conname)
             from pg_constraint where connamespace = 'vlaapi'::regnamespace and conname ~ '(_calendar_check|^consent_links_expires_at_check)$'",
        )
        .fetch_all(pool)
        .await
        .expect("the constraints");
        assert!(!checks.is_empty());
        run(pool, &checks.join("; ")).await.expect("they are dropped");
        let mut changed = 0;
        for (table, column) in columns(pool, "timestamp with time zone").await {
            let but = match table.as_str() {
                // Whoever calls must still be somebody.
                "api_keys" if column == "expires_at" => " where customer_id is not null",
                // The log would be closed, at whatever time.
                "audit_logs" if column == "closed_at" => " where closed_at is not null",
                "console_sessions" => " where ctid = (select max(ctid) from vlaapi.console_sessions)",
                _ => "",
            };
            tamper(pool, &format!("update vlaapi.{table} set {column} = '{time}'{but}")).await;
            changed += 1;
        }
        assert!(changed > 25);

        filled.read_all(&visit, time).await;
        filled.read_my_pages(&cookie, time).await;
        // Another replica, that holds all in memory from its start on.
        let replica = Service::following(service.owner.clone(), &service.login).await;
        replica.cache.consents.warm(vec![filled.customer, filled.other]).await.expect("it is warm");
        let check = format!("{}/permissions?check=embeddings", consent(filled.customer));
        let checked = replica.get(&check).send().await.expect(200).json();
        let may_be_allowed = !time.starts_with('-') && !time.ends_with("BC");
        assert_eq!(checked["allowed"], may_be_allowed, "{time}: {checked}");

        service.sweep().await;
        let mut sealer = service.sealer().await;
        sealer.round(service.now()).await.expect("a round");

        // A withdrawal, and a new decision of somebody else.
        let withdrawn = service.call("DELETE", &consent(filled.customer)).send().await.expect(200).json();
        assert_eq!(withdrawn["consent_tier"], "none", "{time}");
        let body = json!({"consent_tier": "basic", "policy_version": "new"});
        service.put(filled.other, &body).send().await.expect(200);
        eventually("the other replica denies", async || {
            replica.get(&check).send().await.expect(200).json()["allowed"] == false
        })
        .await;
        // The next one comes after it.
        service.put(filled.customer, &body).send().await.expect(200);
        service.call("DELETE", &consent(filled.customer)).send().await.expect(200);
        filled.read_all(&visit, time).await;
    }
}

#[tokio::test]
async fn a_list_of_entries_ends_and_has_each_once_although_their_times_are_outside_the_calendar() {
    for time in TIMES {
        let service = Service::start().await;
        let customer = service.customer().await;
        for round in 0..6 {
            let body = json!({"consent_tier": "basic", "policy_version": round.to_string()});
            service.put(customer, &body).send().await;
        }
        let pool = service.sql().await;
        tamper(
            &pool,
            &format!("update vlaapi.customer_consent_audit set timestamp = '{time}' where version % 2 = 0"),
        )
        .await;
        let mut seen = Vec::new();
        let mut next = Some(format!("{}/audit?limit=1", consent(customer)));
        while let Some(path) = next {
            assert!(seen.len() < 10, "{time}: {seen:?}");
            let page = service.get(&path).send().await.expect(200).json();
            seen.extend(
                page["items"].as_array().expect("items").iter().map(|entry| entry["version"].clone()),
            );
            let cursor = page["next_cursor"].as_str();
            next = cursor.map(|cursor| format!("{}/audit?limit=1&cursor={cursor}", consent(customer)));
        }
        let distinct: BTreeSet<String> = seen.iter().map(Value::to_string).collect();
        assert_eq!((seen.len(), distinct.len()), (6, 6), "{time}: {seen:?}");
    }
}

#[tokio::test]
async fn an_unreadable_entry_is_shown_as_unreadable_among_the_others() {
    let filled = Filled::start().await;
    let (service, customer) = (&filled.service, filled.customer);
    let visit = Visit::begin(service).await;
    let deep = format!("{}{}", "[".repeat(3000), "]".repeat(3000));
    for current in [
        json!({"consent_tier": "basic", "can_store_images": "banana"}).to_string(),
        "{\"number\": 1e400}".to_owned(),
        deep,
        "7".to_owned(),
    ] {
        tamper(
            &filled.pool,
            &format!(
                "alter table vlaapi.customer_consent_audit drop constraint if exists customer_consent_audit_tiers_check;
                 alter table vlaapi.customer_consent_audit drop constraint if exists customer_consent_audit_action_check;
                 update vlaapi.customer_consent_audit set current = '{current}', previous_tier = 'legacy', action = 'odd'
                 where audit_id = {};
                 update vlaapi.audit_events set details = '{current}'",
                filled.audit_id
            ),
        )
        .await;
        // What proves an entry is the log's, which reads entries in its own way.
        filled.read_all_but(&["/proof", "/evidence.zip"], &visit, &current[..current.len().min(40)]).await;
        let trail = service.trail(customer).await;
        let fields = json!(["action", "previous_tier", "current"]);
        assert_eq!(trail[0]["unreadable"], fields);
        assert_eq!(trail[0].get("current"), None);
        let lines =
            service.get("/v1/audit").header("accept", "application/x-ndjson").send().await.expect(200).text();
        let exported: Vec<Value> =
            lines.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
        assert_eq!(exported.len(), 2, "the export is whole");
        let one = exported.iter().find(|entry| entry["audit_id"] == filled.audit_id).expect("it is there");
        assert_eq!(one, &trail[0]);
        let csv = service.get("/v1/audit").header("accept", "text/csv").send().await.expect(200).text();
        assert_eq!(csv.lines().count(), 3);
        assert!(csv.contains(",unreadable,"), "{csv}");
        let page = visit.get(&format!("/console/audit/{}", filled.audit_id)).await.text();
        assert!(page.contains("Unreadable in the database: action, previous_tier, current"), "{page}");
    }
}

#[tokio::test]
async fn one_unreadable_consent_is_denied_and_the_others_are_answered() {
    let service = Service::start().await;
    let (bad, good) = (service.customer().await, service.customer().await);
    let body = json!({"consent_tier": "research", "can_store_images": true});
    for customer in [bad, good] {
        service.put(customer, &body).send().await.expect(201);
    }
    let pool = service.sql().await;
    tamper(
        &pool,
        &format!(
            "alter table vlaapi.customer_data_consent drop constraint customer_data_consent_consent_tier_check;
             update vlaapi.customer_data_consent set consent_tier = 'gold' where customer_id = '{bad}'"
        ),
    )
    .await;
    let checks: Vec<Value> =
        [bad, good].iter().map(|id| json!({"customer_id": id, "permission": "images"})).collect();
    let call = service.call("POST", "/v1/permissions/check").json(&json!({ "checks": checks }));
    let results = call.send().await.expect(200).json();
    let allowed: Vec<_> = results["results"]
        .as_array()
        .expect("results")
        .iter()
        .map(|result| result["allowed"].clone())
        .collect();
    assert_eq!(allowed, [false, true], "{results}");
}

#[tokio::test]
async fn no_key_or_log_is_stored_with_a_list_that_cannot_be_read() {
    let filled = Filled::start().await;
    for list in ["{inference,null}", "{{inference,admin},{inference,admin}}"] {
        for (table, column) in [("api_keys", "scopes"), ("audit_logs", "verifier_keys")] {
            let statement = format!("update vlaapi.{table} set {column} = '{list}'");
            run(&filled.pool, &statement).await.expect_err(&statement);
        }
    }
    // Past the constraint, a key counts for the scopes that can be read.
    tamper(
        &filled.pool,
        "alter table vlaapi.api_keys drop constraint api_keys_scopes_check;
         update vlaapi.api_keys set scopes = '{{admin,null},{audit:read,null}}' where customer_id is null",
    )
    .await;
    filled.service.get("/v1/api-keys").send().await.expect(200);
}

#[tokio::test]
async fn an_unreadable_erasure_does_not_keep_the_others_from_being_carried_out() {
    let filled = Filled::start().await;
    let (service, pool) = (&filled.service, &filled.pool);
    // Sealed by hand, as if it had been there before any rule was.
    run(
        pool,
        "insert into vlaapi.audit_events (audit_id, kind, details, timestamp)
         values (800001, 'pii.erased', '{\"fields\": 7}', now()),
           (800002, 'pii.erased', '{\"legal_basis\": \"x\", \"fields\": [], \"entries\": []}', now());
         insert into vlaapi.audit_erasures (audit_id) values (800001), (800002);
         insert into vlaapi.audit_leaves (log_id, leaf_index, audit_id, leaf_hash, leaf)
         values (1, 0, 800001, '\\x00', '\\x00'), (1, 1, 800002, '\\x00', '\\x00') on conflict (log_id, leaf_index)
           do nothing",
    )
    .await
    .expect("rows");
    tamper(pool, "update vlaapi.audit_leaves set audit_id = 800001 + leaf_index where leaf_index < 2").await;
    consentd::ops::erasure::carry_out(&service.store, service.now()).await.expect("nothing fails");
    let undone = number(pool, "select count(*) from vlaapi.audit_erasures where done_at is null").await;
    assert_eq!(undone, 1);
}

#[tokio::test]
async fn a_database_that_cannot_hold_every_text_is_refused_with_a_sentence() {
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let database = encoded_database(encoding).await;
        for arguments in [
            &["migrate", "up"][..],
            &["migrate", "status"],
            &["migrate", "baseline", "--at", "3"],
            &["serve", "--listen", "127.0.0.1:0"],
            &["serve", "--listen", "127.0.0.1:0", "--no-migrate"],
        ] {
            let data_dir = tempfile::tempdir().expect("a folder");
            let output = std::process::Command::new(env!("CARGO_BIN_EXE_consentd"))
                .env_clear()
                .env("CONSENTD_DATA_DIR", data_dir.path())
                .env("CONSENTD_DATABASE_URL", database.owner.to_url_lossy().as_str())
                .args(arguments)
                .output()
                .expect("the program runs");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success(), "{arguments:?}");
            assert!(said.contains(&format!("is {encoding}: it must be UTF8")), "{arguments:?}: {said}");
        }
    }
    empty_database().await;
}

#[tokio::test]
async fn an_upsert_that_is_repeated_for_years_does_not_run_out_of_ids() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let pool = service.sql().await;
    run(&pool, "alter sequence vlaapi.customer_data_consent_consent_id_seq restart with 3000000000")
        .await
        .expect("it goes on there");
    let upsert = format!(
        "insert into vlaapi.customer_data_consent (customer_id, consent_tier) values ('{customer}', 'basic')
         on conflict (customer_id) do update set consent_tier = excluded.consent_tier"
    );
    for _ in 0..2 {
        run(&pool, &upsert).await.expect("the upsert works");
    }
    service.put(customer, &json!({"consent_tier": "analytics"})).send().await.expect(200);
    // A key that signs links is made once in 30 days, by the service alone.
    let narrow: Vec<String> = sqlx::query_scalar(
        "select sequencename::text from pg_sequences
         where schemaname = 'vlaapi' and data_type <> 'bigint'::regtype and sequencename <> 'consent_link_keys_key_id_seq'",
    )
    .fetch_all(&pool)
    .await
    .expect("the sequences");
    assert_eq!(narrow, Vec::<String>::new());
}

/// Checked queries are described in `.sqlx`. One that reads a time as it is stored would panic on the first one that no
/// calendar has: the driver adds it up without a check.
#[test]
fn no_query_reads_a_time_as_it_is_stored() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(".sqlx");
    for file in std::fs::read_dir(folder).expect("a folder") {
        let text = std::fs::read_to_string(file.expect("a file").path()).expect("a text");
        let query: Value = serde_json::from_str(&text).expect("JSON");
        for column in query["describe"]["columns"].as_array().expect("columns") {
            let is_time =
                ["Timestamptz", "Timestamp", "Date"].iter().any(|kind| column["type_info"] == *kind);
            assert!(!is_time || column["origin"] == "Expression", "{column} of {}", query["query"]);
        }
    }
}

/// Times in a database of before, which the migration brings into the calendar.
#[tokio::test]
async fn the_migration_brings_what_is_there_into_the_calendar() {
    let database = database().await;
    consentd::store::migrations::down(&database.owner, 12).await.expect("it goes back");
    let pool = PgPool::connect_with(database.owner.clone()).await.expect("a connection");
    let customer = Uuid::new_v4();
    run(
        &pool,
        &format!(
            "insert into vlaapi.customers (customer_id, email, created_at) values ('{customer}', 'a@example.com', 'infinity');
             insert into vlaapi.customer_data_consent (customer_id, consent_tier, expires_at, consent_updated_at)
             values ('{customer}', 'basic', 'infinity', '20000-01-01');
             insert into vlaapi.api_keys (key_prefix, key_hash, scopes, expires_at)
             values ('vla_live_aaaa', 'x', '{{{{inference,null}},{{null,null}}}}', '-infinity');"
        ),
    )
    .await
    .expect("it was possible before");
    consentd::store::migrations::up(&database.owner, None).await.expect("it goes on");
    let service = Service::on(database.owner.clone(), &database.service).await;
    let record = service.consent(customer).await;
    assert_eq!(record["expires_at"], "9999-12-31T23:59:59.999999Z");
    assert_eq!(record["version"], 2, "the end moved, which is a change with an entry");
    service.get("/v1/customers").send().await.expect(200);
    service.get("/v1/api-keys").send().await.expect(200);
    service.get("/v1/audit").send().await.expect(200);
    service.call("DELETE", &consent(customer)).send().await.expect(200);
    // The follower goes on too.
    let follower = Follower::new(service.store.clone(), std::sync::Arc::clone(&service.cache));
    tokio::select! {
        Err(error) = follower.follow(|_| {}) => panic!("{error}"),
        () = tokio::time::sleep(std::time::Duration::from_millis(400)) => {}
    }
}
