//! The Redis sink: each ship's datagrams in a list of its own, as R2 has them.
//!
//! ```text
//! database 1   <ship>                                list: its newest SHIP_LIST_MAX datagrams
//! database 0   async-data-processor:ships            hash: ship -> datagrams pushed, ever
//!              async-data-processor:places:<state>   hash: shard -> batch:lines
//! ```
//!
//! Nothing but ships is in database 1, since R2's tools take every key of it for a ship.
//!
//! It follows the batches of telemetry in the order of their commits (module `commits`), and reads
//! their files. A piece of a batch is pushed by a script, which is one step: it begins by comparing
//! the place of the shard with the one where the piece begins, and ends by moving it. So a piece
//! whose answer got lost, or that another process has pushed, is pushed once. All places are looked
//! up when it connects and every few seconds: a Redis that has lost its newest writes gets just
//! those again, and one that knows more than the state directory is told to go on from its end.
//!
//! | room | what it holds |
//! |---|---|
//! | [`Address`] | where it is |
//! | `link` | a connection, and the script |
//! | `piece` | some lines of a batch, by ship |
//! | [`sink`] | the thread that follows and pushes, for ever |
//! | [`trouble`] | what `/readyz` says of it, in whatever process |

mod link;
mod piece;
pub mod sink;
pub mod trouble;

use std::fmt;

use redis::{Client, IntoConnectionInfo};

/// The database of the lists.
const SHIPS_DATABASE: i64 = 1;
const COUNTS: &str = "async-data-processor:ships";
const PLACES: &str = "async-data-processor:places";

/// Why an address is none.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// No URL of Redis.
    #[error("it is no URL such as redis://user:password@host:6379/, or rediss:// with TLS: {0}")]
    Url(redis::RedisError),
    /// A database is named.
    #[error(
        "it names database {0}, but the lists of ships are in database 1, as they always are: \
         leave the database out"
    )]
    Database(i64),
}

/// Where Redis is (`REDIS_URL`). Shown without user and password.
#[derive(Clone)]
pub struct Address {
    client: Client,
}

impl Address {
    /// Reads a URL.
    ///
    /// # Errors
    /// It is none, or names another database.
    pub fn new(url: &str) -> Result<Self, AddressError> {
        let info = url.into_connection_info().map_err(AddressError::Url)?;
        let settings = info.redis_settings().clone();
        let database = settings.db();
        if ![0, SHIPS_DATABASE].contains(&database) {
            return Err(AddressError::Database(database));
        }
        let info = info.set_redis_settings(settings.set_db(SHIPS_DATABASE));
        Ok(Self { client: Client::open(info).map_err(AddressError::Url)? })
    }

    /// `url` as it may be shown.
    #[must_use]
    pub fn redact(url: &str) -> String {
        Self::new(url).map_or_else(|_| "not a Redis URL".to_owned(), |address| address.to_string())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redis at {}", self.client.get_connection_info().addr())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How many datagrams of each ship were pushed, ever, by all state directories.
///
/// # Errors
/// What Redis said.
pub async fn counts(address: &Address) -> Result<Vec<(String, u64)>, redis::RedisError> {
    let mut counts = link::Link::connect(address).await?.counts().await?;
    counts.sort();
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_password() {
        for url in [
            "redis://ann:s3cret@127.0.0.1:7000/1",
            "redis://:s3cret@127.0.0.1:7000",
            "rediss://:s3cret@127.0.0.1:7000/",
        ] {
            let address = Address::new(url).unwrap();
            assert_eq!(address.to_string(), "Redis at 127.0.0.1:7000");
            assert_eq!(format!("{address:?}"), "Redis at 127.0.0.1:7000");
        }
        assert_eq!(Address::redact("s3cret"), "not a Redis URL");
    }

    #[test]
    fn another_database_or_no_url_is_refused() {
        assert!(matches!(Address::new("redis://host/3"), Err(AddressError::Database(3))));
        for wrong in ["", "host", "http://host/", "redis://host/x"] {
            assert!(matches!(Address::new(wrong), Err(AddressError::Url(_))), "{wrong}");
        }
    }
}
