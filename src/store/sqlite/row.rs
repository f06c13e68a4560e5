//! A row of the table `task`, read and written whole but for its payload.

use rusqlite::types::Type;
use rusqlite::{Error, Result};

use crate::store::{Millis, Task, TaskState};
use crate::task::{Attempt, Name, Permille, ResultHead, TaskId, WorkerId};

/// The columns of [`Row::read`]: `$own` is the task, `$shown` the one whose run it shows.
macro_rules! columns {
    ($own:literal, $shown:literal) => {
        concat!(
            $own,
            ".seq, ",
            $own,
            ".id, ",
            $own,
            ".kind, ",
            $own,
            ".endpoint, ",
            $own,
            ".key, ",
            $own,
            ".follows, ",
            $own,
            ".state, ",
            $shown,
            ".attempt, ",
            $own,
            ".failures, ",
            $own,
            ".failures_max, ",
            $own,
            ".created_at, ",
            $own,
            ".run_at, ",
            $own,
            ".expires_at, ",
            $own,
            ".queued_at, ",
            $shown,
            ".started_at, ",
            $shown,
            ".finished_at, ",
            $own,
            ".deadline_at, ",
            $shown,
            ".owner, ",
            $shown,
            ".progress, ",
            $shown,
            ".error, ",
            $shown,
            ".result_bytes, ",
            $shown,
            ".result_head, ",
            $own,
            ".changed",
        )
    };
}
pub(super) use columns;

/// The column after those of [`columns!`] that holds the payload.
pub(super) const PAYLOAD: usize = 23;

#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) seq: i64,
    pub(super) id: TaskId,
    pub(super) kind: Name,
    pub(super) endpoint: Option<Name>,
    pub(super) key: Option<String>,
    pub(super) follows: Option<i64>,
    pub(super) state: TaskState,
    pub(super) attempt: Attempt,
    pub(super) failures: u32,
    pub(super) failures_max: u32,
    pub(super) created_at_ms: Millis,
    pub(super) run_at_ms: Millis,
    pub(super) expires_at_ms: Option<Millis>,
    pub(super) queued_at_ms: Option<Millis>,
    pub(super) started_at_ms: Option<Millis>,
    pub(super) finished_at_ms: Option<Millis>,
    pub(super) deadline_at_ms: Option<Millis>,
    pub(super) owner: Option<WorkerId>,
    pub(super) progress: Permille,
    pub(super) error: Option<String>,
    pub(super) result: Option<ResultHead>,
    /// The revision at which it changed last, if it is watched.
    pub(super) changed: Option<i64>,
}

impl Row {
    pub(super) fn read(row: &rusqlite::Row<'_>) -> Result<Self> {
        let state = row.get(6)?;
        Ok(Self {
            seq: row.get(0)?,
            id: TaskId::from_bytes(row.get(1)?),
            kind: name(row, 2)?.ok_or(Error::IntegralValueOutOfRange(2, 0))?,
            endpoint: name(row, 3)?,
            key: row.get(4)?,
            follows: row.get(5)?,
            state: TaskState::from_number(state).ok_or(Error::IntegralValueOutOfRange(6, state))?,
            attempt: row.get(7)?,
            failures: row.get(8)?,
            failures_max: row.get(9)?,
            created_at_ms: row.get(10)?,
            run_at_ms: row.get(11)?,
            expires_at_ms: row.get(12)?,
            queued_at_ms: row.get(13)?,
            started_at_ms: row.get(14)?,
            finished_at_ms: row.get(15)?,
            deadline_at_ms: row.get(16)?,
            owner: row.get::<_, Option<_>>(17)?.map(WorkerId::from_bytes),
            progress: row.get(18)?,
            error: row.get(19)?,
            result: match row.get::<_, Option<i64>>(20)? {
                Some(bytes) => Some(ResultHead {
                    bytes: bytes.cast_unsigned(),
                    head: row.get::<_, Option<_>>(21)?.unwrap_or_default(),
                }),
                None => None,
            },
            changed: row.get(22)?,
        })
    }

    /// The task, as others see it.
    pub(super) fn into_task(self, payload: Vec<u8>, follows: Option<TaskId>) -> Task {
        Task {
            id: self.id,
            kind: self.kind,
            endpoint: self.endpoint,
            payload,
            state: self.state,
            attempt: self.attempt,
            failures: self.failures,
            failures_max: self.failures_max,
            created_at_ms: self.created_at_ms,
            run_at_ms: self.run_at_ms,
            expires_at_ms: self.expires_at_ms,
            started_at_ms: self.started_at_ms,
            finished_at_ms: self.finished_at_ms,
            owner: self.owner,
            progress: self.progress,
            result: self.result,
            error: self.error,
            follows,
        }
    }

    /// It is pending again. Nobody owns it, and no deadline stands.
    pub(super) fn hand_back(&mut self) {
        self.state = TaskState::Pending;
        self.rest();
    }

    /// It has ended.
    pub(super) fn end(&mut self, state: TaskState, at_ms: Millis) {
        self.state = state;
        self.finished_at_ms = Some(at_ms);
        self.rest();
    }

    /// A failure more: the last one ends it, after any other it is due at `again_at_ms`.
    pub(super) fn fail(&mut self, reason: String, at_ms: Millis, again_at_ms: Option<Millis>) {
        self.count_failure(reason, at_ms);
        match again_at_ms {
            Some(run_at_ms) if self.failures < self.failures_max => {
                self.run_at_ms = run_at_ms;
                self.hand_back();
            }
            _ => self.end(TaskState::Failed, at_ms),
        }
    }

    /// An attempt has failed; so it has begun.
    pub(super) fn count_failure(&mut self, reason: String, at_ms: Millis) {
        self.failures = self.failures.saturating_add(1);
        self.error = Some(reason);
        self.started_at_ms.get_or_insert(at_ms);
    }

    /// Its time was over before it began.
    pub(super) fn miss(&mut self, at_ms: Millis, reason: String) {
        self.error = Some(reason);
        self.end(TaskState::Missed, at_ms);
    }

    /// It is given out once more.
    pub(super) fn give_out(&mut self, state: TaskState, owner: Option<WorkerId>, now_ms: Millis) {
        self.state = state;
        self.attempt = self.attempt.saturating_add(1);
        self.owner = owner;
        self.progress = 0;
        match state {
            TaskState::Queued => self.queued_at_ms = Some(now_ms),
            _ => self.started_at_ms = Some(now_ms),
        }
    }

    fn rest(&mut self) {
        self.owner = None;
        self.deadline_at_ms = None;
        self.queued_at_ms = None;
    }
}

/// A name; `None` for an empty text.
pub(super) fn name(row: &rusqlite::Row<'_>, index: usize) -> Result<Option<Name>> {
    let text: String = row.get(index)?;
    let wrong = |error| Error::FromSqlConversionFailure(index, Type::Text, Box::new(error));
    if text.is_empty() { Ok(None) } else { Name::try_from(text).map(Some).map_err(wrong) }
}

/// The stored form of an endpoint.
pub(super) fn endpoint_text(endpoint: Option<&Name>) -> &str {
    endpoint.map_or("", Name::as_str)
}
