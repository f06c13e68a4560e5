//! Results come back: parts first, then how the attempt ended.

use rusqlite::{Result, params};

use super::row::Row;
use super::submit::worked;
use super::write::Write;
use crate::store::{Millis, Settled, Settlement, TaskState, back_off_ms};
use crate::task::{Attempt, Outcome, ResultHead, TaskId};

/// The task that waits for what comes of this attempt, or what a settlement of it comes to.
///
/// An attempt that is told by its number is one of the task itself; an outside worker knows of no
/// attempts, and may name a task that follows another one.
fn addressed(
    write: &Write<'_>,
    row: Option<Row>,
    attempt: Option<Attempt>,
) -> Result<Result<Row, Settled>> {
    let Some(row) = row else { return Ok(Err(Settled::Unknown)) };
    let (row, is_current) = match attempt {
        None => (worked(write, row)?, true),
        Some(attempt) => {
            let runs = matches!(row.state, TaskState::Queued | TaskState::Running);
            let is_current = runs && row.follows.is_none() && row.attempt == attempt;
            (row, is_current)
        }
    };
    let waits = is_current && !row.state.is_terminal();
    Ok(if waits { Ok(row) } else { Err(Settled::Late) })
}

pub(super) fn put_part(
    write: &mut Write<'_>,
    id: TaskId,
    attempt: Option<Attempt>,
    index: u32,
    bytes: &[u8],
) -> Result<bool> {
    let row = write.find(id)?;
    let Ok(row) = addressed(write, row, attempt)? else { return Ok(false) };
    write
        .statement(
            "INSERT INTO part VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET bytes = excluded.bytes",
        )?
        .execute(params![row.seq, row.attempt, index, bytes])?;
    Ok(true)
}

pub(super) fn settle(write: &mut Write<'_>, settlements: &[Settlement]) -> Result<Vec<Settled>> {
    settlements.iter().map(|settlement| settle_one(write, settlement)).collect()
}

fn settle_one(write: &mut Write<'_>, settlement: &Settlement) -> Result<Settled> {
    let row = write
        .find(settlement.id)?
        .filter(|row| settlement.endpoint.is_none() || settlement.endpoint == row.endpoint);
    if let Outcome::Died { reason } = &settlement.outcome {
        return note_death(write, row, settlement, reason);
    }
    let row = match addressed(write, row, settlement.attempt)? {
        Ok(row) => row,
        Err(settled) => return Ok(settled),
    };
    if let Outcome::Finished(result) = &settlement.outcome
        && !has_parts(write, &row, result)?
    {
        return Ok(Settled::PartsMissing);
    }
    if settlement.attempt.is_none() {
        // A worker of ours may run it.
        write.ring_news();
    }
    write.change(row, |row| {
        if row.state == TaskState::Queued || row.started_at_ms.is_none() {
            let began_at_ms = settlement.began_at_ms;
            row.started_at_ms = began_at_ms.map(|at_ms| at_ms.max(row.created_at_ms));
        }
        let earliest_ms = row.started_at_ms.unwrap_or(row.created_at_ms);
        end_attempt(row, &settlement.outcome, settlement.at_ms.max(earliest_ms));
    })?;
    Ok(Settled::Applied)
}

/// A failure of an attempt, be it the current one or one before it.
fn note_death(
    write: &mut Write<'_>,
    row: Option<Row>,
    settlement: &Settlement,
    reason: &str,
) -> Result<Settled> {
    let Some(row) = row else { return Ok(Settled::Unknown) };
    let is_known = settlement.attempt.is_some_and(|attempt| attempt <= row.attempt);
    if row.state.is_terminal() || row.follows.is_some() || !is_known {
        return Ok(Settled::Late);
    }
    let runs = matches!(row.state, TaskState::Queued | TaskState::Running);
    let is_current = runs && settlement.attempt == Some(row.attempt);
    if !is_current {
        // The one that runs is to be told, should this end the task.
        write.ring_news();
    }
    write.change(row, |row| {
        let is_last = row.failures.saturating_add(1) >= row.failures_max;
        if is_current || is_last {
            let again_at_ms = back_off_ms(row.failures.saturating_add(1));
            let again_at_ms = settlement.at_ms.saturating_add(again_at_ms);
            row.fail(reason.to_owned(), settlement.at_ms, Some(again_at_ms));
        } else {
            row.count_failure(reason.to_owned(), settlement.at_ms);
        }
    })?;
    Ok(Settled::Applied)
}

fn has_parts(write: &Write<'_>, row: &Row, result: &ResultHead) -> Result<bool> {
    if result.is_whole() {
        return Ok(true);
    }
    let sql = "SELECT count(*), coalesce(sum(length(bytes)), 0) FROM part
               WHERE task = ?1 AND attempt = ?2 AND number < ?3";
    let bound = params![row.seq, row.attempt, result.parts().cast_signed()];
    let read = |row: &rusqlite::Row<'_>| Ok([row.get(0)?, row.get(1)?]);
    let found = write.statement(sql)?.query_row(bound, read)?.map(i64::cast_unsigned);
    Ok(found == [result.parts(), result.bytes])
}

fn end_attempt(row: &mut Row, outcome: &Outcome, at_ms: Millis) {
    match outcome {
        Outcome::Finished(result) => {
            row.result = Some(result.clone());
            row.error = None;
            row.progress = 1000;
            row.end(TaskState::Finished, at_ms);
        }
        Outcome::Failed { reason, is_final } => {
            let again_at_ms = at_ms.saturating_add(back_off_ms(row.failures.saturating_add(1)));
            row.fail(reason.clone(), at_ms, (!is_final).then_some(again_at_ms));
        }
        Outcome::Released | Outcome::Died { .. } => row.hand_back(),
        Outcome::Missed { reason } => row.miss(at_ms, reason.clone()),
    }
}
