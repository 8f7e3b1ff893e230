//! Marsaglia's xorshift: what is next need only be spread.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// Another seed each time: the same stream again would put what stands already.
    pub fn new() -> Self {
        Self(RandomState::new().build_hasher().finish() | 1)
    }

    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn choose<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    pub fn below(&mut self, bound: usize) -> usize {
        // The remainder is less than the bound, which is a usize.
        usize::try_from(self.roll() % bound as u64).unwrap_or_default()
    }
}
