//! Tasks come in, and are cancelled or tried again.

use rusqlite::Result;

use super::read;
use super::row::Row;
use super::write::{Write, follow};
use crate::store::{Millis, NewTask, Submitted, Task, TaskState};
use crate::task::TaskId;

pub(super) fn submit(
    write: &mut Write<'_>,
    tasks: &[NewTask],
    now_ms: Millis,
) -> Result<Vec<Submitted>> {
    tasks.iter().map(|task| submit_one(write, task, now_ms)).collect()
}

pub(super) fn submit_one(
    write: &mut Write<'_>,
    task: &NewTask,
    now_ms: Millis,
) -> Result<Submitted> {
    if let Some(known) = write.find(task.id)? {
        let (known, payload) = write.row_and_payload(known.seq)?;
        let is_same =
            known.kind == task.kind && known.endpoint == task.endpoint && payload == task.payload;
        return Ok(if is_same { Submitted::Known } else { Submitted::Conflict });
    }
    let leader = match &task.key {
        Some(key) => write.leader(key)?,
        None => None,
    };
    write.insert(task, leader.as_ref(), now_ms)?;
    Ok(leader.map_or(Submitted::New, |leader| Submitted::Follows(leader.id)))
}

pub(super) fn cancel(
    write: &mut Write<'_>,
    id: TaskId,
    now_ms: Millis,
) -> Result<Option<TaskState>> {
    let Some(row) = write.find(id)? else { return Ok(None) };
    let before = row.state;
    if !before.is_terminal() {
        write.change(row, |row| {
            row.follows = None;
            row.end(TaskState::Cancelled, now_ms);
        })?;
        write.ring_news();
    }
    Ok(Some(before))
}

pub(super) fn retry(
    write: &mut Write<'_>,
    id: TaskId,
    now_ms: Millis,
) -> Result<Option<TaskState>> {
    let Some(row) = write.find(id)? else { return Ok(None) };
    let before = row.state;
    if !before.is_terminal() || before == TaskState::Finished {
        return Ok(Some(before));
    }
    // Another may do the same work by now, or have done it.
    let leader = match &row.key {
        Some(key) => write.leader(key)?,
        None => None,
    };
    write.change(row, |row| {
        row.failures = 0;
        row.error = None;
        row.progress = 0;
        row.finished_at_ms = None;
        row.run_at_ms = row.run_at_ms.min(now_ms);
        row.expires_at_ms = row.expires_at_ms.filter(|at| *at >= now_ms);
        row.hand_back();
        if let Some(leader) = &leader {
            follow(row, leader, leader.state);
        }
    })?;
    Ok(Some(before))
}

/// The task that does the work of this one: itself, or the one that it follows.
pub(super) fn worked(write: &Write<'_>, row: Row) -> Result<Row> {
    row.follows.map_or(Ok(row), |leader| write.row(leader))
}

pub(super) fn begin_outside(
    write: &mut Write<'_>,
    id: TaskId,
    at_ms: Millis,
    deadline_ms: Millis,
) -> Result<Option<Task>> {
    let Some(row) = write.find(id)? else { return Ok(None) };
    let row = worked(write, row)?;
    match (row.state, row.owner) {
        (TaskState::Pending | TaskState::Queued, _) => {
            write.change(row, |row| {
                row.queued_at_ms = None;
                row.deadline_at_ms = Some(deadline_ms);
                row.give_out(TaskState::Running, None, at_ms);
            })?;
            // Whoever takes it out of a queue must let it be.
            write.ring_news();
        }
        (TaskState::Running, None) => {
            write.change(row, |row| {
                row.attempt = row.attempt.saturating_add(1);
                row.deadline_at_ms = Some(deadline_ms);
            })?;
        }
        _ => {}
    }
    read::task(write.connection(), id)
}
