//! Tells every listener of every change: one task per process follows the store's stream of changes
//! and writes each changed item once, for all of them.
//!
//! Who listens has a place in a shared queue of [`ITEMS_QUEUED_MAX`] items. Who falls behind by
//! more than that is not waited for: it is told so, and can list and listen again. While nobody
//! listens the store is not asked.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::Utf8Bytes;
use axum::http::StatusCode;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::sleep;

use super::item::Item;
use crate::service::Lifecycle;
use crate::store::{Cursor, Store, StoreError, Task, TaskState};
use crate::task::{Attempt, Name, TaskId};
use crate::web::{HttpError, Seat, Seats};

/// Items that a listener may be behind.
pub const ITEMS_QUEUED_MAX: usize = 4096;
/// Changes that are read at once.
const CHANGES_AT_ONCE: usize = 256;
/// How often the store is asked without having rung, while somebody listens.
const POLL: Duration = Duration::from_secs(1);
/// Listeners that wait for their place at once.
const JOINS_QUEUED_MAX: usize = 64;

/// What the hub needs to know.
#[derive(Debug, Clone)]
pub struct HubSettings {
    /// The kind of task whose changes are told.
    pub kind: Name,
    /// Digits of an output that are shown before it is shortened.
    pub output_length_max: usize,
}

/// The hub. Cheap to clone; clones are the same hub.
#[derive(Debug, Clone)]
pub struct Hub {
    joins: mpsc::Sender<oneshot::Sender<broadcast::Receiver<Utf8Bytes>>>,
    seats: Seats,
    life: Lifecycle,
}

impl Hub {
    /// Starts the hub over a store; it ends when `life` stops. Needs a tokio runtime.
    #[must_use]
    pub fn start(
        store: Arc<dyn Store>,
        settings: HubSettings,
        seats: Seats,
        life: Lifecycle,
    ) -> Self {
        let (joins, joining) = mpsc::channel(JOINS_QUEUED_MAX);
        let follower = Follower {
            store,
            settings,
            items: broadcast::Sender::new(ITEMS_QUEUED_MAX),
            cursor: Cursor::default(),
            told: HashMap::new(),
        };
        tokio::spawn(follower.run(joining, life.clone()));
        Self { joins, seats, life }
    }

    /// The life that ends all listening.
    pub(super) fn life(&self) -> &Lifecycle {
        &self.life
    }

    /// Begins to listen: what changes from now on will be received.
    ///
    /// # Errors
    /// 503: as many listen as may, or the store does not say where its changes end.
    pub(super) async fn listen(&self) -> Result<(Seat, broadcast::Receiver<Utf8Bytes>), HttpError> {
        let seat = self.seats.take()?;
        let (answer, items) = oneshot::channel();
        let joined = self.joins.send(answer).await.is_ok();
        let items = if joined { items.await.ok() } else { None };
        let no_store = || {
            let text = "there are no changes to be told now";
            HttpError::new(StatusCode::SERVICE_UNAVAILABLE, text).retry_after(1)
        };
        Ok((seat, items.ok_or_else(no_store)?))
    }
}

/// Follows the changes while somebody listens.
struct Follower {
    store: Arc<dyn Store>,
    settings: HubSettings,
    items: broadcast::Sender<Utf8Bytes>,
    cursor: Cursor,
    /// The attempts that run, and how far they were when it was last told, in hundredths.
    told: HashMap<TaskId, (Attempt, u16)>,
}

impl Follower {
    async fn run(
        mut self,
        mut joining: mpsc::Receiver<oneshot::Sender<broadcast::Receiver<Utf8Bytes>>>,
        life: Lifecycle,
    ) {
        let mut news = self.store.bells().news;
        loop {
            let is_heard = self.items.receiver_count() > 0;
            let changed = async {
                tokio::select! {
                    rung = news.changed() => if rung.is_err() { sleep(POLL).await },
                    () = sleep(POLL) => {}
                }
            };
            tokio::select! {
                () = life.stopping() => return,
                Some(join) = joining.recv() => self.join(join, is_heard).await,
                () = changed, if is_heard => {
                    if let Err(error) = self.follow().await {
                        tracing::debug!(%error, "changes cannot be told now");
                        sleep(POLL).await;
                    }
                }
            }
        }
    }

    /// Gives a newcomer a place; the first one's items begin where the changes end now.
    async fn join(
        &mut self,
        join: oneshot::Sender<broadcast::Receiver<Utf8Bytes>>,
        is_heard: bool,
    ) {
        if !is_heard {
            match self.store.now().await {
                Ok(cursor) => self.cursor = cursor,
                Err(error) => {
                    tracing::warn!(%error, "nobody can listen to changes now");
                    return;
                }
            }
            self.told.clear();
        }
        // A newcomer that is gone already needs no place.
        let _gone = join.send(self.items.subscribe());
    }

    /// Tells all changes that there are.
    async fn follow(&mut self) -> Result<(), StoreError> {
        loop {
            let (tasks, cursor) = self.store.changes(self.cursor, CHANGES_AT_ONCE).await?;
            let is_all = tasks.len() < CHANGES_AT_ONCE;
            for task in tasks.iter().filter(|task| task.kind == self.settings.kind) {
                if is_news(&mut self.told, task) {
                    let item = Item::new(task, self.settings.output_length_max);
                    let Ok(text) = serde_json::to_string(&item) else { continue };
                    // Nobody listens any more: the next turn sees it.
                    let _nobody = self.items.send(text.into());
                }
            }
            self.cursor = cursor;
            if is_all {
                return Ok(());
            }
            // Listeners write what they have got before the next lot comes.
            tokio::task::yield_now().await;
        }
    }
}

/// Whether a task that changed differs by what listeners want to know: of a running one, by 1 % at
/// least.
fn is_news(told: &mut HashMap<TaskId, (Attempt, u16)>, task: &Task) -> bool {
    if task.state != TaskState::Running {
        told.remove(&task.id);
        return true;
    }
    let now = (task.attempt, task.progress / 10);
    told.insert(task.id, now) != Some(now)
}
