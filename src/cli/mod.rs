//! The commands.

mod audit;
mod client;
mod consent;
mod customer;
pub mod demo;
mod health;
mod key;
pub mod load;
mod migrate;
mod output;
mod pages;

use std::fmt::Write as _;
use std::future::Future;
use std::io;
use std::process::ExitCode;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use clap::builder::{PossibleValuesParser, StyledStr, Styles, TypedValueParser};
use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::{ServeArgs, environment};
use crate::error::StartError;

#[derive(Parser, Debug)]
#[command(
    name = "consentd",
    version,
    about = "Consent management for the VLA Inference API",
    long_about = "Consent management for the VLA Inference API: holds each customer's decision, answers for it, and \
                  can prove it.",
    max_term_width = 110,
    after_help = "Examples:\n  \
                  consentd serve\n  \
                  consentd customer create --email robotics@example.com\n  \
                  consentd consent set CUSTOMER --tier analytics --embeddings\n  \
                  consentd audit list --since 2026-01-01 --action withdrawn\n\n\
                  `consentd help COMMAND` tells more of each."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Serve the API
    #[command(after_help = "Examples:\n  \
        consentd serve\n  \
        consentd serve --listen 0.0.0.0:8080 --database-url-file /run/secrets/database-url --no-migrate")]
    Serve(Box<ServeArgs>),
    /// Ask a running service whether it is ready, for container health checks
    Healthcheck(health::HealthcheckArgs),
    /// Apply, roll back, list or adopt the migrations of the database
    Migrate(migrate::MigrateArgs),
    /// See and record what customers consent to
    Consent(consent::ConsentArgs),
    /// Create and look up customers
    Customer(customer::CustomerArgs),
    /// Read and export the audit trail, prove it, verify it
    Audit(audit::AuditArgs),
    /// Manage API keys
    Key(key::KeyArgs),
    /// Fill a database with believable customers and two years of consent history
    Demo(demo::DemoArgs),
    Load(Box<load::LoadArgs>),
    /// Print the OpenAPI document of the API
    Openapi,
    /// Print the completion script of a shell
    #[command(after_help = "Examples:\n  \
        consentd completions bash > ~/.local/share/bash-completion/completions/consentd\n  \
        consentd completions zsh > ~/.zfunc/_consentd")]
    Completions(pages::CompletionsArgs),
    /// Print the manual pages
    #[command(after_help = "Examples:\n  \
        consentd man | man -l -\n  \
        consentd man --dir /usr/local/share/man/man1")]
    Man(pages::ManArgs),
}

/// The commands as the help shows them. A command which is missing here fails a test.
const GROUPS: [(&str, &[&str]); 4] = [
    ("Service", &["serve", "migrate", "healthcheck", "load"]),
    ("Data", &["consent", "customer", "audit", "demo"]),
    ("Access", &["key"]),
    ("Documents", &["openapi", "completions", "man", "help"]),
];

/// Why a command was not done.
#[derive(Debug)]
pub enum Failure {
    /// What to tell the user.
    Sentence(String),
    /// The answer itself says no, and has been written.
    Answered,
    /// The same with an exit code of its own, and what to tell the user, if anything.
    Code(u8, String),
    /// The output could not be written.
    Output(io::Error),
}

