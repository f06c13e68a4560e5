//! Tasks in SQLite: the file `tasks.sqlite` of a state directory, shared by all processes of the
//! machine.
//!
//! | room | what it holds |
//! |---|---|
//! | `file`, `schema` | the file, connections to it, its tables by numbered migrations |
//! | `turn` | whose turn it is to write, among processes |
//! | `writer`, `log` | the thread that writes for this process, in groups; the write-ahead log |
//! | `write`, `row` | a transaction, and the rows it changes with all that hangs on them |
//! | `submit`, `claim`, `settle`, `workers`, `sweep` | what is done to tasks |
//! | `read` | what is asked of them |
//! | `schedules`, `planned` | what is done to schedules, and asked of them |
//! | `bells`, `fault` | what other processes are told; what is told of errors |

mod bells;
mod claim;
mod fault;
mod file;
mod log;
mod planned;
mod read;
mod row;
mod schedules;
mod schema;
mod settle;
mod submit;
mod sweep;
mod turn;
mod workers;
mod write;
mod writer;

use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use self::bells::Tower;
use self::fault::Health;
use self::write::Write;
use self::writer::Writer;
use super::{
    Answer, Beaten, Bells, Claim, Claimed, Count, Cursor, Filter, Millis, NewTask, Settled,
    Settlement, Store, StoreError, Submitted, Sweep, Swept, Task, TaskState, WorkerBeat,
};
use crate::service::held;
use crate::task::{Attempt, Beat, Name, TaskId, WorkerId};

/// Questions answered at the same time.
const READERS: usize = 4;
/// What a task weighs beside its payload.
const TASK_BYTES: usize = 512;

/// The tasks of a state directory.
#[derive(Debug)]
pub struct SqliteStore {
    writer: Writer,
    readers: Arc<Readers>,
    health: Arc<Health>,
    tower: Arc<Tower>,
    /// The latest time that was told.
    seen_ms: AtomicI64,
}

#[derive(Debug)]
struct Readers {
    idle: Mutex<Vec<Connection>>,
    free: Arc<Semaphore>,
}

impl SqliteStore {
    /// Opens the tasks of the state directory `dir`; makes both if they are absent.
    ///
    /// # Errors
    /// The file cannot be read and written, belongs to another program, is damaged, or was written
    /// by a later release.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let health = Arc::new(Health::new(&file::path(dir)));
        let (connection, turn) = file::open(dir, &health)?;
        let cannot = |what: &str, error: std::io::Error| {
            let dir = dir.display();
            StoreError::Broken(format!("cannot {what} for the tasks in {dir}: {error}"))
        };
        let tower = Tower::open(dir).map_err(|error| cannot("hang the bells", error))?;
        let tower = Arc::new(tower);
        let writer = Writer::start(connection, turn, Arc::clone(&health), Arc::clone(&tower))
            .map_err(|error| cannot("start a thread", error))?;
        let free = Arc::new(Semaphore::new(READERS));
        let readers = Arc::new(Readers { idle: Mutex::default(), free });
        Ok(Self { writer, readers, health, tower, seen_ms: AtomicI64::new(Millis::MIN) })
    }

    /// Whether the state directory `dir` holds tasks.
    #[must_use]
    pub fn exists(dir: &Path) -> bool {
        file::path(dir).exists()
    }

    fn saw(&self, now_ms: Millis) {
        self.seen_ms.fetch_max(now_ms, Relaxed);
    }

    fn write<'a, T, F>(&'a self, bytes: usize, work: F) -> Answer<'a, T>
    where
        T: Send + 'static,
        F: FnMut(&mut Write<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        Box::pin(self.writer.write(bytes, work))
    }

    fn read<'a, T, F>(&'a self, work: F) -> Answer<'a, T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        Box::pin(async move {
            self.health.check()?;
            let stopped = |why: String| {
                let path = self.health.path().display();
                StoreError::Unavailable(format!("cannot read the tasks in {path}: {why}"))
            };
            let free = Arc::clone(&self.readers.free).acquire_owned().await;
            let free = free.map_err(|closed| stopped(closed.to_string()))?;
            let (readers, health) = (Arc::clone(&self.readers), Arc::clone(&self.health));
            let answered = tokio::task::spawn_blocking(move || {
                let _free = free;
                let idle = held(&readers.idle).pop();
                let connection = idle.map_or_else(|| file::open_reader(health.path()), Ok);
                let answer = connection.and_then(|connection| {
                    let answer = work(&connection)?;
                    held(&readers.idle).push(connection);
                    Ok(answer)
                });
                answer.map_err(|error| health.explain("read", &error))
            });
            answered.await.unwrap_or_else(|ended| Err(stopped(ended.to_string())))
        })
    }
}

