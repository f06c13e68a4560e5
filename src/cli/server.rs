//! `server`: takes messages over HTTP and stores them durably.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use super::broker_metrics::BrokerMetrics;
use super::exit::{Exit, Failure, OrExit};
use super::process::{self, Process};
use super::settings::{
    Broker, CheckedHttp, CommonSettings, HttpSettings, ServerSettings, Servers, TaskServerSettings,
    both,
};
use super::task_rooms::{TaskHealth, TaskParts, TaskRooms};
use super::task_store::TaskStore;
use crate::broker::Publish;
use crate::broker::embedded::EmbeddedBroker;
use crate::broker::idempotency::KeyRetention;
use crate::broker::rabbitmq::publisher::RabbitPublisher;
use crate::rooms::messages::api::{self, Api};
use crate::rooms::messages::watch::{PipelineMetrics, Watch};
use crate::service::Lifecycle;
use crate::web::{
    AppParts, Auth, BodyReader, BodySettings, Budget, HttpMetrics, Readiness, app, check_listen,
    serve,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  async-data-processor server
  PORT=8081 SHARDS_COUNT=8 async-data-processor server
  curl -d '[{\"timestamp\":\"2026-11-22T07:30:00Z\",\"value\":\"hello\"}]' 127.0.0.1:8080/message";

/// How often the server looks whether its messages get on.
const WATCH_EVERY: Duration = Duration::from_secs(30);

pub(super) fn run(settings: ServerSettings) -> Result<Exit, Failure> {
    let ServerSettings { common, http, tasks } = settings;
    let checked = both(http.check(), common.servers());
    let (checked, Servers { broker, database }) = checked.map_err(Failure::of_settings)?;
    process::run("server", &common.state, &common.process, async |process| {
        let store = TaskStore::open(&process, database.as_ref()).await?;
        let serving = Serving { common: &common, http: &http, tasks: &tasks };
        serve_all(process, serving, checked, broker, &store).await
    })
}

/// What is served, and how.
pub(super) struct Serving<'a> {
    pub(super) common: &'a CommonSettings,
    pub(super) http: &'a HttpSettings,
    pub(super) tasks: &'a TaskServerSettings,
}

/// Serves the API until the process stops.
pub(super) async fn serve_all(
    process: Process,
    Serving { common, http, tasks: settings }: Serving<'_>,
    checked: CheckedHttp,
    broker: Option<Broker>,
    store: &TaskStore,
) -> Result<(), Failure> {
    let listener = listen(http, &checked).await?;
    let address = listener.local_addr().context("the listener's address").or_exit(Exit::Io)?;
    let watch = Arc::new(Watch::new(process.state.clone(), Arc::clone(&process.clock)));
    let mut registry = Registry::with_prefix("async_data_processor");
    let http_metrics = HttpMetrics::register(&mut registry);
    registry.register_collector(Box::new(PipelineMetrics(Arc::clone(&watch))));
    let budget = Budget::new(Budget::DEFAULT_BYTES, &http_metrics);
    let address_of_broker = broker.as_ref().map(|broker| &broker.address);
    let parts = TaskParts { process: &process, settings, store };
    let tasks = TaskRooms::start(&parts, address_of_broker, &mut registry)?;
    let keys = http.key_retention(&common.keys);
    let (publisher, rabbit) = publisher(&process, keys, broker, &mut registry)?;
    let health = Arc::new(Health { watch, rabbit: rabbit.clone(), tasks: tasks.health() });
    let auth = match checked.tokens {
        Some(tokens) => Auth::with_tokens(tokens, http.rate_limit, Arc::clone(&process.clock)),
        None => Auth::open(),
    };
    let api = Api {
        publisher,
        bodies: BodyReader::new(BodySettings::default(), Arc::clone(&budget)),
        state: process.state.clone(),
        shards: common.shards.count(),
    };
    let parts = AppParts {
        title: "async-data-processor",
        version: env!("CARGO_PKG_VERSION"),
        check_host: address.ip().is_loopback(),
        cors: checked.cors,
        debug_errors: http.debug_errors,
        http_metrics: Arc::clone(&http_metrics),
        registry: Arc::new(registry),
        readiness: Arc::clone(&health) as Arc<dyn Readiness>,
        life: process.life.clone(),
        auth: auth.clone(),
    };
    let mut rooms = vec![api::room(api, &auth)];
    rooms.extend(tasks.rooms(&budget, &auth));
    let router = app(rooms, parts);
    tokio::spawn(warn_of_problems(health, process.life.clone()));
    let settings = Arc::new(http.serve_settings(process.shutdown * 4 / 5));
    serve(listener, router, settings, checked.tls, http_metrics, &process.life).await;
    if let Some(rabbit) = rabbit {
        rabbit.close().await;
    }
    tasks.end().await;
    Ok(())
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

fn embedded_publisher(process: &Process, keys: KeyRetention) -> Result<EmbeddedBroker, Failure> {
    let (state, clock) = (process.state.clone(), Arc::clone(&process.clock));
    let publisher = EmbeddedBroker::new(state, clock, keys);
    publisher.context("wake-up sockets").or_exit(Exit::CannotCreate)
}

fn rabbit_publisher(
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
}

impl Readiness for Health {
    fn problems(&self) -> Vec<String> {
        let broker = self.rabbit.as_ref().map(RabbitPublisher::problems).unwrap_or_default();
        let mut problems: Vec<String> = self.watch.problems();
        problems.extend(broker.into_iter().chain(self.tasks.problems()));
        problems.dedup();
        problems
    }
}

/// Binds the address, if it may be listened on.
async fn listen(http: &HttpSettings, checked: &CheckedHttp) -> Result<TcpListener, Failure> {
    let target = format!("{}:{}", http.host, http.port);
    let addresses: Vec<SocketAddr> =
        tokio::net::lookup_host((http.host.trim_matches(['[', ']']), http.port))
            .await
            .with_context(|| format!("HOST {}: the name cannot be resolved", http.host))
            .or_exit(Exit::Config)?
            .collect();
    for address in &addresses {
        let (tokens, tls) = (checked.tokens.is_some(), checked.tls.is_some());
        check_listen(address.ip(), tokens, tls, http.insecure_listen).or_exit(Exit::Config)?;
    }
    let listener = TcpListener::bind(addresses.as_slice())
        .await
        .with_context(|| format!("cannot listen on {target} (HOST, PORT)"))
        .or_exit(Exit::Unavailable)?;
    let address = listener.local_addr().context("the listener's address").or_exit(Exit::Io)?;
    let scheme = if checked.tls.is_some() { "https" } else { "http" };
    tracing::info!(url = %format!("{scheme}://{address}"), "listening");
    Ok(listener)
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
