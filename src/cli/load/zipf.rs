//! Which customers are asked about: a few often, most seldom.
//!
//! Rank `k` is drawn with a probability in proportion to `1 / k^skew`, by rejection-inversion: W. Hörmann, G. Derflinger,
//! "Rejection-inversion to generate variates from monotone discrete distributions", ACM Transactions on Modeling and
//! Computer Simulation 6(3), 1996. It needs no table, however many ranks there are, and a little more than one draw.

use super::Chance;

#[derive(Clone, Copy, Debug)]
pub struct Zipf {
    ranks: f64,
    skew: f64,
    /// The integral at the lower end of rank 1, of which only the part that belongs to it is kept.
    first: f64,
    /// The integral at the upper end of the last rank.
    last: f64,
    /// Below this distance from the integer, the draw is accepted without another look.
    near: f64,
}

impl Zipf {
    /// Ranks 1 to `ranks`; a skew of 0 draws all alike.
    pub fn new(ranks: u32, skew: f64) -> Self {
        let mut zipf = Self { ranks: f64::from(ranks.max(1)), skew, first: 0.0, last: 0.0, near: 0.0 };
        zipf.first = zipf.integral(1.5) - 1.0;
        zipf.last = zipf.integral(zipf.ranks + 0.5);
        zipf.near = 2.0 - zipf.inverse(zipf.integral(2.5) - zipf.density(2.0));
        zipf
    }

    pub fn draw(&self, chance: &mut Chance) -> u32 {
        loop {
            let area = self.last + chance.fraction() * (self.first - self.last);
            let point = self.inverse(area);
            let rank = point.round().clamp(1.0, self.ranks);
            if rank - point <= self.near || area >= self.integral(rank + 0.5) - self.density(rank) {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to `ranks`")]
                return rank as u32;
            }
        }
    }

    fn density(&self, x: f64) -> f64 {
        (-self.skew * x.ln()).exp()
    }

    /// The integral of the density from 1 to `x`: `(x^(1 - skew) - 1) / (1 - skew)`, which is `ln x` where the skew is 1.
    fn integral(&self, x: f64) -> f64 {
        let (log, power) = (x.ln(), 1.0 - self.skew);
        if power == 0.0 { log } else { (power * log).exp_m1() / power }
    }

    fn inverse(&self, area: f64) -> f64 {
        let power = 1.0 - self.skew;
        if power == 0.0 { area.exp() } else { ((area * power).max(-1.0).ln_1p() / power).exp() }
    }
}
