//! Factorials as R4 shows them: n, n!, queue time and work time, newest first, live.
//!
//! Focus: `status` (pending, finished, error), `before` (the last id of the page before).

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::format::{self, Moment, Span};
use super::view::{Focus, Fragment, Sources, View};
use crate::clock::Clock;
use crate::rooms::calculations::item;
use crate::rooms::calculations::order::Order;
use crate::service::presence::living;
use crate::store::{Count, Filter, Millis, Store, StoreError, Task, TaskState};
use crate::task::{Name, TaskId};
use crate::tasks::page;

/// Rows of a page.
const ROWS: usize = 50;
/// How long the counts are good for.
const COUNTED_EVERY: Duration = Duration::from_secs(1);
/// How long one is due before it is asked whether anybody computes, in milliseconds.
const OVERDUE_MS: Millis = 5000;

/// The view.
pub struct Calculations {
    /// Where the tasks are.
    pub store: Arc<dyn Store>,
    /// The kind of task that computes factorials.
    pub kind: Name,
    /// Digits that are shown before an output is shortened.
    pub output_length_max: usize,
    /// For what is due.
    pub clock: Arc<dyn Clock>,
    /// Where processes of this machine tell of themselves.
    pub state_dir: PathBuf,
    /// The last counts.
    pub counts: Counts,
}

/// How many tasks there are, asked for once for all who look, and again when it is old.
#[derive(Debug, Default)]
pub struct Counts(Mutex<Option<(Instant, Vec<Count>)>>);

impl Counts {
    async fn get(&self, store: &dyn Store) -> Result<Vec<Count>, StoreError> {
        let mut known = self.0.lock().await;
        if let Some((asked_at, counts)) = known.as_ref()
            && asked_at.elapsed() < COUNTED_EVERY
        {
            return Ok(counts.clone());
        }
        let counts = store.counts().await?;
        *known = Some((Instant::now(), counts.clone()));
        Ok(counts)
    }
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

const WAITING: [TaskState; 2] = [TaskState::Pending, TaskState::Queued];

const SUMMARY: &str = "calculations-summary";
const TABLE: &str = "calculations-table";

/// How many there are of each state, and whether anybody computes.
#[derive(Template)]
#[template(path = "calculations/summary.html", config = "src/page/askama.toml")]
struct Summary {
    waiting: format::Count,
    running: format::Count,
    finished: format::Count,
    /// Failed, cancelled or missed.
    others: format::Count,
    /// Some are due and none runs, and nobody here would compute them.
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
    digits: format::Count,
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
            digits: format::Count(result.map_or(0, |head| head.bytes)),
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
        let counts = self.counts.get(self.store.as_ref()).await?;
        let of = |states: &[TaskState]| {
            let counts = counts.iter().filter(|count| count.kind == self.kind);
            counts.filter(|count| states.contains(&count.state)).map(|count| count.tasks).sum()
        };
        let waiting = of(&WAITING);
        let running = of(&[TaskState::Running]);
        let may_be_stuck = waiting > 0 && running == 0;
        let summary = Summary {
            waiting: format::Count(waiting),
            running: format::Count(running),
            finished: format::Count(of(&[TaskState::Finished])),
            others: format::Count(of(&[
                TaskState::Failed,
                TaskState::Cancelled,
                TaskState::Missed,
            ])),
            nobody_works: may_be_stuck && self.is_overdue().await? && !self.is_staffed().await,
        };
        Ok(Fragment::of(SUMMARY, &summary))
    }

    /// Whether one of the latest that wait has been due for long.
    async fn is_overdue(&self) -> Result<bool, StoreError> {
        let filter = Filter {
            kind: Some(self.kind.clone()),
            states: WAITING.to_vec(),
            endpoint: None,
            before: None,
            tasks_max: ROWS,
        };
        let since_ms = self.clock.wall_ms().cast_signed().saturating_sub(OVERDUE_MS);
        Ok(self.store.tasks(filter).await?.iter().any(|task| task.run_at_ms <= since_ms))
    }

    /// Whether a process of this machine computes: a worker with nothing to do does not sign.
    async fn is_staffed(&self) -> bool {
        let (dir, kind) = (self.state_dir.clone(), self.kind.to_string());
        let looked = tokio::task::spawn_blocking(move || {
            let cards = living(&dir).unwrap_or_default();
            let mut parts = cards.iter().flat_map(|card| &card.parts);
            parts.any(|part| part.kinds.contains(&kind))
        });
        looked.await.unwrap_or(false)
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
