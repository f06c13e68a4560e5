//! The applications. Each is thin, and none knows another, but that schedules order captures.
//!
//! [`watch`] tells of all that travels, messages and telemetry, when it stands still.

pub mod calculations;
mod errors;
pub mod messages;
pub mod schedules;
pub mod tasks;
pub mod telemetry;
pub mod watch;
