//! Spacecraft: ships stream telemetry over UDP, captures receive it, and it is kept by ship.
//!
//! | room | what it holds |
//! |---|---|
//! | [`ship`] | the name of a ship, and the shard it goes to |
//! | [`datagram`] | the wire: one JSON object a datagram, and the line that is stored |
//! | [`ships`] | what is kept of each ship, and how it is shown |
//! | [`order`] | what a capture task is told: the one thing that schedules know of telemetry |

pub mod datagram;
pub mod order;
pub mod ship;
pub mod ships;
