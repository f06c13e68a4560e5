//! Pipes for tasks, one to the workers and one back, whoever carries them: the traits, and what
//! travels.
//!
//! ```text
//!  server  ─ send ──► shared queue, or that of an endpoint ─ take ──► worker
//!     ▲                                                                  │
//!     └──── results ◄──── parts, results, signs of life ◄──── say ───────┘
//!     └──── order ─────► stop these, you are buried ─────► every worker
//! ```
//!
//! # Promises
//! 1. What was sent, or said, without an error is stored by the broker, and comes until it is
//!    acknowledged; more than once, if a connection breaks.
//! 2. A worker says things in the name of its own endpoint only.
//! 3. Of one endpoint, one worker takes at a time. Of the results, one server takes at a time, in
//!    the order in which each worker said them.

use std::fmt;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::task::{Attempt, Beat, Name, Outcome, TaskId, WorkerId};

/// The most bytes of a result that somebody else's program sends or gets in one message.
pub const FOREIGN_BYTES_MAX: usize = 16 << 20;

/// A task on its way to a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskMessage {
    /// The task.
    pub id: TaskId,
    /// The attempt.
    pub attempt: Attempt,
    /// Who knows how to run it.
    pub kind: Name,
    /// The only endpoint that may run it; `None` for any worker.
    pub endpoint: Option<Name>,
    /// Not after, in milliseconds since 1970.
    pub expires_at_ms: Option<i64>,
    /// What to do.
    pub payload: Vec<u8>,
}

/// By what a delivery is acknowledged. One of a connection that was lost means nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag {
    /// Which subscription.
    pub session: u64,
    /// Which delivery of it.
    pub number: u64,
}

/// A task in a worker's hands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// To acknowledge it by.
    pub tag: Tag,
    /// The task. One that somebody else's program has sent has an id that was made for it here,
    /// and attempt 0.
    pub task: TaskMessage,
    /// What the result of somebody else's task is to carry, so that it is known whose it is.
    pub reference: Option<Reference>,
    /// Whether it may have been delivered before.
    pub is_again: bool,
}

/// By what somebody else's program knows its task.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reference {
    /// The correlation id that it sent.
    pub correlation_id: Option<String>,
    /// The message id that it sent.
    pub message_id: Option<String>,
}

/// What a worker says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// A part of a result.
    Part {
        /// The task.
        id: TaskId,
        /// The attempt.
        attempt: Attempt,
        /// Which part, from 0.
        index: u32,
        /// The part.
        bytes: Vec<u8>,
    },
    /// How an attempt ended. The parts of its result were said before.
    Ended {
        /// The task.
        id: TaskId,
        /// The attempt.
        attempt: Attempt,
        /// How.
        outcome: Outcome,
        /// When it began, in milliseconds since 1970.
        began_at_ms: Option<i64>,
        /// When it ended, likewise.
        at_ms: i64,
    },
    /// A sign of life.
    Beat {
        /// Whose.
        worker: WorkerId,
        /// What it runs.
        running: Vec<Beat>,
    },
    /// A worker ends in order, with nothing in hand.
    Retired {
        /// Who.
        worker: WorkerId,
    },
    /// How somebody else's task ended; for its sender, not for our store.
    Reply {
        /// Whose.
        to: Reference,
        /// How.
        outcome: Outcome,
        /// The whole result.
        body: Vec<u8>,
    },
    /// The whole result of one of our tasks, from somebody else's program.
    Foreign {
        /// The task.
        id: TaskId,
        /// The result.
        body: Vec<u8>,
    },
    /// A server's word to itself: what was said before it has been heard.
    Probe {
        /// Which server.
        by: WorkerId,
        /// Which of its probes.
        number: u64,
    },
    /// Nothing that can be understood.
    Unclear {
        /// Why.
        reason: String,
    },
}

/// Something that a worker said, in a server's hands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// To acknowledge it by.
    pub tag: Tag,
    /// The endpoint in whose name it was said; `None`: a worker of the shared queue.
    pub endpoint: Option<Name>,
    /// What.
    pub said: Said,
}

/// What servers tell all workers at once. One that does not hear it learns it later, or never.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// These are not this worker's any more. Another one may run the same attempt, rightfully.
    Stop {
        /// Whose they were.
        worker: WorkerId,
        /// What to stop.
        attempts: Vec<(TaskId, Attempt)>,
    },
    /// This worker was taken for dead: it needs another name.
    Buried(WorkerId),
    /// Whoever drains this endpoint steps back behind another one.
    TakeOver {
        /// The endpoint.
        endpoint: Name,
        /// Who wants it.
        by: WorkerId,
    },
}

/// Why something could not be sent or taken. The same may succeed later, unless it was closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PipeError {
    /// This end was closed.
    #[error("the pipe is closed")]
    Closed,
    /// It was not sent.
    #[error("{0}")]
    Unsent(String),
    /// Whether the broker has it is unknown.
    #[error("it is unknown whether the broker has it: {0}")]
    Unknown(String),
}

/// The worker's ends of the pipes.
pub trait WorkerPipes: Send + Sync + fmt::Debug {
    /// Waits for tasks, and takes some; at least one, and not more than `tasks_max`. May be
    /// dropped while it waits, and loses none.
    ///
    /// While nobody waits here, a worker of the shared queue takes nothing from others.
    fn take(&self, tasks_max: usize) -> BoxFuture<'_, Result<Vec<Taken>, PipeError>>;

    /// These are settled: they do not come again.
    fn acknowledge(&self, tags: Vec<Tag>) -> BoxFuture<'_, ()>;

    /// These are for others to take, or for this worker later.
    fn give_back(&self, tags: Vec<Tag>) -> BoxFuture<'_, ()>;

    /// Says all of it, in order; `Ok` when the broker has confirmed all of it.
    fn say(&self, said: Vec<Said>) -> BoxFuture<'_, Result<(), PipeError>>;

    /// The orders that have come since this was asked last.
    fn orders(&self) -> Vec<Order>;

    /// Changes when there are orders.
    fn news(&self) -> watch::Receiver<u64>;

    /// Steps in the place of whoever drains this worker's endpoint.
    fn take_over(&self) -> BoxFuture<'_, Result<(), PipeError>>;

    /// Ends in order. What was taken and not acknowledged is for others then.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// The server's ends of the pipes.
pub trait ServerPipes: Send + Sync + fmt::Debug {
    /// Whether the broker takes tasks, as far as is known.
    fn is_up(&self) -> bool;

    /// Sends tasks; what became of each, in their order.
    fn send(&self, tasks: Vec<TaskMessage>) -> BoxFuture<'_, Vec<Result<(), PipeError>>>;

    /// How many tasks wait for an endpoint, or for any worker, without those in a worker's hands;
    /// `None` if it is somebody else's queue, where what waits elsewhere is not known.
    fn waiting(&self, endpoint: Option<Name>) -> BoxFuture<'_, Result<Option<u32>, PipeError>>;

    /// Waits for what workers say, and takes some; at least one, and not more than `said_max`.
    fn hear(&self, said_max: usize) -> BoxFuture<'_, Result<Vec<Heard>, PipeError>>;

    /// These are settled: they do not come again.
    fn acknowledge(&self, tags: Vec<Tag>) -> BoxFuture<'_, ()>;

    /// Says something to itself, by way of the broker.
    fn probe(&self, by: WorkerId, number: u64) -> BoxFuture<'_, Result<(), PipeError>>;

    /// Tells all workers.
    fn order(&self, order: Order) -> BoxFuture<'_, Result<(), PipeError>>;

    /// Ends in order.
    fn close(&self) -> BoxFuture<'_, ()>;
}
