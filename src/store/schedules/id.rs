//! The names of schedules, and of the tasks that they start.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::store::Millis;
use crate::task::TaskId;

/// The name of a schedule: a UUID. The task of one that starts once has the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ScheduleId(TaskId);

/// A text that is no schedule's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a schedule's id is a UUID such as 019ab3f0-7c1e-7d8a-9f65-1f2e3d4c5b6a")]
pub struct NoScheduleId;

impl ScheduleId {
    /// A new one, greater than those before it.
    #[must_use]
    pub fn new() -> Self {
        Self(TaskId::new())
    }

    /// The one that stands for these texts: the same for the same, whoever asks.
    #[must_use]
    pub fn derived(texts: &[&str]) -> Self {
        Self(TaskId::derived(texts))
    }

    /// The task of a schedule that starts once.
    #[must_use]
    pub const fn task(self) -> TaskId {
        self.0
    }

    /// The task that a recurring schedule starts for this due time: so it starts once.
    #[must_use]
    pub fn task_due_at(self, due_at_ms: Millis) -> TaskId {
        TaskId::derived(&["schedule", &self.to_string(), &due_at_ms.to_string()])
    }

    /// The stored form.
    #[must_use]
    pub const fn bytes(self) -> [u8; 16] {
        self.0.bytes()
    }

    /// From the stored form.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(TaskId::from_bytes(bytes))
    }
}

impl Default for ScheduleId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for ScheduleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ScheduleId {
    type Err = NoScheduleId;

    fn from_str(text: &str) -> Result<Self, NoScheduleId> {
        text.parse().map(Self).map_err(|_| NoScheduleId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_due_time_has_one_task_whoever_starts_it() {
        let (one, other) = (ScheduleId::new(), ScheduleId::new());
        let read: ScheduleId = one.to_string().parse().unwrap();
        assert_eq!(one.task_due_at(7), read.task_due_at(7));
        assert_ne!(one.task_due_at(7), one.task_due_at(8));
        assert_ne!(one.task_due_at(7), other.task_due_at(7));
        assert_eq!("1".parse::<ScheduleId>(), Err(NoScheduleId));
    }
}
