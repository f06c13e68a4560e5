//! Questions about schedules, which change nothing.

use std::collections::BTreeMap;

use rusqlite::types::Value;
use rusqlite::{Connection, Error, OptionalExtension, Result, params, params_from_iter};

use crate::store::schedules::{
    Decision, DueSchedules, LOOKED_AT_MAX, Occurrence, Run, Schedule, ScheduleFilter, ScheduleId,
    SchedulePage, ScheduleState, Times,
};
use crate::store::{Millis, TaskState};
use crate::task::{ResultHead, TaskId};

/// What is shown of a task `t`.
macro_rules! run {
    () => {
        "t.state, t.started_at, t.finished_at, t.error, t.result_bytes, t.result_head "
    };
}

/// The schedules of a table or subquery `s`, each with its task `t`.
macro_rules! shown {
    ($from:literal, $rest:literal) => {
        concat!(
            "SELECT s.seq, s.id, s.label, s.plan, s.created_at, s.state, s.next_at, s.ended_at, \
             s.task, ",
            run!(),
            "FROM ",
            $from,
            " s LEFT JOIN task t ON t.id = s.task ",
            $rest,
        )
    };
}

fn run(row: &rusqlite::Row<'_>, first: usize) -> Result<Option<Run>> {
    let Some(number) = row.get(first)? else { return Ok(None) };
    let wrong = || Error::IntegralValueOutOfRange(first, number);
    let bytes: Option<i64> = row.get(first + 4)?;
    let head: Option<Vec<u8>> = row.get(first + 5)?;
    let result =
        |bytes: i64| ResultHead { bytes: bytes.cast_unsigned(), head: head.unwrap_or_default() };
    Ok(Some(Run {
        state: TaskState::from_number(number).ok_or_else(wrong)?,
        started_at_ms: row.get(first + 1)?,
        finished_at_ms: row.get(first + 2)?,
        error: row.get(first + 3)?,
        result: bytes.map(result),
    }))
}

fn task_id(row: &rusqlite::Row<'_>, index: usize) -> Result<Option<TaskId>> {
    Ok(row.get::<_, Option<_>>(index)?.map(TaskId::from_bytes))
}

/// A row of [`shown!`].
fn read(row: &rusqlite::Row<'_>) -> Result<Schedule> {
    let run = run(row, 9)?;
    let recurring = row.get::<_, Option<i64>>(5)?.map(|number| {
        ScheduleState::from_number(number).ok_or(Error::IntegralValueOutOfRange(5, number))
    });
    // One that starts once is removed with its task.
    let once =
        || run.as_ref().map_or(ScheduleState::Ended, |run| ScheduleState::of_task(run.state));
    Ok(Schedule {
        id: ScheduleId::from_bytes(row.get(1)?),
        label: row.get(2)?,
        plan: row.get(3)?,
        created_at_ms: row.get(4)?,
        state: recurring.transpose()?.unwrap_or_else(once),
        next_at_ms: row.get(6)?,
        ended_at_ms: row.get(7)?,
        task: task_id(row, 8)?,
        run,
    })
}

pub(super) fn schedule(connection: &Connection, id: ScheduleId) -> Result<Option<Schedule>> {
    let sql = shown!("schedule", "WHERE s.id = ?1");
    connection.prepare_cached(sql)?.query_row([id.bytes()], read).optional()
}

pub(super) fn schedules(connection: &Connection, filter: &ScheduleFilter) -> Result<SchedulePage> {
    let (from, mut bound) = looked_at(filter);
    let passing = passing(&filter.states);
    // One more than is wanted tells whether there is a next page.
    let sql = format!(
        shown!("(SELECT * FROM schedule{})", "{} ORDER BY s.seq DESC LIMIT ?"),
        from, passing
    );
    let wanted = filter.schedules_max;
    bound.push(Value::Integer(i64::try_from(wanted.saturating_add(1)).unwrap_or(i64::MAX)));
    let numbered = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, read(row)?));
    let mut statement = connection.prepare_cached(&sql)?;
    let rows: Result<Vec<_>> = statement.query_map(params_from_iter(&bound), numbered)?.collect();
    let mut rows = rows?;
    let next = if rows.len() > wanted {
        rows.truncate(wanted);
        rows.last().map(|(seq, _)| *seq)
    } else {
        bound.pop();
        let last = format!("SELECT min(seq), count(*) FROM (SELECT seq FROM schedule{from})");
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get::<_, i64>(1)?));
        let (seq, looked_at) =
            connection.prepare_cached(&last)?.query_row(params_from_iter(&bound), read)?;
        if usize::try_from(looked_at).is_ok_and(|count| count < LOOKED_AT_MAX) { None } else { seq }
    };
    Ok(SchedulePage { schedules: rows.into_iter().map(|(_, schedule)| schedule).collect(), next })
}

