//! The library inside another program: publish, consume into files, verify; no process, no port.
//!
//! ```text
//! cargo run --example embed
//! ```
//!
//! Opens a state environment in a temporary directory, publishes a few messages, runs a consumer
//! until they are in files, stops it, checks the account, and prints the files.

use std::error::Error;
use std::io::Write;
use std::num::NonZeroU16;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_data_processor::batch::disk::{Disk, OutputDir};
use async_data_processor::batch::journal::JournalRetention;
use async_data_processor::batch::name::Compression;
use async_data_processor::batch::verify::verify;
use async_data_processor::broker::embedded::EmbeddedBroker;
use async_data_processor::broker::idempotency::KeyRetention;
use async_data_processor::broker::take::TakePolicy;
use async_data_processor::broker::{Publish, Unit};
use async_data_processor::clock::SystemClock;
use async_data_processor::consumer::{Consumer, ConsumerSettings, Processing, TopicPart};
use async_data_processor::message::Topic;
use async_data_processor::pool::scale::Limits;
use async_data_processor::rooms::messages::entry::read_lines;
use async_data_processor::rooms::messages::receipt;
use async_data_processor::service::Lifecycle;
use async_data_processor::service::presence::Presence;
use async_data_processor::state::{State, StateOptions};

const SHARDS: NonZeroU16 = NonZeroU16::MIN.saturating_add(1);
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

const ENTRIES: &str = r#"
{"timestamp":"2026-11-22T07:30:00Z","value":"hello"}
{"timestamp":"2026-11-22T07:30:01Z","value":"world"}
{"timestamp":"2026-11-22T07:30:02Z","value":"again","lamp":3}
"#;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let life = Lifecycle::new();
    let state = open_state(&dir.path().join("state"), &life)?;

    // The broker puts all parts of a unit into one synced transaction, or none of them.
    let retention = KeyRetention { keys_max: 1000, age_ms_max: DAY_MS };
    let broker = EmbeddedBroker::new(state.clone(), Arc::new(SystemClock), retention)?;
    let entries = read_lines(ENTRIES.as_bytes(), SHARDS).map_err(|refused| refused.to_string())?;
    let published =
        broker.publish(Unit { parts: entries.into_parts(), key: None }).blocking_recv()??;
    let mut out = std::io::stdout().lock();
    let receipt = published.receipt.ok_or("the embedded broker gives receipts")?;
    writeln!(out, "durable, with receipt {receipt}")?;

    // The consumer owns the shards, and its workers write the files, until the life ends.
    let output = dir.path().join("files");
    std::fs::create_dir(&output)?;
    let disk = Arc::new(OutputDir::open(&output)?);
    let consumer = consumer(&state, Arc::clone(&disk) as Arc<dyn Disk>, &output, &life);
    let thread = std::thread::spawn(move || consumer.run());
    while verify(&state, Some(disk.as_ref()), false)?.waiting > 0 && !life.is_stopping() {
        std::thread::sleep(Duration::from_millis(20));
    }
    life.stop();
    thread.join().map_err(|_| "the consumer panicked")??;
    if let Some(reason) = life.failure() {
        return Err(reason.into());
    }

    let account = verify(&state, Some(disk.as_ref()), false)?;
    writeln!(out, "accepted {}, in files {}", account.accepted, account.in_files)?;
    if !account.ok {
        return Err(format!("{:?}", account.findings).into());
    }
    let report = receipt::look_up(&state, &receipt)?.ok_or("the receipt is unknown")?;
    for file in
        report.parts.iter().flat_map(|part| &part.files).filter_map(|part| part.file.as_ref())
    {
        writeln!(out, "{}:", file.display())?;
        out.write_all(&std::fs::read(output.join(file))?)?;
    }
    Ok(())
}

/// One environment per process and directory; it is closed when its last clone is dropped.
fn open_state(dir: &Path, life: &Lifecycle) -> Result<State, Box<dyn Error>> {
    let life = life.clone();
    Ok(State::open(StateOptions {
        dir: dir.to_owned(),
        map_bytes: 1 << 30,
        low_water_bytes: None,
        // A failed sync is final: everything stops, and the next start recovers.
        on_poison: Box::new(move |reason| life.fail(reason)),
    })?)
}

fn consumer(state: &State, disk: Arc<dyn Disk>, output: &Path, life: &Lifecycle) -> Consumer {
    Consumer {
        state: state.clone(),
        disk,
        output: output.to_owned(),
        clock: Arc::new(SystemClock),
        life: life.clone(),
        feed: None,
        presence: Presence::default(),
        topics: vec![TopicPart::new(Topic::Messages, Processing::default())],
        settings: ConsumerSettings {
            shards: SHARDS,
            workers: Limits { least: 2, most: 2 },
            compression: Compression::None,
            policy: TakePolicy {
                batch_min: 5,
                batch_max: 10_000,
                batch_bytes_max: 4 << 20,
                linger: Duration::from_millis(100),
                files_per_second: 1.0,
            },
            retention: JournalRetention { batches_max: 100_000, age_ms_max: 30 * DAY_MS },
            adopt_output: false,
            history_every: Duration::from_secs(30),
        },
    }
}
