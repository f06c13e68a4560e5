//! From an accepted request to a worker's hands, durably.
//!
//! | room | what it holds |
//! |---|---|
//! | [`frame`], [`frames`] | the stored form of lines, and reading them |
//! | [`append`] | lines get their offsets and go into the state environment |
//! | [`embedded`] | the publisher with nothing else installed |
//! | [`rabbitmq`] | the publisher over RabbitMQ, and the bridge from it into the same state |
//! | [`idempotency`] | Idempotency-Key: the first answer, again |
//! | [`wake`] | telling consumers of other processes that there is work |
//! | [`ownership`] | one process per shard, by a lock the kernel frees |
//! | [`take`] | when waiting messages become a delivery; pure |
//! | [`source`] | the workers' side: take the next delivery of a shard |
//! | [`Delivery`], [`claim`] | messages in a worker's hands, and how it may lose them |
//! | [`retry`] | what becomes of a delivery that its handler failed at; pure likewise |
//! | [`pipes`] | tasks on their way to workers, and their results back: the traits |
//! | [`tap`] | watching messages without consuming them |
//! | [`progress`] | what of a shard is committed; pure but for loading and storing |
//!
//! # Promises
//! 1. A request is published whole or not at all; over RabbitMQ, whole once it is answered `Ok`.
//! 2. When [`Publish::publish`] answers `Ok`, the messages are durable.
//! 3. Offsets of a shard are contiguous, in the order of commits.
//! 4. A shard is consumed by one process at a time; a successor starts within a second of the
//!    owner's death, where the owner's last commit ended.
//! 5. A delivery is one owner's until it is settled; dropped unsettled, or taken from an owner
//!    that is too slow, it is delivered again, and the former owner can no longer commit it.
//! 6. Only a commit of the state environment makes a [`Committed`], and only that settles.

pub mod append;
pub mod claim;
mod cursor;
mod delivery;
pub mod embedded;
pub mod frame;
pub mod frames;
pub mod idempotency;
pub mod ownership;
pub mod pipes;
pub mod progress;
pub mod rabbitmq;
pub mod receipt;
pub mod retry;
pub mod source;
pub mod take;
pub mod tap;
pub mod wake;

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::message::{Lines, ShardKey};
pub use delivery::Delivery;
pub use progress::Committed;
pub use receipt::Receipt;

/// The most messages of a unit.
pub const UNIT_MESSAGES_MAX: usize = 10_000;

/// What one request publishes: all of it or nothing.
#[derive(Debug)]
pub struct Unit {
    /// Lines per shard; each shard at most once, in order; at most [`UNIT_MESSAGES_MAX`] lines.
    pub parts: Vec<(ShardKey, Lines)>,
    /// The client's Idempotency-Key, if it sent one.
    pub key: Option<IdempotencyKey>,
}

/// A key under which a client may repeat a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// Who sent it: keys of different principals are different keys.
    pub principal: Arc<str>,
    /// The key as sent, at most [`IdempotencyKey::BYTES_MAX`] bytes.
    pub key: String,
    /// SHA-256 of the request's body.
    pub fingerprint: [u8; 32],
}

impl IdempotencyKey {
    /// The longest key, in bytes.
    pub const BYTES_MAX: usize = 255;
}

/// The answer to a durable publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Which offsets the messages got; none where that is decided only on their way.
    pub receipt: Option<Receipt>,
    /// Whether this is the first answer again, to a repeated key.
    pub replayed: bool,
}

/// Why a publish did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The key was used with another body.
    #[error("this Idempotency-Key was used for another request body")]
    KeyReused,
    /// A request with the key is being worked on.
    #[error("a request with this Idempotency-Key is still running")]
    KeyInFlight,
    /// More requests wait than may; nothing was stored.
    #[error("too many requests are waiting")]
    Busy,
    /// No room; nothing was stored.
    #[error("no room for messages: {0}")]
    Full(String),
    /// The broker cannot be reached, or takes nothing now; nothing was stored.
    #[error("the broker takes no messages: {0}")]
    Unavailable(String),
    /// Whether it was stored is unknown.
    #[error("it is unknown whether the messages were stored: {0}")]
    Unknown(String),
}

/// What brings the messages of a broker elsewhere into the shards that this process owns.
pub trait Feed: Send + Sync {
    /// The shard is this process's from now on: its messages may come. They come until
    /// [`Feed::end`], whatever happens to the broker.
    fn begin(&self, key: ShardKey);

    /// No more messages: when this returns, everything that came is in the state environment, and
    /// nothing will be added to it. Waits for it, but not for long.
    fn end(&self);
}

/// Somewhere to publish to.
pub trait Publish: Send + Sync {
    /// Publishes the unit; the answer comes when it is durable, or is refused. A receiver that
    /// closes without an answer means that the process is stopping: the outcome is unknown.
    fn publish(&self, unit: Unit) -> oneshot::Receiver<Result<Published, PublishError>>;
}
