//! The transactions of the commit protocol: the commit point, and marking batches as done.
//!
//! A batch that is in place is marked as done by whichever transaction comes next: the commit point
//! of another batch while there are others on their way, so that under load it costs no transaction
//! of its own.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Sender, bounded};

use super::companion::Tally;
use super::journal::{self, BatchRow, JournalRetention, Staged};
use crate::broker::claim::Claim;
use crate::broker::progress::{Committed, Refused};
use crate::clock::Clock;
use crate::message::{Offset, ShardKey};
use crate::service::held;
use crate::state::{Job, State, StateError, WriteTxn};

/// Why a transaction that came through holds no commit point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotRecorded {
    /// The claim was lost before.
    Lost,
    /// The shard's marks refuse it.
    Refused(Refused),
}

type Answer = Result<(BatchRow, Committed), NotRecorded>;

/// Batches in place whose rows are still *prepared*.
pub(super) struct Finishing {
    state: State,
    retention: JournalRetention,
    clock: Arc<dyn Clock>,
    rows: Mutex<Vec<(ShardKey, Offset)>>,
    /// Batches between their staging and their place.
    in_hand: AtomicUsize,
}

/// A batch on its way. The last one marks what it finds as done: no other will come by for it.
pub struct InHand {
    finishing: Arc<Finishing>,
}

impl Drop for InHand {
    fn drop(&mut self) {
        if self.finishing.in_hand.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.finishing.submit();
        }
    }
}

impl Finishing {
    pub(super) fn new(state: State, retention: JournalRetention, clock: Arc<dyn Clock>) -> Self {
        Self { state, retention, clock, rows: Mutex::default(), in_hand: AtomicUsize::new(0) }
    }

    pub(super) fn in_hand(self: &Arc<Self>) -> InHand {
        self.in_hand.fetch_add(1, Ordering::AcqRel);
        InHand { finishing: Arc::clone(self) }
    }

    /// The batch is in place: done, with the next transaction.
    pub(super) fn add(&self, key: ShardKey, row: &BatchRow) {
        held(&self.rows).push((key, row.range.first));
    }

    /// Marks as done what is in place, in a transaction of its own if nobody else takes it along.
    pub(super) fn submit(self: &Arc<Self>) {
        if !held(&self.rows).is_empty() {
            let finish = Finish { finishing: Arc::clone(self), taken: Vec::new() };
            self.state.submit(Box::new(finish));
        }
    }

    /// The commit point of one batch; waits for it.
    pub(super) fn record(
        self: &Arc<Self>,
        staged: Staged,
        tally: Option<Box<dyn Tally>>,
        claim: &Arc<Claim>,
    ) -> Result<Answer, StateError> {
        let (reply, answer) = bounded(1);
        let finish = Finish { finishing: Arc::clone(self), taken: Vec::new() };
        let claim = Arc::clone(claim);
        self.state.submit(Box::new(Record { finish, staged, tally, claim, answer: None, reply }));
        answer.recv().unwrap_or(Err(StateError::Stopped))
    }
}

/// Takes all of them into one transaction; what fails waits for the next.
struct Finish {
    finishing: Arc<Finishing>,
    taken: Vec<(ShardKey, Offset)>,
}

impl Finish {
    fn write(&mut self, txn: &mut WriteTxn<'_>) -> Result<(), StateError> {
        self.taken.append(&mut held(&self.finishing.rows));
        if self.taken.is_empty() {
            return Ok(());
        }
        let now_ms = self.finishing.clock.wall_ms();
        let mut retention = self.finishing.retention;
        if self.finishing.state.is_pressed()? {
            // Draining goes before looking back.
            retention.batches_max = 0;
        }
        for (key, first) in &self.taken {
            journal::finish(txn, *key, *first, retention, now_ms)?;
        }
        Ok(())
    }

    fn give_back(self) {
        held(&self.finishing.rows).extend(self.taken);
    }
}

impl Job for Finish {
    fn apply(&mut self, txn: &mut WriteTxn<'_>) -> Result<(), StateError> {
        self.write(txn)
    }

    fn settle(self: Box<Self>, outcome: Result<(), StateError>) {
        if let Err(error) = outcome {
            tracing::debug!(%error, batches = self.taken.len(), "batches not yet marked as done");
            self.give_back();
        }
    }
}

/// The commit point of one batch.
struct Record {
    finish: Finish,
    staged: Staged,
    tally: Option<Box<dyn Tally>>,
    claim: Arc<Claim>,
    answer: Option<Answer>,
    reply: Sender<Result<Answer, StateError>>,
}

impl Record {
    fn commit(
        &mut self,
        txn: &mut WriteTxn<'_>,
    ) -> Result<Result<(BatchRow, Committed), Refused>, StateError> {
        let prepared = journal::prepare(txn, &self.staged)?;
        if let (Ok((row, _)), Some(tally)) = (&prepared, &mut self.tally) {
            tally.commit(txn, self.staged.key, row)?;
        }
        Ok(prepared)
    }
}

impl Job for Record {
    fn apply(&mut self, txn: &mut WriteTxn<'_>) -> Result<(), StateError> {
        self.finish.write(txn)?;
        self.answer = Some(if self.claim.enter_commit() {
            self.commit(txn)?.map_err(NotRecorded::Refused)
        } else {
            Err(NotRecorded::Lost)
        });
        Ok(())
    }

    fn settle(self: Box<Self>, outcome: Result<(), StateError>) {
        let Self { finish, claim, answer, reply, .. } = *self;
        if outcome.is_err() {
            claim.leave_commit();
            finish.give_back();
        }
        // Nobody waits any more: the commit stands all the same.
        let _gone = reply.send(outcome.and_then(|()| answer.ok_or(StateError::Stopped)));
    }
}
