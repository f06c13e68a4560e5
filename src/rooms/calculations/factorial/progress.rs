//! How far a computation is, and the wish to end it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How far a computation is, and the wish to end it; shared with whoever watches.
#[derive(Debug, Default)]
pub struct Progress {
    is_cancelled: AtomicBool,
    /// In the unit of `all`, an estimate of time.
    done: AtomicU64,
    /// 0 until it is known.
    all: AtomicU64,
}

/// Somebody wished the computation to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cancelled;

impl Progress {
    /// Ends the computation soon.
    pub fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
    }

    /// Was the computation cancelled?
    pub fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Relaxed)
    }

    /// The part of the estimated work that is done, from 0 to 1; it never falls. 1 is reached at
    /// the end only.
    pub fn fraction(&self) -> f64 {
        let all = self.all.load(Ordering::Acquire);
        let done = self.done.load(Ordering::Relaxed);
        if all == 0 { 0.0 } else { as_float(done.min(all)) / as_float(all) }
    }

    /// Says how much work there is.
    pub(super) fn plan(&self, work: u64) {
        self.all.store(work.saturating_add(1), Ordering::Release);
    }

    /// Says that some more of it is done.
    pub(super) fn advance(&self, work: u64) {
        // An estimate that was too low is no reason to say that all is done.
        let limit = self.all.load(Ordering::Relaxed).saturating_sub(1);
        let add = |done: u64| Some(done.saturating_add(work).min(limit));
        let _ = self.done.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Says that all is done.
    pub(super) fn finish(&self) {
        self.done.store(u64::MAX, Ordering::Relaxed);
    }

    /// Asks whether to go on.
    pub(super) fn check(&self) -> Result<(), Cancelled> {
        if self.is_cancelled() { Err(Cancelled) } else { Ok(()) }
    }
}

fn as_float(work: u64) -> f64 {
    work as f64
}
