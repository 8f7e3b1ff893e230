//! The log as anybody reads it: checkpoints, tiles, consistency proofs, keys, its state.

use consentd::tlog::tile::{self, Tile, TileKind};
use consentd::tlog::tree::{Hash, leaf_hash, node_hash, verify_consistency};
use serde_json::json;

use super::sealing::backlog;
use super::{ORIGIN, change, checkpoint, leaves, seal, tree, verifier_keys};
use crate::service::Service;

/// The root over as many hashes as a power of two.
fn fold(mut hashes: Vec<Hash>) -> Hash {
    while hashes.len() > 1 {
        hashes = hashes.chunks(2).map(|pair| node_hash(&pair[0], &pair[1])).collect();
    }
    hashes[0]
}

#[tokio::test]
async fn tiles_and_bundles_are_those_of_the_specification_byte_for_byte() {
    let service = Service::start().await;
    let mut sealer = service.sealer().await;
    let pool = service.sql().await;
    backlog(&pool, 530).await;
    change(&service, service.customer().await).await;
    seal(&mut sealer, service.now()).await;
    let leaves: Vec<Vec<u8>> = leaves(&pool).await.into_iter().map(|(_, leaf)| leaf).collect();
    assert_eq!(leaves.len(), 532);

    // Size and root without a key.
    let answer = service.get("/v1/audit/log/checkpoint").no_key().send().await.expect(200);
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    let signed = checkpoint(&answer.text(), &verifier_keys(&service, ORIGIN));
    assert_eq!((signed.size, signed.root), (532, tree(&leaves).root()));

    let hashes: Vec<Hash> = leaves.iter().map(|leaf| leaf_hash(leaf)).collect();
    let above: Vec<Hash> = hashes.chunks_exact(256).map(|full| fold(full.to_vec())).collect();
    let mut told = Vec::new();
    for tile in tile::tiles(532) {
        let first = usize::try_from(tile.index * 256).unwrap();
        let held = first..first + usize::from(tile.width);
        let bytes: Vec<u8> = match tile.kind {
            TileKind::Hashes(0) => hashes[held].iter().flat_map(|hash| *hash.as_bytes()).collect(),
            TileKind::Hashes(1) => above[held].iter().flat_map(|hash| *hash.as_bytes()).collect(),
            TileKind::Hashes(level) => panic!("a tree of 532 leaves has no level {level}"),
            TileKind::Entries => leaves[held]
                .iter()
                .flat_map(|leaf| [&u16::try_from(leaf.len()).unwrap().to_be_bytes()[..], leaf].concat())
                .collect(),
        };
        let answer = service.get(&format!("/v1/audit/log/tile/{}", tile.path())).send().await.expect(200);
        assert_eq!(answer.bytes, bytes, "{}", tile.path());
        assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
        let caching = answer.header("cache-control").unwrap();
        assert!(caching.contains("immutable") && caching.contains("private"), "{caching}");
        told.push(tile.path());
    }
    let paths = "entries/000 entries/001 entries/002.p/20 0/000 0/001 0/002.p/20 1/000.p/2";
    assert_eq!(told.join(" "), paths);

    // Partial tiles of a smaller tree stay; what the tree does not have is not there.
    for (path, width) in [("0/002.p/7", 7), ("0/000.p/255", 255), ("1/000.p/1", 1)] {
        let answer = service.get(&format!("/v1/audit/log/tile/{path}")).send().await.expect(200);
        assert_eq!(answer.bytes.len(), width * 32, "{path}");
    }
    for path in [
        "0/002",
        "0/002.p/21",
        "0/003.p/1",
        "1/000",
        "1/000.p/3",
        "2/000.p/1",
        "entries/002",
        "64/000",
        "0/2",
        "0/x000/000",
        "a",
    ] {
        let absent = service.get(&format!("/v1/audit/log/tile/{path}")).send().await;
        assert_eq!(absent.expect(404).problem("not-found"), [""; 0], "{path}");
    }
}

#[tokio::test]
async fn tiles_and_the_state_are_the_operators_alone() {
    let service = Service::start().await;
    let customer = service.customer().await;
    let mut sealer = service.sealer().await;
    seal(&mut sealer, service.now()).await;
    let customers = service.key(Some(customer), &["audit:read"]).await;
    let other_scope = service.key(None, &["consent:read"]).await;
    for path in ["/v1/audit/log/tile/0/000.p/1", "/v1/audit/log/tile/entries/000.p/1", "/v1/audit/log/status"]
    {
        service.get(path).key(&customers).send().await.expect(403).problem("forbidden");
        service.get(path).key(&other_scope).send().await.expect(403).problem("forbidden");
        service.get(path).no_key().send().await.expect(401).problem("unauthenticated");
        service.get(path).send().await.expect(200);
    }
    // How the log grew tells of nobody.
    service.get("/v1/audit/log/consistency?old=0&new=1").key(&customers).send().await.expect(200);
}

