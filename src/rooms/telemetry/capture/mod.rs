//! Captures: tasks that receive the telemetry of a ship for a while, and have it stored.
//!
//! ```text
//!  order ─► work: begins a stream of the ship ──── ship ────► POST, PUT …, DELETE /stream/
//!             │                                                      │
//!             ▼                                                      ▼ datagrams
//!           account ◄── datagram::read ◄── socket ◄──────────── a port of its own
//!             │              │ lines
//!             ▼              ▼
//!           result         outbox ─► Publish: topic telemetry, the shard of the ship
//! ```
//!
//! | room | what it holds |
//! |---|---|
//! | [`work`] | the kind of task: one capture from start to end |
//! | [`intake`] | from the socket into the account and the outbox |
//! | [`account`] | what became of every datagram; pure |
//! | [`socket`] | taking datagrams in |
//! | [`ship`] | a spaceship's API: a stream that ends when nobody wants it any more |
//! | [`outbox`] | lines on their way into storage |

pub mod account;
pub mod intake;
pub mod outbox;
pub mod ship;
pub mod socket;
pub mod work;
