//! `server`: takes messages over HTTP and stores them durably.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use prometheus_client::registry::Registry;
use tokio::sync::{Semaphore, watch};

use super::broker_metrics::BrokerMetrics;
use super::exit::{Exit, Failure, OrExit};
use super::front::{Entrance, Front, Service};
use super::page::{self, PageParts};
use super::process::{self, Process};
use super::settings::{
    Broker, CommonSettings, HttpSettings, ServerSettings, Servers, TaskServerSettings, both,
};
use super::task_rooms::{TaskHealth, TaskParts, TaskRooms};
use super::task_store::TaskStore;
use super::topics;
use crate::broker::Publish;
use crate::broker::embedded::EmbeddedBroker;
use crate::broker::idempotency::KeyRetention;
use crate::broker::rabbitmq::publisher::RabbitPublisher;
use crate::broker::wake::Waker;
use crate::page::health::RemoteBroker;
use crate::rooms::messages::api::{self, Api};
use crate::rooms::messages::dead::{self, DeadLetters};
use crate::rooms::telemetry::road::Road;
use crate::rooms::telemetry::ships;
use crate::rooms::telemetry::ships::api::Ships;
use crate::rooms::telemetry::ships::redis::trouble;
use crate::rooms::telemetry::spaceship::forward::{self, Forward};
use crate::rooms::watch::{PipelineMetrics, Watch};
use crate::service::Lifecycle;
use crate::state::State;
use crate::web::{Auth, BodyReader, BodySettings, Budget, HttpMetrics, Readiness, Room, Seats};

pub(super) const EXAMPLES: &str = "\
Examples:
  async-data-processor server
  PORT=8081 SHARDS_COUNT=8 async-data-processor server
  curl -d '[{\"timestamp\":\"2026-11-22T07:30:00Z\",\"value\":\"hello\"}]' 127.0.0.1:8080/message";

/// How often the server looks whether its messages get on.
const WATCH_EVERY: Duration = Duration::from_secs(30);
/// WebSockets at once.
const LISTENERS_MAX: usize = 512;

pub(super) fn run(settings: ServerSettings) -> Result<Exit, Failure> {
    let ServerSettings { common, http, port, tasks, road } = settings;
    let checked = both(both(http.check(), road.check()), common.servers());
    let ((checked, road), Servers { broker, database }) = checked.map_err(Failure::of_settings)?;
    process::run("server", &common.state, &common.process, async |process| {
        let store = TaskStore::open(&process, database.as_ref()).await?;
        let front = Front::new(&http, checked, &process);
        let entrance = front.listen(port.port()).await?;
        let (common, http, tasks, road, front) = (&common, &http, &tasks, &road.road, &front);
        let serving = Serving { common, http, tasks, road, front, entrance };
        serve_all(process, serving, broker, &store).await
    })
}

/// What is served, and how.
pub(super) struct Serving<'a> {
    pub(super) common: &'a CommonSettings,
    pub(super) http: &'a HttpSettings,
    pub(super) tasks: &'a TaskServerSettings,
    /// The way to the spaceship.
    pub(super) road: &'a Road,
    pub(super) front: &'a Front<'a>,
    pub(super) entrance: Entrance,
}

/// Serves the API until the process stops.
pub(super) async fn serve_all(
    process: Process,
    Serving { common, http, tasks: settings, road, front, entrance }: Serving<'_>,
    broker: Option<Broker>,
    store: &TaskStore,
) -> Result<(), Failure> {
    let watch = Arc::new(Watch::new(process.state.clone(), Arc::clone(&process.clock)));
    let mut registry = Registry::with_prefix("async_data_processor");
    let http_metrics = HttpMetrics::register(&mut registry);
    registry.register_collector(Box::new(PipelineMetrics(Arc::clone(&watch))));
    let budget = Budget::new(Budget::DEFAULT_BYTES, &http_metrics);
    let address_of_broker = broker.as_ref().map(|broker| &broker.address);
    let seats = Seats::new(LISTENERS_MAX);
    seats.register(&mut registry);
    let parts = TaskParts { process: &process, settings, store, seats: seats.clone() };
    let tasks = TaskRooms::start(&parts, address_of_broker, &mut registry)?;
    let keys = http.key_retention(&common.keys);
    let shown_broker = broker.as_ref().map(|broker| broker.address.to_string());
    let (publisher, rabbit) = publisher(&process, keys, broker, &mut registry)?;
    let health = Health {
        watch: Arc::clone(&watch),
        rabbit: rabbit.clone(),
        tasks: tasks.health(),
        state: process.state.clone(),
    };
    let remote = rabbit.clone().zip(shown_broker).map(|(rabbit, address)| RemoteBroker {
        address,
        readiness: Arc::new(BrokerHealth(rabbit)),
    });
    let health = Arc::new(health);
    let changed = watch::Sender::new(0);
    let streams_changed = changed.subscribe();
    let bodies = BodyReader::new(BodySettings::default(), Arc::clone(&budget));
    let forward = Forward { road: road.clone(), bodies, changed };
    let mut rooms = message_rooms(&process, common, publisher, &budget, &front.auth)?;
    rooms.push(forward::room(forward, &front.auth));
    rooms.extend(tasks.rooms(&budget, &front.auth));
    let parts = PageParts {
        process: &process,
        tasks: settings,
        store,
        seats: &seats,
        watch: &watch,
        rabbit: rabbit.as_ref(),
        readiness: Arc::clone(&health) as _,
        broker: remote,
        road,
        streams_changed,
    };
    rooms.push(page::room(parts, &front.auth)?);
    tokio::spawn(warn_of_problems(Arc::clone(&health), process.life.clone()));
    let (title, readiness) = ("async-data-processor", health);
    let service = Service { title, rooms, registry, http_metrics, readiness };
    front.serve(entrance, &process, service).await;
    if let Some(rabbit) = rabbit {
        rabbit.close().await;
    }
    tasks.end().await;
    Ok(())
}

