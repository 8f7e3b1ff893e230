//! The one who writes consents: decisions that come together are folded, and written by one transaction.
//!
//! Each lane has a session of its own and works on one batch at a time: whatever has queued while the one before it was
//! being committed. Nobody lingers to fill a batch. A lane owns what is in its queue: a caller who goes away takes nothing
//! with it, a write is whole or it is absent.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::num::NonZeroU16;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use sqlx::PgConnection;
use sqlx::error::DatabaseError;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::fold::{Fold, Step};
use super::{Outcome, Request};
use crate::background::TimeSlice;
use crate::cache::Cache;
use crate::cache::hints::Change;
use crate::domain::WriterKey;
use crate::error::Error;
use crate::ops::log::vouching;
use crate::store::Store;
use crate::store::availability::Availability;
use crate::store::chain::Chain;
use crate::store::consents::{self, Locked, NewEntry};

/// The name of the lanes where the health of background tasks is reported.
const TASK: &str = "writer";
/// How many decisions may wait in a lane; the next one is told at once to come back.
const QUEUE: usize = 1024;
/// Places in each lane's queue beyond that, for withdrawals alone.
const RESERVE: usize = 64;
/// How many are taken out of the queue for one batch.
const BATCH: usize = 500;
/// How long a decision waits for a consent that somebody else holds: as long as a statement waits for a lock.
const HELD_FOR: Duration = Duration::from_secs(1);
/// Between two tries where there is nothing else to do.
const PAUSE: Duration = Duration::from_millis(5);
/// How long a session stays in a transaction in which nothing is done.
const BEGUN_FOR: Duration = Duration::from_millis(100);
/// Callers wait for a transaction for this long.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);
/// The lane waits for it longer, a little longer in all than the database lets a statement take. Then it gives the session
/// up.
const RUNS_ON_FOR: Duration = Duration::from_secs(5);
/// A transaction from before a loss of the database may still end this long after it.
const GRACE: Duration = Duration::from_millis(250);

/// Takes decisions, to be written in the order in which they came.
#[derive(Clone, Debug)]
pub struct Writer {
    store: Store,
    lanes: Arc<[Entrance]>,
}

/// The way into a lane.
#[derive(Clone, Debug)]
struct Entrance {
    queue: mpsc::Sender<Item>,
    /// Whether the lane's session answers.
    session: Arc<Availability>,
}

