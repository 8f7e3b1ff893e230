//! A private PostgreSQL for the test run, and a database of its own for each test.
//!
//! The run's cluster is started by the first test that needs it and dies with the process. Where every test is a
//! process (cargo nextest), `cargo run --example with_test_cluster -- cargo nextest run` starts one for all of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use consentd::postgres::account::Account;
use consentd::postgres::programs::Programs;
use consentd::postgres::server::Server;
use consentd::store::migrations;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::statvfs::statvfs;
use nix::unistd::Pid;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};
use tokio::sync::OnceCell;

/// Names the socket directory of a cluster that other processes share.
pub const SHARED: &str = "CONSENTD_TEST_CLUSTER";

const TEMPLATE: &str = "consentd_template";
const DIRECTORY_PREFIX: &str = "consentd-test-";

/// A database that only one test uses; it is dropped with this value.
#[derive(Debug)]
pub struct TestDatabase {
    pub name: String,
    /// A superuser, who owns the schema.
    pub owner: PgConnectOptions,
    /// `consentd_service`: a member of `vlaapi_app`, owner of nothing.
    pub service: PgConnectOptions,
    admin: PgConnectOptions,
}

/// A fresh database to which all migrations are applied.
pub async fn database() -> TestDatabase {
    create_database(&format!("template {TEMPLATE}")).await
}

/// A fresh database to which no migration is applied.
pub async fn empty_database() -> TestDatabase {
    create_database("template template0").await
}

/// A fresh database in another encoding.
pub async fn encoded_database(encoding: &str) -> TestDatabase {
    create_database(&format!("template template0 encoding '{encoding}' lc_collate 'C' lc_ctype 'C'")).await
}

/// A migrated database as a provider of managed PostgreSQL gives it: its owner may make roles and databases and is no
/// superuser, PUBLIC may do nothing by default, and another party replicates every table.
pub async fn managed_database() -> TestDatabase {
    let fresh = empty_database().await;
    let (owner, service) = (format!("owner_{}", fresh.name), format!("service_{}", fresh.name));
    let mut admin = fresh.owner.connect().await.expect("the new database answers");
    for statement in [
        format!("create role {owner} login createrole createdb"),
        format!("create role {service} login"),
        format!("alter database {} owner to {owner}", fresh.name),
        "revoke all on schema public from public".to_owned(),
        format!("revoke all on database {} from public", fresh.name),
        format!("grant connect on database {} to {service}", fresh.name),
        format!("grant vlaapi_app, vlaapi_eraser to {service}"),
        format!("alter default privileges for role {owner} revoke execute on functions from public"),
        format!("alter default privileges for role {owner} revoke usage on types from public"),
        "create publication everything for all tables".to_owned(),
    ] {
        execute(&mut admin, statement).await;
    }
    admin.close().await.expect("the connection closes");
    let managed = TestDatabase {
        owner: fresh.owner.clone().username(&owner),
        service: fresh.service.clone().username(&service),
        name: fresh.name.clone(),
        admin: fresh.admin.clone(),
    };
    // It is dropped with the value that is returned.
    std::mem::forget(fresh);
    migrations::up(&managed.owner, None).await.expect("the migrations apply");
    managed
}

async fn create_database(template: &str) -> TestDatabase {
    let socket = run_cluster().await;
    let name = format!("test_{}", uuid::Uuid::new_v4().simple());
    let admin = options(socket, "consentd_owner", "postgres");
    let mut connection = admin.connect().await.expect("the run's cluster answers");
    // Copying files is several times faster than writing the copy to the log; version 14 knows no other way.
    let version: i32 = sqlx::query_scalar("select current_setting('server_version_num')::integer")
        .fetch_one(&mut connection)
        .await
        .expect("the version is known");
    let strategy = if version >= 15_00_00 { "strategy file_copy" } else { "" };
    execute(&mut connection, format!("create database {name} {template} {strategy}")).await;
    connection.close().await.expect("the connection closes");
    TestDatabase {
        owner: options(socket, "consentd_owner", &name),
        service: options(socket, "consentd_service", &name),
        name,
        admin,
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let admin = self.admin.clone();
        let statement = format!("drop database if exists {} with (force)", self.name);
        // A test's own runtime cannot be waited for here, and is gone in a moment.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut connection = admin.connect().await?;
                sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await
            })?;
            Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
        });
        if let Ok(Err(error)) = dropped.join() {
            eprintln!("{} is not dropped: {error}", self.name);
        }
    }
}

