//! A log in files, as <https://c2sp.org/tlog-tiles> lays them out. Needs neither database nor service.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::ledger::Ledger;
use super::outside::OutsideCheckpoint;
use super::tree::TreeCheck;
use super::{Progress, Report, Rule, Standards, VerifiedLog};
use crate::error::StartError;
use crate::tlog::tile::{self, TileKind, WIDTH};
use crate::tlog::tree::{Frontier, Hash, Node, perfect_root};
use crate::tlog::{Checkpoint, Tile};

/// A log in a directory.
#[derive(Debug)]
struct Files<'a> {
    directory: &'a Path,
    /// Of the checkpoint: it says which tiles there must be.
    size: u64,
}

impl Files<'_> {
    fn path(&self, tile: &Tile) -> PathBuf {
        self.directory.join("tile").join(tile.path())
    }

    /// A tile of the tree; a full one may stand for the partial one that the tree has.
    fn read(&self, kind: TileKind, index: u64) -> Result<Vec<u8>, (Tile, String)> {
        let width = Tile::width_in(kind, index, self.size);
        let tile = Tile { kind, index, width };
        let path = self.path(&tile);
        let found = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound && u64::from(width) < WIDTH => {
                fs::read(self.path(&Tile { kind, index, width: 256 }))
            }
            read => read,
        };
        found.map_err(|error| (tile, format!("it cannot be read: {error}")))
    }

    /// The hashes of a tile, as many as the tree has.
    fn hashes(&self, level: u8, index: u64) -> Result<Vec<Hash>, (Tile, String)> {
        let kind = TileKind::Hashes(level);
        let width = Tile::width_in(kind, index, self.size);
        let at = |what: String| (Tile { kind, index, width }, what);
        let mut hashes = tile::hashes(&self.read(kind, index)?).map_err(|fault| at(fault.to_string()))?;
        if hashes.len() < usize::from(width) {
            return Err(at(format!("it has {} hashes instead of {width}", hashes.len())));
        }
        hashes.truncate(usize::from(width));
        Ok(hashes)
    }

    /// A perfect subtree, folded from the tile that it is in.
    fn node(&self, node: Node) -> Result<Hash, (Tile, String)> {
        let first = node.index << (node.level % 8);
        let hashes = self.hashes(node.level / 8, first / WIDTH)?;
        let from = usize::try_from(first % WIDTH).unwrap_or(usize::MAX);
        perfect_root(hashes.into_iter().skip(from).take(1 << (node.level % 8)).collect()).ok_or_else(|| {
            let tile = Tile { kind: TileKind::Hashes(node.level / 8), index: first / WIDTH, width: 1 };
            (tile, "it is too short".to_owned())
        })
    }
}

/// Goes through the log in a directory.
pub fn verify(
    directory: &Path,
    standards: &Standards,
    mut report: Report,
    progress: Progress<'_>,
) -> Result<Report, StartError> {
    let path = directory.join("checkpoint");
    let text = fs::read(&path)
        .map_err(|error| StartError::new(format!("cannot read {}: {error}", path.display())))?;
    let parsed = OutsideCheckpoint::parse("the directory", &String::from_utf8_lossy(&text));
    let own = match parsed {
        Ok(own) => own,
        Err(why) => {
            report.find(Rule::V4, path.display().to_string(), why);
            return Ok(report);
        }
    };
    let Checkpoint { origin, size, root, .. } = own.checkpoint.clone();
    if standards.keys.of(&origin).is_empty() {
        report.find(
            Rule::V1,
            path.display().to_string(),
            format!("no key that is believed has the name of this log, {origin}"),
        );
        return Ok(report);
    }
    own.is_signed(&standards.keys, &mut report);
    let files = Files { directory, size };
    let begin = begin(&files, &origin, standards, &mut report);
    let mut tree = TreeCheck::new(&origin, begin.clone());
    tree.claim(size, root, "in the directory");
    for outside in &standards.checkpoints {
        let place = format!("checkpoint of size {} from {}", outside.checkpoint.size, outside.from);
        if outside.checkpoint.origin != origin {
            report.remark(format!(
                "{place} is of {}, which is not the log in this directory",
                outside.checkpoint.origin
            ));
        } else if outside.is_signed(&standards.keys, &mut report) {
            report.outside_checkpoints += 1;
            tree.claim(outside.checkpoint.size, outside.checkpoint.root, format!("from {}", outside.from));
        }
    }
    let mut ledger = Ledger::new(standards.now, begin.size() > 0);
    let mut promised = Promised::new(standards);
    let mut levels = Levels::new(&begin);
    let mut whole = true;
    for index in begin.size() / WIDTH..size.div_ceil(WIDTH) {
        let bundle = match files.read(TileKind::Entries, index) {
            Ok(bundle) => bundle,
            Err((tile, why)) => {
                report.find(Rule::V2, format!("tile/{}", tile.path()), why);
                whole = false;
                break;
            }
        };
        let first = index * WIDTH;
        let width = (size - first).min(WIDTH);
        for (entry, position) in tile::entries(&bundle).zip(first..first + width) {
            let Ok(entry) = entry else { break };
            if position < begin.size() {
                continue;
            }
            let hash = tree.add(entry, &mut report, |node, hash| levels.add(node, hash));
            if let Some(leaf) = ledger.add(&origin, position, entry, &mut report) {
                promised.kept(leaf.audit_id, hash);
            }
        }
        if tree.size() != first + width {
            let tile = Tile { kind: TileKind::Entries, index, width: u16::try_from(width).unwrap_or(256) };
            report.find(
                Rule::V2,
                format!("tile/{}", tile.path()),
                format!("it is damaged after leaf {}", tree.size()),
            );
            whole = false;
            break;
        }
        levels.compare(&files, &mut report);
        progress(tree.size(), size);
    }
    levels.finish(&files, whole, &mut report);
    report.logs.push(VerifiedLog { origin, tree_size: tree.size(), root: tree.root().to_string() });
    report.customers = ledger.customers();
    ledger.find_gaps(&mut report);
    tree.finish(&mut report, |_, _| false);
    promised.finish(begin.size() > 0, &mut report);
    Ok(report)
}

