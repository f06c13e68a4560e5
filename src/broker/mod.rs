//! From an accepted request to a worker's hands, durably.
//!
//! | room | what it holds |
//! |---|---|
//! | [`frame`] | the stored form of lines |
//! | [`append`] | lines get their offsets and go into the state environment |
//! | [`embedded`] | the publisher with nothing else installed; Idempotency-Key |
//! | [`wake`] | telling consumers of other processes that there is work |
//! | [`ownership`] | one process per shard, by a lock the kernel frees |
//! | [`take`] | when waiting messages become a delivery; pure |
//! | [`source`] | the workers' side: take the next delivery of a shard |
//! | [`tap`] | watching messages without consuming them |
//! | [`progress`] | what of a shard is committed; pure but for loading and storing |
//!
//! # Promises
//! 1. A request is published whole or not at all.
//! 2. When [`Publish::publish`] answers `Ok`, the messages are durable.
//! 3. Offsets of a shard are contiguous, in the order of commits.
//! 4. A shard is consumed by one process at a time; a successor starts within a second of the
//!    owner's death, where the owner's last commit ended.
//! 5. A delivery is one owner's until it is settled; dropped unsettled, it is delivered again.
//! 6. Only a commit of the state environment makes a [`Committed`], and only that settles.

pub mod append;
pub mod embedded;
pub mod frame;
pub mod ownership;
pub mod progress;
pub mod receipt;
pub mod source;
pub mod take;
pub mod tap;
pub mod wake;

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::message::{Lines, OffsetRange, ShardKey};
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
    /// Which offsets the messages got.
    pub receipt: Receipt,
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
    /// Whether it was stored is unknown.
    #[error("it is unknown whether the messages were stored: {0}")]
    Unknown(String),
}

/// Somewhere to publish to.
pub trait Publish: Send + Sync {
    /// Publishes the unit; the answer comes when it is durable, or is refused. A receiver that
    /// closes without an answer means that the process is stopping: the outcome is unknown.
    fn publish(&self, unit: Unit) -> oneshot::Receiver<Result<Published, PublishError>>;
}

/// Where an unsettled delivery goes back to.
pub(crate) trait TakeBack: Send + Sync {
    fn take_back(&self, range: OffsetRange);
}

/// Consecutive messages of one shard, owned by whoever holds this.
pub struct Delivery {
    /// The shard.
    pub key: ShardKey,
    /// Their offsets.
    pub range: OffsetRange,
    /// Their lines, each ended by a newline.
    pub lines: Vec<u8>,
    /// The owner's fencing token: the shard's epoch when it was taken.
    pub epoch: u64,
    home: Option<Arc<dyn TakeBack>>,
}

impl Delivery {
    /// Ends the delivery: its messages are where they belong.
    pub fn settle(mut self, proof: &Committed) {
        // A proof of something else would be a mistake of ours: the delivery then goes back, and
        // the overlap is refused when it is committed again.
        if proof.covers(self.key, self.range) {
            self.home = None;
        }
    }
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Delivery({} {}, epoch {})", self.key, self.range, self.epoch)
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(home) = self.home.take() {
            home.take_back(self.range);
        }
    }
}
