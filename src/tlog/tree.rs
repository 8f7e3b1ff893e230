//! The Merkle tree of RFC 6962 section 2.1, over SHA-256.
//!
//! A tree of n leaves is a row of perfect subtrees, one for each bit of n, joined from the right. Only perfect
//! subtrees never change as the tree grows, so they are what is stored, and everything else is made of them.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest as _, Sha256};

/// SHA-256 of a leaf or of a subtree. Its text is standard base64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash(pub [u8; 32]);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a hash is 32 bytes, or 44 characters of standard base64")]
pub struct HashFault;

impl Hash {
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl TryFrom<&[u8]> for Hash {
    type Error = HashFault;

    fn try_from(bytes: &[u8]) -> Result<Self, HashFault> {
        bytes.try_into().map(Self).map_err(|_| HashFault)
    }
}

impl FromStr for Hash {
    type Err = HashFault;

    fn from_str(text: &str) -> Result<Self, HashFault> {
        Self::try_from(BASE64_STANDARD.decode(text).map_err(|_| HashFault)?.as_slice())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The prefixes 0 and 1 keep a leaf from passing for an inner node: without them, second preimages are easy.
pub fn leaf_hash(leaf: &[u8]) -> Hash {
    Hash(Sha256::new().chain_update([0]).chain_update(leaf).finalize().into())
}

pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Hash(Sha256::new().chain_update([1]).chain_update(left.0).chain_update(right.0).finalize().into())
}

pub fn empty_root() -> Hash {
    Hash(Sha256::digest([]).into())
}

/// A perfect subtree: the leaves `index << level .. (index + 1) << level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    pub level: u8,
    pub index: u64,
}

impl Node {
    /// Whether it is the root of a full tile, so that a tile above holds it (tlog-tiles).
    pub fn tops_a_tile(self) -> bool {
        self.level > 0 && self.level.is_multiple_of(8)
    }
}

/// The root of a perfect subtree, from all its hashes on one level: as many as a power of two. `None` if there are none.
pub fn perfect_root(mut hashes: Vec<Hash>) -> Option<Hash> {
    while hashes.len() > 1 {
        hashes = hashes.chunks_exact(2).map(|pair| node_hash(&pair[0], &pair[1])).collect();
    }
    hashes.pop()
}

/// The perfect subtrees that a tree is made of: all that is needed to know its root and to add to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    hashes: Vec<Hash>,
}

impl Frontier {
    /// Of the empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// Which perfect subtrees a tree of `size` leaves is made of, from left to right.
    pub fn nodes(size: u64) -> Vec<Node> {
        cover(0..size).collect()
    }

    /// From the hashes of [`Frontier::nodes`]. `None` if there are too many or too few.
    pub fn from_hashes(size: u64, hashes: Vec<Hash>) -> Option<Self> {
        (u64::from(size.count_ones()) == hashes.len() as u64).then_some(Self { size, hashes })
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn root(&self) -> Hash {
        join(self.hashes.iter().copied()).unwrap_or_else(empty_root)
    }

    /// Adds a leaf, and tells of every perfect subtree that it completes, beginning with the leaf itself.
    pub fn append(&mut self, leaf: Hash, mut completed: impl FnMut(Node, Hash)) {
        let (mut node, mut hash) = (Node { level: 0, index: self.size }, leaf);
        self.size =
            self.size.checked_add(1).expect("a log is appended to one by one, and never has 2^64 leaves");
        completed(node, hash);
        while node.index & 1 == 1 {
            let left = self.hashes.pop().expect("a right node has its sibling in the frontier");
            hash = node_hash(&left, &hash);
            node = Node { level: node.level + 1, index: node.index >> 1 };
            completed(node, hash);
        }
        self.hashes.push(hash);
    }
}

/// The perfect subtrees of a subtree, from left to right: one for each bit of its size, the largest first.
/// A subtree starts at a multiple of its size, rounded up to a power of two; that keeps the bits apart.
fn cover(leaves: Range<u64>) -> impl DoubleEndedIterator<Item = Node> {
    let size = leaves.end - leaves.start;
    (0..64_u8)
        .rev()
        .filter(move |level| size >> level & 1 == 1)
        .map(move |level| Node { level, index: (leaves.end >> level) - 1 })
}

/// RFC 6962 splits at the largest power of two, so the smaller subtrees on the right are joined first.
fn join(perfect: impl DoubleEndedIterator<Item = Hash>) -> Option<Hash> {
    perfect.rev().reduce(|right, left| node_hash(&left, &right))
}

/// Where a subtree of at least two leaves parts: at the largest power of two smaller than its size.
fn middle(leaves: &Range<u64>) -> u64 {
    leaves.start + (1 << (leaves.end - leaves.start - 1).ilog2())
}

/// Walks from the root to the subtree that `found` accepts, always towards `leaf`.
/// Gives that subtree, and the ones that were passed by, the last first: as proofs list them.
fn descend(size: u64, leaf: u64, found: impl Fn(&Range<u64>) -> bool) -> (Range<u64>, Vec<Range<u64>>) {
    let (mut here, mut siblings) = (0..size, Vec::new());
    while !found(&here) {
        let middle = middle(&here);
        let (left, right) = (here.start..middle, middle..here.end);
        let sibling;
        (here, sibling) = if leaf < middle { (left, right) } else { (right, left) };
        siblings.push(sibling);
    }
    siblings.reverse();
    (here, siblings)
}

fn hashes(subtrees: Vec<Range<u64>>, mut read: impl FnMut(Node) -> Hash) -> Vec<Hash> {
    subtrees.into_iter().filter_map(|leaves| join(cover(leaves).map(&mut read))).collect()
}

/// RFC 6962 section 2.1.1. `None` if the tree has no such leaf.
///
/// `read` is asked for perfect subtrees of this tree alone, and for the same ones whatever it answers: a caller may
/// run this once to learn which are needed, fetch them, and run it again.
pub fn inclusion_proof(index: u64, size: u64, read: impl FnMut(Node) -> Hash) -> Option<Vec<Hash>> {
    if index >= size {
        return None;
    }
    let (_, siblings) = descend(size, index, |here| here.end - here.start == 1);
    Some(hashes(siblings, read))
}

/// RFC 6962 section 2.1.2. `None` if the old tree is larger than the new one; empty if there is nothing to prove.
///
/// `read` is used as in [`inclusion_proof`].
pub fn consistency_proof(old: u64, new: u64, read: impl FnMut(Node) -> Hash) -> Option<Vec<Hash>> {
    if old > new {
        return None;
    }
    if old == 0 || old == new {
        return Some(Vec::new());
    }
    let (last, siblings) = descend(new, old - 1, |here| here.end == old);
    // When the old tree is a subtree of the new one, its root need not be told: the verifier has it.
    let known = last.start == 0;
    let subtrees = (!known).then_some(last).into_iter().chain(siblings);
    Some(hashes(subtrees.collect(), read))
}

/// Why a proof proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofFault {
    #[error("a tree of {size} leaves has no leaf {index}")]
    NoSuchLeaf { index: u64, size: u64 },
    #[error("a tree of {old} leaves cannot have grown to one of {new}")]
    Shrunk { old: u64, new: u64 },
    #[error("the proof has too many or too few hashes")]
    Length,
    #[error("the proof does not lead to the root")]
    Root,
    #[error("the proof does not lead to the older root")]
    OldRoot,
}

