//! Schedules at rest: when which task is to be started, and what became of each time.
//!
//! A schedule starts once or again and again. One that starts once is a row and its task, made in
//! one transaction and of one name; the task waits for its time as any task does, so the schedule
//! stands as its task stands. One that recurs has a time at which it is due next. Whoever finds it
//! due decides, and [advances](Schedules::advance) it: the next time, the new tasks and what was
//! decided of each time are written together, and only if it still stood where it was found.
//!
//! What was asked for is kept as bytes, the plan, which mean something to who made the schedule.
//!
//! # Promises
//!
//! 1. A schedule and its task are there together or not at all.
//! 2. Of those who advance a schedule from the same time, one does.
//! 3. What was decided of a due time stands: it is started, skipped or missed, once.

mod id;
mod state;

use std::collections::BTreeMap;

pub use self::id::{NoScheduleId, ScheduleId};
pub use self::state::{Decision, ScheduleState};
use super::{Answer, Millis, NewTask, Submitted, TaskState};
use crate::task::{ResultHead, TaskId};

/// A schedule to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSchedule {
    /// Its name. One that is there already is left as it is, and told.
    pub id: ScheduleId,
    /// What it is about, to be looked for.
    pub label: Option<String>,
    /// What was asked for.
    pub plan: Vec<u8>,
    /// What it starts.
    pub start: Start,
}

/// What a schedule starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// This task, whose id is [`ScheduleId::task`].
    Once(NewTask),
    /// Whatever is decided at its times, the first of which this is.
    Recurring(Millis),
}

/// A schedule as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// Its name.
    pub id: ScheduleId,
    /// What it is about.
    pub label: Option<String>,
    /// What was asked for.
    pub plan: Vec<u8>,
    /// When it was made.
    pub created_at_ms: Millis,
    /// Where it stands.
    pub state: ScheduleState,
    /// When it is due next, if it recurs.
    pub next_at_ms: Option<Millis>,
    /// When it ended or was cancelled, if it recurs.
    pub ended_at_ms: Option<Millis>,
    /// Its task, or the last that it has started.
    pub task: Option<TaskId>,
    /// How that stands, unless it was removed for its age.
    pub run: Option<Run>,
}

/// What is known of a task that a schedule has started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Where it stands.
    pub state: TaskState,
    /// When its current or last attempt began.
    pub started_at_ms: Option<Millis>,
    /// When it ended for good.
    pub finished_at_ms: Option<Millis>,
    /// Why its last attempt, or it, failed.
    pub error: Option<String>,
    /// What came of it.
    pub result: Option<ResultHead>,
}

/// Which schedules to list, newest first.
#[derive(Debug, Clone, Default)]
pub struct ScheduleFilter {
    /// With this label.
    pub label: Option<String>,
    /// In one of these states; in any, if empty.
    pub states: Vec<ScheduleState>,
    /// From where the page before ended.
    pub before: Option<i64>,
    /// How many at most.
    pub schedules_max: usize,
}

/// Schedules, newest first. A page may be short, or empty, and not be the last: where few pass the
/// filter, the store does not look at all of them at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SchedulePage {
    /// Those that pass the filter.
    pub schedules: Vec<Schedule>,
    /// Where the next page begins, if there is or may be one.
    pub next: Option<i64>,
}

/// Recurring schedules whose time has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DueSchedules {
    /// The ones, the longest due first.
    pub schedules: Vec<Schedule>,
    /// Times of theirs that are due and of which something was decided before all the same, in
    /// their order: the clock has gone back since.
    pub decided: BTreeMap<ScheduleId, Vec<Millis>>,
    /// When the first of all is due, if one recurs.
    pub next_at_ms: Option<Millis>,
}

/// A due time, or several in a row of which the same was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Times {
    /// The first.
    pub due_at_ms: Millis,
    /// The last; the same, if it is one.
    pub last_due_at_ms: Millis,
    /// How many.
    pub count: u64,
}

/// What is decided now of due times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewOccurrence {
    /// Which.
    pub times: Times,
    /// What.
    pub decision: Decision,
    /// Why, for a person, unless it was started.
    pub reason: Option<&'static str>,
    /// What is started.
    pub task: Option<NewTask>,
}

/// What was decided of due times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occurrence {
    /// Which.
    pub times: Times,
    /// What.
    pub decision: Decision,
    /// Why, for a person.
    pub reason: Option<String>,
    /// When.
    pub decided_at_ms: Millis,
    /// What was started.
    pub task: Option<TaskId>,
    /// How that stands, unless it was removed for its age.
    pub run: Option<Run>,
}

/// A step of a recurring schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advance {
    /// The schedule.
    pub id: ScheduleId,
    /// When it was due next: if it is not any more, nothing is changed.
    pub from_ms: Millis,
    /// When it is due next from now on; `None`: it has ended. An earlier time than before takes
    /// back what was skipped or missed of times that are yet to come: the clock has gone back.
    pub next_at_ms: Option<Millis>,
    /// If the clock has gone back: what is left of an entry that reaches into what is yet to come.
    pub cut: Option<Times>,
    /// What is decided, by due time. Of a time of which something was decided before, nothing is.
    pub occurrences: Vec<NewOccurrence>,
    /// A task to be cancelled, if another is started in its place.
    pub replaced: Option<TaskId>,
}

/// Where schedules are kept: beside the tasks. Every change is synced before it is answered.
pub trait Schedules {
    /// Adds a schedule, and the task of one that starts once. What came of it: `Known` if it is
    /// there with the same label and plan, `Conflict` if its id is another schedule's or task's.
    fn add_schedule(&self, schedule: NewSchedule, now_ms: Millis) -> Answer<'_, Submitted>;

    /// A schedule.
    fn schedule(&self, id: ScheduleId) -> Answer<'_, Option<Schedule>>;

    /// Schedules, newest first.
    fn schedules(&self, filter: ScheduleFilter) -> Answer<'_, SchedulePage>;

    /// What was decided of the times of a schedule, latest first: `occurrences_max` at most, of
    /// times before `before_ms`.
    fn occurrences(
        &self,
        id: ScheduleId,
        before_ms: Option<Millis>,
        occurrences_max: usize,
    ) -> Answer<'_, Vec<Occurrence>>;

    /// Recurring schedules that are due.
    fn due_schedules(&self, schedules_max: usize, now_ms: Millis) -> Answer<'_, DueSchedules>;

    /// Goes on with recurring schedules; of each, whether it stood as expected.
    fn advance(&self, steps: Vec<Advance>, now_ms: Millis) -> Answer<'_, Vec<bool>>;

    /// Cancels a schedule: it starts nothing any more, and what it has started and has not ended
    /// (among its last [`CANCELLED_STARTS_MAX`] starts) is cancelled. One that has ended is left
    /// as it is. False if there is no such schedule.
    fn cancel_schedule(&self, id: ScheduleId, now_ms: Millis) -> Answer<'_, bool>;

    /// Cancels a schedule and removes it with all that was decided; its tasks stay until they are
    /// removed for their age. False if there is no such schedule.
    fn delete_schedule(&self, id: ScheduleId, now_ms: Millis) -> Answer<'_, bool>;
}

/// How many starts of a schedule are looked through for tasks to cancel.
pub const CANCELLED_STARTS_MAX: usize = 10_000;
/// How many schedules are looked at for a page, however few pass the filter.
pub(super) const LOOKED_AT_MAX: usize = 10_000;
/// How many occurrences are removed in one transaction.
pub(super) const OCCURRENCES_AT_ONCE: usize = 10_000;
