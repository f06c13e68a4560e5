//! Over RabbitMQ: any number of servers and consumers, on any number of hosts.
//!
//! ```text
//!  server  ─► publisher ─► packets (lines of a shard, with an id) ─► a queue per shard
//!                                  confirmed, mandatory, persistent        │
//!                                                                          ▼
//!  files ◄─ the embedded road ◄─ state (LMDB) ◄─ one transaction ◄─ bridge, then ack
//! ```
//!
//! | room | what it holds |
//! |---|---|
//! | [`address`] | URL, trust, client certificate; one connection |
//! | [`link`] | a connection kept open for ever |
//! | [`topology`] | the queues, and the pinned number of shards |
//! | [`id`] | the name of a packet, by which it counts once |
//! | [`publisher`], `packing`, `lane` | requests become packets, answered when confirmed |
//! | [`bridge`], `intake` | deliveries go into the state environment of the shard's owner |
//! | [`pipes`] | tasks to workers, and their results back |
//! | [`Queues`] | how the broker's queues stand |
//! | [`taken`] | which packets were taken already |
//! | [`doubles`] | which packets two hosts have both taken |
//! | [`greeting`], [`inspect`], [`management`] | what a broker is and how it stands, for `doctor` |
//!
//! The shard's lock of the state directory is taken before its queue is subscribed to, so on one
//! host a shard is drained once. Across hosts the broker's single active consumer sees to that;
//! what one host has taken and not acknowledged when it is cut off, another takes again.

pub mod address;
pub mod bridge;
mod dial;
pub mod doubles;
mod error;
pub mod greeting;
pub mod id;
pub mod inspect;
mod intake;
mod lane;
pub mod link;
pub mod management;
mod packing;
pub mod pipes;
pub mod publisher;
mod queues;
pub mod taken;
pub mod topology;

pub use error::{BrokerError, Doing};
pub use intake::Check;
pub use queues::{QueueView, Queues};
