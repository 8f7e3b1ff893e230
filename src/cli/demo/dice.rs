//! Chance that falls the same way everywhere: a named algorithm, and integers alone, since the last bit of `ln` or `cos`
//! differs from one platform to the next.

use chrono::{DateTime, Datelike, Days, TimeDelta, Utc, Weekday};
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

#[derive(Clone, Debug)]
pub struct Dice(Xoshiro256PlusPlus);

impl Dice {
    /// The dice of one customer: what befalls it does not depend on how many others there are.
    pub fn of(seed: u64, number: u32) -> Self {
        let base = Xoshiro256PlusPlus::seed_from_u64(seed).next_u64();
        Self(Xoshiro256PlusPlus::seed_from_u64(base ^ u64::from(number)))
    }

    /// 0 up to `end`, without `end`.
    pub fn below(&mut self, end: u32) -> u32 {
        // The upper half of a product of two 32-bit numbers is below either of them.
        let product = (self.0.next_u64() >> 32) * u64::from(end);
        u32::try_from(product >> 32).expect("the product has at most 64 bits")
    }

    pub fn percent(&mut self, chance: u32) -> bool {
        self.below(100) < chance
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let end = u32::try_from(from.len()).expect("the lists are short");
        from[self.below(end) as usize]
    }

    pub fn weighted<T: Copy>(&mut self, from: &[(u32, T)]) -> T {
        let mut rest = self.below(from.iter().map(|(weight, _)| weight).sum());
        for &(weight, value) in from {
            if rest < weight {
                return value;
            }
            rest -= weight;
        }
        unreachable!("the rest is below the sum of the weights")
    }

    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill_bytes(&mut bytes);
        bytes
    }

    /// Mostly short, now and then long, `mean` on average.
    pub fn span(&mut self, mean: TimeDelta) -> TimeDelta {
        let draw = i64::from(self.below(1000));
        TimeDelta::seconds(mean.num_seconds() * 3 * draw * draw / 1_000_000)
    }

    /// A moment at which people work, about `target` and after `previous`.
    pub fn office_time(&mut self, target: DateTime<Utc>, previous: DateTime<Utc>) -> DateTime<Utc> {
        let late = match target.weekday() {
            Weekday::Sat if !self.percent(8) => 2 + u64::from(self.below(5)),
            Weekday::Sun if !self.percent(5) => 1 + u64::from(self.below(5)),
            Weekday::Fri if self.percent(25) => 3,
            _ => 0,
        };
        let midnight = (target.date_naive() + Days::new(late)).and_time(chrono::NaiveTime::MIN).and_utc();
        let hour = self.weighted(&HOURS);
        let moment =
            midnight + TimeDelta::hours(hour) + TimeDelta::microseconds(i64::from(self.below(3_600_000_000)));
        if moment > previous {
            moment
        } else {
            // The same sitting: somebody looks at what was saved and corrects it.
            previous + TimeDelta::microseconds(i64::from(20_000_000 + self.below(3_000_000_000)))
        }
    }
}

/// How busy each hour of the day is, in UTC: offices from Europe to America, and a few who work at night.
const HOURS: [(u32, i64); 24] = [
    (2, 0),
    (1, 1),
    (1, 2),
    (1, 3),
    (2, 4),
    (6, 5),
    (18, 6),
    (45, 7),
    (80, 8),
    (100, 9),
    (95, 10),
    (75, 11),
    (60, 12),
    (90, 13),
    (100, 14),
    (95, 15),
    (75, 16),
    (50, 17),
    (30, 18),
    (20, 19),
    (14, 20),
    (10, 21),
    (6, 22),
    (4, 23),
];
