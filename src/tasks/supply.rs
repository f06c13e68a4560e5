//! Where jobs come from and what came of them goes: rows of a store, or the pipes of a broker.

use std::fmt;
use std::path::PathBuf;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::handler::Job;
use crate::store::Millis;
use crate::task::{Attempt, Beat, Outcome, TaskId};

/// What came of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// The task.
    pub id: TaskId,
    /// The attempt.
    pub attempt: Attempt,
    /// How it ended.
    pub outcome: Outcome,
    /// The whole result, if the outcome's head is not all of it.
    pub body: Option<Body>,
    /// When it began, if it did.
    pub began_at_ms: Option<Millis>,
    /// When it ended.
    pub at_ms: Millis,
}

/// A result that is longer than a head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// In memory.
    Bytes(Vec<u8>),
    /// In a file, which is removed when the result is safe elsewhere.
    File(PathBuf),
}

/// Why something could not be said or learnt now. The same may succeed later.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SupplyError(pub String);

/// A supply of jobs. A job that was given out comes back by [`deliver`](Self::deliver), or is given
/// out again when its worker is dead.
pub trait Supply: Send + Sync + fmt::Debug {
    /// Waits for jobs, and takes some; not more than `jobs_max`, and at least one. May be dropped
    /// while it waits, and loses none.
    fn next(&self, jobs_max: usize) -> BoxFuture<'_, Result<Vec<Job>, SupplyError>>;

    /// Hands over what came of jobs, those given back unharmed included. When it answers, all of
    /// them are safe; until then it may be said again, and counts once.
    fn deliver<'a>(&'a self, done: &'a [Done]) -> BoxFuture<'a, Result<(), SupplyError>>;

    /// Says which jobs run; which of them are not wanted any more.
    fn beat(
        &self,
        running: Vec<Beat>,
    ) -> BoxFuture<'_, Result<Vec<(TaskId, Attempt)>, SupplyError>>;

    /// Changes when a [`beat`](Self::beat) may have news.
    fn news(&self) -> watch::Receiver<u64>;

    /// Whether results need a place on this machine's disk until they are delivered, since
    /// delivering may take long.
    fn is_remote(&self) -> bool;

    /// Ends in order; nothing is in hand any more.
    fn close(&self) -> BoxFuture<'_, ()>;
}
