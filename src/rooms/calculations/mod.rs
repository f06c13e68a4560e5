//! Calculations: factorials of large numbers, R4's jobs, as tasks.
//!
//! The path of a calculation: [`api`] takes the order, the store keeps it as a task, a worker of
//! this program runs it, or one elsewhere, which tells what came of it by PUT. [`hub`] tells
//! listeners of every change.

pub mod api;
pub mod factorial;
pub mod hub;
mod input;
pub mod item;
pub mod order;
mod outside;
mod partial;
mod socket;
mod spool;
pub mod work;
