//! The log in its database, held against the rows that it is about. Everything is read from one snapshot.

use std::collections::HashMap;

use sqlx::PgConnection;

use super::ledger::{LONGEST_WAIT, Ledger};
use super::outside::OutsideCheckpoint;
use super::tree::TreeCheck;
use super::{Progress, Report, Rule, Standards, VerifiedLog};
use crate::background::{Pacer, TimeSlice};
use crate::domain::{PersonalField, WriterKey};
use crate::error::Error;
use crate::store::log::entries::{self, StoredEntry};
use crate::store::log::reading;
use crate::store::log::sealing::Log;
use crate::store::verification as rows;
use crate::tlog::tree::{Frontier, Hash, Node};

mod row;
mod trail;

/// Leaves that are in memory at once.
const CHUNK: i64 = 4_000;
/// Leaves that are read at once beside checks and changes: a few milliseconds of work, after which the verification rests.
const SHORT_CHUNK: i64 = 250;

/// What a verification of the database knows beside the standards.
#[derive(Debug)]
pub struct Scope<'a> {
    pub standards: &'a Standards,
    /// By which the macs of entries are checked, where they are known.
    pub writers: &'a [WriterKey],
    /// A service should be running: what is not signed for a minute is a finding.
    pub live: bool,
}

struct Run<'a> {
    scope: &'a Scope<'a>,
    report: Report,
    ledger: Ledger,
    /// Personal fields which are committed to and gone.
    gone: Vec<(i64, PersonalField)>,
    /// Entries that name a principal of the service, which does not vouch for them; and the principal.
    pretended: Vec<(i64, String)>,
    progress: Progress<'a>,
    pacer: Pacer,
    done: u64,
    in_all: u64,
}

/// Goes through all logs of the database. `connection` is in a transaction which sees one snapshot.
pub async fn verify(
    connection: &mut PgConnection,
    scope: &Scope<'_>,
    report: Report,
    progress: Progress<'_>,
    pacer: Pacer,
) -> Result<Report, Error> {
    let logs = reading::logs(connection).await?;
    let since = scope.standards.since.as_ref();
    let first = since
        .and_then(|since| logs.iter().position(|log| log.origin == since.checkpoint.origin))
        .unwrap_or(0);
    let mut run = Run {
        scope,
        report,
        ledger: Ledger::new(scope.standards.now, since.is_some()),
        gone: Vec::new(),
        pretended: Vec::new(),
        progress,
        pacer,
        done: 0,
        in_all: logs[first.min(logs.len())..].iter().map(|log| log.tree_size.cast_unsigned()).sum(),
    };
    if logs.is_empty() {
        run.report.find(Rule::V2, "the database", "it has no audit log");
    }
    run.strangers(&logs);
    run.strays(connection, &logs).await?;
    let mut lowest = None;
    let logs = &logs[first..];
    for (number, log) in logs.iter().enumerate() {
        let begin = if number == 0 { run.begin(connection, log).await? } else { Frontier::new() };
        if number == 0 && begin.size() > 0 {
            run.done = begin.size();
            lowest = rows::audit_id_of(connection, log.log_id, begin.size().cast_signed() - 1).await?;
            run.earlier_resolutions(connection, log.log_id, begin.size().cast_signed()).await?;
        }
        run.log(connection, log, begin, logs.get(number + 1)).await?;
    }
    run.trail(connection, lowest).await?;
    run.pretended();
    run.report.customers = run.ledger.customers();
    run.consents(connection).await?;
    let gone = std::mem::take(&mut run.gone);
    run.ledger.find_unerased(&gone, &mut run.report);
    run.receipts(connection).await?;
    Ok(run.report)
}

