//! `task-worker`: runs tasks, and nothing else; the same part runs in `message-consumer` and `up`.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;

use anyhow::Context;

use super::exit::{Exit, Failure, OrExit};
use super::process::{self, Process};
use super::settings::{CheckedWorker, TaskWorkerCommand};
use super::task_store::{self, TaskSource};
use crate::rooms::calculations::order;
use crate::rooms::calculations::work::Calculator;
use crate::service::Lifecycle;
use crate::task::Name;
use crate::tasks::direct::DirectSupply;
use crate::tasks::echo::{self, Echo};
use crate::tasks::endpoint::Endpoint;
use crate::tasks::engine::Engine;
use crate::tasks::handler::Handler;
use crate::tasks::program::ProgramHandler;
use crate::tasks::spool::Spool;
use crate::tasks::supply::Supply;

pub(super) const EXAMPLES: &str = "\
Examples:
  async-data-processor task-worker
  async-data-processor task-worker --task-workers 8 --task-exec 'thumbnail:60=./thumbnail.sh'
  async-data-processor task-worker --endpoint lab1 --task-exec 'measure=./measure.py'";

pub(super) fn run(settings: TaskWorkerCommand) -> Result<Exit, Failure> {
    let TaskWorkerCommand { state, process, worker, .. } = settings;
    let worker = worker.check().map_err(Failure::of_settings)?;
    process::run("task-worker", &state, &process, async |process| {
        let store = task_store::open(&process).await?;
        let keeping = task_store::keep(&process, &store, None);
        let source = TaskSource::Store { store, is_remote: false };
        let worked = work(process, worker, source).await;
        keeping.abort();
        worked
    })
}

/// Runs tasks until the process stops.
pub(super) async fn work(
    process: Process,
    worker: CheckedWorker,
    source: TaskSource,
) -> Result<(), Failure> {
    let Some(slots) = worker.slots else {
        process.life.stopping().await;
        return Ok(());
    };
    let handlers = handlers(&worker)?;
    let kinds: Vec<String> = handlers.keys().map(Name::to_string).collect();
    let endpoint = worker.endpoint.as_ref().map(Name::to_string);
    tracing::info!(slots, kinds = kinds.join(","), endpoint, "running tasks");
    match (source, &worker.endpoint) {
        (TaskSource::Store { store, is_remote: false }, Some(name)) => {
            let supply = |endpoint| -> Arc<dyn Supply> {
                let (store, clock) = (Arc::clone(&store), Arc::clone(&process.clock));
                let kinds = handlers.keys().cloned().collect();
                Arc::new(DirectSupply::new(store, clock, endpoint, kinds, false))
            };
            exclusively(&process, &worker, name, slots, &handlers, supply).await
        }
        (source, endpoint) => {
            let kinds = handlers.keys().cloned().collect();
            let supply = source.supply(&process, endpoint.clone(), kinds);
            let life = process.life.clone();
            engine(&process, slots, handlers, supply, life).await
        }
    }
}

/// Takes the tasks of an endpoint while no other process of the machine does.
async fn exclusively(
    process: &Process,
    worker: &CheckedWorker,
    name: &Name,
    slots: NonZeroUsize,
    handlers: &HashMap<Name, Arc<dyn Handler>>,
    supply: impl Fn(Option<Name>) -> Arc<dyn Supply>,
) -> Result<(), Failure> {
    let endpoint = Endpoint::new(process.state.dir(), name);
    let endpoint = endpoint.context("the endpoint's lock").or_exit(Exit::CannotCreate)?;
    let mut take_over = worker.take_over;
    loop {
        let held = endpoint.acquire(take_over, &process.life).await;
        let Some(held) = held.context("the endpoint's lock").or_exit(Exit::Io)? else {
            return Ok(());
        };
        tracing::info!(endpoint = %name, "this process has the endpoint");
        let life = Lifecycle::new();
        let working =
            engine(process, slots, handlers.clone(), supply(Some(name.clone())), life.clone());
        tokio::pin!(working);
        tokio::select! {
            ended = &mut working => ended?,
            () = endpoint.wanted() => {
                life.stop();
                working.await?;
            }
            () = process.life.stopping() => {
                life.stop();
                return working.await;
            }
        }
        drop(held);
        take_over = false;
        endpoint.leave_to_others(&process.life).await;
    }
}

async fn engine(
    process: &Process,
    slots: NonZeroUsize,
    handlers: HashMap<Name, Arc<dyn Handler>>,
    supply: Arc<dyn Supply>,
    life: Lifecycle,
) -> Result<(), Failure> {
    let dir = process.state.dir();
    let opened = Spool::open(dir);
    let what = || format!("{}: the folder of results on their way", dir.display());
    let (spool, left) = opened.with_context(what).or_exit(Exit::CannotCreate)?;
    let engine = Engine {
        supply,
        handlers,
        slots: slots.get(),
        spool: Arc::new(spool),
        left,
        clock: Arc::clone(&process.clock),
        life,
        finish_within: process.shutdown / 3,
    };
    engine.run().await.context("starting a thread").or_exit(Exit::Software)
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
