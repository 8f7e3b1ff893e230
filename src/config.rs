//! Every setting, once: the flag, its environment variable, its default and its help. Nothing else reads the environment.

use std::fmt;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};
use ipnetwork::IpNetwork;
use reqwest::Url;

use crate::error::StartError;

pub mod audit;
pub mod database;
pub mod environment;
pub mod listen;

pub use database::DatabaseConfig;
use listen::ListenAddress;

/// A value which is never shown: not in logs, not in `Debug`.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        Ok(Self(value.trim().to_owned()))
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self(value)
    }
}

/// Where the service keeps what is its own; the client commands find the operator key there.
#[derive(Args, Clone, Debug)]
pub struct DataDir {
    /// Where the private PostgreSQL and the operator key are kept [default: the user's data directory;
    /// /var/lib/consentd for root]
    #[arg(long, env = "CONSENTD_DATA_DIR", value_name = "DIR", global = true)]
    pub data_dir: Option<PathBuf>,

    /// The user's home, from which the default data directory follows
    #[arg(long, env = "HOME", hide = true, global = true)]
    pub home: Option<PathBuf>,

    /// The user's data directory, by the XDG base directory specification
    #[arg(long, env = "XDG_DATA_HOME", hide = true, global = true)]
    pub xdg_data_home: Option<PathBuf>,
}

impl DataDir {
    pub fn path(&self) -> Result<PathBuf, StartError> {
        if let Some(dir) = &self.data_dir {
            return Ok(dir.clone());
        }
        if nix::unistd::Uid::effective().is_root() {
            return Ok(PathBuf::from("/var/lib/consentd"));
        }
        let shared = self.xdg_data_home.clone().filter(|dir| dir.is_absolute());
        let home = self.home.as_deref().map(|home| {
            if cfg!(target_os = "macos") {
                home.join("Library/Application Support")
            } else {
                home.join(".local/share")
            }
        });
        shared.or(home).map(|dir| dir.join("consentd")).ok_or_else(|| {
            StartError::new("no home directory is known: say where the data goes with --data-dir DIR")
        })
    }
}

/// Returns a secret that was given as it is or in a file. `flag` is the setting's name. An empty one is refused: something
/// else would be used in its place.
pub fn secret(value: Option<&Secret>, file: Option<&Path>, flag: &str) -> Result<Option<Secret>, StartError> {
    let (given, flag) = match (value, file) {
        (Some(value), _) => (value.clone(), flag.to_owned()),
        (None, Some(file)) => (read_secret(file, flag)?, format!("the file of {flag}-file")),
        (None, None) => return Ok(None),
    };
    if given.reveal().is_empty() {
        return Err(StartError::new(format!(
            "{flag} is empty: give it a value, or remove the setting and its environment variable"
        )));
    }
    Ok(Some(given))
}

fn read_secret(file: &Path, flag: &str) -> Result<Secret, StartError> {
    std::fs::read_to_string(file).map(|text| Secret(text.trim().to_owned())).map_err(|error| {
        // A path, unless the secret itself was given in its place.
        let shown = if file.is_absolute() { format!("{} ", file.display()) } else { String::new() };
        StartError::new(format!("cannot read the file {shown}of {flag}-file: {error}"))
    })
}

/// The path of a file that must be given. clap's own refusal of an empty one does not say so.
fn file(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err(
            "must be the path of a file: give it one, or remove the setting and its environment variable"
                .to_owned(),
        );
    }
    Ok(PathBuf::from(text))
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    /// For people
    Pretty,
    /// One JSON object a line, for log collectors
    Json,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Telemetry")]
pub struct TelemetryConfig {
    /// How log lines look
    #[arg(long, env = "CONSENTD_LOG_FORMAT", default_value = "pretty", value_name = "FORMAT")]
    pub log_format: LogFormat,

    /// Which log lines are written, e.g. `info` or `info,sqlx=debug` (tracing's EnvFilter syntax)
    #[arg(long, env = "CONSENTD_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,

    /// Send traces to this OpenTelemetry collector over OTLP/HTTP, e.g. `http://localhost:4318/v1/traces`
    #[arg(long, env = "CONSENTD_OTLP_ENDPOINT", value_parser = http_url, value_name = "URL")]
    pub otlp_endpoint: Option<Url>,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Serving")]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag")]