/// The rooms of messages and of what has become of them and of telemetry.
fn message_rooms(
    process: &Process,
    common: &CommonSettings,
    publisher: Arc<dyn Publish>,
    budget: &Arc<Budget>,
    auth: &Auth,
) -> Result<Vec<Room>, Failure> {
    let api = Api {
        publisher,
        bodies: BodyReader::new(BodySettings::default(), Arc::clone(budget)),
        state: process.state.clone(),
        shards: common.shards.count(),
    };
    let ships = Ships { state: process.state.clone(), clock: Arc::clone(&process.clock) };
    let letters = dead_letters(process, common, budget)?;
    Ok(vec![api::room(api, auth), dead::room(letters, auth), ships::api::room(ships, auth)])
}

/// What the room of the dead letters works on.
fn dead_letters(
    process: &Process,
    common: &CommonSettings,
    budget: &Arc<Budget>,
) -> Result<DeadLetters, Failure> {
    let waker = Waker::new(process.state.dir());
    Ok(DeadLetters {
        state: process.state.clone(),
        bodies: BodyReader::new(BodySettings::default(), Arc::clone(budget)),
        clock: Arc::clone(&process.clock),
        waker: waker.context("wake-up sockets").or_exit(Exit::CannotCreate)?,
        place_of: topics::place_of,
        shards: common.shards.count(),
        desks: Arc::new(Semaphore::new(dead::READ_AT_ONCE)),
    })
}

/// Where messages go: into the state directory, or over the broker, whose figures are shown then.
fn publisher(
    process: &Process,
    keys: KeyRetention,
    broker: Option<Broker>,
    registry: &mut Registry,
) -> Result<(Arc<dyn Publish>, Option<RabbitPublisher>), Failure> {
    let Some(broker) = broker else {
        return Ok((Arc::new(embedded_publisher(process, keys)?), None));
    };
    let rabbit = rabbit_publisher(process, keys, broker)?;
    registry.register_collector(Box::new(BrokerMetrics(rabbit.clone())));
    Ok((Arc::new(rabbit.clone()), Some(rabbit)))
}

pub(super) fn embedded_publisher(
    process: &Process,
    keys: KeyRetention,
) -> Result<EmbeddedBroker, Failure> {
    let (state, clock) = (process.state.clone(), Arc::clone(&process.clock));
    let publisher = EmbeddedBroker::new(state, clock, keys);
    publisher.context("wake-up sockets").or_exit(Exit::CannotCreate)
}

pub(super) fn rabbit_publisher(
    process: &Process,
    keys: KeyRetention,
    Broker { address, topology }: Broker,
) -> Result<RabbitPublisher, Failure> {
    let (state, clock) = (process.state.clone(), Arc::clone(&process.clock));
    let life = process.life.clone();
    let started = RabbitPublisher::start(address, topology, state, clock, keys, life);
    started.context("random bits").or_exit(Exit::Software)
}

/// What stands in the way of work: here, and at the broker.
struct Health {
    watch: Arc<Watch>,
    rabbit: Option<RabbitPublisher>,
    tasks: TaskHealth,
    state: State,
}

impl Readiness for Health {
    fn problems(&self) -> Vec<String> {
        let broker = self.rabbit.as_ref().map(RabbitPublisher::problems).unwrap_or_default();
        let mut problems: Vec<String> = self.watch.problems();
        problems.extend(broker.into_iter().chain(self.tasks.problems()));
        // That it cannot be read is told already.
        problems.extend(trouble::look(&self.state).ok().flatten());
        // Messages and tasks go over one broker.
        let mut told = BTreeSet::new();
        problems.retain(|problem| told.insert(problem.clone()));
        problems
    }
}

/// What stands in the way of messages at the broker.
struct BrokerHealth(RabbitPublisher);

impl Readiness for BrokerHealth {
    fn problems(&self) -> Vec<String> {
        self.0.problems()
    }
}

/// Says in the log what `/readyz` would, when it changes.
async fn warn_of_problems(health: Arc<Health>, life: Lifecycle) {
    let mut told = BTreeSet::new();
    loop {
        tokio::select! {
            () = life.stopping() => return,
            () = tokio::time::sleep(WATCH_EVERY) => {}
        }
        let health = Arc::clone(&health);
        let Ok(problems) = tokio::task::spawn_blocking(move || health.problems()).await else {
            return;
        };
        // The figures in a text change all the time; its beginning says which problem it is.
        let kind = |text: &String| text.split(':').next().unwrap_or_default().to_owned();
        for problem in problems.iter().filter(|problem| !told.contains(&kind(problem))) {
            tracing::warn!("{problem}");
        }
        told = problems.iter().map(kind).collect();
    }
}