/// The tree of the checkpoint from which on is verified, from the tiles.
fn begin(files: &Files<'_>, origin: &str, standards: &Standards, report: &mut Report) -> Frontier {
    let Some(since) = &standards.since else { return Frontier::new() };
    let place = format!("checkpoint of size {} from {}", since.checkpoint.size, since.from);
    if since.checkpoint.origin != origin {
        report.find(Rule::V5, place, format!("it is of {}, and not of {origin}", since.checkpoint.origin));
        return Frontier::new();
    }
    if !since.is_signed(&standards.keys, report) {
        return Frontier::new();
    }
    report.outside_checkpoints += 1;
    if since.checkpoint.size > files.size {
        report.find(Rule::V5, place, format!("the log has {} leaves: the newest are cut off", files.size));
        return Frontier::new();
    }
    let hashes: Result<Vec<Hash>, _> =
        Frontier::nodes(since.checkpoint.size).into_iter().map(|node| files.node(node)).collect();
    let tree = hashes.ok().and_then(|hashes| Frontier::from_hashes(since.checkpoint.size, hashes));
    tree.filter(|tree| tree.root() == since.checkpoint.root).unwrap_or_else(|| {
        report.find(
            Rule::V5,
            place,
            "the tiles do not give its root: everything is verified from the beginning",
        );
        Frontier::new()
    })
}

/// The hashes of each level of tiles, held against the files tile by tile.
#[derive(Debug)]
struct Levels(Vec<Level>);

#[derive(Debug, Default)]
struct Level {
    /// Which tile is next, and its hashes so far; those before the beginning are not looked at.
    index: u64,
    skipped: usize,
    hashes: Vec<Hash>,
}

impl Levels {
    fn new(begin: &Frontier) -> Self {
        let mut size = begin.size();
        let mut levels = Vec::new();
        while size > 0 {
            let skipped = usize::try_from(size % WIDTH).unwrap_or(0);
            levels.push(Level { index: size / WIDTH, skipped, hashes: Vec::new() });
            size /= WIDTH;
        }
        Self(levels)
    }

    fn add(&mut self, node: Node, hash: Hash) {
        if !node.level.is_multiple_of(8) {
            return;
        }
        let level = usize::from(node.level / 8);
        while self.0.len() <= level {
            self.0.push(Level::default());
        }
        self.0[level].hashes.push(hash);
    }

    /// Compares what is full.
    fn compare(&mut self, files: &Files<'_>, report: &mut Report) {
        for (number, level) in (0_u8..).zip(&mut self.0) {
            while level.skipped + level.hashes.len() >= 256 {
                let rest = level.hashes.split_off(256 - level.skipped);
                level.compare(number, files, report);
                level.hashes = rest;
                level.index += 1;
                level.skipped = 0;
            }
        }
    }

    /// Compares the partial tiles at the right edge, unless the tree came to no end.
    fn finish(mut self, files: &Files<'_>, whole: bool, report: &mut Report) {
        self.compare(files, report);
        for (number, level) in (0_u8..).zip(&self.0).filter(|(_, level)| whole && !level.hashes.is_empty()) {
            level.compare(number, files, report);
        }
    }
}

impl Level {
    fn compare(&self, number: u8, files: &Files<'_>, report: &mut Report) {
        match files.hashes(number, self.index) {
            Ok(stored) if stored.get(self.skipped..) == Some(self.hashes.as_slice()) => {}
            Ok(_) => {
                let width = Tile::width_in(TileKind::Hashes(number), self.index, files.size);
                let tile = Tile { kind: TileKind::Hashes(number), index: self.index, width };
                report.find(
                    Rule::V3,
                    format!("tile/{}", tile.path()),
                    "its hashes are not those of the leaves",
                );
            }
            Err((tile, why)) => report.find(Rule::V3, format!("tile/{}", tile.path()), why),
        }
    }
}

/// Receipts, and whether the log keeps them.
struct Promised<'a> {
    standards: &'a Standards,
    kept: std::collections::HashMap<i64, Hash>,
}

impl<'a> Promised<'a> {
    fn new(standards: &'a Standards) -> Self {
        Self { standards, kept: std::collections::HashMap::new() }
    }

    fn kept(&mut self, audit_id: i64, hash: Hash) {
        if self.standards.receipts.iter().any(|outside| outside.receipt.audit_id == audit_id.cast_unsigned())
        {
            self.kept.insert(audit_id, hash);
        }
    }

    fn finish(self, partial: bool, report: &mut Report) {
        for outside in &self.standards.receipts {
            let place = format!("receipt for entry {} from {}", outside.receipt.audit_id, outside.from);
            if let Err(fault) = outside.note.verify(&self.standards.keys.of(&outside.receipt.origin)) {
                report.find(Rule::V11, place, fault.to_string());
                continue;
            }
            report.receipts += 1;
            match self.kept.get(&outside.receipt.audit_id.cast_signed()) {
                Some(hash) if *hash == outside.receipt.leaf => {}
                Some(_) => report.find(Rule::V11, place, "the log has another entry in its place"),
                None if partial => report.remark(format!("{place}: not among the leaves that were read now")),
                None => report.find(Rule::V11, place, "the log has no such entry, although it was promised"),
            }
        }
    }
}
