//! Questions about schedules, which change nothing.

use std::collections::BTreeMap;

use tokio_postgres::Row;
use uuid::Uuid;

use super::error::DatabaseError;
use super::link::{Session, Values};
use super::row::{number, state, stored, task_id};
use crate::store::Millis;
use crate::store::schedules::{
    Decision, DueSchedules, LOOKED_AT_MAX, Occurrence, Run, Schedule, ScheduleFilter, ScheduleId,
    SchedulePage, ScheduleState, Times,
};
use crate::task::ResultHead;

/// What is shown of a task `t`.
macro_rules! run {
    () => {
        "t.state AS run_state, t.started_at_ms, t.finished_at_ms, t.error, t.result_bytes, \
         t.result_head "
    };
}

/// The schedules of a table or subquery `s`, each with its task `t`.
macro_rules! shown {
    ($from:expr, $rest:literal) => {
        concat!(
            "SELECT s.seq, s.id, s.label, s.plan, s.created_at_ms, s.state, s.next_at_ms, \
             s.ended_at_ms, s.task, ",
            run!(),
            "FROM ",
            $from,
            " s LEFT JOIN tasks t ON t.id = s.task ",
            $rest,
        )
    };
}

pub(super) fn schedule_uuid(id: ScheduleId) -> Uuid {
    Uuid::from_bytes(id.bytes())
}

fn run(row: &Row) -> Result<Option<Run>, DatabaseError> {
    let Some(state) = state(row.try_get("run_state")?)? else { return Ok(None) };
    let bytes: Option<i64> = row.try_get("result_bytes")?;
    let head: Option<Vec<u8>> = row.try_get("result_head")?;
    let result = |bytes| ResultHead {
        bytes: u64::try_from(bytes).unwrap_or_default(),
        head: head.unwrap_or_default(),
    };
    Ok(Some(Run {
        state,
        started_at_ms: row.try_get("started_at_ms")?,
        finished_at_ms: row.try_get("finished_at_ms")?,
        error: row.try_get("error")?,
        result: bytes.map(result),
    }))
}

/// A row of [`shown!`].
fn read(row: &Row) -> Result<Schedule, DatabaseError> {
    let run = run(row)?;
    let recurring = row.try_get::<_, Option<i16>>("state")?.map(|number| {
        let state = ScheduleState::from_number(i64::from(number));
        state.ok_or_else(|| DatabaseError::Damaged(format!("state {number}")))
    });
    // One that starts once is removed with its task.
    let once =
        || run.as_ref().map_or(ScheduleState::Ended, |run| ScheduleState::of_task(run.state));
    let id: Uuid = row.try_get("id")?;
    Ok(Schedule {
        id: ScheduleId::from_bytes(id.into_bytes()),
        label: row.try_get("label")?,
        plan: row.try_get("plan")?,
        created_at_ms: row.try_get("created_at_ms")?,
        state: recurring.transpose()?.unwrap_or_else(once),
        next_at_ms: row.try_get("next_at_ms")?,
        ended_at_ms: row.try_get("ended_at_ms")?,
        task: row.try_get::<_, Option<Uuid>>("task")?.map(task_id),
        run,
    })
}

const SCHEDULE: &str = shown!("schedules", "WHERE s.id = $1");

/// A schedule.
pub(super) async fn schedule(
    session: &Session,
    id: ScheduleId,
) -> Result<Option<Schedule>, DatabaseError> {
    let rows = session.rows(SCHEDULE, &[&schedule_uuid(id)]).await?;
    rows.first().map(read).transpose()
}

/// A page of the schedules that a condition leaves; and how many were looked at for it, and up to
/// where. Each condition has an index, and a statement of its own, so that it is used.
macro_rules! paged {
    ($condition:literal) => {
        [
            shown!(
                concat!(
                    "(SELECT * FROM schedules WHERE seq < $1 AND ",
                    $condition,
                    " ORDER BY seq DESC LIMIT $2)",
                ),
                "WHERE (s.state IS NULL AND t.state = ANY($4)) OR s.state = ANY($5) \
                 ORDER BY s.seq DESC LIMIT $6"
            ),
            concat!(
                "SELECT min(seq), count(*) FROM (SELECT seq FROM schedules WHERE seq < $1 AND ",
                $condition,
                " ORDER BY seq DESC LIMIT $2) s",
            ),
        ]
    };
}

const ALL: [&str; 2] = paged!("$3::text IS NULL");
const LABELLED: [&str; 2] = paged!("label = $3");
const RECURRING: [&str; 2] = paged!("state IS NOT NULL AND $3::text IS NULL");

