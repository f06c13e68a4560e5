//! Dead letters: messages that no worker could do, each with its reason, to be read and sent again.
//!
//! ```text
//! table dead:  number of the batch u64 big-endian -> JSON of `DeadRow`
//! file:        a line per message, never compressed:
//!              {"shard":3,"offset":17,"attempts":1,"failed_ms":…,"reason":"…","message":{…}}
//! ```
//!
//! A dead letter's file is committed like any batch. Its row here outlives the journal's, so that
//! it can be sent again as long as its file is there; [`resend`](super::resend) does that.

use std::io::{self, BufRead, BufReader};
use std::ops::Bound;
use std::path::PathBuf;

use heed::RoTxn;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::disk::Disk;
use super::journal::{BatchRow, decode, encode};
use super::name::WorkerName;
use super::recovery::{Found, inspect};
use super::unsent;
use crate::broker::retry::Retry;
use crate::message::{Offset, ShardKey, Topic};
use crate::state::{State, StateError, Tables, WriteTxn};

/// A file of dead letters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadRow {
    /// The batch.
    pub row: BatchRow,
    /// Its shard, as a stored key.
    shard_key: [u8; ShardKey::BYTES],
    /// Why its first message is dead.
    pub reason: String,
    /// When its messages were sent again, in milliseconds since 1970.
    pub resent_ms: Option<u64>,
}

/// A file of dead letters, as people and programs are told of it.
#[derive(Debug, Serialize)]
pub struct Listed<'a> {
    /// The number of the file.
    pub number: u64,
    /// The topic.
    #[serde(skip_serializing_if = "is_of_messages")]
    pub topic: Option<Topic>,
    /// The shard.
    pub shard: Option<u16>,
    /// How many messages.
    pub messages: u64,
    /// When it was committed, in milliseconds since 1970.
    pub committed_ms: u64,
    /// When its messages were sent again, in milliseconds since 1970.
    pub resent_ms: Option<u64>,
    /// Where it is, relative to the output directory.
    pub file: String,
    /// Why its first message is dead.
    pub reason: &'a str,
}

fn is_of_messages(topic: &Option<Topic>) -> bool {
    topic.is_none_or(|topic| topic.is_messages())
}

/// A line of a file of dead letters.
#[derive(Debug, Serialize, Deserialize)]
pub struct DeadLetter<'a> {
    /// The shard.
    pub shard: u16,
    /// The offset.
    pub offset: Offset,
    /// How often the message was tried by itself.
    pub attempts: u32,
    /// When it was tried last, in milliseconds since 1970.
    pub failed_ms: u64,
    /// Why it is dead.
    pub reason: String,
    /// The message as it was received.
    #[serde(borrow)]
    pub message: &'a RawValue,
}

/// Why dead letters cannot be shown or sent again.
#[derive(Debug, thiserror::Error)]
pub enum DeadError {
    /// No such batch.
    #[error("there is no file of dead letters with number {0}: see `dead list`")]
    Unknown(u64),
    /// It was sent again before.
    #[error("the dead letters of {} were sent again already", .0.display())]
    Resent(PathBuf),
    /// An edit is of no message of the file, or of one that another edit is of.
    #[error("{} has no message at offset {offset} to edit, or it is edited twice", .file.display())]
    NotEdited {
        /// The file.
        file: PathBuf,
        /// The offset that the edit names.
        offset: Offset,
    },
    /// What came over a broker and is no entry was kept as a dead letter only, and must not get
    /// into the files; nor must an edit that is none.
    #[error(
        "the message at offset {offset} is no entry ({wrong}), so it cannot stand in a file: \
         `dead show {number}` prints it; send it mended"
    )]
    NoEntry {
        /// The number of the file.
        number: u64,
        /// Its offset.
        offset: Offset,
        /// What is wrong with it.
        wrong: String,
    },
    /// The file is gone.
    #[error("{} is not there: put it back to show it or send it again", .0.display())]
    Gone(PathBuf),
    /// The file is not what was committed.
    #[error("{} is not what was written ({found}): restore it", .file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What was found.
        found: String,
    },
    /// The file can't be read.
    #[error("{}: {source}", .file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The state environment refused.
    #[error(transparent)]
    State(#[from] StateError),
}

