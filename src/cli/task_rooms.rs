//! What a server has to do with tasks: its rooms, and what keeps the store.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::task::JoinHandle;

use super::exit::{Exit, Failure, OrExit};
use super::process::Process;
use super::settings::{CalculationSettings, CommonSettings};
use super::task_store;
use crate::rooms::calculations::api::{self as calculations, Calculations, CalculationsSettings};
use crate::rooms::calculations::hub::{Hub, HubSettings};
use crate::rooms::calculations::order;
use crate::rooms::tasks::api::{self as tasks, Tasks};
use crate::rooms::tasks::metrics::TaskMetrics;
use crate::store::Store;
use crate::task::Name;
use crate::web::{Auth, BodyReader, BodySettings, Budget, Room};

/// The most bytes of a body with tasks.
const TASKS_BYTES_MAX: usize = 8 << 20;
/// The most bytes of what an outside worker sends: the largest result, and what stands around it.
const UPLOAD_BYTES_MAX: usize = 128 << 20;
/// How long that may take.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(900);
/// How long an outside worker may take for a calculation.
const OUTSIDE_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
/// WebSockets at once.
const LISTENERS_MAX: usize = 512;

/// What is left to do when the server stops.
pub(super) struct TaskRooms {
    hub: Hub,
    keeping: JoinHandle<()>,
}

impl TaskRooms {
    /// Starts what the server does for the tasks; the rooms to serve.
    pub(super) fn start(
        process: &Process,
        common: &CommonSettings,
        settings: &CalculationSettings,
        store: &Arc<dyn Store>,
        registry: &mut Registry,
    ) -> Result<Self, Failure> {
        let kind: Name = order::KIND.parse().or_exit(Exit::Software)?;
        let hub_settings = HubSettings {
            kind,
            output_length_max: settings.max_length,
            listeners_max: LISTENERS_MAX,
        };
        let hub = Hub::start(Arc::clone(store), hub_settings, process.life.clone());
        hub.register(registry);
        let metrics = TaskMetrics::start(Arc::clone(store), process.life.clone());
        registry.register_collector(Box::new(metrics));
        let keeping = task_store::keep(process, store, common.keep.keep_for());
        Ok(Self { hub, keeping })
    }

    /// The rooms to serve.
    pub(super) fn rooms(
        &self,
        process: &Process,
        settings: &CalculationSettings,
        store: &Arc<dyn Store>,
        budget: &Arc<Budget>,
        auth: &Auth,
    ) -> Result<[Room; 2], Failure> {
        let kind: Name = order::KIND.parse().or_exit(Exit::Software)?;
        let reader = |settings| BodyReader::new(settings, Arc::clone(budget));
        let uploads = BodySettings {
            max_bytes: UPLOAD_BYTES_MAX,
            timeout: UPLOAD_TIMEOUT,
            ..BodySettings::default()
        };
        let bulk = BodySettings { max_bytes: TASKS_BYTES_MAX, ..BodySettings::default() };
        let calculations = Calculations {
            store: Arc::clone(store),
            bodies: reader(BodySettings::default()),
            uploads: reader(uploads),
            clock: Arc::clone(&process.clock),
            hub: self.hub.clone(),
            settings: CalculationsSettings {
                kind,
                input_max: settings.calculation_input_max,
                output_length_max: settings.max_length,
                outside_timeout: OUTSIDE_TIMEOUT,
                scratch: process.state.dir().join("uploads"),
            },
        };
        let tasks = Tasks {
            store: Arc::clone(store),
            bodies: reader(bulk),
            clock: Arc::clone(&process.clock),
        };
        Ok([calculations::room(calculations, auth), tasks::room(tasks, auth)])
    }

    /// Waits until all listeners were told of the stop, and ends what keeps the store.
    pub(super) async fn end(self) {
        self.keeping.abort();
        let _late = tokio::time::timeout(Duration::from_secs(1), self.hub.closed()).await;
    }
}
