//! Invented customers: names made of words, addresses in the domains which RFC 2606 sets aside for examples.

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::dice::Dice;
use crate::domain::{Customer, CustomerTier};

/// What the history is made from; the same plan gives the same bytes.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    pub customers: u32,
    /// The span of the history, without its end.
    pub since: DateTime<Utc>,
    pub until: DateTime<Utc>,
}

impl Plan {
    pub fn customers(&self) -> impl Iterator<Item = Customer> {
        (0..self.customers).map(|number| self.customer(number).0)
    }

    /// A customer, and the dice for what befalls it.
    pub fn customer(&self, number: u32) -> (Customer, Dice) {
        let mut dice = Dice::of(self.seed, number);
        let customer_id = uuid::Builder::from_random_bytes(dice.bytes()).into_uuid();
        let created_at = self.joins_at(number, &mut dice);
        let tier = dice.weighted(&[
            (60, CustomerTier::Free),
            (30, CustomerTier::Pro),
            (10, CustomerTier::Enterprise),
        ]);
        let (per_minute, per_day) = match tier {
            CustomerTier::Free => (60, 1000),
            CustomerTier::Pro => (300, 20_000),
            CustomerTier::Enterprise => (1200, 200_000),
        };
        let (quality, thing, trade) = (dice.pick(&QUALITIES), dice.pick(&THINGS), dice.pick(&TRADES));
        let email = format!(
            "{}-{}@{}{}.example.{}",
            dice.pick(&DESKS),
            tag(number, customer_id),
            quality.to_lowercase(),
            thing.to_lowercase(),
            dice.pick(&["com", "com", "org"]),
        );
        let updated_at =
            if dice.percent(30) { created_at + dice.span((self.until - created_at) / 4) } else { created_at };
        let customer = Customer {
            customer_id,
            email,
            company_name: Some(format!("{quality} {thing} {trade}")),
            tier,
            rate_limit_rpm: per_minute,
            rate_limit_rpd: per_day,
            is_active: !dice.percent(3),
            created_at,
            updated_at,
        };
        (customer, dice)
    }

    /// Later customers join faster: the business grows.
    fn joins_at(&self, number: u32, dice: &mut Dice) -> DateTime<Utc> {
        let millionths =
            (u64::from(number) * 1_000_000 + u64::from(dice.below(1_000_000))) / u64::from(self.customers);
        let grown = i64::try_from(u64::midpoint(millionths, (millionths * 1_000_000).isqrt()))
            .expect("both are below a million");
        let target =
            self.since + TimeDelta::seconds((self.until - self.since).num_seconds() / 1000 * grown / 1000);
        let moment = dice.office_time(target, self.since);
        if moment < self.until { moment } else { target }
    }
}

/// Tells apart the addresses of companies of the same name: for certain those of one seed, since the number is in it.
fn tag(number: u32, customer_id: Uuid) -> String {
    let letters = customer_id.as_u128().to_be_bytes().map(|byte| char::from(b'a' + byte % 26));
    letters.into_iter().take(5).chain(number.to_string().chars()).collect()
}

const DESKS: [&str; 8] = ["data", "privacy", "robotics", "ops", "platform", "team", "it", "legal"];

const QUALITIES: [&str; 40] = [
    "Amber", "Ashen", "Azure", "Bold", "Brisk", "Bronze", "Calm", "Cedar", "Clear", "Cobalt", "Copper",
    "Coral", "Crimson", "Dapper", "Eager", "Ember", "Fern", "Gentle", "Golden", "Granite", "Hazel", "Indigo",
    "Ivory", "Jade", "Keen", "Lunar", "Maple", "Mellow", "Misty", "Nimble", "Olive", "Polar", "Quiet",
    "Rapid", "Russet", "Silver", "Solar", "Sturdy", "Velvet", "Willow",
];

const THINGS: [&str; 40] = [
    "Anchor", "Badger", "Beacon", "Bridge", "Brook", "Canyon", "Comet", "Crane", "Delta", "Falcon", "Fjord",
    "Gable", "Glacier", "Harbor", "Heron", "Hollow", "Island", "Kestrel", "Lantern", "Ledge", "Marten",
    "Meadow", "Mill", "Orchard", "Otter", "Pebble", "Pine", "Prairie", "Quarry", "Raven", "Ridge", "River",
    "Sparrow", "Summit", "Thicket", "Tide", "Valley", "Wharf", "Willet", "Wren",
];

const TRADES: [&str; 16] = [
    "Robotics",
    "Logistics",
    "Automation",
    "Works",
    "Farms",
    "Warehousing",
    "Instruments",
    "Assembly",
    "Kitchens",
    "Laboratories",
    "Fulfilment",
    "Machinery",
    "Packaging",
    "Inspection",
    "Recycling",
    "Care",
];
