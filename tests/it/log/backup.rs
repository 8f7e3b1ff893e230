//! A backup of a database, and going back to it: what an administrator does after an accident, or to undo history.

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection};

pub struct Backup {
    admin: PgConnectOptions,
    database: String,
    copy: String,
}

impl Backup {
    /// Of the database to which these options lead. Connections to it are cut off: their pools make new ones.
    pub async fn take(owner: &PgConnectOptions) -> Self {
        let database = owner.get_database().expect("the database has a name").to_owned();
        let copy = format!("{database}_backup");
        let backup = Self { admin: owner.clone().database("postgres"), database, copy };
        let mut admin = backup.admin.connect().await.expect("the cluster answers");
        // A service connects again at once, and a database with a connection cannot be copied.
        let allow = |allowed: bool| format!("alter database {} allow_connections {allowed}", backup.database);
        execute(&mut admin, allow(false)).await;
        backup.cut_off(&mut admin).await;
        let create = format!("create database {} template {}", backup.copy, backup.database);
        execute(&mut admin, create).await;
        execute(&mut admin, allow(true)).await;
        execute(&mut admin, format!("alter database {} allow_connections true", backup.copy)).await;
        // The next heartbeats of a service find the database again.
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        backup
    }

    /// The database is what it was when the backup was taken.
    pub async fn restore(self) {
        let mut admin = self.admin.connect().await.expect("the cluster answers");
        execute(&mut admin, format!("drop database {} with (force)", self.database)).await;
        execute(&mut admin, format!("alter database {} rename to {}", self.copy, self.database)).await;
    }

    async fn cut_off(&self, admin: &mut PgConnection) {
        sqlx::query("select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = $1")
            .bind(&self.database)
            .execute(admin)
            .await
            .expect("connections are cut off");
    }
}

async fn execute(admin: &mut PgConnection, statement: String) {
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(admin).await.expect("an administrator may do it");
}
