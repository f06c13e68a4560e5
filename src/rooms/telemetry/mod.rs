//! Spacecraft: ships stream telemetry over UDP, captures receive it, and it is kept by ship.
//!
//! | room | what it holds |
//! |---|---|
//! | [`ship`] | the name of a ship, and the shard it goes to |
//! | [`datagram`] | the wire: one JSON object a datagram, and the line that is stored |
//! | [`capture`] | receives what a ship streams, and has it stored |
//! | [`ships`] | what is kept of each ship, and how it is shown |
//! | [`order`] | what a capture task is told: the one thing that schedules know of telemetry |
//! | [`spaceship`] | streams over UDP, begun and stopped over HTTP |
//! | [`road`] | how requests reach a spaceship |

pub mod capture;
pub mod datagram;
pub mod order;
pub mod road;
pub mod ship;
pub mod ships;
pub mod spaceship;