impl DeadRow {
    /// Its shard.
    #[must_use]
    pub fn key(&self) -> Option<ShardKey> {
        ShardKey::parse(&self.shard_key)
    }

    /// What is told of it.
    #[must_use]
    pub fn listed(&self) -> Listed<'_> {
        let key = self.key();
        Listed {
            number: self.row.number,
            topic: key.map(|key| key.topic),
            shard: key.map(|key| key.shard.0),
            messages: self.row.range.count(),
            committed_ms: self.row.committed_ms,
            resent_ms: self.resent_ms,
            file: self.row.file.display().to_string(),
            reason: &self.reason,
        }
    }

    /// Who wrote it.
    #[must_use]
    pub const fn worker(&self) -> WorkerName {
        self.row.worker
    }
}

/// The lines of dead messages, from their lines and from why each of them is dead.
///
/// # Errors
/// A message has no reason, or is no JSON: then it is no dead message of ours.
pub fn letters(key: ShardKey, lines: &[u8], retries: &[Retry]) -> Result<Vec<u8>, StateError> {
    let count = memchr::memchr_iter(b'\n', lines).count();
    if count != retries.len() {
        let reasons = retries.len();
        return Err(StateError::Damaged(format!("{key}: {reasons} reasons for {count} messages")));
    }
    let mut letters = Vec::with_capacity(lines.len() * 2);
    for (line, retry) in lines.split_inclusive(|byte| *byte == b'\n').zip(retries) {
        let damaged = |error| StateError::Damaged(format!("{key}: {}: {error}", retry.range));
        let letter = DeadLetter {
            shard: key.shard.0,
            offset: retry.range.first,
            attempts: retry.attempts,
            failed_ms: retry.failed_ms,
            reason: retry.reason.clone(),
            message: serde_json::from_slice(line).map_err(damaged)?,
        };
        serde_json::to_writer(&mut letters, &letter).map_err(damaged)?;
        letters.push(b'\n');
    }
    Ok(letters)
}

/// Records a batch of dead letters, in the transaction that commits it.
pub(super) fn record(
    txn: &mut WriteTxn<'_>,
    key: ShardKey,
    row: &BatchRow,
    reason: &str,
) -> Result<(), StateError> {
    let (row, reason) = (row.clone(), reason.to_owned());
    let dead = DeadRow { row, shard_key: key.key(), reason, resent_ms: None };
    store(txn, &dead)
}

pub(super) fn store(txn: &mut WriteTxn<'_>, dead: &DeadRow) -> Result<(), StateError> {
    let before = row_in(&txn.txn, txn.tables, dead.row.number)?;
    unsent::follow(txn, before.as_ref(), dead)?;
    let number = dead.row.number.to_be_bytes();
    Ok(txn.tables.dead.put(&mut txn.txn, &number, &encode(dead)?)?)
}

/// Every file of dead letters there ever was, in the order of their numbers.
///
/// # Errors
/// A read failed, or a row is damaged.
pub fn rows(state: &State) -> Result<Vec<DeadRow>, StateError> {
    let txn = state.read()?;
    let rows = state.tables().dead.iter(&txn)?;
    rows.map(|row| decode("a row of table dead", row?.1)).collect()
}

