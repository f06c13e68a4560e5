//! Captures, beside whatever else a process does: they mostly wait, and so have slots of their own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Handle;

use super::exit::{Exit, Failure, OrExit};
use super::process::Process;
use super::server::{embedded_publisher, rabbit_publisher};
use super::settings::{Broker, CheckedCapture, CommonSettings};
use super::task_store::TaskStore;
use super::task_worker::TaskSource;
use crate::broker::Publish;
use crate::broker::idempotency::KeyRetention;
use crate::broker::rabbitmq::pipes::RabbitWorkerPipes;
use crate::rooms::telemetry::capture::outbox::Budget;
use crate::rooms::telemetry::capture::ship::Spaceship;
use crate::rooms::telemetry::capture::work::{Capturer, PAUSES};
use crate::rooms::telemetry::order;
use crate::rooms::telemetry::road::Road;
use crate::service::presence::Part;
use crate::task::Name;
use crate::tasks::direct::DirectSupply;
use crate::tasks::engine::Engine;
use crate::tasks::handler::Handler;
use crate::tasks::piped::PipedSupply;
use crate::tasks::spool::{ACCOUNTS, Spool};
use crate::tasks::supply::Supply;

/// How soon it is looked for captures again, whatever else is submitted.
const CLAIM_GAP: Duration = Duration::from_millis(50);

/// What captures work with.
pub(super) struct Capturing<'a> {
    pub(super) settings: &'a CheckedCapture,
    /// The way to the spaceship.
    pub(super) road: &'a Road,
    /// Where tasks come from.
    pub(super) source: &'a TaskSource<'a>,
    pub(super) common: &'a CommonSettings,
    /// Where telemetry goes, if not straight into the state directory.
    pub(super) broker: Option<Broker>,
}

/// Captures until the process stops.
pub(super) async fn capture_from(
    process: Process,
    capturing: Capturing<'_>,
) -> Result<(), Failure> {
    if capturing.settings.captures_max == 0 {
        process.life.stopping().await;
        return Ok(());
    }
    // Only the process that has sent a parcel off sends it again.
    let keys = KeyRetention::NONE;
    let Some(broker) = capturing.broker.clone() else {
        let publisher = Arc::new(embedded_publisher(&process, keys)?);
        return capture(process, &capturing, publisher).await;
    };
    let rabbit = rabbit_publisher(&process, keys, broker)?;
    let captured = capture(process, &capturing, Arc::new(rabbit.clone())).await;
    rabbit.close().await;
    captured
}

async fn capture(
    process: Process,
    Capturing { settings, road, source, common, .. }: &Capturing<'_>,
    publisher: Arc<dyn Publish>,
) -> Result<(), Failure> {
    let CheckedCapture { captures_max, socket } = (*settings).clone();
    let road = Road::clone(road);
    let spaceship = Arc::new(Spaceship::new(road));
    let kind: Name = order::KIND.parse().or_exit(Exit::Software)?;
    tracing::info!(captures_max, %spaceship, "running captures");
    process.presence.add(Part {
        service: "captures".to_owned(),
        slots: u64::try_from(captures_max).ok(),
        kinds: vec![kind.as_str().to_owned()],
        ..Part::default()
    });
    let capturer = Capturer {
        spaceship,
        pauses: PAUSES.to_vec(),
        socket,
        publisher,
        shards: common.shards.count(),
        budget: Budget::default(),
        runtime: Handle::current(),
        clock: Arc::clone(&process.clock),
    };
    let dir = process.state.dir();
    let what = || format!("{}: the folder of results on their way", dir.display());
    let (spool, left) =
        Spool::open(dir, ACCOUNTS).with_context(what).or_exit(Exit::CannotCreate)?;
    let spool = Arc::new(spool);
    let engine = Engine {
        supply: supply(&process, source, &kind, &spool),
        handlers: HashMap::from([(kind, Arc::new(capturer) as Arc<dyn Handler>)]),
        slots: captures_max,
        spool,
        left,
        clock: Arc::clone(&process.clock),
        life: process.life.clone(),
        // A window may last for hours; another process, or the next start, captures the rest of it.
        finish_within: process.shutdown / 10,
    };
    engine.run().await.context("starting a thread").or_exit(Exit::Software)
}

fn supply(
    process: &Process,
    source: &TaskSource<'_>,
    kind: &Name,
    spool: &Arc<Spool>,
) -> Arc<dyn Supply> {
    match source {
        TaskSource::Store(TaskStore { store, is_remote }) => {
            let (store, clock) = (Arc::clone(store), Arc::clone(&process.clock));
            let kinds = vec![kind.clone()];
            let supply = DirectSupply::new(store, clock, None, kinds, *is_remote);
            Arc::new(supply.with_gap(CLAIM_GAP))
        }
        TaskSource::Broker(address) => {
            let pipes = Arc::new(RabbitWorkerPipes::of_kind(address, kind, &process.life));
            let spool = Arc::clone(spool);
            Arc::new(PipedSupply::new(pipes, Box::new(move |id| spool.holds(id))))
        }
    }
}
