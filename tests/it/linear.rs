//! Three replicas and many clients: every answer fits the order of the versions, as new as promised, whatever breaks.

mod history;

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::atomic::{AtomicI32, AtomicI64};
use std::time::{Duration, Instant};

use history::{Counts, Kind, Operation, Seen, judge};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore as _, SeedableRng as _};
use serde_json::{Value, json};
use sqlx::ConnectOptions as _;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::sleep;
use uuid::Uuid;

use crate::cluster::OwnCluster;
use crate::proxy::Proxy;
use crate::service::{Answer, Service, consent};

const CLIENTS: usize = 32;
const CUSTOMERS: usize = 20;
const OPERATIONS: i64 = 100_000;
const SOAK_OPERATIONS: i64 = 1_000_000;
/// How long clients ask while something breaks.
const DISTURBED_FOR: Duration = Duration::from_secs(7);

/// The replicas, the customers and what is known of them.
struct Scene {
    replicas: Vec<Service>,
    customers: Vec<Uuid>,
    /// Of each customer the newest version that was acknowledged.
    acknowledged: Vec<AtomicI32>,
    /// How many operations may still begin.
    left: AtomicI64,
}

impl Scene {
    async fn of(replicas: Vec<Service>) -> Self {
        let mut customers = Vec::new();
        for _ in 0..CUSTOMERS {
            customers.push(replicas[0].customer().await);
        }
        let acknowledged = customers.iter().map(|_| AtomicI32::new(0)).collect();
        Self { replicas, customers, acknowledged, left: AtomicI64::new(0) }
    }

    /// The first one's database is dropped with it: it is the last to go.
    async fn start() -> Self {
        let first = Service::start_following().await;
        let mut replicas = Vec::new();
        for _ in 0..2 {
            replicas.push(Service::following(first.owner.clone(), &first.login).await);
        }
        replicas.push(first);
        Self::of(replicas).await
    }
}

struct Client {
    scene: Arc<Scene>,
    number: usize,
    chance: Xoshiro256PlusPlus,
    operations: Vec<Operation>,
}

impl Client {
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.chance.next_u64() >> 32).expect("it is small") % end
    }

    async fn run(mut self) -> Vec<Operation> {
        let scene = Arc::clone(&self.scene);
        while scene.left.fetch_sub(1, Acquire) > 0 {
            let replica = self.below(scene.replicas.len());
            // Some customers are asked for far more often than others.
            let end = 1 + self.below(CUSTOMERS);
            let customer = self.below(end);
            let answered = match self.below(100) {
                0..6 => self.put(replica, customer).await,
                6..10 => self.withdraw(replica, customer).await,
                10..13 => self.batch(replica).await,
                13..18 => self.whole(replica, customer).await,
                _ => self.check(replica, customer).await,
            };
            if !answered {
                sleep(Duration::from_millis(5)).await;
            }
        }
        self.operations
    }

    fn note(&mut self, replica: usize, customer: usize, kind: Kind, began: Instant, seen: Option<Seen>) {
        let customer = self.scene.customers[customer];
        self.operations.push(Operation { replica, customer, kind, began, ended: Instant::now(), seen });
    }

    /// Now and then the newest version that anybody was told of.
    fn min_version(&mut self, customer: usize) -> i32 {
        if self.below(4) == 0 { self.scene.acknowledged[customer].load(Acquire) } else { 0 }
    }

    async fn put(&mut self, replica: usize, customer: usize) -> bool {
        let images = self.below(3) > 0;
        let id = (self.number as u64) << 32 | self.operations.len() as u64;
        let body = json!({
            "consent_tier": if images { "research" } else { "basic" },
            "can_store_images": images,
            "policy_version": id.to_string(),
        });
        let scene = Arc::clone(&self.scene);
        let began = Instant::now();
        let answer = scene.replicas[replica].put(scene.customers[customer], &body).send().await;
        self.written(replica, customer, Kind::Put { id, images }, began, &answer)
    }

    async fn withdraw(&mut self, replica: usize, customer: usize) -> bool {
        let scene = Arc::clone(&self.scene);
        let began = Instant::now();
        let answer = scene.replicas[replica].call("DELETE", &consent(scene.customers[customer])).send().await;
        self.written(replica, customer, Kind::Withdraw, began, &answer)
    }

    fn written(
        &mut self,
        replica: usize,
        customer: usize,
        kind: Kind,
        began: Instant,
        answer: &Answer,
    ) -> bool {
        let seen = seen(answer, |body| &body["can_store_images"]);
        self.note(replica, customer, kind, began, seen);
        if let Some(seen) = seen {
            self.scene.acknowledged[customer].fetch_max(seen.version, Release);
        }
        seen.is_some()
    }

    async fn check(&mut self, replica: usize, customer: usize) -> bool {
        let min_version = self.min_version(customer);
        let scene = Arc::clone(&self.scene);
        let path = consent(scene.customers[customer]);
        let path = format!("{path}/permissions?check=images&min_version={min_version}");
        let began = Instant::now();
        let answer = scene.replicas[replica].get(&path).send().await;
        let seen = seen(&answer, |body| &body["allowed"]);
        self.note(replica, customer, Kind::Read { min_version }, began, seen);
        seen.is_some()
    }

    /// The consent itself, which is never stale.
    async fn whole(&mut self, replica: usize, customer: usize) -> bool {
        let min_version = self.min_version(customer);
        let scene = Arc::clone(&self.scene);
        let path = format!("{}?min_version={min_version}", consent(scene.customers[customer]));
        let began = Instant::now();
        let answer = scene.replicas[replica].get(&path).send().await;
        let seen = seen(&answer, |body| &body["can_store_images"]);
        self.note(replica, customer, Kind::Read { min_version }, began, seen);
        seen.is_some()
    }

    async fn batch(&mut self, replica: usize) -> bool {
        let asked: Vec<(usize, i32)> = (0..5)
            .map(|_| {
                let customer = self.below(CUSTOMERS);
                (customer, self.min_version(customer))
            })
            .collect();
        let scene = Arc::clone(&self.scene);
        let checks: Vec<Value> = asked
            .iter()
            .map(|(customer, min_version)| {
                let customer = scene.customers[*customer];
                json!({"customer_id": customer, "permission": "images", "min_version": min_version})
            })
            .collect();
        let began = Instant::now();
        let call = scene.replicas[replica].call("POST", "/v1/permissions/check");
        let answer = call.json(&json!({"checks": checks})).send().await;
        let answered = was_answered(&answer);
        let body = answer.json();
        for (at, (customer, min_version)) in asked.into_iter().enumerate() {
            let seen = answered.then(|| read(&body["results"][at], |body| &body["allowed"]));
            self.note(replica, customer, Kind::Read { min_version }, began, seen);
        }
        answered
    }
}

