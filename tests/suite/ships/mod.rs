//! Ship data: telemetry through broker and files, and the accounts that are kept of it.

mod accounts;
mod kills;
mod output;
mod over_rabbitmq;
mod redis;
mod redis_losses;
mod redis_script;
pub(crate) mod redis_server;
mod upgrade;

use std::num::NonZeroU16;
use std::sync::Arc;

use async_data_processor::broker::embedded::EmbeddedBroker;
use async_data_processor::broker::idempotency::KeyRetention;
use async_data_processor::broker::rabbitmq::address::{Address, TlsFiles};
use async_data_processor::broker::rabbitmq::publisher::RabbitPublisher;
use async_data_processor::broker::rabbitmq::topology::{Format, Topology};
use async_data_processor::broker::{IdempotencyKey, Publish, PublishError, Published, Unit};
use async_data_processor::clock::{Clock, SystemClock};
use async_data_processor::message::{Lines, ShardKey, Topic};
use async_data_processor::rooms::telemetry::datagram;
use async_data_processor::rooms::telemetry::ship::ShipName;
use async_data_processor::service::Lifecycle;
use async_data_processor::state::State;
use chrono::{DateTime, TimeDelta, Utc};
use tokio::runtime::Runtime;

use crate::harness::{Rig, open_state};

pub(crate) const SHARDS: NonZeroU16 = NonZeroU16::MIN.saturating_add(4);
const RETENTION: KeyRetention = KeyRetention { keys_max: 100_000, age_ms_max: 86_400_000 };

/// What ships are made of: publishes lines as a capture does.
pub(crate) struct Fleet {
    publisher: Box<dyn Publish>,
    pub(crate) state: State,
    /// Where the publisher to a broker lives.
    _runtime: Option<Runtime>,
}

impl Fleet {
    /// Into the state directory of a rig.
    pub(crate) fn of(rig: &Rig) -> Self {
        Self::with_map(rig, 64 << 30)
    }

    /// The same, with room for so much.
    pub(crate) fn with_map(rig: &Rig, map_bytes: usize) -> Self {
        let state = open_state(&rig.state(), map_bytes).unwrap();
        let publisher = EmbeddedBroker::new(state.clone(), Arc::new(SystemClock), RETENTION);
        Self { publisher: Box::new(publisher.unwrap()), state, _runtime: None }
    }

    /// Over RabbitMQ, by a state directory of its own.
    pub(crate) fn over(rig: &Rig, url: &str, format: Format) -> Self {
        let state = open_state(&rig.dir.path().join("fleet"), 64 << 20).unwrap();
        let runtime = Runtime::new().unwrap();
        let address = Address::new(url, &TlsFiles { authorities: None, identity: None }).unwrap();
        let entered = runtime.enter();
        let publisher = RabbitPublisher::start(
            address,
            Topology { format, shards: SHARDS },
            state.clone(),
            Arc::new(SystemClock),
            RETENTION,
            Lifecycle::new(),
        );
        drop(entered);
        Self { publisher: Box::new(publisher.unwrap()), state, _runtime: Some(runtime) }
    }

    /// Publishes lines of one ship with a key; the answer, whatever it is.
    pub(crate) fn try_publish(
        &self,
        ship: &str,
        lines: &[String],
        key: &str,
    ) -> Result<Published, PublishError> {
        let name: ShipName = ship.parse().unwrap();
        let mut part = Lines::default();
        lines.iter().for_each(|line| part.push(line.as_bytes()));
        let shard = ShardKey::new(Topic::Telemetry, name.shard(SHARDS));
        let key = IdempotencyKey {
            principal: "capture".into(),
            key: key.to_owned(),
            fingerprint: [1; 32],
        };
        let unit = Unit { parts: vec![(shard, part)], key: Some(key) };
        self.publisher.publish(unit).blocking_recv().unwrap()
    }

    /// The same, and it must be stored. Each call has a key of its own.
    pub(crate) fn publish(&self, ship: &str, lines: &[String]) -> Published {
        let key = format!("{ship} {} {}", lines.len(), uuid::Uuid::new_v4());
        self.try_publish(ship, lines, &key).unwrap()
    }
}

/// Now, to the second.
pub(crate) fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(SystemClock.wall().timestamp(), 0).unwrap()
}

/// A datagram as a ship sends it.
pub(crate) fn datagram_at(at: DateTime<Utc>, value: u8, sequence: u64) -> String {
    let mut text = String::new();
    datagram::write(&mut text, at, value, sequence);
    text
}

/// The line that is stored for it, without its end.
pub(crate) fn line(ship: &str, at: DateTime<Utc>, value: u8, sequence: u64) -> String {
    let head = datagram::line_head(&ship.parse().unwrap());
    let mut line = Vec::new();
    datagram::append_line(&mut line, &head, datagram_at(at, value, sequence).as_bytes());
    String::from_utf8(line).unwrap().trim_end().to_owned()
}

/// `count` lines of a ship, a millisecond after the other.
pub(crate) fn lines(ship: &str, from: DateTime<Utc>, count: u64) -> Vec<String> {
    let at = |n: u64| from + TimeDelta::milliseconds(n.cast_signed());
    (0..count).map(|n| line(ship, at(n), 5 + u8::try_from(n % 26).unwrap(), n)).collect()
}

/// A rig whose batches are small and soon.
pub(crate) fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.set("BATCH_MIN", 1).set("FILES_PER_SECOND", 0);
    rig
}

/// The lines of telemetry in files, in the order of the files' names.
pub(crate) fn ship_lines(rig: &Rig) -> Vec<String> {
    let is_ours = |file: &&std::path::PathBuf| file.starts_with(rig.output().join("ships"));
    let files = rig.files();
    let texts = files.iter().filter(is_ours).map(|file| std::fs::read_to_string(file).unwrap());
    texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}
