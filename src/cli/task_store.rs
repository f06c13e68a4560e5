//! Opens the store of tasks, and says where jobs come from.

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use tokio::task::JoinHandle;

use super::exit::{Exit, Failure};
use super::process::{Process, open_existing_state};
use super::settings::StateSettings;
use crate::store::sqlite::SqliteStore;
use crate::store::{Store, StoreError};
use crate::task::Name;
use crate::tasks::direct::DirectSupply;
use crate::tasks::keeper::Keeper;
use crate::tasks::supply::Supply;

/// Where a worker finds its tasks.
pub(super) enum TaskSource {
    /// In the rows of a store; `is_remote`, if that is on another machine.
    Store { store: Arc<dyn Store>, is_remote: bool },
}

impl TaskSource {
    /// The supply for a worker.
    pub(super) fn supply(
        self,
        process: &Process,
        endpoint: Option<Name>,
        kinds: Vec<Name>,
    ) -> Arc<dyn Supply> {
        match self {
            Self::Store { store, is_remote } => {
                let clock = Arc::clone(&process.clock);
                Arc::new(DirectSupply::new(store, clock, endpoint, kinds, is_remote))
            }
        }
    }
}

/// The store of a long-running command.
pub(super) async fn open(process: &Process) -> Result<Arc<dyn Store>, Failure> {
    let dir = process.state.dir().to_owned();
    let opened = tokio::task::spawn_blocking(move || SqliteStore::open(&dir)).await;
    let opened = opened.map_err(|error| Failure::new(Exit::Software, error))?;
    opened.map(|store| Arc::new(store) as Arc<dyn Store>).map_err(failure)
}

/// Keeps the store until the process stops; `keep_for` is how long ended tasks are kept, if this
/// process clears them away.
pub(super) fn keep(
    process: &Process,
    store: &Arc<dyn Store>,
    keep_for: Option<Duration>,
) -> JoinHandle<()> {
    let keeper = Keeper {
        store: Arc::clone(store),
        clock: Arc::clone(&process.clock),
        life: process.life.clone(),
        hearing: None,
        keep_for,
    };
    tokio::spawn(keeper.run())
}

fn failure(error: StoreError) -> Failure {
    let exit = match &error {
        StoreError::Unavailable(_) => Exit::Unavailable,
        StoreError::Full(_) => Exit::Io,
        StoreError::Broken(_) => Exit::CannotCreate,
    };
    Failure::new(exit, error)
}

/// The tasks, for a tool; and the state directory, which is held as long as it works.
pub(super) struct ToolStore {
    pub(super) store: Arc<dyn Store>,
    _state: crate::state::State,
}

/// The store of a tool that may make it.
pub(super) fn open_for_tool(settings: &StateSettings) -> Result<ToolStore, Failure> {
    let state = super::process::open_state(settings, &crate::service::Lifecycle::new())?;
    let store = SqliteStore::open(state.dir()).map_err(failure)?;
    Ok(ToolStore { store: Arc::new(store), _state: state })
}

/// The store of a tool that only looks, and so makes nothing.
pub(super) fn open_existing(settings: &StateSettings) -> Result<ToolStore, Failure> {
    let state = open_existing_state(settings)?;
    if !SqliteStore::exists(state.dir()) {
        let error = anyhow!(
            "state directory {} holds no tasks yet; is STATE_DIR right?",
            state.dir().display()
        );
        return Err(Failure::new(Exit::CannotCreate, error));
    }
    let store = SqliteStore::open(state.dir()).map_err(failure)?;
    Ok(ToolStore { store: Arc::new(store), _state: state })
}
