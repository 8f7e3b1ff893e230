//! [tlog-tiles](https://c2sp.org/tlog-tiles): the tree and its entries, cut into files that never change.
//!
//! A full file holds 256 hashes or entries. The last one of a level may hold fewer, and is named by how many it holds.

use super::decimal;
use super::tree::Hash;

/// How many hashes or entries a full tile holds.
pub const WIDTH: u64 = 256;

/// The highest level that a path may name. A tree whose size is a `u64` has no tile above level 7.
const TOP: u8 = 63;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TileKind {
    /// Hashes of the tree's level 8 × this.
    Hashes(u8),
    Entries,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    pub kind: TileKind,
    pub index: u64,
    /// 1 to 256.
    pub width: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TileFault {
    #[error("a tile's level is a number from 0 to 63, or \"entries\"")]
    Level,
    #[error("a tile's index is groups of three digits, each but the last after an \"x\", below 2^64")]
    Index,
    #[error("a partial tile's width is a number from 1 to 255")]
    Width,
    #[error("a tile holds 1 to 256 hashes of 32 bytes")]
    Hashes,
}

impl Tile {
    /// Reads what follows `tile/` in a path: `0/x001/x234/067.p/5` or `entries/067`.
    pub fn parse(path: &str) -> Result<Self, TileFault> {
        let (kind, rest) = path.split_once('/').ok_or(TileFault::Level)?;
        let kind = match kind {
            "entries" => TileKind::Entries,
            level => {
                let level = decimal(level).and_then(|level| u8::try_from(level).ok());
                TileKind::Hashes(level.filter(|level| *level <= TOP).ok_or(TileFault::Level)?)
            }
        };
        let (index, width) = match rest.split_once(".p/") {
            None => (rest, 256),
            Some((index, width)) => {
                let width = decimal(width).and_then(|width| u16::try_from(width).ok());
                (index, width.filter(|width| (1..256).contains(width)).ok_or(TileFault::Width)?)
            }
        };
        Ok(Self { kind, index: parse_index(index).ok_or(TileFault::Index)?, width })
    }

    /// What [`Tile::parse`] reads.
    pub fn path(&self) -> String {
        let kind = match self.kind {
            TileKind::Hashes(level) => level.to_string(),
            TileKind::Entries => "entries".to_owned(),
        };
        let mut index = format!("{:03}", self.index % 1000);
        let mut rest = self.index / 1000;
        while rest > 0 {
            index = format!("x{:03}/{index}", rest % 1000);
            rest /= 1000;
        }
        let partial =
            if u64::from(self.width) < WIDTH { format!(".p/{}", self.width) } else { String::new() };
        format!("{kind}/{index}{partial}")
    }

    /// How wide this tile is in a tree of `size` leaves; 0 if that tree does not have it.
    pub fn width_in(kind: TileKind, index: u64, size: u64) -> u16 {
        let rest = count(kind, size).saturating_sub(index.saturating_mul(WIDTH));
        u16::try_from(rest.min(WIDTH)).expect("a tile's width is at most 256")
    }
}

/// `x001/x234/067`. A leading `x000` would be a second name for the same tile.
fn parse_index(text: &str) -> Option<u64> {
    if text.starts_with("x000/") {
        return None;
    }
    let (head, last) = text.rsplit_once('/').map_or((None, text), |(head, last)| (Some(head), last));
    let groups = head.into_iter().flat_map(|head| head.split('/')).map(|group| group.strip_prefix('x'));
    groups.chain([Some(last)]).try_fold(0_u64, |index, group| {
        let digits =
            group.filter(|group| group.len() == 3 && group.bytes().all(|byte| byte.is_ascii_digit()))?;
        index.checked_mul(1000)?.checked_add(digits.parse().ok()?)
    })
}

/// How many hashes or entries of a kind a tree has. Only full tiles have a hash in the level above.
fn count(kind: TileKind, size: u64) -> u64 {
    match kind {
        TileKind::Entries => size,
        TileKind::Hashes(level) => size.checked_shr(8 * u32::from(level)).unwrap_or(0),
    }
}

/// All files of a tree: the entries, then its hashes level by level; of each the full ones, then the partial one.
pub fn tiles(size: u64) -> impl Iterator<Item = Tile> {
    let levels = (0..=TOP).map(TileKind::Hashes).take_while(move |kind| count(*kind, size) > 0);
    std::iter::once(TileKind::Entries).chain(levels).flat_map(move |kind| {
        (0..count(kind, size).div_ceil(WIDTH)).map(move |index| Tile {
            kind,
            index,
            width: Tile::width_in(kind, index, size),
        })
    })
}

/// The hashes in a tile.
pub fn hashes(tile: &[u8]) -> Result<Vec<Hash>, TileFault> {
    let (hashes, rest) = tile.as_chunks::<32>();
    if !rest.is_empty() || hashes.is_empty() || hashes.len() as u64 > WIDTH {
        return Err(TileFault::Hashes);
    }
    Ok(hashes.iter().copied().map(Hash).collect())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BundleFault {
    #[error("an entry of {0} bytes does not fit into a bundle: at most 65535 do")]
    TooLong(usize),
    #[error("the bundle ends in the middle of an entry")]
    Cut,
}

/// Adds an entry to a bundle: its length in two bytes, big-endian, and itself.
pub fn push_entry(bundle: &mut Vec<u8>, entry: &[u8]) -> Result<(), BundleFault> {
    let length = u16::try_from(entry.len()).map_err(|_| BundleFault::TooLong(entry.len()))?;
    bundle.extend(length.to_be_bytes());
    bundle.extend(entry);
    Ok(())
}

/// The entries of a bundle; nothing more after a fault.
pub fn entries(bundle: &[u8]) -> Entries<'_> {
    Entries { rest: bundle }
}

#[derive(Clone, Debug)]
pub struct Entries<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<&'a [u8], BundleFault>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = std::mem::take(&mut self.rest);
        if rest.is_empty() {
            return None;
        }
        let split = rest
            .split_first_chunk()
            .and_then(|(length, rest)| rest.split_at_checked(usize::from(u16::from_be_bytes(*length))));
        Some(split.ok_or(BundleFault::Cut).map(|(entry, rest)| {
            self.rest = rest;
            entry
        }))
    }
}
