//! A database of its own for each test, and rows for it.

use std::process::Command;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor};

use consentd::postgres::programs::Programs;
use consentd::store::migrations;

use crate::cluster::{TestDatabase, empty_database};

pub const LAST: i64 = 15;

pub struct Database {
    pub options: PgConnectOptions,
    /// For the command line.
    pub url: String,
    test: TestDatabase,
}

impl Database {
    pub async fn empty() -> Self {
        let test = empty_database().await;
        Self { options: test.owner.clone(), url: test.owner.to_url_lossy().to_string(), test }
    }

    pub fn service(&self) -> &PgConnectOptions {
        &self.test.service
    }

    pub fn name(&self) -> &str {
        &self.test.name
    }

    pub async fn migrated() -> Self {
        let database = Self::empty().await;
        migrations::up(&database.options, None).await.unwrap();
        database
    }

    /// As an operator makes it: with psql, from the files.
    pub async fn made_by_psql(last: i64) -> Self {
        let database = Self::empty().await;
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
        for status in migrations::status(&database.options).await.unwrap() {
            if status.version > last {
                break;
            }
            let output = program("psql")
                .args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--single-transaction"])
                .arg(format!("--dbname={}", database.libpq_url()))
                .arg("--file")
                .arg(folder.join(status.file))
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        database
    }

    /// Without what only sqlx understands.
    fn libpq_url(&self) -> &str {
        self.url.split('?').next().unwrap()
    }

    pub async fn connect(&self) -> PgConnection {
        self.options.connect().await.unwrap()
    }

    pub async fn run(&self, sql: &str) {
        self.attempt(sql).await.unwrap();
    }

    pub async fn attempt(&self, sql: &str) -> Result<(), String> {
        let mut connection = self.connect().await;
        let outcome = connection.execute(AssertSqlSafe(sql.to_owned())).await;
        outcome.map(|_| ()).map_err(|error| error.to_string())
    }

    pub async fn try_as(&self, role: &str, sql: &str) -> Result<(), String> {
        self.attempt(&format!("set role {role}; {sql}")).await
    }

    pub async fn text(&self, sql: &str) -> String {
        self.texts(sql).await.remove(0)
    }

    /// The only column of each row, which is text.
    pub async fn texts(&self, sql: &str) -> Vec<String> {
        let mut connection = self.connect().await;
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_all(&mut connection).await.unwrap()
    }

    pub fn schema(&self) -> String {
        self.dump(&["--schema-only", "--schema=vlaapi"])
    }

    pub fn dump(&self, options: &[&str]) -> String {
        let output =
            program("pg_dump").args(options).arg(format!("--dbname={}", self.libpq_url())).output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        if complaint.contains("no matching schemas were found") {
            return String::new();
        }
        assert!(output.status.success(), "{complaint}");
        // A random word that guards the restoring psql.
        String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .filter(|line| !line.starts_with("\\restrict") && !line.starts_with("\\unrestrict"))
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Every row of the consents and their trail.
    pub async fn contents(&self) -> Vec<String> {
        self.texts(
            "select to_jsonb(c)::text from vlaapi.customer_data_consent c
             union all select to_jsonb(a)::text from vlaapi.customer_consent_audit a order by 1",
        )
        .await
    }

    pub async fn customer(&self) -> String {
        self.text(
            "insert into vlaapi.customers (email) values (gen_random_uuid() || '@example.com')
             returning customer_id::text",
        )
        .await
    }

    /// The trail of a customer, oldest first.
    pub async fn trail(&self, customer: &str, columns: &str) -> Vec<String> {
        self.texts(&format!(
            "select concat_ws(' ', {columns}) from vlaapi.customer_consent_audit
             where customer_id = '{customer}' order by version"
        ))
        .await
    }
}

/// One of PostgreSQL's client programs.
pub fn program(name: &str) -> Command {
    Command::new(Programs::find(None, None).unwrap().program(name))
}

/// Rows in every table that migration `version` made or changed.
#[expect(clippy::too_many_lines, reason = "it is a list, a piece for each migration")]
pub async fn fill(database: &Database, version: i64) {
    let customer = database.customer().await;
    let rows = match version {
        1 => {
            "insert into vlaapi.api_keys (customer_id, key_prefix, key_hash)
             values ('{customer}', 'vla_test_ab12', md5(random()::text));
             with log as (
               insert into vlaapi.inference_logs (customer_id, model_name, status)
               values ('{customer}', 'openvla-7b', 'success')
               returning log_id, timestamp
             ), incident as (
               insert into vlaapi.safety_incidents
                 (customer_id, log_id, log_timestamp, severity, violation_type, action_taken)
               select '{customer}', log_id, timestamp, 'critical', 'collision', 'rejected' from log
             )
             insert into vlaapi.feedback (log_id, log_timestamp, customer_id, feedback_type)
             select log_id, timestamp, '{customer}', 'success_rating' from log"
        }
        2 => {
            "with log as (
               insert into vlaapi.inference_logs (customer_id, model_name, status)
               values ('{customer}', 'openvla-7b', 'success')
               returning log_id, timestamp
             )
             insert into vlaapi.feedback
               (log_id, log_timestamp, customer_id, feedback_type, corrected_action, correction_magnitude)
             select log_id, timestamp, '{customer}', 'action_correction', '{1,2,3,4,5,6,7}', 0.5 from log;
             refresh materialized view vlaapi.feedback_analytics"
        }
        3 => {
            "insert into vlaapi.customer_data_consent
               (customer_id, consent_tier, can_store_images, can_use_for_training, anonymization_level)
             values ('{customer}', 'basic', true, true, 'none');
             insert into vlaapi.customer_consent_audit (customer_id, previous_tier, new_tier, changed_by)
             values ('{customer}', null, 'research', 'admin'), ('{customer}', 'research', 'basic', 'admin')"
        }
        4 => {
            "insert into vlaapi.customer_data_consent (customer_id, consent_tier) values ('{customer}', 'analytics');
             update vlaapi.customer_data_consent set can_store_embeddings = true where customer_id = '{customer}';
             update vlaapi.customer_data_consent set consent_tier = 'none', can_store_embeddings = false
             where customer_id = '{customer}'"
        }
        5 => {
            "with key as (
               insert into vlaapi.api_keys (key_prefix, key_hash) values ('vla_live_cd34', md5(random()::text))
               returning key_id
             )
             insert into vlaapi.idempotent_answers
               (key_id, idempotency_key_hash, request_hash, sealed_answer, created_at)
             select key_id, '\\x01', '\\x02', '\\x03', now() from key"
        }
        6 => {
            "insert into vlaapi.audit_events (kind, customer_id, details, timestamp)
             values ('pii.erased', '{customer}', '{}', now());
             insert into vlaapi.audit_logs (log_id, origin, verifier_keys, opened_at)
             select count(*) + 1, 'log.example/audit/' || count(*) + 1, '{}', now() from vlaapi.audit_logs
             where not exists (select from vlaapi.audit_logs where closed_at is null);
             insert into vlaapi.audit_writer_keys (fingerprint) values (vlaapi.random_salt());
             insert into vlaapi.audit_leaves (log_id, leaf_index, audit_id, leaf_hash, leaf)
             select 1, count(*), count(*), sha256('a'), 'a' from vlaapi.audit_leaves;
             insert into vlaapi.audit_nodes (log_id, level, node_index, hash)
             select 1, 1, count(*), sha256('b') from vlaapi.audit_nodes;
             insert into vlaapi.audit_checkpoints (log_id, tree_size, note, signed_at)
             select 1, count(*), 'a note', now() from vlaapi.audit_checkpoints;
             insert into vlaapi.audit_cosignatures (log_id, tree_size, witness, signature, added_at)
             select 1, count(*), 'a witness', 'a line', now() from vlaapi.audit_cosignatures;
             insert into vlaapi.audit_quarantine (audit_id, reason, found_at)
             select count(*), 'a reason', now() from vlaapi.audit_quarantine;
             insert into vlaapi.audit_erasures (audit_id) select count(*) from vlaapi.audit_erasures;
             insert into vlaapi.audit_verifications (log_id, tree_size, started_at, took_ms, result, findings)
             values (1, 1, now(), 1, 'clean', '[]')"
        }
        7 => {
            "insert into vlaapi.customer_data_consent (customer_id) values ('{customer}');
             insert into vlaapi.customer_consent_audit
               (customer_id, audit_id, action, version, previous_tier, new_tier, current, timestamp)
             values
               ('{customer}', nextval('vlaapi.customer_consent_audit_audit_id_seq'), 'granted', 1, null, 'basic',
                null, '2031-01-01'),
               ('{customer}', nextval('vlaapi.customer_consent_audit_audit_id_seq'), 'withdrawn', 2, 'basic', 'none',
                '{\"can_store_images\": false, \"can_store_embeddings\": false, \"can_use_for_training\": false,
                  \"anonymization_level\": \"full\"}', '2031-01-02');
             update vlaapi.customer_data_consent c
             set version = entry.version, audit_id = entry.audit_id, consent_updated_at = entry.timestamp
             from vlaapi.customer_consent_audit entry
             where c.customer_id = '{customer}' and entry.customer_id = c.customer_id and entry.version = 2"
        }
        8 => {
            "with key as (
               insert into vlaapi.api_keys (key_prefix, key_hash) values ('vla_live_ef56', md5(random()::text))
               returning key_id
             )
             insert into vlaapi.console_sessions (session_hash, key_id, started_at, seen_at)
             select sha256(uuid_send(gen_random_uuid())), key_id, now(), now() from key;
             insert into vlaapi.consent_days
             select date '2031-01-01' + count(*)::integer, 'granted', '', 'basic', 1, 0, 1, 0, 0, 0, 0, 0, 0
             from vlaapi.consent_days"
        }
        9 => {
            "with key as (
               insert into vlaapi.consent_link_keys (secret, created_at) values ('\\x01', now()) returning key_id
             )
             insert into vlaapi.consent_links
               (customer_id, link_id, key_id, created_at, created_by, expires_at)
             select '{customer}', gen_random_uuid(), key_id, now(), 'key:vla_live_cd34', now() + interval '1 day'
             from key"
        }
        10 => {
            "update vlaapi.customer_data_consent set policy_version = 'v' || version || '-by-hand'
             where customer_id = '{customer}'"
        }
        11 => {
            "insert into vlaapi.customer_consent_audit
               (customer_id, action, version, previous_tier, new_tier, changed_by, request_id)
             select customer_id, 'updated', max(version) + 1, 'none', 'none', 'key:vla_live_cd34', 'nightly'
             from vlaapi.customer_consent_audit where customer_id = '{customer}' group by customer_id"
        }
        12 => {
            "insert into vlaapi.audit_erasures (audit_id, done_at, vacuumed_at)
             select count(*), now(), now() from vlaapi.audit_erasures"
        }
        // It makes no table, and no column that could hold a row.
        13 => "select 1",
        14 => {
            "insert into vlaapi.audit_quarantine (audit_id, reason, found_at, foreign_version, resolved_by, resolved_at)
             select 1000 + count(*), 'a reason', now(), true, 7, now() from vlaapi.audit_quarantine;
             insert into vlaapi.audit_pending (audit_id, leaf_version) values (7, 2)"
        }
        15 => {
            "insert into vlaapi.customer_data_consent (customer_id, consent_tier) values ('{customer}', 'basic');
             update vlaapi.customer_data_consent set consent_tier = 'none' where customer_id = '{customer}'"
        }
        _ => panic!("migration {version} has no rows here"),
    };
    database.run(&rows.replace("{customer}", &customer)).await;
}