pub struct ServeConfig {
    /// The address to listen on, as HOST:PORT; :PORT is all addresses of this machine
    #[arg(long, env = "CONSENTD_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    pub listen: ListenAddress,

    /// Serve /metrics on this address alone, instead of beside the API
    #[arg(long, env = "CONSENTD_METRICS_LISTEN", value_name = "ADDRESS")]
    pub metrics_listen: Option<ListenAddress>,

    /// The address under which customers reach this service, e.g. `https://consent.example.com`: links to their own page
    /// begin with it [default: the address it listens on, if that is this machine's own]
    #[arg(long, env = "CONSENTD_PUBLIC_URL", value_parser = origin, value_name = "URL")]
    pub public_url: Option<String>,

    /// Proxies that are believed when they name the client's address, as addresses or CIDR ranges
    #[arg(long, env = "CONSENTD_TRUSTED_PROXIES", value_delimiter = ',', value_name = "CIDR")]
    pub trusted_proxies: Vec<TrustedProxy>,

    /// The header in which these proxies name the client; the other one is never read
    #[arg(
        long,
        env = "CONSENTD_CLIENT_ADDRESS_HEADER",
        default_value = "x-forwarded-for",
        ignore_case = true,
        value_name = "HEADER"
    )]
    pub client_address_header: ClientAddressHeader,

    /// Apply pending migrations at start
    #[arg(
        long,
        env = "CONSENTD_MIGRATE",
        default_value_t = true,
        action = clap::ArgAction::Set,
        value_parser = BoolishValueParser::new(),
        num_args = 0..=1,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    pub migrate: bool,

    /// Do not migrate: refuse to serve a schema which is older than this program
    #[arg(long, overrides_with = "migrate")]
    pub no_migrate: bool,

    /// Issue a fresh operator key at start and write it to the data directory, e.g. when that file was lost
    #[arg(long)]
    pub new_operator_key: bool,

    /// Database connections for reads
    #[arg(long, env = "CONSENTD_READ_CONNECTIONS", default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub read_connections: u32,

    /// Database connections for writes other than those of consents
    #[arg(long, env = "CONSENTD_WRITE_CONNECTIONS", default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub write_connections: u32,

    /// Lanes on which consents are written side by side, each with a database connection of its own (1 to 64)
    #[arg(long, env = "CONSENTD_WRITE_LANES", default_value = "2", value_name = "N", value_parser = lanes)]
    pub write_lanes: NonZeroU16,

    /// Customers whose consents are held in memory at most, about 80 bytes each
    #[arg(long, env = "CONSENTD_CACHE_CUSTOMERS", default_value_t = 1_000_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1_000..=100_000_000))]
    pub cache_customers: u32,

    /// How long a permission may be granted from memory while the database cannot be asked, in seconds (0 to 60); 0:
    /// never, every request asks the database
    #[arg(long, env = "CONSENTD_MAX_STALE", default_value = "5", value_parser = stale_seconds, value_name = "SECONDS")]
    pub max_stale: Duration,

    /// Read all consents into memory at start, instead of each when it is first asked for
    #[arg(long, env = "CONSENTD_WARM", value_parser = BoolishValueParser::new())]
    pub warm: bool,

    /// Client connections that may be open at once
    #[arg(long, env = "CONSENTD_MAX_CONNECTIONS", default_value_t = 10_000, value_name = "N")]
    pub max_connections: usize,

    /// Requests of the API that run at the same time, reads and writes each; the console and public pages have a quarter of
    /// that each, and withdrawals a sixteenth in reserve. The same number waits up to 100 ms, others are answered 503
    #[arg(long, env = "CONSENTD_MAX_CONCURRENCY", default_value_t = 256, value_name = "N")]
    pub max_concurrency: usize,

    /// How long requests in flight may take to finish after SIGTERM, in seconds
    #[arg(long, env = "CONSENTD_SHUTDOWN_TIMEOUT", default_value = "20", value_parser = seconds, value_name = "SECONDS")]
    pub shutdown_timeout: Duration,

    /// How long to answer "not ready" before new connections are refused, in seconds
    #[arg(long, env = "CONSENTD_SHUTDOWN_DELAY", default_value = "0", value_parser = seconds, value_name = "SECONDS")]
    pub shutdown_delay: Duration,

    /// How often expired consents are looked for, in seconds (1 to 60)
    #[arg(long, env = "CONSENTD_SWEEP_INTERVAL", default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=60))]
    pub sweep_interval: u64,
}

