//! Any bit that is flipped in the database is found, in whatever table and column of the log it is.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use consentd::verify::Verdict;
use ipnetwork::IpNetwork;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{RngCore as _, SeedableRng as _};
use serde_json::Value;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::scene::Scene;

/// A hundred bits are flipped in each run, here and in a copy.
const FLIPS: usize = 30;

/// Chance that can be had again: the seed is in the message of every failure.
pub struct Dice {
    pub seed: u64,
    generator: Xoshiro256PlusPlus,
}

impl Dice {
    pub fn thrown() -> Self {
        let (seed, _) = Uuid::new_v4().as_u64_pair();
        Self { seed, generator: Xoshiro256PlusPlus::seed_from_u64(seed) }
    }

    pub fn below(&mut self, end: usize) -> usize {
        let number = self.generator.next_u64() % u64::try_from(end).expect("a length");
        usize::try_from(number).expect("it is below a length")
    }
}

/// Where nothing is signed, and nothing that is concluded depends on it: when a tree was last signed, what was said of a log
/// when it was opened or closed. Which keys are believed is never taken from the database.
const UNPROTECTED: [(&str, &str); 6] = [
    ("audit_checkpoints", "signed_at"),
    ("audit_logs", "verifier_keys"),
    ("audit_logs", "opened_at"),
    ("audit_logs", "closed_at"),
    ("audit_logs", "forked_at"),
    ("audit_logs", "fork"),
];

/// Columns and their types, as the catalogue has them: one that comes later is flipped as well.
async fn columns(scene: &mut Scene) -> Vec<Vec<(String, String, String)>> {
    let mut tables = Vec::new();
    for table in [
        "customer_consent_audit",
        "audit_events",
        "audit_leaves",
        "audit_nodes",
        "audit_checkpoints",
        "audit_logs",
    ] {
        let columns: Vec<(String, String)> = sqlx::query_as(
            "select column_name::text, udt_name::text from information_schema.columns
             where table_schema = 'vlaapi' and table_name = $1 order by ordinal_position",
        )
        .bind(table)
        .fetch_all(&mut scene.superuser)
        .await
        .expect("the catalogue is read");
        let protected =
            columns.into_iter().filter(|(column, _)| !UNPROTECTED.contains(&(table, column.as_str())));
        tables.push(protected.map(|(column, kind)| (table.to_owned(), column, kind)).collect());
    }
    tables
}

/// The same text with one bit flipped, where that gives ASCII again.
fn flip_text(text: &str, dice: &mut Dice) -> Option<String> {
    let mut bytes = text.as_bytes().to_vec();
    let at = dice.below(bytes.len().max(1));
    let flipped = bytes.get(at).filter(|byte| byte.is_ascii())? ^ (1 << dice.below(7));
    bytes[at] = flipped;
    if flipped == 0 { None } else { String::from_utf8(bytes).ok() }
}

/// A flipped bit of the text which leaves JSON of another meaning, or a boolean that is the other one.
fn flip_json(text: &str, dice: &mut Dice) -> Option<String> {
    let booleans: Vec<(usize, &str)> =
        text.match_indices("true").chain(text.match_indices("false")).collect();
    if !booleans.is_empty() && dice.below(4) == 0 {
        let (at, old) = booleans[dice.below(booleans.len())];
        let other = if old == "true" { "false" } else { "true" };
        return Some(format!("{}{other}{}", &text[..at], &text[at + old.len()..]));
    }
    let flipped = flip_text(text, dice)?;
    let (old, new): (Value, Value) = (serde_json::from_str(text).ok()?, serde_json::from_str(&flipped).ok()?);
    (old != new).then_some(flipped)
}

fn flip_inet(text: &str, dice: &mut Dice) -> Option<String> {
    let network: IpNetwork = text.parse().ok()?;
    if dice.below(8) == 0 {
        return IpNetwork::new(network.ip(), network.prefix() ^ (1 << dice.below(7)))
            .ok()
            .map(|n| n.to_string());
    }
    let ip: IpAddr = match network.ip() {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() ^ (1 << dice.below(32))).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() ^ (1 << dice.below(128))).into(),
    };
    IpNetwork::new(ip, network.prefix()).ok().map(|network| network.to_string())
}