/// The lanes of a [`Writer`] at work.
#[derive(Debug)]
#[must_use = "what is queued is only waited for by `finish`"]
pub struct Lanes {
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Writer {
    /// Starts the lanes. Without a key entries are not vouched for.
    pub fn start(
        store: &Store,
        cache: &Arc<Cache>,
        key: Option<&WriterKey>,
        lanes: NonZeroU16,
    ) -> (Self, Lanes) {
        let stop = CancellationToken::new();
        let (lanes, tasks) = (0..lanes.get())
            .map(|_| {
                let (sender, queue) = mpsc::channel(QUEUE + RESERVE);
                let availability = Arc::<Availability>::default();
                let entrance = Entrance { queue: sender, session: Arc::clone(&availability) };
                let (store, cache, key) = (store.clone(), Arc::clone(cache), key.cloned());
                let (session, held) = (None, Vec::new());
                let lane = Lane { store, cache, key, session, availability, queue, drained: false, held };
                (entrance, tokio::spawn(lane.run(stop.clone())))
            })
            .collect::<(Vec<_>, Vec<_>)>();
        (Self { store: store.clone(), lanes: lanes.into() }, Lanes { stop, tasks })
    }

    /// Applies a decision: the consent and its audit entry are both durable when this returns, or neither exists. Once it
    /// is queued, which the first poll does, it is carried out whether or not somebody waits for the outcome.
    ///
    /// While the database does not answer, nothing is queued and nobody waits: a decision that is queued then is not
    /// carried out, and the outcome of one that is under way is not known.
    pub async fn submit(&self, request: Request) -> Result<Outcome, Error> {
        let lane = self.lane(request.customer_id);
        let losses = self.losses(lane);
        let answered = async {
            // Requests that come together may each find the last place: they take a few of the reserve.
            if lane.queue.capacity() <= RESERVE && !request.decision.is_withdrawal() {
                return Err(Error::Overloaded);
            }
            let (answer, outcome) = oneshot::channel();
            let item = Item { request, answer, held_since: None, losses };
            lane.queue.try_send(item).map_err(|refusal| match refusal {
                TrySendError::Full(_) => Error::Overloaded,
                TrySendError::Closed(_) => Error::Unavailable("the service is stopping".to_owned()),
            })?;
            let lost = |_| Error::Unavailable("the write was given up".to_owned());
            outcome.await.map_err(lost)?
        };
        self.store.unless_lost(lane.session.unless_lost(answered)).await
    }

    fn losses(&self, lane: &Entrance) -> Losses {
        Losses { database: self.store.availability().losses(), session: lane.session.losses() }
    }

    /// One customer, one lane: that keeps the order. A batch is one transaction on one database; were the customers
    /// spread over several, the lane would have to be one of those of the customer's database.
    fn lane(&self, customer_id: Uuid) -> &Entrance {
        let mut hasher = DefaultHasher::new();
        customer_id.hash(&mut hasher);
        let number = hasher.finish() % self.lanes.len() as u64;
        &self.lanes[usize::try_from(number).expect("there are few lanes")]
    }
}

impl Lanes {
    /// Takes no more decisions, and returns when those that are queued are answered.
    pub async fn finish(self) {
        self.stop.cancel();
        for task in self.tasks {
            // A lane that panicked has said so in the log.
            let _ = task.await;
        }
    }
}

/// A decision in a lane.
#[derive(Debug)]
struct Item {
    request: Request,
    answer: oneshot::Sender<Result<Outcome, Error>>,
    /// Since when its consent is found to be held by somebody else.
    held_since: Option<Instant>,
    /// The losses before it was queued.
    losses: Losses,
}

/// Counts of how often the database, and the session of a lane, did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Losses {
    database: u64,
    session: u64,
}

impl Item {
    fn answer(self, outcome: Result<Outcome, Error>) {
        // The caller may have gone away.
        let _ = self.answer.send(outcome);
    }
}

struct Lane {
    store: Store,
    cache: Arc<Cache>,
    key: Option<WriterKey>,
    session: Option<Chain>,
    /// Of the session, for those who wait for it.
    availability: Arc<Availability>,
    queue: mpsc::Receiver<Item>,
    /// The queue is closed, and nothing is left in it.
    drained: bool,
    /// What waits for somebody else's lock: it begins the next batch, so that no later decision overtakes it.
    held: Vec<Item>,
}

/// What became of a batch that could be worked on.
struct Settled {
    /// Of each item.
    verdicts: Vec<Verdict>,
    /// Whether anything has changed.
    changes: bool,
}

enum Verdict {
    Answer(Result<Outcome, Error>),
    /// Somebody else holds the consent.
    Held,
}

impl Verdict {
    fn outcome(&self) -> Option<&Outcome> {
        match self {
            Self::Answer(Ok(outcome)) => Some(outcome),
            Self::Answer(Err(_)) | Self::Held => None,
        }
    }
}

/// The conditions under which a batch is written.
#[derive(Clone, Copy)]
struct Conditions {
    /// Ids that are drawn must be above this one, which this replica has seen.
    largest_id: i64,
    /// Decisions that allow more than before are refused.
    refuses_grants: bool,
}

impl Conditions {
    /// Returns whether the sequence of audit ids was behind when it drew those of a consent.
    fn is_behind(self, consent: &Locked) -> bool {
        consent.audit_ids.front().is_some_and(|audit_id| *audit_id <= self.largest_id)
    }
}

