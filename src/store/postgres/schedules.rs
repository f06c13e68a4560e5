//! Schedules come in, go on, and end.

use std::collections::HashSet;
use std::sync::Arc;

use uuid::Uuid;

use super::error::DatabaseError;
use super::planned::{self, schedule_uuid};
use super::row::{stored, task_id, uuid};
use super::writer::Txn;
use super::{PostgresStore, submit, turn};
use crate::store::schedules::{
    Advance, CANCELLED_STARTS_MAX, DueSchedules, NewOccurrence, NewSchedule, OCCURRENCES_AT_ONCE,
    Occurrence, Schedule, ScheduleFilter, ScheduleId, SchedulePage, ScheduleState, Schedules,
    Start, Times,
};
use crate::store::{Answer, Millis, NewTask, Submitted};
use crate::task::TaskId;

impl Schedules for PostgresStore {
    fn add_schedule(&self, schedule: NewSchedule, now_ms: Millis) -> Answer<'_, Submitted> {
        self.saw(now_ms);
        let (bytes, schedule) = (schedule.plan.len(), Arc::new(schedule));
        Box::pin(self.writer.change(bytes, move |txn| {
            let schedule = Arc::clone(&schedule);
            Box::pin(async move { add(txn, &schedule, now_ms).await })
        }))
    }

    fn schedule(&self, id: ScheduleId) -> Answer<'_, Option<Schedule>> {
        Box::pin(self.ask(&self.reads, move |session| Box::pin(planned::schedule(session, id))))
    }

    fn schedules(&self, filter: ScheduleFilter) -> Answer<'_, SchedulePage> {
        Box::pin(async move {
            let filter = Arc::new(filter);
            self.ask(&self.lists, |session| {
                let filter = Arc::clone(&filter);
                Box::pin(async move { planned::schedules(session, &filter).await })
            })
            .await
        })
    }

    fn occurrences(
        &self,
        id: ScheduleId,
        before_ms: Option<Millis>,
        occurrences_max: usize,
    ) -> Answer<'_, Vec<Occurrence>> {
        Box::pin(self.ask(&self.reads, move |session| {
            Box::pin(planned::occurrences(session, id, before_ms, occurrences_max))
        }))
    }

    fn due_schedules(&self, schedules_max: usize, now_ms: Millis) -> Answer<'_, DueSchedules> {
        self.saw(now_ms);
        Box::pin(self.ask(&self.reads, move |session| {
            Box::pin(planned::due(session, schedules_max, now_ms))
        }))
    }

    fn advance(&self, steps: Vec<Advance>, now_ms: Millis) -> Answer<'_, Vec<bool>> {
        self.saw(now_ms);
        let steps = Arc::new(steps);
        self.change(move |txn| {
            let steps = Arc::clone(&steps);
            Box::pin(async move { advance_all(txn, &steps, now_ms).await })
        })
    }

    fn cancel_schedule(&self, id: ScheduleId, now_ms: Millis) -> Answer<'_, bool> {
        self.change(move |txn| Box::pin(cancel(txn, id, now_ms)))
    }

    fn delete_schedule(&self, id: ScheduleId, now_ms: Millis) -> Answer<'_, bool> {
        Box::pin(async move {
            let piece = || self.change(move |txn| Box::pin(remove_piece(txn, id, now_ms)));
            loop {
                match piece().await? {
                    Removed::Unknown => return Ok(false),
                    Removed::Whole => return Ok(true),
                    Removed::Piece => {}
                }
            }
        })
    }
}

fn small(state: ScheduleState) -> Option<i16> {
    state.number().and_then(|number| i16::try_from(number).ok())
}

const INSERT: &str = "INSERT INTO schedules (id, label, plan, created_at_ms, state, next_at_ms, \
     task) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING";
const KNOWN: &str = "SELECT label, plan FROM schedules WHERE id = $1";

async fn add(
    txn: &Txn,
    schedule: &NewSchedule,
    now_ms: Millis,
) -> Result<Submitted, DatabaseError> {
    let NewSchedule { id, label, plan, start } = schedule;
    let (state, next_at_ms, task) = match start {
        Start::Once(task) => (None, None, Some(task)),
        Start::Recurring(next_at_ms) => (small(ScheduleState::Active), Some(*next_at_ms), None),
    };
    let (id, task_id) = (schedule_uuid(*id), task.map(|task| uuid(task.id)));
    let values: &super::link::Values<'_> =
        &[&id, label, plan, &now_ms, &state, &next_at_ms, &task_id];
    // Who comes second with the same id waits here until the first has committed.
    if txn.execute(INSERT, values).await? > 0 {
        txn.ring_plans();
        let Some(task) = task else { return Ok(Submitted::New) };
        let submitted = submit::submit(txn, &[(task.clone(), now_ms)]).await?;
        if submitted.first() == Some(&Submitted::New) {
            return Ok(Submitted::New);
        }
        // The task is another's.
        txn.execute(REMOVE, &[&id]).await?;
        return Ok(Submitted::Conflict);
    }
    let known = txn.rows(KNOWN, &[&id]).await?;
    let Some(known) = known.first() else { return Ok(Submitted::Conflict) };
    let known: (Option<&str>, &[u8]) = (known.try_get(0)?, known.try_get(1)?);
    let is_same = known == (label.as_deref(), plan.as_slice());
    Ok(if is_same { Submitted::Known } else { Submitted::Conflict })
}

