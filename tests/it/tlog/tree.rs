//! The tree, against the roots that are published and against `ct-merkle`.

use std::collections::{BTreeMap, BTreeSet};

use consentd::tlog::tree::{
    Frontier, Hash, Node, consistency_proof, empty_root, inclusion_proof, leaf_hash, node_hash,
    verify_consistency, verify_inclusion,
};
use ct_merkle::mem_backed_tree::MemoryBackedTree;
use proptest::prelude::*;
use sha2::Sha256;

type Oracle = MemoryBackedTree<Sha256, Vec<u8>>;

/// A tree as a log keeps it: the perfect subtrees, each as it was told of, and no others.
#[derive(Default)]
pub struct Log {
    pub frontier: Frontier,
    nodes: BTreeMap<Node, Hash>,
}

pub fn leaf(index: u64) -> Vec<u8> {
    format!("leaf {index}").into_bytes()
}

impl Log {
    pub fn of(size: u64) -> Self {
        let mut log = Self::default();
        for index in 0..size {
            log.push(&leaf(index));
        }
        log
    }

    fn push(&mut self, leaf: &[u8]) {
        self.frontier.append(leaf_hash(leaf), |node, hash| {
            assert_eq!(self.nodes.insert(node, hash), None, "a subtree is completed once");
        });
    }

    fn read(&self, node: Node) -> Hash {
        *self.nodes.get(&node).expect("a perfect subtree of the tree")
    }

    pub fn root(&self) -> Hash {
        self.frontier.root()
    }

    pub fn inclusion(&self, index: u64) -> Vec<Hash> {
        inclusion_proof(index, self.frontier.size(), |node| self.read(node)).unwrap()
    }

    pub fn consistency(&self, old: u64) -> Vec<Hash> {
        consistency_proof(old, self.frontier.size(), |node| self.read(node)).unwrap()
    }
}

fn oracle(size: u64) -> Oracle {
    let mut oracle = Oracle::new();
    (0..size).for_each(|index| oracle.push(leaf(index)));
    oracle
}

fn of_oracle(proof: &[u8]) -> Vec<Hash> {
    proof.chunks(32).map(|hash| hash.try_into().unwrap()).collect()
}

fn is_as_in_the_oracle(log: &Log, oracle: &Oracle, index: u64) {
    let (size, root) = (log.frontier.size(), log.root());
    assert_eq!(root.as_bytes().as_slice(), oracle.root().as_bytes().as_slice());

    let at = usize::try_from(index).unwrap();
    let proof = log.inclusion(index);
    assert_eq!(proof, of_oracle(oracle.prove_inclusion(at).as_bytes()), "leaf {index} of {size}");
    assert_eq!(verify_inclusion(leaf_hash(&leaf(index)), index, size, &proof, root), Ok(()));

    let old = index + 1;
    let proof = log.consistency(old);
    let additions = usize::try_from(size - old).unwrap();
    assert_eq!(proof, of_oracle(oracle.prove_consistency(additions).as_bytes()), "{old} to {size}");
    assert_eq!(verify_consistency(old, size, &proof, Log::of(old).root(), root), Ok(()));
}