/// Why a batch came to nothing.
enum Failure {
    /// The session is of no use any more, and nothing was begun on it.
    NotBegun(String),
    /// Nothing is written, and one of the items may be to blame.
    Refused(Error),
    /// Nothing is written, since somebody else is about to make or to remove the row of one of the items.
    Blocked,
    /// Nothing is written: the sequence of audit ids is behind the trail.
    DrawnTwice,
    /// Nothing is written, and nothing would be if it were tried again now.
    Unavailable(String),
    /// The end of the transaction is not known.
    Unknown(String),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        // Class 40: a deadlock, say, in which one of the items has a part.
        let rolled_back = sqlstate(&error).is_some_and(|code| code.starts_with("40"));
        match Error::from(error) {
            Error::Unavailable(why) if !rolled_back => Self::Unavailable(why),
            error => Self::Refused(error),
        }
    }
}

fn sqlstate(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(Into::into)
}

impl Lane {
    /// A panic ends one batch, whose callers get an error. It may have been committed, and memory may not know it.
    async fn run(mut self, stop: CancellationToken) {
        let health = Arc::clone(&self.cache.health);
        while health.catch_panic(TASK, Box::pin(self.work_until(&stop))).await.is_err() {
            self.session = None;
            self.cache.freshness.forget_all();
        }
        if let Some(session) = self.session {
            // It is the database's to notice, if it cannot be told.
            let _ = session.close().await;
        }
    }

    async fn work_until(&mut self, stop: &CancellationToken) {
        while let Some(batch) = self.next_batch(stop).await {
            self.work(batch).await;
        }
    }

    /// What waits for a lock, and what has queued; `None` when it is time to stop and nothing is left.
    async fn next_batch(&mut self, stop: &CancellationToken) -> Option<Vec<Item>> {
        let mut batch = std::mem::take(&mut self.held);
        let held = !batch.is_empty();
        while held || !self.drained {
            tokio::select! {
                biased;
                queued = self.queue.recv_many(&mut batch, BATCH), if !self.drained => {
                    if queued > 0 {
                        return Some(batch);
                    }
                    self.drained = true;
                }
                () = stop.cancelled(), if !self.queue.is_closed() => self.queue.close(),
                () = sleep(PAUSE), if held => return Some(batch),
                () = sleep(BEGUN_FOR), if !held && self.session.as_ref().is_some_and(Chain::is_begun) => {
                    self.rest().await;
                }
            }
        }
        None
    }

    /// A session that is in no transaction surprises nobody who looks at the database.
    async fn rest(&mut self) {
        if let Some(mut session) = self.session.take()
            && session.rest().await.is_ok()
        {
            self.session = Some(session);
        }
    }

    async fn work(&mut self, batch: Vec<Item>) {
        let batch = self.without_lost(batch);
        if batch.is_empty() {
            return;
        }
        match self.attempt(&batch).await {
            Err(Failure::Refused(_) | Failure::Blocked) if batch.len() > 1 => self.work_on_each(batch).await,
            outcome => self.settle(batch, outcome),
        }
    }

    /// Drops the decisions that were queued before a loss. Their callers were answered 503, and may have decided
    /// otherwise since.
    fn without_lost(&self, batch: Vec<Item>) -> Vec<Item> {
        let losses =
            Losses { database: self.store.availability().losses(), session: self.availability.losses() };
        let (batch, lost): (Vec<_>, Vec<_>) = batch.into_iter().partition(|item| item.losses == losses);
        for item in lost {
            item.answer(Err(Error::Unavailable("the database did not answer".to_owned())));
        }
        batch
    }

    /// The same, each item by itself: whoever spoils a batch fails alone.
    async fn work_on_each(&mut self, batch: Vec<Item>) {
        let mut unavailable = None;
        for item in batch {
            let customer_id = item.request.customer_id;
            let outcome = if let Some(why) = &unavailable {
                Err(Failure::Unavailable(String::clone(why)))
            } else if self.held.iter().any(|held| held.request.customer_id == customer_id) {
                Err(Failure::Blocked)
            } else {
                self.attempt(std::slice::from_ref(&item)).await
            };
            if let Err(Failure::Unavailable(why)) = &outcome {
                unavailable = Some(why.clone());
            }
            self.settle(vec![item], outcome);
        }
    }

