//! Tasks in PostgreSQL, 13 or later: a database that many machines share.
//!
//! | room | what it holds |
//! |---|---|
//! | [`address`], `trust` | the URL, and TLS as it says |
//! | [`error`] | what can go wrong, and whether it may pass |
//! | `link` | a connection that comes back for ever, and the bells that ring on it |
//! | `schema` | the tables, in numbered versions |
//! | `writer` | groups changes into transactions |
//! | `row` | rows as tasks, and under a lock |
//! | `submit`, `claim`, `settle`, `life`, `turn`, `sweep` | the changes |
//! | `read`, `changes` | the questions |
//! | `schedules`, `planned` | what is done to schedules, and asked of them |
//! | [`inspect`] | what a person should know of a database |
//!
//! Four connections: one for changes, two for questions (short ones, and those about many tasks),
//! one for the bells (`LISTEN`). A connection pooler that gives a session's statements to different
//! connections cannot stand between.
//!
//! A change whose answer was lost is [`StoreError::Unavailable`], and may be said again: a
//! submission is [`Known`](crate::store::Submitted::Known) then, a settlement
//! [`Late`](crate::store::Settled::Late), a part is put in its own place. Tasks of a claim whose
//! answer was lost are the worker's all the same, until it [disowns](crate::store::Store::disown)
//! them.

pub mod address;
mod changes;
mod claim;
pub mod error;
pub mod inspect;
mod life;
mod link;
mod planned;
mod read;
mod row;
mod schedules;
mod schema;
mod settle;
mod submit;
mod sweep;
mod trust;
mod turn;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::Instant;

use self::address::Address;
use self::changes::Memories;
use self::error::DatabaseError;
use self::link::{Link, Role, Ropes, Session, in_time};
use self::writer::{Txn, Writer};
use super::{
    Answer, Beaten, Bells, Claim, Claimed, Count, Cursor, Filter, Millis, NewTask, Settled,
    Settlement, Store, StoreError, Submitted, Sweep, Swept, Task, TaskState, WorkerBeat,
};
use crate::service::Lifecycle;
use crate::task::{Attempt, Beat, TaskId, WorkerId};

/// How long a question waits for a connection, and is asked again.
const WAIT: Duration = Duration::from_secs(4);
/// How long an answer may take.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Tasks in a database. Dropped, it closes its connections.
#[derive(Debug)]
pub struct PostgresStore {
    name: String,
    writer: Writer,
    reads: Link,
    lists: Link,
    ropes: Arc<Ropes>,
    closing: watch::Sender<bool>,
    memories: Arc<Memories>,
    /// The latest wall time that was told here.
    seen_ms: AtomicI64,
}

impl PostgresStore {
    /// Starts to connect, which never fails: a database that is away is waited for, and what only
    /// a person can mend fails `life`. Must be called within a tokio runtime.
    #[must_use]
    pub fn connect(address: &Address, life: &Lifecycle) -> Self {
        let ropes = Arc::<Ropes>::default();
        let closing = watch::Sender::new(false);
        let link = |role| {
            Link::start(address.clone(), role, life.clone(), Arc::clone(&ropes), closing.clone())
        };
        let (changes, reads, lists) = (link(Role::Changes), link(Role::Reads), link(Role::Lists));
        link(Role::Bells);
        let name = address.to_string();
        let writer = Writer::start(changes, name.clone());
        Self {
            name,
            writer,
            reads,
            lists,
            ropes,
            closing,
            memories: Arc::default(),
            seen_ms: AtomicI64::new(Millis::MIN),
        }
    }

    fn saw(&self, now_ms: Millis) {
        self.seen_ms.fetch_max(now_ms, Relaxed);
    }

    fn change<T, F>(&self, work: F) -> Answer<'_, T>
    where
        T: Send + 'static,
        F: for<'a> FnMut(&'a Txn) -> BoxFuture<'a, Result<T, DatabaseError>> + Send + 'static,
    {
        Box::pin(self.writer.change(0, work))
    }

    /// Asks, and asks again if the connection was lost.
    async fn ask<T, F>(&self, link: &Link, question: F) -> Result<T, StoreError>
    where
        F: for<'a> Fn(&'a Session) -> BoxFuture<'a, Result<T, DatabaseError>>,
    {
        let deadline = Instant::now() + WAIT;
        loop {
            let session = link.session(deadline).await.map_err(StoreError::Unavailable)?;
            match in_time(READ_TIMEOUT, question(&session)).await {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    let is_of_connection = error.is_of_connection();
                    if is_of_connection {
                        link.give_up(&session);
                    }
                    if !is_of_connection || Instant::now() >= deadline {
                        return Err(error.into_answer(&self.name));
                    }
                }
            }
        }
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.closing.send_replace(true);
    }
}

