//! Keeps the write-ahead log short, by checkpoints of our own: SQLite's automatic one forgets
//! whether it failed.

use std::time::Duration;

use rusqlite::{Connection, Result};

use super::fault::Health;
use super::file::BUSY_TIMEOUT;

/// Pages in the log after which they are copied into the file.
const PAGES: i64 = 4 << 10;
/// Pages after which the log must begin anew, for which readers are waited for.
const PAGES_MAX: i64 = 4 * PAGES;

/// How long writers wait for readers then.
const READERS_PAUSE_MAX: Duration = Duration::from_millis(100);

/// How long the log was when it was last seen to.
#[derive(Debug, Default)]
pub(super) struct Log {
    seen_pages: i64,
}

impl Log {
    /// To be called by whose turn it is to write, after a commit.
    pub(super) fn keep_short(&mut self, connection: &Connection, health: &Health) {
        if health.check().is_ok()
            && let Err(error) = self.try_keep_short(connection)
        {
            // What is in the log is safe; the next one tries again.
            let told = health.explain("move into their file", &error);
            tracing::warn!(reason = %told, "a checkpoint failed");
        }
    }

    fn try_keep_short(&mut self, connection: &Connection) -> Result<()> {
        let pages = checkpoint(connection, "PRAGMA wal_checkpoint(NOOP)")?;
        if pages < self.seen_pages {
            self.seen_pages = 0;
        }
        if pages < self.seen_pages + PAGES {
            return Ok(());
        }
        if pages < PAGES_MAX {
            self.seen_pages = checkpoint(connection, "PRAGMA wal_checkpoint(PASSIVE)")?;
            return Ok(());
        }
        connection.busy_timeout(READERS_PAUSE_MAX)?;
        let left = checkpoint(connection, "PRAGMA wal_checkpoint(TRUNCATE)");
        connection.busy_timeout(BUSY_TIMEOUT)?;
        self.seen_pages = left?;
        Ok(())
    }
}

/// How many pages the log holds.
fn checkpoint(connection: &Connection, pragma: &str) -> Result<i64> {
    connection.prepare_cached(pragma)?.query_row([], |row| row.get(1))
}
