//! Due tasks are given out, to workers or to a dispatcher.

use rusqlite::{OptionalExtension, Result, params};

use super::row::endpoint_text;
use super::workers;
use super::write::Write;
use crate::store::{Claim, Claimed, Millis, TOO_LATE, Task, TaskState};
use crate::task::{Attempt, TaskId, WorkerId};

/// How often a claim that has found tasks that are too late looks for others: beyond that whoever
/// claims comes again, so that a heap of late ones does not hold up the rest.
const ROUNDS_MAX: usize = 4;

/// An endpoint, empty for any, and a kind.
type Lane = (String, String);

struct GiveOut {
    state: TaskState,
    owner: WorkerId,
    tasks_max: usize,
    now_ms: Millis,
}

pub(super) fn claim(write: &mut Write<'_>, claim: &Claim) -> Result<Claimed> {
    if workers::is_buried(write, claim.worker)? {
        return Ok(Claimed::default());
    }
    let endpoint = endpoint_text(claim.endpoint.as_ref());
    let mut kinds = claim.kinds.clone();
    kinds.sort_unstable();
    kinds.dedup();
    let lanes = kinds.into_iter().map(|kind| (endpoint.to_owned(), String::from(kind)));
    let how = GiveOut {
        state: TaskState::Running,
        owner: claim.worker,
        tasks_max: claim.tasks_max,
        now_ms: claim.now_ms,
    };
    give_out(write, &lanes.collect::<Vec<_>>(), &how)
}

pub(super) fn take_due(
    write: &mut Write<'_>,
    dispatcher: WorkerId,
    tasks_max: usize,
    now_ms: Millis,
) -> Result<Claimed> {
    if workers::is_buried(write, dispatcher)? {
        return Ok(Claimed::default());
    }
    let lanes = lanes(write)?;
    let how = GiveOut { state: TaskState::Queued, owner: dispatcher, tasks_max, now_ms };
    give_out(write, &lanes, &how)
}

pub(super) fn dispatched(write: &mut Write<'_>, tasks: &[(TaskId, Attempt)]) -> Result<()> {
    let sql = "UPDATE task SET owner = NULL WHERE id = ?1 AND attempt = ?2 AND state = 1";
    let mut statement = write.statement(sql)?;
    for (id, attempt) in tasks {
        statement.execute(params![id.bytes(), attempt])?;
    }
    Ok(())
}

fn give_out(write: &mut Write<'_>, lanes: &[Lane], how: &GiveOut) -> Result<Claimed> {
    let mut tasks: Vec<Task> = Vec::new();
    for _ in 0..ROUNDS_MAX {
        let wanted = how.tasks_max.saturating_sub(tasks.len());
        let due = due(write, lanes, wanted, how.now_ms)?;
        let found = due.len();
        for seq in due {
            tasks.extend(give_out_one(write, seq, how)?);
        }
        if found < wanted || tasks.len() >= how.tasks_max {
            break;
        }
    }
    if !tasks.is_empty() {
        workers::sign(write, how.owner)?;
    }
    Ok(Claimed { tasks, next_due_ms: next_due_ms(write, lanes)? })
}

fn give_out_one(write: &mut Write<'_>, seq: i64, how: &GiveOut) -> Result<Option<Task>> {
    let (row, payload) = write.row_and_payload(seq)?;
    if row.started_at_ms.is_none() && row.expires_at_ms.is_some_and(|at| at < how.now_ms) {
        write.change(row, |row| row.miss(how.now_ms, TOO_LATE.to_owned()))?;
        return Ok(None);
    }
    let row = write.change(row, |row| row.give_out(how.state, Some(how.owner), how.now_ms))?;
    Ok(Some(row.into_task(payload, None)))
}

/// The first due tasks of all lanes together.
fn due(write: &Write<'_>, lanes: &[Lane], wanted: usize, now_ms: Millis) -> Result<Vec<i64>> {
    let mut statement = write.statement(
        "SELECT run_at, seq FROM task INDEXED BY pending
         WHERE state = 0 AND follows IS NULL AND endpoint = ?1 AND kind = ?2 AND run_at <= ?3
         ORDER BY run_at, seq LIMIT ?4",
    )?;
    let wanted_rows = i64::try_from(wanted).unwrap_or(i64::MAX);
    let mut due: Vec<(Millis, i64)> = Vec::new();
    for (endpoint, kind) in lanes {
        let bound = params![endpoint, kind, now_ms, wanted_rows];
        let found = statement.query_map(bound, |row| Ok((row.get(0)?, row.get(1)?)))?;
        for row in found {
            due.push(row?);
        }
    }
    due.sort_unstable();
    Ok(due.into_iter().take(wanted).map(|(_, seq)| seq).collect())
}

fn next_due_ms(write: &Write<'_>, lanes: &[Lane]) -> Result<Option<Millis>> {
    let mut statement = write.statement(
        "SELECT run_at FROM task INDEXED BY pending
         WHERE state = 0 AND follows IS NULL AND endpoint = ?1 AND kind = ?2
         ORDER BY run_at LIMIT 1",
    )?;
    let mut next = None;
    for (endpoint, kind) in lanes {
        let first = statement.query_row(params![endpoint, kind], |row| row.get(0)).optional()?;
        next = [next, first].into_iter().flatten().min();
    }
    Ok(next)
}

/// The lanes in which something is pending, each found by one step in the index.
fn lanes(write: &Write<'_>) -> Result<Vec<Lane>> {
    let mut statement = write.statement(
        "SELECT endpoint, kind FROM task INDEXED BY pending
         WHERE state = 0 AND follows IS NULL AND (endpoint, kind) > (?1, ?2)
         ORDER BY endpoint, kind LIMIT 1",
    )?;
    let mut lanes: Vec<Lane> = Vec::new();
    loop {
        let (endpoint, kind) = lanes.last().map_or(("", ""), |lane| (&lane.0, &lane.1));
        let next = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
        match statement.query_row(params![endpoint, kind], next).optional()? {
            Some(lane) => lanes.push(lane),
            None => return Ok(lanes),
        }
    }
}
