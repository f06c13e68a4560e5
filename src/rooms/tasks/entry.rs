//! What is submitted: an array of entries, lines of them, or one alone.
//!
//! ```text
//! {"kind": "echo", "payload": …, "endpoint"?, "run_at"?, "expires_at"?, "key"?, "failures_max"?,
//!  "id"?}
//! ```
//!
//! A payload that is a JSON string is handed to the kind as the text it stands for; any other as
//! the JSON it was received as, byte by byte.

use std::borrow::Cow;

use axum::http::StatusCode;
use chrono::DateTime;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::store::{Millis, NewTask};
use crate::task::{Name, PAYLOAD_BYTES_MAX, TaskId};
use crate::web::{HttpError, printable};

/// The most entries of a request.
pub(super) const ENTRIES_MAX: usize = 10_000;
/// The most bytes of a key.
const KEY_BYTES_MAX: usize = 255;
/// After how many failures a task is given up, if its entry does not say.
const FAILURES_MAX_DEFAULT: u32 = 5;
/// The most that an entry may say.
const FAILURES_MAX_MAX: u32 = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    endpoint: Option<Name>,
    run_at: Option<String>,
    expires_at: Option<String>,
    key: Option<String>,
    failures_max: Option<u32>,
    id: Option<String>,
}

/// Why entries are refused: none of them was taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Wrong {
    /// 413.
    #[error("a request may have {ENTRIES_MAX} entries")]
    TooMany,
    /// 413.
    #[error("entry {0}: its payload has more than {PAYLOAD_BYTES_MAX} bytes")]
    PayloadTooLong(usize),
    /// 400.
    #[error("the body: {0}")]
    Body(String),
    /// 400.
    #[error("entry {0}: {1}")]
    Entry(usize, String),
}

impl From<Wrong> for HttpError {
    fn from(wrong: Wrong) -> Self {
        let status = match wrong {
            Wrong::TooMany | Wrong::PayloadTooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Wrong::Body(_) | Wrong::Entry(..) => StatusCode::BAD_REQUEST,
        };
        Self::new(status, printable(&wrong.to_string()))
    }
}

/// Reads a body: lines, if `is_lines`, else JSON. `new_id` names the entry at a place, if the entry
/// does not do it itself.
///
/// # Errors
/// The first entry that is wrong; places count from 0.
pub(super) fn read(
    body: &[u8],
    is_lines: bool,
    now_ms: Millis,
    new_id: impl Fn(usize) -> TaskId,
) -> Result<Vec<NewTask>, Wrong> {
    let text = std::str::from_utf8(body).map_err(|error| Wrong::Body(error.to_string()))?;
    let entries: Vec<&str> = if is_lines {
        text.lines().map(str::trim_ascii).filter(|line| !line.is_empty()).collect()
    } else if text.trim_ascii_start().starts_with('[') {
        let entries: Vec<&RawValue> =
            serde_json::from_str(text).map_err(|error| Wrong::Body(error.to_string()))?;
        entries.into_iter().map(RawValue::get).collect()
    } else {
        vec![text]
    };
    if entries.len() > ENTRIES_MAX {
        return Err(Wrong::TooMany);
    }
    let read = |(place, text): (usize, &str)| {
        let entry: Entry<'_> =
            serde_json::from_str(text).map_err(|error| Wrong::Entry(place, error.to_string()))?;
        new_task(entry, place, now_ms, &new_id)
    };
    entries.into_iter().enumerate().map(read).collect()
}

fn new_task(
    entry: Entry<'_>,
    place: usize,
    now_ms: Millis,
    new_id: impl Fn(usize) -> TaskId,
) -> Result<NewTask, Wrong> {
    let wrong = |text: &dyn std::fmt::Display| Wrong::Entry(place, text.to_string());
    let date = |name: &str, text: Option<String>| {
        let read = |text: String| DateTime::parse_from_rfc3339(&text);
        let date = text.map(read).transpose();
        let date = date.map_err(|error| wrong(&format!("{name} is no RFC 3339 time: {error}")))?;
        Ok(date.map(|date| date.timestamp_millis()))
    };
    let payload = payload(entry.payload).map_err(|error| wrong(&error))?;
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(Wrong::PayloadTooLong(place));
    }
    let run_at_ms = date("run_at", entry.run_at)?.unwrap_or(now_ms);
    let expires_at_ms = date("expires_at", entry.expires_at)?;
    if expires_at_ms.is_some_and(|expires_at_ms| expires_at_ms <= run_at_ms) {
        return Err(wrong(&"expires_at is not after run_at: it could never begin in time"));
    }
    if entry.key.as_ref().is_some_and(|key| !(1..=KEY_BYTES_MAX).contains(&key.len())) {
        return Err(wrong(&format!("key has 1 to {KEY_BYTES_MAX} bytes")));
    }
    let failures_max = entry.failures_max.unwrap_or(FAILURES_MAX_DEFAULT);
    if !(1..=FAILURES_MAX_MAX).contains(&failures_max) {
        return Err(wrong(&format!("failures_max is 1 to {FAILURES_MAX_MAX}")));
    }
    let id = entry.id.map(|id| id.parse()).transpose().map_err(|error| wrong(&error))?;
    Ok(NewTask {
        id: id.unwrap_or_else(|| new_id(place)),
        kind: entry.kind.parse().map_err(|error| wrong(&format!("kind: {error}")))?,
        endpoint: entry.endpoint,
        payload,
        run_at_ms,
        expires_at_ms,
        failures_max,
        key: entry.key,
        is_watched: false,
    })
}

