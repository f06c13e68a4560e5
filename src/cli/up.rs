//! `up`: server and message-consumer in one process.

use super::exit::{Exit, Failure};
use super::message_consumer::consume;
use super::process;
use super::server::serve_messages;
use super::settings::UpSettings;

pub(super) const EXAMPLES: &str = "\
Examples:
  async-data-processor up
  DATA_OUTPUT_DIR=/srv/messages PORT=8081 async-data-processor up";

pub(super) fn run(settings: UpSettings) -> Result<Exit, Failure> {
    let UpSettings { state, process, shards, http, batch } = settings;
    process::run("up", &state, &process, async |process| {
        let life = process.life.clone();
        let both = [true, false].map(|is_server| {
            let (process, life) = (process.clone(), life.clone());
            let (shards, http, batch) = (&shards, &http, &batch);
            async move {
                let ended = if is_server {
                    serve_messages(process, shards, http).await
                } else {
                    consume(process, shards, batch).await
                };
                // One cannot go on without the other.
                life.stop();
                ended
            }
        });
        drop(process);
        let [server, consumer] = both;
        let (served, consumed) = tokio::join!(server, consumer);
        served.and(consumed)
    })
}
