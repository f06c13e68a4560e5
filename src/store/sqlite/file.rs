//! The file `tasks.sqlite` of a state directory, and connections to it.
//!
//! The file must never be opened but by SQLite: its locks belong to the process (fcntl(2)), and
//! closing any handle of the file drops all of them.

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::fault::Health;
use super::schema::{Refused, migrate};
use super::turn::Turn;
use crate::store::StoreError;

const FILE: &str = "tasks.sqlite";
/// Against other programs, and while another process recovers the file: ours take turns.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Pages a writer keeps in memory, in KiB; negative, as SQLite wants it.
const WRITER_CACHE_KIB: i64 = -16 * 1024;
/// The write-ahead log is cut down to this when it begins anew.
const LOG_BYTES_KEPT: i64 = 64 << 20;
const STATEMENTS: usize = 64;
/// The longest path of a file that SQLite opens, with what it appends to it (`MAX_PATHNAME` of its
/// os_unix.c), in bytes.
const PATH_BYTES_MAX: usize = 500;

pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

/// Makes the file if it is absent, and brings it up to date; a connection that may write, and the
/// turns of those who do.
pub(super) fn open(dir: &Path, health: &Health) -> Result<(Connection, Turn), StoreError> {
    let bytes = health.path().as_os_str().len();
    if bytes > PATH_BYTES_MAX {
        return Err(StoreError::Broken(format!(
            "{}: the path has {bytes} bytes, and SQLite takes {PATH_BYTES_MAX}: set STATE_DIR to a \
             shorter one",
            health.path().display()
        )));
    }
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|error| refused(dir, &error))?;
    let turn = Turn::open(dir).map_err(|error| refused(dir, &error))?;
    let taken = turn.take().map_err(|error| refused(dir, &error))?;
    create(dir).map_err(|error| refused(dir, &error))?;
    let opened = connect(health.path()).and_then(|mut connection| {
        // A checkpoint has errors of its own to tell, which SQLite's automatic one forgets.
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "journal_size_limit", LOG_BYTES_KEPT)?;
        connection.pragma_update(None, "synchronous", "full")?;
        connection.pragma_update(None, "cache_size", WRITER_CACHE_KIB)?;
        Ok((migrate(&mut connection), connection))
    });
    let (migrated, connection) = opened.map_err(|error| health.explain("open", &error))?;
    migrated.map_err(|refusal| explain(refusal, health))?;
    drop(taken);
    Ok((connection, turn))
}

/// A connection that only reads.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect(path)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

/// An empty file for its owner only; SQLite gives its own files the same mode.
fn create(dir: &Path) -> io::Result<()> {
    match File::options().write(true).create_new(true).mode(0o600).open(path(dir)) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => {
            made?;
            File::open(dir)?.sync_all()
        }
    }
}

fn refused(dir: &Path, error: &io::Error) -> StoreError {
    StoreError::Broken(format!(
        "cannot keep tasks in {}: {error}; this process must be able to write there",
        dir.display(),
    ))
}

fn explain(refusal: Refused, health: &Health) -> StoreError {
    let path = health.path().display();
    match refusal {
        Refused::Sqlite(error) => health.explain("set up", &error),
        Refused::Foreign => StoreError::Broken(format!(
            "{path} belongs to another program; move it away, or choose another state directory",
        )),
        Refused::Newer { found, known } => StoreError::Broken(format!(
            "{path} was written by a later release (its tables are of version {found}, this \
             release knows {known}); use that release, or a newer one",
        )),
    }
}
