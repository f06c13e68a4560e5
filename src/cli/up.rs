//! `up`: server, message-consumer with its tasks and captures, scheduler and spaceship in one
//! process.

use super::capturing::{Capturing, capture_from};
use super::exit::{Exit, Failure};
use super::front::Front;
use super::message_consumer::consume;
use super::process::{self, Process, then_stop};
use super::scheduler::serve_scheduler;
use super::server::{Serving, serve_all};
use super::settings::{CheckedRoad, CheckedUp, UpSettings};
use super::spaceship::Ship;
use super::task_store::TaskStore;
use super::task_worker::{TaskSource, work};
use crate::rooms::telemetry::road::Road;

pub(super) const EXAMPLES: &str = "\
Examples:
  async-data-processor up
  DATA_OUTPUT_DIR=/srv/messages PORT=8081 async-data-processor up";

pub(super) fn run(settings: &UpSettings) -> Result<Exit, Failure> {
    let checked = settings.check().map_err(Failure::of_settings)?;
    let UpSettings { common, .. } = settings;
    process::run("up", &common.state, &common.process, async |process| {
        run_all(process, settings, checked).await
    })
}

async fn run_all(
    process: Process,
    settings: &UpSettings,
    checked: CheckedUp,
) -> Result<(), Failure> {
    let UpSettings { common, http, tasks, batch, .. } = settings;
    let CheckedUp { http: checked, worker, capture, road, servers } = checked;
    let (life, broker) = (&process.life, servers.broker);
    let front = &Front::new(http, checked, &process);
    let entrance = front.listen(settings.port.port()).await?;
    let of_scheduler = front.listen(settings.scheduler.port()).await?;
    let of_spaceship = front.listen(settings.spaceship.port()).await?;
    let store = TaskStore::open(&process, servers.database.as_ref()).await?;
    let ship = Ship::new(&process, &settings.spaceship);
    let source = &match &broker {
        Some(broker) => TaskSource::Broker(&broker.address),
        None => TaskSource::Store(&store),
    };
    let (settings, road) = (&capture, &of(road, &ship));
    let capturing = Capturing { settings, road, source, common, broker: broker.clone() };
    let serving = Serving { common, http, tasks, road, front, entrance };
    let server = serve_all(process.clone(), serving, broker.clone(), &store);
    let scheduler = serve_scheduler(&process, front, of_scheduler, &store);
    let spaceship = ship.serve(&process, front, of_spaceship);
    let working = work(process.clone(), worker, source);
    let capturing = capture_from(process.clone(), capturing);
    let consumer = consume(process.clone(), common, batch, broker.clone());
    // None can go on without the others.
    let ended = tokio::join!(
        then_stop(life, server),
        then_stop(life, scheduler),
        spaceship,
        then_stop(life, working),
        then_stop(life, capturing),
        then_stop(life, consumer),
    );
    let (server, scheduler, (), working, capturing, consumer) = ended;
    server.and(scheduler).and(working).and(capturing).and(consumer)
}

/// The way to this process's own ship, unless another one was said.
fn of(CheckedRoad { road, has_choice }: CheckedRoad, ship: &Ship) -> Road {
    if has_choice { road } else { Road::Within(ship.within()) }
}
