//! `up`: server and message-consumer, with its task workers, in one process.

use std::sync::Arc;

use super::exit::{Exit, Failure};
use super::message_consumer::consume;
use super::process::{self, then_stop};
use super::server::{Serving, serve_all};
use super::settings::UpSettings;
use super::task_store::{self, TaskSource};
use super::task_worker::work;

pub(super) const EXAMPLES: &str = "\
Examples:
  async-data-processor up
  DATA_OUTPUT_DIR=/srv/messages PORT=8081 async-data-processor up";

pub(super) fn run(settings: UpSettings) -> Result<Exit, Failure> {
    let (checked, worker, broker) = settings.check().map_err(Failure::of_settings)?;
    let UpSettings { common, http, calculations, batch, worker: _ } = settings;
    process::run("up", &common.state, &common.process, async |process| {
        let life = process.life.clone();
        let store = task_store::open(&process).await?;
        let serving = Serving { common: &common, http: &http, calculations: &calculations };
        let server = serve_all(process.clone(), serving, checked, broker.clone(), &store);
        let source = TaskSource::Store { store: Arc::clone(&store), is_remote: false };
        let working = work(process.clone(), worker, source);
        let consumer = consume(process, &common, &batch, broker);
        // None can go on without the others.
        let (served, worked, consumed) = tokio::join!(
            then_stop(&life, server),
            then_stop(&life, working),
            then_stop(&life, consumer),
        );
        served.and(worked).and(consumed)
    })
}
