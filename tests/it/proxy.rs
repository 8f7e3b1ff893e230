//! The way to the database, which a test can cut, or let hang.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Open,
    /// Connections are ended, and new ones end at once.
    Cut,
    /// Nothing goes through, and nobody is told.
    Hanging,
    /// Nothing goes through the connections of before, and new ones work.
    HalfOpen,
}

#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    way: Arc<watch::Sender<Way>>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Before the database of these options.
    pub async fn before(options: &PgConnectOptions) -> Self {
        let socket: PathBuf = options
            .get_socket()
            .expect("the cluster listens on a socket")
            .join(format!(".s.PGSQL.{}", options.get_port()));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let way = Arc::new(watch::Sender::new(Way::Open));
        let task = tokio::spawn({
            let way = Arc::clone(&way);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(pass(client, socket.clone(), way.subscribe()));
                }
            }
        });
        Self { address, way, task }
    }

    /// The same database, by this way.
    pub fn options(&self, options: &PgConnectOptions) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .username(options.get_username())
            .database(options.get_database().expect("a database"))
            .host(&self.address.ip().to_string())
            .port(self.address.port())
            .ssl_mode(PgSslMode::Disable)
    }

    pub fn cut(&self) {
        self.way.send_replace(Way::Cut);
    }

    pub fn hang(&self) {
        self.way.send_replace(Way::Hanging);
    }

    pub fn half_open(&self) {
        self.way.send_replace(Way::HalfOpen);
    }

    pub fn mend(&self) {
        self.way.send_replace(Way::Open);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.way.send_replace(Way::Cut);
    }
}

async fn pass(mut client: tokio::net::TcpStream, socket: PathBuf, mut way: watch::Receiver<Way>) {
    if way.wait_for(|way| *way != Way::Hanging).await.is_ok_and(|way| *way == Way::Cut) {
        return;
    }
    let is_new = *way.borrow() == Way::HalfOpen;
    let Ok(mut server) = UnixStream::connect(socket).await else { return };
    loop {
        let now = *way.borrow_and_update();
        match now {
            Way::Cut => return,
            Way::Hanging | Way::HalfOpen if now == Way::Hanging || !is_new => {
                if way.changed().await.is_err() {
                    return;
                }
            }
            Way::Open | Way::HalfOpen | Way::Hanging => tokio::select! {
                _ = copy_bidirectional(&mut client, &mut server) => return,
                changed = way.changed() => if changed.is_err() { return },
            },
        }
    }
}