/// RFC 9162 section 2.1.3.2.
pub fn verify_inclusion(
    leaf: Hash,
    index: u64,
    size: u64,
    proof: &[Hash],
    root: Hash,
) -> Result<(), ProofFault> {
    if index >= size {
        return Err(ProofFault::NoSuchLeaf { index, size });
    }
    let mut climb = Climb { index, last: size - 1 };
    let mut hash = leaf;
    for sibling in proof {
        hash = match climb.step()? {
            Side::Left => node_hash(sibling, &hash),
            Side::Right => node_hash(&hash, sibling),
        };
    }
    climb.arrived()?;
    if hash == root { Ok(()) } else { Err(ProofFault::Root) }
}

/// RFC 9162 section 2.1.4.2; beyond it, the empty tree grows into any, and every tree is consistent with itself.
pub fn verify_consistency(
    old: u64,
    new: u64,
    proof: &[Hash],
    old_root: Hash,
    new_root: Hash,
) -> Result<(), ProofFault> {
    if old > new {
        return Err(ProofFault::Shrunk { old, new });
    }
    if old == 0 && old_root != empty_root() {
        return Err(ProofFault::OldRoot);
    }
    if old == new && old_root != new_root {
        return Err(ProofFault::Root);
    }
    if old == 0 || old == new {
        return if proof.is_empty() { Ok(()) } else { Err(ProofFault::Length) };
    }
    // The climb starts at the last perfect subtree of the old tree: told by the proof, unless it is the whole tree.
    let (seed, proof) = if old.is_power_of_two() {
        (old_root, proof)
    } else {
        let (first, rest) = proof.split_first().ok_or(ProofFault::Length)?;
        (*first, rest)
    };
    let height = old.trailing_zeros();
    let mut climb = Climb { index: (old - 1) >> height, last: (new - 1) >> height };
    let (mut before, mut now) = (seed, seed);
    for sibling in proof {
        match climb.step()? {
            Side::Left => {
                before = node_hash(sibling, &before);
                now = node_hash(sibling, &now);
            }
            // What stands to the right came later: the old tree did not have it.
            Side::Right => now = node_hash(&now, sibling),
        }
    }
    climb.arrived()?;
    if before != old_root {
        return Err(ProofFault::OldRoot);
    }
    if now == new_root { Ok(()) } else { Err(ProofFault::Root) }
}

/// The way up from a node to the root: `fn` and `sn` of RFC 9162.
struct Climb {
    index: u64,
    /// The last node of the same level.
    last: u64,
}

/// Where the next hash of a proof stands.
enum Side {
    Left,
    Right,
}

impl Climb {
    fn step(&mut self) -> Result<Side, ProofFault> {
        if self.last == 0 {
            return Err(ProofFault::Length);
        }
        let side = if self.index & 1 == 1 {
            Side::Left
        } else if self.index == self.last {
            // A last node without a sibling is its own parent, up to where it is a right child.
            let alone = self.index.trailing_zeros();
            self.index >>= alone;
            self.last >>= alone;
            Side::Left
        } else {
            Side::Right
        };
        self.index >>= 1;
        self.last >>= 1;
        Ok(side)
    }

    fn arrived(&self) -> Result<(), ProofFault> {
        if self.last == 0 { Ok(()) } else { Err(ProofFault::Length) }
    }
}
