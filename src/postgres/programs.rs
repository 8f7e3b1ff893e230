//! Finds the server programs: `postgres` and `initdb`, of one version.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::StartError;

/// The oldest version that the schema and the statements work on.
const OLDEST: u32 = 14;

/// Where packages put one version beside another: a directory, and how the versions in it go on.
const USUAL_PLACES: [(&str, &str, &str); 9] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/usr/libexec", "postgresql", ""),
    ("/usr/lib", "postgresql", "bin"),
    ("/opt/homebrew/opt", "postgresql@", "bin"),
    ("/usr/local/opt", "postgresql@", "bin"),
    ("/home/linuxbrew/.linuxbrew/opt", "postgresql@", "bin"),
    ("/Library/PostgreSQL", "", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
];

/// A directory with server programs.
#[derive(Clone, Debug)]
pub struct Programs {
    bindir: PathBuf,
    major: u32,
}

impl Programs {
    /// Finds them in `bindir` if the operator names one, else wherever they are usually found. A cluster that exists
    /// already needs those of its own version, `major`.
    pub fn find(bindir: Option<&Path>, major: Option<u32>) -> Result<Self, StartError> {
        let places = bindir.map_or_else(places, |bindir| vec![bindir.to_path_buf()]);
        let found: Vec<Self> = places.into_iter().filter_map(Self::in_directory).collect();
        let fits = |programs: &&Self| match major {
            Some(major) => programs.major == major,
            None => programs.major >= OLDEST,
        };
        if let Some(programs) = found.iter().find(fits) {
            return Ok(programs.clone());
        }
        let seen = match (bindir, found.first()) {
            (Some(bindir), None) => {
                format!("there are no PostgreSQL server programs (postgres, initdb) in {}", bindir.display())
            }
            (None, None) => "no PostgreSQL server programs (postgres, initdb) are found".to_owned(),
            (_, Some(other)) => {
                format!(
                    "the PostgreSQL server programs in {} are of version {}",
                    other.bindir.display(),
                    other.major
                )
            }
        };
        let wanted = match major {
            Some(major) => format!("the data needs those of version {major}"),
            None => format!("version {OLDEST} or newer is needed"),
        };
        Err(StartError::new(format!(
            "{seen}, and {wanted}: {}, say where they are with --pg-bindir DIR, or use a PostgreSQL of your own with \
             --database-url URL",
            advice(major)
        )))
    }

    fn in_directory(bindir: PathBuf) -> Option<Self> {
        if !bindir.join("initdb").is_file() {
            return None;
        }
        let version = output(Command::new(bindir.join("postgres")).arg("--version"))?;
        Some(Self { major: major(&version)?, bindir })
    }

    pub fn program(&self, name: &str) -> PathBuf {
        self.bindir.join(name)
    }

    pub fn major(&self) -> u32 {
        self.major
    }
}

/// The 15 of `postgres (PostgreSQL) 15.6 (Debian 15.6-0+deb12u1)`, of `17beta1` the 17.
fn major(version: &str) -> Option<u32> {
    let number = version.split_once("(PostgreSQL) ")?.1;
    let digits = number.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(number.len());
    number[..digits].parse().ok()
}

fn places() -> Vec<PathBuf> {
    let mut places = Vec::new();
    if let Some(bindir) = output(Command::new("pg_config").arg("--bindir")) {
        places.push(PathBuf::from(bindir));
    }
    // What PATH has is often a link: the other programs are beside what it points to.
    if let Some(postgres) = output(Command::new("sh").args(["-c", "command -v postgres"]))
        && let Ok(real) = fs::canonicalize(postgres)
        && let Some(bindir) = real.parent()
    {
        places.push(bindir.to_path_buf());
    }
    let mut usual: Vec<(u32, PathBuf)> = USUAL_PLACES
        .iter()
        .flat_map(|(parent, prefix, below)| versions(Path::new(parent), prefix, below))
        .collect();
    usual.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    places.extend(usual.into_iter().map(|(_, bindir)| bindir));
    places
}

fn versions(parent: &Path, prefix: &str, below: &str) -> Vec<(u32, PathBuf)> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((version, entry.path().join(below)))
        })
        .collect()
}

/// What a program prints, if it is there and succeeds.
fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// How this system installs PostgreSQL.
fn advice(major: Option<u32>) -> String {
    let version = |before: &str| major.map(|major| format!("{before}{major}")).unwrap_or_default();
    let managers = [
        ("/usr/bin/apt-get", format!("apt-get install postgresql{}", version("-"))),
        ("/usr/bin/dnf", "dnf install postgresql-server".to_owned()),
        ("/usr/bin/zypper", format!("zypper install postgresql{}-server", version(""))),
        ("/usr/bin/pacman", "pacman -S postgresql".to_owned()),
        ("/sbin/apk", format!("apk add postgresql{}", version(""))),
        ("/opt/homebrew/bin/brew", format!("brew install postgresql@{}", major.unwrap_or(17))),
        ("/usr/local/bin/brew", format!("brew install postgresql@{}", major.unwrap_or(17))),
    ];
    managers.into_iter().find(|(manager, _)| Path::new(manager).exists()).map_or_else(
        || "install PostgreSQL".to_owned(),
        |(_, command)| format!("install them with `{command}`"),
    )
}
