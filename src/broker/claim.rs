//! The claim of a worker on a delivery: its fencing token within the process.
//!
//! ```text
//! held ──► committing ──► (settled)        the transaction stands
//!  │  ◄──────── │                          it does not: held again
//!  └──► lost                               taken away, since it took too long
//! ```
//!
//! A worker that was given too much time loses its claim, and the delivery goes to another one;
//! wakes the first up after that, its commit is refused inside the transaction. After the commit
//! point no timeout applies.

use std::sync::Mutex;
use std::time::Instant;

use super::retry::Purpose;
use crate::message::OffsetRange;
use crate::service::held;

/// A worker's claim on the messages of one delivery.
#[derive(Debug)]
pub struct Claim {
    range: OffsetRange,
    purpose: Purpose,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// When it may be taken away; `None`: not yet known.
    deadline: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Held,
    Committing,
    Lost,
}

impl Claim {
    /// A claim on `range`, without a deadline yet.
    #[must_use]
    pub const fn new(range: OffsetRange, purpose: Purpose) -> Self {
        let state = Mutex::new(State { phase: Phase::Held, deadline: None });
        Self { range, purpose, state }
    }

    /// The messages.
    #[must_use]
    pub const fn range(&self) -> OffsetRange {
        self.range
    }

    /// What is to be done with them.
    #[must_use]
    pub const fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// The worker gets on: it may be taken away only after `deadline`. False if it was already.
    #[must_use]
    pub fn renew(&self, deadline: Instant) -> bool {
        let mut state = held(&self.state);
        state.deadline = Some(deadline);
        state.phase != Phase::Lost
    }

    /// Whether it was taken away.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        held(&self.state).phase == Phase::Lost
    }

    /// Inside the transaction that ends the delivery: false if the claim is lost, and then nothing
    /// may be written. From here on it cannot be lost, unless [`Claim::leave_commit`] is called.
    #[must_use]
    pub fn enter_commit(&self) -> bool {
        let mut state = held(&self.state);
        if state.phase == Phase::Lost {
            return false;
        }
        state.phase = Phase::Committing;
        true
    }

    /// The transaction did not commit.
    pub fn leave_commit(&self) {
        let mut state = held(&self.state);
        if state.phase == Phase::Committing {
            state.phase = Phase::Held;
        }
    }

    /// Takes the claim away if its deadline has passed; whoever gets true owns the messages now.
    #[must_use]
    pub fn revoke_if_late(&self, now: Instant) -> bool {
        let mut state = held(&self.state);
        let late = state.phase == Phase::Held && state.deadline.is_some_and(|at| at <= now);
        if late {
            state.phase = Phase::Lost;
        }
        late
    }

    /// Gives the claim up: false if it was lost before.
    #[must_use]
    pub(super) fn give_up(&self) -> bool {
        let mut state = held(&self.state);
        std::mem::replace(&mut state.phase, Phase::Lost) != Phase::Lost
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn claim(now: Instant) -> Claim {
        let claim = Claim::new(OffsetRange::new(0, 1), Purpose::Bury);
        assert!(claim.renew(now));
        claim
    }

    #[test]
    fn a_lost_claim_commits_nothing() {
        let now = Instant::now();
        let claim = claim(now);
        assert!(claim.revoke_if_late(now));
        assert!(!claim.enter_commit());
        assert!(claim.is_lost() && !claim.renew(now), "it does not come back");
        assert!(!claim.revoke_if_late(now), "only one gets the messages");
        assert!(!claim.give_up());
    }

    #[test]
    fn a_claim_cannot_be_lost_at_its_commit_point_or_before_its_deadline() {
        let now = Instant::now();
        let claim = claim(now);
        assert!(!claim.revoke_if_late(now - Duration::from_millis(1)));
        assert!(claim.enter_commit());
        assert!(claim.enter_commit(), "a transaction may be tried again");
        assert!(!claim.revoke_if_late(now));
        claim.leave_commit();
        assert!(claim.revoke_if_late(now));
    }
}
