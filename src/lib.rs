//! Lands timestamped messages in files, exactly once, runs tasks, and captures the telemetry of
//! spacecraft, with nothing else to install.
//!
//! # Bird's-eye view
//!
//! ```text
//!  POST /message                server                          message-consumer
//!  ────────────► web ─► rooms::messages::{api, entry} ─► broker::embedded
//!                                                             │ one synced transaction
//!                                                             ▼
//!                                         state (LMDB): frames by shard, journal, marks
//!                                                             │ a datagram wakes
//!                                                             ▼
//!                         pool: workers of a shard ─► broker::source ─► Delivery
//!                                                             │
//!                                       batch::writer: stage ─► commit ─► place ─► finish
//!                                                             ▼
//!                                  <output>/2026-11-22/07/000000000042-shard-3-worker-1.jsonl
//! ```
//!
//! With `RABBITMQ_URL` set, queues stand between the two: `broker::rabbitmq` publishes into them,
//! and its bridge takes from them into the state of the consumer's machine; the rest is the same.
//!
//! Tasks go one by one, and come back with a result:
//!
//! ```text
//!  POST /tasks, /factorial          server                                    task-worker
//!  ────────────► rooms::{tasks, calculations} ─► store (SQLite, PostgreSQL): a row
//!                                                    │ claimed, when due
//!                                                    ▼
//!                               tasks: direct ─► engine ─► slots ─► handler of the kind
//!                                                    │
//!  GET /factorial/{id} ◄──────── store: parts, settled ◄─ deliver
//! ```
//!
//! With `RABBITMQ_URL` set, `tasks::dispatch` sends rows through `broker::pipes` to workers, where
//! `tasks::piped` takes them, and `tasks::collect` brings back what they say.
//!
//! Spacecraft need both: what is scheduled is a task, what it captures goes the way of messages.
//!
//! ```text
//!  POST /scheduler/                 scheduler                                message-consumer
//!  ────────────► rooms::schedules ─► store: a schedule and its task ─► tasks::engine
//!                                                                         │ when due
//!                             spaceship               POST /stream/       ▼
//!               rooms::telemetry::spaceship ◄───────────────── rooms::telemetry::capture
//!                           └──────── datagrams over UDP ───────────────► │     │ account
//!                                                                   lines ▼     ▼
//!  GET /ships ◄── rooms::telemetry::ships ◄─ batch ◄─ pool ◄─ broker, state    result
//! ```
//!
//! A person sees and steers all of it at `/`:
//!
//! ```text
//!  browser ── what it looks at ──► page::live ─► page::board ─► a view: state, store, spaceship
//!          ◄─ what changes of it ─      the same drawing for all who look at the same
//!          ── what it does ──────► the API, as everybody
//! ```
//!
//! # Reading tour
//!
//! The modules stand in the order in which a message meets them: [`message`] and [`shard`] say what
//! travels and where to; [`web`] lets it in; [`rooms::messages`] checks it; [`broker`] makes it
//! durable in [`state`]; [`pool`] hands it to a worker; [`batch`] brings it into a file;
//! [`consumer`] drives both. What [`rooms::telemetry`] captures goes the same way, under a topic of
//! its own. Of tasks, [`task`] says what travels, [`rooms::tasks`], [`rooms::calculations`] and
//! [`rooms::schedules`] let them in, [`store`] keeps them, and [`tasks`] runs them. [`page`] shows
//! all of it in a browser. [`cli`] puts the parts together; [`service`] and [`clock`] are what all
//! of them stand on.
//!
//! # Invariants
//!
//! 1. Offsets of a shard are contiguous from 0; each accepted message has one.
//! 2. 201 is sent after the transaction that holds the messages is synced, or the broker has
//!    confirmed all of them; never before.
//! 3. An offset is in at most one batch, and in one that was recorded before its file appeared.
//! 4. Frames are deleted only below the low mark, that is when all of them are in recorded batches.
//! 5. A failed sync is never retried on the same file and never reported as success.
//! 6. One process owns a shard, and each of its batches carries the shard's epoch as fencing token.
//!    Within it one worker owns a delivery: who is too slow loses its claim, and commits nothing.
//! 7. Every queue is bounded; what does not fit is refused where it came in.
//! 8. A task ends in one terminal state. What comes of another attempt than the current one changes
//!    nothing, and no clock decides who is dead: a number of signs of life that stands still does.
//! 9. Of each due time of a schedule one thing is decided, and stored with the task that it starts.
//!    Of a stream's datagrams each is stored, malformed, truncated or lost, never two of it.
//!
//! # Deliberately absent
//!
//! Consumer groups, a broker protocol of our own, replication, plug-ins, network file systems.

pub mod message;
pub mod shard;
pub mod task;

pub mod web;

pub mod rooms;

pub mod page;

pub mod broker;

pub mod state;

pub mod pool;

pub mod batch;

pub mod consumer;

pub mod store;

pub mod tasks;

pub mod service;

pub mod clock;

pub mod cli;
