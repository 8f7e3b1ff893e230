//! Tiles: their paths, which of them a tree has, and what is in them.

use consentd::tlog::tile::{
    BundleFault, Tile, TileFault, TileKind, WIDTH, entries, hashes, push_entry, tiles,
};
use consentd::tlog::tree::Hash;
use proptest::prelude::*;

fn tile(kind: TileKind, index: u64, width: u16) -> Tile {
    Tile { kind, index, width }
}

#[test]
fn paths_are_as_the_specification_writes_them() {
    use TileKind::{Entries, Hashes};
    for (path, expected) in [
        ("0/x001/x234/067", tile(Hashes(0), 1_234_067, 256)),
        ("0/x001/x234/067.p/5", tile(Hashes(0), 1_234_067, 5)),
        ("entries/067", tile(Entries, 67, 256)),
        ("entries/000.p/255", tile(Entries, 0, 255)),
        ("63/x001/000.p/1", tile(Hashes(63), 1000, 1)),
        ("7/x018/x446/x744/x073/x709/x551/615", tile(Hashes(7), u64::MAX, 256)),
    ] {
        assert_eq!(Tile::parse(path), Ok(expected));
        assert_eq!(expected.path(), path);
    }
}

#[test]
fn a_tile_has_no_second_path() {
    for (fault, paths) in [
        (
            TileFault::Level,
            ["", "0", "/000", "00/000", "64/000", "+1/000", "-1/000", "Entries/000", "x/000", "256/000"]
                .as_slice(),
        ),
        (
            TileFault::Index,
            &[
                "0/",
                "0/0",
                "0/0000",
                "0/x000",
                "0/x000/001",
                "0/x001",
                "0/001/x002",
                "0/001/002",
                "0/x01/002",
                "0/x0001/002",
                "0/x001//002",
                "0//001",
                "0/001/",
                "0/x+01/002",
                "0/+01",
                "0/x001/x000",
                "0/X001/000",
                "0/00٣",
                "0/x018/x446/x744/x073/x709/x551/616",
                "0/x001/x000/x000/x000/x000/x000/x000/000",
                ".p/5/000",
                "0/000.p",
                "0/000.p5",
            ],
        ),
        (
            TileFault::Width,
            &[
                "0/000.p/",
                "0/000.p/0",
                "0/000.p/256",
                "0/000.p/05",
                "0/000.p/+5",
                "0/000.p/5/",
                "0/000.p/1.p/1",
            ],
        ),
    ] {
        for path in paths {
            let found = Tile::parse(path);
            assert!(found == Err(fault) || *path == ".p/5/000" && found.is_err(), "{path}: {found:?}");
        }
    }
}

#[test]
fn a_tree_of_70_000_has_the_tiles_of_the_specification() {
    let tiles: Vec<_> = tiles(70_000).collect();
    let of = |kind| tiles.iter().filter(move |tile| tile.kind == kind);
    for level in [TileKind::Entries, TileKind::Hashes(0)] {
        assert_eq!(of(level).filter(|tile| tile.width == 256).count(), 273);
        assert_eq!(of(level).next_back(), Some(&tile(level, 273, 112)));
    }
    let above: Vec<_> = tiles.iter().filter(|tile| matches!(tile.kind, TileKind::Hashes(1..))).collect();
    assert_eq!(
        above,
        [
            &tile(TileKind::Hashes(1), 0, 256),
            &tile(TileKind::Hashes(1), 1, 17),
            &tile(TileKind::Hashes(2), 0, 1)
        ]
    );
}

#[test]
fn a_tree_of_256_has_a_full_tile_and_one_above_it() {
    assert_eq!(tiles(256).map(|tile| tile.path()).collect::<Vec<_>>(), ["entries/000", "0/000", "1/000.p/1"]);
    assert_eq!(tiles(0).next(), None);
    assert_eq!(Tile::width_in(TileKind::Hashes(7), 0, u64::MAX), 255);
    assert_eq!(Tile::width_in(TileKind::Hashes(8), 0, u64::MAX), 0);
    assert_eq!(Tile::width_in(TileKind::Entries, u64::MAX, u64::MAX), 0);
    assert_eq!(Tile::width_in(TileKind::Hashes(63), u64::MAX, u64::MAX), 0);
}

