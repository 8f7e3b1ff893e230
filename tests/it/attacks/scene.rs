//! A log with a history, a superuser beside it, and what was kept elsewhere.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use clap::Parser;
use consentd::app::keys::{write_new, writers_text};
use consentd::background::Pacer;
use consentd::cli::demo::{self, DemoArgs};
use consentd::domain::PersonalField;
use consentd::ops::erasure::{self, ErasureRequest, Retention};
use consentd::ops::log::sealer::{Round, Sealer};
use consentd::store::consents::Attribution;
use consentd::store::verification::snapshot;
use consentd::tlog::{Note, Receipt};
use consentd::verify::database::{Scope, verify};
use consentd::verify::outside::{OutsideCheckpoint, OutsideReceipt};
use consentd::verify::{Keys, Report, Rule, Standards, Verdict};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use super::ATTACKS;
use crate::service::Service;

pub const ORIGIN: &str = "log.example/audit/1";

pub struct Scene {
    pub service: Service,
    pub sealer: Sealer,
    /// With no trigger in the way.
    pub superuser: PgConnection,
    /// Who decided by the service: three versions each, all of them sealed.
    pub customers: Vec<Uuid>,
    /// What was kept outside the database.
    pub checkpoints: Vec<OutsideCheckpoint>,
    pub receipts: Vec<OutsideReceipt>,
}

#[derive(Parser)]
struct Demo {
    #[command(flatten)]
    args: DemoArgs,
}

impl Scene {
    /// An open log, and nothing in it.
    pub async fn empty() -> Self {
        let service = Service::start().await;
        let file = |name: &str| service.outside.path().join(name);
        write_new(&file("audit.key"), &service.keys.signers[0].to_pem()).expect("a key is written");
        write_new(&file("audit-writer.key"), &writers_text(&service.keys.writers, &[]))
            .expect("a key is written");
        let pool = service.sql().await;
        let mut superuser = pool.acquire().await.expect("a superuser comes in").detach();
        tick(&service, &mut superuser).await;
        let sealer = service.sealer().await;
        sqlx::raw_sql("set session_replication_role = replica")
            .execute(&mut superuser)
            .await
            .expect("no trigger is in the way");
        let (customers, checkpoints, receipts) = Default::default();
        Self { service, sealer, superuser, customers, checkpoints, receipts }
    }

    /// About 300 leaves, lawful erasures and changes past the service among them.
    pub async fn start() -> Self {
        let mut scene = Self::empty().await;
        scene.load(45, 1).await;
        for _ in 0..4 {
            let customer = scene.service.customer().await;
            for version in 1..=3 {
                scene.decide(customer, &format!("call {version}")).await;
            }
            scene.customers.push(customer);
        }
        scene.by_sql(scene.customers[3]).await;
        scene.seal().await;
        scene.erase(scene.customers[3], &PersonalField::ALL).await;
        scene.retain(PersonalField::IpAddress, TimeDelta::days(400)).await;
        scene.seal().await;
        scene.decide(scene.customers[2], "call 4").await;
        scene.seal().await;
        scene
    }

    /// Customers of the demo, each with about ten entries for which the service vouches.
    /// The same histories whenever it runs: how many entries they have depends on the day on which they end.
    pub async fn load(&mut self, customers: u32, seed: u64) {
        let url = sqlx::ConnectOptions::to_url_lossy(&*self.service.sql().await.connect_options());
        let dir = self.service.outside.path().display();
        let command = format!(
            "demo --database-url {url} --data-dir {dir} --customers {customers} --seed {seed} --until 2026-06-30 --append"
        );
        let demo = Demo::parse_from(command.split_whitespace());
        demo::run(demo.args, self.service.now()).await.expect("the demo is loaded");
    }

    /// Sets the service's clock to that of the database, which writes times of its own.
    pub async fn tick(&mut self) {
        tick(&self.service, &mut self.superuser).await;
    }

