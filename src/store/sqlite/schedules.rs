//! Schedules come in, go on, and end.

use rusqlite::{OptionalExtension, Result, params};

use super::write::Write;
use super::{SqliteStore, TASK_BYTES, planned, submit};
use crate::store::schedules::{
    Advance, CANCELLED_STARTS_MAX, Decision, DueSchedules, NewOccurrence, NewSchedule,
    OCCURRENCES_AT_ONCE, Occurrence, Schedule, ScheduleFilter, ScheduleId, SchedulePage,
    ScheduleState, Schedules, Start, Times,
};
use crate::store::{Answer, Millis, Submitted};
use crate::task::TaskId;

/// How many occurrences, and how many schedules, are removed for their age at once.
const PRUNED_MAX: i64 = 1000;

impl Schedules for SqliteStore {
    fn add_schedule(&self, schedule: NewSchedule, now_ms: Millis) -> Answer<'_, Submitted> {
        self.saw(now_ms);
        let bytes = TASK_BYTES + schedule.plan.len();
        self.write(bytes, move |write| add(write, &schedule, now_ms))
    }

    fn schedule(&self, id: ScheduleId) -> Answer<'_, Option<Schedule>> {
        self.read(move |connection| planned::schedule(connection, id))
    }

    fn schedules(&self, filter: ScheduleFilter) -> Answer<'_, SchedulePage> {
        self.read(move |connection| planned::schedules(connection, &filter))
    }

    fn occurrences(
        &self,
        id: ScheduleId,
        before_ms: Option<Millis>,
        occurrences_max: usize,
    ) -> Answer<'_, Vec<Occurrence>> {
        self.read(move |connection| {
            planned::occurrences(connection, id, before_ms, occurrences_max)
        })
    }

    fn due_schedules(&self, schedules_max: usize, now_ms: Millis) -> Answer<'_, DueSchedules> {
        self.saw(now_ms);
        self.read(move |connection| planned::due(connection, schedules_max, now_ms))
    }

    fn advance(&self, steps: Vec<Advance>, now_ms: Millis) -> Answer<'_, Vec<bool>> {
        self.saw(now_ms);
        let occurrences = steps.iter().map(|step| 1 + step.occurrences.len()).sum::<usize>();
        self.write(occurrences.saturating_mul(TASK_BYTES), move |write| {
            steps.iter().map(|step| advance(write, step, now_ms)).collect()
        })
    }

    fn cancel_schedule(&self, id: ScheduleId, now_ms: Millis) -> Answer<'_, bool> {
        self.write(0, move |write| Ok(cancel(write, id, now_ms)?.is_some()))
    }

    fn delete_schedule(&self, id: ScheduleId, now_ms: Millis) -> Answer<'_, bool> {
        Box::pin(async move {
            loop {
                match self.write(0, move |write| remove_piece(write, id, now_ms)).await? {
                    Removed::Unknown => return Ok(false),
                    Removed::Whole => return Ok(true),
                    Removed::Piece => {}
                }
            }
        })
    }
}

