//! The list of schedules, newest first.

use askama::Template;

use super::Schedules;
use super::row::Row;
use crate::page::view::{Focus, Fragment};
use crate::store::schedules::{ScheduleFilter, ScheduleState};

const ID: &str = "schedules-list";
/// Rows of a page.
const ROWS: usize = 50;

#[derive(Template)]
#[template(path = "schedules/list.html", config = "src/page/askama.toml")]
struct List {
    rows: Vec<Row>,
    next: Option<i64>,
    states: Vec<Choice>,
    /// The state that is shown, if not all are.
    state: Option<ScheduleState>,
    is_later_page: bool,
}

/// A state to choose.
struct Choice {
    state: ScheduleState,
    is_chosen: bool,
}

impl Schedules {
    pub(super) async fn list(&self, focus: &Focus) -> Fragment {
        let state = focus.get("state").and_then(ScheduleState::from_word);
        let before: Option<i64> = focus.parsed("before");
        let filter = ScheduleFilter {
            label: None,
            states: state.into_iter().collect(),
            before,
            schedules_max: ROWS,
        };
        // One look, however many there are: this is drawn again and again.
        let page = match self.store.schedules(filter).await {
            Ok(page) => page,
            Err(error) => return Fragment::trouble(ID, "Schedules", &error.to_string()),
        };
        let choice = |one| Choice { state: one, is_chosen: state == Some(one) };
        let list = List {
            rows: page.schedules.iter().map(Row::new).collect(),
            next: page.next,
            states: ScheduleState::ALL.into_iter().map(choice).collect(),
            state,
            is_later_page: before.is_some(),
        };
        Fragment::of(ID, &list)
    }
}