/// A value's text with one bit of the value flipped, as an SQL expression.
fn flip(kind: &str, text: &str, dice: &mut Dice) -> Option<String> {
    let quoted = |value: String| format!("'{}'", value.replace('\'', "''"));
    match kind {
        "text" | "varchar" => flip_text(text, dice).map(quoted),
        "jsonb" => flip_json(text, dice).map(quoted),
        "inet" => flip_inet(text, dice).map(quoted),
        "uuid" => {
            let uuid = Uuid::parse_str(text).ok()?.as_u128() ^ (1 << dice.below(128));
            Some(quoted(Uuid::from_u128(uuid).to_string()))
        }
        "bytea" => {
            let mut hex = text.as_bytes().to_vec();
            let at = dice.below(hex.len().max(1));
            let digit = char::from(*hex.get(at)?).to_digit(16)? ^ (1 << dice.below(4));
            hex[at] = u8::try_from(char::from_digit(digit, 16)?).ok()?;
            Some(format!("decode('{}', 'hex')", String::from_utf8(hex).ok()?))
        }
        "int2" => Some((text.parse::<i16>().ok()? ^ (1 << dice.below(16))).to_string()),
        "int4" => Some((text.parse::<i32>().ok()? ^ (1 << dice.below(32))).to_string()),
        "int8" => Some((text.parse::<i64>().ok()? ^ (1 << dice.below(64))).to_string()),
        // Higher bits lead out of the calendar.
        "timestamptz" => {
            let micros = text.parse::<i64>().ok()? ^ (1 << dice.below(52));
            Some(format!("timestamptz 'epoch' + {micros} * interval '1 microsecond'"))
        }
        other => panic!("a bit of {other} has never been flipped"),
    }
}

/// A statement which flips one bit, and what it does.
async fn flipped(scene: &mut Scene, tables: &[Vec<(String, String, String)>], dice: &mut Dice) -> String {
    loop {
        let columns = &tables[dice.below(tables.len())];
        let (table, column, kind) = &columns[dice.below(columns.len())];
        let rows = scene.number(&format!("select count({column}) from vlaapi.{table}")).await;
        if rows == 0 {
            continue;
        }
        let text = match kind.as_str() {
            "bytea" => format!("encode({column}, 'hex')"),
            "timestamptz" => format!("(extract(epoch from {column}) * 1000000)::bigint::text"),
            _ => format!("{column}::text"),
        };
        let nth = dice.below(usize::try_from(rows).expect("a number of rows"));
        let (ctid, value): (String, String) = sqlx::query_as(AssertSqlSafe(format!(
            "select ctid::text, {text} from vlaapi.{table} where {column} is not null order by ctid offset {nth} limit 1"
        )))
        .fetch_one(&mut scene.superuser)
        .await
        .expect("a value is read");
        if let Some(other) = flip(kind, &value, dice) {
            return format!("update vlaapi.{table} set {column} = {other} where ctid = '{ctid}'");
        }
    }
}

#[tokio::test]
async fn every_flipped_bit_in_the_database_is_found() {
    flip_and_verify(FLIPS).await;
}

#[tokio::test]
#[ignore = "minutes: make soak"]
async fn soak_every_one_of_a_thousand_flipped_bits_in_the_database_is_found() {
    flip_and_verify(1_000).await;
}

async fn flip_and_verify(flips: usize) {
    let mut scene = Scene::start().await;
    // Nothing but the verification is to notice.
    scene
        .sql(
            "do $$
             declare c record;
             begin
               for c in select conrelid::regclass as relation, conname from pg_constraint
                        where contype in ('c', 'u', 'p') and connamespace = 'vlaapi'::regnamespace
                          and conrelid::regclass::text ~ '^vlaapi.(audit_|customer_consent_audit)'
               loop
                 execute format('alter table %s drop constraint %I', c.relation, c.conname);
               end loop;
             end $$",
        )
        .await;
    let tables = columns(&mut scene).await;
    let mut dice = Dice::thrown();
    let mut missed = String::new();
    for _ in 0..flips {
        let statement = flipped(&mut scene, &tables, &mut dice).await;
        let report = scene.attempt(&statement).await;
        if report.verdict() != Verdict::Tampering {
            writeln!(missed, "{statement}").expect("a string grows");
        }
    }
    assert!(missed.is_empty(), "seed {}: not found:\n{missed}", dice.seed);
    assert_eq!(scene.inside().await.findings, []);
}
