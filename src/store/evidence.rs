//! What an evidence pack is made of: entries as they were sealed up to some size of the log, and what proves them.

use std::cmp::Reverse;

use sqlx::{Postgres, QueryBuilder};

use super::Store;
use super::audit::{AuditFilter, ORDER, conditions, entries_of};
use super::log::entries::{self, StoredEntry};
use super::log::reading::{StoredCheckpoint, StoredLeaf};
use crate::domain::AuditEntry;
use crate::error::Error;

/// An entry, and where its leaf is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct SealedEntry {
    pub audit_id: i64,
    pub log_id: i32,
    pub leaf_index: i64,
}

impl Store {
    /// The entries that a filter lets through, newest first, of those that were sealed when this log had this size.
    pub async fn sealed_entries(
        &self,
        filter: &AuditFilter,
        log_id: i32,
        size: i64,
        limit: i64,
    ) -> Result<Vec<SealedEntry>, Error> {
        let mut query = QueryBuilder::<Postgres>::new(
            "select audit_id, log_id, leaf_index from vlaapi.customer_consent_audit \
             join vlaapi.audit_leaves using (audit_id) where (log_id, leaf_index) < (",
        );
        query.push_bind(log_id).push(", ").push_bind(size).push(")");
        conditions(&mut query, filter);
        // Looked for as the trail is; a pack has them by their ids, as the log has.
        query.push(" order by ").push(ORDER).push(" limit ").push_bind(limit);
        let mut sealed: Vec<SealedEntry> = query.build_query_as().fetch_all(&self.reads).await?;
        sealed.sort_unstable_by_key(|entry| Reverse(entry.audit_id));
        Ok(sealed)
    }

    /// Some entries, newest first.
    pub async fn entries_of(&self, audit_ids: &[i64]) -> Result<Vec<AuditEntry>, Error> {
        Ok(entries_of(audit_ids).build_query_as().fetch_all(&self.reads).await?)
    }

    /// The same as the log sees them, with their salts, oldest first.
    pub async fn log_entries_of(&self, audit_ids: &[i64]) -> Result<Vec<StoredEntry>, Error> {
        entries::load(&mut *self.reads.acquire().await?, audit_ids).await
    }

    /// Their leaves, newest first.
    pub async fn leaves_of(&self, audit_ids: &[i64]) -> Result<Vec<StoredLeaf>, Error> {
        let leaves = sqlx::query_as!(
            StoredLeaf,
            r#"
            select leaf_index, audit_id, leaf_hash, leaf
            from vlaapi.audit_leaves
            where audit_id = any($1)
            order by audit_id desc
            "#,
            audit_ids,
        )
        .fetch_all(&self.reads)
        .await?;
        Ok(leaves)
    }

    /// The checkpoint of a log at a size, if it was signed at that size.
    pub async fn checkpoint_of_size(
        &self,
        log_id: i32,
        size: i64,
    ) -> Result<Option<StoredCheckpoint>, Error> {
        let checkpoint = sqlx::query_as!(
            StoredCheckpoint,
            r#"
            select tree_size, note,
              vlaapi.calendar_time(signed_at) as "signed_at!"
            from vlaapi.audit_checkpoints
            where log_id = $1 and tree_size = $2
            "#,
            log_id,
            size,
        )
        .fetch_optional(&self.reads)
        .await?;
        Ok(checkpoint)
    }
}
