//! The tables, by numbered migrations: `user_version` says how many have been made.
//!
//! | table | a row is |
//! |---|---|
//! | `task` | a task; `seq` is the order of submission |
//! | `payload` | a payload too long for the row, which is written anew with each change |
//! | `part` | a part of a result that is longer than a head |
//! | `worker` | a worker that has signed; `buried_at`, if it was declared dead |
//! | `count` | how many tasks of a kind are in a state |
//! | `revision` | the number of the latest change of a watched task (one row) |
//! | `clock` | the latest time that was told, for when the clock goes back (one row) |
//! | `schedule` | a schedule; `state` is null if it starts once and so stands as its task does |
//! | `occurrence` | what was decided of a due time, or of several in a row |
//!
//! Times are milliseconds since 1970. `endpoint` is empty for any worker. `changed` is the revision
//! at which a watched task changed, and null for the others. `follows` is the `seq` of the leader,
//! which is pending, queued, running or finished: when it ends otherwise, nothing follows it.
//! A follower holds its leader's `state`; what else it shows is read from the leader.

use rusqlite::{Connection, Error, Transaction, TransactionBehavior};

/// Says in the file's head that it is ours: `adpt`.
pub(super) const APPLICATION_ID: i32 = i32::from_be_bytes(*b"adpt");

const MIGRATIONS: [&str; 5] = [
    "
CREATE TABLE task (
    seq INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    key TEXT,
    failures_max INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    state INTEGER NOT NULL,
    follows INTEGER,
    attempt INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    run_at INTEGER NOT NULL,
    expires_at INTEGER,
    queued_at INTEGER,
    started_at INTEGER,
    finished_at INTEGER,
    deadline_at INTEGER,
    owner BLOB,
    progress INTEGER NOT NULL,
    error TEXT,
    result_bytes INTEGER,
    changed INTEGER,
    payload BLOB,
    result_head BLOB
) STRICT;
CREATE INDEX pending ON task (endpoint, kind, run_at) WHERE state = 0 AND follows IS NULL;
CREATE INDEX expiring ON task (expires_at)
    WHERE state = 0 AND follows IS NULL AND expires_at IS NOT NULL;
CREATE INDEX queued ON task (queued_at) WHERE state = 1 AND follows IS NULL;
CREATE INDEX owned ON task (owner) WHERE owner IS NOT NULL;
CREATE INDEX deadline ON task (deadline_at) WHERE deadline_at IS NOT NULL;
CREATE INDEX ended ON task (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX unlucky ON task (state) WHERE state > 3;
CREATE INDEX changed ON task (changed) WHERE changed IS NOT NULL;
CREATE INDEX follower ON task (follows) WHERE follows IS NOT NULL;
CREATE UNIQUE INDEX leader ON task (key)
    WHERE key IS NOT NULL AND follows IS NULL AND state < 4;
CREATE TABLE payload (task INTEGER PRIMARY KEY, bytes BLOB NOT NULL) STRICT;
CREATE TABLE part (
    task INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    number INTEGER NOT NULL,
    bytes BLOB NOT NULL,
    UNIQUE (task, attempt, number)
) STRICT;
CREATE TABLE worker (
    id BLOB PRIMARY KEY,
    beats INTEGER NOT NULL,
    buried_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE TABLE count (
    kind TEXT NOT NULL,
    state INTEGER NOT NULL,
    tasks INTEGER NOT NULL,
    PRIMARY KEY (kind, state)
) STRICT, WITHOUT ROWID;
CREATE TABLE revision (latest INTEGER NOT NULL) STRICT;
INSERT INTO revision VALUES (0);
",
    "
CREATE TABLE clock (seen INTEGER NOT NULL) STRICT;
INSERT INTO clock VALUES (0);
",
    "
CREATE TABLE schedule (
    seq INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    label TEXT,
    plan BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    state INTEGER,
    next_at INTEGER,
    ended_at INTEGER,
    task BLOB
) STRICT;
CREATE INDEX labelled ON schedule (label, seq) WHERE label IS NOT NULL;
CREATE INDEX recurring ON schedule (seq) WHERE state IS NOT NULL;
CREATE INDEX due ON schedule (next_at) WHERE next_at IS NOT NULL;
CREATE INDEX over ON schedule (ended_at) WHERE ended_at IS NOT NULL;
CREATE TABLE occurrence (
    schedule INTEGER NOT NULL,
    due_at INTEGER NOT NULL,
    last_due_at INTEGER NOT NULL,
    times INTEGER NOT NULL,
    decision INTEGER NOT NULL,
    reason TEXT,
    decided_at INTEGER NOT NULL,
    task BLOB,
    PRIMARY KEY (schedule, due_at)
) STRICT, WITHOUT ROWID;
CREATE INDEX decided ON occurrence (decided_at);
",
    "
CREATE INDEX expiring_in_queue ON task (expires_at)
    WHERE state = 1 AND follows IS NULL AND expires_at IS NOT NULL;
",
    // Entries of an index are in the order of `seq`.
    "
CREATE INDEX of_kind ON task (kind);
",
];

/// Why the tables were not brought up to date.
#[derive(Debug)]
pub(super) enum Refused {
    Sqlite(Error),
    /// The file belongs to another program.
    Foreign,
    /// A later release made these tables.
    Newer {
        found: usize,
        known: usize,
    },
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Brings the tables up to date. One process at a time.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), Refused> {
    let txn = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let made = migrations_made(&txn)?;
    let missing = MIGRATIONS.get(made..);
    for script in missing.ok_or(Refused::Newer { found: made, known: MIGRATIONS.len() })? {
        txn.execute_batch(script)?;
    }
    if made < MIGRATIONS.len() {
        txn.pragma_update(None, "application_id", APPLICATION_ID)?;
        txn.pragma_update(None, "user_version", i64::try_from(MIGRATIONS.len()).unwrap_or(0))?;
    }
    Ok(txn.commit()?)
}

fn migrations_made(txn: &Transaction<'_>) -> Result<usize, Refused> {
    let number = |pragma: &str| txn.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let tables: i64 = txn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let application_id = number("application_id")?;
    if application_id == 0 && tables == 0 {
        return Ok(0);
    }
    if application_id != i64::from(APPLICATION_ID) {
        return Err(Refused::Foreign);
    }
    usize::try_from(number("user_version")?).map_err(|_| Refused::Foreign)
}
