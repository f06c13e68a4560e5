//! A task, printed: one line of JSON, a line of a table, or all of it for a person.

use std::io::{self, Write};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use chrono::{DateTime, SecondsFormat};
use serde::Serialize;

use crate::store::{Millis, Task, TaskState};
use crate::task::{Attempt, Permille, ResultHead, TaskId, WorkerId};
use crate::web::printable;

/// Bytes as text, if they are, or else in base64 (RFC 4648).
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Text(&'a str),
    Other { base64: String },
}

impl<'a> Content<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text),
            Err(_) => Self::Other { base64: BASE64_STANDARD.encode(bytes) },
        }
    }
}

/// The keys of the JSON: those of the HTTP API, each of them always there, and the result's head.
#[derive(Debug, Serialize)]
pub(super) struct Row<'a> {
    id: TaskId,
    kind: &'a str,
    endpoint: Option<&'a str>,
    state: &'static str,
    attempt: Attempt,
    failures: u32,
    failures_max: u32,
    progress: f64,
    created_at: String,
    run_at: String,
    expires_at: Option<String>,
    started_at: Option<String>,
    finished_at: Option<String>,
    worker: Option<WorkerId>,
    follows: Option<TaskId>,
    result_bytes: Option<u64>,
    /// The whole result if it is short, else its first kibibyte.
    result_head: Option<Content<'a>>,
    error: Option<&'a str>,
    payload: Content<'a>,
}

impl<'a> From<&'a Task> for Row<'a> {
    fn from(task: &'a Task) -> Self {
        let at = |ms: Millis| date(ms, SecondsFormat::Millis);
        Self {
            id: task.id,
            kind: task.kind.as_str(),
            endpoint: task.endpoint.as_ref().map(|endpoint| endpoint.as_str()),
            state: task.state.word(),
            attempt: task.attempt,
            failures: task.failures,
            failures_max: task.failures_max,
            progress: f64::from(task.progress) / 1000.0,
            created_at: at(task.created_at_ms),
            run_at: at(task.run_at_ms),
            expires_at: task.expires_at_ms.map(at),
            started_at: task.started_at_ms.map(at),
            finished_at: task.finished_at_ms.map(at),
            worker: task.owner,
            follows: task.follows,
            result_bytes: task.result.as_ref().map(|result| result.bytes),
            result_head: task.result.as_ref().map(|result| Content::new(&result.head)),
            error: task.error.as_deref(),
            payload: Content::new(&task.payload),
        }
    }
}

/// The head of the table.
pub(super) fn print_head(out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "{:<36}  {:<12}  {:<10}  {:<9}  {:>7} {:>6}  {:<20}  {:<20}  {:<20}  result or error",
        "id", "kind", "endpoint", "state", "attempt", "failed", "created", "started", "finished"
    )
}

/// A task as a line of the table.
pub(super) fn print_line(out: &mut impl Write, task: &Task) -> io::Result<()> {
    let endpoint = task.endpoint.as_ref().map(ToString::to_string).unwrap_or_default();
    let (id, kind, state) = (task.id.to_string(), task.kind.as_str(), task.state.word());
    let at = |ms: Option<Millis>| ms.map(|ms| date(ms, SecondsFormat::Secs)).unwrap_or_default();
    let line = format!(
        "{id:<36}  {kind:<12}  {endpoint:<10}  {state:<9}  {:>7} {:>6}  {:<20}  {:<20}  {:<20}  {}",
        task.attempt,
        task.failures,
        at(Some(task.created_at_ms)),
        at(task.started_at_ms),
        at(task.finished_at_ms),
        outcome(task)
    );
    writeln!(out, "{}", line.trim_end())
}

/// What came of it, or how far it is.
fn outcome(task: &Task) -> String {
    match (task.state, &task.result, &task.error) {
        (TaskState::Finished, Some(result), _) => format!("{} bytes", result.bytes),
        (TaskState::Running, ..) => percent(task.progress),
        // A handler's words may hold anything.
        (_, _, Some(error)) => printable(error),
        _ => String::new(),
    }
}

