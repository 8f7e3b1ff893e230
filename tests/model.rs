//! The sequence lock of a bucket of the table in memory, explored by loom: what a reader finds while a writer is at it, in
//! each order that the memory model of C++20 allows, with up to two switches from one thread to the other.
//!
//! A processor that reorders less than the model never shows most of these orders, however long it is asked.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::{hint, sync::atomic, thread};

#[path = "../src/cache/table/bucket.rs"]
#[expect(dead_code, reason = "a reader and a writer need but a part of it")]
mod bucket;

use bucket::{BUCKET_WORDS, Bucket, Entry};

const TAG: u8 = 7;
const KEY: u128 = 1 << 64 | 2;
const OTHER: u128 = 3 << 64 | 4;
const ENTRY_WORDS: usize = 2;
const PATIENCE: usize = 2;
const OLD: Entry = [1; ENTRY_WORDS];
const NEW: Entry = [2; ENTRY_WORDS];

struct Words(Vec<AtomicU64>);

impl Words {
    /// A bucket in which a key stands.
    fn with_the_key() -> Arc<Self> {
        let words = Self((0..BUCKET_WORDS).map(|_| AtomicU64::new(0)).collect());
        words.bucket().write(0, TAG, KEY, &OLD);
        Arc::new(words)
    }

    fn bucket(&self) -> Bucket<'_> {
        Bucket(&self.0)
    }
}

fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(model);
}

#[test]
fn what_is_read_is_whole_and_never_goes_back() {
    explore(|| {
        let words = Words::with_the_key();
        let written = Arc::clone(&words);
        let writer = thread::spawn(move || written.bucket().write(0, TAG, KEY, &NEW));
        // None: a reader who has lost patience asks the database.
        let first = words.bucket().read(TAG, KEY);
        assert!([None, Some(OLD), Some(NEW)].contains(&first), "{first:?}");
        let second = words.bucket().read(TAG, KEY);
        assert!(second != Some(OLD) || first != Some(NEW), "it went back");
        writer.join().expect("the writer ends");
        assert_eq!(words.bucket().read(TAG, KEY), Some(NEW));
    });
}

#[test]
fn what_gives_way_to_another_key_is_not_mistaken_for_it() {
    explore(|| {
        let words = Words::with_the_key();
        let written = Arc::clone(&words);
        let writer = thread::spawn(move || written.bucket().write(0, TAG, OTHER, &NEW));
        let found = words.bucket().read(TAG, KEY);
        assert!(found == Some(OLD) || found.is_none(), "{found:?}");
        writer.join().expect("the writer ends");
        assert_eq!(words.bucket().read(TAG, KEY), None);
        assert_eq!(words.bucket().read(TAG, OTHER), Some(NEW));
    });
}

#[test]
fn whoever_has_heard_of_a_change_reads_it() {
    explore(|| {
        let (words, told) = (Words::with_the_key(), Arc::new(AtomicBool::new(false)));
        let (written, tells) = (Arc::clone(&words), Arc::clone(&told));
        let writer = thread::spawn(move || {
            written.bucket().write(0, TAG, KEY, &NEW);
            tells.store(true, Ordering::Release);
        });
        if told.load(Ordering::Acquire) {
            assert_eq!(words.bucket().read(TAG, KEY), Some(NEW));
        }
        writer.join().expect("the writer ends");
    });
}