#[tokio::test]
async fn the_log_proves_that_it_only_grew() {
    let service = Service::start().await;
    let mut sealer = service.sealer().await;
    let pool = service.sql().await;
    backlog(&pool, 300).await;
    seal(&mut sealer, service.now()).await;
    let leaves: Vec<Vec<u8>> = leaves(&pool).await.into_iter().map(|(_, leaf)| leaf).collect();
    for (old, new) in [
        (0, 0),
        (0, 301),
        (1, 2),
        (3, 7),
        (128, 256),
        (255, 257),
        (256, 301),
        (257, 301),
        (300, 301),
        (301, 301),
    ] {
        let path = format!("/v1/audit/log/consistency?old={old}&new={new}");
        let proof = service.get(&path).send().await.expect(200).json();
        assert_eq!(
            (&proof["origin"], &proof["old_size"], &proof["new_size"]),
            (&json!(ORIGIN), &json!(old), &json!(new))
        );
        let hashes: Vec<Hash> = proof["hashes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|hash| hash.as_str().unwrap().parse().unwrap())
            .collect();
        let root = |size: usize| tree(&leaves[..size]).root();
        verify_consistency(old as u64, new as u64, &hashes, root(old), root(new)).unwrap();
    }
    for (query, faults) in [
        ("old=3&new=2", &["old out_of_range"][..]),
        ("new=2", &["old required"]),
        ("old=1", &["new required"]),
        ("", &["old required", "new required"]),
        ("old=-1&new=2", &["old out_of_range"]),
        ("old=1&new=two", &["new out_of_range"]),
        ("old=1&new=2&size=3", &["size unknown_parameter"]),
        ("old=1&new=2&log=0", &["log out_of_range"]),
    ] {
        let refused = service.get(&format!("/v1/audit/log/consistency?{query}")).send().await.expect(400);
        assert_eq!(refused.problem("invalid-parameter"), faults, "{query}");
    }
    let beyond = service.get("/v1/audit/log/consistency?old=1&new=302").send().await.expect(404);
    beyond.problem("not-found");
    assert!(beyond.json()["detail"].as_str().unwrap().contains("301 leaves"));
    service.get("/v1/audit/log/consistency?old=1&new=2&log=2").send().await.expect(404).problem("not-found");
}

#[tokio::test]
async fn keys_and_state_are_told() {
    let service = Service::start().await;
    // Before a log is open.
    service.get("/.well-known/consentd-audit.vkey").no_key().send().await.expect(503);
    service.get("/v1/audit/log/checkpoint").no_key().send().await.expect(404).problem("not-found");

    let mut sealer = service.sealer().await;
    service.get("/v1/audit/log/checkpoint").no_key().send().await.expect(404).problem("not-found");
    let told = service.get("/.well-known/consentd-audit.vkey").no_key().send().await.expect(200);
    let key = verifier_keys(&service, ORIGIN).remove(0);
    assert_eq!(told.text(), format!("{key}\n"));
    assert_eq!(told.header("content-type"), Some("text/plain; charset=utf-8"));

    seal(&mut sealer, service.now()).await;
    change(&service, service.customer().await).await;
    let status = service.get("/v1/audit/log/status").send().await.expect(200).json();
    let queued_at = status["pending_since"].clone();
    assert!(queued_at.is_string(), "{status}");
    let (signed, _) = service.view.get().checkpoint.unwrap();
    let expected = json!({
        "log": 1, "origin": ORIGIN, "state": "sealing", "tree_size": 1, "root": signed.root.to_string(),
        "signed_at": service.now(), "verifier_keys": [key.to_string()], "pending": 1, "pending_since": queued_at,
        "quarantined": 0,
    });
    assert_eq!(status, expected);
    seal(&mut sealer, service.now()).await;
    let status = service.get("/v1/audit/log/status").send().await.expect(200).json();
    assert_eq!((&status["tree_size"], &status["pending"]), (&json!(2), &json!(0)));
    assert!(status.get("pending_since").is_none());
    let tile = Tile { kind: TileKind::Entries, index: 0, width: 2 };
    service.get(&format!("/v1/audit/log/tile/{}", tile.path())).send().await.expect(200);
}
