//! What can go wrong, without HTTP.

use std::fmt;

use serde::Serialize;
use utoipa::ToSchema;

/// One thing that is wrong with a request: where, which rule, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Fault {
    /// Where in the body: a JSON pointer (RFC 6901). Absent when a parameter is at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "/can_store_images", nullable = false)]
    pub pointer: Option<String>,
    /// Which parameter of path, query or header. Absent when the body is at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "limit", nullable = false)]
    pub parameter: Option<String>,
    /// The rule that is broken, for programs.
    #[schema(value_type = String, example = "not_allowed_by_tier")]
    pub code: &'static str,
    /// The rule that is broken and what to do, for people.
    #[schema(
        example = "tier \"analytics\" does not allow to store images: leave it false or choose tier \"research\""
    )]
    pub detail: String,
}

/// The most errors that one answer lists. Parsers collect one more at most, so that the answer can say that it does not
/// list all of them.
pub const MAX_LISTED: usize = 50;

/// The most characters of a name from a request that an error repeats.
const LONGEST_NAME: usize = 64;
/// The most characters of a place in a request: a path within the body, and a name.
const LONGEST_PLACE: usize = 96;

impl Fault {
    pub fn body(pointer: impl Into<String>, code: &'static str, detail: impl Into<String>) -> Self {
        let pointer = Some(clipped(pointer.into(), LONGEST_PLACE));
        Self { pointer, parameter: None, code, detail: detail.into() }
    }

    pub fn parameter(name: impl Into<String>, code: &'static str, detail: impl Into<String>) -> Self {
        let parameter = Some(clipped(name.into(), LONGEST_PLACE));
        Self { pointer: None, parameter, code, detail: detail.into() }
    }

    /// Whether this parameter is at fault.
    pub fn is_of(&self, name: &str) -> bool {
        self.parameter.as_ref().is_some_and(|parameter| *parameter == clipped(name.to_owned(), LONGEST_PLACE))
    }
}

/// Returns a name from a request in quotes, for an error's text. A long name is cut: an answer has a bounded size,
/// whatever the request holds.
pub fn quoted(name: &str) -> String {
    format!("{:?}", clipped(name.to_owned(), LONGEST_NAME))
}

fn clipped(mut text: String, characters: usize) -> String {
    if let Some((end, _)) = text.char_indices().nth(characters) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// Why something that was asked for is not done.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("the body is invalid")]
    InvalidBody(Vec<Fault>),
    #[error("a parameter is invalid")]
    InvalidParameters(Vec<Fault>),
    #[error("{0}")]
    Unauthenticated(&'static str),
    #[error("{0}")]
    Forbidden(String),
    #[error("there is no such customer")]
    UnknownCustomer,
    #[error("there is no such audit entry")]
    UnknownAuditEntry,
    #[error("there is no such API key")]
    UnknownApiKey,
    #[error("there is no such link")]
    UnknownConsentLink,
    #[error("the consent is at version {current}")]
    VersionMoved { current: i32 },
    #[error("the consent is at version {current}, and the database knows no later one")]
    VersionAhead { current: i32 },
    #[error("{0}")]
    Conflict(&'static str),
    #[error("this Idempotency-Key was used with another request")]
    IdempotencyKeyReused,
    #[error("the first request with this Idempotency-Key is still in progress")]
    IdempotencyInProgress,
    #[error("too much is waiting already")]
    Overloaded,
    #[error("the database is not available: {0}")]
    Unavailable(String),
    #[error("the clock of this replica differs too much from the database's")]
    ClockDiffers,
    #[error("the entry is not in the log yet")]
    NotSealed,
    #[error("the audit log in the database is damaged: {0}")]
    DamagedLog(String),
    /// A row holds what this program or the database cannot work with. The text names no value of it.
    #[error("a row cannot be used: {0}")]
    UnusableRow(String),
    #[error("internal error: {0}")]
    Internal(String),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let text = error.to_string();
        match &error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => Self::Unavailable(text),
            sqlx::Error::Database(database) if is_transient(database.code().as_deref()) => {
                Self::Unavailable(text)
            }
            sqlx::Error::Database(database) if is_about_a_row(database.code().as_deref()) => {
                let code = database.code().unwrap_or_default();
                let names = [database.table(), database.constraint()];
                Self::UnusableRow(
                    names
                        .into_iter()
                        .flatten()
                        .fold(format!("SQLSTATE {code}"), |text, name| text + ", " + name),
                )
            }
            sqlx::Error::ColumnDecode { index, .. } => {
                Self::UnusableRow(format!("column {index} is unreadable"))
            }
            sqlx::Error::Decode(_) => Self::UnusableRow("a value is unreadable".to_owned()),
            _ => Self::Internal(text),
        }
    }
}

/// Whether the same statement may well succeed later: the server goes away, is full, or somebody else holds a lock.
/// <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn is_transient(sqlstate: Option<&str>) -> bool {
    let Some(code) = sqlstate else { return false };
    // 08 connection · 53 resources (disk full, too many connections) · 57 operator intervention (shutdown, timeouts)
    // 58 system error · 25006 read-only (a standby) · 25P03 idle in transaction · 40 rollback · 55P03 lock timeout
    // 28 authentication, 3D000 no such database: the operator is changing something
    ["08", "53", "57", "58", "40", "28"].contains(&code.get(..2).unwrap_or_default())
        || ["25006", "25P03", "55P03", "3D000"].contains(&code)
}

/// Returns whether a session must be closed after this error. The session did not answer, or it is over, or it leads to a
/// server that is read-only now.
pub fn ends_session(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            // 08 connection · 57P01, 57P02, 57P03 shutdown, crash, start · 57P05 idle session timeout · 25006 read-only ·
            // 25P03 idle in transaction · XX protocol violations and damage
            ["08", "58", "XX"].contains(&code.get(..2).unwrap_or_default())
                || ["57P01", "57P02", "57P03", "57P05", "25006", "25P03"].contains(&&*code)
        }),
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => {
            true
        }
        _ => false,
    }
}

/// Returns whether another row would not have failed in the same way.
fn is_about_a_row(sqlstate: Option<&str>) -> bool {
    let Some(code) = sqlstate else { return false };
    // 22 data · 23 integrity · 54 limits of the database · XX001 and XX002 damaged data
    ["22", "23", "54"].contains(&code.get(..2).unwrap_or_default()) || ["XX001", "XX002"].contains(&code)
}

/// Why a command cannot run: one sentence that says what is wrong and what to do.
#[derive(Debug)]
pub struct StartError(String);

impl StartError {
    pub fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into())
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}
