//! A map of bounded size that is read without a lock.
//!
//! The memory is one piece, of the size that its bound needs and reserved at once; pages that nothing was put into are
//! not used. A key has two buckets of eight places that it may stand in (two choices keep the buckets evenly filled up
//! to 85 %; Azar, Broder, Karlin, Upfal, "Balanced allocations", 1994). Where both are full, an entry that is least
//! worth keeping gives way, so that nothing ever grows, moves or waits.
//!
//! Each bucket is a sequence lock. Writers exclude each other by a mutex for each part of the table, which readers never
//! touch.

use std::hash::{BuildHasher as _, RandomState};
use std::hint;
use std::sync::atomic::{self, AtomicU64};
use std::sync::{Mutex, MutexGuard, PoisonError};

// It takes `atomic`, `hint` and its sizes from the module around it.
mod bucket;

pub use bucket::Entry;
use bucket::{BUCKET_WORDS, Bucket, WAYS, ways_of};

const ENTRY_WORDS: usize = 6;
/// How often a reader tries again before it takes the key for absent: its writer was put to sleep in the middle.
const PATIENCE: usize = 64;
/// Parts in which one writer works at a time.
const PARTS: usize = 64;
/// How full the table is when it holds what it was made for, in hundredths.
const FULL: usize = 85;

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
        let buckets =
            || spots.iter().flat_map(|(_, spot)| spot.buckets.map(|at| (self.bucket(at), spot.tag)));
        let heads: Vec<u64> = buckets().map(|(bucket, _)| bucket.tags()).collect();
        for ((bucket, tag), tags) in buckets().zip(heads) {
            for way in ways_of(tags, tag) {
                bucket.fetch(way);
            }
        }
        spots.into_iter().map(|(key, spot)| self.read_at(key, spot)).collect()
    }

    fn read_at(&self, key: u128, spot: Spot) -> Option<Entry> {
        spot.buckets.into_iter().find_map(|at| self.bucket(at).read(spot.tag, key))
    }

    fn bucket(&self, at: usize) -> Bucket<'_> {
        Bucket(&self.words[at..at + BUCKET_WORDS])
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
        let standing = spot.buckets.into_iter().find_map(|at| {
            let bucket = self.bucket(at);
            Some((bucket, bucket.find(spot.tag, key)?))
        });
        let current = standing.map(|(bucket, way)| bucket.entry(way));
        match (change(current), standing) {
            (Update::Leave, _) | (Update::Remove, None) => false,
            (Update::Put(entry), Some((bucket, way))) => {
                bucket.write(way, spot.tag, key, &entry);
                false
            }
            (Update::Remove, Some((bucket, way))) => {
                part.held -= 1;
                bucket.write(way, 0, 0, &Entry::default());
                false
            }
            (Update::Put(entry), None) => {
                let free = self.free_place(&spot);
                let (bucket, way) = free.unwrap_or_else(|| self.least_worth(&spot, &mut part, expendable));
                part.held += usize::from(free.is_some());
                bucket.write(way, spot.tag, key, &entry);
                free.is_none()
            }
        }
    }

    /// In the emptier of the two buckets.
    fn free_place(&self, spot: &Spot) -> Option<(Bucket<'_>, usize)> {
        let buckets = spot.buckets.map(|at| self.bucket(at));
        let bucket = buckets.into_iter().max_by_key(|bucket| bucket.free().count())?;
        Some((bucket, bucket.free().next()?))
    }

    fn least_worth(
        &self,
        spot: &Spot,
        part: &mut Part,
        expendable: impl Fn(&Entry) -> bool,
    ) -> (Bucket<'_>, usize) {
        part.hand = part.hand.wrapping_add(1);
        let hand = part.hand;
        let buckets = spot.buckets.map(|at| self.bucket(at));
        let places = || {
            (0..2 * WAYS)
                .map(move |step| (hand + step) % (2 * WAYS))
                .map(move |at| (buckets[at / WAYS], at % WAYS))
        };
        if let Some(found) = places().find(|(bucket, way)| expendable(&bucket.entry(*way))) {
            return found;
        }
        if let Some(found) = places().find(|(bucket, way)| !bucket.was_used(*way)) {
            return found;
        }
        // All were read of late: they begin anew.
        for bucket in buckets {
            bucket.forget_uses();
        }
        (buckets[hand % 2], hand / 2 % WAYS)
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