    /// A decision that is none of the former ones.
    pub async fn decide(&mut self, customer: Uuid, reason: &str) -> Value {
        self.tick().await;
        let body = json!({"consent_tier": "analytics", "policy_version": reason, "reason": reason,
            "on_behalf_of": "agent@example.com"});
        let call =
            self.service.put(customer, &body).header("user-agent", "desk/1").header("prefer", "receipt");
        let answer = call.send().await.json();
        let note = Note::parse(answer["receipt"].as_str().expect("a receipt")).expect("a note");
        let receipt = Receipt::parse(&note.text).expect("a receipt's text");
        self.receipts.push(OutsideReceipt { from: "the caller".to_owned(), receipt, note });
        answer
    }

    /// A change past the service, by a role that has its triggers.
    pub async fn by_sql(&mut self, customer: Uuid) {
        let statement = "update vlaapi.customer_data_consent
            set consent_tier = 'research', can_store_images = true, policy_version = gen_random_uuid()::text
            where customer_id = $1";
        let changed = sqlx::query(statement).bind(customer).execute(&self.service.sql().await).await;
        assert_eq!(changed.expect("a change past the service").rows_affected(), 1);
    }

    /// Seals what is queued and carries out what is due, until there is nothing left to do.
    pub async fn seal(&mut self) -> Vec<Round> {
        let mut rounds = Vec::new();
        loop {
            self.tick().await;
            let round = self.sealer.round(self.service.now()).await.expect("a round");
            if let Some(signed) = &round.signed {
                let parsed = OutsideCheckpoint::parse("another machine", &signed.note);
                self.checkpoints.push(parsed.expect("a checkpoint"));
            }
            let more = round.more;
            rounds.push(round);
            if !more {
                break;
            }
        }
        erasure::carry_out(&self.service.store, self.service.now()).await.expect("erasures are carried out");
        rounds
    }

    /// Logs an erasure; sealing carries it out.
    pub async fn erase(&mut self, customer_id: Uuid, fields: &[PersonalField]) {
        self.tick().await;
        let request = ErasureRequest {
            customer_id,
            legal_basis: "GDPR Art. 17(1)(b)".to_owned(),
            fields: fields.to_vec(),
            customer_fields: Vec::new(),
        };
        let by = Attribution {
            changed_by: "key:vla_test".to_owned(),
            change_reason: Some("a letter".to_owned()),
            ..Attribution::default()
        };
        let (store, keys) = (&self.service.store, &self.service.keys);
        let logged = erasure::request(store, keys, &request, &by, self.service.now()).await;
        assert!(logged.expect("an erasure is logged").entries > 0);
    }

    pub async fn retain(&mut self, field: PersonalField, age: TimeDelta) {
        self.tick().await;
        let (store, keys) = (&self.service.store, &self.service.keys);
        let logged = Retention::new(field, age).log(store, keys, self.service.now()).await;
        assert!(logged.expect("an erasure is logged") > 0);
    }

    /// What the superuser does.
    pub async fn sql(&mut self, statements: &str) {
        sqlx::raw_sql(AssertSqlSafe(statements.to_owned()))
            .execute(&mut self.superuser)
            .await
            .unwrap_or_else(|error| panic!("{statements}: {error}"));
    }

