//! Decisions that come together: each is answered as if it had come alone, and nobody pays for somebody else's.

use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use axum::response::IntoResponse as _;
use chrono::TimeDelta;
use consentd::background::Pacer;
use consentd::domain::{AnonymizationLevel, Consent, ConsentTier, Precondition, Proposal};
use consentd::error::Error;
use consentd::http::problem::Problem;
use consentd::ops::consents::{Decision, Lanes, Outcome, Request, Writer};
use consentd::store::consents::Attribution;
use consentd::store::verification::snapshot;
use consentd::verify::database::{Scope, verify};
use consentd::verify::{Keys, Report, Standards};
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::cluster::OwnCluster;
use crate::log::eventually;
use crate::service::Service;

type Outcomes = Vec<Result<Outcome, Error>>;

/// A service, and a writer beside it whose only lane a test can keep busy.
struct Scene {
    service: Service,
    writer: Writer,
    lanes: Lanes,
    pool: PgPool,
}

impl Scene {
    async fn start() -> Self {
        let service = Service::start().await;
        let (writer, lanes) = one_lane(&service);
        let pool = service.sql().await;
        Self { service, writer, lanes, pool }
    }

    #[expect(clippy::needless_pass_by_value, reason = "it is shorter where it is called")]
    fn put(&self, customer_id: Uuid, policy: impl ToString) -> Request {
        let proposal = Proposal {
            consent_tier: ConsentTier::Basic,
            can_store_images: false,
            can_store_embeddings: false,
            can_use_for_training: false,
            anonymization_level: AnonymizationLevel::Full,
            policy_version: Some(policy.to_string()),
            expires_at: None,
        };
        let consent = Consent::new(proposal, self.service.now()).expect("it is lawful");
        self.request(customer_id, Decision::Put(consent))
    }

    fn request(&self, customer_id: Uuid, decision: Decision) -> Request {
        Request {
            customer_id,
            decision,
            precondition: Precondition::Anything,
            by: Attribution { changed_by: "a test".to_owned(), ..Attribution::default() },
            now: self.service.now(),
        }
    }

    async fn customers<const N: usize>(&self) -> [Uuid; N] {
        let mut customers = [Uuid::nil(); N];
        for customer in &mut customers {
            *customer = self.service.customer().await;
        }
        customers
    }

    async fn begun(&self, statement: String) -> sqlx::Transaction<'static, sqlx::Postgres> {
        let mut holder = self.pool.begin().await.expect("a transaction");
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *holder).await.expect("a lock");
        holder
    }

    /// Hands these in while the lane is busy, so that they are one batch.
    async fn together(&self, requests: Vec<Request>) -> Outcomes {
        let holder =
            self.begun("lock table vlaapi.customer_data_consent in access exclusive mode".to_owned()).await;
        let plug = submit(
            &self.writer,
            vec![self.request(Uuid::new_v4(), Decision::Withdraw { policy_version: None })],
        );
        self.waiting().await;
        let batch = submit(&self.writer, requests);
        tokio::time::sleep(Duration::from_millis(20)).await;
        holder.rollback().await.expect("the lock is given back");
        assert!(matches!(plug.await.expect("it is answered")[..], [Err(Error::UnknownCustomer)]));
        batch.await.expect("they are answered")
    }

    /// Until the lane waits for a lock.
    async fn waiting(&self) {
        let blocked = "select exists (select from pg_stat_activity
            where datname = current_database() and wait_event_type = 'Lock')";
        while !sqlx::query_scalar::<_, bool>(blocked).fetch_one(&self.pool).await.expect("an answer") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// How many transactions wrote the trail of these customers.
    async fn transactions(&self, customers: &[Uuid]) -> i64 {
        let count = "select count(distinct xmin::text) from vlaapi.customer_consent_audit where customer_id = any($1)";
        sqlx::query_scalar(count).bind(customers).fetch_one(&self.pool).await.expect("a count")
    }

    /// The customer's versions in order, and whether times and ids go up with them and each takes up the one before.
    async fn trail(&self, customer_id: Uuid) -> Vec<i32> {
        let trail: Vec<(i32, bool)> = sqlx::query_as(
            "select version, coalesce(
               audit_id > lag(audit_id) over trail and timestamp > lag(timestamp) over trail
                 and previous = lag(current) over trail, previous is null)
             from vlaapi.customer_consent_audit where customer_id = $1
             window trail as (order by version) order by version",
        )
        .bind(customer_id)
        .fetch_all(&self.pool)
        .await
        .expect("a trail");
        assert!(trail.iter().all(|(_, in_order)| *in_order), "{trail:?}");
        trail.into_iter().map(|(version, _)| version).collect()
    }

    /// Seals everything and verifies the whole log: how many changes it tells of, all of them by the service's word.
    async fn verify(&self) -> u64 {
        let mut sealer = self.service.sealer().await;
        while sealer.round(self.service.now()).await.expect("a round").more {}
        let standards = Standards {
            keys: Keys::Own { signers: self.service.keys.signers.clone(), retired: Vec::new() },
            checkpoints: Vec::new(),
            receipts: Vec::new(),
            since: None,
            now: self.service.now(),
        };
        let mut connection = snapshot(&self.service.login).await.expect("a snapshot");
        let scope = Scope { standards: &standards, writers: &self.service.keys.writers, live: true };
        let report = verify(&mut connection, &scope, Report::default(), &|_, _| {}, Pacer::alone())
            .await
            .expect("it runs");
        assert_eq!(report.findings, []);
        assert_eq!(report.vouched_for, report.leaves);
        // The first leaf tells that the log was opened.
        report.leaves - 1
    }
}

