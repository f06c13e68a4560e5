//! A schedule, and how a start of it went, in words.

use std::fmt;

use crate::page::format::{Bytes, Moment, Span};
use crate::page::ships::account::{Account, Figure};
use crate::rooms::schedules::outline::{Outline, Recurs, Subject};
use crate::store::TaskState;
use crate::store::schedules::{Run, Schedule, ScheduleId, ScheduleState};

/// Characters of a result that are shown of it.
const RESULT_CHARACTERS: usize = 200;

/// A schedule.
pub(super) struct Row {
    pub(super) id: ScheduleId,
    /// The ship, or the kind of task.
    pub(super) what: String,
    /// How long it captures, if it does.
    pub(super) duration: Option<Span>,
    pub(super) state: ScheduleState,
    pub(super) mark: &'static str,
    /// When it starts, if it starts once.
    pub(super) start: Option<Moment>,
    /// How it recurs, if it does.
    pub(super) recurs: Option<Words>,
    pub(super) next: Option<Moment>,
    pub(super) until: Option<Moment>,
    pub(super) created: Moment,
    /// That of its only start.
    pub(super) outcome: Outcome,
    pub(super) can_be_cancelled: bool,
}

impl Row {
    pub(super) fn new(schedule: &Schedule) -> Self {
        let outline = Outline::of(schedule);
        let outline = outline.as_ref();
        let recurs = outline.and_then(|outline| outline.recurs.clone()).map(Words);
        let run = schedule.run.as_ref().filter(|_| recurs.is_none());
        let state = schedule.state;
        Self {
            id: schedule.id,
            what: outline.map_or_else(|| "what cannot be read".to_owned(), what),
            duration: outline.and_then(Outline::duration_ms).map(Span),
            state,
            mark: mark(state.word()),
            start: outline.and_then(|outline| outline.start_ms).map(Moment),
            recurs,
            next: schedule.next_at_ms.map(Moment),
            until: outline.and_then(|outline| outline.until_ms).map(Moment),
            created: Moment(schedule.created_at_ms),
            outcome: run.map(Outcome::new).unwrap_or_default(),
            can_be_cancelled: matches!(
                state,
                ScheduleState::Pending | ScheduleState::Running | ScheduleState::Active
            ),
        }
    }
}

/// The ship, or the kind of task.
pub(super) fn what(outline: &Outline) -> String {
    match &outline.subject {
        Subject::Ship { name, .. } => name.clone(),
        Subject::Kind(kind) => format!("task {kind}"),
    }
}

/// How something recurs.
pub(super) struct Words(pub(super) Recurs);

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Recurs::Every(1) => f.write_str("every second"),
            Recurs::Every(seconds) => write!(f, "every {seconds} s"),
            Recurs::Cron { expression, time_zone } => write!(f, "{expression} ({time_zone})"),
        }
    }
}

/// What tells a state from others without a colour.
pub(super) fn mark(state: &str) -> &'static str {
    match state {
        "pending" | "queued" => "○",
        "active" => "↻",
        "running" | "started" => "▶",
        "finished" | "ended" => "✓",
        "failed" => "✗",
        "missed" => "!",
        "skipped" => "»",
        _ => "–",
    }
}

/// What came of a start.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) began: Option<Moment>,
    pub(super) ended: Option<Moment>,
    pub(super) account: Option<Account>,
    pub(super) figures: Vec<Figure>,
    /// A result that is no account.
    pub(super) text: String,
    pub(super) error: String,
}

impl Outcome {
    pub(super) fn new(run: &Run) -> Self {
        let result = run.result.as_ref().filter(|_| run.state == TaskState::Finished);
        let account = result.and_then(Account::read);
        let text = result.filter(|_| account.is_none()).map(|result| {
            match std::str::from_utf8(&result.head) {
                Ok(text) if result.is_whole() => shortened(text),
                _ => Bytes(result.bytes).to_string(),
            }
        });
        Self {
            began: run.started_at_ms.map(Moment),
            ended: run.finished_at_ms.map(Moment),
            account,
            figures: account.map(|account| account.figures().to_vec()).unwrap_or_default(),
            text: text.unwrap_or_default(),
            error: run.error.clone().unwrap_or_default(),
        }
    }

    /// In a few words; nothing, if nothing has come of it.
    pub(super) fn words(&self) -> String {
        self.account.map_or_else(|| self.text.clone(), |account| account.words())
    }
}

fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(RESULT_CHARACTERS).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::ResultHead;

    #[test]
    fn what_came_of_a_start_is_an_account_a_text_or_a_length() {
        let came = |head: &[u8], bytes| {
            Outcome::new(&Run {
                state: TaskState::Finished,
                started_at_ms: Some(1),
                finished_at_ms: None,
                error: None,
                result: Some(ResultHead { bytes, head: head.to_vec() }),
            })
            .words()
        };
        assert_eq!(came(b"<b>hello</b>", 12), "<b>hello</b>");
        assert_eq!(came(b"hello", 9000), "8.7 KiB");
        assert_eq!(came(&[0xff], 1), "1 B");
        assert_eq!(came("ß".repeat(300).as_bytes(), 600).chars().count(), RESULT_CHARACTERS + 1);
        let account = br#"{"sent":1,"stored":1,"malformed":0,"truncated":0,"lost":0,"duplicates":0,
            "foreign":0,"dropped_by_kernel":0}"#;
        assert_eq!(came(account, account.len() as u64), "1 of 1 stored, 0 lost");
    }

    #[test]
    fn every_state_has_a_mark_of_its_own_beside_its_colour() {
        let marks: Vec<&str> =
            ["pending", "active", "running", "finished", "failed", "missed"].map(mark).to_vec();
        let different: std::collections::BTreeSet<_> = marks.iter().collect();
        assert_eq!(different.len(), marks.len());
    }
}
