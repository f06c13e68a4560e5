//! A server with a store, a dispatcher and a collector, and workers, over one broker.

use std::sync::Arc;
use std::time::Duration;

use async_data_processor::broker::pipes::WorkerPipes;
use async_data_processor::broker::rabbitmq::pipes::{RabbitServerPipes, RabbitWorkerPipes};
use async_data_processor::clock::{Clock, SystemClock};
use async_data_processor::service::Lifecycle;
use async_data_processor::store::sqlite::SqliteStore;
use async_data_processor::store::{NewTask, Store, Submitted, Task, TaskState};
use async_data_processor::task::{Beat, Outcome, ResultHead, TaskId};
use async_data_processor::tasks::collect::Collector;
use async_data_processor::tasks::dispatch::Dispatcher;
use async_data_processor::tasks::handler::Job;
use async_data_processor::tasks::piped::PipedSupply;
use async_data_processor::tasks::supply::{Body, Done, Supply};
use tempfile::TempDir;

use super::pipes::{address, name, soon, until, worker};

/// The server's side; it stops when dropped.
pub(crate) struct World {
    _dir: TempDir,
    pub(crate) url: String,
    pub(crate) store: Arc<SqliteStore>,
    pub(crate) collector: Arc<Collector>,
    pub(crate) life: Lifecycle,
}

impl Drop for World {
    fn drop(&mut self) {
        self.life.stop();
    }
}

fn now_ms() -> i64 {
    SystemClock.wall().timestamp_millis()
}

impl World {
    pub(crate) fn start(url: &str) -> Self {
        let (dir, life) = (tempfile::tempdir().unwrap(), Lifecycle::new());
        let store = Arc::new(SqliteStore::open(dir.path()).unwrap());
        let pipes = Arc::new(RabbitServerPipes::start(&address(url), &[], &life));
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let as_store = || Arc::clone(&store) as Arc<dyn Store>;
        let with = || (as_store(), pipes.clone(), Arc::clone(&clock), life.clone());
        let (tasks, pipe, time, end) = with();
        let collector = Arc::new(Collector::new(tasks, pipe, time, end));
        let (tasks, pipe, time, end) = with();
        let dispatcher = Dispatcher::new(tasks, pipe, time, end, collector.hearing());
        tokio::spawn(async move { dispatcher.run().await });
        let collecting = Arc::clone(&collector);
        tokio::spawn(async move { collecting.run().await });
        Self { _dir: dir, url: url.to_owned(), store, collector, life }
    }

    pub(crate) async fn submit(&self, endpoint: Option<&str>, payload: &str) -> TaskId {
        let id = TaskId::new();
        let task = NewTask {
            id,
            kind: name("echo"),
            endpoint: endpoint.map(name),
            payload: payload.as_bytes().to_vec(),
            run_at_ms: now_ms(),
            expires_at_ms: None,
            failures_max: 5,
            key: None,
            is_watched: false,
        };
        let submitted = self.store.submit(vec![task], now_ms()).await.unwrap();
        assert_eq!(submitted, [Submitted::New]);
        id
    }

    pub(crate) async fn task(&self, id: TaskId) -> Task {
        self.store.task(id).await.unwrap().unwrap()
    }

    /// Waits until a task is in a state.
    pub(crate) async fn wait(&self, id: TaskId, state: TaskState) -> Task {
        let what = format!("the task to be {state}");
        until(&what, async || Some(self.task(id).await).filter(|task| task.state == state)).await
    }

    /// The whole result of a finished task.
    pub(crate) async fn result(&self, id: TaskId) -> Vec<u8> {
        let head = self.wait(id, TaskState::Finished).await.result.unwrap();
        let mut whole = if head.is_whole() { head.head.clone() } else { Vec::new() };
        for index in 0..u32::try_from(head.parts()).unwrap() {
            whole.extend(self.store.part(id, index).await.unwrap().unwrap());
        }
        assert_eq!(whole.len() as u64, head.bytes);
        whole
    }

    pub(crate) fn worker(&self, endpoint: Option<&str>) -> Worker {
        Worker::start(&self.url, endpoint)
    }
}

/// A worker whose test does what an engine would do.
pub(crate) struct Worker {
    pub(crate) pipes: Arc<RabbitWorkerPipes>,
    pub(crate) supply: PipedSupply,
}

impl Worker {
    pub(crate) fn start(url: &str, endpoint: Option<&str>) -> Self {
        let pipes = Arc::new(worker(url, endpoint));
        let as_pipes = Arc::clone(&pipes) as Arc<dyn WorkerPipes>;
        Self { pipes, supply: PipedSupply::new(as_pipes, Box::new(|_| false)) }
    }

    pub(crate) async fn job(&self) -> Job {
        let mut jobs = soon("a job", self.supply.next(1)).await.unwrap();
        assert_eq!(jobs.len(), 1);
        jobs.remove(0)
    }

    /// Delivers, as often as it takes.
    pub(crate) async fn deliver(&self, done: &Done) {
        let done = std::slice::from_ref(done);
        until("the delivery", async || self.supply.deliver(done).await.ok()).await;
    }

    pub(crate) async fn finish(&self, job: &Job, result: &[u8]) {
        self.deliver(&finished(job, result)).await;
    }

    /// Signs for a job, until it is not wanted any more.
    pub(crate) async fn sign_until_lost(&self, job: &Job) {
        let beat = Beat { id: job.id, attempt: job.attempt, progress: 1 };
        let lost = until("it to be lost", async || {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let lost = self.supply.beat(vec![beat]).await.unwrap_or_default();
            Some(lost).filter(|lost| !lost.is_empty())
        });
        assert_eq!(lost.await, [(job.id, job.attempt)]);
    }
}

pub(crate) fn finished(job: &Job, result: &[u8]) -> Done {
    let head = result.iter().take(ResultHead::BYTES_MAX).copied().collect();
    let head = ResultHead { bytes: result.len() as u64, head };
    let body = (!head.is_whole()).then(|| Body::Bytes(result.to_vec()));
    let outcome = Outcome::Finished(head);
    Done { id: job.id, attempt: job.attempt, outcome, body, began_at_ms: None, at_ms: now_ms() }
}