/// The socket directory of the cluster that the tests of this run share.
async fn run_cluster() -> &'static Path {
    static RUN_CLUSTER: OnceCell<(PathBuf, Option<OwnCluster>)> = OnceCell::const_new();
    let (socket, _) = RUN_CLUSTER
        .get_or_init(async || {
            #[expect(
                clippy::disallowed_methods,
                reason = "it is a setting of the tests and not of the service"
            )]
            let shared = std::env::var_os(SHARED);
            if let Some(socket) = shared {
                return (PathBuf::from(socket), None);
            }
            let cluster = OwnCluster::start_with_template().await;
            (cluster.socket_directory(), Some(cluster))
        })
        .await;
    socket
}

/// A cluster that a test starts for itself, to stop it and start it again.
#[derive(Debug)]
pub struct OwnCluster {
    /// Connects to a migrated database.
    pub owner: PgConnectOptions,
    pub service: PgConnectOptions,
    directory: PathBuf,
    programs: Programs,
    account: Account,
    server: Option<Server>,
}

impl OwnCluster {
    /// Starts a cluster with one migrated database.
    pub async fn start() -> Self {
        let cluster = Self::start_empty("consentd").await;
        cluster.create_migrated("consentd").await;
        cluster
    }

    /// Starts a cluster with the template from which `database` makes its copies.
    pub async fn start_with_template() -> Self {
        let cluster = Self::start_empty("postgres").await;
        cluster.create_migrated(TEMPLATE).await;
        let mut connection = cluster.owner.connect().await.expect("the new cluster answers");
        execute(
            &mut connection,
            format!("alter database {TEMPLATE} is_template true allow_connections false"),
        )
        .await;
        connection.close().await.expect("the connection closes");
        cluster
    }

    async fn start_empty(database: &str) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let parent = memory_or_disk();
        remove_directories_of_dead_runs(&parent);
        let account = Account::find().expect("there is an account for PostgreSQL");
        let programs = Programs::find(None, None).expect("the server programs are installed");
        let directory = parent.join(format!(
            "{DIRECTORY_PREFIX}{}-{}",
            std::process::id(),
            STARTED.fetch_add(1, Ordering::Relaxed)
        ));
        account.private_directory(&directory).expect("the directory can be made");
        let initdb = account
            .command(&programs.program("initdb"))
            .args(["--username=consentd_owner", "--auth=trust", "--encoding=UTF8", "--locale=C"])
            .args(["--no-sync", "--no-instructions", "--pgdata"])
            .arg(directory.join("data"))
            .stdin(Stdio::null())
            .output()
            .expect("initdb runs");
        assert!(initdb.status.success(), "initdb: {}", String::from_utf8_lossy(&initdb.stderr));
        let mut cluster = Self {
            owner: options(&directory, "consentd_owner", database),
            service: options(&directory, "consentd_service", database),
            directory,
            programs,
            account,
            server: None,
        };
        cluster.start_again().await;
        cluster
    }

    /// The directory that `CONSENTD_TEST_CLUSTER` names.
    pub fn socket_directory(&self) -> PathBuf {
        self.directory.clone()
    }

    /// Ends the server at once, as a crash does: clients are cut off, what is committed stays.
    pub async fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.signal(Signal::SIGQUIT);
            server.ended().await;
        }
    }

    /// Stops the server in good order.
    pub async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop().await;
        }
    }

    /// Starts the server again: same data, same socket.
    pub async fn start_again(&mut self) {
        assert!(self.server.is_none(), "the server runs already");
        let mut server = Server::spawn(self.postgres(), Signal::SIGQUIT).await.expect("postgres starts");
        if let Err(words) = server.ready().await {
            panic!("PostgreSQL does not start: {words}");
        }
        self.server = Some(server);
    }

    /// Starts the stopped server as a standby without a primary: it can be read and is in recovery until it is promoted.
    pub async fn start_as_standby(&mut self) {
        let signal = self.directory.join("data/standby.signal");
        self.account.private_file(&signal, "").expect("the file can be made");
        self.server = Some(Server::spawn(self.postgres(), Signal::SIGQUIT).await.expect("postgres starts"));
        for _ in 0..500 {
            if self.owner.connect().await.is_ok() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("the standby does not start");
    }

    /// Runs a statement of the superuser.
    pub async fn sql(&self, statement: &str) {
        let mut owner = self.owner.connect().await.expect("the cluster answers");
        execute(&mut owner, statement.to_owned()).await;
    }

    fn postgres(&self) -> Command {
        let mut postgres = self.account.command(&self.programs.program("postgres"));
        postgres.arg("-D").arg(self.directory.join("data")).arg("-k").arg(&self.directory);
        // The data need not outlive the machine, only a killed server.
        for setting in [
            "listen_addresses=",
            "fsync=off",
            "full_page_writes=off",
            "autovacuum=off",
            "max_connections=500",
            "max_wal_size=4GB",
            "lc_messages=C",
        ] {
            postgres.args(["-c", setting]);
        }
        postgres
    }

    async fn create_migrated(&self, database: &str) {
        let mut admin = options(&self.directory, "consentd_owner", "postgres")
            .connect()
            .await
            .expect("the new cluster answers");
        for statement in [
            "create role vlaapi_app nologin".to_owned(),
            "create role consentd_service login".to_owned(),
            "grant vlaapi_app to consentd_service".to_owned(),
            "create role vlaapi_eraser nologin".to_owned(),
            "grant vlaapi_eraser to consentd_service".to_owned(),
            format!("create database {database}"),
        ] {
            execute(&mut admin, statement).await;
        }
        admin.close().await.expect("the connection closes");
        let owner = options(&self.directory, "consentd_owner", database);
        migrations::up(&owner, None).await.expect("the migrations apply");
    }
}

