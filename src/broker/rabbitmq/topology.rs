//! The queues: which there are, with which properties, and how they are declared.
//!
//! | queue | sort | holds |
//! |---|---|---|
//! | `async-data-processor.<topic>.<shard>` | quorum, one active consumer | packets of a shard |
//! | `async-data-processor.messages.shards` | quorum | nothing: it pins the number of shards |
//! | `async-data-processor.<topic>.returned` | quorum | a net for what the broker gives up |
//! | `task_queue_<shard>` (interop, as R1 has them) | classic | one entry a message |
//!
//! Topics are `messages` and `telemetry`; with interop there is no pin, and the plain queues stand
//! in for those of `messages`, which alone other programs share.
//!
//! All are durable and reached through the default exchange. The pin is a queue whose
//! `x-max-length` is the number of shards: the broker itself refuses whoever declares it with
//! another one, and says which it is.

use std::fmt;
use std::future::Future;
use std::num::NonZeroU16;
use std::time::Duration;

use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, Queue};

use super::error::{BrokerError, Doing, within};
use crate::message::{ShardId, ShardKey, Topic};

/// How long a call to the broker may take.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a queue that was deleted stays so. Declared again within milliseconds, RabbitMQ 3.10
/// tells its consumers nothing, and drops what it delivers to them.
pub(super) const GONE_PAUSE: Duration = Duration::from_secs(1);
pub(super) const PIN: &str = "async-data-processor.messages.shards";
/// More deliveries than there ever are. That -1 is none is understood from 4.0 on only: 3.10 takes
/// it, and gives up whatever comes back once.
const DELIVERY_LIMIT: i32 = i32::MAX;

/// What a connection needs to be there, declared whenever it is made.
pub trait Declares: Clone + fmt::Debug + Send + Sync + 'static {
    /// Declares it; what is there already stays as it is.
    ///
    /// # Errors
    /// The broker does not answer, or refuses.
    fn declare(
        &self,
        connection: &Connection,
    ) -> impl Future<Output = Result<(), BrokerError>> + Send;
}

impl Declares for Topology {
    async fn declare(&self, connection: &Connection) -> Result<(), BrokerError> {
        Self::declare(*self, connection).await
    }
}

/// What travels in a message of the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Lines of many entries, in quorum queues of our own.
    Packed,
    /// One JSON object, in R1's classic queues.
    Interop,
}

impl Format {
    /// What travels under a topic: other programs share messages only.
    #[must_use]
    pub const fn of(self, topic: Topic) -> Self {
        match topic {
            Topic::Messages => self,
            Topic::Telemetry => Self::Packed,
        }
    }
}

/// The net for what the broker gives up of a topic.
pub(super) fn returned(topic: Topic) -> String {
    format!("async-data-processor.{}.returned", topic.name())
}

/// The queues of one installation.
#[derive(Debug, Clone, Copy)]
pub struct Topology {
    /// What travels.
    pub format: Format,
    /// How many shards.
    pub shards: NonZeroU16,
}

impl Topology {
    /// The queue of a shard.
    #[must_use]
    pub fn queue(self, key: ShardKey) -> String {
        let ShardKey { topic, shard } = key;
        match self.format.of(topic) {
            Format::Packed => format!("async-data-processor.{}.{shard}", topic.name()),
            Format::Interop => format!("task_queue_{shard}"),
        }
    }

    /// The shards of a topic, each of which has a queue.
    pub fn shards_of(self, topic: Topic) -> impl Iterator<Item = ShardKey> {
        (0..self.shards.get()).map(move |shard| ShardKey::new(topic, ShardId(shard)))
    }

    /// The nets for what the broker gives up; there is none for plain queues.
    pub(super) fn returned(self) -> impl Iterator<Item = String> {
        let packed = move |topic: &Topic| self.format.of(*topic) == Format::Packed;
        Topic::ALL.into_iter().filter(packed).map(returned)
    }

