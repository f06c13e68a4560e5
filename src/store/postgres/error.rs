//! What can go wrong with the database, and whether it may pass.

use std::error::Error as _;
use std::io;

use tokio_postgres::error::SqlState;

use crate::store::StoreError;

/// Why the database did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// It said no, or the connection broke.
    #[error("{}", words(.0))]
    Said(#[from] tokio_postgres::Error),
    /// It did not answer in time.
    #[error("no answer from the database")]
    TimedOut,
    /// It is too old.
    #[error("PostgreSQL {0} is too old: 13 or later is needed")]
    Old(String),
    /// A later version of this program has changed the tables.
    #[error(
        "the tables are those of a later version of this program (schema {found}, this one knows \
         {known}): update this program"
    )]
    Newer {
        /// The schema that was found.
        found: i32,
        /// The latest that this program knows.
        known: i32,
    },
    /// A row is none that this program has written.
    #[error("a stored task makes no sense: {0}")]
    Damaged(String),
}

/// What the database said, without the query's text, which may hold data.
fn words(error: &tokio_postgres::Error) -> String {
    if let Some(said) = error.as_db_error() {
        let hint = said.hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
        return format!("{}{hint}", said.message());
    }
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

impl DatabaseError {
    fn code(&self) -> Option<&SqlState> {
        match self {
            Self::Said(error) => error.code(),
            _ => None,
        }
    }

    /// Whether the same, said again at once, may well succeed: another transaction was in the way.
    pub(super) fn is_collision(&self) -> bool {
        self.code().is_some_and(|code| {
            [
                SqlState::T_R_DEADLOCK_DETECTED,
                SqlState::T_R_SERIALIZATION_FAILURE,
                SqlState::UNIQUE_VIOLATION,
                SqlState::FOREIGN_KEY_VIOLATION,
            ]
            .contains(code)
        })
    }

    /// Whether another connection is needed.
    pub(super) fn is_of_connection(&self) -> bool {
        match self {
            Self::Said(error) => match error.code() {
                None => {
                    let is_io = |cause: &(dyn std::error::Error + 'static)| cause.is::<io::Error>();
                    error.is_closed() || error.source().is_some_and(is_io)
                }
                Some(code) => {
                    let code = code.code();
                    // A standby that was a primary refuses to write: the next one is looked for.
                    ["08", "57P", "25P", "25006"].iter().any(|class| code.starts_with(class))
                }
            },
            Self::TimedOut => true,
            _ => false,
        }
    }

    /// Whether connecting again cannot help until a person has changed something.
    pub(super) fn is_final(&self) -> bool {
        matches!(self, Self::Old(_) | Self::Newer { .. }) || self.advice().is_some()
    }

    /// What a person can do about a login that failed for good.
    pub(super) fn advice(&self) -> Option<&'static str> {
        let code = self.code()?;
        let advised = [
            (SqlState::INVALID_PASSWORD, "check user and password in DATABASE_URL"),
            (
                SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
                "check user, password and sslmode in DATABASE_URL, and the server's pg_hba.conf",
            ),
            (SqlState::INVALID_CATALOG_NAME, "create the database that DATABASE_URL names"),
            (
                SqlState::INSUFFICIENT_PRIVILEGE,
                "let the user of DATABASE_URL create the schema async_data_processor (GRANT \
                 CREATE ON DATABASE), or own it",
            ),
        ];
        advised.into_iter().find(|(known, _)| known == code).map(|(_, advice)| advice)
    }

    /// What it means to whoever asked, when the change was certainly not made or is unknown.
    pub(super) fn into_answer(self, database: &str) -> StoreError {
        let text = format!("{database}: {self}");
        let Some(code) = self.code().map(SqlState::code) else {
            return match self.is_of_connection() {
                true => StoreError::Unavailable(text),
                false => StoreError::Broken(text),
            };
        };
        let passing = ["08", "25", "40", "53", "55", "57", "58"];
        if code == SqlState::DISK_FULL.code() {
            StoreError::Full(text)
        } else if self.is_collision() || passing.iter().any(|class| code.starts_with(class)) {
            StoreError::Unavailable(text)
        } else {
            StoreError::Broken(text)
        }
    }
}
