//! Checkpoints leave the database: into the log lines, a file, a webhook, and to witnesses. Whoever holds one of them can
//! tell later whether the database was set back.

use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, StatusCode, Url};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::checkpoint_file::CheckpointFile;
use super::clock;
use super::tasks::{Tasks, sleep_or_stop};
use crate::config::audit::{AuditConfig, Witness};
use crate::error::StartError;
use crate::ops::log::sealer::Signed;
use crate::outbound;
use crate::store::Store;
use crate::telemetry;
use crate::tlog::Note;
use crate::tlog::note::parse_signature_lines;

mod checkpoint_file;

/// Between two calls to one place: a checkpoint stands for all before it.
const PACE: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(5);
/// How long a place that fails is left alone, at most.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// The longest answer of a witness: a size, or a few lines of signatures.
const LONGEST_ANSWER: usize = 64 << 10;

/// Where every checkpoint that this replica signs or sees goes.
#[derive(Debug)]
pub struct Publication {
    file: Option<CheckpointFile>,
    newest: watch::Sender<Option<Signed>>,
}

impl Publication {
    /// Starts a task for each place outside.
    pub fn start(config: &AuditConfig, store: &Store, tasks: &Tasks) -> Result<Self, StartError> {
        let (newest, follow) = watch::channel(None);
        if config.audit_checkpoint_webhook.is_some() || !config.audit_witnesses.is_empty() {
            let client = client()?;
            if let Some(url) = config.audit_checkpoint_webhook.clone() {
                let context = (client.clone(), url, follow.clone());
                tasks.spawn("checkpoint_webhook", context, |(client, url, follow), stop| {
                    call_webhook(client, url, follow, stop)
                });
            }
            for witness in config.audit_witnesses.clone() {
                let context = (client.clone(), store.clone(), witness, follow.clone());
                tasks.spawn("witness", context, |(client, store, witness, follow), stop| {
                    ask_witness(client, store, witness, follow, stop)
                });
            }
        }
        let file = config.audit_checkpoint_file.clone().map(|path| CheckpointFile::start(path, tasks));
        Ok(Self { file, newest })
    }

    /// A checkpoint that some replica signed: into this replica's file.
    pub fn noticed(&self, checkpoint: &Signed) {
        if let Some(file) = &self.file {
            file.append(&checkpoint.note);
        }
    }

    /// A checkpoint that this replica signed: everywhere.
    pub fn signed(&self, checkpoint: Signed) {
        self.noticed(&checkpoint);
        tracing::info!(
            origin = checkpoint.checkpoint.origin,
            size = checkpoint.checkpoint.size,
            root = %checkpoint.checkpoint.root,
            note = checkpoint.note,
            "checkpoint"
        );
        self.newest.send_replace(Some(checkpoint));
    }
}

fn client() -> Result<Client, StartError> {
    let client = outbound::client().timeout(TIMEOUT).build();
    client.map_err(|error| StartError::new(format!("no HTTP client can be made: {}", outbound::cause(error))))
}

