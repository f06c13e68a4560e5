//! Schedules, and what was decided of their times, as clients see them.

use chrono::{DateTime, SecondsFormat};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::plan::{Plan, Recurrence, Work};
use super::policy::{CatchUp, Overlap};
use super::rule::Steps;
use crate::rooms::telemetry::ship::ShipName;
use crate::store::schedules::{Occurrence, Run, Schedule, ScheduleId};
use crate::store::{Millis, Store, StoreError, TaskState};
use crate::task::{Name, ResultHead, TaskId};

/// Occurrences that are shown with their schedule.
const OCCURRENCES_SHOWN: usize = 10;

/// What was asked for: R2's members, and what is beyond them.
#[derive(Debug, Default, Serialize)]
pub(super) struct Asked {
    id: ScheduleId,
    #[serde(skip_serializing_if = "Option::is_none")]
    ship_name: Option<ShipName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<Name>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    task_id: Option<TaskId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lateness_seconds: Option<u32>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    recurrence: Option<Recurs>,
}

/// How it recurs.
#[derive(Debug, Serialize)]
struct Recurs {
    #[serde(skip_serializing_if = "Option::is_none")]
    cron: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_zone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    every_seconds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    catch_up: CatchUp,
    overlap: Overlap,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_at: Option<String>,
}

impl Asked {
    /// A schedule that starts, or has started last, this task, and is due next at this time.
    pub(super) fn new(
        id: ScheduleId,
        plan: Plan,
        task_id: Option<TaskId>,
        next_at_ms: Option<Millis>,
    ) -> Self {
        let (ship_name, duration, kind) = match plan.work {
            Work::Capture { ship_name, duration_seconds } => {
                (Some(ship_name), Some(duration_seconds), None)
            }
            Work::Task { kind, .. } => (None, None, Some(kind)),
        };
        let recurs = |recurrence: Recurrence| {
            let Recurrence { steps, until, catch_up, overlap } = recurrence;
            let (cron, time_zone, every_seconds) = match steps {
                Steps::Cron { expression, time_zone } => (Some(expression), Some(time_zone), None),
                Steps::Every { seconds } => (None, None, Some(seconds)),
            };
            let next_at = next_at_ms.and_then(date);
            Recurs { cron, time_zone, every_seconds, until, catch_up, overlap, next_at }
        };
        Self {
            id,
            ship_name,
            kind,
            start_time: plan.start_time,
            duration,
            task_id,
            lateness_seconds: plan.lateness_seconds,
            recurrence: plan.recurrence.map(recurs),
        }
    }
}

/// How a task stands that was started.
#[derive(Debug, Default, Serialize)]
struct Ran {
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<String>,
    /// The result as JSON; as a string, if it is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<Box<RawValue>>,
    /// Its length, if it is too long, or no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    result_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Ran {
    fn new(run: Run) -> Self {
        let result = run.result.filter(|_| run.state == TaskState::Finished);
        let outcome = result.as_ref().and_then(outcome);
        let result_bytes = result.filter(|_| outcome.is_none()).map(|head| head.bytes);
        Self {
            started_at: run.started_at_ms.and_then(date),
            finished_at: run.finished_at_ms.and_then(date),
            outcome,
            result_bytes,
            error: run.error,
        }
    }
}

fn outcome(head: &ResultHead) -> Option<Box<RawValue>> {
    let text = std::str::from_utf8(&head.head).ok().filter(|_| head.is_whole())?;
    RawValue::from_string(text.trim().to_owned()).or_else(|_| to_raw_value(text)).ok()
}

/// A schedule as lists show it. What is not so yet is left out.
#[derive(Debug, Serialize)]
pub struct View {
    #[serde(flatten)]
    asked: Asked,
    state: &'static str,
    created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<String>,
    #[serde(flatten)]
    ran: Ran,
}

impl View {
    /// How this schedule is shown.
    #[must_use]
    pub fn new(schedule: Schedule) -> Self {
        let Schedule { id, task, next_at_ms, .. } = schedule;
        let plan = Plan::stored(&schedule.plan);
        let recurs = plan.as_ref().is_some_and(|plan| plan.recurrence.is_some());
        let asked = plan.map(|plan| Asked::new(id, plan, task, next_at_ms));
        let asked = asked.unwrap_or_else(|| Asked { id, task_id: task, ..Asked::default() });
        Self {
            asked,
            state: schedule.state.word(),
            created_at: date(schedule.created_at_ms),
            ended_at: schedule.ended_at_ms.and_then(date),
            // What recurs has many: each stands with its time.
            ran: schedule.run.filter(|_| !recurs).map(Ran::new).unwrap_or_default(),
        }
    }
}