    pub async fn number(&mut self, query: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(query.to_owned()))
            .fetch_one(&mut self.superuser)
            .await
            .unwrap_or_else(|error| panic!("{query}: {error}"))
    }

    pub async fn entry(&mut self, customer: Uuid, version: i32) -> i64 {
        self.number(&format!(
            "select audit_id from vlaapi.customer_consent_audit
             where customer_id = '{customer}' and version = {version}"
        ))
        .await
    }

    /// An entry in the first tile, with all that an entry can have, which is not its customer's last one.
    pub async fn victim(&mut self) -> i64 {
        self.number(
            "select e.audit_id from vlaapi.customer_consent_audit e join vlaapi.audit_leaves leaf using (audit_id)
             where leaf.leaf_index < 200 and e.version >= 2 and e.mac is not null and e.ip_address is not null
               and e.user_agent is not null and exists (
                 select from vlaapi.customer_consent_audit next
                 where next.customer_id = e.customer_id and next.version > e.version)
             order by leaf.leaf_index desc limit 1",
        )
        .await
    }

    /// Verifies with nothing but the database and the keys.
    pub async fn inside(&self) -> Report {
        self.verify(Vec::new(), Vec::new()).await
    }

    /// Verifies with all that was kept elsewhere.
    pub async fn outside(&self) -> Report {
        self.verify(self.checkpoints.clone(), self.receipts.clone()).await
    }

    pub async fn verify(&self, checkpoints: Vec<OutsideCheckpoint>, receipts: Vec<OutsideReceipt>) -> Report {
        let standards = Standards { checkpoints, receipts, ..self.standards() };
        self.verify_by(&standards).await
    }

    /// By the service's own clock, which stands still: a minute that passes meanwhile is no finding.
    pub fn standards(&self) -> Standards {
        Standards {
            keys: Keys::Own { signers: self.service.keys.signers.clone(), retired: Vec::new() },
            checkpoints: Vec::new(),
            receipts: Vec::new(),
            since: None,
            now: self.service.now(),
        }
    }

    pub async fn verify_by(&self, standards: &Standards) -> Report {
        let mut connection = snapshot(&self.service.login).await.expect("a snapshot");
        let scope = Scope { standards, writers: &self.service.keys.writers, live: true };
        verify(&mut connection, &scope, Report::default(), &|_, _| {}, Pacer::alone())
            .await
            .expect("the verification runs")
    }

    /// What is found from inside after these statements, which are then taken back.
    pub async fn attempt(&mut self, statements: &str) -> Report {
        let standards = self.standards();
        self.sql("begin").await;
        self.sql(statements).await;
        let scope = Scope { standards: &standards, writers: &self.service.keys.writers, live: true };
        let report = verify(&mut self.superuser, &scope, Report::default(), &|_, _| {}, Pacer::alone()).await;
        self.sql("rollback").await;
        report.unwrap_or_else(|error| panic!("{statements}: the verification does not run: {error}"))
    }

    /// An attack of the list was made: it is found by the rules which the list says, and there.
    pub async fn judge(&self, number: usize, rule: Rule, place: &str) {
        let attack = &ATTACKS[number - 1];
        let (inside, outside) = (self.inside().await, self.outside().await);
        assert_eq!(rules(&inside), attack.inside, "inside, {}: {:#?}", attack.what, inside.findings);
        assert_eq!(rules(&outside), attack.outside, "outside, {}: {:#?}", attack.what, outside.findings);
        let expected = if attack.inside.is_empty() { Verdict::Incomplete } else { Verdict::Tampering };
        assert_eq!((inside.verdict(), outside.verdict()), (expected, Verdict::Tampering), "{}", attack.what);
        assert_found(&outside, rule, place);
    }
}

async fn tick(service: &Service, connection: &mut PgConnection) {
    let now: DateTime<Utc> =
        sqlx::query_scalar("select clock_timestamp()").fetch_one(connection).await.expect("a clock");
    service.advance(now - service.now());
}

/// The rules that do not hold, each once.
pub fn rules(report: &Report) -> Vec<Rule> {
    let rules: BTreeSet<Rule> = report.findings.iter().map(|finding| finding.rule).collect();
    rules.into_iter().collect()
}

#[track_caller]
pub fn assert_found(report: &Report, rule: Rule, place: &str) {
    assert_eq!(report.verdict(), Verdict::Tampering);
    let there = report.findings.iter().any(|finding| finding.rule == rule && finding.place.contains(place));
    assert!(there, "no {rule} at {place}: {:#?}", report.findings);
}