/// Schedules, newest first.
pub(super) async fn schedules(
    session: &Session,
    filter: &ScheduleFilter,
) -> Result<SchedulePage, DatabaseError> {
    let all = ScheduleState::ALL;
    let states = if filter.states.is_empty() { all.as_slice() } else { filter.states.as_slice() };
    let small = |number: i64| i16::try_from(number).unwrap_or_default();
    let tasks = states.iter().flat_map(|state| state.of_tasks());
    let once: Vec<i16> = tasks.map(|state| small(state.number())).collect();
    let recurring: Vec<i16> = states.iter().filter_map(|state| state.number().map(small)).collect();
    let [page, looked_at] = match &filter.label {
        Some(_) => LABELLED,
        None if once.is_empty() => RECURRING,
        None => ALL,
    };
    let before = filter.before.unwrap_or(i64::MAX);
    let most = stored(LOOKED_AT_MAX);
    // One more than is wanted tells whether there is a next page.
    let limit = stored(filter.schedules_max.saturating_add(1));
    let values: &Values<'_> = &[&before, &most, &filter.label, &once, &recurring, &limit];
    let mut rows = session.rows(page, values).await?;
    let next = if rows.len() > filter.schedules_max {
        rows.truncate(filter.schedules_max);
        rows.last().map(|row| row.try_get("seq")).transpose()?
    } else {
        let found = session.rows(looked_at, values.get(..3).unwrap_or_default()).await?;
        let Some(found) = found.first() else { return Ok(SchedulePage::default()) };
        if found.try_get::<_, i64>(1)? < most { None } else { found.try_get(0)? }
    };
    let schedules = rows.iter().map(read).collect::<Result<_, _>>()?;
    Ok(SchedulePage { schedules, next })
}

const OCCURRENCES: &str = concat!(
    "SELECT o.due_at_ms, o.last_due_at_ms, o.times, o.decision, o.reason, o.decided_at_ms, \
     o.task, ",
    run!(),
    "FROM occurrences o LEFT JOIN tasks t ON t.id = o.task \
     WHERE o.schedule = $1 AND o.due_at_ms < $2 ORDER BY o.due_at_ms DESC LIMIT $3"
);

/// What was decided of the times of a schedule, latest first.
pub(super) async fn occurrences(
    session: &Session,
    id: ScheduleId,
    before_ms: Option<Millis>,
    occurrences_max: usize,
) -> Result<Vec<Occurrence>, DatabaseError> {
    let before_ms = before_ms.unwrap_or(Millis::MAX);
    let values: &Values<'_> = &[&schedule_uuid(id), &before_ms, &stored(occurrences_max)];
    let read = |row: &Row| {
        let decision: i16 = row.try_get("decision")?;
        let wrong = || DatabaseError::Damaged(format!("decision {decision}"));
        Ok(Occurrence {
            times: Times {
                due_at_ms: row.try_get("due_at_ms")?,
                last_due_at_ms: row.try_get("last_due_at_ms")?,
                count: number(row, "times")?,
            },
            decision: Decision::from_number(i64::from(decision)).ok_or_else(wrong)?,
            reason: row.try_get("reason")?,
            decided_at_ms: row.try_get("decided_at_ms")?,
            task: row.try_get::<_, Option<Uuid>>("task")?.map(task_id),
            run: run(row)?,
        })
    };
    session.rows(OCCURRENCES, values).await?.iter().map(read).collect()
}

const DUE: &str = shown!("schedules", "WHERE s.next_at_ms <= $1 ORDER BY s.next_at_ms LIMIT $2");
const DECIDED: &str = "SELECT s.id, o.due_at_ms FROM unnest($1::uuid[], $2::bigint[]) \
         AS s (id, next_at_ms) \
     JOIN occurrences o ON o.schedule = s.id AND o.due_at_ms BETWEEN s.next_at_ms AND $3 \
     ORDER BY s.id, o.due_at_ms";
const NEXT_DUE: &str = "SELECT min(next_at_ms) FROM schedules WHERE next_at_ms IS NOT NULL";

/// Recurring schedules that are due.
pub(super) async fn due(
    session: &Session,
    schedules_max: usize,
    now_ms: Millis,
) -> Result<DueSchedules, DatabaseError> {
    let rows = session.rows(DUE, &[&now_ms, &stored(schedules_max)]).await?;
    let schedules: Vec<Schedule> = rows.iter().map(read).collect::<Result<_, _>>()?;
    let mut decided: BTreeMap<ScheduleId, Vec<Millis>> = BTreeMap::new();
    if !schedules.is_empty() {
        let ids: Vec<Uuid> = schedules.iter().map(|due| schedule_uuid(due.id)).collect();
        let next: Vec<_> = schedules.iter().map(|due| due.next_at_ms).collect();
        for row in session.rows(DECIDED, &[&ids, &next, &now_ms]).await? {
            let id: Uuid = row.try_get(0)?;
            let times = decided.entry(ScheduleId::from_bytes(id.into_bytes())).or_default();
            times.push(row.try_get(1)?);
        }
    }
    let next = session.rows(NEXT_DUE, &[]).await?;
    let next_at_ms = next.first().map(|row| row.try_get(0)).transpose()?.flatten();
    Ok(DueSchedules { schedules, decided, next_at_ms })
}
