//! Tiles' paths, the hashes in them, and bundles of entries: what is read is written as it was.

#![no_main]

use consentd_fuzz::tlog::Tile;
use consentd_fuzz::tlog::tile::{entries, hashes, push_entry};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(path) = str::from_utf8(bytes)
        && let Ok(tile) = Tile::parse(path)
    {
        assert_eq!(tile.path(), path);
        assert!((1..=256).contains(&tile.width));
        assert!(Tile::width_in(tile.kind, tile.index, u64::MAX) <= 256);
    }
    if let Ok(hashes) = hashes(bytes) {
        assert_eq!(hashes.iter().flat_map(|hash| hash.0).collect::<Vec<_>>(), bytes);
    }
    let mut again = Vec::new();
    for entry in entries(bytes).flatten() {
        push_entry(&mut again, entry).expect("an entry that was read is short enough");
    }
    assert!(bytes.starts_with(&again));
    let whole = entries(bytes).all(|entry| entry.is_ok());
    assert_eq!(whole, again == bytes);
});
