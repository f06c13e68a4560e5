//! A calculation as clients see it: R4's item, and what is told beyond it.
//!
//! | state of the task | `status` | |
//! |---|---|---|
//! | pending, queued | `pending` | |
//! | running | `pending` | with `calcStartedAt` and `progress` |
//! | finished | `finished` | with `output` |
//! | failed, cancelled, missed | `error` | with `error`: why |
//!
//! `state` tells the exact one.

use chrono::DateTime;
use serde::Serialize;

use super::order::Order;
use crate::store::{Millis, Task, TaskState};
use crate::task::{ResultHead, TaskId};

/// An item.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Item {
    id: TaskId,
    input: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) output: Option<String>,
    status: &'static str,
    created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    calc_started_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<String>,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    progress: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Item {
    /// The item of a task, without its output.
    pub(super) fn without_output(task: &Task) -> Self {
        let state = task.state;
        let has_begun = state == TaskState::Running || state.is_terminal();
        let is_running = state == TaskState::Running;
        Self {
            id: task.id,
            input: Order::read(&task.payload).map(|order| order.input),
            output: None,
            status: status(state),
            created_at: date(task.created_at_ms),
            calc_started_at: task.started_at_ms.filter(|_| has_begun).and_then(date),
            finished_at: task.finished_at_ms.filter(|_| state.is_terminal()).and_then(date),
            state: state.word(),
            progress: is_running.then(|| f64::from(task.progress) / 1000.0),
            error: error(task),
        }
    }

    /// The item of a task; an output of more than `length_max` digits is shortened.
    pub(super) fn new(task: &Task, length_max: usize) -> Self {
        let result = task.result.as_ref().filter(|_| task.state == TaskState::Finished);
        Self {
            output: result.map(|head| shortened(head, length_max)),
            ..Self::without_output(task)
        }
    }
}

/// R4's word for a state.
const fn status(state: TaskState) -> &'static str {
    match state {
        TaskState::Pending | TaskState::Queued | TaskState::Running => "pending",
        TaskState::Finished => "finished",
        TaskState::Failed | TaskState::Cancelled | TaskState::Missed => "error",
    }
}

/// The states of R4's word.
#[must_use]
pub fn states(status: &str) -> Option<Vec<TaskState>> {
    let known = matches!(status, "pending" | "finished" | "error");
    known.then(|| {
        TaskState::ALL.into_iter().filter(|state| self::status(*state) == status).collect()
    })
}

/// Why a calculation has no output and will have none, or why it was tried again.
#[must_use]
pub fn error(task: &Task) -> Option<String> {
    let cancelled = || (task.state == TaskState::Cancelled).then(|| "cancelled".to_owned());
    match task.state {
        TaskState::Finished => None,
        _ => task.error.clone().or_else(cancelled),
    }
}

/// The first digits, then `e` and how many are left out: R4's form, which is no number.
#[must_use]
pub fn shortened(result: &ResultHead, length_max: usize) -> String {
    let length = length_max.min(ResultHead::BYTES_MAX);
    let shown = if result.bytes <= length as u64 {
        result.head.as_slice()
    } else {
        result.head.get(..length).unwrap_or(&result.head)
    };
    let text = String::from_utf8_lossy(shown);
    match result.bytes.saturating_sub(shown.len() as u64) {
        0 => text.into_owned(),
        left_out => format!("{text}e{left_out}"),
    }
}

/// As JavaScript prints a date in JSON: UTC with milliseconds.
fn date(at_ms: Millis) -> Option<String> {
    let date = DateTime::from_timestamp_millis(at_ms)?;
    Some(date.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A task as it stands at a given state, 42!.
    fn task(state: TaskState) -> Task {
        let id = TaskId::derived(&["42"]);
        let digits = b"1405006117752879898543142606244511569936384000000000".to_vec();
        Task {
            id,
            kind: "factorial".parse().unwrap(),
            endpoint: None,
            payload: serde_json::to_vec(&Order::new(id, 42)).unwrap(),
            state,
            attempt: 1,
            failures: 0,
            failures_max: 5,
            created_at_ms: 0,
            run_at_ms: 0,
            expires_at_ms: None,
            started_at_ms: Some(1),
            finished_at_ms: Some(1_795_332_600_250),
            owner: None,
            progress: 500,
            result: Some(ResultHead { bytes: 52, head: digits }),
            error: None,
            follows: None,
        }
    }

    fn shown(task: &Task) -> serde_json::Value {
        serde_json::to_value(Item::new(task, 20)).unwrap()
    }

    #[test]
    fn a_finished_item_is_r4s_and_42_is_shortened_as_there() {
        let task = task(TaskState::Finished);
        let expected = json!({
            "id": task.id.to_string(),
            "input": 42,
            "output": "14050061177528798985e32",
            "status": "finished",
            "createdAt": "1970-01-01T00:00:00.000Z",
            "calcStartedAt": "1970-01-01T00:00:00.001Z",
            "finishedAt": "2026-11-22T07:30:00.250Z",
            "state": "finished",
        });
        assert_eq!(shown(&task), expected);
    }

    #[test]
    fn each_state_has_r4s_word_and_nothing_that_is_not_so_yet() {
        for state in TaskState::ALL {
            let item = shown(&task(state));
            assert_eq!(item["state"], state.word());
            assert_eq!(item.get("output").is_some(), state == TaskState::Finished);
            assert_eq!(item.get("finishedAt").is_some(), state.is_terminal());
            let status = item["status"].as_str().unwrap();
            assert!(states(status).unwrap().contains(&state));
        }
        assert_eq!(shown(&task(TaskState::Running))["progress"], 0.5);
        assert_eq!(shown(&task(TaskState::Pending)).get("calcStartedAt"), None);
        assert_eq!(shown(&task(TaskState::Cancelled))["error"], "cancelled");
        assert_eq!(states("running"), None);
    }

    #[test]
    fn an_output_of_exactly_the_length_is_whole() {
        let head = |digits: usize| ResultHead { bytes: digits as u64, head: vec![b'1'; digits] };
        assert_eq!(shortened(&head(20), 20), "1".repeat(20));
        assert_eq!(shortened(&head(21), 20), "1".repeat(20) + "e1");
        let long = ResultHead { bytes: 1 << 20, head: vec![b'1'; 1024] };
        assert_eq!(shortened(&long, 5000), "1".repeat(1024) + "e1047552");
    }
}
