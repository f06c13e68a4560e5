//! Finds what a broker has lost: tasks that are queued as far as the store knows, while their queue
//! has been empty for a while, and all that workers said has been heard.
//!
//! A worker does not keep a task for itself without running it, and says so when it runs one for
//! long. What is for any worker is in the shared queue or in that of its kind: nothing of it is
//! said to be lost while any of it waits. The worker of an endpoint has some in hand, and so they
//! are waited for longer. About somebody else's workers nothing is known: what is in their queues
//! is theirs.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::Dispatcher;
use crate::service::held;
use crate::store::{Filter, Millis, StoreError, TaskState};
use crate::task::{Name, TaskId};

const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long a look at one queue may take of all looks, on average.
const LOOK_SHARE: Duration = Duration::from_millis(20);
/// For how long the shared queue is empty before what should be in it is lost.
const EMPTY_SHARED: Duration = Duration::from_secs(10);
/// The same for the queue of an endpoint.
const EMPTY_ENDPOINT: Duration = Duration::from_secs(60);
/// Queued tasks that are looked at for their endpoints, each time: a payload can be a MiB.
const TASKS_MAX: usize = 16;

/// Since when a queue has been empty.
#[derive(Debug, Clone, Copy)]
struct Empty {
    since: Instant,
    since_ms: Millis,
}

/// Looks at the queues for ever.
pub(super) async fn watch(dispatcher: &Dispatcher) {
    let mut empty: HashMap<Option<Name>, Empty> = HashMap::new();
    let mut page = None;
    loop {
        let mut queues: HashSet<Option<Name>> = HashSet::from([None]);
        queues.extend(held(&dispatcher.endpoints).iter().cloned().map(Some));
        let looks = u32::try_from(queues.len()).unwrap_or(u32::MAX);
        tokio::time::sleep(LOOK_EVERY.max(LOOK_SHARE.saturating_mul(looks))).await;
        if !dispatcher.pipes.is_up() {
            empty.clear();
            continue;
        }
        for queue in queues {
            look(dispatcher, queue, &mut empty).await;
        }
        page = queued(dispatcher, page).await.unwrap_or_default();
    }
}

async fn look(
    dispatcher: &Dispatcher,
    queue: Option<Name>,
    empty: &mut HashMap<Option<Name>, Empty>,
) {
    let now = || Empty { since: Instant::now(), since_ms: dispatcher.now_ms() };
    // What a worker has ended may wait to be collected.
    let Some(hearing_since) = dispatcher.hearing.hearing_since() else {
        empty.remove(&queue);
        return;
    };
    if !matches!(dispatcher.pipes.waiting(queue.clone()).await, Ok(Some(0))) {
        empty.remove(&queue);
        return;
    }
    let Empty { since, since_ms } = *empty.entry(queue.clone()).or_insert_with(now);
    let enough = if queue.is_some() { EMPTY_ENDPOINT } else { EMPTY_SHARED };
    if since.max(hearing_since).elapsed() < enough {
        return;
    }
    empty.insert(queue.clone(), now());
    let requeued = dispatcher.store.requeue(queue.clone(), since_ms, dispatcher.now_ms()).await;
    match requeued {
        Ok(0) => {}
        Ok(tasks) => {
            let endpoint = queue.as_ref().map(Name::as_str);
            tracing::warn!(endpoint, tasks, "the broker has lost tasks: they are sent again");
        }
        Err(error) => tracing::debug!(%error, "lost tasks are not sent again yet"),
    }
}

/// Learns of endpoints that other dispatchers have sent to, a page at a time; where to go on.
async fn queued(
    dispatcher: &Dispatcher,
    before: Option<TaskId>,
) -> Result<Option<TaskId>, StoreError> {
    let filter = Filter {
        states: vec![TaskState::Queued],
        before,
        tasks_max: TASKS_MAX,
        ..Filter::default()
    };
    let tasks = dispatcher.store.tasks(filter).await?;
    let next = tasks.last().filter(|_| tasks.len() == TASKS_MAX).map(|task| task.id);
    held(&dispatcher.endpoints).extend(tasks.into_iter().filter_map(|task| task.endpoint));
    Ok(next)
}
