//! Spaceships: streams of telemetry over UDP, begun and stopped over HTTP.
//!
//! | room | what it holds |
//! |---|---|
//! | [`api`] | `/stream/`: R2's requests, and what they lack |
//! | [`entry`] | what is asked of a stream |
//! | [`target`] | where one may go |
//! | [`fleet`] | all of them: how many, and what is remembered |
//! | [`stream`] | one of them: a thread, its lifetime and its lease |
//! | [`pace`] | how many datagrams are due |
//! | [`volley`], [`wire`] | datagrams that are sent in one go, and the socket |
//! | [`metrics`] | what `/metrics` shows of them |
//! | [`active`] | the streams of a spaceship that may be elsewhere |
//! | [`forward`] | `/stream/` at a server, which hands it on to a spaceship |
//!
//! A stream says of each datagram which number it has, counted from 0, and at its end how many the
//! kernel took: so whoever receives can tell what was lost.

pub mod active;
pub mod api;
pub mod entry;
pub mod fleet;
pub mod forward;
pub mod metrics;
pub mod pace;
pub mod stream;
pub mod target;
mod view;
pub mod volley;
pub mod wire;
