//! A task as clients see it.

use chrono::{DateTime, SecondsFormat};
use serde::Serialize;

use crate::store::{Millis, Task};
use crate::task::{Attempt, Name, TaskId, WorkerId};

/// A task. What is not so yet is left out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct View {
    id: TaskId,
    kind: Name,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<Name>,
    state: &'static str,
    attempt: Attempt,
    failures: u32,
    failures_max: u32,
    progress: f64,
    created_at: Option<String>,
    run_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<WorkerId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    follows: Option<TaskId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
}

impl View {
    /// A task, without its payload.
    pub(super) fn new(task: Task) -> Self {
        Self {
            id: task.id,
            kind: task.kind,
            endpoint: task.endpoint,
            state: task.state.word(),
            attempt: task.attempt,
            failures: task.failures,
            failures_max: task.failures_max,
            progress: f64::from(task.progress) / 1000.0,
            created_at: date(task.created_at_ms),
            run_at: date(task.run_at_ms),
            expires_at: task.expires_at_ms.and_then(date),
            started_at: task.started_at_ms.and_then(date),
            finished_at: task.finished_at_ms.and_then(date),
            worker: task.owner,
            result_bytes: task.result.map(|head| head.bytes),
            error: task.error,
            follows: task.follows,
            payload: None,
        }
    }

    /// A task with its payload, as text.
    pub(super) fn with_payload(task: Task) -> Self {
        let payload = String::from_utf8_lossy(&task.payload).into_owned();
        Self { payload: Some(payload), ..Self::new(task) }
    }
}

fn date(at_ms: Millis) -> Option<String> {
    let date = DateTime::from_timestamp_millis(at_ms)?;
    Some(date.to_rfc3339_opts(SecondsFormat::Millis, true))
}
