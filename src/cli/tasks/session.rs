//! The store of tasks, opened for one command, and what every such command asks of it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;

use crate::cli::exit::{Exit, Failure};
use crate::cli::logging;
use crate::cli::process::network_runtime;
use crate::cli::settings::{DatabaseSettings, StateSettings};
use crate::cli::task_store::{self, ToolStore};
use crate::clock::{Clock, SystemClock};
use crate::service::Lifecycle;
use crate::store::{Filter, Millis, NewTask, Store, StoreError, Submitted, Task};

/// After how many failures a task is given up, unless it says otherwise.
pub(in crate::cli) const FAILURES_MAX: u32 = 5;
/// Tasks that are held at once: each may have a large payload.
const TASKS_AT_ONCE: usize = 50;
/// How often a submission is tried again while the store is away or full, and how far apart.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(250);

/// Where the tasks are.
#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct StoreSettings {
    #[command(flatten)]
    pub(in crate::cli) state: StateSettings,
    #[command(flatten)]
    database: DatabaseSettings,
}

/// Runs a command on a store that must be there already.
pub(in crate::cli) fn on_existing(
    settings: &StoreSettings,
    command: impl AsyncFnOnce(Arc<dyn Store>) -> Result<Exit, Failure>,
) -> Result<Exit, Failure> {
    run(settings, task_store::open_existing, command)
}

/// Runs a command on a store that is made if it is not there.
pub(in crate::cli) fn on_store(
    settings: &StoreSettings,
    command: impl AsyncFnOnce(Arc<dyn Store>) -> Result<Exit, Failure>,
) -> Result<Exit, Failure> {
    run(settings, task_store::open_or_make, command)
}

fn run(
    settings: &StoreSettings,
    open: impl FnOnce(&StateSettings) -> Result<ToolStore, Failure>,
    command: impl AsyncFnOnce(Arc<dyn Store>) -> Result<Exit, Failure>,
) -> Result<Exit, Failure> {
    logging::start(&settings.state.log)?;
    let database = settings.database.check().map_err(Failure::of_settings)?;
    let life = Lifecycle::new();
    network_runtime(1)?.block_on(async {
        let opened = match &database {
            Some(database) => ToolStore::connect(database, &life),
            None => open(&settings.state)?,
        };
        tokio::select! {
            outcome = command(Arc::clone(&opened.store)) => outcome,
            () = life.stopping() => Err(task_store::refused(&life)),
        }
    })
}

/// What a command ends with that the store did not serve.
pub(in crate::cli) fn failure(error: StoreError) -> Failure {
    let exit = match &error {
        StoreError::Unavailable(_) => Exit::Unavailable,
        StoreError::Full(_) => Exit::TemporaryFailure,
        StoreError::Broken(_) => Exit::Io,
    };
    Failure::new(exit, anyhow!(error).context("the store of tasks"))
}

/// The wall time now.
pub(in crate::cli) fn now_ms() -> Millis {
    SystemClock.wall().timestamp_millis()
}

/// Adds tasks; waits a while for a store that is away or full. Again is as good as once, since the
/// tasks have their names already.
pub(in crate::cli) async fn submit(
    store: &dyn Store,
    tasks: &[NewTask],
) -> Result<Vec<Submitted>, Failure> {
    let mut tries = 0;
    loop {
        match store.submit(tasks.to_vec(), now_ms()).await {
            Err(StoreError::Unavailable(_) | StoreError::Full(_)) if tries < TRIES => {
                tries += 1;
                tokio::time::sleep(PAUSE).await;
            }
            answer => return answer.map_err(failure),
        }
    }
}

/// Tasks newest first, in pieces that fit into memory however many there are.
pub(super) struct Pages<'a> {
    store: &'a dyn Store,
    filter: Filter,
    /// How many more are wanted.
    left: usize,
}

impl<'a> Pages<'a> {
    /// The tasks that pass `filter`, `filter.tasks_max` at most.
    pub(super) fn new(store: &'a dyn Store, filter: Filter) -> Self {
        Self { store, left: filter.tasks_max, filter }
    }

    /// The next ones; none at the end.
    pub(super) async fn next(&mut self) -> Result<Vec<Task>, Failure> {
        self.filter.tasks_max = self.left.min(TASKS_AT_ONCE);
        if self.left == 0 {
            return Ok(Vec::new());
        }
        let tasks = self.store.tasks(self.filter.clone()).await.map_err(failure)?;
        self.left = match tasks.len() < self.filter.tasks_max {
            true => 0,
            false => self.left - tasks.len(),
        };
        self.filter.before = tasks.last().map(|task| task.id).or(self.filter.before);
        Ok(tasks)
    }
}
