//! The test vectors of transparency-dev/merkle: see `tests/testdata/merkle`.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use consentd::tlog::tree::{Hash, verify_consistency, verify_inclusion};
use serde::Deserialize;
use serde::de::DeserializeOwned;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Inclusion {
    leaf_idx: u64,
    tree_size: u64,
    root: String,
    leaf_hash: String,
    proof: Option<Vec<String>>,
    want_err: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Consistency {
    size1: u64,
    size2: u64,
    root1: String,
    root2: String,
    proof: Option<Vec<String>>,
    want_err: bool,
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let inside = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    inside.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn vectors<T: DeserializeOwned>(folder: &str) -> Vec<(PathBuf, T)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testdata/merkle").join(folder);
    let read = |path: &PathBuf| serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    files(&folder).into_iter().map(|path| (path.clone(), read(&path))).collect()
}

/// `None` for what is not 32 bytes long: here, there are no such hashes, so nothing could be asked.
fn hash(text: &str) -> Option<Hash> {
    BASE64_STANDARD.decode(text).unwrap().as_slice().try_into().ok()
}

fn hashes(proof: Option<Vec<String>>) -> Option<Vec<Hash>> {
    proof.unwrap_or_default().iter().map(|text| hash(text)).collect()
}

#[test]
fn inclusion_proofs_hold_where_they_should_and_nowhere_else() {
    let (mut held, mut refused) = (0, 0);
    for (path, vector) in vectors::<Inclusion>("inclusion") {
        let (leaf, root, proof) = (hash(&vector.leaf_hash), hash(&vector.root), hashes(vector.proof));
        let (Some(leaf), Some(root), Some(proof)) = (leaf, root, proof) else {
            assert!(vector.want_err, "{}", path.display());
            continue;
        };
        let verified = verify_inclusion(leaf, vector.leaf_idx, vector.tree_size, &proof, root);
        assert_eq!(verified.is_err(), vector.want_err, "{}: {verified:?}", path.display());
        *(if vector.want_err { &mut refused } else { &mut held }) += 1;
    }
    assert_eq!((held, refused), (6, 66), "all that can be asked have been");
}

#[test]
fn consistency_proofs_hold_where_they_should_and_nowhere_else() {
    let (mut held, mut refused) = (0, 0);
    for (path, vector) in vectors::<Consistency>("consistency") {
        let (before, now, proof) = (hash(&vector.root1), hash(&vector.root2), hashes(vector.proof));
        let (Some(before), Some(now), Some(proof)) = (before, now, proof) else { continue };
        let verified = verify_consistency(vector.size1, vector.size2, &proof, before, now);
        assert_eq!(verified.is_err(), vector.want_err, "{}: {verified:?}", path.display());
        *(if vector.want_err { &mut refused } else { &mut held }) += 1;
    }
    assert_eq!((held, refused), (5, 66), "all that can be asked have been");
}
