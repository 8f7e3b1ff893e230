//! `PgBouncer` between the service and the database. Runs where it is installed.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use consentd::postgres::account::Account;
use consentd::store::connection::{Purpose, pools_transactions};
use serde_json::json;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions as _, Row as _};
use tokio::time::sleep;

use crate::service::{Service, consent};

struct PgBouncer {
    process: Child,
    directory: PathBuf,
    options: PgConnectOptions,
}

impl PgBouncer {
    /// Before the database of these options; `None` where the program is not installed.
    async fn start(options: &PgConnectOptions, mode: &str) -> Option<Self> {
        let program =
            ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer", "/usr/local/bin/pgbouncer"].map(Path::new);
        let Some(program) = program.into_iter().find(|program| program.exists()) else {
            eprintln!("skipped: PgBouncer is not installed");
            return None;
        };
        let account = Account::find().expect("there is an account for PostgreSQL");
        let directory =
            std::env::temp_dir().join(format!("consentd-pgbouncer-{}", uuid::Uuid::new_v4().simple()));
        account.private_directory(&directory).expect("the directory can be made");
        let socket = options.get_socket().expect("the cluster listens on a socket");
        let settings = format!(
            "[databases]\n* = host={socket} port={port}\n[pgbouncer]\nlisten_addr =\nlisten_port = 6432\n\
             unix_socket_dir = {directory}\nauth_type = trust\nauth_file = {directory}/users\npool_mode = {mode}\n\
             default_pool_size = 50\n",
            socket = socket.display(),
            port = options.get_port(),
            directory = directory.display(),
        );
        account.private_file(&directory.join("ini"), &settings).expect("a file");
        let users = format!("\"{}\" \"\"\n", options.get_username());
        account.private_file(&directory.join("users"), &users).expect("a file");
        let options = PgConnectOptions::new_without_pgpass()
            .socket(&directory)
            .port(6432)
            .username(options.get_username())
            .database(options.get_database().expect("a database"))
            .ssl_mode(PgSslMode::Disable);
        let process = account
            .command(program)
            .arg("--quiet")
            .arg(directory.join("ini"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("PgBouncer starts");
        // It is ended with this value, whatever comes.
        let pooler = Self { process, directory, options };
        for _ in 0..250 {
            if pooler.directory.join(".s.PGSQL.6432").exists() {
                return Some(pooler);
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("PgBouncer does not start");
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[tokio::test]
async fn the_service_works_behind_pgbouncer_in_session_mode() {
    let direct = Service::start().await;
    let Some(pooler) = PgBouncer::start(&direct.login, "session").await else { return };
    assert!(!pools_transactions(&pooler.options).await.expect("it can be asked"));
    // It follows, which takes LISTEN, and looks up by prepared statements.
    let service = Service::following(direct.owner.clone(), &pooler.options).await;
    let customer = service.customer().await;
    let wish = json!({"consent_tier": "research", "can_store_images": true});
    service.put(customer, &wish).send().await.expect(201);
    let check = format!("{}/permissions?check=images", consent(customer));
    assert_eq!(service.get(&check).send().await.expect(200).json()["allowed"], true);
    direct.call("DELETE", &consent(customer)).send().await.expect(200);
    for _ in 0..250 {
        if service.get(&check).send().await.expect(200).json()["allowed"] == false {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(service.get(&check).send().await.expect(200).json()["allowed"], false);
    assert_eq!(service.trail(customer).await.len(), 2);
    assert_eq!(service.sessions_ended(), 0);
    for (purpose, name, value) in [
        (Purpose::Lane, "lock_timeout", "1s"),
        (Purpose::Reads, "statement_timeout", "5s"),
        (Purpose::Lookups, "plan_cache_mode", "force_generic_plan"),
    ] {
        let mut connection = service.store.connect(purpose).await.expect("it connects");
        let shown = sqlx::raw_sql(sqlx::AssertSqlSafe(format!("show {name}")));
        let shown: String = shown.fetch_one(&mut connection).await.expect("a setting").get(0);
        assert_eq!(shown, value, "{name}");
    }
}

#[tokio::test]
async fn a_pooler_of_transactions_or_statements_is_found_out() {
    let direct = Service::start().await;
    assert!(!pools_transactions(&direct.login).await.expect("it can be asked"));
    for mode in ["transaction", "statement"] {
        let Some(pooler) = PgBouncer::start(&direct.login, mode).await else { return };
        assert!(pools_transactions(&pooler.options).await.expect("it can be asked"), "{mode}");
        // Beside others, who keep it busy.
        let mut others = Vec::new();
        for _ in 0..5 {
            let mut other =
                pooler.options.clone().extra_float_digits(None).connect().await.expect("it connects");
            sqlx::raw_sql("select 1").execute(&mut other).await.expect("it answers");
            others.push(other);
        }
        assert!(pools_transactions(&pooler.options).await.expect("it can be asked"), "{mode}");
    }
}
