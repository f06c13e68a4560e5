//! The applications. Each is thin, and none knows another, but that schedules order captures.

pub mod calculations;
mod errors;
pub mod messages;
pub mod schedules;
pub mod tasks;
pub mod telemetry;
