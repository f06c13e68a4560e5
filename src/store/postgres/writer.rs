//! The writer: the one task of a process that changes the database.
//!
//! It takes every change that waits, makes them in one transaction, commits it, and answers each.
//! While it commits, the next group gathers. Submissions that wait are merged into one statement,
//! and so are settlements. When a group fails for another reason than the connection, each of its
//! changes gets a transaction of its own, so that one that cannot be made fails alone.
//!
//! What failed before the commit was sent is tried again, on another connection if need be, for a
//! few seconds. What failed after that may have been made: [`StoreError::Unavailable`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_postgres::Row;

use super::error::DatabaseError;
use super::link::{Link, NEWS, PLANS, Session, Values, WORK, in_time};
use super::{settle, submit};
use crate::store::{Millis, NewTask, Settled, Settlement, StoreError, Submitted};

/// Changes that may wait; more is back-pressure.
const QUEUE_CHANGES: usize = 1024;
/// Changes and bytes of a group, from which on no more are taken into it.
const GROUP_CHANGES: usize = 256;
const GROUP_BYTES: usize = 8 << 20;
/// How long a change waits for a connection, and is tried again.
const WAIT: Duration = Duration::from_secs(4);
/// How long the statements of a group, and its commit, may take.
const GROUP_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a group is made again that met another transaction.
const COLLISIONS_MAX: u32 = 5;

/// A transaction, and whether it is to ring when it is committed.
#[derive(Debug)]
pub(super) struct Txn {
    session: Arc<Session>,
    work: AtomicBool,
    news: AtomicBool,
    plans: AtomicBool,
}

impl Txn {
    pub(super) async fn rows(
        &self,
        sql: &'static str,
        values: &Values<'_>,
    ) -> Result<Vec<Row>, DatabaseError> {
        self.session.rows(sql, values).await
    }

    pub(super) async fn execute(
        &self,
        sql: &'static str,
        values: &Values<'_>,
    ) -> Result<u64, DatabaseError> {
        self.session.execute(sql, values).await
    }

    /// There may be work.
    pub(super) fn ring_work(&self) {
        self.work.store(true, Relaxed);
    }

    /// A watched task changed, or one was cancelled.
    pub(super) fn ring_news(&self) {
        self.news.store(true, Relaxed);
    }

    /// A schedule was added, cancelled or removed, or went on.
    pub(super) fn ring_plans(&self) {
        self.plans.store(true, Relaxed);
    }
}

/// A change, made together with others.
trait Change: Send {
    /// Makes it in the transaction. May be called again after that was rolled back.
    fn make<'a>(&'a mut self, txn: &'a Txn) -> BoxFuture<'a, Result<(), DatabaseError>>;

    /// Called once: after the commit, or when it will not be.
    fn answer(self: Box<Self>, outcome: Result<(), StoreError>);
}

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What waits.
enum Item {
    Submit(Vec<(NewTask, Millis)>, Reply<Vec<Submitted>>),
    Settle(Vec<Settlement>, Reply<Vec<Settled>>),
    Other(usize, Box<dyn Change>),
}

impl Item {
    fn bytes(&self) -> usize {
        match self {
            Self::Submit(tasks, _) => tasks.iter().map(|(task, _)| task.payload.len()).sum(),
            Self::Settle(settlements, _) => settlements.len() * 1024,
            Self::Other(bytes, _) => *bytes,
        }
    }
}

/// Hands changes to the writer, which ends when this is dropped.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    queue: mpsc::Sender<Item>,
}

impl Writer {
    /// Must be called within a tokio runtime.
    pub(super) fn start(link: Link, database: String) -> Self {
        let (queue, items) = mpsc::channel(QUEUE_CHANGES);
        tokio::spawn(run(link, database, items));
        Self { queue }
    }

    pub(super) async fn submit(
        &self,
        tasks: Vec<NewTask>,
        now_ms: Millis,
    ) -> Result<Vec<Submitted>, StoreError> {
        let tasks = tasks.into_iter().map(|task| (task, now_ms)).collect();
        let (reply, answer) = oneshot::channel();
        self.send(Item::Submit(tasks, reply), answer).await
    }

