//! Tasks in pages, newest first.

use crate::store::{Filter, Store, StoreError, Task};
use crate::task::TaskId;

/// Tasks that are held at once while a page is put together: a task may have a large payload.
const TASKS_AT_ONCE: usize = 100;
/// Tasks that are looked at for one page at most, however few of them are picked.
const TASKS_LOOKED_AT_MAX: usize = 10_000;

/// A page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// What was picked.
    pub items: Vec<T>,
    /// Where the next page begins ([`Filter::before`]), if there is or may be one.
    pub next: Option<TaskId>,
}

/// Reads a page of `filter.tasks_max` items: what `pick` makes of the tasks that pass the filter.
/// A page may be shorter and not be the last, where few of many tasks are picked.
///
/// # Errors
/// Those of the store.
pub async fn read<T>(
    store: &dyn Store,
    mut filter: Filter,
    mut pick: impl FnMut(Task) -> Option<T>,
) -> Result<Page<T>, StoreError> {
    let wanted = filter.tasks_max;
    let mut items = Vec::new();
    let mut looked_at = 0;
    loop {
        // One more than is wanted tells whether there is a next page.
        let asked = (wanted - items.len() + 1).min(TASKS_AT_ONCE);
        filter.tasks_max = asked;
        let tasks = store.tasks(filter.clone()).await?;
        let is_last = tasks.len() < asked;
        for task in tasks {
            if items.len() == wanted || looked_at == TASKS_LOOKED_AT_MAX {
                return Ok(Page { items, next: filter.before });
            }
            filter.before = Some(task.id);
            looked_at += 1;
            items.extend(pick(task));
        }
        if is_last {
            return Ok(Page { items, next: None });
        }
    }
}