const GO_ON: &str = "UPDATE schedules SET next_at_ms = $3, state = $4, ended_at_ms = $5 \
     WHERE id = $1 AND next_at_ms = $2";
const STARTED: &str = "UPDATE schedules s SET task = t.task \
     FROM unnest($1::uuid[], $2::uuid[]) AS t (schedule, task) WHERE s.id = t.schedule";
const TAKE_BACK: &str =
    "DELETE FROM occurrences WHERE schedule = $1 AND due_at_ms > $2 AND decision <> 0";
const CUT: &str = "UPDATE occurrences SET last_due_at_ms = $3, times = $4 \
     WHERE schedule = $1 AND due_at_ms = $2 AND last_due_at_ms > $3";
const DECIDE: &str = "INSERT INTO occurrences (schedule, due_at_ms, last_due_at_ms, times, \
     decision, reason, decided_at_ms, task) \
     SELECT $1, o.due_at_ms, o.last_due_at_ms, o.times, o.decision, o.reason, $2, o.task \
     FROM unnest($3::bigint[], $4::bigint[], $5::bigint[], $6::smallint[], $7::text[], \
         $8::uuid[]) AS o (due_at_ms, last_due_at_ms, times, decision, reason, task) \
     ON CONFLICT DO NOTHING RETURNING due_at_ms";

/// As few statements as may be: each is a way to the database and back.
async fn advance_all(
    txn: &Txn,
    steps: &[Advance],
    now_ms: Millis,
) -> Result<Vec<bool>, DatabaseError> {
    let (mut stood, mut tasks) = (Vec::with_capacity(steps.len()), Vec::new());
    let (mut schedules, mut last) = (Vec::new(), Vec::new());
    for step in steps {
        let started = advance(txn, step, now_ms).await?;
        stood.push(started.is_some());
        let started = started.unwrap_or_default();
        if let Some(task) = started.last() {
            schedules.push(schedule_uuid(step.id));
            last.push(uuid(task.id));
            // It may be the one that is there already, if the clock went back meanwhile.
            if let Some(replaced) = step.replaced.filter(|replaced| *replaced != task.id) {
                turn::cancel(txn, replaced, now_ms).await?;
            }
        }
        tasks.extend(started.into_iter().map(|task| (task, now_ms)));
    }
    if !tasks.is_empty() {
        txn.execute(STARTED, &[&schedules, &last]).await?;
        submit::submit(txn, &tasks).await?;
    }
    Ok(stood)
}

/// What it starts, if the schedule stands where the step begins.
async fn advance(
    txn: &Txn,
    step: &Advance,
    now_ms: Millis,
) -> Result<Option<Vec<NewTask>>, DatabaseError> {
    let id = schedule_uuid(step.id);
    let state = match step.next_at_ms {
        Some(_) => small(ScheduleState::Active),
        None => small(ScheduleState::Ended),
    };
    let ended_at_ms = step.next_at_ms.is_none().then_some(now_ms);
    let values: &super::link::Values<'_> =
        &[&id, &step.from_ms, &step.next_at_ms, &state, &ended_at_ms];
    if txn.execute(GO_ON, values).await? == 0 {
        return Ok(None);
    }
    txn.ring_plans();
    if step.next_at_ms.is_some_and(|next_at_ms| next_at_ms < step.from_ms) {
        txn.execute(TAKE_BACK, &[&id, &now_ms]).await?;
    }
    if let Some(Times { due_at_ms, last_due_at_ms, count }) = &step.cut {
        txn.execute(CUT, &[&id, due_at_ms, last_due_at_ms, &stored(*count)]).await?;
    }
    decide(txn, id, &step.occurrences, now_ms).await.map(Some)
}

/// Writes down what is decided, but of times of which something was before; what it starts.
async fn decide(
    txn: &Txn,
    schedule: Uuid,
    occurrences: &[NewOccurrence],
    now_ms: Millis,
) -> Result<Vec<NewTask>, DatabaseError> {
    fn each<'a, T>(all: &'a [NewOccurrence], value: impl Fn(&'a NewOccurrence) -> T) -> Vec<T> {
        all.iter().map(value).collect()
    }
    if occurrences.is_empty() {
        return Ok(Vec::new());
    }
    let decision = |one: &NewOccurrence| i16::try_from(one.decision.number()).unwrap_or_default();
    let values: &super::link::Values<'_> = &[
        &schedule,
        &now_ms,
        &each(occurrences, |one| one.times.due_at_ms),
        &each(occurrences, |one| one.times.last_due_at_ms),
        &each(occurrences, |one| stored(one.times.count)),
        &each(occurrences, decision),
        &each(occurrences, |one| one.reason),
        &each(occurrences, |one| one.task.as_ref().map(|task| uuid(task.id))),
    ];
    let rows = txn.rows(DECIDE, values).await?;
    let new: HashSet<Millis> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    let is_new = |one: &&NewOccurrence| new.contains(&one.times.due_at_ms);
    Ok(occurrences.iter().filter(is_new).filter_map(|one| one.task.clone()).collect())
}

