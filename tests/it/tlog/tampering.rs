//! A proof proves one thing: whatever is changed about it, it no longer holds.

use consentd::tlog::tree::{Hash, ProofFault, leaf_hash, verify_consistency, verify_inclusion};
use proptest::prelude::*;

use super::tree::{Log, leaf};

/// Every way to spoil a list of hashes, one at a time.
fn spoiled(proof: &[Hash], at: prop::sample::Index, bit: u8) -> Vec<Vec<Hash>> {
    let longer = [proof, &[Hash([7; 32])]].concat();
    if proof.is_empty() {
        return vec![longer];
    }
    let at = at.index(proof.len());
    let mut flipped = proof.to_vec();
    flipped[at] = flip(flipped[at], bit);
    let mut shorter = proof.to_vec();
    shorter.remove(at);
    let mut doubled = proof.to_vec();
    doubled.insert(at, proof[at]);
    let mut swapped = proof.to_vec();
    swapped.swap(0, at);
    let mut all = vec![longer, flipped, shorter, doubled];
    all.extend((at > 0).then_some(swapped));
    all
}

fn flip(hash: Hash, bit: u8) -> Hash {
    let mut bytes = hash.0;
    bytes[usize::from(bit / 8)] ^= 1 << (bit % 8);
    Hash(bytes)
}

proptest! {
    #[test]
    fn an_inclusion_proof_holds_for_its_leaf_at_its_place_alone(
        size in 1..400_u64, at: prop::sample::Index, bit: u8, other in 0..400_u64,
    ) {
        let index = at.index(usize::try_from(size).unwrap()) as u64;
        let log = Log::of(size);
        let (hash, proof, root) = (leaf_hash(&leaf(index)), log.inclusion(index), log.root());
        prop_assert_eq!(verify_inclusion(hash, index, size, &proof, root), Ok(()));

        for spoiled in spoiled(&proof, at, bit) {
            prop_assert!(verify_inclusion(hash, index, size, &spoiled, root).is_err());
        }
        prop_assert!(verify_inclusion(flip(hash, bit), index, size, &proof, root).is_err());
        prop_assert_eq!(verify_inclusion(hash, index, size, &proof, flip(root, bit)), Err(ProofFault::Root));
        if other != index {
            prop_assert!(verify_inclusion(hash, other, size, &proof, root).is_err());
        }
        if other != size {
            // The same root under another size can only be believed where the way to the leaf is the same.
            let elsewhere = Log::of(other).root();
            prop_assert!(verify_inclusion(hash, index, other, &proof, elsewhere).is_err());
            prop_assert!(verify_inclusion(hash, index, size, &proof, elsewhere).is_err());
        }
        let beyond = ProofFault::NoSuchLeaf { index: size, size };
        prop_assert_eq!(verify_inclusion(hash, size, size, &proof, root), Err(beyond));
    }

    #[test]
    fn a_consistency_proof_holds_between_its_two_trees_alone(
        new in 2..400_u64, at: prop::sample::Index, bit: u8, other in 1..400_u64,
    ) {
        let old = 1 + at.index(usize::try_from(new - 1).unwrap()) as u64;
        let log = Log::of(new);
        let (proof, before, now) = (log.consistency(old), Log::of(old).root(), log.root());
        prop_assert_eq!(verify_consistency(old, new, &proof, before, now), Ok(()));

        for spoiled in spoiled(&proof, at, bit) {
            prop_assert!(verify_consistency(old, new, &spoiled, before, now).is_err());
        }
        prop_assert!(verify_consistency(old, new, &proof, flip(before, bit), now).is_err());
        prop_assert!(verify_consistency(old, new, &proof, before, flip(now, bit)).is_err());
        prop_assert!(verify_consistency(old, new, &[], before, now).is_err());
        let elsewhere = Log::of(other).root();
        if other != old {
            prop_assert!(verify_consistency(other, new, &proof, elsewhere, now).is_err());
            prop_assert!(verify_consistency(old, new, &proof, elsewhere, now).is_err());
        }
        if other != new {
            prop_assert!(verify_consistency(old, other, &proof, before, elsewhere).is_err());
            prop_assert!(verify_consistency(old, new, &proof, before, elsewhere).is_err());
        }
    }

    #[test]
    fn no_claim_makes_a_verifier_stumble(
        a: u64, b: u64, low in 0..80_u64, proof in proptest::collection::vec(any::<[u8; 32]>(), 0..70),
        root: [u8; 32],
    ) {
        let (proof, root) = (proof.into_iter().map(Hash).collect::<Vec<_>>(), Hash(root));
        for (index, size) in [(a, b), (b, a), (low, a), (a - a % 2, a), (a, a), (a, u64::MAX)] {
            prop_assert!(verify_inclusion(root, index, size, &proof, Hash([1; 32])).is_err());
            let consistent = verify_consistency(index, size, &proof, root, Hash([1; 32]));
            prop_assert!(consistent.is_err());
        }
    }
}

#[test]
fn a_tree_is_consistent_with_itself_and_with_the_empty_one_without_any_proof() {
    let (root, empty) = (Log::of(5).root(), Log::of(0).root());
    assert_eq!(verify_consistency(5, 5, &[], root, root), Ok(()));
    assert_eq!(verify_consistency(0, 5, &[], empty, root), Ok(()));
    assert_eq!(verify_consistency(0, 0, &[], empty, empty), Ok(()));
    assert_eq!(verify_consistency(5, 5, &[root], root, root), Err(ProofFault::Length));
    assert_eq!(verify_consistency(0, 5, &[root], empty, root), Err(ProofFault::Length));
    assert_eq!(verify_consistency(5, 5, &[], empty, root), Err(ProofFault::Root));
    assert_eq!(verify_consistency(0, 5, &[], root, root), Err(ProofFault::OldRoot));
    assert_eq!(verify_consistency(0, 0, &[], empty, root), Err(ProofFault::Root));
    assert_eq!(verify_consistency(6, 5, &[], root, root), Err(ProofFault::Shrunk { old: 6, new: 5 }));
}
