//! Signs of life, and what becomes of the tasks of those who give none.

use rusqlite::{Result, params};

use super::row::{Row, endpoint_text};
use super::write::Write;
use crate::store::{ATTEMPTS_PER_FAILURE, Beaten, CLOCKS_APART_MS, Millis, TaskState, WorkerBeat};
use crate::task::{Attempt, Beat, Name, TaskId, WorkerId};

/// How long a buried worker is remembered, so that it learns of it when it comes back.
const BURIED_KEPT_MS: Millis = 24 * 60 * 60 * 1000;

pub(super) fn is_buried(write: &Write<'_>, worker: WorkerId) -> Result<bool> {
    let sql = "SELECT 1 FROM worker WHERE id = ?1 AND buried_at IS NOT NULL";
    write.statement(sql)?.exists([worker.bytes()])
}

/// Counts a sign of life; a worker that owns tasks has signed at least once.
pub(super) fn sign(write: &Write<'_>, worker: WorkerId) -> Result<()> {
    let sql = "INSERT INTO worker VALUES (?1, 1, NULL)
               ON CONFLICT DO UPDATE SET beats = beats + 1";
    write.statement(sql)?.execute([worker.bytes()])?;
    Ok(())
}

pub(super) fn beat(
    write: &mut Write<'_>,
    worker: WorkerId,
    running: &[Beat],
    now_ms: Millis,
) -> Result<Beaten> {
    if is_buried(write, worker)? {
        let lost = running.iter().map(|beat| (beat.id, beat.attempt)).collect();
        return Ok(Beaten { is_buried: true, lost });
    }
    sign(write, worker)?;
    let mut lost = Vec::new();
    for beat in running {
        if !beat_one(write, worker, beat, now_ms)? {
            lost.push((beat.id, beat.attempt));
        }
    }
    Ok(Beaten { is_buried: false, lost })
}

/// False if the task is not the worker's.
fn beat_one(write: &mut Write<'_>, worker: WorkerId, beat: &Beat, now_ms: Millis) -> Result<bool> {
    let row = write.find(beat.id)?;
    let Some(row) = row.filter(|row| row.follows.is_none() && row.attempt == beat.attempt) else {
        return Ok(false);
    };
    match row.state {
        TaskState::Queued => {
            write.change(row, |row| {
                row.state = TaskState::Running;
                row.owner = Some(worker);
                row.queued_at_ms = None;
                row.started_at_ms = Some(now_ms);
                row.progress = beat.progress.min(1000);
            })?;
            Ok(true)
        }
        TaskState::Running if row.owner == Some(worker) => {
            if row.progress < beat.progress {
                write.change(row, |row| row.progress = beat.progress.min(1000))?;
            }
            Ok(true)
        }
        _ => Ok(false),
    }
}

pub(super) fn bury(write: &mut Write<'_>, dead: WorkerBeat, now_ms: Millis) -> Result<u64> {
    let sql = "UPDATE worker SET buried_at = ?3
               WHERE id = ?1 AND beats = ?2 AND buried_at IS NULL";
    let bound = params![dead.worker.bytes(), dead.beats.cast_signed(), now_ms];
    if write.statement(sql)?.execute(bound)? == 0 {
        return Ok(0);
    }
    let owned = owned(write, dead.worker)?;
    let tasks = owned.len() as u64;
    for row in owned {
        write.change(row, |row| {
            let attempts_max = row.failures_max.saturating_mul(ATTEMPTS_PER_FAILURE);
            // What was on its way to the broker has not been given out.
            let was_given_out = row.state == TaskState::Running;
            if was_given_out {
                row.error = Some("its worker was not heard of any more".to_owned());
            }
            if was_given_out && row.attempt >= attempts_max {
                row.end(TaskState::Failed, now_ms);
            } else {
                row.run_at_ms = row.run_at_ms.min(now_ms);
                row.hand_back();
            }
        })?;
    }
    write.ring_news();
    Ok(tasks)
}

pub(super) fn disown(
    write: &mut Write<'_>,
    worker: WorkerId,
    in_hand: &[(TaskId, Attempt)],
) -> Result<u64> {
    let mut tasks = 0;
    for row in owned(write, worker)? {
        if !in_hand.contains(&(row.id, row.attempt)) {
            write.change(row, Row::hand_back)?;
            tasks += 1;
        }
    }
    Ok(tasks)
}

pub(super) fn retire(write: &mut Write<'_>, worker: WorkerId) -> Result<()> {
    // Nobody would look for what it has left in spite of its promise.
    disown(write, worker, &[])?;
    let sql = "DELETE FROM worker WHERE id = ?1 AND buried_at IS NULL";
    write.statement(sql)?.execute([worker.bytes()])?;
    Ok(())
}

fn owned(write: &Write<'_>, worker: WorkerId) -> Result<Vec<Row>> {
    let sql = "SELECT seq FROM task INDEXED BY owned WHERE owner = ?1 ORDER BY seq";
    write.rows(sql, [worker.bytes()])
}

pub(super) fn requeue(
    write: &mut Write<'_>,
    endpoint: Option<&Name>,
    queued_before_ms: Millis,
    now_ms: Millis,
) -> Result<u64> {
    let sql = "SELECT seq FROM task INDEXED BY queued
               WHERE state = 1 AND follows IS NULL AND owner IS NULL
               AND (queued_at < ?1 OR queued_at > ?3) AND endpoint = ?2 ORDER BY seq";
    let too_late_ms = now_ms.saturating_add(CLOCKS_APART_MS);
    let rows = write.rows(sql, params![queued_before_ms, endpoint_text(endpoint), too_late_ms])?;
    let tasks = rows.len() as u64;
    for row in rows {
        write.change(row, Row::hand_back)?;
        write.ring_news();
    }
    Ok(tasks)
}

pub(super) fn forget_buried(write: &Write<'_>, now_ms: Millis) -> Result<()> {
    let sql = "DELETE FROM worker WHERE buried_at < ?1";
    write.statement(sql)?.execute([now_ms.saturating_sub(BURIED_KEPT_MS)])?;
    Ok(())
}