    async fn attempt(&mut self, batch: &[Item]) -> Result<Settled, Failure> {
        let conditions = Conditions {
            largest_id: self.cache.largest_id.load(Relaxed),
            refuses_grants: !self.cache.clock.is_tolerable(),
        };
        match self.attempt_under(batch, conditions).await {
            Err(Failure::DrawnTwice) => {
                if let Err(error) = self.cache.advance_sequences(&self.store).await {
                    tracing::error!(%error, "the sequence of audit ids cannot be moved forward");
                }
                // Whatever came of that: a withdrawal is always possible. The sealer finds an id that was used twice.
                self.attempt_under(batch, Conditions { largest_id: i64::MIN, ..conditions }).await
            }
            outcome => outcome,
        }
    }

    async fn attempt_under(&mut self, batch: &[Item], conditions: Conditions) -> Result<Settled, Failure> {
        let availability = self.store.availability();
        if let Some(session) = self.session.take_if(|session| !session.is_outdated(availability)) {
            match self.attempt_on(session, batch, conditions).await {
                // It ended while it lay idle, with the database perhaps, which may be back by now.
                Err(Failure::NotBegun(_)) => {}
                outcome => return outcome,
            }
        }
        let unavailable = |error: sqlx::Error| Failure::Unavailable(error.to_string());
        let session = self.store.chain().await.map_err(unavailable)?;
        self.attempt_on(session, batch, conditions).await
    }

    /// Keeps the session only if its transaction has ended: with one that is closed everything ends that was begun on it.
    async fn attempt_on(
        &mut self,
        mut session: Chain,
        batch: &[Item],
        conditions: Conditions,
    ) -> Result<Settled, Failure> {
        let losses = session.losses();
        let transaction = transact(&mut session, self.key.as_ref(), batch, conditions);
        let transaction = self.cache.health.catch_panic(TASK, transaction);
        match self.outlast(transaction, losses).await {
            Some(Ok(outcome)) => {
                if matches!(
                    outcome,
                    Ok(_) | Err(Failure::Refused(_) | Failure::Blocked | Failure::DrawnTwice)
                ) {
                    self.session = Some(session);
                }
                outcome
            }
            // Nothing can panic once COMMIT is sent.
            Some(Err(_)) => Err(Failure::Refused(Error::Internal("a write panicked".to_owned()))),
            None => Err(Failure::Unknown("the database does not answer".to_owned())),
        }
    }

    /// Waits for the end of a transaction. Callers wait for a second; what comes after that is refused until it has ended.
    /// `None`: its end is not known.
    async fn outlast<T>(&self, transaction: impl Future<Output = T>, losses: u64) -> Option<T> {
        let mut transaction = pin!(transaction);
        if let Ok(ended) = timeout(ANSWERED_WITHIN, &mut transaction).await {
            return Some(ended);
        }
        self.availability.lose("a write takes longer than a second: its outcome is not known yet");
        // Where the database is back and the session is still silent, it is the session that is lost.
        let back = async {
            self.store.availability().restored_since(losses).await;
            sleep(GRACE).await;
        };
        let ended = tokio::select! {
            ended = timeout(RUNS_ON_FOR, transaction) => ended.ok(),
            () = back => None,
        };
        self.availability.restore();
        ended
    }