/// False for a 503. There is nothing else to be answered, least of all a 412: whoever asks for a version was told of it.
fn was_answered(answer: &Answer) -> bool {
    let status = answer.status.as_u16();
    assert!([200, 201, 503].contains(&status), "{status}: {}", answer.text());
    status != 503
}

fn seen(answer: &Answer, images: impl Fn(&Value) -> &Value) -> Option<Seen> {
    was_answered(answer).then(|| read(&answer.json(), images))
}

fn read(body: &Value, images: impl Fn(&Value) -> &Value) -> Seen {
    let version = body["version"].as_i64().and_then(|version| version.try_into().ok());
    let (version, images) = version.zip(images(body).as_bool()).unwrap_or_else(|| panic!("{body}"));
    Seen { version, images, stale: body["stale"] == true }
}

/// How long clients ask.
enum Until {
    Done(i64),
    /// Until what disturbs them is over.
    Over,
}

/// Lets clients ask, and judges the history.
async fn play(scene: Scene, until: Until, disturbance: impl Future<Output = ()>) -> Counts {
    let scene = Arc::new(scene);
    let operations = if let Until::Done(operations) = until { operations } else { i64::MAX };
    scene.left.store(operations, Release);
    let began = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let chance = Xoshiro256PlusPlus::seed_from_u64(number as u64);
            let client = Client { scene: Arc::clone(&scene), number, chance, operations: Vec::new() };
            tokio::spawn(client.run())
        })
        .collect();
    disturbance.await;
    if let Until::Over = until {
        scene.left.store(0, Release);
    }
    let mut history = Vec::new();
    for client in clients {
        history.extend(client.await.expect("a client is answered as it may be"));
    }
    let took = began.elapsed();
    let judging = Instant::now();
    let counts = judge(scene.replicas.last().expect("a replica"), &history).await;
    eprintln!("{} answers in {took:.1?}, judged in {:.1?}: {counts:?}", history.len(), judging.elapsed());
    counts
}

