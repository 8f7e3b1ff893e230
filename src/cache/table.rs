//! A map of bounded size that is read without a lock.
//!
//! The memory is one piece, of the size that its bound needs and reserved at once; pages that nothing was put into are
//! not used. A key has two buckets of eight places that it may stand in (two choices keep the buckets evenly filled up
//! to 85 %; Azar, Broder, Karlin, Upfal, "Balanced allocations", 1994). Where both are full, an entry that is least
//! worth keeping gives way, so that nothing ever grows, moves or waits.
//!
//! Each bucket is a sequence lock: its number is odd while a writer is at it, and a reader who finds the number changed
//! reads again. Writers exclude each other by a mutex for each part of the table, which readers never touch.

use std::hash::{BuildHasher as _, RandomState};
use std::hint::black_box;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What is kept of a key.
pub type Entry = [u64; 6];

/// Places of a bucket.
const WAYS: usize = 8;
const KEY_WORDS: usize = 2;
const PLACE_WORDS: usize = KEY_WORDS + size_of::<Entry>() / size_of::<u64>();
/// The words before a bucket's places: its number, a byte of each key's hash (0: empty), and which were read of late.
const NUMBER: usize = 0;
const TAGS: usize = 1;
const USED: usize = 2;
const HEAD_WORDS: usize = 3;
const BUCKET_WORDS: usize = HEAD_WORDS + WAYS * PLACE_WORDS;
/// Parts in which one writer works at a time.
const PARTS: usize = 64;
/// How full the table is when it holds what it was made for, in hundredths.
const FULL: usize = 85;
/// How often a reader tries again before it takes the key for absent: its writer was put to sleep in the middle.
const PATIENCE: usize = 64;

/// Maps keys of 128 bits to entries.
#[derive(Debug)]
pub struct Table {
    words: Box<[AtomicU64]>,
    parts: Box<[Mutex<Part>]>,
    buckets_per_part: usize,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Part {
    held: usize,
    /// Where the search for an entry that gives way goes on.
    hand: usize,
}

/// Where a key may stand.
#[derive(Clone, Copy)]
struct Spot {
    part: usize,
    /// Where the two buckets begin.
    buckets: [usize; 2],
    tag: u8,
}

/// What an update does with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    Leave,
    Put(Entry),
    Remove,
}

impl Table {
    /// With room for this many keys.
    pub fn new(keys: usize) -> Self {
        let buckets = (keys.max(1) * 100).div_ceil(FULL * WAYS);
        let buckets_per_part = buckets.div_ceil(PARTS);
        let words = bytemuck::allocation::zeroed_slice_box(PARTS * buckets_per_part * BUCKET_WORDS);
        let parts = (0..PARTS).map(|_| Mutex::default()).collect();
        Self { words, parts, buckets_per_part, hasher: RandomState::new() }
    }