fn payload(raw: Option<&RawValue>) -> Result<Vec<u8>, serde_json::Error> {
    let Some(raw) = raw.map(RawValue::get) else { return Ok(Vec::new()) };
    if raw.starts_with('"') {
        return serde_json::from_str::<String>(raw).map(String::into_bytes);
    }
    Ok(raw.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str, is_lines: bool) -> Result<Vec<NewTask>, Wrong> {
        read(body.as_bytes(), is_lines, 1000, |place| TaskId::derived(&[&place.to_string()]))
    }

    #[test]
    fn an_array_lines_and_one_alone_are_the_same() {
        let (one, two) = (r#"{"kind":"echo","payload":"a\n"}"#, r#"{"kind":"echo"}"#);
        let array = parse(&format!(" [{one} , {two}]"), false).unwrap();
        assert_eq!(parse(&format!("{one}\r\n\n {two}"), true), Ok(array.clone()));
        assert_eq!(parse(one, false), Ok(array[..1].to_vec()));
        assert_eq!(array[0].payload, b"a\n");
        assert_eq!(array[1].payload, b"");
        assert_eq!(array[1].id, TaskId::derived(&["1"]));
        assert_eq!((array[0].run_at_ms, array[0].failures_max), (1000, 5));
        assert_eq!(parse("[]", false), Ok(Vec::new()));
    }

    #[test]
    fn a_payload_of_json_is_kept_as_it_was_received() {
        for raw in [r#"{ "b" : 1.50, "a":[ ] }"#, "1e2", "true", "[1, 2]"] {
            let tasks = parse(&format!(r#"{{"kind":"echo","payload":{raw}}}"#), false).unwrap();
            assert_eq!(tasks[0].payload, raw.as_bytes());
        }
    }

    #[test]
    fn everything_an_entry_may_say_is_taken() {
        let body = r#"{"kind":"k","payload":1,"endpoint":"lab-1","key":"x","failures_max":1,
            "run_at":"1970-01-01T00:00:02Z","expires_at":"1970-01-01T00:00:03.5+00:00",
            "id":"019ab3f0-7c1e-7d8a-9f65-1f2e3d4c5b6a"}"#;
        let task = &parse(body, false).unwrap()[0];
        assert_eq!((task.run_at_ms, task.expires_at_ms), (2000, Some(3500)));
        assert_eq!(task.endpoint.as_ref().map(Name::as_str), Some("lab-1"));
        assert_eq!((task.key.as_deref(), task.failures_max), (Some("x"), 1));
        assert_eq!(task.id.to_string(), "019ab3f0-7c1e-7d8a-9f65-1f2e3d4c5b6a");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (entry, text) in [
            (r#"{}"#, "missing field `kind`"),
            (r#"{"kind":"a b"}"#, "a name has"),
            (r#"{"kind":"k","runat":"x"}"#, "unknown field `runat`"),
            (r#"{"kind":"k","run_at":"tomorrow"}"#, "run_at is no RFC 3339 time"),
            (r#"{"kind":"k","expires_at":"1970-01-01T00:00:01Z"}"#, "expires_at is not after"),
            (r#"{"kind":"k","key":""}"#, "key has"),
            (r#"{"kind":"k","failures_max":0}"#, "failures_max"),
            (r#"{"kind":"k","id":"7"}"#, "UUID"),
            (r#"{"kind":"k","endpoint":"a.b"}"#, "a name has"),
            ("7", "invalid type"),
        ] {
            let wrong = parse(&format!(r#"[{{"kind":"k"}},{entry}]"#), false).unwrap_err();
            assert!(wrong.to_string().starts_with("entry 1: "), "{wrong}");
            assert!(wrong.to_string().contains(text), "{entry}: {wrong}");
        }
        assert!(matches!(parse("[", false), Err(Wrong::Body(_))));
        assert!(matches!(parse("", false), Err(Wrong::Entry(0, _))));
        let long = format!(r#"{{"kind":"k","payload":"{}"}}"#, "x".repeat(PAYLOAD_BYTES_MAX + 1));
        assert_eq!(parse(&long, false), Err(Wrong::PayloadTooLong(0)));
        let many = "{\"kind\":\"k\"}\n".repeat(ENTRIES_MAX + 1);
        assert_eq!(parse(&many, true), Err(Wrong::TooMany));
    }
}