    fn settle(&mut self, batch: Vec<Item>, outcome: Result<Settled, Failure>) {
        self.tell_cache(&batch, &outcome);
        match outcome {
            Ok(settled) => {
                for (item, verdict) in batch.into_iter().zip(settled.verdicts) {
                    match verdict {
                        Verdict::Answer(outcome) => item.answer(outcome),
                        Verdict::Held => self.hold(item),
                    }
                }
            }
            Err(failure) => {
                for item in batch {
                    match &failure {
                        Failure::Blocked => self.hold(item),
                        Failure::Refused(error) => item.answer(Err(error.clone())),
                        Failure::DrawnTwice => {
                            item.answer(Err(Error::Internal("audit ids are drawn twice".to_owned())));
                        }
                        Failure::NotBegun(why) | Failure::Unavailable(why) | Failure::Unknown(why) => {
                            item.answer(Err(Error::Unavailable(why.clone())));
                        }
                    }
                }
            }
        }
    }

    /// After the commit, and before anybody is answered: here memory learns of a batch, and nowhere else.
    fn tell_cache(&self, batch: &[Item], outcome: &Result<Settled, Failure>) {
        let consents = &self.cache.consents;
        match outcome {
            Ok(settled) => {
                // A decision that changed nothing has seen what another replica made, which may not have been followed yet.
                let outcomes = || settled.verdicts.iter().filter_map(Verdict::outcome);
                for outcome in outcomes() {
                    consents.written(&outcome.record);
                }
                if let Some(audit_id) = outcomes().filter_map(|outcome| outcome.record.audit_id).max() {
                    self.cache.largest_id.fetch_max(audit_id, Relaxed);
                }
                if settled.changes {
                    let changed = outcomes().filter(|outcome| outcome.changed);
                    self.cache.hints.tell_of(changed.filter_map(|outcome| Change::to(&outcome.record)));
                }
            }
            Err(Failure::Unknown(why)) => {
                tracing::warn!(items = batch.len(), why, "whether a batch was committed is not known");
                for item in batch {
                    consents.forget(item.request.customer_id);
                }
            }
            Err(_) => {}
        }
    }

    /// Keeps an item for the next batch, unless it has waited long enough or too many wait.
    fn hold(&mut self, mut item: Item) {
        let since = *item.held_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= HELD_FOR {
            item.answer(Err(Error::Unavailable("somebody else holds the consent's row".to_owned())));
        } else if self.held.len() >= QUEUE {
            item.answer(Err(Error::Overloaded));
        } else {
            self.held.push(item);
        }
    }
}

/// A batch, in one transaction.
async fn transact(
    session: &mut Chain,
    key: Option<&WriterKey>,
    batch: &[Item],
    conditions: Conditions,
) -> Result<Settled, Failure> {
    let mut wanted = BTreeMap::new();
    for item in batch {
        *wanted.entry(item.request.customer_id).or_insert(0) += 1;
    }
    let lay_idle = session.is_begun();
    session.begin().await.map_err(|error| Failure::NotBegun(error.to_string()))?;
    let mut skipped = 0;
    let outcome = match lock(session.as_mut(), &wanted).await {
        Ok((locked, _)) if locked.iter().any(|consent| conditions.is_behind(consent)) => {
            Err(Failure::DrawnTwice)
        }
        Ok((locked, held)) => {
            skipped = locked.iter().filter(|consent| consent.skips_versions()).count();
            let fold = Fold::new(locked).refusing_grants(conditions.refuses_grants);
            write(session.as_mut(), key, batch, fold, &held).await
        }
        // Nothing is written so far, and the session may have ended while it lay idle.
        Err(Failure::Unavailable(why)) if lay_idle => return Err(Failure::NotBegun(why)),
        Err(failure) => Err(failure),
    };
    match outcome {
        Ok(settled) if settled.changes => {
            match session.commit().await {
                Ok(()) => {
                    if skipped > 0 {
                        tracing::error!(
                            consents = skipped,
                            "audit entries are in quarantine: versions that are in the trail without their consent are skipped"
                        );
                    }
                    Ok(settled)
                }
                Err(error) => {
                    let (why, answered) = (error.to_string(), error.as_database_error().is_some());
                    match Failure::from(error) {
                        // Only the database's own plain no is one.
                        Failure::Refused(error) if answered => Err(Failure::Refused(error)),
                        _ => Err(Failure::Unknown(why)),
                    }
                }
            }
        }
        outcome => {
            // At once: a transaction that is merely dropped keeps its locks until the session is used again.
            let ended = session.rollback().await;
            ended.map_err(|error| Failure::Unavailable(error.to_string()))?;
            outcome
        }
    }
}