#[test]
fn small_trees_and_all_their_proofs_are_those_of_another_implementation() {
    let (mut log, mut oracle) = (Log::default(), Oracle::new());
    for size in 1..=130 {
        log.push(&leaf(size - 1));
        oracle.push(leaf(size - 1));
        (0..size).for_each(|index| is_as_in_the_oracle(&log, &oracle, index));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn large_trees_and_their_proofs_are_those_of_another_implementation(
        size in 130..4000_u64, indices in proptest::collection::vec(any::<prop::sample::Index>(), 4),
    ) {
        let (log, oracle) = (Log::of(size), oracle(size));
        for index in indices {
            is_as_in_the_oracle(&log, &oracle, index.index(usize::try_from(size).unwrap()) as u64);
        }
    }
}

#[test]
fn roots_are_the_published_ones_of_certificate_transparency() {
    // The leaves and roots with which implementations of RFC 6962 have been tested since the first one.
    let known = [
        ("", "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
        ("00", "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
        ("10", "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"),
        ("2021", "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"),
        ("3031", "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4"),
        ("40414243", "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef"),
        ("5051525354555657", "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c"),
        (
            "606162636465666768696a6b6c6d6e6f",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ),
    ];
    let bytes = |hex: &str| -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    };
    let mut log = Log::default();
    assert_eq!(log.root().to_string(), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
    for (leaf, root) in known {
        log.push(&bytes(leaf));
        assert_eq!(log.root(), Hash::try_from(bytes(root).as_slice()).unwrap());
    }
}

#[test]
fn a_tree_can_be_taken_up_again_at_any_size() {
    let mut log = Log::default();
    for size in 0..=130 {
        let hashes = Frontier::nodes(size).into_iter().map(|node| log.read(node)).collect::<Vec<_>>();
        let taken_up = Frontier::from_hashes(size, hashes.clone()).unwrap();
        assert_eq!(taken_up, log.frontier);
        assert_eq!(Frontier::from_hashes(size, [hashes, vec![empty_root()]].concat()), None);
        log.push(&leaf(size));
    }
    assert_eq!(Frontier::from_hashes(7, vec![empty_root(); 2]), None);
}

#[test]
fn which_subtrees_a_proof_needs_does_not_depend_on_what_they_are() {
    let log = Log::of(300);
    for index in 0..300 {
        let mut needed = BTreeSet::new();
        let mut note = |node| {
            needed.insert(node);
            Hash([0; 32])
        };
        inclusion_proof(index, 300, &mut note).unwrap();
        consistency_proof(index, 300, &mut note).unwrap();
        let fetched: BTreeMap<_, _> = needed.into_iter().map(|node| (node, log.read(node))).collect();
        assert_eq!(inclusion_proof(index, 300, |node| fetched[&node]).unwrap(), log.inclusion(index));
        assert_eq!(consistency_proof(index, 300, |node| fetched[&node]).unwrap(), log.consistency(index));
    }
}

#[test]
fn there_is_no_proof_of_what_is_not_so() {
    let none = |_| -> Hash { unreachable!("nothing is read for it") };
    assert_eq!(inclusion_proof(0, 0, none), None);
    assert_eq!(inclusion_proof(5, 5, none), None);
    assert_eq!(consistency_proof(6, 5, none), None);
    assert_eq!(consistency_proof(0, 5, none), Some(Vec::new()));
    assert_eq!(consistency_proof(5, 5, none), Some(Vec::new()));
}

#[test]
fn the_largest_trees_are_no_trouble() {
    // All leaves are the same, so all nodes of a level are, and nothing needs to be stored.
    let mut levels = vec![leaf_hash(b"the same")];
    (0..64).for_each(|level| levels.push(node_hash(&levels[level], &levels[level])));
    let read = |node: Node| levels[usize::from(node.level)];
    let root = |size| {
        let hashes = Frontier::nodes(size).into_iter().map(read).collect();
        Frontier::from_hashes(size, hashes).unwrap().root()
    };
    for size in [u64::MAX, u64::MAX - 1, (1 << 63) + 1, 1 << 63, (1 << 63) - 1] {
        for index in [0, 1, (1 << 62) - 1, 1 << 62, size / 2, size - 2, size - 1] {
            let proof = inclusion_proof(index, size, read).unwrap();
            assert_eq!(verify_inclusion(levels[0], index, size, &proof, root(size)), Ok(()));
            let proof = consistency_proof(index, size, read).unwrap();
            assert_eq!(verify_consistency(index, size, &proof, root(index), root(size)), Ok(()));
        }
    }
}

#[test]
fn a_hash_has_one_text() {
    let text = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
    assert_eq!(text.parse::<Hash>().unwrap().to_string(), text);
    assert_eq!(format!("{:?}", empty_root()), text);
    for wrong in [
        "",
        "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
        "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFV=",
        "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU=",
        "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n",
        "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFUA",
        "e30=",
    ] {
        assert!(wrong.parse::<Hash>().is_err(), "{wrong}");
    }
}