fn add(write: &mut Write<'_>, schedule: &NewSchedule, now_ms: Millis) -> Result<Submitted> {
    let NewSchedule { id, label, plan, start } = schedule;
    let sql = "SELECT label, plan FROM schedule WHERE id = ?1";
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
    let known: Option<(Option<String>, Vec<u8>)> =
        write.statement(sql)?.query_row([id.bytes()], read).optional()?;
    if let Some((known_label, known_plan)) = known {
        let is_same = known_label == *label && known_plan == *plan;
        return Ok(if is_same { Submitted::Known } else { Submitted::Conflict });
    }
    let (state, next_at_ms, task) = match start {
        Start::Once(task) => {
            if submit::submit_one(write, task, now_ms)? != Submitted::New {
                return Ok(Submitted::Conflict);
            }
            (None, None, Some(task.id.bytes()))
        }
        Start::Recurring(next_at_ms) => (ScheduleState::Active.number(), Some(*next_at_ms), None),
    };
    write
        .statement(
            "INSERT INTO schedule (id, label, plan, created_at, state, next_at, task)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![id.bytes(), label, plan, now_ms, state, next_at_ms, task])?;
    write.ring_plans();
    Ok(Submitted::New)
}

fn advance(write: &mut Write<'_>, step: &Advance, now_ms: Millis) -> Result<bool> {
    let sql = "SELECT seq FROM schedule WHERE id = ?1 AND next_at = ?2";
    let found = write
        .statement(sql)?
        .query_row(params![step.id.bytes(), step.from_ms], |row| row.get::<_, i64>(0));
    let Some(seq) = found.optional()? else { return Ok(false) };
    write.ring_plans();
    if step.next_at_ms.is_some_and(|next_at_ms| next_at_ms < step.from_ms) {
        let sql = "DELETE FROM occurrence WHERE schedule = ?1 AND due_at > ?2 AND decision <> 0";
        write.statement(sql)?.execute([seq, now_ms])?;
    }
    if let Some(Times { due_at_ms, last_due_at_ms, count }) = &step.cut {
        let sql = "UPDATE occurrence SET last_due_at = ?3, times = ?4
                   WHERE schedule = ?1 AND due_at = ?2 AND last_due_at > ?3";
        let bound = params![seq, due_at_ms, last_due_at_ms, count.cast_signed()];
        write.statement(sql)?.execute(bound)?;
    }
    let mut started = None;
    for occurrence in &step.occurrences {
        started = decide(write, seq, occurrence, now_ms)?.or(started);
    }
    // It may be the one that is there already, if the clock went back meanwhile.
    if let Some(replaced) = step.replaced.filter(|old| started.is_some_and(|new| new != *old)) {
        submit::cancel(write, replaced, now_ms)?;
    }
    let ended_at_ms = step.next_at_ms.is_none().then_some(now_ms);
    let state = match step.next_at_ms {
        Some(_) => ScheduleState::Active,
        None => ScheduleState::Ended,
    };
    write
        .statement(
            "UPDATE schedule SET next_at = ?2, state = ?3, ended_at = ?4, task = coalesce(?5, task)
             WHERE seq = ?1",
        )?
        .execute(params![
            seq,
            step.next_at_ms,
            state.number(),
            ended_at_ms,
            started.map(TaskId::bytes)
        ])?;
    Ok(true)
}

/// Writes down what is decided, unless something was before; what it has started.
fn decide(
    write: &mut Write<'_>,
    schedule: i64,
    occurrence: &NewOccurrence,
    now_ms: Millis,
) -> Result<Option<TaskId>> {
    let NewOccurrence { times, decision, reason, task } = occurrence;
    let task = task.as_ref();
    let sql = "INSERT INTO occurrence VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
               ON CONFLICT DO NOTHING";
    let is_new = write.statement(sql)?.execute(params![
        schedule,
        times.due_at_ms,
        times.last_due_at_ms,
        times.count.cast_signed(),
        decision.number(),
        reason,
        now_ms,
        task.map(|task| task.id.bytes()),
    ])? > 0;
    let Some(task) = task.filter(|_| is_new) else { return Ok(None) };
    submit::submit_one(write, task, now_ms)?;
    Ok(Some(task.id))
}

/// A schedule that there is.
struct Found {
    seq: i64,
    /// `None`, if it starts once.
    state: Option<i64>,
}

/// Cancels it, and what it has started; `None` if there is none.
fn cancel(write: &mut Write<'_>, id: ScheduleId, now_ms: Millis) -> Result<Option<Found>> {
    let sql = "SELECT seq, state FROM schedule WHERE id = ?1";
    let read = |row: &rusqlite::Row<'_>| Ok(Found { seq: row.get(0)?, state: row.get(1)? });
    let found = write.statement(sql)?.query_row([id.bytes()], read).optional()?;
    if found.is_some() {
        write.ring_plans();
    }
    match &found {
        None => {}
        Some(Found { state: None, .. }) => {
            submit::cancel(write, id.task(), now_ms)?;
        }
        Some(Found { seq, state }) => {
            let were_cancelled = cancel_starts(write, *seq, now_ms)?;
            if *state == ScheduleState::Active.number() || were_cancelled {
                let sql = "UPDATE schedule SET state = ?2, next_at = NULL, ended_at = ?3
                           WHERE seq = ?1";
                let cancelled = ScheduleState::Cancelled.number();
                write.statement(sql)?.execute(params![seq, cancelled, now_ms])?;
            }
        }
    }
    Ok(found)
}

/// Cancels what a recurring schedule has started and has not ended; whether there was something.
fn cancel_starts(write: &mut Write<'_>, schedule: i64, now_ms: Millis) -> Result<bool> {
    let sql = format!(
        "SELECT t.id FROM (SELECT task FROM occurrence WHERE schedule = ?1 AND decision = {}
             ORDER BY due_at DESC LIMIT {CANCELLED_STARTS_MAX}) o
         CROSS JOIN task t ON t.id = o.task WHERE t.state < 3",
        Decision::Started.number()
    );
    let mut statement = write.statement(&sql)?;
    let open: Result<Vec<[u8; 16]>> = statement.query_map([schedule], |row| row.get(0))?.collect();
    let open = open?;
    for id in &open {
        submit::cancel(write, TaskId::from_bytes(*id), now_ms)?;
    }
    Ok(!open.is_empty())
}

enum Removed {
    Unknown,
    /// There is more.
    Piece,
    Whole,
}

fn remove_piece(write: &mut Write<'_>, id: ScheduleId, now_ms: Millis) -> Result<Removed> {
    let Some(Found { seq, .. }) = cancel(write, id, now_ms)? else { return Ok(Removed::Unknown) };
    let sql = format!(
        "DELETE FROM occurrence WHERE schedule = ?1 AND due_at IN (SELECT due_at FROM occurrence
             WHERE schedule = ?1 LIMIT {OCCURRENCES_AT_ONCE})"
    );
    if write.statement(&sql)?.execute([seq])? == OCCURRENCES_AT_ONCE {
        return Ok(Removed::Piece);
    }
    write.statement("DELETE FROM schedule WHERE seq = ?1")?.execute([seq])?;
    Ok(Removed::Whole)
}

/// Removes what was decided before, and schedules that recur no more and of which nothing is left;
/// those that start once go with their tasks.
pub(super) fn prune(write: &Write<'_>, before_ms: Millis) -> Result<u64> {
    let occurrences = "DELETE FROM occurrence WHERE (schedule, due_at) IN (
        SELECT schedule, due_at FROM occurrence INDEXED BY decided WHERE decided_at < ?1
        LIMIT ?2)";
    let schedules = "DELETE FROM schedule WHERE seq IN (
        SELECT seq FROM schedule s INDEXED BY over WHERE ended_at < ?1
        AND NOT EXISTS (SELECT 1 FROM occurrence o WHERE o.schedule = s.seq) LIMIT ?2)";
    let mut pruned = 0;
    for sql in [occurrences, schedules] {
        pruned += write.statement(sql)?.execute([before_ms, PRUNED_MAX])?;
    }
    Ok(pruned as u64)
}