    pub(super) async fn settle(
        &self,
        settlements: Vec<Settlement>,
    ) -> Result<Vec<Settled>, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(Item::Settle(settlements, reply), answer).await
    }

    /// Another change, which holds so many bytes.
    pub(super) async fn change<T, F>(&self, bytes: usize, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: for<'a> FnMut(&'a Txn) -> BoxFuture<'a, Result<T, DatabaseError>> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let change = Single { work, answer: None, reply };
        self.send(Item::Other(bytes, Box::new(change)), answer).await
    }

    async fn send<T>(
        &self,
        item: Item,
        answer: oneshot::Receiver<Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let stopped = || StoreError::Unavailable("the store was closed".to_owned());
        self.queue.send(item).await.map_err(|_| stopped())?;
        answer.await.unwrap_or_else(|_| Err(stopped()))
    }
}

/// A closure as a change.
struct Single<T, F> {
    work: F,
    answer: Option<T>,
    reply: Reply<T>,
}

impl<T, F> Change for Single<T, F>
where
    T: Send,
    F: for<'a> FnMut(&'a Txn) -> BoxFuture<'a, Result<T, DatabaseError>> + Send,
{
    fn make<'a>(&'a mut self, txn: &'a Txn) -> BoxFuture<'a, Result<(), DatabaseError>> {
        let made = (self.work)(txn);
        let answer = &mut self.answer;
        Box::pin(async move {
            *answer = Some(made.await?);
            Ok(())
        })
    }

    fn answer(self: Box<Self>, outcome: Result<(), StoreError>) {
        let Self { answer, reply, .. } = *self;
        let unmade = || StoreError::Unavailable("the change was not made".to_owned());
        // Nobody waits any more: the commit stands all the same.
        let _gone = reply.send(outcome.and_then(|()| answer.ok_or_else(unmade)));
    }
}

/// Makes many changes of one kind; what came of each.
type Many<I, T> = for<'a> fn(&'a Txn, &'a [I]) -> BoxFuture<'a, Result<Vec<T>, DatabaseError>>;

/// Calls of one kind, merged; the items of all of them in a row.
struct Merged<I, T> {
    work: Many<I, T>,
    items: Vec<I>,
    answers: Vec<T>,
    calls: Vec<(usize, Reply<Vec<T>>)>,
}

impl<I, T> Merged<I, T> {
    fn add(&mut self, items: Vec<I>, reply: Reply<Vec<T>>) {
        self.calls.push((items.len(), reply));
        self.items.extend(items);
    }
}

impl<I: Send + Sync, T: Send> Change for Merged<I, T> {
    fn make<'a>(&'a mut self, txn: &'a Txn) -> BoxFuture<'a, Result<(), DatabaseError>> {
        let Self { work, items, answers, .. } = self;
        let made = work(txn, items);
        Box::pin(async move {
            *answers = made.await?;
            Ok(())
        })
    }

    fn answer(self: Box<Self>, outcome: Result<(), StoreError>) {
        let mut answers = self.answers.into_iter();
        for (count, reply) in self.calls {
            let own = answers.by_ref().take(count).collect();
            let _gone = reply.send(outcome.clone().map(|()| own));
        }
    }
}

/// The changes to make, of what waited.
fn gather(items: Vec<Item>) -> Vec<Box<dyn Change>> {
    let mut submits =
        Merged { work: submit::submit, items: vec![], answers: vec![], calls: vec![] };
    let mut settles =
        Merged { work: settle::settle, items: vec![], answers: vec![], calls: vec![] };
    let mut group: Vec<Box<dyn Change>> = Vec::new();
    for item in items {
        match item {
            Item::Submit(tasks, reply) => submits.add(tasks, reply),
            Item::Settle(settlements, reply) => settles.add(settlements, reply),
            Item::Other(_, change) => group.push(change),
        }
    }
    if !submits.calls.is_empty() {
        group.push(Box::new(submits));
    }
    if !settles.calls.is_empty() {
        group.push(Box::new(settles));
    }
    group
}