impl Failure {
    pub fn new(sentence: impl Into<String>) -> Self {
        Self::Sentence(sentence.into())
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        Self::new(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

pub fn run() -> ExitCode {
    // Usage errors and requests for help end the process here, with 2 and 0.
    let matches = environment::prepare(command())
        .try_get_matches()
        .unwrap_or_else(|error| misused(&without_secrets(error)));
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| misused(&without_secrets(error)));
    match execute(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        // Who reads has read enough, as `head` does.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Failure::Output(error)) => complain(&format!("cannot write the output: {error}")),
        Err(Failure::Answered) => ExitCode::FAILURE,
        Err(Failure::Code(code, sentence)) => {
            if !sentence.is_empty() {
                complain(&sentence);
            }
            ExitCode::from(code)
        }
        Err(Failure::Sentence(sentence)) => complain(&sentence),
    }
}

/// To `audit verify`, 2 is an answer: what could not run is 3.
fn misused(error: &clap::Error) -> ! {
    let mut words = std::env::args().skip(1);
    let verifying = words.next().as_deref() == Some("audit") && words.next().as_deref() == Some("verify");
    if verifying && error.use_stderr() {
        // Nobody may be reading.
        let _ = error.print();
        std::process::exit(3);
    }
    error.exit()
}

/// Takes out of a usage error what may be an address with a password, given where it does not belong or mistyped.
fn without_secrets(mut error: clap::Error) -> clap::Error {
    let takes_url =
        matches!(error.get(ContextKind::InvalidArg), Some(ContextValue::String(arg)) if arg.contains("URL"));
    let suspects = [ContextKind::InvalidArg, ContextKind::InvalidSubcommand, ContextKind::InvalidValue];
    for kind in suspects {
        let Some(ContextValue::String(text)) = error.get(kind) else { continue };
        let is_address = text.contains("://") || text.contains('@');
        if (takes_url && kind == ContextKind::InvalidValue) || (is_address && !text.starts_with("--")) {
            error.insert(kind, ContextValue::String("…".to_owned()));
            // Suggestions repeat it.
            error.remove(ContextKind::Suggested);
        }
    }
    error
}

fn complain(sentence: &str) -> ExitCode {
    eprintln!("error: {sentence}");
    ExitCode::FAILURE
}

fn execute(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(args) => {
            let telemetry = crate::telemetry::init(&args.telemetry)?;
            let served = on_all_cores(async { Ok(crate::app::serve(&args, &telemetry).await?) });
            telemetry.shutdown();
            served
        }
        Command::Migrate(args) => on_this_thread(async { succeeded(migrate::run(args).await?) }),
        Command::Healthcheck(args) => on_this_thread(health::run(args)),
        Command::Consent(args) => on_this_thread(consent::run(args)),
        Command::Customer(args) => on_this_thread(customer::run(args)),
        Command::Audit(args) => on_all_cores(audit::run(args)),
        Command::Key(args) => on_this_thread(key::run(args)),
        Command::Demo(args) => on_all_cores(async { succeeded(demo::run(args, crate::app::clock()).await?) }),
        Command::Load(args) => on_all_cores(load::run(*args)),
        Command::Openapi => pages::openapi(),
        Command::Completions(args) => pages::completions(&args),
        Command::Man(args) => pages::manual(&args),
    }
}

fn succeeded(code: ExitCode) -> Result<(), Failure> {
    if code == ExitCode::SUCCESS { Ok(()) } else { Err(Failure::Answered) }
}

fn on_all_cores(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    block_on(tokio::runtime::Builder::new_multi_thread(), work)
}

/// For what makes one request after another.
fn on_this_thread(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    block_on(tokio::runtime::Builder::new_current_thread(), work)
}

fn block_on(
    mut runtime: tokio::runtime::Builder,
    work: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    runtime
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start the runtime: {error}")))?
        .block_on(work)
}

/// The whole command tree, with the commands in groups, which clap alone does not do.
pub fn command() -> clap::Command {
    let command = Cli::command();
    let groups = grouped(&command);
    command.help_template(format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{groups}{}\n{{options}}{{after-help}}",
        heading("Options"),
    ))
}

fn grouped(command: &clap::Command) -> String {
    let literal = *Styles::styled().get_literal();
    GROUPS.iter().fold(String::new(), |mut text, (group, names)| {
        let _ = writeln!(text, "{}", heading(group));
        for name in *names {
            // `help` is clap's own, and comes into being after this.
            let about = match command.find_subcommand(name).and_then(clap::Command::get_about) {
                Some(about) => about.to_string(),
                None => "Print this message, or the help of a command".to_owned(),
            };
            let _ = writeln!(text, "  {literal}{name:<13}{literal:#}{about}");
        }
        text.push('\n');
        text
    })
}

fn heading(text: &str) -> StyledStr {
    let style = *Styles::styled().get_header();
    StyledStr::from(format!("{style}{text}:{style:#}"))
}

/// A flag that takes one of the values which the domain knows.
fn one_of<T>(all: &'static [T], name: fn(T) -> &'static str) -> impl TypedValueParser<Value = T>
where
    T: Copy + Send + Sync + 'static,
{
    PossibleValuesParser::new(all.iter().map(|value| name(*value))).map(move |text| {
        *all.iter().find(|value| name(**value) == text).expect("only names of these values pass the parser")
    })
}

/// An instant: RFC 3339, or a date, which means its first moment in UTC.
fn instant(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(date) = text.parse::<NaiveDate>() {
        return Ok(date.and_time(NaiveTime::MIN).and_utc());
    }
    DateTime::parse_from_rfc3339(text)
        .map(|time| time.to_utc())
        .map_err(|_| "a date (2026-01-31) or a time (2026-01-31T10:30:00Z) is wanted".to_owned())
}
