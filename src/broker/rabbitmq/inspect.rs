//! How the queues of an installation stand, without making one.
//!
//! A passive declare tells whether a queue is there, but not what it is. So one that is there is
//! then declared as a start would do it: the broker agrees, or refuses and says what differs. A
//! queue that somebody deletes in the instant in between would be made; a start makes it as well.

use std::time::{Duration, Instant};

use lapin::Connection;
use lapin::options::{BasicQosOptions, QueueDeclareOptions};
use lapin::types::FieldTable;

use super::address::{Address, Open};
use super::error::{BrokerError, Doing, within};
use super::topology::{CALL_TIMEOUT, Declaring, Format, PIN, Topology, other, shard_arguments};
use crate::message::Topic;

/// How long a close may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How often the way there and back is measured: the first may wait for something else.
const ROUND_TRIPS: u32 = 5;

/// What a queue is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// It pins the number of shards, and holds nothing.
    Pin,
    /// A net for what the broker gives up.
    Returned,
    /// The messages of a shard.
    Shard,
    /// The telemetry of a shard.
    Telemetry,
}

impl Part {
    /// Whether it is a shard's queue.
    #[must_use]
    pub const fn is_shard(self) -> bool {
        matches!(self, Self::Shard | Self::Telemetry)
    }

    /// Whether it is a shard's queue that holds packets of ours, and no other program's.
    #[must_use]
    pub fn is_packed_shard(self, format: Format) -> bool {
        self == Self::Telemetry || (self == Self::Shard && format == Format::Packed)
    }
}

/// How a queue stands.
#[derive(Debug, Clone)]
pub enum Standing {
    /// It is not there.
    Absent,
    /// It is there.
    There {
        /// Messages of the broker that wait, without those that a consumer has.
        messages: u32,
        /// Consumers, those that stand by included.
        consumers: u32,
        /// Whether it is as a start would make it, or what differs.
        agrees: Result<(), BrokerError>,
    },
    /// The broker does not say.
    Unknown(BrokerError),
}

/// A queue that was looked at.
#[derive(Debug, Clone)]
pub struct Inspected {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub part: Part,
    /// How it stands.
    pub standing: Standing,
}

/// A connection, and how long it took.
#[derive(Debug)]
pub struct Reached {
    /// The connection.
    pub connection: Open,
    /// Connecting and logging in.
    pub login: Duration,
    /// One question and its answer, at best.
    pub round_trip: Duration,
}

impl Reached {
    /// Closes the connection in order. The broker may end it first, and its answer get lost.
    pub async fn close(self) {
        let close = self.connection.close(200, "OK".into());
        let _late = tokio::time::timeout(CLOSE_TIMEOUT, close).await;
    }
}

/// Connects and logs in.
///
/// # Errors
/// It cannot be reached, or refuses.
pub async fn reach(address: &Address) -> Result<Reached, BrokerError> {
    let started = Instant::now();
    let connected = address.connect("async-data-processor doctor");
    let connection = within(CALL_TIMEOUT, Doing::Connecting, connected).await?;
    let login = started.elapsed();
    let channel = within(CALL_TIMEOUT, Doing::Opening, connection.create_channel()).await?;
    let mut round_trip = Duration::MAX;
    for _ in 0..ROUND_TRIPS {
        let asked = Instant::now();
        let answered = channel.basic_qos(1, BasicQosOptions::default());
        within(CALL_TIMEOUT, Doing::Looking, answered).await?;
        round_trip = round_trip.min(asked.elapsed());
    }
    Ok(Reached { connection, login, round_trip })
}

/// The queues of an installation, and what each is for.
#[must_use]
pub fn parts(topology: Topology) -> Vec<(String, Part)> {
    let pin = (topology.format == Format::Packed).then(|| (PIN.to_owned(), Part::Pin));
    let nets = topology.returned().map(|net| (net, Part::Returned));
    let shards = Topic::ALL.into_iter().flat_map(|topic| {
        let part = if topic.is_messages() { Part::Shard } else { Part::Telemetry };
        topology.shards_of(topic).map(move |key| (topology.queue(key), part))
    });
    pin.into_iter().chain(nets).chain(shards).collect()
}

/// Looks at every queue; after one about which the broker does not answer, at no more.
pub async fn inspect(topology: Topology, connection: &Connection) -> Vec<Inspected> {
    let mut declaring = Declaring { connection, channel: None };
    let mut inspected = Vec::new();
    for (name, part) in parts(topology) {
        let looked = look(topology, &mut declaring, &name, part).await;
        let standing = looked.unwrap_or_else(Standing::Unknown);
        let is_silent = matches!(&standing, Standing::Unknown(BrokerError::TimedOut { .. }));
        inspected.push(Inspected { name, part, standing });
        if is_silent {
            break;
        }
    }
    inspected
}

async fn look(
    topology: Topology,
    declaring: &mut Declaring<'_>,
    name: &str,
    part: Part,
) -> Result<Standing, BrokerError> {
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let channel = match declaring.channel.take() {
        Some(channel) => channel,
        None => within(CALL_TIMEOUT, Doing::Opening, declaring.connection.create_channel()).await?,
    };
    let asked = channel.queue_declare(name.into(), options, FieldTable::default());
    let queue = match within(CALL_TIMEOUT, Doing::Looking, asked).await {
        Err(error) if error.is_not_found() => return Ok(Standing::Absent),
        looked => looked?,
    };
    declaring.channel = Some(channel);
    let none = FieldTable::default();
    let agrees = match (part, topology.format) {
        (Part::Pin, _) => declaring.pin(topology.shards).await,
        (Part::Returned, _) => declaring.quorum(name, none).await,
        (Part::Telemetry, _) => declaring.quorum(name, shard_arguments(Topic::Telemetry)).await,
        (Part::Shard, Format::Packed) => {
            declaring.quorum(name, shard_arguments(Topic::Messages)).await
        }
        (Part::Shard, Format::Interop) => {
            let declared = declaring.declare(name, none).await;
            declared.map(drop).map_err(|error| other(name, error))
        }
    };
    let (messages, consumers) = (queue.message_count(), queue.consumer_count());
    Ok(Standing::There { messages, consumers, agrees })
}
