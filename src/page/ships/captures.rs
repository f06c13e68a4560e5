//! The accounts of captures, those that run first, then the newest.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use askama::Template;
use futures_util::FutureExt;

use super::account::{Account, Figure};
use super::in_address;
use crate::page::format::Moment;
use crate::page::remembered::Remembered;
use crate::page::view::{Focus, Fragment};
use crate::rooms::telemetry::order::Order;
use crate::service::held;
use crate::store::{Bells, Filter, Store, StoreError, Task, TaskState};
use crate::task::{Name, TaskId};
use crate::tasks::page;

const ID: &str = "ships-captures";
/// Captures of a page, and those that run and stand before the first.
const ROWS: usize = 20;
const OPEN_MAX: usize = 50;
/// For how long they are good, unless the store says that something has changed.
const GOOD_FOR: Duration = Duration::from_millis(950);
/// Pages that are remembered.
const PAGES_MAX: usize = 16;
const OPEN: [TaskState; 2] = [TaskState::Queued, TaskState::Running];
const ENDED: [TaskState; 4] =
    [TaskState::Finished, TaskState::Failed, TaskState::Cancelled, TaskState::Missed];

/// A page, by where the one before it ended.
type KnownPage = (Option<TaskId>, Arc<Remembered<Fragment>>);

/// The captures, as the store has told of them.
pub struct Captures {
    store: Arc<dyn Store>,
    kind: Name,
    bells: Bells,
    /// The one that was asked for first in front.
    pages: Mutex<VecDeque<KnownPage>>,
}

impl fmt::Debug for Captures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Captures").finish_non_exhaustive()
    }
}

#[derive(Template)]
#[template(path = "ships/captures.html", config = "src/page/askama.toml")]
struct List {
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

impl Captures {
    /// Those that are tasks of this kind.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, kind: Name) -> Self {
        let bells = store.bells();
        Self { store, kind, bells, pages: Mutex::default() }
    }

    pub(super) async fn drawn(&self, focus: &Focus) -> Fragment {
        let before = focus.parsed("before");
        let rings = [&self.bells.work, &self.bells.news].map(|bell| *bell.borrow());
        let change = rings.into_iter().fold(0, u64::wrapping_add);
        let (store, kind) = (Arc::clone(&self.store), self.kind.clone());
        let page = self.page(before);
        let known = page.get(change, || {
            async move {
                match read(store.as_ref(), kind, before).await {
                    Ok(list) => Fragment::of(ID, &list),
                    Err(error) => Fragment::trouble(ID, "Captures", &error.to_string()),
                }
            }
            .boxed()
        });
        known.await.unwrap_or_else(|| Fragment::loading(ID))
    }

    fn page(&self, before: Option<TaskId>) -> Arc<Remembered<Fragment>> {
        let mut pages = held(&self.pages);
        if let Some((_, page)) = pages.iter().find(|(of, _)| *of == before) {
            return Arc::clone(page);
        }
        if pages.len() == PAGES_MAX {
            pages.pop_front();
        }
        let page = Arc::new(Remembered::new(GOOD_FOR));
        pages.push_back((before, Arc::clone(&page)));
        page
    }
}

/// A page of those that have ended; before the first of them, those that have not.
async fn read(store: &dyn Store, kind: Name, before: Option<TaskId>) -> Result<List, StoreError> {
    let filter = |states: &[TaskState], before, tasks_max| Filter {
        kind: Some(kind.clone()),
        states: states.to_vec(),
        endpoint: None,
        before,
        tasks_max,
    };
    let mut rows = match before {
        None => {
            store.tasks(filter(&OPEN, None, OPEN_MAX)).await?.into_iter().map(Row::new).collect()
        }
        Some(_) => Vec::new(),
    };
    let ended = filter(&ENDED, before, ROWS);
    let mut ended = page::read(store, ended, |task| Some(Row::new(task))).await?;
    // They may have been ordered long before they began.
    ended.items.sort_by_key(|row| Reverse(row.began_at.map(|began_at| began_at.0)));
    rows.extend(ended.items);
    Ok(List { rows, next: ended.next, is_later_page: before.is_some() })
}
