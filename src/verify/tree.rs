//! Leaves into the tree again, against everything that was signed of it.

use std::collections::BTreeMap;

use super::{Report, Rule};
use crate::tlog::tree::{Frontier, Hash, Node, leaf_hash};

/// A root that somebody said a size has.
#[derive(Clone, Debug)]
struct Claim {
    root: Hash,
    by: String,
}

/// The tree as it grows anew.
#[derive(Debug)]
pub struct TreeCheck {
    origin: String,
    tree: Frontier,
    claims: BTreeMap<u64, Vec<Claim>>,
}

impl TreeCheck {
    /// `tree` is where to begin.
    pub fn new(origin: &str, tree: Frontier) -> Self {
        Self { origin: origin.to_owned(), tree, claims: BTreeMap::new() }
    }

    pub fn size(&self) -> u64 {
        self.tree.size()
    }

    pub fn root(&self) -> Hash {
        self.tree.root()
    }

    /// Holds the tree against a root, when it comes to that size.
    pub fn claim(&mut self, size: u64, root: Hash, by: impl Into<String>) {
        self.claims.entry(size).or_default().push(Claim { root, by: by.into() });
    }

    /// Adds a leaf, and tells of the nodes that it completes.
    pub fn add(&mut self, leaf: &[u8], report: &mut Report, completed: impl FnMut(Node, Hash)) -> Hash {
        let hash = leaf_hash(leaf);
        self.tree.append(hash, completed);
        if self.claims.first_key_value().is_some_and(|(size, _)| *size <= self.tree.size()) {
            self.settle(report);
        }
        hash
    }

    /// Compares what is claimed of sizes up to the present one.
    pub fn settle(&mut self, report: &mut Report) {
        while let Some(entry) = self.claims.first_entry()
            && *entry.key() <= self.tree.size()
        {
            let (size, claims) = entry.remove_entry();
            if size < self.tree.size() {
                // Before the place where this verification begins: nothing to compare with.
                continue;
            }
            for claim in claims.iter().filter(|claim| claim.root != self.tree.root()) {
                report.find(
                    Rule::V5,
                    format!("checkpoint of size {size} of {}, {}", self.origin, claim.by),
                    format!("its root is {}, and the leaves give {}", claim.root, self.tree.root()),
                );
            }
        }
    }

    /// What is claimed of sizes that the tree never came to. `explained` tells whether a loss is declared.
    pub fn finish(mut self, report: &mut Report, explained: impl Fn(u64, &Hash) -> bool) {
        self.settle(report);
        for (size, claims) in self.claims {
            for claim in claims {
                let place = format!("checkpoint of size {size} of {}, {}", self.origin, claim.by);
                let what = format!("the log has {} leaves: the newest are cut off", self.tree.size());
                if explained(size, &claim.root) {
                    report.remark(format!("{place}: {what}, as the log that follows declares"));
                } else {
                    report.find(Rule::V5, place, what);
                }
            }
        }
    }
}