/// A schedule with all that is known of it.
#[derive(Debug, Serialize)]
pub struct Whole {
    #[serde(flatten)]
    view: View,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    occurrences: Option<Vec<Time>>,
}

impl Whole {
    /// What the store knows of a schedule, with the last times of one that recurs; `None` if there
    /// is none of this id.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn read(store: &dyn Store, id: ScheduleId) -> Result<Option<Self>, StoreError> {
        let Some(schedule) = store.schedule(id).await? else { return Ok(None) };
        let recurs = schedule.next_at_ms.is_some() || schedule.ended_at_ms.is_some();
        let occurrences = match recurs {
            true => Some(store.occurrences(id, None, OCCURRENCES_SHOWN).await?),
            false => None,
        };
        Ok(Some(Self::new(schedule, occurrences)))
    }

    fn new(schedule: Schedule, occurrences: Option<Vec<Occurrence>>) -> Self {
        let payload = Plan::stored(&schedule.plan).and_then(|plan| match plan.work {
            Work::Task { payload, .. } => Some(payload),
            Work::Capture { .. } => None,
        });
        let times = |all: Vec<Occurrence>| all.into_iter().map(Time::new).collect();
        Self { view: View::new(schedule), payload, occurrences: occurrences.map(times) }
    }
}

/// A due time, or several in a row, and what was decided.
#[derive(Debug, Serialize)]
pub(super) struct Time {
    due_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_due_at: Option<String>,
    count: u64,
    decision: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    decided_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    task_id: Option<TaskId>,
    /// That of the task, unless it was removed for its age.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    #[serde(flatten)]
    ran: Ran,
}

impl Time {
    pub(super) fn new(occurrence: Occurrence) -> Self {
        let times = occurrence.times;
        Self {
            due_at: date(times.due_at_ms),
            last_due_at: Some(times.last_due_at_ms).filter(|_| times.count > 1).and_then(date),
            count: times.count,
            decision: occurrence.decision.word(),
            reason: occurrence.reason,
            decided_at: date(occurrence.decided_at_ms),
            task_id: occurrence.task,
            state: occurrence.run.as_ref().map(|run| run.state.word()),
            ran: occurrence.run.map(Ran::new).unwrap_or_default(),
        }
    }
}

fn date(at_ms: Millis) -> Option<String> {
    let date = DateTime::from_timestamp_millis(at_ms)?;
    Some(date.to_rfc3339_opts(SecondsFormat::Millis, true))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn shown(result: &[u8], bytes: u64) -> Value {
        let run = Run {
            state: TaskState::Finished,
            started_at_ms: Some(0),
            finished_at_ms: None,
            error: None,
            result: Some(ResultHead { bytes, head: result.to_vec() }),
        };
        serde_json::to_value(Ran::new(run)).unwrap()
    }

    #[test]
    fn an_outcome_is_json_text_or_told_by_its_length() {
        let at = "1970-01-01T00:00:00.000Z";
        let account = br#"{"sent":7,"stored":7}"#;
        let expected = json!({"started_at": at, "outcome": {"sent": 7, "stored": 7}});
        assert_eq!(shown(account, account.len() as u64), expected);
        assert_eq!(shown(b"hello", 5), json!({"started_at": at, "outcome": "hello"}));
        assert_eq!(shown(b"hello", 9000), json!({"started_at": at, "result_bytes": 9000}));
        assert_eq!(shown(&[0xff], 1), json!({"started_at": at, "result_bytes": 1}));
    }

    #[test]
    fn a_new_capture_is_answered_with_the_members_of_old_and_no_others() {
        let members =
            r#""ship_name":"TARDIS","start_time":"2026-11-22T08:00:00+01:00","duration":60"#;
        let body = format!("{{{members}}}");
        let id = ScheduleId::derived(&["a"]);
        let plan = Plan::read(body.as_bytes()).unwrap();
        let asked = Asked::new(id, plan, Some(id.task()), None);
        let expected = format!(r#"{{"id":"{id}",{members},"task_id":"{id}"}}"#);
        assert_eq!(serde_json::to_string(&asked).unwrap(), expected);
    }
}
