//! The life of a process: one signal that everything stops by, and the reason when it failed.
//!
//! A part that cannot go on safely (a failed sync, a damaged batch) calls [`Lifecycle::fail`]: the
//! first reason is kept, everything stops as on Ctrl-C, and the process exits with that reason.

pub mod bell;
pub mod lock;
pub mod presence;
pub mod program;
mod text;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

pub use self::text::{PRINTABLE_CHARACTERS, printable};

/// The shared handle: stop, fail, and wait for either, from async code and from threads.
#[derive(Debug, Clone, Default)]
pub struct Lifecycle {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    token: CancellationToken,
    failure: Mutex<Option<Failure>>,
    /// Held while the token is cancelled, so that no thread misses it between look and wait.
    gate: Mutex<()>,
    changed: Condvar,
}

/// Why a process stops that would rather go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Failure {
    /// What happened, where, and what to do.
    pub reason: String,
    /// Whether it is for a person to change a setting.
    pub is_settings: bool,
}

/// `pause`, shortened at random by up to a half: what waits for the same comes at different times.
#[must_use]
pub fn jittered(pause: Duration) -> Duration {
    let mut bits = [0; 2];
    // Without random bits the whole of it.
    let _none = rustix::rand::getrandom(&mut bits, rustix::rand::GetRandomFlags::empty());
    pause - pause.mul_f64(f64::from(u16::from_be_bytes(bits)) / f64::from(u16::MAX) / 2.0)
}

/// Locks a mutex whose value is whole at every instant: a thread that panicked with it did no harm.
pub(crate) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lifecycle {
    /// A process that runs.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks everything to stop taking work, finish what it has, and end.
    pub fn stop(&self) {
        let _gate = held(&self.shared.gate);
        self.shared.token.cancel();
        self.shared.changed.notify_all();
    }

    /// Stops because going on would not be safe. The first reason is kept.
    pub fn fail(&self, reason: impl Into<String>) {
        self.end(Failure { reason: reason.into(), is_settings: false });
    }

    /// Stops because of what a person has to change first. The first reason is kept.
    pub fn fail_settings(&self, reason: impl Into<String>) {
        self.end(Failure { reason: reason.into(), is_settings: true });
    }

    fn end(&self, failure: Failure) {
        tracing::error!(reason = failure.reason, "stopping");
        held(&self.shared.failure).get_or_insert(failure);
        self.stop();
    }

    /// The reason of the first failure.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        held(&self.shared.failure).clone()
    }

    /// Whether the stop has begun.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.shared.token.is_cancelled()
    }

    /// Resolves when the stop begins.
    pub async fn stopping(&self) {
        self.shared.token.cancelled().await;
    }

    /// Waits in a thread: true as soon as the stop begins, false after `timeout`.
    #[must_use]
    pub fn wait_stopping(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut gate = held(&self.shared.gate);
        while !self.is_stopping() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.shared.changed.wait_timeout(gate, left);
            gate = waited.map_or_else(|e| e.into_inner().0, |(guard, _)| guard);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_is_kept_and_stops_everything() {
        let life = Lifecycle::new();
        let thread = {
            let life = life.clone();
            std::thread::spawn(move || life.wait_stopping(Duration::from_secs(60)))
        };
        life.fail("first");
        life.fail("second");
        assert!(thread.join().unwrap());
        assert!(life.is_stopping());
        assert_eq!(life.failure().map(|failure| failure.reason).as_deref(), Some("first"));
    }

    #[test]
    fn a_stop_is_not_a_failure() {
        let life = Lifecycle::new();
        assert!(!life.wait_stopping(Duration::ZERO));
        life.stop();
        assert!(life.wait_stopping(Duration::ZERO));
        assert_eq!(life.failure(), None);
    }
}
