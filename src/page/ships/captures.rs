//! The accounts of captures, those that run among them: newest first.

use std::cmp::Reverse;

use askama::Template;

use super::account::{Account, Figure};
use super::{Ships, in_address};
use crate::page::format::Moment;
use crate::page::view::{Focus, Fragment};
use crate::rooms::telemetry::order::Order;
use crate::store::{Filter, Task, TaskState};
use crate::task::TaskId;
use crate::tasks::page;

const ID: &str = "ships-captures";
/// Captures of a page.
const ROWS: usize = 20;
/// All but those that wait for their time.
const STATES: [TaskState; 6] = [
    TaskState::Queued,
    TaskState::Running,
    TaskState::Finished,
    TaskState::Failed,
    TaskState::Cancelled,
    TaskState::Missed,
];

#[derive(Template)]
#[template(path = "ships/captures.html", config = "src/page/askama.toml")]
struct Captures {
    rows: Vec<Row>,
    next: Option<TaskId>,
    is_later_page: bool,
}

struct Row {
    id: TaskId,
    ship: String,
    /// The same as it stands in an address.
    address: String,
    state: TaskState,
    began_at: Option<Moment>,
    /// When its window is over.
    until: Option<Moment>,
    figures: Option<[Figure; 8]>,
    error: Option<String>,
}

impl Row {
    fn new(task: Task) -> Self {
        let order = Order::read(&task.payload);
        let ship = order.as_ref().map_or_else(String::new, |order| order.ship_name.to_string());
        let result = task.result.filter(|_| task.state == TaskState::Finished);
        Self {
            id: task.id,
            address: in_address(&ship),
            ship,
            state: task.state,
            began_at: task.started_at_ms.map(Moment),
            until: order.map(|order| Moment(order.until_ms)),
            figures: result.and_then(|result| Account::read(&result)).map(|a| a.figures()),
            error: task.error,
        }
    }

    fn is_open(&self) -> bool {
        !self.state.is_terminal()
    }
}

impl Ships {
    pub(super) async fn captures(&self, focus: &Focus) -> Fragment {
        let before = focus.parsed("before");
        let filter = Filter {
            kind: Some(self.capture.clone()),
            states: STATES.to_vec(),
            endpoint: None,
            before,
            tasks_max: ROWS,
        };
        match page::read(self.store.as_ref(), filter, |task| Some(Row::new(task))).await {
            Ok(page::Page { items: mut rows, next }) => {
                // They may have been ordered long before they began.
                rows.sort_by_key(|row| Reverse(row.began_at.map(|began_at| began_at.0)));
                Fragment::of(ID, &Captures { rows, next, is_later_page: before.is_some() })
            }
            Err(error) => Fragment::trouble(ID, "Captures", &error.to_string()),
        }
    }
}
