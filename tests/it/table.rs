//! The map that is read without a lock: against a plain one, and with many threads at it.

use std::collections::HashMap;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;
use std::time::Duration;

use consentd::cache::table::{Entry, Table, Update};
use proptest::prelude::*;

/// A table for up to this many keys has one bucket of eight places in each of its 64 parts.
const SMALLEST: usize = 64;
const PLACES: usize = 64 * 8;

/// Keys that differ in every half, and are never 0 alone.
fn key(number: u64) -> u128 {
    u128::from(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 64 | u128::from(number)
}

fn entry(number: u64, value: u64) -> Entry {
    [value, number, !value, !number, value ^ number, 7]
}

fn never(_: &Entry) -> bool {
    false
}

fn updates(keys: u64) -> impl Strategy<Value = Vec<(u64, Option<u64>)>> {
    let update = (0..keys, prop_oneof![4 => any::<u64>().prop_map(Some), 1 => Just(None)]);
    proptest::collection::vec(update, 1..3000)
}

/// Puts or removes, and says whether an entry gave way. What stood there must be what the model has, if it stood there.
fn apply(
    table: &Table,
    model: &mut HashMap<u64, Entry>,
    number: u64,
    value: Option<u64>,
    may_lose: bool,
) -> bool {
    let before = model.get(&number).copied();
    let (update, after) = match value {
        Some(value) => (Update::Put(entry(number, value)), Some(entry(number, value))),
        None => (Update::Remove, None),
    };
    let gave_way = table.update(key(number), never, |current| {
        assert!(current == before || may_lose && current.is_none(), "{number}: {current:?}, not {before:?}");
        update
    });
    match after {
        Some(entry) => model.insert(number, entry),
        None => model.remove(&number),
    };
    assert_eq!(table.read(key(number)), after);
    gave_way
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn with_room_enough_nothing_is_lost(updates in updates(400)) {
        let (table, mut model) = (Table::new(4096), HashMap::new());
        for (number, value) in updates {
            prop_assert!(!apply(&table, &mut model, number, value, false));
            table.update(key(number + 1), never, |_| Update::Leave);
            prop_assert_eq!(table.len(), model.len());
        }
        let together = table.read_all((0..=400).map(key));
        for (number, found) in (0..=400).zip(together) {
            prop_assert_eq!(table.read(key(number)), model.get(&number).copied());
            prop_assert_eq!(found, model.get(&number).copied());
        }
    }

    #[test]
    fn with_too_many_keys_some_are_lost_and_none_is_wrong(updates in updates(1500)) {
        let (table, mut model) = (Table::new(SMALLEST), HashMap::new());
        for (number, value) in updates {
            let before = table.len();
            let held = table.read(key(number)).is_some();
            let gave_way = apply(&table, &mut model, number, value, true);
            let after = match (value, held) {
                (Some(_), false) => before + usize::from(!gave_way),
                (None, true) => before - 1,
                _ => before,
            };
            prop_assert_eq!(table.len(), after);
            prop_assert!(after <= PLACES);
        }
        let mut held = 0;
        let together = table.read_all((0..1500).map(key));
        for (number, together) in (0..1500).zip(together) {
            let found = table.read(key(number));
            prop_assert_eq!(together, found);
            if let Some(found) = found {
                prop_assert_eq!(Some(&found), model.get(&number));
                held += 1;
            }
        }
        prop_assert_eq!(table.len(), held);
    }
}

#[test]
fn expendable_entries_give_way_first() {
    let table = Table::new(SMALLEST);
    let expendable = |entry: &Entry| entry[0] == 1;
    let put = |number: u64, worth: u64| {
        table.update(key(number), expendable, |_| Update::Put(entry(number, worth)))
    };
    // So few that no bucket is full of them alone.
    let precious = 0..32;
    let mut gave_way = 0;
    for number in 1000..6000 {
        gave_way += usize::from(put(number, 1));
    }
    assert_eq!((table.len(), gave_way), (PLACES, 5000 - PLACES));
    for number in precious.clone() {
        assert!(put(number, 2));
    }
    for number in 6000..9000 {
        assert!(put(number, 1));
    }
    assert_eq!(table.len(), PLACES);
    for number in precious {
        assert_eq!(table.read(key(number)), Some(entry(number, 2)));
    }
}

#[test]
fn what_is_read_is_whole_and_never_older_than_what_was_read_before() {
    /// So many that each bucket is full, and those that come and go use the places of others.
    const COMING_AND_GOING: u64 = 2000;
    const COUNTED: usize = 16;
    let marked = |number: u64| number | 1 << 63;
    let expendable = |entry: &Entry| entry[0] >> 63 == 1;
    let table = Table::new(SMALLEST);
    let stop = AtomicBool::new(false);
    // What each counter has reached, and what everybody must see who asks from now on.
    let drawn: [AtomicU64; COUNTED] = Default::default();
    let written: [AtomicU64; COUNTED] = Default::default();
    let counter = |at: usize| key(1_000_000 + at as u64);
    let (table, stop, drawn, written) = (&table, &stop, &drawn, &written);
    thread::scope(|scope| {
        for writer in 0..2_usize {
            scope.spawn(move || {
                for round in writer.. {
                    if stop.load(Relaxed) {
                        break;
                    }
                    let at = round % COUNTED;
                    let mut value = 0;
                    table.update(counter(at), expendable, |current| {
                        // Removed ones come back with a greater number.
                        if round % 97 == 0 {
                            return Update::Remove;
                        }
                        value = drawn[at].load(Relaxed) + 1;
                        assert!(
                            current.is_none_or(|current| current == [value - 1; 6]),
                            "{current:?}, not {value}"
                        );
                        drawn[at].store(value, Relaxed);
                        Update::Put([value; 6])
                    });
                    written[at].fetch_max(value, Release);
                }
            });
        }
        scope.spawn(move || {
            for number in (0..COMING_AND_GOING).cycle() {
                if stop.load(Relaxed) {
                    break;
                }
                table.update(key(number), expendable, |_| Update::Put([marked(number); 6]));
            }
        });
        let readers: Vec<_> = (0..3_usize)
            .map(|_| {
                scope.spawn(move || {
                    let (mut last, mut found) = ([0; COUNTED], 0_u64);
                    for round in 0.. {
                        if stop.load(Relaxed) {
                            break;
                        }
                        let at = round % COUNTED;
                        let due = written[at].load(Acquire).max(last[at]);
                        let number = round as u64 % COMING_AND_GOING;
                        let (counter, key) = (counter(at), key(number));
                        let [of_counter, of_key] = if round % 2 == 0 {
                            [counter, key].map(|key| table.read(key))
                        } else {
                            table.read_all([counter, key].into_iter()).try_into().expect("two are read")
                        };
                        if let Some(entry) = of_counter {
                            assert_eq!(entry, [entry[0]; 6], "torn");
                            assert!(entry[0] >= due, "{} after {due}", entry[0]);
                            last[at] = entry[0];
                            found += 1;
                        }
                        if let Some(entry) = of_key {
                            assert_eq!(entry, [marked(number); 6], "torn, or of another key");
                        }
                    }
                    found
                })
            })
            .collect();
        thread::sleep(Duration::from_secs(2));
        stop.store(true, Relaxed);
        for reader in readers {
            assert!(reader.join().expect("what is read is right") > 1000);
        }
    });
    assert!(drawn.iter().all(|drawn| drawn.load(Relaxed) > 100));
}
