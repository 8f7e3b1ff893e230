//! What an administrator of the database can do to the trail, and by which rules it is found.
//!
//! Each attack is made by a superuser, with plain SQL and no trigger in the way, against a log which has lawful erasures in
//! it, and on a database of its own. `inside` is what is found with nothing but the database and the keys; `outside` with the
//! checkpoints and receipts that were kept elsewhere. The list is that of the log's design, in its order.

mod bits;
mod control;
mod damaged;
mod edges;
mod files;
mod foreign;
mod forgery;
mod offline;
mod scene;
mod sealed;
mod unsealed;

use consentd::verify::Rule::{self, V2, V3, V4, V5, V7, V8, V9, V10, V11};

/// An attack, and the rules which find it.
struct Attack {
    what: &'static str,
    /// None at all: what is left is a history that looks like any other.
    inside: &'static [Rule],
    outside: &'static [Rule],
}

/// An attack that the database itself gives away, whatever is known from elsewhere.
const fn seen(what: &'static str, rules: &'static [Rule]) -> Attack {
    Attack { what, inside: rules, outside: rules }
}

/// An attack that nothing in the database gives away.
const fn unseen(what: &'static str, outside: &'static [Rule]) -> Attack {
    Attack { what, inside: &[], outside }
}

const ATTACKS: [Attack; 20] = [
    seen("change a column of a sealed entry", &[V7]),
    seen("backdate by a microsecond", &[V7]),
    seen("change row, leaf and leaf hash", &[V3, V5, V7]),
    Attack {
        what: "the same with root and all checkpoints in the database rewritten",
        inside: &[V4],
        outside: &[V4, V5],
    },
    unseen("the same, signed with the stolen log key", &[V5]),
    seen("delete a sealed entry", &[V7]),
    seen("delete entry and leaf in the middle", &[V2, V5, V8, V10]),
    unseen("the same, renumbered and re-signed", &[V5, V11]),
    unseen("cut off the newest entries and roll the state back", &[V5, V11]),
    seen("swap two leaves", &[V3, V5]),
    seen("forge an entry by INSERT", &[V7]),
    Attack { what: "delete an entry before it is sealed", inside: &[V9, V10], outside: &[V9, V10, V11] },
    unseen("the same with the consent row rolled back", &[V11]),
    seen("change a personal value", &[V8]),
    seen("delete one without an erasure entry", &[V8]),
    seen("move a value and its salt to another entry", &[V8]),
    seen("a checkpoint signed by a foreign key", &[V4]),
    seen("TRUNCATE", &[V7]),
    Attack { what: "change an entry before it is sealed", inside: &[V9], outside: &[V9, V11] },
    seen("remove an id from the queue only", &[V9]),
];
