//! The applications. Each is thin, and none knows another.

pub mod calculations;
mod errors;
pub mod messages;
pub mod tasks;
pub mod telemetry;
