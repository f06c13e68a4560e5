//! placeholder
pub mod batch;
pub mod broker;
pub mod cli;
pub mod clock;
pub mod message;
pub mod pool;
pub mod rooms;
pub mod service;
pub mod shard;
pub mod state;
pub mod web;
