//! `task-worker`: runs tasks, and nothing else; the same part runs in `message-consumer` and `up`.

use std::collections::HashMap;
use std::num::{NonZeroU16, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use super::exit::{Exit, Failure, OrExit};
use super::process::{self, Process};
use super::settings::{CheckedWorker, Servers, TaskWorkerCommand, both};
use super::task_store::TaskStore;
use crate::broker::pipes::{PipeError, WorkerPipes};
use crate::broker::rabbitmq::address::Address;
use crate::broker::rabbitmq::pipes::RabbitWorkerPipes;
use crate::rooms::calculations::order;
use crate::rooms::calculations::work::Calculator;
use crate::service::Lifecycle;
use crate::service::presence::Part;
use crate::task::Name;
use crate::tasks::direct::DirectSupply;
use crate::tasks::echo::{self, Echo};
use crate::tasks::endpoint::Endpoint;
use crate::tasks::engine::Engine;
use crate::tasks::handler::Handler;
use crate::tasks::piped::PipedSupply;
use crate::tasks::program::ProgramHandler;
use crate::tasks::spool::{RESULTS, Spool};
use crate::tasks::supply::Supply;

/// How long to wait before asking again for an endpoint.
const TAKE_OVER_PAUSE: Duration = Duration::from_secs(1);

pub(super) const EXAMPLES: &str = "\
Examples:
  async-data-processor task-worker
  async-data-processor task-worker --task-workers 8 --task-exec 'thumbnail:60=./thumbnail.sh'
  async-data-processor task-worker --endpoint lab1 --task-exec 'measure=./measure.py'";

pub(super) fn run(settings: TaskWorkerCommand) -> Result<Exit, Failure> {
    let TaskWorkerCommand { state, process, rabbitmq, database, worker } = settings;
    // How messages are sharded is no matter of tasks.
    let servers = both(rabbitmq.check(NonZeroU16::MIN), database.check());
    let checked = both(worker.check(), servers);
    let (worker, (broker, database)) = checked.map_err(Failure::of_settings)?;
    let servers = Servers { broker, database };
    worker.fits(&servers).map_err(Failure::of_settings)?;
    process::run("task-worker", &state, &process, async |process| {
        with_source(&process.clone(), &servers, async |source| work(process, worker, source).await)
            .await
    })
}

/// Works on tasks: on those that a broker brings, or else on those of the store.
pub(super) async fn with_source(
    process: &Process,
    servers: &Servers,
    work: impl AsyncFnOnce(&TaskSource<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    match &servers.broker {
        Some(broker) => work(&TaskSource::Broker(&broker.address)).await,
        None => {
            let store = TaskStore::open(process, servers.database.as_ref()).await?;
            let keeping = store.keep(process, None, None);
            let worked = work(&TaskSource::Store(&store)).await;
            keeping.abort();
            worked
        }
    }
}

/// Where a worker finds its tasks.
pub(super) enum TaskSource<'a> {
    /// In the rows of a store.
    Store(&'a TaskStore),
    /// In the queues of a broker.
    Broker(&'a Address),
}

/// Runs tasks until the process stops.
pub(super) async fn work(
    process: Process,
    worker: CheckedWorker,
    source: &TaskSource<'_>,
) -> Result<(), Failure> {
    let Some(slots) = worker.slots else {
        process.life.stopping().await;
        return Ok(());
    };
    let handlers = handlers(&worker)?;
    let kinds: Vec<&str> = handlers.keys().map(Name::as_str).collect();
    let endpoint = worker.endpoint.as_ref().map(Name::as_str);
    tracing::info!(slots, kinds = kinds.join(","), endpoint, "running tasks");
    process.presence.add(Part {
        service: "task-worker".to_owned(),
        slots: u64::try_from(slots.get()).ok(),
        kinds: kinds.into_iter().map(str::to_owned).collect(),
        endpoint: endpoint.map(str::to_owned),
        ..Part::default()
    });
    let bench = Bench { process: &process, worker: &worker, slots, handlers, source };
    match (source, &worker.endpoint) {
        (TaskSource::Store(_), Some(name)) => bench.work_exclusively(name).await,
        _ => bench.work(process.life.clone()).await,
    }
}

/// What a worker works with.
struct Bench<'a> {
    process: &'a Process,
    worker: &'a CheckedWorker,
    slots: NonZeroUsize,
    handlers: HashMap<Name, Arc<dyn Handler>>,
    source: &'a TaskSource<'a>,
}

impl Bench<'_> {
    /// Takes the tasks of an endpoint while no other process of the machine does.
    async fn work_exclusively(&self, name: &Name) -> Result<(), Failure> {
        let stopping = &self.process.life;
        let endpoint = Endpoint::new(self.process.state.dir(), name);
        let endpoint = endpoint.context("the endpoint's lock").or_exit(Exit::CannotCreate)?;
        let mut take_over = self.worker.take_over;
        loop {
            let held = endpoint.acquire(take_over, stopping).await;
            let Some(held) = held.context("the endpoint's lock").or_exit(Exit::Io)? else {
                return Ok(());
            };
            tracing::info!(endpoint = %name, "this process has the endpoint");
            let life = Lifecycle::new();
            let working = self.work(life.clone());
            tokio::pin!(working);
            tokio::select! {
                ended = &mut working => return ended,
                () = endpoint.wanted() => {
                    life.stop();
                    working.await?;
                }
                () = stopping.stopping() => {
                    life.stop();
                    return working.await;
                }
            }
            drop(held);
            take_over = false;
            endpoint.leave_to_others(stopping).await;
        }
    }

    /// Works until `life` stops.
    async fn work(&self, life: Lifecycle) -> Result<(), Failure> {
        let dir = self.process.state.dir();
        let what = || format!("{}: the folder of results on their way", dir.display());
        let (spool, left) =
            Spool::open(dir, RESULTS).with_context(what).or_exit(Exit::CannotCreate)?;
        let spool = Arc::new(spool);
        let engine = Engine {
            supply: self.supply(&spool).await?,
            handlers: self.handlers.clone(),
            slots: self.slots.get(),
            spool,
            left,
            clock: Arc::clone(&self.process.clock),
            life,
            finish_within: self.process.shutdown / 3,
        };
        engine.run().await.context("starting a thread").or_exit(Exit::Software)
    }

    async fn supply(&self, spool: &Arc<Spool>) -> Result<Arc<dyn Supply>, Failure> {
        let endpoint = self.worker.endpoint.clone();
        match self.source {
            TaskSource::Store(TaskStore { store, is_remote }) => {
                let (store, clock) = (Arc::clone(store), Arc::clone(&self.process.clock));
                let kinds = self.handlers.keys().cloned().collect();
                Ok(Arc::new(DirectSupply::new(store, clock, endpoint, kinds, *is_remote)))
            }
            TaskSource::Broker(address) => {
                let life = &self.process.life;
                let pipes = Arc::new(RabbitWorkerPipes::start(address, endpoint, life));
                if self.worker.take_over {
                    tokio::spawn(take_over(Arc::clone(&pipes), life.clone()));
                }
                let spool = Arc::clone(spool);
                Ok(Arc::new(PipedSupply::new(pipes, Box::new(move |id| spool.holds(id)))))
            }
        }
    }
}

/// Asks whoever has the endpoint to let go, until the broker has taken the wish.
async fn take_over(pipes: Arc<RabbitWorkerPipes>, life: Lifecycle) {
    while let Err(error) = pipes.take_over().await {
        if error == PipeError::Closed || life.is_stopping() {
            return;
        }
        tracing::warn!(%error, "the endpoint cannot be taken over yet; trying again");
        tokio::time::sleep(TAKE_OVER_PAUSE).await;
    }
}

/// Who runs which kind.
fn handlers(worker: &CheckedWorker) -> Result<HashMap<Name, Arc<dyn Handler>>, Failure> {
    let name = |kind: &str| kind.parse::<Name>().or_exit(Exit::Software);
    let program = std::env::current_exe().context("this program's file").or_exit(Exit::Software)?;
    let calculator = Calculator {
        program,
        threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        timeout: worker.calculation_timeout,
        memory_bytes_max: worker.calculation_memory_bytes,
    };
    let mut handlers: HashMap<Name, Arc<dyn Handler>> = HashMap::new();
    handlers.insert(name(echo::KIND)?, Arc::new(Echo));
    handlers.insert(name(order::KIND)?, Arc::new(calculator));
    for (kind, program) in &worker.programs {
        let handler = ProgramHandler::new(program.command.clone(), program.timeout);
        handlers.insert(kind.clone(), Arc::new(handler));
    }
    Ok(handlers)
}