/// All that is known of a task, for a person.
pub(super) fn print_all(out: &mut impl Write, task: &Task) -> io::Result<()> {
    let mut line = |name: &str, text: String| match text.is_empty() {
        true => Ok(()),
        false => writeln!(out, "{name:<9} {text}"),
    };
    let at = |ms: Option<Millis>| ms.map(|ms| date(ms, SecondsFormat::Millis)).unwrap_or_default();
    let progress = match task.state {
        TaskState::Running => format!(", {}", percent(task.progress)),
        _ => String::new(),
    };
    line("id", task.id.to_string())?;
    line("kind", task.kind.to_string())?;
    line("endpoint", task.endpoint.as_ref().map(ToString::to_string).unwrap_or_default())?;
    line("state", format!("{}{progress}", task.state))?;
    line("attempt", task.attempt.to_string())?;
    line("failures", format!("{} of {}", task.failures, task.failures_max))?;
    line("created", at(Some(task.created_at_ms)))?;
    line("run at", at(Some(task.run_at_ms)))?;
    line("expires", at(task.expires_at_ms))?;
    line("started", at(task.started_at_ms))?;
    line("finished", at(task.finished_at_ms))?;
    line("worker", task.owner.as_ref().map(ToString::to_string).unwrap_or_default())?;
    line("follows", task.follows.as_ref().map(ToString::to_string).unwrap_or_default())?;
    line("error", task.error.as_deref().map(printable).unwrap_or_default())?;
    line("payload", described(&task.payload, task.payload.len() as u64))?;
    let result = task.result.as_ref();
    let shown = |ResultHead { bytes, head }: &ResultHead| described(head, *bytes);
    line("result", result.map(shown).unwrap_or_default())
}

/// So many bytes, and how they begin, if they are text.
fn described(head: &[u8], bytes: u64) -> String {
    // The head may end within a character.
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            let whole = head.get(..error.valid_up_to()).unwrap_or_default();
            std::str::from_utf8(whole).unwrap_or_default()
        }
        Err(_) => "",
    };
    match text.is_empty() {
        true => format!("{bytes} bytes"),
        false => format!("{bytes} bytes: {}", printable(text.trim_end())),
    }
}

fn percent(progress: Permille) -> String {
    format!("{}.{} %", progress / 10, progress % 10)
}

/// As RFC 3339 has it; nothing for what no calendar holds.
fn date(at_ms: Millis, format: SecondsFormat) -> String {
    let at = DateTime::from_timestamp_millis(at_ms);
    at.map(|at| at.to_rfc3339_opts(format, true)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn task() -> Task {
        Task {
            id: TaskId::derived(&["a"]),
            kind: "echo".parse().unwrap(),
            endpoint: None,
            payload: b"hello\n".to_vec(),
            state: TaskState::Failed,
            attempt: 3,
            failures: 2,
            failures_max: 5,
            created_at_ms: 0,
            run_at_ms: 0,
            expires_at_ms: None,
            started_at_ms: Some(1_795_332_600_250),
            finished_at_ms: None,
            owner: None,
            progress: 375,
            result: None,
            error: Some("bad\n\u{1b}[31m".to_owned()),
            follows: None,
        }
    }

    fn printed(print: impl Fn(&mut Vec<u8>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        print(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_others_wrote_does_not_reach_the_terminal_as_it_is() {
        let task = task();
        for text in [printed(|out| print_line(out, &task)), printed(|out| print_all(out, &task))] {
            assert!(text.contains(r"bad\n\u{1b}[31m"), "{text}");
            assert!(!text.contains('\u{1b}'), "{text}");
        }
    }

    #[test]
    fn columns_stand_below_their_heads() {
        let (head, line) = (printed(print_head), printed(|out| print_line(out, &task())));
        assert_eq!(head.find("started"), line.find("2026-11-22T07:30:00Z"));
        assert_eq!(head.find("result or"), line.find("bad"));
    }

    #[test]
    fn bytes_that_are_no_text_are_told_apart_from_text() {
        let mut task = task();
        let row = |task: &Task| serde_json::to_value(Row::from(task)).unwrap();
        assert_eq!(row(&task)["payload"], "hello\n");
        task.payload = vec![0xff, 0];
        assert_eq!(row(&task)["payload"], serde_json::json!({ "base64": "/wA=" }));
        let fields = row(&task).as_object().unwrap().len();
        assert_eq!(fields, 19, "every field is there, known or not");
    }

    #[test]
    fn a_head_that_ends_within_a_character_is_text_all_the_same() {
        assert_eq!(described("aß".get(..).unwrap().as_bytes(), 3), "3 bytes: aß");
        assert_eq!(described(&"aß".as_bytes()[..2], 9), "9 bytes: a");
        assert_eq!(described(&[0xff, b'a'], 2), "2 bytes");
        assert_eq!(percent(375), "37.5 %");
    }
}
