//! What takes more than SQL: leaves, trees and signatures made anew.

use consentd::domain::{Leaf, LogEvent, Source};
use consentd::store::log::entries;
use consentd::tlog::tree::{Frontier, Hash, leaf_hash};
use consentd::tlog::{Checkpoint, Note, SigningKey};
use sqlx::PgConnection;

use super::scene::{ORIGIN, Scene};

/// Makes the leaf of an entry anew from its row. Commitments of what was erased are taken from the leaf that was there.
pub async fn rewrite_leaf(superuser: &mut PgConnection, audit_id: i64) {
    let stored = entries::load(superuser, &[audit_id]).await.expect("the row is read").remove(0);
    let old: Vec<u8> = sqlx::query_scalar("select leaf from vlaapi.audit_leaves where audit_id = $1")
        .bind(audit_id)
        .fetch_one(&mut *superuser)
        .await
        .expect("the entry has a leaf");
    let mut commitments = Leaf::parse(&old).expect("a leaf").commitments;
    commitments.extend(stored.entry.commitments());
    let source = if stored.mac.is_some() { Source::Service } else { Source::Sql };
    let leaf = stored.entry.leaf(source, &commitments).expect("a leaf");
    sqlx::query("update vlaapi.audit_leaves set leaf = $2, leaf_hash = $3 where audit_id = $1")
        .bind(audit_id)
        .bind(&leaf)
        .bind(leaf_hash(&leaf).as_bytes().as_slice())
        .execute(superuser)
        .await
        .expect("the leaf is replaced");
}

/// Numbers the leaves anew, and makes nodes and checkpoints fit them: signed by this key, or with the signatures that were
/// there.
pub async fn rewrite_tree(superuser: &mut PgConnection, key: Option<&SigningKey>) {
    let leaves: Vec<(i64, Vec<u8>)> =
        sqlx::query_as("select leaf_index, leaf from vlaapi.audit_leaves order by leaf_index")
            .fetch_all(&mut *superuser)
            .await
            .expect("the leaves are read");
    let mut tree = Frontier::new();
    let mut nodes: Vec<(i16, i64, Hash)> = Vec::new();
    let mut roots = vec![tree.root()];
    for (new, (old, leaf)) in (0_i64..).zip(&leaves) {
        tree.append(leaf_hash(leaf), |node, hash| {
            if node.level > 0 && node.level % 8 == 0 {
                nodes.push((i16::from(node.level / 8), node.index.cast_signed(), hash));
            }
        });
        roots.push(tree.root());
        if new != *old {
            sqlx::query("update vlaapi.audit_leaves set leaf_index = $2 where leaf_index = $1")
                .bind(old)
                .bind(new)
                .execute(&mut *superuser)
                .await
                .expect("a leaf is moved");
        }
    }
    sqlx::query("delete from vlaapi.audit_nodes").execute(&mut *superuser).await.expect("nodes go");
    for (level, index, hash) in nodes {
        sqlx::query(
            "insert into vlaapi.audit_nodes (log_id, level, node_index, hash) values (1, $1, $2, $3)",
        )
        .bind(level)
        .bind(index)
        .bind(hash.as_bytes().as_slice())
        .execute(&mut *superuser)
        .await
        .expect("a node comes");
    }
    let checkpoints: Vec<(i64, String)> =
        sqlx::query_as("select tree_size, note from vlaapi.audit_checkpoints order by tree_size")
            .fetch_all(&mut *superuser)
            .await
            .expect("the checkpoints are read");
    let end = i64::try_from(leaves.len()).expect("a size");
    for (old_size, old_note) in checkpoints {
        // What is signed of more than there is left becomes the end.
        let size = old_size.min(end);
        let root = roots[usize::try_from(size).expect("a size")];
        let signatures = Note::parse(&old_note).expect("a note").signatures;
        let note = checkpoint(size.cast_unsigned(), root, |text| match key {
            Some(key) => vec![key.sign_note(ORIGIN, text)],
            None => signatures,
        });
        sqlx::query(
            "with old as (delete from vlaapi.audit_checkpoints where tree_size = $1 returning signed_at)
             insert into vlaapi.audit_checkpoints (log_id, tree_size, note, signed_at)
             select 1, $2, $3, signed_at from old on conflict do nothing",
        )
        .bind(old_size)
        .bind(size)
        .bind(note)
        .execute(&mut *superuser)
        .await
        .expect("a checkpoint is replaced");
    }
    sqlx::query("update vlaapi.audit_logs set tree_size = $1")
        .bind(end)
        .execute(superuser)
        .await
        .expect("the size is set");
}

/// The note of a checkpoint.
pub fn checkpoint(
    size: u64,
    root: Hash,
    sign: impl FnOnce(&str) -> Vec<consentd::tlog::note::Signature>,
) -> String {
    let text = Checkpoint { origin: ORIGIN.to_owned(), size, root, extensions: Vec::new() }.to_string();
    let signatures = sign(&text);
    Note { text, signatures }.to_string()
}

/// Takes the newest version of a customer's consent back, as if it had never been decided; the entry is answered, and stays.
pub async fn roll_back(scene: &mut Scene, customer: uuid::Uuid) -> i64 {
    let newest = scene
        .number(&format!(
            "select max(audit_id) from vlaapi.customer_consent_audit where customer_id = '{customer}'"
        ))
        .await;
    scene
        .sql(&format!(
            "update vlaapi.customer_data_consent consent
             set version = last.version, audit_id = last.audit_id, consent_updated_at = last.timestamp,
               consent_tier = last.new_tier, policy_version = last.current ->> 'policy_version'
             from (select * from vlaapi.customer_consent_audit
                   where customer_id = '{customer}' and audit_id < {newest} order by audit_id desc limit 1) last
             where consent.customer_id = last.customer_id"
        ))
        .await;
    newest
}

/// What an entry's row says in the clear.
pub async fn forget_the_word(scene: &mut Scene, audit_id: i64) {
    let stored = entries::load(&mut scene.superuser, &[audit_id]).await.expect("the row is read").remove(0);
    assert!(matches!(stored.entry.event, LogEvent::ConsentChanged { .. }));
    scene
        .sql(&format!(
            "update vlaapi.customer_consent_audit
             set mac = null, changed_by = 'sql:dashboard', changed_by_salt = vlaapi.random_salt()
             where audit_id = {audit_id}"
        ))
        .await;
}
