//! Look-ups in the database, coalesced: whatever is asked while one statement is under way is asked together by the
//! next. A stampede, on one key or on a thousand, costs PostgreSQL one statement at a time.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::error::Error;
use crate::health::Health;

/// How many callers may wait for an answer.
const QUEUE: usize = 4096;
/// About how many keys one statement asks for.
const BATCH: usize = 2000;
/// The number of failed statements after which the rest of a batch fails too: enough to find some twenty bad keys.
const MAX_FAILURES: usize = 256;

/// What was found.
pub type Found<S> = Vec<(<S as Source>::Key, <S as Source>::Value)>;

type Answer<V> = Result<Vec<Option<V>>, Error>;

/// What is looked up, and where.
pub trait Source: Sized + Send + 'static {
    /// The name of the background task that looks up.
    const NAME: &'static str;
    type Key: Clone + Eq + Hash + Send + Sync;
    type Value: Clone + Send;

    /// The values of those of these keys which have one.
    fn look_up(&mut self, keys: Arc<[Self::Key]>) -> impl Future<Output = Result<Found<Self>, Error>> + Send;
}

/// The way in.
#[derive(Debug)]
pub struct Lookups<S: Source> {
    queue: mpsc::Sender<Asked<S>>,
}

#[derive(Debug)]
struct Asked<S: Source> {
    keys: Vec<S::Key>,
    /// `None`: what is found is put into memory, and nobody waits for it.
    answer: Option<oneshot::Sender<Answer<S::Value>>>,
}

impl<S: Source> Lookups<S> {
    /// Ends by itself once this is dropped.
    pub fn new(source: S, health: &Arc<Health>) -> Self {
        let (queue, asked) = mpsc::channel(QUEUE);
        tokio::spawn(work(source, asked, Arc::clone(health)));
        Self { queue }
    }

    pub async fn one(&self, key: S::Key) -> Result<Option<S::Value>, Error> {
        Ok(self.many(vec![key]).await?.pop().flatten())
    }

    /// In the order of the keys. What is answered was true at some time after this was called: a statement that is
    /// under way already is never joined.
    pub async fn many(&self, keys: Vec<S::Key>) -> Result<Vec<Option<S::Value>>, Error> {
        let (answer, answered) = oneshot::channel();
        self.queue.try_send(Asked { keys, answer: Some(answer) }).map_err(|_| Error::Overloaded)?;
        answered.await.map_err(|_| Error::Internal("a look-up was given up".to_owned()))?
    }

    /// Has a key looked up for the sake of what the source does with it. Where too many wait, it is left.
    pub fn refresh(&self, key: S::Key) {
        let _ = self.queue.try_send(Asked { keys: vec![key], answer: None });
    }
}

/// Answers what is queued, until nobody can queue any more. A panic ends one batch, whose callers get an error.
async fn work<S: Source>(mut source: S, mut asked: mpsc::Receiver<Asked<S>>, health: Arc<Health>) {
    while health.catch_panic(S::NAME, answer_all(&mut source, &mut asked, &health)).await.is_err() {}
}

async fn answer_all<S: Source>(source: &mut S, asked: &mut mpsc::Receiver<Asked<S>>, health: &Health) {
    while let Some(first) = asked.recv().await {
        let mut count = first.keys.len();
        let mut batch = vec![first];
        while count < BATCH
            && let Ok(next) = asked.try_recv()
        {
            count += next.keys.len();
            batch.push(next);
        }
        // Whoever has gone away need not be asked for.
        batch.retain(|asked| asked.answer.as_ref().is_none_or(|answer| !answer.is_closed()));
        let keys: HashSet<S::Key> = batch.iter().flat_map(|asked| &asked.keys).cloned().collect();
        if keys.is_empty() {
            continue;
        }
        let Outcome { found, failed } = look_up(source, keys.into_iter().collect(), health).await;
        for (keys, answer) in batch.into_iter().filter_map(|asked| Some((asked.keys, asked.answer?))) {
            let values = match keys.iter().find_map(|key| failed.get(key)) {
                None => Ok(keys.iter().map(|key| found.get(key).cloned()).collect()),
                Some(error) => Err(error.clone()),
            };
            // Whoever asked may have gone away.
            let _ = answer.send(values);
        }
    }
}

/// The result for each key: a value, an error, or neither.
struct Outcome<S: Source> {
    found: HashMap<S::Key, S::Value>,
    failed: HashMap<S::Key, Error>,
}

/// Looks up all keys with one statement. If that fails because of a key, the keys are halved until the key fails alone.
async fn look_up<S: Source>(source: &mut S, keys: Vec<S::Key>, health: &Health) -> Outcome<S> {
    let mut outcome = Outcome { found: HashMap::new(), failed: HashMap::new() };
    let mut parts = vec![keys];
    let mut failures = 0;
    while let Some(mut part) = parts.pop() {
        let looked_up = health.catch_panic(S::NAME, source.look_up(part.as_slice().into())).await;
        let error = match looked_up.unwrap_or_else(|_| Err(Error::Internal("a look-up panicked".to_owned())))
        {
            Ok(found) => {
                outcome.found.extend(found);
                continue;
            }
            Err(error) => error,
        };
        failures += 1;
        if matches!(error, Error::Unavailable(_)) || failures >= MAX_FAILURES {
            // Another statement would not end better.
            let rest = parts.drain(..).flatten().chain(part);
            outcome.failed.extend(rest.map(|key| (key, error.clone())));
        } else if part.len() > 1 {
            parts.push(part.split_off(part.len() / 2));
            parts.push(part);
        } else {
            outcome.failed.extend(part.into_iter().map(|key| (key, error.clone())));
        }
    }
    outcome
}
