//! The applications. Each is thin, and none knows another.

pub mod messages;
