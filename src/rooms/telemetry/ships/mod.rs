//! What is kept of each ship: how much, when, the latest, and what a chart needs.
//!
//! | room | what it holds |
//! |---|---|
//! | [`companion`] | the account of a batch, written in the transaction that commits it |
//! | `line` | reading a stored line, fast where it is one that our ships send |
//! | `bucket` | count, least, most and sum of the readings of a second or a minute |
//! | [`table`] | the tables: a row per ship, rows per ship and second, and per minute |
//! | [`api`], [`chart`] | `GET /ships`, and the points of a chart |
//! | [`commits`] | the batches of telemetry in the order of their commits |
//! | [`redis`] | pushes what was committed into Redis, if there is one |
//! | [`foreign`] | reads what others publish |

pub mod api;
mod bucket;
pub mod chart;
pub mod commits;
pub mod companion;
pub mod foreign;
mod line;
pub mod redis;
pub mod table;

pub use self::bucket::Bucket;