impl Drop for OwnCluster {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.signal(Signal::SIGQUIT);
        }
        // What the server still writes while it ends is removed by the next run.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Options for a socket without a password, whatever PG* variables are set.
fn options(socket: &Path, user: &str, database: &str) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .socket(socket)
        .port(5432)
        .username(user)
        .database(database)
        .ssl_mode(PgSslMode::Disable)
}

async fn execute(connection: &mut PgConnection, statement: String) {
    sqlx::raw_sql(AssertSqlSafe(statement.clone()))
        .execute(connection)
        .await
        .unwrap_or_else(|error| panic!("{statement}: {error}"));
}

/// Memory, where there is enough of it: containers often have 64 MB.
pub fn memory_or_disk() -> PathBuf {
    let memory = Path::new("/dev/shm");
    match statvfs(memory) {
        // Two gigabytes, in pages of four kilobytes.
        Ok(space) if space.blocks_available() > 524_288 => memory.to_path_buf(),
        _ => std::env::temp_dir(),
    }
}

fn remove_directories_of_dead_runs(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| {
            let (process, _) = name.strip_prefix(DIRECTORY_PREFIX)?.split_once('-')?;
            process.parse().ok()
        });
        if let Some(process) = process
            && kill(Pid::from_raw(process), None) == Err(Errno::ESRCH)
        {
            // Another run may remove it at the same time.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[tokio::test]
async fn every_test_has_a_migrated_database_of_its_own() {
    let (one, other) = (database().await, database().await);
    assert_ne!(one.name, other.name);
    let mut service = one.service.connect().await.unwrap();
    let consents: i64 = sqlx::query_scalar("select count(*) from vlaapi.customer_data_consent")
        .fetch_one(&mut service)
        .await
        .unwrap();
    assert_eq!(consents, 0);
}

#[tokio::test]
async fn an_empty_database_has_no_schema() {
    let database = empty_database().await;
    let mut owner = database.owner.connect().await.unwrap();
    let schema: Option<String> =
        sqlx::query_scalar("select to_regnamespace('vlaapi')::text").fetch_one(&mut owner).await.unwrap();
    assert_eq!(schema, None);
}

#[tokio::test]
async fn a_killed_cluster_comes_back_with_what_was_committed() {
    let mut cluster = OwnCluster::start().await;
    let mut owner = cluster.owner.connect().await.unwrap();
    execute(&mut owner, "insert into vlaapi.customers (email) values ('a@example.com')".to_owned()).await;
    cluster.kill().await;
    assert!(cluster.owner.connect().await.is_err());
    cluster.start_again().await;
    let mut service = cluster.service.connect().await.unwrap();
    let customers: i64 =
        sqlx::query_scalar("select count(*) from vlaapi.customers").fetch_one(&mut service).await.unwrap();
    assert_eq!(customers, 1);
    cluster.stop().await;
}
