//! Drains the shards of its topics into files.
//!
//! Which topics there are, and what is done with each, it is handed in ([`TopicPart`]): it knows no
//! application.
//!
//! | room | what it holds |
//! |---|---|
//! | `drain` | takes ownership of shards, recovers them, runs a pool for each, tells history |
//! | `process` | what a worker does with a delivery |

mod drain;
mod process;

use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::batch::Companion;
use crate::batch::disk::Disk;
use crate::batch::journal::JournalRetention;
use crate::batch::name::Compression;
use crate::batch::output::OutputError;
use crate::batch::recovery::RecoveryError;
use crate::broker::Feed;
use crate::broker::take::TakePolicy;
use crate::clock::Clock;
use crate::message::Topic;
use crate::pool::scale::Limits;
use crate::service::Lifecycle;
use crate::service::presence::Presence;
use crate::state::{State, StateError};
pub use process::Processing;

/// What the consumer needs to know.
#[derive(Debug, Clone)]
pub struct ConsumerSettings {
    /// Shards that exist whether or not they hold messages.
    pub shards: NonZeroU16,
    /// Workers per shard.
    pub workers: Limits,
    /// When a batch is due.
    pub policy: TakePolicy,
    /// How files are compressed.
    pub compression: Compression,
    /// How long the journal's rows are kept.
    pub retention: JournalRetention,
    /// Whether to bind a new output directory in place of the one used so far.
    pub adopt_output: bool,
    /// How often the workers' history is logged.
    pub history_every: Duration,
}

/// A topic that is consumed, and what is done with it.
#[derive(Clone)]
pub struct TopicPart {
    topic: Topic,
    processing: Processing,
    companion: Option<Arc<dyn Companion>>,
    is_idle_owned: bool,
}

impl TopicPart {
    /// The topic, its batches processed so; its shards are owned whether or not anything waits.
    #[must_use]
    pub const fn new(topic: Topic, processing: Processing) -> Self {
        Self { topic, processing, companion: None, is_idle_owned: true }
    }

    /// The same, with what else is committed with each of its batches.
    #[must_use]
    pub fn with(self, companion: Arc<dyn Companion>) -> Self {
        Self { companion: Some(companion), ..self }
    }

    /// The same, but a shard is owned, and has threads, only once something waits in it.
    #[must_use]
    pub fn once_it_waits(self) -> Self {
        Self { is_idle_owned: false, ..self }
    }
}

impl std::fmt::Debug for TopicPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TopicPart({})", self.topic.name())
    }
}

/// Why the consumer cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ConsumeError {
    /// The output directory may not be used.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A shard can't be taken over.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// The state environment refused.
    #[error(transparent)]
    State(#[from] StateError),
    /// A lock, a socket or a thread can't be made.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The parts that the consumer is made of; tests bring their own disk and clock.
pub struct Consumer {
    /// The state environment.
    pub state: State,
    /// The output directory.
    pub disk: Arc<dyn Disk>,
    /// Its path, for messages.
    pub output: PathBuf,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The process.
    pub life: Lifecycle,
    /// The topics; what comes under others waits.
    pub topics: Vec<TopicPart>,
    /// The settings.
    pub settings: ConsumerSettings,
    /// What brings messages of a broker elsewhere, if there is one.
    pub feed: Option<Arc<dyn Feed>>,
    /// Where it is said what the workers do.
    pub presence: Presence,
}

impl std::fmt::Debug for Consumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consumer").field("output", &self.output).finish_non_exhaustive()
    }
}
