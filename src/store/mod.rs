//! Tasks at rest: which there are, who runs them, what came of them.
//!
//! | room | what it holds |
//! |---|---|
//! | here | the trait [`Store`], and what it is asked and answers |
//! | `row` | a task as it stands, and its states |
//! | [`schedules`] | when which task is to be started: the trait [`Schedules`] |
//! | [`sqlite`] | a file in the state directory, shared by all processes of one machine |
//! | [`postgres`] | a database that many machines share |
//!
//! A task is a row, and without a broker the row is the queue. Each state is reached as drawn:
//!
//! ```text
//!             claim                      settle
//!  pending ──────────────────► running ─────────► finished | failed | missed
//!   ▲ │ └──► queued (broker) ────▲ │
//!   │ │        first beat          │
//!   │ └──────► missed (too late)   │
//!   └── failed attempt, worker dead, given back          cancel: from any of the first three
//! ```
//!
//! # Promises
//!
//! 1. What was submitted is synced before the answer, and ends in exactly one terminal state.
//! 2. A claim gives each task to one worker, in due order, with an attempt that is one higher.
//! 3. What is settled for another attempt than the current one, or for a task that has ended,
//!    changes nothing.
//! 4. The tasks of a worker that was buried are pending again, as one failure more; those of a
//!    worker that is heard of are not touched. No promise depends on any clock.
//! 5. Tasks with the same key are run once: later ones follow the first, and end as it does. When
//!    it failed or was missed, each of them stands alone, and the key is free.

pub mod postgres;
mod row;
pub mod schedules;
pub mod sqlite;

use std::fmt;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

pub use self::row::{NewTask, Submitted, Task, TaskState};
pub use self::schedules::Schedules;
use crate::task::{Attempt, Beat, Name, Outcome, TaskId, WorkerId};

/// What a store answers, later.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// Milliseconds since 1970, UTC; negative before it.
pub type Millis = i64;

/// The pause before another attempt after the first failure; it doubles with each.
pub const BACK_OFF_MS: Millis = 1000;
/// The longest such pause.
pub const BACK_OFF_MS_MAX: Millis = 60_000;

/// Whom a claim is for.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Who will run the tasks.
    pub worker: WorkerId,
    /// `None`: tasks for any worker; else those for this endpoint.
    pub endpoint: Option<Name>,
    /// What the worker knows how to run. Tasks of other kinds are not claimed.
    pub kinds: Vec<Name>,
    /// How many tasks at most.
    pub tasks_max: usize,
    /// The wall time now.
    pub now_ms: Millis,
}

/// What a claim has brought.
#[derive(Debug, Clone, Default)]
pub struct Claimed {
    /// The tasks, running now, in due order.
    pub tasks: Vec<Task>,
    /// When the next of those kinds becomes due, if one waits: now or earlier, if more are due.
    pub next_due_ms: Option<Millis>,
}

/// A task that was given out so often for each failure that it may have, and is its worker's when
/// that is not heard of any more, is given up: so that one which kills its workers does not do so
/// for ever, where no process starts again that knows.
pub const ATTEMPTS_PER_FAILURE: u32 = 20;

/// Whoever waits for work looks by itself more often than this: what is due later needs no bell,
/// however much of it comes in.
const LOOKED_EVERY_MS: Millis = 2000;

/// Why a task was missed that nobody has begun.
pub(crate) const TOO_LATE: &str = "its time was over before a worker was free to begin it";

/// A worker that has begun a task which came by way of a broker has said so by then.
const BEGUN_IS_HEARD_MS: Millis = 5000;

/// By how much the clocks of two machines may differ.
pub(crate) const CLOCKS_APART_MS: Millis = 60_000;

/// How an attempt ended, to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settlement {
    /// The task.
    pub id: TaskId,
    /// The attempt; `None` for whichever is current (an outside worker, which knows of none).
    pub attempt: Option<Attempt>,
    /// The endpoint it comes from, if it is to be checked: the task must be of the same one.
    pub endpoint: Option<Name>,
    /// How it ended.
    pub outcome: Outcome,
    /// When it began, as far as is known; stored as not before the task was submitted.
    pub began_at_ms: Option<Millis>,
    /// When it ended; stored as not before it began.
    pub at_ms: Millis,
}

/// What became of a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It holds.
    Applied,
    /// The task has ended already, or another attempt runs: nothing was changed.
    Late,
    /// There is no such task, or none of this endpoint.
    Unknown,
    /// Parts of the result are missing: nothing was changed.
    PartsMissing,
}