prop_compose! {
    fn some_tile()(
        level in proptest::option::of(0..=63_u8), index: u64, digits in 0..64_u32, width in 1..=256_u16,
    ) -> Tile {
        tile(level.map_or(TileKind::Entries, TileKind::Hashes), index >> digits, width)
    }
}

proptest! {
    #[test]
    fn a_path_says_which_tile_it_is(tile in some_tile()) {
        prop_assert_eq!(Tile::parse(&tile.path()), Ok(tile));
    }

    #[test]
    fn whatever_is_read_as_a_path_is_the_path_of_its_tile(path in "([0-9]{1,2}|entries)/(x[0-9]{3}/){0,7}[0-9]{3}(\\.p/[0-9]{1,3})?") {
        if let Ok(tile) = Tile::parse(&path) {
            prop_assert_eq!(tile.path(), path);
        }
    }

    #[test]
    fn a_tree_has_exactly_the_tiles_that_are_wide_in_it(size in 0..200_000_u64, tile in some_tile()) {
        let all: Vec<_> = tiles(size).collect();
        for tile in &all {
            prop_assert_eq!(Tile::width_in(tile.kind, tile.index, size), tile.width);
        }
        let hashed: u64 = all.iter().filter(|tile| tile.kind == TileKind::Hashes(0)).map(|tile| u64::from(tile.width)).sum();
        prop_assert_eq!(hashed, size);
        let index = tile.index % (2 * WIDTH);
        let listed = all.iter().find(|other| other.kind == tile.kind && other.index == index);
        prop_assert_eq!(Tile::width_in(tile.kind, index, size), listed.map_or(0, |tile| tile.width));
    }

    #[test]
    fn a_bundle_gives_back_its_entries(
        written in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..600), 0..20), cut: prop::sample::Index,
    ) {
        let mut bundle = Vec::new();
        for entry in &written {
            push_entry(&mut bundle, entry).unwrap();
        }
        let read: Vec<_> = entries(&bundle).collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(&read, &written);
        if !bundle.is_empty() {
            let cut = cut.index(bundle.len());
            let read: Vec<_> = entries(&bundle[..cut]).collect();
            let whole: usize = read.iter().flatten().map(|entry| entry.len() + 2).sum();
            // A cut between two entries cannot be seen: the tile above says how many there are.
            prop_assert_eq!(read.last() == Some(&Err(BundleFault::Cut)), whole != cut);
            prop_assert!(read.iter().filter(|entry| entry.is_err()).count() <= 1);
        }
    }

    #[test]
    fn no_bytes_make_a_reader_stumble(path in ".*", bytes: Vec<u8>) {
        let _ = Tile::parse(&path);
        let _ = hashes(&bytes);
        let _ = entries(&bytes).count();
    }
}

#[test]
fn an_entry_that_is_too_long_is_refused_and_leaves_the_bundle_alone() {
    let mut bundle = vec![0, 0];
    assert_eq!(push_entry(&mut bundle, &vec![0; 65_536]), Err(BundleFault::TooLong(65_536)));
    assert_eq!(bundle, [0, 0]);
    push_entry(&mut bundle, &vec![7; 65_535]).unwrap();
    assert_eq!(entries(&bundle).map(|entry| entry.unwrap().len()).collect::<Vec<_>>(), [0, 65_535]);
}

#[test]
fn a_tile_holds_whole_hashes() {
    let both = [[1; 32], [2; 32]].concat();
    assert_eq!(hashes(&both), Ok(vec![Hash([1; 32]), Hash([2; 32])]));
    assert_eq!(hashes(&[0; 8192]).unwrap().len(), 256);
    for wrong in [0, 31, 33, 8193, 8224] {
        assert_eq!(hashes(&vec![0; wrong]), Err(TileFault::Hashes));
    }
}