impl Run<'_> {
    /// Outside checkpoints of logs that this database does not have.
    fn strangers(&mut self, logs: &[Log]) {
        for outside in &self.scope.standards.checkpoints {
            if !logs.iter().any(|log| log.origin == outside.checkpoint.origin) {
                self.report.find(
                    Rule::V5,
                    format!("checkpoint of size {} from {}", outside.checkpoint.size, outside.from),
                    format!("the database has no log {}", outside.checkpoint.origin),
                );
            }
        }
    }

    /// Leaves and checkpoints where no tree reads them: an entry that has such a leaf would pass for a sealed one.
    async fn strays(&mut self, connection: &mut PgConnection, logs: &[Log]) -> Result<(), Error> {
        let mut from = Some(i32::MIN);
        let ends = logs.iter().map(|log| Some(log.log_id)).chain([None]);
        for end in ends {
            let Some(first) = from else { break };
            let to = |last: i64| end.map_or((i32::MAX, i64::MAX), |log_id| (log_id, last));
            for (place, audit_id) in
                rows::leaves_between(connection, (first, i64::MIN), to(-1), CHUNK).await?
            {
                self.report.find(
                    Rule::V2,
                    format!("entry {audit_id}"),
                    format!("its leaf is number {} of log {}, which is in no tree", place.1, place.0),
                );
            }
            for place in rows::checkpoints_between(connection, (first, i64::MIN), to(0), CHUNK).await? {
                self.report.find(
                    Rule::V4,
                    format!("checkpoint of size {} of log {}", place.1, place.0),
                    "no tree has this size",
                );
            }
            from = end.and_then(|log_id| log_id.checked_add(1));
        }
        Ok(())
    }

    /// The tree of the checkpoint from which on is verified.
    async fn begin(&mut self, connection: &mut PgConnection, log: &Log) -> Result<Frontier, Error> {
        let Some(since) = &self.scope.standards.since else { return Ok(Frontier::new()) };
        if since.checkpoint.origin != log.origin
            || !since.is_signed(&self.scope.standards.keys, &mut self.report)
        {
            return Ok(Frontier::new());
        }
        self.report.outside_checkpoints += 1;
        match reading::frontier(connection, log.log_id, since.checkpoint.size).await {
            Ok(tree) if tree.root() == since.checkpoint.root => Ok(tree),
            Ok(_) | Err(Error::DamagedLog(_)) => {
                self.report.find(
                    Rule::V5,
                    format!("checkpoint of size {} from {}", since.checkpoint.size, since.from),
                    "the database does not have this tree: everything is verified from the beginning",
                );
                Ok(Frontier::new())
            }
            Err(error) => Err(error),
        }
    }

    async fn log(
        &mut self,
        connection: &mut PgConnection,
        log: &Log,
        begin: Frontier,
        next: Option<&Log>,
    ) -> Result<(), Error> {
        if let Some(why) = &log.fork
            && next.is_none()
        {
            self.report.find(
                Rule::V5,
                log.origin.clone(),
                format!("the service has stopped this log as forked: {why}"),
            );
        }
        let mut tree = TreeCheck::new(&log.origin, begin);
        self.claims(connection, log, &mut tree, next.is_none()).await?;
        let mut nodes: Vec<(Node, Hash)> = Vec::new();
        loop {
            self.pacer.rest().await;
            let first = tree.size().cast_signed();
            let limit = if self.pacer.is_alone() { CHUNK } else { SHORT_CHUNK };
            let leaves = reading::leaves(connection, log.log_id, first, limit).await?;
            if leaves.is_empty() {
                break;
            }
            let audit_ids: Vec<i64> = leaves.iter().map(|leaf| leaf.audit_id).collect();
            let stored = entries::load(connection, &audit_ids).await?;
            self.twice(&stored);
            let by_id: HashMap<i64, &StoredEntry> =
                stored.iter().map(|stored| (stored.entry.audit_id, stored)).collect();
            let mut slice = TimeSlice::begin();
            for stored in &leaves {
                slice.end_if_over().await;
                let index = tree.size();
                let place = format!("leaf {} of {}", stored.leaf_index, log.origin);
                if stored.leaf_index.cast_unsigned() != index {
                    self.report.find(
                        Rule::V2,
                        place,
                        format!("it should be leaf {index}: leaves before it are missing"),
                    );
                    // The tree cannot be built any further: all that follows would be found wrong.
                    tree.finish(&mut self.report, |_, _| false);
                    return Ok(());
                }
                let hash = tree.add(&stored.leaf, &mut self.report, |node, hash| {
                    if node.tops_a_tile() {
                        nodes.push((node, hash));
                    }
                });
                if stored.leaf_hash != hash.as_bytes() {
                    self.report.find(
                        Rule::V6,
                        place.clone(),
                        "its bytes do not have the hash that is stored beside them",
                    );
                }
                let leaf = self.ledger.add(&log.origin, index, &stored.leaf, &mut self.report);
                if let Some(leaf) = leaf {
                    if leaf.audit_id != stored.audit_id {
                        self.report.find(
                            Rule::V6,
                            place,
                            format!("it is stored as that of entry {}", stored.audit_id),
                        );
                    }
                    self.row(&leaf, &stored.leaf, by_id.get(&leaf.audit_id).copied());
                }
            }
            self.nodes(connection, log, &mut nodes).await?;
            self.done += leaves.len() as u64;
            (self.progress)(self.done, self.in_all);
        }
        if tree.size() != log.tree_size.cast_unsigned() {
            self.report.find(
                Rule::V2,
                log.origin.clone(),
                format!("it has {} leaves, and says that it has {}", tree.size(), log.tree_size),
            );
        }
        self.report.logs.push(VerifiedLog {
            origin: log.origin.clone(),
            tree_size: tree.size(),
            root: tree.root().to_string(),
        });
        let declared = match next {
            Some(next) => declared_end(connection, next).await?,
            None => None,
        };
        tree.finish(&mut self.report, |size, root| {
            declared
                .as_ref()
                .is_some_and(|(last, last_root)| size <= *last && (size < *last || root == last_root))
        });
        Ok(())
    }

    /// Checkpoints in the database and outside, each to be held against the tree when it comes to its size.
    async fn claims(
        &mut self,
        connection: &mut PgConnection,
        log: &Log,
        tree: &mut TreeCheck,
        open: bool,
    ) -> Result<(), Error> {
        let keys = self.scope.standards.keys.of(&log.origin);
        if keys.is_empty() {
            self.report.find(
                Rule::V1,
                log.origin.clone(),
                "no key that is believed has the name of this log",
            );
        }
        let mut newest = None;
        let mut after = tree.size().cast_signed().max(1) - 1;
        loop {
            let checkpoints = rows::checkpoints(connection, log.log_id, after, CHUNK).await?;
            let Some(last) = checkpoints.last() else { break };
            after = last.tree_size;
            newest = Some(last.clone());
            let mut slice = TimeSlice::begin();
            for stored in &checkpoints {
                slice.end_if_over().await;
                let place = format!("checkpoint of size {} of {}", stored.tree_size, log.origin);
                match OutsideCheckpoint::parse("the database", &stored.note) {
                    Ok(parsed) => {
                        if let Err(fault) = parsed.note.verify(&keys) {
                            self.report.find(Rule::V4, place, fault.to_string());
                        } else if parsed.checkpoint.origin != log.origin {
                            self.report.find(
                                Rule::V1,
                                place,
                                format!("it is of {}", parsed.checkpoint.origin),
                            );
                        } else if parsed.checkpoint.size.cast_signed() != stored.tree_size {
                            self.report.find(
                                Rule::V4,
                                place,
                                format!("it says size {}", parsed.checkpoint.size),
                            );
                        } else {
                            tree.claim(parsed.checkpoint.size, parsed.checkpoint.root, "in the database");
                        }
                    }
                    Err(why) => self.report.find(Rule::V4, place, why),
                }
            }
        }
        if open && self.scope.live && log.fork.is_none() {
            let signed_at = newest.map(|newest| newest.signed_at);
            if log.tree_size > 0 && signed_at.is_none_or(|at| at + LONGEST_WAIT < self.scope.standards.now) {
                self.report.find(
                    Rule::V4,
                    log.origin.clone(),
                    match signed_at {
                        Some(at) => format!(
                            "it was last signed at {at}, more than a minute ago: is the service running?"
                        ),
                        None => "it was never signed".to_owned(),
                    },
                );
            }
        }
        for outside in &self.scope.standards.checkpoints {
            if outside.checkpoint.origin == log.origin
                && outside.is_signed(&self.scope.standards.keys, &mut self.report)
            {
                self.report.outside_checkpoints += 1;
                tree.claim(
                    outside.checkpoint.size,
                    outside.checkpoint.root,
                    format!("from {}", outside.from),
                );
            }
        }
        Ok(())
    }

    /// The nodes that are stored are those of the leaves.
    async fn nodes(
        &mut self,
        connection: &mut PgConnection,
        log: &Log,
        nodes: &mut Vec<(Node, Hash)>,
    ) -> Result<(), Error> {
        let asked: Vec<Node> = nodes.iter().map(|(node, _)| *node).collect();
        let stored = reading::hashes(connection, log.log_id, &asked).await?;
        for (node, hash) in nodes.drain(..) {
            if stored.get(&node) != Some(&hash) {
                self.report.find(
                    Rule::V3,
                    format!("hash {} of tile level {} of {}", node.index, node.level / 8, log.origin),
                    "it is not that of the leaves below it",
                );
            }
        }
        Ok(())
    }
}

/// Where a log's successor says that it ended.
async fn declared_end(connection: &mut PgConnection, next: &Log) -> Result<Option<(u64, Hash)>, Error> {
    let first = reading::leaves(connection, next.log_id, 0, 1).await?.pop();
    let mut ledger = Ledger::default();
    if let Some(first) = first {
        ledger.add(&next.origin, 0, &first.leaf, &mut Report::default());
    }
    Ok(ledger.previous().and_then(|previous| Some((previous.tree_size, previous.root.parse().ok()?))))
}