/// The answer to a sign of life.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Beaten {
    /// The worker was buried: its tasks are given to others, and it needs a new [`WorkerId`].
    pub is_buried: bool,
    /// Tasks it named that are not its own any more (cancelled, settled, given to another).
    pub lost: Vec<(TaskId, Attempt)>,
}

/// A worker that has signed, and how often: a number that stands still tells the dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerBeat {
    /// Who.
    pub worker: WorkerId,
    /// How many signs of life.
    pub beats: u64,
}

/// Which tasks to list, newest first.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this kind.
    pub kind: Option<Name>,
    /// In one of these states; in any, if empty.
    pub states: Vec<TaskState>,
    /// Of this endpoint.
    pub endpoint: Option<Name>,
    /// Only those before this one: the last of the page before.
    pub before: Option<TaskId>,
    /// How many at most.
    pub tasks_max: usize,
}

/// How many tasks of a kind are in a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// The kind.
    pub kind: Name,
    /// The state.
    pub state: TaskState,
    /// How many.
    pub tasks: u64,
}

/// A place in the stream of changes. The default is its beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor(pub i64);

/// What a sweep has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Tasks whose time was over before they began.
    pub missed: u64,
    /// Attempts of outside workers that were not heard of in time.
    pub overdue: u64,
    /// What was removed for its age: ended tasks and schedules, and occurrences of schedules.
    pub pruned: u64,
}

/// What sweeping needs to know.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sweep {
    /// The wall time now.
    pub now_ms: Millis,
    /// Tasks that ended before this are removed, with their results, and so are schedules, and what
    /// was decided of the times of those that go on; `None`: none are.
    pub ended_before_ms: Option<Millis>,
    /// What workers have begun was heard: so nobody has begun what is still queued, and it can be
    /// missed as what is pending can.
    pub is_all_heard: bool,
    /// The wall clock may have gone back: what was to run at once, what had been given out, and
    /// what pauses after a failure, does not wait until the clock is there again; and what nobody
    /// has begun and was missed, and is not too late now, waits again.
    pub clock_went_back: bool,
}

/// Rung when something changed, in this process or another; a ring may be lost, and waiters look
/// by themselves now and then.
#[derive(Debug, Clone)]
pub struct Bells {
    /// There may be work.
    pub work: watch::Receiver<u64>,
    /// A watched task changed, or one was cancelled.
    pub news: watch::Receiver<u64>,
    /// A schedule was added, cancelled or removed, or went on.
    pub plans: watch::Receiver<u64>,
}

/// Why a store did not do what was asked. Unless it says so, nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, or is too busy: the same may succeed later. Whether a change was made
    /// is unknown.
    #[error("{0}")]
    Unavailable(String),
    /// There is no room: the same may succeed later.
    #[error("{0}")]
    Full(String),
    /// Something is wrong that time does not mend: a damaged file, another program's tables, a
    /// missing permission.
    #[error("{0}")]
    Broken(String),
}

/// Where tasks are kept. Every change is synced before it is answered; what waits is grouped.
pub trait Store: Schedules + Send + Sync + fmt::Debug {
    /// Adds tasks; what came of each, in their order. If it fails, it has added none. One whose id
    /// is another task's is left out.
    fn submit(&self, tasks: Vec<NewTask>, now_ms: Millis) -> Answer<'_, Vec<Submitted>>;

    /// Gives due tasks to a worker: pending to running. Those too late that nobody has begun are
    /// missed instead. A worker that gets some has signed; one that was buried gets none.
    fn claim(&self, claim: Claim) -> Answer<'_, Claimed>;

    /// Takes due tasks of every kind and endpoint for the broker: pending to queued, with the next
    /// attempt, owned by the dispatcher until [`dispatched`](Self::dispatched), so that they are
    /// pending again if it is buried before.
    fn take_due(
        &self,
        dispatcher: WorkerId,
        tasks_max: usize,
        now_ms: Millis,
    ) -> Answer<'_, Claimed>;

    /// The broker has confirmed these.
    fn dispatched(&self, tasks: Vec<(TaskId, Attempt)>) -> Answer<'_, ()>;

    /// What was queued before `queued_before_ms`, confirmed by the broker and begun by nobody is
    /// pending again: the broker has lost it. So is what was queued in the future: before a clock
    /// went back. Of this endpoint, or of those for any worker. How many.
    fn requeue(
        &self,
        endpoint: Option<Name>,
        queued_before_ms: Millis,
        now_ms: Millis,
    ) -> Answer<'_, u64>;

