//! Leaves, nodes and checkpoints, for proofs, tiles and verification.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;

use super::sealing::Log;
use crate::error::Error;
use crate::store::{Store, unreadable};
use crate::tlog::Checkpoint;
use crate::tlog::tree::{self, Frontier, Hash, Node};

/// A leaf as it is kept.
#[derive(Clone, Debug)]
pub struct StoredLeaf {
    pub leaf_index: i64,
    pub audit_id: i64,
    pub leaf_hash: Vec<u8>,
    pub leaf: Vec<u8>,
}

/// A checkpoint as it is kept.
#[derive(Clone, Debug)]
pub struct StoredCheckpoint {
    pub tree_size: i64,
    pub note: String,
    pub signed_at: DateTime<Utc>,
}

impl StoredCheckpoint {
    /// What its note says, unverified; `None` if that is no checkpoint.
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        let (text, _) = self.note.split_once("\n\n")?;
        Checkpoint::parse(&format!("{text}\n")).ok()
    }
}

/// Where an entry is in the log.
#[derive(Clone, Debug)]
pub struct Position {
    pub log_id: i32,
    pub leaf_index: i64,
    pub leaf: Vec<u8>,
}

/// What waits to be sealed, and what cannot be.
#[derive(Clone, Debug)]
pub struct Backlog {
    pub pending: i64,
    pub oldest: Option<DateTime<Utc>>,
    pub quarantined: i64,
}

/// How a verification of the whole log ended.
#[derive(Clone, Debug)]
pub struct StoredVerification {
    pub log_id: i32,
    pub tree_size: i64,
    pub started_at: DateTime<Utc>,
    pub took_ms: i64,
    /// `clean`, `tampering` or `incomplete`.
    pub result: String,
    pub findings: Value,
}

/// The logs, oldest first.
pub async fn logs(connection: &mut PgConnection) -> Result<Vec<Log>, Error> {
    let logs = sqlx::query_as!(
        Log,
        "select log_id, origin, tree_size, verifier_keys, fork from vlaapi.audit_logs order by log_id"
    )
    .fetch_all(connection)
    .await?;
    Ok(logs)
}

/// Up to `limit` leaves from `first` on.
pub async fn leaves(
    connection: &mut PgConnection,
    log_id: i32,
    first: i64,
    limit: i64,
) -> Result<Vec<StoredLeaf>, Error> {
    let leaves = sqlx::query_as!(
        StoredLeaf,
        r#"
        select leaf_index, audit_id, leaf_hash, leaf
        from vlaapi.audit_leaves
        where log_id = $1 and leaf_index >= $2
        order by leaf_index
        limit $3
        "#,
        log_id,
        first,
        limit,
    )
    .fetch_all(connection)
    .await?;
    Ok(leaves)
}

/// The hashes of perfect subtrees, folded from what is stored of every eighth level. One that is not there is missing.
pub async fn hashes(
    connection: &mut PgConnection,
    log_id: i32,
    nodes: &[Node],
) -> Result<HashMap<Node, Hash>, Error> {
    let levels: Vec<i16> = nodes.iter().map(|node| i16::from(node.level / 8)).collect();
    let firsts: Vec<i64> = nodes.iter().map(|node| (node.index << (node.level % 8)).cast_signed()).collect();
    let counts: Vec<i64> = nodes.iter().map(|node| 1_i64 << (node.level % 8)).collect();
    let rows = sqlx::query!(
        r#"
        select wanted.position as "position!", stored.hash as "hash!"
        from unnest($2::smallint[], $3::bigint[], $4::bigint[]) with ordinality as wanted (level, first, count, position)
        cross join lateral (
          select node_index, hash
          from vlaapi.audit_nodes
          where log_id = $1 and level = wanted.level and wanted.level > 0
            and node_index between wanted.first and wanted.first + wanted.count - 1
          union all
          select leaf_index, leaf_hash
          from vlaapi.audit_leaves
          where log_id = $1 and wanted.level = 0
            and leaf_index between wanted.first and wanted.first + wanted.count - 1
        ) as stored
        order by wanted.position, stored.node_index
        "#,
        log_id,
        &levels,
        &firsts,
        &counts,
    )
    .fetch_all(connection)
    .await?;
    let mut stored: HashMap<i64, Vec<Hash>> = HashMap::new();
    for row in rows {
        // One that has not 32 bytes is no hash: its subtree has one too few.
        if let Ok(hash) = Hash::try_from(row.hash.as_slice()) {
            stored.entry(row.position).or_default().push(hash);
        }
    }
    let mut found = HashMap::with_capacity(nodes.len());
    for (position, node) in (1_i64..).zip(nodes) {
        let hashes = stored.remove(&position).unwrap_or_default();
        if hashes.len() == 1 << (node.level % 8)
            && let Some(root) = tree::perfect_root(hashes)
        {
            found.insert(*node, root);
        }
    }
    Ok(found)
}