/// Folds, vouches and writes.
async fn write(
    connection: &mut PgConnection,
    key: Option<&WriterKey>,
    batch: &[Item],
    mut fold: Fold,
    held: &HashSet<Uuid>,
) -> Result<Settled, Failure> {
    let (mut verdicts, mut entries) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
    let mut slice = TimeSlice::begin();
    for Item { request, .. } in batch {
        slice.end_if_over().await;
        let customer_id = request.customer_id;
        if held.contains(&customer_id) {
            verdicts.push(Verdict::Held);
            continue;
        }
        let Step { record, change } = match fold.apply(request) {
            Ok(step) => step,
            Err(refusal) => {
                verdicts.push(Verdict::Answer(Err(refusal)));
                continue;
            }
        };
        let mut outcome = Outcome { record, changed: false, created: false, leaf: None };
        if let Some((audit_id, change)) = change {
            let by = &request.by;
            let vouched = key
                .map(|key| vouching::change(key, customer_id, audit_id, &change, by))
                .transpose()
                .map_err(Failure::Refused)?;
            let (leaf, vouching) = vouched.map(|vouched| (vouched.leaf, vouched.vouching)).unzip();
            outcome = Outcome { changed: true, created: change.previous.is_none(), leaf, ..outcome };
            entries.push(NewEntry { customer_id, audit_id, change, by, vouching });
        }
        verdicts.push(Verdict::Answer(Ok(outcome)));
    }
    let changed = fold.into_changed();
    if !changed.is_empty() {
        consents::write(connection, &entries, &changed).await.map_err(|error| {
            let constraint = error.as_database_error().and_then(DatabaseError::constraint);
            // An entry was inserted past the service while this was decided: the next try finds it.
            if constraint == Some("customer_consent_audit_version_key") {
                Failure::Blocked
            } else {
                error.into()
            }
        })?;
    }
    Ok(Settled { verdicts, changes: !changed.is_empty() })
}

/// Locks the consents of these customers, each for so many changes. The second value has those that somebody else holds;
/// who is in neither is not known.
async fn lock(
    connection: &mut PgConnection,
    wanted: &BTreeMap<Uuid, i32>,
) -> Result<(Vec<Locked>, HashSet<Uuid>), Failure> {
    let (customers, counts): (Vec<_>, Vec<_>) = wanted.iter().map(|(id, count)| (*id, *count)).unzip();
    let mut locked = consents::lock(connection, &customers, &counts).await?;
    if locked.len() == customers.len() {
        return Ok((locked, HashSet::new()));
    }
    let found: HashSet<_> = locked.iter().map(|consent| consent.record.customer_id).collect();
    let missing: Vec<_> = customers.into_iter().filter(|id| !found.contains(id)).collect();
    let known = consents::known(connection, &missing).await?;
    let (newcomers, counts): (Vec<_>, Vec<_>) = known
        .iter()
        .filter(|known| !known.has_row)
        .map(|known| (known.customer_id, wanted[&known.customer_id]))
        .unzip();
    let mut held: HashSet<_> = known.iter().map(|known| known.customer_id).collect();
    if !newcomers.is_empty() {
        consents::make_rows(connection, &newcomers).await.map_err(|error| {
            match sqlstate(&error).as_deref() {
                // Somebody holds it, or has just deleted the customer: the next try tells.
                Some("55P03" | "23503") => Failure::Blocked,
                _ => error.into(),
            }
        })?;
        let made = consents::lock(connection, &newcomers, &counts).await?;
        for consent in &made {
            held.remove(&consent.record.customer_id);
        }
        locked.extend(made);
    }
    Ok((locked, held))
}
