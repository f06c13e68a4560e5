//! Due rows of the store go into the task pipe; runs in servers, in as many as there are.
//!
//! What was taken from the store and not sent is this dispatcher's: it signs as long as it has
//! any, so that whoever hears nothing of it for a while makes them pending again. What the broker
//! refuses, or may not have, is pending again at once, and goes out as the next attempt: should the
//! broker have had it after all, the earlier attempt is fenced.

mod lost;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::keeper::Hearing;
use crate::broker::pipes::{PipeError, ServerPipes, TaskMessage};
use crate::clock::Clock;
use crate::service::{Lifecycle, held, jittered};
use crate::store::{Millis, Settlement, Store, StoreError, Task};
use crate::task::{Attempt, Name, Outcome, TaskId, WorkerId};

/// Tasks of a group.
const TASKS_MAX: usize = 256;
/// The longest wait for a bell before the store is looked at anyway: rings may be lost.
const SLOW_POLL: Duration = Duration::from_secs(1);
/// How often it is looked whether the broker is back.
const AWAY_POLL: Duration = Duration::from_millis(200);
/// How often a dispatcher with tasks in hand signs.
const SIGN_EVERY: Duration = Duration::from_millis(500);
/// How long nothing was due before it signs off.
const IDLE_AFTER: Duration = Duration::from_secs(2);
/// How long what is in hand when the process stops may take.
const STOP_MAX: Duration = Duration::from_secs(3);
/// The pause after a failure, at first and at most; it doubles.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(4);

/// Sends due tasks to workers.
#[derive(Debug)]
pub struct Dispatcher {
    store: Arc<dyn Store>,
    pipes: Arc<dyn ServerPipes>,
    clock: Arc<dyn Clock>,
    life: Lifecycle,
    hearing: Arc<dyn Hearing>,
    name: Mutex<Signature>,
    /// Endpoints whose queues this dispatcher has sent to.
    endpoints: Mutex<HashSet<Name>>,
}

/// By which name tasks are taken from the store.
#[derive(Debug)]
struct Signature {
    worker: WorkerId,
    is_signed: bool,
    /// Whether tasks are, or may come to be, in hand.
    is_busy: bool,
    busy_until: Instant,
}

/// Why a group was not sent.
enum Trouble {
    /// The store.
    Store(StoreError),
    /// The broker: why, of one of the tasks.
    Pipe(PipeError),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Dispatcher {
    /// A dispatcher; it does nothing before it [runs](Self::run). `hearing` is whether this server
    /// hears what workers say.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        pipes: Arc<dyn ServerPipes>,
        clock: Arc<dyn Clock>,
        life: Lifecycle,
        hearing: Arc<dyn Hearing>,
    ) -> Self {
        let name = Mutex::new(Signature {
            worker: WorkerId::new(),
            is_signed: false,
            is_busy: false,
            busy_until: Instant::now(),
        });
        Self { store, pipes, clock, life, hearing, name, endpoints: Mutex::default() }
    }

    /// Dispatches until the process stops; what is in hand then is sent, or given back.
    pub async fn run(&self) {
        let besides = async { tokio::join!(self.sign(), lost::watch(self)) };
        let overdue = async {
            self.life.stopping().await;
            tokio::time::sleep(STOP_MAX).await;
        };
        tokio::select! {
            () = self.dispatch() => {}
            _never = besides => {}
            () = overdue => {}
        }
        let (worker, is_busy) = {
            let name = held(&self.name);
            (name.worker, name.is_busy)
        };
        // With tasks in hand it is to be taken for dead, so that they are sent by another one.
        if !is_busy {
            let _unheard = tokio::time::timeout(SLOW_POLL, self.store.retire(worker)).await;
        }
    }

    /// False if the process stops meanwhile.
    async fn pause(&self, pause: Duration) -> bool {
        tokio::time::timeout(pause, self.life.stopping()).await.is_err()
    }

    fn now_ms(&self) -> Millis {
        self.clock.wall().timestamp_millis()
    }