/// The tree of a size, from the nodes that are stored.
pub async fn frontier(connection: &mut PgConnection, log_id: i32, size: u64) -> Result<Frontier, Error> {
    let nodes = Frontier::nodes(size);
    let hashes = hashes(connection, log_id, &nodes).await?;
    let peaks: Option<Vec<Hash>> = nodes.iter().map(|node| hashes.get(node).copied()).collect();
    peaks
        .and_then(|peaks| Frontier::from_hashes(size, peaks))
        .ok_or_else(|| damaged("a node of the tree is missing"))
}

fn damaged(what: &str) -> Error {
    Error::DamagedLog(what.to_owned())
}

impl Store {
    /// The open log.
    pub async fn open_log(&self) -> Result<Option<Log>, Error> {
        let log = sqlx::query_as!(
            Log,
            "select log_id, origin, tree_size, verifier_keys, fork from vlaapi.audit_logs where closed_at is null"
        )
        .fetch_optional(&self.reads)
        .await?;
        Ok(log)
    }

    pub async fn log(&self, log_id: i32) -> Result<Option<Log>, Error> {
        let log = sqlx::query_as!(
            Log,
            "select log_id, origin, tree_size, verifier_keys, fork from vlaapi.audit_logs where log_id = $1",
            log_id,
        )
        .fetch_optional(&self.reads)
        .await?;
        Ok(log)
    }

    pub async fn latest_checkpoint(&self, log_id: i32) -> Result<Option<StoredCheckpoint>, Error> {
        let checkpoint = sqlx::query_as!(
            StoredCheckpoint,
            r#"
            select tree_size, note,
              vlaapi.calendar_time(signed_at) as "signed_at!"
            from vlaapi.audit_checkpoints
            where log_id = $1
            order by tree_size desc
            limit 1
            "#,
            log_id,
        )
        .fetch_optional(&self.reads)
        .await?;
        Ok(checkpoint)
    }

    /// The checkpoint to prove a leaf by: the newest that a witness cosigned, else the newest.
    pub async fn checkpoint_over(
        &self,
        log_id: i32,
        leaf_index: i64,
    ) -> Result<Option<StoredCheckpoint>, Error> {
        let checkpoint = sqlx::query_as!(
            StoredCheckpoint,
            r#"
            select tree_size, note, vlaapi.calendar_time(signed_at) as "signed_at!"
            from vlaapi.audit_checkpoints
            where log_id = $1 and tree_size > $2 and tree_size in (
              (select max(tree_size) from vlaapi.audit_cosignatures where log_id = $1),
              (select max(tree_size) from vlaapi.audit_checkpoints where log_id = $1)
            )
            order by tree_size
            limit 1
            "#,
            log_id,
            leaf_index,
        )
        .fetch_optional(&self.reads)
        .await?;
        Ok(checkpoint)
    }

    /// The signature lines of the witnesses of a checkpoint.
    pub async fn cosignatures(&self, log_id: i32, tree_size: i64) -> Result<Vec<String>, Error> {
        let lines = sqlx::query_scalar!(
            r#"
            select signature from vlaapi.audit_cosignatures where log_id = $1 and tree_size = $2 order by witness
            "#,
            log_id,
            tree_size,
        )
        .fetch_all(&self.reads)
        .await?;
        Ok(lines)
    }

    /// Where an entry or event is in the log; `None` while it is not sealed.
    pub async fn position(&self, audit_id: i64) -> Result<Option<Position>, Error> {
        let position = sqlx::query_as!(
            Position,
            "select log_id, leaf_index, leaf from vlaapi.audit_leaves where audit_id = $1",
            audit_id,
        )
        .fetch_optional(&self.reads)
        .await?;
        Ok(position)
    }

    /// Leaves, by position.
    pub async fn leaves(&self, log_id: i32, first: i64, limit: i64) -> Result<Vec<StoredLeaf>, Error> {
        leaves(&mut *self.reads.acquire().await?, log_id, first, limit).await
    }

    /// Hashes of a tile's level, as they are stored.
    pub async fn tile(&self, log_id: i32, level: u8, first: i64, width: i64) -> Result<Vec<Vec<u8>>, Error> {
        let hashes = sqlx::query_scalar!(
            r#"
            select hash as "hash!"
            from (
              select node_index, hash
              from vlaapi.audit_nodes
              where log_id = $1 and level = $2 and node_index >= $3 and node_index < $3 + $4
              union all
              select leaf_index, leaf_hash
              from vlaapi.audit_leaves
              where log_id = $1 and $2 = 0 and leaf_index >= $3 and leaf_index < $3 + $4
            ) as tile (node_index, hash)
            order by node_index
            "#,
            log_id,
            i16::from(level),
            first,
            width,
        )
        .fetch_all(&self.reads)
        .await?;
        Ok(hashes)
    }

