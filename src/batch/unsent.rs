//! How many dead letters were not sent again, kept beside them so that nobody has to count.
//!
//! ```text
//! table meta:  "dead_unsent" -> JSON of `Unsent`
//! ```

use heed::RoTxn;
use serde::{Deserialize, Serialize};

use super::dead::DeadRow;
use super::journal::{decode, encode};
use crate::state::{State, StateError, Tables, WriteTxn};

const UNSENT: &[u8] = b"dead_unsent";

/// So many files, and so many messages in them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// Files.
    pub files: u64,
    /// Messages in them.
    pub messages: u64,
}

/// The dead letters that were not sent again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsent {
    /// Of messages, and of what cannot be told.
    pub messages: Sum,
    /// Of telemetry.
    pub telemetry: Sum,
    /// How many files have come or were sent again since it was counted.
    changes: u64,
    /// Rows of the table: another number is of a version that kept no sums.
    rows: u64,
}

impl Unsent {
    /// Files of both.
    #[must_use]
    pub const fn files(&self) -> u64 {
        self.messages.files.saturating_add(self.telemetry.files)
    }

    /// The sum that a file counts in, unless it was sent again.
    fn sum(&mut self, dead: &DeadRow) -> Option<&mut Sum> {
        let is_of_messages = dead.key().is_none_or(|key| key.topic.is_messages());
        let sum = if is_of_messages { &mut self.messages } else { &mut self.telemetry };
        Some(sum).filter(|_| dead.resent_ms.is_none())
    }

    fn add(&mut self, dead: &DeadRow) {
        let messages = dead.row.range.count();
        if let Some(sum) = self.sum(dead) {
            sum.files = sum.files.saturating_add(1);
            sum.messages = sum.messages.saturating_add(messages);
        }
    }

    fn take(&mut self, dead: &DeadRow) {
        let messages = dead.row.range.count();
        if let Some(sum) = self.sum(dead) {
            sum.files = sum.files.saturating_sub(1);
            sum.messages = sum.messages.saturating_sub(messages);
        }
    }

    fn count(txn: &RoTxn<'_>, tables: Tables) -> Result<Self, StateError> {
        let mut unsent = Self { rows: tables.dead.len(txn)?, ..Self::default() };
        for row in tables.dead.iter(txn)? {
            unsent.add(&decode("a row of table dead", row?.1)?);
        }
        Ok(unsent)
    }

    fn put(&self, txn: &mut WriteTxn<'_>) -> Result<(), StateError> {
        Ok(txn.tables.meta.put(&mut txn.txn, UNSENT, &encode(self)?)?)
    }
}

/// What is kept; `None` where an older version has left rows that it did not count.
pub(super) fn load(txn: &RoTxn<'_>, tables: Tables) -> Result<Option<Unsent>, StateError> {
    let stored = tables.meta.get(txn, UNSENT)?;
    let stored = stored.map(|stored| decode("the sums of dead letters", stored)).transpose()?;
    let (kept, rows): (Unsent, u64) = (stored.unwrap_or_default(), tables.dead.len(txn)?);
    Ok(Some(kept).filter(|kept| kept.rows == rows))
}

/// Changes the sums along with a row, in the transaction that stores it, before it does.
pub(super) fn follow(
    txn: &mut WriteTxn<'_>,
    before: Option<&DeadRow>,
    after: &DeadRow,
) -> Result<(), StateError> {
    let mut unsent = match load(&txn.txn, txn.tables)? {
        Some(kept) => kept,
        None => Unsent::count(&txn.txn, txn.tables)?,
    };
    match before {
        Some(before) => unsent.take(before),
        None => unsent.rows = unsent.rows.saturating_add(1),
    }
    unsent.add(after);
    unsent.changes = unsent.changes.saturating_add(1);
    unsent.put(txn)
}

/// How many there are. May block.
///
/// # Errors
/// A read failed, or a row is damaged; or what an older version has left cannot be counted.
pub fn unsent(state: &State) -> Result<Unsent, StateError> {
    if let Some(kept) = load(&*state.read()?, state.tables())? {
        return Ok(kept);
    }
    state.commit(|txn| {
        let unsent = Unsent::count(&txn.txn, txn.tables)?;
        unsent.put(txn)?;
        Ok(unsent)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::dead::{newest, store};
    use crate::message::{ShardId, ShardKey, Topic};
    use crate::state::StateOptions;

    fn dead(number: u64, topic_key: ShardKey, resent_ms: Option<u64>) -> DeadRow {
        let key: Vec<u8> = topic_key.key().to_vec();
        let row = serde_json::json!({
            "row": {
                "number": number, "number_in_topic": number, "range": { "first": 0, "end": 10 },
                "kind": "dead", "bytes": 1, "checksum": "", "outputs": null,
                "worker": "shard-0-worker-1", "file": "a", "staged": "b", "output": "c",
                "committed_ms": 7,
            },
            "shard_key": key, "reason": "no", "resent_ms": resent_ms,
        });
        serde_json::from_value(row).unwrap()
    }

    #[test]
    fn what_comes_and_what_is_sent_again_is_followed_and_what_others_left_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(StateOptions {
            dir: dir.path().to_owned(),
            map_bytes: 16 << 20,
            low_water_bytes: None,
            on_poison: Box::new(|_| {}),
        });
        let state = state.unwrap();
        let messages = ShardKey::new(Topic::Messages, ShardId(0));
        let telemetry = ShardKey::new(Topic::Telemetry, ShardId(0));
        let store = |dead: DeadRow| state.commit(move |txn| store(txn, &dead)).unwrap();
        let sums = || {
            let unsent = unsent(&state).unwrap();
            (unsent.messages.files, unsent.messages.messages, unsent.telemetry.messages)
        };
        assert_eq!(sums(), (0, 0, 0));
        (1..=3).for_each(|number| store(dead(number, messages, None)));
        store(dead(4, telemetry, None));
        assert_eq!(sums(), (3, 30, 10));
        store(dead(2, messages, Some(8)));
        assert_eq!(sums(), (2, 20, 10));
        let numbers = |limit| -> Vec<u64> {
            let newest = newest(&state, u64::MAX, limit, false).unwrap();
            newest.into_iter().map(|dead| dead.row.number).collect()
        };
        assert_eq!((numbers(2), numbers(9)), (vec![4, 3], vec![4, 3, 1]));
        // As a version without sums does it.
        let other = encode(&dead(5, messages, None)).unwrap();
        let put = state.commit(move |txn| {
            Ok(txn.tables.dead.put(&mut txn.txn, &5_u64.to_be_bytes(), &other)?)
        });
        put.unwrap();
        assert_eq!((numbers(9).len(), sums()), (4, (3, 30, 10)));
        store(dead(5, messages, Some(9)));
        assert_eq!(sums(), (2, 20, 10));
    }
}
