//! Look-ups of values that cannot be read.

use std::sync::Arc;
use std::time::Duration;

use consentd::cache::lookups::{Found, Lookups, Source};
use consentd::error::Error;
use consentd::health::Health;
use futures_util::future::join_all;
use tokio::time::timeout;

/// Squares numbers. A statement that finds a bad number panics or fails.
struct Squares;

const PANICS: u32 = 13;
const FAILS: u32 = 666;

impl Source for Squares {
    const NAME: &'static str = "squares";

    type Key = u32;
    type Value = u32;

    async fn look_up(&mut self, keys: Arc<[u32]>) -> Result<Found<Self>, Error> {
        // Others queue meanwhile, and come in one batch.
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!keys.contains(&PANICS), "a value that cannot be read");
        if keys.contains(&FAILS) {
            return Err(Error::Internal("a value that is refused".to_owned()));
        }
        Ok(keys.iter().filter(|key| **key != 0).map(|key| (*key, key * key)).collect())
    }
}

#[tokio::test]
async fn a_value_that_cannot_be_read_fails_alone_and_every_other_look_up_is_answered() {
    let health = Arc::new(Health::default());
    let lookups = Lookups::new(Squares, &health);
    for _ in 0..3 {
        let keys = (0..40).chain([FAILS, PANICS]);
        let answers = join_all(keys.clone().map(|key| lookups.one(key)));
        let answers = timeout(Duration::from_secs(20), answers).await.expect("everybody is answered");
        for (key, answer) in keys.zip(answers) {
            match key {
                PANICS | FAILS => assert!(matches!(answer, Err(Error::Internal(_))), "{key}: {answer:?}"),
                0 => assert_eq!(answer.expect("an answer"), None),
                key => assert_eq!(answer.expect("an answer"), Some(key * key)),
            }
        }
    }
    assert_eq!(health.panicked_tasks(), ["squares"]);
    assert!(matches!(lookups.many(vec![3, PANICS]).await, Err(Error::Internal(_))));
    assert_eq!(lookups.many(vec![3, 0, 4]).await.expect("an answer"), [Some(9), None, Some(16)]);
}
