//! `PUT /factorial/{id}`: what a worker outside of this program tells of a calculation.
//!
//! | it says | then |
//! |---|---|
//! | `calcStartedAt` | the calculation is its, for a time; saying it again prolongs that |
//! | `finishedAt` and `output` | the calculation is finished |
//! | `"status": "error"`, maybe `error` | the calculation it has begun has failed |
//! | anything else | nothing changes |
//!
//! What has ended is never overwritten: to say what is so already is answered 200, all else 409. A
//! body is received whole, and found sound, before anything is changed.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State as Shared;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use super::api::{Calculations, IdPath};
use super::order::Order;
use super::partial::{Partial, Scanner, Wrong};
use super::spool::Spool;
use crate::store::{Millis, Settled, Settlement, Task, TaskState};
use crate::task::{Attempt, Outcome, PART_BYTES, TaskId};
use crate::web::{HttpError, printable, refuse_coded};

/// How often it is tried again when the task changes hands while its result is stored.
const TRIES_MAX: usize = 3;
/// What one body holds in memory at most: a part that comes in, and one that goes out.
const HELD_BYTES_MAX: usize = 2 * PART_BYTES;
/// Why a calculation failed, if its worker does not say.
const NO_REASON: &str = "an outside worker has failed";

/// Answers a PUT with the item.
pub(super) async fn put(
    Shared(room): Shared<Arc<Calculations>>,
    path: IdPath,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, HttpError> {
    refuse_coded(&headers)?;
    let task = room.known(path).await?;
    let (partial, output) = receive(&room, &task, body).await?;
    // One of the same input does its work.
    let id = task.follows.unwrap_or(task.id);
    let change = Change { room: &room, id, partial: &partial };
    match partial.status.as_deref() {
        _ if partial.has_output => change.finish(&output).await?,
        Some("finished") => return Err(refused("a finished item needs its output")),
        Some("error") => change.fail().await?,
        None | Some("pending") if partial.finished_at_ms.is_some() => {
            return Err(refused("a finished item needs its output"));
        }
        None | Some("pending") if partial.started_at_ms.is_some() => change.begin().await?,
        None | Some("pending") => {}
        Some(_) => return Err(refused("status must be pending, finished or error")),
    }
    room.answer(&room.task(task.id).await?)
}

fn refused(text: impl Into<String>) -> HttpError {
    HttpError::new(StatusCode::BAD_REQUEST, text)
}

impl From<Wrong> for HttpError {
    fn from(wrong: Wrong) -> Self {
        let status = match wrong {
            Wrong::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        };
        Self::new(status, printable(&wrong.to_string()))
    }
}

/// Receives a body, and finds it sound.
async fn receive(
    room: &Calculations,
    task: &Task,
    body: Body,
) -> Result<(Partial, Spool), HttpError> {
    let digits_max = Order::read(&task.payload).map_or(0, |order| digits_max(order.input));
    let mut pieces = room.uploads.stream(body, HELD_BYTES_MAX)?;
    let mut scanner = Scanner::new();
    let mut output = Spool::new(&room.settings.scratch);
    while let Some(piece) = pieces.next().await? {
        let mut piece = piece.as_ref();
        while !piece.is_empty() {
            let digits = scanner.next_digits(&mut piece)?;
            if output.head().bytes + digits.len() as u64 > digits_max {
                return Err(refused("output has more digits than this factorial can have"));
            }
            output.push(digits).await.map_err(|error| no_scratch(&error))?;
        }
    }
    let partial = scanner.finish()?;
    let first = output.head().head.first();
    if partial.has_output && first.is_none_or(|digit| *digit == b'0') {
        return Err(refused("output must have digits, and not begin with 0"));
    }
    Ok((partial, output))
}

/// No factorial has more digits: n! is at most n to the power of n.
fn digits_max(input: u64) -> u64 {
    let digits = u64::from(input.checked_ilog10().unwrap_or(0)) + 1;
    input.saturating_mul(digits).max(1)
}

fn no_scratch(error: &io::Error) -> HttpError {
    let (status, text) = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            (StatusCode::INSUFFICIENT_STORAGE, "no room for the output; nothing was changed")
        }
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the output cannot be received now"),
    };
    HttpError::new(status, text).internal(error).retry_after(5)
}

fn conflict(state: TaskState) -> HttpError {
    let text = format!("the calculation is {state}: nothing was changed");
    HttpError::new(StatusCode::CONFLICT, text)
}

fn unsettled(detail: &str) -> HttpError {
    let text = "the calculation changed hands meanwhile; nothing was changed, try again";
    HttpError::new(StatusCode::SERVICE_UNAVAILABLE, text).internal(detail).retry_after(1)
}

/// A change of a task that an outside worker makes.
struct Change<'a> {
    room: &'a Calculations,
    id: TaskId,
    partial: &'a Partial,
}