impl Store for SqliteStore {
    fn submit(&self, tasks: Vec<NewTask>, now_ms: Millis) -> Answer<'_, Vec<Submitted>> {
        self.saw(now_ms);
        let bytes = tasks.iter().map(|task| TASK_BYTES + task.payload.len()).sum();
        self.write(bytes, move |write| submit::submit(write, &tasks, now_ms))
    }

    fn claim(&self, claim: Claim) -> Answer<'_, Claimed> {
        self.saw(claim.now_ms);
        let bytes = claim.tasks_max.saturating_mul(TASK_BYTES);
        self.write(bytes, move |write| claim::claim(write, &claim))
    }

    fn take_due(
        &self,
        dispatcher: WorkerId,
        tasks_max: usize,
        now_ms: Millis,
    ) -> Answer<'_, Claimed> {
        self.saw(now_ms);
        let bytes = tasks_max.saturating_mul(TASK_BYTES);
        self.write(bytes, move |write| claim::take_due(write, dispatcher, tasks_max, now_ms))
    }

    fn dispatched(&self, tasks: Vec<(TaskId, Attempt)>) -> Answer<'_, ()> {
        let bytes = tasks.len().saturating_mul(TASK_BYTES);
        self.write(bytes, move |write| claim::dispatched(write, &tasks))
    }

    fn requeue(
        &self,
        endpoint: Option<Name>,
        queued_before_ms: Millis,
        now_ms: Millis,
    ) -> Answer<'_, u64> {
        self.write(0, move |write| {
            workers::requeue(write, endpoint.as_ref(), queued_before_ms, now_ms)
        })
    }

    fn put_part(
        &self,
        id: TaskId,
        attempt: Option<Attempt>,
        index: u32,
        bytes: Vec<u8>,
    ) -> Answer<'_, bool> {
        self.write(bytes.len(), move |write| settle::put_part(write, id, attempt, index, &bytes))
    }

    fn settle(&self, settlements: Vec<Settlement>) -> Answer<'_, Vec<Settled>> {
        let bytes = settlements.len().saturating_mul(TASK_BYTES);
        self.write(bytes, move |write| settle::settle(write, &settlements))
    }

    fn beat(&self, worker: WorkerId, running: Vec<Beat>, now_ms: Millis) -> Answer<'_, Beaten> {
        self.write(0, move |write| workers::beat(write, worker, &running, now_ms))
    }

    fn workers(&self) -> Answer<'_, Vec<WorkerBeat>> {
        self.read(read::workers)
    }

    fn bury(&self, dead: WorkerBeat, now_ms: Millis) -> Answer<'_, u64> {
        self.write(0, move |write| workers::bury(write, dead, now_ms))
    }

    fn disown(&self, worker: WorkerId, in_hand: Vec<(TaskId, Attempt)>) -> Answer<'_, u64> {
        self.write(0, move |write| workers::disown(write, worker, &in_hand))
    }

    fn retire(&self, worker: WorkerId) -> Answer<'_, ()> {
        self.write(0, move |write| workers::retire(write, worker))
    }

    fn begin_outside(
        &self,
        id: TaskId,
        at_ms: Millis,
        deadline_ms: Millis,
    ) -> Answer<'_, Option<Task>> {
        self.write(0, move |write| submit::begin_outside(write, id, at_ms, deadline_ms))
    }

    fn cancel(&self, id: TaskId, now_ms: Millis) -> Answer<'_, Option<TaskState>> {
        self.write(0, move |write| submit::cancel(write, id, now_ms))
    }

    fn retry(&self, id: TaskId, now_ms: Millis) -> Answer<'_, Option<TaskState>> {
        self.write(0, move |write| submit::retry(write, id, now_ms))
    }

    fn task(&self, id: TaskId) -> Answer<'_, Option<Task>> {
        self.read(move |connection| read::task(connection, id))
    }

    fn tasks(&self, filter: Filter) -> Answer<'_, Vec<Task>> {
        self.read(move |connection| read::tasks(connection, &filter))
    }

    fn counts(&self) -> Answer<'_, Vec<Count>> {
        self.read(read::counts)
    }

    fn part(&self, id: TaskId, index: u32) -> Answer<'_, Option<Vec<u8>>> {
        self.read(move |connection| read::part(connection, id, index))
    }

    fn changes(&self, since: Cursor, tasks_max: usize) -> Answer<'_, (Vec<Task>, Cursor)> {
        self.read(move |connection| read::changes(connection, since, tasks_max))
    }

    fn now(&self) -> Answer<'_, Cursor> {
        self.read(read::now)
    }

    fn sweep(&self, sweep: Sweep) -> Answer<'_, Swept> {
        Box::pin(async move {
            let now_ms = sweep.now_ms;
            if sweep.clock_went_back {
                let seen_ms = self.seen_ms.load(Relaxed);
                let turn_back =
                    || self.write(0, move |write| sweep::turn_back(write, now_ms, seen_ms));
                while !turn_back().await? {}
                self.seen_ms.store(now_ms, Relaxed);
            }
            self.saw(now_ms);
            let seen_ms = self.seen_ms.load(Relaxed);
            self.write(0, move |write| sweep::sweep(write, sweep, seen_ms)).await
        })
    }

    fn bells(&self) -> Bells {
        self.tower.bells()
    }

    fn name(&self) -> String {
        self.health.path().display().to_string()
    }
}
