//! A few places of a table, behind a sequence lock: its number is odd while a writer is at it, and a reader who finds the
//! number changed reads again.
//!
//! What atomics and fences are, and how much there is of what, is said by the module around this one: `tests/model.rs` has
//! a small one explored by loom, in each order that the memory model allows.

use std::hint::black_box;

use super::atomic::Ordering::{Acquire, Relaxed, Release};
use super::atomic::{AtomicU64, fence};
use super::hint::spin_loop;
use super::{ENTRY_WORDS, PATIENCE};

/// What is kept of a key.
pub type Entry = [u64; ENTRY_WORDS];

/// Places of a bucket: as many as a word has bytes for their tags.
pub const WAYS: usize = size_of::<u64>();
const KEY_WORDS: usize = 2;
const PLACE_WORDS: usize = KEY_WORDS + ENTRY_WORDS;
/// The words before a bucket's places: its number, a byte of each key's hash (0: empty), and which were read of late.
const NUMBER: usize = 0;
const TAGS: usize = 1;
const USED: usize = 2;
const HEAD_WORDS: usize = 3;
pub const BUCKET_WORDS: usize = HEAD_WORDS + WAYS * PLACE_WORDS;

/// A bucket's words.
#[derive(Clone, Copy)]
pub struct Bucket<'t>(pub &'t [AtomicU64]);

impl Bucket<'_> {
    /// The entry of a key that has this tag. Never waits.
    pub fn read(self, tag: u8, key: u128) -> Option<Entry> {
        for _ in 0..PATIENCE {
            let number = self.0[NUMBER].load(Acquire);
            if number % 2 == 1 {
                spin_loop();
                continue;
            }
            let found = self.find(tag, key).map(|way| (way, self.entry(way)));
            // What was read before this fence is whole if the number has not moved since (Boehm, "Can seqlocks get along
            // with programming language memory models?", 2012).
            fence(Acquire);
            if self.0[NUMBER].load(Relaxed) == number {
                let (way, entry) = found?;
                if !self.was_used(way) {
                    self.0[USED].fetch_or(1 << way, Relaxed);
                }
                return Some(entry);
            }
        }
        None
    }

    /// Puts an entry, or with the tag 0 none, into a place. Other writers are kept away by the caller.
    pub fn write(self, way: usize, tag: u8, key: u128, entry: &Entry) {
        let number = self.0[NUMBER].load(Relaxed);
        self.0[NUMBER].store(number.wrapping_add(1), Relaxed);
        // Nobody who sees one of the words that follow takes the number for even.
        fence(Release);
        let shift = 8 * way;
        let tags = self.tags() & !(0xff << shift) | u64::from(tag) << shift;
        self.0[TAGS].store(tags, Relaxed);
        self.0[USED].fetch_and(!(1 << way), Relaxed);
        let [high, low] = halves(key);
        for (word, value) in self.0[place(way)..].iter().zip([high, low].iter().chain(entry)) {
            word.store(*value, Relaxed);
        }
        self.0[NUMBER].store(number.wrapping_add(2), Release);
    }

    /// A byte of each place, which is 0 where it is free.
    pub fn tags(self) -> u64 {
        self.0[TAGS].load(Relaxed)
    }

    /// Has a place fetched into the processor's caches.
    pub fn fetch(self, way: usize) {
        black_box(self.0[place(way)].load(Relaxed));
    }

    /// The place of a key that has this tag, where no writer is at it.
    pub fn find(self, tag: u8, key: u128) -> Option<usize> {
        ways_of(self.tags(), tag).find(|way| self.key(*way) == key)
    }

    /// The places that are free.
    pub fn free(self) -> impl Iterator<Item = usize> {
        ways_of(self.tags(), 0)
    }

    pub fn entry(self, way: usize) -> Entry {
        let words = &self.0[place(way) + KEY_WORDS..place(way) + PLACE_WORDS];
        std::array::from_fn(|word| words[word].load(Relaxed))
    }

    /// Whether a place was read of late.
    pub fn was_used(self, way: usize) -> bool {
        self.0[USED].load(Relaxed) & (1 << way) != 0
    }

    /// All places begin anew as not read of late.
    pub fn forget_uses(self) {
        self.0[USED].store(0, Relaxed);
    }

    fn key(self, way: usize) -> u128 {
        let words = &self.0[place(way)..place(way) + KEY_WORDS];
        u128::from(words[0].load(Relaxed)) << 64 | u128::from(words[1].load(Relaxed))
    }
}

fn place(way: usize) -> usize {
    HEAD_WORDS + way * PLACE_WORDS
}

pub fn ways_of(tags: u64, tag: u8) -> impl Iterator<Item = usize> {
    tags.to_le_bytes().into_iter().enumerate().filter(move |(_, found)| *found == tag).map(|(way, _)| way)
}

fn halves(key: u128) -> [u64; 2] {
    let bytes = key.to_be_bytes();
    let (high, low) = bytes.split_at(8);
    [high, low].map(|half| u64::from_be_bytes(half.try_into().expect("half of sixteen bytes")))
}
