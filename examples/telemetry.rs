//! What the accounts of ships cost: the same lines stored as messages, then as telemetry.
//!
//! Publishes them as fast as they are taken, in units of 10,000 as captures do, and measures until
//! all are in committed files.
//!
//! ```sh
//! cargo run --release --example telemetry                    # 2,000,000 lines of 5 ships
//! cargo run --release --example telemetry -- 500000 1 /srv   # of 1 ship, on the disk of /srv
//! ```
#![expect(clippy::print_stdout, reason = "it prints what it has measured")]

use std::collections::VecDeque;
use std::error::Error;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_data_processor::batch::disk::OutputDir;
use async_data_processor::batch::journal::JournalRetention;
use async_data_processor::batch::name::Compression;
use async_data_processor::broker::append::shard_ends;
use async_data_processor::broker::embedded::EmbeddedBroker;
use async_data_processor::broker::idempotency::KeyRetention;
use async_data_processor::broker::progress::Progress;
use async_data_processor::broker::take::TakePolicy;
use async_data_processor::broker::{Publish, PublishError, Unit};
use async_data_processor::clock::{Clock, SystemClock};
use async_data_processor::consumer::{Consumer, ConsumerSettings, Processing, TopicPart};
use async_data_processor::message::{Lines, ShardId, ShardKey, Topic};
use async_data_processor::pool::scale::Limits;
use async_data_processor::rooms::telemetry::datagram;
use async_data_processor::rooms::telemetry::ship::ShipName;
use async_data_processor::rooms::telemetry::ships::companion::{Kept, ShipAccounts};
use async_data_processor::rooms::telemetry::ships::table;
use async_data_processor::service::Lifecycle;
use async_data_processor::service::presence::Presence;
use async_data_processor::state::{State, StateError, StateOptions};
use chrono::TimeDelta;
use rustix::time::{ClockId, clock_gettime};

const SHARDS: NonZeroU16 = NonZeroU16::MIN.saturating_add(4);
const UNIT_LINES: u64 = 10_000;
/// Units of each ship that are made before the clock runs, and sent again and again.
const UNITS: u64 = 10;
/// Units that may be on their way.
const IN_FLIGHT: usize = 4;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let count: u64 = arguments.next().as_deref().unwrap_or("2000000").parse()?;
    let ships: u64 = arguments.next().as_deref().unwrap_or("5").parse()?;
    let directory = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    println!("{:<10} {:>12} {:>20}", "", "lines/s", "CPU s per million");
    for topic in Topic::ALL {
        let (rate, cpu) = measure(topic, count, ships.max(1), &directory)?;
        println!("{:<10} {rate:>12.0} {cpu:>20.3}", topic.name());
    }
    Ok(())
}

/// Lines per second, and CPU seconds of the process per million of them.
fn measure(
    topic: Topic,
    count: u64,
    ships: u64,
    directory: &Path,
) -> Result<(f64, f64), Box<dyn Error>> {
    let dir = tempfile::tempdir_in(directory)?;
    let output = dir.path().join("output");
    std::fs::create_dir(&output)?;
    let life = Lifecycle::new();
    let state = State::open(StateOptions {
        dir: dir.path().join("state"),
        map_bytes: 8 << 30,
        low_water_bytes: None,
        on_poison: Box::new({
            let life = life.clone();
            move |reason| life.fail(reason)
        }),
    })?;
    let consumer = consumer(&state, &output, &life)?;
    let consuming = std::thread::spawn(move || consumer.run());
    let retention = KeyRetention { keys_max: 1000, age_ms_max: 1000 };
    let broker = EmbeddedBroker::new(state.clone(), Arc::new(SystemClock), retention)?;
    let units = units(topic, ships);
    let (began, cpu_before) = (Instant::now(), cpu()?);
    let sent = publish(&broker, &units, count)?;
    while waiting(&state)? > 0 && !life.is_stopping() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let (elapsed, used) = (began.elapsed(), cpu()?.saturating_sub(cpu_before));
    life.stop();
    consuming.join().map_err(|_| "the consumer panicked")??;
    if let Some(failure) = life.failure() {
        return Err(failure.reason.into());
    }
    let txn = state.read()?;
    let counted: u64 =
        table::ships(&txn, state.tables(), None, 1000)?.iter().map(|(_, row)| row.count).sum();
    if topic == Topic::Telemetry && counted != sent {
        return Err(format!("{sent} lines were sent, and {counted} are counted").into());
    }
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let sent = sent as f64;
    Ok((sent / elapsed.as_secs_f64(), used.as_secs_f64() * 1e6 / sent))
}