async fn calm(operations: i64) {
    let scene = Scene::start().await;
    let counts = play(scene, Until::Done(operations), async {}).await;
    assert_eq!((counts.stale, counts.refused_reads), (0, 0), "nothing disturbs them");
    assert!(counts.writes > counts.reads / 20, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_fits_the_order_of_the_versions() {
    calm(OPERATIONS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes: make soak"]
async fn soak_every_one_of_a_million_answers_fits_the_order_of_the_versions() {
    calm(SOAK_OPERATIONS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_fit_though_sessions_are_ended_again_and_again() {
    let scene = Scene::start().await;
    let sql = scene.replicas[0].sql().await;
    let disturbance = async {
        let over = Instant::now() + DISTURBED_FOR;
        let mut chance = Xoshiro256PlusPlus::seed_from_u64(1);
        while Instant::now() < over {
            sqlx::query(
                "select pg_terminate_backend(pid) from pg_stat_activity
                 where datname = current_database() and pid <> pg_backend_pid() and random() < 0.3",
            )
            .execute(&sql)
            .await
            .expect("sessions are ended");
            sleep(Duration::from_millis(20 + (chance.next_u64() >> 32) % 400)).await;
        }
        sleep(Duration::from_secs(1)).await;
    };
    let counts = play(scene, Until::Over, disturbance).await;
    assert!(counts.reads > 1000 && counts.writes > 100, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_fit_though_one_replica_is_parted_from_the_database() {
    let first = Service::start_following().await;
    let proxy = Proxy::before(&first.login).await;
    let parted = Service::following(first.owner.clone(), &proxy.options(&first.login)).await;
    let beside = Service::following(first.owner.clone(), &first.login).await;
    let scene = Scene::of(vec![parted, beside, first]).await;
    let disturbance = async {
        sleep(Duration::from_millis(500)).await;
        for round in 0..2 {
            for (way, millis) in [(Proxy::cut as fn(&Proxy), 400), (Proxy::hang, 600), (Proxy::cut, 1500)] {
                way(&proxy);
                sleep(Duration::from_millis(millis)).await;
                proxy.mend();
                sleep(Duration::from_millis(400 + round * 300)).await;
            }
        }
        // Until even a yes from memory is too old.
        proxy.hang();
        sleep(Service::MAX_STALE + Duration::from_millis(1500)).await;
        proxy.mend();
        sleep(Duration::from_secs(1)).await;
    };
    let counts = play(scene, Until::Over, disturbance).await;
    assert!(counts.stale > 100 && counts.refused_reads > 0, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_fit_though_postgresql_is_killed_and_started_again() {
    let mut cluster = OwnCluster::start().await;
    let mut replicas = Vec::new();
    for _ in 0..3 {
        replicas.push(Service::following(cluster.owner.clone(), &cluster.service).await);
    }
    let scene = Scene::of(replicas).await;
    let disturbance = async {
        for outage in [0, 300, 1200, 50] {
            sleep(Duration::from_millis(800)).await;
            cluster.kill().await;
            sleep(Duration::from_millis(outage)).await;
            cluster.start_again().await;
        }
        sleep(Duration::from_millis(1500)).await;
    };
    let counts = play(scene, Until::Over, disturbance).await;
    assert!(counts.stale > 100 && counts.writes > 100 && counts.unknown_writes > 0, "{counts:?}");
    cluster.stop().await;
}

/// The program on this database, where it listens, and its operator's key.
async fn program(database: &Service, data_dir: &std::path::Path) -> (Child, String, String) {
    // It would say much of entries that another writer's key vouches for.
    let mut program = Command::new(env!("CARGO_BIN_EXE_consentd"))
        .args(["serve", "--listen", "127.0.0.1:0", "--log", "off", "--data-dir"])
        .arg(data_dir)
        .env("CONSENTD_DATABASE_URL", database.login.to_url_lossy().as_str())
        .env("CONSENTD_MIGRATE_DATABASE_URL", database.owner.to_url_lossy().as_str())
        .env("CONSENTD_MAX_STALE", "5")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the program starts");
    let mut said = BufReader::new(program.stdout.take().expect("its output")).lines();
    let address = loop {
        let line = said.next_line().await.expect("a line").expect("the program greets");
        if let Some(rest) = line.strip_prefix("consentd serves on ") {
            break rest.split(',').next().expect("an address").to_owned();
        }
    };
    // What it says later goes nowhere, and must not end it.
    tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });
    (program, address, database.key(None, &["permissions:check"]).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_paused_says_no_yes_of_before() {
    let here = Service::start().await;
    let data_dir = tempfile::tempdir().expect("a folder");
    let (program, address, key) = program(&here, data_dir.path()).await;
    let signal = |signal| {
        let id = program.id().expect("it runs").try_into().expect("a process id");
        kill(Pid::from_raw(id), signal).expect("it is told");
    };
    let client = reqwest_client();
    let url = |customer| format!("{address}{}/permissions?check=images", consent(customer));
    let allowed = async |url: &str| -> Option<bool> {
        let answer = client.get(url).bearer_auth(&key).send().await.expect("an answer");
        match answer.status().as_u16() {
            200 => {
                let body: Value = answer.json().await.expect("JSON");
                Some(body["allowed"].as_bool().expect("an answer"))
            }
            503 => None,
            status => panic!("{status}"),
        }
    };
    for _ in 0..3 {
        let customer = here.customer().await;
        here.put(customer, &json!({"consent_tier": "research", "can_store_images": true}))
            .send()
            .await
            .expect(201);
        let url = url(customer);
        let since = Instant::now();
        while allowed(&url).await != Some(true) {
            assert!(since.elapsed() < Duration::from_secs(5), "it does not see the consent");
            sleep(Duration::from_millis(20)).await;
        }
        // It stands in memory.
        assert_eq!(allowed(&url).await, Some(true));
        signal(Signal::SIGSTOP);
        here.call("DELETE", &consent(customer)).send().await.expect(200);
        sleep(Duration::from_millis(1500)).await;
        signal(Signal::SIGCONT);
        let asked = (0..200).map(|number| {
            let (url, allowed) = (&url, &allowed);
            async move {
                sleep(Duration::from_millis(number)).await;
                allowed(url).await
            }
        });
        let answers = futures_util::future::join_all(asked).await;
        assert!(!answers.contains(&Some(true)), "a yes 1.5 s after the withdrawal: {answers:?}");
        assert_eq!(allowed(&url).await, Some(false));
    }
}

fn reqwest_client() -> reqwest::Client {
    // The program installs the provider for itself; here nobody has.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}
