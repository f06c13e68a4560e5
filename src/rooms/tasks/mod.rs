//! Tasks of any kind: submitted in bulk, listed, cancelled, tried again, and their results.
//!
//! [`api`] reads the requests; [`metrics`] shows how many tasks stand where.

pub mod api;
mod entry;
pub mod metrics;
mod view;
