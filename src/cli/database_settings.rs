//! The settings of whatever speaks to PostgreSQL.

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::Args;

use super::rabbitmq_settings::SecretUrl;
use crate::store::postgres::address::{Address, AddressError};

/// Whether tasks are kept in a database that many machines share, and in which.
#[derive(Debug, Clone, Args)]
pub(super) struct DatabaseSettings {
    /// Tasks are kept in this PostgreSQL: postgres://user:password@host:5432/name?sslmode=prefer.
    #[arg(long, env, value_name = "URL", hide_default_value = true)]
    database_url: Option<SecretUrl>,
    /// Authorities to trust instead of the system's (PEM); without sslmode all is verified then.
    #[arg(long, env, value_name = "FILE")]
    database_ca: Option<PathBuf>,
}

/// A database to use.
#[derive(Debug, Clone)]
pub(super) struct Database {
    pub(super) address: Address,
}

impl DatabaseSettings {
    /// The database, if tasks are kept in one; every problem there is.
    pub(super) fn check(&self) -> Result<Option<Database>, Vec<anyhow::Error>> {
        let Some(url) = &self.database_url else {
            let unused = anyhow!("DATABASE_CA is set, but DATABASE_URL is not");
            return if self.database_ca.is_some() { Err(vec![unused]) } else { Ok(None) };
        };
        let address = |authorities| Address::new(url.exposed(), authorities);
        let with_file = match address(self.database_ca.as_ref()) {
            Ok(address) => return Ok(Some(Database { address })),
            Err(error) => error,
        };
        let is_of_file = matches!(with_file, AddressError::File { .. });
        let mut problems = Vec::new();
        // What is wrong with the URL alone is told as well.
        if is_of_file && let Err(error) = address(None) {
            problems.push(Err(error).context("DATABASE_URL"));
        }
        let setting = if is_of_file { "DATABASE_CA" } else { "DATABASE_URL" };
        problems.push(Err(with_file).context(setting));
        Err(problems.into_iter().filter_map(Result::<(), _>::err).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: Option<&str>, file: Option<&str>) -> Result<Option<Database>, Vec<String>> {
        let settings = DatabaseSettings {
            database_url: url.map(|url| SecretUrl::from(url.to_owned())),
            database_ca: file.map(PathBuf::from),
        };
        let texts = |errors: Vec<anyhow::Error>| errors.iter().map(|e| format!("{e:#}")).collect();
        settings.check().map_err(texts)
    }

    #[test]
    fn what_is_wrong_is_told_and_no_password_is() {
        assert!(check(None, None).unwrap().is_none());
        let database = check(Some("postgres://ann:s3cret@db/jobs"), None).unwrap().unwrap();
        assert_eq!(database.address.to_string(), "postgres://ann@db:5432/jobs");
        for (url, file, problem) in [
            (None, Some("/ca.pem"), "DATABASE_CA is set, but DATABASE_URL is not"),
            (Some("ann:s3cret@db"), None, "DATABASE_URL: not a PostgreSQL URL"),
            (Some("postgres://ann:s3cret@db/j?sslmode=on"), None, "sslmode=on is none of"),
            (Some("postgres://ann:s3cret@db/j"), Some("/none.pem"), "DATABASE_CA: /none.pem: "),
            (Some("postgres://a:s3cret@db/j?sslmode=prefer"), Some("/none.pem"), "verify-full"),
        ] {
            let problems = check(url, file).unwrap_err().join("\n");
            assert!(problems.contains(problem), "{problems}");
            assert!(!problems.contains("s3cret"), "{problems}");
        }
    }
}
