//! Any bit that is flipped in a copy of the log is found.

use std::fs;
use std::path::{Path, PathBuf};

use consentd::tlog::tile::tiles;
use consentd::verify::{Report, Verdict, directory};

use super::bits::Dice;
use super::scene::Scene;

/// Of the hundred bits of a run: the rest is flipped in the database.
const FLIPS: usize = 70;

/// Copies the log into a directory, as `consentd audit mirror` does.
pub async fn export(scene: &Scene, directory: &Path) {
    let get = async |path: &str| scene.service.get(path).send().await.expect(200).bytes;
    let size = scene.checkpoints.last().expect("the log is signed").checkpoint.size;
    let mut files = vec![
        ("checkpoint".to_owned(), get("/v1/audit/log/checkpoint").await),
        ("vkey".to_owned(), get("/.well-known/consentd-audit.vkey").await),
    ];
    for tile in tiles(size) {
        let path = format!("tile/{}", tile.path());
        let bytes = get(&format!("/v1/audit/log/{path}")).await;
        files.push((path, bytes));
    }
    for (path, bytes) in files {
        let path = directory.join(path);
        fs::create_dir_all(path.parent().expect("it is in the directory")).expect("directories are made");
        fs::write(path, bytes).expect("a file is written");
    }
}

/// All files below a directory.
pub fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).expect("the directory is read") {
        let path = entry.expect("the directory is read").path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

#[tokio::test]
async fn every_flipped_bit_in_a_copy_is_found() {
    flip_and_verify(FLIPS).await;
}

#[tokio::test]
#[ignore = "minutes: make soak"]
async fn soak_every_one_of_two_thousand_flipped_bits_in_a_copy_is_found() {
    flip_and_verify(2_000).await;
}

async fn flip_and_verify(flips: usize) {
    let scene = Scene::start().await;
    let copy = tempfile::tempdir().expect("a directory");
    export(&scene, copy.path()).await;
    let standards = scene.standards();
    let verify = || directory::verify(copy.path(), &standards, Report::default(), &|_, _| {});
    let untouched = verify().expect("it runs");
    assert_eq!((untouched.verdict(), untouched.findings), (Verdict::Incomplete, Vec::new()));

    let mut files = files_below(&copy.path().join("tile"));
    assert!(files.len() >= 5, "entries and hashes, full and partial, and a hash above: {files:?}");
    files.push(copy.path().join("checkpoint"));
    let mut dice = Dice::thrown();
    for _ in 0..flips {
        let file = &files[dice.below(files.len())];
        let bytes = fs::read(file).expect("the file is read");
        let (at, bit) = (dice.below(bytes.len()), dice.below(8));
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << bit;
        fs::write(file, flipped).expect("the file is written");
        let verdict = verify().map(|report| report.verdict());
        let place = format!("seed {}: bit {bit} of byte {at} of {}", dice.seed, file.display());
        assert_eq!(verdict.map_err(|error| error.to_string()), Ok(Verdict::Tampering), "{place}");
        fs::write(file, bytes).expect("the file is written");
    }
    assert_eq!(verify().expect("it runs").findings, []);
}
