//! Sends dead letters again, as they are or edited.
//!
//! A message that goes again is a new one: it gets an offset at the end of its shard, which is the
//! one it had. One that was edited goes where a new one with its timestamp would. All messages of a
//! file go in one transaction, which marks the file's row: so they go once, whoever asks, and
//! however often.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU16;
use std::path::PathBuf;

use super::dead::{self, DeadError, DeadLetter, DeadRow};
use super::disk::Disk;
use crate::broker::Receipt;
use crate::broker::append::Appender;
use crate::message::{Lines, Offset, ShardKey, Topic};
use crate::state::State;

/// Reads one message: its shard among so many, and its line as it is stored; or why it is none.
pub type Place = fn(&[u8], NonZeroU16) -> Result<(ShardKey, Lines), String>;

/// What sends dead letters of a state environment again.
pub struct Resender<'a> {
    /// The state environment.
    pub state: &'a State,
    /// Its output directory.
    pub disk: &'a dyn Disk,
    /// What reads the messages of a topic.
    pub place_of: fn(Topic) -> Place,
    /// How many shards there are for what was edited.
    pub shards: NonZeroU16,
    /// The wall time in milliseconds since 1970.
    pub now_ms: u64,
}

impl std::fmt::Debug for Resender<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resender").field("shards", &self.shards).finish_non_exhaustive()
    }
}

/// A message that goes in place of the one at its offset, in JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// The offset of the dead letter.
    pub offset: Offset,
    /// What goes in place of its message.
    pub message: String,
}

impl Resender<'_> {
    /// Sends the messages of file `number` again. Whoever consumes the shards of the receipt is to
    /// be woken.
    ///
    /// # Errors
    /// They were sent before, the file is not what was committed, one of them is no entry, or there
    /// is no room.
    pub fn resend(&self, number: u64, edits: &[Edit]) -> Result<Receipt, DeadError> {
        let dead = dead::row(self.state, number)?;
        if dead.resent_ms.is_some() {
            return Err(DeadError::Resent(dead.row.file));
        }
        let parts = self.parts(&dead, edits)?;
        self.state.room_to_publish()?;
        self.commit(number, parts, dead.row.file)
    }

    /// What goes into each shard.
    fn parts(
        &self,
        dead: &DeadRow,
        edits: &[Edit],
    ) -> Result<BTreeMap<ShardKey, Lines>, DeadError> {
        let file = || dead.row.file.clone();
        let damaged = |found: String| DeadError::Damaged { file: file(), found };
        let key = dead.key().ok_or_else(|| damaged("its shard is not readable".to_owned()))?;
        let place = (self.place_of)(key.topic);
        let mut edited = HashMap::with_capacity(edits.len());
        for Edit { offset, message } in edits {
            if edited.insert(*offset, message).is_some() {
                return Err(DeadError::NotEdited { file: file(), offset: *offset });
            }
        }
        let mut parts: BTreeMap<ShardKey, Lines> = BTreeMap::new();
        for line in dead::read(self.disk, dead)? {
            let line = line?;
            let letter: DeadLetter<'_> =
                serde_json::from_str(&line).map_err(|error| damaged(error.to_string()))?;
            let no_entry = |wrong| {
                let (number, offset) = (dead.row.number, letter.offset);
                DeadError::NoEntry { number, offset, wrong }
            };
            if let Some(message) = edited.remove(&letter.offset) {
                // Line breaks can only stand between the tokens of JSON.
                let message = message.replace(['\n', '\r'], "");
                let (key, lines) = place(message.as_bytes(), self.shards).map_err(no_entry)?;
                let part = parts.entry(key).or_default();
                part.bytes.extend_from_slice(&lines.bytes);
                part.count = part.count.saturating_add(lines.count);
            } else {
                let message = letter.message.get().as_bytes();
                place(message, self.shards).map_err(no_entry)?;
                parts.entry(key).or_default().push(message);
            }
        }
        match edited.keys().min() {
            Some(offset) => Err(DeadError::NotEdited { file: file(), offset: *offset }),
            None => Ok(parts),
        }
    }

    /// Appends them and marks the row, unless somebody else was first.
    fn commit(
        &self,
        number: u64,
        parts: BTreeMap<ShardKey, Lines>,
        file: PathBuf,
    ) -> Result<Receipt, DeadError> {
        let now_ms = self.now_ms;
        let sent = self.state.commit(move |txn| {
            let stored = dead::row_in(&txn.txn, txn.tables, number)?;
            let Some(mut stored) = stored.filter(|stored| stored.resent_ms.is_none()) else {
                return Ok(None);
            };
            let mut appender = Appender::new(now_ms);
            let mut ranges = Vec::with_capacity(parts.len());
            for (key, lines) in &parts {
                ranges.push((*key, appender.append(txn, *key, lines)?));
            }
            appender.finish(txn)?;
            stored.resent_ms = Some(now_ms);
            dead::store(txn, &stored)?;
            Ok(Some(ranges))
        })?;
        let ranges = sent.ok_or(DeadError::Resent(file))?;
        Ok(Receipt::new(self.state.identity(), ranges))
    }
}
