//! `scheduler`: takes schedules over HTTP, and starts what recurs.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use prometheus_client::registry::Registry;

use super::exit::{Exit, Failure, OrExit};
use super::front::{Entrance, Front, Service};
use super::process::{self, Process};
use super::settings::{SchedulerCommand, both};
use super::task_store::TaskStore;
use crate::rooms::schedules::api::{self, Scheduler};
use crate::rooms::schedules::metrics::ScheduleMetrics;
use crate::rooms::schedules::starter::Starter;
use crate::rooms::telemetry::order;
use crate::service::held;
use crate::task::Name;
use crate::tasks::keeper::Hearing;
use crate::web::{BodyReader, BodySettings, Budget, HttpMetrics, Readiness};

pub(super) const EXAMPLES: &str = "\
What is due is run by `message-consumer` (captures and other tasks) or `task-worker`, or over
RabbitMQ by those that a `server` with the same DATABASE_URL hands it to.

Examples:
  async-data-processor scheduler
  DATABASE_URL=postgres://ann@db/jobs async-data-processor scheduler
  curl -d '{\"ship_name\":\"TARDIS\",\"start_time\":\"2026-11-22T07:30:00Z\",\"duration\":60}' \\
    127.0.0.1:8000/scheduler/";

pub(super) fn run(settings: SchedulerCommand) -> Result<Exit, Failure> {
    let SchedulerCommand { state, process, database, http, port, retention } = settings;
    let checked = both(http.check(), database.check());
    let (checked, database) = checked.map_err(Failure::of_settings)?;
    process::run("scheduler", &state, &process, async |process| {
        let store = TaskStore::open(&process, database.as_ref()).await?;
        let front = Front::new(&http, checked, &process);
        let entrance = front.listen(port.port()).await?;
        let keeping = store.keep(&process, Some(Arc::new(Deaf)), retention.keep_for());
        let served = serve_scheduler(&process, &front, entrance, &store).await;
        keeping.abort();
        served
    })
}

/// Says of itself that it hears no worker, so that the keeper buries none: a broker may bring their
/// signs of life, which this process does not know. Who runs tasks, or dispatches them, buries.
#[derive(Debug)]
struct Deaf;

impl Hearing for Deaf {
    fn hearing_since(&self) -> Option<Instant> {
        None
    }
}

/// Serves the API of the schedules, and starts what recurs, until the process stops. Somebody has
/// to keep the store meanwhile.
pub(super) async fn serve_scheduler(
    process: &Process,
    front: &Front<'_>,
    entrance: Entrance,
    store: &TaskStore,
) -> Result<(), Failure> {
    let mut registry = Registry::with_prefix("async_data_processor");
    let http_metrics = HttpMetrics::register(&mut registry);
    let metrics = ScheduleMetrics::register(&mut registry);
    let capture: Name = order::KIND.parse().or_exit(Exit::Software)?;
    let (tasks, clock) = (Arc::clone(&store.store), Arc::clone(&process.clock));
    let starter = Starter::new(tasks, clock, capture.clone(), metrics);
    let scheduler = Scheduler {
        store: Arc::clone(&store.store),
        bodies: BodyReader::new(
            BodySettings::default(),
            Budget::new(Budget::DEFAULT_BYTES, &http_metrics),
        ),
        clock: Arc::clone(&process.clock),
        capture,
    };
    let rooms = vec![api::room(scheduler, &front.auth)];
    let readiness = Arc::new(Health(starter.problem()));
    let starting = tokio::spawn(starter.run(process.life.clone()));
    let title = "async-data-processor scheduler";
    let service = Service { title, rooms, registry, http_metrics, readiness };
    front.serve(entrance, process, service).await;
    // It ends with the process, as the service does.
    let _ended = starting.await;
    Ok(())
}

/// What keeps schedules from being started.
struct Health(Arc<Mutex<Option<String>>>);

impl Readiness for Health {
    fn problems(&self) -> Vec<String> {
        held(&self.0).iter().cloned().collect()
    }
}