impl Change<'_> {
    /// When something was, as the worker says; but not before the task nor in the future.
    fn at_ms(&self, said_ms: Option<Millis>, task: &Task) -> Millis {
        let now_ms = self.room.now_ms().max(task.created_at_ms);
        said_ms.unwrap_or(now_ms).clamp(task.created_at_ms, now_ms)
    }

    /// The attempt that an outside worker runs; `None` if a worker of ours does, or nobody.
    fn attempt(task: &Task) -> Option<Attempt> {
        let is_outside = task.state == TaskState::Running && task.owner.is_none();
        is_outside.then_some(task.attempt)
    }

    async fn begin(&self) -> Result<(), HttpError> {
        let task = self.room.task(self.id).await?;
        match task.state {
            // A worker that comes back after a crash will find out.
            TaskState::Finished => Ok(()),
            state if state.is_terminal() => Err(conflict(state)),
            // One of ours is at it: who is first, wins.
            TaskState::Running if task.owner.is_some() => Ok(()),
            _ => self.take(&task).await.map(drop),
        }
    }

    /// Makes the task that of an outside worker.
    async fn take(&self, task: &Task) -> Result<Task, HttpError> {
        let at_ms = self.at_ms(self.partial.started_at_ms, task);
        let timeout_ms = self.room.settings.outside_timeout.as_millis();
        let timeout_ms = Millis::try_from(timeout_ms).unwrap_or(Millis::MAX);
        let deadline_ms = self.room.now_ms().saturating_add(timeout_ms);
        let begun = self.room.store.begin_outside(self.id, at_ms, deadline_ms).await?;
        begun.ok_or_else(|| unsettled("the task is gone"))
    }

    async fn fail(&self) -> Result<(), HttpError> {
        let task = self.room.task(self.id).await?;
        let Some(attempt) = Self::attempt(&task) else {
            let is_so = task.state == TaskState::Failed;
            return if is_so { Ok(()) } else { Err(conflict(task.state)) };
        };
        let reason = printable(self.partial.error.as_deref().unwrap_or(NO_REASON));
        let outcome = Outcome::Failed { reason, is_final: true };
        match self.settle(&task, attempt, outcome).await? {
            Settled::Applied => Ok(()),
            _ => Err(unsettled("the failure came late")),
        }
    }

    async fn finish(&self, output: &Spool) -> Result<(), HttpError> {
        for tries in 0..TRIES_MAX {
            let mut task = self.room.task(self.id).await?;
            if tries > 0 && Self::attempt(&task).is_some() {
                // The newest counts. Else two would keep each other from it.
                return Err(unsettled("another result of it is being stored"));
            }
            // What comes in parts is an attempt of its own, lest the parts of two are mixed.
            let is_anew = Self::attempt(&task).is_none() || output.head().parts() > 0;
            if !task.state.is_terminal() && is_anew {
                task = self.take(&task).await?;
            }
            if task.state.is_terminal() {
                let is_so = self.is_result(&task, output).await?;
                return if is_so { Ok(()) } else { Err(conflict(task.state)) };
            }
            if self.put_parts(task.attempt, output).await? {
                let outcome = Outcome::Finished(output.head().clone());
                if self.settle(&task, task.attempt, outcome).await? == Settled::Applied {
                    return Ok(());
                }
            }
        }
        Err(unsettled("the result came late, again and again"))
    }

    /// False if the attempt is over.
    async fn put_parts(&self, attempt: Attempt, output: &Spool) -> Result<bool, HttpError> {
        for index in (0_u32..).take_while(|index| u64::from(*index) < output.head().parts()) {
            let part = output.part(index).await.map_err(|error| no_scratch(&error))?;
            if !self.room.store.put_part(self.id, Some(attempt), index, part).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the output is what the task's result is already.
    async fn is_result(&self, task: &Task, output: &Spool) -> Result<bool, HttpError> {
        let is_finished = task.state == TaskState::Finished;
        if !is_finished || task.result.as_ref() != Some(output.head()) {
            return Ok(false);
        }
        for index in (0_u32..).take_while(|index| u64::from(*index) < output.head().parts()) {
            let part = output.part(index).await.map_err(|error| no_scratch(&error))?;
            if self.room.store.part(self.id, index).await? != Some(part) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn settle(
        &self,
        task: &Task,
        attempt: Attempt,
        outcome: Outcome,
    ) -> Result<Settled, HttpError> {
        let at_ms = self.at_ms(self.partial.finished_at_ms, task);
        let (id, attempt) = (self.id, Some(attempt));
        let began_at_ms = self.partial.started_at_ms;
        let settlement = Settlement { id, attempt, endpoint: None, outcome, began_at_ms, at_ms };
        let settled = self.room.store.settle(vec![settlement]).await?;
        settled.first().copied().ok_or_else(|| unsettled("the store did not say"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_factorial_has_more_digits_than_its_bound() {
        // (n, digits of n!)
        for (input, digits) in
            [(0, 1), (1, 1), (9, 6), (42, 52), (1000, 2568), (10_000_000, 65_657_060)]
        {
            assert!(digits <= digits_max(input), "{input}");
        }
    }
}
