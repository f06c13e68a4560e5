//! What a server has to do with tasks: its rooms, and what keeps the store.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::task::JoinHandle;

use super::exit::{Exit, Failure, OrExit};
use super::process::Process;
use super::settings::TaskServerSettings;
use super::task_store::TaskStore;
use crate::broker::pipes::ServerPipes;
use crate::broker::rabbitmq::address::Address;
use crate::broker::rabbitmq::pipes::RabbitServerPipes;
use crate::rooms::calculations::api::{self as calculations, Calculations, CalculationsSettings};
use crate::rooms::calculations::hub::{Hub, HubSettings};
use crate::rooms::calculations::order;
use crate::rooms::schedules::api::{self as schedules, Scheduler};
use crate::rooms::tasks::api::{self as tasks, Tasks};
use crate::rooms::tasks::metrics::TaskMetrics;
use crate::rooms::telemetry::order as capture_order;
use crate::store::Store;
use crate::task::Name;
use crate::tasks::collect::Collector;
use crate::tasks::dispatch::Dispatcher;
use crate::tasks::keeper::Hearing;
use crate::web::{Auth, BodyReader, BodySettings, Budget, Room, Seats};

/// The most bytes of a body with tasks.
const TASKS_BYTES_MAX: usize = 8 << 20;
/// How long an outside worker may take for a calculation.
const OUTSIDE_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a stop waits for listeners to be told.
const LISTENERS_TOLD_WITHIN: Duration = Duration::from_secs(1);

/// What a server's part in the tasks is made of.
pub(super) struct TaskParts<'a> {
    pub(super) process: &'a Process,
    pub(super) settings: &'a TaskServerSettings,
    pub(super) store: &'a TaskStore,
    /// Places of those who listen to what changes.
    pub(super) seats: Seats,
}

/// What a server does for the tasks.
pub(super) struct TaskRooms<'a> {
    parts: &'a TaskParts<'a>,
    kind: Name,
    capture: Name,
    hub: Hub,
    metrics: TaskMetrics,
    carrying: Option<Carrying>,
    keeping: JoinHandle<()>,
}

/// Knows what keeps tasks from getting on.
pub(super) struct TaskHealth {
    metrics: TaskMetrics,
    pipes: Option<Arc<RabbitServerPipes>>,
}

impl TaskHealth {
    /// What does, in words for a person.
    pub(super) fn problems(&self) -> Vec<String> {
        let pipes = self.pipes.as_ref().map(|pipes| pipes.problems()).unwrap_or_default();
        self.metrics.problem().into_iter().chain(pipes).collect()
    }
}

/// What carries tasks to workers and results back.
struct Carrying {
    pipes: Arc<RabbitServerPipes>,
    dispatching: JoinHandle<()>,
    collecting: JoinHandle<()>,
}

impl<'a> TaskRooms<'a> {
    /// Starts what the server does for the tasks beside answering: telling listeners, keeping the
    /// store, and carrying tasks over the broker at `broker`, if there is one.
    pub(super) fn start(
        parts: &'a TaskParts<'a>,
        broker: Option<&Address>,
        registry: &mut Registry,
    ) -> Result<Self, Failure> {
        let TaskParts { process, settings, store, seats } = parts;
        let kind: Name = order::KIND.parse().or_exit(Exit::Software)?;
        let capture: Name = capture_order::KIND.parse().or_exit(Exit::Software)?;
        let hub_settings =
            HubSettings { kind: kind.clone(), output_length_max: settings.max_length };
        let (tasks, life) = (&store.store, &process.life);
        let hub = Hub::start(Arc::clone(tasks), hub_settings, seats.clone(), life.clone());
        let metrics = TaskMetrics::start(Arc::clone(tasks), life.clone());
        registry.register_collector(Box::new(metrics.clone()));
        let (carrying, hearing) = match broker {
            Some(address) => {
                let apart = std::slice::from_ref(&capture);
                let (carrying, hearing) = Carrying::start(address, apart, process, tasks);
                (Some(carrying), Some(hearing))
            }
            None => (None, None),
        };
        let keeping = store.keep(process, hearing, settings.retention.keep_for());
        Ok(Self { parts, kind, capture, hub, metrics, carrying, keeping })
    }

    /// The rooms to serve.
    pub(super) fn rooms(&self, budget: &Arc<Budget>, auth: &Auth) -> [Room; 3] {
        let TaskParts { process, settings, store, .. } = self.parts;
        let reader = |settings| BodyReader::new(settings, Arc::clone(budget));
        let bulk = BodySettings { max_bytes: TASKS_BYTES_MAX, ..BodySettings::default() };
        let calculating = Calculations {
            store: Arc::clone(&store.store),
            bodies: reader(BodySettings::default()),
            uploads: reader(calculations::upload_settings()),
            clock: Arc::clone(&process.clock),
            hub: self.hub.clone(),
            settings: CalculationsSettings {
                kind: self.kind.clone(),
                input_max: settings.calculation_input_max,
                output_length_max: settings.max_length,
                outside_timeout: OUTSIDE_TIMEOUT,
                scratch: process.state.dir().join("uploads"),
            },
        };
        let running = Tasks {
            store: Arc::clone(&store.store),
            bodies: reader(bulk),
            clock: Arc::clone(&process.clock),
        };
        let scheduling = Scheduler {
            store: Arc::clone(&store.store),
            bodies: reader(BodySettings::default()),
            clock: Arc::clone(&process.clock),
            capture: self.capture.clone(),
        };
        [
            calculations::room(calculating, auth),
            tasks::room(running, auth),
            schedules::room(scheduling, auth),
        ]
    }

    /// Who knows what keeps tasks from getting on.
    pub(super) fn health(&self) -> TaskHealth {
        let pipes = self.carrying.as_ref().map(|carrying| Arc::clone(&carrying.pipes));
        TaskHealth { metrics: self.metrics.clone(), pipes }
    }

    /// Waits until all listeners were told of the stop, and ends the rest.
    pub(super) async fn end(self) {
        self.keeping.abort();
        if let Some(Carrying { pipes, dispatching, collecting }) = self.carrying {
            let _ended = tokio::join!(dispatching, collecting);
            pipes.close().await;
        }
        let _late = tokio::time::timeout(LISTENERS_TOLD_WITHIN, self.parts.seats.closed()).await;
    }
}

impl Carrying {
    /// Starts to carry, kinds `apart` by queues of their own; and who knows whether workers are
    /// heard.
    fn start(
        address: &Address,
        apart: &[Name],
        process: &Process,
        store: &Arc<dyn Store>,
    ) -> (Self, Arc<dyn Hearing>) {
        let pipes = Arc::new(RabbitServerPipes::start(address, apart, &process.life));
        let of = || (Arc::clone(store), Arc::clone(&process.clock), process.life.clone());
        let (tasks, clock, life) = of();
        let collector = Collector::new(tasks, Arc::clone(&pipes) as _, clock, life);
        let hearing = collector.hearing();
        let (tasks, clock, life) = of();
        let pipe = Arc::clone(&pipes) as _;
        let dispatcher = Dispatcher::new(tasks, pipe, clock, life, Arc::clone(&hearing));
        let dispatching = tokio::spawn(async move { dispatcher.run().await });
        let collecting = tokio::spawn(async move { collector.run().await });
        (Self { pipes, dispatching, collecting }, hearing)
    }
}
