//! `up`: server and message-consumer in one process.

use super::exit::{Exit, Failure};
use super::message_consumer::consume;
use super::process;
use super::server::serve_messages;
use super::settings::UpSettings;
use crate::service::Lifecycle;

pub(super) const EXAMPLES: &str = "\
Examples:
  async-data-processor up
  DATA_OUTPUT_DIR=/srv/messages PORT=8081 async-data-processor up";

pub(super) fn run(settings: UpSettings) -> Result<Exit, Failure> {
    let (checked, broker) = settings.check().map_err(Failure::of_settings)?;
    let UpSettings { common, http, batch } = settings;
    process::run("up", &common, async |process| {
        let life = process.life.clone();
        let server = serve_messages(process.clone(), &common, &http, checked, broker.clone());
        let consumer = consume(process, &common, &batch, broker);
        // One cannot go on without the other.
        let (server, consumer) = (then_stop(&life, server), then_stop(&life, consumer));
        let (served, consumed) = tokio::join!(server, consumer);
        served.and(consumed)
    })
}

async fn then_stop<T>(life: &Lifecycle, part: impl Future<Output = T>) -> T {
    let ended = part.await;
    life.stop();
    ended
}
