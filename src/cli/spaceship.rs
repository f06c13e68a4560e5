//! `spaceship`: streams telemetry over UDP, on request.

use std::sync::Arc;

use axum::Router;
use prometheus_client::registry::Registry;

use super::exit::{Exit, Failure};
use super::front::{Entrance, Front, Service};
use super::process::{self, Process};
use super::settings::{SpaceshipCommand, SpaceshipSettings};
use crate::rooms::telemetry::spaceship::api::{self, Spaceship};
use crate::rooms::telemetry::spaceship::fleet::Fleet;
use crate::rooms::telemetry::spaceship::metrics::StreamMetrics;
use crate::service::Lifecycle;
use crate::web::{Auth, BodyReader, BodySettings, Budget, HttpMetrics, Readiness};

pub(super) const EXAMPLES: &str = "\
Examples:
  async-data-processor spaceship
  STREAM_RATE=0 async-data-processor spaceship --allow-target 10.0.0.0/8
  curl -d '{\"host\":\"127.0.0.1\",\"port\":5000}' 127.0.0.1:8001/stream/";

pub(super) fn run(command: &SpaceshipCommand) -> Result<Exit, Failure> {
    let SpaceshipCommand { log, process, http, spaceship } = command;
    let checked = http.check().map_err(Failure::of_settings)?;
    process::run_without_state("spaceship", log, process, async |process| {
        let front = Front::new(http, checked, &process);
        let entrance = front.listen(spaceship.port()).await?;
        Ship::new(&process, spaceship).serve(&process, &front, entrance).await;
        Ok(())
    })
}

/// The streams of this process, and who answers for them.
pub(super) struct Ship {
    spaceship: Arc<Spaceship>,
    registry: Registry,
    http_metrics: Arc<HttpMetrics>,
}

impl Ship {
    pub(super) fn new<S>(process: &Process<S>, settings: &SpaceshipSettings) -> Self {
        let mut registry = Registry::with_prefix("async_data_processor");
        let http_metrics = HttpMetrics::register(&mut registry);
        let metrics = StreamMetrics::register(&mut registry);
        let budget = Budget::new(Budget::DEFAULT_BYTES, &http_metrics);
        let spaceship = Arc::new(Spaceship {
            fleet: Arc::new(settings.fleet(Arc::clone(&process.clock), metrics)),
            rules: settings.rules(),
            defaults: settings.defaults(),
            bodies: BodyReader::new(BodySettings::default(), budget),
        });
        Self { spaceship, registry, http_metrics }
    }

    /// The API for others in this process, whom it trusts.
    pub(super) fn within(&self) -> Router {
        api::room(Arc::clone(&self.spaceship), &Auth::open()).router
    }

    /// Serves the API until the process stops, and ends all streams then.
    pub(super) async fn serve<S>(
        self,
        process: &Process<S>,
        front: &Front<'_>,
        entrance: Entrance,
    ) {
        let Self { spaceship, registry, http_metrics } = self;
        let fleet = Arc::clone(&spaceship.fleet);
        let service = Service {
            title: "async-data-processor spaceship",
            rooms: vec![api::room(spaceship, &front.auth)],
            registry,
            http_metrics,
            readiness: Arc::new(Ready),
        };
        let ending = end_streams(fleet, &process.life);
        tokio::join!(front.serve(entrance, process, service), ending);
    }
}

/// Requests in flight are answered meanwhile: of streams that have ended.
async fn end_streams(fleet: Arc<Fleet>, life: &Lifecycle) {
    life.stopping().await;
    // A thread that panicked has ended its streams nonetheless when the process ends.
    let _panicked = tokio::task::spawn_blocking(move || fleet.close()).await;
}

/// It needs nothing that could be missing.
struct Ready;

impl Readiness for Ready {
    fn problems(&self) -> Vec<String> {
        Vec::new()
    }
}