fn one_lane(service: &Service) -> (Writer, Lanes) {
    Writer::start(&service.store, &service.cache, service.keys.writers.first(), NonZeroU16::MIN)
}

/// Queues these at once, in this order.
fn submit(writer: &Writer, requests: Vec<Request>) -> JoinHandle<Outcomes> {
    let writer = writer.clone();
    tokio::spawn(async move { join_all(requests.into_iter().map(|request| writer.submit(request))).await })
}

fn version(outcome: &Result<Outcome, Error>) -> i32 {
    outcome.as_ref().expect("it is done").record.version
}

fn holding(customer_id: Uuid) -> String {
    format!("select from vlaapi.customer_data_consent where customer_id = '{customer_id}' for update")
}

#[tokio::test]
async fn decisions_on_one_customer_at_once_give_versions_without_a_gap() {
    let scene = Scene::start().await;
    let [customer] = scene.customers().await;
    let outcomes = submit(&scene.writer, (0..700).map(|n| scene.put(customer, n)).collect()).await.unwrap();
    let versions: Vec<_> = outcomes.iter().map(version).collect();
    assert!(versions.iter().copied().eq(1..=700), "in the order in which they came: {versions:?}");
    assert!(outcomes[0].as_ref().unwrap().created && !outcomes[1].as_ref().unwrap().created);
    assert!(scene.trail(customer).await.into_iter().eq(1..=700));
    assert!(scene.transactions(&[customer]).await < 20, "they are not folded");
    let record = &outcomes[699].as_ref().unwrap().record;
    assert_eq!(scene.service.consent(customer).await["audit_id"], record.audit_id.unwrap());
    assert_eq!(scene.verify().await, 700);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_with_many_customers_on_two_replicas_lose_nothing() {
    let scene = Scene::start().await;
    let customers: [Uuid; 12] = scene.customers().await;
    let replicas = [scene.writer.clone(), scene.service.writer.clone()];
    let callers = (0..24).map(|caller| {
        let writer = replicas[caller % 2].clone();
        let requests: Vec<_> =
            (0..20).map(|n| scene.put(customers[(caller + n) % 12], format!("{caller}-{n}"))).collect();
        tokio::spawn(async move {
            let mut done = Vec::new();
            for request in requests {
                let outcome = writer.submit(request).await.expect("it is done");
                assert!(outcome.changed && outcome.leaf.is_some());
                done.push((outcome.record.customer_id, outcome.record.version));
            }
            done
        })
    });
    let mut done: Vec<_> = join_all(callers).await.into_iter().flat_map(Result::unwrap).collect();
    done.sort();
    let expected = |id: &Uuid| (1..=40).map(|version| (*id, version)).collect::<Vec<_>>();
    let mut sorted = customers;
    sorted.sort();
    assert_eq!(done, sorted.iter().flat_map(expected).collect::<Vec<_>>());
    for customer in customers {
        assert!(scene.trail(customer).await.into_iter().eq(1..=40));
    }
    assert_eq!(scene.verify().await, 480);
}

#[tokio::test]
async fn in_one_batch_each_gets_its_own_answer() {
    let scene = Scene::start().await;
    let [one, other, refuser] = scene.customers().await;
    let expecting = |request: Request, version| Request {
        precondition: Precondition::Versions(vec![version]),
        ..request
    };
    let outcomes = scene
        .together(vec![
            scene.put(one, "a"),
            scene.put(one, "a"),
            expecting(scene.put(one, "b"), 7),
            expecting(scene.put(one, "b"), 1),
            scene.put(Uuid::new_v4(), "a"),
            scene.put(other, "a"),
            scene.request(other, Decision::Withdraw { policy_version: None }),
            scene.request(other, Decision::Withdraw { policy_version: None }),
            scene.request(refuser, Decision::Withdraw { policy_version: None }),
            scene.put(one, "c"),
        ])
        .await;
    let told: Vec<_> = outcomes
        .iter()
        .map(|outcome| match outcome {
            Ok(Outcome { record, changed, created, leaf }) => {
                assert_eq!(leaf.is_some(), *changed);
                format!(
                    "{}{}{}",
                    record.version,
                    if *created { " created" } else { "" },
                    if *changed { "" } else { " stands" }
                )
            }
            Err(error) => error.to_string(),
        })
        .collect();
    assert_eq!(
        told,
        [
            "1 created",
            "1 stands",
            "the consent is at version 1",
            "2",
            "there is no such customer",
            "1 created",
            "2",
            "2 stands",
            "0 stands",
            "3",
        ]
    );
    assert_eq!(scene.transactions(&[one, other]).await, 1);
    assert_eq!(scene.trail(one).await, [1, 2, 3]);
    assert_eq!(scene.service.consent(other).await["status"], "withdrawn");
    assert_eq!(scene.service.consent(refuser).await["status"], "never_given");
    assert_eq!(scene.verify().await, 5);
}

#[tokio::test]
async fn who_spoils_a_batch_fails_alone() {
    let scene = Scene::start().await;
    let [good, spoiled, better] = scene.customers().await;
    sqlx::raw_sql(AssertSqlSafe(format!(
        "create function vlaapi.spoil() returns trigger language plpgsql as $$
         begin raise exception 'spoiled'; end $$;
         create trigger spoil before insert on vlaapi.customer_consent_audit for each row
         when (new.customer_id = '{spoiled}' and new.change_reason = 'spoil') execute function vlaapi.spoil()"
    )))
    .execute(&scene.pool)
    .await
    .unwrap();
    let mut spoiling = scene.put(spoiled, "b");
    spoiling.by.change_reason = Some("spoil".to_owned());
    let requests = vec![
        scene.put(good, "a"),
        scene.put(spoiled, "a"),
        spoiling,
        scene.put(spoiled, "c"),
        scene.put(better, "a"),
    ];
    let outcomes = scene.together(requests).await;
    assert!(
        matches!(&outcomes[2], Err(Error::Internal(why)) if why.contains("spoiled")),
        "{:?}",
        outcomes[2]
    );
    assert_eq!([0, 1, 3, 4].map(|n| version(&outcomes[n])), [1, 1, 2, 1]);
    assert_eq!(scene.trail(spoiled).await, [1, 2]);
    assert_eq!(version(&scene.writer.submit(scene.put(good, "b")).await), 2);
}

#[tokio::test]
async fn who_is_locked_by_somebody_else_keeps_nobody_waiting_and_is_told_after_a_second() {
    let scene = Scene::start().await;
    let [locked, free] = scene.customers().await;
    for customer in [locked, free] {
        scene.writer.submit(scene.put(customer, "a")).await.unwrap();
    }
    let holder = scene.begun(holding(locked)).await;
    let started = Instant::now();
    let waiting = submit(&scene.writer, vec![scene.put(locked, "b"), scene.put(locked, "c")]);
    for round in 0..20 {
        let asked = Instant::now();
        assert_eq!(version(&scene.writer.submit(scene.put(free, round)).await), 2 + round);
        assert!(asked.elapsed() < Duration::from_millis(900), "{:?}", asked.elapsed());
    }
    for outcome in waiting.await.unwrap() {
        let error = outcome.unwrap_err();
        assert!(matches!(error, Error::Unavailable(_)), "{error}");
        let answer = Problem::from(error).into_response();
        assert_eq!(answer.status(), 503);
    }
    let waited = started.elapsed();
    assert!(waited > Duration::from_millis(950) && waited < Duration::from_secs(3), "{waited:?}");
    holder.rollback().await.unwrap();
    assert_eq!(scene.trail(locked).await, [1]);

    // Given back in time, they are done in their order, and what comes after them comes after them.
    let holder = scene.begun(holding(locked)).await;
    let requests = |names: [&str; 2]| names.map(|name| scene.put(locked, name)).to_vec();
    let first = submit(&scene.writer, requests(["d", "e"]));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let second = submit(&scene.writer, requests(["f", "g"]));
    tokio::time::sleep(Duration::from_millis(100)).await;
    holder.rollback().await.unwrap();
    assert_eq!(first.await.unwrap().iter().map(version).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(second.await.unwrap().iter().map(version).collect::<Vec<_>>(), [4, 5]);
}

#[tokio::test]
async fn a_first_consent_that_somebody_else_is_making_keeps_nobody_waiting() {
    let scene = Scene::start().await;
    let [made, free, new] = scene.customers().await;
    scene.writer.submit(scene.put(free, "a")).await.unwrap();
    let holder = scene
        .begun(format!("insert into vlaapi.customer_data_consent (customer_id) values ('{made}')"))
        .await;
    let waiting = submit(&scene.writer, vec![scene.put(made, "a"), scene.put(made, "b")]);
    let asked = Instant::now();
    let outcomes = submit(&scene.writer, vec![scene.put(new, "a"), scene.put(free, "b")]).await.unwrap();
    assert_eq!(outcomes.iter().map(version).collect::<Vec<_>>(), [1, 2]);
    assert!(asked.elapsed() < Duration::from_millis(900), "{:?}", asked.elapsed());
    holder.commit().await.unwrap();
    assert_eq!(waiting.await.unwrap().iter().map(version).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn a_customer_who_is_being_deleted_is_unknown_once_that_is_done() {
    let scene = Scene::start().await;
    let [new, given] = scene.customers().await;
    scene.writer.submit(scene.put(given, "a")).await.unwrap();
    let holder =
        scene.begun(format!("delete from vlaapi.customers where customer_id in ('{new}', '{given}')")).await;
    let waiting = submit(&scene.writer, vec![scene.put(new, "b"), scene.put(given, "b")]);
    tokio::time::sleep(Duration::from_millis(200)).await;
    holder.commit().await.unwrap();
    for outcome in waiting.await.unwrap() {
        assert!(matches!(outcome, Err(Error::UnknownCustomer)), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_full_lane_says_so_at_once() {
    let scene = Scene::start().await;
    let [customer] = scene.customers().await;
    let holder =
        scene.begun("lock table vlaapi.customer_data_consent in access exclusive mode".to_owned()).await;
    let first = submit(&scene.writer, vec![scene.put(customer, "first")]);
    scene.waiting().await;
    let mut all = submit(&scene.writer, (0..1030).map(|n| scene.put(customer, n)).collect());
    tokio::time::timeout(Duration::from_millis(50), &mut all).await.expect_err("most of them wait");
    holder.rollback().await.unwrap();
    assert_eq!(version(&first.await.unwrap()[0]), 1);
    let outcomes = all.await.unwrap();
    let (done, refused) = outcomes.split_at(1024);
    assert!(done.iter().map(version).eq(2..=1025));
    assert!(refused.iter().all(|outcome| matches!(outcome, Err(Error::Overloaded))));
    let answer = Problem::from(Error::Overloaded).into_response();
    assert_eq!(answer.status(), 503);
}

#[tokio::test]
async fn a_full_lane_still_takes_withdrawals() {
    let scene = Scene::start().await;
    let [customer, other] = scene.customers().await;
    let holder =
        scene.begun("lock table vlaapi.customer_data_consent in access exclusive mode".to_owned()).await;
    let first = submit(&scene.writer, vec![scene.put(customer, "first")]);
    scene.waiting().await;
    let puts = (0..1030).map(|n| scene.put(customer, n));
    let withdrawal = scene.request(other, Decision::Withdraw { policy_version: None });
    let all = submit(&scene.writer, puts.chain([withdrawal]).collect());
    tokio::task::yield_now().await;
    holder.rollback().await.unwrap();
    first.await.unwrap();
    let outcomes = all.await.unwrap();
    assert!(outcomes[1024..1030].iter().all(|outcome| matches!(outcome, Err(Error::Overloaded))));
    assert_eq!(version(&outcomes[1030]), 0);
}

#[tokio::test]
async fn a_caller_who_goes_away_leaves_a_whole_write() {
    let scene = Scene::start().await;
    let [customer] = scene.customers().await;
    let mut queued = 0;
    for round in 0..300_u64 {
        let submitted = scene.writer.submit(scene.put(customer, round));
        if round % 3 == 0 {
            // Polled once and dropped.
            assert!(submitted.now_or_never().is_none());
        } else {
            let _ = tokio::time::timeout(Duration::from_micros(round * 13 % 3000), submitted).await;
        }
        queued += 1;
    }
    let last = scene.writer.submit(scene.put(customer, "last")).await.unwrap().record;
    assert_eq!(last.version, queued + 1);
    assert!(scene.trail(customer).await.into_iter().eq(1..=last.version));
    assert_eq!(scene.verify().await, 301);
}

#[tokio::test]
async fn what_is_queued_is_finished_when_the_lanes_end_and_nothing_comes_after() {
    let scene = Scene::start().await;
    let [customer] = scene.customers().await;
    let queued = submit(&scene.writer, (0..600).map(|n| scene.put(customer, n)).collect());
    tokio::task::yield_now().await;
    let late = scene.put(customer, "late");
    scene.lanes.finish().await;
    assert!(queued.await.unwrap().iter().map(version).eq(1..=600));
    let refused = scene.writer.submit(late).await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
}

#[tokio::test]
async fn an_expiry_is_folded_with_what_comes_before_and_after_it_and_recorded_once() {
    let scene = Scene::start().await;
    let [customer] = scene.customers().await;
    let mut ending = scene.put(customer, "a");
    if let Decision::Put(consent) = &ending.decision {
        let end = scene.service.now() + TimeDelta::hours(1);
        let proposal = Proposal { expires_at: Some(end), ..consent.get().clone() };
        ending.decision = Decision::Put(Consent::new(proposal, scene.service.now()).unwrap());
    }
    scene.service.advance(TimeDelta::hours(2));
    let expire = || scene.request(customer, Decision::Expire);
    let again = Request { now: ending.now, ..ending.clone() };
    let outcomes = scene.together(vec![expire(), ending, expire(), expire()]).await;
    assert_eq!(outcomes.iter().map(version).collect::<Vec<_>>(), [0, 1, 2, 2]);
    assert_eq!(scene.transactions(&[customer]).await, 1);
    assert_eq!(scene.service.sweep().await, Some(0));
    assert_eq!(version(&scene.writer.submit(again).await), 2, "it stands as it was given");
    let outcomes = scene.together(vec![scene.put(customer, "b"), expire()]).await;
    assert_eq!(outcomes.iter().map(version).collect::<Vec<_>>(), [3, 3]);
    let actions: Vec<String> = sqlx::query_scalar(
        "select action from vlaapi.customer_consent_audit where customer_id = $1 order by version",
    )
    .bind(customer)
    .fetch_all(&scene.pool)
    .await
    .unwrap();
    assert_eq!(actions, ["granted", "expired", "renewed"]);
}

#[tokio::test]
async fn a_sweep_ends_though_one_expiry_cannot_be_recorded() {
    let scene = Scene::start().await;
    let customers: [Uuid; 3] = scene.customers().await;
    for customer in customers {
        let body = serde_json::json!({"consent_tier": "basic", "expires_at": scene.service.now() + TimeDelta::hours(1)});
        scene.service.put(customer, &body).send().await.expect(201);
    }
    scene.service.advance(TimeDelta::hours(2));
    let holder = scene.begun(holding(customers[0])).await;
    let (store, writer) = (&scene.service.store, &scene.writer);
    let swept = consentd::ops::expiry::sweep(store, writer, scene.service.now()).await.unwrap().unwrap();
    assert_eq!(swept.recorded, 2);
    assert!(matches!(swept.failure, Some(Error::Unavailable(_))), "{:?}", swept.failure);
    holder.rollback().await.unwrap();
    assert_eq!(scene.service.sweep().await, Some(1));
}

#[tokio::test]
async fn without_a_key_nothing_is_vouched_for_and_nothing_queued() {
    let scene = Scene::start().await;
    let [customer] = scene.customers().await;
    let (writer, _lanes) = Writer::start(&scene.service.store, &scene.service.cache, None, NonZeroU16::MIN);
    let outcome = writer.submit(scene.put(customer, "a")).await.unwrap();
    assert!(outcome.changed && outcome.leaf.is_none());
    let vouched: Vec<Option<Vec<u8>>> = sqlx::query_scalar("select mac from vlaapi.customer_consent_audit")
        .fetch_all(&scene.pool)
        .await
        .unwrap();
    assert_eq!(vouched, [None]);
}

/// Nobody waits for a client inside a transaction which has written or locked something; and soon, inside none at all.
async fn nothing_is_held(pool: &PgPool) {
    let count = async |condition: &str| {
        let idle = format!(
            "select count(*) from pg_stat_activity
             where datname = current_database() and state like 'idle in transaction%' {condition}"
        );
        sqlx::query_scalar::<_, i64>(AssertSqlSafe(idle)).fetch_one(pool).await.expect("a count")
    };
    assert_eq!(count("and backend_xid is not null").await, 0);
    eventually("no session is in a transaction", async || count("").await == 0).await;
}

#[tokio::test]
async fn a_session_that_ended_between_two_writes_is_found_by_the_second() {
    let scene = Scene::start().await;
    let [customer] = scene.customers().await;
    let ended = "select count(pg_terminate_backend(pid)) from pg_stat_activity \
                 where datname = current_database() and state = 'idle in transaction'";
    for n in 1..=20 {
        assert_eq!(version(&scene.writer.submit(scene.put(customer, n)).await), n);
        let ended: i64 = sqlx::query_scalar(ended).fetch_one(&scene.pool).await.unwrap();
        assert_eq!(ended, 1);
    }
}

#[tokio::test]
async fn a_lane_holds_nothing_between_two_writes_and_is_in_no_transaction_soon_after() {
    let scene = Scene::start().await;
    let [customer] = scene.customers().await;
    let refused = scene.writer.submit(scene.put(Uuid::new_v4(), "nobody")).await;
    assert!(matches!(refused, Err(Error::UnknownCustomer)), "{refused:?}");
    nothing_is_held(&scene.pool).await;
    assert_eq!(version(&scene.writer.submit(scene.put(customer, "a")).await), 1);
    nothing_is_held(&scene.pool).await;
    assert_eq!(version(&scene.writer.submit(scene.put(customer, "b")).await), 2);
}

#[tokio::test]
async fn a_database_that_went_and_came_back_is_written_to_soon() {
    /// Tries until the database is found to be back, for which a second is promised. What was refused is not written.
    async fn version_soon(scene: &Scene, customer: Uuid, policy: &str) -> i32 {
        let since = Instant::now();
        loop {
            match scene.writer.submit(scene.put(customer, policy)).await {
                Ok(outcome) => return outcome.record.version,
                Err(error) => assert!(matches!(error, Error::Unavailable(_)), "{error}"),
            }
            assert!(since.elapsed() < Duration::from_secs(3), "the database is not found to be back");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    let mut cluster = OwnCluster::start().await;
    let service = Service::on(cluster.owner.clone(), &cluster.service).await;
    let ((writer, lanes), pool) = (one_lane(&service), service.sql().await);
    let scene = Scene { service, writer, lanes, pool };
    let [customer] = scene.customers().await;
    assert_eq!(version(&scene.writer.submit(scene.put(customer, "a")).await), 1);
    cluster.kill().await;
    cluster.start_again().await;
    assert_eq!(version_soon(&scene, customer, "b").await, 2);

    cluster.kill().await;
    let asked = Instant::now();
    let outcomes = submit(&scene.writer, (0..50).map(|n| scene.put(customer, n)).collect()).await.unwrap();
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Err(Error::Unavailable(_)))));
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    cluster.start_again().await;
    assert_eq!(version_soon(&scene, customer, "c").await, 3);
    nothing_is_held(&scene.service.sql().await).await;
    cluster.stop().await;
}