    /// Adds a part of a result, of [`PART_BYTES`](crate::task::PART_BYTES) bytes but for the last;
    /// again is as good as once. False if the task does not wait for it (ended, other attempt).
    fn put_part(
        &self,
        id: TaskId,
        attempt: Option<Attempt>,
        index: u32,
        bytes: Vec<u8>,
    ) -> Answer<'_, bool>;

    /// Ends attempts; what became of each, in their order. A failure that is neither final nor the
    /// last makes the task pending, after a pause. That a worker [died](crate::task::Outcome::Died)
    /// counts also when another attempt has been given out since, which goes on unless it was the
    /// last failure.
    fn settle(&self, settlements: Vec<Settlement>) -> Answer<'_, Vec<Settled>>;

    /// A sign of life of a worker, and of what it runs. Queued tasks it names are running then.
    fn beat(&self, worker: WorkerId, running: Vec<Beat>, now_ms: Millis) -> Answer<'_, Beaten>;

    /// Every worker that has signed and was neither buried nor retired.
    fn workers(&self) -> Answer<'_, Vec<WorkerBeat>>;

    /// Declares a worker dead, if it has not signed since; how many tasks are pending again. They
    /// are due at once, and have not failed: most of them had not begun, and which have, the next
    /// process knows that starts where it was. But one that was given out
    /// [`ATTEMPTS_PER_FAILURE`] times for each failure that it may have is given up.
    fn bury(&self, dead: WorkerBeat, now_ms: Millis) -> Answer<'_, u64>;

    /// Gives back, unharmed, what a worker has without knowing it: it names all it has in hand.
    /// After a claim whose answer was lost. How many.
    fn disown(&self, worker: WorkerId, in_hand: Vec<(TaskId, Attempt)>) -> Answer<'_, u64>;

    /// A worker ends in order, with nothing in hand.
    fn retire(&self, worker: WorkerId) -> Answer<'_, ()>;

    /// An outside worker begins a task: to running, without an owner, until `deadline_ms`. Each
    /// call is an attempt of its own, also of one that an outside worker runs: what two of them
    /// bring is not mixed. `None` if there is no such task, else the task as it then stands; one
    /// that has ended, or that a worker of ours runs, is left as it is. Of a follower, the task
    /// that it follows begins.
    fn begin_outside(
        &self,
        id: TaskId,
        at_ms: Millis,
        deadline_ms: Millis,
    ) -> Answer<'_, Option<Task>>;

    /// Cancels a task, unless it has ended; `None` if there is no such task, else the state in
    /// which it was. Of those that follow it, the first takes over.
    fn cancel(&self, id: TaskId, now_ms: Millis) -> Answer<'_, Option<TaskState>>;

    /// Makes a failed, cancelled or missed task pending and due, with no failures; `None` if there
    /// is no such task, else the state in which it was. If another one does the same work by now,
    /// or has done it, it follows that one.
    fn retry(&self, id: TaskId, now_ms: Millis) -> Answer<'_, Option<TaskState>>;

    /// A task.
    fn task(&self, id: TaskId) -> Answer<'_, Option<Task>>;

    /// Tasks, newest first.
    fn tasks(&self, filter: Filter) -> Answer<'_, Vec<Task>>;

    /// How many tasks of each kind are in each state.
    fn counts(&self) -> Answer<'_, Vec<Count>>;

    /// A part of the result of a finished task, or of the one it follows; `None` beyond the end.
    fn part(&self, id: TaskId, index: u32) -> Answer<'_, Option<Vec<u8>>>;

    /// Watched tasks that changed since, each as it now stands, and where to go on; some may be
    /// told twice.
    fn changes(&self, since: Cursor, tasks_max: usize) -> Answer<'_, (Vec<Task>, Cursor)>;

    /// Where the stream of changes ends now.
    fn now(&self) -> Answer<'_, Cursor>;

    /// Cleans up, a bounded piece at a time.
    fn sweep(&self, sweep: Sweep) -> Answer<'_, Swept>;

    /// The bells.
    fn bells(&self) -> Bells;

    /// Which store it is, for people: a path, or a URL without its password.
    fn name(&self) -> String;
}

/// The pause before the next attempt, after so many failures.
#[must_use]
pub fn back_off_ms(failures: u32) -> Millis {
    let doublings = failures.saturating_sub(1).min(16);
    (BACK_OFF_MS << doublings).min(BACK_OFF_MS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_minute() {
        let pauses: Vec<Millis> = [0, 1, 2, 3, 6, 7, 1000].map(back_off_ms).to_vec();
        assert_eq!(pauses, [1000, 1000, 2000, 4000, 32_000, 60_000, 60_000]);
    }
}