/// A network whose hosts are trusted proxies.
#[derive(Clone, Copy, Debug)]
pub struct TrustedProxy(pub IpNetwork);

impl FromStr for TrustedProxy {
    type Err = String;

    /// Accepts spaces around the network, as people write lists.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let network = text.trim().parse().map(Self);
        network.map_err(|_| "must be an address or a network, for example 10.0.0.0/8".to_owned())
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ClientAddressHeader {
    /// `X-Forwarded-For`
    XForwardedFor,
    /// `Forwarded` (RFC 7239)
    Forwarded,
}

/// Scheme and host: the service is at the root of its address.
fn origin(text: &str) -> Result<String, String> {
    let url = service_url(text)?;
    if url.path() == "/" {
        Ok(url.origin().ascii_serialization())
    } else {
        Err("must be an address without a path, such as https://consent.example.com".to_owned())
    }
}

fn lanes(text: &str) -> Result<NonZeroU16, String> {
    let lanes: Option<NonZeroU16> = text.parse().ok();
    lanes.filter(|lanes| lanes.get() <= 64).ok_or_else(|| "a number from 1 to 64 is wanted".to_owned())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds is wanted".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn stale_seconds(text: &str) -> Result<Duration, String> {
    let duration = seconds(text)?;
    if duration <= Duration::from_mins(1) { Ok(duration) } else { Err("at most 60 seconds".to_owned()) }
}

/// What `consentd serve` is given.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    #[command(flatten)]
    pub serve: ServeConfig,
    #[command(flatten)]
    pub database: DatabaseConfig,
    #[command(flatten)]
    pub audit: audit::AuditConfig,
    #[command(flatten)]
    pub telemetry: TelemetryConfig,
}

/// Where the running service is.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Service")]
pub struct ServiceUrl {
    /// The address of the running service
    #[arg(
        long,
        env = "CONSENTD_URL",
        default_value = "http://127.0.0.1:8080",
        value_parser = service_url,
        value_name = "URL",
        global = true
    )]
    pub url: Url,
}

/// An address that may be shown: the client commands print it, and send an API key to it.
fn service_url(text: &str) -> Result<Url, String> {
    let url = http_url(text)?;
    if (url.username(), url.password(), url.query(), url.fragment()) == ("", None, None, None) {
        Ok(url)
    } else {
        Err("must be an address without user, password and query, such as http://127.0.0.1:8080".to_owned())
    }
}

/// An address to send something to. It may hold a password or a token, so no error repeats it.
fn http_url(text: &str) -> Result<Url, String> {
    let expected =
        "must be an address that begins with http:// or https://, for example http://127.0.0.1:8080";
    let url: Url = text.parse().map_err(|error| format!("{error}; {expected}"))?;
    if matches!(url.scheme(), "http" | "https") && url.has_host() {
        Ok(url)
    } else {
        Err(expected.to_owned())
    }
}

/// How the client commands reach a running service.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Service")]
pub struct ClientConfig {
    #[command(flatten)]
    pub service: ServiceUrl,

    /// The API key to call with [default: the operator key in the data directory]
    #[arg(long, env = "CONSENTD_API_KEY", value_name = "KEY", global = true)]
    pub api_key: Option<Secret>,

    /// A file that holds the API key
    #[arg(
        long,
        env = "CONSENTD_API_KEY_FILE",
        value_parser = file,
        value_name = "FILE",
        conflicts_with = "api_key",
        global = true
    )]
    pub api_key_file: Option<PathBuf>,

    #[command(flatten)]
    pub data_dir: DataDir,
}

impl ClientConfig {
    /// The key that was given, else the operator key which the service wrote at its first start.
    pub fn key(&self) -> Result<Secret, StartError> {
        if let Some(key) = secret(self.api_key.as_ref(), self.api_key_file.as_deref(), "--api-key")? {
            return Ok(key);
        }
        let file = self.data_dir.path()?.join("operator.key");
        match std::fs::read_to_string(&file) {
            Ok(text) => Ok(Secret(text.trim().to_owned())),
            Err(error) => Err(StartError::new(format!(
                "no API key: give one with --api-key-file FILE or CONSENTD_API_KEY; the operator key, which the service \
                 writes at its first start, cannot be read from {}: {error}",
                file.display()
            ))),
        }
    }
}
