//! Files and directories that the service makes: whole, and with modes of their own, whatever the umask.

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use consentd::files::{self, Draft, Readers};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use sqlx::ConnectOptions as _;
use tempfile::TempDir;

use crate::cluster::{TestDatabase, database, memory_or_disk};

/// A directory through which the server's account can pass, which is another one when the tests run as root.
fn directory() -> TempDir {
    let directory = TempDir::new_in(memory_or_disk()).expect("a folder");
    fs::set_permissions(directory.path(), Permissions::from_mode(0o711)).expect("its mode");
    directory
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode()
        & 0o777
}

/// The program under a umask.
fn under(umask: &str, data_dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("umask {umask}; exec \"$@\""), "sh", env!("CARGO_BIN_EXE_consentd")]);
    command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin").env("CONSENTD_DATA_DIR", data_dir);
    command
        .env("CONSENTD_LISTEN", "127.0.0.1:0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    #[expect(
        clippy::disallowed_methods,
        reason = "where the server programs are is a setting of the test run"
    )]
    if let Some(programs) = std::env::var_os("CONSENTD_PG_BINDIR") {
        command.env("CONSENTD_PG_BINDIR", programs);
    }
    command
}

fn with(database: &TestDatabase, mut command: Command) -> Command {
    command.env("CONSENTD_DATABASE_URL", database.service.to_url_lossy().as_str());
    command.env("CONSENTD_MIGRATE_DATABASE_URL", database.owner.to_url_lossy().as_str());
    command
}

/// Waits until the service serves, and stops it.
#[track_caller]
fn serves(mut child: Child) {
    let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let greets = lines.map_while(Result::ok).any(|line| line.starts_with("consentd serves on "));
    if greets {
        let id = i32::try_from(child.id()).expect("a process id");
        kill(Pid::from_raw(id), Signal::SIGTERM).expect("it is told to stop");
    }
    let mut log = String::new();
    child.stderr.take().expect("its log").read_to_string(&mut log).expect("the log is text");
    assert!(child.wait().expect("a status").success() && greets, "{log}");
}

#[test]
fn a_private_database_is_made_and_started_again_under_every_umask() {
    let by_root = Uid::effective().is_root();
    for umask in ["000", "027", "077"] {
        let directory = directory();
        let data_dir = directory.path().join("new/data");
        for _ in 0..2 {
            serves(under(umask, &data_dir, &["serve"]).spawn().expect("the program starts"));
        }
        for made in [data_dir.parent().expect("a parent"), &data_dir] {
            assert_eq!(mode(made), if by_root { 0o711 } else { 0o700 }, "umask {umask}");
        }
        for private in
            ["operator.key", "audit.key", "audit-writer.key", "audit-checkpoint", "postgres.passwords"]
        {
            assert_eq!(mode(&data_dir.join(private)), 0o600, "umask {umask}: {private}");
        }
        assert_eq!(mode(&data_dir.join("postgres")), 0o700, "umask {umask}");
    }
}

#[tokio::test]
async fn keys_made_for_another_database_have_a_private_directory_under_every_umask() {
    for umask in ["000", "077"] {
        let (database, directory) = (database().await, directory());
        let data_dir = directory.path().join("data");
        serves(
            with(&database, under(umask, &data_dir, &["serve", "--new-operator-key"]))
                .spawn()
                .expect("it starts"),
        );
        assert_eq!(mode(&data_dir) & 0o066, 0, "umask {umask}: nobody else may list it");
        for private in ["operator.key", "audit.key", "audit-writer.key"] {
            assert_eq!(mode(&data_dir.join(private)), 0o600, "umask {umask}: {private}");
        }
    }
}

#[test]
fn a_file_that_somebody_planted_lends_a_key_neither_its_mode_nor_its_place() {
    let directory = directory();
    let path = directory.path().join("audit.key");
    let victim = directory.path().join("victim");
    fs::write(&victim, "untouched").expect("a file");
    for draft in ["audit.key.new", "audit.key.part", ".audit.key.part"] {
        symlink(&victim, directory.path().join(draft)).expect("a link");
    }
    let keygen = |more: &[&str]| {
        let arguments = [&["audit", "keygen"], more].concat();
        let output = under("000", directory.path(), &arguments).output().expect("the program starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    keygen(&[]);
    assert_eq!(mode(&path), 0o600);
    fs::set_permissions(&path, Permissions::from_mode(0o666)).expect("its mode");
    keygen(&["--add"]);
    assert_eq!(mode(&path), 0o600);
    assert_eq!(fs::read_to_string(&victim).expect("the file"), "untouched");
    let left = fs::read_dir(directory.path()).expect("the folder").count();
    assert_eq!(left, 5, "no draft stays");
}

#[test]
fn a_draft_that_is_not_kept_leaves_the_former_file_and_nothing_else() {
    let directory = directory();
    let path = directory.path().join("file");
    files::replace(&path, b"former", Readers::Owner).expect("it is written");
    drop(Draft::beside(&path, Readers::Owner).expect("a draft"));
    files::create_private(&path, b"new").expect_err("it is never replaced");
    assert_eq!(fs::read(&path).expect("the file"), b"former");
    assert_eq!(fs::read_dir(directory.path()).expect("the folder").count(), 1);
}

#[test]
fn an_account_without_a_name_is_told_what_a_private_database_needs() {
    if !Uid::effective().is_root() {
        return;
    }
    let directory = directory();
    let data_dir = directory.path().join("data");
    fs::create_dir(&data_dir).expect("a folder");
    let nameless = 2_000_000_123;
    chown(&data_dir, Some(nameless), Some(nameless)).expect("it belongs to the account");
    let program = directory.path().join("consentd");
    fs::copy(env!("CARGO_BIN_EXE_consentd"), &program).expect("a copy that everybody can run");
    let mut command = Command::new(&program);
    command.uid(nameless).gid(nameless).arg("serve").env_clear().env("PATH", "/usr/bin:/bin");
    command.env("CONSENTD_DATA_DIR", &data_dir).env("CONSENTD_LISTEN", "127.0.0.1:0").stdin(Stdio::null());
    let output = command.output().expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("user 2000000123 has no name in /etc/passwd") && said.contains("--database-url"),
        "{said}"
    );
}
