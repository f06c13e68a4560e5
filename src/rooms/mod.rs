//! The applications. Each is thin, and none knows another.

pub mod calculations;
pub mod messages;