const LOCK: &str = "SELECT state FROM schedules WHERE id = $1 FOR UPDATE";
const END: &str = "UPDATE schedules SET state = $2, next_at_ms = NULL, ended_at_ms = $3 \
     WHERE id = $1";
const OPEN: &str = "SELECT t.id FROM (SELECT task FROM occurrences WHERE schedule = $1 \
         AND decision = 0 ORDER BY due_at_ms DESC LIMIT $2) AS o \
     JOIN tasks t ON t.id = o.task WHERE t.state IN (0, 1, 2)";

/// Cancels it, and what it has started; false if there is none.
async fn cancel(txn: &Txn, id: ScheduleId, now_ms: Millis) -> Result<bool, DatabaseError> {
    let found = txn.rows(LOCK, &[&schedule_uuid(id)]).await?;
    let Some(found) = found.first() else { return Ok(false) };
    txn.ring_plans();
    let Some(state) = found.try_get::<_, Option<i16>>(0)? else {
        turn::cancel(txn, id.task(), now_ms).await?;
        return Ok(true);
    };
    let open: &super::link::Values<'_> = &[&schedule_uuid(id), &stored(CANCELLED_STARTS_MAX)];
    let open = txn.rows(OPEN, open).await?;
    for row in &open {
        let task: TaskId = task_id(row.try_get::<_, Uuid>(0)?);
        turn::cancel(txn, task, now_ms).await?;
    }
    if Some(state) == small(ScheduleState::Active) || !open.is_empty() {
        let cancelled = small(ScheduleState::Cancelled);
        txn.execute(END, &[&schedule_uuid(id), &cancelled, &now_ms]).await?;
    }
    Ok(true)
}

enum Removed {
    Unknown,
    /// There is more.
    Piece,
    Whole,
}

const REMOVE_DECISIONS: &str = "DELETE FROM occurrences WHERE schedule = $1 AND due_at_ms = ANY \
     (ARRAY(SELECT due_at_ms FROM occurrences WHERE schedule = $1 ORDER BY due_at_ms LIMIT $2))";
const REMOVE: &str = "DELETE FROM schedules WHERE id = $1";

async fn remove_piece(txn: &Txn, id: ScheduleId, now_ms: Millis) -> Result<Removed, DatabaseError> {
    if !cancel(txn, id, now_ms).await? {
        return Ok(Removed::Unknown);
    }
    let id = schedule_uuid(id);
    let removed = txn.execute(REMOVE_DECISIONS, &[&id, &stored(OCCURRENCES_AT_ONCE)]).await?;
    if removed == OCCURRENCES_AT_ONCE as u64 {
        return Ok(Removed::Piece);
    }
    txn.execute(REMOVE, &[&id]).await?;
    Ok(Removed::Whole)
}

const PRUNE_ONCE: &str = "DELETE FROM schedules WHERE id = ANY($1) AND state IS NULL";
const PRUNE_DECISIONS: &str = "DELETE FROM occurrences o USING (SELECT schedule, due_at_ms \
         FROM occurrences WHERE decided_at_ms < $1 ORDER BY decided_at_ms LIMIT $2) AS old \
     WHERE o.schedule = old.schedule AND o.due_at_ms = old.due_at_ms";
const PRUNE_RECURRING: &str = "DELETE FROM schedules WHERE id = ANY (ARRAY(SELECT s.id \
         FROM schedules s WHERE s.ended_at_ms < $1 \
         AND NOT EXISTS (SELECT FROM occurrences o WHERE o.schedule = s.id) \
         ORDER BY s.ended_at_ms LIMIT $2 FOR UPDATE SKIP LOCKED))";

/// Removes what started the tasks that were removed, what was decided before, and schedules that
/// recur no more and of which nothing is left.
pub(super) async fn prune(
    txn: &Txn,
    removed: &[Uuid],
    before_ms: Millis,
    rows_max: i64,
) -> Result<u64, DatabaseError> {
    if !removed.is_empty() {
        txn.execute(PRUNE_ONCE, &[&removed]).await?;
    }
    let decisions = txn.execute(PRUNE_DECISIONS, &[&before_ms, &rows_max]).await?;
    Ok(decisions + txn.execute(PRUNE_RECURRING, &[&before_ms, &rows_max]).await?)
}