    async fn dispatch(&self) {
        let mut work = self.store.bells().work;
        let (mut pause, mut told) = (PAUSE, None);
        while !self.life.is_stopping() {
            if !self.pipes.is_up() {
                self.pause(AWAY_POLL).await;
                continue;
            }
            // Before the look, so that what comes after it rings.
            work.mark_unchanged();
            match self.group().await {
                Ok(wait) => {
                    (pause, told) = (PAUSE, None);
                    tokio::select! {
                        _rung_or_closed = work.changed() => {}
                        _is_over = self.pause(wait) => {}
                    }
                }
                Err(Trouble::Store(StoreError::Broken(reason))) => return self.life.fail(reason),
                Err(trouble) => {
                    let text = match trouble {
                        Trouble::Store(error) => error.to_string(),
                        Trouble::Pipe(error) => error.to_string(),
                    };
                    if told.as_ref() != Some(&text) {
                        tracing::warn!(reason = text, "tasks wait in the store");
                        told = Some(text);
                    }
                    self.pause(jittered(pause)).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// Sends what is due, up to a group; how long nothing more is due, as far as is known.
    async fn group(&self) -> Result<Duration, Trouble> {
        let worker = self.begin().await?;
        let claimed = self.store.take_due(worker, TASKS_MAX, self.now_ms()).await;
        let sent = match claimed {
            Ok(claimed) => {
                let is_more = claimed.tasks.len() >= TASKS_MAX;
                let next_due_ms = if is_more { Some(Millis::MIN) } else { claimed.next_due_ms };
                self.send(claimed.tasks).await.map(|()| self.until(next_due_ms))
            }
            Err(error) => {
                self.give_up_name(worker).await;
                Err(Trouble::Store(error))
            }
        };
        let mut name = held(&self.name);
        name.is_busy = false;
        if matches!(sent, Err(Trouble::Store(_))) {
            // What it has taken is unknown: nobody signs by this name any more, so that it is taken
            // for dead, and whatever it is is pending again.
            (name.worker, name.is_signed) = (WorkerId::new(), false);
        }
        drop(name);
        sent
    }

    /// The answer that would have brought tasks was lost: what this name has, others shall have.
    async fn give_up_name(&self, worker: WorkerId) {
        self.signed(worker, false);
        // If it cannot be told, the name is silent from now on, and so is buried.
        let _untold = self.store.retire(worker).await;
    }

    fn until(&self, due_ms: Option<Millis>) -> Duration {
        let left_ms = due_ms.map_or(Millis::MAX, |due| due.saturating_sub(self.now_ms()));
        u64::try_from(left_ms.max(0)).map_or(SLOW_POLL, Duration::from_millis).min(SLOW_POLL)
    }

    /// Signs, unless that was done lately; the name.
    async fn begin(&self) -> Result<WorkerId, StoreError> {
        loop {
            let (worker, is_signed) = {
                let mut name = held(&self.name);
                name.is_busy = true;
                (name.worker, name.is_signed)
            };
            if is_signed {
                return Ok(worker);
            }
            let beaten = self.store.beat(worker, Vec::new(), self.now_ms()).await?;
            self.signed(worker, !beaten.is_buried);
        }
    }

    /// A name that was buried is never used again.
    fn signed(&self, worker: WorkerId, is_alive: bool) {
        let mut name = held(&self.name);
        if name.worker == worker {
            name.is_signed = is_alive;
            if !is_alive {
                name.worker = WorkerId::new();
            }
        }
    }

    async fn send(&self, tasks: Vec<Task>) -> Result<(), Trouble> {
        if tasks.is_empty() {
            return Ok(());
        }
        held(&self.name).busy_until = Instant::now();
        held(&self.endpoints).extend(tasks.iter().filter_map(|task| task.endpoint.clone()));
        let keys: Vec<_> = tasks.iter().map(|task| (task.id, task.attempt)).collect();
        let sent = self.pipes.send(tasks.into_iter().map(message).collect()).await;
        let (mut confirmed, mut back, mut trouble) = (Vec::new(), Vec::new(), None);
        for (key, sent) in keys.into_iter().zip(sent) {
            match sent {
                Ok(()) => confirmed.push(key),
                Err(error) => {
                    back.push(self.released(key));
                    trouble = Some(Trouble::Pipe(error));
                }
            }
        }
        if !confirmed.is_empty() {
            self.until_stored(|| self.store.dispatched(confirmed.clone())).await?;
        }
        if !back.is_empty() {
            self.until_stored(|| self.store.settle(back.clone())).await?;
        }
        trouble.map_or(Ok(()), Err)
    }

    fn released(&self, (id, attempt): (TaskId, Attempt)) -> Settlement {
        let (attempt, outcome) = (Some(attempt), Outcome::Released);
        let (began_at_ms, at_ms) = (None, self.now_ms());
        Settlement { id, attempt, endpoint: None, outcome, began_at_ms, at_ms }
    }

    /// Tells the store what it must know, however long it is away.
    async fn until_stored<'a, T>(
        &self,
        tell: impl Fn() -> crate::store::Answer<'a, T>,
    ) -> Result<T, StoreError> {
        let mut pause = PAUSE;
        loop {
            match tell().await {
                Ok(told) => return Ok(told),
                Err(StoreError::Broken(reason)) => return Err(StoreError::Broken(reason)),
                Err(error) => tracing::debug!(%error, "the store is told again"),
            }
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Signs from time to time while there are, or were lately, tasks to send.
    async fn sign(&self) {
        loop {
            tokio::time::sleep(SIGN_EVERY).await;
            let (worker, is_over) = {
                let mut name = held(&self.name);
                if !name.is_signed {
                    continue;
                }
                let (worker, idle) = (name.worker, name.busy_until.elapsed() > IDLE_AFTER);
                let is_over = idle && !name.is_busy;
                if is_over {
                    (name.worker, name.is_signed) = (WorkerId::new(), false);
                }
                (worker, is_over)
            };
            if is_over {
                let _unheard = self.store.retire(worker).await;
            } else if let Ok(beaten) = self.store.beat(worker, Vec::new(), self.now_ms()).await {
                self.signed(worker, !beaten.is_buried);
            }
        }
    }
}

fn message(task: Task) -> TaskMessage {
    let Task { id, attempt, kind, endpoint, payload, .. } = task;
    let expires_at_ms = task.expires_at_ms.filter(|_| task.started_at_ms.is_none());
    TaskMessage { id, attempt, kind, endpoint, expires_at_ms, payload }
}
