//! Look-ups in the database, coalesced: whatever is asked while one statement is under way is asked together by the
//! next. A stampede, on one key or on a thousand, costs PostgreSQL one statement at a time.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::error::Error;

/// How many callers may wait for an answer.
const QUEUE: usize = 4096;
/// About how many keys one statement asks for.
const BATCH: usize = 2000;

/// What was found.
pub type Found<S> = Vec<(<S as Source>::Key, <S as Source>::Value)>;

type Answer<V> = Result<Vec<Option<V>>, Error>;

/// What is looked up, and where.
pub trait Source: Sized + Send + 'static {
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
    pub fn new(source: S) -> Self {
        let (queue, asked) = mpsc::channel(QUEUE);
        tokio::spawn(work(source, asked));
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

async fn work<S: Source>(mut source: S, mut asked: mpsc::Receiver<Asked<S>>) {
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
        let mut found: HashMap<S::Key, Option<S::Value>> =
            batch.iter().flat_map(|asked| &asked.keys).map(|key| (key.clone(), None)).collect();
        if found.is_empty() {
            continue;
        }
        let keys: Arc<[S::Key]> = found.keys().cloned().collect();
        let outcome = source.look_up(keys).await;
        let failure = match outcome {
            Ok(values) => {
                found.extend(values.into_iter().map(|(key, value)| (key, Some(value))));
                None
            }
            Err(error) => Some(error),
        };
        for (keys, answer) in batch.into_iter().filter_map(|asked| Some((asked.keys, asked.answer?))) {
            let values = match &failure {
                None => Ok(keys.iter().map(|key| found.get(key).cloned().flatten()).collect()),
                Some(error) => Err(error.clone()),
            };
            // Whoever asked may have gone away.
            let _ = answer.send(values);
        }
    }
}