    pub async fn hashes(&self, log_id: i32, nodes: &[Node]) -> Result<HashMap<Node, Hash>, Error> {
        hashes(&mut *self.reads.acquire().await?, log_id, nodes).await
    }

    pub async fn frontier(&self, log_id: i32, size: u64) -> Result<Frontier, Error> {
        frontier(&mut *self.reads.acquire().await?, log_id, size).await
    }

    /// A proof that a tree of this size has a leaf (RFC 6962, section 2.1.1); `None` if it has not.
    pub async fn inclusion_proof(
        &self,
        log_id: i32,
        leaf_index: u64,
        size: u64,
    ) -> Result<Option<Vec<Hash>>, Error> {
        self.prove(log_id, |read| tree::inclusion_proof(leaf_index, size, read)).await
    }

    /// A proof that one tree grew into the other (RFC 6962, section 2.1.2); `None` if it is the larger one.
    pub async fn consistency_proof(
        &self,
        log_id: i32,
        old: u64,
        new: u64,
    ) -> Result<Option<Vec<Hash>>, Error> {
        self.prove(log_id, |read| tree::consistency_proof(old, new, read)).await
    }

    /// Makes a proof twice: the first time to learn which nodes it takes.
    async fn prove(
        &self,
        log_id: i32,
        proof: impl Fn(&mut dyn FnMut(Node) -> Hash) -> Option<Vec<Hash>>,
    ) -> Result<Option<Vec<Hash>>, Error> {
        let mut asked = Vec::new();
        let possible = proof(&mut |node| {
            asked.push(node);
            tree::empty_root()
        });
        if possible.is_none() {
            return Ok(None);
        }
        let found = self.hashes(log_id, &asked).await?;
        if asked.iter().any(|node| !found.contains_key(node)) {
            return Err(damaged("a node of the tree is missing"));
        }
        Ok(proof(&mut |node| found[&node]))
    }

    /// Proofs that a tree of this size has these leaves, all of which it must have: what several take is read once.
    pub async fn inclusion_proofs(
        &self,
        log_id: i32,
        leaves: &[u64],
        size: u64,
    ) -> Result<Vec<Vec<Hash>>, Error> {
        let mut asked = BTreeSet::new();
        for leaf_index in leaves {
            tree::inclusion_proof(*leaf_index, size, |node| {
                asked.insert(node);
                tree::empty_root()
            });
        }
        let asked: Vec<Node> = asked.into_iter().collect();
        let found = self.hashes(log_id, &asked).await?;
        if asked.iter().any(|node| !found.contains_key(node)) {
            return Err(damaged("a node of the tree is missing"));
        }
        let proofs = leaves.iter().map(|leaf_index| {
            tree::inclusion_proof(*leaf_index, size, |node| found[&node])
                .ok_or_else(|| damaged("a leaf lies beyond the tree"))
        });
        proofs.collect()
    }

    /// The entry or event with its mac and salts.
    pub async fn log_entry(&self, audit_id: i64) -> Result<Option<super::entries::StoredEntry>, Error> {
        let mut connection = self.reads.acquire().await?;
        Ok(super::entries::load(&mut connection, &[audit_id]).await?.pop())
    }

    pub async fn last_verification(&self) -> Result<Option<StoredVerification>, Error> {
        let last = sqlx::query!(
            r#"
            select verification_id, log_id, tree_size, vlaapi.calendar_time(started_at) as "started_at!", took_ms, result,
              findings::text as "findings!"
            from vlaapi.audit_verifications
            order by verification_id desc
            limit 1
            "#
        )
        .fetch_optional(&self.reads)
        .await?;
        Ok(last.map(|last| StoredVerification {
            log_id: last.log_id,
            tree_size: last.tree_size,
            started_at: last.started_at,
            took_ms: last.took_ms,
            result: last.result,
            findings: serde_json::from_str(&last.findings).unwrap_or_else(|_| {
                unreadable::report("audit_verifications", "findings", last.verification_id);
                unreadable::placeholder()
            }),
        }))
    }

    pub async fn keep_verification(&self, ended: &StoredVerification) -> Result<(), Error> {
        sqlx::query!(
            r#"
            insert into vlaapi.audit_verifications (log_id, tree_size, started_at, took_ms, result, findings)
            values ($1, $2, $3, $4, $5, $6)
            "#,
            ended.log_id,
            ended.tree_size,
            ended.started_at,
            ended.took_ms,
            ended.result,
            ended.findings,
        )
        .execute(&self.writes)
        .await?;
        Ok(())
    }

    pub async fn backlog(&self) -> Result<Backlog, Error> {
        let backlog = sqlx::query_as!(
            Backlog,
            r#"
            select count(*) as "pending!",
              min(vlaapi.calendar_time(queued_at)) as oldest,
              (select count(*) from vlaapi.audit_quarantine where resolved_by is null) as "quarantined!"
            from vlaapi.audit_pending
            "#
        )
        .fetch_one(&self.reads)
        .await?;
        Ok(backlog)
    }
}
