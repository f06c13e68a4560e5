//! A task as it stands, and its states.

use std::fmt;

use super::Millis;
use crate::task::{Attempt, Name, Permille, ResultHead, TaskId, WorkerId};

/// Where a task stands. The numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum TaskState {
    /// Waits for its time, or for a worker.
    Pending = 0,
    /// Is in the broker's queue, or on the way there.
    Queued = 1,
    /// Runs.
    Running = 2,
    /// Has a result.
    Finished = 3,
    /// Was given up after its last failure.
    Failed = 4,
    /// Was cancelled.
    Cancelled = 5,
    /// Its time was over before it began.
    Missed = 6,
}

impl TaskState {
    /// Every state, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::Queued,
        Self::Running,
        Self::Finished,
        Self::Failed,
        Self::Cancelled,
        Self::Missed,
    ];

    /// From the stored number.
    #[must_use]
    pub fn from_number(number: i64) -> Option<Self> {
        usize::try_from(number).ok().and_then(|index| Self::ALL.get(index).copied())
    }

    /// The stored number.
    #[must_use]
    pub const fn number(self) -> i64 {
        self as i64
    }

    /// Whether nothing changes it but a retry.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Finished | Self::Failed | Self::Cancelled | Self::Missed)
    }

    /// The word for people and JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Missed => "missed",
        }
    }

    /// The state of a word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A task to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTask {
    /// Its name. One that is there already is left as it is, and told.
    pub id: TaskId,
    /// Who knows how to run it.
    pub kind: Name,
    /// The only endpoint that may run it; `None` for any worker that knows the kind.
    pub endpoint: Option<Name>,
    /// What to do, for the kind to read.
    pub payload: Vec<u8>,
    /// Not before.
    pub run_at_ms: Millis,
    /// Not after: unless it was given to a worker by then, be it for an attempt that failed or was
    /// given back, it is missed.
    pub expires_at_ms: Option<Millis>,
    /// After how many failures it is given up; at least 1.
    pub failures_max: u32,
    /// Tasks with the same key are the same work, done once.
    pub key: Option<String>,
    /// Whether its changes are told by [`Store::changes`].
    pub is_watched: bool,
}

/// What came of a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Submitted {
    /// It is a new task.
    New,
    /// It is new, and follows the one that does the same work already, or has done it.
    Follows(TaskId),
    /// A task of this id is there already, with the same kind, endpoint and payload.
    Known,
    /// A task of this id is there already, and is another one. Nothing was changed.
    Conflict,
}

/// A task as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Its name.
    pub id: TaskId,
    /// Who knows how to run it.
    pub kind: Name,
    /// The only endpoint that may run it.
    pub endpoint: Option<Name>,
    /// What to do.
    pub payload: Vec<u8>,
    /// Where it stands. A follower shows the state, attempt, times, worker, progress, result and
    /// error of the one it follows, whose state can be later than when it was submitted.
    pub state: TaskState,
    /// The attempt that runs, or the last one.
    pub attempt: Attempt,
    /// Failures so far.
    pub failures: u32,
    /// After how many failures it is given up.
    pub failures_max: u32,
    /// When it was submitted.
    pub created_at_ms: Millis,
    /// Not before.
    pub run_at_ms: Millis,
    /// Not after.
    pub expires_at_ms: Option<Millis>,
    /// When the current or last attempt began.
    pub started_at_ms: Option<Millis>,
    /// When it ended for good.
    pub finished_at_ms: Option<Millis>,
    /// Who runs it.
    pub owner: Option<WorkerId>,
    /// How far it is.
    pub progress: Permille,
    /// What came of it.
    pub result: Option<ResultHead>,
    /// Why the last attempt, or the task, failed.
    pub error: Option<String>,
    /// The task that does its work.
    pub follows: Option<TaskId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_words_of_states_are_read_as_they_are_written() {
        for (number, state) in (0..).zip(TaskState::ALL) {
            assert_eq!(TaskState::from_number(number), Some(state));
            assert_eq!(state.number(), number);
            assert_eq!(TaskState::from_word(state.word()), Some(state));
        }
        assert_eq!(TaskState::from_number(7), None);
        assert_eq!(TaskState::from_number(-1), None);
    }
}