/// The newest of them, newest first: at most `limit`, with numbers below `before`; those that were
/// sent again only with `is_all`.
///
/// # Errors
/// A read failed, or a row is damaged.
pub fn newest(
    state: &State,
    before: u64,
    limit: usize,
    is_all: bool,
) -> Result<Vec<DeadRow>, StateError> {
    let txn = state.read()?;
    // However many were sent again below them, no more than these are looked for.
    let unsent = unsent::load(&txn, state.tables())?.filter(|_| !is_all);
    let most = unsent.and_then(|unsent| usize::try_from(unsent.files()).ok());
    let limit = most.map_or(limit, |most| most.min(limit));
    let before = before.to_be_bytes();
    let below = (Bound::Unbounded, Bound::Excluded(before.as_slice()));
    let mut found = Vec::new();
    for row in state.tables().dead.rev_range(&txn, &below)? {
        if found.len() >= limit {
            break;
        }
        let dead: DeadRow = decode("a row of table dead", row?.1)?;
        if is_all || dead.resent_ms.is_none() {
            found.push(dead);
        }
    }
    Ok(found)
}

/// One of them.
///
/// # Errors
/// There is none, or it is damaged.
pub fn row(state: &State, number: u64) -> Result<DeadRow, DeadError> {
    let txn = state.read()?;
    row_in(&txn, state.tables(), number)?.ok_or(DeadError::Unknown(number))
}

/// The same within a transaction; `None` if there is none.
pub(super) fn row_in(
    txn: &RoTxn<'_>,
    tables: Tables,
    number: u64,
) -> Result<Option<DeadRow>, StateError> {
    let row = tables.dead.get(txn, &number.to_be_bytes())?;
    row.map(|row| decode("a row of table dead", row)).transpose()
}

/// Its lines, once its file has been found to be what was committed.
///
/// # Errors
/// It is not.
pub fn read(
    disk: &dyn Disk,
    dead: &DeadRow,
) -> Result<impl Iterator<Item = Result<String, DeadError>>, DeadError> {
    let file = || dead.row.file.clone();
    let io = |file: PathBuf| move |source| DeadError::Io { file, source };
    match inspect(disk, &dead.row.file, &dead.row).map_err(io(file()))? {
        Found::Absent => return Err(DeadError::Gone(file())),
        Found::Damaged(found) => return Err(DeadError::Damaged { file: file(), found }),
        Found::Whole => {}
    }
    let opened = disk.open(&dead.row.file).map_err(io(file()))?;
    let lines = BufReader::new(opened.ok_or_else(|| DeadError::Gone(file()))?).lines();
    let file = file();
    Ok(lines.map(move |line| line.map_err(io(file.clone()))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{OffsetRange, ShardId};

    #[test]
    fn a_letter_keeps_its_message_as_it_was_and_says_why() {
        let key = ShardKey::new(Topic::Messages, ShardId(3));
        let retry = |offset, reason: &str| Retry {
            range: OffsetRange::new(offset, offset + 1),
            batch: OffsetRange::new(0, 10),
            attempts: 1,
            reason: reason.to_owned(),
            failed_ms: 7,
            dead: true,
        };
        let lines = b"{\"b\": 1.50,\"a\":\"\\u00e9\"}\n{\"c\":2}\n";
        let letters = letters(key, lines, &[retry(4, "exit code 1"), retry(5, "a \"b\"\n")]);
        let letters = String::from_utf8(letters.unwrap()).unwrap();
        let lines: Vec<_> = letters.lines().collect();
        assert_eq!(
            lines,
            [
                "{\"shard\":3,\"offset\":4,\"attempts\":1,\"failed_ms\":7,\
                 \"reason\":\"exit code 1\",\"message\":{\"b\": 1.50,\"a\":\"\\u00e9\"}}",
                "{\"shard\":3,\"offset\":5,\"attempts\":1,\"failed_ms\":7,\
                 \"reason\":\"a \\\"b\\\"\\n\",\"message\":{\"c\":2}}",
            ]
        );
        let letter: DeadLetter<'_> = serde_json::from_str(lines[0]).unwrap();
        assert_eq!(letter.message.get(), "{\"b\": 1.50,\"a\":\"\\u00e9\"}");
    }
}
