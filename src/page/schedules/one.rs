//! One schedule, with what was decided of its times and what came of each start.

use askama::Template;

use super::Schedules;
use super::row::{Outcome, Row, mark};
use crate::page::format::{Count, Moment};
use crate::page::view::{Focus, Fragment};
use crate::store::StoreError;
use crate::store::schedules::{Occurrence, ScheduleId};

const ID: &str = "schedules-one";
/// Times that are shown at most.
const TIMES: usize = 50;

#[derive(Template)]
#[template(path = "schedules/one.html", config = "src/page/askama.toml")]
struct One {
    row: Row,
    times: Vec<Time>,
    has_older: bool,
}

#[derive(Template)]
#[template(path = "schedules/none.html", config = "src/page/askama.toml")]
struct Nothing {
    is_asked: bool,
}

/// A due time, or several of which the same was decided.
struct Time {
    due: Moment,
    /// The last one, if they are several.
    last_due: Option<Moment>,
    count: Count,
    word: &'static str,
    mark: &'static str,
    reason: String,
    outcome: Outcome,
}

impl Time {
    fn new(occurrence: Occurrence) -> Self {
        let (times, run) = (occurrence.times, occurrence.run);
        let state = run.as_ref().map(|run| run.state.word());
        let word = state.unwrap_or_else(|| occurrence.decision.word());
        Self {
            due: Moment(times.due_at_ms),
            last_due: (times.count > 1).then_some(Moment(times.last_due_at_ms)),
            count: Count(times.count),
            word,
            mark: mark(word),
            reason: occurrence.reason.unwrap_or_default(),
            outcome: run.as_ref().map(Outcome::new).unwrap_or_default(),
        }
    }
}

impl Schedules {
    pub(super) async fn one(&self, focus: &Focus) -> Fragment {
        let Some(text) = focus.get("schedule") else {
            return Fragment::of(ID, &Nothing { is_asked: false });
        };
        let read = match text.parse() {
            Ok(id) => self.read(id).await,
            Err(_) => Ok(None),
        };
        match read {
            Ok(Some(one)) => Fragment::of(ID, &one),
            Ok(None) => Fragment::of(ID, &Nothing { is_asked: true }),
            Err(error) => Fragment::trouble(ID, "The schedule", &error.to_string()),
        }
    }

    async fn read(&self, id: ScheduleId) -> Result<Option<One>, StoreError> {
        let Some(schedule) = self.store.schedule(id).await? else { return Ok(None) };
        let row = Row::new(&schedule);
        let mut times = match row.recurs {
            // One more than is shown tells whether there are older ones.
            Some(_) => self.store.occurrences(id, None, TIMES + 1).await?,
            None => Vec::new(),
        };
        let has_older = times.len() > TIMES;
        times.truncate(TIMES);
        Ok(Some(One { row, times: times.into_iter().map(Time::new).collect(), has_older }))
    }
}
