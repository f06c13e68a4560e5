//! `up`: server and message-consumer, with its task workers, in one process.

use super::exit::{Exit, Failure};
use super::front::Front;
use super::message_consumer::consume;
use super::process::{self, then_stop};
use super::server::{Serving, serve_all};
use super::settings::{CheckedUp, UpSettings};
use super::task_store::TaskStore;
use super::task_worker::{TaskSource, work};

pub(super) const EXAMPLES: &str = "\
Examples:
  async-data-processor up
  DATA_OUTPUT_DIR=/srv/messages PORT=8081 async-data-processor up";

pub(super) fn run(settings: UpSettings) -> Result<Exit, Failure> {
    let CheckedUp { http: checked, worker, servers } =
        settings.check().map_err(Failure::of_settings)?;
    let UpSettings { common, http, port, tasks, batch, .. } = settings;
    process::run("up", &common.state, &common.process, async |process| {
        let (life, broker) = (process.life.clone(), servers.broker.clone());
        let store = TaskStore::open(&process, servers.database.as_ref()).await?;
        let front = Front::new(&http, checked, &process);
        let (port, front) = (port.port(), &front);
        let serving = Serving { common: &common, http: &http, port, tasks: &tasks, front };
        let server = serve_all(process.clone(), serving, broker.clone(), &store);
        let source = match &broker {
            Some(broker) => TaskSource::Broker(&broker.address),
            None => TaskSource::Store(&store),
        };
        let working = work(process.clone(), worker, &source);
        let consumer = consume(process, &common, &batch, broker.clone());
        // None can go on without the others.
        let (served, worked, consumed) = tokio::join!(
            then_stop(&life, server),
            then_stop(&life, working),
            then_stop(&life, consumer),
        );
        served.and(worked).and(consumed)
    })
}
