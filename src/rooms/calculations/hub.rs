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
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::sleep;

use super::item::Item;
use crate::service::Lifecycle;
use crate::store::{Cursor, Store, StoreError, Task, TaskState};
use crate::task::{Attempt, Name, TaskId};

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
    /// Listeners at once; each also takes a connection of the server.
    pub listeners_max: usize,
}

/// The hub. Cheap to clone; clones are the same hub.
#[derive(Debug, Clone)]
pub struct Hub {
    joins: mpsc::Sender<oneshot::Sender<broadcast::Receiver<Utf8Bytes>>>,
    seats: Arc<Seats>,
    life: Lifecycle,
}

#[derive(Debug)]
struct Seats {
    taken: watch::Sender<usize>,
    most: usize,
    gauge: Gauge,
}

/// A listener's place, given back when dropped.
#[derive(Debug)]
pub(super) struct Seat(Arc<Seats>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.taken.send_modify(|taken| *taken -= 1);
        self.0.gauge.dec();
    }
}

/// Why somebody cannot listen now. Later it may be otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoSeat {
    /// As many listen as may.
    Full,
    /// The store does not say where its changes end.
    NoStore,
}

impl Hub {
    /// Starts the hub over a store; it ends when `life` stops. Needs a tokio runtime.
    #[must_use]
    pub fn start(store: Arc<dyn Store>, settings: HubSettings, life: Lifecycle) -> Self {
        let (joins, joining) = mpsc::channel(JOINS_QUEUED_MAX);
        let seats = Seats {
            taken: watch::Sender::new(0),
            most: settings.listeners_max,
            gauge: Gauge::default(),
        };
        let follower = Follower {
            store,
            settings,
            items: broadcast::Sender::new(ITEMS_QUEUED_MAX),
            cursor: Cursor::default(),
            told: HashMap::new(),
        };
        tokio::spawn(follower.run(joining, life.clone()));
        Self { joins, seats: Arc::new(seats), life }
    }

    /// Shows in `/metrics` how many listen.
    pub fn register(&self, registry: &mut Registry) {
        let gauge = self.seats.gauge.clone();
        registry.register("websocket_clients", "WebSockets open", gauge);
    }

    /// Waits until nobody listens any more: after the stop, that all were told of it.
    pub async fn closed(&self) {
        let mut taken = self.seats.taken.subscribe();
        // The sender lives as long as `self`.
        let _closed = taken.wait_for(|taken| *taken == 0).await;
    }

    /// The life that ends all listening.
    pub(super) fn life(&self) -> &Lifecycle {
        &self.life
    }

    /// Begins to listen: what changes from now on will be received.
    pub(super) async fn listen(&self) -> Result<(Seat, broadcast::Receiver<Utf8Bytes>), NoSeat> {
        let most = self.seats.most;
        let seated = self.seats.taken.send_if_modified(|taken| {
            let is_free = *taken < most;
            *taken += usize::from(is_free);
            is_free
        });
        if !seated {
            return Err(NoSeat::Full);
        }
        self.seats.gauge.inc();
        let seat = Seat(Arc::clone(&self.seats));
        let (answer, items) = oneshot::channel();
        self.joins.send(answer).await.map_err(|_| NoSeat::NoStore)?;
        Ok((seat, items.await.map_err(|_| NoSeat::NoStore)?))
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
