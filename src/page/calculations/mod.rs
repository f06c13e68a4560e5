//! Factorials as R4 shows them: n, n!, queue time and work time, newest first, live.
//!
//! Focus: `status` (pending, finished, error), `before` (the last id of the page before).

use std::fmt;
use std::sync::Arc;

use askama::Template;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::format::{Count, Moment, Span};
use super::view::{Focus, Fragment, Sources, View};
use crate::rooms::calculations::item;
use crate::rooms::calculations::order::Order;
use crate::store::{Filter, Millis, Store, StoreError, Task, TaskState};
use crate::task::{Name, TaskId};
use crate::tasks::page;

/// Rows of a page.
const ROWS: usize = 50;

/// The view.
pub struct Calculations {
    /// Where the tasks are.
    pub store: Arc<dyn Store>,
    /// The kind of task that computes factorials.
    pub kind: Name,
    /// Digits that are shown before an output is shortened.
    pub output_length_max: usize,
}

impl fmt::Debug for Calculations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calculations").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl View for Calculations {
    fn name(&self) -> &'static str {
        "calculations"
    }

    fn sources(&self) -> Sources {
        Sources { store: true, ..Sources::default() }
    }

    fn choices(&self) -> &'static [&'static str] {
        &["status", "before"]
    }

    fn draw<'a>(&'a self, focus: &'a Focus) -> BoxFuture<'a, Vec<Fragment>> {
        async move {
            let (summary, table) = tokio::join!(self.summary(), self.table(focus));
            let shown = |id, fragment: Result<Fragment, StoreError>| {
                let trouble =
                    |error: StoreError| Fragment::trouble(id, "Calculations", &error.to_string());
                fragment.unwrap_or_else(trouble)
            };
            vec![shown(SUMMARY, summary), shown(TABLE, table)]
        }
        .boxed()
    }
}

const SUMMARY: &str = "calculations-summary";
const TABLE: &str = "calculations-table";

/// How many there are of each state, and whether anybody computes.
#[derive(Template)]
#[template(path = "calculations/summary.html", config = "src/page/askama.toml")]
struct Summary {
    waiting: Count,
    running: Count,
    finished: Count,
    /// Failed, cancelled or missed.
    others: Count,
    /// Some wait, and there is no worker.
    nobody_works: bool,
}

#[derive(Template)]
#[template(path = "calculations/table.html", config = "src/page/askama.toml")]
struct Table {
    rows: Vec<Row>,
    next: Option<TaskId>,
    status: &'static str,
    is_filtered: bool,
    is_later_page: bool,
}

/// A calculation.
struct Row {
    id: TaskId,
    input: Option<u64>,
    output: Option<String>,
    /// How many digits the output has.
    digits: Count,
    state: TaskState,
    /// Percent.
    progress: u16,
    error: Option<String>,
    created_at: Moment,
    /// When it was begun, if it runs.
    running_since: Option<Moment>,
    queue_time: Option<Span>,
    work_time: Option<Span>,
    can_be_cancelled: bool,
}

impl Row {
    fn new(task: &Task, output_length_max: usize) -> Self {
        let result = task.result.as_ref().filter(|_| task.state == TaskState::Finished);
        let started_at_ms: Option<Millis> = task.started_at_ms;
        let is_running = task.state == TaskState::Running;
        let ended_at_ms = task.finished_at_ms.filter(|_| task.state.is_terminal());
        let work = ended_at_ms.zip(started_at_ms).map(|(ended_ms, began_ms)| ended_ms - began_ms);
        let has_begun = is_running || task.state.is_terminal();
        let queue = started_at_ms.filter(|_| has_begun).map(|began| began - task.created_at_ms);
        Self {
            id: task.id,
            input: Order::read(&task.payload).map(|order| order.input),
            output: result.map(|head| item::shortened(head, output_length_max)),
            digits: Count(result.map_or(0, |head| head.bytes)),
            state: task.state,
            progress: task.progress / 10,
            error: item::error(task),
            created_at: Moment(task.created_at_ms),
            running_since: started_at_ms.filter(|_| is_running).map(Moment),
            queue_time: queue.map(Span),
            work_time: work.map(Span),
            can_be_cancelled: !task.state.is_terminal(),
        }
    }
}

impl Calculations {
    async fn summary(&self) -> Result<Fragment, StoreError> {
        let (counts, workers) = tokio::try_join!(self.store.counts(), self.store.workers())?;
        let of = |states: &[TaskState]| {
            let counts = counts.iter().filter(|count| count.kind == self.kind);
            counts.filter(|count| states.contains(&count.state)).map(|count| count.tasks).sum()
        };
        let waiting = of(&[TaskState::Pending, TaskState::Queued]);
        let summary = Summary {
            waiting: Count(waiting),
            running: Count(of(&[TaskState::Running])),
            finished: Count(of(&[TaskState::Finished])),
            others: Count(of(&[TaskState::Failed, TaskState::Cancelled, TaskState::Missed])),
            nobody_works: waiting > 0 && workers.is_empty(),
        };
        Ok(Fragment::of(SUMMARY, &summary))
    }

    async fn table(&self, focus: &Focus) -> Result<Fragment, StoreError> {
        let (status, states) = match focus.get("status") {
            Some("pending") => ("pending", item::states("pending")),
            Some("finished") => ("finished", item::states("finished")),
            Some("error") => ("error", item::states("error")),
            _ => ("", None),
        };
        let before = focus.parsed("before");
        let filter = Filter {
            kind: Some(self.kind.clone()),
            states: states.unwrap_or_default(),
            endpoint: None,
            before,
            tasks_max: ROWS,
        };
        let row = |task: Task| Some(Row::new(&task, self.output_length_max));
        let page = page::read(self.store.as_ref(), filter, row).await?;
        let table = Table {
            rows: page.items,
            next: page.next,
            status,
            is_filtered: !status.is_empty(),
            is_later_page: before.is_some(),
        };
        Ok(Fragment::of(TABLE, &table))
    }
}