/// Hands each newest checkpoint to `publish`, at its pace; what fails is tried again with the one that is newest then.
async fn with_newest<F: Future<Output = Result<(), String>>>(
    place: &'static str,
    mut follow: watch::Receiver<Option<Signed>>,
    stop: CancellationToken,
    mut publish: impl FnMut(Signed) -> F,
) {
    let mut pause = PACE;
    loop {
        tokio::select! {
            changed = follow.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
        loop {
            let Some(newest) = follow.borrow_and_update().clone() else { break };
            let size = newest.checkpoint.size;
            match publish(newest).await {
                Ok(()) => {
                    pause = PACE;
                    break;
                }
                Err(why) => {
                    telemetry::checkpoint_not_published(place);
                    tracing::warn!(place, size, why, "a checkpoint was not taken; it is tried again");
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
            if !sleep_or_stop(pause, &stop).await {
                return;
            }
        }
        if !sleep_or_stop(pause, &stop).await {
            return;
        }
    }
}

async fn call_webhook(
    client: Client,
    url: Url,
    follow: watch::Receiver<Option<Signed>>,
    stop: CancellationToken,
) {
    with_newest("webhook", follow, stop, |checkpoint| {
        let call = client
            .post(url.clone())
            .header(CONTENT_TYPE, "text/plain; charset=utf-8")
            .body(checkpoint.note)
            .send();
        async move {
            let answer = call.await.map_err(outbound::cause)?;
            if answer.status().is_success() {
                Ok(())
            } else {
                Err(format!("it answered {}", answer.status()))
            }
        }
    })
    .await;
}

async fn ask_witness(
    client: Client,
    store: Store,
    witness: Witness,
    follow: watch::Receiver<Option<Signed>>,
    stop: CancellationToken,
) {
    // What the witness cosigned last. It knows best itself, and says so if we do not.
    let known = std::sync::atomic::AtomicU64::new(0);
    let (client, store, witness, known) = (&client, &store, &witness, &known);
    with_newest("witness", follow, stop, |checkpoint| async move {
        let order = std::sync::atomic::Ordering::Relaxed;
        for _ in 0..3 {
            match add_checkpoint(client, store, witness, &checkpoint, known.load(order)).await? {
                Added::Cosigned => {
                    known.store(checkpoint.checkpoint.size, order);
                    return Ok(());
                }
                Added::KnowsOther(size) if size <= checkpoint.checkpoint.size => known.store(size, order),
                Added::KnowsOther(size) => {
                    known.store(size, order);
                    return is_published(store, checkpoint.log_id, size).await;
                }
            }
        }
        Err("it goes on naming another size".to_owned())
    })
    .await;
}

/// Another replica was faster with a later checkpoint, if there is one of that size. Else the witness is wrong, or has seen
/// what this database does not show any more.
async fn is_published(store: &Store, log_id: i32, size: u64) -> Result<(), String> {
    let latest = store.latest_checkpoint(log_id).await.map_err(|error| error.to_string())?;
    if latest.is_some_and(|latest| size <= latest.tree_size.cast_unsigned()) {
        Ok(())
    } else {
        Err(format!("it has cosigned a tree of size {size}, which this log does not have"))
    }
}

enum Added {
    Cosigned,
    /// The witness last cosigned a tree of this size.
    KnowsOther(u64),
}

/// `add-checkpoint` of <https://c2sp.org/tlog-witness>.
async fn add_checkpoint(
    client: &Client,
    store: &Store,
    witness: &Witness,
    signed: &Signed,
    old: u64,
) -> Result<Added, String> {
    let proof = store
        .consistency_proof(signed.log_id, old, signed.checkpoint.size)
        .await
        .map_err(|error| error.to_string())?
        .ok_or("it knows a larger tree")?;
    let lines = proof.iter().fold(String::new(), |lines, hash| lines + &hash.to_string() + "\n");
    let url = witness.url.join("add-checkpoint").map_err(|error| error.to_string())?;
    let answer = client
        .post(url)
        .body(format!("old {old}\n{lines}\n{}", signed.note))
        .send()
        .await
        .map_err(outbound::cause)?;
    let status = answer.status();
    let text = outbound::text(answer, LONGEST_ANSWER).await?;
    match status {
        StatusCode::OK => {}
        StatusCode::CONFLICT => {
            let size = text.trim().parse().map_err(|_| "it answered 409 without a size".to_owned())?;
            return Ok(Added::KnowsOther(size));
        }
        _ => return Err(format!("it answered {status}")),
    }
    let signatures = parse_signature_lines(&text).map_err(|fault| fault.to_string())?;
    let own = signatures
        .into_iter()
        .filter(|line| line.name == witness.key.name() && line.key_id == witness.key.id());
    let own: Vec<_> = own.collect();
    let cosigned = Note { text: signed.checkpoint.to_string(), signatures: own.clone() };
    cosigned.verify(std::slice::from_ref(&witness.key)).map_err(|fault| fault.to_string())?;
    for line in own {
        let size = signed.checkpoint.size.cast_signed();
        store
            .keep_cosignature(signed.log_id, size, witness.key.name(), &line.to_string(), clock())
            .await
            .map_err(|error| error.to_string())?;
    }
    Ok(Added::Cosigned)
}
