//! Opens the store of tasks: for long-running commands, and for tools.

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use tokio::task::JoinHandle;

use super::exit::{Exit, Failure};
use super::process::{Process, open_existing_state, open_state};
use super::settings::{Database, StateSettings};
use crate::service::Lifecycle;
use crate::state::State;
use crate::store::postgres::PostgresStore;
use crate::store::sqlite::SqliteStore;
use crate::store::{Store, StoreError};
use crate::tasks::keeper::{Hearing, Keeper};

/// A store, and whether it is on another machine.
#[derive(Clone)]
pub(super) struct TaskStore {
    pub(super) store: Arc<dyn Store>,
    pub(super) is_remote: bool,
}

impl TaskStore {
    /// The store of a long-running command.
    pub(super) async fn open(
        process: &Process,
        database: Option<&Database>,
    ) -> Result<Self, Failure> {
        if let Some(database) = database {
            let store = Arc::new(PostgresStore::connect(&database.address, &process.life));
            return Ok(Self { store, is_remote: true });
        }
        let dir = process.state.dir().to_owned();
        let opened = tokio::task::spawn_blocking(move || SqliteStore::open(&dir)).await;
        let opened = opened.map_err(|error| Failure::new(Exit::Software, error))?;
        Ok(Self { store: Arc::new(opened.map_err(failure)?), is_remote: false })
    }

    /// Keeps the store until the process stops. `hearing` tells whether workers are heard, if a
    /// broker brings their signs of life; `keep_for` is how long ended tasks are kept, if this
    /// process clears them away.
    pub(super) fn keep(
        &self,
        process: &Process,
        hearing: Option<Arc<dyn Hearing>>,
        keep_for: Option<Duration>,
    ) -> JoinHandle<()> {
        let keeper = Keeper {
            store: Arc::clone(&self.store),
            clock: Arc::clone(&process.clock),
            life: process.life.clone(),
            hearing,
            keep_for,
        };
        tokio::spawn(keeper.run())
    }
}

fn failure(error: StoreError) -> Failure {
    let exit = match &error {
        StoreError::Unavailable(_) => Exit::Unavailable,
        StoreError::Full(_) => Exit::Io,
        StoreError::Broken(_) => Exit::CannotCreate,
    };
    Failure::new(exit, error)
}

/// What a tool ends with whose database does not let it in.
pub(super) fn refused(life: &Lifecycle) -> Failure {
    let reason = life.failure().map_or_else(String::new, |failure| failure.reason);
    Failure::new(Exit::Config, anyhow!(reason))
}

/// The tasks, for a tool; and the state directory, which is held as long as it works.
pub(super) struct ToolStore {
    pub(super) store: Arc<dyn Store>,
    _state: Option<State>,
}

impl ToolStore {
    /// Tasks in a database.
    pub(super) fn connect(database: &Database, life: &Lifecycle) -> Self {
        let store = Arc::new(PostgresStore::connect(&database.address, life));
        Self { store, _state: None }
    }

    fn open(state: State) -> Result<Self, Failure> {
        let store = SqliteStore::open(state.dir()).map_err(failure)?;
        Ok(Self { store: Arc::new(store), _state: Some(state) })
    }
}

/// The store of a tool that may make it.
pub(super) fn open_or_make(settings: &StateSettings) -> Result<ToolStore, Failure> {
    ToolStore::open(open_state(settings, &Lifecycle::new())?)
}

/// The store of a tool that only looks, and so makes nothing.
pub(super) fn open_existing(settings: &StateSettings) -> Result<ToolStore, Failure> {
    let state = open_existing_state(settings)?;
    if !SqliteStore::exists(state.dir()) {
        let error = anyhow!(
            "state directory {} holds no tasks yet; is STATE_DIR right, or DATABASE_URL missing?",
            state.dir().display()
        );
        return Err(Failure::new(Exit::CannotCreate, error));
    }
    ToolStore::open(state)
}