impl Store for PostgresStore {
    fn submit(&self, tasks: Vec<NewTask>, now_ms: Millis) -> Answer<'_, Vec<Submitted>> {
        self.saw(now_ms);
        Box::pin(self.writer.submit(tasks, now_ms))
    }

    fn claim(&self, claim: Claim) -> Answer<'_, Claimed> {
        self.saw(claim.now_ms);
        self.change(move |txn| {
            let claim = claim.clone();
            Box::pin(async move { claim::claim(txn, &claim).await })
        })
    }

    fn take_due(
        &self,
        dispatcher: WorkerId,
        tasks_max: usize,
        now_ms: Millis,
    ) -> Answer<'_, Claimed> {
        self.saw(now_ms);
        self.change(move |txn| Box::pin(claim::take_due(txn, dispatcher, tasks_max, now_ms)))
    }

    fn dispatched(&self, tasks: Vec<(TaskId, Attempt)>) -> Answer<'_, ()> {
        self.change(move |txn| {
            let tasks = tasks.clone();
            Box::pin(async move { claim::dispatched(txn, &tasks).await })
        })
    }

    fn requeue(
        &self,
        endpoint: Option<crate::task::Name>,
        queued_before_ms: Millis,
        now_ms: Millis,
    ) -> Answer<'_, u64> {
        self.change(move |txn| {
            let endpoint = endpoint.clone().map(String::from).unwrap_or_default();
            Box::pin(async move { claim::requeue(txn, &endpoint, queued_before_ms, now_ms).await })
        })
    }

    fn put_part(
        &self,
        id: TaskId,
        attempt: Option<Attempt>,
        index: u32,
        bytes: Vec<u8>,
    ) -> Answer<'_, bool> {
        let (length, bytes) = (bytes.len(), Arc::new(bytes));
        Box::pin(self.writer.change(length, move |txn| {
            let bytes = Arc::clone(&bytes);
            Box::pin(async move { settle::put_part(txn, id, attempt, index, &bytes).await })
        }))
    }

    fn settle(&self, settlements: Vec<Settlement>) -> Answer<'_, Vec<Settled>> {
        Box::pin(self.writer.settle(settlements))
    }

    fn beat(&self, worker: WorkerId, running: Vec<Beat>, now_ms: Millis) -> Answer<'_, Beaten> {
        self.change(move |txn| {
            let running = running.clone();
            Box::pin(async move { life::beat(txn, worker, &running, now_ms).await })
        })
    }

    fn workers(&self) -> Answer<'_, Vec<WorkerBeat>> {
        Box::pin(self.ask(&self.reads, |session| Box::pin(read::workers(session))))
    }

    fn bury(&self, dead: WorkerBeat, now_ms: Millis) -> Answer<'_, u64> {
        self.change(move |txn| Box::pin(life::bury(txn, dead, now_ms)))
    }

    fn disown(&self, worker: WorkerId, in_hand: Vec<(TaskId, Attempt)>) -> Answer<'_, u64> {
        self.change(move |txn| {
            let in_hand = in_hand.clone();
            Box::pin(async move { life::disown(txn, worker, &in_hand).await })
        })
    }

    fn retire(&self, worker: WorkerId) -> Answer<'_, ()> {
        self.change(move |txn| Box::pin(life::retire(txn, worker)))
    }

    fn begin_outside(
        &self,
        id: TaskId,
        at_ms: Millis,
        deadline_ms: Millis,
    ) -> Answer<'_, Option<Task>> {
        self.change(move |txn| Box::pin(turn::begin_outside(txn, id, at_ms, deadline_ms)))
    }

    fn cancel(&self, id: TaskId, now_ms: Millis) -> Answer<'_, Option<TaskState>> {
        self.change(move |txn| Box::pin(turn::cancel(txn, id, now_ms)))
    }

    fn retry(&self, id: TaskId, now_ms: Millis) -> Answer<'_, Option<TaskState>> {
        self.change(move |txn| Box::pin(turn::retry(txn, id, now_ms)))
    }

    fn task(&self, id: TaskId) -> Answer<'_, Option<Task>> {
        Box::pin(self.ask(&self.reads, move |session| Box::pin(read::one_task(session, id))))
    }

    fn tasks(&self, filter: Filter) -> Answer<'_, Vec<Task>> {
        Box::pin(async move {
            let filter = Arc::new(filter);
            self.ask(&self.lists, |session| {
                let filter = Arc::clone(&filter);
                Box::pin(async move { read::tasks(session, &filter).await })
            })
            .await
        })
    }

    fn counts(&self) -> Answer<'_, Vec<Count>> {
        Box::pin(self.ask(&self.lists, |session| Box::pin(read::counts(session))))
    }

    fn part(&self, id: TaskId, index: u32) -> Answer<'_, Option<Vec<u8>>> {
        Box::pin(self.ask(&self.reads, move |session| Box::pin(read::part(session, id, index))))
    }

    fn changes(&self, since: Cursor, tasks_max: usize) -> Answer<'_, (Vec<Task>, Cursor)> {
        Box::pin(self.ask(&self.reads, move |session| {
            let memories = Arc::clone(&self.memories);
            Box::pin(async move { changes::changes(session, &memories, since, tasks_max).await })
        }))
    }

    fn now(&self) -> Answer<'_, Cursor> {
        Box::pin(self.ask(&self.reads, |session| Box::pin(changes::now(session))))
    }

    fn sweep(&self, sweep: Sweep) -> Answer<'_, Swept> {
        Box::pin(async move {
            let now_ms = sweep.now_ms;
            if sweep.clock_went_back {
                let seen_ms = self.seen_ms.load(Relaxed);
                let turn_back =
                    || self.change(move |txn| Box::pin(sweep::turn_back(txn, now_ms, seen_ms)));
                while !turn_back().await? {}
                self.seen_ms.store(now_ms, Relaxed);
            } else {
                self.saw(now_ms);
                let seen_ms = self.seen_ms.load(Relaxed);
                self.change(move |txn| Box::pin(sweep::see(txn, seen_ms))).await?;
            }
            self.change(move |txn| Box::pin(sweep::sweep(txn, sweep))).await
        })
    }

    fn bells(&self) -> Bells {
        let Ropes { work, news, plans } = self.ropes.as_ref();
        Bells { work: work.subscribe(), news: news.subscribe(), plans: plans.subscribe() }
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}