async fn run(link: Link, database: String, mut items: mpsc::Receiver<Item>) {
    while let Some(first) = items.recv().await {
        let mut bytes = first.bytes();
        let mut waiting = vec![first];
        while waiting.len() < GROUP_CHANGES && bytes < GROUP_BYTES {
            let Ok(item) = items.try_recv() else { break };
            bytes += item.bytes();
            waiting.push(item);
        }
        let group = Group { link: &link, database: &database, deadline: Instant::now() + WAIT };
        group.make(gather(waiting)).await;
    }
}

/// How a transaction failed.
enum Broke {
    /// It was not committed.
    Before(DatabaseError),
    /// It may have been.
    InDoubt(DatabaseError),
}

struct Group<'a> {
    link: &'a Link,
    database: &'a str,
    deadline: Instant,
}

impl Group<'_> {
    async fn make(&self, mut changes: Vec<Box<dyn Change>>) {
        let outcome = self.attempt_on(&mut changes).await;
        match outcome {
            Err(StoreError::Broken(_) | StoreError::Full(_)) if changes.len() > 1 => {
                for change in changes {
                    let mut alone = [change];
                    let outcome = self.attempt_on(&mut alone).await;
                    let [change] = alone;
                    change.answer(outcome);
                }
            }
            outcome => changes.into_iter().for_each(|change| change.answer(outcome.clone())),
        }
    }

    /// Tries until it is done, or trying again does not help.
    async fn attempt_on(&self, changes: &mut [Box<dyn Change>]) -> Result<(), StoreError> {
        let mut collisions = 0;
        loop {
            let session = self.link.session(self.deadline).await;
            let session = session.map_err(StoreError::Unavailable)?;
            match attempt(&session, changes).await {
                Ok(()) => return Ok(()),
                Err(Broke::Before(error)) if error.is_of_connection() => {
                    tracing::debug!(%error, "changes are made again");
                    self.link.give_up(&session);
                    if Instant::now() >= self.deadline {
                        return Err(error.into_answer(self.database));
                    }
                }
                Err(Broke::Before(error)) if error.is_collision() => {
                    tracing::debug!(%error, "changes met others, and are made again");
                    collisions += 1;
                    if collisions > COLLISIONS_MAX {
                        return Err(error.into_answer(self.database));
                    }
                }
                Err(Broke::Before(error)) => return Err(error.into_answer(self.database)),
                Err(Broke::InDoubt(error)) => {
                    self.link.give_up(&session);
                    let text = format!("{}: {error}: changes may have been made", self.database);
                    return Err(StoreError::Unavailable(text));
                }
            }
        }
    }
}

async fn attempt(session: &Arc<Session>, changes: &mut [Box<dyn Change>]) -> Result<(), Broke> {
    let txn = Txn {
        session: Arc::clone(session),
        work: AtomicBool::new(false),
        news: AtomicBool::new(false),
        plans: AtomicBool::new(false),
    };
    let made = in_time(GROUP_TIMEOUT, async {
        session.say("BEGIN").await?;
        for change in changes {
            change.make(&txn).await?;
        }
        Ok(())
    });
    if let Err(error) = made.await {
        if !error.is_of_connection()
            && let Err(error) = in_time(GROUP_TIMEOUT, session.say("ROLLBACK")).await
        {
            return Err(Broke::Before(error));
        }
        return Err(Broke::Before(error));
    }
    let mut commands = String::new();
    for (channel, is_rung) in [(WORK, txn.work), (NEWS, txn.news), (PLANS, txn.plans)] {
        if is_rung.into_inner() {
            commands += &format!("NOTIFY {channel}; ");
        }
    }
    commands += "COMMIT";
    match in_time(GROUP_TIMEOUT, session.say(&commands)).await {
        Ok(()) => Ok(()),
        // Told so by the server, and the connection lives: it was rolled back.
        Err(error) if !error.is_of_connection() => {
            let _rolled_back = in_time(GROUP_TIMEOUT, session.say("ROLLBACK")).await;
            Err(Broke::Before(error))
        }
        Err(error) => Err(Broke::InDoubt(error)),
    }
}
