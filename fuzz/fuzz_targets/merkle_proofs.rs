//! Proofs: no claim makes a verifier panic, and of all lists of hashes only the tree's own proof is believed.

#![no_main]

use std::collections::BTreeMap;

use consentd_fuzz::tlog::tree::{
    Frontier, Hash, consistency_proof, inclusion_proof, leaf_hash, verify_consistency, verify_inclusion,
};
use libfuzzer_sys::fuzz_target;

struct Claim {
    first: u64,
    second: u64,
    leaf: Hash,
    root: Hash,
    proof: Vec<Hash>,
}

type Bytes = ((u64, u64), [u8; 32], [u8; 32], Vec<[u8; 32]>);

fuzz_target!(|bytes: Bytes| {
    let ((first, second), leaf, root, proof) = bytes;
    let proof = proof.into_iter().map(Hash).collect();
    let claim = Claim { first, second, leaf: Hash(leaf), root: Hash(root), proof };
    of_any_tree(&claim);
    of_a_real_tree(&claim);
});

fn of_any_tree(claim: &Claim) {
    let Claim { first, second, leaf, root, proof } = claim;
    let _ = verify_inclusion(*leaf, *first, *second, proof, *root);
    let _ = verify_consistency(*first, *second, proof, *leaf, *root);
    let _ = inclusion_proof(*first, *second, |_| *root);
    let _ = consistency_proof(*first, *second, |_| *root);
    assert_eq!(Frontier::nodes(*first).len(), first.count_ones() as usize);
}

fn of_a_real_tree(claim: &Claim) {
    let size = claim.second % 64 + 1;
    let (index, old) = (claim.first % size, claim.first % size + 1);
    let (mut frontier, mut nodes, mut old_root) = (Frontier::new(), BTreeMap::new(), claim.root);
    for leaf in 0..size {
        frontier.append(leaf_hash(&leaf.to_be_bytes()), |node, hash| {
            nodes.insert(node, hash);
        });
        if leaf + 1 == old {
            old_root = frontier.root();
        }
    }
    let root = frontier.root();
    // The claimed hashes in place of some of the real ones: closer to the truth than any list of random ones.
    let spliced = |real: &[Hash]| {
        let keep = usize::from(claim.leaf.0[0]) % (real.len() + 1);
        [&real[..keep], &claim.proof, real.get(keep + claim.proof.len()..).unwrap_or_default()].concat()
    };

    let leaf = leaf_hash(&index.to_be_bytes());
    let real = inclusion_proof(index, size, |node| nodes[&node]).expect("the leaf is in the tree");
    assert_eq!(verify_inclusion(leaf, index, size, &real, root), Ok(()));
    for proof in [&claim.proof, &spliced(&real)] {
        assert_eq!(verify_inclusion(leaf, index, size, proof, root).is_ok(), *proof == real);
    }

    let real = consistency_proof(old, size, |node| nodes[&node]).expect("the tree has grown");
    assert_eq!(verify_consistency(old, size, &real, old_root, root), Ok(()));
    for proof in [&claim.proof, &spliced(&real)] {
        assert_eq!(verify_consistency(old, size, proof, old_root, root).is_ok(), *proof == real);
    }
}
