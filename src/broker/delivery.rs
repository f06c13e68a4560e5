//! Messages in a worker's hands: one owner's until they are settled.

use std::fmt;
use std::sync::Arc;

use super::claim::Claim;
use super::progress::Committed;
use super::retry::{Purpose, Verdict};
use super::source::Source;
use crate::message::{OffsetRange, ShardKey};
use crate::state::StateError;

/// Consecutive messages of one shard, owned by whoever holds this. Dropped unsettled, they are
/// delivered again.
pub struct Delivery {
    /// The shard.
    pub key: ShardKey,
    /// Their offsets.
    pub range: OffsetRange,
    /// What is to be done with them.
    pub purpose: Purpose,
    /// The owner's fencing token: the shard's epoch when it was taken.
    pub epoch: u64,
    claim: Arc<Claim>,
    home: Option<Arc<Source>>,
}

impl Delivery {
    pub(super) fn new(home: Arc<Source>, epoch: u64, range: OffsetRange, purpose: Purpose) -> Self {
        let claim = Arc::new(Claim::new(range, purpose));
        Self { key: home.key(), range, purpose, epoch, claim, home: Some(home) }
    }

    /// The worker's claim, by which it may lose them.
    #[must_use]
    pub const fn claim(&self) -> &Arc<Claim> {
        &self.claim
    }

    /// Passes over the lines, in order, in pieces of whole lines.
    ///
    /// # Errors
    /// What `visit` said, or a read failed.
    pub fn visit<E: From<StateError>>(
        &self,
        visit: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        match &self.home {
            Some(home) => home.visit(self.range, visit),
            None => Ok(()),
        }
    }

    /// A copy of the lines, each ended by a newline.
    ///
    /// # Errors
    /// A read failed.
    pub fn lines(&self) -> Result<Vec<u8>, StateError> {
        let mut lines = Vec::new();
        self.visit(|piece| {
            lines.extend_from_slice(piece);
            Ok::<_, StateError>(())
        })?;
        Ok(lines)
    }

    /// Why each of the messages is dead, in order; none unless they are to be buried.
    #[must_use]
    pub fn retries(&self) -> Vec<super::retry::Retry> {
        self.home.as_ref().map_or_else(Vec::new, |home| home.retries_of(self.range))
    }

    /// Ends the delivery: its messages are where they belong.
    pub fn settle(mut self, proof: &Committed) {
        // A proof of something else would be a mistake of ours: the delivery then goes back, and
        // the overlap is refused when it is committed again.
        if proof.covers(self.key, self.range)
            && let Some(home) = self.home.take()
        {
            home.settled(self.range);
        }
    }

    /// Ends the delivery: its handler failed at it for `reason`. Stores that, and says what becomes
    /// of the messages; `None` if the claim is lost, and they are somebody else's.
    ///
    /// # Errors
    /// It could not be stored; then they are delivered again as if this had not been tried.
    pub fn fail(mut self, reason: &str, attempts_max: u32) -> Result<Option<Verdict>, StateError> {
        let Some(home) = &self.home else { return Ok(None) };
        let verdict = home.fail(&self.claim, reason, attempts_max)?;
        self.home = None;
        Ok(verdict)
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Delivery({} {}, epoch {})", self.key, self.range, self.epoch)
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(home) = self.home.take()
            && self.claim.give_up()
        {
            home.take_back(self.range, self.purpose);
        }
    }
}
