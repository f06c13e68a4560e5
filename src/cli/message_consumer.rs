//! `message-consumer`: brings waiting messages into files, exactly once; and runs tasks.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, anyhow};

use super::capturing::{Capturing, capture_from};
use super::exit::{Exit, Failure, OrExit};
use super::process::{self, Process, then_stop};
use super::settings::{BatchSettings, Broker, CommonSettings, ConsumerCommand, ShipSettings, both};
use super::task_worker::{with_source, work};
use super::topics;
use crate::batch::disk::OutputDir;
use crate::batch::output::OutputError;
use crate::broker::Feed;
use crate::broker::rabbitmq::bridge::{Bridge, BridgeParts};
use crate::consumer::{ConsumeError, Consumer};
use crate::rooms::telemetry::ships::redis::sink::{self, SinkParts};
use crate::rooms::telemetry::ships::redis::trouble;
use crate::service::presence::Part;
use crate::state::create_durable;

pub(super) const EXAMPLES: &str = "\
Examples:
  async-data-processor message-consumer
  DATA_OUTPUT_DIR=/srv/messages async-data-processor message-consumer --workers-count 2
  async-data-processor message-consumer --batch-min 1 --files-per-second 0   # a file at once
  async-data-processor message-consumer --exec 'jq -c .value'                # through a program";

pub(super) fn run(settings: ConsumerCommand) -> Result<Exit, Failure> {
    let ConsumerCommand { common, batch, worker, capture, road } = settings;
    let work_and_capture = both(worker.check(), both(capture.check(), road.check()));
    let checked = both(both(batch.check(), work_and_capture), common.servers());
    let (((), (worker, (capture, road))), servers) = checked.map_err(Failure::of_settings)?;
    worker.fits(&servers).map_err(Failure::of_settings)?;
    process::run("message-consumer", &common.state, &common.process, async |process| {
        let life = process.life.clone();
        let tasks = with_source(&process, &servers, async |source| {
            let (settings, road, broker) = (&capture, &road.road, servers.broker.clone());
            let capturing = Capturing { settings, road, source, common: &common, broker };
            let working = then_stop(&life, work(process.clone(), worker, source));
            let capturing = then_stop(&life, capture_from(process.clone(), capturing));
            let (worked, captured) = tokio::join!(working, capturing);
            worked.and(captured)
        });
        let working = then_stop(&life, tasks);
        let broker = servers.broker.clone();
        let consuming = then_stop(&life, consume(process.clone(), &common, &batch, broker));
        let (worked, consumed) = tokio::join!(working, consuming);
        consumed.and(worked)
    })
}

/// Consumes until the process stops.
pub(super) async fn consume(
    process: Process,
    common: &CommonSettings,
    batch: &BatchSettings,
    broker: Option<Broker>,
) -> Result<(), Failure> {
    let disk = open_output(&process, &batch.output.data_output_dir)?;
    let (service, output) = ("message-consumer".to_owned(), disk.path().display().to_string());
    process.presence.add(Part { service, output: Some(output), ..Part::default() });
    let topics = topics::consumed(batch, &process, broker.is_some());
    let feed = broker.map(|broker| bridge(&process, common, broker)).transpose()?;
    let (path, disk) = (disk.path().to_owned(), Arc::new(disk));
    let sink = push_to_redis(&process, &batch.ships, Arc::clone(&disk))?;
    let life = process.life.clone();
    let consumer = Consumer {
        output: path,
        disk,
        state: process.state,
        clock: process.clock,
        life: process.life,
        topics,
        settings: batch.consumer(common.shards.count()),
        feed,
        presence: process.presence,
    };
    let ended = tokio::task::spawn_blocking(move || consumer.run()).await;
    // It needs the runtime to its end.
    life.stop();
    let _panicked = tokio::task::spawn_blocking(|| sink.map(JoinHandle::join)).await;
    ended.context("the consumer").or_exit(Exit::Software)?.map_err(|error| {
        let exit = match &error {
            ConsumeError::Output(OutputError::State(_)) => Exit::Io,
            ConsumeError::Output(_) => Exit::CannotCreate,
            ConsumeError::Recovery(_) | ConsumeError::State(_) | ConsumeError::Io { .. } => {
                Exit::Io
            }
        };
        Failure::new(exit, error)
    })
}

/// Starts what pushes telemetry into Redis, if there is one.
fn push_to_redis(
    process: &Process,
    settings: &ShipSettings,
    disk: Arc<OutputDir>,
) -> Result<Option<JoinHandle<()>>, Failure> {
    let Some(address) = settings.redis.check().map_err(Failure::of_settings)? else {
        // What was wrong with one is nobody's trouble any more.
        trouble::note(&process.state, None).or_exit(Exit::Io)?;
        return Ok(None);
    };
    let (state, life) = (process.state.clone(), process.life.clone());
    let parts = SinkParts { address, list_max: settings.ship_list_max, state, disk, life };
    let started = sink::start(parts).context("starting a thread for Redis");
    started.map(Some).or_exit(Exit::Unavailable)
}

/// What brings messages from the broker.
fn bridge(
    process: &Process,
    common: &CommonSettings,
    broker: Broker,
) -> Result<Arc<dyn Feed>, Failure> {
    let bridge = Bridge::start(BridgeParts {
        address: broker.address,
        topology: broker.topology,
        state: process.state.clone(),
        clock: Arc::clone(&process.clock),
        keys_max: common.keys.idempotency_keys,
        check_of: topics::check_of,
        life: process.life.clone(),
    });
    Ok(Arc::new(bridge.context("wake-up sockets").or_exit(Exit::CannotCreate)?))
}

/// Opens the output directory; makes it, unless one was used before: then it has gone missing.
fn open_output(process: &Process, path: &Path) -> Result<OutputDir, Failure> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path));
    let shown = absolute.display();
    let state_dir = process.state.dir().display();
    let known = crate::batch::output::is_bound(&process.state).or_exit(Exit::Io)?;
    if known && !absolute.exists() {
        let error = anyhow!(
            "output directory {shown} is not there, but state directory {state_dir} has written \
             to one. Is a disk not mounted? Set DATA_OUTPUT_DIR to where it is now, or make the \
             directory and pass --adopt-output-dir to go on in a new one"
        );
        return Err(Failure::new(Exit::CannotCreate, error));
    }
    let advice = "set DATA_OUTPUT_DIR to a directory you may write to";
    let context = || format!("output directory {shown}: {advice}");
    create_durable(&absolute, 0o750).with_context(context).or_exit(Exit::CannotCreate)?;
    OutputDir::open(&absolute).with_context(context).or_exit(Exit::CannotCreate)
}
