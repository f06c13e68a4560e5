//! Where schedules stand, and what is decided of their times.

use std::fmt;

use crate::store::TaskState;

/// Where a schedule stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScheduleState {
    /// Its task waits for its time, or for a worker.
    Pending,
    /// Its task runs.
    Running,
    /// Its task has a result.
    Finished,
    /// Its task was given up after its last failure.
    Failed,
    /// Its time was over before a worker began.
    Missed,
    /// It, or its task, was cancelled.
    Cancelled,
    /// It recurs, and will start again.
    Active,
    /// It has recurred for the last time.
    Ended,
}

impl ScheduleState {
    /// Every state.
    pub const ALL: [Self; 8] = [
        Self::Pending,
        Self::Running,
        Self::Finished,
        Self::Failed,
        Self::Missed,
        Self::Cancelled,
        Self::Active,
        Self::Ended,
    ];

    /// That of a schedule whose only task stands so.
    #[must_use]
    pub const fn of_task(state: TaskState) -> Self {
        match state {
            TaskState::Pending | TaskState::Queued => Self::Pending,
            TaskState::Running => Self::Running,
            TaskState::Finished => Self::Finished,
            TaskState::Failed => Self::Failed,
            TaskState::Cancelled => Self::Cancelled,
            TaskState::Missed => Self::Missed,
        }
    }

    /// The states of the only task of a schedule that stands so; none, if it must recur.
    #[must_use]
    pub fn of_tasks(self) -> Vec<TaskState> {
        TaskState::ALL.into_iter().filter(|state| Self::of_task(*state) == self).collect()
    }

    /// The stored number of a recurring schedule that stands so; `None`, if it must start once.
    #[must_use]
    pub const fn number(self) -> Option<i64> {
        match self {
            Self::Active => Some(0),
            Self::Ended => Some(1),
            Self::Cancelled => Some(2),
            _ => None,
        }
    }

    /// The state of a recurring schedule, from its stored number.
    #[must_use]
    pub fn from_number(number: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.number() == Some(number))
    }

    /// The word for people and JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Failed => "failed",
            Self::Missed => "missed",
            Self::Cancelled => "cancelled",
            Self::Active => "active",
            Self::Ended => "ended",
        }
    }

    /// The state of a word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }
}

impl fmt::Display for ScheduleState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What was decided of a due time. The numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Decision {
    /// A task was started.
    Started = 0,
    /// None was, as the schedule wants it.
    Skipped = 1,
    /// None was, since nobody was there in time.
    Missed = 2,
}

impl Decision {
    /// Every decision, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Started, Self::Skipped, Self::Missed];

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

    /// The word for people and JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Skipped => "skipped",
            Self::Missed => "missed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_words_are_read_as_they_are_written() {
        for state in ScheduleState::ALL {
            assert_eq!(ScheduleState::from_word(state.word()), Some(state));
            if let Some(number) = state.number() {
                assert_eq!(ScheduleState::from_number(number), Some(state));
            }
        }
        for decision in Decision::ALL {
            assert_eq!(Decision::from_number(decision.number()), Some(decision));
        }
        assert_eq!((ScheduleState::from_number(3), Decision::from_number(3)), (None, None));
    }

    #[test]
    fn every_state_of_a_task_is_one_of_its_schedule() {
        for state in TaskState::ALL {
            assert!(ScheduleState::of_task(state).of_tasks().contains(&state), "{state}");
        }
        assert_eq!(ScheduleState::Active.of_tasks(), []);
    }
}