/// What is looked at for a page, as the rest of a subquery, and its values.
fn looked_at(filter: &ScheduleFilter) -> (String, Vec<Value>) {
    let mut bound = Vec::new();
    let recur =
        |state: &ScheduleState| matches!(state, ScheduleState::Active | ScheduleState::Ended);
    let mut sql = match (&filter.label, filter.states.as_slice()) {
        (Some(label), _) => {
            bound.push(Value::Text(label.clone()));
            " INDEXED BY labelled WHERE label = ?".to_owned()
        }
        (None, [_, ..]) if filter.states.iter().all(recur) => {
            " INDEXED BY recurring WHERE state IS NOT NULL".to_owned()
        }
        _ => " NOT INDEXED WHERE true".to_owned(),
    };
    if let Some(before) = filter.before {
        sql += " AND seq < ?";
        bound.push(Value::Integer(before));
    }
    (sql + &format!(" ORDER BY seq DESC LIMIT {LOOKED_AT_MAX}"), bound)
}

/// The condition that a schedule is in one of these states.
fn passing(states: &[ScheduleState]) -> String {
    if states.is_empty() {
        return String::new();
    }
    let list = |numbers: Vec<i64>| {
        let texts: Vec<String> = numbers.iter().map(i64::to_string).collect();
        texts.join(", ")
    };
    let tasks = states.iter().flat_map(|state| state.of_tasks());
    let once = list(tasks.map(TaskState::number).collect());
    let recurring = list(states.iter().filter_map(|state| state.number()).collect());
    format!("WHERE (s.state IS NULL AND t.state IN ({once})) OR s.state IN ({recurring})")
}

pub(super) fn occurrences(
    connection: &Connection,
    id: ScheduleId,
    before_ms: Option<Millis>,
    occurrences_max: usize,
) -> Result<Vec<Occurrence>> {
    let sql = concat!(
        "SELECT o.due_at, o.last_due_at, o.times, o.decision, o.reason, o.decided_at, o.task, ",
        run!(),
        "FROM schedule s CROSS JOIN occurrence o ON o.schedule = s.seq
         LEFT JOIN task t ON t.id = o.task
         WHERE s.id = ?1 AND o.due_at < ?2 ORDER BY o.due_at DESC LIMIT ?3",
    );
    let read = |row: &rusqlite::Row<'_>| {
        let (times, decision): (i64, i64) = (row.get(2)?, row.get(3)?);
        let wrong = || Error::IntegralValueOutOfRange(3, decision);
        Ok(Occurrence {
            times: Times {
                due_at_ms: row.get(0)?,
                last_due_at_ms: row.get(1)?,
                count: times.cast_unsigned(),
            },
            decision: Decision::from_number(decision).ok_or_else(wrong)?,
            reason: row.get(4)?,
            decided_at_ms: row.get(5)?,
            task: task_id(row, 6)?,
            run: run(row, 7)?,
        })
    };
    let limit = i64::try_from(occurrences_max).unwrap_or(i64::MAX);
    let bound = params![id.bytes(), before_ms.unwrap_or(Millis::MAX), limit];
    connection.prepare_cached(sql)?.query_map(bound, read)?.collect()
}

pub(super) fn due(
    connection: &Connection,
    schedules_max: usize,
    now_ms: Millis,
) -> Result<DueSchedules> {
    let sql = shown!("schedule", "WHERE s.next_at <= ?1 ORDER BY s.next_at LIMIT ?2");
    let limit = i64::try_from(schedules_max).unwrap_or(i64::MAX);
    let mut statement = connection.prepare_cached(sql)?;
    let schedules: Result<Vec<Schedule>> =
        statement.query_map(params![now_ms, limit], read)?.collect();
    let schedules = schedules?;
    let mut decided = BTreeMap::new();
    for Schedule { id, next_at_ms, .. } in &schedules {
        let sql = "SELECT o.due_at FROM schedule s CROSS JOIN occurrence o ON o.schedule = s.seq
                   WHERE s.id = ?1 AND o.due_at BETWEEN ?2 AND ?3 ORDER BY o.due_at";
        let mut statement = connection.prepare_cached(sql)?;
        let found = statement
            .query_map(params![id.bytes(), next_at_ms, now_ms], |row| row.get(0))?
            .collect::<Result<Vec<Millis>>>()?;
        if !found.is_empty() {
            decided.insert(*id, found);
        }
    }
    let first = "SELECT min(next_at) FROM schedule WHERE next_at IS NOT NULL";
    let next_at_ms = connection.prepare_cached(first)?.query_row([], |row| row.get(0))?;
    Ok(DueSchedules { schedules, decided, next_at_ms })
}