fn waiting(state: &State) -> Result<u64, StateError> {
    let txn = state.read()?;
    let mut waiting = 0;
    for (key, end) in shard_ends(&txn, state.tables())? {
        waiting += Progress::load(&txn, state.tables(), key)?.waiting(end.offset);
    }
    Ok(waiting)
}

fn cpu() -> Result<Duration, Box<dyn Error>> {
    Ok(Duration::try_from(clock_gettime(ClockId::ProcessCPUTime))?)
}

/// Units of lines, ship by ship: what each sends within 50 ms, and then the next.
fn units(topic: Topic, ships: u64) -> Vec<(ShardKey, Lines)> {
    let begin = SystemClock.wall();
    let mut units = Vec::new();
    for unit in 0..UNITS {
        for ship in 0..ships {
            let name = format!("ship {ship}");
            let Ok(name) = name.parse::<ShipName>() else { continue };
            let head = datagram::line_head(&name);
            let (mut lines, mut sent) = (Lines::default(), String::new());
            for n in unit * UNIT_LINES..(unit + 1) * UNIT_LINES {
                sent.clear();
                let at = begin + TimeDelta::microseconds(n.cast_signed() * 5);
                datagram::write(&mut sent, at, u8::try_from(5 + n % 26).unwrap_or(5), n);
                datagram::append_line(&mut lines.bytes, &head, sent.as_bytes());
                lines.count += 1;
            }
            let ShardId(shard) = name.shard(SHARDS);
            units.push((ShardKey::new(topic, ShardId(shard)), lines));
        }
    }
    units
}

/// Publishes so many lines, rounded up to units; how many.
fn publish(
    broker: &EmbeddedBroker,
    units: &[(ShardKey, Lines)],
    count: u64,
) -> Result<u64, Box<dyn Error>> {
    let (mut sent, mut in_flight) = (0, VecDeque::new());
    for part in units.iter().cycle() {
        if sent >= count {
            break;
        }
        sent += u64::from(part.1.count);
        in_flight.push_back(broker.publish(Unit { parts: vec![part.clone()], key: None }));
        if in_flight.len() >= IN_FLIGHT
            && let Some(answer) = in_flight.pop_front()
        {
            answer.blocking_recv()??;
        }
    }
    in_flight
        .into_iter()
        .try_for_each(|answer| answer.blocking_recv()?.map(drop).map_err(boxed))?;
    Ok(sent)
}

fn boxed(error: PublishError) -> Box<dyn Error> {
    error.into()
}

fn consumer(state: &State, output: &Path, life: &Lifecycle) -> Result<Consumer, Box<dyn Error>> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let kept = Kept { seconds: 86_400, minutes: 44_640 };
    let accounts = ShipAccounts { clock: Arc::clone(&clock), kept };
    let telemetry = TopicPart::new(Topic::Telemetry, Processing::default());
    Ok(Consumer {
        state: state.clone(),
        disk: Arc::new(OutputDir::open(output)?),
        output: output.to_owned(),
        clock,
        life: life.clone(),
        feed: None,
        presence: Presence::default(),
        topics: vec![
            TopicPart::new(Topic::Messages, Processing::default()),
            telemetry.with(Arc::new(accounts)).once_it_waits(),
        ],
        settings: ConsumerSettings {
            shards: SHARDS,
            workers: Limits { least: 3, most: 4 },
            compression: Compression::None,
            policy: TakePolicy {
                batch_min: 5,
                batch_max: 10_000,
                batch_bytes_max: 4 << 20,
                linger: Duration::from_secs(1),
                files_per_second: 1.0,
            },
            retention: JournalRetention { batches_max: 100_000, age_ms_max: u64::MAX },
            adopt_output: false,
            history_every: Duration::from_secs(3600),
        },
    })
}