    /// How many keys are held.
    pub fn len(&self) -> usize {
        (0..PARTS).map(|part| self.lock(part).held).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes the keys that are held take, their share of what is free included: a full table is 85 % keys.
    pub fn bytes(&self) -> usize {
        self.len() * BUCKET_WORDS * size_of::<u64>() * 100 / (WAYS * FULL)
    }

    /// The entry of a key. Never waits.
    pub fn read(&self, key: u128) -> Option<Entry> {
        self.read_at(key, self.spot(key))
    }

    /// The entries of many keys, in their order. Never waits.
    ///
    /// Where a key stands is seldom in the processor's caches. One after the other, each is waited for; here the heads of
    /// all buckets are fetched first, and then the places that they point to, so that the waits overlap.
    pub fn read_all(&self, keys: impl Iterator<Item = u128>) -> Vec<Option<Entry>> {
        let spots: Vec<(u128, Spot)> = keys.map(|key| (key, self.spot(key))).collect();
        let buckets = || spots.iter().flat_map(|(_, spot)| spot.buckets.map(|bucket| (bucket, spot.tag)));
        let tags: Vec<u64> = buckets().map(|(bucket, _)| self.words[bucket + TAGS].load(Relaxed)).collect();
        for ((bucket, tag), tags) in buckets().zip(tags) {
            for way in ways_of(tags, tag) {
                black_box(self.words[place(bucket, way)].load(Relaxed));
            }
        }
        spots.into_iter().map(|(key, spot)| self.read_at(key, spot)).collect()
    }

    fn read_at(&self, key: u128, spot: Spot) -> Option<Entry> {
        spot.buckets.into_iter().find_map(|bucket| self.read_bucket(bucket, spot.tag, key))
    }

    fn read_bucket(&self, bucket: usize, tag: u8, key: u128) -> Option<Entry> {
        for _ in 0..PATIENCE {
            let number = self.words[bucket + NUMBER].load(Acquire);
            if number % 2 == 1 {
                std::hint::spin_loop();
                continue;
            }
            let tags = self.words[bucket + TAGS].load(Relaxed);
            let mut found = None;
            for way in ways_of(tags, tag) {
                if self.key_at(place(bucket, way)) == key {
                    found = Some((way, self.entry_at(place(bucket, way))));
                    break;
                }
            }
            // What was read before this fence is whole if the number has not moved since (Boehm, "Can seqlocks get along
            // with programming language memory models?", 2012).
            fence(Acquire);
            if self.words[bucket + NUMBER].load(Relaxed) == number {
                let (way, entry) = found?;
                let used = &self.words[bucket + USED];
                if used.load(Relaxed) & (1 << way) == 0 {
                    used.fetch_or(1 << way, Relaxed);
                }
                return Some(entry);
            }
        }
        None
    }

    /// Changes the entry of a key, which is none where it is not held. Where no place is free, an entry gives way: first
    /// one that is `expendable`, else one that was not read of late. True when an entry gave way.
    pub fn update(
        &self,
        key: u128,
        expendable: impl Fn(&Entry) -> bool,
        change: impl FnOnce(Option<Entry>) -> Update,
    ) -> bool {
        let spot = self.spot(key);
        let mut part = self.lock(spot.part);
        let standing = spot.buckets.into_iter().find_map(|bucket| {
            let tags = self.words[bucket + TAGS].load(Relaxed);
            let way = ways_of(tags, spot.tag).find(|way| self.key_at(place(bucket, *way)) == key)?;
            Some((bucket, way))
        });
        let current = standing.map(|(bucket, way)| self.entry_at(place(bucket, way)));
        match (change(current), standing) {
            (Update::Leave, _) | (Update::Remove, None) => false,
            (Update::Put(entry), Some((bucket, way))) => {
                self.write(bucket, way, spot.tag, key, &entry);
                false
            }
            (Update::Remove, Some((bucket, way))) => {
                part.held -= 1;
                self.write(bucket, way, 0, 0, &Entry::default());
                false
            }
            (Update::Put(entry), None) => {
                let free = self.free_place(&spot);
                let (bucket, way) = free.unwrap_or_else(|| self.least_worth(&spot, &mut part, expendable));
                part.held += usize::from(free.is_some());
                self.write(bucket, way, spot.tag, key, &entry);
                free.is_none()
            }
        }
    }

    /// In the emptier of the two buckets.
    fn free_place(&self, spot: &Spot) -> Option<(usize, usize)> {
        let free = |bucket: &usize| ways_of(self.words[*bucket + TAGS].load(Relaxed), 0).count();
        let bucket = spot.buckets.into_iter().max_by_key(free)?;
        let way = ways_of(self.words[bucket + TAGS].load(Relaxed), 0).next()?;
        Some((bucket, way))
    }

    fn least_worth(
        &self,
        spot: &Spot,
        part: &mut Part,
        expendable: impl Fn(&Entry) -> bool,
    ) -> (usize, usize) {
        part.hand = part.hand.wrapping_add(1);
        let hand = part.hand;
        let places = || {
            (0..2 * WAYS)
                .map(move |step| (hand + step) % (2 * WAYS))
                .map(|at| (spot.buckets[at / WAYS], at % WAYS))
        };
        let used = |bucket: usize, way: usize| self.words[bucket + USED].load(Relaxed) & (1 << way) != 0;
        if let Some(found) = places().find(|(bucket, way)| expendable(&self.entry_at(place(*bucket, *way)))) {
            return found;
        }
        if let Some(found) = places().find(|(bucket, way)| !used(*bucket, *way)) {
            return found;
        }
        // All were read of late: they begin anew.
        for bucket in spot.buckets {
            self.words[bucket + USED].store(0, Relaxed);
        }
        (spot.buckets[hand % 2], hand / 2 % WAYS)
    }

    /// The part's mutex is held.
    fn write(&self, bucket: usize, way: usize, tag: u8, key: u128, entry: &Entry) {
        let number = self.words[bucket + NUMBER].load(Relaxed);
        self.words[bucket + NUMBER].store(number.wrapping_add(1), Relaxed);
        // Nobody who sees one of the words that follow takes the number for even.
        fence(Release);
        let shift = 8 * way;
        let tags = self.words[bucket + TAGS].load(Relaxed) & !(0xff << shift) | u64::from(tag) << shift;
        self.words[bucket + TAGS].store(tags, Relaxed);
        self.words[bucket + USED].fetch_and(!(1 << way), Relaxed);
        let place = place(bucket, way);
        let [high, low] = halves(key);
        for (word, value) in self.words[place..].iter().zip([high, low].iter().chain(entry)) {
            word.store(*value, Relaxed);
        }
        self.words[bucket + NUMBER].store(number.wrapping_add(2), Release);
    }

    fn key_at(&self, place: usize) -> u128 {
        u128::from(self.words[place].load(Relaxed)) << 64 | u128::from(self.words[place + 1].load(Relaxed))
    }

    fn entry_at(&self, place: usize) -> Entry {
        let words = &self.words[place + KEY_WORDS..place + PLACE_WORDS];
        std::array::from_fn(|word| words[word].load(Relaxed))
    }

    fn spot(&self, key: u128) -> Spot {
        // Keyed: whoever chooses customers' ids cannot choose their buckets.
        let hash = self.hasher.hash_one(key);
        let part = usize::try_from(hash % PARTS as u64).unwrap_or_default();
        let bucket = |hash: u64| {
            // A share of 32 bits becomes a share of the buckets (Lemire, "Fast random integer generation", 2019).
            let share = ((hash & 0xffff_ffff) * self.buckets_per_part as u64) >> 32;
            (part * self.buckets_per_part + usize::try_from(share).unwrap_or_default()) * BUCKET_WORDS
        };
        let tag = u8::try_from(hash >> 6 & 0xff).unwrap_or_default().max(1);
        // The second bucket follows from other bits than the first: a multiplication mixes them.
        let buckets = [bucket(hash >> 32), bucket(hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24)];
        Spot { part, buckets, tag }
    }

    fn lock(&self, part: usize) -> MutexGuard<'_, Part> {
        // A panic leaves a count at worst.
        self.parts[part].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(bucket: usize, way: usize) -> usize {
    bucket + HEAD_WORDS + way * PLACE_WORDS
}

fn ways_of(tags: u64, tag: u8) -> impl Iterator<Item = usize> {
    tags.to_le_bytes().into_iter().enumerate().filter(move |(_, found)| *found == tag).map(|(way, _)| way)
}

fn halves(key: u128) -> [u64; 2] {
    let bytes = key.to_be_bytes();
    let (high, low) = bytes.split_at(8);
    [high, low].map(|half| u64::from_be_bytes(half.try_into().expect("half of sixteen bytes")))
}
