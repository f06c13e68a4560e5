//! What else is committed with a batch, in its own transaction: so exactly once, as its messages.

use crate::message::ShardKey;
use crate::state::{StateError, WriteTxn};

use super::journal::BatchRow;

/// Keeps account of what is in the batches of a topic.
pub trait Companion: Send + Sync {
    /// What a worker tells of one batch, as it writes it.
    fn begin(&self) -> Box<dyn Tally>;
}

/// The account of one batch. One that is not committed is dropped, and begun anew.
pub trait Tally: Send {
    /// Takes in whole lines, each ended by a newline, as they go into the file.
    fn add(&mut self, lines: &[u8]);

    /// Writes the account, in the transaction that has just committed the batch. May be called
    /// again after an abort: it starts over then.
    ///
    /// # Errors
    /// The transaction cannot go on, and nothing of the batch is committed.
    fn commit(
        &mut self,
        txn: &mut WriteTxn<'_>,
        key: ShardKey,
        row: &BatchRow,
    ) -> Result<(), StateError>;
}
