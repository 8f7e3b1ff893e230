//! Who may import whom: the house stays as `docs/architecture.md` draws it.

use std::fs;
use std::path::{Path, PathBuf};

/// Each room, and the rooms it may use.
const MAY_USE: &[(&str, &[&str])] = &[
    ("domain", &["domain", "error"]),
    ("tlog", &["tlog"]),
    ("error", &[]),
    ("background", &[]),
    ("health", &[]),
    ("files", &[]),
    ("outbound", &[]),
    ("store", &["background", "store", "domain", "tlog", "error"]),
    ("cache", &["background", "health", "cache", "store", "domain", "tlog", "error"]),
    ("ops", &["background", "files", "health", "ops", "cache", "store", "domain", "tlog", "error"]),
    ("verify", &["background", "files", "verify", "ops", "store", "domain", "tlog", "error"]),
    (
        "http",
        &["background", "health", "http", "ops", "cache", "store", "domain", "tlog", "error", "telemetry"],
    ),
    ("config", &["domain", "tlog", "error"]),
    ("telemetry", &["config", "error", "outbound"]),
    ("postgres", &["postgres", "config", "error", "files"]),
    (
        "app",
        &[
            "app",
            "background",
            "cache",
            "config",
            "domain",
            "error",
            "files",
            "health",
            "http",
            "ops",
            "outbound",
            "postgres",
            "store",
            "telemetry",
            "tlog",
            "verify",
        ],
    ),
    (
        "cli",
        &[
            "cli",
            "app",
            "background",
            "background",
            "cache",
            "config",
            "domain",
            "error",
            "files",
            "health",
            "http",
            "ops",
            "outbound",
            "postgres",
            "store",
            "telemetry",
            "tlog",
            "verify",
        ],
    ),
];

fn sources(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries
        .flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|kind| kind == "rs"))
        .collect()
}

#[test]
fn every_room_uses_only_the_rooms_below_it() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for path in sources(&source) {
        let inside = path.strip_prefix(&source).expect("below src").to_string_lossy().into_owned();
        let room = inside.split(['/', '.']).next().expect("a name").to_owned();
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == room) else {
            continue;
        };
        let text = fs::read_to_string(&path).expect("a source");
        for used in text.split("crate::").skip(1) {
            let used: String =
                used.chars().take_while(|char| char.is_alphanumeric() || *char == '_').collect();
            assert!(used.is_empty() || allowed.contains(&used.as_str()), "{inside} must not use {used}");
        }
        if !["store", "postgres"].contains(&room.as_str()) {
            for sql in ["query!(", "query_as!(", "query_scalar!(", "QueryBuilder", "raw_sql("] {
                assert!(!text.contains(sql), "{inside} must not hold SQL: that is the store's");
            }
        }
        if ["domain", "tlog"].contains(&room.as_str()) {
            for outside in ["tokio", "axum", "async fn", "std::fs", "Utc::now"] {
                assert!(!text.contains(outside), "{inside} is pure: it must not use {outside}");
            }
        }
    }
}