    /// Declares every queue; those that are there already stay as they are.
    ///
    /// # Errors
    /// The broker does not answer, or has a queue of the name with other properties.
    pub async fn declare(self, connection: &Connection) -> Result<(), BrokerError> {
        let mut declaring = Declaring { connection, channel: None };
        if self.format == Format::Packed {
            declaring.pin(self.shards).await?;
        }
        for net in self.returned() {
            declaring.quorum(&net, FieldTable::default()).await?;
        }
        for key in Topic::ALL.into_iter().flat_map(|topic| self.shards_of(topic)) {
            let name = self.queue(key);
            match self.format.of(key.topic) {
                Format::Packed => declaring.quorum(&name, shard_arguments(key.topic)).await?,
                Format::Interop => {
                    declaring.declare(&name, FieldTable::default()).await.map(drop)?;
                }
            }
        }
        Ok(())
    }

    /// How many messages wait in the queue of a shard, and how many consumers it has.
    ///
    /// # Errors
    /// The broker does not answer, or the queue is not there; the channel is closed then.
    pub async fn look(self, channel: &Channel, key: ShardKey) -> Result<(u32, u32), BrokerError> {
        let name = self.queue(key);
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let asked = channel.queue_declare(name.into(), options, FieldTable::default());
        let queue = within(CALL_TIMEOUT, Doing::Looking, asked).await?;
        Ok((queue.message_count(), queue.consumer_count()))
    }
}

/// Attempts are ours, and so is every limit: what the broker cannot take it refuses, rather than
/// drop what it has, should a policy limit the length after all.
pub(super) fn shard_arguments(topic: Topic) -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    arguments.insert("x-overflow".into(), text("reject-publish"));
    arguments.insert("x-dead-letter-exchange".into(), text(""));
    arguments.insert("x-dead-letter-routing-key".into(), text(&returned(topic)));
    arguments
}

/// What a quorum queue of ours is declared with, and `more`.
pub(super) fn quorum_arguments(more: FieldTable) -> FieldTable {
    let mut arguments = more;
    arguments.insert("x-queue-type".into(), text("quorum"));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(DELIVERY_LIMIT));
    arguments
}

pub(super) fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// A channel to declare on: the broker closes it when it refuses.
pub(super) struct Declaring<'a> {
    pub(super) connection: &'a Connection,
    pub(super) channel: Option<Channel>,
}

impl Declaring<'_> {
    pub(super) async fn declare(
        &mut self,
        name: &str,
        arguments: FieldTable,
    ) -> Result<Queue, BrokerError> {
        let channel = match self.channel.take() {
            Some(channel) => channel,
            None => within(CALL_TIMEOUT, Doing::Opening, self.connection.create_channel()).await?,
        };
        let asked = channel.queue_declare(name.into(), QueueDeclareOptions::durable(), arguments);
        let queue = within(CALL_TIMEOUT, Doing::Declaring, asked).await?;
        self.channel = Some(channel);
        Ok(queue)
    }

    /// A quorum queue that gives nothing up, however often it comes back from a consumer that was
    /// cut off.
    pub(super) async fn quorum(&mut self, name: &str, more: FieldTable) -> Result<(), BrokerError> {
        let declared = self.declare(name, quorum_arguments(more)).await;
        declared.map(drop).map_err(|error| other(name, error))
    }

    pub(super) async fn pin(&mut self, shards: NonZeroU16) -> Result<(), BrokerError> {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), text("quorum"));
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(i32::from(shards.get())));
        match self.declare(PIN, arguments).await {
            Err(error) if error.is_precondition() => {
                let pinned = pinned(&error.to_string()).unwrap_or_else(|| "other".to_owned());
                Err(BrokerError::OtherShards { pinned, asked: shards.get() })
            }
            declared => declared.map(drop),
        }
    }
}

/// A queue with other properties than asked for is named.
pub(super) fn other(name: &str, error: BrokerError) -> BrokerError {
    match error.is_precondition() {
        true => BrokerError::OtherQueue { name: name.to_owned(), said: error.to_string() },
        false => error,
    }
}

/// The number in "… received '6' but current is '5'".
fn pinned(said: &str) -> Option<String> {
    let (_, rest) = said.split_once("current is '")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    (!digits.is_empty()).then_some(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pinned_number_is_read_from_what_the_broker_says() {
        let said = "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue \
                    'async-data-processor.messages.shards' in vhost '/': received '6' but current \
                    is '5'";
        assert_eq!(pinned(said), Some("5".to_owned()));
        assert_eq!(pinned("PRECONDITION_FAILED - something else"), None);
    }
}
